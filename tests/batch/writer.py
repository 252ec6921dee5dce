"""A process that writes into level 0 of a store, for the tests of several writers at once: `python writer.py JSON`.

The JSON object names what to do; the process prints "ready", waits for a line, does it, and prints "done" or the error's name.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

import dask
import numpy as np

import dask_zv as dzv
from dask_zv.storage import locks
from dask_zv.storage.grid import commit as grid_commit

ARRAYS = ("vertices", "vertex_attributes/mass")


def payload(array: str, key: str, length: int) -> bytes:
    """Return what the tests expect in a chunk: nothing that another chunk or array has."""
    return f"{array} {key} ".encode() + bytes(length)


def batches(store: dzv.Store, rounds: list[list[str]], lengths: int) -> None:
    group = store.level(0).group
    for keys in rounds:
        with group.batched_writes():
            for key in keys:
                for array in ARRAYS:
                    group.write_bytes(array, key, payload(array, key, lengths))


def points(store: dzv.Store, seed: float, n: int, mode: str = "error") -> None:
    rng = np.random.default_rng(int(seed))  # the same whole number: the same positions
    attributes = {"mass": np.full(n, float(seed))}
    dzv.write_points(store, rng.uniform(0, 40, (n, 2)), attributes=attributes, mode=mode)


def die_after(puts: int) -> None:
    """End this process without a word after so many objects of a block are stored, or before its commit."""
    if puts < 0:
        grid_commit.commit_lock = lambda *a: os.kill(os.getpid(), 9)
        return
    from dask_zv.storage.local import LocalObjects

    left = [puts]
    before = LocalObjects._put

    def put(self: LocalObjects, path: str, data: bytes) -> None:
        if "/c/" in path:
            if not left[0]:
                os.kill(os.getpid(), 9)
            left[0] -= 1
        before(self, path, data)

    LocalObjects._put = put


def pause_before_puts(seconds: float) -> None:
    """Wait between reading what a shard holds and replacing it."""
    from dask_zv.storage.local import LocalObjects
    from dask_zv.storage.zarr_objects import ZarrObjects

    def later(before: Any) -> Any:
        def put_all(self: Any, items: Any) -> Any:
            listed = list(items)
            if any("/c/" in path for path, _ in listed):
                time.sleep(seconds)
            return before(self, listed)

        return put_all

    for kind in (LocalObjects, ZarrObjects):
        kind.put_all = later(kind.put_all)


def hold(store: dzv.Store, seconds: float) -> None:
    from dask_zv.storage.handles import open_objects

    with locks.commit_lock(open_objects(store._contents.handle), "0"):
        print("held", flush=True)
        time.sleep(seconds)


def main() -> None:
    job = json.loads(sys.argv[1])
    if "lifetime" in job:
        dask.config.set({"dask_zv.lock-lifetime": job["lifetime"]})
    store = dzv.open(job["target"], mode="r+", storage_options=job.get("options"))
    if "die_after" in job:
        die_after(job["die_after"])
    if job.get("pause_put"):
        pause_before_puts(job["pause_put"])
    if job.get("pause"):  # between the blocks and the commit, so that two writers are there at the same time
        before = grid_commit.commit_lock

        def later(*args: object) -> object:
            time.sleep(job["pause"])
            return before(*args)

        grid_commit.commit_lock = later
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        with dask.config.set(scheduler="sync"):
            if job["do"] == "batches":
                batches(store, job["rounds"], job.get("length", 5))
            elif job["do"] == "points":
                points(store, job["seed"], job["n"], job.get("mode", "error"))
            else:
                hold(store, job["seconds"])
    except dzv.ZVError as error:
        print(type(error).__name__, error, flush=True)
        return
    assert threading.active_count() < 20
    print("done", flush=True)


if __name__ == "__main__":
    main()
    os._exit(0)  # threads of libraries may still be at it, and now and then they bring an ending interpreter down
