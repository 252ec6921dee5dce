"""Links, paths and trees that both write: we onto stores of the ZV 0.9 package, and it into stores of ours.

What it edits we read as edited, in every way that we have; arrays that its editor leaves at odds are an error that names the chunk.
"""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace

import numpy as np
import pytest
from geometry_cases import SPARSE, Case, check_ours, link_bag, link_truth, mixed, path_truth, sparse, tree_truth
from geometry_exchange import check_theirs, exchange_with, records_of, stored_rows
from geometry_inputs import CHUNK, forest, graph, lines, paths, surface
from our_points import same
from refusals import fails

import dask_zv as dzv

LEAST = {"names": ("mass",)}


@pytest.fixture(scope="module")
def exchange():
    return exchange_with("0.9")


def make_fresh():
    """One store of each kind: other vertices than those that lie there, objects of other ids, fewer attributes."""
    nodes, pairs = graph(91, nodes=40, edges=50, reach=2)
    two, up, tree = forest(90, (30, 20))
    skin, faces, patch = surface(92, patches=2, side=4, size=35)
    walks = path_truth(paths(94, count=10), sparse(10), **LEAST)
    return {
        "line": Case("line", path_truth(lines(93, count=15), sparse(15), **LEAST)),
        "polyline": Case("polyline", walks),
        "streamline": Case("streamline", walks),
        "graph": Case("graph", link_truth(nodes, pairs, mixed(len(nodes)), of_links=("rank",), **LEAST)),
        "skeleton": Case("skeleton", tree_truth(two, up, SPARSE[tree], **LEAST)),
        "mesh": Case("mesh", link_truth(skin, faces, SPARSE[patch], of_links=("rank",), **LEAST)),
    }


FRESH = make_fresh()


OVERWRITTEN = [
    *("lines", "polylines_pyramid", "graph_pyramid", "mesh_quads_sharded", "skeleton_chunked", "built_directed"),
    "built_triangles_duplicate",
]


@pytest.mark.parametrize("name", OVERWRITTEN)
def test_what_we_write_onto_its_stores_is_ours_alone(name, exchange, tmp_path):
    """No link of before, no count of theirs, no policy, no offset, no attribute; nothing at another level leads here."""
    path = tmp_path / "s.zarrvectors"
    exchange.copy(name, path)
    store = dzv.open(path, mode="r+")
    case = FRESH[store.metadata.geometry_types[0]]
    coarser = [(n, n_links(store, n)) for n in store.levels[1:]]
    case.write(path, store=store, mode="overwrite", out_of_bounds="expand")
    store = dzv.open(path)
    level = store.level(0)
    check_ours(level.read(), case.truth, case.kind)
    found, told = exchange.read(path)
    check_theirs(found, told, case.truth, case.kind, level)
    assert not told["directed"]
    assert told["store"] == "canonical"
    assert {"fragment_attributes", "groups"} & set(told["children"]) == {"groups"}
    assert ("link_attributes" in told["children"]) == bool(case.truth.link_attributes)
    links = level.links()
    if case.kind != "skeleton":
        assert told["counts"]["num_links"] == len(links) > 0
    assert level._contents.offset is None
    if "pyramid" in name:
        assert any(before for _, before in coarser)
        fails(dzv.NotFoundError, None, level.links, 1)
        for number in store.levels[1:]:
            with pytest.raises(dzv.NotFoundError):
                store.level(number).links(-number)
    exchange.check_valid(path)


def n_links(store, number):
    return [d for d in (-2, -1, 1) if store.level(number)._contents.found_links(d) is not None]


@pytest.mark.parametrize("name", ["lines_by_attribute", "polylines_by_attribute", "graph_by_attribute", "mesh_by_attribute"])
def test_stores_that_an_attribute_chunks_are_not_overwritten(name, exchange, tmp_path):
    """Their objects have names that ours need as directories: that is said before anything is stored."""
    path = tmp_path / "s.zarrvectors"
    truth = exchange.copy(name, path)
    store = dzv.open(path, mode="r+")
    kind = store.metadata.geometry_types[0]
    fails(dzv.StoreError, "cls", lambda: FRESH[kind].write(path, store=store, mode="overwrite", out_of_bounds="expand"))
    check_ours(dzv.open(path).level(0).read(), truth, kind)
    fresh = replace(FRESH[kind], creation={"overwrite": True})
    fresh.write(path)
    check_ours(dzv.open(path).level(0).read(), fresh.truth, kind)


