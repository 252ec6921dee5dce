"""Writes without a Dask cluster: planned, run block by block in processes that share nothing but the store, committed."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
from points_reference import files, stored

import dask_zv as dzv

N = 3000
CHUNK = (25.0, 25.0, 25.0)


@pytest.fixture(autouse=True)
def small_blocks(override):
    override(write_block_bytes=(6000, 12000))


def points():
    return np.random.default_rng(0).uniform(0, 100, (N, 3)).astype(np.float32)


def lazy_frame():
    import dask.dataframe as dd

    frame = pd.DataFrame(points(), columns=["x", "y", "z"]).assign(kind=np.array(["a", "b"])[np.arange(N) % 2])
    return dd.from_pandas(frame, npartitions=5)


PLANS = {
    "array": ("point_cloud", "points", "grid", lambda: {"positions": points(), "attributes": {"row": np.arange(N)}}),
    "dask array": (
        "point_cloud",
        "points",
        "per_chunk",
        lambda: {
            "positions": da.from_array(points(), chunks=(400, 3)),
            "object_ids": da.arange(N, chunks=400) % 5,
            "object_attributes": {"a": np.arange(5)},
        },
    ),
    "dask frame": ("point_cloud", "points", "grid", lambda: {"positions": lazy_frame()}),
    "polylines": ("streamline", "polylines", "grid", lambda: {"positions": points(), "lengths": np.full(30, 100)}),
    "skeletons": ("skeleton", "skeletons", "grid", lambda: {"positions": points(), "parents": np.arange(N) - 1}),
    "graph": (
        "graph",
        "graph",
        "grid",
        lambda: {"positions": points(), "edges": np.arange(200).reshape(100, 2), "edge_attributes": {"w": np.arange(100.0)}},
    ),
    "mesh": ("mesh", "meshes", "grid", lambda: {"positions": points(), "faces": np.arange(300).reshape(100, 3)}),
}

RUN = """
import sys
import dask_zv as dzv

plan = dzv.load_plan(sys.argv[1])
for block in range(int(sys.argv[2]), len(plan), int(sys.argv[3])):
    plan.run(block).save(f"{sys.argv[4]}/{block}.receipt")
