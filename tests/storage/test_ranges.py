"""Few ranged reads for many slices: every slice is in exactly one range, and there are at most four."""

from __future__ import annotations

from itertools import accumulate, pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from dask_zv.storage.grid.fetch import _GAP, MAX_RANGES, coalesce

offsets = st.one_of(st.integers(0, 500), st.integers(0, 10**7))
slices = st.lists(st.tuples(offsets, st.integers(0, 70_000)), min_size=1, max_size=30)
apart = st.lists(st.tuples(st.integers(0, 3 * _GAP), st.integers(1, 70_000)), min_size=1, max_size=30)
"""Gaps and lengths of slices one behind the other, as the cells of a shard are."""


@settings(deadline=None)
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


@settings(deadline=None)
@given(apart, st.randoms())
def test_gaps_that_are_read_over_are_no_wider_than_those_that_are_not(pieces, random):
    ends = list(accumulate(gap + length for gap, length in pieces))
    wanted = [(end - length, length) for end, (_, length) in zip(ends, pieces, strict=True)]
    random.shuffle(wanted)
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
    assert coalesce([(0, 1), (10**6, 1)]) == [(0, 1, [0]), (10**6, 1, [1])]
    (start, length, numbers), *others = coalesce([(10, 5), (0, 5), (5, 100)])
    assert (start, length, sorted(numbers), others) == (0, 105, [0, 1, 2], [])
    assert len(coalesce([(i * 10**6, 1) for i in range(60)])) == 4
