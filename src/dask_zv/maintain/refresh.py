"""Rebuilding the catalog of levels that have none, or whose chunks another tool changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from dask.task_spec import List

from dask_zv.config import settings
from dask_zv.format.keys import is_spatial_key, parse_key
from dask_zv.format.shards import shard_id
from dask_zv.geometry.points import decode_positions
from dask_zv.geometry.schema import VERTICES
from dask_zv.graph.builder import GraphBuilder
from dask_zv.graph.receipts import Report
from dask_zv.graph.run import check_reachable, compute_one
from dask_zv.graph.tasks import commit
from dask_zv.level.chunk_boxes import check_positions
from dask_zv.level.contents import LevelContents, StoreContents
from dask_zv.level.source import LevelSource
from dask_zv.maintain.refresh_grid import rebuild_grid_catalog
from dask_zv.maintain.refresh_tables import rebuild_tables
from dask_zv.storage.catalog import CATALOG_NAME
from dask_zv.storage.handles import open_objects
from dask_zv.storage.local import sweep
from dask_zv.storage.per_chunk.read import PerChunk
from dask_zv.storage.per_chunk.write import look_at_blobs
from dask_zv.storage.receipts import Receipt
from dask_zv.storage.specs import BlockResult, CommitSpec, Place


def rebuild_catalogs(store: StoreContents) -> None:
    """Read every blob of every level once, and write the catalogs anew; one graph a level on the active scheduler.

    Raises
    ------
    StoreError, FormatError
        A blob is damaged; the message names it, and the old catalog is gone.
    """
    check_reachable(store.handle)
    sweep(open_objects(store.handle), store.prefix)
    store.reload()
    for number in store.levels:
        _rebuild(store.level(number))
    store.reload()
    for number in store.levels:
        rebuild_tables(store.level(number))


def _rebuild(level: LevelContents) -> None:
    if level.place.layout == "grid":
        rebuild_grid_catalog(level)
        return
    place = level.place
    group = level.group
    group.delete_subtree(CATALOG_NAME)
    arrays = tuple(a for a in level.source.schema.arrays if group.array_exists(a))
    root = level.store.metadata
    blobs = PerChunk(open_objects(place.handle), place.prefix, room=level.metadata.room(root.chunk_shape, root.bounds))
    for array in arrays:
        blobs.listing(array)
    keys = {a: [k for k in group.list_chunks(a) if is_spatial_key(k)] for a in arrays}
    wanted = sorted({k for found in keys.values() for k in found})
    if any(_has_foreign_shards(place, a) for a in arrays):
        return  # such shards are read through their own index; a catalog without them would hide their chunks
    builder = GraphBuilder("zv-refresh")
    have = {a: frozenset(found) for a, found in keys.items()}
    receipts = []
    for start in range(0, len(wanted), settings().pass_chunks):
        block = wanted[start : start + settings().pass_chunks]
        addresses = [(a, k) for k in block for a in arrays if k in have[a]]
        receipts.append(builder.add(builder.key("block", start), _look, level.source, addresses))
    end = builder.key("commit")
    spec = CommitSpec(place, (), (), catalog=True, replace=False, remove=(), report=Report(-1, 0, 0, 0, 0, 0, 0.0))
    builder.add(end, _commit, spec, List(*receipts))
    compute_one(builder.finish(end))


def _blobs(place: Place) -> PerChunk:
    return PerChunk(open_objects(place.handle), place.prefix)


def _has_foreign_shards(place: Place, array: str) -> bool:
    entries = _blobs(place).listing(array).entries.values()
    return any(crc is None or shard_id(name) is None for name, (_, _, crc) in entries)


def _look(source: LevelSource, addresses: Sequence[tuple[str, str]]) -> Receipt:
    def count(found: Mapping[tuple[str, str], bytes]) -> dict[str, int]:
        rows: dict[str, int] = {}
        for (array, key), data in found.items():
            if array == VERTICES:
                positions = decode_positions(source.schema, key, data)
                rows[key] = len(positions)
                check_positions(
                    source, np.array([parse_key(key)]), np.array([rows[key]]), positions
                )  # the catalog vouches for it
        return rows

    return look_at_blobs(_blobs(source.place), addresses, count)


def _commit(spec: CommitSpec, receipts: Sequence[Receipt]) -> Report:
    return commit(spec, [BlockResult(r, 0.0, 0.0) for r in receipts])
