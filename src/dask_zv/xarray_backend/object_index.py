"""The index of the objects view: finds objects by id, and knows where their vertices are read from."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from xarray import DataArray, IndexSelResult, IndexVariable, Variable
from xarray.indexes import Index, PandasIndex

from dask_zv.read.object_rows import ObjectRows


class ObjectIdIndex(Index):
    """Ids of objects along ``object``; a pandas index that remembers its level.

    Parameters
    ----------
    rows : ObjectRows, optional
        None after a concatenation of several levels.
    ids : ndarray of int64
    name, dim : str
        The coordinate that it is on, and its dimension.
    """

    def __init__(self, rows: ObjectRows | None, ids: NDArray[np.int64], name: str = "object", dim: str = "object") -> None:
        self.rows = rows
        self.ids = ids
        self.name = name
        self.dim = dim

    def _with(self, ids: NDArray[np.int64], rows: ObjectRows | None) -> Self:
        return type(self)(rows, ids, self.name, self.dim)

    def to_pandas_index(self) -> pd.Index:
        """Return the ids."""
        return pd.Index(self.ids, name=self.name)

    def _plain(self) -> PandasIndex:
        return PandasIndex(self.to_pandas_index(), self.dim)

    def create_variables(self, variables: Mapping[Any, Variable] | None = None) -> dict[Hashable, Variable]:
        """Return the coordinate of ids."""
        given = (variables or {}).get(self.name)
        attrs = {"long_name": "id of the object", "zv_role": "object"} if given is None else given.attrs
        kind = IndexVariable if self.name == self.dim else Variable
        return {self.name: kind((self.dim,), self.to_pandas_index(), attrs)}

    def isel(self, indexers: Mapping[Any, Any]) -> Self | None:
        """Return the index of some of the objects; None for a single one."""
        selected = indexers.get(self.dim)
        if isinstance(selected, Variable | DataArray):
            if selected.dims != (self.dim,):
                return None
            selected = np.asarray(selected)
        if isinstance(selected, slice):
            return self._with(self.ids[selected], self.rows)
        if not isinstance(selected, np.ndarray | list | tuple) or np.ndim(selected) != 1:
            return None
        at = np.asarray(selected)
        return self._with(self.ids[at if at.dtype == bool else at.astype(np.int64)], self.rows)

    def sel(self, labels: dict[Any, Any], method: str | None = None, tolerance: Any = None) -> IndexSelResult:
        """Select by ids."""
        return self._plain().sel(labels, method=method, tolerance=tolerance)

    def equals(self, other: Index, **_: Any) -> bool:
        """Tell whether both have the same ids."""
        return isinstance(other, ObjectIdIndex) and bool(np.array_equal(self.ids, other.ids))

    def join(self, other: Self, how: str = "inner") -> Self:
        """Return the ids that both have, or either has."""
        joined = self.to_pandas_index().intersection(other.to_pandas_index()) if how == "inner" else (
            self.to_pandas_index().union(other.to_pandas_index())
        )  # fmt: skip
        return self._with(joined.to_numpy(), self.rows if self._same(other) else None)

    def _same(self, other: ObjectIdIndex) -> bool:
        if self.rows is None or other.rows is None:
            return False
        return self.rows is other.rows or self.rows.__dask_tokenize__() == other.rows.__dask_tokenize__()

    def reindex_like(self, other: Self, **_: Any) -> dict[Hashable, Any]:
        """Return where this index has the ids of `other`, -1 for none."""
        return {self.dim: self.to_pandas_index().get_indexer(other.to_pandas_index())}

    @classmethod
    def concat(cls, indexes: Sequence[Self], dim: Hashable, positions: Iterable[Iterable[int]] | None = None) -> Self:
        """Return the index of all ids."""
        first = indexes[0]
        same = all(first._same(i) for i in indexes)
        joined = PandasIndex.concat([i._plain() for i in indexes], dim, positions)
        return first._with(joined.index.to_numpy(), first.rows if same else None)

    def rename(self, name_dict: Mapping[Any, Hashable], dims_dict: Mapping[Any, Hashable]) -> Self:
        """Return the index under other names."""
        name, dim = str(name_dict.get(self.name, self.name)), str(dims_dict.get(self.dim, self.dim))
        return type(self)(self.rows, self.ids, name, dim)

    def __repr__(self) -> str:
        where = "" if self.rows is None else f" of {self.rows.vertices.source.where()}"
        return f"<ObjectIdIndex: {len(self.ids):,} objects{where}>"

    def _repr_inline_(self, max_width: int) -> str:
        return f"ObjectIdIndex ({len(self.ids):,} objects)"[:max_width]
