"""Objects of the grid generation: ids in any order, attributes with absent rows, groups as lists and ranges."""

from __future__ import annotations

from pathlib import Path

import dask
import numpy as np
import pandas as pd
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.buffer import default_buffer_prototype
from zarr.storage import MemoryStore, ZipStore

import dask_zv as dzv
from dask_zv.format.manifests import encode_manifest
from dask_zv.geometry.block import BlockExtra, Fragments
from dask_zv.geometry.schema import PointSchema
from dask_zv.graph.builder import GraphBuilder
from dask_zv.level.object_index import ObjectIndex, fragment_owners
from dask_zv.level.object_tables import ObjectTables
from dask_zv.level.source import MANIFESTS_CRC32C, LevelSource
from dask_zv.spatial.grid import ChunkGrid
from dask_zv.storage.handles import open_objects
from dask_zv.storage.nodes import merge_attributes
from dask_zv.storage.specs import BlockResult, Place
from dask_zv.storage.targets import resolve_target
from dask_zv.write import manifests
from dask_zv.write.object_plan import expand_ranges, plan_objects, rows_of_ranges
from dask_zv.write.scan import id_ranges

GOLDEN = Path(__file__).parents[1] / "data" / "golden_0.9"
TRUTHS = {f.name.removesuffix(".expected.npz"): f for f in GOLDEN.glob("*.expected.npz")}
WITH_OBJECTS = sorted(n for n, f in TRUTHS.items() if "manifest" in np.load(f).files)


def source_of(target, prefix="0", rank=3, *, read_only=True):
    """Return a level as its readers carry it, whatever its arrays of chunks."""
    handle, root = resolve_target(target, None, read_only=read_only)
    schema = PointSchema(ChunkGrid((1.0,) * rank, (1,) * rank), np.dtype("f4"), (), True)
    return LevelSource(Place(handle, "/".join(p for p in (root, prefix) if p), "grid"), schema, None, "", False)


def golden(name, level="0"):
    path = next(p for p in GOLDEN.glob(f"{name}.zarrvectors*"))
    store = ZipStore(path, mode="r") if path.suffix == ".zip" else zarr.storage.LocalStore(path, read_only=True)
    index = dict(zarr.open_group(store, mode="r")[level]["object_index"].attrs)
    with np.load(TRUTHS[name]) as truth:
        return source_of(store, level, index["sid_ndim"]), dict(truth)


def memory(arrays):
    """Return a level of these arrays, in a store of its own."""
    store = MemoryStore()
    root = zarr.open_group(store, mode="w")
    for path, (values, options, attributes) in arrays.items():
        dtype = "variable_length_bytes" if values.dtype == object else values.dtype
        made = root.create_array(f"0/{path}", shape=values.shape, dtype=dtype, attributes=attributes, **options)
        made[...] = values
    return store


def as_entries(table):
    return np.column_stack([table.objects, table.chunks, table.fragments])


def without_places(manifest):
    """Return the truth's rows (object, place in the manifest, chunk, fragment) without the second column, by object."""
    order = np.lexsort((manifest[:, 1], manifest[:, 0]))
    return np.delete(manifest[order], 1, axis=1)


# ------------------------------------------------------------------------------------------- stores of the package


@pytest.mark.parametrize("name", WITH_OBJECTS)
def test_golden_manifests_are_read_whole_and_by_object(name):
    source, truth = golden(name)
    expected = without_places(truth["manifest"])
    index = ObjectIndex(source)
    found = np.concatenate([as_entries(t) for t in index.slices()])
    assert index.count == len(index.ids)
    assert (found == expected).all()
    assert (as_entries(fragment_owners(source, np.zeros((0, source.rank), np.int64))) == expected).all()
    for wanted in (index.ids[:1], index.ids[-2:], index.ids[::3], index.ids[:0]):
        assert (as_entries(index.select(wanted)) == expected[np.isin(expected[:, 0], wanted)]).all()


@pytest.mark.parametrize("name", WITH_OBJECTS)
def test_golden_object_attributes_are_those_of_the_ids(name):
    source, truth = golden(name)
    index = ObjectIndex(source)
    found = index.attributes()
    names = {k.removeprefix("oattr__") for k in truth if k.startswith("oattr__")}
    assert set(found) == names
    if names:
        rows = index.rows(truth["oattr_ids"])
        for key in names:
            assert not np.ma.isMaskedArray(found[key])
            assert found[key].dtype == truth[f"oattr__{key}"].dtype
            assert np.array_equal(found[key][rows], truth[f"oattr__{key}"])


