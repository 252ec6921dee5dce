"""Every geometry: what we write the ZV packages read, and what they write we read exactly.

Both are compared with what went in, not with each other. Where one of their writers or readers is wrong, the test says so, and
compares with what the bytes say.
"""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from geometry_cases import CASES, PER_CHUNK_CASES, Case, Truth, check_ours, dense, input_rows, link_bag, path_truth, same_links
from geometry_exchange import check_theirs, exchange_with, records_of, stored_rows
from geometry_inputs import chunk_of, lines, paths
from our_points import rows_in, same
from peer_client import recipes_in
from refusals import fails

import dask_zv as dzv

RECIPES_02 = recipes_in("peer_02_recipes", "GEOMETRY_RECIPES")
RECIPES_09 = recipes_in("peer_09_geometry_recipes", "GEOMETRY_RECIPES")
OURS = [*(("0.9", n) for n in CASES), *(("0.2", n) for n in PER_CHUNK_CASES)]
THEIRS = [*(("0.9", n) for n in RECIPES_09), *(("0.2", n) for n in RECIPES_02)]
WRONG = {("0.9", "skeletons_mixed"), *(("0.2", n) for n in ("graph", "graph_objects", "graph_mixed", "mesh_objects"))}
PYRAMIDS = [(g, n) for g, n in THEIRS if n.endswith("pyramid")]
BUILT = [n for n in RECIPES_09 if n.startswith("built")]
VALID = [
    *(("0.9", n) for n in ("lines", "polylines", "graph", "mesh", "skeleton")),
    ("0.2", "lines"),
    ("0.2", "polylines_bins"),
]


@pytest.fixture
def exchange(generation):
    return exchange_with(generation)


@pytest.fixture
def new():
    return exchange_with("0.9")


@pytest.fixture
def old():
    return exchange_with("0.2")


def kind_of(path):
    return dzv.open(path).metadata.geometry_types[0]


def tuples(rows):
    return sorted(map(tuple, np.asarray(rows).tolist()))


@pytest.mark.parametrize(("generation", "name"), OURS)
def test_it_reads_what_we_write(generation, name, exchange):
    """And so do we; the cases are what they are meant to be: on both sides of 0, with links across chunks."""
    case, path = exchange.cases[name], exchange.ours(name)
    truth, level = case.truth, dzv.open(path).level(0)
    found, told = exchange.read_ours(name)
    check_ours(level.read(), truth, case.kind)
    check_theirs(found, told, truth, case.kind, level)
    assert told["bounds"] == [truth.positions.min(axis=0).tolist(), truth.positions.max(axis=0).tolist()]
    assert told["chunks"] == level.chunks.coords.tolist()
    assert told["bins_per_chunk"] == ([2, 3, 3] if "bin_shape" in case.creation else [1] * case.ndim)
    if generation == "0.9":
        assert told["store"] == "canonical"
    if truth.links is not None and case.kind != "skeleton":
        assert told["counts"] == {"num_links": len(truth.links), "num_physical_records": len(truth.links)}
    chunks = np.floor(truth.positions / np.array(chunk_of(case.ndim)))
    assert len(np.unique(chunks, axis=0)) > 4
    assert (chunks < 0).any()
    if truth.links is not None:
        crossing = (chunks[truth.links] != chunks[truth.links][:, :1]).any(axis=(1, 2))
        assert 0.1 < crossing.mean() < 1


@pytest.mark.parametrize(("generation", "name"), OURS)
def test_its_validator_passes(generation, name, exchange):
    exchange.check_valid(exchange.ours(name), exchange.cases[name].truth.positions.dtype)


@pytest.mark.parametrize(("generation", "name"), VALID)
def test_its_validator_has_nothing_to_say_of_its_own_stores(generation, name, exchange):
    exchange.check_valid(exchange.theirs(name)[0])


