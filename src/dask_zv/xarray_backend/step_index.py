"""What holds objects and their vertices together in both views: a selection along ``object`` alone would keep all vertices."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray import Variable
from xarray.indexes import Index

from dask_zv.errors import InputError
from dask_zv.xarray_backend import conventions as names
from dask_zv.xarray_backend.arrays import is_lazy

_WAYS = (
    "ds.zv.objects[id] and ds.zv.sel(objects=ids) select objects with their vertices; of one variable, "
    "ds['name'].sel(object=id) does; ds.zv.groupby('object_id') computes for each object"
)


class InStepIndex(Index):
    """On a coordinate of objects in Datasets of vertices: it lets nobody select, sort or align objects without these.

    The coordinate has a dimension of its own, so a DataArray along ``object`` or ``vertex`` does not have it, and is free.
    `lengths` are the vertices of each object, in the objects view. `renamed` are new names of dimensions.
    """

    def __init__(
        self,
        ids: NDArray[np.int64],
        lengths: NDArray[np.int64] | None = None,
        renamed: Mapping[Any, Hashable] | None = None,
    ) -> None:
        self.ids = ids
        self.lengths = lengths
        self.renamed = dict(renamed or {})
        self.checked: tuple[Any, ...] = ()
        """Indexes of vertices and objects that were found in step: they never change, so nobody looks a second time."""

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """First vertex of each object in the Dataset, and the number of all vertices."""
        assert self.lengths is not None
        return first_vertices(self.lengths)

    def _copy(self, deep: bool = True, memo: dict[int, Any] | None = None) -> Self:
        return type(self)(self.ids, self.lengths, self.renamed)  # without the indexes that it was compared with

    def create_variables(self, variables: Mapping[Any, Variable] | None = None) -> dict[Hashable, Variable]:
        """Return the variables that are there, along dimensions of the new names."""
        out = {k: v.copy(deep=False) for k, v in (variables or {}).items()}
        for v in out.values():
            v.dims = tuple(self.renamed.get(d, d) for d in v.dims)
        return out

    def isel(self, indexers: Mapping[Any, Any]) -> Self | None:
        """Refuse what selects objects, under whatever name of their dimension."""
        if all(isinstance(s, slice) and s == slice(None) for s in indexers.values()):
            return self
        raise InputError(f"a selection along {next(iter(indexers))!r} alone would keep the vertices of all objects: {_WAYS}")

    def roll(self, shifts: Mapping[Any, int]) -> Self | None:
        """Refuse, as :meth:`isel` does."""
        return self.isel(shifts)

    def equals(self, other: Index, *, exclude: frozenset[Hashable] | None = None) -> bool:
        """Return True if both are of the same objects."""
        return isinstance(other, InStepIndex) and bool(np.array_equal(self.ids, other.ids))

    def join(self, other: Self, how: str = "inner") -> Self:
        """Refuse: one of both has objects that the other has not."""
        raise InputError(f"Datasets of different objects can't be aligned, as their vertices are not: {_WAYS}")

    def rename(self, name_dict: Mapping[Any, Hashable], dims_dict: Mapping[Any, Hashable]) -> Self:
        """Return the index under other names."""
        return type(self)(self.ids, self.lengths, dims_dict)

    @classmethod
    def concat(cls, indexes: Sequence[Self], dim: Hashable, positions: Any = None) -> Self:
        """Refuse: the vertices would not follow."""
        raise InputError(f"objects can't be concatenated, as their vertices would not be: {_WAYS}")

    def __repr__(self) -> str:
        return f"<InStepIndex: {len(self.ids):,} objects with their vertices>"

    def _repr_inline_(self, max_width: int) -> str:
        return f"InStepIndex ({len(self.ids):,} objects)"[:max_width]


def first_vertices(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the first vertex of each object, and the number of all vertices behind."""
    return np.append(0, np.cumsum(lengths))


def in_step(ds: xr.Dataset, lengths: NDArray[np.int64]) -> xr.Dataset:
    """Return a Dataset with the range of vertices of each object, and the index on it."""
    ids = np.asarray(ds["object"].to_numpy()) if "object" in ds.variables else np.arange(len(lengths))
    index = InStepIndex(ids, lengths.copy())  # users may change node_count in place
    about = {"long_name": "first vertex of each object, and the first after it", "zv_role": names.RANGE}
    ranges = xr.Variable(("object", "vertex_end"), np.stack([index.starts[:-1], index.starts[1:]], axis=1), about)
    return ds.assign_coords(xr.Coordinates({names.RANGE: ranges}, indexes={names.RANGE: index}))


def held_together(ds: xr.Dataset, ids: NDArray[np.int64]) -> xr.Dataset:
    """Return a Dataset in the spatial view with the index on its table of objects."""
    about = {"long_name": "place of each object in the table, which object_index names, and its id", "zv_role": names.TABLE}
    places = xr.Variable(("object", "object_table_column"), np.stack([np.arange(len(ids)), ids], axis=1), about)
    return ds.assign_coords(xr.Coordinates({names.TABLE: places}, indexes={names.TABLE: InStepIndex(ids)}))


def isel_in_step(ds: xr.Dataset, objects: Any, vertices: Any, lengths: NDArray[np.int64]) -> xr.Dataset:
    """Return some objects and vertices: `lengths` are the vertices of each object that are left."""
    held = names.RANGE in ds.variables
    out = ds.drop_vars(names.RANGE, errors="ignore").isel(object=objects, vertex=vertices)
    if names.COUNT in out.variables and is_lazy(out.variables[names.COUNT]):  # they are known: no task need tell
        put = out.assign_coords if names.COUNT in out.coords else out.assign
        out = put({names.COUNT: xr.Variable(("object",), lengths, out.variables[names.COUNT].attrs)})
    return in_step(out, lengths) if held else out
