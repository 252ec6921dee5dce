"""What goes in comes out: every kind of input, attribute and option of ``write_points``."""

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
import xarray as xr
import zarr
from forms import lazily, unknown
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

N = 400
CHUNK = (25.0, 20.0, 40.0)
AXES = ("x", "y", "z")
INPUTS = ("numpy", "dask", "dask uneven", "dask unknown", "pandas", "dask frame", "dask frame unknown")
POINTS = np.random.default_rng(1).uniform(-25, 40, (N, 3)).astype(np.float32)  # on both sides of zero, in no order in space
ROW = np.arange(N)
BOX = ([-3, -3, -3], [11, 12, 30])
of_every_input = pytest.mark.parametrize("kind", INPUTS)
with_and_without_objects = pytest.mark.parametrize("with_ids", [False, True], ids=["plain", "objects"])
shards_or_none = pytest.mark.parametrize("shards", [1, 4])


@pytest.fixture(autouse=True)
def _threads():
    with dask.config.set(scheduler="threads", num_workers=2):
        yield


@pytest.fixture
def target(tmp_path):
    return tmp_path / "s.zv"


def frame_of(positions, attributes=None, ids=None, axes=AXES):
    columns = {a: positions[:, i] for i, a in enumerate(axes)} | (attributes or {})
    return pd.DataFrame(columns if ids is None else {**columns, "id": ids})


def put_in(kind, positions, attributes=None, ids=None):
    """Return the arguments of ``write_points`` for one kind of input with the same rows in the same order."""
    if "pandas" in kind or "frame" in kind:
        table = frame_of(positions, attributes, ids)
        if kind == "dask frame":
            table = dd.from_pandas(table, npartitions=5, sort=False)
        elif kind == "dask frame unknown":
            extra = table.iloc[::7].assign(keep=False)  # rows that are filtered out again, so that no length is known
            both = pd.concat([table.assign(keep=True), extra]).sort_index(kind="stable").reset_index(drop=True)
            table = dd.from_pandas(both, npartitions=5, sort=False)
            table = table[table["keep"]].drop(columns="keep")
        return {"positions": table, "attributes": None if attributes else [], **({} if ids is None else {"object_ids": "id"})}
    sizes = iter(range(90, 900, 17))
    of = {
        "numpy": lambda v: v,
        "dask": lambda v: lazily(v, 90),
        # every array cut another way, positions between their axes too
        "dask uneven": lambda v: da.from_array(v, chunks=(next(sizes), *(1 for _ in np.shape(v)[1:]))),
        "dask unknown": lambda v: unknown(v, 90),
    }[kind]
    out = {"positions": of(positions)} | ({} if ids is None else {"object_ids": of(ids)})
    return out | ({"attributes": {k: of(v) for k, v in attributes.items()}} if attributes else {})


def check_read(target, positions, attributes=None, ids=None, *, chunk=CHUNK, bins=None):
    """Open a store anew and compare all of it with the reference, with its catalog and without; return the geometry."""
    positions, attributes = np.asarray(positions), attributes or {}
    order = reading_order(positions, chunk, bins, ids)
    counts = chunk_counts(positions, chunk)
    assert (Path(target) / "0" / CATALOG / "c" / "0").is_file()
    bare = Path(target).with_name("bare")
    shutil.copytree(target, bare)
    shutil.rmtree(bare / "0" / CATALOG)
    for place in (bare, target):
        level = dzv.open(place).level(0)
        assert dict(zip(level.chunks.keys, level.chunks.rows.tolist(), strict=True)) == counts
        geometry = level.read()
        assert_same(geometry.positions, positions[order], "positions")
        assert set(geometry.attributes) == set(attributes)
        for name, values in attributes.items():
            assert_same(geometry.attributes[name], np.asarray(values)[order], name)
    shutil.rmtree(bare)
    assert level.metadata.vertex_count == len(positions)
    if ids is None:
        assert geometry.object_ids is None
        return geometry
    assert_same(geometry.object_ids, np.asarray(ids, np.int64)[order], "object_ids")
    rows = object_order(positions, chunk, ids)
    by_object = level.read(order="object")
    assert_same(by_object.positions, positions[rows])
    assert_same(by_object.object_ids, np.asarray(ids, np.int64)[rows])
    return geometry


def round_trip(target, given, positions, attributes=None, ids=None, *, chunk=CHUNK, bins=None, **options):
    """Write what is given into a new store, and compare what is read with what was meant; return the store and the report."""
    store = dzv.create(target, chunk_shape=chunk, bin_shape=bins, overwrite=True, **options)
    report = dzv.write_points(store, **given)
    check_read(target, positions, attributes, ids, chunk=chunk, bins=bins)
    return store, report


def document_of(target, name):
    return dict(zarr.open_group(target, mode="r")[f"0/vertex_attributes/{name}"].attrs)


