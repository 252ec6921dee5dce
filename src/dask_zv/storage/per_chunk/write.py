"""Storing in layout ``per_chunk``: blobs, whole blocks, and the metadata and catalog that make them visible."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np

from dask_zv.format.documents import PAYLOAD_CRC32C, blob_document, shard_attributes
from dask_zv.format.keys import DOCUMENT, coords_to_keys, is_shard_name, is_spatial_key, join, shard_id, shard_name, sort_keys
from dask_zv.storage.catalog import CATALOG_NAME, Catalog, merge_catalog
from dask_zv.storage.codecs import crc32c
from dask_zv.storage.locks import commit_lock
from dask_zv.storage.nodes import (
    LAST,
    drop_catalogs,
    ensure_groups,
    load_catalog,
    merge_attributes,
    merged_documents,
    put_catalog,
    put_documents,
    read_document,
    storing_order,
)
from dask_zv.storage.objects import Address, BytesLike, Objects
from dask_zv.storage.per_chunk.plan import shard_numbers
from dask_zv.storage.per_chunk.read import PerChunk
from dask_zv.storage.receipts import Receipt, combine_receipts, make_receipt
from dask_zv.storage.specs import BlockSpec, CommitSpec, PerChunkPlan, edit_is_done, end_write, normal_path, root_lock, unmark


def write_blob(objects: Objects, prefix: str, array: str, key: str, payload: bytes) -> None:
    """Store one blob; the array's group is looked at each time: another handle may have removed it."""
    document = read_document(objects, join(prefix, array))
    if document is None or document.get("node_type") != "group":  # those above it, too, or what is there is no group
        ensure_groups(objects, [join(prefix, array)])
    _put_plain(objects, prefix, [(array, key, payload)])
    drop_catalogs(objects, [join(prefix, array)], in_turn=True)  # they no longer say what is here


def write_blob_meta(objects: Objects, prefix: str, array: str, meta: Mapping[str, Any]) -> None:
    """Merge metadata into the attributes of an array's group, which is made where it is absent."""
    with commit_lock(objects, prefix):  # a batch's commit writes them, too
        merge_attributes(objects, join(prefix, array), meta)


def make_groups(objects: Objects, spec: CommitSpec) -> None:
    """Make the groups of a batch's arrays."""
    ensure_groups(objects, [join(spec.place.prefix, a) for a in spec.arrays])


def _put_blobs(objects: Objects, blobs: Iterable[tuple[str, bytes, BytesLike]]) -> list[int]:
    """Store blobs, (path, document, data), the data before the document that names it; return the stamps of their data."""

    def steps(path: str, document: bytes, data: BytesLike) -> list[tuple[str, BytesLike]]:
        described, content = (f"{path}/{DOCUMENT}", document), (f"{path}/c/0", data)
        return [*storing_order(objects, described, content)] if len(data) else [described]

    at = 1 if objects.nodes_first else 0
    return [stamps[at] if len(stamps) > 1 else 0 for stamps in objects.put_many(steps(*blob) for blob in blobs)]


def _put_plain(objects: Objects, prefix: str, blobs: Sequence[tuple[str, str, BytesLike]]) -> dict[Address, int]:
    """Store (array, chunk key, payload) blobs, each as its own array; return the stamps of their objects."""

    def described(array: str, key: str, data: BytesLike) -> tuple[str, bytes, BytesLike]:
        # no catalog has a checksum of what is no chunk: tables about objects and groups
        about = {PAYLOAD_CRC32C: crc32c(data)} if len(data) and not is_spatial_key(key) else None
        return join(prefix, array, key), blob_document(len(data), about), data

    stamps = _put_blobs(objects, (described(*blob) for blob in blobs)) if blobs else []
    for array, key, data in blobs:  # after the document says "empty": a reader in between reads b""
        content = join(prefix, array, key, "c/0")
        if not len(data) and objects.exists(content):
            objects.delete(content)
    return {(array, key): stamp for (array, key, _), stamp in zip(blobs, stamps, strict=True)}


