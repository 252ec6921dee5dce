"""Ids of all integer types and of each object's own, and tables whose rows are not in the order of the paths."""

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import xarray as xr
from geometries_reference import VERBS
from small import always

import dask_zv as dzv

N = 6
POINTS = np.random.default_rng(0).uniform(0, 20, (N, 3))
LAZY = da.from_array(POINTS, chunks=(2, 3))
LAST = 2**63 - 1

_sync = always(scheduler="sync")


def new(geometry="point_cloud"):
    return dzv.create({}, geometry=geometry, chunk_shape=(10, 10, 10))


def rows_of(found):
    """Return the place in POINTS of each row that was read."""
    return [int(np.argmin(np.abs(POINTS - p).sum(axis=1))) for p in found.positions]


def lazily(values):
    return da.from_array(np.asarray(values), chunks=2)


@pytest.mark.parametrize("dtype", ["u2", "u4", "u8"])
def test_unsigned_ids(dtype):
    names = np.array([5, 60, 7, 8, 9, 61], dtype)
    tree = np.array([60, 5, 60, 60, 60, 5], dtype)  # no roots: an unsigned integer has no -1
    for positions, of in ((POINTS, np.asarray), (LAZY, lazily)):
        graph, mesh, points, lines = new("graph"), new("mesh"), new(), new("polyline")
        dzv.write_graph(graph, positions, edges=of(np.array([[5, 60], [61, 7]], dtype)), vertex_ids=of(names))
        found = graph.level(0).read()
        rows = rows_of(found)
        assert sorted([rows[a], rows[b]] for a, b in found.edges) == [[0, 1], [5, 2]]
        dzv.write_meshes(mesh, positions, faces=of(np.array([[0, 1, 2], [3, 5, 4]], dtype)))
        found = mesh.level(0).read()
        rows = rows_of(found)
        assert sorted(tuple(sorted(rows[i] for i in f)) for f in found.faces) == [(0, 1, 2), (3, 4, 5)]
        dzv.write_points(points, positions, object_ids=of(names), groups={0: np.array([60, 5], dtype)})
        assert points.level(0).read(objects=[61]).positions.tolist() == [POINTS[5].tolist()]
        sizes = np.array([2, 2, 2], dtype)
        dzv.write_polylines(lines, positions, lengths=sizes if of is np.asarray else da.from_array(sizes, chunks=1))
        assert lines.level(0).read().lengths.tolist() == [2, 2, 2]
    with pytest.raises(dzv.InputError, match=r"cycle|round|circle|loop"):
        dzv.write_skeletons(new("skeleton"), POINTS, parents=tree, vertex_ids=names)


def test_integers_of_python_and_of_two_signs():
    lines, points = new("polyline"), new()
    dzv.write_polylines(lines, POINTS, lengths=[3, 3], object_ids=np.array([9, 4], object))
    assert lines.level(0).read().ids.tolist() == [4, 9]
    dzv.write_points(points, POINTS, object_ids=[0, 1] * 3, groups={0: np.array([1], object)})
    assert points.level(0).read().groups[0].tolist() == [1]
    frame = pd.DataFrame({"source": np.array([0], "u8"), "target": np.array([1], "i8")})  # numpy makes floats of both
    for edges in (frame, dd.from_pandas(frame, npartitions=1)):
        store = new("graph")
        dzv.write_graph(store, POINTS, edges=edges)
        assert len(store.level(0).read().edges) == 1


def test_ids_beyond_63_bits_are_refused_with_their_number():
    big = 2**63 + 5
    ids = np.array([1, 2, 3, big, 5, 0], np.uint64)
    frame = pd.DataFrame({"a": range(N)}, index=ids)
    for geometry, options in (
        ("point_cloud", {"object_ids": ids}),
        ("point_cloud", {"object_ids": [0] * N, "groups": {0: ids}}),
        ("point_cloud", {"object_ids": [0] * N, "object_attributes": frame}),
        ("polyline", {"lengths": [3, 3], "object_ids": ids[2:4]}),
        ("skeleton", {"parents": ids}),
        ("skeleton", {"parents": [-1] * N, "vertex_ids": ids}),
        ("graph", {"edges": ids.reshape(3, 2)}),
        ("graph", {"edges": [[1, 2]], "vertex_ids": ids}),
        ("mesh", {"faces": ids.reshape(2, 3)}),
    ):
        with pytest.raises(dzv.InputError, match=str(big)):
            VERBS[geometry](new(geometry), POINTS, **options)
    for geometry, options in (
        ("point_cloud", {"object_ids": lazily(ids)}),
        ("skeleton", {"parents": lazily(ids)}),
        ("graph", {"edges": da.from_array(ids.reshape(3, 2), chunks=(1, 2))}),
        ("graph", {"edges": da.ones((1, 2), dtype=int), "vertex_ids": lazily(ids)}),
    ):
        with pytest.raises(dzv.InputError, match=rf"part(ition)? 1.*{big}"):
            VERBS[geometry](new(geometry), LAZY, **options)


