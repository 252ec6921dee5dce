"""Meshes: faces as flat polygons, the far ones first, lit so that their form shows."""

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
    from matplotlib.collections import PolyCollection


SHADES = ("normal", "depth", None)
_LIGHT = np.array([-0.45, 0.55, 0.7])
_AMBIENT = 0.38
_SHINE = 0.18
_FOG = 0.65
_LEGEND_OBJECTS = 10


@dataclass(frozen=True, slots=True, eq=False)
class FaceDrawing:
    """Faces and their colours, before any light.

    Attributes
    ----------
    shape : Shape
    positions : ndarray, shape (N, D)
    faces : ndarray of int64, shape (F, k)
    paint : Paint
        Of the faces.
    shade : {"normal", "depth", None}
    title, notice : str
    """

    shape: Shape
    positions: NDArray[Any]
    faces: NDArray[np.int64]
    paint: Paint
    shade: str | None
    title: str
    notice: str

    @property
    def box(self) -> Box:
        """Where they lie."""
        return box_of(self.positions)

    def draw(self, ax: Axes, pair: Pair, look: Look, **artist: Any) -> PolyCollection:
        """Add them to axes, seen from the side from which the axes are a right-handed picture of space."""
        from matplotlib.collections import PolyCollection

        others = [a for a in range(len(self.shape.axes)) if a not in pair]
        corners = self.positions[:, [*pair, *others[:1]]].astype(np.float64)[self.faces]
        colours = np.broadcast_to(self.paint.rgba(look), (len(self.faces), 4))
        if others:
            signs = np.array([-1.0 if ax.xaxis_inverted() else 1.0, -1.0 if ax.yaxis_inverted() else 1.0, 1.0])
            signs[2] = _handedness((*pair, others[0])) * signs[0] * signs[1]
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

    def guide(self, look: Look) -> Guide | None:
        """Return what tells the meaning of their colours."""
        return self.paint.guide(look)


def _handedness(axes: tuple[int, int, int]) -> float:
    """Return 1 where three axes in this order turn as x, y and z do, else -1."""
    a, b, c = axes
    return float(np.sign((b - a) * (c - a) * (c - b)))


def _lit(corners: NDArray[np.float64], colours: NDArray[np.float64], shade: str | None) -> NDArray[np.float64]:
    """Return colours under a light, shape (F, 4).

    Parameters
    ----------
    corners : ndarray, shape (F, k, 3)
        As they are on the screen: to the right, up, and towards the eye.
    colours : ndarray, shape (F, 4)
    shade : {"normal", "depth", None}
    """
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
    normals *= np.where(normals[:, 2:] < 0, -1, 1)  # the side that is seen
    light = np.clip(normals @ (_LIGHT / np.linalg.norm(_LIGHT)), 0, 1)[:, None]
    out[:, :3] = np.clip(out[:, :3] * (_AMBIENT + (1.1 - _AMBIENT) * light) + _SHINE * light**12, 0, 1)
    return out


def prepare_faces(thinned: Thinned, shape: Shape, colour: Colour | None, shade: str | None) -> FaceDrawing:
    """Read the faces of a Dataset.

    Parameters
    ----------
    thinned : Thinned
    shape : Shape
    colour : Colour, optional
        A colour for each object by default.
    shade : {"normal", "depth", None}

    Raises
    ------
    InputError
        The Dataset has no faces, or there is no such shading.
    """
    if shade not in SHADES:
        raise InputError(f"shade is one of {SHADES}, not {shade!r}")
    if names.FACES not in thinned.ds.variables:
        raise InputError(
            f"the Dataset has no faces: its geometry is {shape.kind}, in the view {shape.view!r}"
            + (": faces are in view='spatial'" if shape.kind == "mesh" else "")
        )
    content = read_slim(thinned.ds, shape, colour, names.FACES)
    assert content.faces is not None
    paint = _face_paint(thinned.ds, content, colour, content.faces)
    return FaceDrawing(content.shape, content.positions, content.faces, paint, shade, count_of(content), thinned.notice)


def _face_paint(ds: xr.Dataset, content: Content, colour: Colour | None, faces: NDArray[np.int64]) -> Paint:
    if colour is None:
        if content.object_ids is None:
            return Paint("plain", plain="C0")
        owners = content.object_ids[faces[:, 0]]
        paint = paint_of(owners, "object", identity=True)
        return paint if len(paint.categories) <= _LEGEND_OBJECTS else paint_of(owners, "", identity=True)
    if colour.where == "face":
        return paint_of(column(ds, content, colour), colour.label)
    if colour.where == "object":
        return owner_paint(ds, content, colour).take(faces[:, 0])
    return vertex_paint(ds, content, colour).mean(faces)
