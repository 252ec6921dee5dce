"""Attributes and groups of a level's objects: set, renamed, dropped. Tables alone are written, each as a whole, by one task.

Vertices and manifests stay as they are. A table has a row to an object; the task gathers what is lazy, not the client.
One module because attributes and groups are edited in the same steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from dask.base import is_dask_collection
from dask.delayed import Delayed
from dask.task_spec import Task, TaskRef
from numpy.typing import NDArray

from dask_zv.errors import InputError, did_you_mean
from dask_zv.format.documents import dump_json
from dask_zv.format.keys import DOCUMENT, join
from dask_zv.format.objects import GROUP_NAMES, encode_groups, sentinel
from dask_zv.geometry.block import EncodedBlock
from dask_zv.graph.builder import GraphBuilder, is_lazy
from dask_zv.graph.report import Report
from dask_zv.graph.tasks import add_block, add_commit, add_preparation
from dask_zv.level.contents import LevelContents
from dask_zv.level.object_index import ObjectIndex, chosen_ids
from dask_zv.maintain.convert_level import copy_node
from dask_zv.maintain.edit import edited, level_to_edit, run_edit
from dask_zv.read.object_columns import object_fields
from dask_zv.storage.handles import open_objects
from dask_zv.storage.layout import layout_for
from dask_zv.storage.nodes import read_document
from dask_zv.storage.specs import BlockSpec, CommitSpec, GridPlan, Place
from dask_zv.write.containers import attrs_of, in_memory, is_series
from dask_zv.write.object_index import write_group_attribute, write_groups, write_object_attribute
from dask_zv.write.object_input import table_about
from dask_zv.write.object_plan import (
    ObjectPlan,
    check_group_number,
    object_blobs,
    object_metadata,
    rows_of_ranges,
    with_sentinel,
)
from dask_zv.write.planning import attribute_spec
from dask_zv.write.scan import id_ranges

_FAMILY, _GROUP_FAMILY = "object_attributes", "group_attributes"
Groups = dict[int, NDArray[np.int64]]


def set_object_attribute(store: object, name: str, values: Any, *, level: int = 0, compute: bool = True) -> Report | Delayed:
    """Give objects a value of an attribute, see :meth:`dask_zv.Store.set_object_attribute`."""
    contents = _with_objects(store, level)
    _check_name(name)
    builder = GraphBuilder("zv-set-object-attribute", store=contents.place.handle)
    index = _index_of(values)
    attrs: dict[str, Any] = {}
    about: dict[str, Any] = {}
    if not is_lazy(values):
        attrs = {k: v for k, v in attrs_of(f"object attribute {name!r}", values).items() if k not in ("zv_url", "zv_level")}
    if is_lazy(values) or is_dask_collection(values):
        given = builder.payload(_plain(values) if not is_lazy(values) else values)
        if attrs:
            about = attribute_spec(np.dtype(values.dtype), values.shape[1] if values.ndim > 1 else None, False, attrs)
    else:
        table = table_about(_FAMILY, {name: values}, grid=layout_for(contents.place.layout).has_tables)
        given, index = table.columns[name], table.index if index is None else index
        about = attribute_spec(given[0].dtype, given[0].shape[1] if given[0].ndim > 1 else None, False, table.attrs[name])
    aligned = Task(None, _aligned, contents, name, given, index)
    metadata: list[tuple[str, Mapping[str, Any]]] = [(_FAMILY, {})] if layout_for(contents.place.layout).has_tables else []
    commit = edited(_commit(contents, metadata), contents, builder.run, {"object": {name: about}})
    waiting, blocks = _store_tables(builder, contents, aligned, add_preparation(builder, commit))
    return _run(builder, contents, commit, waiting, blocks, compute=compute)


def rename_object_attribute(store: object, old: str, new: str, *, level: int = 0, compute: bool = True) -> Report | Delayed:
    """Give an attribute of objects another name, see :meth:`dask_zv.Store.rename_object_attribute`."""
    contents = _with_objects(store, level)
    _known(contents, old)
    _check_name(new)
    if new in object_fields(contents.index):
        raise InputError(f"there is an object attribute {new!r} already: drop it first", store=contents.url)
    builder = GraphBuilder("zv-rename-object-attribute", store=contents.place.handle)
    specs = contents.store.attribute_specs.get("object", {})
    commit = _commit(contents, [], remove=(f"{_FAMILY}/{old}",))
    commit = edited(commit, contents, builder.run, {"object": {old: {}, new: specs.get(old, {})}})
    paths = f"{_FAMILY}/{old}", f"{_FAMILY}/{new}"
    copied = builder.store(builder.key("copy"), _rename, contents.place, *paths, new, *add_preparation(builder, commit))
    return _run(builder, contents, commit, [copied], [], compute=compute)


def drop_object_attribute(store: object, name: str, *, level: int = 0, compute: bool = True) -> Report | Delayed:
    """Remove an attribute of objects, see :meth:`dask_zv.Store.drop_object_attribute`."""
    contents = _with_objects(store, level)
    _known(contents, name)
    others = [n for n in object_fields(contents.index) if n != name]
    builder = GraphBuilder("zv-drop-object-attribute", store=contents.place.handle)
    commit = replace(_commit(contents, [], remove=(f"{_FAMILY}/{name}" if others else _FAMILY,)), turn=False)
    commit = edited(commit, contents, builder.run, {"object": {name: {}}})
    return _run(builder, contents, commit, [], [], compute=compute)


def set_group(store: object, group: int | str, ids: Any, *, level: int = 0, compute: bool = True) -> Report | Delayed:
    """Say which objects are in a group, see :meth:`dask_zv.Store.set_group`."""
    return _edit_groups(store, group, chosen_ids(ids), level, compute=compute)


def drop_group(store: object, group: int | str, *, level: int = 0, compute: bool = True) -> Report | Delayed:
    """Remove a group of objects, see :meth:`dask_zv.Store.drop_group`."""
    return _edit_groups(store, group, None, level, compute=compute)


# ---------------------------------------------------------------------------------------------- what is checked


def _with_objects(store: object, level: int) -> LevelContents:
    contents = level_to_edit(store, level)
    if not contents.source.schema.has_objects:
        raise InputError("the level has no objects: write it with object_ids= first", store=contents.url)
    return contents


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise InputError(f"names of object attributes are strings, not {name!r:.80}")
    table_about(_FAMILY, {name: np.zeros(0)}, grid=True)  # says what is wrong with a name


def _known(level: LevelContents, name: str) -> None:
    names = tuple(object_fields(level.index))
    if name not in names:
        said = f"the level has {', '.join(names) or 'none'}{did_you_mean(name, names)}"
        raise InputError(f"no object attribute {name!r}: {said}", store=level.url)


def _commit(
    level: LevelContents, metadata: Sequence[tuple[str, Mapping[str, Any]]], remove: tuple[str, ...] = ()
) -> CommitSpec:
    """Return a commit that changes no chunk array."""
    grid = GridPlan({}) if layout_for(level.place.layout).shards_have_extents else None
    arrays = () if grid is not None else tuple(p for p, _ in metadata)
    return CommitSpec(
        level.place, tuple(metadata), arrays, catalog=True, count=0, objects=level.index.count, remove=remove, grid=grid,
        extends_catalog=True, turn=True,
    )  # fmt: skip


def _run(
    builder: GraphBuilder,
    level: LevelContents,
    commit: CommitSpec,
    waiting: list[TaskRef],
    blocks: list[TaskRef],
    *,
    compute: bool,
) -> Report | Delayed:
    """Run the commit after what it waits for, see :func:`.add_commit`."""
    graph = add_commit(builder, commit, [], lambda _, __: (waiting, blocks))
    return run_edit(level.store, graph, compute=compute, commit=commit)


# ---------------------------------------------------------------------------------------------- attributes


def _index_of(values: Any) -> NDArray[np.int64] | None:
    """Return the ids that a variable or a Series has values for; None where its rows are those of all objects."""
    coords = getattr(values, "coords", None)
    if coords is not None and not is_lazy(values) and getattr(values, "dims", ())[:1] == ("object",) and "object" in coords:
        return np.asarray(coords["object"].to_numpy(), np.int64)
    if is_series(values) and not is_dask_collection(values):
        return None  # the table takes it from the Series, where it is no count of rows
    return None


def _plain(values: Any) -> Any:
    """Return a lazy array, or one in a variable, as a Delayed of it in memory."""
    from dask.delayed import delayed

    return delayed(_itself, pure=False)(getattr(values, "data", values))


def _itself(values: Any) -> Any:
    return values


def _aligned(level: LevelContents, name: str, given: Any, ids: NDArray[np.int64] | None) -> ObjectPlan:
    """Return a plan of the one attribute, a row to each row of the level's index."""
    grid = layout_for(level.place.layout).has_tables
    if not isinstance(given, tuple):  # what was lazy
        if hasattr(given, "data_vars"):
            if name not in given.data_vars:
                raise InputError(f"object attribute {name!r}: the function returned {list(given.data_vars)}, not this name")
            given = given[name]
        ids = _index_of(given) if ids is None else ids
        given = table_about(_FAMILY, {name: in_memory(f"object attribute {name!r}", given)}, grid=grid).columns[name]
    values, missing = given
    index = ObjectIndex(level.source)
    known = index.sorted_ids
    if ids is None:
        if len(values) != len(known):
            raise InputError(
                f"object attribute {name!r} has {len(values):,} rows for {len(known):,} objects, one for each by ascending id: "
                "a Series or a DataArray with ids says which objects its values are of"
            )
        ids = known
    at = rows_of_ranges(id_ranges(known), ids)
    if (at < 0).any():
        raise InputError(f"object attribute {name!r} names object {ids[at < 0][0]}, which the level does not have")
    rows = at if index.order is None else index.order[at]
    present = np.ones(len(values), bool) if missing is None else ~missing
    full = np.zeros((index.count, *values.shape[1:]), values.dtype)
    mask = np.zeros(index.count, bool)
    full[rows[present]], mask[rows[present]] = values[present], True
    stored = with_sentinel(f"object attribute {name!r}", full, mask, grid=grid)
    return ObjectPlan(index.count, {name: stored}, {}, np.zeros((0, 2), np.int64), 0)


