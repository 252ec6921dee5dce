"""Lengths, areas and speeds against plain numpy: each edge, face and path once, whatever chunks they cross."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from comparing import cloud, opened
from golden_reference import Golden, golden_names
from hemibrain import NEURONS, meshes, size, skeletons
from refusals import fails

import dask_zv as dzv

N = 240
AXES = [{"name": a, "type": "space", "unit": "micrometer"} for a in "xyz"]
TIME = {"name": "t", "type": "time", "unit": "hour"}
IDS = np.repeat([11, 12, 40], N // 3)
WALK = np.cumsum(np.random.default_rng(0).normal(0, 4, (N, 3)), axis=0)  # steps cross chunks of 10
FIRST = np.r_[True, IDS[1:] != IDS[:-1]]
EDGES = np.random.default_rng(1).permutation(N)[: N // 2 * 2].reshape(-1, 2)
FACES = np.random.default_rng(2).permutation(N)[: N // 3 * 3].reshape(-1, 3)
DATES = np.datetime64("2026-01-01", "s") + np.arange(N) * np.timedelta64(90, "s")


def steps(rows, before, positions=WALK):
    return np.linalg.norm(positions[rows] - positions[before], axis=1)


def areas(faces, positions=WALK):
    a, b, c = positions[faces].transpose(1, 0, 2)
    return np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2


CABLES = np.array([steps(r := np.flatnonzero((i == IDS) & ~FIRST), r - 1).sum() for i in np.unique(IDS)])


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A store of each geometry with 3-D positions; links lead from chunk to chunk. On disk: processes read them, too."""
    folder = tmp_path_factory.mktemp("measures")

    def make(kind):
        return dzv.create(
            folder / f"{kind}.zv", geometry=kind, chunk_shape=(10, 10, 10), axes=AXES, bounds=([-200] * 3, [200] * 3)
        )

    about = {"attributes": {"when": DATES, "hours": np.arange(N) / 40}}
    ids, lengths = np.unique(IDS, return_counts=True)
    dzv.write_polylines(make("polyline"), WALK, lengths=lengths, object_ids=ids, **about)
    dzv.write_skeletons(make("skeleton"), WALK, parents=np.where(FIRST, -1, np.arange(N) - 1), object_ids=IDS)
    dzv.write_graph(make("graph"), WALK, edges=EDGES, object_ids=IDS)
    dzv.write_meshes(make("mesh"), WALK, faces=FACES, object_ids=IDS)
    dzv.write_points(make("point_cloud"), WALK, object_ids=IDS, **about)
    return folder


def of(stores, kind, view="spatial", **chunks):
    ds = opened(stores / f"{kind}.zv", view, chunks={})
    return ds.chunk(chunks) if chunks else ds


def test_each_once_on_every_scheduler(stores, scheduler):
    """Blocks of a few rows, whose links lead to other blocks."""
    lengths = of(stores, "graph", edge=17).zv.edge_lengths()
    assert lengths.chunks == (((17,) * 7) + (1,),)
    np.testing.assert_allclose(np.sort(lengths), np.sort(steps(*EDGES.T)))
    np.testing.assert_allclose(np.sort(of(stores, "mesh", face=9).zv.face_areas()), np.sort(areas(FACES)))
    for kind in ("skeleton", "polyline"):
        for view in ("spatial", "objects"):
            found = of(stores, kind, view, vertex=31).zv.path_lengths()
            assert found.chunks is not None
            assert found.object.values.tolist() == [11, 12, 40]
            np.testing.assert_allclose(found, CABLES)
    found = of(stores, "polyline", "objects", vertex=31).zv.speeds(time="when")
    assert found.chunks is not None
    expected = np.where(FIRST, np.nan, np.r_[0, steps(np.arange(1, N), np.arange(N - 1))] / 90)
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("chunks", [None, {}])
@pytest.mark.parametrize("name", golden_names(("graph", "skeleton", "mesh", "line", "polyline", "streamline")))
def test_stores_of_other_tools(name, chunks):
    golden = Golden(name)
    key = "faces" if golden.store.metadata.geometry_types[0] == "mesh" else "edges"
    if key not in golden.truth:
        ds = opened(golden.store, "objects", chunks=chunks)
        paths = [golden.positions[golden.owners == i].astype(float) for i in golden.ids]
        expected = [np.linalg.norm(np.diff(p, axis=0), axis=1).sum() for p in paths]
        np.testing.assert_allclose(ds.zv.path_lengths(), expected)
        np.testing.assert_allclose(opened(golden.store, chunks=chunks).zv.path_lengths(), expected)
        return
    ds = opened(golden.store, chunks=chunks)
    ends = golden.truth["positions"].astype(float)[golden.truth[key]]
    if key == "edges":
        expected, found = np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1), ds.zv.edge_lengths()
    else:
        fan = [(ends[:, i] - ends[:, 0], ends[:, i + 1] - ends[:, 0]) for i in range(1, ends.shape[1] - 1)]
        expected = sum(np.linalg.norm(np.cross(a, b), axis=1) / 2 for a, b in fan)
        found = ds.zv.face_areas()
    np.testing.assert_allclose(np.sort(found), np.sort(expected), rtol=1e-6)


