"""Attributes of objects and groups, of both layouts; in the layout ``per_chunk`` they are blobs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError, MetadataError
from dask_zv.format.documents import parse_document
from dask_zv.format.groups import decode_groups, names_of_groups
from dask_zv.format.keys import DOCUMENT, join
from dask_zv.geometry.schema import VALUE_KINDS, parse_dtype, readable
from dask_zv.level.object_index import ObjectIndex
from dask_zv.level.object_tables import ObjectTables, read_attribute_tables
from dask_zv.level.source import LevelSource
from dask_zv.storage.handles import open_objects
from dask_zv.storage.per_chunk.read import PerChunk


def read_object_attributes(
    source: LevelSource, index: ObjectIndex, rows: NDArray[np.int64] | None = None, name: str | None = None
) -> dict[str, NDArray[Any]]:
    """Return the object attributes, row = row of the index (see :meth:`ObjectIndex.rows`); masked where objects have none.

    Parameters
    ----------
    source : LevelSource
    index : ObjectIndex
    rows : ndarray of int64, optional
        Only these rows of the index, in their order.
    name : str, optional
        Only this attribute.

    Raises
    ------
    FormatError
        An attribute's rows fit neither the objects nor those with vertices.
    """
    if source.place.layout == "grid":
        return read_attribute_tables(index.tables, index.count, rows, name)
    values = _plain_arrays(source, "object_attributes", index.count, index, name)
    return values if rows is None else {name: v[rows] for name, v in values.items()}


def read_groups(
    source: LevelSource, tables: ObjectTables | None = None
) -> tuple[dict[int, NDArray[np.int64]], dict[str, NDArray[Any]]]:
    """Return the members of each group, and the group attributes (row = group)."""
    if source.place.layout == "grid":
        return (tables or ObjectTables(source)).groups
    objects = open_objects(source.place.handle)
    blobs = PerChunk(objects, source.place.prefix)
    path = join(source.place.prefix, "groups")
    document = objects.get(join(path, DOCUMENT))
    if document is None and not objects.list_dir(path):
        return {}, {}
    attributes = parse_document(document, path, objects.url).get("attributes", {}) if document else {}
    number = attributes.get("num_groups")
    if number == 0:
        return {}, {}
    members = decode_groups(blobs.read("groups", "data"), blobs.read("groups", "offsets"))
    if number is not None and number != len(members):
        raise FormatError(f"{len(members)} groups are stored, the metadata counts {number!r}", store=objects.url, array=path)
    groups = dict(enumerate(np.asarray(m, np.int64) for m in members))
    about = _plain_arrays(source, "group_attributes", len(groups), None)
    return groups, {**names_of_groups(attributes, len(groups)), **about}


def parse_shape(attributes: Mapping[str, Any], store: str, path: str) -> tuple[int, ...]:
    """Return the shape of a table of layout ``per_chunk``, -1 for as many rows as it has.

    Raises
    ------
    MetadataError
        The metadata says something else.
    """
    shape = attributes.get("shape", [-1])
    whole = isinstance(shape, list) and shape and all(type(n) is int and abs(n) < 1 << 53 for n in shape)
    if not whole or any(n < 1 for n in shape[1:]):
        raise MetadataError(f"the shape is {shape!r:.80}: a list of extents is wanted", store=store, array=path)
    return tuple(shape)


def _plain_arrays(
    source: LevelSource, family: str, count: int, index: ObjectIndex | None, only: str | None = None
) -> dict[str, NDArray[Any]]:
    objects = open_objects(source.place.handle)
    blobs = PerChunk(objects, source.place.prefix)
    out: dict[str, NDArray[Any]] = {}
    for name in objects.list_dir(join(source.place.prefix, family)):
        if name == DOCUMENT or only not in (None, name):
            continue
        array = f"{family}/{name}"
        path = join(source.place.prefix, array)
        document = objects.get(join(path, DOCUMENT))
        attrs = parse_document(document, path, objects.url).get("attributes", {}) if document else {}
        what = f"{family} {name!r}"
        dtype = _dtype(attrs, what) if only else readable(partial(_dtype, attrs, what), source.where())
        if dtype is None:
            continue
        data = blobs.read(array, "data")
        shape = parse_shape(attrs, objects.url, path)
        try:
            values = np.frombuffer(data, dtype).reshape(shape)
        except (ValueError, TypeError) as error:
            raise FormatError(f"{len(data)} bytes are no {shape} of {dtype}", store=objects.url, array=path) from error
        if attrs.get("has_present_mask"):
            present = np.frombuffer(blobs.read(array, "present_mask"), np.uint8).astype(bool)
            if len(present) != len(values):
                raise FormatError(f"{len(present)} presence flags for {len(values)} rows", store=objects.url, array=path)
            values = np.ma.MaskedArray(values, np.broadcast_to(~present.reshape(-1, *[1] * (values.ndim - 1)), values.shape))
        if len(values) != count:
            values = _align(values, count, index, objects.url, path)
        out[name] = values
    return out


def _dtype(attributes: Mapping[str, Any], what: str) -> np.dtype[Any]:
    return parse_dtype(attributes.get("dtype"), what, VALUE_KINDS)


def _align(values: NDArray[Any], count: int, index: ObjectIndex | None, store: str, path: str) -> NDArray[Any]:
    """Place rows that were written for the objects with vertices only (a known way of the 0.2 writer) by their ids."""
    present: NDArray[np.int64] = np.zeros(0, np.int64)
    if index is not None:
        present = np.unique(np.concatenate([np.unique(t.objects) for t in index.slices()] or [present]))
    if len(values) != len(present):
        raise FormatError(
            f"{len(values)} rows for {count} objects: which rows are whose can't be told", store=store, array=path
        )
    full = np.ma.MaskedArray(np.zeros((count, *values.shape[1:]), values.dtype), True)
    full[present] = values
    return full
