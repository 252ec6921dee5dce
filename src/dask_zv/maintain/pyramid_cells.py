"""Coarser levels of vertices that nothing joins: one pass over the source, in tasks that each store blocks of all levels.

A task reads the chunks of the source below some chunks of a coarser level, gathers their vertices by cells, and stores what
comes of it at every level up to that one. Where the chunks of the coarsest levels hold more than a task should read, it stops
at a level below, and hands the sums and counts of its cells to the tasks of the next *tier*. A chunk consists of whole chunks
of the level before, so no two tasks store the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask.task_spec import List, TaskRef
from numpy.typing import NDArray

from dask_zv.config import settings
from dask_zv.errors import InputError
from dask_zv.format.keys import coords_to_keys
from dask_zv.geometry.block import BlockExtra, EncodedBlock
from dask_zv.geometry.cells import Column, GatheredCells
from dask_zv.geometry.points import encode_points
from dask_zv.geometry.rows import VertexRows
from dask_zv.geometry.schema import AttributeSchema, PointSchema
from dask_zv.graph.builder import GraphBuilder
from dask_zv.graph.tasks import run_block
from dask_zv.level.object_index import fragment_owners
from dask_zv.level.source import ChunkTable, LevelSource, level_blobs
from dask_zv.read.decode import decode_block, fetch
from dask_zv.spatial.chunks import ChunkLookup, group_by_chunk, morton_order, runs_of
from dask_zv.storage.specs import BlockResult, BlockSpec
from dask_zv.write.journal import Journal

_PASS_BYTES = 4 << 20
"""What a task reads at a time, of the bytes in all arrays: gathering takes several times as much."""


@dataclass(frozen=True, slots=True, eq=False)
class CellLevel:
    """One coarser level, as tasks make it."""

    number: int
    block: BlockSpec
    schema: PointSchema
    kept: NDArray[np.int64] | None  # ids of the objects that the level keeps, ascending; all where None
    journal: Journal | None = None


@dataclass(frozen=True, slots=True, eq=False)
class CellJob:
    """What all tasks of a build share."""

    source: LevelSource
    read: tuple[AttributeSchema, ...]
    columns: tuple[Column, ...]
    count: str  # the attribute that counts vertices
    factor: NDArray[np.int64]  # (D,)
    per_chunk: NDArray[np.int64]  # (D,): cells along the edges of a chunk, at every level
    base: NDArray[Any] | None  # integer positions are summed from here on
    seed: int
    levels: tuple[CellLevel, ...]  # ascending, from 1 on


@dataclass(frozen=True, slots=True, eq=False)
class Tier:
    """Blocks that make the levels from `first` to `last`."""

    first: int
    last: int
    units: ChunkLookup  # chunks of level `last`
    block: NDArray[np.int64]  # block of each unit
    sources: tuple[NDArray[np.int64], ...]  # of each block: the source's chunks (first tier), or the blocks of the tier before

    def __len__(self) -> int:
        return len(self.sources)


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """What a task returns: the result of its block at each of its levels, and cells for the blocks of the next tier."""

    results: tuple[BlockResult, ...]
    cells: Mapping[int, GatheredCells]


def plan_tiers(
    coords: NDArray[np.int64], rows: NDArray[np.int64], factor: NDArray[np.int64], levels: int, most: int
) -> list[Tier]:
    """Divide the chunks (n, D) of the source, with so many rows, into blocks of at most about `most` rows, tier by tier."""
    tiers: list[Tier] = []
    before = np.zeros(0, np.int64)  # block of each of `coords` in the tier before
    at, counted = 0, 0  # the level that `coords` are chunks of, and that `rows` are cells of
    while at < levels:
        last = at + 1
        while last < levels:
            number = group_by_chunk(coords // factor ** (last + 1 - at))[1]
            if int(np.bincount(number, weights=rows).max(initial=0)) > most:
                break
            last += 1
        units, number = group_by_chunk(coords // factor ** (last - at))
        held = np.bincount(number, weights=rows, minlength=len(units)).astype(np.int64)
        chunks = np.bincount(number, minlength=len(units))
        order = morton_order(units)
        runs = runs_of((held[order], most), (chunks[order], settings().write_block_most_chunks))
        block = np.zeros(len(units), np.int64)
        for i, (start, stop) in enumerate(runs):
            block[order[start:stop]] = i
        mine = block[number]
        if not tiers:
            ends = np.cumsum(np.bincount(mine, minlength=len(runs)))
            sources = tuple(np.split(np.argsort(mine, kind="stable"), ends[:-1])) if runs else ()
        else:
            pairs = np.unique(np.stack([mine, before], axis=1), axis=0)
            sources = tuple(pairs[pairs[:, 0] == i, 1] for i in range(len(runs)))
        tiers.append(Tier(at + 1, last, ChunkLookup(units), block, sources))
        shrink = int(np.prod(factor)) ** (last + 1 - counted)
        coords, before, rows = units, block, np.maximum(held // shrink, 1)
        at, counted = last, last + 1
    return tiers


def block_rows(total: int, row_bytes: int) -> int:
    """Return how many rows a block should have."""
    low, high = settings().write_block_bytes
    return max(int(np.clip(total * row_bytes // 8, low, high)) // max(row_bytes, 1), 1)


def add_tiers(
    builder: GraphBuilder,
    job: CellJob,
    tiers: Sequence[Tier],
    table: ChunkTable,
    done: Mapping[int, Mapping[int, BlockResult]],
    before: Sequence[TaskRef],
) -> dict[int, list[TaskRef]]:
    """Add the tasks of all tiers; return the results of the blocks of each level.

    `table` are the source's chunks, `done` the blocks that an earlier run has stored, by level and number.
    """
    shared = builder.share("job", job)
    made: list[TaskRef] = []
    results: dict[int, list[TaskRef]] = {}
    count = 0
    for tier, after in zip(tiers, [*tiers[1:], None], strict=True):
        following = None if after is None else builder.share(f"next-{tier.last}", (after.units, after.block, after.last))
        now: list[TaskRef] = []
        for number, source in enumerate(tier.sources):
            earlier = {n: done[n][number] for n in range(tier.first, tier.last + 1) if number in done.get(n, {})}
            key = builder.key("store", count)
            count += 1
            given: Any = (table.coords[source], table.rows[source])
            if tier is not tiers[0]:
                parts = (
                    builder.add(builder.key("cells", f"{tier.first}-{b}-{number}"), _cells_for, made[b], number)
                    for b in source.tolist()
                )
                given = List(*parts)
            now.append(
                builder.store(key, make_levels, shared, key, number, tier.first, tier.last, given, earlier, following, *before)
            )
        for place, level in enumerate(range(tier.first, tier.last + 1)):
            results[level] = [
                builder.add(builder.key("result", f"{level}-{b}"), _result_of, ref, place) for b, ref in enumerate(now)
            ]
        made = now
    return results


def _cells_for(made: Made, block: int) -> GatheredCells | None:
    return made.cells.get(block)


def _result_of(made: Made, place: int) -> BlockResult:
    return made.results[place]


def make_levels(
    job: CellJob,
    key: str,
    number: int,
    first: int,
    last: int,
    given: Any,
    done: Mapping[int, BlockResult],
    following: tuple[ChunkLookup, NDArray[np.int64], int] | None,
    *_: Any,
) -> Made:
    """Gather a block's vertices, and store it at its levels: the body of every task."""
    if following is None and len(done) == last - first + 1:
        return Made(tuple(done[n] for n in range(first, last + 1)), {})
    ones = np.ones_like(job.factor)
    if isinstance(given, tuple):
        cells = _gather(job, *given)
    else:
        cells = GatheredCells.join([c for c in given if c is not None]).coarser(job.columns, ones)
    results: list[BlockResult] = []
    for level in job.levels[first - 1 : last]:
        if level.number > first:
            cells = cells.coarser(job.columns, job.factor)
        if level.kept is not None:
            cells = cells.of_objects(level.kept)
        if level.number in done:
            results.append(done[level.number])
            continue
        encoded = encode_level(level.schema, cells.rows(job.columns, level.schema, job.per_chunk, job.base, job.count))
        topic = level.block.topic if level.number == last else ""
        spec = dataclasses.replace(level.block, topic=topic)
        stored = run_block("vertices", number, key, None, spec, encoded)
        results.append(stored if level.journal is None else level.journal(stored))
    handed: dict[int, GatheredCells] = {}
    if following is not None:
        units, block, above = following
        cells = cells.coarser(job.columns, job.factor)
        ndim = len(job.factor)
        chunks = cells.cells[:, :ndim] // (job.per_chunk * job.factor ** (above - last - 1))
        of = block[units.find(chunks)]
        for b in np.unique(of).tolist():
            handed[b] = cells.some(np.flatnonzero(of == b))
    return Made(tuple(results), handed)


