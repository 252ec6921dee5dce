"""Making stored cells visible: the arrays' documents, and the catalog beside them."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import PlanError, StoreError
from dask_zv.format.documents import dump_json
from dask_zv.format.grids import NONEMPTY, ORIGIN, GridArray, GridSpec, grid_document, listed_coords, parse_grid_document
from dask_zv.format.keys import DOCUMENT, coords_to_keys, join, parse_key
from dask_zv.spatial.grouping import group_by_chunk
from dask_zv.storage.catalog import CATALOG_NAME, Catalog, Node, catalog_document, encode_catalog, merge_catalog
from dask_zv.storage.grid.fetch import cell_path
from dask_zv.storage.grid.plan import GridPlan, check_spatial, commit_keys, grid_for, lists_digest, without_grid
from dask_zv.storage.grid.read import GridArrays
from dask_zv.storage.grid.settings import default_grid, is_family
from dask_zv.storage.grid.shards import StoredArray, store_cells
from dask_zv.storage.handles import open_objects
from dask_zv.storage.locks import commit_lock
from dask_zv.storage.marks import drop_journal, journal_key, leave_stamp, mark, unmark
from dask_zv.storage.nodes import (
    drop_catalogs,
    ensure_groups,
    kind_of,
    load_catalog,
    merge_attributes,
    merged_documents,
    put_documents,
    read_document,
)
from dask_zv.storage.objects import Objects, snapshot
from dask_zv.storage.receipts import COLUMNS, Columns, Receipt, combine_receipts
from dask_zv.storage.specs import BlockResult, BlockSpec, CommitSpec, normal_path, normalise, root_lock


def write_cell(objects: Objects, prefix: str, array: str, key: str, payload: bytes) -> None:
    """Store one chunk and list it in the array's document; an empty payload makes it absent."""
    check_spatial(array, key)
    with commit_lock(objects, prefix):
        objects = snapshot(objects, commit_keys(prefix, [array]))
        document = read_document(objects, join(prefix, array))
        held = None if document is None else parse_grid_document(document, join(prefix, array), objects.url)
        if document is not None and held is None:
            raise StoreError(f"'/{join(prefix, array)}' is {kind_of(document)}, not an array of chunks", store=objects.url)
        spec = held.spec if held is not None else grid_for(objects, prefix, array, {}, default_grid(objects, prefix))
        if held is None and objects.nodes_first:
            path = join(prefix, array)
            spec.cells_of(np.array([parse_key(key)], np.int64), path)
            ensure_groups(objects, [path.rpartition("/")[0]])
            objects.put(join(path, DOCUMENT), dump_json(grid_document(spec, {}, ())))
        stored = store_cells(objects, prefix, {array: spec}, {array: {key: payload}}, {array} if held is not None else ())[
            array
        ]
        drop_catalogs(objects, [join(prefix, array)])  # they would no longer say what is here
        if held is not None and held.nonempty is not None and (key in held.nonempty) == bool(payload):
            return
        changes = CellChanges(
            stored.coords[~stored.kept],
            np.full(int((~stored.kept).sum()), -1, np.int64),
            {array: stored.columns.take(np.flatnonzero(~stored.kept))},
            {},
            {array: frozenset(stored.emptied)},
        )
        known = {array: held} if held is not None else {}
        plan = GridPlan({array: spec}, frozenset(known), listed=lists_digest(known))  # as it is: nobody else writes now
        merge_arrays(objects, prefix, plan, changes, {}, whole=False)


def write_grid_meta(objects: Objects, prefix: str, array: str, meta: Mapping[str, Any]) -> None:
    """Merge metadata into an array's attributes; an absent array is made, with the grid that metadata or group name."""
    path = join(prefix, array)
    with commit_lock(objects, prefix):
        document = read_document(objects, path)
        if document is not None:
            held = parse_grid_document(document, path, objects.url)
            merge_attributes(objects, path, meta if held is None else without_grid(meta, held.spec, path, objects.url))
            return
        base = None if "shape" in meta and "codecs" in meta else default_grid(objects, prefix)
        if is_family(meta) or ("shape" not in meta and base is None):
            merge_attributes(objects, path, meta)
            return
        spec = grid_for(objects, prefix, array, meta, base)
        ensure_groups(objects, [path.rpartition("/")[0]])
        attributes = {k: v for k, v in meta.items() if k not in ("shape", ORIGIN)}
        objects.put(join(path, DOCUMENT), dump_json(grid_document(spec, attributes, ())))