@pytest.mark.parametrize("name", ["lines_sparse", "polylines_sparse"])
def test_its_reader_loses_objects_of_sparse_ids(name, new):
    """Asked for all, it counts up to the number of objects, and takes that for their ids (FORMAT.md J.2)."""
    found, _ = new.read_ours(name)
    truth = CASES[name].truth
    known = truth.positions[truth.owners < len(truth.ids)]
    assert 0 < len(found["without_ids"]) == len(known) < len(truth.positions)
    whole, _ = new.read_ours(name.replace("_sparse", ""))
    assert len(whole["without_ids"]) == len(CASES[name.replace("_sparse", "")].truth.positions)


@pytest.mark.parametrize("name", ["lines", "graph", "graph_2d", "mesh", "skeletons_of_trees"])
def test_its_boxes(name, new):
    case = CASES[name]
    box, truth = np.array([[-30.0, -50, -70], [35.0, 20, 30]])[:, : case.ndim], case.truth
    found, _ = new.peer.arrays("boxes", path=new.ours(name), box=box.tolist())
    inside = ((truth.positions >= box[0]) & (truth.positions <= box[1])).all(axis=1)
    assert 0 < inside.sum() < len(inside)
    if case.kind == "line":  # one end is enough for it
        same(found["endpoints"], truth.positions.reshape(-1, 2, case.ndim)[inside.reshape(-1, 2).any(axis=1)])
        return
    ours = dzv.open(new.ours(name)).level(0).read(bbox=box)
    same(found["positions"], ours.positions)
    assert len(ours) == inside.sum()
    mine = ours.faces if case.kind == "mesh" else ours.edges
    assert tuples(found["faces" if case.kind == "mesh" else "edges"]) == tuples(mine)
    assert len(mine) == inside[truth.links].all(axis=1).sum() > 0


def test_it_cuts_paths_at_bins_as_we_do(old):
    """Its pieces end where a bin ends: ours, too, so that whoever goes by its pieces finds them."""
    path, its, _ = old.theirs("polylines_bins")
    for told, truth in (
        (old.read_ours("polylines_bins")[1], PER_CHUNK_CASES["polylines_bins"].truth),
        (old.read(path)[1], its),
    ):
        starts = np.concatenate([[0], np.cumsum(truth.lengths)])
        for i, oid in enumerate(truth.ids.tolist()):
            cell = np.floor(truth.positions[starts[i] : starts[i + 1]] / np.array([20.0, 20.0, 40.0]))
            assert len(told["manifests"][str(oid)]) == 1 + (cell[1:] != cell[:-1]).any(axis=1).sum()


def test_it_reads_objects_of_points(old, tmp_path):
    truth = PER_CHUNK_CASES["polylines"].truth
    store = dzv.create(tmp_path / "s.zv", layout="per_chunk", chunk_shape=chunk_of(3))
    dzv.write_points(store, truth.positions, object_ids=truth.owners)
    found, told = old.read(tmp_path / "s.zv")
    rows = input_rows(found["by_object"], truth)
    assert truth.owners[rows].tolist() == np.sort(truth.owners).tolist()
    assert len(told["manifests"]) == len(truth.ids)
    assert old.peer.call("validate", path=tmp_path / "s.zv")["errors"] == []


@pytest.mark.parametrize("name", ["lines", "polylines_bins"])
def test_pyramids_that_it_builds_on_ours(name, old, tmp_path):
    path, case = shutil.copytree(old.ours(name), tmp_path / "s.zv"), PER_CHUNK_CASES[name]
    assert old.peer.call("pyramid", path=path, factors=[[2.0, 1.0]])["levels"] == [0, 1]
    found, _ = old.read(path, level=1)
    assert old.peer.call("validate", path=path)["errors"] == []
    store = dzv.open(path)
    check_ours(store.level(0).read(), case.truth, case.kind)
    if name != "lines":  # whose both ends may fall on one vertex, and are then no line to its reader
        same(store.level(1).read().positions, found["positions"])
    same(store.level(1).read(order="chunk").positions, found["by_chunk"])
    assert len(store.level(0).links(1)) == len(store.level(1).links(-1)) == len(case.truth.positions)


FRESH = {
    "line": Case("line", path_truth(lines(90, count=15), dense(15), names=("mass",))),
    "polyline": Case("polyline", path_truth(paths(91, count=10), dense(10), names=("mass",))),
}
FRESH["streamline"] = Case("streamline", FRESH["polyline"].truth)


