"""The worker of ``zarr-vectors`` 0.9 for ``compare_geometries.py``, run by its own environment; see ``geometry_workload.py``.

Everything goes through its facade (``zv.create``, ``add_polylines``, ``add_graph``, ``add_mesh``, ``zv.open``, ``read``,
``level.objects``), with zstd and one bin per chunk, as ours. Its facade reads no single object of a skeleton or a mesh; the
shortest way that it has is taken instead: the object's manifest, then the chunks that this names, and of what comes back the rows
of the object's fragments. That gives no attributes.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import zarr_vectors as zv
from peer_09 import BOUNDS, layout, options
from zarr_vectors.core import arrays

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from geometry_workload import KINDS, Shapes, cloud_of, digest, make, one_by_one, picked, requests_of
from grid_workload import Clock, Job, import_all, packages, run


def write(job: Job, clock: Clock) -> dict[str, Any]:
    shapes = make(job)
    with clock:
        schema = zv.Schema(bounds=BOUNDS, kind=KINDS[job.geometry], layout=layout(job))
        store = zv.create(job.target, schema=schema, storage=zv.StorageOptions(options=options(job)))
        about: dict[str, Any] = {"layout": layout(job)}
        if job.radius:
            about["attributes"] = {"radius": shapes.radius}
        if job.geometry == "polylines":
            ends = np.cumsum(shapes.lengths)[:-1]
            if job.radius:
                about["attributes"] = {"radius": np.split(shapes.radius, ends)}
            store.add_polylines(np.split(shapes.positions, ends), **about)
        elif job.geometry == "mesh":
            store.add_mesh(shapes.positions, shapes.faces, object_ids=shapes.owners, **about)
        else:
            tree = job.geometry == "skeletons"
            store.add_graph(shapes.positions, shapes.edges, object_ids=shapes.owners, tree=tree, **about)
    return cloud_of(job, shapes)


def open_level(job: Job) -> Any:
    return zv.open(job.target, storage=zv.StorageOptions(options=options(job))).level(0)


def read(job: Job, clock: Clock) -> dict[str, Any]:
    with clock:
        found = open_level(job).read(attributes="all")
    return digest(job, shapes_of(found))


def shapes_of(found: Any) -> Shapes:
    lengths = owners = None
    if found.part_objects is not None:
        lengths = np.array([part.stop - part.start for part in found.parts])
        owners = np.repeat(np.asarray(found.part_objects, np.int64), lengths)
    return Shapes(found.positions, found.attributes.get("radius"), owners, lengths, edges=found.edges, faces=found.faces)


def read_object(level: Any, geometry: str, oid: int) -> Shapes:
    if geometry == "polylines":
        return shapes_of(level.select(objects=[oid], attributes="all").read())
    group = level.store
    manifest = arrays.read_object_manifest(group, oid)
    chunks = sorted({tuple(map(int, chunk)) for chunk, _ in manifest})
    found = level.select(cells=zv.CellSet(zv.CellRef(chunk) for chunk in chunks), attributes=()).read()
    rows, start = [], 0
    wanted = {(tuple(map(int, chunk)), int(fragment)) for chunk, fragment in manifest}
    for chunk in chunks:
        index = arrays.read_vertex_fragment_index(group, chunk)
        for fragment in range(len(index)):
            length = len(index.indices(fragment))
            if (chunk, fragment) in wanted:
                rows.append(np.arange(start, start + length))
            start += length
    keep = np.zeros(start, bool)
    keep[np.concatenate(rows)] = True
    part = found.restrict(keep)
    return Shapes(part.positions, edges=part.edges, faces=part.faces)


def read_one(job: Job, clock: Clock) -> dict[str, Any]:
    first, *others = picked(job)
    with clock:
        level = open_level(job)
    opened, opening = clock.seconds, requests_of(job)
    with clock:
        found = [read_object(level, job.geometry, first)]
    asked = requests_of(job)
    again = []
    for oid in others:
        start = time.perf_counter()
        found.append(read_object(level, job.geometry, oid))
        again.append(time.perf_counter() - start)
    times = {"seconds": opened + clock.seconds, "object_seconds": clock.seconds, "again_seconds": statistics.median(again)}
    asked = {f"{k}_object": v - opening[k] for k, v in asked.items()} | {f"{k}_opening": v for k, v in opening.items()}
    return {**one_by_one(found, job), **times, **asked}


VERBS = {"write": write, "read": read, "read one": read_one}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    import_all(zv)
    run(VERBS, packages("zarr-vectors", "zarr", "numpy", "obstore"))
