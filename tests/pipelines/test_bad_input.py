"""Data that can't be stored as given is refused with an error that says why, before anything is stored."""

from __future__ import annotations

import re

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from layouts import per_chunk_only
from points_reference import files

import dask_zv as dzv

N = 60
CHUNK = (10.0, 10.0, 10.0)
AXES = ("x", "y", "z")


@pytest.fixture(autouse=True)
def _sync():
    with dask.config.set(scheduler="sync"):
        yield


def good():
    return np.random.default_rng(0).uniform(0, 30, (N, 3)).astype(np.float32)


@pytest.fixture
def layout():
    """What is refused is so before the layouts part: the default serves for both, but where a test names one."""
    return "grid"


@pytest.fixture(params=["empty", "full"])
def store(request, layout, tmp_path):
    """A store that holds nothing yet, and one whose level is to be overwritten."""
    made = dzv.create(tmp_path / "s.zv", chunk_shape=CHUNK, layout=layout)
    if request.param == "full":
        dzv.write_points(made, good() + 100, attributes={"a": np.arange(N)}, object_ids=np.arange(N) % 4)
    return made


def refused(store, error, match, positions=None, **options):
    """Write what is bad; check the error, and that the store has the same objects with the same bytes after it."""
    root = store.group.path
    before = files(root)
    with pytest.raises(error, match=match) as caught:
        dzv.write_points(store, good() if positions is None else positions, mode="overwrite", **options)
    assert isinstance(caught.value, dzv.ZVError)
    assert files(root) == before
    assert list(root.rglob("*.partial")) == []
    return str(caught.value)


def with_value(row, column, value, dtype=np.float64):
    points = good().astype(dtype)
    points[row, column] = value
    return points


def lazily(array, chunks=13):
    return da.from_array(np.asarray(array), chunks=(chunks, *np.shape(array)[1:]))


def unknown(array, chunks=13):
    """Return a dask array of the same rows whose lengths nobody knows."""
    array = np.asarray(array)
    return lazily(array, chunks)[da.ones(len(array), dtype=bool, chunks=chunks)]


def frame(**columns):
    points = good()
    return pd.DataFrame({**dict(zip(AXES, points.T, strict=True)), **columns})


FORMS = {
    "numpy": lambda a: a,
    "dask": lazily,
    "unknown": unknown,
    "pandas": lambda a: pd.DataFrame(a, columns=list(AXES)),
    "frame": lambda a: dd.from_pandas(pd.DataFrame(a, columns=list(AXES)), npartitions=4),
}


# -------------------------------------------------------------------------------------------------- positions


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_positions_that_are_not_finite(form, value, store):
    message = refused(store, dzv.InputError, "NaN and infinite", FORMS[form](with_value(41, 1, value)))
    assert "partition" in message


def test_infinite_by_the_cast(tmp_path):
    store = dzv.create(tmp_path / "s.zv", chunk_shape=CHUNK, dtype="float32")
    refused(store, dzv.InputError, "float64 positions as float32", with_value(7, 0, 1e300))
    store = dzv.create(tmp_path / "t.zv", chunk_shape=CHUNK, dtype="float16")
    refused(store, dzv.InputError, "as float16", with_value(7, 0, 70_000.0))


@pytest.mark.parametrize("form", FORMS)
def test_a_cast_that_loses_precision(form, tmp_path):
    """UTM northings in float32 move by a quarter of a metre."""
    store = dzv.create(tmp_path / "s.zv", chunk_shape=(1000, 1000, 1000), bin_shape=(10, 10, 10), dtype="float32")
    message = refused(store, dzv.InputError, "position_tolerance", FORMS[form](with_value(20, 1, 5_400_000.3)))
    assert "float64" in message
    assert "5400000.3" in message


@pytest.mark.parametrize(
    ("stored", "value", "dtype"), [("int32", 1.5, "f8"), ("uint8", -1, "i8"), ("int8", 300, "i8"), ("float32", 2**25 + 1, "i8")]
)
def test_casts_to_integers(stored, value, dtype, tmp_path):
    store = dzv.create(tmp_path / "s.zv", chunk_shape=CHUNK, dtype=stored)
    points = np.zeros((5, 3), dtype)
    points[3, 2] = value
    refused(store, dzv.InputError, f"as {stored} moves", points)


