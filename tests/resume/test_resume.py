"""Writes that stop in the middle and are begun again: nothing that is whole is written twice, and the result is the same."""

from __future__ import annotations

import json
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
from points_reference import CATALOG, files, stored

import dask_zv as dzv

N = 4000
CHUNK = (20.0, 20.0, 20.0)
JOURNAL = "0/dask_zv_journal"


@pytest.fixture(autouse=True)
def small_blocks(override):
    override(write_block_bytes=(4000, 8000))


def points(seed=0):
    return np.random.default_rng(seed).uniform(0, 100, (N, 3)).astype(np.float32)


class PowerCutError(Exception):
    pass


def given(name, seed=0):
    """Return (geometry, function, arguments) of a write of each kind."""
    where = da.from_array(points(seed), chunks=(500, 3))
    rows = da.arange(N, chunks=500)
    return {
        "points": ("point_cloud", dzv.write_points, {"positions": where, "attributes": {"row": rows}}),
        "objects": (
            "point_cloud",
            dzv.write_points,
            {"positions": where, "object_ids": rows % 7, "object_attributes": {"a": np.arange(7.0)}, "groups": {0: [1, 2]}},
        ),
        "strings": (
            "point_cloud",
            dzv.write_points,
            {"positions": where, "attributes": {"s": da.from_array(np.array(["x", "y", None], object)[np.arange(N) % 3], 500)}},
        ),
        "polylines": ("streamline", dzv.write_polylines, {"positions": points(seed), "lengths": np.full(40, 100)}),
        "skeletons": (
            "skeleton",
            dzv.write_skeletons,
            {"positions": points(seed), "parents": np.arange(N) - 1, "object_ids": np.zeros(N, np.int64)},
        ),
        "graph": (
            "graph",
            dzv.write_graph,
            {
                "positions": points(seed),
                "edges": np.stack([np.arange(500), np.arange(500) + 7], 1),
                "edge_attributes": {"w": np.arange(500.0)},
            },
        ),
        "mesh": ("mesh", dzv.write_meshes, {"positions": points(seed), "faces": np.arange(600).reshape(200, 3)}),
    }[name]


@pytest.fixture
def interrupt(monkeypatch):
    """Return a function that makes the n-th block from now on fail before it is stored; with None none does."""
    from dask_zv.graph import tasks as graph

    state = {"left": None, "stored": []}
    store = graph.store_block

    def failing(spec, payload):
        if state["left"] is not None:
            if state["left"] == 0:
                raise PowerCutError("power cut")
            state["left"] -= 1
        result = store(spec, payload)
        state["stored"].append(result.receipt.coords.tolist())
        return result

    monkeypatch.setattr(graph, "store_block", failing)

    def begin(after):
        state["left"] = after
        state["stored"] = []
        return state

    return begin


def blocks_of(journal):
    return len(json.loads((journal / "zarr.json").read_text())["attributes"]["block_starts"])


def comparable(target):
    """Return every file but those that hold times of change or the store's own name."""
    found = stored(target)
    root = json.loads(found.pop("zarr.json"))
    root["attributes"].pop("multiscales", None)
    root["attributes"].pop("ome", None)
    return found, {k: v for k, v in root["attributes"].items() if k not in ("zarr_vectors", "name")}


def create(target, geometry, layout="grid", **more):
    return dzv.create(target, geometry=geometry, chunk_shape=CHUNK, layout=layout, **more)


LAYOUTS = [("grid", "auto"), ("grid", 8), ("per_chunk", 1), ("per_chunk", 8)]
KINDS = ["points", "objects", "strings", "polylines", "skeletons", "graph", "mesh"]
CASES = [
    *(("points", *where) for where in LAYOUTS),
    ("objects", "per_chunk", 1),
    ("objects", "grid", 8),
    ("strings", "grid", "auto"),
    ("polylines", "grid", 8),
    ("polylines", "per_chunk", 1),
    ("skeletons", "grid", "auto"),
    ("graph", "grid", 8),
    ("mesh", "grid", "auto"),
]


