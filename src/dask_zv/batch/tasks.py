"""The bodies of the tasks: store a block, commit. Plain functions of plain values; no Dask here."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dask_zv.batch.receipts import Receipt, Report, combine_receipts, make_receipt
from dask_zv.errors import PlanError
from dask_zv.format.keys import check_chunk_key, is_spatial_key, parse_key
from dask_zv.format.shards import is_shard_name, shard_name
from dask_zv.spatial.morton import morton_codes
from dask_zv.storage.catalog import CATALOG_NAME, Catalog, encode_catalog, merge_catalog
from dask_zv.storage.handles import StoreHandle, open_objects
from dask_zv.storage.nodes import (
    as_bytes,
    check_array_name,
    drop_catalogs,
    ensure_groups,
    load_catalog,
    merge_attributes,
)
from dask_zv.storage.objects import Objects, join
from dask_zv.storage.per_chunk import PerChunk

__all__ = ["BlockResult", "BlockSpec", "CommitSpec", "EncodedBlock", "Place", "commit", "keys_digest", "prepare", "store_block"]

Address = tuple[str, str]
"""(array, chunk key)."""


@dataclass(frozen=True, slots=True)
class Place:
    """The group that a batch writes to, and the layout of its arrays."""

    handle: StoreHandle
    prefix: str
    layout: str = "per_chunk"

    def open(self) -> PerChunk:
        """Return the group's blobs, through this process' open store."""
        return PerChunk(open_objects(self.handle), self.prefix)


@dataclass(frozen=True, slots=True)
class BlockSpec:
    """How one task stores its blobs.

    Attributes
    ----------
    place : Place
    declared : str, optional
        Digest of the addresses that the payload must have.
    shard_chunks : int, optional
        Pack the blobs into shards, cut at multiples of this along the Morton curve; None stores every blob on its own.
    shard_number : int, optional
        Pack all blobs of an array into this one shard instead.
    stay_plain : frozenset of address
        Blobs that another task's shard holds: they go beside it, where they win over it.
    merge : tuple of (array, shard)
        Shards of this block that exist and hold other chunks, which must be kept.
    superseded : tuple of address
        Blobs stored as arrays of their own, to be removed once the shard holds them.
    beside : frozenset of address
        Members of the shards to merge that another block of the batch stores as arrays of their own: they stay in the
        shard as they are, and that block's receipt speaks of them.
    """

    place: Place
    declared: str | None = None
    shard_chunks: int | None = None
    shard_number: int | None = None
    stay_plain: frozenset[Address] = frozenset()
    merge: tuple[tuple[str, int], ...] = ()
    superseded: tuple[Address, ...] = ()
    beside: frozenset[Address] = frozenset()


@dataclass(frozen=True, slots=True)
class EncodedBlock:
    """A payload that also knows how many vertices each chunk has, and what later tasks want of it."""

    blobs: Mapping[Address, Any]
    rows: Mapping[str, int] = field(default_factory=dict)
    extra: Any = None


@dataclass(frozen=True, slots=True)
class BlockResult:
    """What a block's task returns: its receipt, when it ran, and the payload's `extra`."""

    receipt: Receipt
    started: float
    ended: float
    extra: Any = None


@dataclass(frozen=True, slots=True)
class CommitSpec:
    """What the commit does when all blocks are stored.

    Attributes
    ----------
    place : Place
    metadata : tuple of (path below the place, attributes)
        Attributes merged into nodes, in this order: what makes data visible comes last.
    arrays : tuple of str
        Arrays whose groups must exist.
    catalog : bool
        Write the catalog; False where the group already holds blobs that no catalog lists.
    replace : bool
        The batch is the whole content of its `arrays`: what they held before is removed.
    remove : tuple of str
        Nodes to remove.
    report : Report
        What is known before the run.
    extends_catalog : bool
        There was a catalog when the batch was planned: where it is gone at the end, somebody wrote blobs that none lists.
    """

    place: Place
    metadata: tuple[tuple[str, Mapping[str, Any]], ...]
    arrays: tuple[str, ...]
    catalog: bool
    replace: bool
    remove: tuple[str, ...]
    report: Report
    extends_catalog: bool = False


def keys_digest(addresses: Iterable[Address]) -> str:
    """Return a short digest of a set of addresses."""
    text = "\n".join(sorted([f"{array}\t{key}" for array, key in addresses]))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


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


def normalise(payload: Any, spec: BlockSpec) -> tuple[dict[Address, bytes], Mapping[str, int]]:
    """Return a payload as ``{(array, chunk key): bytes}`` with the rows of its chunks.

    Raises
    ------
    PlanError
        It isn't a mapping, or holds other keys than were declared.
    """
    rows: Mapping[str, int] = {}
    if isinstance(payload, EncodedBlock):
        payload, rows = payload.blobs, payload.rows
    items: Iterable[tuple[Address, Any]]
    if isinstance(payload, Mapping):
        items = payload.items()
    elif isinstance(payload, list) and all(isinstance(item, tuple) and len(item) == 3 for item in payload):
        items = (((array, key), data) for array, key, data in payload)
    else:
        raise PlanError(
            f"a block must yield {{(array, chunk_key): bytes}}, not {type(payload).__name__}",
            store=spec.place.handle.url, array=spec.place.prefix,
        )  # fmt: skip
    blobs: dict[Address, bytes] = {}
    for address, data in items:
        if not (isinstance(address, tuple) and len(address) == 2):
            raise PlanError(f"a block's key is (array, chunk_key), not {address!r}", store=spec.place.handle.url)
        array, key = check_array_name(address[0]), check_chunk_key(address[1])
        blobs[array, key] = data if type(data) is bytes else as_bytes(data, join(spec.place.prefix, array), key)
    if spec.declared is not None and keys_digest(blobs) != spec.declared:
        shown = ", ".join(map(repr, sorted(blobs)[:3]))
        raise PlanError(
            f"a block yielded other keys than it declared ({len(blobs)} of them: {shown}, …): declare what the task yields, "
            "nothing of this block was stored",
            store=spec.place.handle.url, array=spec.place.prefix,
        )  # fmt: skip
    return blobs, rows


def store_block(spec: BlockSpec, payload: Any) -> BlockResult:
    """Store one block's blobs.

    Running it twice stores the same objects with the same bytes.
    """
    started = time.time()
    blobs, rows = normalise(payload, spec)
    target = spec.place.open()
    shards: dict[tuple[str, int], dict[str, bytes]] = {}
    plain: list[tuple[str, str, bytes]] = []
    numbers = shard_numbers(blobs, spec.shard_chunks, spec.shard_number)
    for (array, key), data in blobs.items():
        number = numbers.get(key)
        if number is None or (array, key) in spec.stay_plain:
            plain.append((array, key, data))
        else:
            shards.setdefault((array, number), {})[key] = data
    target.write(plain)
    kept = {at: _kept_members(target, spec, *at, members) for at, members in shards.items()}
    places: dict[Address, tuple[int, int, int]] = {}
    stored = target.write_shards({at: {**kept[at], **members} for at, members in shards.items()})
    for (array, number), entries in stored.items():
        told = [key for key in entries if (array, key) not in spec.beside]
        places.update({(array, key): (number, entries[key][0], entries[key][2]) for key in told})
        blobs.update({(array, key): data for key, data in kept[array, number].items() if key in told})
    for array, key in spec.superseded:
        target.objects.delete_prefix(target.path(array, key))
    receipt = make_receipt(blobs, rows, places, len(plain) + len(shards))
    return BlockResult(receipt, started, time.time(), getattr(payload, "extra", None))


def _kept_members(target: PerChunk, spec: BlockSpec, array: str, number: int, members: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return what a shard of ours already holds and this block does not replace."""
    if (array, number) not in spec.merge:
        return {}
    held = target.listing(array).shards.get(shard_name(number), {})
    keep = [(array, key) for key in held if key not in members]
    kept = {key: data for (_, key), data in target.read_many([a for a in keep if a not in spec.beside]).items()}
    # those are being stored by another task right now: what the shard has, so that the same bytes come of every run
    return kept | target.read_members(array, shard_name(number), [key for a, key in keep if (a, key) in spec.beside])


