"""Stores of ours and of the ZV 0.9 package, each made once a session, and what the package reads of them, asked once."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

import dask
import numpy as np
from geometry_cases import CASES, Truth, check_paths, input_rows, same_links
from our_points import same
from peer_09_client import start_peer


class Exchange:
    def __init__(self):
        self._folder = tempfile.TemporaryDirectory()
        atexit.register(self._folder.cleanup)
        self.root = Path(self._folder.name)
        self.peer = start_peer()
        self.theirs = cache(self._theirs)
        self.read_ours = cache(lambda name: self.read(self.ours(name)))
        self.validate = cache(self._validate)

    def ours(self, name):
        path = self.root / "ours" / f"{name}.zv"
        if not path.exists():
            with dask.config.set(scheduler="threads", num_workers=2):
                CASES[name].write(path)
        return path

    def _theirs(self, name):
        path = self.root / "theirs" / f"{name}.zarrvectors"
        path.parent.mkdir(exist_ok=True)
        found, told = self.peer.arrays("write", recipe=name, path=path)
        return path, Truth.of(found), told

    def copy(self, path, target):
        shutil.copytree(path, target)
        return target

    def read(self, path, **more):
        return self.peer.arrays("read_geometry", path=path, **more)

    def _validate(self, path):
        return self.peer.call("validate", path=path)


@cache
def start_exchange():
    return Exchange()


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


def crossings(truth):
    """Return (vertex, next vertex) of paths, as a set."""
    last = np.cumsum(truth.lengths) - 1
    return {(i, i + 1) for i in range(len(truth.positions) - 1) if i not in set(last.tolist())}


def check_theirs(found, told, truth, kind, level):
    """That what the package reads is what went in: all that it has a reader for."""
    assert told["kind"] == kind
    assert told["vertex_count"] == len(truth.positions)
    attributes = {k.removeprefix("attr__"): v for k, v in found.items() if k.startswith("attr__")}
    if truth.lengths is not None:
        order = np.sort(truth.ids[truth.lengths > 0])
        check_paths(found["positions"], found["lengths"], found.get("path_ids", order), attributes, truth)
        check_crossings(found, told, truth, level)
    rows = input_rows(found["positions"], truth)
    assert set(attributes) == set(truth.attributes)
    for name, values in truth.attributes.items():
        same(attributes[name], values[rows], name)
    if truth.links is not None:
        of_links = {k.removeprefix("eattr__"): v for k, v in found.items() if k.startswith("eattr__")}
        same_links(found["links"], of_links, rows, truth)
        assert told["directed"] == truth.directed
    check_their_objects(found, told, truth)


def check_crossings(found, told, truth, level):
    """A link for each step from chunk to chunk, and no others; it is told from the path's end, whichever chunk it is filed in."""
    at = stored_rows(level, truth)
    chunk = {row: key[0] for key, row in at.items()}
    expected = sorted((a, b) for a, b in crossings(truth) if chunk[a] != chunk[b])
    assert expected, "nothing crosses"
    ends = zip(found["link_chunks"].tolist(), found["link_rows"].tolist(), strict=True)
    links = sorted(tuple(at[tuple(c), r] for c, r in zip(cs, rs, strict=True)) for cs, rs in ends)
    assert links == expected
    assert told["counts"] == {"num_links": len(links), "num_physical_records": len(links)}


def check_their_objects(found, told, truth):
    assert told["ids"] == [o for o in truth.index.tolist() if truth.owners is None or o in truth.owners]
    assert sorted(map(int, told["manifests"])) == truth.index.tolist()
    rows = input_rows(found["by_object"], truth)
    owners = np.zeros(len(rows), np.int64) if truth.owners is None else truth.owners
    same(found["by_object_ids"], owners[rows], "whose each vertex is")
    assert told["object_attributes"] == sorted(truth.table)
    for name, values in truth.table.items():
        same(found[f"oattr__{name}"], values, name)
        assert found[f"present__{name}"].all()
    groups = [sorted(truth.groups.get(g, [])) for g in range(max(truth.groups, default=-1) + 1)]
    assert told.get("groups", []) == groups
    if "of_group" in told:
        assert told["of_group"] == groups[-1]
    for name, values in truth.group_attributes.items():
        same(found[f"gattr__{name}"], values, name)
