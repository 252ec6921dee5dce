"""Morton (Z-order) codes of chunk coordinates, as ZV 0.7 numbers its octree shards.

Bit ``b`` of axis ``a`` goes to bit ``b * K + a`` of the code; a negative component ``c`` is first replaced by ``c + 2**20``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import PlanError

_NEGATIVE = 1 << 20


def _spread(values: NDArray[np.uint64], ndim: int, bits: int) -> NDArray[np.uint64]:
    out = np.zeros_like(values)
    for b in range(bits):
        out |= ((values >> np.uint64(b)) & np.uint64(1)) << np.uint64(b * ndim)
    return out


def _codes(shifted: NDArray[np.int64]) -> NDArray[np.uint64] | None:
    """Codes of non-negative coordinates, None where 64 bits don't hold them."""
    n, ndim = shifted.shape
    bits = int(shifted.max()).bit_length() if n else 0
    if bits * ndim > 64:
        return None
    code = np.zeros(n, np.uint64)
    for axis in range(ndim):
        code |= _spread(shifted[:, axis].astype(np.uint64), ndim, bits) << np.uint64(axis)
    return code


def morton_codes(coords: NDArray[np.int64]) -> NDArray[Any]:
    """Return the code of every row of `coords`, shape (n, K)."""
    coords = np.asarray(coords, np.int64)
    if len(coords) and int(coords.min()) < -_NEGATIVE:
        raise PlanError(
            f"chunk coordinate {int(coords.min())} is below {-_NEGATIVE}, where shard numbers end: "
            "choose a larger chunk_shape or shift the positions"
        )
    shifted = np.where(coords < 0, coords + _NEGATIVE, coords)
    codes = _codes(shifted)
    if codes is not None:
        return codes
    out = np.empty(len(coords), object)
    ndim = coords.shape[1]
    for i, row in enumerate(shifted.tolist()):
        out[i] = sum(
            ((value >> b) & 1) << (b * ndim + axis) for axis, value in enumerate(row) for b in range(value.bit_length())
        )
    return out


def morton_order(coords: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return the order that sorts rows of `coords`, shape (n, K), along the Z-curve through their own box.

    Unlike :func:`morton_codes`, negative neighbours stay neighbours; where even the box passes 64 bits, the least bits are
    left out of the comparison and ties are in ascending coordinate order.
    """
    coords = np.asarray(coords, np.int64)
    if not len(coords):
        return np.zeros(0, np.intp)
    shifted = coords - coords.min(axis=0)
    drop = max(0, int(shifted.max()).bit_length() - 64 // coords.shape[1])
    codes = _codes(shifted >> drop)
    assert codes is not None
    return np.lexsort((*coords.T[::-1], codes))
