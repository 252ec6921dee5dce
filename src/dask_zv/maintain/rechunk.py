"""A store written again: in other chunks and bins, another dtype, other bounds."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from dask_zv.errors import InputError, ZVWarning
from dask_zv.format.keys import DOCUMENT, join
from dask_zv.geometry.schema import VERTICES
from dask_zv.graph.run import check_reachable
from dask_zv.level.contents import StoreContents
from dask_zv.level.create import create_contents
from dask_zv.maintain.convert_level import copy_node
from dask_zv.maintain.rewrite import LevelInput, level_input, write_input
from dask_zv.storage.grid.read import GridArrays
from dask_zv.storage.handles import open_objects
from dask_zv.storage.layout import layout_for
from dask_zv.storage.nodes import SETTINGS, merge_attributes
from dask_zv.storage.specs import Place
from dask_zv.storage.targets import resolve_target

_ROOT = ("zarr_vectors", SETTINGS, "ome", "shard_layout", "shard_size")
"""Attributes of a root that its writer says, and no copy takes over."""


class _Made:
    """A store that was just made, as the writing functions take it."""

    def __init__(self, contents: StoreContents) -> None:
        self._contents = contents
        self.axes = contents.axes


def rechunk(
    store: StoreContents,
    target: object,
    *,
    chunk_shape: Sequence[float] | None,
    bin_shape: Sequence[float] | None,
    dtype: DTypeLike | None,
    bounds: Any,
    layout: str | None,
    shard_chunks: Any,
    compressor: Any,
    storage_options: Mapping[str, Any] | None,
    overwrite: bool,
    progress: bool | None,
    compute: bool,
) -> Any:
    """Write level 0 of a store into another, see :func:`dask_zv.convert`."""
    given = level_input(store.level(0))
    metadata = store.metadata
    asked: dict[str, Any] = {
        "chunk_shape": metadata.chunk_shape if chunk_shape is None else chunk_shape,
        "bounds": declared_bounds([store]) if bounds is None else bounds,
        "dtype": given.positions.dtype if dtype is None else dtype,
        "bin_shape": bin_shape,
        "layout": store.layout if layout is None else layout,
        "shard_chunks": _kept_shards(store) if shard_chunks is None else shard_chunks,
        "compressor": compressor,
    }
    if bin_shape is None and chunk_shape is None:
        asked["bin_shape"] = metadata.bin_shape
    return write_again([store], given, target, asked, storage_options, overwrite=overwrite, progress=progress, compute=compute)


def _kept_shards(store: StoreContents) -> Any:
    kept = store.settings.get("shard_chunks", "auto")
    return tuple(kept) if isinstance(kept, list) else kept


def declared_bounds(stores: Sequence[StoreContents]) -> Any:
    """Return the box of all bounds, where all were declared; None where they are those of the data."""
    if any(s.settings.get("bounds", "declared") != "declared" for s in stores):
        return None
    both = np.array([s.metadata.bounds for s in stores], np.float64)
    return both[:, 0].min(axis=0).tolist(), both[:, 1].max(axis=0).tolist()


def _compressor(store: StoreContents, layout: str) -> Any:
    """Return the codecs of a store's positions, "auto" where they can't be kept."""
    level = store.level(0)
    if not (layout_for(layout).has_codecs and layout_for(store.layout).has_codecs):
        return "auto"
    found = GridArrays(open_objects(level.place.handle), level.place.prefix).array(VERTICES)
    return "auto" if found is None or not found.plain else [dict(c) for c in found.spec.codecs]


def write_again(
    stores: Sequence[StoreContents],
    given: LevelInput,
    target: object,
    asked: dict[str, Any],
    storage_options: Mapping[str, Any] | None,
    *,
    overwrite: bool,
    progress: bool | None,
    compute: bool,
) -> Any:
    """Make a store as `asked`, with the headers and other nodes of the sources, and write what is `given` into it."""
    first = stores[0]
    handle, prefix = resolve_target(target, storage_options)
    for store in stores:
        check_reachable(store.handle)
        if handle.holds(prefix, store.handle, store.prefix, below=overwrite):
            raise InputError(
                "the target is a source (or contains it): write another store, and move it into place when it is complete",
                store=store.url,
            )
        if len(store.levels) > 1:
            warnings.warn(
                f"levels {list(store.levels[1:])} are not written again: dzv.build_pyramid makes them of the new store "
                f"[{store.url}]", ZVWarning, stacklevel=4,
            )  # fmt: skip
    if asked["compressor"] == "keep":
        asked["compressor"] = _compressor(first, asked["layout"])
    axes = [a.to_json() for a in first.metadata.axes]
    kind = first.level(0).kind
    made = create_contents(
        target, str(kind), storage_options=storage_options, overwrite=overwrite, axes=axes, crs=first.metadata.crs, **asked
    )
    objects = open_objects(made.handle)
    taken: dict[str, Any] = {}
    for store in stores:
        here, there = Place(store.handle, store.prefix), Place(made.handle, made.prefix)
        for name, header in store.headers.items():
            if name not in taken:
                taken[name] = header
                merge_attributes(objects, join(there.prefix, "headers"), {})
                copy_node(here, there, f"headers/{name}")
            elif header != taken[name]:
                warnings.warn(
                    f"header {name!r} is that of the first store that has one; {store.url} has another", ZVWarning, stacklevel=4
                )
    root = {k: v for k, v in first.group.attrs.to_dict().items() if k not in _ROOT}
    if root:
        merge_attributes(objects, made.prefix, root)
    own = {k: v for k, v in first.level(0).group.attrs.to_dict().items() if k == "user_metadata"}
    if own:
        merge_attributes(objects, made.level(0).place.prefix, own)
    others = [
        n for n in open_objects(first.handle).list_dir(first.prefix) if not n.isdigit() and n not in (DOCUMENT, "headers")
    ]
    for name in others:
        if open_objects(first.handle).exists(join(first.prefix, name, DOCUMENT)):
            copy_node(Place(first.handle, first.prefix), Place(made.handle, made.prefix), name)
    made.reload()
    return write_input(_Made(made), given, compute=compute, progress=progress)
