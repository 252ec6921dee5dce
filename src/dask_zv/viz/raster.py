"""Counts of vertices, or means of an attribute, in the cells of a picture: block by block, with bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from dask.base import compute, is_dask_collection
from dask.delayed import delayed
from numpy.typing import NDArray

from dask_zv.graph.arrays import block_delayeds
from dask_zv.spatial.grid import Box
from dask_zv.viz.detail import Pair, blocks
from dask_zv.viz.occupancy import chunk_counts
from dask_zv.xarray_backend.content import Shape

_FAN_IN = 8
_FILLED = 0.5
"""Where vertices fill less than this part of the box that the chunks promised, they are read again for a box that fits."""
_FEWEST = 2_500


@dataclass(frozen=True, slots=True)
class Cells:
    """A regular grid over a rectangle, closed on all sides.

    Attributes
    ----------
    low, high : tuple of float
    shape : tuple of int
    """

    low: tuple[float, float]
    high: tuple[float, float]
    shape: tuple[int, int]

    @classmethod
    def over(cls, box: Box, pair: Pair, number: float, *, square: bool) -> Cells:
        """Return about `number` cells over two axes of a box; as high as they are wide where both axes have one unit."""
        low = box[0][list(pair)]
        size = box[1][list(pair)] - low
        size = np.where(size > 0, size, max(float(size.max()), 1.0) * 1e-3)
        if not square:
            side = max(1, int(number**0.5))
            return cls((low[0], low[1]), (low[0] + size[0], low[1] + size[1]), (side, side))
        edge = max((float(size.prod()) / number) ** 0.5, float(size.max()) / number)
        shape = np.maximum(np.ceil(size / edge), 1).astype(int)
        spare = (shape * edge - size) / 2
        high = low + size + spare
        low = low - spare
        return cls((low[0], low[1]), (high[0], high[1]), (int(shape[0]), int(shape[1])))

    @property
    def size(self) -> tuple[float, float]:
        """Edge lengths of a cell."""
        return (self.high[0] - self.low[0]) / self.shape[0], (self.high[1] - self.low[1]) / self.shape[1]

    def numbers(self, a: NDArray[Any], b: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the cells of those positions that are in the rectangle, and which these are."""
        inside = (a >= self.low[0]) & (a <= self.high[0]) & (b >= self.low[1]) & (b <= self.high[1])
        cells = [
            np.clip(((p[inside].astype(np.float64) - low) / size).astype(np.int64), 0, n - 1)
            for p, low, size, n in zip((a, b), self.low, self.size, self.shape, strict=True)
        ]
        return cells[0] * self.shape[1] + cells[1], inside


@dataclass(frozen=True, slots=True)
class _Tally:
    """What some rows are in each grid, and the box that they lie in."""

    counts: tuple[NDArray[np.int64], ...]
    sums: tuple[NDArray[np.float64], ...]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    outside: int

    @staticmethod
    def joined(parts: Sequence[_Tally]) -> _Tally:
        return _Tally(
            tuple(np.sum(c, axis=0) for c in zip(*(p.counts for p in parts), strict=True)),
            tuple(np.sum(s, axis=0) for s in zip(*(p.sums for p in parts), strict=True)),
            np.stack([p.low for p in parts]).min(axis=0),
            np.stack([p.high for p in parts]).max(axis=0),
            sum(p.outside for p in parts),
        )


@dataclass(frozen=True, slots=True)
class Raster:
    """Vertices in the cells of one projection.

    Attributes
    ----------
    cells : Cells
    counts : ndarray of int64, shape `cells.shape`
        Vertices; with an attribute, those that have a value.
    means : ndarray of float64, optional
        Of the attribute, NaN in empty cells.
    """

    cells: Cells
    counts: NDArray[np.int64]
    means: NDArray[np.float64] | None = None


def _tally(columns: Sequence[NDArray[Any]], axes: tuple[int, ...], grids: tuple[tuple[Pair, Cells], ...]) -> _Tally:
    """Count one block; `columns` are the positions along `axes`, then the attribute if there is one."""
    by_axis = dict(zip(axes, columns, strict=False))
    ndim = max(axes) + 1
    low, high = np.full(ndim, np.inf), np.full(ndim, -np.inf)
    for axis, values in by_axis.items():
        if len(values):
            low[axis], high[axis] = float(values.min()), float(values.max())
    weights = columns[len(axes)].astype(np.float64) if len(columns) > len(axes) else None
    counts: list[NDArray[np.int64]] = []
    sums: list[NDArray[np.float64]] = []
    outside = 0
    for (a, b), cells in grids:
        numbers, inside = cells.numbers(by_axis[a], by_axis[b])
        outside += len(inside) - len(numbers)
        n = cells.shape[0] * cells.shape[1]
        if weights is not None:
            w = weights[inside]
            known = np.isfinite(w)
            numbers, w = numbers[known], w[known]
            sums.append(np.asarray(np.bincount(numbers, w, n), np.float64).reshape(cells.shape))
        counts.append(np.bincount(numbers, minlength=n).reshape(cells.shape))
    return _Tally(tuple(counts), tuple(sums), low, high, outside)