def prepare(spec: CommitSpec) -> None:
    """Make the nodes that must exist before their chunks (stores with `nodes_first`)."""
    objects = open_objects(spec.place.handle)
    if objects.nodes_first:
        ensure_groups(objects, [join(spec.place.prefix, a) for a in spec.arrays])


def commit(spec: CommitSpec, results: Sequence[BlockResult]) -> Report:
    """Write the metadata that makes the stored blocks the group's content, and return the report."""
    started = time.time()
    objects = open_objects(spec.place.handle)
    total = combine_receipts([r.receipt for r in results])
    touched = {*total.arrays, *(a for a, _ in total.literals), *(spec.arrays if spec.replace else ())}
    arrays = {*spec.arrays, *touched}
    # groups above and below may have catalogs that speak of these arrays, too
    drop_catalogs(objects, [join(spec.place.prefix, a) for a in touched], keep=spec.place.prefix)
    ensure_groups(objects, [join(spec.place.prefix, a) for a in sorted(arrays)] or [spec.place.prefix])
    # an array's own metadata first, the level's and the root's at the end
    for path, attributes in spec.metadata:
        if path in arrays:
            merge_attributes(objects, join(spec.place.prefix, path), attributes, replace=spec.replace)
    _write_catalog(objects, spec, total)
    for path, attributes in spec.metadata:
        if path not in arrays:
            merge_attributes(objects, _normal_path(spec.place.prefix, path), attributes)
    if spec.replace:
        _remove_leftovers(objects, spec, total)
    for path in spec.remove:
        objects.delete_prefix(join(spec.place.prefix, path))
    known = spec.report
    rows = int(total.rows.sum()) if len(total.rows) and (total.rows >= 0).all() else known.rows
    counts = {name: int((c.nbytes >= 0).sum()) for name, c in total.arrays.items()}
    for array, _ in total.literals:
        counts[array] = counts.get(array, 0) + 1
    starts = [r.started for r in results] or [started]
    return Report(
        rows, len(total.coords), known.objects, total.nbytes, total.stored_objects, len(results),
        max(time.time() - min(starts), 0.0), known.dropped, dict(sorted(counts.items())),
    )  # fmt: skip