@pytest.mark.parametrize("name", WITH_OBJECTS)
def test_golden_groups(name):
    source, truth = golden(name)
    groups, attributes = ObjectTables(source).groups
    offsets = truth.get("groups_offsets", np.zeros(1, int))
    assert list(groups) == list(range(len(offsets) - 1))
    for g, members in groups.items():
        assert members.dtype == np.int64
        assert members.tolist() == truth["groups_flat"][offsets[g] : offsets[g + 1]].tolist()
    assert {f"gattr__{k}" for k in attributes} == {k for k in truth if k.startswith("gattr__")}
    for key, values in attributes.items():
        assert np.array_equal(values, truth[f"gattr__{key}"])


@pytest.mark.parametrize("level", ["1", "2"])
def test_golden_pyramid_levels(level):
    source, truth = golden("streamlines_pyramid", level)
    index = ObjectIndex(source)
    found = np.concatenate([as_entries(t) for t in index.slices()])
    assert (found == without_places(truth[f"L{level}_manifest"])).all()
    for key, values in index.attributes().items():
        assert np.array_equal(np.ma.getdata(values), truth[f"L{level}_oattr__{key}"], equal_nan=values.dtype.kind == "f")


def test_sparse_ids_are_not_rows():
    source, _ = golden("points_sparse_ids")
    index = ObjectIndex(source)
    assert index.ids.tolist() == [3, 7, 19, 41, 100]
    assert index.rows(np.array([100, 7])).tolist() == [4, 1]
    for unknown in (0, 4, 101, -1):
        with pytest.raises(dzv.NotFoundError, match=f"no object {unknown}:"):
            index.select(np.array([unknown]))


# ------------------------------------------------------------------------------------------------- made by hand

VLEN = {"serializer": zarr.codecs.VLenBytesCodec(), "fill_value": b""}


def manifests_of(*objects):
    out = np.empty(len(objects), object)
    out[:] = [encode_manifest(np.array([c for c, _ in o]).reshape(-1, 3), [f for _, f in o]) for o in objects]
    return out


def index_arrays(ids, *, layout="vlen_manifests_v2", chunk=2, count=None):
    """Return an index in which the object of row r has one fragment, r, of chunk (0, 0, r % 2)."""
    manifests = manifests_of(*([((0, 0, r % 2), r)] for r in range(count or len(ids))))
    arrays = {"object_index/manifests": (manifests, {"chunks": (chunk,), **VLEN}, {})}
    if ids is not None:
        arrays["object_index/object_ids"] = np.array(ids, np.int64), {"chunks": (chunk,), "fill_value": 0}, {}
    attrs = {"num_objects": count or len(ids), "sid_ndim": 3, "layout": layout}
    return arrays, attrs


def made_index(ids, arrays=None, **options):
    own, attrs = index_arrays(ids, **options)
    store = memory(own | (arrays or {}))
    zarr.open_group(store, mode="r+")["0/object_index"].attrs.update(attrs)
    return store


@given(ids=st.lists(st.integers(0, 60), min_size=1, max_size=12, unique=True), data=st.data())
@settings(max_examples=40, deadline=None)
def test_ids_in_any_order(ids, data):
    source = source_of(made_index(ids, chunk=3))
    index = ObjectIndex(source)
    assert index.ids.tolist() == ids
    wanted = np.array(sorted(data.draw(st.lists(st.sampled_from(ids), unique=True))), np.int64)
    found = index.select(wanted)
    assert found.objects.tolist() == wanted.tolist()
    assert found.fragments.tolist() == [ids.index(i) for i in wanted]
    assert fragment_owners(source, np.zeros((0, source.rank), np.int64)).objects.tolist() == sorted(ids)
    unknown = data.draw(st.integers(-3, 70).filter(lambda i: i not in ids))
    with pytest.raises(dzv.NotFoundError, match=f"no object {unknown}:"):
        index.select(np.sort(np.append(wanted, unknown)))


def test_a_table_of_zeros_may_have_no_chunk():
    store = made_index([0])
    assert "0/object_index/object_ids/c/0" not in store._store_dict
    assert ObjectIndex(source_of(store)).select(np.array([0])).fragments.tolist() == [0]


