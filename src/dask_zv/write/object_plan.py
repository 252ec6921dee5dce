"""What a write knows of its objects before it starts: ids, attributes, groups; checked, and nothing stored yet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
from dask_zv.write.scan import id_ranges, merge_ranges

_CHUNK = 1 << 14
_MOST_GROUPS = 10_000_000


@dataclass(frozen=True, slots=True, eq=False)
class ObjectPlan:
    """The objects of a level.

    Attributes
    ----------
    count : int
        Rows of the object index.
    attributes : mapping of str to (values, present)
        Row = row of the index. `present` is None where all objects have a value. In layout grid the sentinel of the dtype
        stands for the absent, and `present` is given of strings only.
    groups : mapping of int to ids
    ids : ndarray of int64, shape (m, 2)
        Ranges [start, stop) of the ids, ascending: the objects of rows 0, 1, …
    present : int
        Objects with vertices.
    group_attributes : mapping of str to ndarray, shape (G, ...)
        Row = number of the group.
    group_names : tuple of str
        None, or as many as groups.
    attrs, group_attrs : mapping of str to mapping
        Units and the like of the attributes.
    """

    count: int
    attributes: Mapping[str, tuple[NDArray[Any], NDArray[np.bool_] | None]]
    groups: Mapping[int, NDArray[np.int64]]
    ids: NDArray[np.int64]
    present: int
    group_attributes: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    group_names: tuple[str, ...] = ()
    attrs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    group_attrs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def group_count(self) -> int:
        """Number of groups; a gap in their numbers is an empty one."""
        return max(self.groups, default=-1) + 1

    @property
    def chunk(self) -> int:
        """Manifests to a stored object."""
        return min(_CHUNK, max(self.count, 1))

    def cut(self, step: int) -> list[tuple[int, NDArray[np.int64]]]:
        """Return (first row, ranges of the ids) of each run of `step` rows."""
        ends = np.cumsum(self.ids[:, 1] - self.ids[:, 0])
        starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
        out: list[tuple[int, NDArray[np.int64]]] = []
        for first in range(0, self.count, step):
            last = min(first + step, self.count)
            low, high = int(np.searchsorted(ends, first, "right")), int(np.searchsorted(starts, last, "left"))
            part = self.ids[low:high].copy()
            part[:1, 0] += first - starts[low]
            part[-1:, 1] -= ends[high - 1] - last  # as an array: it may wrap, see id_ranges
            out.append((first, part))
        return out


def expand_ranges(ranges: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the numbers in ranges [start, stop).

    Examples
    --------
    >>> expand_ranges(np.array([[3, 5], [9, 10]])).tolist()
    [3, 4, 9]
    """
    lengths = ranges[:, 1] - ranges[:, 0]
    before = np.cumsum(lengths) - lengths
    return np.asarray(np.repeat(ranges[:, 0] - before, lengths) + np.arange(int(lengths.sum())), np.int64)


