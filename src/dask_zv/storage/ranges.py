"""Few ranged reads for many slices of an object."""

from __future__ import annotations

from collections.abc import Sequence

MAX_RANGES = 4
"""Ranged reads of one object, at most: more gaps are read over."""
_GAP = 8 << 10
"""A shorter gap is read over: another request costs more than its bytes."""


def coalesce(slices: Sequence[tuple[int, int]]) -> list[tuple[int, int, list[int]]]:
    """Group slices of one object into ranges, split at the widest gaps between them.

    Parameters
    ----------
    slices : sequence of (offset, length)
        In any order; they may touch or overlap.

    Returns
    -------
    list of (offset, length, numbers of the slices in it)
    """
    if not slices:
        return []
    start, end = min(o for o, _ in slices), max(o + n for o, n in slices)
    if end - start - sum(n for _, n in slices) <= _GAP:  # all of them, as a rule: nothing to cut
        return [(start, end - start, list(range(len(slices))))]
    order = sorted(range(len(slices)), key=lambda i: slices[i])
    gaps: list[tuple[int, int]] = []
    end = 0
    for place, i in enumerate(order):
        offset, length = slices[i]
        if place and offset - end > _GAP:
            gaps.append((offset - end, place))
        end = max(end, offset + length)
    cuts = sorted(place for _, place in sorted(gaps, reverse=True)[: MAX_RANGES - 1])
    out: list[tuple[int, int, list[int]]] = []
    for low, high in zip([0, *cuts], [*cuts, len(order)], strict=True):
        members = order[low:high]
        if members:
            start = slices[members[0]][0]
            out.append((start, max(slices[i][0] + slices[i][1] for i in members) - start, members))
    return out
