"""The S3 server of the benchmarks with faults, in a process of its own: a rule says which requests go wrong, and how.

Rules are set from outside while it runs (:meth:`FaultServer.faults`). Faults, of a request that a rule picks:

``error``       the answer is `status` with S3's error document of `code`
``reset``       the connection is reset in place of an answer
``cut``         the connection is reset as soon as the head of the request is there, whatever of its body is missing
``stall``       nothing is answered for `seconds`, then the connection is closed
``reset_body``  half of the answer is sent, then the connection is reset
``truncate``    half of the answer's body is sent, under a Content-Length of all of it, then the connection is closed
``short``       half of the answer's body is sent, and every header agrees with that
``slow``        the answer's body comes in pieces over `seconds`

No rule hits the requests of a client whose user agent is UNHARMED. With ``"stored": true`` the first four carry the request out before
they fail: an acknowledgement that is lost.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import re
import socket
import struct
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # tests find them by pytest's settings
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from s3http import Connection, Reply, Request
from s3server import HOST, Server
from s3verbs import Bucket, ObjectServer, xml

UNHARMED = "unharmed"
"""A user agent whose requests no rule hits and no log tells of."""
MESSAGES = {
    "InternalError": "We encountered an internal error. Please try again.",
    "SlowDown": "Please reduce your request rate.",
    "AccessDenied": "Access Denied",
}
"""What S3 says beside a code: some clients pass on this alone."""
FAULTS = ("error", "reset", "cut", "stall", "reset_body", "truncate", "short", "slow")


@dataclass
class Rule:
    """Which requests go wrong, and how."""

    fault: str  # one of FAULTS
    verb: str = ""  # names with commas between them; LIST is a GET of a bucket; empty: all
    key: str = ""  # a regular expression that is looked for in the key (of LIST: in its prefix)
    first: int = 1  # of the requests that match, the number of the first that goes wrong (from 1),
    count: int | None = 1  # and how many do; None: all that follow
    stored: bool = False  # carry the request out, then fail
    status: int = 500  # of an ``error``
    code: str = "InternalError"
    seconds: float = 3600.0  # of a ``stall`` or ``slow``
    seen: int = 0
    fired: int = 0

    def __post_init__(self) -> None:
        if self.fault not in FAULTS:
            raise ValueError(f"fault is one of {FAULTS}, not {self.fault!r}")

    def picks(self, verb: str, key: str) -> bool:
        """Count a request, and tell whether it goes wrong."""
        if (self.verb and verb not in self.verb.split(",")) or not re.search(self.key, key):
            return False
        self.seen += 1
        if self.seen < self.first or (self.count is not None and self.seen >= self.first + self.count):
            return False
        self.fired += 1
        return True


class FaultyServer(ObjectServer):
    """The verbs of S3, and the rules."""

    def __init__(self) -> None:
        super().__init__()
        self.rules: list[Rule] = []
        self.log: list[tuple[str, str, str | None]] = []
        self._saved: dict[str, dict[str, Any]] = {}

    def choose(self, request: Request, *, at_head: bool) -> Rule | None:
        """Return the rule that a request falls to; ``cut`` is asked for when the head is there, all others with the body."""
        verb, key = verb_and_key(request)
        found = None
        if request.headers.get("user-agent") == UNHARMED:
            return None
        for rule in self.rules:
            if (rule.fault == "cut") == at_head and rule.picks(verb, key):
                found = found or rule
        if found is not None or not at_head:
            self.log.append((verb, key, found.fault if found else None))
        return found

    def control(self, request: Request) -> Reply:
        if request.path == "/__faults":
            if request.method == "POST":
                self.rules = [Rule(**rule) for rule in json.loads(request.body)]
                self.log = []
            return as_json([asdict(rule) for rule in self.rules])
        if request.path == "/__log":
            return as_json(self.log)
        if request.path == "/__dump":
            found = self.buckets[request.query["bucket"]].objects
            return as_json({key: base64.b64encode(item.body).decode() for key, item in found.items()})
        if request.path == "/__save":
            self._saved[request.query["name"]] = {name: dict(bucket.objects) for name, bucket in self.buckets.items()}
            return as_json(None)
        if request.path == "/__restore":
            self.buckets.clear()
            for name, objects in self._saved[request.query["name"]].items():
                self.buckets[name] = Bucket()
                for key, item in objects.items():
                    self.buckets[name].put(key, item)
            return as_json(None)
        return super().control(request)


def verb_and_key(request: Request) -> tuple[str, str]:
    _, _, key = request.path[1:].partition("/")
    if not key and request.method == "GET":
        return "LIST", request.query.get("prefix", "")
    return request.method, key


def as_json(value: Any) -> Reply:
    return Reply(200, json.dumps(value).encode(), (("Content-Type", "application/json"),))


class _Recorder:
    """Takes what a connection would send."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> None:
        self.data += data

    def close(self) -> None:
        pass