def test_layout_1_takes_rows_for_ids_whatever_table_is_left():
    store = made_index([9, 4, 7], layout="vlen_manifests_v1", count=5)
    index = ObjectIndex(source_of(store))
    assert index.ids.tolist() == [0, 1, 2, 3, 4]
    assert index.select(np.array([2, 4])).fragments.tolist() == [2, 4]
    with pytest.raises(dzv.NotFoundError):
        index.select(np.array([9]))


@pytest.mark.parametrize(
    ("ids", "options", "error", "match"),
    [
        ([4, 4, 5], {}, dzv.FormatError, "id 4 twice"),
        ([5, 4, 5], {}, dzv.FormatError, "id 5 twice"),
        ([4, -1, 5], {}, dzv.FormatError, "row 1 of object_ids is -1"),
        ([1, 2, 3], {"count": 4}, dzv.FormatError, "counts 4 objects"),
        ([1, 2, 3], {"layout": "vlen_manifests_v3"}, dzv.MetadataError, "vlen_manifests_v3"),
        ([1, 2, 3], {"layout": None}, dzv.MetadataError, "layout None"),
    ],
)
def test_an_index_that_contradicts_itself(ids, options, error, match):
    source = source_of(made_index(ids, **options))
    with pytest.raises(error, match=match) as raised:
        _ = ObjectIndex(source).ids
    assert raised.value.store == source.where()


def test_manifests_that_are_too_few():
    store = made_index([1, 2, 3])
    zarr.open_array(store, path="0/object_index/manifests", mode="r+").resize((2,))
    with pytest.raises(dzv.FormatError, match="manifests has the shape"):
        ObjectIndex(source_of(store)).select(np.array([1]))


def test_a_lost_chunk_of_ids_or_manifests_is_no_other_object():
    store = made_index([5, 6, 7, 8])
    zarr.open_array(store, path="0/object_index/manifests", mode="r+").attrs[MANIFESTS_CRC32C] = [1, 2]
    del store._store_dict["0/object_index/manifests/c/1"]
    index = ObjectIndex(source_of(store))
    assert index.select(np.array([5])).fragments.tolist() == [0]
    with pytest.raises(dzv.StoreError, match="manifests/c/1"):
        index.select(np.array([5, 8]))
    del store._store_dict["0/object_index/object_ids/c/1"]
    with pytest.raises(dzv.FormatError, match="id 0 twice"):
        ObjectIndex(source_of(store)).select(np.array([5]))


def attribute(values, fill, chunk=2, **attributes):
    values = np.asarray(values)
    return values, {"chunks": (chunk, *values.shape[1:]), "fill_value": fill}, attributes


def read_attribute(values, fill, count, **attributes):
    store = made_index(list(range(10, 10 + count)), {"object_attributes/a": attribute(values, fill, **attributes)})
    source = source_of(store)
    return ObjectIndex(source).attributes()["a"]


ABSENT = {"fill_sentinel_meaning": "absent"}
SENTINELS = [
    (np.array([1.5, np.nan, 3], "f4"), np.nan),
    (np.array([7, -128, 0], "i1"), -128),
    (np.array([7, 2**64 - 1, 0], "u8"), 2**64 - 1),
    (np.array(["Zürich", "", "a"], "U6"), ""),
]


@pytest.mark.parametrize(("values", "fill"), SENTINELS)
def test_a_row_of_the_sentinel_is_absent(values, fill):
    found = read_attribute(values, fill, 3, **ABSENT)
    assert found.mask.tolist() == [False, True, False]
    assert found.dtype == values.dtype
    assert found[[0, 2]].tolist() == values[[0, 2]].tolist()
    plain = read_attribute(values[[0, 2]], fill, 2, **ABSENT)
    assert not np.ma.isMaskedArray(plain)
    unmarked = read_attribute(values, fill, 3)
    assert not np.ma.isMaskedArray(unmarked)
    assert np.array_equal(unmarked, values, equal_nan=values.dtype.kind == "f")


def test_a_row_is_absent_in_all_components_or_in_none():
    values = np.array([[1, np.nan], [np.nan, np.nan], [2, 3]])
    assert read_attribute(values, np.nan, 3, **ABSENT).mask.tolist() == [[False] * 2, [True] * 2, [False] * 2]


def test_columns_of_an_appender_may_be_short_or_have_remains():
    assert read_attribute(np.array([1, 2], "i4"), -(2**31), 3, **ABSENT).mask.tolist() == [False, False, True]
    assert read_attribute(np.array([1, 2, 3, 4], "i4"), -(2**31), 3, **ABSENT).tolist() == [1, 2, 3]
    with pytest.raises(dzv.FormatError, match="2 rows for 3 objects"):
        read_attribute(np.array([1, 2], "i4"), 0, 3)


