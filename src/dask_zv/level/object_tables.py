"""The tables about objects: ids, attributes and groups; Zarr arrays row by row in layout ``grid``, blobs in ``per_chunk``.

One module because both layouts give the same tables to the same readers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import StorePath

from dask_zv.errors import FormatError, MetadataError, StoreError, ZVError
from dask_zv.format.documents import parse_document
from dask_zv.format.keys import DOCUMENT, confined, join
from dask_zv.format.objects import decode_group_elements, decode_groups, names_of_groups
from dask_zv.geometry.schema import VALUE_KINDS, UnreadableDtypeError, parse_dtype, readable
from dask_zv.level.find import MEMBERS
from dask_zv.level.source import MANIFESTS_CRC32C, LevelSource
from dask_zv.storage.codecs import crc32c
from dask_zv.storage.handles import open_objects
from dask_zv.storage.layout import layout_for
from dask_zv.storage.objects import Objects
from dask_zv.storage.per_chunk.read import PerChunk
from dask_zv.storage.specs import check_not_replaced
from dask_zv.storage.zarr_reads import ZARR_ERRORS, check_claim, open_zarr_array, unpacked

VALUES_CRC32C = "dask_zv_values_crc32c"
"""Attribute of the small tables of dask-zv; if the values have another one, another tool edited them and they are ignored."""
WHOLE_STRINGS = "dask_zv_whole_strings"
"""Attribute of an object attribute: of how many objects each has a string, so that an empty one is a value."""
OBJECT_LENGTHS = "dask_zv_objects"
"""Array (n, 2) of int64 that dask-zv writes: id and number of vertices of each object, ascending by id."""
EDGE_COUNTS = "dask_zv_edges"
"""Array (n, K + 1) of int64 that dask-zv writes for skeletons: coordinates of each chunk, and its nodes with a parent."""

T = TypeVar("T")
Groups = tuple[dict[int, NDArray[np.int64]], dict[str, NDArray[Any]]]
"""The members of each group, and the group attributes (row = group)."""


def decoding(source: LevelSource, array: str, read: Callable[[], T]) -> T:
    """Return what `read` gets of an array through zarr; what zarr can't make sense of is a :class:`FormatError`."""
    try:
        return read()
    except ZVError:
        raise
    except ZARR_ERRORS as error:
        raise FormatError(f"'{array}' can't be decoded: {error!s:.500}", store=source.where(), array=array) from error


def values_checksum(values: NDArray[Any]) -> int:
    """Return the CRC-32C of a small table's values, which our writer leaves in its document as :data:`VALUES_CRC32C`."""
    return crc32c(np.ascontiguousarray(values).tobytes())


