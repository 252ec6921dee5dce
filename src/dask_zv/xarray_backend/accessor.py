"""``ds.zv``: what users do with a Dataset of vertices; each method only leads to the module that does it."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import xarray as xr

from dask_zv.errors import InputError, ZVError
from dask_zv.xarray_backend import selection
from dask_zv.xarray_backend.content import check_object_table
from dask_zv.xarray_backend.exporting import Exports
from dask_zv.xarray_backend.roles import by_roles
from dask_zv.xarray_backend.spatial import chunk_variables

if TYPE_CHECKING:
    from dask.delayed import Delayed

    from dask_zv.graph.report import Report
    from dask_zv.viz import Plot


class ObjectGetter:
    """``ds.zv.objects[...]``: whole objects by id.

    Parameters
    ----------
    ds : Dataset
    """

    def __init__(self, ds: xr.Dataset) -> None:
        self._ds = ds

    def __getitem__(self, key: int | Sequence[int] | slice) -> xr.Dataset:
        """Return the objects of an id, of several, or from one id to another (both included).

        They come ascending by id, each once. Points and paths come in the objects view, each object's vertices in the order of
        its path; skeletons, graphs and meshes in the view of the Dataset, with the links between their vertices.

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

    @property
    def headers(self) -> dict[str, dict[str, Any]]:
        """What the store keeps of the files that its content came from, see :attr:`dask_zv.Store.headers`."""
        from dask_zv.xarray_backend.to_store import headers_of

        return headers_of(self._given)

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

    # ---------------------------------------------------------------------------------------------- functions of parts

    def map_chunks(self, func: Callable[..., Any], **options: Any) -> xr.Dataset | xr.DataArray | Delayed:
        """Call a function with the vertices of every chunk, as one graph of few tasks; its results along ``chunk``.

        `func` gets a :class:`dask_zv.Geometry` and returns a number, an array of fixed shape, or a dict of these. Options are
        those of :func:`dask_zv.xarray_backend.analysis.map_chunks`; after a selection it gets the selected vertices alone.

        It sees one chunk at a time, with the links between the vertices of that chunk: a link from chunk to chunk is in none,
        and paths have no links at all, so a sum of lengths over chunks is too short. ``halo="links"`` gives each chunk the far
        ends of its links (the last ``geometry.halo`` vertices), and each link, or segment of a path, to one chunk.
        :meth:`map_objects` gives whole objects.

        Raises
        ------
        InputError
            A variable was changed or added in memory: the function gets the store's values.
        """
        from dask_zv.xarray_backend.analysis import map_chunks

        level, rows, ids = selection.where_from(self._ds)
        if ids is not None:
            raise InputError("chunks are of the spatial view: open the level with view='spatial'")
        selection.check_stored(self._ds, level, "map_chunks", options.get("attributes"))
        return map_chunks(level, func, rows=rows, **options)

    def map_objects(self, func: Callable[..., Any], **options: Any) -> xr.Dataset | xr.DataArray | Delayed:
        """Call a function with every object as a whole, as one graph of few tasks; its results along ``object``.

        `func` and options as for :meth:`map_chunks`, see :func:`dask_zv.xarray_backend.analysis.map_objects`. After a selection
        these are the objects that have a vertex in it.
        """
        from dask_zv.xarray_backend.analysis import map_objects

        level, rows, ids = selection.where_from(self._ds)
        selection.check_stored(self._ds, level, "map_objects", options.get("attributes"), objects=True)
        if ids is not None:
            options = {"objects": ids, **options}
        return map_objects(level, func, rows=rows, **options)

    def density(self, **options: Any) -> xr.DataArray:
        """Return counts of vertices (or sums, means of an attribute) on a regular grid, block by block.

        Options are those of :func:`dask_zv.xarray_backend.analysis.density`: ``spacing=`` or ``shape=``, ``bounds=``,
        ``dims=``, ``weights=``, ``statistic=``, ``compute=``.
        """
        from dask_zv.xarray_backend.analysis import density

        level, rows, ids = selection.where_from(self._ds)
        selection.check_stored(self._ds, level, "density", [options.get("weights") or ""])
        if ids is not None:
            options = {"objects": ids, **options}
        return density(level, rows=rows, **options)

    # ---------------------------------------------------------------------------------------------- elsewhere

    def to_store(self, target: Any, **options: Any) -> Report | Delayed:
        """Write the Dataset into a new store, as one graph; options of :func:`dask_zv.xarray_backend.to_store.to_store`."""
        from dask_zv.xarray_backend.to_store import to_store

        return to_store(self._ds, target, **options)

    @property
    def chunks(self) -> xr.Dataset:
        """The table of the level's chunks along ``chunk``: coordinates, rows and first rows; nothing is read."""
        level, _, _ = selection.where_from(self._ds)
        return xr.Dataset(chunk_variables(level))

    @property
    def plot(self) -> Plot:
        """Pictures, with matplotlib: call it, or its methods points, lines, mesh, projections and chunks."""
        from dask_zv.viz import Plot

        return Plot(self._found[0])  # vertices of objects that are not there are grey

    def _repr_html_(self) -> str:
        from dask_zv.store.html import level_summary_html

        try:
            level = selection.where_from(self._ds)[0]
        except ZVError as error:  # a repr tells, and does not fail
            return f"<p>ds.zv: {html.escape(str(error))}</p>"
        return level_summary_html(level)

    def __repr__(self) -> str:
        try:
            level = selection.where_from(self._ds)[0]
        except ZVError as error:  # a repr tells, and does not fail
            return f"<ds.zv: {error}>"
        return f"<ds.zv of {level!r}>"
