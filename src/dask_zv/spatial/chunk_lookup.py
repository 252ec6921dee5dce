"""Chunks found by their coordinates."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.spatial.grid import corners


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
