"""The lock of a commit: waited for while its owner lives, taken away when it is dead, gone when the commit is over."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask
import pytest
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from fsspec.implementations.memory import MemoryFileSystem
from refusals import fails
from zarr.storage import FsspecStore

import dask_zv as dzv
from dask_zv.storage.grid import commit as grid_commit
from dask_zv.storage.handles import open_objects
from dask_zv.storage.locks import LOCK_NAME, commit_lock
from s3server import serve

WRITER = str(Path(__file__).parents[1] / "batch" / "writer.py")
KEY = f"0/{LOCK_NAME}"


@pytest.fixture(scope="module")
def server():
    with serve() as running:
        yield running


@pytest.fixture(params=["local", "s3"])
def store(request, tmp_path):
    if request.param == "local":
        target, options = str(tmp_path / "s.zv"), None
    else:
        server = request.getfixturevalue("server")
        target, options = f"s3://bucket/{abs(hash(str(tmp_path)))}/s.zv", server.storage_options
    made = dzv.create(target, chunk_shape=(10.0, 10.0), bounds=((0, 0), (640, 640)), storage_options=options)
    made.target, made.options = target, options
    return made


class Holder:
    """A process that holds the lock for a while, or until it is killed."""

    def __init__(self, store, *, seconds, lifetime):
        job = {"target": store.target, "options": store.options, "do": "hold", "seconds": seconds, "lifetime": lifetime}
        self.process = subprocess.Popen(
            [sys.executable, WRITER, json.dumps(job)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self):
        assert self.process.stdout.readline() == "ready\n"
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "held\n"
        self.held = time.time()
        return self

    def __exit__(self, *exc):
        self.process.kill()
        self.process.communicate()


def lock_of(store):
    return open_objects(store._contents.handle).get(KEY)


def write(store, key="0.0"):
    group = store.level(0).group
    with dask.config.set(scheduler="sync"), group.batched_writes():
        group.write_bytes("vertices", key, b"x" * 16)


def test_of_a_dead_owner(store):
    """Killed while it held the lock, on this machine: it is seen to be gone, and nobody waits."""
    with Holder(store, seconds=60, lifetime=30.0) as holder:
        holder.process.kill()
        assert lock_of(store) is not None
        write(store)
        assert time.time() < holder.held + 30.0
    assert lock_of(store) is None
    assert store.level(0).group.list_chunks("vertices") == ["0.0"]


def test_of_a_dead_owner_elsewhere(store):
    """Of another machine nothing is known but its lock: it is watched for its lifetime, then the next has it."""
    with Holder(store, seconds=60, lifetime=2.0) as holder:
        holder.process.kill()
        holder.process.wait()
        elsewhere = {**json.loads(lock_of(store)), "machine": "another", "expires": 0.0}
        open_objects(store._contents.handle).put(KEY, json.dumps(elsewhere).encode())
        started = time.monotonic()
        write(store)
        assert time.monotonic() - started > 2.0
    assert lock_of(store) is None
    assert store.level(0).group.list_chunks("vertices") == ["0.0"]


def test_of_a_living_owner(store):
    """It is renewed for as long as it is held, and waited for."""
    with Holder(store, seconds=2.0, lifetime=0.8) as holder:
        first = lock_of(store)
        started = time.time()
        write(store)
        assert time.time() - started > 1.0
        assert time.time() > json.loads(first)["expires"]
        out, _ = holder.process.communicate(timeout=20)
        assert out == "done\n"
    assert lock_of(store) is None


def test_patience_has_an_end(store, override):
    """The error says who holds it and what to do."""
    override(lock_patience=0.3)
    with commit_lock(open_objects(store._contents.handle), "0") as held:
        assert held
        owner = json.loads(lock_of(store))["owner"]
        with pytest.raises(dzv.StoreError, match="dask_zv_lock") as caught:
            write(store)
        assert owner in str(caught.value)
        assert lock_of(store) is not None
    assert lock_of(store) is None
    write(store)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"expires": "x"}', b"\xff\xfe", b'{"expires": null}'])
def test_that_is_no_lock_of_ours(store, content):
    open_objects(store._contents.handle).put(KEY, content)
    write(store)
    assert lock_of(store) is None


def test_after_an_exception(store, monkeypatch):
    def fail(*_args, **_kwargs):
        raise dzv.PlanError("on purpose")

    with monkeypatch.context() as patch:
        patch.setattr(grid_commit, "merge_arrays", fail)
        patch.setattr(grid_commit, "store_cells", fail)
        fails(dzv.PlanError, "on purpose", write, store)
        assert lock_of(store) is None
        write_array_meta(store)
        fails(dzv.PlanError, "on purpose", lambda: store.level(0).group.write_bytes("vertices", "0.0", b"x"))
        assert lock_of(store) is None
    write(store)
    assert lock_of(store) is None
    assert store.level(0).group.list_chunks("vertices") == ["0.0"]


def write_array_meta(store):
    store.level(0).group.write_array_meta("vertices", {"unit": "um"})
    assert lock_of(store) is None


def test_no_two_have_it(store, monkeypatch, override):
    """Six threads, a lock of somebody dead in their way each time: one after the other."""
    override(lock_lifetime=20.0)
    objects = open_objects(store._contents.handle)
    before = type(objects).delete

    def slowly(self, key):  # between a look at an expired lock and its removal
        time.sleep(0.06 * random.random())
        before(self, key)

    monkeypatch.setattr(type(objects), "delete", slowly)
    inside = []
    most = []
    guard = threading.Lock()

    def enter(_):
        with commit_lock(objects, "0"):
            with guard:
                inside.append(1)
                most.append(len(inside))
            time.sleep(0.002)
            with guard:
                inside.pop()

    with ThreadPoolExecutor(6) as pool:
        for _ in range(3):
            objects.put(KEY, json.dumps({"owner": "dead", "expires": time.time() - 1}).encode())
            list(pool.map(enter, range(6)))
    assert len(most) == 18
    assert max(most) == 1
    assert lock_of(store) is None


class _Ignoring(MemoryFileSystem):
    """Takes the condition that nothing is there, and does not heed it."""

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        return super().pipe_file(path, value, **kwargs)


class _Without(MemoryFileSystem):
    """Takes no such condition."""

    def pipe_file(self, path, value, **kwargs):
        return super().pipe_file(path, value, **kwargs)


@pytest.mark.parametrize("system", [MemoryFileSystem, _Ignoring, _Without])
def test_of_the_packages_of_fsspec(system, tmp_path):
    """A lock where the package can create exclusively; where it can't, a commit looks whether what it wrote is still there."""
    target = FsspecStore(AsyncFileSystemWrapper(system(), asynchronous=True), path=f"/{tmp_path.name}")
    store = dzv.create(target, chunk_shape=(10.0, 10.0), bounds=((0, 0), (640, 640)))
    objects = open_objects(store._contents.handle)
    for _ in range(2):
        with commit_lock(objects, "0") as held:
            assert bool(held) is (system is MemoryFileSystem)
            assert objects.exists(KEY) is bool(held)
            if held:
                assert objects.put_if_absent(KEY, b"another") is False
        assert not objects.exists(KEY)
    write(store)
    write(store, "3.3")
    assert store.level(0).group.list_chunks("vertices") == ["0.0", "3.3"]
