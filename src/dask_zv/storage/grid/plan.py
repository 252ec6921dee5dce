"""Which grid each array has, and how a batch is planned by it: in blocks of whole shards.

An array that is not there yet gets the grid of its siblings, of its level, or of the store's bounds.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.config import settings
from dask_zv.errors import InputError, InvalidNameError, MetadataError, PlanError, StoreError
from dask_zv.format.documents import parse_document
from dask_zv.format.grids import MAX_SHARD_CELLS, NONEMPTY, ORIGIN, GridArray, GridSpec, codec_list, parse_grid_document
from dask_zv.format.keys import DOCUMENT, ancestors, is_spatial_key, join, keys_to_coords
from dask_zv.spatial.chunks import morton_order
from dask_zv.storage.catalog import CATALOG_NAME
from dask_zv.storage.nodes import SETTINGS, load_catalog, read_grids
from dask_zv.storage.objects import Address, Objects, snapshot
from dask_zv.storage.specs import BatchPlan, BlockSpec, CommitSpec, GridPlan, Place, Queued, keys_digest


def shard_shape_of(shard_chunks: int | Sequence[int], rank: int, shape: Sequence[int] | None = None) -> tuple[int, ...]:
    """Return the extents of a shard in cells.

    `shard_chunks`: chunks in a shard: a power of two, or the next below, is spread evenly over the last axes; or the extents
    themselves; `rank`: rank of the chunk keys; `shape`: extents of the grid: a short axis leaves its share to the others.
    """
    if not isinstance(shard_chunks, int):
        extents = tuple(int(s) for s in shard_chunks)
        if len(extents) == rank - 1:  # an attribute leads the keys: its values are not packed together
            extents = (1, *extents)
        if len(extents) != rank or any(s < 1 for s in extents):
            raise InputError(
                f"shard_chunks {shard_chunks!r}: {rank} positive extents are wanted, one for each axis of the grid"
            )
        return extents
    if shard_chunks < 1:
        raise InputError(f"shard_chunks must be positive, not {shard_chunks}")
    out = [1] * rank
    room = [1 << 20] * rank if shape is None else [1 << max(0, math.ceil(math.log2(max(s, 1)))) for s in shape]
    for _ in range(shard_chunks.bit_length() - 1):
        open_axes = [a for a in range(rank) if out[a] < room[a]] or list(range(rank))
        # the least first, of equals the first: 256 in three dimensions is 8 x 8 x 4
        axis = min(open_axes, key=lambda a: (out[a], a))
        out[axis] *= 2
    return tuple(out)


def packing(
    shard_chunks: int | Sequence[int] | str, chunks: int, shape: Sequence[int], *, local: bool
) -> tuple[int, ...] | None:
    """Return the extents of a shard, None for an object per chunk.

    The level has so many `chunks` in a grid of this `shape`; in a `local` store (a directory, or in memory) an object is cheap.
    """
    if shard_chunks == "auto":
        shard_chunks = 1 if local and chunks <= settings().few_chunks else settings().shard_chunks
    assert not isinstance(shard_chunks, str)
    return None if shard_chunks == 1 else shard_shape_of(shard_chunks, len(shape), shape)


def grid_of_bounds(chunk_shape: Sequence[float], low: Sequence[float], high: Sequence[float]) -> tuple[list[int], list[int]]:
    """Return (origin, extents) of the cells that a box needs (FORMAT.md C.1)."""
    edges = np.asarray(chunk_shape, np.float64)
    corners = np.floor(np.stack([np.asarray(low, np.float64), np.asarray(high, np.float64)]) / edges)
    if not (np.abs(corners) < 2.0**53).all():
        raise InputError(
            f"bounds {np.asarray(low).tolist()} to {np.asarray(high).tolist()} lie more than 2**53 chunks of "
            f"{edges.tolist()} from the origin: choose a larger chunk_shape"
        )
    first, last = corners.astype(np.int64)
    return first.tolist(), np.maximum(last - first + 1, 1).tolist()


def grid_settings(spec: GridSpec) -> dict[str, Any]:
    """Return a grid as JSON, for a level's attributes."""
    return {
        "shape": list(spec.shape),
        "origin": list(spec.origin),
        "shard_shape": None if spec.shard_shape is None else list(spec.shard_shape),
        "codecs": [dict(c) for c in spec.codecs],
    }


