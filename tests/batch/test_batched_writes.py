"""Batches of writes: one graph, one commit, the same bytes whatever runs it."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections import Counter

import dask
import numpy as np
import pytest
from contract_exceptions import need
from counting_store import CountingStore
from dask.callbacks import Callback
from dask.delayed import Delayed, delayed
from dask.task_spec import DataNode
from layouts import LAYOUTS, grid_only, per_chunk_only
from refusals import fails
from zarr.storage import MemoryStore, StorePath, WrapperStore

import dask_zv as dzv
from dask_zv.storage.catalog import decode_catalog
from dask_zv.storage.receipts import combine_receipts

CATALOG = "dask_zv_catalog/c/0"


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return request.param


def many(n, nbytes=8):
    """Chunks of a cube by key, each with its own bytes; some are empty."""
    side = round(n ** (1 / 3)) + 1
    keys = [f"{x - 1}.{y}.{z}" for x in range(side) for y in range(side) for z in range(side)][:n]
    return {key: bytes([i % 251]) * (nbytes if i % 7 else 0) for i, key in enumerate(keys)}


def present(layout, payloads):
    """Return the blobs that can be read back: a cell of layout ``grid`` that holds nothing is absent."""
    return {key: data for key, data in payloads.items() if data or layout == "per_chunk"}


def read_all(group, array):
    keys = group.list_chunks(array)
    with group.batched_reads([(array, keys)]):
        return {key: group.read_bytes(array, key) for key in keys}


def without_catalog(dump):
    """Return what does not depend on the store: in layout ``grid`` the catalog holds the store's stamps of objects."""
    return {key: data for key, data in dump.items() if not key.startswith("dask_zv_catalog/")}


def write_all(group, payloads, arrays=("vertices", "vertex_attributes/mass"), **kwargs):
    with group.batched_writes(**kwargs) as batch:
        for array in arrays:
            for key, data in payloads.items():
                group.write_bytes(array, key, data)
    return batch


def block_of(payloads, arrays):
    return {(array, key): data for array in arrays for key, data in payloads.items()}


def cell(payloads):
    """Return the payloads of one block; what a task of a user does."""
    return {("vertices", key): data for key, data in payloads.items()}


def names_below(store, array):
    return sorted(
        {k.removeprefix(f"{array}/").split("/")[0] for k in store.list_keys() if k.startswith(f"{array}/")} - {"zarr.json"}
    )


@pytest.mark.contract
def test_batch_writes_what_single_writes_would(store, make_store):
    payloads = many(20) | ({"data": b"literal"} if store.layout == "per_chunk" else {})
    group = store.open()
    batch = write_all(group, payloads)
    again = store.open("r")
    expected = present(store.layout, payloads)
    for array in ("vertices", "vertex_attributes/mass"):
        assert read_all(again, array) == expected
    chunks = 20 if store.layout == "per_chunk" else len(expected)
    assert batch.report.chunks == chunks
    assert batch.report.arrays == {"vertices": len(expected), "vertex_attributes/mass": len(expected)}
    assert batch.report.nbytes == 2 * sum(map(len, payloads.values()))
    assert batch.report.blocks == 1
    assert f"{chunks} chunks" in repr(batch.report)
    store.need("documents by the byte")
    single = make_store("memory_store")
    for array in ("vertices", "vertex_attributes/mass"):
        for key, data in payloads.items():
            single.open().write_bytes(array, key, data)
    assert without_catalog(store.dump()) == single.dump()


@pytest.mark.contract
def test_exception_inside_drops_the_batch(store):
    group = store.open()
    group.write_bytes("vertices", "0.0.0", b"before")
    before = store.dump()
    with pytest.raises(ZeroDivisionError), group.batched_writes() as batch:  # noqa: PT012 - it ends with the batch
        group.write_bytes("vertices", "0.0.0", b"after")
        group.write_array_meta("vertices", {"a": 1})
        batch.write_blobs(delayed({("vertices", "1.0.0"): b"x"}), keys=[("vertices", "1.0.0")])
        1 / 0  # noqa: B018
    assert store.dump() == before
    group.write_bytes("vertices", "0.0.0", b"unbatched again")
    with group.batched_writes():
        group.write_bytes("vertices", "1.0.0", b"batched again")
    assert group.read_bytes("vertices", "0.0.0") == b"unbatched again"
    assert group.read_bytes("vertices", "1.0.0") == b"batched again"


