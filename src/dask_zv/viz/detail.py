"""How much to draw: what a screen can show, which objects represent all, and how many vertices each chunk has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dask_zv.config import settings
from dask_zv.errors import InputError
from dask_zv.read.columns import LevelRows
from dask_zv.read.object_rows import object_lengths
from dask_zv.spatial.grid import Box
from dask_zv.xarray_backend import conventions as names
from dask_zv.xarray_backend.content import Shape, object_index, places_of, row_index
from dask_zv.xarray_backend.selection import select, select_objects

Pair = tuple[int, int]
"""The store axes that are the horizontal and the vertical axis of a picture, by number."""

_PER_PIXEL = 4
_GOLDEN = (5**0.5 - 1) / 2
_LINKS_PER_VERTEX = 8


def pixels_of(artist: Any) -> float:
    """Return the pixels of axes, or of a figure."""
    box = artist.get_window_extent() if hasattr(artist, "get_window_extent") else artist.bbox
    return float(box.width * box.height)


def budget_of(max_vertices: Any, pixels: float) -> int:
    """Return how many vertices to draw one by one: the given number, or four per pixel and at least 100,000."""
    if max_vertices is None:
        return max(settings().plot_least_rows, int(_PER_PIXEL * pixels))
    if isinstance(max_vertices, bool) or not isinstance(max_vertices, int | np.integer) or max_vertices < 1:
        raise InputError(f"max_vertices must be a positive integer, not {max_vertices!r}")
    return int(max_vertices)


def blocks(n: int) -> Iterator[slice]:
    """Yield runs of rows of a good size for one read."""
    for start in range(0, n, settings().plot_rows):
        yield slice(start, min(start + settings().plot_rows, n))


# ---------------------------------------------------------------------------------------------- some objects for all


def thin(ds: xr.Dataset, shape: Shape, budget: int) -> tuple[xr.Dataset, str] | None:
    """Return whole objects with at most `budget` vertices in total, spread evenly over all ids, and a note for the title.

    The choice depends only on the Dataset and the budget; a larger budget takes the same objects and more. Objects larger than
    the budget are left out. None if there are no objects, or none that fits.
    """
    by_object = shape.view == "objects" and names.COUNT in ds.variables
    if not by_object and names.OBJECT_ID not in ds.variables:
        return None
    ids = np.zeros(0, np.int64)
    if by_object:
        lengths = np.asarray(ds.variables[names.COUNT].values, np.int64)
    else:
        ids, lengths = _objects_of(ds)
    # with multiples of the golden ratio, the first few are always spread evenly
    order = np.argsort(np.arange(len(lengths)) * _GOLDEN % 1)
    order = order[lengths[order] <= budget]
    chosen = np.sort(order[np.cumsum(lengths[order]) <= budget])
    if not len(chosen):
        return None
    notice = "" if len(chosen) == len(lengths) else f"{len(chosen):,} of {len(lengths):,} objects"
    if by_object:
        return select_objects(ds, chosen), notice
    return select(ds, None, ids[chosen].tolist(), None, clip=True), notice


def _objects_of(ds: xr.Dataset) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the object ids of a Dataset in the spatial view, and the number of vertices of each."""
    index = row_index(ds)
    if index is not None and isinstance(index.numbers, slice) and len(index) == len(index.level):
        known = object_lengths(index.level.source, index.level.table, index.level.index)
        return known.ids, known.lengths
    ids, lengths = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for run in blocks(ds.sizes["vertex"]):
        new, counts = np.unique(ds.variables[names.OBJECT_ID][run].values, return_counts=True)
        ids, where = np.unique(np.concatenate([ids, new]), return_inverse=True)
        lengths = np.bincount(where, np.concatenate([lengths, counts]), len(ids)).astype(np.int64)
    return ids[ids >= 0], lengths[ids >= 0]


def with_links_inside(ds: xr.Dataset, name: str) -> xr.Dataset:
    """Return the Dataset without edges or faces that lead out of it, if most of them must do so.

    They are filtered in parts, because a selection of a level still lists the links of the whole level.
    """
    links = ds.variables[name]
    dim, n = str(links.dims[0]), links.shape[0]
    if n <= _LINKS_PER_VERTEX * max(ds.sizes["vertex"], settings().plot_least_rows):
        return ds
    numbers = np.sort(ds.variables["vertex"].values if "vertex" in ds.variables else np.arange(ds.sizes["vertex"]))
    kept = [np.flatnonzero((places_of(numbers, links[run].values) >= 0).all(axis=1)) + run.start for run in blocks(n)]
    return ds.isel({dim: np.concatenate(kept)})


# ---------------------------------------------------------------------------------------------- vertices in chunks


@dataclass(frozen=True, slots=True)
class ChunkCounts:
    """Chunks that hold vertices: coordinates (n, D), rows (n,), the size of a chunk (D,), the origin of chunk 0 (D,)."""

    coords: NDArray[np.int64]
    rows: NDArray[np.int64]
    edges: NDArray[np.float64]
    offset: NDArray[np.float64]

    @property
    def box(self) -> Box:
        """The smallest box of whole chunks; there must be at least one chunk."""
        return self.coords.min(axis=0) * self.edges + self.offset, (self.coords.max(axis=0) + 1) * self.edges + self.offset


def chunk_counts(ds: xr.Dataset) -> ChunkCounts | None:
    """Return the chunks of the vertices of a Dataset; None if the Dataset has lost the connection to its level.

    In the objects view these are all vertices of the level, so objects must not have been selected.
    """
    index, objects = row_index(ds), object_index(ds)
    level: LevelRows
    rows: NDArray[np.int64]
    if index is not None:
        level, numbers = index.level, index.numbers
        if isinstance(numbers, slice):
            inside = np.clip(level.offsets, numbers.start, max(numbers.start, numbers.stop))
            rows = inside[1:] - inside[:-1]
        else:
            chunk = np.searchsorted(level.offsets, numbers, side="right") - 1
            rows = np.bincount(chunk, minlength=len(level.offsets) - 1).astype(np.int64)
    elif objects is not None and objects.rows is not None and len(objects.ids) == len(objects.rows.lengths):
        level = objects.rows.vertices
        rows = level.counts
    else:
        return None
    source, grid = level.source, level.source.schema.grid
    used = np.flatnonzero(rows)
    coords = level.table.coords[used][:, source.rank - grid.ndim :]  # an attribute can lead the keys
    offset = np.zeros(grid.ndim) if level.offset is None else np.asarray(level.offset, np.float64)
    return ChunkCounts(coords, rows[used], np.asarray(grid.chunk_shape, np.float64), offset)


def vertices_within(ds: xr.Dataset, box: Box | None) -> float:
    """Return the estimated number of vertices in a box, assuming an even density in each chunk; nothing is read.

    A Dataset without a connection to its level is counted in full.
    """
    found = None if box is None else chunk_counts(ds)
    if box is None or found is None:
        return float(ds.sizes["vertex"])
    low = found.coords * found.edges + found.offset
    shared = np.minimum(low + found.edges, box[1]) - np.maximum(low, box[0])
    return float((np.clip(shared / found.edges, 0, 1).prod(axis=1) * found.rows).sum())
