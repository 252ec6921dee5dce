"""Blocks of chunks: planned from a selection, read by a task as one geometry, with the rows of each chunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.analysis.cutting import runs_of, take_rows
from dask_zv.analysis.row_numbers import RowsOfBlock, number_rows
from dask_zv.config import settings
from dask_zv.errors import FormatError, InputError, ZVError
from dask_zv.format.keys import coords_to_keys
from dask_zv.geometry.result import Geometry
from dask_zv.level.contents import LevelContents
from dask_zv.level.link_source import FoundLinks
from dask_zv.level.object_index import fragment_owners
from dask_zv.level.source import level_blobs
from dask_zv.read.block import BlockPlan, Part, Wanted, read_block
from dask_zv.read.levels import LINKED, choose_attributes, select_chunks
from dask_zv.read.link_reading import plan_cells
from dask_zv.read.objects import ObjectFacts
from dask_zv.read.result import Finish
from dask_zv.spatial.grid import Box, stored_box


@dataclass(frozen=True, slots=True, eq=False)
class ChunkBlock:
    """A block as its task gets it.

    Attributes
    ----------
    plan : BlockPlan
    rows : RowsOfBlock, optional
        All where None.
    """

    plan: BlockPlan
    rows: RowsOfBlock | None


@dataclass(frozen=True, slots=True, eq=False)
class ChunkReader:
    """How tasks read their blocks.

    Attributes
    ----------
    wanted : Wanted
    owners : bool
        With the object of each vertex.
    level : ndarray of int64, shape (m, K), optional
        All chunks, where links may lead to others than those of a block and are not listed by chunk.
    chunked : bool
        Skeletons of one path a fragment.
    offset : tuple of float, optional
        To be added to all positions.
    """

    wanted: Wanted
    owners: bool
    level: NDArray[np.int64] | None = None
    chunked: bool = False
    offset: tuple[float, ...] | None = None

    def read(self, block: ChunkBlock) -> tuple[Geometry, NDArray[np.int64]]:
        """Return a block's vertices in reading order, and how many of them are in each chunk.

        Raises
        ------
        FormatError, StoreError
            A chunk is missing, damaged, or does not have the rows that are asked for by number.
        """
        plan, source = block.plan, block.plan.source
        # so that rows come with what tells which of their fragment and chunk they are
        part = read_block(plan, replace(self.wanted, by_object=True, places=block.rows is not None))
        kept, fragments = part.kept, part.fragments
        assert kept is not None
        assert fragments is not None
        if self.owners and source.schema.has_objects:
            table = plan.chosen if plan.chosen is not None else fragment_owners(source, coords_to_keys(plan.coords))
            try:
                owners = table.owners_in(plan.coords, fragments)
            except ZVError as error:
                raise error.at(store=source.where()) from None
            part = replace(part, owners=np.repeat(owners, kept))
        finish = Finish(source, self.wanted, plan.coords, False, False, self.level, self.chunked, self.offset)
        geometry = finish([part], ObjectFacts())
        if part.owners is None:
            geometry = replace(geometry, object_ids=None)
        counts = _by_chunk(kept, fragments)
        if block.rows is None:
            return geometry, counts
        numbers = block.rows.among(_numbers(block, part))
        of_chunk = np.repeat(np.arange(len(counts)), counts)[numbers]
        return take_rows(geometry, numbers), np.bincount(of_chunk, minlength=len(counts)).astype(np.int64)


def _by_chunk(of_fragments: NDArray[np.int64], fragments: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the sums over the fragments of each chunk."""
    ends = np.r_[0, np.cumsum(of_fragments)].astype(np.int64, copy=False)
    out: NDArray[np.int64] = np.diff(ends[np.r_[0, np.cumsum(fragments)]])
    return out


def _numbers(block: ChunkBlock, part: Part) -> NDArray[np.int64]:
    """Return the number in its block of each row that was read."""
    assert block.rows is not None
    assert part.fragments is not None
    assert part.counts is not None
    assert part.kept is not None
    assert part.places is not None
    found = _by_chunk(part.counts, part.fragments)
    odd = np.flatnonzero(found != block.rows.of_chunks)
    if len(odd):
        raise FormatError(
            f"the chunk's fragments cover {found[odd[0]]} rows of {block.rows.of_chunks[odd[0]]}, so rows can't be numbered: "
            "select by bbox=, chunks= or objects= instead",
            store=block.plan.source.where(), array="vertex_fragments", chunk=coords_to_keys(block.plan.coords[odd[:1]])[0],
        )  # fmt: skip
    return np.repeat(np.cumsum(part.counts) - part.counts, part.kept) + part.places


