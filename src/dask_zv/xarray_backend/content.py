"""What a Dataset in one of the two views holds: found by names, dimensions and attributes, so any of that shape will do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.xarray_backend import conventions as names
from dask_zv.xarray_backend.arrays import MARK
from dask_zv.xarray_backend.index import AxisIndex
from dask_zv.xarray_backend.object_index import ObjectIdIndex
from dask_zv.xarray_backend.plain import position_names
from dask_zv.xarray_backend.roles import kind_of
from dask_zv.xarray_backend.step_index import InStepIndex

PATHS = ("line", "polyline", "streamline")
"""Geometries whose objects are sequences of vertices."""

_OWN = frozenset({*names.DIMS, *names.ROLES})
"""Variables of the views that are no attributes."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Which variable of a Dataset is what.

    Attributes
    ----------
    view : {"spatial", "objects"}
    kind : str
        The geometry: "point_cloud", "line", "polyline", "streamline", "skeleton", "graph" or "mesh".
    axes : tuple of str
        Coordinates along ``vertex``.
    units : tuple of (str or None)
        Of the axes.
    crs : mapping, optional
        The store's coordinate reference system.
    attributes, object_attributes, edge_attributes, face_attributes : mapping of str to str
        Variable of each attribute, by the attribute's own name.
    """

    view: str
    kind: str
    axes: tuple[str, ...]
    units: tuple[str | None, ...]
    crs: Mapping[str, Any] | None
    attributes: Mapping[str, str]
    object_attributes: Mapping[str, str]
    edge_attributes: Mapping[str, str]
    face_attributes: Mapping[str, str]

    @property
    def drawn(self) -> tuple[str, ...]:
        """The axes of space in the order x, y, z, as CF names them; those of the store where it names none of them so.

        Time is none of them: stores have it before the others.
        """
        letters = {name.lower(): name for name in self.axes}
        found = tuple(letters[a] for a in "xyz" if a in letters)
        return found if len(found) > 1 else self.axes

    @property
    def is_path(self) -> bool:
        """True where objects are sequences of vertices."""
        return self.kind in PATHS


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """A Dataset's values, in memory.

    Attributes
    ----------
    shape : Shape
    positions : ndarray, shape (N, D)
    attributes : mapping of str to ndarray, shape (N,) or (N, C)
    object_ids : ndarray of int64, shape (N,), optional
        -1 for vertices of no object.
    ids, lengths : ndarray of int64, shape (O,), optional
        Objects in the order of the rows, and the rows of each: in the objects view.
    object_index : ndarray of int64, shape (P,), optional
        The objects that `object_attributes` describes.
    object_attributes : mapping of str to ndarray, shape (P, ...)
    edges : ndarray of int64, shape (E, 2), optional
        Row numbers into `positions`; links that lead out of the Dataset are left out.
    faces : ndarray of int64, shape (F, k), optional
    edge_attributes, face_attributes : mapping of str to ndarray
    parents : ndarray of int64, shape (N,), optional
        -1 at roots, and where the parent is not in the Dataset.
    """

    shape: Shape
    positions: NDArray[Any]
    attributes: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    object_ids: NDArray[np.int64] | None = None
    ids: NDArray[np.int64] | None = None
    lengths: NDArray[np.int64] | None = None
    object_index: NDArray[np.int64] | None = None
    object_attributes: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    edges: NDArray[np.int64] | None = None
    faces: NDArray[np.int64] | None = None
    edge_attributes: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    face_attributes: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    parents: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.positions)

    def edge_rows(self) -> NDArray[np.int64] | None:
        """Return pairs of rows: edges of a network, else (child, parent) of trees; None where there are neither."""
        if self.edges is not None or self.parents is None:
            return self.edges
        children = np.flatnonzero(self.parents >= 0)
        return np.stack([children, self.parents[children]], axis=1)

    def steps(self) -> NDArray[np.int64]:
        """Return (row, next row) of every path of the objects view."""
        assert self.lengths is not None
        first = np.zeros(len(self) + 1, bool)
        first[np.cumsum(self.lengths)] = True  # rows that begin another object
        rows = np.flatnonzero(~first[1:])
        return np.stack([rows, rows + 1], axis=1)


def shape_of(ds: xr.Dataset) -> Shape:
    """Return what the variables of a Dataset are; nothing is read.

    Raises
    ------
    InputError
        The Dataset has no vertices with positions.
    """
    if "vertex" not in ds.dims:
        raise InputError("ds.zv works on Datasets opened with engine='zv', or shaped like them: there is no dimension 'vertex'")
    axes = _axes(ds)
    gone = [a for a in axes if a not in ds.variables]
    if gone or not axes:
        raise InputError(
            f"the Dataset has no {', '.join(gone) or 'positions'} any more" if axes
            else "ds.zv works on Datasets opened with engine='zv': no coordinate along 'vertex' is known as a position"
        )  # fmt: skip
    view = "objects" if _is_by_object(ds) else "spatial"
    crs = ds.attrs.get("crs") or (ds[names.CRS].attrs.get("zv_crs") if names.CRS in ds.variables else None)
    own = {*axes, *_OWN}
    return Shape(
        view,
        _kind(ds),
        axes,
        tuple(ds[a].attrs.get("units") for a in axes),
        json.loads(crs) if isinstance(crs, str) else crs,
        _along(ds, "vertex", own),
        _along(ds, "object", own),
        _along(ds, "edge", own),
        _along(ds, "face", own),
    )


def check_object_table(ds: xr.Dataset) -> None:
    """Refuse objects that were selected or sorted in the spatial view without their vertices.

    Raises
    ------
    InputError
        The table of objects is not the one that `object_index` counts.
    """
    place = ds.variables.get(names.OBJECT_INDEX)
    if place is None or "valid_max" not in place.attrs or "object" not in ds.variables:
        return
    ids = ds.variables["object"]
    if ids.dims == ("object",) and len(ids) == int(place.attrs["valid_max"]) + 1:
        values, table = ids.to_numpy(), ds.xindexes.get(names.TABLE)
        if np.array_equal(values, table.ids) if isinstance(table, InStepIndex) else (values[1:] > values[:-1]).all():
            return
    raise InputError(
        "a selection along 'object' alone, a sort or other ids left the vertices of all objects in the spatial view: "
        "ds.zv.sel(objects=ids) and ds.zv.objects[id] select objects with their vertices; ds.drop_dims('object') leaves the "
        "table of objects out"
    )


def _axes(ds: xr.Dataset) -> tuple[str, ...]:
    index = next((i for i in ds.xindexes.values() if isinstance(i, AxisIndex)), None)
    if index is not None:  # also where they were renamed
        return tuple(sorted(index.names, key=index.names.__getitem__))
    named = ds.attrs.get("zv_axes")
    if named is not None:
        return tuple(_coordinate_of(ds, str(n)) for n in np.atleast_1d(named))
    return position_names(ds, "vertex")


def _coordinate_of(ds: xr.Dataset, axis: str) -> str:
    """Return the coordinate of an axis, also where it was renamed, and an attribute has the axis' name now."""
    marked = [str(k) for k in ds.coords if ds.variables[k].attrs.get("zv_axis") == axis]
    return marked[0] if len(marked) == 1 else axis


