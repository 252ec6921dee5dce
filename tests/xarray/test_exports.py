"""Exports: what other libraries make of them is what the stores hold, number by number."""

from __future__ import annotations

import sys
from collections import Counter
from functools import cache

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from comparing import opened
from geometries_reference import write
from golden_reference import Golden, golden_names
from hemibrain import NEURONS, meshes, size, skeletons, synapses
from refusals import fails
from test_views import random_store as new_store

import dask_zv as dzv
from dask_zv import exports as export

PATHS = ("line", "polyline", "streamline")
NETWORKS = ("skeleton", "graph")
LIBRARIES = {  # and the extra that brings each
    "to_shapely": ("shapely", "geo"),
    "to_geodataframe": ("geopandas", "geo"),
    "to_awkward": ("awkward", "ragged"),
    "to_networkx": ("networkx", "graph"),
    "to_trimesh": ("trimesh", "mesh"),
    "to_uxarray": ("uxarray", "uxarray"),
}
KINDS = pytest.mark.parametrize("kind", ["point_cloud", "polyline", "skeleton", "graph", "mesh"])


random_store = cache(new_store)  # tests here only read
reference = cache(Golden)


@pytest.fixture(params=golden_names())
def golden(request):
    return reference(request.param)


def goldens(*kinds):
    return pytest.mark.parametrize("golden", [pytest.param(n, id=n) for n in golden_names(kinds)], indirect=True)


def truth_links(golden, key):
    """Return links of the truth by the rows of the spatial view."""
    place = np.empty(len(golden.order), np.int64)
    place[golden.order] = np.arange(len(golden.order))
    return place[golden.truth[key]]


def multiset(links):
    return Counter(map(tuple, np.asarray(links).tolist()))


def paths_of(golden):
    """Return the positions of each path of a golden store, in float64 as geometries have them."""
    return {i: golden.positions[golden.owners == i].astype(float) for i in golden.ids}


@pytest.fixture(scope="module")
def neurons():
    """Return the three real neurons as stores; `number` is the row in the file."""
    out = {}
    about = pd.DataFrame({"rank": [1, 2, 3], "side": ["R", "L", "R"]}, index=list(NEURONS))
    for kind, read in (("skeleton", skeletons), ("mesh", meshes), ("point_cloud", synapses)):
        data, _ = read()
        store = dzv.create({}, geometry=kind, chunk_shape=(2000, 2000, 2000), dtype="float64")
        own = {"face_attributes": {"face_number": data.link_attributes["number"]}} if kind == "mesh" else {}
        write(store, data, object_attributes=about, **own)
        out[kind] = store
    return out


def check_golden_frame(frame, golden, rows):
    np.testing.assert_array_equal(frame[list(golden.store.axes)].to_numpy(), golden.positions[rows])
    for key, values in golden.truth.items():
        if key.startswith("attr__") and not key.endswith("__missing"):
            np.testing.assert_array_equal(frame[key.removeprefix("attr__")].to_numpy(), values[rows])
    assert frame.object_id.tolist() == golden.owners[rows].tolist()
    for key, values in golden.truth.items():
        if key.startswith("oattr__") and values.ndim == 1:
            known = dict(zip(golden.truth["oattr_ids"].tolist(), values.tolist(), strict=True))
            want = [known.get(int(i), np.nan) for i in frame.object_id]
            np.testing.assert_array_equal(frame[key.removeprefix("oattr__")].to_numpy(float, na_value=np.nan), want)


def test_tables_of_golden_stores(golden):
    if golden.shares_fragments:
        assert set(export.to_dataframe(opened(golden.store)).object_id) <= {-2, *golden.ids}
        return
    frame = export.to_dataframe(opened(golden.store), object_attributes=True)
    check_golden_frame(frame, golden, golden.order)
    assert frame.index.tolist() == list(range(len(frame)))
    by_object = export.to_dataframe(opened(golden.store, "objects"), object_attributes=True)
    keep = np.ones(len(golden.owners), bool)
    check_golden_frame(by_object, golden, golden.expected_rows(keep, "object"))


def test_parents_in_tables(neurons):
    table, _ = skeletons()
    for view in ("spatial", "objects"):
        frame = export.to_dataframe(opened(neurons["skeleton"], view))
        child, parent = frame[frame.parent >= 0], frame[frame.parent >= 0].parent
        assert (table.parents[child.number] == frame.number.loc[parent].to_numpy()).all()
        assert (table.parents[frame.number[frame.parent < 0]] < 0).all()


