"""Which variable of a Dataset is what: by dimensions, ``cf_role`` and other marks, whatever the variables are called.

The rest of this package goes by names: :func:`by_roles` gives the variables of a Dataset those names, those that a user gave
others and those of plain UGRID and CF Datasets, too, and attributes that happen to have one of them another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from dask_zv.errors import InputError
from dask_zv.xarray_backend import conventions as names
from dask_zv.xarray_backend.plain import from_plain

Test = Callable[[xr.Dataset, xr.Variable], bool]


def _attr(name: str, value: str | None = None, dims: tuple[str, ...] | None = None) -> Test:
    def test(ds: xr.Dataset, v: xr.Variable) -> bool:
        marked = name in v.attrs if value is None else v.attrs.get(name) == value
        return marked and (dims is None or v.dims[: len(dims)] == dims)

    return test


_MARKS: dict[str, Test] = {
    names.OBJECT_ID: _attr("zv_role", names.OBJECT_ID),
    names.OBJECT_INDEX: _attr("instance_dimension", "object"),
    names.PARENT: _attr("zv_role", names.PARENT),
    names.COUNT: _attr("sample_dimension", "vertex"),
    names.EDGES: _attr("cf_role", "edge_node_connectivity"),
    names.FACES: _attr("cf_role", "face_node_connectivity"),
    names.TOPOLOGY: _attr("cf_role", "mesh_topology"),
    names.CONTAINER: _attr("geometry_type"),
    names.CRS: lambda ds, v: not v.ndim and ("zv_crs" in v.attrs or "grid_mapping_name" in v.attrs or "crs_wkt" in v.attrs),
    names.IN_GROUP: _attr("zv_role", names.IN_GROUP),
    names.RANGE: _attr("zv_role", names.RANGE),
    names.TABLE: _attr("zv_role", names.TABLE),
}
"""What the views say of their variables."""

_SHAPES: dict[str, Test] = {
    names.OBJECT_ID: lambda ds, v: _are_numbers(v, "vertex"),
    names.PARENT: lambda ds, v: _are_numbers(v, "vertex") and kind_of(ds) in (None, "skeleton"),
    names.COUNT: lambda ds, v: _are_numbers(v, "object") and ds.attrs.get("zv_view", "objects") == "objects",
    names.EDGES: lambda ds, v: v.ndim == 2 and v.dims[0] == "edge",
    names.FACES: lambda ds, v: v.ndim == 2 and v.dims[0] == "face",
    names.TOPOLOGY: lambda ds, v: not v.ndim,
    names.CONTAINER: lambda ds, v: not v.ndim,
    names.CRS: lambda ds, v: not v.ndim,
    names.IN_GROUP: lambda ds, v: v.dims == ("object", "group"),
}
"""What a variable of the name must be where nothing is said of it: in Datasets that were made by hand."""

_WIDTHS = {names.OBJECT_ID: ("vertex",), names.PARENT: ("vertex",), names.COUNT: ("object",), names.OBJECT_INDEX: ("vertex",)}


def _are_numbers(v: xr.Variable, dim: str) -> bool:
    return v.dims == (dim,) and v.dtype.kind in "iu"


def kind_of(ds: xr.Dataset) -> str | None:
    """Return the geometry that a Dataset names, None where it names none."""
    named = ds.attrs.get("geometry_types")
    return str(np.atleast_1d(named)[0]) if named is not None and len(np.atleast_1d(named)) else None


def by_roles(ds: xr.Dataset) -> tuple[xr.Dataset, dict[str, str]]:
    """Return a Dataset whose variables have the names of the views, and what to rename to have those back that it had.

    Raises
    ------
    InputError
        A variable that says how the others belong together is no longer what it was: of other dimensions, or no integers.
    """
    _check_dims(ds)
    ds = from_plain(ds)
    found = {role: name for role in names.ROLES if (name := _find(ds, role)) is not None}
    _check(ds, found)
    mine = set(found.values())
    new: dict[str, str] = {name: role for role, name in found.items() if name != role}
    taken = {*map(str, ds.variables), *map(str, ds.dims), *names.ROLES}
    clashing = [str(k) for k, v in ds.variables.items() if str(k) not in mine and _clashes(str(k), v)]
    renamed: dict[str, Any] = {}
    for name in clashing:
        new[name], renamed[name] = names.free_name(name, str(ds[name].dims[0]), taken)
        taken.add(new[name])
    if not new:
        return ds, {}
    variables = {k: ds.variables[k].copy(deep=False) for k in renamed}
    for name, attrs in renamed.items():
        variables[name].attrs = {**variables[name].attrs, **attrs}
    coords = [k for k in renamed if k in ds.coords]
    return ds.assign(variables).set_coords(coords).rename_vars(new), {b: a for a, b in new.items()}


def _clashes(name: str, v: xr.Variable) -> bool:
    """Return True for what has dimensions of its own and the name of a role or of a dimension."""
    return bool(v.dims) and ((name in names.ROLES) or (name in names.DIMS and v.dims != (name,)))


def _find(ds: xr.Dataset, role: str) -> str | None:
    marked = [str(k) for k, v in ds.variables.items() if "zv_name" not in v.attrs and _MARKS[role](ds, v)]
    if role in marked or len(marked) == 1:
        return role if role in marked else marked[0]
    if len(marked) > 1 and role not in (names.CRS, names.CONTAINER, names.TOPOLOGY):
        raise InputError(f"{', '.join(marked)} all say that they are the Dataset's {role}: drop all but one of them")
    v = ds.variables.get(role)
    if v is None or role not in _SHAPES or "zv_name" in v.attrs or not _SHAPES[role](ds, v):
        return marked[0] if marked else None
    return role


def _check_dims(ds: xr.Dataset) -> None:
    """Refuse other names of the dimensions of a view, and of the numbers along them."""
    for key, v in ds.variables.items():
        own = v.attrs.get("zv_role")
        if own not in names.DIMS or not v.dims or v.dims == (key,) == (own,) or (key != own and own in ds.variables):
            continue
        raise InputError(
            f"the coordinate {own!r} along {own!r} is {key!r} along {', '.join(map(repr, v.dims))} now, and ds.zv works with "
            "the dimensions of the views: rename or swap it back (positions, attributes and all others may have any names)"
        )


def _check(ds: xr.Dataset, found: dict[str, str]) -> None:
    for role, name in found.items():
        v = ds.variables[name]
        if role in (names.EDGES, names.FACES):
            fits = v.ndim == 2 and v.dims[0] == role[:-1] and v.dtype.kind in "iu"
        else:
            fits = role not in _WIDTHS or (v.dims == _WIDTHS[role] and v.dtype.kind in "iu")
        if not fits:
            raise InputError(
                f"{name!r} says how the others belong together, and is {v.dtype} along {v.dims} now: an operation filled or "
                "spread it. Select with ds.zv.sel(...) or ds.isel(...) instead, or leave it out with "
                f"ds.drop_vars({name!r})"
            )
    if "object" in ds.variables and ds["object"].dims == ("object",) and ds["object"].dtype.kind not in "iu":
        raise InputError(f"ids of objects are integers, and the coordinate 'object' holds {ds['object'].dtype}")
    for key, v in ds.variables.items():
        ours = [str(d) for d in v.dims if d in names.DIMS]
        if not ours or str(key) in found.values():
            continue
        if len(ours) > 1 or v.dims[0] != ours[0]:
            raise InputError(
                f"{key!r} lies along {v.dims}: attributes have one of {', '.join(names.DIMS)}, as their first dimension. "
                "ds.where(...) and others spread it: select with ds.isel(vertex=mask), transpose it, or leave it out with "
                f"ds.drop_vars({key!r})"
            )
