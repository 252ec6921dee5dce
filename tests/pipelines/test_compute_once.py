"""A lazy source runs once where its partitions fit into memory, and what is kept goes with the write, its graph, its worker."""

import gc
import logging
import time
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
from dask import delayed
from distributed import Client, LocalCluster
from points_reference import stored

import dask_zv as dzv
from dask_zv.errors import InputError

PARTS, ROWS = 4, 500
N = PARTS * ROWS
CHUNK = (50.0, 50.0, 50.0)
BYTES = N * 24 + PARTS * 400


class Source:
    """Points (or edges) of tasks that note their calls as files, and of which no two give the same unless they are seeded."""

    def __init__(self, folder, seeded=False, width=3):
        self.folder, self.seeded, self.width = Path(folder), seeded, width
        self.folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, number):
        (self.folder / f"{number}-{time.time_ns()}").touch()
        rng = np.random.default_rng(number if self.seeded else None)
        return rng.uniform(0, 100, (ROWS, 3)) if self.width == 3 else rng.integers(0, N, (ROWS, 2))

    def __dask_tokenize__(self):
        return str(self.folder), time.time_ns()

    def array(self, known=True):
        rows = ROWS if known else np.nan
        dtype = float if self.width == 3 else np.int64
        parts = [da.from_delayed(delayed(self)(i), (rows, self.width), dtype) for i in range(PARTS)]
        whole = da.concatenate(parts, allow_unknown_chunksizes=True)
        return abs(whole)  # a second task to a partition

    def calls(self):
        found = list(self.folder.iterdir())
        for path in found:
            path.unlink()
        return len(found)


def write(folder, points, **options):
    return dzv.write_points(dzv.create(folder, chunk_shape=CHUNK), points, **options)


def rows_of(folder):
    return len(dzv.open(folder).level(0).read().positions)


def both_ways(tmp_path, source):
    """Write at once and lazily, on the active scheduler."""
    assert write(tmp_path / "now", source.array(known=False)).rows == N
    assert source.calls() == PARTS
    later = write(tmp_path / "later", source.array(), compute=False)
    assert source.calls() == PARTS
    report, three = dask.compute(later, delayed(sum)([1, 2]))
    assert (report.rows, three, source.calls()) == (N, 3, 0)
    assert rows_of(tmp_path / "now") == rows_of(tmp_path / "later") == N


@pytest.mark.parametrize("scheduler", ["sync", "threads", "processes"])
def test_local_schedulers(tmp_path, scheduler):
    seeded = Source(tmp_path / "seeded", seeded=True)
    with dask.config.set({"dask_zv.keep-input": 0}):
        write(tmp_path / "twice", seeded.array())
    assert seeded.calls() == 2 * PARTS
    with dask.config.set({"scheduler": scheduler, "num_workers": 1 if scheduler == "processes" else 2}):
        if scheduler != "processes":  # each computation there takes seconds to begin
            both_ways(tmp_path, Source(tmp_path / "calls"))
        write(tmp_path / "once", seeded.array())
    assert seeded.calls() == PARTS
    one, two = stored(tmp_path / "once"), stored(tmp_path / "twice")
    del one["zarr.json"], two["zarr.json"]  # the store's name
    assert one == two


