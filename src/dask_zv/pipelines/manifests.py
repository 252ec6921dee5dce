"""Writing the object index: manifests from the fragments that the blocks report, objects in bounded ranges."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask.task_spec import List, TaskRef
from numcodecs.vlen import VLenBytes
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from dask_zv.batch.graph import GraphBuilder
from dask_zv.batch.tasks import BlockResult, Place
from dask_zv.errors import InputError
from dask_zv.format.documents import dump_json, manifests_document
from dask_zv.format.groups import encode_groups
from dask_zv.format.keys import DOCUMENT
from dask_zv.format.manifests import encode_manifests
from dask_zv.pipelines.inputs import series_values
from dask_zv.pipelines.level_io import MANIFESTS_CRC32C
from dask_zv.pipelines.scan import id_ranges, merge_ranges
from dask_zv.storage.handles import open_objects
from dask_zv.storage.objects import join
from dask_zv.storage.per_chunk import crc32c

__all__ = ["ObjectPlan", "object_blobs", "object_metadata", "plan_objects", "write_object_index"]

_CHUNK = 1 << 14
_OBJECTS_PER_TASK = 16 * _CHUNK
_MOST_EDGES = 20_000
_MOST_GROUPS = 10_000_000


@dataclass(frozen=True, slots=True, eq=False)
class ObjectPlan:
    """The objects of a level.

    Attributes
    ----------
    count : int
        Ids are 0 to ``count - 1``.
    attributes : mapping of str to (values, present)
        Row = id; `present` is None where all objects have a value.
    groups : mapping of int to ids
    """

    count: int
    attributes: Mapping[str, tuple[NDArray[Any], NDArray[np.bool_] | None]]
    groups: Mapping[int, NDArray[np.int64]]

    @property
    def chunk(self) -> int:
        """Manifests to a stored object."""
        return min(_CHUNK, max(self.count, 1))


def plan_objects(ids: NDArray[np.int64], object_attributes: Any, groups: Mapping[int, Sequence[int]] | None) -> ObjectPlan:
    """Check that ids are dense and that attributes and groups speak of them.

    Parameters
    ----------
    ids : ndarray of int64, shape (m, 2)
        Ranges [start, stop) of the ids that have vertices.
    object_attributes : DataFrame indexed by id, mapping of name to array with row = id, or None
    groups : mapping of group number to object ids, or None

    Raises
    ------
    InputError
        Ids have gaps, an attribute is no numeric column of the right length, a group names an unknown object.
    """
    columns, index = _object_columns(object_attributes)
    if index is not None:
        ids = merge_ranges([ids, id_ranges(index)])
    gaps = len(ids) > 1 or (len(ids) == 1 and int(ids[0, 0]) != 0)
    if gaps:
        first_gap = 0 if int(ids[0, 0]) else int(ids[0, 1])
        raise InputError(
            f"object ids must be 0 to n-1 without gaps, {first_gap} is missing: layout per_chunk (ZV 0.7) numbers objects by "
            "their rows. Map them first, and keep the map, e.g. "
            "names, object_ids = numpy.unique(object_ids, return_inverse=True)"
        )
    count = int(ids[0, 1]) if len(ids) else 0
    attributes: dict[str, tuple[NDArray[Any], NDArray[np.bool_] | None]] = {}
    for name, values in columns.items():
        if index is None:
            if len(values) != count:
                raise InputError(f"object attribute {name!r} has {len(values):,} rows for {count:,} objects (row = object id)")
            attributes[name] = values, None
            continue
        full = np.zeros((count, *values.shape[1:]), values.dtype)
        present = np.zeros(count, bool)
        full[index], present[index] = values, True
        attributes[name] = full, None if present.all() else present
    return ObjectPlan(count, attributes, _check_groups(groups, count))


def _check_groups(groups: Mapping[int, Sequence[int]] | None, count: int) -> dict[int, NDArray[np.int64]]:
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
        wrong = (ids < 0) | (ids >= count) if len(ids) else np.zeros(0, bool)
        if wrong.any():
            raise InputError(f"group {group} names object {ids[wrong][0]}, ids are 0 to {count - 1}")
        out[int(group)] = ids.astype(np.int64)
    return out


def _object_columns(object_attributes: Any) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64] | None]:
    if object_attributes is None:
        return {}, None
    index = None
    if hasattr(object_attributes, "columns") and hasattr(object_attributes, "index"):
        index = np.asarray(object_attributes.index)
        if index.dtype.kind not in "iu" or len(np.unique(index)) != len(index) or (len(index) and int(index.min()) < 0):
            raise InputError("object_attributes must be indexed by distinct object ids")
        items = [(str(c), series_values(str(c), object_attributes[c])) for c in object_attributes.columns]
        index = index.astype(np.int64)
    elif isinstance(object_attributes, Mapping):
        items = [(str(k), np.asarray(v)) for k, v in object_attributes.items()]
    else:
        raise InputError("object_attributes is a DataFrame indexed by object id, or a mapping of name to array")
    out: dict[str, NDArray[Any]] = {}
    for name, values in items:
        if (
            not name
            or "/" in name
            or "\\" in name
            or name in (".", "..", DOCUMENT)
            or values.dtype.kind not in "biuf"
            or not values.ndim
        ):
            raise InputError(
                f"object attribute {name!r} ({values.dtype} {values.shape}): numbers or booleans, and a name without '/'"
            )
        out[name] = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return out, index


def object_blobs(plan: ObjectPlan) -> list[tuple[str, str, bytes]]:
    """Return the blobs of object attributes and groups, as (array, key, payload)."""
    out: list[tuple[str, str, bytes]] = []
    for name, (values, present) in plan.attributes.items():
        out.append((f"object_attributes/{name}", "data", values.tobytes()))
        if present is not None:
            out.append((f"object_attributes/{name}", "present_mask", present.astype(np.uint8).tobytes()))
    if plan.groups:
        nobody = np.zeros(0, np.int64)
        data, offsets = encode_groups([plan.groups.get(g, nobody) for g in range(max(plan.groups) + 1)])
        out += [("groups", "data", data), ("groups", "offsets", offsets)]
    return out


def object_metadata(plan: ObjectPlan, rank: int) -> list[tuple[str, dict[str, Any]]]:
    """Return (array, attributes) of the object arrays' nodes."""
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
        out.append(("groups", {"zv_array": "groups", "num_groups": max(plan.groups) + 1}))
    index = {"zv_array": "object_index", "num_objects": plan.count, "sid_ndim": rank, "layout": "vlen_manifests_v1"}
    return [*out, ("object_index", index)]


