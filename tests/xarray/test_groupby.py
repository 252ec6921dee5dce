"""``ds.zv.groupby``: categories, objects and values of numpy and of Dask columns, as pandas groups them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from comparing import cloud, opened
from refusals import fails
from small_stores import write_small

import dask_zv as dzv


@pytest.fixture(params=["xarray alone", "flox"])
def way(request):
    """With flox, and as where it is not installed."""
    with xr.set_options(use_flox=request.param == "flox"):
        yield request.param


def chunked(ds, chunks):
    return ds if chunks is None else ds.chunk(vertex=300)


@pytest.mark.parametrize("chunks", [None, {}])
@pytest.mark.parametrize("view", ["spatial", "objects"])
def test_as_pandas_groups(written, way, view, chunks):
    ds = chunked(written.open(view=view, chunks=chunks), chunks)
    frame = ds.zv.to_dataframe()
    ds = ds[["mass", "flag", "kind", "maybe"]]
    for by in ("kind", "maybe", "flag", "object_id", ["kind", "object_id"]):
        expected = frame.groupby(by, observed=False).mass
        found = ds.zv.groupby(by).mean()
        assert (found.mass.chunks is None) == (chunks is None)
        assert set(found.dims) == {*np.atleast_1d(by)}
        np.testing.assert_allclose(found.mass.values.ravel(), expected.mean().to_numpy())
        assert found[np.atleast_1d(by)[0]].values.tolist() == list(expected.mean().index.unique(0))
        numeric = ds if way != "flox" else ds.drop_vars({"kind", "maybe"} - {*np.atleast_1d(by)})  # flox counts no text
        counts = numeric.zv.groupby(by).count().mass.fillna(0)
        np.testing.assert_array_equal(counts.values.ravel(), expected.count().to_numpy())
    some = ds.zv.groupby("kind", labels=["soma"]).mean()
    assert some.kind.values.tolist() == ["soma"]
    np.testing.assert_allclose(some.mass, frame[frame.kind == "soma"].mass.mean())


@pytest.mark.parametrize("chunks", [None, {}])
def test_labels_without_rows_are_nan(written, way, chunks):
    ds = chunked(written.open(chunks=chunks), chunks)
    axons = ds[["mass", "kind"]].isel(vertex=np.flatnonzero(ds.kind.values == "axon"))
    found = axons.zv.groupby("kind").mean()
    assert found.kind.values.tolist() == axons.kind.attrs["categories"]
    assert found.mass.notnull().values.tolist() == [c == "axon" for c in axons.kind.attrs["categories"]]


@pytest.mark.parametrize("chunks", [None, {}])
def test_first_and_last_of_groups(written, way, chunks):
    ds = chunked(written.open(chunks=chunks), chunks)[["mass", "flag"]]
    expected = ds.zv.to_dataframe().groupby("flag").mass
    if way == "flox" and chunks is not None:  # xarray gives all rows, ungrouped
        for what in ("first", "last"):
            fails(dzv.InputError, r"in memory only: ds\.load\(\)", lambda w: getattr(ds.zv.groupby("flag"), w)(), what)
        ds = ds.load()
    np.testing.assert_array_equal(ds.zv.groupby("flag").first().mass, expected.first())
    np.testing.assert_array_equal(ds.zv.groupby("flag").last().mass, expected.last())


@pytest.mark.parametrize("view", ["spatial", "objects"])
def test_ids_are_a_coordinate_of_both_views(written, view):
    """So that xarray's own groupby finds them, of what is in memory."""
    ds = written.open(view=view)
    assert ds.object_id.dims == ("vertex",)
    frame = ds.zv.to_dataframe()
    means = ds.mass.groupby(ds.object_id).mean()
    np.testing.assert_allclose(means, frame.groupby("object_id").mass.mean())
    by_kind = ds[["mass", "kind"]].load().groupby("kind").mean().mass
    np.testing.assert_allclose(by_kind, frame.groupby("kind", observed=False).mass.mean())
    fails(ValueError, "labels", written.open(view=view, chunks={}).groupby, "kind")  # which xarray alone can't know


def test_sparse_ids_and_vertices_of_no_object():
    positions = np.random.default_rng(0).uniform(0, 9, (60, 2))
    store = cloud(positions, (4, 4), object_ids=np.repeat([5, 900], 30), attributes={"mass": np.arange(60)})
    for chunks in (None, {}):
        ds = opened(store, chunks=chunks)
        found = ds.zv.groupby("object_id").sum().mass
        assert found.object_id.values.tolist() == [5, 900]
        assert found.values.tolist() == [sum(range(30)), sum(range(30, 60))]
        none = ds.assign_coords(object_id=ds.object_id.where(ds.mass < 40, -1))
        assert none.zv.groupby("object_id").count().mass.values.tolist() == [30, 10]


def test_along_objects_and_edges():
    store = write_small({}, "graph")
    for chunks in (None, {}):
        ds = opened(store, chunks=chunks)
        ds = ds.assign(side=("object", np.arange(ds.sizes["object"]) % 2))
        by_side = ds.zv.groupby("side").mean()
        assert set(by_side.data_vars) == {"score"}
        np.testing.assert_allclose(by_side.score, [ds.score[::2].mean(), ds.score[1::2].mean()])
        heavy = ds.assign(heavy=ds.weight > 20).zv.groupby("heavy").max()
        assert set(heavy.data_vars) == {"weight"}
        assert heavy.weight.values.tolist() == [20, float(ds.weight.max())]


def test_what_cannot_be_grouped_is_told(written):
    ds = written.open(chunks={})
    fails(dzv.InputError, "no 'nothing' to group by: .*'kind'", ds.zv.groupby, "nothing")
    fails(dzv.InputError, "one dimension", ds.zv.groupby, "colour")
    fails(dzv.InputError, "each once", ds.zv.groupby, ["kind", "kind"])
    fails(dzv.InputError, "by name", ds.zv.groupby, ["kind", "flag"], labels=["soma"])
    fails(dzv.InputError, "none of the groups", ds.zv.groupby, "kind", labels={"flag": [True]})
    fails(dzv.InputError, "some different values", ds.zv.groupby, "kind", labels=["soma", "soma"])
    loud = written.open().load()
    loud["kind"] = loud.kind.str.upper().assign_attrs(loud.kind.attrs)
    fails(dzv.InputError, "none of the categories of 'kind'", loud.zv.groupby, "kind")
    fails(dzv.InputError, "among the labels", loud.zv.groupby, "kind", labels=["leaf"])
    assert pd.Index(loud.zv.groupby("kind", labels=["SOMA", "AXON"]).mean().kind).tolist() == ["SOMA", "AXON"]
