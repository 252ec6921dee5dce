"""The rows of a block of chunks in reading order, and which fragment each is of: decoded at once where all chunks are plain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError
from dask_zv.format.fragments import encode_single
from dask_zv.format.keys import parse_key
from dask_zv.format.tilings import decode_tilings
from dask_zv.geometry.schema import FRAGMENTS, VERTICES, AttributeSchema
from dask_zv.level.source import LevelSource
from dask_zv.read.chunk_rows import decode_chunks
from dask_zv.storage.layout import Blobs
from dask_zv.storage.objects import Address


@dataclass(frozen=True, slots=True, eq=False)
class BlockRows:
    """Rows of n chunks: chunk by chunk, fragments in order, rows in order.

    Attributes
    ----------
    positions : ndarray, shape (N, D)
    columns : mapping of str to ndarray, shape (N,) or (N, C)
        As stored: codes for categories.
    stored : ndarray of int64, shape (n,)
        Rows of each chunk's blobs.
    fragments : ndarray of int64, shape (n,)
        Fragments of each chunk; a chunk without an index is one.
    counts : ndarray of int64, shape (F,)
        Rows of each fragment.
    stored_rows : ndarray of int64, shape (N,), optional
        Row of the chunk's blobs that each row is; None where the fragments tile their chunks.
    """

    positions: NDArray[Any]
    columns: Mapping[str, NDArray[Any]]
    stored: NDArray[np.int64]
    fragments: NDArray[np.int64]
    counts: NDArray[np.int64]
    stored_rows: NDArray[np.int64] | None

    @property
    def rows(self) -> NDArray[np.int64]:
        """Rows of each chunk that its fragments name; shape (n,)."""
        if self.stored_rows is None:
            return self.stored
        ends = np.r_[0, np.cumsum(self.counts)].astype(np.int64, copy=False)
        of_chunks: NDArray[np.int64] = np.diff(ends[np.r_[0, np.cumsum(self.fragments)]])
        return of_chunks


def column_names(source: LevelSource, attributes: Sequence[AttributeSchema]) -> list[str]:
    """Return the names of the columns that reading these attributes gives."""
    return [*(a.name for a in attributes), *([source.chunk_attribute[0]] if source.chunk_attribute else [])]


def empty_columns(source: LevelSource, attributes: Sequence[AttributeSchema]) -> dict[str, NDArray[Any]]:
    """Return the columns of no rows."""
    out: dict[str, NDArray[Any]] = {
        a.name: np.zeros((0,) if a.channels is None else (0, a.channels), a.dtype) for a in attributes
    }
    if source.chunk_attribute is not None:
        out[source.chunk_attribute[0]] = np.zeros(0, np.int64)
    return out


def decode_block(
    source: LevelSource,
    blobs: Blobs,
    keys: Sequence[str],
    attributes: Sequence[AttributeSchema],
    found: Mapping[Address, bytes],
) -> BlockRows:
    """Return the rows of a block of chunks from their blobs.

    Raises
    ------
    FormatError
        A chunk lacks a blob, or one is damaged; the message names it.
    """
    if not blobs.catalog_is_stale:  # a chunk that another tool edited is looked at more closely
        together = _decode_together(source, keys, attributes, found)
        if together is not None:
            return together
    pieces = decode_chunks(source, blobs, keys, attributes, dict(found), with_positions=True, rows=None, indexes=None)
    if not pieces:
        zero = np.zeros(0, np.int64)
        positions = np.zeros((0, source.schema.grid.ndim), source.schema.dtype)
        return BlockRows(positions, empty_columns(source, attributes), zero, zero, zero, None)
    counts = [np.array([p.stored], np.int64) if p.fragment_rows is None else p.fragment_rows for p in pieces]
    stored_rows = None
    if any(p.stored_rows is not None for p in pieces):
        stored_rows = np.concatenate([np.arange(p.stored) if p.stored_rows is None else p.stored_rows for p in pieces])
    return BlockRows(
        np.concatenate([p.positions for p in pieces]),
        {
            name: join_columns(source, name, [p.attributes[name] for p in pieces], keys)
            for name in column_names(source, attributes)
        },
        np.array([p.stored for p in pieces], np.int64),
        np.array([len(c) for c in counts], np.int64),
        np.concatenate(counts),
        stored_rows,
    )


def join_columns(source: LevelSource, name: str, parts: Sequence[NDArray[Any]], keys: Sequence[str] = ()) -> NDArray[Any]:
    """Return the values of an attribute one behind the other.

    Raises
    ------
    FormatError
        They have other widths in one chunk than in the next: the metadata need not tell it.
    """
    some = [i for i, p in enumerate(parts) if len(p)]
    odd = next((i for i in some if parts[i].shape[1:] != parts[some[0]].shape[1:]), None)
    if odd is not None:
        shapes = [list(parts[i].shape[1:]) for i in (some[0], odd)]
        raise FormatError(
            f"attribute {name!r} has values of shape {shapes[0]} and of shape {shapes[1]}: one of its chunks is damaged",
            store=source.where(), array=f"vertex_attributes/{name}", chunk=keys[odd] if keys else None,
        )  # fmt: skip
    return np.concatenate([parts[i] for i in some] or parts)


def _decode_together(
    source: LevelSource, keys: Sequence[str], attributes: Sequence[AttributeSchema], found: Mapping[Address, bytes]
) -> BlockRows | None:
    """Decode many chunks at once.

    None where a chunk's fragments are anything but ranges in their order, or a chunk is not what it should be: then the chunks
    are decoded one by one, which tells. Most levels pass here, and small chunks are read several times faster.
    """
    schema = source.schema
    width = schema.grid.ndim * schema.dtype.itemsize
    vertices = [found.get((VERTICES, key)) for key in keys]
    if not keys or any(v is None or len(v) % width for v in vertices):
        return None
    payloads = [v for v in vertices if v is not None]
    sizes = [len(v) // width for v in payloads]
    stored = np.array(sizes, np.int64)
    tiled = _fragments(keys, sizes, stored, found)
    if tiled is None:
        return None
    counts, fragments = tiled
    columns: dict[str, NDArray[Any]] = {}
    for attribute in attributes:
        parts = [found.get((attribute.array, key)) for key in keys]
        channels = _channels(attribute, parts, sizes)
        row = channels * attribute.dtype.itemsize
        if any(p is None or len(p) != n * row for p, n in zip(parts, sizes, strict=True)):
            return None
        values = np.frombuffer(b"".join([p for p in parts if p is not None]), attribute.dtype)
        scalar = attribute.channels is None and channels == 1
        columns[attribute.name] = values if scalar else values.reshape(-1, channels)
    if source.chunk_attribute is not None:
        columns[source.chunk_attribute[0]] = np.repeat(np.array([parse_key(k)[0] for k in keys], np.int64), stored)
    positions = np.frombuffer(b"".join(payloads), schema.dtype).reshape(-1, schema.grid.ndim)
    return BlockRows(positions, columns, stored, fragments, counts, None)


def _channels(attribute: AttributeSchema, parts: Sequence[bytes | None], sizes: Sequence[int]) -> int:
    """Return an attribute's width: by its metadata, or where that does not say, by the first chunk that has rows."""
    if not attribute.any_width:
        return attribute.width
    return next((max(1, len(p) // (n * attribute.dtype.itemsize)) for p, n in zip(parts, sizes, strict=True) if p and n), 1)


def _fragments(
    keys: Sequence[str], sizes: Sequence[int], stored: NDArray[np.int64], found: Mapping[Address, bytes]
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Return the rows of all fragments and the fragments of each chunk, None where they don't tile it."""
    indexes = [found.get((FRAGMENTS, key)) for key in keys]
    if all(i is None or i == encode_single(n) for i, n in zip(indexes, sizes, strict=True)):
        return stored, np.ones(len(stored), np.int64)
    return decode_tilings([encode_single(n) if i is None else i for i, n in zip(indexes, sizes, strict=True)], stored)
