"""Rasters: vertices counted per cell, or means of an attribute, computed in parts; and the map of chunks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from dask.base import compute, is_dask_collection
from dask.delayed import delayed
from numpy.typing import NDArray

from dask_zv.analysis.cells import CellGrid
from dask_zv.errors import InputError
from dask_zv.graph.builder import block_delayeds, reduce_tree
from dask_zv.spatial.grid import Box
from dask_zv.viz.colours import Colour, Guide, Look
from dask_zv.viz.detail import Pair, blocks, chunk_counts
from dask_zv.xarray_backend.content import Shape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.image import AxesImage

_FAN_IN = 8
_FILLED = 0.5
"""If vertices fill less than this part of the box of their chunks, they are read again with a box that fits."""
_FEWEST = 2_500
_PER_CELL = 4
"""Fewest vertices per cell, on average: finer rasters show noise."""
_MOST_COLUMNS = 1024
"""Most columns of chunks along an axis: with more, neighbours are combined."""
_OUTLINED = 64
_LOG_FROM = 30
"""Ratio of the largest to the smallest count above which the scale is logarithmic."""


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Counts of vertices in the cells of a grid; with an attribute, of those that have a value, and the means of the values."""

    edges: tuple[NDArray[np.float64], ...]
    counts: NDArray[np.int64]
    means: NDArray[np.float64] | None = None

    @property
    def shown(self) -> Any:
        """The values that are drawn; empty cells are masked."""
        return np.ma.masked_where(self.counts == 0, self.counts if self.means is None else self.means)


@dataclass(frozen=True, slots=True, eq=False)
class CellDrawing:
    """Coloured cells along some pairs of axes: a raster, or columns of whole chunks."""

    shape: Shape
    cells: Mapping[Pair, Cells]
    box: Box
    label: str
    title: str
    notice: str = ""
    of_chunks: bool = False

    def draw(self, ax: Axes, pair: Pair, look: Look, **artist: Any) -> AxesImage | QuadMesh:
        """Add the cells to axes; empty ones are transparent."""
        cells = self.cells[pair]
        colours = {"cmap": self._colormap(look).with_extremes(bad=(0, 0, 0, 0)), "norm": self._scale(look), "alpha": look.alpha}
        if self.of_chunks:
            outlined = max(cells.counts.shape) <= _OUTLINED
            artist = {**({"edgecolors": "white", "linewidth": 0.5} if outlined else {"rasterized": True}), **artist}
            return ax.pcolormesh(*cells.edges, cells.shown.T, **colours, **artist)
        (left, *_, right), (bottom, *_, top) = (e.tolist() for e in cells.edges)
        artist = {"origin": "lower", "interpolation": "nearest", **artist}
        # dress() decides whether the axes have one scale
        return ax.imshow(cells.shown.T, extent=(left, right, bottom, top), aspect="auto", **colours, **artist)

    @property
    def _counted(self) -> bool:
        return all(c.means is None for c in self.cells.values())

    def _colormap(self, look: Look) -> Any:
        return look.colormap("YlGnBu" if self.of_chunks else "magma_r" if self._counted else "viridis")

    def _scale(self, look: Look) -> Any:
        values = np.concatenate([c.shown.compressed() for c in self.cells.values()]).astype(np.float64)
        least = float(values.min()) if self.of_chunks and len(values) else 1.0
        return look.scale(values, log=self._counted and len(values) > 0 and float(values.max()) >= _LOG_FROM * least)

    def guide(self, look: Look) -> Guide | None:
        """Return the colour bar."""
        from matplotlib.cm import ScalarMappable

        if not look.add_colorbar:
            return None
        return Guide(self.label, ScalarMappable(self._scale(look), self._colormap(look)), counts=self._counted)


# ---------------------------------------------------------------------------------------------- rasters


