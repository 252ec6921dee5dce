"""Links by the format's own examples, by rules written once more in plain Python, and damaged."""

import itertools
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import fails

from dask_zv.errors import FormatError, MetadataError
from dask_zv.format.links import (
    MAX_WIDTH,
    LinkFamily,
    decode_flat,
    decode_ragged,
    delta_name,
    encode_ragged,
    has_permutation,
    lehmer_codes,
    parse_delta,
    parse_segment,
    permutations,
    segment_name,
    stored_order,
)


@pytest.mark.parametrize(("delta", "name"), [(0, "0"), (1, "+1"), (-2, "-2"), (12, "+12")])
def test_names_of_deltas(delta, name):
    assert delta_name(delta) == name
    assert parse_delta(name) == delta


@pytest.mark.parametrize("name", ["", "1", "+0", "-0", "+01", "--1", "+1 ", "a", "0.0", "٣"])
def test_names_that_are_no_deltas(name):
    fails(FormatError, "level difference", parse_delta, name)


@pytest.mark.parametrize(
    ("offsets", "name"),
    [
        ([[0, 0, 0]], "0.0.0"),
        ([[1, 0, 0]], "+1.0.0"),
        ([[0, 0, 0], [1, 0, 0]], "0.0.0_+1.0.0"),
        ([[0, 1]], "0.+1"),
        ([[1, -2, -10]], "+1.-2.-10"),
    ],
)
def test_names_of_segments(offsets, name):
    assert segment_name(offsets) == name
    assert parse_segment(name, len(offsets[0])).tolist() == offsets


def test_the_segment_of_one_endpoint():
    assert segment_name(np.zeros((0, 3), int)) == "self"
    assert parse_segment("self", 3).shape == (0, 3)


@given(
    st.integers(1, 4).flatmap(
        lambda k: st.lists(st.lists(st.integers(-(2**40), 2**40), min_size=k, max_size=k), min_size=1, max_size=5)
    )
)
def test_segments_round_trip(offsets):
    assert parse_segment(segment_name(offsets), len(offsets[0])).tolist() == offsets


@pytest.mark.parametrize(
    "name",
    ["", "0.0", "0.0.0.0", "1.0.0", "+0.0.0", "0.0.0_", "_0.0.0", "0.0.0__0.0.0", "0,0,0", "self_0.0.0", "a.json", "0.0.0_0.0"],
)
def test_names_that_are_no_segments(name):
    fails(FormatError, "segment", parse_segment, name, 3)


def test_segments_beyond_all_measure():
    with pytest.raises(FormatError, match="endpoints"):
        parse_segment("_".join(["0.0.0"] * MAX_WIDTH), 3)
    fails(FormatError, "2\\*\\*63", parse_segment, f"+{2**63}.0.0", 3)
    assert len(parse_segment("_".join(["0.0.0"] * (MAX_WIDTH - 1)), 3)) == MAX_WIDTH - 1


def test_the_codes_of_the_format():
    """FORMAT.md E.3."""
    two = np.array([[0, 1], [1, 0]])
    three = np.array([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])
    assert lehmer_codes(two).tolist() == [0, 1]
    assert lehmer_codes(three).tolist() == [0, 1, 2, 3, 4, 5]
    assert permutations(np.arange(6), 3).tolist() == three.tolist()


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 6])
def test_codes_number_the_permutations_in_lexicographic_order(width):
    every = np.array(list(itertools.permutations(range(width))))
    codes = np.arange(len(every))
    assert lehmer_codes(every).tolist() == codes.tolist()
    assert permutations(codes, width).tolist() == every.tolist()


def test_the_widest_record():
    backwards = np.arange(MAX_WIDTH)[::-1][None]
    code = lehmer_codes(backwards)
    assert permutations(code, MAX_WIDTH).tolist() == backwards.tolist()
    fails(FormatError, "not the code of a permutation", permutations, code + 1, MAX_WIDTH)


@pytest.mark.parametrize(("code", "width"), [(2, 2), (-1, 2), (6, 3), (1, 1), (2**62, 3)])
def test_codes_of_no_permutation(code, width):
    with pytest.raises(FormatError, match=f"{code} is not the code of a permutation of {width}"):
        permutations(np.array([0, code, 0]), width)


