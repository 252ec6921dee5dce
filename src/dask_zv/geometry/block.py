"""From the rows of a block to what its task stores and reports, whatever the geometry.

Geometries differ in how they arrange rows: an *arrangement* says in which order the rows of each chunk are stored and where
its fragments begin. Source: Zarr Vectors format, vertices and fragment index.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.format.fragments import encode_single, encode_tiling
from dask_zv.format.keys import coords_to_keys
from dask_zv.geometry.rows import LinkRows, VertexRows
from dask_zv.geometry.schema import FRAGMENTS, VERTICES, PointSchema
from dask_zv.spatial.chunks import group_by_chunk


@dataclass(frozen=True, slots=True, eq=False)
class ChunkedRows:
    """Rows with the chunk of each."""

    rows: VertexRows
    chunks: NDArray[np.int64]  # (n, D)
    coords: NDArray[np.int64]  # (m, D): The chunks, ascending
    number: NDArray[np.int64]  # (n,): The chunk of each row, as a place in `coords`


def chunk_rows(schema: PointSchema, rows: VertexRows) -> ChunkedRows:
    """Find the chunk of every row."""
    chunks = schema.grid.chunks_of(rows.positions)
    return ChunkedRows(rows, chunks, *group_by_chunk(chunks))


def stable_order(values: NDArray[np.int64], limit: int) -> NDArray[np.intp]:
    """Return the stable order of integers in [0, limit); numpy sorts 16-bit integers in linear time."""
    if limit <= 1 << 16:
        return np.argsort(values.astype(np.uint16), kind="stable")
    return np.argsort(values, kind="stable")


@dataclass(frozen=True, slots=True, eq=False)
class Fragments:
    """Fragments of objects in a block, chunk by chunk; all of shape (F,) but `coords`."""

    objects: NDArray[np.int64]  # Owner of each
    coords: NDArray[np.int64]  # (F, D): Its chunk
    fragments: NDArray[np.int64]  # Its number in the chunk
    first: NDArray[np.int64]  # Its first row among the chunk's vertices, and its rows
    count: NDArray[np.int64]
    sequence: NDArray[np.int64]  # Ascending along each object: the order of its manifest

    def __len__(self) -> int:
        return len(self.objects)

    def __sizeof__(self) -> int:
        return self.coords.nbytes + 5 * self.objects.nbytes + 200

    def take(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> Fragments:
        """Return some of them, or all in another order."""
        return Fragments(*(getattr(self, f)[rows] for f in self.__slots__))

    @classmethod
    def join(cls, parts: Sequence[Fragments], ndim: int) -> Fragments:
        """Return the fragments of all parts."""
        nothing = np.zeros(0, np.int64)
        if not parts:
            return cls(nothing, np.zeros((0, ndim), np.int64), nothing, nothing, nothing, nothing)
        return cls(*(np.concatenate([getattr(p, f) for p in parts]) for f in cls.__slots__))


@dataclass(frozen=True, slots=True, eq=False)
class Arrangement:
    """How a block's rows are stored."""

    order: NDArray[np.intp]  # (n,): Rows chunk by chunk, in the order in which each chunk stores them
    counts: Sequence[NDArray[np.int64]] | None  # Rows of each fragment, for each chunk; None where each chunk has one fragment
    fragments: Fragments | None = None  # Who owns them; None where there are no objects


