"""The chunks of a level and their rows: by the catalog, else by the lists, sizes and fragments of the arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError
from dask_zv.format.fragments import FragmentIndex, decode_fragments
from dask_zv.format.keys import coords_to_keys, is_spatial_key, parse_key
from dask_zv.geometry.schema import FRAGMENTS, VERTICES
from dask_zv.level.source import ChunkTable, LevelSource, catalogued_chunks, level_blobs
from dask_zv.storage.catalog import Catalog
from dask_zv.storage.grid.read import GridArrays
from dask_zv.storage.layout import Blobs, open_place

_AT_ONCE = 4096


def chunk_table(source: LevelSource, catalog: Catalog | None, room: int | None = None) -> ChunkTable:
    """Return the level's chunks with their rows; `room` is how many it can have."""
    known = catalogued_chunks(source, catalog)
    if known is not None:
        return known
    if catalog is not None and VERTICES in catalog.arrays:  # a writer need not say how many rows a chunk has
        have = catalog.chunks_of(VERTICES)
        coords, keys = catalog.coords[have], coords_to_keys(catalog.coords[have])
        _check_rank(source, keys)
        return ChunkTable(coords, _whole_rows(source, keys, catalog.arrays[VERTICES].nbytes[have]))
    blobs = open_place(source.place)
    if isinstance(blobs, GridArrays):
        coords = blobs.list_coords(VERTICES)
        keys = coords_to_keys(coords)
        _check_rank(source, keys)
        emptied = _check_siblings(source, blobs, set(keys), {a: set(blobs.list_keys(a)) for a in source.schema.arrays[1:]})
        by_fragments = _rows_by_fragments(source, blobs, keys)
        if by_fragments is not None:
            return ChunkTable(coords.reshape(len(keys), source.rank), by_fragments, emptied)
        sizes_by_key = blobs.sizes(VERTICES)
    else:
        blobs.room = room
        sizes_by_key = {k: n for k, n in blobs.sizes(VERTICES).items() if is_spatial_key(k)}
        listing = blobs.listing(FRAGMENTS)
        listed = {k for k in (*listing.plain, *listing.entries) if is_spatial_key(k)}
        emptied = _check_siblings(source, blobs, sizes_by_key.keys(), {FRAGMENTS: listed})
        keys = sorted(sizes_by_key, key=parse_key)
        _check_rank(source, keys)
        coords = np.array([parse_key(k) for k in keys], np.int64)
    nbytes = np.array([sizes_by_key[k] for k in keys], np.int64)
    return ChunkTable(coords.reshape(len(keys), source.rank), _whole_rows(source, keys, nbytes), emptied)


def _check_rank(source: LevelSource, keys: Sequence[str]) -> None:
    odd = next((k for k in keys if k.count(".") + 1 != source.rank), None)
    if odd is not None:
        raise FormatError(
            f"chunk key of rank {odd.count('.') + 1} in a level whose keys have rank {source.rank}",
            store=source.where(), array=VERTICES, chunk=odd,
        )  # fmt: skip


def _whole_rows(source: LevelSource, keys: Sequence[str], nbytes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows in blobs of these sizes."""
    row_bytes = source.schema.grid.ndim * source.schema.dtype.itemsize
    bad = np.flatnonzero(nbytes % row_bytes)
    if len(bad):
        raise FormatError(
            f"blob size {nbytes[bad[0]]} is not a multiple of the row size {row_bytes}",
            store=source.where(), array=VERTICES, chunk=keys[bad[0]],
        )  # fmt: skip
    return nbytes // row_bytes


def _check_siblings(source: LevelSource, blobs: Blobs, keys: Set[str], listed: Mapping[str, Set[str]]) -> int:
    """Compare the chunks that have positions with those of other arrays: without a catalog nothing else tells of a loss.

    Levels of others may have no fragments or values at all. A chunk that an edit emptied has an index of fragments without
    rows, and maybe values that nothing names: how many there are is returned.
    """
    more = listed.get(FRAGMENTS, set()) - keys
    found = blobs.read_many([(FRAGMENTS, k) for k in more]) if more else {}
    emptied = {k for (_, k), data in found.items() if not decode_index(source, k, data).counts.sum()}
    for array, chunks in listed.items():
        odd = (chunks ^ keys) - emptied if chunks else set()
        if odd:
            first = min(odd, key=parse_key)
            here, there = (VERTICES, array) if first in keys else (array, VERTICES)
            raise FormatError(
                f"the chunk is in {here!r} and not in {there!r}: it was lost, or is being written",
                store=source.where(), array=there, chunk=first,
            )  # fmt: skip
    return len(emptied)


def _rows_by_fragments(source: LevelSource, blobs: GridArrays, keys: list[str]) -> NDArray[np.int64] | None:
    """Return the rows of each chunk by its fragment index, None where positions tell it cheaper or fragments can't.

    The size of an object of raw positions is known without reading it; compressed ones are larger than their fragments.
    """
    found = blobs.arrays([VERTICES, FRAGMENTS])
    vertices, fragments = found[VERTICES], found[FRAGMENTS]
    if vertices is None or fragments is None or (vertices.spec.shard_shape is None and not vertices.spec.codecs):
        return None
    out = np.zeros(len(keys), np.int64)
    for start in range(0, len(keys), _AT_ONCE):
        part = keys[start : start + _AT_ONCE]
        data = blobs.read_many([(FRAGMENTS, k) for k in part])
        for i, key in enumerate(part, start):
            if (FRAGMENTS, key) not in data:
                return None
            index = decode_index(source, key, data[FRAGMENTS, key])
            out[i] = index.counts.sum()
            if not index.tiles(int(out[i])):
                return None  # explicit fragments need not name every row
    return out


def has_emptied_fragments(source: LevelSource, table: ChunkTable) -> bool:
    """Return True if a level of objects has fragments without rows: an edit removed these, and left the count of vertices."""
    if not source.schema.has_objects:
        return False  # of others they are empty bins
    blobs, keys = level_blobs(source), table.keys
    for start in range(0, len(keys), _AT_ONCE):
        found = blobs.read_many([(FRAGMENTS, key) for key in keys[start : start + _AT_ONCE]])
        if any((decode_index(source, key, data).counts == 0).any() for (_, key), data in found.items()):
            return True
    return False


def decode_index(source: LevelSource, key: str, data: bytes, array: str = FRAGMENTS) -> FragmentIndex:
    """Return the fragments of a chunk; one that is damaged is an error that names it."""
    try:
        return decode_fragments(data)
    except FormatError as error:
        raise error.at(store=source.where(), array=array, chunk=key) from None
