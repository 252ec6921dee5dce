"""What every kind of drawing is: prepared once from a Dataset, drawn on one axes or on three."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dask_zv.spatial.grid import Box
from dask_zv.viz.colours import Colour, Guide, Look, Paint, paint_of
from dask_zv.viz.detail import Pair, with_links_inside
from dask_zv.xarray_backend import conventions as names
from dask_zv.xarray_backend.content import Content, Shape, read_content

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes


class Drawing(Protocol):
    """Numbers that are ready to be drawn along any two axes."""

    @property
    def shape(self) -> Shape:
        """Of the Dataset."""
        ...

    @property
    def title(self) -> str:
        """What is drawn, in numbers."""
        ...

    @property
    def notice(self) -> str:
        """What is not drawn; empty where everything is."""
        ...

    @property
    def box(self) -> Box:
        """Where it lies."""
        ...

    def draw(self, ax: Axes, pair: Pair, look: Look, **artist: Any) -> Artist:
        """Add the artist to axes."""
        ...

    def guide(self, look: Look) -> Guide | None:
        """Return what tells the meaning of its colours."""
        ...


def box_of(positions: NDArray[Any]) -> Box:
    """Return the least box of positions; at the origin where there are none."""
    if not len(positions):
        zero = np.zeros(positions.shape[1])
        return zero, zero
    return positions.min(axis=0).astype(np.float64), positions.max(axis=0).astype(np.float64)


def count_of(content: Content) -> str:
    """Return how many vertices and objects there are, for a title."""
    text = f"{len(content):,} vertices"
    if content.object_ids is None:
        return text
    owners = content.object_ids if content.ids is None else content.ids
    objects = len(np.unique(owners[owners >= 0]))
    return f"{text}, {objects:,} object{'s' * (objects != 1)}"


def read_slim(ds: xr.Dataset, shape: Shape, colour: Colour | None, links: str | None) -> Content:
    """Read what a drawing needs: positions, one kind of link, and the attribute that colours it.

    Parameters
    ----------
    ds : Dataset
    shape : Shape
    colour : Colour, optional
    links : str, optional
        The variable that holds them.
    """
    tables = (shape.attributes, shape.object_attributes, shape.edge_attributes, shape.face_attributes)
    kept = {links, colour.name if colour is not None else None}
    unused = {v for t in tables for v in t.values()} | {names.EDGES, names.FACES, names.PARENT}
    if shape.view == "spatial" and colour is not None and colour.where == "edge":
        kept.add(names.EDGES)
    slim = ds.drop_vars([v for v in unused - kept if v in ds.variables])
    for name in (names.EDGES, names.FACES):
        if name in slim.variables:
            slim = with_links_inside(slim, name)
    return read_content(slim)


def column(ds: xr.Dataset, content: Content, colour: Colour) -> NDArray[Any]:
    """Return the values of the variable that colours a drawing, as they are along its dimension."""
    shape = content.shape
    if colour.name in shape.axes:
        return content.positions[:, shape.axes.index(colour.name)]
    if colour.name == names.OBJECT_ID and content.object_ids is not None:
        return content.object_ids
    if colour.name == "object" and content.object_index is not None:
        return content.object_index
    for table, values in (
        (shape.attributes, content.attributes),
        (shape.object_attributes, content.object_attributes),
        (shape.edge_attributes, content.edge_attributes),
        (shape.face_attributes, content.face_attributes),
    ):
        for own, variable in table.items():
            if variable == colour.name:
                return values[own]
    return np.asarray(ds.variables[colour.name].values)


def missing_as_nan(ds: xr.Dataset, name: str, values: NDArray[Any]) -> NDArray[Any]:
    """Return values with NaN where they are what the variable's attributes call missing."""
    missing = ds.variables[name].attrs.get("missing_value")
    return values if missing is None else np.where(values == missing, np.nan, values)


def places_of(owners: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return where the objects of some vertices are among `ids`, -1 where they aren't."""
    if not len(ids):
        return np.full(len(owners), -1)
    order = np.argsort(ids, kind="stable")
    at = order[np.minimum(np.searchsorted(ids[order], owners), len(ids) - 1)]
    return np.where(ids[at] == owners, at, -1)


def owner_paint(ds: xr.Dataset, content: Content, colour: Colour) -> Paint:
    """Return the paint of each vertex by its object: `colour` is along ``object``; vertices of no object are missing."""
    values = missing_as_nan(ds, colour.name, column(ds, content, colour))
    table = paint_of(values, colour.label, identity=colour.is_identity).padded()
    index = content.object_index
    owners = content.object_ids
    if owners is None or index is None:
        return table.take(np.full(len(content), -1))
    return table.take(places_of(owners, index))


def vertex_paint(ds: xr.Dataset, content: Content, colour: Colour) -> Paint:
    """Return the paint of each vertex, by its own attribute or by its object's; a plain one as it is."""
    if colour.where == "plain":
        return Paint("plain", plain=colour.plain)
    if colour.where == "object":
        return owner_paint(ds, content, colour)
    values = missing_as_nan(ds, colour.name, column(ds, content, colour))
    return paint_of(values, colour.label, identity=colour.is_identity)
