"""Values by group, as they can be gathered again by groups of groups: sums, histograms, extremes, and which comes first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TABLE_LIMIT = 1 << 22


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """How often each value is in each cell: k entries of a cell (its number), a value (k,) or (k, C), and how often."""

    cells: NDArray[np.int64]
    values: NDArray[Any]
    counts: NDArray[np.int64]

    def gather(self, number: NDArray[np.int64], m: int) -> Histogram:
        """Return the same by other cells, `number` is that of each cell among `m`."""
        return tally(number[self.cells], self.values, self.counts, m)

    def take(self, cells: NDArray[np.intp]) -> Histogram:
        """Return that of some cells, ascending."""
        place = np.full(int(self.cells.max(initial=-1)) + 1, -1, np.int64)
        kept = cells[cells < len(place)]
        place[kept] = np.arange(len(kept))
        at = np.flatnonzero(place[self.cells] >= 0)
        return Histogram(place[self.cells[at]], self.values[at], self.counts[at])

    def most(self, m: int) -> NDArray[Any]:
        """Return the most frequent value of each of `m` cells; of several the least."""
        order = np.lexsort((np.arange(len(self.cells)), -self.counts, self.cells))
        first = np.flatnonzero(np.r_[True, np.diff(self.cells[order]) > 0]) if len(order) else order
        assert len(first) == m
        return self.values[order[first]]


def tally(cells: NDArray[np.int64], values: NDArray[Any], counts: NDArray[np.int64] | None, m: int) -> Histogram:
    """Count the values of each of `m` cells: entries ascending by cell, then by value."""
    known, code = _codes(values)
    key = cells * len(known) + code
    size = m * len(known)
    weights = None if counts is None else counts.astype(np.float64)
    if size <= max(_TABLE_LIMIT, 4 * len(cells)) and (counts is None or int(counts.sum()) < 1 << 53):
        table = np.bincount(key, weights, size)
        at = np.flatnonzero(table)
        found = table[at].astype(np.int64)
    else:
        at, back = np.unique(key, return_inverse=True)
        found = np.zeros(len(at), np.int64)
        np.add.at(found, back.reshape(-1), 1 if counts is None else counts)
    return Histogram(at // max(len(known), 1), known[at % max(len(known), 1)], found)


def _codes(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the distinct values, ascending, and the place of each value among them."""
    if values.ndim == 1 and values.dtype.kind in "iub" and len(values):
        low, high = int(values.min()), int(values.max())
        if high - low <= max(1 << 16, len(values)):
            code = (
                values.astype(np.int64) - low
                if values.dtype.kind != "u"
                else (values - values.dtype.type(low)).astype(np.int64)
            )
            there = np.flatnonzero(np.bincount(code, minlength=high - low + 1))
            table = np.zeros(high - low + 1, np.int64)
            table[there] = np.arange(len(there))
            return np.array([low + t for t in there.tolist()], values.dtype), table[code]
    known, back = np.unique(values, axis=0 if values.ndim > 1 else None, return_inverse=True)
    return known, back.reshape(-1).astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Total:
    """Sums of values (m,) or (m, C), and how many were summed where some are missing (NaN)."""

    sums: NDArray[Any]
    there: NDArray[np.int64] | None

    @classmethod
    def of(cls, values: NDArray[Any], *, exact: bool) -> Total:
        """Return each value as a sum; `exact` sums integers as such."""
        if values.dtype.kind in "biu":
            return cls(values.astype(np.uint64 if values.dtype.kind == "u" else np.int64) if exact else values, None)
        missing = np.isnan(values)
        if not missing.any():
            return cls(values, None)
        return cls(np.where(missing, 0, values), (~missing).astype(np.int64))

    def gather(self, number: NDArray[np.int64], m: int, counts: NDArray[np.int64]) -> Total:
        """Return the sums of other cells."""
        there = None if self.there is None else sum_by(self.there, number, m)
        return Total(sum_by(self.sums, number, m), there)

    @staticmethod
    def join(parts: Sequence[Total], counts: Sequence[NDArray[np.int64]]) -> Total:
        """Return those of all parts; `counts` are the vertices of the cells of each."""
        sums = np.concatenate([p.sums for p in parts])
        if all(p.there is None for p in parts):
            return Total(sums, None)

        def of(part: Total, n: NDArray[np.int64]) -> NDArray[np.int64]:
            wide = n.reshape(-1, *[1] * (part.sums.ndim - 1))
            return np.broadcast_to(wide, part.sums.shape) if part.there is None else part.there

        return Total(sums, np.concatenate([of(p, n) for p, n in zip(parts, counts, strict=True)]))

    def take(self, cells: NDArray[np.intp]) -> Total:
        """Return those of some cells."""
        return Total(self.sums[cells], None if self.there is None else self.there[cells])

    def mean(self, counts: NDArray[np.int64], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return means, NaN where every value is missing."""
        n = counts if self.there is None else self.there
        n = n.reshape(-1, *[1] * (self.sums.ndim - n.ndim)) if n.ndim < self.sums.ndim else n
        if dtype.kind in "iu" and self.sums.dtype.kind in "iu":  # beyond 2**53 a float does not tell integers apart
            whole, rest = np.divmod(self.sums, n.astype(self.sums.dtype))
            return np.asarray(whole + (2 * rest >= n.astype(self.sums.dtype)), dtype)
        with np.errstate(invalid="ignore", divide="ignore"):
            out = self.sums / n
        return np.asarray(np.rint(out) if dtype.kind in "iu" else out, dtype)


def sum_by(values: NDArray[Any], number: NDArray[np.int64], m: int) -> NDArray[Any]:
    """Return the sums by group, in float64 or in the integers' own dtype; (n,) or (n, C) to (m,) or (m, C)."""
    if values.ndim > 1:
        return np.stack([sum_by(values[:, c], number, m) for c in range(values.shape[1])], axis=1)
    if values.dtype.kind == "c":
        return np.asarray(sum_by(values.real, number, m) + 1j * sum_by(values.imag, number, m))
    if values.dtype in (np.int64, np.uint64):
        out = np.zeros(m, values.dtype)
        np.add.at(out, number, values)
        return out
    return np.bincount(number, values, m)


def extreme_by(values: NDArray[Any], number: NDArray[np.int64], m: int, *, least: bool) -> NDArray[Any]:
    """Return the least or the greatest value by group; NaN only where there is nothing else."""
    order = np.argsort(number, kind="stable")
    first = np.searchsorted(number[order], np.arange(m))
    if values.dtype.kind == "b":
        return np.asarray(extreme_by(values.view(np.uint8), number, m, least=least), bool)
    return np.asarray((np.fmin if least else np.fmax).reduceat(values[order], first, axis=0))


def first_of(number: NDArray[np.int64], m: int) -> NDArray[np.intp]:
    """Return the first of each group."""
    out = np.zeros(m, np.intp)
    out[number[::-1]] = np.arange(len(number))[::-1]
    return out


def least_of(ranks: NDArray[np.uint64], number: NDArray[np.int64], m: int) -> NDArray[np.intp]:
    """Return the one of the least rank of each group; of equals the first."""
    order = np.argsort(ranks, kind="stable")
    return np.asarray(order[first_of(number[order], m)])