class ObjectTables:
    """The arrays about the objects of a level; each document is read once, and so are the groups.

    `documents` were read already, by the path below the level; None for nodes that are absent.
    """

    def __init__(self, source: LevelSource, documents: Mapping[str, Mapping[str, Any] | None] | None = None) -> None:
        self.source = source
        self.in_zarr = layout_for(source.place.layout).has_tables  # else they are blobs
        self._objects = open_objects(source.place.handle)
        self._documents = dict(documents or {})
        self._open: dict[str, zarr.Array[Any]] = {}
        self._members: dict[str, list[str]] = {}

    def path(self, *parts: str) -> str:
        """Return the path in the store of something below the level."""
        return join(self.source.place.prefix, *parts)

    def document(self, node: str) -> Mapping[str, Any] | None:
        """Return a node's document, None where it has none."""
        if node not in self._documents:
            self._load([node])
        return self._documents[node]

    def attributes(self, node: str) -> Mapping[str, Any]:
        """Return the attributes of a node, none where it has no document."""
        found: Mapping[str, Any] = (self.document(node) or {}).get("attributes", {})
        return found

    def _load(self, nodes: Sequence[str]) -> None:
        wanted = [n for n in nodes if n not in self._documents]
        found = self._objects.get_many([(self.path(n, DOCUMENT), None) for n in wanted])
        for node, data in zip(wanted, found, strict=True):
            self._documents[node] = None if data is None else parse_document(data, self.path(node), self._objects.url)

    def open(self, array: str) -> zarr.Array[Any]:
        """Return an array through zarr; one that zarr can't open is a :class:`FormatError`."""
        if array not in self._open:
            document = self.document(array)
            if document is None:
                check_not_replaced(self._objects, self.source.place.prefix)
                return open_zarr_array(self._objects, self.path(array))  # says what is wrong
            found = zarr_array_of(self._objects, self.path(array), document)
            check_claim(self._objects, self.path(array), found)
            self._open[array] = unpacked(self._objects, found)
        return self._open[array]

    def own_table(self, array: str, shape: tuple[int, ...]) -> tuple[NDArray[np.int64], bool] | None:
        """Return a small table of our writer's, and whether it is as that left it; None where there is none of this shape."""
        if self.document(array) is None:
            return None
        table = self.open(array)
        if table.shape != shape or table.dtype != np.int64:
            return None
        values = decoding(self.source, array, lambda: np.asarray(table[...]))
        return values, table.attrs.get(VALUES_CRC32C) == values_checksum(values)

    @cached_property
    def _names(self) -> frozenset[str]:
        known = self._documents.get(MEMBERS)
        return frozenset(self._objects.list_dir(self.path()) if known is None else known)

    def members(self, family: str) -> list[str]:
        """Return the arrays of a family; in layout ``grid`` one that has chunks and no document is a :class:`StoreError`."""
        if not self.in_zarr:
            return [f"{family}/{n}" for n in self._objects.list_dir(self.path(family)) if n != DOCUMENT]
        if family not in self._members:
            names = self._objects.list_dir(self.path(family)) if family in self._names else []
            arrays = [f"{family}/{n}" for n in names if n != DOCUMENT]
            self._load(arrays)
            self._members[family] = [a for a in arrays if self.has(a)]
        return self._members[family]

    def has(self, array: str) -> bool:
        """Return True if there is an array, in layout ``grid``; the package reserves names by groups without content."""
        if array.partition("/")[0] not in self._names:
            return False
        document = self.document(array)
        if document is None:
            if self._objects.list_dir(self.path(array)):
                raise StoreError(f"the document of '{array}' is missing", store=self.source.where(), array=array)
            return False
        return bool(document["node_type"] == "array")

    @property
    def groups(self) -> Groups:
        """The groups of objects: an array that can't be decoded, is missing or counts other groups is an error."""
        return self._zarr_groups if self.in_zarr else _groups_of_blobs(self)

    @cached_property
    def _zarr_groups(self) -> Groups:
        return _groups_of_grid(self)


def read_object_attributes(
    tables: ObjectTables,
    count: int,
    rows: NDArray[np.int64] | None = None,
    name: str | None = None,
    *,
    present: Callable[[], NDArray[np.int64]],
) -> dict[str, NDArray[Any]]:
    """Return the object attributes (or the one called `name`), row = row of the index; masked where objects have none.

    `rows` are rows of the index, in any order; `present` finds the objects that have vertices, which a writer of layout
    ``per_chunk`` has rows for.
    """
    if tables.in_zarr:
        return _attributes_of_grid(tables, count, rows, name)
    values = _plain_arrays(tables, "object_attributes", count, present, name)
    return values if rows is None else {name: v[rows] for name, v in values.items()}


# -------------------------------------------------------------------------------------------------- layout grid


def _attributes_of_grid(
    tables: ObjectTables, count: int, rows: NDArray[np.int64] | None, name: str | None
) -> dict[str, NDArray[Any]]:
    source = tables.source
    out: dict[str, NDArray[Any]] = {}
    for array in tables.members("object_attributes"):
        if name is not None and array != f"object_attributes/{name}":
            continue
        table = tables.open(array)
        if not table.ndim:
            raise FormatError("an object attribute without rows", store=source.where(), array=array)
        marked = table.attrs.get("fill_sentinel_meaning") == "absent"
        if not marked and table.shape[0] != count:
            raise FormatError(f"{table.shape[0]} rows for {count} objects", store=source.where(), array=array)
        # the package appends to each column on its own, ours included: objects may be ahead of it, or behind
        wanted = np.arange(count) if rows is None else rows
        there = wanted < table.shape[0]
        stored = np.unique(wanted[there])
        get = partial(_values, source, array, table, None if rows is None else stored)
        values = readable(get, source.where()) if name is None else get()
        if values is None:
            continue
        absent = _absent_rows(values, table.fill_value) if marked else np.zeros(len(values), bool)
        at = np.arange(len(values)) if rows is None else stored
        _check_chunks(source, array, table, at, absent)
        if values.dtype.kind == "U" and table.attrs.get(WHOLE_STRINGS) == table.shape[0]:
            absent = np.zeros(len(values), bool)
        if rows is not None or len(values) != count:
            place = np.searchsorted(at, wanted[there])
            full = np.full((len(wanted), *values.shape[1:]), table.fill_value if marked else 0, values.dtype)
            empty = np.ones(len(wanted), bool)
            full[there], empty[there] = values[place], absent[place]
            values, absent = full, empty
        if absent.any():
            mask = np.broadcast_to(absent.reshape(-1, *[1] * (values.ndim - 1)), values.shape)
            values = np.ma.MaskedArray(values, mask.copy())
        out[array.partition("/")[2]] = values
    return out


