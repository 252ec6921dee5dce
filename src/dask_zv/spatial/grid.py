"""From a position to its chunk and bin.

The grid is anchored at coordinate 0 whatever the bounds; cells are half open, so a point on a boundary belongs to the upper
chunk. A position's chunk is found once, by dividing the position *as stored* in float64; the bin is then the local one,
clipped into the chunk, so that chunk and bin never disagree about a point on an inexact boundary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import InputError

_LIMIT = float(2**53)

Box = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Least and greatest corner, each of shape (D,); closed on both sides."""


def corners(points: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the least and the greatest of each column of `points`, shape (n, D), n > 0.

    Column by column: numpy reduces the long axis of a narrow array ten times slower.
    """
    columns = [points[:, axis] for axis in range(points.shape[1])]
    return np.array([c.min() for c in columns], points.dtype), np.array([c.max() for c in columns], points.dtype)


def as_box(bbox: object, ndim: int, what: str = "bbox") -> Box:
    """Return `bbox`, a pair of corners, as two float64 arrays of shape (ndim,); a None in a corner leaves that side open."""
    form = _form(ndim)
    try:
        given = np.asarray(bbox, object)
        corners = given.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} must be two corners, {form}, not {bbox!r:.80}: {error}") from error
    if corners.shape != (2, ndim):
        raise InputError(f"{what} must be two corners of {ndim} numbers, {form}, not {bbox!r:.80}")
    for corner, numbers, open_end in zip(given, corners, (-np.inf, np.inf), strict=True):
        numbers[[value is None for value in corner]] = open_end
    if np.isnan(corners).any():
        raise InputError(f"{what} has a NaN; use None, -inf or inf for an open side")
    low, high = corners
    if not (low < high).all():
        is_ranges = ndim == 2 and (corners[:, 0] < corners[:, 1]).all()
        meant = f" (ranges along the axes are written {_plain(corners.T)})" if is_ranges else ""
        fault = "has a least corner above its greatest" if (low > high).any() else "has no width along an axis"
        raise InputError(f"{what} {fault}: {_plain(corners)}; it is given as two corners, {form}{meant}")
    return low, high


def _form(ndim: int) -> str:
    low, high = (", ".join(f"{name}{i}" for name in "xyzw"[:ndim]) for i in (0, 1))
    return f"(({low}), ({high}))" if ndim > 1 else f"(({low},), ({high},))"


def _plain(corners: NDArray[np.float64]) -> str:
    return str(tuple(map(tuple, corners.tolist())))


def stored_box(box: Box, dtype: np.dtype[Any], offset: Sequence[float] | None = None) -> Box:
    """Return a box of coordinates as users see them as a box of stored ones, to be compared with them in float64.

    Labels are cast to the dtype of the positions: 0.1 is the side of a box at the float32 position that was written as 0.1.
    """
    low, high = box
    if offset is not None:  # half a unit in the last place further out are the stored positions whose sum rounds to the side
        shift = np.asarray(offset, np.longdouble)
        reach = [np.where(np.isfinite(c), np.spacing(np.where(np.isfinite(c), c, 0)), 0) / 2 for c in (low, high)]
        return (low - shift - abs(reach[0])).astype(np.float64), (high - shift + abs(reach[1])).astype(np.float64)
    if dtype.kind != "f":
        return box
    with np.errstate(over="ignore"):
        return low.astype(dtype).astype(np.float64), high.astype(dtype).astype(np.float64)


@dataclass(frozen=True, slots=True)
class ChunkGrid:
    """The regular grid of one level."""

    chunk_shape: tuple[float, ...]  # Edge lengths of a chunk, in the units of the axes
    bins_per_chunk: tuple[int, ...]  # Bins along each edge

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.chunk_shape)

    @property
    def n_bins(self) -> int:
        """Bins in a chunk."""
        return int(np.prod(self.bins_per_chunk))

    def chunks_of(self, positions: NDArray[np.floating]) -> NDArray[np.int64]:
        """Return the chunk of every position, shapes (N, D) to (N, D) int64."""
        out = np.empty(positions.shape, np.int64)
        for axis, edge in enumerate(self.chunk_shape):  # axis by axis: the float64 cells of a block are larger than its rows
            cells = positions[:, axis].astype(np.float64)
            np.floor(np.divide(cells, edge, out=cells), out=cells)
            if len(cells) and not (max(-cells.min(), cells.max()) < _LIMIT):
                raise InputError(
                    f"a position lies more than 2**53 chunks of {self.chunk_shape} from the origin: choose a larger chunk_shape"
                )
            out[:, axis] = cells
        return out

    def bins_of(self, positions: NDArray[np.floating], chunks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return every position's bin number within its chunk, row-major over the axes (last axis fastest).

        Shapes: `positions` (N, D), `chunks` (N, D).
        """
        per_chunk = np.asarray(self.bins_per_chunk, np.int64)
        bin_shape = np.asarray(self.chunk_shape) / per_chunk
        local = np.floor(positions.astype(np.float64, copy=False) / bin_shape).astype(np.int64) - chunks * per_chunk
        np.clip(local, 0, per_chunk - 1, out=local)
        return np.asarray(np.ravel_multi_index(tuple(local.T), self.bins_per_chunk), np.int64)

    def touches(self, coords: NDArray[np.int64], box: Box) -> NDArray[np.bool_]:
        """Return which chunks can hold a position inside the closed `box`: coords (n, D) to bool (n,).

        The candidates are those between the chunks of the two corners, found with the division that put positions there.
        """
        shape = np.asarray(self.chunk_shape)
        low, high = np.floor(box[0] / shape), np.floor(box[1] / shape)
        return np.asarray(((coords >= low) & (coords <= high)).all(axis=1), bool)

    def inside(self, coords: NDArray[np.int64], box: Box) -> NDArray[np.bool_]:
        """Return which chunks lie so far inside `box` that none of their positions can be outside it."""
        shape = np.asarray(self.chunk_shape)
        low, high = np.floor(box[0] / shape), np.floor(box[1] / shape)
        return np.asarray(((coords > low) & (coords < high)).all(axis=1), bool)
