"""Fragment indexes: which rows of a chunk belong to which fragment.

Every chunk of vertices (and of links) has one such index beside it. Writers store *ranges*, back to back; editing tools
store *explicit* row lists, in any order and overlapping. The decoder takes both, trusts neither, and never allocates
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

import operator
import struct
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dask_zv.errors import FormatError, InputError
from dask_zv.format.fragment_index import FragmentIndex

_MAGIC = 0x5A564647
_VERSION = 1
_HEADER = struct.Struct("<IHHII")
_RANGE = struct.Struct("<qq")
_WORD = struct.Struct("<I")
_ZERO_WORD = bytes(4)
_MAX_FRAGMENTS = 2**32 - 1
_CACHED_FRAGMENTS = 8192


def encode_single(rows: int) -> bytes:
    """Encode one fragment of all of a chunk's rows: what :func:`encode_tiling` of ``[rows]`` gives, without numpy."""
    return _tiling_head(1) + _RANGE.pack(0, rows) + _ZERO_WORD


def encode_tiling(counts: ArrayLike) -> bytes:
    """Encode fragments that are ranges back to back from row 0, which is what every writer stores.

    Parameters
    ----------
    counts : array_like of int, shape (F,)
        Rows of each fragment; 0 is allowed (an empty bin).

    Returns
    -------
    bytes
        Fragment index v1.

    Raises
    ------
    InputError
        If a count is negative or not an integer, or the rows don't fit in int64.
    """
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
    head = _tiling_head(n) if n <= _CACHED_FRAGMENTS else _make_tiling_head(n)
    return head + table.tobytes() + _ZERO_WORD


def encode_fragments(fragments: Sequence[tuple[int, int] | NDArray[np.int64]]) -> bytes:
    """Encode fragments of either kind.

    Parameters
    ----------
    fragments : sequence of (int, int) or ndarray of int, shape (k,)
        A tuple is a range ``(start, count)``; an array lists rows, and becomes a range where it is ``a, a + 1, ...``.

    Returns
    -------
    bytes
        Fragment index v1.

    Raises
    ------
    InputError
        If a start, count or row is negative, isn't an integer, or doesn't fit in the format.
    """
    n = len(fragments)
    if n == 0:
        return _HEADER.pack(_MAGIC, _VERSION, 0, 0, 0)
    if n > _MAX_FRAGMENTS:
        raise InputError(f"{n} fragments in one chunk; the format holds {_MAX_FRAGMENTS}")
    is_range = np.zeros(-(-n // 64) * 64, dtype=np.uint8)
    ranges: list[bytes] = []
    explicit: list[NDArray[np.int64]] = []
    for f, fragment in enumerate(fragments):
        found = _as_range(f, fragment) if isinstance(fragment, tuple) else _promoted(f, fragment)
        if isinstance(found, tuple):
            is_range[f] = 1
            ranges.append(_RANGE.pack(*found))
        else:
            explicit.append(found)
    offsets = np.cumsum([0, *(len(rows) for rows in explicit)], dtype=np.int64)
    if int(offsets[-1]) > _MAX_FRAGMENTS:
        raise InputError(f"{offsets[-1]} explicit rows in one chunk; the format holds {_MAX_FRAGMENTS}")
    header = _HEADER.pack(_MAGIC, _VERSION, 0, n, len(ranges))
    bitmap = np.packbits(is_range, bitorder="little").tobytes()
    rows = (rows.astype("<i8", copy=False).tobytes() for rows in explicit)
    return b"".join((header, bitmap, *ranges, offsets.astype("<u4").tobytes(), *rows))


def decode_fragments(blob: bytes | bytearray | memoryview, *, n_rows: int | None = None) -> FragmentIndex:
    """Decode a fragment index, checking every field.

    Parameters
    ----------
    blob : bytes-like
        The index of one chunk.
    n_rows : int, optional
        Rows of the chunk; fragments that go beyond are an error.

    Returns
    -------
    FragmentIndex
        Holds copies: the blob can be released.

    Raises
    ------
    FormatError
        If the blob isn't exactly one valid index; ``offset`` says where.
    """
    view = memoryview(blob)
    size = view.nbytes
    if size < _HEADER.size:
        raise FormatError(f"fragment index is cut off: {size} bytes, its header takes {_HEADER.size}", offset=size)
    n, n_ranges = _read_header(view)
    if n == 0:
        _check_size(size, _HEADER.size)
        nothing = np.empty(0, dtype=np.int64)
        return FragmentIndex(nothing, nothing, np.zeros(1, dtype=np.int64), nothing)
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
        no_rows = np.empty(0, dtype=np.int64)
        return FragmentIndex(range_starts, range_counts, np.zeros(n + 1, dtype=np.int64), no_rows)

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
    explicit_offsets = np.zeros(n + 1, dtype=np.int64)
    np.cumsum(np.where(is_range, 0, counts), out=explicit_offsets[1:])
    return FragmentIndex(starts, counts, explicit_offsets, rows)


def _full_bitmap(n: int) -> bytes:
    bits = (1 << n) - 1
    return bits.to_bytes(-(-n // 64) * 8, "little")


def _make_tiling_head(n: int) -> bytes:
    return _HEADER.pack(_MAGIC, _VERSION, 0, n, n) + _full_bitmap(n)


_tiling_head = lru_cache(maxsize=1024)(_make_tiling_head)


def _as_range(f: int, fragment: tuple[int, int]) -> tuple[int, int]:
    try:
        start, count = map(operator.index, fragment)
    except (TypeError, ValueError) as error:
        raise InputError(f"fragment {f} must be (start, count) in integers, not {fragment!r:.80}") from error
    if start < 0 or count < 0 or start + count >= 2**63:
        raise InputError(f"fragment {f} is a range of {count} rows from row {start}")
    return start, count


def _promoted(f: int, fragment: NDArray[np.int64]) -> tuple[int, int] | NDArray[np.int64]:
    rows = np.asarray(fragment)
    if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
        raise InputError(f"fragment {f} must be a 1-D integer array of rows, not {rows.ndim}-D {rows.dtype}")
    rows = rows.astype(np.int64)
    if not rows.size:
        return rows
    if int(rows.min()) < 0:
        raise InputError(f"fragment {f} names row {rows.min()}; rows count from 0")
    if bool((np.diff(rows) == 1).all()):
        return int(rows[0]), len(rows)
    return rows


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