@pytest.mark.parametrize(
    ("positions", "match"),
    [
        (np.zeros(5), r"shape \(N, 3\)"),
        (np.zeros((5, 2)), r"shape \(N, 3\)"),
        (np.zeros((5, 4)), r"shape \(N, 3\)"),
        (np.zeros((5, 3, 1)), r"shape \(N, 3\)"),
        (np.zeros((5, 3), complex), "integers or floats"),
        (np.zeros((5, 3), bool), "integers or floats"),
        (np.zeros((5, 3), "M8[s]"), "integers or floats"),
        (np.full((5, 3), "1"), "integers or floats"),
        (da.zeros((5, 2), chunks=2), r"shape \(N, 3\)"),
        (da.zeros((5, 3), dtype=bool), "integers or floats"),
        (None, r"shape \(N, 3\)|integers or floats"),
        ("points.csv", r"shape \(N, 3\)|integers or floats"),
    ],
)
def test_positions_of_the_wrong_kind(positions, match, store):
    root = store.group.path
    before = files(root)
    with pytest.raises(dzv.InputError, match=match):
        dzv.write_points(store, positions, mode="overwrite")
    assert files(root) == before


def test_longdouble_positions(store):
    refused(store, dzv.InputError, "64 bits", good().astype(np.longdouble))


def test_lazily_another_shape_than_declared(store):
    """What a lazy array says of itself is checked when its blocks are there."""
    wrong = lazily(good()).map_blocks(lambda b: b[:, :2], meta=np.zeros((0, 3), np.float32))
    refused(store, dzv.InputError, r"partition \d: positions have the shape \(\d+, 2\)", wrong)


def test_lazily_another_dtype_than_declared(store):
    text = lazily(good()).map_blocks(lambda b: b.astype(str), meta=np.zeros((0, 3), np.float32))
    refused(store, dzv.InputError, r"partition \d.*integers or floats", text)
    moved = lazily(good()).map_blocks(lambda b: b.astype(np.float64) + 2**30 + 0.3, meta=np.zeros((0, 3), np.float32))
    refused(store, dzv.InputError, "as float32 moves", moved)
    table = dd.from_pandas(frame(), npartitions=3)
    moved = table.map_partitions(lambda p: p.astype(np.float64) + 2**30 + 0.3, meta=frame().iloc[:0])
    refused(store, dzv.InputError, "as float32 moves", moved)
    text = table.map_partitions(lambda p: p.astype({"y": str}), meta=frame().iloc[:0])
    refused(store, dzv.InputError, r"partition \d: positions are integers or floats", text)


def test_too_far_for_the_grid(store):
    refused(store, dzv.InputError, r"2\*\*53|larger chunk_shape", with_value(3, 0, 1e300))


@per_chunk_only
def test_too_far_for_a_shard_number(store):
    refused(store, (dzv.InputError, dzv.PlanError), "larger chunk_shape", with_value(3, 0, -1e9))


@pytest.mark.parametrize("points", [np.zeros((3, 4)) - [0, 0, 0, 5], np.full((2, 3), 1e9)], ids=["negative, 4 axes", "far out"])
def test_shards_without_a_number(points, tmp_path):
    """Shard numbers beyond 64 bits: refused where shards were asked for, done without where they were not."""
    options = {"chunk_shape": (10,) * points.shape[1], "layout": "per_chunk"}
    store = dzv.create(tmp_path / "s.zv", **options, shard_chunks=4)
    message = refused(store, dzv.PlanError, "shard_chunks=1", points)
    assert "larger chunk_shape" in message
    for shards in (1, "auto"):
        store = dzv.create(tmp_path / "s.zv", **options, shard_chunks=shards, overwrite=True)
        dzv.write_points(store, points)
        assert (store.level(0).read().positions == points).all()


@pytest.mark.parametrize("form", FORMS)
def test_out_of_bounds(form, tmp_path):
    store = dzv.create(tmp_path / "s.zv", chunk_shape=CHUNK, bounds=([0, 0, 0], [30, 30, 30]))
    message = refused(store, dzv.BoundsError, "out of bounds", FORMS[form](with_value(50, 2, 30.5)))
    assert "out_of_bounds='ignore'" in message
    assert "30.5" in message


