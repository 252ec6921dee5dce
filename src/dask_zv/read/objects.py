"""What a read wants to know of objects, beside the blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.level.fragment_table import FragmentTable
from dask_zv.level.object_index import ObjectIndex, fragment_owners
from dask_zv.level.source import LevelSource, as_opened
from dask_zv.storage.handles import open_objects
from dask_zv.storage.objects import together
from dask_zv.storage.specs import check_not_replaced


@dataclass(frozen=True, slots=True, eq=False)
class ObjectFacts:
    """What was found about the objects."""

    table: FragmentTable | None = None  # their fragments in path order, where rows are wanted in that order
    ids: NDArray[np.int64] | None = None  # all objects that the answer lists, where that is known beforehand
    tables: Mapping[str, Any] = field(default_factory=dict)
    """Fields of :class:`~dask_zv.geometry.result.Geometry`: attributes of objects, and groups."""


class Here:
    """The object index as this process knows it already; it stays here when tasks go elsewhere."""

    def __init__(self, index: ObjectIndex | None = None) -> None:
        self.index = index

    def __reduce__(self) -> tuple[type[Here], tuple[()]]:
        return Here, ()


@dataclass(frozen=True, slots=True, eq=False)
class ReadObjects:
    """Read what is wanted of objects; a task of its own, so that nobody waits for it after the blocks."""

    source: LevelSource
    coords: NDArray[np.int64]  # the chunks that are read, shape (n, K)
    by_object: bool  # rows are wanted in the order of the objects' paths
    chosen: FragmentTable | None  # fragments of the objects that were asked for, where that is known
    ids: NDArray[np.int64] | None  # the objects that were asked for
    every: bool  # objects without vertices are listed, too
    tables: bool  # attributes of objects, and groups, are wanted
    here: Here = field(default_factory=Here)

    def __call__(self) -> ObjectFacts:
        with as_opened(self.source):
            return self._found()

    def _found(self) -> ObjectFacts:
        if not (self.tables or self.by_object):
            return ObjectFacts()
        index = self.here.index or ObjectIndex(self.source)
        objects = open_objects(self.source.place.handle)
        all_ids = self.ids is None and (self.tables or self.every or self.chosen is None)
        _, groups, _ = together(  # the documents of attributes are remembered
            objects,
            lambda: index.ids if all_ids else None,
            lambda: index.tables.groups if self.tables else ({}, {}),
            lambda: index.tables.members("object_attributes") if self.tables and index.tables.in_zarr else None,
        )
        table, values = together(objects, lambda: self._table(index), lambda: self._values(index) if self.tables else {})
        if self.tables:  # no catalog has their checksums
            check_not_replaced(objects, self.source.place.prefix)
        tables = {**values, "groups": groups[0], "group_attributes": groups[1]} if self.tables else {}
        return ObjectFacts(table, index.sorted_ids if self.ids is None and self.every else self.ids, tables)

    def _table(self, index: ObjectIndex) -> FragmentTable | None:
        if not self.by_object or self.chosen is not None:
            return self.chosen if self.by_object else None
        return fragment_owners(self.source, self.coords, index)

    def _values(self, index: ObjectIndex) -> dict[str, Any]:
        if self.ids is None:
            return {"object_index": index.sorted_ids, "object_attributes": index.attributes(index.order)}
        return {"object_index": self.ids, "object_attributes": index.attributes(index.rows(self.ids))}
