"""A script that was killed and is run again unchanged finishes its write: create(exist_ok=True), or the path to the write."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from layouts import in_both_layouts
from s3_account import BUCKET
from writes import CHUNK, N, comparable, given

import dask_zv as dzv

HERE = Path(__file__).parent
TESTS = str(HERE.parent), str(HERE), str(HERE.parent / "pipelines")
SCRIPT = """
import json, sys, time
import dask
import dask_zv as dzv
from dask_zv import config
from writes import given

target, layout, form, mode, options = sys.argv[1:5] + [json.loads(sys.argv[5])]
rows = given("objects")[2]
if mode == "slowly":  # the third block takes for ever
    from dask_zv.graph import tasks
    store, stored = tasks.store_block, []
    def slowly(*args):
        if len(stored) == 2:
            print("two are stored", flush=True)
            time.sleep(600)
        stored.append(1)
        return store(*args)
    tasks.store_block = slowly
how = {"chunk_shape": (20, 20, 20), "layout": layout, "shard_chunks": 8, "storage_options": options or None}
with dask.config.set(scheduler="sync"), config.override(write_block_bytes=(4000, 8000)):
    if form == "append":
        print(dzv.write_points(target, **rows, mode="append", fill_missing=True, **how))
    elif form == "create":
        print(dzv.write_points(dzv.create(target, exist_ok=True, **how), **rows))
    else:
        print(dzv.write_points(target, **rows, **how))
