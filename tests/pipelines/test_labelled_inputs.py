"""Datasets and tables of geometries are taken by what their columns say of themselves."""

import geopandas
import numpy as np
import pytest
import shapely
import xarray as xr
from small import always

import dask_zv as dzv

N = 60
CHUNK = (10, 10)
RNG = np.random.default_rng(0)
XY = RNG.uniform(0, 30, (N, 2))
COLOURS = RNG.uniform(size=(N, 3))
LENGTHS = [10, 20, 30]
IDS = np.array([7, 3, 5])

_small = always(scheduler="sync")


def cf(lazy=False):
    """Return a contiguous ragged array as CF has it: an entry of "obs" for each place, one of "drifter" for each track."""
    ds = xr.Dataset(
        {
            "lat": ("obs", XY[:, 1], {"axis": "Y", "units": "degrees_north"}),
            "lon": ("obs", XY[:, 0], {"axis": "X", "units": "degrees_east", "grid_mapping": "crs"}),
            "temp": ("obs", np.arange(N) * 1.0, {"units": "K"}),
            "colour": (("obs", "band"), COLOURS),
            "rowsize": ("drifter", LENGTHS, {"sample_dimension": "obs"}),
            "ID": ("drifter", IDS, {"cf_role": "trajectory_id"}),
            "mass": ("drifter", [0.1, 0.2, 0.3], {"units": "kg"}),
            "crs": ((), 0, {"crs_wkt": geopandas.GeoSeries(crs=4326).crs.to_wkt()}),
        }
    )
    return ds.chunk(obs=25) if lazy else ds


@pytest.mark.parametrize("lazy", [False, True], ids=["in memory", "lazy"])
def test_tracks_of_a_ragged_array(lazy, tmp_path):
    report = dzv.write_polylines(tmp_path / "s.zv", cf(lazy), chunk_shape=CHUNK)
    assert (report.rows, report.objects) == (N, 3)
    store = dzv.open(tmp_path / "s.zv")
    assert [(a.name, a.unit) for a in store.metadata.axes] == [("lon", "degrees_east"), ("lat", "degrees_north")]
    assert list(store.metadata.crs) == ["crs_wkt"]
    found = store.level(0).read(objects=3)
    assert (found.positions == XY[10:30]).all()
    assert (found.attributes["temp"] == np.arange(10, 30)).all()
    assert found.attributes["colour"].shape == (20, 3)
    assert found.object_attributes["mass"] == [0.2]
    assert xr.open_dataset(tmp_path / "s.zv", engine="zv").temp.attrs["units"] == "K"
    assert dzv.write_polylines(tmp_path / "s.zv", cf(lazy)).blocks == 0


@pytest.mark.parametrize("lazy", [False, True], ids=["in memory", "lazy"])
@pytest.mark.parametrize("form", ["contiguous", "indexed"])
@pytest.mark.parametrize("write", ["write_points", "write_polylines"])
def test_objects_of_both_ragged_arrays(write, form, lazy, tmp_path):
    """Each row is of the object whose id and attributes are where its lengths, or its place, say; none are lost."""
    ds = cf().assign(tags=(("tag", "drifter"), [[1, 2, 3], [4, 5, 6]])).transpose("band", ...)
    if form == "indexed":
        of = np.repeat([0, 1, 2], LENGTHS)
        ds = ds.drop_vars("rowsize").assign(drifter_of=("obs", of, {"instance_dimension": "drifter"}))
    getattr(dzv, write)(tmp_path / "s.zv", ds.chunk(obs=25) if lazy else ds, chunk_shape=CHUNK)
    found = dzv.open(tmp_path / "s.zv").level(0).read(order="object")
    order = np.argsort(found.attributes["temp"])
    assert np.array_equal(found.object_ids[order], np.repeat(IDS, LENGTHS))
    assert np.array_equal(found.attributes["colour"][order], COLOURS)
    assert found.object_index.tolist() == [3, 5, 7]
    assert found.object_attributes["mass"].tolist() == [0.2, 0.3, 0.1]
    assert found.object_attributes["tags"].tolist() == [[2, 5], [3, 6], [1, 4]]


