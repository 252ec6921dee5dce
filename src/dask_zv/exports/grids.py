"""Unstructured grids of uxarray: surfaces on the globe, in longitude and latitude."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from dask_zv.errors import InputError
from dask_zv.exports.columns import add_columns, flat
from dask_zv.exports.meshes import check_mesh
from dask_zv.exports.optional import library
from dask_zv.exports.parts import chosen_dims, faces_of
from dask_zv.exports.reference import STORES, reference_system
from dask_zv.xarray_backend.content import Shape, read_content, shape_of

if TYPE_CHECKING:
    from uxarray import UxDataset


_DEGREES = ("degree", "degrees", "deg", "degree_east", "degrees_east", "degree_north", "degrees_north")


def to_uxarray(ds: xr.Dataset, dims: Sequence[str] | None = None) -> UxDataset:
    """Return a mesh on the globe as a grid with its data; ``.uxgrid`` is the Grid.

    Parameters
    ----------
    ds : Dataset
        Of a mesh, in the spatial view, whose coordinates are degrees of longitude and latitude, in this order: the store's
        reference system is geographic, or both axes have the unit degree.
    dims : sequence of str, optional
        The axes of longitude and latitude. Then nothing else has to say that they are.

    Returns
    -------
    uxarray.UxDataset
        Attributes of vertices along ``n_node``, of faces along ``n_face``, both in the order of the Dataset.

    Raises
    ------
    InputError
        The Dataset is no mesh, or in the objects view; it has not 2 axes, nothing says that they are degrees, or their values
        are not.
    ImportError
        uxarray is not installed.
    """
    ux = library("uxarray", "uxarray")
    shape = shape_of(ds)
    if shape.kind in ("skeleton", "graph"):
        raise InputError(f"uxarray has surfaces alone, and a {shape.kind} is a network of edges: use ds.zv.to_networkx()")
    check_mesh(shape)
    if dims is None and len(shape.axes) != 2:
        raise InputError(
            f"uxarray has surfaces of longitude and latitude alone, the Dataset has {len(shape.axes)} axes: name two, "
            f"such as dims={shape.axes[:2]!r}, or use ds.zv.to_trimesh()"
        )
    lon, lat = chosen_dims(shape, dims, 2)
    if dims is None and not _is_geographic(shape):
        raise InputError(
            "nothing says that the axes are degrees of longitude and latitude (a geographic reference system, or the unit "
            f"degree): if they are, dims={shape.axes!r}"
        )
    content = read_content(ds)
    longitude, latitude = (content.positions[:, i].astype(np.float64) for i in (lon, lat))
    if not ((np.abs(latitude) <= 90).all() and (longitude >= -180).all() and (longitude <= 360).all()):
        raise InputError(
            f"{shape.axes[lon]} and {shape.axes[lat]} are not degrees of longitude (-180 to 360) and latitude (-90 to 90)"
        )
    grid = ux.Grid.from_topology(
        node_lon=longitude, node_lat=latitude, face_node_connectivity=faces_of(content), fill_value=-1, start_index=0
    )
    table: dict[str, Any] = {}
    add_columns(table, {k: xr.Variable(("n_node",), v) for k, v in flat(ds, shape.attributes, content.attributes).items()})
    if content.object_ids is not None:
        add_columns(table, {"object_id": xr.Variable(("n_node",), content.object_ids)})
    about = flat(ds, shape.face_attributes, content.face_attributes)
    add_columns(table, {k: xr.Variable(("n_face",), v) for k, v in about.items()})
    attrs = {k: ds.attrs[k] for k in ("zv_url", "zv_level") if k in ds.attrs}
    made: UxDataset = ux.UxDataset(table, attrs=attrs, uxgrid=grid)
    return made


def _is_geographic(shape: Shape) -> bool:
    if all((u or "").lower() in _DEGREES for u in shape.units):
        return True
    reference = reference_system(shape, STORES, "uxarray")
    return reference is not None and reference.is_geographic