"""


def run(target, layout="grid", form="create", mode="", options=None):
    """Return the process of the script."""
    path = os.pathsep.join([*TESTS, *(p for p in sys.path if p)])
    line = [sys.executable, "-c", SCRIPT, str(target), layout, form, mode, json.dumps(options or {})]
    return subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    )


def killed(*args, **options):
    """Run the script, and kill it in the third block."""
    process = run(*args, mode="slowly", **options)
    try:
        assert "two are stored" in process.stdout.readline(), process.communicate()[1]
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL


def ended(*args, **options):
    """Run the script to its end; return what it printed."""
    process = run(*args, **options)
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return out


def said(store):
    return [line.strip() for line in repr(store).splitlines() if "was interrupted" in line]


@pytest.mark.parametrize("form", ["create", "path"])
@in_both_layouts
def test_a_script_that_was_killed_is_run_again(layout, form, tmp_path):
    target, other = tmp_path / "s.zv", tmp_path / "whole" / "s.zv"
    assert "kept" not in ended(other, layout, form)
    killed(target, layout, form)
    (told,) = said(dzv.open(target))
    blocks = len(json.loads((target / "0/dask_zv_journal/zarr.json").read_text())["attributes"]["block_starts"])
    assert f"was interrupted: 2 of {blocks} blocks stored" in told
    with pytest.raises(dzv.StoreError, match=f"was interrupted: 2 of {blocks} blocks.*exist_ok=True.*overwrite=True"):
        dzv.create(target, chunk_shape=CHUNK, layout=layout)
    report = ended(target, layout, form)
    assert f"2 of {blocks} blocks kept" in report
    assert comparable(target) == comparable(other)
    assert said(dzv.open(target)) == []
    assert "written before" in ended(target, layout, form)
    assert comparable(target) == comparable(other)


def test_an_append_that_was_killed_is_run_again(tmp_path):
    """The level is what it was; the same call goes on with the blocks that wait, and leaves nothing of them behind."""
    target = tmp_path / "s.zv"
    first = {"object_ids": np.arange(50) + 100, "attributes": {"day": np.zeros(50)}}
    dzv.write_points(target, np.random.default_rng(1).uniform(0, 100, (50, 3)), chunk_shape=CHUNK, shard_chunks=8, **first)
    before = comparable(target)[0]
    killed(target, form="append")
    after = comparable(target)[0]
    assert {path: after[path] for path in before} == before
    assert len(dzv.open(target).level(0).read()) == 50
    assert "2 of" in ended(target, form="append")
    rows = given("objects")[2]
    found = dzv.open(target).level(0).read(objects=list(range(7)))
    assert len(found) == N
    assert sorted(map(tuple, found.positions.tolist())) == sorted(
        map(tuple, rows["positions"].compute().astype(float).tolist())
    )
    assert len(dzv.open(target).level(0).read()) == N + 50
    assert not [p.name for p in (target / "0").iterdir() if "append" in p.name]


def test_the_same_on_s3(s3_options, tmp_path):
    target, other = f"s3://{BUCKET}/again-{time.time_ns()}/s.zv", tmp_path / "s.zv"
    killed(target, options=s3_options)
    assert "2 of " in ended(target, options=s3_options)
    dzv.write_points(dzv.create(other, chunk_shape=CHUNK), **given("objects")[2])
    found, wanted = (dzv.open(t, storage_options=o).level(0).read() for t, o in ((target, s3_options), (other, None)))
    assert (found.positions == wanted.positions).all()
    assert (found.object_ids == wanted.object_ids).all()


@pytest.mark.parametrize("form", ["create", "path"])
def test_small_writes_in_memory_can_be_called_again_too(form):
    target, rows = {}, given("objects")[2]
    for n, kept in enumerate(("1 blocks in", "written before")):
        to = dzv.create(target, chunk_shape=CHUNK, exist_ok=True) if form == "create" else target
        report = dzv.write_points(to, **rows, **({} if form == "create" else {"chunk_shape": CHUNK}))
        assert (report.rows, report.blocks) == (N, 1 - n)
        assert kept in repr(report)


def interrupted(target, monkeypatch, layout="grid", **options):
    """Begin a write that fails in its third block."""
    from dask_zv.graph import tasks

    store, left = tasks.store_block, [2]

    def failing(*args):
        if not left[0]:
            raise RuntimeError("power cut")
        left[0] -= 1
        return store(*args)

    to = dzv.create(target, chunk_shape=CHUNK, layout=layout, exist_ok=True)
    with monkeypatch.context() as patch, small():
        patch.setattr(tasks, "store_block", failing)
        with pytest.raises(RuntimeError, match="power cut"):
            dzv.write_points(to, **given("points")[2], **options)
    return to


def small():
    from small import sizes

    return sizes(scheduler="sync", write_block_bytes=(4000, 8000))


@in_both_layouts
def test_receipts_are_found_by_whoever_makes_the_same_call(layout, tmp_path, monkeypatch):
    """A store that was opened, and no word of resuming: what lies there is used where it is of this very write."""
    target = tmp_path / "s.zv"
    interrupted(target, monkeypatch, layout)
    with small():
        with pytest.raises(dzv.StoreError, match="was interrupted: 2 of .*mode='overwrite' begins anew"):
            dzv.write_points(dzv.open(target, mode="r+"), **given("points", seed=1)[2])
        report = dzv.write_points(dzv.open(target, mode="r+"), **given("points")[2])
    assert report.kept == 2
    with pytest.raises(dzv.StoreError, match="has 4,000 vertices already"):  # who does not say exist_ok means it
        dzv.write_points(dzv.open(target, mode="r+"), **given("points")[2])


def test_other_data_into_what_was_begun_is_refused(tmp_path, monkeypatch):
    store = interrupted(tmp_path / "s.zv", monkeypatch)
    with pytest.raises(dzv.PlanError, match="unfinished write of other data"):
        dzv.write_points(store, **given("points", seed=1)[2])
    with small(), pytest.raises(dzv.StoreError, match="resume=False was passed"):
        dzv.write_points(store, **given("points")[2], resume=False)


def test_an_overwrite_is_carried_out_whenever_it_is_called(tmp_path, monkeypatch):
    """It may be there to mend what is damaged; only what an interrupted one has stored is kept."""
    target = tmp_path / "s.zv"
    store = dzv.create(target, chunk_shape=CHUNK, exist_ok=True)
    rows = given("points")[2]
    assert dzv.write_points(store, **rows).blocks == 1
    lost = next(p for p in (target / "0/vertices/c").rglob("*") if p.is_file())
    lost.unlink()
    assert dzv.write_points(store, **rows, mode="overwrite").blocks == 1
    assert lost.exists()
    interrupted(target, monkeypatch, mode="overwrite")
    assert said(dzv.open(target))
    with small():
        assert dzv.write_points(store, **rows, mode="overwrite").kept == 2
    assert np.array_equal(np.sort(store.level(0).read().attributes["row"]), np.arange(N))


def test_a_store_whose_maker_died_halfway(tmp_path):
    target = tmp_path / "s.zv"
    box = {"bounds": ((0, 0, 0), (99, 99, 99))}
    dzv.create(target, chunk_shape=CHUNK, **box)
    level = target / "0/zarr.json"
    made = level.read_bytes()
    level.unlink()
    level.parent.rmdir()
    dzv.create(target, chunk_shape=CHUNK, exist_ok=True, **box)
    assert level.read_bytes() == made
