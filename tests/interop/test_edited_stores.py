"""What our edits leave of a store, the ZV 0.9 package reads exactly, and its validator passes."""

from __future__ import annotations

import numpy as np
import pytest
from our_points import column, make_objects, same
from peer_client import SPURIOUS
from small_geometries import write_any

import dask_zv as dzv


def check(peer, path):
    """Compare all that the package reads with what we read."""
    ours = dzv.open(path).level(0).read()
    found, told = peer.arrays(
        "read", path=path, attributes=list(ours.attributes), objects=np.unique(ours.object_ids).tolist(),
        object_attributes=list(ours.object_attributes),
    )  # fmt: skip
    same(found["positions"], ours.positions)
    for key, values in ours.attributes.items():
        same(column(found, f"attr__{key}").reshape(values.shape), values, key)
    facade = told["facade"]
    assert told["vertex_count"] == facade["count"] == len(ours.positions)
    assert facade["attributes"] == sorted(ours.attributes)
    assert facade["object_attributes"] == sorted(ours.object_attributes)
    said = peer.call("validate", path=path)
    assert [e for e in said["errors"] if not any(s in e for s in SPURIOUS["0.9"])] == []
    return ours, found, told


@pytest.mark.parametrize("shards", [1, 4])
def test_it_reads_what_edits_of_attributes_leave(peer, tmp_path, shards):
    path = str(tmp_path / "edited.zv")
    make_objects(path, "grid", shard_chunks=shards)
    store = dzv.open(path, "r+")
    n = len(store.level(0).read().positions)
    store.set_attribute("new", np.arange(n) * 0.5)
    store.set_attribute("word", np.array(["a", "bb", "µ"])[np.arange(n) % 3])
    store.set_attribute("mass", np.arange(3 * n, dtype="f4").reshape(n, 3))
    store.rename_attribute("kind", "sort")
    store.drop_attribute("maybe")
    store.set_object_attribute("age", np.arange(5, dtype="f4"))
    store.rename_object_attribute("score", "points")
    store.drop_object_attribute("rank")
    store.set_group(1, [3, 7])
    ours, *_ = check(peer, path)
    same(ours.attributes["mass"], np.arange(3 * n, dtype="f4").reshape(n, 3))
    assert {"new", "word", "sort"} < ours.attributes.keys()
    assert "maybe" not in ours.attributes
    assert sorted(ours.object_attributes) == ["age", "points"]


@pytest.mark.parametrize("kind", ["point_cloud", "polyline", "skeleton", "graph", "mesh"])
def test_it_reads_what_deletions_leave(peer, tmp_path, kind):
    """Its own `remove_object` leaves all rows; ours leaves none, nor a link, a manifest, a member of a group."""
    rng, n, path = np.random.default_rng(4), 120, str(tmp_path / "less.zv")
    positions, owner = rng.uniform(-20, 20, (n, 3)), np.sort(rng.integers(0, 6, n)) * 3
    first = np.searchsorted(owner, owner)
    trees = np.array([(i, rng.integers(first[i], i)) for i in range(n) if first[i] < i])
    links = {"graph": rng.integers(0, n, (80, 2)), "mesh": rng.integers(0, n, (50, 3)), "skeleton": trees}.get(kind)
    values = None if kind not in ("graph", "mesh") else {"w": np.arange(len(links)) * 0.5}
    store = dzv.create(path, geometry=kind, chunk_shape=(20, 20, 20))
    write_any(
        store, kind, positions, owner, links, values, attributes={"row": np.arange(n)}, groups={0: [0, 3], 1: [6]},
        object_attributes={"size": np.arange(6) * 1.5},
    )  # fmt: skip
    store.delete_objects([3, 12])
    gone = np.isin(owner, [3, 12])
    if kind != "polyline":
        store.delete(bbox=((-20, -20, -20), (20, 20, -12)))
        gone |= positions[:, 2] <= -12
    if kind == "point_cloud":
        ours, _, told = check(peer, path)
        assert sorted(ours.attributes["row"].tolist()) == np.flatnonzero(~gone).tolist()
        assert (told["ids"], len(ours.positions)) == ([0, 6, 9, 15], (~gone).sum())
        return
    found, told = peer.arrays("read_geometry", path=path)
    row_of = {tuple(p): i for i, p in enumerate(positions.tolist())}

    def rows(points):
        return [row_of[tuple(p)] for p in np.asarray(points).tolist()]

    left = np.flatnonzero(~gone)
    assert sorted(rows(found["positions"])) == left.tolist()
    assert told["vertex_count"] == len(left)
    assert told["ids"] == [0, 6, 9, 15]
    assert sorted(rows(found["by_object"])) == left.tolist()
    assert found["by_object_ids"].tolist() == owner[rows(found["by_object"])].tolist()
    if kind == "polyline":
        assert found["path_ids"].tolist() == [0, 6, 9, 15]
        assert rows(found["positions"]) == left.tolist()
    if links is not None and kind != "skeleton":
        kept = links[~gone[links].any(axis=1)]
        theirs = np.array(rows(found["positions"]))[found["links"]]
        assert sorted(map(tuple, theirs.tolist())) == sorted(map(tuple, kept.tolist()))
        assert told["counts"]["num_links"] == len(kept)
        assert sorted(found["eattr__w"].tolist()) == sorted(values["w"][~gone[links].any(axis=1)].tolist())
    if kind == "skeleton":
        theirs = np.array(rows(found["positions"]))[found["links"]]
        kept = links[~gone[links].any(axis=1)]
        assert {tuple(sorted(e)) for e in theirs.tolist()} == {tuple(sorted(e)) for e in kept.tolist()}
    said = peer.call("validate", path=path)
    assert [e for e in said["errors"] if not any(s in e for s in SPURIOUS["0.9"])] == []


def test_it_reads_what_is_written_again_and_merged(peer, tmp_path):
    source, again, both = (str(tmp_path / name) for name in ("source.zv", "again.zv", "both.zv"))
    make_objects(source, "grid")
    dzv.convert(source, again, chunk_shape=(20, 30, 25))
    ours, *_ = check(peer, again)
    assert len(ours.positions) == len(dzv.open(source).level(0).read().positions)
    dzv.merge([source, again], both)
    merged, _, told = check(peer, both)
    assert len(merged.positions) == 2 * len(ours.positions)
    assert told["ids"] == merged.object_index.tolist()
