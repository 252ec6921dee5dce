"""Storing in layout ``grid``: blocks of cells, and what makes them visible, the documents of arrays and the catalog.

One module because a single blob, a batch, and a batch that runs again end in the same documents, in the same order.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import PlanError, StoreError
from dask_zv.format.documents import dump_json
from dask_zv.format.grids import ORIGIN, GridArray, GridSpec, cell_path, grid_document, listed_coords, parse_grid_document
from dask_zv.format.keys import DOCUMENT, coords_to_keys, join, keys_to_coords
from dask_zv.storage.catalog import CATALOG_NAME, Catalog, Node, merge_catalog
from dask_zv.storage.grid.plan import check_spatial, commit_keys, default_grid, grid_for, lists_digest, without_grid
from dask_zv.storage.grid.read import GridArrays
from dask_zv.storage.grid.shards import store_cells
from dask_zv.storage.locks import commit_lock
from dask_zv.storage.nodes import (
    LAST,
    catalog_objects,
    drop_catalogs,
    ensure_groups,
    kind_of,
    load_catalog,
    merge_attributes,
    merged_documents,
    put_documents,
    read_document,
    read_grids,
)
from dask_zv.storage.objects import Address, Objects, snapshot
from dask_zv.storage.receipts import COLUMNS, Columns, Receipt
from dask_zv.storage.specs import (
    BlockSpec,
    CommitSpec,
    GridPlan,
    edit_is_done,
    end_write,
    journal_key,
    mark,
    normal_path,
    root_lock,
    unmark,
)

_OF_CONTENT = ("zv_array", "dtype", "encoding", "name", "row_shape", "channel_names", "categories", "ordered", "_FillValue",
               "declared_categorical")  # fmt: skip
"""Attributes that describe what an array holds, and go with it; others, of other tools, stay when it is replaced."""
_FAMILIES = ("links_family", "link_attribute_family", "object_index", "geometry_index")
"""What groups of arrays are called, which have no grid."""
_REFUSED = "refused"
"""Name of the mark that a batch leaves which came too late."""
_VERIFICATIONS = 5


def write_cell(objects: Objects, prefix: str, array: str, key: str, payload: bytes) -> None:
    """Store one chunk and list it in the array's document; an empty payload makes it absent.

    A batch of one, under the group's lock from its plan to its end: nobody else can have written since.
    """
    check_spatial(array, key)
    path = join(prefix, array)
    with commit_lock(objects, prefix):
        objects = snapshot(objects, commit_keys(prefix, [array]))
        document = read_document(objects, path)
        held = None if document is None else parse_grid_document(document, path, objects.url)
        if document is not None and held is None:
            raise StoreError(f"'/{path}' is {kind_of(document)}, not an array of chunks", store=objects.url)
        spec = held.spec if held is not None else grid_for(objects, prefix, array, {}, default_grid(objects, prefix))
        if held is None and objects.nodes_first:
            spec.cells_of(keys_to_coords([key], spec.rank), path)
            make_nodes(objects, prefix, {array: spec})
        stored = store_cells(objects, prefix, {array: spec}, {array: {key: payload}}, [] if held is None else [array])
        drop_catalogs(objects, [path])  # they would no longer say what is here
        if held is None or held.nonempty is None or (key in held.nonempty) != bool(payload):
            write_documents(objects, prefix, {array: spec}, {array: held}, stored)


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
        if meta.get("zv_array") in _FAMILIES or ("shape" not in meta and base is None):
            merge_attributes(objects, path, meta)
            return
        attributes = {k: v for k, v in meta.items() if k not in ("shape", ORIGIN)}
        document = grid_document(grid_for(objects, prefix, array, meta, base), attributes, ())
        ensure_groups(objects, [path.rpartition("/")[0]])
        objects.put(join(path, DOCUMENT), dump_json(document))


def store_in_grid(objects: Objects, spec: BlockSpec, blobs: Mapping[Address, Any], rows: Mapping[str, int]) -> Receipt:
    """Store a block's blobs as cells of their arrays."""
    assert spec.grid is not None
    by_array: dict[str, dict[str, Any]] = {}
    for (array, key), data in blobs.items():
        by_array.setdefault(array, {})[key] = data
        if spec.declared is not None:  # the names of all others were checked where they were made
            check_spatial(array, key)
    specs = spec.grid.with_arrays(by_array).specs
    return store_cells(objects, spec.place.prefix, specs, by_array, spec.grid.existing, rows)