class FaultyConnection(Connection):
    """A connection on which some requests go wrong."""

    _service: FaultyServer
    _looked_at: Request | None = None

    def _read_request(self) -> Request | None:
        request = super()._read_request()
        head = request or self._request
        if head is not None and head is not self._looked_at and not head.path.startswith("/__"):
            self._looked_at = head
            rule = self._service.choose(head, at_head=True)
            if rule is not None:
                if rule.stored and request is not None:
                    self._service.answer(request)
                self._reset()
                return None
        return request

    def _start(self, request: Request) -> None:
        rule = None if request.path.startswith("/__") else self._service.choose(request, at_head=False)
        if rule is None:
            super()._start(request)
            return
        self._busy = True
        self._service.arrived()
        reply = None
        if rule.stored or rule.fault not in ("error", "reset", "stall"):
            reply = self._service.answer(request)
        if rule.fault == "stall":
            self._loop.call_later(rule.seconds, self._fail, request, rule, reply)
        else:
            self._loop.call_soon(self._fail, request, rule, reply)

    def _fail(self, request: Request, rule: Rule, reply: Reply | None) -> None:
        self._busy = False
        self._service.left()
        if self._transport is None:
            return
        if rule.fault == "error":
            text = f"<Error><Code>{rule.code}</Code><Message>{MESSAGES.get(rule.code, 'on purpose')}</Message></Error>"
            self._send(Reply(rule.status) if request.method == "HEAD" else xml(text, rule.status), request.keep_alive)
            self._advance()
        elif rule.fault == "reset":
            self._reset()
        elif rule.fault == "stall":
            self._transport.close()
            self._transport = None
        else:
            assert reply is not None
            self._answer_badly(reply, rule, request.keep_alive)

    def _answer_badly(self, reply: Reply, rule: Rule, keep_alive: bool) -> None:
        if rule.fault == "short":
            self._send(shortened(reply), keep_alive)
            self._advance()
            return
        whole = self._rendered(reply, keep_alive)
        body = len(reply.body)
        assert self._transport is not None
        if rule.fault == "slow":
            self._busy = True
            pieces = 8
            size = -(-len(whole) // pieces)
            for i in range(pieces):
                last = i == pieces - 1
                self._loop.call_later(rule.seconds * i / pieces, self._send_piece, whole[i * size : (i + 1) * size], last)
            return
        sent = len(whole) - (body + 1) // 2 if body else len(whole) // 2
        self._transport.write(whole[:sent])
        if rule.fault == "truncate":
            self._transport.close()
            self._transport = None
        else:  # what was written leaves before the reset
            transport, self._transport = self._transport, None
            self._loop.call_later(0.01, reset, transport)

    def _send_piece(self, data: bytes, last: bool) -> None:
        if self._transport is not None:
            self._transport.write(data)
            if last:
                self._busy = False
                self._advance()

    def _rendered(self, reply: Reply, keep_alive: bool) -> bytes:
        transport, recorder = self._transport, _Recorder()
        self._transport = recorder  # type: ignore[assignment]
        self._send(reply, keep_alive)
        self._transport = transport
        return bytes(recorder.data)

    def _reset(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            reset(transport)


def reset(transport: asyncio.Transport) -> None:
    """End a connection with a TCP reset."""
    found = transport.get_extra_info("socket")
    if found is not None and not transport.is_closing():
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def shortened(reply: Reply) -> Reply:
    """Return an answer of half the bytes that says so of itself: as if the object were no longer."""
    half = len(reply.body) // 2
    headers = []
    for name, value in reply.headers:
        if name == "Content-Range":
            start = int(value.removeprefix("bytes ").partition("-")[0])
            value = f"bytes {start}-{start + half - 1}/{start + half}"
        headers.append((name, value))
    length = None if reply.length is None else reply.length // 2
    return Reply(reply.status, bytes(reply.body[:half]), tuple(headers), length)


@dataclass(frozen=True, slots=True)
class FaultServer(Server):
    """A running server, seen from the process that started it."""

    def faults(self, *rules: dict[str, Any]) -> None:
        """Set the rules (none: nothing goes wrong any more) and forget the log."""
        self.ask("faults", json.dumps(rules).encode())

    def fired(self) -> int:
        """Return how many requests went wrong since the rules were set."""
        return sum(rule["fired"] for rule in self.ask("faults"))

    def log(self) -> list[list[Any]]:
        """Return [verb, key, fault or None] of every request since the rules were set."""
        found: list[list[Any]] = self.ask("log")
        return found

    def dump(self, prefix: str = "", bucket: str = "bucket") -> dict[str, bytes]:
        """Return the stored objects below a prefix, by the rest of their keys; no fault hits this."""
        found = self.ask(f"dump?bucket={bucket}")
        return {k.removeprefix(prefix): base64.b64decode(v) for k, v in found.items() if k.startswith(prefix)}

    def save(self, name: str) -> None:
        """Keep what is stored under a name."""
        self.ask(f"save?name={name}")

    def restore(self, name: str) -> None:
        """Store again what was kept, with the same ETags and times."""
        self.ask(f"restore?name={name}")

    def ask(self, what: str, body: bytes | None = None) -> Any:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self.endpoint}/__{what}", data=body, timeout=30) as reply:
            return json.load(reply)


@contextlib.contextmanager
def serve_faults() -> Iterator[FaultServer]:
    """Run a server in a process of its own for the length of a ``with`` block."""
    command = [sys.executable, str(Path(__file__).resolve())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line.strip().isdigit():
                raise RuntimeError(f"the server did not start (exit status {process.wait(timeout=10)})")
            yield FaultServer(int(line), process.pid)
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()


async def run(port: int) -> None:
    """Listen on loopback, print the port, and serve until stdin closes: with the parent, however that ends."""
    loop = asyncio.get_running_loop()
    server = FaultyServer()
    listener = await loop.create_server(lambda: FaultyConnection(server, loop), HOST, port, backlog=4096)
    print(listener.sockets[0].getsockname()[1], flush=True)
    stop = asyncio.Event()

    def watch() -> None:
        sys.stdin.buffer.read()
        loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=watch, daemon=True).start()
    await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="An S3 server in memory whose faults are set by rules.")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 (default) takes a free one")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(parser.parse_args().port))


if __name__ == "__main__":
    main()
