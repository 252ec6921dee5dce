"""Stores of every geometry that we write, with what went in; and how what comes out is compared with it."""

from __future__ import annotations

from dataclasses import dataclass, field

import dask.array as da
import numpy as np
import pandas as pd
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
from our_points import rows_in, same

import dask_zv as dzv


@dataclass
class Truth:
    """What a store holds, in the order of the input; `links` are edges, faces, or (child, parent)."""

    positions: np.ndarray
    attributes: dict = field(default_factory=dict)
    owners: np.ndarray | None = None
    links: np.ndarray | None = None
    link_attributes: dict = field(default_factory=dict)
    lengths: np.ndarray | None = None
    ids: np.ndarray | None = None
    table: dict = field(default_factory=dict)
    index: np.ndarray | None = None
    groups: dict = field(default_factory=dict)
    group_attributes: dict = field(default_factory=dict)
    directed: bool = False

    @classmethod
    def of(cls, found):
        """Return the truth that a peer's recipe gave: the same, under one key each."""

        def named(prefix):
            return {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}

        groups = {int(k): v for k, v in named("group__").items()}
        same = {k: found.get(k) for k in ("owners", "links", "lengths", "ids", "index")}
        return cls(
            found["positions"], named("attr__"), link_attributes=named("eattr__"), table=named("oattr__"),
            groups=groups, group_attributes=named("gattr__"), directed=bool(found.get("directed", False)), **same,
        )  # fmt: skip


def input_rows(positions, truth):
    """Return the place in the input of every vertex that was read: each is there, once."""
    rows = rows_in(positions, truth.positions)
    assert len(rows) == len(truth.positions)
    return rows


def link_bag(links, attributes):
    """Return links with their attributes, in an order of their own: with a multiplicity, a direction, a first vertex."""
    columns = [np.asarray(links, np.int64).tolist()]
    columns += [np.asarray(attributes[k]).tolist() for k in sorted(attributes)]
    return sorted(map(repr, zip(*columns, strict=True)))


def same_links(links, attributes, rows, truth, what=""):
    """Compare links by rows of the input; `rows` are those of the vertices that were read."""
    renumbered = rows[links] if len(links) else np.asarray(links).reshape(-1, truth.links.shape[1])
    assert set(attributes) == set(truth.link_attributes), what
    for name, values in attributes.items():
        assert np.asarray(values).dtype == truth.link_attributes[name].dtype, f"{what} {name}"
    assert link_bag(renumbered, attributes) == link_bag(truth.links, truth.link_attributes), what


def check_ours(geometry, truth, kind):
    """That what we read is what went in: all of it."""
    if truth.lengths is not None and geometry.ids is not None:
        check_paths(geometry.positions, geometry.lengths, geometry.ids, geometry.attributes, truth)
    rows = input_rows(geometry.positions, truth)
    assert set(geometry.attributes) == set(truth.attributes)
    for name, values in truth.attributes.items():
        same(geometry.attributes[name], values[rows], name)
    if truth.owners is not None:
        same(geometry.object_ids, truth.owners[rows], "object_ids")
    if kind == "skeleton":
        children = np.flatnonzero(geometry.parents >= 0)
        assert (geometry.parents >= -1).all()
        same_links(
            np.stack([children, geometry.parents[children]], axis=1), {}, rows, Truth(truth.positions, links=truth.links)
        )
    elif kind == "graph":
        same_links(geometry.edges, geometry.edge_attributes, rows, truth)
    elif kind == "mesh":
        same_links(geometry.faces, geometry.face_attributes, rows, truth)
    if truth.index is not None:
        same(geometry.object_index, truth.index)
    assert set(geometry.object_attributes) == set(truth.table)
    for name, values in truth.table.items():
        ours = geometry.object_attributes[name]
        assert not np.ma.getmaskarray(ours).any()
        same(np.ma.getdata(ours), values, name)
    # a number that nobody gave is a group without members, here and there
    assert {g: m.tolist() for g, m in geometry.groups.items() if len(m)} == {g: sorted(m) for g, m in truth.groups.items()}
    for name, values in truth.group_attributes.items():
        same(np.ma.getdata(geometry.group_attributes[name]), values, name)


