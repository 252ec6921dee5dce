"""Fragment indexes: which rows of a chunk belong to which fragment.

Every chunk of vertices (and of links) has one such index beside it. Writers store *ranges*, back to back; editing tools
store *explicit* row lists, in any order and overlapping. The decoders take both, trust neither, and never allocate
more than a small multiple of the blob.

Source: Zarr Vectors format, fragment index v1. All integers are little-endian::

    uint32 magic, uint16 version, uint16 flags, uint32 F fragments, uint32 R ranges
    bitmap        bit f (least significant first) is 1 where fragment f is a range; padded with zeros to 8 bytes
    range table   R x (int64 start, int64 count)
    offsets       (F - R + 1) x uint32, from 0, into the row list
    row list      int64 rows of the explicit fragments

An index without fragments is the 16 bytes of the header alone.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dask_zv.errors import FormatError, InputError

MAX_ROWS = 2**28
"""Rows that one index is expanded to; a range's count is a claim that 16 bytes can make."""


_MAGIC = 0x5A564647
_VERSION = 1
_HEADER = struct.Struct("<IHHII")
_RANGE = struct.Struct("<qq")
_WORD = struct.Struct("<I")
_ZERO_WORD = bytes(4)
_CACHED_FRAGMENTS = 8192


@dataclass(frozen=True, slots=True, eq=False)
class FragmentIndex:
    """The fragments of one chunk."""

    starts: NDArray[np.int64]  # (F,): First row of each range; -1 marks an explicit fragment
    counts: NDArray[np.int64]  # (F,): Rows of each fragment
    explicit_rows: NDArray[np.int64]  # (T,): Rows of the explicit fragments, back to back

    def __len__(self) -> int:
        return len(self.counts)

    def __repr__(self) -> str:
        explicit = int(np.count_nonzero(self.starts < 0))
        return f"FragmentIndex({len(self)} fragments, {explicit} of them explicit)"

    def all_rows(self, *, max_rows: int = MAX_ROWS) -> NDArray[np.int64]:
        """Return the rows of all fragments in fragment order, shape (counts.sum(),)."""
        claimed = float(self.counts.sum(dtype=np.float64))
        if claimed > max_rows:
            raise FormatError(f"fragments claim {claimed:.0f} rows, more than the {max_rows} that are expanded")
        total = int(claimed)
        rows = np.arange(total, dtype=np.int64)
        if self.tiles(total):
            return rows
        rows += np.repeat(self.starts - (np.cumsum(self.counts) - self.counts), self.counts)
        if len(self.explicit_rows):
            rows[np.repeat(self.starts < 0, self.counts)] = self.explicit_rows
        return rows

    def tiles(self, n_rows: int) -> bool:
        """Return True if the fragments are ranges, each from where the last ended, that cover exactly `n_rows` rows."""
        if float(self.counts.sum(dtype=np.float64)) != n_rows:
            return False
        in_place = self.starts == np.cumsum(self.counts) - self.counts
        return bool(in_place.all()) or bool((in_place | ((self.counts == 0) & (self.starts >= 0))).all())


def encode_single(rows: int) -> bytes:
    """Encode one fragment of all of a chunk's rows: what :func:`encode_tiling` of ``[rows]`` gives, without numpy."""
    return _tiling_head(1) + _RANGE.pack(0, rows) + _ZERO_WORD


def encode_singles(rows: NDArray[np.int64]) -> bytes:
    """Encode one fragment for each of n chunks, of so many rows, one behind the other: as :func:`encode_single` each."""
    out = np.tile(np.frombuffer(encode_single(0), np.uint8), (len(rows), 1))
    out[:, -12:-4] = np.ascontiguousarray(rows, "<i8").view(np.uint8).reshape(-1, 8)
    return out.tobytes()


