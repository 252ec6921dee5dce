"""Lazy columns of a level, for xarray."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from dask_zv.pipelines.columns import LevelRows

__all__ = ["ColumnArray", "RowNumbers"]


def _outer_indexed(key: indexing.ExplicitIndexer, shape: tuple[int, ...], read: Callable[[tuple[Any, ...]], Any]) -> Any:
    """Let xarray turn any key into outer keys for `read`."""
    if not isinstance(key, indexing.VectorizedIndexer):  # xarray can't turn round a slice that is empty
        nothing = slice(0, 0)
        parts = (
            nothing if isinstance(k, slice) and not range(*k.indices(n)) else k for k, n in zip(key.tuple, shape, strict=True)
        )
        key = type(key)(tuple(parts))
    return indexing.explicit_indexing_adapter(key, shape, indexing.IndexingSupport.OUTER, read)


class ColumnArray(BackendArray):
    """One column of a level's vertices: nothing is read before it is indexed.

    Parameters
    ----------
    rows : LevelRows
    name : int or str
        Number of an axis, name of an attribute, or "object_id".
    shape : tuple of int
        (n,) or (n, channels).
    dtype : dtype
    """

    def __init__(self, rows: LevelRows, name: str | int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.rows = rows
        self.name = name
        self.shape = shape
        self.dtype = dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return _outer_indexed(key, self.shape, self._read)

    def _read(self, key: tuple[Any, ...]) -> NDArray[Any]:
        first, rest = key[0], key[1:]
        n = self.shape[0]
        if isinstance(first, int | np.integer):
            at = int(first) + n if first < 0 else int(first)
            one: NDArray[Any] = self._values(slice(at, at + 1))[(0, *rest)]
            return one
        if isinstance(first, slice):
            start, stop, step = first.indices(n)
            if step < 0:
                numbers = np.arange(start, stop, step, dtype=np.int64)
                return self._values(numbers)[(slice(None), *rest)]
            return self._values(slice(start, stop, step))[(slice(None), *rest)]
        numbers = np.asarray(first, np.int64)
        return _outer(self._values(np.where(numbers < 0, numbers + n, numbers)), rest)

    def _values(self, rows: slice | NDArray[np.int64]) -> NDArray[Any]:
        return self.rows.column(self.name, rows).astype(self.dtype, copy=False)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return (type(self).__name__, self.rows, self.name)


def _outer(values: NDArray[Any], rest: tuple[Any, ...]) -> NDArray[Any]:
    return values[(slice(None), *rest)]


class RowNumbers(BackendArray):
    """The coordinate ``vertex``: the number of each row in the level, made when asked for.

    Parameters
    ----------
    start, stop : int
    """

    def __init__(self, start: int, stop: int) -> None:
        self.start = start
        self.shape = (stop - start,)
        self.dtype = np.dtype(np.int64)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return _outer_indexed(key, self.shape, self._read)

    def _read(self, key: tuple[Any, ...]) -> Any:
        if isinstance(key[0], slice):
            return np.arange(*key[0].indices(self.shape[0]), dtype=np.int64) + self.start
        return np.arange(self.start, self.start + self.shape[0], dtype=np.int64)[key[0]]
