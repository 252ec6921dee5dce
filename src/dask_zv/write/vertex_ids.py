"""Vertices that links call by ids of the user's: from these to their numbers, where all is in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.write.containers import as_integers, from_objects, in_memory, is_frame


def take_integers(table: Any, given: Any, name: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return integers of the vertices of a table in memory, and the column that they are, if they are one.

    Raises
    ------
    InputError
        They are no integers, or not one for each vertex.
    """
    column = given
    consumed: tuple[str, ...] = ()
    if isinstance(given, str):
        if not is_frame(table) or given not in table.columns:
            raise InputError(f"unknown column {given!r} for {name}")
        column, consumed = table[given], (given,)
    values = from_objects(name, in_memory(name, column))
    if values.ndim != 1 or (len(values) and values.dtype.kind not in "iu"):
        raise InputError(f"{name} are integers of the shape (N,), not {values.dtype} {values.shape}")
    if len(values) != len(table):
        raise InputError(f"{name} have {len(values):,} rows, positions have {len(table):,}")
    return as_integers(name, values), consumed


def take_ids(table: Any, vertex_ids: Any) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the ids of a table of vertices in memory, and the column that they are, if they are one.

    Raises
    ------
    InputError
        They are not integers from 0 on.
    """
    ids, consumed = take_integers(table, vertex_ids, "vertex_ids")
    if len(ids) and int(ids.min()) < 0:
        raise InputError(f"vertex_ids are not negative, found {ids.min()} to {ids.max()}")
    return ids, consumed


def numbers_of(
    ids: NDArray[np.int64], what: str, wanted: NDArray[Any], *, negative: bool, objects: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Return the place of each wanted id among `ids`.

    Parameters
    ----------
    ids : ndarray of int64, shape (N,)
    what : str
        What names the vertices, for errors.
    wanted : ndarray of integers
    negative : bool
        Negative ids are none, and stay.
    objects : ndarray of int64, shape (N,), optional
        Object of each vertex, where a row of `wanted` is one of `ids` and means a vertex of the same object: then ids may be
        distinct in each object only.

    Raises
    ------
    InputError
        An id is unknown, given twice, or no integer.
    """
    wanted = as_integers(what, wanted)
    called, known, signed = ids, ids, wanted
    if objects is not None and len(distinct := np.unique(ids)) < len(ids):
        owner = np.unique(objects, return_inverse=True)[1].reshape(-1) * len(distinct)
        at = np.minimum(np.searchsorted(distinct, wanted), len(distinct) - 1)
        known = owner + np.searchsorted(distinct, ids)
        signed = np.where(distinct[at] == wanted, owner + at, np.where(wanted < 0, wanted, owner.max() + len(distinct)))
    order = np.argsort(known, kind="stable")
    known = known[order]
    twice = np.flatnonzero(known[1:] == known[:-1])
    if len(twice):
        row = order[twice[0]]
        where = "" if objects is None else f" in object {objects[row]}"
        raise InputError(f"vertex_ids must be distinct: {called[row]} is given twice{where}")
    at = np.minimum(np.searchsorted(known, signed), max(len(known) - 1, 0))
    none = signed < 0 if negative else np.zeros(wanted.shape, bool)
    unknown = ~none & (known[at] != signed) if len(known) else ~none
    if unknown.any():
        raise InputError(f"{what}: there is no vertex {wanted[unknown].reshape(-1)[0]}, it is not among vertex_ids")
    return np.where(none, wanted, order[at] if len(known) else -1)
