"""Storing in layout ``per_chunk``: batches are planned, blocks stored, and their metadata and catalog written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from dask_zv.format.keys import DOCUMENT, coords_to_keys, is_spatial_key, join, parse_key
from dask_zv.format.shards import is_shard_name, shard_id, shard_name
from dask_zv.spatial.morton import morton_codes, morton_order
from dask_zv.storage.catalog import CATALOG_NAME, Catalog, merge_catalog
from dask_zv.storage.locks import commit_lock
from dask_zv.storage.marks import end_write, unmark
from dask_zv.storage.nodes import (
    LAST,
    catalog_objects,
    drop_catalogs,
    ensure_groups,
    load_catalog,
    merge_attributes,
    merged_documents,
    put_documents,
)
from dask_zv.storage.objects import Address, Objects
from dask_zv.storage.per_chunk.read import ArrayListing, PerChunk
from dask_zv.storage.receipts import Receipt, combine_receipts, make_receipt
from dask_zv.storage.specs import BatchPlan, BlockSpec, CommitSpec, Place, Queued, keys_digest, normal_path, root_lock

_NOTHING = ArrayListing(frozenset(), {}, {}, frozenset())


def shard_numbers(addresses: Iterable[Address], shards: int | None, number: int | None) -> dict[str, int]:
    """Return the shard of every spatial key: `number`, or the Morton code of the first cell of the key's shard.

    Shards are cut at multiples of `shards` along the Morton curve, whichever chunks are there, so every client and every run
    gives a chunk the same shard.
    """
    keys = {k for _, k in addresses if is_spatial_key(k)}
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


# -------------------------------------------------------------------------------------------------------------- planning


def plan_per_chunk(objects: Objects, place: Place, queued: Queued) -> BatchPlan:
    """Return how a batch is stored beside what the arrays hold already."""
    addresses = queued.addresses()
    arrays = sorted({a for a, _ in addresses} | set(queued.metadata))
    catalogued = load_catalog(objects, place.prefix) is not None
    blobs = PerChunk(objects, place.prefix)
    fresh = not catalogued and not _holds_blobs(objects, place.prefix, {a for a, _ in addresses})
    listings = {a: blobs.listing(a) for a in arrays} if addresses and not fresh else {}
    shards = queued.shards if isinstance(queued.shards, int) else None
    single = queued.cut(cut_shards(queued.sizes, shards))
    every = set(addresses)
    specs = [_block_spec(place, block, listings, every, shards, None) for block in single]
    taken = set(shard_numbers(queued.sizes, shards, None).values()) if queued.blocks else set()
    for block in queued.blocks:
        number = None if shards is None else _free_number(block, taken)
        specs.append(_block_spec(place, block, listings, every, None, number, keys_digest(block)))
    commit = CommitSpec(
        place,
        tuple(queued.metadata.items()),
        tuple(arrays),
        catalog=catalogued or fresh,
        extends_catalog=catalogued,
        first=fresh and not objects.nodes_first,
    )
    return BatchPlan(single, specs, commit)


def _holds_blobs(objects: Objects, prefix: str, arrays: set[str]) -> bool:
    """Return True if the group has blobs with data, or any array a child: empty blobs have no data object."""
    if objects.any_below(prefix, "/c/0"):
        return True
    paths = {join(prefix, a) for a in arrays}
    return any(k.removesuffix(f"/{DOCUMENT}").rpartition("/")[0] in paths for k in objects.list_prefix(prefix))


def cut_shards(addresses: Iterable[Address], shards: int | None) -> list[list[Address]]:
    """Cut blobs: all arrays of a chunk together, neighbours after each other, whole shards together."""
    by_key: dict[str, list[Address]] = {}
    for address in addresses:
        by_key.setdefault(address[1], []).append(address)
    units: list[list[str]] = [[k] for k in sorted(by_key) if not is_spatial_key(k)]
    if shards is None:
        for keys in by_rank(k for k in by_key if is_spatial_key(k)):
            units += [[keys[i]] for i in morton_order(np.array([parse_key(k) for k in keys], np.int64))]
    else:  # keys of every rank together: a shard's number does not tell ranks apart, and one task must own it
        members: dict[int, list[str]] = {}
        for key, number in shard_numbers(addresses, shards, None).items():
            members.setdefault(number, []).append(key)
        units += [sorted(members[n]) for n in sorted(members)]
    return [[a for k in unit for a in by_key[k]] for unit in units]


def _free_number(addresses: Sequence[Address], taken: set[int]) -> int | None:
    """Return a whole block's shard number, and take it: the least Morton code of its chunks that no other block has."""
    for keys in by_rank({k for _, k in addresses if is_spatial_key(k)}):
        for code in sorted(morton_codes(np.array([parse_key(k) for k in keys], np.int64)).tolist()):
            if code not in taken:
                taken.add(code)
                return int(code)
    return None


