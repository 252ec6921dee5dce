"""Pictures of Datasets and trees, with matplotlib (the extra ``viz``)."""

from dask_zv.viz.plot import Plot
from dask_zv.viz.tree import choose_level, plot_tree

__all__ = ["Plot", "choose_level", "plot_tree"]
