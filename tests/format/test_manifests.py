"""Object manifests: bytes of the format's own example, batches against single manifests, and what is refused."""

import struct
import tracemalloc

import numpy as np
import pytest
from blob_encoders import encode_manifest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import fails

from dask_zv.errors import FormatError, InputError, ZVError
from dask_zv.format.manifests import decode_manifest, decode_manifests, encode_manifests

MODEST = settings(max_examples=60, deadline=None)

EXAMPLE = bytes.fromhex(
    "02000000"
    "0000000000000000 0100000000000000 feffffffffffffff 00 0500000000000000"
    "0100000000000000 0000000000000000 0000000000000000 01 0200000000000000 0300000000000000"
)


def block(chunk, mode, *numbers):
    body = {0: "<q", 1: "<qq", 2: f"<I{max(0, len(numbers) - 1)}q"}.get(mode, f"<{len(numbers)}q")
    return struct.pack(f"<{len(chunk)}qB", *chunk, mode) + struct.pack(body, *numbers)


def manifest(*blocks):
    return struct.pack("<I", len(blocks)) + b"".join(blocks)


@st.composite
def objects(draw):
    """Manifests as ``(ndim, [[(chunk, fragment), ...], ...])``."""
    ndim = draw(st.integers(1, 4))
    keys = st.tuples(*[st.integers(-(2**40), 2**40)] * ndim)
    return ndim, draw(st.lists(st.lists(st.tuples(keys, st.integers(0, 2**40)), max_size=5), max_size=8))


def table(ndim, entries):
    rows = [row for row, found in enumerate(entries) for _ in found]
    chunks = [key for found in entries for key, _ in found]
    fragments = [fragment for found in entries for _, fragment in found]
    return (
        np.array(rows, dtype=np.int64),
        np.array(chunks, dtype=np.int64).reshape(-1, ndim),
        np.array(fragments, dtype=np.int64),
    )


def test_example_of_the_format_is_expanded():
    assert len(EXAMPLE) == 78
    chunks, fragments = decode_manifest(EXAMPLE, 3)
    assert chunks.tolist() == [[0, 1, -2]] + [[1, 0, 0]] * 3
    assert fragments.tolist() == [5, 2, 3, 4]
    assert encode_manifest([[0, 1, -2]], [5]) == b"\x01" + EXAMPLE[1:37]


@pytest.mark.parametrize("blob", [b"", bytes(4)])
def test_object_without_vertices(blob):
    chunks, fragments = decode_manifest(blob, 3)
    assert chunks.shape == (0, 3)
    assert fragments.shape == (0,)
    assert encode_manifest(np.empty((0, 3), int), []) == bytes(4)


def test_every_mode_is_expanded_in_order():
    blob = manifest(
        block((0, 0), 2, 3, 9, 7, 9),
        block((1, 0), 1, 4, 2),
        block((1, 0), 1, 4, 0),
        block((5, 5), 2, 0),
        block((0, -1), 0, 8),
    )
    chunks, fragments = decode_manifest(blob, 2)
    assert chunks.tolist() == [[0, 0]] * 3 + [[1, 0]] * 2 + [[0, -1]]
    assert fragments.tolist() == [9, 7, 9, 4, 5, 8]


@given(objects())
@MODEST
def test_batches_are_single_manifests(case):
    ndim, entries = case
    rows, chunks, fragments = table(ndim, entries)
    blobs = encode_manifests(rows, chunks, fragments, first=0, count=len(entries))
    assert blobs == [encode_manifest(chunks[rows == i], fragments[rows == i]) for i in range(len(entries))]
    found = decode_manifests(blobs, ndim)
    for wanted, got in zip((rows, chunks, fragments), found, strict=True):
        assert got.dtype == np.int64
        assert np.array_equal(wanted, got)
        assert wanted.shape == got.shape
    for i, blob in enumerate(blobs):
        single = decode_manifest(blob, ndim)
        assert np.array_equal(single[0], chunks[rows == i])
        assert np.array_equal(single[1], fragments[rows == i])


def test_a_batch_is_a_window_of_the_table():
    rows, chunks, fragments = np.array([0, 2, 2, 5]), np.arange(8).reshape(4, 2), np.array([1, 2, 3, 4])
    whole = encode_manifests(rows, chunks, fragments, first=0, count=7)
    assert [len(blob) for blob in whole] == [29, 4, 54, 4, 4, 29, 4]
    assert encode_manifests(rows, chunks, fragments, first=2, count=3) == whole[2:5]
    assert encode_manifests(rows, chunks, fragments, first=6, count=2) == [bytes(4)] * 2
    assert encode_manifests(rows, chunks, fragments, first=0, count=0) == []


def test_batch_mixes_modes_and_absent_objects():
    blobs = [b"", manifest(block((1, 2), 0, 3)), manifest(block((0, 0), 1, 6, 2)), bytes(4)]
    rows, chunks, fragments = decode_manifests(blobs, 2)
    assert rows.tolist() == [1, 2, 2]
    assert chunks.tolist() == [[1, 2], [0, 0], [0, 0]]
    assert fragments.tolist() == [3, 6, 7]
    assert [part.shape for part in decode_manifests([], 2)] == [(0,), (0, 2), (0,)]
    assert [part.shape for part in decode_manifests([b"", b""], 2)] == [(0,), (0, 2), (0,)]


