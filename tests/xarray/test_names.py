"""Roles of variables go by dimensions and marks, not by names; xarray's own idioms never answer wrongly in silence."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from comparing import cloud, opened, stored
from refusals import fails
from small_geometries import write_any

import dask_zv as dzv

NAMES = [
    "parent", "geometry", "crs", "object", "edge", "face", "edges", "faces", "in_group", "topology", "node_count", "vertex",
    "object_index", "chunk", "level", "connectivity", "group", "edge_node", "face_node", "a", "a_channel", "chunk_x", "chunk_rows",
    "positions", "vertices", "vertex_range", "vertex_parent",
]  # fmt: skip
LOW, HIGH = (-1, -1, -1), (15, 21, 21)
rng = np.random.default_rng(0)
POINTS = rng.uniform(0, 20, (30, 3)).astype("f4")
OWNERS = np.repeat([3, 5, 9], 10)
ABOUT = {name: rng.normal(size=30) for name in NAMES} | {"a": rng.normal(size=(30, 2))}
OF_OBJECTS = pd.DataFrame({name: rng.normal(size=3) for name in NAMES}, index=[3, 5, 9])


def write(kind: str, **options: object) -> dzv.Store:
    store = dzv.create({}, chunk_shape=(7, 7, 7), geometry=kind, **options)
    ends = np.c_[np.arange(1, 30), np.arange(29)]
    links = {"skeleton": ends[ends[:, 0] % 10 > 0], "mesh": np.c_[ends, (ends[:, 0] + 1) % 30]}.get(kind, ends)
    groups = {"groups": {0: [3, 5]}} if kind == "point_cloud" else {}
    weights = {name: np.arange(29.0) for name in NAMES}
    write_any(store, kind, POINTS, OWNERS, links, weights, attributes=ABOUT, object_attributes=OF_OBJECTS, **groups)
    return store


@pytest.mark.parametrize("kind", ["point_cloud", "polyline", "skeleton", "graph", "mesh"])
def test_attributes_of_any_name_survive(kind):
    store = write(kind, crs=4326)
    level = store.level(0)
    for view in ("spatial", "objects"):
        ds = opened(store, view, chunks={})
        if view == "spatial":
            opened(store, chunk_table=True).load()
        frame = ds.zv.to_dataframe()
        assert len(frame) == 30
        assert {"vertex_vertex", "positions", "level"} <= set(frame.columns)
        if (kind, view) in (("polyline", "spatial"), ("graph", "objects"), ("mesh", "objects")):
            continue
        part = ds.zv.sel(bbox=(LOW, HIGH), **({"clip": False} if kind == "polyline" else {}))
        for given, options in ((ds, {}), (part, {"bbox": (LOW, HIGH)})):
            if kind == "polyline" and options:
                options["clip"] = False
            found, want = stored(given).level(0).read(order="chunk"), level.read(order="chunk", **options)
            order, other = np.lexsort(found.positions.T), np.lexsort(want.positions.T)
            np.testing.assert_array_equal(found.positions[order], want.positions[other])
            assert set(found.attributes) == set(ABOUT)
            for name in ABOUT:
                np.testing.assert_array_equal(found.attributes[name][order], want.attributes[name][other], err_msg=name)
            assert set(found.object_attributes) == set(NAMES)
            for links in ("edge", "face"):
                one, two = getattr(found, f"{links}_attributes"), getattr(want, f"{links}_attributes")
                assert {k: sorted(v) for k, v in one.items()} == {k: sorted(v) for k, v in two.items()}
            assert found.parents is None or (found.parents >= 0).sum() == (want.parents >= 0).sum()


def test_attributes_of_any_name_survive_exports():
    for kind, view in (("point_cloud", "objects"), ("polyline", "objects"), ("graph", "spatial"), ("mesh", "spatial")):
        ds = opened(write(kind), view)
        tables = {"awkward": {k: np.concatenate([np.ravel(v) for v in col]) for k, col in columns_of(ds.zv.to_awkward())}}
        if view == "objects":
            tables["clouddrift"] = dict(ds.zv.to_clouddrift(sort_by="x" if kind == "point_cloud" else None).variables)
            for name, table in tables.items():
                for n in NAMES:
                    same = [k for k, v in table.items() if k.endswith(n) and len(v) == 3 and np.array_equal(v, OF_OBJECTS[n])]
                    assert same or n == "a", (kind, name, n)
        if kind in ("point_cloud", "polyline"):
            tables["cf"] = dict(ds.zv.to_cf_geometries(("x", "y")).variables)
        if kind in ("polyline", "graph"):
            nodes = [data for _, data in ds.zv.to_networkx().nodes(data=True)]
            tables["networkx"] = {k: np.array([d[k] for d in nodes]) for k in nodes[0]}
            assert {"pos", "object_id"} <= set(nodes[0])
        if kind == "mesh":
            mesh = ds.zv.to_trimesh()
            tables["trimesh"] = dict(mesh.vertex_attributes)
            np.testing.assert_array_equal(mesh.vertex_attributes["object_id"], ds.object_id)
            assert len(mesh.face_attributes) == len(NAMES)
        for name, table in tables.items():
            for n in set(NAMES) - {"a"}:
                want = np.sort(ABOUT[n])
                assert [k for k, v in table.items() if k.endswith(n) and np.array_equal(np.sort(v), want)], (kind, name, n)
    store = dzv.create({}, chunk_shape=(30, 30, 30), geometry="mesh")
    about = {"object_id": [7, 8, 9]}
    dzv.write_meshes(store, POINTS, faces=[[0, 1, 2], [10, 11, 12]], object_ids=OWNERS, object_attributes=about)
    meshes = opened(store).zv.to_trimesh(by_object=True)
    assert {k: m.metadata["object_id"] for k, m in meshes.items()} == {3: 3, 5: 5, 9: 9}
    assert meshes[5].metadata["object_object_id"] == 8


def columns_of(records: object) -> list[tuple[str, list[object]]]:
    return [(k, records[k].to_list()) for k in records.fields]


def test_variables_of_a_users_own_are_attributes_and_renamed_roles_are_roles():
    points = opened(write("point_cloud"))
    numbers = np.arange(30)
    out: dict[str, object] = {}
    new = points.drop_vars("parent").assign(parent=("vertex", numbers), node_count=("vertex", numbers))
    new.zv.to_store(out)
    found = dzv.open(out).level(0).read()
    assert sorted(found.attributes["parent"]) == sorted(found.attributes["node_count"]) == numbers.tolist()
    assert "parent" in new.zv.sel(objects=[3]).data_vars
    renamed = points.rename(object_id="who", x="lon")
    assert renamed.zv.sel(objects=[3]).sizes["vertex"] == 10
    assert "who" in renamed.zv.sel(objects=[3]).coords
    tree = opened(write("skeleton")).rename(edges="links", parent="mother", vertex_parent="mine")
    found = stored(tree).level(0).read()
    assert (found.parents >= 0).sum() == 27
    assert {"mine"} == set(found.attributes) - set(ABOUT)


def mean_of_groups(ds):
    with xr.set_options(use_flox=False):  # flox asks no index
        return ds.groupby("object").mean()


def test_selections_of_xarray_cut_both_dimensions_or_say_what_does():
    by_object = opened(write("polyline"), "objects")
    for cut in (
        lambda ds: ds.sel(object=5),
        lambda ds: ds.sel(object=[5]),
        lambda ds: ds.isel(object=0),
        lambda ds: ds.sortby("object_level"),
        mean_of_groups,
        lambda ds: ds.drop_sel(object=5),
        lambda ds: ds.head(object=1),
        lambda ds: xr.concat([ds, ds], "object", data_vars="minimal"),
        lambda ds: xr.align(ds, ds.zv.objects[[3]]),
    ):
        fails(dzv.InputError, r"ds\.zv\.objects", cut, by_object)
    assert float(by_object["object_level"].sel(object=5)) == OF_OBJECTS.level[5]
    one = by_object.assign(twice=by_object.level * 2).zv.objects[5]
    np.testing.assert_array_equal(one.twice, ABOUT["level"][10:20] * 2)
    fails(dzv.InputError, r"ds\.zv\.objects", one.isel, object=0)
    roles = {"node_count", "geometry", "vertex_range", "edges", "topology", "object_id", "object_index", "in_group", "crs"}
    for kind in ("polyline", "graph", "mesh", "skeleton", "point_cloud"):
        for view in ("spatial", "objects"):
            ds = opened(write(kind, crs=4326), view)
            used = {str(k) for k in ds.coords}
            assert not {k for k in ds.data_vars if k in roles and "zv_name" not in ds[k].attrs}
            assert roles & used
    spread = opened(write("graph"))
    fails(dzv.InputError, "isel", lambda: spread.where(spread.level > 0).zv.to_dataframe())
    part = spread.isel(vertex=slice(5, 20)).drop_indexes(["x", "y", "z"]).drop_vars("vertex")
    fails(dzv.InputError, "coordinate 'vertex'", part.zv.to_store, {})


def test_changed_variables_are_refused_where_the_store_is_read():
    store = write("polyline")
    for view in ("spatial", "objects"):
        ds = opened(store, view, chunks={})
        uses = [lambda d: d.zv.map_objects(len), lambda d: d.zv.density(shape=2, weights="level")]
        uses += [lambda d: d.zv.map_chunks(len)] if view == "spatial" else []
        for same in (ds, ds.load(), ds.isel(vertex=slice(None)) if view == "spatial" else ds.zv.objects[[3, 5]]):
            for use in uses:
                use(same)
        for use in uses:
            with pytest.raises(dzv.InputError, match="'level' was changed or added"):
                use(ds.assign(level=ds.level * 2))
        with pytest.raises(dzv.InputError, match="'new' was changed or added"):
            ds.assign(new=ds.level * 2).zv.map_objects(len)
        ds.assign(new=ds.level * 2).zv.map_objects(len, attributes=["level"])


def test_objects_that_are_cut_without_their_vertices_in_the_spatial_view():
    for kind in ("point_cloud", "graph"):
        ds = opened(write(kind))
        for cut in (
            lambda ds: ds.isel(object=0),
            lambda ds: ds.sel(object=[5]),
            lambda ds: ds.isel(object=xr.DataArray([0, 1], dims="pick")),
            lambda ds: ds.rename(object="cell").isel(cell=[0]),
            lambda ds: ds.head(object=2),
            lambda ds: ds.thin(object=2),
            lambda ds: ds.sortby("object", ascending=False),
            lambda ds: ds.roll(object=1, roll_coords=True),
            lambda ds: ds.drop_sel(object=3),
            mean_of_groups,
            lambda ds: ds.query(object="object_level > 0"),
            lambda ds: xr.concat([ds, ds], "object", data_vars="minimal"),
        ):
            fails(dzv.InputError, r"ds\.zv\.sel\(objects=ids\)", cut, ds)
        with pytest.raises(ValueError, match="object"):  # of xarray
            xr.align(ds, ds["object_level"].isel(object=[0]))
        free = ds.drop_vars("object_table")
        for cut in (free.isel(object=0), free.sortby("object", ascending=False), ds.assign_coords(object=[1, 5, 9])):
            uses = (lambda d: d.zv.to_store({}), lambda d: d.zv.map_objects(len), lambda d: d.zv.sel(bbox=(LOW, HIGH)))
            for use in (*uses, lambda d: d.zv.to_dataframe(), lambda d: d.zv.density(shape=2)):
                fails(dzv.InputError, r"ds\.zv\.sel\(objects=ids\)", use, cut)
            assert cut.zv.plot is not None  # its pictures show the others in grey
        assert float(ds["object_level"].sel(object=5)) == OF_OBJECTS.level[5]
        whole = (ds.isel(object=slice(None)), ds.squeeze(), ds.isel(vertex=slice(5, 20)))
        for same in (ds, *whole, ds.zv.sel(objects=[5]), ds.drop_dims("object"), ds[["level"]]):
            assert len(same.zv.to_dataframe())
        with pytest.raises(dzv.InputError, match="coordinate 'object'"):
            ds.drop_vars("object").zv.to_store({})


@pytest.mark.parametrize("chunks", [None, {}])
def test_objects_that_are_selected_in_the_spatial_view_are_all_that_its_table_has(chunks):
    for kind in ("point_cloud", "graph", "mesh"):
        store = write(kind)
        ds = opened(store, chunks=chunks)
        parts = [ds.zv.sel(objects=[9, 3]), ds.zv.sel(bbox=(LOW, HIGH), objects=[3, 9])]
        parts += [
            ds.zv.sel(objects=[3, 9]).isel(vertex=slice(None, None, -1)),
            ds.drop_indexes(["x", "y", "z"]).zv.sel(objects=[3, 9]),
        ]
        for part in parts:
            np.testing.assert_array_equal(part.object_level, OF_OBJECTS.level[[3, 9]])
            np.testing.assert_array_equal(part.object.values[part.object_index.values], part.object_id)
            frame = part.zv.to_dataframe(object_attributes=True)
            np.testing.assert_array_equal(frame.object_level, OF_OBJECTS.level[frame.object_id])
        np.testing.assert_array_equal(parts[0].zv.sel(objects=[9]).object_level, OF_OBJECTS.level[[9]])
        assert parts[0].zv.map_objects(len).values.tolist() == parts[0].load().zv.map_objects(len).values.tolist() == [10, 10]
        np.testing.assert_array_equal(stored(parts[0]).level(0).read().object_attributes["level"], OF_OBJECTS.level[[3, 9]])
        parts[0].object_level[0] = 7
        with pytest.raises(dzv.InputError, match="'object_level' was changed"):
            parts[0].zv.map_objects(len)
    groups = opened(write("point_cloud"), chunks=chunks).zv.sel(groups=0)
    assert groups.object.values.tolist() == [3, 5]


def test_names_of_dimensions_and_axes_that_change():
    for kind in ("point_cloud", "graph", "skeleton", "polyline"):
        for view in ("spatial", "objects"):
            ds = opened(write(kind), view)
            want = ds.zv.sel(bbox=(LOW, HIGH)).sizes["vertex"]
            again = ds.rename(x="lon").assign(x=("vertex", ds.level.values))
            for lon in (ds.rename(x="lon"), ds.rename_vars(x="lon").load(), again):
                assert lon.zv.sel(bbox=(LOW, HIGH)).sizes["vertex"] == want
                assert lon.zv.sel(lon=slice(LOW[0], HIGH[0]), y=slice(-1, 21)).sizes["vertex"] == want
                np.testing.assert_array_equal(lon.zv.to_dataframe().lon, ds.x)
                assert lon.zv.map_objects(len, attributes=["level"]).values.tolist() == [10] * 3
            for old in ("vertex", "object", *({"edge"} & {*map(str, ds.dims)})):
                for other in (ds.rename({old: "q"}), ds.rename_dims({old: "q"}), ds.rename_vars({old: "q"})):
                    for use in (lambda d: d.zv.to_dataframe(), lambda d: d.zv.map_objects(len), lambda d: d.zv.to_store({})):
                        fails(dzv.InputError, f"{old!r}.* rename or swap it back", use, other)
            stacked = ds.drop_indexes([n for n in "xyz" if n in ds.xindexes]).stack(q=["vertex"])  # xarray stacks one index
            for other in (ds.swap_dims(vertex="level"), stacked, ds.swap_dims(object="object_level")):
                fails(dzv.InputError, "rename or swap it back", other.zv.to_dataframe)
            with pytest.raises(dzv.InputError, match="integers"):
                ds.set_index(object="object_level").zv.to_dataframe()
        with pytest.raises(dzv.InputError, match="node_count"):
            ds.mean("object").zv.to_dataframe()


def test_vertices_that_are_numbered_anew_have_no_links_of_others():
    ds = opened(write("graph"))
    part = ds.isel(vertex=slice(5, 20))
    want = part.zv.to_networkx(multigraph=True).number_of_edges()
    for new in (np.arange(15), np.arange(15) / 2):
        with pytest.raises(dzv.InputError, match="number the links anew"):
            part.assign_coords(vertex=new).zv.to_networkx()
    kept = part.zv.sel(x=slice(None))
    both = kept.assign_coords(vertex=kept.vertex - 5, edges=kept.edges - 5)
    assert both.zv.to_networkx(multigraph=True).number_of_edges() == want


def test_groups_keep_their_numbers_and_attributes_named_links_their_channels():
    store = dzv.create({}, chunk_shape=(30, 30, 30))
    about = {"weight": np.array([1.0, 2, 3])}
    dzv.write_points(store, POINTS, object_ids=OWNERS, groups={0: [3], 1: [5], 2: [3, 9]}, group_attributes=about)
    part = opened(store, "objects").isel(group=[2, 1])
    assert part.zv.sel(groups=2).object.values.tolist() == [3, 9]
    fails(dzv.NotFoundError, "no group 0", part.zv.sel, groups=0)
    out = {}
    part.zv.to_store(out)
    again = opened(out, "objects")
    assert again.in_group.values.tolist() == [[False, False, True], [False, True, False], [False, False, True]]
    assert again.weight.values.tolist()[1:] == [2, 3]
    pairs = rng.normal(size=(30, 2))
    pairs[3] = np.nan
    for name in ("edges", "faces"):
        for values in (pairs, np.arange(60).reshape(30, 2)):
            store = cloud(POINTS, (30, 30, 30), attributes={name: values})
            np.testing.assert_array_equal(stored(opened(store)).level(0).read().attributes[name], values)
            assert len(opened(store).zv.to_dataframe()) == 30


def test_axes_have_no_names_of_the_views():
    from dask_zv.xarray_backend.conventions import DIMS, ROLES

    refused = {*NAMES, *DIMS, *ROLES} - {"level", "connectivity", "a", "a_channel", "positions", "vertices", "vertex_parent"}
    for name in refused:
        fails(dzv.InputError, f"an axis called '{name}'", dzv.create, {}, chunk_shape=(7, 7, 7), axes=["x", "y", name])
    for name in ("level", "vertex_parent", "positions", "dx"):
        store = cloud(POINTS, (7, 7, 7), axes=["x", "y", name], object_ids=OWNERS, groups={0: [3, 5]})
        for view in ("spatial", "objects"):
            ds = opened(store, view, chunk_table=view == "spatial")
            np.testing.assert_array_equal(np.sort(ds[name]), np.sort(POINTS[:, 2]))


def test_values_that_change_in_place_are_not_ignored():
    def through_values(ds: xr.Dataset, name: str):
        ds.load()
        ds[name].values[...] = 0

    def one(ds: xr.Dataset, name: str):
        ds[name][0] = 100

    def added(ds: xr.Dataset, name: str):
        ds[name] += 1

    def other(ds: xr.Dataset, name: str):
        ds[name].data = ds[name].data[::-1]

    def set_values(ds: xr.Dataset, name: str):
        ds[name].values = np.ones(ds[name].shape)

    store = dzv.create({}, chunk_shape=(7, 7, 7), geometry="polyline")
    about = {"level": POINTS[:, 0] + 1, "name": np.array(["a", "b", "c"] * 10)}
    dzv.write_polylines(store, POINTS, lengths=[10] * 3, attributes=about, object_attributes={"object_level": [4.0, 2, 3]})
    for view, chunks in (("spatial", None), ("spatial", {}), ("objects", None), ("objects", {})):
        for change in (through_values, one, added, other, set_values):
            for name in ("level", "object_level"):
                ds = opened(store, view, chunks=chunks)
                ds.zv.map_objects(len)
                change(ds, name)
                fails(dzv.InputError, f"'{name}' was changed or added", ds.zv.map_objects, len)
                if name == "level":
                    fails(dzv.InputError, "'level' was changed or added", ds.zv.density, shape=2, weights="level")
                    out: dict[str, object] = {}
                    if view == "objects":
                        ds.zv.to_store(out)
                        found = dzv.open(out).level(0).read().attributes["level"]
                        np.testing.assert_array_equal(np.sort(found), np.sort(ds.level.values))
        ds = opened(store, view, chunks=chunks)
        ds.x.data = ds.x.data * 2
        fails(dzv.InputError, "'x' was changed or added", ds.zv.density, shape=2)
        ds = opened(store, view, chunks=chunks)
        ds = ds.rename(x="lon") if view == "spatial" else ds
        for same in (ds.compute(), ds.persist(), ds.copy(deep=True).load()):
            assert len(same.zv.map_objects(len)) == 3
    part = opened(write("graph"), chunks={}).zv.sel(bbox=(LOW, HIGH)).load()
    part.zv.map_chunks(len)
    part.edges.values[0] = 0
    fails(dzv.InputError, "'edges' was changed or added", part.zv.map_chunks, len)


def test_paths_are_cut_on_the_faces_of_a_box():
    x = np.array([-5.0, 5, 15, 5, -1, 11, 2, 3, 20, 30], "f4")  # in and out; across without a vertex inside; a lone point
    points = np.c_[x, np.full(10, 0.1, "f4"), np.zeros(10, "f4")]
    store = dzv.create({}, chunk_shape=(4, 4, 4), geometry="polyline")
    when = np.arange(10).astype("M8[s]")
    about = {"t": x * 2.0, "n": np.arange(10), "when": when, "pair": np.c_[x, -x]}
    dzv.write_polylines(store, points, lengths=[4, 2, 1, 3], object_ids=[4, 7, 8, 9], attributes=about)
    ds = opened(store, "objects")
    cut = ds.zv.sel(bbox=((0, 0, -1), (10, 0.1, 1)), clip="cut")
    assert cut.object.values.tolist() == [4, 4, 7, 8, 9]
    assert cut.node_count.values.tolist() == [3, 2, 2, 1, 2]
    assert cut.x.values.tolist() == [0, 5, 10, 10, 5, 0, 10, 2, 3, 10]
    assert cut.x.dtype == np.float32
    np.testing.assert_allclose(cut.t, cut.x * 2)
    np.testing.assert_allclose(cut.pair, np.c_[cut.x, -cut.x])
    assert cut.n.dtype.kind == "i"
    assert set(cut.n.values) <= set(range(10))
    pieces = cut.x.values[1:] - cut.x.values[:-1]
    inner = np.setdiff1d(np.arange(9), np.cumsum(cut.node_count.values)[:-1] - 1)
    assert np.abs(pieces[inner]).sum() == 10 + 5 + 10 + 7
    assert len(stored(cut.drop_vars("object").assign_coords(object=range(5)), chunk_shape=(4, 4, 4)).level(0).read()) == 10
    with pytest.raises(dzv.InputError, match="clip=True"):
        opened(store).zv.sel(bbox=((0, 0, -1), (10, 1, 1)), clip="cut")


BOX = ((5, 4, 3), (15, 16, 14.5))


def lengths_inside(points: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the length of each edge inside the box, by many points on it."""
    t = (np.arange(4000) + 0.5)[:, None] / 4000
    a, b = points[edges[:, 0]].astype(float), points[edges[:, 1]].astype(float)
    inside = [((p + (q - p) * t >= BOX[0]) & (p + (q - p) * t <= BOX[1])).all(axis=1).mean() for p, q in zip(a, b, strict=True)]
    return np.linalg.norm(b - a, axis=1) * inside