def write_object_index(
    builder: GraphBuilder, place: Place, plan: ObjectPlan, rank: int, results: Sequence[TaskRef], *, nodes_first: bool
) -> list[TaskRef]:
    """Add the tasks that write the manifests from what the blocks report; return what the commit waits for.

    The array's document goes after its cells; where the store wants nodes first, before them as well.
    """
    if plan.count == 0:
        return []
    tasks = max(1, min(-(-plan.count // _OBJECTS_PER_TASK), _MOST_EDGES // max(len(results), 1)))
    step = -(-plan.count // tasks)
    step = -(-step // plan.chunk) * plan.chunk

    def add_document(checksums: Sequence[TaskRef], after: Sequence[TaskRef]) -> TaskRef:
        key = builder.key("object-index", len(checksums))
        return builder.add(key, write_manifests_document, place, plan.count, plan.chunk, List(*checksums), List(*after))

    before = [add_document([], results)] if nodes_first else []
    written: list[TaskRef] = []
    for i, first in enumerate(range(0, plan.count, step)):
        last = min(first + step, plan.count)
        pieces: list[Any] = list(results)
        if step < plan.count:
            pieces = [
                builder.add(builder.key("fragments", f"{b}-{i}"), _fragments_between, r, first, last)
                for b, r in enumerate(results)
            ]
        key = builder.key("manifests", i)
        written.append(builder.add(key, _write_manifests, place, plan.chunk, rank, first, last, List(*pieces), List(*before)))
    return [add_document(written, [])]


Fragments = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def _fragments_between(result: BlockResult | Fragments | None, first: int, last: int) -> Fragments | None:
    """Return (objects, chunks, fragments) of the objects in [first, last), None of a block without vertices."""
    extra = result.extra if isinstance(result, BlockResult) else result
    if extra is None:
        return None
    objects, chunks, fragments = extra
    keep = (objects >= first) & (objects < last)
    return objects[keep], chunks[keep], fragments[keep]


def _write_manifests(
    place: Place,
    chunk: int,
    rank: int,
    first: int,
    last: int,
    pieces: Sequence[BlockResult | Fragments | None],
    _: Sequence[None],
) -> list[int]:
    """Store the manifests of the objects in [first, last); return the CRC-32C of each stored object."""
    found = [f for p in pieces if (f := _fragments_between(p, first, last)) is not None]
    objects = np.concatenate([f[0] for f in found]) if found else np.zeros(0, np.int64)
    chunks = np.concatenate([f[1] for f in found]) if found else np.zeros((0, rank), np.int64)
    fragments = np.concatenate([f[2] for f in found]) if found else np.zeros(0, np.int64)
    # an object's fragments in ascending order of their chunks, whichever block reported first
    order = np.lexsort((fragments, *chunks.T[::-1], objects))
    objects, chunks, fragments = objects[order], chunks[order], fragments[order]
    codec, vlen = Zstd(level=0), VLenBytes()
    checksums: list[int] = []
    store = open_objects(place.handle)
    path = join(place.prefix, "object_index/manifests")
    for start in range(first, last, chunk):
        stop = min(start + chunk, last)
        low, high = np.searchsorted(objects, [start, stop])
        blobs = encode_manifests(objects[low:high], chunks[low:high], fragments[low:high], first=start, count=stop - start)
        cells = np.full(chunk, b"", object)  # Zarr stores the last chunk in full length
        cells[: stop - start] = blobs
        data = bytes(codec.encode(vlen.encode(cells)))
        checksums.append(crc32c(data))
        store.put(f"{path}/c/{start // chunk}", data)
    return checksums


def write_manifests_document(place: Place, count: int, chunk: int, checksums: Sequence[list[int]], _: Sequence[Any]) -> None:
    """Store the document of the manifests' array, with a checksum of each stored object.

    The last argument is what the task waits for.

    They show a lost or damaged object, and they tell these manifests from others: objects can change places while every blob
    of the level, and so the catalog, stays as it was, and what readers keep in memory goes by both.
    """
    document = json.loads(manifests_document(count, chunk))
    if checksums:
        document["attributes"][MANIFESTS_CRC32C] = [c for part in checksums for c in part]
    open_objects(place.handle).put(join(place.prefix, f"object_index/manifests/{DOCUMENT}"), dump_json(document))
