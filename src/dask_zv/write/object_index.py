"""Storing what a level has of its objects: the manifests, of the fragments that the blocks report, and the tables beside them.

Manifests are written by bounded ranges of objects. Ids, attributes, groups and lengths are Zarr arrays in layout ``grid``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from dask.task_spec import List, TaskRef
from numcodecs.vlen import VLenBytes
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from dask_zv.config import settings
from dask_zv.errors import PlanError
from dask_zv.format.documents import dump_json
from dask_zv.format.keys import DOCUMENT, join
from dask_zv.format.manifests import encode_manifests
from dask_zv.format.objects import (
    GROUP_NAMES,
    elements_document,
    encode_group_elements,
    manifests_document,
    sentinel,
    table_document,
)
from dask_zv.geometry.block import BlockExtra, Fragments
from dask_zv.geometry.links import LinkRecords
from dask_zv.graph.builder import GraphBuilder
from dask_zv.graph.run import hold_if_large
from dask_zv.level.object_tables import EDGE_COUNTS, OBJECT_LENGTHS, VALUES_CRC32C, WHOLE_STRINGS, values_checksum
from dask_zv.level.source import MANIFESTS_CRC32C
from dask_zv.spatial.chunks import group_by_chunk
from dask_zv.storage.codecs import crc32c
from dask_zv.storage.handles import open_objects
from dask_zv.storage.layout import layout_for
from dask_zv.storage.nodes import announce_array
from dask_zv.storage.specs import BlockResult, Place
from dask_zv.write.object_plan import ObjectPlan, expand_ranges

_ROWS = 1 << 16
_ALL_ROWS = 1 << 22
"""Of a table that readers want as a whole."""
_CHUNK_BYTES = 1 << 26
_AT_ONCE_BYTES = 1 << 25
_NO_ID = -1
"""What an absent chunk of ids reads as: no id, so that a chunk that was lost shows."""
Written = tuple[list[int], NDArray[np.int64], NDArray[np.int64]]
"""Of some manifests: CRC-32C of each stored object, ids (n,), and the vertices of each object (n,), -1 where not known."""


def write_object_index(
    builder: GraphBuilder,
    place: Place,
    plan: ObjectPlan,
    rank: int,
    results: Sequence[TaskRef],
    *,
    crossings: bool = False,
) -> tuple[list[TaskRef], list[TaskRef]]:
    """Add the tasks that write the manifests from what the blocks report.

    Returns what the commit waits for, and (with `crossings`) the tasks whose results are the links between the pieces of
    objects as :class:`~dask_zv.geometry.links.LinkRecords`. The array's document goes after its cells; where the store wants
    nodes first, before them as well. In layout grid the ids, attributes and groups are written here, too.
    """
    tables = write_object_tables(builder, place, plan, results) if layout_for(place.layout).has_tables else []
    if plan.count == 0:
        return tables, []
    tasks = max(1, min(-(-plan.count // settings().objects_per_task), settings().manifest_edges // max(len(results), 1)))
    step = -(-plan.count // tasks)
    step = -(-step // plan.chunk) * plan.chunk
    before: list[TaskRef] = []
    if place.handle.is_session:
        key = builder.key("object-index")
        after = List(*results)
        before.append(builder.store(key, _write_document, place, plan.count, plan.chunk, [], None, after, nodes=True))
    written: list[TaskRef] = []
    crossed: list[TaskRef] = []
    for i, (first, ids) in enumerate(plan.cut(step)):
        low, high = int(ids[0, 0]), int((ids[-1:, 1] - 1)[0])
        pieces = [
            builder.add(builder.key("fragments", f"{b}-{i}"), _fragments_between, r, low, high) for b, r in enumerate(results)
        ]
        gathered = builder.add(builder.key("objects-of", i), _gather_fragments, rank, List(*pieces))
        key = builder.key("manifests", i)
        mine = hold_if_large(ids, ids.nbytes)
        written.append(builder.store(key, _write_manifests, place, plan.chunk, first, mine, gathered, List(*before)))
        if crossings:
            crossed.append(builder.add(builder.key("crossings", i), _crossings, gathered))
    lengths = builder.store(builder.key("lengths"), write_lengths, place, List(*written))
    checksums = List(*(builder.add(builder.key("checksums", i), itemgetter(0), w) for i, w in enumerate(written)))
    key, ids_checksums = builder.key("object-index", len(written)), tables[0] if tables else None
    document = builder.store(key, _write_document, place, plan.count, plan.chunk, checksums, ids_checksums, List())
    return [*tables, lengths, document], crossed


def _fragments_between(result: BlockResult | BlockExtra, first: int, last: int) -> Fragments | None:
    """Return the fragments of the objects from first to last, None of a block without vertices."""
    extra: BlockExtra | None = result.extra if isinstance(result, BlockResult) else result
    if extra is None or extra.fragments is None:
        return None
    found = extra.fragments
    return found.take((found.objects >= first) & (found.objects <= last))


def _gather_fragments(rank: int, pieces: Sequence[Fragments | None]) -> Fragments:
    """Return the fragments of some objects, object by object."""
    found = Fragments.join([p for p in pieces if p is not None], rank)
    # along the object, and where it has no direction by its chunks: whichever block reported first
    return found.take(np.lexsort((found.fragments, *found.coords.T[::-1], found.sequence, found.objects)))


def _crossings(found: Fragments) -> LinkRecords:
    """Return the links from the last vertex of each piece to the first of the next, where that is in another chunk."""
    crosses = (found.objects[1:] == found.objects[:-1]) & (found.coords[1:] != found.coords[:-1]).any(axis=1)
    crosses &= found.sequence[1:] >= 0  # others are those of an append's level, whose links are stored
    at = np.flatnonzero(crosses)
    coords, number = group_by_chunk(np.concatenate([found.coords[at], found.coords[at + 1]]))
    rows = np.stack([found.first[at] + found.count[at] - 1, found.first[at + 1]], axis=1)
    return LinkRecords(coords, number.reshape(2, -1).T, rows, found.sequence[at + 1])


def _write_manifests(
    place: Place,
    chunk: int,
    first: int,
    ids: NDArray[np.int64],
    found: Fragments,
    _: Sequence[None],
) -> Written:
    """Store the manifests from row `first` on, whose objects `ids` (ranges) are."""
    path = join(place.prefix, "object_index/manifests")
    objects, chunks, fragments = found.objects, found.coords, found.fragments
    known = expand_ranges(ids)
    rows = np.searchsorted(known, objects)
    if (known[rows] != objects).any():
        raise PlanError(
            f"object {objects[known[rows] != objects][0]} was not in the data when the write was planned: the data changes "
            "between two readings; write it from a file or an array that does not change",
            store=place.handle.url, array=path,
        )  # fmt: skip
    lengths = np.zeros(len(known), np.int64)
    np.add.at(lengths, rows, found.count)
    if (found.count < 0).any():
        lengths[:] = -1
    rows += first
    last = first + len(known)
    # the frames of grid arrays check themselves, because its tools change elements in place
    codec, vlen = Zstd(level=0, checksum=layout_for(place.layout).has_tables), VLenBytes()
    checksums: list[int] = []
    store = open_objects(place.handle)
    for start in range(first, last, chunk):
        stop = min(start + chunk, last)
        a, b = np.searchsorted(rows, [start, stop])
        blobs = encode_manifests(rows[a:b], chunks[a:b], fragments[a:b], first=start, count=stop - start)
        cells = np.full(chunk, b"", object)  # Zarr stores the last chunk in full length
        cells[: stop - start] = blobs
        data = bytes(codec.encode(vlen.encode(cells)))
        checksums.append(crc32c(data))
        store.put(f"{path}/c/{start // chunk}", data)
    return checksums, known, lengths


def _write_document(
    place: Place, count: int, chunk: int, checksums: Sequence[list[int]], ids_checksums: list[int] | None, _: Sequence[Any]
) -> None:
    """Store the document of the manifests' array, with a checksum of each stored object, and those of the ids.

    They show a lost or damaged object, and they tell these manifests from others: objects can change places while every blob
    of the level, and so the catalog, stays as it was, and what readers keep in memory goes by both.
    """
    made = elements_document(count, chunk, {}) if layout_for(place.layout).has_tables else manifests_document(count, chunk)
    document = json.loads(made)
    if checksums:
        found = [c for part in checksums for c in part]
        marks = found if ids_checksums is None else {"manifests": found, "object_ids": ids_checksums}
        document["attributes"][MANIFESTS_CRC32C] = marks
    objects, path = open_objects(place.handle), join(place.prefix, "object_index/manifests")
    objects.put(f"{path}/{DOCUMENT}", dump_json(document))


# ---------------------------------------------------------------------------------------------- tables


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
        add(f"attribute-{number}", write_object_attribute, name, hold_if_large(values, values.nbytes), present is None)
    if plan.groups:
        nobody = np.zeros(0, np.int64)
        members = [plan.groups.get(g, nobody) for g in range(plan.group_count)]
        add("groups", write_groups, hold_if_large(members, sum(m.nbytes for m in members)), plan.group_names)
    for number, (name, values) in enumerate(plan.group_attributes.items()):
        add(f"group-attribute-{number}", write_group_attribute, name, hold_if_large(values, values.nbytes))
    return out


def write_object_attribute(place: Place, name: str, values: NDArray[Any], whole: bool, _: Sequence[Any] = ()) -> None:
    """Store an object attribute in layout ``grid``, row = row of the index; `whole` where every object has a value."""
    about = {**_described("object_attribute", name, values), "fill_sentinel_meaning": "absent"}
    if whole and values.dtype.kind == "U":
        about[WHOLE_STRINGS] = len(values)
    _write_table(place, f"object_attributes/{name}", values, sentinel(values.dtype), about, _ROWS)


def write_group_attribute(place: Place, name: str, values: NDArray[Any], _: Sequence[Any] = ()) -> None:
    """Store an attribute of groups in layout ``grid``, row = number of the group."""
    about = _described("groupings_attribute", name, values)
    _write_table(place, f"group_attributes/{name}", values, sentinel(values.dtype), about, _ROWS)


def _described(kind: str, name: str, values: NDArray[Any]) -> dict[str, Any]:
    return {"zv_array": kind, "name": name, "dtype": str(values.dtype), "shape": list(values.shape)}


def _write_ids(place: Place, ranges: NDArray[np.int64], _: Sequence[Any]) -> list[int]:
    return _write_table(place, "object_index/object_ids", expand_ranges(ranges).astype("<i8"), _NO_ID, {}, _ROWS)


def _write_table(
    place: Place,
    array: str,
    values: NDArray[Any],
    fill: Any,
    attributes: Mapping[str, Any],
    rows: int,
    _: Sequence[Any] = (),
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


def write_lengths(place: Place, parts: Sequence[Written]) -> None:
    """Store the table of objects and their vertices, ascending by id. Where a length is not known there is no table."""
    ids, lengths = (np.concatenate([p[k] for p in parts]) for k in (1, 2))
    if (lengths < 0).any():
        return
    table = np.stack([ids, lengths], axis=1).astype("<i8")
    about = {"zv_array": "dask_zv_objects", "columns": ["object_id", "vertex_count"], VALUES_CRC32C: values_checksum(table)}
    _write_table(place, OBJECT_LENGTHS, table, _NO_ID, about, _ALL_ROWS)


def write_edge_counts(
    place: Place, results: Sequence[BlockResult], held: NDArray[np.int64] | None = None, adds: bool = False
) -> None:
    """Store how many links the chunks of a level of skeletons have, see :data:`EDGE_COUNTS`.

    Where the write `adds` to a level, these are more than what the level's table, `held`, says; without one there is none.
    """
    found = [r.extra.edges for r in results if isinstance(r.extra, BlockExtra) and r.extra.edges is not None]
    if not found or (adds and held is None):
        return
    table = np.concatenate(found if held is None else [held, *found])
    coords, which = group_by_chunk(table[:, :-1])
    counts = np.zeros(len(coords), np.int64)
    np.add.at(counts, which, table[:, -1])
    table = np.column_stack([coords, counts])
    write_edge_table(place, table[np.lexsort(table[:, -2::-1].T)])


def write_edge_table(place: Place, table: NDArray[np.int64]) -> None:
    """Store a table (n, K + 1) of chunks and the links of each, ascending by chunk."""
    table = np.ascontiguousarray(table, "<i8")
    columns = ["chunk coordinates", "nodes with a parent"]
    about = {"zv_array": EDGE_COUNTS, "columns": columns, VALUES_CRC32C: values_checksum(table)}
    _write_table(place, EDGE_COUNTS, table, _NO_ID, about, _ALL_ROWS)


def write_groups(place: Place, members: Sequence[NDArray[np.int64]], names: Sequence[str], _: Sequence[Any] = ()) -> None:
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
