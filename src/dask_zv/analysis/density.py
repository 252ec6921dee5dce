"""Densities: vertices, or sums and means of a column of theirs, on a regular grid of cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

import numpy as np
from dask.delayed import Delayed
from numpy.typing import NDArray

from dask_zv.analysis.density_plan import Density, plan_density
from dask_zv.level.contents import LevelContents


@overload
def density(
    level: LevelContents,
    *,
    spacing: float | Sequence[float] | None = None,
    shape: int | Sequence[int] | None = None,
    bounds: Any = None,
    dims: Sequence[str] | str | None = None,
    weights: str | None = None,
    statistic: str | None = None,
    objects: Any = None,
    bbox: Any = None,
    rows: slice | NDArray[np.int64] | None = None,
    compute: Literal[True] = True,
) -> Density: ...
@overload
def density(
    level: LevelContents,
    *,
    spacing: float | Sequence[float] | None = None,
    shape: int | Sequence[int] | None = None,
    bounds: Any = None,
    dims: Sequence[str] | str | None = None,
    weights: str | None = None,
    statistic: str | None = None,
    objects: Any = None,
    bbox: Any = None,
    rows: slice | NDArray[np.int64] | None = None,
    compute: Literal[False],
) -> Delayed: ...
def density(
    level: LevelContents,
    *,
    spacing: float | Sequence[float] | None = None,
    shape: int | Sequence[int] | None = None,
    bounds: Any = None,
    dims: Sequence[str] | str | None = None,
    weights: str | None = None,
    statistic: str | None = None,
    objects: Any = None,
    bbox: Any = None,
    rows: slice | NDArray[np.int64] | None = None,
    compute: bool = True,
) -> Density | Delayed:
    """Count vertices, or add up a column of theirs, on a regular grid.

    Cells are half open, the last one along each axis closed: a position on an edge is in the cell above, as
    :func:`numpy.histogramdd` has it. A task handles a block of chunks and returns the cells that it has vertices in; these
    are added up by a tree. Memory: the grid, and a block.

    Parameters
    ----------
    level : Level
    spacing : float or sequence of float, optional
        Size of a cell, in the units of the axes: one for all of `dims`, or one for each. The grid begins at the lower bounds
        and reaches the upper ones, maybe goes beyond.
    shape : int or sequence of int, optional
        Number of cells along each of `dims` between the bounds. Give `spacing` or `shape`.
    bounds : pair of corners, optional
        ``(least corner, greatest corner)`` of the grid, over `dims`; what lies outside is not counted. The bounds of the store
        where None; they hold all vertices, or it is an error.
    dims : sequence of str, optional
        Names of the axes to keep, in the order of the result's; the others are projected. All where None.
    weights : str, optional
        Attribute (one number to a vertex), or axis, that "sum" and "mean" are of.
    statistic : {"count", "sum", "mean"}, optional
        "count" where there are no weights, else "sum". Cells without vertices have the count and sum 0, the mean NaN. A NaN
        among the weights makes its cell NaN.
    objects : int or sequence of int, optional
        Only vertices of these objects.
    bbox : pair of corners, optional
        Only vertices inside this closed box, over all axes.
    rows : slice or ndarray of int64, optional
        Only these vertices, by number in reading order; one that comes several times counts as often.
    compute : bool
        False returns a Delayed of the same.

    Returns
    -------
    Density or Delayed
        int64 for counts, float64 for sums and means.

    Raises
    ------
    InputError
        An argument is malformed, the weights are no numbers, the grid has too many cells, or vertices lie outside of the bounds
        that the metadata gives.
    NotFoundError
        The level has no such object.
    FormatError, StoreError
        A chunk is missing or damaged; the message names it.
    """
    plan = plan_density(
        level,
        spacing=spacing,
        shape=shape,
        bounds=bounds,
        dims=dims,
        weights=weights,
        statistic=statistic,
        objects=objects,
        bbox=bbox,
        rows=rows,
    )
    return plan.compute() if compute else plan.delayed()