def encode_level(schema: PointSchema, rows: VertexRows) -> EncodedBlock:
    """Return the blobs of a block of vertices; those of no object have fragments that no manifest names."""
    encoded = encode_points(schema, rows)
    fragments = None if encoded.extra is None else encoded.extra.fragments
    if fragments is not None and (fragments.objects < 0).any():
        return dataclasses.replace(encoded, extra=BlockExtra(fragments.take(fragments.objects >= 0)))
    return encoded


def _gather(job: CellJob, coords: NDArray[np.int64], rows: NDArray[np.int64]) -> GatheredCells:
    """Read chunks of the source, and gather their vertices by the cells of the first coarser level."""
    blobs = level_blobs(job.source)
    row_bytes = job.source.schema.row_bytes
    parts: list[GatheredCells] = []
    for start, stop in runs_of((rows * row_bytes, _PASS_BYTES), (np.ones(len(rows), np.int64), settings().pass_chunks)):
        some = coords[start:stop]
        found = fetch(job.source, blobs, coords_to_keys(some), job.read)
        block = decode_block(job.source, blobs, some, job.read, found)
        del found
        owners = None
        if job.source.schema.has_objects:
            of_fragments = fragment_owners(job.source, some).owners_in(some, block.fragments.numbers, job.source.where())
            if (of_fragments < -1).any():
                raise InputError(
                    f"{job.source.where()}: several objects share a fragment, and a level of it would not tell whose its "
                    "vertices are: write the objects with vertices of their own"
                )
            owners = np.repeat(of_fragments, block.fragments.counts)
        chunks = np.repeat(some, block.fragments.rows, axis=0) // job.factor
        edges = np.asarray(job.source.schema.grid.chunk_shape) * job.factor / job.per_chunk
        cells = np.empty(chunks.shape, np.int64)
        for axis, edge in enumerate(edges.tolist()):
            least = chunks[:, axis] * job.per_chunk[axis]
            local = np.floor(block.positions[:, axis].astype(np.float64) / edge).astype(np.int64) - least
            cells[:, axis] = np.clip(local, 0, job.per_chunk[axis] - 1) + least
        parts.append(GatheredCells.of_rows(job.columns, cells, owners, block.positions, block.columns, job.base, job.seed))
    return parts[0] if len(parts) == 1 else GatheredCells.join(parts).coarser(job.columns, np.ones_like(job.factor))
