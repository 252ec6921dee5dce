"""Whatever holds a column is taken as what it says, or refused with the place: masks, nullable dtypes, other libraries' containers."""

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import xarray as xr
from geometries_reference import LINKED, VERBS
from layouts import LAYOUTS, in_both_layouts
from small import always

import dask_zv as dzv

N = 6
POINTS = np.random.default_rng(0).uniform(0, 20, (N, 3))
LAZY = da.from_array(POINTS, chunks=(2, 3))
MASK = np.arange(N) == 2
CREATE = {"chunk_shape": (10, 10, 10)}
NONE = np.zeros((0, 3))
IDS = [0, 0, 1, 1, 2, 2]
FRAME = pd.DataFrame(POINTS, columns=list("xyz"))

_sync = always(scheduler="sync")


def new(geometry="point_cloud", layout="grid"):
    return dzv.create({}, geometry=geometry, layout=layout, **CREATE)


def stored(values, positions=POINTS):
    """Return an attribute as it is read back, in the order of the input."""
    store = new()
    dzv.write_points(store, positions, attributes={"a": values, "row": np.arange(N)})
    found = store.level(0).read().attributes
    return found["a"][np.argsort(found["row"])]


def masked(values):
    return np.ma.masked_array(values, MASK)


def lazily_masked(values):
    return da.ma.masked_array(da.from_array(np.asarray(values), chunks=2), da.from_array(MASK, chunks=2))


def same(found, wanted):
    found, wanted = np.asarray(found), np.asarray(wanted)
    if wanted.dtype.kind == "f":
        return np.array_equal(found, wanted, equal_nan=True)
    if wanted.dtype.kind == "M":
        return np.array_equal(np.isnat(found), np.isnat(wanted)) and (found == wanted)[~np.isnat(wanted)].all()
    return found.tolist() == wanted.tolist()


NAN = np.where(MASK, np.nan, np.arange(N))
DAYS = np.where(MASK, np.datetime64("NaT", "D"), np.datetime64("2020-01-01") + np.arange(N))
WORDS = np.array(["a", "b", None, "d", "e", "f"], object)


class Sparse:
    """As scipy.sparse's arrays: dense when it is told to be."""

    def toarray(self):
        return np.eye(N)


TAKEN = {
    "masked floats": (masked(np.arange(N, dtype=float)), NAN),
    "masked dates": (masked(np.datetime64("2020-01-01T00", "s") + 86400 * np.arange(N)), DAYS),
    "masked strings": (masked(list("abcdef")), WORDS),
    "masked integers, none missing": (np.ma.masked_array(np.arange(N), np.zeros(N, bool)), np.arange(N)),
    "masked channels": (np.ma.masked_array(np.ones((N, 2)), np.tile([False, True], (N, 1))), np.tile([1, np.nan], (N, 1))),
    "a list of masked rows": ([np.ma.masked_array([1.0, 2], [0, 1])] * N, np.tile([1, np.nan], (N, 1))),
    "Int64": (pd.array(np.arange(N), "Int64"), np.arange(N)),
    "Float64": (pd.array([*NAN[:2], None, *NAN[3:]], "Float64"), NAN),
    "string": (pd.array(WORDS, "string"), WORDS),
    "str": (pd.Series(WORDS.tolist()), WORDS),
    "an index of str": (pd.Index(list("abcdef")), np.array(list("abcdef"))),
    "a categorical": (pd.Categorical(WORDS.tolist()), WORDS),
    "dates of pandas": (pd.Series(DAYS.astype("M8[ns]")), DAYS),
    "sparse": (pd.arrays.SparseArray([0, 0, 3, 0, 0, 1]), np.array([0, 0, 3, 0, 0, 1])),
    "a sparse column": (pd.Series(pd.arrays.SparseArray(NAN)), NAN),
    "a sparse matrix": (Sparse(), np.eye(N)),
    "pyarrow integers": (pa.array(range(N)), np.arange(N)),
    "pyarrow floats": (pa.array([*NAN[:2], None, *NAN[3:]]), NAN),
    "pyarrow strings": (pa.array(WORDS.tolist()), WORDS),
    "pyarrow chunks": (pa.chunked_array([[0, 1, 2], [3, 4, 5]]), np.arange(N)),
    "no pyarrow chunks": (pa.chunked_array([pa.array(range(N))]).cast(pa.int16()), np.arange(N)),
    "pyarrow dates": (pa.array([None if m else d for d, m in zip(DAYS.tolist(), MASK, strict=True)], pa.date32()), DAYS),
    "pyarrow dictionary": (pa.array(WORDS.tolist()).dictionary_encode(), WORDS),
    "pyarrow pairs": (pa.array([[1.0, 2.0]] * N, pa.list_(pa.float64(), 2)), np.tile([1.0, 2], (N, 1))),
    "floats and None": (np.array([0.0, 1, None, 3, 4, 5], object), NAN),
    "a list with None": ([0.0, 1.0, None, 3.0, 4.0, 5.0], NAN),
    "a list with NA": ([0.0, 1.0, pd.NA, 3.0, 4.0, 5.0], NAN),
    "a list of strings and NaN": (["a", "b", float("nan"), "d", "e", "f"], WORDS),
    "pyarrow string views": (pa.array(WORDS.tolist(), pa.string_view()), WORDS),
    "a list of dates": ([None if m else pd.Timestamp(d) for d, m in zip(DAYS, MASK, strict=True)], DAYS),
    "objects that are integers": (np.arange(N).astype(object), np.arange(N)),
    "xarray": (xr.DataArray(NAN, dims="v"), NAN),
    "strings of xarray": (xr.DataArray(WORDS, dims="v"), WORDS),
}


