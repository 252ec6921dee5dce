"""Blocks of chunks as Dask tasks: one graph per write, receipts, one commit."""