def test_a_lost_chunk_of_an_attribute():
    values = np.arange(6, dtype="i4").reshape(6, 1)
    for ours in (True, False):
        extra = {**ABSENT, **({MANIFESTS_CRC32C: [1, 2, 3]} if ours else {})}
        store = made_index(list(range(6)), {"object_attributes/a": attribute(values, -1, **extra)})
        del store._store_dict["0/object_attributes/a/c/1/0"]
        source = source_of(store)
        if ours:
            with pytest.raises(dzv.StoreError, match="object_attributes/a/c/1/0' is missing"):
                ObjectIndex(source).attributes()
        else:
            found = ObjectIndex(source).attributes()["a"]
            assert found.mask.ravel().tolist() == [False, False, True, True, False, False]


def test_a_damaged_or_undocumented_attribute_names_its_array():
    store = made_index([1, 2], {"object_attributes/a": attribute(np.arange(2.0), np.nan)})
    source = source_of(store)
    (key,) = [k for k in store._store_dict if k.startswith("0/object_attributes/a/c/")]
    store._store_dict[key] = default_buffer_prototype().buffer.from_bytes(b"no frame")
    with pytest.raises(dzv.FormatError, match="object_attributes/a"):
        ObjectIndex(source).attributes()
    del store._store_dict["0/object_attributes/a/zarr.json"]
    with pytest.raises(dzv.StoreError, match="the document of 'object_attributes/a' is missing"):
        ObjectIndex(source).attributes()


def group_array(members, **attributes):
    values = np.empty(len(members), object)
    values[:] = [np.array(m, "<i8").tobytes() for m in members]
    return values, {"chunks": (max(len(members), 1),), **VLEN}, {"num_groups": len(members), **attributes}


def test_groups_as_lists_and_ranges():
    store = memory({"groups": group_array([[9, 3], [], []], group_ranges={"2": [4, 7]})})
    groups, attributes = ObjectTables(source_of(store)).groups
    assert {g: m.tolist() for g, m in groups.items()} == {0: [9, 3], 1: [], 2: [4, 5, 6]}
    assert attributes == {}
    assert ObjectTables(source_of(memory({"x": group_array([])}))).groups == ({}, {})


@pytest.mark.parametrize(
    "bad",
    [
        {"group_ranges": {"3": [1, 2]}},
        {"group_ranges": {"-1": [1, 2]}},
        {"group_ranges": {"0": [3, 1]}},
        {"group_ranges": {"0": [0, 2**60]}},
        {"group_ranges": {"0": [0.5, 2]}},
        {"group_ranges": [1]},
        {"num_groups": 4},
    ],
)
def test_groups_that_contradict_themselves(bad):
    source = source_of(memory({"groups": group_array([[9, 3], [], [-1][:0]], **bad)}))
    with pytest.raises(dzv.FormatError) as raised:
        _ = ObjectTables(source).groups
    assert raised.value.array == "groups"
    assert raised.value.store == source.where()


def test_members_that_are_no_ids():
    for damage in ([[-1]], [[1, 2]]):
        values, options, attributes = group_array(damage)
        values[0] = values[0][:8] if damage == [[-1]] else values[0][:-3]
        with pytest.raises(dzv.FormatError, match="group 0"):
            _ = ObjectTables(source_of(memory({"groups": (values, options, attributes)}))).groups


# ----------------------------------------------------------------------------------------------------- what we write


def written(place, fragments, *, attributes=None, groups=None, blocks=3, per_task=None, override=None):
    """Write the objects of `fragments`, rows (id, chunk, fragment), and what the commit says of them."""
    if per_task is not None:
        override(objects_per_task=per_task)
    fragments = np.asarray(fragments, np.int64).reshape(-1, 5)
    plan = plan_objects(id_ranges(fragments[:, 0]), attributes, groups, layout="grid")
    builder = GraphBuilder("t")
    results = []
    for b, rows in enumerate(np.array_split(fragments, blocks)):
        nothing = np.zeros(len(rows), np.int64)
        found = Fragments(rows[:, 0], rows[:, 1:4], rows[:, 4], nothing, nothing, nothing)
        extra = BlockExtra(found) if len(rows) else None
        results.append(builder.add(f"block-{b}", BlockResult, None, 0.0, 0.0, extra))
    nodes_first = open_objects(place.handle).nodes_first
    ends, _ = manifests.write_object_index(builder, place, plan, 3, results, nodes_first=nodes_first)
    dask.get(builder.tasks, [str(e.key) for e in ends])
    objects = open_objects(place.handle)
    for path, attrs in manifests.object_metadata(plan, 3, "grid"):
        merge_attributes(objects, f"{place.prefix}/{path}", attrs)
    return plan


