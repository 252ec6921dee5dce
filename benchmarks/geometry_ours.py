"""The worker of dask-zv for ``compare_geometries.py``: the threaded scheduler, arrays that the client holds.

See ``geometry_workload.py``. What runs on a cluster is in ``geometry_cluster.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import dask_zv as dzv
from geometry_workload import KINDS, Shapes, digest, load_shapes, read_one_by_one
from grid_ours import options, threads
from grid_workload import EXTENT, Clock, Job, packages, run


def create(job: Job) -> Any:
    return dzv.create(
        job.target,
        geometry=KINDS[job.geometry],
        chunk_shape=job.chunk_shape,
        bounds=((0.0,) * 3, (EXTENT,) * 3),
        dtype="float32",
        compressor="zstd",
        storage_options=options(job),
    )


def put(job: Job, shapes: Shapes) -> None:
    """Write geometry, in arrays of numpy or of dask."""
    store = create(job)
    about = {"attributes": {"radius": shapes.radius}} if job.radius else {}
    if job.geometry == "polylines":
        dzv.write_polylines(store, shapes.positions, lengths=shapes.lengths, **about)
    elif job.geometry == "skeletons":
        dzv.write_skeletons(store, shapes.positions, parents=shapes.parents, object_ids=shapes.owners, **about)
    elif job.geometry == "mesh":
        dzv.write_meshes(store, shapes.positions, faces=shapes.faces, object_ids=shapes.owners, **about)
    else:
        dzv.write_graph(store, shapes.positions, edges=shapes.edges, **about)


def read_object(level: Any, geometry: str, oid: int) -> Shapes:
    return shapes_of(level.read(objects=[oid]), geometry)


def shapes_of(found: Any, geometry: str) -> Shapes:
    # a graph that was given no objects is one, as in the peer's stores; polylines say whose they are once for each
    owners = None if geometry == "graph" else found.object_ids
    if found.lengths is not None and owners is None:
        owners = np.repeat(found.ids, found.lengths)
    lengths = found.lengths if geometry == "polylines" else None
    return Shapes(found.positions, found.attributes.get("radius"), owners, lengths, edges=found.edges, faces=found.faces)


def open_level(job: Job) -> Any:
    return dzv.open(job.target, storage_options=options(job)).level(0)


def write(job: Job, clock: Clock) -> dict[str, Any]:
    shapes = load_shapes(job)
    with threads(job), clock:
        put(job, shapes)
    return {"count": len(shapes.positions)}


def read(job: Job, clock: Clock) -> dict[str, Any]:
    with threads(job), clock:
        found = open_level(job).read()
    return digest(job, shapes_of(found, job.geometry))


def read_one(job: Job, clock: Clock) -> dict[str, Any]:
    with threads(job):
        return read_one_by_one(job, clock, open_level, read_object)


VERBS = {"write": write, "read": read, "read one": read_one}

if __name__ == "__main__":
    run(VERBS, {"dask-zv": dzv.__version__, **packages("dask", "zarr", "numpy", "obstore")})
