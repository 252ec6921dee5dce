"""Blocks of chunks: planned from a selection, read by a task as one geometry, with the rows of each chunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.analysis.cutting import Pieces, chunk_name, cut_by_rows, take_rows
from dask_zv.config import settings
from dask_zv.errors import FormatError, InputError
from dask_zv.format.keys import coords_to_keys
from dask_zv.geometry.result import Geometry
from dask_zv.level.contents import LevelContents
from dask_zv.level.link_source import FoundLinks
from dask_zv.level.object_index import chosen_ids, fragment_owners
from dask_zv.level.source import level_blobs
from dask_zv.read.columns import LevelRows, rows_in
from dask_zv.read.decode import sum_by_chunk
from dask_zv.read.levels import Finish, select_in, what_to_read
from dask_zv.read.link_cells import plan_cells
from dask_zv.read.objects import ObjectFacts
from dask_zv.read.select import BlockToRead, Part, Wanted, read_block
from dask_zv.spatial.chunks import runs_of
from dask_zv.spatial.grid import Box, as_box, stored_box

# ---------------------------------------------------------------------------------------------- rows by number


@dataclass(frozen=True, slots=True, eq=False)
class RowsOfBlock:
    """Rows of a block that are wanted, numbered from its first one on, in the form that is smaller to send.

    `of_chunks` are the rows that each chunk must have for the numbers to mean anything. `numbers` are grouped by chunk; in a
    chunk in any order, maybe several times. Of uint8 they are bits, one to a row.
    """

    of_chunks: NDArray[np.int64]
    numbers: NDArray[Any]

    @classmethod
    def of(cls, of_chunks: NDArray[np.int64], numbers: NDArray[np.int64]) -> RowsOfBlock:
        """Return the rows `numbers` of chunks that have `of_chunks` rows."""
        if (numbers[1:] <= numbers[:-1]).any():
            return cls(of_chunks, numbers)
        bits = np.zeros(int(of_chunks.sum()), bool)
        bits[numbers] = True
        return cls(of_chunks, np.packbits(bits))

    def among(self, there: NDArray[np.int64]) -> NDArray[np.intp]:
        """Return the places of the wanted rows among those that are there (ascending)."""
        if self.numbers.dtype == np.uint8:
            bits = np.unpackbits(self.numbers, count=int(self.of_chunks.sum())).astype(bool)
            return np.flatnonzero(bits[there])
        at = np.searchsorted(there, self.numbers)
        out: NDArray[np.intp] = at[np.append(there, -1)[at] == self.numbers]
        return out


@dataclass(frozen=True, slots=True, eq=False)
class RowNumbers:
    """Rows of a level, by chunk: how many of each (`counts`), and the first row of each chunk (`offsets`, one more).

    `numbers` are grouped by chunk, each chunk's from `starts` on; None for a run of neighbouring rows, which may be all of a
    large level: `starts` are then its first row in each chunk.
    """

    counts: NDArray[np.int64]
    offsets: NDArray[np.int64]
    numbers: NDArray[np.int64] | None
    starts: NDArray[np.int64]

    def of_chunk(self, chunk: int) -> NDArray[np.int64]:
        """Return the numbers of the rows that are wanted of a chunk."""
        start, count = int(self.starts[chunk]), int(self.counts[chunk])
        if self.numbers is None:
            return np.arange(start, start + count, dtype=np.int64)
        return self.numbers[start : start + count]

    def block(self, chunks: NDArray[np.intp], rows: NDArray[np.int64]) -> RowsOfBlock | None:
        """Return those of some chunks (ascending), None where that is all in their order."""
        of_chunks = rows[chunks]
        if self.numbers is None and (self.counts[chunks] == of_chunks).all():
            return None
        numbers = np.concatenate([self.of_chunk(c) for c in chunks.tolist()])
        local = np.cumsum(of_chunks) - of_chunks
        numbers = numbers + np.repeat(local - self.offsets[chunks], self.counts[chunks])
        total = int(of_chunks.sum())
        if len(numbers) == total and (numbers == np.arange(total)).all():
            return None
        return RowsOfBlock.of(of_chunks, numbers)


def number_rows(rows: slice | NDArray[np.int64], of_chunks: NDArray[np.int64]) -> RowNumbers:
    """Return rows (numbers in reading order) by the chunks that they are in, which have `of_chunks` rows."""
    offsets = np.r_[0, np.cumsum(of_chunks)].astype(np.int64)
    total = int(offsets[-1])
    if isinstance(rows, slice):
        start, stop, step = rows.indices(total)
        if step == 1:
            first = np.clip(offsets[:-1], start, max(start, stop))
            counts = np.clip(offsets[1:], start, max(start, stop)) - first
            return RowNumbers(counts, offsets, None, first)
        numbers = np.arange(start, stop, step, dtype=np.int64)
    else:
        numbers = np.asarray(rows)
        if numbers.ndim != 1 or (len(numbers) and numbers.dtype.kind not in "iu"):
            raise InputError(f"rows must be a slice or 1-D integers, not {numbers.dtype} {numbers.shape}")
        numbers = numbers.astype(np.int64)
    if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < total:
        raise InputError(f"rows {numbers.min()} to {numbers.max()} are out of range: the level has rows 0 to {total - 1}")
    chunk = np.searchsorted(offsets, numbers, side="right") - 1
    if (chunk[1:] < chunk[:-1]).any():
        order = np.argsort(chunk, kind="stable")
        numbers, chunk = numbers[order], chunk[order]
    counts = np.bincount(chunk, minlength=len(of_chunks)).astype(np.int64)
    return RowNumbers(counts, offsets, numbers, np.cumsum(counts) - counts)


def looked_up(
    level: LevelContents, rows: slice | NDArray[np.int64] | None, bbox: Any, objects: Any
) -> slice | NDArray[np.int64] | None:
    """Return the rows that are in a box and of some objects, too; positions of the chunks that the box cuts are read."""
    if bbox is None and objects is None:
        return rows
    if objects is not None and not level.source.schema.has_objects:
        raise InputError(f"{level.url} has no objects: leave out objects=")
    columns = LevelRows(level.source, level.chunks, level.offset)
    box = None if bbox is None else as_box(bbox, level.source.schema.grid.ndim)
    found = rows_in(columns, box, None if objects is None else chosen_ids(objects).tolist())
    if rows is None:
        return found
    numbers = np.arange(len(columns), dtype=np.int64)
    given = numbers[rows] if isinstance(rows, slice) else np.asarray(rows, np.int64)
    return given[np.isin(given, numbers[found])]


# ---------------------------------------------------------------------------------------------- blocks


@dataclass(frozen=True, slots=True, eq=False)
class ChunkBlock:
    """A block as its task gets it: what to read, and which of the rows; all where None."""

    plan: BlockToRead
    rows: RowsOfBlock | None


@dataclass(frozen=True, slots=True, eq=False)
class ChunkReader:
    """How tasks read their blocks."""

    wanted: Wanted
    owners: bool
    """With the object of each vertex."""
    level: NDArray[np.int64] | None = None
    """All chunks, where links may lead to others than those of a block and are not listed by chunk."""
    chunked: bool = False
    """Skeletons of one path a fragment."""
    offset: tuple[float, ...] | None = None
    """To be added to all positions."""

    def read(self, block: ChunkBlock) -> tuple[Geometry, NDArray[np.int64]]:
        """Return a block's vertices in reading order, and how many of them are in each chunk."""
        plan, source = block.plan, block.plan.source
        # so that rows come with what tells which of their fragment and chunk they are
        part = read_block(plan, replace(self.wanted, by_object=True, places=block.rows is not None))
        kept, fragments = part.kept, part.fragments
        assert kept is not None
        assert fragments is not None
        if self.owners and source.schema.has_objects:
            table = plan.chosen if plan.chosen is not None else fragment_owners(source, plan.coords)
            owners = table.owners_in(plan.coords, fragments, source.where())
            part = replace(part, owners=np.repeat(owners, kept))
        finish = Finish(source, self.wanted, plan.coords, False, False, self.level, self.chunked, self.offset)
        geometry = finish([part], ObjectFacts())
        if part.owners is None:
            geometry = replace(geometry, object_ids=None)
        counts = sum_by_chunk(kept, fragments)
        if block.rows is None:
            return geometry, counts
        numbers = block.rows.among(_row_numbers(block, block.rows, part))
        of_chunk = np.repeat(np.arange(len(counts)), counts)[numbers]
        return take_rows(geometry, numbers), np.bincount(of_chunk, minlength=len(counts)).astype(np.int64)

    def pieces(self, block: ChunkBlock) -> Pieces:
        """Return coordinates and rows of the chunks that have any, and the name and geometry of each."""
        geometry, counts = self.read(block)
        there = np.flatnonzero(counts)
        coords, counts = block.plan.coords[there], counts[there]
        return coords, counts, partial(chunk_name, coords), cut_by_rows(geometry, counts)