@pytest.mark.parametrize("kind", ["graph", "skeleton"])
def test_edges_are_cut_on_the_faces_of_a_box(kind):
    store = dzv.create({}, chunk_shape=(7, 7, 7), geometry=kind)
    about = {"temp": POINTS[:, 0] * 2.0, "n": np.arange(30), "name": np.array([f"v{i}" for i in range(30)])}
    common = {"attributes": about, "object_ids": OWNERS, "object_attributes": {"size": [1.0, 2, 3]}}
    ends = np.c_[np.arange(30), np.where(np.arange(30) % 10, np.arange(30) - 1, -1)]
    links = ends[ends[:, 1] >= 0]
    if kind == "graph":
        dzv.write_graph(store, POINTS, edges=links, edge_attributes={"w": np.arange(27)}, **common)
    else:
        dzv.write_skeletons(store, POINTS, parents=ends[:, 1], **common)
    ds = opened(store)
    want = lengths_inside(POINTS, links)
    for given, some in ((ds, slice(None)), (ds.chunk(), slice(None)), (ds.zv.sel(objects=[3, 9]), (links[:, 0] // 10) != 1)):
        cut = given.zv.sel(bbox=BOX, clip="cut")
        points = np.stack([cut[a] for a in "xyz"], axis=1)
        assert ((points >= np.float32(BOX[0])) & (points <= np.float32(BOX[1]))).all()
        found = np.linalg.norm(np.diff(points[cut.edges.values], axis=1)[:, 0], axis=1)
        np.testing.assert_allclose(found.sum(), want[some].sum(), rtol=1e-3)
        np.testing.assert_allclose(cut.temp, cut.x * 2, rtol=1e-5)
        inner = given.zv.sel(bbox=BOX)
        new = np.arange(cut.sizes["vertex"]) >= inner.sizes["vertex"]
        np.testing.assert_array_equal(cut.n[~new], inner.n)
        assert (np.isclose(points[new], BOX[0]) | np.isclose(points[new], BOX[1])).any(axis=1).all()
        assert set(cut.name.values) <= set(about["name"])
        np.testing.assert_array_equal([OWNERS[n] for n in cut.n.values], cut.object_id)
        pairs = new[cut.edges.values]
        one = cut.edges.values[pairs.sum(axis=1) == 1]  # of the end inside
        np.testing.assert_array_equal(cut.n.values[one[:, 0]], cut.n.values[one[:, 1]])
        back = stored(cut, chunk_shape=(7, 7, 7)).level(0).read()
        assert len(back) == cut.sizes["vertex"]
        assert cut.sizes["edge"] == (len(back.edges) if kind == "graph" else (back.parents >= 0).sum())
        if kind == "graph":
            np.testing.assert_allclose(found, want[cut.w.values], atol=0.02)
            assert cut.edges.dims == ("edge", "edge_node")
        else:
            parents = np.full(len(new), -1)
            parents[cut.edges.values[:, 0]] = cut.edges.values[:, 1]
            np.testing.assert_array_equal(cut.parent, parents)
    by_object = opened(store, "objects")
    if kind == "graph":
        fails(dzv.InputError, "view='spatial'", by_object.zv.sel, bbox=BOX, clip="cut")
        return
    cut = by_object.zv.sel(bbox=BOX, clip="cut")
    points = np.stack([cut[a] for a in "xyz"], axis=1)
    child = np.flatnonzero(cut.parent.values >= 0)
    found = np.linalg.norm(points[child] - points[cut.parent.values[child]], axis=1).sum()
    np.testing.assert_allclose(found, want.sum(), rtol=1e-3)
    np.testing.assert_array_equal(np.repeat(cut.object, cut.node_count), [OWNERS[n] for n in cut.n.values])
    cut.zv.to_store({}, chunk_shape=(7, 7, 7))


def test_triangles_are_cut_on_the_faces_of_a_box():
    faces = np.array([np.random.default_rng(i).choice(30, 3, replace=False) for i in range(40)])
    store = dzv.create({}, chunk_shape=(7, 7, 7), geometry="mesh")
    common = {"attributes": {"temp": POINTS[:, 0] * 2.0}, "face_attributes": {"q": np.arange(40)}}
    dzv.write_meshes(store, POINTS, faces=faces, **common)
    cut = opened(store).zv.sel(bbox=BOX, clip="cut")
    points = np.stack([cut[a] for a in "xyz"], axis=1).astype(float)
    assert ((points >= np.float32(BOX[0])) & (points <= np.float32(BOX[1]))).all()
    np.testing.assert_allclose(cut.temp, cut.x * 2, rtol=1e-5)

    def normals(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
        a, b, c = (points[faces[:, i]].astype(float) for i in range(3))
        return np.cross(b - a, c - a) / 2

    whole, parts = normals(POINTS, faces), normals(points, cut.faces.values)
    assert ((parts * whole[cut.q.values]).sum(axis=1) > -1e-5).all()  # the winding is kept
    inside = np.random.default_rng(1).dirichlet([1, 1, 1], 20_000)
    share = [((inside @ POINTS[f] >= BOX[0]) & (inside @ POINTS[f] <= BOX[1])).all(axis=1).mean() for f in faces]
    found = np.bincount(cut.q, weights=np.linalg.norm(parts, axis=1), minlength=40)
    np.testing.assert_allclose(found / np.linalg.norm(whole, axis=1), share, atol=0.02)
    cut.zv.to_store({}, chunk_shape=(7, 7, 7))
    plane = dzv.create({}, chunk_shape=(7, 7), geometry="mesh")  # neighbours share the vertices of their cuts
    dzv.write_meshes(plane, [(0, 0), (10, 0), (10, 10), (0, 10)], faces=[(0, 1, 2), (0, 2, 3)])
    square = opened(plane).zv.sel(bbox=((0, 0), (5, 20)), clip="cut")
    assert sorted(zip(square.x.values.tolist(), square.y.values.tolist(), strict=True)) == [
        *((0, 0), (0, 10), (5, 0), (5, 5), (5, 10))
    ]
    quads = dzv.create({}, chunk_shape=(7, 7, 7), geometry="mesh")
    dzv.write_meshes(quads, POINTS, faces=[[0, 1, 2, 3]])
    fails(dzv.InputError, "triangulate", lambda: opened(quads).zv.sel(bbox=BOX, clip="cut"))


def test_edges_that_touch_a_box_and_points():
    store = dzv.create({}, chunk_shape=(7, 7, 7), geometry="graph")
    dzv.write_graph(
        store, [[0.0, 0, 0], [5, 0, 0], [10, 0, 0], [-5, -5, -5], [1, 1, 1]], edges=[[0, 1], [1, 2], [3, 0], [4, 4]]
    )
    ds = opened(store)
    cut = ds.zv.sel(bbox=((0, 0, 0), (5, 5, 5)), clip="cut")
    assert sorted(cut.x.values.tolist()) == [0, 1, 5]
    assert cut.sizes["edge"] == 2
    assert ds.zv.sel(bbox=((20, 20, 20), (25, 25, 25)), clip="cut").sizes["vertex"] == 0
    half = ds.zv.sel(bbox=((None, -9, -9), (3, None, None)), clip="cut")
    assert half.x.values.max() == 3
    assert half.sizes["edge"] == 3
    points = opened(write("point_cloud"))
    xr.testing.assert_identical(points.zv.sel(bbox=BOX, clip="cut"), points.zv.sel(bbox=BOX))


def read_back(ds: xr.Dataset, **options: object) -> dzv.Geometry:
    return stored(ds, chunk_shape=(5, 5), **options).level(0).read()


def ugrid(faces: object, **attrs: object) -> xr.Dataset:
    topology = {
        "cf_role": "mesh_topology",
        "topology_dimension": 2,
        "node_coordinates": "lon lat",
        "face_node_connectivity": "fn",
    }
    return xr.Dataset(
        {
            "Mesh2": ((), 0, topology),
            "fn": (("nf", "three"), faces, {"cf_role": "face_node_connectivity", **attrs}),
            "h": ("nn", np.arange(4.0)),
            "area": ("nf", [1.0, 2.0]),
        },
        coords={"lon": ("nn", [0.0, 1, 0, 1]), "lat": ("nn", [0.0, 0, 1, 1])},
    )


def test_plain_ugrid_counts_from_where_it_says_and_dangles_nowhere():
    faces = np.array([[0, 1, 2], [1, 2, 3]])
    for ds in (
        ugrid(faces),
        ugrid(faces + 1, start_index=1),
        ugrid(faces + 1, start_index=1, _FillValue=-1),
        ugrid((faces + 1).astype(float), start_index=1),
        ugrid(faces).transpose().assign_attrs(),
    ):
        if ds.fn.dims[0] == "three":
            ds.Mesh2.attrs["face_dimension"] = "nf"
        found = read_back(ds)
        np.testing.assert_array_equal(found.positions[found.faces], np.c_[[0, 1, 0, 1], [0, 0, 1, 1]][faces])
        np.testing.assert_array_equal(found.face_attributes["area"], [1, 2])
    fails(dzv.InputError, "fill value", lambda: read_back(ugrid(np.array([[0, 1, 2], [1, 2, -1]]), _FillValue=-1)))
    for wrong in (faces + 2, faces + 50):
        with pytest.raises(dzv.InputError, match="among the vertices"):
            read_back(ugrid(wrong))
    for start in ("x", 0.5, [1, 2]):
        with pytest.raises(dzv.InputError, match="start_index of 'fn'"):
            read_back(ugrid(faces, start_index=start))
    fails(dzv.InputError, "Mesh2 and other are topologies", lambda: read_back(ugrid(faces).assign(other=ugrid(faces).Mesh2)))
    places = {"x": ("vertex", [0.0, 1, 2]), "y": ("vertex", [0.0, 1, 2])}
    edges = xr.Dataset({"edges": (("edge", "two"), [[1, 2], [2, 3]], {"start_index": 1})}, coords=places)
    assert read_back(edges).edges.tolist() == [[0, 1], [1, 2]]
    for role, dims, values in (("edges", ("edge", "two"), [[0, 1], [1, 3]]), ("parent", ("vertex",), [-1, 0, 7])):
        with pytest.raises(dzv.InputError, match="among the vertices"):
            read_back(xr.Dataset({role: (dims, values)}, coords=places))


def test_plain_cf_geometries_and_ragged_arrays():
    nodes = {"lat": ("node", [0.0, 0, 1, 5, 6], {"axis": "Y"}), "lon": ("node", [0.0, 1, 2, 0, 1], {"axis": "X"})}
    about = {"geometry_type": "line", "node_count": "n", "node_coordinates": "lat lon"}
    lines = read_back(xr.Dataset({"shape": ((), 0, about), "n": ("i", [3, 2]), "s": ("i", [1.0, 2])}, coords=nodes))
    assert lines.lengths.tolist() == [3, 2]
    assert lines.positions[1].tolist() == [1, 0]
    with pytest.raises(dzv.InputError, match="polygon"):
        read_back(xr.Dataset({"shape": ((), 0, {**about, "geometry_type": "polygon"}), "n": ("i", [3, 2])}, coords=nodes))
    ids = {"id": ("traj", [70, 80], {"cf_role": "trajectory_id"})}
    along = {"lon": ("obs", [0.0, 1, 2]), "lat": ("obs", [0.0, 1, 2])}
    contiguous = read_back(xr.Dataset({"rowsize": ("traj", [2, 1], {"sample_dimension": "obs"}), **ids}, coords=along))
    assert (contiguous.ids.tolist(), contiguous.lengths.tolist()) == ([70, 80], [2, 1])
    indexed = read_back(xr.Dataset({"of": ("obs", [0, 1, 0], {"instance_dimension": "traj"}), **ids}, coords=along))
    with pytest.raises(dzv.InputError, match="integers are wanted"):
        read_back(xr.Dataset({"of": ("obs", [0, np.nan, 0], {"instance_dimension": "traj"}), **ids}, coords=along))
    assert indexed.object_ids.tolist() == [70, 70, 80] or sorted(indexed.object_ids.tolist()) == [70, 70, 80]


@pytest.mark.parametrize("first", ["dask_zv", "xarray"])
def test_the_accessor_is_there_from_the_import_on(first):
    second = {"dask_zv": "xarray", "xarray": "dask_zv"}[first]
    code = f"""
import sys, {first}
lazy = {first!r} == "dask_zv" and "xarray" in sys.modules
import {second}
import numpy, xarray as xr
ds = xr.Dataset({{"node_count": ("object", [2])}}, coords={{"x": ("vertex", [0.0, 1]), "y": ("vertex", [0.0, 1])}})
print(lazy, type(ds.zv).__name__, type(xr.DataTree(ds).zv).__name__)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "ZVDatasetAccessor", "ZVTreeAccessor"]


def test_boxes_are_of_the_stores_dtype_at_chunk_edges_too():
    labels = np.arange(100) / 10
    points = np.c_[labels, labels, labels].astype("f4")
    store = cloud(points, (0.1, 0.3, 0.7), object_ids=np.arange(100))
    level = store.level(0)
    ds, by_object = (opened(store, v) for v in ("spatial", "objects"))
    for i, x in enumerate(labels):
        assert ds.sel(x=slice(x, x)).sizes["vertex"] == 1, x
        assert int(ds.sel(x=x).object_id[0]) == i
        assert ds.zv.sel(x=slice(x, x)).sizes["vertex"] == 1
        box = ((x, -1, -1), (x + 5, 20, 20))
        want = int((labels >= x).sum() if x > 4.95 else ((labels >= x) & (labels <= x + 5 + 1e-9)).sum())
        assert len(level.read(bbox=box)) == want, x
        if i % 10 == 0:
            assert by_object.zv.sel(bbox=box).sizes["vertex"] == want
            assert ds.zv.chunks_in(box).sizes["vertex"] >= want
            assert int(ds.zv.density(shape=1, bbox=box, bounds=((-1,) * 3, (20,) * 3)).sum()) == want
            assert int(ds.zv.density(shape=2, bounds=((x,), (x + 5,)), dims="x").sum()) == want


def test_boxes_that_may_be_ranges_are_refused_with_the_form_that_is_meant():
    ranges = ((0, 50), (0, 100))
    store = dzv.create({}, chunk_shape=(10, 10), bounds=((0, 0), (100, 100)))
    dzv.write_points(store, np.random.default_rng(0).uniform(0, 100, (50, 2)))
    ds = opened(store)
    for use in (
        lambda box: dzv.create({}, chunk_shape=(10, 10), bounds=box),
        lambda box: store.level(0).read(bbox=box),
        lambda box: ds.zv.sel(bbox=box),
        lambda box: ds.zv.chunks_in(box),
        lambda box: ds.zv.density(shape=4, bounds=box),
        lambda box: ds.zv.density(shape=4, bbox=box),
        lambda box: ds.zv.map_chunks(len, bbox=box),
        lambda box: store.expand(box),
    ):
        fails(dzv.InputError, r"\(\(x0, y0\), \(x1, y1\)\).*\(\(0\.0, 0\.0\), \(50\.0, 100\.0\)\)", use, ranges)
        for box in (((5, 5), (1, 9)), ((5, 5), (5, 9)), (1, 2, 3, 4)):
            fails(dzv.InputError, r"\(\(x0, y0\), \(x1, y1\)\)", use, box)
    want = ds.isel(vertex=((ds.x <= 50) & (ds.y >= 20)).to_numpy())
    xr.testing.assert_identical(ds.zv.sel(x=slice(None, 50), y=slice(20, None)), want)
    xr.testing.assert_identical(ds.zv.sel(bbox=((None, 20), (50, None))), want)
    assert len(store.level(0).read(bbox=((None, 20), (50, None)))) == want.sizes["vertex"]
    for wrong in ({"x": slice(5, 2)}, {"z": slice(0, 1)}, {"x": 5}, {"x": slice(0, 5, 2)}):
        fails(dzv.InputError, "slice", ds.zv.sel, **wrong)


def test_stores_without_a_place_are_told_apart(tmp_path):
    icechunk = pytest.importorskip("icechunk")
    import fsspec
    import obstore.store
    from zarr.storage import FsspecStore, LocalStore, MemoryStore, ObjectStore, StorePath

    def session(repo, branch="main"):
        return repo.writable_session(branch)

    places = [icechunk.local_filesystem_storage(str(tmp_path / name)) for name in ("one", "two")]
    repos = [icechunk.Repository.create(place) for place in places]
    source = session(repos[0])
    dzv.write_points(dzv.create(source.store, chunk_shape=(7, 7, 7)), POINTS)
    snapshot = source.commit("points")
    repos[0].create_branch("other", snapshot)
    ds = opened(repos[0].readonly_session("main").store)
    for other in (session(repos[1]), session(repos[0], "other")):
        ds.zv.to_store(other.store, overwrite=True)
        assert dzv.open(other.store).level(0).metadata.vertex_count == 30
    stores = [ObjectStore(obstore.store.MemoryStore()) for _ in range(2)], [MemoryStore(), MemoryStore()]
    for one, two in stores:
        dzv.write_points(dzv.create(one, chunk_shape=(7, 7, 7)), POINTS)
        opened(one).zv.to_store(two)
        with pytest.raises(dzv.InputError, match="the target is the store"):
            opened(one).zv.to_store(one, overwrite=True)
    (tmp_path / "sub").mkdir()
    path, link, folder = tmp_path / "sub" / "a b#.zv", tmp_path / "link.zv", tmp_path / "folder"
    dzv.write_points(dzv.create(path, chunk_shape=(7, 7, 7)), POINTS)
    link.symlink_to(path)
    folder.symlink_to(path.parent)
    ds = opened(path)
    same = [path, f"file://{path}", link, folder / path.name, path.parent / ".." / "sub" / path.name, LocalStore(path)]
    same += [StorePath(LocalStore(path.parent), path.name), ObjectStore(obstore.store.LocalStore(path)), path.parent]
    same += [
        FsspecStore.from_url(f"file://{path}"),
        StorePath(ObjectStore(obstore.store.LocalStore(tmp_path)), f"sub/{path.name}"),
    ]
    for target in same:
        fails(dzv.InputError, "the target is the store", ds.zv.to_store, target, overwrite=True)
        with pytest.raises(dzv.InputError, match="the target is the store"):
            ds.drop_indexes(["x", "y", "z", "vertex"]).zv.to_store(target, overwrite=True)
        fails(dzv.InputError, "the target is the source", dzv.convert, path, target, overwrite=True)
    for target in (f"{path}2", StorePath(LocalStore(path.parent), "b.zv"), folder / "c.zv"):
        ds.zv.to_store(target, overwrite=True)
        dzv.convert(path, target, overwrite=True)
    assert dzv.open(path).level(0).metadata.vertex_count == 30
    url = "memory://told-apart/a.zv"
    dzv.write_points(dzv.create(url, chunk_shape=(7, 7, 7)), POINTS)
    for target in (url, fsspec.get_mapper(url)):
        fails(dzv.InputError, "the target is the source", dzv.convert, url, target, overwrite=True)


def test_ordered_categories_come_back():
    kinds = pd.Categorical(["b", "a", "c", None], categories=["c", "b", "a"], ordered=True)
    frame = pd.DataFrame({"x": [0.0, 1, 2, 3], "y": [0.0, 1, 2, 3], "k": kinds})
    store = cloud(frame, (9, 9))
    for target in (store, stored(opened(store, chunks={}))):
        ds = opened(target)
        for made in (ds.zv.to_dataframe(), ds.zv.to_dask_dataframe().compute()):
            assert made.k.dtype == kinds.dtype
            assert made.k.tolist()[:3] == ["b", "a", "c"]


def test_ordered_categories_of_objects_come_back():
    kinds = pd.Categorical(["b", "a", None], categories=["c", "b", "a"], ordered=True)
    store = cloud(POINTS, (30, 30, 30), object_ids=OWNERS, object_attributes=pd.DataFrame({"k": kinds}, index=[3, 5, 9]))
    for target in (store, stored(opened(store))):
        for view in ("spatial", "objects"):
            ds = opened(target, view)
            for made in (ds.zv.to_dataframe(object_attributes=True), ds.zv.to_dask_dataframe(object_attributes=True).compute()):
                assert made.k.dtype == kinds.dtype
                assert made.groupby("object_id").k.first().tolist()[:2] == ["b", "a"]
                assert made.k.isna().sum() == 10
    with pytest.raises(dzv.InputError, match="not among"):
        ds.assign(k=ds.k.copy(data=["b", "x", "a"])).zv.to_dataframe(object_attributes=True)


def test_reference_systems_are_what_pyproj_takes(monkeypatch):
    pyproj = pytest.importorskip("pyproj")
    mine = "+proj=laea +lat_0=52 +lon_0=10"
    given = (
        25832,
        "EPSG:25832",
        ("EPSG", 25832),
        pyproj.CRS(25832),
        pyproj.CRS(25832).to_wkt(),
        pyproj.CRS(25832).to_json_dict(),
    )
    for crs, same in [*((g, 25832) for g in given), (mine, mine), ({"proj": "longlat"}, {"proj": "longlat"})]:
        store = dzv.create({}, chunk_shape=(9, 9), crs=crs)
        dzv.write_points(store, np.zeros((1, 2)))
        found = pyproj.CRS(opened(store).crs.attrs["crs_wkt"])
        assert found == pyproj.CRS.from_user_input(same)
    for wrong in ("nonsense", 3.5, object()):
        fails(dzv.InputError, "from_user_input", dzv.create, {}, chunk_shape=(9, 9), crs=wrong)
    monkeypatch.setitem(sys.modules, "pyproj", None)
    fails(dzv.InputError, r"dask-zv\[geo\]", dzv.create, {}, chunk_shape=(9, 9), crs=4326)
