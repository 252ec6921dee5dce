"""What goes in comes out: every kind of input, attribute and option of ``write_points``."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import zarr
from dask.base import tokenize
from layouts import in_both_layouts
from points_reference import (
    CATALOG,
    assert_same,
    chunk_counts,
    directories,
    files,
    in_box,
    object_order,
    reading_order,
    stored,
)

import dask_zv as dzv
from dask_zv.read.columns import LevelRows

N = 400
CHUNK = (25.0, 20.0, 40.0)
AXES = ("x", "y", "z")
INPUTS = ["numpy", "dask", "dask uneven", "dask unknown", "pandas", "dask frame", "dask frame unknown"]


@pytest.fixture(autouse=True)
def _threads():
    with dask.config.set(scheduler="threads", num_workers=2):
        yield


@pytest.fixture
def points():
    """Positions on both sides of zero; no order in space."""
    return np.random.default_rng(1).uniform(-25, 40, (N, 3)).astype(np.float32)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "s.zv"


def frame_of(positions, attributes, ids, axes):
    columns = {a: positions[:, i] for i, a in enumerate(axes)}
    columns.update(attributes or {})
    if ids is not None:
        columns["id"] = ids
    return pd.DataFrame(columns)


def put_in(kind, positions, attributes=None, ids=None, axes=AXES):
    """Return the arguments of ``write_points`` for one kind of input with the same rows in the same order."""
    attributes = attributes or {}
    if "pandas" in kind or "frame" in kind:
        frame = frame_of(positions, attributes, ids, axes)
        out = {"attributes": None if attributes else []}
        if ids is not None:
            out["object_ids"] = "id"
        if kind == "pandas":
            return {"positions": frame, **out}
        if kind == "dask frame":
            return {"positions": dd.from_pandas(frame, npartitions=5, sort=False), **out}
        frame["keep"] = True
        extra = frame.iloc[::7].assign(keep=False)  # rows that are filtered out again, so that no length is known
        both = pd.concat([frame, extra]).sort_index(kind="stable").reset_index(drop=True)
        lazy = dd.from_pandas(both, npartitions=5, sort=False)
        lazy = lazy[lazy["keep"]].drop(columns="keep")
        return {"positions": lazy, **out}
    arrays = {"positions": positions, **{f"a{k}": v for k, v in attributes.items()}}
    if ids is not None:
        arrays["ids"] = ids
    if kind == "dask":
        arrays = {k: da.from_array(v, chunks=(90, *np.shape(v)[1:])) for k, v in arrays.items()}
    elif kind == "dask uneven":  # every array cut another way, positions between their axes too
        arrays = {
            k: da.from_array(v, chunks=(90 + 17 * i, *(1 for _ in np.shape(v)[1:]))) for i, (k, v) in enumerate(arrays.items())
        }
    elif kind == "dask unknown":
        n = len(positions)
        rows = np.sort(np.r_[np.arange(n), np.arange(0, n, 7)])
        keep = np.diff(rows, prepend=-1) != 0
        mask = da.from_array(keep, chunks=90)
        arrays = {k: da.from_array(np.asarray(v)[rows], chunks=(90, *np.shape(v)[1:]))[mask] for k, v in arrays.items()}
        assert np.isnan(arrays["positions"].chunks[0]).all()
    out = {"positions": arrays.pop("positions")}
    if ids is not None:
        out["object_ids"] = arrays.pop("ids")
    if attributes:
        out["attributes"] = {k.removeprefix("a"): v for k, v in arrays.items()}
    return out


def check_read(target, positions, attributes=None, ids=None, *, chunk=CHUNK, bins=None):
    """Open a store anew and compare all of it with the reference; return the geometry."""
    positions = np.asarray(positions)
    order = reading_order(positions, chunk, bins, ids)
    level = dzv.open(target).level(0)
    geometry = level.read()
    assert_same(geometry.positions, positions[order], "positions")
    assert set(geometry.attributes) == set(attributes or {})
    for name, values in (attributes or {}).items():
        assert_same(geometry.attributes[name], np.asarray(values)[order], name)
    if ids is None:
        assert geometry.object_ids is None
    else:
        assert_same(geometry.object_ids, np.asarray(ids, np.int64)[order], "object_ids")
        rows = object_order(positions, chunk, ids)
        by_object = level.read(order="object")
        assert_same(by_object.positions, positions[rows])
        assert_same(by_object.object_ids, np.asarray(ids, np.int64)[rows])
    counts = chunk_counts(positions, chunk)
    assert dict(zip(level.chunks.keys, level.chunks.rows.tolist(), strict=True)) == counts
    assert level.metadata.vertex_count == len(positions)
    check_catalog(target, len(counts))
    return geometry


def check_catalog(target, n_chunks):
    """The catalog says exactly what a look at every object says."""
    target = Path(target)
    with_catalog = dzv.open(target)
    assert (target / "0" / CATALOG / "c" / "0").is_file()
    assert len(with_catalog.level(0).chunks) == n_chunks
    bare = target.with_name(f"{target.name}.bare")
    shutil.rmtree(bare, ignore_errors=True)
    shutil.copytree(target, bare)
    shutil.rmtree(bare / "0" / CATALOG)
    without = dzv.open(bare)
    assert without.level(0).chunks.keys == with_catalog.level(0).chunks.keys
    assert without.level(0).chunks.rows.tolist() == with_catalog.level(0).chunks.rows.tolist()
    one, two = with_catalog.level(0).read(), without.level(0).read()
    assert_same(one.positions, two.positions)
    for name in one.attributes:
        assert_same(one.attributes[name], two.attributes[name])
    shutil.rmtree(bare)


# -------------------------------------------------------------------------------------------------- inputs


@in_both_layouts
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("with_ids", [False, True], ids=["plain", "objects"])
def test_every_input(layout, kind, with_ids, points, target):
    rng = np.random.default_rng(2)
    attributes = {
        "mass": rng.random(N),
        "label": np.array(["soma", "axon", "spine"])[rng.integers(0, 3, N)],
        "flag": rng.random(N) > 0.5,
    }
    ids = rng.permutation(np.arange(N) % 23) if with_ids else None
    store = dzv.create(target, chunk_shape=CHUNK, layout=layout)
    report = dzv.write_points(store, **put_in(kind, points, attributes, ids))
    check_read(target, points, attributes, ids)
    counts = chunk_counts(points, CHUNK)
    assert report.rows == N
    assert report.chunks == len(counts)
    assert report.objects == (23 if with_ids else 0)
    assert report.dropped == 0
    for name in ("vertices", "vertex_fragments", *(f"vertex_attributes/{a}" for a in attributes)):
        assert report.arrays[name] == len(counts)
    group = dzv.open(target).level(0).group
    assert report.nbytes == sum(len(group.read_bytes(a, k)) for a in report.arrays for k in group.list_chunks(a) if "vert" in a)
    assert f"{N:,} rows" in repr(report)


@pytest.mark.parametrize("kind", INPUTS)
def test_inputs_without_attributes(kind, points, target):
    store = dzv.create(target, chunk_shape=CHUNK)
    dzv.write_points(store, **put_in(kind, points))
    check_read(target, points)


@pytest.mark.parametrize("kind", INPUTS)
def test_rows_of_a_chunk_keep_the_order_of_the_input(kind, target):
    """All in one chunk: what comes out is the input."""
    points = np.random.default_rng(3).uniform(0, 8, (1000, 3))
    store = dzv.create(target, chunk_shape=(10, 10, 10))
    dzv.write_points(store, **put_in(kind, points, {"row": np.arange(1000)}))
    geometry = dzv.open(target).level(0).read()
    assert geometry.attributes["row"].tolist() == list(range(1000))
    assert_same(geometry.positions, points)


def test_filtered_by_position(points, target):
    """The users' way to unknown lengths: x[x[:, 0] > 0], attributes filtered by the same mask."""
    lazy = da.from_array(points, chunks=(64, 3))
    mass = da.from_array(np.arange(N, dtype=np.int32), chunks=64)
    mask = lazy[:, 0] > 0
    store = dzv.create(target, chunk_shape=CHUNK)
    report = dzv.write_points(store, lazy[mask], attributes={"mass": mass[mask]})
    keep = points[:, 0] > 0
    assert report.rows == keep.sum() < N
    check_read(target, points[keep], {"mass": np.arange(N, dtype=np.int32)[keep]})


