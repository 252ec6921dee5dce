"""Stores of lines, polylines, graphs, skeletons and meshes by the writers that the ZV packages of both generations have.

Each recipe takes a path and returns what it gave the package, in the order of the input. Imported where a package is.
"""

from __future__ import annotations

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
from zarr_vectors.multiresolution.coarsen import build_pyramid
from zarr_vectors.types.graphs import write_graph
from zarr_vectors.types.lines import write_lines
from zarr_vectors.types.meshes import write_mesh
from zarr_vectors.types.polylines import write_polylines


def prefixed(prefix, values):
    return {f"{prefix}{k}": v for k, v in values.items()}


def some(values, names):
    return values if names is None else {k: values[k] for k in names}


def path_truth(positions, lengths, attributes, table, **more):
    ids = np.arange(len(lengths))
    out = {"positions": positions, "lengths": np.asarray(lengths), "ids": ids, "index": ids, "owners": np.repeat(ids, lengths)}
    return out | prefixed("attr__", attributes) | prefixed("oattr__", table) | more


def of_lines(seed, ndim=3, names=None, leading=None, kept=True, **options):
    """Lines; `leading` is the attribute that leads the chunk keys. 0.2.0 takes other attributes, and drops them (not `kept`)."""

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
        of_table = {leading: np.repeat(table[leading], 2)} if leading else {}
        return path_truth(ends.reshape(2 * n, ndim), np.full(n, 2), (attributes if kept else {}) | of_table, table)

    return recipe


def of_paths(seed, ndim=3, shortest=2, names=None, leading=None, change=None, **options):
    """Polylines with everything that the writer takes."""

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


def of_links(kind, given, seed, owners=None, names=None, of_links=(), leading=None, change=None, **options):
    """A graph, skeleton or mesh; `given` returns positions, links and a number for each vertex, which `owners` makes an id."""

    def recipe(path):
        positions, links, number = given()
        attributes, more = some(vertex_attributes(len(positions), seed), names), {}
        if of_links:
            more["link_attributes"] = some(link_attributes(len(links), seed), of_links)
        if leading:
            attributes[leading] = number % 3
            more["chunk_by_attribute"] = leading
        out = {"positions": positions, "links": links}
        if owners is not None:
            ids = owners(number)
            out |= {"owners": ids, "index": np.unique(ids)}
            more |= {"object_ids": ids, "object_attributes": object_attributes(len(out["index"]), seed)}
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


def trees(seed, sizes=(60,), **options):
    def given():
        positions, parents, tree = forest(seed, sizes, **options)
        child = np.flatnonzero(parents >= 0)
        return positions, np.stack([child, parents[child]], axis=1), tree

    return given


def skin(seed, **options):
    return lambda: surface(seed, **{"side": 5, **options})


def pyramid(*factors, **options):
    return lambda path: build_pyramid(path, factors=list(factors), sparsity_seed=1, **options)
