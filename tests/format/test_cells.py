"""Cells and shard indexes: what is packed is unpacked, and damage is a FormatError."""

import struct

import google_crc32c
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import dask_zv as dzv
from dask_zv.format.grids import EMPTY, frame, index_nbytes, pack_index, unframe, unpack_index

QUICK = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@QUICK
@given(st.binary(max_size=300))
def test_frames(payload):
    data = frame(payload)
    assert data == struct.pack("<II", 1, len(payload)) + payload
    assert unframe(data) == payload


@QUICK
@given(st.binary(max_size=40))
def test_any_bytes_are_a_frame_or_a_format_error(data):
    try:
        payload = unframe(data)
    except dzv.FormatError:
        return
    assert frame(payload) == data


@QUICK
@given(st.binary(max_size=40), st.integers(-9, 9).filter(bool))
def test_frames_of_other_lengths(payload, more):
    data = frame(payload)
    with pytest.raises(dzv.FormatError, match="cell"):
        unframe(data[:more] if more < 0 else data + bytes(more))
    with pytest.raises(dzv.FormatError, match="2 items"):
        unframe(struct.pack("<II", 2, len(payload)) + payload)


def test_a_payload_that_its_length_cannot_say():
    class Long(bytes):
        def __len__(self):
            return 1 << 32

    with pytest.raises(dzv.FormatError, match="4 GiB"):
        frame(Long())


places = st.integers(1, 20).flatmap(
    lambda n: st.lists(
        st.one_of(st.just((int(EMPTY), int(EMPTY))), st.tuples(st.integers(0, 2**40), st.integers(0, 2**32))),
        min_size=n,
        max_size=n,
    )
)


@QUICK
@given(places)
def test_indexes(table):
    index = np.array(table, np.uint64)
    data = pack_index(index)
    assert len(data) == index_nbytes(len(table))
    assert unpack_index(data, len(table)).tolist() == index.tolist()
    end = max((o + n for o, n in table if n != EMPTY), default=0)
    assert unpack_index(data, len(table), end).tolist() == index.tolist()
    if end:
        with pytest.raises(dzv.FormatError, match="beyond its end"):
            unpack_index(data, len(table), end - 1)


@QUICK
@given(places, st.data())
def test_every_damaged_index_is_noticed(table, data):
    packed = bytearray(pack_index(np.array(table, np.uint64)))
    at = data.draw(st.integers(0, len(packed) - 1))
    packed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(dzv.FormatError, match="checksum"):
        unpack_index(bytes(packed), len(table))
    for other in (bytes(packed[:-1]), bytes(packed) + b"\0", b""):
        with pytest.raises(dzv.FormatError, match="bytes"):
            unpack_index(other, len(table))


@QUICK
@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)), min_size=1, max_size=5), st.integers(0, 2**63))
@example([(2**63, 2**63)], 2**63)
def test_an_index_with_any_places_and_the_right_checksum(table, limit):
    """Sums that don't fit into 64 bits among them: no cell that passes lies outside of the shard."""
    body = np.array(table, "<u8").tobytes()
    packed = body + struct.pack("<I", int(google_crc32c.value(body)))
    try:
        found = unpack_index(packed, len(table), limit)
    except dzv.FormatError:
        assert any(n != EMPTY and o + n > limit for o, n in table)
        return
    assert all(o + n <= limit for o, n in found.tolist() if n != EMPTY)