def _row_numbers(block: ChunkBlock, rows: RowsOfBlock, part: Part) -> NDArray[np.int64]:
    """Return the number in its block of each row that was read."""
    assert part.fragments is not None
    assert part.counts is not None
    assert part.kept is not None
    assert part.places is not None
    found = sum_by_chunk(part.counts, part.fragments)
    odd = np.flatnonzero(found != rows.of_chunks)
    if len(odd):
        raise FormatError(
            f"the chunk's fragments cover {found[odd[0]]} rows of {rows.of_chunks[odd[0]]}, so rows can't be numbered: "
            "select by bbox=, chunks= or objects= instead",
            store=block.plan.source.where(), array="vertex_fragments", chunk=coords_to_keys(block.plan.coords[odd[:1]])[0],
        )  # fmt: skip
    return np.repeat(np.cumsum(part.counts) - part.counts, part.kept) + part.places


@dataclass(frozen=True, slots=True, eq=False)
class ChunkBlocks:
    """The plan of a selection: the chunks (`coords`) that hold something of it.

    Where `known` is None they only may, as positions or objects tell; else it is the selected vertices of each.
    """

    reader: ChunkReader
    blocks: list[ChunkBlock]
    coords: NDArray[np.int64]
    known: NDArray[np.int64] | None


