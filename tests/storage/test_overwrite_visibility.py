"""A reader in another process, while chunks are overwritten by others of other lengths: whole payloads or nothing.

A payload is one byte repeated; the byte says how often. So half a payload, two mixed, or zeros can't look whole.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest
from layouts import grid_settings, in_both_layouts
from sampling import examples

import dask_zv as dzv

READER = """
import sys, time
import dask_zv as dzv

target, array, key, mode = sys.argv[1:]
group = dzv.open_group(target, "r")
seen, unsettled = set(), 0
end = time.monotonic() + 60
print("ready", flush=True)
while time.monotonic() < end:
    if mode == "anew":
        group = dzv.open_group(target, "r")
    try:
        data = group.read_bytes(array, key)
    except dzv.FormatError:
        unsettled += 1  # it says that the chunk is being replaced: a reader may try again
        continue
    except dzv.StoreError as error:
        if isinstance(error, KeyError):
            raise
        unsettled += 1
        continue
    if not data or len(data) != 17 * data[0] + 1 or set(data) != {data[0]}:
        print("TORN", len(data), sorted(set(data))[:5], flush=True)
        sys.exit(3)
    if data[0] == 255:
        break
    seen.add(data[0])
print("seen", len(seen), unsettled, flush=True)
"""


def payload(value):
    return bytes([value]) * (17 * value + 1)


class Reader:
    """A process that reads a chunk in a loop until it sees the last payload."""

    def __init__(self, path, array, key, mode):
        code = [sys.executable, "-c", READER, str(path), array, key, mode]
        self.process = subprocess.Popen(code, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "ready\n", self.process.communicate()[1]

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def result(self):
        out, err = self.process.communicate(timeout=90)
        assert self.process.returncode == 0, out + err
        word, seen, unsettled = out.split()
        assert word == "seen"
        return int(seen), int(unsettled)


VALUES = [1 + (i * 37) % 253 for i in range(examples(120, 240))]


def open_new(path, layout):
    group = dzv.open_group(path, layout=layout)
    if layout == "grid":
        group.attrs["dask_zv"] = {"layout": layout, "grid": grid_settings(2, 8)}
    return group


@in_both_layouts
@pytest.mark.parametrize("mode", ["same group", "anew"])
def test_plain_chunk(tmp_path, mode, layout):
    group = open_new(tmp_path / "s.zv", layout)
    group.write_bytes("v", "0.0", payload(7))
    with Reader(tmp_path / "s.zv", "v", "0.0", mode) as reader:
        for value in VALUES * 3:
            group.write_bytes("v", "0.0", payload(value))
            time.sleep(0.001)  # the reader waits longer between its attempts
        group.write_bytes("v", "0.0", payload(255))
        seen, unsettled = reader.result()
    assert seen >= 5
    assert unsettled <= seen  # a read tries several times before it gives up


@in_both_layouts
@pytest.mark.parametrize(("mode", "shards"), [("same group", None), ("anew", 4)])
def test_chunk_of_a_batch(tmp_path, mode, shards, layout):
    """With the catalog, and with shards whose other members move when one changes its length."""
    group = open_new(tmp_path / "s.zv", layout)

    def write(value):
        with group.batched_writes(shards=shards):
            group.write_bytes("v", "0.0", payload(value))
            group.write_bytes("v", "1.0", payload(value))

    write(7)
    with group.batched_writes(shards=shards if layout == "per_chunk" else None):
        group.write_bytes("v", "0.1", b"stays")
    with Reader(tmp_path / "s.zv", "v", "1.0", mode) as reader:
        for value in VALUES[:210]:
            write(value)
        write(255)
        seen, _ = reader.result()
    assert seen >= 5
    assert dzv.open_group(tmp_path / "s.zv", "r").read_bytes("v", "0.1") == b"stays"


@pytest.mark.product(keep="pairs")
@in_both_layouts
@pytest.mark.parametrize("name", ["memory_store", "fsspec_memory", "obstore_memory"])
@pytest.mark.parametrize("shards", [None, 4])
def test_threads_over_a_store_in_memory(make_store, name, shards):
    store = make_store(name)
    group = store.open(rank=2)
    problems, seen, done = [], set(), threading.Event()

    def write(value):
        with group.batched_writes(shards=shards):
            group.write_bytes("v", "0.0", payload(value))
            group.write_bytes("v", "1.0", payload(value))

    def read():
        while not done.is_set():
            try:
                data = store.open("r").read_bytes("v", "1.0")
            except (dzv.FormatError, dzv.StoreError) as error:
                if isinstance(error, KeyError):
                    problems.append(str(error))
                continue
            if len(data) != 17 * data[0] + 1 or set(data) != {data[0]}:
                problems.append(f"torn: {len(data)} bytes of {sorted(set(data))[:5]}")
            seen.add(data[0])

    write(7)
    thread = threading.Thread(target=read)
    thread.start()
    try:
        for value in VALUES[:60]:
            write(value)
    finally:
        done.set()
        thread.join()
    assert problems == []
    assert len(seen) >= 3


def test_the_test_would_notice(tmp_path):
    """A writer that puts the document first, and half the data: the reader must see it."""
    group = dzv.open_group(tmp_path / "s.zv")
    group.write_bytes("v", "0.0", payload(7))
    with Reader(tmp_path / "s.zv", "v", "0.0", "same group") as reader:
        (tmp_path / "s.zv/v/0.0/c/0").write_bytes(payload(7)[:60] + payload(9)[60:120])
        out, _ = reader.process.communicate(timeout=60)
    assert "TORN" in out