def test_taken():
    for name, (values, wanted) in TAKEN.items():
        assert same(stored(values), wanted), name


def test_taken_lazily():
    lazy = {
        "masked floats": (lazily_masked(np.arange(N, dtype=float)), NAN),
        "masked dates": (lazily_masked(np.datetime64("2020-01-01", "s") + 86400 * np.arange(N)), DAYS),
        "masked integers, none missing": (da.ma.masked_greater(da.arange(N, chunks=2), 99), np.arange(N)),
        "a series": (dd.from_pandas(pd.Series(range(N), dtype="Int64"), npartitions=3), np.arange(N)),
        "strings": (dd.from_pandas(pd.Series(WORDS.tolist()), npartitions=3), WORDS),
        "chunked xarray": (xr.DataArray(NAN, dims="v").chunk(v=2), NAN),
        "pyarrow beside dask": (pa.array(range(N)), np.arange(N)),
        "masked beside dask": (masked(np.arange(N, dtype=float)), NAN),
    }
    for name, (values, wanted) in lazy.items():
        assert same(stored(values, LAZY), wanted), name
        assert same(stored(values, xr.DataArray(LAZY, dims=("v", "axis"))), wanted), name


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (masked(np.arange(N)), "row 2 .*int64"),
        (masked(np.ones(N, bool)), "row 2 .*bool"),
        (lazily_masked(np.arange(N)), "partition 1: 'a': row 0 .*int64"),
        (lazily_masked(np.ones(N, bool)), "partition 1: 'a': row 0 .*bool"),
        (pd.array([0, 1, None, 3, 4, 5], "Int64"), "row 2 .*int64"),
        (pd.array([True, None] * 3, "boolean"), "row 1 .*bool"),
        (pa.array([0, 1, None, 3, 4, 5]), "row 2 .*int64"),
        (pa.array([True, None] * 3), "row 1 .*bool"),
        (["a", 1, "b", 2, "c", 3], "not a string"),
        (pa.table({"u": range(N)}), "Table is no array"),
        (pa.array([(1, 2, 3)] * N, pa.month_day_nano_interval()), "can't be stored"),
        (pd.MultiIndex.from_product([[0, 1], [0, 1, 2]]), "2 levels"),
        ([0, 1, None, 3, 4, 5], "row 2 .*integer"),
        ([0, 1, pd.NA, 3, 4, 5], "row 2 .*integer"),
        (pd.date_range("2020", periods=N, tz="UTC"), "time zone"),
        (pd.array(pd.date_range("2020", periods=N, tz="UTC"), pd.ArrowDtype(pa.timestamp("us", "UTC"))), "time zone"),
        (pa.array([[1], [1, 2]] * 3), "no array"),
        (pa.array([{"k": 1}] * N), "no array"),
        (pd.period_range("2020", periods=N), "not a string"),
        (pd.interval_range(0, N), "not a string"),
        ([2**70] * N, "1180591620717411303424"),
        ([{}] * N, "strings"),
        ({1, 2}, "one value"),
        ((x for x in range(N)), "one value"),
        (None, "one value"),
        (xr.Dataset({"a": ("v", NAN)}), "no array"),
        (dask.delayed([1] * N), "Delayed"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_refused(values, match):
    store = new()
    lazy = dask.is_dask_collection(values)
    with pytest.raises(dzv.InputError, match=match):
        dzv.write_points(store, LAZY if lazy else POINTS, attributes={"a": values})
    assert store.level(0).metadata.vertex_count == 0


def test_masks_and_missing_values_of_every_argument():
    ids = masked(np.arange(N) % 2)
    one = np.ma.masked_array([[0, 1], [2, 3]], [[0, 0], [1, 0]])
    table = FRAME.assign(cell=pd.array([0, 1, None, 0, 0, 0], "Int64"))
    lazy_table = dd.from_pandas(table, npartitions=3, sort=False)
    points, lines = (np.ma.masked_array(p, p > 15) for p in (POINTS, POINTS.reshape(3, 2, 3)))
    lengths = np.ma.masked_array([2, 4], [0, 1])
    weights = {"edges": one.data, "edge_attributes": {"w": np.ma.masked_array([1, 2], [0, 1])}}
    for geometry, positions, options, match in (
        ("point_cloud", points, {}, r"position 1 is .*nan"),
        ("point_cloud", da.ma.masked_greater(LAZY, 15), {}, r"partition \d: position \d is .*nan"),
        ("point_cloud", np.ma.masked_array(POINTS.astype(int), POINTS > 15), {}, "positions: row 1"),
        ("point_cloud", POINTS, {"object_ids": ids}, "object_ids: row 2"),
        ("point_cloud", LAZY, {"object_ids": lazily_masked(np.zeros(N, int))}, "partition 1: object_ids: row 0"),
        ("point_cloud", table, {"object_ids": "cell"}, "object_ids: row 2"),
        ("point_cloud", lazy_table, {"object_ids": "cell"}, r"partition 1: .*'cell'\): row 0"),
        ("point_cloud", POINTS, {"object_ids": [0] * N, "groups": {0: ids}}, "group 0: row 2"),
        ("polyline", POINTS, {"lengths": lengths}, "lengths: row 1"),
        ("polyline", POINTS, {"lengths": [2, 4], "object_ids": pd.array([1, None], "Int64")}, "row 1"),
        ("polyline", [points], {}, "position 1 is .*nan"),
        ("line", lines, {}, "position 1 is .*nan"),
        ("skeleton", POINTS, {"parents": ids}, "parents: row 2 .*roots are -1"),
        ("skeleton", POINTS, {"parents": [-1] * N, "vertex_ids": ids}, "vertex_ids: row 2"),
        ("graph", POINTS, {"edges": one}, "edges: row 1"),
        ("graph", LAZY, {"edges": da.ma.masked_equal(da.from_array(one.data), 2)}, "edges, part 0: row 1"),
        ("graph", POINTS, weights, "'w': row 1"),
        ("mesh", POINTS, {"faces": np.ma.masked_array([[0, 1, 2]], [[0, 0, 1]])}, "faces: row 0"),
    ):
        with pytest.raises(dzv.InputError, match=match):
            VERBS[geometry](new(geometry), positions, **options)


def test_masks_of_object_tables_are_objects_without_a_value():
    columns = {
        "masked": np.ma.masked_array([1, 2, 3], [0, 1, 0]),
        "nullable": pd.array([1, None, 3], "UInt8"),
        "arrow": pa.array([1, None, 3]),
        "floats": [1.0, None, 3.0],
        "lazy": da.ma.masked_equal(da.from_array([1, 2, 3]), 2),
    }
    for layout in LAYOUTS:
        store = new(layout=layout)
        dzv.write_points(store, POINTS, object_ids=IDS, object_attributes=columns)
        found = store.level(0).read().object_attributes
        for name in columns:
            values = np.ma.masked_invalid(found[name])
            assert np.ma.getmaskarray(values).tolist() == [False, True, False], (layout, name)
            assert values.compressed().tolist() == [1, 3], (layout, name)
    pairs = {"a": np.ma.masked_array([[1, 2]] * 2, [[0, 0], [0, 1]])}
    with pytest.raises(dzv.InputError, match=r"'a': row 1"):  # a part of a row can't be absent
        dzv.write_points(new(), POINTS, object_ids=np.arange(N) // 3, object_attributes=pairs)


def test_values_that_say_missing_in_their_dtype_are_widened_or_refused():
    for dtype, wider in (("u1", "u2"), ("i1", "i2"), ("u2", "u4"), ("i2", "i4"), ("u4", "u8"), ("i4", "i8")):
        limits = np.iinfo(dtype)
        values = np.array([1, limits.max if dtype[0] == "u" else limits.min, 3], dtype)
        frame = pd.DataFrame({"a": values[1:2]}, index=[1])
        for given in (values, da.from_array(values), dd.from_pandas(pd.DataFrame({"a": values}), npartitions=1), frame):
            store = new()
            table = {"a": given} if not hasattr(given, "columns") else given
            dzv.write_points(store, POINTS, object_ids=IDS, object_attributes=table)
            found = store.level(0).read().object_attributes["a"]
            assert found.dtype == np.dtype(wider)
            assert found[1] == values[1]
            assert np.ma.count_masked(found) == (2 if given is frame else 0)
            shown = xr.open_dataset(store, engine="zv")["a"]
            assert shown.values[1] == values[1] != shown.attrs["missing_value"]
    for value in (np.uint64(2**64 - 1), np.int64(-(2**63))):
        with pytest.raises(dzv.InputError, match=rf"'a': row 1 is {value}"):
            dzv.write_points(new(), POINTS, object_ids=IDS, object_attributes={"a": np.array([1, value, 3], value.dtype)})


def test_values_of_plain_arrays_are_values_in_views_and_the_other_layout():
    """Layout per_chunk has masks for what is missing: a value that is the sentinel of grid is one."""
    values = np.array([1, 255, 3], np.uint8)
    store = new(layout="per_chunk")
    flags = pd.DataFrame({"flag": pd.array([True, None, False], "boolean")})
    dzv.write_points(store, POINTS, object_ids=IDS, object_attributes={"a": values})
    for view in ("spatial", "objects"):
        shown = xr.open_dataset(store, engine="zv", view=view)["a"]
        assert shown.values.tolist() == values.tolist()
        assert "missing_value" not in shown.attrs
    target, dataset = {}, {}
    dzv.convert(store, target, layout="grid")
    xr.open_dataset(store, engine="zv").zv.to_store(dataset)
    for made in (target, dataset):
        assert dzv.open(made).level(0).read().object_attributes["a"].tolist() == values.tolist()
    masked = new(layout="per_chunk")
    dzv.write_points(masked, POINTS, object_ids=IDS, object_attributes=flags)
    assert pd.isna(xr.open_dataset(masked, engine="zv")["flag"].values).tolist() == [False, True, False]
    with pytest.raises(dzv.InputError, match="'flag' is boolean"):
        dzv.convert(masked, {}, layout="grid")
    empty = new()
    dzv.write_points(empty, NONE, object_ids=[], object_attributes={"a": np.zeros(0, np.uint8)})
    assert empty.level(0).read().object_attributes["a"].tolist() == []


def test_object_without_a_value_goes_through_a_dataset():
    store = new()
    table = pd.DataFrame({"a": pd.array([1, None, 255], "UInt8")})
    dzv.write_points(store, POINTS, object_ids=IDS, object_attributes=table)
    target = {}
    xr.open_dataset(store, engine="zv").zv.to_store(target)
    found = dzv.open(target).level(0).read().object_attributes["a"]
    assert found.tolist() == [1, None, 255]


def test_tables_and_attributes_beside_each_other():
    more = pd.DataFrame({"a": pd.array(np.arange(N), "Int64"), "s": list("abcdef")})
    lazy, lazy_more = (dd.from_pandas(t, npartitions=3, sort=False) for t in (FRAME, more))
    both = pd.concat([FRAME, more], axis=1)
    views = pa.schema([*((c, pa.float64()) for c in "xyz"), ("a", pa.int64()), ("s", pa.string_view())])
    dataset = xr.Dataset({"a": ("v", np.arange(N)), "s": ("v", list("abcdef"))})
    cases = {
        "two frames": (FRAME, more),
        "a frame and a mapping": (FRAME, {"a": np.arange(N), "s": more.s}),
        "an array and a frame": (POINTS, more),
        "two lazy frames": (lazy, lazy_more),
        "a lazy frame and arrays": (lazy, {"a": da.arange(N, chunks=2), "s": lazy_more.s}),
        "a dask array and a lazy frame": (LAZY, lazy_more),
        "two Arrow tables": (pa.Table.from_pandas(FRAME), pa.Table.from_pandas(more)),
        "an Arrow table": (pa.Table.from_pandas(both), None),
        "string views, as polars has them": (pa.Table.from_pandas(both).cast(views), None),
        "a record batch": (pa.RecordBatch.from_pandas(both), ["a", "s"]),
        "Datasets": (xr.DataArray(POINTS, dims=("v", "axis")), dataset),
    }
    for name, (positions, attributes) in cases.items():
        store = new()
        dzv.write_points(store, positions, attributes=attributes)
        found = store.level(0).read()
        order = np.argsort(found.attributes["a"])
        assert found.attributes["a"][order].tolist() == list(range(N)), name
        assert "".join(found.attributes["s"][order]) == "abcdef", name
        assert np.allclose(found.positions[order], POINTS), name
    for positions, attributes, match in (
        (FRAME, more.set_index(np.arange(1, N + 1)), "different indexes"),
        (lazy, more, "both"),
        (FRAME, pd.concat([more, more], axis=1), "several columns"),
        (FRAME, {"a": np.arange(N + 1)}, "'a' has 7 rows"),
    ):
        with pytest.raises(dzv.InputError, match=match):
            dzv.write_points(new(), positions, attributes=attributes)


def test_a_partition_that_lacks_a_column_is_named():
    frame = FRAME.assign(a=1, cell=0)

    def table(*parts):
        return dd.from_delayed([dask.delayed(p) for p in parts], meta=frame.iloc[:0], verify_meta=False)

    for lacking in ("a", "z", "cell"):
        with pytest.raises(dzv.InputError, match=f"partition 1: there is no column '{lacking}'"):
            dzv.write_points(new(), table(frame, frame.drop(columns=lacking)), object_ids="cell")
    for other in (None, POINTS):
        for geometry, options in (("point_cloud", {}), ("polyline", {"object_ids": "cell", "sort_by": "a"})):
            with pytest.raises(dzv.InputError, match="partition 1: expected a DataFrame, not an? (NoneType|ndarray)"):
                VERBS[geometry](new(geometry), table(frame, other), **options)
    edges = pd.DataFrame({"source": [0], "target": [1]})
    lazy = dd.from_delayed([dask.delayed(edges[["source"]])], meta=edges.iloc[:0], verify_meta=False)
    with pytest.raises(dzv.InputError, match="edges, part 0: there is no column 'target'"):
        dzv.write_graph(new("graph"), POINTS, edges=lazy)


class Streamlines:
    """As nibabel's and trx's ArraySequence: an iterable of arrays that no array can be made of."""

    is_array_sequence = True

    def __init__(self, parts):
        self.parts = parts

    def __len__(self):
        return len(self.parts)

    def __iter__(self):
        return iter(self.parts)


def test_streamlines_one_by_one():
    parts, values = [POINTS[:2], POINTS[2:]], [np.arange(2.0)[:, None], np.arange(4.0)[:, None]]
    both = np.empty(2, object)
    both[:] = parts
    for given, attribute in (
        (Streamlines(parts), Streamlines(values)),
        (both, values),
        (pd.Series(parts), np.concatenate(values)),
    ):
        store = new("streamline")
        dzv.write_polylines(store, given, attributes={"fa": attribute})
        found = store.level(0).read()
        assert found.lengths.tolist() == [2, 4]
        assert np.allclose(found.positions, POINTS)
        assert found.attributes["fa"].ravel().tolist() == [0, 1, 0, 1, 2, 3]


@in_both_layouts
@pytest.mark.parametrize("bounds", [None, ((0, 0, 0), (20, 20, 20))], ids=["of the data", "declared"])
def test_nothing_is_an_empty_level(layout, bounds):
    frame = FRAME[:0].assign(cell=np.zeros(0, int), up=np.zeros(0, int))
    some = dd.from_pandas(FRAME.assign(cell=0, up=-1), npartitions=2, sort=False)
    filtered, lazy, no_ids = some[some.x > 99], da.zeros((0, 3)), da.zeros((0,), dtype=int)
    table = pa.table({k: pa.array([], pa.float64()) for k in "xyz"})
    columns = {"attributes": {"a": [], "s": np.array([], object)}, "object_ids": [], "groups": {}}
    for geometry, nothings, options in (
        ("point_cloud", [[], NONE, lazy, table], {}),
        ("point_cloud", [frame, filtered], {"object_ids": "cell"}),
        ("point_cloud", [[], NONE], columns),
        ("polyline", [[], Streamlines([])], {"attributes": {"a": []}}),
        ("streamline", [[], [NONE, NONE], [[], NONE]], {}),
        ("polyline", [NONE, []], {"object_ids": []}),
        ("polyline", [NONE], {"lengths": []}),
        ("polyline", [lazy], {"lengths": no_ids}),
        ("polyline", [frame, filtered], {"object_ids": "cell", "sort_by": "x"}),
        ("line", [[], np.zeros((0, 2, 3)), da.zeros((0, 2, 3))], {}),
        ("line", [[]], {"attributes": {"a": []}}),
        ("skeleton", [[], NONE, lazy], {"parents": []}),
        ("skeleton", [frame, filtered], {"parents": "up", "object_ids": "cell"}),
        ("graph", [[], NONE, lazy, filtered], {"edges": [], "edge_attributes": {"w": []}}),
        ("graph", [[]], {"edges": pd.DataFrame({"source": [], "target": []})}),
        ("graph", [lazy], {"edges": da.zeros((0, 2), dtype=int)}),
        ("mesh", [[], lazy], {"faces": []}),
        ("mesh", [NONE], {"faces": np.zeros((0, 3)), "face_attributes": {"c": np.zeros((0, 2))}}),
    ):
        for nothing in nothings if layout == "grid" or geometry not in LINKED else ():
            store = dzv.create({}, geometry=geometry, layout=layout, bounds=bounds, **CREATE)
            assert VERBS[geometry](store, nothing, **options).rows == 0
            assert store.level(0).read().positions.shape == (0, 3)
            assert xr.open_dataset(store, engine="zv").sizes["vertex"] == 0


ATTRS = {"units": "m", "long_name": "the depth", "flag_values": np.array([0, 1], "i1"), "flag_meanings": "good bad"}
KEPT = {**ATTRS, "flag_values": [0, 1]}


def told(values, *dims):
    return xr.DataArray(values, dims=dims or ("v",), attrs=ATTRS)


def told_by(store, view):
    shown = xr.open_dataset(store, engine="zv", view=view)
    return {k: {a: v.attrs.get(a) for a in KEPT} for k, v in shown.variables.items() if "flag_meanings" in v.attrs}


def test_units_and_flags_come_back():
    def about_points(cut):
        return {
            "attributes": {"d": cut(told(np.arange(N))), "two": cut(told(np.ones((N, 2)), "v", "c"))},
            "object_ids": np.arange(N) // 2,
            "object_attributes": {"q": told(np.arange(3.0))},
            "groups": {0: [1], 1: [2]},
            "group_attributes": {"g": told(np.arange(2.0))},
        }

    listed = [told(np.arange(2.0)), told(np.arange(4.0))]
    edges = {"edges": [[0, 1], [2, 5]], "edge_attributes": {"w": told([1.0, 2])}}
    pairs = {"attributes": {"w": told(np.ones((3, 2)), "l", "e")}}
    for geometry, view, positions, about, names in (
        ("point_cloud", "spatial", POINTS, about_points(lambda v: v), {"d", "two", "q"}),
        ("point_cloud", "objects", LAZY, about_points(lambda v: v.chunk(v=2)), {"d", "two", "q", "g"}),
        ("graph", "spatial", POINTS, edges, {"w"}),
        ("line", "objects", POINTS.reshape(3, 2, 3), pairs, {"w"}),
        ("polyline", "objects", [POINTS[:2], POINTS[2:]], {"attributes": {"w": listed}}, {"w"}),
    ):
        for layout in LAYOUTS if geometry != "graph" else ("grid",):
            store, copy, converted, wanted = new(geometry, layout), {}, {}, dict.fromkeys(names, KEPT)
            VERBS[geometry](store, positions, **about)
            assert told_by(store, view) == wanted, (geometry, layout)
            xr.open_dataset(store, engine="zv", view=view).zv.to_store(copy)
            assert told_by(dzv.open(copy), view) == wanted, (geometry, layout)
            if geometry == "point_cloud":
                dzv.convert(store, converted, layout=LAYOUTS[layout == LAYOUTS[0]])
                assert told_by(dzv.open(converted), view) == wanted, layout


def test_units_and_flags_of_positions_come_back():
    whole = told(POINTS, "v", "xyz")
    for geometry, positions, options in (
        ("point_cloud", whole, {}),
        ("point_cloud", whole.chunk(v=2), {"object_ids": [0] * N}),
        ("polyline", whole, {"lengths": [2, 4]}),
        ("polyline", [whole[:2], whole[2:]], {}),
        ("line", told(POINTS.reshape(3, 2, 3), "l", "end", "xyz"), {}),
        ("skeleton", whole, {"parents": [-1] * N}),
        ("graph", whole, {"edges": [[0, 1]]}),
        ("mesh", whole, {"faces": [[0, 1, 2]]}),
    ):
        view = "objects" if geometry in ("line", "polyline") else "spatial"
        for layout in ("grid",) if geometry in LINKED else LAYOUTS:
            store, copy = new(geometry, layout), {}
            VERBS[geometry](store, positions, **options)
            assert told_by(store, view) == dict.fromkeys("xyz", KEPT), (geometry, layout)
            assert {a.unit for a in store.metadata.axes} == {"m"}
            ds = xr.open_dataset(store, engine="zv", view=view)
            assert [ds[a].attrs["axis"] for a in "xyz"] == ["X", "Y", "Z"]
            ds.y.attrs["standard_name"] = "latitude"
            ds.zv.to_store(copy)
            again = xr.open_dataset(dzv.open(copy), engine="zv", view=view)
            assert told_by(dzv.open(copy), view) == dict.fromkeys("xyz", KEPT)
            assert (again.y.attrs["standard_name"], "standard_name" in again.x.attrs) == ("latitude", False)
    converted = {}
    dzv.write_points(plain := new(), whole)
    dzv.convert(plain, converted, layout="per_chunk")
    assert told_by(dzv.open(converted), "spatial") == dict.fromkeys("xyz", KEPT)
    own = dzv.create({}, chunk_shape=(9, 9, 9), axes=[{"name": "t", "type": "time"}, {"name": "x", "unit": "foot"}, "z"])
    dzv.write_points(own, whole)  # the units of axes that have one stand
    assert [a.unit for a in own.metadata.axes if a.type == "space"] == ["foot", "m"]
    assert next(a.unit for a in own.metadata.axes if a.type == "time") is None
    with pytest.raises(dzv.InputError, match="control characters"):
        dzv.write_points(new(), whole.assign_attrs(units="m\x1b"))


def test_what_is_said_of_attributes_goes_with_them():
    store = new()
    dzv.write_points(store, POINTS, attributes={"d": told(np.arange(N))})
    assert store.metadata.extra["attribute_specs"]["vertex"]["d"]["unit"] == "m"
    dzv.write_points(store, POINTS, attributes={"d": np.arange(N)}, mode="overwrite")
    assert xr.open_dataset(store, engine="zv").d.attrs == {"long_name": "d"}
    with pytest.raises(dzv.InputError, match="'d' has the attribute 'x'"):
        dzv.write_points(new(), POINTS, attributes={"d": xr.DataArray(np.arange(N), dims="v", attrs={"x": object()})})


@in_both_layouts
def test_series_about_objects_are_taken_by_their_index(tmp_path, layout):
    """A Series says which objects its rows are of, as a frame does; without an index of its own it goes by position."""
    points = np.arange(18.0).reshape(6, 3)

    def write(**about):
        store = dzv.create(tmp_path / "s.zv", geometry="polyline", chunk_shape=(9.0,) * 3, layout=layout, overwrite=True)
        dzv.write_polylines(store, points, lengths=[2, 2, 2], object_attributes=about)
        return dzv.open(tmp_path / "s.zv").level(0).read().object_attributes

    turned = pd.Series([2.0, 1.0, 0.0], index=[2, 1, 0])
    np.testing.assert_array_equal(write(t=turned)["t"], [0, 1, 2])
    np.testing.assert_array_equal(write(t=turned, u=turned + 1)["u"], [1, 2, 3])
    np.testing.assert_array_equal(write(t=turned.reset_index(drop=True))["t"], [2, 1, 0])
    with pytest.raises(dzv.InputError, match="'u' has another or none"):
        write(t=turned, u=[1, 2, 3])
    with pytest.raises(dzv.InputError, match="indexed by distinct object ids"):
        write(t=turned.set_axis(list("abc")))


def test_series_beside_a_table_of_positions_have_its_index(tmp_path):
    table = pd.DataFrame(np.arange(12.0).reshape(4, 3), columns=list("xyz"), index=[3, 2, 1, 0])
    store = dzv.create(tmp_path / "s.zv", geometry="point_cloud", chunk_shape=(9.0,) * 3)
    for about in ({"attributes": {"t": pd.Series(range(4))}}, {"object_ids": pd.Series(range(4))}):
        with pytest.raises(dzv.InputError, match="different indexes"):
            dzv.write_points(store, table, **about)
    dzv.write_points(store, table, attributes={"t": pd.Series(range(4), index=table.index)})
    read = store.level(0).read()
    np.testing.assert_array_equal(read.attributes["t"], read.positions[:, 0] / 3)


def test_empty_strings_of_objects_are_values(tmp_path):
    points = np.arange(18.0).reshape(6, 3)
    store = dzv.create(tmp_path / "s.zv", geometry="polyline", chunk_shape=(9.0,) * 3)
    names = ["", "a", ""]
    dzv.write_polylines(store, points, lengths=[2, 2, 2], object_attributes={"name": names})
    level = store.level(0)
    for found in (level.read(), level.read(objects=[0, 1, 2])):
        assert found.object_attributes["name"].tolist() == names  # a masked one would be None
    other = dzv.convert(store, tmp_path / "t.zv", shard_chunks=2)
    assert dzv.open(tmp_path / "t.zv").level(0).read().object_attributes["name"].tolist() == names, other
    dzv.write_polylines(store, points, lengths=[2, 2, 2], object_attributes={"name": ["b", None, "a"]}, mode="overwrite")
    assert dzv.open(tmp_path / "s.zv").level(0).read().object_attributes["name"].tolist() == ["b", None, "a"]
    with pytest.raises(dzv.InputError, match="row 0 is '', which means 'no value' because other objects have none .row 1."):
        dzv.write_polylines(store, points, lengths=[2, 2, 2], object_attributes={"name": ["", None, "a"]}, mode="overwrite")
