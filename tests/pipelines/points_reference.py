"""What the tests of points compare with: the format's rules in plain numpy and Python, one row at a time.

Nothing here is fast, and nothing here is shared with the library.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

CATALOG = "dask_zv_catalog"


def files(root: Any) -> dict[str, bytes]:
    """Return every file below a directory."""
    root = Path(root)
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def stored(root: Any) -> dict[str, bytes]:
    """Return every file that depends on nothing but the content: the catalog holds times of change."""
    return {name: data for name, data in files(root).items() if CATALOG not in name}


def directories(root: Any) -> set[str]:
    """Return every directory below a directory."""
    root = Path(root)
    return {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_dir()}


def chunk_of(position: Sequence[float], chunk_shape: Sequence[float]) -> tuple[int, ...]:
    """Return the chunk of one position: floor of a division in float64."""
    return tuple(math.floor(float(p) / float(c)) for p, c in zip(position, chunk_shape, strict=True))


def bin_of(position: Sequence[float], chunk_shape: Sequence[float], bin_shape: Sequence[float]) -> int:
    """Return the number of one position's bin in its chunk, row-major."""
    number = 0
    for p, c, b in zip(position, chunk_shape, bin_shape, strict=True):
        bins = round(float(c) / float(b))
        edge = float(c) / bins
        local = math.floor(float(p) / edge) - math.floor(float(p) / float(c)) * bins
        number = number * bins + min(max(local, 0), bins - 1)
    return number


def reading_order(
    positions: np.ndarray,
    chunk_shape: Sequence[float],
    bin_shape: Sequence[float] | None = None,
    object_ids: Sequence[int] | None = None,
) -> np.ndarray:
    """Return input rows in the order of reading: chunks, then objects or bins, then the order of the input."""

    def rank(row: int) -> tuple[Any, ...]:
        p = positions[row]
        if object_ids is not None:
            fragment = int(object_ids[row])
        else:
            fragment = 0 if bin_shape is None else bin_of(p, chunk_shape, bin_shape)
        return (chunk_of(p, chunk_shape), fragment, row)

    return np.array(sorted(range(len(positions)), key=rank), np.int64)


def object_order(positions: np.ndarray, chunk_shape: Sequence[float], object_ids: Sequence[int]) -> np.ndarray:
    """Return input rows object by object, each by chunk and then in the order of the input."""
    return np.array(
        sorted(range(len(positions)), key=lambda i: (int(object_ids[i]), chunk_of(positions[i], chunk_shape), i)), np.int64
    )


def chunk_counts(positions: np.ndarray, chunk_shape: Sequence[float]) -> dict[str, int]:
    """Return the rows of every chunk by its key."""
    counts: dict[str, int] = {}
    for p in positions:
        key = ".".join(map(str, chunk_of(p, chunk_shape)))
        counts[key] = counts.get(key, 0) + 1
    return counts


def in_box(positions: np.ndarray, box: Any) -> np.ndarray:
    """Tell which positions lie in a closed box: labels are of the positions' dtype, as those of xarray's indexes are."""
    p = np.asarray(positions)
    low, high = np.asarray(box, np.float64).astype(p.dtype if p.dtype.kind == "f" else np.float64)
    return ((p >= low) & (p <= high)).all(axis=1)


def assert_same(actual: Any, expected: Any, what: str = "") -> None:
    """Compare values, dtype and shape exactly; NaN equals NaN, None equals None."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype, f"{what}: {actual.dtype} is not {expected.dtype}"
    assert actual.shape == expected.shape, f"{what}: {actual.shape} is not {expected.shape}"
    if expected.dtype.kind in "fcmM":
        np.testing.assert_array_equal(actual, expected, err_msg=what)
    else:
        assert actual.tolist() == expected.tolist(), what