@in_both_layouts
@of_every_input
@with_and_without_objects
def test_every_input(layout, kind, with_ids, target):
    rng = np.random.default_rng(2)
    label = np.array(["soma", "axon", "spine"])[rng.integers(0, 3, N)]
    attributes = {"mass": rng.random(N), "label": label, "flag": rng.random(N) > 0.5}
    ids = rng.permutation(ROW % 23) if with_ids else None
    _, report = round_trip(target, put_in(kind, POINTS, attributes, ids), POINTS, attributes, ids, layout=layout)
    n = len(chunk_counts(POINTS, CHUNK))
    assert (report.rows, report.chunks, report.objects, report.dropped) == (N, n, 23 if with_ids else 0, 0)
    for name in ("vertices", "vertex_fragments", *(f"vertex_attributes/{a}" for a in attributes)):
        assert report.arrays[name] == n
    group = dzv.open(target).level(0).group
    assert report.nbytes == sum(len(group.read_bytes(a, k)) for a in report.arrays for k in group.list_chunks(a) if "vert" in a)
    assert f"{N:,} rows" in repr(report)


@of_every_input
def test_rows_of_a_chunk_keep_the_order_of_the_input(kind, target):
    """All in one chunk: what comes out is the input; and without attributes."""
    points = np.random.default_rng(3).uniform(0, 8, (1000, 3))
    given = put_in(kind, points, {"row": np.arange(1000)})
    store, _ = round_trip(target, given, points, {"row": np.arange(1000)}, chunk=(10, 10, 10))
    assert store.level(0).read().attributes["row"].tolist() == list(range(1000))
    round_trip(target, put_in(kind, POINTS), POINTS)


# -------------------------------------------------------------------------------------------------- one input, one meaning


def some_inputs():
    """Yield (name, arguments of the write, what is meant: positions, attributes, ids, and options of the store)."""
    x = POINTS[:, 0]
    yield (
        "filtered by position",
        {"positions": (lazy := lazily(POINTS, 64))[lazy[:, 0] > 0], "attributes": {"row": lazily(ROW, 64)[lazy[:, 0] > 0]}},
        {"positions": POINTS[x > 0], "attributes": {"row": ROW[x > 0]}},
    )
    order = np.argsort(x, kind="stable")
    lazy, label = lazily(POINTS[order], 40), np.array(["a", None, "b"], object)[ROW % 3]
    keep, mask = (x[order] > -10) & (x[order] < 20), (lazy[:, 0] > -10) & (lazy[:, 0] < 20)
    yield (
        "partitions without rows, the first and the last among them",
        {"positions": lazy[mask], "attributes": {"label": lazily(label, 40)[mask]}},
        {"positions": POINTS[order][keep], "attributes": {"label": label[keep]}},
    )
    beside = {"label": np.array(["a", "bb"])[ROW % 2], "vec": np.arange(2 * N).reshape(N, 2)}
    given = {"attributes": beside, "object_ids": ROW % 7}
    wanted = {"positions": POINTS, "attributes": beside, "ids": ROW % 7}
    yield "dask positions, the rest in memory", {"positions": lazily(POINTS, 77), **given}, wanted
    frame = frame_of(POINTS, {"mass": ROW, "extra": ROW * 2.0}, ROW % 3)
    mixed = pd.DataFrame({"x": np.arange(50, dtype="i2"), "y": np.linspace(0, 30, 50, dtype="f4"), "z": np.arange(50) % 9})
    for lazy in (False, True):
        of = (lambda t: dd.from_pandas(t, npartitions=3)) if lazy else (lambda t: t)
        form = "a lazy frame" if lazy else "a frame"
        wanted = {"positions": POINTS, "attributes": {"extra": ROW * 2.0}, "ids": ROW % 3}
        yield f"{form}: columns by name", {"positions": of(frame), "attributes": ["extra"], "object_ids": "id"}, wanted
        wanted = {"positions": POINTS, "attributes": {"id": ROW % 3}}
        yield f"{form}: a column like any other", {"positions": of(frame), "attributes": ["id"]}, wanted
        yield f"{form}: axes of several dtypes", {"positions": of(mixed)}, {"positions": mixed.to_numpy(np.float64)}
    turned = frame[["mass", "z", "x", "y"]].set_index(np.random.default_rng(0).permutation(N) * 3)
    yield "a frame in any order", {"positions": turned}, {"positions": POINTS, "attributes": {"mass": ROW}}
    wide = np.asfortranarray(np.repeat(POINTS, 2, axis=0)[::2][:, ::-1]).astype(">f4")
    yield (
        "strided and of foreign endianness",
        {"positions": wide, "attributes": {"big": ROW.astype(">i4")[::-1]}},
        {"positions": np.ascontiguousarray(POINTS[:, ::-1]), "attributes": {"big": ROW.astype("i4")[::-1]}},
    )
    yield (
        "lists",
        {"positions": [[1.0, 2], [3, 14]], "attributes": {"n": [1, 2], "s": ["a", "b"]}, "object_ids": [1, 0]},
        {
            "positions": np.array([[1.0, 2], [3, 14]]),
            "attributes": {"n": [1, 2], "s": ["a", "b"]},
            "ids": [1, 0],
            "chunk": (9, 9),
        },
    )
    words = {"bytes": np.array([b"aa", b"b"])[ROW % 2], "variable": np.array(["x", "yy"], np.dtypes.StringDType())[ROW % 2]}
    meant = {"bytes": words["bytes"].astype("U2"), "variable": np.asarray(words["variable"], "U2")}
    yield "bytes and numpy strings", {"positions": POINTS, "attributes": words}, {"positions": POINTS, "attributes": meant}
    for dtype in ("u1", "i2", "u8", ">i8"):
        yield (
            f"ids {dtype}",
            {"positions": POINTS, "object_ids": (ROW % 11).astype(dtype)},
            {"positions": POINTS, "ids": ROW % 11},
        )
    whole = np.random.default_rng(0).integers(0, 100, (150, 3))
    for dtype in ("f2", "f4", "f8", "i2", "i4", "i8", "u4"):
        points = whole.astype(dtype)
        stored_as = dtype if dtype[0] == "f" else np.result_type(dtype, "f4")
        yield f"positions {dtype}", {"positions": points}, {"positions": points.astype(stored_as)}
        yield f"positions {dtype} as declared", {"positions": points}, {"positions": points, "dtype": dtype}
    yield "float64 declared", {"positions": POINTS}, {"positions": POINTS.astype("f8"), "dtype": "float64"}
    double = POINTS + 1e-7
    yield "float32 declared", {"positions": double}, {"positions": double.astype("f4"), "dtype": "float32"}
    below = -np.random.default_rng(0).uniform(0, 50, (200, 3))
    below[0], below[1] = (-25.0, -20.0, -40.0), (-50.0, -40.0, -40.0)  # on boundaries
    yield "negative coordinates", {"positions": below}, {"positions": below}
    far = np.array([[1e15, -1e6], [1e15 + 1, -1e6], [0.0, 0.0]])
    yield "far from the origin", {"positions": far}, {"positions": far, "chunk": (1, 1)}
    edge = np.array([[0.0, 0.1], [10.0, 0.3], [5.0, 0.2]])
    for dtype in ("f8", "f4"):  # float32's 0.1 is above 0.1 and its 0.3 too
        options = {"chunk": (10, 10), "bounds": ([0.0, 0.1], [10.0, 0.3])}
        yield f"on the bounds, {dtype}", {"positions": edge.astype(dtype)}, {"positions": edge.astype(dtype), **options}
    for kind in ("numpy", "dask unknown"):
        options = {"bins": (12.5, 5.0, 40.0)}
        yield f"bins, {kind}", put_in(kind, POINTS, {"row": ROW}), {"positions": POINTS, "attributes": {"row": ROW}, **options}
    options = {"positions": POINTS, "ids": ROW % 4, "bins": (5, 10, 20)}
    yield "bins with objects", {"positions": POINTS, "object_ids": ROW % 4}, options


