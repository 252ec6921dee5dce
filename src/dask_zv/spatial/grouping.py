"""Chunks that occur many times: the distinct ones, and which is whose; and how things of some sizes are cut into runs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dask_zv.spatial.grid import corners

_TABLE_LIMIT = 1 << 22


def group_by_chunk(chunks: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct rows of `chunks`, ascending, and the number of each row's chunk among them.

    Shapes: `chunks` (n, D), returns `unique` (m, D), returns `number` (n,).
    """
    n, ndim = chunks.shape
    if n == 0:
        return np.zeros((0, ndim), np.int64), np.zeros(0, np.int64)
    low, high = corners(chunks)
    extent = [int(e) for e in high - low + 1]
    cells = 1
    for e in extent:
        cells *= e
    if cells > 1 << 62:
        unique, inverse = np.unique(chunks, axis=0, return_inverse=True)
        return unique, inverse.reshape(-1).astype(np.int64)
    code = np.zeros(n, np.int64)
    for axis in range(ndim):
        code *= extent[axis]
        code += chunks[:, axis] - low[axis]
    if cells <= max(_TABLE_LIMIT, 2 * n):  # a table of all cells is faster than a sort
        occupied = np.flatnonzero(np.bincount(code, minlength=cells))
        table = np.zeros(cells, np.int64)
        table[occupied] = np.arange(len(occupied))
        number = table[code]
    else:
        occupied, inverse = np.unique(code, return_inverse=True)
        number = inverse.reshape(-1).astype(np.int64)
    return np.stack(np.unravel_index(occupied, extent), axis=1).astype(np.int64) + low, number


def runs_of(*bounded: tuple[NDArray[np.int64], int]) -> list[tuple[int, int]]:
    """Cut things into runs (start, stop) by their sizes of one or more kinds, and the most that a run may have of each kind.

    One thing alone that is larger is a run of its own.
    """
    ends = [np.cumsum(sizes) for sizes, _ in bounded]
    runs: list[tuple[int, int]] = []
    start = 0
    while start < len(ends[0]):
        before = [int(end[start - 1]) if start else 0 for end in ends]
        stops = [
            int(np.searchsorted(end, first + most, side="right"))
            for end, first, (_, most) in zip(ends, before, bounded, strict=True)
        ]
        runs.append((start, max(min(stops), start + 1)))
        start = runs[-1][1]
    return runs
