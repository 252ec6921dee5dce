"""Tables about objects and groups as users have them: frames, mappings, Datasets; their columns, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask.base import is_dask_collection
from numpy.typing import NDArray

from dask_zv.errors import InputError, has_control
from dask_zv.format.keys import DOCUMENT
from dask_zv.format.objects import GROUP_NAMES, sentinel
from dask_zv.graph.run import computed
from dask_zv.write.containers import (
    as_integers,
    as_table,
    attrs_of,
    declared_categories,
    from_objects,
    in_memory,
    is_frame,
    is_row_numbers,
    is_series,
    missing_error,
    split_missing,
)


@dataclass(frozen=True, slots=True, eq=False)
class ObjectTable:
    """A table about objects or groups: columns (and which of their rows have no value), ids of the rows, units and the like."""

    columns: dict[str, tuple[NDArray[Any], NDArray[np.bool_] | None]]
    index: NDArray[np.int64] | None
    attrs: dict[str, dict[str, Any]]


def table_about(what: str, given: Any, *, grid: bool) -> ObjectTable:
    """Return what users say of objects or groups; `what` is the argument's name."""
    kind = what.partition("_")[0]
    if given is None:
        return ObjectTable({}, None, {})
    given = as_table(given)
    if is_dask_collection(given):
        given = computed(given)
    index, items = _items(what, given)
    out: dict[str, tuple[NDArray[Any], NDArray[np.bool_] | None]] = {}
    attrs: dict[str, dict[str, Any]] = {}
    for name, column in items.items():
        called = f"{kind} attribute {name!r}"
        attrs[name] = attrs_of(called, column)
        if (ordered := declared_categories(column)) is not None:
            attrs[name] |= {"categories": list(ordered), "ordered": 1}
        values, missing = split_missing(called, _undecoded(column, attrs[name]))
        values, missing = _whole_rows(called, values, missing)
        values = from_objects(called, values)
        if missing is None and kind == "object" and values.dtype.kind in "OT":
            missing = _rows_of_none(values)
        strings = grid or (kind == "group" and name == GROUP_NAMES)
        values = grid_values(called, values) if strings else values
        if (
            not name
            or "/" in name
            or "\\" in name
            or name in (".", "..", DOCUMENT)
            or has_control(name)
            or values.dtype.kind not in ("iufU" if strings else "biuf")
            or not values.ndim
        ):
            wanted = f"numbers or {'strings' if strings else 'booleans'}, and a name without '/' and control characters"
            raise InputError(f"{called} ({values.dtype} {values.shape}): {wanted}")
        out[name] = np.array(values, values.dtype.newbyteorder("<"), order="C"), missing  # a copy: they may change theirs
        if index is not None and len(values) != len(index):
            raise InputError(f"{called} has {len(values):,} rows for {len(index):,} ids")
    return ObjectTable(out, index, attrs)


def _items(what: str, given: Any) -> tuple[NDArray[np.int64] | None, dict[str, Any]]:
    """Return the index of a table, where it has one, and its columns."""
    kind = what.partition("_")[0]
    if is_frame(given):
        if len({str(c) for c in given.columns}) < len(given.columns):
            raise InputError(f"several columns of {what} have one name: rename or drop all but one")
        ids, items = given.index, {str(c): given[c] for c in given.columns}
    elif isinstance(given, Mapping):
        ids, items = None, {str(k): v for k, v in given.items()}
        if coords := getattr(given, "coords", None):  # a Dataset, whose index says which rows these are
            first = {v.dims[0] for v in items.values() if v.dims}
            ids = coords.get(next(iter(first))) if len(first) == 1 else None
        else:
            ids = _index_of_series(what, items)
    else:
        raise InputError(f"{what} is a DataFrame indexed by {kind} id, or a mapping of name to array")
    if ids is None:
        return None, items
    index = in_memory(f"{what}: the index", ids)
    numbers = "object ids" if kind == "object" else "group numbers"
    distinct = index.ndim == 1 and (not len(index) or index.dtype.kind in "iu") and len(np.unique(index)) == len(index)
    if not distinct or (len(index) and int(index.min()) < 0):
        raise InputError(f"{what} must be indexed by distinct {numbers}")
    return as_integers(f"{what}: the index", index), items


def _index_of_series(what: str, items: Mapping[str, Any]) -> Any:
    """Return the index that Series have in common; None where no column has one but that of its row numbers."""
    series = {name: v.index for name, v in items.items() if is_series(v) and not is_row_numbers(v.index)}
    if not series:
        return None
    first = next(iter(series))
    others = [n for n in items if n not in series or not series[n].equals(series[first])]
    if others:
        raise InputError(
            f"{what}: {first!r} is a Series with an index, {others[0]!r} has another or none: put them into one DataFrame, "
            "which aligns their rows, or pass all by position (.to_numpy())"
        )
    return series[first]


def _undecoded(column: Any, attrs: dict[str, Any]) -> Any:
    """Return a column without the values that its attributes call missing, as a Dataset has it that no one decoded."""
    fills = [f for k in ("missing_value", "_FillValue") for f in np.ravel(attrs.pop(k, [])).tolist()]
    values = in_memory("object attribute", column) if fills else np.zeros(0)
    return column if not fills else np.ma.MaskedArray(values, np.any([values == f for f in fills], axis=0))


def _whole_rows(
    what: str, values: NDArray[Any], missing: NDArray[np.bool_] | None
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Return values, and which rows have none; NaN and None say so by themselves."""
    if missing is None or values.dtype.kind not in "biu":
        return in_memory(what, np.ma.MaskedArray(values, missing) if missing is not None else values), None
    rows = missing.reshape(len(missing), -1).all(axis=1)
    if (missing.reshape(len(missing), -1).any(axis=1) != rows).any():
        raise missing_error(what, values.dtype, missing)  # a part of a row can't be absent
    return values, rows


def grid_values(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """Return an attribute's values in a dtype that layout grid has; strings in their fixed length."""
    if values.dtype.kind == "b":
        raise InputError(f"{name} is boolean, and booleans cannot mark an object without a value: pass values.astype('uint8')")
    if values.dtype.kind in "OT":
        flat = [_string(name, v) for v in values.ravel().tolist()]
        values = np.array(flat, str).reshape(values.shape) if flat else np.zeros(values.shape, "<U1")
    if values.dtype.kind in "iufU":
        sentinel(values.dtype)
        if 0 in values.shape[1:]:
            raise InputError(f"{name} has no components: {values.shape}")
    return values if values.dtype.itemsize else values.astype("<U1")


def _rows_of_none(values: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Return which rows of strings have none at all; None where all have some."""
    cells = np.array([_is_none(v) for v in values.ravel().tolist()], bool).reshape(values.shape)
    none = cells.all(axis=tuple(range(1, values.ndim)))
    return none if none.any() else None


def _is_none(value: object) -> bool:
    return value is None or type(value).__name__ == "NAType" or (isinstance(value, float) and math.isnan(value))


def _string(name: str, value: object) -> str:
    if isinstance(value, str):
        if value.endswith("\0"):
            raise InputError(f"{name} has a string that ends with NUL, which fixed-length strings cannot store")
        return value
    if _is_none(value):
        return ""
    raise InputError(f"{name} has the value {value!r:.80}: an array must hold numbers or strings only")
