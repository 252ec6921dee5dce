"""The worker of dask-zv, the threaded scheduler with 2 threads and payloads that the client holds; see ``workload.py``."""

from __future__ import annotations

import time
from typing import Any

import dask
import dask.threaded
import distributed  # dask.compute imports it, where it is installed
import obstore.store

import dask_zv as dzv
from workload import ARRAYS, GROUP, Blobs, Task, run_worker

assert dask.threaded, (distributed, obstore.store)  # imported before the clock starts, like everything else


def open_root(task: Task, mode: str) -> dzv.Group:
    options: dict[str, Any] | None = None
    if task.endpoint is not None:
        options = {"key": "benchmark", "secret": "benchmark", "endpoint_url": task.endpoint}
    return dzv.open_group(task.target, mode, storage_options=options)


def write(task: Task, blobs: Blobs) -> None:
    with dask.config.set(scheduler="threads", num_workers=2):
        level = open_root(task, "a").require_group(GROUP)
        with level.batched_writes(shards=task.shards):
            for (array, key), data in blobs.items():
                level.write_bytes(array, key, data)


def read(task: Task) -> tuple[dict[tuple[str, str], bytes], dict[str, float]]:
    with dask.config.set(scheduler="threads", num_workers=2):
        level = open_root(task, "r")[GROUP]
        start = time.perf_counter()
        keys = level.list_chunks(ARRAYS[0])
        listed = time.perf_counter() - start
        with level.batched_reads([(array, keys) for array in ARRAYS]):
            return {(array, key): level.read_bytes(array, key) for array in ARRAYS for key in keys}, {"list_seconds": listed}


if __name__ == "__main__":
    assert dzv.Group, "imported"
    run_worker(write, read, {"dask-zv": dzv.__version__, "dask": dask.__version__})
