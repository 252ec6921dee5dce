"""The exporting half of ``ds.zv``: each method only leads to the module that knows the library; none is imported before."""

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
        """Return a row to a vertex; see :func:`dask_zv.exports.frames.to_dataframe`."""
        from dask_zv.exports.frames import to_dataframe

        return to_dataframe(self._ds, object_attributes=object_attributes)

    def to_dask_dataframe(self, *, object_attributes: bool = False) -> DataFrame:
        """Return the same lazily; see :func:`dask_zv.exports.frames.to_dask_dataframe`."""
        from dask_zv.exports.frames import to_dask_dataframe

        return to_dask_dataframe(self._ds, object_attributes=object_attributes)

    def to_shapely(self, dims: Sequence[str] | None = None) -> NDArray[np.object_]:
        """Return shapely geometries; see :func:`dask_zv.exports.shapes.to_shapely`."""
        from dask_zv.exports.shapes import to_shapely

        return to_shapely(self._ds, dims)

    def to_geodataframe(self, dims: Sequence[str] | None = None, **options: Any) -> GeoDataFrame:
        """Return a GeoDataFrame; 2-D with ``dims=("x", "y")``.

        See :func:`dask_zv.exports.shapes.to_geodataframe`.
        """
        from dask_zv.exports.shapes import to_geodataframe

        return to_geodataframe(self._ds, dims, **options)

    def to_cf_geometries(self, *args: Any, **options: Any) -> xr.Dataset:
        """Return CF geometries in two dimensions; see :func:`dask_zv.exports.cf.to_cf_geometries`."""
        from dask_zv.exports.cf import to_cf_geometries

        return to_cf_geometries(self._ds, *args, **options)

    def to_clouddrift(self, *, sort_by: str | None = None) -> xr.Dataset:
        """Return rows and observations; see :func:`dask_zv.exports.ragged.to_clouddrift`."""
        from dask_zv.exports.ragged import to_clouddrift

        return to_clouddrift(self._ds, sort_by=sort_by)

    def to_awkward(self) -> ak.Array:
        """Return a record to an object; see :func:`dask_zv.exports.ragged.to_awkward`."""
        from dask_zv.exports.ragged import to_awkward

        return to_awkward(self._ds)

    def to_networkx(self, *, directed: bool | None = None, multigraph: bool = False) -> Graph:
        """Return a graph of the edges; see :func:`dask_zv.exports.graphs.to_networkx`."""
        from dask_zv.exports.graphs import to_networkx

        return to_networkx(self._ds, directed=directed, multigraph=multigraph)

    def to_trimesh(self, *, by_object: bool = False) -> Trimesh | dict[int, Trimesh]:
        """Return the faces as a mesh, or a mesh to an object; see :func:`dask_zv.exports.meshes.to_trimesh`."""
        from dask_zv.exports.meshes import to_trimesh

        return to_trimesh(self._ds, by_object=by_object)

    def to_uxarray(self, dims: Sequence[str] | None = None) -> UxDataset:
        """Return a mesh on the sphere; see :func:`dask_zv.exports.grids.to_uxarray`."""
        from dask_zv.exports.grids import to_uxarray

        return to_uxarray(self._ds, dims)
