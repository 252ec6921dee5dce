"""Pictures of Datasets and trees, with matplotlib (the extra ``viz``)."""

from dask_zv.xarray_backend.plotting.plot import Plot
from dask_zv.xarray_backend.plotting.tree import choose_level, plot_tree

__all__ = ["Plot", "choose_level", "plot_tree"]
