"""Making an empty store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from numpy.typing import DTypeLike

from dask_zv.format.axes import Axis
from dask_zv.level.create import create_contents
from dask_zv.store.store import Store


def create(
    target: object,
    *,
    geometry: str = "point_cloud",
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
) -> Store:
    """Make an empty store.

    Parameters
    ----------
    target : str, Path, zarr Store or StorePath, fsspec mapper, dict, or Icechunk session
    geometry : {"point_cloud", "line", "polyline", "streamline", "skeleton", "graph", "mesh"}
        Layout ``per_chunk`` holds the first four.
    chunk_shape : sequence of float, length D
        Edges of a chunk, in the units of the axes. The grid is anchored at 0, whatever the bounds.
    bounds : pair of corners, optional
        Inclusive box that positions must lie in; where None, that of the data once they are written.
    bin_shape : sequence of float, optional
        Edges of a bin; `chunk_shape` must be a multiple of it. One bin per chunk where None.
    axes : sequence of str or of {"name", "type", "unit"}, optional
        2 to 4 axes; x, y, z, w where None. None has the name of a dimension or a coordinate of Datasets (vertex, object, edges,
        crs ...).
    crs : mapping, or whatever :meth:`pyproj.CRS.from_user_input` takes, optional
        Coordinate reference system. A mapping is stored as it is; a code, WKT, a pyproj CRS or what else pyproj takes (with
        pyproj installed, the extra ``geo``) as its authority and code where it has them, else as WKT.
    dtype : dtype, optional
        Of the stored positions. Where None, that of the first positions written; integers become floats that hold them.
    layout : {"grid", "per_chunk"}, optional
        "grid" (ZV 0.9, the default): one array per logical array, a cell per chunk, read by current tools. "per_chunk"
        (ZV 0.7): an array per chunk.
    shard_chunks : int, sequence of int, or "auto"
        Chunks packed into one object per array, or (layout ``grid``) the extents of such a shard in chunks; 1 keeps an object
        per chunk. "auto": 1 for at most 4,096 chunks on a local file system or in memory, else 256. Packing is what makes many
        chunks fast; other tools read single objects faster than shards.
    compressor : {"auto", "zstd", "blosc", None}, or a list of Zarr codecs
        Of the chunks. "auto" is "zstd" in layout ``grid``; layout ``per_chunk`` stores raw bytes.
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
    made = create_contents(
        target,
        geometry=geometry,
        chunk_shape=chunk_shape,
        bounds=bounds,
        bin_shape=bin_shape,
        axes=axes,
        crs=crs,
        dtype=dtype,
        layout=layout,
        shard_chunks=shard_chunks,
        compressor=compressor,
        storage_options=storage_options,
        overwrite=overwrite,
    )
    return Store.of(made)
