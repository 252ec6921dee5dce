"""``ds.zv``: exact boxes and objects, and how little is read for them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import xarray as xr
from refusals import fails

import dask_zv as dzv

BOX = ((-3.0, -7.0, -5.0), (18.0, 24.0, 25.0))
BOXES = [
    BOX,
    ((0, 0, 0), (10, 10, 20)),  # faces of chunks belong to the box
    ((0, 0, 0), (1e-9, 1e-9, 1e-9)),
    ((-np.inf, -np.inf, 0), (np.inf, 5, np.inf)),
    ((-1000, -1000, -1000), (1000, 1000, 1000)),
    ((1000, 1000, 1000), (1001, 1001, 1001)),
]


@pytest.mark.parametrize("chunks", [None, {}])
@pytest.mark.parametrize("box", BOXES, ids=str)
def test_sel_is_exact(written, box, chunks):
    mask = written.inside(box)
    found = written.open(chunks=chunks).zv.sel(bbox=box)
    assert found.sizes["vertex"] == mask.sum()
    np.testing.assert_array_equal(found.vertex, np.flatnonzero(mask))
    np.testing.assert_array_equal(found.y, written.positions[mask, 1])
    np.testing.assert_array_equal(found.colour, written.attributes["colour"][mask])


def test_sel_reads_positions_of_cut_chunks_alone(counted):
    ds = counted.open()
    chunks = dzv.open(counted.target).level(0).chunks
    low, high = (np.floor(np.asarray(c) / [10, 10, 20]) for c in BOX)
    touched = {k for k, c in zip(chunks.keys, chunks.coords, strict=True) if (c >= low).all() and (c <= high).all()}
    whole = {k for k, c in zip(chunks.keys, chunks.coords, strict=True) if (c > low).all() and (c < high).all()}
    counted.target.forget()
    inside = ds.zv.sel(bbox=BOX)
    assert counted.target.chunks("vertices") == touched - whole
    assert len(touched) < len(chunks)
    assert {array for array, _ in counted.target.blobs} <= {"vertices", "vertex_fragments"}
    counted.target.forget()
    inside.load()
    assert counted.target.chunks("vertices") <= whole  # the others are remembered
    assert counted.target.chunks("vertex_attributes/mass") <= touched
    assert {n for (array, _), n in counted.target.blobs.items() if array != "vertex_fragments"} == {1}


def test_chunks_in_reads_nothing(counted):
    ds = counted.open(chunks={})
    counted.target.forget()
    near = ds.zv.chunks_in(BOX)
    repr(near)
    assert counted.target.log == []
    low, high = (np.floor(np.asarray(c) / [10, 10, 20]) for c in BOX)
    cells = np.floor(counted.positions.astype(float) / [10, 10, 20])
    expected = ((cells >= low) & (cells <= high)).all(axis=1)
    np.testing.assert_array_equal(near.x, counted.positions[expected, 0])
    assert near.sizes["vertex"] < ds.sizes["vertex"]


@pytest.mark.parametrize("objects", [7, [7], [3, 7, 21], np.array([39, 0]), []])
def test_objects(written, objects):
    mask = np.isin(written.object_ids, objects)
    ds = written.open()
    np.testing.assert_array_equal(ds.zv.sel(objects=objects).mass, written.attributes["mass"][mask])
    both = mask & written.inside(BOX)
    np.testing.assert_array_equal(ds.zv.sel(bbox=BOX, objects=objects).vertex, np.flatnonzero(both))


def test_sel_of_all_of_a_run_and_after_concatenation(written):
    ds = written.open()
    assert ds.zv.sel().sizes == ds.sizes
    xr.testing.assert_identical(ds.zv.sel(bbox=BOXES[4]), ds)
    part = written.open().isel(vertex=slice(300, 1500))
    mask = written.inside(BOX)
    mask[:300] = mask[1500:] = False
    np.testing.assert_array_equal(part.zv.sel(bbox=BOX).vertex, np.flatnonzero(mask))
    near = part.zv.chunks_in(BOX).vertex.to_numpy()
    assert set(np.flatnonzero(mask)) <= set(near) <= set(range(300, 1500))
    both = xr.concat([ds.isel(vertex=slice(0, 700)), ds.isel(vertex=slice(900, 1800))], dim="vertex")
    rows = np.r_[0:700, 900:1800]
    np.testing.assert_array_equal(both.zv.sel(bbox=BOX).mass, written.attributes["mass"][rows][written.inside(BOX)[rows]])


@pytest.mark.parametrize("chunks", [None, {}])
def test_sel_among_rows_that_were_picked(written, chunks):
    order = np.random.default_rng(0).permutation(len(written.positions))[:1000]
    picked = written.open(chunks=chunks).isel(vertex=order)
    expected = written.inside(BOX)[order]
    for ds in (picked, picked.load(), picked.set_coords("mass"), picked.drop_vars("vertex"), picked[["mass", "object_id"]]):
        found = ds.zv.sel(bbox=BOX)
        np.testing.assert_array_equal(found.mass, written.attributes["mass"][order][expected])
    chosen = expected & np.isin(written.object_ids[order], [3, 5])
    np.testing.assert_array_equal(picked.zv.sel(bbox=BOX, objects=[3, 5]).mass, written.attributes["mass"][order][chosen])
    twice = written.open(chunks=chunks).zv.sel(bbox=BOX).zv.sel(bbox=((0, 0, 0), (20, 20, 20)))
    np.testing.assert_array_equal(twice.vertex, np.flatnonzero(written.inside(BOX) & written.inside(((0, 0, 0), (20, 20, 20)))))
    fails(dzv.InputError, "chunks_in", picked.zv.chunks_in, BOX)


def test_random_boxes_are_exact(written):
    rng = np.random.default_rng(5)
    ds = written.open()
    for _ in range(40):
        low = rng.uniform(-20, 30, 3).round(rng.integers(0, 2))
        box = (low, low + rng.uniform(0.5, 40, 3).round(rng.integers(0, 2)) + 1e-6)
        np.testing.assert_array_equal(ds.zv.sel(bbox=box).vertex, np.flatnonzero(written.inside(box)))


def test_errors(written, tmp_path):
    ds = written.open()
    fails(dzv.InputError, "two corners of 3 numbers", ds.zv.sel, bbox=((0, 0), (1, 1)))
    fails(dzv.InputError, "NaN", ds.zv.sel, bbox=((0, 0, np.nan), (1, 1, 1)))
    fails(dzv.InputError, "least corner above", ds.zv.chunks_in, ((5, 0, 0), (1, 1, 1)))
    fails(dzv.NotFoundError, "4000", ds.zv.sel, objects=4000)
    with pytest.raises(dzv.InputError, match="no z any more"):
        ds.isel(vertex=[1, 2]).drop_indexes(["x", "y", "z"]).drop_vars(["vertex", "z"]).zv.sel(bbox=BOX)
    fails(dzv.InputError, "engine='zv'", lambda: xr.Dataset({"a": ("vertex", [1])}).zv.sel(bbox=((0,), (1,))))
    store = dzv.create(tmp_path / "p.zv", chunk_shape=(5, 5))
    dzv.write_points(store, np.random.default_rng(0).uniform(0, 9, (50, 2)))
    ds = xr.open_dataset(tmp_path / "p.zv")
    assert "object_id" not in ds
    for part in (ds, ds.isel(vertex=[1, 2])):
        fails(dzv.InputError, "no objects", part.zv.sel, objects=[1])


@pytest.mark.parametrize("chunks", [None, {}])
def test_positions_of_the_objects_view_select_nothing_by_themselves(written, chunks):
    """They would take vertices from their objects; all else that an index does, theirs does, too."""
    ds = written.open(view="objects", chunks=chunks)
    for label in (slice(0, 5), 5.0, [1, 2]):
        fails(dzv.InputError, r"ds\.zv\.sel\(bbox", ds.sel, x=label)
        fails(dzv.InputError, r"ds\.zv\.sel\(bbox", ds.mass.sel, y=label)
    assert ds.zv.sel(x=slice(0, 5)).sizes["vertex"] == int(((ds.x >= 0) & (ds.x <= 5)).sum())
    with xr.set_options(use_flox=False):  # flox asks no index; what is along vertices stays as it is then
        fails(dzv.InputError, "groupby", lambda: ds.groupby("object").mean())
    x = ds.x.values
    rows = np.array([7, 3, 900, 901])
    np.testing.assert_array_equal(ds.isel(vertex=rows).x, x[rows])
    np.testing.assert_array_equal(xr.concat([ds.mass[:5], ds.mass[9:12]], "vertex").x, np.r_[x[:5], x[9:12]])
    np.testing.assert_array_equal((ds.mass[:10] + ds.mass[5:]).x, x[5:10])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(ds.isel(vertex=rows))).x, x[rows])
    np.testing.assert_array_equal(ds.copy(deep=True).x, x)
    doubled = ds.assign_coords(x=ds.x * 2)
    np.testing.assert_array_equal(doubled.zv.sel(x=slice(0, 10)).x, 2 * ds.zv.sel(x=slice(0, 5)).x)
    renamed = ds.rename(x="lon")
    fails(dzv.InputError, "lon=slice", renamed.sel, lon=slice(0, 5))
    assert renamed.zv.sel(lon=slice(0, 5)).sizes == ds.zv.sel(x=slice(0, 5)).sizes
    fails(dzv.InputError, "no z any more", ds.drop_vars("z").zv.sel, x=slice(0, 5))
