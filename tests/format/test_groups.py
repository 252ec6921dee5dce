"""Groups of objects as two blobs."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_zv.errors import FormatError, InputError, ZVError
from dask_zv.format.groups import decode_groups, encode_groups

MODEST = settings(max_examples=60, deadline=None)
group_lists = st.lists(st.lists(st.integers(0, 2**62), max_size=6), max_size=8)


def int64(*values):
    return struct.pack(f"<{len(values)}q", *values)


def test_offsets_are_bytes():
    data, offsets = encode_groups([[4, 7], [], [1]])
    assert data == int64(4, 7, 1)
    assert offsets == int64(0, 16, 16)


@given(group_lists)
@MODEST
def test_groups_come_back(members):
    found = decode_groups(*encode_groups(members))
    assert [group.tolist() for group in found] == members
    assert all(group.dtype == np.int64 for group in found)


def test_no_groups():
    assert encode_groups([]) == (b"", b"")
    assert decode_groups(b"", b"") == []


@pytest.mark.parametrize(
    ("data", "offsets", "offset"),
    [
        (int64(1)[:7], int64(0), 7),
        (int64(1), int64(0)[:7], 7),
        (int64(1), b"", 0),
        (int64(1, 2), int64(8), 0),
        (int64(1, 2), int64(0, 4), 8),
        (int64(1, 2), int64(0, 16, 8), 16),
        (int64(1, 2), int64(0, 24), 8),
        (int64(1, 2), int64(0, -8), 8),
        (int64(1, -2), int64(0), 8),
    ],
    ids=["data", "offsets", "orphans", "first", "step", "order", "beyond", "negative", "member"],
)
def test_wrong_bytes_are_refused_with_their_place(data, offsets, offset):
    with pytest.raises(FormatError) as caught:
        decode_groups(data, offsets)
    assert caught.value.offset == offset
    assert caught.value.array == "groups"


@pytest.mark.parametrize("members", [[[1], [-1]], [[1], [0.5]], [[1], [[2]]]], ids=["negative", "float", "2-D"])
def test_members_that_are_no_ids_are_refused(members):
    with pytest.raises(InputError, match="group 1"):
        encode_groups(members)


@given(group_lists, st.data())
@MODEST
def test_mutated_blobs_end_in_an_answer_or_an_error(members, data):
    blobs = [bytearray(blob) for blob in encode_groups(members)]
    for blob in blobs:
        if blob:
            blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
        del blob[data.draw(st.integers(0, len(blob))) :]
    try:
        found = decode_groups(*map(bytes, blobs))
    except ZVError:
        return
    assert encode_groups(found) == tuple(map(bytes, blobs))
