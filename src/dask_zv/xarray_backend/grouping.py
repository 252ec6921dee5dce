"""``ds.zv.groupby``: xarray's groups, with the labels that a store knows, so that a column of Dask can be grouped by."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from dask.base import compute
from dask.delayed import delayed
from numpy.typing import NDArray
from xarray.core.groupby import DatasetGroupBy
from xarray.groupers import EncodedGroups, Grouper

from dask_zv.errors import InputError
from dask_zv.graph.builder import refuse_expressions
from dask_zv.xarray_backend import conventions as names

Labels = pd.Index


class LabelGrouper(Grouper):
    """Groups of known labels, of numpy and of Dask arrays; a `strict` one refuses values that have none."""

    def __init__(self, labels: Labels, *, strict: bool = False) -> None:
        self.labels = labels
        self.strict = strict

    def reset(self) -> LabelGrouper:
        """Return another one like it: it remembers nothing."""
        return LabelGrouper(self.labels, strict=self.strict)

    def factorize(self, group: Any) -> EncodedGroups:
        """Return the place of each value's label, -1 where it has none."""
        options = {"labels": self.labels, "what": str(group.name) if self.strict else ""}
        codes = xr.apply_ufunc(_codes, group, kwargs=options, dask="parallelized", output_dtypes=[np.int64], keep_attrs=True)
        if codes.chunks is not None:
            unique = xr.Variable((codes.name,), self.labels, codes.attrs)
            return EncodedGroups(codes=codes, full_index=self.labels, unique_coord=unique)
        if not (codes.to_numpy() >= 0).any():
            raise InputError(f"no value of {group.name!r} is among the labels {self.labels[:5].tolist()!r:.80}")
        return EncodedGroups(codes=codes, full_index=self.labels)


