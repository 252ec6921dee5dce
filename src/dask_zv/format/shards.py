"""Many blobs in one object: the frame of a cell and the index of a shard, of both generations.

In 0.9 a cell is a chunk of one item of Zarr's codec ``vlen-bytes``, a shard that of ``sharding_indexed`` (FORMAT.md C.1 and
C.3). In 0.7 a shard is an array ``__shard_<id>`` that holds blobs back to back; its attribute ``shard_index`` maps a chunk key
to ``[byte offset, byte length]``, and its id is the Morton code of its chunks divided by the shard size, which readers never
need. Those of ours also carry ``shard_crc32c`` (chunk key to CRC-32C), so that a ranged read that met a shard while it was
being replaced is noticed.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError, InvalidNameError
from dask_zv.format.keys import SHARD_PREFIX, check_chunk_key

EMPTY = np.iinfo(np.uint64).max
"""Offset and length of a cell that a shard does not have."""

_HEADER = struct.Struct("<II")
FRAME_NBYTES = _HEADER.size
"""What a frame adds to its payload."""


_NAME = re.compile(re.escape(SHARD_PREFIX) + r"[0-9]{6,}")
ShardEntry = tuple[int, int, int | None]
"""Offset, length and CRC-32C (None in shards of others) of one blob."""


def header(nbytes: int) -> bytes:
    """Return what comes before a payload of `nbytes`: ``uint32`` 1 (items), ``uint32`` length."""
    if nbytes >= 1 << 32:
        raise FormatError(f"a chunk of {nbytes:,} bytes: a cell holds less than 4 GiB, choose a smaller chunk_shape")
    return _HEADER.pack(1, nbytes)


def frame(payload: bytes) -> bytes:
    """Return a cell's bytes before compression: its header, and the payload."""
    return header(len(payload)) + payload


def unframe(data: bytes) -> bytes:
    """Return the payload of a decompressed cell."""
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
    """Return the index of a shard. Shapes: `places` (cells, 2)."""
    body = np.ascontiguousarray(places, "<u8").tobytes()
    return body + struct.pack("<I", int(google_crc32c.value(body)))


def unpack_index(data: bytes, cells: int, limit: int | None = None) -> NDArray[np.uint64]:
    """Return the offset and length of each cell, shape (cells, 2)."""
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


def shard_name(number: int) -> str:
    """Return the name of shard `number`, zero-padded to six digits at least."""
    return f"{SHARD_PREFIX}{number:06d}"


def is_shard_name(name: str) -> bool:
    """Return True if a child of an array's group is a shard."""
    return name.startswith(SHARD_PREFIX)


def shard_id(name: str) -> int | None:
    """Return the number in a shard's name, None where it isn't one that writers give."""
    return int(name[len(SHARD_PREFIX) :]) if _NAME.fullmatch(name) else None


def shard_attributes(entries: Mapping[str, tuple[int, int, int]]) -> dict[str, Any]:
    """Return the attributes of a shard from chunk key to (offset, length, CRC-32C)."""
    return {
        "shard_index": {key: [offset, nbytes] for key, (offset, nbytes, _) in entries.items()},
        "shard_crc32c": {key: crc for key, (_, _, crc) in entries.items()},
    }


def parse_shard_index(attributes: Mapping[str, Any], nbytes: int, path: str) -> dict[str, ShardEntry]:
    """Return the index of a shard from its attributes, checked against the shard's length."""
    index = attributes.get("shard_index")
    if not isinstance(index, Mapping):
        raise FormatError(f"shard '/{path}' has no shard_index", array=path)
    crcs = attributes.get("shard_crc32c", {})
    if not isinstance(crcs, Mapping):
        raise FormatError(f"shard '/{path}' has a shard_crc32c that is no mapping", array=path)
    entries: dict[str, ShardEntry] = {}
    for key, entry in index.items():
        try:
            check_chunk_key(key)  # it is a path in the store, where the shard loses it
        except InvalidNameError as error:
            raise FormatError(f"shard '/{path}' has a damaged index: {error.message:.200}", array=path) from error
        if not (isinstance(entry, list | tuple) and len(entry) == 2 and all(type(v) is int for v in entry)):
            raise FormatError(f"shard '/{path}' has the index entry {entry!r:.80}", array=path, chunk=key)
        offset, length = entry
        if offset < 0 or length < 0 or offset + length > nbytes:
            raise FormatError(
                f"shard '/{path}' of {nbytes} bytes has an entry at {offset} of {length} bytes", array=path, chunk=key
            )
        crc = crcs.get(key)
        if crc is not None and type(crc) is not int:
            raise FormatError(f"shard '/{path}' has the checksum {crc!r:.80}", array=path, chunk=key)
        entries[key] = (offset, length, crc)
    return entries