def _block_spec(
    place: Place,
    addresses: Sequence[Address],
    listings: Mapping[str, ArrayListing],
    every: set[Address],
    shards: int | None,
    number: int | None,
    declared: str | None = None,
) -> BlockSpec:
    """Return how a block is stored beside what the arrays hold already; `every` are the addresses of all blocks."""
    stay: set[Address] = set()
    merge: set[tuple[str, int]] = set()
    superseded: list[Address] = []
    own = shard_numbers(addresses, shards, number)
    for array, key in addresses:
        if key not in own:
            continue
        listing = listings.get(array, _NOTHING)
        held = listing.entries.get(key)
        if held is not None and shard_id(held[0]) != own[key]:
            stay.add((array, key))
            continue
        merge.add((array, own[key]))  # where there is no such shard yet, another batch may be about to make it
        if key in listing.plain:
            superseded.append((array, key))
    members = {(a, k) for a, n in merge for k in listings.get(a, _NOTHING).shards.get(shard_name(n), ())}
    return BlockSpec(
        place,
        declared,  # what the batch cut itself has the right keys
        shards,
        number,
        frozenset(stay),
        tuple(sorted(merge)),
        tuple(superseded),
        frozenset((members & every) - set(addresses)),
    )


# --------------------------------------------------------------------------------------------------------------- storing


def write_blob(objects: Objects, prefix: str, array: str, key: str, payload: bytes) -> None:
    """Store one blob; the array's group is looked at each time: another handle may have removed it, or those above."""
    ensure_groups(objects, [join(prefix, array)])
    PerChunk(objects, prefix).write([(array, key, payload)])
    drop_catalogs(objects, [join(prefix, array)], in_turn=True)  # they no longer say what is here


def write_blob_meta(objects: Objects, prefix: str, array: str, meta: Mapping[str, Any]) -> None:
    """Merge metadata into the attributes of an array's group, which is made where it is absent."""
    with commit_lock(objects, prefix):  # a batch's commit writes them, too
        merge_attributes(objects, join(prefix, array), meta)


def make_groups(objects: Objects, spec: CommitSpec) -> None:
    """Make the groups of a batch's arrays."""
    ensure_groups(objects, [join(spec.place.prefix, a) for a in spec.arrays])


def store_per_chunk(objects: Objects, spec: BlockSpec, payload: Mapping[Address, bytes], rows: Mapping[str, int]) -> Receipt:
    """Store a block's blobs."""
    blobs = dict(payload)
    target = PerChunk(objects, spec.place.prefix)
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
            turns.enter_context(commit_lock(objects, spec.place.prefix, f"-{shard_name(number)}"))
        kept = {at: _kept_members(target, spec, *at, members) for at, members in shards.items()}
        stored, of_shards = target.write_shards({at: {**kept[at], **members} for at, members in shards.items()})
    for (array, number), entries in stored.items():
        told = [key for key in entries if (array, key) not in spec.beside]
        stamps.update(((array, key), of_shards.get((array, number), 0)) for key in told)
        places.update({(array, key): (number, entries[key][0], entries[key][2]) for key in told})
        blobs.update({(array, key): data for key, data in kept[array, number].items() if key in told})
    for array, key in spec.superseded:
        objects.delete_prefix(target.path(array, key))
    return make_receipt(blobs, rows, places, len(plain) + len(shards), stamps)