def test_columns_have_the_types_of_the_attributes(written):
    read = dzv.open(written.target).level(0).read()
    frame = export.to_dataframe(written.open())
    colours = [c for c in frame if c.startswith("colour_")]
    assert sorted(frame) == sorted(["x", "y", "z", "mass", "flag", *colours, "kind", "maybe", "when", "object_id"])
    assert len(colours) == 3
    np.testing.assert_array_equal(frame[colours].to_numpy(), read.attributes["colour"])
    assert frame[colours[0]].dtype == np.uint8
    assert isinstance(frame.kind.dtype, pd.CategoricalDtype)
    assert set(frame.kind.dtype.categories) == {"soma", "axon", "dendrite"}
    for name in ("kind", "maybe"):
        assert [v if isinstance(v, str) else None for v in frame[name]] == read.attributes[name].tolist()
    assert frame.when.to_numpy().astype("datetime64[s]").tolist() == read.attributes["when"].tolist()
    np.testing.assert_array_equal(frame.flag, read.attributes["flag"])


@pytest.mark.product(keep="pairs")
@pytest.mark.parametrize("view", ["spatial", "objects"])
@pytest.mark.parametrize("chunks", [None, {}, {"vertex": 137}])
@KINDS
def test_dask_tables_are_the_same(kind, chunks, view):
    store = random_store(kind)
    whole = export.to_dataframe(opened(store, view), object_attributes=True)
    lazy = export.to_dask_dataframe(opened(store, view, chunks=chunks), object_attributes=True)
    assert lazy.npartitions == (11 if chunks else 1)
    assert list(lazy.divisions) == [*range(0, len(whole), 137 if chunks else len(whole)), len(whole) - 1]
    for part in (lazy._meta, lazy.partitions[0].compute()):
        assert part.dtypes.equals(whole.dtypes)
    pd.testing.assert_frame_equal(lazy.compute(), whole)


@pytest.mark.parametrize("chunks", [None, {}])
def test_dask_tables_of_all_types(written, chunks, use_scheduler):
    whole = export.to_dataframe(written.open())
    lazy = export.to_dask_dataframe(written.open(chunks=chunks))
    assert lazy._meta.dtypes.equals(whole.dtypes)
    with use_scheduler("processes"):
        pd.testing.assert_frame_equal(lazy.compute(), whole)
    assert lazy.groupby("kind", observed=True).mass.sum().compute().to_dict() == pytest.approx(
        whole.groupby("kind", observed=True).mass.sum().to_dict()
    )


@pytest.mark.parametrize("chunks", [None, {}])
def test_dask_tables_read_nothing_before_they_are_computed(counted, chunks):
    ds = counted.open(chunks=chunks)
    counted.target.forget()
    lazy = export.to_dask_dataframe(ds, object_attributes=True)
    assert counted.target.log == []
    assert len(lazy.compute()) == len(counted.positions)


def test_tables_of_selections(written, monkeypatch):
    from dask_zv.xarray_backend import arrays

    monkeypatch.setattr(arrays, "_CHUNK_ROWS", 300)  # several partitions of little data
    box = ((-5, -5, -5), (15, 15, 15))
    part = written.open().zv.sel(box)
    inside = written.inside(box)
    frame = export.to_dataframe(part)
    assert frame.index.tolist() == np.flatnonzero(inside).tolist()
    np.testing.assert_array_equal(frame[["x", "y", "z"]], written.positions[inside])
    lazy = export.to_dask_dataframe(part)
    assert lazy.npartitions > 2
    pd.testing.assert_frame_equal(lazy.compute(), frame)
    nothing = written.open().zv.sel(((100, 100, 100), (200, 200, 200)))
    assert len(export.to_dataframe(nothing)) == len(export.to_dask_dataframe(nothing).compute()) == 0
    turned = written.open().isel(vertex=slice(None, None, -1))
    assert export.to_dask_dataframe(turned).compute().index.tolist() == list(range(len(written.positions)))[::-1]


def test_vertices_of_no_object_have_no_attributes_of_one():
    store = dzv.create({}, geometry="point_cloud", chunk_shape=(10, 10))
    about = pd.DataFrame({"rank": [5, 6], "side": ["L", "R"]}, index=[3, 4])
    dzv.write_points(store, np.arange(8.0).reshape(4, 2), object_ids=[3, 3, 4, 3], object_attributes=about)
    ds = opened(store).assign(object_id=("vertex", [3, -1, 4, 3]))  # as in stores of other tools
    for make in (export.to_dataframe, lambda *a, **k: export.to_dask_dataframe(*a, **k).compute()):
        frame = make(ds, object_attributes=True)
        assert frame["rank"].tolist() == [5, pd.NA, 6, 5]
        assert frame["side"].fillna("none").tolist() == ["L", "none", "R", "L"]


@pytest.mark.parametrize("view", ["spatial", "objects"])
def test_an_object_without_a_value_has_none(view):
    store = dzv.create({}, geometry="point_cloud", chunk_shape=(10, 10))
    about = pd.DataFrame({"rank": [5, 7], "size": [0.5, 0.7]}, index=[3, 5])  # nothing of object 4
    positions = np.arange(12.0).reshape(6, 2)
    dzv.write_points(store, positions, object_ids=[3, 3, 4, 4, 5, 5], object_attributes=about)
    ds = opened(store, view)
    for frame in (
        export.to_dataframe(ds, object_attributes=True),
        export.to_dask_dataframe(ds, object_attributes=True).compute(),
    ):
        assert frame["rank"].tolist() == [5, 5, pd.NA, pd.NA, 7, 7]
        assert frame["size"].isna().tolist() == [False, False, True, True, False, False]