def _is_by_object(ds: xr.Dataset) -> bool:
    if ds.attrs.get("zv_view") is not None:
        return bool(ds.attrs["zv_view"] == "objects")
    return names.COUNT in ds.variables and ds[names.COUNT].dims == ("object",)


def _kind(ds: xr.Dataset) -> str:
    if (named := kind_of(ds)) is not None:
        return named
    marks = ((names.FACES, "mesh"), (names.PARENT, "skeleton"), (names.EDGES, "graph"), (names.CONTAINER, "polyline"))
    return next((kind for mark, kind in marks if mark in ds.variables), "point_cloud")


def _along(ds: xr.Dataset, dim: str, own: set[str]) -> dict[str, str]:
    """Return the variables along a dimension that are attributes, by the names that the store has for them."""
    found = [str(k) for k, v in ds.variables.items() if v.dims[:1] == (dim,) and k not in own]
    named = {k: _own_name(k, ds.variables[k].attrs) for k in found}
    several = [k for k in found if list(named.values()).count(named[k]) > 1]
    if several:
        raise InputError(f"{' and '.join(several)} are both the attribute {named[several[0]]!r} of the store: drop one")
    return {named[k]: k for k in found}


def _own_name(variable: str, attrs: Mapping[str, Any]) -> str:
    """Return what an attribute is called in a store: another name than its variable's where that one is the view's."""
    own = str(attrs.get("zv_name", variable))
    return own if variable == own or variable.endswith(f"_{own}") else variable  # renamed since


def read_content(ds: xr.Dataset, *, attributes: bool = True) -> Content:
    """Read a Dataset into memory, all of its variables at once.

    Parameters
    ----------
    ds : Dataset
    attributes : bool
        With the attributes of vertices, objects and links.

    Raises
    ------
    InputError
        The Dataset is in neither view, or its rows are no longer those that its counts or links speak of.
    """
    shape = shape_of(ds)
    extra = [
        n
        for n in (names.OBJECT_ID, names.PARENT, names.COUNT, names.EDGES, names.FACES, "object", "vertex")
        if n in ds.variables
    ]
    tables = (shape.attributes, shape.object_attributes, shape.edge_attributes, shape.face_attributes)
    wanted = [*shape.axes, *extra, *(v for t in tables for v in t.values() if attributes)]
    values = _loaded(ds, wanted)

    def column(name: str) -> NDArray[Any]:
        return np.asarray(values[name].values)

    positions = np.stack([column(a) for a in shape.axes], axis=1)
    n = len(positions)
    linked = {names.EDGES, names.FACES, names.PARENT} & {*map(str, values.variables)}
    numbers = vertex_numbers(ds) if linked else np.arange(n)
    for name in linked:
        if "vertex" not in values.variables and (column(name) >= n).any() and len(numbers) == n == int(numbers[-1:].sum()) + 1:
            raise InputError(f"{name} name vertices that are not there: keep the coordinate 'vertex', which has their numbers")
    ids = lengths = None
    owners = column(names.OBJECT_ID) if names.OBJECT_ID in values.variables else None
    if shape.view == "objects":
        ids = column("object") if "object" in values.variables else np.arange(ds.sizes["object"])
        lengths = check_in_step(ds)
        owners = np.repeat(ids, lengths)
    found: dict[str, Any] = {}
    for name, field_, of_links in (
        (names.EDGES, "edges", shape.edge_attributes),
        (names.FACES, "faces", shape.face_attributes),
    ):
        if name in values.variables:
            links = places_of(numbers, column(name))
            kept = (links >= 0).all(axis=1)
            found[field_] = links[kept]
            found[f"{field_[:-1]}_attributes"] = {k: column(v)[kept] for k, v in of_links.items()} if attributes else {}
    parents = None
    if names.PARENT in values.variables:
        parents = places_of(numbers, column(names.PARENT))
    index = column("object") if "object" in values.variables else None
    return Content(
        shape,
        positions,
        {k: column(v) for k, v in shape.attributes.items()} if attributes else {},
        owners,
        ids,
        lengths,
        index if index is not None and index.ndim else None,
        {k: column(v) for k, v in shape.object_attributes.items()} if attributes else {},
        parents=parents,
        **found,
    )


