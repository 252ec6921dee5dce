"""The S3 server of the benchmarks does what obstore and s3fs ask of S3."""

from __future__ import annotations

import asyncio
import http.client
import os
import re
import time
from collections.abc import Iterator

import obstore
import pytest
import s3fs
from obstore.store import S3Store

from s3server import Server, serve


@pytest.fixture(scope="module")
def shared_server() -> Iterator[Server]:
    with serve() as server:
        yield server


@pytest.fixture
def server(shared_server: Server) -> Server:
    shared_server.clear()
    shared_server.set_latency(0)
    shared_server.reset()
    return shared_server


@pytest.fixture
def store(server: Server) -> S3Store:
    return S3Store("bucket", endpoint=server.endpoint, **server.obstore_options)


def request(
    server: Server, method: str, target: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request(method, target, body, headers or {})
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def test_objects_come_back_whole_and_in_ranges(store: S3Store) -> None:
    data = os.urandom(100_000)
    obstore.put(store, "a b/ü+&.bin", data)
    assert bytes(obstore.get(store, "a b/ü+&.bin").bytes()) == data
    assert bytes(obstore.get_range(store, "a b/ü+&.bin", start=10, end=20)) == data[10:20]
    assert bytes(obstore.get(store, "a b/ü+&.bin", options={"range": {"suffix": 16}}).bytes()) == data[-16:]
    assert obstore.head(store, "a b/ü+&.bin")["size"] == len(data)
    with pytest.raises(FileNotFoundError):
        obstore.get(store, "absent")


def test_large_objects_arrive_in_parts(server: Server, store: S3Store) -> None:
    data = os.urandom(12 * 2**20)
    obstore.put(store, "large", data)
    assert server.stats()["by_operation"]["MULTIPART"] > 2
    assert bytes(obstore.get(store, "large").bytes()) == data


def test_create_mode_never_replaces(store: S3Store) -> None:
    obstore.put(store, "once", b"first", mode="create")
    with pytest.raises(obstore.exceptions.AlreadyExistsError):
        obstore.put(store, "once", b"second", mode="create")
    assert bytes(obstore.get(store, "once").bytes()) == b"first"


def test_update_needs_the_present_etag(store: S3Store) -> None:
    first = obstore.put(store, "ref", b"1")
    obstore.put(store, "ref", b"2", mode={"e_tag": first["e_tag"]})
    with pytest.raises(obstore.exceptions.PreconditionError):
        obstore.put(store, "ref", b"3", mode={"e_tag": first["e_tag"]})
    assert bytes(obstore.get(store, "ref").bytes()) == b"2"


@pytest.mark.parametrize("quote", ['"', ""])
def test_conditions_hold_with_and_without_quotes(server: Server, store: S3Store, quote: str) -> None:
    etag = quote + obstore.put(store, "ref", b"1")["e_tag"].strip('"') + quote
    assert request(server, "GET", "/bucket/ref", None, {"If-None-Match": etag}) == (304, b"")
    assert request(server, "GET", "/bucket/ref", None, {"If-Match": quote + "other" + quote})[0] == 412
    assert request(server, "PUT", "/bucket/ref", b"2", {"If-Match": etag})[0] == 200
    assert request(server, "PUT", "/bucket/ref", b"3", {"If-Match": etag})[0] == 412


def test_listing_has_pages_and_prefixes(store: S3Store) -> None:
    keys = [f"p/{i // 300}/{i:04d}" for i in range(2500)]
    for key in keys:
        obstore.put(store, key, b"x")
    obstore.put(store, "q", b"x")
    listed = [item["path"] for page in obstore.list(store, prefix="p") for item in page]
    assert listed == keys
    level = obstore.list_with_delimiter(store, "p")
    assert level["common_prefixes"] == [f"p/{i}" for i in range(9)]
    assert level["objects"] == []


def test_pages_continue_after_keys_and_after_common_prefixes(server: Server, store: S3Store) -> None:
    for key in ("a/1", "a/2", "b", "c/1", "c/2", "d"):
        obstore.put(store, key, b"x")
    names: list[str] = []
    token = ""
    while True:
        status, body = request(server, "GET", f"/bucket?list-type=2&max-keys=1&delimiter=/{token}")
        assert status == 200
        text = body.decode()
        names += re.findall("<(?:Contents><Key|CommonPrefixes><Prefix)>([^<]*)<", text)
        if "<NextContinuationToken>" not in text:
            break
        token = "&continuation-token=" + text.partition("<NextContinuationToken>")[2].partition("<")[0]
    assert names == ["a/", "b", "c/", "d"]


def test_deletes_one_and_many(server: Server, store: S3Store) -> None:
    keys = [f"k & {i}" for i in range(20)]
    for key in keys:
        obstore.put(store, key, b"x")
    obstore.delete(store, keys[0])
    obstore.delete(store, keys[1:])
    assert server.stats()["objects"] == 0


@pytest.mark.parametrize("end", [b"0\r\n\r\n", b"0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n"])
def test_aws_chunked_bodies_are_decoded(server: Server, store: S3Store, end: bytes) -> None:
    body = b"5;chunk-signature=abc\r\nhello\r\n6\r\n world\r\n" + end
    status, _ = request(server, "PUT", "/bucket/chunked", body, {"content-encoding": "aws-chunked"})
    assert status == 200
    assert bytes(obstore.get(store, "chunked").bytes()) == b"hello world"


def test_chunked_transfer_is_decoded(server: Server, store: S3Store) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("PUT", "/bucket/stream", iter([b"abc", b"d" * 70_000]), encode_chunked=True)
    assert connection.getresponse().status == 200
    connection.close()
    assert bytes(obstore.get(store, "stream").bytes()) == b"abc" + b"d" * 70_000


@pytest.mark.parametrize(
    ("method", "target", "headers", "status"),
    [
        ("GET", "/bucket/object", {"Range": "bytes=99-"}, 416),
        ("GET", "/bucket/object", {"Range": "bytes=1-99"}, 206),
        ("GET", "/bucket/object", {"Range": "lines=1-2"}, 200),
        ("GET", "/bucket", {}, 400),
        ("PATCH", "/bucket/object", {}, 501),
        ("PUT", "/bucket/object", {"Content-Length": "-1"}, 400),
        ("PUT", "/bucket/object", {"Transfer-Encoding": "chunked"}, 400),
        ("POST", "/bucket?delete", {}, 400),
        ("GET", "/__latency?ms=fast", {}, 400),
    ],
)
def test_odd_requests_are_answered(
    server: Server, store: S3Store, method: str, target: str, headers: dict[str, str], status: int
) -> None:
    obstore.put(store, "object", b"12345")
    assert request(server, method, target, b"?\r\n" if "Transfer-Encoding" in headers else None, headers)[0] == status
    assert bytes(obstore.get(store, "object").bytes()) == b"12345"


def test_latencies_overlap_and_are_counted(server: Server, store: S3Store) -> None:
    async def put_all() -> None:
        await asyncio.gather(*(obstore.put_async(store, f"k/{i}", b"x" * 8192) for i in range(50)))

    server.set_latency(100)
    start = time.perf_counter()
    asyncio.run(put_all())
    seconds = time.perf_counter() - start
    stats = server.stats()
    assert 0.1 <= seconds < 2.5  # one after the other: 5 s
    assert stats["by_operation"] == {"PUT": 50}
    assert stats["bytes_in"] == 50 * 8192
    assert 10 < stats["max_in_flight"] <= 50
    server.reset()
    assert server.stats()["requests"] == 0


def test_s3fs_writes_lists_and_removes(server: Server) -> None:
    fs = s3fs.S3FileSystem(**server.storage_options, skip_instance_cache=True, use_listings_cache=False)
    fs.pipe({f"bucket/tree/{i}.bin": bytes([i]) * 1000 for i in range(20)})
    assert len(fs.find("bucket/tree")) == 20
    assert fs.cat_file("bucket/tree/7.bin", start=5, end=9) == b"\x07" * 4
    assert fs.info("bucket/tree/7.bin")["size"] == 1000
    fs.copy("bucket/tree/7.bin", "bucket/other")
    assert fs.ls("bucket", detail=False) == ["bucket/other", "bucket/tree"]
    fs.rm("bucket/tree", recursive=True)
    assert fs.find("bucket") == ["bucket/other"]


def test_server_ends_with_its_block() -> None:
    with serve(latency_ms=1) as server:
        assert server.stats()["latency_ms"] == 1
    with pytest.raises(OSError):
        request(server, "GET", "/__stats")