def check_paths(positions, lengths, ids, attributes, truth):
    """That every path is whole and in order, and the paths ascend by id."""
    order = np.argsort(truth.ids, kind="stable")
    starts = np.concatenate([[0], np.cumsum(truth.lengths)])
    rows = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in order])
    kept = truth.lengths[order] > 0  # who has no vertices may be left out
    some = np.asarray(lengths) > 0
    assert np.asarray(ids)[some].tolist() == truth.ids[order][kept].tolist()
    assert np.asarray(lengths)[some].tolist() == truth.lengths[order][kept].tolist()
    same(positions, truth.positions[rows], "paths")
    for name, values in attributes.items():
        same(values, truth.attributes[name][rows], name)


@dataclass
class Case:
    """A store of ours: how it is made, what goes in, and how that is handed over."""

    kind: str
    truth: Truth
    creation: dict = field(default_factory=dict)
    how: str = "numpy"

    @property
    def ndim(self):
        return self.truth.positions.shape[1]

    def create(self, target):
        return dzv.create(target, **{"geometry": self.kind, "chunk_shape": chunk_of(self.ndim), **self.creation})

    def write(self, target, store=None, **more):
        store = self.create(target) if store is None else store
        truth = self.truth
        if self.how == "appended":  # half of the objects, then the others
            for part, mode in zip(halves(truth), ("error", "append"), strict=True):
                Case(self.kind, part, self.creation).write(target, store, mode=mode)
            return store
        if truth.table:
            more["object_attributes"] = truth.table
        if truth.groups:
            more["groups"] = truth.groups
            if truth.group_attributes:
                more["group_attributes"] = pd.DataFrame(truth.group_attributes)
        getattr(self, f"_{self.kind}")(store, truth, more)
        return store

    def _line(self, store, truth, more):
        n = len(truth.lengths)
        ends = truth.positions.reshape(n, 2, -1)
        attributes = {k: v.reshape(n, 2, *v.shape[1:]) for k, v in truth.attributes.items()}
        dzv.write_lines(store, self._lazy(ends), attributes=attributes or None, object_ids=truth.ids, **more)

    def _polyline(self, store, truth, more):
        positions, lengths, attributes = truth.positions, truth.lengths, truth.attributes
        if self.how == "lazy":  # two blocks, cut between paths
            half, cut = len(lengths) // 2, int(lengths[: len(lengths) // 2].sum())
            rows = cut, len(positions) - cut
            attributes = {k: da.from_array(v, chunks=(rows, *v.shape[1:])) for k, v in attributes.items()}
            positions = da.from_array(positions, chunks=(rows, positions.shape[1]))
            lengths = da.from_array(lengths, chunks=((half, len(lengths) - half),))
        dzv.write_polylines(store, positions, lengths=lengths, attributes=attributes or None, object_ids=truth.ids, **more)

    _streamline = _polyline

    def _skeleton(self, store, truth, more):
        parents = np.full(len(truth.positions), -1)
        parents[truth.links[:, 0]] = truth.links[:, 1]
        self._vertices(dzv.write_skeletons, store, truth, {"parents": self._lazy(parents), **more})

    def _graph(self, store, truth, more):
        given = {"edges": self._lazy(truth.links), "edge_attributes": truth.link_attributes or None}
        self._vertices(dzv.write_graph, store, truth, {**given, "directed": truth.directed, **more})

    def _mesh(self, store, truth, more):
        given = {"faces": self._lazy(truth.links), "face_attributes": truth.link_attributes or None}
        self._vertices(dzv.write_meshes, store, truth, {**given, **more})

    def _vertices(self, write, store, truth, more):
        attributes = {k: self._lazy(v) for k, v in truth.attributes.items()}
        write(store, self._lazy(truth.positions), attributes=attributes or None, object_ids=self._lazy(truth.owners), **more)

    def _lazy(self, values):
        if values is None or self.how != "lazy":
            return values
        return da.from_array(values, chunks=(61, *values.shape[1:]))