def make_nodes(objects: Objects, prefix: str, specs: Mapping[str, GridSpec], *, keep: bool = False) -> None:
    """Write the documents of arrays that are new or get another grid, and the groups above them.

    They list no chunk yet; with `keep` those that an array has already.
    """
    held = read_grids(objects, prefix, specs)
    ensure_groups(objects, sorted({join(prefix, a).rpartition("/")[0] for a in specs}))
    for array, grid in specs.items():
        found = held[array]
        if found is None or found.spec != grid:
            about, listed = (found.attributes, found.nonempty or ()) if keep and found is not None else ({}, ())
            objects.put(join(prefix, array, DOCUMENT), dump_json(grid_document(grid, about, listed)))


def make_grid_nodes(objects: Objects, spec: CommitSpec) -> None:
    """Write the documents of a batch's arrays, see :func:`make_nodes`."""
    assert spec.grid is not None
    make_nodes(objects, spec.place.prefix, spec.grid.specs, keep=spec.grid.extends)


def commit_grid(store: Objects, spec: CommitSpec, total: Receipt, attributes: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the documents and the catalog that make the stored cells the group's content.

    A group's writers take turns: what others committed since this batch was planned is merged with, not replaced.
    """
    assert spec.grid is not None
    prefix = spec.place.prefix
    plan = spec.grid.with_arrays(total.arrays)
    metadata = {path: found for path, found in attributes.items() if path in plan.specs}
    others = [(normal_path(prefix, path), found) for path, found in attributes.items() if path not in plan.specs]
    whole = spec.replace or plan.alone
    with commit_lock(store, prefix) as locked, root_lock(store, spec):
        wanted = [*commit_keys(prefix, plan.specs), *(join(path, DOCUMENT) for path, _ in others), journal_key(prefix)]
        if edit_is_done(store, spec):
            end_write(store, spec, store)
            return
        objects = snapshot(store, wanted)
        # groups above and below may have catalogs that speak of these arrays, too
        drop_catalogs(objects, [join(prefix, a) for a in (*plan.specs, *spec.gone)], keep=prefix)
        before = read_grids(objects, prefix, plan.specs) if spec.replace else {}
        locked.check()
        told = merged_documents(objects, others, {normal_path(prefix, ".."): spec.root} if spec.root else None)
        catalog, nodes = merge_arrays(
            objects, prefix, plan, total, metadata, whole=whole, replaced=spec.whole, before_last=told
        )
        if catalog is not None:
            catalog = catalog.without((*spec.gone, *spec.whole))
        if (not locked or store.looks_first) and not store.nodes_first:
            _verify(store, prefix, plan, total, metadata)
        puts = [] if LAST in plan.specs else list(told)
        if nodes is None:  # what the catalog says is no longer all: refresh() makes a new one
            objects.delete_prefix(join(prefix, CATALOG_NAME))
        elif plan.specs or whole or (spec.edit and catalog is not None):  # a batch of nothing leaves no trace
            new = replace(new_catalog(None if whole else catalog, nodes, total), edit=spec.edit)
            puts = [*catalog_objects(prefix, new), *puts]
        locked.check()
        put_documents(objects, puts)
        if spec.marker and not store.nodes_first:
            unmark(store, prefix, None if whole else spec.marker)
    if spec.replace:
        _remove_cells(store, prefix, plan, before, total, found=spec.sweep)
        _remove_members(store, prefix, spec.families, plan.specs)
    end_write(store, spec, objects)


def merge_arrays(
    objects: Objects,
    prefix: str,
    plan: GridPlan,
    total: Receipt,
    metadata: Mapping[str, Mapping[str, Any]],
    *,
    whole: bool,
    replaced: Collection[str] = (),
    before_last: Sequence[tuple[str, bytes]] = (),
) -> tuple[Catalog | None, dict[str, Node] | None]:
    """Write the documents of a group's arrays so that they list what was stored, too.

    `metadata` is merged into the arrays' own; with `whole`, where the batch is the whole content of its arrays, it is all that
    they have, as of those that are `replaced`. `before_last` are documents that are stored before :data:`LAST`: whoever sees
    the chunks in its list finds them.
    Returns the group's catalog as it was, None where it did not agree with the documents or there was none, and the new
    documents, None where no catalog of these can be written.
    """
    catalog = load_catalog(objects, prefix)
    held = read_grids(objects, prefix, plan.specs)
    meanwhile = plan.alone or (whole and catalog is not None and catalog.token != plan.token)
    if meanwhile and any(a is not None and a.nonempty for a in held.values()) and not _is_own(plan, total, held, catalog):
        mark(objects, prefix, _REFUSED)  # cells of this batch may lie among theirs: who reads one is told
        raise PlanError(
            "another writer has written this level since the write was planned: one writer at a time; check what is there, "
            "and write again with mode='overwrite'",
            store=objects.url, array=prefix,
        )  # fmt: skip
    # where nodes come first, new arrays have a document already that lists nothing
    filled = [n for n, a in held.items() if a is not None and (n in plan.existing or a.nonempty != frozenset())]
    if not whole:
        if catalog is not None:
            known = GridArrays(objects, prefix, catalog).catalogued(catalog.nodes)
            catalog = catalog if known.keys() >= {*catalog.nodes, *filled} else None
        _check_shards(plan, objects, prefix, total, held, catalog)
    every = plan.specs if whole else replaced
    written = write_documents(objects, prefix, plan.specs, held, total, metadata, whole=every, before_last=before_last)
    # an array whose chunks were there before is in a catalog only with all of them
    complete = catalog is not None or whole or not any(a is not None and a.nonempty != frozenset() for a in held.values())
    return catalog, {array: Node.of(*found) for array, found in written.items()} if complete else None


def write_documents(
    objects: Objects,
    prefix: str,
    specs: Mapping[str, GridSpec],
    held: Mapping[str, GridArray | None],
    total: Receipt,
    metadata: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    *,
    whole: Collection[str] = (),
    before_last: Sequence[tuple[str, bytes]] = (),
) -> dict[str, tuple[dict[str, Any], str]]:
    """Write the documents of arrays, of which `held` are there, see :func:`merge_arrays`; return each, and its identity."""
    documents = {
        array: merged_array(objects, prefix, array, spec, held[array], total, metadata.get(array, {}), whole=array in whole)
        for array, spec in specs.items()
    }
    ensure_groups(objects, sorted({join(prefix, a).rpartition("/")[0] for a in documents}))
    order = sorted(documents, key=lambda a: (a == LAST, a))
    written: dict[str, tuple[dict[str, Any], str]] = {}
    for wave in [order[:-1], order[-1:]] if LAST in documents and len(order) > 1 else [order]:
        if wave[-1:] == [LAST]:
            put_documents(objects, before_last)
        identities = objects.put_identified((join(prefix, a, DOCUMENT), dump_json(documents[a])) for a in wave)
        written |= {array: (documents[array], identity) for array, identity in zip(wave, identities, strict=True)}
    return written


def _check_shards(
    plan: GridPlan,
    objects: Objects,
    prefix: str,
    total: Receipt,
    held: Mapping[str, GridArray | None],
    catalog: Catalog | None,
) -> None:
    """Raise where another writer, since the batch was planned, committed chunks to a shard that the batch stored."""
    if catalog is None and lists_digest(held) == plan.listed:
        return
    if catalog is not None and catalog.token == plan.token:
        return
    for array, columns in total.arrays.items():
        spec, found = plan.specs[array], held.get(array)
        if catalog is None:
            others = None if found is None else listed_coords(found.nonempty or (), found.spec.rank)
        else:
            others = catalog.coords[catalog.chunks_of(array)] if array in catalog.arrays else None
        if spec.shard_shape is None or others is None:
            continue
        mine = total.coords[columns.have]
        known = {tuple(c) for c in mine.tolist()}
        shards = [tuple(s) for s in spec.objects_of(mine).tolist()]
        stamps = dict(zip(shards, columns["stamp"][columns.have].tolist(), strict=True))
        theirs = zip(others.tolist(), spec.objects_of(others).tolist(), strict=True)
        lost = [".".join(map(str, c)) for c, shard in theirs if tuple(shard) in stamps and tuple(c) not in known]
        now = objects.stamps([cell_path(join(prefix, array), s) for s in sorted(stamps)])
        lost += [
            f"of shard {list(s)}"
            for s, f in zip(sorted(stamps), now, strict=True)
            if stamps[s] and (f is None or f[1] != stamps[s])
        ]
        if lost:
            raise PlanError(
                "another writer committed chunks to a shard that this batch wrote at the same time, so that one of them is "
                "lost: let one writer own a shard (blocks of whole shards), and write both again",
                store=objects.url, array=join(prefix, array), chunk=lost[0],
            )  # fmt: skip


def _added(total: Receipt, array: str) -> set[str]:
    """Return the keys that become chunks of an array."""
    columns = total.arrays.get(array)
    keys = set() if columns is None else set(coords_to_keys(total.coords[columns.have]))
    return keys - total.kept.get(array, frozenset())


def _is_own(plan: GridPlan, total: Receipt, held: Mapping[str, GridArray | None], catalog: Catalog | None) -> bool:
    """Return True if the stored state is this batch's own earlier commit: its graph runs again, or its last task does."""
    if catalog is not None and any(c.have.any() for n, c in catalog.arrays.items() if n not in plan.specs):
        return False
    rows = None if catalog is None else catalog.find(total.coords)
    for array, found in held.items():
        if found is None or not found.nonempty:
            continue
        if found.spec != plan.specs[array] or found.nonempty != _added(total, array):
            return False
        theirs, mine = None if catalog is None else catalog.arrays.get(array), total.arrays[array]
        if theirs is None or rows is None:
            continue  # the last task died before the catalog
        at, have = rows[mine.have], mine.have
        if (at < 0).any() or any((theirs[kind][at] != mine[kind][have]).any() for kind in ("nbytes", "stored", "crc")):
            return False
    return True


def merged_array(
    objects: Objects,
    prefix: str,
    array: str,
    spec: GridSpec,
    held: GridArray | None,
    total: Receipt,
    metadata: Mapping[str, Any],
    *,
    whole: bool,
) -> dict[str, Any]:
    """Return the new document of one array."""
    added = _added(total, array)
    if held is None or whole:
        others = {} if held is None else {k: v for k, v in held.attributes.items() if k not in {*_OF_CONTENT, *metadata}}
        return grid_document(spec, {**metadata, **others}, added)  # in this order: a commit that runs twice writes the same
    if replace(held.spec, shape=spec.shape) != spec:
        raise PlanError(
            "another writer made or changed this array since the batch was planned: its origin, shards or codecs have "
            "changed; plan the write again",
            store=objects.url, array=join(prefix, array),
        )  # fmt: skip
    grown = tuple(max(a, b) for a, b in zip(held.spec.shape, spec.shape, strict=True))
    listed = set(held.nonempty if held.nonempty is not None else GridArrays(objects, prefix).list_keys(array))
    listed = (listed | added) - total.emptied.get(array, frozenset())
    return grid_document(replace(spec, shape=grown), {**held.attributes, **metadata}, listed)


def _verify(objects: Objects, prefix: str, plan: GridPlan, total: Receipt, metadata: Mapping[str, Mapping[str, Any]]) -> None:
    """Look whether what was written is still there, where no lock kept other writers away; write it again where it isn't."""
    for attempt in range(_VERIFICATIONS):
        time.sleep(0.01 * 2**attempt if attempt else 0)
        now = read_grids(objects, prefix, plan.specs)
        lost = [a for a, found in now.items() if found is None or not _added(total, a) <= (found.nonempty or frozenset())]
        if not lost:
            return
        merge_arrays(objects, prefix, plan, total, metadata, whole=False)
    raise PlanError(
        "another writer replaces the array's document at the same time, and this store has no lock: write one after the other",
        store=objects.url, array=join(prefix, lost[0]),
    )  # fmt: skip


def new_catalog(old: Catalog | None, nodes: Mapping[str, Node], total: Receipt) -> Catalog:
    """Return the catalog of a group: what it had, and what was stored."""
    arrays: dict[str, Columns] = {}
    for name in nodes:
        columns = total.arrays.get(name)
        arrays[name] = Columns.empty(len(total.coords)) if columns is None else columns
        if kept := total.kept.get(name):  # those of a writer that died before its commit were kept, but nobody lists them
            had = set() if old is None else set(coords_to_keys(old.coords[old.chunks_of(name)]))
            arrays[name] = _without(arrays[name], total.coords, kept - had)
    merged = merge_catalog(old, total.coords, total.rows, arrays, nodes)
    left = {n: _without(c, merged.coords, total.emptied.get(n, frozenset())) for n, c in merged.arrays.items()}
    merged = replace(merged, arrays=left)
    have = np.zeros(len(merged), bool)
    for columns in left.values():
        have |= columns.have
    if left and not have.all():  # chunks that no array has
        order = np.flatnonzero(have)
        rest = {n: c.take(order) for n, c in left.items()}
        merged = replace(merged, coords=merged.coords[order], rows=merged.rows[order], arrays=rest)
    return merged


def _without(columns: Columns, coords: NDArray[np.int64], keys: Collection[str]) -> Columns:
    """Return the columns of an array that does not have the chunks of some keys."""
    if not keys:
        return columns
    drop = np.fromiter((k in keys for k in coords_to_keys(coords)), bool, len(coords))
    empty = Columns.empty(len(drop))
    return Columns({kind: np.where(drop, empty[kind], columns[kind]) for kind in COLUMNS})


def _remove_cells(
    objects: Objects,
    prefix: str,
    plan: GridPlan,
    before: Mapping[str, GridArray | None],
    total: Receipt,
    *,
    found: bool,
) -> None:
    """Remove the objects of cells that the arrays held before and this batch did not write; where `found`, all there are."""
    gone: set[str] = set()
    for array, held in before.items():
        if held is None:
            continue
        path, columns = join(prefix, array), total.arrays.get(array)
        now = total.coords[columns.have] if columns is not None else np.zeros((0, plan.specs[array].rank), np.int64)
        kept = _object_paths(path, plan.specs[array], now)
        gone |= _object_paths(path, held.spec, listed_coords(held.nonempty or (), held.spec.rank)) - kept
        if found:
            gone |= set(objects.list_prefix(f"{path}/c")) - kept
    if gone:
        objects.delete_many(sorted(gone))


def _object_paths(path: str, spec: GridSpec, coords: NDArray[np.int64]) -> set[str]:
    coords = coords[spec.contains(coords)] if len(coords) else coords.reshape(-1, spec.rank)
    return {cell_path(path, c) for c in spec.objects_of(coords).tolist()}


def _remove_members(objects: Objects, prefix: str, families: Sequence[str], keep: Collection[str]) -> None:
    """Remove the chunk arrays below some groups that are not among those to keep, and groups that are left without any."""
    for family in families:
        if not any(a.startswith(f"{family}/") for a in keep):
            objects.delete_prefix(join(prefix, family))
            continue
        for name in objects.list_dir(join(prefix, family)):
            if name != DOCUMENT and f"{family}/{name}" not in keep:
                objects.delete_prefix(join(prefix, family, name))