def spec_from_meta(meta: Mapping[str, Any], base: GridSpec | None = None) -> GridSpec | None:
    """Return the grid that an array's metadata asks for by ``shape`` and ``chunk_grid_origin``, None where it does not."""
    if "shape" not in meta:
        return None
    shape, origin = meta["shape"], meta.get(ORIGIN)
    if not isinstance(shape, list | tuple):
        raise StoreError(f"shape of a grid array is a list of extents, one for each axis of the grid, not {shape!r:.80}")
    for what, values in (("shape", shape), (ORIGIN, [0] * len(shape) if origin is None else origin)):
        if not isinstance(values, list | tuple) or len(values) != len(shape) or not all(type(v) is int for v in values):
            raise StoreError(f"{what} of a grid array is a list of integers, one for each axis of the grid, not {values!r:.80}")
    if len(shape) < 2 or any(s < 1 for s in shape):
        raise StoreError(f"shape of a grid array is two or more positive extents, not {shape!r:.80}")
    shards = base.shard_shape if base is not None and base.rank == len(shape) else None
    codecs = base.codecs if base is not None else ()
    return GridSpec(tuple(shape), tuple(origin or [0] * len(shape)), shards, codecs)


def grid_for(objects: Objects, prefix: str, array: str, meta: Mapping[str, Any], base: GridSpec | None) -> GridSpec:
    """Return the grid of an array that is to be made: what its metadata names, else `base`, that of the group's new arrays."""
    spec = spec_from_meta(meta, base) or base
    if spec is None:
        raise StoreError(
            f"array {array!r} does not exist yet, and its grid is unknown: create the store with "
            "dzv.create(bounds=...), or write_array_meta(array, {'shape': [...], 'chunk_grid_origin': [...]}) first",
            store=objects.url, array=join(prefix, array),
        )  # fmt: skip
    return spec


def without_grid(meta: Mapping[str, Any], spec: GridSpec, path: str, store: str) -> dict[str, Any]:
    """Return metadata without what an array's grid already says; it can't ask for another grid."""
    asked = spec_from_meta(meta, spec)
    if asked is not None and asked != spec and asked != replace(spec, origin=(0,) * spec.rank):
        raise PlanError(
            f"the array's grid has the extents {list(spec.shape)} from {list(spec.origin)}: metadata cannot change it; use "
            "store.expand(bounds)",
            store=store, array=path,
        )  # fmt: skip
    if NONEMPTY in meta:
        raise PlanError(f"{NONEMPTY} is maintained by the writer of chunks: leave it out", store=store, array=path)
    return {k: v for k, v in meta.items() if k not in ("shape", ORIGIN)}


def default_grid(objects: Objects, prefix: str) -> GridSpec | None:
    """Return the grid of new arrays of the group at `prefix`, None where nothing says which.

    Looked for in the group's own settings, in its ``vertices``, and in the bounds that its store was made with.
    """
    parent = prefix.rpartition("/")[0]
    paths = [join(prefix, DOCUMENT), join(prefix, "vertices", DOCUMENT), join(parent, DOCUMENT)]
    own, vertices, above = objects.get_many([(p, None) for p in paths])
    level = _attributes(own, prefix, objects)
    grid = level.get(SETTINGS, {}).get("grid") if isinstance(level.get(SETTINGS), Mapping) else None
    if grid is not None:
        return parse_settings(grid, prefix, objects.url)
    if vertices is not None:
        path = join(prefix, "vertices")
        found = parse_grid_document(parse_document(vertices, path, objects.url), path, objects.url)
        if found is not None:
            return found.spec
    if not prefix or above is None:
        return None
    root = _attributes(above, parent, objects)
    return _of_root(root, level, parent, objects.url)


def _attributes(document: bytes | None, path: str, objects: Objects) -> dict[str, Any]:
    return {} if document is None else dict(parse_document(document, path, objects.url).get("attributes", {}))


def parse_settings(grid: Any, path: str, store: str) -> GridSpec:
    """Return the grid in a level's attributes, as :func:`grid_settings` gives it."""
    try:
        shards = grid["shard_shape"]
        lists = [grid["shape"], grid["origin"], [1] * len(grid["shape"]) if shards is None else shards]
        whole = all(type(v) is int and abs(v) < 1 << 53 for values in lists for v in values)
        if (
            not whole
            or len({len(v) for v in lists}) != 1
            or min(*lists[0], *lists[2]) < 1
            or math.prod(lists[2]) > MAX_SHARD_CELLS
        ):
            raise ValueError(f"{lists!r:.200}")
        extents, origin, cells = map(tuple, lists)
        return GridSpec(extents, origin, None if shards is None else cells, codec_list(grid["codecs"]))
    except (KeyError, TypeError, ValueError) as error:
        raise MetadataError(f"the attribute {SETTINGS}.grid is damaged: {error!r:.300}", store=store, array=path) from error


