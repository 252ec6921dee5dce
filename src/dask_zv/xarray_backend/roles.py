"""Which variable of a Dataset is what: by dimensions, ``cf_role`` and other marks, whatever the variables are called.

The rest of this package goes by names: :func:`by_roles` gives the variables of a Dataset those names, those that a user gave
others and those of plain UGRID and CF Datasets, which never were in a store, too; attributes that happen to have one of them
get another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from dask_zv.errors import InputError
from dask_zv.geometry.kinds import kind_of
from dask_zv.geometry.points import POINT_CLOUD
from dask_zv.geometry.polylines import POLYLINE
from dask_zv.xarray_backend import conventions as names

_STANDARD = {
    **dict.fromkeys(("longitude", "projection_x_coordinate", "grid_longitude"), "X"),
    **dict.fromkeys(("latitude", "projection_y_coordinate", "grid_latitude"), "Y"),
    **dict.fromkeys(("altitude", "height", "depth"), "Z"),
}
_USUAL = {"lon": "X", "longitude": "X", "lat": "Y", "latitude": "Y"}
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
    names.PARENT: lambda ds, v: _are_numbers(v, "vertex") and (named_kind(ds) is None or kind_of(named_kind(ds)).has_parents),
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


def named_kind(ds: xr.Dataset) -> str | None:
    """Return the geometry that a Dataset names, None where it names none."""
    named = ds.attrs.get("geometry_types")
    return str(np.atleast_1d(named)[0]) if named is not None and len(np.atleast_1d(named)) else None


def by_roles(ds: xr.Dataset) -> tuple[xr.Dataset, dict[str, str]]:
    """Return a Dataset whose variables have the names of the views, and what to rename to have those back that it had.

    A variable that says how the others belong together, and is no longer what it was, is an error.
    """
    _check_dims(ds)
    ds = _from_plain(ds)
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
        raise InputError(f"{', '.join(marked)} are all marked as the Dataset's {role}: drop all but one of them")
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


# ---------------------------------------------------------------------------------------------- UGRID and CF


def _from_plain(ds: xr.Dataset) -> xr.Dataset:
    """Return a UGRID or CF Dataset with our names of dimensions, and links that count from 0; any other as it is.

    Read are topologies of networks and surfaces, geometry containers of points and lines, and contiguous and indexed ragged
    arrays. Polygons, lines of several parts, and faces of different numbers of vertices are errors.
    """
    topologies = [v for v in ds.variables.values() if v.attrs.get("cf_role") == "mesh_topology"]
    if len(topologies) > 1:
        told = [str(k) for k, v in ds.variables.items() if v.attrs.get("cf_role") == "mesh_topology"]
        raise InputError(f"{' and '.join(told)} are topologies, and one is written: leave the others out, with their links")
    if topologies:
        ds = _from_ugrid(ds.copy(), topologies[0].attrs)
    elif "vertex" not in ds.dims:
        ds = _from_cf(ds.copy())
    for dim, name in (("edge", names.EDGES), ("face", names.FACES)):
        marked = [str(k) for k, v in ds.variables.items() if v.attrs.get("cf_role") == f"{dim}_node_connectivity"]
        by_name = [n for n in (name,) if n in ds.variables and ds.variables[n].dims[:1] == (dim,)]
        for variable in marked or by_name:
            if ds.variables[variable].ndim == 2 and "zv_name" not in ds.variables[variable].attrs:
                ds = _counted_from_zero(ds, variable, dim)
    return ds


def position_names(ds: xr.Dataset, dim: str, among: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the numeric variables along a dimension that CF calls x, y and z: by axis, standard name, or their own names."""
    wanted = [str(k) for k in ds.variables if among is None or k in among]
    along = [k for k in wanted if ds.variables[k].dims == (dim,) and ds.variables[k].dtype.kind in "iuf"]
    for told in (
        lambda k: str(ds.variables[k].attrs.get("axis", "")).upper(),
        lambda k: _STANDARD.get(str(ds.variables[k].attrs.get("standard_name", "")), ""),
        lambda k: _USUAL.get(k.lower(), k.upper()),
    ):
        found = {told(k): k for k in reversed(along)}
        if {"X", "Y"} <= set(found):
            return tuple(found[a] for a in "XYZ" if a in found)
    return ()