def _groups_of_grid(tables: ObjectTables) -> Groups:
    source = tables.source
    if not tables.has("groups"):
        return {}, {}
    table = tables.open("groups")
    number = table.attrs.get("num_groups")
    if table.ndim != 1 or (number is not None and number != table.shape[0]):
        raise FormatError(
            f"groups has the shape {table.shape}, the metadata counts {number!r}", store=source.where(), array="groups"
        )
    elements = decoding(source, "groups", lambda: [bytes(b) for b in np.asarray(table[:]).tolist()])
    _check_chunks(source, "groups", table, np.arange(len(elements)), np.array([not b for b in elements], bool))
    try:
        ranges = table.attrs.get("group_ranges", {})
        objects = tables.open("object_index/manifests").size if ranges and tables.has("object_index/manifests") else 0
        groups = dict(enumerate(decode_group_elements(elements, ranges, objects=objects)))
    except FormatError as error:
        raise error.at(store=source.where(), array="groups") from None
    attributes = names_of_groups(table.attrs, len(groups))
    for array in tables.members("group_attributes"):
        table = tables.open(array)
        values = readable(partial(_values, source, array, table), source.where())
        if values is None:
            continue
        if values.ndim:
            _check_chunks(source, array, table, np.arange(len(values)), _absent_rows(values, table.fill_value))
        if values.ndim == 0 or len(values) != len(groups):
            raise FormatError(f"{values.shape} values for {len(groups)} groups", store=source.where(), array=array)
        attributes[array.partition("/")[2]] = values
    return groups, attributes


