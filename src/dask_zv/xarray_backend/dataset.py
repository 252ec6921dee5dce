"""A level as a Dataset: names, dimensions, attributes, chunks."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr
from xarray.core.indexing import LazilyIndexedArray

from dask_zv.errors import InputError
from dask_zv.geometry.schema import AttributeSchema
from dask_zv.pipelines.source.columns import LevelRows
from dask_zv.pipelines.source.level_io import ChunkTable
from dask_zv.pipelines.stores.store import Level
from dask_zv.xarray_backend.arrays import ColumnArray, StatefulVariable
from dask_zv.xarray_backend.index import RowIndex

__all__ = ["level_dataset"]

_CHUNK_ROWS = 500_000
_CHUNK_CHUNKS = 4096
_CF_AXIS = {"x": "X", "y": "Y", "z": "Z", "t": "T", "time": "T"}


def level_dataset(level: Level, drop_variables: Iterable[str] = ()) -> xr.Dataset:
    """Return a level's vertices as a lazy Dataset.

    Parameters
    ----------
    level : Level
    drop_variables : iterable of str
        Variables to leave out.

    Raises
    ------
    InputError
        An attribute has the name of an axis, or of something else in the Dataset.
    """
    source, table = level.source, level.chunks
    rows = LevelRows(source, table)
    n = len(rows)
    chunks = _merged_chunks(table)
    axes = level.store.metadata.axes
    dropped = set(drop_variables)

    def variable(
        name: str | int, dims: tuple[str, ...], shape: tuple[int, ...], dtype: np.dtype[Any], attrs: dict[str, Any]
    ) -> xr.Variable:
        preferred: dict[str, Any] = {"vertex": chunks}
        if len(dims) > 1:
            preferred[dims[1]] = shape[1]
        data = LazilyIndexedArray(ColumnArray(rows, name, shape, dtype))
        return StatefulVariable(dims, data, attrs, {"preferred_chunks": preferred})

    taken = {a.name for a in axes} | {"vertex", "object_id"}
    coords: dict[Any, xr.Variable] = {}
    for number, axis in enumerate(axes):
        attrs: dict[str, Any] = {"long_name": f"{axis.name} position"}
        if axis.unit:
            attrs["units"] = axis.unit
        if axis.name.lower() in _CF_AXIS:
            attrs["axis"] = _CF_AXIS[axis.name.lower()]
        coords[axis.name] = variable(number, ("vertex",), (n,), source.schema.dtype, attrs)
    data: dict[Any, xr.Variable] = {}
    for attribute in source.schema.attributes:
        if attribute.name in taken:
            raise InputError(
                f"attribute {attribute.name!r} has the name of an axis or of the object ids: leave it out with "
                f"drop_variables=[{attribute.name!r}]"
            )
        if attribute.name in dropped:
            continue
        dims: tuple[str, ...] = ("vertex",)
        shape: tuple[int, ...] = (n,)
        if attribute.channels is not None:
            dims, shape = (*dims, f"{attribute.name}_channel"), (n, attribute.channels)
            names = attribute.channel_names or tuple(f"ch{i}" for i in range(attribute.channels))
            coords[dims[1]] = xr.Variable(dims[1:], np.asarray(names))
        data[attribute.name] = variable(attribute.name, dims, shape, attribute.value_dtype, _attribute_attrs(attribute))
    if source.chunk_attribute is not None:
        name = source.chunk_attribute[0]
        values = np.asarray(source.chunk_attribute[1])
        data[name] = variable(name, ("vertex",), (n,), values.dtype, {"long_name": f"{name} (part of the chunk key)"})
    if source.schema.has_objects:
        attrs = {
            "long_name": "object of each vertex",
            "instance_dimension": "object",
            "comment": "-1: of none, -2: shared",
        }
        data["object_id"] = variable("object_id", ("vertex",), (n,), np.dtype(np.int64), attrs)
    # coordinates as data first: assign_coords would make plain Variables of them
    ds = xr.Dataset({k: v for k, v in {**data, **coords}.items() if k not in dropped}, attrs=_dataset_attrs(level))
    index = RowIndex(rows, 0, n)
    row_numbers = xr.Coordinates(index.create_variables(), indexes={"vertex": index})
    return ds.set_coords([k for k in coords if k not in dropped]).assign_coords(row_numbers)


def _attribute_attrs(attribute: AttributeSchema) -> dict[str, Any]:
    if attribute.dictionary is None:
        return {}
    return {"categories": [str(c) for c in attribute.dictionary.categories]}


def _merged_chunks(table: ChunkTable) -> tuple[int, ...]:
    """Return row counts of runs of chunks that make tasks worth their cost."""
    merged: list[int] = []
    rows = chunks = 0
    for n in table.rows.tolist():
        if chunks and (rows + n > _CHUNK_ROWS or chunks >= _CHUNK_CHUNKS):
            merged.append(rows)
            rows = chunks = 0
        rows += n
        chunks += 1
    return (*merged, rows) if rows or not merged else tuple(merged)


def _dataset_attrs(level: Level) -> dict[str, Any]:
    """Return store and level metadata as netCDF can hold it: strings, numbers and flat lists."""
    metadata = level.store.metadata
    attrs: dict[str, Any] = {
        "zv_url": level.store.url,
        "zv_version": metadata.zv_version,
        "zv_level": level.number,
        "zv_axes": list(level.store.axes),
        "geometry_types": list(metadata.geometry_types),
        "vertex_count": level.metadata.vertex_count,
        "chunk_shape": list(level.source.schema.grid.chunk_shape),
        "bin_shape": list(metadata.bin_shape),
        "bounds_min": list(metadata.bounds[0]),
        "bounds_max": list(metadata.bounds[1]),
        "zarr_vectors": json.dumps(metadata.to_attributes()["zarr_vectors"]),
        "zarr_vectors_level": json.dumps(level.metadata.to_attributes()["zarr_vectors_level"]),
    }
    if metadata.crs is not None:
        attrs["crs"] = json.dumps(metadata.crs)
    return attrs
