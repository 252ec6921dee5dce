"""Where chunks go together: in shards, which are stored objects, and in blocks, which are tasks; for writes and for copies.

A write knows its rows from the scan: blocks are balanced runs of whole shards along the Morton curve. A copy knows the blobs:
its blocks are runs of whole shards of the target, of a bounded number of chunks. Shards that a store leaves to us are one chunk
each where there are few and objects are cheap; in writes they are halved until the densest is no more than a task can hold.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.config import settings
from dask_zv.errors import PlanError, ZVWarning
from dask_zv.format.grids import GridSpec, codec_list
from dask_zv.format.keys import coords_to_keys
from dask_zv.level.contents import LevelContents
from dask_zv.spatial.chunks import group_by_chunk, morton_codes, runs_of
from dask_zv.storage.grid.plan import cut_units, grid_of_bounds, packing
from dask_zv.storage.handles import open_objects
from dask_zv.storage.nodes import load_catalog
from dask_zv.storage.objects import Address
from dask_zv.storage.opening import objects_are_cheap
from dask_zv.storage.per_chunk.plan import cut_shards
from dask_zv.storage.specs import GridPlan
from dask_zv.write.scan import Scan, span_codes

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


# ---------------------------------------------------------------------------------------------- blocks of a copy


def copied_blocks(coords: Mapping[str, NDArray[np.int64]], grids: GridPlan | None, shards: int | None) -> list[list[Address]]:
    """Cut all chunks into blocks of whole target shards; arrays of one grid go together."""
    addresses = [(array, key) for array, found in coords.items() for key in coords_to_keys(found)]
    units = cut_units(grids, addresses) if grids is not None else cut_shards(addresses, shards)
    chunks = np.array([len({key for _, key in unit}) for unit in units], np.int64)
    return [[address for unit in units[a:b] for address in unit] for a, b in runs_of((chunks, settings().pass_chunks))]


# ---------------------------------------------------------------------------------------------- shards


def run_of_shard(
    asked: int | str,
    coords: NDArray[np.int64],
    *,
    local: bool,
    url: str,
    counts: NDArray[np.int64] | None = None,
    row_bytes: int = 0,
) -> int | None:
    """Return the chunks of a shard in layout ``per_chunk``, None for an object per chunk.

    With the rows of each chunk, `counts`, shards that are ``"auto"`` are so small that the densest has few enough bytes.
    """
    if asked == 1 or (asked == "auto" and local and len(coords) <= settings().few_chunks):
        return None
    codes = morton_codes(coords) if len(coords) else np.zeros(0, np.uint64)
    if len(coords) and int(codes.max()) > np.iinfo(np.int64).max:
        if asked == "auto":
            return None
        raise PlanError(
            f"shards of chunks from {coords.min(axis=0).tolist()} to {coords.max(axis=0).tolist()} have numbers beyond "
            "2**63: create the store with shard_chunks=1, choose a larger chunk_shape, or shift the positions",
            store=url,
        )
    if isinstance(asked, int):
        return asked
    shards, most = settings().shard_chunks, settings().shard_bytes
    if counts is not None and int(counts.sum()) * row_bytes > most:
        while shards > 1 and _densest((codes // shards).astype(np.int64)[:, None], counts) * row_bytes > most:
            shards //= 2
    return None if shards == 1 else shards


def _densest(units: NDArray[Any], counts: NDArray[np.int64]) -> int:
    """Return the rows of the unit (a shard) that has most; units (n, D) of chunks, and the rows of each chunk."""
    which = group_by_chunk(units)[1]
    return int(np.bincount(which, weights=counts).max())


def _fitting(shape: tuple[int, ...] | None, scan: Scan, low: NDArray[np.int64], row_bytes: int) -> tuple[int, ...] | None:
    """Return the extents of a shard, halved until the densest shard is no more than a task can hold."""
    while shape is not None and scan.rows * row_bytes > settings().shard_bytes:
        if _densest((scan.coords - low) // np.array(shape), scan.counts) * row_bytes <= settings().shard_bytes:
            break
        axis = int(np.argmax(shape))
        halved = tuple(max(s // 2, 1) if i == axis else s for i, s in enumerate(shape))
        shape = None if halved == shape or max(halved) == 1 else halved
    return shape


def plan_grid(level: LevelContents, scan: Scan, arrays: Sequence[str], mode: str, row_bytes: int) -> GridPlan:
    """Return the grid of the level's arrays: of the store's bounds where they were declared, and always of the data."""
    store, metadata = level.store, level.store.metadata
    corners = [scan.coords.min(axis=0), scan.coords.max(axis=0)] if len(scan.coords) else []
    if store.settings.get("bounds", "declared") == "declared" or not corners:
        origin, shape = grid_of_bounds(level.metadata.chunk_shape_in(metadata.chunk_shape), *metadata.bounds)
        corners += [np.array(origin, np.int64), np.array(origin, np.int64) + np.array(shape, np.int64) - 1]
    spec = grid_around(np.array(corners), codec_list(store.settings.get("codecs", "zstd")))
    asked = store.settings.get("shard_chunks", "auto")
    shards = packing(asked, len(scan.coords), spec.shape, local=objects_are_cheap(store.handle))
    if asked == "auto":
        shards = _fitting(shards, scan, np.array(spec.origin, np.int64), row_bytes)
    spec = dataclasses.replace(spec, shard_shape=shards)
    catalog = load_catalog(open_objects(store.handle), level.place.prefix)
    return GridPlan(dict.fromkeys(arrays, spec), token="" if catalog is None else catalog.token, alone=mode != "overwrite")


def grid_around(coords: NDArray[np.int64], codecs: tuple[Mapping[str, Any], ...]) -> GridSpec:
    """Return the least grid, without shards, that has some chunks (n, D)."""
    low, high = coords.min(axis=0), coords.max(axis=0)
    return GridSpec(tuple((high - low + 1).tolist()), tuple(low.tolist()), None, codecs)
