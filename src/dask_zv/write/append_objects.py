"""The objects of a level that is appended to: those that it has, and those that come."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.format.fragments import decode_fragments
from dask_zv.format.keys import coords_to_keys
from dask_zv.format.objects import GROUP_NAMES, sentinel
from dask_zv.geometry.block import BlockExtra, Fragments
from dask_zv.geometry.schema import FRAGMENTS, VERTICES
from dask_zv.level.contents import LevelContents
from dask_zv.level.object_index import ObjectIndex
from dask_zv.level.object_tables import EDGE_COUNTS, OBJECT_LENGTHS
from dask_zv.level.source import LevelSource, check_same_objects, level_blobs
from dask_zv.write.object_plan import ObjectPlan, expand_ranges, with_sentinel
from dask_zv.write.scan import id_ranges

_NAMED = 5
Masked = tuple[NDArray[Any], NDArray[np.bool_]]
"""The values of some rows, and which of them are there."""


def grown_objects(
    level: LevelContents, new: ObjectPlan, present: NDArray[np.int64], on_existing: str, *, fill: bool
) -> tuple[ObjectPlan, NDArray[np.int64]]:
    """Return the objects of the level after an append, and those that were there (ids, ascending).

    `present` (m, 2) are ranges of those that get vertices. With `fill` new objects may lack
    attributes that the others have.
    """
    index = level.index
    before, after = index.sorted_ids, expand_ranges(new.ids)
    both = np.intersect1d(before, after, assume_unique=True)
    if len(both) and on_existing == "error":
        named = ", ".join(map(str, both[:_NAMED])) + (", …" if len(both) > _NAMED else "")
        raise InputError(
            f"the store has {len(both):,} of the objects already ({named}): pass on_existing='extend' to add the new rows to "
            "them, or give the new objects other ids"
        )
    ids = np.union1d(before, after)
    at, to = np.searchsorted(ids, before), np.searchsorted(ids, after)
    order = slice(None) if index.order is None else index.order
    held = {name: _masked(values[order]) for name, values in index.attributes().items()}
    given = {name: (values, _there(values, mask)) for name, (values, mask) in new.attributes.items()}
    lacking = [name for name in held if name not in given]
    if lacking and len(both) < len(after) and not fill:
        raise InputError(
            f"the objects of the store have the attribute {lacking[0]!r}, the new ones have not: pass it in "
            "object_attributes=, or fill_missing=True to leave it out"
        )
    attributes = {name: _both(name, len(ids), (held.get(name), at), (given.get(name), to)) for name in {**held, **given}}
    groups, names, about = _groups(level, new)
    already = index._present if index._present is not None else len(index._present_ids())
    fresh = int((~np.isin(expand_ranges(present), before, assume_unique=True)).sum())
    grown = dataclasses.replace(
        new, count=len(ids), attributes=attributes, groups=groups, ids=id_ranges(ids), present=already + fresh,
        group_attributes=about, group_names=names,
    )  # fmt: skip
    return grown, both


def _masked(values: NDArray[Any]) -> Masked:
    """Return the values of all objects, and which have one."""
    mask = np.ma.getmaskarray(values).reshape(len(values), -1).all(axis=1) if values.size else np.zeros(len(values), bool)
    return np.ma.getdata(values), ~mask


def _there(values: NDArray[Any], present: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """Return which rows of a planned column have a value."""
    if present is not None or values.dtype.kind == "U" or not values.size:
        return np.ones(len(values), bool) if present is None else present
    if values.dtype.kind == "f":
        return np.asarray(~np.isnan(values).reshape(len(values), -1).all(axis=1), bool)
    if values.dtype.kind not in "iu":
        return np.ones(len(values), bool)
    return np.asarray((values != sentinel(values.dtype)).reshape(len(values), -1).any(axis=1), bool)


def _both(
    name: str,
    count: int,
    held: tuple[Masked | None, NDArray[np.int64]],
    given: tuple[Masked | None, NDArray[np.int64]],
    what: str = "object attribute",
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Return a column of `count` objects from two, each with the places of its rows; what is given counts for more."""
    parts = [(column, rows) for column, rows in (held, given) if column is not None]
    arrays = [values for (values, _), _ in parts]
    shapes = {values.shape[1:] for values in arrays}
    kinds = {"U" if values.dtype.kind == "U" else "number" for values in arrays}
    if len(shapes) > 1 or len(kinds) > 1:
        described = [f"{values.dtype} {values.shape[1:] or ''}".strip() for values in arrays]
        raise InputError(f"{what} {name!r} is {described[0]} in the store, and {described[1]} in what is appended")
    dtype = np.result_type(*arrays)
    if {"i", "u", "f"} > {values.dtype.kind for values in arrays} > {"f"} and any(
        values.dtype.itemsize == 8 and values.dtype.kind in "iu" for values in arrays
    ):
        raise InputError(f"{what} {name!r} is {arrays[0].dtype} in the store, and {arrays[1].dtype} in what is appended")
    full, there = np.zeros((count, *arrays[0].shape[1:]), dtype), np.zeros(count, bool)
    for (values, present), rows in parts:
        full[rows[present]] = values[present]
        there[rows[present]] = True
    return with_sentinel(f"{what} {name!r}", full, there, grid=True)


