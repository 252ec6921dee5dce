"""The bodies of the tasks in layout ``grid``: store a block of cells, commit."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import PlanError
from dask_zv.format.documents import dump_json
from dask_zv.format.grids import GridSpec, grid_document
from dask_zv.format.keys import DOCUMENT, coords_to_keys
from dask_zv.graph.receipts import Receipt, Report, combine_receipts
from dask_zv.graph.specs import BlockResult, BlockSpec, CommitSpec, make_report, normal_path, normalise, root_lock
from dask_zv.graph.stamps import drop_journal, journal_key, leave_stamp
from dask_zv.spatial.grouping import group_by_chunk
from dask_zv.storage.catalog import CATALOG_NAME
from dask_zv.storage.cell_reads import cell_path
from dask_zv.storage.columns import Columns
from dask_zv.storage.grid import GridArrays
from dask_zv.storage.grid_commit import LAST, CellChanges, GridPlan, catalog_objects, commit_keys, merge_arrays
from dask_zv.storage.grid_single import check_spatial
from dask_zv.storage.grid_writing import StoredArray, store_cells
from dask_zv.storage.handles import open_objects
from dask_zv.storage.locks import commit_lock
from dask_zv.storage.nodes import drop_catalogs, ensure_groups, merged_documents, put_documents
from dask_zv.storage.objects import Objects, join
from dask_zv.storage.replacing import unmark
from dask_zv.storage.snapshot import snapshot

_VERIFICATIONS = 5


def store_in_grid(spec: BlockSpec, plan: GridPlan, payload: Any) -> BlockResult:
    """Store one block's blobs as cells of their arrays."""
    started = time.time()
    blobs, rows = normalise(payload, spec)
    by_array: dict[str, dict[str, bytes]] = {}
    for (array, key), data in blobs.items():
        by_array.setdefault(array, {})[key] = data
    if spec.declared is not None:  # the names of all others were checked where they were made
        for array, named in by_array.items():
            for key in named:
                check_spatial(array, key)
    objects = open_objects(spec.place.handle)
    specs = plan.naming(by_array).specs
    stored = store_cells(objects, spec.place.prefix, specs, by_array, plan.existing)
    return BlockResult.of(payload, _receipt(stored, rows, sum(map(len, blobs.values()))), started)


def _receipt(stored: Mapping[str, StoredArray], rows: Mapping[str, int], nbytes: int) -> Receipt:
    ranks = tuple(sorted({s.coords.shape[1] for s in stored.values() if len(s.coords)}))
    if len(ranks) > 1:
        raise PlanError(f"a block has chunk keys of the ranks {ranks}: the arrays of a group have one")
    rank = ranks[0] if ranks else 0
    parts = [s.coords.reshape(-1, rank) for s in stored.values() if len(s.coords)]
    coords, number = group_by_chunk(np.concatenate(parts)) if parts else (np.zeros((0, rank), np.int64), np.zeros(0, np.int64))
    arrays: dict[str, Columns] = {}
    start = 0
    for array, found in stored.items():
        at = number[start : start + len(found.coords)]
        start += len(at)
        arrays[array] = Columns.spread(len(coords), at, found.columns)
    known = np.array([rows.get(k, -1) for k in coords_to_keys(coords)], np.int64)
    return Receipt(
        coords,
        known,
        arrays,
        (),
        ranks,
        nbytes,
        sum(s.objects for s in stored.values()),
        {a: frozenset(coords_to_keys(s.coords[s.kept])) for a, s in stored.items() if s.kept.any()},
        {a: frozenset(s.emptied) for a, s in stored.items() if s.emptied},
    )


def make_nodes(objects: Objects, prefix: str, specs: Mapping[str, GridSpec]) -> None:
    """Write the documents of arrays that are new or get another grid, listing no chunk yet, and the groups above them."""
    held = GridArrays(objects, prefix).arrays(specs)
    ensure_groups(objects, sorted({join(prefix, a).rpartition("/")[0] for a in specs}))
    for array, grid in specs.items():
        found = held[array]
        if found is None or found.spec != grid:
            objects.put(join(prefix, array, DOCUMENT), dump_json(grid_document(grid, {}, ())))


