"""xarray's own indexing strategies, on every kind of lazy array, in both views, with and without Dask, against numpy."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import xarray as xr
from comparing import assert_same, opened
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sampling import examples
from test_views import KINDS, random_store
from xarray.testing.strategies import basic_indexers, outer_array_indexers, vectorized_indexers

import dask_zv as dzv

VIEWS = ("spatial", "objects")
QUICK = settings(
    deadline=None, max_examples=examples(12, 25), suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
INDEXERS = {"basic": basic_indexers, "outer": outer_array_indexers, "vectorized": vectorized_indexers}


@functools.cache
def store_of(kind):
    """Return a store, to which 2-D attributes are added; what is read of it is compared with `Level.read` in test_views."""
    store = random_store(kind)
    if kind != "graph":
        return store
    rng = np.random.default_rng(0)
    n = 400
    edges = np.stack([np.arange(1, n), np.arange(n - 1)], 1)
    made = dzv.create({}, geometry="graph", chunk_shape=(10, 12, 15))
    dzv.write_graph(
        made, rng.uniform(0, 60, (n, 3)), edges=edges,
        attributes={"colour": rng.integers(0, 255, (n, 3), dtype=np.uint8), "when": rng.integers(0, 99, n).astype("M8[s]")},
        edge_attributes={"weight": rng.random(n - 1), "pair": rng.random((n - 1, 2))},
        object_ids=np.arange(n) // 7, object_attributes={"score": np.arange(-(-n // 7)) * 1.0}, groups={0: [1, 5], 1: [0]},
    )  # fmt: skip
    return made


@functools.cache
def pair(kind, view, chunked):
    """Return the arrays of a view as they were opened, and as numpy has them."""
    chunks = {"vertex": 173, "edge": 91, "face": 64, "object": 11} if chunked else None
    ds = opened(store_of(kind), view, chunks=chunks)
    arrays = {str(k): xr.DataArray(v.to_base_variable()) for k, v in ds.variables.items() if v.ndim}
    return arrays, {k: xr.DataArray(np.asarray(v.values), dims=v.dims) for k, v in arrays.items()}


@pytest.mark.filterwarnings("ignore:The specified chunks separate")
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("kind", KINDS)
def test_indexing_is_that_of_numpy(kind, view, chunked):
    lazy, eager = pair(kind, view, chunked)

    @QUICK
    @given(data=st.data())
    def check(data):
        name = data.draw(st.sampled_from(sorted(lazy)))
        how = data.draw(st.sampled_from(sorted(INDEXERS)))
        options = {"min_dims": 1} if how == "vectorized" else {}
        indexers = data.draw(INDEXERS[how](sizes=dict(eager[name].sizes), **options))
        expected = eager[name].isel(indexers)
        try:
            found = lazy[name].isel(indexers)
            values = found.values
        except NotImplementedError:  # Dask's own limit: several arrays of several dimensions
            if not chunked or how != "vectorized":
                raise
            return
        assert found.dims == expected.dims
        assert found.shape == expected.shape
        assert_same(values, expected.values, name)
        # and again, of what was selected: lazy selections are put together before anything is read
        again = data.draw(basic_indexers(sizes=dict(expected.sizes))) if expected.ndim and expected.size else {}
        assert_same(lazy[name].isel(indexers).isel(again).values, expected.isel(again).values, name)

    check()


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("kind", KINDS)
def test_whole_datasets_by_xarray_s_indexers(kind, view):
    """All variables of a dimension at once, index and all."""
    whole = opened(store_of(kind), view).load()
    dims = [d for d in ("vertex", "edge", "face") if d in whole.dims]  # objects are not selected without their vertices

    @settings(QUICK, max_examples=examples(7, 15))
    @given(data=st.data())
    def check(data):
        sizes = {d: whole.sizes[d] for d in dims}
        indexers = data.draw(INDEXERS[data.draw(st.sampled_from(["basic", "outer"]))](sizes=sizes))
        found = opened(store_of(kind), view).isel(indexers)
        xr.testing.assert_identical(found.load(), whole.isel(indexers))

    check()


def test_every_kind_of_array_is_among_them():
    dims = {v.dims for kind in KINDS for view in VIEWS for v in pair(kind, view, False)[0].values()}
    assert {("vertex",), ("vertex", "colour_channel"), ("edge", "edge_node"), ("face", "face_node")} <= dims
    assert {("object",), ("object", "group"), ("edge",), ("face",), ("edge", "pair_channel")} <= dims
    kinds = {v.dtype.kind for kind in KINDS for view in VIEWS for v in pair(kind, view, False)[0].values()}
    assert {"f", "i", "u", "b", "M"} <= kinds
    assert kinds & {"U", "O", "T"}


@functools.cache
def packed(kind):
    """Return a store of shards, and the positions in it."""
    store = random_store(kind, shard_chunks=8)
    return store, store.level(0).read(order="chunk").positions


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_any_box_by_label(kind, data):
    store, read = packed(kind)
    ds = opened(store)
    edge = st.one_of(st.none(), st.floats(-10, 120, width=32), st.sampled_from(read[:40].ravel().tolist()))
    box = {a: slice(data.draw(edge), data.draw(edge)) for a in data.draw(st.sets(st.sampled_from("xyz"), min_size=1))}
    mask = np.ones(len(read), bool)
    for axis, wanted in box.items():
        column = read[:, "xyz".index(axis)].astype(float)
        mask &= column >= (-np.inf if wanted.start is None else wanted.start)
        mask &= column <= (np.inf if wanted.stop is None else wanted.stop)
    order = data.draw(st.sampled_from(["as opened", "backwards", "loaded", "picked"]))
    rows = np.arange(len(read))
    if order == "backwards":
        ds, rows = ds.isel(vertex=slice(None, None, -1)), rows[::-1]
    elif order == "loaded":
        ds = ds.load()
    elif order == "picked":
        rows = np.random.default_rng(data.draw(st.integers(0, 9))).permutation(len(read))
        ds = ds.isel(vertex=rows)
    found = ds.sel(box)
    np.testing.assert_array_equal(found.vertex, rows[mask[rows]])
    np.testing.assert_array_equal(found.y, read[rows[mask[rows]], 1])
