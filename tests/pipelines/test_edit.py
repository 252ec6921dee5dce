"""Edits of a level: attributes of vertices and of objects, groups. What is not edited stays as it is, byte for byte."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from counting_store import CountingStore, RecordingStore
from forms import lazily, unknown
from small import always

import dask_zv as dzv
from dask_zv.maintain import edit_attributes

N, CHUNK = 300, (10.0, 10.0, 10.0)
OWNER = np.arange(N) % 7

small = always(write_block_bytes=(500, 1000), pass_chunks=8)


@pytest.fixture(params=[("grid", 1), ("grid", 4), ("per_chunk", 1), ("per_chunk", 4)], ids=str)
def target(request, tmp_path):
    layout, shards = request.param
    make(str(tmp_path / "points.zv"), layout=layout, shard_chunks=shards)
    return str(tmp_path / "points.zv")


def make(target, **options):
    positions = np.random.default_rng(1).uniform(-20, 20, (N, 3)).astype("f4")
    return dzv.write_points(
        target, positions, chunk_shape=CHUNK, object_ids=OWNER, attributes={"mass": positions[:, 0].astype("f8")},
        object_attributes={"size": np.arange(7)}, groups={0: [0, 3], 1: [6]},
        group_attributes={"group_names": ["left", "right"], "w": [0.5, 1.5]}, **options,
    )  # fmt: skip


def column(target, name):
    return dzv.open(target).level(0).read(order="chunk").attributes[name]


def files(target, below):
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted((Path(target) / below).rglob("*")) if p.is_file()}


VALUES = np.random.default_rng(2).normal(size=N)
WORDS = np.array(["b", "a", "µ"])[np.arange(N) % 3]
MAYBE = np.where(np.arange(N) % 5 == 0, None, WORDS)
FORMS = {
    "numbers": (VALUES, VALUES),
    "channels": (np.c_[VALUES, -VALUES].astype("f4"), np.c_[VALUES, -VALUES].astype("f4")),
    "integers": (np.arange(N, dtype="i2"), np.arange(N, dtype="i2")),
    "dates": (VALUES.astype("M8[s]"), VALUES.astype("M8[s]")),
    "words": (WORDS, WORDS),
    "maybe": (MAYBE, MAYBE),
    "series": (pd.Series(VALUES), VALUES),
    "categories": (pd.Categorical(WORDS, ["µ", "b", "a"], ordered=True), WORDS),
    "lazy": (lazily(VALUES), VALUES),
    "lazy words": (lazily(WORDS), WORDS),
    "lazy channels": (da.from_array(np.c_[VALUES, VALUES], chunks=(17, 1)), np.c_[VALUES, VALUES]),
    "unknown": (unknown(VALUES), VALUES),
    "delayeds": ([dask.delayed(VALUES[:111]), dask.delayed(VALUES[111:])], VALUES),
    "one delayed": (dask.delayed(VALUES), VALUES),
}


def test_an_attribute_is_set_and_set_again(target):
    store = dzv.open(target, "r+")
    before = store.level(0).read(order="chunk")
    untouched = {name: files(target, f"0/{name}") for name in ("vertices", "vertex_fragments", "object_index")}
    for form, (given, wanted) in FORMS.items():
        report = store.set_attribute("new", given)
        np.testing.assert_array_equal(column(target, "new"), wanted, err_msg=form)
        assert (report.rows, set(report.arrays)) == (N, {"vertex_attributes/new"})
    shown = xr.open_dataset(target, engine="zv", chunks={})["new"]
    np.testing.assert_array_equal(shown, VALUES)
    after = dzv.open(target).level(0).read(order="chunk")
    np.testing.assert_array_equal(after.positions, before.positions)
    np.testing.assert_array_equal(after.attributes["mass"], before.attributes["mass"])
    assert {name: files(target, f"0/{name}") for name in untouched} == untouched  # not written, not even the same bytes
    assert dzv.open(target).level(0)._contents.source.catalogued


def test_a_variable_of_a_dataset_is_set_with_its_units(target):
    ds = xr.open_dataset(target, engine="zv", chunks={})
    double = ds["mass"] * 2
    double.attrs = {"units": "kg", "long_name": "twice the mass"}
    dzv.open(target, "r+").set_attribute("double", double)
    found = xr.open_dataset(target, engine="zv")["double"]
    np.testing.assert_array_equal(found, ds["mass"].to_numpy() * 2)
    assert (found.attrs["units"], found.attrs["long_name"]) == ("kg", "twice the mass")
    dzv.open(target, "r+").rename_attribute("double", "twice")
    assert xr.open_dataset(target, engine="zv")["twice"].attrs["units"] == "kg"
    dzv.open(target, "r+").drop_attribute("twice")
    assert dzv.open(target).attribute_specs == {}


@pytest.mark.parametrize("how", [{}, {"compute": False}, {"compute": False, "meta": 1.0}], ids=["now", "delayed", "lazy"])
def test_results_of_maps_are_set(target, how):
    ds = xr.open_dataset(target, engine="zv", chunks={})
    by_chunk = ds.zv.map_chunks(lambda g: float(len(g.positions)), **how)
    by_object = ds.zv.map_objects(lambda g: g.positions[:, 0].max().astype(float), **how)
    store = dzv.open(target, "r+")
    store.set_attribute("crowd", by_chunk)
    found = dzv.open(target).level(0).read(order="chunk")
    _, chunk, count = np.unique(np.floor(found.positions / CHUNK), axis=0, return_inverse=True, return_counts=True)
    np.testing.assert_array_equal(found.attributes["crowd"], count[chunk])
    ds = xr.open_dataset(target, engine="zv", chunks={})
    by_object = ds.zv.map_objects(lambda g: g.positions[:, 0].max().astype(float), **how)
    store.set_attribute("right", by_object)
    store.set_object_attribute("right", by_object)
    found = dzv.open(target).level(0).read(order="chunk")
    largest = {i: found.positions[found.object_ids == i, 0].max() for i in np.unique(OWNER)}
    np.testing.assert_array_equal(found.attributes["right"], [largest[i] for i in found.object_ids.tolist()])
    np.testing.assert_array_equal(found.object_attributes["right"], [largest[i] for i in found.object_index.tolist()])


def test_values_of_some_objects_alone(target):
    ds = xr.open_dataset(target, engine="zv", chunks={}).zv.sel(objects=[3, 6])
    some = ds.zv.map_objects(lambda g: {"n": len(g.positions), "word": 1.0}, objects=[3, 6])
    store = dzv.open(target, "r+")
    with pytest.raises(dzv.InputError, match="has no value for object"):
        store.set_attribute("n", some["n"])
    store.set_attribute("n", some["n"].astype(float))
    found = dzv.open(target).level(0).read(order="chunk")
    np.testing.assert_array_equal(np.isnan(found.attributes["n"]), ~np.isin(found.object_ids, [3, 6]))
    store.set_object_attribute("n", some["n"])
    shown = dzv.open(target).level(0).read().object_attributes["n"]
    assert shown.mask.tolist() == [i not in (3, 6) for i in np.unique(OWNER).tolist()]


def test_attributes_are_renamed_and_dropped(target):
    store = dzv.open(target, "r+")
    store.set_attribute("word", WORDS)
    store.rename_attribute("word", "name")
    assert dzv.open(target).level(0).attributes == ("mass", "name")
    np.testing.assert_array_equal(column(target, "name"), WORDS)
    assert store.drop_attribute("mass").rows == 0
    assert dzv.open(target).level(0).attributes == ("name",)
    assert not files(target, "0/vertex_attributes/mass")
    store.drop_attribute("name")
    level = dzv.open(target).level(0)
    assert level.attributes == ()
    assert "vertex_attributes" not in level.metadata.arrays_present
    assert len(level.read().positions) == N


def test_object_attributes_and_groups(target):
    store = dzv.open(target, "r+")
    store.set_object_attribute("age", pd.Series([5, 6], index=[3, 5]))
    store.set_object_attribute("size", np.arange(7) * 1.5)
    store.rename_object_attribute("size", "width")
    ds = xr.open_dataset(target, engine="zv")
    np.testing.assert_array_equal(ds["width"], np.arange(7) * 1.5)
    assert dzv.open(target).level(0).read().object_attributes["age"].compressed().tolist() == [5, 6]
    store.set_object_attribute("age", np.arange(7))
    np.testing.assert_array_equal(xr.open_dataset(target, engine="zv")["age"], np.arange(7))
    store.drop_object_attribute("age")
    store.drop_object_attribute("width")
    assert not dzv.open(target).level(0).read().object_attributes

    def groups():
        found = dzv.open(target).level(0).read()
        return {g: m.tolist() for g, m in found.groups.items()}, {k: v.tolist() for k, v in found.group_attributes.items()}

    store.set_group("left", [2])
    store.set_group("new", [4, 5])
    members, about = groups()
    assert members == {0: [2], 1: [6], 2: [4, 5]}
    assert about["group_names"] == ["left", "right", "new"]
    np.testing.assert_array_equal(about["w"], [0.5, 1.5, np.nan])
    store.drop_group("right")
    assert groups()[0] == {0: [2], 1: [], 2: [4, 5]}
    assert groups()[1]["group_names"] == ["left", "", "new"]
    for number in (2, 1, 0):
        store.drop_group(number)
    assert groups() == ({}, {})


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda s: s.set_attribute("new", np.arange(5)), "has 5 rows, the level has 300"),
        (lambda s: s.set_attribute("new", lazily(np.arange(5))), "has 5 rows, the level has 300"),
        (lambda s: s.set_attribute("new", unknown(np.arange(5))), "has 5 rows, the level has 300"),
        (lambda s: s.set_attribute("x", VALUES), "name of an axis"),
        (lambda s: s.set_attribute("a/b", VALUES), "can't hold '/'"),
        (lambda s: s.set_attribute("new", WORDS, max_categories=2), "more than 2 distinct strings"),
        (lambda s: s.set_attribute("new", [dask.delayed(VALUES[:9]), dask.delayed(WORDS[9:])]), "all must be alike"),
        (lambda s: s.rename_attribute("mas", "new"), "did you mean 'mass'"),
        (lambda s: s.rename_attribute("mass", "mass"), "is an attribute 'mass' already"),
        (lambda s: s.drop_attribute("z"), "no attribute 'z': the level has mass"),
        (lambda s: s.set_object_attribute("new", np.arange(3)), "3 rows for 7 objects"),
        (lambda s: s.set_object_attribute("new", pd.Series([1], index=[44])), "names object 44"),
        (lambda s: s.drop_object_attribute("siz"), "did you mean 'size'"),
        (lambda s: s.rename_object_attribute("size", "size"), "'size' already"),
        (lambda s: s.set_group(-1, [0]), "from 0 on"),
        (lambda s: s.drop_group("middle"), "'left', 'right'"),
    ],
)
def test_what_can_not_be_is_refused_and_nothing_is_stored(tmp_path, edit, said):
    target = str(tmp_path / "points.zv")
    make(target)
    before = files(target, "")
    with pytest.raises(dzv.InputError, match=said):
        edit(dzv.open(target, "r+"))
    assert files(target, "") == before
    with pytest.raises(dzv.ReadOnlyError):
        edit(dzv.open(target))


def test_rows_in_another_order_are_refused(tmp_path):
    target = str(tmp_path / "paths.zv")
    dzv.write_polylines(target, np.random.default_rng(0).uniform(0, 40, (60, 3)), lengths=[20] * 3, chunk_shape=CHUNK)
    store = dzv.open(target, "r+")
    by_object = xr.open_dataset(target, engine="zv", view="objects", chunks={})
    with pytest.raises(dzv.InputError, match="order of the objects"):
        store.set_attribute("new", by_object["x"])
    spatial = xr.open_dataset(target, engine="zv", view="spatial")
    with pytest.raises(dzv.InputError, match="not in the order of the level's vertices"):
        store.set_attribute("new", (spatial["x"] * 1).reset_coords(drop=True).assign_coords(spatial["vertex"].coords)[::-1])
    store.set_attribute("new", spatial["x"] * 2)
    np.testing.assert_array_equal(column(target, "new"), dzv.open(target).level(0).read(order="chunk").positions[:, 0] * 2)


def test_a_reader_sees_an_attribute_with_the_commit_alone():
    inner = zarr.storage.MemoryStore()
    make(inner)
    RecordingStore.order.clear()
    dzv.open(RecordingStore(inner), "r+").set_attribute("new", VALUES)
    order = RecordingStore.order
    cells = [i for i, key in enumerate(order) if key.startswith("0/vertex_attributes/new/c/")]
    rest = [i for i, key in enumerate(order) if not key.startswith("0/vertex_attributes/new/c/")]
    documents = [i for i in rest if order[i].endswith("zarr.json") or "catalog" in order[i]]
    assert max(cells) < min(documents)


def test_an_interrupted_call_is_made_again(tmp_path):
    target = str(tmp_path / "points.zv")
    make(target)
    store = dzv.open(target, "r+")

    def torn(part):
        if part[-1] == VALUES[-1]:
            raise KeyboardInterrupt
        return part

    broken = da.from_array(VALUES, chunks=10).map_blocks(torn, dtype=float)
    for name in ("new", "mass"):
        with pytest.raises(KeyboardInterrupt), dask.config.set(scheduler="synchronous"):
            store.set_attribute(name, broken)
    assert dzv.open(target).level(0).attributes == ("mass",)
    with pytest.raises(dzv.FormatError, match="is being replaced"):
        dzv.open(target).level(0).read()
    store.set_attribute("mass", VALUES)
    np.testing.assert_array_equal(column(target, "mass"), VALUES)
    assert not [p for p in files(target, "0") if "replacing" in p.name]


@pytest.mark.parametrize("scheduler", ["processes", "distributed"], indirect=True)
def test_edits_run_on_every_scheduler(tmp_path, scheduler):
    target = str(tmp_path / "points.zv")
    make(target)
    store = dzv.open(target, "r+")
    ds = xr.open_dataset(target, engine="zv", chunks={})
    store.set_object_attribute("n", ds.zv.map_objects(_count, compute=False))
    ds = xr.open_dataset(target, engine="zv", chunks={})
    delayed = store.set_attribute("new", ds["mass"] + 1, compute=False)
    (report,) = dask.compute(delayed)
    store.finish(report)
    np.testing.assert_array_equal(column(target, "new"), column(target, "mass") + 1)
    store.set_group("right", [3])
    store.rename_attribute("new", "newer")
    store.drop_attribute("mass")
    assert dzv.open(target).level(0).attributes == ("newer",)


def _count(geometry):
    return len(geometry.positions)


def test_only_what_is_edited_is_asked_for():
    inner = zarr.storage.MemoryStore()
    make(inner, shard_chunks=1)
    counting = CountingStore(inner)
    dzv.open(counting, "r+").set_attribute("new", VALUES)
    assert not counting.chunks("vertices")
    assert not counting.chunks("vertex_attributes/mass")
    counting.forget()
    dzv.open(counting, "r+").drop_attribute("new")
    assert not counting.blobs


def test_coarser_levels_are_marked(tmp_path):
    from dask_zv.level.stale import is_stale

    target = str(tmp_path / "points.zv")
    make(target)
    store = dzv.open(target, "r+")
    level = store.group.require_group("1")
    level.attrs.update({"zarr_vectors_level": {"level": 1, "vertex_count": 0, "arrays_present": []}})
    for edit in (
        lambda: store.set_attribute("new", VALUES),
        lambda: store.drop_attribute("new"),
        lambda: store.set_object_attribute("size", np.arange(7)),
        lambda: store.set_group("left", [0]),
    ):
        level.attrs.update({"dask_zv_stale": False})
        edit()
        assert is_stale(dzv.open(target).level(1)._contents)


def test_an_icechunk_session_has_the_edit_in_one_snapshot(tmp_path):
    icechunk = pytest.importorskip("icechunk")
    repo = icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "repo")))
    session = repo.writable_session("main")
    make(session)
    session.commit("points")
    session = repo.writable_session("main")
    store = dzv.open(session, "r+")
    store.set_attribute("new", lazily(VALUES))
    store.set_attribute("mass", WORDS)
    store.rename_attribute("new", "newer")
    store.set_object_attribute("size", np.arange(7) * 0.5)
    store.rename_object_attribute("size", "width")
    store.set_group("new", [1])
    store.drop_group("left")
    store.commit("edited")
    assert len(list(repo.ancestry(branch="main"))) == 3
    found = dzv.open(repo.readonly_session("main")).level(0).read(order="chunk")
    np.testing.assert_array_equal(found.attributes["newer"], VALUES)
    np.testing.assert_array_equal(found.attributes["mass"], WORDS)
    np.testing.assert_array_equal(found.object_attributes["width"], np.arange(7) * 0.5)
    assert {g: m.tolist() for g, m in found.groups.items()} == {0: [], 1: [6], 2: [1]}
    store = dzv.open(repo.writable_session("main"), "r+")
    store.drop_attribute("mass")
    store.drop_object_attribute("width")
    store.commit("dropped")
    assert dzv.open(repo.readonly_session("main")).level(0).attributes == ("newer",)


EDITS = {
    "set": lambda s, **how: s.set_attribute("mass", VALUES, **how),
    "add": lambda s, **how: s.set_attribute("new", VALUES, **how),
    "rename": lambda s, **how: s.rename_attribute("mass", "weight", **how),
    "drop": lambda s, **how: s.drop_attribute("mass", **how),
    "set of objects": lambda s, **how: s.set_object_attribute("size", np.arange(7) * 2, **how),
    "rename of objects": lambda s, **how: s.rename_object_attribute("size", "width", **how),
    "drop of objects": lambda s, **how: s.drop_object_attribute("size", **how),
    "group": lambda s, **how: s.set_group("left", [1], **how),
    "drop of a group": lambda s, **how: s.drop_group("right", **how),
}
OTHERS = {
    "deletion": lambda s: s.delete_objects([0]),
    "attribute": lambda s: s.set_attribute("mass", WORDS),
    "group": lambda s: s.set_group(2, [4]),
    "objects": lambda s: s.set_object_attribute("size", np.arange(7) * 3),
}
CHANGED = "another writer has changed the level"


@pytest.mark.parametrize("layout", ["grid", "per_chunk"])
@pytest.mark.parametrize("other", OTHERS)
def test_a_planned_edit_is_of_the_level_that_it_was_planned_on(tmp_path, layout, other):
    if (other, layout) == ("deletion", "per_chunk"):
        pytest.skip("no vertices are deleted there")
    target = str(tmp_path / "points.zv")
    make(target, layout=layout)
    planned = {name: edit(dzv.open(target, "r+"), compute=False) for name, edit in EDITS.items()}
    OTHERS[other](dzv.open(target, "r+"))
    before = files(target, "0")
    for name, delayed in planned.items():
        with pytest.raises(dzv.PlanError, match=CHANGED):
            delayed.compute(scheduler="sync")
        assert files(target, "0") == before, name
    assert dzv.validate(target).ok
    dzv.open(target, "r+").rename_attribute("mass", "weight")
    found = dzv.open(target).level(0).read(order="chunk")
    assert len(found.attributes["weight"]) == len(found.positions)


def test_an_edit_planned_before_an_overwrite(tmp_path):
    target = str(tmp_path / "points.zv")
    make(target)
    planned = EDITS["set"](dzv.open(target, "r+"), compute=False)
    positions = np.random.default_rng(3).uniform(-20, 20, (50, 3))
    dzv.write_points(dzv.open(target, "r+"), positions, attributes={"mass": np.arange(50.0)}, mode="overwrite")
    with pytest.raises(dzv.PlanError, match=CHANGED):
        planned.compute(scheduler="sync")
    assert sorted(column(target, "mass")) == list(range(50))


def test_of_two_edits_at_once_one_is_refused_before_it_replaces_anything(tmp_path, monkeypatch):
    target = str(tmp_path / "points.zv")
    make(target)
    said = []

    def meanwhile(*args, encode=edit_attributes._encode):
        if not said:
            said.append("")
            for edit in EDITS.values():
                with pytest.raises(dzv.PlanError, match=CHANGED) as caught:
                    edit(dzv.open(target, "r+"))
                said.append(str(caught.value))
            with pytest.raises(dzv.PlanError, match=CHANGED):
                dzv.open(target, "r+").delete_objects([0])
        return encode(*args)

    monkeypatch.setattr(edit_attributes, "_encode", meanwhile)
    with dask.config.set(scheduler="sync"):
        EDITS["set"](dzv.open(target, "r+"))
    assert len(said) == 1 + len(EDITS)
    np.testing.assert_array_equal(column(target, "mass"), VALUES)
    assert dzv.open(target).level(0).attributes == ("mass",)
    assert dzv.validate(target).ok
    assert not [p for p in files(target, "0") if "dask_zv_lock" in p.name]


def test_an_edit_that_lost_its_process_lets_others_begin(tmp_path):
    target = str(tmp_path / "points.zv")
    make(target)
    code = """
