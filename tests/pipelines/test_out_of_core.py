"""Data larger than memory: a cluster whose workers can't hold it, and local schedulers that go through files."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import dask
import numpy as np
import out_of_core_write
import pytest
from forms import lazily
from points_reference import CATALOG, assert_same, files, reading_order, stored
from small import sizes

import dask_zv as dzv
from dask_zv.write import exchange as pieces

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


N = 3000
CHUNK = (10.0, 10.0, 10.0)
POINTS = np.random.default_rng(0).uniform(-20, 20, (N, 3)).astype(np.float32)
NAMES = np.array(["a", None, "b"], object)[np.arange(N) % 3]
ORDER = reading_order(POINTS, CHUNK, None, np.arange(N) % 7)
on_threads_and_on_one = pytest.mark.parametrize("scheduler", ["threads", "sync"])


@pytest.fixture
def spill(tmp_path, monkeypatch):
    """Make every write go through files; return where they are, and a list that grows with each that is read."""
    loaded = []
    folder = tmp_path / "temporary"
    folder.mkdir()
    load = pieces.SpilledPiece.load

    def note(piece):
        loaded.append(piece.path)
        assert Path(piece.path).is_relative_to(folder)
        return load(piece)

    monkeypatch.setattr(pieces.SpilledPiece, "load", note)
    with (
        sizes(spill_bytes=1, write_block_chunks=4, write_block_bytes=(2000, 4000)),
        dask.config.set({"temporary-directory": str(folder), "dask_zv.keep-input": 0}),  # each partition is read twice
    ):
        yield folder, loaded


def write(target, positions=None, **options):
    lazy = lazily(POINTS, 300) if positions is None else positions
    attributes, ids = {"row": lazily(np.arange(N), 300), "s": lazily(NAMES, 300)}, lazily(np.arange(N) % 7, 300)
    store = target if isinstance(target, dzv.Store) else dzv.create(target, chunk_shape=CHUNK)
    return dzv.write_points(store, lazy, attributes=attributes, object_ids=ids, **options)


@on_threads_and_on_one
@pytest.mark.parametrize("compute", [True, False])
def test_spilled_pieces(scheduler, compute, spill, tmp_path):
    folder, loaded = spill
    target, plain = tmp_path / "s.zv", tmp_path / "plain" / "s.zv"
    with sizes(scheduler=scheduler):
        written = write(target, compute=compute)
        if not compute:
            assert list(folder.iterdir()) == []
            written = written.compute()
        assert written.rows == N
        assert len(loaded) > 50
        assert list(folder.iterdir()) == []
        with sizes(spill_bytes=1 << 40):
            write(plain)
    assert stored(target) == stored(plain)
    assert f"0/{CATALOG}/c/0" in files(plain)
    geometry = dzv.open(target).level(0).read()
    assert_same(geometry.positions, POINTS[ORDER])
    assert geometry.attributes["s"].tolist() == NAMES[ORDER].tolist()


def test_spilled_pieces_of_processes(spill, use_scheduler, tmp_path):
    """The notes on loading stay in the other processes; the files must not."""
    folder, _ = spill
    with use_scheduler("processes"):
        assert write(tmp_path / "s.zv").rows == N
    assert list(folder.iterdir()) == []
    assert dzv.open(tmp_path / "s.zv").level(0).read().attributes["row"].tolist() == ORDER.tolist()


@on_threads_and_on_one
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
    failing = lazily(POINTS, 300).map_blocks(fail_late, meta=np.zeros((0, 3), np.float32))
    with dask.config.set(scheduler=scheduler, num_workers=2), pytest.raises(OSError, match="disk on fire"):
        write(store, failing)
    assert max(looks) > 10, "nothing was in files yet when it failed"
    assert list(folder.iterdir()) == []
    after = files(tmp_path / "s.zv")
    assert {k: after[k] for k in before} == before
    assert f"0/{CATALOG}/c/0" not in after
    assert dzv.open(tmp_path / "s.zv").level(0).metadata.vertex_count == 0


def test_spilled_pieces_after_a_failed_store(spill, tmp_path, monkeypatch):
    """A disk that is full while blocks are stored: the same."""
    folder, loaded = spill

    def full(piece):
        loaded.append(piece.path)
        raise OSError("no space left")

    monkeypatch.setattr(pieces.SpilledPiece, "load", full)
    with dask.config.set(scheduler="threads", num_workers=2), pytest.raises(OSError, match="no space left"):
        write(tmp_path / "s.zv")
    assert loaded
    assert list(folder.iterdir()) == []


def test_small_data_stays_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces.SpilledPiece, "load", lambda piece: pytest.fail("went through a file"))
    with dask.config.set({"temporary-directory": str(tmp_path), "scheduler": "threads"}):
        write({})
    assert list(tmp_path.iterdir()) == []