def make_edited():
    """Stores of ours with bounds that leave room, and with attributes of one channel: its editor destroys others."""
    room = {"bounds": ([-80.0] * 3, [80.0] * 3)}
    nodes, pairs = graph(71, nodes=60, edges=90, reach=3)
    one, up, tree = forest(72, (40, 30))
    skin, faces, patch = surface(73, patches=2, side=4, size=30)
    two = {"names": ("mass", "count")}
    return {
        "lines": Case("line", path_truth(lines(74, count=14), **two), room),
        "polylines": Case("polyline", path_truth(paths(70, count=8, longest=25), **two), room),
        "polylines_packed": Case(
            "polyline", path_truth(paths(75, count=7, longest=20), sparse(7), **LEAST), room | {"shard_chunks": 3}
        ),
        "graph": Case("graph", link_truth(nodes, pairs, of_links=(), **two), room),
        "graph_weighted": Case("graph", link_truth(nodes, pairs, of_links=("weight",), **two), room),
        "graph_directed": Case("graph", link_truth(nodes, pairs, mixed(60), of_links=(), directed=True, **two), room),
        "skeletons": Case("skeleton", tree_truth(one, up, SPARSE[tree], **two), room),
        "mesh": Case("mesh", link_truth(skin, faces, SPARSE[patch], of_links=(), **two), room),
        "mesh_packed": Case("mesh", link_truth(skin, faces, of_links=(), **LEAST), room | {"shard_chunks": 2}),
    }


EDITED = make_edited()


@pytest.fixture(scope="module")
def edited(tmp_path_factory, exchange):
    """Return a copy of a store of ours, and its truth, both to be changed."""
    root = tmp_path_factory.mktemp("edited")

    def one(name, target):
        source = root / f"{name}.zv"
        if not source.exists():
            EDITED[name].write(source)
        return shutil.copytree(source, target / "s.zv"), copy.deepcopy(EDITED[name].truth), EDITED[name].kind

    return one


def check_all(path, truth, kind, exchange, *, theirs=True):
    """We read what is expected as it lies there, and after a refresh; so does the peer."""
    assert (path / "0/dask_zv_catalog").exists()
    check_ours(dzv.open(path).level(0).read(), truth, kind)
    check_ours(dzv.open(path, mode="r+").refresh().level(0).read(), truth, kind)
    level = dzv.open(path).level(0)
    check_ours(level.read(), truth, kind)
    if theirs:
        found, told = exchange.read(path)
        check_theirs(found, told, truth, kind, level)


@pytest.mark.parametrize("name", ["lines", "polylines_packed", "graph_directed", "skeletons", "mesh", "mesh_packed"])
def test_values_that_it_sets_and_vertices_that_it_moves(name, edited, exchange, tmp_path):
    """Each in its chunk: then links, fragments and manifests are what they were."""
    path, truth, kind = edited(name, tmp_path)
    chunks = np.floor(truth.positions / np.array(CHUNK))
    moved = truth.positions * np.float32(0.99)
    row = int(np.flatnonzero((np.floor(moved / np.array(CHUNK)) == chunks).all(axis=1))[3])
    at = truth.positions[row].tolist()
    exchange.peer.call("edit", path=path, values=[["mass", at, 99.5]])
    exchange.peer.call("edit", path=path, moves=[[at, moved[row].tolist()]])
    truth.attributes["mass"][row] = 99.5
    truth.positions[row] = moved[row]
    check_all(path, truth, kind, exchange)


