"""How many vertices each object has: a small table that our writer leaves beside the manifests, counted where there is none.

``dask_zv_objects`` is an ordinary array (n, 2) of int64 in the level: id and vertices of each object, ascending by id. It makes
opening a level by objects cost the same few requests whatever the number of objects. Other tools pass it by; nothing is
believed on its word: rows that are read by object are counted, and must be as many.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError, StoreError
from dask_zv.format.keys import coords_to_keys
from dask_zv.level.object_index import ObjectIndex
from dask_zv.level.object_tables import VALUES_CRC32C, decoding, values_checksum
from dask_zv.level.source import ChunkTable, LevelSource
from dask_zv.read.columns import LevelRows

OBJECT_LENGTHS = "dask_zv_objects"
_SLICE = 4096


@dataclass(frozen=True, slots=True, eq=False)
class ObjectLengths:
    """The objects of a level.

    Attributes
    ----------
    ids : ndarray of int64, shape (O,)
        Ascending.
    lengths : ndarray of int64, shape (O,)
        Vertices of each.
    """

    ids: NDArray[np.int64]
    lengths: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)


def object_lengths(source: LevelSource, table: ChunkTable, index: ObjectIndex) -> ObjectLengths:
    """Return the objects of a level with their lengths: from the table that says so, else from manifests and fragments.

    Raises
    ------
    FormatError
        Manifests, fragments or the table are damaged.
    StoreError
        A part of them is missing.
    """
    if not index.count:
        return ObjectLengths(np.zeros(0, np.int64), np.zeros(0, np.int64))
    if source.catalogued and (found := _stored(source, index)) is not None:
        return found
    return count_lengths(source, table, index)


def object_ids(source: LevelSource, index: ObjectIndex) -> NDArray[np.int64]:
    """Return the ids of the objects, ascending; in a few requests, however many they are, where our table has them."""
    if index.rows_are_ids:
        return np.arange(index.count)
    found = _stored(source, index) if source.catalogued and index.count else None
    return np.sort(index.ids) if found is None else found.ids


def _stored(source: LevelSource, index: ObjectIndex) -> ObjectLengths | None:
    """Return what the table says; None where there is none, or another tool made objects since."""
    if not source.index_token or index.tables.document(OBJECT_LENGTHS) is None:  # manifests of ours have checksums
        return None
    array = index.tables.open(OBJECT_LENGTHS)
    if array.shape != (index.count, 2) or array.dtype != np.int64:
        return None
    values = decoding(source, OBJECT_LENGTHS, lambda: np.asarray(array[...]))
    if (values < 0).any():  # what an absent chunk reads as
        raise StoreError(
            "a part of the table of objects is missing: store.refresh() makes it anew",
            store=source.where(),
            array=OBJECT_LENGTHS,
        )
    if array.attrs.get(VALUES_CRC32C) != values_checksum(values):
        return None
    if (values[1:, 0] <= values[:-1, 0]).any():
        raise FormatError(
            "the ids of the table of objects don't ascend: store.refresh() makes it anew",
            store=source.where(), array=OBJECT_LENGTHS,
        )  # fmt: skip
    return ObjectLengths(np.ascontiguousarray(values[:, 0]), np.ascontiguousarray(values[:, 1]))


def count_lengths(source: LevelSource, table: ChunkTable, index: ObjectIndex) -> ObjectLengths:
    """Return the objects of a level with their lengths, from their manifests and all fragments of the level.

    Raises
    ------
    FormatError
        A manifest names a chunk or a fragment that isn't there.
    """
    rows = LevelRows(source, table)
    counts: list[NDArray[np.int64]] = []
    for start in range(0, len(table), _SLICE):
        counts += rows.rows_of_fragments(np.arange(start, min(start + _SLICE, len(table))))
    fragments = np.array([len(c) for c in counts], np.int64)
    first = np.cumsum(fragments) - fragments
    every = np.concatenate([np.zeros(0, np.int64), *counts])
    order = np.argsort(index.ids, kind="stable")
    ids = index.ids[order]
    lengths = np.zeros(len(ids), np.int64)
    for part in index.slices():
        chunk = table.find(part.chunks)
        lost = np.flatnonzero((chunk < 0) | (part.fragments >= np.append(fragments, 0)[chunk]))
        if len(lost):
            raise FormatError(
                f"a manifest names fragment {part.fragments[lost[0]]} of a chunk that does not have it",
                store=source.where(), array="object_index", chunk=coords_to_keys(part.chunks[lost[:1]])[0],
            )  # fmt: skip
        sizes = every[first[chunk] + part.fragments]
        np.add.at(lengths, np.searchsorted(ids, part.objects), sizes)
    return ObjectLengths(ids, lengths)
