"""What a Dataset in one of the two views holds: found by names, dimensions and attributes, so any of that shape will do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.geometry.graphs import GRAPH
from dask_zv.geometry.kinds import kind_of
from dask_zv.geometry.meshes import MESH
from dask_zv.geometry.points import POINT_CLOUD
from dask_zv.geometry.polylines import POLYLINE
from dask_zv.geometry.schema import Kind
from dask_zv.geometry.skeletons import SKELETON
from dask_zv.read.object_rows import ObjectRows
from dask_zv.xarray_backend import conventions as names
from dask_zv.xarray_backend.arrays import MARK, is_lazy
from dask_zv.xarray_backend.index import AxisIndex, ObjectIdIndex, RowIndex
from dask_zv.xarray_backend.object_axes import ObjectAxisIndex
from dask_zv.xarray_backend.roles import named_kind, position_names
from dask_zv.xarray_backend.step_index import InStepIndex, first_vertices

_LINKS = (names.EDGES, names.FACES, names.PARENT)
_OWN = frozenset({*names.DIMS, *names.ROLES})
"""Variables of the views that are no attributes."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Which variable of a Dataset is what: coordinates of positions along ``vertex``, their units, and attributes.

    `view` is "spatial" or "objects", `kind` the geometry. Attributes are variables by the attribute's own name.
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
        """The axes of space in the order x, y, z."""
        return names.drawn_axes(self.axes)

    @property
    def geometry(self) -> Kind:
        """What the geometry is."""
        return kind_of(self.kind)

    @property
    def is_path(self) -> bool:
        """True where objects are sequences of vertices."""
        return self.geometry.is_path


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """A Dataset's values, in memory: N vertices, of which all other rows speak by their place.

    `object_ids` (N,) are -1 for vertices of no object. In the objects view, `ids` and `lengths` (O,) are the objects in the
    order of the rows, and the rows of each. `object_index` (P,) are those that `object_attributes` describes. Links (E, 2) or
    (F, k) that lead out of the Dataset are left out; `parents` (N,) are -1 there and at roots.
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


def row_index(ds: xr.Dataset) -> RowIndex | None:
    """Return the index that knows which rows of which level a Dataset in the spatial view holds."""
    index = ds.xindexes.get("vertex")
    return index if isinstance(index, RowIndex) and index.rows is not None else None


def object_index(ds: xr.Dataset) -> ObjectIdIndex | None:
    """Return the index that knows which objects of which level a Dataset in the objects view holds."""
    index = ds.xindexes.get("object")
    return index if isinstance(index, ObjectIdIndex) and index.rows is not None else None


def shape_of(ds: xr.Dataset) -> Shape:
    """Return what the variables of a Dataset are; nothing is read."""
    if "vertex" not in ds.dims:
        raise InputError("ds.zv works on Datasets opened with engine='zv', or shaped like them: there is no dimension 'vertex'")
    axes = _axes(ds)
    gone = [a for a in axes if a not in ds.variables]
    if gone or not axes:
        raise InputError(
            f"the Dataset has no {', '.join(gone) or 'positions'} any more" if axes
            else "ds.zv works on Datasets opened with engine='zv': no coordinate along 'vertex' is a position"
        )  # fmt: skip
    view = "objects" if _is_by_object(ds) else "spatial"
    told = ds[names.CRS].attrs.get("zv_crs") if names.CRS in ds.variables else None
    crs = ds.attrs.get("crs") or told or ds.encoding.get("crs")
    units = tuple(ds[a].attrs.get("units") for a in axes)
    attributes = [_along(ds, dim, {*axes, *_OWN}) for dim in ("vertex", "object", "edge", "face")]
    return Shape(view, _kind(ds), axes, units, json.loads(crs) if isinstance(crs, str) else crs, *attributes)


def check_object_table(ds: xr.Dataset) -> None:
    """Refuse objects that were selected or sorted in the spatial view without their vertices, which `object_index` counts."""
    place = ds.variables.get(names.OBJECT_INDEX)
    if place is None or "valid_max" not in place.attrs or "object" not in ds.variables:
        return
    ids = ds.variables["object"]
    if ids.dims == ("object",) and len(ids) == int(place.attrs["valid_max"]) + 1:
        table, index = ds.xindexes.get(names.TABLE), ds.xindexes.get("object")
        if index is not None and isinstance(table, InStepIndex) and any(index is known for known in table.checked):
            return  # who takes one of a million objects takes another
        values = ids.to_numpy()
        if np.array_equal(values, table.ids) if isinstance(table, InStepIndex) else (values[1:] > values[:-1]).all():
            if index is not None and isinstance(table, InStepIndex):
                table.checked = (index,)
            return
    raise InputError(
        "a selection along 'object' alone, a sort or other ids left the vertices of all objects in the spatial view: "
        "ds.zv.sel(objects=ids) and ds.zv.objects[id] select objects with their vertices; ds.drop_dims('object') leaves the "
        "table of objects out"
    )


def _axes(ds: xr.Dataset) -> tuple[str, ...]:
    indexes = [i for i in ds.xindexes.values() if isinstance(i, AxisIndex)]
    known = {n: k for i in indexes for k, n in i.names.items()}  # also where they were renamed
    named = ds.attrs.get("zv_axes")
    if known and (named is None or not isinstance(indexes[0], ObjectAxisIndex)):
        return tuple(k for _, k in sorted(known.items()))
    if named is not None:
        return tuple(known.get(i) or _coordinate_of(ds, str(n)) for i, n in enumerate(np.atleast_1d(named)))
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
    if (named := named_kind(ds)) is not None:
        return named
    marks = ((names.FACES, MESH), (names.PARENT, SKELETON), (names.EDGES, GRAPH), (names.CONTAINER, POLYLINE))
    return next((kind.name for mark, kind in marks if mark in ds.variables), POINT_CLOUD.name)


def _along(ds: xr.Dataset, dim: str, own: set[str]) -> dict[str, str]:
    """Return the variables along a dimension that are attributes, by the names that the store has for them."""
    found = [str(k) for k, v in ds.variables.items() if v.dims[:1] == (dim,) and k not in own]
    named = {k: _own_name(k, ds.variables[k].attrs) for k in found}
    several = [k for k in found if list(named.values()).count(named[k]) > 1]
    if several:
        raise InputError(f"{' and '.join(several)} both are the attribute {named[several[0]]!r} of the store: drop one")
    return {named[k]: k for k in found}


def _own_name(variable: str, attrs: Mapping[str, Any]) -> str:
    """Return what an attribute is called in a store: another name than its variable's where that one is the view's."""
    own = str(attrs.get("zv_name", variable))
    return own if variable == own or variable.endswith(f"_{own}") else variable  # renamed since


def read_content(ds: xr.Dataset, *, attributes: bool = True) -> Content:
    """Read a Dataset into memory, all of its variables at once, with or without attributes."""
    shape = shape_of(ds)
    roles = (*_LINKS, *([names.OBJECT_ID] if shape.view == "spatial" else []), names.COUNT, "object", "vertex")
    own = [*(v for v in roles if v in ds.variables), *shape.axes]
    tables = (shape.attributes, shape.object_attributes, shape.edge_attributes, shape.face_attributes)
    wanted = [*own, *(v for t in tables for v in t.values() if attributes)]
    # numbers from here on: without indexes
    variables = {k: ds.variables[k].to_base_variable() for k in dict.fromkeys(wanted)}
    bare = xr.Coordinates({k: v for k, v in variables.items() if k in ds.dims}, indexes={})
    values = xr.Dataset({k: v for k, v in variables.items() if k not in ds.dims}, coords=bare).load()

    def column(name: str) -> NDArray[Any]:
        return np.asarray(values[name].values)

    def columns(table: Mapping[str, str], kept: Any = slice(None)) -> dict[str, NDArray[Any]]:
        return {k: column(v)[kept] for k, v in table.items()} if attributes else {}

    positions = np.stack([column(a) for a in shape.axes], axis=1)
    n = len(positions)
    found: dict[str, Any] = {}
    linked = [name for name in _LINKS if name in variables]
    numbers = vertex_numbers(ds) if linked else np.arange(n)
    for name in linked:
        if "vertex" not in variables and (column(name) >= n).any() and len(numbers) == n == int(numbers[-1:].sum()) + 1:
            raise InputError(f"{name} name vertices that are not there: keep the coordinate 'vertex', which has their numbers")
        links = places_of(numbers, column(name))
        if name == names.PARENT:
            found["parents"] = links
        else:
            kept = (links >= 0).all(axis=1)
            found[name] = links[kept]
            of_links = shape.edge_attributes if name == names.EDGES else shape.face_attributes
            found[f"{name[:-1]}_attributes"] = columns(of_links, kept)
    if names.OBJECT_ID in variables:
        found["object_ids"] = column(names.OBJECT_ID)
    if "object" in variables and column("object").ndim:
        found["object_index"] = column("object")
    if shape.view == "objects":
        ids = column("object") if "object" in variables else np.arange(ds.sizes["object"])
        lengths = check_in_step(ds)
        found |= {"ids": ids, "lengths": lengths, "object_ids": np.repeat(ids, lengths)}
    found["object_attributes"] = columns(shape.object_attributes)
    return Content(shape, positions, columns(shape.attributes), **found)


def vertex_numbers(ds: xr.Dataset) -> NDArray[np.int64]:
    """Return the numbers that links name the vertices by; a part of a level that has lost them is an error."""
    index = next((i for i in ds.xindexes.values() if isinstance(i, AxisIndex)), None)
    known = None if index is None or index.rows.rows is None else index.rows.all_numbers()
    if "vertex" in ds.variables:
        numbers = ds["vertex"].to_numpy()
        stored = [n for n in _LINKS if n in ds.variables and MARK in ds.variables[n].encoding]
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
    """Return the vertices of each object of the objects view; one of both selected or reordered alone is an error."""
    if names.COUNT not in ds.variables:
        raise InputError("node_count, the vertices of each object, is no longer in the Dataset: keep it in the objects view")
    held = ds.xindexes.get(names.RANGE)
    held = held if isinstance(held, InStepIndex) and held.lengths is not None else None
    lengths = _lengths(ds, held)
    n = ds.sizes["vertex"]
    total = int(lengths.sum()) if held is None or lengths is not held.lengths else int(held.starts[-1])
    if total != n:
        raise InputError(
            f"node_count speaks of {total:,} vertices, the Dataset has {n:,}: select objects with "
            "ds.zv.objects[...] or ds.zv.sel(...), which keep both in step"
        )
    index, vertices = object_index(ds), ds.xindexes.get("vertex")
    seen = held is not None and lengths is held.lengths and vertices is not None and held.checked == (vertices, index)
    if index is not None and index.rows is not None and "vertex" in ds.variables and n and not seen:
        if not _in_order(index, index.rows, ds.variables["vertex"], lengths):
            raise InputError(
                "the vertices are not in the order of the objects any more: one of both was sorted or selected without the "
                "other; select objects with ds.zv.objects[...] or ds.zv.sel(...), and sort what comes of them"
            )
        if held is not None and lengths is held.lengths and vertices is not None:
            held.checked = vertices, index
    return lengths


def _lengths(ds: xr.Dataset, held: InStepIndex | None) -> NDArray[np.int64]:
    """Return the vertices of each object: those that the Dataset was made with where nothing else is in their place."""
    count = ds.variables[names.COUNT]
    lengths: NDArray[np.int64] | None = None if held is None else held.lengths
    if lengths is not None and is_lazy(count) and MARK in count.encoding:
        return lengths
    told = np.asarray(count.to_numpy(), np.int64)
    return told if lengths is None or not np.array_equal(told, lengths) else lengths


def _in_order(index: ObjectIdIndex, rows: ObjectRows, vertices: xr.Variable, lengths: NDArray[np.int64]) -> bool:
    """Return True if rows of the objects view are those of the objects, one object's behind the other's."""
    numbers, ids = vertices.to_index(), index.ids
    known = rows.lengths
    if isinstance(numbers, pd.RangeIndex) and numbers.step == 1 and len(ids):  # whole objects, as they are in the store
        first = int(np.searchsorted(known.ids, ids[0]))
        run = slice(first, first + len(ids))
        if np.array_equal(known.ids[run], ids) and np.array_equal(known.lengths[run], lengths):
            return bool(rows.offsets[first] == numbers.start)
    owner = np.searchsorted(rows.offsets, numbers.to_numpy(), side="right") - 1
    return bool(np.array_equal(known.ids[owner], np.repeat(ids, lengths)))


def starts_of(ds: xr.Dataset, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the first vertex of each object, and the number of all vertices: of objects that have so many."""
    held = ds.xindexes.get(names.RANGE)
    return held.starts if isinstance(held, InStepIndex) and held.lengths is lengths else first_vertices(lengths)


def places_of(known: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each of some numbers is among others, in any order; -1 where it is not."""
    if not len(known):
        return np.full(wanted.shape, -1, np.int64)
    order = None if (known[1:] > known[:-1]).all() else np.argsort(known, kind="stable")
    ascending = known if order is None else known[order]
    at = np.minimum(np.searchsorted(ascending, wanted), len(ascending) - 1)
    return np.where(ascending[at] == wanted, at if order is None else order[at], -1)
