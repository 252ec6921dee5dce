"""Writing the object index: manifests from the fragments that the blocks report, objects in bounded ranges."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
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
from dask_zv.format.objects import elements_document, manifests_document
from dask_zv.geometry.block import BlockExtra, Fragments
from dask_zv.geometry.links import LinkRecords
from dask_zv.graph.builder import GraphBuilder
from dask_zv.graph.run import hold_if_large
from dask_zv.level.source import MANIFESTS_CRC32C
from dask_zv.spatial.chunks import group_by_chunk
from dask_zv.storage.codecs import crc32c
from dask_zv.storage.handles import open_objects
from dask_zv.storage.layout import layout_for
from dask_zv.storage.specs import BlockResult, Place
from dask_zv.write.object_arrays import write_lengths, write_object_tables
from dask_zv.write.object_plan import ObjectPlan, expand_ranges


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

    Returns what the commit waits for, and the tasks whose results are the links between the pieces of objects (with
    `crossings`) as :class:`~dask_zv.geometry.link_records.LinkRecords`.
    The array's document goes after its cells; where the store wants nodes first, before them as well. In layout grid the
    ids, attributes and groups are written here, too.
    """
    tables: list[TaskRef] = []
    if layout_for(place.layout).has_tables:
        tables = write_object_tables(builder, place, plan, results)
    if plan.count == 0:
        return tables, []
    ids_checksums = tables[0] if tables else None
    tasks = max(1, min(-(-plan.count // settings().objects_per_task), settings().manifest_edges // max(len(results), 1)))
    step = -(-plan.count // tasks)
    step = -(-step // plan.chunk) * plan.chunk

    def add_document(checksums: Sequence[TaskRef], ids: TaskRef | None, after: Sequence[TaskRef]) -> TaskRef:
        key = builder.key("object-index", len(checksums))
        return builder.store(key, write_manifests_document, place, plan.count, plan.chunk, List(*checksums), ids, List(*after))

    before: list[TaskRef] = []
    if place.handle.is_session:
        key = builder.key("object-index")
        args = place, plan.count, plan.chunk, [], None, List(*results)
        before.append(builder.store(key, write_manifests_document, *args, nodes=True))
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
    checksums = [builder.add(builder.key("checksums", i), _checksums, w) for i, w in enumerate(written)]
    lengths = builder.store(builder.key("lengths"), _write_lengths, place, List(*written))
    return [*tables, lengths, add_document(checksums, ids_checksums, [])], crossed


def _fragments_between(result: BlockResult | BlockExtra, first: int, last: int) -> Fragments | None:
    """Return the fragments of the objects from first to last, None of a block without vertices."""
    extra: BlockExtra | None = result.extra if isinstance(result, BlockResult) else result
    if extra is None or extra.fragments is None:
        return None
    found = extra.fragments
    return found.take((found.objects >= first) & (found.objects <= last))


@dataclass(frozen=True, slots=True, eq=False)
class _Written:
    """What is known of some manifests after they were stored."""

    checksums: list[int]  # CRC-32C of each stored object
    ids: NDArray[np.int64]  # (n,)
    lengths: NDArray[np.int64]  # (n,): vertices of each; -1 where that is not known


def _checksums(written: _Written) -> list[int]:
    return written.checksums


def _write_lengths(place: Place, written: Sequence[_Written]) -> None:
    write_lengths(place, [(w.ids, w.lengths) for w in written])


def _gather_fragments(rank: int, pieces: Sequence[Fragments | None]) -> Fragments:
    """Return the fragments of some objects, object by object."""
    found = Fragments.join([p for p in pieces if p is not None], rank)
    # along the object, and where it has no direction by its chunks: whichever block reported first
    return found.take(np.lexsort((found.fragments, *found.coords.T[::-1], found.sequence, found.objects)))


def _crossings(found: Fragments) -> LinkRecords:
    """Return the links from the last vertex of each piece to the first of the next, where that is in another chunk."""
    crosses = (found.objects[1:] == found.objects[:-1]) & (found.coords[1:] != found.coords[:-1]).any(axis=1)
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
) -> _Written:
    """Store the manifests from row `first` on, whose objects `ids` (ranges) are."""
    path = join(place.prefix, "object_index/manifests")
    objects, chunks, fragments = found.objects, found.coords, found.fragments
    known = expand_ranges(ids)
    rows = np.searchsorted(known, objects)
    if (known[rows] != objects).any():
        raise PlanError(
            f"object {objects[known[rows] != objects][0]} was not in the data when the write was planned: the data changes "
            "between two readings; write it from a file or an array that stays as it is",
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
    return _Written(checksums, known, lengths)


def write_manifests_document(
    place: Place, count: int, chunk: int, checksums: Sequence[list[int]], ids_checksums: list[int] | None, _: Sequence[Any]
) -> None:
    """Store the document of the manifests' array, with a checksum of each stored object, and those of the ids.

    The last argument is what the task waits for.

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