def test_partitions_without_rows(points, target):
    """A filter that empties some partitions, the first and the last among them."""
    order = np.argsort(points[:, 0], kind="stable")
    lazy = da.from_array(points[order], chunks=(40, 3))
    keep = (points[order, 0] > -10) & (points[order, 0] < 20)
    label = np.array(["a", None, "b"], object)[np.arange(N) % 3]
    mask = (lazy[:, 0] > -10) & (lazy[:, 0] < 20)
    store = dzv.create(target, chunk_shape=CHUNK)
    dzv.write_points(store, lazy[mask], attributes={"label": da.from_array(label, chunks=40)[mask]})
    check_read(target, points[order][keep], {"label": label[keep]})


def test_dask_positions_with_attributes_in_memory(points, target):
    store = dzv.create(target, chunk_shape=CHUNK)
    label = np.array(["a", "bb"])[np.arange(N) % 2]
    ids = np.arange(N) % 7
    vec = np.arange(2 * N).reshape(N, 2)
    dzv.write_points(store, da.from_array(points, chunks=(77, 3)), attributes={"label": label, "vec": vec}, object_ids=ids)
    check_read(target, points, {"label": label, "vec": vec}, ids)


def test_columns_by_name(points, target):
    frame = frame_of(points, {"mass": np.arange(N), "extra": np.arange(N) * 2.0}, np.arange(N) % 3, AXES)
    for positions in (frame, dd.from_pandas(frame, npartitions=3)):
        store = dzv.create(target, chunk_shape=CHUNK, overwrite=True)
        dzv.write_points(store, positions, attributes=["extra"], object_ids="id")
        check_read(target, points, {"extra": np.arange(N) * 2.0}, np.arange(N) % 3)
        store = dzv.create(target, chunk_shape=CHUNK, overwrite=True)
        dzv.write_points(store, positions, attributes=["id"])  # a column like any other
        check_read(target, points, {"id": np.arange(N) % 3})


def test_a_frame_with_any_index_and_column_order(points, target):
    frame = frame_of(points, {"mass": np.arange(N)}, None, AXES)[["mass", "z", "x", "y"]]
    frame.index = np.random.default_rng(0).permutation(N) * 3
    store = dzv.create(target, chunk_shape=CHUNK)
    dzv.write_points(store, frame)
    check_read(target, points, {"mass": np.arange(N)})


def test_axes_of_different_dtypes(target):
    frame = pd.DataFrame(
        {"x": np.arange(50, dtype=np.int16), "y": np.linspace(0, 30, 50, dtype=np.float32), "z": np.arange(50) % 9}
    )
    wanted = np.stack([frame[a].to_numpy().astype(np.float64) for a in AXES], axis=1)
    for positions in (frame, dd.from_pandas(frame, npartitions=4)):
        store = dzv.create(target, chunk_shape=CHUNK, overwrite=True)
        dzv.write_points(store, positions)
        check_read(target, wanted)


def test_strided_and_foreign_endian_arrays(points, target):
    wide = np.repeat(points, 2, axis=0)[::2][:, ::-1]
    big = np.arange(N, dtype=">i4")
    store = dzv.create(target, chunk_shape=CHUNK)
    dzv.write_points(store, np.asfortranarray(wide).astype(">f4"), attributes={"big": big[::-1]})
    check_read(target, np.ascontiguousarray(points[:, ::-1]), {"big": np.arange(N, dtype=np.int32)[::-1]})


def test_lists_are_arrays(target):
    store = dzv.create(target, chunk_shape=(10, 10))
    dzv.write_points(store, [[1.0, 2.0], [3.0, 14.0]], attributes={"n": [1, 2], "s": ["a", "b"]}, object_ids=[1, 0])
    check_read(
        target, np.array([[1.0, 2.0], [3.0, 14.0]]), {"n": np.array([1, 2]), "s": np.array(["a", "b"])}, [1, 0], chunk=(10, 10)
    )


# -------------------------------------------------------------------------------------------------- attributes

_RNG = np.random.default_rng(5)
NUMBERS = {
    **{
        f"int {t}": _RNG.integers(np.iinfo(t).min, np.iinfo(t).max, N, dtype=t, endpoint=True) for t in ("i1", "i2", "i4", "i8")
    },
    **{f"uint {t}": _RNG.integers(0, np.iinfo(t).max, N, dtype=t, endpoint=True) for t in ("u1", "u2", "u4", "u8")},
    **{f"float {t}": _RNG.normal(size=N).astype(t) for t in ("f2", "f4", "f8")},
    "bool": _RNG.random(N) > 0.5,
    "complex": (_RNG.normal(size=N) + 1j * _RNG.normal(size=N)).astype("c8"),
    "complex double": _RNG.normal(size=N) + 1j * _RNG.normal(size=N),
    "nan and inf": np.resize(np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.5]), N),
    "datetime ns": np.datetime64("2026-03-01T00:00:00", "ns") + _RNG.integers(0, 10**15, N).astype("m8[ns]"),
    "datetime us": np.datetime64("1969-03-01", "us") + _RNG.integers(0, 10**15, N).astype("m8[us]"),
    "datetime days with NaT": np.resize(np.array(["2026-01-01", "NaT", "1850-12-31"], "M8[D]"), N),
    "timedelta": _RNG.integers(-(10**9), 10**9, N).astype("m8[ms]"),
}
CHANNELS = {
    "rgb": _RNG.integers(0, 255, (N, 3), dtype=np.uint8),
    "one": _RNG.random((N, 1)),
    "seven": _RNG.integers(-5, 5, (N, 7)).astype(np.int16),
    "flags": _RNG.random((N, 2)) > 0.5,
    "times": np.datetime64("2026-01-01", "s") + _RNG.integers(0, 10**6, (N, 2)).astype("m8[s]"),
}


