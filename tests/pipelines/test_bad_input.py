"""Data that can't be stored as given is refused with an error that says why, before anything is stored.

That is what is in memory, and what one look at lazy data tells; what only a join of all data tells is an error of the write, that
leaves nothing visible.
"""

import re
import warnings
from dataclasses import dataclass
from typing import Any

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from forms import but, lazily, unknown
from geometries_reference import ALL, VERBS
from points_reference import files
from small import always, sizes

import dask_zv as dzv

N = 60
RNG = np.random.default_rng(0)
POINTS = RNG.uniform(0, 30, (N, 3))
SMALL = POINTS.astype(np.float32)
LENGTHS = [20, 10, 30]
LINES = POINTS.reshape(-1, 2, 3)
EDGES = RNG.integers(0, N, (40, 2))
FACES = RNG.integers(0, N, (40, 3))
CHAIN = np.arange(N) - 1
THREE = np.repeat([0, 1, 2], 20)
FIVE = np.arange(N) % 5
ZEROS = np.zeros(N, np.int64)
AXES = ["x", "y", "z"]
CHUNK = (10, 10, 10)

_small = always(scheduler="sync")


def frame(**columns):
    return pd.DataFrame({**dict(zip(AXES, POINTS.T, strict=True)), **columns})


def spread(table, parts=7):
    return dd.from_pandas(table, npartitions=parts)


def changed(values, function, meta=None):
    """Return a lazy array that is not what it says of itself: its blocks went through a function."""
    values = np.asarray(values)
    return lazily(values).map_blocks(function, meta=values[:0] if meta is None else meta)


FORMS = {
    "numpy": lambda v: v,
    "dask": lazily,
    "unknown": unknown,
    "pandas": lambda v: pd.DataFrame(v, columns=AXES),
    "frame": lambda v: spread(pd.DataFrame(v, columns=AXES), 4),
}


@dataclass
class Bad:
    """What is refused: all that the error says, the positions and the other arguments, and the store, where it is no usual one."""

    match: tuple[str, ...]
    positions: Any
    options: dict[str, Any]
    error: Any = dzv.InputError
    store: dict[str, Any] | None = None


def bad(match, positions=POINTS, error=dzv.InputError, store=None, **options):
    return Bad((match,) if isinstance(match, str) else match, positions, options, error, store)


def in_forms(what, of, forms=tuple(FORMS)):
    """Return one case for each form, made by `of`."""
    return {f"{what}, {form}": of(FORMS[form]) for form in forms}