def vertex_numbers(ds: xr.Dataset) -> NDArray[np.int64]:
    """Return the numbers that links name the vertices by.

    Raises
    ------
    InputError
        The Dataset is a part of a level, and has lost them.
    """
    index = next((i for i in ds.xindexes.values() if isinstance(i, AxisIndex)), None)
    known = None if index is None or index.rows.rows is None else index.rows.all_numbers()
    if "vertex" in ds.variables:
        numbers = ds["vertex"].to_numpy()
        stored = [n for n in (names.EDGES, names.FACES, names.PARENT) if n in ds.variables and MARK in ds.variables[n].encoding]
        if numbers.dtype.kind not in "iu" or (stored and known is not None and not np.array_equal(numbers, known)):
            raise InputError(
                f"the coordinate 'vertex' holds others than the vertices' numbers, which {' and '.join(stored) or 'links'} "
                "name them by: keep those of the level, or number the links anew, too"
            )
        return np.asarray(numbers, np.int64)
    if known is not None:
        return known
    n = ds.sizes["vertex"]
    if ds.attrs.get("zv_url") is not None and ds.attrs.get("vertex_count", n) != n:
        raise InputError(
            "the Dataset is a part of a level without its coordinate 'vertex', whose numbers its links name: keep it when you "
            "select"
        )
    return np.arange(n, dtype=np.int64)


def group_numbers(ds: xr.Dataset) -> NDArray[np.int64]:
    """Return the numbers of the groups along ``group``."""
    return np.asarray(ds["group"].to_numpy() if "group" in ds.variables else np.arange(ds.sizes["group"]), np.int64)


def check_in_step(ds: xr.Dataset) -> NDArray[np.int64]:
    """Return the vertices of each object of the objects view, where vertices and objects still belong together.

    Raises
    ------
    InputError
        One of both dimensions was selected, or reordered, without the other.
    """
    if names.COUNT not in ds.variables:
        raise InputError("node_count, the vertices of each object, is no longer in the Dataset: keep it in the objects view")
    lengths = np.asarray(ds[names.COUNT].to_numpy(), np.int64)
    n = ds.sizes["vertex"]
    if int(lengths.sum()) != n:
        raise InputError(
            f"node_count speaks of {int(lengths.sum()):,} vertices, the Dataset has {n:,}: select objects with "
            "ds.zv.objects[...] or ds.zv.sel(...), which keep both in step"
        )
    index = ds.xindexes.get("object")
    if isinstance(index, ObjectIdIndex) and index.rows is not None and "vertex" in ds.variables and n:
        owner = np.searchsorted(index.rows.offsets, ds["vertex"].to_numpy(), side="right") - 1
        if not np.array_equal(index.rows.lengths.ids[owner], np.repeat(index.ids, lengths)):
            raise InputError(
                "the vertices are not in the order of the objects any more: one of both was sorted or selected without the "
                "other; select objects with ds.zv.objects[...] or ds.zv.sel(...), and sort what comes of them"
            )
    return lengths


def _loaded(ds: xr.Dataset, wanted: list[str]) -> xr.Dataset:
    """Return some variables in memory, without indexes: they are numbers from here on."""
    variables = {k: ds.variables[k].to_base_variable() for k in dict.fromkeys(wanted)}
    bare = xr.Coordinates({k: v for k, v in variables.items() if k in ds.dims}, indexes={})
    return xr.Dataset({k: v for k, v in variables.items() if k not in ds.dims}, coords=bare).load()


def places_of(known: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each of some numbers is among others, in any order; -1 where it is not."""
    if not len(known):
        return np.full(wanted.shape, -1, np.int64)
    order = None if (known[1:] > known[:-1]).all() else np.argsort(known, kind="stable")
    ascending = known if order is None else known[order]
    at = np.minimum(np.searchsorted(ascending, wanted), len(ascending) - 1)
    return np.where(ascending[at] == wanted, at if order is None else order[at], -1)
