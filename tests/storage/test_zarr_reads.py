"""Arrays that are left to zarr (those about objects) are asked for again, and fail with our errors."""

from __future__ import annotations

import errno

import numpy as np
import pytest
from refusals import fails
from zarr.storage import LocalStore, MemoryStore, WrapperStore

import dask_zv as dzv


class Failing(WrapperStore):
    """A store whose chunks of arrays about objects can't be read so many times."""

    def __init__(self, store, times, failed=None):
        super().__init__(store)
        self.times = times
        self.failed = [] if failed is None else failed

    def _with_store(self, store):
        return type(self)(store, self.times, self.failed)

    async def get(self, key, prototype, byte_range=None):
        if "/object_" in key and "/c/" in key and len(self.failed) < self.times:
            self.failed.append(key)
            raise ConnectionResetError("connection reset by peer")
        return await super().get(key, prototype, byte_range)


@pytest.fixture(params=["grid", "per_chunk"])
def layout(request):
    return request.param


def written(target, layout):
    positions = np.random.default_rng(3).uniform(0, 30, (200, 3))
    store = dzv.create(target, chunk_shape=(10, 10, 10), layout=layout)
    dzv.write_points(store, positions, object_ids=np.arange(200) // 20, object_attributes={"mass": np.arange(10.0)})


def read(target):
    level = dzv.open(target).level(0)
    return len(level.read(objects=[1, 3]).positions)


def test_a_short_fault_is_not_noticed(layout):
    memory = MemoryStore()
    written(memory, layout)
    store = Failing(memory, times=2)
    assert read(store) == 40
    assert len(store.failed) == 2


def test_a_lasting_fault_names_store_and_object(layout):
    memory = MemoryStore()
    written(memory, layout)
    store = Failing(memory, times=10**6)
    fails(dzv.StoreError, r"(?s)reading '/0/object_.*4 times.*connection reset", read, store)
    assert store.failed


def test_a_disk_that_fails_names_store_and_object(tmp_path, layout, monkeypatch):
    written(tmp_path / "s.zv", layout)
    get = LocalStore.get

    async def broken(self, key, prototype=None, byte_range=None):
        if "/object_" in key and "/c/" in key:
            raise OSError(errno.EIO, "Input/output error")
        return await get(self, key, prototype, byte_range)

    monkeypatch.setattr(LocalStore, "get", broken)
    with pytest.raises(dzv.StoreError, match=r"reading '/0/object_.*Input/output error") as caught:
        read(tmp_path / "s.zv")
    assert "s.zv" in str(caught.value)
