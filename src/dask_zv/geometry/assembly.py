"""From stored rows to what a reader sees: paths, edges, faces and parents as row numbers of the vertices that were read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


def take_ranges(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the numbers of ranges, one behind the other; shape (counts.sum(),)."""
    return np.repeat(starts - (np.cumsum(counts) - counts), counts) + np.arange(int(counts.sum()))


def rows_of_cells(sizes: NDArray[np.int64], places: NDArray[np.intp]) -> Any:
    """Return what takes some cells out of values that are cells of these sizes, one behind the other."""
    ends = np.cumsum(sizes)
    if len(places) and (np.diff(places) == 1).all():
        return slice(int(ends[places[0]] - sizes[places[0]]), int(ends[places[-1]]))
    return take_ranges((ends - sizes)[places], sizes[places])


def input_order(values: NDArray[np.int64], order: NDArray[np.intp] | None) -> NDArray[np.int64]:
    """Return endpoints in the order of the input: slot i of a record belongs at ``order[.., i]``; shape (m, L)."""
    if order is None:
        return values
    out = np.empty_like(values)
    np.put_along_axis(out, order, values, 1)
    return out


@dataclass(frozen=True, slots=True, eq=False)
class RowMap:
    """Where the stored rows of some chunks are among the rows that were read."""

    stored: NDArray[np.int64]  # (n,): Rows of each chunk's blobs
    places: NDArray[np.int64] | None
    """(stored.sum(),): row number of each stored row, -1 where it was not read; None where all were read in their order."""

    @classmethod
    def join(cls, parts: Sequence[RowMap], rows: Sequence[int]) -> RowMap:
        """Return the map of all parts; `rows` are the rows that each part gave."""
        stored = np.concatenate([np.zeros(0, np.int64), *(p.stored for p in parts)])
        if all(p.places is None for p in parts):
            return cls(stored, None)
        places: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
        first = 0
        for part, n in zip(parts, rows, strict=True):
            of_part = np.arange(n) if part.places is None else part.places
            places.append(np.where(of_part < 0, -1, of_part + first))
            first += n
        return cls(stored, np.concatenate(places))

    def beyond(self, chunks: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the records that name a row which their chunk does not have; chunk -1 is one that was not read."""
        limit = np.append(self.stored, np.iinfo(np.int64).max)[chunks]
        return np.flatnonzero(((rows < 0) | (rows >= limit)).any(axis=1))

    def find(self, chunks: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return row numbers, -1 for what was not read."""
        starts, lost = np.append(np.cumsum(self.stored) - self.stored, 0), chunks < 0
        at = starts[chunks] + np.where(lost, 0, rows)
        if self.places is not None and not lost.all():
            at = self.places[np.where(lost, 0, at)]
        at[lost] = -1
        return at


def parents_of(
    linked: NDArray[np.bool_], first: NDArray[np.bool_], records: NDArray[np.int64], *, either_way: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the parent of every row (N,), -1 at roots and where it was not read, and the record that says so (N,), or -1.

    A row's parent is the row before it where `linked` (the same fragment, next to it); records (child, parent), of shape (m, 2)
    with -1 for what was not read, say otherwise. With `either_way` a record may have the parent first: where every fragment is
    one path, the child is the row that begins a fragment (`first`).
    """
    n = len(linked)
    parents = np.where(linked, np.arange(n) - 1, -1)
    told = np.full(n, -1, np.int64)
    child, parent = records.T
    known = child >= 0
    if either_way:
        starts = np.append(first, False)
        turned = ~starts[child] & starts[parent] & known
        known &= starts[child] | (parent >= 0)
        child, parent = np.where(turned, parent, child), np.where(turned, child, parent)
    mine = np.flatnonzero(known)
    parents[child[mine]] = parent[mine]
    told[child[mine]] = mine
    return parents, told


def parents_of_edges(edges: NDArray[np.int64], n: int) -> NDArray[np.int64] | None:
    """Return the parent of each of n rows, -1 at roots, from edges (child, parent); None where a row has several parents."""
    parents = np.full(n, -1, np.int64)
    parents[edges[:, 0]] = edges[:, 1]
    return parents if np.count_nonzero(parents >= 0) == len(edges) else None


def follow_copies(
    links: NDArray[np.int64], rows: NDArray[np.int64], owners: NDArray[np.int64], n: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Renumber links (m, L) after `n` rows were reordered, some of them copied: an object that shares a row has its own copy.

    `rows` (M,) are the numbers before of the rows that there are now, `owners` (M,) their objects. Returned are the links whose
    rows are all still there, and the number before of each. Where rows have copies, a link is found in each object that has one
    of its first endpoint: between copies of that object where it has them.
    """
    first = np.full(n, -1, np.int64)
    first[rows[::-1]] = np.arange(len(rows))[::-1]
    if len(rows) == np.count_nonzero(first >= 0):
        now = first[links]
        kept = np.flatnonzero((now >= 0).all(axis=1))
        return now[kept], kept
    order = np.lexsort((owners, rows))
    by_row, by_owner = rows[order], owners[order]
    begin, end = np.searchsorted(by_row, links[:, 0], "left"), np.searchsorted(by_row, links[:, 0], "right")
    records = np.repeat(np.arange(len(links)), end - begin)
    lead = order[take_ranges(begin, end - begin)]
    _, owner_number = np.unique(by_owner, return_inverse=True)
    span = int(owner_number.max(initial=0)) + 1
    code = by_row * span + owner_number  # ascending
    number_of = np.empty(len(rows), np.int64)
    number_of[order] = owner_number
    out = np.empty((len(records), links.shape[1]), np.int64)
    out[:, 0] = lead
    for k in range(1, links.shape[1]):
        wanted = links[records, k] * span + number_of[lead]
        at = np.minimum(np.searchsorted(code, wanted), len(code) - 1)
        out[:, k] = np.where(code[at] == wanted, order[at], first[links[records, k]])
    kept = np.flatnonzero((out >= 0).all(axis=1))
    return out[kept], records[kept]


@dataclass(frozen=True, slots=True, eq=False)
class Paths:
    """Rows put into the order of the manifests."""

    rows: NDArray[np.int64]  # (M,): Number before of each row
    owners: NDArray[np.int64]  # (M,)
    ids: NDArray[np.int64]  # (O,): The objects, or their runs, in the order of the rows, and the rows of each
    lengths: NDArray[np.int64]  # (O,)

    @classmethod
    def whole(
        cls,
        objects: NDArray[np.int64],
        starts: NDArray[np.int64],
        counts: NDArray[np.int64],
        ids: NDArray[np.int64],
    ) -> Paths:
        """Put objects together, each of `ids` (ascending) once.

        Entries of manifests, in their order: the object of each, its first row, and how many rows it has.
        """
        owners = np.repeat(objects, counts)
        lengths = np.zeros(len(ids), np.int64)
        np.add.at(lengths, np.searchsorted(ids, objects), counts)
        return cls(take_ranges(starts, counts), owners, ids, lengths)

    @classmethod
    def runs(
        cls,
        objects: NDArray[np.int64],
        starts: NDArray[np.int64],
        counts: NDArray[np.int64],
        whole: NDArray[np.int64],
        places: NDArray[Any],
    ) -> Paths:
        """Put what is left of paths together, each unbroken run by itself.

        Entries as of :meth:`whole`, of the rows that were kept; `whole` are the rows of each entry before, 1 or more where that
        is not known, because none was read; `places` (N,) the place of each kept row in its fragment.
        """
        rows = take_ranges(starts, counts)
        owners = np.repeat(objects, counts)
        along = np.repeat(np.cumsum(whole) - whole, counts) + places[rows]
        begins = np.ones(len(rows), bool)
        begins[1:] = (owners[1:] != owners[:-1]) | (along[1:] != along[:-1] + 1)
        at = np.flatnonzero(begins)
        return cls(rows, owners, owners[at], np.diff(np.r_[at, len(rows)]))
