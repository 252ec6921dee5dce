"""``ds.zv.sel``, ``ds.zv.objects`` and ``ds.zv.to_store`` in both views: exact, consistent, and there and back."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr
from comparing import opened, stored
from refusals import fails
from test_views import KINDS, check_objects, check_spatial, random_store, rows_of, same

import dask_zv as dzv

BOX = ((8.0, 10.0, 3.0), (45.0, 71.0, 60.0))
PATHS = ("line", "polyline", "streamline")


@pytest.fixture(scope="module", params=KINDS)
def store(request):
    return random_store(request.param)


def inside(read, box=BOX):
    low, high = np.asarray(box)
    return ((read.positions >= low) & (read.positions <= high)).all(axis=1)


@pytest.mark.parametrize("chunks", [None, {}])
def test_sel_keeps_the_links_between_the_vertices(store, chunks):
    level = store.level(0)
    read = level.read(order="chunk")
    rows = np.flatnonzero(inside(read))
    ds = opened(store, chunks=chunks)
    found = ds.zv.sel(bbox=BOX)
    same(found.vertex, rows)
    same(np.stack([found.x, found.y, found.z], 1), read.positions[rows])
    for name, links in (("edges", read.edges), ("faces", read.faces)):
        if links is not None:
            among = np.isin(links, rows).all(axis=1)
            assert 0 < among.sum() < len(links)
            same(rows_of(found[name]), rows_of(links[among]), name)
    again = found.zv.sel(bbox=((8, 10, 3), (30, 40, 60))).load()
    same(again.vertex, np.flatnonzero(inside(read, ((8, 10, 3), (30, 40, 60)))))
    backwards = ds.isel(vertex=slice(None, None, -1)).zv.sel(bbox=BOX)
    same(backwards.vertex, rows[::-1])


def test_links_are_found_in_any_order_of_the_edges():
    store = random_store("graph")
    ds = opened(store)
    expected = rows_of(ds.zv.sel(bbox=BOX).edges)
    for part in (
        ds.isel(edge=slice(None, None, -1)),
        ds.isel(edge=np.random.default_rng(0).permutation(ds.sizes["edge"])),
        ds.load(),
    ):
        same(rows_of(part.zv.sel(bbox=BOX).edges), expected)
    half = ds.isel(edge=slice(0, ds.sizes["edge"] // 2))
    kept = half.edges.values
    same(rows_of(half.zv.sel(bbox=BOX).edges), rows_of(kept[np.isin(kept, ds.zv.sel(bbox=BOX).vertex).all(axis=1)]))


def test_chunks_in_brings_their_links(store):
    ds = opened(store)
    near = ds.zv.chunks_in(BOX)
    exact = ds.zv.sel(bbox=BOX)
    assert set(exact.vertex.values) <= set(near.vertex.values)
    for name, dim in (("edges", "edge"), ("faces", "face")):
        if name in ds:
            assert set(exact[dim].values) <= set(near[dim].values)
            assert 0 < near.sizes[dim] < ds.sizes[dim]


@pytest.mark.parametrize("box", [BOX, ((0, 0, 0), (25, 25, 25)), ((500, 500, 500), (600, 600, 600))])
def test_sel_in_the_objects_view_clips(store, box):
    level = store.level(0)
    read = level.read(bbox=box, order="object")
    found = opened(store, "objects").zv.sel(bbox=box)
    keep = read.lengths > 0
    same(found.object, read.ids[keep])
    same(found.node_count, read.lengths[keep])
    same(np.stack([found.x, found.y, found.z], 1), read.positions)
    same(found.mass, read.attributes["mass"])
    whole = opened(store, "objects").zv.sel(bbox=box, clip=False)
    read = level.read(bbox=box, order="object", clip=False)
    same(whole.object, read.ids)
    same(whole.x, read.positions[:, 0])


def test_objects_by_id(store):
    level = store.level(0)
    for view in ("spatial", "objects"):
        ds = opened(store, view)
        for key, ids in ((6, [6]), ([9, 3], [3, 9]), (slice(10, 21), [12, 15, 18, 21]), (slice(110, None), [111, 114, 117])):
            found = ds.zv.objects[key]
            if "node_count" in found:
                read = level.read(objects=ids, order="object")
                same(found.object, ids)
                same(found.node_count, read.lengths)
            else:
                read = level.read(objects=ids, order="chunk")
                same(np.unique(found.object_id), ids)
                links = read.edges if read.edges is not None else read.faces
                assert found.sizes["edge" if read.edges is not None else "face"] == len(links)
            same(found.y, read.positions[:, 1])
        with pytest.raises(dzv.NotFoundError, match="7"):
            ds.zv.objects[7]


def test_groups(store):
    groups = store.level(0).read(objects=[0]).groups
    for view in ("spatial", "objects"):
        ds = opened(store, view)
        owner = (lambda d: np.unique(d.object_id)) if view == "spatial" else (lambda d: d.object.values)
        same(owner(ds.zv.sel(groups=0)), groups[0])
        same(owner(ds.zv.sel(groups=[0, 2])), np.union1d(groups[0], groups[2]))
        same(owner(ds.zv.sel(groups=0, objects=[0, 3, 90])), [0, 3])
        fails(dzv.NotFoundError, "3", ds.zv.sel, groups=3)


def test_counts_out_of_step_and_functions_of_cut_objects_are_refused():
    ds = opened(random_store("polyline"), "objects")
    for broken in (ds.isel(vertex=slice(0, 50)), ds.drop_vars("vertex_range").isel(object=[1, 2])):
        for use in (lambda d: d.zv.sel(bbox=BOX), lambda d: d.zv.objects[3], lambda d: d.zv.to_store({})):
            fails(dzv.InputError, "node_count speaks of", use, broken)
    ds = opened(random_store("polyline"), "objects")
    for use in (lambda d: d.zv.map_objects(len), lambda d: d.zv.density(shape=3)):
        with pytest.raises(dzv.InputError, match="clip=False"):
            use(ds.zv.sel(bbox=BOX))
    whole = ds.zv.sel(bbox=BOX, clip=False)
    same(whole.zv.map_objects(len), whole.node_count)
    assert int(whole.zv.density(shape=3).sum()) == whole.sizes["vertex"]


def view_for(kind):
    return "objects" if kind in PATHS else "spatial"


@pytest.mark.parametrize("chunks", [None, {"vertex": 200}])
def test_there_and_back(store, chunks):
    kind = store.metadata.geometry_types[0]
    ds = opened(store, view_for(kind), chunks=chunks)
    target = {}
    assert ds.zv.to_store(target).rows == ds.sizes["vertex"]
    new = dzv.open(target)
    assert new.metadata.chunk_shape == store.metadata.chunk_shape
    back = opened(new, view_for(kind))
    if kind == "skeleton":  # the links are those that they were; in which order nodes lie in a chunk is the writer's to say
        assert back.sizes == ds.sizes
    else:
        ignore = ("edges", "faces", "weight", "step", "area")
        xr.testing.assert_equal(back.drop_vars(ignore, errors="ignore").load(), ds.drop_vars(ignore, errors="ignore").load())
    for number, view in ((0, "spatial"), (0, "objects")):
        check = check_spatial if view == "spatial" else check_objects
        check(opened(new, view), new.level(number))
    a, b = store.level(0).read(order="object"), new.level(0).read(order="object")
    for links in ("edges", "faces"):
        if getattr(a, links) is not None:
            place = lambda g, n: g.positions[getattr(g, n)].reshape(len(getattr(g, n)), -1)  # noqa: E731
            same(rows_of(place(a, links)), rows_of(place(b, links)))
    assert {g: m.tolist() for g, m in a.groups.items()} == {g: m.tolist() for g, m in b.groups.items()}
    same(a.object_attributes["score"], b.object_attributes["score"])
    same(np.sort(a.attributes["mass"]), np.sort(b.attributes["mass"]))


def test_a_selection_becomes_a_store(store):
    kind = store.metadata.geometry_types[0]
    ds = opened(store, view_for(kind))
    part = ds.zv.sel(bbox=BOX, clip=kind not in PATHS)
    again = stored(part, chunk_shape=(20, 20, 20), layout=None)
    read, old = again.level(0).read(), store.level(0).read(bbox=BOX, clip=kind not in PATHS)
    same(rows_of(read.positions), rows_of(old.positions))
    assert again.metadata.chunk_shape == (20, 20, 20)
    for links in ("edges", "faces"):
        if getattr(old, links) is not None:
            assert len(getattr(read, links)) == len(getattr(old, links))
    delayed = part.zv.to_store({}, compute=False)
    assert delayed.compute().rows == part.sizes["vertex"]


def test_a_dataset_of_ones_own():
    rng = np.random.default_rng(0)
    ds = xr.Dataset(
        {"mass": ("vertex", rng.random(30))}, coords={a: ("vertex", rng.random(30) * 10, {"units": "m"}) for a in "xyz"}
    )
    target = {}
    fails(dzv.InputError, "chunk_shape", ds.zv.to_store, target)
    ds.zv.to_store(target, chunk_shape=(5, 5, 5))
    store = dzv.open(target)
    assert store.metadata.axes[0].unit == "m"
    same(rows_of(store.level(0).read().positions), rows_of(np.stack([ds.x, ds.y, ds.z], 1)))
    tracks = xr.Dataset(
        {"node_count": ("object", [2, 3, 0, 4]), "speed": ("object", [1.0, 2.0, 3.0, 4.0])},
        coords={"x": ("vertex", np.arange(9.0)), "y": ("vertex", np.arange(9.0) % 4)},
    )
    target = {}
    tracks.zv.to_store(target, chunk_shape=(3, 3), geometry="polyline")
    read = dzv.open(target).level(0).read()
    same(read.lengths, [2, 3, 0, 4])
    same(read.object_attributes["speed"], [1, 2, 3, 4])
    fails(dzv.InputError, "view='objects'", lambda: opened(target).zv.to_store({}))
    tracks = xr.Dataset(
        {"node_count": ("object", [3, 2])},
        coords={"t": ("vertex", [0.0, 1, 2, 0, 1]), "y": ("vertex", np.arange(5.0)), "x": ("vertex", np.arange(5.0) + 100)},
        attrs={"zv_axes": ["t", "y", "x"]},
    )
    target = {}
    tracks.zv.to_store(target, chunk_shape=(4, 40, 40), geometry="polyline")
    ds = opened(target, "objects")
    assert ds.geometry.attrs["node_coordinates"] == "x y"
    assert list(ds.zv.to_shapely()[0].coords) == [(100.0, 0.0), (101.0, 1.0), (102.0, 2.0)]


def test_a_store_is_not_written_over_itself(tmp_path):
    ds = opened(random_store("polyline"), "objects")
    path = tmp_path / "own.zv"
    ds.zv.to_store(path)
    for view in ("spatial", "objects"):
        own = opened(path, view)
        fails(dzv.InputError, "read from|view='objects'", own.zv.to_store, path, overwrite=True)
    assert opened(path).sizes["vertex"] == ds.sizes["vertex"]


@pytest.mark.parametrize("how", ["objects", "vertices", "both"])
def test_objects_and_vertices_out_of_order_are_refused(how):
    ds = opened(random_store("polyline"), "objects").drop_vars("vertex_range")
    other = {
        "objects": lambda: ds.sortby("score"),
        "vertices": lambda: ds.sortby("mass"),
        "both": lambda: ds.isel(object=slice(None, None, -1), vertex=slice(None, None, -1)).sortby("score"),
    }[how]()
    for broken in (other, other.load()):
        for use in (
            lambda d: d.zv.objects[3],
            lambda d: d.zv.sel(bbox=BOX),
            lambda d: d.zv.to_store({}),
            lambda d: d.zv.to_dataframe(),
            lambda d: d.zv.map_objects(len),
            lambda d: d.zv.density(shape=2),
        ):
            fails(dzv.InputError, "order of the objects", use, broken)
    fails(dzv.InputError, "node_count speaks", lambda: ds.isel(vertex=slice(0, 9)).zv.map_objects(len))


def test_positions_of_ones_own_and_deep_copies():
    ds = opened(random_store("point_cloud"))
    scaled = ds.drop_indexes(["x", "y", "z"])
    scaled["x"] = scaled.x * 2
    found = scaled.zv.sel(bbox=((20, -np.inf, -np.inf), (60, np.inf, np.inf)))
    same(found.vertex, np.flatnonzero((ds.x.values * 2 >= 20) & (ds.x.values * 2 <= 60)))
    fails(dzv.InputError, "no index", scaled.zv.density, shape=2)
    ds = opened(random_store("point_cloud")).load()
    copied = ds.copy(deep=True)
    copied.x.variable.values[:] = -1
    assert float(ds.x.min()) > 0
    assert copied.sel(y=slice(0, 30)).sizes == ds.sel(y=slice(0, 30)).sizes
    part = opened(random_store("graph")).isel(vertex=slice(10, 25)).load()
    with pytest.raises(dzv.InputError, match="coordinate 'vertex'"):
        part.drop_indexes(["vertex", "x", "y", "z"]).drop_vars("vertex").zv.to_networkx()


def test_attributes_of_several_values_and_objects_without_vertices_come_back():
    store = dzv.create({}, chunk_shape=(5, 5, 5))
    rng = np.random.default_rng(0)
    dzv.write_points(
        store, rng.uniform(0, 20, (90, 3)), object_ids=np.repeat([2, 5, 9], 30),
        object_attributes={"colour": rng.random((3, 3)), "rank": np.arange(3)}, groups={1: [9]},
    )  # fmt: skip
    for view in ("spatial", "objects"):
        target = {}
        ds = opened(store, view)
        ds.zv.to_store(target)
        xr.testing.assert_equal(opened(target, view).load(), ds.load())


@pytest.mark.parametrize("key", [[1384], [-1385], [0, 9999], np.ones(7, bool)], ids=str)
def test_rows_that_are_not_there_are_an_error(key):
    ds = opened(random_store("point_cloud"))
    assert ds.sizes["vertex"] == 1384
    for part in (ds, ds.isel(vertex=np.arange(1384))):
        fails(IndexError, None, part.isel, vertex=key)


def test_what_other_tools_note_is_shown_and_kept(tmp_path):
    """The unit that stands beside an array alone, and what applications keep at the root and at a level."""
    path = tmp_path / "s.zv"
    points = np.random.default_rng(0).uniform(0, 20, (100, 2))
    store = dzv.create(path, chunk_shape=(5, 5), bounds=((0, 0), (20, 20)))
    objects = {"object_ids": np.arange(100) // 10, "object_attributes": {"score": np.arange(10.0)}}
    dzv.write_points(store, points, attributes={"mass": np.arange(100.0)}, **objects)
    notes = {
        "": {"user_metadata": {"lab": {"who": "me"}}}, "0": {"user_metadata": {"lab": {"round": 1}}},
        "0/vertex_attributes/mass": {"unit": "kilogram", "description": "how heavy"},
        "0/object_attributes/score": {"unit": "second"},
    }  # fmt: skip
    for node, attributes in notes.items():
        document = json.loads((path / node / "zarr.json").read_text())
        document["attributes"] |= attributes
        (path / node / "zarr.json").write_text(json.dumps(document))
    ds = xr.open_dataset(path, engine="zv")
    assert ds.mass.attrs["units"] == "kilogram"
    assert ds.score.attrs["units"] == "second"
    ds.zv.to_store(tmp_path / "whole.zv")
    ds.zv.sel(bbox=((0, 0), (9, 9))).zv.to_store(tmp_path / "part.zv")
    dzv.convert(path, tmp_path / "packed.zv", shard_chunks=4)
    dzv.convert(path, tmp_path / "other.zv", layout="per_chunk")
    for name in ("whole", "part", "packed", "other"):
        copy = dzv.open(tmp_path / f"{name}.zv")
        assert copy.group.attrs["user_metadata"] == {"lab": {"who": "me"}}, name
        assert copy.level(0).group.attrs["user_metadata"] == {"lab": {"round": 1}}, name
        mass = xr.open_dataset(tmp_path / f"{name}.zv", engine="zv").mass
        assert (mass.attrs["units"], mass.attrs["long_name"]) == ("kilogram", "how heavy"), name


@pytest.mark.parametrize("view", ["spatial", "objects"])
def test_documents_of_the_store_are_no_attributes_and_nothing_is_lost(tmp_path, view):
    """Attributes are short: what a store of the Dataset, or of a file of it, needs is in the variables, or read again."""
    rng = np.random.default_rng(0)
    axes = [{"name": n, "type": "space", "unit": "meter"} for n in "xy"]
    mass = xr.DataArray(np.arange(200.0), dims="row", attrs={"units": "kg", "long_name": "how heavy"})
    store = dzv.create({}, chunk_shape=(10, 10), axes=axes, crs={"name": "EPSG:3857"})
    ids, about = rng.integers(0, 5, 200), {"groups": {0: [1, 2]}, "group_attributes": {"rank": [3]}}
    dzv.write_points(store, rng.uniform(0, 40, (200, 2)), attributes={"mass": mass}, object_ids=ids, **about)
    ds = opened(store, view).assign_attrs(title="other")
    ds.to_netcdf(tmp_path / "file.nc")
    with xr.open_dataset(tmp_path / "file.nc") as file:
        for source in (ds, file.load()):
            again = stored(source)
            assert again.metadata.crs == {"name": "EPSG:3857"}
            assert again.metadata.axes == store.metadata.axes
            assert again.attribute_specs["vertex"] == store.attribute_specs["vertex"]
            if source is ds or view == "objects":  # a file has no table of groups in the spatial view
                assert again.level(0).read(objects=[1]).groups[0].tolist() == [1, 2]
                assert again.level(0).read(objects=[1]).group_attributes["rank"].tolist() == [3]