def place_in(target):
    handle, _ = resolve_target(target, None, read_only=False)
    merge_attributes(open_objects(handle), "0", {})
    return Place(handle, "0", "grid")


def random_fragments(rng, ids, most=4):
    n = rng.integers(1, most, len(ids))
    out = np.column_stack([np.repeat(ids, n), rng.integers(-3, 3, (int(n.sum()), 3)), np.arange(int(n.sum()))])
    return out[rng.permutation(len(out))]


def in_order(fragments):
    return fragments[np.lexsort((fragments[:, 4], *fragments[:, 3:0:-1].T, fragments[:, 0]))]


ID = st.one_of(st.integers(0, 30), st.integers(0, 2**63 - 1))


@given(ids=st.lists(ID, min_size=1, max_size=30, unique=True), seed=st.integers(0, 99), data=st.data())
@settings(max_examples=40, deadline=None)
def test_what_is_written_is_read(ids, seed, data):
    rng = np.random.default_rng(seed)
    fragments = random_fragments(rng, np.array(ids))
    extra = data.draw(st.lists(ID, max_size=3, unique=True))
    every = np.array(sorted({*ids, *extra}))
    frame = pd.DataFrame({"x": rng.normal(size=len(every)), "s": [f"o{i}" for i in every]}, index=every)[: len(every) - 1]
    frame = pd.concat([frame, frame.iloc[:0]]).reindex(rng.permutation(frame.index))
    every = np.array(sorted({*ids, *frame.index}))
    members = data.draw(st.lists(st.sampled_from(every.tolist()), max_size=4))
    store = MemoryStore()
    plan = written(place_in(store), fragments, attributes=frame, groups={2: members})
    source = source_of(store)
    index = ObjectIndex(source)
    assert plan.count == index.count == len(every)
    assert index.ids.tolist() == every.tolist()
    assert (np.concatenate([as_entries(t) for t in index.slices()]) == in_order(fragments)).all()
    found = index.attributes()
    for name in frame:
        expected = frame[name].reindex(every)
        assert np.ma.getmaskarray(found[name]).tolist() == expected.isna().tolist()
        assert found[name][index.rows(frame.index.to_numpy())].tolist() == frame[name].tolist()
    assert {g: m.tolist() for g, m in ObjectTables(source).groups[0].items()} == {0: [], 1: [], 2: members}
    attrs = zarr.open_group(store, mode="r")["0/object_index"].attrs
    assert (attrs["num_objects"], attrs["num_present"]) == (len(every), len(set(ids)))


@pytest.mark.parametrize("blocks", [1, 7])
def test_many_objects_go_by_several_tasks(override, blocks):
    rng = np.random.default_rng(0)
    ids = np.sort(rng.choice(10**9, 70_000, replace=False))
    fragments = random_fragments(rng, ids, 2)
    store = MemoryStore()
    values = np.arange(2 * len(ids), dtype="u2").reshape(-1, 2)
    place = place_in(store)
    written(place, fragments, attributes={"v": values}, blocks=blocks, per_task=1 << 15, override=override)
    source = source_of(store)
    index = ObjectIndex(source)
    assert (np.concatenate([as_entries(t) for t in index.slices()]) == in_order(fragments)).all()
    assert np.array_equal(np.ma.getdata(index.attributes()["v"]), values)
    names = sorted(k.removeprefix("0/object_index/") for k in store._store_dict if "/c/" in k and "index" in k)
    assert names == ["manifests/c/0", *(f"manifests/c/{i}" for i in range(1, 5)), "object_ids/c/0", "object_ids/c/1"]


