"""Geometries of shapely, alone and in tables of geopandas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.exports.frames import object_frame, to_dataframe
from dask_zv.exports.optional import library
from dask_zv.exports.parts import Parts, chosen_dims, parts_of
from dask_zv.exports.reference import STORES, reference_system
from dask_zv.xarray_backend.content import Content, Shape, read_content, shape_of

if TYPE_CHECKING:
    from geopandas import GeoDataFrame


def to_shapely(ds: xr.Dataset, dims: Sequence[str] | None = None) -> NDArray[np.object_]:
    """Return geometries of shapely.

    Points give a Point per vertex. All others give one geometry per object, in the order of ``ds.object``, and a single one for
    everything where there are no objects: a LineString of a line, polyline or streamline; a MultiLineString of a skeleton or
    graph, each edge a line; a MultiPolygon of a mesh, each face a polygon. None stands for an object that has nothing to draw:
    a path of fewer than 2 vertices, a tree or graph without edges, a mesh without faces.

    Parameters
    ----------
    ds : Dataset
        Paths in the objects view, graphs and meshes in the spatial view, others in either.
    dims : sequence of str, optional
        Two or three axes, in the order x, y, z of the geometries. All axes where None.

    Returns
    -------
    ndarray of object

    Raises
    ------
    InputError
        The view doesn't hold what is needed, `dims` are not 2 or 3 axes, or links join different objects.
    ImportError
        shapely is not installed.
    """
    axes = list(chosen_dims(shape_of(ds), dims, 3))
    content = read_content(ds, attributes=False)
    return _geometries(content, parts_of(content), axes)


def to_geodataframe(ds: xr.Dataset, dims: Sequence[str] | None = None, *, crs: Any = STORES) -> GeoDataFrame:
    """Return a table of geometries, those of :func:`to_shapely`.

    Parameters
    ----------
    ds : Dataset
    dims : sequence of str, optional
        As for :func:`to_shapely`: ``dims=("x", "y")`` makes 2-D geometries of a 3-D store.
    crs : optional
        Reference system of the geometries: the store's own by default, None for none, or whatever pyproj takes.

    Returns
    -------
    GeoDataFrame
        Points: a row per vertex, the index its number; columns are attributes, a column per channel, and ``object_id``. Others:
        a row per object, the index its id; columns are attributes of objects, and ``geometry``.

    Raises
    ------
    InputError
        As for :func:`to_shapely`; or pyproj does not understand the store's reference system.
    ImportError
        geopandas is not installed.
    """
    geopandas = library("geopandas", "geo")
    shape = shape_of(ds)
    axes = list(chosen_dims(shape, dims, 3))
    reference = reference_system(shape, crs, "geo")
    if shape.kind == "point_cloud":
        table = to_dataframe(ds)
        shapes = library("shapely", "geo").points(table[list(shape.axes)].to_numpy(np.float64)[:, axes])
        frame = table.drop(columns=list(shape.axes))
    else:
        content = read_content(ds, attributes=False)
        parts = parts_of(content)
        shapes = _geometries(content, parts, axes)
        frame = _about(ds, shape, parts)
    if "geometry" in frame.columns:
        raise InputError("an attribute has the name 'geometry', as the column of geometries has: rename it, ds.rename(...)")
    found: GeoDataFrame = geopandas.GeoDataFrame(frame, geometry=shapes, crs=reference)
    return found


def _about(ds: xr.Dataset, shape: Shape, parts: Parts) -> pd.DataFrame:
    """Return a row for each geometry: with the attributes of its object, where there are objects and the Dataset names them."""
    if parts.ids is None:
        return pd.DataFrame(index=pd.RangeIndex(len(parts)))
    if shape.view == "objects" or "object" in ds.variables:
        return object_frame(ds)
    return pd.DataFrame(index=pd.Index(parts.ids, name="object"))


def _geometries(content: Content, parts: Parts, axes: list[int]) -> NDArray[np.object_]:
    shapely = library("shapely", "geo")
    positions = content.positions[:, axes].astype(np.float64)
    out = np.empty(len(parts), object)
    if parts.kind == "point":
        out[:] = shapely.points(positions)
        return out
    drawn = np.flatnonzero(parts.counts)
    part = np.repeat(np.arange(len(parts.part_lengths)), parts.part_lengths)
    make = shapely.linestrings if parts.kind == "line" else shapely.linearrings
    single = make(positions[parts.rows], indices=part) if len(part) else np.zeros(0, object)
    if content.shape.is_path:
        out[drawn] = single
        return out
    owner = np.repeat(np.arange(len(drawn)), parts.counts[drawn])
    if parts.kind == "polygon":
        out[drawn] = shapely.multipolygons(shapely.polygons(single), indices=owner) if len(owner) else []
    else:
        out[drawn] = shapely.multilinestrings(single, indices=owner) if len(owner) else []
    return out