def encode_tiling(counts: ArrayLike) -> bytes:
    """Encode fragments that are ranges back to back from row 0, which is what every writer stores. Shapes: `counts` (F,)."""
    values = np.asarray(counts)
    n = values.size
    if n == 0:
        return _HEADER.pack(_MAGIC, _VERSION, 0, 0, 0)
    if values.dtype.kind not in "iu" or values.ndim != 1:
        raise InputError(f"fragment counts must be a 1-D integer array, not {values.ndim}-D {values.dtype}")
    table = np.empty((n, 2), dtype="<i8")
    table[:, 1] = values
    table[0, 0] = 0
    table[:-1, 1].cumsum(out=table[1:, 0])
    if table.min() < 0:
        raise InputError("fragment counts must not be negative, and must add up within int64")
    return _tiling_head(n) + table.tobytes() + _ZERO_WORD


def decode_fragments(blob: bytes | bytearray | memoryview, *, n_rows: int | None = None) -> FragmentIndex:
    """Decode a fragment index, checking every field."""
    view = memoryview(blob)
    size = view.nbytes
    if size < _HEADER.size:
        raise FormatError(f"fragment index is cut off: {size} bytes, its header takes {_HEADER.size}", offset=size)
    n, n_ranges = _read_header(view)
    if n == 0:
        _check_size(size, _HEADER.size)
        nothing = np.empty(0, dtype=np.int64)
        return FragmentIndex(nothing, nothing, nothing)
    table_at = _HEADER.size + -(-n // 64) * 8
    offsets_at = table_at + n_ranges * _RANGE.size
    rows_at = offsets_at + (n - n_ranges + 1) * _WORD.size
    if size < rows_at:
        raise FormatError(f"fragment index is cut off: {n} fragments take at least {rows_at} bytes", offset=size)

    table = np.frombuffer(view, dtype="<i8", count=2 * n_ranges, offset=table_at).reshape(-1, 2)
    range_starts, range_counts = table.T.astype(np.int64, order="C")
    if n_ranges:
        _check_ranges(range_starts, range_counts, table_at, n_rows)
    if n_ranges == n:
        if view[_HEADER.size : table_at] != _full_bitmap(n):
            _read_bitmap(view, n, n_ranges)
        (word,) = _WORD.unpack_from(view, offsets_at)
        if word:
            raise FormatError(f"offsets of the explicit rows start at {word}, not 0", offset=offsets_at)
        _check_size(size, rows_at)
        return FragmentIndex(range_starts, range_counts, np.empty(0, dtype=np.int64))

    is_range = _read_bitmap(view, n, n_ranges)
    offsets = np.frombuffer(view, dtype="<u4", count=n - n_ranges + 1, offset=offsets_at).astype(np.int64)
    lengths = np.diff(offsets)
    if offsets[0] != 0:
        raise FormatError(f"offsets of the explicit rows start at {offsets[0]}, not 0", offset=offsets_at)
    if int(lengths.min()) < 0:
        at = offsets_at + _WORD.size * (int(np.argmax(lengths < 0)) + 1)
        raise FormatError("offsets of the explicit rows decrease", offset=at)
    _check_size(size, rows_at + 8 * int(offsets[-1]))
    rows = np.frombuffer(view, dtype="<i8", count=int(offsets[-1]), offset=rows_at).astype(np.int64)
    _check_rows(rows, rows_at, n_rows)

    starts = np.full(n, -1, dtype=np.int64)
    counts = np.empty(n, dtype=np.int64)
    starts[is_range] = range_starts
    counts[is_range] = range_counts
    counts[~is_range] = lengths
    return FragmentIndex(starts, counts, rows)


def _full_bitmap(n: int) -> bytes:
    bits = (1 << n) - 1
    return bits.to_bytes(-(-n // 64) * 8, "little")


def _make_tiling_head(n: int) -> bytes:
    return _HEADER.pack(_MAGIC, _VERSION, 0, n, n) + _full_bitmap(n)


_cached_tiling_head = lru_cache(maxsize=1024)(_make_tiling_head)


def _tiling_head(n: int) -> bytes:
    """Return what comes before the table of `n` ranges; that of so many fragments is too long to be kept."""
    return _cached_tiling_head(n) if n <= _CACHED_FRAGMENTS else _make_tiling_head(n)


def _read_header(view: memoryview) -> tuple[int, int]:
    magic, version, flags, n, n_ranges = _HEADER.unpack_from(view)
    if magic != _MAGIC:
        raise FormatError(f"not a fragment index: it starts with 0x{magic:08X}, not 0x{_MAGIC:08X}", offset=0)
    if version != _VERSION:
        raise FormatError(f"fragment index of version {version}; only version {_VERSION} is known", offset=4)
    if flags:
        raise FormatError(f"fragment index with unknown flags 0x{flags:04X}", offset=6)
    if n_ranges > n:
        raise FormatError(f"fragment index claims {n_ranges} ranges among {n} fragments", offset=12)
    return n, n_ranges


def _read_bitmap(view: memoryview, n: int, n_ranges: int) -> NDArray[np.bool_]:
    packed = np.frombuffer(view, dtype=np.uint8, count=-(-n // 64) * 8, offset=_HEADER.size)
    bits = np.unpackbits(packed, bitorder="little").astype(np.bool_)
    if bits[n:].any():
        at = _HEADER.size + (n + int(np.argmax(bits[n:]))) // 8
        raise FormatError(f"padding of the bitmap is not zero after {n} fragments", offset=at)
    marked = int(np.count_nonzero(bits))
    if marked != n_ranges:
        raise FormatError(f"bitmap marks {marked} ranges, the header says {n_ranges}", offset=_HEADER.size)
    return bits[:n]


def _check_ranges(starts: NDArray[np.int64], counts: NDArray[np.int64], at: int, n_rows: int | None) -> None:
    ends = starts + counts
    limit = 2**63 - 1 if n_rows is None else n_rows
    if min(int(starts.min()), int(counts.min()), int(ends.min())) >= 0 and int(ends.max()) <= limit:
        return
    bad = int(np.argmax((starts < 0) | (counts < 0) | (ends < 0) | (ends > limit)))
    place = f" in a chunk of {n_rows} rows" if n_rows is not None else ""
    raise FormatError(f"range {bad} is {counts[bad]} rows from row {starts[bad]}{place}", offset=at + 16 * bad)


def _check_rows(rows: NDArray[np.int64], at: int, n_rows: int | None) -> None:
    limit = 2**63 - 1 if n_rows is None else n_rows - 1
    if not len(rows) or (int(rows.min()) >= 0 and int(rows.max()) <= limit):
        return
    bad = int(np.argmax((rows < 0) | (rows > limit)))
    place = f" of a chunk of {n_rows} rows" if n_rows is not None else ""
    raise FormatError(f"explicit fragment names row {rows[bad]}{place}", offset=at + 8 * bad)


def _check_size(size: int, expected: int) -> None:
    if size < expected:
        raise FormatError(f"fragment index is cut off: {size} bytes of {expected}", offset=size)
    if size > expected:
        raise FormatError(f"{size - expected} bytes after the end of the fragment index", offset=expected)


def decode_tilings(blobs: Sequence[bytes], rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Decode the indexes of n chunks of so many rows, None unless each is ranges back to back over all of its rows.

    Returns the rows of each fragment of all chunks (F,), and how many fragments each chunk has (n,).
    """
    tables: list[bytes] = []
    numbers: list[int] = []
    for blob in blobs:
        fragments = int.from_bytes(blob[8:12], "little")
        if not fragments or fragments > len(blob) >> 4:
            return None
        head = _tiling_head(fragments)
        end = len(head) + 16 * fragments
        if len(blob) != end + 4 or not blob.startswith(head) or blob[end:] != _ZERO_WORD:
            return None
        tables.append(blob[len(head) : end])
        numbers.append(fragments)
    ranges = np.frombuffer(b"".join(tables), "<i8").reshape(-1, 2).astype(np.int64, copy=False)
    starts, counts = ranges.T
    per_chunk = np.array(numbers, np.int64)
    if len(ranges) and (int(ranges.min()) < 0 or int(counts.max()) > int(rows.max())):
        return None  # from here on no sum overflows
    ends = np.cumsum(counts)
    last = np.cumsum(per_chunk) - 1
    before = np.r_[0, ends[last[:-1]]] if len(last) else ends
    if (ends[last] - before != rows).any() or (starts + np.repeat(before, per_chunk) + counts != ends).any():
        return None
    return np.ascontiguousarray(counts), per_chunk
