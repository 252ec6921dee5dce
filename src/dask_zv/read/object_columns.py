"""Columns of a level's objects by their number, ascending by id: attributes, members of groups; read when asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError, InputError
from dask_zv.format.keys import DOCUMENT
from dask_zv.format.object_documents import sentinel
from dask_zv.geometry.schema import VALUE_KINDS, parse_dtype, readable
from dask_zv.level.object_index import ObjectIndex
from dask_zv.level.object_tables import ObjectTables, values_dtype
from dask_zv.level.object_values import parse_shape, read_groups, read_object_attributes
from dask_zv.level.source import LevelSource, check_same_objects
from dask_zv.storage.handles import open_objects
from dask_zv.storage.marks import check_not_replaced

GROUPS = 0
"""Name of the column (count, groups) that tells which groups each object is in."""


@dataclass(frozen=True, slots=True)
class ObjectField:
    """An attribute of objects, or of groups.

    Attributes
    ----------
    dtype : dtype
    shape : tuple of int
        Of one value.
    missing : object
        What stands for "none"; None where nothing can.
    state : str
        Digest of what the store has of it, see :func:`array_state`.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    missing: Any = None
    state: str = ""


def object_fields(index: ObjectIndex, family: str = "object_attributes") -> dict[str, ObjectField]:
    """Return the attributes of objects (or "group_attributes"), from their documents alone.

    Raises
    ------
    MetadataError, FormatError, StoreError
        A document is damaged or missing.
    """
    tables = index.tables
    out: dict[str, ObjectField] = {}
    grid = tables.source.place.layout == "grid"
    names = tables.members(family) if grid else [
        f"{family}/{n}" for n in open_objects(tables.source.place.handle).list_dir(tables.path(family)) if n != DOCUMENT
    ]  # fmt: skip
    for array in names:
        if grid:
            table = tables.open(array)
            known = readable(partial(values_dtype, tables.source, array, table.dtype), tables.source.where())
            if known is None:
                continue
            dtype, shape = known, table.shape[1:]
            missing = _missing(np.dtype(dtype))
        else:
            attributes = (tables.document(array) or {}).get("attributes", {})
            known = readable(partial(parse_dtype, attributes.get("dtype"), f"{array!r}", VALUE_KINDS), tables.source.where())
            if known is None:
                continue
            dtype = known
            rows, *rest = parse_shape(attributes, tables.source.where(), array)
            shape = tuple(rest)
            # a mask tells what is missing, if anything is: without one, a value that is the sentinel is a value
            some = attributes.get("has_present_mask") or rows != index.count
            missing = _missing(np.dtype(dtype)) if some else None
            if some and missing is None:
                dtype = np.dtype(object)  # no boolean says that an object has none
        state = array_state(tables, array)
        out[array.partition("/")[2]] = ObjectField(np.dtype(dtype), tuple(shape), missing, state)
    return out


def array_state(tables: ObjectTables, array: str) -> str:
    """Return a digest that tells two states of an array about objects from each other.

    In layout ``grid`` that of its document, in which our writer has the checksums of its chunks; in ``per_chunk`` of the
    document and the ETags or times of change of its blobs (the blobs themselves where a store has neither).
    """
    about: list[Any] = [tables.document(array)]
    if tables.source.place.layout != "grid":
        parts = ("data", "offsets", "present_mask")
        about += open_objects(tables.source.place.handle).identities([tables.path(array, p, "c/0") for p in parts])
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()


def _missing(dtype: np.dtype[Any]) -> Any:
    if dtype.kind == "O":
        return ""
    try:
        return sentinel(dtype)
    except InputError:
        return None


class ObjectColumns:
    """The objects of a level as a table, ascending by id; columns are :data:`GROUPS` and the attributes by name.

    Parameters
    ----------
    source : LevelSource
    fields : mapping of str to ObjectField
    group_count : int
    index : ObjectIndex, optional
        As this process knows it already.

    Attributes
    ----------
    group_state : str
        That of the members of groups, see :func:`array_state`.
    """

    def __init__(
        self, source: LevelSource, fields: Mapping[str, ObjectField], group_count: int, index: ObjectIndex | None = None
    ) -> None:
        self.source = source
        self.fields = dict(fields)
        self.group_count = group_count
        self.group_state = ""
        self._index = index

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_index": None}

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        s = self.source
        state = s.token, s.index_token, repr(self.fields), self.group_count, self.group_state
        return (type(self).__name__, s.place.handle, s.place.prefix, *state)

    @property
    def index(self) -> ObjectIndex:
        """The manifests, and the tables beside them."""
        if self._index is None:
            self._index = ObjectIndex(self.source)
        return self._index

    def __len__(self) -> int:
        return self.index.count

    def column(self, name: Any, rows: slice | NDArray[np.int64]) -> NDArray[Any]:
        """Return a column of some objects.

        Parameters
        ----------
        name : int or str
        rows : slice with a positive step, or int64 array
            Numbers of objects, ascending by id.
        """
        numbers = np.arange(len(self))[rows]
        if name == GROUPS:
            return self._groups(numbers)
        if not len(numbers):
            f = self.fields[name]
            return np.zeros((0, *f.shape), f.dtype)
        ids = self.index.ids
        ascending = bool((ids[1:] > ids[:-1]).all())
        at = numbers if ascending else np.argsort(ids, kind="stable")[numbers]
        values = _filled(read_object_attributes(self.source, self.index, at, name)[name], self.fields[name])
        self._check(f"object_attributes/{name}", self.fields[name].state)
        return values

    def _check(self, array: str, state: str) -> None:
        """Raise where an array is not what it was when the level was opened, or the objects are others."""
        check_same_objects(self.source)
        check_not_replaced(open_objects(self.source.place.handle), self.source.place.prefix)
        if array_state(ObjectTables(self.source), array) != state:
            raise FormatError(
                f"'{array}' was written again after the level was opened: open it again", store=self.source.where(), array=array
            )

    def _groups(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        ids = np.sort(self.index.ids)[numbers]
        out = np.zeros((len(ids), self.group_count), bool)
        if len(ids):
            groups, _ = read_groups(self.source, self.index.tables)
            self._check("groups", self.group_state)
            for group, members in groups.items():
                out[:, group] = np.isin(ids, members)
        return out

    def group_attributes(self) -> dict[str, NDArray[Any]]:
        """Return the attributes of all groups."""
        return {n: np.asarray(np.ma.getdata(v)) for n, v in read_groups(self.source, self.index.tables)[1].items()}


def _filled(values: NDArray[Any], field: ObjectField) -> NDArray[Any]:
    if not isinstance(values, np.ma.MaskedArray):
        return values.astype(field.dtype, copy=False)
    missing = np.broadcast_to(np.ma.getmaskarray(values), values.shape)
    if field.missing is None:
        out: NDArray[Any] = values.data.astype(object)
        out[missing] = None
        return out
    return np.where(missing, field.missing, values.data).astype(field.dtype, copy=False)
