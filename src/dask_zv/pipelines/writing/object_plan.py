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
from dask_zv.format.object_documents import sentinel
from dask_zv.pipelines.writing.inputs import series_values
from dask_zv.pipelines.writing.scan import id_ranges, merge_ranges

__all__ = ["ObjectPlan", "expand_ranges", "plan_objects", "rows_of_ranges"]

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
        Row = row of the index. `present` is None where all objects have a value, and always in layout grid, where the
        sentinel of the dtype stands for the absent.
    groups : mapping of int to ids
    ids : ndarray of int64, shape (m, 2)
        Ranges [start, stop) of the ids, ascending: the objects of rows 0, 1, …
    present : int
        Objects with vertices.
    group_attributes : mapping of str to ndarray, shape (G, ...)
        Row = number of the group.
    """

    count: int
    attributes: Mapping[str, tuple[NDArray[Any], NDArray[np.bool_] | None]]
    groups: Mapping[int, NDArray[np.int64]]
    ids: NDArray[np.int64]
    present: int
    group_attributes: Mapping[str, NDArray[Any]] = field(default_factory=dict)

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
            part[0, 0] += first - starts[low]
            part[-1, 1] -= ends[high - 1] - last
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
    inside = (at >= 0) & (ids < ranges[at, 1])
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
        integer, ""); the format has no other way, so a row that equals the sentinel in all components reads as absent, too.
    groups : mapping of group number to object ids, or None
    group_attributes : DataFrame indexed by group number, mapping of name to array (G, ...), or None
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
    columns, index = _columns("object_attributes", object_attributes, grid=grid)
    if index is not None:
        ids = merge_ranges([ids, id_ranges(index)])
    if grid:
        if len(ids) and (int(ids[0, 0]) < 0 or int(ids[-1, 1]) <= int(ids[-1, 0])):
            raise InputError(f"object ids are 0 to {2**63 - 2}, not {int(ids[0 if int(ids[0, 0]) < 0 else -1, 0])}")
    elif len(ids) > 1 or (len(ids) == 1 and int(ids[0, 0]) != 0):
        first_gap = 0 if int(ids[0, 0]) else int(ids[0, 1])
        raise InputError(
            f"object ids must be 0 to n-1 without gaps, {first_gap} is missing: layout per_chunk (ZV 0.7) numbers objects by "
            "their rows. Map them first, and keep the map, e.g. "
            "names, object_ids = numpy.unique(object_ids, return_inverse=True)"
        )
    count = int((ids[:, 1] - ids[:, 0]).sum())
    attributes: dict[str, tuple[NDArray[Any], NDArray[np.bool_] | None]] = {}
    for name, values in columns.items():
        if index is None:
            if len(values) != count:
                raise InputError(
                    f"object attribute {name!r} has {len(values):,} rows for {count:,} objects "
                    f"({'one for each, by ascending id' if grid else 'row = object id'})"
                )
            attributes[name] = values, None
            continue
        rows = rows_of_ranges(ids, index)
        full = np.full((count, *values.shape[1:]), sentinel(values.dtype) if grid else 0, values.dtype)
        full[rows] = values
        mask = np.zeros(count, bool)
        mask[rows] = True
        attributes[name] = full, None if grid or mask.all() else mask
    members = _check_groups(groups, ids, count, grid=grid)
    return ObjectPlan(count, attributes, members, ids, present, _group_columns(group_attributes, members, grid=grid))


def _group_columns(group_attributes: Any, groups: Mapping[int, Any], *, grid: bool) -> dict[str, NDArray[Any]]:
    """Return the attributes of groups, a row to each number up to the greatest."""
    columns, index = _columns("group_attributes", group_attributes, grid=grid)
    count = max(groups, default=-1) + 1
    out: dict[str, NDArray[Any]] = {}
    for name, values in columns.items():
        if index is None:
            if len(values) != count:
                raise InputError(f"group attribute {name!r} has {len(values):,} rows for {count:,} groups (row = group number)")
            out[name] = values
            continue
        missing = sorted(set(groups).difference(index.tolist()))
        if missing or (len(index) and int(index.max()) >= count):
            odd = missing[0] if missing else int(index.max())
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
        ids = np.asarray(members)
        if ids.ndim != 1 or (len(ids) and ids.dtype.kind not in "iu"):
            raise InputError(f"group {group} names its objects by a sequence of integer ids, not by {members!r:.80}")
        if ids.dtype.kind == "u" and len(ids) and int(ids.max()) >= 2**63:
            raise InputError(f"group {group} names object {ids.max()}, which is no object")
        ids = ids.astype(np.int64)
        wrong = rows_of_ranges(known, ids) < 0
        if wrong.any():
            others = f"one of the {count:,} objects" if grid else f"ids are 0 to {count - 1}"
            raise InputError(f"group {group} names object {ids[wrong][0]}, {'which is not ' if grid else ''}{others}")
        out[int(group)] = ids
    return out


def _columns(what: str, given: Any, *, grid: bool) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64] | None]:
    """Return the columns of a table about objects or groups, and its index where it has one."""
    kind = what.partition("_")[0]
    if given is None:
        return {}, None
    if is_dask_collection(given):
        given = given.compute()
    index = None
    if hasattr(given, "columns") and hasattr(given, "index"):
        index = np.asarray(given.index)
        if index.dtype.kind not in "iu" or len(np.unique(index)) != len(index) or (len(index) and int(index.min()) < 0):
            numbers = "object ids" if kind == "object" else "group numbers"
            raise InputError(f"{what} must be indexed by distinct {numbers}")
        if len(index) and int(index.max()) >= 2**63 - 1:
            raise InputError(f"object ids are 0 to {2**63 - 2}, not {index.max()}")
        items = [(str(c), series_values(str(c), given[c])) for c in given.columns]
        index = index.astype(np.int64)
    elif isinstance(given, Mapping):
        items = [(str(k), np.asarray(v)) for k, v in given.items()]
    else:
        raise InputError(f"{what} is a DataFrame indexed by {kind} id, or a mapping of name to array")
    out: dict[str, NDArray[Any]] = {}
    for name, column in items:
        values = _grid_values(f"{kind} attribute {name!r}", column) if grid else column
        if (
            not name
            or "/" in name
            or "\\" in name
            or name in (".", "..", DOCUMENT)
            or has_control(name)
            or values.dtype.kind not in ("iufU" if grid else "biuf")
            or not values.ndim
        ):
            wanted = f"numbers or {'strings' if grid else 'booleans'}, and a name without '/' and control characters"
            raise InputError(f"{kind} attribute {name!r} ({values.dtype} {values.shape}): {wanted}")
        out[name] = np.array(values, values.dtype.newbyteorder("<"), order="C")  # a copy: the caller may change theirs
    return out, index


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


def _string(name: str, value: object) -> str:
    if isinstance(value, str):
        if value.endswith("\0"):
            raise InputError(f"{name} has a string that ends with NUL, which fixed-length strings lose")
        return value
    if value is None or type(value).__name__ == "NAType" or (isinstance(value, float) and math.isnan(value)):
        return ""
    raise InputError(f"{name} has the value {value!r:.80}: one array holds numbers or strings, nothing else")
