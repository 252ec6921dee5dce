"""Lazy columns of a level as variables of xarray, and the Dask chunks that suit the store.

A column that is chunked is a Dask array that knows its rows: a selection reads the chosen rows, and no blocks that hold them
all. It is no class of its own, as xarray wants the arrays of a Dataset to be of one. One module because a variable, its lazy
array and its Dask array speak of the same rows. Dask's arrays are imported when there are some.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from dask.task_spec import DataNode, Task, TaskRef
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing
from xarray.core.indexing import LazilyIndexedArray

from dask_zv.read.columns import POSITIONS, RaggedColumns

_CHUNK_ROWS = 500_000
_CHUNK_CELLS = 4096
MARK = "preferred_chunks"
"""The encoding that variables lose when others are computed from them."""


def _dask_name(data: Any) -> str | None:
    return getattr(data, "name", None) if hasattr(data, "__dask_graph__") else None


Numbers = slice | NDArray[np.int64]
"""Numbers of rows: a run, or any in any order."""


def picked(mine: Numbers, selected: slice | NDArray[Any], n: int) -> Numbers:
    """Return the numbers that are selected among n."""
    if isinstance(selected, slice):
        start, stop, step = selected.indices(n)
        if isinstance(mine, slice) and step == 1:
            return slice(mine.start + start, mine.start + max(start, stop))
        return (np.arange(mine.start, mine.stop) if isinstance(mine, slice) else mine)[selected]
    at = np.flatnonzero(selected) if selected.dtype == bool else selected.astype(np.int64, copy=False)
    if not isinstance(mine, slice):  # a small or an unsigned dtype can't hold the sums
        return np.asarray(mine[at])
    return np.asarray(np.where(at < 0, at + n, at) + mine.start)


def is_whole(key: Any, size: int) -> bool:
    """Return True for a slice of everything."""
    return isinstance(key, slice) and range(*key.indices(size)) == range(size)


class Table(Protocol):
    """A table whose columns are read by row numbers; its token names the state of the store."""

    def column(self, name: Any, rows: Numbers) -> NDArray[Any]: ...
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
            one: NDArray[Any] = self.values(slice(at, at + 1))[(0, *rest)]
            return one
        if isinstance(first, slice):
            start, stop, step = first.indices(n)
            if step < 0:
                numbers = np.arange(start, stop, step, dtype=np.int64)
                return self.values(numbers)[(slice(None), *rest)]
            return self.values(slice(start, stop, step))[(slice(None), *rest)]
        numbers = np.asarray(first, np.int64)
        return self.values(np.where(numbers < 0, numbers + n, numbers))[(slice(None), *rest)]

    def values(self, rows: Numbers) -> NDArray[Any]:
        """Return the values of some rows; none are no read."""
        if not (rows.stop > rows.start if isinstance(rows, slice) else len(rows)):
            return np.empty((0, *self.shape[1:]), self.dtype)
        values = self.rows.column(self.name, rows).astype(self.dtype, copy=False)
        if self.dtype.hasobject:  # xarray's missing value: it makes NaN of None by itself, but not everywhere
            values = np.where(values == None, np.nan, values)  # noqa: E711 - one by one
        return values

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return (type(self).__name__, self.rows, self.name)


# ---------------------------------------------------------------------------------------------- as Dask arrays


_KNOWN = "zv_rows"
"""Attribute of Dask arrays: their column, and the numbers of their rows. What Dask makes of them doesn't have it."""


def selected_rows(array: Any, key: tuple[Any, ...]) -> Any:
    """Return what is selected of an array along its rows; None where it doesn't know them, or something else is selected."""
    first, *rest = key
    if isinstance(first, np.ndarray) and first.shape == array.shape[:1] and first.dtype == bool:
        first = np.flatnonzero(first)
    if isinstance(first, np.ndarray) and first.shape == (0,):
        first = first.astype(np.int64)  # [] is an array of floats
    by_row = isinstance(first, slice) or (isinstance(first, np.ndarray) and first.ndim == 1 and first.dtype.kind in "iu")
    if not by_row or not hasattr(array, _KNOWN) or not all(map(is_whole, rest, array.shape[1:])):
        return None
    if is_whole(first, len(array)):
        return array
    if isinstance(first, np.ndarray):
        first = first.astype(np.int64, copy=False)  # a small dtype can't hold numbers of rows
    column, numbers = getattr(array, _KNOWN)
    chunks = chunks_of(array.chunks[0], first), *array.chunks[1:]
    return rows_array(column, picked(numbers, first, len(array)), chunks)


_last: list[Any] = [(), slice(None), ()]  # the variables of a Dataset are cut one after the other, all in one way


