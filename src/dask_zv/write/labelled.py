"""Inputs whose columns say what they are: Datasets of xarray, and geometries of GeoPandas.

They are taken apart into what the writing functions take: positions, columns beside them, tables about objects. Axes are
found by their names, or by the attribute ``axis`` of CF; the rows of an object as in CF's ragged arrays. Neither library is
imported for data of others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from dask.base import is_dask_collection

from dask_zv.errors import InputError
from dask_zv.geometry.kinds import geometry_named
from dask_zv.graph.run import computed
from dask_zv.level.asked import CreateOptions, check_agrees
from dask_zv.level.contents import StoreContents, contents_of
from dask_zv.level.create import contents_to_write
from dask_zv.write.containers import EACH_AXIS, attrs_of, with_attrs
from dask_zv.write.inputs import unknown_column
from dask_zv.write.options import CREATE, DEFAULTS, WriteOptions
from dask_zv.write.shapes import check_crs, line_table, point_table

_COLUMNS = ("object_ids", "vertex_ids", "parents", "lengths", "sort_by", "edges", "faces")
"""Arguments that may name a variable."""


def is_dataset(value: Any) -> bool:
    """Return True for a Dataset of xarray."""
    return isinstance(value, Mapping) and hasattr(value, "data_vars") and hasattr(value, "coords")


def is_geo(value: Any) -> bool:
    """Return True for geometries of geopandas: a table, or a column of them alone."""
    return hasattr(type(value), "to_crs")


def guess_from(positions: Any, asked: Mapping[str, Any]) -> CreateOptions:
    """Return what positions say of the axes of a store that is made for them, and of its reference system."""
    if is_geo(positions):
        return {"crs": positions.crs}
    if not is_dataset(positions) or asked.get("chunk_shape") is None:
        return {}
    count = len(asked["chunk_shape"])
    found = {str(v.attrs["axis"]): str(k) for k, v in list(positions.variables.items())[::-1] if v.attrs.get("axis")}
    space = [found[a] for a in "XYZ" if a in found]
    own = {str(v.attrs["zv_axis"]): v.attrs.get("axis") for v in positions.variables.values() if "zv_axis" in v.attrs}
    names: list[Any] = [
        {"name": a, "type": "time" if own[a] == "T" else "space"} for a in positions.attrs.get("zv_axes", ()) if a in own
    ]
    if len(names) != count:
        names = [a for a in "xyzw"[:count] if a in positions.variables]
    if len(names) < count and len(space) == count:
        names = space
    elif len(names) < count and "T" in found and len(space) == count - 1:
        names = [{"name": found["T"], "type": "time"}, *space]
    mapping = next((v.attrs["grid_mapping"] for v in positions.variables.values() if "grid_mapping" in v.attrs), None)
    told = positions.variables[mapping].attrs if mapping in positions.variables else {}
    crs = json.loads(told["zv_crs"]) if "zv_crs" in told else {"crs_wkt": told["crs_wkt"]} if "crs_wkt" in told else None
    return {"axes": names if len(names) == count else None, "crs": crs}


def store_to_write(store: Any, geometries: Sequence[str], positions: Any, options: WriteOptions) -> StoreContents:
    """Return the store that a function writes to, which may be still to be made: see :func:`.make`."""
    asked: Any = {k: v for k in CREATE if (v := options.get(k)) is not DEFAULTS.get(k)}
    storage_options, named = asked.pop("storage_options", None), options.get("geometry")
    geometry = geometries[0] if named is None else geometry_named(named)
    if geometry not in geometries:
        raise InputError(f"geometry {named!r}: one of {', '.join(geometries)} is written here")
    contents = contents_of(store)
    if contents is None:
        guessed = guess_from(positions, asked)
        return contents_to_write(store, geometry, storage_options, asked, guessed, named=named is not None)
    if storage_options is not None:
        raise InputError("storage_options open a target, and this is a store that is open: leave them out")
    if asked or named is not None:
        check_agrees(contents, asked, geometry if named is not None else None)
    return contents


def as_columns(positions: Any, store: StoreContents, options: Any) -> tuple[Any, Any]:
    """Return positions and options of a function that takes vertices, row by row."""
    if is_dataset(positions):
        return _dataset(positions, store.axes, options)
    if not is_geo(positions):
        return positions, options
    check_crs(positions, store)
    take = partial(point_table, store.axes)
    return (positions.map_partitions(take) if is_dask_collection(positions) else take(positions)), options


def as_paths(positions: Any, store: StoreContents, options: Any) -> tuple[Any, Any]:
    """Return positions and options of a function that takes paths; a row of a table of geometries is one."""
    if not is_geo(positions):
        return as_columns(positions, store, options)
    if is_dask_collection(positions):
        raise InputError("lines of a Dask GeoDataFrame: write them from its vertices, or call .compute() first")
    check_crs(positions, store)
    return line_table(positions, len(store.axes), options)


def as_endpoints(positions: Any, store: StoreContents, options: Any) -> tuple[Any, Any]:
    """Return endpoints (N, 2, D) and options of a function that takes lines."""
    if is_dataset(positions):
        raise InputError(
            "lines are pairs of points, shape (N, 2, D), or a table: pass ds.to_dataframe() or ds.to_dask_dataframe()"
        )
    if not is_geo(positions):
        return positions, options
    points, options = as_paths(positions, store, options)
    lengths = options.pop("lengths")
    if (lengths != 2).any():
        row = int(np.argmax(lengths != 2))
        raise InputError(f"a line has two endpoints, row {row} of the geometries has {lengths[row]}: write_polylines takes it")
    return points.reshape(-1, 2, len(store.axes)), options


def _dataset(ds: Any, axes: Sequence[str], options: Any) -> tuple[Any, Any]:
    columns = {a: _axis(ds, a) for a in axes}
    dims = {v.dims for v in columns.values()}
    if len(dims) != 1 or len(next(iter(dims))) != 1:
        shapes = ", ".join(f"{n} along {v.dims}" for n, v in columns.items())
        raise InputError(
            f"the axes of a Dataset have one dimension in common, with an entry for each vertex; here are {shapes}: bring them "
            "into one with ds.stack(...), and drop what is missing"
        )
    (dim,) = next(iter(dims))
    values = [v.data for v in columns.values()]
    lazy = next((v for v in values if is_dask_collection(v)), None)
    if lazy is None:
        table = np.stack(values, axis=1)
    else:
        import dask.array as da

        table = da.stack([da.asarray(v).rechunk(lazy.chunks) for v in values], axis=1).rechunk({1: -1})
    about = {a: _plain_attrs(f"axis {a!r}", v, a) for a, v in columns.items()}
    roles = {str(k): v.attrs for k, v in ds.variables.items()}
    out = {**options, **_owners(ds, dim, roles, options)}
    taken = {v.name for v in columns.values()} | {v for k in _COLUMNS if isinstance(v := out.get(k), str)}
    for key in _COLUMNS:
        if isinstance(name := out.get(key), str):
            out[key] = _variable(ds, name, f" for {key}").variable
    plain = [n for n, a in roles.items() if dim in ds[n].dims and n != dim and not a.keys() & {"zv_role", "instance_dimension"}]
    asked = options["attributes"]
    asked = [n for n in plain if n not in taken] if asked is None else [asked] if isinstance(asked, str) else asked
    if not isinstance(asked, Mapping):
        asked = {str(ds[n].attrs.get("zv_name", n)) if n in ds.variables else n: n for n in asked}
    out["attributes"] = {k: _rows(_variable(ds, v, ""), dim) if isinstance(v, str) else v for k, v in asked.items()}
    return with_attrs(table, {EACH_AXIS: about}), out


def _axis(ds: Any, axis: str) -> Any:
    """Return the variable of an axis: of its name, else the one whose attribute ``axis`` says so."""
    if axis in ds.variables:
        return ds[axis]
    said = [str(k) for k, v in ds.variables.items() if axis in (v.attrs.get("zv_axis"), str(v.attrs.get("axis", "")).lower())]
    if len(said) != 1:
        raise unknown_column(axis, ds.variables, " for an axis (nor is there one variable whose attribute axis says so)")
    return ds[said[0]]


def _variable(ds: Any, name: str, purpose: str) -> Any:
    if name not in ds.variables:
        raise unknown_column(name, ds.variables, purpose)
    return ds[name]


def _plain_attrs(what: str, column: Any, axis: str) -> dict[str, Any]:
    """Return what a coordinate of positions says of them, without the words that every view has for its axes."""
    found = attrs_of(what, column.variable)
    return {k: v for k, v in found.items() if k != "axis" and (k, v) != ("long_name", f"{axis} position")}


def _rows(column: Any, dim: str) -> Any:
    """Return a variable with the entries along a dimension as its rows."""
    found = column.variable
    return found.transpose(dim, ...) if dim in found.dims else found  # an error of its own follows


def _owners(ds: Any, dim: str, roles: Mapping[str, Mapping[str, Any]], options: Any) -> dict[str, Any]:
    """Return which objects vertices are of, where the Dataset says so and the caller does not: by an id each, or by lengths."""
    if options["object_ids"] is not None or options.get("lengths") is not None:
        return {}
    own = next((n for n, a in roles.items() if ds[n].dims == (dim,) and a.get("zv_role") == "object_id"), None)
    counts = next((n for n, a in roles.items() if a.get("sample_dimension") == dim), None)
    places = next((n for n, a in roles.items() if ds[n].dims == (dim,) and "instance_dimension" in a), None)
    if own is not None and not (counts and "lengths" in options):
        along = next((str(ds[n].dims[0]) for n, a in roles.items() if a.get("zv_role") == "object"), "")
        _, about = _instances(ds, along, {n: a for n, a in roles.items() if n != counts}, options)
        return {"object_ids": own, **_about_those(about, ds[own].data)}
    if counts is not None:
        ids, about = _instances(ds, str(ds[counts].dims[0]), {n: a for n, a in roles.items() if n != counts}, options)
        lengths = np.asarray(ds[counts])
        if "lengths" in options:
            return {"lengths": lengths, "object_ids": ids, **about}
        if lengths.sum() != ds.sizes[dim]:
            raise InputError(f"{counts!r} adds up to {lengths.sum():,} rows, the dimension {dim!r} has {ds.sizes[dim]:,}")
        return {"object_ids": np.repeat(ids, lengths), **about}
    if places is None:
        return {}
    ids, about = _instances(ds, str(roles[places]["instance_dimension"]), roles, options)
    return {"object_ids": _ids_at(ds[places].variable, ids, places), **about}


def _instances(ds: Any, along: str, roles: Mapping[str, Mapping[str, Any]], options: Any) -> tuple[Any, dict[str, Any]]:
    """Return the ids of the objects along a dimension, and options with their attributes and groups, unless given."""
    if along not in ds.dims:
        return None, {}
    names = [n for n in roles if along in ds[n].dims and roles[n].get("zv_role", "object") == "object"]
    ids = next((n for n in names if n == along or roles[n].get("cf_role") in ("trajectory_id", "timeseries_id")), None)
    ids = ids if ids is not None and ds[ids].dtype.kind in "iu" else None
    numbers = np.arange(ds.sizes[along]) if ids is None else np.asarray(ds[ids])
    about = {n: _rows(ds[n], along) for n in names if n not in (along, ids)}
    given = options["object_attributes"] is not None or not about
    out = {} if given else {"object_attributes": _about(about, numbers)}
    members = next((n for n in roles if roles[n].get("zv_role") == "in_group" and ds[n].dims[:1] == (along,)), None)
    if members is not None and options["groups"] is None:
        dim = ds[members].dims[1]
        which = np.asarray(ds[dim]) if dim in ds.variables else range(ds.sizes[dim])
        out["groups"] = {int(g): numbers[of] for g, of in zip(which, np.asarray(ds[members], bool).T, strict=True)}
        about = {n: _rows(ds[n], dim) for n in roles if dim in ds[n].dims and n not in (dim, members)}
        if about and options["group_attributes"] is None:
            out["group_attributes"] = _about(about, np.fromiter(out["groups"], np.int64))
    return numbers, out


def _about_those(about: dict[str, Any], ids: Any) -> dict[str, Any]:
    """Return options that speak of those objects that have vertices: a selection has the others, too."""
    out, present = dict(about), computed(np.unique(ids)) if about else ()
    if (table := out.get("object_attributes")) is not None:
        (dim,) = table.coords
        out["object_attributes"] = table.isel({dim: np.isin(table[dim], present)})
    if "groups" in out:
        out["groups"] = {g: members[np.isin(members, present)] for g, members in out["groups"].items()}
    return out


def _ids_at(places: Any, ids: Any, name: str) -> Any:
    """Return the id of each row's object, of which CF has the place among the objects."""
    if ids is None or places.dtype.kind not in "iu":
        return places  # ids of objects of which nothing else is known
    take = partial(_taken, ids, name)
    data = places.data
    return data.map_blocks(take, dtype=ids.dtype) if is_dask_collection(data) else take(np.asarray(data))


def _taken(ids: Any, name: str, places: Any) -> Any:
    odd = (places < 0) | (places >= len(ids))
    if odd.any():
        raise InputError(
            f"{name!r} has the attribute instance_dimension, so it counts from 0 to {len(ids) - 1}, and has {places[odd][0]}: "
            "drop the attribute, and pass the variable as object_ids=, if it holds ids"
        )
    return ids[places]


def _about(columns: Mapping[str, Any], ids: Any) -> Any:
    """Return a table about objects, indexed by their ids."""
    import xarray as xr

    dim = "id of the object"  # none of an attribute's own
    named = {k: xr.Variable((dim, *v.dims[1:]), v.data, v.attrs) for k, v in columns.items()}
    return xr.Dataset(named, coords={dim: np.asarray(ids)})
