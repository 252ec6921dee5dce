"""Bringing rows together by block: every partition is split once, every block gathers its pieces.

A block is a run of chunks along the Morton curve, so a partition whose points lie together feeds few blocks, and the graph has
an edge only where a partition has rows for a block. Small partitions are split several at a time, for fewer edges. Routing is
by exact division of chunk codes, never by a hash; pieces are gathered in the order of the partitions, so rows keep the input's
order whatever order the scheduler works in.

Pieces of inputs that memory has no room for go through files: on a cluster those of each worker (:mod:`.spill`), on a
local scheduler in Dask's temporary directory.
"""

from __future__ import annotations

import dataclasses
import tempfile
import uuid
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import numpy as np
from dask.task_spec import List, Task, TaskRef
from numpy.typing import NDArray

from dask_zv.config import settings
from dask_zv.errors import ZVWarning
from dask_zv.format.grids import GridSpec
from dask_zv.geometry.rows import VertexRows, concatenate_rows
from dask_zv.geometry.schema import AttributeSchema
from dask_zv.graph.builder import GraphBuilder
from dask_zv.graph.run import cluster_memory
from dask_zv.spatial.chunks import group_by_chunk, morton_codes
from dask_zv.write.convert import Conversion, Seen, convert_again
from dask_zv.write.partitions import Partitions, RawPart
from dask_zv.write.scan import Scan, span_codes
from dask_zv.write.spill import FiledPiece, SpilledPiece, in_file, make_spill, note_worker

_ROW_COPIES, _ROW_NUMBERS = 3, 128
"""What storing a block holds for a row: its bytes joined, as blobs, and (in part) sorted or encoded; and besides, whatever the
row's bytes, its chunk, its place in it, its order, its object and fragment, integers of 8 bytes."""


