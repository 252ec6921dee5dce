"""The index on dimension ``vertex``: knows which rows of which level a Dataset holds, so that boxes can prune chunks."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
from xarray import IndexVariable, Variable
from xarray.core.indexing import IndexSelResult
from xarray.indexes import Index, PandasIndex

from dask_zv.pipelines.source.columns import LevelRows

__all__ = ["RowIndex"]


class RowIndex(Index):
    """Rows `start` to `stop` of a level.

    A slice of neighbouring rows keeps the index; any other selection drops it, and what is left is an ordinary coordinate
    with row numbers.

    Parameters
    ----------
    rows : LevelRows, optional
        None after a concatenation, when the rows are no longer one level's.
    start, stop : int
    """

    def __init__(self, rows: LevelRows | None, start: int, stop: int) -> None:
        self.rows = rows
        self.start = start
        self.stop = stop

    def create_variables(self, variables: Mapping[Any, Variable] | None = None) -> dict[Hashable, Variable]:
        """Return the coordinate of this index' rows: their numbers, as a range that takes no memory."""
        given = (variables or {}).get("vertex")
        attrs = {"long_name": "row number in the level"} if given is None else given.attrs
        return {"vertex": IndexVariable(("vertex",), self.to_pandas_index(), attrs)}

    def isel(self, indexers: Mapping[Any, Any]) -> Self | None:
        """Return the index of a run of rows, None for anything else."""
        selected = indexers.get("vertex")
        if not isinstance(selected, slice) or self.rows is None:
            return None
        start, stop, step = selected.indices(self.stop - self.start)
        if step != 1:
            return None
        return type(self)(self.rows, self.start + start, self.start + max(start, stop))

    def to_pandas_index(self) -> pd.Index:
        """Return the row numbers, as a range."""
        return pd.RangeIndex(self.start, self.stop, name="vertex")

    def sel(self, labels: dict[Any, Any], method: str | None = None, tolerance: Any = None) -> IndexSelResult:
        """Select by row numbers."""
        return PandasIndex(self.to_pandas_index(), "vertex").sel(labels, method=method, tolerance=tolerance)

    def _state(self) -> Any:
        return None if self.rows is None else self.rows.__dask_tokenize__()

    def equals(self, other: Index, **_: Any) -> bool:
        """Tell whether both are the same rows of the same state of a level."""
        return (
            isinstance(other, RowIndex)
            and (self.start, self.stop) == (other.start, other.stop)
            and self._state() == other._state()
        )

    def join(self, other: Self, how: str = "inner") -> Self:
        """Return the rows that both have ("inner"), or either has, where these are one run ("outer")."""
        start, stop = max(self.start, other.start), min(self.stop, other.stop)
        if how == "outer":
            if start > stop:
                raise ValueError(f"rows {self.start:,} to {self.stop:,} and {other.start:,} to {other.stop:,} are no one run")
            start, stop = min(self.start, other.start), max(self.stop, other.stop)
        return type(self)(self.rows if self._state() == other._state() else None, start, max(start, stop))

    def reindex_like(self, other: Self, **_: Any) -> dict[Hashable, Any]:
        """Return where this index has the rows of `other`, -1 for none."""
        at = np.arange(other.start, other.stop) - self.start
        return {"vertex": np.where((at >= 0) & (at < self.stop - self.start), at, -1)}

    @classmethod
    def concat(cls, indexes: Sequence[Self], dim: Hashable, positions: Iterable[Iterable[int]] | None = None) -> Self:
        """Return an index that knows its length alone; rows are numbered anew."""
        return cls(None, 0, sum(i.stop - i.start for i in indexes))

    def rename(self, name_dict: Mapping[Any, Hashable], dims_dict: Mapping[Any, Hashable]) -> Self:
        """Return the index; it does not depend on names."""
        return self

    def _repr_inline_(self, max_width: int) -> str:
        return f"RowIndex (rows {self.start:,} to {self.stop:,})"[:max_width]

    def __repr__(self) -> str:
        where = "" if self.rows is None else f" of {self.rows.source.where()}"
        return f"<RowIndex: rows {self.start:,} to {self.stop:,}{where}>"


def as_rows(found: slice | np.ndarray[Any, np.dtype[np.int64]], index: RowIndex) -> slice | np.ndarray[Any, np.dtype[np.int64]]:
    """Return row numbers of the level as positions within the index' rows."""
    if isinstance(found, slice):
        start, stop = max(found.start, index.start), min(found.stop, index.stop)
        return slice(start - index.start, max(start, stop) - index.start)
    return found[(found >= index.start) & (found < index.stop)] - index.start