def halves(truth):
    """Return two truths of half of the objects each, which have no links to each other."""
    out = []
    for ids in (truth.index[::2], truth.index[1::2]):
        keep = np.isin(truth.owners, ids)
        part = Truth(truth.positions[keep], {k: v[keep] for k, v in truth.attributes.items()}, directed=truth.directed)
        at = np.searchsorted(truth.index, ids)
        part.owners, part.index, part.table = truth.owners[keep], ids, {k: v[at] for k, v in truth.table.items()}
        part.groups = {g: [m for m in members if m in ids] for g, members in truth.groups.items()}
        if truth.lengths is not None:
            mine = np.isin(truth.ids, ids)
            part.lengths, part.ids = truth.lengths[mine], truth.ids[mine]
        if truth.links is not None:
            links = keep[truth.links].all(axis=1)
            part.links = (np.cumsum(keep) - 1)[truth.links[links]]
            part.link_attributes = {k: v[links] for k, v in truth.link_attributes.items()}
        out.append(part)
    return out


def some(values, names):
    return values if names is None else {k: values[k] for k in names}


def path_truth(walks, ids=None, *, names=None, seed=0):
    lengths = np.array([len(w) for w in walks])
    positions = np.concatenate(walks)
    ids = np.arange(len(walks)) if ids is None else np.asarray(ids)
    index = np.sort(ids)
    return Truth(
        positions,
        some(vertex_attributes(len(positions), seed), names),
        owners=np.repeat(ids, lengths),
        lengths=lengths,
        ids=ids,
        table=object_attributes(len(walks), seed),
        index=index,
        groups={0: index[:3].tolist(), 2: index[4:9].tolist()},
        group_attributes={"w": np.array([0.5, 1.5, 2.5])} if seed else {},
    )


def link_truth(positions, links, owners=None, *, names=None, of_links=None, seed=0, directed=False):
    truth = Truth(positions, links=links, owners=owners, directed=directed)
    truth.attributes = some(vertex_attributes(len(positions), seed), names)
    truth.link_attributes = some(link_attributes(len(links), seed), of_links)
    truth.index = np.array([0]) if owners is None else np.unique(owners)
    if owners is not None:
        truth.table = object_attributes(len(truth.index), seed)
        truth.groups = {0: truth.index[:2].tolist(), 1: truth.index[-1:].tolist()}
    return truth


def tree_truth(positions, parents, owners=None, **more):
    children = np.flatnonzero(parents >= 0)
    return link_truth(positions, np.stack([children, parents[children]], axis=1), owners, of_links=(), **more)


SPARSE = np.array([3, 7, 19, 41, 100, 5000])


def sparse(n, seed=0):
    """Return ids with gaps, in no order."""
    return np.random.default_rng(seed).permutation(np.arange(n) * 7 + 2)


def mixed(n, ids=SPARSE[:4], seed=9):
    """Return an object for each of n vertices: interleaved."""
    return np.random.default_rng(seed).permutation(np.resize(ids, n))