def test_real_neurons():
    for read, kind in ((skeletons, "skeleton"), (meshes, "mesh")):
        data, _ = read()
        store = dzv.create({}, geometry=kind, chunk_shape=(2000, 2000, 2000), dtype="float64")
        links = np.stack([r := np.flatnonzero(data.parents >= 0), data.parents[r]], 1) if kind == "skeleton" else data.links
        each = [size(data.positions, links[data.ids[links[:, 0]] == neuron]) for neuron in NEURONS]
        if kind == "skeleton":
            dzv.write_skeletons(store, data.positions, parents=data.parents, object_ids=data.ids)
            ds = opened(store, chunks={})
            assert np.isclose(ds.zv.edge_lengths().sum(), sum(each))
            np.testing.assert_allclose(ds.zv.path_lengths().sel(object=list(NEURONS)), each)
        else:
            dzv.write_meshes(store, data.positions, faces=links, object_ids=data.ids)
            assert np.isclose(opened(store, chunks={}).zv.face_areas().sum(), sum(each))


def test_they_say_what_they_are_and_join_the_dataset(stores):
    ds = of(stores, "graph")
    found = ds.assign(length=ds.zv.edge_lengths())
    assert found.length.attrs == {
        "long_name": "length of the edge", "units": "micrometer", "mesh": "topology", "location": "edge"
    }  # fmt: skip
    ends = ds.edges.values
    where = np.stack([ds[a].values for a in "xyz"], axis=1)
    np.testing.assert_allclose(found.length, np.linalg.norm(where[ends[:, 1]] - where[ends[:, 0]], axis=1))
    assert of(stores, "mesh").zv.face_areas().attrs["units"] == "micrometer2"
    tracks = of(stores, "polyline", "objects")
    assert tracks.zv.speeds().attrs["units"] == "micrometer s-1"
    assert "units" not in tracks.zv.speeds(time="hours").attrs  # nothing says of what
    tracks.hours.attrs["units"] = "hours since 2026-01-01"
    assert tracks.zv.speeds(time="hours").attrs["units"] == "micrometer hours-1"
    assert tracks.assign(length=tracks.zv.path_lengths()).length.dims == ("object",)
    spatial = of(stores, "polyline")
    assert spatial.assign(length=spatial.zv.path_lengths()).length.dims == ("object",)
    lazy = opened(stores / "graph.zv").zv.edge_lengths()
    assert not lazy.variable._in_memory


