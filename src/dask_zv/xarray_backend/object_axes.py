"""The index on positions in the objects view: it aligns them, and names the selection that keeps objects whole."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from xarray import IndexSelResult, Variable

from dask_zv.errors import InputError
from dask_zv.read.object_rows import ObjectRows
from dask_zv.xarray_backend.arrays import Numbers, lazy_variable
from dask_zv.xarray_backend.index import AxisIndex, RowIndex


class ObjectRowIndex(RowIndex):
    """Rows of the objects view by number, picked once for the indexes of all axes."""

    _last: tuple[Any, Any] | None = None

    def __init__(self, rows: Any, numbers: Numbers, name: str = "vertex", dim: str = "vertex") -> None:
        super().__init__(rows, numbers, name, dim)

    def isel(self, indexers: Mapping[Any, Any]) -> Self | None:
        """Return the index of some of the rows: for the same array, the same one."""
        selected = indexers.get(self.dim)
        if self._last is not None and self._last[0]() is selected and (known := self._last[1]()) is not None:
            same: Self = known
            return same
        found = super().isel(indexers)
        if found is not None and isinstance(selected, np.ndarray):
            self._last = weakref.ref(selected), weakref.ref(found)
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_last"}


class ObjectAxisIndex(AxisIndex):
    """Positions along one axis in the objects view, whose vertices can't be selected without their objects."""

    def sel(self, labels: dict[Any, Any], method: str | None = None, tolerance: Any = None) -> IndexSelResult:
        """Refuse: vertices would be taken from their objects."""
        name, label = next(iter(labels.items()))
        told = f"{label.start}:{label.stop}" if isinstance(label, slice) else f"{label!r:.80}"
        raise InputError(
            f"sel({name}={told}) would take vertices from their objects in this view: use ds.zv.sel(bbox=((...), (...))), or "
            f"ds.zv.sel({name}=slice(low, high)), which cut objects at the box; clip=False keeps them whole"
        )

    def _lazy(self, axis: int, like: Variable | None) -> Variable:
        rows: Any = self.rows.rows
        assert isinstance(rows, ObjectRows)
        attrs = {} if like is None else like.attrs
        whole = lazy_variable((self.rows.dim,), rows, axis, (len(rows),), rows.vertices.dtype, attrs, self.chunks)
        return whole.isel({self.rows.dim: self.rows.numbers})

    def _repr_inline_(self, max_width: int) -> str:
        return f"{type(self).__name__} ({self.rows._about()})"[:max_width]