def prepare_raster(
    ds: xr.Dataset, shape: Shape, pairs: Sequence[Pair], colour: Colour | None, pixels: float, notice: str = ""
) -> CellDrawing:
    """Count the vertices of a Dataset per pixel, or per larger cell if there are few; with `colour`, compute its means."""
    total = ds.sizes["vertex"]
    cells, box = _count(ds, shape, pairs, min(pixels, total / _PER_CELL), None if colour is None else colour.name)
    label = "vertices per cell" if colour is None else f"mean {colour.label}"
    if colour is None and len(pairs) == 1:
        units = [shape.units[a] for a in pairs[0]]
        if units[0] == units[1]:  # the label gives the size of a cell
            across, up = (f"{e[1] - e[0]:.3g}" for e in cells[pairs[0]].edges)
            label += f" of {across}{f' {units[0]}' if units[0] else ''}" + ("" if across == up else f" x {up}")
    return CellDrawing(shape, cells, box, label, f"{total:,} vertices", notice)


def _count(
    ds: xr.Dataset, shape: Shape, pairs: Sequence[Pair], number: float, value: str | None
) -> tuple[dict[Pair, Cells], Box]:
    """Count vertices in about `number` cells of some projections, in one or two passes; return their box, too.

    The first grid covers the chunks. If vertices fill less than half of it, or if the chunks are unknown, a second
    pass uses a grid that fits.
    """
    axes = sorted({a for pair in pairs for a in pair})
    ndim = len(shape.axes)
    columns = [ds.variables[shape.axes[a]] for a in axes]

    def run(box: Box) -> tuple[_Tally, list[CellGrid]]:
        grids = [
            CellGrid(
                (axes.index(p[0]), axes.index(p[1])), _edges(box, p, number, square=shape.units[p[0]] == shape.units[p[1]])
            )
            for p in pairs
        ]
        return _tallied(columns if value is None else [*columns, ds.variables[value]], len(axes), grids), grids

    box = _expected_box(ds, ndim)
    if box is None:
        box = _tallied(columns, len(axes), []).box(axes, ndim)
        tally, grids = run(box)
    else:
        tally, grids = run(box)
        fitted = tally.box(axes, ndim)
        if tally.outside or ((fitted[1] - fitted[0])[axes] < _FILLED * (box[1] - box[0])[axes]).any():
            tally, grids = run(fitted)
    found: dict[Pair, Cells] = {}
    for i, (pair, grid) in enumerate(zip(pairs, grids, strict=True)):
        counts, means = tally.counts[i], None
        if value is not None:
            means = np.full(grid.size, np.nan)
            np.divide(tally.sums[i], counts, out=means, where=counts > 0)
            means = means.reshape(grid.shape)
        found[pair] = Cells(grid.edges, counts.reshape(grid.shape), means)
    return found, tally.box(axes, ndim)