# -------------------------------------------------------------------------------------------------- lengths


COLUMNS = {
    "attribute": lambda values: {"attributes": {"mass": values}},
    "object_ids": lambda values: {"object_ids": values},
}


@pytest.mark.parametrize("what", COLUMNS)
@pytest.mark.parametrize("n", [0, N - 1, N + 1, 2 * N])
def test_wrong_lengths(what, n, store):
    values = np.zeros(n, np.int64)
    column = "mass" if what == "attribute" else "object_ids"
    refused(store, dzv.InputError, f"'{column}' has {n} rows, positions have {N}", **COLUMNS[what](values))
    refused(store, dzv.InputError, f"'{column}' has {n} rows, positions have {N}", lazily(good()), **COLUMNS[what](values))
    if n:
        refused(
            store,
            dzv.InputError,
            f"'{column}' has {n} rows, positions have {N}",
            lazily(good()),
            **COLUMNS[what](lazily(values)),
        )


@pytest.mark.parametrize("what", COLUMNS)
def test_wrong_lengths_that_show_when_they_are_read(what, store):
    values = np.zeros(N, np.int64)
    shorter = unknown(values)[:None].map_blocks(lambda b: b[:-1], dtype=np.int64)
    refused(
        store,
        dzv.InputError,
        r"partition \d: .* has (12 rows, positions have 13|7 rows, positions have 8)",
        unknown(good()),
        **COLUMNS[what](shorter),
    )
    longer = unknown(values).map_blocks(lambda b: np.r_[b, 0], dtype=np.int64)
    refused(
        store,
        dzv.InputError,
        r"partition \d: .* has (14 rows, positions have 13|9 rows, positions have 8)",
        unknown(good()),
        **COLUMNS[what](longer),
    )
    other = unknown(values, chunks=20)
    refused(store, dzv.InputError, "partitions.*compute_chunk_sizes", unknown(good()), **COLUMNS[what](other))


@pytest.mark.parametrize("what", COLUMNS)
def test_a_known_length_that_is_wrong(what, store):
    """Lengths declared, but not kept: no row may slip to its neighbour."""
    values = lazily(np.zeros(N, np.int64)).map_blocks(lambda b: b[:-1], chunks=lazily(np.zeros(N)).chunks, dtype=np.int64)
    refused(
        store,
        dzv.InputError,
        "has (12 rows, positions have 13|7 rows, positions have 8)",
        lazily(good()),
        **COLUMNS[what](values),
    )


def test_lazy_beside_what_is_in_memory(store):
    refused(store, dzv.InputError, "'mass' is lazy", attributes={"mass": lazily(np.zeros(N))})
    refused(store, dzv.InputError, "'object_ids' is lazy", object_ids=lazily(np.zeros(N, int)))
    refused(
        store, dzv.InputError, "'mass' is in memory.*compute_chunk_sizes", unknown(good()), attributes={"mass": np.zeros(N)}
    )
    series = dd.from_pandas(pd.Series(np.zeros(N)), npartitions=3)
    refused(store, dzv.InputError, "'mass' has 3 partitions", lazily(good()), attributes={"mass": series})
    refused(store, dzv.InputError, "Delayed", lazily(good()), attributes={"mass": series.to_delayed()[0]})


def test_a_scalar_is_no_attribute(store):
    refused(store, dzv.InputError, "one value", attributes={"mass": 1.0})
    refused(store, dzv.InputError, "one value|dtype", attributes={"mass": None})


