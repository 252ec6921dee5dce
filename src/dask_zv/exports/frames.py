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
from dask_zv.exports.columns import add_columns, column_names, places_among, split
from dask_zv.exports.optional import library
from dask_zv.graph.arrays import block_delayeds
from dask_zv.xarray_backend import conventions as names
from dask_zv.xarray_backend.content import Shape, check_in_step, shape_of

if TYPE_CHECKING:
    from dask.dataframe import DataFrame


_BLOCK_ROWS = 500_000
_NULLABLE = {"i": "Int", "u": "UInt"}


@dataclass(frozen=True, slots=True)
class _Columns:
    """How variables become columns.

    Attributes
    ----------
    variables : tuple of str
    columns : tuple of list of str
        Names of the columns of each.
    categories : mapping of str to CategoricalDtype
        Of the variables that have them.
    missing : mapping of str to int
        What stands for "none" in a variable of integers.
    """

    variables: tuple[str, ...]
    columns: tuple[list[str], ...]
    categories: Mapping[str, pd.CategoricalDtype]
    missing: Mapping[str, int]

    @classmethod
    def of(cls, ds: xr.Dataset, variables: Sequence[str], taken: Sequence[str] = ()) -> _Columns:
        about = {k: ds.variables[k].attrs for k in variables}
        columns = tuple(column_names(ds, k) for k in variables)
        seen: dict[str, NDArray[Any]] = dict.fromkeys(taken, np.zeros(0))
        for mine in columns:
            add_columns(seen, dict.fromkeys(mine, np.zeros(0)))
        return cls(
            tuple(variables),
            columns,
            {
                k: pd.CategoricalDtype(list(dict.fromkeys(np.atleast_1d(a["categories"]))), bool(a.get("ordered", 0)))
                for k, a in about.items()
                if "categories" in a
            },
            {
                k: int(a["missing_value"])
                for k, a in about.items()
                if "missing_value" in a and ds.variables[k].dtype.kind in "iu"
            },
        )

    def table(self, arrays: Sequence[NDArray[Any]], *, nullable: bool = False) -> dict[str, Any]:
        """Return columns as pandas holds them."""
        out: dict[str, Any] = {}
        for variable, columns, array in zip(self.variables, self.columns, arrays, strict=True):
            for name, values in split(columns, np.asarray(array)).items():
                out[name] = _held(values, variable, self.categories.get(variable))
                if nullable and values.dtype.kind in "iub":
                    kind: Any = (
                        "boolean" if values.dtype.kind == "b" else f"{_NULLABLE[values.dtype.kind]}{values.itemsize * 8}"
                    )
                    out[name] = pd.array(values, dtype=kind)
                    if variable in self.missing:
                        out[name][values == self.missing[variable]] = pd.NA
        return out


def _held(values: NDArray[Any], variable: str, categories: pd.CategoricalDtype | None) -> Any:
    if categories is not None:
        codes = categories.categories.get_indexer(pd.Index(values))
        if ((codes < 0) & ~pd.isnull(values) & (values != "")).any():  # an object without a value has an empty string
            raise InputError(
                f"{variable!r} has values that are not among its attribute 'categories': delete that attribute, or correct it"
            )
        return pd.Categorical.from_codes(codes, dtype=categories)
    if values.dtype.kind in "UO":
        return pd.Series(values.astype(object), dtype=_TEXT).array
    return values


_TEXT = pd.Series(["a"]).dtype
"""What pandas holds text as by itself: its releases differ."""


def to_dataframe(ds: xr.Dataset, *, object_attributes: bool = False) -> pd.DataFrame:
    """Return the vertices as a table in memory.

    Parameters
    ----------
    ds : Dataset
    object_attributes : bool
        Add the attributes of each vertex' object. Integers and booleans of them have pandas' nullable types: a vertex may be of
        no object.

    Returns
    -------
    DataFrame
        A row per vertex, the index its number. Columns: axes, attributes (one per channel, ``colour_r``, of those that have
        several), ``object_id`` (-1: of none, -2: of several), ``parent`` of skeletons (by vertex number, -1: a root).
        Attributes of categories are categorical.

    Raises
    ------
    InputError
        The rows of the Dataset are no longer those that its counts speak of, or two columns would have the same name.
    """
    shape = shape_of(ds)
    owners = _Owners.of(ds, shape)
    plan, about = _plans(ds, shape, object_attributes=object_attributes)
    objects = None if about is None else _object_table(about, _ids(ds), [ds.variables[k].values for k in about.variables])
    n = ds.sizes["vertex"]
    given = None if owners is None else owners.within(0, n)
    loaded = _bare(ds, plan.variables).load()
    return _frame(plan, _index(ds), given, objects, *(loaded[k].values for k in plan.variables))


