"""Indexes of fragments, as far as facts of a level need them."""

from __future__ import annotations

from dask_zv.errors import FormatError
from dask_zv.format.fragment_index import FragmentIndex
from dask_zv.format.fragments import decode_fragments
from dask_zv.geometry.schema import FRAGMENTS
from dask_zv.level.source import ChunkTable, LevelSource, level_blobs

_AT_ONCE = 256


def has_emptied_fragments(source: LevelSource, table: ChunkTable) -> bool:
    """Return True if a level of objects has fragments without rows: an edit removed these, and left the count of vertices."""
    if not source.schema.has_objects:
        return False  # of others they are empty bins
    blobs = level_blobs(source)
    for start in range(0, len(table), _AT_ONCE):
        keys = table.keys[start : start + _AT_ONCE]
        found = blobs.read_many([(FRAGMENTS, key) for key in keys])
        for (_, key), data in found.items():
            if (decode_index(source, FRAGMENTS, key, data).counts == 0).any():
                return True
    return False


def decode_index(source: LevelSource, array: str, key: str, data: bytes) -> FragmentIndex:
    try:
        return decode_fragments(data)
    except FormatError as error:
        raise error.at(store=source.where(), array=array, chunk=key) from None