@pytest.mark.product(keep="values")
@pytest.mark.parametrize(("kind", "layout", "shards"), CASES)
@pytest.mark.parametrize("after", [0, 3])
def test_finishes_what_was_begun(kind, layout, shards, after, interrupt, tmp_path):
    geometry, write, arguments = given(kind)
    with dask.config.set(scheduler="sync"):
        write(create(tmp_path / "whole" / "s.zv", geometry, layout, shard_chunks=shards), **arguments, resume=True)
        store = create(tmp_path / "s.zv", geometry, layout, shard_chunks=shards)
        interrupt(after)
        with pytest.raises(PowerCutError, match="power cut"):
            write(store, **arguments, resume=True)
        journal = tmp_path / "s.zv" / JOURNAL
        assert blocks_of(journal) > 4
        noted = sorted(p.name for p in journal.glob("c/*"))
        assert len(noted) == after
        kept = {k: v for k, v in times(tmp_path / "s.zv").items() if "/c/" in k and JOURNAL not in k}
        told = interrupt(None)
        report = write(store, **arguments, resume=True)
    assert report.rows == N
    vertices = [t for t in report.log().itertuples() if t.kind == "vertices"]
    assert len(vertices) == len({t.block for t in vertices})
    assert len([1 for t in report.times if t.kind == "vertices"]) == len(vertices)
    links = len([1 for t in report.times if t.kind != "vertices"])
    assert len(told["stored"]) == len(vertices) - after + links
    now = times(tmp_path / "s.zv")
    if shards == "auto" or after == 0 or layout == "grid":  # objects of finished blocks are the very files
        assert {k: now[k] for k in kept} == kept
    assert comparable(tmp_path / "s.zv") == comparable(tmp_path / "whole" / "s.zv")
    assert not journal.exists()


def times(target):
    return {p.relative_to(target).as_posix(): p.stat().st_mtime_ns for p in Path(target).rglob("*") if p.is_file()}


@pytest.mark.parametrize("kind", KINDS)
def test_done_already(kind, interrupt, tmp_path):
    """The client died after the commit: the same call finds the write done, and stores nothing."""
    geometry, write, arguments = given(kind)
    store = create(tmp_path / "s.zv", geometry)
    first = write(store, **arguments, resume=True)
    before = times(tmp_path / "s.zv")
    told = interrupt(None)
    again = write(store, **arguments, resume=True)
    assert (again.rows, again.chunks, again.objects, again.blocks) == (first.rows, first.chunks, first.objects, 0)
    assert told["stored"] == []
    assert times(tmp_path / "s.zv") == before
    assert write(store, **arguments, resume=True, compute=False).compute().rows == N


def change(what):
    """Return what a second call is given in place of the first's arguments."""
    _, write, arguments = given("points")
    if what == "a position":
        moved = points()
        moved[17, 2] += 1e-3
        arguments["positions"] = da.from_array(moved, chunks=(500, 3))
    elif what == "an attribute":
        arguments["attributes"] = {"row": da.arange(1, N + 1, chunks=500)}
    elif what == "a name":
        arguments["attributes"] = {"rows": arguments["attributes"]["row"]}
    elif what == "another attribute":
        arguments["attributes"] = {**arguments["attributes"], "more": da.zeros(N, chunks=500)}
    elif what == "the partitions":
        arguments = {"positions": da.from_array(points(), chunks=(700, 3)), "attributes": {"row": da.arange(N, chunks=700)}}
    elif what == "fewer rows":
        arguments = {"positions": arguments["positions"][:-500], "attributes": {"row": da.arange(N - 500, chunks=500)}}
    elif what == "objects":
        arguments["object_ids"] = da.zeros(N, chunks=500, dtype=np.int64)
    return write, arguments


CHANGES = ["a position", "an attribute", "a name", "another attribute", "the partitions", "fewer rows", "objects"]


@pytest.mark.parametrize("what", CHANGES)
def test_what_has_changed_is_refused(what, interrupt, tmp_path):
    geometry, write, arguments = given("points")
    store = create(tmp_path / "s.zv", geometry)
    interrupt(3)
    with dask.config.set(scheduler="sync"):
        with pytest.raises(PowerCutError):
            write(store, **arguments, resume=True)
        interrupt(None)
        before = files(tmp_path / "s.zv")
        other, changed = change(what)
        with pytest.raises(dzv.PlanError, match="unfinished write of other data.*mode='overwrite'"):
            other(store, **changed, resume=True)
        assert files(tmp_path / "s.zv") == before
        other(store, **changed, mode="overwrite")  # as it is told to
        assert store.level(0).metadata.vertex_count == (N - 500 if what == "fewer rows" else N)
        assert not (tmp_path / "s.zv" / JOURNAL).exists()


