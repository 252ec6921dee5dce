"""Batches of reads: fetched at once, served from memory, never stale."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from dask.delayed import delayed
from layouts import LAYOUTS
from refusals import fails
from zarr.storage import MemoryStore, WrapperStore

import dask_zv as dzv
from dask_zv.config import settings

pytestmark = pytest.mark.contract


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return request.param


@pytest.fixture
def filled(store):
    group = store.open(rank=2)
    with group.batched_writes(shards=4):
        for i in range(8):
            group.write_bytes("packed", f"{i}.0", b"packed%d" % i)
    for i in range(4):
        group.write_bytes("plain", f"{i}.0", b"plain%d" % i)
    if store.layout == "per_chunk":
        group.write_bytes("plain", "4.0", b"")
    return store


def objects_of(store):
    """Return the data objects of ``plain`` 0.0 and 1.0, and of the shard that holds ``packed`` 0.0."""
    if store.layout == "per_chunk":
        return "plain/0.0/c/0", "plain/1.0/c/0", "packed/__shard_000000/c/0"
    return "plain/c/4/4", "plain/c/5/4", "packed/c/2/2"


def test_plan_is_served_and_the_rest_falls_through(filled):
    group = filled.open()
    plan = [
        ("packed", [f"{i}.0" for i in range(8)]),
        ("plain", ["0.0", "99.0"] if filled.layout == "grid" else ["0.0", "4.0", "99.0"]),
        ("absent", ["0.0"]),
    ]
    with group.batched_reads(plan):
        assert [group.read_bytes("packed", f"{i}.0") for i in range(8)] == [b"packed%d" % i for i in range(8)]
        assert group.read_bytes("plain", "0.0") == b"plain0"
        if filled.layout == "per_chunk":
            assert group.read_bytes("plain", "4.0") == b""
        assert group.read_bytes("plain", "3.0") == b"plain3"  # not in the plan
        for array, key in (("plain", "99.0"), ("absent", "0.0"), ("plain", "98.0")):
            fails(KeyError, None, group.read_bytes, array, key)
        with pytest.raises(dzv.StoreError, match="nest"), group.batched_reads([]):
            raise AssertionError("no batch inside a batch")
    with group.batched_reads([]):
        assert group.read_bytes("plain", "0.0") == b"plain0"


def test_it_is_the_memory_that_serves(filled, no_waiting):
    group = filled.open("r")
    with group.batched_reads([("plain", ["0.0"]), ("packed", ["0.0"])]):
        first, _, shard = objects_of(filled)
        filled.delete(first)
        filled.delete(shard)
        assert group.read_bytes("plain", "0.0") == b"plain0"
        assert group.read_bytes("packed", "0.0") == b"packed0"
    for array in ("plain", "packed"):
        fails(dzv.StoreError, None, group.read_bytes, array, "0.0")


def test_damage_raises_and_leaves_the_group_usable(filled, no_waiting):
    filled.put(objects_of(filled)[1], b"short")
    group = filled.open("r")
    with pytest.raises(dzv.FormatError, match=r"1\.0"), group.batched_reads([("plain", ["0.0", "1.0"])]):
        raise AssertionError("never inside")
    with group.batched_reads([("plain", ["0.0"])]):
        assert group.read_bytes("plain", "0.0") == b"plain0"


def test_bad_names_and_exceptions_inside_leave_the_group_usable(filled):
    group = filled.open("r")
    for plan in ([("../plain", ["0.0"])], [("plain", ["a/b"])], [("plain", [""])]):
        with pytest.raises(dzv.InvalidNameError), group.batched_reads(plan):
            raise AssertionError("never inside")
    with group.batched_reads([("plain", ["0.0"])]):
        pass
    group = filled.open()
    with pytest.raises(ZeroDivisionError), group.batched_reads([("plain", ["0.0"])]):
        1 / 0  # noqa: B018
    group.write_bytes("plain", "0.0", b"new")
    assert group.read_bytes("plain", "0.0") == b"new"


def test_writes_inside_are_never_served_stale(filled):
    group = filled.open()
    keys = [f"{i}.0" for i in range(8)]
    with group.batched_reads([("packed", keys), ("plain", keys)]):
        group.write_bytes("packed", "0.0", b"single")
        with group.batched_writes(shards=4 if filled.layout == "per_chunk" else None) as batch:
            group.write_bytes("packed", "1.0", b"batched")
            batch.write_bytes("packed", "2.0", b"through the batch")
            batch.write_blobs(delayed({("plain", "0.0"): b"lazy"}), keys=[("plain", "0.0")])
            assert group.read_bytes("packed", "1.0") == b"packed1"
        with group.batched_writes(compute=False) as batch:
            batch.write_bytes("packed", "3.0", b"deferred")
        assert group.read_bytes("packed", "3.0") == b"packed3"
        batch.finish(batch.to_delayed().compute(scheduler="sync"))
        if filled.layout == "per_chunk":
            group.delete_subtree("plain/1.0")
        else:
            group.write_bytes("plain", "1.0", b"")
        assert [group.read_bytes("packed", k) for k in keys[:5]] == [
            b"single",
            b"batched",
            b"through the batch",
            b"deferred",
            b"packed4",
        ]
        assert group.read_bytes("plain", "0.0") == b"lazy"
        fails(KeyError, None, group.read_bytes, "plain", "1.0")
        group.delete_subtree("plain")
        fails(KeyError, None, group.read_bytes, "plain", "2.0")
    assert group.read_bytes("packed", "1.0") == b"batched"


class CrowdedStore(WrapperStore):
    """Notes how many requests are under way at once."""

    def __init__(self, store):
        super().__init__(store)
        self.now = self.most = 0

    def _with_store(self, store):
        return type(self)(store)

    async def get(self, key, prototype, byte_range=None):
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.002)
        self.now -= 1
        return await self._store.get(key, prototype, byte_range)


def test_requests_in_flight_are_many_and_bounded(layout):
    crowded = CrowdedStore(MemoryStore())
    group = dzv.open_group(crowded, layout=layout)
    if layout == "grid":
        group.write_array_meta("v", {"shape": [20, 50]})
    keys = [f"{i // 50}.{i % 50}" for i in range(1000)]
    with group.batched_writes():
        for key in keys:
            group.write_bytes("v", key, key.encode())
    crowded.most = 0
    readers = [dzv.open_group(crowded, "r+") for _ in range(3)]

    def read(reader):
        with reader.batched_reads([("v", keys)]):
            assert [reader.read_bytes("v", k) for k in keys] == [k.encode() for k in keys]

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(read, readers))
    assert 16 < crowded.most <= settings().max_requests
