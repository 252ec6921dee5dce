"""Deletions: what is left is what was there without the rest, in every geometry, and only what is touched is written."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from counting_store import CountingStore, RecordingStore
from small import always
from small_geometries import write_any
from zarr.storage import WrapperStore

import dask_zv as dzv

N, GONE = 150, [4, 10, 14]
BOX = ((-8.0, -20.0, -13.0), (12.0, 3.0, 30.0))
KINDS = ("point_cloud", "polyline", "skeleton", "graph", "mesh")

small = always(write_block_bytes=(2000, 4000), pass_chunks=16)


def make(target, kind, shards=1, **options):
    rng = np.random.default_rng(5)
    positions, owner = rng.uniform(-20, 20, (N, 3)), np.sort(rng.integers(0, 8, N)) * 2
    first = np.searchsorted(owner, owner)
    links, values = None, None
    if kind == "graph":
        links, values = rng.integers(0, N, (90, 2)), {"w": rng.normal(size=90)}
    elif kind == "mesh":
        links, values = rng.integers(0, N, (60, 3)), {"w": np.arange(60) * 1.0}
    elif kind == "skeleton":
        links = np.array([(i, rng.integers(first[i], i)) for i in range(N) if first[i] < i])
    store = dzv.create(target, geometry=kind, chunk_shape=(20, 20, 20), shard_chunks=shards, **options)
    write_any(
        store, kind, positions, owner, links, values, attributes={"row": np.arange(N), "vec": rng.normal(size=(N, 2))},
        object_attributes={"size": np.arange(8) * 1.5, "name": np.array(list("abcdefgh"))}, groups={0: [2, 4], 1: [6], 2: [14]},
        group_attributes={"group_names": ["l", "r", "s"]},
    )  # fmt: skip
    return store


class State:
    """All that a level says, by the numbers that its vertices were written with."""

    def __init__(self, target):
        self.level = dzv.open(target).level(0)
        g = self.level.read()
        row = g.attributes["row"]
        columns = zip(row.tolist(), g.positions.tolist(), g.attributes["vec"].tolist(), g.object_ids.tolist(), strict=True)
        self.vertices = {r: (tuple(p), tuple(v), o) for r, p, v, o in columns}
        assert len(self.vertices) == len(row) == self.level.metadata.vertex_count
        self.links = Counter()
        for links, attributes in ((g.edges, g.edge_attributes), (g.faces, g.face_attributes)):
            if links is not None and g.parents is None:
                values = attributes["w"].tolist()
                self.links.update((tuple(e), w) for e, w in zip(row[links].tolist(), values, strict=True))
        if g.parents is not None:
            self.links.update(((r, row[p]), None) for r, p in zip(row.tolist(), g.parents.tolist(), strict=True) if p >= 0)
        ends = np.cumsum(g.lengths if g.lengths is not None else [])
        self.paths = (
            {} if g.ids is None else {i: row[e - n : e].tolist() for i, n, e in zip(g.ids, g.lengths, ends, strict=True)}
        )
        columns = zip(
            g.object_index.tolist(), g.object_attributes["size"].tolist(), g.object_attributes["name"].tolist(), strict=True
        )
        self.objects = {i: (size, name) for i, size, name in columns}
        self.groups = {k: v.tolist() for k, v in g.groups.items()}, g.group_attributes["group_names"].tolist()

    def without(self, gone):
        """Compare with what a state says that has all but some vertices; objects are looked at elsewhere."""
        left = {r: v for r, v in self.vertices.items() if r not in gone}
        links = Counter({k: n for k, n in self.links.items() if not set(k[0]) & gone})
        return left, links

    def told(self):
        return self.vertices, self.links


def check_whole(target):
    """The catalog speaks of all, and what it says is what a new one would."""
    assert dzv.open(target).level(0)._contents.source.catalogued
    before = State(target)
    assert dzv.validate(target).ok, dzv.validate(target)
    dzv.refresh(dzv.open(target, "r+"))
    assert State(target).told() == before.told()
    return before


@pytest.mark.parametrize("shards", [1, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_objects_are_deleted(kind, shards):
    target = {}
    store = make(target, kind, shards)
    before = State(target)
    gone = {r for r, (_, _, o) in before.vertices.items() if o in GONE}
    store.delete_objects(GONE)
    after = check_whole(target)
    assert after.told() == before.without(gone)
    assert after.paths == {i: p for i, p in before.paths.items() if i not in GONE}
    assert after.objects == {i: v for i, v in before.objects.items() if i not in GONE}
    assert after.groups == ({0: [2], 1: [6], 2: []}, ["l", "r", "s"])
    assert not [k for k in target if "dask_zv_edit" in k or "replacing" in k]
    if kind == "skeleton":  # opened without a look at the links
        assert xr.open_dataset(target, engine="zv", chunks={})["edges"].chunks is not None
    with pytest.raises(dzv.NotFoundError, match="no object 4"):
        store.delete_objects([4, 6])
    store.delete_objects(sorted(after.objects))
    assert len(dzv.open(target).level(0).read().positions) == 0


@pytest.mark.parametrize("shards", [1, 8])
@pytest.mark.parametrize("kind", ["point_cloud", "graph", "mesh", "skeleton"])
def test_a_box_is_deleted(kind, shards):
    target = {}
    store = make(target, kind, shards)
    before = State(target)
    gone = {r for r, (p, _, _) in before.vertices.items() if all(a <= x <= b for x, a, b in zip(p, *BOX, strict=True))}
    assert 5 < len(gone) < N / 2
    store.delete(bbox=BOX)
    after = check_whole(target)
    left = np.array([p for p, _, _ in after.vertices.values()])
    assert dzv.open(target).metadata.bounds == (tuple(left.min(axis=0)), tuple(left.max(axis=0)))
    assert after.told() == before.without(gone)
    assert (after.objects, after.groups) == (before.objects, before.groups)
    store.delete(bbox=((None,) * 3, (None,) * 3))
    found = dzv.open(target).level(0).read()
    assert len(found.positions) == 0
    assert len(found.object_index) == 8


def test_a_box_of_points_without_objects_and_with_bins(tmp_path):
    positions = np.random.default_rng(0).uniform(0, 40, (500, 3))
    target = str(tmp_path / "points.zv")
    dzv.write_points(target, positions, chunk_shape=(10,) * 3, bin_shape=(5,) * 3, attributes={"row": np.arange(500)})
    dzv.open(target, "r+").delete(bbox=((5, 5, 5), (22, 22, 22)))
    inside = ((positions >= 5) & (positions <= 22)).all(axis=1)
    found = dzv.open(target).level(0).read()
    assert sorted(found.attributes["row"]) == np.flatnonzero(~inside).tolist()
    np.testing.assert_array_equal(found.positions, positions[found.attributes["row"]])
    box = ((0, 0, 0), (12, 12, 12))
    wanted = ((positions <= 12).all(axis=1)) & ~inside
    assert len(dzv.open(target).level(0).read(bbox=box).positions) == wanted.sum()


def test_what_a_box_would_tear_is_refused():
    target, kind = {}, "polyline"
    make(target, kind)
    before = {k: v.to_bytes() if hasattr(v, "to_bytes") else v for k, v in target.items()}
    with pytest.raises(dzv.InputError, match=f"a {kind} without vertices .* delete whole objects"):
        dzv.open(target, "r+").delete(bbox=BOX)
    assert {k: v.to_bytes() if hasattr(v, "to_bytes") else v for k, v in target.items()} == before


def test_layout_per_chunk_is_refused(tmp_path):
    target = str(tmp_path / "points.zv")
    dzv.write_points(target, np.ones((3, 3)), object_ids=[0, 0, 1], chunk_shape=(10,) * 3, layout="per_chunk")
    store = dzv.open(target, "r+")
    for edit in (lambda: store.delete_objects(1), lambda: store.delete(bbox=BOX)):
        with pytest.raises(dzv.InputError, match="layout per_chunk .* dzv.convert"):
            edit()


def test_untouched_chunks_are_neither_read_nor_written():
    inner = zarr.storage.MemoryStore()
    positions = np.random.default_rng(0).uniform(0, 99, (2000, 3))
    owner = np.where((positions < 15).all(axis=1), 1, 0)
    options = {
        "chunk_shape": (10,) * 3,
        "bounds": ((0,) * 3, (99,) * 3),
        "shard_chunks": 1,
        "attributes": {"row": np.arange(2000)},
    }
    dzv.write_points(inner, positions, object_ids=owner, **options)
    touched = {".".join(map(str, c)) for c in np.unique((positions[owner == 1] // 10).astype(int), axis=0).tolist()}
    assert len(touched) < 9 < 500 < len(dzv.open(inner).level(0).chunks)
    counting = CountingStore(inner)
    dzv.open(counting, "r+").delete_objects(1)
    for array in ("vertices", "vertex_fragments", "vertex_attributes/row"):
        assert counting.chunks(array) <= touched
    recording = RecordingStore(inner)
    RecordingStore.order.clear()
    dzv.open(recording, "r+").delete(bbox=((91, 91, 91), (100, 100, 100)))
    cells = {
        k
        for k in RecordingStore.order
        if k.startswith(("0/vertices/c/", "0/vertex_fragments/c/", "0/vertex_attributes/row/c/"))
    }
    assert cells <= {f"0/{a}/c/9/9/9" for a in ("vertices", "vertex_fragments", "vertex_attributes/row")}


class DiedError(Exception):
    """The process is gone."""


class MortalStore(WrapperStore):
    """Dies at a put, and at all that follow."""

    left = 10**9

    async def set(self, key, value):
        type(self).left -= 1
        if self.left < 0:
            raise DiedError(key)
        await self._store.set(key, value)

    async def delete(self, key):
        if self.left < 0:
            raise DiedError(key)
        await self._store.delete(key)

    async def delete_dir(self, prefix):
        if self.left < 0:
            raise DiedError(prefix)
        await self._store.delete_dir(prefix)


@pytest.mark.parametrize("kind", ["graph", "point_cloud"])
def test_a_deletion_that_dies_anywhere_is_finished_by_the_same_call(tmp_path, kind):
    made = str(tmp_path / "made.zv")
    make(made, kind)
    before = State(made)
    gone = {r for r, (_, _, o) in before.vertices.items() if o in GONE}
    wanted = before.without(gone)
    target = str(tmp_path / "target.zv")
    shutil.copytree(made, target)
    MortalStore.left = 10**9
    with dask.config.set(scheduler="synchronous"):
        dzv.open(MortalStore(zarr.storage.LocalStore(target)), "r+").delete_objects(GONE)
        puts = 10**9 - MortalStore.left
        assert State(target).told() == wanted
        seen = Counter()
        for at in np.unique(np.linspace(0, puts - 1, 17).astype(int)).tolist():
            shutil.rmtree(target)
            shutil.copytree(made, target)
            MortalStore.left = at
            with pytest.raises(Exception, match="DiedError"):
                dzv.open(MortalStore(zarr.storage.LocalStore(target)), "r+").delete_objects(GONE)
            for lock in [p for p in (tmp_path / "target.zv").rglob("dask_zv_lock*") if p.is_file()]:
                lock.unlink()
            try:  # the old or the new, or an error, never half of both
                seen[State(target).told() == before.told()] += 1
                assert State(target).told() in (before.told(), wanted)
            except dzv.ZVError:
                seen["error"] += 1
            try:
                dzv.open(target, "r+").delete_objects(GONE)
            except dzv.NotFoundError:  # it had reached its commit
                assert State(target).told() == wanted
            assert check_whole(target).told() == wanted
    assert seen[True] > 2
    assert seen["error"] > 2


def test_what_other_tools_wrote_is_deleted_too(tmp_path):
    """Levels and the links between them, shards, ids in any order."""
    folder = Path(__file__).parents[1] / "data/golden_0.9"
    for name in ("streamlines_pyramid", "skeleton", "mesh_quads", "points_attr_chunked", "polylines_raw_object_attr"):
        target = str(tmp_path / f"{name}.zv")
        shutil.unpack_archive(folder / f"{name}.zarrvectors.zip", target, "zip")
        store = dzv.open(target, "r+")
        with pytest.raises(dzv.InputError, match="no catalog, .* store.refresh"):
            store.delete_objects(0)
        store.refresh()
        before = store.level(0).read(order="chunk")
        store.set_attribute("place", np.arange(len(before.positions)))
        store.delete_objects(np.unique(before.object_ids)[:1])
        after = dzv.open(target).level(0).read(order="chunk")
        left = before.object_ids != before.object_ids.min()
        assert left.sum() < len(left)
        np.testing.assert_array_equal(after.attributes["place"], np.flatnonzero(left), err_msg=name)
        np.testing.assert_array_equal(after.positions, before.positions[left])
        found = dzv.validate(target)
        assert found.ok, found


def test_two_deletions_at_once_lose_nothing(tmp_path):
    target = str(tmp_path / "graph.zv")
    store = make(target, "graph")
    before = State(target)
    one, other = (store.delete_objects([i], compute=False) for i in (4, 10))
    other.compute()
    with pytest.raises(dzv.ZVError, match=r"another writer has changed the level|the level was rewritten"):
        one.compute()
    gone = {r for r, (_, _, o) in before.vertices.items() if o == 10}
    assert check_whole(target).told() == before.without(gone)
    dzv.open(target, "r+").delete_objects([4])
    gone |= {r for r, (_, _, o) in before.vertices.items() if o == 4}
    assert check_whole(target).told() == before.without(gone)
    assert not list((tmp_path / "graph.zv").rglob("dask_zv_edit*"))


def test_a_deletion_in_an_icechunk_session_is_one_snapshot(tmp_path):
    icechunk = pytest.importorskip("icechunk")
    repo = icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "repo")))
    session = repo.writable_session("main")
    make(session, "graph")
    session.commit("graph")
    before = State(repo.readonly_session("main"))
    gone = {
        r for r, (p, _, o) in before.vertices.items() if o in GONE or all(a <= x <= b for x, a, b in zip(p, *BOX, strict=True))
    }
    store = dzv.open(repo.writable_session("main"), "r+")
    store.delete_objects(GONE)
    store.delete(bbox=BOX)
    store.commit("less")
    assert State(repo.readonly_session("main")).told() == before.without(gone)
    assert len(list(repo.ancestry(branch="main"))) == 3


@pytest.mark.parametrize("scheduler", ["processes", "distributed"], indirect=True)
def test_deletions_run_on_every_scheduler(tmp_path, scheduler):
    target = str(tmp_path / "graph.zv")
    store = make(target, "graph")
    before = State(target)
    (report,) = dask.compute(store.delete_objects(GONE, compute=False))
    store.finish(report)
    gone = {r for r, (_, _, o) in before.vertices.items() if o in GONE}
    assert check_whole(target).told() == before.without(gone)


def write_anew(target, kind):
    """Write other data than :func:`make` does, without objects."""
    rng = np.random.default_rng(9)
    links = {
        "graph": {"edges": np.array([[0, 1], [2, 3]])},
        "mesh": {"faces": np.array([[0, 1, 2]])},
        "skeleton": {"parents": np.r_[-1, np.arange(29)]},
    }
    options = {"attributes": {"other": np.arange(30)}, "chunk_shape": (20,) * 3, "shard_chunks": 1}
    write = {
        "graph": dzv.write_graph,
        "mesh": dzv.write_meshes,
        "skeleton": dzv.write_skeletons,
        "point_cloud": dzv.write_points,
    }
    positions = rng.uniform(-20, 20, (30, 3))
    write[kind](target, positions, **links.get(kind, {}), **options)
    return target


@pytest.mark.parametrize("kind", ["point_cloud", "graph", "mesh", "skeleton"])
def test_what_is_written_after_all_was_deleted_is_as_in_a_new_store(tmp_path, kind):
    target = str(tmp_path / "target.zv")
    make(target, kind).delete(bbox=((None,) * 3, (None,) * 3))
    write_anew(target, kind)
    new = write_anew(str(tmp_path / "new.zv"), kind)
    names = [sorted(str(f.relative_to(p)) for f in Path(p).rglob("*") if f.is_file()) for p in (target, new)]
    assert names[0] == names[1]
    assert dzv.open(target).level(0).metadata == dzv.open(new).level(0).metadata
    found, wanted = (dzv.open(p).level(0).read() for p in (target, new))
    np.testing.assert_array_equal(found.positions, wanted.positions)
    assert dzv.validate(target).ok


@pytest.mark.parametrize("kind", ["point_cloud", "graph"])
def test_a_deletion_of_nothing_is_no_commit(kind):
    target = {}
    store = make(target, kind)
    before = dict(target)
    p = np.sort(dzv.open(target).level(0).read().positions[:, 0])
    at = int(np.argmax(np.diff(p)))
    between = (float(p[at] + 1e-4), float(p[at + 1] - 1e-4))
    boxes = [((between[0], None, None), (between[1], None, None)), ((500,) * 3, (501,) * 3)]
    edits = [lambda b=b, **kw: store.delete(bbox=b, **kw) for b in boxes] + [lambda **kw: store.delete_objects([], **kw)]
    for edit in edits:
        assert edit().rows == 0
        assert dask.compute(edit(compute=False))[0].rows == 0
    assert target == before


def test_nothing_is_deleted_before_something_is_written():
    store = dzv.create({}, chunk_shape=(10,) * 3)
    for edit in (lambda: store.delete(bbox=BOX), lambda: store.delete_objects([1])):
        with pytest.raises(dzv.InputError, match="the level is empty"):
            edit()


def test_a_box_is_asked_for():
    store = dzv.create({}, chunk_shape=(10, 10))
    dzv.write_points(store, np.random.default_rng(0).uniform(0, 30, (20, 2)))
    with pytest.raises(dzv.InputError, match="bbox is two corners"):
        store.delete(bbox=None)


def test_numbers_of_groups_are_bounded():
    store = make({}, "point_cloud")
    with pytest.raises(dzv.InputError, match="group 1000000000 is beyond 9,999,999"):
        store.set_group(10**9, [4])


def test_who_meets_an_interrupted_deletion_finishes_it_or_says_how(tmp_path):
    kept, target = str(tmp_path / "kept.zv"), str(tmp_path / "target.zv")
    make(kept, "point_cloud")
    before = State(kept)
    wanted = before.without({r for r, (_, _, o) in before.vertices.items() if o in GONE})
    with dask.config.set(scheduler="synchronous"):
        for left in (30, 56):  # chunks are replaced; the table of ids is gone
            shutil.copytree(kept, target)
            MortalStore.left = left
            with pytest.raises(Exception, match="DiedError"):
                dzv.open(MortalStore(zarr.storage.LocalStore(target)), "r+").delete_objects(GONE)
            for lock in [p for p in Path(target).rglob("dask_zv_lock*") if p.is_file()]:
                lock.unlink()
            shutil.rmtree(kept + ".cut", ignore_errors=True)
            shutil.move(target, kept + ".cut")
            shutil.copytree(kept + ".cut", target)
            for use in (
                lambda: dzv.open(target).level(0).read(objects=[2]),
                lambda: dzv.convert(target, {}, shard_chunks=2),
                lambda: dzv.expand(target, ((-90,) * 3, (90,) * 3)),
                lambda: dzv.write_points(target, np.ones((1, 3)), object_ids=[99], mode="append", fill_missing=True),
            ):
                with pytest.raises(dzv.FormatError, match="a deletion was interrupted: run it again, or any other edit"):
                    use()
            (finding,) = dzv.validate(target).findings
            assert finding.advice == "run it again, or any other edit, and it is finished"
            for mend in (dzv.refresh, dzv.repair, lambda p: dzv.build_pyramid(p, levels=1)):
                mend(target)
                assert State(target).told() == wanted
                assert dzv.validate(target).ok
                shutil.rmtree(target)
                shutil.copytree(kept + ".cut", target)
            shutil.rmtree(target)
