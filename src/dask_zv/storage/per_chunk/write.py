"""Writing in layout ``per_chunk``: store a block, commit."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from dask_zv.format.keys import DOCUMENT, coords_to_keys, is_spatial_key, join, parse_key
from dask_zv.format.shards import is_shard_name, shard_id, shard_name
from dask_zv.spatial.morton import morton_codes
from dask_zv.storage.catalog import CATALOG_NAME, Catalog, catalog_document, encode_catalog, merge_catalog
from dask_zv.storage.grid.commit import LAST
from dask_zv.storage.handles import open_objects
from dask_zv.storage.locks import Hold, commit_lock
from dask_zv.storage.marks import drop_journal, leave_stamp, unmark
from dask_zv.storage.nodes import (
    drop_catalogs,
    ensure_groups,
    load_catalog,
    merge_attributes,
    merged_documents,
    put_documents,
)
from dask_zv.storage.objects import Address, Objects
from dask_zv.storage.per_chunk.read import PerChunk
from dask_zv.storage.receipts import Receipt, combine_receipts, make_receipt
from dask_zv.storage.specs import BlockResult, BlockSpec, CommitSpec, Place, normal_path, normalise, root_lock


def _blobs(place: Place) -> PerChunk:
    return PerChunk(open_objects(place.handle), place.prefix)


def shard_numbers(addresses: Iterable[Address], shards: int | None, number: int | None) -> dict[str, int]:
    """Return the shard of every spatial key: `number`, or the Morton code of the first cell of the key's shard.

    Shards are cut at multiples of `shards` along the Morton curve, whichever chunks are there, so every client and every run
    gives a chunk the same shard.
    """
    keys = set(filter(is_spatial_key, {k for _, k in addresses}))
    if number is not None:
        return dict.fromkeys(keys, number)
    if shards is None:
        return {}
    out: dict[str, int] = {}
    for members in by_rank(keys):
        codes = morton_codes(np.array([parse_key(k) for k in members], np.int64)).tolist()
        out.update({k: c - c % shards for k, c in zip(members, codes, strict=True)})
    return out


def by_rank(keys: Iterable[str]) -> list[list[str]]:
    """Return spatial keys in lists of equal rank, sorted by name in each."""
    ranks: dict[int, list[str]] = {}
    for key in sorted(keys):
        ranks.setdefault(key.count("."), []).append(key)
    return [ranks[r] for r in sorted(ranks)]


def store_in_per_chunk(spec: BlockSpec, payload: Any) -> BlockResult:
    """Store one block's blobs.

    Running it twice stores the same objects with the same bytes.
    """
    started = time.time()
    blobs, rows = normalise(payload, spec)
    target = _blobs(spec.place)
    shards: dict[tuple[str, int], dict[str, bytes]] = {}
    plain: list[tuple[str, str, bytes]] = []
    numbers = shard_numbers(blobs, spec.shard_chunks, spec.shard_number)
    for (array, key), data in blobs.items():
        number = numbers.get(key)
        if number is None or (array, key) in spec.stay_plain:
            plain.append((array, key, data))
        else:
            shards.setdefault((array, number), {})[key] = data
    stamps = target.write(plain)
    places: dict[Address, tuple[int, int, int]] = {}
    with ExitStack() as turns:  # another batch may have chunks in the same shards
        for number in sorted({n for _, n in shards if any(n == m for _, m in spec.merge)}):
            turns.enter_context(commit_lock(target.objects, spec.place.prefix, f"-{shard_name(number)}"))
        kept = {at: _kept_members(target, spec, *at, members) for at, members in shards.items()}
        stored, of_shards = target.write_shards({at: {**kept[at], **members} for at, members in shards.items()})
    for (array, number), entries in stored.items():
        told = [key for key in entries if (array, key) not in spec.beside]
        stamps.update(((array, key), of_shards.get((array, number), 0)) for key in told)
        places.update({(array, key): (number, entries[key][0], entries[key][2]) for key in told})
        blobs.update({(array, key): data for key, data in kept[array, number].items() if key in told})
    for array, key in spec.superseded:
        target.objects.delete_prefix(target.path(array, key))
    return BlockResult.of(payload, make_receipt(blobs, rows, places, len(plain) + len(shards), stamps), started)


def _kept_members(target: PerChunk, spec: BlockSpec, array: str, number: int, members: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return what a shard of ours already holds and this block does not replace."""
    if (array, number) not in spec.merge:
        return {}
    keep = [(array, key) for key in target.shard_keys(array, number) if key not in members]
    kept = {key: data for (_, key), data in target.read_many([a for a in keep if a not in spec.beside]).items()}
    # those are being stored by another task right now: what the shard has, so that the same bytes come of every run
    return kept | target.read_members(array, shard_name(number), [key for a, key in keep if (a, key) in spec.beside])