def rows_of_ranges(ranges: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place of each id among the numbers in ascending ranges; -1 where it is in none of them.

    Examples
    --------
    >>> rows_of_ranges(np.array([[3, 5], [9, 10]]), np.array([9, 3, 5])).tolist()
    [2, 0, -1]
    """
    if not len(ranges):
        return np.full(len(ids), -1, np.int64)
    lengths = ranges[:, 1] - ranges[:, 0]
    before = np.cumsum(lengths) - lengths
    at = np.searchsorted(ranges[:, 0], ids, "right") - 1
    inside = (at >= 0) & (ids - ranges[at, 0] < lengths[at])
    return np.where(inside, before[at] + ids - ranges[at, 0], -1)


def plan_objects(
    ids: NDArray[np.int64],
    object_attributes: Any,
    groups: Mapping[int, Sequence[int]] | None,
    *,
    layout: str = "per_chunk",
    group_attributes: Any = None,
    empty: NDArray[np.int64] | None = None,
) -> ObjectPlan:
    """Check that the layout can hold the ids, and that attributes and groups speak of them.

    Parameters
    ----------
    ids : ndarray of int64, shape (m, 2)
        Ranges [start, stop) of the ids that have vertices.
    object_attributes : DataFrame indexed by id, mapping of name to array, or None
        Rows of an array are those of the objects in ascending order of their ids. In layout grid strings are allowed, and
        objects that a frame does not name are stored as the dtype's sentinel (NaN, the least signed, the greatest unsigned
        integer, ""). Series with an index of ids say which objects they are of, as the rows of a frame do.
    groups : mapping of group number to object ids, or None
    group_attributes : DataFrame indexed by group number, mapping of name to array (G, ...), or None
        Strings called "group_names" are stored as the names of the groups, in either layout.
    empty : ndarray of int64, shape (m, 2), optional
        Ranges of the ids of further objects, without vertices.
    layout : {"per_chunk", "grid"}
        per_chunk numbers objects by their rows, so ids must be 0 to n-1; grid takes any ids from 0 on.

    Raises
    ------
    InputError
        Ids that the layout can't hold, an attribute is no column of the right length and dtype, a group names an unknown
        object.
    """
    present = int((ids[:, 1] - ids[:, 0]).sum())
    if empty is not None:
        ids = merge_ranges([ids, empty])
    grid = layout == "grid"
    table = _columns("object_attributes", object_attributes, grid=grid)
    index = table.index
    if index is not None:
        ids = merge_ranges([ids, id_ranges(index)])
    if grid:
        if len(ids) and int(ids[0, 0]) < 0:
            raise InputError(f"object ids are 0 to {2**63 - 1}, not {int(ids[0, 0])}")
    elif len(ids) > 1 or (len(ids) == 1 and int(ids[0, 0]) != 0):
        first_gap = 0 if int(ids[0, 0]) else int(ids[0, 1])
        raise InputError(
            f"object ids must be 0 to n-1 without gaps, {first_gap} is missing: layout per_chunk (ZV 0.7) numbers objects by "
            "their rows. Map them first, and keep the map, e.g. "
            "names, object_ids = numpy.unique(object_ids, return_inverse=True)"
        )
    count = int((ids[:, 1] - ids[:, 0]).sum())
    attributes: dict[str, tuple[NDArray[Any], NDArray[np.bool_] | None]] = {}
    for name, (values, missing) in table.columns.items():
        present_rows = np.ones(len(values), bool) if missing is None else ~missing
        if index is None:
            if len(values) != count:
                raise InputError(
                    f"object attribute {name!r} has {len(values):,} rows for {count:,} objects "
                    f"({'one for each, by ascending id' if grid else 'row = object id'})"
                )
            rows = np.arange(count)
        else:
            rows = rows_of_ranges(ids, index)
        mask = np.zeros(count, bool)
        mask[rows] = present_rows
        full = np.zeros((count, *values.shape[1:]), values.dtype)
        full[rows[present_rows]] = values[present_rows]
        attributes[name] = with_sentinel(f"object attribute {name!r}", full, mask, grid=grid)
    members = _check_groups(groups, ids, count, grid=grid)
    about = _columns("group_attributes", group_attributes, grid=grid)
    groups_of = _group_columns(about, members)
    named = groups_of.get(GROUP_NAMES)
    names: tuple[str, ...] = ()
    if named is not None and named.dtype.kind == "U" and named.ndim == 1:
        names = tuple(groups_of.pop(GROUP_NAMES).tolist())
    return ObjectPlan(count, attributes, members, ids, present, groups_of, names, table.attrs, about.attrs)


def with_sentinel(
    what: str, values: NDArray[Any], present: NDArray[np.bool_], *, grid: bool
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Return a column of objects as its layout stores it, and which objects have a value: None where the values say so.

    Integers get a dtype whose sentinel is none of them. Layout ``grid`` tells objects without a value by it alone; strings
    have a mark beside them that all are values.

    Raises
    ------
    InputError
        A value of 64 bits is the sentinel, or the dtype has none; a string is empty where others are missing.
    """
    if grid:
        values = _grid_values(what, values)
    if grid and values.dtype.kind == "U" and not present.all():
        empty = (values == "").all(axis=tuple(range(1, values.ndim))) & present
        if empty.any():
            raise InputError(
                f"{what}: row {int(np.flatnonzero(empty)[0])} is '', which says 'none' where other objects have none "
                f"(row {int(np.flatnonzero(~present)[0])}): give those '' as well, or all another word"
            )
    if values.dtype.kind in "iu" and (grid or not present.all()):  # NaN is what it means
        same = (values == sentinel(values.dtype)).all(axis=tuple(range(1, values.ndim))) & present
        size = values.dtype.itemsize
        if same.any() and size == 8:
            raise InputError(
                f"{what}: row {int(np.flatnonzero(same)[0])} is {sentinel(values.dtype)}, which says 'none' in "
                f"{values.dtype}: store another, or floats"
            )
        if same.any():
            values = values.astype(f"<{values.dtype.kind}{2 * size}")
    if not grid:
        return values, None if present.all() else present
    if not present.all():
        values = values.copy()
        values[~present] = sentinel(values.dtype)
        return values, present if values.dtype.kind == "U" else None
    return values, None


