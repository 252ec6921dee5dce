"""Lengths, areas and speeds of vertices in numpy: what a block of edges, faces or whole objects comes to, in float64."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import InputError

Floats = NDArray[np.float64]


def edge_lengths(ends: NDArray[Any]) -> Floats:
    """Return the lengths of edges, shape (m,), by the positions of their ends, (m, 2, D)."""
    found: Floats = np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1)
    return found


def face_areas(corners: NDArray[Any]) -> Floats:
    """Return the areas of faces, shape (m,), by the positions of their corners, (m, k, D): of the triangles (0, i, i + 1)."""
    spokes = np.moveaxis(corners[:, 1:] - corners[:, :1], 1, 0)
    areas = np.zeros(len(corners))
    for a, b in pairwise(spokes):
        # the parallelogram of two vectors, in any number of dimensions; of three this is their cross product
        minors = [a[:, i] * b[:, j] - a[:, j] * b[:, i] for i, j in combinations(range(corners.shape[2]), 2)]
        areas += np.sqrt(np.square(minors).sum(axis=0)) / 2
    return areas


def _steps(positions: NDArray[Any], lengths: NDArray[np.int64]) -> tuple[NDArray[np.intp], Floats, NDArray[np.intp]]:
    """Return the rows that a step of a path leads to, the length of each, and which object it is of."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    rows = np.flatnonzero(owner[1:] == owner[:-1]) + 1
    return rows, np.linalg.norm(positions[rows] - positions[rows - 1], axis=1), owner[rows]


def path_lengths(positions: NDArray[Any], lengths: NDArray[np.int64]) -> Floats:
    """Return the length of each of O paths, shape (O,), whose vertices (N, D) follow each other, `lengths` (O,) of each."""
    _, steps, owner = _steps(positions, lengths)
    return np.bincount(owner, steps, len(lengths)).astype(np.float64)


def tree_lengths(positions: NDArray[Any], lengths: NDArray[np.int64], parents: NDArray[np.int64]) -> Floats:
    """Return the length of all edges of each of O trees, shape (O,); `parents` (N,) are rows, -1 at roots."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    rows = np.flatnonzero((parents >= 0) & (owner == owner[parents]))
    steps = np.linalg.norm(positions[rows] - positions[parents[rows]], axis=1)
    return np.bincount(owner[rows], steps, len(lengths)).astype(np.float64)


def speeds(positions: NDArray[Any], lengths: NDArray[np.int64], times: NDArray[Any], ids: NDArray[np.int64]) -> Floats:
    """Return the speed of the step that leads to each vertex of a path, shape (N,), NaN at the first; seconds of dates."""
    rows, steps, owner = _steps(positions, lengths)
    passed = times[rows] - times[rows - 1]
    if passed.dtype.kind == "m":
        passed = passed / np.timedelta64(1, "s")
    back = np.flatnonzero(passed < 0)
    if len(back):
        row = rows[back[0]]
        raise InputError(
            f"time goes back in object {ids[owner[back[0]]]}, from {times[row - 1]} to {times[row]}: its vertices are in "
            "another order; write them with dzv.write_polylines(..., sort_by=time)"
        )
    found = np.full(len(positions), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        found[rows] = steps / passed
    return found