@pytest.mark.parametrize("kind", ["numpy", "dask unknown", "pandas", "dask frame"])
def test_numbers(kind, points, target):
    attributes = dict(NUMBERS)
    if kind in ("pandas", "dask frame"):
        attributes.pop("datetime days with NaT")  # pandas knows no days
    store = dzv.create(target, chunk_shape=CHUNK)
    dzv.write_points(store, **put_in(kind, points, attributes))
    check_read(target, points, attributes)


@pytest.mark.parametrize("kind", ["numpy", "dask uneven", "dask unknown"])
def test_channels(kind, points, target):
    store = dzv.create(target, chunk_shape=CHUNK)
    dzv.write_points(store, **put_in(kind, points, CHANNELS))
    check_read(target, points, CHANNELS)
    rgb = zarr.open_group(target, mode="r")["0/vertex_attributes/rgb"]
    assert rgb.attrs["channel_names"] == ["ch0", "ch1", "ch2"]


STRINGS = {
    "fixed": np.array(["soma", "axon", "ünïcode ☃", ""])[_RNG.integers(0, 4, N)],
    "objects": np.array(["b", "a", "c"], object)[_RNG.integers(0, 3, N)],
    "missing": np.array(["b", None, "a"], object)[_RNG.integers(0, 3, N)],
    "nan": np.array(["b", np.nan, "a"], object)[_RNG.integers(0, 3, N)],
    "never": np.full(N, None, object),
    "one": np.full(N, "same"),
    "many": np.array([f"{i:04d}" for i in range(N)]),
    "300 and missing": np.resize(np.array([None, *map(str, range(299))], object), N),
}


def as_read(values):
    """Return strings as reading gives them: fixed width, or objects with None where some are missing."""
    values = np.asarray(values)
    if values.dtype.kind == "S":
        return values.astype("U")
    if values.dtype != object:
        return values
    missing = np.array([not isinstance(v, str) for v in values])
    if not missing.any():
        return values.astype(str)
    out = values.copy()
    out[missing] = None
    return out


@pytest.mark.parametrize("kind", ["numpy", "dask", "dask unknown", "pandas", "dask frame"])
def test_strings(kind, points, target):
    attributes = dict(STRINGS)
    expected = {k: as_read(v) for k, v in attributes.items()}
    store = dzv.create(target, chunk_shape=CHUNK)
    dzv.write_points(store, **put_in(kind, points, attributes))
    geometry = check_read(target, points, expected)
    assert None in geometry.attributes["missing"].tolist()
    root = zarr.open_group(target, mode="r")
    for name, dtype in (("fixed", "uint8"), ("missing", "int8"), ("many", "uint16"), ("300 and missing", "int16")):
        meta = dict(root[f"0/vertex_attributes/{name}"].attrs)
        assert meta["dtype"] == dtype
        assert meta["categories"] == sorted(meta["categories"])
        assert ("_FillValue" in meta) == ("missing" in name)
        assert meta["ordered"] is False


def test_bytes_and_numpy_strings(points, target):
    dtype = np.dtypes.StringDType()
    attributes = {
        "bytes": np.array([b"aa", b"b"])[np.arange(N) % 2],
        "variable": np.array(["x", "a longer one"], dtype)[np.arange(N) % 2],
    }
    store = dzv.create(target, chunk_shape=CHUNK)
    dzv.write_points(store, points, attributes=attributes)
    check_read(
        target, points, {"bytes": attributes["bytes"].astype("U2"), "variable": np.asarray(attributes["variable"], "U12")}
    )


def pandas_columns():
    rng = np.random.default_rng(8)
    low = pd.Categorical(np.array(["low", "high", "mid"])[rng.integers(0, 3, N)], ["low", "mid", "high"], ordered=True)
    gaps = pd.Categorical(np.array(["low", None, "high"], object)[rng.integers(0, 3, N)], ["low", "mid", "high"], ordered=True)
    loose = pd.Categorical(np.array(["q", "p"])[rng.integers(0, 2, N)], ["q", "unused", "p"])
    holes = pd.Categorical(np.array(["q", None], object)[rng.integers(0, 2, N)])
    return {
        "ordered": (low, np.asarray(low).astype("U4")),
        "ordered, missing": (gaps, np.asarray(gaps.astype(object))),
        "category": (loose, np.asarray(loose).astype("U1")),
        "category, missing": (holes, np.asarray(holes.astype(object))),
        "Int64": (pd.array(rng.integers(0, 9, N), "Int64"), None),
        "UInt8": (pd.array(rng.integers(0, 9, N), "UInt8"), None),
        "Float32": (pd.array(np.where(rng.random(N) > 0.3, 1.5, np.nan).tolist(), "Float32"), None),
        "boolean": (pd.array(rng.random(N) > 0.5, "boolean"), None),
        "int64[pyarrow]": (pd.array(rng.integers(0, 9, N).tolist(), "int64[pyarrow]"), None),
        "double[pyarrow]": (pd.array([None if i % 5 == 0 else i / 3 for i in range(N)], "double[pyarrow]"), None),
        "string": (pd.array(np.array(["a", "b"])[rng.integers(0, 2, N)].tolist(), "string"), None),
        "string, missing": (pd.array(["a" if i % 3 else None for i in range(N)], "string"), None),
        "string[pyarrow]": (pd.array(["a" if i % 3 else "ccc" for i in range(N)], "string[pyarrow]"), None),
        "str": (pd.array(["a" if i % 3 else "ccc" for i in range(N)], "str"), None),
        "dates": (pd.date_range("2026-01-01", periods=N, freq="h").to_numpy(), None),
    }


def expected_column(array, known):
    if known is not None:
        return (
            np.array([None if isinstance(v, float) else v for v in known.tolist()], object) if known.dtype == object else known
        )
    dtype = getattr(array.dtype, "numpy_dtype", array.dtype)
    if isinstance(dtype, np.dtype) and dtype.kind in "biuf":
        return np.asarray(
            pd.Series(array).to_numpy(dtype=dtype, na_value=np.nan) if dtype.kind == "f" else pd.Series(array).to_numpy(dtype)
        )
    if isinstance(dtype, np.dtype) and dtype.kind == "M":
        return array
    return as_read(pd.Series(array).astype(object).to_numpy())