@pytest.mark.contract
def test_reads_inside_see_the_store_as_before(store):
    group = store.open()
    group.write_bytes("vertices", "0.0.0", b"before")
    with group.batched_writes():
        group.write_bytes("vertices", "0.0.0", b"after")
        group.write_bytes("vertices", "1.0.0", b"new")
        assert group.read_bytes("vertices", "0.0.0") == b"before"
        assert group.list_chunks("vertices") == ["0.0.0"]
        assert not group.chunk_exists("vertices", "1.0.0")
        with pytest.raises(dzv.StoreError, match="nest"), group.batched_writes():
            raise AssertionError("no batch inside a batch")
    assert group.read_bytes("vertices", "0.0.0") == b"after"
    assert group.list_chunks("vertices") == ["0.0.0", "1.0.0"]


@per_chunk_only
@pytest.mark.contract
def test_shards_are_rewritten_by_their_owner(store):
    """A key is never in two shards, and the newest bytes are what everybody reads."""
    group = store.open()
    truth = {f"{i}.0": b"first%d" % i for i in range(6)} | {"-3.2": b""}
    write_all(group, truth, ["v"], shards=4)
    first = names_below(store, "v")
    assert len(first) == 4  # along x alone, every second chunk begins a shard of four; one for the negative
    rounds = [
        ({"0.0": b"longer than before", "1.1": b"new beside it"}, 4),  # the owner merges
        ({"1.0": b"now plain"}, None),  # a plain child wins
        ({"1.0": b"packed again", "5.0": b""}, 4),  # and is removed once the shard has it
        ({"2.0": b"other cut", "3.0": b"other cut, too", "9.0": b"x"}, 2),
        ({"0.0": b"a", "2.0": b"b", "-3.2": b"c"}, 64),
        ({"4.0": b"", "0.0": b"z"}, 4),
    ]
    for payloads, shards in rounds:
        write_all(group, payloads, ["v"], shards=shards)
        truth |= payloads
        for reader in (group, store.open("r")):
            assert set(reader.list_chunks("v")) == set(truth)
            with reader.batched_reads([("v", list(truth))]):
                assert {k: reader.read_bytes("v", k) for k in truth} == truth
        holders = {}
        for name in names_below(store, "v"):
            if name.startswith("__shard_"):
                for key in store.root()[f"v/{name}"].attrs["shard_index"]:
                    assert key not in holders, f"{key} is in {name} and {holders[key]}"
                    holders[key] = name
        catalog = decode_catalog(store.get(CATALOG))
        plain = names_below(store, "v")
        for key in truth:
            place = catalog.locate("v", key)
            assert place.nbytes == len(truth[key])
            assert place.shard >= 0 or key in plain
    assert "1.0" not in names_below(store, "v")


@per_chunk_only
@pytest.mark.contract
def test_no_block_speaks_for_a_key_that_another_stores(store):
    """Two blocks: one packs anew a shard whose member the other stores beside it. The catalog knows the new bytes."""
    group = store.open()
    keys = ["0.0", "1.0", "0.1", "1.1"]  # Morton codes 0 to 3
    write_all(group, dict.fromkeys(keys, b"old"), ["v"], shards=4)
    for turn in range(3):
        new = {"0.0": b"new%d" % turn, "0.1": b"NEW%d" % turn}
        with group.batched_writes(shards=2, block_chunks=1):
            for key, data in new.items():
                group.write_bytes("v", key, data)
        again = store.open("r")
        assert {k: again.read_bytes("v", k) for k in keys} == dict.fromkeys(keys, b"old") | new
        index = store.root()["v/__shard_000000"].attrs["shard_index"]
        assert set(index) == set(keys)


@per_chunk_only
def test_blocks_may_end_in_any_order(make_store):
    """The block that packs a shard anew reads a member's old bytes before another block has stored the new ones."""
    store = make_store("memory_store")
    root = store.root()
    root.create_group("v")
    node = root.create_array("v/__shard_000008", shape=(6,), chunks=(6,), dtype="uint8")
    node[:] = np.frombuffer(b"oldOLD", "uint8")
    node.attrs["shard_index"] = {"0.0": [0, 3], "0.2": [3, 3]}  # Morton codes 0 and 8
    group = store.open()
    with group.batched_writes(compute=False, shards=4, block_chunks=1) as batch:
        group.write_bytes("v", "0.0", b"new")
        group.write_bytes("v", "0.2", b"NEW")
    graph = graph_of(batch)
    blocks = sorted((k for k in graph if "-store-" in k), key=lambda k: int(k.rpartition("-")[2]))
    assert len(blocks) == 2
    results = {k: dask.get(graph, k) for k in reversed(blocks)}
    graph.update({k: DataNode(k, result) for k, result in results.items()})
    (end,) = [k for k in graph if "-commit-" in k]
    dask.get(graph, end)
    again = store.open("r")
    assert [again.read_bytes("v", k) for k in ("0.0", "0.2")] == [b"new", b"NEW"]
    by_receipt = combine_receipts([results[k].receipt for k in blocks]).arrays["v"]
    assert by_receipt["shard"].tolist() == [-1, 8]


