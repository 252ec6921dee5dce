"""A regular grid of cells over some axes: its edges, and the cell that a position is in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.spatial.grid import stored_box

_MOST = 1 << 33  # 64 GB of numbers; more is taken for a mistake in the units of `spacing`
_CLOSE = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class CellGrid:
    """Cells between edges over some columns (`axes`) of the positions; half open, the last one of each axis closed."""

    axes: tuple[int, ...]
    edges: tuple[NDArray[np.float64], ...]
    """Of each axis, ascending."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Cells along each axis."""
        return tuple(len(e) - 1 for e in self.edges)

    @property
    def size(self) -> int:
        """Cells in all."""
        return math.prod(self.shape)

    def box(self, ndim: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the corners of the grid among all axes: infinite along those that it is not over."""
        low, high = np.full(ndim, -np.inf), np.full(ndim, np.inf)
        for axis, edges in zip(self.axes, self.edges, strict=True):
            low[axis], high[axis] = edges[0], edges[-1]
        return low, high

    def codes(self, positions: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the cells (row-major) of the positions (N, D) that are inside, shape (m,), and which these are, (N,)."""
        inside = np.ones(len(positions), bool)
        for axis, edges in zip(self.axes, self.edges, strict=True):
            column = positions[:, axis]
            (low,), (high,) = stored_box((edges[:1], edges[-1:]), positions.dtype)
            inside &= (column >= low) & (column <= high)  # not a NaN
        out = np.zeros(int(inside.sum()), np.int64)
        for axis, edges in zip(self.axes, self.edges, strict=True):
            out *= len(edges) - 1
            out += _cells(positions[inside, axis].astype(np.float64, copy=False), edges)
        return out, inside


def _cells(x: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the cells of positions inside; as a search in the edges would tell, several times faster."""
    n = len(edges) - 1
    low, high = float(edges[0]), float(edges[-1])
    at = ((x - low) * (n / (high - low))).astype(np.int64)
    np.clip(at, 0, n - 1, out=at)
    wrong = np.flatnonzero((x < edges[at]) | ((x >= edges[at + 1]) & (at < n - 1)))
    if len(wrong):  # rounding: next to an edge
        at[wrong] = np.clip(np.searchsorted(edges, x[wrong], side="right") - 1, 0, n - 1)
    return at


def make_cells(
    axes: Sequence[int],
    names: Sequence[str],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    spacing: Any,
    shape: Any,
) -> CellGrid:
    """Return a grid over axes from `low` on: of cells of a size, as many as reach `high`, or of a number of cells between them.

    `names` are those of the axes. An axis on which `low` and `high` are the same gets one half on both sides.
    """
    if (spacing is None) == (shape is None):
        raise InputError("pass either spacing= (the size of the cells) or shape= (their number along each axis)")
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise InputError(f"a grid has finite bounds, not {low.tolist()} to {high.tolist()}")
    flat = low == high
    low, high = np.where(flat, low - 0.5, low), np.where(flat, high + 0.5, high)
    edges: list[NDArray[np.float64]] = []
    if spacing is not None:
        sizes = _numbers(spacing, "spacing", names)
        if not (np.isfinite(sizes) & (sizes > 0)).all():
            raise InputError(f"spacing is the size of a cell, a positive number, not {spacing!r}")
        with np.errstate(over="ignore"):
            quotient = (high - low) / sizes
        _check_size([max(q, 1.0) for q in quotient.tolist()])
        counts = np.maximum(np.ceil(quotient * (1 - _CLOSE)), 1).astype(np.int64).tolist()
        for a, b, size, n in zip(low.tolist(), high.tolist(), sizes.tolist(), counts, strict=True):
            found = a + size * np.arange(n + 1)
            found[-1] = max(found[-1], b)  # 3 times 0.3 is less than 0.9
            edges.append(found)
    else:
        given = _numbers(shape, "shape", names)
        if (given < 1).any() or (given != np.floor(given)).any():
            raise InputError(f"shape is the number of cells along each axis, positive integers, not {shape!r}")
        _check_size(given.tolist())
        edges = [np.linspace(a, b, int(n) + 1) for a, b, n in zip(low, high, given, strict=True)]
    for name, found in zip(names, edges, strict=True):
        if not (found[1:] > found[:-1]).all():
            raise InputError(f"cells along {name} are too small to be distinguished in float64 at {found[0]} to {found[-1]}")
    return CellGrid(tuple(axes), tuple(edges))


def _check_size(counts: Sequence[float]) -> None:
    total = math.prod(counts)
    if not total <= _MOST:
        raise InputError(
            f"a grid of {total:.3g} cells is too large: choose larger cells, smaller bounds or fewer dims, for at most "
            f"{_MOST:,}"
        )


def _numbers(given: Any, what: str, names: Sequence[str]) -> NDArray[np.float64]:
    try:
        values = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        values = np.zeros((0, 0))
    if values.shape not in ((), (len(names),)):
        raise InputError(f"{what} is a number, or one for each of {', '.join(names)}, not {given!r:.80}")
    return np.broadcast_to(values, len(names))
