"""Lines, polylines, streamlines, skeletons, graphs and meshes: what we write in layout grid the ZV 0.9 package reads
and what it writes we read exactly.

Both are compared with what went in, not with each other. Where one of its writers or readers is wrong, the test says so, and
compares with what the bytes say.
"""

from __future__ import annotations

import re
from pathlib import Path

import dask
import numpy as np
import pytest
from geometry_cases import CASES, check_ours, input_rows, link_bag
from geometry_exchange import check_theirs, start_exchange, stored_rows
from our_points import same

import dask_zv as dzv

RECIPES = re.findall(r'^    "(\w+)":', Path(__file__).with_name("peer_09_geometry_recipes.py").read_text(), re.M)
WRONG = {"skeletons_mixed"}
BUILT = [n for n in RECIPES if n.startswith("built")]
PYRAMIDS = {n: n.partition("_")[0] for n in RECIPES if n.endswith("pyramid")}


@pytest.fixture(autouse=True)
def few_threads():
    with dask.config.set(scheduler="threads", num_workers=2):
        yield


@pytest.fixture(scope="module")
def exchange():
    return start_exchange()


def kind_of(path):
    return dzv.open(path).metadata.geometry_types[0]


# -------------------------------------------------------------------------------------------------- it reads ours


@pytest.mark.parametrize("name", CASES)
def test_it_reads_what_we_write(name, exchange):
    found, told = exchange.read_ours(name)
    case = CASES[name]
    level = dzv.open(exchange.ours(name)).level(0)
    check_theirs(found, told, case.truth, case.kind, level)
    low, high = case.truth.positions.min(axis=0), case.truth.positions.max(axis=0)
    assert told["bounds"] == [low.tolist(), high.tolist()]
    assert told["chunks"] == level.chunks.coords.tolist()
    assert told["store"] == "canonical"
    if case.truth.links is not None and case.kind != "skeleton":
        n = len(case.truth.links)
        assert told["counts"] == {"num_links": n, "num_physical_records": n}


@pytest.mark.parametrize("name", CASES)
def test_we_read_what_we_write(name, exchange):
    """So that the cases are what they are meant to be, and no mistake of one side hides behind the other's."""
    case = CASES[name]
    check_ours(dzv.open(exchange.ours(name)).level(0).read(), case.truth, case.kind)
    chunks = np.floor(case.truth.positions / np.array(case.create({}).metadata.chunk_shape))
    assert len(np.unique(chunks, axis=0)) > 4
    assert (chunks < 0).any()
    if case.truth.links is not None:
        crossing = (chunks[case.truth.links] != chunks[case.truth.links][:, :1]).any(axis=(1, 2))
        assert 0.1 < crossing.mean() < 1


@pytest.mark.parametrize("name", CASES)
def test_its_validator_passes(name, exchange):
    """At level 5, and without a warning, as for stores of its own."""
    assert exchange.validate(exchange.ours(name)) == {"errors": [], "warnings": []}


@pytest.mark.parametrize("name", ["lines", "polylines", "graph", "mesh", "skeleton"])
def test_its_validator_has_nothing_to_say_of_its_own_stores(name, exchange):
    assert exchange.validate(exchange.theirs(name)[0]) == {"errors": [], "warnings": []}


@pytest.mark.parametrize("name", ["lines_sparse", "polylines_sparse"])
def test_its_reader_loses_objects_of_sparse_ids(name, exchange):
    """Asked for all, it counts up to the number of objects, and takes that for their ids (FORMAT.md J.2)."""
    found, _ = exchange.read_ours(name)
    truth = CASES[name].truth
    known = truth.positions[truth.owners < len(truth.ids)]
    assert 0 < len(found["without_ids"]) == len(known) < len(truth.positions)
    dense, _ = exchange.read_ours(name.replace("_sparse", ""))
    assert len(dense["without_ids"]) == len(CASES[name.replace("_sparse", "")].truth.positions)


BOX = [[-30.0, -50, -70], [35.0, 20, 30]]


