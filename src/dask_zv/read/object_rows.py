"""Vertices in the order of their objects, each object's along its path; and how many each object has.

Of that our writer leaves a small table beside the manifests (:data:`~dask_zv.level.object_tables.OBJECT_LENGTHS`), which makes
opening a level by objects cost the same few requests whatever the number of objects. Other tools pass it by; nothing is
believed on its word: rows that are read by object are counted, and must be as many.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.config import settings
from dask_zv.errors import FormatError, NotFoundError, StoreError
from dask_zv.format.keys import coords_to_keys
from dask_zv.geometry.assembly import take_ranges
from dask_zv.geometry.result import Geometry
from dask_zv.geometry.schema import AttributeSchema
from dask_zv.level.fragment_table import FragmentTable, chunk_numbers
from dask_zv.level.link_source import FoundLinks
from dask_zv.level.object_index import ObjectIndex
from dask_zv.level.object_tables import OBJECT_LENGTHS
from dask_zv.level.source import ChunkTable, LevelSource, SharedCache, check_same_objects
from dask_zv.read.columns import OBJECT_ID, POSITIONS, LevelRows, RaggedColumns
from dask_zv.read.decode import FragmentRows
from dask_zv.read.levels import Finish
from dask_zv.read.objects import Here, ObjectFacts, ReadObjects
from dask_zv.read.select import Selection, Wanted, plan_blocks, read_block
from dask_zv.spatial.chunks import runs_of

PARENT = "/parent"
"""A column's name that no attribute can have."""
_SLICE, _SLICE_ROWS = 4096, 1 << 17
"""Chunks, and rows, whose fragments are read at a time: rows that one of them lists are listed for all."""


@dataclass(frozen=True, slots=True, eq=False)
class ObjectLengths:
    """The objects of a level: ids, ascending, and the vertices of each; int64 (O,)."""

    ids: NDArray[np.int64]
    lengths: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)


def object_lengths(source: LevelSource, table: ChunkTable, index: ObjectIndex) -> ObjectLengths:
    """Return the objects of a level with their lengths: from the table that says so, else from manifests and fragments."""
    if not index.count:
        return ObjectLengths(np.zeros(0, np.int64), np.zeros(0, np.int64))
    return _stored_lengths(source, index) or count_lengths(source, table, index)


def object_ids(source: LevelSource, index: ObjectIndex) -> NDArray[np.int64]:
    """Return the ids of the objects, ascending; in a few requests, however many they are, where our table has them."""
    if index.rows_are_ids or not index.count:
        return np.arange(index.count)
    found = _stored_lengths(source, index)
    return index.sorted_ids if found is None else found.ids


def _stored_lengths(source: LevelSource, index: ObjectIndex) -> ObjectLengths | None:
    """Return what the table says; None where there is none, or another tool made objects since."""
    if not source.catalogued or not source.index_token:  # manifests of ours have checksums
        return None
    found = index.tables.own_table(OBJECT_LENGTHS, (index.count, 2))
    if found is None:
        return None
    values, intact = found
    if (values < 0).any():  # what an absent chunk reads as
        raise StoreError(
            "a part of the table of objects is missing: store.refresh() rebuilds it",
            store=source.where(), array=OBJECT_LENGTHS,
        )  # fmt: skip
    if intact and (values[1:, 0] <= values[:-1, 0]).any():
        raise FormatError(
            "the ids of the table of objects are not ascending: store.refresh() rebuilds it",
            store=source.where(), array=OBJECT_LENGTHS,
        )  # fmt: skip
    return ObjectLengths(*np.ascontiguousarray(values.T)) if intact else None


