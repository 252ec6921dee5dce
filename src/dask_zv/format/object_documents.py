"""Documents of the arrays about objects in generation 0.9: tables with a row to an object, and elements of bytes.

Source: Zarr Vectors format 0.9, non-chunk arrays. An object without a value has the *sentinel* of its dtype: NaN, the least
signed, the greatest unsigned integer, the empty string; it is the array's fill value as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dask_zv.errors import InputError
from dask_zv.format.documents import dump_json

_ZSTD = {"name": "zstd", "configuration": {"level": 0, "checksum": True}}
"""With the codec's own checksum: it goes along with every change in place, by whatever tool."""


def sentinel(dtype: np.dtype[Any]) -> Any:
    """Return the value of objects that have none.

    Raises
    ------
    InputError
        The dtype has none, so the format can't hold it.

    Examples
    --------
    >>> sentinel(np.dtype("int8")), sentinel(np.dtype("uint8")), sentinel(np.dtype("float32"))
    (-128, 255, nan)
    """
    if dtype.kind == "f" and dtype.itemsize <= 8:
        return float("nan")
    if dtype.kind == "i":
        return int(np.iinfo(dtype).min)
    if dtype.kind == "u":
        return int(np.iinfo(dtype).max)
    if dtype.kind == "U":
        return ""
    raise InputError(f"{dtype} has no value that says 'absent', so objects can't have attributes of it")


def table_document(shape: Sequence[int], dtype: np.dtype[Any], chunk: int, fill: Any, attributes: Mapping[str, Any]) -> bytes:
    """Return the document of an array with a row to an object, `chunk` rows to a stored object.

    Parameters
    ----------
    shape : sequence of int
    dtype : dtype
        A little-endian number, or a string of fixed length.
    chunk : int
    fill : object
        Value of rows that no chunk holds.
    attributes : mapping
        JSON values.
    """
    data_type: Any = dtype.name
    if dtype.kind == "U":
        data_type = {"name": "fixed_length_utf32", "configuration": {"length_bytes": dtype.itemsize}}
    endian = {"configuration": {"endian": "little"}} if dtype.itemsize > 1 else {}
    fill = "NaN" if isinstance(fill, float) and np.isnan(fill) else fill
    return _array(shape, data_type, [chunk, *shape[1:]], fill, [{"name": "bytes", **endian}, _ZSTD], attributes)


def elements_document(count: int, chunk: int, attributes: Mapping[str, Any]) -> bytes:
    """Return the document of a 1-D array of bytes of any length, `chunk` elements to a stored object."""
    codecs = [{"name": "vlen-bytes", "configuration": {}}, _ZSTD]
    return _array([count], "variable_length_bytes", [chunk], "", codecs, attributes)


def _array(
    shape: Sequence[int], data_type: Any, chunk: Sequence[int], fill: Any, codecs: Any, attributes: Mapping[str, Any]
) -> bytes:
    return dump_json(
        {
            "shape": list(shape),
            "data_type": data_type,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": fill,
            "codecs": codecs,
            "attributes": dict(attributes),
            "zarr_format": 3,
            "node_type": "array",
            "storage_transformers": [],
        }
    )