@pytest.mark.parametrize("name", ["lines", "graph", "graph_2d", "mesh", "skeletons_of_trees"])
def test_its_boxes(name, exchange):
    case = CASES[name]
    box = np.array(BOX)[:, : case.ndim]
    found, _ = exchange.peer.arrays("boxes", path=exchange.ours(name), box=box.tolist())
    truth = case.truth
    inside = ((truth.positions >= box[0]) & (truth.positions <= box[1])).all(axis=1)
    assert 0 < inside.sum() < len(inside)
    if case.kind == "line":  # one end is enough for it
        of_line = inside.reshape(-1, 2).any(axis=1)
        same(found["endpoints"], truth.positions.reshape(-1, 2, case.ndim)[of_line])
        return
    ours = dzv.open(exchange.ours(name)).level(0).read(bbox=box)
    same(found["positions"], ours.positions)
    assert len(ours) == inside.sum()
    mine = {"mesh": ours.faces, "graph": ours.edges, "skeleton": ours.edges}[case.kind]
    theirs = found["faces"] if case.kind == "mesh" else found["edges"]
    assert sorted(map(tuple, theirs.tolist())) == sorted(map(tuple, mine.tolist()))
    assert len(mine) == inside[truth.links].all(axis=1).sum() > 0


# -------------------------------------------------------------------------------------------------- we read its


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            n,
            marks=[pytest.mark.xfail(strict=False, reason="links between first rows of fragments are told the wrong way round")]
            if n == "skeleton_chunked_tips"
            else [],
        )
        for n in RECIPES
        if n not in WRONG
    ],
)
def test_we_read_what_it_writes(name, exchange):
    path, truth, told = exchange.theirs(name)
    level = dzv.open(path).level(0)
    check_ours(level.read(), truth, kind_of(path))
    if "sharded" in name:
        assert "0/vertices" in told["shards"]
    if level.kind in ("graph", "mesh"):
        assert level.links().directed == truth.directed


@pytest.mark.parametrize("name", ["lines", "polylines", "graph_objects", "mesh_objects", "skeletons", "graph_by_attribute"])
def test_we_read_some_objects_of_its(name, exchange):
    path, truth, _ = exchange.theirs(name)
    level = dzv.open(path).level(0)
    wanted = truth.index[[1, -1]].tolist()
    some = level.read(objects=wanted)
    mine = np.isin(truth.owners, wanted)
    rows = {p.tobytes(): i for i, p in enumerate(truth.positions)}
    at = np.array([rows[p.tobytes()] for p in some.positions])
    assert sorted(at.tolist()) == np.flatnonzero(mine).tolist()
    same(some.object_ids, truth.owners[at])
    for key, values in truth.attributes.items():
        same(some.attributes[key], values[at], key)
    if truth.links is not None:
        kept = mine[truth.links].all(axis=1)
        links = some.faces if level.kind == "mesh" else some.edges
        ours = at[links]
        assert sorted(map(tuple, ours.tolist())) == sorted(map(tuple, truth.links[kept].tolist()))
        assert kept.any()


def test_trees_that_its_writer_spoils(exchange):
    """Of several trees its writer orders one only: where another's root is not first in its chunk, the bytes give it a parent
    (FORMAT.md J.2). We read what the bytes say, as its reader does, and every edge that went in is there."""
    path, truth, _ = exchange.theirs("skeletons_mixed")
    ours = dzv.open(path).level(0).read()
    found, _ = exchange.read(path)
    same(found["positions"], ours.positions)
    same(found["links"], ours.edges)
    rows = input_rows(ours.positions, truth)
    edges = set(map(tuple, rows[ours.edges].tolist()))
    assert set(map(tuple, truth.links.tolist())) < edges
    roots = set(range(len(truth.positions))) - set(truth.links[:, 0].tolist())
    assert {c for c, _ in edges - set(map(tuple, truth.links.tolist()))} <= roots