def make_cases():
    nodes, pairs = graph(40)
    few, few_pairs = graph(42, nodes=60, edges=90, reach=3)
    flat_nodes, flat_pairs = graph(41, ndim=2, dtype="f8")
    one, one_up, _ = forest(50, (90,))
    three, three_up, of_three = forest(51, (40, 1, 60))
    many, many_up, of_many = forest(52, (25, 30, 1, 20, 28))
    flat, flat_up, of_flat = forest(53, (50, 30), ndim=2, dtype="f8")
    skin, faces, _ = surface(60)
    quad_skin, quads, of_quads = surface(61, patches=3, side=5, arity=4, size=45)
    flat_skin, flat_faces, of_flat_skin = surface(62, side=7, ndim=2, dtype="f8")
    lazy_skin, lazy_faces, of_lazy = surface(63, patches=2, side=6)
    apart = np.concatenate([nodes, nodes + np.float32(7.5)]), np.concatenate([pairs, pairs + len(nodes)])
    raw, packed = {"compressor": None}, {"shard_chunks": (2, 1, 2)}
    less = {"names": ("mass", "rgb")}  # each array costs that package many reads where chunks are packed
    return {
        "lines": Case("line", path_truth(lines(1, count=30)), how="lazy"),
        "lines_sparse": Case("line", path_truth(lines(3, count=30), sparse(30), seed=1, **less), packed),
        "lines_2d": Case("line", path_truth(lines(4, count=30, ndim=2, dtype="f8"), **less), {"shard_chunks": 3} | raw),
        "polylines": Case("polyline", path_truth(paths(10, count=12))),
        "polylines_sparse": Case("polyline", path_truth(paths(11, count=15), sparse(15), seed=1, **less), packed),
        "polylines_2d": Case("polyline", path_truth(paths(12, count=12, ndim=2, dtype="f8")), raw),
        "polylines_short": Case("polyline", path_truth(paths(13, count=12, shortest=0), **less)),
        "streamlines": Case("streamline", path_truth(paths(14, count=15), seed=2, **less), {"shard_chunks": 4}),
        "streamlines_lazy": Case("streamline", path_truth(paths(15, count=12), **less), how="lazy"),
        "skeleton": Case("skeleton", tree_truth(one, one_up)),
        "skeletons": Case("skeleton", tree_truth(three, three_up, SPARSE[of_three], **less), packed),
        "skeletons_of_trees": Case("skeleton", tree_truth(many, many_up, SPARSE[of_many % 2])),
        "skeletons_2d": Case("skeleton", tree_truth(flat, flat_up, of_flat), {"shard_chunks": 3} | raw),
        "graph": Case("graph", link_truth(nodes, pairs)),
        "graph_objects": Case("graph", link_truth(few, few_pairs, mixed(len(few)), seed=1, **less), packed),
        "graph_directed": Case("graph", link_truth(few, few_pairs, mixed(len(few)), of_links=("vec",), directed=True)),
        "graph_2d": Case("graph", link_truth(flat_nodes, flat_pairs, names=()), {"shard_chunks": 5} | raw),
        "graph_directed_lazy": Case(
            "graph", link_truth(few, few_pairs, of_links=(), directed=True, **less), packed, how="lazy"
        ),
        "lines_appended": Case("line", path_truth(lines(5, count=30), **less), how="appended"),
        "polylines_appended": Case("polyline", path_truth(paths(17, count=12), **less), packed, how="appended"),
        "skeletons_appended": Case("skeleton", tree_truth(many, many_up, of_many, **less), packed, how="appended"),
        "graph_appended": Case("graph", link_truth(*apart, np.repeat(SPARSE[:2], len(nodes)), **less), how="appended"),
        "mesh_appended": Case(
            "mesh", link_truth(quad_skin, quads, of_quads, of_links=("vec",), **less), packed, how="appended"
        ),
        "mesh": Case("mesh", link_truth(skin, faces, of_links=())),
        "mesh_quads": Case("mesh", link_truth(quad_skin, quads, SPARSE[of_quads], of_links=("vec",), **less), packed),
        "mesh_2d": Case("mesh", link_truth(flat_skin, flat_faces, of_flat_skin, names=()), raw),
        "mesh_lazy": Case("mesh", link_truth(lazy_skin, lazy_faces, of_lazy, of_links=("weight",), **less), how="lazy"),
    }


def dense(n):
    """Return ids as layout per_chunk has them: without gaps, in no order."""
    return np.random.default_rng(0).permutation(n)


def make_per_chunk_cases():
    plain = {"layout": "per_chunk"}
    bins, packed = plain | {"bin_shape": (20.0, 20.0, 40.0)}, {"shard_chunks": 20}
    less = {"names": ("rgb",)}  # 0.2.0 reads chunk by chunk, array by array
    return {
        "lines": Case("line", path_truth(lines(1, count=20)), plain),
        "lines_packed": Case("line", path_truth(lines(2, count=10), dense(10), seed=1, **less), plain | packed),
        "lines_2d": Case("line", path_truth(lines(3, count=20, ndim=2, dtype="f8"), names=()), plain),
        "polylines": Case("polyline", path_truth(paths(10, count=10), seed=1), plain),
        "polylines_bins": Case("polyline", path_truth(paths(11, count=10, longest=25), dense(10), **less), bins),
        "polylines_packed": Case("polyline", path_truth(paths(12, count=6, longest=20), names=("mass",)), bins | packed),
        "polylines_2d": Case("polyline", path_truth(paths(13, count=12, ndim=2, dtype="f8"), **less), plain),
        "polylines_short": Case("polyline", path_truth(paths(14, count=10, shortest=0), **less), plain),
        "streamlines": Case("streamline", path_truth(paths(16, count=10), seed=2, **less), plain, how="lazy"),
    }


CASES, PER_CHUNK_CASES = make_cases(), make_per_chunk_cases()