# -------------------------------------------------------------------------------------------------- attributes


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (np.zeros((N, 2, 2)), "one value"),
        (np.zeros((N, 0)), "one value"),
        (np.full((N, 2), "a"), "strings with 2 dimensions"),
        (np.zeros(N, "V8"), "dtype"),
        (np.zeros(N, [("a", int)]), "dtype"),
        (np.zeros(N, "M8"), "unit"),
        (np.array([{"a": 1}] * N, object), "strings"),
        (np.array(["a", 1] * (N // 2), object), "not a string"),
        (np.array([[1], ["a"]] * (N // 2), object)[:, 0], "not a string"),
        (np.array([b"\xff"] * N), "UTF-8"),
        (np.array(["a\0"] * N, object), "NUL"),
    ],
)
def test_values_that_no_attribute_holds(values, match, store):
    refused(store, dzv.InputError, match, attributes={"mass": values})
    refused(store, dzv.InputError, match, lazily(good()), attributes={"mass": lazily(values)})


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("x", "axis"),
        ("z", "axis"),
        ("a/b", "'/'"),
        ("/a", "'/'"),
        ("a\\b", "name can't hold"),
        ("", "non-empty"),
        (".", "'.'"),
        ("..", "'.'"),
        ("zarr.json", "zarr.json"),
        ("a\nb", "control"),
        ("object_id", "object_ids="),
        (3, "strings"),
        (None, "strings"),
        (b"a", "strings"),
    ],
)
def test_names(name, match, store):
    refused(store, dzv.InputError, match, attributes={name: np.zeros(N)})
    refused(store, dzv.InputError, match, lazily(good()), attributes={name: lazily(np.zeros(N))})


@pytest.mark.parametrize("name", ["a/b", "..", "object_id"])
def test_names_of_columns(name, store):
    table = frame(**{name: np.zeros(N)})
    refused(store, dzv.InputError, re.escape(name), table)
    refused(store, dzv.InputError, re.escape(name), dd.from_pandas(table, npartitions=3))


def test_columns_of_the_same_name(store):
    table = frame(mass=np.arange(N))
    table.insert(4, "mass", np.arange(N) * 2, allow_duplicates=True)
    refused(store, dzv.InputError, "mass", table)
    table = frame()
    table.insert(3, "x", np.arange(N) * 2, allow_duplicates=True)
    refused(store, dzv.InputError, "x", table)


def test_unknown_columns(store):
    table = frame(mass=np.zeros(N))
    for positions in (table, dd.from_pandas(table, npartitions=3)):
        refused(store, dzv.InputError, "unknown column 'mas'.*mass", positions, attributes=["mas"])
        refused(store, dzv.InputError, "unknown column 'cell'", positions, object_ids="cell")
        refused(store, dzv.InputError, "unknown column 'z'", positions.rename(columns={"z": "depth"}))
        refused(store, dzv.InputError, "list of column names", positions, attributes="mass")
        refused(store, dzv.InputError, "axis", positions, attributes=["x"])
    refused(store, dzv.InputError, "name of a column", positions, object_ids=np.zeros(N, int))  # whose rows no partition has
    refused(store, dzv.InputError, "mapping", attributes=["mass"])
    refused(store, dzv.InputError, "name of an axis", attributes=table)
    refused(store, dzv.InputError, "names a column", object_ids="cell")


def test_frames_with_wrong_axes(store):
    table = frame().astype({"y": str})
    refused(store, dzv.InputError, "'y' is an axis", table)
    refused(store, dzv.InputError, "'y' is an axis", dd.from_pandas(table, npartitions=3))
    holes = frame()
    holes["y"] = pd.array([None, *range(N - 1)], "Int64")
    refused(store, dzv.InputError, "'y'.*missing", holes)
    refused(store, dzv.InputError, "'y'.*missing", dd.from_pandas(holes, npartitions=3))


def test_time_zones(store):
    dates = pd.date_range("2026-01-01", periods=N, tz="Europe/Vienna")
    table = frame(when=dates)
    refused(store, dzv.InputError, r"'when'.*tz_convert\(None\)", table)
    refused(store, dzv.InputError, r"'when'.*tz_convert\(None\)", dd.from_pandas(table, npartitions=3))
    refused(store, dzv.InputError, "time zone|not a string", attributes={"when": pd.Series(dates)})


def test_missing_values_in_integers(store):
    for dtype in ("Int16", "boolean", "int64[pyarrow]"):
        table = frame(n=pd.array([None, *[1] * (N - 1)], dtype))
        refused(store, dzv.InputError, "'n'.*missing", table)
        refused(store, dzv.InputError, "partition.*'n'.*missing", dd.from_pandas(table, npartitions=3))


@pytest.mark.parametrize("lazy", [False, True])
def test_too_many_categories(lazy, store):
    """In one partition, or only in all of them together."""
    names = np.array([f"c{i}" for i in range(N)])
    wrap = (lambda a: lazily(a, 10)) if lazy else (lambda a: a)
    refused(
        store,
        dzv.InputError,
        "'s' has more than 59 distinct.*max_categories",
        wrap(good()),
        attributes={"s": wrap(names)},
        max_categories=59,
    )
    refused(
        store, dzv.InputError, "'s' has more than 9 distinct", wrap(good()), attributes={"s": wrap(names)}, max_categories=9
    )
    refused(
        store, dzv.InputError, "max_categories is between", wrap(good()), attributes={"s": wrap(names)}, max_categories=70_000
    )
    refused(store, dzv.InputError, "max_categories is between", wrap(good()), attributes={"s": wrap(names)}, max_categories=0)
    dzv.write_points(store, wrap(good()), attributes={"s": wrap(names)}, max_categories=60, mode="overwrite")


def test_more_categories_than_a_dictionary_holds(store):
    n = 70_000
    points = np.random.default_rng(0).uniform(0, 30, (n, 3))
    names = np.arange(n).astype(str)
    refused(store, dzv.InputError, "distinct strings", points, attributes={"s": names}, max_categories=65_535)
    refused(
        store,
        dzv.InputError,
        "distinct strings",
        lazily(points, 7000),
        attributes={"s": lazily(names, 7000)},
        max_categories=65_535,
    )


def test_lazily_another_attribute_than_declared(store):
    points, values = lazily(good()), lazily(np.arange(N))
    for wrong in (
        values.map_blocks(lambda b: b.astype(float) + 0.5, meta=np.zeros(0, int)),
        values.map_blocks(lambda b: b.astype(str), meta=np.zeros(0, int)),
        values.map_blocks(lambda b: np.stack([b, b], axis=1), meta=np.zeros(0, int)),
        values.map_blocks(lambda b: b + 2**40, meta=np.zeros(0, np.int32)),
        values.map_blocks(lambda b: -b - 1, meta=np.zeros(0, np.uint8)),
        values.map_blocks(lambda b: b.astype("M8[s]"), meta=np.zeros(0, int)),
        values.map_blocks(lambda b: b.astype(complex), meta=np.zeros(0, float)),
    ):
        refused(store, dzv.InputError, r"partition \d: attribute 'v'", points, attributes={"v": wrong})
    text = lazily(np.full(N, "a")).map_blocks(lambda b: np.arange(len(b)), meta=np.zeros(0, "U1"))
    refused(store, dzv.InputError, r"partition \d: attribute 'v'", points, attributes={"v": text})
    finer = lazily(np.arange(N).astype("M8[s]")).map_blocks(lambda b: b.astype("M8[ns]") + 1, meta=np.zeros(0, "M8[s]"))
    refused(store, dzv.InputError, r"partition \d: attribute 'v'", points, attributes={"v": finer})


def test_lazily_narrower_than_declared_is_fine(tmp_path):
    store = dzv.create(tmp_path / "s.zv", chunk_shape=(1000,) * 3)
    narrow = lazily(np.arange(N)).map_blocks(lambda b: b.astype(np.int16), meta=np.zeros(0, np.int64))
    points = lazily(good()).map_blocks(lambda b: b, meta=np.zeros((0, 3), np.float64))
    dzv.write_points(store, points, attributes={"v": narrow})
    read = store.level(0).read()
    assert read.attributes["v"].dtype == np.int64
    assert read.attributes["v"].tolist() == list(range(N))
    assert read.positions.dtype == np.float64
    assert (read.positions == good()).all()


def test_lazily_other_categories_than_declared(store):
    """A value beyond an ordered category's declared ones."""
    table = frame(c=pd.Categorical(["a"] * N, ["a", "b"], ordered=True))
    meta = table.iloc[:0]

    def wrong(part):
        return part.assign(c="zz")

    lazy = dd.from_pandas(table, npartitions=3).map_partitions(wrong, meta=meta)
    refused(store, dzv.InputError, "'zz'.*declared categories", lazy)


def test_an_input_that_fails(store):
    """An error of the user's own task comes through as it is, and nothing is stored."""

    def fail(block, block_info=None):
        if len(block) and block_info and block_info[0]["chunk-location"][0] == 2:
            raise OSError("disk on fire")
        return block

    root = store.group.path
    before = files(root)
    with pytest.raises(OSError, match="disk on fire"):
        dzv.write_points(store, lazily(good()).map_blocks(fail, meta=np.zeros((0, 3), np.float32)), mode="overwrite")
    assert files(root) == before


# -------------------------------------------------------------------------------------------------- objects


@per_chunk_only
@pytest.mark.parametrize("form", ["numpy", "dask", "frame"])
@pytest.mark.parametrize(
    ("ids", "missing"), [([1, 2, 3], 0), ([0, 1, 3], 2), ([0, 2**62], 1), ([7], 0), ([0, 1, 2, 900_000_000_000_000_123], 3)]
)
def test_sparse_object_ids(form, ids, missing, store):
    """Segment ids as segmentations have them: an error that says how to map them."""
    ids = np.resize(np.array(ids), N)
    if form == "numpy":
        arguments = {"positions": good(), "object_ids": ids}
    elif form == "dask":
        arguments = {"positions": lazily(good()), "object_ids": lazily(ids)}
    else:
        arguments = {"positions": dd.from_pandas(frame(cell=ids), npartitions=3), "object_ids": "cell"}
    message = refused(store, dzv.InputError, f"without gaps, {missing} is missing", **arguments)
    assert "numpy.unique" in message
    assert "return_inverse" in message


@pytest.mark.parametrize(
    ("ids", "match"),
    [
        (np.full(N, -1), "between 0"),
        (np.full(N, 2**63, np.uint64), "between 0"),
        (np.zeros(N), "integers"),
        (np.zeros(N, bool), "integers"),
        (np.full(N, "a"), "integers"),
        (np.zeros((N, 1), int), r"shape \(N,\)"),
    ],
)
def test_bad_object_ids(ids, match, store):
    refused(store, dzv.InputError, match, object_ids=ids)
    refused(store, dzv.InputError, match, lazily(good()), object_ids=lazily(ids))


def test_object_ids_lazily_no_integers(store):
    ids = lazily(np.arange(N) % 3)
    for wrong in (
        ids.map_blocks(lambda b: b + 0.5, meta=np.zeros(0, int)),
        ids.map_blocks(lambda b: b.astype(str), meta=np.zeros(0, int)),
    ):
        refused(store, dzv.InputError, r"partition \d: object_ids are integers", lazily(good()), object_ids=wrong)


def test_object_ids_of_a_frame(store):
    refused(store, dzv.InputError, "integers", frame(cell=np.zeros(N)), object_ids="cell")
    holes = frame(cell=pd.array([None, *[0] * (N - 1)], "Int64"))
    refused(store, dzv.InputError, "missing", holes, object_ids="cell")
    refused(store, dzv.InputError, "missing", dd.from_pandas(holes, npartitions=2), object_ids="cell")


IDS = np.arange(N) % 5


@pytest.mark.parametrize(
    ("attributes", "match"),
    [
        ({"a": np.zeros(4)}, "'a' has 4 rows for 5 objects"),
        ({"a": np.zeros(6)}, "'a' has 6 rows for 5 objects"),
        ({"a": 1.0}, "'a'"),
        ({"a/b": np.zeros(5)}, "'/'"),
        ({"": np.zeros(5)}, "name"),
        ({"..": np.zeros(5)}, "name"),
        ({"a": np.zeros(5, "M8[s]")}, "numbers"),
        (np.zeros((5, 2)), "DataFrame indexed by object id"),
        ([1, 2], "DataFrame indexed by object id"),
        (pd.DataFrame({"a": [1.0, 2.0]}, index=[0, 0]), "distinct"),
        (pd.DataFrame({"a": [1.0, 2.0]}, index=[0, -1]), "distinct"),
        (pd.DataFrame({"a": [1.0, 2.0]}, index=["p", "q"]), "distinct"),
        ({"a": np.ma.masked_array(np.zeros((5, 2), int), np.eye(5, 2))}, "'a': row 0 has a missing value"),
    ],
)
def test_bad_object_attributes(attributes, match, store):
    refused(store, dzv.InputError, match, object_ids=IDS, object_attributes=attributes)


@per_chunk_only
@pytest.mark.parametrize(
    ("attributes", "match"),
    [
        ({"a": np.full(5, "s")}, "numbers"),
        (pd.DataFrame({"a": ["text"]}, index=[1]), "numbers"),
        (pd.DataFrame({"a": [1.0]}, index=[17]), "without gaps, 5 is missing"),
    ],
)
def test_object_attributes_that_one_layout_takes(attributes, match, store):
    refused(store, dzv.InputError, match, object_ids=IDS, object_attributes=attributes)


@pytest.mark.parametrize(
    ("groups", "match"),
    [
        ({0: [5]}, "group 0 names object 5"),
        ({0: [-1]}, "group 0 names object -1"),
        ({-1: [0]}, "numbered from 0"),
        ({"a": [0]}, "numbered from 0"),
        ({True: [0]}, "numbered from 0"),
        ({0.5: [0]}, "numbered from 0"),
        ({0: [0.5]}, "group 0"),
        ({0: ["a"]}, "group 0"),
        ({0: 3}, "group 0"),
        ({2**40: [0]}, "group 1099511627776"),
        ([[0, 1]], "mapping"),
    ],
)
def test_bad_groups(groups, match, store):
    refused(store, dzv.InputError, match, object_ids=IDS, groups=groups)


def test_objects_need_ids(store):
    refused(store, dzv.InputError, "pass object_ids=", object_attributes={"a": np.zeros(5)})
    refused(store, dzv.InputError, "pass object_ids=", groups={0: [0]})


# -------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"mode": "append"}, "'error' or 'overwrite'"),
        ({"mode": None}, "'error' or 'overwrite'"),
        ({"out_of_bounds": "clip"}, "'raise'"),
        ({"position_tolerance": -1}, "position_tolerance"),
        ({"position_tolerance": np.nan}, "position_tolerance"),
        ({"max_categories": 0}, "max_categories"),
    ],
)
def test_bad_options(options, match, store):
    before = files(store.group.path)
    with pytest.raises(dzv.InputError, match=match):
        dzv.write_points(store, good(), **{"mode": "overwrite", **options})
    assert files(store.group.path) == before


