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
from dask_zv.format.objects import sentinel
from dask_zv.geometry.schema import readable
from dask_zv.level.object_index import ObjectIndex
from dask_zv.level.object_tables import ObjectTables, plain_table, values_dtype
from dask_zv.level.source import LevelSource, as_opened, check_same_objects
from dask_zv.storage.handles import open_objects
from dask_zv.storage.specs import check_not_replaced

GROUPS = 0
"""Name of the column (count, groups) that tells which groups each object is in."""


@dataclass(frozen=True, slots=True)
class ObjectField:
    """An attribute of objects, or of groups: dtype and shape of one value."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    missing: Any = None
    """What stands for "none"; None where nothing can."""
    state: str = ""  # digest of what the store has of it, see :func:`array_state`


def object_fields(index: ObjectIndex, family: str = "object_attributes") -> dict[str, ObjectField]:
    """Return the attributes of objects (or "group_attributes"), from their documents alone."""
    tables, where = index.tables, index.tables.source.where()
    out: dict[str, ObjectField] = {}
    for array in tables.members(family):
        if tables.in_zarr:
            table = tables.open(array)
            dtype = readable(partial(values_dtype, tables.source, array, table.dtype), where)
            if dtype is None:
                continue
            shape, missing = table.shape, _missing(dtype)
        else:
            known = readable(partial(plain_table, tables, array), where)
            if known is None:
                continue
            dtype, shape = known
            # a mask tells what is missing, if anything is: without one, a value that is the sentinel is a value
            some = tables.attributes(array).get("has_present_mask") or shape[0] != index.count
            missing = _missing(dtype) if some else None
            if some and missing is None:
                dtype = np.dtype(object)  # no boolean says that an object has none
        out[array.partition("/")[2]] = ObjectField(np.dtype(dtype), tuple(shape[1:]), missing, array_state(tables, array))
    return out


def array_state(tables: ObjectTables, array: str) -> str:
    """Return a digest that tells two states of an array about objects from each other.

    In layout ``grid`` that of its document, in which our writer has the checksums of its chunks; in ``per_chunk`` of the
    document and the ETags or times of change of its blobs (the blobs themselves where a store has neither).
    """
    about: list[Any] = [tables.document(array)]
    if not tables.in_zarr:
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

    `group_state` is that of the members of groups, see :func:`array_state`.
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
        """Return a column of some objects, by their numbers, or as a slice with a positive step."""
        numbers = np.arange(len(self))[rows]
        if name == GROUPS:
            return self._groups(numbers)
        if not len(numbers):
            f = self.fields[name]
            return np.zeros((0, *f.shape), f.dtype)
        at = numbers if self.index.order is None else self.index.order[numbers]
        with as_opened(self.source):
            found = self.index.attributes(at, name)
            if name not in found:
                raise FormatError("the attribute is gone", store=self.source.where(), array=f"object_attributes/{name}")
        values = _filled(found[name], self.fields[name])
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
        ids = self.index.sorted_ids[numbers]
        out = np.zeros((len(ids), self.group_count), bool)
        if len(ids):
            with as_opened(self.source):
                groups, _ = self.index.tables.groups
            self._check("groups", self.group_state)
            for group, members in groups.items():
                out[:, group] = np.isin(ids, members)
        return out


def _filled(values: NDArray[Any], field: ObjectField) -> NDArray[Any]:
    if not isinstance(values, np.ma.MaskedArray):
        return values.astype(field.dtype, copy=False)
    missing = np.broadcast_to(np.ma.getmaskarray(values), values.shape)
    if field.missing is None:
        out: NDArray[Any] = values.data.astype(object)
        out[missing] = None
        return out
    return np.where(missing, field.missing, values.data).astype(field.dtype, copy=False)