def cut_fragments(
    block: ChunkedRows, order: NDArray[np.intp], starts: NDArray[np.bool_], sequence: NDArray[np.int64] | None = None
) -> Arrangement:
    """Return the arrangement whose fragments begin where `starts` is true; every first row of a chunk must be one.

    Shapes: `order` (n,), `starts` (n,), `sequence` (n,).
    """
    m = len(block.coords)
    first = np.flatnonzero(starts)
    heads = order[first]
    owners = block.number[heads]
    count = np.diff(np.r_[first, len(order)])
    per_chunk = np.bincount(owners, minlength=m)
    edges = np.r_[0, np.cumsum(per_chunk)]
    fragments = np.arange(len(first)) - edges[owners]
    chunk_start = np.r_[0, np.cumsum(np.bincount(block.number, minlength=m))][:-1]
    found = Fragments(
        block.rows.ids[heads],
        block.coords[owners],
        fragments,
        first - chunk_start[owners],
        count,
        np.zeros(len(first), np.int64) if sequence is None else sequence[heads],
    )
    return Arrangement(order, [count[edges[i] : edges[i + 1]] for i in range(m)], found)


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Places of some vertices."""

    numbers: NDArray[np.int64]  # (n,): Their places in the input, ascending
    ids: NDArray[np.int64] | None  # (n,): What links call them, where that is not their numbers
    coords: NDArray[np.int64]  # (c, K): Chunks
    chunks: NDArray[np.int32]  # (n,): Chunk of each, as a place in `coords`
    rows: NDArray[np.int64]  # (n,): Row of each among its chunk's vertices
    objects: NDArray[np.int64] | None = None  # (n,)

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def names(self) -> NDArray[np.int64]:
        """What links call them."""
        return self.numbers if self.ids is None else self.ids

    def __sizeof__(self) -> int:
        names = 0 if self.ids is None else self.ids.nbytes
        objects = 0 if self.objects is None else self.objects.nbytes
        return self.numbers.nbytes + names + self.coords.nbytes + self.chunks.nbytes + self.rows.nbytes + objects + 200

    def between(self, first: int, last: int) -> Places:
        """Return the places of the vertices whose numbers are in [first, last)."""
        a, b = np.searchsorted(self.numbers, [first, last]).tolist()
        used, at = np.unique(self.chunks[a:b], return_inverse=True)
        return Places(
            self.numbers[a:b],
            None if self.ids is None else self.ids[a:b],
            self.coords[used],
            at.reshape(-1).astype(np.int32),
            self.rows[a:b],
            None if self.objects is None else self.objects[a:b],
        )

    @classmethod
    def join(cls, parts: Sequence[Places], ndim: int) -> Places:
        """Return the places of all parts, ascending by name."""
        if not parts:
            none = np.zeros(0, np.int64)
            return cls(none, None, np.zeros((0, ndim), np.int64), none.astype(np.int32), none)
        names = np.concatenate([p.names for p in parts])
        first = np.cumsum([0, *(len(p.coords) for p in parts)]).tolist()
        chunks = np.concatenate([p.chunks + np.int32(f) for f, p in zip(first, parts, strict=False)])
        rows = np.concatenate([p.rows for p in parts])
        objects = [p.objects for p in parts if p.objects is not None]
        order = np.argsort(names, kind="stable")
        return cls(
            np.concatenate([p.numbers for p in parts])[order],
            None if parts[0].ids is None else names[order],
            np.concatenate([p.coords for p in parts]),
            chunks[order],
            rows[order],
            np.concatenate(objects)[order] if objects else None,
        )

    def find(self, links: LinkRows) -> Found:
        """Return the endpoints of `links` that are among these, which must be ascending by name."""
        wanted = links.endpoints.reshape(-1)
        n = len(self)
        if n == 0:
            return Found(np.zeros(0, np.int64), self.coords, self.chunks, self.rows, self.objects)
        names = self.names
        low, high = int(names[0]), int(names[-1])
        inside = np.flatnonzero((wanted >= low) & (wanted <= high))
        if self.ids is None and high - low + 1 == n:  # numbers without a gap: no search
            at = wanted[inside] - low
        else:
            at = np.searchsorted(names, wanted[inside])
            same = names[at] == wanted[inside]
            inside, at = inside[same], at[same]
            twice = at[(at + 1 < n) & (names[np.minimum(at + 1, n - 1)] == wanted[inside])]
            if len(twice):
                raise InputError(f"two vertices have the id {names[twice[0]]}: vertex_ids must be distinct")
        return Found(inside, self.coords, self.chunks[at], self.rows[at], None if self.objects is None else self.objects[at])


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Places of some endpoints of links."""

    at: NDArray[np.int64]  # (f,): Which: places in the flattened table of endpoints
    coords: NDArray[np.int64]  # As in :class:`Places`, of shape (c, K) and (f,)
    chunks: NDArray[np.int32]
    rows: NDArray[np.int64]
    objects: NDArray[np.int64] | None

    def __sizeof__(self) -> int:
        return self.at.nbytes + self.coords.nbytes + self.chunks.nbytes + self.rows.nbytes + 200