@pytest.mark.parametrize("name", BUILT)
def test_families_of_links(name, exchange):
    """Every policy, whole or appended to: each record as it went in, with its attributes; its reader gives copies of some."""
    path, truth, _ = exchange.theirs(name)
    level = dzv.open(path).level(0)
    links = level.links()
    at = stored_rows(level, truth)
    ends = zip(links.chunks.tolist(), links.rows.tolist(), strict=True)
    records = [[at[tuple(c), r] for c, r in zip(cs, rs, strict=True)] for cs, rs in ends]
    assert link_bag(records, links.attributes) == link_bag(truth.links, truth.link_attributes)
    assert links.directed == ("directed" in name)
    found, told = exchange.read(path)
    assert told["store"] == ("duplicate" if "duplicate" in name else "canonical")
    assert told["counts"]["num_links"] == len(truth.links)
    if "duplicate" in name:
        assert len(found["links"]) > len(truth.links)
        found["links"], first = np.unique(input_rows(found["positions"], truth)[found["links"]], axis=0, return_index=True)
        own = {k.removeprefix("eattr__"): v[first] for k, v in found.items() if k.startswith("eattr__")}
        assert link_bag(found["links"], own) == link_bag(truth.links, truth.link_attributes)


def test_segments_of_a_chunked_skeleton(exchange):
    """Its reader of one segment leaves out the links between chunks; the rest is ours."""
    path, truth, _ = exchange.theirs("skeleton_chunked")
    level = dzv.open(path).level(0)
    for number, segment in enumerate((11, 42)):
        ours = level.read(objects=[number])
        found, told = exchange.peer.arrays("segment", path=path, segment_id=segment)
        assert told["fragments"] > 3
        assert len(found["positions"]) == len(ours) == (truth.owners == number).sum()
        same(np.sort(found["attr__radius"]), np.sort(ours.attributes["radius"]))
        assert len(ours.edges) == len(ours) - 1
        assert len(found["edges"]) == len(ours) - 3  # it has three chunks
        np.testing.assert_array_equal(np.unique(found["positions"], axis=0), np.unique(ours.positions.astype("f4"), axis=0))


@pytest.mark.parametrize("name", PYRAMIDS)
def test_coarser_levels(name, exchange):
    path, _, _ = exchange.theirs(name)
    store = dzv.open(path)
    assert store.levels == (0, 1, 2)
    for number in (1, 2):
        found, told = exchange.read(path, level=number)
        level = store.level(number)
        geometry = level.read()
        same(geometry.positions, found["positions"])
        assert level.metadata.vertex_count == told["vertex_count"]
        if PYRAMIDS[name] == "polylines":
            some = geometry.lengths > 0
            assert geometry.ids[some].tolist() == told["ids"]
            same(geometry.lengths[some], found["lengths"])
            present = found["present__score"].astype(bool)
            absent = np.ma.getmaskarray(geometry.object_attributes["score"])
            assert absent.tolist() == (~present).tolist()


@pytest.mark.parametrize("name", PYRAMIDS)
def test_links_between_levels(name, exchange):
    path, _, _ = exchange.theirs(name)
    store = dzv.open(path)
    steps = [(0, 1), (1, 1), (1, -1), (2, -1)]
    if name == "mesh_pyramid":
        steps += [(0, 2), (2, -2)]
    if name == "skeleton_pyramid":
        steps = steps[:2]
        with pytest.raises(dzv.NotFoundError):
            store.level(1).links(-1)
    for number, delta in steps:
        found, told = exchange.peer.arrays("cross_level", path=path, level=number, delta=delta)
        ours = store.level(number).links(delta)
        assert ours.directed == told["directed"] is True
        theirs = np.concatenate([found["chunks"].reshape(len(found["rows"]), -1), found["rows"]], axis=1)
        mine = np.concatenate([ours.chunks.reshape(len(ours), -1), ours.rows], axis=1)
        assert sorted(mine.tolist()) == sorted(theirs.tolist())
        assert len(mine) == store.level(number if delta > 0 else number + delta).metadata.vertex_count
