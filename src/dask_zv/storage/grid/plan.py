"""Planning a batch in layout ``grid``: which grid each array has, and blocks of whole shards."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dask_zv.errors import InvalidNameError, PlanError, StoreError
from dask_zv.format.grids import NONEMPTY, ORIGIN, GridArray, GridSpec
from dask_zv.format.keys import DOCUMENT, is_spatial_key, join, keys_to_coords
from dask_zv.spatial.morton import morton_order
from dask_zv.storage.catalog import CATALOG_NAME
from dask_zv.storage.grid.read import GridArrays
from dask_zv.storage.grid.settings import default_grid, shard_shape_of, spec_from_meta
from dask_zv.storage.nodes import load_catalog
from dask_zv.storage.objects import Address, Objects, snapshot


def plan_grids(
    objects: Objects,
    prefix: str,
    addresses: Iterable[Address],
    metadata: Mapping[str, Mapping[str, object]],
    shards: int | Sequence[int] | None,
) -> GridPlan:
    """Return the grids of a batch's arrays: those that they have, or those that they get.

    `metadata`: queued with the batch; ``shape`` and ``chunk_grid_origin`` name the grid of a new array; `shards`: packing of
    new arrays; None takes that of the group's other arrays.
    """
    keys: dict[str, list[str]] = {}
    for array, key in addresses:
        keys.setdefault(array, []).append(key)
    arrays = [*keys, *(a for a in metadata if a not in keys and "shape" in metadata[a])]
    objects = snapshot(objects, [*commit_keys(prefix, arrays), join(prefix, "vertices", DOCUMENT)])
    held = GridArrays(objects, prefix).arrays(arrays)
    catalog = load_catalog(objects, prefix)
    base = default_grid(objects, prefix) if any(a is None for a in held.values()) else None
    specs: dict[str, GridSpec] = {}
    for array, found in held.items():
        if found is not None:
            if shards is not None and _packing(found.spec, shards) != found.spec.shard_shape:
                raise PlanError(
                    f"the array is packed in shards of {found.spec.shard_shape}, not {shards}: leave shards out, or convert "
                    "the store with dzv.convert(shard_chunks=...)",
                    store=objects.url, array=join(prefix, array),
                )  # fmt: skip
            specs[array] = found.spec
            continue
        spec = grid_for(objects, prefix, array, metadata.get(array, {}), base)
        specs[array] = spec if shards is None else replace(spec, shard_shape=_packing(spec, shards))
    # arrays of a level are written with the same chunks: they are looked at once
    checked: dict[tuple[Any, ...], list[str]] = {}
    for array, wanted in keys.items():
        spec = specs[array]
        grid = (spec.origin, spec.shape)
        if checked.get(grid) != wanted:
            odd = next((k for k in wanted if k.count(".") + 1 != spec.rank), None)
            if odd is not None:
                where = join(prefix, array)
                raise PlanError(f"the array's chunk keys have rank {spec.rank}", store=objects.url, array=where, chunk=odd)
            coords = keys_to_coords(wanted, spec.rank)
            spec.cells_of(coords, join(prefix, array))
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
    """Raise where two blocks would store one shard."""
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


def replaces(objects: Objects, prefix: str, plan: GridPlan, addresses: Iterable[Address]) -> bool:
    """Tell whether a batch writes chunks that are there already."""
    held = GridArrays(objects, prefix).arrays(plan.existing) if plan.existing else {}
    listed = {a: found.nonempty or frozenset() for a, found in held.items() if found is not None}
    return any(key in listed[array] for array, key in addresses if array in listed)


def check_spatial(array: str, key: str) -> str:
    """Return a chunk key if a grid can have it."""
    if not is_spatial_key(key):
        raise InvalidNameError(f"chunk key {key!r} of array {array!r}: the chunks of layout 'grid' are named by integers")
    return key


def grid_for(objects: Objects, prefix: str, array: str, meta: Mapping[str, Any], base: GridSpec | None) -> GridSpec:
    """Return the grid of an array that is to be made.

    `meta`: its metadata, which may name the grid; `base`: the grid of new arrays of the group.
    """
    spec = spec_from_meta(meta, base) or base
    if spec is None:
        raise StoreError(
            f"array {array!r} is not there yet, and nothing says which grid it is to have: make the store with "
            "dzv.create(bounds=...), or write_array_meta(array, {'shape': [...], 'chunk_grid_origin': [...]}) first",
            store=objects.url, array=join(prefix, array),
        )  # fmt: skip
    return spec


def without_grid(meta: Mapping[str, Any], spec: GridSpec, path: str, store: str) -> dict[str, Any]:
    """Return metadata without what an array's grid already says."""
    asked = spec_from_meta(meta, spec)
    if asked is not None and asked != spec and asked != replace(spec, origin=(0,) * spec.rank):
        raise PlanError(
            f"the array's grid has the extents {list(spec.shape)} from {list(spec.origin)}: it can't become another by its "
            "metadata; use store.expand(bounds)",
            store=store, array=path,
        )  # fmt: skip
    if NONEMPTY in meta:
        raise PlanError(f"{NONEMPTY} is kept by the writer of chunks: leave it out", store=store, array=path)
    return {k: v for k, v in meta.items() if k not in ("shape", ORIGIN)}


@dataclass(frozen=True, slots=True)
class GridPlan:
    """What a batch knew of a group's grid arrays when it was planned."""

    specs: Mapping[str, GridSpec]  # of the arrays that it writes
    existing: frozenset[str] = frozenset()  # those that were there
    token: str = ""  # of the group's catalog; empty where there was none
    # The batch is the first content of the arrays: where another writer's is there at the end, it is refused
    alone: bool = False
    listed: str = ""  # where there was no catalog: :func:`lists_digest` of the arrays
    marker: str = ""  # name of the mark that chunks are being replaced; empty where none is
    # Grids of arrays whose names only the blocks know, by the group above them
    families: Mapping[str, GridSpec] = field(default_factory=dict)

    def naming(self, arrays: Iterable[str]) -> GridPlan:
        """Return the plan with the grids of `arrays`, where they are members of a family."""
        new = [a for a in arrays if a not in self.specs and a.rpartition("/")[0] in self.families]
        found = {a: self.families[a.rpartition("/")[0]] for a in new}
        return replace(self, specs={**self.specs, **found}) if found else self


def lists_digest(held: Mapping[str, GridArray | None]) -> str:
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
        parts = join(prefix, array).split("/")
        above = ["/".join(parts[:i]) for i in range(len(parts) + 1)]
        keys += [join(path, DOCUMENT) for path in above]
        keys += [join(path, CATALOG_NAME, DOCUMENT) for path in above]
    return keys
