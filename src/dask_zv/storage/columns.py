"""What is known of an array's blobs, chunk by chunk: where each is, how long, and its checksum."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

COLUMNS: Mapping[str, tuple[Any, int]] = {
    "nbytes": (np.int64, -1),
    "shard": (np.int64, -1),
    "offset": (np.int64, 0),
    "stored": (np.int64, -1),
    "crc": (np.uint32, 0),
    "stamp": (np.uint64, 0),
}
"""Columns of an array: dtype, and the value of a chunk that the array does not have."""


class _Few(Mapping[str, "NDArray[Any]"]):
    """Columns of an array that has few of the chunks; a column is as long as any when it is asked for."""

    def __init__(self, n: int, at: NDArray[np.int64], values: Mapping[str, NDArray[Any]]) -> None:
        self._n, self._at, self._values = n, at, values

    def __getitem__(self, kind: str) -> NDArray[Any]:
        dtype, fill = COLUMNS[kind]
        out = np.full(self._n, fill, dtype)
        out[self._at] = self._values[kind]
        return out

    def __iter__(self) -> Iterator[str]:
        return iter(COLUMNS)

    def __len__(self) -> int:
        return len(COLUMNS)

    def take(self, order: NDArray[Any]) -> _Few:
        """Return the rows in another order, or some of them."""
        place = np.full(self._n, -1, np.int64)
        place[self._at] = np.arange(len(self._at))
        kept = place[order]
        at = np.flatnonzero(kept >= 0)
        return _Few(len(kept), at, {kind: values[kept[at]] for kind, values in self._values.items()})


class Columns:
    """One array's columns, row-aligned with the catalog's coordinates; each an ndarray of shape (n,).

    ========  =======  ==========================================================================
    nbytes    int64    length of each blob's payload, -1 where the array has none
    shard     int64    what holds it: -1 for an object of its own; in ``per_chunk`` the shard's number, in ``grid`` 0
    offset    int64    where its stored bytes start in the shard
    stored    int64    length of its stored bytes
    crc       uint32   CRC-32C of its stored bytes
    stamp     uint64   of the object that holds it, as the store gave it when it was put; 0 where it gives none
    ========  =======  ==========================================================================

    Parameters
    ----------
    columns : mapping of str to ndarray
        Those of :data:`COLUMNS`; may unpack them on demand.
    """

    __slots__ = ("_columns",)

    def __init__(self, columns: Mapping[str, NDArray[Any]]) -> None:
        self._columns = columns

    @classmethod
    def empty(cls, n: int) -> Columns:
        """Return the columns of `n` chunks of which the array has none."""
        return cls({kind: np.full(n, fill, dtype) for kind, (dtype, fill) in COLUMNS.items()})

    @classmethod
    def spread(cls, n: int, at: NDArray[np.int64], columns: Columns) -> Columns:
        """Return the columns of `n` chunks of which the array has those at `at`, with the rows of `columns`.

        Where these are few, they alone are kept: there are many arrays of links, each of few chunks.
        """
        few = _Few(n, at, {kind: columns[kind] for kind in COLUMNS})
        return cls(few if 2 * len(at) < n else {kind: few[kind] for kind in COLUMNS})

    def __getitem__(self, kind: str) -> NDArray[Any]:
        return self._columns[kind]

    @property
    def nbytes(self) -> NDArray[np.int64]:
        """Length of each blob, -1 where the array has none."""
        return self._columns["nbytes"]

    @property
    def have(self) -> NDArray[np.bool_]:
        """Tell which chunks the array has."""
        return self.nbytes >= 0

    def take(self, order: NDArray[Any]) -> Columns:
        """Return the rows in another order, or some of them."""
        if isinstance(self._columns, _Few):
            return Columns(self._columns.take(order))
        return Columns({kind: self._columns[kind][order] for kind in COLUMNS})

    def __reduce__(self) -> tuple[Any, ...]:
        if isinstance(self._columns, _Few):
            return Columns, (self._columns,)
        return Columns, ({kind: self._columns[kind] for kind in COLUMNS},)
