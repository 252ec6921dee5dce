"""How many vertices of a Dataset lie in which chunk: told by the table of chunks, no vertex is read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dask_zv.read.columns import LevelRows
from dask_zv.spatial.grid import Box
from dask_zv.xarray_backend.object_index import ObjectIdIndex
from dask_zv.xarray_backend.selection import row_index


@dataclass(frozen=True, slots=True)
class ChunkCounts:
    """Chunks that hold vertices.

    Attributes
    ----------
    coords : ndarray of int64, shape (n, D)
    rows : ndarray of int64, shape (n,)
    edges : ndarray of float64, shape (D,)
        Lengths of a chunk.
    offset : ndarray of float64, shape (D,)
        Where chunk 0 begins.
    """

    coords: NDArray[np.int64]
    rows: NDArray[np.int64]
    edges: NDArray[np.float64]
    offset: NDArray[np.float64]

    @property
    def box(self) -> Box:
        """The least box of whole chunks; there must be one."""
        return self.coords.min(axis=0) * self.edges + self.offset, (self.coords.max(axis=0) + 1) * self.edges + self.offset

    def within(self, box: Box) -> float:
        """Return about how many vertices are in a box: those of a chunk are taken to be spread evenly over it."""
        low = self.coords * self.edges + self.offset
        shared = np.minimum(low + self.edges, box[1]) - np.maximum(low, box[0])
        return float((np.clip(shared / self.edges, 0, 1).prod(axis=1) * self.rows).sum())


def chunk_counts(ds: xr.Dataset) -> ChunkCounts | None:
    """Return the chunks of a Dataset's vertices; None where the Dataset no longer knows of its level.

    In the objects view these are all vertices of the level, so objects must not have been picked.
    """
    index = row_index(ds)
    if index is not None:
        offsets, numbers = index.level.offsets, index.numbers
        if isinstance(numbers, slice):
            inside = np.clip(offsets, numbers.start, max(numbers.start, numbers.stop))
            return _counts(index.level, np.diff(inside))
        chunk = np.searchsorted(offsets, numbers, side="right") - 1
        return _counts(index.level, np.bincount(chunk, minlength=len(offsets) - 1))
    objects = ds.xindexes.get("object")
    if isinstance(objects, ObjectIdIndex) and objects.rows is not None and len(objects.ids) == len(objects.rows.lengths):
        return _counts(objects.rows.vertices, objects.rows.vertices.counts)
    return None


def _counts(level: LevelRows, rows: NDArray[np.int64]) -> ChunkCounts:
    source, grid = level.source, level.source.schema.grid
    used = np.flatnonzero(rows)
    coords = level.table.coords[used][:, source.rank - grid.ndim :]  # an attribute can lead the keys
    offset = np.zeros(grid.ndim) if level.offset is None else np.asarray(level.offset, np.float64)
    return ChunkCounts(coords, rows[used].astype(np.int64), np.asarray(grid.chunk_shape, np.float64), offset)


def vertices_within(ds: xr.Dataset, box: Box | None) -> float:
    """Return about how many vertices of a Dataset are in a box; nothing is read.

    Parameters
    ----------
    ds : Dataset
    box : Box, optional
        Everywhere by default. A Dataset that does not know of its level counts in full.
    """
    found = None if box is None else chunk_counts(ds)
    return float(ds.sizes["vertex"]) if box is None or found is None else found.within(box)
