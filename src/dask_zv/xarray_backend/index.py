"""Indexes of both views: which rows, links or objects of which level a Dataset holds, so that selections can prune.

:class:`RowIndex` on ``vertex``, ``edge`` and ``face``, and :class:`ObjectIdIndex` on ``object``, select by number;
:class:`AxisIndex` on the coordinates of all axes together selects by position. One module because the latter stands on the
former, and each is xarray's Index from ``isel`` to ``concat``.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
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
from dask_zv.read.object_rows import ObjectRows
from dask_zv.xarray_backend.arrays import Numbers, lazy_variable, picked

Positions = Iterable[Iterable[int]] | None


class NumberIndex(Index):
    """Rows of a table of a level by number, along one dimension; a pandas index that remembers its level.

    `rows` is None after a concatenation of several levels, when the numbers are no longer one level's. `name` is the coordinate
    that the index is on.
    """

    def __init__(self, rows: Any, numbers: Numbers, name: str, dim: str) -> None:
        self.rows, self.numbers, self.name, self.dim = rows, numbers, name, dim

    def _with(self, numbers: Numbers, rows: Any = None) -> Self:
        return type(self)(rows, numbers, self.name, self.dim)

    def __len__(self) -> int:
        return self.numbers.stop - self.numbers.start if isinstance(self.numbers, slice) else len(self.numbers)

    def all_numbers(self) -> NDArray[np.int64]:
        """Return the numbers of all rows."""
        mine = self.numbers
        return np.arange(mine.start, mine.stop) if isinstance(mine, slice) else mine

    def to_pandas_index(self) -> pd.Index:
        """Return the numbers; a run of them takes no memory."""
        mine = self.numbers
        if isinstance(mine, slice):
            return pd.RangeIndex(mine.start, mine.stop, name=self.name)
        return pd.Index(mine, name=self.name)

    def _long_name(self) -> str:
        return f"number of the {self.dim} in the level"

    def create_variables(self, variables: Mapping[Any, Variable] | None = None) -> dict[Hashable, Variable]:
        """Return the coordinate of the numbers."""
        given = (variables or {}).get(self.name)
        attrs = {"long_name": self._long_name(), "zv_role": self.dim} if given is None else given.attrs
        if self.name == self.dim:
            return {self.name: IndexVariable((self.dim,), self.to_pandas_index(), attrs)}
        return {self.name: Variable((self.dim,), self.all_numbers(), attrs)}

    def isel(self, indexers: Mapping[Any, Any]) -> Self | None:
        """Return the index of some of its rows; None for a single one, or another dimension's."""
        numbers = self._pick(indexers.get(self.dim))
        return None if numbers is None else self._with(numbers, self.rows)

    def _pick(self, selected: Any) -> Numbers | None:
        """Return the numbers of the rows that an indexer selects; None where it gives no rows in the index' dimension."""
        if isinstance(selected, Variable | xr.DataArray):
            if selected.dims != (self.dim,):
                return None
            selected = np.asarray(selected)
        mine = self.numbers
        if isinstance(selected, slice):
            return picked(mine, selected, len(self))
        if not isinstance(selected, np.ndarray | list | tuple) or np.ndim(selected) != 1:
            return None
        at = np.asarray(selected)
        if at.dtype == bool and len(at) == len(self):
            at = np.flatnonzero(at)
        if not len(at):
            return slice(0, 0) if isinstance(mine, slice) else mine[:0]
        if at.dtype == bool or int(at.min()) < -len(self) or int(at.max()) >= len(self):
            raise IndexError(f"rows are selected that the {len(self):,} along {self.dim!r} don't have")
        return picked(mine, at, len(self))

    def sel(self, labels: dict[Any, Any], method: str | None = None, tolerance: Any = None) -> IndexSelResult:
        """Select by number."""
        return PandasIndex(self.to_pandas_index(), self.dim).sel(labels, method=method, tolerance=tolerance)

    def same_level(self, other: NumberIndex) -> bool:
        """Return True if both are of one state of one level."""
        if self.rows is None or other.rows is None:
            return self.rows is other.rows
        return self.rows is other.rows or bool(self.rows.__dask_tokenize__() == other.rows.__dask_tokenize__())

    def equals(self, other: Index, **_: Any) -> bool:
        """Return True if both are the same rows of the same state of a level."""
        if not isinstance(other, type(self)) or len(self) != len(other) or not self.same_level(other):
            return False
        if isinstance(self.numbers, slice) and isinstance(other.numbers, slice):
            return self.numbers == other.numbers
        return bool(np.array_equal(self.all_numbers(), other.all_numbers()))

    def join(self, other: Self, how: str = "inner") -> Self:
        """Return the rows that both have ("inner"), or either has ("outer"), ascending."""
        a, b = self.numbers, other.numbers
        numbers: Numbers | None = None
        if isinstance(a, slice) and isinstance(b, slice):
            start, stop = max(a.start, b.start), min(a.stop, b.stop)
            if how == "inner":
                numbers = slice(start, max(start, stop))
            elif start <= stop:
                numbers = slice(min(a.start, b.start), max(a.stop, b.stop))
        if numbers is None:
            both = np.intersect1d if how == "inner" else np.union1d
            numbers = both(self.all_numbers(), other.all_numbers())
        return self._with(numbers, self.rows if self.same_level(other) else None)

    def reindex_like(self, other: Self, **_: Any) -> dict[Hashable, Any]:
        """Return where this index has the rows of `other`, -1 for none."""
        return {self.dim: self.to_pandas_index().get_indexer(other.to_pandas_index())}

    @classmethod
    def concat(cls, indexes: Sequence[Self], dim: Hashable, positions: Positions = None) -> Self:
        """Return the index of all rows; those of several levels are numbered anew."""
        numbers = _concatenated(indexes, positions)
        if numbers is None:
            return indexes[0]._with(slice(0, sum(map(len, indexes))))
        return indexes[0]._with(numbers, indexes[0].rows)

    def rename(self, name_dict: Mapping[Any, Hashable], dims_dict: Mapping[Any, Hashable]) -> Self:
        """Return the index under other names."""
        name, dim = str(name_dict.get(self.name, self.name)), str(dims_dict.get(self.dim, self.dim))
        return type(self)(self.rows, self.numbers, name, dim)

    def _about(self) -> str:
        mine = self.numbers
        return f"rows {mine.start:,} to {mine.stop:,}" if isinstance(mine, slice) else f"{len(mine):,} rows"

    def _repr_inline_(self, max_width: int) -> str:
        return f"{type(self).__name__} ({self._about()})"[:max_width]

    def __repr__(self) -> str:
        where = "" if self.rows is None else f" of {self.rows.where}"
        return f"<{type(self).__name__}: {self._about()}{where}>"


