"""What a level says of its objects beside the manifests: ids, attributes and groups, as blobs, or in layout grid as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from dask.task_spec import List, TaskRef
from numcodecs.vlen import VLenBytes
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from dask_zv.format.keys import DOCUMENT, join
from dask_zv.format.objects import (
    GROUP_NAMES,
    elements_document,
    encode_group_elements,
    encode_groups,
    sentinel,
    table_document,
)
from dask_zv.geometry.block import BlockExtra
from dask_zv.graph.builder import GraphBuilder
from dask_zv.graph.run import hold_if_large
from dask_zv.level.object_tables import EDGE_COUNTS, OBJECT_LENGTHS, VALUES_CRC32C, WHOLE_STRINGS, values_checksum
from dask_zv.level.source import MANIFESTS_CRC32C
from dask_zv.storage.codecs import crc32c
from dask_zv.storage.handles import open_objects
from dask_zv.storage.layout import layout_for
from dask_zv.storage.nodes import announce_array
from dask_zv.storage.objects import Objects
from dask_zv.storage.specs import BlockResult, Place
from dask_zv.write.object_plan import ObjectPlan, expand_ranges

_ROWS = 1 << 16
_ALL_ROWS = 1 << 22
"""Of a table that readers want as a whole."""
_CHUNK_BYTES = 1 << 26
_AT_ONCE_BYTES = 1 << 25
_NO_ID = -1
"""What an absent chunk of ids reads as: no id, so that a chunk that was lost shows."""


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


def write_object_tables(builder: GraphBuilder, place: Place, plan: ObjectPlan, results: Sequence[TaskRef]) -> list[TaskRef]:
    """Add the tasks that store ids, attributes and groups; return what the commit waits for, the ids' checksums first.

    They need nothing of the blocks, but in a session the groups above them are made before any block.
    """
    after = List(*results[:1]) if place.handle.is_session else List()
    out: list[TaskRef] = []

    def add(name: str, function: Any, *arguments: Any) -> None:
        key = builder.key("objects", name)
        out.append(builder.store(key, function, place, *arguments, after))

    if plan.count:
        add("ids", _write_ids, hold_if_large(plan.ids, plan.ids.nbytes))
    for number, (name, (values, present)) in enumerate(plan.attributes.items()):
        add(f"attribute-{number}", _write_attribute, name, present is None, hold_if_large(values, values.nbytes))
    if plan.groups:
        nobody = np.zeros(0, np.int64)
        members = [plan.groups.get(g, nobody) for g in range(plan.group_count)]
        add("groups", _write_groups, hold_if_large(members, sum(m.nbytes for m in members)), plan.group_names)
    for number, (name, values) in enumerate(plan.group_attributes.items()):
        add(f"group-attribute-{number}", _write_group_attribute, name, values)
    return out


def _write_ids(place: Place, ranges: NDArray[np.int64], _: Sequence[Any]) -> list[int]:
    ids = expand_ranges(ranges)
    return _write_table(place, "object_index/object_ids", ids.astype("<i8"), _NO_ID, {})


def _write_attribute(place: Place, name: str, whole: bool, values: NDArray[Any], _: Sequence[Any]) -> None:
    attributes: dict[str, Any] = {
        "zv_array": "object_attribute",
        "name": name,
        "dtype": str(values.dtype),
        "shape": list(values.shape),
        "fill_sentinel_meaning": "absent",
    }
    if whole and values.dtype.kind == "U":
        attributes[WHOLE_STRINGS] = len(values)
    _write_table(place, f"object_attributes/{name}", values, sentinel(values.dtype), attributes)


def _write_group_attribute(place: Place, name: str, values: NDArray[Any], _: Sequence[Any]) -> None:
    attributes = {"zv_array": "groupings_attribute", "name": name, "dtype": str(values.dtype), "shape": list(values.shape)}
    _write_table(place, f"group_attributes/{name}", values, sentinel(values.dtype), attributes)


def _write_table(
    place: Place,
    array: str,
    values: NDArray[Any],
    fill: Any,
    attributes: Mapping[str, Any],
    rows: int = _ROWS,
) -> list[int]:
    """Store an array with a row to an object: all of its chunks (of at most `rows`), then the document that says so.

    Returns the CRC-32C of each chunk.
    """
    row_bytes = max(values.dtype.itemsize * int(np.prod(values.shape[1:], dtype=np.int64)), 1)
    chunk = max(min(rows, len(values), _CHUNK_BYTES // row_bytes), 1)
    codec = Zstd(level=0, checksum=True)
    objects, path = open_objects(place.handle), join(place.prefix, array)
    _make_room(place, array)
    announce_array(objects, path, table_document(values.shape, values.dtype, chunk, fill, attributes))
    checksums: list[int] = []
    tail = "/0" * (values.ndim - 1)
    pending: list[list[tuple[str, bytes]]] = []
    waiting = 0
    for number, first in enumerate(range(0, len(values), chunk)):
        cell = values[first : first + chunk]
        if len(cell) < chunk:  # Zarr stores the last chunk in full length
            rest = np.full((chunk - len(cell), *values.shape[1:]), fill, values.dtype)
            cell = np.concatenate([cell, rest])
        data = bytes(codec.encode(np.ascontiguousarray(cell).tobytes()))
        checksums.append(crc32c(data))
        pending.append([(f"{path}/c/{number}{tail}", data)])
        waiting += len(data)
        if waiting > _AT_ONCE_BYTES:
            objects.put_many(pending)
            pending, waiting = [], 0
    objects.put_many(pending)
    marked = {**attributes, MANIFESTS_CRC32C: checksums}
    objects.put(f"{path}/{DOCUMENT}", table_document(values.shape, values.dtype, chunk, fill, marked))
    return checksums


def write_lengths(place: Place, parts: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> None:
    """Store the table of objects, see :mod:`dask_zv.read.object_lengths`.

    `parts` are (ids, lengths), ascending by id. Where a length is not known (-1) there is no table.
    """
    ids, lengths = (np.concatenate([p[k] for p in parts]) for k in (0, 1))
    if (lengths < 0).any():
        return
    table = np.stack([ids, lengths], axis=1).astype("<i8")
    about = {"zv_array": "dask_zv_objects", "columns": ["object_id", "vertex_count"], VALUES_CRC32C: values_checksum(table)}
    _write_table(place, OBJECT_LENGTHS, table, _NO_ID, about, _ALL_ROWS)


def write_edge_counts(place: Place, results: Sequence[BlockResult]) -> None:
    """Store how many links the chunks of a level of skeletons have, see :data:`EDGE_COUNTS`."""
    found = [r.extra.edges for r in results if isinstance(r.extra, BlockExtra) and r.extra.edges is not None]
    if not found:
        return
    table = np.concatenate(found)
    write_edge_table(place, table[np.lexsort(table[:, -2::-1].T)])


def write_edge_table(place: Place, table: NDArray[np.int64]) -> None:
    """Store a table (n, K + 1) of chunks and the links of each, ascending by chunk."""
    table = np.ascontiguousarray(table, "<i8")
    columns = ["chunk coordinates", "nodes with a parent"]
    about = {"zv_array": EDGE_COUNTS, "columns": columns, VALUES_CRC32C: values_checksum(table)}
    _write_table(place, EDGE_COUNTS, table, _NO_ID, about, _ALL_ROWS)


def _write_groups(place: Place, members: Sequence[NDArray[np.int64]], names: Sequence[str], _: Sequence[Any]) -> None:
    """Store the groups: one element each, all in one chunk, as other readers want them."""
    objects, path = open_objects(place.handle), join(place.prefix, "groups")
    attributes: dict[str, Any] = {"zv_array": "groups", "num_groups": len(members)}
    if names:
        attributes[GROUP_NAMES] = list(names)
    cells = np.empty(len(members), object)
    cells[:] = encode_group_elements(members)
    data = bytes(Zstd(level=0, checksum=True).encode(VLenBytes().encode(cells)))
    _make_room(place, "groups")
    announce_array(objects, path, elements_document(len(members), len(members), attributes))
    objects.put(f"{path}/c/0", data)
    marked = {**attributes, MANIFESTS_CRC32C: [crc32c(data)]}
    objects.put(f"{path}/{DOCUMENT}", elements_document(len(members), len(members), marked))


def _make_room(place: Place, array: str) -> None:
    """Remove what the array held before: keys of another shape's chunks would stay, or be in the way."""
    objects, path = open_objects(place.handle), join(place.prefix, array)
    if objects.list_dir(path):
        objects.delete_prefix(path)
