"""The verbs of S3 over dictionaries, for the benchmark server; nothing here knows of sockets."""

from __future__ import annotations

import base64
import bisect
import collections
import hashlib
import itertools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any
from urllib.parse import quote, unquote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from s3http import Reply, Request

LIST_PAGE = 1000


@dataclass(frozen=True, slots=True)
class StoredObject:
    """The bytes of one object and the headers that come back with them."""

    body: bytes
    etag: str
    modified: float
    headers: tuple[tuple[str, str], ...] = ()


class Bucket:
    """Objects by key; the order of the keys is made when a listing asks for it."""

    def __init__(self) -> None:
        self.objects: dict[str, StoredObject] = {}
        self._keys: list[str] | None = []

    def put(self, key: str, value: StoredObject) -> None:
        if key not in self.objects:
            self._keys = None
        self.objects[key] = value

    def delete(self, key: str) -> None:
        if self.objects.pop(key, None) is not None:
            self._keys = None

    def keys(self) -> list[str]:
        """All keys in the order of S3: by their UTF-8 bytes, which is Python's order of strings."""
        if self._keys is None:
            self._keys = sorted(self.objects)
        return self._keys


@dataclass(slots=True)
class Upload:
    """A multipart upload that is not complete yet."""

    bucket: str
    key: str
    headers: tuple[tuple[str, str], ...]
    parts: dict[int, bytes] = field(default_factory=dict)


class S3Error(Exception):
    """An error that S3 answers as an XML document."""

    def __init__(self, status: int, code: str, message: str = "") -> None:
        super().__init__(message or code)
        self.status = status
        self.code = code


def xml(text: str, status: int = 200) -> Reply:
    return Reply(status, f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode(), (("Content-Type", "application/xml"),))


def iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(seconds))


def etag_of(body: bytes) -> str:
    return f'"{hashlib.sha1(body, usedforsecurity=False).hexdigest()[:32]}"'  # opaque to clients, and fast


def names_etag(condition: str, etag: str) -> bool:
    """Does an ``If-Match`` or ``If-None-Match`` name this ETag? As with S3, the quotes may be missing (icechunk)."""
    return condition == "*" or etag.strip('"') in [item.strip().strip('"') for item in condition.split(",")]


def parse_range(text: str, size: int) -> tuple[int, int] | None:
    """The half-open range that a ``Range`` header asks for; None where S3 sends the whole object."""
    unit, _, spec = text.partition("=")
    first, dash, last = spec.strip().partition("-")
    if unit != "bytes" or not dash or "," in spec:
        return None
    try:
        if first:
            start, stop = int(first), min(int(last) + 1, size) if last else size
        else:
            start, stop = max(size - int(last), 0), size
    except ValueError:
        return None
    if start >= size or start >= stop:
        raise S3Error(416, "InvalidRange")
    return start, stop


