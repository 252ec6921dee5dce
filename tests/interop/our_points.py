"""Stores of points that we write, in both layouts, for the packages of both generations to read; and what they find compared."""

from __future__ import annotations

from functools import partial

import dask.array as da
import numpy as np
import pandas as pd
from geometry_inputs import CHUNK

import dask_zv as dzv

N = 200


def same(actual, expected, what=""):
    """Compare to the bit; strings that are missing are None."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"{what}: {actual.shape} is not {expected.shape}"
    if expected.dtype.kind in "OU":
        assert actual.tolist() == expected.tolist(), what
        return
    assert actual.dtype == expected.dtype, f"{what}: {actual.dtype} is not {expected.dtype}"
    np.testing.assert_array_equal(actual, expected, err_msg=what)


def column(found, key):
    """Return an array that the peer gave, with None for what is missing."""
    values = found[key]
    if f"missing__{key}" in found:
        values = values.astype(object)
        values[found[f"missing__{key}"]] = None
    return values


def rows_in(positions, among):
    """Return the row in `among` of each position; every one is there, and none twice."""
    row_of = {p.tobytes(): row for row, p in enumerate(np.ascontiguousarray(among))}
    assert len(row_of) == len(among)
    assert positions.dtype == among.dtype
    rows = np.array([row_of[p.tobytes()] for p in np.ascontiguousarray(positions)], np.int64)
    assert len(np.unique(rows)) == len(rows)
    return rows


def points_of(n=N, ndim=3, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).uniform(-60, 60, (n, ndim)).astype(dtype)


def attributes_of(n=N):
    rng = np.random.default_rng(1)
    return {
        "mass": rng.normal(size=n),
        "count": rng.integers(-(2**60), 2**60, n),
        "half": rng.normal(size=n).astype(np.float16),
        "nan": np.resize(np.array([np.nan, -np.inf, 0.0], np.float32), n),
        "flag": rng.random(n) > 0.5,
        "rgb": rng.integers(0, 255, (n, 3), dtype=np.uint8),
        "single": rng.random((n, 1)),
        "vector": rng.normal(size=(n, 2)),
        "small": rng.integers(0, 255, n, dtype=np.uint8),
        "kind": np.array(["soma", "axon", "µ ☃"])[rng.integers(0, 3, n)],
        "maybe": np.array(["b", None, "a"], object)[rng.integers(0, 3, n)],
        "when": np.datetime64("2026-03-01", "ns") + rng.integers(0, 10**15, n).astype("m8[ns]"),
        "lasted": rng.integers(-(10**6), 10**6, n).astype("m8[ms]"),
        "wave": rng.normal(size=n) + 1j * rng.normal(size=n),
    }


IDS = (3, 7, 19, 41, 100)
DENSE = tuple(range(19))
"""Ids of objects: layout per_chunk, and who reads it, counts them from 0."""


def owners_of(ids=IDS):
    return np.random.default_rng(2).permutation(np.resize(ids, N))


OWNERS = owners_of()
TABLE = pd.DataFrame({"score": [0.5, 1.5, 2.5, 3.5, 4.5], "rank": np.arange(5) - 2}, index=list(IDS))
GROUPS = {0: [3, 100], 1: [7, 19, 41], 3: [41]}


def write(target, positions, *, mode="error", attributes=None, owners=None, table=None, groups=None, **creation):
    creation = {"chunk_shape": CHUNK, "layout": "grid", **creation}
    store = dzv.create(target, **creation)
    more = {k: v for k, v in {"object_ids": owners, "object_attributes": table, "groups": groups}.items() if v is not None}
    dzv.write_points(store, positions, attributes=attributes or {}, mode=mode, **more)
    return store


def objects_of(layout="grid"):
    """Return objects as `write` takes them."""
    if layout == "grid":
        return {"owners": OWNERS, "table": TABLE, "groups": GROUPS}
    table = {"score": np.linspace(0, 1, len(DENSE), dtype=np.float32), "vec": np.arange(2 * len(DENSE)).reshape(-1, 2)}
    return {"owners": owners_of(DENSE), "table": table, "groups": {0: [1, 2, 18], 2: [0]}}


def make_plain(target, offset=0, **creation):
    write(target, points_of() + np.float32(offset), attributes=attributes_of(), **creation)


def make_bare(target, n=N, **creation):
    write(target, points_of(n), **creation)


def make_objects(target, layout, **creation):
    write(target, points_of(), attributes=attributes_of(), **objects_of(layout), layout=layout, **creation)


def make_flat(target, **creation):
    axes = [{"name": "row", "type": "space", "unit": "metre"}, {"name": "col", "type": "space", "unit": "metre"}]
    creation |= {"chunk_shape": (40, 20), "axes": axes, "crs": {"type": "EPSG", "code": 32632}}
    positions = points_of(ndim=2, dtype=np.float64)
    write(target, positions, attributes={"mass": np.arange(N)}, owners=np.arange(N) % 7, **creation)


def make_four(target, **creation):
    write(target, points_of(ndim=4), attributes={"mass": np.arange(N)}, chunk_shape=(40, 60, 120, 40), **creation)


def make_integers(target, **creation):
    positions = np.unique(points_of(1000).astype(np.int32), axis=0)[::5]
    write(target, positions, attributes={"mass": np.arange(len(positions))}, **creation)


def make_masked(target, layout):
    ids = IDS if layout == "grid" else DENSE
    table = pd.DataFrame({"score": [0.5, 1.5], "small": np.array([1, 2], np.uint8)}, index=[ids[2], ids[4]])
    write(target, points_of(), owners=owners_of(ids), table=table, layout=layout)


def make_many_objects(target, layout):
    """As many objects as take two stored chunks of manifests."""
    n = 17_000
    owners = np.arange(n)[::-1]
    write(target, points_of(n), owners=owners * 3 + 5 if layout == "grid" else owners, layout=layout)


def make_overwritten(target, layout):
    """Smaller than what was there, with other bounds, and without its objects and attributes."""
    before = {**attributes_of(), "old": np.arange(N)}
    store = write(target, points_of() * 2, attributes=before, **objects_of(layout), layout=layout)
    dzv.write_points(store, points_of(), attributes=attributes_of(), mode="overwrite")


def make_overwritten_otherwise(target, **creation):
    """An attribute of the same name and another kind."""
    store = write(target, points_of(), attributes={"mass": np.full(N, "x"), "kind": np.ones((N, 3))}, **creation)
    dzv.write_points(store, points_of(), attributes={"mass": np.arange(N), "kind": np.arange(N) * 0.5}, mode="overwrite")


def make_lazily(target, **creation):
    lazy = {k: da.from_array(v, chunks=(70, *v.shape[1:])) for k, v in attributes_of().items()}
    write(target, da.from_array(points_of(), chunks=(70, 3)), attributes=lazy, **creation)


def make_appended(target, *, objects=False, **creation):
    """Three days of points; with objects, of the second some are new and some grow, and of the third the values are missing."""
    days = np.split(np.argsort(points_of()[:, 0] >= 0, kind="stable"), [N // 2, N - 20])
    names = [n for n in attributes_of() if not objects or n not in ("flag", "count")]
    for day, at in enumerate(days):
        given = {n: attributes_of()[n][at] for n in (["rgb", "small"] if objects and day == 2 else names)}
        store = dzv.create(target, **{"chunk_shape": CHUNK, "layout": "grid", "exist_ok": True, **creation})
        about = {}
        if objects:
            about = {
                "object_ids": np.resize(np.array(IDS[: 3 + day]), len(at)),
                "object_attributes": TABLE.loc[list(IDS[: 3 + day])],
            }
        how = {"on_existing": "extend" if objects and day else "error", "fill_missing": objects and day == 2} if day else {}
        dzv.write_points(store, points_of()[at], attributes=given, mode="append", **about, **how)


make_bins = partial(make_plain, bin_shape=(20.0, 60.0, 40.0))
BOTH = {
    "plain": make_plain,
    "bare": make_bare,
    "bins": make_bins,
    "two_axes": make_flat,
    "objects": make_objects,
    "masked": make_masked,
    "many_objects": make_many_objects,
    "overwritten": make_overwritten,
    "overwritten_otherwise": make_overwritten_otherwise,
    "double": partial(make_plain, dtype="float64"),
    "packed": partial(make_plain, shard_chunks=3),
}
"""Stores that layout and package make no difference to."""

MAKERS = {
    "per_chunk": BOTH
    | {
        "four_axes": make_four,
        "lazily": make_lazily,
        "packed_bins": partial(make_bins, shard_chunks=1000),
        "packed_objects": partial(make_objects, shard_chunks=3),
    },
    "grid": BOTH
    | {
        "raw": partial(make_plain, compressor=None),
        "blosc": partial(make_plain, compressor="blosc"),
        "packed_whole": partial(make_plain, shard_chunks=1000, compressor=None),
        "packed_tuple": partial(make_plain, shard_chunks=(3, 1, 2), compressor="blosc"),
        "packed_bins": partial(make_bins, shard_chunks=4),
        "packed_objects": partial(make_objects, shard_chunks=(2, 2, 1)),
        "raw_objects": partial(make_objects, compressor=None),
        "bins_and_objects": partial(make_objects, bin_shape=(20.0, 60.0, 40.0)),
        "packed_two_axes": partial(make_flat, shard_chunks=(2, 3)),
        "four_axes": partial(make_four, shard_chunks=(2, 1, 2, 3)),
        "integers": make_integers,
        "lone": partial(make_bare, n=1),
        "appended": make_appended,
        "appended_objects": partial(make_appended, objects=True),
        "appended_bins": partial(make_appended, bin_shape=(20.0, 60.0, 40.0)),
        "appended_packed": partial(make_appended, objects=True, shard_chunks=(3, 1, 2)),
        "lazily": partial(make_lazily, shard_chunks=3),
        "declared": partial(make_plain, bounds=([-500.0] * 3, [500.0] * 3), shard_chunks=64),  # the grid is theirs,
        "elsewhere": partial(make_plain, offset=-4000, shard_chunks=(3, 1, 2)),
    },
}
"""Functions that write a store of each name, by layout; they take the target and the layout."""
