"""Selection by position: exact against numpy, reading no more than it must, through all that xarray does to an index."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import xarray as xr
from counting_store import CountingStore
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusals import fails
from small_stores import write_small
from zarr.storage import MemoryStore

import dask_zv as dzv
from dask_zv.xarray_backend.index import AxisIndex, RowIndex

QUICK = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
AXES = "xyz"


@pytest.fixture(scope="module")
def opened(written):
    return {"lazy": written.open(), "chunked": written.open(chunks={"vertex": -1}), "loaded": written.open().load()}


def rows_of(ds):
    """Return which rows of the level a Dataset holds: the vertex numbers, which the positions must agree with."""
    return ds["vertex"].to_numpy() if "vertex" in ds.coords else None


def check(found, written, rows):
    np.testing.assert_array_equal(found["vertex"], rows)
    for axis, name in enumerate(AXES):
        np.testing.assert_array_equal(found[name], written.positions[rows, axis])
    np.testing.assert_array_equal(found["mass"], written.attributes["mass"][rows])
    if len(rows):
        assert isinstance(found.xindexes["x"], AxisIndex)
        assert found.xindexes["x"] is found.xindexes["z"]
        np.testing.assert_array_equal(found.xindexes["x"].rows.all_numbers(), rows)
        np.testing.assert_array_equal(found.xindexes["vertex"].all_numbers(), rows)


# positions are within -12 and 28, a tenth of them whole numbers; chunks are 10 x 10 x 20
edges = st.one_of(st.integers(-15, 30), st.floats(-15, 30, width=32), st.sampled_from([-10, 0, 10, 20]))
sides = st.one_of(st.none(), st.sampled_from([-np.inf, np.inf]), edges)
boxes = st.dictionaries(st.sampled_from(AXES), st.tuples(sides, sides), min_size=1)


def inside(positions, box):
    keep = np.ones(len(positions), bool)
    for name, (low, high) in box.items():
        at = positions[:, AXES.index(name)].astype(float)
        keep &= at >= (-np.inf if low is None else low)
        keep &= at <= (np.inf if high is None else high)
    return keep


def as_slices(box):
    return {name: slice(*sides) for name, sides in box.items()}


@QUICK
@given(box=boxes, state=st.sampled_from(["lazy", "chunked", "loaded"]))
def test_any_box_is_exact(written, opened, box, state):
    """Half open, infinite, reversed, on the faces of chunks: all that a slice can say."""
    check(opened[state].sel(as_slices(box)), written, np.flatnonzero(inside(written.positions, box)))
    found = opened[state].mass.sel(as_slices(box))
    np.testing.assert_array_equal(found, written.attributes["mass"][inside(written.positions, box)])


N = 2_000
steps = st.one_of(
    st.tuples(st.just("isel"), st.slices(N)),
    st.tuples(st.just("isel"), st.lists(st.integers(-N, N - 1), max_size=30)),  # any order, twice, from behind
    st.tuples(st.just("seed"), st.integers(0, 99)),
    st.tuples(st.just("mask"), st.integers(2, 5)),
    st.tuples(st.just("sel"), boxes),
    st.tuples(st.sampled_from(["chunk", "load", "copy", "deep", "pickle", "deepcopy", "sort"]), st.none()),
)


def step(ds, rows, positions, mass, do, what):
    """Return the Dataset after a step, and the rows that it should hold then."""
    if do == "isel":
        if isinstance(what, slice):  # as numpy takes it: Dask takes backward slices from before the first row for the whole
            at = range(len(rows))[what]
            key = slice(at.start, at.stop if at.stop >= 0 else None, at.step) if len(at) else slice(0, 0)
        else:
            key = np.array(what, int)
            key = key[(key >= -len(rows)) & (key < len(rows))]
        return ds.isel(vertex=key), rows[key]
    if do == "seed":
        order = np.random.default_rng(what).permutation(len(rows))
        return ds.isel(vertex=order), rows[order]
    if do == "mask":
        mask = rows % what > 0
        return ds.isel(vertex=mask), rows[mask]
    if do == "sel":
        return ds.sel(as_slices(what)), rows[inside(positions[rows], what)]
    if do == "sort":
        return ds.sortby("mass"), rows[np.argsort(mass[rows], kind="stable")]
    made = {
        "chunk": lambda: ds.chunk(vertex=700),
        "load": lambda: ds.copy().load(),
        "copy": ds.copy,
        "deep": lambda: ds.copy(deep=True),
        "pickle": lambda: pickle.loads(pickle.dumps(ds)),
        "deepcopy": lambda: copy.deepcopy(ds),
    }
    return made[do](), rows


@QUICK
@given(todo=st.lists(steps, min_size=1, max_size=4), box=boxes)
def test_any_row_of_steps_keeps_positions_and_index_in_step(written, opened, todo, box):
    ds, rows = opened["lazy"][["mass"]], np.arange(N)
    for do, what in todo:
        ds, rows = step(ds, rows, written.positions, written.attributes["mass"], do, what)
    check(ds, written, rows)
    check(ds.sel(as_slices(box)), written, rows[inside(written.positions[rows], box)])
    np.testing.assert_array_equal(ds.mass.sel(as_slices(box)).x, ds.sel(as_slices(box)).x)


@pytest.mark.parametrize("state", ["lazy", "chunked", "loaded"])
def test_a_permutation_of_the_same_length(written, opened, state):
    ds = opened[state]
    order = np.random.default_rng(1).permutation(N)
    for key in (order, order.tolist(), xr.Variable("vertex", order), xr.DataArray(order, dims="vertex")):
        check(ds.isel(vertex=key), written, order)
    twice = ds.isel(vertex=order).isel(vertex=order)
    check(twice, written, order[order])
    check(ds.isel(vertex=slice(None, None, -1)), written, np.arange(N)[::-1])
    check(ds.isel(vertex=slice(None)), written, np.arange(N))
    np.testing.assert_array_equal(ds.x.isel(vertex=order).y, written.positions[order, 1])


@pytest.mark.parametrize("state", ["lazy", "chunked", "loaded"])
def test_selections_of_no_row(written, opened, state):
    first = opened[state].isel(vertex=slice(0, 1))
    for key in (np.zeros(1, bool), [False], np.zeros(0, int), slice(0, 0), first.mass.compute() < -np.inf):
        check(first.isel(vertex=key), written, np.zeros(0, int))
    check(first.isel(vertex=[]).isel(vertex=np.zeros(0, bool)), written, np.zeros(0, int))


def test_positions_as_numbers_and_labels_that_make_no_sense(written, opened):
    ds = opened["lazy"]
    x, y, z = written.positions[17].tolist()
    found = ds.sel(x=x, y=y, z=z)
    assert found.sizes["vertex"] >= 1
    assert 17 in found.vertex
    np.testing.assert_array_equal(ds.sel(x=x).x, np.full(ds.sel(x=x).sizes["vertex"], x, np.float32))
    np.testing.assert_array_equal(ds.sel(x=3, y=slice(None)).vertex, np.flatnonzero(written.positions[:, 0] == 3))
    fails(KeyError, "no vertex with x=", ds.sel, x=0.123456)
    fails(KeyError, "no vertex", ds.sel, x=np.inf)
    for label, error in (
        ([1.0, 2.0], TypeError),
        ("a", TypeError),
        (slice("a", None), TypeError),
        (slice(0, 5, 2), ValueError),
        (np.nan, ValueError),
        (slice(np.nan, 3), ValueError),
        (slice(None, float("nan")), ValueError),
    ):
        fails(error, None, ds.sel, x=label)
    fails(ValueError, "method", ds.sel, x=3.0, method="nearest")
    fails(KeyError, None, lambda: ds.sel(w=slice(0, 1)))
    fails(ValueError, "more than one index", lambda: ds.sel(x=slice(0, 9), vertex=slice(0, 9)))


@pytest.mark.parametrize("key", [[N], [-N - 1], [0, 5 * N]], ids=str)
def test_rows_that_are_not_there(opened, key):
    for state in ("lazy", "chunked", "loaded"):
        with pytest.raises(IndexError):
            opened[state].isel(vertex=key)
    fails(IndexError, None, lambda: opened["lazy"].isel(vertex=np.ones(7, bool)))


def test_one_row_and_rows_of_other_dimensions_have_no_index(written, opened):
    ds = opened["lazy"]
    one = ds.isel(vertex=-1)
    assert one.x.item() == written.positions[-1, 0]
    assert "x" not in one.xindexes
    for dims in (("p",), ("p", "q")):
        at = np.array([5, 3, 5, 0])
        key = xr.Variable(dims, at if len(dims) == 1 else at.reshape(2, 2))
        points = ds.isel(vertex=key)
        np.testing.assert_array_equal(points.x, written.positions[np.asarray(key), 0])
        np.testing.assert_array_equal(points.vertex, np.asarray(key))
        assert "x" not in points.xindexes


def test_renamed_coordinates_and_dimensions(written, opened):
    rows = np.flatnonzero(inside(written.positions, {"x": (0, 9.5), "z": (None, 5)}))
    for ds in opened.values():
        named = ds.rename(x="lon", z="depth")
        found = named.sel(lon=slice(0, 9.5), depth=slice(None, 5))
        np.testing.assert_array_equal(found.lon, written.positions[rows, 0])
        np.testing.assert_array_equal(found.vertex, rows)
        other = ds.rename(vertex="node")
        assert {other[a].dims for a in AXES} == {("node",)}
        found = other.sel(x=slice(0, 9.5), z=slice(None, 5))
        np.testing.assert_array_equal(found.node, rows)
        np.testing.assert_array_equal(found.y, written.positions[rows, 1])
        order = np.random.default_rng(2).permutation(N)
        np.testing.assert_array_equal(other.isel(node=order).y, written.positions[order, 1])
        back = other.rename(node="vertex")
        check(back.sel(x=slice(0, 9.5), z=slice(None, 5)), written, rows)
        lone = ds.rename_dims(vertex="row").rename_vars(x="u")
        np.testing.assert_array_equal(lone.sel(u=slice(0, 9.5), z=slice(None, 5)).u, written.positions[rows, 0])


def test_positions_cannot_be_changed_behind_the_index(opened):
    ds = opened["lazy"]
    fails(ValueError, "corrupt", lambda: ds.assign_coords(x=ds.x * 2))
    fails(ValueError, "corrupt", ds.drop_vars, "y")
    free = ds.drop_indexes(list(AXES))
    scaled = free.assign_coords(x=free.x * 2).drop_vars("y")
    np.testing.assert_array_equal(scaled.x, 2 * ds.x.values)


def test_alignment_keeps_positions_with_their_rows(written, opened):
    rng = np.random.default_rng(3)
    for ds in opened.values():
        part = ds[["mass"]]
        a, b = rng.permutation(N)[:50], rng.permutation(N)[:800]
        a = np.unique(np.r_[a, b[:5]])[::-1]
        expected = {
            "inner": np.intersect1d(a, b), "outer": np.union1d(a, b), "left": a, "right": b,
        }  # fmt: skip
        for join, rows in expected.items():
            for found in xr.align(part.isel(vertex=a), part.isel(vertex=b), join=join):
                np.testing.assert_array_equal(found.vertex, rows)
                np.testing.assert_array_equal(found.x, written.positions[rows, 0])
                there = ~np.isnan(found.mass.values)
                np.testing.assert_array_equal(found.mass.values[there], written.attributes["mass"][rows[there]])
                assert found.x.attrs == ds.x.attrs
        same = [3, 1, 2], [1, 2, 3]  # as many rows before as after
        for found in xr.align(*(part.isel(vertex=s) for s in same), join="inner"):
            np.testing.assert_array_equal(found.x, written.positions[[1, 2, 3], 0])
    with pytest.raises(xr.AlignmentError):
        xr.align(opened["lazy"].isel(vertex=[1, 2]), opened["lazy"].isel(vertex=[2, 1]), join="exact")


def test_concatenation_and_groups(written, opened):
    for ds in opened.values():
        part = ds[["mass", "flag"]]
        pieces = [part.isel(vertex=k) for k in (slice(0, 0), slice(40, 60), [7, 3], slice(60, 61))]
        rows = np.r_[40:60, 7, 3, 60]
        check(xr.concat(pieces, "vertex", data_vars="minimal", coords="minimal", compat="override"), written, rows)
        run = xr.concat([part.isel(vertex=slice(5, 9)), part.isel(vertex=slice(9, 30))], "vertex")
        assert run.xindexes["vertex"].numbers == slice(5, 30)
    ds = opened["loaded"][["mass", "flag"]]
    back = ds.groupby("flag").map(lambda group: group)
    check(back, written, np.arange(N))


def test_levels_of_two_stores_are_not_taken_for_one(written):
    others = [MemoryStore(), MemoryStore()]
    for shift, target in enumerate(others):
        write_small(target, "point_cloud", shift=float(shift))
    a, b = (xr.open_dataset(t, engine="zv")[["mass"]] for t in others)
    assert not a.xindexes["x"].equals(b.xindexes["x"])
    for mix in (lambda: a + b, lambda: xr.concat([a, b], "vertex")):
        fails(ValueError, "drop_indexes", mix)
    bare = [d.drop_indexes(list(AXES)) for d in (a, b)]
    both = xr.concat(bare, "vertex")
    np.testing.assert_array_equal(both.x, np.r_[a.x, b.x])
    assert len(both.vertex) == len(np.unique(both.vertex))


@pytest.fixture
def grid():
    """A store of 4 x 4 x 4 chunks of 10, with one vertex in the middle of each and one on its least face."""
    centres = np.stack(np.meshgrid(*[np.arange(4) * 10.0 + 5] * 3, indexing="ij"), -1).reshape(-1, 3)
    positions = np.concatenate([centres, centres - [5, 0, 0]]).astype("f4")
    store = CountingStore(MemoryStore())
    made = dzv.create(store, chunk_shape=(10, 10, 10), bounds=((0, 0, 0), (40, 40, 40)), shard_chunks=1)
    dzv.write_points(made, positions, attributes={"mass": np.arange(len(positions))})
    store.forget()
    return store


def keys(*ranges):
    return {f"{i}.{j}.{k}" for i in ranges[0] for j in ranges[1] for k in ranges[2]}


@pytest.mark.parametrize(
    ("box", "cut"),
    [
        ({"x": slice(9, 29)}, keys([0, 2], range(4), range(4))),
        # chunks are half open and boxes closed: one that ends on a face touches the next chunk
        ({"x": slice(11, 29), "y": slice(10.5, 20), "z": slice(0, 9)}, keys([1, 2], [1, 2], [0])),
        ({"x": slice(None, None)}, set()),
        ({"x": slice(-np.inf, np.inf), "y": slice(None, np.inf)}, set()),
        ({"x": slice(200, 300)}, set()),
        ({"x": slice(30, 10)}, set()),
        ({"x": slice(3, 7), "y": slice(3, 7), "z": slice(3, 7)}, keys([0], [0], [0])),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else f"{len(value)} chunks",  # sets have no order
)
def test_only_chunks_that_the_box_cuts_are_read(grid, box, cut):
    ds = xr.open_dataset(grid, engine="zv")
    positions = np.stack([ds[a].values for a in AXES], 1)
    fresh = CountingStore(grid._store)
    ds = xr.open_dataset(fresh, engine="zv")
    fresh.forget()
    found = ds.sel(box)
    assert fresh.chunks("vertices") == cut
    assert fresh.chunks("vertex_attributes/mass") == set()
    fresh.forget()
    rows = np.flatnonzero(inside(positions, {n: (s.start, s.stop) for n, s in box.items()}))
    np.testing.assert_array_equal(found.vertex, rows)
    repr(found), found._repr_html_(), found.nbytes
    assert not fresh.log
    np.testing.assert_array_equal(np.stack([found[a].values for a in AXES], 1), positions[rows])
    assert not fresh.chunks("vertices") & cut  # they are remembered
    assert max(fresh.blobs.values(), default=1) == 1


def test_a_second_box_reads_what_it_cuts_alone_and_copies_read_nothing(grid):
    ds = xr.open_dataset(grid, engine="zv").sel(x=slice(None, 29))
    grid.forget()
    ds.sel(y=slice(12, 18))
    assert grid.chunks("vertices") <= keys(range(4), [1], range(4))
    ds = xr.open_dataset(grid, engine="zv")
    order = np.random.default_rng(0).permutation(ds.sizes["vertex"])
    for part in (ds, ds.isel(vertex=slice(10, 90)), ds.isel(vertex=order)):
        grid.forget()
        made = [part.copy(), part.copy(deep=True), copy.copy(part), copy.deepcopy(part), pickle.loads(pickle.dumps(part))]
        assert not grid.blobs
        for one in made:
            assert one.xindexes["x"].equals(part.xindexes["x"])
            assert one.xindexes["vertex"].equals(part.xindexes["vertex"])
            xr.testing.assert_identical(one.sel(y=slice(0, 12)).load(), part.sel(y=slice(0, 12)).load())


def test_runs_on_the_borders_of_chunks_keep_the_index(grid):
    level = dzv.open(grid).level(0)
    starts = np.r_[0, np.cumsum(level.chunks.rows)]
    ds = xr.open_dataset(grid, engine="zv")
    everything = np.stack([ds[a].values for a in AXES], 1)
    grid.forget()
    part = ds.isel(vertex=slice(int(starts[8]), int(starts[40])))
    index = part.xindexes["vertex"]
    assert isinstance(index, RowIndex)
    assert index.numbers == slice(int(starts[8]), int(starts[40]))
    near = part.zv.chunks_in(((0, 0, 0), (40, 9, 9)))
    assert not grid.log
    touched = [k for k, key in enumerate(level.chunks.keys) if key.split(".")[1:] == ["0", "0"] and 8 <= k < 40]
    expected = np.concatenate([np.arange(starts[k], starts[k + 1]) for k in touched])
    np.testing.assert_array_equal(near.vertex, expected)
    np.testing.assert_array_equal(near.x, everything[expected, 0])
    grid.forget()
    assert part.isel(vertex=slice(3, 3)).zv.chunks_in(((0, 0, 0), (40, 40, 40))).sizes["vertex"] == 0


def test_rows_are_selected_by_integers_of_any_dtype():
    target = MemoryStore()
    write_small(target, "graph", n=400)
    ds = xr.open_dataset(target, engine="zv", chunks={})
    assert ds.sizes["vertex"] > 127
    for dtype in ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", ">u2"):
        rows = np.array([3, 100, 1], dtype)
        for dim in ("vertex", "edge"):
            found = ds.isel({dim: rows})
            np.testing.assert_array_equal(found[dim], [3, 100, 1])
            np.testing.assert_array_equal(found.isel({dim: rows[2:]})[dim], [100])
            xr.testing.assert_equal(found.compute(), ds.isel({dim: [3, 100, 1]}).compute())


def test_objects_are_labels_under_any_name():
    target = MemoryStore()
    write_small(target, "polyline", ids=np.arange(12) * 5, members=[0])
    ds = xr.open_dataset(target, engine="zv", view="objects").drop_vars("vertex_range")
    counts = ds.node_count.values
    for chosen, places in (([15, 5], [3, 1]), (slice(10, 30), [2, 3, 4, 5, 6]), (slice(None, 7), [0, 1])):
        np.testing.assert_array_equal(ds.sel(object=chosen).node_count, counts[places])
        renamed = ds.rename(object="track")
        found = renamed.sel(track=chosen)
        np.testing.assert_array_equal(found.track, np.array(places) * 5)
        np.testing.assert_array_equal(found.node_count, counts[places])
        again = found.rename(track="object")
        assert again.xindexes["object"].equals(ds.sel(object=chosen).xindexes["object"])
    assert ds.node_count.sel(object=20).item() == counts[4]
    fails(KeyError, None, ds.sel, object=7)
    fails(IndexError, None, ds.isel, object=[50])
    order = np.random.default_rng(0).permutation(12)
    mixed = ds.isel(object=order)
    np.testing.assert_array_equal(mixed.object, order * 5)
    np.testing.assert_array_equal(mixed.sel(object=[5, 50]).node_count, counts[[1, 10]])
    a, b = xr.align(ds.node_count.isel(object=[4, 2, 0]), ds.score.isel(object=[2, 3, 4]), join="inner")
    np.testing.assert_array_equal(a.object, b.object)
    assert sorted(a.object.values) == [10, 20]
    np.testing.assert_array_equal(a, counts[a.object // 5])
    np.testing.assert_array_equal(b, a.object // 5)
