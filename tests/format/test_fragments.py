"""Fragment index v1: bytes of the format's own examples, round trips, and what is refused."""

import struct
import tracemalloc

import numpy as np
import pytest
from blob_encoders import encode_fragments
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import fails

from dask_zv.errors import FormatError, InputError, ZVError
from dask_zv.format.fragments import MAX_ROWS, FragmentIndex, decode_fragments, encode_tiling

MODEST = settings(max_examples=60, deadline=None)

EXAMPLE = bytes.fromhex(
    "4746565a0100000003000000020000000500000000000000"
    "00000000000000000300000000000000"
    "03000000000000000100000000000000"
    "0000000002000000"
    "02000000000000000000000000000000"
)

ranges = st.tuples(st.integers(0, 100), st.integers(0, 20))
row_lists = st.lists(st.integers(0, 119), max_size=8).map(lambda rows: np.array(rows, dtype=np.int64))
fragment_lists = st.lists(ranges | row_lists, max_size=80)


def rows_of(fragment):
    return list(range(fragment[0], sum(fragment))) if isinstance(fragment, tuple) else fragment.tolist()


def fragments_of(index):
    """Return the rows of every fragment."""
    ends = np.cumsum(index.counts).tolist()
    return [part.tolist() for part in np.split(index.all_rows(), ends[:-1])] if ends else []


def header(n, n_ranges, *, magic=0x5A564647, version=1, flags=0):
    return struct.pack("<IHHII", magic, version, flags, n, n_ranges)


def test_example_of_the_format_has_its_bytes():
    assert len(EXAMPLE) == 80
    assert encode_fragments([(0, 3), np.array([2, 0]), (3, 1)]) == EXAMPLE
    index = decode_fragments(EXAMPLE, n_rows=4)
    assert fragments_of(index) == [[0, 1, 2], [2, 0], [3]]
    assert index.all_rows().tolist() == [0, 1, 2, 2, 0, 3]
    assert index.starts.tolist() == [0, -1, 3]
    assert index.counts.tolist() == [3, 2, 1]
    assert not index.tiles(4)


def test_no_fragments_is_a_header():
    assert encode_tiling([]) == encode_fragments([]) == header(0, 0)
    index = decode_fragments(header(0, 0), n_rows=0)
    assert len(index) == 0
    assert index.all_rows().tolist() == []
    assert index.tiles(0)
    assert not index.tiles(1)


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 63, 64, 65, 8192, 8193])
def test_tiling_is_the_general_encoding_of_ranges(n):
    counts = np.arange(n) % 4
    starts = np.cumsum(counts) - counts
    blob = encode_tiling(counts)
    assert blob == encode_fragments(list(zip(starts.tolist(), counts.tolist(), strict=True)))
    index = decode_fragments(blob, n_rows=int(counts.sum()))
    assert index.tiles(int(counts.sum()))
    assert index.all_rows().tolist() == list(range(counts.sum()))


def test_tiling_takes_any_integers():
    for counts in ([3, 0, 2], np.array([3, 0, 2], np.uint8), np.array([3, 0, 2], np.int32)):
        assert decode_fragments(encode_tiling(counts)).counts.tolist() == [3, 0, 2]


@given(fragment_lists)
@MODEST
def test_fragments_come_back(fragments):
    index = decode_fragments(encode_fragments(fragments), n_rows=120)
    wanted = [rows_of(fragment) for fragment in fragments]
    assert fragments_of(index) == wanted
    flat = [row for rows in wanted for row in rows]
    assert index.all_rows().tolist() == flat
    assert not index.tiles(len(flat)) or flat == list(range(len(flat)))


def test_tiles():
    for fragments, n_rows, answer in (
        ([(0, 2), (2, 3)], 5, True),
        ([(0, 2), (2, 3)], 6, False),
        ([(0, 2), (0, 0), (2, 3)], 5, True),
        ([(2, 3), (0, 2)], 5, False),
        ([(0, 3), (2, 2)], 5, False),
        ([(0, 2), np.array([3, 2])], 4, False),
        ([(0, 2), np.array([], dtype=int)], 2, False),
    ):
        assert decode_fragments(encode_fragments(fragments)).tiles(n_rows) is answer


def test_ranges_may_leave_gaps_and_overlap():
    assert decode_fragments(encode_fragments([(3, 2), (0, 1)])).all_rows().tolist() == [3, 4, 0]
    assert decode_fragments(encode_fragments([(0, 2), (1, 2)])).all_rows().tolist() == [0, 1, 1, 2]


