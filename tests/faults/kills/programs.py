"""The programs that write: each runs in a process of its own, and says in a file how it ended."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask

import dask_zv as dzv
from kills import hooks
from kills.clocks import set_time_of_day
from kills.inputs import CASES, create, small_blocks, write_arguments


@contextmanager
def scheduler(name: str) -> Iterator[Any]:
    """Make a scheduler the active one: "sync", "threads", "processes", "local-cluster", or the address of one that runs."""
    if name in ("sync", "threads"):
        with dask.config.set(scheduler=name, num_workers=2):
            yield None
    elif name == "processes":
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        pool = ProcessPoolExecutor(2, get_context("spawn"), initializer=hooks.install)
        with pool, dask.config.set(scheduler="processes", pool=pool):
            yield None
    elif name == "local-cluster":
        from distributed import Client, LocalCluster

        more = {"dashboard_address": ":0", "preload": ["kills.hooks"]}
        cluster = LocalCluster(n_workers=2, threads_per_worker=1, processes=True, **more)
        with cluster, Client(cluster) as client:
            yield client
    else:
        from distributed import Client

        with Client(name, timeout="20s") as client:
            yield client


@contextmanager
def told(folder: str, name: str) -> Iterator[dict[str, Any]]:
    """Write how a program ended to a file of that name."""
    out: dict[str, Any] = {"began": time.time(), "pid": os.getpid()}
    target = Path(folder, name)
    Path(folder, f"{name}.pid").write_text(str(os.getpid()))
    try:
        yield out
        out["outcome"] = "done"
    except Exception as error:  # noqa: BLE001 - whatever a user is told is an outcome
        out |= {"outcome": "error", "type": type(error).__name__, "text": str(error), "notes": getattr(error, "__notes__", [])}
        out["trace"] = traceback.format_exc()
    out["ended"] = time.time()
    target.with_suffix(".part").write_text(json.dumps(out))
    target.with_suffix(".part").replace(target)


def describe(report: Any, since: float) -> dict[str, Any]:
    """Return what a report says that trials look at."""
    vertices = [t for t in report.times if t.kind == "vertices"]
    return {"rows": report.rows, "blocks": len(vertices), "written": sorted(t.block for t in vertices if t.start >= since)}


def write(folder: str, case: str, target: str, where: str, *, resume: bool = True, change: str = "", mode: str = "") -> None:
    """Write a case into the store at `target`; the outcome is in the file ``write`` of the folder."""
    hooks.attach(folder)
    hooks.install()
    small_blocks()
    with told(folder, "write") as out, scheduler(where):
        out["ready"] = time.time()
        found = CASES[case]
        store = dzv.open(target, mode="r+")
        function = getattr(dzv, f"write_{found.kind}")
        report = function(store, **write_arguments(found, change=change), mode=mode or found.mode, resume=resume)
        out["report"] = describe(report, out["began"])


def prepare(folder: str, case: str, target: str) -> None:
    """Make the store that a case begins with."""
    small_blocks()
    with told(folder, "prepare"), dask.config.set(scheduler="sync"):
        found = CASES[case]
        store = create(target, found)
        if found.before:
            getattr(dzv, f"write_{found.kind}")(store, **write_arguments(found, version=found.before))


def plan(folder: str, case: str, target: str) -> None:
    """Plan the write of a case; the plan is the file ``plan``."""
    small_blocks()
    found = CASES[case]
    make = getattr(dzv, f"plan_{found.kind}")
    with told(folder, "planned"), dask.config.set(scheduler="sync"):
        make(dzv.open(target, mode="r+"), **write_arguments(found), mode=found.mode).save(Path(folder, "plan"))


def run_blocks(folder: str, first: int = 0, step: int = 1) -> None:
    """Run the blocks of a plan that have no receipt yet, as a job of an array does."""
    hooks.attach(folder)
    hooks.install()
    receipts = Path(folder, "receipts")
    receipts.mkdir(exist_ok=True)
    with told(folder, f"run{first}") as out, dask.config.set(scheduler="sync"):
        out["written"] = []
        found = dzv.load_plan(Path(folder, "plan"))
        for block in range(first, len(found), step):
            path = receipts / str(block)
            if not path.exists():
                found.run(block).save(path)
                out["written"].append(block)


def commit(folder: str) -> None:
    """Commit a plan whose receipts are there."""
    hooks.attach(folder)
    hooks.install()
    with told(folder, "commit") as out, dask.config.set(scheduler="sync"):
        found = dzv.load_plan(Path(folder, "plan"))
        paths = [p for p in Path(folder, "receipts").iterdir() if p.name.isdigit()]
        out["report"] = describe(found.commit(paths), 0.0)


def extend(folder: str, target: str, name: str, rounds: list[list[str]], hours: float) -> None:
    """Add chunks to a level, a commit for each list of them, by a clock that is wrong by so many hours."""
    set_time_of_day(hours)
    hooks.attach(folder)
    hooks.install()
    with told(folder, name), dask.config.set(scheduler="sync"):
        group = dzv.open(target, mode="r+").level(0).group
        for keys in rounds:
            with group.batched_writes():
                for key in keys:
                    group.write_bytes("vertices", key, f"{name} {key}".encode())
