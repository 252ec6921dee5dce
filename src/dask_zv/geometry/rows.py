"""Rows of vertices on their way into a store: what travels between partitions and blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["VertexRows", "concatenate_rows"]


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