def test_other_chunks_are_refused(interrupt, tmp_path):
    """The store was made anew with another chunk shape between the two calls, over what the first had left."""
    geometry, write, arguments = given("points")
    with dask.config.set(scheduler="sync"):
        store = create(tmp_path / "s.zv", geometry)
        interrupt(3)
        with pytest.raises(PowerCutError):
            write(store, **arguments, resume=True)
        document = tmp_path / "s.zv" / "zarr.json"
        document.write_text(document.read_text().replace("20.0", "10.0"))
        interrupt(None)
        with pytest.raises(dzv.PlanError, match="unfinished write"):
            write(dzv.open(tmp_path / "s.zv", mode="r+"), **arguments, resume=True)


@pytest.mark.parametrize("changed", ["edges", "edge_attributes", "groups", "object_attributes"])
def test_what_is_beside_the_vertices_counts(changed, interrupt, tmp_path):
    kind = "graph" if changed.startswith("edge") else "objects"
    geometry, write, arguments = given(kind)
    store = create(tmp_path / "s.zv", geometry)
    with dask.config.set(scheduler="sync"):
        interrupt(3)
        with pytest.raises(PowerCutError):
            write(store, **arguments, resume=True)
        interrupt(None)
        other = {
            "edges": arguments.get("edges", np.zeros(0)) + 1,
            "edge_attributes": {"w": np.arange(500.0) + 1},
            "groups": {0: [1, 3]},
            "object_attributes": {"a": np.arange(7.0) + 1},
        }[changed]
        with pytest.raises(dzv.PlanError, match="unfinished write"):
            write(store, **{**arguments, changed: other}, resume=True)


def harm(target, what):
    """Harm what an interrupted write has left; return how many of its blocks are no longer whole."""
    cells = sorted((target / JOURNAL / "c").iterdir())
    data = sorted(p for p in target.glob("0/vertices/c/**/*") if p.is_file())
    if what == "a receipt is lost":
        cells[0].unlink()
    elif what == "a receipt is cut":
        cells[0].write_bytes(cells[0].read_bytes()[:-9])
    elif what == "a receipt is another's":
        cells[0].write_bytes(cells[1].read_bytes())
    elif what == "a receipt is noise":
        cells[0].write_bytes(b"\x00" * 100)
    elif what == "an object is lost":
        data[0].unlink()
    elif what == "an object is cut":
        data[0].write_bytes(data[0].read_bytes()[:-1])
    elif what == "an object is another's":
        data[0].write_bytes(b"x" * data[0].stat().st_size)
    return 1


HARMS = [
    *(f"a receipt is {w}" for w in ("lost", "cut", "another's", "noise")),
    *(f"an object is {w}" for w in ("lost", "cut", "another's")),
]


@pytest.mark.parametrize("what", HARMS)
def test_what_is_not_whole_is_written_again(what, interrupt, tmp_path):
    geometry, write, arguments = given("points")
    with dask.config.set(scheduler="sync"):
        write(create(tmp_path / "whole" / "s.zv", geometry), **arguments, resume=True)
        store = create(tmp_path / "s.zv", geometry)
        interrupt(3)
        with pytest.raises(PowerCutError):
            write(store, **arguments, resume=True)
        again = harm(tmp_path / "s.zv", what)
        told = interrupt(None)
        report = write(store, **arguments, resume=True)
    assert len(told["stored"]) == report.blocks - 3 + again
    assert comparable(tmp_path / "s.zv") == comparable(tmp_path / "whole" / "s.zv")


def test_a_journal_that_cannot_be_read(interrupt, tmp_path):
    geometry, write, arguments = given("points")
    store = create(tmp_path / "s.zv", geometry)
    with dask.config.set(scheduler="sync"):
        interrupt(2)
        with pytest.raises(PowerCutError):
            write(store, **arguments, resume=True)
        interrupt(None)
        document = tmp_path / "s.zv" / JOURNAL / "zarr.json"
        document.write_text(document.read_text().replace('"block_starts":[0', '"block_starts":["a"'))
        with pytest.raises(dzv.FormatError, match="dask_zv_journal"):
            write(store, **arguments, resume=True)


def test_a_level_that_another_write_has_filled(tmp_path):
    geometry, write, arguments = given("points")
    store = create(tmp_path / "s.zv", geometry)
    write(store, **given("points", seed=1)[2])
    before = files(tmp_path / "s.zv")
    with pytest.raises(dzv.StoreError, match="has 4,000 vertices already"):
        write(store, **arguments, resume=True)
    assert files(tmp_path / "s.zv") == before


