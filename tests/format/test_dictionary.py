"""Dictionary encoding of strings: codes, dtypes, missing values, and metadata."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import fails

from dask_zv.errors import FormatError, InputError, MetadataError
from dask_zv.format.dictionary import MAX_CATEGORIES, DictionaryEncoding

MODEST = settings(max_examples=60, deadline=None)
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=4)


def test_codes_are_positions_in_the_sorted_categories():
    encoding = DictionaryEncoding.from_values(np.array(["soma", "axon", "soma", "dendrite"]))
    assert encoding.categories == ("axon", "dendrite", "soma")
    codes = encoding.encode(np.array(["soma", "axon"]))
    assert codes.tolist() == [2, 0]
    assert codes.dtype == np.uint8
    values = encoding.decode(codes)
    assert values.tolist() == ["soma", "axon"]
    assert values.dtype.kind == "U"


@pytest.mark.parametrize("missing", [None, np.nan, np.float32("nan"), pd.NA, pd.NaT])
@pytest.mark.parametrize("box", [list, lambda v: np.array(v, dtype=object), lambda v: pd.Series(v, dtype=object)])
def test_missing_values_get_the_fill_value(missing, box):
    values = box(["b", missing, "a"])
    encoding = DictionaryEncoding.from_values(values)
    assert encoding.fill_value == -1
    codes = encoding.encode(values)
    assert codes.tolist() == [1, -1, 0]
    assert codes.dtype == np.int8
    assert encoding.decode(codes).tolist() == ["b", None, "a"]


def test_pandas_containers_are_values():
    for values in (pd.Series(["b", None, "a"], dtype="string"), pd.Series(["b", None, "a"], dtype="category")):
        assert DictionaryEncoding.from_values(values).encode(values).tolist() == [1, -1, 0]


def test_bytes_are_text():
    encoding = DictionaryEncoding.from_values(np.array([b"b", b"a"]))
    assert encoding.categories == ("a", "b")
    assert encoding.encode(np.array([b"b", b"a", b"b"])).tolist() == [1, 0, 1]
    assert encoding.encode([b"b", "a"]).tolist() == [1, 0]


@given(st.lists(texts | st.none(), max_size=30))
@MODEST
def test_values_come_back(values):
    encoding = DictionaryEncoding.from_values(values)
    restored = DictionaryEncoding.from_attributes(json.loads(json.dumps(encoding.to_attributes())))
    assert restored == encoding
    codes = encoding.encode(np.array(values, dtype=object))
    assert codes.dtype == encoding.dtype
    assert encoding.decode(codes).tolist() == values
    assert encoding.decode(codes).dtype.kind == ("O" if None in values else "U")


@pytest.mark.parametrize(
    ("fill", "sizes"),
    [
        (None, {0: "uint8", 255: "uint8", 256: "uint16", 65_535: "uint16", 65_536: "uint32"}),
        (-1, {0: "int8", 127: "int8", 128: "int16", 32_767: "int16", 32_768: "int32"}),
    ],
)
def test_dtype_of_codes(fill, sizes):
    for n, dtype in sizes.items():
        encoding = DictionaryEncoding(tuple(map(str, range(n))), fill_value=fill)
        assert encoding.dtype == dtype
        if n:
            assert encoding.decode(np.array([n - 1], dtype=encoding.dtype)).tolist() == [str(n - 1)]
            assert encoding.encode([str(n - 1)]).tolist() == [n - 1]


def test_attributes_are_those_of_the_format():
    attrs = {"encoding": "dictionary", "categories": ["a", "b"], "ordered": False, "_FillValue": -1}
    encoding = DictionaryEncoding.from_attributes({"dtype": "int8", "name": "label"} | attrs)
    assert encoding == DictionaryEncoding(("a", "b"), fill_value=-1)
    assert encoding.to_attributes() == attrs
    assert "_FillValue" not in DictionaryEncoding(("a",)).to_attributes()
    assert DictionaryEncoding.from_attributes({"encoding": "raw"}) is None
    assert DictionaryEncoding.from_attributes({}) is None


@pytest.mark.parametrize(
    ("categories", "codes", "values"),
    [([1, 2, 30], [2, 0], [30, 1]), ([False, True], [1, 1], [True, True]), ([1.5, 2], [0, 1], [1.5, 2.0])],
)
def test_numbers_of_other_writers_are_decoded(categories, codes, values):
    attrs = {"encoding": "dictionary", "categories": categories, "ordered": False}
    plain = DictionaryEncoding.from_attributes(attrs)
    assert plain.decode(np.array(codes)).tolist() == values
    filled = DictionaryEncoding.from_attributes(attrs | {"_FillValue": -1})
    assert filled.decode(np.array([*codes, -1])).tolist() == [*values, None]
    assert filled.encode([*values, None]).tolist() == [*codes, -1]


def test_columns_are_decoded_in_shape():
    encoding = DictionaryEncoding(("a", "b"), fill_value=-1)
    assert encoding.decode(np.array([[0, 1], [-1, 0]], np.int8)).tolist() == [["a", "b"], [None, "a"]]


MALFORMED = {
    "categories": [None, "ab", ["a", 1], [True, 1], [["a"]], [None], ["a", "a"], ["a\0"]],
    "ordered": [1],
    "_FillValue": [0, -1000, 1.5, True, -1.0, 2.5, "2", 128, -129],
}


@pytest.mark.parametrize("key", MALFORMED)
def test_malformed_metadata_is_refused(key):
    attrs = {"encoding": "dictionary", "categories": ["a", "b"], "ordered": False}
    for change in [{key: value} for value in MALFORMED[key]]:
        fails(MetadataError, None, DictionaryEncoding.from_attributes, attrs | change)
    for change in ({"_FillValue": False, "categories": []}, {"_FillValue": True, "categories": ["a"]}):
        fails(MetadataError, None, DictionaryEncoding.from_attributes, attrs | change)


def test_categories_must_be_there():
    fails(MetadataError, "categories", DictionaryEncoding.from_attributes, {"encoding": "dictionary"})


@pytest.mark.parametrize(
    "values", [["a", "zebra"], [b"zebra"], [b"\xff"], [3], [["a"]], np.array([["a"]]), np.array("a")], ids=repr
)
def test_unknown_values_are_refused(values):
    with pytest.raises(InputError):
        DictionaryEncoding(("a",)).encode(values)


def test_the_unknown_value_is_named():
    with pytest.raises(InputError, match=r"'zebra'.*row 1"):
        DictionaryEncoding(("a",)).encode(["a", "zebra"])
    with pytest.raises(InputError, match="row 1 is missing"):
        DictionaryEncoding(("a",)).encode(["a", None])


@pytest.mark.parametrize("values", [[1, 2], ["a\0"], [b"\xff"], [["a"]], [1.5], np.array([["a"]]), np.array("ab")], ids=repr)
def test_only_text_makes_categories(values):
    fails(InputError, None, DictionaryEncoding.from_values, values)


def test_too_many_categories_are_refused():
    values = np.arange(MAX_CATEGORIES + 1).astype(str)
    assert len(DictionaryEncoding.from_values(values[:-1]).categories) == MAX_CATEGORIES
    fails(InputError, "65536 distinct", DictionaryEncoding.from_values, values)


@pytest.mark.parametrize(
    ("codes", "fill"),
    [
        (np.array([0, 2], np.uint8), None),
        (np.array([0, -1], np.int8), None),
        (np.array([0, -2], np.int8), -1),
        (np.array([0, 2], np.int64), -1),
    ],
)
def test_codes_out_of_range_are_refused_with_their_place(codes, fill):
    with pytest.raises(FormatError, match=f"code {codes[1]} ") as caught:
        DictionaryEncoding(("a", "b"), fill_value=fill).decode(codes)
    assert caught.value.offset == codes.itemsize


def test_codes_are_integers():
    with pytest.raises(FormatError, match="float64"):
        DictionaryEncoding(("a",)).decode(np.zeros(1))


@pytest.mark.parametrize("fill", [2, -1, -128, 127])
def test_any_code_that_is_no_category_s_stands_for_missing_values(fill):
    attrs = {"encoding": "dictionary", "categories": ["a", "b"], "ordered": False, "_FillValue": fill}
    encoding = DictionaryEncoding.from_attributes(attrs)
    assert encoding.decode(np.array([1, fill, 0], np.int8)).tolist() == ["b", None, "a"]
    assert encoding.encode(["b", None]).tolist() == [1, fill]
