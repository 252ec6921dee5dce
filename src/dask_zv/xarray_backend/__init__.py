"""Engine "zv": Zarr Vectors stores as xarray Datasets."""

# here, so that whoever unpickles one of our Datasets has ds.zv: a worker may not have opened any
from dask_zv.xarray_backend import accessor as _accessor  # noqa: F401
from dask_zv.xarray_backend import tree as _tree  # noqa: F401