def _listed(attrs: Mapping[str, Any], key: str, ds: xr.Dataset) -> list[str]:
    """Return the variables that an attribute lists."""
    listed = str(attrs.get(key, "")).split()
    lost = [n for n in listed if n not in ds.variables]
    if lost:
        raise InputError(f"{key} names {lost[0]!r}, which the Dataset does not have")
    return listed


def _with_dims(ds: xr.Dataset, dims: Mapping[Any, str]) -> xr.Dataset:
    """Return the Dataset with other names of dimensions; a variable in the way of one is renamed, and keeps its own in mind."""
    for old, new in dims.items():
        if new == old:
            continue
        if new in ds.dims:
            raise InputError(f"the Dataset has a dimension {new!r} beside {old!r}, which is to be called so: rename it")
        if new in ds.variables:
            shown, about = names.free_name(new, new, {*map(str, ds.variables), *map(str, ds.dims)})
            ds = ds.rename({new: shown})
            ds[shown].attrs.update(about)
        if old in ds.dims:
            ds = ds.rename_dims({old: new})
    return ds


def _with_axes(ds: xr.Dataset, nodes: Sequence[str]) -> xr.Dataset:
    dim = str(ds.variables[nodes[0]].dims[0])
    return ds.assign_attrs(zv_axes=list(position_names(ds, dim, nodes) or nodes))


def _from_ugrid(ds: xr.Dataset, topology: Mapping[str, Any]) -> xr.Dataset:
    dims: dict[Any, str] = {}
    if "vertex" not in ds.dims:
        nodes = _listed(topology, "node_coordinates", ds)
        if not nodes:
            raise InputError("the mesh topology names no node_coordinates, so no positions are known")
        dims[ds.variables[nodes[0]].dims[0]] = "vertex"
        ds = _with_axes(ds, nodes)
    for dim in ("edge", "face"):
        key = f"{dim}_node_connectivity"
        ours = "vertex" in ds.dims  # renamed or dropped since: the roles tell
        for name in (
            [n for n in str(topology.get(key, "")).split() if n in ds.variables] if ours else _listed(topology, key, ds)
        ):
            v = ds.variables[name]
            own = topology.get(f"{dim}_dimension", v.dims[0])
            if v.ndim != 2 or own not in v.dims:
                if "vertex" in ds.dims:
                    continue  # ours, which something has changed: roles tell
                raise InputError(f"{name!r} is the {dim}_node_connectivity of a mesh, and has the dimensions {v.dims}")
            if v.dims[0] != own:
                ds = ds.assign({name: v.transpose()})
            ds[name].attrs["cf_role"] = f"{dim}_node_connectivity"
            dims[own] = dim
    return _with_dims(ds, dims)


def _counted_from_zero(ds: xr.Dataset, name: str, dim: str) -> xr.Dataset:
    """Return the Dataset with links as integers that count from 0, none of which is a fill value."""
    v = ds.variables[name]
    first = _start_index(name, v)
    fill = v.attrs.get("_FillValue", v.encoding.get("_FillValue"))
    if not first and fill is None and v.dtype.kind in "iu":
        return ds
    data = v.to_numpy()
    missing = np.isnan(data) if data.dtype.kind == "f" else data == fill if fill is not None else np.zeros(data.shape, bool)
    if missing.any():
        row = int(np.flatnonzero(missing.any(axis=1))[0])
        raise InputError(
            f"{dim} {row} of {name!r} has fewer than {data.shape[1]} vertices (a fill value): all {dim}s of a store have as "
            "many; split them (triangulate faces) first"
        )
    if data.dtype.kind == "f" and (data != np.floor(data)).any():
        raise InputError(f"{name!r} holds vertex numbers, and some are no integers")
    attrs = {k: x for k, x in v.attrs.items() if k != "_FillValue"} | {"start_index": 0}
    changed = xr.Variable(v.dims, data.astype(np.int64) - first, attrs)
    was_coord = name in ds.coords
    ds = ds.assign({name: changed})
    return ds.set_coords(name) if was_coord else ds