@pytest.mark.parametrize("positions", [POINTS, LAZY], ids=["numpy", "dask"])
def test_ids_up_to_the_last_of_63_bits(positions):
    of = np.asarray if positions is POINTS else lazily
    ids = np.array([LAST, 0, 5, LAST, LAST - 1, 0], np.uint64)
    store = new()
    table = pd.DataFrame({"a": [1.0, 2.0, 3.0, 4.0]}, index=[0, 5, LAST - 1, LAST])
    report = dzv.write_points(store, positions, object_ids=of(ids), object_attributes=table, groups={0: [LAST, 5]})
    assert report.objects == 4
    level = store.level(0)
    assert sorted(rows_of(level.read(objects=[LAST]))) == [0, 3]
    assert level.read(objects=[LAST - 1, 5]).object_attributes["a"].tolist() == [2, 3]
    assert level.read().groups[0].tolist() == [LAST, 5]
    for view in ("spatial", "objects"):
        ds = xr.open_dataset(store, engine="zv", view=view)
        assert ds.object.values.tolist() == [0, 5, LAST - 1, LAST]
        assert ds.zv.sel(objects=[LAST]).sizes["vertex"] == 2
    lines = new("polyline")
    dzv.write_polylines(lines, POINTS, lengths=[2, 4], object_ids=[LAST, 3])
    assert lines.level(0).read().ids.tolist() == [3, LAST]
    assert rows_of(lines.level(0).read(objects=[LAST])) == [0, 1]
    graph = new("graph")
    dzv.write_graph(graph, positions, edges=of(np.array([[LAST, LAST - 5]])), vertex_ids=of(LAST - np.arange(N)))
    found = graph.level(0).read()
    assert [[rows_of(found)[i] for i in e] for e in found.edges] == [[0, 5]]


CELLS = pd.DataFrame({"x": np.arange(N) * 3.0, "y": 1.0, "z": 1.0, "cell": [4, 4, 4, 9, 9, 9]})
CELLS = CELLS.assign(node=[1, 2, 3, 1, 2, 3], up=[-1, 1, 2, 2, -1, 1])
WANTED = {(3, 0), (6, 3), (9, 12), (15, 9)}


def write_cells(table):
    store = new("skeleton")
    dzv.write_skeletons(store, table, parents="up", vertex_ids="node", object_ids="cell")
    found = store.level(0).read()
    x = found.positions[:, 0]
    return {(x[i], x[p]) for i, p in enumerate(found.parents) if p >= 0}


def test_vertex_ids_of_each_object():
    tables = (lambda t: t), (lambda t: dd.from_pandas(t, npartitions=3, sort=False)), pa.Table.from_pandas
    for make in tables:
        assert write_cells(make(CELLS)) == WANTED
        assert write_cells(make(CELLS.assign(node=range(100, 106), up=[-1, 100, 101, 104, -1, 103]))) == WANTED
        with pytest.raises(dzv.InputError, match="vertex 8"):
            write_cells(make(CELLS.assign(up=[-1, 1, 2, 2, -1, 8])))
        with pytest.raises(dzv.InputError, match="must be distinct"):
            write_cells(make(CELLS.assign(node=[1, 1, 3, 1, 2, 3])))
    large = CELLS.assign(node=CELLS.node + 2**62, up=np.where(CELLS.up < 0, -1, CELLS.up + 2**62))
    assert write_cells(large) == WANTED
    with pytest.raises(dzv.InputError, match="beyond 2"):
        write_cells(dd.from_pandas(pd.concat([large, large.assign(cell=large.cell + 2)]), npartitions=1, sort=False))
    with pytest.raises(dzv.InputError, match="distinct: 1 is given twice"):  # what edges name has no object
        dzv.write_graph(new("graph"), CELLS, edges=[[1, 2]], vertex_ids="node", object_ids="cell", attributes=[])


HOURS = np.array([0, 0, 5, 1, 5, 2, 2, 3, 9, 4, 7, 5])
DRIFTERS = pd.DataFrame(
    {"x": np.arange(12.0), "y": 0.0, "z": 0.0, "id": [7, 3] * 6, "time": np.datetime64("2020-01-01T00", "s") + 3600 * HOURS}
)
TRACKS = {i: DRIFTERS[DRIFTERS.id == i].sort_values("time", kind="stable").x.tolist() for i in (3, 7)}


def by_id(ids, values, lengths):
    parts = np.split(np.asarray(values), np.cumsum(np.asarray(lengths))[:-1])
    return {i: part.tolist() for i, part in zip(np.asarray(ids).tolist(), parts, strict=True)}


def tracks(store):
    found = store.level(0).read()
    return by_id(found.ids, found.positions[:, 0], found.lengths)


