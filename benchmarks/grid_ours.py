"""The worker of dask-zv for ``compare_grid.py``: layout ``grid``, the threaded scheduler, payloads that the client holds.

See ``grid_workload.py``. What runs on a cluster is in ``grid_cluster.py``.
"""

from __future__ import annotations

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
    chunk_keys,
    cloud_digest,
    make_points,
    packages,
    run,
)

assert dask.threaded, (distributed, obstore.store)  # imported before the clock starts, like everything else
assert all(getattr(dzv, name) for name in dzv.__all__)


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


def points_graph(job: Job, clock: Clock) -> dict[str, Any]:
    """Build, and don't run, the graph that ingests a dask array of ten points a chunk, in 100 partitions."""
    count = 10 * job.chunks
    rows = da.random.default_rng(0).uniform(0, EXTENT, (count, 3), chunks=(count // 100, 3)).astype("float32")
    with threads(job), clock:
        lazy = dzv.write_points(create_for_points(job), rows, compute=False)
    return about_graph(lazy)


def blobs_graph(job: Job, clock: Clock) -> dict[str, Any]:
    """Build, and don't run, the graph that writes blobs which tasks make, a shard at a time."""
    blocks = keys_by_shard(job)
    make = dask.delayed(make_block, pure=False)
    with threads(job), clock:
        group = create_for_blobs(job).level(0).group
        with group.batched_writes(compute=False) as batch:
            for number, keys in enumerate(blocks):
                batch.write_blobs(make(job, number), keys=[(ARRAYS[0], key) for key in keys])
        lazy = batch.to_delayed()
    return about_graph(lazy)


def make_block(job: Job, number: int) -> dict[tuple[str, str], bytes]:
    return make_blobs(job, keys_by_shard(job)[number])


def make_blobs(job: Job, keys: list[str], arrays: tuple[str, ...] = ARRAYS[:1]) -> dict[tuple[str, str], bytes]:
    return blobs(job, keys, arrays)


def keys_by_shard(job: Job) -> list[list[str]]:
    """Return the chunk keys of each shard, of the shape that the job names."""
    assert isinstance(job.shards, tuple)
    cells = np.stack(np.unravel_index(np.arange(job.chunks), job.grid), axis=1)
    shard_grid = tuple(-(-n // s) for n, s in zip(job.grid, job.shards, strict=True))
    shard = np.ravel_multi_index((cells // np.array(job.shards)).T, shard_grid)
    keys = np.array(chunk_keys(job), dtype=object)[np.argsort(shard, kind="stable")]
    return [list(part) for part in np.split(keys, np.cumsum(np.bincount(shard))[:-1]) if len(part)]


VERBS = {
    "write blobs": write_blobs,
    "read blobs": read_blobs,
    "ingest": ingest,
    "whole level": read_whole,
    "box": read_box,
    "open": open_store,
    "open in xarray": open_xarray,
    "lattice": write_lattice,
    "graph of points": points_graph,
    "graph of blobs": blobs_graph,
}

if __name__ == "__main__":
    run(VERBS, {"dask-zv": dzv.__version__, **packages("dask", "zarr", "numpy", "obstore", "xarray")})