@pytest.mark.contract
def test_metadata_and_literals_alone_keep_the_catalog(store):
    group = store.open()
    write_all(group, many(5), ["vertices"])
    before = decode_catalog(store.get(CATALOG))
    with group.batched_writes():
        group.write_array_meta("vertices", {"dtype": "float32"})
    if store.layout == "per_chunk":
        with group.batched_writes():
            group.write_bytes("groups", "data", b"123")
        assert store.open("r").read_bytes("groups", "data") == b"123"
    after = decode_catalog(store.get(CATALOG))
    if store.layout == "per_chunk":
        assert after.token == before.token
    assert after.coords.tolist() == before.coords.tolist()
    assert after.arrays["vertices"].nbytes.tolist() == before.arrays["vertices"].nbytes.tolist()
    assert store.open("r").read_array_meta("vertices")["dtype"] == "float32"


@per_chunk_only
@pytest.mark.contract
def test_an_empty_blob_is_no_empty_store(store):
    """An empty blob has no data object; a shard must still replace it."""
    group = store.open()
    group.write_bytes("v", "0.0", b"")
    group.write_bytes("v", "1.0", b"")
    write_all(group, {"0.0": b"packed"}, ["v"], shards=4)
    assert store.get(CATALOG) is None  # it would not list the other blob
    again = store.open("r")
    assert {k: again.read_bytes("v", k) for k in again.list_chunks("v")} == {"0.0": b"packed", "1.0": b""}


class FlakyStore(WrapperStore):
    """Fails the first requests of every key, as a busy server does."""

    failures = 0

    def __init__(self, store, failures=0):
        super().__init__(store)
        self.failures = failures
        self.asked = Counter()

    def _with_store(self, store):
        return type(self)(store, self.failures)

    def _maybe_fail(self, key):
        self.asked[key] += 1
        if self.failures and self.asked[key] % (self.failures + 1):
            raise ConnectionError(f"try {self.asked[key]} of {key}")

    async def get(self, key, prototype, byte_range=None):
        self._maybe_fail(key)
        return await self._store.get(key, prototype, byte_range)

    async def set(self, key, value):
        self._maybe_fail(key)
        await self._store.set(key, value)


def test_storage_trouble_is_retried_inside_the_task(override, layout):
    override(request_backoff=0.001)
    flaky = FlakyStore(MemoryStore())
    group = dzv.open_group(flaky, layout=layout)
    if layout == "grid":
        group.write_array_meta("vertices", {"shape": [8, 8, 8], "chunk_grid_origin": [-1, 0, 0]})
    flaky.failures = 2
    write_all(group, many(20), ["vertices"], shards=None if layout == "grid" else 8)
    expected = present(layout, many(20))
    assert {k: group.read_bytes("vertices", k) for k in expected} == expected
    flaky.failures = 10**9
    with pytest.raises(dzv.StoreError, match="ConnectionError"), group.batched_writes():
        group.write_bytes("vertices", "0.0.0", b"never")
    fails(dzv.StoreError, "ConnectionError", group.read_bytes, "vertices", "0.0.0")


@per_chunk_only
def test_keys_of_two_ranks_never_share_a_shard_by_accident(make_store):
    store = make_store("memory_store")
    group = store.open()
    payloads = {"0.0": b"rank 2", "0.0.0": b"rank 3", "1.0": b"a", "1.0.0": b"b"}
    write_all(group, payloads, ["v"], shards=4, block_chunks=1)
    assert {k: store.open("r").read_bytes("v", k) for k in payloads} == payloads
    assert store.open("r").list_chunks("v") == ["0.0", "0.0.0", "1.0", "1.0.0"]


@pytest.fixture(scope="module")
def reference():
    """Bytes of the batch of :func:`run_batch`, written synchronously."""
    dumps = {}

    def get(store, shards):
        if (store.layout, shards) not in dumps:
            with dask.config.set(scheduler="sync"):
                run_batch(store.open(), shards)
            dumps[store.layout, shards] = store.dump()
        return dumps[store.layout, shards]

    return get