def test_no_store(tmp_path):
    with pytest.raises(dzv.InputError, match=r"dask_zv\.Store"):
        dzv.write_points(str(tmp_path / "s.zv"), good())
    assert not (tmp_path / "s.zv").exists()


def test_read_only(tmp_path):
    dzv.create(tmp_path / "s.zv", chunk_shape=CHUNK)
    before = files(tmp_path)
    with pytest.raises(dzv.ReadOnlyError, match=r"mode='r\+'"):
        dzv.write_points(dzv.open(tmp_path / "s.zv"), good())
    assert files(tmp_path) == before


def test_an_error_with_compute_false_comes_at_the_call(store):
    refused(store, dzv.InputError, "NaN", lazily(with_value(1, 1, np.nan)), compute=False)


# -------------------------------------------------------------------------------------------------- create


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"chunk_shape": (10, 10, 10), "bin_shape": (3, 10, 10)}, "multiple|bin"),
        ({"chunk_shape": (10, 10, 10), "bin_shape": (20, 10, 10)}, "multiple|bin"),
        ({"chunk_shape": (10, 10, 10), "bin_shape": (5, 5)}, "2 numbers for 3 axes"),
        ({"chunk_shape": (10, 10, 10), "bin_shape": (5, 5, 0)}, "positive"),
        ({"chunk_shape": (10,)}, "2 to 4 axes"),
        ({"chunk_shape": (10,) * 5}, "2 to 4 axes"),
        ({"chunk_shape": ()}, "2 to 4 axes"),
        ({"chunk_shape": 10}, "sequence of numbers"),
        ({"chunk_shape": ("a", "b")}, "sequence of numbers"),
        ({"chunk_shape": (10, -10)}, "positive"),
        ({"chunk_shape": (10, 0)}, "positive"),
        ({"chunk_shape": (10, np.nan)}, "positive"),
        ({"chunk_shape": (10, np.inf)}, "positive"),
        ({"chunk_shape": (10, 10), "bounds": ([0, 0], [-1, 1])}, "above its greatest"),
        ({"chunk_shape": (10, 10), "bounds": ([0, 0, 0], [1, 1, 1])}, "two corners"),
        ({"chunk_shape": (10, 10), "bounds": ([0, 0], [np.inf, 1])}, "finite"),
        ({"chunk_shape": (10, 10), "bounds": ([0, np.nan], [1, 1])}, "NaN"),
        ({"chunk_shape": (10, 10), "bounds": 5}, "two corners"),
        ({"chunk_shape": (10, 10), "bounds": "all"}, "two corners"),
        ({"chunk_shape": (10, 10), "axes": ["x"]}, "ax"),
        ({"chunk_shape": (10, 10), "axes": ["x", "x"]}, "x"),
        ({"chunk_shape": (10, 10), "axes": ["x", ""]}, "ax|name"),
        ({"chunk_shape": (10, 10), "axes": ["x", "a/b"]}, "a/b"),
        ({"chunk_shape": (10, 10), "axes": ["x", {"type": "space"}]}, "name"),
        ({"chunk_shape": (10, 10), "axes": ["x", {"name": "y", "unit": 3}]}, "unit"),
        ({"chunk_shape": (10, 10), "axes": [1, 2]}, "ax|name"),
        ({"chunk_shape": (10, 10), "axes": "xy z"}, "ax"),
        ({"chunk_shape": (10, 10), "geometry": "blob"}, "point_cloud"),
        ({"chunk_shape": (10, 10), "layout": "rows"}, "per_chunk"),
        ({"chunk_shape": (10, 10), "compressor": "lzma"}, "'zstd', 'blosc'"),
        ({"chunk_shape": (10, 10), "compressor": "lzma", "layout": "per_chunk"}, "raw bytes"),
        ({"chunk_shape": (10, 10), "shard_chunks": 0}, "shard_chunks"),
        ({"chunk_shape": (10, 10), "shard_chunks": 1.5}, "shard_chunks"),
        ({"chunk_shape": (10, 10), "shard_chunks": True}, "shard_chunks"),
        ({"chunk_shape": (10, 10), "shard_chunks": "many"}, "shard_chunks"),
        ({"chunk_shape": (10, 10), "dtype": "complex64"}, "integers or floats"),
        ({"chunk_shape": (10, 10), "dtype": "S3"}, "integers or floats"),
        ({"chunk_shape": (10, 10), "dtype": "nonsense"}, "nonsense"),
        ({"chunk_shape": (10, 10), "crs": "EPSG:none"}, "crs"),
        ({"chunk_shape": (10, 10), "crs": {"a": object()}}, "crs"),
        ({"chunk_shape": (10, 10), "crs": {"a": np.nan}}, "crs"),
    ],
)
def test_create(options, match, tmp_path):
    with pytest.raises((dzv.InputError, TypeError), match=match):
        dzv.create(tmp_path / "s.zv", **options)
    assert not (tmp_path / "s.zv").exists()


