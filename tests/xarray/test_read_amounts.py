"""How much a selection reads and holds: what was chosen counts, and neither the level nor Dask's blocks."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from counting_store import CountingStore
from numpy.typing import NDArray
from zarr.storage import MemoryStore

import dask_zv as dzv
from dask_zv.level.source import RunCache

pytestmark = pytest.mark.filterwarnings("ignore:The specified chunks separate")
BOX = ((-5, -4, -6), (11, 12, 22))
OBJECTS, LENGTH = 20_000, 12


def blobs_of(store: Any, act: Callable[[], Any]) -> tuple[Counter[tuple[str, str]], Any]:
    """Return the requests of blobs while something is done, and what comes of it."""
    store.forget()
    with dask.config.set(scheduler="threads", num_workers=2):
        found = act()
    return store.blobs, found


def by_labels(ds: xr.Dataset) -> xr.Dataset:
    (x0, y0, z0), (x1, y1, z1) = BOX
    return ds.sel(x=slice(x0, x1), y=slice(y0, y1), z=slice(z0, z1))


@pytest.mark.parametrize("select", [lambda ds: ds.zv.sel(bbox=BOX), by_labels])
@pytest.mark.parametrize("chunks", [{}, {"vertex": 300}])
def test_a_box_of_a_dask_dataset_reads_the_blobs_that_one_without_dask_reads(select, chunks):
    from conftest import counted_store

    plain, with_dask = (counted_store() for _ in range(2))
    expected, values = blobs_of(plain.target, lambda: select(plain.open(drop_variables="maybe")).load())
    found, same = blobs_of(with_dask.target, lambda: select(with_dask.open(chunks=chunks, drop_variables="maybe")).load())
    assert set(found) == set(expected)
    assert len(dzv.open(plain.target).level(0).chunks) > 2 * len({chunk for _, chunk in expected})
    assert {n for (array, _), n in found.items() if "attributes" not in array} == {1}
    assert sum(found.values()) <= (1 if not chunks else 2) * sum(expected.values())
    xr.testing.assert_identical(same.drop_attrs(), values.drop_attrs())


def test_what_is_made_of_columns_keeps_their_chunks_in_a_selection(written):
    ds = written.open(chunks={"vertex": 250}, drop_variables="maybe").assign(double=lambda d: d.mass * 2)
    rng = np.random.default_rng(1)
    for rows in (rng.permutation(2_000)[:900], slice(100, 900), slice(None, None, -3), rng.random(2_000) > 0.4, [5, -1, 5]):
        part = ds.isel(vertex=rows)
        assert set(part.chunks) == {"vertex", "colour_channel"}  # an error where variables have others
        again = part.isel(vertex=slice(1, None, 2))
        assert again.chunks
        np.testing.assert_array_equal(again.double, written.attributes["mass"][rows][1::2] * 2)
        np.testing.assert_array_equal(again.y, written.positions[rows, 1][1::2])
        np.testing.assert_array_equal(again.colour, written.attributes["colour"][rows][1::2])


@pytest.fixture(scope="module")
def paths() -> CountingStore:
    """20,000 short paths."""
    rng = np.random.default_rng(0)
    steps = np.cumsum(rng.uniform(-1, 1, (OBJECTS, LENGTH, 3)), axis=1)
    positions = (rng.uniform(0, 100, (OBJECTS, 1, 3)) + steps).reshape(-1, 3)
    target = CountingStore(MemoryStore())
    store = dzv.create(target, geometry="polyline", chunk_shape=(50, 50, 50), shard_chunks=1)
    ids = np.arange(OBJECTS) * 2
    about = {"attributes": {"t": np.arange(len(positions)), "u": np.ones(len(positions), np.float32)}}
    dzv.write_polylines(store, positions, lengths=np.full(OBJECTS, LENGTH), object_ids=ids, **about)
    return target


@pytest.mark.parametrize("chunks", [None, {}])
@pytest.mark.parametrize("view", ["objects", "spatial"])
def test_one_object_of_many_takes_no_memory_for_the_others(paths, view, chunks):
    ds = xr.open_dataset(paths, engine="zv", view=view, chunks=chunks)
    ds.zv.objects[[14, 800]].load()
    every_row = OBJECTS * LENGTH * 8
    paths.forget()
    held = []
    for _ in range(3):  # other threads and late imports are counted too, once or never
        tracemalloc.start()
        try:
            one = ds.zv.objects[4000]
            held.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert paths.log == []  # nothing tells it anew
    assert min(held) < every_row / 2
    np.testing.assert_array_equal(one.t, np.arange(2000 * LENGTH, 2001 * LENGTH))
    assert one.node_count.values.tolist() == [LENGTH]


@pytest.mark.parametrize("chunks", [None, {}])
def test_all_objects_read_each_chunk_once_for_a_column(paths, chunks):
    fresh = CountingStore(MemoryStore())
    dzv.convert(paths, fresh, shard_chunks=1)
    ds = xr.open_dataset(fresh, engine="zv", view="objects", chunks=chunks)
    found, values = blobs_of(fresh, lambda: ds.load())
    assert len({array for array, _ in found}) == 4
    assert set(found.values()) == {1}
    np.testing.assert_array_equal(values.t, np.arange(OBJECTS * LENGTH))


def test_objects_that_were_sorted_or_changed_are_still_noticed(paths):
    ds = xr.open_dataset(paths, engine="zv", view="objects").drop_vars("vertex_range")
    ds.zv.objects[4]
    with pytest.raises(dzv.InputError, match="not in the order"):
        ds.sortby("t", ascending=False).zv.objects[4]
    held = xr.open_dataset(paths, engine="zv", view="objects")
    held.zv.objects[4]
    with pytest.raises(dzv.InputError, match="not in the order"):
        held.isel(vertex=slice(None, None, -1)).zv.objects[4]
    with pytest.raises(dzv.InputError, match="node_count speaks of"):
        held.assign_coords(node_count=held.node_count * 2).zv.objects[4]
    part = held.zv.objects[[4, 8]]
    part.node_count.values[0] -= 1
    with pytest.raises(dzv.InputError, match="node_count speaks of"):
        part.zv.objects[4]
    counts = held.node_count.values.copy()
    counts[[0, 1]] += [1, -1]
    with pytest.raises(dzv.InputError, match="not in the order"):
        held.assign_coords(node_count=("object", counts)).zv.objects[4]


def test_the_first_look_imports_no_dask_array(tmp_path):
    target = str(tmp_path / "points.zv")
    dzv.write_points(dzv.create(target, chunk_shape=(5, 5, 5)), np.eye(3), attributes={"mass": np.array([1.25, 2, 3])})
    look = """
