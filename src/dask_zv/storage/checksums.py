"""CRC-32C, by the library that zarr uses for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

_STEP = 1 << 18
"""Bytes that are copied at once: the library takes nothing but ``bytes``, and small copies stay in the processor's cache."""


def crc32c(data: bytes | bytearray | memoryview) -> int:
    """Return the CRC-32C of `data`."""
    return int(google_crc32c.value(data if isinstance(data, bytes) else bytes(data)))


def extend_crc32c(crc: int, data: bytes) -> int:
    """Return the CRC-32C of what `crc` is of, and `data` after it."""
    return int(google_crc32c.extend(crc, data))


def columns_crc32c(columns: Iterable[tuple[str, NDArray[Any]]]) -> int:
    """Return the CRC-32C of named columns of numbers: of names, dtypes, shapes and bytes."""
    crc = 0
    for name, column in columns:
        if column.dtype.kind in "mM":
            column = column.view(np.int64)
        crc = extend_crc32c(crc, f"{name} {column.dtype.str} {column.shape}".encode())
        if not column.size:
            continue
        data = memoryview(np.ascontiguousarray(column).reshape(-1).view(np.uint8))
        for start in range(0, len(data), _STEP):
            crc = extend_crc32c(crc, bytes(data[start : start + _STEP]))
    return crc
