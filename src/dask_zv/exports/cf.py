"""CF geometry containers in two dimensions, which is what their readers know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.exports.columns import add_columns, flat, numbers_of, object_table
from dask_zv.exports.parts import Parts, chosen_dims, parts_of
from dask_zv.exports.reference import STORES, reference_system
from dask_zv.xarray_backend.content import Content, Shape, read_content, shape_of

_GEOMETRY = "geometry"  # a dimension, and what readers call the decoded coordinate along it: xvec makes an index of that
_CONTAINER, _NODE, _PART = "geometry_container", "node", "part"


def to_cf_geometries(
    ds: xr.Dataset, dims: Sequence[str] | None = None, *, crs: Any = STORES, empty: str = "raise"
) -> xr.Dataset:
    """Return a Dataset of CF geometries (CF 7.5), in memory.

    ``cf_xarray.geometry.decode_geometries``, ``cf_xarray.cf_to_shapely(..., container="geometry_container")`` and
    ``ds.xvec.decode_cf()`` read it; so do others that know the convention. Geometries are those of
    :func:`~dask_zv.exports.shapes.to_shapely`.

    Parameters
    ----------
    ds : Dataset
        Paths in the objects view, graphs and meshes in the spatial view, others in either.
    dims : sequence of str, optional
        Two axes, in the order x, y. The first two where None.
    crs : optional
        Reference system: the store's own by default, None for none, or whatever pyproj takes.
    empty : {"raise", "drop"}
        What becomes of objects that have nothing to draw, such as paths of fewer than 2 vertices: the convention has no empty
        geometries.

    Returns
    -------
    Dataset
        Along ``geometry``: ``object_id`` and attributes of objects, or ``vertex_number`` and attributes of points. Along
        ``node``: coordinates, and for paths the other axes and the attributes of vertices.

    Raises
    ------
    InputError
        The view doesn't hold what is needed, `dims` are not two axes, or objects have nothing to draw.
    ImportError
        There is a reference system, and pyproj is not installed.
    """
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
    per_geometry, per_node = _columns(ds, content, parts, drawn)
    out = _container(content, parts, axes, per_node)
    add_columns(out, {k: _along(_GEOMETRY, k, v) for k, v in per_geometry.items()})
    container = out[_CONTAINER]
    if reference is not None:
        add_columns(out, {"spatial_ref": xr.Variable((), 0, {"crs_wkt": reference.to_wkt(), **_cf_words(reference)})})
        for name in (_CONTAINER, *str(container.attrs["node_coordinates"]).split()):
            out[name].attrs["grid_mapping"] = "spatial_ref"
    made = xr.Dataset(
        out, attrs={"Conventions": "CF-1.11", **{k: ds.attrs[k] for k in ("zv_url", "zv_level") if k in ds.attrs}}
    )
    return made.set_coords([k for k in made.variables if k in ("object_id", "vertex_number")])


def _cf_words(reference: Any) -> dict[str, Any]:
    return {k: v for k, v in reference.to_cf().items() if isinstance(v, str | int | float)}


def _columns(
    ds: xr.Dataset, content: Content, parts: Parts, drawn: NDArray[np.bool_]
) -> tuple[Mapping[str, NDArray[Any]], Mapping[str, NDArray[Any]]]:
    """Return the columns along geometries, and those along nodes where these are vertices."""
    shape = content.shape
    vertices = flat(ds, shape.attributes, content.attributes)
    if parts.kind == "point":
        owners = {} if content.object_ids is None else {"object_id": content.object_ids}
        return {"vertex_number": numbers_of(ds), **owners, **vertices}, {}
    per_geometry: dict[str, NDArray[Any]] = {}
    if parts.ids is not None:
        add_columns(per_geometry, {"object_id": parts.ids, **object_table(ds, content)})
    return {k: v[drawn] for k, v in per_geometry.items()}, {
        k: v[parts.rows] for k, v in vertices.items()
    } if shape.is_path else {}


def _container(content: Content, parts: Parts, axes: tuple[int, ...], per_node: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Return coordinates, counts and container."""
    shape = content.shape
    node = _GEOMETRY if parts.kind == "point" else _NODE
    rows, lengths = parts.rows, parts.part_lengths
    if parts.kind == "polygon":
        rows, lengths = _closed(rows, lengths)
    out: dict[str, Any] = {}
    for i, axis in enumerate(shape.axes):
        if i in axes or shape.is_path or parts.kind == "point":
            add_columns(out, {axis: _coordinate(shape, content.positions[rows, i], i, node, axes)})
    add_columns(out, {k: _along(_NODE, None, v) for k, v in per_node.items()})
    attrs: dict[str, Any] = {
        "geometry_type": parts.kind,
        "node_coordinates": " ".join(shape.axes[i] for i in axes),
        "variable_name": _GEOMETRY,
    }
    if parts.kind == "point":
        attrs["coordinates"] = attrs["node_coordinates"]  # else readers don't learn the dimension
    else:
        geometries = np.repeat(np.arange(len(parts)), parts.counts)
        nodes = np.bincount(geometries, weights=lengths, minlength=len(parts)).astype(np.int64)
        attrs["node_count"] = "node_count"
        about = {"long_name": "nodes of each geometry"}
        add_columns(out, {"node_count": xr.Variable((_GEOMETRY,), nodes[parts.counts > 0], about)})
        if not shape.is_path:
            attrs["part_node_count"] = "part_node_count"
            about = {"long_name": "nodes of each part"}
            add_columns(out, {"part_node_count": xr.Variable((_PART,), lengths, about)})
        if parts.kind == "polygon":
            attrs["interior_ring"] = "interior_ring"
            about = {"long_name": "1: a hole"}
            add_columns(out, {"interior_ring": xr.Variable((_PART,), np.zeros(len(lengths), np.int8), about)})
    add_columns(out, {_CONTAINER: xr.Variable((), 0, attrs)})
    return out


def _coordinate(shape: Shape, values: NDArray[Any], axis: int, dim: str, axes: tuple[int, ...]) -> xr.Variable:
    attrs: dict[str, Any] = {"axis": "XY"[axes.index(axis)]} if axis in axes else {}
    if shape.units[axis]:
        attrs["units"] = shape.units[axis]
    return xr.Variable((dim,), values, attrs)


def _along(dim: str, name: str | None, values: NDArray[Any]) -> xr.Variable:
    return xr.Variable((dim,), values, {"geometry": _CONTAINER} if dim == _GEOMETRY and name else {})


def _closed(rows: NDArray[np.int64], lengths: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Repeat the first corner of each polygon at its end: readers take rings as they are."""
    ends = np.cumsum(lengths)
    return np.insert(rows, ends, rows[ends - lengths]), lengths + 1