def to_dask_dataframe(ds: xr.Dataset, *, object_attributes: bool = False) -> DataFrame:
    """Return the vertices as a lazy table; nothing is read.

    A partition is a block of vertices: a Dask chunk of the Dataset where it has any, else what the store reads well at once.
    Columns and index are those of :func:`to_dataframe`; divisions are known unless vertices are in another order.

    Parameters
    ----------
    ds : Dataset
    object_attributes : bool
        As for :func:`to_dataframe`. The table of objects is one task, which every partition needs.

    Returns
    -------
    dask.dataframe.DataFrame

    Raises
    ------
    InputError
        As for :func:`to_dataframe`.
    ImportError
        dask.dataframe lacks what it needs.
    """
    dd = library("dask.dataframe", "dataframe")
    shape = shape_of(ds)
    owners = _Owners.of(ds, shape)
    plan, about = _plans(ds, shape, object_attributes=object_attributes)
    index = _index(ds)
    bare = _bare(ds, plan.variables)
    sizes = _blocks(bare, index)
    arrays = [block_delayeds(a) for a in _in_blocks(bare, plan.variables, sizes)]
    edges = np.cumsum([0, *sizes])
    objects, empty_objects = None, None
    if about is not None:
        columns = [_whole(ds, k) for k in about.variables]
        objects = delayed(_object_table, pure=True)(about, _whole(ds, "object"), columns)
        empty_objects = _object_table(about, np.zeros(0, np.int64), [_nothing(ds, k) for k in about.variables])
    make = delayed(_frame, pure=True)
    parts = [
        make(plan, index[a:b], None if owners is None else owners.within(a, b), objects, *(blocks[i] for blocks in arrays))
        for i, (a, b) in enumerate(pairwise(edges.tolist()))
        if b > a
    ]
    nobody = None if owners is None else owners.within(0, 0)
    meta = _frame(plan, index[:0], nobody, empty_objects, *(_nothing(ds, k) for k in plan.variables))
    if not parts:
        empty: DataFrame = dd.from_pandas(meta, npartitions=1)
        return empty
    starts = [int(index[a]) for a, b in pairwise(edges) if b > a]
    divisions = [*starts, int(index[-1])] if index.is_monotonic_increasing else None
    frame: DataFrame = dd.from_delayed(parts, meta=meta, divisions=divisions, prefix="zv-vertices", verify_meta=False)
    return frame


def object_frame(ds: xr.Dataset) -> pd.DataFrame:
    """Return the attributes of objects as a table; the index is the ids, in the order of ``ds.object``."""
    about = _Columns.of(ds, list(shape_of(ds).object_attributes.values()))
    ids, table = _object_table(about, _ids(ds), [ds.variables[k].values for k in about.variables])
    return pd.DataFrame(table, index=pd.Index(ids, name="object"))


# ---------------------------------------------------------------------------------------------- what is in a table


def _plans(ds: xr.Dataset, shape: Shape, *, object_attributes: bool) -> tuple[_Columns, _Columns | None]:
    """Return how vertices, and their objects if these are wanted, become columns."""
    own = [names.PARENT] if names.PARENT in ds.variables else []
    if shape.view == "spatial" and names.OBJECT_ID in ds.variables:
        own.insert(0, names.OBJECT_ID)
    plan = _Columns.of(ds, [*shape.axes, *shape.attributes.values(), *own])
    if not object_attributes:
        return plan, None
    if "object" not in ds.variables or (shape.view == "spatial" and names.OBJECT_ID not in ds.variables):
        raise InputError("the Dataset has no objects (object, object_id), so none of their attributes")
    taken = [c for columns in plan.columns for c in columns]
    return plan, _Columns.of(ds, list(shape.object_attributes.values()), [*taken, names.OBJECT_ID])


