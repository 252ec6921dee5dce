"""Both views of every geometry: the same vertices, links, objects and attributes as `Level.read` gives."""

from __future__ import annotations

import functools
import pickle

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from golden_reference import Golden, golden_names
from small_geometries import write_any

import dask_zv as dzv


@pytest.fixture(params=golden_names())
def golden(request):
    return Golden(request.param)


def random_store(kind, layout="grid", shard_chunks="auto"):
    """Return a store of random objects of some geometry, with everything that it can have; a copy: writing is what costs."""
    return dzv.open(dict(_random_blobs(kind, layout, shard_chunks)), "r+")


@functools.cache
def _random_blobs(kind, layout, shard_chunks):
    rng = np.random.default_rng(7)
    sizes = rng.integers(2, 60, 40)
    n = int(sizes.sum())
    ids = np.repeat(np.arange(40) * (3 if layout == "grid" else 1), sizes)
    start = np.repeat(rng.uniform(0, 80, (40, 3)), sizes, axis=0)
    positions = (start + np.cumsum(rng.normal(0, 1.5, (n, 3)), axis=0) % 20).astype(np.float32)
    attributes = {"mass": rng.normal(size=n), "kind": np.array(["a", "b", "c"])[rng.integers(0, 3, n)]}
    frame = {"score": rng.normal(size=40), "mass": rng.integers(0, 9, 40)}
    named = np.unique(ids)
    table = pd.DataFrame(frame, index=named)
    groups = {0: named[:5].tolist(), 2: named[3:9].tolist()}
    target = {}
    store = dzv.create(target, geometry=kind, chunk_shape=(10, 12, 15), layout=layout, shard_chunks=shard_chunks)
    common = {"attributes": attributes, "object_attributes": table, "groups": groups}
    first = np.repeat(np.cumsum(sizes) - sizes, sizes)
    here = np.arange(n)
    links = weights = None
    if kind == "skeleton":
        parents = first + (rng.random(n) * (here - first)).astype(int)
        links = np.stack([here, parents], 1)[here > first]
    elif kind == "graph":
        links = np.stack([here[1:], here[:-1]], 1)[ids[1:] == ids[:-1]]
        weights = {"weight": rng.normal(size=len(links)), "step": rng.integers(0, 99, len(links))}
    elif kind == "mesh":
        links = np.stack([here[2:], here[1:-1], here[:-2]], 1)[ids[2:] == ids[:-2]]
        weights = {"area": rng.random(len(links))}
    write_any(store, kind, positions, ids, links, weights, **common)
    return target


KINDS = ("point_cloud", "polyline", "skeleton", "graph", "mesh")


@pytest.fixture(
    scope="module",
    params=[*((k, "grid", s) for k in KINDS for s in (1, 8)), *((k, "per_chunk", 1) for k in KINDS[:2])],
    ids=str,
)
def store(request):
    return random_store(*request.param)


def same(a, b, what=""):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=what)


def rows_of(array):
    array = np.asarray(array)
    return array[np.lexsort(array.T[::-1])]


def check_spatial(ds, level):
    read = level.read(order="chunk")
    axes = level.store.axes
    same(np.stack([ds[a].values for a in axes], 1), read.positions, "positions")
    for name, values in read.attributes.items():
        found = ds[name].values
        if values.dtype == object:
            assert [v if isinstance(v, str) else None for v in found] == values.tolist()
        else:
            same(found, values, name)
    if read.object_ids is not None:
        same(ds.object_id.values, read.object_ids, "object_id")
        index = ds.object_index.values
        owned = read.object_ids >= 0
        same(ds.object.values[index[owned]], read.object_ids[owned], "object_index")
        same(index[~owned], read.object_ids[~owned])
        assert ds.object_index.attrs["instance_dimension"] == "object"
    else:
        assert "object_id" not in ds
    for name, dim, links, values in (
        ("edges", "edge", read.edges, read.edge_attributes),
        ("faces", "face", read.faces, read.face_attributes),
    ):
        if links is None:
            assert name not in ds
            continue
        assert ds[name].dims == (dim, f"{dim}_node")
        same(rows_of(ds[name].values), rows_of(links), name)
        order, truth = np.lexsort(ds[name].values.T[::-1]), np.lexsort(links.T[::-1])
        for key, column in values.items():
            want = np.ma.filled(np.ma.masked_array(column, dtype=float), np.nan)[truth]
            if len(np.unique(links, axis=0)) == len(links):
                np.testing.assert_array_equal(ds[key].values[order].astype(float), want, key)
        topology = ds[ds[name].attrs["cf_role"].replace("_node_connectivity", "") and "topology"]
        assert topology.attrs["cf_role"] == "mesh_topology"
        assert topology.attrs[f"{dim}_node_connectivity"] == name
        assert topology.attrs["node_coordinates"].split() == list(axes)
    if read.parents is not None:
        same(ds.parent.values, read.parents, "parent")
    for name, values in read.object_attributes.items():
        shown = name if name in ds and ds[name].dims[:1] == ("object",) else f"object_{name}"
        filled = np.ma.filled(values, np.nan) if values.dtype.kind == "f" else np.ma.getdata(values)
        same(ds[shown].values, filled, name)