def test_places_and_lengths_of_objects_that_do_not_fit(tmp_path):
    ds = cf().drop_vars("rowsize")
    places = ds.assign(drifter_of=("obs", np.repeat(IDS, LENGTHS), {"instance_dimension": "drifter"}))
    with pytest.raises(dzv.InputError, match="'drifter_of'.*counts from 0 to 2, and has 7.*object_ids="):
        dzv.write_points(tmp_path / "s.zv", places, chunk_shape=CHUNK)
    lengths = ds.assign(rowsize=("drifter", [1, 2, 3], {"sample_dimension": "obs"}))
    with pytest.raises(dzv.InputError, match="'rowsize' adds up to 6 rows, the dimension 'obs' has 60"):
        dzv.write_points(tmp_path / "s.zv", lengths, chunk_shape=CHUNK)


def test_a_dataset_chooses_as_a_table_does(tmp_path):
    ds = cf().rename(lon="x", lat="y").drop_vars(["rowsize", "mass"]).assign(drifter_of=("obs", np.repeat(IDS, LENGTHS)))
    forms = {
        "all": ({}, {"temp", "colour", "drifter_of"}),
        "one": ({"attributes": "temp"}, {"temp"}),
        "named": ({"attributes": {"t": "temp", "twice": 2 * ds.temp}}, {"t", "twice"}),
        "ids": ({"object_ids": "drifter_of"}, {"temp", "colour"}),
        "an index": ({}, {"temp", "colour"}),
    }
    for form, (options, names) in forms.items():
        given = ds if form != "an index" else ds.assign(drifter_of=ds.drifter_of.assign_attrs(instance_dimension="elsewhere"))
        report = dzv.write_points(tmp_path / form, given, chunk_shape=CHUNK, **options)
        assert set(dzv.open(tmp_path / form).level(0).attributes) == names
        assert report.objects == (3 if form in ("ids", "an index") else 0)


def test_views_of_stores_can_be_written(tmp_path):
    """The spatial view of points, and paths in the view of objects."""
    dzv.write_points(
        tmp_path / "p.zv", XY, attributes={"row": np.arange(N)}, object_ids=np.repeat(IDS, LENGTHS), chunk_shape=CHUNK
    )
    dzv.write_polylines(tmp_path / "l.zv", cf(), chunk_shape=CHUNK)
    spatial, objects = (
        xr.open_dataset(tmp_path / f"{n}.zv", engine="zv", view=v, chunks={}) for n, v in (("p", "spatial"), ("l", "objects"))
    )
    dzv.write_points(tmp_path / "p2.zv", spatial, chunk_shape=(5, 5))
    dzv.write_polylines(tmp_path / "l2.zv", objects, chunk_shape=(5, 5))
    for a, b in (("p", "p2"), ("l", "l2")):
        one, two = (dzv.open(tmp_path / f"{n}.zv").level(0).read(order="object") for n in (a, b))
        key = "row" if a == "p" else "temp"
        assert set(one.attributes) == set(two.attributes)
        assert np.array_equal(np.sort(one.attributes[key]), np.sort(two.attributes[key]))
        assert np.array_equal(one.ids, two.ids)
        assert np.array_equal(one.lengths, two.lengths)
    assert dzv.open(tmp_path / "l2.zv").metadata.crs == dzv.open(tmp_path / "l.zv").metadata.crs


@pytest.mark.parametrize("chunks", [None, {}])
@pytest.mark.parametrize("view", ["spatial", "objects"])
def test_attributes_of_the_objects_of_points_are_kept(view, chunks, tmp_path):
    """Of those that have vertices: a selection brings no others."""
    ids, about = np.repeat(IDS, LENGTHS), {"level": np.arange(3.0), "pair": np.ones((3, 2))}
    dzv.write_points(tmp_path / "p.zv", XY, object_ids=ids, object_attributes=about, chunk_shape=CHUNK)
    ds = xr.open_dataset(tmp_path / "p.zv", engine="zv", view=view, chunks=chunks)
    have = np.unique(ids)
    for name, part, wanted in (("whole", ds, have), ("part", ds.zv.sel(objects=have[:1]), have[:1])):
        dzv.write_points(tmp_path / name, part, chunk_shape=CHUNK)
        found = dzv.open(tmp_path / name).level(0).read(order="object")
        assert found.ids.tolist() == wanted.tolist()
        assert set(found.object_attributes) == {"level", "pair"}
        assert found.object_attributes["level"].tolist() == np.searchsorted(np.unique(IDS), wanted).tolist()