def _values(source: LevelSource, array: str, table: zarr.Array[Any], rows: NDArray[np.int64] | None = None) -> NDArray[Any]:
    """Return the values of an array, of some rows (ascending) where they are given; strings as numpy's fixed-length ones."""
    values_dtype(source, array, table.dtype)
    values = decoding(source, array, lambda: np.asarray(table[...] if rows is None else table.oindex[rows]))
    if values.dtype.kind in "OT":
        return decoding(source, array, lambda: np.asarray(values.astype(str)))
    if values.dtype.kind == "U" and values.nbytes:
        codes = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("="), copy=False)).view(np.uint32)
        if int(codes.max()) > sys.maxunicode:  # numpy takes any number for a character, and Python then stumbles over it
            raise FormatError(f"character 0x{int(codes.max()):X} is none", store=source.where(), array=array)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def values_dtype(source: LevelSource, array: str, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of an array's values, objects for strings of any length; others are :class:`UnreadableDtypeError`."""
    if dtype.kind in "OT":
        return np.dtype(object)
    if dtype.kind not in VALUE_KINDS:
        raise UnreadableDtypeError(f"'{array}' has the dtype {dtype}, which is not read", store=source.where(), array=array)
    return dtype.newbyteorder("=")


def _absent_rows(values: NDArray[Any], sentinel: Any) -> NDArray[np.bool_]:
    """Return which rows equal the sentinel in every component."""
    same = values == np.asarray(sentinel).astype(values.dtype)
    if values.dtype.kind in "fcmM" and bool(np.isnan(np.asarray(sentinel).astype(values.dtype))):
        same = np.isnan(values)
    flat = np.asarray(same, bool).reshape(len(values), -1) if values.size else np.zeros((len(values), 1), bool)
    return np.asarray(flat.all(axis=1), bool)


def _check_chunks(
    source: LevelSource, array: str, table: zarr.Array[Any], rows: NDArray[np.int64], empty: NDArray[np.bool_]
) -> None:
    """Look for the chunks of ours that read as nothing but fill values: zarr takes one that was lost for that.

    We store every chunk, so where the checksums say that we wrote the array, one that is absent was lost. `rows` were read,
    ascending; of these, `empty` have nothing but fill values.
    """
    checksums = table.attrs.get(MANIFESTS_CRC32C)
    if not isinstance(checksums, list):
        return
    chunks, first = np.unique(rows // table.chunks[0], return_index=True)
    filled = np.add.reduceat(~empty, first) if len(first) else first
    suspects = chunks[(filled == 0) & (chunks < len(checksums))].tolist()
    path = join(source.place.prefix, array)
    keys = ["/".join([path, "c", str(c), *["0"] * (table.ndim - 1)]) for c in suspects]
    found = open_objects(source.place.handle).get_many([(key, (0, 1)) for key in keys])
    for key, data in zip(keys, found, strict=True):
        if data is None:
            raise StoreError(f"'/{key}' is missing", store=source.where(), array=array)


def zarr_array_of(objects: Objects, path: str, document: Mapping[str, Any]) -> zarr.Array[Any]:
    """Return the array at `path` through zarr, by its document: which is not read again."""
    confined(path)
    try:
        return zarr.Array.from_dict(StorePath(objects.zarr_reads(), path), dict(document))
    except ZVError:
        raise
    except ZARR_ERRORS as error:
        raise FormatError(f"'/{path}' can't be opened by zarr: {error!s:.500}", store=objects.url, array=path) from error


# -------------------------------------------------------------------------------------------------- layout per_chunk


def _groups_of_blobs(tables: ObjectTables) -> Groups:
    tables = ObjectTables(tables.source)  # nothing tells that blobs were replaced: their documents are as new as they are
    objects = open_objects(tables.source.place.handle)
    blobs, path = PerChunk(objects, tables.source.place.prefix), tables.path("groups")
    if tables.document("groups") is None and not objects.list_dir(path):
        return {}, {}
    attributes = tables.attributes("groups")
    number = attributes.get("num_groups")
    if number == 0:
        return {}, {}
    members = decode_groups(blobs.read("groups", "data"), blobs.read("groups", "offsets"))
    if number is not None and number != len(members):
        raise FormatError(f"{len(members)} groups are stored, the metadata counts {number!r}", store=objects.url, array=path)
    groups = dict(enumerate(np.asarray(m, np.int64) for m in members))
    about = _plain_arrays(tables, "group_attributes", len(groups), lambda: np.zeros(0, np.int64))
    return groups, {**names_of_groups(attributes, len(groups)), **about}


def plain_table(tables: ObjectTables, array: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Return dtype and shape of a table of layout ``per_chunk``, -1 for as many rows as it has."""
    attributes = tables.attributes(array)
    dtype = parse_dtype(attributes.get("dtype"), f"{array!r}", VALUE_KINDS)
    shape = attributes.get("shape", [-1])
    whole = isinstance(shape, list) and shape and all(type(n) is int and abs(n) < 1 << 53 for n in shape)
    if not whole or any(n < 1 for n in shape[1:]):
        raise MetadataError(
            f"the shape is {shape!r:.80}: a list of extents is wanted", store=tables.source.where(), array=array
        )
    return dtype, tuple(shape)


def _plain_arrays(
    tables: ObjectTables, family: str, count: int, present: Callable[[], NDArray[np.int64]], only: str | None = None
) -> dict[str, NDArray[Any]]:
    source, tables = tables.source, ObjectTables(tables.source)  # as above
    blobs = PerChunk(open_objects(source.place.handle), source.place.prefix)
    out: dict[str, NDArray[Any]] = {}
    for array in tables.members(family):
        name = array.partition("/")[2]
        if only not in (None, name):
            continue
        get = partial(plain_table, tables, array)
        known = get() if only else readable(get, source.where())
        if known is None:
            continue
        dtype, shape = known
        data = blobs.read(array, "data")
        try:
            values = np.frombuffer(data, dtype).reshape(shape)
        except (ValueError, TypeError) as error:
            raise FormatError(f"{len(data)} bytes are no {shape} of {dtype}", store=source.where(), array=array) from error
        if tables.attributes(array).get("has_present_mask"):
            flags = np.frombuffer(blobs.read(array, "present_mask"), np.uint8).astype(bool)
            if len(flags) != len(values):
                raise FormatError(f"{len(flags)} presence flags for {len(values)} rows", store=source.where(), array=array)
            values = np.ma.MaskedArray(values, np.broadcast_to(~flags.reshape(-1, *[1] * (values.ndim - 1)), values.shape))
        if len(values) != count:  # rows for the objects with vertices only: a known way of the 0.2 writer
            ids = present()
            if len(values) != len(ids):
                raise FormatError(
                    f"{len(values)} rows for {count} objects: the objects of the rows are unknown",
                    store=source.where(), array=array,
                )  # fmt: skip
            full = np.ma.MaskedArray(np.zeros((count, *values.shape[1:]), values.dtype), True)
            full[ids] = values
            values = full
        out[name] = values
    return out
