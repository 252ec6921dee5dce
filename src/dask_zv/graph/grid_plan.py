"""Planning a batch in layout ``grid``: which grid each array has, and blocks of whole shards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dask_zv.errors import PlanError
from dask_zv.format.grids import GridSpec
from dask_zv.format.keys import DOCUMENT, keys_to_coords
from dask_zv.graph.specs import Address, Place
from dask_zv.spatial.morton import morton_order
from dask_zv.storage.grid import GridArrays
from dask_zv.storage.grid_commit import GridPlan, commit_keys, lists_digest
from dask_zv.storage.grid_defaults import default_grid, shard_shape_of
from dask_zv.storage.grid_single import grid_for
from dask_zv.storage.nodes import load_catalog
from dask_zv.storage.objects import Objects, join
from dask_zv.storage.snapshot import snapshot


def plan_grids(
    objects: Objects,
    place: Place,
    addresses: Iterable[Address],
    metadata: Mapping[str, Mapping[str, object]],
    shards: int | Sequence[int] | None,
) -> GridPlan:
    """Return the grids of a batch's arrays: those that they have, or those that they get.

    Parameters
    ----------
    objects : Objects
    place : Place
    addresses : iterable of (array, chunk key)
    metadata : mapping of array to attributes
        Queued with the batch; ``shape`` and ``chunk_grid_origin`` name the grid of a new array.
    shards : int or sequence of int, optional
        Packing of new arrays; None takes that of the group's other arrays.

    Raises
    ------
    StoreError
        Nothing says which grid a new array is to have.
    BoundsError
        A chunk lies outside its array's grid.
    PlanError
        An array exists with another packing than was asked for.
    """
    keys: dict[str, list[str]] = {}
    for array, key in addresses:
        keys.setdefault(array, []).append(key)
    arrays = [*keys, *(a for a in metadata if a not in keys and "shape" in metadata[a])]
    objects = snapshot(objects, [*commit_keys(place.prefix, arrays), join(place.prefix, "vertices", DOCUMENT)])
    held = GridArrays(objects, place.prefix).arrays(arrays)
    catalog = load_catalog(objects, place.prefix)
    base = default_grid(objects, place.prefix) if any(a is None for a in held.values()) else None
    specs: dict[str, GridSpec] = {}
    for array, found in held.items():
        if found is not None:
            if shards is not None and _packing(found.spec, shards) != found.spec.shard_shape:
                raise PlanError(
                    f"the array is packed in shards of {found.spec.shard_shape}, not {shards}: leave shards out, or convert "
                    "the store with dzv.convert(shard_chunks=...)",
                    store=objects.url, array=join(place.prefix, array),
                )  # fmt: skip
            specs[array] = found.spec
            continue
        spec = grid_for(objects, place.prefix, array, metadata.get(array, {}), base)
        specs[array] = spec if shards is None else replace(spec, shard_shape=_packing(spec, shards))
    # arrays of a level are written with the same chunks: they are looked at once
    checked: dict[tuple[Any, ...], list[str]] = {}
    for array, wanted in keys.items():
        spec = specs[array]
        grid = (spec.origin, spec.shape)
        if checked.get(grid) != wanted:
            odd = next((k for k in wanted if k.count(".") + 1 != spec.rank), None)
            if odd is not None:
                where = join(place.prefix, array)
                raise PlanError(f"the array's chunk keys have rank {spec.rank}", store=objects.url, array=where, chunk=odd)
            coords = keys_to_coords(wanted, spec.rank)
            spec.cells_of(coords, join(place.prefix, array))
            checked[grid] = wanted
    existing = frozenset(a for a, found in held.items() if found is not None)
    if catalog is None:
        return GridPlan(specs, existing, listed=lists_digest(held))
    return GridPlan(specs, existing, catalog.token)


def _packing(spec: GridSpec, shards: int | Sequence[int]) -> tuple[int, ...] | None:
    return None if shards == 1 else shard_shape_of(shards, spec.rank, spec.shape)


def cut_units(plan: GridPlan, addresses: Sequence[Address]) -> list[list[Address]]:
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
        units = (keys_to_coords(keys, len(origin)) - origin) // shape
        order = morton_order(units)
        ordered = units[order]
        first = np.flatnonzero(np.r_[True, (ordered[1:] != ordered[:-1]).any(axis=1)])
        out += [[a for i in run.tolist() for a in members[keys[i]]] for run in np.split(order, first[1:])]
    return out


def check_owners(plan: GridPlan, blocks: Sequence[Sequence[Address]], store: str, prefix: str) -> None:
    """Raise where two blocks would store one shard.

    Raises
    ------
    PlanError
        Names the array and a chunk.
    """
    by_array: dict[str, tuple[list[str], list[int]]] = {}
    for number, addresses in enumerate(blocks):
        for array, key in addresses:
            if plan.specs[array].shard_shape is not None:
                keys, owners = by_array.setdefault(array, ([], []))
                keys.append(key)
                owners.append(number)
    for array, (keys, numbers) in by_array.items():
        spec = plan.specs[array]
        shards = spec.shards_of(spec.cells_of(keys_to_coords(keys, spec.rank)))[0]
        owners_of = np.array(numbers)
        order = np.lexsort((owners_of, *shards.T[::-1]))
        same = (shards[order][1:] == shards[order][:-1]).all(axis=1) & (owners_of[order][1:] != owners_of[order][:-1])
        if same.any():
            chunk = keys[int(order[1:][same][0])]
            raise PlanError(
                f"two tasks of one batch would write this chunk's shard (of {spec.shard_shape} chunks): let each block yield "
                "whole shards, or make the array with shard_chunks=1",
                store=store, array=join(prefix, array), chunk=chunk,
            )  # fmt: skip


def replaces(objects: Objects, place: Place, plan: GridPlan, addresses: Iterable[Address]) -> bool:
    """Tell whether a batch writes chunks that are there already."""
    held = GridArrays(objects, place.prefix).arrays(plan.existing) if plan.existing else {}
    listed = {a: found.nonempty or frozenset() for a, found in held.items() if found is not None}
    return any(key in listed[array] for array, key in addresses if array in listed)
