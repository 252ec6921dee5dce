"""Which grid an array gets that is not there yet: that of its siblings, of its level, or of the store's bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dask_zv.config import settings
from dask_zv.errors import InputError, MetadataError, StoreError
from dask_zv.format.documents import parse_document
from dask_zv.format.grids import MAX_SHARD_CELLS, ORIGIN, GridSpec, codec_list, parse_grid_document
from dask_zv.format.keys import DOCUMENT, join
from dask_zv.storage.nodes import SETTINGS
from dask_zv.storage.objects import Objects

_FAMILIES = ("links_family", "link_attribute_family", "object_index", "geometry_index")


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


def is_family(meta: Mapping[str, Any]) -> bool:
    """Return True for the metadata of a group of arrays, False for that of an array."""
    return meta.get("zv_array") in _FAMILIES


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