def _normal_path(prefix: str, path: str) -> str:
    """Resolve ``..`` at the start of a path: a level's commit also writes the attributes of the root above it."""
    while path == ".." or path.startswith("../"):
        prefix, path = prefix.rpartition("/")[0], path[3:]
    return join(prefix, path)


def _write_catalog(objects: Objects, spec: CommitSpec, total: Receipt) -> None:
    path = join(spec.place.prefix, CATALOG_NAME)
    if not spec.catalog or len(total.ranks) > 1:
        if objects.exists(f"{path}/zarr.json"):  # what it says is no longer all
            objects.delete_prefix(path)
        return
    old = None if spec.replace else load_catalog(objects, spec.place.prefix)
    if old is None and spec.extends_catalog:
        return
    if old is not None and len(old) and len(total.coords) and old.coords.shape[1] != total.coords.shape[1]:
        objects.delete_prefix(path)
        return
    if not len(total.coords) and old is None and not spec.replace:
        return
    merged: Catalog = merge_catalog(old, total.coords, total.rows, total.arrays)
    PerChunk(objects, spec.place.prefix).write_node(CATALOG_NAME, encode_catalog(merged))


def _remove_leftovers(objects: Objects, spec: CommitSpec, total: Receipt) -> None:
    """Remove the blobs and shards that the arrays held before and this batch did not write."""
    target = PerChunk(objects, spec.place.prefix)
    for array in spec.arrays:
        columns = total.arrays.get(array)
        keep: set[str] = {"zarr.json"}
        if columns is not None:
            own = (columns.nbytes >= 0) & (columns.shard < 0)
            keep.update(".".join(map(str, c)) for c in total.coords[own].tolist())
            keep.update(shard_name(n) for n in np.unique(columns.shard[columns.shard >= 0]).tolist())
        keep.update(key for name, key in total.literals if name == array)
        for name in objects.list_dir(target.path(array)):
            if name not in keep and (is_shard_name(name) or is_spatial_key(name)):
                objects.delete_prefix(target.path(array, name))
