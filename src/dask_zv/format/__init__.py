"""Metadata documents and byte encodings of Zarr Vectors stores: numpy in, bytes out, and back. No I/O."""
