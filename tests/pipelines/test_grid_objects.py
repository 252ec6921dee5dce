"""Objects of the grid generation: ids in any order, attributes with absent rows, groups as lists and ranges; also by other tools."""

import numpy as np
import pandas as pd
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from points_reference import CATALOG
from small import always, sizes
from zarr.buffer import cpu
from zarr.storage import MemoryStore

import dask_zv as dzv

VLEN = {"dtype": "variable_length_bytes", "serializer": zarr.codecs.VLenBytesCodec(), "fill_value": b""}
CRC = "dask_zv_crc32c"
ID = st.one_of(st.integers(0, 30), st.integers(0, 2**63 - 1))

_sync = always(scheduler="sync")
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification")


def level_of(target):
    return dzv.open(target).level(0)


def one_vertex_each(n, **about):
    """Return a store in a dict of objects 0 to n-1, of one vertex each, in chunks of their own."""
    target = {}
    points = np.arange(n)[:, None] * [10, 0, 0] + 5.0
    about = {"object_ids": np.arange(n), "attributes": {"row": np.arange(n)}, **about}
    dzv.write_points(dzv.create(target, chunk_shape=(10, 10, 10)), points, **about)
    return target


def put(target, path, values, chunk=2, **options):
    """Make an array anew, as another tool would; blobs are given as objects, attributes as `attributes`."""
    values = np.asarray(values)
    kind = VLEN if values.dtype == object else {"dtype": values.dtype}
    shape = {"shape": values.shape, "chunks": (chunk, *values.shape[1:])}
    store = MemoryStore(target)
    zarr.create_array(store, name=f"0/{path}", overwrite=True, zarr_format=3, **shape, **{**kind, **options})[...] = values


def blobs(values):
    out = np.empty(len(values), object)
    out[:] = values
    return out


def with_ids(ids, count=None, **index):
    """Return a store whose index of `count` objects has these ids in its table, and other attributes."""
    target = one_vertex_each(count or len(ids))
    manifests = zarr.open_array(MemoryStore(target), path="0/object_index/manifests", mode="r")
    put(target, "object_index/manifests", blobs(manifests[:].tolist()), attributes=dict(manifests.attrs))
    put(target, "object_index/object_ids", np.array(ids, np.int64), fill_value=0)
    group = zarr.open_group(MemoryStore(target), path="0/object_index", mode="r+")
    group.attrs.update({"object_ids_sorted": False, **index})
    return target


def rows_of(target, objects=None):
    found = level_of(target).read(objects=objects, order="object")
    return dict(zip(found.object_ids.tolist(), found.attributes["row"].tolist(), strict=True))


@given(ids=st.lists(st.integers(0, 60), min_size=1, max_size=12, unique=True), data=st.data())
@settings(max_examples=25, deadline=None)
def test_ids_in_any_order(ids, data):
    target = with_ids(ids)
    assert rows_of(target) == {i: ids.index(i) for i in ids}
    wanted = data.draw(st.lists(st.sampled_from(ids), unique=True))
    assert rows_of(target, wanted) == {i: ids.index(i) for i in wanted}
    assert level_of(target).read().object_index.tolist() == sorted(ids)
    unknown = data.draw(st.integers(0, 70).filter(lambda i: i not in ids))
    with pytest.raises(dzv.NotFoundError, match=f"no object {unknown}:"):
        rows_of(target, [*wanted, unknown])


def test_a_table_of_zeros_may_have_no_chunk():
    target = with_ids([0])
    assert "0/object_index/object_ids/c/0" not in target
    assert rows_of(target, [0]) == {0: 0}


def test_layout_1_takes_rows_for_ids_whatever_table_is_left():
    target = with_ids([9, 4, 7], 5, layout="vlen_manifests_v1")
    assert rows_of(target) == {i: i for i in range(5)}
    assert rows_of(target, [2, 4]) == {2: 2, 4: 4}
    with pytest.raises(dzv.NotFoundError):
        rows_of(target, [9])


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
    with pytest.raises(error, match=match) as raised:
        level_of(with_ids(ids, **options)).read()
    assert raised.value.store


def test_manifests_that_are_too_few():
    target = with_ids([1, 2, 3])
    zarr.open_array(MemoryStore(target), path="0/object_index/manifests", mode="r+").resize((2,))
    with pytest.raises(dzv.FormatError, match="manifests has the shape"):
        rows_of(target, [1])


