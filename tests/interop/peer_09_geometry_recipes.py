"""Stores of lines, polylines, graphs, meshes and skeletons by every writer that the ZV 0.9 package has for them.

Each returns what it was given, in the order of the input. Imported by peer_09.py, where the package is.
"""

from __future__ import annotations

import numpy as np
from geometry_inputs import (
    CHUNK,
    bounds_of,
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
from zarr_vectors import building
from zarr_vectors.core.store import create_store, get_resolution_level
from zarr_vectors.multiresolution.coarsen import build_pyramid
from zarr_vectors.types import skeletons
from zarr_vectors.types.graphs import write_graph
from zarr_vectors.types.lines import write_lines
from zarr_vectors.types.meshes import write_mesh
from zarr_vectors.types.polylines import write_polylines

IDS = np.array([3, 7, 19, 41])


def prefixed(prefix, values):
    return {f"{prefix}{k}": v for k, v in values.items()}


def some(values, names):
    return values if names is None else {k: values[k] for k in names}


def of_lines(seed, ndim=3, names=None, leading=None, **options):
    def recipe(path):
        ends = lines(seed, count=25, ndim=ndim, dtype="f8" if ndim == 2 else "f4")
        n = len(ends)
        attributes = some(vertex_attributes(2 * n, seed), names)
        table = object_attributes(n, seed)
        if leading:
            table[leading] = np.arange(n) % 3
            options["chunk_by_attribute"] = leading
        write_lines(
            path, ends, chunk_shape=chunk_of(ndim), dtype=str(ends.dtype), object_attributes=table,
            vertex_attributes={k: v.reshape(n, 2, *v.shape[1:]) for k, v in attributes.items()}, **options,
        )  # fmt: skip
        positions = ends.reshape(2 * n, ndim)
        if leading:
            attributes[leading] = np.repeat(table[leading], 2)
        return path_truth(positions, np.full(n, 2), attributes, table)

    return recipe


def path_truth(positions, lengths, attributes, table, **more):
    ids = np.arange(len(lengths))
    out = {"positions": positions, "lengths": np.asarray(lengths), "ids": ids, "index": ids, "owners": np.repeat(ids, lengths)}
    return out | prefixed("attr__", attributes) | prefixed("oattr__", table) | more


def of_paths(seed, ndim=3, shortest=2, names=None, leading=None, change=None, **options):
    """Polylines with everything that the writer takes; `leading` is the attribute that leads the chunk keys."""

    def recipe(path):
        walks = paths(seed, count=14, ndim=ndim, shortest=shortest, dtype="f8" if ndim == 2 else "f4")
        lengths = [len(w) for w in walks]
        cuts = np.cumsum(lengths)[:-1]
        attributes = some(vertex_attributes(sum(lengths), seed), names)
        if leading:
            attributes[leading] = (np.arange(sum(lengths)) // 5) % 3
            options["chunk_by_attribute"] = leading
        table, weight = object_attributes(len(walks), seed), {"w": np.array([0.5, 1.5, 2.5])}
        groups = {0: [1, 2], 2: [0, 5, 9]}
        write_polylines(
            path, walks, chunk_shape=chunk_of(ndim), dtype=str(walks[0].dtype), object_attributes=table, groups=groups,
            group_attributes=weight, vertex_attributes={k: np.split(v, cuts) for k, v in attributes.items()}, **options,
        )  # fmt: skip
        if change:
            change(path)
        more = prefixed("group__", {k: np.array(v) for k, v in groups.items()}) | prefixed("gattr__", weight)
        return path_truth(np.concatenate(walks), lengths, attributes, table, **more)

    return recipe


def of_links(kind, given, seed, owners=None, names=None, of_links=None, leading=None, change=None, **options):
    """A graph, skeleton or mesh; `given` returns positions, links and a number for each vertex."""

    def recipe(path):
        positions, links, number = given()
        ids = None if owners is None else owners(number)
        attributes = some(vertex_attributes(len(positions), seed), names)
        more = {} if of_links is None else {"link_attributes": some(link_attributes(len(links), seed), of_links)}
        if leading:
            attributes[leading] = number % 3
            more["chunk_by_attribute"] = leading
        out = {"positions": positions, "links": links}
        if ids is not None:
            out |= {"owners": ids, "index": np.unique(ids)}
            more |= {"object_ids": ids, "object_attributes": object_attributes(len(np.unique(ids)), seed)}
            out |= prefixed("oattr__", more["object_attributes"])
        how = {"chunk_shape": chunk_of(positions.shape[1]), "dtype": str(positions.dtype), "vertex_attributes": attributes}
        if kind == "mesh":
            write_mesh(path, positions, links, **how, **more, **options)
        else:
            write_graph(path, positions, links, kind=kind, **how, **more, **options)
        if change:
            change(path)
        return out | prefixed("attr__", attributes) | prefixed("eattr__", more.get("link_attributes", {}))

    return recipe


def nodes(seed, **options):
    def given():
        positions, edges = graph(seed, **{"nodes": 50, "edges": 80, "reach": 3, **options})
        return positions, edges, np.random.default_rng(seed).permutation(np.arange(len(positions)) % 4)

    return given


def trees(seed, sizes, **options):
    def given():
        positions, parents, tree = forest(seed, sizes, **options)
        child = np.flatnonzero(parents >= 0)
        return positions, np.stack([child, parents[child]], axis=1), tree

    return given


def skin(seed, **options):
    return lambda: surface(seed, **{"side": 5, **options})


def ids_of(number):
    return IDS[number]


def by_builder(seed, directed=False, store="canonical", parts=1, links=None, rebuilt=False):
    """A graph by the verbs for tools that build stores: one chunk after the other, then links in `parts` goes, the later ones
    appended."""

    def recipe(path):
        positions, edges = links(seed)
        attributes = some(link_attributes(len(edges), seed), ("vec",))
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
    """Two segments, each a tree in every chunk: paths with links inside their chunks, and one link from chunk to chunk.

    These lead from node `tip` of a chunk's tree, which is on its first path where it is 1, to the root in the next chunk.
    """
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
                pieces.append(
                    {
                        "segment_id": segment,
                        "positions": here,
                        "edges": links,
                        "attributes": {"radius": radius},
                        "anchors": ends,
                    }
                )
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


def pyramid(**options):
    return lambda path: build_pyramid(path, **{"factors": [(2.0, 1.0), (2.0, 2.0)], "sparsity_seed": 1, **options})


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
    "polylines_pyramid": of_paths(15, names=(), compressor="zstd", change=pyramid(chunk_scale_factors=[2, 1])),
    "graph": of_links("graph", nodes(20), 20, None, None, None),
    "graph_objects": of_links("graph", nodes(21), 21, ids_of, ("mass", "rgb"), ("weight", "vec"), compressor="zstd"),
    "graph_sharded": of_links("graph", nodes(22, ndim=2, dtype="f8"), 22, ids_of, ("mass",), ("rank",), shard_shape=2),
    "graph_by_attribute": of_links("graph", nodes(24), 24, ids_of, ("mass",), ("weight",), leading="cls", compressor="zstd"),
    "graph_pyramid": of_links("graph", nodes(25), 25, ids_of, (), None, compressor="zstd", change=pyramid()),
    "mesh": of_links("mesh", skin(30), 30),
    "mesh_objects": of_links("mesh", skin(31, patches=3), 31, ids_of, ("mass", "rgb"), compressor="zstd"),
    "mesh_quads_sharded": of_links("mesh", skin(32, arity=4), 32, names=("mass",), shard_shape=2, compressor="zstd"),
    "mesh_by_attribute": of_links("mesh", skin(33, patches=3), 33, ids_of, ("mass",), leading="cls", compressor="zstd"),
    "mesh_pyramid": of_links(
        "mesh", skin(34), 34, names=(), compressor="zstd",
        change=pyramid(cross_level_depth=2, chunk_scale_factors=[(2, 1, 1), 1]),
    ),
    "skeleton": of_links("skeleton", trees(40, (60,)), 40, None, ("mass", "rgb"), compressor="zstd"),
    "skeleton_sharded": of_links("skeleton", trees(41, (50,), ndim=2, dtype="f8"), 41, names=("mass",), shard_shape=3),
    "skeletons": of_links(
        "skeleton", trees(42, TREE_ROOT_FIRST, shuffled=False), 42, ids_of, ("mass",), compressor="zstd"
    ),
    "skeletons_mixed": of_links("skeleton", trees(43, TREE_ROOT_FIRST), 43, ids_of, ("mass",), compressor="zstd"),
    "skeleton_pyramid": of_links("skeleton", trees(44, (60,)), 44, names=(), change=pyramid(cross_level_storage="implicit")),
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
