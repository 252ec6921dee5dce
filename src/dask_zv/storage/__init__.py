"""Stores, the Group layer's reading and single writes, the per-chunk layout, the catalog. zarr, but no Dask."""
