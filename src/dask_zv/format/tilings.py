"""Fragment indexes of many chunks at once, where all are what writers store: ranges, back to back, that cover the chunk."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_START = struct.pack("<IHH", 0x5A564647, 1, 0)
"""Magic, version and flags of an index; see :mod:`dask_zv.format.fragments`."""
_HEADER = 16
_ZERO_WORD = bytes(4)


@lru_cache(maxsize=4096)
def _head(fragments: int) -> bytes:
    """Return all of an index of so many ranges that comes before the table of ranges."""
    bitmap = ((1 << fragments) - 1).to_bytes(-(-fragments // 64) * 8, "little")
    return _START + struct.pack("<II", fragments, fragments) + bitmap


def decode_tilings(blobs: Sequence[bytes], rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Decode the indexes of many chunks.

    Parameters
    ----------
    blobs : sequence of bytes
        One index per chunk.
    rows : ndarray of int64, shape (n,)
        Rows of each chunk.

    Returns
    -------
    counts : ndarray of int64, shape (F,)
        Rows of every fragment, chunk by chunk.
    fragments : ndarray of int64, shape (n,)
        Fragments of each chunk.
        None in place of both where an index is anything else, or damaged: :func:`~dask_zv.format.fragments.decode_fragments`
        tells which.
    """
    tables: list[bytes] = []
    numbers: list[int] = []
    for blob in blobs:
        fragments = int.from_bytes(blob[8:12], "little")
        if not fragments or fragments > len(blob) >> 4:
            return None
        head = _head(fragments)
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
