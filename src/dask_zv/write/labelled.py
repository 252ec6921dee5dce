"""Inputs whose columns say what they are: Datasets of xarray, and tables of geometries (GeoPandas).

They are taken apart into what the writing functions take: positions, columns beside them, tables about objects. Axes are
found by their names, or by the attribute ``axis`` of CF; the rows of an object as in CF's ragged arrays. Neither library is
imported for data of others.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from dask.base import is_dask_collection

from dask_zv.errors import InputError, ZVWarning
from dask_zv.geometry.kinds import geometry_named
from dask_zv.graph.run import computed
from dask_zv.level.asked import CreateOptions, check_agrees, plain_crs
from dask_zv.level.contents import StoreContents, contents_of
from dask_zv.level.create import contents_to_write
from dask_zv.write.containers import EACH_AXIS, attrs_of, is_frame, with_attrs
from dask_zv.write.inputs import unknown_column
from dask_zv.write.options import CREATE, DEFAULTS, WriteOptions

_COLUMNS = ("object_ids", "vertex_ids", "parents", "lengths", "sort_by", "edges", "faces")
"""Arguments that may name a variable."""
_POINT, _LINES = (0,), (1, 2)
"""Numbers of shapely's types: points; line strings and linear rings."""


def is_dataset(value: Any) -> bool:
    """Return True for a Dataset of xarray."""
    return isinstance(value, Mapping) and hasattr(value, "data_vars") and hasattr(value, "coords")


def is_geo(value: Any) -> bool:
    """Return True for a table of geometries."""
    return is_frame(value) and hasattr(type(value), "to_crs")


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
    _check_crs(positions, store)
    take = partial(_point_table, store.axes)
    return (positions.map_partitions(take) if is_dask_collection(positions) else take(positions)), options


def as_paths(positions: Any, store: StoreContents, options: Any) -> tuple[Any, Any]:
    """Return positions and options of a function that takes paths; a row of a table of geometries is one."""
    if not is_geo(positions):
        return as_columns(positions, store, options)
    if is_dask_collection(positions):
        raise InputError("lines of a Dask GeoDataFrame: write them from its vertices, or call .compute() first")
    _check_crs(positions, store)
    return _line_table(positions, len(store.axes), options)


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


# ---------------------------------------------------------------------------------------------- Datasets


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
        return {"object_ids": own, **({} if not about else _about_those(about["object_attributes"], ds[own].data))}
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
    """Return the ids of the objects along a dimension, and an option with their attributes, unless the caller has some."""
    if along not in ds.dims:
        return None, {}
    names = [n for n in roles if along in ds[n].dims and roles[n].get("zv_role", "object") == "object"]
    ids = next((n for n in names if n == along or roles[n].get("cf_role") in ("trajectory_id", "timeseries_id")), None)
    ids = ids if ids is not None and ds[ids].dtype.kind in "iu" else None
    numbers = np.arange(ds.sizes[along]) if ids is None else np.asarray(ds[ids])
    about = {n: _rows(ds[n], along) for n in names if n not in (along, ids)}
    given = options["object_attributes"] is not None or not about
    return numbers, {} if given else {"object_attributes": _about(about, numbers)}


def _about_those(table: Any, ids: Any) -> dict[str, Any]:
    """Return the option with the attributes of those objects that have vertices: a selection has the others, too."""
    (dim,) = table.coords
    return {"object_attributes": table.isel({dim: np.isin(table[dim], computed(np.unique(ids)))})}


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


# ---------------------------------------------------------------------------------------------- tables of geometries


def _point_table(axes: Sequence[str], frame: Any) -> Any:
    """Return a table of points with their coordinates as columns; they stand for columns of the same names."""
    import pandas as pd

    table = pd.DataFrame(frame.drop(columns=[frame.geometry.name, *(a for a in axes if a in frame.columns)]))
    points, _ = _coordinates(frame, len(axes), _POINT, "points", "a line is written by write_polylines")
    return table.assign(**dict(zip(axes, points.T, strict=True)))


