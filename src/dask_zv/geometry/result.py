"""What reading gives: a frozen bundle of arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Geometry"]


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """Vertices that were read, with what belongs to them.

    Attributes
    ----------
    positions : ndarray, shape (N, D)
        In the units of the axes.
    attributes : mapping of str to ndarray, shape (N,) or (N, C)
        Categories as strings (objects with None where values can be missing).
    object_ids : ndarray of int64, shape (N,), optional
        Object of each vertex, -1 where no object names it; None for stores without objects.
    edges : ndarray of int64, shape (E, 2), optional
        Row numbers into `positions`.
    parents : ndarray of int64, shape (N,), optional
        Row number of each vertex's parent, -1 at roots.
    faces : ndarray of int64, shape (F, k), optional
        Row numbers into `positions`.
    ids, lengths : ndarray of int64, shape (O,), optional
        Objects in the order of the rows, and the rows of each; with ``order="object"``.
    edge_attributes : mapping of str to ndarray, shape (E, ...)
    object_index : ndarray of int64, shape (O,), optional
        The objects that `object_attributes` describes.
    object_attributes : mapping of str to ndarray, shape (O, ...)
    groups : mapping of int to ndarray of int64
        Object ids of each group.
    group_attributes : mapping of str to ndarray, shape (G, ...)
    """

    positions: NDArray[Any]
    attributes: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    object_ids: NDArray[np.int64] | None = None
    edges: NDArray[np.int64] | None = None
    parents: NDArray[np.int64] | None = None
    faces: NDArray[np.int64] | None = None
    ids: NDArray[np.int64] | None = None
    lengths: NDArray[np.int64] | None = None
    edge_attributes: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    object_index: NDArray[np.int64] | None = None
    object_attributes: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    groups: Mapping[int, NDArray[np.int64]] = field(default_factory=dict)
    group_attributes: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.positions)

    def __repr__(self) -> str:
        n, ndim = self.positions.shape
        lines = [f"<dask_zv.Geometry: {n:,} vertices in {ndim}-D, {self.positions.dtype}>"]
        lines += [f"  {name}: {v.dtype} {v.shape}" for name, v in self.attributes.items()]
        if self.object_ids is not None:
            lines.append(f"  of {len(np.unique(self.object_ids[self.object_ids >= 0])):,} objects")
        return "\n".join(lines)
