"""``ds.zv``: box and object selections that read only the chunks they must."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from dask_zv.errors import InputError
from dask_zv.pipelines.source.columns import rows_in
from dask_zv.spatial.grid import as_box
from dask_zv.xarray_backend.index import RowIndex, select_rows

__all__ = ["ZVDatasetAccessor"]


@xr.register_dataset_accessor("zv")
class ZVDatasetAccessor:
    """Zarr Vectors verbs of a Dataset that ``engine="zv"`` opened."""

    def __init__(self, ds: xr.Dataset) -> None:
        self._ds = ds

    def sel(self, bbox: Any = None, *, objects: int | Sequence[int] | None = None) -> xr.Dataset:
        """Return exactly the vertices inside a closed box, and of some objects.

        Positions of the chunks that the box cuts are read now; everything else stays lazy.

        Parameters
        ----------
        bbox : pair of corners, optional
            ``((x0, y0, z0), (x1, y1, z1))`` in the units and the order of the store's axes; both sides belong to the box,
            infinities leave a side open.
        objects : int or sequence of int, optional
            Ids of objects.

        Raises
        ------
        InputError
            The box is malformed, or the Dataset has no objects.
        """
        index = self._index()
        ids = None if objects is None else np.atleast_1d(np.asarray(objects, np.int64)).tolist()
        if index is None:
            return self._sel_loaded(bbox, ids)
        rows = index.rows
        assert rows is not None
        if ids is not None and not rows.source.schema.has_objects:
            raise InputError(f"{rows.source.where()} has no objects")
        box = None if bbox is None else as_box(bbox, rows.source.schema.grid.ndim)
        return self._ds.isel(vertex=select_rows(index, rows_in(rows, box, ids)))

    def chunks_in(self, bbox: Any) -> xr.Dataset:
        """Return all vertices of the chunks that a closed box touches; nothing is read.

        Parameters
        ----------
        bbox : pair of corners

        Raises
        ------
        InputError
            The box is malformed, or rows were picked from the Dataset so that its chunks are no longer whole.
        """
        index = self._index()
        if index is None or index.rows is None:
            raise InputError("chunks_in needs a Dataset as it was opened, or a run of its rows; use sel(bbox=...) on others")
        rows = index.rows
        grid = rows.source.schema.grid
        box = as_box(bbox, grid.ndim)
        spatial = rows.table.coords[:, rows.source.rank - grid.ndim :]
        chunks = np.flatnonzero(grid.touches(spatial, box))
        parts = [np.arange(rows.offsets[c], rows.offsets[c + 1]) for c in chunks]
        found = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        if len(found) and int(found[-1]) - int(found[0]) + 1 == len(found):
            return self._ds.isel(vertex=select_rows(index, slice(int(found[0]), int(found[-1]) + 1)))
        return self._ds.isel(vertex=select_rows(index, found))

    def _index(self) -> RowIndex | None:
        index = self._ds.xindexes.get("vertex")
        return index if isinstance(index, RowIndex) and index.rows is not None else None

    def _sel_loaded(self, bbox: Any, objects: Sequence[int] | None) -> xr.Dataset:
        """Select among rows that were picked before: by their own coordinates, which are read for it."""
        ds = self._ds
        names = ds.attrs.get("zv_axes")
        if "vertex" not in ds.dims or names is None:
            raise InputError("ds.zv works on Datasets opened with engine='zv'")
        names = [str(n) for n in np.atleast_1d(names)]
        mask = np.ones(ds.sizes["vertex"], bool)
        if bbox is not None:
            low, high = as_box(bbox, len(names))
            gone = [n for n in names if n not in ds.variables]
            if gone:
                raise InputError(f"the Dataset has no {', '.join(gone)} any more, which a box needs")
            for name, a, b in zip(names, low, high, strict=True):
                values = ds[name].to_numpy().astype(np.float64, copy=False)
                mask &= (values >= a) & (values <= b)
        if objects is not None:
            if "object_id" not in ds:
                raise InputError("the Dataset has no objects")
            mask &= np.isin(ds["object_id"].to_numpy(), objects)
        return ds.isel(vertex=np.flatnonzero(mask))
