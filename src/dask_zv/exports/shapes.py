"""Geometries for shapely and geopandas, and as CF containers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.exports.frames import object_frame, to_dataframe
from dask_zv.exports.front import (
    STORES,
    Parts,
    add_columns,
    chosen_dims,
    flat,
    library,
    numbers_of,
    parts_of,
    reference_system,
    source_attrs,
)
from dask_zv.xarray_backend.content import Content, read_content, shape_of
from dask_zv.xarray_backend.conventions import CF_LINE

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

_GEOMETRY = "geometry"  # the dimension, and the name of the decoded coordinate along it, which xvec uses as an index
_CONTAINER, _NODE, _PART = "geometry_container", "node", "part"


def to_shapely(ds: xr.Dataset, dims: Sequence[str] | None = None) -> NDArray[np.object_]:
    """Return shapely geometries, see :meth:`ZVDatasetAccessor.to_shapely`."""
    axes = list(chosen_dims(shape_of(ds), dims, 3))
    content = read_content(ds, attributes=False)
    return _geometries(content, parts_of(content), axes)


def to_geodataframe(ds: xr.Dataset, dims: Sequence[str] | None = None, *, crs: Any = STORES) -> GeoDataFrame:
    """Return a table of geometries, see :meth:`ZVDatasetAccessor.to_geodataframe`."""
    geopandas = library("geopandas", "geo")
    shape = shape_of(ds)
    axes = list(chosen_dims(shape, dims, 3))
    reference = reference_system(shape, crs, "geo")
    if shape.geometry.is_points:
        table = to_dataframe(ds, object_attributes=False)
        shapes = library("shapely", "geo").points(table[list(shape.axes)].to_numpy(np.float64)[:, axes])
        frame = table.drop(columns=list(shape.axes))
    else:
        content = read_content(ds, attributes=False)
        parts = parts_of(content)
        shapes = _geometries(content, parts, axes)
        if parts.ids is None:
            frame = pd.DataFrame(index=pd.RangeIndex(len(parts)))
        elif shape.view == "objects" or "object" in ds.variables:
            frame = object_frame(ds)
        else:
            frame = pd.DataFrame(index=pd.Index(parts.ids, name="object"))
    if "geometry" in frame.columns:
        raise InputError("an attribute is named 'geometry', like the column of geometries: rename it with ds.rename(...)")
    found: GeoDataFrame = geopandas.GeoDataFrame(frame, geometry=shapes, crs=reference)
    return found


def _geometries(content: Content, parts: Parts, axes: list[int]) -> NDArray[np.object_]:
    shapely = library("shapely", "geo")
    positions = content.positions[:, axes].astype(np.float64)
    out = np.empty(len(parts), object)
    if parts.kind == "point":
        out[:] = shapely.points(positions)
        return out
    drawn = np.flatnonzero(parts.counts)
    part = np.repeat(np.arange(len(parts.part_lengths)), parts.part_lengths)
    make = shapely.linestrings if parts.kind == CF_LINE else shapely.linearrings
    single = make(positions[parts.rows], indices=part) if len(part) else np.zeros(0, object)
    if not content.shape.is_path and len(drawn):
        owner = np.repeat(np.arange(len(drawn)), parts.counts[drawn])
        polygons = parts.kind == "polygon"
        single = (shapely.multipolygons if polygons else shapely.multilinestrings)(
            shapely.polygons(single) if polygons else single, indices=owner
        )
    out[drawn] = single
    return out


# ---------------------------------------------------------------------------------------------- CF containers


def to_cf_geometries(
    ds: xr.Dataset, dims: Sequence[str] | None = None, *, crs: Any = STORES, empty: str = "raise"
) -> xr.Dataset:
    """Return a Dataset of CF geometries, see :meth:`ZVDatasetAccessor.to_cf_geometries`."""
    if empty not in ("raise", "drop"):
        raise InputError(f"empty is 'raise' or 'drop', not {empty!r}")
    shape = shape_of(ds)
    axes = chosen_dims(shape, shape.drawn[:2] if dims is None else dims, 2)
    reference = reference_system(shape, crs, "geo")
    content = read_content(ds)
    parts = parts_of(content)
    drawn = parts.counts > 0
    if empty == "raise" and not drawn.all():
        raise InputError(
            f"{int((~drawn).sum()):,} of {len(parts):,} objects have nothing to draw (paths of fewer than 2 vertices, networks "
            "without edges, meshes without faces), and CF has no empty geometries: leave them out with empty='drop'"
        )
    vertices = flat(ds, shape.attributes, content.attributes)
    per_geometry: dict[str, NDArray[Any]] = {}
    if parts.kind == "point":
        owners = {} if content.object_ids is None else {"object_id": content.object_ids}
        per_geometry = {"vertex_number": numbers_of(ds), **owners, **vertices}
    elif parts.ids is not None:
        add_columns(per_geometry, {"object_id": parts.ids, **flat(ds, shape.object_attributes, content.object_attributes)})
        per_geometry = {k: v[drawn] for k, v in per_geometry.items()}
    out = _container(content, parts, axes, {k: v[parts.rows] for k, v in vertices.items()} if shape.is_path else {})
    add_columns(out, {k: xr.Variable((_GEOMETRY,), v, {"geometry": _CONTAINER}) for k, v in per_geometry.items()})
    container = out[_CONTAINER]
    if reference is not None:
        words = {k: v for k, v in reference.to_cf().items() if isinstance(v, str | int | float)}
        add_columns(out, {"spatial_ref": xr.Variable((), 0, {"crs_wkt": reference.to_wkt(), **words})})
        for name in (_CONTAINER, *str(container.attrs["node_coordinates"]).split()):
            out[name].attrs["grid_mapping"] = "spatial_ref"
    made = xr.Dataset(out, attrs={"Conventions": "CF-1.11", **source_attrs(ds)})
    return made.set_coords([k for k in made.variables if k in ("object_id", "vertex_number")])


def _container(content: Content, parts: Parts, axes: tuple[int, ...], per_node: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Return coordinates, counts and the container."""
    shape = content.shape
    points = parts.kind == "point"
    rows, lengths = parts.rows, parts.part_lengths
    if parts.kind == "polygon":  # readers do not close rings: the first corner is repeated at the end
        ends = np.cumsum(lengths)
        rows, lengths = np.insert(rows, ends, rows[ends - lengths]), lengths + 1
    out: dict[str, Any] = {}
    for i, (axis, unit) in enumerate(zip(shape.axes, shape.units, strict=True)):
        if i in axes or shape.is_path or points:
            about: dict[str, Any] = {"axis": "XY"[axes.index(i)]} if i in axes else {}
            about |= {"units": unit} if unit else {}
            out[axis] = xr.Variable((_GEOMETRY if points else _NODE,), content.positions[rows, i], about)
    add_columns(out, {k: xr.Variable((_NODE,), v) for k, v in per_node.items()})
    coordinates = " ".join(shape.axes[i] for i in axes)
    attrs: dict[str, Any] = {"geometry_type": parts.kind, "node_coordinates": coordinates, "variable_name": _GEOMETRY}

    def counted(name: str, dim: str, values: NDArray[Any], long_name: str) -> None:
        attrs[name] = name
        add_columns(out, {name: xr.Variable((dim,), values, {"long_name": long_name})})

    if points:
        attrs["coordinates"] = coordinates  # else readers do not know the dimension
    else:
        geometries = np.repeat(np.arange(len(parts)), parts.counts)
        nodes = np.bincount(geometries, weights=lengths, minlength=len(parts)).astype(np.int64)
        counted("node_count", _GEOMETRY, nodes[parts.counts > 0], "nodes of each geometry")
        if not shape.is_path:
            counted("part_node_count", _PART, lengths, "nodes of each part")
        if parts.kind == "polygon":
            counted("interior_ring", _PART, np.zeros(len(lengths), np.int8), "1: a hole")
    add_columns(out, {_CONTAINER: xr.Variable((), 0, attrs)})
    return out