@pytest.mark.parametrize("kind", ["pandas", "dask frame", "series"])
def test_pandas_columns(kind, points, target):
    columns = pandas_columns()
    expected = {k: expected_column(a, v) for k, (a, v) in columns.items()}
    store = dzv.create(target, chunk_shape=CHUNK)
    if kind == "series":
        dzv.write_points(store, points, attributes={k: pd.Series(a) for k, (a, _) in columns.items()})
    else:
        frame = frame_of(points, {k: a for k, (a, _) in columns.items()}, None, AXES)
        dzv.write_points(store, frame if kind == "pandas" else dd.from_pandas(frame, npartitions=4))
    check_read(target, points, expected)
    meta = dict(zarr.open_group(target, mode="r")["0/vertex_attributes/ordered, missing"].attrs)
    assert meta["categories"] == ["low", "mid", "high"]
    assert meta["ordered"] is True
    assert meta["_FillValue"] == -1
    meta = dict(zarr.open_group(target, mode="r")["0/vertex_attributes/category"].attrs)
    assert meta["categories"] == ["p", "q"]
    assert meta["ordered"] is False


def test_categoricals_beside_an_array(points, target):
    category = pd.Categorical(np.array(["b", "a"])[np.arange(N) % 2], ["b", "a"], ordered=True)
    store = dzv.create(target, chunk_shape=CHUNK)
    dzv.write_points(store, points, attributes={"c": category})
    check_read(target, points, {"c": np.asarray(category).astype("U1")})
    meta = dict(zarr.open_group(target, mode="r")["0/vertex_attributes/c"].attrs)
    assert (meta["categories"], meta["ordered"]) == (["b", "a"], True)


@in_both_layouts
@pytest.mark.parametrize(
    "name", ["mass (µg)", "a b", "0.1.2", "c", "__shard_000000", "data", "Überraschung", "x'y\"z", "%20", "a:b"]
)
def test_names_of_attributes(layout, name, points, target):
    store = dzv.create(target, chunk_shape=CHUNK, layout=layout)
    dzv.write_points(store, points, attributes={name: np.arange(N)})
    check_read(target, points, {name: np.arange(N)})


# -------------------------------------------------------------------------------------------------- objects


@in_both_layouts
def test_object_attributes_and_groups(layout, points, target):
    ids = np.random.default_rng(4).permutation(np.arange(N) % 17)
    attributes = {
        "score": np.linspace(0, 1, 17, dtype=np.float32),
        "vec": np.arange(34).reshape(17, 2),
    }
    if layout == "per_chunk":  # no boolean says that an object has none
        attributes["good"] = np.arange(17) % 3 == 0
    groups = {0: [1, 2, 16], 2: [0], 4: []}
    store = dzv.create(target, chunk_shape=CHUNK, layout=layout)
    report = dzv.write_points(store, points, object_ids=ids, object_attributes=attributes, groups=groups)
    assert report.objects == 17
    geometry = check_read(target, points, None, ids)
    assert geometry.object_index.tolist() == list(range(17))
    for name, values in attributes.items():
        assert_same(geometry.object_attributes[name], values, name)
        assert not np.ma.isMaskedArray(geometry.object_attributes[name])
    assert {g: m.tolist() for g, m in geometry.groups.items()} == {0: [1, 2, 16], 1: [], 2: [0], 3: [], 4: []}
    some = dzv.open(target).level(0).read(objects=[3, 9])
    assert set(some.object_ids.tolist()) == {3, 9}
    assert some.object_index.tolist() == [3, 9]
    assert_same(some.object_attributes["vec"], attributes["vec"][[3, 9]])


@in_both_layouts
def test_object_attributes_from_a_frame_leave_rows_masked(layout, points, target):
    ids = np.arange(N) % 10
    frame = pd.DataFrame({"score": [0.5, 0.25, 0.125], "n": np.array([7, 8, 9], np.int16)}, index=[4, 0, 7])
    store = dzv.create(target, chunk_shape=CHUNK, layout=layout)
    dzv.write_points(store, points, object_ids=ids, object_attributes=frame)
    geometry = check_read(target, points, None, ids)
    score = geometry.object_attributes["score"]
    assert np.ma.isMaskedArray(score)
    assert np.flatnonzero(~np.ma.getmaskarray(score)).tolist() == [0, 4, 7]
    assert score[[0, 4, 7]].tolist() == [0.25, 0.5, 0.125]
    assert geometry.object_attributes["n"].dtype == np.int16
    part = dzv.open(target).level(0).read(objects=[4, 5]).object_attributes["n"]
    assert part.tolist() == [7, None]


def test_objects_without_vertices(points, target):
    """A frame may describe more objects than have vertices: they exist, and are empty."""
    ids = np.arange(N) % 5
    frame = pd.DataFrame({"score": np.arange(8.0)}, index=np.arange(8))
    store = dzv.create(target, chunk_shape=CHUNK)
    report = dzv.write_points(store, points, object_ids=ids, object_attributes=frame, groups={0: [6]})
    assert report.objects == 8
    geometry = dzv.open(target).level(0).read()
    assert geometry.object_attributes["score"].tolist() == list(np.arange(8.0))
    assert len(dzv.open(target).level(0).read(objects=[6])) == 0
    by_object = dzv.open(target).level(0).read(objects=[6, 2], order="object")
    assert by_object.ids.tolist() == [2, 6]
    assert by_object.lengths.tolist() == [int((ids == 2).sum()), 0]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint64, ">i8"])
def test_dtypes_of_object_ids(dtype, points, target):
    ids = (np.arange(N) % 11).astype(dtype)
    store = dzv.create(target, chunk_shape=CHUNK)
    dzv.write_points(store, points, object_ids=ids)
    check_read(target, points, None, ids)


def test_many_objects_in_several_manifest_chunks(target):
    """More objects than one stored chunk of manifests holds (16,384), one vertex each."""
    n = 40_000
    points = np.random.default_rng(0).uniform(0, 100, (n, 2))
    ids = np.random.default_rng(1).permutation(n)
    store = dzv.create(target, chunk_shape=(50, 50))
    dzv.write_points(store, da.from_array(points, chunks=(9_000, 2)), object_ids=da.from_array(ids, chunks=9_000))
    level = dzv.open(target).level(0)
    by_object = level.read(order="object")
    assert by_object.ids.tolist() == list(range(n))
    assert (by_object.positions == points[np.argsort(ids)]).all()
    wanted = [0, 16_383, 16_384, 39_999]
    some = level.read(objects=wanted, order="object")
    assert (some.positions == points[np.argsort(ids)[wanted]]).all()


# -------------------------------------------------------------------------------------------------- axes, grid, dtype