class ObjectServer:
    """Buckets, uploads, counters, and a method per verb."""

    def __init__(self, latency: float = 0.0) -> None:
        self.latency = latency
        self.buckets: collections.defaultdict[str, Bucket] = collections.defaultdict(Bucket)
        self.uploads: dict[str, Upload] = {}
        self._upload_ids = itertools.count(1)
        self.in_flight = 0
        self.max_in_flight = 0
        self.reset()

    def arrived(self) -> None:
        """A request is here, and waits."""
        if self.in_flight == 0:
            self._busy_since = time.perf_counter()
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)

    def left(self) -> None:
        """A request has waited long enough."""
        self.in_flight -= 1
        if self.in_flight == 0:
            self.busy_seconds += time.perf_counter() - self._busy_since

    def reset(self) -> None:
        self.busy_seconds = 0.0
        self._busy_since = time.perf_counter()
        self.requests: collections.Counter[str] = collections.Counter()
        self.bytes_in = 0
        self.bytes_out = 0
        self.max_in_flight = self.in_flight

    def stats(self) -> dict[str, Any]:
        stored = [item for bucket in self.buckets.values() for item in bucket.objects.values()]
        return {
            "requests": self.requests.total(),
            "by_operation": dict(sorted(self.requests.items())),
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "busy_seconds": self.busy_seconds,
            "objects": len(stored),
            "stored_bytes": sum(len(item.body) for item in stored),
            "latency_ms": self.latency * 1000,
        }

    def control(self, request: Request) -> Reply:
        """Answer one of the control endpoints."""
        if request.path == "/__reset":
            self.reset()
        elif request.path == "/__clear":
            self.buckets.clear()
            self.uploads.clear()
        elif request.path == "/__latency":
            try:
                latency = float(request.query.get("ms", "")) / 1000
            except ValueError:
                latency = -1.0
            if not 0 <= latency <= 3600:
                return Reply(400, b"ms must be a number of milliseconds\n")
            self.latency = latency
        elif request.path != "/__stats":
            return Reply(404, b"no such control endpoint\n")
        return Reply(200, json.dumps(self.stats()).encode(), (("Content-Type", "application/json"),))

    def answer(self, request: Request) -> Reply:
        """Do what the request says and count it."""
        bucket, _, key = request.path[1:].partition("/")
        operation, handler = self._route(request, bucket, key)
        self.requests[operation] += 1
        self.bytes_in += len(request.body)
        try:
            reply = handler(request, bucket, key)
        except S3Error as error:
            reply = xml(
                f"<Error><Code>{error.code}</Code><Message>{escape(str(error))}</Message>"
                f"<Resource>{escape(request.path)}</Resource></Error>",
                error.status,
            )
        if request.method == "HEAD":
            reply.length = len(reply.body) if reply.length is None else reply.length
            reply.body = b""
        self.bytes_out += len(reply.body)
        return reply

    def _route(self, request: Request, bucket: str, key: str) -> tuple[str, Callable[[Request, str, str], Reply]]:
        method, query = request.method, request.query
        if not bucket:
            return "OTHER", self._unsupported
        if not key:
            if method == "POST" and "delete" in query:
                return "BULK_DELETE", self._delete_many
            if method == "GET" and "location" not in query:
                return "LIST", self._list
            return "BUCKET", self._bucket if method in ("GET", "HEAD", "PUT", "DELETE") else self._unsupported
        if "uploads" in query or "uploadId" in query:
            return "MULTIPART", self._multipart
        match method:
            case "GET" | "HEAD":
                return method, self._get
            case "PUT":
                return ("COPY", self._copy) if "x-amz-copy-source" in request.headers else ("PUT", self._put)
            case "DELETE":
                return "DELETE", self._delete
        return "OTHER", self._unsupported

    def _unsupported(self, request: Request, bucket: str, key: str) -> Reply:
        raise S3Error(501, "NotImplemented", f"{request.method} {request.path} is not something this server does")

    def _bucket(self, request: Request, bucket: str, key: str) -> Reply:
        if "location" in request.query:
            return xml('<LocationConstraint xmlns="http://s3.amazonaws.com/doc/2006-03-01/"/>')
        return Reply(204 if request.method == "DELETE" else 200)

    def _find(self, bucket: str, key: str) -> StoredObject:
        found = self.buckets[bucket].objects.get(key)
        if found is None:
            raise S3Error(404, "NoSuchKey", "The specified key does not exist.")
        return found

    def _get(self, request: Request, bucket: str, key: str) -> Reply:
        found = self._find(bucket, key)
        headers = (
            ("ETag", found.etag),
            ("Last-Modified", formatdate(found.modified, usegmt=True)),
            ("Accept-Ranges", "bytes"),
            *found.headers,
        )
        if not names_etag(request.headers.get("if-match", "*"), found.etag):
            raise S3Error(412, "PreconditionFailed")
        if names_etag(request.headers.get("if-none-match", ""), found.etag):
            return Reply(304, headers=headers)
        size = len(found.body)
        wanted = parse_range(request.headers["range"], size) if "range" in request.headers else None
        if wanted is None:
            return Reply(200, found.body, headers)
        start, stop = wanted
        return Reply(206, memoryview(found.body)[start:stop], (*headers, ("Content-Range", f"bytes {start}-{stop - 1}/{size}")))

    def _store(
        self, request: Request, bucket: str, key: str, body: bytes, headers: tuple[tuple[str, str], ...]
    ) -> StoredObject:
        """Store an object if the conditions of the request hold."""
        present = self.buckets[bucket].objects.get(key)
        if request.headers.get("if-none-match") == "*" and present is not None:
            raise S3Error(412, "PreconditionFailed", "The object exists.")
        if "if-match" in request.headers:
            if present is None:
                raise S3Error(404, "NoSuchKey")
            if not names_etag(request.headers["if-match"], present.etag):
                raise S3Error(412, "PreconditionFailed", "The object has another ETag.")
        value = StoredObject(body, etag_of(body), time.time(), headers)
        self.buckets[bucket].put(key, value)
        return value

    def _put(self, request: Request, bucket: str, key: str) -> Reply:
        value = self._store(request, bucket, key, request.body, kept_headers(request))
        return Reply(200, headers=(("ETag", value.etag),))

    def _copy(self, request: Request, bucket: str, key: str) -> Reply:
        source = unquote(request.headers["x-amz-copy-source"].partition("?")[0]).lstrip("/")
        from_bucket, _, from_key = source.partition("/")
        found = self._find(from_bucket, from_key)
        value = self._store(request, bucket, key, found.body, found.headers)
        return xml(
            f"<CopyObjectResult><LastModified>{iso(value.modified)}</LastModified>"
            f"<ETag>{escape(value.etag)}</ETag></CopyObjectResult>"
        )

    def _delete(self, request: Request, bucket: str, key: str) -> Reply:
        self.buckets[bucket].delete(key)
        return Reply(204)

    def _delete_many(self, request: Request, bucket: str, key: str) -> Reply:
        keys = []
        for item in parse_xml(request.body).iterfind("{*}Object"):
            name = item.findtext("{*}Key")
            if name is None:
                raise S3Error(400, "MalformedXML", "an Object without a Key")
            keys.append(name)
        for name in keys:
            self.buckets[bucket].delete(name)
        deleted = "".join(f"<Deleted><Key>{escape(name)}</Key></Deleted>" for name in keys)
        return xml(f'<DeleteResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{deleted}</DeleteResult>')

    def _multipart(self, request: Request, bucket: str, key: str) -> Reply:
        if "uploads" in request.query and request.method == "POST":
            upload_id = f"upload-{next(self._upload_ids)}"
            self.uploads[upload_id] = Upload(bucket, key, kept_headers(request))
            return xml(
                f"<InitiateMultipartUploadResult><Bucket>{escape(bucket)}</Bucket><Key>{escape(key)}</Key>"
                f"<UploadId>{upload_id}</UploadId></InitiateMultipartUploadResult>"
            )
        upload_id = request.query.get("uploadId", "")
        upload = self.uploads.get(upload_id)
        if upload is None or (upload.bucket, upload.key) != (bucket, key):
            raise S3Error(404, "NoSuchUpload")
        match request.method:
            case "PUT":
                number = request.query.get("partNumber", "")
                if not number.isdecimal():
                    raise S3Error(400, "InvalidArgument", "partNumber must be a number")
                upload.parts[int(number)] = request.body
                return Reply(200, headers=(("ETag", etag_of(request.body)),))
            case "DELETE":
                del self.uploads[upload_id]
                return Reply(204)
            case "POST":
                named = parse_xml(request.body).iterfind("{*}Part/{*}PartNumber")
                numbers = [int(text) if (text := part.text or "").isdecimal() else -1 for part in named]
                if not numbers or not upload.parts.keys() >= set(numbers):
                    raise S3Error(400, "InvalidPart")
                value = self._store(request, bucket, key, b"".join(upload.parts[n] for n in numbers), upload.headers)
                del self.uploads[upload_id]
                return xml(
                    f"<CompleteMultipartUploadResult><Bucket>{escape(bucket)}</Bucket><Key>{escape(key)}</Key>"
                    f"<ETag>{escape(value.etag)}</ETag></CompleteMultipartUploadResult>"
                )
        return self._unsupported(request, bucket, key)

    def _list(self, request: Request, bucket: str, key: str) -> Reply:
        query = request.query
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        limit = query.get("max-keys", str(LIST_PAGE))
        if query.get("list-type") != "2" or not limit.isdecimal():
            raise S3Error(400, "InvalidArgument", "only ListObjectsV2 with a max-keys that is a number")
        after = query.get("start-after", "")
        if "continuation-token" in query:
            try:
                after = base64.urlsafe_b64decode(query["continuation-token"]).decode()
            except ValueError:
                raise S3Error(400, "InvalidArgument", "not a continuation token of this server") from None
        objects = self.buckets[bucket].objects
        entries, more = list_page(self.buckets[bucket].keys(), prefix, delimiter, after, min(int(limit), LIST_PAGE))

        def text(name: str) -> str:
            return quote(name) if query.get("encoding-type") == "url" else escape(name)

        parts = [
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{escape(bucket)}</Name><Prefix>{text(prefix)}</Prefix><Delimiter>{text(delimiter)}</Delimiter>"
            f"<MaxKeys>{limit}</MaxKeys><KeyCount>{len(entries)}</KeyCount><IsTruncated>{str(more).lower()}</IsTruncated>"
        ]
        if query.get("encoding-type") == "url":
            parts.append("<EncodingType>url</EncodingType>")
        if more:
            token = base64.urlsafe_b64encode(entries[-1][0].encode()).decode()
            parts.append(f"<NextContinuationToken>{token}</NextContinuationToken>")
        for name, is_prefix in entries:
            if is_prefix:
                parts.append(f"<CommonPrefixes><Prefix>{text(name)}</Prefix></CommonPrefixes>")
                continue
            item = objects[name]
            parts.append(
                f"<Contents><Key>{text(name)}</Key><LastModified>{iso(item.modified)}</LastModified>"
                f"<ETag>{escape(item.etag)}</ETag><Size>{len(item.body)}</Size>"
                "<StorageClass>STANDARD</StorageClass></Contents>"
            )
        parts.append("</ListBucketResult>")
        return xml("".join(parts))