import sys
import xarray as xr
ds = xr.open_dataset(sys.argv[1], engine="zv")
assert "mass" in ds._repr_html_()
assert repr(ds).count("...") >= 4
print(*{"dask.array", "distributed", "scipy"} & {*sys.modules})
"""
    command = [sys.executable, "-W", "ignore", "-c", look, target]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == []
    ds = xr.open_dataset(target, engine="zv")
    assert "values with dtype" in repr(ds.mass)
    assert "1.25" in repr(ds.load())


def test_columns_that_are_read_in_overlapping_runs_read_each_chunk_once():
    from conftest import counted_store

    made = counted_store()
    rows = dzv.open(made.target).level(0).read(order="chunk")
    ds = made.open(drop_variables="maybe")
    n = ds.sizes["vertex"]
    rng = np.random.default_rng(3)
    picks = [
        slice(n // 4, n // 2),
        slice(n // 3, n),
        np.sort(rng.permutation(n)[:50]),
        slice(0, 10),
        slice(None),
        slice(5, n - 5),
    ]

    def look(pick: Any) -> None:
        for axis, name in enumerate("xyz"):
            np.testing.assert_array_equal(ds[name].isel(vertex=pick).to_numpy(), rows.positions[pick][:, axis])

    def all_at_once() -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(look, picks * 2))

    blobs, _ = blobs_of(made.target, all_at_once)
    assert set(blobs.values()) == {1}
    assert {array for array, _ in blobs} == {"vertices", "vertex_fragments"}


def test_what_chunks_hold_is_kept_within_a_limit():
    reads: list[int] = []

    def make(chunks: NDArray[np.intp]) -> NDArray[np.intp]:
        if failing and 7 in chunks:
            raise OSError("gone")
        reads.extend(chunks.tolist())
        return chunks * 10

    cache = RunCache(240, lambda values: values.nbytes, lambda values, places: values[places], np.concatenate)
    rng = np.random.default_rng(4)
    failing = False
    for number in range(300):
        chunks = np.sort(rng.permutation(60)[: rng.integers(0, 25)])
        failing = number % 3 == 0
        try:
            found = cache.get(("level", number % 2), 60, chunks, make)
        except OSError:
            continue
        assert found.tolist() == (chunks * 10).tolist()
    failing = False
    for _ in range(2):  # what was read last is there
        assert cache.get("other", 60, np.arange(20), make).tolist() == list(range(0, 200, 10))
    assert reads.count(19) == reads[:-20].count(19) + 1
    before = len(reads)
    cache.get(("level", 0), 60, np.arange(60), make)  # 480 bytes: others are forgotten, what is asked for is held
    cache.get("other", 60, np.arange(20), make)
    assert len(reads) > before + 20
    assert cache.get(("level", 0), 70, np.arange(70), make).tolist() == list(range(0, 700, 10))
