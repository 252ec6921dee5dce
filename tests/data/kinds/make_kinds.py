"""Make the stores of this folder with the ZV package (0.9.2 or 0.2.0) of the environment that runs this: ``NAME-VERSION.zip``.

    python make_kinds.py FOLDER

The truth of each is what the package itself reads of it: positions in chunk order, objects, links.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import zarr
from zarr_vectors.composite import add_geometry
from zarr_vectors.core import arrays
from zarr_vectors.core.store import get_resolution_level, open_store, read_root_metadata
from zarr_vectors.lazy.store import open_zv
from zarr_vectors.rechunk import RechunkSpec, rechunk, rechunk_by_attribute
from zarr_vectors.types.graphs import read_graph, write_graph
from zarr_vectors.types.meshes import read_mesh, write_mesh
from zarr_vectors.types.points import write_points
from zarr_vectors.types.polylines import write_polylines

GRID = hasattr(arrays, "read_link_arrays")
CHUNK = (50.0, 50.0, 50.0)


def points(n=40, seed=0):
    return np.random.default_rng(seed).uniform(0, 100, (n, 3)).astype("f4")


def tree(path, kind="skeleton", n=30, chunk=CHUNK, branch=True):
    """Write a path of n nodes, maybe with a branch, its nodes shuffled."""
    rng = np.random.default_rng(5)
    along = np.linspace(1, 99, n, dtype="f4")
    positions = np.stack([along, along[::-1] / 2, along / 3 + 20], axis=1)
    order = rng.permutation(n)
    place = np.argsort(order)
    parents = np.arange(-1, n - 1)
    if branch:
        parents[n // 2] = 3
    edges = np.array([[place[i], place[p]] for i, p in enumerate(parents) if p >= 0])
    write_graph(path, positions[order], edges, chunk_shape=chunk, kind=kind)


def graph_implicit(path):
    from zarr_vectors.ops.links import reorder_vertices_implicit

    tree(path, "graph")
    reorder_vertices_implicit(open_store(path, mode="r+"), level=0, flip_convention=True)


def skeleton_explicit(path):
    """All links are stored, then two of them are removed: three trees are left.

    One chunk: links to other chunks are stored as rows that the child's chunk does not have.
    """
    from zarr_vectors.ops.edit import EditSession
    from zarr_vectors.ops.links import materialise_object_links_explicit
    from zarr_vectors.ops.refs import LinkRef

    tree(path, chunk=(100.0, 100.0, 100.0), branch=False)
    root = open_store(path, mode="r+")
    materialise_object_links_explicit(root, 0, 0, flip_convention=True)
    for row in (9, 4):
        with EditSession(root, atomic=False) as session:
            session.remove_link(LinkRef(level=0, chunk=(0, 0, 0), offsets=((0, 0, 0),), fragment=0, row=row))


def objects_of_points(path):
    n = 40
    ids = np.arange(n) % 12
    write_points(
        path, points(n), chunk_shape=CHUNK, object_ids=ids, groups={0: [0, 1, 2, 3], 1: [4, 5, 6, 7, 8], 2: [9, 10, 11]},
        object_attributes={"length": np.linspace(0.5, 9.5, 12, dtype="f4"), "cluster": np.arange(12) % 3},
    )  # fmt: skip


def rechunked(by, **options):
    def make(path):
        objects_of_points(path)
        rechunk(path, RechunkSpec(by=by, **options))

    return make


def rechunked_by_category(path):
    objects_of_points(path)
    rechunk_by_attribute(path, "cluster")


def emptied_chunk(path):
    """Chunk 0.0.0 loses its only object, and then its fragment."""
    from zarr_vectors.ops import FragmentRef
    from zarr_vectors.ops.edit import EditSession

    positions = np.concatenate([points(6) / 3, points(6, 1) / 3 + 60])
    attributes = {"mass": np.arange(12, dtype="f4")}
    write_points(path, positions, chunk_shape=CHUNK, object_ids=np.repeat([0, 1], 6), vertex_attributes=attributes)
    root = open_store(path, mode="r+")
    with EditSession(root, atomic=False) as session:
        session.remove_object(level=0, oid=0)
    with EditSession(root, atomic=True) as session:
        session.remove_fragment(FragmentRef(level=0, chunk=(0, 0, 0), fragment=0))


def strings(path):
    names = np.array([f"n{i}" * (i % 3 + 1) for i in range(20)])
    edges = np.stack([np.arange(19), np.arange(1, 20)], axis=1)
    labels = {} if GRID else {"object_attributes": {"label": np.array(["a", "bcd"])}}
    ids = np.repeat([0, 1], 10)
    write_graph(path, points(20), edges, chunk_shape=CHUNK, object_ids=ids, vertex_attributes={"name": names}, **labels)


def polyline_strings(path):
    walks = [points(8, 1), points(5, 2)]
    names = [np.array([f"p{i}" for i in range(len(w))]) for w in walks]
    write_polylines(path, walks, chunk_shape=CHUNK, vertex_attributes={"name": names}, geometry_type="polyline")


def lazy_channels(path):
    write_points(path, points(), chunk_shape=CHUNK, object_ids=np.arange(40))
    normals = np.arange(120, dtype="f4").reshape(40, 3)

    async def add():  # its synchronous spelling never returns
        async with open_zv(path)[0].writer() as writer:
            await writer.add_attribute("normal", normals)

    asyncio.run(add())


def composite(path):
    write_points(path, points(), chunk_shape=CHUNK)
    edges = np.stack([np.arange(9), np.arange(1, 10)], axis=1)
    add_geometry(path, "graph", positions=points(10, 3), edges=edges)


def strays(path):
    """Cut at 50, while the root says 128."""
    write_points(zarr.storage.LocalStore(path), points(200), chunk_shape=CHUNK)


def mesh_inside(path):
    corners = np.array([[1, 1, 1], [9, 1, 1], [1, 9, 1], [9, 9, 1]], "f4")
    write_mesh(path, np.concatenate([corners, corners + 60]), np.array([[0, 1, 2], [1, 3, 2], [4, 5, 6]]), chunk_shape=CHUNK)


RECIPES = {
    "rechunked_bins": rechunked("attribute:length"),
    "rechunked_group": rechunked("group"),
    "rechunked_object_id": rechunked("object_id", bins=[0, 5]),
    "rechunked_category": rechunked_by_category,
    "strings": strings,
    "polyline_strings": polyline_strings,
    "lazy_channels": lazy_channels,
    "composite": composite,
    "strays": strays,
    "mesh_inside": mesh_inside,
}
if GRID:
    RECIPES |= {"graph_implicit": graph_implicit, "skeleton_explicit": skeleton_explicit, "emptied_chunk": emptied_chunk}


def truth(path):
    root = open_store(path)
    level, meta = get_resolution_level(root, 0), read_root_metadata(root)
    kind, ndim = meta.geometry_types[0], len(meta.chunk_shape)
    dtype = np.dtype(level.read_array_meta("vertices").get("dtype", "float32"))
    chunks = sorted(tuple(map(int, c)) for c in arrays.list_chunk_keys(level))
    out = {"positions": np.concatenate([p for c in chunks for p in arrays.read_chunk_vertices(level, c, dtype, ndim)])}
    if kind in ("graph", "skeleton"):
        out["edges"] = read_graph(path)["edges"]
    if kind == "mesh":
        out["faces"] = read_mesh(path)["faces"]
    folder = Path(path) / "0" / "vertex_attributes"
    for name in sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else ():
        columns = 3 if name == "normal" else 1
        of = np.dtype(level.read_array_meta(f"vertex_attributes/{name}").get("dtype", "float32"))
        found = [np.concatenate(arrays.read_chunk_attributes(level, name, c, of, columns)) for c in chunks]
        out[f"attr__{name}"] = np.concatenate(found)
    return out


def main(folder, *only):
    release = version("zarr-vectors")
    for name, recipe in RECIPES.items():
        if only and name not in only:
            continue
        with tempfile.TemporaryDirectory() as temporary:
            path = str(Path(temporary) / "store")
            recipe(path)
            base = Path(folder) / f"{name}-{release}"
            np.savez_compressed(f"{base}.npz", **truth(path))
            with zipfile.ZipFile(f"{base}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
                for file in sorted(p for p in Path(path).rglob("*") if p.is_file()):
                    archive.write(file, file.relative_to(path).as_posix())
            shutil.rmtree(path)
        print(json.dumps({"store": base.name, "bytes": Path(f"{base}.zip").stat().st_size}))


if __name__ == "__main__":
    main(*sys.argv[1:])