@pytest.mark.parametrize("chunks", [None, {}])
def test_groups_of_objects_are_kept(chunks, tmp_path):
    ids, have = np.repeat(IDS, LENGTHS), np.unique(np.repeat(IDS, LENGTHS)).tolist()
    groups = {"groups": {0: have, 2: have[1:]}, "group_attributes": {"size": np.arange(3.0)}}
    dzv.write_points(tmp_path / "p.zv", XY, object_ids=ids, chunk_shape=CHUNK, **groups)
    ds = xr.open_dataset(tmp_path / "p.zv", engine="zv", view="objects", chunks=chunks)
    for name, part, wanted in (("whole", ds, have), ("part", ds.zv.sel(objects=have[:1]), have[:1])):
        dzv.write_points(tmp_path / name, part, chunk_shape=CHUNK)
        found = xr.open_dataset(tmp_path / name, engine="zv", view="objects")
        assert found.object.values.tolist() == wanted
        assert found.in_group.values.tolist() == [[True, False, i in have[1:]] for i in wanted]
        assert found["size"].values.tolist() == [0, 1, 2]
    dzv.write_points(tmp_path / "other", ds, chunk_shape=CHUNK, groups={1: have}, group_attributes={"a": [1, 2]})
    assert (xr.open_dataset(tmp_path / "other", engine="zv", view="objects").in_group.values == [False, True]).all()


def test_skeletons_and_graphs_of_datasets(tmp_path):
    ds = xr.Dataset(
        {"x": ("node", XY[:, 0]), "y": ("node", XY[:, 1]), "up": ("node", np.arange(N) - 1), "e": (("edge", "end"), [[0, 1]])}
    )
    assert dzv.write_skeletons(tmp_path / "s.zv", ds.drop_vars("e"), parents="up", chunk_shape=CHUNK).rows == N
    assert dzv.write_graph(tmp_path / "g.zv", ds, edges="e", attributes=[], chunk_shape=CHUNK).rows == N
    assert dzv.open(tmp_path / "g.zv").level(0).attributes == ()


WRONG = {
    "no axis": (cf().drop_vars("lat"), "unknown column 'y' for an axis.*attribute axis"),
    "two dimensions": (
        cf().assign(lat=(("a", "b"), np.zeros((2, 3)))).rename(lon="x", lat="y"),
        "one dimension in common.*ds.stack",
    ),
    "another table": (cf().rename(lon="x", lat="y"), "unknown column 'tmp'.*did you mean 'temp'"),
}


@pytest.mark.parametrize("what", WRONG)
def test_datasets_that_are_refused(what, tmp_path):
    ds, said = WRONG[what]
    options = {"attributes": "tmp"} if what == "another table" else {}
    with pytest.raises(dzv.InputError, match=said):
        dzv.write_points(tmp_path / "s.zv", ds, chunk_shape=CHUNK, **options)
    assert not list(tmp_path.iterdir())
    with pytest.raises(dzv.InputError, match="ds.to_dataframe()"):
        dzv.write_lines(tmp_path / "s.zv", ds, chunk_shape=CHUNK)


# ---------------------------------------------------------------------------------------------- GeoPandas


def places(ndim=2, crs=4326):
    points = np.column_stack([XY, np.arange(N)])[:, :ndim]
    table = {"row": np.arange(N), "x": np.zeros(N)}  # a column of an axis' name, which is not where it is
    return geopandas.GeoDataFrame(table, geometry=shapely.points(points), crs=crs)


def lines(index=(7, 3, 5)):
    paths = np.split(XY, np.cumsum(LENGTHS)[:-1])
    return geopandas.GeoDataFrame(
        {"name": ["a", "b", "c"], "mass": [1.0, 2, 3]},
        geometry=[shapely.LineString(p) for p in paths],
        crs=4326,
        index=list(index),
    )


