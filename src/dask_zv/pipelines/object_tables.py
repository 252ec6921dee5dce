"""The tables about objects in the grid generation: ids, attributes and groups are ordinary Zarr arrays, row by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import zarr
from numpy.typing import NDArray

from dask_zv.errors import FormatError, StoreError, ZVError
from dask_zv.format.documents import parse_document
from dask_zv.format.groups import decode_group_elements
from dask_zv.format.keys import DOCUMENT
from dask_zv.pipelines.level_io import MANIFESTS_CRC32C, LevelSource
from dask_zv.storage.blobs import open_zarr_array
from dask_zv.storage.handles import open_objects
from dask_zv.storage.objects import join

__all__ = ["decoding", "open_table", "read_attribute_tables", "read_group_tables", "read_id_table"]

_ZARR_ERRORS = (ValueError, TypeError, KeyError, RuntimeError, OSError, NotImplementedError, OverflowError)
"""What zarr and its codecs raise over chunks that they can't make sense of."""

T = TypeVar("T")


def decoding(source: LevelSource, array: str, read: Callable[[], T]) -> T:
    """Return what `read` gets of an array through zarr.

    Raises
    ------
    FormatError
        zarr or a codec of it can't make sense of a chunk.
    """
    try:
        return read()
    except ZVError:
        raise
    except _ZARR_ERRORS as error:
        raise FormatError(f"'{array}' can't be decoded: {error}", store=source.where(), array=array) from error


def open_table(source: LevelSource, array: str) -> zarr.Array[Any]:
    """Return a level's array through zarr."""
    return open_zarr_array(open_objects(source.place.handle), join(source.place.prefix, array))


def read_id_table(source: LevelSource, count: int) -> NDArray[np.int64]:
    """Return the id of each row of the manifests.

    Raises
    ------
    FormatError
        The table does not have `count` distinct ids from 0 on.
    """
    array = "object_index/object_ids"
    table = open_table(source, array)
    if table.shape != (count,) or table.dtype.kind not in "iu":
        raise FormatError(
            f"object_ids is {table.dtype} {table.shape}, object_index counts {count} objects", store=source.where(), array=array
        )
    ids = decoding(source, array, lambda: np.asarray(table[:])).astype(np.int64)
    if (ids < 0).any():  # ours are filled with -1, so that a chunk that was lost isn't taken for ids
        bad = int(np.argmax(ids < 0))
        raise FormatError(
            f"row {bad} of object_ids is {ids[bad]}, ids count from 0: a chunk of it is lost, or another writer's ids are "
            "negative, which can't be read",
            store=source.where(), array=array,
        )  # fmt: skip
    if not (ids[1:] > ids[:-1]).all():
        ordered = np.sort(ids)
        twice = np.flatnonzero(ordered[1:] == ordered[:-1])
        if len(twice):
            raise FormatError(f"object_ids has id {ordered[twice[0]]} twice", store=source.where(), array=array)
    return ids


def read_attribute_tables(source: LevelSource, count: int) -> dict[str, NDArray[Any]]:
    """Return the object attributes, row = row of the manifests; masked where objects have none.

    Raises
    ------
    FormatError
        An array can't be decoded, or does not have `count` rows.
    StoreError
        A document or a chunk is missing.
    """
    out: dict[str, NDArray[Any]] = {}
    for array in _members(source, "object_attributes"):
        table = open_table(source, array)
        if not table.ndim:
            raise FormatError("an object attribute without rows", store=source.where(), array=array)
        values = _values(source, array, table)
        absent = np.zeros(len(values), bool)
        if table.attrs.get("fill_sentinel_meaning") == "absent":
            absent = _absent_rows(values, table.fill_value)
        _check_chunks(source, array, table, absent)
        if len(values) != count:
            values, absent = _fit(source, array, table, values, absent, count)
        if absent.any():
            mask = np.broadcast_to(absent.reshape(-1, *[1] * (values.ndim - 1)), values.shape)
            values = np.ma.MaskedArray(values, mask.copy())
        out[array.partition("/")[2]] = values
    return out


