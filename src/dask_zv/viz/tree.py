"""Pictures of a DataTree of levels: the finest level that a screen can show."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import xarray as xr

from dask_zv.errors import InputError, ZVWarning
from dask_zv.spatial.grid import as_box
from dask_zv.viz.detail import budget_of, pixels_of, vertices_within
from dask_zv.viz.frame import pick_axes, require_matplotlib
from dask_zv.viz.plot import KINDS, Plot
from dask_zv.xarray_backend.content import shape_of
from dask_zv.xarray_backend.selection import select

_SPARE_AXES_PIXELS = 500_000.0


def _levels(tree: xr.DataTree) -> dict[int, xr.DataTree]:
    """Return the levels of a tree, the finest first."""
    found = {int(str(k)): node for k, node in tree.children.items() if str(k).isdecimal() and "vertex" in node.sizes}
    if not found:
        raise InputError("the tree has no levels /0, /1, ...: open it with xr.open_datatree(..., engine='zv')")
    return dict(sorted(found.items()))


def choose_level(tree: xr.DataTree, bbox: Any, budget: int) -> int:
    """Return the number of the finest level with at most `budget` vertices in a box, or that of the coarsest level.

    The number of vertices is estimated from the tables of chunks; nothing is read.

    Parameters
    ----------
    tree : DataTree
    bbox : pair of corners, optional
        The whole level by default.
    budget : int

    Raises
    ------
    InputError
        The tree has no levels, or the box is malformed.
    """
    levels = _levels(tree)
    chosen = max(levels)
    within = 0.0
    for number, node in levels.items():
        ds = node.to_dataset()
        box = None if bbox is None else as_box(bbox, len(shape_of(ds).axes))
        within = vertices_within(ds, box)
        if within <= budget:
            chosen = number
            break
    if len(levels) == 1 and within > budget:
        warnings.warn(
            f"the store has one level, with about {within:,.0f} vertices here, more than {budget:,}: "
            f"dzv.build_pyramid(store) builds coarser ones [{levels[chosen].encoding.get('source', '')}]",
            ZVWarning,
            stacklevel=3,
        )
    if (message := levels[chosen].encoding.get("zv_stale")) is not None:
        warnings.warn(message, ZVWarning, stacklevel=3)
    return chosen


def plot_tree(
    tree: xr.DataTree,
    ax: Any = None,
    *,
    bbox: Any = None,
    level: int | Callable[[xr.DataTree, Any, int], int] | None = None,
    kind: str | None = None,
    max_vertices: int | None = None,
    **kwargs: Any,
) -> Any:
    """Draw one level of a tree, by default the finest whose vertices in the box fit on the screen.

    Parameters
    ----------
    tree : DataTree
        As ``xr.open_datatree(..., engine="zv")`` returns it.
    ax : Axes, optional
    bbox : pair of corners, optional
        The part to show, in the units and the order of the axes of the store; by default everything.
    level : int or callable, optional
        The number of the level, or a function of the tree, the box and the number of vertices that returns it. By default
        :func:`choose_level`.
    kind : {"points", "density", "lines", "mesh", "chunks", "projections"}, optional
        Chosen by geometry by default.
    max_vertices : int, optional
        See :class:`Plot`.
    **kwargs
        Passed to the method of :class:`Plot`.

    Returns
    -------
    Artist, or dict of them for projections

    Raises
    ------
    InputError
        The tree has no such level, or :class:`Plot` raises it.
    ImportError
        matplotlib is not installed.
    """
    require_matplotlib()
    if kind is not None and kind not in (*KINDS, "projections"):
        raise InputError(f"kind is one of {(*KINDS, 'projections')}, not {kind!r}")
    levels = _levels(tree)
    if kind == "projections":
        if ax is not None:
            raise InputError("projections have axes of their own: give figure=, not ax=")
        pixels = _SPARE_AXES_PIXELS
    else:
        ax = pick_axes(ax)
        pixels = pixels_of(ax)
    budget = budget_of(max_vertices, pixels)
    if level is None:
        level = choose_level
    number = level if isinstance(level, int) else level(tree, bbox, budget)
    if number not in levels:
        raise InputError(f"the tree has no level {number!r}, its levels are {list(levels)}")
    ds = levels[number].to_dataset()
    if bbox is not None:
        ds = select(ds, bbox, None, None, clip=True)
    plot = Plot(ds)
    if kind == "projections":
        return plot.projections(max_vertices=max_vertices, **kwargs)
    draw: Any = plot if kind is None else getattr(plot, kind)
    limited: dict[str, Any] = {} if kind in ("density", "chunks") else {"max_vertices": max_vertices}
    return draw(ax, **limited, **kwargs)