def test_a_path_that_it_copies_before_it_moves_a_vertex(edited, exchange, tmp_path):
    """Its default: the edited path is another object, without attributes, so that those of the chunk are nobody's."""
    path, _, _ = edited("polylines", tmp_path)
    before = dzv.open(path).level(0).read(objects=[0]).positions
    to = before[2] * np.float32(0.99)
    told = exchange.peer.call("edit", path=path, moves=[[before[2].tolist(), to.tolist()]], atomic=True)
    assert told["renamed"] == {"0": 8}
    level = dzv.open(path).level(0)
    same(level.read(objects=[0], attributes=[]).positions, before)
    after = level.read(objects=[8], attributes=[]).positions
    assert to.tolist() in after.tolist()
    assert before[2].tolist() not in after.tolist()
    found, told = exchange.read(path)
    assert told["ids"] == list(range(9)) == level.read(attributes=[]).ids.tolist()
    same(level.read(attributes=[]).positions, found["positions"])
    assert not [k for k in found if k.startswith("attr__")]
    fails(dzv.FormatError, "vertex_attributes", level.read)


def test_a_line_that_it_moves_into_another_chunk(edited, exchange, tmp_path):
    """It files the vertex there; the links that it does not renumber are not what a line is read by."""
    path, truth, kind = edited("lines", tmp_path)
    at = truth.positions[3].copy()
    truth.positions[3, 0] *= -1
    exchange.peer.call("edit", path=path, moves=[[at.tolist(), truth.positions[3].tolist()]])
    check_all(path, truth, kind, exchange, theirs=False)
    found, _ = exchange.read(path)
    same(found["positions"], truth.positions)


def test_a_vertex_of_a_path_in_another_chunk(edited, exchange, tmp_path):
    """Its editor does not cut the path where the vertex was, and its rows become others': we read what the bytes say now."""
    path, truth, _ = edited("polylines", tmp_path)
    to = truth.positions[3] * np.array([-1, 1, 1], "f4")
    exchange.peer.call("edit", path=path, moves=[[truth.positions[3].tolist(), to.tolist()]])
    found, _ = exchange.read(path)
    for store in (dzv.open(path), dzv.open(path, mode="r+").refresh()):
        ours = store.level(0).read()
        same(ours.positions, found["positions"])
        same(ours.lengths, found["lengths"])
    assert to.tolist() in ours.positions.tolist()
    assert truth.positions[3].tolist() not in ours.positions.tolist()


@pytest.mark.parametrize("name", ["graph", "mesh"])
def test_a_linked_vertex_that_it_moves_into_another_chunk(name, edited, exchange, tmp_path):
    """It leaves the links behind, which then name rows that are others, or none: where the catalog or a row tells, we say so."""
    path, _, _ = edited(name, tmp_path)
    level = dzv.open(path).level(0)
    geometry = level.read()
    links = level.links()
    inside = (links.chunks == links.chunks[:, :1]).all(axis=(1, 2))
    sizes = {tuple(c): n for c, n in zip(level.chunks.coords.tolist(), level.chunks.rows.tolist(), strict=True)}
    last = zip(map(tuple, links.chunks[inside, 0].tolist()), links.rows[inside].max(axis=1).tolist(), strict=True)
    chunk, row = next((c, r) for c, r in last if r == sizes[c] - 1)
    table = level.chunks
    start = int(table.rows[: table.coords.tolist().index(list(chunk))].sum())
    at = geometry.positions[start + row]
    to = at * np.array([-1, 1, 1], "f4")
    exchange.peer.call("edit", path=path, moves=[[at.tolist(), to.tolist()]])
    key = ".".join(map(str, chunk))
    with pytest.raises(dzv.FormatError, match="links do not belong to these vertices") as caught:
        dzv.open(path).level(0).read()
    assert key in str(caught.value)


def ends_of(links, crossing):
    """Return a record to add, like one that is there, and where that one lies: chunk, offsets, group, row."""
    across = (links.chunks != links.chunks[:, :1]).any(axis=(1, 2))
    chunks = links.chunks[np.flatnonzero(across == crossing)[0]]
    return [[c, i] for i, c in enumerate(chunks.tolist())]


def added(level, truth, record):
    """Return the truth with one more link."""
    at = stored_rows(level, truth)
    truth.links = np.concatenate([truth.links, [[at[tuple(c), r] for c, r in record]]])
    return truth


