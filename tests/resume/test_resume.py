"""Writes that stop in the middle and are begun again: nothing that is whole is written twice, and the result is the same."""

import json
from functools import partial

import numpy as np
import pytest
import zarr
from points_reference import CATALOG, files
from small import always, sizes
from writes import ROW, N, comparable, create, given, lazily, points

import dask_zv as dzv

JOURNAL = "0/dask_zv_journal"

_small = always(scheduler="sync", write_block_bytes=(4000, 8000))


class PowerCutError(Exception):
    pass


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
        state.update(left=after, stored=[])
        return state

    return begin


def verb(kind, seed=0):
    """Return the geometry, a function that writes and resumes, and its arguments."""
    geometry, name, arguments = given(kind, seed)
    return geometry, partial(getattr(dzv, f"write_{name}"), resume=True), arguments


def cut(interrupt, after, write, store, **arguments):
    """Begin a write that fails after some blocks; return the state of what comes then."""
    interrupt(after)
    with pytest.raises(PowerCutError, match="power cut"):
        write(store, **arguments)
    return interrupt(None)


@pytest.fixture
def begun(interrupt, tmp_path):
    """Return a function that begins a write that fails after some blocks: (the state of what comes, write, store, arguments)."""

    def begin(kind="points", after=3, **options):
        geometry, write, arguments = verb(kind)
        store = create(tmp_path / "s.zv", geometry, **options)
        return cut(interrupt, after, write, store, **arguments), write, store, arguments

    return begin


@pytest.fixture
def whole(tmp_path):
    """Return a function that gives what a write that was not interrupted stores."""

    def store(kind="points", **options):
        geometry, write, arguments = verb(kind)
        write(create(tmp_path / "whole" / "s.zv", geometry, **options), **arguments)
        return comparable(tmp_path / "whole" / "s.zv")

    return store


def blocks_of(journal):
    return len(json.loads((journal / "zarr.json").read_text())["attributes"]["block_starts"])


def times(target):
    return {p.relative_to(target).as_posix(): p.stat().st_mtime_ns for p in target.rglob("*") if p.is_file()}


CASES = [
    *(("points", *where) for where in (("grid", "auto"), ("grid", 8), ("per_chunk", 1), ("per_chunk", 8))),
    ("objects", "per_chunk", 1),
    ("objects", "grid", 8),
    ("strings", "grid", "auto"),
    ("streamline", "grid", 8),
    ("streamline", "per_chunk", 1),
    ("skeleton", "grid", "auto"),
    ("graph", "grid", 8),
    ("mesh", "grid", "auto"),
]


@pytest.mark.product(keep="values")
@pytest.mark.parametrize(("kind", "layout", "shards"), CASES)
@pytest.mark.parametrize("after", [0, 3])
def test_finishes_what_was_begun(kind, layout, shards, after, begun, whole, tmp_path):
    wanted, target = whole(kind, layout=layout, shard_chunks=shards), tmp_path / "s.zv"
    told, write, store, arguments = begun(kind, after, layout=layout, shard_chunks=shards)
    journal = target / JOURNAL
    assert blocks_of(journal) > 4
    assert len(list(journal.glob("c/*"))) == after
    kept = {k: v for k, v in times(target).items() if "/c/" in k and JOURNAL not in k}
    report = write(store, **arguments)
    assert report.rows == N
    vertices = [t for t in report.log().itertuples() if t.kind == "vertices"]
    assert len(vertices) == len({t.block for t in vertices})
    assert len(told["stored"]) == len(report.times) - after
    if shards == "auto" or after == 0 or layout == "grid":  # objects of finished blocks are the very files
        now = times(target)
        assert {k: now[k] for k in kept} == kept
    assert comparable(target) == wanted
    assert not journal.exists()