def check_objects(ds, level):
    read = level.read(order="object")
    same(ds.object.values, np.sort(level._contents.index.ids))
    lengths = np.zeros(ds.sizes["object"], int)
    np.add.at(lengths, np.searchsorted(ds.object.values, read.ids), read.lengths)
    same(ds.node_count.values, lengths)
    assert ds.node_count.attrs["sample_dimension"] == "vertex"
    same(np.stack([ds[a].values for a in level.store.axes], 1), read.positions, "positions")
    for name, values in read.attributes.items():
        if values.dtype != object:
            same(ds[name].values, values, name)
    if read.parents is not None:
        same(ds.parent.values, read.parents, "parent")
    for group, members in read.groups.items():
        same(ds.object.values[ds.in_group.values[:, group]], np.sort(members))
    if level.kind in ("line", "polyline", "streamline"):
        assert ds.geometry.attrs["node_count"] == "node_count"
        assert ds.geometry.attrs["geometry_type"] == "line"
    for name, values in read.object_attributes.items():
        shown = name if name in ds and ds[name].dims[:1] == ("object",) else f"object_{name}"
        filled = np.ma.filled(values, np.nan) if values.dtype.kind == "f" else np.ma.getdata(values)
        same(ds[shown].values, filled, name)


@pytest.mark.parametrize("chunks", [None, {}])
def test_spatial_view_of_golden_stores(golden, chunks):
    for number in golden.store.levels:
        check_spatial(xr.open_dataset(golden.store, engine="zv", level=number, chunks=chunks), golden.store.level(number))


@pytest.mark.parametrize("chunks", [None, {}])
def test_objects_view_of_golden_stores(golden, chunks):
    level = golden.store.level(0)
    check_objects(xr.open_dataset(golden.store, engine="zv", view="objects", chunks=chunks), level)


@pytest.mark.product(keep="values")
@pytest.mark.parametrize("chunks", [None, {}, {"vertex": 100, "edge": 70, "face": 33, "object": 7}])
def test_both_views_of_what_we_write(store, chunks):
    level = store.level(0)
    check_spatial(xr.open_dataset(store, engine="zv", chunks=chunks), level)
    check_objects(xr.open_dataset(store, engine="zv", view="objects", chunks=chunks), level)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_parts_of_the_whole(kind):
    store = random_store(kind, shard_chunks=8)
    rng = np.random.default_rng(1)
    for view in ("spatial", "objects"):
        ds = xr.open_dataset(store, engine="zv", view=view)
        whole = ds.drop_vars(["vertex_range", "object_table"], errors="ignore").load()
        for dim in ("vertex", "edge", "face", "object"):
            if dim not in ds.dims:
                continue
            n = ds.sizes[dim]
            for key in (slice(n // 3, n // 2), slice(None, None, 7), rng.integers(0, n, 50), slice(5, 5)):
                fresh = xr.open_dataset(store, engine="zv", view=view).drop_vars(
                    ["vertex_range", "object_table"], errors="ignore"
                )
                xr.testing.assert_equal(fresh.isel({dim: key}).load(), whole.isel({dim: key}))


@pytest.mark.parametrize("kind", KINDS)
def test_views_pickle(kind):
    store = random_store(kind)
    for view in ("spatial", "objects"):
        for chunks in (None, {}):
            ds = xr.open_dataset(store, engine="zv", view=view, chunks=chunks)
            xr.testing.assert_identical(pickle.loads(pickle.dumps(ds)).load(), ds.load())