def test_modes_whose_sizes_add_up_to_plain_blocks_are_seen():
    # the range is 8 bytes longer than a plain block, each empty list 4 bytes shorter
    blob = manifest(block((0,), 1, 0, 2), block((0,), 2, 0), block((1,), 2, 0))
    assert decode_manifest(blob, 1)[1].tolist() == [0, 1]
    assert len(blob) == 4 + 3 * 17
    assert decode_manifests([blob], 1)[2].tolist() == [0, 1]


REFUSED = {
    "short count": (b"\x01\0\0", 3, "cut off"),
    "huge count": (b"\xff\xff\xff\xff" + bytes(50), 54, "4294967295 blocks"),
    "trailing": (EXAMPLE + b"\0", 78, "1 bytes after"),
    "trailing after nothing": (bytes(5), 4, "1 bytes after"),
    "cut range": (EXAMPLE[:-1], 62, "block 1"),
    "cut before the range": (EXAMPLE[:62], 37, "block 1"),
    "mode": (manifest(block((0, 0, 0), 3, 1)), 28, "unknown mode 3"),
    "negative fragment": (manifest(block((0, 0, 0), 0, 0), block((0, 0, 0), 0, -4)), 62, "fragment -4"),
    "negative start": (manifest(block((0, 0, 0), 1, -1, 2)), 29, "2 fragments from -1"),
    "negative length": (manifest(block((0, 0, 0), 1, 1, -2)), 29, "-2 fragments from 1"),
    "range up to 2**63": (manifest(block((0, 0, 0), 1, 2**63 - 1, 1)), 29, "1 fragments from"),
    "range beyond int64": (manifest(block((0, 0, 0), 1, 2**63 - 1, 2**63 - 1)), 29, "fragments from"),
    "long range": (manifest(block((0, 0, 0), 1, 0, 2**40)), 37, "claim 1099511627776"),
    "cut list": (manifest(block((0, 0, 0), 2, 3, 1, 2, 3))[:-8], 33, "24 bytes more"),
    "negative in a list": (manifest(block((0, 0, 0), 2, 2, 1, -7)), 29, "fragment -7"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_bytes_are_refused_with_their_place(case):
    blob, offset, fact = REFUSED[case]
    with pytest.raises(FormatError) as caught:
        decode_manifest(blob, 3)
    assert fact in str(caught.value)
    assert caught.value.offset == offset
    with pytest.raises(FormatError, match="object row 2") as caught:
        decode_manifests([b"", manifest(block((0, 0, 0), 0, 1)), blob], 3)
    assert caught.value.offset == offset


def test_the_last_fragment_that_a_range_may_name():
    assert decode_manifest(manifest(block((0, 0), 1, 2**63 - 2, 1)), 2)[1].tolist() == [2**63 - 2]


def test_ranges_of_one_manifest_share_a_limit():
    blob = manifest(*[block((0, 0), 1, 0, 40)] * 3)
    assert len(decode_manifest(blob, 2, max_fragments=120)[1]) == 120
    fails(FormatError, "only 119", decode_manifest, blob, 2, max_fragments=119)
    fails(FormatError, "only 119", decode_manifests, [blob], 2, max_fragments=119)


def test_another_rank_is_refused():
    fails(FormatError, None, decode_manifest, EXAMPLE, 2)
    fails(FormatError, None, decode_manifest, EXAMPLE, 4)


@pytest.mark.parametrize(
    ("rows", "chunks", "fragments"),
    [
        ([0, 1], [[0, 0]], [1]),
        ([0], [[0, 0]], [1, 2]),
        ([1, 0], [[0, 0], [0, 0]], [1, 2]),
        ([0], [[0, 0]], [-1]),
        ([0], [[0.5, 0]], [1]),
        ([0], [0], [1]),
        ([0.0], [[0, 0]], [1]),
    ],
    ids=["rows", "fragments", "order", "negative", "float chunk", "1-D chunks", "float rows"],
)
def test_tables_that_do_not_fit_are_refused(rows, chunks, fragments):
    fails(InputError, None, encode_manifests, rows, chunks, fragments, first=0, count=2)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_mutated_blobs_end_in_an_answer_or_an_error(data):
    blocks = data.draw(
        st.lists(
            st.builds(lambda k, f: block((k, -k), 0, f), st.integers(-5, 5), st.integers(0, 9))
            | st.builds(lambda k, a, n: block((k, k), 1, a, n), st.integers(-5, 5), st.integers(0, 9), st.integers(0, 9))
            | st.builds(lambda fs: block((0, 1), 2, len(fs), *fs), st.lists(st.integers(0, 9), max_size=4)),
            max_size=6,
        )
    )
    blob = bytearray(manifest(*blocks))
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    blob = blob[: data.draw(st.integers(0, len(blob)))] if data.draw(st.booleans()) else blob
    tracemalloc.start()
    try:
        chunks, fragments = decode_manifest(bytes(blob), 2, max_fragments=1000)
    except ZVError:
        with pytest.raises(ZVError):
            decode_manifests([bytes(blob)], 2, max_fragments=1000)
    else:
        assert len(chunks) == len(fragments)
        assert not (fragments < 0).any()
        rows, *batch = decode_manifests([bytes(blob)], 2, max_fragments=1000)
        assert rows.tolist() == [0] * len(fragments)
        assert np.array_equal(batch[0], chunks)
        assert np.array_equal(batch[1], fragments)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 100 * len(blob) + 4_000_000  # other threads of the session allocate meanwhile


def test_fewer_objects_than_none_are_refused():
    with pytest.raises(InputError, match="-1 objects"):
        encode_manifests([], np.zeros((0, 3), int), [], first=0, count=-1)
