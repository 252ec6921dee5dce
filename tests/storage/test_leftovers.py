"""Half-written files of writers that were killed: never seen, and removed once nobody owns them; deletions that were cut."""

from __future__ import annotations

import os
import signal
import uuid
import warnings

import dask.array as da
import numpy as np
import pytest
from refusals import fails

import dask_zv as dzv
from dask_zv.storage import local

N = 500


def points():
    return np.random.default_rng(0).uniform(0, 30, (N, 3))


def leave(store, key):
    """Kill a process between writing a file and renaming it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads: this one calls nothing but the kernel
        pid = os.fork()
    if not pid:
        os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        local.LocalObjects(store).put(key, b"half of it")
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert partials(store)


def partials(store):
    return [p for p in store.rglob("*.partial") if p.is_file()]


def resume(path):
    dzv.write_points(dzv.open(path, mode="r+"), points(), resume=True)


def overwrite(path):
    dzv.write_points(dzv.open(path, mode="r+"), points(), mode="overwrite")


@pytest.mark.parametrize("layout", ["grid", "per_chunk"])
def test_leftovers_are_never_seen_and_swept(layout, tmp_path):
    path = tmp_path / "s.zv"
    store = dzv.create(path, chunk_shape=(10, 10, 10), layout=layout)
    dzv.write_points(store, points(), resume=True)
    keys = set(store.level(0).chunks.keys)
    for sweep in (resume, overwrite, lambda _: dzv.open(path, mode="r+").refresh()):
        leave(path, "0/vertices/c/0/0/0")
        leave(path, "0/vertices/zarr.json")
        assert set(store.level(0).group.list_chunks("vertices")) == keys
        assert not [k for k in local.LocalObjects(path).list_prefix("") if "partial" in k]
        assert len(dzv.open(path).level(0).read().positions) == N
        sweep(path)
        assert not partials(path)


def test_living_writers_keep_theirs(tmp_path):
    dzv.write_points(dzv.create(tmp_path / "s.zv", chunk_shape=(10, 10, 10)), points())
    cell = tmp_path / "s.zv" / "0" / "vertices" / "c"
    own = local.partial_name(str(cell / "a"))
    other = f"{cell}/a.{uuid.uuid4().hex}.partial"  # another tool's, or another machine's
    for name in (own, other):
        with open(name, "wb") as file:  # noqa: PTH123
            file.write(b"x")
    overwrite(tmp_path / "s.zv")
    assert {str(p) for p in partials(tmp_path / "s.zv")} == {own, other}
    os.utime(other, (1e9, 1e9))
    overwrite(tmp_path / "s.zv")
    assert [str(p) for p in partials(tmp_path / "s.zv")] == [own]


@pytest.mark.parametrize("layout", ["grid", "per_chunk"])
def test_a_deletion_that_was_cut_is_finished(layout, tmp_path, monkeypatch):
    path = tmp_path / "s.zv"
    dzv.write_points(dzv.create(path, chunk_shape=(10, 10, 10), layout=layout), points())
    (path / "0" / "zarr.json").unlink()
    (path / "zarr.json").unlink()  # as other tools' deletions leave it, in any order
    fails(dzv.StoreError, None, dzv.create, path, chunk_shape=(10, 10, 10))
    dzv.write_points(dzv.create(path, chunk_shape=(10, 10, 10), overwrite=True), points())

    def cut(self, prefix):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(local.LocalObjects, "delete_prefix", cut)
        fails(KeyboardInterrupt, None, dzv.create, path, chunk_shape=(10, 10, 10), overwrite=True)
    assert (path / "zarr.json").is_file()
    dzv.create(path, chunk_shape=(10, 10, 10), overwrite=True)
    assert dzv.open(path).level(0).metadata.vertex_count == 0


def test_what_is_no_store_is_not_deleted(tmp_path):
    """A folder of stores, and folders that are named like levels."""
    dzv.create(tmp_path / "many" / "a.zv", chunk_shape=(10, 10, 10))
    dzv.create(tmp_path / "numbers" / "0", chunk_shape=(10, 10, 10))
    (tmp_path / "files" / "0" / "links").mkdir(parents=True)
    (tmp_path / "files" / "0" / "links" / "mine").write_text("x")
    for name in ("many", "numbers", "files"):
        with pytest.raises(dzv.StoreError):
            dzv.create(tmp_path / name, chunk_shape=(10, 10, 10), overwrite=True)
    assert (tmp_path / "files" / "0" / "links" / "mine").read_text() == "x"
    assert len(dzv.open(tmp_path / "numbers" / "0").levels) == 1


def test_plans_and_receipts_are_saved_by_twins(tmp_path):
    """Two processes save the same file at the same time: neither disturbs the other, and one's file is there, whole."""
    store = dzv.create(tmp_path / "s.zv", chunk_shape=(10, 10, 10))
    plan = dzv.plan_points(store, da.from_array(points(), chunks=(100, 3)))
    receipt = plan.run(0)
    path = tmp_path / "receipt"
    opened, real = [], os.open

    def twin(name, *args, **kwargs):
        fd = real(name, *args, **kwargs)
        if not opened:
            opened.append(name)
            receipt.save(path)  # the twin begins and ends while this one's file is open
        return fd

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", twin)
        receipt.save(path)
    assert opened
    assert dzv.load_receipt(path).block == 0
    plan.save(tmp_path / "plan")
    assert (tmp_path / "plan").stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in tmp_path.iterdir()) == ["plan", "receipt", "s.zv"]
    assert dzv.load_plan(tmp_path / "plan").commit([path]).rows == N
