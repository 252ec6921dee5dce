"""Stores of lines, polylines, graphs, meshes and skeletons by every writer that the ZV 0.9 package has for them.

Each returns what it was given, in the order of the input. Imported by peer.py, where the package is.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from geometry_inputs import CHUNK, bounds_of, graph, link_attributes, surface
from peer_writers import nodes, of_lines, of_links, of_paths, prefixed, pyramid, skin, trees
from zarr_vectors import building
from zarr_vectors.core.store import create_store, get_resolution_level
from zarr_vectors.types import skeletons

IDS = np.array([3, 7, 19, 41])


def ids_of(number):
    return IDS[number]


def by_builder(seed, directed=False, store="canonical", parts=1, links=None, rebuilt=False):
    """A graph by the verbs for tools that build stores: chunk after chunk, then links in `parts` goes, the later ones appended."""

    def recipe(path):
        positions, edges = links(seed)
        attributes = {"vec": link_attributes(len(edges), seed)["vec"]}
        bounds, kind = bounds_of(), "graph" if edges.shape[1] == 2 else "mesh"
        root = create_store(path, bounds=bounds, chunk_shape=CHUNK, geometry_types=[kind], links_convention="explicit")
        level = get_resolution_level(root, 0)
        chunks = np.floor(positions / np.array(CHUNK)).astype(int)
        local = np.zeros(len(positions), int)
        with building.open_write_session(level, bounds=bounds, chunk_shape=CHUNK, compressor="zstd"):
            building.create_vertices_array(level)
            for chunk in np.unique(chunks, axis=0):
                rows = np.flatnonzero((chunks == chunk).all(axis=1))
                local[rows] = np.arange(len(rows))
                building.write_chunk_vertices(level, tuple(chunk.tolist()), [positions[rows]])
        records = [[(tuple(chunks[v].tolist()), int(local[v])) for v in link] for link in edges]
        start = 0
        for part in np.array_split(np.arange(len(records)), parts):
            mode = "append" if start else "replace"
            how = {"delta": 0, "link_width": edges.shape[1], "directed": directed, "store": store, "mode": mode}
            placed = building.write_links(level, [records[i] for i in part], 3, **how)
            for name, values in attributes.items():
                building.write_link_attributes(
                    level, name, values[part], num_links=placed.num_links, partition=placed, mode=mode
                )
            start += len(part)
        if rebuilt:
            building.finalize_links(level, delta=0)
        out = {"positions": positions, "links": edges, "directed": np.array(directed)}
        return out | prefixed("eattr__", attributes)

    return recipe


FEW = {"nodes": 40, "edges": 50, "reach": 2, "size": 39}


def distinct_edges(seed):
    """Without loops and parallel edges, which a family that files every link twice can't tell from its copies."""
    return graph(seed, loops=False, **FEW)


def any_edges(seed):
    return graph(seed, **FEW)


def triangles(seed):
    return surface(seed, side=4, size=35)[:2]


def chunked_skeleton(path, tip=1):
    """Two segments, each a tree in every chunk, linked from node `tip` of a chunk's tree to the root in the next chunk."""
    rng = np.random.default_rng(70)
    box = bounds_of()
    root, level = skeletons.init_skeleton_store(
        path, chunk_shape=CHUNK, bounds=box, ndim=3, attribute_dtypes={"radius": "float32"},
        coordinate_offset=(1000.0, 0, -500), compressor="zstd", shard_shape=2,
    )  # fmt: skip
    manifests, anchors, positions, edges, radii, owners = {}, {}, [], [], [], []
    count, first, tips = 0, {}, {}
    with building.open_write_session(level, compressor="zstd", shard_shape=2, bounds=box, chunk_shape=CHUNK):
        for cx in (-1, 0, 1):
            pieces = []
            for segment in (11, 42):
                n = int(rng.integers(5, 12))
                here = (rng.uniform(1, 39, (n, 3)) + np.array([40 * cx, 0, 0])).astype("f4")
                links = np.array([[i, int(rng.integers(max(0, i - 3), i))] for i in range(1, n)])
                radius = rng.random(n).astype("f4")
                ends = {("root", segment, cx): 0, ("tip", segment, cx): tip % n}
                piece = {"segment_id": segment, "positions": here, "edges": links}
                pieces.append({**piece, "attributes": {"radius": radius}, "anchors": ends})
                first[segment, cx], tips[segment, cx] = count, count + tip % n
                edges.append(links + count)
                positions.append(here)
                radii.append(radius)
                owners.append(np.full(n, segment == 42, int))
                count += n
            records, found = skeletons.write_skeleton_chunk(level, (cx, 0, 0), pieces, attr_dtypes={"radius": np.float32})
            anchors |= found
            for segment, chunk, fragment in records:
                manifests.setdefault(segment, []).append((chunk, fragment))
    crossing = []
    for segment in (11, 42):
        for cx in (0, 1):  # (parent, child), as that writer says
            crossing.append((anchors["tip", segment, cx - 1], anchors["root", segment, cx]))
            edges.append(np.array([[first[segment, cx], tips[segment, cx - 1]]]))
    skeletons.write_skeleton_cross_chunk_links(level, crossing, ndim=3)
    segments = sorted(manifests)
    building.write_object_index(level, {i: manifests[s] for i, s in enumerate(segments)}, 3)
    building.write_object_attributes(level, "segment_id", np.array(segments, np.uint64))
    skeletons.finalize_skeleton_store(root)
    return {
        "positions": np.concatenate(positions).astype("f8") + np.array([1000.0, 0, -500]),
        "links": np.concatenate(edges),
        "attr__radius": np.concatenate(radii),
        "owners": np.concatenate(owners),
        "index": np.arange(2),
        "oattr__segment_id": np.array(segments, np.uint64),
    }


