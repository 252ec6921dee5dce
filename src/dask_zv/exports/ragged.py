"""Ragged arrays: an object's vertices as one row, for clouddrift and awkward."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.exports.columns import add_columns, flat, numbers_of, object_table, time_axes
from dask_zv.exports.optional import library
from dask_zv.write.path_order import row_order
from dask_zv.xarray_backend.content import Content, read_content, shape_of

if TYPE_CHECKING:
    import awkward as ak


_TIME = re.compile(r"(^|_)(t|times?|timestamp|date|datetime|epoch|hours?|days?|frame|step)($|_)", re.IGNORECASE)
"""Names of attributes that tell the time."""


def to_clouddrift(ds: xr.Dataset, *, sort_by: str | None = None) -> xr.Dataset:
    """Return a Dataset that clouddrift works with, in memory; clouddrift itself is not needed for it.

    ``clouddrift.ragged.apply_ragged(func, [d.x, d.y], d.rowsize)`` and ``clouddrift.RaggedArray.from_xarray(d)`` take it.

    Parameters
    ----------
    ds : Dataset
        In the objects view.
    sort_by : str, optional
        Sort the vertices of each object by this axis or attribute. Points are kept by chunk, whatever their order was when they
        were written: they are no track before.

    Returns
    -------
    Dataset
        Along ``rows``: coordinate ``id``, ``rowsize`` and attributes of objects. Along ``obs``: axes (one of time as a
        coordinate) and attributes of vertices. Attributes of several channels are a variable each.

    Raises
    ------
    InputError
        The Dataset is in the spatial view, or two variables would have the same name; or the points of an object are in no
        order of time, and there is no `sort_by`.
    """
    content = _in_order(ds, _by_object(ds), sort_by)
    assert content.ids is not None
    rows: dict[str, NDArray[Any]] = {"id": content.ids, "rowsize": np.asarray(content.lengths)}
    add_columns(rows, object_table(ds, content))
    table = dict(rows)  # names along both dimensions are distinct
    obs = {a: content.positions[:, i] for i, a in enumerate(content.shape.axes)}
    add_columns(obs, flat(ds, content.shape.attributes, content.attributes))
    add_columns(table, obs)
    out = xr.Dataset(
        {k: (("rows",) if k in rows else ("obs",), v) for k, v in table.items()},
        attrs={k: ds.attrs[k] for k in ("zv_url", "zv_level") if k in ds.attrs},
    )
    for axis, unit in zip(content.shape.axes, content.shape.units, strict=True):
        if unit:
            out[axis].attrs["units"] = unit
    out["id"].attrs["long_name"] = "id of the object"
    out["rowsize"].attrs.update({"long_name": "vertices of each object", "sample_dimension": "obs"})
    return out.set_coords(["id", *sorted(time_axes(ds, content.shape))])


def to_awkward(ds: xr.Dataset) -> ak.Array:
    """Return an array of records.

    Parameters
    ----------
    ds : Dataset

    Returns
    -------
    awkward.Array
        In the objects view a record per object: ``id``, attributes of the object, and axes and attributes of its vertices as
        lists; ``parent`` of skeletons is the place in the same list, -1 at roots. In the spatial view a record per vertex:
        ``vertex`` (its number), axes, attributes, ``object_id``. Attributes of several channels are lists of a fixed length;
        a string that is missing is None.

    Raises
    ------
    InputError
        Two fields would have the same name, or the Dataset's rows and counts are not in step.
    ImportError
        awkward is not installed.
    """
    ak = library("awkward", "ragged")
    content = read_content(ds)
    shape = content.shape
    vertices: dict[str, NDArray[Any]] = {a: content.positions[:, i] for i, a in enumerate(shape.axes)}
    add_columns(vertices, {shape.attributes[k]: v for k, v in content.attributes.items()})
    fields: dict[str, Any] = {}
    if shape.view == "objects":
        assert content.lengths is not None
        add_columns(fields, {"id": np.asarray(content.ids)})
        add_columns(fields, {shape.object_attributes[k]: v for k, v in content.object_attributes.items()})
        fields = {k: _held(ak, v) for k, v in fields.items()}
        if content.parents is not None:
            starts = np.repeat(np.cumsum(content.lengths) - content.lengths, content.lengths)
            add_columns(vertices, {"parent": np.where(content.parents >= 0, content.parents - starts, -1)})
        add_columns(fields, {k: ak.unflatten(_held(ak, v), content.lengths) for k, v in vertices.items()})
    else:
        add_columns(fields, {"vertex": numbers_of(ds)})
        add_columns(fields, vertices)
        if content.object_ids is not None:
            add_columns(fields, {"object_id": content.object_ids})
        fields = {k: _held(ak, v) for k, v in fields.items()}
    return ak.zip(fields, depth_limit=1)


def _by_object(ds: xr.Dataset) -> Content:
    shape = shape_of(ds)
    if shape.view != "objects":
        raise InputError("objects are rows of ragged arrays in the objects view: open the store with view='objects'")
    return read_content(ds)


def _in_order(ds: xr.Dataset, content: Content, sort_by: str | None) -> Content:
    """Return the vertices of each object in an order that makes a track of them."""
    shape = content.shape
    known = {a: content.positions[:, i] for i, a in enumerate(shape.axes)}
    known |= {n: content.attributes[k] for k, v in shape.attributes.items() for n in (k, v)}
    owners = np.repeat(np.arange(len(content.lengths)), content.lengths) if content.lengths is not None else np.zeros(0, int)
    if sort_by is None:
        if shape.kind == "point_cloud" and len(np.unique(owners)) < len(owners):
            _check_time(known, time_axes(ds, shape), owners)
        return content
    if sort_by not in known:
        raise InputError(f"sort_by={sort_by!r} is no axis or attribute of vertices: these are {', '.join(known)}")
    order = row_order(known[sort_by], owners, f"sort_by={sort_by!r}")
    attributes = {k: v[order] for k, v in content.attributes.items()}
    return replace(content, positions=content.positions[order], attributes=attributes)


def _check_time(known: dict[str, NDArray[Any]], axes: set[str], owners: NDArray[Any]) -> None:
    """Refuse points of an object that are in no order of time, by all that tells of it."""
    times = {n: v for n, v in known.items() if n in axes or v.dtype.kind == "M" or (_TIME.search(n) and v.dtype.kind in "iuf")}
    same = owners[1:] == owners[:-1]
    if times and not any((t[1:] >= t[:-1])[same].all() for t in times.values() if t.ndim == 1):
        raise InputError(
            f"{next(iter(times))!r} is out of order: points are kept by chunk, which makes no track. sort_by= names the axis "
            "or attribute that orders those of each object; tracks are written with write_polylines(sort_by=...)"
        )


def _held(ak: Any, values: NDArray[Any]) -> Any:
    """Return a column as awkward holds it: strings one by one where some are missing."""
    if values.dtype.kind == "O":
        if not values.size:
            return ak.from_numpy(values.astype("U1"))  # nothing tells from_iter that these are strings
        plain = values.copy()
        plain[np.asarray(pd.isnull(values), bool)] = None
        return ak.from_iter(plain.tolist())
    return ak.from_numpy(np.ascontiguousarray(values), regulararray=True)
