"""Lazy columns of a level as variables of xarray, and the Dask chunks that suit the store."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import xarray as xr
from dask.base import tokenize
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing
from xarray.core.indexing import LazilyIndexedArray

_CHUNK_ROWS = 500_000
_CHUNK_CELLS = 4096
MARK = "preferred_chunks"
"""The encoding that variables lose when others are computed from them."""


def _dask_name(data: Any) -> str | None:
    return getattr(data, "name", None) if hasattr(data, "__dask_graph__") else None


class Table(Protocol):
    """A table whose columns are read by row numbers; its token names the state of the store."""

    def column(self, name: Any, rows: slice | NDArray[np.int64]) -> NDArray[Any]: ...
    def __dask_tokenize__(self) -> object: ...


def _plain(key: Any, size: int) -> Any:
    """Return one dimension's key as xarray can split it: it stumbles over empty slices of negative step, and 0-d arrays."""
    if isinstance(key, np.ndarray) and not key.ndim:
        return key[None]  # which keeps its dimension, as in memory
    return slice(0, 0) if isinstance(key, slice) and not range(*key.indices(size)) else key


class ColumnArray(BackendArray):
    """One column of a table, of shape (n, ...): nothing is read before it is indexed."""

    def __init__(self, rows: Table, name: str | int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.rows = rows
        self.name = name
        self.shape = shape
        self.dtype = dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        if not isinstance(key, indexing.VectorizedIndexer):
            key = type(key)(tuple(map(_plain, key.tuple, self.shape)))
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    async def async_getitem(self, key: indexing.ExplicitIndexer) -> Any:
        """Return what `key` selects, without blocking the event loop: for ``Dataset.load_async``."""
        return await asyncio.to_thread(self.__getitem__, key)

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
        return self._values(np.where(numbers < 0, numbers + n, numbers))[(slice(None), *rest)]

    def _values(self, rows: slice | NDArray[np.int64]) -> NDArray[Any]:
        values = self.rows.column(self.name, rows).astype(self.dtype, copy=False)
        if self.dtype.hasobject:  # xarray's missing value: it makes NaN of None by itself, but not everywhere
            values = np.where(values == None, np.nan, values)  # noqa: E711 - one by one
        return values

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return (type(self).__name__, self.rows, self.name)


class StatefulVariable(xr.Variable):
    """A variable whose Dask keys name the state of the store, and that knows when it is no longer the store's.

    Lazy values that a user puts in their place take its mark (``preferred_chunks``) from it; those in memory may change without
    a sign, so they are compared where it counts.

    xarray makes the keys of ``open_dataset(chunks=...)`` from the path and the time of the directory's last change, which a URL
    does not have: two opens of a store, rewritten in between, would share their keys, and Dask would answer one with the other.
    """

    __slots__ = ()

    @property
    def data(self) -> Any:
        """The values, as a numpy or a Dask array."""
        return super().data

    @data.setter
    def data(self, data: Any) -> None:
        before = _dask_name(self._data)
        xr.Variable.data.fset(self, data)  # type: ignore[attr-defined]
        if _dask_name(self._data) not in (None, before):  # what was computed or persisted is as it was
            self.encoding.pop(MARK, None)

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)  # type: ignore[no-untyped-call]
        self.encoding.pop(MARK, None)

    def chunk(self, *args: Any, **kwargs: Any) -> Any:
        """Return the variable as a Dask array, see :meth:`xarray.Variable.chunk`."""
        options = dict(kwargs.get("from_array_kwargs") or {})
        if isinstance(options.get("name"), str):
            options["name"] += f"-{tokenize(self._data)}"
            kwargs["from_array_kwargs"] = options
        return super().chunk(*args, **kwargs)


def lazy_variable(
    dims: Sequence[str],
    rows: Table,
    name: str | int,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    attrs: Mapping[str, Any],
    chunks: tuple[int, ...],
) -> xr.Variable:
    """Return a column as a variable; `chunks` along the first dimension suit the store: what ``chunks={}`` gives."""
    preferred: dict[str, Any] = {dims[0]: chunks, **dict(zip(dims[1:], shape[1:], strict=True))}
    data = LazilyIndexedArray(ColumnArray(rows, name, shape, dtype))
    return StatefulVariable(tuple(dims), data, dict(attrs), {MARK: preferred})


def merged_chunks(rows: NDArray[np.int64]) -> tuple[int, ...]:
    """Return the lengths of runs of whole cells that make tasks worth their cost."""
    return tuple(np.diff(merged_runs(rows)[1]).tolist())


def even_chunks(n: int) -> tuple[int, ...]:
    """Return the lengths of such runs of a table of n rows."""
    full, rest = divmod(n, _CHUNK_ROWS)
    return (_CHUNK_ROWS,) * full + ((rest,) if rest or not full else ())


def merged_runs(rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first cell of each such run and the rows at which they begin, both with the end of the last."""
    ends = np.cumsum(rows)
    cells = [0]
    n = len(rows)
    while cells[-1] < n:
        start = cells[-1]
        before = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, before + _CHUNK_ROWS, side="right"))
        cells.append(min(max(stop, start + 1), start + _CHUNK_CELLS, n))
    at = np.asarray(cells, np.int64)
    if len(at) == 1:
        return np.array([0, 0]), np.array([0, 0])
    return at, np.append(0, ends)[at]
