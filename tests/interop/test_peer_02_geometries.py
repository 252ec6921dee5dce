"""Points with objects, lines, polylines and streamlines in layout per_chunk: the ZV 0.7 package reads them as they went in, and of
every geometry that it writes we read what its bytes say, which is what went in but where its writer is wrong.

Compared with what went in, not with each other. The package gets an environment of its own, made once and kept in the checkout.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import dask
import numpy as np
import pytest
from geometry_cases import Case, Truth, check_ours, check_paths, input_rows, line_truth, path_truth, row_of, same_links
from geometry_exchange import crossings, stored_rows
from geometry_inputs import chunk_of, lines, paths
from our_points import same
from test_peer_02 import run

import dask_zv as dzv
import peer_env

SCRIPT = Path(__file__).with_name("peer_02_geometries.py")
RECIPES = re.findall(r'^    "(\w+)":', SCRIPT.read_text(), re.M)
STALE = "0/vertex_group_offsets/ missing"
"""What its validator says of every level, its own included: it looks for an array of an older format."""


def dense(n):
    return np.random.default_rng(0).permutation(n)


def make_cases():
    plain, bins = {"layout": "per_chunk"}, {"layout": "per_chunk", "bin_shape": (20.0, 20.0, 40.0)}
    less = {"names": ("rgb",)}  # it reads chunk by chunk, array by array
    return {
        "lines": Case("line", line_truth(lines(1, count=20)), plain),
        "lines_packed": Case("line", line_truth(lines(2, count=10), dense(10), seed=1, **less), plain | {"shard_chunks": 20}),
        "lines_2d": Case("line", line_truth(lines(3, count=20, ndim=2, dtype="f8"), names=()), plain),
        "polylines": Case("polyline", path_truth(paths(10, count=10), seed=1), plain),
        "polylines_bins": Case("polyline", path_truth(paths(11, count=10, longest=25), dense(10), **less), bins),
        "polylines_packed": Case(
            "polyline", path_truth(paths(12, count=6, longest=20), names=("mass",)), bins | {"shard_chunks": 20}
        ),
        "polylines_2d": Case("polyline", path_truth(paths(13, count=12, ndim=2, dtype="f8"), **less), plain),
        "polylines_short": Case("polyline", path_truth(paths(14, count=10, shortest=0), **less), plain),
        "streamlines": Case("streamline", path_truth(paths(16, count=10), seed=2, **less), plain, how="lazy"),
    }


CASES = make_cases()
FRESH = {
    "line": Case("line", line_truth(lines(90, count=15), dense(15), names=("mass",))),
    "polyline": Case("polyline", path_truth(paths(91, count=10), dense(10), names=("mass",))),
}
FRESH["streamline"] = Case("streamline", FRESH["polyline"].truth)
PYRAMIDS = [n for n in RECIPES if n.endswith("pyramid")]
VALIDATED = ("lines", "polylines_bins")
"""Of its own stores: what it says of one of each kind that we write, too."""
WHOLE = ("polylines_bins",)
READ = ("lines", "polylines_bins", "graph_mixed", "mesh", "skeleton", "skeleton_2d")
OVERWRITTEN = ["lines_by_attribute", "polylines_by_attribute", "polylines_pyramid", "streamlines_octree"]


class Exchange:
    """Its stores, ours, ours on top of its, and what it reads of them: two runs of the package."""

    def __init__(self, root):
        python = peer_env.peer_python(*peer_env.PEER_02)
        self.theirs, self.ours, self.out = root / "theirs", root / "ours", root / "out"
        self.onto = root / "onto"
        for folder in (self.theirs, self.ours, self.out, self.onto):
            folder.mkdir()
        run(python, SCRIPT, "write", self.theirs, timeout=300)
        jobs = {}
        with dask.config.set(scheduler="threads", num_workers=2):
            for name, case in CASES.items():
                case.write(self.ours / name)
                jobs[f"ours_{name}"] = self.job(self.ours / name, case.truth)
            dzv.write_points(
                dzv.create(self.ours / "points", layout="per_chunk", chunk_shape=chunk_of(3)),
                CASES["polylines"].truth.positions,
                object_ids=CASES["polylines"].truth.owners,
            )
            jobs["ours_points"] = self.job(self.ours / "points", CASES["polylines"].truth) | {"attributes": {}, "groups": False}
            jobs["ours_points"]["object_attributes"] = []
            for name in OVERWRITTEN:
                shutil.copytree(self.theirs / name, self.onto / name)
                store = dzv.open(self.onto / name, mode="r+")
                case = FRESH[store.metadata.geometry_types[0]]
                case.write(self.onto / name, store=store, mode="overwrite", out_of_bounds="expand")
                jobs[f"onto_{name}"] = self.job(self.onto / name, case.truth)
        for name in ("lines", "polylines_bins"):
            shutil.copytree(self.ours / name, self.ours / f"{name}_pyramid")
            jobs[f"pyramid_{name}"] = {"path": str(self.ours / f"{name}_pyramid"), "level": 1, "pyramid": [[2.0, 1.0]]}
        for name in READ:
            jobs[f"theirs_{name}"] = {"path": str(self.theirs / name), "validate": name in VALIDATED, "whole": name in WHOLE}
        for name in PYRAMIDS:
            for level in (1, 2):
                job = {"path": str(self.theirs / name), "level": level, "validate": False, "whole": False}
                jobs[f"theirs_{name}_{level}"] = job
        told = {"version": peer_env.PEER_02[0].partition("==")[2], "out": str(self.out), "read": jobs}
        (root / "jobs.json").write_text(json.dumps(told))
        run(python, SCRIPT, "read", root / "jobs.json", timeout=300)

    @staticmethod
    def job(path, truth):
        return {
            "path": str(path),
            "attributes": {k: 1 if v.ndim == 1 else v.shape[1] for k, v in truth.attributes.items()},
            "object_attributes": [*truth.table],
            "groups": bool(truth.groups),
            "group_attributes": [*truth.group_attributes],
        }

    def found(self, name):
        with np.load(self.out / f"{name}.npz") as found:
            return dict(found), json.loads((self.out / f"{name}.json").read_text())

    def truth(self, name):
        with np.load(self.theirs / f"{name}.npz") as found:
            return Truth.of(dict(found))


@pytest.fixture(scope="module")
def exchange(tmp_path_factory):
    return Exchange(tmp_path_factory.mktemp("peer_02"))


@pytest.fixture(autouse=True)
def few_threads():
    with dask.config.set(scheduler="threads", num_workers=2):
        yield


# -------------------------------------------------------------------------------------------------- it reads ours


def check_theirs(found, told, truth, kind, level):
    assert told["kind"] == kind
    order = np.sort(truth.ids[truth.lengths > 0])
    check_paths(found["positions"], found["lengths"], order, {}, truth)
    rows = input_rows(found["by_chunk"], truth)
    for name, values in truth.attributes.items():
        same(found[f"attr__{name}"].reshape(values.shape), values[rows], name)
    same(found["by_object"], found["positions"])
    assert len(told["manifests"]) == len(truth.ids)
    for name, values in truth.table.items():
        same(found[f"oattr__{name}"].reshape(values.shape), values, name)
    if truth.groups:
        assert told["groups"] == [sorted(truth.groups.get(g, [])) for g in range(max(truth.groups) + 1)]
    if truth.groups and kind != "line":
        mine = np.isin(np.repeat(truth.ids, truth.lengths), truth.groups[0])
        assert sorted(map(tuple, found["of_group"].tolist())) == sorted(map(tuple, truth.positions[mine].tolist()))
    for name, values in truth.group_attributes.items():
        same(found[f"gattr__{name}"], values, name)
    check_crossing(told, truth, level)
    assert told["errors"] == []
    # it takes every vertex for float32, and finds NaN in halves of float64 numbers
    told = [w for w in told["warnings"] if not (truth.positions.dtype == "f8" and w.endswith("NaN/Inf"))]
    assert {w.partition("/")[2] for w in told} == {STALE.partition("/")[2]}


def check_crossing(told, truth, level):
    """A link for each step from chunk to chunk, in the order of the paths, with the rows that its own writer leaves out."""
    at = stored_rows(level, truth)
    chunk = {row: key[0] for key, row in at.items()}
    expected = sorted((a, b) for a, b in crossings(truth) if chunk[a] != chunk[b])
    links = [tuple(at[tuple(c), v] for c, v in record) for record in told["crossing"]]
    assert sorted(links) == expected
    assert expected


@pytest.mark.parametrize("name", CASES)
def test_it_reads_what_we_write(name, exchange):
    found, told = exchange.found(f"ours_{name}")
    case = CASES[name]
    level = dzv.open(exchange.ours / name).level(0)
    check_ours(level.read(), case.truth, case.kind)
    check_theirs(found, told, case.truth, case.kind, level)
    assert told["chunks"] == level.chunks.coords.tolist()
    assert told["bins"] == ([2, 3, 3] if "bin_shape" in case.creation else [1] * case.ndim)


def test_it_cuts_paths_at_bins_as_we_do(exchange):
    """Its pieces end where a bin ends: ours, too, so that whoever goes by its pieces finds them."""
    bins = np.array([20.0, 20.0, 40.0])
    for manifests, truth in (
        (exchange.found("ours_polylines_bins")[1]["manifests"], CASES["polylines_bins"].truth),
        (exchange.found("theirs_polylines_bins")[1]["manifests"], exchange.truth("polylines_bins")),
    ):
        starts = np.concatenate([[0], np.cumsum(truth.lengths)])
        for i, oid in enumerate(truth.ids.tolist()):
            cell = np.floor(truth.positions[starts[i] : starts[i + 1]] / bins)
            assert len(manifests[oid]) == 1 + (cell[1:] != cell[:-1]).any(axis=1).sum()


def test_it_reads_objects_of_points(exchange):
    found, told = exchange.found("ours_points")
    truth = CASES["polylines"].truth
    rows = input_rows(found["by_object"], truth)
    assert truth.owners[rows].tolist() == np.sort(truth.owners).tolist()
    assert len(told["manifests"]) == len(truth.ids)
    assert told["errors"] == []


@pytest.mark.parametrize("name", ["lines", "polylines_bins"])
def test_pyramids_that_it_builds_on_ours(name, exchange):
    found, told = exchange.found(f"pyramid_{name}")
    assert told["levels"] == [0, 1]
    assert told["errors"] == []
    store = dzv.open(exchange.ours / f"{name}_pyramid")
    check_ours(store.level(0).read(), CASES[name].truth, CASES[name].kind)
    coarse = store.level(1).read()
    if name != "lines":  # whose both ends may fall on one vertex, and are then no line to its reader
        same(coarse.positions, found["positions"])
    same(store.level(1).read(order="chunk").positions, found["by_chunk"])
    assert len(store.level(0).links(1)) == len(store.level(1).links(-1)) == len(CASES[name].truth.positions)


@pytest.mark.parametrize("name", OVERWRITTEN)
def test_what_we_write_onto_its_stores_is_ours_alone(name, exchange):
    """No link, no chunk key of an attribute, no shard of before."""
    found, told = exchange.found(f"onto_{name}")
    store = dzv.open(exchange.onto / name)
    case = FRESH[store.metadata.geometry_types[0]]
    check_ours(store.level(0).read(), case.truth, case.kind)
    check_theirs(found, told, case.truth, case.kind, store.level(0))
    assert {len(c) for c in told["chunks"]} == {3}
    if name.endswith("pyramid"):
        with pytest.raises(dzv.NotFoundError):
            store.level(0).links(1)
        with pytest.raises(dzv.NotFoundError):
            store.level(1).links(-1)


@pytest.mark.parametrize("kind", ["graph", "mesh", "skeleton"])
def test_what_that_format_cannot_hold_is_refused(kind, exchange, tmp_path):
    with pytest.raises(dzv.InputError, match="grid"):
        dzv.create(tmp_path / "s.zv", geometry=kind, chunk_shape=(1, 1), layout="per_chunk")
    store = dzv.open(exchange.theirs / kind, mode="r+")
    writes = {
        "graph": lambda **more: dzv.write_graph(store, edges=[[0, 1]], **more),
        "mesh": lambda **more: dzv.write_meshes(store, faces=[[0, 1, 2]], **more),
        "skeleton": lambda **more: dzv.write_skeletons(store, parents=[-1, 0, 0], **more),
    }
    before = store.level(0).read()
    with pytest.raises(dzv.InputError, match="grid"):
        writes[kind](positions=np.eye(3, dtype="f4"), mode="overwrite")
    same(dzv.open(exchange.theirs / kind).level(0).read().positions, before.positions)


# -------------------------------------------------------------------------------------------------- we read its


def check_its(exchange, name):
    truth = exchange.truth(name)
    level = dzv.open(exchange.theirs / name).level(0)
    check_ours(level.read(), truth, level.kind)
    return level, truth


@pytest.mark.parametrize("name", [n for n in RECIPES if n not in ("graph", "graph_objects", "graph_mixed", "mesh_objects")])
def test_we_read_what_it_writes(name, exchange):
    level, truth = check_its(exchange, name)
    if name in VALIDATED:
        found, told = exchange.found(f"theirs_{name}")
        same(found["positions"], level.read().positions)
        assert told["errors"] == []
        assert told["warnings"] == [STALE]
    if truth.lengths is not None:
        some = level.read(objects=[1, 3])
        same(some.positions, truth.positions[np.isin(truth.owners, [1, 3])])


@pytest.mark.parametrize("name", ["graph", "graph_objects"])
def test_its_edges_across_chunks_have_no_attributes(name, exchange):
    """Its writer drops them (FORMAT.md J.1): masked is what they are, and every other edge has its own."""
    truth = exchange.truth(name)
    level = dzv.open(exchange.theirs / name).level(0)
    geometry = level.read()
    rows = input_rows(geometry.positions, truth)
    same_links(geometry.edges, {}, rows, Truth(truth.positions, links=truth.links))
    if truth.owners is not None:
        same(geometry.object_ids, truth.owners[rows])
    chunks = np.floor(truth.positions / np.array(chunk_of(3)))
    ours = rows[geometry.edges]
    crosses = (chunks[ours[:, 0]] != chunks[ours[:, 1]]).any(axis=1)
    assert 0 < crosses.sum() < len(crosses)
    assert set(geometry.edge_attributes) == set(truth.link_attributes)
    for key, values in truth.link_attributes.items():
        own = geometry.edge_attributes[key]
        masked = np.ma.getmaskarray(own).reshape(len(own), -1)
        assert (masked == crosses[:, None]).all()
        mine = sorted(map(repr, zip(ours[~crosses].tolist(), np.ma.getdata(own)[~crosses].tolist(), strict=True)))
        inside = (chunks[truth.links[:, 0]] == chunks[truth.links[:, 1]]).all(axis=1)
        assert mine == sorted(map(repr, zip(truth.links[inside].tolist(), values[inside].tolist(), strict=True)))


def test_its_edges_of_mixed_objects(exchange):
    """Its writer sorts a chunk's vertices by object and numbers edges as if it had not (FORMAT.md J.1): we read its bytes, as it
    does, and the vertices are right."""
    truth = exchange.truth("graph_mixed")
    geometry = dzv.open(exchange.theirs / "graph_mixed").level(0).read()
    found, _ = exchange.found("theirs_graph_mixed")
    same(geometry.positions, found["positions"])
    assert sorted(map(tuple, geometry.edges.tolist())) == sorted(map(tuple, found["links"].tolist()))
    rows = input_rows(geometry.positions, truth)
    same(geometry.object_ids, truth.owners[rows])
    assert sorted(rows[geometry.edges].tolist()) != sorted(truth.links.tolist())


def test_its_meshes_of_several_objects(exchange):
    """All objects of a chunk name its one fragment (FORMAT.md J.1): whose a vertex is, only chunks of one object tell."""
    truth = exchange.truth("mesh_objects")
    geometry = dzv.open(exchange.theirs / "mesh_objects").level(0).read()
    rows = input_rows(geometry.positions, truth)
    same_links(geometry.faces, {}, rows, Truth(truth.positions, links=truth.links))
    for key, values in truth.attributes.items():
        same(geometry.attributes[key], values[rows])
    told = geometry.object_ids >= 0
    same(geometry.object_ids[told], truth.owners[rows][told])
    assert set(geometry.object_ids.tolist()) == {-2, 0, 1}


@pytest.mark.parametrize("name", ["skeleton", "skeleton_2d"])
def test_its_reader_of_skeletons_finds_a_parent_for_the_root(name, exchange):
    """Which the rule at the first rows of fragments does not: ours is the tree that went in (FORMAT.md G.4, J.1)."""
    level, truth = check_its(exchange, name)
    found, _ = exchange.found(f"theirs_{name}")
    rows = row_of(truth.positions)
    at = np.array([rows[p.tobytes()] for p in found["positions"]])
    extra = set(map(tuple, at[found["links"]].tolist())) - set(map(tuple, truth.links.tolist()))
    assert {child for child, _ in extra} <= {int(i) for i in range(len(truth.positions)) if i not in truth.links[:, 0]}
    assert (level.read().parents < 0).sum() == 1


@pytest.mark.parametrize("name", PYRAMIDS)
def test_coarser_levels_of_its_stores(name, exchange):
    store = dzv.open(exchange.theirs / name)
    assert store.levels == (0, 1, 2)
    for number in (1, 2):
        found, _ = exchange.found(f"theirs_{name}_{number}")
        coarse = store.level(number)
        same(coarse.read().positions, found["positions"])
        same(coarse.read(order="chunk").positions, found["by_chunk"])
        up = store.level(number - 1).links(1)
        down = coarse.links(-1)
        assert 0 < len(up) == len(down) <= store.level(number - 1).metadata.vertex_count  # none from where no vertex is left
        one = np.concatenate([up.chunks.reshape(len(up), -1), up.rows], axis=1)
        back = np.concatenate([down.chunks[:, ::-1].reshape(len(up), -1), down.rows[:, ::-1]], axis=1)
        assert sorted(one.tolist()) == sorted(back.tolist())