def rows_limit(given: int | None, row_bytes: int) -> int:
    """Return how many rows a task handles, as a user asks for."""
    if given is None:
        return max(settings().read_block_bytes // row_bytes, 1)
    if isinstance(given, bool) or not hasattr(given, "__index__") or given < 1:
        raise InputError(f"rows_per_task is a positive number of vertices, not {given!r}")
    return int(given)


def plan_chunk_blocks(
    level: LevelContents,
    *,
    bbox: Any = None,
    chunks: Any = None,
    objects: Any = None,
    rows: slice | NDArray[np.int64] | None = None,
    attributes: Sequence[str] | None = None,
    whole: bool = True,
    within: Box | None = None,
    rows_per_task: int | None = None,
) -> ChunkBlocks:
    """Plan the reading of what is in all of a box, some chunks, some objects and some rows (numbers in reading order).

    With links and objects where `whole`. Chunks that the box `within` does not touch are left out; of the others all vertices
    are read.
    """
    source, table = level.source, level.chunks
    if objects is not None and not source.schema.has_objects:
        raise InputError(f"{level.url} has no objects: leave out objects=")
    wanted, links = what_to_read(level, attributes, linked=whole)
    selection = select_in(level, objects, bbox, chunks)
    numbers, keep_whole = selection.chunks, selection.whole
    if within is not None:
        inside = stored_box(within, source.schema.dtype, level.offset)
        near = source.schema.grid.touches(source.spatial(table.coords[numbers]), inside)
        numbers, keep_whole = numbers[near], keep_whole[near]
    wanted_rows = None if rows is None else number_rows(rows, table.rows)
    known = None if bbox is not None or objects is not None else table.rows
    if wanted_rows is not None:
        known = None if known is None else wanted_rows.counts
        some = wanted_rows.counts[numbers] > 0
        numbers, keep_whole = numbers[some], keep_whole[some]
    elif known is not None:  # others' stores may have chunks of no rows
        numbers, keep_whole = numbers[known[numbers] > 0], keep_whole[known[numbers] > 0]
    if links is not None and not wanted.trees:
        # what leads from chunk to chunk is left out in the end, so it is not read
        links = replace(links, source=replace(links.source, crossing=None))
    wanted = replace(wanted, box=selection.box, links=None if links is None else links.source)
    crossing = links is not None and links.source.crossing is not None
    reader = ChunkReader(wanted, whole, table.coords if crossing else None, level.is_chunked_skeleton, level.offset)
    row_bytes = source.schema.grid.ndim * source.schema.dtype.itemsize + sum(a.row_bytes for a in wanted.attributes) + 8 * whole
    blocks = []
    limits = (
        (table.rows[numbers], rows_limit(rows_per_task, row_bytes)),
        (np.ones(len(numbers), np.int64), settings().pass_chunks),
    )
    for start, stop in runs_of(*limits):
        mine = numbers[start:stop]
        coords = table.coords[mine]
        chosen = None if selection.chosen is None else selection.chosen.within(coords)
        plan = BlockToRead(source, coords, keep_whole[start:stop], chosen)
        if links is not None:
            plan = _with_links(level, links, plan, mine, trees=wanted.trees)
        blocks.append(ChunkBlock(plan, None if wanted_rows is None else wanted_rows.block(mine, table.rows)))
    return ChunkBlocks(reader, blocks, table.coords[numbers], None if known is None else known[numbers])


def _with_links(
    level: LevelContents, links: FoundLinks, plan: BlockToRead, numbers: NDArray[np.intp], *, trees: bool
) -> BlockToRead:
    """Return a plan that reads the links inside each chunk; of trees all, since they may say that a parent is elsewhere."""
    catalog = level_blobs(level.source).catalog
    mask, others = plan_cells(links, catalog, level.chunks, numbers, level.url, incident=trees)
    if not trees:
        inside = np.array([not any(map(any, s.offsets)) for s in links.source.segments], bool)
        mask &= inside[:, None]
    return replace(plan, cells=np.packbits(mask), others=others)