def _start_index(name: str, v: xr.Variable) -> int:
    given = v.attrs.get("start_index", 0)
    try:
        first = float(given)
    except (TypeError, ValueError):
        first = 0.5
    if first != int(first):
        raise InputError(f"start_index of {name!r} is an integer, not {given!r:.80}")
    return int(first)


def _from_cf(ds: xr.Dataset) -> xr.Dataset:
    for name, v in ds.variables.items():
        if "geometry_type" in v.attrs:
            return _from_container(ds, str(name), v.attrs)
    for name, v in ds.variables.items():
        sample, instance = v.attrs.get("sample_dimension"), v.attrs.get("instance_dimension")
        if v.ndim == 1 and sample in ds.dims and (axes := position_names(ds, str(sample))):
            ds = _with_axes(ds, axes).assign_attrs(geometry_types=POLYLINE.name)
            ds[name].attrs["sample_dimension"] = "vertex"
            return _with_ids(_with_dims(ds, {sample: "vertex", v.dims[0]: "object"}))
        if v.ndim == 1 and instance in ds.dims and (axes := position_names(ds, str(v.dims[0]))):
            ds = _with_ids(_with_dims(_with_axes(ds, axes), {v.dims[0]: "vertex", instance: "object"}))
            ids = ds["object"].to_numpy() if "object" in ds.variables else np.arange(ds.sizes["object"])
            places = ds[name].to_numpy()
            if places.dtype.kind not in "iu":
                raise InputError(f"{name!r} names places along {instance!r}, and holds {places.dtype}: integers are wanted")
            if len(places) and not 0 <= int(places.min()) <= int(places.max()) < len(ids):
                raise InputError(f"{name!r} names places along {instance!r} that are not there: there are {len(ids)}")
            return ds.assign({name: ("vertex", ids[places.astype(np.int64)], {"zv_role": names.OBJECT_ID})})
    return ds


def _from_container(ds: xr.Dataset, name: str, attrs: Mapping[str, Any]) -> xr.Dataset:
    kind = attrs["geometry_type"]
    if kind not in (names.CF_LINE, "point") or "part_node_count" in attrs or "interior_ring" in attrs:
        what = f"geometries of the type {kind!r}" if kind not in (names.CF_LINE, "point") else "geometries of several parts"
        raise InputError(f"{name!r} holds {what}: lines and points of one part can be stored")
    nodes, counts = _listed(attrs, "node_coordinates", ds), _listed(attrs, "node_count", ds)
    if not nodes:
        raise InputError(f"{name!r} names no node_coordinates, so no positions are known")
    ds = _with_axes(ds, nodes)
    dims: dict[Any, str] = {ds.variables[nodes[0]].dims[0]: "vertex"}
    if counts:
        dims[ds.variables[counts[0]].dims[0]] = "object"
        ds[counts[0]].attrs["sample_dimension"] = "vertex"
    elif kind == names.CF_LINE:
        raise InputError(f"{name!r} names no node_count, so which nodes make a line is not known")
    geometry = POLYLINE if kind == names.CF_LINE else POINT_CLOUD
    return _with_ids(_with_dims(ds.assign_attrs(geometry_types=geometry.name), dims))


def _with_ids(ds: xr.Dataset) -> xr.Dataset:
    """Return the Dataset with the numbers that identify its instances as ids of objects, where it has some."""
    for name, v in ds.variables.items():
        if v.dims == ("object",) and "cf_role" in v.attrs and v.dtype.kind in "iu" and "object" not in ds.variables:
            ids = v.to_numpy().astype(np.int64)
            if len(np.unique(ids)) == len(ids) and (not len(ids) or ids.min() >= 0):
                return ds.assign_coords(object=("object", ids)).drop_vars([name])
    return ds
