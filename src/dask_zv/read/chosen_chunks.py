"""Chunks that a user names: by key or by coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import InputError, NotFoundError
from dask_zv.format.keys import coords_to_keys, is_spatial_key, parse_key
from dask_zv.level.contents import LevelContents


def chosen_chunks(level: LevelContents, chunks: Any) -> NDArray[np.int64]:
    """Return the rows of a level's table of chunks that a user asks for, ascending.

    Raises
    ------
    InputError
        Neither chunk keys nor coordinates.
    NotFoundError
        The level has no such chunk.
    """
    rank = level.source.rank
    given = [chunks] if isinstance(chunks, str) else chunks
    try:
        if isinstance(given, Sequence) and any(isinstance(k, str) for k in given):
            given = [parse_key(k) if isinstance(k, str) and is_spatial_key(k) else k for k in given]
        coords = np.asarray(given)
    except (TypeError, ValueError):
        coords = np.zeros(0, object)
    if coords.ndim == 1 and len(coords) == rank and coords.dtype.kind in "iu":
        coords = coords[None]
    if coords.size == 0 and coords.dtype.kind != "O":
        coords = np.zeros((0, rank), np.int64)
    if coords.ndim != 2 or coords.shape[1] != rank or coords.dtype.kind not in "iu":
        raise InputError(f"chunks are keys such as {'.'.join(['0'] * rank)!r}, or {rank} integers each, not {chunks!r:.80}")
    coords = coords.astype(np.int64)
    at = level.chunks.find(coords)
    if (at < 0).any():
        lost = coords_to_keys(coords[at < 0][:1])[0]
        raise NotFoundError("the level has no such chunk: level.chunks lists them", store=level.url, chunk=lost)
    return np.unique(at)
