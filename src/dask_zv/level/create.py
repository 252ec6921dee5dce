"""Making an empty store: every argument is checked before anything is written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import DTypeLike

from dask_zv.errors import InputError, MetadataError, has_control
from dask_zv.format.documents import dump_json, group_document, to_json
from dask_zv.format.grids import GridSpec, codec_list
from dask_zv.format.keys import DOCUMENT, join
from dask_zv.format.levels import LevelMetadata
from dask_zv.format.metadata import NOT_FOR_AXES, Axis, RootMetadata, ome_collection, parse_axes
from dask_zv.geometry.kinds import KINDS, geometry_named
from dask_zv.geometry.points import POINT_CLOUD
from dask_zv.geometry.schema import position_dtype
from dask_zv.level.contents import StoreContents
from dask_zv.spatial.grid import as_box
from dask_zv.storage.codecs import cell_codec
from dask_zv.storage.grid.settings import grid_of_bounds, grid_settings, packing
from dask_zv.storage.handles import open_objects
from dask_zv.storage.layout import Layout, check_layout, layout_for
from dask_zv.storage.nodes import SETTINGS, ensure_groups, put_documents
from dask_zv.storage.opening import objects_are_cheap, open_empty


def create_contents(
    target: object,
    *,
    geometry: str = POINT_CLOUD.name,
    chunk_shape: Sequence[float],
    bounds: tuple[Sequence[float], Sequence[float]] | None = None,
    bin_shape: Sequence[float] | None = None,
    axes: Sequence[str | Mapping[str, object] | Axis] | None = None,
    crs: Any = None,
    dtype: DTypeLike | None = None,
    layout: str | None = None,
    shard_chunks: int | Sequence[int] | Literal["auto"] = "auto",
    compressor: Any = "auto",
    storage_options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> StoreContents:
    """Make an empty store, see :func:`dask_zv.create`."""
    chosen = layout_for(check_layout(layout, "grid"))
    geometry = geometry_named(geometry)
    if not chosen.has_tables and KINDS[geometry].link:
        raise InputError(
            f"layout per_chunk (ZV 0.7) can't hold a {geometry} soundly: its writers and readers lose or mix up the links of "
            "objects that share a chunk; leave layout out, or pass layout='grid'"
        )
    shard_chunks = _plain_shards(shard_chunks)
    codecs = _codecs(compressor, chosen)
    _check_shards(shard_chunks, chosen, len(_edges(chunk_shape, "chunk_shape", None)))
    stored = None if dtype is None else position_dtype(np.dtype(dtype))
    metadata = _root_metadata(geometry, chunk_shape, bounds, bin_shape, axes, crs, chosen)
    handle, prefix = open_empty(target, storage_options, overwrite=overwrite)
    settings: dict[str, Any] = {
        "bounds": "data" if bounds is None else "declared",
        "dtype": None if stored is None else str(stored),
        "shard_chunks": shard_chunks if isinstance(shard_chunks, int | str) else list(shard_chunks),
    }
    # a level may be opened as a group of its own, from where the root is out of sight
    own: dict[str, Any] = {SETTINGS: {"layout": chosen.name}}
    if chosen.has_codecs:
        settings["codecs"] = [dict(c) for c in codecs]
        if bounds is not None:
            origin, shape = grid_of_bounds(metadata.chunk_shape, *metadata.bounds)
            local = objects_are_cheap(handle)
            shards = packing(shard_chunks, math.prod(shape), shape, local=local)
            own[SETTINGS]["grid"] = grid_settings(GridSpec(tuple(shape), tuple(origin), shards, codecs))
    name = (prefix or urlsplit(handle.url).path).rstrip("/").rpartition("/")[2]
    collection = ome_collection(name, metadata.axes, [0]) if chosen.has_codecs else {}
    root = {**metadata.to_attributes(), **collection, SETTINGS: settings}
    level = {**LevelMetadata(level=0, vertex_count=0, arrays_present=("vertices",)).to_attributes(), **own}
    objects = open_objects(handle)
    ensure_groups(objects, [prefix.rpartition("/")[0]] if "/" in prefix else [])
    paths = (prefix, root), (join(prefix, "0"), level)
    put_documents(objects, [(join(path, DOCUMENT), group_document(attributes)) for path, attributes in paths])
    return StoreContents(handle, prefix, json.loads(dump_json(root)))


def _plain_shards(shard_chunks: Any) -> Any:
    """Return numpy integers as Python's, whatever else as it is."""
    if isinstance(shard_chunks, np.integer):
        return int(shard_chunks)
    if isinstance(shard_chunks, list | tuple | np.ndarray):
        return tuple(int(s) if isinstance(s, np.integer) else s for s in shard_chunks)
    return shard_chunks