def _of_root(root: Mapping[str, Any], level: Mapping[str, Any], path: str, store: str) -> GridSpec | None:
    zv = root.get("zarr_vectors")
    settings = root.get(SETTINGS, {})
    if not isinstance(zv, Mapping) or (isinstance(settings, Mapping) and settings.get("bounds") == "data"):
        return None
    try:
        own = level.get("zarr_vectors_level", {})
        chunk_shape = own.get("chunk_shape") or zv["chunk_shape"]
        low, high = zv["bounds"]
        origin, shape = grid_of_bounds(chunk_shape, low, high)
        values = own.get("chunk_attribute_values")
        dims = own.get("chunk_dims")
        known = dims is None or len(dims) == len(origin) or values is not None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MetadataError(
            f"the bounds or chunk_shape of the store are damaged: {error!r}", store=store, array=path
        ) from error
    if not known:  # bins, groups or objects lead the keys, and nothing says how many there are
        return None
    if values is not None:
        origin, shape = [0, *origin], [len(values), *shape]
    return GridSpec(tuple(shape), tuple(origin))


# ---------------------------------------------------------------------------------------------- batches


def check_spatial(array: str, key: str) -> None:
    """Raise where a grid can't have a chunk key."""
    if not is_spatial_key(key):
        raise InvalidNameError(f"chunk key {key!r} of array {array!r}: chunk keys of layout 'grid' are integers")


def commit_keys(prefix: str, arrays: Iterable[str]) -> list[str]:
    """Return the keys of what a commit looks at: the group's catalog, its arrays' documents, those of the groups above them."""
    keys = [join(prefix, CATALOG_NAME, "c/0")]
    for array in arrays:
        above = ancestors(join(prefix, array))
        keys += [join(path, DOCUMENT) for path in above]
        keys += [join(path, CATALOG_NAME, DOCUMENT) for path in above]
    return keys


