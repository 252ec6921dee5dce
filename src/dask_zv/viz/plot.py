"""``ds.zv.plot``: pictures of a Dataset.

One module because it is what users read: each method has its documentation, and leads to the module that draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import xarray as xr

from dask_zv.errors import InputError
from dask_zv.viz.colours import Colour, Look, find_colour
from dask_zv.viz.detail import Pair, budget_of, pixels_of, thin
from dask_zv.viz.frame import (
    dress,
    pick_axes,
    pick_pair,
    pick_panels,
    put_figure_guide,
    put_guide,
    require_matplotlib,
    three_panels,
    title_of,
)
from dask_zv.viz.marks import Faces, Lines, Points, lines_of, prepare_faces, prepare_lines, prepare_points
from dask_zv.viz.raster import CellDrawing, prepare_chunks, prepare_raster
from dask_zv.xarray_backend import conventions as names
from dask_zv.xarray_backend.content import Shape, shape_of

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection, PolyCollection, QuadMesh
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

POINTS, DENSITY, LINES, MESH, CHUNKS = KINDS = ("points", "density", "lines", "mesh", "chunks")
HOW = ("auto", "scatter", "raster", "sample")
Drawing = Points | Lines | Faces | CellDrawing
_SIZE = (8.0, 7.0)
_INSTEAD = {
    "projection": "dims=('x', 'z') names the two axes to draw, and ds.zv.plot.projections() draws along all three",
    "x": "dims=('x', 'y') names the axes across and up",
    "y": "dims=('x', 'y') names the axes across and up",
    "hue": "color= names an attribute",
    "c": "color= names an attribute, or a colour",
    "view": "open the Dataset in another view, xr.open_dataset(..., view=...)",
    "bbox": "select first, ds.zv.sel(bbox=...).zv.plot()",
}
"""Options of other libraries' plots, and what does the same here."""