def test_selections_and_changed_positions(stores):
    ds = of(stores, "graph")
    box = ((-40, -40, -40), (40, 40, 40))
    part = ds.zv.sel(bbox=box)
    ends = np.searchsorted(part.vertex.values, part.edges.values)
    where = np.stack([part[a].values for a in "xyz"], axis=1)
    expected = np.linalg.norm(where[ends[:, 1]] - where[ends[:, 0]], axis=1)
    assert 0 < len(expected) < len(EDGES)
    for some in (part, part.load(), opened(stores / "graph.zv").zv.sel(bbox=box)):
        np.testing.assert_allclose(some.zv.edge_lengths(), expected)
    for chunks in (None, {}):
        plain = opened(stores / "graph.zv", chunks=chunks).drop_indexes(["x", "y", "z"])
        doubled = plain.assign_coords({a: plain[a] * 2 for a in "xyz"})
        np.testing.assert_allclose(np.sort(doubled.zv.edge_lengths()), np.sort(2 * steps(*EDGES.T)))
        assert (doubled.zv.edge_lengths().chunks is None) == (chunks is None)
    alone = part.load().isel(vertex=slice(0, part.sizes["vertex"] // 2)).zv.edge_lengths()
    assert alone.isnull().any()
    assert not alone.isnull().all()
    renamed = ds.rename(x="a", edges="pairs").zv.edge_lengths(dims=["a", "y"])
    np.testing.assert_allclose(np.sort(renamed), np.sort(steps(*EDGES.T, WALK[:, :2])))
    tracks = of(stores, "polyline", "objects")
    np.testing.assert_allclose(tracks.zv.objects[[12, 40]].zv.path_lengths(), CABLES[1:])
    pieces = tracks.zv.sel(bbox=box)
    where = np.stack([pieces[a].values for a in "xyz"], axis=1)
    cut = np.split(where, np.cumsum(pieces.node_count.values)[:-1])
    np.testing.assert_allclose(pieces.zv.path_lengths(), [np.linalg.norm(np.diff(p, axis=0), axis=1).sum() for p in cut])
    one = of(stores, "skeleton").zv.sel(objects=40).zv.path_lengths()
    assert one.object.values.tolist() == [40]
    np.testing.assert_allclose(one, CABLES[2:])


def test_two_to_four_dimensions():
    flat = dzv.create({}, geometry="mesh", chunk_shape=(10, 10))
    dzv.write_meshes(flat, WALK[:, :2], faces=FACES)
    inplane = areas(FACES, np.c_[WALK[:, :2], np.zeros(N)])
    np.testing.assert_allclose(np.sort(opened(flat).zv.face_areas()), np.sort(inplane))
    fails(dzv.InputError, "two axes at least", opened(flat).zv.face_areas, dims="x")
    axes = [TIME, *AXES]
    moving = dzv.create({}, geometry="polyline", chunk_shape=(8, 10, 10, 10), axes=axes)
    hours = np.arange(N) / 2.0
    dzv.write_polylines(moving, np.c_[hours, WALK], lengths=[N])
    ds = opened(moving, "objects", chunks={})
    every = steps(np.arange(1, N), np.arange(N - 1))
    np.testing.assert_allclose(ds.zv.path_lengths(), [every.sum()])  # along space
    found = ds.zv.speeds()
    assert found.attrs["units"] == "micrometer hour-1"
    np.testing.assert_allclose(found[1:], every / 0.5)
    np.testing.assert_allclose(ds.zv.path_lengths(dims=["z"]), [np.abs(np.diff(WALK[:, 2])).sum()])
    fails(dzv.InputError, r"different units: t \(hour\), x \(micrometer\)", ds.zv.path_lengths, dims=["t", "x"])
    fails(dzv.InputError, "different axes", ds.zv.path_lengths, dims=["a"])
    four = dzv.create({}, geometry="graph", chunk_shape=(10,) * 4)
    wide = np.c_[WALK, WALK[::-1, 0]]
    dzv.write_graph(four, wide, edges=EDGES)
    np.testing.assert_allclose(np.sort(opened(four).zv.edge_lengths()), np.sort(steps(*EDGES.T, wide)))
    named = cloud(np.c_[hours, WALK[:, :2]], (9, 9, 9), axes=[{**TIME, "name": "frame"}, *AXES[:2]])
    assert opened(named).frame.attrs["axis"] == "T"


WRONG = [
    ("polyline", "spatial", "edge_lengths", "path_lengths"),
    ("polyline", "objects", "face_areas", "path_lengths"),
    ("polyline", "spatial", "speeds", "view='objects'"),
    ("skeleton", "objects", "edge_lengths", "view='spatial'"),
    ("skeleton", "spatial", "face_areas", "edge_lengths"),
    ("skeleton", "objects", "speeds", "no order in time"),
    ("graph", "spatial", "path_lengths", "edge_lengths"),
    ("mesh", "spatial", "edge_lengths", "face_areas"),
    ("mesh", "objects", "face_areas", "view='spatial'"),
    ("mesh", "spatial", "path_lengths", "face_areas"),
    ("point_cloud", "objects", "path_lengths", "map_objects"),
    ("point_cloud", "objects", "speeds", "write_polylines"),
    ("point_cloud", "spatial", "edge_lengths", "not joined"),
]


@pytest.mark.parametrize(("kind", "view", "method", "hint"), WRONG)
def test_other_geometries_are_told_what_works(stores, kind, view, method, hint):
    fails(dzv.InputError, hint, getattr(of(stores, kind, view).zv, method))


def test_what_speeds_need(stores):
    ds = of(stores, "polyline", "objects")
    fails(dzv.InputError, "not 'mass'", ds.zv.speeds, time="mass")
    fails(dzv.InputError, r"time=\.\.\.", ds.drop_vars("when").zv.speeds)
    fails(dzv.InputError, "keep them", of(stores, "graph").drop_vars("edges").zv.edge_lengths)
    fails(dzv.InputError, "keep it", of(stores, "skeleton", "objects").drop_vars("parent").zv.path_lengths)
    back = ds.load().assign(when=ds.when[::-1].variable)
    fails(dzv.InputError, r"goes back in object 11.*sort_by", back.zv.speeds)
    stopped = ds.load().assign(when=xr.zeros_like(ds.when.astype(int)))
    assert np.isinf(stopped.zv.speeds(time="when")[1])


def test_the_error_about_units_says_what_to_do():
    axes = [
        {"name": n, "type": "space", "unit": u} for n, u in zip("xyz", ("micrometer", "micrometer", "nanometer"), strict=True)
    ]
    store = dzv.create({}, geometry="polyline", chunk_shape=(5, 5, 5000), axes=axes)
    dzv.write_polylines(store, np.array([[0, 0, 0], [3, 0, 4000.0]]), lengths=[2])
    ds = opened(store, "objects")
    with pytest.raises(dzv.InputError, match="different units") as caught:
        ds.zv.path_lengths()
    names = {"ds": ds, "factor": 1e-3}
    exec(str(caught.value).partition("name the unit: ")[2].partition(" [")[0], names)
    found = names["ds"].zv.path_lengths()
    assert (found.item(), found.attrs["units"]) == (5, "micrometer")


def test_a_level_without_data_has_nothing_to_measure():
    store = dzv.create({}, geometry="graph", chunk_shape=(5, 5, 5))
    fails(dzv.InputError, "no data yet", opened(store).zv.edge_lengths)
