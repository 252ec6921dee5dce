"""What reading gives: a frozen bundle of arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import escaped


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """Vertices that were read, with their attributes, links and objects.

    Attributes
    ----------
    positions : ndarray, shape (N, D)
        In the units of the axes.
    attributes : mapping of str to ndarray, shape (N,) or (N, C)
        Categories are strings (dtype object with None if values can be missing).
    object_ids : ndarray of int64, shape (N,), optional
        Object of each vertex: -1 if it belongs to none, -2 if it belongs to several. None for stores without objects.
    edges : ndarray of int64, shape (E, 2), optional
        Row numbers in `positions`; the two ends are in the order of the input. In skeletons (child, parent), ascending by
        child.
    parents : ndarray of int64, shape (N,), optional
        Row number of the parent of each vertex, -1 at roots and if the parent was not read. None for skeletons that were edited
        into graphs, where a node has several parents.
    faces : ndarray of int64, shape (F, k), optional
        Row numbers in `positions`, with winding and first vertex as in the input.
    ids, lengths : ndarray of int64, shape (O,), optional
        Objects in the order of the rows, and the number of rows of each; with ``order="object"``. If a box or chunks cut a
        path, each connected piece is an entry, so an id may occur several times or not at all.
    edge_attributes : mapping of str to ndarray, shape (E, ...)
        Masked where the store has no value: for edges between chunks in ZV 0.7, and for implied edges of skeletons.
    face_attributes : mapping of str to ndarray, shape (F, ...)
        As `edge_attributes`.
    object_index : ndarray of int64, shape (O,), optional
        Object ids of the rows of `object_attributes`.
    object_attributes : mapping of str to ndarray, shape (O, ...)
    groups : mapping of int to ndarray of int64
        Object ids of each group.
    group_attributes : mapping of str to ndarray, shape (G, ...)
    halo : int
        Number of rows at the end that are vertices of other chunks, the far ends of links; with ``map_chunks(halo="links")``.
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
    face_attributes: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    object_index: NDArray[np.int64] | None = None
    object_attributes: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    groups: Mapping[int, NDArray[np.int64]] = field(default_factory=dict)
    group_attributes: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    halo: int = 0

    def __len__(self) -> int:
        return len(self.positions)

    def __repr__(self) -> str:
        n, ndim = self.positions.shape
        lines = [f"<dask_zv.Geometry: {n:,} vertices in {ndim}-D, {self.positions.dtype}>"]
        lines += [f"  {name}: {v.dtype} {v.shape}" for name, v in self.attributes.items()]
        for name, links in (("edges", self.edges), ("faces", self.faces)):
            if links is not None:
                lines.append(f"  {len(links):,} {name}")
        if self.halo:
            lines.append(f"  the last {self.halo:,} vertices are of other chunks")
        if self.object_ids is not None:
            lines.append(f"  of {len(np.unique(self.object_ids[self.object_ids >= 0])):,} objects")
        return "\n".join(map(escaped, lines))


@dataclass(frozen=True, slots=True, eq=False)
class Links:
    """Links as they are stored, by chunk and row.

    Attributes
    ----------
    chunks : ndarray of int64, shape (m, L, K)
        Chunk of each endpoint: the first in the level itself, the others in the level that the links lead to.
    rows : ndarray of int64, shape (m, L)
        Row of each endpoint in the stored vertices of its chunk. If fragments were edited, this differs from the reading order.
    attributes : mapping of str to ndarray, shape (m,) or (m, C)
        Masked for links without a value.
    directed : bool
        True if the order of the endpoints has a meaning.
    width : int
        Number of endpoints of a link, L.
    """

    chunks: NDArray[np.int64]
    rows: NDArray[np.int64]
    attributes: Mapping[str, NDArray[Any]]
    directed: bool
    width: int

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        kind = "directed" if self.directed else "undirected"
        return f"<dask_zv.Links: {len(self):,} {kind} records of {self.width} endpoints>"