TAKEN = {name: case for name, *case in some_inputs()}


@pytest.mark.parametrize("name", TAKEN)
def test_taken(name, target):
    given, wanted = TAKEN[name]
    _, report = round_trip(target, given, **wanted)
    assert report.rows == len(wanted["positions"])
    box = np.percentile(wanted["positions"].astype(float), [20, 80], axis=0)
    inside = in_box(wanted["positions"], box)
    assert len(dzv.open(target).level(0).read(bbox=box)) == inside.sum()
    if "bins" in wanted:
        text = json.loads((target / "zarr.json").read_text())["attributes"]["zarr_vectors"]
        assert text["base_bin_shape"] == [float(b) for b in wanted["bins"]]


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
    store = dzv.create(target, chunk_shape=(10, 10), dtype="float32")
    dzv.write_points(store, np.array([[np.nextafter(30.0, 0), 1.0]]))
    assert dzv.open(target).level(0).chunks.keys == ["3.0"]
    assert len(dzv.open(target).level(0).read(bbox=([30, 0], [31, 2]))) == 1


def test_chunk_keys_sort_as_numbers(target):
    points = np.stack([np.arange(0, 130, 1.0), np.zeros(130)], axis=1)
    store, _ = round_trip(target, {"positions": points}, points, chunk=(10, 10))
    assert store.level(0).chunks.keys == [f"{i}.0" for i in range(13)]


