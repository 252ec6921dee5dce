"""HTTP/1.1 for the benchmark server: an asyncio protocol that reads requests, waits, and sends replies."""

from __future__ import annotations

import asyncio
import http
from dataclasses import dataclass
from typing import Protocol, cast
from urllib.parse import parse_qsl, unquote

LARGEST_HEAD = 64 * 1024
LARGEST_BODY = 5 * 2**30


@dataclass(slots=True)
class Request:
    """One parsed request; the names of ``headers`` are in lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    keep_alive: bool
    body: bytes = b""


@dataclass(slots=True)
class Reply:
    """Status, body and headers of an answer; ``length`` is what a HEAD promises instead of sending."""

    status: int = 200
    body: bytes | memoryview = b""
    headers: tuple[tuple[str, str], ...] = ()
    length: int | None = None


class BadRequestError(Exception):
    """The bytes on the connection are not a request that this server understands."""


class Service(Protocol):
    """Answers requests, ``latency`` seconds after they came; paths that start with ``/__`` go to ``control``."""

    latency: float

    def answer(self, request: Request) -> Reply: ...

    def control(self, request: Request) -> Reply: ...

    def arrived(self) -> None: ...

    def left(self) -> None: ...


def parse_head(head: bytes) -> Request:
    """Parse the request line and the headers (without the empty line)."""
    line, *fields = head.decode("latin-1").split("\r\n")
    words = line.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1.") or not words[1].startswith("/"):
        raise BadRequestError("not an HTTP/1.1 request line")
    headers = {}
    for text in fields:
        name, colon, value = text.partition(":")
        if not colon:
            raise BadRequestError("a header without a colon")
        headers[name.lower()] = value.strip()
    path, _, query = words[1].partition("?")
    keep_alive = headers.get("connection", "").lower() != "close" and words[2] != "HTTP/1.0"
    pairs = dict(parse_qsl(query, keep_blank_values=True)) if query else {}
    return Request(words[0], unquote(path) if "%" in path else path, pairs, headers, keep_alive)


class FixedBody:
    """A body of a known length."""

    def __init__(self, length: int) -> None:
        self._length = length

    def feed(self, buffer: bytearray) -> bytes | None:
        """Take the body off the front of the buffer once it is whole."""
        if len(buffer) < self._length:
            return None
        body = bytes(memoryview(buffer)[: self._length])
        del buffer[: self._length]
        return body


class ChunkedBody:
    """A body in chunks of ``<hex size>[;extension]``: that of HTTP, and aws-chunked (the extension is a signature)."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._ended = False

    def feed(self, buffer: bytearray) -> bytes | None:
        """Take whole chunks off the front of the buffer; the body, once the last chunk and its trailers are read."""
        at = 0
        try:
            while True:
                end = buffer.find(b"\r\n", at, at + LARGEST_HEAD)
                if end < 0:
                    if len(buffer) - at >= LARGEST_HEAD:
                        raise BadRequestError("a chunk's header is too long")
                    return None
                if self._ended:
                    done = end == at
                    at = end + 2
                    if done:
                        return b"".join(self._parts)
                    continue
                try:
                    size = int(bytes(buffer[at:end]).partition(b";")[0], 16)
                except ValueError:
                    raise BadRequestError("a chunk without a size") from None
                if size == 0:
                    self._ended = True
                    at = end + 2
                    continue
                start, stop = end + 2, end + 2 + size
                self._size += size
                if size < 0 or self._size > LARGEST_BODY:
                    raise BadRequestError("the body is too large")
                if len(buffer) < stop + 2:
                    self._size -= size
                    return None
                if buffer[stop : stop + 2] != b"\r\n":
                    raise BadRequestError("a chunk that is longer than its size")
                self._parts.append(bytes(memoryview(buffer)[start:stop]))
                at = stop + 2
        finally:
            del buffer[:at]


def decode_aws_chunked(body: bytes) -> bytes:
    """Undo the aws-chunked encoding of a whole body; its end may lack the last empty line."""
    decoded = ChunkedBody().feed(bytearray(body + b"\r\n"))
    if decoded is None:
        raise BadRequestError("an aws-chunked body that ends early")
    return decoded


def is_aws_chunked(headers: dict[str, str]) -> bool:
    return "aws-chunked" in headers.get("content-encoding", "") or headers.get("x-amz-content-sha256", "").startswith(
        "STREAMING-"
    )


class Connection(asyncio.Protocol):
    """One client connection: it reads a request, waits the latency, answers, then reads the next."""

    def __init__(self, service: Service, loop: asyncio.AbstractEventLoop) -> None:
        self._service = service
        self._loop = loop
        self._buffer = bytearray()
        self._request: Request | None = None  # whose body is being read
        self._body: FixedBody | ChunkedBody | None = None
        self._busy = False  # a request waits for its answer
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._advance()

    def _advance(self) -> None:
        try:
            while not self._busy and self._transport is not None:
                request = self._read_request()
                if request is None:
                    return
                self._start(request)
        except BadRequestError as error:
            self._send(Reply(400, f"{error}\n".encode()), keep_alive=False)

    def _read_request(self) -> Request | None:
        """Take one whole request off the buffer, or None until more bytes come."""
        if self._request is None:
            end = self._buffer.find(b"\r\n\r\n", 0, LARGEST_HEAD)
            if end < 0:
                if len(self._buffer) >= LARGEST_HEAD:
                    raise BadRequestError("the headers are too long")
                return None
            request = parse_head(bytes(memoryview(self._buffer)[:end]))
            del self._buffer[: end + 4]
            self._request = request
            if "chunked" in request.headers.get("transfer-encoding", "").lower():
                self._body = ChunkedBody()
            else:
                length = request.headers.get("content-length", "0")
                if not length.isdecimal() or int(length) > LARGEST_BODY:
                    raise BadRequestError("Content-Length is not a possible length")
                self._body = FixedBody(int(length))
            if request.headers.get("expect", "").lower() == "100-continue" and self._transport is not None:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert self._body is not None
        body = self._body.feed(self._buffer)
        if body is None:
            return None
        request, self._request, self._body = self._request, None, None
        request.body = decode_aws_chunked(body) if is_aws_chunked(request.headers) else body
        return request

    def _start(self, request: Request) -> None:
        if request.path.startswith("/__"):
            self._send(self._service.control(request), request.keep_alive)
            return
        self._busy = True
        self._service.arrived()
        if self._service.latency > 0:
            self._loop.call_later(self._service.latency, self._finish, request)
        else:
            self._loop.call_soon(self._finish, request)  # so that max_in_flight sees what arrived together

    def _finish(self, request: Request) -> None:
        self._busy = False
        self._service.left()
        self._send(self._service.answer(request), request.keep_alive)
        self._advance()

    def _send(self, reply: Reply, keep_alive: bool) -> None:
        if self._transport is None:  # the client gave up
            return
        status = http.HTTPStatus(reply.status)
        lines = [f"HTTP/1.1 {reply.status} {status.phrase}"]
        lines += [f"{name}: {value}" for name, value in reply.headers]
        if reply.status not in (204, 304):
            lines.append(f"Content-Length: {len(reply.body) if reply.length is None else reply.length}")
        if not keep_alive:
            lines.append("Connection: close")
        lines.append("\r\n")
        head = "\r\n".join(lines).encode("latin-1")
        if len(reply.body) < 64 * 1024:
            self._transport.write(head + reply.body)
        else:
            self._transport.write(head)
            self._transport.write(reply.body)
        if not keep_alive:
            self._transport.close()
            self._transport = None
