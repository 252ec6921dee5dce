"""Writes without a Dask cluster: planned, run block by block in processes that share nothing but the store, committed."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
from dask import delayed
from dask.base import tokenize
from dask.delayed import Delayed
from distributed import Client, LocalCluster
from points_reference import files, stored
from small import always, sizes
from writes import N, comparable, create, given, lazily, points

import dask_zv as dzv

KINDS = ("array", "objects", "frame", "streamline", "skeleton", "graph", "mesh")
RUN = """
import sys
import dask_zv as dzv

plan = dzv.load_plan(sys.argv[1])
for block in range(int(sys.argv[2]), len(plan), int(sys.argv[3])):
    plan.run(block).save(f"{sys.argv[4]}/{block}.receipt")
"""

_small = always(write_block_bytes=(6000, 12000))


@pytest.mark.parametrize("kind", KINDS)
def test_jobs_that_share_nothing_but_the_store(kind, tmp_path):
    (geometry, name, arguments), layout = given(kind), "per_chunk" if kind == "objects" else "grid"
    write, plan = getattr(dzv, f"write_{name}"), getattr(dzv, f"plan_{name}")
    write(create(tmp_path / "whole" / "s.zv", geometry, layout), **arguments, resume=True)
    target = tmp_path / "s.zv"
    planned = plan(create(target, geometry, layout), **arguments)
    assert len(planned) > 3
    assert f"{len(planned)} blocks" in repr(planned)
    planned.save(tmp_path / "plan")
    receipts = tmp_path / "receipts"
    receipts.mkdir()
    job = [sys.executable, "-c", RUN, str(tmp_path / "plan")]
    jobs = [subprocess.Popen([*job, str(i), "2", str(receipts)], cwd=tmp_path) for i in range(2)]
    assert [job.wait(120) for job in jobs] == [0, 0]
    assert dzv.open(target).level(0).metadata.vertex_count == 0
    found = sorted(receipts.iterdir())
    assert len(found) == len(planned)
    report = dzv.load_plan(tmp_path / "plan").commit(found)
    assert report.rows == N
    assert {t.worker.rpartition(":")[2] for t in report.times if t.kind == "vertices"} == {str(job.pid) for job in jobs}
    assert comparable(target) == comparable(tmp_path / "whole" / "s.zv")
    # the same write, and a second commit, find it done
    assert write(dzv.open(target, mode="r+"), **arguments, resume=True).blocks == 0
    before = comparable(target)
    assert planned.commit(found).rows == N
    assert comparable(target) == before


@pytest.fixture
def plan(tmp_path):
    return dzv.plan_points(create(tmp_path / "s.zv"), lazily(points()))


def run_all(plan):
    return [plan.run(block) for block in range(len(plan))]


def test_receipts_that_are_lost_or_doubled(plan, tmp_path):
    receipts = run_all(plan)
    before = files(tmp_path / "s.zv")
    with pytest.raises(dzv.PlanError, match=rf"no receipt of 2 of {len(plan)} blocks \(1, 2\).*s\.zv"):
        plan.commit([r for r in receipts if r.block not in (1, 2)])
    assert files(tmp_path / "s.zv") == before
    assert dzv.open(tmp_path / "s.zv").level(0).metadata.vertex_count == 0
    report = plan.commit([*receipts[:1], plan.run(1), plan.run(2), *receipts[3:], plan.run(1), *receipts[::-1]])
    assert (report.rows, report.blocks) == (N, len(plan))
    assert dzv.open(tmp_path / "s.zv").level(0).read().positions.shape == (N, 3)


def test_receipts_of_another_plan(plan, tmp_path):
    other = dzv.plan_points(create(tmp_path / "t.zv"), lazily(points() + 1))
    with pytest.raises(dzv.PlanError, match="the receipt of block 0 is of another plan"):
        plan.commit([*run_all(plan), other.run(0)])


def test_objects_that_are_gone(plan, tmp_path):
    receipts = run_all(plan)
    sorted(p for p in (tmp_path / "s.zv" / "0" / "vertices" / "c").rglob("*") if p.is_file())[0].unlink()
    with pytest.raises(dzv.PlanError, match=rf"the store lacks objects, or has others, of 1 of {len(plan)} blocks \(\d+\)"):
        plan.commit(receipts)
    assert plan.commit(run_all(plan)).rows == N


def test_receipt_files_that_are_damaged(plan, tmp_path):
    path = tmp_path / "r"
    plan.run(0).save(path)
    data = path.read_bytes()
    assert [p.name for p in tmp_path.iterdir() if "part" in p.name] == []
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    for damaged in (data[:-20], bytes(flipped), b"", b"DZVR" * 99, pickle.dumps(data)):
        path.write_bytes(damaged)
        with pytest.raises(dzv.FormatError, match="receipt") as error:
            dzv.load_receipt(path)
        assert str(path) in str(error.value)
    path.unlink()
    with pytest.raises(dzv.NotFoundError, match="no file"):
        dzv.load_receipt(path)
    (tmp_path / "plan").write_bytes(pickle.dumps("something"))
    with pytest.raises(dzv.FormatError, match="no plan"):
        dzv.load_plan(tmp_path / "plan")


def test_receipts_and_plans_pickle(plan):
    again = pickle.loads(pickle.dumps(plan))
    receipts = [pickle.loads(pickle.dumps(receipt)) for receipt in run_all(again)]
    assert "block 0" in repr(receipts[0])
    assert plan.commit(receipts).rows == N
    for block in (-1, len(plan)):
        with pytest.raises(TypeError, match="'str' object cannot be interpreted as an integer"):
            plan.run("0")
        with pytest.raises(IndexError, match=f"the plan has {len(plan)} blocks"):
            plan.run(block)


def test_a_block_reads_the_partitions_that_it_needs(tmp_path):
    """In an input whose partitions lie apart, a block makes few of them."""
    made = []

    def slab(block_info=None):
        (number,) = block_info[None]["chunk-location"][:1]
        made.append(number)
        return np.random.default_rng(number).uniform((0, 0, 100 * number), (100, 100, 100 * number + 99), (500, 3))

    where = da.map_blocks(slab, chunks=((500,) * 6, (3,)), dtype=np.float64, meta=np.zeros((0, 3)))
    with sizes(scheduler="sync"):
        plan = dzv.plan_points(create(tmp_path / "s.zv"), where)
        assert sorted(made) == list(range(6))
        receipts = []
        for block in range(len(plan)):
            before = len(made)
            receipts.append(plan.run(block))
            assert len(made) - before <= 3
        assert plan.commit(receipts).rows == 3000


def test_a_plan_for_a_store_in_memory_stays_in_its_process():
    plan = dzv.plan_points(create({}), points())
    code = "import pickle, sys; pickle.load(sys.stdin.buffer).run(0)"
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(plan), capture_output=True)
    assert done.returncode == 1
    assert b"lives in the memory of one process" in done.stderr
    assert plan.commit(run_all(plan)).rows == N


def test_blocks_of_a_transaction_are_run_together(tmp_path):
    icechunk = pytest.importorskip("icechunk")
    session = icechunk.Repository.create(icechunk.in_memory_storage()).writable_session("main")
    store = create(session)
    plan = dzv.plan_points(store, points())
    for act in (lambda: plan.run(0), lambda: plan.commit([]), lambda: plan.save(tmp_path / "plan"), lambda: pickle.dumps(plan)):
        with pytest.raises(dzv.InputError, match="Icechunk"):
            act()
    assert store.finish(plan.compute()).rows == N
    assert len(store.level(0).read().positions) == N


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_is_a_collection(kind, tmp_path):
    """compute=False and plan_* return the same; it joins other work, and stores what the call itself does."""
    (geometry, name, arguments), layout = given(kind), "per_chunk" if kind == "objects" else "grid"
    write, plan = getattr(dzv, f"write_{name}"), getattr(dzv, f"plan_{name}")
    write(create(tmp_path / "whole" / "s.zv", geometry, layout), **arguments)
    (tmp_path / "other").mkdir()
    targets = tmp_path / "s.zv", tmp_path / "other" / "s.zv"
    plans = [
        write(create(targets[0], geometry, layout), **arguments, compute=False),
        plan(create(targets[1], geometry, layout), **arguments),
    ]
    assert [type(p) for p in plans] == [dzv.WritePlan] * 2
    assert isinstance(plans[0], Delayed)
    assert len({tokenize(p) for p in plans}) == 2
    with pytest.raises(AttributeError, match="neither a plan nor its report has 'comit'.*commit"):
        plans[0].comit([])
    total, double = da.arange(10, chunks=5).sum(), delayed(lambda report: 2 * report.rows)(plans[1])
    found = dask.compute(plans[0], plans[1].rows, double, scheduler="sync")
    assert (found[0].rows, *found[1:]) == (N, N, 2 * N)
    assert dask.compute({"sum": total, "written": plans[0]})[0]["written"].rows == N  # once more, on threads, stores the same
    wanted = comparable(tmp_path / "whole" / "s.zv")
    assert [comparable(t) for t in targets] == [wanted] * 2


@pytest.mark.timeout(120)
def test_a_plan_on_a_cluster_and_off_it(tmp_path):
    """In memory or lazy: the workers take what they hold, other processes what the plan does."""
    inputs = {"array": points(), "lazy": lazily(points())}
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster) as client:
        made = {name: dzv.plan_points(create(tmp_path / name), where) for name, where in inputs.items()}
        paths = dzv.plan_polylines(create(tmp_path / "paths", "streamline"), lazily(points()), lengths=np.full(40, 100))
        assert client.compute(made["array"]).result().rows == N
        assert client.submit(len, made["lazy"]).result() > 3
        for name, plan in (*made.items(), ("paths", paths)):
            plan.save(tmp_path / f"{name}.plan")
        persisted = dzv.plan_points(create(tmp_path / "persisted"), lazily(points()).persist())
        with pytest.raises(dzv.PlanError, match=r"held by the workers.*persisted"):
            persisted.save(tmp_path / "no.plan")
        assert dask.compute(made["lazy"], persisted)[1].rows == N
    wanted = stored(tmp_path / "lazy")
    for name in ("array", "paths"):
        plan = dzv.load_plan(tmp_path / f"{name}.plan")
        if name == "paths":
            assert plan.commit(run_all(plan)).objects == 40
        else:
            assert stored(tmp_path / name).keys() == wanted.keys()


def test_a_plan_goes_on_where_a_killed_one_stopped(tmp_path):
    """A process that computes a plan is killed; the same plan, with resume=True, has its blocks as done."""
    code = """
