"""Axes around a drawing: which to draw on, what is along them, labels, title, colour bar or legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.xarray_backend.content import Shape
from dask_zv.xarray_backend.plotting.colours import Guide
from dask_zv.xarray_backend.plotting.detail import Pair

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Panels",
    "dress",
    "pick_axes",
    "pick_pair",
    "put_guide",
    "require_matplotlib",
    "store_name",
    "three_panels",
    "title_of",
]

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
        Names of two axes; the first two by default.

    Raises
    ------
    InputError
        There are no such axes.
    """
    if dims is None:
        if len(shape.axes) < 2:
            raise InputError(f"a picture needs two axes, the store has one: {shape.axes[0]}")
        return 0, 1
    named = list(dims)
    if len(named) != 2 or named[0] == named[1] or not set(named) <= set(shape.axes):
        raise InputError(f"dims must be two of the axes {list(shape.axes)}, not {dims!r}")
    return shape.axes.index(named[0]), shape.axes.index(named[1])


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


def _boxes(size: NDArray[np.float64], inches: Any, right: float) -> tuple[dict[Pair, _Box], _Box]:
    """Return where three panels go and the corner that is left: left, bottom, width and height as parts of the figure."""
    left, bottom, top, gap = 0.1, 0.08, 0.9, 0.06
    width, height = inches
    room = np.array([(right - left - gap) * width, (top - bottom - gap) * height])
    scale = float((room / [size[0] + size[2], size[1] + size[2]]).min())  # inches to a unit, in all three
    across, up = size * scale / width, size * scale / height
    x0 = left + (right - left - gap - across[0] - across[2]) / 2
    y0 = bottom + (top - bottom - gap - up[1] - up[2]) / 2
    x1, y1 = x0 + across[0] + gap, y0 + up[2] + gap
    panels = {
        (0, 1): (x0, y1, across[0], up[1]),
        (0, 2): (x0, y0, across[0], up[2]),
        (2, 1): (x1, y1, across[2], up[1]),
    }
    return panels, (x1, y0, across[2], up[2])


def three_panels(figure: Figure, shape: Shape, low: NDArray[np.float64], high: NDArray[np.float64]) -> Panels:
    """Return three axes in one figure whose scales are the same: xy above xz, and yz turned beside xy.

    Parameters
    ----------
    figure : Figure
    shape : Shape
    low, high : ndarray, shape (3,)
        The box to show.
    """
    size = np.maximum(high - low, np.max(high - low) * 0.05)
    size = np.where(size > 0, size, 1.0) * (1 + 2 * _MARGIN)
    centre = (low + high) / 2
    boxes, spare_box = _boxes(size, figure.get_size_inches(), _RIGHT)
    if spare_box[2] * figure.get_size_inches()[0] < _SPARE_INCHES or spare_box[3] * figure.get_size_inches()[1] < _SPARE_INCHES:
        boxes, _ = _boxes(size, figure.get_size_inches(), _RIGHT_OF_SPARE)  # too small: room is made beside the panels
        _, y, _, up = boxes[2, 1]
        spare_box = (_RIGHT_OF_SPARE + 0.01, y, 1 - _RIGHT_OF_SPARE - 0.02, up)
    made: dict[Pair, Axes] = {}
    for pair, box in boxes.items():
        first = made.get((0, 1))
        shared: dict[str, Any] = {}
        if first is not None:
            shared = {"sharex": first} if pair[0] == 0 else {"sharey": first}
        made[pair] = figure.add_axes(box, **shared)
    for (a, b), axes in made.items():
        half = size / 2
        axes.set(xlim=(centre[a] - half[a], centre[a] + half[a]), ylim=(centre[b] - half[b], centre[b] + half[b]))
        axes.set(xlabel=_label(shape, a), ylabel=_label(shape, b))
        across, up = np.clip(np.array(boxes[a, b][2:]) * figure.get_size_inches() / _TICK_INCHES, 1, 8).astype(int).tolist()
        axes.locator_params(axis="x", nbins=across, min_n_ticks=1)
        axes.locator_params(axis="y", nbins=up, min_n_ticks=1)
    made[0, 1].set_xlabel("")
    made[0, 1].tick_params(labelbottom=False)
    made[2, 1].set_ylabel("")
    made[2, 1].tick_params(labelleft=False)
    spare = figure.add_axes(spare_box)
    spare.axis("off")
    return Panels(made, spare)
