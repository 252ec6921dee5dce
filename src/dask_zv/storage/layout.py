"""The two layouts: what each does and has, and which one a group is of. Nobody else asks for a layout by its name.

======== =============================================================================================
grid     ZV 0.9: an array's blobs are cells of one array (:mod:`dask_zv.storage.grid`)
per_chunk ZV 0.7: every blob is an array of its own, or in a shard (:mod:`dask_zv.storage.per_chunk`)
======== =============================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dask_zv.errors import InputError, did_you_mean
from dask_zv.format.documents import parse_document
from dask_zv.format.grids import parse_grid_document
from dask_zv.format.keys import DOCUMENT, ancestors, join
from dask_zv.format.metadata import Generation, detect_generation
from dask_zv.storage.catalog import Catalog
from dask_zv.storage.grid.commit import commit_grid, make_grid_nodes, store_in_grid, write_cell, write_grid_meta
from dask_zv.storage.grid.plan import check_spatial, plan_in_grid
from dask_zv.storage.grid.read import GridArrays
from dask_zv.storage.grid.staged import commit_staged
from dask_zv.storage.handles import open_objects
from dask_zv.storage.nodes import SETTINGS
from dask_zv.storage.objects import Address, Objects
from dask_zv.storage.per_chunk.plan import plan_per_chunk
from dask_zv.storage.per_chunk.read import PerChunk
from dask_zv.storage.per_chunk.write import (
    commit_per_chunk,
    make_groups,
    store_per_chunk,
    write_blob,
    write_blob_meta,
)
from dask_zv.storage.receipts import Receipt
from dask_zv.storage.specs import BatchPlan, BlockSpec, CommitSpec, LayoutName, Place, Queued, begin_edit, mark

Blobs = PerChunk | GridArrays


@dataclass(frozen=True, slots=True)
class Layout:
    """What a layout does, and what it has. All functions take the store's objects first, then the path of the group."""

    name: LayoutName
    generation: Generation
    has_codecs: bool  # blobs go through Zarr codecs; else their bytes are stored as they are
    has_tables: bool  # facts of objects and groups are Zarr arrays; else blobs with literal names
    lists_chunks: bool  # documents and catalog list an array's chunks; else the store itself is listed
    told_by_settings: bool  # a new group that is of no store names its layout in its attributes; else nothing does
    shards_have_extents: bool  # shards are boxes, given by their extents; else runs of chunks along the Morton curve
    holds_chunks: Callable[[Mapping[str, Any], str, str], bool]  # of a node's document, its path and store
    blobs: Callable[..., Blobs]  # reads: list_keys, sizes, exists, read, read_many
    check_key: Callable[[str, str], None]  # (array, chunk key): raises where no chunk has such a key
    write: Callable[[Objects, str, str, str, bytes], None]  # stores one blob: a batch of one
    write_meta: Callable[[Objects, str, str, Mapping[str, Any]], None]  # merges an array's attributes
    plan: Callable[[Objects, Place, Queued], BatchPlan]  # how a batch is stored
    make_nodes: Callable[[Objects, CommitSpec], None]  # makes the nodes of a batch's arrays, before their chunks
    store: Callable[[Objects, BlockSpec, Mapping[Address, Any], Mapping[str, int]], Receipt]  # stores a block's blobs
    commit: Callable[[Objects, CommitSpec, Receipt, Mapping[str, Mapping[str, Any]]], None]  # makes blocks visible
    commit_staged: Callable[..., None] | None = None  # the same of blocks that wait beside the group