"""


def comparable(target):
    found = stored(target)
    found.pop("zarr.json")  # holds the store's own name
    return found


@pytest.mark.parametrize("name", PLANS)
def test_jobs_that_share_nothing_but_the_store(name, tmp_path):
    geometry, kind, layout, arguments = PLANS[name]
    write, plan = getattr(dzv, f"write_{kind}"), getattr(dzv, f"plan_{kind}")
    write(dzv.create(tmp_path / "whole.zv", geometry=geometry, chunk_shape=CHUNK, layout=layout), **arguments(), resume=True)
    store = dzv.create(tmp_path / "s.zv", geometry=geometry, chunk_shape=CHUNK, layout=layout)
    planned = plan(store, **arguments())
    assert len(planned) > 3
    assert f"{len(planned)} blocks" in repr(planned)
    planned.save(tmp_path / "plan")
    receipts = tmp_path / "receipts"
    receipts.mkdir()
    jobs = [
        subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path / "plan"), str(i), "2", str(receipts)], cwd=tmp_path)
        for i in range(2)
    ]
    assert [job.wait(120) for job in jobs] == [0, 0]
    assert dzv.open(tmp_path / "s.zv").level(0).metadata.vertex_count == 0
    found = sorted(receipts.iterdir())
    assert len(found) == len(planned)
    report = dzv.load_plan(tmp_path / "plan").commit(found)
    assert report.rows == N
    assert {t.worker.rpartition(":")[2] for t in report.times if t.kind == "vertices"} == {str(job.pid) for job in jobs}
    assert comparable(tmp_path / "s.zv") == comparable(tmp_path / "whole.zv")
    # the same write, and a second commit, find it done
    assert write(dzv.open(tmp_path / "s.zv", mode="r+"), **arguments(), resume=True).blocks == 0
    before = comparable(tmp_path / "s.zv")
    assert planned.commit(found).rows == N
    assert comparable(tmp_path / "s.zv") == before


@pytest.fixture
def plan(tmp_path):
    store = dzv.create(tmp_path / "s.zv", chunk_shape=CHUNK)
    return dzv.plan_points(store, da.from_array(points(), chunks=(500, 3)))


def run_all(plan):
    return [plan.run(block) for block in range(len(plan))]


def test_receipts_that_are_lost(plan, tmp_path):
    receipts = run_all(plan)
    before = files(tmp_path / "s.zv")
    with pytest.raises(dzv.PlanError, match=rf"no receipt of 2 of {len(plan)} blocks \(1, 2\).*s\.zv"):
        plan.commit([r for r in receipts if r.block not in (1, 2)])
    assert files(tmp_path / "s.zv") == before
    assert dzv.open(tmp_path / "s.zv").level(0).metadata.vertex_count == 0
    plan.commit([*receipts[:1], plan.run(1), plan.run(2), *receipts[3:]])
    assert dzv.open(tmp_path / "s.zv").level(0).read().positions.shape == (N, 3)


def test_receipts_that_are_doubled(plan, tmp_path):
    receipts = run_all(plan)
    report = plan.commit([*receipts, plan.run(1), *receipts[::-1]])
    assert report.rows == N
    assert report.blocks == len(plan)


def test_receipts_of_another_plan(plan, tmp_path):
    other = dzv.plan_points(dzv.create(tmp_path / "t.zv", chunk_shape=CHUNK), da.from_array(points() + 1, chunks=(500, 3)))
    with pytest.raises(dzv.PlanError, match="the receipt of block 0 is of another plan"):
        plan.commit([*run_all(plan), other.run(0)])


def test_objects_that_are_gone(plan, tmp_path):
    receipts = run_all(plan)
    sorted(p for p in (tmp_path / "s.zv" / "0" / "vertices" / "c").rglob("*") if p.is_file())[0].unlink()
    with pytest.raises(dzv.PlanError, match=rf"the store lacks objects, or has others, of 1 of {len(plan)} blocks \(\d+\)"):
        plan.commit(receipts)
    assert plan.commit(run_all(plan)).rows == N


@pytest.mark.parametrize("how", ["cut", "flipped", "empty", "noise", "pickle", "missing"])
def test_receipt_files_that_are_damaged(how, plan, tmp_path):
    path = tmp_path / "r"
    plan.run(0).save(path)
    data = path.read_bytes()
    assert [p.name for p in tmp_path.iterdir() if "part" in p.name] == []
    if how == "missing":
        path.unlink()
        with pytest.raises(dzv.NotFoundError, match="no file"):
            dzv.load_receipt(path)
        return
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    path.write_bytes(
        {"cut": data[:-20], "flipped": bytes(flipped), "empty": b"", "noise": b"DZVR" * 99, "pickle": pickle.dumps(data)}[how]
    )
    with pytest.raises(dzv.FormatError, match="receipt") as error:
        dzv.load_receipt(path)
    assert str(path) in str(error.value)


def test_receipts_and_plans_pickle(plan, tmp_path):
    again = pickle.loads(pickle.dumps(plan))
    receipts = [pickle.loads(pickle.dumps(again.run(block))) for block in range(len(again))]
    assert "block 0" in repr(receipts[0])
    assert plan.commit(receipts).rows == N


def test_a_file_that_is_no_plan(tmp_path):
    (tmp_path / "plan").write_bytes(pickle.dumps("something"))
    with pytest.raises(dzv.FormatError, match="no plan"):
        dzv.load_plan(tmp_path / "plan")


def test_blocks_that_are_not_there(plan):
    for block in (-1, len(plan)):
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
    with dask.config.set(scheduler="sync"):
        plan = dzv.plan_points(dzv.create(tmp_path / "s.zv", chunk_shape=CHUNK), where)
        assert sorted(made) == list(range(6))
        made.clear()
        receipts = []
        for block in range(len(plan)):
            before = len(made)
            receipts.append(plan.run(block))
            assert len(made) - before <= 3
        assert plan.commit(receipts).rows == 3000


def test_a_plan_for_a_store_in_memory_stays_in_its_process():
    store = dzv.create({}, chunk_shape=CHUNK)
    plan = dzv.plan_points(store, points())
    code = "import pickle, sys; pickle.load(sys.stdin.buffer).run(0)"
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(plan), capture_output=True)
    assert done.returncode == 1
    assert b"lives in the memory of one process" in done.stderr
    assert plan.commit(run_all(plan)).rows == N


def test_a_transaction_has_no_plan():
    icechunk = pytest.importorskip("icechunk")
    session = icechunk.Repository.create(icechunk.in_memory_storage()).writable_session("main")
    store = dzv.create(session, chunk_shape=CHUNK)
    with pytest.raises(dzv.InputError, match="Icechunk"):
        dzv.plan_points(store, points())


def test_overwriting(tmp_path):
    """Until the commit readers get what was there, or an error, never a mixture; after it, the new."""
    store = dzv.create(tmp_path / "s.zv", chunk_shape=CHUNK)
    dzv.write_points(store, points())
    plan = dzv.plan_points(store, points()[:2000] + 0.25, mode="overwrite")
    receipts = run_all(plan)
    with pytest.raises(dzv.ZVError):
        dzv.open(tmp_path / "s.zv").level(0).read()
    assert plan.commit(receipts).rows == 2000
    found = dzv.open(tmp_path / "s.zv").level(0).read().positions
    assert np.array_equal(np.sort(found, axis=0), np.sort(points()[:2000] + np.float32(0.25), axis=0))
    assert (
        json.loads((tmp_path / "s.zv" / "0" / "zarr.json").read_text())["attributes"]["zarr_vectors_level"]["vertex_count"]
        == 2000
    )
