"""Graphs that would be too large go in waves; what a write shows and logs while it runs; blocks that fit their workers."""

import logging
import os
import re
import subprocess
import sys
import time
import types

import dask
import numpy as np
import pandas as pd
import pytest
from points_reference import files
from small import always, sizes
from writes import ROW, N, comparable, create, given, lazily, points

import dask_zv as dzv

_small = always(write_block_bytes=(4000, 8000))


def on(*schedulers):
    return pytest.mark.parametrize("scheduler", schedulers)


def write(target, **options):
    """Write points of objects into a new store."""
    attributes, ids = {"row": lazily(ROW)}, lazily(ROW % 9)
    return dzv.write_points(create(target), lazily(points()), attributes=attributes, object_ids=ids, **options)


@pytest.fixture
def whole(tmp_path):
    """Return what a write at once stores."""
    write(tmp_path / "whole" / "s.zv")
    return comparable(tmp_path / "whole" / "s.zv")


@pytest.fixture
def graphs(monkeypatch):
    """Return a list that grows with the number of tasks of each graph that is computed."""
    from dask_zv.write import running

    lengths = []

    def note(function):
        def noted(delayed, **options):
            lengths.append(len((delayed[0] if isinstance(delayed, list) else delayed).__dask_graph__()))
            return function(delayed, **options)

        return noted

    for name in ("compute_one", "compute_many"):
        monkeypatch.setattr(running, name, note(getattr(running, name)))
    return lengths


@on("sync", "threads", "processes", "distributed")
def test_waves(scheduler, use_scheduler, graphs, whole, tmp_path):
    limit = 60
    assert graphs[0] > 2 * limit
    with use_scheduler(scheduler), sizes(max_graph_tasks=limit):
        report = write(tmp_path / "s.zv", progress=True)
    assert len(graphs) > 4
    assert max(graphs[1:-1]) <= limit + 2 * 8 + 2  # and the partitions themselves
    assert report.rows == N
    assert comparable(tmp_path / "s.zv") == whole


def test_waves_of_links(tmp_path):
    arguments = given("graph")[2]
    for name, limit in (("whole", 50_000), ("waves", 10)):
        with sizes(max_graph_tasks=limit):
            dzv.write_graph(create(tmp_path / name / "s.zv", "graph"), **arguments)
    assert comparable(tmp_path / "waves" / "s.zv") == comparable(tmp_path / "whole" / "s.zv")


def test_waves_that_were_interrupted(tmp_path, monkeypatch):
    from dask_zv.graph import tasks as graph

    store, left = graph.store_block, [6]

    def failing(spec, payload):
        left[0] -= 1
        if left[0] < 0:
            raise OSError("power cut")
        return store(spec, payload)

    target, options = create(tmp_path / "s.zv"), {"attributes": {"row": lazily(ROW)}, "object_ids": lazily(ROW % 9)}
    with sizes(max_graph_tasks=60, scheduler="sync"):
        monkeypatch.setattr(graph, "store_block", failing)
        with pytest.raises(OSError, match="power cut"):
            dzv.write_points(target, lazily(points()), **options, resume=True)
        monkeypatch.setattr(graph, "store_block", store)
        assert dzv.write_points(target, lazily(points()), **options, resume=True).rows == N
    write(tmp_path / "again" / "s.zv", resume=True)
    assert comparable(tmp_path / "s.zv") == comparable(tmp_path / "again" / "s.zv")


@pytest.mark.parametrize("limit", [0, -1, "many", 1.5])
def test_a_limit_that_is_none(limit, tmp_path):
    with dask.config.set({"dask_zv.max-graph-tasks": limit}), pytest.raises(dzv.InputError, match="max-graph-tasks"):
        write(tmp_path / "s.zv")
    assert dzv.open(tmp_path / "s.zv").level(0).metadata.vertex_count == 0