def _check_shards(shard_chunks: Any, layout: Layout, ndim: int) -> None:
    if shard_chunks == "auto" or (isinstance(shard_chunks, int) and shard_chunks is not True and shard_chunks >= 1):
        return
    several = layout.shards_have_extents and isinstance(shard_chunks, list | tuple)
    if several and all(type(s) is int and s >= 1 for s in shard_chunks):
        if len(shard_chunks) == ndim:
            return
        raise InputError(f"shard_chunks {shard_chunks!r} has {len(shard_chunks)} extents for {ndim} axes")
    extents = ", or positive extents of a shard along each axis" if layout.shards_have_extents else ""
    raise InputError(f"shard_chunks is 'auto' or a positive int{extents}, not {shard_chunks!r}")


def _codecs(compressor: Any, layout: Layout) -> tuple[Mapping[str, Any], ...]:
    if not layout.has_codecs:
        if compressor not in ("auto", None):
            raise InputError(f"compressor {compressor!r}: layout per_chunk stores raw bytes; leave it out")
        return ()
    try:
        codecs = codec_list("zstd" if compressor == "auto" else compressor)
        cell_codec(codecs)
    except MetadataError as error:
        raise InputError(error.message) from None
    return codecs


def _root_metadata(
    geometry: str,
    chunk_shape: Sequence[float],
    bounds: tuple[Sequence[float], Sequence[float]] | None,
    bin_shape: Sequence[float] | None,
    axes: Sequence[str | Mapping[str, object] | Axis] | None,
    crs: Any,
    layout: Layout,
) -> RootMetadata:
    chunk = _edges(chunk_shape, "chunk_shape", None)
    parsed = parse_axes(axes, len(chunk))
    odd = next((t for a in parsed for t in (a.name, a.type, a.unit or "") if has_control(t)), None)
    if odd is not None:
        raise InputError(f"names, types and units of axes have no control characters: {odd!r:.80}")
    of_chunks = {f"chunk_{a.name}" for a in parsed}
    taken = [a.name for a in parsed if a.name in NOT_FOR_AXES or a.name in of_chunks]
    if taken:
        raise InputError(
            f"an axis called {taken[0]!r} would hide what Datasets of a store have by that name: call it otherwise"
        )
    bins = None if bin_shape is None else _edges(bin_shape, "bin_shape", len(chunk))
    low = high = (0.0,) * len(chunk)
    if bounds is not None:
        box = as_box(bounds, len(chunk), "bounds")
        if not np.isfinite(np.stack(box)).all():
            raise InputError("bounds must be finite: leave them out to take those of the data")
        low, high = tuple(box[0].tolist()), tuple(box[1].tolist())
    try:
        return RootMetadata(
            generation=layout.generation,
            chunk_shape=chunk,
            bounds=(low, high),
            axes=parsed,
            geometry_types=(geometry,),
            base_bin_shape=bins,
            links_convention=KINDS[geometry].convention,
            object_index_convention="standard",
            cross_chunk_strategy="explicit_links",
            crs=_plain_crs(crs),
        )
    except MetadataError as error:
        raise InputError(error.message) from None


def _plain_crs(crs: Any) -> dict[str, Any] | None:
    if crs is not None and not isinstance(crs, Mapping):
        crs = _described(crs)
    try:
        return None if crs is None else {str(k): v for k, v in to_json(crs, "crs").items()}
    except TypeError as error:
        raise InputError(str(error)) from None


def _described(crs: Any) -> dict[str, str]:
    """Return what pyproj takes as a mapping: by authority and code where that is the very system, else its WKT."""
    try:
        import pyproj
    except ImportError:
        raise InputError(
            f'crs={crs!r:.80} needs pyproj to be understood: pip install "dask-zv[geo]", or give a mapping, such as '
            '{"type": "EPSG", "code": 4326}'
        ) from None
    try:
        found = pyproj.CRS.from_user_input(crs)
    except (pyproj.exceptions.CRSError, TypeError, ValueError) as error:
        raise InputError(f"crs is a mapping or what pyproj.CRS.from_user_input takes, not {crs!r:.80}: {error}") from None
    authority = found.to_authority(min_confidence=100)
    if authority is None or pyproj.CRS.from_authority(*authority) != found:
        return {"crs_wkt": found.to_wkt()}
    code: Any = int(authority[1]) if authority[1].isdecimal() else authority[1]
    return {"type": authority[0], "code": code}


def _edges(values: Sequence[float], what: str, ndim: int | None) -> tuple[float, ...]:
    try:
        edges = tuple(float(v) for v in values)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} must be a sequence of numbers, one for each axis, not {values!r}") from error
    if ndim is not None and len(edges) != ndim:
        raise InputError(f"{what} has {len(edges)} numbers for {ndim} axes")
    if not 2 <= len(edges) <= 4:
        raise InputError(f"{what} has {len(edges)} numbers: a store has 2 to 4 axes")
    if not all(np.isfinite(e) and e > 0 for e in edges):
        raise InputError(f"{what} must be positive and finite, not {edges}")
    return edges