def _store_tables(
    builder: GraphBuilder, level: LevelContents, plan: Task, before: list[TaskRef]
) -> tuple[list[TaskRef], list[TaskRef]]:
    """Add the tasks that store a plan's attributes; return what the commit waits for, and results of blocks."""
    if layout_for(level.place.layout).has_tables:
        return [builder.store(builder.key("table"), _write_attributes, level.place, plan, *before)], []
    payload = Task(None, _blobs_of, level.place, plan, *before)
    return [], [add_block(builder, 0, BlockSpec(level.place), payload, before, kind="objects")]


def _write_attributes(place: Place, plan: ObjectPlan, *_: Any) -> None:
    for name, (values, present) in plan.attributes.items():
        write_object_attribute(place, name, values, present is None)


def _blobs_of(place: Place, plan: ObjectPlan, *_: Any) -> EncodedBlock:
    """Return what layout ``per_chunk`` stores of attributes, with the metadata that the commit gives them."""
    for name, (_values, present) in plan.attributes.items():
        if present is None:  # a mask of before would be believed
            open_objects(place.handle).delete_prefix(join(place.prefix, _FAMILY, name, "present_mask"))
    told = {path: attributes for path, attributes in object_metadata(plan, 0) if path != "object_index"}
    return EncodedBlock({(a, k): data for a, k, data in object_blobs(plan)}, metadata=told)


