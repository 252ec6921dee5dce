"""What the ZV 0.7 package writes of points we read exactly, and what it edits of ours we read as edited."""

from __future__ import annotations

import shutil

import dask
import numpy as np
import pytest
from our_points import CHUNK, N, points_of, same
from peer_client import SPURIOUS, Exchange, recipes_in, start_peer

import dask_zv as dzv

WRITTEN = recipes_in("peer_02_recipes")


@pytest.fixture(scope="module")
def exchange():
    return Exchange(start_peer("0.2"), write_to_edit)


def write_to_edit(name, path):
    """Write a store of ours that the package is to edit: `name` says how many chunks are in a shard, and what else it has."""
    shards, _, more = name.partition(" ")
    store = dzv.create(path, layout="per_chunk", chunk_shape=CHUNK, shard_chunks=int(shards))
    others = {"other": np.arange(N)} if more else {}
    dzv.write_points(store, points_of(), attributes={"mass": np.arange(N) + 1.0} | others)


@pytest.mark.parametrize("name", WRITTEN)
def test_we_read_what_it_writes(name, exchange, tmp_path):
    path, truth, _ = exchange.theirs(name)
    level = dzv.open(path).level(0)
    ours = level.read()
    positions = truth["positions"]
    assert len(ours) == len(positions)
    if name.startswith(("unbatched", "zeros")):  # written chunk by chunk, in reading order
        rows = np.arange(len(positions))
    else:
        row_of = {p.tobytes(): i for i, p in enumerate(positions)}
        rows = np.array([row_of[p.tobytes()] for p in ours.positions])
        assert sorted(rows.tolist()) == list(range(len(positions)))
    same(ours.positions, positions[rows])
    assert set(ours.attributes) == {k.removeprefix("attr__") for k in truth if k.startswith("attr__")}
    for key, values in ours.attributes.items():
        same(values, truth[f"attr__{key}"][rows])
    if "object_ids" in truth:
        same(ours.object_ids, truth["object_ids"][rows])
        assert ours.object_attributes["vec"].tolist() == np.arange(42).reshape(21, 2).tolist()
        assert {g: m.tolist() for g, m in ours.groups.items()} == {0: [1, 2], 1: [20]}
        assert ours.group_attributes["w"].tolist() == [0.5, 1.5]
        same(level.read(objects=[5, 8]).positions, ours.positions[np.isin(ours.object_ids, [5, 8])])
    box = np.array([[-12.0, -30.0, -1.0], [30.0, 10.0, 36.0]])
    inside = ((ours.positions >= box[0]) & (ours.positions <= box[1])).all(axis=1)
    same(level.read(bbox=box).positions, ours.positions[inside])
    if name == "batched":
        told = exchange.validate(path)
        assert told["errors"] == []
        assert set(told["warnings"]) == SPURIOUS["0.2"]
    if name in ("batched_objects", "unbatched"):  # a refresh gives them a catalog
        copy = shutil.copytree(path, tmp_path / name)
        assert dzv.open(copy, mode="r+").refresh().level(0)._contents.source.catalogued
        after = dzv.open(copy).level(0).read()
        same(after.positions, ours.positions)
        for key, values in ours.attributes.items():
            same(after.attributes[key], values)


def test_chunks_of_zeros_have_no_object(exchange):
    """The case is what it claims to be: the data object is absent, and the vertices are all at the origin."""
    path, _, _ = exchange.theirs("unbatched")
    assert not (path / "0/vertices/0.0.0/c/0").exists()
    chunk = dzv.open(path).level(0).read(bbox=([0, 0, 0], [1e-6] * 3))
    assert chunk.positions.tolist() == [[0.0, 0.0, 0.0]] * 7
    assert chunk.attributes["mass"].tolist() == list(range(7))
    absent = [p.parent for p in (path / "0/vertex_attributes/mass").iterdir() if p.is_dir() and not (p / "c/0").exists()]
    assert absent  # an attribute of nothing but zeros


class Edit:
    """A copy of a store of ours of which the package changed one chunk, and what is to be read of it."""

    def __init__(self, name, shards, exchange, target):
        base = dzv.open(exchange.ours(f"{shards} other")).level(0)
        self.before, table = base.read(), base.chunks
        coords, n = table.coords[5].tolist(), int(table.rows[5])
        inside = ((np.array(coords) + 0.5) * CHUNK).tolist()
        positions, mass = {
            "values": (None, np.arange(n) * 7.0),
            "zeros": (None, np.zeros(n)),
            "whole": ([inside] * (n + 2), np.arange(n + 2) * 3.0),
            "moved": ([inside] * n, None),
            "longer": ([inside] * (n + 2), None),
            "shorter": ([inside] * (n - 1), None),
            "short values": (None, np.arange(n - 1) * 1.0),
            "double values": (None, np.arange(2 * n) * 1.0),
            "no values": (None, np.zeros(0)),
        }[name]
        self.chunk = ".".join(map(str, coords))
        self.path = shutil.copytree(exchange.ours(f"{shards}" if name == "whole" else f"{shards} other"), target / "s.zv")
        values = None if mass is None else mass.tolist()
        exchange.peer.call("edit_chunk", path=self.path, chunk=coords, positions=positions, mass=values)
        start = int(table.rows[:5].sum())
        new = (positions and np.array(positions, np.float32), mass)
        self.positions, self.mass = (
            old if given is None else np.concatenate([old[:start], given, old[start + n :]])
            for old, given in zip((self.before.positions, self.before.attributes["mass"]), new, strict=True)
        )

    def check(self):
        level = dzv.open(self.path).level(0)
        for geometry in (level.read(), level.read(attributes=["mass"])):
            same(geometry.positions, self.positions)
            same(geometry.attributes["mass"], self.mass)


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("name", ["values", "zeros", "whole", "moved"])
def test_edits_are_read_as_edited(name, shards, exchange, tmp_path):
    """In a shard an edit goes beside it: before a refresh the chunk is as it was or as it is now, never some of both."""
    edit = Edit(name, shards, exchange, tmp_path)
    if shards == 1:
        edit.check()
    else:
        geometry = dzv.open(edit.path).level(0).read()
        found = geometry.positions.tobytes(), geometry.attributes["mass"].tobytes()
        before = edit.before.positions.tobytes(), edit.before.attributes["mass"].tobytes()
        assert found in ((edit.positions.tobytes(), edit.mass.tobytes()), before)
    with dask.config.set(scheduler="sync"):
        dzv.open(edit.path, mode="r+").refresh()
    level = dzv.open(edit.path).level(0)
    assert level._contents.source.catalogued
    assert int(level.chunks.rows.sum()) == len(edit.positions)
    edit.check()


@pytest.mark.parametrize("name", ["longer", "shorter", "short values", "double values", "no values"])
def test_edits_at_odds_with_their_siblings_name_the_chunk(name, exchange, tmp_path):
    """With our catalog and without it, where only the siblings tell; elsewhere it reads on."""
    edit = Edit(name, 1, exchange, tmp_path)
    for without in (False, True):
        if without:
            shutil.rmtree(edit.path / "0" / "dask_zv_catalog")
        level = dzv.open(edit.path).level(0)
        with pytest.raises(dzv.ZVError) as caught:
            level.read()
        assert caught.value.chunk == edit.chunk
        assert edit.chunk in str(caught.value)
        for coords in level.chunks.coords.tolist() if not without else ():
            if ".".join(map(str, coords)) != edit.chunk:
                inside = ((np.array(coords) + 0.01) * CHUNK, (np.array(coords) + 0.99) * CHUNK)
                assert len(level.read(bbox=inside)) > 0
