"""Planning a batch in layout ``per_chunk``: which blobs go together, and how beside what is there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from dask_zv.format.keys import DOCUMENT, is_spatial_key, join, parse_key, shard_id, shard_name
from dask_zv.spatial.chunks import morton_codes, morton_order
from dask_zv.storage.nodes import load_catalog
from dask_zv.storage.objects import Address, Objects
from dask_zv.storage.per_chunk.read import ArrayListing, PerChunk
from dask_zv.storage.specs import BatchPlan, BlockSpec, CommitSpec, PerChunkPlan, Place, Queued, keys_digest

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
    beside = frozenset((members & every) - set(addresses))
    packing = PerChunkPlan(shards, number, frozenset(stay), tuple(sorted(merge)), tuple(superseded), beside)
    return BlockSpec(place, packing=packing, declared=declared)  # what the batch cut itself has the right keys
