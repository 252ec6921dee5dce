"""Rows of vertices on their way into a store: what travels between partitions and blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dask_zv.spatial.grid import corners

__all__ = ["VertexRows", "concatenate_rows", "group_by_chunk"]

_TABLE_LIMIT = 1 << 22


@dataclass(frozen=True, slots=True, eq=False)
class VertexRows:
    """Rows as they are stored, not yet sorted into chunks.

    Attributes
    ----------
    positions : ndarray, shape (n, D)
    attributes : mapping of str to ndarray, shape (n,) or (n, C)
    object_ids : ndarray of int64, shape (n,), optional
    numbers : ndarray of int64, shape (n,), optional
        Place of each row in the whole input, where the geometry goes by it.
    keys : ndarray of int64, shape (n,), optional
        What edges, faces and parents call each row, where that is not its number.
    parents : ndarray of int64, shape (n,), optional
        Number (or key) of each row's parent, negative at roots.
    """

    positions: NDArray[np.floating]
    attributes: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    object_ids: NDArray[np.int64] | None = None
    numbers: NDArray[np.int64] | None = None
    keys: NDArray[np.int64] | None = None
    parents: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def names(self) -> NDArray[np.int64]:
        """What edges, faces and parents call each row."""
        found = self.numbers if self.keys is None else self.keys
        assert found is not None
        return found

    @property
    def ids(self) -> NDArray[np.int64]:
        """Object of each row."""
        assert self.object_ids is not None
        return self.object_ids

    def __sizeof__(self) -> int:
        # what the scheduler's memory management counts
        integers = [a for a in (self.object_ids, self.numbers, self.keys, self.parents) if a is not None]
        return sum(a.nbytes for a in [self.positions, *self.attributes.values(), *integers]) + 200

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_] | slice) -> VertexRows:
        """Return a selection of rows."""
        integers = [None if a is None else a[rows] for a in (self.object_ids, self.numbers, self.keys, self.parents)]
        return VertexRows(self.positions[rows], {k: v[rows] for k, v in self.attributes.items()}, *integers)


def concatenate_rows(pieces: Sequence[VertexRows]) -> VertexRows:
    """Return the rows of all pieces, in the order given."""
    if len(pieces) == 1:
        return pieces[0]

    def join(parts: list[NDArray[np.int64] | None]) -> NDArray[np.int64] | None:
        given = [p for p in parts if p is not None]
        return np.concatenate(given) if given else None

    return VertexRows(
        np.concatenate([p.positions for p in pieces]),
        {k: np.concatenate([p.attributes[k] for p in pieces]) for k in pieces[0].attributes},
        join([p.object_ids for p in pieces]),
        join([p.numbers for p in pieces]),
        join([p.keys for p in pieces]),
        join([p.parents for p in pieces]),
    )


def group_by_chunk(chunks: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct rows of `chunks`, ascending, and the number of each row's chunk among them.

    Parameters
    ----------
    chunks : ndarray of int64, shape (n, D)

    Returns
    -------
    unique : ndarray of int64, shape (m, D)
    number : ndarray of int64, shape (n,)
    """
    n, ndim = chunks.shape
    if n == 0:
        return np.zeros((0, ndim), np.int64), np.zeros(0, np.int64)
    low, high = corners(chunks)
    extent = [int(e) for e in high - low + 1]
    cells = 1
    for e in extent:
        cells *= e
    if cells > 1 << 62:
        unique, inverse = np.unique(chunks, axis=0, return_inverse=True)
        return unique, inverse.reshape(-1).astype(np.int64)
    code = np.zeros(n, np.int64)
    for axis in range(ndim):
        code *= extent[axis]
        code += chunks[:, axis] - low[axis]
    if cells <= max(_TABLE_LIMIT, 2 * n):  # a table of all cells is faster than a sort
        occupied = np.flatnonzero(np.bincount(code, minlength=cells))
        table = np.zeros(cells, np.int64)
        table[occupied] = np.arange(len(occupied))
        number = table[code]
    else:
        occupied, inverse = np.unique(code, return_inverse=True)
        number = inverse.reshape(-1).astype(np.int64)
    return np.stack(np.unravel_index(occupied, extent), axis=1).astype(np.int64) + low, number
