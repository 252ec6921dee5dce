"""The worker of dask-zv for ``compare_grid.py``: layout ``grid``, the threaded scheduler, payloads that the client holds.

See ``grid_workload.py``. What runs on a cluster is in ``grid_cluster.py``.
"""

from __future__ import annotations

import itertools
import math
import pickle
from typing import Any

import dask
import dask.array as da
import dask.threaded
import distributed  # dask.compute imports it, where it is installed
import numpy as np
import obstore.store
import xarray as xr

import dask_zv as dzv
from grid_workload import (
    ARRAYS,
    BOX,
    EXTENT,
    PROFILE,
    Clock,
    Job,
    blob_summary,
    blobs,
    box_rows,
    cloud_digest,
    import_all,
    make_points,
    packages,
    run,
)

assert dask.threaded, (distributed, obstore.store)  # imported before the clock starts, like everything else
import_all(dzv)


def options(job: Job) -> dict[str, Any] | None:
    return None if job.endpoint is None else {"key": "benchmark", "secret": "benchmark", "endpoint_url": job.endpoint}


def threads(job: Job) -> Any:
    if PROFILE:  # it sees one thread
        return dask.config.set(scheduler="synchronous")
    return dask.config.set(scheduler="threads", num_workers=job.workers)


def create_for_blobs(job: Job) -> Any:
    """Make a store whose chunks are unit cubes, stored raw."""
    bounds = ((0.0,) * 3, tuple(map(float, job.grid)))
    return dzv.create(
        job.target,
        chunk_shape=(1.0,) * 3,
        bounds=bounds,
        dtype="float32",
        shard_chunks=job.shards,
        compressor=None,
        storage_options=options(job),
    )


def create_for_points(job: Job) -> Any:
    return dzv.create(
        job.target,
        chunk_shape=job.chunk_shape,
        bounds=((0.0,) * 3, (EXTENT,) * 3),
        dtype="float32",
        shard_chunks=job.shards,
        compressor="zstd",
        storage_options=options(job),
    )


def write_blobs(job: Job, clock: Clock) -> dict[str, Any]:
    payload = blobs(job)
    with threads(job), clock:
        group = create_for_blobs(job).level(0).group
        with group.batched_writes():
            for (array, key), data in payload.items():
                group.write_bytes(array, key, data)
    return blob_summary(payload)


def read_blobs(job: Job, clock: Clock) -> dict[str, Any]:
    with threads(job), clock:
        group = dzv.open(job.target, storage_options=options(job)).level(0).group
        keys = group.list_chunks(ARRAYS[0])
        with group.batched_reads([(array, keys) for array in ARRAYS]):
            found = {(array, key): group.read_bytes(array, key) for array in ARRAYS for key in keys}
    return blob_summary(found)


def ingest(job: Job, clock: Clock) -> dict[str, Any]:
    positions, attributes = make_points(job)
    with threads(job), clock:
        dzv.write_points(create_for_points(job), positions, attributes=attributes)
    inside = box_rows(positions)
    box = cloud_digest(positions[inside], {k: v[inside] for k, v in attributes.items()})
    return {**cloud_digest(positions, attributes), "box": box}


def read_whole(job: Job, clock: Clock) -> dict[str, Any]:
    with threads(job), clock:
        found = dzv.open(job.target, storage_options=options(job)).level(0).read()
    return cloud_digest(found.positions, found.attributes)


def read_box(job: Job, clock: Clock) -> dict[str, Any]:
    with threads(job), clock:
        level = dzv.open(job.target, storage_options=options(job)).level(0)
        found = level.read(bbox=((BOX[0],) * 3, (BOX[1],) * 3))
    return cloud_digest(found.positions, found.attributes)


def open_store(job: Job, clock: Clock) -> dict[str, Any]:
    with threads(job), clock:
        text = repr(dzv.open(job.target, storage_options=options(job)))
    return {"text": text}


def open_xarray(job: Job, clock: Clock) -> dict[str, Any]:
    with threads(job), clock:
        text = repr(xr.open_dataset(job.target, engine="zv", storage_options=options(job)))
    return {"text": text}


def write_lattice(job: Job, clock: Clock) -> dict[str, Any]:
    """Store one point in the middle of every chunk: the way to a store with very many chunks."""
    axes = [(np.arange(n, dtype=np.float32) + 0.5) * np.float32(s) for n, s in zip(job.grid, job.chunk_shape, strict=True)]
    positions = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    with threads(job), clock:
        dzv.write_points(create_for_points(job), positions)
    return {"count": len(positions)}