_LAYOUTS: Mapping[str, Layout] = {
    "grid": Layout(
        "grid",
        Generation.GRID,
        has_codecs=True,
        has_tables=True,
        lists_chunks=True,
        told_by_settings=True,
        shards_have_extents=True,
        holds_chunks=lambda document, path, store: parse_grid_document(document, path, store) is not None,
        blobs=GridArrays,
        check_key=check_spatial,
        write=write_cell,
        write_meta=write_grid_meta,
        plan=plan_in_grid,
        make_nodes=make_grid_nodes,
        store=store_in_grid,
        commit=commit_grid,
        commit_staged=commit_staged,
    ),
    "per_chunk": Layout(
        "per_chunk",
        Generation.PER_CHUNK,
        has_codecs=False,
        has_tables=False,
        lists_chunks=False,
        told_by_settings=False,
        shards_have_extents=False,
        holds_chunks=lambda document, path, store: document["node_type"] == "group",
        blobs=PerChunk,
        check_key=lambda array, key: None,
        write=write_blob,
        write_meta=write_blob_meta,
        plan=plan_per_chunk,
        make_nodes=make_groups,
        store=store_per_chunk,
        commit=commit_per_chunk,
    ),
}


def layout_for(name: str) -> Layout:
    """Return a layout by its name."""
    return _LAYOUTS[name]


def check_layout(layout: str | None, default: LayoutName) -> LayoutName:
    """Return the name of the layout that a new group gets."""
    if layout is not None and layout not in _LAYOUTS:
        raise InputError(
            f"layout {layout!r} is not known: 'grid' (ZV 0.9) or 'per_chunk' (ZV 0.7){did_you_mean(layout, _LAYOUTS)}"
        )
    return default if layout is None else _LAYOUTS[layout].name


def layout_of(generation: Generation) -> LayoutName:
    """Return the layout of a generation's stores."""
    return next(layout.name for layout in _LAYOUTS.values() if layout.generation is generation)


def open_blobs(objects: Objects, prefix: str, layout: str, catalog: Catalog | None = None, *, trust: bool = False) -> Blobs:
    """Return the blobs of a group; `trust` where the catalog was compared with the store before."""
    return _LAYOUTS[layout].blobs(objects, prefix, catalog, trust=trust)


def open_place(place: Place) -> Blobs:
    """Return the blobs of a batch's group, through this process' open store."""
    return open_blobs(open_objects(place.handle), place.prefix, place.layout)


def must_prepare(spec: CommitSpec) -> bool:
    """Return True if :func:`prepare` has something to do before any block is stored."""
    return bool(spec.marker) or spec.turn or open_objects(spec.place.handle).nodes_first


def prepare(spec: CommitSpec) -> None:
    """Make the nodes that the store wants before their chunks, or mark what is to be replaced."""
    objects = open_objects(spec.place.handle)
    if spec.turn:
        begin_edit(objects, spec)
    if objects.nodes_first:
        _LAYOUTS[spec.place.layout].make_nodes(objects, spec)
    elif spec.marker:
        mark(objects, spec.place.prefix, spec.marker)


def detect_layout(objects: Objects, prefix: str, attributes: Mapping[str, Any] | None = None) -> LayoutName | None:
    """Return the layout of the group at `prefix`: by its attributes or those of a group above it, then by its arrays.

    None where nothing tells. The group's attributes, where they are known, are not read again.
    """
    told = _by_attributes(attributes) if attributes is not None else None
    if told is not None:
        return told
    above = ancestors(prefix)[::-1][0 if attributes is None else 1 :]
    structural = [join(prefix, "vertices"), join(prefix, "0/vertices")]
    paths = (*above, *structural)
    found = objects.get_many([(join(p, DOCUMENT), None) for p in paths])
    documents = [None if d is None else parse_document(d, p, objects.url) for d, p in zip(found, paths, strict=True)]
    for document in documents[: len(above)]:
        told = _by_attributes(document.get("attributes", {})) if document is not None else None
        if told is not None:
            return told
    for path, document in zip(structural, documents[len(above) :], strict=True):
        if document is not None:
            return "per_chunk" if parse_grid_document(document, path, objects.url) is None else "grid"
    return None


def _by_attributes(attributes: Mapping[str, Any]) -> LayoutName | None:
    root, settings = attributes.get("zarr_vectors"), attributes.get(SETTINGS)
    if isinstance(root, Mapping):
        return layout_of(detect_generation(root))
    name = settings.get("layout") if isinstance(settings, Mapping) else None
    return _LAYOUTS[name].name if isinstance(name, str) and name in _LAYOUTS else None
