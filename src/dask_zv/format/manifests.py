"""Object manifests: the fragments, chunk by chunk, that make up an object.

A manifest is a list of *blocks*, each of one chunk. Writers store one block of mode 0 per fragment, so a batch of
manifests is one structured array, cut where objects end; this module encodes and decodes whole batches that way. The
other modes (a range of fragments, a list of fragments) are read one by one.

Source: Zarr Vectors format, object manifest. All integers are little-endian::

    uint32 B blocks, then per block
        int64 chunk[K], uint8 mode
        mode 0: int64 fragment
        mode 1: int64 start, int64 count
        mode 2: uint32 count, int64 fragments[count]

An empty blob, or one without blocks, is an object without vertices.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dask_zv.errors import FormatError, InputError

MAX_FRAGMENTS = 2**20
"""Fragments that the ranges of manifests are expanded to, and `_PER_BYTE` more for each byte of them.

A range's count is a claim that 16 bytes can make.
"""
_PER_BYTE = 100

_WORD = struct.Struct("<I")
_RANGE = struct.Struct("<qq")
_INT64_MAX = 2**63 - 1

Manifest = tuple[NDArray[np.int64], NDArray[np.int64]]
Manifests = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def encode_manifests(object_rows: ArrayLike, chunks: ArrayLike, fragments: ArrayLike, *, first: int, count: int) -> list[bytes]:
    """Encode the manifests of consecutive objects at once. Shapes: `object_rows` (M,), `chunks` (M, K), `fragments` (M,)."""
    if count < 0:
        raise InputError(f"{count} objects can't be encoded")
    rows = _integers(object_rows, "object rows", 1)
    all_chunks = _integers(chunks, "chunks", 2)
    all_fragments = _integers(fragments, "fragments", 1)
    if not len(rows) == len(all_chunks) == len(all_fragments):
        raise InputError(f"{len(rows)} object rows, {len(all_chunks)} chunks and {len(all_fragments)} fragments")
    if len(rows) > 1 and bool((rows[1:] < rows[:-1]).any()):
        raise InputError("entries of manifests must be in ascending order of their objects")
    cuts = np.searchsorted(rows, np.arange(first, first + count + 1, dtype=np.int64))
    begin, end = int(cuts[0]), int(cuts[-1])
    blocks = _pack(all_chunks[begin:end], all_fragments[begin:end])
    data = blocks.tobytes()
    heads = np.diff(cuts).astype("<u4").tobytes()
    edges = ((cuts - begin) * blocks.dtype.itemsize).tolist()
    return [heads[4 * i : 4 * i + 4] + data[edges[i] : edges[i + 1]] for i in range(count)]


def decode_manifest(blob: bytes | bytearray | memoryview, ndim: int, *, max_fragments: int | None = None) -> Manifest:
    """Decode one manifest, expanding every mode. Shapes: returns `chunks` (M, K), returns `fragments` (M,)."""
    size = memoryview(blob).nbytes
    if size == 0:
        return np.empty((0, ndim), dtype=np.int64), np.empty(0, dtype=np.int64)
    if size < _WORD.size:
        raise FormatError(f"manifest is cut off: {size} bytes, its count takes {_WORD.size}", offset=size)
    (n_blocks,) = _WORD.unpack_from(blob)
    dtype = _block_dtype(ndim)
    if size == _WORD.size + n_blocks * dtype.itemsize:
        blocks = np.frombuffer(blob, dtype=dtype, count=n_blocks, offset=_WORD.size)
        if not blocks["mode"].any():
            _check_fragments(blocks["fragment"], dtype)
            return blocks["chunk"].astype(np.int64), blocks["fragment"].astype(np.int64)
    return _decode_blocks(
        blob, size, n_blocks, ndim, MAX_FRAGMENTS + _PER_BYTE * size if max_fragments is None else max_fragments
    )


def decode_manifests(blobs: Sequence[bytes], ndim: int, *, max_fragments: int | None = None) -> Manifests:
    """Decode the manifests of many objects at once.

    Shapes: returns `object_rows` (M,), returns `chunks` (M, K), returns `fragments` (M,).
    """
    dtype = _block_dtype(ndim)
    n = len(blobs)
    sizes = np.fromiter(map(len, blobs), dtype=np.int64, count=n)
    heads = b"".join([b[:4] for b in blobs])
    counts = np.zeros(n, dtype=np.int64)
    if len(heads) == 4 * np.count_nonzero(sizes):
        counts[sizes > 0] = np.frombuffer(heads, dtype="<u4")
        if bool((np.where(sizes > 0, sizes - 4, 0) == counts * dtype.itemsize).all()):
            blocks = np.frombuffer(b"".join([b[4:] for b in blobs]), dtype=dtype)
            fragments = blocks["fragment"].astype(np.int64)
            if not blocks["mode"].any() and not (len(fragments) and int(fragments.min()) < 0):
                return np.repeat(np.arange(n, dtype=np.int64), counts), blocks["chunk"].astype(np.int64), fragments
    return _decode_each(blobs, ndim, MAX_FRAGMENTS + _PER_BYTE * int(sizes.sum()) if max_fragments is None else max_fragments)


@lru_cache(maxsize=16)
def _block_dtype(ndim: int) -> np.dtype[np.void]:
    return np.dtype([("chunk", "<i8", (ndim,)), ("mode", "u1"), ("fragment", "<i8")])


def _integers(values: ArrayLike, name: str, ndim: int) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != ndim or (array.size and array.dtype.kind not in "iu"):
        raise InputError(f"{name} must be a {ndim}-D integer array, not {array.ndim}-D {array.dtype}")
    return array.astype(np.int64, copy=False)


def _pack(chunks: ArrayLike, fragments: ArrayLike) -> NDArray[np.void]:
    keys = _integers(chunks, "chunks", 2)
    values = _integers(fragments, "fragments", 1)
    if len(keys) != len(values):
        raise InputError(f"{len(keys)} chunks for {len(values)} fragments")
    if len(values) and int(values.min()) < 0:
        raise InputError(f"fragment {values.min()} is negative")
    blocks = np.zeros(len(values), dtype=_block_dtype(keys.shape[1]))
    blocks["chunk"] = keys
    blocks["fragment"] = values
    return blocks


def _check_fragments(fragments: NDArray[np.int64], dtype: np.dtype[np.void]) -> None:
    if len(fragments) and int(fragments.min()) < 0:
        bad = int(np.argmax(fragments < 0))
        at = _WORD.size + bad * dtype.itemsize + dtype.itemsize - 8
        raise FormatError(f"block {bad} of a manifest names fragment {fragments[bad]}", offset=at)


def _decode_blocks(blob: bytes | bytearray | memoryview, size: int, n_blocks: int, ndim: int, max_fragments: int) -> Manifest:
    """Decode block by block; every step checks that the bytes it wants are there."""
    head = struct.Struct(f"<{ndim}qB")
    least = n_blocks * (head.size + _WORD.size)
    if size - _WORD.size < least:
        raise FormatError(f"manifest is cut off: {n_blocks} blocks take at least {least} bytes more", offset=size)
    at = _WORD.size
    claimed = 0
    keys: list[tuple[int, ...]] = []
    pieces: list[NDArray[np.int64]] = []
    for block in range(n_blocks):
        _need(size, at, head.size + _WORD.size, block)
        *key, mode = head.unpack_from(blob, at)
        body = at + head.size
        if mode == 0:
            _need(size, body, 8, block)
            piece = np.frombuffer(blob, dtype="<i8", count=1, offset=body)
            at = body + 8
        elif mode == 1:
            _need(size, body, _RANGE.size, block)
            start, count = _RANGE.unpack_from(blob, body)
            if start < 0 or count < 0 or start > _INT64_MAX - count:
                raise FormatError(f"block {block} of a manifest is {count} fragments from {start}", offset=body)
            claimed += count
            if claimed > max_fragments:
                text = f"ranges of a manifest claim {claimed} fragments; only {max_fragments} are expanded"
                raise FormatError(text, offset=body + 8)
            piece = np.arange(start, start + count, dtype=np.int64)
            at = body + _RANGE.size
        elif mode == 2:
            (count,) = _WORD.unpack_from(blob, body)
            _need(size, body + _WORD.size, 8 * count, block)
            piece = np.frombuffer(blob, dtype="<i8", count=count, offset=body + _WORD.size)
            at = body + _WORD.size + 8 * count
        else:
            raise FormatError(f"block {block} of a manifest has the unknown mode {mode}", offset=body - 1)
        if len(piece) and int(piece.min()) < 0:
            raise FormatError(f"block {block} of a manifest names fragment {piece.min()}", offset=body)
        keys.append(tuple(key))
        pieces.append(piece)
    if at != size:
        raise FormatError(f"{size - at} bytes after the end of the manifest", offset=at)
    lengths = [len(piece) for piece in pieces]
    chunks = np.repeat(np.array(keys, dtype=np.int64).reshape(-1, ndim), lengths, axis=0)
    return chunks, np.concatenate([np.empty(0, dtype=np.int64), *pieces])


def _need(size: int, at: int, wanted: int, block: int) -> None:
    if size - at < wanted:
        raise FormatError(f"block {block} of a manifest is cut off: it takes {wanted} bytes more", offset=at)


def _decode_each(blobs: Sequence[bytes], ndim: int, max_fragments: int) -> Manifests:
    found: list[Manifest] = []
    left = max_fragments
    for row, blob in enumerate(blobs):
        try:
            found.append(decode_manifest(blob, ndim, max_fragments=left))
        except FormatError as error:
            raise FormatError(f"object row {row}: {error.message}", offset=error.offset) from error
        left = max(0, left - max(0, len(found[-1][1]) - len(blob) // 8))  # what the blob itself lists is no claim
    empty = decode_manifest(b"", ndim)
    rows = np.repeat(np.arange(len(blobs), dtype=np.int64), [len(fragments) for _, fragments in found])
    chunks = np.concatenate([empty[0], *(chunks for chunks, _ in found)])
    return rows, chunks, np.concatenate([empty[1], *(fragments for _, fragments in found)])