def _tallied(variables: Sequence[xr.Variable], tally: Callable[[Sequence[NDArray[Any]]], _Tally]) -> _Tally:
    """Tally all rows: Dask's chunks on its workers where there are any, else runs of rows, one after the other."""
    if not any(is_dask_collection(v.data) for v in variables if v.chunks is not None):
        parts: _Tally | None = None
        for columns in _runs(variables):
            new = tally(columns)
            parts = new if parts is None else _Tally.joined([parts, new])
        return tally([np.zeros(0)] * len(variables)) if parts is None else parts
    table = xr.Dataset({str(i): v.to_base_variable() for i, v in enumerate(variables)}).chunk().unify_chunks()
    found = [block_delayeds(table[str(i)].data) for i in range(len(variables))]
    tasks = [delayed(tally, pure=False)(list(columns)) for columns in zip(*found, strict=True)]
    while len(tasks) > 1:
        join = delayed(_Tally.joined, pure=False)
        tasks = [join(tasks[i : i + _FAN_IN]) for i in range(0, len(tasks), _FAN_IN)]
    out: _Tally = compute(tasks[0])[0]
    return out


def _runs(variables: Sequence[xr.Variable]) -> Iterator[list[NDArray[Any]]]:
    for run in blocks(variables[0].shape[0]):
        yield [np.asarray(v[run].values) for v in variables]


def count_vertices(
    ds: xr.Dataset, shape: Shape, pairs: Sequence[Pair], number: float, value: str | None = None
) -> tuple[dict[Pair, Raster], Box]:
    """Count a Dataset's vertices in the cells of some projections, in one pass over them, or two.

    The first grid covers the chunks. Where vertices fill less than half of it, or where nothing is known of chunks, a second
    pass has a grid that fits.

    Parameters
    ----------
    ds : Dataset
    shape : Shape
    pairs : sequence of pairs of int
        Axes of each projection.
    number : float
        Of cells, about.
    value : str, optional
        A variable along ``vertex`` whose means to take.

    Returns
    -------
    rasters : dict
    box : Box
        The vertices' own; 0 along axes that are not drawn.
    """
    axes = tuple(sorted({a for pair in pairs for a in pair}))
    variables = [ds.variables[shape.axes[a]] for a in axes]
    box = _expected_box(ds, len(shape.axes))
    if value is not None:
        variables.append(ds.variables[value])

    def run(box: Box) -> tuple[_Tally, tuple[tuple[Pair, Cells], ...]]:
        grids = tuple(
            (p, Cells.over(box, p, max(number, _FEWEST), square=shape.units[p[0]] == shape.units[p[1]])) for p in pairs
        )
        return _tallied(variables, _Block(axes, grids)), grids

    if box is None:
        first = _tallied(variables[: len(axes)], _Block(axes, ()))
        box = _fitted(first, axes, len(shape.axes))
        tally, grids = run(box)
    else:
        tally, grids = run(box)
        fitted = _fitted(tally, axes, len(shape.axes))
        used = list(axes)
        if tally.outside or ((fitted[1] - fitted[0])[used] < _FILLED * (box[1] - box[0])[used]).any():
            tally, grids = run(fitted)
    found: dict[Pair, Raster] = {}
    for i, (pair, cells) in enumerate(grids):
        counts = tally.counts[i]
        means = None
        if value is not None:
            means = np.full(cells.shape, np.nan)
            np.divide(tally.sums[i], counts, out=means, where=counts > 0)
        found[pair] = Raster(cells, counts, means)
    return found, _fitted(tally, axes, len(shape.axes))


@dataclass(frozen=True, slots=True)
class _Block:
    """The tally of a block, as a task has it."""

    axes: tuple[int, ...]
    grids: tuple[tuple[Pair, Cells], ...]

    def __call__(self, columns: Sequence[NDArray[Any]]) -> _Tally:
        return _tally(columns, self.axes, self.grids)


def _fitted(tally: _Tally, axes: tuple[int, ...], ndim: int) -> Box:
    low, high = np.zeros(ndim), np.zeros(ndim)
    for axis in axes:
        if np.isfinite(tally.low[axis]):
            low[axis], high[axis] = tally.low[axis], tally.high[axis]
    return low, high


def _expected_box(ds: xr.Dataset, ndim: int) -> Box | None:
    """Return where vertices can be: in their chunks, and in the bounds that the store states."""
    known = chunk_counts(ds)
    if known is None or not len(known.rows):
        return None
    low, high = known.box
    stated = [np.asarray(ds.attrs.get(f"bounds_{end}", ()), np.float64) for end in ("min", "max")]
    if all(s.shape == (ndim,) for s in stated):
        inner = np.maximum(low, stated[0]), np.minimum(high, stated[1])
        if (inner[0] < inner[1]).all():
            return inner
    return low, high
