"""Calls from inside tasks, from event loops, on clusters without workers; and calls that fail, after which nothing runs on."""

from __future__ import annotations

import _thread
import asyncio
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster
from refusals import fails

import dask_zv as dzv
from dask_zv.graph.builder import GraphBuilder

N = 4000
CHUNK = (10.0, 10.0, 10.0)


def points():
    return np.random.default_rng(0).uniform(0, 40, (N, 3))


def lazy():
    return da.from_array(points(), chunks=(500, 3))


@pytest.fixture(scope="module")
def narrow():
    """A client of one worker with one thread, in this process."""
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def many_blocks(override):
    override(write_block_bytes=(8000, 16000))


@pytest.mark.timeout(120)
def test_every_call_that_waits_inside_a_task(narrow, tmp_path):
    def write(path):
        store = dzv.create(path, chunk_shape=CHUNK)
        written = dzv.write_points(store, lazy(), object_ids=da.arange(N, chunks=500) % 7)
        store.refresh()
        group = dzv.open_group(f"{path}-group", "w", layout="per_chunk")
        with group.batched_writes() as batch:
            batch.write_bytes("blobs", "0.0.0", b"x")
        dzv.convert(path, f"{path}-7", layout="per_chunk")
        found = dzv.open(path).level(0).read(bbox=((0, 0, 0), (20, 20, 20)))
        return written.rows, len(found.positions), len(dzv.open(f"{path}-7").level(0).read().positions)

    inside = int((points() <= 20).all(axis=1).sum())
    # two at once: each waits for tasks that need the only thread
    futures = narrow.map(write, [str(tmp_path / "a.zv"), str(tmp_path / "b.zv")])
    assert narrow.gather(futures) == [(N, inside, N)] * 2


@pytest.mark.timeout(120)
def test_blocks_of_a_plan_as_tasks(narrow, many_blocks, tmp_path):
    plan = dzv.plan_points(dzv.create(tmp_path / "s.zv", chunk_shape=CHUNK), lazy())
    assert len(plan) > 3
    receipts = narrow.gather(narrow.map(plan.run, range(len(plan))))
    assert plan.commit(receipts).rows == N


@pytest.mark.timeout(120)
def test_a_task_that_has_seceded_already(narrow, tmp_path):
    def write(path):
        from distributed import rejoin, secede

        secede()
        rows = dzv.write_points(dzv.create(path, chunk_shape=CHUNK), lazy()).rows
        rejoin()
        return rows

    assert narrow.submit(write, str(tmp_path / "s.zv")).result() == N


@pytest.mark.timeout(120)
def test_asynchronous_clients(tmp_path):
    async def main():
        async with (
            LocalCluster(n_workers=1, processes=False, dashboard_address=":0", asynchronous=True) as cluster,
            Client(cluster, asynchronous=True) as client,
        ):
            store = dzv.create(tmp_path / "s.zv", chunk_shape=CHUNK)
            fails(dzv.PlanError, "await asyncio.to_thread", lambda: dzv.write_points(store, lazy()))
            report = await asyncio.to_thread(dzv.write_points, store, lazy())
            delayed = await asyncio.to_thread(dzv.write_points, store, lazy(), mode="overwrite", compute=False)
            return report, await client.compute(delayed)

    one, other = asyncio.run(main())
    assert one.rows == other.rows == N


@pytest.mark.timeout(120)
def test_a_cluster_without_workers_is_told(tmp_path):
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as cluster,
        Client(cluster),
        dask.config.set({"dask_zv.workers-timeout": 0.4}),
    ):
        store = dzv.create(tmp_path / "s.zv", chunk_shape=CHUNK)
        for positions in (lazy(), points()):
            fails(dzv.PlanError, r"no workers for 0\.4 s: start some \(cluster.scale", dzv.write_points, store, positions)
        with dask.config.set({"dask_zv.workers-timeout": -1}), pytest.raises(dzv.InputError, match="above 0"):
            dzv.write_points(store, lazy())
        with dask.config.set({"dask_zv.workers-timeout": 60}):  # workers that come late
            later = threading.Timer(0.5, cluster.scale, [1])
            later.start()
            assert dzv.write_points(store, lazy()).rows == N
            later.join()


class Seen:
    """What blocks on workers in this process do: what they count, and what they call."""

    begun = running = 0
    lock = threading.Lock()
    trap = None


