"""Stores by every writer that the ZV 0.7 package (zarr-vectors 0.2.0) has, and its edits; imported by peer.py, where it is."""

from __future__ import annotations

from functools import partial

import numpy as np
from peer_writers import nodes, of_lines, of_links, of_paths, pyramid, skin, trees
from zarr_vectors.core import arrays
from zarr_vectors.core.store import get_resolution_level, open_store
from zarr_vectors.sharding.io import shard_store
from zarr_vectors.sharding.layout import ShardLayout
from zarr_vectors.types.points import write_points

N = 300
rng = np.random.default_rng(3)
POINTS = rng.uniform(-40, 40, (N, 3)).astype("f4")
ATTRIBUTES = {
    "mass": rng.normal(size=N),
    "rgb": rng.integers(0, 255, (N, 3), dtype="u1"),
    "flag": rng.random(N) > 0.5,
    "name": np.array(["a", "bb", "ccc"])[rng.integers(0, 3, N)],
    "when": np.datetime64("2026-01-01", "s") + rng.integers(0, 10**6, N).astype("m8[s]"),
}
OBJECTS = {
    "object_ids": rng.permutation(np.arange(N) % 21),
    "object_attributes": {"score": np.arange(21.0), "vec": np.arange(42).reshape(21, 2)},
    "groups": {0: [1, 2], 1: [20]},
    "group_attributes": {"w": np.array([0.5, 1.5])},
}


def batched(**more):
    def recipe(path):
        write_points(path, POINTS, chunk_shape=(40.0, 40.0, 40.0), vertex_attributes=ATTRIBUTES, **more)
        ids = {"object_ids": more["object_ids"]} if "object_ids" in more else {}
        return {"positions": POINTS, **{f"attr__{k}": v for k, v in ATTRIBUTES.items()}, **ids}

    return recipe


def sharded(layout, names=None):
    return lambda path: shard_store(path, ShardLayout(layout), 4, arrays=names)


def unbatched(layout=None):
    """The un-batched path: one Zstandard frame, and no data object at all where every byte is zero."""

    def recipe(path):
        write_points(path, POINTS, chunk_shape=(40.0, 40.0, 40.0), vertex_attributes={"mass": ATTRIBUTES["mass"]})
        level = get_resolution_level(open_store(path, mode="r+"), 0)
        chunks, kept, mass = arrays.list_chunk_keys(level), {}, {}
        for coords in chunks:
            kept[coords] = np.concatenate(arrays.read_chunk_vertices(level, coords, dtype="f4", ndim=3))
            mass[coords] = np.concatenate(arrays.read_chunk_attributes(level, "mass", coords, dtype="f8", ncols=1))
        kept[0, 0, 0], mass[0, 0, 0] = np.zeros((7, 3), "f4"), np.arange(7.0)  # all at the origin
        other = next(c for c in chunks if c != (0, 0, 0))
        mass[other] = np.zeros(len(kept[other]))  # an attribute of nothing but zeros
        for coords in kept:
            edit_chunk(path, coords, kept[coords], mass[coords])
        count = {"vertex_count": sum(map(len, kept.values()))}  # which the writers of single chunks leave as it was
        level.attrs["zarr_vectors_level"] = {**level.attrs["zarr_vectors_level"], **count}
        if layout:
            sharded(layout, ["vertices", "vertex_fragments", "vertex_attributes/mass"])(path)
        order = sorted(kept)
        return {"positions": np.concatenate([kept[c] for c in order]), "attr__mass": np.concatenate([mass[c] for c in order])}

    return recipe


def zeros_shard(path):
    """Everything zero, in one shard of zeros."""
    zeros = np.zeros((7, 3), "f4")
    write_points(path, zeros, chunk_shape=(40.0, 40.0, 40.0), vertex_attributes={"mass": np.zeros(7)})
    sharded("octree", ["vertices", "vertex_attributes/mass"])(path)
    return {"positions": zeros, "attr__mass": np.zeros(7)}


def edit_chunk(path, chunk, positions=None, mass=None):
    """Change one chunk of a store in place, through the package's un-batched writer."""
    level = get_resolution_level(open_store(path, mode="r+"), 0)
    if positions is not None:
        arrays.write_chunk_vertices(level, tuple(chunk), [np.array(positions, "f4").reshape(-1, 3)], dtype="f4")
    if mass is not None:
        arrays.write_chunk_attributes(level, "mass", tuple(chunk), [np.array(mass, "f8")], dtype="f8")


COMMANDS = {"edit_chunk": edit_chunk}
RECIPES = {
    "batched": batched(),
    "batched_bins": batched(bin_shape=(20.0, 40.0, 10.0)),
    "batched_objects": batched(**OBJECTS),
    "unbatched": unbatched(),
    "unbatched_octree": unbatched("octree"),
    "unbatched_snake": unbatched("snake"),
    "zeros_shard": zeros_shard,
}
LINES = partial(of_lines, names=("mass",), kept=False)
LINKS = partial(of_links, names=("mass", "rgb"))
POLYLINES = partial(of_paths, geometry_type="polyline")
PYRAMID = partial(pyramid, (2.0, 1.0), (4.0, 2.0))
OF_PATHS = ["vertices", "vertex_fragments", "vertex_attributes/mass"]
OF_GRAPHS = [*OF_PATHS, "link_fragments", "links/0"]
GEOMETRY_RECIPES = {
    "lines": LINES(1),
    "lines_2d": LINES(2, ndim=2),
    "lines_by_attribute": LINES(3, leading="cls"),
    "polylines": POLYLINES(10),
    "polylines_bins": POLYLINES(11, bin_shape=(20.0, 20.0, 40.0), shortest=1),
    "polylines_2d": POLYLINES(12, ndim=2, change=sharded("snake")),
    "polylines_by_attribute": POLYLINES(13, leading="cls"),
    "polylines_pyramid": POLYLINES(14, change=PYRAMID(chunk_scale_factors=[2, 1])),
    "streamlines_octree": of_paths(15, change=sharded("octree", OF_PATHS)),
    "graph": LINKS("graph", nodes(20), 20, of_links=("weight", "vec")),
    "graph_objects": LINKS("graph", nodes(21), 21, np.sort, of_links=("weight",)),  # rows of an object follow each other
    "graph_mixed": LINKS("graph", nodes(22), 22, np.asarray),
    "graph_2d_octree": LINKS("graph", nodes(23, ndim=2, dtype="f8"), 23, change=sharded("octree", OF_GRAPHS)),
    "graph_pyramid": LINKS("graph", nodes(24), 24, change=PYRAMID(cross_level_depth=2)),
    "mesh": LINKS("mesh", skin(30), 30),
    "mesh_quads": LINKS("mesh", skin(31, arity=4), 31, change=sharded("index_table", OF_GRAPHS)),
    "mesh_objects": LINKS("mesh", skin(32, patches=2), 32, np.asarray),
    "mesh_pyramid": LINKS("mesh", skin(33), 33, change=PYRAMID()),
    "skeleton": LINKS("skeleton", trees(40), 40),
    "skeleton_2d": LINKS("skeleton", trees(41, ndim=2, dtype="f8"), 41, change=sharded("octree")),
}
