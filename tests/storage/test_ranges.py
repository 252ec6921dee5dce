"""Few ranged reads for many slices: every slice is in exactly one range, and there are at most four."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from dask_zv.storage.ranges import _GAP, MAX_RANGES, coalesce

slices = st.lists(st.tuples(st.one_of(st.integers(0, 500), st.integers(0, 10**7)), st.integers(0, 70_000)), max_size=30)


@given(slices)
def test_every_slice_is_in_one_range(wanted):
    found = coalesce(wanted)
    assert len(found) <= MAX_RANGES == 4
    assert sorted(i for *_, numbers in found for i in numbers) == list(range(len(wanted)))
    for start, length, numbers in found:
        assert all(start <= wanted[i][0] and sum(wanted[i]) <= start + length for i in numbers)
        assert start == min(wanted[i][0] for i in numbers)  # and no byte more than they span
        assert start + length == max(sum(wanted[i]) for i in numbers)
    assert all(a[0] + a[1] < b[0] for a, b in pairwise(found))


@given(slices)
def test_gaps_that_are_read_over_are_no_wider_than_those_that_are_not(wanted):
    found = coalesce(wanted)
    between = [b[0] - a[0] - a[1] for a, b in pairwise(found)]
    inside = []
    for _, _, numbers in found:
        end = None
        for offset, length in sorted(wanted[i] for i in numbers):
            if end is not None:
                inside.append(offset - end)
            end = max(end or 0, offset + length)
    assert all(gap > _GAP for gap in between)
    if len(found) < MAX_RANGES:
        assert all(gap <= _GAP for gap in inside)
    elif inside:
        assert max(inside) <= min(between)


def test_examples():
    assert coalesce([]) == []
    assert coalesce([(10, 5), (0, 5)]) == [(0, 15, [1, 0])]
    assert coalesce([(0, 1), (10**6, 1)]) == [(0, 1, [0]), (10**6, 1, [1])]
    assert coalesce([(0, 10), (0, 10), (5, 100)]) == [(0, 105, [0, 1, 2])]
    assert len(coalesce([(i * 10**6, 1) for i in range(60)])) == 4
