"""``ds.zv`` and ``tree.zv``: what users do with Datasets of vertices, and with trees of levels.

One module because it is what users read: each method has its documentation, and leads to the module that does the work.
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
        """Return the objects of an id, of several, or from one id to another (both included).

        They come ascending by id, each once. Points and paths come in the objects view, each object's vertices in the order of
        its path; skeletons, graphs and meshes in the view of the Dataset, with the links between their vertices.

        Parameters
        ----------
        key : int, sequence of int, or slice
            An id, several, or a slice from one id to another, without a step.

        Raises
        ------
        NotFoundError
            There is no such object.
        InputError
            The Dataset has no objects, or not all of their vertices.
        """
        return selection.objects_of(self._ds, key)

    def __repr__(self) -> str:
        n = self._ds.sizes.get("object")
        return "<ds.zv.objects[id]>" if n is None else f"<ds.zv.objects[id]: {n:,} objects>"


class ZVDatasetAccessor(Exports):
    """Zarr Vectors verbs of a Dataset that ``engine="zv"`` opened."""

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
        """What the store keeps of the files that its content came from, see :attr:`dask_zv.Store.headers`."""
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
        """Return exactly the vertices inside a closed box, and of some objects, with the links between them.

        Positions of the chunks that the box cuts are read now, and of graphs and meshes the links near the box; everything else
        stays lazy.

        Parameters
        ----------
        bbox : pair of corners, optional
            ``((x0, y0, z0), (x1, y1, z1))`` in the units and the order of the store's axes; both sides belong to the box, None
            or infinity leaves one open. Sides are cast to the dtype of the positions, as labels are.
        objects : int or sequence of int, optional
            Ids of objects.
        groups : int, str, or sequence of either, optional
            Numbers of groups, or the names that the store has for them: only their members. With `objects`, those that are in
            both.
        clip : bool or "cut"
            In the objects view: True cuts objects at the box (a path that leaves and comes back is then several entries along
            ``object``, of one id); False keeps whole every object that has a vertex inside;
            "cut" puts a vertex where a path crosses a side of the box, with positions on that side and numbers with fractions
            and times in between those of its neighbours (all other attributes are those of the one inside, or else nearer).
            It also cuts edges of graphs and skeletons, and triangles of meshes (with their winding), in the spatial view;
            attributes of links and objects stay what they are. Everything is then read, and the result is in memory, with
            vertices numbered anew.
        **positions : slice
            The box by the names of its axes, ``x=slice(x0, x1)``; of what is in `bbox`, too.

        Raises
        ------
        InputError
            The box is malformed, or the Dataset has no objects.
        NotFoundError
            There is no such object or group.
        """
        return self._named(selection.select(self._ds, bbox, objects, groups, clip=clip, positions=positions))

    def chunks_in(self, bbox: Any) -> xr.Dataset:
        """Return all vertices of the chunks that a closed box touches; nothing is read.

        Links are those that are filed under these chunks: some may lead to a vertex outside.

        Parameters
        ----------
        bbox : pair of corners
            ``((x0, y0, z0), (x1, y1, z1))`` in the units and the order of the store's axes.

        Raises
        ------
        InputError
            The box is malformed, or rows were picked from the Dataset so that its chunks are no longer whole.
        """
        return self._named(selection.chunks_in(self._ds, bbox))

    @property
    def objects(self) -> ObjectGetter:
        """Whole objects by id: ``ds.zv.objects[7]``, ``ds.zv.objects[[7, 9]]``, ``ds.zv.objects[7:9]`` (9 included)."""
        return ObjectGetter(self._ds)

    @property
    def chunks(self) -> xr.Dataset:
        """The table of the level's chunks along ``chunk``: coordinates, rows and first rows; nothing is read."""
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
        """Call a function with the vertices of every chunk, as one graph of few tasks; its results along ``chunk``.

        A task reads a block of many chunks with few requests, cuts it into chunks and calls the function for each; only what it
        returns leaves the task. After a selection the function gets the selected vertices alone, and is not called for chunks
        in which nothing is selected. It sees one chunk at a time; :meth:`map_objects` gives whole objects.

        Parameters
        ----------
        func : callable
            Gets a :class:`dask_zv.Geometry` of one chunk, as ``level.read(chunks=[key], order="chunk")`` gives it but without
            the tables of objects and groups: its selected vertices, their attributes and object ids, and the links between them
            (see `halo` for those that lead out). It returns a number, a numpy array, or a dict of these: of the same shapes and
            dtypes for all chunks.
        bbox : pair of corners, optional
            Only vertices inside the closed box ``(least corner, greatest corner)``, in the units of the axes.
        chunks : sequence of str or of int tuples, optional
            Only these chunks, by key or coordinates.
        objects : int or sequence of int, optional
            Only vertices of these objects. The Dataset's rows, box, chunks and objects combine.
        attributes : sequence of str, optional
            Attributes of vertices, and of edges or faces, to read; all where None.
        args, kwargs : sequence, mapping, optional
            Passed to the function after the geometry. A Delayed or a Future among them is computed once and shared by all
            tasks.
        meta : optional
            An example of what the function returns, or dtypes in its place (``float``, ``{"mean": "float32"}``). Results are
            cast to it, and it tells what columns of no rows are like where nothing is selected. Where it is None the first
            result tells.
        rows_per_task : int, optional
            About how many vertices a task handles; by memory where None. Fewer make more tasks, for functions that take long.
        halo : {"links"}, optional
            "links": each chunk gets the far ends of its links, and each link between selected vertices is in one chunk, so that
            a sum over links is right. The vertices of other chunks come last: ``geometry.halo`` of them, with positions,
            attributes and object ids; they are the chunk's own up to ``len(geometry) - geometry.halo``. `edges` of skeletons
            are those from the chunk's nodes to their parents, of graphs (and `faces` of meshes) what is filed under the chunk,
            and of paths the segments that begin in the chunk, as (row, row that follows it). `chunks` picks the calls: their
            links may lead to other chunks. Box and objects are looked up now. None: what leads out of the chunk is left out, so
            a sum of lengths is too small; there are no edges of paths.
        compute : bool
            False returns lazy columns, a Dask chunk to a task, where `meta` says what they are (a box or objects are then
            looked up now); a Delayed of the whole where it doesn't.

        Returns
        -------
        Dataset, or DataArray where the function returns no dict
            Dimension ``chunk``, ascending; coordinates ``chunk_<axis>``, and ``rows``, the vertices that the function got.

        Raises
        ------
        InputError
            A variable was changed or added in memory (the function gets the store's values); results differ in names, shape or
            dtype, or are no numbers, the message names the chunk; nothing is selected and `meta` is None; an argument is
            malformed.
        NotFoundError
            The level has no such object or chunk.
        FormatError, StoreError
            A chunk is missing or damaged; the message names it.
        Exception
            Whatever the function raises, with a note that names the store and the chunk.
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
        """Call a function with every object as a whole, as one graph of few tasks; its results along ``object``.

        A task reads a block of objects that lie near each other: each chunk that they have vertices in once, of which it keeps
        their rows. Only what the function returns leaves the task. A chunk that objects of several blocks share is read by each
        of these: where objects are all over space, tasks of more vertices (`rows_per_task`) read less in all. After a selection
        these are the objects that have a vertex in it: as a whole, not only those vertices.

        Parameters
        ----------
        func : callable
            Gets a :class:`dask_zv.Geometry` of one object, as ``level.read(objects=id, order="object")`` gives it: vertices in
            the order of its path, links by row number, its row of `object_attributes` (arrays of length 1). Of an object
            without vertices it has no rows. Returns a number, a numpy array, or a dict of these: of the same shapes and dtypes
            for all objects.
        objects : int or sequence of int, optional
            Ids; all objects of the Dataset where None.
        attributes : sequence of str, optional
            Attributes of vertices, and of edges or faces, to read; all where None. Those of objects always come.
        args, kwargs : sequence, mapping, optional
            Passed to the function after the geometry. A Delayed or a Future among them is computed once and shared by all
            tasks.
        meta : optional
            An example of what the function returns, or dtypes in its place (``float``, ``{"mean": "float32"}``). Results are
            cast to it. Where it is None the first result tells.
        rows_per_task : int, optional
            About how many vertices a task handles; by memory where None.
        compute : bool
            False returns lazy columns, a Dask chunk to a task, where `meta` says what they are; a Delayed of the whole where it
            doesn't.

        Returns
        -------
        Dataset, or DataArray where the function returns no dict
            Dimension ``object`` with the ids, ascending; coordinate ``rows``, the vertices of each.

        Raises
        ------
        InputError
            A variable was changed or added in memory; the level has no objects; results differ in names, shape or dtype, or are
            no numbers, the message names the object; there are no objects and `meta` is None; an argument is malformed.
        NotFoundError
            The level has no such object.
        FormatError, StoreError
            A part of an object is missing or damaged; the message names it.
        Exception
            Whatever the function raises, with a note that names the store and the object.
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
        """Count vertices, or add up a column of theirs, on a regular grid, block by block.

        Cells are half open, the last one along each axis closed: a position on an edge is in the cell above, as
        :func:`numpy.histogramdd` has it. A task handles a block of chunks and returns the cells that it has vertices in; these
        are added up by a tree. Memory: the grid, and a block.

        Parameters
        ----------
        spacing : float or sequence of float, optional
            Size of a cell, in the units of the axes: one for all of `dims`, or one for each. The grid begins at the lower
            bounds and reaches the upper ones, maybe goes beyond.
        shape : int or sequence of int, optional
            Number of cells along each of `dims` between the bounds. Give `spacing` or `shape`.
        bounds : pair of corners, optional
            ``(least corner, greatest corner)`` of the grid, over `dims`; what lies outside is not counted. The bounds of the
            store where None; they hold all vertices, or it is an error.
        dims : sequence of str, optional
            Names of the axes to keep, in the order of the result's; the others are projected. All where None.
        weights : str, optional
            Attribute (one number to a vertex), or axis, that "sum" and "mean" are of.
        statistic : {"count", "sum", "mean"}, optional
            "count" where there are no weights, else "sum". Cells without vertices have the count and sum 0, the mean NaN. A NaN
            among the weights makes its cell NaN.
        bbox : pair of corners, optional
            Only vertices inside this closed box, over all axes.
        objects : int or sequence of int, optional
            Only vertices of these objects.
        compute : bool
            False returns a Dask array of one chunk.

        Returns
        -------
        DataArray
            A dimension for each of `dims`, with the centres of the cells as coordinates, whose attributes ``lower``, ``upper``
            and ``spacing`` tell the edges.

        Raises
        ------
        InputError
            The weights were changed or added in memory, or are no numbers; an argument is malformed, the grid has too many
            cells, or vertices lie outside of the bounds that the metadata gives.
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
        """Group what is along a dimension by the values of a variable along it, as :meth:`xarray.Dataset.groupby` does.

        xarray asks for all labels of a column of Dask, ``ds.groupby(kind=UniqueGrouper(labels=[...]))``: here they are what
        the store knows, and there is a row for each of them, NaN where nothing is of it. With flox installed (the extra
        ``flox``) everything is computed block by block on Dask; without, the column to group by is read now, and xarray makes a
        task or more for each group: fine for some categories, slow for thousands of objects.

        Parameters
        ----------
        group : str or sequence of str
            Name of a variable along ``vertex``, ``object``, ``edge`` or ``face``, or of several along the same one. Groups are
            the categories of an attribute that has some, the ids in ``ds.object`` of ``object_id`` (in both views; vertices of
            no object or of several are in no group), of others the values that there are: a Dask column of these is gone
            through now.
        labels : array-like, or mapping of str to array-like, optional
            The groups, by name where `group` names several; other values are in none.

        Returns
        -------
        DatasetGroupBy
            Of the variables along that dimension: ``.mean()``, ``.count()`` and all else that xarray has.

        Raises
        ------
        InputError
            There is no such variable, or it has several dimensions; a value is none of the categories that the variable's
            attribute ``categories`` lists (when it is computed).
        """
        from dask_zv.xarray_backend.grouping import groupby

        return groupby(self._given, group, labels, self._found[1].get(OBJECT_ID, OBJECT_ID))

    # ---------------------------------------------------------------------------------------------- lengths, areas, speeds

    def edge_lengths(self, dims: str | Sequence[str] | None = None) -> xr.DataArray:
        """Return the length of each edge of graphs and skeletons, in the spatial view: each once, whatever chunks it joins.

        Nothing is read now: a task reads a block of edges, and the vertices at their ends. A Dataset with Dask chunks gives a
        Dask array with those of ``edges``.

        Parameters
        ----------
        dims : str or sequence of str, optional
            Names of the axes to measure along, which have one unit. All but those of time where None. Positions are taken for
            Cartesian: degrees give degrees.

        Returns
        -------
        DataArray of float64
            Along ``edge``, in the order of ``ds.edge``; ``units`` are those of the axes. NaN for an edge whose end is not in a
            Dataset of other values than the store's.

        Raises
        ------
        InputError
            The Dataset has no edges (the message names what measures it), or the axes have different units.
        """
        from dask_zv.xarray_backend.measures import edge_lengths

        return self._array(edge_lengths(self._ds, dims))

    def face_areas(self, dims: str | Sequence[str] | None = None) -> xr.DataArray:
        """Return the area of each face of a mesh, in the spatial view: each face once, whatever chunks it is in.

        Faces of more than three corners are the triangles of their first corner with each two that follow each other. Nothing
        is read now, as for :meth:`edge_lengths`.

        Parameters
        ----------
        dims : str or sequence of str, optional
            Names of two axes or more to measure along, which have one unit: ``("x", "y")`` gives areas as seen along z. All but
            those of time where None.

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
        """Return the length of each line, polyline, streamline or skeleton: of skeletons that of all edges of an object.

        A task has whole objects, so each step is counted once. A Dataset with Dask chunks gives a Dask array; of others the
        positions are read now.

        Parameters
        ----------
        dims : str or sequence of str, optional
            Names of the axes to measure along, which have one unit. All but those of time where None.

        Returns
        -------
        DataArray of float64
            Along ``object``, with the ids. In the objects view in the order of the Dataset, and of what is in it: a path that a
            box cut has a length for each piece. In the spatial view ascending by id, of the objects that have a vertex in the
            Dataset, each as a whole. 0 for a path of one vertex.

        Raises
        ------
        InputError
            The Dataset holds neither paths nor skeletons (the message names what measures it), the axes have different units,
            or in the spatial view positions were changed.
        """
        from dask_zv.xarray_backend.measures import path_lengths

        return self._array(path_lengths(self._ds, dims))

    def speeds(self, time: str | None = None, dims: str | Sequence[str] | None = None) -> xr.DataArray:
        """Return how fast each path goes from vertex to vertex, in the objects view.

        Parameters
        ----------
        time : str, optional
            Name of the axis or of the attribute of vertices that says when: dates, or numbers. Where None it is the axis of
            time, else the only attribute of dates, else the attribute "time".
        dims : str or sequence of str, optional
            Names of the axes to measure along, which have one unit. All but those of time where None.

        Returns
        -------
        DataArray of float64
            Along ``vertex``: the speed of the step that leads to the vertex from the one before it, NaN at the first of each
            path. ``units`` are those of the axes for each unit of time, ``micrometer s-1``: seconds of dates, else the `units`
            of what says when. Infinite where no time passes. A Dask array where the Dataset has Dask chunks.

        Raises
        ------
        InputError
            The Dataset is in the spatial view, or its objects are no paths; no time is known; the axes have different units.
            When it is computed: time goes back on a path, the message says of which object.
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
        """Write the Dataset into a new store, as one graph: vertices, attributes, objects, groups, links.

        Paths are written from the objects view, graphs and meshes from the spatial view; points and skeletons from either.
        Links that lead out of a selection are left out, and a node whose parent is not in it becomes a root; in a Dataset that
        is no selection of a level they are errors. UGRID and CF Datasets of other makers are written, too.

        Parameters
        ----------
        target : str, Path, zarr Store or StorePath, fsspec mapper, dict, or Icechunk session
            Where; never the store that the Dataset is read from.
        chunk_shape : sequence of float, optional
            Edges of a chunk, in the units of the axes; those of the store that the Dataset comes from where None.
        bounds : pair of corners, optional
            Inclusive box that positions must lie in; that of the data where None, not that of the old store.
        bin_shape : sequence of float, optional
            Edges of a bin; `chunk_shape` is a multiple of it. One bin per chunk where None.
        geometry : str, optional
            What the objects are; what they were where None.
        dtype : dtype, optional
            Of the stored positions; that of the Dataset's where None.
        layout : {"grid", "per_chunk"}, optional
            See :func:`dask_zv.create`; "grid" where None.
        shard_chunks : int, sequence of int, or "auto"
            Chunks packed into one object, see :func:`dask_zv.create`.
        compressor : {"auto", "zstd", "blosc", None}, or a list of Zarr codecs
            Of the chunks; "auto" is "zstd" in layout ``grid``, and none in ``per_chunk``.
        storage_options : mapping, optional
            Options of a URL.
        overwrite : bool
            Replace what is at the target.
        compute : bool
            False returns a Delayed, whose result is the report and which can join a larger ``dask.compute``.
        progress : bool, optional
            Show blocks, bytes and rate while it runs, in a terminal or a notebook, on any scheduler.

        Returns
        -------
        Report or Delayed

        Raises
        ------
        InputError
            The Dataset can't be written in its view, or its rows and counts are not in step; nothing was stored.
        StoreError
            There is a store and `overwrite` is False, or storage failed.
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
        from dask_zv.store.html import level_summary_html

        try:
            return level_summary_html(where_from(self._ds)[0])
        except ZVError as error:  # a repr tells, and does not fail
            return f"<p>ds.zv: {html.escape(str(error))}</p>"

    def __repr__(self) -> str:
        try:
            return f"<ds.zv of {where_from(self._ds)[0]!r}>"
        except ZVError as error:  # a repr tells, and does not fail
            return f"<ds.zv: {error}>"


