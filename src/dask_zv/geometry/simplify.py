"""Paths and trees with fewer vertices: those stay that hold the shape (Douglas-Peucker), all paths of a block at once.

Of paths the ends stay; of trees the roots, the branch points and the tips, and what lies between two of them is a path. A
vertex that stays counts for those after it along its path that don't.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.geometry.assembly import take_ranges
from dask_zv.geometry.result import Geometry
from dask_zv.geometry.schema import Kind
from dask_zv.geometry.tallies import sum_by

Simplify = Callable[[Geometry, NDArray[np.float64], float], "Simplified"]
"""Of whole objects, their positions as they are measured (N, D), and how far what is left out may lie from its path."""


@dataclass(frozen=True, slots=True, eq=False)
class Simplified:
    """What becomes of whole objects."""

    rows: NDArray[np.intp]  # (n,): the vertices that stay, ascending
    owners: NDArray[np.intp]  # (N,): of every vertex, the place in `rows` of the one that counts for it
    parents: NDArray[np.int64] | None  # (n,): of trees, the place in `rows` of each one's parent, -1 at roots
    lengths: NDArray[np.float64]  # (O,): of the objects as they were: the sum of their edges


def simplifier_of(kind: Kind) -> Simplify | None:
    """Return how objects of a geometry are simplified, None where they aren't."""
    if kind.is_path:
        return simplify_paths
    return simplify_trees if kind.has_parents else None


def simplify_paths(geometry: Geometry, measured: NDArray[np.float64], tolerance: float) -> Simplified:
    """Simplify paths between their ends."""
    counts = geometry.lengths
    assert counts is not None
    starts = np.cumsum(counts) - counts
    stays = shape_holders(measured, starts, counts, tolerance)
    steps = np.linalg.norm(np.diff(measured, axis=0, prepend=measured[:1]), axis=1)
    steps[starts[counts > 0]] = 0
    of = np.repeat(np.arange(len(counts)), counts)
    return Simplified(np.flatnonzero(stays), np.cumsum(stays) - 1, None, np.bincount(of, steps, len(counts)))


def simplify_trees(geometry: Geometry, measured: NDArray[np.float64], tolerance: float) -> Simplified:
    """Simplify trees between their roots, branch points and tips."""
    parents, counts = geometry.parents, geometry.lengths
    assert counts is not None
    if parents is None:
        raise InputError("a node has several parents, so the objects are no trees any more and can't be simplified as such")
    n = len(parents)
    inner = np.flatnonzero(parents >= 0)
    children = np.bincount(parents[inner], minlength=n)
    fixed = (children != 1) | (parents < 0)
    # a path begins below a vertex that is fixed, and goes on to the next that is; its first vertex names it
    up = np.where(parents < 0, np.arange(n), np.where(fixed[parents], np.arange(n), parents))
    depth = (up != np.arange(n)).astype(np.int64)
    for _ in range(64):
        above = up[up]
        if (above == up).all():
            break
        depth += depth[up]
        up = above
    else:
        raise InputError("the parents form a cycle: the nodes of a skeleton must lead to a root (parent -1)")
    head = np.unique(up[inner])
    lengths = np.bincount(np.searchsorted(head, up[inner]), minlength=len(head)) + 1 if len(head) else np.zeros(0, np.int64)
    starts = np.cumsum(lengths) - lengths
    path = np.empty(int(lengths.sum()), np.int64)
    path[starts] = parents[head]
    path[starts[np.searchsorted(head, up[inner])] + 1 + depth[inner]] = inner
    holds = shape_holders(measured[path], starts, lengths, tolerance)
    stays = fixed.copy()
    stays[path[holds]] = True
    before = np.maximum.accumulate(np.where(holds, np.arange(len(path)), 0))  # the last that stays, up to each
    place = np.cumsum(stays) - 1
    owners = place.copy()
    own = ~stays[path]
    owners[path[own]] = place[path[before[own]]]
    above = np.full(n, -1, np.int64)
    first = np.zeros(len(path), bool)
    first[starts] = True
    body = np.flatnonzero(~first)
    above[path[body]] = place[path[before[body - 1]]]
    rows = np.flatnonzero(stays)
    steps = np.zeros(n)
    steps[inner] = np.linalg.norm(measured[inner] - measured[parents[inner]], axis=1)
    of = np.repeat(np.arange(len(counts)), counts)
    return Simplified(rows, owners, above[rows], np.bincount(of, steps, len(counts)))


def shape_holders(
    points: NDArray[np.float64], starts: NDArray[np.int64], counts: NDArray[np.int64], tolerance: float
) -> NDArray[np.bool_]:
    """Return which points (N, D) of paths hold their shape: the ends, and those that Douglas and Peucker's rule keeps.

    A point that is left out lies no further than `tolerance` from the edge that takes its place.
    """
    stays = np.zeros(len(points), bool)
    some = counts > 0
    begin, end = starts[some], starts[some] + counts[some] - 1
    stays[begin] = stays[end] = True
    while True:
        long = end - begin > 1
        begin, end = begin[long], end[long]
        if not len(begin):
            return stays
        inside = end - begin - 1
        rows, of = take_ranges(begin + 1, inside), np.repeat(np.arange(len(begin)), inside)
        edge = points[end] - points[begin]
        squared = np.einsum("ij,ij->i", edge, edge)
        away = points[rows] - points[begin][of]
        along = np.einsum("ij,ij->i", away, edge[of])
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.where(squared[of] > 0, np.clip(along / squared[of], 0, 1), 0)
        away -= share[:, None] * edge[of]
        distance = np.einsum("ij,ij->i", away, away)
        furthest = np.maximum.reduceat(distance, np.cumsum(inside) - inside)
        at = np.flatnonzero((distance == furthest[of]) & (furthest[of] > tolerance**2))
        split, first = np.unique(of[at], return_index=True)
        middle = rows[at[first]]
        stays[middle] = True
        begin, end = np.concatenate([begin[split], middle]), np.concatenate([middle, end[split]])


def counts_of(found: Simplified, counts: NDArray[Any]) -> NDArray[np.int64]:
    """Return how many vertices each one that stays counts for, given how many each of all does."""
    return np.asarray(sum_by(counts.astype(np.int64), found.owners.astype(np.int64), len(found.rows)))
