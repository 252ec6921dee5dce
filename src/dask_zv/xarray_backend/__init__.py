"""Engine "zv": Zarr Vectors stores as xarray Datasets."""