class LazyGroups(DatasetGroupBy):
    """Groups of a Dask column, of which xarray 2026.9 takes the whole Dataset for the first and the last of each group."""

    __slots__ = ()

    def first(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse."""
        raise InputError("xarray finds the first and the last of groups of columns in memory only: ds.load().zv.groupby(...)")

    last = first


def _codes(values: NDArray[Any], labels: Labels, what: str) -> NDArray[np.int64]:
    found = labels.get_indexer(pd.Index(values.ravel())).astype(np.int64)
    if what and len(unknown := np.flatnonzero((found < 0) & ~pd.isnull(values.ravel()))):
        value = values.ravel()[unknown[:1]].tolist()[0]
        raise InputError(
            f"{value!r} is none of the categories of {what!r}: values were changed, its attribute 'categories' was not; name "
            f"the groups, ds.zv.groupby({what!r}, labels=[...]), or correct the attribute"
        )
    return found.reshape(values.shape)


def groupby(ds: xr.Dataset, group: str | Sequence[str], labels: Any, id_name: str) -> DatasetGroupBy:
    """Return what is along the dimension of some variables, grouped by them; see :meth:`ZVDatasetAccessor.groupby`.

    `id_name` is the variable of the object of each vertex.
    """
    wanted = [group] if isinstance(group, str) else list(group)
    if not wanted or len(set(wanted)) < len(wanted) or not all(isinstance(g, str) for g in wanted):
        raise InputError(f"group is the name of a variable, or several, each once, not {group!r:.80}")
    by = {name: _variable(ds, name, id_name) for name in wanted}
    dims = {v.dims for v in by.values()}
    if len(dims) > 1 or any(v.ndim != 1 for v in by.values()):
        told = ", ".join(f"{k!r} along {v.dims}" for k, v in by.items())
        raise InputError(f"groups are of variables along one dimension, the same for all, not {told}")
    dim = str(by[wanted[0]].dims[0])
    given = _given_labels(labels, wanted)
    groupers = {name: _grouper(ds, name, v, given.get(name), name == id_name) for name, v in by.items()}
    data = {str(k): ds.variables[k].to_base_variable() for k in ds.data_vars if dim in ds.variables[k].dims and k not in by}
    lazy = xr.get_options()["use_flox"] and importlib.util.find_spec("flox") is not None
    keys = {name: v.to_base_variable() for name, v in by.items()}
    if not (lazy and any(v.chunks is not None for v in data.values())):  # xarray alone groups by what is in memory
        keys = _loaded(keys)
    if not any(v.chunks is not None for v in data.values()):
        data = _loaded(data)  # group by group it would be read over and over
    about = {k: ds.attrs[k] for k in ("zv_url", "zv_level") if k in ds.attrs}
    found = xr.Dataset(data, keys, about).groupby(groupers)
    if any(v.chunks is not None for v in keys.values()):
        found.__class__ = LazyGroups
    return found


def _loaded(variables: Mapping[str, xr.Variable]) -> dict[str, xr.Variable]:
    arrays = compute(*(v.data if v.chunks is not None else np.asarray(v.data) for v in variables.values()))
    return {k: xr.Variable(v.dims, a, v.attrs) for (k, v), a in zip(variables.items(), arrays, strict=True)}


def _variable(ds: xr.Dataset, name: str, id_name: str) -> xr.Variable:
    if name in ds.variables:
        return ds.variables[name]
    if name != id_name:
        known = [str(k) for k, v in ds.variables.items() if v.ndim == 1 and v.dims != (k,)]
        raise InputError(f"the Dataset has no {name!r} to group by: there are {known}")
    if names.COUNT not in ds.variables or "vertex" not in ds.dims:
        raise InputError("the Dataset has no objects to group by")
    ids = ds["object"].to_numpy() if "object" in ds.variables else np.arange(ds.sizes["object"])
    return xr.Variable(("vertex",), np.repeat(ids, ds[names.COUNT].to_numpy()))


def _given_labels(labels: Any, wanted: Sequence[str]) -> Mapping[str, Any]:
    """Return the labels that a user names, by variable."""
    if labels is None:
        return {}
    if isinstance(labels, Mapping):
        if lost := [k for k in labels if k not in wanted]:
            raise InputError(f"labels name {lost[0]!r}, which is none of the groups {list(wanted)}")
        return labels
    if len(wanted) > 1:
        raise InputError(f"labels of several groups are given by name, labels={{{wanted[0]!r}: [...]}}")
    return {wanted[0]: labels}


def _grouper(ds: xr.Dataset, name: str, variable: xr.Variable, labels: Any, by_object: bool) -> LabelGrouper:
    """Return the groups of a variable: those that are named, its categories, the ids of objects, else all of its values."""
    if labels is not None:
        index = pd.Index(np.atleast_1d(np.asarray(labels)))
        if not index.is_unique or not len(index):
            raise InputError(f"labels of {name!r} are some different values, not {labels!r:.80}")
        return LabelGrouper(index)
    if by_object and "object" in ds.variables:
        return LabelGrouper(pd.Index(np.unique(ds["object"].to_numpy())))
    if "categories" in variable.attrs and variable.dtype.kind in "OUT":
        return LabelGrouper(pd.Index(np.atleast_1d(variable.attrs["categories"]).astype(object)), strict=True)
    if variable.dtype.kind == "b":
        return LabelGrouper(pd.Index([False, True]))
    found = pd.Index(_values_of(variable))
    return LabelGrouper(found[found >= 0] if by_object else found)


def _values_of(variable: xr.Variable) -> NDArray[Any]:
    """Return the different values of a variable, ascending, without missing ones; blocks of Dask are gone through now."""
    if variable.chunks is None:
        return _different(variable.to_numpy())
    refuse_expressions("ds.zv.groupby by values that no table tells")
    blocks = [delayed(_different, pure=True)(b) for b in variable.data.to_delayed().ravel()]
    return _different(np.concatenate(compute(*blocks)))


def _different(values: NDArray[Any]) -> NDArray[Any]:
    return np.unique(values[~pd.isnull(values)])
