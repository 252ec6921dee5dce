"""Planning a batch in layout ``grid``: which grid each array has, and blocks of whole shards."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import InvalidNameError, PlanError, StoreError
from dask_zv.format.grids import NONEMPTY, ORIGIN, GridArray, GridSpec, cell_path, listed_coords
from dask_zv.format.keys import DOCUMENT, ancestors, is_spatial_key, join, keys_to_coords
from dask_zv.spatial.chunks import morton_order
from dask_zv.storage.catalog import CATALOG_NAME, Catalog
from dask_zv.storage.grid.settings import default_grid, shard_shape_of, spec_from_meta
from dask_zv.storage.nodes import load_catalog, read_grids
from dask_zv.storage.objects import Address, Objects, snapshot
from dask_zv.storage.receipts import Receipt
from dask_zv.storage.specs import BatchPlan, BlockSpec, CommitSpec, GridPlan, Place, Queued, keys_digest


def found_by(held: Mapping[str, GridArray | None], specs: Mapping[str, GridSpec], token: str = "") -> GridPlan:
    """Return the plan of a batch that found these arrays, and a catalog with this token."""
    existing = frozenset(a for a, found in held.items() if found is not None)
    return GridPlan(specs, existing, token, listed="" if token else _lists_digest(held))


def check_shards(
    plan: GridPlan,
    objects: Objects,
    prefix: str,
    total: Receipt,
    held: Mapping[str, GridArray | None],
    catalog: Catalog | None,
) -> None:
    """Raise where another writer, since the batch was planned, committed chunks to a shard that the batch stored."""
    if catalog is None and _lists_digest(held) == plan.listed:
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


def _lists_digest(held: Mapping[str, GridArray | None]) -> str:
    """Return a digest of which chunks the arrays in shards list; empty where there are none of these."""
    lines = [
        f"{array} {' '.join(sorted(found.nonempty or ()))}"
        for array, found in sorted(held.items())
        if found is not None and found.spec.shard_shape is not None
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest() if lines else ""


def commit_keys(prefix: str, arrays: Iterable[str]) -> list[str]:
    """Return the keys of what a commit looks at: the group's catalog, its arrays' documents, those of the groups above them."""
    keys = [join(prefix, CATALOG_NAME, "c/0")]
    for array in arrays:
        above = ancestors(join(prefix, array))
        keys += [join(path, DOCUMENT) for path in above]
        keys += [join(path, CATALOG_NAME, DOCUMENT) for path in above]
    return keys


def check_spatial(array: str, key: str) -> None:
    """Raise where a grid can't have a chunk key."""
    if not is_spatial_key(key):
        raise InvalidNameError(f"chunk key {key!r} of array {array!r}: chunk keys of layout 'grid' are integers")


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
    plan = found_by({a: held[a] for a in specs}, specs, "" if catalog is None else catalog.token)
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
    plan = replace(plan, marker=queued.run if replaces else "")
    spec = BlockSpec(place, grid=plan)
    blocks = [spec] * len(single) + [replace(spec, declared=keys_digest(block)) for block in queued.blocks]
    return BatchPlan(single, blocks, CommitSpec(place, tuple(metadata.items()), tuple(plan.specs), catalog=True, grid=plan))
