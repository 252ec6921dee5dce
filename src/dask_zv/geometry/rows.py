"""Rows of vertices and links on their way into a store: what travels between partitions and blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class VertexRows:
    """Rows as they are stored, not yet sorted into chunks."""

    positions: NDArray[np.floating]  # (n, D)
    attributes: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)  # (n,) or (n, C)
    object_ids: NDArray[np.int64] | None = None  # (n,)
    numbers: NDArray[np.int64] | None = None  # (n,): Place of each row in the whole input, where the geometry goes by it
    keys: NDArray[np.int64] | None = None  # (n,): What edges, faces and parents call each row, where that is not its number
    parents: NDArray[np.int64] | None = None  # (n,): Number (or key) of each row's parent, negative at roots

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

    def with_objects(self) -> VertexRows:
        """Return rows that all have an object: 0 where none were given."""
        return self if self.object_ids is not None else replace(self, object_ids=np.zeros(len(self), np.int64))

    def __sizeof__(self) -> int:
        # what the scheduler's memory management counts
        return sum(a.nbytes for a in self.columns()) + 200

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_] | slice) -> VertexRows:
        """Return a selection of rows."""
        return self.with_columns([values[rows] for values in self.columns()])

    def columns(self) -> list[NDArray[Any]]:
        """Return all columns that there are, in an order that all rows of one write share."""
        integers = [a for a in (self.object_ids, self.numbers, self.keys, self.parents) if a is not None]
        return [self.positions, *self.attributes.values(), *integers]

    def with_columns(self, columns: Sequence[NDArray[Any]]) -> VertexRows:
        """Return rows that have these in the place of :meth:`columns`."""
        left = iter(columns)
        names = ("object_ids", "numbers", "keys", "parents")
        return VertexRows(
            next(left),
            {name: next(left) for name in self.attributes},
            *(None if getattr(self, name) is None else next(left) for name in names),
        )


def concatenate_rows(pieces: Iterable[VertexRows], total: int) -> VertexRows:
    """Return the rows of all pieces, `total` together, in the order given; an iterator's pieces are held one at a time."""
    joined: list[NDArray[Any]] = []
    first: VertexRows | None = None
    start = 0
    for piece in pieces:
        if len(piece) == total:
            return piece
        if first is None:
            joined = [np.empty((total, *values.shape[1:]), values.dtype) for values in piece.columns()]
            first = piece.take(slice(0, 0))
        for column, values in zip(joined, piece.columns(), strict=True):
            column[start : start + len(piece)] = values
        start += len(piece)
    assert first is not None
    assert start == total
    return first.with_columns(joined)


@dataclass(frozen=True, slots=True, eq=False)
class LinkRows:
    """Links as they were given."""

    endpoints: NDArray[np.int64]  # (m, L): Numbers (or keys) of vertices
    numbers: NDArray[np.int64]  # (m,): Place of each in the input
    attributes: Mapping[str, NDArray[Any]] = field(default_factory=dict)  # (m,) or (m, C)

    def __len__(self) -> int:
        return len(self.endpoints)

    def __sizeof__(self) -> int:
        return self.endpoints.nbytes + self.numbers.nbytes + sum(a.nbytes for a in self.attributes.values()) + 200

    @classmethod
    def join(cls, parts: Sequence[LinkRows]) -> LinkRows:
        """Return the links of all parts, of which there is one at least."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            np.concatenate([p.endpoints for p in parts]),
            np.concatenate([p.numbers for p in parts]),
            {k: np.concatenate([p.attributes[k] for p in parts]) for k in parts[0].attributes},
        )
