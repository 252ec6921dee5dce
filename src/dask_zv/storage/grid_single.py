"""Writing outside of a batch: one cell, or one array's metadata; each holds the group's lock for its moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from dask_zv.errors import InvalidNameError, PlanError, StoreError
from dask_zv.format.documents import dump_json
from dask_zv.format.grids import NONEMPTY, ORIGIN, GridSpec, grid_document, parse_grid_document
from dask_zv.format.keys import DOCUMENT, is_spatial_key, parse_key
from dask_zv.storage.grid_commit import CellChanges, GridPlan, commit_keys, lists_digest, merge_arrays
from dask_zv.storage.grid_defaults import default_grid, is_family, spec_from_meta
from dask_zv.storage.grid_writing import store_cells
from dask_zv.storage.locks import commit_lock
from dask_zv.storage.nodes import drop_catalogs, ensure_groups, kind_of, merge_attributes, read_document
from dask_zv.storage.objects import Objects, join
from dask_zv.storage.snapshot import snapshot


def check_spatial(array: str, key: str) -> str:
    """Return a chunk key if a grid can have it.

    Raises
    ------
    InvalidNameError
        Not integers joined by dots.
    """
    if not is_spatial_key(key):
        raise InvalidNameError(f"chunk key {key!r} of array {array!r}: the chunks of layout 'grid' are named by integers")
    return key


def grid_for(objects: Objects, prefix: str, array: str, meta: Mapping[str, Any], base: GridSpec | None) -> GridSpec:
    """Return the grid of an array that is to be made.

    Parameters
    ----------
    objects : Objects
    prefix, array : str
    meta : mapping
        Its metadata, which may name the grid.
    base : GridSpec, optional
        The grid of new arrays of the group.

    Raises
    ------
    StoreError
        Nothing says which.
    """
    spec = spec_from_meta(meta, base) or base
    if spec is None:
        raise StoreError(
            f"array {array!r} is not there yet, and nothing says which grid it is to have: make the store with "
            "dzv.create(bounds=...), or write_array_meta(array, {'shape': [...], 'chunk_grid_origin': [...]}) first",
            store=objects.url, array=join(prefix, array),
        )  # fmt: skip
    return spec


def write_cell(objects: Objects, prefix: str, array: str, key: str, payload: bytes) -> None:
    """Store one chunk and list it in the array's document; an empty payload makes it absent."""
    check_spatial(array, key)
    with commit_lock(objects, prefix):
        objects = snapshot(objects, commit_keys(prefix, [array]))
        document = read_document(objects, join(prefix, array))
        held = None if document is None else parse_grid_document(document, join(prefix, array), objects.url)
        if document is not None and held is None:
            raise StoreError(f"'/{join(prefix, array)}' is {kind_of(document)}, not an array of chunks", store=objects.url)
        spec = held.spec if held is not None else grid_for(objects, prefix, array, {}, default_grid(objects, prefix))
        if held is None and objects.nodes_first:
            path = join(prefix, array)
            spec.cells_of(np.array([parse_key(key)], np.int64), path)
            ensure_groups(objects, [path.rpartition("/")[0]])
            objects.put(join(path, DOCUMENT), dump_json(grid_document(spec, {}, ())))
        stored = store_cells(objects, prefix, {array: spec}, {array: {key: payload}}, {array} if held is not None else ())[
            array
        ]
        drop_catalogs(objects, [join(prefix, array)])  # they would no longer say what is here
        if held is not None and held.nonempty is not None and (key in held.nonempty) == bool(payload):
            return
        changes = CellChanges(
            stored.coords[~stored.kept],
            np.full(int((~stored.kept).sum()), -1, np.int64),
            {array: stored.columns.take(np.flatnonzero(~stored.kept))},
            {},
            {array: frozenset(stored.emptied)},
        )
        known = {array: held} if held is not None else {}
        plan = GridPlan({array: spec}, frozenset(known), listed=lists_digest(known))  # as it is: nobody else writes now
        merge_arrays(objects, prefix, plan, changes, {}, whole=False)


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
        if is_family(meta) or ("shape" not in meta and base is None):
            merge_attributes(objects, path, meta)
            return
        spec = grid_for(objects, prefix, array, meta, base)
        ensure_groups(objects, [path.rpartition("/")[0]])
        attributes = {k: v for k, v in meta.items() if k not in ("shape", ORIGIN)}
        objects.put(join(path, DOCUMENT), dump_json(grid_document(spec, attributes, ())))


def without_grid(meta: Mapping[str, Any], spec: GridSpec, path: str, store: str) -> dict[str, Any]:
    """Return metadata without what an array's grid already says.

    Raises
    ------
    PlanError
        It asks for another grid than the array has.
    """
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
