"""Vertices that links call by ids of the user's: from these to their numbers, where all is in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.pipelines.writing.inputs import is_frame

__all__ = ["numbers_of", "take_ids"]


def take_ids(table: Any, vertex_ids: Any) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the ids of a table of vertices in memory, and the column that they are, if they are one.

    Raises
    ------
    InputError
        They are not distinct integers from 0 on.
    """
    column = vertex_ids
    consumed: tuple[str, ...] = ()
    if isinstance(vertex_ids, str):
        if not is_frame(table) or vertex_ids not in table.columns:
            raise InputError(f"unknown column {vertex_ids!r} for vertex_ids")
        column, consumed = table[vertex_ids], (vertex_ids,)
    ids = np.asarray(column)
    if ids.ndim != 1 or (len(ids) and ids.dtype.kind not in "iu"):
        raise InputError(f"vertex_ids are integers of the shape (N,), not {ids.dtype} {ids.shape}")
    if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= 2**63):
        raise InputError(f"vertex_ids are not negative, found {ids.min()} to {ids.max()}")
    if len(ids) != len(table):
        raise InputError(f"vertex_ids have {len(ids):,} rows, positions have {len(table):,}")
    return ids.astype(np.int64), consumed


def numbers_of(ids: NDArray[np.int64], what: str, wanted: NDArray[Any], *, negative: bool) -> NDArray[np.int64]:
    """Return the place of each wanted id among `ids`.

    Parameters
    ----------
    ids : ndarray of int64, shape (N,)
    what : str
        What names the vertices, for errors.
    wanted : ndarray of integers
    negative : bool
        Negative ids are none, and stay.

    Raises
    ------
    InputError
        An id is unknown, given twice, or no integer.
    """
    if wanted.size and wanted.dtype.kind not in "iu":
        raise InputError(f"{what} are integers, not {wanted.dtype}")
    order = np.argsort(ids, kind="stable")
    known = ids[order]
    twice = np.flatnonzero(known[1:] == known[:-1])
    if len(twice):
        raise InputError(f"vertex_ids must be distinct: {known[twice[0]]} is given twice")
    beyond = wanted > np.iinfo(np.int64).max
    signed = wanted.astype(np.int64)  # numpy compares uint64 with int64 by way of floats
    signed[beyond] = -1
    at = np.minimum(np.searchsorted(known, signed), max(len(known) - 1, 0))
    none = (signed < 0) & ~beyond if negative else np.zeros(wanted.shape, bool)
    unknown = ~none & (beyond | (known[at] != signed)) if len(known) else ~none
    if unknown.any():
        raise InputError(f"{what}: there is no vertex {wanted[unknown].reshape(-1)[0]}, it is not among vertex_ids")
    return np.where(none, signed, order[at] if len(known) else -1).astype(np.int64)