def _put_shards(
    objects: Objects, prefix: str, shards: Mapping[tuple[str, int], Mapping[str, BytesLike]]
) -> tuple[dict[tuple[str, int], dict[str, tuple[int, int, int]]], list[int]]:
    """Store shards by (array, number), all at once, the blobs of each in ascending order of their keys.

    Returns (offset, length, CRC-32C) by key for each, and the stamps of their objects.
    """
    stored: dict[tuple[str, int], dict[str, tuple[int, int, int]]] = {}

    def packed() -> Iterator[tuple[str, bytes, BytesLike]]:
        for (array, number), blobs in shards.items():
            entries = stored[array, number] = {}
            offset = 0
            for key in sort_keys(blobs):
                entries[key] = (offset, len(blobs[key]), crc32c(blobs[key]))
                offset += len(blobs[key])
            document = blob_document(offset, shard_attributes(entries))
            yield join(prefix, array, shard_name(number)), document, b"".join([blobs[key] for key in entries])

    stamps = _put_blobs(objects, packed()) if shards else []
    return stored, stamps


def store_per_chunk(objects: Objects, spec: BlockSpec, payload: Mapping[Address, bytes], rows: Mapping[str, int]) -> Receipt:
    """Store a block's blobs."""
    blobs, plan, prefix = dict(payload), spec.packing, spec.place.prefix
    target = PerChunk(objects, prefix)
    shards: dict[tuple[str, int], dict[str, bytes]] = {}
    plain: list[tuple[str, str, bytes]] = []
    numbers = shard_numbers(blobs, plan.shard_chunks, plan.shard_number)
    for (array, key), data in blobs.items():
        number = numbers.get(key)
        if number is None or (array, key) in plan.stay_plain:
            plain.append((array, key, data))
        else:
            shards.setdefault((array, number), {})[key] = data
    stamps = _put_plain(objects, prefix, plain)
    places: dict[Address, tuple[int, int, int]] = {}
    with ExitStack() as turns:  # another batch may have chunks in the same shards
        for number in sorted({n for _, n in shards if any(n == m for _, m in plan.merge)}):
            turns.enter_context(commit_lock(objects, prefix, f"-{shard_name(number)}"))
        kept = {at: _kept_members(target, plan, *at, members) for at, members in shards.items()}
        together = {at: {**kept[at], **members} for at, members in shards.items()}
        stored, of_shards = _put_shards(objects, prefix, together)
    for ((array, number), entries), stamp in zip(stored.items(), of_shards, strict=True):
        told = [key for key in entries if (array, key) not in plan.beside]
        stamps.update(((array, key), stamp) for key in told)
        places.update({(array, key): (number, entries[key][0], entries[key][2]) for key in told})
        blobs.update({(array, key): data for key, data in kept[array, number].items() if key in told})
    for array, key in plan.superseded:
        objects.delete_prefix(target.path(array, key))
    return make_receipt(blobs, rows, places, len(plain) + len(shards), stamps)


def _kept_members(
    target: PerChunk, plan: PerChunkPlan, array: str, number: int, members: Mapping[str, bytes]
) -> dict[str, bytes]:
    """Return what a shard of ours already holds and this block does not replace."""
    if (array, number) not in plan.merge:
        return {}
    keep = [(array, key) for key in target.shard_keys(array, number) if key not in members]
    kept = {key: data for (_, key), data in target.read_many([a for a in keep if a not in plan.beside]).items()}
    # those are being stored by another task right now: what the shard has, so that the same bytes come of every run
    return kept | target.read_members(array, shard_name(number), [key for a, key in keep if (a, key) in plan.beside])


def commit_per_chunk(objects: Objects, spec: CommitSpec, total: Receipt, attributes: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the documents of arrays and groups, and the catalog; a group's writers take turns."""
    prefix = spec.place.prefix
    touched = {*total.arrays, *(a for a, _ in total.literals), *(spec.arrays if spec.replace else ())}
    arrays = {*spec.arrays, *touched}
    root = normal_path(prefix, "..") if spec.root else None
    with commit_lock(objects, prefix) as locked, root_lock(objects, spec):
        if edit_is_done(objects, spec):
            end_write(objects, spec, objects)
            return
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
                merge_attributes(objects, at, found, replace=own and (spec.replace or path in spec.whole))
        locked.check()
        _write_catalog(objects, spec, total)
        if spec.marker and not objects.nodes_first:
            unmark(objects, prefix, None if spec.replace else spec.marker)
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
    if old is not None:
        old = old.without((*spec.gone, *spec.whole))
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
    put_catalog(objects, prefix, replace(merged, edit=spec.edit))


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