_OF_CONTENT = ("zv_array", "dtype", "encoding", "name", "row_shape", "channel_names", "categories", "ordered", "_FillValue",
               "declared_categorical")  # fmt: skip
"""Attributes that describe what an array holds, and go with it; others, of other tools, stay when it is replaced."""
_REFUSED = "refused"
"""Name of the mark that a batch leaves which came too late."""
LAST = "vertices"
"""The array whose list of chunks is written last: whoever sees a chunk in it finds the chunk in the others."""


@dataclass(frozen=True, slots=True, eq=False)
class CellChanges:
    """What a commit has to tell: the chunks that were stored, row-aligned."""

    coords: NDArray[np.int64]  # shape (n, K)
    rows: NDArray[np.int64]  # shape (n,)
    arrays: Mapping[str, Columns]
    kept: Mapping[str, frozenset[str]]  # chunks of shards that were stored again with others, and are no news
    emptied: Mapping[str, frozenset[str]]

    def added(self, array: str) -> set[str]:
        """Return the keys that become chunks of `array`."""
        columns = self.arrays.get(array)
        keys = set() if columns is None else set(coords_to_keys(self.coords[columns.have]))
        return keys - self.kept.get(array, frozenset())


def merge_arrays(
    objects: Objects,
    prefix: str,
    plan: GridPlan,
    changes: CellChanges,
    metadata: Mapping[str, Mapping[str, Any]],
    *,
    whole: bool,
    before_last: Sequence[tuple[str, bytes]] = (),
) -> tuple[Catalog | None, dict[str, Node], bool]:
    """Write the documents of a group's arrays so that they list what was stored, too.

    `metadata`: merged into the arrays' own; with `whole`, all that they have; `whole`: the batch is the whole content of its
    arrays; `before_last`: stored before :data:`LAST`, where the batch writes that: whoever sees the chunks in its list finds
    these. Returns catalog, nodes, complete: the group's catalog as it was, None where it did not agree with the documents or
    there was none; the new documents; and whether a catalog of these can be written.
    """
    now = GridArrays(objects, prefix)
    catalog = load_catalog(objects, prefix)
    held = now.arrays(plan.specs)
    meanwhile = plan.alone or (whole and catalog is not None and catalog.token != plan.token)
    if meanwhile and any(a is not None and a.nonempty for a in held.values()) and not _is_own(plan, changes, held, catalog):
        mark(objects, prefix, _REFUSED)  # cells of this batch may lie among theirs: who reads one is told
        raise PlanError(
            "another writer has written this level since the write was planned: one writer at a time; look at what is "
            "there, and write again with mode='overwrite'",
            store=objects.url, array=prefix,
        )  # fmt: skip
    if catalog is not None and not whole:
        agreed = GridArrays(objects, prefix, catalog)
        known = agreed.catalogued(catalog.nodes)
        if len(known) < len(catalog.nodes) or any(
            # where nodes come first, new arrays have a document already that lists nothing
            a is not None and n not in known and (n in plan.existing or a.nonempty != frozenset())
            for n, a in held.items()
        ):
            catalog = None
        elif catalog.token != plan.token:
            by_now = {n: catalog.coords[catalog.chunks_of(n)] for n in changes.arrays if n in catalog.arrays}
            _check_shared_shards(objects, prefix, plan, changes, by_now)
    if catalog is None and not whole and lists_digest(held) != plan.listed:
        by_now = {n: listed_coords(a.nonempty or (), a.spec.rank) for n, a in held.items() if a is not None}
        _check_shared_shards(objects, prefix, plan, changes, by_now)
    documents: dict[str, dict[str, Any]] = {}
    for array, spec in plan.specs.items():
        documents[array] = _merged(objects, prefix, array, spec, held[array], changes, metadata.get(array, {}), whole=whole)
    parents = {join(prefix, a).rpartition("/")[0] for a in documents}
    ensure_groups(objects, sorted(parents))
    order = sorted(documents, key=lambda a: (a == LAST, a))
    nodes = {}
    waves = [order[:-1], order[-1:]] if LAST in documents and len(order) > 1 else [order]
    for wave in waves:
        if wave[-1:] == [LAST]:
            put_documents(objects, before_last)
        identities = objects.put_identified((join(prefix, a, DOCUMENT), dump_json(documents[a])) for a in wave)
        for array, identity in zip(wave, identities, strict=True):
            attributes = {k: v for k, v in documents[array]["attributes"].items() if k != NONEMPTY}
            nodes[array] = Node({**documents[array], "attributes": attributes}, identity)
    # an array whose chunks were there before is in a catalog only with all of them
    complete = catalog is not None or whole or not any(a is not None and a.nonempty != frozenset() for a in held.values())
    return catalog, nodes, complete