@pytest.mark.parametrize("ndim", [2, 3, 4])
def test_axes_units_and_crs(ndim, target):
    axes = [
        {"name": "t", "type": "time", "unit": "second"},
        *({"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"[-3:]),
    ]
    axes = axes[4 - ndim :]
    crs = {"type": "EPSG", "code": 32632, "nested": {"a": [1, 2.5, None]}}
    points = np.random.default_rng(0).uniform(-9, 9, (200, ndim))
    names = tuple(a["name"] for a in axes)
    store = dzv.create(target, chunk_shape=(5,) * ndim, axes=axes, crs=crs)
    dzv.write_points(store, frame_of(points, {"v": np.arange(200)}, None, names))
    check_read(target, points, {"v": np.arange(200)}, chunk=(5,) * ndim)
    opened = dzv.open(target)
    assert opened.axes == names
    assert [a.unit for a in opened.metadata.axes] == [a["unit"] for a in axes]
    assert [a.type for a in opened.metadata.axes] == [a["type"] for a in axes]
    assert opened.metadata.crs == crs
    text = json.loads((target / "zarr.json").read_text())["attributes"]
    assert text["multiscales"][0]["axes"] == axes
    assert text["zarr_vectors"]["crs"] == crs


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i2", "i4", "i8", "u4"])
def test_dtypes_of_positions(dtype, target):
    points = np.random.default_rng(0).integers(0, 100, (150, 3)).astype(dtype)
    store = dzv.create(target, chunk_shape=CHUNK)
    dzv.write_points(store, points)
    check_read(target, points.astype(dtype if dtype[0] == "f" else np.result_type(dtype, "f4")))
    asked = dzv.create(target, chunk_shape=CHUNK, dtype=dtype, overwrite=True)
    dzv.write_points(asked, points)
    check_read(target, points)


def test_declared_dtype(points, target):
    store = dzv.create(target, chunk_shape=CHUNK, dtype="float64")
    dzv.write_points(store, points)
    check_read(target, points.astype(np.float64))
    store = dzv.create(target, chunk_shape=CHUNK, dtype="float32", overwrite=True)
    double = points.astype(np.float64) + 1e-7
    dzv.write_points(store, double)
    check_read(target, double.astype(np.float32))


def test_position_tolerance(target):
    """UTM northings lose a quarter of a metre in float32; who says so may have it."""
    points = np.array([[5_400_000.3, 12.0], [5_400_007.1, 13.0]])
    store = dzv.create(target, chunk_shape=(1000, 1000), dtype="float32")
    with pytest.raises(dzv.InputError, match="position_tolerance"):
        dzv.write_points(store, points)
    dzv.write_points(store, points, position_tolerance=0.5)
    check_read(target, points.astype(np.float32), chunk=(1000, 1000))


def test_chunks_go_by_the_position_as_stored(target):
    """A float64 position just below a boundary that rounds up to it as float32 belongs to the upper chunk."""
    below = np.nextafter(30.0, 0)
    store = dzv.create(target, chunk_shape=(10, 10), dtype="float32")
    dzv.write_points(store, np.array([[below, 1.0]]))
    assert dzv.open(target).level(0).chunks.keys == ["3.0"]
    assert len(dzv.open(target).level(0).read(bbox=([30, 0], [31, 2]))) == 1


@pytest.mark.parametrize("kind", ["numpy", "dask unknown"])
def test_bins(kind, points, target):
    bins = (12.5, 5.0, 40.0)
    store = dzv.create(target, chunk_shape=CHUNK, bin_shape=bins)
    dzv.write_points(store, **put_in(kind, points, {"row": np.arange(N)}))
    check_read(target, points, {"row": np.arange(N)}, bins=bins)
    text = json.loads((target / "zarr.json").read_text())["attributes"]["zarr_vectors"]
    assert text["base_bin_shape"] == list(bins)
    box = ([-3, -3, -3], [11, 12, 30])
    order = reading_order(points, CHUNK, bins)
    assert dzv.open(target).level(0).read(bbox=box).attributes["row"].tolist() == order[in_box(points, box)[order]].tolist()


def test_bins_with_objects(points, target):
    ids = np.arange(N) % 4
    store = dzv.create(target, chunk_shape=CHUNK, bin_shape=(5, 10, 20))
    dzv.write_points(store, points, object_ids=ids)
    check_read(target, points, None, ids)
    box = ([-3, -3, -3], [11, 12, 30])
    assert len(dzv.open(target).level(0).read(bbox=box)) == in_box(points, box).sum()


def test_negative_coordinates(target):
    points = -np.random.default_rng(0).uniform(0, 50, (200, 3))
    points[0], points[1] = (-25.0, -20.0, -40.0), (-50.0, -40.0, -40.0)  # on boundaries
    store = dzv.create(target, chunk_shape=CHUNK)
    dzv.write_points(store, points)
    check_read(target, points)
    assert (dzv.open(target).level(0).chunks.coords < 0).all()


def test_chunk_keys_sort_as_numbers(target):
    points = np.stack([np.arange(0, 130, 1.0), np.zeros(130)], axis=1)
    store = dzv.create(target, chunk_shape=(10, 10))
    dzv.write_points(store, points)
    assert dzv.open(target).level(0).chunks.keys == [f"{i}.0" for i in range(13)]
    assert_same(dzv.open(target).level(0).read().positions, points)


def test_far_from_the_origin(target):
    points = np.array([[1e15, -1e6], [1e15 + 1, -1e6], [0.0, 0.0]])
    store = dzv.create(target, chunk_shape=(1, 1))
    dzv.write_points(store, points)
    check_read(target, points, chunk=(1, 1))


# -------------------------------------------------------------------------------------------------- bounds


def test_bounds_come_from_the_data(points, target):
    store = dzv.create(target, chunk_shape=CHUNK)
    dzv.write_points(store, points)
    assert store.metadata.bounds[0] == tuple(points.min(axis=0).astype(float).tolist())
    assert store.metadata.bounds[1] == tuple(points.max(axis=0).astype(float).tolist())
    assert dzv.open(target).metadata.bounds == store.metadata.bounds


@pytest.mark.parametrize("kind", INPUTS)
def test_out_of_bounds(kind, points, target):
    box = ([-10.0, -10.0, -10.0], [20.0, 20.0, 20.0])
    inside = in_box(points, box)
    ids = np.zeros(N, np.int64)
    ids[inside] = np.arange(inside.sum()) % 9
    ids[~inside] = 10**6  # ids of what is left out don't count
    attributes = {"row": np.arange(N), "s": np.where(inside, "in", "out")}
    store = dzv.create(target, chunk_shape=CHUNK, bounds=box)
    before = files(target)
    with pytest.raises(dzv.BoundsError, match="out_of_bounds='ignore'"):
        dzv.write_points(store, **put_in(kind, points, attributes, ids))
    assert files(target) == before
    report = dzv.write_points(store, **put_in(kind, points, attributes, ids), out_of_bounds="ignore")
    assert report.rows == inside.sum()
    assert report.dropped == (~inside).sum() > 0
    check_read(target, points[inside], {"row": np.arange(N)[inside], "s": np.full(inside.sum(), "in")}, ids[inside])
    assert dzv.open(target).metadata.bounds == (tuple(box[0]), tuple(box[1]))


def test_bounds_are_inclusive(target):
    box = ([0.0, 0.1], [10.0, 0.3])
    points = np.array([[0.0, 0.1], [10.0, 0.3], [5.0, 0.2]])
    for dtype in ("f8", "f4"):  # float32's 0.1 is above 0.1 and its 0.3 too
        store = dzv.create(target, chunk_shape=(10, 10), bounds=box, overwrite=True)
        dzv.write_points(store, points.astype(dtype))
        check_read(target, points.astype(dtype), chunk=(10, 10))


def test_nothing_left_inside_the_bounds(points, target):
    store = dzv.create(target, chunk_shape=CHUNK, bounds=([1000] * 3, [1001] * 3))
    report = dzv.write_points(store, points, out_of_bounds="ignore", attributes={"a": np.arange(N), "s": np.full(N, "x")})
    assert (report.rows, report.chunks, report.dropped) == (0, 0, N)
    geometry = dzv.open(target).level(0).read()
    assert geometry.positions.shape == (0, 3)
    assert geometry.attributes["a"].dtype == np.int64


# -------------------------------------------------------------------------------------------------- modes


def test_mode_error(points, target):
    store = dzv.create(target, chunk_shape=CHUNK)
    dzv.write_points(store, points)
    before = files(target)
    for again in (store, dzv.open(target, mode="r+")):
        with pytest.raises(dzv.StoreError, match="mode='overwrite'"):
            dzv.write_points(again, points)
    assert files(target) == before


@in_both_layouts
@pytest.mark.parametrize("shards", [1, 4])
def test_overwrite_removes_what_was(layout, shards, points, target):
    """Old chunks, attributes, objects and groups are gone; what is left is what a fresh store would hold."""
    ids = np.arange(N) % 40
    store = dzv.create(target, chunk_shape=CHUNK, layout=layout, shard_chunks=shards)
    dzv.write_points(
        store,
        points,
        attributes={"old": np.arange(N), "both": np.full(N, "x")},
        object_ids=ids,
        object_attributes={"o": np.arange(40), "p": np.arange(40.0)},
        groups={0: [1, 2]},
    )
    few = points[:50] * 0.3
    attributes = {"both": np.arange(50) * 0.5, "new": np.arange(50)}
    report = dzv.write_points(store, few, attributes=attributes, mode="overwrite")
    assert report.rows == 50
    check_read(target, few, attributes)
    assert store.level(0).attributes == ("both", "new")
    fresh = target.parent / "fresh" / target.name
    other = dzv.create(fresh, chunk_shape=CHUNK, layout=layout, shard_chunks=shards)
    dzv.write_points(other, few, attributes=attributes)
    assert stored(target) == stored(fresh)
    if layout == "per_chunk":
        assert {d for d in directories(target) if d not in directories(fresh)} == set()


@in_both_layouts
@pytest.mark.parametrize("shards", [1, 4])
def test_overwrite_objects_with_fewer(layout, shards, points, target):
    store = dzv.create(target, chunk_shape=CHUNK, layout=layout, shard_chunks=shards)
    n = 20_000  # manifests in two stored chunks, then in one
    many = np.random.default_rng(0).uniform(-20, 20, (n, 3)).astype(np.float32)
    dzv.write_points(store, many, object_ids=np.arange(n), object_attributes={"a": np.arange(n)}, groups={0: [1], 1: [5]})
    ids = np.arange(N) % 9
    frame = pd.DataFrame({"b": [1.5]}, index=[3])
    dzv.write_points(store, points, object_ids=ids, object_attributes=frame, mode="overwrite")
    geometry = check_read(target, points, None, ids)
    assert list(geometry.object_attributes) == ["b"]
    assert not geometry.groups
    fresh = target.parent / "fresh" / target.name
    dzv.write_points(
        dzv.create(fresh, chunk_shape=CHUNK, layout=layout, shard_chunks=shards),
        points,
        object_ids=ids,
        object_attributes=frame,
    )
    assert stored(target) == stored(fresh)


@in_both_layouts
def test_overwrite_drops_an_old_presence_mask(layout, points, target):
    ids = np.arange(N) % 9
    store = dzv.create(target, chunk_shape=CHUNK, layout=layout)
    dzv.write_points(store, points, object_ids=ids, object_attributes=pd.DataFrame({"b": [1.5]}, index=[3]))
    dzv.write_points(store, points, object_ids=ids, object_attributes={"b": np.arange(9.0)}, mode="overwrite")
    values = dzv.open(target).level(0).read().object_attributes["b"]
    assert not np.ma.isMaskedArray(values)
    assert values.tolist() == list(np.arange(9.0))
    fresh = target.parent / "fresh" / target.name
    dzv.write_points(
        dzv.create(fresh, chunk_shape=CHUNK, layout=layout), points, object_ids=ids, object_attributes={"b": np.arange(9.0)}
    )
    assert stored(target) == stored(fresh)


def test_overwrite_changes_metadata_of_an_attribute(points, target):
    """Channels and categories of the old attribute must not cling to the new one."""
    store = dzv.create(target, chunk_shape=CHUNK)
    names = np.array(["a", None], object)[np.arange(N) % 2]
    dzv.write_points(store, points, attributes={"a": np.ones((N, 3)), "b": names})
    dzv.write_points(store, points, attributes={"a": np.arange(N), "b": np.arange(N, dtype=np.int8)}, mode="overwrite")
    check_read(target, points, {"a": np.arange(N), "b": np.arange(N, dtype=np.int8)})
    dzv.write_points(store, points, attributes={"a": names, "b": np.ones((N, 3))}, mode="overwrite")
    check_read(target, points, {"a": names, "b": np.ones((N, 3))})


@in_both_layouts
def test_overwrite_twice_gives_the_same_bytes(layout, points, target):
    store = dzv.create(target, chunk_shape=CHUNK, layout=layout)
    dzv.write_points(store, points, attributes={"a": np.arange(N)}, object_ids=np.arange(N) % 5)
    before = stored(target)
    dzv.write_points(store, points, attributes={"a": np.arange(N)}, object_ids=np.arange(N) % 5, mode="overwrite")
    assert stored(target) == before


@in_both_layouts
def test_overwrite_with_nothing(layout, points, target):
    store = dzv.create(target, chunk_shape=CHUNK, layout=layout)
    dzv.write_points(store, points, attributes={"a": np.arange(N)}, object_ids=np.arange(N) % 5)
    report = dzv.write_points(store, points[:0], mode="overwrite")
    assert (report.rows, report.chunks) == (0, 0)
    geometry = dzv.open(target).level(0).read()
    assert len(geometry) == 0
    assert not geometry.attributes
    assert geometry.object_ids is None


@in_both_layouts
def test_overwriting_a_write_that_died(layout, points, target):
    """Chunks without a commit: refused in mode "error" where they can be seen, replaced in mode "overwrite"."""
    store = dzv.create(target, chunk_shape=CHUNK, layout=layout)
    before = files(target)
    dzv.write_points(store, points)
    written = files(target)
    for name in written:
        document = layout == "grid" and name.endswith("zarr.json")
        if name not in before and ("/vert" not in name or CATALOG in name or document):
            (target / name).unlink()
    for name, data in before.items():
        (target / name).write_bytes(data)
    shutil.rmtree(target / "0" / CATALOG)
    store = dzv.open(target, mode="r+")
    if layout == "per_chunk":
        with pytest.raises(dzv.StoreError, match="did not reach its commit"):
            dzv.write_points(store, points[:10])
    else:  # cells that no document lists are in nobody's way
        dzv.write_points(store, points[:10])
        check_read(target, points[:10])
    dzv.write_points(store, points[:10], mode="overwrite")
    check_read(target, points[:10])


@pytest.mark.parametrize(
    "name", ["points_attr_chunked", "points_objects", "points_bins_negative_shard_snake", "points_categorical"]
)
def test_overwriting_a_store_of_the_peer(name, target):
    """Whatever its chunk keys, shards and objects were, nothing of them clings to ours."""
    archive = Path(__file__).parents[1] / "data" / "golden_0.7" / f"{name}.zarrvectors.zip"
    shutil.unpack_archive(archive, target)
    store = dzv.open(target, mode="r+")
    chunk, bins = store.metadata.chunk_shape, store.metadata.bin_shape
    middle = np.mean(store.metadata.bounds, axis=0)
    points = (middle + np.random.default_rng(0).normal(0, 1, (30, store.metadata.ndim))).astype(np.float32)
    attributes = {"v": np.arange(30), "label": np.arange(30.0)}
    dzv.write_points(store, points, attributes=attributes, mode="overwrite", out_of_bounds="ignore")
    check_read(target, points, attributes, chunk=chunk, bins=bins)
    ids = np.arange(30) % 3
    dzv.write_points(store, points, object_ids=ids, mode="overwrite")
    check_read(target, points, None, ids, chunk=chunk)


def test_overwrite_objects_with_none(points, target):
    """An object index without objects holds no manifests of the old ones."""
    store = dzv.create(target, chunk_shape=CHUNK)
    dzv.write_points(store, points, object_ids=np.arange(N) % 5, object_attributes={"a": np.arange(5)})
    dzv.write_points(store, points[:0], object_ids=np.zeros(0, int), mode="overwrite")
    fresh = target.with_name("fresh.zv")
    dzv.write_points(dzv.create(fresh, chunk_shape=CHUNK), points[:0], object_ids=np.zeros(0, int))
    assert dzv.open(target).level(0).read(order="object").ids.tolist() == []
    assert {n for n in files(target) if "object" in n} == {n for n in files(fresh) if "object" in n}


def test_objects_and_categories_that_change_places(target):
    """Every blob of the level stays as it was, so nothing kept in memory may go by the blobs alone."""
    points = np.array([[1.0, 1.0], [11.0, 11.0]])
    store = dzv.create(target, chunk_shape=(10, 10))
    tokens = set()
    for ids, names in (([0, 1], ["a", "b"]), ([1, 0], ["a", "b"]), ([0, 1], ["x", "y"])):
        dzv.write_points(store, points, object_ids=ids, attributes={"s": np.array(names)}, mode="overwrite")
        level = dzv.open(target).level(0)
        assert level.read().object_ids.tolist() == ids
        assert level.read().attributes["s"].tolist() == names
        tokens.add(tokenize(LevelRows(level.source, level.chunks)))
    assert len(tokens) == 3


@in_both_layouts
@pytest.mark.parametrize("shards", [1, 4])
def test_a_reader_that_was_opened_before_an_overwrite(layout, shards, points, target):
    """It gives what is there now, or says that it must be opened again; never new bytes by old dtypes."""
    store = dzv.create(target, chunk_shape=CHUNK, layout=layout, shard_chunks=shards)
    dzv.write_points(store, points, attributes={"a": np.arange(N, dtype=np.int32), "gone": np.arange(N)})
    level = dzv.open(target).level(0)
    before = level.read()
    dzv.write_points(store, points, attributes={"a": np.linspace(0, 1, N, dtype=np.float32)}, mode="overwrite")
    for names in (["a"], None, ["gone"]):
        with pytest.raises((dzv.FormatError, dzv.StoreError), match="open it again|is gone"):
            level.read(attributes=names)
    assert before.attributes["a"].dtype == np.int32
    check_read(target, points, {"a": np.linspace(0, 1, N, dtype=np.float32)})


def test_attributes_of_the_root_that_are_not_ours_stay(points, target):
    store = dzv.create(target, chunk_shape=CHUNK)
    store.group.attrs["user_metadata"] = {"who": {"cares": [1, 2]}}
    dzv.write_points(store, points)
    dzv.write_points(store, points, mode="overwrite")
    assert dzv.open(target).group.attrs["user_metadata"] == {"who": {"cares": [1, 2]}}


# -------------------------------------------------------------------------------------------------- empty input


@in_both_layouts
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("with_ids", [False, True], ids=["plain", "objects"])
def test_empty_input(layout, kind, with_ids, target):
    empty = np.zeros((0, 3), np.float32)
    attributes = {"a": np.zeros(0, np.int16), "s": np.zeros(0, "U3"), "when": np.zeros(0, "M8[s]")}
    ids = np.zeros(0, np.int64) if with_ids else None
    store = dzv.create(target, chunk_shape=CHUNK, layout=layout)
    report = dzv.write_points(store, **put_in(kind, empty, attributes, ids))
    assert (report.rows, report.chunks, report.objects) == (0, 0, 0)
    level = dzv.open(target).level(0)
    geometry = level.read()
    assert geometry.positions.shape == (0, 3)
    assert geometry.positions.dtype == np.float32
    assert geometry.attributes["a"].dtype == np.int16
    assert geometry.attributes["when"].dtype == np.dtype("M8[s]")
    assert len(geometry.attributes["s"]) == 0
    assert len(level.read(bbox=([0, 0, 0], [1, 1, 1]))) == 0
    if with_ids:
        assert len(geometry.object_ids) == 0
        assert level.read(order="object").ids.tolist() == []
    again = dzv.open(target, mode="r+")
    dzv.write_points(again, np.ones((2, 3), np.float32), mode="overwrite")
    check_read(target, np.ones((2, 3), np.float32))


def test_a_store_that_was_only_created(target):
    dzv.create(target, chunk_shape=CHUNK)
    level = dzv.open(target).level(0)
    assert len(level.read()) == 0
    assert len(level.chunks) == 0
    assert level.read(bbox=([0, 0, 0], [1, 1, 1])).positions.shape == (0, 3)


# -------------------------------------------------------------------------------------------------- lazily


def test_compute_false_joins_other_graphs(points, target, tmp_path):
    second = tmp_path / "t.zv"
    lazy = da.from_array(points, chunks=(64, 3))
    one = dzv.write_points(dzv.create(target, chunk_shape=CHUNK), lazy, compute=False)
    two = dzv.write_points(
        dzv.create(second, chunk_shape=CHUNK), lazy * 2, object_ids=da.arange(N, chunks=64) % 3, compute=False
    )
    assert not (target / "0" / "vertices").exists()
    assert not (second / "0" / "vertices").exists()
    report_one, report_two, total = dask.compute(one, two, lazy.sum())
    assert (report_one.rows, report_two.rows) == (N, N)
    assert report_two.objects == 3
    assert total == pytest.approx(points.sum(), rel=1e-3)
    check_read(target, points)
    check_read(second, points * 2, None, np.arange(N) % 3)


def test_compute_false_in_a_delayed(points, target):
    @dask.delayed
    def say(report):
        return f"{report.rows} rows"

    delayed = dzv.write_points(dzv.create(target, chunk_shape=CHUNK), points, compute=False)
    assert say(delayed).compute() == f"{N} rows"
    check_read(target, points)


@in_both_layouts
def test_a_graph_can_run_twice(layout, points, target):
    delayed = dzv.write_points(
        dzv.create(target, chunk_shape=CHUNK, layout=layout), da.from_array(points, chunks=(64, 3)), compute=False
    )
    delayed.compute()
    before = stored(target)
    delayed.compute()
    assert stored(target) == before
    check_read(target, points)


def test_the_store_object_sees_what_was_written(points, target):
    store = dzv.create(target, chunk_shape=CHUNK)
    assert store.level(0).metadata.vertex_count == 0
    dzv.write_points(store, points)
    assert store.level(0).metadata.vertex_count == N
    assert len(store.level(0).read()) == N
    assert f"{N:,} vertices" in repr(store)
    again = pickle.loads(pickle.dumps(store))
    assert len(again.level(0).read()) == N


def test_graph_is_proportional_to_blocks(target):
    """1000 chunks, few tasks: never one per chunk."""
    points = np.random.default_rng(0).uniform(0, 100, (20_000, 3)).astype(np.float32)
    store = dzv.create(target, chunk_shape=(10, 10, 10))
    delayed = dzv.write_points(store, points, compute=False)
    assert len(dict(delayed.__dask_graph__())) < 30
    report = delayed.compute()
    assert report.chunks == 1000
    assert report.blocks < 12


# -------------------------------------------------------------------------------------------------- shards


@in_both_layouts
@pytest.mark.parametrize("shards", [2, 4, 64, 10_000])
@pytest.mark.parametrize("with_ids", [False, True], ids=["plain", "objects"])
def test_shards(layout, shards, with_ids, points, target):
    ids = np.arange(N) % 6 if with_ids else None
    attributes = {"a": np.arange(N), "s": np.array(["x", None], object)[np.arange(N) % 2]}
    store = dzv.create(target, chunk_shape=CHUNK, layout=layout, shard_chunks=shards)
    report = dzv.write_points(store, **put_in("dask", points, attributes, ids))
    check_read(target, points, attributes, ids)
    if layout == "per_chunk":
        assert [n for n in directories(target / "0" / "vertices") if not n.startswith("__shard_")] == []
        text = json.loads((target / "zarr.json").read_text())["attributes"]
        assert (text["shard_layout"], text["shard_size"]) == ("octree", shards)
    else:
        cells = np.prod(zarr.open_array(target / "0" / "vertices", mode="r").shards)
        assert shards / 2 < cells <= shards or shards == 10_000
    assert report.stored_objects < report.chunks * 4
    box = ([-3, -3, -3], [11, 12, 30])
    assert len(dzv.open(target).level(0).read(bbox=box)) == in_box(points, box).sum()


@in_both_layouts
def test_shards_and_chunks_change_places(layout, points, target):
    """An overwrite with another shard size leaves no blob in two places."""
    attributes = {"a": np.arange(N)}
    for shards in (1, 8, 3, 1):
        if shards == 1 and not target.exists():
            store = dzv.create(target, chunk_shape=CHUNK, layout=layout, shard_chunks=shards)
        else:
            store = dzv.open(target, mode="r+")
            settings = store.group.attrs["dask_zv"]
            store.group.attrs["dask_zv"] = {**settings, "shard_chunks": shards}
            store.reload()
        dzv.write_points(store, points + shards, attributes=attributes, mode="overwrite")
        check_read(target, points + np.float32(shards), attributes)
        if layout == "per_chunk":
            names = {n.partition("/")[0] for n in directories(target / "0" / "vertices")}
            assert all(n.startswith("__shard_") == (shards > 1) for n in names)
        else:
            assert (zarr.open_array(target / "0" / "vertices", mode="r").shards is not None) == (shards > 1)


@in_both_layouts
def test_no_shards_for_few_local_chunks(layout, points, target):
    store = dzv.create(target, chunk_shape=CHUNK, layout=layout)
    dzv.write_points(store, points)
    if layout == "per_chunk":
        assert json.loads((target / "zarr.json").read_text())["attributes"]["shard_layout"] == "flat"
        assert not [n for n in directories(target) if "__shard_" in n]
    else:
        assert zarr.open_array(target / "0" / "vertices", mode="r").shards is None


# -------------------------------------------------------------------------------------------------- progress and stores


def test_progress(points, capsys):
    dzv.write_points(dzv.create({}, chunk_shape=CHUNK), points, progress=True)
    shown = capsys.readouterr()
    assert "1/1 blocks" in shown.err
    assert "MB/s" in shown.err
    dzv.write_points(dzv.create({}, chunk_shape=CHUNK), points)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "")