@pytest.mark.parametrize("kind", ["points", "objects", "strings", "streamline", "skeleton", "graph", "mesh"])
def test_done_already(kind, interrupt, tmp_path):
    """The client died after the commit: the same call finds the write done, and stores nothing."""
    geometry, write, arguments = verb(kind)
    store = create(tmp_path / "s.zv", geometry)
    first = write(store, **arguments)
    before = times(tmp_path / "s.zv")
    told = interrupt(None)
    again = write(store, **arguments)
    assert (again.rows, again.chunks, again.objects, again.blocks) == (first.rows, first.chunks, first.objects, 0)
    assert told["stored"] == []
    assert times(tmp_path / "s.zv") == before
    assert write(store, **arguments, compute=False).compute().rows == N


CHANGES = {  # what a second call is given in place of the first's arguments
    "a position": lambda: {"positions": lazily(points() + np.float32(1e-3) * (ROW == 17)[:, None])},
    "an attribute": lambda: {"attributes": {"row": lazily(ROW + 1)}},
    "a name": lambda: {"attributes": {"rows": lazily(ROW)}},
    "another attribute": lambda: {"attributes": {"row": lazily(ROW), "more": lazily(np.zeros(N))}},
    "the partitions": lambda: {"positions": lazily(points(), 700), "attributes": {"row": lazily(ROW, 700)}},
    "fewer rows": lambda: {"positions": lazily(points()[:-500]), "attributes": {"row": lazily(ROW[:-500])}},
    "objects": lambda: {"object_ids": lazily(ROW * 0)},
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_has_changed_is_refused(what, begun, tmp_path):
    _, write, store, arguments = begun()
    before, changed = files(tmp_path / "s.zv"), {**arguments, **CHANGES[what]()}
    with pytest.raises(dzv.PlanError, match="unfinished write of other data.*mode='overwrite'"):
        write(store, **changed)
    assert files(tmp_path / "s.zv") == before
    dzv.write_points(store, **changed, mode="overwrite")  # as it is told to
    assert store.level(0).metadata.vertex_count == (N - 500 if what == "fewer rows" else N)
    assert not (tmp_path / "s.zv" / JOURNAL).exists()


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("graph", {"edges": np.stack([ROW[:500], ROW[:500] + 8], 1)}),
        ("graph", {"edge_attributes": {"w": np.arange(500.0) + 1}}),
        ("objects", {"groups": {0: [1, 3]}}),
        ("objects", {"object_attributes": {"a": np.arange(7.0) + 1}}),
    ],
    ids=lambda v: v if isinstance(v, str) else next(iter(v)),
)
def test_what_is_beside_the_vertices_counts(kind, changed, begun):
    _, write, store, arguments = begun(kind)
    with pytest.raises(dzv.PlanError, match="unfinished write"):
        write(store, **{**arguments, **changed})


def test_other_chunks_are_refused(begun, tmp_path):
    """The store was made anew with another chunk shape between the two calls, over what the first had left."""
    _, write, _, arguments = begun()
    document = tmp_path / "s.zv" / "zarr.json"
    document.write_text(document.read_text().replace("20.0", "10.0"))
    with pytest.raises(dzv.PlanError, match="unfinished write"):
        write(dzv.open(tmp_path / "s.zv", mode="r+"), **arguments)


HARMS = {  # of the first receipt (beside the second), or of the first object
    "a receipt is lost": lambda data, other: None,
    "a receipt is cut": lambda data, other: data[:-9],
    "a receipt is another's": lambda data, other: other,
    "a receipt is noise": lambda data, other: b"\x00" * 100,
    "an object is lost": lambda data, other: None,
    "an object is cut": lambda data, other: data[:-1],
    "an object is another's": lambda data, other: b"x" * len(data),
}


@pytest.mark.parametrize("what", HARMS)
def test_what_is_not_whole_is_written_again(what, begun, whole, tmp_path):
    told, write, store, arguments = begun()
    target = tmp_path / "s.zv"
    receipts = sorted((target / JOURNAL / "c").iterdir())
    harmed = receipts if "receipt" in what else sorted(p for p in target.glob("0/vertices/c/**/*") if p.is_file())
    data = HARMS[what](harmed[0].read_bytes(), harmed[1].read_bytes())
    harmed[0].unlink() if data is None else harmed[0].write_bytes(data)
    report = write(store, **arguments)
    assert len(told["stored"]) == report.blocks - 3 + 1
    assert comparable(target) == whole()