def commit_per_chunk(spec: CommitSpec, results: Sequence[BlockResult]) -> Receipt:
    """Write the metadata that makes the stored blocks the group's content; return the receipt of all."""
    objects = open_objects(spec.place.handle)
    total = combine_receipts([r.receipt for r in results])
    told = spec.told_by(results)
    touched = {*total.arrays, *(a for a, _ in total.literals), *(spec.arrays if spec.replace else ())}
    with commit_lock(objects, spec.place.prefix) as locked, root_lock(objects, spec):
        _make_visible(objects, spec, total, told, touched, locked)
    if spec.replace:
        _remove_leftovers(objects, spec, total)
    for path in spec.remove:
        objects.delete_prefix(normal_path(spec.place.prefix, path))
    leave_stamp(objects, spec.place.prefix, spec.stamp)
    drop_journal(objects, spec.place.prefix, objects)
    return total


def _make_visible(
    objects: Objects,
    spec: CommitSpec,
    total: Receipt,
    told: Mapping[str, Mapping[str, Any]],
    touched: Collection[str],
    locked: Hold,
) -> None:
    """Write the documents of arrays and groups, and the catalog; a group's writers take turns."""
    arrays = {*spec.arrays, *touched}
    root = normal_path(spec.place.prefix, "..") if spec.root else None
    # groups above and below may have catalogs that speak of these arrays, too
    drop_catalogs(objects, [join(spec.place.prefix, a) for a in touched], keep=spec.place.prefix)
    first = [join(spec.place.prefix, a) for a in sorted(arrays) if a != LAST or a not in told]
    ensure_groups(objects, first or [spec.place.prefix])
    # who finds the document of the vertices, without which nobody reads, finds all others; the catalog speaks of all
    order = sorted(told.items(), key=lambda item: (item[0] == LAST, item[0] not in arrays))
    for path, attributes in order:
        own = path in arrays
        at = join(spec.place.prefix, path) if own else normal_path(spec.place.prefix, path)
        if at == root:
            put_documents(objects, merged_documents(objects, [(at, attributes)], {at: spec.root}))
        else:
            merge_attributes(objects, at, attributes, replace=own and spec.replace)
    locked.check()
    _write_catalog(objects, spec, total)
    if spec.mark and not objects.nodes_first:
        unmark(objects, spec.place.prefix, None if spec.replace else spec.mark)


def look_at_blobs(
    place: Place, addresses: Sequence[Address], count: Callable[[Mapping[Address, bytes]], Mapping[str, int]]
) -> Receipt:
    """Return the receipt of blobs that are stored already; `count` tells the vertices of their chunks."""
    blobs = _blobs(place)
    # first: what changes in between has another stamp than is noted
    seen = blobs.objects.stamps([f"{blobs.path(*a)}/c/0" for a in addresses])
    found = blobs.read_many(addresses)
    places: dict[Address, tuple[int, int, int]] = {}
    for array in {a for a, _ in addresses}:
        listing = blobs.listing(array)
        for key, (name, (offset, _, crc)) in listing.entries.items():
            number = shard_id(name)
            if (array, key) in found and key not in listing.plain and number is not None and crc is not None:
                places[array, key] = (number, offset, crc)
    stamps = {a: s[1] for a, s in zip(addresses, seen, strict=True) if s is not None}
    return make_receipt(found, count(found), places, 0, stamps)