def _line_table(frame: Any, ndim: int, options: Any) -> tuple[Any, Any]:
    """Return vertices and options of lines; the other columns are attributes of objects."""
    import pandas as pd

    points, lengths = _coordinates(
        frame, ndim, _LINES, "lines", "bring lines of several parts into rows of one with .explode()"
    )
    out, table = {**options, "lengths": lengths}, pd.DataFrame(frame.drop(columns=[frame.geometry.name]))
    ids, asked = options["object_ids"], options["attributes"]
    if isinstance(ids, str):
        if ids not in table.columns:
            raise unknown_column(ids, table.columns, " for object_ids")
        out["object_ids"], table = table[ids].to_numpy(), table.drop(columns=[ids])
    elif (
        ids is None and table.index.dtype.kind in "iu" and table.index.is_unique and (len(table) == 0 or table.index.min() >= 0)
    ):
        out["object_ids"] = table.index.to_numpy()
    if not isinstance(asked, Mapping):
        names = list(table.columns) if asked is None else [asked] if isinstance(asked, str) else list(asked)
        if lost := [n for n in names if n not in table.columns]:
            raise unknown_column(lost[0], table.columns)
        out["attributes"], table = None, table[names]
    if options["object_attributes"] is None and len(table.columns):
        out["object_attributes"] = table.set_axis(range(len(table)) if out["object_ids"] is None else out["object_ids"])
    return points, out


def _coordinates(frame: Any, ndim: int, types: Sequence[int], wanted: str, otherwise: str) -> tuple[Any, Any]:
    """Return the vertices of all geometries, shape (n, D), and how many each has."""
    import shapely  # type: ignore[import-untyped]

    shapes = np.asarray(frame.geometry.array, object)
    kinds = shapely.get_type_id(shapes)
    odd = ~np.isin(kinds, types) | shapely.is_empty(shapes)
    if odd.any():
        row = int(np.argmax(odd))
        found = "nothing" if shapes[row] is None or shapes[row].is_empty else f"a {shapes[row].geom_type}"
        raise InputError(f"{wanted} are wanted, row {row} of the geometries is {found}: drop it, or {otherwise}")
    deep = shapely.has_z(shapes)
    if ndim > 3 or (ndim == 3 and not deep.all()) or (ndim == 2 and deep.any()):
        have = "2 and 3" if deep.any() and not deep.all() else "3" if deep.any() else "2"
        raise InputError(
            f"the geometries have {have} dimensions, the store {ndim} axes: give chunk_shape an edge for each, or bring them "
            "together with shapely.force_2d or shapely.force_3d"
        )
    points = shapely.get_coordinates(shapes, include_z=ndim == 3)
    return points, np.asarray(shapely.get_num_coordinates(shapes), np.int64)


def _check_crs(frame: Any, store: StoreContents) -> None:
    """Refuse geometries of another reference system than the store's; warn where the store has none."""
    if frame.crs is None:
        return
    told, mine = store.metadata.crs, plain_crs(frame.crs)
    if told is None:
        warnings.warn(
            f"the reference system of the geometries ({frame.crs.name}) is not kept: the store was made without one; make it "
            f"with dzv.create(..., crs=...) [{store.url}]",
            ZVWarning,
            stacklevel=5,
        )
    elif dict(told) != mine and told.keys() & {"crs_wkt", "code"} and not _same_crs(told, frame.crs):
        raise InputError(
            f"the geometries are in {frame.crs.name}, the store in {dict(told)!r:.120}: bring them into that with .to_crs(...)",
            store=store.url,
        )


def _same_crs(told: Mapping[str, Any], crs: Any) -> bool:
    """Return True if a store's reference system is another one's; of one that pyproj can't read nothing is known."""
    import pyproj

    try:
        return bool(crs == pyproj.CRS.from_user_input(told.get("crs_wkt") or f"{told.get('type', 'EPSG')}:{told['code']}"))
    except pyproj.exceptions.CRSError:
        return True
