"""What is drawn of each object: the parts of its line or surface, as rows of vertices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.exports.columns import places_of_objects
from dask_zv.xarray_backend.content import Content, Shape


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """Geometries, each of any number of parts.

    Attributes
    ----------
    kind : {"point", "line", "polygon"}
        Of every part. The corners of a polygon are not closed: the first comes once.
    rows : ndarray of int64, shape (M,)
        Vertices of all parts, one part after the other.
    part_lengths : ndarray of int64, shape (P,)
        Vertices of each part.
    counts : ndarray of int64, shape (G,)
        Parts of each geometry. One of 0 has nothing to draw.
    ids : ndarray of int64, shape (G,), optional
        The object that each geometry is of. None where each vertex is one, or the whole Dataset.
    """

    kind: str
    rows: NDArray[np.int64]
    part_lengths: NDArray[np.int64]
    counts: NDArray[np.int64]
    ids: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.counts)


def chosen_dims(shape: Shape, dims: Sequence[str] | None, most: int) -> tuple[int, ...]:
    """Return the numbers of the axes that geometries are made of.

    Parameters
    ----------
    shape : Shape
    dims : sequence of str, optional
        Names of axes; all of them where None, where they are 2, or 3 and `most` is 3.
    most : {2, 3}

    Raises
    ------
    InputError
        There are no such axes, or not 2 or 3 of them.
    """
    wanted = shape.drawn if dims is None else tuple(dims)
    allowed = "two" if most == 2 else "two or three"
    unknown = [d for d in wanted if d not in shape.axes]
    if isinstance(dims, str) or unknown or len(set(wanted)) < len(wanted) or not 2 <= len(wanted) <= most:
        raise InputError(
            f"dims names {allowed} different axes of {', '.join(shape.axes)}, such as dims={shape.axes[:2]!r}"
            + (f"; not {dims!r}" if dims is not None else f": the Dataset has {len(shape.axes)}")
        )
    return tuple(shape.axes.index(d) for d in wanted)


def parts_of(content: Content) -> Parts:
    """Return what is drawn: every vertex of points; of all others every object, all at once where there are no objects.

    Raises
    ------
    InputError
        The view doesn't tell, or links join vertices of different objects.
    """
    shape = content.shape
    n = len(content)
    if shape.kind == "point_cloud":
        return Parts("point", np.arange(n), np.ones(n, np.int64), np.ones(n, np.int64))
    if shape.is_path:
        if content.ids is None or content.lengths is None:
            raise InputError(
                f"vertices of a {shape.kind} are not in the order of its path in the spatial view: open the store with "
                "view='objects'"
            )
        drawn = content.lengths >= 2
        rows = np.flatnonzero(np.repeat(drawn, content.lengths))
        return Parts("line", rows, content.lengths[drawn], drawn.astype(np.int64), content.ids)
    if shape.kind == "mesh":
        return _by_object(content, faces_of(content), "polygon")
    return _by_object(content, edges_of(content), "line")


def edges_of(content: Content) -> NDArray[np.int64]:
    """Return pairs of rows: edges of a network, (child, parent) of trees.

    Raises
    ------
    InputError
        The Dataset has none.
    """
    if content.edges is not None:
        return content.edges
    if content.parents is not None:
        children = np.flatnonzero(content.parents >= 0)
        return np.stack([children, content.parents[children]], axis=1)
    raise InputError(_without(content.shape, "edges"))


def faces_of(content: Content) -> NDArray[np.int64]:
    """Return the rows of the corners of each face.

    Raises
    ------
    InputError
        The Dataset has none.
    """
    if content.faces is None:
        raise InputError(_without(content.shape, "faces"))
    return content.faces


def _without(shape: Shape, what: str) -> str:
    if shape.view == "objects" and shape.kind in ("graph", "mesh"):
        return f"the objects view of a {shape.kind} has no {what}: open the store with view='spatial'"
    return f"the Dataset ({shape.kind}, {shape.view} view) has no {what}"


def _by_object(content: Content, links: NDArray[np.int64], kind: str) -> Parts:
    """Sort links by the object that they are of."""
    width = links.shape[1]
    owned = places_of_objects(content)
    if owned is None:
        return Parts(kind, links.ravel(), np.full(len(links), width), np.array([len(links)]))
    ids, places = owned
    owner = places[links]
    odd = int(((owner != owner[:, :1]) | (owner < 0)).any(axis=1).sum())
    if odd:
        what = "edges" if kind == "line" else "faces"
        raise InputError(
            f"{odd:,} {what} are not of one object, as their vertices are of several, or of none: export them without objects, "
            "ds.drop_vars(['object_id', 'object'])"
        )
    order = np.argsort(owner[:, 0], kind="stable")
    counts = np.bincount(owner[:, 0], minlength=len(ids)).astype(np.int64)
    return Parts(kind, links[order].ravel(), np.full(len(links), width), counts, ids)
