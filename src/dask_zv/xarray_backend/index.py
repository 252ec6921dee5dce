"""Indexes of the spatial view: which rows of which level a Dataset holds, so that boxes can prune chunks.

:class:`RowIndex` on the dimension ``vertex`` (and on ``edge`` or ``face``) selects by number, :class:`AxisIndex` on the
coordinates of all axes together selects by position.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Self

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from xarray import IndexSelResult, IndexVariable, Variable
from xarray.indexes import Index, PandasIndex

from dask_zv.errors import escaped
from dask_zv.read.columns import LevelRows, rows_in
from dask_zv.read.edge_rows import EdgeRows
from dask_zv.xarray_backend.arrays import lazy_variable

Table = LevelRows | EdgeRows
Rows = slice | NDArray[np.int64]
"""Row numbers of a level: a run, or any in any order."""


def select_rows(index: RowIndex, found: slice | NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """Return where an index has some rows of the level: places in the index' order.

    Parameters
    ----------
    index : RowIndex
    found : slice or ndarray of int64
        Row numbers, ascending.
    """
    mine = index.numbers
    if isinstance(mine, slice):
        if isinstance(found, slice):
            start, stop = max(found.start, mine.start), min(found.stop, mine.stop)
            return slice(start - mine.start, max(start, stop) - mine.start)
        within: NDArray[np.int64] = found[(found >= mine.start) & (found < mine.stop)] - mine.start
        return within
    if isinstance(found, slice):
        return np.flatnonzero((mine >= found.start) & (mine < found.stop))
    if not len(found):
        return found
    at = np.minimum(np.searchsorted(found, mine), len(found) - 1)
    return np.flatnonzero(found[at] == mine)


class RowIndex(Index):
    """Rows of a level along ``vertex``, or links of a level along ``edge`` or ``face``.

    Parameters
    ----------
    rows : LevelRows or EdgeRows, optional
        None after a concatenation of several levels, when the rows are no longer one level's.
    numbers : slice or ndarray of int64
        Which rows, by their numbers in the level.
    name, dim : str
        The coordinate that it is on, and its dimension.
    """

    def __init__(self, rows: Table | None, numbers: Rows, name: str = "vertex", dim: str = "vertex") -> None:
        self.rows = rows
        self.numbers = numbers
        self.name = name
        self.dim = dim

    def with_rows(self, numbers: Rows) -> Self:
        """Return the index on other rows of the level."""
        return type(self)(self.rows, numbers, self.name, self.dim)

    def __len__(self) -> int:
        return self.numbers.stop - self.numbers.start if isinstance(self.numbers, slice) else len(self.numbers)

    @property
    def level(self) -> LevelRows:
        """The level's vertices, of an index on them."""
        assert isinstance(self.rows, LevelRows)
        return self.rows

    def create_variables(self, variables: Mapping[Any, Variable] | None = None) -> dict[Hashable, Variable]:
        """Return the coordinate of this index' rows: their numbers; a run of them takes no memory."""
        given = (variables or {}).get(self.name)
        attrs = {"long_name": f"number of the {self.dim} in the level", "zv_role": self.dim} if given is None else given.attrs
        if self.name == self.dim:
            return {self.name: IndexVariable((self.dim,), self.to_pandas_index(), attrs)}
        return {self.name: Variable((self.dim,), self.all_numbers(), attrs)}

    def isel(self, indexers: Mapping[Any, Any]) -> Self | None:
        """Return the index of some of its rows; None for a single one, or another dimension's."""
        numbers = self._pick(indexers.get(self.dim))
        return None if numbers is None else self.with_rows(numbers)

    def _pick(self, selected: Any) -> Rows | None:
        """Return the numbers of the rows that an indexer selects; None where it gives no rows in the index' dimension."""
        if isinstance(selected, Variable | xr.DataArray):
            if selected.dims != (self.dim,):
                return None
            selected = np.asarray(selected)
        mine = self.numbers
        if isinstance(selected, slice):
            start, stop, step = selected.indices(len(self))
            if isinstance(mine, slice) and step == 1:
                return slice(mine.start + start, mine.start + max(start, stop))
            return self.all_numbers()[selected]
        if not isinstance(selected, np.ndarray | list | tuple) or np.ndim(selected) != 1:
            return None
        at = np.asarray(selected)
        if at.dtype == bool and len(at) == len(self):
            at = np.flatnonzero(at)
        if not len(at):
            return slice(0, 0)
        if at.dtype == bool or int(at.min()) < -len(self) or int(at.max()) >= len(self):
            raise IndexError(f"rows are selected that the {len(self):,} along {self.dim!r} don't have")
        if not isinstance(mine, slice):
            picked: NDArray[np.int64] = mine[at]
            return picked
        at = at.astype(np.int64)  # a small or an unsigned dtype can't hold the sums
        rows: NDArray[np.int64] = np.where(at < 0, at + len(self), at) + mine.start
        return rows

    def all_numbers(self) -> NDArray[np.int64]:
        """Return the numbers of all rows."""
        mine = self.numbers
        return np.arange(mine.start, mine.stop) if isinstance(mine, slice) else mine

    def to_pandas_index(self) -> pd.Index:
        """Return the row numbers."""
        mine = self.numbers
        if isinstance(mine, slice):
            return pd.RangeIndex(mine.start, mine.stop, name=self.name)
        return pd.Index(mine, name=self.name)

    def sel(self, labels: dict[Any, Any], method: str | None = None, tolerance: Any = None) -> IndexSelResult:
        """Select by row numbers."""
        return PandasIndex(self.to_pandas_index(), self.dim).sel(labels, method=method, tolerance=tolerance)

    def same_level(self, other: RowIndex) -> bool:
        """Tell whether both are of one state of one level."""
        if self.rows is None or other.rows is None:
            return self.rows is other.rows
        return self.rows is other.rows or self.rows.__dask_tokenize__() == other.rows.__dask_tokenize__()

    def equals(self, other: Index, **_: Any) -> bool:
        """Tell whether both are the same rows of the same state of a level."""
        if not isinstance(other, RowIndex) or len(self) != len(other) or not self.same_level(other):
            return False
        if isinstance(self.numbers, slice) and isinstance(other.numbers, slice):
            return self.numbers == other.numbers
        return bool(np.array_equal(self.all_numbers(), other.all_numbers()))

    def join(self, other: Self, how: str = "inner") -> Self:
        """Return the rows that both have ("inner"), or either has ("outer"), ascending."""
        same = self.same_level(other)
        a, b = self.numbers, other.numbers

        made = partial(type(self), self.rows if same else None, name=self.name, dim=self.dim)

        if isinstance(a, slice) and isinstance(b, slice):
            start, stop = max(a.start, b.start), min(a.stop, b.stop)
            if how == "inner":
                return made(slice(start, max(start, stop)))
            if start <= stop:
                return made(slice(min(a.start, b.start), max(a.stop, b.stop)))
        both = np.intersect1d if how == "inner" else np.union1d
        return made(both(self.all_numbers(), other.all_numbers()))

    def reindex_like(self, other: Self, **_: Any) -> dict[Hashable, Any]:
        """Return where this index has the rows of `other`, -1 for none."""
        return {self.dim: self.to_pandas_index().get_indexer(other.to_pandas_index())}

    @classmethod
    def concat(cls, indexes: Sequence[Self], dim: Hashable, positions: Iterable[Iterable[int]] | None = None) -> Self:
        """Return the index of all rows; those of several levels are numbered anew."""
        numbers = _concatenated(indexes, positions)
        if numbers is None:
            return cls(None, slice(0, sum(map(len, indexes))), indexes[0].name, indexes[0].dim)
        return indexes[0].with_rows(numbers)

    def rename(self, name_dict: Mapping[Any, Hashable], dims_dict: Mapping[Any, Hashable]) -> Self:
        """Return the index under other names."""
        name, dim = str(name_dict.get(self.name, self.name)), str(dims_dict.get(self.dim, self.dim))
        return type(self)(self.rows, self.numbers, name, dim)

    def _repr_inline_(self, max_width: int) -> str:
        return f"RowIndex ({self._about()})"[:max_width]

    def _about(self) -> str:
        mine = self.numbers
        return f"rows {mine.start:,} to {mine.stop:,}" if isinstance(mine, slice) else f"{len(mine):,} rows"

    def __repr__(self) -> str:
        where = "" if self.rows is None else f" of {self.rows.source.where()}"
        return f"<RowIndex: {self._about()}{where}>"