def _is_own(plan: GridPlan, changes: CellChanges, held: Mapping[str, GridArray | None], catalog: Catalog | None) -> bool:
    """Tell whether what is there is what this very batch has committed before: its graph runs again, or its last task does."""
    if catalog is not None and any(c.have.any() for n, c in catalog.arrays.items() if n not in plan.specs):
        return False
    rows = None if catalog is None else catalog.find(changes.coords)
    for array, found in held.items():
        if found is None or not found.nonempty:
            continue
        if found.spec != plan.specs[array] or found.nonempty != changes.added(array):
            return False
        theirs, mine = None if catalog is None else catalog.arrays.get(array), changes.arrays[array]
        if theirs is None or rows is None:
            continue  # the last task died before the catalog
        at, have = rows[mine.have], mine.have
        if (at < 0).any() or any((theirs[kind][at] != mine[kind][have]).any() for kind in ("nbytes", "stored", "crc")):
            return False
    return True


def _merged(
    objects: Objects,
    prefix: str,
    array: str,
    spec: GridSpec,
    held: GridArray | None,
    changes: CellChanges,
    metadata: Mapping[str, Any],
    *,
    whole: bool,
) -> dict[str, Any]:
    """Return the new document of one array."""
    added = changes.added(array)
    if held is None or whole:
        others = {} if held is None else {k: v for k, v in held.attributes.items() if k not in {*_OF_CONTENT, *metadata}}
        return grid_document(spec, {**metadata, **others}, added)  # in this order: a commit that runs twice writes the same
    if replace(held.spec, shape=spec.shape) != spec:
        raise PlanError(
            "another writer made or changed this array since the batch was planned: its origin, shards or codecs are others; "
            "plan the write again",
            store=objects.url, array=join(prefix, array),
        )  # fmt: skip
    grown = tuple(max(a, b) for a, b in zip(held.spec.shape, spec.shape, strict=True))
    listed = set(held.nonempty if held.nonempty is not None else GridArrays(objects, prefix).list_keys(array))
    listed = (listed | added) - changes.emptied.get(array, frozenset())
    return grid_document(replace(spec, shape=grown), {**held.attributes, **metadata}, listed)


