"""Marks that are drawn one by one, each with a colour: points, lines (paths and edges) and faces."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.spatial.grid import Box
from dask_zv.viz.colours import Colour, Guide, Look, Paint, paint_of
from dask_zv.viz.detail import Pair, blocks, pixels_of, with_links_inside
from dask_zv.xarray_backend import conventions as names
from dask_zv.xarray_backend.content import Content, Shape, places_of, read_content

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection, PathCollection, PolyCollection

SHADES = ("normal", "depth", None)
_LEGEND_OBJECTS = 10
_INK = 0.25
"""Part of the axes that points would cover if they did not overlap."""
_LIGHT = np.array([-0.45, 0.55, 0.7])
_AMBIENT, _SHINE, _FOG = 0.38, 0.18, 0.65


@dataclass(frozen=True, slots=True, eq=False)
class Marks:
    """Marks at positions (N, D), to be drawn along any two axes; `title` says what is drawn, `notice` what is left out."""

    shape: Shape
    positions: NDArray[Any]
    paint: Paint
    title: str
    notice: str

    @property
    def box(self) -> Box:
        """The box of the positions; the origin if there are none."""
        if not len(self.positions):
            zero = np.zeros(self.positions.shape[1])
            return zero, zero
        return self.positions.min(axis=0).astype(np.float64), self.positions.max(axis=0).astype(np.float64)

    def guide(self, look: Look) -> Guide | None:
        """Return the key to the colours."""
        return self.paint.guide(look)


@dataclass(frozen=True, slots=True, eq=False)
class Points(Marks):
    """A point at each position."""

    def draw(self, ax: Axes, pair: Pair, look: Look, **artist: Any) -> PathCollection:
        """Add them to axes."""
        if "s" not in artist:
            room = pixels_of(ax) * (72 / ax.figure.dpi) ** 2  # square points
            artist["s"] = float(np.clip(_INK * room / max(len(self.positions), 1), 0.2, 12))
        # matplotlib draws points below all lines; here the last drawing is on top
        artist = {"linewidths": 0, "zorder": 2, "rasterized": len(self.positions) > 20_000, **artist}
        found = ax.scatter(*self.positions[:, list(pair)].T, **artist)
        self.paint.apply(found, look, "set_facecolor")
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Lines(Marks):
    """A line for each link (E, 2), or without links for each run of `lengths` positions."""

    links: NDArray[np.int64] | None
    lengths: NDArray[np.int64] | None

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


@dataclass(frozen=True, slots=True, eq=False)
class Faces(Marks):
    """Flat polygons (F, k), the farthest first, with lighting."""

    faces: NDArray[np.int64]
    shade: str | None

    def draw(self, ax: Axes, pair: Pair, look: Look, **artist: Any) -> PolyCollection:
        """Add them to axes, seen from the side from which the axes form a right-handed system."""
        from matplotlib.collections import PolyCollection

        others = [a for a in range(len(self.shape.axes)) if a not in pair]
        corners = self.positions[:, [*pair, *others[:1]]].astype(np.float64)[self.faces]
        colours = np.broadcast_to(self.paint.rgba(look), (len(self.faces), 4))
        if others:
            signs = np.array([-1.0 if ax.xaxis_inverted() else 1.0, -1.0 if ax.yaxis_inverted() else 1.0, 1.0])
            a, b, c = *pair, others[0]
            signs[2] = np.sign((b - a) * (c - a) * (c - b)) * signs[0] * signs[1]  # 1 if they are right-handed, as x, y and z
            seen = corners * signs
            order = np.argsort(seen[:, :, 2].mean(axis=1), kind="stable")
            corners, colours = corners[order], _lit(seen[order], colours[order], self.shade)
        artist = {"linewidths": 0.2, "edgecolors": colours, "rasterized": len(corners) > 20_000, **artist}
        found = PolyCollection(list(corners[:, :, :2]), facecolors=colours, **artist)
        if look.alpha is not None:
            found.set_alpha(look.alpha)
        ax.add_collection(found)
        ax.autoscale_view()
        return found


def _lit(corners: NDArray[np.float64], colours: NDArray[np.float64], shade: str | None) -> NDArray[np.float64]:
    """Return colours (F, 4) under a light; corners (F, k, 3) go to the right, up, and towards the eye."""
    out = np.array(colours)
    if shade is None or not len(corners):
        return out
    if shade == "depth":
        depth = corners[:, :, 2].mean(axis=1)
        far = np.clip((depth.max() - depth) / (np.ptp(depth) or 1.0), 0, 1)[:, None] * _FOG
        out[:, :3] = out[:, :3] * (1 - far) + far
        return out
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), np.finfo(float).tiny)
    normals *= np.where(normals[:, 2:] < 0, -1, 1)  # the side that faces the viewer
    light = np.clip(normals @ (_LIGHT / np.linalg.norm(_LIGHT)), 0, 1)[:, None]
    out[:, :3] = np.clip(out[:, :3] * (_AMBIENT + (1.1 - _AMBIENT) * light) + _SHINE * light**12, 0, 1)
    return out


# ---------------------------------------------------------------------------------------------- reading


def prepare_points(ds: xr.Dataset, shape: Shape, colour: Colour | None, budget: int) -> Points:
    """Read points to draw one by one: all, or every k-th row if there are more than `budget`.

    Rows are read in parts, so memory is bounded. Rows of a chunk are consecutive, so every chunk is sampled equally.
    """
    total = ds.sizes["vertex"]
    step = max(1, -(-total // budget))
    positions = np.stack([_every(ds.variables[a], step) for a in shape.axes], axis=1)
    notice = "" if len(positions) == total else f"{len(positions):,} of {total:,} vertices"
    return Points(shape, positions, _point_paint(ds, shape, colour, step), f"{total:,} vertices", notice)


def _every(variable: xr.Variable, step: int) -> NDArray[Any]:
    if step == 1 or variable.chunks is not None:
        return np.asarray(variable[::step].values)
    runs = [np.asarray(variable[r].values)[-r.start % step :: step] for r in blocks(variable.shape[0])]
    return np.concatenate(runs) if runs else np.asarray(variable.values)


def _point_paint(ds: xr.Dataset, shape: Shape, colour: Colour | None, step: int) -> Paint:
    if colour is None or colour.where == "plain":
        return Paint("plain", plain="C0" if colour is None else colour.plain)
    if colour.where == "vertex":
        return _paint(ds, colour, _every(ds.variables[colour.name], step))
    table = _paint(ds, colour, np.asarray(ds.variables[colour.name].values)).padded()
    if shape.view == "objects":
        counts = np.asarray(ds.variables[names.COUNT].values, np.int64)
        return table.take(np.repeat(np.arange(len(counts)), counts)[::step])
    owners = _every(ds.variables[names.OBJECT_ID], step)
    return table.take(places_of(np.asarray(ds.variables["object"].values), owners))


def lines_of(ds: xr.Dataset, shape: Shape) -> str | None:
    """Return the variable that connects vertices to lines, or None."""
    if shape.view == "objects" and shape.is_path:
        return names.COUNT
    return next((n for n in (names.PARENT, names.EDGES) if n in ds.variables), None)


def prepare_lines(ds: xr.Dataset, shape: Shape, colour: Colour | None, notice: str) -> Lines:
    """Read paths, or the edges between vertices; a colour for each object by default."""
    by = lines_of(ds, shape)
    if by is None:
        if shape.is_path:
            raise InputError("the spatial view orders vertices by chunk, not along paths: open the store with view='objects'")
        raise InputError(
            f"the Dataset has no lines: its geometry is {shape.kind}, in the view {shape.view!r}"
            + (": edges are in view='spatial'" if shape.geometry.link == "edge" and not shape.geometry.has_parents else "")
        )
    if colour is not None and colour.where == "edge" and names.EDGES in ds.variables:
        by = names.EDGES
    content = _read_drawn(ds, shape, colour, by)
    links: NDArray[np.int64] | None = None
    lengths = content.lengths
    if by != names.COUNT or (colour is not None and colour.where == "vertex"):  # the steps of a path, which differ in colour
        links, lengths = content.steps() if by == names.COUNT else content.edge_rows(), None
        assert links is not None
        paint = _link_paint(ds, content, colour, links)
    elif colour is None:
        assert content.ids is not None
        paint = _object_paint(content.ids)
    else:
        paint = (
            Paint("plain", plain=colour.plain) if colour.where == "plain" else _paint(ds, colour, _column(ds, content, colour))
        )
    return Lines(content.shape, content.positions, paint, _title(content), notice, links, lengths)


def prepare_faces(ds: xr.Dataset, shape: Shape, colour: Colour | None, shade: str | None, notice: str) -> Faces:
    """Read the faces of a Dataset; a colour for each object by default."""
    if shade not in SHADES:
        raise InputError(f"shade is one of {SHADES}, not {shade!r}")
    if names.FACES not in ds.variables:
        raise InputError(
            f"the Dataset has no faces: its geometry is {shape.kind}, in the view {shape.view!r}"
            + (": faces are in view='spatial'" if shape.geometry.link == "face" else "")
        )
    content = _read_drawn(ds, shape, colour, names.FACES)
    assert content.faces is not None
    paint = _link_paint(ds, content, colour, content.faces)
    return Faces(content.shape, content.positions, paint, _title(content), notice, content.faces, shade)


def _read_drawn(ds: xr.Dataset, shape: Shape, colour: Colour | None, links: str) -> Content:
    """Read what a drawing needs: positions, one kind of link, and the attribute that colours it."""
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


def _title(content: Content) -> str:
    """Return the numbers of vertices and objects as text."""
    text = f"{len(content):,} vertices"
    if content.object_ids is None:
        return text
    owners = content.object_ids if content.ids is None else content.ids
    objects = len(np.unique(owners[owners >= 0]))
    return f"{text}, {objects:,} object{'s' * (objects != 1)}"


# ---------------------------------------------------------------------------------------------- colours of what was read


def _column(ds: xr.Dataset, content: Content, colour: Colour) -> NDArray[Any]:
    """Return the values of the variable that colours a drawing, along its dimension."""
    shape = content.shape
    if colour.name in shape.axes:
        return content.positions[:, shape.axes.index(colour.name)]
    if colour.name == names.OBJECT_ID and content.object_ids is not None:
        return content.object_ids
    if colour.name == "object" and content.object_index is not None:
        return content.object_index
    table, values = {
        "vertex": (shape.attributes, content.attributes),
        "object": (shape.object_attributes, content.object_attributes),
        "edge": (shape.edge_attributes, content.edge_attributes),
        "face": (shape.face_attributes, content.face_attributes),
    }[colour.where]
    own = next((own for own, variable in table.items() if variable == colour.name), None)
    return np.asarray(ds.variables[colour.name].values) if own is None else values[own]


def _paint(ds: xr.Dataset, colour: Colour, values: NDArray[Any]) -> Paint:
    """Return the paint of values of the variable that colours a drawing; missing values become NaN."""
    missing = ds.variables[colour.name].attrs.get("missing_value")
    values = values if missing is None else np.where(values == missing, np.nan, values)
    return paint_of(values, colour.label, identity=colour.is_identity)


def _object_paint(ids: NDArray[np.int64]) -> Paint:
    """Return a colour for each object, with a legend if they are few."""
    paint = paint_of(ids, "object", identity=True)
    return paint if len(paint.categories) <= _LEGEND_OBJECTS else replace(paint, label="")


def _link_paint(ds: xr.Dataset, content: Content, colour: Colour | None, links: NDArray[np.int64]) -> Paint:
    """Return the paint of edges or faces: by their own attribute, or by that of their vertices."""
    if colour is None:
        return Paint("plain", plain="C0") if content.object_ids is None else _object_paint(content.object_ids[links[:, 0]])
    if colour.where == "plain":
        return Paint("plain", plain=colour.plain)
    paint = _paint(ds, colour, _column(ds, content, colour))
    if colour.where == "object":  # vertices without an object are missing
        owners, index = content.object_ids, content.object_index
        places = np.full(len(content), -1) if owners is None or index is None else places_of(index, owners)
        return paint.padded().take(places[links[:, 0]])
    return paint.mean(links) if colour.where == "vertex" else paint