def _concatenated(indexes: Sequence[RowIndex], positions: Iterable[Iterable[int]] | None) -> Rows | None:
    """Return the numbers of the rows of all indexes; None where they are of several levels."""
    first = indexes[0]
    if first.rows is None or not all(first.same_level(i) for i in indexes):
        return None
    numbers: NDArray[np.int64] = np.concatenate([i.all_numbers() for i in indexes])
    if positions is not None:
        out = np.empty_like(numbers)
        out[np.concatenate([np.asarray(list(p), np.int64) for p in positions])] = numbers
        numbers = out
    if len(numbers) and (np.diff(numbers) == 1).all():
        return slice(int(numbers[0]), int(numbers[-1]) + 1)
    return numbers


class AxisIndex(Index):
    """Positions: one index on the coordinates of all axes, which selects exactly and reads what a box cuts alone.

    Parameters
    ----------
    rows : RowIndex
    names : mapping of str to int
        Coordinates that it is on, and the number of each one's axis.
    chunks : tuple of int
        Lengths along ``vertex`` that suit the store.
    """

    def __init__(self, rows: RowIndex, names: Mapping[str, int], chunks: tuple[int, ...]) -> None:
        self.rows = rows
        self.names = dict(names)
        self.chunks = chunks
        self._picked: Any = None
        """What `isel` just selected: xarray then asks for the variables of the new index, and gives those of the old one."""

        self._copied = False
        """A deep copy was just made: xarray then asks the old index for the variables of the new one."""

    def _copy(self, deep: bool = True, memo: dict[int, Any] | None = None) -> Self:
        self._copied = deep
        return type(self)(self.rows, self.names, self.chunks)  # nothing in it ever changes

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_picked": None, "_copied": False}

    def create_variables(self, variables: Mapping[Any, Variable] | None = None) -> dict[Hashable, Variable]:
        """Return the coordinates: those given, cut as the index was; made anew (and lazy) where there are none that fit."""
        picked, self._picked = self._picked, None
        deep, self._copied = self._copied, False
        out: dict[Hashable, Variable] = {}
        for name, axis in self.names.items():
            given = (variables or {}).get(name)
            if given is not None and given.ndim == 1 and given.dims != (self.rows.dim,):  # a dimension was renamed
                given = given.copy(deep=False)
                given.dims = (self.rows.dim,)
            if given is not None and deep:
                given = given.copy(deep=True)
            if given is not None and picked is not None:
                given = given.isel({self.rows.dim: picked})
            out[name] = given if given is not None and given.shape == (len(self.rows),) else self._lazy(axis, given)
        return out

    def _lazy(self, axis: int, like: Variable | None) -> Variable:
        level = self.rows.level
        attrs = {} if like is None else like.attrs
        whole = lazy_variable((self.rows.dim,), level, axis, (len(level),), level.dtype, attrs, self.chunks)
        return whole.isel({self.rows.dim: self.rows.numbers})

    def isel(self, indexers: Mapping[Any, Any]) -> Self | None:
        """Return the index of some of the rows."""
        selected = indexers.get(self.rows.dim)
        rows = self.rows.isel(indexers)
        if rows is None:
            return None
        out = type(self)(rows, self.names, self.chunks)
        out._picked = np.asarray(selected) if isinstance(selected, Variable | xr.DataArray) else selected
        return out

    def sel(self, labels: dict[Any, Any], method: str | None = None, tolerance: Any = None) -> IndexSelResult:
        """Select by positions: slices are closed at both ends, as labels are everywhere in xarray; a number is that position.

        Positions of the chunks that the box cuts are read now.

        Raises
        ------
        ValueError
            `method` or `tolerance` are given, a slice has a step, or a number is NaN.
        KeyError
            No vertex has a position that was given as a number.
        """
        if method is not None or tolerance is not None:
            raise ValueError("method= and tolerance= don't work on vertices: select a box with slices")
        level = self.rows.level
        ndim = level.source.schema.grid.ndim
        low, high = np.full(ndim, -np.inf), np.full(ndim, np.inf)
        for name, label in labels.items():
            axis = self.names[name]
            if isinstance(label, slice):
                if label.step is not None:
                    raise ValueError(f"the slice of {name} has a step, which means nothing for vertices")
                low[axis] = -np.inf if label.start is None else position_label(name, label.start)
                high[axis] = np.inf if label.stop is None else position_label(name, label.stop)
            else:
                low[axis] = high[axis] = position_label(name, label)
        empty = bool((low > high).any())
        found = slice(0, 0) if empty else select_rows(self.rows, rows_in(level, (low, high), None))
        exact = [n for n, label in labels.items() if not isinstance(label, slice)]
        if exact and not empty and (found.stop <= found.start if isinstance(found, slice) else not len(found)):
            raise KeyError(f"no vertex with {', '.join(f'{n}={labels[n]}' for n in exact)}")
        return IndexSelResult({self.rows.dim: found})

    def equals(self, other: Index, **_: Any) -> bool:
        """Tell whether both are on the same rows."""
        return isinstance(other, AxisIndex) and self.names == other.names and self.rows.equals(other.rows)

    def join(self, other: Self, how: str = "inner") -> Self:
        """Return the index of the rows that both have, or either has."""
        rows = self.rows.join(other.rows, how)
        if rows.rows is None:
            raise ValueError(
                "the rows are of different levels, or of different states of one, so they can't be aligned: first leave the "
                "index of positions with ds.drop_indexes(" + repr([*map(str, self.names)]) + ")"
            )
        return type(self)(rows, self.names, self.chunks)

    def reindex_like(self, other: Self, **_: Any) -> dict[Hashable, Any]:
        """Return where this index has the rows of `other`, -1 for none."""
        return self.rows.reindex_like(other.rows)

    @classmethod
    def concat(cls, indexes: Sequence[Self], dim: Hashable, positions: Iterable[Iterable[int]] | None = None) -> Self:
        """Return the index of all rows of one level.

        Raises
        ------
        ValueError
            The rows are of several levels.
        """
        numbers = _concatenated([i.rows for i in indexes], positions)
        if numbers is None:
            raise ValueError(
                "the Datasets are of different levels, or of different states of one: before the concatenation leave the index "
                f"of positions with ds.drop_indexes({[*map(str, indexes[0].names)]!r}) in each"
            )
        return cls(indexes[0].rows.with_rows(numbers), indexes[0].names, indexes[0].chunks)

    def rename(self, name_dict: Mapping[Any, Hashable], dims_dict: Mapping[Any, Hashable]) -> Self:
        """Return the index on coordinates of other names."""
        names = {str(name_dict.get(n, n)): axis for n, axis in self.names.items()}
        return type(self)(self.rows.rename(name_dict, dims_dict), names, self.chunks)

    def _repr_inline_(self, max_width: int) -> str:
        return f"AxisIndex ({self.rows._about()})"[:max_width]

    def __repr__(self) -> str:
        return escaped(f"<AxisIndex {', '.join(self.names)}: {self.rows!r}>")


def position_label(name: Any, label: Any) -> float:
    """Return the number that a position along an axis is selected by."""
    try:
        number = float(label)
    except (TypeError, ValueError):
        raise TypeError(f"{name} is selected by a number or a slice of numbers, not by {label!r:.80}") from None
    if np.isnan(number):
        raise ValueError(f"{name} is selected by NaN, which no position is: leave a side open with None")
    return number