class RowIndex(NumberIndex):
    """Rows of a level along ``vertex``, or links of a level along ``edge`` or ``face``."""

    rows: LevelRows | EdgeRows | None

    def __init__(self, rows: LevelRows | EdgeRows | None, numbers: Numbers, name: str = "vertex", dim: str = "vertex") -> None:
        super().__init__(rows, numbers, name, dim)

    @property
    def level(self) -> LevelRows:
        """The level's vertices, of an index on them."""
        assert isinstance(self.rows, LevelRows)
        return self.rows

    def places(self, found: Numbers) -> Numbers:
        """Return where the index has some rows of the level (ascending): places in the index' order."""
        mine = self.numbers
        if isinstance(mine, slice):
            if isinstance(found, slice):
                start, stop = max(found.start, mine.start), min(found.stop, mine.stop)
                return slice(start - mine.start, max(start, stop) - mine.start)
            return np.asarray(found[(found >= mine.start) & (found < mine.stop)] - mine.start)
        if isinstance(found, slice):
            return np.flatnonzero((mine >= found.start) & (mine < found.stop))
        if not len(found):
            return found
        at = np.minimum(np.searchsorted(found, mine), len(found) - 1)
        return np.flatnonzero(found[at] == mine)


class ObjectIdIndex(NumberIndex):
    """Ids of objects along ``object`` in the objects view: knows where their vertices are read from."""

    rows: ObjectRows | None

    def __init__(self, rows: ObjectRows | None, numbers: NDArray[np.int64], name: str = "object", dim: str = "object") -> None:
        super().__init__(rows, numbers, name, dim)

    @property
    def ids(self) -> NDArray[np.int64]:
        """The ids, in the order of the Dataset."""
        return self.all_numbers()

    def _long_name(self) -> str:
        return "id of the object"

    def equals(self, other: Index, **_: Any) -> bool:
        """Return True if both have the same ids."""
        return isinstance(other, ObjectIdIndex) and bool(np.array_equal(self.ids, other.ids))

    def join(self, other: Self, how: str = "inner") -> Self:
        """Return the ids that both have, or either has."""
        mine, others = self.to_pandas_index(), other.to_pandas_index()
        joined = mine.intersection(others) if how == "inner" else mine.union(others)
        return self._with(joined.to_numpy(), self.rows if self.same_level(other) else None)

    @classmethod
    def concat(cls, indexes: Sequence[Self], dim: Hashable, positions: Positions = None) -> Self:
        """Return the index of all ids."""
        first = indexes[0]
        joined = PandasIndex.concat([PandasIndex(i.to_pandas_index(), i.dim) for i in indexes], dim, positions)
        return first._with(joined.index.to_numpy(), first.rows if all(map(first.same_level, indexes)) else None)

    def _about(self) -> str:
        return f"{len(self):,} objects"