def _edges(box: Box, pair: Pair, number: float, *, square: bool) -> tuple[NDArray[np.float64], ...]:
    """Return the edges of about `number` cells over two axes of a box; `square` makes width and height equal."""
    number = max(number, _FEWEST)
    low, end = box[0][list(pair)], box[1][list(pair)]
    size = end - low
    size = np.where(size > 0, size, max(float(size.max()), 1.0) * 1e-3)
    counts = np.full(2, int(number**0.5))
    if square:
        edge = max((float(size.prod()) / number) ** 0.5, float(size.max()) / number)
        counts = np.maximum(np.ceil(size / edge), 1).astype(int)
        low, size = low - (counts * edge - size) / 2, counts * edge
    high = np.maximum(low + size, end)
    return tuple(np.linspace(a, b, n + 1) for a, b, n in zip(low, high, counts.tolist(), strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class _Tally:
    """The sums of some rows in each grid, and their box along the axes that are drawn."""

    counts: list[NDArray[np.int64]]
    sums: list[NDArray[np.float64]]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    outside: int

    def box(self, axes: Sequence[int], ndim: int) -> Box:
        """Return the box in all axes; 0 along those that are not drawn."""
        corners = np.zeros((2, ndim))
        known = np.isfinite(self.low) & np.isfinite(self.high)
        corners[:, np.asarray(axes)[known]] = self.low[known], self.high[known]
        return corners[0], corners[1]


def _tally(ndim: int, grids: Sequence[CellGrid], columns: Sequence[NDArray[Any]]) -> _Tally:
    """Count one block; `columns` are `ndim` positions, then the attribute if there is one."""
    positions = np.stack([c.astype(np.float64) for c in columns[:ndim]], axis=1)
    counts, sums, outside = [], [], 0
    for grid in grids:
        codes, inside = grid.codes(positions)
        outside += len(inside) - len(codes)
        if len(columns) > ndim:
            weights = columns[ndim].astype(np.float64)[inside]
            known = np.isfinite(weights)
            codes = codes[known]
            sums.append(np.bincount(codes, weights[known], grid.size).astype(np.float64, copy=False))
        counts.append(np.bincount(codes, minlength=grid.size))
    return _Tally(counts, sums, positions.min(axis=0, initial=np.inf), positions.max(axis=0, initial=-np.inf), outside)


def _joined(parts: Sequence[_Tally]) -> _Tally:
    return _Tally(
        [np.sum(c, axis=0) for c in zip(*(p.counts for p in parts), strict=True)],
        [np.sum(s, axis=0) for s in zip(*(p.sums for p in parts), strict=True)],
        np.stack([p.low for p in parts]).min(axis=0),
        np.stack([p.high for p in parts]).max(axis=0),
        sum(p.outside for p in parts),
    )


def _tallied(variables: Sequence[xr.Variable], ndim: int, grids: Sequence[CellGrid]) -> _Tally:
    """Sum all rows: Dask chunks on the workers if there are any, else runs of rows one after the other."""
    tally = partial(_tally, ndim, grids)
    if not any(is_dask_collection(v.data) for v in variables if v.chunks is not None):
        nothing = tally([np.zeros(0)] * len(variables))
        parts = (tally([np.asarray(v[run].values) for v in variables]) for run in blocks(variables[0].shape[0]))
        return reduce(lambda a, b: _joined([a, b]), parts, nothing)
    table = xr.Dataset({str(i): v.to_base_variable() for i, v in enumerate(variables)}).chunk().unify_chunks()
    found = [block_delayeds(table[str(i)].data) for i in range(len(variables))]
    tasks = [delayed(tally, pure=False)(list(columns)) for columns in zip(*found, strict=True)]
    join = delayed(_joined, pure=False)
    out: _Tally = compute(*reduce_tree(tasks, lambda depth, number, group: join(group), fan_in=_FAN_IN))[0]
    return out


def _expected_box(ds: xr.Dataset, ndim: int) -> Box | None:
    """Return the box that vertices can be in: that of their chunks within the bounds of the store."""
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


# ---------------------------------------------------------------------------------------------- chunks


def prepare_chunks(ds: xr.Dataset, shape: Shape, pairs: Sequence[Pair]) -> CellDrawing:
    """Return the number of vertices in each column of chunks, from the table of chunks only."""
    found = chunk_counts(ds)
    if found is None:
        raise InputError(
            "the chunks of these vertices are unknown: plot the Dataset as it was opened, or a selection in view='spatial'"
        )
    cells: dict[Pair, Cells] = {}
    for pair in pairs:
        drawn = list(pair)
        at = found.coords[:, drawn] if len(found.rows) else np.zeros((1, 2), np.int64)
        width = -(-(int((at.max(axis=0) - at.min(axis=0)).max()) + 1) // _MOST_COLUMNS)
        first = (at // width).min(axis=0)
        place = at // width - first
        counts = np.zeros(tuple(place.max(axis=0) + 1), np.int64)
        np.add.at(counts, tuple(place.T), found.rows if len(found.rows) else 0)
        edges = tuple(
            (first[i] + np.arange(n + 1)) * width * found.edges[axis] + found.offset[axis]
            for i, (axis, n) in enumerate(zip(drawn, counts.shape, strict=True))
        )
        cells[pair] = Cells(edges, counts)
    zero = np.zeros(len(shape.axes))
    label = "vertices per chunk" if len(shape.axes) == 2 else "vertices per column of chunks"
    title = f"{int(found.rows.sum()):,} vertices in {len(found.rows):,} chunks"
    return CellDrawing(shape, cells, found.box if len(found.rows) else (zero, zero), label, title, of_chunks=True)