def _group_columns(table: _Table, groups: Mapping[int, Any]) -> dict[str, NDArray[Any]]:
    """Return the attributes of groups, a row to each number up to the greatest."""
    count = max(groups, default=-1) + 1
    out: dict[str, NDArray[Any]] = {}
    for name, (values, missing) in table.columns.items():
        if missing is not None:
            raise missing_error(f"group attribute {name!r}", values.dtype, missing)
        if table.index is None:
            if len(values) != count:
                raise InputError(f"group attribute {name!r} has {len(values):,} rows for {count:,} groups (row = group number)")
            out[name] = values
            continue
        index = table.index
        absent = sorted(set(groups).difference(index.tolist()))
        if absent or (len(index) and int(index.max()) >= count):
            odd = absent[0] if absent else int(index.max())
            raise InputError(f"group_attributes are indexed by the numbers of the groups: group {odd} is in only one of both")
        full = np.full((count, *values.shape[1:]), sentinel(values.dtype) if values.dtype.kind != "b" else 0, values.dtype)
        full[index] = values
        out[name] = full
    return out


def _check_groups(
    groups: Mapping[int, Sequence[int]] | None, known: NDArray[np.int64], count: int, *, grid: bool
) -> dict[int, NDArray[np.int64]]:
    """Return the members of each group as an array of ids."""
    if groups is not None and not isinstance(groups, Mapping):
        raise InputError(f"groups is a mapping of group number to object ids, not a {type(groups).__name__}")
    out: dict[int, NDArray[np.int64]] = {}
    for group, members in (groups or {}).items():
        if not np.issubdtype(type(group), np.integer) or group < 0:
            raise InputError(f"groups are numbered from 0, not {group!r}")
        if group >= _MOST_GROUPS:  # a number is a place in an array: every gap is an empty group
            raise InputError(f"group {group:d} is beyond {_MOST_GROUPS - 1:,}: number the groups from 0 without wide gaps")
        ids = from_objects(f"group {group}", in_memory(f"group {group}", members))
        if ids.ndim != 1 or (len(ids) and ids.dtype.kind not in "iu"):
            raise InputError(f"group {group} names its objects by a sequence of integer ids, not by {members!r:.80}")
        ids = as_integers(f"group {group}", ids).copy()  # the caller may change theirs
        wrong = rows_of_ranges(known, ids) < 0
        if wrong.any():
            others = f"one of the {count:,} objects" if grid else f"ids are 0 to {count - 1}"
            raise InputError(f"group {group} names object {ids[wrong][0]}, {'which is not ' if grid else ''}{others}")
        out[int(group)] = ids
    return out


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """A table about objects or groups: columns (and which of their rows have no value), ids of the rows, units and the like."""

    columns: dict[str, tuple[NDArray[Any], NDArray[np.bool_] | None]]
    index: NDArray[np.int64] | None
    attrs: dict[str, dict[str, Any]]


def _columns(what: str, given: Any, *, grid: bool) -> _Table:
    kind = what.partition("_")[0]
    if given is None:
        return _Table({}, None, {})
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
        values = _grid_values(called, values) if strings else values
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
    return _Table(out, index, attrs)


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
            "which brings their rows together, or pass all by position (.to_numpy())"
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


def _grid_values(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """Return an attribute's values in a dtype that layout grid has; strings in their fixed length."""
    if values.dtype.kind == "b":
        raise InputError(f"{name} is boolean, and no boolean says that an object has none: pass values.astype('uint8')")
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
            raise InputError(f"{name} has a string that ends with NUL, which fixed-length strings lose")
        return value
    if _is_none(value):
        return ""
    raise InputError(f"{name} has the value {value!r:.80}: one array holds numbers or strings, nothing else")