def lazy_blocks(layout):
    """Return blocks for tasks to make: some chunks of ``vertices``, or whole shards of an array that has nothing else."""
    if layout == "per_chunk":
        items = list(many(60).items())
        return [{("vertices", k): d for k, d in items[start : start + 10]} for start in range(34, 60, 10)]
    cube = [(x, y, z) for x in range(2) for y in range(2) for z in range(2)]
    return [{("lazy", f"{2 * i + x}.{y}.{z}"): b"%d.%d.%d" % (x, y, z) for x, y, z in cube} for i in range(3)]


def run_batch(group, shards):
    payloads = many(60)
    with group.batched_writes(shards=shards, block_chunks=16) as batch:
        items = list(payloads.items())[: 34 if group.layout == "per_chunk" else 60]
        for key, data in items[:30]:
            group.write_bytes("vertices", key, data)
        for key, data in items[30:]:
            group.write_bytes("vertices", key, delayed(bytes)(data))
        for block in lazy_blocks(group.layout):
            batch.write_blobs(delayed(dict)(block), keys=list(block))
        if group.layout == "per_chunk":
            group.write_bytes("groups", "data", np.arange(3))
        group.write_array_meta("vertices", {"dtype": "float32"})
    with group.batched_writes(shards=shards, block_chunks=16):  # rewriting, merging
        for key in list(payloads)[::3]:
            group.write_bytes("vertices", key, b"again" + key.encode())
    return batch


def check_same_bytes(found, expected):
    """Compare two stores; of catalogs what does not depend on the store and the hour."""
    assert without_catalog(found) == without_catalog(expected)
    one, other = decode_catalog(found[CATALOG]), decode_catalog(expected[CATALOG])
    assert one.coords.tolist() == other.coords.tolist()
    assert one.rows.tolist() == other.rows.tolist()
    assert set(one.arrays) == set(other.arrays)
    for name, columns in one.arrays.items():
        for kind in ("nbytes", "shard", "offset", "stored", "crc"):
            assert columns[kind].tolist() == other.arrays[name][kind].tolist(), (name, kind)
    assert {n: v.document for n, v in one.nodes.items()} == {n: v.document for n, v in other.nodes.items()}


@pytest.mark.contract
@pytest.mark.parametrize("shards", [None, 8])
def test_bytes_are_identical_under_every_scheduler(make_store, layout, scheduler, reference, shards):
    expected = reference(make_store("memory_store"), shards)
    assert CATALOG in expected
    store = make_store("local_path")
    batch = run_batch(store.open(), shards)
    check_same_bytes(store.dump(), expected)
    payloads = present(layout, many(60)) | {key: b"again" + key.encode() for key in list(many(60))[::3]}
    found = store.open("r")
    assert {k: found.read_bytes("vertices", k) for k in found.list_chunks("vertices")} == payloads
    if layout == "per_chunk":
        assert batch.report.chunks == 60
        return
    lazy = {k: d for block in lazy_blocks(layout) for (_, k), d in block.items()}
    assert {k: found.read_bytes("lazy", k) for k in found.list_chunks("lazy")} == lazy
    assert batch.report.arrays == {"vertices": len(present(layout, many(60))), "lazy": 24}


@pytest.mark.contract
@pytest.mark.parametrize("scheduler", ["threads", "distributed"])
@pytest.mark.parametrize("shards", [None, 8])
def test_object_stores_hold_the_same_bytes(make_store, use_scheduler, scheduler, reference, shards):
    expected = reference(make_store("memory_store"), shards)
    store = make_store("obstore_s3")
    with use_scheduler(scheduler):
        run_batch(store.open(), shards)
    check_same_bytes(store.dump(), expected)


@grid_only  # which process reaches which store is the same in both layouts
@pytest.mark.contract
def test_every_store_serves_every_scheduler_it_can(store, scheduler):
    if scheduler in ("processes", "distributed"):
        need(store.name, "other processes")
    group = store.open()
    with group.batched_writes(shards=4, block_chunks=4) as batch:
        for key, data in many(12).items():
            group.write_bytes("vertices", key, data)
        batch.write_blobs(delayed(cell)({"9.9.9": b"lazy"}), keys=[("vertices", "9.9.9")])
    expected = present(store.layout, many(12)) | {"9.9.9": b"lazy"}
    assert batch.report.chunks == len(expected)
    found = store.open("r")
    assert read_all(found, "vertices") == expected


