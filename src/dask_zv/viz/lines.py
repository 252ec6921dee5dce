"""Lines: paths of objects, and edges of skeletons and graphs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.spatial.grid import Box
from dask_zv.viz.colours import Colour, Guide, Look, Paint, paint_of
from dask_zv.viz.detail import Pair, Thinned
from dask_zv.viz.drawing import box_of, column, count_of, owner_paint, read_slim, vertex_paint
from dask_zv.xarray_backend import conventions as names
from dask_zv.xarray_backend.content import Content, Shape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection


_LEGEND_OBJECTS = 10


@dataclass(frozen=True, slots=True, eq=False)
class LineDrawing:
    """Lines, each a run of vertices.

    Attributes
    ----------
    shape : Shape
    positions : ndarray, shape (N, D)
    links : ndarray of int64, shape (E, 2), optional
        A line for each.
    lengths : ndarray of int64, shape (O,), optional
        A line for each object: these runs of positions.
    paint : Paint
        Of the lines.
    title, notice : str
    """

    shape: Shape
    positions: NDArray[Any]
    links: NDArray[np.int64] | None
    lengths: NDArray[np.int64] | None
    paint: Paint
    title: str
    notice: str

    @property
    def box(self) -> Box:
        """Where they lie."""
        return box_of(self.positions)

    def draw(self, ax: Axes, pair: Pair, look: Look, **artist: Any) -> LineCollection:
        """Add them to axes."""
        from matplotlib.collections import LineCollection

        flat = self.positions[:, list(pair)]
        if self.links is not None:
            segments: Any = flat[self.links]
        else:
            assert self.lengths is not None
            segments = np.split(flat, np.cumsum(self.lengths)[:-1])
        if not {"lw", "linewidth", "linewidths"} & set(artist):
            artist["linewidths"] = float(np.clip(2.2 - 0.35 * np.log10(max(len(flat), 10)), 0.4, 1.5))
        found = LineCollection(segments, **{"capstyle": "round", "rasterized": len(flat) > 100_000, **artist})
        self.paint.apply(found, look)
        ax.add_collection(found)
        ax.autoscale_view()
        return found

    def guide(self, look: Look) -> Guide | None:
        """Return what tells the meaning of their colours."""
        return self.paint.guide(look)


def lines_of(ds: xr.Dataset, shape: Shape) -> str | None:
    """Return the variable that makes lines of a Dataset's vertices; None where nothing does."""
    if shape.view == "objects" and shape.is_path:
        return names.COUNT
    return next((n for n in (names.PARENT, names.EDGES) if n in ds.variables), None)


def prepare_lines(thinned: Thinned, shape: Shape, colour: Colour | None) -> LineDrawing:
    """Read the lines of a Dataset.

    Parameters
    ----------
    thinned : Thinned
    shape : Shape
    colour : Colour, optional
        A colour for each object by default.

    Raises
    ------
    InputError
        Nothing in the Dataset says which vertices follow each other.
    """
    ds = thinned.ds
    by = lines_of(ds, shape)
    if by is None:
        if shape.is_path:
            raise InputError(
                "the spatial view has vertices by chunk, not along their paths: open the store with view='objects'"
            )
        raise InputError(
            f"the Dataset has no lines: its geometry is {shape.kind}, in the view {shape.view!r}"
            + (": edges are in view='spatial'" if shape.kind == "graph" else "")
        )
    if colour is not None and colour.where == "edge" and names.EDGES in ds.variables:
        by = names.EDGES
    content = read_slim(ds, shape, colour, by)
    if by == names.COUNT:
        links, lengths, paint = _paths(ds, content, colour)
    else:
        lengths = None
        if by == names.PARENT:
            assert content.parents is not None
            child = np.flatnonzero(content.parents >= 0)
            links = np.stack([child, content.parents[child]], axis=1)
        else:
            assert content.edges is not None
            links = content.edges
        paint = _edge_paint(ds, content, colour, links)
    return LineDrawing(content.shape, content.positions, links, lengths, paint, count_of(content), thinned.notice)


def _paths(
    ds: xr.Dataset, content: Content, colour: Colour | None
) -> tuple[NDArray[np.int64] | None, NDArray[np.int64] | None, Paint]:
    """Return whole paths, each of one colour; or their steps, where vertices differ in colour."""
    assert content.lengths is not None
    assert content.ids is not None
    if colour is None:
        return None, content.lengths, _by_object(content.ids)
    if colour.where == "plain":
        return None, content.lengths, Paint("plain", plain=colour.plain)
    if colour.where == "object":
        paint = paint_of(column(ds, content, colour), colour.label, identity=colour.is_identity)
        return None, content.lengths, paint
    ends = np.cumsum(content.lengths) - 1
    inner = np.ones(len(content), bool)
    inner[ends[content.lengths > 0]] = False
    first = np.flatnonzero(inner)
    steps = np.stack([first, first + 1], axis=1)
    return steps, None, vertex_paint(ds, content, colour).mean(steps)


def _by_object(ids: NDArray[np.int64]) -> Paint:
    """Return a colour for each object; a legend would be of use for few."""
    paint = paint_of(ids, "object", identity=True)
    return paint if len(paint.categories) <= _LEGEND_OBJECTS else paint_of(ids, "", identity=True)


def _edge_paint(ds: xr.Dataset, content: Content, colour: Colour | None, links: NDArray[np.int64]) -> Paint:
    if colour is None:
        return Paint("plain", plain="C0") if content.object_ids is None else _by_object(content.object_ids[links[:, 0]])
    if colour.where == "edge":
        return paint_of(column(ds, content, colour), colour.label)
    if colour.where == "object":
        return owner_paint(ds, content, colour).take(links[:, 0])
    return vertex_paint(ds, content, colour).mean(links)
