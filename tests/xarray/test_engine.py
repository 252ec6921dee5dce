"""Engine "zv": how xarray finds it, what it opens, and what the Dataset says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from comparing import assert_same
from refusals import fails

import dask_zv as dzv
from dask_zv.xarray_backend.entrypoint import ZVBackendEntrypoint

GOLDEN = Path(__file__).parents[1] / "data" / "golden_0.7"


def in_fresh_interpreter(code: str, *args: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_imports(written):
    code = "import xarray as xr; e = xr.backends.list_engines()['zv']; print(e.description)"
    assert "Zarr Vectors" in in_fresh_interpreter(code)
    code = "import sys, xarray as xr; ds = xr.open_dataset(sys.argv[1]); print(ds.zv.sel().sizes['vertex'])"
    assert in_fresh_interpreter(code, written.target) == str(len(written.positions))
    code = "import sys, dask_zv; print(sorted({'xarray', 'pandas', 'distributed'} & set(sys.modules)))"
    assert in_fresh_interpreter(code) == "[]"


@pytest.mark.parametrize("name", ["a.zv", "a.zarrvectors", "A.ZV", "b/a.zv/", "s3://bucket/a.zarrvectors", "a.zarrvectors.zip"])
def test_guesses_by_suffix_alone(name):
    assert ZVBackendEntrypoint().guess_can_open(name)
    if "://" not in name:
        assert ZVBackendEntrypoint().guess_can_open(Path(name))


@pytest.mark.parametrize("name", ["a.zarr", "a.nc", "zv", "a.zv.nc", "", b"a.zv", 7, None, {"a.zv": 1}])
def test_leaves_other_things_to_others(name):
    assert not ZVBackendEntrypoint().guess_can_open(name)


def test_names_dims_dtypes_and_values(written):
    ds = written.open()
    assert set(ds.data_vars) == {*written.attributes}
    assert {"object_id", "object_index"} <= set(ds.coords)
    assert set(ds.coords) == {"vertex", *"xyz", "colour_channel", "object", "object_id", "object_index", "object_table"}
    for number, axis in enumerate("xyz"):
        assert ds[axis].dims == ("vertex",)
        np.testing.assert_array_equal(ds[axis], written.positions[:, number], strict=True)
    for name, values in written.attributes.items():
        assert ds[name].dtype == values.dtype
        assert_same(ds[name], values)
    assert ds.colour.dims == ("vertex", "colour_channel")
    np.testing.assert_array_equal(ds.object_id, written.object_ids)
    np.testing.assert_array_equal(ds.vertex, np.arange(len(written.positions)))


@pytest.mark.parametrize("chunks", [None, {}])
def test_missing_categories_are_nan_loaded_or_not(written, chunks):
    maybe = written.open(chunks=chunks).maybe
    missing = np.array([v is None for v in written.attributes["maybe"]])
    np.testing.assert_array_equal(maybe.isnull(), missing)
    assert missing.any()
    assert set(maybe.to_numpy()[~missing]) == {"soma", "axon", "dendrite"}
    assert_same(maybe.to_numpy(), maybe.load().to_numpy())
    assert all(v is np.nan or isinstance(v, float) for v in maybe.to_numpy()[missing])


def test_attrs_say_units_and_fit_netcdf(written):
    ds = written.open()
    assert [ds[a].attrs["units"] for a in "xyz"] == ["micrometer"] * 3
    assert [ds[a].attrs["axis"] for a in "xyz"] == ["X", "Y", "Z"]
    assert ds.attrs["zv_level"] == 0
    assert ds.attrs["vertex_count"] == len(written.positions)
    assert ds.attrs["chunk_shape"] == [10.0, 10.0, 20.0]
    np.testing.assert_allclose(ds.attrs["bounds_min"], written.positions.min(axis=0))
    np.testing.assert_allclose(ds.attrs["bounds_max"], written.positions.max(axis=0))
    assert ds.encoding["zarr_vectors"]["geometry_types"] == ds.attrs["geometry_types"] == ["point_cloud"]
    assert ds.encoding["zarr_vectors_level"]["vertex_count"] == len(written.positions)
    assert max(len(str(v)) for v in ds.attrs.values()) < 200, "documents are in ds.encoding"
    assert sorted(ds.kind.attrs["categories"]) == ["axon", "dendrite", "soma"]
    for variable in (ds, *ds.variables.values()):
        for name, value in variable.attrs.items():
            assert isinstance(name, str)
            flat = value if isinstance(value, list) else [value]
            assert flat, f"{name} is an empty list"
            assert len({type(v) for v in flat}) == 1
            assert all(isinstance(v, str | int | float) and not isinstance(v, bool) for v in flat), (name, value)
    assert not any("chunks" in v.encoding for v in written.open(chunks={}).variables.values())


def test_crs_and_time_axis(tmp_path):
    axes = [{"name": "time", "type": "time", "unit": "second"}, "y", "x"]
    store = dzv.create(tmp_path / "t.zv", chunk_shape=(5, 5, 5), axes=axes, crs={"name": "EPSG:3857"})
    dzv.write_points(store, np.random.default_rng(0).uniform(0, 9, (50, 3)))
    ds = xr.open_dataset(tmp_path / "t.zv")
    assert [c for c in ds.coords if c not in ("vertex", "crs")] == ["time", "y", "x"]
    assert ds.time.attrs["axis"] == "T"
    assert json.loads(ds.crs.attrs["zv_crs"]) == ds.encoding["crs"] == {"name": "EPSG:3857"}
    assert "units" not in ds.x.attrs


def test_a_store_without_points(tmp_path):
    store = dzv.create(tmp_path / "empty.zv", chunk_shape=(5, 5))
    dzv.write_points(store, np.zeros((0, 2)), attributes={"mass": np.zeros(0)})
    for chunks in (None, {}):
        ds = xr.open_dataset(tmp_path / "empty.zv", chunks=chunks)
        assert ds.sizes == {"vertex": 0}
        assert ds.mass.to_numpy().shape == ds.x[::-1].to_numpy().shape == (0,)
        assert ds.zv.sel(bbox=((0, 0), (1, 1))).sizes == {"vertex": 0}


def test_drop_variables(written):
    ds = written.open(drop_variables=["mass", "colour", "object_id", "z"])
    assert not {"mass", "object_id", "z"} & set(ds.variables)
    assert "kind" in ds
    assert "mass" not in written.open(drop_variables="mass")


def test_takes_whatever_dzv_open_takes(written):
    path = Path(written.target)
    for target in (path, path.as_uri(), dzv.open(path)):
        assert xr.open_dataset(target, engine="zv").sizes["vertex"] == len(written.positions)
    sizes = {"vertex": len(written.positions), "colour_channel": 3, "object": 40, "object_table_column": 2}
    assert xr.open_dataset(written.target).sizes == sizes


def test_storage_options_reach_the_store(s3_options, s3_endpoint):
    url = "s3://contract/engine/points.zv"
    store = dzv.create(url, chunk_shape=(10, 10), storage_options=s3_options, overwrite=True)
    positions = np.random.default_rng(0).uniform(0, 30, (200, 2))
    dzv.write_points(store, positions)
    ds = xr.open_dataset(url, engine="zv", storage_options=s3_options, chunks={})
    assert sorted(ds.x.to_numpy()) == sorted(positions[:, 0])
    assert s3_options["secret"] not in f"{ds!r} {ds.attrs} {ds.xindexes} {ds.x.data.name}"


def test_errors_say_what_is_wrong(written, tmp_path):
    fails(dzv.NotFoundError, r"no level 3.*\[0\]", written.open, level=3)
    fails(FileNotFoundError, "nothing is here", lambda: xr.open_dataset(tmp_path / "absent.zv", engine="zv"))
    fails(dzv.MetadataError, "no Zarr Vectors store", lambda: xr.open_dataset(Path(written.target) / "0", engine="zv"))
    with pytest.raises(dzv.StoreError, match="is an Array, not a group"):
        xr.open_dataset(Path(written.target) / "0" / "vertices", engine="zv")
    (tmp_path / "file.zv").write_text("x")
    fails(dzv.StoreError, "is a file, not a store", lambda: xr.open_dataset(tmp_path / "file.zv"))
    fails(TypeError, "no keyword 'colour': there are .*view", written.open, colour="red")
    fails(TypeError, r"ds.zv.sel\(bbox", written.open, bbox=((0, 0, 0), (1, 1, 1)))
    fails(TypeError, "no keyword 'bbox'", lambda: xr.open_datatree(written.target, engine="zv", bbox=None))


def test_keywords_of_xarray_about_codes_change_nothing(written):
    plain = written.open()
    for name in ("decode_times", "decode_timedelta", "mask_and_scale", "decode_coords", "concat_characters", "decode_cf"):
        for value in (True, False):
            xr.testing.assert_identical(written.open(**{name: value}), plain)
    xr.testing.assert_identical(xr.open_datatree(written.target, engine="zv", decode_times=True)["0"].to_dataset(), plain)
    fails(dzv.InputError, "datetime64", written.open, use_cftime=True)


def test_an_attribute_with_the_name_of_an_axis_is_shown_by_another(tmp_path):
    store = dzv.create(tmp_path / "p.zv", chunk_shape=(5, 5))
    dzv.write_points(store, np.random.default_rng(0).uniform(0, 9, (50, 2)), attributes={"mass": np.ones(50)})
    (tmp_path / "p.zv/0/vertex_attributes/mass").rename(tmp_path / "p.zv/0/vertex_attributes/x")
    store.refresh()
    ds = xr.open_dataset(tmp_path / "p.zv")
    np.testing.assert_array_equal(ds.vertex_x, np.ones(50))
    assert ds.vertex_x.attrs["zv_name"] == "x"


def golden() -> list[str]:
    return [path.name.removesuffix(".expected.json") for path in sorted(GOLDEN.glob("points*.expected.json"))]


@pytest.mark.parametrize("name", golden())
def test_reference_stores_open_as_the_level_reads_them(name):
    target = next(p for p in (GOLDEN / f"{name}.zarrvectors", GOLDEN / f"{name}.zarrvectors.zip") if p.exists())
    store = dzv.open(target)
    for number in store.levels:
        read = store.level(number).read()
        for chunks in (None, {}):
            ds = xr.open_dataset(target, level=number, chunks=chunks)
            for i, axis in enumerate(store.axes):
                np.testing.assert_array_equal(ds[axis], read.positions[:, i], strict=True)
            along = {v for v in ds.data_vars if ds[v].dims[:1] == ("vertex",)}
            assert along - {"object_id", "object_index"} == set(read.attributes)
            assert set(ds.data_vars) - along == set(read.object_attributes)
            for attribute, values in read.attributes.items():
                assert_same(ds[attribute], values)
            assert ("object_id" in ds) == (read.object_ids is not None)
            if read.object_ids is not None:
                np.testing.assert_array_equal(ds.object_id, read.object_ids)
            low, high = np.quantile(read.positions, [0.2, 0.7], axis=0)
            inside = store.level(number).read(bbox=(low, high))
            selected = ds.zv.sel(bbox=(low, high))
            np.testing.assert_array_equal(selected[store.axes[0]], inside.positions[:, 0])
