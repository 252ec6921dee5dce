"""Groups of objects as two blobs."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_zv.errors import FormatError, InputError, ZVError
from dask_zv.format.objects import MAX_RANGE, decode_group_elements, decode_groups, encode_group_elements, encode_groups

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
        (int64(0, -2), int64(0), 8),
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


ELEMENTS = encode_group_elements([[4, 7], [], [1]])
WRONG_ELEMENTS = {
    "not whole": (([ELEMENTS[0] + b"x"], {}), "group 0 is 17 bytes"),
    "a negative member": (([bytes(8), struct.pack("<2q", 3, -2)], {}), "group 1 has the member -2"),
    "ranges that are a list": ((ELEMENTS, [[0, 1]]), "no mapping"),
    "no ranges": ((ELEMENTS, None), "no mapping"),
    "a group after the last": ((ELEMENTS, {"3": [0, 1]}), "for 3 groups"),
    "a negative group": ((ELEMENTS, {"-1": [0, 1]}), "for 3 groups"),
    "a group that is no number": ((ELEMENTS, {"a": [0, 1]}), "for 3 groups"),
    "other digits": ((ELEMENTS, {"\u0661": [0, 1]}), "for 3 groups"),
    "one end": ((ELEMENTS, {"0": [1]}), "for 3 groups"),
    "three ends": ((ELEMENTS, {"0": [0, 1, 2]}), "for 3 groups"),
    "ends that are no integers": ((ELEMENTS, {"0": [0, 1.0]}), "for 3 groups"),
    "ends that are bools": ((ELEMENTS, {"0": [False, True]}), "for 3 groups"),
    "a negative start": ((ELEMENTS, {"0": [-1, 1]}), "range -1 to 1"),
    "the end before the start": ((ELEMENTS, {"0": [2, 1]}), "range 2 to 1"),
    "an end beyond 64 bits": ((ELEMENTS, {"0": [2**63 - 1, 2**63]}), "range"),
    "more members than may be": ((ELEMENTS, {"0": [0, MAX_RANGE + 1]}), "expanded to"),
    "more members than may be, in all": ((ELEMENTS, {"0": [0, MAX_RANGE], "1": [0, 1]}), "expanded to"),
}


def test_elements_and_ranges():
    found = decode_group_elements(ELEMENTS, {"1": [2, 5], "0": [9, 9]})
    assert [g.tolist() for g in found] == [[], [2, 3, 4], [1]]
    assert all(g.dtype == np.int64 for g in found)
    assert len(decode_group_elements(ELEMENTS, {"0": [0, MAX_RANGE]})[0]) == MAX_RANGE


@pytest.mark.parametrize(("arguments", "said"), list(WRONG_ELEMENTS.values()), ids=list(WRONG_ELEMENTS))
def test_wrong_elements_are_refused(arguments, said):
    with pytest.raises(FormatError, match=said) as caught:
        decode_group_elements(*arguments)
    assert caught.value.array == "groups"