@in_both_layouts
def test_paths_with_any_name(layout, points, tmp_path):
    """Blanks, percent signs and letters of other alphabets, also where zarr itself opens the manifests."""
    target = tmp_path / "my cells %20 ü#1.zv"
    ids = np.arange(N) % 4
    dzv.write_points(dzv.create(target, chunk_shape=CHUNK, layout=layout), points, object_ids=ids)
    assert [p.name for p in tmp_path.iterdir()] == [target.name]
    check_read(target, points, None, ids)


@in_both_layouts
def test_icechunk(layout, points):
    icechunk = pytest.importorskip("icechunk")
    session = icechunk.Repository.create(icechunk.in_memory_storage()).writable_session("main")
    store = dzv.create(session, chunk_shape=CHUNK, layout=layout)
    ids = np.arange(N) % 9
    with dask.config.set(scheduler="sync"):
        dzv.write_points(store, points, object_ids=ids, object_attributes={"a": np.arange(9)}, groups={0: [8]})
        rows = object_order(points, CHUNK, ids)
        geometry = dzv.open(session).level(0).read(order="object")
        assert_same(geometry.positions, points[rows])
        assert geometry.groups[0].tolist() == [8]
        dzv.write_points(store, points[:50], object_ids=ids[:50] // 3, mode="overwrite")
    geometry = dzv.open(session).level(0).read(order="object")
    assert_same(geometry.positions, points[object_order(points[:50], CHUNK, ids[:50] // 3)])
    assert not geometry.groups


@in_both_layouts
def test_in_memory_stores(layout, points):
    for target in ({}, zarr.storage.MemoryStore(), f"memory://points/{layout}.zv"):
        store = dzv.create(target, chunk_shape=CHUNK, layout=layout)
        dzv.write_points(store, points, object_ids=np.arange(N) % 4)
        order = reading_order(points, CHUNK, None, np.arange(N) % 4)
        assert_same(dzv.open(target).level(0).read().positions, points[order])
        assert_same(store.level(0).read(objects=2).positions, points[order][(np.arange(N) % 4)[order] == 2])
