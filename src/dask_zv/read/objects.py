"""What a read wants to know of objects: their fragments in path order, ids, attributes and groups; beside the blocks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.format.keys import coords_to_keys
from dask_zv.level.fragment_table import FragmentTable
from dask_zv.level.object_index import ObjectIndex, fragment_owners
from dask_zv.level.object_values import read_groups, read_object_attributes
from dask_zv.level.source import LevelSource
from dask_zv.storage.handles import open_objects
from dask_zv.storage.marks import check_not_replaced
from dask_zv.storage.objects import together


class Here:
    """What is remembered of the level's objects in this process; it stays here when tasks go elsewhere.

    Parameters
    ----------
    index : ObjectIndex, optional
    """

    def __init__(self, index: ObjectIndex | None = None) -> None:
        self.index = index

    def __reduce__(self) -> tuple[type[Here], tuple[()]]:
        return Here, ()


@dataclass(frozen=True, slots=True, eq=False)
class ObjectFacts:
    """What was found.

    Attributes
    ----------
    table : FragmentTable, optional
        Fragments of the objects in path order, where rows are wanted in that order.
    ids : ndarray of int64, optional
        All objects that the answer lists, where that is known beforehand.
    tables : dict
        Fields of :class:`~dask_zv.geometry.result.Geometry`: attributes of objects, and groups.
    """

    table: FragmentTable | None = None
    ids: NDArray[np.int64] | None = None
    tables: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class ReadObjects:
    """Read it; a task of its own, so that nobody waits for it after the blocks.

    Attributes
    ----------
    source : LevelSource
    coords : ndarray of int64, shape (n, K)
        The chunks that are read.
    by_object : bool
        Rows are wanted in the order of the objects' paths.
    chosen : FragmentTable, optional
        Fragments of the objects that were asked for, where that is known.
    ids : ndarray of int64, optional
        The objects that were asked for.
    every : bool
        Objects without vertices are listed, too.
    tables : bool
        Attributes of objects, and groups, are wanted.
    here : Here
    """

    source: LevelSource
    coords: NDArray[np.int64]
    by_object: bool
    chosen: FragmentTable | None
    ids: NDArray[np.int64] | None
    every: bool
    tables: bool
    here: Here = field(default_factory=Here)

    def __call__(self) -> ObjectFacts:
        if not (self.source.schema.has_objects and (self.tables or self.by_object)):
            return ObjectFacts()
        index = self.here.index or ObjectIndex(self.source)
        objects = open_objects(self.source.place.handle)
        all_ids = self.ids is None and (self.tables or self.every or self.chosen is None)
        _, groups, _ = together(  # the documents of attributes are remembered
            objects,
            lambda: index.ids if all_ids else None,
            lambda: read_groups(self.source, index.tables) if self.tables else ({}, {}),
            lambda: index.tables.members("object_attributes") if self.tables and self._grid else None,
        )
        table, values = together(
            objects,
            lambda: self._table(index),
            lambda: self._values(index) if self.tables else {},
        )
        if self.tables:  # no catalog has their checksums
            check_not_replaced(objects, self.source.place.prefix)
        tables = {**values, "groups": groups[0], "group_attributes": groups[1]} if self.tables else {}
        ids = self.ids
        if ids is None and self.every:
            ids = np.sort(index.ids)
        return ObjectFacts(table, ids, tables)

    @property
    def _grid(self) -> bool:
        return self.source.place.layout == "grid"

    def _table(self, index: ObjectIndex) -> FragmentTable | None:
        if not self.by_object or self.chosen is not None:
            return self.chosen if self.by_object else None
        return fragment_owners(self.source, coords_to_keys(self.coords), index)

    def _values(self, index: ObjectIndex) -> dict[str, Any]:
        every = self.ids is None
        ids = np.sort(index.ids) if self.ids is None else self.ids
        rows = None if every and np.array_equal(ids, index.ids) else np.argsort(index.ids) if every else index.rows(ids)
        return {"object_index": ids, "object_attributes": read_object_attributes(self.source, index, rows)}