@pytest.mark.parametrize(
    "values",
    [
        np.array([0, 0], "i8"),
        np.array([np.nan, np.nan], "f2"),
        np.array([255, 3], "u1"),
        np.array(["", ""], "U"),
        np.array(["a\U0001f600", "bcd"], object),
        np.array([[1, 2], [3, 4]], ">i2"),
        np.zeros((2, 2, 3), "f8"),
    ],
    ids=lambda v: f"{v.dtype}{v.shape}",
)
def test_plain_zarr_reads_attributes(values):
    store = MemoryStore()
    written(place_in(store), [[0, 0, 0, 0, 0], [9, 0, 0, 0, 1]], attributes={"a": values})
    found = zarr.open_group(store, mode="r")["0/object_attributes/a"]
    assert np.asarray(found[...]).tolist() == values.tolist() or (found[...] != found[...]).all()
    assert found.chunks == found.shape
    assert found.attrs["shape"] == list(values.shape)
    assert zarr.open_group(store, mode="r")["0/object_index/object_ids"][:].tolist() == [0, 9]


def everything(source):
    index = ObjectIndex(source)
    attributes = index.attributes().items()
    return (
        [as_entries(t).tolist() for t in index.slices()],
        {k: v.tolist() for k, v in attributes},
        str(ObjectTables(source).groups),
    )


def test_every_lost_object_is_noticed():
    store = MemoryStore()
    frame = pd.DataFrame({"a": [1.0, np.nan], "b": ["x", None]}, index=[0, 5])
    written(place_in(store), [[0, 0, 0, 0, 0]], attributes=frame, groups={0: [], 1: []})
    source = source_of(store)
    whole = dict(store._store_dict)
    groups = ("0/zarr.json", "0/object_index/zarr.json", "0/object_attributes/zarr.json")
    ours = "0/dask_zv_objects/"  # lengths of objects, which the xarray view of objects alone asks for
    lost = [k for k in whole if k.startswith("0/") and k not in groups and not k.startswith(ours)]
    assert len(lost) == 10
    for key in lost:
        store._store_dict.clear()
        store._store_dict.update({k: v for k, v in whole.items() if k != key})
        with pytest.raises((dzv.StoreError, dzv.FormatError)):
            everything(source)


def test_every_damaged_chunk_is_noticed():
    store = MemoryStore()
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"a": rng.normal(size=20)}, index=range(20))
    written(place_in(store), random_fragments(rng, np.arange(0, 40, 2)), attributes=frame, groups={0: [2, 4, 38]})
    source = source_of(store)
    truth = everything(source)
    whole = {k: v.to_bytes() for k, v in store._store_dict.items()}
    noticed = 0
    for key in [k for k in whole if "/c/" in k]:
        for at in range(0, len(whole[key]), 3):
            data = bytearray(whole[key])
            data[at] ^= 1 << rng.integers(8)
            store._store_dict[key] = default_buffer_prototype().buffer.from_bytes(bytes(data))
            try:  # a frame of Zstandard has bits that say nothing
                assert everything(source) == truth
            except dzv.FormatError:
                noticed += 1
        store._store_dict[key] = default_buffer_prototype().buffer.from_bytes(whole[key])
    assert noticed > 50


def test_writing_again_leaves_nothing_of_other_shapes():
    store = MemoryStore()
    place = place_in(store)
    written(place, [[i, 0, 0, 0, i] for i in range(9)], attributes={"a": np.zeros((9, 3)), "b": np.zeros(9)}, groups={0: [1]})
    plan = written(place, [[4, 0, 0, 0, 0]], attributes={"a": np.array(["x"])}, groups={0: [4]})
    objects = open_objects(place.handle)
    old = manifests.old_object_nodes(objects, "0", plan, "grid")
    assert sorted(old) == ["group_attributes", "object_attributes/b"]
    for node in old:
        objects.delete_prefix(f"0/{node}")
    source = source_of(store)
    index = ObjectIndex(source)
    assert {k: v.tolist() for k, v in index.attributes().items()} == {"a": ["x"]}
    assert index.ids.tolist() == [4]
    nothing = plan_objects(np.zeros((0, 2), np.int64), None, None, layout="grid")
    assert set(manifests.old_object_nodes(objects, "0", nothing, "grid")) == {
        "group_attributes", "groups", "object_attributes", "object_index/manifests", "object_index/object_ids",
        "dask_zv_objects",
    }  # fmt: skip
    assert manifests.object_metadata(nothing, 3, "grid")[-1][1]["num_objects"] == 0


