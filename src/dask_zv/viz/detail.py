"""How much to draw: what a screen can show, and which whole objects stand for all where there are more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dask_zv.config import settings
from dask_zv.errors import InputError
from dask_zv.read.object_lengths import object_lengths
from dask_zv.xarray_backend import conventions as names
from dask_zv.xarray_backend.content import Shape
from dask_zv.xarray_backend.selection import row_index, select, select_objects

Pair = tuple[int, int]
"""Numbers of the store's axes along the picture's horizontal and vertical axis."""

_PER_PIXEL = 4
_GOLDEN = (5**0.5 - 1) / 2
_LINKS_PER_VERTEX = 8


def pixels_of(artist: Any) -> float:
    """Return the pixels of axes, or of a figure."""
    box = artist.get_window_extent() if hasattr(artist, "get_window_extent") else artist.bbox
    return float(box.width * box.height)


def budget_of(max_vertices: Any, pixels: float) -> int:
    """Return how many vertices to draw one by one.

    Parameters
    ----------
    max_vertices : int, optional
        Four to a pixel by default, and at least 100,000.
    pixels : float

    Raises
    ------
    InputError
        It is not a positive number.
    """
    if max_vertices is None:
        return max(settings().plot_least_rows, int(_PER_PIXEL * pixels))
    if isinstance(max_vertices, bool) or not isinstance(max_vertices, int | np.integer) or max_vertices < 1:
        raise InputError(f"max_vertices must be a positive integer, not {max_vertices!r}")
    return int(max_vertices)


def blocks(n: int) -> Iterator[slice]:
    """Yield runs of rows that are worth a read and small beside memory."""
    for start in range(0, n, settings().plot_rows):
        yield slice(start, min(start + settings().plot_rows, n))


@dataclass(frozen=True, slots=True)
class Thinned:
    """Some whole objects of a Dataset.

    Attributes
    ----------
    ds : Dataset
    shown, total : int
        Objects.
    """

    ds: xr.Dataset
    shown: int
    total: int

    @property
    def notice(self) -> str:
        """What a title says of it; empty where nothing was left out."""
        return "" if self.shown == self.total else f"{self.shown:,} of {self.total:,} objects"


def thin(ds: xr.Dataset, shape: Shape, budget: int) -> Thinned | None:
    """Return as many whole objects as have at most `budget` vertices, spread evenly over all ids.

    The choice depends on the Dataset and the budget alone, and a larger budget takes the same objects and more. Larger objects
    than the whole budget are left out.

    Parameters
    ----------
    ds : Dataset
    shape : Shape
    budget : int

    Returns
    -------
    Thinned, or None where there are no objects, or none that fits

    Raises
    ------
    InputError
        Counts of vertices are no longer those of the Dataset.
    """
    if shape.view == "objects" and names.COUNT in ds.variables:
        lengths = np.asarray(ds.variables[names.COUNT].values, np.int64)
        chosen = _spread(lengths, budget)
        return Thinned(select_objects(ds, chosen), len(chosen), len(lengths)) if len(chosen) else None
    if names.OBJECT_ID not in ds.variables:
        return None
    ids, lengths = _objects_of(ds)
    chosen = _spread(lengths, budget)
    if not len(chosen):
        return None
    return Thinned(select(ds, None, ids[chosen].tolist(), None, clip=True), len(chosen), len(ids))


def _spread(lengths: NDArray[np.int64], budget: int) -> NDArray[np.int64]:
    """Return numbers of objects, ascending: multiples of the golden ratio put every first few evenly over the whole."""
    order = np.argsort(np.arange(len(lengths)) * _GOLDEN % 1)
    order = order[lengths[order] <= budget]
    return np.sort(order[np.cumsum(lengths[order]) <= budget])


def _objects_of(ds: xr.Dataset) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the ids of a Dataset in the spatial view, and how many of its vertices each has."""
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
    """Return the Dataset without the edges or faces that lead out of it, where it has many more than they can be its own.

    They are looked through block by block, since a part of a level still lists the links of all.

    Parameters
    ----------
    ds : Dataset
    name : str
        Of the connectivity.
    """
    links = ds.variables[name]
    dim, n = str(links.dims[0]), links.shape[0]
    if n <= _LINKS_PER_VERTEX * max(ds.sizes["vertex"], settings().plot_least_rows):
        return ds
    numbers = np.sort(ds.variables["vertex"].values if "vertex" in ds.variables else np.arange(ds.sizes["vertex"]))
    kept: list[NDArray[np.int64]] = []
    for run in blocks(n):
        ends = np.asarray(links[run].values)
        at = np.minimum(np.searchsorted(numbers, ends), len(numbers) - 1)
        kept.append(np.flatnonzero((numbers[at] == ends).all(axis=1)) + run.start)
    return ds.isel({dim: np.concatenate(kept)})