BITMAP = bytes([0b101, 0, 0, 0, 0, 0, 0, 0])
REFUSED = {
    "empty": (b"", 0, "cut off"),
    "short header": (header(0, 0)[:15], 15, "cut off"),
    "magic": (header(0, 0, magic=0x5A564648), 0, "0x5A564648"),
    "version": (header(0, 0, version=2), 4, "version 2"),
    "flags": (header(0, 0, flags=1), 6, "0x0001"),
    "more ranges than fragments": (header(1, 2) + bytes(60), 12, "2 ranges among 1"),
    "bytes after no fragments": (header(0, 0) + b"\0", 16, "1 bytes after"),
    "huge claim": (header(2**32 - 1, 2**32 - 1) + bytes(100), 116, "4294967295 fragments"),
    "huge claim of explicit fragments": (header(2**32 - 1, 0) + bytes(100), 116, "4294967295 fragments"),
    "cut": (EXAMPLE[:-1], 79, "cut off"),
    "cut in the offsets": (EXAMPLE[:60], 60, "cut off"),
    "trailing": (EXAMPLE + b"\0\0", 80, "2 bytes after"),
    "trailing after ranges": (encode_tiling([1]) + b"\0", 44, "1 bytes after"),
    "padding of the bitmap": (EXAMPLE[:16] + b"\x05\x10" + EXAMPLE[18:], 17, "padding"),
    "padding next to the last bit": (EXAMPLE[:16] + b"\x0d" + EXAMPLE[17:], 16, "padding"),
    "padding, ranges only": (encode_tiling([1])[:16] + b"\x03" + encode_tiling([1])[17:], 16, "padding"),
    "too few bits": (EXAMPLE[:16] + b"\x01" + EXAMPLE[17:], 16, "marks 1 ranges"),
    "too many bits": (EXAMPLE[:16] + b"\x07" + EXAMPLE[17:], 16, "marks 3 ranges"),
    "no bits, ranges only": (encode_tiling([1])[:16] + b"\x00" + encode_tiling([1])[17:], 16, "marks 0 ranges"),
    "negative start": (EXAMPLE[:40] + struct.pack("<q", -3) + EXAMPLE[48:], 40, "from row -3"),
    "negative count": (EXAMPLE[:32] + struct.pack("<q", -1) + EXAMPLE[40:], 24, "-1 rows"),
    "overflow": (EXAMPLE[:24] + struct.pack("<qq", 2**62, 2**62) + EXAMPLE[40:], 24, "rows from row"),
    "first offset, ranges only": (encode_tiling([1])[:-4] + b"\x01\0\0\0", 40, "start at 1"),
    "first offset": (EXAMPLE[:56] + struct.pack("<I", 1) + EXAMPLE[60:], 56, "start at 1"),
    "last offset": (EXAMPLE[:60] + struct.pack("<I", 2**32 - 1) + EXAMPLE[64:], 80, "cut off"),
    "negative row": (EXAMPLE[:72] + struct.pack("<q", -5), 72, "row -5"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_bytes_are_refused_with_their_place(case):
    blob, offset, fact = REFUSED[case]
    with pytest.raises(FormatError) as caught:
        decode_fragments(blob)
    assert fact in str(caught.value)
    assert caught.value.offset == offset


def test_decreasing_offsets_are_refused():
    blob = encode_fragments([np.array([2, 0]), np.array([5, 1])])
    at = blob.index(struct.pack("<III", 0, 2, 4))
    broken = blob[:at] + struct.pack("<III", 0, 5, 4) + blob[at + 12 :]
    with pytest.raises(FormatError, match="decrease") as caught:
        decode_fragments(broken)
    assert caught.value.offset == at + 8


def test_rows_beyond_the_chunk_are_refused():
    for fragments, offset in (([(0, 2), (2, 3)], 40), ([(0, 2), np.array([1, 4])], 48 + 8)):
        blob = encode_fragments(fragments)
        assert len(decode_fragments(blob, n_rows=5)) == 2
        with pytest.raises(FormatError, match="chunk of 4 rows") as caught:
            decode_fragments(blob, n_rows=4)
        assert caught.value.offset == offset


def test_claims_are_not_expanded():
    index = decode_fragments(encode_fragments([(0, 2**62), (0, 2**62)]))
    fails(FormatError, "more than", index.all_rows)
    assert not index.tiles(10)
    with pytest.raises(FormatError, match="more than the 5"):
        decode_fragments(encode_tiling([3, 3])).all_rows(max_rows=5)
    assert MAX_ROWS > 10**8


@pytest.mark.parametrize(
    "counts", [[-1], [3, -1], [1.5], [[1]], [2**62, 2**62, 1]], ids=["-1", "3,-1", "1.5", "2-D", "overflow"]
)
def test_counts_that_are_none_are_refused(counts):
    fails(InputError, None, encode_tiling, counts)


@given(st.data(), fragment_lists)
@settings(max_examples=150, deadline=None)
def test_mutated_blobs_end_in_an_answer_or_an_error(data, fragments):
    blob = bytearray(encode_fragments(fragments))
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    blob = blob[: data.draw(st.integers(0, len(blob)))] if data.draw(st.booleans()) else blob
    tracemalloc.start()
    try:
        index = decode_fragments(bytes(blob), n_rows=data.draw(st.sampled_from([None, 120])))
    except ZVError:
        pass
    else:
        assert isinstance(index, FragmentIndex)
        again = [tuple(map(int, pair)) for pair in zip(index.starts, index.counts, strict=True)]
        assert len(again) == len(index)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 100 * len(blob) + 4_000_000  # other threads of the session allocate meanwhile


def test_views_and_arrays_are_blobs_too():
    padded = memoryview(b"xyz" + EXAMPLE)[3:]
    for blob in (padded, bytearray(EXAMPLE), np.frombuffer(EXAMPLE, np.uint8)):
        assert decode_fragments(blob).all_rows().tolist() == [0, 1, 2, 2, 0, 3]
    assert repr(decode_fragments(EXAMPLE)) == "FragmentIndex(3 fragments, 1 of them explicit)"
