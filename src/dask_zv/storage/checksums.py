"""CRC-32C, by the library that zarr uses for it."""

from __future__ import annotations

import google_crc32c

__all__ = ["crc32c", "extend_crc32c"]


def crc32c(data: bytes | bytearray | memoryview) -> int:
    """Return the CRC-32C of `data`."""
    return int(google_crc32c.value(data if isinstance(data, bytes) else bytes(data)))


def extend_crc32c(crc: int, data: bytes) -> int:
    """Return the CRC-32C of what `crc` is of, and `data` after it."""
    return int(google_crc32c.extend(crc, data))
