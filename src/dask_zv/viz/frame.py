"""The axes of a drawing: which to use, their directions, labels, title, colour bar or legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from dask_zv.errors import InputError
from dask_zv.spatial.grid import Box
from dask_zv.viz.colours import Guide
from dask_zv.viz.detail import Pair
from dask_zv.xarray_backend.content import Shape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARGIN = 0.03
_BAR = 0.8
"""Part of the width of the axes that a colour bar leaves, approximately."""


def require_matplotlib() -> None:
    """Import matplotlib; if it is missing, the ImportError says how to install it."""
    try:
        import matplotlib  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise ImportError('ds.zv.plot needs matplotlib: pip install "dask-zv[viz]"') from error


def pick_axes(ax: Any) -> Axes:
    """Return the matplotlib axes to draw on: the given ones (two-dimensional), or the current ones of pyplot."""
    if ax is None:
        import matplotlib.pyplot as plt

        ax = plt.gca()
    if not hasattr(ax, "add_collection") or getattr(ax, "name", "") == "3d":
        raise InputError(
            f"ax must be matplotlib axes of two dimensions, such as plt.subplots() makes, not {ax!r:.60}: "
            "ds.zv.plot draws projections"
        )
    return ax  # type: ignore[no-any-return]


def pick_pair(shape: Shape, dims: Sequence[str] | None) -> Pair:
    """Return the numbers of the axes to draw: by default x and y, or the first two if they have other names."""
    if dims is None:
        if len(shape.axes) < 2:
            raise InputError(f"a picture needs two axes, the store has one: {shape.axes[0]}")
        if {"x", "y"} <= set(shape.axes):
            return shape.axes.index("x"), shape.axes.index("y")
        return 0, 1
    named = list(dims)
    if len(named) != 2 or named[0] == named[1] or not set(named) <= set(shape.axes):
        raise InputError(f"dims must be two of the axes {list(shape.axes)}, not {dims!r}")
    return shape.axes.index(named[0]), shape.axes.index(named[1])


def pick_panels(shape: Shape) -> tuple[Pair, Pair, Pair]:
    """Return three pairs of axes for projections: of x, y and z, or of the only three axes; all of one unit."""
    if {"x", "y", "z"} <= set(shape.axes):
        a, b, c = (shape.axes.index(name) for name in "xyz")
    elif len(shape.axes) == 3:
        a, b, c = range(3)
    else:
        raise InputError(f"projections need three axes, the store has {list(shape.axes)}: use ds.zv.plot(dims=...)")
    units = [shape.units[i] for i in (a, b, c)]
    if len(set(units)) > 1:
        raise InputError(f"projections have one scale, but the axes have the units {units}: use ds.zv.plot(dims=...)")
    return (a, b), (a, c), (c, b)


def title_of(known: str, attrs: Mapping[Any, Any], counts: str, notice: str) -> str:
    """Return a title: the name of the store and what is shown of it; an existing title is kept and completed."""
    url = str(attrs.get("zv_url", ""))
    name = "in memory" if url.startswith("memory:") else urlsplit(url).path.rstrip("/").rpartition("/")[2] or url
    if url and "zv_level" in attrs:
        name = f"{name}, level {attrs['zv_level']}"
    lines = [known, notice] if known else [name, notice or counts]
    return "\n".join(line for line in lines if line)


def _label(shape: Shape, axis: int) -> str:
    unit = shape.units[axis]
    return f"{shape.axes[axis]} [{unit}]" if unit else shape.axes[axis]


def dress(ax: Axes, shape: Shape, pair: Pair, title: str) -> None:
    """Set labels, limits, equal scales and a title; existing labels are kept."""
    across, up = pair
    if not ax.get_xlabel():
        ax.set_xlabel(_label(shape, across))
    if not ax.get_ylabel():
        ax.set_ylabel(_label(shape, up))
    if shape.units[across] == shape.units[up]:  # lengths and times have no common scale
        ax.set_aspect("equal")
    ax.autoscale_view()
    ax.set_title(title, fontsize="medium")


def put_guide(ax: Axes, guide: Guide | None) -> None:
    """Add the colour bar or the legend of a drawing."""
    if guide is None:
        return
    if guide.mappable is None:
        if ax.get_legend() is None:
            ax.legend(**guide.legend())
        return
    (x0, x1), (y0, y1) = ax.get_xlim(), ax.get_ylim()
    shrink = 1.0
    if ax.get_aspect() == 1 and x0 != x1:  # as high as the axes will be, not as the space they were given
        room = ax.get_position(original=True)
        size = ax.figure.get_size_inches()  # type: ignore[union-attr]
        box = room.width * _BAR * size[0], room.height * size[1]
        shrink = min(1.0, max(0.3, box[0] * abs(y1 - y0) / abs(x1 - x0) / box[1]))
    guide.finish(ax.figure.colorbar(guide.mappable, ax=ax, shrink=shrink))


def three_panels(figure: Figure, shape: Shape, pairs: tuple[Pair, Pair, Pair], box: Box) -> dict[Pair, Axes]:
    """Return three axes that show a box with shared limits and one scale: xy above xz, and zy beside xy."""
    trio = [*pairs[0], pairs[1][1]]
    low, high = box[0][trio], box[1][trio]
    size = np.maximum(high - low, np.max(high - low) * 0.05)
    size = np.where(size > 0, size, 1.0) * (1 + 2 * _MARGIN)
    figure.set_layout_engine("compressed")
    grid = figure.add_gridspec(2, 2, width_ratios=size[[0, 2]], height_ratios=size[[1, 2]])
    main = figure.add_subplot(grid[0, 0])
    below, beside = figure.add_subplot(grid[1, 0], sharex=main), figure.add_subplot(grid[0, 1], sharey=main)
    limits = dict(zip(trio, zip((low + high - size) / 2, (low + high + size) / 2, strict=True), strict=True))
    ticks = dict(zip(trio, np.clip(size / size.max() * 8, 1, 8).astype(int).tolist(), strict=True))
    made = dict(zip(pairs, (main, below, beside), strict=True))
    for (a, b), axes in made.items():
        axes.set(xlim=limits[a], ylim=limits[b], xlabel=_label(shape, a), ylabel=_label(shape, b))
        axes.locator_params(axis="x", nbins=ticks[a], min_n_ticks=1)
        axes.locator_params(axis="y", nbins=ticks[b], min_n_ticks=1)
    main.set_xlabel("")
    main.tick_params(labelbottom=False)
    beside.set_ylabel("")
    beside.tick_params(labelleft=False)
    return made


def put_figure_guide(figure: Figure, axes: Sequence[Axes], guide: Guide | None) -> None:
    """Add the colour bar or the legend of several axes beside them."""
    if guide is not None and guide.mappable is not None:
        guide.finish(figure.colorbar(guide.mappable, ax=list(axes), shrink=0.8))
    elif guide is not None:
        figure.legend(**guide.legend(), loc="outside right upper", frameon=False)