@goldens(*PATHS)
def test_shapely_lines_are_the_paths(golden):
    ds = opened(golden.store, "objects")
    shapes = export.to_shapely(ds)
    assert len(shapes) == ds.sizes["object"]
    for key, shape in zip(ds.object.values.tolist(), shapes, strict=True):
        if len(paths_of(golden)[key]) < 2:
            assert shape is None
            continue
        assert shape.geom_type == "LineString"
        np.testing.assert_array_equal(list(shape.coords), paths_of(golden)[key])
    flat = export.to_shapely(ds, dims=("y", "x"))
    np.testing.assert_array_equal(list(flat[0].coords), paths_of(golden)[int(ds.object[0])][:, [1, 0]])


@goldens("skeleton", "graph", "mesh")
def test_shapely_networks_and_meshes(golden):
    ds = opened(golden.store)
    if golden.shares_fragments:
        fails(dzv.InputError, "not of one object", export.to_shapely, ds)
        ds = ds.drop_vars(["object_id", "object"])
    key = "faces" if golden.kind == "mesh" else "edges"
    links, positions = golden.truth[key], golden.positions.astype(float)
    owners = golden.owners[links]
    if "object_id" in ds and (owners != owners[:, :1]).any():
        fails(dzv.InputError, "not of one object", export.to_shapely, ds)
        return
    shapes = export.to_shapely(ds)
    found = {}
    for number, shape in zip(ds.object.values.tolist() if "object" in ds.coords else [None], shapes, strict=True):
        parts = [] if shape is None else shape.geoms
        rings = [p.exterior.coords[:-1] if key == "faces" else p.coords for p in parts]
        found[number] = Counter(tuple(map(tuple, r)) for r in rings)
    for number, have in found.items():
        mine = links if number is None else links[owners[:, 0] == number]
        assert have == Counter(tuple(map(tuple, positions[row].tolist())) for row in mine)


@pytest.mark.parametrize(
    ("kind", "view"),
    [("point_cloud", "objects"), ("polyline", "objects"), ("skeleton", "spatial"), ("skeleton", "objects"), ("graph", "spatial"),
     ("mesh", "spatial")],
)  # fmt: skip
def test_geodataframes_of_every_kind(kind, view):
    ds = opened(random_store(kind), view)
    table = export.to_geodataframe(ds)
    drawn = table[~table.geometry.isna()]
    positions = np.stack([ds[a].values for a in "xyz"], 1).astype(float)
    if kind == "point_cloud":
        np.testing.assert_array_equal(table.get_coordinates(include_z=True), positions)
        np.testing.assert_array_equal(table.mass, ds.mass)
        return
    assert table.index.tolist() == ds.object.values.tolist()
    np.testing.assert_array_equal(table.score, ds.score)
    if kind == "mesh":
        np.testing.assert_allclose(drawn.geometry.area.sum(), np.abs(signed_areas(positions[:, :2][ds.faces.values])).sum())
    else:
        spatial = opened(random_store(kind))
        ends = np.stack([spatial[a].values for a in "xy"], 1).astype(float)
        if kind == "polyline":
            rows = export.to_dataframe(ds).groupby("object_id")[["x", "y"]].diff().dropna().to_numpy(float)
        else:
            rows = np.diff(ends[spatial.edges.values], axis=1)[:, 0]
        np.testing.assert_allclose(drawn.geometry.length.sum(), np.linalg.norm(rows, axis=1).sum(), rtol=1e-5)


def signed_areas(corners):
    (a, b, c) = np.moveaxis(corners, 1, 0)
    return ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]) / 2


def test_objects_with_nothing_to_draw_are_none_and_unknown_reference_systems():
    store = dzv.create({}, geometry="polyline", chunk_shape=(10, 10, 10))
    dzv.write_polylines(store, np.arange(15.0).reshape(5, 3), lengths=[2, 1, 2], object_ids=[4, 6, 9])
    ds = opened(store, "objects")
    assert [s is None for s in export.to_shapely(ds)] == [False, True, False]
    frame = export.to_geodataframe(ds)
    assert frame.index.tolist() == [4, 6, 9]
    assert frame.geometry.isna().tolist() == [False, True, False]
    fails(dzv.InputError, "1 of 3 objects have nothing to draw", export.to_cf_geometries, ds)
    assert decoded(export.to_cf_geometries(ds, empty="drop")).object_id.values.tolist() == [4, 9]
    store = dzv.create({}, geometry="polyline", chunk_shape=(10, 10), crs={"type": "template", "name": "my space"})
    dzv.write_polylines(store, np.arange(8.0).reshape(4, 2), lengths=[4])
    ds = opened(store, "objects")
    for make in (export.to_geodataframe, export.to_cf_geometries):
        fails(dzv.InputError, "crs=None", make, ds)
        make(ds, crs=None)


