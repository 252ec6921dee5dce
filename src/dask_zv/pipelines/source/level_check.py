"""Looking at every chunk that no catalog vouches for: what ``check_objects`` asks for."""

from __future__ import annotations

import numpy as np

from dask_zv.errors import FormatError
from dask_zv.format.fragments import decode_fragments
from dask_zv.geometry.schema import FRAGMENTS, VERTICES
from dask_zv.pipelines.source.chunk_boxes import check_boxes
from dask_zv.pipelines.source.chunk_rows import read_chunks
from dask_zv.pipelines.source.level_grid import warn_of_other_bytes
from dask_zv.pipelines.source.level_io import ChunkTable, LevelSource, level_blobs
from dask_zv.storage.handles import open_objects
from dask_zv.storage.nodes import load_catalog
from dask_zv.storage.per_chunk import PerChunk

__all__ = ["check_chunks", "has_emptied_fragments"]

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
            try:
                counts = decode_fragments(data).counts
            except FormatError as error:
                raise error.at(store=source.where(), array=FRAGMENTS, chunk=key) from None
            if (counts == 0).any():
                return True
    return False


def check_chunks(source: LevelSource, table: ChunkTable) -> None:
    """Read every chunk of a level, some at a time: what is missing, short, or at odds with its siblings is an error.

    Warns of blobs of layout ``per_chunk`` that are not those of the last commit.

    Raises
    ------
    StoreError, FormatError
    """
    objects = open_objects(source.place.handle)
    prefix = source.place.prefix
    catalog = load_catalog(objects, prefix) if source.place.layout == "per_chunk" else None
    for start in range(0, len(table), _AT_ONCE):
        part = np.arange(start, min(start + _AT_ONCE, len(table)))
        keys = [table.keys[i] for i in part]
        read_chunks(source, keys, source.schema.attributes, rows=table.rows[part].tolist())
        if catalog is not None:
            noted = PerChunk(objects, prefix, catalog)
            known = [a for a in (VERTICES, *source.schema.arrays) if a in catalog.arrays]
            noted.read_many([(a, k) for a in dict.fromkeys(known) for k in keys])
            if noted.catalog_is_stale:
                warn_of_other_bytes(source.where(), noted.stale_chunk)
                catalog = None
    check_boxes(source, table)