@on("sync", "threads", "processes", "distributed")
def test_progress_is_the_same_on_every_scheduler(scheduler, use_scheduler, tmp_path, capsys):
    with use_scheduler(scheduler):
        report = write(tmp_path / "s.zv", progress=True)
    first, last = capsys.readouterr().err.strip().splitlines()[-2:]
    assert re.search(rf"\[ +\] writing: 0/{report.blocks} blocks, 0\.0 MB", first)
    assert re.search(
        rf"\[#+\] writing: {report.blocks}/{report.blocks} blocks, {report.nbytes / 1e6:.1f} MB, [\d.]+ MB/s", last
    )


@on("threads", "distributed")
def test_nothing_is_shown_or_logged_on_the_cluster_unasked(scheduler, use_scheduler, tmp_path, capsys):
    with use_scheduler(scheduler) as client:
        write(tmp_path / "s.zv")
        if client is not None:
            before = [t for t in client.get_events() if t.startswith("dask-zv")]
            write(tmp_path / "t.zv")
            assert [t for t in client.get_events() if t.startswith("dask-zv")] == before
    assert capsys.readouterr().err == ""


def test_progress_in_a_terminal_overwrites_one_line(tmp_path):
    code = (
        "import pty, sys, os, numpy as np\n"
        "import dask_zv as dzv\n"
        f"dzv.write_points(dzv.create({str(tmp_path / 's.zv')!r}, chunk_shape=(20, 20, 20)), np.ones((50, 3)), progress=True)\n"
    )
    import pty

    leader, follower = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", code], stderr=follower)
    os.close(follower)
    shown = b""
    while True:
        try:
            data = os.read(leader, 10_000)
        except OSError:  # the other side is closed
            break
        if not data:
            break
        shown += data
    assert process.wait(60) == 0
    os.close(leader)
    text = shown.decode()
    assert text.count("\n") == 1
    assert text.count("\r") >= 2
    assert "1/1 blocks" in text


def test_progress_in_a_notebook(monkeypatch, tmp_path):
    from dask_zv.graph import progress

    shown = []
    handle = types.SimpleNamespace(update=shown.append)
    display = types.SimpleNamespace(HTML=str, display=lambda first, display_id: handle)

    class ZMQInteractiveShell:
        pass

    fake = types.ModuleType("IPython")
    fake.get_ipython = ZMQInteractiveShell
    fake.display = display
    monkeypatch.setitem(sys.modules, "IPython", fake)
    assert progress._in_notebook()
    write(tmp_path / "s.zv", progress=True)
    assert "<progress" in shown[-1]
    assert 'value="1.0000"' in shown[-1]


def test_progress_of_batches_and_conversions(tmp_path, capsys):
    write(tmp_path / "s.zv")
    dzv.convert(tmp_path / "s.zv", tmp_path / "t.zv", shard_chunks=8, progress=True)
    assert re.search(r"writing: (\d+)/\1 blocks", capsys.readouterr().err)
    group = dzv.open_group({}, "w")
    with group.batched_writes(progress=True):
        group.write_bytes("a", "0.0", b"x")
    assert "1/1 blocks" in capsys.readouterr().err


@on("threads", "processes", "distributed")
def test_log(scheduler, use_scheduler, tmp_path):
    with use_scheduler(scheduler):
        report = write(tmp_path / "s.zv")
    log = report.log()
    assert list(log.columns) == ["kind", "block", "start", "end", "seconds", "nbytes", "worker", "retries"]
    assert sorted(log.block) == list(range(report.blocks))
    assert (log.kind == "vertices").all()
    assert int(log.nbytes.sum()) == report.nbytes
    assert (log.end >= log.start).all()
    assert log.start.is_monotonic_increasing
    assert isinstance(log.start.dtype, pd.DatetimeTZDtype)
    assert np.allclose((log.end - log.start).dt.total_seconds(), log.seconds, atol=1e-5)
    assert (log.retries == 0).all()
    workers = set(log.worker)
    if scheduler == "distributed":
        assert all(w.startswith("tcp://") for w in workers)
    else:
        assert (f"{os.uname().nodename}:{os.getpid()}" in workers) == (scheduler == "threads")


