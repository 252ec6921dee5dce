"""Points: one by one while a screen can show them, as a raster of counts or means where there are more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dask_zv.spatial.grid import Box
from dask_zv.viz.colours import Colour, Guide, Look, Paint, paint_of
from dask_zv.viz.detail import Pair, blocks, pixels_of
from dask_zv.viz.drawing import box_of, missing_as_nan, places_of
from dask_zv.viz.raster import Raster, count_vertices
from dask_zv.xarray_backend import conventions as names
from dask_zv.xarray_backend.content import Shape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.image import AxesImage


_INK = 0.25
"""Part of the axes that points would cover, were none over another."""
_PER_CELL = 4
"""Vertices to a cell at least, on average: finer rasters show noise."""
_LOG_FROM = 30
"""Counts that reach this are shown on a logarithmic scale."""


@dataclass(frozen=True, slots=True, eq=False)
class PointDrawing:
    """Points one by one."""

    shape: Shape
    positions: NDArray[Any]
    paint: Paint
    total: int

    @property
    def title(self) -> str:
        """How many vertices there are."""
        return f"{self.total:,} vertices"

    @property
    def notice(self) -> str:
        """How many are drawn, where not all are."""
        return "" if len(self.positions) == self.total else f"{len(self.positions):,} of {self.total:,} vertices"

    @property
    def box(self) -> Box:
        """Where they lie."""
        return box_of(self.positions)

    def draw(self, ax: Axes, pair: Pair, look: Look, **artist: Any) -> PathCollection:
        """Add them to axes."""
        if "s" not in artist:
            room = pixels_of(ax) * (72 / ax.figure.dpi) ** 2  # square points
            artist["s"] = float(np.clip(_INK * room / max(len(self.positions), 1), 0.2, 12))
        # matplotlib puts points below all lines: here what is drawn later is above
        artist = {"linewidths": 0, "zorder": 2, "rasterized": len(self.positions) > 20_000, **artist}
        found = ax.scatter(*self.positions[:, list(pair)].T, **artist)
        self.paint.apply(found, look, "set_facecolor")
        return found

    def guide(self, look: Look) -> Guide | None:
        """Return what tells the meaning of their colours."""
        return self.paint.guide(look)


@dataclass(frozen=True, slots=True, eq=False)
class RasterDrawing:
    """Points counted in cells."""

    shape: Shape
    rasters: dict[Pair, Raster]
    box: Box
    label: str
    total: int
    notice: str = ""

    @property
    def title(self) -> str:
        """How many vertices there are."""
        return f"{self.total:,} vertices"

    def draw(self, ax: Axes, pair: Pair, look: Look, **artist: Any) -> AxesImage:
        """Add the raster to axes."""
        raster = self.rasters[pair]
        cells = raster.cells
        values = np.ma.masked_where(raster.counts == 0, raster.counts if raster.means is None else raster.means)
        return ax.imshow(
            values.T,
            extent=(cells.low[0], cells.high[0], cells.low[1], cells.high[1]),
            cmap=look.colormap("magma_r" if raster.means is None else "viridis").with_extremes(bad=(0, 0, 0, 0)),
            norm=self._scale(look),
            alpha=look.alpha,
            aspect="auto",  # dress() knows whether the axes have one scale
            **{"origin": "lower", "interpolation": "nearest", **artist},
        )

    def _scale(self, look: Look) -> Any:
        every = [r.counts[r.counts > 0] if r.means is None else r.means[r.counts > 0] for r in self.rasters.values()]
        values = np.concatenate(every).astype(np.float64)
        counted = all(r.means is None for r in self.rasters.values())
        return look.scale(values, log=counted and len(values) > 0 and float(values.max()) >= _LOG_FROM)

    def guide(self, look: Look) -> Guide | None:
        """Return the colour bar, with the size of the cells."""
        from matplotlib.cm import ScalarMappable

        if not look.add_colorbar:
            return None
        counted = all(r.means is None for r in self.rasters.values())
        label = self.label
        if counted:
            (pair, raster), *others = self.rasters.items()
            across, up = (f"{s:.3g}" for s in raster.cells.size)
            unit = self.shape.units[pair[0]]
            if not others and self.shape.units[pair[1]] == unit:
                label += f" of {across}{f' {unit}' if unit else ''}" + ("" if across == up else f" x {up}")
        return Guide(
            label, ScalarMappable(self._scale(look), look.colormap("magma_r" if counted else "viridis")), counts=counted
        )


def prepare_raster(
    ds: xr.Dataset, shape: Shape, pairs: Sequence[Pair], colour: Colour | None, pixels: float, notice: str = ""
) -> RasterDrawing:
    """Count a Dataset's vertices in cells of a pixel, larger ones where there are few.

    Parameters
    ----------
    ds : Dataset
    shape : Shape
    pairs : sequence of pairs of int
    colour : Colour, optional
        A numeric attribute of vertices, whose mean to take.
    pixels : float
        Of the axes.
    notice : str
        For the title.
    """
    total = ds.sizes["vertex"]
    name = None if colour is None else colour.name
    rasters, box = count_vertices(ds, shape, pairs, min(pixels, total / _PER_CELL), name)
    label = "vertices per cell" if colour is None else f"mean {colour.label}"
    return RasterDrawing(shape, rasters, box, label, total, notice)


def prepare_points(ds: xr.Dataset, shape: Shape, colour: Colour | None, budget: int) -> PointDrawing:
    """Read points to draw one by one: all, or of more than `budget` every k-th row.

    Rows are taken block by block, so memory stays bounded; rows of a chunk follow each other, so every chunk is sampled alike.

    Parameters
    ----------
    ds : Dataset
    shape : Shape
    colour : Colour, optional
    budget : int
    """
    total = ds.sizes["vertex"]
    step = max(1, -(-total // budget))
    positions = np.stack([_every(ds.variables[a], step) for a in shape.axes], axis=1)
    return PointDrawing(shape, positions, _paint(ds, shape, colour, step), total)


def _every(variable: xr.Variable, step: int) -> NDArray[Any]:
    if step == 1 or variable.chunks is not None:
        return np.asarray(variable[::step].values)
    n = variable.shape[0]
    runs = [np.asarray(variable[r].values)[-r.start % step :: step] for r in blocks(n)]
    return np.concatenate(runs) if runs else np.asarray(variable.values)


def _paint(ds: xr.Dataset, shape: Shape, colour: Colour | None, step: int) -> Paint:
    if colour is None:
        return Paint("plain", plain="C0")
    if colour.where == "plain":
        return Paint("plain", plain=colour.plain)
    variable = ds.variables[colour.name]
    if colour.where == "vertex":
        values = missing_as_nan(ds, colour.name, _every(variable, step))
        return paint_of(values, colour.label, identity=colour.is_identity)
    values = missing_as_nan(ds, colour.name, np.asarray(variable.values))
    table = paint_of(values, colour.label, identity=colour.is_identity).padded()
    if shape.view == "objects":
        counts = np.asarray(ds.variables[names.COUNT].values, np.int64)
        return table.take(np.repeat(np.arange(len(counts)), counts)[::step])
    owners = _every(ds.variables[names.OBJECT_ID], step)
    return table.take(places_of(owners, np.asarray(ds.variables["object"].values)))
