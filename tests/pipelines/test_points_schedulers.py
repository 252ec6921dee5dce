"""The same input gives the same store, object by object, on every scheduler; but for the times in a grid's catalog."""

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from layouts import in_both_layouts
from points_reference import CATALOG, assert_same, files, reading_order, stored
from small import always

import dask_zv as dzv

CHUNK = (25.0, 25.0, 25.0)
PARTS, ROWS = 8, 250
N = PARTS * ROWS
BOX = ([-30, -30, -30], [10, 20, 30])

# many blocks and partitions of little data; both are planned in this process, whatever the scheduler
_small = always(write_block_chunks=5, write_block_bytes=(3000, 1 << 20), partition_bytes=10_000)


def partition(number):
    """Return one partition's rows, made on the worker: points all over space, and one partition with none."""
    rng = np.random.default_rng(number)
    n = 0 if number == 5 else ROWS
    return {
        "positions": rng.uniform(-50, 50, (n, 3)).astype(np.float32),
        "mass": rng.normal(size=n),
        "rgb": rng.integers(0, 255, (n, 3), dtype=np.uint8),
        "kind": np.array(["soma", "axon", None, f"only in {number}"], object)[rng.integers(0, 4, n)],
        "id": rng.integers(0, 40, n),
    }


PART = dask.delayed(partition, pure=True)
EVERYTHING = [partition(i) for i in range(PARTS)]


def column(name):
    return np.concatenate([p[name] for p in EVERYTHING])


def lazy(name):
    """Return one column as a dask array of unknown lengths."""
    meta = EVERYTHING[0][name][:0]
    pieces = [da.from_delayed(PART(i)[name], (np.nan, *meta.shape[1:]), meta=meta) for i in range(PARTS)]
    return da.concatenate(pieces, allow_unknown_chunksizes=True)


def frame(number):
    found = partition(number)
    columns = {"kind": pd.Series(found["kind"], dtype=object), "id": found["id"]}
    return pd.DataFrame({**dict(zip("xyz", found["positions"].T, strict=True)), **columns})


def inputs(name):
    """Return the arguments of a write; nothing of them depends on the scheduler."""
    if name == "arrays":
        about = {"object_attributes": pd.DataFrame({"score": [0.5, 1.5]}, index=[7, 3]), "groups": {1: [0, 39]}}
        attributes = {k: lazy(k) for k in ("mass", "rgb", "kind")}
        return {"positions": lazy("positions"), "attributes": attributes, "object_ids": lazy("id"), **about}
    if name == "frame":
        made = dask.delayed(frame, pure=True)
        table = dd.from_delayed([made(i) for i in range(PARTS)], meta=frame(0).iloc[:0], verify_meta=False)
        return {"positions": table, "object_ids": None, "attributes": ["kind"]}
    return {"positions": column("positions"), "attributes": {"kind": column("kind"), "mass": column("mass")}}


def write(target, name, shards, bins, layout):
    store = dzv.create(target, chunk_shape=CHUNK, bin_shape=bins, shard_chunks=shards, layout=layout, overwrite=True)
    return dzv.write_points(store, **inputs(name))


CASES = [
    ("arrays", 1, None, "grid"),
    ("arrays", 4, None, "grid"),
    ("frame", 8, (12.5, 25.0, 5.0), "grid"),
    ("memory", 8, (12.5, 12.5, 12.5), "grid"),
    ("arrays", 1, None, "per_chunk"),
    ("arrays", 16, None, "per_chunk"),
    ("frame", 1, (12.5, 25.0, 5.0), "per_chunk"),
    ("memory", 1, None, "per_chunk"),
    ("memory", 1000, (12.5, 12.5, 12.5), "per_chunk"),
]


@pytest.fixture(scope="module", params=CASES, ids=lambda c: f"{c[0]}-{c[1]}-{'bins' if c[2] else 'plain'}-{c[3]}")
def expected(request, tmp_path_factory):
    """A store that was written synchronously, checked against the data, and how it was made."""
    name, shards, bins, _ = request.param
    target = tmp_path_factory.mktemp("expected") / "s.zv"
    with dask.config.set(scheduler="sync"):
        report = write(target, *request.param)
    assert report.rows == N - ROWS
    assert report.blocks > (5 if shards < 1000 else 1)
    points = column("positions")
    order = reading_order(points, CHUNK, bins, column("id") if name == "arrays" else None)
    geometry = dzv.open(target).level(0).read()
    assert_same(geometry.positions, points[order])
    assert geometry.attributes["kind"].tolist() == column("kind")[order].tolist()
    return request.param, stored(target), report


def facts(report):
    return report.rows, report.chunks, report.objects, report.nbytes, report.arrays


@pytest.mark.product(keep="values")
@pytest.mark.parametrize("scheduler", ["threads", "processes", "distributed", "in-process cluster"])
def test_same_objects(scheduler, expected, use_scheduler, tmp_path):
    how, wanted, report = expected
    target = tmp_path / "s.zv"
    with use_scheduler(scheduler):
        assert facts(write(target, *how)) == facts(report)
        # and reading on that scheduler gives what reading in this process does
        lazily = dzv.open(target).level(0).read(bbox=BOX, compute=False).compute()
    assert f"0/{CATALOG}/c/0" in files(target)
    found = stored(target)
    assert sorted(found) == sorted(wanted)
    assert [k for k in found if found[k] != wanted[k]] == []
    here = dzv.open(target).level(0).read(bbox=BOX)
    assert_same(lazily.positions, here.positions)
    assert 0 < len(here) < N


@in_both_layouts
def test_a_second_write_of_the_same_input_writes(use_scheduler, layout, tmp_path):
    """A scheduler that remembers the first write's results must not take them for the second's."""
    with use_scheduler("distributed"):
        write(tmp_path / "one.zv", "arrays", 1, None, layout)
        wanted = stored(tmp_path / "one.zv")
        write(tmp_path / "one.zv", "arrays", 1, None, layout)
    assert stored(tmp_path / "one.zv") == wanted


def test_an_error_on_a_worker_names_the_row(use_scheduler, tmp_path):
    store = dzv.create(tmp_path / "s.zv", chunk_shape=CHUNK)
    before = files(tmp_path)
    points = da.from_array(np.full((100, 3), 1.0), chunks=(25, 3))
    points[60, 1] = np.nan
    with use_scheduler("distributed"), pytest.raises(dzv.InputError, match="partition 2: position 10 is .*NaN"):
        dzv.write_points(store, points)
    assert files(tmp_path) == before