def _rename(place: Place, old: str, new: str, name: str, *_: Any) -> None:
    """Copy a node, which then says its new name."""
    copy_node(place, place, old, new)
    objects, path = open_objects(place.handle), join(place.prefix, new)
    document = read_document(objects, path) or {}
    attributes = document.get("attributes", {})
    if "name" in attributes:
        objects.put(join(path, DOCUMENT), dump_json({**document, "attributes": {**attributes, "name": name}}))


# ---------------------------------------------------------------------------------------------- groups


@dataclass(frozen=True, slots=True, eq=False)
class GroupTables:
    """The groups of a level: members by number, names (none, or as many), and attributes (row = number)."""

    members: list[NDArray[np.int64]]
    names: tuple[str, ...]
    attributes: Mapping[str, NDArray[Any]]

    @classmethod
    def of(cls, index: ObjectIndex) -> GroupTables:
        """Return those of a level."""
        members, about = index.tables.groups
        about = dict(about)
        names = tuple(map(str, about.pop(GROUP_NAMES, np.zeros(0, str)).tolist()))
        nobody = np.zeros(0, np.int64)
        return cls([members.get(g, nobody) for g in range(max(members, default=-1) + 1)], names, about)

    def number(self, group: int | str) -> int | None:
        """Return the number of a group; None for a name that none has."""
        if isinstance(group, str):
            return self.names.index(group) if group in self.names else None
        return int(group)

    def resized(self, count: int) -> GroupTables:
        """Return as many groups: new ones are empty, without a name, and have no value of any attribute."""
        have = len(self.members)
        members = [*self.members[:count], *[np.zeros(0, np.int64)] * (count - have)]
        names = tuple([*self.names, *[""] * count][:count]) if self.names else ()
        return GroupTables(members, names, {n: _resized(n, v, count) for n, v in self.attributes.items()})


