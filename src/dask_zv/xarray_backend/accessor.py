"""``ds.zv`` and ``tree.zv``: the methods for Datasets of vertices and for DataTrees of levels.

One module because it is the public interface: each method has its documentation and calls the module that does the work.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import xarray as xr

from dask_zv.errors import InputError, ZVError
from dask_zv.xarray_backend import selection
from dask_zv.xarray_backend.content import check_object_table
from dask_zv.xarray_backend.conventions import OBJECT_ID, chunk_variables
from dask_zv.xarray_backend.exporting import Exports
from dask_zv.xarray_backend.origin import check_stored, where_from
from dask_zv.xarray_backend.roles import by_roles

if TYPE_CHECKING:
    from dask.delayed import Delayed
    from numpy.typing import DTypeLike
    from xarray.core.groupby import DatasetGroupBy

    from dask_zv.graph.report import Report
    from dask_zv.viz import Plot


class ObjectGetter:
    """``ds.zv.objects[...]``: whole objects by id."""

    def __init__(self, ds: xr.Dataset) -> None:
        self._ds = ds

    def __getitem__(self, key: int | Sequence[int] | slice) -> xr.Dataset:
        """Return one object, several, or a range of ids (both ends included).

        Objects are in ascending order of id, each once. Points and paths are returned in the objects view, with the vertices of
        each object in path order; skeletons, graphs and meshes in the view of the Dataset, with the links between their
        vertices.

        Parameters
        ----------
        key : int, sequence of int, or slice
            An id, several ids, or a slice of ids without a step.

        Raises
        ------
        NotFoundError
            There is no such object.
        InputError
            The Dataset has no objects, or has only some of their vertices.
        """
        return selection.objects_of(self._ds, key)

    def __repr__(self) -> str:
        n = self._ds.sizes.get("object")
        return "<ds.zv.objects[id]>" if n is None else f"<ds.zv.objects[id]: {n:,} objects>"


class ZVDatasetAccessor(Exports):
    """Methods for Datasets that were opened with ``engine="zv"``."""

    def __init__(self, ds: xr.Dataset) -> None:
        self._given = ds

    @property
    def _found(self) -> tuple[xr.Dataset, dict[str, str]]:
        return by_roles(self._given)  # anew each time: variables of a Dataset change in place

    @property
    def _ds(self) -> xr.Dataset:
        """The Dataset with the names that the views give to what says how the others belong together."""
        ds = self._found[0]
        check_object_table(ds)
        return ds

    def _named(self, ds: xr.Dataset) -> xr.Dataset:
        """Return a part of the Dataset with the names that it was given with."""
        return ds.rename_vars({k: v for k, v in self._found[1].items() if k in ds.variables})

    def _array(self, array: xr.DataArray) -> xr.DataArray:
        """Return an array with the names that its coordinates had in the Dataset that was given."""
        return array.rename({k: v for k, v in self._found[1].items() if k in array.coords})

    @property
    def headers(self) -> dict[str, dict[str, Any]]:
        """Headers of the source files, see :attr:`dask_zv.Store.headers`."""
        from dask_zv.xarray_backend.to_store import headers_of

        return headers_of(self._given)

    # ---------------------------------------------------------------------------------------------- selections

    def sel(
        self,
        bbox: Any = None,
        *,
        objects: int | Sequence[int] | None = None,
        groups: int | str | Sequence[int] | Sequence[str] | None = None,
        clip: bool | str = True,
        **positions: Any,
    ) -> xr.Dataset:
        """Select exactly the vertices inside a closed box, or of some objects, with the links between them.

        Positions in the chunks on the boundary of the box are read now, and for graphs and meshes the links near the box.
        Everything else stays lazy.

        Parameters
        ----------
        bbox : pair of corners, optional
            ``((x0, y0, z0), (x1, y1, z1))`` in the units and the order of the axes of the store. Both sides belong to the box;
            None or infinity leaves a side open. Bounds are cast to the dtype of the positions.
        objects : int or sequence of int, optional
            Ids of objects.
        groups : int, str, or sequence of either, optional
            Numbers or names of groups: only their members. With `objects`, those that are in both.
        clip : bool or "cut"
            In the objects view, True clips objects at the box (a path that leaves and returns becomes several entries along
            ``object`` with the same id), and False keeps every object that has a vertex inside, whole. "cut" adds a vertex
            where a path crosses a side of the box. Floats and times are interpolated there; other attributes are those of the
            neighbour inside, or of the nearer one. In the spatial view, "cut" cuts edges of graphs and skeletons, and triangles
            of meshes (keeping their winding). Attributes of links and objects are unchanged. With "cut" everything is read, and
            the result is in memory with new vertex numbers.
        **positions : slice
            The box by axes, ``x=slice(x0, x1)``; combined with `bbox`.

        Raises
        ------
        InputError
            The box is malformed, or the Dataset has no objects.
        NotFoundError
            There is no such object or group.
        """
        return self._named(selection.select(self._ds, bbox, objects, groups, clip=clip, positions=positions))

    def chunks_in(self, bbox: Any) -> xr.Dataset:
        """Select all vertices of the chunks that a closed box touches. Nothing is read.

        Links are those stored under these chunks; some may lead to a vertex outside.

        Parameters
        ----------
        bbox : pair of corners
            ``((x0, y0, z0), (x1, y1, z1))`` in the units and the order of the axes of the store.

        Raises
        ------
        InputError
            The box is malformed, or rows were selected so that chunks are no longer complete.
        """
        return self._named(selection.chunks_in(self._ds, bbox))

    @property
    def objects(self) -> ObjectGetter:
        """Whole objects by id: ``ds.zv.objects[7]``, ``ds.zv.objects[[7, 9]]``, ``ds.zv.objects[7:9]`` (9 included)."""
        return ObjectGetter(self._ds)

    @property
    def chunks(self) -> xr.Dataset:
        """The table of chunks along ``chunk``: coordinates, rows and first rows. Nothing is read."""
        return xr.Dataset(chunk_variables(where_from(self._ds)[0]))

    # ---------------------------------------------------------------------------------------------- functions of parts

    def map_chunks(
        self,
        func: Callable[..., Any],
        *,
        bbox: Any = None,
        chunks: Any = None,
        objects: int | Sequence[int] | None = None,
        attributes: Sequence[str] | None = None,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        meta: Any = None,
        rows_per_task: int | None = None,
        halo: str | None = None,
        compute: bool = True,
    ) -> xr.Dataset | xr.DataArray | Delayed:
        """Call a function with the vertices of every chunk; return its results along ``chunk``.

        Runs as one graph of few tasks. Each task reads many chunks with few requests and calls the function for each chunk;
        only the results leave the task. After a selection the function gets the selected vertices only, and is not called for
        chunks without any. :meth:`map_objects` passes whole objects instead.

        Parameters
        ----------
        func : callable
            Gets a :class:`dask_zv.Geometry` of one chunk, as from ``level.read(chunks=[key], order="chunk")`` but without the
            tables of objects and groups: the selected vertices, their attributes and object ids, and the links between them
            (see `halo` for links to other chunks). Returns a number, a numpy array, or a dict of these, with the same shapes
            and dtypes for all chunks.
        bbox : pair of corners, optional
            Only vertices inside the closed box ``(lower corner, upper corner)``, in the units of the axes.
        chunks : sequence of str or of int tuples, optional
            Only these chunks, by key or coordinates.
        objects : int or sequence of int, optional
            Only vertices of these objects. Selections of the Dataset, box, chunks and objects combine.
        attributes : sequence of str, optional
            Attributes of vertices, and of edges or faces, to read; None reads all.
        args, kwargs : sequence, mapping, optional
            Passed to the function after the geometry. A Delayed or a Future is computed once and shared by all tasks.
        meta : optional
            An example of what the function returns, or its dtypes (``float``, ``{"mean": "float32"}``). Results are cast to it,
            and it defines the columns if nothing is selected. By default the first result defines them.
        rows_per_task : int, optional
            Approximate number of vertices per task; by default chosen by memory. Smaller values make more tasks, for slow
            functions.
        halo : {"links"}, optional
            "links": each chunk includes the far ends of its links, and each link between selected vertices is in exactly one
            chunk, so sums over links are correct. The last ``geometry.halo`` vertices belong to other chunks; they have
            positions, attributes and object ids. `edges` of skeletons lead from the nodes of the chunk to their parents; those
            of graphs (and `faces` of meshes) are those stored under the chunk; those of paths are the segments that begin in
            the chunk, as (row, next row). `chunks` selects the calls; their links may lead to other chunks. Box and objects are
            looked up now. None: links that lead out of the chunk are left out, so a sum of lengths is too small, and paths have
            no edges.
        compute : bool
            False returns lazy columns with one Dask chunk per task if `meta` is given (a box or objects are then looked up
            now), else a Delayed of the result.

        Returns
        -------
        Dataset, or DataArray if the function does not return a dict
            Dimension ``chunk``, ascending; coordinates ``chunk_<axis>``, and ``rows``, the number of vertices that the function
            got.

        Raises
        ------
        InputError
            A variable was changed or added in memory (the function reads the store); results differ in names, shape or dtype,
            or are not numbers (the message names the chunk); nothing is selected and `meta` is None; an argument is malformed.
        NotFoundError
            The level has no such object or chunk.
        FormatError, StoreError
            A chunk is missing or damaged; the message names it.
        Exception
            Anything that the function raises, with a note that names the store and the chunk.
        """
        from dask_zv.xarray_backend.analysis import map_chunks

        level, rows, ids = where_from(self._ds)
        if ids is not None:
            raise InputError("chunks are of the spatial view: open the level with view='spatial'")
        check_stored(self._ds, level, "map_chunks", attributes)
        selected = {"rows": rows, "bbox": bbox, "chunks": chunks, "objects": objects, "halo": halo}
        called = {"attributes": attributes, "args": args, "kwargs": kwargs, "meta": meta, "rows_per_task": rows_per_task}
        return map_chunks(level, func, compute=compute, **selected, **called)

    def map_objects(
        self,
        func: Callable[..., Any],
        *,
        objects: int | Sequence[int] | None = None,
        attributes: Sequence[str] | None = None,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        meta: Any = None,
        rows_per_task: int | None = None,
        compute: bool = True,
    ) -> xr.Dataset | xr.DataArray | Delayed:
        """Call a function with every object, whole; return its results along ``object``.

        Runs as one graph of few tasks. Each task reads objects that are near each other: each of their chunks once. Only the
        results leave the task. A chunk with objects of several tasks is read by each of these, so if objects extend over all of
        space, larger tasks (`rows_per_task`) read less in total. After a selection, the objects are those with a vertex in it,
        and each is passed whole.

        Parameters
        ----------
        func : callable
            Gets a :class:`dask_zv.Geometry` of one object, as from ``level.read(objects=id, order="object")``: vertices in path
            order, links by row number, its row of `object_attributes` (arrays of length 1). An object without vertices has no
            rows. Returns a number, a numpy array, or a dict of these, with the same shapes and dtypes for all objects.
        objects : int or sequence of int, optional
            Ids; by default all objects of the Dataset.
        attributes : sequence of str, optional
            Attributes of vertices, and of edges or faces, to read; None reads all. Attributes of objects are always included.
        args, kwargs : sequence, mapping, optional
            Passed to the function after the geometry. A Delayed or a Future is computed once and shared by all tasks.
        meta : optional
            An example of what the function returns, or its dtypes (``float``, ``{"mean": "float32"}``). Results are cast to it.
            By default the first result defines them.
        rows_per_task : int, optional
            Approximate number of vertices per task; by default chosen by memory.
        compute : bool
            False returns lazy columns with one Dask chunk per task if `meta` is given, else a Delayed of the result.

        Returns
        -------
        Dataset, or DataArray if the function does not return a dict
            Dimension ``object`` with the ids, ascending; coordinate ``rows``, the number of vertices of each.

        Raises
        ------
        InputError
            A variable was changed or added in memory; the level has no objects; results differ in names, shape or dtype, or are
            not numbers (the message names the object); there are no objects and `meta` is None; an argument is malformed.
        NotFoundError
            The level has no such object.
        FormatError, StoreError
            A part of an object is missing or damaged; the message names it.
        Exception
            Anything that the function raises, with a note that names the store and the object.
        """
        from dask_zv.xarray_backend.analysis import map_objects

        level, rows, ids = where_from(self._ds)
        check_stored(self._ds, level, "map_objects", attributes, objects=True)
        chosen = ids if objects is None else objects
        called = {"attributes": attributes, "args": args, "kwargs": kwargs, "meta": meta, "rows_per_task": rows_per_task}
        return map_objects(level, func, rows=rows, objects=chosen, compute=compute, **called)

    def density(
        self,
        *,
        spacing: float | Sequence[float] | None = None,
        shape: int | Sequence[int] | None = None,
        bounds: Any = None,
        dims: Sequence[str] | str | None = None,
        weights: str | None = None,
        statistic: str | None = None,
        bbox: Any = None,
        objects: int | Sequence[int] | None = None,
        compute: bool = True,
    ) -> xr.DataArray:
        """Count vertices on a regular grid, or compute sums or means of an attribute per cell.

        Cells are half open and the last one along each axis is closed, as in :func:`numpy.histogramdd`: a position on an edge
        belongs to the upper cell. Each task handles a group of neighbouring chunks and returns the cells that have vertices; a
        tree of tasks adds them. Memory: the grid and one group.

        Parameters
        ----------
        spacing : float or sequence of float, optional
            Size of a cell, in the units of the axes: one for all of `dims`, or one for each. The grid begins at the lower
            bounds and ends at or beyond the upper ones.
        shape : int or sequence of int, optional
            Number of cells along each of `dims` between the bounds. Pass either `spacing` or `shape`.
        bounds : pair of corners, optional
            ``(lower corner, upper corner)`` of the grid, over `dims`; vertices outside are not counted. By default the bounds
            of the store; vertices outside of these are an error.
        dims : sequence of str, optional
            Names of the axes to keep, in the order of the result; the others are projected. By default all.
        weights : str, optional
            Attribute (one number per vertex) or axis for "sum" and "mean".
        statistic : {"count", "sum", "mean"}, optional
            By default "count" without weights, else "sum". Cells without vertices have the count and sum 0, and the mean NaN. A
            NaN in the weights makes its cell NaN.
        bbox : pair of corners, optional
            Only vertices inside this closed box, over all axes.
        objects : int or sequence of int, optional
            Only vertices of these objects.
        compute : bool
            False returns a Dask array with one chunk.

        Returns
        -------
        DataArray
            One dimension for each of `dims`, with the centres of the cells as coordinates, whose attributes ``lower``,
            ``upper`` and ``spacing`` define the edges.

        Raises
        ------
        InputError
            The weights were changed or added in memory, or are not numbers; an argument is malformed, the grid has too many
            cells, or vertices lie outside of the bounds in the metadata.
        NotFoundError
            The level has no such object.
        FormatError, StoreError
            A chunk is missing or damaged; the message names it.
        """
        from dask_zv.xarray_backend.analysis import density

        level, rows, ids = where_from(self._ds)
        check_stored(self._ds, level, "density", [weights or ""])
        grid = {"spacing": spacing, "shape": shape, "bounds": bounds, "dims": dims, "statistic": statistic}
        chosen = ids if objects is None else objects
        return density(level, weights=weights, rows=rows, bbox=bbox, objects=chosen, compute=compute, **grid)

    # ---------------------------------------------------------------------------------------------- groups

    def groupby(self, group: str | Sequence[str], *, labels: Any = None) -> DatasetGroupBy:
        """Group the variables along a dimension by the values of one of them, as :meth:`xarray.Dataset.groupby` does.

        xarray needs all labels to group by a Dask array, ``ds.groupby(kind=UniqueGrouper(labels=[...]))``. This method takes
        them from the store. The result has a row for each label, NaN for empty groups. With flox installed (the extra ``flox``)
        everything is computed in Dask chunks. Without it the grouping variable is read now, and xarray makes a task or more per
        group, which is fine for some categories and slow for thousands of objects.

        Parameters
        ----------
        group : str or sequence of str
            Name of a variable along ``vertex``, ``object``, ``edge`` or ``face``, or of several along the same dimension. The
            groups of a categorical attribute are its categories; those of ``object_id`` are the ids in ``ds.object`` (in both
            views; vertices of no object or of several are in no group); those of other variables are their values, for which a
            Dask array is read now.
        labels : array-like, or mapping of str to array-like, optional
            The groups, as a mapping if `group` names several variables; other values are in no group.

        Returns
        -------
        DatasetGroupBy
            Of the variables along that dimension: ``.mean()``, ``.count()`` and everything else in xarray.

        Raises
        ------
        InputError
            There is no such variable, or it has several dimensions; a value is not in the attribute ``categories`` of the
            variable (when it is computed).
        """
        from dask_zv.xarray_backend.grouping import groupby

        return groupby(self._given, group, labels, self._found[1].get(OBJECT_ID, OBJECT_ID))

    # ---------------------------------------------------------------------------------------------- lengths, areas, speeds

    def edge_lengths(self, dims: str | Sequence[str] | None = None) -> xr.DataArray:
        """Return the length of each edge of graphs and skeletons, in the spatial view; each edge once, also between chunks.

        Lazy: each task reads some edges and the vertices at their ends. A Dataset with Dask chunks gives a Dask array with the
        chunks of ``edges``.

        Parameters
        ----------
        dims : str or sequence of str, optional
            Names of the axes to measure along, which must have the same unit. By default all but time. Positions are treated as
            Cartesian: degrees give degrees.

        Returns
        -------
        DataArray of float64
            Along ``edge``, in the order of ``ds.edge``; ``units`` are those of the axes. NaN for an edge whose end is not in
            the Dataset, if its values differ from the store.

        Raises
        ------
        InputError
            The Dataset has no edges (the message names what measures it), or the axes have different units.
        """
        from dask_zv.xarray_backend.measures import edge_lengths

        return self._array(edge_lengths(self._ds, dims))

    def face_areas(self, dims: str | Sequence[str] | None = None) -> xr.DataArray:
        """Return the area of each face of a mesh, in the spatial view; each face once, also between chunks.

        Faces of more than three corners are divided into triangles from their first corner. Lazy, as :meth:`edge_lengths`.

        Parameters
        ----------
        dims : str or sequence of str, optional
            Names of two axes or more to measure along, which must have the same unit: ``("x", "y")`` gives areas as seen along
            z. By default all but time.

        Returns
        -------
        DataArray of float64
            Along ``face``, in the order of ``ds.face``; ``units`` are those of the axes with a 2, ``micrometer2``.

        Raises
        ------
        InputError
            The Dataset has no faces (the message names what measures it), or the axes have different units.
        """
        from dask_zv.xarray_backend.measures import face_areas

        return self._array(face_areas(self._ds, dims))

    def path_lengths(self, dims: str | Sequence[str] | None = None) -> xr.DataArray:
        """Return the length of each line, polyline, streamline or skeleton; for skeletons the sum of all edges of an object.

        Each task has whole objects, so each step is counted once. A Dataset with Dask chunks gives a Dask array; otherwise
        positions are read now.

        Parameters
        ----------
        dims : str or sequence of str, optional
            Names of the axes to measure along, which must have the same unit. By default all but time.

        Returns
        -------
        DataArray of float64
            Along ``object``, with the ids. In the objects view in the order of the Dataset, and of what is in it: a path that a
            box clipped has a length for each piece. In the spatial view ascending by id, for the objects that have a vertex in
            the Dataset, each whole. 0 for a path of one vertex.

        Raises
        ------
        InputError
            The Dataset holds neither paths nor skeletons (the message names what measures it), the axes have different units,
            or in the spatial view positions were changed.
        """
        from dask_zv.xarray_backend.measures import path_lengths

        return self._array(path_lengths(self._ds, dims))

    def speeds(self, time: str | None = None, dims: str | Sequence[str] | None = None) -> xr.DataArray:
        """Return the speed along each path from vertex to vertex, in the objects view.

        Parameters
        ----------
        time : str, optional
            Name of the axis or vertex attribute with the times: dates, or numbers. By default the time axis, else the only
            attribute of dates, else the attribute "time".
        dims : str or sequence of str, optional
            Names of the axes to measure along, which must have the same unit. By default all but time.

        Returns
        -------
        DataArray of float64
            Along ``vertex``: the speed of the step that leads to the vertex from the one before it, NaN at the first of each
            path. ``units`` are those of the axes for each unit of time, ``micrometer s-1``: seconds of dates, else the `units`
            of what says when. Infinite if no time passes. A Dask array if the Dataset has Dask chunks.

        Raises
        ------
        InputError
            The Dataset is in the spatial view, or its objects are not paths; no time is known; the axes have different units.
            When it is computed: time decreases along a path (the message names the object).
        """
        from dask_zv.xarray_backend.measures import speeds

        return self._array(speeds(self._ds, time, dims))

    # ---------------------------------------------------------------------------------------------- elsewhere

    def to_store(
        self,
        target: Any,
        *,
        chunk_shape: Sequence[float] | None = None,
        bounds: tuple[Sequence[float], Sequence[float]] | None = None,
        bin_shape: Sequence[float] | None = None,
        geometry: str | None = None,
        dtype: DTypeLike | None = None,
        layout: str | None = None,
        shard_chunks: Any = "auto",
        compressor: Any = "auto",
        storage_options: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        compute: bool = True,
        progress: bool | None = None,
    ) -> Report | Delayed:
        """Write the Dataset as a new store, as one graph: vertices, attributes, objects, groups, links.

        Paths are written from the objects view, graphs and meshes from the spatial view; points and skeletons from either.
        Links that lead out of a selection are left out, and a node whose parent is not in it becomes a root. In a Dataset that
        is not a selection of a level they are errors. UGRID and CF Datasets from other sources can be written too.

        Parameters
        ----------
        target : str, Path, zarr Store or StorePath, fsspec mapper, dict, or Icechunk session
            The new store; never the one that the Dataset is read from.
        chunk_shape : sequence of float, optional
            Size of a chunk along each axis, in the units of the axes; by default that of the store of the Dataset.
        bounds : pair of corners, optional
            Closed box that positions must lie in; by default that of the data, not that of the old store.
        bin_shape : sequence of float, optional
            Size of a bin; `chunk_shape` is a multiple of it. By default one bin per chunk.
        geometry : str, optional
            Geometry of the new store; by default that of the Dataset.
        dtype : dtype, optional
            Dtype of the stored positions; by default that of the Dataset.
        layout : {"grid", "per_chunk"}, optional
            See :func:`dask_zv.create`; by default "grid".
        shard_chunks : int, sequence of int, or "auto"
            Chunks packed into one object, see :func:`dask_zv.create`.
        compressor : {"auto", "zstd", "blosc", None}, or a list of Zarr codecs
            Of the chunks; "auto" is "zstd" in layout ``grid``, and none in ``per_chunk``.
        storage_options : mapping, optional
            Options of a URL.
        overwrite : bool
            Replace what is at the target.
        compute : bool
            False returns a Delayed of the report, which can be part of a larger ``dask.compute``.
        progress : bool, optional
            Show blocks, bytes and rate during the write, in a terminal or a notebook, on any scheduler.

        Returns
        -------
        Report or Delayed

        Raises
        ------
        InputError
            The Dataset cannot be written in its view, or its rows and counts are inconsistent; nothing is stored.
        StoreError
            The store exists and `overwrite` is False, or storage failed.
        """
        from dask_zv.xarray_backend.to_store import to_store

        made = {"bounds": bounds, "bin_shape": bin_shape, "dtype": dtype, "layout": layout, "shard_chunks": shard_chunks}
        made |= {"compressor": compressor, "storage_options": storage_options, "overwrite": overwrite}
        how = {"compute": compute, "progress": progress}
        return to_store(self._ds, target, chunk_shape=chunk_shape, geometry=geometry, create_options=made, write_options=how)

    @property
    def plot(self) -> Plot:
        """Pictures, with matplotlib: call it, or its methods points, lines, mesh, projections and chunks."""
        from dask_zv.viz import Plot

        return Plot(self._found[0])  # vertices of objects that are not there are grey

    def _repr_html_(self) -> str:
        from dask_zv.store.show import level_html

        try:
            return level_html(where_from(self._ds)[0])
        except ZVError as error:  # a repr tells, and does not fail
            return f"<p>ds.zv: {html.escape(str(error))}</p>"

    def __repr__(self) -> str:
        try:
            return f"<ds.zv of {where_from(self._ds)[0]!r}>"
        except ZVError as error:  # a repr tells, and does not fail
            return f"<ds.zv: {error}>"


class ZVTreeAccessor:
    """Methods for DataTrees that were opened with ``xr.open_datatree(..., engine="zv")``."""

    def __init__(self, tree: xr.DataTree) -> None:
        self._tree = tree

    def __repr__(self) -> str:
        levels = {k: n.sizes["vertex"] for k, n in self._tree.children.items() if "vertex" in n.sizes}
        alone = ["  one level: dzv.build_pyramid(store) builds coarser ones, for overviews"] if len(levels) == 1 else []
        return "\n".join(["<tree.zv>", *(f"  /{name}: {count:,} vertices" for name, count in levels.items()), *alone])

    def level_for(self, bbox: Any = None, *, max_vertices: int) -> int:
        """Return the number of the finest level with at most about `max_vertices` in a box, or that of the coarsest level.

        The numbers come from the tables of chunks; nothing is read.

        Parameters
        ----------
        bbox : pair of corners, optional
            By default the whole level.
        max_vertices : int
            Approximate number of vertices that the level may have in the box.

        Raises
        ------
        InputError
            The tree has no levels, or the box is malformed.
        """
        from dask_zv.viz import choose_level

        return choose_level(self._tree, bbox, max_vertices)

    def sel(
        self,
        bbox: Any = None,
        *,
        max_vertices: int,
        objects: int | Sequence[int] | None = None,
        groups: int | str | Sequence[int] | Sequence[str] | None = None,
        clip: bool | str = True,
        **positions: Any,
    ) -> xr.Dataset:
        """Return the vertices inside a box at the finest level that :meth:`level_for` allows.

        Parameters
        ----------
        bbox : pair of corners, optional
            ``((x0, y0, z0), (x1, y1, z1))`` in the units and the order of the axes of the store; by default everywhere. It
            determines the level.
        max_vertices : int
            Approximate number of vertices that the level may have in the box.
        objects : int or sequence of int, optional
            Ids of objects, to select of that level.
        groups : int, str, or sequence of either, optional
            Numbers or names of groups, to select of that level.
        clip : bool or "cut"
            See :meth:`ZVDatasetAccessor.sel`.
        **positions : slice
            A box by the names of its axes, ``x=slice(x0, x1)``, to select of that level.

        Raises
        ------
        InputError
            The tree has no levels, or the box is malformed.
        NotFoundError
            The level has no such object or group.
        """
        number = self.level_for(bbox, max_vertices=max_vertices)
        level = ZVDatasetAccessor(self._tree[str(number)].to_dataset())
        return level.sel(bbox, objects=objects, groups=groups, clip=clip, **positions)

    def plot(
        self,
        ax: Any = None,
        *,
        bbox: Any = None,
        level: int | Callable[[xr.DataTree, Any, int], int] | None = None,
        kind: str | None = None,
        max_vertices: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Draw one level, by default the finest whose vertices in the box fit on the screen.

        Parameters
        ----------
        ax : Axes, optional
            Two-dimensional matplotlib axes; by default the current ones of pyplot.
        bbox : pair of corners, optional
            The part to show, in the units and the order of the axes of the store; by default everything.
        level : int or callable, optional
            The level's number, or a function of the tree, the box and the number of vertices that returns it; by default
            :meth:`level_for`.
        kind : {"points", "density", "lines", "mesh", "chunks", "projections"}, optional
            By default chosen by geometry.
        max_vertices : int, optional
            Most vertices that are drawn one by one; by default chosen by the size of the axes.
        **kwargs
            `dims`, `color`, `cmap`, `norm`, `vmin`, `vmax`, `alpha`, `add_colorbar`, `add_legend`, as in
            :class:`dask_zv.viz.Plot`, and options of the matplotlib artist.

        Returns
        -------
        Artist, or dict of them for projections

        Raises
        ------
        InputError
            The tree has no such level, or there is no such axis, attribute or option.
        ImportError
            matplotlib is not installed.
        """
        from dask_zv.viz import plot_tree

        return plot_tree(self._tree, ax, bbox=bbox, level=level, kind=kind, max_vertices=max_vertices, **kwargs)