import os, signal, sys
import dask
import dask_zv as dzv
from dask_zv.graph import tasks
from writes import create, lazily, points

store, left = tasks.store_block, [3]
def killed(spec, payload):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return store(spec, payload)
tasks.store_block = killed
dask.config.set({"scheduler": "sync", "dask_zv.write-block-bytes": (6000, 12000)})
dzv.write_points(create(sys.argv[1]), lazily(points()), resume=True, compute=False).compute()
"""
    target = tmp_path / "s.zv"
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent), *sys.path])}
    assert subprocess.run([sys.executable, "-c", code, str(target)], env=environment, timeout=100).returncode == -9
    plan = dzv.write_points(dzv.open(target, mode="r+"), lazily(points()), resume=True, compute=False)
    before = {p: p.stat().st_mtime_ns for p in target.rglob("c/*") if p.is_file()}
    assert len(list((target / "0" / "dask_zv_journal" / "c").iterdir())) == 3
    receipts = [plan.run(block) for block in range(3)]
    assert {p: p.stat().st_mtime_ns for p in before} == before
    plan.save(tmp_path / "plan")
    rest = dzv.load_plan(tmp_path / "plan")
    report = rest.commit([*receipts, *(rest.run(block) for block in range(3, len(rest)))])
    assert (report.rows, len(rest)) == (N, len(plan))
    dzv.write_points(create(tmp_path / "whole" / "s.zv"), lazily(points()), resume=True)
    assert comparable(target) == comparable(tmp_path / "whole" / "s.zv")
    done = dzv.write_points(dzv.open(target, mode="r+"), lazily(points()), resume=True, compute=False)
    assert (done.compute().rows, done.compute().blocks) == (N, 0)


def test_overwriting(tmp_path):
    """Until the commit readers get what was there, or an error, never a mixture; after it, the new."""
    store = create(tmp_path / "s.zv")
    dzv.write_points(store, points())
    plan = dzv.plan_points(store, points()[:2000] + 0.25, mode="overwrite")
    receipts = run_all(plan)
    with pytest.raises(dzv.ZVError):
        dzv.open(tmp_path / "s.zv").level(0).read()
    assert plan.commit(receipts).rows == 2000
    found = dzv.open(tmp_path / "s.zv").level(0).read().positions
    assert np.array_equal(np.sort(found, axis=0), np.sort(points()[:2000] + np.float32(0.25), axis=0))
    document = json.loads((tmp_path / "s.zv" / "0" / "zarr.json").read_text())["attributes"]
    assert document["zarr_vectors_level"]["vertex_count"] == 2000
    with pytest.raises(dzv.PlanError, match="committed already"):  # it would mark what readers have now as half replaced
        plan.run(0)


def test_a_plan_of_another_version_is_refused(tmp_path):
    """What the modules of a pickle were called is another version's business."""
    (tmp_path / "plan").write_bytes(b"dask-zv plan 3\n" + b"anything")
    with pytest.raises(dzv.FormatError, match="of another version of dask-zv: .*plan again"):
        dzv.load_plan(tmp_path / "plan")