def test_log_of_nothing(tmp_path):
    report = dzv.write_points(create(tmp_path / "s.zv"), np.zeros((0, 3)))
    assert len(report.log()) == report.blocks == 0


def test_logging_reaches_the_client(use_scheduler, tmp_path, caplog):
    caplog.set_level(logging.INFO, "dask_zv")
    with use_scheduler("distributed") as client:
        client.run(lambda: logging.getLogger("dask_zv").setLevel(logging.INFO))
        client.forward_logging("dask_zv", level=logging.INFO)
        try:
            report = write(tmp_path / "s.zv")
            for _ in range(100):  # records come on a channel of their own
                lines = [m for r in caplog.records if (m := re.search(r"stored block (\d+) of vertices", r.getMessage()))]
                if len(lines) >= report.blocks:
                    break
                time.sleep(0.05)
        finally:
            client.unforward_logging("dask_zv")
    assert {int(m[1]) for m in lines} == set(range(report.blocks))


def skewed():
    """Return points of which most lie in one chunk, and the rest everywhere."""
    rng = np.random.default_rng(0)
    return np.concatenate([rng.uniform(20, 40, (N, 3)), rng.uniform(0, 320, (N, 3))]).astype(np.float32)


def write_skewed(target, chunk=(10, 10, 10), **options):
    return dzv.write_points(dzv.create(target, chunk_shape=chunk, **options), skewed())


def test_blocks_are_balanced_by_rows(tmp_path):
    held = write_skewed(tmp_path / "s.zv", shard_chunks=1).log().nbytes
    assert len(held) > 8
    assert held.max() < 4 * held.median()


@pytest.mark.parametrize("layout", ["grid", "per_chunk"])
def test_shards_are_sized_by_the_densest_region(layout, tmp_path):
    """The dense corner of a sparse level does not become one huge object."""
    for limit, least, most in ((1 << 30, 40_000, np.inf), (20_000, 0, 25_000)):
        target = tmp_path / f"{limit}.zv"
        with sizes(few_chunks=10, shard_bytes=limit):
            write_skewed(target, layout=layout, compressor=None)
        largest = max(len(data) for name, data in files(target).items() if "vertices/" in name and "/c/" in name)
        assert least < largest < most
        assert len(dzv.open(target).level(0).read().positions) == 2 * N


def test_a_chunk_larger_than_a_block_says_so(tmp_path):
    with sizes(write_block_limit=30_000):
        with pytest.warns(dzv.ZVWarning, match=r"chunk 1\.1\.1 holds 4,0\d\d vertices, 0 MB.*smaller chunk_shape"):
            assert write_skewed(tmp_path / "s.zv", (20, 20, 20)).rows == 2 * N
        with pytest.warns(dzv.ZVWarning, match=r"the shard of chunk .* of 8 chunks,.*smaller shards"):
            write_skewed(tmp_path / "t.zv", shard_chunks=8)


def test_blocks_fit_the_workers(tmp_path, monkeypatch, use_scheduler):
    """Workers with little memory get smaller blocks; the stored bytes are the same."""
    from dask_zv.graph import run
    from dask_zv.write import planning as module

    with use_scheduler("distributed") as client:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        room = [(w["memory_limit"] - run._INTERPRETER_BYTES, w["nthreads"]) for w in workers]
        assert run.task_memory() == min(memory // threads for memory, threads in room)
        assert run.cluster_memory() == sum(memory for memory, _ in room)
    with use_scheduler("threads"):
        assert run.task_memory() is None
    blocks = []
    for memory in (32 * 4000, 32 * 16000):
        monkeypatch.setattr(module, "task_memory", lambda memory=memory: memory)
        with sizes(write_block_bytes=(1000, 1 << 20), write_block_least=1):
            blocks.append(dzv.write_points(create(tmp_path / f"{memory}.zv"), points()).blocks)
    assert blocks[0] > blocks[1] > 1
    assert comparable(tmp_path / f"{32 * 4000}.zv") == comparable(tmp_path / f"{32 * 16000}.zv")
