"""Reading by object: what a read wants to know of objects, beside the blocks; and objects as a whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.config import settings
from dask_zv.geometry.result import Geometry
from dask_zv.level.fragment_table import FragmentTable, chunk_numbers
from dask_zv.level.link_source import FoundLinks
from dask_zv.level.object_index import ObjectIndex, fragment_owners
from dask_zv.level.source import LevelSource
from dask_zv.read.assemble import Finish, ObjectFacts, read_block
from dask_zv.read.columns import LevelRows
from dask_zv.read.select import Selection, Wanted, plan_blocks
from dask_zv.spatial.chunks import runs_of
from dask_zv.storage.handles import open_objects
from dask_zv.storage.marks import check_not_replaced
from dask_zv.storage.objects import together


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


def read_whole_objects(
    rows: LevelRows, ids: NDArray[np.int64], wanted: Wanted, links: FoundLinks | None, *, chunked: bool, tables: bool
) -> Geometry:
    """Return some objects as a whole in the order of their `ids` (ascending), without Dask: a task does this.

    `chunked` skeletons have one path a fragment; with `tables` the attributes and groups of the objects are read.
    """
    source, table = rows.source, rows.table
    chosen = rows.index.select(ids)
    numbers = chunk_numbers(table, chosen.distinct_chunks, source.where())
    coords = table.coords[numbers]
    selection = Selection(numbers, np.ones(len(numbers), bool), None, ids, chosen)
    sizes = table.rows[numbers] * source.schema.row_bytes
    runs = runs_of((sizes, settings().read_block_bytes), (np.ones_like(sizes), settings().pass_chunks))
    # a part keeps the rows of these objects, not of the whole chunks
    parts = [read_block(p, wanted) for p in plan_blocks(source, table, selection, runs, links, incident=False)]
    facts = ObjectFacts(chosen, ids)
    if tables:
        facts = ReadObjects(source, coords, True, chosen, ids, True, True, Here(rows.index))()
    crossing = links is not None and links.source.crossing is not None
    return Finish(source, wanted, coords, False, False, table.coords if crossing else None, chunked, rows.offset)(parts, facts)
