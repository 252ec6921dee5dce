"""The worker of ``zarr-vectors`` 0.9, run by its own environment; see ``grid_workload.py``.

Points go through its facade (``zv.create``, ``add_points``, ``zv.open``, ``select``, ``read``), with zstd, its default, and one
bin per chunk, as ours. Blobs go through its building verbs: one write session over all chunks (``open_write_session`` is
``batched_writes`` with the grid declared) and ``batched_reads``. The job on several processes is the recipe of its documents:
a coordinator allocates, processes write slabs of whole chunks, the coordinator rebuilds what is shared. S3 is obstore.
"""

from __future__ import annotations

import multiprocessing
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import zarr_vectors as zv
from zarr_vectors import building
from zarr_vectors.spatial.chunking import assign_bins, group_bins_by_chunk

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from grid_workload import (
    ARRAYS,
    BOX,
    EXTENT,
    PARTITIONS,
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

BOUNDS = ([0.0] * 3, [EXTENT] * 3)


def options(job: Job) -> dict[str, Any]:
    if job.endpoint is None:
        return {}
    return {
        "endpoint": job.endpoint,
        "access_key_id": "benchmark",
        "secret_access_key": "benchmark",
        "region": "us-east-1",
        "client_options": {"allow_http": True, "timeout": "600s"},  # by default a queued request gives up after 30 s
    }


def write_blobs(job: Job, clock: Clock) -> dict[str, Any]:
    payload = blobs(job)
    bounds = ([0.0] * 3, [n - 0.5 for n in job.grid])  # its grid has a chunk more where a bound lies on a boundary
    with clock:
        root = building.create_store(job.target, bounds=bounds, chunk_shape=(1.0,) * 3, storage_options=options(job))
        level = building.get_resolution_level(root, 0)
        with building.open_write_session(level, bounds=bounds, chunk_shape=(1.0,) * 3, shard_shape=job.shards):
            building.create_vertices_array(level, exist_ok=job.shards is None)
            for name in ARRAYS[1:]:
                building.create_attribute_array(level, name.partition("/")[2])
            for (array, key), data in payload.items():
                level.write_bytes(array, key, data)
    return blob_summary(payload)


def read_blobs(job: Job, clock: Clock) -> dict[str, Any]:
    with clock:
        root = building.open_store(job.target, "r", storage_options=options(job))
        level = building.get_resolution_level(root, 0)
        keys = level.list_chunks(ARRAYS[0])
        found = {}
        for some in batches(keys, job):
            with level.batched_reads([(array, some) for array in ARRAYS]):
                found.update({(array, key): level.read_bytes(array, key) for array in ARRAYS for key in some})
    return blob_summary(found)


def layout(job: Job) -> zv.Layout:
    return zv.Layout(cell_size=job.chunk_shape, subcells=1, pack=job.shards is not None, compression="zstd")


def create(job: Job) -> zv.Dataset:
    schema = zv.Schema(bounds=BOUNDS, kind="point_cloud", layout=layout(job))
    return zv.create(job.target, schema=schema, storage=zv.StorageOptions(options=options(job)))


def ingest(job: Job, clock: Clock) -> dict[str, Any]:
    if job.inputs:  # what a job on several processes gets in partitions, this side holds in memory
        parts = [np.load(path) for path in sorted(Path(job.inputs).glob("*.npz"))]
        positions = np.concatenate([part["positions"] for part in parts])
        attributes = {name: np.concatenate([part[name] for part in parts]) for name in ("intensity", "label")}
    else:
        positions, attributes = make_points(job)
    with clock:
        create(job).add_points(positions, attributes=attributes, layout=layout(job))
    inside = box_rows(positions)
    box = cloud_digest(positions[inside], {k: v[inside] for k, v in attributes.items()})
    return {**cloud_digest(positions, attributes), "box": box}


def read_whole(job: Job, clock: Clock) -> dict[str, Any]:
    with clock:
        store = zv.open(job.target, storage=zv.StorageOptions(options=options(job)))
        if job.batch:
            cells = sorted(store.select(bbox=BOUNDS).cells(), key=lambda cell: cell.coords)
            parts = [store.select(cells=zv.CellSet(some)).read() for some in batches(cells, job)]
        else:
            parts = [store.read()]
        positions = np.concatenate([part.positions for part in parts])
        attributes = {name: np.concatenate([part.attributes[name] for part in parts]) for name in ("intensity", "label")}
    return cloud_digest(positions, attributes)


def batches(keys: list[Any], job: Job) -> list[list[Any]]:
    """Return the keys in the portions that the peer can read: on S3 it opens a socket per object of one."""
    step = job.batch or len(keys)
    return [keys[i : i + step] for i in range(0, len(keys), step)]


def read_box(job: Job, clock: Clock) -> dict[str, Any]:
    with clock:
        store = zv.open(job.target, storage=zv.StorageOptions(options=options(job)))
        found = store.select(bbox=([BOX[0]] * 3, [BOX[1]] * 3)).read()
    return cloud_digest(found.positions, found.attributes)


def open_store(job: Job, clock: Clock) -> dict[str, Any]:
    with clock:
        text = repr(zv.open(job.target, storage=zv.StorageOptions(options=options(job))))
    return {"text": text.replace(job.target, "...")}


def write_slab(job: Job, number: int) -> int:
    """Write one partition: whole chunks, so no other process writes one of them."""
    part = np.load(Path(job.inputs) / f"{number:03}.npz")
    positions = part["positions"]
    level = building.get_resolution_level(building.open_store(job.target, "r+"), 0)
    with building.open_write_session(level, bounds=BOUNDS, chunk_shape=job.chunk_shape):
        for chunk, fragments in group_bins_by_chunk(assign_bins(positions, job.chunk_shape), (1, 1, 1)).items():
            rows = fragments[0]
            building.write_chunk_vertices(level, chunk, [positions[rows]], record_presence=False)
            for name in ("intensity", "label"):
                values = part[name]
                building.write_chunk_attributes(level, name, chunk, [values[rows]], dtype=values.dtype, record_presence=False)
    return len(positions)


def three_phase_job(job: Job, clock: Clock) -> dict[str, Any]:
    with multiprocessing.get_context("spawn").Pool(job.workers) as pool:
        pool.map(abs, range(job.workers * 4), chunksize=1)  # processes are there, and have imported everything
        with clock:
            root = building.create_store(
                job.target, bounds=BOUNDS, chunk_shape=job.chunk_shape, geometry_types=["point_cloud"], compressor="zstd"
            )
            meta = building.LevelMetadata(level=0, vertex_count=0, arrays_present=["vertices", "vertex_attributes"])
            level = building.create_resolution_level(root, 0, meta)
            with building.open_write_session(level, bounds=BOUNDS, chunk_shape=job.chunk_shape, compressor="zstd"):
                building.create_vertices_array(level, dtype="float32")
                building.create_attribute_array(level, "intensity", dtype="float32")
                building.create_attribute_array(level, "label", dtype="int32")
            written = sum(pool.starmap(write_slab, [(job, i) for i in range(PARTITIONS)], chunksize=1))
            level = building.get_resolution_level(building.open_store(job.target, "r+"), 0)
            building.rebuild_presence(level)
            building.refresh_arrays_present(level)
            building.update_level_metadata(level, vertex_count=written)
            building.write_multiscale_metadata(root)
    return {"count": written}


VERBS = {
    "write blobs": write_blobs,
    "read blobs": read_blobs,
    "ingest": ingest,
    "whole level": read_whole,
    "box": read_box,
    "open": open_store,
    "job": three_phase_job,
}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    import_all(zv)
    run(VERBS, packages("zarr-vectors", "zarr", "numpy", "obstore"))
