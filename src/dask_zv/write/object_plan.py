"""What a write knows of its objects before it starts: ids, attributes, groups; checked, and as the level says them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.format.keys import DOCUMENT, join
from dask_zv.format.objects import GROUP_NAMES, encode_groups, sentinel
from dask_zv.level.object_tables import OBJECT_LENGTHS
from dask_zv.storage.layout import layout_for
from dask_zv.storage.objects import Objects
from dask_zv.write.containers import (
    as_integers,
    from_objects,
    in_memory,
    missing_error,
)
from dask_zv.write.object_input import ObjectTable, grid_values, table_about
from dask_zv.write.scan import id_ranges, merge_ranges

_CHUNK = 1 << 14
_MOST_GROUPS = 10_000_000


@dataclass(frozen=True, slots=True, eq=False)
class ObjectPlan:
    """The objects of a level."""

    count: int  # rows of the object index
    # row = row of the index; `present` is None where all objects have a value. In layout grid the sentinel of the dtype
    # stands for the absent, and `present` is given of strings only
    attributes: Mapping[str, tuple[NDArray[Any], NDArray[np.bool_] | None]]
    groups: Mapping[int, NDArray[np.int64]]
    ids: NDArray[np.int64]  # (m, 2): ranges [start, stop) of the ids, ascending: the objects of rows 0, 1, …
    present: int  # objects with vertices
    group_attributes: Mapping[str, NDArray[Any]] = field(default_factory=dict)  # (G, ...): row = number of the group
    group_names: tuple[str, ...] = ()  # none, or as many as groups
    attrs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # units and the like
    group_attrs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # units and the like

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
    """Return the numbers in ranges [start, stop)."""
    lengths = ranges[:, 1] - ranges[:, 0]
    before = np.cumsum(lengths) - lengths
    return np.asarray(np.repeat(ranges[:, 0] - before, lengths) + np.arange(int(lengths.sum())), np.int64)


def rows_of_ranges(ranges: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place of each id among the numbers in ascending ranges; -1 where it is in none of them."""
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

    `ids` (m, 2) are ranges [start, stop) of the ids that have vertices, `empty` of further objects. Rows of an array are those
    of the objects in ascending order of their ids; rows of a frame, and Series with an index of ids, say which objects they
    are of. In layout grid strings are allowed, and objects that a frame does not name are stored as the dtype's sentinel (NaN,
    the least signed, the greatest unsigned integer, ""). Strings of groups called "group_names" are the names of the groups.
    Layout per_chunk numbers objects by their rows, so ids must be 0 to n-1; grid takes any ids from 0 on.
    """
    present = int((ids[:, 1] - ids[:, 0]).sum())
    if empty is not None:
        ids = merge_ranges([ids, empty])
    grid = layout_for(layout).has_tables
    table = table_about("object_attributes", object_attributes, grid=grid)
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
    about = table_about("group_attributes", group_attributes, grid=grid)
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
    """
    if grid:
        values = grid_values(what, values)
    if grid and values.dtype.kind == "U" and not present.all():
        empty = (values == "").all(axis=tuple(range(1, values.ndim))) & present
        if empty.any():
            raise InputError(
                f"{what}: row {int(np.flatnonzero(empty)[0])} is '', which means 'no value' because other objects have none "
                f"(row {int(np.flatnonzero(~present)[0])}): give those '' as well, or all another word"
            )
    if values.dtype.kind in "iu" and (grid or not present.all()):  # NaN is what it means
        same = (values == sentinel(values.dtype)).all(axis=tuple(range(1, values.ndim))) & present
        size = values.dtype.itemsize
        if same.any() and size == 8:
            raise InputError(
                f"{what}: row {int(np.flatnonzero(same)[0])} is {sentinel(values.dtype)}, which means 'no value' in "
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


def _group_columns(table: ObjectTable, groups: Mapping[int, Any]) -> dict[str, NDArray[Any]]:
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


def check_group_number(group: int) -> None:
    """Refuse the number of a group that is too great: it is a place in an array, where every gap is an empty group."""
    if group >= _MOST_GROUPS:
        raise InputError(f"group {group:d} is beyond {_MOST_GROUPS - 1:,}: number the groups from 0 without wide gaps")


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
        check_group_number(int(group))
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


# ---------------------------------------------------------------------------------------------- what a level says of them


def object_blobs(plan: ObjectPlan) -> list[tuple[str, str, bytes]]:
    """Return the blobs of object attributes and groups in layout per_chunk, as (array, key, payload)."""
    out: list[tuple[str, str, bytes]] = []
    for name, (values, present) in plan.attributes.items():
        out.append((f"object_attributes/{name}", "data", values.tobytes()))
        if present is not None:
            out.append((f"object_attributes/{name}", "present_mask", present.astype(np.uint8).tobytes()))
    if plan.groups:
        nobody = np.zeros(0, np.int64)
        data, offsets = encode_groups([plan.groups.get(g, nobody) for g in range(plan.group_count)])
        out += [("groups", "data", data), ("groups", "offsets", offsets)]
    return out + [(f"group_attributes/{n}", "data", v.tobytes()) for n, v in plan.group_attributes.items()]


def object_metadata(plan: ObjectPlan, rank: int, layout: str = "per_chunk") -> list[tuple[str, dict[str, Any]]]:
    """Return (path, attributes) of the groups that the commit gives the objects.

    In layout grid the arrays below them are written by tasks of their own, documents and all.
    """
    if layout_for(layout).has_tables:
        index = {
            "zv_array": "object_index",
            "num_objects": plan.count,
            "num_present": plan.present,
            "sid_ndim": rank,
            "layout": "vlen_manifests_v2",
            "object_ids_sorted": True,
        }
        families = [("object_attributes", plan.attributes), ("group_attributes", plan.group_attributes)]
        return [*((name, {}) for name, members in families if members), ("object_index", index)]
    out: list[tuple[str, dict[str, Any]]] = []
    for name, (values, present) in plan.attributes.items():
        meta = {
            "zv_array": "object_attribute",
            "name": name,
            "dtype": str(values.dtype),
            "num_channels": 1,
            "shape": list(values.shape),
            "has_present_mask": present is not None,
        }
        out.append((f"object_attributes/{name}", meta))
    if plan.groups:
        named = {GROUP_NAMES: list(plan.group_names)} if plan.group_names else {}
        out.append(("groups", {"zv_array": "groups", "num_groups": plan.group_count, **named}))
    for name, column in plan.group_attributes.items():
        meta = {"zv_array": "groupings_attribute", "name": name, "dtype": str(column.dtype), "num_channels": 1}
        out.append((f"group_attributes/{name}", {**meta, "shape": list(column.shape)}))
    index = {"zv_array": "object_index", "num_objects": plan.count, "sid_ndim": rank, "layout": "vlen_manifests_v1"}
    return [*out, ("object_index", index)]


def old_object_nodes(objects: Objects, prefix: str, plan: ObjectPlan | None, layout: str) -> list[str]:
    """Return the nodes about objects, below the level, that its new content has no place for."""
    if plan is None:
        return ["object_index", "object_attributes", "groups", "group_attributes", OBJECT_LENGTHS]
    old = [] if plan.groups else ["groups"]
    for family, members in (("object_attributes", plan.attributes), ("group_attributes", plan.group_attributes)):
        if not members:
            old.append(family)
        else:
            names = objects.list_dir(join(prefix, family))
            old += [f"{family}/{n}" for n in names if n not in members and n != DOCUMENT]
    if not layout_for(layout).has_tables:  # a mask that is no longer claimed would be believed by whoever looks for the blob
        old += [f"object_attributes/{n}/present_mask" for n, (_, present) in plan.attributes.items() if present is None]
    if not plan.count:
        ids = ["object_index/object_ids"] if layout_for(layout).has_tables else []
        return [*old, OBJECT_LENGTHS, "object_index/manifests", *ids]
    cells = objects.list_dir(join(prefix, "object_index/manifests/c"))
    chunks = -(-plan.count // plan.chunk)
    return [*old, *(f"object_index/manifests/c/{n}" for n in cells if n.isdigit() and int(n) >= chunks)]
