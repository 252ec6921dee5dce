"""``view="objects"``: each object's vertices together and in the order of its path; CF contiguous ragged arrays."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.read.columns import LevelRows
from dask_zv.read.object_columns import GROUPS, ObjectColumns, array_state, object_fields
from dask_zv.read.object_rows import PARENT, ObjectRows, object_lengths
from dask_zv.store.level import Level
from dask_zv.xarray_backend import conventions as names
from dask_zv.xarray_backend.arrays import lazy_variable
from dask_zv.xarray_backend.object_index import ObjectIdIndex
from dask_zv.xarray_backend.spatial import merged_runs, object_attributes, vertex_attributes
from dask_zv.xarray_backend.step_index import in_step

_PATHS = ("line", "polyline", "streamline")


def objects_dataset(level: Level, dropped: Collection[str] = ()) -> xr.Dataset:
    """Return a level as a lazy Dataset in the order of its objects.

    Parameters
    ----------
    level : Level
    dropped : collection of str
        Variables to leave out.

    Raises
    ------
    InputError
        The level has no objects, or an attribute has the name of something else in the Dataset.
    """
    if not level.source.schema.has_objects:
        raise InputError(f"{level.url} has no objects: open it with view='spatial'")
    lengths = object_lengths(level.source, level.chunks, level.index)
    trees = level.kind == "skeleton"
    links = level.found_links(0) if trees else None
    rows = ObjectRows(
        LevelRows(level.source, level.chunks, level.offset),
        lengths,
        links,
        chunked=level.is_chunked_skeleton,
        implied=level.has_implied_edges,
    )
    cells, edges = merged_runs(lengths.lengths)
    chunks, object_chunks = tuple(np.diff(edges).tolist()), tuple(np.diff(cells).tolist())
    n, count = int(edges[-1]), len(lengths)
    crs = level.store.metadata.crs
    paths = level.kind in _PATHS
    coords = {
        axis.name: lazy_variable(
            ("vertex",), rows, i, (n,), rows.vertices.dtype, names.axis_attrs(axis, crs is not None, level), chunks
        )
        for i, axis in enumerate(level.store.metadata.axes)
    }
    taken = {
        "vertex",
        "object",
        "vertex_end",
        names.COUNT,
        names.RANGE,
        *([names.PARENT] if trees else []),
        *([names.CONTAINER] if paths else []),
    }
    taken |= {names.CRS} if crs is not None else set()
    groups = level.index.tables.groups
    taken |= {"group", names.IN_GROUP} if groups[0] else set()
    names.check_names(taken, dict.fromkeys(coords, "the axis"))
    taken |= {*coords}
    data, more = vertex_attributes(level, rows, n, chunks, dropped, taken)
    for variable in data.values():  # a container is claimed of what lies along objects, and the topology is not in this view
        for key in ("mesh", "location"):
            variable.attrs.pop(key, None)
    about = {"long_name": "vertices of each object", "sample_dimension": "vertex"}
    data[names.COUNT] = xr.Variable(("object",), lengths.lengths, about, {"preferred_chunks": {"object": object_chunks}})
    if trees:
        parent = {"long_name": "number of the vertex' parent in this view", "comment": "-1: a root", "valid_min": 0}
        parent["zv_role"] = names.PARENT
        data[names.PARENT] = lazy_variable(("vertex",), rows, PARENT, (n,), np.dtype(np.int64), parent, chunks)
    columns = ObjectColumns(level.source, object_fields(level.index), 0, level.index)
    data |= object_attributes(level, columns, count, object_chunks, {*taken, *data, *more}, dropped)
    data |= _groups(level, columns, count, object_chunks, {*taken, *data, *more}, *groups)
    if paths:
        data[names.CONTAINER] = _container(level, data)
    if crs is not None:
        data[names.CRS] = names.grid_mapping(crs)
    more |= {k: v for k, v in data.items() if k in taken}  # how the rest belongs together: no data
    kept = {k: v for k, v in {**data, **coords, **more}.items() if k not in dropped}
    ds = xr.Dataset(kept, attrs=names.dataset_attrs(level, "objects"))
    ds = ds.set_coords([k for k in {**coords, **more} if k in kept])
    ds = ds.assign_coords(
        vertex=xr.IndexVariable("vertex", pd.RangeIndex(n), {"long_name": "row number in this view", "zv_role": "vertex"})
    )
    index = ObjectIdIndex(rows, lengths.ids)
    ds = ds.assign_coords(xr.Coordinates(index.create_variables(), indexes={"object": index}))
    return in_step(ds, lengths.lengths)


def _container(level: Level, data: dict[str, xr.Variable]) -> xr.Variable:
    """Return the CF geometry container of lines, and name it in the variables of objects."""
    axes = level.store.axes
    attrs: dict[str, Any] = {
        "geometry_type": "line",
        "node_count": names.COUNT,
        "node_coordinates": names.node_coordinates(axes),
    }
    if level.store.metadata.crs is not None:
        attrs["grid_mapping"] = names.CRS
    for name, variable in data.items():
        if variable.dims[:1] == ("object",) and name != names.COUNT:
            variable.attrs["geometry"] = names.CONTAINER
    return xr.Variable((), 0, attrs)


def _groups(
    level: Level,
    columns: ObjectColumns,
    count: int,
    chunks: tuple[int, ...],
    taken: Collection[str],
    groups: Mapping[int, Any],
    attributes: Mapping[str, NDArray[Any]],
) -> dict[str, xr.Variable]:
    """Return which groups each object is in, and the attributes of the groups."""
    if not groups:
        return {}
    columns.group_count = max(groups) + 1
    columns.group_state = array_state(level.index.tables, "groups")
    about = {"long_name": "object is in the group", "zv_role": names.IN_GROUP}
    shape = (count, columns.group_count)
    out = {"in_group": lazy_variable(("object", "group"), columns, GROUPS, shape, np.dtype(bool), about, chunks)}
    out["group"] = xr.Variable(
        ("group",), np.arange(columns.group_count), {"long_name": "number of the group", "zv_role": "group"}
    )
    for name, values in attributes.items():
        shown, own = names.free_name(name, "group", {*taken, *out})
        attrs = {**names.described(level, "group", name), **own}
        plain = np.ma.filled(values)
        out[shown] = xr.Variable(("group", *(f"{shown}_{i}" for i in range(plain.ndim - 1))), plain, attrs)
    return out