def _resized(name: str, values: NDArray[Any], count: int) -> NDArray[Any]:
    more = max(count - len(values), 0)
    if not more:
        return values[:count]
    fill = sentinel(values.dtype) if values.dtype.kind != "b" else False
    return np.concatenate([values, np.full((more, *values.shape[1:]), fill, values.dtype)])


def _edit_groups(
    store: object, group: int | str, ids: NDArray[np.int64] | None, level: int, *, compute: bool
) -> Report | Delayed:
    contents = _with_objects(store, level)
    if not isinstance(group, str) and (isinstance(group, bool) or not np.issubdtype(type(group), np.integer) or group < 0):
        raise InputError(f"a group is its number, from 0 on, or its name, not {group!r:.80}")
    found = GroupTables.of(contents.index)
    number = found.number(group)
    if ids is None and (number is None or number >= len(found.members)):
        shown = ", ".join(map(repr, found.names or range(len(found.members))))
        raise InputError(f"no group {group!r}: the level has {shown or 'none'}", store=contents.url)
    if ids is not None:
        check_group_number(len(found.members) if number is None else number)
        contents.index.rows(ids)  # says which of them there aren't
    place = contents.place
    builder = GraphBuilder("zv-set-group" if ids is not None else "zv-drop-group", store=place.handle)
    last = ids is None and len(found.members) == 1
    commit = _commit(contents, [], remove=("groups", _GROUP_FAMILY) if last else ())
    commit = edited(commit, contents, builder.run)
    before = add_preparation(builder, commit)
    waiting: list[TaskRef] = []
    blocks: list[TaskRef] = []
    if layout_for(place.layout).has_tables:
        waiting.append(builder.store(builder.key("groups"), _write_changed, contents, group, ids, *before))
    else:
        payload = Task(None, _group_blobs, contents, group, ids, *before)
        blocks.append(add_block(builder, 0, BlockSpec(place), payload, before, kind="objects"))
    return _run(builder, contents, commit, waiting, blocks, compute=compute)


def _changed(found: GroupTables, group: int | str, ids: NDArray[np.int64] | None) -> GroupTables:
    """Return the groups after the edit; a group that is dropped before others leaves an empty one, so that numbers stay."""
    number = found.number(group)
    if ids is None:
        assert number is not None
        if number == len(found.members) - 1:
            return found.resized(number)
        members = [m if i != number else np.zeros(0, np.int64) for i, m in enumerate(found.members)]
        names = tuple("" if i == number else n for i, n in enumerate(found.names))
        blank = {n: np.concatenate([v[:number], _resized(n, v[:0], 1), v[number + 1 :]]) for n, v in found.attributes.items()}
        return replace(found, members=members, names=names, attributes=blank)
    number = len(found.members) if number is None else number
    found = found.resized(max(number + 1, len(found.members)))
    found.members[number] = ids
    if isinstance(group, str):
        called = list(found.names or [""] * len(found.members))
        called[number] = group
        found = replace(found, names=tuple(called))
    return found


def _write_changed(level: LevelContents, group: int | str, ids: NDArray[np.int64] | None, *_: Any) -> None:
    """Store the groups of a level with one changed; no other edit is at work."""
    before = GroupTables.of(ObjectIndex(level.source))
    after = _changed(before, group, ids)
    if not after.members:
        return
    write_groups(level.place, after.members, after.names)
    for name, values in after.attributes.items():
        if not np.array_equal(values, before.attributes[name], equal_nan=values.dtype.kind == "f"):
            write_group_attribute(level.place, name, values)


def _group_blobs(level: LevelContents, group: int | str, ids: NDArray[np.int64] | None, *_: Any) -> EncodedBlock:
    """Return what layout ``per_chunk`` stores of the groups with one changed."""
    after = _changed(GroupTables.of(ObjectIndex(level.source)), group, ids)
    if not after.members:
        return EncodedBlock({})
    nobody = np.zeros((0, 2), np.int64)
    plan = ObjectPlan(0, {}, dict(enumerate(after.members)), nobody, 0, after.attributes, after.names)
    told = {path: attributes for path, attributes in object_metadata(plan, 0) if path != "object_index"}
    data, offsets = encode_groups(after.members)
    blobs = {("groups", "data"): data, ("groups", "offsets"): offsets}
    return EncodedBlock(
        blobs | {(f"{_GROUP_FAMILY}/{n}", "data"): v.tobytes() for n, v in after.attributes.items()}, metadata=told
    )