PYRAMID = partial(pyramid, (2.0, 1.0), (2.0, 2.0))
TREE_ROOT_FIRST = (30, 25, 20)
GEOMETRY_RECIPES = {
    "lines": of_lines(1),
    "lines_sharded": of_lines(2, ndim=2, shard_shape=2, compressor="blosc"),
    "lines_by_attribute": of_lines(3, leading="cls", names=("mass", "rgb"), compressor="zstd"),
    "polylines": of_paths(10, geometry_type="polyline", compressor="zstd"),
    "polylines_bins": of_paths(11, bin_shape=(20.0, 20.0, 40.0), names=("mass",), shortest=1),
    "streamlines_sharded": of_paths(12, shard_shape=(2, 1, 2), compressor="zstd", names=("mass", "rgb")),
    "polylines_2d": of_paths(13, ndim=2, geometry_type="polyline", shard_shape=3, names=("count",)),
    "polylines_by_attribute": of_paths(14, leading="cls", names=("mass", "rgb"), compressor="zstd"),
    "polylines_pyramid": of_paths(15, names=(), compressor="zstd", change=PYRAMID(chunk_scale_factors=[2, 1])),
    "graph": of_links("graph", nodes(20), 20),
    "graph_objects": of_links("graph", nodes(21), 21, ids_of, ("mass", "rgb"), ("weight", "vec"), compressor="zstd"),
    "graph_sharded": of_links("graph", nodes(22, ndim=2, dtype="f8"), 22, ids_of, ("mass",), ("rank",), shard_shape=2),
    "graph_by_attribute": of_links("graph", nodes(24), 24, ids_of, ("mass",), ("weight",), leading="cls", compressor="zstd"),
    "graph_pyramid": of_links("graph", nodes(25), 25, ids_of, (), compressor="zstd", change=PYRAMID()),
    "mesh": of_links("mesh", skin(30), 30),
    "mesh_objects": of_links("mesh", skin(31, patches=3), 31, ids_of, ("mass", "rgb"), compressor="zstd"),
    "mesh_quads_sharded": of_links("mesh", skin(32, arity=4), 32, names=("mass",), shard_shape=2, compressor="zstd"),
    "mesh_by_attribute": of_links("mesh", skin(33, patches=3), 33, ids_of, ("mass",), leading="cls", compressor="zstd"),
    "mesh_pyramid": of_links(
        "mesh", skin(34), 34, names=(), compressor="zstd",
        change=PYRAMID(cross_level_depth=2, chunk_scale_factors=[(2, 1, 1), 1]),
    ),
    "skeleton": of_links("skeleton", trees(40, (60,)), 40, None, ("mass", "rgb"), compressor="zstd"),
    "skeleton_sharded": of_links("skeleton", trees(41, (50,), ndim=2, dtype="f8"), 41, names=("mass",), shard_shape=3),
    "skeletons": of_links(
        "skeleton", trees(42, TREE_ROOT_FIRST, shuffled=False), 42, ids_of, ("mass",), compressor="zstd"
    ),
    "skeletons_mixed": of_links("skeleton", trees(43, TREE_ROOT_FIRST), 43, ids_of, ("mass",), compressor="zstd"),
    "skeleton_pyramid": of_links("skeleton", trees(44, (60,)), 44, names=(), change=PYRAMID(cross_level_storage="implicit")),
    "skeleton_chunked": chunked_skeleton,
    "skeleton_chunked_tips": lambda path: chunked_skeleton(path, tip=-1),
    "built_once": by_builder(50, links=any_edges),
    "built_directed": by_builder(51, directed=True, links=any_edges, rebuilt=True),
    "built_duplicate": by_builder(52, store="duplicate", links=distinct_edges),
    "built_appended": by_builder(54, parts=2, links=any_edges),
    "built_directed_appended": by_builder(55, directed=True, parts=2, links=any_edges),
    "built_triangles": by_builder(56, links=triangles, parts=2),
    "built_triangles_duplicate": by_builder(57, store="duplicate", links=triangles),
}  # fmt: skip