def test_a_journal_that_cannot_be_read(begun, tmp_path):
    _, write, store, arguments = begun(after=2)
    document = tmp_path / "s.zv" / JOURNAL / "zarr.json"
    document.write_text(document.read_text().replace('"block_starts":[0', '"block_starts":["a"'))
    with pytest.raises(dzv.FormatError, match="dask_zv_journal"):
        write(store, **arguments)


def test_a_level_that_another_write_has_filled(tmp_path):
    _, write, arguments = verb("points")
    store = create(tmp_path / "s.zv")
    dzv.write_points(store, **given("points", seed=1)[2])
    before = files(tmp_path / "s.zv")
    with pytest.raises(dzv.StoreError, match="has 4,000 vertices already"):
        write(store, **arguments)
    assert files(tmp_path / "s.zv") == before


def test_an_overwrite_that_is_resumed(interrupt, tmp_path):
    _, write, arguments = verb("points")
    store = create(tmp_path / "s.zv")
    dzv.write_points(store, **given("points", seed=1)[2])
    told = cut(interrupt, 3, write, store, **arguments, mode="overwrite")
    report = write(store, **arguments, mode="overwrite")
    assert len(told["stored"]) == report.blocks - 3
    assert write(store, **arguments, mode="overwrite").blocks == 0  # a second time: it is done
    found = store.level(0).read()
    assert (found.positions[np.argsort(found.attributes["row"])] == points()).all()
    assert not list((tmp_path / "s.zv" / "0").glob("dask_zv_replacing*"))


def test_resumed_elsewhere(begun, whole, tmp_path, use_scheduler):
    """Begun on one thread, finished on a cluster with another idea of how large a block is."""
    _, write, store, arguments = begun("objects")
    blocks = blocks_of(tmp_path / "s.zv" / JOURNAL)
    with use_scheduler("distributed"), sizes(write_block_bytes=(1 << 20, 32 << 20)):
        report = write(store, **arguments)
    assert len([t for t in report.times if t.kind == "vertices"]) == blocks
    assert comparable(tmp_path / "s.zv") == whole("objects")


@pytest.mark.parametrize("least", [None, 1000])
def test_journals_that_nobody_asked_for(least, interrupt, tmp_path):
    """Small writes keep none, large ones do."""
    _, write, arguments = verb("points")
    store = create(tmp_path / "s.zv")
    with sizes(**({} if least is None else {"journal_bytes": least})):
        told = cut(interrupt, 3, dzv.write_points, store, **arguments)
    assert (tmp_path / "s.zv" / JOURNAL).exists() == (least is not None)
    if least is not None:
        report = write(store, **arguments)
        assert len(told["stored"]) == report.blocks - 3


def test_lazily(tmp_path, interrupt):
    """With compute=False the blocks that are there already are left out of the graph."""
    _, write, arguments = verb("points")
    store = create(tmp_path / "s.zv")
    lazy = write(store, **arguments, compute=False)
    assert not (tmp_path / "s.zv" / JOURNAL).exists()
    interrupt(3)
    with pytest.raises(PowerCutError):
        lazy.compute()
    told = interrupt(None)
    report = write(store, **arguments, compute=False).compute()
    assert len(told["stored"]) == report.blocks - 3
    assert dzv.open(tmp_path / "s.zv").level(0).metadata.vertex_count == N


def test_zarr_reads_the_journal(begun, tmp_path):
    """Other tools that walk the level meet an array as any other."""
    begun()
    journal = zarr.open_array(str(tmp_path / "s.zv" / JOURNAL), mode="r")
    assert sum(bytes(c).startswith(b"DZVR") for c in np.asarray(journal[:])) == 3
    assert dzv.open(tmp_path / "s.zv").level(0).metadata.vertex_count == 0
    assert CATALOG not in "".join(files(tmp_path / "s.zv"))