def chunks_of(chunks: tuple[int, ...], selected: slice | NDArray[np.int64]) -> tuple[int, ...]:
    """Return how Dask cuts what is selected of an array: all variables of a Dataset need the same chunks."""
    from dask.array.core import Array

    before, last, cut = _last
    same = before == chunks and type(last) is type(selected)
    if not same or not (np.array_equal(selected, last) if isinstance(selected, np.ndarray) else selected == last):
        cut = Array({}, "zv-none", (chunks,), meta=np.empty(0))[selected].chunks[0]
        _last[:] = [chunks, selected, cut]
    rows: tuple[int, ...] = cut
    return rows


def rows_array(column: ColumnArray, numbers: Numbers, chunks: tuple[tuple[int, ...], ...]) -> Any:
    """Return rows of a column, cut into `chunks` along the first dimension alone; all axes of positions are one read."""
    from dask.array.core import Array

    table, state = f"zv-table-{tokenize(column.rows)}", tokenize(numbers, chunks[0])
    layers: dict[str, dict[Any, Any]] = {table: {table: DataNode(table, column.rows)}}
    rows: list[Any] = [_cut(numbers, stop - n, stop) for n, stop in zip(chunks[0], np.cumsum(chunks[0]).tolist(), strict=True)]
    if not isinstance(numbers, slice):  # those of all columns are the same ones
        name = f"zv-numbers-{state}"
        layers[name] = {(name, i): DataNode((name, i), part) for i, part in enumerate(rows)}
        rows = [TaskRef(key) for key in layers[name]]
    label = str(column.name).strip("/")
    name = f"zv-{label}-{tokenize(table, column.name, column.dtype, state)}"
    keys = [(name, i, *[0] * (len(chunks) - 1)) for i in range(len(rows))]
    if isinstance(column.name, int) and isinstance(column.rows, RaggedColumns):
        read = f"zv-positions-{tokenize(table, state)}"
        layers[read] = {(read, i): Task((read, i), _positions, TaskRef(table), part) for i, part in enumerate(rows)}
        of_axis = column.name, column.dtype
        layers[name] = {k: Task(k, _axis, TaskRef(source), *of_axis) for k, source in zip(keys, layers[read], strict=True)}
    else:
        of_column = TaskRef(table), column.name, column.shape, column.dtype
        layers[name] = {k: Task(k, _values, *of_column, part) for k, part in zip(keys, rows, strict=True)}
    before: list[str] = []
    needs = {}
    for layer in layers:
        needs[layer] = set(before)
        before.append(layer)
    graph = HighLevelGraph(layers, needs)
    out = Array(graph, name, chunks, meta=np.empty((0,) * len(chunks), column.dtype))
    setattr(out, _KNOWN, (column, numbers))
    return out


def _cut(numbers: Numbers, start: int, stop: int) -> Any:
    """Return some of the numbers, as small as they get: ascending ones as the first and the steps to the next."""
    if isinstance(numbers, slice):
        return slice(numbers.start + start, numbers.start + stop)
    part = numbers[start:stop]
    steps = np.diff(part)
    if not len(steps) or int(steps.min()) < 0:
        return part.copy()
    return int(part[0]), steps.astype(np.min_scalar_type(int(steps.max())))


def _rows(packed: Any) -> Numbers:
    if not isinstance(packed, tuple):
        return packed  # type: ignore[no-any-return]
    first, steps = packed
    return np.append(first, first + np.cumsum(steps, dtype=np.int64))


def _values(table: Table, name: str | int, shape: tuple[int, ...], dtype: np.dtype[Any], rows: Any) -> NDArray[Any]:
    return ColumnArray(table, name, shape, dtype).values(_rows(rows))


def _positions(table: Table, rows: Any) -> NDArray[Any]:
    return table.column(POSITIONS, _rows(rows))