def count_lengths(source: LevelSource, table: ChunkTable, index: ObjectIndex) -> ObjectLengths:
    """Return the objects of a level with their lengths, from their manifests and all fragments of the level."""
    rows = LevelRows(source, table)
    # without the rows that fragments list: lengths need none, and they are as many as the level has
    runs = runs_of((table.rows, _SLICE_ROWS), (np.ones(len(table), np.int64), _SLICE))
    parts = (rows.any_fragments(np.arange(*run)) for run in runs)
    fragments = FragmentRows.join([FragmentRows(f.stored, f.numbers, f.counts) for f in parts])
    first = np.cumsum(fragments.numbers) - fragments.numbers
    ids = index.sorted_ids
    lengths = np.zeros(len(ids), np.int64)
    for part in index.slices():
        chunk = table.find(part.chunks)
        _check_named(source, part, np.where(chunk < 0, 0, np.append(fragments.numbers, 0)[chunk]))
        np.add.at(lengths, np.searchsorted(ids, part.objects), fragments.counts[first[chunk] + part.fragments])
    return ObjectLengths(ids, lengths)


@dataclass(frozen=True, slots=True, eq=False)
class PathRows:
    """The n rows of some objects: numbers in the level, ascending, and where each is along the objects' paths."""

    numbers: NDArray[np.int64]
    places: NDArray[np.int64]

    def arranged(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values of the rows in the order of the paths."""
        out = np.empty_like(values)
        out[self.places] = values
        return out


# one look at the manifests serves every column
_ROWS: SharedCache[PathRows | None] = SharedCache(128 << 20, lambda r: 200 if r is None else 2 * r.numbers.nbytes + 200)


def _check_named(source: LevelSource, table: FragmentTable, have: NDArray[np.int64]) -> None:
    """Refuse manifests that name fragments which their chunks don't have."""
    lost = np.flatnonzero(table.fragments >= have)
    if len(lost):
        raise FormatError(
            f"a manifest names fragment {table.fragments[lost[0]]} of a chunk that does not have it",
            store=source.where(), array="object_index", chunk=coords_to_keys(table.chunks[lost[:1]])[0],
        )  # fmt: skip


class ObjectRows(RaggedColumns):
    """Vertices in the order of the objects; columns are the axes by number, the attributes by name,
    :data:`OBJECT_ID` and :data:`PARENT`.

    `links` are those of skeletons, for their parents: `chunked` ones have one path a fragment; where that is `implied`,
    neighbours on a fragment are linked, else all links are stored.
    """

    run_cells = 1 << 20  # objects go through the same chunks: together they read each once

    def __init__(
        self,
        vertices: LevelRows,
        lengths: ObjectLengths,
        links: FoundLinks | None = None,
        *,
        chunked: bool = False,
        implied: bool = True,
    ) -> None:
        super().__init__()
        self.vertices = vertices
        self.links = links
        self.chunked = chunked
        self.implied = implied
        self._lengths: ObjectLengths | None = lengths

    def __getstate__(self) -> dict[str, Any]:
        lengths = None if self.vertices.source.catalogued else self._lengths
        return {**self.__dict__, "_lengths": lengths, "_offsets": None}

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        links = repr(self.links and self.links.source)
        return (type(self).__name__, self.vertices.__dask_tokenize__(), links, self.chunked, self.implied)

    @property
    def lengths(self) -> ObjectLengths:
        """Ids and lengths of the objects."""
        if self._lengths is None:
            self._lengths = object_lengths(self.vertices.source, self.vertices.table, self.vertices.index)
        return self._lengths

    @property
    def counts(self) -> NDArray[np.int64]:
        """Vertices of each object."""
        return self.lengths.lengths

    @property
    def where(self) -> str:
        """URL of the level, for errors."""
        return self.vertices.where

    @property
    def row_bytes(self) -> int:
        """Bytes of a stored row."""
        return self.vertices.row_bytes

    def empty(self, name: str | int) -> NDArray[Any]:
        """Return a column of no rows; nothing is read for it."""
        return np.zeros(0, np.int64) if name == PARENT else self.vertices.empty(name)

    def _read_cells(self, name: str | int, objects: NDArray[np.intp]) -> NDArray[Any]:
        if name == PARENT:
            return self._parents(objects)
        if name == OBJECT_ID:
            return np.repeat(self.lengths.ids[objects], self.counts[objects])
        run = len(objects) and int(objects[-1]) - int(objects[0]) == len(objects) - 1
        which = (int(objects[0]), len(objects)) if run else objects.tobytes()
        key = (*self.vertices.source.state, self.vertices.source.index_token, which)
        rows = _ROWS.get_many([key], lambda _: [self._rows_of(objects)])[0]
        if rows is not None:
            return rows.arranged(self.vertices.picked(name, rows.numbers))
        if isinstance(name, int):
            return self._read_cells(POSITIONS, objects)[:, name]
        if name == POSITIONS:
            return self.read(objects, ()).positions
        schema = self.vertices.attribute(name)
        return self.read(objects, () if schema is None else (schema,)).attributes[name]

    def _rows_of(self, objects: NDArray[np.intp]) -> PathRows | None:
        """Return which rows of the level some objects have (ascending); None where fragments overlap or leave rows out."""
        source, table, ids = self.vertices.source, self.vertices.table, self.lengths.ids[objects]
        try:
            chosen = self.vertices.index.select(ids)
        except NotFoundError:
            check_same_objects(source)
            raise
        chunks = chunk_numbers(table, chosen.distinct_chunks, self.where)
        fragments = self.vertices.any_fragments(chunks)
        if (fragments.rows != fragments.stored).any():
            return None
        at = np.searchsorted(chunks, table.find(chosen.chunks))
        _check_named(source, chosen, fragments.numbers[at])
        entry = (np.cumsum(fragments.numbers) - fragments.numbers)[at] + chosen.fragments
        moved = self.vertices.offsets[chunks] - (np.cumsum(fragments.rows) - fragments.rows)
        starts, sizes = (fragments.starts[entry] + moved[at]), fragments.counts[entry]
        check_same_objects(source)
        self._check_lengths(objects, np.bincount(np.searchsorted(ids, chosen.objects), sizes, len(ids)).astype(np.int64))
        order, begins = np.argsort(starts, kind="stable"), np.cumsum(sizes) - sizes
        return PathRows(take_ranges(starts[order], sizes[order]), take_ranges(begins[order], sizes[order]))

    def _check_lengths(self, objects: NDArray[np.intp], have: NDArray[np.int64]) -> None:
        wrong = np.flatnonzero(have != self.counts[objects])
        if len(wrong):
            at = int(wrong[0])
            raise FormatError(
                f"object {self.lengths.ids[objects[at]]} has {have[at]} vertices, the table of objects says "
                f"{self.counts[objects[at]]}: another tool changed it; store.refresh() accepts the level as it is",
                store=self.where, array="object_index",
            )  # fmt: skip

    def _parents(self, objects: NDArray[np.intp]) -> NDArray[np.int64]:
        """Return the numbers of parents among the rows of all objects."""
        parents = self.read(objects, (), trees=True).parents
        if parents is None:
            raise FormatError(
                "a node has several parents: links of this level are those of a graph, read its edges", store=self.where
            )
        counts = self.counts[objects]
        shift = np.repeat(self.offsets[objects] - (np.cumsum(counts) - counts), counts)
        return np.where(parents < 0, -1, parents + shift)

    def read(self, objects: NDArray[np.intp], attributes: tuple[AttributeSchema, ...], *, trees: bool = False) -> Geometry:
        """Return the vertices of some objects, by their numbers (ascending), and with `trees` the parents of skeletons."""
        source, ids = self.vertices.source, self.lengths.ids[objects]
        links = self.links if trees else None
        wanted = Wanted(
            attributes,
            by_object=True,
            trees=trees and self.implied,
            parents=trees and not self.implied,
            links=None if links is None else links.source,
        )
        try:
            found = read_whole_objects(self.vertices, ids, wanted, links, chunked=self.chunked, tables=False)
        except NotFoundError:
            check_same_objects(source)
            raise
        check_same_objects(source)
        assert found.lengths is not None
        self._check_lengths(objects, found.lengths)
        return found


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