def test_what_does_not_fit_is_read_twice(tmp_path):
    source = Source(tmp_path / "calls", seeded=True)
    for known in (True, False):
        with dask.config.set({"dask_zv.keep-input": BYTES // 2, "scheduler": "sync"}):
            assert write(tmp_path / str(known), source.array(known)).rows == N
        assert source.calls() == 2 * PARTS
    with dask.config.set({"dask_zv.keep-input": "many"}), pytest.raises(InputError, match=r"keep-input.*'many'"):
        write(tmp_path / "no", source.array())


def test_what_is_kept_counts_until_it_is_let_go(tmp_path):
    source = Source(tmp_path / "calls", seeded=True)
    with dask.config.set({"dask_zv.keep-input": BYTES, "scheduler": "threads"}):
        first = write(tmp_path / "0", source.array(), compute=False)
        assert source.calls() == PARTS
        write(tmp_path / "1", source.array())  # no room beside the first
        assert source.calls() == 2 * PARTS
        joined = delayed(lambda report: report.rows)(first)
        del first
        write(tmp_path / "2", source.array())
        assert source.calls() == 2 * PARTS
        assert joined.compute() == N
        del joined
        gc.collect()
        write(tmp_path / "3", source.array())
        assert source.calls() == PARTS
        wrong = {"object_ids": da.zeros(N, chunks=ROWS, dtype=int), "object_attributes": {"a": np.arange(7)}}
        with pytest.raises(InputError, match="7 rows") as failed:
            write(tmp_path / "4", source.array(), **wrong)
        source.calls()
        write(tmp_path / "5", source.array())  # what failed keeps nothing, though its traceback is there
        assert source.calls() == PARTS
        assert failed.traceback


def test_links_and_plans(tmp_path):
    points, edges = Source(tmp_path / "points"), Source(tmp_path / "edges", width=2)
    store = dzv.create(tmp_path / "graph", geometry="graph", chunk_shape=CHUNK)
    assert dzv.write_graph(store, points.array(), edges=edges.array()).rows == N
    assert (points.calls(), edges.calls()) == (PARTS, PARTS)
    assert len(store.level(0).read().edges) == N
    seeded = Source(tmp_path / "planned", seeded=True)
    plan = dzv.plan_points(dzv.create(tmp_path / "plan", chunk_shape=CHUNK), seeded.array())
    plan.save(tmp_path / "saved")
    assert (tmp_path / "saved").stat().st_size < BYTES // 2  # how partitions are made, not what is in them
    assert plan.commit([plan.run(b) for b in range(len(plan))]).rows == N
    assert seeded.calls() >= 2 * PARTS  # other processes are to run it: nothing was kept here
    kept = dzv.write_points(dzv.create(tmp_path / "kept", chunk_shape=CHUNK), seeded.array(), compute=False)
    kept.save(tmp_path / "saved")
    assert kept.commit([kept.run(b) for b in range(len(kept))]).rows == N
    assert seeded.calls() == PARTS  # this process has kept them
    assert dzv.load_plan(tmp_path / "saved").run(0).block == 0
    assert seeded.calls() == PARTS


def test_in_memory_and_persisted_input_is_not_kept_again(tmp_path):
    points = np.random.default_rng(0).uniform(0, 100, (N, 3))
    with dask.config.set({"dask_zv.keep-input": BYTES, "scheduler": "threads"}):
        inputs = points, da.from_array(points, chunks=-1), Source(tmp_path / "calls").array().persist()
        held = [write(tmp_path / str(i), given, compute=False) for i, given in enumerate(inputs)]
        source = Source(tmp_path / "more")
        write(tmp_path / "3", source.array())
        assert source.calls() == PARTS
        assert [r.rows for r in dask.compute(*held)] == [N] * 3


def in_a_task(folder, source):
    return write(folder, source.array()).rows


def test_cluster(tmp_path, caplog):
    caplog.set_level(logging.CRITICAL, "distributed")
    source, seeded = Source(tmp_path / "calls"), Source(tmp_path / "seeded", seeded=True)
    with LocalCluster(n_workers=2, threads_per_worker=2, processes=False, dashboard_address=":0") as cluster:
        with Client(cluster) as client:
            both_ways(tmp_path, source)
            gc.collect()
            for _ in range(100):
                if not cluster.scheduler.tasks:
                    break
                time.sleep(0.05)
            assert not cluster.scheduler.tasks  # nothing is kept any longer
            assert client.submit(in_a_task, tmp_path / "inside", source).result() == N
            assert source.calls() == PARTS
            with dask.config.set({"dask_zv.max-graph-tasks": 10}):
                assert write(tmp_path / "waves", source.array()).rows == N
            assert source.calls() == PARTS
            with dask.config.set({"dask_zv.keep-input": BYTES // 2}):
                write(tmp_path / "much", seeded.array(known=False))
            assert seeded.calls() == 2 * PARTS
            # a worker goes, and what it kept: made again, and compared
            same, other = (write(tmp_path / f"lost {s.folder.name}", s.array(), compute=False) for s in (seeded, source))
            assert (seeded.calls(), source.calls()) == (PARTS, PARTS)
            client.sync(next(iter(cluster.workers.values())).close)
            assert same.compute().rows == N
            assert 0 < seeded.calls() < PARTS
            with pytest.raises(InputError, match=r"partition \d+ .*persist\(\) it, or seed it"):
                other.compute()
            later = write(tmp_path / "later without", seeded.array(), compute=False)
        assert later.compute().rows == N  # the cluster is gone