@pytest.mark.parametrize("ndim", [2, 3, 4])
def test_axes_units_and_crs(ndim, target):
    space = [{"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"]
    axes = [{"name": "t", "type": "time", "unit": "second"}, *space][4 - ndim :]
    crs = {"type": "EPSG", "code": 32632, "nested": {"a": [1, 2.5, None]}}
    points = np.random.default_rng(0).uniform(-9, 9, (200, ndim))
    frame = frame_of(points, {"v": np.arange(200)}, None, [a["name"] for a in axes])
    wanted = {"chunk": (5,) * ndim, "axes": axes, "crs": crs}
    round_trip(target, {"positions": frame}, points, {"v": np.arange(200)}, **wanted)
    opened = dzv.open(target)
    assert [(a.name, a.type, a.unit) for a in opened.metadata.axes] == [(a["name"], a["type"], a["unit"]) for a in axes]
    assert opened.axes == tuple(a["name"] for a in axes)
    assert opened.metadata.crs == crs
    text = json.loads((target / "zarr.json").read_text())["attributes"]
    assert text["multiscales"][0]["axes"] == axes
    assert text["zarr_vectors"]["crs"] == crs


# -------------------------------------------------------------------------------------------------- attributes

_RNG = np.random.default_rng(5)
LIMITS = {t: (np.iinfo(t).min, np.iinfo(t).max) for t in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")}
NUMBERS = {
    **{f"int {t}": _RNG.integers(*ends, N, dtype=t, endpoint=True) for t, ends in LIMITS.items()},
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
    if values.dtype != object:
        return values
    out = np.array([v if isinstance(v, str) else None for v in values], object)
    return out if None in out else out.astype(str)


@pytest.mark.parametrize("kind", ["numpy", "dask unknown", "pandas", "dask frame"])
def test_numbers(kind, target):
    frames = kind in ("pandas", "dask frame")  # pandas knows no days
    attributes = {k: v for k, v in NUMBERS.items() if not (frames and "days" in k)}
    round_trip(target, put_in(kind, POINTS, attributes), POINTS, attributes)


@pytest.mark.parametrize("kind", ["numpy", "dask uneven", "dask unknown"])
def test_channels(kind, target):
    round_trip(target, put_in(kind, POINTS, CHANNELS), POINTS, CHANNELS)
    assert document_of(target, "rgb")["channel_names"] == ["ch0", "ch1", "ch2"]


@pytest.mark.parametrize("kind", ["numpy", "dask", "dask unknown", "pandas", "dask frame"])
def test_strings(kind, target):
    round_trip(target, put_in(kind, POINTS, STRINGS), POINTS, {k: as_read(v) for k, v in STRINGS.items()})
    for name, dtype in (("fixed", "uint8"), ("missing", "int8"), ("many", "uint16"), ("300 and missing", "int16")):
        meta = document_of(target, name)
        assert (meta["dtype"], meta["ordered"]) == (dtype, False)
        assert meta["categories"] == sorted(meta["categories"])
        assert ("_FillValue" in meta) == ("missing" in name)


def pandas_columns():
    """Return columns of pandas' dtypes, each with what is read of it."""
    rng = np.random.default_rng(8)

    def some(*values):
        return np.array(values, object)[rng.integers(0, len(values), N)]

    ranks = ["low", "mid", "high"]
    words = {
        "ordered": pd.Categorical(some("low", "high", "mid"), ranks, ordered=True),
        "ordered, missing": pd.Categorical(some("low", None, "high"), ranks, ordered=True),
        "category": pd.Categorical(some("q", "p"), ["q", "unused", "p"]),
        "category, missing": pd.Categorical(some("q", None)),
        "string": pd.array(some("a", "b"), "string"),
        "string, missing": pd.array(some("a", None), "string"),
        "string[pyarrow]": pd.array(some("a", "ccc"), "string[pyarrow]"),
        "str": pd.array(some("a", "ccc"), "str"),
    }
    whole, halves = rng.integers(0, 9, N), np.where(rng.random(N) > 0.3, 1.5, np.nan)
    numbers = {
        "Int64": (pd.array(whole, "Int64"), whole),
        "UInt8": (pd.array(whole, "UInt8"), whole.astype("u1")),
        "Float32": (pd.array(halves.tolist(), "Float32"), halves.astype("f4")),
        "boolean": (pd.array(whole > 4, "boolean"), whole > 4),
        "int64[pyarrow]": (pd.array(whole.tolist(), "int64[pyarrow]"), whole),
        "double[pyarrow]": (pd.array([None if h != h else h for h in halves.tolist()], "double[pyarrow]"), halves),
    }
    dates = pd.date_range("2026-01-01", periods=N, freq="h").to_numpy()
    return {**{k: (v, as_read(pd.Series(v).astype(object))) for k, v in words.items()}, **numbers, "dates": (dates, dates)}


@pytest.mark.parametrize("kind", ["pandas", "dask frame", "series"])
def test_pandas_columns(kind, target):
    columns, expected = ({k: v[i] for k, v in pandas_columns().items()} for i in (0, 1))
    if kind == "series":
        given = {"positions": POINTS, "attributes": {k: pd.Series(v) for k, v in columns.items()}}
    else:
        frame = frame_of(POINTS, columns)
        given = {"positions": frame if kind == "pandas" else dd.from_pandas(frame, npartitions=4)}
    round_trip(target, given, POINTS, expected)
    meta = document_of(target, "ordered, missing")
    assert (meta["categories"], meta["ordered"], meta["_FillValue"]) == (["low", "mid", "high"], True, -1)
    meta = document_of(target, "category")
    assert (meta["categories"], meta["ordered"]) == (["p", "q"], False)


def test_categoricals_beside_an_array(target):
    category = pd.Categorical(np.array(["b", "a"])[ROW % 2], ["b", "a"], ordered=True)
    round_trip(target, {"positions": POINTS, "attributes": {"c": category}}, POINTS, {"c": np.asarray(category).astype("U1")})
    assert (document_of(target, "c")["categories"], document_of(target, "c")["ordered"]) == (["b", "a"], True)


@in_both_layouts
def test_names_of_attributes(layout, target):
    for name in ("mass (µg)", "a b", "0.1.2", "c", "__shard_000000", "data", "Überraschung", "x'y\"z", "%20", "a:b"):
        round_trip(target, {"positions": POINTS, "attributes": {name: ROW}}, POINTS, {name: ROW}, layout=layout)


# -------------------------------------------------------------------------------------------------- objects


@in_both_layouts
def test_object_attributes_and_groups(layout, target):
    ids = np.random.default_rng(4).permutation(ROW % 17)
    attributes = {"score": np.linspace(0, 1, 17, dtype=np.float32), "vec": np.arange(34).reshape(17, 2)}
    if layout == "per_chunk":  # no boolean says that an object has none
        attributes["good"] = np.arange(17) % 3 == 0
    about = {"object_ids": ids, "object_attributes": attributes, "groups": {0: [1, 2, 16], 2: [0], 4: []}}
    store, report = round_trip(target, {"positions": POINTS, **about}, POINTS, None, ids, layout=layout)
    assert report.objects == 17
    geometry = store.level(0).read()
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
def test_object_attributes_from_a_frame_leave_rows_masked(layout, target):
    """It may also describe more objects than have vertices: they exist, and are empty."""
    frame = pd.DataFrame({"score": [0.5, 0.25, 0.125], "n": np.array([7, 8, 9], np.int16)}, index=[4, 0, 7])
    given = {"positions": POINTS, "object_ids": ROW % 10, "object_attributes": frame}
    store, _ = round_trip(target, given, POINTS, None, ROW % 10, layout=layout)
    found = store.level(0).read().object_attributes
    assert np.flatnonzero(~np.ma.getmaskarray(found["score"])).tolist() == [0, 4, 7]
    assert found["score"][[0, 4, 7]].tolist() == [0.25, 0.5, 0.125]
    assert found["n"].dtype == np.int16
    assert store.level(0).read(objects=[4, 5]).object_attributes["n"].tolist() == [7, None]
    more = pd.DataFrame({"score": np.arange(8.0)}, index=np.arange(8))
    report = dzv.write_points(store, POINTS, object_ids=ROW % 5, object_attributes=more, groups={0: [6]}, mode="overwrite")
    assert report.objects == 8
    assert store.level(0).read().object_attributes["score"].tolist() == list(np.arange(8.0))
    assert len(store.level(0).read(objects=[6])) == 0
    by_object = dzv.open(target).level(0).read(objects=[6, 2], order="object")
    assert by_object.ids.tolist() == [2, 6]
    assert by_object.lengths.tolist() == [N // 5, 0]


# -------------------------------------------------------------------------------------------------- bounds


def test_bounds_come_from_the_data(target):
    store, _ = round_trip(target, {"positions": POINTS}, POINTS)
    assert store.metadata.bounds == tuple(tuple(f(POINTS, axis=0).astype(float).tolist()) for f in (np.min, np.max))
    assert dzv.open(target).metadata.bounds == store.metadata.bounds


@of_every_input
def test_out_of_bounds(kind, target):
    box = ([-10.0, -10.0, -10.0], [20.0, 20.0, 20.0])
    inside = in_box(POINTS, box)
    ids = np.full(N, 10**6)  # ids of what is left out don't count
    ids[inside] = np.arange(inside.sum()) % 9
    given = put_in(kind, POINTS, {"row": ROW, "s": np.where(inside, "in", "out")}, ids)
    store = dzv.create(target, chunk_shape=CHUNK, bounds=box)
    before = files(target)
    with pytest.raises(dzv.BoundsError, match="out_of_bounds='ignore'"):
        dzv.write_points(store, **given)
    assert files(target) == before
    report = dzv.write_points(store, **given, out_of_bounds="ignore")
    assert (report.rows, report.dropped) == (inside.sum(), (~inside).sum())
    assert 0 < report.dropped < N
    check_read(target, POINTS[inside], {"row": ROW[inside], "s": np.full(inside.sum(), "in")}, ids[inside])
    assert dzv.open(target).metadata.bounds == tuple(map(tuple, box))


def test_nothing_left_inside_the_bounds(target):
    store = dzv.create(target, chunk_shape=CHUNK, bounds=([1000] * 3, [1001] * 3))
    report = dzv.write_points(store, POINTS, out_of_bounds="ignore", attributes={"a": ROW, "s": np.full(N, "x")})
    assert (report.rows, report.chunks, report.dropped) == (0, 0, N)
    geometry = dzv.open(target).level(0).read()
    assert geometry.positions.shape == (0, 3)
    assert geometry.attributes["a"].dtype == np.int64


# -------------------------------------------------------------------------------------------------- modes


def test_mode_error(target):
    store, _ = round_trip(target, {"positions": POINTS}, POINTS)
    before = files(target)
    for again in (store, dzv.open(target, mode="r+")):
        with pytest.raises(dzv.StoreError, match="mode='overwrite'"):
            dzv.write_points(again, POINTS)
    assert files(target) == before


FEW, MANY = POINTS[:50] * np.float32(0.3), np.random.default_rng(0).uniform(-20, 20, (20_000, 3)).astype(np.float32)
TEXT = np.array(["a", None], object)[ROW % 2]
REPLACED = {  # by what: chunks, attributes, objects and groups of the one before are gone
    "a few points": [
        {
            "positions": POINTS,
            "attributes": {"old": ROW, "both": np.full(N, "x")},
            "object_ids": ROW % 40,
            "object_attributes": {"o": np.arange(40), "p": np.arange(40.0)},
            "groups": {0: [1, 2]},
        },
        {"positions": FEW, "attributes": {"both": np.arange(50) * 0.5, "new": np.arange(50)}},
    ],
    "fewer objects": [  # manifests in two stored chunks, then in one
        {
            "positions": MANY,
            "object_ids": np.arange(len(MANY)),
            "object_attributes": {"a": np.arange(len(MANY))},
            "groups": {0: [1], 1: [5]},
        },
        {"positions": POINTS, "object_ids": ROW % 9, "object_attributes": pd.DataFrame({"b": [1.5]}, index=[3])},
    ],
    "no presence mask": [
        {"positions": POINTS, "object_ids": ROW % 9, "object_attributes": pd.DataFrame({"b": [1.5]}, index=[3])},
        {"positions": POINTS, "object_ids": ROW % 9, "object_attributes": {"b": np.arange(9.0)}},
    ],
    "attributes of other kinds": [
        {"positions": POINTS, "attributes": {"a": np.ones((N, 3)), "b": TEXT}},
        {"positions": POINTS, "attributes": {"a": ROW, "b": ROW.astype("i1")}},
        {"positions": POINTS, "attributes": {"a": TEXT, "b": np.ones((N, 3))}},
    ],
    "the same again": [{"positions": POINTS, "attributes": {"a": ROW}, "object_ids": ROW % 5}] * 2,
    "nothing": [
        {"positions": POINTS, "attributes": {"a": ROW}, "object_ids": ROW % 5},
        {"positions": POINTS[:0]},
    ],
    "no objects": [
        {"positions": POINTS, "object_ids": ROW % 5, "object_attributes": {"a": np.arange(5)}},
        {"positions": POINTS[:0], "object_ids": np.zeros(0, int)},
    ],
}


@in_both_layouts
@shards_or_none
@pytest.mark.parametrize("by", REPLACED)
def test_what_is_replaced_is_gone(layout, shards, by, target):
    """What is left is what a fresh store would hold."""
    options = {"chunk_shape": CHUNK, "layout": layout, "shard_chunks": shards}
    store = dzv.create(target, **options)
    for number, given in enumerate(REPLACED[by]):
        report = dzv.write_points(store, **given, mode="overwrite")
        assert report.rows == len(given["positions"])
        if report.rows:
            check_read(target, given["positions"], given.get("attributes"), given.get("object_ids"))
        geometry = dzv.open(target).level(0).read()
        assert len(geometry) == report.rows
        assert (geometry.object_ids is None) == ("object_ids" not in given)
        assert list(geometry.object_attributes) == list(given.get("object_attributes", ()))
        assert bool(geometry.groups) == ("groups" in given)
        fresh = target.parent / f"fresh {number}" / target.name
        dzv.write_points(dzv.create(fresh, **options), **given)
        if report.rows:
            assert stored(target) == stored(fresh)
        else:  # bounds stay, and with them the grid
            assert {n for n in files(target) if "object" in n} == {n for n in files(fresh) if "object" in n}
        if layout == "per_chunk" and report.rows:
            assert directories(target) <= directories(fresh)
    assert store.level(0).attributes == tuple(given.get("attributes", ()))
    if by == "no presence mask":
        assert not np.ma.isMaskedArray(geometry.object_attributes["b"])


@in_both_layouts
def test_overwriting_a_write_that_died(layout, target):
    """Chunks without a commit: refused in mode "error" where they can be seen, replaced in mode "overwrite"."""
    store = dzv.create(target, chunk_shape=CHUNK, layout=layout)
    before = files(target)
    dzv.write_points(store, POINTS)
    for name in files(target):
        document = layout == "grid" and name.endswith("zarr.json")
        if name not in before and ("/vert" not in name or CATALOG in name or document):
            (target / name).unlink()
    for name, data in before.items():
        (target / name).write_bytes(data)
    shutil.rmtree(target / "0" / CATALOG)
    store = dzv.open(target, mode="r+")
    if layout == "per_chunk":
        with pytest.raises(dzv.StoreError, match="did not reach its commit"):
            dzv.write_points(store, POINTS[:10])
    else:  # cells that no document lists are in nobody's way
        dzv.write_points(store, POINTS[:10])
        check_read(target, POINTS[:10])
    dzv.write_points(store, POINTS[:10], mode="overwrite")
    check_read(target, POINTS[:10])


@pytest.mark.parametrize(
    "name", ["points_attr_chunked", "points_objects", "points_bins_negative_shard_snake", "points_categorical"]
)
def test_overwriting_a_store_of_the_peer(name, target):
    """Whatever its chunk keys, shards and objects were, nothing of them clings to ours."""
    shutil.unpack_archive(Path(__file__).parents[1] / "data" / "golden_0.7" / f"{name}.zarrvectors.zip", target)
    store = dzv.open(target, mode="r+")
    chunk, bins = store.metadata.chunk_shape, store.metadata.bin_shape
    middle = np.mean(store.metadata.bounds, axis=0)
    points = (middle + np.random.default_rng(0).normal(0, 1, (30, store.metadata.ndim))).astype(np.float32)
    attributes = {"v": np.arange(30), "label": np.arange(30.0)}
    dzv.write_points(store, points, attributes=attributes, mode="overwrite", out_of_bounds="ignore")
    check_read(target, points, attributes, chunk=chunk, bins=bins)
    dzv.write_points(store, points, object_ids=np.arange(30) % 3, mode="overwrite")
    check_read(target, points, None, np.arange(30) % 3, chunk=chunk)


def test_objects_and_categories_that_change_places(target):
    """Every blob of the level stays as it was, so nothing kept in memory, and no key of a lazy array, may go by blobs alone."""
    store = dzv.create(target, chunk_shape=(10, 10))
    keys = set()
    for ids, names in (([0, 1], ["a", "b"]), ([1, 0], ["a", "b"]), ([0, 1], ["x", "y"])):
        given = {"object_ids": ids, "attributes": {"s": np.array(names)}}
        dzv.write_points(store, [[1.0, 1.0], [11.0, 11.0]], **given, mode="overwrite")
        found = dzv.open(target).level(0).read()
        assert (found.object_ids.tolist(), found.attributes["s"].tolist()) == (ids, names)
        keys.add(xr.open_dataset(target, engine="zv", chunks={})["s"].data.name)
    assert len(keys) == 3


@in_both_layouts
@shards_or_none
def test_a_reader_that_was_opened_before_an_overwrite(layout, shards, target):
    """It gives what is there now, or says that it must be opened again; never new bytes by old dtypes."""
    old = {"positions": POINTS, "attributes": {"a": ROW.astype(np.int32), "gone": ROW}}
    store, _ = round_trip(target, old, POINTS, old["attributes"], layout=layout, shard_chunks=shards)
    level = dzv.open(target).level(0)
    before = level.read()
    attributes = {"a": np.linspace(0, 1, N, dtype=np.float32)}
    dzv.write_points(store, POINTS, attributes=attributes, mode="overwrite")
    for names in (["a"], None, ["gone"]):
        with pytest.raises((dzv.FormatError, dzv.StoreError), match="open it again|is gone"):
            level.read(attributes=names)
    assert before.attributes["a"].dtype == np.int32
    check_read(target, POINTS, attributes)


def test_attributes_of_the_root_that_are_not_ours_stay(target):
    store = dzv.create(target, chunk_shape=CHUNK)
    store.group.attrs["user_metadata"] = {"who": {"cares": [1, 2]}}
    for _ in range(2):
        dzv.write_points(store, POINTS, mode="overwrite")
    assert dzv.open(target).group.attrs["user_metadata"] == {"who": {"cares": [1, 2]}}


@in_both_layouts
@of_every_input
@with_and_without_objects
def test_empty_input(layout, kind, with_ids, target):
    empty = np.zeros((0, 3), np.float32)
    attributes = {"a": np.zeros(0, np.int16), "s": np.zeros(0, "U3"), "when": np.zeros(0, "M8[s]")}
    store = dzv.create(target, chunk_shape=CHUNK, layout=layout)
    report = dzv.write_points(store, **put_in(kind, empty, attributes, np.zeros(0, np.int64) if with_ids else None))
    assert (report.rows, report.chunks, report.objects) == (0, 0, 0)
    level = dzv.open(target).level(0)
    geometry = level.read()
    assert (geometry.positions.shape, geometry.positions.dtype) == ((0, 3), np.float32)
    assert (geometry.attributes["a"].dtype, geometry.attributes["when"].dtype) == (np.int16, np.dtype("M8[s]"))
    assert len(geometry.attributes["s"]) == 0
    assert len(level.read(bbox=([0, 0, 0], [1, 1, 1]))) == 0
    if with_ids:
        assert len(geometry.object_ids) == 0
        assert level.read(order="object").ids.tolist() == []
    dzv.write_points(dzv.open(target, mode="r+"), np.ones((2, 3), np.float32), mode="overwrite")
    check_read(target, np.ones((2, 3), np.float32))


def test_a_store_that_was_only_created(target):
    dzv.create(target, chunk_shape=CHUNK)
    level = dzv.open(target).level(0)
    assert len(level.read()) == len(level.chunks) == 0
    assert level.read(bbox=([0, 0, 0], [1, 1, 1])).positions.shape == (0, 3)


# -------------------------------------------------------------------------------------------------- lazily


def test_compute_false_joins_other_graphs(target, tmp_path):
    second = tmp_path / "t.zv"
    lazy, ids = lazily(POINTS, 64), da.arange(N, chunks=64) % 3
    one = dzv.write_points(dzv.create(target, chunk_shape=CHUNK), lazy, compute=False)
    two = dzv.write_points(dzv.create(second, chunk_shape=CHUNK), lazy * 2, object_ids=ids, compute=False)
    told = dask.delayed(lambda report: f"{report.rows} rows")(one)
    assert not (target / "0" / "vertices").exists()
    assert not (second / "0" / "vertices").exists()
    report_one, report_two, said, total = dask.compute(one, two, told, lazy.sum())
    assert (report_one.rows, report_two.rows, report_two.objects, said) == (N, N, 3, f"{N} rows")
    assert total == pytest.approx(POINTS.sum(), rel=1e-3)
    check_read(target, POINTS)
    check_read(second, POINTS * 2, None, ROW % 3)


@in_both_layouts
def test_a_graph_can_run_twice(layout, target):
    store = dzv.create(target, chunk_shape=CHUNK, layout=layout)
    delayed = dzv.write_points(store, lazily(POINTS, 64), compute=False)
    delayed.compute()
    before = stored(target)
    delayed.compute()
    assert stored(target) == before
    check_read(target, POINTS)


def test_the_store_object_sees_what_was_written(target):
    store = dzv.create(target, chunk_shape=CHUNK)
    assert store.level(0).metadata.vertex_count == 0
    dzv.write_points(store, POINTS)
    assert store.level(0).metadata.vertex_count == len(store.level(0).read()) == N
    assert f"{N:,} vertices" in repr(store)
    assert len(pickle.loads(pickle.dumps(store)).level(0).read()) == N


def test_graph_is_proportional_to_blocks(target):
    """1000 chunks, few tasks: never one per chunk."""
    points = np.random.default_rng(0).uniform(0, 100, (20_000, 3)).astype(np.float32)
    delayed = dzv.write_points(dzv.create(target, chunk_shape=(10, 10, 10)), points, compute=False)
    assert len(dict(delayed.__dask_graph__())) < 30
    report = delayed.compute()
    assert report.chunks == 1000
    assert report.blocks < 12


# -------------------------------------------------------------------------------------------------- shards


@in_both_layouts
@pytest.mark.parametrize("shards", [2, 4, 64, 10_000])
@with_and_without_objects
def test_shards(layout, shards, with_ids, target):
    ids = ROW % 6 if with_ids else None
    attributes = {"a": ROW, "s": TEXT}
    given = put_in("dask", POINTS, attributes, ids)
    _, report = round_trip(target, given, POINTS, attributes, ids, layout=layout, shard_chunks=shards)
    if layout == "per_chunk":
        assert [n for n in directories(target / "0" / "vertices") if not n.startswith("__shard_")] == []
        text = json.loads((target / "zarr.json").read_text())["attributes"]
        assert (text["shard_layout"], text["shard_size"]) == ("octree", shards)
    else:
        cells = np.prod(zarr.open_array(target / "0" / "vertices", mode="r").shards)
        assert shards / 2 < cells <= shards or shards == 10_000
    assert report.files < report.chunks * 4
    assert len(dzv.open(target).level(0).read(bbox=BOX)) == in_box(POINTS, BOX).sum()


def is_packed(target, layout):
    """Tell whether chunks are in shards; all of them are, or none."""
    if layout == "grid":
        return zarr.open_array(target / "0" / "vertices", mode="r").shards is not None
    (packed,) = {n.startswith("__shard_") for n in directories(target / "0" / "vertices")}
    return packed


@in_both_layouts
def test_shards_and_chunks_change_places(layout, target):
    """An overwrite with another shard size leaves no blob in two places."""
    store = dzv.create(target, chunk_shape=CHUNK, layout=layout, shard_chunks=1)
    for shards in (1, 8, 3, 1):
        store.group.attrs["dask_zv"] = {**store.group.attrs["dask_zv"], "shard_chunks": shards}
        store._contents.reload()
        dzv.write_points(store, POINTS + shards, attributes={"a": ROW}, mode="overwrite")
        check_read(target, POINTS + np.float32(shards), {"a": ROW})
        assert is_packed(target, layout) == (shards > 1)


@in_both_layouts
def test_no_shards_for_few_local_chunks(layout, target):
    round_trip(target, {"positions": POINTS}, POINTS, layout=layout)
    assert not is_packed(target, layout)
    if layout == "per_chunk":
        assert json.loads((target / "zarr.json").read_text())["attributes"]["shard_layout"] == "flat"


# -------------------------------------------------------------------------------------------------- stores


@in_both_layouts
def test_paths_with_any_name(layout, tmp_path):
    """Blanks, percent signs and letters of other alphabets, also where zarr itself opens the manifests."""
    target = tmp_path / "my cells %20 ü#1.zv"
    round_trip(target, {"positions": POINTS, "object_ids": ROW % 4}, POINTS, None, ROW % 4, layout=layout)
    assert [p.name for p in tmp_path.iterdir()] == [target.name]


@in_both_layouts
def test_in_memory_stores(layout):
    ids = ROW % 4
    order = reading_order(POINTS, CHUNK, None, ids)
    for target in ({}, zarr.storage.MemoryStore(), f"memory://points/{layout}.zv"):
        store = dzv.create(target, chunk_shape=CHUNK, layout=layout)
        dzv.write_points(store, POINTS, object_ids=ids)
        assert_same(dzv.open(target).level(0).read().positions, POINTS[order])
        assert_same(store.level(0).read(objects=2).positions, POINTS[order][ids[order] == 2])