def test_tables_in_order_of_time_are_sorted():
    points, ids, time = DRIFTERS[list("xyz")].to_numpy(), DRIFTERS.id.to_numpy(), DRIFTERS.time
    lazy = dd.from_pandas(DRIFTERS, npartitions=4, sort=False)
    cases = {
        "a frame": (DRIFTERS, {"object_ids": "id", "sort_by": "time"}),
        "an Arrow table": (pa.Table.from_pandas(DRIFTERS), {"object_ids": "id", "sort_by": "time"}),
        "a lazy frame": (lazy, {"object_ids": "id", "sort_by": "time"}),
        "an array": (points, {"object_ids": ids, "sort_by": time}),
        "an attribute": (points, {"object_ids": ids, "sort_by": "time", "attributes": {"time": time}}),
        "a frame of attributes": (points, {"object_ids": ids, "sort_by": "time", "attributes": DRIFTERS[["time"]]}),
    }
    for name, (positions, options) in cases.items():
        store = new("polyline")
        dzv.write_polylines(store, positions, **options)
        assert tracks(store) == TRACKS, name
    turned = new("polyline")
    dzv.write_polylines(turned, points, lengths=[5, 7], sort_by=-np.arange(12.0))
    assert tracks(turned) == {0: [4, 3, 2, 1, 0], 1: [11, 10, 9, 8, 7, 6, 5]}
    by_axis = new("polyline")
    dzv.write_polylines(by_axis, points * [-1, 1, 1] + [20, 0, 0], lengths=[5, 7], sort_by="x")
    assert tracks(by_axis)[0] == [16, 17, 18, 19, 20]


def test_tables_in_another_order_are_refused_without_it():
    lazy = dd.from_pandas(DRIFTERS, npartitions=4, sort=False)
    gap = DRIFTERS.assign(time=DRIFTERS.time.where(DRIFTERS.x != 4))
    cases = [
        (DRIFTERS, {}, "sort_by="),
        (lazy, {}, "sort_by="),
        (DRIFTERS, {"sort_by": "when"}, "'when'"),
        (lazy, {"sort_by": "when"}, "'when'"),
        (gap, {"sort_by": "time"}, "row 4 is NaT"),
        (dd.from_pandas(gap, npartitions=4, sort=False), {"sort_by": "time"}, "is NaT"),
        (DRIFTERS, {"sort_by": np.zeros(3)}, "sort_by has 3 rows"),
        (DRIFTERS, {"sort_by": DRIFTERS.x.astype(str)}, "a number or a date"),
        (lazy, {"sort_by": np.zeros(12)}, "names of columns"),
    ]
    for table, options, match in cases:
        with pytest.raises(dzv.InputError, match=match):
            dzv.write_polylines(new("polyline"), table, object_ids="id", **options)
    with pytest.raises(dzv.InputError, match="Dask DataFrame"):
        dzv.write_polylines(new("polyline"), LAZY, object_ids=lazily([0] * N), sort_by=lazily(range(N)))


def test_a_plan_sorts(tmp_path):
    store = dzv.create(tmp_path / "s.zv", geometry="polyline", chunk_shape=(10, 10, 10))
    for table in (DRIFTERS, dd.from_pandas(DRIFTERS, npartitions=4, sort=False)):
        plan = dzv.plan_polylines(store, table, object_ids="id", sort_by="time", mode="overwrite")
        plan.commit([plan.run(i) for i in range(len(plan))])
        assert tracks(dzv.open(store.url)) == TRACKS


def test_points_are_no_tracks_before_they_are_sorted():
    def opened(table, **options):
        store = new()
        dzv.write_points(store, table, object_ids="id", **options)
        return xr.open_dataset(store, engine="zv", view="objects")

    def rows(ds):
        return by_id(ds.id, ds.x, ds.rowsize)

    shuffled = opened(DRIFTERS)
    with pytest.raises(dzv.InputError, match="sort_by="):
        shuffled.zv.to_clouddrift()
    with pytest.raises(dzv.InputError, match="'when'.*x, y, z, time"):
        shuffled.zv.to_clouddrift(sort_by="when")
    made = shuffled.zv.to_clouddrift(sort_by="time")
    assert rows(made) == TRACKS
    assert (np.diff(made.time.values[:6]) >= np.timedelta64(0, "s")).all()
    assert rows(opened(DRIFTERS[DRIFTERS.x < 4].assign(y=1.0)).zv.to_clouddrift(sort_by="x")) == {3: [1, 3], 7: [0, 2]}
    in_time = opened(DRIFTERS.sort_values("time", kind="stable").assign(x=0.0, y=0.0))  # one chunk: as it was written
    assert in_time.zv.to_clouddrift().sizes["obs"] == 12
    seconds = DRIFTERS.assign(time_s=HOURS * 3600.0)
    with pytest.raises(dzv.InputError, match="'time_s' is out of order"):
        opened(seconds, attributes=["time_s"]).zv.to_clouddrift()
    assert opened(DRIFTERS, attributes=[]).zv.to_clouddrift().sizes["obs"] == 12  # nothing tells of time


def test_dask_sorts_frames_by_their_index_unless_told():
    """What the docs warn of, and the way that they show."""
    table = pd.DataFrame({"x": [20.0, 5.0, 11.0], "y": 1.0, "z": 1.0, "id": 0}, index=[2, 0, 1])
    for options, wanted in (({"sort": False}, [20, 5, 11]), ({}, [5, 11, 20])):
        store = new("polyline")
        dzv.write_polylines(store, dd.from_pandas(table, npartitions=1, **options), object_ids="id")
        assert store.level(0).read().positions[:, 0].tolist() == wanted