class ZVTreeAccessor:
    """Zarr Vectors verbs of a tree that ``xr.open_datatree(..., engine="zv")`` opened."""

    def __init__(self, tree: xr.DataTree) -> None:
        self._tree = tree

    def __repr__(self) -> str:
        levels = {k: n.sizes["vertex"] for k, n in self._tree.children.items() if "vertex" in n.sizes}
        return "\n".join(["<tree.zv>", *(f"  /{name}: {count:,} vertices" for name, count in levels.items())])

    def level_for(self, bbox: Any = None, *, max_vertices: int) -> int:
        """Return the number of the finest level that has about `max_vertices` in a box at most; the coarsest if none has.

        The tables of chunks tell; nothing is read.

        Parameters
        ----------
        bbox : pair of corners, optional
            Everywhere where None.
        max_vertices : int
            About how many vertices the level may have in the box.

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
            ``((x0, y0, z0), (x1, y1, z1))`` in the units and the order of the store's axes; everywhere where None. It chooses
            the level.
        max_vertices : int
            About how many vertices the level may have in the box.
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
        """Draw one level, by default the finest whose vertices in a box a screen can show.

        Parameters
        ----------
        ax : Axes, optional
            Of two dimensions; pyplot's current ones where None.
        bbox : pair of corners, optional
            What to show, in the units and the order of the store's axes; all where None.
        level : int or callable, optional
            The level's number, or a function of the tree, the box and the number of vertices that returns it; by default
            :meth:`level_for`.
        kind : {"points", "density", "lines", "mesh", "chunks", "projections"}, optional
            Chosen by geometry where None.
        max_vertices : int, optional
            Vertices to draw one by one; by the size of the axes where None.
        **kwargs
            `dims`, `color`, `cmap`, `norm`, `vmin`, `vmax`, `alpha`, `add_colorbar`, `add_legend`, as of
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
