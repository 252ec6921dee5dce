"""Densities: as numpy's histograms of the whole level, on every scheduler, whatever the grid is to the blocks."""

import json
import pickle
from collections import Counter
from types import SimpleNamespace

import dask
import numpy as np
import pytest
import xarray as xr
from counting_store import CountingStore
from golden_reference import every_store
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import always, sizes
from zarr.storage import MemoryStore

import dask_zv as dzv
from dask_zv.analysis.density import plan_density
from dask_zv.xarray_backend import analysis

N = 4000
LOW, HIGH = (-20.0, 0.0, 5.0), (40.0, 30.0, 15.0)
AXES = [{"name": n, "type": "space", "unit": "micrometer"} for n in "xyz"]

_sync = always(scheduler="sync")


def density(level, *, compute=True, **options):
    """Return values and edges of a density, or its Delayed."""
    plan = plan_density(level._contents, **options)
    if not compute:
        return plan.delayed()
    return SimpleNamespace(values=plan.compute(), edges=plan.cells.edges, dims=plan.dims, statistic=plan.statistic)


def write(target, dtype=np.float32, **options):
    """Write points, many of them on the edges of cells; the least and the greatest corner are among them."""
    rng = np.random.default_rng(3)
    positions = rng.uniform(LOW, HIGH, (N, 3))
    positions[: N // 2] = positions[: N // 2].round()
    positions[:2] = LOW, HIGH
    mass = rng.normal(size=N)
    attributes = {
        "mass": mass,
        "flag": mass > 0,
        "small": rng.integers(0, 9, N).astype(np.int8),
        "rgb": rng.integers(0, 255, (N, 3), dtype=np.uint8),
        "kind": np.array(["soma", "axon"])[rng.integers(0, 2, N)],
    }
    store = dzv.create(target, chunk_shape=(10, 10, 5), axes=AXES, bounds=(LOW, HIGH), dtype=np.dtype(dtype), **options)
    dzv.write_points(store, positions.astype(dtype), attributes=attributes, object_ids=rng.integers(0, 12, N))
    return dzv.open(target).level(0)


@pytest.fixture(scope="module")
def level(tmp_path_factory):
    return write(tmp_path_factory.mktemp("density") / "points.zv")


@pytest.fixture(scope="module")
def everything(level):
    return level.read(order="chunk")


@pytest.fixture
def small_blocks():
    """Make many blocks of little data."""
    with sizes(read_block_bytes=5000):
        yield


def histogram(positions, edges, weights=None, keep=None):
    keep = np.ones(len(positions), bool) if keep is None else keep
    found, _ = np.histogramdd(positions[keep].astype(np.float64), edges, weights=None if weights is None else weights[keep])
    return found


def test_counts_sums_and_means_on_every_scheduler(level, everything, scheduler, small_blocks):
    found = density(level, shape=(12, 6, 4))
    assert found.values.dtype == np.int64
    assert found.values.sum() == N
    assert [(e[0], e[-1]) for e in found.edges] == list(zip(LOW, HIGH, strict=True))
    counts = histogram(everything.positions, found.edges)
    np.testing.assert_array_equal(found.values, counts)
    mass = everything.attributes["mass"]
    sums = density(level, shape=(12, 6, 4), weights="mass")
    assert sums.statistic == "sum"
    np.testing.assert_allclose(sums.values, histogram(everything.positions, found.edges, mass), atol=1e-12)
    means = density(level, spacing=5, weights="small", statistic="mean")
    small = everything.attributes["small"].astype(float)
    counts = histogram(everything.positions, means.edges)
    assert means.values.shape == (12, 6, 2)
    np.testing.assert_allclose(means.values, histogram(everything.positions, means.edges, small) / counts)
    lazy = density(level, shape=(12, 6, 4), weights="mass", compute=False)
    np.testing.assert_array_equal(lazy.compute(), sums.values)  # bit by bit: the order of additions is the plan's


@pytest.mark.filterwarnings("ignore:the chunk has vertices outside of its box:dask_zv.ZVWarning")  # as some were made
@every_store
def test_golden_stores(path):
    store = dzv.open(path)
    for number in store.levels:
        level = store.level(number)
        every = level.read(order="chunk")
        found = density(level, shape=3)
        np.testing.assert_array_equal(found.values, histogram(every.positions, found.edges))
        assert found.values.sum() == len(every)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_grid_equals_numpy(level, everything, data):
    axes = data.draw(st.permutations([0, 1, 2]).flatmap(lambda p: st.integers(1, 3).map(lambda n: p[:n])))
    low = np.array([data.draw(st.sampled_from([LOW[a], LOW[a] - 1.5, LOW[a] + 3.0])) for a in axes])
    high = np.array([data.draw(st.sampled_from([HIGH[a], HIGH[a] + 2.5, HIGH[a] - 4.0])) for a in axes])
    options = {"bounds": (low, high), "dims": ["xyz"[a] for a in axes]}
    if data.draw(st.booleans()):
        options["spacing"] = data.draw(st.sampled_from([0.1, 0.3, 1, 2.5, 7, 100]))
        if options["spacing"] < 1 and len(axes) == 3:
            options["spacing"] = 1
    else:
        options["shape"] = [data.draw(st.integers(1, 60)) for _ in axes]
    keep = np.ones(N, bool)
    if data.draw(st.booleans()):
        options["bbox"] = box = ((-5, -np.inf, 6), (25, 12, np.inf))
        keep &= ((everything.positions >= box[0]) & (everything.positions <= box[1])).all(axis=1)
    if data.draw(st.booleans()):
        options["objects"] = [1, 5, 6]
        keep &= np.isin(everything.object_ids, [1, 5, 6])
    weights = data.draw(st.sampled_from([None, "mass", "flag", "z"]))
    values = None if weights is None else everything.positions[:, 2] if weights == "z" else everything.attributes[weights]
    with sizes(read_block_bytes=data.draw(st.sampled_from([2000, 30_000, 1 << 20]))):
        found = density(level, weights=weights, **options)
    assert found.dims == tuple(options["dims"])
    for edges, a, b in zip(found.edges, low, high, strict=True):
        assert edges[0] == a
        assert edges[-1] >= b
    expected = histogram(
        everything.positions[:, list(axes)], found.edges, None if values is None else values.astype(float), keep
    )
    np.testing.assert_allclose(found.values, expected, atol=1e-9)
    if weights is None:
        np.testing.assert_array_equal(found.values, expected)


@settings(max_examples=100, deadline=None)
@given(
    points=st.lists(st.integers(-40, 40), min_size=1, max_size=30),
    size=st.sampled_from([0.1, 0.2, 0.3, 0.7, 1 / 3, 1.1, 1e-3, 1e6]),
    shift=st.sampled_from([0.0, 0.05, 1000.1, -1e7]),
    cells=st.integers(1, 80),
)
def test_positions_on_edges_are_in_the_cell_above(points, size, shift, cells):
    positions = np.stack([shift + size * np.array(points, float), np.zeros(len(points))], axis=1)
    store = dzv.create({}, chunk_shape=(size * 30, 1), dtype=np.dtype(np.float64))
    dzv.write_points(store, positions)
    level = store.level(0)
    low, high = [positions[:, 0].min()], [positions[:, 0].max()]
    for options in ({"spacing": size}, {"shape": cells}):
        for bounds in (None, *([(low, high)] if low < high else [])):
            found = density(level, bounds=bounds, dims="x", **options)
            assert found.values.sum() == len(points)
            np.testing.assert_array_equal(found.values, np.histogram(positions[:, 0], found.edges[0])[0])


def test_rows(level, everything, small_blocks):
    rng = np.random.default_rng(0)
    edges = density(level, shape=4).edges
    for rows in (slice(100, 900), slice(3000, None, -3), rng.permutation(N)[:700], np.array([5, 5, 5, 9]), slice(0, 0)):
        found = density(level, shape=4, rows=rows)
        np.testing.assert_array_equal(found.values, histogram(everything.positions[rows], edges))


def test_few_vertices_in_a_large_grid(level, everything, small_blocks):
    """The grid of 12 million cells has 4,000 occupied ones."""
    found = density(level, shape=(300, 200, 200))
    means = density(level, shape=(300, 200, 200), weights="mass", statistic="mean")
    codes = [np.searchsorted(e, everything.positions[:, i].astype(float), "right") - 1 for i, e in enumerate(found.edges)]
    codes = np.stack([np.minimum(c, n - 1) for c, n in zip(codes, found.values.shape, strict=True)], axis=1)
    cells, place, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    np.testing.assert_array_equal(found.values[tuple(cells.T)], counts)
    assert found.values.sum() == N
    sums = np.bincount(place.ravel(), everything.attributes["mass"])
    np.testing.assert_allclose(means.values[tuple(cells.T)], sums / counts)
    assert np.count_nonzero(~np.isnan(means.values)) == len(cells)


def test_parts_are_no_larger_than_the_block_or_the_grid(level, small_blocks):
    for options, most in (({"shape": (300, 200, 200)}, 16), ({"shape": 2}, 1)):
        graph = dict(density(level, compute=False, **options).__dask_graph__())
        blocks = [key for key in graph if "-block-" in key or "-add-" in key]
        parts = dask.get(graph, blocks)
        assert len(parts) > 10
        assert sum(len(pickle.dumps(p)) for p in parts) < 3 * N * most + 600 * len(parts)


def test_flat_data_and_one_point(tmp_path):
    store = dzv.create(tmp_path / "flat.zv", chunk_shape=(10, 10))
    dzv.write_points(store, np.array([[3.0, 7.0], [4.5, 7.0]]))
    level = dzv.open(tmp_path / "flat.zv").level(0)
    assert density(level, shape=2, dims="y").values.tolist() == [0, 2]
    found = density(level, spacing=1)
    assert found.values.tolist() == [[1], [1]]
    assert found.edges[1].tolist() == [6.5, 7.5]


@pytest.mark.parametrize(
    ("upper", "size", "cells"), [(1.1, 0.1, 11), (0.9, 0.3, 3), (0.6, 0.2, 3), (1.0, 0.3, 4), (0.05, 0.1, 1)]
)
def test_cells_that_fit_are_as_many_as_one_would_count(level, upper, size, cells):
    """1.1 / 0.1 is a little more than 11, and 3 * 0.3 a little less than 0.9."""
    (edges,) = density(level, spacing=size, bounds=([0], [upper]), dims="x").edges
    assert len(edges) == cells + 1
    assert edges[-1] >= upper
    np.testing.assert_allclose(np.diff(edges), size)


def test_float32_bounds(tmp_path):
    """Bounds are given more exactly than positions are stored: 0.1 as float32 is above 0.1."""
    store = dzv.create(tmp_path / "f.zv", chunk_shape=(1, 1), bounds=((-0.1, -0.1), (0.1, 0.1)), dtype=np.dtype(np.float32))
    dzv.write_points(store, np.array([[0.1, 0.1], [-0.1, -0.1]], np.float32))
    assert density(dzv.open(tmp_path / "f.zv").level(0), shape=3).values.sum() == 2


def test_tasks_are_blocks_and_a_tree(level, small_blocks):
    lazy = density(level, spacing=5, compute=False)
    tasks = Counter(str(key).split("-")[2] for key in dict(lazy.__dask_graph__()))
    blocks = tasks["block"]
    assert blocks > 8
    assert blocks < len(level.chunks)
    assert tasks == {"block": blocks, "add": -(-blocks // 8), "finish": 1, "binning": 1}


def test_one_block_needs_no_graph(level):
    def refuse(*_, **__):
        raise AssertionError("a scheduler was asked")

    with dask.config.set(scheduler=refuse):
        assert density(level, shape=3).values.sum() == N


def test_only_what_the_grid_needs_is_read():
    store = CountingStore(MemoryStore())
    write(store, shard_chunks=1)
    level = dzv.open(store).level(0)
    _ = level.chunks
    store.forget()
    density(level, bounds=((1, 1), (8, 8)), dims=["x", "y"], shape=4)
    assert store.chunks() == {"0.0.1", "0.0.2", "0.0.3"} & set(level.chunks.keys)
    assert {array for array, _ in store.blobs} == {"vertices", "vertex_fragments"}
    store.forget()
    density(level, bounds=((1, 1), (8, 8)), dims=["x", "y"], shape=4, weights="mass")
    assert {array for array, _ in store.blobs} == {"vertices", "vertex_fragments", "vertex_attributes/mass"}
    assert set(store.blobs.values()) == {1}
    assert not any("object" in key or "manifest" in key for key in store.log)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({}, "pass either"),
        ({"spacing": 1, "shape": 2}, "pass either"),
        ({"spacing": 0}, "positive"),
        ({"spacing": -1}, "positive"),
        ({"spacing": np.nan}, "positive"),
        ({"spacing": (1, 2)}, "one for each of x, y, z"),
        ({"spacing": "fine"}, "spacing is a number"),
        ({"shape": 2.5}, "positive integers"),
        ({"shape": 0}, "positive integers"),
        ({"shape": 10_000_000}, "cells"),
        ({"spacing": 1e-9}, "cells"),
        ({"spacing": 1e-300}, "cells"),
        ({"shape": 3, "dims": ["x", "x"]}, "dims"),
        ({"shape": 3, "dims": ["w"]}, "dims"),
        ({"shape": 3, "dims": []}, "dims"),
        ({"shape": 3, "bounds": (0, 1)}, "bounds of the axes x, y, z"),
        ({"shape": 3, "bounds": ((0, 0, 0), (1, 1, np.inf))}, "finite"),
        ({"shape": 3, "dims": "x", "bounds": ((1,), (0,))}, "above its greatest"),
        ({"shape": 3, "dims": "x", "bounds": ((1e17,), (1e17 + 32,))}, "too small"),
        ({"shape": 3, "weights": "weight"}, "no 'weight'"),
        ({"shape": 3, "weights": "kind"}, "kind"),
        ({"shape": 3, "weights": "rgb"}, "3 channels"),
        ({"shape": 3, "statistic": "mean"}, "needs weights"),
        ({"shape": 3, "statistic": "count", "weights": "mass"}, "takes no weights"),
        ({"shape": 3, "statistic": "median"}, "statistic is one of"),
        ({"shape": 3, "bbox": (1, 2)}, "bbox"),
        ({"shape": 3, "rows": np.array([N])}, "rows"),
    ],
)
def test_bad_arguments(level, options, what):
    with pytest.raises(dzv.InputError, match=what):
        density(level, **options)


def test_vertices_outside_of_the_metadata_are_an_error(tmp_path):
    write(tmp_path / "p.zv")
    document = tmp_path / "p.zv" / "zarr.json"
    content = json.loads(document.read_text())
    content["attributes"]["zarr_vectors"]["bounds"][1][0] = 20.0
    document.write_text(json.dumps(content))
    level = dzv.open(tmp_path / "p.zv").level(0)
    beyond = int((level.read().positions[:, 0] > 20).sum())
    with pytest.raises(dzv.InputError, match=f"{beyond:,} vertices lie outside .* pass bounds="):
        density(level, shape=3)
    assert density(level, shape=3, bounds=(LOW, HIGH)).values.sum() == N


def test_xarray(level, scheduler):
    found = analysis.density(level._contents, spacing=10, dims=["z", "x"])
    assert (found.name, found.dims, found.shape) == ("count", ("z", "x"), (1, 6))
    assert found.x.to_numpy().tolist() == [-15, -5, 5, 15, 25, 35]
    assert found.x.attrs["units"] == "micrometer"
    assert (found.x.attrs["lower"], found.x.attrs["upper"], found.x.attrs["spacing"]) == (-20, 40, 10)
    assert found.attrs["zv_url"] == level.store.url
    lazy = analysis.density(level._contents, spacing=10, dims=["z", "x"], compute=False)
    assert lazy.chunks == ((1,), (6,))
    xr.testing.assert_identical(lazy.compute(), found)
    mean = analysis.density(level._contents, shape=2, weights="z", statistic="mean")
    assert (mean.name, mean.attrs["units"]) == ("z_mean", "micrometer")
    assert analysis.density(level._contents, shape=2, weights="mass").name == "mass_sum"