def _axis(positions: NDArray[Any], axis: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(positions[:, axis], dtype)


# ---------------------------------------------------------------------------------------------- variables


class LazyColumn(LazilyIndexedArray):
    """A column that is not read yet. It shows itself: xarray would import dask.array first, to see that it is none."""

    __slots__ = ()

    def _repr_inline_(self, max_width: int) -> str:
        return "..."


class CachedColumn(indexing.MemoryCachedArray):
    """The same, as it is kept once it is read: then xarray shows its values."""

    __slots__ = ()

    @property
    def _repr_inline_(self) -> Any:
        if isinstance(self.array, indexing.NumpyIndexingAdapter):
            raise AttributeError("_repr_inline_")  # noqa: TRY004 - as what a class does not have
        return lambda max_width: "..."


def _shown(data: Any) -> Any:
    is_cache = type(data) is indexing.MemoryCachedArray
    return CachedColumn(data.array) if is_cache else data  # type: ignore[no-untyped-call]


class StatefulVariable(xr.Variable):
    """A variable whose Dask keys name the state of the store, and that knows when it is no longer the store's.

    Lazy values that a user puts in their place take its mark (``preferred_chunks``) from it; those in memory may change without
    a sign, so they are compared where it counts.

    xarray makes the keys of ``open_dataset(chunks=...)`` from the path and the time of the directory's last change, which a URL
    does not have: two opens of a store, rewritten in between, would share their keys, and Dask would answer one with the other.
    """

    __slots__ = ()

    def __init__(self, dims: Any, data: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(dims, _shown(data), *args, **kwargs)

    @property
    def data(self) -> Any:
        """The values, as a numpy or a Dask array."""
        return super().data

    @data.setter
    def data(self, data: Any) -> None:
        before = _dask_name(self._data)
        xr.Variable.data.fset(self, _shown(data))  # type: ignore[attr-defined]
        if _dask_name(self._data) not in (None, before):  # what was computed or persisted is as it was
            self.encoding.pop(MARK, None)

    def __getitem__(self, key: Any) -> Any:
        if _dask_name(self._data) is not None and isinstance(key, tuple) and len(key) == self.ndim > 0:
            first, *rest = key
            if isinstance(first, xr.Variable) and first.dims == self.dims[:1]:
                first = first.to_numpy()
            data = selected_rows(self._data, (np.asarray(first) if isinstance(first, list) else first, *rest))
            if data is not None:
                return type(self)(self.dims, data, self.attrs, self.encoding, fastpath=True)
        return super().__getitem__(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)  # type: ignore[no-untyped-call]
        self.encoding.pop(MARK, None)

    def chunk(self, *args: Any, **kwargs: Any) -> Any:
        """Return the variable as a Dask array, see :meth:`xarray.Variable.chunk`; selections of it read by row."""
        from dask.array.core import Array

        options = dict(kwargs.get("from_array_kwargs") or {})
        if isinstance(options.get("name"), str):
            options["name"] += f"-{tokenize(self._data)}"
            kwargs["from_array_kwargs"] = options
        out = super().chunk(*args, **kwargs)
        lazy = _rows_of(self._data)
        if lazy is None or not isinstance(out._data, Array) or out._data.npartitions != len(out._data.chunks[0]):
            return out  # also where Dask's arrays are expressions
        return type(self)(out.dims, rows_array(*lazy, out._data.chunks), out.attrs, out.encoding, fastpath=True)


def is_lazy(variable: xr.Variable) -> bool:
    """Return True for a column that is not in memory."""
    return isinstance(variable, StatefulVariable) and not variable._in_memory


def _rows_of(data: Any) -> tuple[ColumnArray, Numbers] | None:
    """Return the column and the numbers of the rows that a lazy array is of, None for what is not just rows of one."""
    while isinstance(data, indexing.CopyOnWriteArray | indexing.MemoryCachedArray):
        data = data.array
    if not isinstance(data, LazilyIndexedArray) or not isinstance(column := data.array, ColumnArray):
        return None
    first, *rest = data.key.tuple
    if isinstance(first, int | np.integer) or not all(map(is_whole, rest, column.shape[1:])):
        return None
    return column, picked(slice(0, column.shape[0]), first, column.shape[0])


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
    data = LazyColumn(ColumnArray(rows, name, shape, dtype))
    return StatefulVariable(tuple(dims), data, dict(attrs), {MARK: preferred})


def merged_chunks(rows: NDArray[np.int64]) -> tuple[int, ...]:
    """Return the lengths of runs of whole cells that make tasks worth their cost."""
    return tuple(np.diff(merged_runs(rows)[1]).tolist())


def object_runs(lengths: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return runs of objects, as :func:`merged_runs`: many small ones are read from the same chunks of the store."""
    return merged_runs(lengths, _CHUNK_ROWS)


def even_chunks(n: int) -> tuple[int, ...]:
    """Return the lengths of such runs of a table of n rows."""
    full, rest = divmod(n, _CHUNK_ROWS)
    return (_CHUNK_ROWS,) * full + ((rest,) if rest or not full else ())


def merged_runs(rows: NDArray[np.int64], most_cells: int = _CHUNK_CELLS) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first cell of each such run and the rows at which they begin, both with the end of the last."""
    ends = np.cumsum(rows)
    cells = [0]
    n = len(rows)
    while cells[-1] < n:
        start = cells[-1]
        before = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, before + _CHUNK_ROWS, side="right"))
        cells.append(min(max(stop, start + 1), start + most_cells, n))
    at = np.asarray(cells, np.int64)
    if len(at) == 1:
        return np.array([0, 0]), np.array([0, 0])
    return at, np.append(0, ends)[at]
