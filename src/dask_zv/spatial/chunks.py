"""Chunk coordinates: where a chunk is among others, the distinct ones of many, and their order along the Morton curve.

Morton (Z-order) codes are those by which ZV 0.7 numbers its octree shards: bit ``b`` of axis ``a`` goes to bit ``b * K + a`` of
the code; a negative component ``c`` is first replaced by ``c + 2**20``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import PlanError
from dask_zv.spatial.grid import corners

_NEGATIVE = 1 << 20
_TABLE_LIMIT = 1 << 22


@dataclass(frozen=True, eq=False)
class ChunkLookup:
    """Some chunks in the ascending order of their coordinates, int64 (n, K), and where each is among them."""

    coords: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.coords)

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}  # without what is remembered beside them

    @cached_property
    def _codes(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]] | None:
        """Return (codes of the coordinates, least corner, extents): ascending, as the coordinates are."""
        low, high = corners(self.coords)
        spans = [b - a + 1 for a, b in zip(low.tolist(), high.tolist(), strict=True)]  # beyond int64 where chunks are far apart
        if math.prod(spans) > 1 << 62:
            return None
        extent = np.array(spans, np.int64)
        return _code(self.coords, low, extent), low, extent

    @cached_property
    def _rows_by_coords(self) -> dict[tuple[int, ...], int]:
        return {tuple(c): i for i, c in enumerate(self.coords.tolist())}

    def find(self, coords: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the row of each chunk, -1 for those that aren't there; coords (..., K) to int64 (...)."""
        flat = coords.reshape(math.prod(coords.shape[:-1]), coords.shape[-1])
        out = np.full(len(flat), -1, np.int64)
        if len(self) and len(flat) and flat.shape[1] == self.coords.shape[1]:
            if self._codes is None:
                out[:] = [self._rows_by_coords.get(tuple(c), -1) for c in flat.tolist()]
            else:
                known, low, extent = self._codes
                inside = ((flat >= low) & (flat <= low + (extent - 1))).all(axis=1)
                code = _code(flat[inside], low, extent)
                at = np.searchsorted(known, code)
                at[at == len(known)] = 0
                out[inside] = np.where(known[at] == code, at, -1)
        return out.reshape(coords.shape[:-1])


def _code(coords: NDArray[np.int64], low: NDArray[np.int64], extent: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place of chunks in the row-major order of a box."""
    code = np.zeros(len(coords), np.int64)
    for axis in range(coords.shape[1]):
        code *= extent[axis]
        code += coords[:, axis] - low[axis]
    return code


def group_by_chunk(chunks: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct rows of `chunks`, ascending, and the number of each row's chunk among them.

    Shapes: `chunks` (n, D), returns `unique` (m, D), returns `number` (n,).
    """
    n, ndim = chunks.shape
    if n == 0:
        return np.zeros((0, ndim), np.int64), np.zeros(0, np.int64)
    low, high = corners(chunks)
    extent = [b - a + 1 for a, b in zip(low.tolist(), high.tolist(), strict=True)]
    cells = math.prod(extent)
    if cells > 1 << 62:
        unique, inverse = np.unique(chunks, axis=0, return_inverse=True)
        return unique, inverse.reshape(-1).astype(np.int64)
    code = _code(chunks, low, np.array(extent, np.int64))
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


def _spread(values: NDArray[np.uint64], ndim: int, bits: int) -> NDArray[np.uint64]:
    out = np.zeros_like(values)
    for b in range(bits):
        out |= ((values >> np.uint64(b)) & np.uint64(1)) << np.uint64(b * ndim)
    return out


def _interleaved(shifted: NDArray[np.int64]) -> NDArray[np.uint64] | None:
    """Codes of non-negative coordinates, None where 64 bits don't hold them."""
    n, ndim = shifted.shape
    bits = int(shifted.max()).bit_length() if n else 0
    if bits * ndim > 64:
        return None
    code = np.zeros(n, np.uint64)
    for axis in range(ndim):
        code |= _spread(shifted[:, axis].astype(np.uint64), ndim, bits) << np.uint64(axis)
    return code


def morton_codes(coords: NDArray[np.int64]) -> NDArray[Any]:
    """Return the code of every row of `coords`, shape (n, K)."""
    coords = np.asarray(coords, np.int64)
    if len(coords) and int(coords.min()) < -_NEGATIVE:
        raise PlanError(
            f"chunk coordinate {int(coords.min())} is below {-_NEGATIVE}, where shard numbers end: "
            "choose a larger chunk_shape or shift the positions"
        )
    shifted = np.where(coords < 0, coords + _NEGATIVE, coords)
    codes = _interleaved(shifted)
    if codes is not None:
        return codes
    out = np.empty(len(coords), object)
    ndim = coords.shape[1]
    for i, row in enumerate(shifted.tolist()):
        out[i] = sum(
            ((value >> b) & 1) << (b * ndim + axis) for axis, value in enumerate(row) for b in range(value.bit_length())
        )
    return out


def morton_order(coords: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return the order that sorts rows of `coords`, shape (n, K), along the Z-curve through their own box.

    Unlike :func:`morton_codes`, negative neighbours stay neighbours; where even the box passes 64 bits, the least bits are
    left out of the comparison and ties are in ascending coordinate order.
    """
    coords = np.asarray(coords, np.int64)
    if not len(coords):
        return np.zeros(0, np.intp)
    shifted = coords - coords.min(axis=0)
    drop = max(0, int(shifted.max()).bit_length() - 64 // coords.shape[1])
    codes = _interleaved(shifted >> drop)
    assert codes is not None
    return np.lexsort((*coords.T[::-1], codes))