def _fit(
    source: LevelSource, array: str, table: zarr.Array[Any], values: NDArray[Any], absent: NDArray[np.bool_], count: int
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Fit a column to the objects: objects that were appended may have no values, and remains of a column no objects.

    The package appends to each column on its own, ours included; it pads a short one when it comes by, and cuts off what a
    flush that died left.
    """
    if table.attrs.get("fill_sentinel_meaning") != "absent":
        raise FormatError(f"{len(values)} rows for {count} objects", store=source.where(), array=array)
    missing = max(count - len(values), 0)
    rest = np.full((missing, *values.shape[1:]), table.fill_value, values.dtype)
    return np.concatenate([values[:count], rest]), np.concatenate([absent[:count], np.ones(missing, bool)])


def read_group_tables(source: LevelSource) -> tuple[dict[int, NDArray[np.int64]], dict[str, NDArray[Any]]]:
    """Return the members of each group, and the group attributes (row = group).

    Raises
    ------
    FormatError
        An array can't be decoded, or counts other groups than there are.
    StoreError
        A document or a chunk is missing.
    """
    if not _is_array(source, "groups"):
        return {}, {}
    table = open_table(source, "groups")
    number = table.attrs.get("num_groups")
    if table.ndim != 1 or (number is not None and number != table.shape[0]):
        raise FormatError(
            f"groups has the shape {table.shape}, the metadata counts {number!r}", store=source.where(), array="groups"
        )
    elements = decoding(source, "groups", lambda: [bytes(b) for b in np.asarray(table[:]).tolist()])
    _check_chunks(source, "groups", table, np.array([not b for b in elements], bool))
    try:
        groups = dict(enumerate(decode_group_elements(elements, table.attrs.get("group_ranges", {}))))
    except FormatError as error:
        raise error.at(store=source.where(), array="groups") from None
    attributes: dict[str, NDArray[Any]] = {}
    for array in _members(source, "group_attributes"):
        values = _values(source, array, open_table(source, array))
        if values.ndim == 0 or len(values) != len(groups):
            raise FormatError(f"{values.shape} values for {len(groups)} groups", store=source.where(), array=array)
        attributes[array.partition("/")[2]] = values
    return groups, attributes


def _members(source: LevelSource, family: str) -> list[str]:
    """Return the arrays of a family."""
    objects = open_objects(source.place.handle)
    names = objects.list_dir(join(source.place.prefix, family))
    return [array for n in names if n != DOCUMENT and _is_array(source, array := f"{family}/{n}")]


def _is_array(source: LevelSource, array: str) -> bool:
    """Tell whether there is an array; the package reserves names by groups without content.

    Raises
    ------
    StoreError
        Chunks without a document.
    """
    objects = open_objects(source.place.handle)
    path = join(source.place.prefix, array)
    document = objects.get(join(path, DOCUMENT))
    if document is None:
        if objects.list_dir(path):
            raise StoreError(f"the document of '{array}' is missing", store=source.where(), array=array)
        return False
    return bool(parse_document(document, path, objects.url)["node_type"] == "array")


def _values(source: LevelSource, array: str, table: zarr.Array[Any]) -> NDArray[Any]:
    """Return all values of an array, strings as numpy's fixed-length ones."""
    values = decoding(source, array, lambda: np.asarray(table[...]))
    if values.dtype.kind in "OT":
        return np.asarray(values.astype(str))
    if values.dtype.kind not in "biufcmMU":
        raise FormatError(f"values of {values.dtype} are not read", store=source.where(), array=array)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _absent_rows(values: NDArray[Any], sentinel: Any) -> NDArray[np.bool_]:
    """Tell which rows equal the sentinel in every component."""
    same = values == np.asarray(sentinel).astype(values.dtype)
    if values.dtype.kind in "fcmM" and bool(np.isnan(np.asarray(sentinel).astype(values.dtype))):
        same = np.isnan(values)
    flat = np.asarray(same, bool).reshape(len(values), -1) if values.size else np.zeros((len(values), 1), bool)
    return np.asarray(flat.all(axis=1), bool)


def _check_chunks(source: LevelSource, array: str, table: zarr.Array[Any], empty: NDArray[np.bool_]) -> None:
    """Look for the chunks of ours that read as nothing but fill values: zarr takes one that was lost for that.

    We store every chunk, so where the checksums say that we wrote the array, one that is absent was lost.
    """
    checksums = table.attrs.get(MANIFESTS_CRC32C)
    if not isinstance(checksums, list):
        return
    step = table.chunks[0]
    suspects = [c for c in range(min(len(checksums), -(-len(empty) // step))) if empty[c * step : (c + 1) * step].all()]
    path = join(source.place.prefix, array)
    keys = ["/".join([path, "c", str(c), *["0"] * (table.ndim - 1)]) for c in suspects]
    found = open_objects(source.place.handle).get_many([(key, (0, 1)) for key in keys])
    for key, data in zip(keys, found, strict=True):
        if data is None:
            raise StoreError(f"'/{key}' is missing", store=source.where(), array=array)
