"""The exporting half of ``ds.zv``; no library is imported before it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import xarray as xr

if TYPE_CHECKING:
    import awkward as ak
    import numpy as np
    import pandas as pd
    from dask.dataframe import DataFrame
    from geopandas import GeoDataFrame
    from networkx import Graph
    from numpy.typing import NDArray
    from trimesh import Trimesh
    from uxarray import UxDataset


class Exports:
    """Methods that give a Dataset to other libraries, in the variant that each accepts."""

    @property
    def _ds(self) -> xr.Dataset:
        raise NotImplementedError

    def to_dataframe(self, *, object_attributes: bool = False) -> pd.DataFrame:
        """Return the vertices as a table in memory.

        Parameters
        ----------
        object_attributes : bool
            Add the attributes of each vertex' object. Integers and booleans of them have pandas' nullable types: a vertex may
            be of no object.

        Returns
        -------
        DataFrame
            A row per vertex, the index its number. Columns: axes, attributes (one per channel, ``colour_r``, of those that have
            several), ``object_id`` (-1: of none, -2: of several), ``parent`` of skeletons (by vertex number, -1: a root).
            Attributes of categories are categorical.

        Raises
        ------
        InputError
            The rows of the Dataset are no longer those that its counts speak of, or two columns would have the same name.
        """
        from dask_zv.exports.frames import to_dataframe

        return to_dataframe(self._ds, object_attributes=object_attributes)

    def to_dask_dataframe(self, *, object_attributes: bool = False) -> DataFrame:
        """Return the vertices as a lazy table; nothing is read.

        A partition is a block of vertices: a Dask chunk of the Dataset where it has any, else what the store reads well at
        once. Columns and index are those of :meth:`to_dataframe`; divisions are known unless vertices are in another order.

        Parameters
        ----------
        object_attributes : bool
            As for :meth:`to_dataframe`. The table of objects is one task, which every partition needs.

        Returns
        -------
        dask.dataframe.DataFrame

        Raises
        ------
        InputError
            As for :meth:`to_dataframe`.
        ImportError
            dask.dataframe lacks what it needs.
        """
        from dask_zv.exports.frames import to_dask_dataframe

        return to_dask_dataframe(self._ds, object_attributes=object_attributes)

    def to_shapely(self, dims: Sequence[str] | None = None) -> NDArray[np.object_]:
        """Return geometries of shapely.

        Points give a Point per vertex. All others give one geometry per object, in the order of ``ds.object``, and a single one
        for everything where there are no objects: a LineString of a line, polyline or streamline; a MultiLineString of a
        skeleton or graph, each edge a line; a MultiPolygon of a mesh, each face a polygon. None stands for an object that has
        nothing to draw: a path of fewer than 2 vertices, a tree or graph without edges, a mesh without faces.

        Paths need the objects view, graphs and meshes the spatial view, others either.

        Parameters
        ----------
        dims : sequence of str, optional
            Two or three axes, in the order x, y, z of the geometries. All axes where None.

        Returns
        -------
        ndarray of object

        Raises
        ------
        InputError
            The view doesn't hold what is needed, `dims` are not 2 or 3 axes, or links join different objects.
        ImportError
            shapely is not installed.
        """
        from dask_zv.exports.shapes import to_shapely

        return to_shapely(self._ds, dims)

    def to_geodataframe(self, dims: Sequence[str] | None = None, *, crs: Any = "store") -> GeoDataFrame:
        """Return a table of geometries, those of :meth:`to_shapely`.

        Parameters
        ----------
        dims : sequence of str, optional
            As for :meth:`to_shapely`: ``dims=("x", "y")`` makes 2-D geometries of a 3-D store.
        crs : optional
            Reference system of the geometries: the store's own by default, None for none, or whatever pyproj takes.

        Returns
        -------
        GeoDataFrame
            Points: a row per vertex, the index its number; columns are attributes, a column per channel, and ``object_id``.
            Others: a row per object, the index its id; columns are attributes of objects, and ``geometry``.

        Raises
        ------
        InputError
            As for :meth:`to_shapely`; or pyproj does not understand the store's reference system.
        ImportError
            geopandas is not installed.
        """
        from dask_zv.exports.shapes import to_geodataframe

        return to_geodataframe(self._ds, dims, crs=crs)

    def to_cf_geometries(self, dims: Sequence[str] | None = None, *, crs: Any = "store", empty: str = "raise") -> xr.Dataset:
        """Return a Dataset of CF geometries (CF 7.5) in two dimensions, in memory.

        ``cf_xarray.geometry.decode_geometries``, ``cf_xarray.cf_to_shapely(..., container="geometry_container")`` and
        ``ds.xvec.decode_cf()`` read it; so do others that know the convention. Geometries are those of :meth:`to_shapely`.

        Parameters
        ----------
        dims : sequence of str, optional
            Two axes, in the order x, y. The first two where None.
        crs : optional
            Reference system: the store's own by default, None for none, or whatever pyproj takes.
        empty : {"raise", "drop"}
            What becomes of objects that have nothing to draw, such as paths of fewer than 2 vertices: the convention has no
            empty geometries.

        Returns
        -------
        Dataset
            Along ``geometry``: ``object_id`` and attributes of objects, or ``vertex_number`` and attributes of points. Along
            ``node``: coordinates, and for paths the other axes and the attributes of vertices.

        Raises
        ------
        InputError
            The view doesn't hold what is needed, `dims` are not two axes, or objects have nothing to draw.
        ImportError
            There is a reference system, and pyproj is not installed.
        """
        from dask_zv.exports.shapes import to_cf_geometries

        return to_cf_geometries(self._ds, dims, crs=crs, empty=empty)

    def to_clouddrift(self, *, sort_by: str | None = None) -> xr.Dataset:
        """Return a Dataset in the objects view as one that clouddrift works with, in memory; clouddrift is not needed for it.

        ``clouddrift.ragged.apply_ragged(func, [d.x, d.y], d.rowsize)`` and ``clouddrift.RaggedArray.from_xarray(d)`` take it.

        Parameters
        ----------
        sort_by : str, optional
            Sort the vertices of each object by this axis or attribute. Points are kept by chunk, whatever their order was when
            they were written: they are no track before.

        Returns
        -------
        Dataset
            Along ``rows``: coordinate ``id``, ``rowsize`` and attributes of objects. Along ``obs``: axes (one of time as a
            coordinate) and attributes of vertices. Attributes of several channels are a variable each.

        Raises
        ------
        InputError
            The Dataset is in the spatial view, or two variables would have the same name; or the points of an object are in no
            order of time, and there is no `sort_by`.
        """
        from dask_zv.exports.ragged import to_clouddrift

        return to_clouddrift(self._ds, sort_by=sort_by)

    def to_awkward(self) -> ak.Array:
        """Return an array of records.

        Returns
        -------
        awkward.Array
            In the objects view a record per object: ``id``, attributes of the object, and axes and attributes of its vertices
            as lists; ``parent`` of skeletons is the place in the same list, -1 at roots. In the spatial view a record per
            vertex: ``vertex`` (its number), axes, attributes, ``object_id``. Attributes of several channels are lists of a
            fixed length; a string that is missing is None.

        Raises
        ------
        InputError
            Two fields would have the same name, or the Dataset's rows and counts are not in step.
        ImportError
            awkward is not installed.
        """
        from dask_zv.exports.ragged import to_awkward

        return to_awkward(self._ds)

    def to_networkx(self, *, directed: bool | None = None, multigraph: bool = False) -> Graph:
        """Return a graph of vertices and edges: of graphs in the spatial view, skeletons in either, paths in the objects view.

        Nodes are vertex numbers, which stay the same in selections. Their data: ``pos`` (a tuple), attributes of vertices (one
        per channel, ``colour_r``, of those that have several), ``object_id``. Data of edges: attributes of edges.

        Parameters
        ----------
        directed : bool, optional
            Return a DiGraph. Where None: skeletons are directed, each edge from child to parent, as the store has them (all
            paths lead to the root; ``graph.reverse()`` is an arborescence); graphs where the store says that its links have a
            direction; paths are not. An edge of a directed path leads to the next vertex.
        multigraph : bool
            Return a MultiGraph or MultiDiGraph, which keeps edges between the same two vertices apart.

        Returns
        -------
        networkx.Graph, DiGraph, MultiGraph or MultiDiGraph

        Raises
        ------
        InputError
            The Dataset has no edges, or several between the same two vertices.
        ImportError
            networkx is not installed.
        """
        from dask_zv.exports.linked import to_networkx

        return to_networkx(self._ds, directed=directed, multigraph=multigraph)

    def to_trimesh(self, *, by_object: bool = False) -> Trimesh | dict[int, Trimesh]:
        """Return the faces of a mesh in the spatial view; vertices stay as they are (``process=False``).

        A quad becomes two triangles, those of its corners (0, 1, 2) and (2, 3, 0); attributes of faces are repeated.

        Parameters
        ----------
        by_object : bool
            Return a mesh for each object that has vertices. ``trimesh.Scene({str(k): m for k, m in meshes.items()})`` shows
            them together.

        Returns
        -------
        Trimesh, or dict of int to Trimesh
            ``vertex_attributes`` are those of the vertices (one per channel of those that have several), ``vertex`` (their
            numbers) and ``object_id``; ``face_attributes`` those of the faces. ``metadata`` has ``object_id`` and the
            attributes of the object with `by_object`. 2-D meshes lie in the plane z = 0.

        Raises
        ------
        InputError
            The Dataset is no mesh, in the objects view, of other than 2 or 3 axes, has faces of more than 4 corners; or with
            `by_object`, faces that are not of one object.
        ImportError
            trimesh is not installed.
        """
        from dask_zv.exports.linked import to_trimesh

        return to_trimesh(self._ds, by_object=by_object)

    def to_uxarray(self, dims: Sequence[str] | None = None) -> UxDataset:
        """Return a mesh on the globe, in the spatial view, as a grid with its data; ``.uxgrid`` is the Grid.

        Coordinates are degrees of longitude and latitude, in this order: the store's reference system is geographic, or both
        axes have the unit degree.

        Parameters
        ----------
        dims : sequence of str, optional
            The axes of longitude and latitude. Then nothing else has to say that they are.

        Returns
        -------
        uxarray.UxDataset
            Attributes of vertices along ``n_node``, of faces along ``n_face``, both in the order of the Dataset.

        Raises
        ------
        InputError
            The Dataset is no mesh, or in the objects view; it has not 2 axes, nothing says that they are degrees, or their
            values are not.
        ImportError
            uxarray is not installed.
        """
        from dask_zv.exports.linked import to_uxarray

        return to_uxarray(self._ds, dims)
