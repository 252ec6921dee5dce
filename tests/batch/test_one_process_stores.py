"""Stores that live in one process: refused elsewhere before anything is written, shared by threads and in-process clusters."""

from __future__ import annotations

import dask
import pytest
from dask.delayed import delayed
from layouts import LAYOUTS
from refusals import fails

import dask_zv as dzv

ONE_PROCESS = ["memory_store", "dict", "memory_url", "fsspec_memory", "obstore_memory"]


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return request.param


def block(keys):
    return {("vertices", key): key.encode() for key in keys}


def write_one(group):
    group.write_bytes("vertices", "0.0", b"lost")


@pytest.mark.timeout(120)  # a task that can't be unpickled hangs its client
@pytest.mark.parametrize("name", ONE_PROCESS)
@pytest.mark.parametrize("scheduler", ["processes", "distributed"])
def test_refused_in_other_processes(make_store, use_scheduler, scheduler, name):
    store = make_store(name)
    group = store.open(rank=2)
    group.write_bytes("vertices", "0.0", b"before")
    before = store.dump()
    with use_scheduler(scheduler):
        with pytest.raises(dzv.PlanError, match=r"process|fork") as caught, group.batched_writes() as batch:  # noqa: PT012 - it ends with the batch
            group.write_bytes("vertices", "0.0", b"after")
            batch.write_blobs(delayed(block)(["1.0"]), keys=[("vertices", "1.0")])
        assert "thread" in str(caught.value)
        assert store.dump() == before
        with group.batched_writes(compute=False) as batch:
            batch.write_blobs(delayed(block)(["1.0"]), keys=[("vertices", "1.0")])
        fails(dzv.PlanError, r"process|fork", lambda: dask.compute(batch.to_delayed()))
        fails(dzv.PlanError, "process", lambda: dask.compute(delayed(write_one)(group)))
        assert store.dump() == before
    with group.batched_writes():
        group.write_bytes("vertices", "0.0", b"after")
    assert group.read_bytes("vertices", "0.0") == b"after"


@pytest.mark.parametrize("name", ONE_PROCESS)
def test_shared_by_an_in_process_cluster(make_store, use_scheduler, name):
    store = make_store(name)
    group = store.open(rank=2)
    with use_scheduler("in-process cluster"):
        with group.batched_writes(block_chunks=2) as batch:
            for i in range(6):
                group.write_bytes("vertices", f"{i}.0", b"%d" % i)
            batch.write_blobs(delayed(block)(["7.0", "8.0"]), keys=[("vertices", "7.0"), ("vertices", "8.0")])
        assert batch.report.chunks == 8
    assert store.open("r").list_chunks("vertices") == [*(f"{i}.0" for i in range(6)), "7.0", "8.0"]
    data = store.get("vertices/7.0/c/0" if store.layout == "per_chunk" else "vertices/c/11/4")
    assert data.endswith(b"7.0")


def test_deferred_graph_keeps_its_store_alive(layout):
    mapping = {}
    group = dzv.open_group(mapping, layout=layout)
    group.write_array_meta("vertices", {"shape": [4, 4]} if layout == "grid" else {})
    with group.batched_writes(compute=False) as batch:
        batch.write_bytes("vertices", "0.0", b"1")
    lazy = batch.to_delayed()
    del batch, group
    assert lazy.compute().chunks == 1
    assert dzv.open_group(mapping, "r").read_bytes("vertices", "0.0") == b"1"


def test_store_of_a_dict_ends_with_its_last_user(layout):
    """Nothing of ours keeps the bytes of a dict that the user dropped."""
    import gc
    import weakref

    class Mapping(dict):
        pass

    mapping = Mapping()
    group = dzv.open_group(mapping, layout=layout)
    group.write_array_meta("vertices", {"shape": [4, 4]} if layout == "grid" else {})
    group.write_bytes("vertices", "0.0", b"1")
    gone = weakref.ref(mapping)
    del mapping, group
    gc.collect()
    assert gone() is None
