"""Tables of vertices: pandas, and Dask DataFrames of which a partition is a block of vertices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr
from dask.delayed import delayed
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.exports.front import add_columns, column_names, library, split
from dask_zv.graph.builder import block_delayeds
from dask_zv.xarray_backend import conventions as names
from dask_zv.xarray_backend.content import check_in_step, places_of, shape_of

if TYPE_CHECKING:
    from dask.dataframe import DataFrame

_BLOCK_ROWS = 500_000
_NULLABLE = {"i": "Int", "u": "UInt"}
_TEXT = pd.Series(["a"]).dtype
"""The default string dtype of pandas, which differs between releases."""

Owners = tuple[int, NDArray[np.int64], NDArray[np.int64]]
"""The objects of a run of rows: the place of the first, ids, and how many of the rows each has."""


@dataclass(frozen=True, slots=True)
class _Columns:
    """How variables become columns: their names, categories, and the integers that mean "missing"."""

    variables: tuple[str, ...]
    columns: tuple[list[str], ...]
    categories: Mapping[str, pd.CategoricalDtype]
    missing: Mapping[str, int]

    @classmethod
    def of(cls, ds: xr.Dataset, variables: Sequence[str], taken: Sequence[str] = ()) -> _Columns:
        about = {k: ds.variables[k].attrs for k in variables}
        columns = tuple(column_names(ds, k) for k in variables)
        seen: dict[str, None] = dict.fromkeys(taken)
        for mine in columns:
            add_columns(seen, dict.fromkeys(mine))
        categories = {
            k: pd.CategoricalDtype(list(dict.fromkeys(np.atleast_1d(a["categories"]))), bool(a.get("ordered", 0)))
            for k, a in about.items()
            if "categories" in a
        }
        whole = [k for k in variables if ds.variables[k].dtype.kind in "iu"]
        missing = {k: int(about[k]["missing_value"]) for k in whole if "missing_value" in about[k]}
        return cls(tuple(variables), columns, categories, missing)

    def table(self, arrays: Sequence[Any], *, nullable: bool = False) -> dict[str, Any]:
        """Return columns with pandas dtypes."""
        out: dict[str, Any] = {}
        for variable, columns, array in zip(self.variables, self.columns, arrays, strict=True):
            for name, values in split(columns, np.asarray(array)).items():
                kind = values.dtype.kind
                if nullable and kind in "iub":
                    dtype: Any = "boolean" if kind == "b" else f"{_NULLABLE[kind]}{values.itemsize * 8}"
                    out[name] = pd.array(values, dtype=dtype)
                    if variable in self.missing:
                        out[name][values == self.missing[variable]] = pd.NA
                else:
                    out[name] = _held(values, variable, self.categories.get(variable))
        return out


def _held(values: NDArray[Any], variable: str, categories: pd.CategoricalDtype | None) -> Any:
    if categories is not None:
        codes = categories.categories.get_indexer(pd.Index(values))
        if ((codes < 0) & ~pd.isnull(values) & (values != "")).any():  # an object without a value has an empty string
            raise InputError(
                f"{variable!r} has values that are not among its attribute 'categories': delete or correct that attribute"
            )
        return pd.Categorical.from_codes(codes, dtype=categories)
    return pd.Series(values.astype(object), dtype=_TEXT).array if values.dtype.kind in "UO" else values


class _Plan:
    """How a Dataset becomes a table of its vertices and, if requested, of the attributes of their objects."""

    def __init__(self, ds: xr.Dataset, *, object_attributes: bool) -> None:
        shape = shape_of(ds)
        by_object = shape.view == "objects"
        self.ends = np.cumsum(check_in_step(ds)) if by_object else None
        self.ids = _ids(ds)
        own = [n for n in (names.OBJECT_ID, names.PARENT) if n in ds.variables and not (by_object and n == names.OBJECT_ID)]
        self.vertices = _Columns.of(ds, [*shape.axes, *shape.attributes.values(), *own])
        self.objects: _Columns | None = None
        if object_attributes:
            if "object" not in ds.variables or (not by_object and names.OBJECT_ID not in ds.variables):
                raise InputError("the Dataset has no objects (object, object_id), so none of their attributes")
            taken = [c for columns in self.vertices.columns for c in columns]
            self.objects = _Columns.of(ds, list(shape.object_attributes.values()), [*taken, names.OBJECT_ID])

    def owners(self, start: int, stop: int) -> Owners | None:
        """Return the objects of some rows, which the objects view holds one after the other; None in the spatial view."""
        if self.ends is None:
            return None
        first = int(np.searchsorted(self.ends, start, side="right"))
        last = int(np.searchsorted(self.ends, stop, side="left")) + 1 if stop > start else first
        return first, self.ids[first:last], np.diff(np.minimum(self.ends[first:last], stop), prepend=start)


def to_dataframe(ds: xr.Dataset, *, object_attributes: bool = False) -> pd.DataFrame:
    """Return the vertices as a table in memory, see :meth:`ZVDatasetAccessor.to_dataframe`."""
    plan = _Plan(ds, object_attributes=object_attributes)
    about = plan.objects
    objects = None if about is None else _object_table(about, plan.ids, [ds.variables[k].values for k in about.variables])
    loaded = _bare(ds, plan.vertices.variables).load()
    arrays = [loaded[k].values for k in plan.vertices.variables]
    return _frame(plan.vertices, _index(ds), plan.owners(0, ds.sizes["vertex"]), objects, *arrays)


def to_dask_dataframe(ds: xr.Dataset, *, object_attributes: bool = False) -> DataFrame:
    """Return the same lazily, see :meth:`ZVDatasetAccessor.to_dask_dataframe`."""
    dd = library("dask.dataframe", "dataframe")
    plan = _Plan(ds, object_attributes=object_attributes)
    vertices, about = plan.vertices, plan.objects
    index = _index(ds)
    bare = _bare(ds, vertices.variables)
    sizes = _blocks(bare, index)
    arrays = [block_delayeds(a) for a in _in_blocks(bare, vertices.variables, sizes)]
    runs = [(i, a, b) for i, (a, b) in enumerate(pairwise(np.cumsum([0, *sizes]).tolist())) if b > a]
    objects = no_objects = None
    if about is not None:
        columns = [_whole(ds, k) for k in about.variables]
        objects = delayed(_object_table, pure=True)(about, _whole(ds, "object"), columns)
        no_objects = _object_table(about, np.zeros(0, np.int64), [_nothing(ds, k) for k in about.variables])
    make = delayed(_frame, pure=True)
    parts = [make(vertices, index[a:b], plan.owners(a, b), objects, *(blocks[i] for blocks in arrays)) for i, a, b in runs]
    meta = _frame(vertices, index[:0], plan.owners(0, 0), no_objects, *(_nothing(ds, k) for k in vertices.variables))
    if not parts:
        empty: DataFrame = dd.from_pandas(meta, npartitions=1)
        return empty
    divisions = [*(int(index[a]) for _, a, _ in runs), int(index[-1])] if index.is_monotonic_increasing else None
    frame: DataFrame = dd.from_delayed(parts, meta=meta, divisions=divisions, prefix="zv-vertices", verify_meta=False)
    return frame


def object_frame(ds: xr.Dataset) -> pd.DataFrame:
    """Return the attributes of objects as a table, indexed by id in the order of ``ds.object``."""
    about = _Columns.of(ds, list(shape_of(ds).object_attributes.values()))
    ids, table = _object_table(about, _ids(ds), [ds.variables[k].values for k in about.variables])
    return pd.DataFrame(table, index=pd.Index(ids, name="object"))


def _frame(
    plan: _Columns,
    index: pd.Index[Any],
    owners: Owners | None,
    objects: tuple[NDArray[np.int64], dict[str, Any]] | None,
    *arrays: NDArray[Any],
) -> pd.DataFrame:
    """Return some vertices as a table."""
    table = plan.table(arrays)
    places: NDArray[np.int64] | None = None
    if owners is not None:
        first, ids, counts = owners
        table[names.OBJECT_ID] = np.repeat(ids, counts)
        places = np.repeat(np.arange(first, first + len(ids)), counts)
    if objects is not None:
        if places is None:
            places = places_of(objects[0], np.asarray(table[names.OBJECT_ID]))
        for name, column in objects[1].items():
            table[name] = pd.api.extensions.take(column, places, allow_fill=True)
    return pd.DataFrame(table, index=index)


def _object_table(about: _Columns, ids: NDArray[np.int64], columns: Any) -> tuple[NDArray[np.int64], dict[str, Any]]:
    """Return the ids of objects, and their attributes with pandas dtypes."""
    return ids, about.table(columns, nullable=True)


# ---------------------------------------------------------------------------------------------- variables


def _ids(ds: xr.Dataset) -> NDArray[np.int64]:
    return np.asarray(ds["object"].values if "object" in ds.variables else np.arange(ds.sizes.get("object", 0)))


def _index(ds: xr.Dataset) -> pd.Index[Any]:
    """Return the vertex numbers; consecutive ones take no memory."""
    if "vertex" not in ds.variables:
        return pd.RangeIndex(ds.sizes["vertex"], name="vertex")
    return ds.variables["vertex"].to_index_variable().to_index()


def _bare(ds: xr.Dataset, wanted: Sequence[str]) -> xr.Dataset:
    """Return some variables without indexes, because xarray leaves indexed coordinates out of tables."""
    plain = ds.drop_indexes(list(ds.xindexes)).reset_coords()
    return plain.drop_vars([k for k in plain.variables if k not in wanted])


def _blocks(bare: xr.Dataset, index: pd.Index[Any]) -> tuple[int, ...]:
    """Return the rows of each partition: Dask chunks if there are any, else the runs that the store reads at once."""
    n = len(index)
    given = [v.chunksizes["vertex"] for v in bare.variables.values() if v.chunks is not None]
    if given:
        return tuple(np.diff(np.unique(np.concatenate([np.cumsum([0, *sizes]) for sizes in given]))).tolist()) or (0,)
    known = [v.encoding.get("preferred_chunks", {}).get("vertex") for v in bare.variables.values()]
    preferred = next((p for p in known if isinstance(p, Sequence)), None)
    if preferred is not None and index.is_monotonic_increasing:
        places = np.unique(np.searchsorted(index, np.cumsum([0, *preferred])))  # also for a selection, by vertex number
    else:
        places = np.arange(0, n, _BLOCK_ROWS)
    return tuple(np.diff(np.unique(np.r_[0, places[places < n], n])).tolist()) or (0,)


def _in_blocks(bare: xr.Dataset, wanted: Sequence[str], sizes: tuple[int, ...]) -> list[Any]:
    """Return variables as Dask arrays with these blocks, each with all channels.

    Existing Dask arrays are rechunked by Dask, because xarray would read the first value of object arrays.
    """
    loose = [k for k in wanted if bare.variables[k].chunks is None]
    new = bare[loose]
    new = new.chunk({d: sizes if d == "vertex" else -1 for d in new.dims})
    arrays = [(new if k in loose else bare)[k].data for k in wanted]
    return [a.rechunk((sizes, *((n,) for n in a.shape[1:]))) for a in arrays]


def _whole(ds: xr.Dataset, name: str) -> Any:
    """Return a variable along objects as one lazy piece."""
    variable = _bare(ds, [name])[name].variable
    return variable.chunk(dict.fromkeys(variable.dims, -1)).data if variable.chunks is None else variable.data.rechunk(-1)


def _nothing(ds: xr.Dataset, name: str) -> NDArray[Any]:
    found = ds.variables[name]
    return np.empty((0, *found.shape[1:]), found.dtype)