def test_create_over_something(tmp_path):
    dzv.write_points(dzv.create(tmp_path / "s.zv", chunk_shape=CHUNK), good())
    before = files(tmp_path)
    with pytest.raises(dzv.StoreError, match="overwrite=True"):
        dzv.create(tmp_path / "s.zv", chunk_shape=CHUNK)
    with pytest.raises(dzv.InputError):
        dzv.create(tmp_path / "s.zv", chunk_shape=(1, -1), overwrite=True)
    assert files(tmp_path) == before


# -------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"bbox": [0, 1]}, "two corners"),
        ({"bbox": ([0, 0], [1, 1])}, "two corners"),
        ({"bbox": ([0, 0, 0], [1, 1, np.nan])}, "NaN"),
        ({"bbox": ([0, 0, 2], [1, 1, 1])}, "above its greatest"),
        ({"bbox": "all"}, "two corners"),
        ({"order": "input"}, "'chunk' or 'object'"),
        ({"attributes": ["nope"]}, "'nope'"),
        ({"objects": [0.5]}, "objects"),
        ({"objects": "a"}, "objects"),
        ({"objects": [True]}, "objects"),
    ],
)
def test_reading(options, match, tmp_path):
    store = dzv.create(tmp_path / "s.zv", chunk_shape=CHUNK)
    dzv.write_points(store, good(), object_ids=IDS)
    with pytest.raises(dzv.InputError, match=match):
        store.level(0).read(**options)