ENDPOINTS = st.integers(1, 5).flatmap(
    lambda width: st.lists(
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=width, max_size=width), min_size=1, max_size=20
    )
)


@given(ENDPOINTS)
def test_stored_order(records):
    """Ascending by (chunk, row), stably, but as given where one chunk has all."""
    chunks = np.array([[c for c, _ in record] for record in records])
    rows = np.array([[r for _, r in record] for record in records])
    order = stored_order(chunks, rows)
    for record, got in zip(records, order.tolist(), strict=True):
        crosses = len({c for c, _ in record}) > 1
        assert got == (sorted(range(len(record)), key=lambda i: record[i]) if crosses else list(range(len(record))))
    back = permutations(lehmer_codes(order), order.shape[1])
    assert back.tolist() == order.tolist()


@pytest.mark.parametrize(
    ("intra", "delta", "directed", "store", "expected"),
    [
        (False, 0, False, "canonical", True),
        (False, 0, True, "canonical", False),
        (False, 0, True, "duplicate", True),
        (False, 0, False, "duplicate", True),
        (True, 0, False, "canonical", False),
        (True, 0, True, "duplicate", False),
        (False, 1, False, "canonical", False),
        (False, -1, True, "duplicate", False),
    ],
)
def test_which_rows_start_with_a_permutation(intra, delta, directed, store, expected):
    assert has_permutation(intra=intra, delta=delta, directed=directed, store=store) is expected


def ragged(groups, *, offsets=None):
    """Return a cell as the format draws it."""
    data = b"".join(struct.pack(f"<{len(g)}q", *g) for g in groups)
    if offsets is None:
        offsets = np.cumsum([0, *(8 * len(g) for g in groups)])[:-1].tolist()
    return struct.pack(f"<q{len(offsets)}q", len(offsets), *offsets) + data


@given(st.integers(1, 5), st.lists(st.integers(0, 4), max_size=5), st.data())
def test_ragged_cells_of_any_groups(width, sizes, data):
    groups = [data.draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=n * width, max_size=n * width)) for n in sizes]
    rows, counts = decode_ragged(ragged(groups), width)
    assert counts.tolist() == sizes
    assert rows.shape == (sum(sizes), width)
    assert rows.ravel().tolist() == [v for g in groups for v in g]


@given(st.integers(1, 5), st.integers(0, 6))
def test_what_is_encoded(width, n):
    rows = np.arange(n * width, dtype=np.int64).reshape(n, width) - 3
    blob = encode_ragged(rows)
    assert blob == ragged([rows.ravel().tolist()])
    back, counts = decode_ragged(blob, width)
    assert back.tolist() == rows.tolist()
    assert counts.tolist() == [n]
    assert decode_flat(rows.tobytes(), width).tolist() == rows.tolist()


@pytest.mark.parametrize("dtype", ["<i4", ">i8", "<u2", "<i8"])
def test_rows_of_other_dtypes(dtype):
    rows = np.array([[0, 1], [2, 300]], dtype)
    assert decode_flat(rows.tobytes(), 2, dtype).tolist() == rows.tolist()
    found, counts = decode_ragged(struct.pack("<qq", 1, 0) + rows.tobytes(), 2, dtype)
    assert found.tolist() == rows.tolist()
    assert found.dtype == np.int64
    assert counts.tolist() == [2]


@pytest.mark.parametrize("blob", [b"", struct.pack("<q", 0)])
def test_cells_without_groups(blob):
    rows, counts = decode_ragged(blob, 3)
    assert rows.shape == (0, 3)
    assert len(counts) == 0
    assert decode_flat(b"", 3).shape == (0, 3)


@pytest.mark.parametrize(
    ("blob", "match"),
    [
        (b"\x01", "cut off"),
        (b"\x00" * 7, "cut off"),
        (struct.pack("<q", 1), "1 groups"),
        (struct.pack("<q", -1), "-1 groups"),
        (struct.pack("<q", 2**61) + b"\x00" * 64, "groups"),
        (struct.pack("<qq", 0, 5), "no group"),
        (ragged([[1, 2]], offsets=[8]), "start at 0"),
        (ragged([[1, 2], [3, 4]], offsets=[0, -16]), "order"),
        (ragged([[1, 2], [3, 4]], offsets=[0, 48]), "order"),
        (ragged([[1, 2], [3, 4], [5, 6]], offsets=[0, 32, 16]), "order"),
        (ragged([[1, 2], [3, 4]], offsets=[0, 8]), "whole number"),
        (ragged([[1, 2, 3]]), "whole number"),
        (ragged([[1, 2]])[:-1], "whole number"),
        (ragged([[1, 2]]) + b"\x00", "whole number"),
    ],
)
def test_damaged_ragged_cells(blob, match):
    fails(FormatError, match, decode_ragged, blob, 2)