def kept_headers(request: Request) -> tuple[tuple[str, str], ...]:
    """The headers of a PUT that S3 stores with the object."""
    return tuple(
        (name, value) for name, value in request.headers.items() if name == "content-type" or name.startswith("x-amz-meta-")
    )


def parse_xml(body: bytes) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(body)
    except ElementTree.ParseError as error:
        raise S3Error(400, "MalformedXML", str(error)) from None


def list_page(keys: list[str], prefix: str, delimiter: str, after: str, limit: int) -> tuple[list[tuple[str, bool]], bool]:
    """One page of a listing: (name, is it a common prefix) in order, and whether more follow.

    ``after`` is the last name of the page before: a key, or a common prefix, whose keys are then all skipped.
    """
    entries: list[tuple[str, bool]] = []
    if limit == 0:
        return entries, False
    skipped = after if delimiter and after.startswith(prefix) and after.endswith(delimiter) else None
    at = max(bisect.bisect_left(keys, prefix), bisect.bisect_right(keys, after) if after else 0)
    while at < len(keys) and keys[at].startswith(prefix):
        name = keys[at]
        cut = name.find(delimiter, len(prefix)) if delimiter else -1
        group = name[: cut + len(delimiter)] if cut >= 0 else None
        if group is not None and group == skipped:
            at = bisect.bisect_left(keys, group + "\U0010ffff", at)
            continue
        if len(entries) == limit:
            return entries, True
        if group is None:
            entries.append((name, False))
            at += 1
        else:
            entries.append((group, True))
            at = bisect.bisect_left(keys, group + "\U0010ffff", at)
    return entries, False
