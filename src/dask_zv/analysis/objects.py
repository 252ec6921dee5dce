"""Blocks of whole objects: planned by their numbers of vertices, read by a task that finds their chunks itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.analysis.chunks import number_rows, rows_limit
from dask_zv.analysis.cutting import Pieces, cut_by_rows
from dask_zv.config import settings
from dask_zv.errors import InputError
from dask_zv.level.contents import LevelContents
from dask_zv.level.link_source import FoundLinks
from dask_zv.level.object_index import ObjectIndex, chosen_ids, fragment_owners
from dask_zv.read.columns import LevelRows
from dask_zv.read.levels import what_to_read
from dask_zv.read.object_rows import object_lengths, read_whole_objects
from dask_zv.read.select import Wanted
from dask_zv.spatial.chunks import morton_order, runs_of

_BLOCK_OBJECTS = 1 << 16
_SLICE = 1 << 14


@dataclass(frozen=True, slots=True, eq=False)
class ObjectReader:
    """How tasks read whole objects: the level's vertices, and what to read of them."""

    rows: LevelRows
    wanted: Wanted
    links: FoundLinks | None = None
    chunked: bool = False
    """Skeletons of one path a fragment."""

    def pieces(self, ids: NDArray[np.int64]) -> Pieces:
        """Return ids (which ascend) and rows of some objects, and the name and geometry of each as a whole."""
        geometry = read_whole_objects(self.rows, ids, self.wanted, self.links, chunked=self.chunked, tables=True)
        lengths = geometry.lengths
        assert lengths is not None
        return ids, lengths, lambda number: f"object {ids[number]}", cut_by_rows(geometry, lengths)


@dataclass(frozen=True, slots=True, eq=False)
class ObjectBlocks:
    """The plan of some objects: the ids of each block, ascending in it; all `ids`, ascending, and the vertices of each."""

    reader: ObjectReader
    blocks: list[NDArray[np.int64]]
    ids: NDArray[np.int64]
    lengths: NDArray[np.int64]


def plan_object_blocks(
    level: LevelContents,
    *,
    objects: Any = None,
    attributes: Sequence[str] | None = None,
    rows_per_task: int | None = None,
    by_id: bool = False,
) -> ObjectBlocks:
    """Plan the reading of whole objects.

    Where not `by_id`, objects that lie near each other are in one block, so that few blocks read the same chunk.
    """
    source = level.source
    if not source.schema.has_objects:
        raise InputError(f"{level.url} has no objects: map_chunks maps over its chunks")
    wanted, links = what_to_read(level, attributes, by_object=True)
    found = object_lengths(source, level.chunks, level.index)
    ids, lengths = found.ids, found.lengths
    if objects is not None:
        wanted_ids = chosen_ids(objects)
        level.index.rows(wanted_ids)  # says which of them there aren't
        lengths = lengths[np.searchsorted(ids, wanted_ids)]
        ids = wanted_ids
    rows = LevelRows(source, level.chunks, level.offset, level.index)
    reader = ObjectReader(rows, wanted, links, level.is_chunked_skeleton)
    row_bytes = source.schema.grid.ndim * source.schema.dtype.itemsize + sum(a.row_bytes for a in wanted.attributes) + 8
    limit, ones = rows_limit(rows_per_task, row_bytes), np.ones(len(ids), np.int64)
    runs = runs_of((lengths, limit), (ones, _BLOCK_OBJECTS))
    if by_id or len(runs) < 2:
        return ObjectBlocks(reader, [ids[a:b] for a, b in runs], ids, lengths)
    order = _along_curve(level.index, ids, source.rank, every=objects is None)
    blocks = [np.sort(ids[order[a:b]]) for a, b in runs_of((lengths[order], limit), (ones, _BLOCK_OBJECTS))]
    return ObjectBlocks(reader, blocks, ids, lengths)


def _along_curve(index: ObjectIndex, ids: NDArray[np.int64], rank: int, *, every: bool) -> NDArray[np.intp]:
    """Return an order of objects in which neighbours lie near each other: that of the chunks in the middle of their paths."""
    middle = np.zeros((len(ids), rank), np.int64)
    some = (index.select(ids[a : a + _SLICE]) for a in range(0, len(ids), _SLICE))
    for table in index.slices() if every else some:
        starts = np.flatnonzero(np.r_[True, table.objects[1:] != table.objects[:-1]][: len(table.objects)])
        counts = np.diff(np.r_[starts, len(table.objects)])
        middle[np.searchsorted(ids, table.objects[starts])] = table.chunks[starts + counts // 2]
    return morton_order(middle)


def objects_of_rows(level: LevelContents, rows: slice | NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the objects that have a vertex among some rows (numbers in reading order), ascending.

    Fragments and manifests are read of the chunks that the rows are in, no positions.
    """
    if not level.source.schema.has_objects:
        raise InputError(f"{level.url} has no objects: map_chunks maps over its chunks")
    table = level.chunks
    wanted = number_rows(rows, table.rows)
    chunks = np.flatnonzero(wanted.counts)
    coords = table.coords[chunks]
    owners = fragment_owners(level.source, coords, level.index)
    found: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    columns = LevelRows(level.source, table)
    for start in range(0, len(chunks), settings().pass_chunks):
        some = chunks[start : start + settings().pass_chunks]
        fragments = columns.fragments(some)
        moved = np.cumsum(fragments.rows) - fragments.rows - wanted.offsets[some]
        numbers = np.concatenate([wanted.of_chunk(i) for i in some.tolist()]) + np.repeat(moved, wanted.counts[some])
        there = np.zeros(len(fragments.counts), bool)
        there[np.searchsorted(np.cumsum(fragments.counts), numbers, side="right")] = True
        entries, chunk = owners.in_chunks(table.coords[some])
        of_chunk = owners.fragments[entries]
        known = of_chunk < fragments.numbers[chunk]
        entries, chunk, of_chunk = entries[known], chunk[known], of_chunk[known]
        mine = there[(np.cumsum(fragments.numbers) - fragments.numbers)[chunk] + of_chunk]
        found.append(np.unique(owners.objects[entries[mine]]))
    return np.unique(np.concatenate(found))