@pytest.mark.parametrize("crossing", [False, True])
@pytest.mark.parametrize("how", ["edit_links", "append_links"])
@pytest.mark.parametrize("name", ["graph_directed", "mesh_packed"])
def test_links_that_it_adds(name, how, crossing, edited, exchange, tmp_path):
    path, truth, kind = edited(name, tmp_path)
    level = dzv.open(path).level(0)
    record = ends_of(level.links(), crossing)
    truth = added(level, truth, record)
    exchange.peer.call(how, path=path, **({"add": [[record, {}]]} if how == "edit_links" else {"records": [record]}))
    check_all(path, truth, kind, exchange, theirs=crossing)


def test_links_with_values_that_it_adds(edited, exchange, tmp_path):
    """Its builder appends both, its editor the links alone: then which value is whose is no longer told."""
    path, truth, kind = edited("graph_weighted", tmp_path)
    level = dzv.open(path).level(0)
    record = ends_of(level.links(), crossing=True)
    truth = added(level, truth, record)
    truth.link_attributes["weight"] = np.append(truth.link_attributes["weight"], 7.5)
    exchange.peer.call("append_links", path=path, records=[record], attributes={"weight": [7.5]})
    check_all(path, truth, kind, exchange)
    exchange.peer.call("edit_links", path=path, add=[[record, {}]])
    fails(dzv.FormatError, "link_attributes/weight/0", lambda: dzv.open(path).level(0).read())
    assert len(dzv.open(path).level(0).read(attributes=["mass"]).edges) == len(truth.links) + 1


@pytest.mark.parametrize("name", ["graph", "graph_directed", "skeletons"])
def test_links_that_it_changes_and_removes(name, edited, exchange, tmp_path):
    path, _, _ = edited(name, tmp_path)
    level = dzv.open(path).level(0)
    links = level.links()
    inside = np.flatnonzero((links.chunks == links.chunks[:, :1]).all(axis=(1, 2)))
    chunk = links.chunks[inside[0], 0]
    mine = [i for i in inside if (links.chunks[i, 0] == chunk).all()]
    ref = [chunk.tolist(), [[0, 0, 0]], 0]
    other = links.rows[mine[0]][::-1].tolist() if name != "skeletons" else links.rows[mine[0]].tolist()
    exchange.peer.call("edit_links", path=path, change=[[[*ref, 0], other]])
    exchange.peer.call("edit_links", path=path, remove=[[*ref, len(mine) - 1]])
    expected = records_of(links)
    expected[mine[0]] = [(tuple(chunk.tolist()), r) for r in other]
    del expected[mine[-1]]
    for store in (dzv.open(path), dzv.open(path, mode="r+").refresh(), dzv.open(path)):
        assert sorted(records_of(store.level(0).links())) == sorted(expected)
    found, _ = exchange.read(path)
    ours = dzv.open(path).level(0).read()
    same(found["positions"], ours.positions)
    assert link_bag(found["links"], {}) == link_bag(ours.edges, {})


@pytest.mark.parametrize("name", ["polylines", "mesh", "mesh_packed", "polylines_packed"])
def test_stores_that_it_packs_and_unpacks(name, edited, exchange, tmp_path):
    path, truth, kind = edited(name, tmp_path)
    if not name.endswith("packed"):
        assert exchange.peer.call("shard", path=path, shape=2)["chunks_packed"] > 20
        check_all(path, truth, kind, exchange, theirs=kind == "mesh")
    assert exchange.peer.call("shard", path=path, shape=None)["chunks_extracted"] > 10
    check_all(path, truth, kind, exchange, theirs=kind == "mesh")


@pytest.mark.parametrize("name", ["lines", "graph_weighted", "mesh"])
def test_pyramids_that_it_builds_on_ours(name, edited, exchange, tmp_path):
    path, truth, kind = edited(name, tmp_path)
    assert exchange.peer.call("pyramid", path=path, factors=[[2.0, 1.0]])["levels"] == [0, 1]
    check_all(path, truth, kind, exchange, theirs=False)
    store = dzv.open(path)
    coarse = store.level(1)
    found, told = exchange.read(path, level=1)
    same(coarse.read().positions, found["positions"])
    assert coarse.metadata.vertex_count == told["vertex_count"]
    assert told["ids"] == truth.index.tolist()
    up, down = store.level(0).links(1), coarse.links(-1)
    assert len(up) == len(down) == len(truth.positions)
    assert sorted(records_of(up)) == sorted(r[::-1] for r in records_of(down))
    exchange.check_valid(path)
