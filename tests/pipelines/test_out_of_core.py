"""Data larger than memory: a cluster whose workers can't hold it, and local schedulers that go through files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import out_of_core_write
import pytest
from points_reference import CATALOG, assert_same, files, reading_order, stored

import dask_zv as dzv
from dask_zv import config
from dask_zv.write import exchange

LIMIT_MB = 384
ROW_BYTES = 12 + 8 + 8


def run_cluster(target, local, n, shards, timeout):
    """Write in a process group of its own, so that nothing of it outlives the test."""
    program = [sys.executable, out_of_core_write.__file__, str(target), str(local), str(n), str(LIMIT_MB), str(shards)]
    source = str(Path(dzv.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))}
    process = subprocess.Popen(
        program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment
    )
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 0, err[-4000:]
    return json.loads(out.strip().splitlines()[-1])


def check_every_point(target, n):
    """Every row is there once, in its chunk, in the order of the input, with its own position and attribute."""
    level = dzv.open(target).level(0)
    assert level.metadata.vertex_count == n
    seen = np.zeros(n, bool)
    table = level.chunks
    assert int(table.rows.sum()) == n
    chunk = np.asarray(out_of_core_write.CHUNK)
    for key, coords, count in zip(table.keys, table.coords, table.rows.tolist(), strict=True):
        rows = np.frombuffer(level.group.read_bytes("vertex_attributes/row", key), np.int64)
        points = np.frombuffer(level.group.read_bytes("vertices", key), np.float32).reshape(-1, 3)
        mass = np.frombuffer(level.group.read_bytes("vertex_attributes/mass", key), np.float64)
        assert len(rows) == len(points) == len(mass) == count
        assert (np.diff(rows) > 0).all()
        assert not seen[rows].any()
        seen[rows] = True
        assert (points == out_of_core_write.positions_of(rows)).all()
        assert (mass == out_of_core_write.mass_of(rows)).all()
        assert (np.floor(points / chunk) == coords).all()
    assert seen.all()
    low, high = [0.1, 0.2, 0.3], [0.13, 0.21, 0.42]
    found = level.read(bbox=(low, high))
    every = out_of_core_write.positions_of(np.arange(min(n, 3_000_000)))
    inside = ((every >= np.asarray(low)) & (every <= np.asarray(high))).all(axis=1)
    rows = found.attributes["row"]
    assert np.array_equal(np.sort(rows[rows < len(every)]), np.flatnonzero(inside))


def check_cluster(tmp_path, n, shards, timeout):
    limit = LIMIT_MB << 20
    told = run_cluster(tmp_path / "s.zv", tmp_path / "local", n, shards, timeout)
    assert told["rows"] == n
    assert told["nbytes"] >= n * ROW_BYTES > out_of_core_write.WORKERS * limit
    assert told["same_workers"], "a worker was restarted: it held more than it may"
    assert max(told["peaks"]) <= 0.8 * limit
    check_every_point(tmp_path / "s.zv", n)
    # memory that was spilled is gone, with the workers' directories
    assert not [p for p in (tmp_path / "local").rglob("*") if p.is_file() and "storage" in p.parts]
    shutil.rmtree(tmp_path / "s.zv")


@pytest.mark.timeout(700)
def test_more_than_the_workers_hold(tmp_path):
    # about 20 s on two idle cores; workers this small are paused often, and a busy machine multiplies every pause
    check_cluster(tmp_path, 29_000_000, 1, 600)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("shards", [1, 64])
def test_four_times_what_the_workers_hold(shards, tmp_path):
    check_cluster(tmp_path, 4 * out_of_core_write.WORKERS * (LIMIT_MB << 20) // ROW_BYTES + 1, shards, 3000)


# -------------------------------------------------------------------------------------------------- local schedulers

N = 3000
CHUNK = (10.0, 10.0, 10.0)


@pytest.fixture
def spill(tmp_path, monkeypatch, override):
    """Make every write go through files; return where they are, and a list that grows with each that is read."""
    loaded = []
    folder = tmp_path / "temporary"
    folder.mkdir()
    override(spill_bytes=1)
    override(write_block_chunks=4)
    override(write_block_bytes=(2000, 4000))
    load = exchange.SpilledPiece.load

    def note(piece):
        loaded.append(piece.path)
        assert Path(piece.path).is_relative_to(folder)
        return load(piece)

    monkeypatch.setattr(exchange.SpilledPiece, "load", note)
    with dask.config.set({"temporary-directory": str(folder), "dask_zv.keep-input": 0}):  # each partition is read twice
        yield folder, loaded


def points():
    return np.random.default_rng(0).uniform(-20, 20, (N, 3)).astype(np.float32)


def names():
    return np.array(["a", None, "b"], object)[np.arange(N) % 3]


def arguments():
    return {
        "positions": da.from_array(points(), chunks=(300, 3)),
        "attributes": {"row": da.arange(N, chunks=300), "s": da.from_array(names(), chunks=300)},
        "object_ids": da.arange(N, chunks=300) % 7,
    }


@pytest.mark.parametrize("scheduler", ["threads", "sync"])
@pytest.mark.parametrize("compute", [True, False])
def test_spilled_pieces(scheduler, compute, spill, tmp_path):
    folder, loaded = spill
    plain = tmp_path / "plain" / "s.zv"
    with dask.config.set(scheduler=scheduler):
        written = dzv.write_points(dzv.create(tmp_path / "s.zv", chunk_shape=CHUNK), compute=compute, **arguments())
        if not compute:
            assert list(folder.iterdir()) == []
            written = written.compute()
        assert written.rows == N
        assert len(loaded) > 50
        assert list(folder.iterdir()) == []
        with config.override(spill_bytes=1 << 40):
            dzv.write_points(dzv.create(plain, chunk_shape=CHUNK), **arguments())
    assert stored(tmp_path / "s.zv") == stored(plain)
    assert f"0/{CATALOG}/c/0" in files(plain)
    order = reading_order(points(), CHUNK, None, np.arange(N) % 7)
    geometry = dzv.open(tmp_path / "s.zv").level(0).read()
    assert_same(geometry.positions, points()[order])
    assert geometry.attributes["s"].tolist() == names()[order].tolist()


def test_spilled_pieces_of_processes(spill, use_scheduler, tmp_path):
    """The notes on loading stay in the other processes; the files must not."""
    folder, _ = spill
    with use_scheduler("processes"):
        report = dzv.write_points(dzv.create(tmp_path / "s.zv", chunk_shape=CHUNK), **arguments())
    assert report.rows == N
    assert list(folder.iterdir()) == []
    order = reading_order(points(), CHUNK, None, np.arange(N) % 7)
    assert dzv.open(tmp_path / "s.zv").level(0).read().attributes["row"].tolist() == order.tolist()


@pytest.mark.parametrize("scheduler", ["threads", "sync"])
def test_spilled_pieces_after_a_failure(scheduler, spill, tmp_path):
    """The second look at the data fails when most pieces are in files; they are removed, and there is no commit."""
    folder, _ = spill
    looks = []

    def fail_late(block, block_info=None):
        if len(block) and block_info:
            looks.append(len(list(folder.rglob("*"))))
            if len(looks) == 18:
                raise OSError("disk on fire")
        return block

    store = dzv.create(tmp_path / "s.zv", chunk_shape=CHUNK)
    before = files(tmp_path / "s.zv")
    given = arguments()
    given["positions"] = given["positions"].map_blocks(fail_late, meta=np.zeros((0, 3), np.float32))
    with dask.config.set(scheduler=scheduler, num_workers=2), pytest.raises(OSError, match="disk on fire"):
        dzv.write_points(store, **given)
    assert max(looks) > 10, "nothing was in files yet when it failed"
    assert list(folder.iterdir()) == []
    after = files(tmp_path / "s.zv")
    assert {k: after[k] for k in before} == before
    assert f"0/{CATALOG}/c/0" not in after
    assert dzv.open(tmp_path / "s.zv").level(0).metadata.vertex_count == 0


def test_spilled_pieces_after_a_failed_store(spill, tmp_path, monkeypatch):
    """A disk that is full while blocks are stored: the same."""
    folder, loaded = spill
    store = dzv.create(tmp_path / "s.zv", chunk_shape=CHUNK)

    def full(piece):
        loaded.append(piece.path)
        raise OSError("no space left")

    monkeypatch.setattr(exchange.SpilledPiece, "load", full)
    with dask.config.set(scheduler="threads", num_workers=2), pytest.raises(OSError, match="no space left"):
        dzv.write_points(store, **arguments())
    assert loaded
    assert list(folder.iterdir()) == []


def test_small_data_stays_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(exchange.SpilledPiece, "load", lambda piece: pytest.fail("went through a file"))
    with dask.config.set({"temporary-directory": str(tmp_path), "scheduler": "threads"}):
        dzv.write_points(dzv.create({}, chunk_shape=CHUNK), **arguments())
    assert list(tmp_path.iterdir()) == []