def commit_grid(spec: CommitSpec, plan: GridPlan, results: Sequence[BlockResult]) -> Report:
    """Write the documents and the catalog that make the stored cells the group's content, and return the report.

    A group's writers take turns: what others committed since this batch was planned is merged with, not replaced.
    """
    started = time.time()
    prefix = spec.place.prefix
    store = open_objects(spec.place.handle)
    total = combine_receipts([r.receipt for r in results])
    changes = CellChanges(total.coords, total.rows, total.arrays, total.kept, total.emptied)
    plan = plan.naming(total.arrays)
    attributes = spec.told_by(results)
    metadata = {path: found for path, found in attributes.items() if path in plan.specs}
    others = [(path, found) for path, found in attributes.items() if path not in plan.specs]
    paths = [normal_path(prefix, path) for path, _ in others]
    with commit_lock(store, prefix) as locked, root_lock(store, spec):
        wanted = [*commit_keys(prefix, plan.specs), *(join(p, DOCUMENT) for p in paths), journal_key(prefix)]
        objects = snapshot(store, wanted)
        # groups above and below may have catalogs that speak of these arrays, too
        drop_catalogs(objects, [join(prefix, a) for a in plan.specs], keep=prefix)
        before = GridArrays(objects, prefix).arrays(plan.specs) if spec.replace else {}
        whole = spec.replace or plan.alone
        locked.check()
        changes_of = [(path, a) for path, (_, a) in zip(paths, others, strict=True)]
        told = merged_documents(objects, changes_of, {normal_path(prefix, ".."): spec.root} if spec.root else None)
        catalog, nodes, complete = merge_arrays(objects, prefix, plan, changes, metadata, whole=whole, before_last=told)
        if (not locked or store.looks_first) and not store.nodes_first:
            _verify(store, prefix, plan, changes, metadata)
        puts: list[tuple[str, bytes]] = []
        if not complete:  # what the catalog says is no longer all: refresh() makes a new one
            objects.delete_prefix(join(prefix, CATALOG_NAME))
        elif plan.specs or whole:  # a batch of nothing leaves no trace
            puts += catalog_objects(objects, prefix, None if whole else catalog, nodes, changes)
        if LAST not in plan.specs:
            puts += told
        locked.check()
        put_documents(objects, puts)
        if plan.marker and not store.nodes_first:
            unmark(store, prefix, None if whole else plan.marker)
    if spec.replace:
        _remove_cells(store, prefix, plan, before, changes, found=spec.sweep)
        _remove_members(store, prefix, spec.families, plan.specs)
    for path in spec.remove:
        store.delete_prefix(normal_path(prefix, path))
    if spec.replace:
        _remove_empty_groups(store, prefix, spec.families)
    leave_stamp(store, prefix, spec.stamp)
    drop_journal(store, prefix, objects)
    return make_report(spec, total, results, started)


def _verify(
    objects: Objects, prefix: str, plan: GridPlan, changes: CellChanges, metadata: Mapping[str, Mapping[str, Any]]
) -> None:
    """Look whether what was written is still there, where no lock kept other writers away; write it again where it isn't.

    Raises
    ------
    PlanError
        Another writer keeps replacing the documents.
    """
    for attempt in range(_VERIFICATIONS):
        time.sleep(0.01 * 2**attempt if attempt else 0)
        now = GridArrays(objects, prefix).arrays(plan.specs)
        lost = [a for a, found in now.items() if found is None or not changes.added(a) <= (found.nonempty or frozenset())]
        if not lost:
            return
        merge_arrays(objects, prefix, plan, changes, metadata, whole=False)
    raise PlanError(
        "another writer replaces the array's document at the same time, and this store has no lock: write one after the other",
        store=objects.url, array=join(prefix, lost[0]),
    )  # fmt: skip


def _remove_cells(
    objects: Objects, prefix: str, plan: GridPlan, before: Mapping[str, Any], changes: CellChanges, *, found: bool
) -> None:
    """Remove the objects of cells that the arrays held before and this batch did not write; where `found`, all there are."""
    gone: list[str] = []
    for array, held in before.items():
        path = join(prefix, array)
        if held is None:
            continue
        columns = changes.arrays.get(array)
        now = changes.coords[columns.have] if columns is not None else np.zeros((0, plan.specs[array].rank), np.int64)
        kept = _object_paths(path, plan.specs[array], now)
        listed = np.array(sorted(tuple(map(int, k.split("."))) for k in held.nonempty or ()), np.int64)
        gone += _object_paths(path, held.spec, listed.reshape(-1, held.spec.rank)) - kept
        if found:
            gone += set(objects.list_prefix(f"{path}/c")) - kept
    if gone:
        objects.delete_many(sorted(set(gone)))


def _remove_members(objects: Objects, prefix: str, families: Sequence[str], keep: Collection[str]) -> None:
    """Remove the chunk arrays below some groups that are not among those to keep, and groups that are left without any."""
    for family in families:
        if not any(a.startswith(f"{family}/") for a in keep):
            objects.delete_prefix(join(prefix, family))
            continue
        for name in objects.list_dir(join(prefix, family)):
            if name != DOCUMENT and f"{family}/{name}" not in keep:
                objects.delete_prefix(join(prefix, family, name))


def _remove_empty_groups(objects: Objects, prefix: str, families: Sequence[str]) -> None:
    """Remove the groups above families, where nothing is left in them."""
    for above in dict.fromkeys(family.rpartition("/")[0] for family in families):
        while above and all(name == DOCUMENT for name in objects.list_dir(join(prefix, above))):
            objects.delete_prefix(join(prefix, above))
            above = above.rpartition("/")[0]


def _object_paths(path: str, spec: Any, coords: NDArray[np.int64]) -> set[str]:
    coords = coords[spec.contains(coords)] if len(coords) else coords.reshape(-1, spec.rank)
    cells = spec.cells_of(coords)
    where = cells if spec.shard_shape is None else spec.shards_of(cells)[0]
    return {cell_path(path, c) for c in where.tolist()}
