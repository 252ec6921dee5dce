"""Shards of generation 0.7: an array ``__shard_<id>`` that holds many blobs back to back.

Its attribute ``shard_index`` maps a chunk key to ``[byte offset, byte length]``. The shard's id is the Morton code of its
chunks divided by the shard size (layout "octree" of the ZV 0.7 package); readers never need it. Shards of ours also carry
``shard_crc32c`` (chunk key to CRC-32C), so that a ranged read that met a shard while it was being replaced is noticed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dask_zv.errors import FormatError, InvalidNameError
from dask_zv.format.keys import SHARD_PREFIX, check_chunk_key

_NAME = re.compile(re.escape(SHARD_PREFIX) + r"[0-9]{6,}")

ShardEntry = tuple[int, int, int | None]
"""Offset, length and CRC-32C (None in shards of others) of one blob."""


def shard_name(number: int) -> str:
    """Return the name of shard `number`, zero-padded to six digits at least."""
    return f"{SHARD_PREFIX}{number:06d}"


def is_shard_name(name: str) -> bool:
    """Tell whether a child of an array's group is a shard."""
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
    """Return the index of a shard from its attributes, checked against the shard's length.

    Parameters
    ----------
    attributes : mapping
        Attributes of the shard's array.
    nbytes : int
        Length of the shard's payload.
    path : str
        The shard's path, for errors.

    Raises
    ------
    FormatError
        The index is missing, or an entry is no pair of integers inside the shard.
    """
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