def places_of(block: ChunkedRows, arrangement: Arrangement, *, with_objects: bool) -> Places:
    """Return the places that an arrangement gives to a block's rows, which are in the order of their numbers."""
    rows = block.rows
    assert rows.numbers is not None
    place = np.empty(len(rows), np.int64)
    place[arrangement.order] = np.arange(len(rows))
    starts = np.r_[0, np.cumsum(np.bincount(block.number, minlength=len(block.coords)))][:-1]
    objects = rows.object_ids if with_objects else None
    return Places(rows.numbers, rows.keys, block.coords, block.number.astype(np.int32), place - starts[block.number], objects)


@dataclass(frozen=True, slots=True, eq=False)
class BlockExtra:
    """What later tasks want of a block of vertices."""

    fragments: Fragments | None = None  # Of its objects
    places: Places | None = None  # Of its vertices
    links: LinkRows | None = None  # Links of its vertices to those of other chunks
    edges: NDArray[np.int64] | None = None
    """(m, D + 1): Of skeletons: coordinates of each chunk, and how many of its nodes have a parent."""

    def __sizeof__(self) -> int:
        # what the scheduler's memory management counts
        return sum(sys.getsizeof(part) for part in (self.fragments, self.places, self.links) if part is not None) + 200


@dataclass(frozen=True, slots=True, eq=False)
class EncodedBlock:
    """What becomes of a block of rows, or of links: bytes (or cells as they are stored) by array and chunk key."""

    blobs: dict[tuple[str, str], Any]
    rows: Mapping[str, int] = field(default_factory=dict)  # vertices, by chunk key
    extra: BlockExtra | None = None  # passed on to later tasks
    metadata: dict[str, dict[str, Any]] = field(default_factory=dict)  # of arrays that only the data tells of, by path
    records: dict[str, int] = field(default_factory=dict)  # links in the blobs, by family's path: the commit writes their sum


def encode_block(schema: PointSchema, block: ChunkedRows, arrangement: Arrangement, extra: BlockExtra) -> EncodedBlock:
    """Return the blobs of positions, fragments and attributes, which are in their stored dtypes (codes for categories)."""
    order = arrangement.order
    sizes = np.bincount(block.number, minlength=len(block.coords))
    ends = np.cumsum(sizes).tolist()
    keys = coords_to_keys(block.coords)
    blobs: dict[tuple[str, str], bytes] = {}
    columns = [(VERTICES, block.rows.positions), *((a.array, block.rows.attributes[a.name]) for a in schema.attributes)]
    for array, values in columns:
        data = np.ascontiguousarray(values[order]).reshape(-1).view(np.uint8).data
        width = len(data) // max(len(order), 1)
        start = 0
        for key, end in zip(keys, ends, strict=True):
            blobs[array, key] = bytes(data[start * width : end * width])
            start = end
    rows = sizes.tolist()
    if arrangement.counts is not None:
        blobs.update(((FRAGMENTS, key), encode_tiling(c)) for key, c in zip(keys, arrangement.counts, strict=True))
    else:
        blobs.update(((FRAGMENTS, key), encode_single(n)) for key, n in zip(keys, rows, strict=True))
    return EncodedBlock(blobs, dict(zip(keys, rows, strict=True)), extra)