def test_icechunk_has_documents_before_chunks(tmp_path):
    icechunk = pytest.importorskip("icechunk")
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path)))
    fragments = random_fragments(np.random.default_rng(1), np.array([4, 8, 15, 16, 23, 42]))
    for values in (np.arange(12.0).reshape(6, 2), np.array(list("abcdef"))):  # the second write is over the first
        session = repository.writable_session("main")
        written(place_in(session.store), fragments, attributes={"a": values}, groups={1: [42, 4]})
        session.commit("objects")
        found = everything(source_of(repository.readonly_session("main").store))
        assert np.concatenate(found[0]).tolist() == in_order(fragments).tolist()
        assert found[1] == {"a": values.tolist()}
        assert "array([42,  4])" in found[2]
    # objects without a vertex: no block made the nodes
    session = repository.writable_session("main")
    written(place_in(session.store), [], attributes=pd.DataFrame({"a": [1]}, index=[5]), blocks=1)
    assert everything(source_of(session.store))[1] == {"a": [1]}


ONE = np.array([[3, 4]])


@pytest.mark.parametrize(
    ("ids", "attributes", "groups", "match"),
    [
        ([[-1, 2]], None, None, "not -1"),
        (ONE, {"a": np.zeros(2)}, None, "2 rows for 1 objects"),
        (ONE, {"a": np.array([True])}, None, "astype"),
        (ONE, {"a": np.array([1j])}, None, "numbers or strings"),
        (ONE, {"a": np.array(["2020-01-01"], "M8[s]")}, None, "numbers or strings"),
        (ONE, {"a": np.array([b"x"])}, None, "numbers or strings"),
        (ONE, {"a": np.array([{}], object)}, None, "numbers or strings"),
        (ONE, {"a": np.array(["x\0"], object)}, None, "NUL"),
        (ONE, {"a": np.zeros((1, 0))}, None, "no components"),
        (ONE, {"a": np.zeros(1, "g")}, None, "absent"),
        (ONE, {"a/b": np.zeros(1)}, None, "without '/'"),
        (ONE, {"a": np.float64(3)}, None, "numbers or strings"),
        (ONE, pd.DataFrame({"a": [1.0]}, index=[-1]), None, "distinct object ids"),
        (ONE, pd.DataFrame({"a": [1.0]}, index=np.array([2**63], "u8")), None, str(2**63)),
        (ONE, None, {0: [2]}, "names object 2"),
        (ONE, None, {0: np.array([2**63], "u8")}, str(2**63)),
        (ONE, None, {-1: [3]}, "numbered from 0"),
    ],
)
def test_objects_that_can_not_be_written(ids, attributes, groups, match):
    with pytest.raises(dzv.InputError, match=match):
        plan_objects(np.asarray(ids), attributes, groups, layout="grid")


def test_data_that_changes_between_two_readings():
    store = MemoryStore()
    place = place_in(store)
    plan = plan_objects(np.array([[3, 4], [9, 10]]), None, None, layout="grid")
    builder = GraphBuilder("t")
    nothing = np.zeros(1, np.int64)
    extra = BlockExtra(Fragments(np.array([5]), np.zeros((1, 3), np.int64), *[nothing] * 4))
    result = builder.add("block", BlockResult, None, 0.0, 0.0, extra)
    ends, _ = manifests.write_object_index(builder, place, plan, 3, [result], nodes_first=False)
    end = ends[-1]
    with pytest.raises(dzv.PlanError, match="object 5"):
        dask.get(builder.tasks, str(end.key))


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 6)), min_size=1, max_size=8), st.integers(1, 9))
def test_rows_are_cut_where_they_were_asked_to_be(steps, step):
    edges = np.cumsum(np.array(steps).ravel()).reshape(-1, 2)  # gap, length, gap, length …
    every = np.concatenate([np.arange(a, b) for a, b in edges])
    assert expand_ranges(edges).tolist() == every.tolist()
    assert rows_of_ranges(edges, every).tolist() == list(range(len(every)))
    others = np.setdiff1d(np.arange(-1, every[-1] + 3), every)
    assert (rows_of_ranges(edges, others) == -1).all()
    plan = plan_objects(edges, None, None, layout="grid")
    for first, part in plan.cut(step):
        assert expand_ranges(part).tolist() == every[first : first + step].tolist()


# ---------------------------------------------------------------------------------------- through the public functions


def points_of(rng, ids, n=200):
    return rng.uniform(0, 40, (n, 3)).astype("f4"), rng.choice(ids, n)


def grid_store(target=None):
    return dzv.create({} if target is None else target, chunk_shape=(10, 10, 10), layout="grid")


