"""Variables as flat columns, and which object each vertex is of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.xarray_backend.content import Content, Shape


def column_names(ds: xr.Dataset, variable: str) -> list[str]:
    """Return the names of a variable's columns: its own, or one for each channel, such as ``colour_r``."""
    found = ds.variables[variable]
    if found.ndim == 1:
        return [variable]
    if found.ndim > 2:
        raise InputError(
            f"{variable!r} has {found.ndim} dimensions, which is no table: leave it out with drop_vars({variable!r})"
        )
    dim = found.dims[1]
    labels = ds.variables[dim].values.tolist() if dim in ds.variables else range(found.shape[1])
    return [f"{variable}_{label}" for label in labels]


def split(columns: list[str], values: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return the columns of an array, by their names."""
    return {columns[0]: values} if values.ndim == 1 else {name: values[:, i] for i, name in enumerate(columns)}


def add_columns(table: dict[str, Any], new: Mapping[str, Any]) -> None:
    """Add columns to a table.

    Raises
    ------
    InputError
        One of the name is there already.
    """
    for name, values in new.items():
        if name in table:
            raise InputError(f"two columns would have the name {name!r}: rename one, ds.rename({{{name!r}: ...}})")
        table[name] = values


def flat(ds: xr.Dataset, variables: Mapping[str, str], values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return attributes as flat columns with the names that they have in the Dataset.

    Parameters
    ----------
    ds : Dataset
    variables : mapping of str to str
        Of a :class:`Shape`: variable of each attribute.
    values : mapping of str to ndarray
        Of a :class:`Content`.
    """
    out: dict[str, NDArray[Any]] = {}
    for name, column in values.items():
        add_columns(out, split(column_names(ds, variables[name]), column))
    return out


def numbers_of(ds: xr.Dataset) -> NDArray[np.int64]:
    """Return the numbers of the vertices: they stay the same in a selection."""
    return np.asarray(ds["vertex"].values if "vertex" in ds.variables else np.arange(ds.sizes["vertex"]))


def object_table(ds: xr.Dataset, content: Content) -> dict[str, NDArray[Any]]:
    """Return the attributes of objects as flat columns, in the order of ``object``."""
    return flat(ds, content.shape.object_attributes, content.object_attributes)


def places_of_objects(content: Content) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Return the ids of the objects, and the place among them of each vertex' object.

    Returns
    -------
    ids : ndarray of int64, shape (P,)
        Along ``object``, as the Dataset has them.
    places : ndarray of int64, shape (N,)
        -1 for vertices of no object, and of several.
    or None, where the Dataset knows of no objects.
    """
    if content.ids is not None and content.lengths is not None:
        return content.ids, np.repeat(np.arange(len(content.ids)), content.lengths)
    if content.object_ids is None:
        return None
    owners = content.object_ids
    ids = np.unique(owners[owners >= 0]) if content.object_index is None else content.object_index
    return ids, places_among(ids, owners)


def places_among(ids: NDArray[np.int64], owners: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each of some objects is among others, -1 where it is not."""
    if not len(ids):
        return np.full(owners.shape, -1, np.int64)
    order = np.argsort(ids, kind="stable")
    at = order[np.minimum(np.searchsorted(ids, owners, sorter=order), len(ids) - 1)]
    return np.where(ids[at] == owners, at, -1)


def time_axes(ds: xr.Dataset, shape: Shape) -> set[str]:
    """Return the axes that are time."""
    return {a for a in shape.axes if ds[a].attrs.get("axis") == "T"}