@pytest.mark.parametrize("name", ["lines_by_attribute", "polylines_by_attribute", "polylines_pyramid", "streamlines_octree"])
def test_what_we_write_onto_its_stores_is_ours_alone(name, old, tmp_path):
    """No link, no chunk key of an attribute, no shard of before."""
    old.copy(name, tmp_path / "s")
    store = dzv.open(tmp_path / "s", mode="r+")
    case = FRESH[store.metadata.geometry_types[0]]
    case.write(tmp_path / "s", store=store, mode="overwrite", out_of_bounds="expand")
    store = dzv.open(tmp_path / "s")
    check_ours(store.level(0).read(), case.truth, case.kind)
    found, told = old.read(tmp_path / "s", case.truth)
    check_theirs(found, told, case.truth, case.kind, store.level(0))
    old.check_valid(tmp_path / "s", case.truth.positions.dtype)
    assert {len(c) for c in told["chunks"]} == {3}
    for number, delta in ((0, 1), (1, -1)) if name.endswith("pyramid") else ():
        with pytest.raises(dzv.NotFoundError):
            store.level(number).links(delta)


@pytest.mark.parametrize("kind", ["graph", "mesh", "skeleton"])
def test_what_that_format_cannot_hold_is_refused(kind, old, tmp_path):
    fails(dzv.InputError, "grid", lambda: dzv.create(tmp_path / "s.zv", geometry=kind, chunk_shape=(1, 1), layout="per_chunk"))
    path = old.theirs(kind)[0]
    store = dzv.open(path, mode="r+")
    write, links = {
        "graph": (dzv.write_graph, {"edges": [[0, 1]]}),
        "mesh": (dzv.write_meshes, {"faces": [[0, 1, 2]]}),
        "skeleton": (dzv.write_skeletons, {"parents": [-1, 0, 0]}),
    }[kind]
    before = store.level(0).read()
    fails(dzv.InputError, "grid", lambda: write(store, positions=np.eye(3, dtype="f4"), mode="overwrite", **links))
    same(dzv.open(path).level(0).read().positions, before.positions)


BACKWARDS = pytest.mark.xfail(strict=False, reason="links between first rows of fragments are told the wrong way round")
EXACT = [
    pytest.param(*case, marks=[BACKWARDS] if case[1] == "skeleton_chunked_tips" else []) for case in THEIRS if case not in WRONG
]


@pytest.mark.parametrize(("generation", "name"), EXACT)
def test_we_read_what_it_writes(generation, name, exchange):
    path, truth, told = exchange.theirs(name)
    level = dzv.open(path).level(0)
    ours = level.read()
    check_ours(ours, truth, kind_of(path))
    if generation == "0.9":
        assert "sharded" not in name or "0/vertices" in told["shards"]
        assert level.kind not in ("graph", "mesh") or level.links().directed == truth.directed
    elif truth.lengths is not None:
        same(level.read(objects=[1, 3]).positions, truth.positions[np.isin(truth.owners, [1, 3])])
    if (generation, name) in VALID and truth.lengths is not None:
        same(exchange.read(path)[0]["positions"], ours.positions)


@pytest.mark.parametrize("name", ["lines", "polylines", "graph_objects", "mesh_objects", "skeletons", "graph_by_attribute"])
def test_we_read_some_objects_of_its(name, new):
    path, truth, _ = new.theirs(name)
    level = dzv.open(path).level(0)
    wanted = truth.index[[1, -1]].tolist()
    some = level.read(objects=wanted)
    mine, at = np.isin(truth.owners, wanted), rows_in(some.positions, truth.positions)
    assert sorted(at.tolist()) == np.flatnonzero(mine).tolist()
    same(some.object_ids, truth.owners[at])
    for key, values in truth.attributes.items():
        same(some.attributes[key], values[at], key)
    if truth.links is not None:
        kept = mine[truth.links].all(axis=1)
        assert kept.any()
        assert tuples(at[some.faces if level.kind == "mesh" else some.edges]) == tuples(truth.links[kept])


