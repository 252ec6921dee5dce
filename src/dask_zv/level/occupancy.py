"""A small picture of where a level has chunks: their projection on two axes, as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dask_zv.format.axes import Axis
from dask_zv.graph.html_parts import count, faint, text
from dask_zv.spatial.grid import corners

_MOST = 64
"""Cells along an axis."""
_SHADES = 8
_SIDE = 190.0
_LARGEST_CELL = 28.0
_NARROWEST = 1 / 6
_COLOUR = "#3b82c4"
_FAINTEST = 0.28


def map_axes(axes: Sequence[Axis]) -> tuple[int, int]:
    """Return the numbers of the axes that a map shows: the first two of space."""
    order = sorted(range(len(axes)), key=lambda i: axes[i].type != "space")
    return order[0], order[1]


def occupancy_html(
    coords: NDArray[np.int64],
    rows: NDArray[np.int64],
    axes: tuple[Axis, Axis],
    edges: tuple[float, float],
    others: Sequence[str] = (),
) -> str:
    """Return the map of some chunks, with its scales.

    Parameters
    ----------
    coords : ndarray of int64, shape (n, 2)
        The chunks' coordinates along two axes, n > 0; several may be the same.
    rows : ndarray of int64, shape (n,)
        Vertices in each chunk; shades go by the logarithm of their sum in a cell.
    axes : pair of Axis
        The first goes to the right, the second up.
    edges : pair of float
        Edges of a chunk along both.
    others : sequence of str
        Names of what else tells chunks apart, along which they lie in one cell.
    """
    low, high = (c.astype(np.float64) for c in corners(coords))
    extents = high - low + 1
    steps = np.ceil(extents / _MOST)  # chunks in a cell
    width, height = (int(n) for n in np.ceil(extents / steps))
    x, y = ((np.clip((coords[:, i] - low[i]) // steps[i], 0, n - 1)).astype(np.intp) for i, n in ((0, width), (1, height)))
    cells = np.bincount(y * width + x, weights=rows, minlength=width * height).reshape(height, width)
    full = np.bincount(y * width + x, minlength=width * height).reshape(height, width) > 0
    least, most = int(cells[full].min()), int(cells[full].max())
    scale = math.log1p(most) - math.log1p(least)
    shades = np.full((height, width), -1)
    shades[full] = _SHADES - 1 if not scale else np.rint((np.log1p(cells[full]) - math.log1p(least)) / scale * (_SHADES - 1))

    # floats of Python, whose overflow is infinity without a warning
    sides = [n * e for n, e in zip(extents.tolist(), edges, strict=True)] if axes[0].unit == axes[1].unit else [width, height]
    spans = [(a * e, (b + 1) * e) for a, b, e in zip(low.tolist(), high.tolist(), edges, strict=True)]
    ends = [
        f"<b>{text(axis.name, 40)}</b> {start:,.8g} … {end:,.8g}"
        f"{'' if axis.unit is None else faint(f' ({text(axis.unit, 40)})')}"
        for axis, (start, end) in zip(axes, spans, strict=True)
    ]
    whole = (steps == 1).all()
    each = "a" if whole else f"{steps[0]:,.0f} × {steps[1]:,.0f}"
    each += f" {'chunk' if not others else 'column'}{'' if whole else 's'}"
    each += f" of chunks along {text(', '.join(others), 60)}" if others else ""
    span = f"{count(least)} to {count(most)} vertices" if least < most else f"{count(most)} vertices each"
    return (
        f'<div style="line-height:1.35;margin:4px 0"><div>{faint("↑")} {ends[1]}</div>'
        f"{_svg(shades[::-1], sides)}"
        f"<div>{faint('→')} {ends[0]}</div>"
        f"<div>{faint(f'a cell is {each};<br>{span}')}</div></div>"
    )


def _svg(shades: NDArray[np.int64], sides: Sequence[float]) -> str:
    """Return the cells, the upper row first, -1 where there is nothing; a path for each shade, without text."""
    height, width = shades.shape
    ratio = sides[1] / sides[0]
    ratio = min(max(ratio, _NARROWEST), 1 / _NARROWEST) if math.isfinite(ratio) else 1.0
    across, up = _SIDE * min(1, 1 / ratio), _SIDE * min(1, ratio)
    shrink = min(1.0, max(_LARGEST_CELL * width / across, _LARGEST_CELL * height / up))
    paths = [""] * _SHADES
    for y, row in enumerate(shades.tolist()):
        x = 0
        while x < width:
            end = x + 1
            while end < width and row[end] == row[x]:
                end += 1
            if row[x] >= 0:
                paths[row[x]] += f"M{x} {y}h{end - x}v1h{x - end}z"
            x = end
    shapes = "".join(
        f'<path fill-opacity="{_FAINTEST + (1 - _FAINTEST) * i / (_SHADES - 1):.2f}" d="{path}"/>'
        for i, path in enumerate(paths)
        if path
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{across * shrink:.0f}" height="{up * shrink:.0f}" '
        f'viewBox="0 0 {width} {height}" preserveAspectRatio="none" shape-rendering="crispEdges" role="img" '
        f'aria-label="Where the chunks are" style="display:block;margin:2px 0;border:1px solid rgba(128,128,128,0.45)">'
        f'<g fill="{_COLOUR}">{shapes}</g></svg>'
    )
