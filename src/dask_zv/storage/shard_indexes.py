"""Indexes of shards of the layout ``grid``, kept per open store and bounded."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError
from dask_zv.format.cells import index_nbytes, pack_index, unpack_index
from dask_zv.storage.cell_reads import cell_path
from dask_zv.storage.objects import Objects

_LIMIT = 64 << 20
_caches: weakref.WeakKeyDictionary[Objects, ShardIndexes] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


Held = tuple["NDArray[np.uint64]", "tuple[int, int]"]
"""An index, and the length and stamp of the shard just before it was read."""


class ShardIndexes:
    """The indexes that were read last, by the shard's key.

    An old index may well point at whole cells of a shard that was replaced, those of other chunks: who used one looks
    afterwards whether the shard is still the one that it was read from.
    """

    def __init__(self) -> None:
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._nbytes = 0
        self._lock = threading.Lock()

    def get(self, key: str) -> Held | None:
        """Return a shard's index, None where it is not here."""
        with self._lock:
            found = self._held.get(key)
            if found is not None:
                self._held.move_to_end(key)
            return found

    def keep(self, key: str, held: Held) -> None:
        """Remember an index, and forget those that were not used for longest."""
        with self._lock:
            self._forget(key)
            self._held[key] = held
            self._nbytes += held[0].nbytes
            while self._nbytes > _LIMIT and len(self._held) > 1:
                self._forget(next(iter(self._held)))

    def drop(self, keys: Iterable[str]) -> None:
        """Forget some indexes."""
        with self._lock:
            for key in keys:
                self._forget(key)

    def clear(self) -> None:
        """Forget all indexes."""
        with self._lock:
            self._held.clear()
            self._nbytes = 0

    def _forget(self, key: str) -> None:
        found = self._held.pop(key, None)
        if found is not None:
            self._nbytes -= found[0].nbytes


def shard_indexes(objects: Objects) -> ShardIndexes:
    """Return the indexes kept for an open store."""
    with _lock:
        if objects not in _caches:
            _caches[objects] = ShardIndexes()
        return _caches[objects]


def load_indexes(
    objects: Objects, path: str, cells: int, shards: Iterable[tuple[int, ...]]
) -> dict[tuple[int, ...], NDArray[np.uint64]]:
    """Return the indexes of some shards of the array at `path`, those that exist; read once and kept.

    Parameters
    ----------
    objects : Objects
    path : str
    cells : int
        Cells of a shard.
    shards : iterable of tuple of int
        Places in the grid of shards.

    Raises
    ------
    FormatError
        An index is damaged.
    """
    kept = shard_indexes(objects)
    out: dict[tuple[int, ...], NDArray[np.uint64]] = {}
    missing: list[tuple[str, tuple[int, ...]]] = []
    for shard in shards:
        key = cell_path(path, shard)
        known = kept.get(key)
        if known is not None and len(known[0]) == cells:
            out[shard] = known[0]
        else:
            missing.append((key, shard))
    if not missing:
        return out
    n = index_nbytes(cells)
    stamps = objects.stamps([k for k, _ in missing])  # before the indexes: see moved_shards
    read = objects.get_many([(k, (-n, n)) for k, _ in missing])
    for data, stamp, (key, shard) in zip(read, stamps, missing, strict=True):
        if data is None or stamp is None:
            continue
        try:
            out[shard] = unpack_index(data, cells)
        except FormatError as error:
            raise error.at(store=objects.url, array=key) from None
        kept.keep(key, (out[shard], stamp))
    return out


def moved_shards(objects: Objects, keys: Sequence[str]) -> set[str]:
    """Return those shards that are not, or may not be, the ones that their indexes were read from; forget their indexes."""
    kept = shard_indexes(objects)
    held = [(key, found) for key in keys if (found := kept.get(key)) is not None]
    moved = set(keys) - {key for key, _ in held}
    unsure: list[tuple[str, NDArray[np.uint64]]] = []
    for (key, (index, before)), now in zip(held, objects.stamps([key for key, _ in held]), strict=True):
        if now != before:
            moved.add(key)
        elif not before[1]:  # a store that gives no stamps: the index itself is looked at again
            unsure.append((key, index))
    spans = [(-index_nbytes(len(index)), index_nbytes(len(index))) for _, index in unsure]
    again = objects.get_many([(key, span) for (key, _), span in zip(unsure, spans, strict=True)])
    moved |= {key for (key, index), data in zip(unsure, again, strict=True) if data is None or data != pack_index(index)}
    kept.drop(moved)
    return moved