@pytest.mark.parametrize("name", ["graph", "graph_objects"])
def test_its_edges_across_chunks_have_no_attributes(name, old):
    """Its writer drops them (FORMAT.md J.1): masked is what they are, and every other edge has its own."""
    path, truth, _ = old.theirs(name)
    geometry = dzv.open(path).level(0).read()
    rows = input_rows(geometry.positions, truth)
    same_links(geometry.edges, {}, rows, Truth(truth.positions, links=truth.links))
    if truth.owners is not None:
        same(geometry.object_ids, truth.owners[rows])
    chunks = np.floor(truth.positions / np.array(chunk_of(3)))
    ours = rows[geometry.edges]
    crosses = (chunks[ours[:, 0]] != chunks[ours[:, 1]]).any(axis=1)
    assert 0 < crosses.sum() < len(crosses)
    assert set(geometry.edge_attributes) == set(truth.link_attributes)
    inside = (chunks[truth.links[:, 0]] == chunks[truth.links[:, 1]]).all(axis=1)
    for key, values in truth.link_attributes.items():
        own = geometry.edge_attributes[key]
        assert (np.ma.getmaskarray(own).reshape(len(own), -1) == crosses[:, None]).all()
        assert link_bag(ours[~crosses], {key: np.ma.getdata(own)[~crosses]}) == link_bag(
            truth.links[inside], {key: values[inside]}
        )


def test_its_edges_of_mixed_objects(old):
    """Its writer sorts a chunk's vertices by object, and numbers edges as if it had not (FORMAT.md J.1): we read its bytes."""
    path, truth, _ = old.theirs("graph_mixed")
    geometry = dzv.open(path).level(0).read()
    found, _ = old.read(path, whole=False)
    same(geometry.positions, found["positions"])
    assert tuples(geometry.edges) == tuples(found["links"])
    rows = input_rows(geometry.positions, truth)
    same(geometry.object_ids, truth.owners[rows])
    assert sorted(rows[geometry.edges].tolist()) != sorted(truth.links.tolist())


def test_its_meshes_of_several_objects(old):
    """All objects of a chunk name its one fragment (FORMAT.md J.1): whose a vertex is, only chunks of one object tell."""
    path, truth, _ = old.theirs("mesh_objects")
    geometry = dzv.open(path).level(0).read()
    rows = input_rows(geometry.positions, truth)
    same_links(geometry.faces, {}, rows, Truth(truth.positions, links=truth.links))
    for key, values in truth.attributes.items():
        same(geometry.attributes[key], values[rows])
    told = geometry.object_ids >= 0
    same(geometry.object_ids[told], truth.owners[rows][told])
    assert set(geometry.object_ids.tolist()) == {-2, 0, 1}


@pytest.mark.parametrize(("generation", "name"), [("0.9", "skeletons_mixed"), ("0.2", "skeleton"), ("0.2", "skeleton_2d")])
def test_trees_that_it_spoils(generation, name, exchange):
    """Its 0.2 reader finds a parent for the root, its 0.9 writer orders one of several trees only, so that the bytes give a root
    a parent (FORMAT.md G.4, J.1, J.2): then we read what the bytes say; every edge that went in is there."""
    path, truth, _ = exchange.theirs(name)
    ours = dzv.open(path).level(0).read()
    found, _ = exchange.read(path, whole=generation == "0.9")
    links, theirs = set(map(tuple, truth.links.tolist())), input_rows(found["positions"], truth)[found["links"]]
    extra = set(map(tuple, theirs.tolist())) - links
    assert {child for child, _ in extra} <= set(range(len(truth.positions))) - set(truth.links[:, 0].tolist())
    if generation == "0.2":
        assert (ours.parents < 0).sum() == 1
    else:
        same(found["positions"], ours.positions)
        same(found["links"], ours.edges)
        assert links < set(map(tuple, input_rows(ours.positions, truth)[ours.edges].tolist()))