def test_an_overwrite_that_is_resumed(interrupt, tmp_path):
    geometry, write, arguments = given("points")
    with dask.config.set(scheduler="sync"):
        store = create(tmp_path / "s.zv", geometry)
        write(store, **given("points", seed=1)[2])
        interrupt(3)
        with pytest.raises(PowerCutError):
            write(store, **arguments, resume=True, mode="overwrite")
        told = interrupt(None)
        report = write(store, **arguments, resume=True, mode="overwrite")
        assert len(told["stored"]) == report.blocks - 3
        # a second time: it is done
        assert write(store, **arguments, resume=True, mode="overwrite").blocks == 0
        order = np.argsort(store.level(0).read().attributes["row"])
    assert (store.level(0).read().positions[order] == points()).all()
    assert not list((tmp_path / "s.zv" / "0").glob("dask_zv_replacing*"))


def test_resumed_elsewhere(interrupt, tmp_path, use_scheduler, override):
    """Begun on one thread, finished on a cluster with another idea of how large a block is."""
    geometry, write, arguments = given("objects")
    with dask.config.set(scheduler="sync"):
        write(create(tmp_path / "whole" / "s.zv", geometry), **arguments, resume=True)
        store = create(tmp_path / "s.zv", geometry)
        interrupt(3)
        with pytest.raises(PowerCutError):
            write(store, **arguments, resume=True)
    blocks = blocks_of(tmp_path / "s.zv" / JOURNAL)
    interrupt(None)
    override(write_block_bytes=(1 << 20, 32 << 20))
    with use_scheduler("distributed"):
        report = write(store, **arguments, resume=True)
    assert len([t for t in report.times if t.kind == "vertices"]) == blocks
    assert comparable(tmp_path / "s.zv") == comparable(tmp_path / "whole" / "s.zv")


def test_small_writes_keep_no_journal_unasked(tmp_path, interrupt):
    geometry, write, arguments = given("points")
    store = create(tmp_path / "s.zv", geometry)
    interrupt(3)
    with dask.config.set(scheduler="sync"), pytest.raises(PowerCutError):
        write(store, **arguments)
    assert not (tmp_path / "s.zv" / JOURNAL).exists()


def test_large_writes_keep_one_unasked(tmp_path, interrupt, override):

    override(journal_bytes=1000)
    geometry, write, arguments = given("points")
    store = create(tmp_path / "s.zv", geometry)
    with dask.config.set(scheduler="sync"):
        interrupt(3)
        with pytest.raises(PowerCutError):
            write(store, **arguments)
        told = interrupt(None)
        report = write(store, **arguments, resume=True)
    assert len(told["stored"]) == report.blocks - 3


def test_lazily(tmp_path, interrupt):
    """With compute=False the blocks that are there already are left out of the graph."""
    geometry, write, arguments = given("points")
    store = create(tmp_path / "s.zv", geometry)
    with dask.config.set(scheduler="sync"):
        lazy = write(store, **arguments, resume=True, compute=False)
        assert not (tmp_path / "s.zv" / JOURNAL).exists()
        interrupt(3)
        with pytest.raises(PowerCutError):
            lazy.compute()
        told = interrupt(None)
        report = write(store, **arguments, resume=True, compute=False).compute()
    assert len(told["stored"]) == report.blocks - 3
    assert dzv.open(tmp_path / "s.zv").level(0).metadata.vertex_count == N


def test_zarr_reads_the_journal(tmp_path, interrupt):
    """Other tools that walk the level meet an array as any other."""
    import zarr

    geometry, write, arguments = given("points")
    store = create(tmp_path / "s.zv", geometry)
    interrupt(3)
    with dask.config.set(scheduler="sync"), pytest.raises(PowerCutError):
        write(store, **arguments, resume=True)
    journal = zarr.open_array(str(tmp_path / "s.zv" / JOURNAL), mode="r")
    cells = [bytes(c) for c in np.asarray(journal[:])]
    assert sum(c.startswith(b"DZVR") for c in cells) == 3
    assert dzv.open(tmp_path / "s.zv").level(0).metadata.vertex_count == 0
    assert CATALOG not in "".join(files(tmp_path / "s.zv"))