@dataclass(frozen=True, slots=True, eq=False)
class ChunkBlocks:
    """The plan of a selection.

    Attributes
    ----------
    reader : ChunkReader
    blocks : list of ChunkBlock
    coords : ndarray of int64, shape (n, K)
        Chunks that hold something of the selection; those that only may, where `known` is None.
    known : ndarray of int64, shape (n,), optional
        Vertices of each that are selected, where no position needs to be read to tell.
    """

    reader: ChunkReader
    blocks: list[ChunkBlock]
    coords: NDArray[np.int64]
    known: NDArray[np.int64] | None


def rows_limit(given: int | None, row_bytes: int) -> int:
    """Return how many rows a task handles.

    Raises
    ------
    InputError
        Not a positive integer.
    """
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
    """Plan the reading of what is in all of a box, some chunks, some objects and some rows.

    Parameters
    ----------
    level : Level
    bbox, chunks, objects, attributes
        As of :meth:`Level.read`.
    rows : slice or ndarray of int64, optional
        Numbers of vertices in reading order.
    whole : bool
        With links and objects; False reads positions and attributes alone.
    within : Box, optional
        Leave out chunks that this box does not touch; of the others all vertices are read.
    rows_per_task : int, optional

    Raises
    ------
    InputError, NotFoundError
        As :meth:`Level.read`; rows out of range.
    """
    source, table = level.source, level.chunks
    if objects is not None and not source.schema.has_objects:
        raise InputError(f"{level.url} has no objects: leave out objects=")
    links = level.found_links(0) if whole and level.kind in LINKED else None
    vertex, of_links = choose_attributes(level, attributes, links)
    selection = select_chunks(level, objects, bbox, chunks)
    numbers, keep_whole = selection.chunks, selection.whole
    if within is not None:
        inside = stored_box(within, source.schema.dtype, level.offset)
        near = source.schema.grid.touches(table.coords[numbers][:, source.rank - source.schema.grid.ndim :], inside)
        numbers, keep_whole = numbers[near], keep_whole[near]
    wanted_rows = None if rows is None else number_rows(rows, table.rows)
    known = None if bbox is not None or objects is not None else table.rows
    if wanted_rows is not None:
        known = None if known is None else wanted_rows.counts
        some = wanted_rows.counts[numbers] > 0
        numbers, keep_whole = numbers[some], keep_whole[some]
    elif known is not None:  # others' stores may have chunks of no rows
        numbers, keep_whole = numbers[known[numbers] > 0], keep_whole[known[numbers] > 0]
    trees = whole and level.has_implied_edges
    parents = whole and level.kind == "skeleton" and not trees
    if links is not None and not trees:
        # what leads from chunk to chunk is left out in the end, so it is not read
        links = replace(links, source=replace(links.source, crossing=None))
    of_level = None if links is None else links.source
    wanted = Wanted(vertex, selection.box, trees=trees, parents=parents, links=of_level, link_attributes=of_links)
    crossing = links is not None and links.source.crossing is not None
    reader = ChunkReader(
        wanted, whole, table.coords if crossing else None, level.is_chunked_skeleton, level.offset
    )  # fmt: skip
    row_bytes = source.schema.grid.ndim * source.schema.dtype.itemsize + sum(a.row_bytes for a in vertex) + 8 * whole
    blocks = []
    for start, stop in runs_of(table.rows[numbers], rows_limit(rows_per_task, row_bytes), settings().pass_chunks):
        mine = numbers[start:stop]
        coords = table.coords[mine]
        chosen = None if selection.chosen is None else selection.chosen.within(coords)
        plan = BlockPlan(source, coords, keep_whole[start:stop], chosen)
        if links is not None:
            plan = _with_links(level, links, plan, mine, trees=trees)
        blocks.append(ChunkBlock(plan, None if wanted_rows is None else wanted_rows.block(mine, table.rows)))
    return ChunkBlocks(reader, blocks, table.coords[numbers], None if known is None else known[numbers])


def _with_links(
    level: LevelContents, links: FoundLinks, plan: BlockPlan, numbers: NDArray[np.intp], *, trees: bool
) -> BlockPlan:
    """Return a plan that reads the links inside each chunk; of trees all, since they may say that a parent is elsewhere."""
    catalog = level_blobs(level.source).catalog
    mask, others = plan_cells(links, catalog, level.chunks, numbers, level.url, incident=trees)
    if not trees:
        inside = np.array([not any(map(any, s.offsets)) for s in links.source.segments], bool)
        mask &= inside[:, None]
    return replace(plan, cells=np.packbits(mask), others=others)
