"""Generations of the format, told apart by the version that a store carries.

Source: Zarr Vectors format, root attribute ``zarr_vectors.zv_version``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import Any

from dask_zv.errors import MetadataError
from dask_zv.format import _json

_VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})*")


class Generation(Enum):
    """Generations of the format; the value is the ``zv_version`` that is written."""

    PER_CHUNK = "0.7.0"
    """One small array per chunk (0.7)."""
    GRID = "0.9.2"
    """One array per logical array, a cell per chunk (0.9)."""


def detect_generation(zarr_vectors: Mapping[str, Any]) -> Generation:
    """Tell the generation of a store from its ``zarr_vectors`` attribute.

    Parameters
    ----------
    zarr_vectors : mapping
        The attribute; its ``zv_version`` is compared number by number.

    Returns
    -------
    Generation
        ``PER_CHUNK`` for 0.7, ``GRID`` for 0.9.

    Raises
    ------
    MetadataError
        If the version is absent, malformed or of another generation.
    """
    version = _json.string(_json.require(zarr_vectors, "zv_version", "zarr_vectors"), "zarr_vectors.zv_version")
    if not _VERSION.fullmatch(version):
        raise MetadataError(f"zarr_vectors.zv_version must be numbers joined by dots, not {version!r:.80}")
    parts = tuple(int(part) for part in version.split("."))
    if (0, 7) <= parts < (0, 8):
        return Generation.PER_CHUNK
    if (0, 9) <= parts < (0, 10):
        return Generation.GRID
    raise MetadataError(f"Zarr Vectors version {version} is not read; versions 0.7 and 0.9 are")