def test_a_lost_chunk_of_ids_or_manifests_is_no_other_object():
    target = with_ids([5, 6, 7, 8])
    del target["0/object_index/manifests/c/1"]
    assert rows_of(target, [5]) == {5: 0}
    with pytest.raises(dzv.StoreError, match="manifests/c/1"):
        rows_of(target, [5, 8])
    del target["0/object_index/object_ids/c/1"]
    with pytest.raises(dzv.FormatError, match="id 0 twice"):
        rows_of(target, [5])


ABSENT = {"fill_sentinel_meaning": "absent"}
LEAST = -(2**31)


def read_attribute(values, fill, count, **attributes):
    target = one_vertex_each(count)
    zarr.create_group(MemoryStore(target), path="0/object_attributes", zarr_format=3)
    put(target, "object_attributes/a", values, fill_value=fill, attributes=attributes)
    return level_of(target).read().object_attributes["a"]


@pytest.mark.parametrize(
    ("values", "fill"),
    [
        (np.array([1.5, np.nan, 3], "f4"), np.nan),
        (np.array([7, -128, 0], "i1"), -128),
        (np.array([7, 2**64 - 1, 0], "u8"), 2**64 - 1),
        (np.array(["Zürich", "", "a"], "U6"), ""),
    ],
)
def test_a_row_of_the_sentinel_is_absent(values, fill):
    found = read_attribute(values, fill, 3, **ABSENT)
    assert found.mask.tolist() == [False, True, False]
    assert found.dtype == values.dtype
    assert found[[0, 2]].tolist() == values[[0, 2]].tolist()
    assert not np.ma.isMaskedArray(read_attribute(values[[0, 2]], fill, 2, **ABSENT))
    unmarked = read_attribute(values, fill, 3)
    assert not np.ma.isMaskedArray(unmarked)
    assert np.array_equal(unmarked, values, equal_nan=values.dtype.kind == "f")


def test_rows_of_several_components_and_columns_of_an_appender():
    """A row is absent in all components or in none; a column may be short, or have remains."""
    values = np.array([[1, np.nan], [np.nan, np.nan], [2, 3]])
    assert read_attribute(values, np.nan, 3, **ABSENT).mask.tolist() == [[False] * 2, [True] * 2, [False] * 2]
    assert read_attribute(np.array([1, 2], "i4"), LEAST, 3, **ABSENT).mask.tolist() == [False, False, True]
    assert read_attribute(np.array([1, 2, 3, 4], "i4"), LEAST, 3, **ABSENT).tolist() == [1, 2, 3]
    with pytest.raises(dzv.FormatError, match="2 rows for 3 objects"):
        read_attribute(np.array([1, 2], "i4"), 0, 3)


@pytest.mark.parametrize("ours", [True, False])
def test_a_lost_chunk_of_an_attribute(ours):
    target = one_vertex_each(6, object_attributes={"a": np.arange(6.0)})
    node = zarr.open_array(MemoryStore(target), path="0/object_attributes/a", mode="r")
    kept = {k: [1, 2, 3] if isinstance(v, list) and "crc" in k else v for k, v in node.attrs.items()}
    put(target, "object_attributes/a", node[:], fill_value=np.nan, attributes=kept if ours else ABSENT)
    del target["0/object_attributes/a/c/1"]
    if ours:
        with pytest.raises(dzv.StoreError, match="object_attributes/a/c/1' is missing"):
            level_of(target).read()
    else:
        assert level_of(target).read().object_attributes["a"].mask.tolist() == [False, False, True, True, False, False]


def test_a_damaged_or_undocumented_attribute_names_its_array():
    target = one_vertex_each(2, object_attributes={"a": np.arange(2.0)})
    target["0/object_attributes/a/c/0"] = cpu.Buffer.from_bytes(b"no frame")
    with pytest.raises(dzv.FormatError, match="object_attributes/a"):
        level_of(target).read()
    del target["0/object_attributes/a/zarr.json"]
    with pytest.raises(dzv.StoreError, match="the document of 'object_attributes/a' is missing"):
        level_of(target).read()


def read_groups(members, **attributes):
    target = one_vertex_each(10)
    data = blobs([m if isinstance(m, bytes) else np.array(m, "<i8").tobytes() for m in members])
    put(target, "groups", data, len(members), attributes={"num_groups": len(members), **attributes})
    return {g: m.tolist() for g, m in level_of(target).read().groups.items()}


