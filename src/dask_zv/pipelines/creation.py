"""Making an empty store: every argument is checked before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike

from dask_zv.batch.group import Group
from dask_zv.errors import InputError, MetadataError, StoreError
from dask_zv.format.axes import Axis, parse_axes
from dask_zv.format.documents import to_json
from dask_zv.format.metadata import Generation, LevelMetadata, RootMetadata
from dask_zv.pipelines.store import SETTINGS, Store
from dask_zv.spatial.grid import as_box
from dask_zv.storage.handles import StoreHandle, open_objects
from dask_zv.storage.objects import join
from dask_zv.storage.opening import check_layout, open_root

__all__ = ["create", "position_dtype"]

_GEOMETRIES = ("point_cloud",)


def create(
    target: object,
    *,
    geometry: str = "point_cloud",
    chunk_shape: Sequence[float],
    bounds: tuple[Sequence[float], Sequence[float]] | None = None,
    bin_shape: Sequence[float] | None = None,
    axes: Sequence[str | Mapping[str, object] | Axis] | None = None,
    crs: Mapping[str, Any] | None = None,
    dtype: DTypeLike | None = None,
    layout: str | None = None,
    shard_chunks: int | Literal["auto"] = "auto",
    compressor: str | None = "auto",
    storage_options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Store:
    """Make an empty store.

    Parameters
    ----------
    target : str, Path, zarr Store or StorePath, fsspec mapper, dict, or Icechunk session
    geometry : {"point_cloud"}
    chunk_shape : sequence of float, length D
        Edges of a chunk, in the units of the axes. The grid is anchored at 0, whatever the bounds.
    bounds : pair of corners, optional
        Inclusive box that positions must lie in; where None, that of the data once they are written.
    bin_shape : sequence of float, optional
        Edges of a bin; `chunk_shape` must be a multiple of it. One bin per chunk where None.
    axes : sequence of str or of {"name", "type", "unit"}, optional
        2 to 4 axes; x, y, z, w where None.
    crs : mapping, optional
        Coordinate reference system, stored as it is.
    dtype : dtype, optional
        Of the stored positions; that of the first positions written where None.
    layout : {"per_chunk"}, optional
        ZV 0.7: an array per chunk.
    shard_chunks : int or "auto"
        Chunks packed into one object per array; 1 keeps an object per chunk. "auto": 1 for at most 4,096 chunks on a local
        file system, else 256.
    compressor : "auto" or None
        Layout per_chunk stores raw bytes.
    storage_options : mapping, optional
        Options of a URL.
    overwrite : bool
        Replace what is at the target.

    Returns
    -------
    Store

    Raises
    ------
    InputError
        An argument is malformed.
    StoreError
        The target holds something already, or can't be written.

    Examples
    --------
    >>> import dask_zv as dzv
    >>> store = dzv.create({}, chunk_shape=(10, 10), axes=["x", "y"])
    >>> store.axes
    ('x', 'y')
    """
    check_layout(layout)
    if geometry not in _GEOMETRIES:
        raise InputError(f"geometry {geometry!r}: this version writes {', '.join(_GEOMETRIES)}")
    if compressor not in ("auto", None):
        raise InputError(f"compressor {compressor!r}: layout per_chunk stores raw bytes; leave it out")
    if shard_chunks != "auto" and (type(shard_chunks) is not int or shard_chunks < 1):
        raise InputError(f"shard_chunks is 'auto' or a positive int, not {shard_chunks!r}")
    stored = None if dtype is None else position_dtype(np.dtype(dtype))
    metadata = _root_metadata(geometry, chunk_shape, bounds, bin_shape, axes, crs)
    handle, prefix, attributes = open_root(target, "w" if overwrite else "r+", storage_options)
    if attributes or (not overwrite and _holds_anything(handle, prefix)):
        raise StoreError(
            "the target holds a store already: pass overwrite=True to replace it, or dzv.open(..., mode='r+') to add to it",
            store=join(handle.url, prefix),
        )
    settings = {
        "bounds": "data" if bounds is None else "declared",
        "dtype": None if stored is None else str(stored),
        "shard_chunks": shard_chunks,
    }
    group = Group._from_handle(handle, prefix)
    level = LevelMetadata(level=0, vertex_count=0, arrays_present=("vertices",))
    group.require_group("0").attrs.update(level.to_attributes())
    group.attrs.update({**metadata.to_attributes(), SETTINGS: settings})
    return Store(handle, prefix, group.attrs.to_dict())


def position_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return a dtype that positions can be stored in, little-endian.

    Raises
    ------
    InputError
        Not integers or floats.
    """
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise InputError(f"positions are integers or floats of at most 64 bits, not {dtype}")
    return dtype.newbyteorder("<")


def _holds_anything(handle: StoreHandle, prefix: str) -> bool:
    return any(n != "zarr.json" for n in open_objects(handle).list_dir(prefix))


def _root_metadata(
    geometry: str,
    chunk_shape: Sequence[float],
    bounds: tuple[Sequence[float], Sequence[float]] | None,
    bin_shape: Sequence[float] | None,
    axes: Sequence[str | Mapping[str, object] | Axis] | None,
    crs: Mapping[str, Any] | None,
) -> RootMetadata:
    chunk = _edges(chunk_shape, "chunk_shape", None)
    parsed = parse_axes(axes, len(chunk))
    bins = None if bin_shape is None else _edges(bin_shape, "bin_shape", len(chunk))
    low = high = (0.0,) * len(chunk)
    if bounds is not None:
        box = as_box(bounds, len(chunk))
        if not np.isfinite(np.stack(box)).all():
            raise InputError("bounds must be finite: leave them out to take those of the data")
        low, high = tuple(box[0].tolist()), tuple(box[1].tolist())
    try:
        metadata = RootMetadata(
            generation=Generation.PER_CHUNK,
            chunk_shape=chunk,
            bounds=(low, high),
            axes=parsed,
            geometry_types=(geometry,),
            base_bin_shape=bins,
            links_convention="implicit_sequential",
            object_index_convention="standard",
            cross_chunk_strategy="explicit_links",
            crs=_plain_crs(crs),
        )
    except MetadataError as error:
        raise InputError(error.message) from None
    return metadata


def _plain_crs(crs: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if crs is not None and not isinstance(crs, Mapping):
        raise InputError(f'crs is a mapping, such as {{"type": "EPSG", "code": 4326}}, not {crs!r:.80}')
    try:
        return None if crs is None else {str(k): v for k, v in to_json(crs, "crs").items()}
    except TypeError as error:
        raise InputError(str(error)) from None


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