@pytest.mark.contract
def test_failing_block_leaves_no_commit(make_store, layout, scheduler):
    store = make_store("local_path")
    group = store.open()
    write_all(group, {"0.0.0": b"before"}, ["vertices"])
    before = store.dump()
    with pytest.raises(ZeroDivisionError), group.batched_writes(block_chunks=1) as batch:  # noqa: PT012 - it ends with the batch
        group.write_bytes("vertices", "1.0.0", b"new")
        group.write_array_meta("vertices", {"committed": True})
        batch.write_blobs(delayed(divide)(1, 0), keys=[("vertices", "2.0.0")])
    after = store.dump()
    assert {k: after[k] for k in before} == before  # metadata and catalog above all
    assert not [k for k in after if "2.0.0" in k]
    assert "committed" not in group.read_array_meta("vertices")
    if layout == "grid":
        assert group.list_chunks("vertices") == ["0.0.0"]
    assert group.read_bytes("vertices", "0.0.0") == b"before"
    write_all(group, {"2.0.0": b"later"}, ["vertices"])
    assert store.open("r").read_bytes("vertices", "2.0.0") == b"later"


def divide(a, b):
    return {("vertices", "2.0.0"): bytes(a // b)}


def graph_of(batch):
    return dict(batch.to_delayed().__dask_graph__())


@pytest.mark.parametrize("shards", [None, 100])
def test_tasks_number_as_blocks(make_store, shards):
    group = make_store("memory_store").open()
    with group.batched_writes(compute=False, block_chunks=100, shards=shards) as batch:
        for key, data in many(1000).items():
            for array in ("vertices", "a", "b"):
                group.write_bytes(array, key, data)
    blocks = 10 if shards is None else len(graph_of(batch)) - 1
    assert len(graph_of(batch)) == blocks + 1
    assert blocks <= 30
    with group.batched_writes(compute=False) as batch:
        for i in range(50):
            block = {f"{i}.{j}.0": b"x" for j in range(10)}
            batch.write_blobs(delayed(cell)(block), keys=[("vertices", k) for k in block])
    assert len(graph_of(batch)) == 50 + 1  # what makes a block is part of the task that stores it


def test_keys_are_unique_to_the_run_and_planned_batches_are_closed(make_store):
    graphs = []
    group = make_store("memory_store").open()
    for _ in range(2):
        with group.batched_writes(compute=False) as batch:
            group.write_bytes("vertices", "0.0.0", b"same")
        graphs.append(set(graph_of(batch)))
    assert not graphs[0] & graphs[1]
    group = make_store("memory_store").open()
    with group.batched_writes(compute=False) as batch:
        group.write_bytes("vertices", "0.0.0", b"1")
        batch.to_delayed()
        for call in (
            lambda: group.write_bytes("vertices", "1.0.0", b"2"),
            lambda: group.write_array_meta("vertices", {"a": 1}),
            lambda: batch.write_blobs(delayed({}), keys=[("vertices", "1.0.0")]),
        ):
            fails(dzv.PlanError, "planned", call)


def test_deferred_batch_joins_other_graphs(make_store, scheduler):
    store = make_store("local_path")
    group = store.open()
    other = delayed(sum)([1, 2, 3])
    with group.batched_writes(compute=False) as batch:
        group.write_bytes("vertices", "0.0.0", b"eager")
        group.write_bytes("vertices", "1.0.0", delayed(bytes)(other))
        group.write_array_meta("vertices", {"a": 1})
    lazy = batch.to_delayed()
    assert isinstance(lazy, Delayed)
    assert batch.to_delayed() is lazy
    assert store.list_keys() == ["zarr.json"]
    report, six = dask.compute(lazy, other)
    assert six == 6
    assert report.chunks == 2
    assert group.read_bytes("vertices", "1.0.0") == bytes(6)
    assert group.read_array_meta("vertices")["a"] == 1


def test_deferred_batches_are_seen_when_they_ran_and_share_a_catalog(make_store):
    store = make_store("memory_store")
    group = store.open(rank=2)
    write_all(group, {"0.0": b"old", "1.0": b"old"}, ["v"], shards=4)
    with group.batched_writes(compute=False) as batch:
        group.write_bytes("v", "0.0", b"new")
    assert group.read_bytes("v", "0.0") == b"old"
    batch.to_delayed().compute()
    assert group.read_bytes("v", "0.0") == b"new"
    assert group.read_bytes("v", "1.0") == b"old"
    store = make_store("memory_store")
    group = store.open(rank=2)
    lazy = []
    for i in range(2):
        with group.batched_writes(compute=False) as batch:
            group.write_bytes("v", f"{i}.0", b"x" * (i + 1))
        lazy.append(batch.to_delayed())
    for one in lazy:
        one.compute()
    assert decode_catalog(store.get(CATALOG)).coords.tolist() == [[0, 0], [1, 0]]
    store = make_store("memory_store")
    group = store.open(rank=2)
    write_all(group, {"0.0": b"a"}, ["v"])
    with group.batched_writes(compute=False) as batch:
        group.write_bytes("v", "1.0", b"b")
    lazy = batch.to_delayed()
    group.write_bytes("v", "2.0", b"no catalog lists this")
    lazy.compute()
    assert store.get(CATALOG) is None
    assert group.list_chunks("v") == ["0.0", "1.0", "2.0"]


def test_results_do_not_carry_data(make_store, use_scheduler):
    """What tasks return travels through the scheduler: receipts of bytes per chunk, not the bytes."""
    import pickle

    store = make_store("local_path")
    with store.open(rank=2).batched_writes(compute=False) as batch:
        block = {f"{i}.0": bytes(100_000) for i in range(20)}
        batch.write_blobs(delayed(cell)(block), keys=[("vertices", k) for k in block])
    graph = graph_of(batch)
    (key,) = [k for k in graph if "-store-" in k]
    result = dask.get(graph, key)
    assert len(pickle.dumps(result)) < 10_000


def test_future_payloads(make_store, use_scheduler):
    store = make_store("local_path")
    with use_scheduler("distributed") as client:
        one = client.submit(bytes, 3)
        block = client.submit(cell, {"5.0": b"block", "6.0": b"more"})
        with store.open(rank=2).batched_writes() as batch:
            batch.write_bytes("vertices", "0.0", one)
            batch.write_blobs(block, keys=[("vertices", "5.0"), ("vertices", "6.0")])
        assert batch.report.chunks == 3
    found = store.open("r")
    assert [found.read_bytes("vertices", k) for k in ("0.0", "5.0", "6.0")] == [bytes(3), b"block", b"more"]


@pytest.mark.contract
def test_block_with_other_keys_is_refused_and_not_stored(make_store, scheduler):
    store = make_store("local_path")
    group = store.open(rank=2)
    for yielded in (
        {("vertices", "0.0"): b"1"},
        {("vertices", "0.0"): b"1", ("vertices", "2.0"): b"1"},
        {("vertices", "0.0"): b"1", ("vertices", "1.0"): b"1", ("vertices", "3.0"): b"1"},
        {("other", "0.0"): b"1", ("vertices", "1.0"): b"1"},
        {"0.0": b"1"},
        [b"1", b"2"],
        b"1",
    ):
        with pytest.raises((dzv.PlanError, dzv.StoreError)), group.batched_writes() as batch:
            batch.write_blobs(delayed(yielded), keys=[("vertices", "0.0"), ("vertices", "1.0")])
        assert store.list_keys() == ["zarr.json"]
    with pytest.raises(dzv.PlanError, match="declared"), group.batched_writes() as batch:
        batch.write_blobs(delayed({("vertices", "7.0"): b"1"}), keys=[("vertices", "0.0")])
    with pytest.raises(dzv.StoreError, match="payload"), group.batched_writes() as batch:
        batch.write_blobs(delayed({("vertices", "0.0"): 3.5}), keys=[("vertices", "0.0")])
    assert store.list_keys() == ["zarr.json"]


def test_same_key_twice_and_bad_arguments(make_store):
    group = make_store("memory_store").open(rank=2)
    lazy = delayed(bytes)(3)
    with group.batched_writes() as batch:
        group.write_bytes("v", "0.0", b"first")
        group.write_bytes("v", "0.0", b"last")
        batch.write_bytes("v", "1.0", lazy)
        batch.write_blobs(delayed(cell)({"2.0": b"x"}), keys=[("vertices", "2.0")])
        refused = [
            lambda: batch.write_bytes("v", "0.0", lazy),
            lambda: batch.write_bytes("v", "1.0", lazy),
            lambda: batch.write_bytes("v", "1.0", b"eager"),
            lambda: batch.write_bytes("vertices", "2.0", b"eager"),
            lambda: batch.write_blobs(lazy, keys=[("vertices", "3.0"), ("v", "1.0")]),
            lambda: batch.write_blobs(lazy, keys=[("vertices", "3.0"), ("vertices", "3.0")]),
        ]
        for call in refused:
            fails(dzv.PlanError, r"two tasks.*(v|vertices)", call)
        batch.write_bytes("vertices", "3.0", b"a refused declaration declares nothing")
    assert group.read_bytes("v", "0.0") == b"last"
    assert group.list_chunks("v") == ["0.0", "1.0"]
    assert group.list_chunks("vertices") == ["2.0", "3.0"]
    group = make_store("memory_store").open(rank=2)
    for kwargs in ({"shards": 0}, {"shards": -1}, {"shards": 2.0}, {"shards": True}, {"block_chunks": 0}):
        with pytest.raises(ValueError, match=r"shards|block_chunks"), group.batched_writes(**kwargs):
            raise AssertionError("not opened")
    with group.batched_writes() as batch:
        fails(ValueError, "Delayed", batch.write_blobs, {("v", "0.0"): b"1"}, keys=[("v", "0.0")])
        fails(ValueError, "keys", lambda: batch.write_blobs(delayed({}), keys=[]))


def test_a_delayed_per_blob_warns_once_about_whole_blocks(make_store, override):
    override(batch_delayed=20)
    group = make_store("memory_store").open(rank=2)
    with pytest.warns(dzv.ZVWarning, match="write_blobs") as caught, group.batched_writes(compute=False) as batch:  # noqa: PT031 - it ends with the batch
        for i in range(40):
            batch.write_bytes("v", f"{i}.0", delayed(bytes)(i))
    assert len(caught) == 1


@per_chunk_only
def test_one_object_per_array_and_block_and_the_same_shards_from_any_client(make_store):
    store = make_store("memory_store")
    group = store.open()
    arrays = ("vertices", "vertex_attributes/mass")
    payloads = {f"{x}.{y}.{z}": b"%d" % x for x in range(8) for y in range(8) for z in range(8)}
    batch = write_all(group, payloads, arrays, shards=64, block_chunks=64)
    assert batch.report.blocks == 8
    assert batch.report.files == 16
    for array in arrays:
        assert names_below(store, array) == [f"__shard_{64 * i:06d}" for i in range(8)]
    with group.batched_writes(shards=64) as batch:
        for i in range(3):
            block = {("lazy", f"{i}.{j}.0"): b"x" for j in range(5)} | {("more", f"{i}.{j}.0"): b"y" for j in range(5)}
            batch.write_blobs(delayed(block), keys=list(block))
    assert batch.report.files == 6
    assert names_below(store, "lazy") == names_below(store, "more") == ["__shard_000000", "__shard_000001", "__shard_000008"]
    dumps = []
    payloads = many(50)
    for order in (1, -1):
        store = make_store("memory_store")
        write_all(store.open(), dict(list(payloads.items())[::order]), shards=8)
        dumps.append(store.dump())
    assert dumps[0] == dumps[1]
    # and a part of the chunks goes into the same shards
    store = make_store("memory_store")
    write_all(store.open(), dict(list(payloads.items())[:20]), ["vertices"], shards=8)
    assert set(names_below(store, "vertices")) <= {k.split("/")[1] for k in dumps[0] if k.startswith("vertices/")}
    store = make_store("memory_store")
    root = store.root()
    root.create_group("v")
    node = root.create_array("v/__shard_000000", shape=(6,), chunks=(6,), dtype="uint8")
    node[:] = np.frombuffer(b"abcdef", "uint8")
    node.attrs["shard_index"] = {"0.0": [0, 3], "9.9": [3, 3]}
    group = store.open()
    write_all(group, {"0.0": b"new", "1.0": b"beside"}, ["v"], shards=4)
    again = store.open("r")
    assert {k: again.read_bytes("v", k) for k in again.list_chunks("v")} == {"0.0": b"new", "1.0": b"beside", "9.9": b"def"}
    assert names_below(store, "v") == ["__shard_000000"]


def test_ten_thousand_eager_chunks_on_a_cluster(make_store, use_scheduler):
    store = make_store("local_path")
    group = store.open()
    payloads = {f"{i // 100}.{i % 100}.0": bytes([i % 256]) * 8192 for i in range(10_000)}
    with use_scheduler("distributed"), warnings.catch_warnings():
        warnings.simplefilter("error")
        with group.batched_writes(shards=256, compute=False) as batch:
            for key, data in payloads.items():
                group.write_bytes("vertices", key, data)
        lazy = batch.to_delayed()
        assert len(dict(lazy.__dask_graph__())) <= 64
        report = lazy.compute()
    assert report.chunks == 10_000
    assert report.nbytes == 10_000 * 8192
    found = store.open("r")
    with found.batched_reads([("vertices", list(payloads))]):
        assert all(found.read_bytes("vertices", k) == v for k, v in payloads.items())


@pytest.mark.parametrize("shards", [None, 4])
def test_a_task_that_runs_twice_stores_the_same_bytes(make_store, shards):
    store = make_store("memory_store")
    group = store.open()
    write_all(group, many(20), ["vertices"], shards=shards)
    with group.batched_writes(compute=False, shards=shards, block_chunks=4) as batch:
        for key in list(many(20))[::2]:
            group.write_bytes("vertices", key, b"new" + key.encode())
    graph = graph_of(batch)
    blocks = [k for k in graph if "-store-" in k]
    assert len(blocks) > 1
    for key in blocks:
        dask.get(graph, key)
    once = store.dump()
    for key in blocks:
        dask.get(graph, key)
    assert store.dump() == once
    batch.to_delayed().compute(scheduler="sync")
    committed = store.dump()
    batch.to_delayed().compute(scheduler="threads")
    assert store.dump() == committed


def test_twins_of_a_block_at_the_same_time(make_store):
    """A stolen task may run beside its twin."""
    store = make_store("local_path")
    group = store.open(rank=2)
    write_all(group, {f"{i}.0": b"old%d" % i for i in range(8)}, ["v"], shards=16)
    with group.batched_writes(compute=False, shards=16) as batch:
        group.write_bytes("v", "0.0", b"new" * 1000)
    graph = graph_of(batch)
    (key,) = [k for k in graph if "-store-" in k]
    threads = [threading.Thread(target=dask.get, args=(graph, key)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    batch.to_delayed().compute(scheduler="sync")
    found = store.open("r")
    assert [found.read_bytes("v", f"{i}.0") for i in range(8)] == [b"new" * 1000] + [b"old%d" % i for i in range(1, 8)]


def small_batch(group):
    with group.batched_writes() as batch:
        for i in range(4):
            group.write_bytes("v", f"{i}.0.0", b"123")
    return batch.report


def test_a_small_batch_is_run_by_the_scheduler_that_is_set_and_seen_by_callbacks():
    """It runs where it is called only where nobody asks for anything else."""
    calls, seen = [], []

    def get(graph, keys, **options):
        calls.append(keys)
        return dask.local.get_sync(graph, keys, **options)

    with dask.config.set(scheduler=get):
        assert small_batch(dzv.open_group({})).chunks == 4
    assert calls
    with Callback(posttask=lambda key, *_: seen.append(key)):
        assert small_batch(dzv.open_group({})).chunks == 4
    assert seen


def test_an_interrupt_cuts_no_commit_of_a_small_batch_in_half(tmp_path, monkeypatch):
    from dask_zv.graph import writes

    commit = writes.run_block_and_commit

    def interrupted(*args):
        time.sleep(0.2)  # until the main thread waits
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)  # it takes the signal here
        return commit(*args)

    monkeypatch.setattr(writes, "run_block_and_commit", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # the shell may have had it ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            small_batch(dzv.open_group(tmp_path / "g"))
    finally:
        signal.signal(signal.SIGINT, before)
    group = dzv.open_group(tmp_path / "g")
    assert len(group.list_chunks("v")) == 4
    assert group.array_exists("v")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_single_writes_leave_what_is_known_of_other_arrays(layout):
    counting = CountingStore(MemoryStore())
    store = dzv.create(counting, chunk_shape=(10, 10, 10), bounds=((0, 0, 0), (30, 30, 30)), layout=layout, shard_chunks=1)
    dzv.write_points(store, np.random.default_rng(0).uniform(0, 30, (200, 3)))
    group = store.level(0).group
    group.write_bytes("extra", "0.0.0", b"1")
    group.read_bytes("vertices", "0.0.0")  # without a catalog now: what the array holds is looked up
    counting.forget()
    counting.listed.clear()
    group.write_bytes("extra", "0.0.1", b"1")
    group.read_bytes("vertices", "0.0.1")
    assert not [name for name in counting.listed if name.endswith("vertices")]
    assert "0/vertices/zarr.json" not in counting.log


def test_a_single_write_of_per_chunk_looks_at_its_own_group_alone():
    counting = CountingStore(MemoryStore())
    group = dzv.open_group(StorePath(counting, "a/b/c"), layout="per_chunk")
    group.write_bytes("v", "0.0.0", b"1")
    counting.forget()
    group.write_bytes("v", "1.0.0", b"1")
    assert [key for key in counting.log if key in ("zarr.json", "a/zarr.json", "a/b/zarr.json", "a/b/c/zarr.json")].count(
        "a/zarr.json"
    ) <= 1
