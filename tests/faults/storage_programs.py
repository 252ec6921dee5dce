"""A process that writes for the tests of storage, as another client or another user: ``python storage_programs.py [UID]``.

Jobs ``make`` an empty store, ``write`` a kind of :mod:`storage_cases` (with a pause before the commit or a fault of the local file
system), write rounds of chunks in ``batches``, ``plan`` a write, ``run`` its blocks, ``commit`` it. The answer is ``{"outcome": "done"
or the error's name, "message": ..., "seconds": ...}``.
"""

from __future__ import annotations

import logging
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # tests find them by pytest's settings
    sys.path[:0] = [
        str(p) for p in (Path(__file__).parent, *(Path(__file__).parents[2] / n for n in ("benchmarks", "tests/pipelines")))
    ]

import dask
import storage_cases as cases
from line_process import answer_lines
from storage_trials import impatient

import dask_zv as dzv
from dask_zv.storage.grid import commit as grid_commit
from dask_zv.storage.local import LocalObjects

ARRAYS = ("vertices", "vertex_attributes/mass")


def payload(array: str, key: str, who: int) -> bytes:
    """Return what a writer stores in a chunk of an array: of one length, so that checksums alone tell writers apart."""
    return f"{array} {key} by {who} ".encode() * 3


@contextmanager
def pausing(seconds: float) -> Iterator[None]:
    """Wait between the blocks and the commit, so that another writer is there at the same time."""
    before = grid_commit.commit_lock

    def later(*args: Any) -> Any:
        time.sleep(seconds)
        return before(*args)

    grid_commit.commit_lock = later
    try:
        yield
    finally:
        grid_commit.commit_lock = before


@contextmanager
def losing_permission(moment: int, folder: Path) -> Iterator[list[int]]:
    """Take the permission to write away from every directory of a store when its `moment`-th file is made; yield the count."""
    made = [0]
    before = LocalObjects._create

    def create(self: LocalObjects, path: str, data: Any) -> None:
        made[0] += 1
        if made[0] == moment:
            for below in [folder, *(p for p in folder.rglob("*") if p.is_dir())]:
                below.chmod(0o555)
        before(self, path, data)

    LocalObjects._create = create  # type: ignore[method-assign]
    try:
        yield made
    finally:
        LocalObjects._create = before  # type: ignore[method-assign]
        for below in [folder, *(p for p in folder.rglob("*") if p.is_dir())]:
            below.chmod(0o755)


@contextmanager
def files_of_at_most(nbytes: int) -> Iterator[None]:
    """Let the system refuse larger files, as a quota of a file system does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def target_of(job: dict[str, Any]) -> dzv.Store:
    if job.get("client") == "s3fs":
        from zarr.storage import FsspecStore

        store = FsspecStore.from_url(job["target"], storage_options={**job["options"], "use_listings_cache": False})
        return dzv.open(store, mode="r+")
    return dzv.open(job["target"], mode="r+", storage_options=job.get("options"))


def make(job: dict[str, Any]) -> dict[str, Any]:
    cases.make(job["kind"], job["target"], None)
    return {}


def write(job: dict[str, Any]) -> dict[str, Any]:
    if job.get("make"):
        cases.make(job["kind"], job["target"], None)
    found: dict[str, Any] = {}
    folder = Path(job["target"])
    arguments = job["kind"], target_of(job), job["seed"]
    settings = {"mode": job.get("mode", "error"), "resume": job.get("resume", False)}
    if "lose_permission" in job:
        with losing_permission(job["lose_permission"], folder) as made:
            cases.write(*arguments, **settings)
        found["files"] = made[0]
    elif "largest_file" in job:
        with files_of_at_most(job["largest_file"]):
            cases.write(*arguments, **settings)
    else:
        with pausing(job.get("pause", 0.0)):
            cases.write(*arguments, **settings)
    return found


def batches(job: dict[str, Any]) -> dict[str, Any]:
    group = target_of(job).level(0).group
    with pausing(job.get("pause", 0.0)):
        for keys in job["rounds"]:
            with group.batched_writes():
                for key in keys:
                    for array in ARRAYS:
                        group.write_bytes(array, key, payload(array, key, job["who"]))
    return {}


_PLANS: dict[str, Any] = {}


def plan(job: dict[str, Any]) -> dict[str, Any]:
    found = cases.plan(job["kind"], target_of(job), job["seed"], mode=job.get("mode", "error"))
    _PLANS["plan"], _PLANS["receipts"] = found, []
    return {"blocks": len(found)}


def run(job: dict[str, Any]) -> dict[str, Any]:
    _PLANS["receipts"] = [_PLANS["plan"].run(block) for block in range(len(_PLANS["plan"]))]
    return {}


def commit(job: dict[str, Any]) -> dict[str, Any]:
    _PLANS["plan"].commit(_PLANS["receipts"])
    return {}


def warm_up() -> None:
    """Import all that writes and reads import late: the other user may not be allowed to read the interpreter's files."""
    with dask.config.set(scheduler="sync"), tempfile.TemporaryDirectory() as folder:
        for kind in cases.KINDS:
            store = cases.make(kind, f"{folder}/{kind}", None)
            cases.write(kind, store, 1, resume=True)
            cases.write(kind, store, 2, resume=True, mode="overwrite")
            cases.rows_of(store)


JOBS = {f.__name__: f for f in (make, write, batches, plan, run, commit)}


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """Do a job; return how it went."""
    time.sleep(job.get("wait", 0.0))
    started = time.monotonic()
    try:
        found = {"outcome": "done", "message": "", **JOBS[job["do"]](job)}
    except Exception as error:  # noqa: BLE001 - whatever is raised is what a user sees
        found = {"outcome": type(error).__name__, "message": str(error), "is ours": isinstance(error, dzv.ZVError)}
    return found | {"seconds": round(time.monotonic() - started, 2)}


def main() -> None:
    logging.disable(logging.WARNING)
    if len(sys.argv) > 1:
        warm_up()
        os.setgroups([])
        os.setgid(int(sys.argv[1]))
        os.setuid(int(sys.argv[1]))
    with dask.config.set(scheduler="sync"), impatient():
        answer_lines(answer, first="ready")


if __name__ == "__main__":
    main()
    os._exit(0)  # threads of libraries may still be at it
