"""Datasets in the two views, handed to other libraries: each exactly what that library accepts."""

from dask_zv.xarray_backend.export.cf import to_cf_geometries
from dask_zv.xarray_backend.export.frames import to_dask_dataframe, to_dataframe
from dask_zv.xarray_backend.export.graphs import to_networkx
from dask_zv.xarray_backend.export.grids import to_uxarray
from dask_zv.xarray_backend.export.meshes import to_trimesh
from dask_zv.xarray_backend.export.ragged import to_awkward, to_clouddrift
from dask_zv.xarray_backend.export.shapes import to_geodataframe, to_shapely

__all__ = [
    "to_awkward",
    "to_cf_geometries",
    "to_clouddrift",
    "to_dask_dataframe",
    "to_dataframe",
    "to_geodataframe",
    "to_networkx",
    "to_shapely",
    "to_trimesh",
    "to_uxarray",
]
