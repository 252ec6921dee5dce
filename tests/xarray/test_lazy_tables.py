"""xarray's own strategies index the lazy variables of both views, links, parents and objects among them, against numpy."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import xarray as xr
import xarray.testing.strategies as xst
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sampling import examples
from test_views import random_store

KINDS = ("polyline", "skeleton", "graph", "mesh")


@pytest.fixture(autouse=True, scope="module")
def _sync():
    with dask.config.set(scheduler="sync"):
        yield


@pytest.fixture(scope="module", params=[(k, v) for k in KINDS for v in ("spatial", "objects")], ids=str)
def opened(request):
    kind, view = request.param
    store = random_store(kind, shard_chunks=8)
    return store, view, xr.open_dataset(store, engine="zv", view=view).load()


@pytest.fixture(scope="module", params=KINDS)
def boxed(request):
    store = random_store(request.param, shard_chunks=8)
    return store, store.level(0).read(order="chunk").positions


@settings(deadline=None, max_examples=examples(10, 20), suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_any_variable_by_any_indexer(opened, data):
    store, view, eager = opened
    name = data.draw(
        st.sampled_from(sorted(k for k, v in eager.variables.items() if v.ndim and k not in ("vertex", "edge", "face")))
    )
    lazy = xr.open_dataset(store, engine="zv", view=view, chunks=data.draw(st.sampled_from([None, {}])))
    kinds = ["basic_indexers", "outer_array_indexers"]
    if eager[name].ndim > 1 and not lazy.chunks:  # vectorised ones need two dimensions; those of Dask are its own matter
        kinds.append("vectorized_indexers")
    kind = data.draw(st.sampled_from(kinds))
    indexers = data.draw(getattr(xst, kind)(sizes=dict(eager[name].sizes)))
    found = lazy.variables[name].isel(indexers)
    expected = eager.variables[name].isel(indexers)
    assert found.dims == expected.dims
    np.testing.assert_array_equal(found.to_numpy(), expected.to_numpy())


@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_any_box_by_label(boxed, data):
    store, read = boxed
    ds = xr.open_dataset(store, engine="zv")
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