@dataclass(frozen=True, slots=True)
class _Owners:
    """The objects of runs of vertices: in the objects view they lie one after the other."""

    ids: NDArray[np.int64]
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, ds: xr.Dataset, shape: Shape) -> _Owners | None:
        if shape.view != "objects":
            return None
        ends = np.cumsum(check_in_step(ds))
        return cls(_ids(ds), ends)

    def within(self, start: int, stop: int) -> tuple[int, NDArray[np.int64], NDArray[np.int64]]:
        """Return the objects of some rows: the place of the first, ids, and how many of these rows each has."""
        first = int(np.searchsorted(self.ends, start, side="right"))
        last = int(np.searchsorted(self.ends, stop, side="left")) + 1 if stop > start else first
        counts = np.diff(np.minimum(self.ends[first:last], stop), prepend=start)
        return first, self.ids[first:last], counts


def _frame(
    plan: _Columns,
    index: pd.Index[Any],
    owners: tuple[int, NDArray[np.int64], NDArray[np.int64]] | None,
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
            places = places_among(objects[0], np.asarray(table[names.OBJECT_ID]))
        for name, column in objects[1].items():
            table[name] = pd.api.extensions.take(column, places, allow_fill=True)
    return pd.DataFrame(table, index=index)


def _object_table(
    about: _Columns, ids: NDArray[np.int64], columns: Sequence[NDArray[Any]]
) -> tuple[NDArray[np.int64], dict[str, Any]]:
    """Return the ids of objects, and their attributes as pandas holds them."""
    return ids, about.table(columns, nullable=True)


# ---------------------------------------------------------------------------------------------- variables


def _ids(ds: xr.Dataset) -> NDArray[np.int64]:
    return np.asarray(ds["object"].values if "object" in ds.variables else np.arange(ds.sizes.get("object", 0)))


def _index(ds: xr.Dataset) -> pd.Index[Any]:
    """Return the numbers of the vertices; a run of them takes no memory."""
    if "vertex" not in ds.variables:
        return pd.RangeIndex(ds.sizes["vertex"], name="vertex")
    return ds.variables["vertex"].to_index_variable().to_index()


def _bare(ds: xr.Dataset, wanted: Sequence[str]) -> xr.Dataset:
    """Return some variables without indexes: xarray leaves coordinates that have one out of tables."""
    plain = ds.drop_indexes(list(ds.xindexes)).reset_coords()
    return plain.drop_vars([k for k in plain.variables if k not in wanted])


def _blocks(bare: xr.Dataset, index: pd.Index[Any]) -> tuple[int, ...]:
    """Return the rows of each partition: Dask's chunks where there are any, else of the runs that the store reads at once."""
    n = len(index)
    given = [v.chunksizes["vertex"] for v in bare.variables.values() if v.chunks is not None]
    if given:
        return tuple(np.diff(np.unique(np.concatenate([np.cumsum([0, *sizes]) for sizes in given]))).tolist()) or (0,)
    known = [v.encoding.get("preferred_chunks", {}).get("vertex") for v in bare.variables.values()]
    preferred = next((p for p in known if isinstance(p, Sequence)), None)
    if preferred is not None and index.is_monotonic_increasing:
        places = np.unique(np.searchsorted(index, np.cumsum([0, *preferred])))  # also of a selection, by vertex number
    else:
        places = np.arange(0, n, _BLOCK_ROWS)
    return tuple(np.diff(np.unique(np.r_[0, places[places < n], n])).tolist()) or (0,)


def _in_blocks(bare: xr.Dataset, wanted: Sequence[str], sizes: tuple[int, ...]) -> list[Any]:
    """Return variables as Dask arrays of these blocks, all channels in each.

    Dask divides what is divided already: xarray would look at the first value of arrays of objects.
    """
    loose = [k for k in wanted if bare.variables[k].chunks is None]
    new = bare[loose]
    new = new.chunk({d: sizes if d == "vertex" else -1 for d in new.dims})
    arrays = [(new if k in loose else bare)[k].data for k in wanted]
    return [a.rechunk((sizes, *((n,) for n in a.shape[1:]))) for a in arrays]


def _whole(ds: xr.Dataset, name: str) -> Any:
    """Return a variable of objects as one lazy piece."""
    variable = _bare(ds, [name])[name].variable
    return variable.chunk(dict.fromkeys(variable.dims, -1)).data if variable.chunks is None else variable.data.rechunk(-1)


def _nothing(ds: xr.Dataset, name: str) -> NDArray[Any]:
    found = ds.variables[name]
    return np.empty((0, *found.shape[1:]), found.dtype)
