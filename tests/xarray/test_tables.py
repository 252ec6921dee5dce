"""The small tables that make opening cheap: right, made anew by refresh, and never believed against what is read."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from test_views import check_objects, check_spatial, random_store

import dask_zv as dzv

TABLES = ("dask_zv_objects", "dask_zv_edges")


def tables_of(store):
    """Return the tables of a level by name, and the keys that hold them."""
    group = store.level(0).group
    found = {name: group.zarr_group[name] for name in TABLES if name in group.zarr_group}
    return {name: np.asarray(array[...]) for name, array in found.items()}


@pytest.mark.parametrize("kind", ["point_cloud", "polyline", "skeleton", "graph", "mesh"])
def test_refresh_makes_them_as_the_writer_did(kind):
    store = random_store(kind)
    before = tables_of(store)
    assert set(before) == ({*TABLES} if kind == "skeleton" else {TABLES[0]})
    for name in before:
        store.level(0).group.delete_subtree(name)
    store._contents.reload()
    assert tables_of(store) == {}
    level = store.level(0)
    check_spatial(xr.open_dataset(store, engine="zv"), level)
    check_objects(xr.open_dataset(store, engine="zv", view="objects"), level)
    after = tables_of(store.refresh())
    assert set(after) == set(before)
    for name, table in before.items():
        np.testing.assert_array_equal(after[name], table)


def test_overwriting_leaves_no_table_of_the_old():
    store = random_store("skeleton")
    points = np.random.default_rng(0).uniform(0, 90, (7, 3))
    dzv.write_skeletons(store, points, parents=[-1, 0, 1, 2, -1, 4, 5], object_ids=[3, 3, 3, 3, 8, 8, 8], mode="overwrite")
    store._contents.reload()
    found = tables_of(store)
    assert found["dask_zv_objects"].tolist() == [[3, 4], [8, 3]]
    assert found["dask_zv_edges"][:, -1].sum() == 5
    check_spatial(xr.open_dataset(store, engine="zv"), store.level(0))
    check_objects(xr.open_dataset(store, engine="zv", view="objects"), store.level(0))


@pytest.mark.parametrize("column", [0, 1])
def test_a_table_that_is_wrong_is_not_believed(column):
    store = random_store("skeleton")
    table = store.level(0).group.zarr_group["dask_zv_objects"]
    values = np.asarray(table[...])
    values[3, 1] += 1
    values[5 if column else 4, 1] -= 1
    table[...] = values
    check_objects(xr.open_dataset(store, engine="zv", view="objects"), store.level(0))
    edges = store.level(0).group.zarr_group["dask_zv_edges"]
    counts = np.asarray(edges[...])
    counts[np.flatnonzero(counts[:, -1] > 1)[0], -1] -= 1
    edges[...] = counts
    store._contents.reload()
    check_spatial(xr.open_dataset(store, engine="zv"), store.level(0))
    store.refresh()
    check_spatial(xr.open_dataset(store, engine="zv"), store.level(0))
    check_objects(xr.open_dataset(store, engine="zv", view="objects"), store.level(0))
