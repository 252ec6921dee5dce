"""Indexes of shards of the layout ``grid``, kept per open store and bounded."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from dask_zv.storage.objects import Objects

__all__ = ["ShardIndexes", "shard_indexes"]

_LIMIT = 64 << 20
_caches: weakref.WeakKeyDictionary[Objects, ShardIndexes] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


class ShardIndexes:
    """The indexes that were read last, by the shard's key; a cell that does not decode makes its reader drop them."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, NDArray[np.uint64]] = OrderedDict()
        self._nbytes = 0
        self._lock = threading.Lock()

    def get(self, key: str) -> NDArray[np.uint64] | None:
        """Return a shard's index, None where it is not here."""
        with self._lock:
            found = self._held.get(key)
            if found is not None:
                self._held.move_to_end(key)
            return found

    def keep(self, key: str, index: NDArray[np.uint64]) -> None:
        """Remember an index, and forget those that were not used for longest."""
        with self._lock:
            self._forget(key)
            self._held[key] = index
            self._nbytes += index.nbytes
            while self._nbytes > _LIMIT and len(self._held) > 1:
                self._forget(next(iter(self._held)))

    def drop(self, keys: Iterable[str]) -> None:
        """Forget some indexes."""
        with self._lock:
            for key in keys:
                self._forget(key)

    def _forget(self, key: str) -> None:
        found = self._held.pop(key, None)
        if found is not None:
            self._nbytes -= found.nbytes


def shard_indexes(objects: Objects) -> ShardIndexes:
    """Return the indexes kept for an open store."""
    with _lock:
        if objects not in _caches:
            _caches[objects] = ShardIndexes()
        return _caches[objects]