def about_graph(lazy: Any) -> dict[str, Any]:
    graph = dict(lazy.__dask_graph__())
    return {"tasks": len(graph), "graph_mb": len(pickle_graph(graph)) / 1e6}


def pickle_graph(graph: dict[Any, Any]) -> bytes:
    try:
        return pickle.dumps(graph, protocol=pickle.HIGHEST_PROTOCOL)
    except (pickle.PicklingError, AttributeError, TypeError):  # functions of this file, which pickle takes by name alone
        from distributed.protocol.pickle import dumps

        return dumps(graph)


def graph_of_points(job: Job, clock: Clock, *, slabs: bool) -> dict[str, Any]:
    """Build, and don't run, the graph that ingests a dask array of ten points a chunk, in 100 partitions."""
    partitions = 100
    size = 10 * job.chunks // partitions
    rows = da.map_blocks(
        make_partition,
        size,
        partitions if slabs else 1,
        chunks=((size,) * partitions, (3,)),
        dtype=np.float32,
        meta=np.empty((0, 3)),
    )
    with threads(job), clock:
        lazy = dzv.write_points(create_for_points(job), rows, compute=False)
    return about_graph(lazy)


def make_partition(size: int, slabs: int, block_id: tuple[int, ...] | None = None) -> np.ndarray:
    """Return uniform points, of one slab of several along the first axis, or of the whole cube."""
    number = 0 if block_id is None else block_id[0]
    rows = np.random.default_rng(number).uniform(0, EXTENT * 0.999, (size, 3))
    if slabs > 1:
        rows[:, 0] = (rows[:, 0] + EXTENT * number) / slabs
    return rows.astype(np.float32)


def graph_of_random(job: Job, clock: Clock) -> dict[str, Any]:
    return graph_of_points(job, clock, slabs=False)


def graph_of_slabs(job: Job, clock: Clock) -> dict[str, Any]:
    return graph_of_points(job, clock, slabs=True)


def graph_of_blobs(job: Job, clock: Clock) -> dict[str, Any]:
    """Build, and don't run, the graph that writes blobs which tasks make, a shard at a time."""
    make = dask.delayed(make_block, pure=False)
    with threads(job), clock:
        group = create_for_blobs(job).level(0).group
        with group.batched_writes(compute=False) as batch:
            for number in range(shard_count(job)):
                keys = [(ARRAYS[0], key) for key in keys_of_shard(job, number)]
                batch.write_blobs(make(job, number, ARRAYS[:1]), keys=keys)
        lazy = batch.to_delayed()
    return about_graph(lazy)


def make_block(job: Job, number: int, arrays: tuple[str, ...]) -> dict[tuple[str, str], bytes]:
    """Return the blobs of a shard: what a task makes."""
    return blobs(job, keys_of_shard(job, number), arrays)


def shard_grid(job: Job) -> tuple[int, ...]:
    assert isinstance(job.shards, tuple)
    return tuple(-(-n // s) for n, s in zip(job.grid, job.shards, strict=True))


def shard_count(job: Job) -> int:
    return math.prod(shard_grid(job))


def keys_of_shard(job: Job, number: int) -> list[str]:
    """Return the chunk keys of a shard, of the shape that the job names."""
    assert isinstance(job.shards, tuple)
    place = [int(p) for p in np.unravel_index(number, shard_grid(job))]
    axes = [range(p * s, min((p + 1) * s, n)) for p, s, n in zip(place, job.shards, job.grid, strict=True)]
    return [".".join(map(str, cell)) for cell in itertools.product(*axes)]


VERBS = {
    "write blobs": write_blobs,
    "read blobs": read_blobs,
    "ingest": ingest,
    "whole level": read_whole,
    "box": read_box,
    "open": open_store,
    "open in xarray": open_xarray,
    "lattice": write_lattice,
    "graph of random points": graph_of_random,
    "graph of slabs of points": graph_of_slabs,
    "graph of blobs": graph_of_blobs,
}

if __name__ == "__main__":
    run(VERBS, {"dask-zv": dzv.__version__, **packages("dask", "zarr", "numpy", "obstore", "xarray")})
