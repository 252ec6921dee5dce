"""Fragment indexes decoded together are what each is by itself, or nothing at all."""

import numpy as np
import pytest
from blob_encoders import encode_fragments
from hypothesis import given
from hypothesis import strategies as st

from dask_zv.format.fragments import decode_fragments, decode_tilings, encode_tiling

CHUNKS = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=150), min_size=1, max_size=8)


@given(CHUNKS)
def test_tilings(chunks):
    found = decode_tilings([encode_tiling(c) for c in chunks], np.array([sum(c) for c in chunks]))
    assert found is not None
    counts, fragments = found
    assert counts.tolist() == [n for c in chunks for n in c]
    assert fragments.tolist() == [len(c) for c in chunks]


@given(CHUNKS, st.data())
def test_one_that_does_not_cover_its_chunk(chunks, data):
    rows = np.array([sum(c) for c in chunks])
    rows[data.draw(st.integers(0, len(chunks) - 1))] += data.draw(st.sampled_from([-1, 1, 2**62]))
    assert decode_tilings([encode_tiling(c) for c in chunks], rows) is None


@pytest.mark.parametrize(
    "fragments",
    [
        [],
        [(1, 2), (0, 1)],
        [(0, 2), (1, 1)],
        [(0, 2), (3, 1)],
        [(0, 1), np.array([2, 1])],
        [(0, 2), np.array([], np.int64), (2, 1)],
    ],
)
def test_other_indexes_are_left_to_the_strict_decoder(fragments):
    plain = encode_tiling([3])
    assert decode_tilings([plain, encode_fragments(fragments), plain], np.array([3, 3, 3])) is None
    assert decode_tilings([plain, plain], np.array([3, 3])) is not None


@given(st.lists(st.integers(0, 5), min_size=1, max_size=70), st.data())
def test_a_changed_byte_is_never_taken_for_a_tiling(counts, data):
    blob = bytearray(encode_tiling(counts))
    blob[data.draw(st.integers(0, len(blob) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert decode_tilings([bytes(blob)], np.array([sum(counts)])) is None


@given(st.binary(max_size=120), st.integers(0, 50))
def test_any_bytes(blob, rows):
    found = decode_tilings([blob], np.array([rows]))
    if found is not None:
        index = decode_fragments(blob, n_rows=rows)
        assert index.tiles(rows)
        assert found[0].tolist() == index.counts.tolist()


def test_a_cut_index():
    blob = encode_tiling([2, 1])
    for size in range(len(blob)):
        assert decode_tilings([blob[:size]], np.array([3])) is None
    assert decode_tilings([blob + b"\x00"], np.array([3])) is None