def test_geodataframes_of_points(neurons):
    import shapely

    table, _ = synapses()
    frame = export.to_geodataframe(opened(neurons["point_cloud"]))
    assert frame.crs is None
    np.testing.assert_array_equal(shapely.get_coordinates(frame.geometry, include_z=True), table.positions[frame.number])
    assert frame.object_id.tolist() == table.ids[frame.number].tolist()
    assert frame["type"].tolist() == table.attributes["type"][frame.number].tolist()
    box = (3500, 20000, 7500, 24000)
    inside = frame.cx[box[0] : box[2], box[1] : box[3]]
    x, y, _ = table.positions.T
    assert len(inside) == ((x >= box[0]) & (x <= box[2]) & (y >= box[1]) & (y <= box[3])).sum() > 10


@pytest.mark.parametrize(
    "crs",
    [
        {"type": "EPSG", "code": 4326},
        {"epsg": 4326},
        {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::4326"}},
        "wkt",
    ],
    ids=str,
)
def test_the_reference_system_of_the_store(crs, tmp_path):
    import geopandas
    import pyproj
    import shapely
    import xvec  # noqa: F401 - registers the accessor

    given = {"crs_wkt": pyproj.CRS(4326).to_wkt()} if crs == "wkt" else crs
    store = dzv.create({}, geometry="polyline", chunk_shape=(10, 10), axes=["lon", "lat"], crs=given)
    rng = np.random.default_rng(0)
    points = rng.uniform(-40, 40, (30, 2))
    dzv.write_polylines(store, points, lengths=[10, 15, 5], object_attributes=pd.DataFrame({"speed": [1.5, 2.5, 3.5]}))
    ds = opened(store, "objects")
    frame = export.to_geodataframe(ds)
    assert frame.crs == "EPSG:4326"
    assert frame.speed.tolist() == [1.5, 2.5, 3.5]
    frame.to_file(tmp_path / "paths.gpkg")  # and back, by geopandas alone
    back = geopandas.read_file(tmp_path / "paths.gpkg")
    assert back.crs == "EPSG:4326"
    np.testing.assert_array_equal(shapely.get_coordinates(back.geometry), points)
    assert export.to_geodataframe(ds, crs=None).crs is None
    assert export.to_geodataframe(ds, crs=3857).crs == "EPSG:3857"
    by_xvec = export.to_cf_geometries(ds).xvec.decode_cf()
    assert by_xvec.xindexes["geometry"].crs == "EPSG:4326"
    near = by_xvec.xvec.query("geometry", shapely.Point(points[12]).buffer(1e-6))
    assert 2.5 in near.speed.values.tolist()


def decoded(ds):
    from cf_xarray.geometry import decode_geometries

    return decode_geometries(ds)


def same_shapes(found, wanted):
    import shapely

    for a, b in zip(found, wanted, strict=True):  # readers give a multi-part geometry of one part as that part
        if a.geom_type != b.geom_type:
            (b,) = b.geoms
        assert a.geom_type == b.geom_type
        assert shapely.equals_exact(a, b)


@goldens(*PATHS)
def test_cf_lines_decode_to_the_paths(golden):
    import cf_xarray
    import xvec  # noqa: F401 - registers the accessor

    made = export.to_cf_geometries(opened(golden.store, "objects"), empty="drop")
    assert made.object_id.values.tolist() == [i for i, path in paths_of(golden).items() if len(path) > 1]
    for shapes in (
        decoded(made).geometry.values,
        cf_xarray.cf_to_shapely(made, container="geometry_container").values,
        made.xvec.decode_cf().geometry.values,
    ):
        for key, shape in zip(made.object_id.values.tolist(), shapes, strict=True):
            np.testing.assert_array_equal(list(shape.coords), paths_of(golden)[key][:, :2])
    for key, values in golden.truth.items():
        if key.startswith("attr__"):
            rows = np.concatenate([np.flatnonzero(golden.owners == i) for i in made.object_id.values])
            np.testing.assert_array_equal(made[key.removeprefix("attr__")].values, values[rows])


@pytest.mark.parametrize(
    ("kind", "view"),
    [("point_cloud", "spatial"), ("point_cloud", "objects"), ("polyline", "objects"), ("skeleton", "spatial"),
     ("skeleton", "objects"), ("graph", "spatial"), ("mesh", "spatial")],
)  # fmt: skip
def test_cf_geometries_of_every_kind(kind, view):
    import cf_xarray
    import xvec  # noqa: F401 - registers the accessor

    ds = opened(random_store(kind), view)
    wanted = [s for s in export.to_shapely(ds, dims=("x", "z")) if s is not None]
    made = export.to_cf_geometries(ds, dims=("x", "z"), empty="drop")
    assert not made.chunks
    assert [made[a].attrs.get("axis") for a in ("x", "z")] == ["X", "Y"]
    own = cf_xarray.shapely_to_cf(xr.DataArray(decoded(made).geometry.values, dims="geometry"))
    for ours, theirs in (("x", "x"), ("z", "y"), ("node_count", "node_count"), ("part_node_count", "part_node_count")):
        if theirs in own and ours in made:
            np.testing.assert_array_equal(made[ours].values, own[theirs].values)
    same_shapes(decoded(made).geometry.values, wanted)
    by_xvec = made.xvec.decode_cf()
    same_shapes(by_xvec.geometry.values, wanted)
    if kind == "point_cloud":
        np.testing.assert_array_equal(by_xvec.mass, ds.mass)
    else:
        known = dict(zip(ds.object.values.tolist(), ds.score.values.tolist(), strict=True))
        assert by_xvec.score.values.tolist() == [known[i] for i in by_xvec.object_id.values.tolist()]


def test_cf_geometries_survive_netcdf(tmp_path):
    ds = opened(random_store("polyline"), "objects")
    made = export.to_cf_geometries(ds)
    made.to_netcdf(tmp_path / "paths.nc")
    with xr.open_dataset(tmp_path / "paths.nc", decode_coords=False) as back:
        same_shapes(decoded(back.load()).geometry.values, export.to_shapely(ds, dims=("x", "y")))


@goldens(*PATHS)
def test_clouddrift_of_paths(golden):
    import clouddrift

    made = export.to_clouddrift(opened(golden.store, "objects"))
    axes = [made[a] for a in golden.store.axes]

    def length(*columns):
        return np.linalg.norm(np.diff(np.stack(columns, 1).astype(float), axis=0), axis=1).sum()

    found = clouddrift.ragged.apply_ragged(length, axes, made.rowsize)
    wanted = [np.linalg.norm(np.diff(paths_of(golden)[i], axis=0), axis=1).sum() for i in made.id.values.tolist()]
    np.testing.assert_allclose(found, wanted)
    ragged = clouddrift.RaggedArray.from_xarray(made)
    assert ragged.metadata["rowsize"].tolist() == [len(paths_of(golden)[i]) for i in made.id.values.tolist()]
    records = ragged.to_awkward()
    for record, key in zip(records, made.id.values.tolist(), strict=True):
        np.testing.assert_array_equal(record["obs"][golden.store.axes[0]].to_numpy(), paths_of(golden)[key][:, 0])
    assert ragged.attrs_global == made.attrs


def test_clouddrift_of_tracks():
    import clouddrift

    store = dzv.create({}, geometry="polyline", chunk_shape=(5.0, 5.0, 50.0), axes=["lon", "lat", "t"])
    rng = np.random.default_rng(3)
    t = np.concatenate([np.arange(12.0), np.arange(7.0), np.arange(20.0)])
    lon, lat = rng.uniform(-10, 10, (2, len(t)))
    dzv.write_polylines(store, np.stack([lon, lat, t], 1), lengths=[12, 7, 20], attributes={"rgb": rng.random((len(t), 3))})
    made = export.to_clouddrift(opened(store, "objects"))
    assert set(made.coords) == {"id", "t"}
    u, _ = clouddrift.ragged.apply_ragged(
        clouddrift.kinematics.velocity_from_position, [made.lon, made.lat, made.t], made.rowsize, coord_system="cartesian"
    )
    np.testing.assert_allclose(u[:11], np.diff(lon[:12]), rtol=1e-5, atol=1e-5)
    assert sum(k.startswith("rgb_") for k in made) == 3


@KINDS
def test_clouddrift_of_every_kind(kind):
    import clouddrift

    made = export.to_clouddrift(opened(random_store(kind), "objects"))
    frame = export.to_dataframe(opened(random_store(kind)))
    means = clouddrift.ragged.apply_ragged(np.mean, [made.mass], made.rowsize)
    np.testing.assert_allclose(means, frame.groupby("object_id").mass.mean().loc[made.id.values])
    ragged = clouddrift.RaggedArray.from_xarray(made)
    np.testing.assert_array_equal(ragged.metadata["score"], opened(random_store(kind)).score)
    np.testing.assert_array_equal(np.sort(ragged.data["x"]), np.sort(frame.x))


@KINDS
def test_awkward_by_vertex_of_every_kind(kind):
    ds = opened(random_store(kind))
    made = export.to_awkward(ds)
    assert made.vertex.to_list() == list(range(ds.sizes["vertex"]))
    for name in ("x", "y", "z", "mass", "object_id"):
        np.testing.assert_array_equal(made[name].to_numpy(), ds[name])
    assert made.kind.to_list() == ds.kind.values.tolist()


@KINDS
def test_awkward_by_object(kind):
    ds = opened(random_store(kind), "objects").load()
    made = export.to_awkward(ds)
    assert made.id.to_list() == ds.object.values.tolist()
    stops = np.cumsum(ds.node_count.values)
    for record, start, stop in zip(made, stops - ds.node_count.values, stops, strict=True):
        for name in ("x", "y", "z", "mass"):
            np.testing.assert_array_equal(record[name].to_numpy(), ds[name].values[start:stop])
        assert record.kind.to_list() == ds.kind.values[start:stop].tolist()
        if kind == "skeleton":
            parent = ds.parent.values[start:stop]
            assert record.parent.to_list() == np.where(parent < 0, -1, parent - start).tolist()
    np.testing.assert_array_equal(made.score.to_numpy(), ds.score)


def test_awkward_by_vertex(written):
    read = dzv.open(written.target).level(0).read()
    made = export.to_awkward(written.open())
    np.testing.assert_array_equal(np.stack([made[a].to_numpy() for a in "xyz"], 1), read.positions)
    np.testing.assert_array_equal(made.colour.to_numpy(), read.attributes["colour"])
    assert made.maybe.to_list() == read.attributes["maybe"].tolist()
    assert made.when.to_numpy().tolist() == read.attributes["when"].tolist()
    assert made.object_id.to_list() == read.object_ids.tolist()


def test_awkward_of_golden_lines(golden):
    if golden.shares_fragments:
        fails(dzv.InputError, None, lambda: export.to_clouddrift(opened(golden.store)))
        return
    made = export.to_awkward(opened(golden.store, "objects"))
    for record in made:
        rows = golden.expected_rows(golden.owners == record.id, "object")
        np.testing.assert_array_equal(np.stack([record[a].to_numpy() for a in golden.store.axes], 1), golden.positions[rows])


@goldens(*NETWORKS)
def test_networkx_of_golden_networks(golden):
    graph = export.to_networkx(opened(golden.store), multigraph=True)
    assert graph.is_directed() == (golden.kind == "skeleton")
    assert list(graph) == list(range(len(golden.order)))
    found = np.array([graph.nodes[i]["pos"] for i in graph])
    np.testing.assert_array_equal(found, golden.positions[golden.order].astype(float))
    links = truth_links(golden, "edges")
    if golden.kind == "skeleton":
        assert multiset(graph.edges()) == multiset(links)
    else:
        assert multiset(np.sort(list(graph.edges()), 1)) == multiset(np.sort(links, 1))
    for key in ("attr__degree", "attr__radius"):
        if key in golden.truth:
            name = key.removeprefix("attr__")
            assert [graph.nodes[i][name] for i in graph] == golden.truth[key][golden.order].tolist()
    for key, values in golden.truth.items():
        if key.startswith("eattr__"):
            stored = golden.truth["eattr_stored"] if "eattr_stored" in golden.truth else np.ones(len(values), bool)
            name = key.removeprefix("eattr__")
            have = Counter((min(a, b), max(a, b), w) for a, b, w in graph.edges(data=name))
            wanted = Counter(
                (min(a, b), max(a, b), w) for (a, b), w in zip(links[stored].tolist(), values[stored].tolist(), strict=True)
            )
            assert not wanted - have


def test_networkx_of_neurons(neurons):
    import networkx as nx

    table, _ = skeletons()
    parents = table.parents
    edges = np.stack([np.arange(len(parents)), parents], axis=1)[parents >= 0]
    for view in ("spatial", "objects"):
        graph = export.to_networkx(opened(neurons["skeleton"], view))
        number = nx.get_node_attributes(graph, "number")
        assert sorted(number.values()) == list(range(len(parents)))
        assert {(number[a], number[b]) for a, b in graph.edges} == set(map(tuple, edges.tolist()))
        assert nx.number_weakly_connected_components(graph) == (parents < 0).sum() == 4
        assert nx.is_branching(graph.reverse())
        pos = nx.get_node_attributes(graph, "pos")
        length = sum(np.linalg.norm(np.subtract(pos[a], pos[b])) for a, b in graph.edges)
        assert length == pytest.approx(size(table.positions, edges))
        assert nx.get_node_attributes(graph, "object_id")[7] in NEURONS


def test_networkx_knows_directions_and_parallel_edges():
    import networkx as nx

    positions = np.random.default_rng(0).uniform(0, 30, (4, 3))
    edges = np.array([[0, 1], [1, 0], [2, 1], [3, 0]])
    for directed in (False, True):
        store = dzv.create({}, geometry="graph", chunk_shape=(10, 10, 10))
        weights = {"weight": np.array([1.0, 2.0, 3.0, 4.0])}
        dzv.write_graph(
            store, positions, edges=edges, edge_attributes=weights, directed=directed, attributes={"number": np.arange(4)}
        )
        ds = opened(store)
        if directed:
            graph = export.to_networkx(ds)
            assert type(graph) is nx.DiGraph
        else:
            fails(dzv.InputError, "multigraph=True", export.to_networkx, ds)
            graph = export.to_networkx(ds, multigraph=True)
            assert type(graph) is nx.MultiGraph
        number = nx.get_node_attributes(graph, "number")
        found = [
            ((number[a], number[b]) if directed else tuple(sorted((number[a], number[b]))), w)
            for a, b, w in graph.edges(data="weight")
        ]
        wanted = [
            ((a, b) if directed else (min(a, b), max(a, b)), w)
            for (a, b), w in zip(edges.tolist(), weights["weight"], strict=True)
        ]
        assert sorted(found) == sorted(wanted)
        assert not export.to_networkx(ds, directed=False, multigraph=True).is_directed()


@goldens(*PATHS)
def test_networkx_of_paths(golden):
    graph = export.to_networkx(opened(golden.store, "objects"), directed=True)
    owner = graph.nodes(data="object_id")
    assert graph.number_of_edges() == len(golden.owners) - len(golden.ids)
    assert all(b == a + 1 and owner[a] == owner[b] for a, b in graph.edges)


def test_networkx_of_a_selection_keeps_numbers():
    ds = opened(random_store("graph"))
    whole, part = export.to_networkx(ds), export.to_networkx(ds.zv.sel(((10, 0, 0), (60, 80, 90))))
    assert 0 < len(part.edges) < len(whole.edges)
    assert set(part.edges) == set(whole.subgraph(list(part)).edges)
    assert all(part.nodes[i] == whole.nodes[i] for i in part)


@goldens("mesh")
def test_trimesh_of_golden_meshes(golden):
    made = export.to_trimesh(opened(golden.store))
    np.testing.assert_array_equal(made.vertices, golden.positions[golden.order])
    faces = truth_links(golden, "faces")
    if faces.shape[1] == 4:
        faces = np.concatenate([faces[:, [0, 1, 2]], faces[:, [2, 3, 0]]])
    turned = np.asarray(faces)
    assert multiset(made.faces) == multiset(turned)
    for key in ("attr__temp",):
        if key in golden.truth:
            np.testing.assert_array_equal(made.vertex_attributes["temp"], golden.truth[key][golden.order])


def test_trimesh_of_neurons(neurons):
    table, _ = meshes()
    ds = opened(neurons["mesh"])
    whole = export.to_trimesh(ds)
    faces = table.links
    assert whole.area == pytest.approx(size(table.positions, faces))
    number = whole.vertex_attributes["number"]
    assert (number[whole.faces] == faces[whole.face_attributes["face_number"]]).all()
    each = export.to_trimesh(ds, by_object=True)
    assert list(each) == list(NEURONS)
    for rank, (neuron, mesh) in enumerate(each.items(), 1):
        mine = faces[table.ids[faces[:, 0]] == neuron]
        assert mesh.metadata["rank"] == rank
        assert mesh.area == pytest.approx(size(table.positions, mine))
        assert (mesh.vertex_attributes["object_id"] == neuron).all()
        rows = mesh.vertex_attributes["number"]
        np.testing.assert_array_equal(mesh.vertices, table.positions[rows])
        assert multiset(rows[mesh.faces]) == multiset(mine)


def test_trimesh_by_object_of_what_has_none(golden):
    if golden.kind != "mesh":
        fails(dzv.InputError, "has no faces", lambda: export.to_trimesh(opened(golden.store)))
    elif golden.shares_fragments:
        fails(dzv.InputError, "by_object=False", lambda: export.to_trimesh(opened(golden.store), by_object=True))
    else:
        assert sorted(export.to_trimesh(opened(golden.store), by_object=True)) == golden.ids


def test_flat_meshes_lie_in_a_plane():
    store, positions, faces = globe()
    made = export.to_trimesh(opened(store))
    assert (made.vertices[:, 2] == 0).all()
    assert made.faces.shape == (2 * len(faces), 3)  # quads became triangles
    for corners, number in zip(made.faces, made.face_attributes["number"], strict=True):
        quad = positions[faces[number]].tolist()
        assert all(p in quad for p in made.vertices[corners, :2].tolist())
    assert made.area == pytest.approx(110 * 60)


def globe(**options):
    """Return a store of quads of 10 degrees in longitude and latitude, with positions and corners."""
    lon, lat = np.meshgrid(np.arange(-60.0, 51.0, 10.0), np.arange(-30.0, 31.0, 10.0), indexing="ij")
    positions = np.stack([lon.ravel(), lat.ravel()], axis=1)
    at = np.arange(lon.size).reshape(lon.shape)
    faces = np.stack([at[:-1, :-1], at[1:, :-1], at[1:, 1:], at[:-1, 1:]], axis=-1).reshape(-1, 4)
    options = {"axes": ["lon", "lat"], "crs": {"type": "EPSG", "code": 4326}, **options}
    store = dzv.create({}, geometry="mesh", chunk_shape=(25, 25), dtype="float64", **options)
    attributes = {"height": positions.sum(axis=1)}
    dzv.write_meshes(store, positions, faces=faces, attributes=attributes, face_attributes={"number": np.arange(len(faces))})
    return store, positions, faces


def test_uxarray_of_a_globe():
    store, positions, faces = globe()
    made = export.to_uxarray(opened(store))
    grid = made.uxgrid
    assert (grid.n_node, grid.n_face) == (len(positions), len(faces))
    nodes = np.stack([grid.node_lon.values, grid.node_lat.values], 1)
    corners = nodes[grid.face_node_connectivity.values]
    np.testing.assert_allclose(corners, positions[faces[made.number.values]], atol=1e-12)
    np.testing.assert_allclose(made.height.values, nodes.sum(axis=1), atol=1e-9)
    means = made.height.topological_mean(destination="face")
    np.testing.assert_allclose(means.values, positions[faces[made.number.values]].sum(axis=2).mean(axis=1), atol=1e-9)
    # a sphere of radius 1; sides are great circles, which bulge a little from the parallels
    expected = np.deg2rad(110) * 2 * np.sin(np.deg2rad(30))
    assert float(grid.face_areas.sum()) == pytest.approx(expected, rel=0.01)
    units = [{"name": n, "type": "space", "unit": "degree"} for n in ("lon", "lat")]
    assert export.to_uxarray(opened(globe(axes=units, crs=None)[0])).sizes["n_node"] == 84
    unknown = opened(globe(crs=None)[0])
    fails(dzv.InputError, r"dims=\('lon', 'lat'\)", export.to_uxarray, unknown)
    assert export.to_uxarray(unknown, dims=("lon", "lat")).sizes["n_face"] == 66
    metres = opened(globe(crs={"type": "EPSG", "code": 3857})[0])
    fails(dzv.InputError, "degrees of longitude", export.to_uxarray, metres)
    fails(dzv.InputError, "3 axes", lambda: export.to_uxarray(opened(random_store("mesh"))))
    fails(dzv.InputError, "x and y are not degrees", lambda: export.to_uxarray(opened(random_store("mesh")), dims=("x", "y")))


@pytest.mark.parametrize(
    ("kind", "view", "names", "message"),
    [
        ("polyline", "spatial", ["to_shapely", "to_geodataframe", "to_cf_geometries", "to_networkx"], "view='objects'"),
        ("polyline", "spatial", ["to_clouddrift"], "view='objects'"),
        ("graph", "objects", ["to_shapely", "to_geodataframe", "to_cf_geometries", "to_networkx"], "view='spatial'"),
        ("mesh", "objects", ["to_shapely", "to_trimesh"], "view='spatial'"),
        ("mesh", "spatial", ["to_networkx"], "to_trimesh"),
        ("point_cloud", "spatial", ["to_networkx"], "no edges"),
        ("point_cloud", "spatial", ["to_trimesh", "to_uxarray"], "no faces"),
        ("skeleton", "spatial", ["to_uxarray"], "to_networkx"),
    ],
)
def test_what_does_not_fit_is_refused(kind, view, names, message):
    ds = opened(random_store(kind), view)
    for name in names:
        with pytest.raises(dzv.InputError, match=message):
            getattr(export, name)(ds)


def test_bad_arguments():
    ds = opened(random_store("point_cloud"))
    for dims in (("x",), ("x", "x"), ("x", "q"), "xy", ("x", "y", "z", "z")):
        fails(dzv.InputError, "dims names", export.to_shapely, ds, dims=dims)
    fails(dzv.InputError, "two different axes", export.to_cf_geometries, ds, dims=("x", "y", "z"))
    fails(dzv.InputError, "'raise' or 'drop'", export.to_cf_geometries, ds, empty="yes")
    broken = opened(random_store("polyline"), "objects").isel(vertex=slice(3, 900))
    for make in (export.to_dataframe, export.to_dask_dataframe, export.to_shapely, export.to_awkward, export.to_clouddrift):
        fails(dzv.InputError, "node_count", make, broken)
    fails(dzv.InputError, "engine='zv'", lambda: export.to_dataframe(xr.Dataset({"a": ("q", [1, 2])})))
    twice = ds.assign(rowsize=ds.mass)
    with pytest.raises(dzv.InputError, match="'rowsize'"):
        export.to_clouddrift(opened(random_store("polyline"), "objects").assign(rowsize=("vertex", twice.mass.values)))
    with pytest.raises(dzv.InputError, match="no objects"):
        export.to_dataframe(ds.drop_vars(["object_id", "object"]), object_attributes=True)


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_missing_library_is_named_with_its_extra(name, monkeypatch):
    ds = opened(random_store("mesh"))
    library, extra = LIBRARIES[name]
    monkeypatch.setitem(sys.modules, library, None)
    fails(ImportError, rf"{library}: pip install 'dask-zv\[{extra}\]'", getattr(export, name), ds)