def test_groups_as_lists_and_ranges():
    assert read_groups([[9, 3], [], []], group_ranges={"2": [4, 7]}) == {0: [9, 3], 1: [], 2: [4, 5, 6]}
    assert level_of(one_vertex_each(2)).read().groups == {}


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"group_ranges": {"3": [1, 2]}}, ""),
        ({"group_ranges": {"-1": [1, 2]}}, ""),
        ({"group_ranges": {"0": [3, 1]}}, ""),
        ({"group_ranges": {"0": [0, 2**60]}}, ""),
        ({"group_ranges": {"0": [0.5, 2]}}, ""),
        ({"group_ranges": [1]}, ""),
        ({"num_groups": 4}, ""),
        ({"members": [[-1]]}, "group 0"),
        ({"members": [bytes(13)]}, "group 0"),
    ],
)
def test_groups_that_contradict_themselves(bad, match):
    with pytest.raises(dzv.FormatError, match=match) as raised:
        read_groups(bad.pop("members", [[9, 3], [], []]), **bad)
    assert raised.value.array == "groups"
    assert raised.value.store


def rows_sorted(positions):
    return positions[np.lexsort(positions.T)].tolist()


@given(ids=st.lists(ID, min_size=1, max_size=30, unique=True), seed=st.integers(0, 99), per_task=st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_objects_of_any_ids(ids, seed, per_task):
    """In several tasks; some objects have no vertices, some no attributes; strings and numbers, groups with gaps."""
    rng = np.random.default_rng(seed)
    every = np.sort(np.array(ids))
    owners = rng.choice(every, 60)
    positions, present = rng.uniform(0, 40, (60, 3)).astype("f4"), np.unique(owners)
    frame = pd.DataFrame({"w": rng.normal(size=len(every)), "s": every.astype(str)}, index=every)
    told = frame.sample(frac=0.7, random_state=1)
    known = np.union1d(present, told.index)
    store = dzv.create(target := {}, chunk_shape=(10, 10, 10))
    with sizes(objects_per_task=per_task):
        report = dzv.write_points(
            store, positions, object_ids=owners, object_attributes=told, groups={1: known[:2], 3: known[::-1]}
        )
    assert report.objects == len(known)
    index = zarr.open_group(MemoryStore(target), mode="r")["0/object_index"].attrs
    assert (index["num_objects"], index["num_present"]) == (len(known), len(present))
    whole = level_of(target).read(order="object")
    assert whole.object_index.tolist() == known.tolist()
    assert whole.ids.tolist() == present.tolist()
    assert whole.lengths.tolist() == [(owners == i).sum() for i in present]
    for name in frame:
        expected, found = told[name].reindex(known), whole.object_attributes[name]
        assert np.ma.getmaskarray(found).tolist() == expected.isna().tolist()
        assert found[expected.notna()].tolist() == expected.dropna().tolist()
    groups = {0: [], 1: known[:2].tolist(), 2: [], 3: known[::-1].tolist()}
    assert {g: m.tolist() for g, m in whole.groups.items()} == groups
    some = store.level(0).read(objects=known[::2])
    for one in known[::2]:
        assert rows_sorted(some.positions[some.object_ids == one]) == rows_sorted(positions[owners == one])


@pytest.mark.parametrize(
    "values",
    [
        np.array([0, 0], "i8"),
        np.array([np.nan, np.nan], "f2"),
        np.array([254, 3], "u1"),
        np.array(["", ""], "U"),
        np.array(["a\U0001f600", "bcd"], object),
        np.array([[1, 2], [3, 4]], ">i2"),
        np.zeros((2, 2, 3), "f8"),
    ],
    ids=lambda v: f"{v.dtype}{v.shape}",
)
def test_plain_zarr_reads_attributes(values):
    target = one_vertex_each(2, object_ids=[0, 9], object_attributes={"a": values})
    root = zarr.open_group(MemoryStore(target), mode="r")
    found = root["0/object_attributes/a"]
    assert np.asarray(found[...]).tolist() == values.tolist() or (found[...] != found[...]).all()
    assert found.chunks == found.shape
    assert found.attrs["shape"] == list(values.shape)
    assert root["0/object_index/object_ids"][:].tolist() == [0, 9]


def everything(target):
    found = level_of(target).read(order="object")
    attributes = {k: v.tolist() for k, v in found.object_attributes.items()}
    return found.ids.tolist(), found.lengths.tolist(), found.attributes["row"].tolist(), attributes, str(found.groups)


def test_every_lost_object_is_noticed():
    frame = pd.DataFrame({"a": [1.0, np.nan], "b": ["x", None]}, index=[0, 5])
    whole = one_vertex_each(1, object_attributes=frame, groups={0: [], 1: []})
    tables = ("object_index/", "object_attributes/", "groups/")
    shared = ("0/object_index/zarr.json", "0/object_attributes/zarr.json")
    lost = [k for k in whole if k.removeprefix("0/").startswith(tables) and k not in shared]
    assert len(lost) == 10
    for key in lost:
        with pytest.raises((dzv.StoreError, dzv.FormatError)):
            everything({k: v for k, v in whole.items() if k != key})


def test_every_damaged_chunk_is_noticed():
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"a": rng.normal(size=20)}, index=range(20))
    whole = one_vertex_each(20, object_attributes=frame, groups={0: [2, 4, 18]})
    truth, noticed = everything(dict(whole)), 0
    for key in [k for k in whole if "/c/" in k and ("object_" in k or "groups" in k) and CATALOG not in k]:
        for at in range(0, len(whole[key]), 5):
            data = bytearray(whole[key].to_bytes())
            data[at] ^= 1 << rng.integers(8)
            try:  # a frame of Zstandard has bits that say nothing
                assert everything({**whole, key: cpu.Buffer.from_bytes(bytes(data))}) == truth
            except dzv.FormatError:
                noticed += 1
    assert noticed > 30


