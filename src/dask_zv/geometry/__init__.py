"""Geometries as numpy arrays, and their pieces by chunk: no store, no Dask."""
