"""Axes around a drawing: which to draw on, what is along them, labels, title, colour bar or legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.spatial.grid import Box
from dask_zv.viz.colours import Guide
from dask_zv.viz.detail import Pair
from dask_zv.xarray_backend.content import Shape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_Box = tuple[float, float, float, float]
_MARGIN = 0.03
_RIGHT, _RIGHT_OF_SPARE = 0.97, 0.82
_SPARE_INCHES = 1.2
_TICK_INCHES = 0.6
_BAR = 0.8
"""What a colour bar leaves of the width of its axes, about."""


def require_matplotlib() -> None:
    """Import matplotlib.

    Raises
    ------
    ImportError
        It is not installed.
    """
    try:
        import matplotlib  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise ImportError('ds.zv.plot needs matplotlib: pip install "dask-zv[viz]"') from error


def pick_axes(ax: Any) -> Axes:
    """Return the axes to draw on: pyplot's current ones, unless others are given.

    Raises
    ------
    InputError
        They are not axes of two dimensions.
    """
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
    """Return the numbers of the axes to draw.

    Parameters
    ----------
    shape : Shape
    dims : sequence of str, optional
        Names of two axes; x and y by default, the first two where the store's have other names.

    Raises
    ------
    InputError
        There are no such axes.
    """
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
    """Return the three pairs of axes to project along: those of x, y and z, or of the only three there are.

    Raises
    ------
    InputError
        There are no such axes, or they have several units.
    """
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


def store_name(attrs: Mapping[Any, Any]) -> str:
    """Return what to call a Dataset: the last part of its store's URL, and the level; empty where it has none."""
    url = str(attrs.get("zv_url", ""))
    if not url:
        return ""
    name = "in memory" if url.startswith("memory:") else urlsplit(url).path.rstrip("/").rpartition("/")[2] or url
    return f"{name}, level {attrs['zv_level']}" if "zv_level" in attrs else name


def _label(shape: Shape, axis: int) -> str:
    unit = shape.units[axis]
    return f"{shape.axes[axis]} [{unit}]" if unit else shape.axes[axis]


def dress(ax: Axes, shape: Shape, pair: Pair, title: str) -> None:
    """Give axes their labels, limits, equal scales and a title; what is there already stays.

    Parameters
    ----------
    ax : Axes
    shape : Shape
    pair : pair of int
    title : str
    """
    across, up = pair
    if not ax.get_xlabel():
        ax.set_xlabel(_label(shape, across))
    if not ax.get_ylabel():
        ax.set_ylabel(_label(shape, up))
    if shape.units[across] == shape.units[up]:  # lengths and times have no common scale
        ax.set_aspect("equal")
    ax.autoscale_view()
    ax.set_title(title, fontsize="medium")


def title_of(known: str, name: str, counts: str, notice: str) -> str:
    """Return a title: the store's name and what is shown of it; one that was there stays, with what is missing added."""
    lines = [known, notice] if known else [name, notice or counts]
    return "\n".join(line for line in lines if line)


def put_guide(ax: Axes, guide: Guide | None) -> None:
    """Add the colour bar or the legend of a drawing."""
    if guide is None:
        return
    if guide.mappable is not None:
        figure = ax.figure
        (x0, x1), (y0, y1) = ax.get_xlim(), ax.get_ylim()
        shrink = 1.0
        if ax.get_aspect() == 1 and x0 != x1:  # as high as the axes will be, not as the room they were given
            room = ax.get_position(original=True)
            height = figure.get_size_inches()  # type: ignore[union-attr]
            box = room.width * _BAR * height[0], room.height * height[1]
            shrink = min(1.0, max(0.3, box[0] * abs(y1 - y0) / abs(x1 - x0) / box[1]))
        bar = figure.colorbar(guide.mappable, ax=ax, shrink=shrink)
        guide.finish(bar)
        return
    known = ax.get_legend()
    if known is None:
        ax.legend(**guide.legend())


@dataclass(frozen=True, slots=True)
class Panels:
    """Axes of three projections.

    Attributes
    ----------
    axes : mapping of pair to Axes
    spare : Axes
        The corner that is left, for a colour bar or a legend.
    """

    axes: Mapping[Pair, Axes]
    spare: Axes


def _boxes(size: NDArray[np.float64], inches: Any, right: float) -> tuple[list[_Box], _Box]:
    """Return where three panels go and the corner that is left: left, bottom, width and height as parts of the figure."""
    left, bottom, top, gap = 0.1, 0.08, 0.9, 0.06
    width, height = inches
    room = np.array([(right - left - gap) * width, (top - bottom - gap) * height])
    scale = float((room / [size[0] + size[2], size[1] + size[2]]).min())  # inches to a unit, in all three
    across, up = size * scale / width, size * scale / height
    x0 = left + (right - left - gap - across[0] - across[2]) / 2
    y0 = bottom + (top - bottom - gap - up[1] - up[2]) / 2
    x1, y1 = x0 + across[0] + gap, y0 + up[2] + gap
    panels = [(x0, y1, across[0], up[1]), (x0, y0, across[0], up[2]), (x1, y1, across[2], up[1])]
    return panels, (x1, y0, across[2], up[2])


def three_panels(figure: Figure, shape: Shape, pairs: tuple[Pair, Pair, Pair], box: Box) -> Panels:
    """Return three axes in one figure whose scales are the same: xy above xz, and zy beside xy.

    Parameters
    ----------
    figure : Figure
    shape : Shape
    pairs : tuple of pairs
        As :func:`pick_panels` returns them.
    box : Box
        What to show.
    """
    trio = [*pairs[0], pairs[1][1]]
    low, high = box[0][trio], box[1][trio]
    size = np.maximum(high - low, np.max(high - low) * 0.05)
    size = np.where(size > 0, size, 1.0) * (1 + 2 * _MARGIN)
    inches = figure.get_size_inches()
    boxes, spare_box = _boxes(size, inches, _RIGHT)
    if min(spare_box[2:] * inches) < _SPARE_INCHES:  # too small: room is made beside the panels
        boxes, _ = _boxes(size, inches, _RIGHT_OF_SPARE)
        spare_box = (_RIGHT_OF_SPARE + 0.01, boxes[0][1], 1 - _RIGHT_OF_SPARE - 0.02, boxes[0][3])
    limits = dict(zip(trio, zip((low + high - size) / 2, (low + high + size) / 2, strict=True), strict=True))
    main = figure.add_axes(boxes[0])
    below, beside = figure.add_axes(boxes[1], sharex=main), figure.add_axes(boxes[2], sharey=main)
    made = dict(zip(pairs, (main, below, beside), strict=True))
    for (a, b), place in zip(pairs, boxes, strict=True):
        axes = made[a, b]
        axes.set(xlim=limits[a], ylim=limits[b], xlabel=_label(shape, a), ylabel=_label(shape, b))
        across, up = np.clip(np.array(place[2:]) * inches / _TICK_INCHES, 1, 8).astype(int).tolist()
        axes.locator_params(axis="x", nbins=across, min_n_ticks=1)
        axes.locator_params(axis="y", nbins=up, min_n_ticks=1)
    main.set_xlabel("")
    main.tick_params(labelbottom=False)
    beside.set_ylabel("")
    beside.tick_params(labelleft=False)
    spare = figure.add_axes(spare_box)
    spare.axis("off")
    return Panels(made, spare)
