"""The worker of ``zarr-vectors`` 0.9 for ``compare_geometries.py``, run by its own environment; see ``geometry_workload.py``.

Everything goes through its facade (``zv.create``, ``add_polylines``, ``add_graph``, ``add_mesh``, ``zv.open``, ``read``,
``select``), with zstd and one bin per chunk, as ours. Its facade reads no single object of a skeleton or a mesh; the shortest
way that it has is taken instead: the object's manifest, then the chunks that this names, and of what comes back the rows of the
object's fragments. That gives no attributes.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import zarr_vectors as zv
from peer_09 import BOUNDS, layout, options
from zarr_vectors.core import arrays

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from geometry_workload import KINDS, Shapes, digest, load_shapes, read_one_by_one
from grid_workload import Clock, Job, import_all, packages, run


def write(job: Job, clock: Clock) -> dict[str, Any]:
    shapes = load_shapes(job)
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
    return {"count": len(shapes.positions)}


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
    return read_one_by_one(job, clock, open_level, read_object)


VERBS = {"write": write, "read": read, "read one": read_one}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    import_all(zv)
    run(VERBS, packages("zarr-vectors", "zarr", "numpy", "obstore"))