PER_CHUNK = {"layout": "per_chunk"}
WRONG_POSITIONS = {
    "flat": (np.zeros(5), r"shape \(N, 3\)"),
    "two axes": (np.zeros((5, 2)), r"shape \(N, 3\)"),
    "four axes": (np.zeros((5, 4)), r"shape \(N, 3\)"),
    "three dimensions": (np.zeros((5, 3, 1)), r"shape \(N, 3\)"),
    "complex": (np.zeros((5, 3), complex), "integers or floats"),
    "bool": (np.zeros((5, 3), bool), "integers or floats"),
    "dates": (np.zeros((5, 3), "M8[s]"), "integers or floats"),
    "strings": (np.full((5, 3), "1"), "integers or floats"),
    "lazy, two axes": (da.zeros((5, 2), chunks=2), r"shape \(N, 3\)"),
    "lazy, bool": (da.zeros((5, 3), dtype=bool), "integers or floats"),
    "None": (None, r"shape \(N, 3\)|integers or floats"),
    "a file": ("points.csv", r"shape \(N, 3\)|integers or floats|a file is read first"),
    "long doubles": (POINTS.astype(np.longdouble), "64 bits"),
    "too far for the grid": (but(POINTS, (3, 0), 1e300), r"2\*\*53|larger chunk_shape"),
    "lazily two axes": (changed(SMALL, lambda b: b[:, :2]), r"partition \d: positions have the shape \(\d+, 2\)"),
    "lazily text": (changed(SMALL, lambda b: b.astype(str)), r"partition \d.*integers or floats"),
    "lazily finer": (changed(SMALL, lambda b: b.astype(float) + 2**30 + 0.3), "as float32 moves"),
    "a frame, lazily finer": (
        spread(frame().astype("f4"), 3).map_partitions(lambda p: p.astype(float) + 2**30 + 0.3, meta=frame().astype("f4")[:0]),
        "as float32 moves",
    ),
    "a frame, lazily text": (
        spread(frame(), 3).map_partitions(lambda p: p.astype({"y": str}), meta=frame()[:0]),
        r"partition \d: positions are integers or floats",
    ),
    "an axis of text": (frame().astype({"y": str}), "'y' is an axis"),
    "an axis of text, lazily": (spread(frame().astype({"y": str})), "'y' is an axis"),
    "an axis with holes": (frame(y=pd.array([None, *range(N - 1)], "Int64")), "'y'.*missing"),
    "an axis with holes, lazily": (spread(frame(y=pd.array([None, *range(N - 1)], "Int64"))), "'y'.*missing"),
}
CASTS = {  # (dtype of the store, value, dtype of the positions)
    "a float as int32": ("int32", 1.5, "f8", "as int32 moves"),
    "negative as uint8": ("uint8", -1, "i8", "as uint8 moves"),
    "too large for int8": ("int8", 300, "i8", "as int8 moves"),
    "2**25 + 1 as float32": ("float32", 2**25 + 1, "i8", "as float32 moves"),
    "infinite as float32": ("float32", 1e300, "f8", "float64 positions as float32"),
    "infinite as float16": ("float16", 70_000.0, "f8", "as float16"),
}
COLUMNS = {"mass": lambda v: {"attributes": {"mass": v}}, "object_ids": lambda v: {"object_ids": v}}
WRONG_VALUES = {
    "two dimensions more": (np.zeros((N, 2, 2)), "one value"),
    "no channels": (np.zeros((N, 0)), "one value"),
    "strings in channels": (np.full((N, 2), "a"), "strings with 2 dimensions"),
    "void": (np.zeros(N, "V8"), "dtype"),
    "records": (np.zeros(N, [("a", int)]), "dtype"),
    "dates without a unit": (np.zeros(N, "M8"), "unit"),
    "dicts": (np.array([{"a": 1}] * N, object), "strings"),
    "strings and numbers": (np.array(["a", 1] * (N // 2), object), "not a string"),
    "numbers and strings": (np.array([[1], ["a"]] * (N // 2), object)[:, 0], "not a string"),
    "no UTF-8": (np.array([b"\xff"] * N), "UTF-8"),
    "NUL": (np.array(["a\0"] * N, object), "NUL"),
}
WRONG_NAMES = {
    "x": "axis", "z": "axis", "a/b": "'/'", "/a": "'/'", "a\\b": "name can't hold", "": "non-empty", ".": "'.'", "..": "'.'",
    "zarr.json": "zarr.json", "a\nb": "control", "object_id": "object_ids=", 3: "strings", None: "strings", b"a": "strings",
}  # fmt: skip
NOT_AS_DECLARED = {
    "floats": (np.arange(N), lambda b: b.astype(float) + 0.5),
    "text": (np.arange(N), lambda b: b.astype(str)),
    "channels": (np.arange(N), lambda b: np.stack([b, b], axis=1)),
    "too large": (np.arange(N, dtype="i4"), lambda b: b.astype("i8") + 2**40),
    "negative": (np.arange(N, dtype="u1"), lambda b: -b.astype(int) - 1),
    "dates": (np.arange(N), lambda b: b.astype("M8[s]")),
    "complex": (np.arange(N, dtype=float), lambda b: b.astype(complex)),
    "numbers for text": (np.full(N, "a"), lambda b: np.arange(len(b))),
    "finer dates": (np.arange(N).astype("M8[s]"), lambda b: b.astype("M8[ns]") + 1),
}
WRONG_IDS = {
    "negative": (np.full(N, -1), "between 0"),
    "beyond 63 bits": (np.full(N, 2**63, np.uint64), "between 0"),
    "floats": (np.zeros(N), "integers"),
    "bools": (np.zeros(N, bool), "integers"),
    "strings": (np.full(N, "a"), "integers"),
    "a table": (np.zeros((N, 1), int), r"shape \(N,\)"),
}
WRONG_OBJECT_ATTRIBUTES = {
    "too few": ({"a": np.zeros(4)}, "'a' has 4 rows for 5 objects"),
    "too many": ({"a": np.zeros(6)}, "'a' has 6 rows for 5 objects"),
    "one number": ({"a": 1.0}, "'a'"),
    "a path for a name": ({"a/b": np.zeros(5)}, "'/'"),
    "an empty name": ({"": np.zeros(5)}, "name"),
    "dots for a name": ({"..": np.zeros(5)}, "name"),
    "dates": ({"a": np.zeros(5, "M8[s]")}, "numbers"),
    "a table": (np.zeros((5, 2)), "DataFrame indexed by object id"),
    "a list": ([1, 2], "DataFrame indexed by object id"),
    "the same index twice": (pd.DataFrame({"a": [1.0, 2.0]}, index=[0, 0]), "distinct"),
    "a negative index": (pd.DataFrame({"a": [1.0, 2.0]}, index=[0, -1]), "distinct"),
    "an index beyond 63 bits": (pd.DataFrame({"a": [1.0]}, index=np.array([2**63], "u8")), str(2**63)),
    "an index of strings": (pd.DataFrame({"a": [1.0, 2.0]}, index=["p", "q"]), "distinct"),
    "bools": ({"a": np.ones(5, bool)}, "astype"),
    "complex": ({"a": np.ones(5, complex)}, "numbers or strings"),
    "bytes": ({"a": np.full(5, b"x")}, "numbers or strings"),
    "dicts": ({"a": np.array([{}] * 5, object)}, "numbers or strings"),
    "NUL": ({"a": np.array(["x\0"] * 5, object)}, "NUL"),
    "no components": ({"a": np.zeros((5, 0))}, "no components"),
    "long doubles": ({"a": np.zeros(5, "g")}, "no value for 'missing'"),
    "a part of a row": (
        {"a": np.ma.masked_array(np.zeros((5, 2), int), np.eye(5, 2))}, "'a': row 0 has a missing value",
    ),
}  # fmt: skip
WRONG_GROUPS = {
    "an unknown object": ({0: [5]}, "group 0 names object 5"),
    "a negative object": ({0: [-1]}, "group 0 names object -1"),
    "a negative group": ({-1: [0]}, "numbered from 0"),
    "a name": ({"a": [0]}, "numbered from 0"),
    "a bool": ({True: [0]}, "numbered from 0"),
    "half a number": ({0.5: [0]}, "numbered from 0"),
    "half an object": ({0: [0.5]}, "group 0"),
    "the name of an object": ({0: ["a"]}, "group 0"),
    "no list": ({0: 3}, "group 0"),
    "an object beyond 63 bits": ({0: np.array([2**63], "u8")}, str(2**63)),
    "a great number": ({2**40: [0]}, "group 1099511627776"),
    "a list": ([[0, 1]], "mapping"),
}
TABLE = frame(mass=np.zeros(N))
DATES = pd.date_range("2026-01-01", periods=N, tz="Europe/Vienna")
CATEGORIES = frame(c=pd.Categorical(["a"] * N, ["a", "b"], ordered=True))
WORDS = np.array([f"c{i}" for i in range(N)])


def bad_points():
    """Return what ``write_points`` refuses."""
    out = {
        **{f"positions: {k}": bad(match, values) for k, (values, match) in WRONG_POSITIONS.items()},
        **{
            k: bad(match, but(np.zeros((8, 3), dtype), (3, 2), value), store={"dtype": stored})
            for k, (stored, value, dtype, match) in CASTS.items()
        },
        **in_forms(
            "loses precision",  # UTM northings in float32 move by a quarter of a metre
            lambda of: bad(
                ("position_tolerance", "float64", r"5400000\.3"), of(but(POINTS, (20, 1), 5_400_000.3)),
                store={"chunk_shape": (1000,) * 3, "bin_shape": (10,) * 3, "dtype": "float32"},
            ),
        ),
        **in_forms(
            "out of bounds",
            lambda of: bad(
                ("out of bounds", "out_of_bounds='ignore'", r"30\.5"), of(but(POINTS, (50, 2), 30.5)), dzv.BoundsError,
                {"bounds": ([0] * 3, [30] * 3)},
            ),
        ),
        "too far for a shard number": bad(
            "larger chunk_shape", but(POINTS, (3, 0), -1e9), (dzv.InputError, dzv.PlanError), PER_CHUNK
        ),
        "an error with compute=False comes at the call": bad("NaN", lazily(but(POINTS, (1, 1), np.nan)), compute=False),
        "a column twice": bad("mass", pd.concat([TABLE, TABLE[["mass"]]], axis=1)),
        "an axis twice": bad("x", pd.concat([frame(), frame()[["x"]]], axis=1)),
        "a name of a column, beside an array": bad("names a column", object_ids="cell"),
        "names beside an array": bad("mapping", attributes=["mass"]),
        "a table with axes": bad("name of an axis", attributes=TABLE),
        "ids that no partition has": bad("name of a column", spread(TABLE), object_ids=ZEROS),
        "a scalar": bad("one value", attributes={"mass": 1.0}),
        "no values": bad("one value|dtype", attributes={"mass": None}),
        "in memory beside unknown": bad("'mass' is in memory.*compute_chunk_sizes", unknown(POINTS), attributes={"mass": ZEROS}),
        "a series of other partitions": bad(
            "'mass' has 3 partitions", lazily(POINTS), attributes={"mass": spread(pd.Series(ZEROS), 3)}
        ),
        "delayed": bad("Delayed", lazily(POINTS), attributes={"mass": spread(pd.Series(ZEROS), 3).to_delayed()[0]}),
        "a series with a time zone": bad("time zone|not a string", attributes={"when": pd.Series(DATES)}),
        "other categories than declared": bad(
            "'zz'.*declared categories", spread(CATEGORIES, 3).map_partitions(lambda p: p.assign(c="zz"), meta=CATEGORIES[:0])
        ),
        "ids of a frame that are floats": bad("integers", frame(cell=np.zeros(N)), object_ids="cell"),
        "attributes without ids": bad("pass object_ids=", object_attributes={"a": np.zeros(5)}),
        "groups without ids": bad("pass object_ids=", groups={0: [0]}),
        "append": bad("'error', 'overwrite' or 'append', not 'a'; did you mean 'append'", mode="a"),
        "almost a mode": bad("did you mean 'overwrite'", mode="overwite"),
        "no mode": bad("'error', 'overwrite' or 'append'", mode=None),
        "clip": bad("'raise'", out_of_bounds="clip"),
        "a negative tolerance": bad("position_tolerance", position_tolerance=-1),
        "no tolerance": bad("position_tolerance", position_tolerance=np.nan),
    }  # fmt: skip
    for value in (np.nan, np.inf, -np.inf):
        out |= in_forms(str(value), lambda of, v=value: bad(("NaN and infinite", "partition"), of(but(POINTS, (41, 1), v))))
    for name, of in COLUMNS.items():
        for n in (0, N - 1, N + 1, 2 * N):
            for form in ("numpy", "dask") if n else ("numpy",):
                given = FORMS[form](np.zeros(n, np.int64))
                for positions in (POINTS, lazily(POINTS)) if form == "numpy" else (lazily(POINTS),):
                    what = f"{n} {name}, {form}, beside {type(positions).__name__}"
                    out[what] = bad(f"'{name}' has {n} rows, positions have {N}", positions, **of(given))
        for what, function, said in (
            ("shorter", lambda b: b[:-1], "12 rows, positions have 13|7 rows, positions have 8"),
            ("longer", lambda b: np.r_[b, 0], "14 rows, positions have 13|9 rows, positions have 8"),
        ):
            values = unknown(ZEROS).map_blocks(function, dtype=np.int64)
            out[f"{name} that turn out {what}"] = bad(rf"partition \d: .* has ({said})", unknown(POINTS), **of(values))
        kept = lazily(ZEROS).map_blocks(lambda b: b[:-1], chunks=lazily(ZEROS).chunks, dtype=np.int64)  # no row may slip
        out[f"{name} shorter than declared"] = bad("has (12 rows|7 rows), positions have", lazily(POINTS), **of(kept))
        out[f"{name} in other partitions"] = bad("partitions.*compute_chunk_sizes", unknown(POINTS), **of(unknown(ZEROS, 20)))
    for form in ("numpy", "dask"):
        of = FORMS[form]
        for name, match in WRONG_NAMES.items():
            out[f"the name {name!r}, {form}"] = bad(match, of(POINTS), attributes={name: of(ZEROS)})
        for name, (values, match) in WRONG_VALUES.items():
            out[f"values: {name}, {form}"] = bad(match, of(POINTS), attributes={"mass": of(values)})
        for name, (ids, match) in WRONG_IDS.items():
            out[f"ids: {name}, {form}"] = bad(match, of(POINTS), object_ids=of(ids))
        for most, match in ((59, "'s' has more than 59 distinct.*max_categories"), (9, "'s' has more than 9 distinct")):
            words = {"attributes": {"s": of(WORDS)}, "max_categories": most}
            out[f"more than {most} categories, {form}"] = bad(match, of(POINTS), **words)
        for most in (0, 70_000):
            words = {"attributes": {"s": of(WORDS)}, "max_categories": most}
            out[f"{most} categories, {form}"] = bad("max_categories is between", of(POINTS), **words)
    for form, of in (("frame", lambda t: t), ("lazy frame", lambda t: spread(t, 3))):
        given = of(TABLE)
        out |= {
            f"unknown attribute, {form}": bad("unknown column 'mas'.*mass", given, attributes=["mas"]),
            f"unknown ids, {form}": bad("unknown column 'cell'", given, object_ids="cell"),
            f"unknown axis, {form}": bad("unknown column 'z'", given.rename(columns={"z": "depth"})),
            f"a name that is a near miss, {form}": bad("did you mean 'mass'", given, attributes={"heavy": "Mas"}),
            f"texts for ids, {form}": bad("number them.*pandas.factorize", of(frame(who=WORDS)), object_ids="who"),
            f"an axis for an attribute, {form}": bad("axis", given, attributes=["x"]),
            f"time zones, {form}": bad(r"'when'.*tz_convert\(None\)", of(frame(when=DATES))),
            f"ids with holes, {form}": bad(
                "missing", of(frame(cell=pd.array([None, *[0] * (N - 1)], "Int64"))), object_ids="cell"
            ),
        }
        for name in ("a/b", "..", "object_id"):
            out[f"column {name}, {form}"] = bad(re.escape(name), of(frame(**{name: np.zeros(N)})))
        for dtype in ("Int16", "boolean", "int64[pyarrow]"):
            table = of(frame(n=pd.array([None, *[1] * (N - 1)], dtype)))
            out[f"{dtype} with holes, {form}"] = bad("partition.*'n'.*missing" if "lazy" in form else "'n'.*missing", table)
    for name, (values, function) in NOT_AS_DECLARED.items():
        wrong = {"v": changed(values, function)}
        out[f"not as declared: {name}"] = bad(r"partition \d: attribute 'v'", lazily(POINTS), attributes=wrong)
    for name, function in (("floats", lambda b: b + 0.5), ("text", lambda b: b.astype(str))):
        out[f"ids that turn out {name}"] = bad(
            r"partition \d: object_ids are integers", lazily(POINTS), object_ids=changed(FIVE, function)
        )
    for known, missing in (([1, 2, 3], 0), ([0, 1, 3], 2), ([0, 2**62], 1), ([7], 0), ([0, 1, 2, 900_000_000_000_000_123], 3)):
        ids, match = np.resize(known, N), (f"without gaps, {missing} is missing", "numpy.unique", "return_inverse")
        for form in ("numpy", "dask"):
            given = {"object_ids": FORMS[form](ids)}
            out[f"ids {known}, {form}"] = bad(match, FORMS[form](POINTS), store=PER_CHUNK, **given)
        out[f"ids {known}, frame"] = bad(match, spread(frame(cell=ids), 3), store=PER_CHUNK, object_ids="cell")
    for name, (given, match) in WRONG_OBJECT_ATTRIBUTES.items():
        out[f"object attributes: {name}"] = bad(match, object_ids=FIVE, object_attributes=given)
    for name, (given, match) in WRONG_GROUPS.items():
        out[f"groups: {name}"] = bad(match, object_ids=FIVE, groups=given)
    for name, given, match in (  # what one layout takes
        ("strings", {"a": np.full(5, "s")}, "numbers"),
        ("a frame of strings", pd.DataFrame({"a": ["text"]}, index=[1]), "numbers"),
        ("an object without vertices", pd.DataFrame({"a": [1.0]}, index=[17]), "without gaps, 5 is missing"),
    ):
        out[f"per_chunk: {name}"] = bad(match, store=PER_CHUNK, object_ids=FIVE, object_attributes=given)
    return out


BAD: dict[str, dict[str, Bad]] = {
    "point_cloud": bad_points(),
    "line": {
        "points": bad(r"pairs of points, shape \(N, 2, D\), not \(60, 3\)", POINTS),
        "three endpoints": bad(r"not \(20, 3, 3\)", POINTS.reshape(20, 3, 3)),
        "another rank": bad(r"shape \(N, 3\) for the axes x, y, z", np.zeros((5, 2, 2))),
        "nothing": bad("pairs of points", None),
        "one value for each line": bad(r"'a' has the shape \(30,\).*each endpoint", LINES, attributes={"a": np.zeros(30)}),
        "short attribute": bad("'a' has 58 rows, positions have 60", LINES, attributes={"a": np.zeros((29, 2))}),
        "short lazy attribute": bad("'a' has 58 rows", lazily(LINES), attributes={"a": lazily(np.zeros((29, 2)))}),
        "attributes by name": bad("mapping of name to array", LINES, attributes=["a"]),
        "too few ids": bad(r"30 integers, one for each, not int64 \(29,\)", LINES, object_ids=np.arange(29)),
        "ids twice": bad("id 0 is given twice", LINES, object_ids=np.zeros(30, int)),
        "a column, without a frame": bad("object_ids are 30 integers", LINES, object_ids="who"),
        "a frame without ids": bad("need object_ids=", frame()),
        "rows of a line": bad("other than two endpoints.*write_polylines", frame(who=THREE), object_ids="who"),
        "one endpoint": bad("endpoints", frame(who=[*np.repeat(np.arange(29), 2), 29, 30]), object_ids="who"),
        "one endpoint, lazily": bad("endpoints", spread(frame(who=[0, *np.repeat(np.arange(1, 30), 2), 30])), object_ids="who"),
        "three endpoints, lazily": bad("endpoints", spread(frame(who=np.repeat(np.arange(20), 3)), 19), object_ids="who"),
        "unknown lengths": bad("compute_chunk_sizes", unknown(LINES)),
        "not a number": bad("NaN and infinite", but(LINES, (3, 1, 2), np.nan)),
        "a negative tolerance": bad("position_tolerance is a distance", LINES, position_tolerance=-1),
    },
    "polyline": {
        "no ends": bad("lengths=.*or object_ids="),
        "too many": bad("add up to 61 vertices, positions have 60", lengths=[20, 10, 31]),
        "too few, lazily": bad("add up to 40 vertices, positions have 60", lazily(POINTS), lengths=[20, 20]),
        "negative": bad("polyline 1 has the length -10", lengths=[70, -10]),
        "floats": bad("lengths are integers", lengths=[20.0, 40.0]),
        "a number": bad(r"shape \(O,\), not int64 \(\)", lengths=60),
        "a table": bad(r"\(1, 2\)", lengths=[[30, 30]]),
        "too few ids": bad(r"3 integers, one for each, not int64 \(2,\)", lengths=LENGTHS, object_ids=[1, 2]),
        "ids twice": bad("id 1 is given twice", lengths=LENGTHS, object_ids=[1, 2, 1]),
        "negative ids": bad("found -1 to 2", lengths=LENGTHS, object_ids=[1, 2, -1]),
        "ids that are floats": bad("3 integers", lengths=LENGTHS, object_ids=[1.0, 2, 3]),
        "ids that are names": bad("3 integers", lengths=LENGTHS, object_ids=["a", "b", "c"]),
        "ids beyond 64 bits": bad("18446744073709551615", lengths=LENGTHS, object_ids=np.array([1, 2, 2**64 - 1], "u8")),
        "rows apart": bad("3 objects come in 60 runs.*sort", object_ids=np.arange(N) % 3),
        "rows apart, lazily": bad("3 objects come in 60 runs", lazily(POINTS), object_ids=lazily(np.arange(N) % 3)),
        "rows apart in a frame": bad("must follow each other", spread(frame(who=np.r_[THREE[:50], THREE[:10]])), object_ids="who"),
        "an id for most vertices": bad("'object_ids' has 59 rows", object_ids=THREE[:59]),
        "a list of two ranks": bad(r"polyline 1 has the shape \(55, 2\)", [POINTS[:5], POINTS[5:, :2]]),
        "a list of numbers": bad(r"polyline 0 has the shape \(\)", [1.0, 2.0]),
        "a list, and lengths": bad("leave them out", [POINTS], lengths=[60]),
        "a short list of attributes": bad("'a' does not fit", [POINTS[:5], POINTS[5:]], attributes={"a": [np.zeros(5)]}),
        "a part of an attribute": bad("at polyline 0", [POINTS[:5], POINTS[5:]], attributes={"a": [np.zeros(4), np.zeros(56)]}),
        "an attribute beside a list": bad("'a' has 59 rows", [POINTS], attributes={"a": np.zeros(59)}),
        "names beside a list": bad("mapping of name to array", [POINTS], attributes=["a"]),
        "a frame without ids": bad("need object_ids=", frame()),
        "a frame and lengths": bad("lengths are for arrays", frame(), lengths=LENGTHS),
        "a frame and ids of another length": bad("has 59 rows, positions have", frame(), object_ids=THREE[:59]),
        "no such column": bad("unknown column 'who'", frame(), object_ids="who"),
        "short attribute": bad("'a' has 59 rows", lengths=LENGTHS, attributes={"a": np.zeros(59)}),
        "the name of an axis": bad("name of an axis", lengths=LENGTHS, attributes={"x": np.zeros(60)}),
        "lazy lengths alone": bad("lengths are lazy and positions are not", lengths=lazily(LENGTHS, 1)),
        "lazy lengths, cut otherwise": bad("3 partitions, positions 5", lazily(POINTS), lengths=lazily(LENGTHS, 1)),
        "lazy lengths, wrong": bad(r"partition \d: the lengths add up to [13]0.*have 20", lazily(POINTS, 20), lengths=lazily(LENGTHS, 1)),
        "lazy lengths, wrong in all": bad(r"partition \d: the lengths add up to [13]0.*have 20", unknown(POINTS, 20), lengths=lazily(LENGTHS, 1)),
        "lazy lengths, floats": bad("integers", lazily(POINTS, 20), lengths=lazily([20.0] * 3, 1)),
        "lazy lengths, negative": bad("polyline 2 has the length -20", lazily(POINTS, 20), lengths=lazily([20, 20, -20], 1)),
        "unknown lengths": bad("compute_chunk_sizes", unknown(POINTS), lengths=LENGTHS),
        "infinite": bad("NaN and infinite", but(POINTS, (5, 1), np.inf), lengths=LENGTHS),
        "another rank": bad(r"shape \(N, 3\)", POINTS[:, :2], lengths=LENGTHS),
        "object attributes": bad("2 rows for 3 objects", lengths=LENGTHS, object_attributes={"a": np.zeros(2)}),
        "members of groups": bad("names object 7", lengths=LENGTHS, groups={0: [7]}),
        "attributes of groups": bad("2 rows for 1 groups", lengths=LENGTHS, groups={0: [1]}, group_attributes={"w": np.zeros(2)}),
        "append": bad("mode is 'error', 'overwrite' or 'append'", lengths=LENGTHS, mode="appends"),
    },
    "skeleton": {
        "no parents": bad("needs parents=", parents=None),
        "too few": bad("'parents' has 59 rows", parents=CHAIN[:59]),
        "floats": bad("parents are integers", parents=CHAIN.astype(float)),
        "floats, with vertex_ids": bad("parents are integers", parents=CHAIN.astype(float), vertex_ids=np.arange(N)),
        "a table": bad(r"shape \(N,\)", parents=np.stack([CHAIN, CHAIN], 1)),
        "out of range": bad("vertex 7 has the parent 60: there are 60 vertices", parents=but(CHAIN, 7, 60)),
        "out of range, lazily": bad("the parent 60: there are 60", lazily(POINTS), parents=lazily(but(CHAIN, 7, 60))),
        "a cycle": bad("cycle", parents=but(CHAIN, 0, 59)),
        "a cycle of four": bad("cycle", parents=but(CHAIN, 0, 3)),
        "its own parent": bad("vertex 7 is its own ancestor", parents=but(CHAIN, 7, 7)),
        "a cycle with vertex_ids": bad("cycle", parents=but(CHAIN, 0, 59) + 100, vertex_ids=np.arange(N) + 100),
        "another object's": bad("vertex 20 of object 1 has the parent 19 of object 0", parents=CHAIN, object_ids=THREE),
        "a column, without a frame": bad("positions are no DataFrame", parents="up"),
        "no such column": bad("unknown column 'up'", frame(), parents="up"),
        "a frame and a short array": bad("59 rows", frame(), parents=CHAIN[:59]),
        "vertex_ids twice": bad("0 is given twice", parents=CHAIN, vertex_ids=np.arange(N) % 50),
        "vertex_ids twice in a frame": bad("0 is given twice", frame(up=CHAIN, n=np.arange(N) % 50), parents="up", vertex_ids="n"),
        "unknown": bad("no vertex 0, it is not among vertex_ids", parents=CHAIN, vertex_ids=np.arange(N) + 5),
        "negative vertex_ids": bad("not negative, found -5", parents=CHAIN, vertex_ids=np.arange(N) - 5),
        "vertex_ids that are floats": bad("vertex_ids are integers", parents=CHAIN, vertex_ids=np.arange(N) * 1.0),
        "no such column of ids": bad("unknown column 'n' for vertex_ids", frame(up=CHAIN), parents="up", vertex_ids="n"),
        "too few vertex_ids": bad("vertex_ids have 59 rows", parents=CHAIN, vertex_ids=np.arange(59)),
        "missing parents": bad("row 0 has a missing value.*roots are -1", frame(up=pd.Series([None, *CHAIN[1:]], dtype="Int64")), parents="up"),
        "NaN for a root": bad("integers, not float64", frame(up=[np.nan, *CHAIN[1:]]), parents="up"),
        "not a number": bad("NaN and infinite", but(POINTS, (5, 1), np.nan), parents=CHAIN),
    },
    "graph": {
        "ragged positions": bad("positions: rows of several lengths", [[1, 2, 3], [4, 5]], edges=EDGES),
        "ragged attributes": bad("'a': rows of several lengths", edges=EDGES, attributes={"a": [[1, 2], [3]] * 30}),
        "ragged edge attributes": bad("'a': rows of several lengths", edges=EDGES, edge_attributes={"a": [[1, 2], [3]] * 20}),
        "no edges": bad(r"edges must have the shape \(E, 2\)", edges=None),
        "a name": bad(r"edges must have the shape \(E, 2\)", edges="edges"),
        "faces": bad(r"\(E, 2\), not \(40, 3\)", edges=FACES),
        "flat": bad(r"\(E, 2\), not \(80,\)", edges=EDGES.ravel()),
        "ragged": bad("several lengths", edges=[[1, 2], [3]]),
        "floats": bad("edges are integers", edges=EDGES.astype(float)),
        "floats in a frame": bad("edges are integers", edges=spread(pd.DataFrame(EDGES * 1.0, columns=["source", "target"]))),
        "floats that claim to be integers": bad(r"part \d are integers, not float64", edges=lazily(EDGES).map_blocks(lambda b: b * 1.0, dtype=int)),
        "out of range": bad(r"edge 3 is .*60\]: there are 60 vertices, 0 to 59", edges=but(EDGES, (3, 1), 60)),
        "negative": bad(r"edge 3 is .*-1\]: there are 60", edges=but(EDGES, (3, 1), -1)),
        "out of range, lazily": bad("part 2: edge 7 is", lazily(POINTS), edges=lazily(but(EDGES, (33, 1), 60))),
        "other columns": bad("source and target; these are a, b", edges=pd.DataFrame(EDGES, columns=["a", "b"])),
        "other columns, lazily": bad("source and target", edges=spread(pd.DataFrame(EDGES, columns=["a", "b"]))),
        "short attribute": bad("'a' has 39 rows for 40 edges", edges=EDGES, edge_attributes={"a": np.zeros(39)}),
        "short lazy attribute": bad("39 rows for 40", edges=lazily(EDGES), edge_attributes={"a": lazily(np.zeros(39))}),
        "short unknown attribute": bad(
            "part 3: attribute 'a' has 9 rows for 10 edges", edges=unknown(EDGES, 10), edge_attributes={"a": unknown(np.zeros(39), 10)}
        ),
        "other partitions": bad("4 partitions.*lengths are unknown", edges=unknown(EDGES, 8), edge_attributes={"a": unknown(np.zeros(40), 10)}),
        "an attribute in memory": bad("compute_chunk_sizes", edges=unknown(EDGES), edge_attributes={"a": np.zeros(40)}),
        "a lazy attribute": bad("lazy and edges are not", edges=EDGES, edge_attributes={"a": lazily(np.zeros(40))}),
        "one number": bad("one or C for each edge", edges=EDGES, edge_attributes={"a": 5.0}),
        "one number beside lazy edges": bad("one or C for each edge", edges=lazily(EDGES), edge_attributes={"a": 5.0}),
        "three dimensions": bad("one or C for each edge", edges=EDGES, edge_attributes={"a": np.zeros((40, 2, 2))}),
        "strings": bad("return_inverse", edges=EDGES, edge_attributes={"a": np.full(40, "x")}),
        "a column of strings": bad("'kind'.*return_inverse", edges=pd.DataFrame(EDGES, columns=["source", "target"]).assign(kind="x")),
        "dates without a unit": bad("without a unit", edges=EDGES, edge_attributes={"a": np.zeros(40, "M8")}),
        "a path for a name": bad("'a/b'", edges=EDGES, edge_attributes={"a/b": np.zeros(40)}),
        "an empty name": bad("non-empty", edges=EDGES, edge_attributes={"": np.zeros(40)}),
        "names beside an array": bad("mapping of name to array", edges=EDGES, edge_attributes=["a"]),
        "no such column": bad("unknown column 'w'", edges=pd.DataFrame(EDGES, columns=["source", "target"]), edge_attributes=["w"]),
        "vertex_ids twice": bad("0 is given twice", edges=EDGES, vertex_ids=np.arange(N) % 50),
        "unknown": bad("there is no vertex [0-4], it is not among vertex_ids", edges=EDGES, vertex_ids=np.arange(N) + 5),
        "negative ends": bad("no vertex -7", edges=but(EDGES, (3, 0), -7), vertex_ids=np.arange(N)),
        "negative ends, lazily": bad("not negative", lazily(POINTS), edges=but(EDGES, (3, 0), -7), vertex_ids=np.arange(N)),
        "negative vertex_ids": bad("not negative", edges=EDGES, vertex_ids=np.arange(N) - 1),
        "negative lazy vertex_ids": bad("vertex_ids are between", lazily(POINTS), edges=EDGES, vertex_ids=lazily(np.arange(N) - 1)),
        "too few ids": bad("'object_ids' has 59 rows", edges=EDGES, object_ids=THREE[:59]),
        "negative ids": bad("object ids are between.*-1 to 1", edges=EDGES, object_ids=THREE - 1),
        "ids that are floats": bad("object_ids are integers", edges=EDGES, object_ids=THREE * 1.0),
        "not a number": bad("NaN and infinite", but(POINTS, (5, 1), np.nan), edges=EDGES),
        "short vertex attribute": bad("'a' has 59 rows", edges=EDGES, attributes={"a": np.zeros(59)}),
    },
    "mesh": {
        "no faces": bad(r"faces must have the shape \(F, k\)", faces=None),
        "edges": bad("faces have 3 to 16 vertices each, not 2", faces=EDGES),
        "one vertex": bad("3 to 16 vertices each, not 1", faces=np.zeros((5, 1), int)),
        "17 vertices": bad("3 to 16 vertices each, not 17", faces=np.zeros((5, 17), int)),
        "two kinds of faces": bad("several lengths", faces=[[0, 1, 2], [0, 1, 2, 3]]),
        "floats": bad("faces are integers", faces=FACES.astype(float)),
        "out of range": bad("face 3 is .*there are 60 vertices", faces=but(FACES, (3, 1), 60)),
        "other columns": bad("v0, v1, v2, …; these are a, b, c", faces=pd.DataFrame(FACES, columns=list("abc"))),
        "a gap in the columns": bad("v0, v1, v2", faces=pd.DataFrame(FACES, columns=["v0", "v1", "v3"])),
        "two columns": bad("3 to 16", faces=pd.DataFrame(EDGES, columns=["v0", "v1"])),
        "short attribute": bad("face attribute 'a' has 39 rows for 40 faces", faces=FACES, face_attributes={"a": np.zeros(39)}),
    },
}  # fmt: skip


def refused(store, case, verb):
    """Write what is bad; check the error, and that the store has the same objects with the same bytes after it."""
    root = store.group.path
    before = files(root)
    with pytest.raises(case.error) as caught:
        verb(store, case.positions, **{"mode": "overwrite", **case.options})
    assert isinstance(caught.value, dzv.ZVError)
    for match in case.match:
        assert re.search(match, str(caught.value)), str(caught.value)
    assert files(root) == before


GOOD = {
    "point_cloud": (POINTS, {"attributes": {"a": FIVE}, "object_ids": FIVE}),
    "line": (LINES, {}),
    "polyline": (POINTS, {"lengths": LENGTHS}),
    "streamline": (POINTS, {"lengths": LENGTHS}),
    "skeleton": (POINTS, {"parents": CHAIN}),
    "graph": (POINTS, {"edges": EDGES}),
    "mesh": (POINTS, {"faces": FACES}),
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A store of each geometry that has something in it, and one that has not."""
    root = tmp_path_factory.mktemp("stores")
    made = {}
    for geometry in ALL:
        made[geometry] = [dzv.create(root / f"{geometry}-{n}", geometry=geometry, chunk_shape=CHUNK) for n in range(2)]
        positions, options = GOOD[geometry]
        VERBS[geometry](made[geometry][0], positions, **options)
    return made


@pytest.mark.parametrize(("geometry", "name"), [(g, n) for g in BAD for n in BAD[g]])
def test_refused(geometry, name, stores, tmp_path):
    case, own = BAD[geometry][name], stores[geometry]
    if case.store is not None:
        own = [dzv.create(tmp_path / "s.zv", **{"geometry": geometry, "chunk_shape": CHUNK, **case.store})]
    for store in own:
        refused(store, case, VERBS[geometry])


@pytest.mark.parametrize("layout", ["grid", "per_chunk"])
def test_an_input_that_fails(layout, tmp_path):
    """An error of the user's own task comes through as it is, and nothing is stored."""

    def fail(block, block_info=None):
        if len(block) and block_info and block_info[0]["chunk-location"][0] == 2:
            raise OSError("disk on fire")
        return block

    store = dzv.create(tmp_path / "s.zv", chunk_shape=CHUNK, layout=layout)
    before = files(tmp_path)
    with pytest.raises(OSError, match="disk on fire"):
        dzv.write_points(store, changed(POINTS, fail), mode="overwrite")
    assert files(tmp_path) == before


@pytest.mark.parametrize("points", [np.zeros((3, 4)) - [0, 0, 0, 5], np.full((2, 3), 1e9)], ids=["negative, 4 axes", "far out"])
def test_shards_without_a_number(points, tmp_path):
    """Shard numbers beyond 64 bits: refused where shards were asked for, done without where they were not."""
    options = {"chunk_shape": (10,) * points.shape[1], "layout": "per_chunk"}
    store = dzv.create(tmp_path / "s.zv", **options, shard_chunks=4)
    refused(store, bad(("shard_chunks=1", "larger chunk_shape"), points, dzv.PlanError), dzv.write_points)
    for shards in (1, "auto"):
        store = dzv.create(tmp_path / "s.zv", **options, shard_chunks=shards, overwrite=True)
        dzv.write_points(store, points)
        assert (store.level(0).read().positions == points).all()


def test_as_many_categories_as_there_may_be():
    for of in (np.asarray, lazily):
        store = dzv.create({}, chunk_shape=CHUNK)
        dzv.write_points(store, of(POINTS), attributes={"s": of(WORDS)}, max_categories=60)
    points, names = np.random.default_rng(0).uniform(0, 30, (70_000, 3)), np.arange(70_000).astype(str)
    for given in ((points, names), (lazily(points, 7000), lazily(names, 7000))):
        with pytest.raises(dzv.InputError, match="distinct strings"):  # more than a dictionary holds
            dzv.write_points(dzv.create({}, chunk_shape=CHUNK), given[0], attributes={"s": given[1]}, max_categories=65_535)


def test_lazily_narrower_than_declared_is_fine():
    store = dzv.create({}, chunk_shape=(1000,) * 3)
    narrow = changed(np.arange(N), lambda b: b.astype(np.int16))
    dzv.write_points(store, changed(SMALL, lambda b: b, np.zeros((0, 3))), attributes={"v": narrow})
    read = store.level(0).read()
    assert (read.attributes["v"].dtype, read.positions.dtype) == (np.int64, np.float64)
    assert read.attributes["v"].tolist() == list(range(N))
    assert (read.positions == SMALL).all()


@pytest.mark.parametrize("geometry", ALL)
def test_stores_of_another_geometry(geometry, stores):
    positions, options = GOOD[geometry]
    for other in ALL:
        if VERBS[other] is VERBS[geometry]:
            continue
        match = rf"a store of {other}: .* wants one made with dzv.create\(.*'{geometry}'"
        refused(stores[other][0], bad(match, positions, **options), VERBS[geometry])


@pytest.mark.parametrize("geometry", ALL)
def test_no_store_and_stores_that_are_read_only(geometry, stores, tmp_path, monkeypatch):
    positions, options = GOOD[geometry]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(dzv.InputError, match="no store is here: pass chunk_shape="):
        VERBS[geometry]("s.zv", positions, **options)
    assert list(tmp_path.iterdir()) == []
    store = dzv.open(stores[geometry][0].group.path)
    refused(store, bad(r"mode='r\+'", positions, dzv.ReadOnlyError, **options), VERBS[geometry])


@pytest.mark.parametrize("geometry", ["skeleton", "graph", "mesh"])
def test_no_links_in_layout_per_chunk(geometry, tmp_path):
    with pytest.raises(dzv.InputError, match="layout='grid'"):
        dzv.create(tmp_path / "s.zv", geometry=geometry, chunk_shape=CHUNK, layout="per_chunk")
    assert not (tmp_path / "s.zv").exists()


def test_gaps_in_ids_of_layout_per_chunk(tmp_path):
    for geometry, points, options in (("line", LINES, {}), ("polyline", POINTS, {"lengths": [2] * 30})):
        store = dzv.create(tmp_path / geometry, geometry=geometry, chunk_shape=CHUNK, layout="per_chunk")
        refused(store, bad("without gaps", points, object_ids=np.arange(30) * 2, **options), VERBS[geometry])


LATER = {
    "parents unknown": ("skeleton", r"parent of vertex \d+ names vertex [0-4], which is not among", {"parents": lazily(CHAIN), "vertex_ids": lazily(np.arange(N) + 5)}),
    "an id twice": ("skeleton", "two vertices have (the|that) id", {"parents": lazily(CHAIN % 50), "vertex_ids": lazily(np.arange(N) % 50)}),
    "another object's": ("skeleton", r"object [12] has the parent \d+ of object [01]", {"parents": lazily(CHAIN), "object_ids": lazily(THREE)}),
    "an edge to nowhere": ("graph", r"edge \d+ names vertex [0-4], which is not among", {"edges": lazily(EDGES), "vertex_ids": lazily(np.arange(N) + 5)}),
    "an edge to two vertices": ("graph", "distinct", {"edges": lazily(EDGES % 50), "vertex_ids": lazily(np.arange(N) % 50)}),
    "a face to nowhere": ("mesh", r"face \d+ names vertex", {"faces": lazily(FACES), "vertex_ids": lazily(np.arange(N) + 5)}),
}  # fmt: skip


@pytest.mark.parametrize("case", LATER)
@pytest.mark.parametrize("blocks", [{}, {"write_block_chunks": 2, "write_block_bytes": (100, 1000)}], ids=["one", "many"])
def test_found_while_writing(case, blocks, tmp_path):
    """What only a join of all data tells is an error of the write: then nothing is visible, and the store can be written yet."""
    geometry, match, options = LATER[case]
    store = dzv.create(tmp_path / "s.zv", geometry=geometry, chunk_shape=CHUNK)
    with sizes(**blocks):
        with pytest.raises(dzv.InputError, match=match):
            VERBS[geometry](store, lazily(POINTS), **options)
        level = dzv.open(tmp_path / "s.zv").level(0)
        with warnings.catch_warnings():  # told where a file lies there already
            warnings.filterwarnings("ignore", "the level is empty: a write is under way", dzv.ZVWarning)
            assert level.metadata.vertex_count == len(level.read()) == 0
        positions, good = GOOD[geometry]
        VERBS[geometry](dzv.open(tmp_path / "s.zv", "r+"), positions, mode="overwrite", **good)
    assert len(dzv.open(tmp_path / "s.zv").level(0).read()) == N


@pytest.mark.parametrize("length", [1, 2, 3, 4, 8, 20])
def test_a_lazy_cycle_in_a_chunk(length):
    store = dzv.create({}, geometry="skeleton", chunk_shape=CHUNK)
    with pytest.raises(dzv.InputError, match="cycle"):
        dzv.write_skeletons(store, lazily(POINTS / 10), parents=lazily(but(CHAIN, 0, length - 1)))
    assert store.level(0).metadata.vertex_count == 0


def dims(n=2, **options):
    return {"chunk_shape": (10,) * n, **options}


CREATE = [
    (dims(3, bin_shape=(3, 10, 10)), "multiple|bin"),
    (dims(3, bin_shape=(20, 10, 10)), "multiple|bin"),
    (dims(3, bin_shape=(5, 5)), "2 numbers for 3 axes"),
    (dims(3, bin_shape=(5, 5, 0)), "positive"),
    (dims(1), "2 to 4 axes"),
    (dims(5), "2 to 4 axes"),
    (dims(0), "2 to 4 axes"),
    ({"chunk_shape": 10}, "sequence of numbers"),
    ({"chunk_shape": ("a", "b")}, "sequence of numbers"),
    *(({"chunk_shape": (10, wrong)}, "positive") for wrong in (-10, 0, np.nan, np.inf)),
    (dims(bounds=([0, 0], [-1, 1])), "above its greatest"),
    (dims(bounds=([0, 0, 0], [1, 1, 1])), "two corners"),
    (dims(bounds=([0, 0], [np.inf, 1])), "finite"),
    (dims(bounds=([0, np.nan], [1, 1])), "NaN"),
    (dims(bounds=5), "two corners"),
    (dims(bounds="all"), "two corners"),
    (dims(axes=["x"]), "ax"),
    (dims(axes=["x", "x"]), "x"),
    (dims(axes=["x", ""]), "ax|name"),
    (dims(axes=["x", "a/b"]), "a/b"),
    (dims(axes=["x", {"type": "space"}]), "name"),
    (dims(axes=["x", {"name": "y", "unit": 3}]), "unit"),
    (dims(axes=[1, 2]), "ax|name"),
    (dims(axes="xy z"), "ax"),
    (dims(geometry="blob"), "point_cloud"),
    (dims(layout="rows"), "per_chunk"),
    (dims(compressor="lzma"), "'zstd', 'blosc'"),
    (dims(compressor="lzma", layout="per_chunk"), "raw bytes"),
    *((dims(shard_chunks=wrong), "shard_chunks") for wrong in (0, 1.5, True, "many")),
    (dims(dtype="complex64"), "integers or floats"),
    (dims(dtype="S3"), "integers or floats"),
    (dims(dtype="nonsense"), "nonsense"),
    *((dims(crs=wrong), "crs") for wrong in ("EPSG:none", {"a": object()}, {"a": np.nan})),
]


@pytest.mark.parametrize(("options", "match"), CREATE)
def test_create(options, match, tmp_path):
    with pytest.raises((dzv.InputError, TypeError), match=match):
        dzv.create(tmp_path / "s.zv", **options)
    assert not (tmp_path / "s.zv").exists()


def test_create_over_something(tmp_path):
    dzv.write_points(dzv.create(tmp_path / "s.zv", chunk_shape=CHUNK), POINTS)
    before = files(tmp_path)
    with pytest.raises(dzv.StoreError, match="overwrite=True"):
        dzv.create(tmp_path / "s.zv", chunk_shape=CHUNK)
    with pytest.raises(dzv.InputError):
        dzv.create(tmp_path / "s.zv", chunk_shape=(1, -1), overwrite=True)
    assert files(tmp_path) == before


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
        *(({"objects": wrong}, "objects") for wrong in ([0.5], "a", [True])),
    ],
)
def test_reading(options, match, stores):
    with pytest.raises(dzv.InputError, match=match):
        stores["point_cloud"][0].level(0).read(**options)
