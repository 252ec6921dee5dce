"""Ragged arrays with one row per object, for clouddrift and awkward."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.exports.front import add_columns, flat, library, numbers_of, source_attrs, time_axes
from dask_zv.write.path_input import row_order
from dask_zv.xarray_backend.content import Content, read_content, shape_of

if TYPE_CHECKING:
    import awkward as ak

_TIME = re.compile(r"(^|_)(t|times?|timestamp|date|datetime|epoch|hours?|days?|frame|step)($|_)", re.IGNORECASE)
"""Names of attributes that hold times."""


def to_clouddrift(ds: xr.Dataset, *, sort_by: str | None = None) -> xr.Dataset:
    """Return a Dataset for clouddrift, see :meth:`ZVDatasetAccessor.to_clouddrift`."""
    shape = shape_of(ds)
    if shape.view != "objects":
        raise InputError("objects are rows of ragged arrays in the objects view: open the store with view='objects'")
    content = _in_order(ds, read_content(ds), sort_by)
    rows: dict[str, Any] = {"id": content.ids, "rowsize": content.lengths}
    add_columns(rows, flat(ds, shape.object_attributes, content.object_attributes))
    table = {k: ("rows", v) for k, v in rows.items()}  # names along both dimensions differ
    obs = {a: content.positions[:, i] for i, a in enumerate(shape.axes)}
    add_columns(obs, flat(ds, shape.attributes, content.attributes))
    add_columns(table, {k: ("obs", v) for k, v in obs.items()})
    out = xr.Dataset(table, attrs=source_attrs(ds))
    for axis, unit in zip(shape.axes, shape.units, strict=True):
        if unit:
            out[axis].attrs["units"] = unit
    out["id"].attrs["long_name"] = "id of the object"
    out["rowsize"].attrs.update({"long_name": "vertices of each object", "sample_dimension": "obs"})
    return out.set_coords(["id", *sorted(time_axes(ds, shape))])


def _in_order(ds: xr.Dataset, content: Content, sort_by: str | None) -> Content:
    """Return the vertices of each object in track order."""
    shape = content.shape
    assert content.lengths is not None
    known = {a: content.positions[:, i] for i, a in enumerate(shape.axes)}
    known |= {n: content.attributes[k] for k, v in shape.attributes.items() for n in (k, v)}
    owners = np.repeat(np.arange(len(content.lengths)), content.lengths)
    if sort_by is None:
        if shape.geometry.is_points and len(np.unique(owners)) < len(owners):
            _check_time(known, time_axes(ds, shape), owners)
        return content
    if sort_by not in known:
        raise InputError(f"sort_by={sort_by!r} is not an axis or a vertex attribute; these are {', '.join(known)}")
    order = row_order(known[sort_by], owners, f"sort_by={sort_by!r}")
    attributes = {k: v[order] for k, v in content.attributes.items()}
    return replace(content, positions=content.positions[order], attributes=attributes)


def _check_time(known: dict[str, NDArray[Any]], axes: set[str], owners: NDArray[Any]) -> None:
    """Refuse objects whose points are not in order of time, by all axes and attributes that hold times."""
    times = {n: v for n, v in known.items() if n in axes or v.dtype.kind == "M" or (_TIME.search(n) and v.dtype.kind in "iuf")}
    same = owners[1:] == owners[:-1]
    if times and not any((t[1:] >= t[:-1])[same].all() for t in times.values() if t.ndim == 1):
        raise InputError(
            f"{next(iter(times))!r} is out of order: points are stored by chunk, not along a track. Name the axis or attribute "
            "that orders the points of each object with sort_by=, or write tracks with write_polylines(sort_by=...)"
        )


def to_awkward(ds: xr.Dataset) -> ak.Array:
    """Return an array of records, see :meth:`ZVDatasetAccessor.to_awkward`."""
    ak = library("awkward", "ragged")
    content = read_content(ds)
    shape = content.shape
    vertices: dict[str, Any] = {a: content.positions[:, i] for i, a in enumerate(shape.axes)}
    add_columns(vertices, {shape.attributes[k]: v for k, v in content.attributes.items()})
    if shape.view == "objects":
        lengths = content.lengths
        assert lengths is not None
        fields: dict[str, Any] = {"id": np.asarray(content.ids)}
        add_columns(fields, {shape.object_attributes[k]: v for k, v in content.object_attributes.items()})
        fields = {k: _held(ak, v) for k, v in fields.items()}
        if content.parents is not None:
            starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
            add_columns(vertices, {"parent": np.where(content.parents >= 0, content.parents - starts, -1)})
        add_columns(fields, {k: ak.unflatten(_held(ak, v), lengths) for k, v in vertices.items()})
    else:
        fields = {"vertex": numbers_of(ds)}
        add_columns(fields, vertices)
        if content.object_ids is not None:
            add_columns(fields, {"object_id": content.object_ids})
        fields = {k: _held(ak, v) for k, v in fields.items()}
    return ak.zip(fields, depth_limit=1)


def _held(ak: Any, values: NDArray[Any]) -> Any:
    """Return a column for awkward; strings one by one if some are missing."""
    if values.dtype.kind == "O":
        if not values.size:
            return ak.from_numpy(values.astype("U1"))  # from_iter cannot know that these are strings
        plain = values.copy()
        plain[np.asarray(pd.isnull(values), bool)] = None
        return ak.from_iter(plain.tolist())
    return ak.from_numpy(np.ascontiguousarray(values), regulararray=True)
