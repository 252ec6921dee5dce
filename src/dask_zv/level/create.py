"""Making an empty store, or going on with one: every argument is checked before anything is written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Unpack
from urllib.parse import urlsplit

from dask_zv.errors import InputError, StoreError, ZVError
from dask_zv.format.documents import dump_json, group_document
from dask_zv.format.grids import GridSpec
from dask_zv.format.keys import DOCUMENT, join
from dask_zv.format.levels import LevelMetadata
from dask_zv.format.metadata import ome_collection
from dask_zv.level.asked import Asked, CreateOptions, check_agrees, check_asked
from dask_zv.level.contents import LevelContents, StoreContents
from dask_zv.level.unfinished import unfinished_write
from dask_zv.storage.grid.plan import grid_of_bounds, grid_settings, packing
from dask_zv.storage.handles import StoreHandle, open_objects
from dask_zv.storage.nodes import SETTINGS, ensure_groups, put_documents, read_document
from dask_zv.storage.opening import objects_are_cheap, open_empty


def create_contents(
    target: object,
    geometry: str,
    *,
    storage_options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    exist_ok: bool = False,
    **options: Unpack[CreateOptions],
) -> StoreContents:
    """Make an empty store, or return the one that is there, see :func:`dask_zv.create`."""
    asked = check_asked(geometry, options)
    if overwrite and exist_ok:
        raise InputError("overwrite=True replaces what is there, exist_ok=True goes on with it: pass one of them")
    handle, prefix, found = open_empty(target, storage_options, overwrite=overwrite, keep=True)
    if found is None:
        store = _new(handle, prefix, asked)
    elif exist_ok:
        store = _found(handle, prefix, found, options, geometry)
    else:
        raise _refusal(handle, prefix, found)
    store.resumes = exist_ok
    if not make(store):  # another process was faster
        return create_contents(target, geometry, storage_options=storage_options, exist_ok=True, **options)
    return store


def contents_to_write(
    target: object,
    geometry: str,
    storage_options: Mapping[str, Any] | None,
    options: CreateOptions,
    guessed: CreateOptions,
    *,
    named: bool,
) -> StoreContents:
    """Return the store at a target, or one that :func:`make` makes there, of the options and of what is `guessed` of others.

    `named`: the geometry was asked for; else that of a store that is there is taken as it is.
    """
    handle, prefix, found = open_empty(target, storage_options, keep=True)
    if found is not None:
        store = _found(handle, prefix, found, options, geometry if named else None)
    elif options.get("chunk_shape") is None:
        raise InputError(
            "no store is here: pass chunk_shape= (edges of a chunk, in the units of the axes) to make one, or check the path",
            store=join(handle.url, prefix),
        )
    else:
        whole: Any = {**guessed, **options}
        store = _new(handle, prefix, check_asked(geometry, whole))
    store.resumes = True
    return store


def _found(
    handle: StoreHandle, prefix: str, attributes: Mapping[str, Any], options: CreateOptions, geometry: str | None
) -> StoreContents:
    """Return a store that is there, and is what is asked for."""
    if "zarr_vectors" not in attributes:
        raise StoreError(
            "a Zarr group of something else is here: choose another path, or replace it with dzv.create(..., overwrite=True)",
            store=join(handle.url, prefix),
        )
    store = StoreContents(handle, prefix, attributes)
    asked = check_agrees(store, options, geometry)
    if read_document(open_objects(handle), join(prefix, "0")) is None and not store.levels:  # its maker died in between
        store.pending = _new(handle, prefix, asked).pending[1:]
    return store


def _refusal(handle: StoreHandle, prefix: str, attributes: Mapping[str, Any]) -> StoreError:
    """Return the error about a target that holds something."""
    told = (
        "the target holds a store already: pass overwrite=True to replace it, exist_ok=True to go on with it where it has the "
        "same settings, or dzv.open(..., mode='r+') to add to it"
    )
    try:
        interrupted = unfinished_write(StoreContents(handle, prefix, attributes).level(0))
    except ZVError:  # another hierarchy, or a damaged store: it is there, which is what matters here
        interrupted = None
    if interrupted is not None:
        told = f"{interrupted}: pass exist_ok=True, and the same call finishes it; or overwrite=True to begin anew"
    return StoreError(told, store=join(handle.url, prefix))


def _new(handle: StoreHandle, prefix: str, asked: Asked) -> StoreContents:
    """Return a store that is still to be made."""
    metadata = asked.metadata
    told: dict[str, Any] = {
        "bounds": "declared" if asked.declared else "data",
        "dtype": None if asked.dtype is None else str(asked.dtype),
        "shard_chunks": s if isinstance(s := asked.shard_chunks, int | str) else list(s),
    }
    # a level may be opened as a group of its own, from where the root is out of sight
    own: dict[str, Any] = {SETTINGS: {"layout": asked.layout.name}}
    if asked.layout.has_codecs:
        told["codecs"] = [dict(c) for c in asked.codecs]
        if asked.declared:
            origin, shape = grid_of_bounds(metadata.chunk_shape, *metadata.bounds)
            local = objects_are_cheap(handle)
            shards = packing(asked.shard_chunks, math.prod(shape), shape, local=local)
            own[SETTINGS]["grid"] = grid_settings(GridSpec(tuple(shape), tuple(origin), shards, asked.codecs))
    name = (prefix or urlsplit(handle.url).path).rstrip("/").rpartition("/")[2]
    collection = ome_collection(name, metadata.axes, [0]) if asked.layout.has_codecs else {}
    root = {**metadata.to_attributes(), **collection, SETTINGS: told}
    level = {**LevelMetadata(level=0, vertex_count=0, arrays_present=("vertices",)).to_attributes(), **own}
    store = StoreContents(handle, prefix, json.loads(dump_json(root)))
    paths = (prefix, root), (join(prefix, "0"), level)
    store.pending = tuple((join(path, DOCUMENT), group_document(attributes)) for path, attributes in paths)
    store._levels[0] = LevelContents(store, 0, json.loads(dump_json(level)))
    return store


def make(store: StoreContents) -> bool:
    """Store what is pending of a store; return False where another process has made one there meanwhile, which stands."""
    if not store.pending:
        return True
    objects, pending = open_objects(store.handle), store.pending
    store.pending = ()
    ensure_groups(objects, [store.prefix.rpartition("/")[0]] if "/" in store.prefix else [])
    if not store.resumes:
        put_documents(objects, pending)
        return True
    for key, data in pending:  # the root first: without its level it is found, and finished
        made = objects.put_if_absent(key, data)
        if made is False:
            return len(pending) == 1
        if made is None:
            objects.put(key, data)
    return True