@given(st.binary(max_size=200), st.integers(1, 4))
def test_any_bytes_are_rows_or_an_error(blob, width):
    """Never more rows than the bytes hold, whatever they claim."""
    for decode in (lambda: decode_ragged(blob, width)[0], lambda: decode_flat(blob, width)):
        try:
            rows = decode()
        except FormatError:
            continue
        assert rows.shape[1] == width
        assert rows.size * 8 <= len(blob)


@given(st.integers(1, 4), st.integers(1, 6), st.data())
def test_cut_cells_are_no_shorter_cells(width, n, data):
    """A cell that lost its end is an error, unless it lost whole rows: which the level's counts tell."""
    blob = encode_ragged(np.arange(n * width).reshape(n, width))
    at = data.draw(st.integers(1, len(blob) - 1))
    if at >= 16 and (at - 16) % (8 * width) == 0:
        assert len(decode_ragged(blob[:at], width)[0]) < n
    else:
        fails(FormatError, None, decode_ragged, blob[:at], width)


def test_flat_cells_of_no_whole_rows():
    for size in (1, 8, 23):
        fails(FormatError, "not a whole number", decode_flat, b"\x00" * size, 2)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("directed", [True, False])
@pytest.mark.parametrize("store", ["canonical", "duplicate"])
@pytest.mark.parametrize("count", [None, 7])
def test_families_round_trip(width, directed, store, count):
    family = LinkFamily(width, 3, 0, directed, store, count, None if count is None else 9)
    attributes = family.to_attributes()
    assert attributes["zv_array"] == "links_family"
    assert ("num_links" in attributes) == (count is not None)
    assert LinkFamily.from_attributes(attributes, 3, 0) == family


def test_defaults_of_families():
    family = LinkFamily.from_attributes({"link_width": 2}, 3, 1)
    assert family == LinkFamily(2, 3, 1, False, "canonical", None, None)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"link_width": None}, "link_width"),
        ({"link_width": 0}, "link_width"),
        ({"link_width": 2.0}, "link_width"),
        ({"link_width": True}, "link_width"),
        ({"link_width": MAX_WIDTH + 1}, "link_width"),
        ({"store": "twice"}, "twice"),
        ({"directed": "no"}, "directed"),
        ({"sid_ndim": 2}, "sid_ndim"),
        ({"level_delta": 1}, "level_delta"),
        ({"num_links": -1}, "num_links"),
        ({"num_links": 1.5}, "num_links"),
        ({"num_physical_records": "3"}, "num_physical_records"),
    ],
)
def test_damaged_families(change, match):
    attributes = {**LinkFamily(2, 3, count=3).to_attributes(), **change}
    fails(MetadataError, match, LinkFamily.from_attributes, attributes, 3, 0)


@pytest.mark.parametrize(
    ("family", "name", "offsets", "permuted"),
    [
        (LinkFamily(2, 3), "0.0.0", [[0, 0, 0]], False),
        (LinkFamily(2, 3), "+1.0.0", [[1, 0, 0]], True),
        (LinkFamily(2, 3, directed=True), "+1.0.0", [[1, 0, 0]], False),
        (LinkFamily(2, 2, store="duplicate", directed=True), "0.-1", [[0, -1]], True),
        (LinkFamily(3, 2), "0.0_0.+1", [[0, 0], [0, 1]], True),
        (LinkFamily(1, 3), "self", [], False),
        (LinkFamily(2, 3, delta=1), "0.0.0", [[0, 0, 0]], False),
    ],
)
def test_attributes_of_segments(family, name, offsets, permuted):
    attributes = family.segment_attributes(name)
    assert attributes["offsets"] == offsets
    assert attributes["has_perm"] is permuted
    assert attributes["link_width"] == family.width
    assert attributes["level_delta"] == family.delta
    assert attributes["dtype"] == "int64"