def _with_others(objects: Objects, spec: CommitSpec, total: Receipt) -> Receipt | None:
    """Return a receipt of all that the group holds: what others stored while a batch ran that had found it empty.

    None where a catalog can't have it: shards of other tools.
    """
    prefix = spec.place.prefix
    paths = [key.removesuffix(f"/{DOCUMENT}") for key in objects.list_prefix(prefix) if key.endswith(f"/{DOCUMENT}")]
    inside = [path[len(prefix) :].lstrip("/").rpartition("/") for path in paths]
    blobs = PerChunk(objects, prefix)
    own: dict[str, set[str]] = {}
    for array in {a for a, _, name in inside if a and (is_spatial_key(name) or is_shard_name(name))}:
        columns = total.arrays.get(array)
        own[array] = set() if columns is None else set(coords_to_keys(total.coords[columns.have]))
    others: list[Address] = []
    for array, mine in own.items():
        listing = blobs.listing(array)
        others += [(array, key) for key in {*listing.plain, *listing.entries} - mine if is_spatial_key(key)]
        if any(crc is None or shard_id(name) is None for name, (_, _, crc) in listing.entries.values()):
            return None
    return combine_receipts([total, look_at_blobs(spec.place, others, lambda _: {})]) if others else total


def _write_catalog(objects: Objects, spec: CommitSpec, total: Receipt) -> None:
    path = join(spec.place.prefix, CATALOG_NAME)
    if len(total.ranks) > 1:
        if objects.exists(f"{path}/zarr.json"):  # what it says is no longer all
            objects.delete_prefix(path)
        return
    old = None if spec.replace else load_catalog(objects, spec.place.prefix)
    if old is None and (spec.extends_catalog or not spec.catalog):
        return
    own = total
    if old is None and spec.first and len(total.coords):
        everything = _with_others(objects, spec, total)
        if everything is None or len(everything.ranks) > 1:
            return
        total = everything
    if old is not None and len(old) and len(total.coords) and old.coords.shape[1] != total.coords.shape[1]:
        objects.delete_prefix(path)
        return
    if not len(total.coords) and old is None and not spec.replace:
        return
    merged: Catalog = merge_catalog(old, total.coords, total.rows, total.arrays)
    if moved := _moved(merged if old is None else old, own):
        again = look_at_blobs(spec.place, moved, lambda _: {})
        merged = merge_catalog(merged, again.coords, again.rows, again.arrays)
    payload = encode_catalog(merged)
    PerChunk(objects, spec.place.prefix).write_node(CATALOG_NAME, payload, catalog_document(len(payload)))


def _moved(old: Catalog, total: Receipt) -> list[Address]:
    """Return the blobs in shards of this batch that another has since written again: the catalog has members unknown here."""
    out: list[Address] = []
    for array in {*old.arrays} & {*total.arrays}:
        before, now = old.arrays[array], total.arrays[array]
        others = np.flatnonzero((before["shard"] >= 0) & np.isin(before["shard"], now["shard"]))
        if not len(others):
            continue
        mine = set(coords_to_keys(total.coords[now.have]))
        unknown = [i not in mine for i in coords_to_keys(old.coords[others])]
        moved = now.have & np.isin(now["shard"], before["shard"][others[unknown]])
        out += [(array, key) for key in coords_to_keys(total.coords[moved])]
    return out


def _remove_leftovers(objects: Objects, spec: CommitSpec, total: Receipt) -> None:
    """Remove the blobs and shards that the arrays held before and this batch did not write."""
    target = PerChunk(objects, spec.place.prefix)
    for array in spec.arrays:
        columns = total.arrays.get(array)
        keep: set[str] = {"zarr.json"}
        if columns is not None:
            own = columns.have & (columns["shard"] < 0)
            keep.update(".".join(map(str, c)) for c in total.coords[own].tolist())
            keep.update(shard_name(n) for n in np.unique(columns["shard"][columns["shard"] >= 0]).tolist())
        keep.update(key for name, key in total.literals if name == array)
        for name in objects.list_dir(target.path(array)):
            if name not in keep and (is_shard_name(name) or is_spatial_key(name)):
                objects.delete_prefix(target.path(array, name))