@dataclass(frozen=True, slots=True, eq=False)
class BlockPlan:
    """How chunks are divided into blocks: runs along the Morton curve, of chunks or, in layout ``grid``, of shards."""

    starts: NDArray[Any]  # (B,) uint64 or object: least Morton code of each block, which ends where the next starts
    origin: tuple[int, ...] | None = None  # first chunk of the grid; None in layout per_chunk
    unit: tuple[int, ...] | None = None  # chunks in a shard along each axis; None where chunks are no part of one
    group_rows: int = 0  # partitions of together at most so many rows are split by one task

    def __len__(self) -> int:
        return len(self.starts)

    def groups(self, scan: Scan) -> list[list[int]]:
        """Return the partitions that one task splits, group by group: neighbours in the order of the input."""
        groups: list[list[int]] = []
        rows = 0
        for number in sorted(scan.spans):
            more = scan.parts[number].rows
            if groups and rows + more <= self.group_rows:
                groups[-1].append(number)
                rows += more
            else:
                groups.append([number])
                rows = more
        return groups

    def morton_of(self, coords: NDArray[np.int64]) -> NDArray[Any]:
        """Return the Morton code of each chunk, or of the shard that holds it; coords (n, D) to (n,)."""
        if self.origin is not None:
            coords = coords - np.asarray(self.origin, np.int64)
        if self.unit is not None:
            coords = coords // np.asarray(self.unit, np.int64)
        return morton_codes(coords)

    def blocks_of(self, coords: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the block of each chunk, coords (n, D) to int64 (n,)."""
        codes = self.morton_of(coords)
        if codes.dtype != self.starts.dtype:
            codes, starts = codes.astype(object), self.starts.astype(object)
        else:
            starts = self.starts
        return np.searchsorted(starts, codes, side="right").astype(np.int64) - 1


def plan_blocks(
    scan: Scan,
    row_bytes: int,
    shards: int | None,
    partitions: int,
    grid: GridSpec | None = None,
    memory: int | None = None,
) -> BlockPlan:
    """Divide the chunks that have rows into blocks of whole shards, balanced by true counts.

    `row_bytes` are those of a row in all arrays, `shards` the chunks of a shard in layout ``per_chunk``, `memory` the bytes
    that a task may use for what it makes of a block. Many partitions make larger blocks, so that the graph stays small. A
    chunk (or a shard that was asked for) that is too large for a block is one of its own, with a warning.
    """
    shape = BlockPlan(np.zeros(0, np.uint64), *((grid.origin, grid.shard_shape) if grid is not None else (None, None)))
    if not len(scan.coords):
        return shape
    codes = shape.morton_of(scan.coords)
    order = np.argsort(codes, kind="stable")
    codes, counts = codes[order], scan.counts[order]
    units = codes - codes % codes.dtype.type(shards or 1) if codes.dtype != object else codes - codes % (shards or 1)
    first = np.flatnonzero(np.r_[True, units[1:] != units[:-1]])
    rows = np.add.reduceat(counts, first)
    chunks = np.diff(np.r_[first, len(codes)])
    total = int(rows.sum()) * row_bytes
    given = settings()
    most_bytes = given.write_block_limit
    if memory is not None:
        room = memory // 2 * row_bytes // (_ROW_COPIES * row_bytes + _ROW_NUMBERS)
        most_bytes = int(np.clip(min(memory // given.block_share, room), given.write_block_least, given.write_block_limit))
    group_bytes = min(total // given.write_groups, given.write_block_bytes[1], most_bytes // 2)
    splits = min(partitions, 2 * given.write_groups + total // max(group_bytes, 1))
    target = min(int(np.clip(total // 8, *given.write_block_bytes)), most_bytes)
    target = max(target, min(total * splits // given.write_edges, most_bytes))
    largest = int(rows.argmax())
    if int(rows[largest]) * row_bytes > most_bytes:
        _warn_of_large(scan, order[first[largest]], int(rows[largest]), int(rows[largest]) * row_bytes, int(chunks[largest]))
    # a pair of partition and block is a task: many partitions make blocks of many chunks
    most_chunks = max(given.write_block_chunks, min(len(codes) * splits // given.write_edges, given.write_block_most_chunks))
    # one cost for bytes and for chunks, cut where it passes whole numbers
    cost = rows * (row_bytes / target) + chunks / most_chunks
    number = np.floor(np.cumsum(cost) - cost / 2).astype(np.int64)
    starts = first[np.r_[True, number[1:] != number[:-1]]]
    return dataclasses.replace(shape, starts=units[starts], group_rows=group_bytes // row_bytes)


def _warn_of_large(scan: Scan, at: int, rows: int, nbytes: int, chunks: int) -> None:
    key = ".".join(map(str, scan.coords[at].tolist()))
    what = f"chunk {key}" if chunks == 1 else f"the shard of chunk {key}, of {chunks:,} chunks,"
    warnings.warn(
        f"{what} holds {rows:,} vertices, {nbytes / 1e6:,.0f} MB: it is written by one task, which needs several times that "
        f"memory; {'a smaller chunk_shape' if chunks == 1 else 'smaller shards (shard_chunks=)'} would divide it",
        ZVWarning,
        stacklevel=2,
    )


Piece = VertexRows | SpilledPiece | FiledPiece
Pieces = Mapping[int, Piece]


def split_part(
    conversion: Conversion,
    schemas: Sequence[AttributeSchema],
    plan: BlockPlan,
    number: int,
    start: int | None,
    before: Seen,
    wanted: Collection[int] | None,
    part: RawPart,
) -> dict[int, VertexRows]:
    """Return a partition's rows as they are stored, divided by block, in input order in each; of the `wanted` blocks alone."""
    rows = convert_again(conversion, schemas, number, start, before, part)
    if not len(rows):
        return {}
    coords, which = group_by_chunk(conversion.grid.chunks_of(rows.positions))
    block = plan.blocks_of(coords)[which]
    found = np.unique(block)
    if wanted is not None:
        found = np.intersect1d(found, np.fromiter(wanted, np.int64, len(wanted)))
    if not len(found):
        return {}
    if len(found) == 1 and (wanted is None or (block == found[0]).all()):
        return {int(found[0]): rows}
    order = np.argsort(block, kind="stable") if len(plan) > 1 << 16 else np.argsort(block.astype(np.uint16), kind="stable")
    ends = np.cumsum(np.bincount(block, minlength=int(found[-1]) + 1))
    return {b: rows.take(order[ends[b - 1] if b else 0 : ends[b]]) for b in found.tolist()}


def split_group(
    conversion: Conversion,
    schemas: Sequence[AttributeSchema],
    plan: BlockPlan,
    spill: str | None,
    numbers: Sequence[int],
    starts: Sequence[int | None],
    before: Sequence[Seen],
    wanted: Collection[int] | None,
    parts: Sequence[RawPart],
) -> dict[int, Piece]:
    """Return the rows of some partitions as :func:`split_part` does, in the partitions' order."""
    divided: dict[int, list[VertexRows]] = {}
    for number, start, seen, part in zip(numbers, starts, before, parts, strict=True):
        for block, rows in split_part(conversion, schemas, plan, number, start, seen, wanted, part).items():
            divided.setdefault(block, []).append(rows)
    on_worker = spill is not None and note_worker()
    pieces: dict[int, Piece] = {}
    for block in sorted(divided):
        some = divided.pop(block)
        piece = concatenate_rows(some, sum(map(len, some)))
        if spill is None:
            pieces[block] = piece
        elif on_worker:
            pieces[block] = in_file(piece)
        else:
            pieces[block] = SpilledPiece.put(spill, f"{numbers[0]}-{block}", piece)
    return pieces


def pick(pieces: Pieces, block: int) -> Piece | None:
    """Return one block's piece of a split partition, None where it has no rows for the block."""
    return pieces.get(block)


def gather(block: int, spill: str | None, pieces: Sequence[Piece | Pieces | None]) -> VertexRows:
    """Return a block's rows from its pieces, in the order of the partitions."""
    if spill is not None:
        note_worker()
    found = [pick(piece, block) if isinstance(piece, Mapping) else piece for piece in pieces]
    held = [p for p in found if p is not None]
    rows = (p.load() if isinstance(p, SpilledPiece | FiledPiece) else p for p in held)
    return concatenate_rows(rows, sum(map(len, held)))


def spill_directory(total_bytes: int) -> str | None:
    """Return where pieces of a large input go, None where they stay in memory.

    The directory is that of a local scheduler. On a cluster pieces go into files of the workers where the input would fill
    more than a part of what memory they have for tasks.
    """
    memory = cluster_memory()
    if total_bytes < (settings().spill_bytes if memory is None else memory // settings().spill_share):
        return None
    parent = dask.config.get("temporary-directory", None) or tempfile.gettempdir()
    return str(Path(parent) / f"dask-zv-{uuid.uuid4().hex[:12]}")


def split_partitions(
    builder: GraphBuilder,
    partitions: Partitions,
    conversion: Conversion,
    schemas: Sequence[AttributeSchema],
    plan: BlockPlan,
    block_map: PartitionBlockMap,
    spill: str | None,
    *,
    numbered: bool = False,
    wanted: Collection[int] | None = None,
) -> dict[int, Task]:
    """Add the splitting tasks; return for each block the task that gathers its rows, to be inlined where it is used.

    With `numbered` every row carries its number in the whole input. With `wanted` there are those blocks alone.
    """
    scan = block_map.scan
    starts = scan.starts().tolist()
    only = None if wanted is None or len(wanted) == len(plan) else frozenset(wanted)
    sources: dict[int, list[TaskRef]] = {b: [] for b in (range(len(plan)) if only is None else sorted(only))}
    folder = builder.add(builder.key("spill"), make_spill, spill) if spill is not None else None
    arguments = list(partitions.arguments(builder))
    for group in plan.groups(scan):
        blocks_of = {number: block_map.blocks(number) for number in group}
        touched = sorted({b for blocks in blocks_of.values() for b in blocks})
        some: tuple[int, ...] | None = None
        if only is not None and not only.issuperset(touched):
            some = tuple(b for b in touched if b in only)
            group, touched = [n for n in group if not only.isdisjoint(blocks_of[n])], list(some)
        if not touched:
            continue
        split = builder.add(
            builder.key("split", group[0]),
            split_group,
            conversion,
            tuple(schemas),
            plan,
            folder,
            tuple(group),
            tuple(starts[n] if numbered else None for n in group),
            tuple(Seen(facts.rows, facts.digest, facts.dropped) for facts in (scan.parts[n] for n in group)),
            some,
            List(*(arguments[n] for n in group)),
        )
        for block in touched:
            if len(touched) == 1:
                sources[block].append(split)
            else:
                sources[block].append(builder.add(builder.key("piece", f"{group[0]}-{block}"), pick, split, block))
    return {block: Task(None, gather, block, spill, List(*refs)) for block, refs in sources.items()}


class PartitionBlockMap:
    """The blocks that each partition can have rows for; what was asked once is remembered."""

    def __init__(self, plan: BlockPlan, scan: Scan) -> None:
        codes = span_codes(scan.coords)
        order = np.argsort(codes, kind="stable")
        self.scan = scan
        self._codes = codes[order]
        self._blocks = plan.blocks_of(scan.coords)[order]
        self._known: dict[int, list[int]] = {}

    def blocks(self, partition: int) -> list[int]:
        """Return the blocks of all chunks in the partition's spans, ascending."""
        found = self._known.get(partition)
        if found is None:
            spans = self.scan.spans[partition]
            lows = np.searchsorted(self._codes, spans[:, 0], side="left").tolist()
            highs = np.searchsorted(self._codes, spans[:, 1], side="right").tolist()
            parts = [self._blocks[low:high] for low, high in zip(lows, highs, strict=True)]
            found = np.unique(np.concatenate(parts)).tolist() if parts else []
            self._known[partition] = found
        return found
