"""Lazy columns: what is read when, indexing as numpy does it, pickling, Dask, clusters."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

import dask
import numpy as np
import pytest
import xarray as xr
from comparing import assert_same
from dask.base import tokenize
from refusals import fails

import dask_zv as dzv


def names(written):
    return ["x", *written.attributes, "object_id"]


def truth(written, name):
    if name in "xyz":
        return written.positions[:, "xyz".index(name)]
    return written.object_ids if name == "object_id" else written.attributes[name]


@pytest.mark.parametrize("chunks", [None, {}, {"vertex": -1}])
def test_opening_and_looking_read_no_blob(counted, chunks):
    # of strings with missing ones xarray looks at the first value, where cftime is installed
    ds = counted.open(chunks=chunks, drop_variables="maybe")
    store = counted.target
    assert not store.blobs
    assert len(store.log) <= 25  # documents and the catalog, however many chunks there are
    assert store.listed  # the attributes' names, no chunk
    assert not any(prefix.endswith(("vertices", "mass")) for prefix in store.listed)
    store.forget()
    repr(ds), ds._repr_html_(), ds.nbytes, ds.sizes, ds.isel(vertex=slice(5, 50)), ds.mass[10:20], ds.chunks
    ds.isel(vertex=slice(0, 0)).load()
    ds.isel(vertex=[]).load()
    ds.mass.isel(vertex=slice(20, 10)).load()
    assert store.log == []


def test_axes_of_a_chunk_are_one_blob_fetched_once(counted):
    ds = counted.open()
    for axis in "xyz":
        ds[axis].to_numpy()
    blobs = counted.target.blobs
    assert {chunk for array, chunk in blobs if array == "vertices"} == set(dzv.open(counted.target).level(0).chunks.keys)
    assert max(n for (array, _), n in blobs.items() if array == "vertices") == 1
    assert not any("attributes" in array for array, _ in blobs)
    ds = counted.open(chunks={})
    with dask.config.set(scheduler="threads", num_workers=8):
        dask.compute(ds.x.data, ds.y.data, ds.z.data)
    assert max(n for (array, _), n in counted.target.blobs.items() if array == "vertices") == 1
    ds = counted.open()
    counted.target.forget()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda axis: ds[axis].to_numpy(), "xyzxyz"))
    assert sum(counted.target.blobs.values()) == 0  # all of it is still remembered


def test_rows_read_only_their_chunks(counted):
    ds = counted.open()
    table = dzv.open(counted.target).level(0).chunks
    starts = np.r_[0, np.cumsum(table.rows)]
    counted.target.forget()
    last_of_two, first_of_three = int(starts[3]) - 1, int(starts[3])
    ds.mass[[first_of_three, last_of_two, int(starts[9])]].to_numpy()
    assert counted.target.chunks("vertex_attributes/mass") == {table.keys[2], table.keys[3], table.keys[9]}
    counted.target.forget()
    ds.flag[starts[5] : starts[7]].to_numpy()
    assert counted.target.chunks("vertex_attributes/flag") == {table.keys[5], table.keys[6]}
    assert not counted.target.chunks("vertex_attributes/mass")
    counted.target.forget()
    assert ds.kind[int(starts[4])].item() == counted.attributes["kind"][starts[4]]
    assert counted.target.chunks("vertex_attributes/kind") == {table.keys[4]}


def test_shards_are_read_with_few_requests(counted_sharded):
    ds = counted_sharded.open()
    counted_sharded.target.forget()
    ds.mass.to_numpy()
    data = [k for k in counted_sharded.target.log if "/mass/c/" in k]
    assert data
    assert len(data) == len(set(data))
    assert len(data) < len(dzv.open(counted_sharded.target).level(0).chunks)


def test_preferred_chunks_cut_at_chunks_of_the_store(written):
    rows = dzv.open(written.target).level(0).chunks.rows
    with patch("dask_zv.xarray_backend.arrays._CHUNK_ROWS", 300):
        ds = written.open(chunks={})
        preferred = written.open().x.encoding["preferred_chunks"]["vertex"]
    cuts = np.cumsum(ds.chunks["vertex"])
    assert ds.x.data.chunks == (preferred,)
    assert len(cuts) > 3
    assert set(cuts) <= set(np.cumsum(rows))
    assert len(set(ds.chunks["vertex"])) > 1  # uneven, as the store is
    assert max(ds.chunks["vertex"]) <= 300
    assert ds.colour.data.chunks[1] == (3,)
    np.testing.assert_array_equal(ds.x, written.positions[:, 0])
    assert len(dzv.open(written.target).level(0).chunks) > 50
    assert written.open(chunks={}).chunks["vertex"] == (len(written.positions),)
    with pytest.warns(UserWarning, match="separate the stored chunks"):
        ds = written.open(chunks={"vertex": 311})
    assert ds.chunks["vertex"][0] == 311
    np.testing.assert_array_equal(ds.mass, written.attributes["mass"])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("chunks", ["auto", {"vertex": "auto"}, {"vertex": -1}])
def test_other_ways_to_ask_for_chunks(written, chunks):
    ds = written.open(chunks=chunks, drop_variables="maybe")  # Dask can't guess the size of objects
    for name in set(names(written)) - {"maybe"}:
        assert_same(ds[name], truth(written, name))


N = 2_000
KEYS = [
    slice(None),
    slice(7, N - 100),
    slice(100, N, 7),
    slice(None, None, -1),
    slice(N - 50, 20, -13),
    slice(-10, None),
    slice(50, 50),
    slice(60, 50),
    slice(50, 60, -1),
    slice(N - 10, 10_000),
    0,
    -1,
    1234,
    np.array([5, 5, N - 1, -N, 0, -1]),
    np.arange(N - 1, -1, -1),
    np.array([], int),
    np.random.default_rng(0).integers(-N, N, 500),
]


@pytest.mark.parametrize("chunks", [None, {}])
@pytest.mark.parametrize("name", ["x", "mass", "flag", "kind", "maybe", "when", "object_id", "vertex"])
def test_indexing_is_numpy_s(written, name, chunks):
    variable = written.open(chunks=chunks)[name].variable
    expected = np.arange(len(written.positions)) if name == "vertex" else truth(written, name)
    for key in KEYS:
        assert_same(variable[key].to_numpy(), expected[key], str(key))
        assert_same(variable[5:1900][::-2][:100].to_numpy(), expected[5:1900][::-2][:100])


@pytest.mark.parametrize("key", KEYS, ids=str)
@pytest.mark.parametrize("channel", [slice(None), 1, -1, slice(None, None, -1), np.array([2, 0]), slice(2, 2)], ids=str)
def test_channels_are_indexed_apart(written, key, channel):
    expected = written.attributes["colour"]
    found = written.open().colour.variable[key, channel].to_numpy()
    np.testing.assert_array_equal(found, expected[key][..., channel])


def test_vectorized_and_boolean_keys(written):
    colour = written.open().colour.variable
    rows, channels = np.array([[5, 9], [2, 0]]), np.array([[0, 1], [2, 2]])
    points = colour[xr.Variable(("a", "b"), rows), xr.Variable(("a", "b"), channels)]
    np.testing.assert_array_equal(points, written.attributes["colour"][rows, channels])
    mask = written.attributes["flag"]
    np.testing.assert_array_equal(written.open().mass[mask], written.attributes["mass"][mask])
    fails(IndexError, None, lambda: written.open().mass[len(mask)].to_numpy())


@pytest.mark.parametrize("chunks", [None, {}])
def test_pickles_without_its_data_and_reads_again(written, chunks):
    ds = written.open(chunks=chunks)
    ds.x.to_numpy()
    data = pickle.dumps(ds)
    assert len(data) < 50_000
    again = pickle.loads(data)
    for name in names(written):
        assert_same(again[name], truth(written, name))
    assert again.zv.sel(bbox=((0, 0, 0), (9, 9, 9))).sizes == ds.zv.sel(bbox=((0, 0, 0), (9, 9, 9))).sizes


def test_a_store_of_one_process_pickles_within_it(counted):
    ds = pickle.loads(pickle.dumps(counted.open()))
    np.testing.assert_array_equal(ds.mass, counted.attributes["mass"])


@pytest.mark.parametrize("name", ["threads", "processes", "distributed"])
def test_computes_on_every_scheduler(written, use_scheduler, name):
    with patch("dask_zv.xarray_backend.arrays._CHUNK_ROWS", 500):
        ds = written.open(chunks={})
    with use_scheduler(name):
        loaded = ds.compute()
        total = (ds.x * ds.mass).sum().compute()
    np.testing.assert_array_equal(loaded.x, written.positions[:, 0])
    assert_same(loaded.maybe, truth(written, "maybe"))
    np.testing.assert_array_equal(loaded.object_id, written.object_ids)
    assert np.isclose(total, (written.positions[:, 0] * written.attributes["mass"]).sum())


def test_a_lazy_dataset_travels_to_a_worker_and_back(written, use_scheduler):
    with use_scheduler("distributed") as client:
        ds = written.open()
        back = client.submit(lambda d: d.isel(vertex=slice(10, 20)), ds).result()
        count = client.submit(lambda d: d.zv.sel(bbox=((0, 0, 0), (20, 20, 20))).sizes["vertex"], ds).result()
    np.testing.assert_array_equal(back.x, written.positions[10:20, 0])
    assert count == written.inside(((0, 0, 0), (20, 20, 20))).sum()


def test_a_rewritten_store_has_other_tokens_and_its_old_dataset_says_so(fresh):
    made = fresh()
    before = tokenize(made.open().x.variable._data)
    assert tokenize(made.open().x.variable._data) == before
    dzv.write_points(dzv.open(made.target, "r+"), made.positions + 1, mode="overwrite")
    assert tokenize(made.open().x.variable._data) != before
    made = fresh()
    ds = made.open()
    dzv.write_points(dzv.open(made.target, "r+"), made.positions[:500], mode="overwrite")
    fails((dzv.FormatError, dzv.StoreError), r"rewritten|catalog says|is gone", ds.x.to_numpy)


def test_a_rewritten_store_is_never_answered_from_what_was_remembered(fresh, use_scheduler):
    made = fresh()
    with use_scheduler("distributed"):
        old = made.open(chunks={}).x.persist()
        first = old.to_numpy()
        dzv.write_points(dzv.open(made.target, "r+"), made.positions + np.float32(1), mode="overwrite")
        now = made.open(chunks={}).x.to_numpy()
    np.testing.assert_array_equal(now, dzv.open(made.target).level(0).read().positions[:, 0])
    assert not np.array_equal(first, now)


def test_to_dataframe_and_groupby(written):
    ds = written.open(chunks={})
    # xarray leaves out coordinates with an index of their own: ds.zv.to_dataframe() has them
    assert list(ds[["mass", "kind"]].to_dataframe().columns) == ["mass", "kind", "object_id", "object_index"]
    frame = ds[["mass", "kind"]].drop_indexes(["x", "y", "z"]).to_dataframe()
    assert len(frame) == len(written.positions)
    assert {"x", "y", "z", "mass", "kind"} <= set(frame.columns)
    np.testing.assert_array_equal(frame["x"], written.positions[:, 0])
    groups = written.open()[["mass", "kind"]].load().groupby("kind").mean()
    for kind in np.unique(written.attributes["kind"]):
        expected = written.attributes["mass"][written.attributes["kind"] == kind].mean()
        assert np.isclose(groups.mass.sel(kind=kind), expected)


@pytest.mark.parametrize("chunks", [None, {}])
def test_parts_concatenate(written, chunks):
    ds = written.open(chunks=chunks)
    both = xr.concat([ds.isel(vertex=slice(10, 20)), ds.isel(vertex=slice(100, 110))], dim="vertex")
    np.testing.assert_array_equal(both.mass, np.r_[written.attributes["mass"][10:20], written.attributes["mass"][100:110]])
    picked = xr.concat([ds.isel(vertex=[3, 1]), ds.isel(vertex=[2])], dim="vertex")
    np.testing.assert_array_equal(picked.object_id, written.object_ids[[3, 1, 2]])


def test_labels_alignment_and_arithmetic_go_by_row_numbers(written):
    part = written.open().isel(vertex=slice(100, 200))
    np.testing.assert_array_equal(part.vertex, np.arange(100, 200))
    assert part.mass.sel(vertex=150).item() == written.attributes["mass"][150]
    np.testing.assert_array_equal(part.mass.sel(vertex=slice(110, 119)), written.attributes["mass"][110:120])
    ds, other = written.open(), written.open()
    np.testing.assert_allclose((ds.mass + other.mass).to_numpy(), 2 * written.attributes["mass"])
    xr.testing.assert_identical(ds.load(), other.load())
    ds, mass = written.open(), written.attributes["mass"]
    total = ds.mass.isel(vertex=slice(0, 100)) + ds.mass.isel(vertex=slice(60, 200))
    np.testing.assert_array_equal(total.vertex, np.arange(60, 100))
    np.testing.assert_allclose(total, 2 * mass[60:100])
    left, right = xr.align(ds.mass.isel(vertex=slice(0, 100)), ds.mass.isel(vertex=slice(60, 200)), join="outer")
    assert left.sizes["vertex"] == right.sizes["vertex"] == 200
    np.testing.assert_array_equal(left.isnull(), np.arange(200) >= 100)
    np.testing.assert_array_equal(right[60:], mass[60:200])
    apart, _ = xr.align(ds.mass.isel(vertex=slice(0, 10)), ds.mass.isel(vertex=slice(60, 70)), join="outer")
    np.testing.assert_array_equal(apart.vertex, np.r_[0:10, 60:70])
    np.testing.assert_array_equal(apart.x, ds.x[np.r_[0:10, 60:70]])
    assert (ds.mass.isel(vertex=slice(0, 10)) + ds.mass.isel(vertex=slice(60, 70))).sizes == {"vertex": 0}


@pytest.mark.parametrize("rows", [slice(None), slice(0, 500)])
def test_two_states_of_a_store_behind_a_url_are_never_mixed_up(s3_options, rows):
    """A URL has no time of change: xarray's keys alone would be equal, and the difference 0."""
    url = "s3://contract/engine/two-states.zv"
    positions = np.random.default_rng(0).uniform(0, 30, (1000, 2))
    store = dzv.create(url, chunk_shape=(10, 10), storage_options=s3_options, overwrite=True)
    dzv.write_points(store, positions)
    before = xr.open_dataset(url, engine="zv", storage_options=s3_options, chunks={}).persist()
    dzv.write_points(dzv.open(url, "r+", storage_options=s3_options), (positions * 0.5)[rows], mode="overwrite")
    after = xr.open_dataset(url, engine="zv", storage_options=s3_options, chunks={})
    assert before.x.data.name != after.x.data.name
    both = xr.Dataset({"before": ("i", before.x.data[:500]), "after": ("i", after.x.data[:500])}).compute()
    assert (both.before != both.after).any()
    np.testing.assert_array_equal(both.after, dzv.open(url, storage_options=s3_options).level(0).read().positions[:500, 0])