class Plot:
    """Pictures of a Dataset opened with ``engine="zv"``: ``ds.zv.plot()`` chooses by geometry, each method draws one kind.

    Every method projects along the axes that are not drawn, draws on the given matplotlib axes (by default the current
    ones of pyplot), and returns the matplotlib artist. The scales are equal if both axes have the same unit. Existing labels
    and titles are kept.

    At most `max_vertices` vertices are drawn one by one (by default four per pixel of the axes, and at least 100,000). If there
    are more, points become a raster of counts, or of means of a numeric attribute, computed in parts. Points with another
    colour become a sample of every k-th row. Lines and meshes become as many whole objects as fit, spread evenly over all
    ids, or a raster if no object fits. The title then says so, as in "1,000 of 20,000 objects". The same Dataset and the same
    `max_vertices` always give the same picture.

    Parameters
    ----------
    ds : Dataset

    Notes
    -----
    Common parameters of the methods:

    ax : Axes, optional
        Two-dimensional matplotlib axes.
    dims : sequence of str, optional
        Names of the horizontal and the vertical axis. By default x and y, or the first two axes if they have other names.
    color : optional
        Name of an attribute of vertices, objects, edges or faces (or of an axis, or ``"object"``). Numbers get a colour bar,
        strings and flags a legend; 3 or 4 channels are used as colours. Or a matplotlib colour.
    max_vertices : int, optional
        Most vertices that are drawn one by one.
    cmap, norm, vmin, vmax, alpha : optional
        As in matplotlib.
    add_colorbar, add_legend : bool
        True by default.
    **kwargs
        For the matplotlib artist: `s` of points, `linewidths` of lines, and so on.

    All raise :class:`~dask_zv.errors.InputError` for missing axes, attributes or geometries; ImportError without matplotlib.
    """

    def __init__(self, ds: xr.Dataset) -> None:
        self._ds = ds

    def __call__(
        self,
        ax: Axes | None = None,
        dims: Sequence[str] | None = None,
        color: Any = None,
        max_vertices: int | None = None,
        **kwargs: Any,
    ) -> Artist:
        """Draw the Dataset by its geometry: faces of meshes, paths and edges as lines, anything else as points.

        Paths need ``view="objects"``; edges of graphs and faces need ``view="spatial"``. In the other view, vertices are drawn.

        Parameters
        ----------
        ax : Axes, optional
            Two-dimensional matplotlib axes; by default the current ones of pyplot.
        dims : sequence of str, optional
            Names of the axes across and up; x and y where None.
        color : str, optional
            Name of an attribute (or an axis, or ``"object"``), or a colour of matplotlib.
        max_vertices : int, optional
            Most vertices that are drawn one by one; by default chosen by the size of the axes.
        **kwargs
            `cmap`, `norm`, `vmin`, `vmax`, `alpha`, `add_colorbar`, `add_legend`, see :class:`Plot`; all others are options of
            the matplotlib artist.

        Returns
        -------
        Artist of matplotlib
        """
        kind = _natural(self._ds, shape_of(self._ds))
        return self._draw(kind, ax, dims, color, max_vertices, kwargs)

    def points(
        self,
        ax: Axes | None = None,
        dims: Sequence[str] | None = None,
        color: Any = None,
        max_vertices: int | None = None,
        how: str = "auto",
        **kwargs: Any,
    ) -> Artist:
        """Draw vertices.

        Parameters
        ----------
        ax : Axes, optional
            Two-dimensional matplotlib axes; by default the current ones of pyplot.
        dims : sequence of str, optional
            Names of the axes across and up; x and y where None.
        color : str, optional
            Name of an attribute (or an axis, or ``"object"``), or a colour of matplotlib.
        max_vertices : int, optional
            Most vertices that are drawn one by one; by default chosen by the size of the axes.
        how : {"auto", "scatter", "raster", "sample"}
            "scatter": all points one by one; "raster": counts per cell; "sample": every k-th row, at most `max_vertices`;
            "auto": by the number of points.
        **kwargs
            `cmap`, `norm`, `vmin`, `vmax`, `alpha`, `add_colorbar`, `add_legend`, see :class:`Plot`; all others are options of
            the matplotlib artist: `s`, `marker`.

        Returns
        -------
        PathCollection, or AxesImage of a raster
        """
        return self._draw(POINTS, ax, dims, color, max_vertices, {"how": how, **kwargs})

    def density(self, ax: Axes | None = None, dims: Sequence[str] | None = None, color: Any = None, **kwargs: Any) -> AxesImage:
        """Draw a raster of the number of vertices in each cell, or of the mean of a numeric attribute of vertices.

        Cells are pixels, or larger if there would be fewer than four vertices per cell. Vertices are read in parts; if the
        Dataset has Dask chunks, on the workers.

        Parameters
        ----------
        ax : Axes, optional
            Two-dimensional matplotlib axes; by default the current ones of pyplot.
        dims : sequence of str, optional
            Names of the axes across and up; x and y where None.
        color : str, optional
            Name of the attribute of vertices that means are of; a count where None.
        **kwargs
            `cmap`, `norm`, `vmin`, `vmax`, `alpha`, `add_colorbar`, `add_legend`, see :class:`Plot`; all others are options of
            the matplotlib artist.
        """
        return self._draw(DENSITY, ax, dims, color, None, kwargs)  # type: ignore[return-value]

    def lines(
        self,
        ax: Axes | None = None,
        dims: Sequence[str] | None = None,
        color: Any = None,
        max_vertices: int | None = None,
        **kwargs: Any,
    ) -> LineCollection:
        """Draw paths (``view="objects"``), or edges of skeletons (either view) and graphs (``view="spatial"``).

        Each path is one line, or one line per step if a vertex attribute colours them. Each edge is one line, coloured by the
        mean of the numbers of its ends, or by the category of its first end (in skeletons the child).

        Parameters
        ----------
        ax : Axes, optional
            Two-dimensional matplotlib axes; by default the current ones of pyplot.
        dims : sequence of str, optional
            Names of the axes across and up; x and y where None.
        color : str, optional
            Name of an attribute (or an axis, or ``"object"``), or a colour of matplotlib.
        max_vertices : int, optional
            Most vertices that are drawn one by one; by default chosen by the size of the axes.
        **kwargs
            `cmap`, `norm`, `vmin`, `vmax`, `alpha`, `add_colorbar`, `add_legend`, see :class:`Plot`; all others are options of
            the matplotlib artist: `linewidths`.
        """
        return self._draw(LINES, ax, dims, color, max_vertices, kwargs)  # type: ignore[return-value]

    def mesh(
        self,
        ax: Axes | None = None,
        dims: Sequence[str] | None = None,
        color: Any = None,
        max_vertices: int | None = None,
        shade: str | None = "normal",
        **kwargs: Any,
    ) -> PolyCollection:
        """Draw faces, the farthest first.

        The viewpoint is on the side from which the axes form a right-handed system. Invert an axis before you draw
        (``ax.invert_yaxis()``) to see the other side.

        Parameters
        ----------
        ax : Axes, optional
            Two-dimensional matplotlib axes; by default the current ones of pyplot.
        dims : sequence of str, optional
            Names of the axes across and up; x and y where None.
        color : str, optional
            As of :meth:`points`, or an attribute of faces. By an attribute of vertices, faces are coloured by the mean of the
            numbers of their vertices, or the category of the first.
        max_vertices : int, optional
            Most vertices that are drawn one by one; by default chosen by the size of the axes.
        shade : {"normal", "depth", None}
            "normal": lit from the upper left; "depth": paler with distance; None: plain colours.
        **kwargs
            `cmap`, `norm`, `vmin`, `vmax`, `alpha`, `add_colorbar`, `add_legend`, see :class:`Plot`; all others are options of
            the matplotlib artist.
        """
        return self._draw(MESH, ax, dims, color, max_vertices, {"shade": shade, **kwargs})  # type: ignore[return-value]

    def chunks(self, ax: Axes | None = None, dims: Sequence[str] | None = None, **kwargs: Any) -> QuadMesh:
        """Draw the number of vertices in each column of chunks. No vertex is read.

        In ``view="objects"`` all vertices of the level are counted.

        Parameters
        ----------
        ax : Axes, optional
            Two-dimensional matplotlib axes; by default the current ones of pyplot.
        dims : sequence of str, optional
            Names of the axes across and up; x and y where None.
        **kwargs
            `cmap`, `norm`, `vmin`, `vmax`, `alpha`, `add_colorbar`, `add_legend`, see :class:`Plot`; all others are options of
            the matplotlib artist.
        """
        return self._draw(CHUNKS, ax, dims, None, None, kwargs)  # type: ignore[return-value]

    def projections(
        self,
        figure: Figure | None = None,
        color: Any = None,
        max_vertices: int | None = None,
        kind: str | None = None,
        **kwargs: Any,
    ) -> dict[tuple[str, str], Artist]:
        """Draw projections along all three axes: xy above xz, and zy beside xy, with one scale and shared limits.

        Parameters
        ----------
        figure : Figure, optional
            An empty figure; by default pyplot makes one.
        color : str, optional
            Name of an attribute (or an axis, or ``"object"``), or a colour of matplotlib.
        max_vertices : int, optional
            Most vertices that are drawn one by one; by default chosen by the size of the axes.
        kind : {"points", "density", "lines", "mesh", "chunks"}, optional
            Chosen by geometry by default.
        **kwargs
            `cmap`, `norm`, `vmin`, `vmax`, `alpha`, `add_colorbar`, `add_legend`, see :class:`Plot`; all others are options of
            the matplotlib artist.

        Returns
        -------
        dict of (str, str) to Artist
            Keys are the names of the horizontal and the vertical axis. ``artist.axes`` share their limits, so
            ``found["x", "y"].axes.invert_yaxis()`` inverts y in all panels, as in images.
        """
        require_matplotlib()
        shape = shape_of(self._ds)
        pairs = pick_panels(shape)
        if kind is not None and kind not in KINDS:
            raise InputError(f"kind is one of {KINDS}, not {kind!r}")
        if figure is None:
            import matplotlib.pyplot as plt

            figure = plt.figure(figsize=_SIZE)
        pixels = pixels_of(figure) / 2
        drawing, look, artist = self._prepare(
            kind or _natural(self._ds, shape), shape, pairs, color, max_vertices, pixels, kwargs
        )
        panels = three_panels(figure, shape, pairs, drawing.box)
        found: dict[tuple[str, str], Artist] = {}
        for pair, axes in panels.items():
            found[shape.axes[pair[0]], shape.axes[pair[1]]] = _drawn(drawing, axes, pair, look, artist)
            axes.set_aspect("equal")
        figure.suptitle(title_of("", self._ds.attrs, drawing.title, drawing.notice), fontsize="medium")
        put_figure_guide(figure, [*panels.values()], drawing.guide(look))
        return found

    def _draw(
        self, kind: str, ax: Axes | None, dims: Sequence[str] | None, color: Any, most: int | None, options: dict[str, Any]
    ) -> Artist:
        require_matplotlib()
        shape = shape_of(self._ds)
        pair = pick_pair(shape, dims)
        axes = pick_axes(ax)
        drawing, look, artist = self._prepare(kind, shape, (pair,), color, most, pixels_of(axes), options)
        found = _drawn(drawing, axes, pair, look, artist)
        dress(axes, shape, pair, title_of(axes.get_title(), self._ds.attrs, drawing.title, drawing.notice))
        put_guide(axes, drawing.guide(look))
        return found

    def _prepare(
        self,
        kind: str,
        shape: Shape,
        pairs: Sequence[Pair],
        color: Any,
        max_vertices: int | None,
        pixels: float,
        options: dict[str, Any],
    ) -> tuple[Drawing, Look, dict[str, Any]]:
        """Read what a picture needs; return it, its colouring, and the remaining options, which are those of the artist."""
        artist = dict(options)
        for name in _INSTEAD.keys() & artist.keys():
            raise InputError(f"ds.zv.plot has no option {name}={artist[name]!r:.80}: {_INSTEAD[name]}")
        look = Look(**{f.name: artist.pop(f.name) for f in fields(Look) if f.name in artist})
        budget = budget_of(max_vertices, pixels)
        ds = self._ds
        if kind == CHUNKS:
            return prepare_chunks(ds, shape, pairs), look, artist
        if kind in (POINTS, DENSITY):
            how = artist.pop("how", "auto") if kind == POINTS else "raster"
            colour = find_colour(ds, shape, color, ("vertex",) if kind == DENSITY else ("vertex", "object"))
            return self._prepare_points(shape, pairs, colour, how, budget, pixels), look, artist
        colour = find_colour(ds, shape, color, ("vertex", "object", "face" if kind == MESH else "edge"))
        shade = artist.pop("shade", "normal") if kind == MESH else None
        notice = ""
        if ds.sizes["vertex"] > budget:
            thinned = thin(ds, shape, budget)
            if thinned is None:
                notice = f"{ds.sizes['vertex']:,} vertices, counted: no object has at most {budget:,}"
                return prepare_raster(ds, shape, pairs, _averaged(ds, colour), pixels, notice), look, {}
            ds, notice = thinned
        if kind == MESH:
            return prepare_faces(ds, shape, colour, shade, notice), look, artist
        return prepare_lines(ds, shape, colour, notice), look, artist

    def _prepare_points(
        self, shape: Shape, pairs: Sequence[Pair], colour: Colour | None, how: str, budget: int, pixels: float
    ) -> Drawing:
        ds = self._ds
        if how not in HOW:
            raise InputError(f"how is one of {HOW}, not {how!r}")
        averaged = _averaged(ds, colour)
        many = ds.sizes["vertex"] > budget
        if how == "raster" or (how == "auto" and many and (colour is None or averaged is not None)):
            if colour is not None and averaged is None:
                raise InputError(
                    "a raster shows counts, or means of a numeric attribute of vertices, not "
                    f"{colour.label or colour.plain!r}; how='sample' draws every k-th point in its own colour"
                )
            return prepare_raster(ds, shape, pairs, averaged, pixels)
        return prepare_points(ds, shape, colour, max(ds.sizes["vertex"], 1) if how == "scatter" else budget)


def _drawn(drawing: Drawing, axes: Axes, pair: Pair, look: Look, artist: dict[str, Any]) -> Artist:
    """Draw on axes; an option that nothing takes is an error that lists those that are."""
    try:
        return drawing.draw(axes, pair, look, **artist)
    except (AttributeError, TypeError) as error:
        if "unexpected keyword argument" not in str(error):
            raise
        own = ", ".join(["ax", "dims", "color", "max_vertices", *(f.name for f in fields(Look))])
        raise InputError(f"ds.zv.plot takes {own}, and options of matplotlib's artist; {error}") from error


def _natural(ds: xr.Dataset, shape: Shape) -> str:
    """Return the kind of picture that suits a Dataset."""
    if names.FACES in ds.variables:
        return MESH
    return POINTS if lines_of(ds, shape) is None else LINES


def _averaged(ds: xr.Dataset, colour: Colour | None) -> Colour | None:
    """Return the colour if it is numeric, so that it has a mean, else None."""
    if colour is None or colour.where != "vertex" or colour.is_identity:
        return None
    variable = ds.variables[colour.name]
    return colour if variable.ndim == 1 and variable.dtype.kind in "iuf" else None
