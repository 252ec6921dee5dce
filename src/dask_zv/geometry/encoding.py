"""From the rows of a block to the blobs of its chunks, whatever the geometry: it differs in how rows are arranged.

An *arrangement* says in which order the rows of each chunk are stored and where its fragments begin. Source: Zarr Vectors
format, vertices and fragment index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dask_zv.format.fragments import encode_single, encode_tiling
from dask_zv.format.keys import coords_to_keys
from dask_zv.geometry.rows import VertexRows
from dask_zv.geometry.schema import FRAGMENTS, VERTICES, PointSchema
from dask_zv.spatial.grouping import group_by_chunk


@dataclass(frozen=True, slots=True, eq=False)
class ChunkedRows:
    """Rows with the chunk of each.

    Attributes
    ----------
    rows : VertexRows
    chunks : ndarray of int64, shape (n, D)
    coords : ndarray of int64, shape (m, D)
        The chunks, ascending.
    number : ndarray of int64, shape (n,)
        The chunk of each row, as a place in `coords`.
    """

    rows: VertexRows
    chunks: NDArray[np.int64]
    coords: NDArray[np.int64]
    number: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Fragments:
    """Fragments of objects in a block, chunk by chunk; all of shape (F,) but `coords`.

    Attributes
    ----------
    objects : ndarray of int64
        Owner of each.
    coords : ndarray of int64, shape (F, D)
        Its chunk.
    fragments : ndarray of int64
        Its number in the chunk.
    first, count : ndarray of int64
        Its first row among the chunk's vertices, and its rows.
    sequence : ndarray of int64
        Ascending along each object: the order of its manifest.
    """

    objects: NDArray[np.int64]
    coords: NDArray[np.int64]
    fragments: NDArray[np.int64]
    first: NDArray[np.int64]
    count: NDArray[np.int64]
    sequence: NDArray[np.int64]

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
    """How a block's rows are stored.

    Attributes
    ----------
    order : ndarray of intp, shape (n,)
        Rows chunk by chunk, in the order in which each chunk stores them.
    counts : sequence of ndarray of int64, optional
        Rows of each fragment, for each chunk; None where each chunk has one fragment.
    fragments : Fragments, optional
        Who owns them; None where there are no objects.
    """

    order: NDArray[np.intp]
    counts: Sequence[NDArray[np.int64]] | None
    fragments: Fragments | None = None


@dataclass(frozen=True, slots=True, eq=False)
class EncodedVertices:
    """A block's blobs.

    Attributes
    ----------
    blobs : dict of (array, chunk key) to bytes
    rows : dict of chunk key to vertices in it
    """

    blobs: dict[tuple[str, str], bytes]
    rows: dict[str, int]


def stable_order(values: NDArray[np.int64], limit: int) -> NDArray[np.intp]:
    """Return the stable order of integers in [0, limit); numpy sorts 16-bit integers in linear time."""
    if limit <= 1 << 16:
        return np.argsort(values.astype(np.uint16), kind="stable")
    return np.argsort(values, kind="stable")


def chunk_rows(schema: PointSchema, rows: VertexRows) -> ChunkedRows:
    """Find the chunk of every row."""
    chunks = schema.grid.chunks_of(rows.positions)
    return ChunkedRows(rows, chunks, *group_by_chunk(chunks))


def cut_fragments(
    block: ChunkedRows, order: NDArray[np.intp], starts: NDArray[np.bool_], sequence: NDArray[np.int64] | None = None
) -> Arrangement:
    """Return the arrangement whose fragments begin where `starts` is true; every first row of a chunk must be one.

    Parameters
    ----------
    block : ChunkedRows
    order : ndarray of intp, shape (n,)
        Rows chunk by chunk.
    starts : ndarray of bool, shape (n,)
        In that order.
    sequence : ndarray of int64, shape (n,), optional
        Of each row of the block: a fragment has that of its first row. Where None, fragments are in the order of their chunks,
        which every block knows without the others.
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


def encode_vertices(schema: PointSchema, block: ChunkedRows, arrangement: Arrangement) -> EncodedVertices:
    """Return the blobs of positions, fragments and attributes.

    Parameters
    ----------
    schema : PointSchema
    block : ChunkedRows
        Positions and attributes in their stored dtypes (codes for categories).
    arrangement : Arrangement
    """
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
    return EncodedVertices(blobs, dict(zip(keys, rows, strict=True)))