def rows_sorted(positions):
    return positions[np.lexsort(positions.T)].tolist()


@given(ids=st.lists(ID, min_size=1, max_size=8, unique=True), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_points_of_sparse_objects(ids, seed):
    rng = np.random.default_rng(seed)
    positions, owners = points_of(rng, np.array(ids), 60)
    store = grid_store()
    known = np.unique(owners)
    frame = pd.DataFrame({"w": rng.normal(size=len(known)), "s": known.astype(str)}, index=known).sample(frac=1, random_state=1)
    report = dzv.write_points(store, positions, object_ids=owners, object_attributes=frame, groups={1: known[:2]})
    assert report.objects == len(known)
    level = store.level(0)
    whole = level.read(order="object")
    assert whole.ids.tolist() == whole.object_index.tolist() == known.tolist()
    assert whole.object_attributes["w"].tolist() == frame["w"].sort_index().tolist()
    assert {g: m.tolist() for g, m in whole.groups.items()} == {0: [], 1: known[:2].tolist()}
    some = level.read(objects=known[::2])
    assert some.object_attributes["s"].tolist() == known[::2].astype(str).tolist()
    for one in known[::2]:
        assert rows_sorted(some.positions[some.object_ids == one]) == rows_sorted(positions[owners == one])


def test_objects_without_vertices_and_without_attributes():
    positions, owners = points_of(np.random.default_rng(0), [7, 9])
    store = grid_store()
    dzv.write_points(store, positions, object_ids=owners, object_attributes=pd.DataFrame({"w": [1.0, 2]}, index=[8, 9]))
    found = store.level(0).read(order="object", objects=[7, 8])
    assert found.ids.tolist() == [7, 8]
    assert found.lengths.tolist() == [(owners == 7).sum(), 0]
    assert found.object_attributes["w"].mask.tolist() == [True, False]


def test_other_ids_of_the_same_manifests_are_not_kept_in_memory():
    positions, _ = points_of(np.random.default_rng(0), [0])
    store = grid_store()
    for one in (5, 9, 5):
        dzv.write_points(store, positions, object_ids=np.full(len(positions), one), mode="overwrite")
        assert set(store.level(0).read().object_ids.tolist()) == {one}


def test_overwriting_leaves_no_object_behind(tmp_path):
    rng = np.random.default_rng(0)
    store = grid_store(str(tmp_path / "s.zarr"))
    positions, owners = points_of(rng, np.arange(0, 200, 3), 3000)
    n = len(np.unique(owners))
    attributes = {"a": rng.normal(size=(n, 2)), "b": np.arange(n)}
    dzv.write_points(store, positions, object_ids=owners, object_attributes=attributes, groups={0: [0, 3]})
    positions, owners = points_of(rng, [4], 50)
    dzv.write_points(store, positions, object_ids=owners, object_attributes={"a": np.array(["x"])}, mode="overwrite")
    found = dzv.open(str(tmp_path / "s.zarr")).level(0).read()
    assert found.object_index.tolist() == [4]
    assert {k: v.tolist() for k, v in found.object_attributes.items()} == {"a": ["x"]}
    assert found.groups == {}
    dzv.write_points(store, positions, mode="overwrite")
    assert sorted(p.name for p in (tmp_path / "s.zarr" / "0").iterdir() if "object" in p.name or "group" in p.name) == []


def test_an_overwrite_by_no_points_leaves_no_ids(tmp_path):
    target = tmp_path / "s.zarr"
    store = dzv.create(str(target), chunk_shape=(10, 10, 10), bounds=([0] * 3, [40] * 3), layout="grid")
    positions, owners = points_of(np.random.default_rng(0), [4, 9])
    dzv.write_points(store, positions, object_ids=owners, object_attributes={"0.1": np.arange(2)}, groups={0: [4]})
    dzv.write_points(store, positions, object_ids=owners, object_attributes={"0.1": np.arange(2)}, mode="overwrite")
    assert store.level(0).read().object_attributes["0.1"].tolist() == [0, 1]
    outside = {"out_of_bounds": "ignore", "mode": "overwrite"}
    dzv.write_points(store, positions + 100, object_ids=owners, object_attributes={"a": np.zeros(0)}, **outside)
    found = store.level(0).read()
    assert found.object_index.tolist() == []
    assert {k: v.tolist() for k, v in found.object_attributes.items()} == {"a": []}
    assert sorted(p.name for p in (target / "0" / "object_index").iterdir()) == ["zarr.json"]
