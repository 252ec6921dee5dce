"""``dzv.repair``: what a copy has is taken from it, what can be counted is counted, what is lost goes only when asked."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken_stores import ALL, CASES, DAMAGE, MASS, first, halve, rows_of, shift
from whole_stores import attributes, cells, copy_of, make, remove

import dask_zv as dzv


def files(path: Path) -> dict[Path, bytes]:
    return {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def content(path: Path) -> dict[str, Any]:
    """Return all that a level holds, in the order in which it is read."""
    found = dzv.open(path).level(0).read(order="chunk")
    told: dict[str, Any] = {"positions": found.positions, "owners": found.object_ids, **found.attributes}
    told |= {"edges": found.edges, "faces": found.faces, **dict(found.object_attributes or {})}
    return told | {f"group {k}": v for k, v in (found.groups or {}).items()}


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_a_copy_has_what_was_lost(tmp_path: Path, name: str, layout: str) -> None:
    _, kind, _, damage = DAMAGE[name]
    path, copy = copy_of(tmp_path / "s.zv", kind, layout), copy_of(tmp_path / "copy.zv", kind, layout)
    before = files(copy)
    damage(path)
    repaired = dzv.repair(path, dzv.validate(path), source=copy)
    assert repaired.ok, repaired
    assert repaired.findings == (), repaired
    assert repaired.done
    assert repaired.vertices >= 300
    assert not any("dropped" in line for line in repaired.done)
    same(content(path), content(copy))
    assert dzv.validate(path).findings == ()
    assert files(copy) == before


COUNTED = {
    "attribute chunk not listed": "listed 1 more",
    "chunk nowhere listed": "listed 1 more",
    "vertex_count too large": "vertex_count is 300, it was 301",
    "vertex_count too small": "vertex_count is 300, it was 299",
    "links counted wrongly": "links/0 counts",
    "bounds too small": "the bounds are",
    "lengths of objects wrong": "small tables",
    "catalog damaged": "catalogs",
    "level of another number": "it says its own number",
    "level without its parent": "names no parent",
    "level that is not listed": "multiscales lists the levels 0, 1",
    "listed level that is not there": "multiscales lists the levels 0",
    "scale of too few axes": "multiscales lists the levels 0",
}


@pytest.mark.parametrize(("name", "layout"), [c for c in CASES if c[0] in COUNTED])
def test_what_can_be_counted_needs_no_copy(tmp_path: Path, name: str, layout: str) -> None:
    _, kind, _, damage = DAMAGE[name]
    path, whole = copy_of(tmp_path / "s.zv", kind, layout), copy_of(tmp_path / "whole.zv", kind, layout)
    damage(path)
    repaired = dzv.repair(path, dzv.validate(path))
    assert repaired.ok, repaired
    assert repaired.findings == (), repaired
    assert any(COUNTED[name] in line for line in repaired.done), repaired.done
    same(content(path), content(whole))


LOST = [
    ("attribute object deleted", "grid", "dropped chunk"),
    ("attribute blob halved", "per_chunk", "dropped chunk"),
    ("attribute object with stray bytes", "grid", "links whose ends are lost"),
    ("attribute array removed", "grid", "dropped vertex_attributes/mass"),
    ("attribute of a wider dtype", "per_chunk", "dropped vertex_attributes/mass"),
    ("vertices object deleted", "grid", "dropped chunk"),
    ("NaN", "grid", "dropped chunk"),
    ("fragments of garbage", "grid", "from their manifests"),
    ("manifest of an absent chunk", "grid", "dropped 1 fragments of 1 objects"),
    ("object attribute damaged", "grid", "dropped object_attributes/age"),
    ("group of an absent object", "grid", "dropped 1 absent objects"),
    ("group blob of an absent object", "per_chunk", "dropped 1 absent objects"),
    ("links object deleted", "grid", "dropped links/0"),
    ("link to an absent row", "grid", "dropped 1 links"),
    ("vertices chunk deleted", "per_chunk", "dropped chunk"),
    ("links across chunks of a path removed", "per_chunk", "counts 89 links, it counted 90"),
    ("objects counted wrongly", "grid", "num_present of the objects is 12, it was 13"),
]


@pytest.mark.parametrize(("name", "layout", "text"), LOST)
def test_what_is_lost_goes_when_asked_and_is_named(tmp_path: Path, name: str, layout: str, text: str) -> None:
    rule, kind, _, damage = DAMAGE[name]
    path, whole = copy_of(tmp_path / "s.zv", kind, layout), copy_of(tmp_path / "whole.zv", kind, layout)
    damage(path)
    found = dzv.validate(path)
    kept = dzv.repair(path, found)
    assert not kept.ok
    assert rule in {f.rule for f in kept.errors}
    assert not any("dropped" in line for line in kept.done)
    dropped = dzv.repair(path, found, drop_lost=True)
    assert dropped.ok, dropped
    assert any(text in line for line in dropped.done), dropped.done
    assert dzv.validate(path).ok
    have, had = (dzv.open(p).level(0).read(order="chunk") for p in (path, whole))
    rows = set(map(bytes, np.ascontiguousarray(had.positions)))
    assert {bytes(r) for r in np.ascontiguousarray(have.positions)} <= rows
    gone = len(had.positions) - len(have.positions)
    assert (gone > 0) == any("dropped chunk" in line for line in dropped.done)
    assert dzv.open(path).level(0).metadata.vertex_count == len(have.positions)


@pytest.mark.parametrize("name", ["vertices out of their chunk", "chunk shape of the root", "all fragments removed"])
def test_what_can_be_read_stays(tmp_path: Path, name: str) -> None:
    _, kind, layouts, damage = DAMAGE[name]
    path = copy_of(tmp_path / "s.zv", kind, layouts[-1])
    damage(path)
    kept = dzv.repair(path, drop_lost=True)
    assert not kept.ok
    assert not any("dropped" in line for line in kept.done), kept.done
    assert kept.vertices == 300


def test_a_wrong_chunk_shape_is_one_finding(tmp_path: Path) -> None:
    path = copy_of(tmp_path / "s.zv", "point_cloud", "grid")
    DAMAGE["chunk shape of the root"][3](path)
    found = dzv.validate(path)
    assert [(f.rule, f.level) for f in found.errors] == [("documents", 0)]
    assert "chunks of [20.0, 20.0]" in found.errors[0].message
    other = dzv.create(tmp_path / "other.zv", chunk_shape=(3.0, 3.0))
    dzv.write_points(other, [[1.0, 2.0]])
    before = files(path)
    with pytest.raises(dzv.InputError, match="no copy of the store"):  # its chunk shape does not fit either
        dzv.repair(path, source=other)
    assert files(path) == before


def test_swapped_chunks_cost_these_and_no_attribute(tmp_path: Path) -> None:
    path = tmp_path / "s.zv"
    store = dzv.create(path, chunk_shape=(10.0, 10.0))
    positions = np.c_[np.repeat([1.0, 11.0, 21.0], [2, 3, 4]), np.full(9, 5.0)]
    dzv.write_points(store, positions, attributes={"mass": np.arange(9.0), "flag": np.arange(9) % 2 == 0})
    one, other, _ = cells(path / "0/vertices")
    swapped = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(swapped)
    dropped = dzv.repair(path, drop_lost=True)
    assert dropped.ok, dropped
    left = dzv.open(path).level(0).read()
    assert left.attributes["mass"].tolist() == [5.0, 6.0, 7.0, 8.0]
    assert left.attributes["flag"].tolist() == [False, True, False, True]


@pytest.mark.parametrize("layout", ALL)
def test_shards_and_what_they_hold(tmp_path: Path, layout: str) -> None:
    """Of a damaged shard all chunks come back; a copy may be packed otherwise."""
    for kind in ("point_cloud", "polyline"):
        path, copy = tmp_path / f"{kind}.zv", copy_of(tmp_path / f"{kind}-copy.zv", kind, layout)
        make(path, kind, layout, shard_chunks=4)
        array = path / "0/vertices"
        halve(first(array) if layout == "grid" else next(array.glob("__shard_*/c/0")))
        assert not dzv.validate(path)
        repaired = dzv.repair(path, source=copy)
        assert repaired.ok, repaired
        same(content(path), content(copy))


@pytest.mark.parametrize("layout", ALL)
def test_a_lost_shard_is_dropped_as_a_whole(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "s.zv"
    make(path, layout=layout, shard_chunks=4)
    before = len(dzv.open(path).level(0).chunks)
    array = path / "0/vertices"
    halve(first(array) if layout == "grid" else next(array.glob("__shard_*/c/0")))
    repaired = dzv.repair(path, drop_lost=True)
    assert repaired.ok, repaired
    after = len(dzv.open(path).level(0).chunks)
    assert 0 < after < before
    assert sum("dropped chunk" in line for line in repaired.done) == before - after


def test_many_at_once(tmp_path: Path) -> None:
    path, copy = copy_of(tmp_path / "s.zv", "graph", "grid"), copy_of(tmp_path / "copy.zv", "graph", "grid")
    for file in cells(path / MASS)[:3]:
        file.unlink()
    for name in ("vertices out of their chunk", "object ids removed", "links across chunks removed", "vertex_count too large",
                 "groups lost", "bounds too small", "document of links removed"):  # fmt: skip
        DAMAGE[name][3](path)
    found = dzv.validate(path)
    assert len({f.rule for f in found.errors}) >= 5
    repaired = dzv.repair(path, found, source=copy)
    assert repaired.findings == (), repaired
    same(content(path), content(copy))


def test_a_chunk_that_is_nowhere_any_more(tmp_path: Path) -> None:
    """The catalog alone knows of it: it stays, and the count of vertices with it, until the chunk is back or dropped."""
    path, copy = copy_of(tmp_path / "s.zv", "polyline", "grid"), copy_of(tmp_path / "copy.zv", "polyline", "grid")
    DAMAGE["chunk nowhere listed"][3](path)
    for array in ("vertices", "vertex_fragments", "vertex_attributes/mass", "vertex_attributes/kind"):
        own = attributes(copy / "0" / array)
        cell = np.array(own["nonempty_chunks"][0].split("."), int) - own["chunk_grid_origin"]
        (path / "0" / array / "c" / "/".join(map(str, cell))).unlink()
    kept = dzv.repair(path)
    assert not kept.ok
    assert kept.done == ()
    assert dzv.open(path).level(0).metadata.vertex_count == 300
    shutil.copytree(path, tmp_path / "other.zv")
    repaired = dzv.repair(path, source=copy)
    assert repaired.findings == (), repaired
    same(content(path), content(copy))
    dropped = dzv.repair(tmp_path / "other.zv", drop_lost=True)
    assert dropped.ok, dropped
    assert any("vertex_count is" in line for line in dropped.done)


def test_levels_of_a_pyramid(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    path, copy = tmp_path / "s.zv", tmp_path / "copy.zv"
    store = dzv.create(path, chunk_shape=(10.0, 10.0))
    dzv.write_points(store, rng.uniform(-30, 30, (3000, 2)), attributes={"mass": rng.normal(size=3000)})
    dzv.build_pyramid(store, levels=2)
    shutil.copytree(path, copy)
    first(path / "1/vertices").unlink()
    remove(path / "2")
    found = dzv.validate(path)
    assert {(f.rule, f.level) for f in found.errors} >= {("blobs", 1), ("multiscales", None)}
    assert dzv.repair(path, found, source=copy).findings == ()
    for number in (1, 2):
        one, other = (dzv.open(p).level(number).read() for p in (path, copy))
        np.testing.assert_array_equal(one.positions, other.positions)
    remove(path / "2")
    first(path / "1/vertices").unlink()
    dropped = dzv.repair(path, drop_lost=True)
    assert dropped.ok, dropped
    assert dropped.levels == (0, 1)
    assert any(line.startswith("level 1: dropped chunk") for line in dropped.done)


def test_only_what_is_given_is_repaired(tmp_path: Path) -> None:
    path, copy = copy_of(tmp_path / "s.zv", "point_cloud", "grid"), copy_of(tmp_path / "copy.zv", "point_cloud", "grid")
    DAMAGE["vertex_count too large"][3](path)
    first(path / MASS).unlink()
    found = dzv.validate(path)
    repaired = dzv.repair(path, [f for f in found.findings if f.rule == "counts"], source=copy)
    assert {f.rule for f in repaired.errors} == {"blobs"}
    assert dzv.repair(dzv.open(path, mode="r+"), found, source=dzv.open(copy)).ok


def test_nothing_to_do_and_nothing_that_can_be_done(tmp_path: Path) -> None:
    path = copy_of(tmp_path / "s.zv", "polyline", "grid")
    before = files(path)
    whole = dzv.repair(path)
    assert whole.ok
    assert whole.done == ()
    assert files(path) == before
    remove(path / "0/object_index")
    lost = dzv.repair(path, drop_lost=True)
    assert not lost.ok
    assert "manifests" in {f.rule for f in lost.errors}


def test_refusals(tmp_path: Path) -> None:
    path = copy_of(tmp_path / "s.zv", "point_cloud", "grid")
    other = dzv.create(tmp_path / "other.zv", chunk_shape=(3.0, 3.0))
    dzv.write_points(other, [[1.0, 2.0]])
    with pytest.raises(dzv.InputError, match="no copy of the store: its chunk_shape"):
        dzv.repair(path, source=other)
    with pytest.raises(dzv.ReadOnlyError, match="mode='r\\+'"):
        dzv.repair(dzv.open(path))
    icechunk = pytest.importorskip("icechunk")
    session = icechunk.Repository.create(icechunk.in_memory_storage()).writable_session("main")
    store = dzv.create(session, chunk_shape=(3.0, 3.0))
    with pytest.raises(dzv.InputError, match="earlier snapshots"):
        dzv.repair(store)


@pytest.mark.parametrize("use", ["threads", "distributed"])
def test_in_memory_and_on_a_cluster(tmp_path: Path, use_scheduler: Any, use: str) -> None:
    path, copy = copy_of(tmp_path / "s.zv", "mesh", "grid"), copy_of(tmp_path / "copy.zv", "mesh", "grid")
    rows_of(path / "0/vertices", shift)
    with use_scheduler(use):
        assert dzv.repair(path, dzv.validate(path), source=copy).ok
    same(content(path), content(copy))
    shutil.rmtree(path)
