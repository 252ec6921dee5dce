"""Conversions of Datasets to the objects of other libraries.

The methods of ``ds.zv`` with the same names call these functions and document them.
"""

from dask_zv.exports.frames import to_dask_dataframe, to_dataframe
from dask_zv.exports.linked import to_networkx, to_trimesh, to_uxarray
from dask_zv.exports.ragged import to_awkward, to_clouddrift
from dask_zv.exports.shapes import to_cf_geometries, to_geodataframe, to_shapely

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
