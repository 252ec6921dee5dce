"""Bytes of the layout ``grid``: the frame of a cell, and the index of a shard.

Sources: the Zarr v3 codecs ``vlen-bytes`` (here always of one item) and ``sharding_indexed``; FORMAT.md C.1 and C.3.
"""

from __future__ import annotations

import struct

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError

EMPTY = np.iinfo(np.uint64).max
"""Offset and length of a cell that a shard does not have."""

_HEADER = struct.Struct("<II")
FRAME_NBYTES = _HEADER.size
"""What a frame adds to its payload."""


def header(nbytes: int) -> bytes:
    """Return what comes before a payload of `nbytes`: ``uint32`` 1 (items), ``uint32`` length.

    Raises
    ------
    FormatError
        The payload has 4 GiB or more, which the length can't say.
    """
    if nbytes >= 1 << 32:
        raise FormatError(f"a chunk of {nbytes:,} bytes: a cell holds less than 4 GiB, choose a smaller chunk_shape")
    return _HEADER.pack(1, nbytes)


def frame(payload: bytes) -> bytes:
    """Return a cell's bytes before compression: its header, and the payload.

    Raises
    ------
    FormatError
        The payload has 4 GiB or more.
    """
    return header(len(payload)) + payload


def unframe(data: bytes) -> bytes:
    """Return the payload of a decompressed cell.

    Raises
    ------
    FormatError
        It is no frame of exactly one item.
    """
    if len(data) < 8:
        raise FormatError(f"the cell has {len(data)} bytes, its header alone has 8")
    items, nbytes = _HEADER.unpack_from(data)
    if items != 1 or nbytes != len(data) - 8:
        raise FormatError(f"the cell's header says {items} items, the first of {nbytes} bytes; {len(data) - 8} bytes follow")
    return data[8:]


def index_nbytes(cells: int) -> int:
    """Return the length of the index of a shard of `cells` cells: offset and length of each, and a CRC-32C."""
    return 16 * cells + 4


def pack_index(places: NDArray[np.uint64]) -> bytes:
    """Return the index of a shard.

    Parameters
    ----------
    places : ndarray of uint64, shape (cells, 2)
        Offset and length of each cell, the last axis of the grid fastest; :data:`EMPTY` twice where there is none.
    """
    body = np.ascontiguousarray(places, "<u8").tobytes()
    return body + struct.pack("<I", int(google_crc32c.value(body)))


def unpack_index(data: bytes, cells: int, limit: int | None = None) -> NDArray[np.uint64]:
    """Return the offset and length of each cell, shape (cells, 2).

    Parameters
    ----------
    data : bytes
    cells : int
        Cells of the shard.
    limit : int, optional
        Length of the whole shard: no cell may reach behind it.

    Raises
    ------
    FormatError
        Its length or checksum is wrong, or a cell lies outside the shard.
    """
    if len(data) != index_nbytes(cells):
        raise FormatError(f"the shard's index has {len(data)} bytes, {index_nbytes(cells)} are wanted for {cells} cells")
    if int(google_crc32c.value(data[:-4])) != struct.unpack("<I", data[-4:])[0]:
        raise FormatError("the checksum of the shard's index does not match")
    places = np.frombuffer(data[:-4], "<u8").reshape(cells, 2).astype(np.uint64, copy=False)
    if limit is not None:
        have = places[:, 1] != EMPTY
        offsets, lengths = places[have, 0], places[have, 1]
        if (offsets > limit).any() or (lengths > np.uint64(limit) - offsets).any():  # a sum may not fit into 64 bits
            raise FormatError(f"the shard's index names bytes behind its end at {limit}")
    return places