def lists_digest(held: Mapping[str, GridArray | None]) -> str:
    """Return a digest of which chunks the arrays in shards list; empty where there are none of these."""
    lines = [
        f"{array} {' '.join(sorted(found.nonempty or ()))}"
        for array, found in sorted(held.items())
        if found is not None and found.spec.shard_shape is not None
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest() if lines else ""


def plan_grids(
    objects: Objects,
    prefix: str,
    keys: Mapping[str, list[str]],
    metadata: Mapping[str, Mapping[str, Any]],
    shards: int | Sequence[int] | None,
) -> tuple[GridPlan, dict[str, dict[str, Any]], bool]:
    """Return the grids of a batch's arrays, their metadata without them, and whether chunks are there that the batch writes.

    Arrays keep the grid that they have. `metadata` may name that of a new one by ``shape`` and ``chunk_grid_origin``; `shards`
    is the packing of new ones, None takes that of the group's other arrays.
    """
    new = [a for a in metadata if a not in keys and "shape" in metadata[a]]
    wanted = [*commit_keys(prefix, [*keys, *metadata]), join(prefix, "vertices", DOCUMENT)]
    objects = snapshot(objects, wanted)
    held = read_grids(objects, prefix, [*keys, *metadata])
    catalog = load_catalog(objects, prefix)
    base = default_grid(objects, prefix) if any(held[a] is None for a in (*keys, *new)) else None
    specs: dict[str, GridSpec] = {}
    for array in (*keys, *new):
        found = held[array]
        spec = found.spec if found is not None else grid_for(objects, prefix, array, metadata.get(array, {}), base)
        packing = spec.shard_shape
        if shards is not None:
            packing = None if shards == 1 else shard_shape_of(shards, spec.rank, spec.shape)
        if found is not None and packing != spec.shard_shape:
            raise PlanError(
                f"the array is packed in shards of {spec.shard_shape}, not {shards}: leave shards out, or convert "
                "the store with dzv.convert(shard_chunks=...)",
                store=objects.url, array=join(prefix, array),
            )  # fmt: skip
        specs[array] = replace(spec, shard_shape=packing)
    _check_keys(specs, keys, objects.url, prefix)
    specs |= {a: found.spec for a in metadata if (found := held[a]) is not None}
    existing = frozenset(a for a in specs if held[a] is not None)
    digest = lists_digest({a: held[a] for a in specs}) if catalog is None else ""
    plan = GridPlan(specs, existing, "" if catalog is None else catalog.token, listed=digest)
    attributes = {
        a: without_grid(meta, specs[a], join(prefix, a), objects.url) if a in specs else dict(meta)
        for a, meta in metadata.items()
    }
    listed = {a: found.nonempty for a, found in held.items() if found is not None and found.nonempty}
    replaces = any(not listed[a].isdisjoint(keys[a]) for a in keys if a in listed)
    return plan, attributes, replaces


def _check_keys(specs: Mapping[str, GridSpec], keys: Mapping[str, list[str]], store: str, prefix: str) -> None:
    """Raise where a chunk is none of its array's grid; arrays of a level have the same chunks, which are looked at once."""
    checked: dict[tuple[Any, ...], list[str]] = {}
    for array, wanted in keys.items():
        spec, path = specs[array], join(prefix, array)
        if checked.get((spec.origin, spec.shape)) == wanted:
            continue
        odd = next((k for k in wanted if k.count(".") + 1 != spec.rank), None)
        if odd is not None:
            raise PlanError(f"the array's chunk keys have rank {spec.rank}", store=store, array=path, chunk=odd)
        spec.cells_of(keys_to_coords(wanted, spec.rank), path)
        checked[spec.origin, spec.shape] = wanted


def cut_units(plan: GridPlan, addresses: Iterable[Address]) -> list[list[Address]]:
    """Group addresses by shard, all arrays of one grid together, in the order of the Morton curve."""
    by_grid: dict[tuple[tuple[int, ...], tuple[int, ...] | None], dict[str, list[Address]]] = {}
    grids = {array: (spec.origin, spec.shard_shape) for array, spec in plan.specs.items()}
    for address in addresses:
        by_grid.setdefault(grids[address[0]], {}).setdefault(address[1], []).append(address)
    out: list[list[Address]] = []
    for grid in sorted(by_grid, key=repr):
        members = by_grid[grid]
        keys = list(members)
        origin, shape = np.asarray(grid[0], np.int64), np.asarray(grid[1] or 1, np.int64)
        units: NDArray[np.int64] = (keys_to_coords(keys, len(origin)) - origin) // shape
        order = morton_order(units)
        ordered = units[order]
        first = np.flatnonzero(np.r_[True, (ordered[1:] != ordered[:-1]).any(axis=1)])
        out += [[a for i in run.tolist() for a in members[keys[i]]] for run in np.split(order, first[1:])]
    return out


def check_owners(plan: GridPlan, blocks: Iterable[Sequence[Address]], store: str, prefix: str) -> None:
    """Raise where two blocks would store one shard; the error names the array and a chunk."""
    by_array: dict[str, tuple[list[str], list[int]]] = {}
    for number, addresses in enumerate(blocks):
        for array, key in addresses:
            if plan.specs[array].shard_shape is not None:
                keys, owners = by_array.setdefault(array, ([], []))
                keys.append(key)
                owners.append(number)
    for array, (keys, numbers) in by_array.items():
        spec = plan.specs[array]
        shards = spec.objects_of(keys_to_coords(keys, spec.rank))
        owner = np.array(numbers)
        order = np.lexsort((owner, *shards.T[::-1]))
        same = (shards[order][1:] == shards[order][:-1]).all(axis=1) & (owner[order][1:] != owner[order][:-1])
        if same.any():
            raise PlanError(
                f"two tasks of one batch would write this chunk's shard (of {spec.shard_shape} chunks): let each block yield "
                "whole shards, or make the array with shard_chunks=1",
                store=store, array=join(prefix, array), chunk=keys[int(order[1:][same][0])],
            )  # fmt: skip


def plan_in_grid(objects: Objects, place: Place, queued: Queued) -> BatchPlan:
    """Return how a batch is stored: whole shards go together."""
    keys: dict[str, list[str]] = {}
    for array, key in queued.addresses():
        keys.setdefault(array, []).append(key)
    plan, metadata, replaces = plan_grids(objects, place.prefix, keys, queued.metadata, queued.shards)
    single = queued.cut(cut_units(plan, queued.sizes))
    if queued.blocks:  # what was cut here is whole shards
        check_owners(plan, [*single, *queued.blocks], objects.url, place.prefix)
    spec = BlockSpec(place, plan)
    blocks = [spec] * len(single) + [replace(spec, declared=keys_digest(block)) for block in queued.blocks]
    marker = queued.run if replaces else ""
    commit = CommitSpec(place, tuple(metadata.items()), tuple(plan.specs), catalog=True, grid=plan, marker=marker)
    return BatchPlan(single, blocks, commit)
