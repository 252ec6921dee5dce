"""Stores of other geometries, ours and the packages', and how what the packages read is compared with what went in."""

from __future__ import annotations

from functools import cache

import numpy as np
from geometry_cases import CASES, PER_CHUNK_CASES, Truth, check_paths, input_rows, same_links
from our_points import same
from peer_client import STALE, Exchange, start_peer


class GeometryExchange(Exchange):
    def __init__(self, generation):
        self.cases = {"0.2": PER_CHUNK_CASES, "0.9": CASES}[generation]
        super().__init__(start_peer(generation), lambda name, path: self.cases[name].write(path))
        self.generation = generation
        self.read_ours = cache(lambda name: self.read(self.ours(name), self.cases[name].truth))

    def _theirs(self, name):
        path, found, told = super()._theirs(name)
        return path, Truth.of(found), told

    def read(self, path, truth=None, **more):
        """Return what the package reads; 0.2.0 is told of attributes by the truth."""
        if truth is not None and self.generation == "0.2":
            more["attributes"] = {k: 1 if v.ndim == 1 else v.shape[1] for k, v in truth.attributes.items()}
            more |= {"object_attributes": [*truth.table], "group_attributes": [*truth.group_attributes]}
        return self.peer.arrays("read_geometry", path=path, **more)

    def check_valid(self, path, dtype="f4"):
        """Check that the validator at level 5 says nothing; that of 0.2.0 what it says of its own stores."""
        told = self.peer.call("validate", path=path)
        assert told["errors"] == []
        # it takes every vertex for float32, and finds NaN in halves of float64 numbers
        warnings = {w.partition("/")[2] for w in told["warnings"] if not (dtype == "f8" and w.endswith("NaN/Inf"))}
        assert warnings == ({STALE.partition("/")[2]} if self.generation == "0.2" else set())


exchange_with = cache(GeometryExchange)


def stored_rows(level, truth):
    """Return the row in the input of each (chunk, row of its blob): fragments lie one behind the other in all stores here."""
    rows = input_rows(level.read(order="chunk").positions, truth)
    table = level.chunks
    starts = np.cumsum(table.rows) - table.rows
    return {
        (tuple(c), i): int(rows[s + i])
        for c, s, n in zip(table.coords.tolist(), starts.tolist(), table.rows.tolist(), strict=True)
        for i in range(n)
    }


def records_of(links):
    """Return links as lists of (chunk, row)."""
    return [[*zip(map(tuple, c), r, strict=True)] for c, r in zip(links.chunks.tolist(), links.rows.tolist(), strict=True)]


def check_theirs(found, told, truth, kind, level):
    """Check that what the package reads is what went in: all that it has a reader for."""
    assert told["kind"] == kind
    assert told.get("vertex_count", len(truth.positions)) == len(truth.positions)
    attributes = {k.removeprefix("attr__"): v for k, v in found.items() if k.startswith("attr__")}
    assert set(attributes) == set(truth.attributes)
    if truth.lengths is not None:
        order = np.sort(truth.ids[truth.lengths > 0])
        along = {} if "by_chunk" in found else attributes
        check_paths(found["positions"], found["lengths"], found.get("path_ids", order), along, truth)
        check_crossings(found, told, truth, level)
    rows = input_rows(found.get("by_chunk", found["positions"]), truth)
    for name, values in truth.attributes.items():
        theirs = attributes[name].reshape(values.shape) if "by_chunk" in found else attributes[name]
        same(theirs, values[rows], name)
    if truth.links is not None:
        of_links = {k.removeprefix("eattr__"): v for k, v in found.items() if k.startswith("eattr__")}
        same_links(found["links"], of_links, rows, truth)
        assert told["directed"] == truth.directed
    check_their_objects(found, told, truth)


def check_crossings(found, told, truth, level):
    """Check for a link for each step from chunk to chunk, from the path's end, whichever chunk it is filed in, and no others."""
    at = stored_rows(level, truth)
    chunk = {row: key[0] for key, row in at.items()}
    last = set((np.cumsum(truth.lengths) - 1).tolist())
    steps = [(i, i + 1) for i in range(len(truth.positions) - 1) if i not in last]
    expected = sorted((a, b) for a, b in steps if chunk[a] != chunk[b])
    assert expected, "nothing crosses"
    ends = zip(found["link_chunks"].tolist(), found["link_rows"].tolist(), strict=True)
    links = sorted(tuple(at[tuple(c), r] for c, r in zip(cs, rs, strict=True)) for cs, rs in ends)
    assert links == expected
    assert told.get("counts", {}) in ({}, {"num_links": len(links), "num_physical_records": len(links)})


def check_their_objects(found, told, truth):
    assert told["ids"] == [o for o in truth.index.tolist() if truth.owners is None or o in truth.owners]
    assert sorted(map(int, told["manifests"])) == truth.index.tolist()
    rows = input_rows(found["by_object"], truth)
    owners = np.zeros(len(rows), np.int64) if truth.owners is None else truth.owners
    same(found["by_object_ids"], owners[rows], "whose each vertex is")
    assert told.get("object_attributes", sorted(truth.table)) == sorted(truth.table)
    for name, values in truth.table.items():
        theirs = found[f"oattr__{name}"]
        same(theirs.reshape(values.shape) if "by_chunk" in found else theirs, values, name)
        assert found[f"present__{name}"].all()
    groups = [sorted(truth.groups.get(g, [])) for g in range(max(truth.groups, default=-1) + 1)]
    assert told.get("groups", []) == groups
    if "of_group" in told:
        assert told["of_group"] == groups[-1]
    if "of_group" in found:
        mine = np.isin(np.repeat(truth.ids, truth.lengths), truth.groups[0])
        assert sorted(map(tuple, found["of_group"].tolist())) == sorted(map(tuple, truth.positions[mine].tolist()))
    for name, values in truth.group_attributes.items():
        same(found[f"gattr__{name}"], values, name)