def seen(block, block_info=None):
    if not block_info or not len(block):
        return block
    with Seen.lock:
        Seen.begun += 1
        Seen.running += 1
        number = Seen.begun
    try:
        Seen.trap(number)
        time.sleep(0.2)
        return block
    finally:
        with Seen.lock:
            Seen.running -= 1


def seen_positions(trap):
    Seen.begun, Seen.running, Seen.trap = 0, 0, staticmethod(trap)
    return da.from_array(points(), chunks=(500, 3), name=False).map_blocks(seen, meta=np.zeros((0, 3)))


def failing(at, error):
    def trap(number):
        if number == at:
            raise error

    return trap


def check_over():
    assert Seen.running == 0
    begun = Seen.begun
    time.sleep(0.2)
    assert Seen.begun == begun


@pytest.mark.timeout(120)
def test_a_write_on_a_cluster_that_fails_is_over(tmp_path, request):
    """In the scan and in the write; by an error, the user, and for want of workers; and what else the client holds is left alone."""

    def fail(at):
        return failing(at, OSError("disk on fire"))

    def interrupt(at):
        return lambda number: _thread.interrupt_main() if number == at else None

    # a shell that starts the tests in the background has them ignore it
    request.addfinalizer(partial(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.default_int_handler)))
    with (
        LocalCluster(n_workers=2, threads_per_worker=2, processes=False, dashboard_address=":0") as cluster,
        Client(cluster) as client,
        dask.config.set({"dask_zv.workers-timeout": 0.4}),
    ):
        other = client.submit(len, "four")
        stream = client.scheduler_comm
        for keep in ("1 GiB", 0):
            for error, trap in ((OSError, fail), (KeyboardInterrupt, interrupt)):
                for at in (3, 11) if keep == 0 else (3,):  # the scan has looked at all eight: more is the write
                    store = dzv.create(tmp_path / "s.zv", chunk_shape=CHUNK, overwrite=True)
                    with dask.config.set({"dask_zv.keep-input": keep}), pytest.raises(error) as caught:
                        dzv.write_points(store, seen_positions(trap(at)))
                    check_over()
                    assert "the write to" in "".join(caught.value.__notes__)
        assert client.scheduler_comm is stream
        assert other.result() == 4
        store = dzv.create(tmp_path / "s.zv", chunk_shape=CHUNK, overwrite=True)
        for keep in ("1 GiB", 0):
            cluster.scale(2)
            client.wait_for_workers(2)
            lost = seen_positions(lambda number: cluster.scale(0) if number == 3 else None)
            with dask.config.set({"dask_zv.keep-input": keep}), pytest.raises(dzv.PlanError, match="no workers for"):
                dzv.write_points(store, lost)


def test_annotations_hold_for_our_tasks_wherever_they_are_computed(narrow, tmp_path):
    store = dzv.create(tmp_path / "s.zv", chunk_shape=CHUNK)
    positions = lazy()
    with dask.annotate(priority=7, retries=3):
        delayed = dzv.write_points(store, positions, compute=False)
    graph = delayed.__dask_graph__()
    annotated = {k for layer in graph.layers.values() if layer.annotations == {"priority": 7, "retries": 3} for k in layer}
    assert {k for k in graph if isinstance(k, str) and k.startswith("zv-points-")} == annotated
    assert delayed.compute().rows == N
    assert not hasattr(dzv.write_points(store, lazy(), mode="overwrite", compute=False).__dask_graph__(), "layers")


@pytest.mark.parametrize("pool", ["own", "pool", "scheduler"])
@pytest.mark.parametrize("error", [OSError("disk on fire"), KeyboardInterrupt()])
def test_a_threaded_write_that_fails_is_over(pool, error, tmp_path):
    positions = seen_positions(failing(10, error))  # the scan has looked at all eight, this is the write
    with ThreadPoolExecutor(4) as executor:
        settings = {"own": {"scheduler": "threads", "num_workers": 4}, "pool": {"pool": executor, "scheduler": "threads"}}
        with (
            dask.config.set({**settings.get(pool, {"scheduler": executor}), "dask_zv.keep-input": 0}),
            pytest.raises(type(error)) as caught,
        ):
            dzv.write_points(dzv.create(tmp_path / "s.zv", chunk_shape=CHUNK), positions)
        check_over()
    assert "mode='overwrite'" in "".join(caught.value.__notes__)


def test_keys_of_a_builder_name_its_run():
    """Annotations go by it."""
    builder = GraphBuilder("zv-x")
    assert builder.run in builder.key("store", 3)