def _concatenated(indexes: Sequence[NumberIndex], positions: Positions) -> Numbers | None:
    """Return the numbers of the rows of all indexes; None where they are of several levels."""
    first = indexes[0]
    if first.rows is None or not all(map(first.same_level, indexes)):
        return None
    numbers: NDArray[np.int64] = np.concatenate([i.all_numbers() for i in indexes])
    if positions is not None:
        out = np.empty_like(numbers)
        out[np.concatenate([np.asarray(list(p), np.int64) for p in positions])] = numbers
        numbers = out
    if len(numbers) and (np.diff(numbers) == 1).all():
        return slice(int(numbers[0]), int(numbers[-1]) + 1)
    return numbers


# ---------------------------------------------------------------------------------------------- positions


class AxisIndex(Index):
    """Positions: one index on the coordinates of all axes, which selects exactly and reads what a box cuts alone.

    `names` are the coordinates that it is on, and the number of each one's axis; `chunks` are the lengths along ``vertex`` that
    suit the store.
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
        found = slice(0, 0) if empty else self.rows.places(rows_in(level, (low, high), None))
        exact = [n for n, label in labels.items() if not isinstance(label, slice)]
        if exact and not empty and (found.stop <= found.start if isinstance(found, slice) else not len(found)):
            raise KeyError(f"no vertex with {', '.join(f'{n}={labels[n]}' for n in exact)}")
        return IndexSelResult({self.rows.dim: found})

    def equals(self, other: Index, **_: Any) -> bool:
        """Return True if both are on the same rows."""
        return isinstance(other, AxisIndex) and self.names == other.names and self.rows.equals(other.rows)

    def join(self, other: Self, how: str = "inner") -> Self:
        """Return the index of the rows that both have, or either has."""
        rows = self.rows.join(other.rows, how)
        if rows.rows is None:
            raise ValueError(
                "the rows are of different levels, or of different states of one, so they can't be aligned: first leave the "
                f"index of positions with ds.drop_indexes({[*map(str, self.names)]!r})"
            )
        return type(self)(rows, self.names, self.chunks)

    def reindex_like(self, other: Self, **_: Any) -> dict[Hashable, Any]:
        """Return where this index has the rows of `other`, -1 for none."""
        return self.rows.reindex_like(other.rows)

    @classmethod
    def concat(cls, indexes: Sequence[Self], dim: Hashable, positions: Positions = None) -> Self:
        """Return the index of all rows of one level."""
        rows = RowIndex.concat([i.rows for i in indexes], dim, positions)
        if rows.rows is None:
            raise ValueError(
                "the Datasets are of different levels, or of different states of one: before the concatenation leave the index "
                f"of positions with ds.drop_indexes({[*map(str, indexes[0].names)]!r}) in each"
            )
        return cls(rows, indexes[0].names, indexes[0].chunks)

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
        raise ValueError(f"{name} is selected by NaN: leave a side open with None")
    return number