def _check_shared_shards(
    objects: Objects, prefix: str, plan: GridPlan, changes: CellChanges, by_now: Mapping[str, NDArray[np.int64]]
) -> None:
    """Raise where another writer, since the batch was planned, committed chunks to a shard that this batch stored.

    `by_now` are the chunks that each array lists now.
    """
    for array, columns in changes.arrays.items():
        spec = plan.specs[array]
        others = by_now.get(array)
        if spec.shard_shape is None or others is None:
            continue
        mine = changes.coords[columns.have]
        shards = spec.shards_of(spec.cells_of(mine))[0]
        own = {tuple(s) for s in shards.tolist()}
        stamps = dict(zip(map(tuple, shards.tolist()), columns["stamp"][columns.have].tolist(), strict=True))
        of_others = spec.shards_of(spec.cells_of(others))[0]
        known = {tuple(c) for c in mine.tolist()}
        lost = [
            c for c, s in zip(others.tolist(), of_others.tolist(), strict=True) if tuple(s) in own and tuple(c) not in known
        ]
        at = sorted(own)
        found = objects.stamps([cell_path(join(prefix, array), s) for s in at])
        changed = [s for s, f in zip(at, found, strict=True) if stamps[s] and (f is None or f[1] != stamps[s])]
        if lost or changed:
            where = ".".join(map(str, lost[0])) if lost else f"of shard {list(changed[0])}"
            raise PlanError(
                "another writer committed chunks to a shard that this batch wrote at the same time, so that one of them is "
                "lost: let one writer own a shard (blocks of whole shards), and write both again",
                store=objects.url, array=join(prefix, array), chunk=where,
            )  # fmt: skip


def catalog_objects(
    objects: Objects,
    prefix: str,
    old: Catalog | None,
    nodes: Mapping[str, Node],
    changes: CellChanges,
) -> list[tuple[str, bytes]]:
    """Return the objects of the catalog of a group: what it had, and what was stored."""
    arrays: dict[str, Columns] = {}
    for name in nodes:
        columns = changes.arrays.get(name)
        arrays[name] = Columns.empty(len(changes.coords)) if columns is None else columns
        unlisted = changes.kept.get(name, frozenset()) - _keys_of(old, name)
        if unlisted:  # cells of a writer that died before its commit were kept in their shard, but nobody lists them
            drop = np.fromiter((k in unlisted for k in coords_to_keys(changes.coords)), bool, len(changes.coords))
            arrays[name] = _without(arrays[name], drop)
    merged = merge_catalog(old, changes.coords, changes.rows, arrays, nodes)
    for name, emptied in changes.emptied.items():
        if emptied and name in merged.arrays:
            drop = np.fromiter((k in emptied for k in coords_to_keys(merged.coords)), bool, len(merged))
            merged = replace(merged, arrays={**merged.arrays, name: _without(merged.arrays[name], drop)})
    payload = encode_catalog(_tidied(merged))
    path = join(prefix, CATALOG_NAME)
    return [(join(path, DOCUMENT), catalog_document(len(payload))), (f"{path}/c/0", payload)]


def _keys_of(catalog: Catalog | None, array: str) -> set[str]:
    return set() if catalog is None else set(coords_to_keys(catalog.coords[catalog.chunks_of(array)]))


def _without(columns: Columns, drop: NDArray[np.bool_]) -> Columns:
    empty = Columns.empty(len(drop))
    return Columns({kind: np.where(drop, empty[kind], columns[kind]) for kind in COLUMNS})


def _tidied(catalog: Catalog) -> Catalog:
    """Return the catalog without chunks that no array has."""
    if not catalog.arrays or not len(catalog):
        return catalog
    have = np.zeros(len(catalog), bool)
    for columns in catalog.arrays.values():
        have |= columns.have
    if have.all():
        return catalog
    order = np.flatnonzero(have)
    arrays = {n: c.take(order) for n, c in catalog.arrays.items()}
    return replace(catalog, coords=catalog.coords[order], rows=catalog.rows[order], arrays=arrays)


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


def commit_grid(spec: CommitSpec, plan: GridPlan, results: Sequence[BlockResult]) -> Receipt:
    """Write the documents and the catalog that make the stored cells the group's content; return the receipt of all.

    A group's writers take turns: what others committed since this batch was planned is merged with, not replaced.
    """
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
    return total


def _verify(
    objects: Objects, prefix: str, plan: GridPlan, changes: CellChanges, metadata: Mapping[str, Mapping[str, Any]]
) -> None:
    """Look whether what was written is still there, where no lock kept other writers away; write it again where it isn't."""
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