def test_icechunk_has_documents_before_chunks():
    """Also of objects without a vertex, for which no block made the nodes; and over what was there."""
    icechunk = pytest.importorskip("icechunk")
    repository = icechunk.Repository.create(icechunk.in_memory_storage())
    ids, points = np.array([4, 8, 15, 16, 23, 42]), np.arange(18.0).reshape(6, 3)
    for number, values in enumerate((np.arange(12.0).reshape(6, 2), np.array(list("abcdef")))):
        session = repository.writable_session("main")
        store = dzv.open(session, "r+") if number else dzv.create(session, chunk_shape=(10, 10, 10))
        about = {"object_ids": ids, "object_attributes": {"a": values}, "groups": {1: [42, 4]}}
        dzv.write_points(store, points, **about, mode="overwrite")
        session.commit("objects")
        found = level_of(repository.readonly_session("main")).read(order="object")
        assert found.ids.tolist() == ids.tolist()
        assert found.object_attributes["a"].tolist() == values.tolist()
        assert found.groups[1].tolist() == [42, 4]
    session = repository.writable_session("main")
    empty = {"object_ids": [], "object_attributes": pd.DataFrame({"a": [1]}, index=[5])}
    dzv.write_points(dzv.open(session, "r+"), points[:0], **empty, mode="overwrite")
    assert level_of(session).read().object_attributes["a"].tolist() == [1]


def test_other_ids_of_the_same_manifests_are_not_kept_in_memory():
    store = dzv.create({}, chunk_shape=(10, 10, 10))
    for one in (5, 9, 5):
        dzv.write_points(store, np.ones((20, 3)), object_ids=np.full(20, one), mode="overwrite")
        assert set(store.level(0).read().object_ids.tolist()) == {one}


def test_overwriting_leaves_no_object_behind(tmp_path):
    """Neither by fewer objects, nor by points without any, nor by no points."""
    target = tmp_path / "s.zarr"
    store = dzv.create(target, chunk_shape=(10, 10, 10), bounds=([0] * 3, [40] * 3))
    positions, owners = np.random.default_rng(0).uniform(0, 40, (3000, 3)), np.arange(3000) % 67 * 3
    tables = {"a": np.ones((67, 2)), "0.1": np.arange(67)}

    def write(number, ids, about=None, groups=None, **options):
        given = {"object_attributes": about, "groups": groups, "mode": "overwrite", **options}
        dzv.write_points(store, positions[:number] + (100 if "out_of_bounds" in options else 0), object_ids=ids, **given)
        found = level_of(target).read()
        assert found.groups.keys() == (groups or {}).keys()
        assert {k: v.tolist() for k, v in found.object_attributes.items()} == {k: v.tolist() for k, v in (about or {}).items()}
        return found

    write(3000, owners, tables, {0: [0, 3]})
    assert write(50, np.full(50, 4), {"a": np.array(["x"])}).object_index.tolist() == [4]
    write(3000, None)
    assert [p.name for p in (target / "0").iterdir() if "object" in p.name or "group" in p.name] == []
    for _ in range(2):
        write(3000, owners, tables, {0: [0, 3]})
    assert write(3000, owners, {"a": np.zeros(0)}, out_of_bounds="ignore").object_index.tolist() == []
    assert [p.name for p in (target / "0" / "object_index").iterdir()] == ["zarr.json"]