def _groups(level: LevelContents, new: ObjectPlan) -> tuple[Mapping[int, NDArray[np.int64]], tuple[str, ...], dict[str, Any]]:
    """Return members, names and attributes of the groups of both."""
    held, about = level.index.tables.groups
    members = dict(held)
    for group, ids in new.groups.items():
        members[group] = np.union1d(members[group], ids) if group in members else ids
    count = max(members, default=-1) + 1
    names = [""] * count
    found = about.get(GROUP_NAMES)
    if found is not None:
        names[: len(found)] = np.asarray(found).tolist()
    for group in new.groups:
        names[group] = new.group_names[group] if group < len(new.group_names) else names[group]
    named = tuple(names) if any(names) else ()
    mine = np.array(sorted(new.groups), np.int64)
    columns: dict[str, Any] = {}
    for name in {**{k: v for k, v in about.items() if k != GROUP_NAMES}, **new.group_attributes}:
        before, after = about.get(name), new.group_attributes.get(name)
        columns[name] = _both(
            name,
            count,
            (None if before is None else _masked(before), np.arange(len(held))),
            (None if after is None else (after[mine], np.ones(len(mine), bool)), mine),
            "group attribute",
        )[0]
    return members, named, columns


def held_fragments(source: LevelSource, extended: NDArray[np.int64]) -> BlockExtra:
    """Return the fragments of a level's objects, as a block reports them: before those of an append, along each object.

    Of the objects that are `extended` (ids, ascending) the last fragment says where it lies in its chunk. The rows of the
    others are counted by the first fragment of each object, where they are known.
    """
    index = ObjectIndex(source)
    parts = list(index.slices())
    check_same_objects(source)
    objects = np.concatenate([np.zeros(0, np.int64), *(p.objects for p in parts)])
    coords = np.concatenate([np.zeros((0, source.rank), np.int64), *(p.chunks for p in parts)])
    fragments = np.concatenate([np.zeros(0, np.int64), *(p.fragments for p in parts)])
    n = len(objects)
    first, count = np.zeros(n, np.int64), np.full(n, -1, np.int64)
    ids, begin, number = np.unique(objects, return_index=True, return_counts=True)
    last = (begin + number - 1)[np.isin(ids, extended, assume_unique=True)]
    if len(last):
        first[last], rows = _places(source, coords[last], fragments[last])
    if (table := lengths_of(index)) is not None:
        count[:] = 0
        count[begin] = table[np.searchsorted(table[:, 0], ids), 1]
        if len(last):
            of = np.searchsorted(ids, objects[last])
            count[begin[of]] -= rows
            count[last] += rows
    return BlockExtra(Fragments(objects, coords, fragments, first, count, np.arange(n) - n))


def lengths_of(index: ObjectIndex) -> NDArray[np.int64] | None:
    """Return the table of objects and their vertices, None where there is none that holds."""
    table = index.tables.own_table(OBJECT_LENGTHS, (index.count, 2))
    return table[0] if table is not None and table[1] and (table[0][:, 0] == index.sorted_ids).all() else None


def held_edges(source: LevelSource) -> NDArray[np.int64] | None:
    """Return the table of the links of a level's chunks, None where there is none that holds."""
    catalog = level_blobs(source).catalog
    assert catalog is not None
    table = ObjectIndex(source).tables.own_table(EDGE_COUNTS, (int(catalog.chunks_of(VERTICES).sum()), source.rank + 1))
    return table[0] if table is not None and table[1] else None


def _places(
    source: LevelSource, coords: NDArray[np.int64], fragments: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first row, among the vertices of its chunk, and the rows of some fragments."""
    keys = coords_to_keys(coords)
    found = level_blobs(source).read_many([(FRAGMENTS, key) for key in dict.fromkeys(keys)])
    places = []
    for key, fragment in zip(keys, fragments.tolist(), strict=True):
        index = decode_fragments(found[FRAGMENTS, key])
        places.append((index.starts[fragment], index.counts[fragment]))
    table = np.array(places, np.int64)
    return table[:, 0], table[:, 1]
