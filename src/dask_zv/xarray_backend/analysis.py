"""Functions of chunks and objects, and densities, as xarray objects; the work is done by `dask_zv.analysis`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from dask.delayed import Delayed
from numpy.typing import NDArray

from dask_zv.analysis.chunks import looked_up
from dask_zv.analysis.density import plan_density
from dask_zv.analysis.mapping import MapPlan, plan_map_chunks, plan_map_objects
from dask_zv.analysis.objects import objects_of_rows
from dask_zv.analysis.results import VALUE, Mapped
from dask_zv.errors import InputError
from dask_zv.level.object_index import chosen_ids
from dask_zv.store.level import Level
from dask_zv.xarray_backend.conventions import axis_attrs

Rows = slice | NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Shown:
    """How results become an xarray object; small, since it travels where they do.

    Attributes
    ----------
    dim : str
    axes : tuple of str
        Of the chunk coordinates; empty for objects.
    name : str
        Of a function that returns no dict.
    attrs : mapping
    """

    dim: str
    axes: tuple[str, ...]
    name: str
    attrs: Mapping[str, Any]

    @classmethod
    def of(cls, level: Level, func: Callable[..., Any], dim: str) -> _Shown:
        given = getattr(func, "__name__", VALUE)
        own = () if level.source.leading is None else (level.source.leading,)
        axes = (*own, *level.store.axes) if dim == "chunk" else ()
        return cls(dim, axes, given if given.isidentifier() else VALUE, _attrs(level))

    def __call__(self, mapped: Mapped) -> xr.Dataset | xr.DataArray:
        return self.show(mapped.labels, mapped.rows, mapped.values, single=mapped.single)

    def show(
        self, labels: NDArray[np.int64], rows: NDArray[np.int64], columns: Mapping[str, Any], *, single: bool
    ) -> xr.Dataset | xr.DataArray:
        """Return columns with their coordinates."""
        coords: dict[str, xr.Variable] = {}
        if self.dim == "object":
            coords["object"] = xr.Variable(("object",), labels, {"long_name": "id of the object"})
        for i, axis in enumerate(self.axes):
            about = {"long_name": f"chunk coordinate along {axis}"}
            coords[f"chunk_{axis}"] = xr.Variable((self.dim,), labels[:, i], about)
        coords["rows"] = xr.Variable((self.dim,), rows, {"long_name": f"vertices of each {self.dim}"})
        taken = [name for name in columns if not single and (name in coords or name == self.dim)]
        if taken:
            raise InputError(
                f"the function returns {taken[0]!r}, which is the name of a coordinate of the result: return it by another"
            )
        if single:
            values = columns[VALUE]
            dims = (self.dim, *(f"{self.name}_{i}" for i in range(values.ndim - 1)))
            return xr.DataArray(values, coords, dims, self.name, self.attrs)
        data = {name: ((self.dim, *(f"{name}_{i}" for i in range(v.ndim - 1))), v) for name, v in columns.items()}
        return xr.Dataset(data, coords, self.attrs)


def _attrs(level: Level) -> dict[str, Any]:
    return {"zv_url": level.store.url, "zv_level": level.number}


def map_chunks(
    level: Level,
    func: Callable[..., Any],
    *,
    rows: Rows | None = None,
    bbox: Any = None,
    chunks: Any = None,
    objects: Any = None,
    attributes: Sequence[str] | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    meta: Any = None,
    rows_per_task: int | None = None,
    halo: str | None = None,
    compute: bool = True,
) -> xr.Dataset | xr.DataArray | Delayed:
    """Call a function for every chunk that holds a vertex of a selection.

    A task reads a block of many chunks with few requests, cuts it into chunks and calls the function for each; only what it
    returns leaves the task.

    Parameters
    ----------
    level : Level
    func : callable
        Gets a :class:`~dask_zv.geometry.result.Geometry` of one chunk, as ``level.read(chunks=[key], order="chunk")`` gives it
        but without the tables of objects and groups: its selected vertices, their attributes and object ids, and the links
        between them (see `halo` for those that lead out). It returns a number, a numpy array, or a dict of these: of the same
        shapes and dtypes for all chunks.
    bbox : pair of corners, optional
        Only vertices inside the closed box ``(least corner, greatest corner)``, in the units of the axes.
    chunks : sequence of str or of int tuples, optional
        Only these chunks, by key or coordinates.
    objects : int or sequence of int, optional
        Only vertices of these objects.
    rows : slice or ndarray of int64, optional
        Only these vertices, by number in reading order (that of ``level.read(order="chunk")``). Box, chunks, objects and rows
        combine: what the function gets is in all of them.
    attributes : sequence of str, optional
        Attributes of vertices, and of edges or faces, to read; all where None.
    args, kwargs : sequence, mapping, optional
        Passed to the function after the geometry. A Delayed or a Future among them is computed once and shared by all tasks.
    meta : optional
        An example of what the function returns, or dtypes in its place (``float``, ``{"mean": "float32"}``). Results are cast
        to it, and it tells what columns of no rows are like where nothing is selected. Where it is None the first result tells.
    rows_per_task : int, optional
        About how many vertices a task handles; by memory (32 MB) where None. Fewer make more tasks, for functions that take
        long.
    halo : {"links"}, optional
        "links": each chunk gets the far ends of its links, and each link between selected vertices is in one chunk, so that a
        sum over links is right. The vertices of other chunks come last: ``geometry.halo`` of them, with positions, attributes
        and object ids; they are the chunk's own up to ``len(geometry) - geometry.halo``. `edges` of skeletons are those
        from the chunk's nodes to their parents, of graphs (and `faces` of meshes) what is filed under the chunk, and of lines,
        polylines and streamlines the segments that begin in the chunk, as (row, row that follows it). `chunks` picks the
        calls: their links may lead to other chunks. Box and objects are looked up now. None: what leads out of the chunk is
        left out, so a sum of lengths is too small; there are no edges of lines, polylines and streamlines.

    Returns
    -------
    Dataset, or DataArray where the function returns no dict
        Dimension ``chunk``; coordinates ``chunk_<axis>``, and ``rows``, the vertices that the function was given. With
        ``compute=False`` columns are lazy, a Dask chunk to a task, where `meta` says what they are (a box or objects are then
        looked up now); a Delayed of the whole where it doesn't.

    Raises
    ------
    InputError
        Results differ in names, shape or dtype, or are no numbers, the message names the chunk; nothing is selected and `meta`
        is None; an argument is malformed.
    NotFoundError
        The level has no such object or chunk.
    FormatError, StoreError
        A chunk is missing or damaged; the message names it.
    Exception
        Whatever the function raises, with a note that names the store and the chunk.
    """
    if not compute and meta is not None:
        rows, bbox, objects = looked_up(level, rows, bbox, objects), None, None
    plan = plan_map_chunks(
        level,
        func,
        bbox=bbox,
        chunks=chunks,
        objects=objects,
        rows=rows,
        attributes=attributes,
        args=args,
        kwargs=kwargs,
        meta=meta,
        rows_per_task=rows_per_task,
        halo=halo,
    )
    return _shown(plan, _Shown.of(level, func, "chunk"), compute=compute)


def map_objects(
    level: Level,
    func: Callable[..., Any],
    *,
    rows: Rows | None = None,
    objects: Any = None,
    attributes: Sequence[str] | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    meta: Any = None,
    rows_per_task: int | None = None,
    compute: bool = True,
) -> xr.Dataset | xr.DataArray | Delayed:
    """Call a function for every object as a whole, whatever chunks it is in.

    A task reads a block of objects that lie near each other: each chunk that they have vertices in once, of which it keeps
    their rows. Only what the function returns leaves the task. A chunk that objects of several blocks share is read by each of
    these: where objects are all over space, tasks of more vertices (`rows_per_task`) read less in all.

    With `rows`, these are the objects that have a vertex among them: as a whole, not only those vertices.

    Parameters
    ----------
    level : Level
    func : callable
        Gets a :class:`~dask_zv.geometry.result.Geometry` of one object, as ``level.read(objects=id, order="object")`` gives it:
        vertices in the order of its path, links by row number, its row of `object_attributes` (arrays of length 1). Of an
        object without vertices it has no rows. Returns a number, a numpy array, or a dict of these: of the same shapes and
        dtypes for all objects.
    objects : int or sequence of int, optional
        Ids; all objects where None.
    attributes, args, kwargs, meta, rows_per_task
        As of :func:`map_chunks`.

    Returns
    -------
    Dataset, or DataArray where the function returns no dict
        Dimension ``object`` with the ids, ascending; coordinate ``rows``, the vertices of each. With ``compute=False`` columns
        are lazy, a Dask chunk to a task, where `meta` says what they are; a Delayed of the whole where it doesn't.

    Raises
    ------
    InputError
        The level has no objects; results differ in names, shape or dtype, or are no numbers, the message names the object;
        there are no objects and `meta` is None; an argument is malformed.
    NotFoundError
        The level has no such object.
    FormatError, StoreError
        A part of an object is missing or damaged; the message names it.
    Exception
        Whatever the function raises, with a note that names the store and the object.
    """
    if rows is not None:
        found = objects_of_rows(level, rows)
        objects = found if objects is None else np.intersect1d(found, chosen_ids(objects))
    plan = plan_map_objects(
        level,
        func,
        objects=objects,
        attributes=attributes,
        args=args,
        kwargs=kwargs,
        meta=meta,
        rows_per_task=rows_per_task,
        by_id=not compute and meta is not None,  # the order of the lazy columns
    )
    return _shown(plan, _Shown.of(level, func, "object"), compute=compute)


def _shown(plan: MapPlan, shown: _Shown, *, compute: bool) -> xr.Dataset | xr.DataArray | Delayed:
    if compute:
        return shown(plan.compute())
    example = plan.function.example
    if example is None or plan.known is None:
        return plan.delayed(shown)
    return shown.show(plan.labels, plan.known, plan.arrays(), single=example.single)


def density(
    level: Level,
    *,
    spacing: float | Sequence[float] | None = None,
    shape: int | Sequence[int] | None = None,
    bounds: Any = None,
    dims: Sequence[str] | str | None = None,
    weights: str | None = None,
    statistic: str | None = None,
    rows: Rows | None = None,
    bbox: Any = None,
    objects: Any = None,
    compute: bool = True,
) -> xr.DataArray:
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

    Returns
    -------
    DataArray
        A dimension for each of `dims`, with the centres of the cells as coordinates, whose attributes ``lower``, ``upper`` and
        ``spacing`` tell the edges. With ``compute=False`` it is a Dask array of one chunk.

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
    values = plan.compute() if compute else plan.array()
    about = {a.name: a for a in level.store.metadata.axes}
    coords: dict[str, xr.Variable] = {}
    for name, edges in zip(plan.dims, plan.cells.edges, strict=True):
        centres, low, high = (edges[1:] + edges[:-1]) / 2, float(edges[0]), float(edges[-1])
        sizes = {"lower": low, "upper": high, "spacing": (high - low) / len(centres)}
        coords[name] = xr.Variable(
            (name,), centres, {**axis_attrs(about[name], False), "long_name": f"{name} of cell centres", **sizes}
        )
    attrs: dict[str, Any] = {"long_name": "vertices in each cell", "units": "1"}
    if weights is not None:
        attrs = {"long_name": f"{plan.statistic} of {weights} over the vertices in each cell"}
        if weights in about and about[weights].unit:
            attrs["units"] = about[weights].unit
    name = "count" if weights is None else f"{weights}_{plan.statistic}"
    return xr.DataArray(values, coords, plan.dims, name, {**attrs, **_attrs(level)})
