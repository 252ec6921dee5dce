"""The worker of dask-zv for what ``compare_grid.py`` runs on a ``distributed.LocalCluster``; see ``grid_workload.py``.

The cluster's processes are there, and have imported what they need, before the clock starts.
"""

from __future__ import annotations

import atexit
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
from distributed import Client, LocalCluster, get_task_stream

import dask_zv as dzv
from grid_ours import create_for_blobs, create_for_points, keys_of_shard, make_block, shard_count
from grid_workload import ARRAYS, PARTITIONS, Clock, Job, blob_summary, blobs, import_all, packages, run
from workload import peak_memory, settled_memory


def on_cluster(verb: Callable[[Job, Clock], dict[str, Any]]) -> Callable[[Job, Clock], dict[str, Any]]:
    """Run a verb with a cluster as the active scheduler; say how busy its workers were and what they held."""

    def wrapped(job: Job, clock: Clock) -> dict[str, Any]:
        client = client_of(job.workers)
        base = client.run(warm_up)
        with get_task_stream(client=client) as stream:
            extra = verb(job, clock)
        spans = [s for task in stream.data for s in task["startstops"] if s["action"] == "compute"]
        busy = sum(s["stop"] - s["start"] for s in spans)
        held = client.run(peak_memory)
        more = [held[worker] - base[worker] for worker in held]
        return {**extra, "busy": busy / (clock.seconds * job.workers), "worker_mb": max(held.values()), "workers_mb": more}

    return wrapped


@functools.cache
def client_of(workers: int) -> Client:
    """Return the client of a cluster that lives as long as this process."""
    cluster = LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=":0", memory_limit="2GiB")
    client = Client(cluster)
    atexit.register(cluster.close)
    atexit.register(client.close)
    client.wait_for_workers(workers)
    return client


def warm_up() -> float:
    """Import all, and return the memory that is held then."""
    import_all(dzv)
    return settled_memory()


@on_cluster
def write_made_by_tasks(job: Job, clock: Clock) -> dict[str, Any]:
    make = dask.delayed(make_block, pure=False)
    with clock:
        group = create_for_blobs(job).level(0).group
        with group.batched_writes() as batch:
            for number in range(shard_count(job)):
                keys = [(array, key) for key in keys_of_shard(job, number) for array in ARRAYS]
                batch.write_blobs(make(job, number, ARRAYS), keys=keys)
    return blob_summary(blobs(job))


@on_cluster
def write_held_by_client(job: Job, clock: Clock) -> dict[str, Any]:
    payload = blobs(job)
    with clock:
        group = create_for_blobs(job).level(0).group
        with group.batched_writes():
            for (array, key), data in payload.items():
                group.write_bytes(array, key, data)
    return blob_summary(payload)


def load(path: str, name: str) -> np.ndarray:
    values: np.ndarray = np.load(path)[name]
    return values


@on_cluster
def ingest_partitions(job: Job, clock: Clock) -> dict[str, Any]:
    """Ingest partitions that tasks load, as a dask array and dask arrays of attributes."""
    paths = [str(path) for path in sorted(Path(job.inputs).glob("*.npz"))]
    rows = [len(load(path, "label")) for path in paths]
    lazy = dask.delayed(load)

    def column(name: str, dtype: str, tail: tuple[int, ...] = ()) -> da.Array:
        return da.concatenate(
            [da.from_delayed(lazy(p, name), (n, *tail), dtype) for p, n in zip(paths, rows, strict=True)], axis=0
        )

    with clock:
        attributes = {"intensity": column("intensity", "float32"), "label": column("label", "int32")}
        dzv.write_points(create_for_points(job), column("positions", "float32", (3,)), attributes=attributes)
    return {"count": sum(rows)}


VERBS = {"blobs made by tasks": write_made_by_tasks, "blobs of the client": write_held_by_client, "job": ingest_partitions}

if __name__ == "__main__":
    assert PARTITIONS
    run(VERBS, {"dask-zv": dzv.__version__, **packages("dask", "distributed", "zarr", "numpy")})
