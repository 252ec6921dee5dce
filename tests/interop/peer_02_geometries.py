"""Lines, polylines, graphs, meshes and skeletons in the ZV 0.7 package (zarr-vectors 0.2.0): its stores, and what it reads of ours.

    python peer_02_geometries.py write FOLDER
    python peer_02_geometries.py read JOBS.json

Runs in an environment that has the package, and not this project. What it finds is put beside the stores (NAME.npz, NAME.json).
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from geometry_inputs import (
    chunk_of,
    forest,
    graph,
    lines,
    link_attributes,
    object_attributes,
    paths,
    surface,
    vertex_attributes,
)
from zarr_vectors.core import arrays
from zarr_vectors.core.store import get_resolution_level, list_resolution_levels, open_store, read_root_metadata
from zarr_vectors.multiresolution.coarsen import build_pyramid
from zarr_vectors.sharding.io import shard_store
from zarr_vectors.sharding.layout import ShardLayout
from zarr_vectors.types.graphs import read_graph, write_graph
from zarr_vectors.types.lines import read_lines, write_lines
from zarr_vectors.types.meshes import read_mesh, write_mesh
from zarr_vectors.types.points import read_points
from zarr_vectors.types.polylines import read_polylines, write_polylines
from zarr_vectors.validate import validate

# -------------------------------------------------------------------------------------------------- what it writes


def prefixed(prefix, values):
    return {f"{prefix}{k}": v for k, v in values.items()}


def path_truth(positions, lengths, attributes, table, **more):
    ids = np.arange(len(lengths))
    out = {"positions": positions, "lengths": np.asarray(lengths), "ids": ids, "index": ids, "owners": np.repeat(ids, lengths)}
    return out | prefixed("attr__", attributes) | prefixed("oattr__", table) | more


def of_lines(seed, ndim=3, leading=False, **options):
    def recipe(path):
        ends = lines(seed, count=25, ndim=ndim, dtype="f8" if ndim == 2 else "f4")
        n = len(ends)
        table, kept = object_attributes(n, seed), {}
        if leading:
            table["cls"] = np.arange(n) % 3
            options["chunk_by_attribute"] = "cls"
            kept = {"cls": np.repeat(table["cls"], 2)}
        mass = vertex_attributes(2 * n, seed)["mass"].reshape(n, 2)  # which it takes, and drops (FORMAT.md J.1)
        how = {"chunk_shape": chunk_of(ndim), "dtype": str(ends.dtype), "vertex_attributes": {"mass": mass}}
        write_lines(path, ends, object_attributes=table, **how, **options)
        return path_truth(ends.reshape(2 * n, ndim), np.full(n, 2), kept, table)

    return recipe


def of_paths(seed, ndim=3, shortest=2, leading=False, change=None, **options):
    def recipe(path):
        walks = paths(seed, count=14, ndim=ndim, shortest=shortest, dtype="f8" if ndim == 2 else "f4")
        lengths = [len(w) for w in walks]
        cuts = np.cumsum(lengths)[:-1]
        attributes = vertex_attributes(sum(lengths), seed)
        if leading:
            attributes["cls"] = (np.arange(sum(lengths)) // 5) % 3
            options["chunk_by_attribute"] = "cls"
        table, groups, weight = object_attributes(len(walks), seed), {0: [1, 2], 2: [0, 5, 9]}, {"w": np.array([0.5, 1.5, 2.5])}
        write_polylines(
            path, walks, chunk_shape=chunk_of(ndim), dtype=str(walks[0].dtype), object_attributes=table, groups=groups,
            group_attributes=weight, vertex_attributes={k: np.split(v, cuts) for k, v in attributes.items()}, **options,
        )  # fmt: skip
        if change:
            change(path)
        more = prefixed("group__", {k: np.array(v) for k, v in groups.items()}) | prefixed("gattr__", weight)
        return path_truth(np.concatenate(walks), lengths, attributes, table, **more)

    return recipe


def of_links(kind, given, seed, owners=None, of_links=None, change=None, **options):
    """`owners` is "sorted" (rows of an object follow each other) or "mixed"; ids are dense."""

    def recipe(path):
        positions, links, number = given()
        attributes = {k: v for k, v in vertex_attributes(len(positions), seed).items() if k in ("mass", "rgb")}
        out, more = {"positions": positions, "links": links}, {}
        if owners:
            ids = np.sort(number) if owners == "sorted" else number
            out |= {"owners": ids, "index": np.unique(ids)}
            more = {"object_ids": ids, "object_attributes": object_attributes(len(out["index"]), seed)}
            out |= prefixed("oattr__", more["object_attributes"])
        if of_links:
            more["link_attributes"] = {k: link_attributes(len(links), seed)[k] for k in of_links}
            out |= prefixed("eattr__", more["link_attributes"])
        how = {"chunk_shape": chunk_of(positions.shape[1]), "dtype": str(positions.dtype), "vertex_attributes": attributes}
        if kind == "mesh":
            write_mesh(path, positions, links, **how, **more, **options)
        else:
            write_graph(path, positions, links, kind=kind, **how, **more, **options)
        if change:
            change(path)
        return out | prefixed("attr__", attributes)

    return recipe


def nodes(seed, **options):
    def given():
        positions, edges = graph(seed, **{"nodes": 60, "edges": 110, "reach": 3, **options})
        return positions, edges, np.random.default_rng(seed).permutation(np.arange(len(positions)) % 4)

    return given


def tree(seed, **options):
    def given():
        positions, parents, number = forest(seed, (60,), **options)
        child = np.flatnonzero(parents >= 0)
        return positions, np.stack([child, parents[child]], axis=1), number

    return given


def skin(seed, **options):
    return lambda: surface(seed, **{"side": 7, **options})


def sharded(layout, names=None):
    return lambda path: shard_store(path, ShardLayout(layout), 4, arrays=names)


def pyramid(**options):
    return lambda path: build_pyramid(path, **{"factors": [(2.0, 1.0), (4.0, 2.0)], "sparsity_seed": 1, **options})


OF_GRAPHS = ["vertices", "vertex_fragments", "link_fragments", "links/0", "vertex_attributes/mass"]
RECIPES = {
    "lines": of_lines(1),
    "lines_2d": of_lines(2, ndim=2),
    "lines_by_attribute": of_lines(3, leading=True),
    "polylines": of_paths(10, geometry_type="polyline"),
    "polylines_bins": of_paths(11, bin_shape=(20.0, 20.0, 40.0), geometry_type="polyline", shortest=1),
    "polylines_2d": of_paths(12, ndim=2, geometry_type="polyline", change=sharded("snake")),
    "polylines_by_attribute": of_paths(13, leading=True, geometry_type="polyline"),
    "polylines_pyramid": of_paths(14, geometry_type="polyline", change=pyramid(chunk_scale_factors=[2, 1])),
    "streamlines_octree": of_paths(15, change=sharded("octree", ["vertices", "vertex_fragments", "vertex_attributes/mass"])),
    "graph": of_links("graph", nodes(20), 20, of_links=("weight", "vec")),
    "graph_objects": of_links("graph", nodes(21), 21, "sorted", of_links=("weight",)),
    "graph_mixed": of_links("graph", nodes(22), 22, "mixed"),
    "graph_2d_octree": of_links("graph", nodes(23, ndim=2, dtype="f8"), 23, change=sharded("octree", OF_GRAPHS)),
    "graph_pyramid": of_links("graph", nodes(24), 24, change=pyramid(cross_level_depth=2)),
    "mesh": of_links("mesh", skin(30), 30),
    "mesh_quads": of_links("mesh", skin(31, arity=4), 31, change=sharded("index_table", OF_GRAPHS)),
    "mesh_objects": of_links("mesh", skin(32, patches=2), 32, "mixed"),
    "mesh_pyramid": of_links("mesh", skin(33), 33, change=pyramid()),
    "skeleton": of_links("skeleton", tree(40), 40),
    "skeleton_2d": of_links("skeleton", tree(41, ndim=2, dtype="f8"), 41, change=sharded("octree")),
}  # fmt: skip


def write(folder):
    for name, recipe in RECIPES.items():
        np.savez(folder / f"{name}.npz", **recipe(str(folder / name)))


# -------------------------------------------------------------------------------------------------- what it reads


def read(job, out):
    path, number = job["path"], job.get("level", 0)
    if "pyramid" in job:
        build_pyramid(path, factors=job["pyramid"])
    root = open_store(path)
    level = get_resolution_level(root, number)
    meta = read_root_metadata(root)
    dtype = np.dtype(level.read_array_meta("vertices")["dtype"])
    kind = meta.geometry_types[0]
    found, told = {}, {"kind": kind, "levels": list_resolution_levels(root), "children": sorted(level)}
    told["bounds"], told["bins"] = [list(b) for b in meta.bounds], list(meta.bins_per_chunk)
    chunks = arrays.list_chunk_keys(level)
    told["chunks"] = [list(c) for c in chunks]
    whole = job.get("whole", True)  # else only what its readers of geometries give
    manifests = arrays.read_all_object_manifests(level) if whole else []
    told["manifests"] = [[[*map(int, c), int(f)] for c, f in m] for m in manifests]
    if kind == "line":
        ends = read_lines(path, level=number)["endpoints"]
        found["positions"], found["lengths"] = ends.reshape(-1, ends.shape[2]), np.full(len(ends), 2)
    elif kind in ("polyline", "streamline"):
        walks = read_polylines(path, level=number)["polylines"]
        pieces = [p for walk in walks for p in walk]
        found["positions"], found["lengths"] = np.concatenate(pieces), np.array([sum(map(len, w)) for w in walks])
        if job.get("groups"):
            some = read_polylines(path, group_ids=[0])["polylines"]
            found["of_group"] = np.concatenate([p for walk in some for p in walk])
    elif kind == "mesh":
        mesh = read_mesh(path, level=number)
        found["positions"], found["links"] = mesh["vertices"], mesh["faces"]
    elif kind == "point_cloud":
        found["positions"] = read_points(path, level=number)["positions"]
    else:
        made = read_graph(path, level=number)
        found["positions"], found["links"] = made["positions"], made["edges"]
    # attributes of paths have no reader but that of chunks: they are in the order of the chunks
    ndim = len(meta.chunk_shape)
    found["by_chunk"] = np.concatenate([p for c in chunks for p in arrays.read_chunk_vertices(level, c, dtype, ndim)])
    for name, columns in job.get("attributes", {}).items():
        of = np.dtype(level.read_array_meta(f"vertex_attributes/{name}")["dtype"])
        rows = [np.concatenate(arrays.read_chunk_attributes(level, name, c, dtype=of, ncols=columns)) for c in chunks]
        found[f"attr__{name}"] = np.concatenate(rows)
    if manifests:
        vertices = [arrays.read_object_vertices(level, i, dtype, ndim) for i, m in enumerate(manifests) if m]
        found["by_object"] = np.concatenate([p for v in vertices for p in v])
    for name in job.get("object_attributes", []):
        found[f"oattr__{name}"] = arrays.read_object_attributes(level, name)
    if job.get("groups"):
        told["groups"] = [[int(m) for m in members] for members in arrays.read_all_groupings(level)]
        for name in job.get("group_attributes", []):
            found[f"gattr__{name}"] = arrays.read_groupings_attributes(level, name)
    links = arrays.read_cross_chunk_links(level, delta=0) if whole else []
    told["crossing"] = [[[list(map(int, c)), int(v)] for c, v in record] for record in links]
    if job.get("validate", True):  # it stumbles over faces across chunks (FORMAT.md J.1)
        result = validate(path, level=5)
        told["errors"], told["warnings"] = result.errors, result.warnings
    np.savez(f"{out}.npz", **found)
    Path(f"{out}.json").write_text(json.dumps(told))


def main(do, what):
    if do == "write":
        write(Path(what))
        return
    jobs = json.loads(Path(what).read_text())
    assert version("zarr-vectors") == jobs["version"]
    for name, job in jobs["read"].items():
        start = time.perf_counter()
        read(job, Path(jobs["out"]) / name)
        print(f"{name}: {time.perf_counter() - start:.2f} s", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