def _kept_members(target: PerChunk, spec: BlockSpec, array: str, number: int, members: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return what a shard of ours already holds and this block does not replace."""
    if (array, number) not in spec.merge:
        return {}
    keep = [(array, key) for key in target.shard_keys(array, number) if key not in members]
    kept = {key: data for (_, key), data in target.read_many([a for a in keep if a not in spec.beside]).items()}
    # those are being stored by another task right now: what the shard has, so that the same bytes come of every run
    return kept | target.read_members(array, shard_name(number), [key for a, key in keep if (a, key) in spec.beside])


def commit_per_chunk(objects: Objects, spec: CommitSpec, total: Receipt, attributes: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the documents of arrays and groups, and the catalog; a group's writers take turns."""
    prefix = spec.place.prefix
    touched = {*total.arrays, *(a for a, _ in total.literals), *(spec.arrays if spec.replace else ())}
    arrays = {*spec.arrays, *touched}
    root = normal_path(prefix, "..") if spec.root else None
    with commit_lock(objects, prefix) as locked, root_lock(objects, spec):
        # groups above and below may have catalogs that speak of these arrays, too
        drop_catalogs(objects, [join(prefix, a) for a in touched], keep=prefix)
        first = [join(prefix, a) for a in sorted(arrays) if a != LAST or a not in attributes]
        ensure_groups(objects, first or [prefix])
        # who finds the document of the vertices, without which nobody reads, finds all others; the catalog speaks of all
        for path, found in sorted(attributes.items(), key=lambda item: (item[0] == LAST, item[0] not in arrays)):
            own = path in arrays
            at = join(prefix, path) if own else normal_path(prefix, path)
            if at == root:
                put_documents(objects, merged_documents(objects, [(at, found)], {at: spec.root}))
            else:
                merge_attributes(objects, at, found, replace=own and spec.replace)
        locked.check()
        _write_catalog(objects, spec, total)
        if spec.mark and not objects.nodes_first:
            unmark(objects, prefix, None if spec.replace else spec.mark)
    if spec.replace:
        _remove_leftovers(objects, spec, total)
    end_write(objects, spec, objects)


def _remove_leftovers(objects: Objects, spec: CommitSpec, total: Receipt) -> None:
    """Remove the blobs and shards that the arrays held before and this batch did not write."""
    for array in spec.arrays:
        columns = total.arrays.get(array)
        keep = {key for name, key in total.literals if name == array}
        if columns is not None:
            keep.update(coords_to_keys(total.coords[columns.have & (columns["shard"] < 0)]))
            keep.update(shard_name(n) for n in np.unique(columns["shard"][columns["shard"] >= 0]).tolist())
        for name in objects.list_dir(join(spec.place.prefix, array)):
            if name not in keep and (is_shard_name(name) or is_spatial_key(name)):
                objects.delete_prefix(join(spec.place.prefix, array, name))


# --------------------------------------------------------------------------------------------------------------- catalog


def look_at_blobs(
    blobs: PerChunk, addresses: Sequence[Address], count: Callable[[Mapping[Address, bytes]], Mapping[str, int]] | None = None
) -> Receipt:
    """Return the receipt of blobs that are stored already; `count` tells the vertices of their chunks."""
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
    return make_receipt(found, {} if count is None else count(found), places, 0, stamps)


def _write_catalog(objects: Objects, spec: CommitSpec, total: Receipt) -> None:
    """Write the group's catalog with what was stored, or remove it where it can't have all."""
    prefix = spec.place.prefix
    path = join(prefix, CATALOG_NAME)
    if len(total.ranks) > 1:
        if objects.exists(f"{path}/{DOCUMENT}"):  # what it says is no longer all
            objects.delete_prefix(path)
        return
    old = None if spec.replace else load_catalog(objects, prefix)
    if old is None and (spec.extends_catalog or not spec.catalog):
        return
    own = total
    if old is None and spec.first and len(total.coords):
        everything = _with_others(objects, prefix, total)
        if everything is None or len(everything.ranks) > 1:
            return
        total = everything
    if old is not None and len(old) and len(total.coords) and old.coords.shape[1] != total.coords.shape[1]:
        objects.delete_prefix(path)
        return
    if not len(total.coords) and old is None and not spec.replace:
        return
    merged = merge_catalog(old, total.coords, total.rows, total.arrays)
    if moved := _moved(merged if old is None else old, own):
        again = look_at_blobs(PerChunk(objects, prefix), moved)
        merged = merge_catalog(merged, again.coords, again.rows, again.arrays)
    put_documents(objects, catalog_objects(prefix, merged))


def _with_others(objects: Objects, prefix: str, total: Receipt) -> Receipt | None:
    """Return a receipt of all that the group holds: what others stored while a batch ran that had found it empty.

    None where a catalog can't have it: shards of other tools.
    """
    paths = [key.removesuffix(f"/{DOCUMENT}") for key in objects.list_prefix(prefix) if key.endswith(f"/{DOCUMENT}")]
    inside = [path[len(prefix) :].lstrip("/").rpartition("/") for path in paths]
    blobs = PerChunk(objects, prefix)
    others: list[Address] = []
    for array in {a for a, _, name in inside if a and (is_spatial_key(name) or is_shard_name(name))}:
        columns, listing = total.arrays.get(array), blobs.listing(array)
        mine = set() if columns is None else set(coords_to_keys(total.coords[columns.have]))
        others += [(array, key) for key in {*listing.plain, *listing.entries} - mine if is_spatial_key(key)]
        if any(crc is None or shard_id(name) is None for name, (_, _, crc) in listing.entries.values()):
            return None
    return combine_receipts([total, look_at_blobs(PerChunk(objects, prefix), others)]) if others else total


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