import os, sys, dask, numpy as np, dask_zv as dzv
from dask_zv.maintain import edit_attributes
edit_attributes._encode = lambda *_: os._exit(3)
with dask.config.set(scheduler="sync"):
    dzv.open(sys.argv[1], "r+").set_attribute("mass", np.zeros(300))
"""
    assert subprocess.run([sys.executable, "-c", code, target], check=False).returncode == 3
    assert [p for p in files(target, "0") if "dask_zv_lock" in p.name]
    dzv.open(target, "r+").set_attribute("mass", VALUES)
    np.testing.assert_array_equal(column(target, "mass"), VALUES)


def test_a_renamed_dictionary_is_the_one_that_is_there(tmp_path):
    target = str(tmp_path / "points.zv")
    make(target, layout="per_chunk")
    dzv.open(target, "r+").set_attribute("word", WORDS)
    planned = dzv.open(target, "r+").rename_attribute("word", "name", compute=False)
    dzv.open(target, "r+").set_attribute("word", np.char.add(WORDS, "x"))  # by the same codes
    with pytest.raises(dzv.PlanError, match=CHANGED):
        planned.compute(scheduler="sync")
    dzv.open(target, "r+").rename_attribute("word", "name")
    np.testing.assert_array_equal(column(target, "name"), np.char.add(WORDS, "x"))


@pytest.mark.parametrize("edit", ["rename", "drop", "drop of objects", "rename of objects", "deletion"])
def test_who_opened_before_an_edit_is_told(tmp_path, edit):
    target = str(tmp_path / "points.zv")
    make(target)
    level = dzv.open(target).level(0)
    assert level.attributes == ("mass",)
    lazy = xr.open_dataset(target, engine="zv", chunks={})
    {**EDITS, **OTHERS}[edit](dzv.open(target, "r+"))
    tables = edit.endswith("of objects")  # a level takes them as they are at its first reading
    for read in (lambda: lazy[["size" if tables else "mass"]].load(), *([] if tables else [level.read])):
        with pytest.raises(dzv.FormatError, match="rewritten after it was opened: open it again"):
            read()


def test_names_of_coordinates_are_shown_as_those_of_a_write_are(tmp_path):
    target = str(tmp_path / "points.zv")
    make(target)
    store = dzv.open(target, "r+")
    store.set_attribute("vertex", VALUES)
    store.set_object_attribute("x", np.arange(7))
    ds = xr.open_dataset(target, engine="zv")
    np.testing.assert_array_equal(ds["vertex_vertex"], VALUES)
    np.testing.assert_array_equal(ds["object_x"], np.arange(7))
    with pytest.raises(dzv.InputError, match="object_ids="):
        store.set_attribute("object_id", VALUES)