@pytest.mark.parametrize("ndim", [2, 3])
def test_points_of_geometries(ndim, tmp_path):
    dzv.write_points(tmp_path / "s.zv", places(ndim), chunk_shape=[10] * ndim)
    dzv.write_points(tmp_path / "column.zv", places(ndim).geometry, chunk_shape=[10] * ndim)
    alone = dzv.open(tmp_path / "column.zv")
    assert (alone.level(0).read().positions == dzv.open(tmp_path / "s.zv").level(0).read().positions).all()
    assert (alone.level(0).attributes, alone.metadata.crs) == ((), {"type": "EPSG", "code": 4326})
    store = dzv.open(tmp_path / "s.zv")
    found = store.level(0).read()
    order = np.argsort(found.attributes["row"])
    assert (found.positions[order][:, :2] == XY).all()
    assert ndim == 2 or (found.positions[order][:, 2] == np.arange(N)).all()
    assert store.level(0).attributes == ("row",)
    assert store.metadata.crs == {"type": "EPSG", "code": 4326}
    ds = xr.open_dataset(tmp_path / "s.zv", engine="zv")
    again = ds.zv.to_geodataframe()
    assert again.crs == places().crs


def test_lines_of_geometries(tmp_path):
    dzv.write_polylines(tmp_path / "s.zv", lines(), chunk_shape=CHUNK)
    found = dzv.open(tmp_path / "s.zv").level(0).read(objects=[3, 7])
    assert found.lengths.tolist() == [20, 10]
    assert (found.positions[:20] == XY[10:30]).all()
    assert found.object_attributes["name"].tolist() == ["b", "a"]
    for index, options, ids in (
        ("abc", {}, [0, 1, 2]),
        ("abc", {"object_ids": [4, 2, 9]}, [2, 4, 9]),
        ((7, 3, 5), {"object_ids": "n"}, [1, 2, 3]),
    ):
        table = lines(index).assign(n=[3, 2, 1])
        dzv.write_polylines(tmp_path / "t.zv", table, chunk_shape=CHUNK, mode="overwrite", attributes="mass", **options)
        found = dzv.open(tmp_path / "t.zv").level(0).read()
        assert found.ids.tolist() == ids
        assert list(found.object_attributes) == ["mass"]
    two = lines().assign(geometry=[shapely.LineString(XY[2 * i : 2 * i + 2]) for i in range(3)])
    assert dzv.write_lines(tmp_path / "u.zv", two, chunk_shape=CHUNK).objects == 3


REFUSED = {
    "a line among points": (
        lambda: dzv.write_points({}, lines(), chunk_shape=CHUNK),
        "points are wanted, row 0 .* is a LineString",
    ),
    "a point among lines": (
        lambda: dzv.write_polylines({}, places(), chunk_shape=CHUNK),
        "lines are wanted, row 0 .* is a Point",
    ),
    "a long line": (lambda: dzv.write_lines({}, lines(), chunk_shape=CHUNK), "two endpoints, row 0 of the geometries has 10"),
    "no geometry": (
        lambda: dzv.write_points({}, places().assign(geometry=[None, *places().geometry[1:]]), chunk_shape=CHUNK),
        "row 0 of the geometries is nothing",
    ),
    "z for two axes": (
        lambda: dzv.write_points({}, places(3), chunk_shape=CHUNK),
        "have 3 dimensions, the store 2 axes.*force_2d",
    ),
    "no z for three": (lambda: dzv.write_points({}, places(2), chunk_shape=(5, 5, 5)), "have 2 dimensions, the store 3 axes"),
    "another system": (
        lambda: dzv.write_points(dzv.create({}, chunk_shape=CHUNK, crs=3857), places()),
        r"are in WGS 84, the store in .*3857.*to_crs",
    ),
    "a column": (lambda: dzv.write_polylines({}, lines(), attributes="mas", chunk_shape=CHUNK), "did you mean 'mass'"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_geometries_that_are_refused(what):
    call, said = REFUSED[what]
    with pytest.raises(dzv.InputError, match=said):
        call()


def test_a_reference_system_that_is_lost_is_told():
    with pytest.warns(dzv.ZVWarning, match="WGS 84.*is not kept: the store was made without one"):
        dzv.write_points(dzv.create({}, chunk_shape=CHUNK), places())
    same = dzv.create({}, chunk_shape=CHUNK, crs={"crs_wkt": places().crs.to_wkt()})
    assert dzv.write_points(same, places()).rows == N
    assert dzv.write_points(dzv.create({}, chunk_shape=CHUNK), places(crs=None)).rows == N