@pytest.mark.parametrize("name", BUILT)
def test_families_of_links(name, new):
    """Every policy, whole or appended to: each record as it went in, with its attributes; its reader gives copies of some."""
    path, truth, _ = new.theirs(name)
    level = dzv.open(path).level(0)
    links, at = level.links(), stored_rows(level, truth)
    assert link_bag([[at[end] for end in record] for record in records_of(links)], links.attributes) == link_bag(
        truth.links, truth.link_attributes
    )
    assert links.directed == ("directed" in name)
    found, told = new.read(path)
    assert told["store"] == ("duplicate" if "duplicate" in name else "canonical")
    assert told["counts"]["num_links"] == len(truth.links)
    if "duplicate" in name:
        assert len(found["links"]) > len(truth.links)
        theirs, first = np.unique(input_rows(found["positions"], truth)[found["links"]], axis=0, return_index=True)
        own = {k.removeprefix("eattr__"): v[first] for k, v in found.items() if k.startswith("eattr__")}
        assert link_bag(theirs, own) == link_bag(truth.links, truth.link_attributes)


def test_segments_of_a_chunked_skeleton(new):
    """Its reader of one segment leaves out the links between chunks; the rest is ours."""
    path, truth, _ = new.theirs("skeleton_chunked")
    level = dzv.open(path).level(0)
    for number, segment in enumerate((11, 42)):
        ours = level.read(objects=[number])
        found, told = new.peer.arrays("segment", path=path, segment_id=segment)
        assert told["fragments"] > 3
        assert len(found["positions"]) == len(ours) == (truth.owners == number).sum()
        same(np.sort(found["attr__radius"]), np.sort(ours.attributes["radius"]))
        assert len(ours.edges) == len(ours) - 1
        assert len(found["edges"]) == len(ours) - 3  # it has three chunks
        np.testing.assert_array_equal(np.unique(found["positions"], axis=0), np.unique(ours.positions.astype("f4"), axis=0))


@pytest.mark.parametrize(("generation", "name"), PYRAMIDS)
def test_coarser_levels(generation, name, exchange):
    path, _, _ = exchange.theirs(name)
    store = dzv.open(path)
    assert store.levels == (0, 1, 2)
    for number in (1, 2):
        found, told = exchange.read(path, level=number, whole=generation == "0.9")
        level = store.level(number)
        geometry = level.read()
        same(geometry.positions, found["positions"])
        if generation == "0.2":
            same(level.read(order="chunk").positions, found["by_chunk"])
            up, down = store.level(number - 1).links(1), level.links(-1)
            # none from where no vertex is left
            assert 0 < len(up) == len(down) <= store.level(number - 1).metadata.vertex_count
            assert sorted(records_of(up)) == sorted(r[::-1] for r in records_of(down))
            continue
        assert level.metadata.vertex_count == told["vertex_count"]
        if name == "polylines_pyramid":
            some = geometry.lengths > 0
            assert geometry.ids[some].tolist() == told["ids"]
            same(geometry.lengths[some], found["lengths"])
            absent = np.ma.getmaskarray(geometry.object_attributes["score"])
            assert absent.tolist() == (~found["present__score"]).tolist()


@pytest.mark.parametrize("name", [n for g, n in PYRAMIDS if g == "0.9"])
def test_links_between_levels(name, new):
    path, _, _ = new.theirs(name)
    store = dzv.open(path)
    steps = [(0, 1), (1, 1), (1, -1), (2, -1)]
    if name == "mesh_pyramid":
        steps += [(0, 2), (2, -2)]
    if name == "skeleton_pyramid":
        steps = steps[:2]
        fails(dzv.NotFoundError, None, lambda: store.level(1).links(-1))
    for number, delta in steps:
        found, told = new.peer.arrays("cross_level", path=path, level=number, delta=delta)
        ours = store.level(number).links(delta)
        assert ours.directed == told["directed"] is True
        theirs = np.concatenate([found["chunks"].reshape(len(found["rows"]), -1), found["rows"]], axis=1)
        mine = np.concatenate([ours.chunks.reshape(len(ours), -1), ours.rows], axis=1)
        assert tuples(mine) == tuples(theirs)
        assert len(mine) == store.level(number if delta > 0 else number + delta).metadata.vertex_count
