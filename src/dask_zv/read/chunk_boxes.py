"""Check that vertices lie in the boxes of their chunks, which the answer to a box relies on.

Our writer puts them there, and a catalog is rebuilt only where they are. Levels of other tools may have been cut by other edges
than their metadata says, or edited: then a box would come back short.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError, ZVWarning
from dask_zv.format.keys import coords_to_keys
from dask_zv.geometry.schema import VERTICES
from dask_zv.level.source import ChunkTable, LevelSource, SharedCache, level_blobs
from dask_zv.read.decode import block_positions, fetch

_ALL = 16
"""Chunks of a level that are all looked at before a box is answered; of larger levels the outermost ones are."""
_AT_ONCE = 256
_SLACK = 1e-6
"""In chunks: who finds chunks by bins rounds otherwise at the boundaries."""
_HOLD: SharedCache[bool] = SharedCache(256)


def check_positions(source: LevelSource, coords: NDArray[np.int64], rows: NDArray[np.int64], positions: NDArray[Any]) -> None:
    """Raise :class:`FormatError` where one of some vertices is outside of its chunk's box; arguments as of `note_strays`."""
    stray = _first_stray(source, coords, rows, positions)
    if stray is not None:
        raise _stray_error(source, stray)


def note_strays(source: LevelSource, coords: NDArray[np.int64], rows: NDArray[np.int64], positions: NDArray[Any]) -> None:
    """Warn where one of the vertices of chunks (n, K), which have so many `rows`, is outside of its chunk's box."""
    stray = _first_stray(source, coords, rows, positions)
    if stray is not None:
        warnings.warn(str(_stray_error(source, stray)), ZVWarning, stacklevel=2)


def check_boxes(source: LevelSource, table: ChunkTable) -> None:
    """Look at all vertices of a level, some chunks at a time; one outside of its chunk's box is a :class:`FormatError`."""
    for start in range(0, len(table), _AT_ONCE):
        stray = _look(source, table, range(start, min(start + _AT_ONCE, len(table))))
        if stray is not None:
            raise _stray_error(source, stray)


def check_some_boxes(source: LevelSource, table: ChunkTable) -> None:
    """Look at the vertices of a few chunks before a box is answered, see :func:`boxes_hold`."""
    stray = _some_stray(source, table)
    if stray is not None:
        raise _stray_error(source, stray)


def boxes_hold(source: LevelSource, table: ChunkTable) -> bool:
    """Return True if the vertices of a few chunks, the outermost, lie in their boxes; looked at once where there is no catalog.

    A level that was cut by other edges shows it there: chunks lie the farther from their boxes the farther out they are.
    """
    return _some_stray(source, table) is None


def _some_stray(source: LevelSource, table: ChunkTable) -> NDArray[np.int64] | None:
    if source.catalogued or not len(table) or _HOLD.get(source.state):
        return None
    some: Sequence[int] | NDArray[np.intp] = range(len(table))
    if len(table) > _ALL:
        spatial = source.spatial(table.coords)
        some = np.unique(np.r_[spatial.argmin(axis=0), spatial.argmax(axis=0)])
    stray = _look(source, table, some)
    if stray is None:
        _HOLD.put(source.state, True)
    return stray


def _look(source: LevelSource, table: ChunkTable, numbers: Sequence[int] | NDArray[np.intp]) -> NDArray[np.int64] | None:
    """Return the first of some chunks that has a vertex outside of its box, None where there is none."""
    blobs, coords = level_blobs(source), table.coords[np.asarray(numbers, np.intp)]
    keys = coords_to_keys(coords)
    found = fetch(source, blobs, keys, (), indexes=False)
    positions, rows = block_positions(source, blobs, coords, keys, found, None)
    return _first_stray(source, coords, rows, positions)


def _first_stray(
    source: LevelSource, coords: NDArray[np.int64], rows: NDArray[np.int64], positions: NDArray[Any]
) -> NDArray[np.int64] | None:
    """Return the first chunk that has a vertex outside of its box; None where there is none."""
    out = _outside(source, coords, rows, positions)
    if not out.any():
        return None
    chunk: NDArray[np.int64] = coords[np.searchsorted(np.cumsum(rows), out.argmax(), side="right")]
    return chunk


def stray_chunks(
    source: LevelSource, coords: NDArray[np.int64], rows: NDArray[np.int64], positions: NDArray[Any]
) -> NDArray[np.int64]:
    """Return how many vertices of each chunk (n,) lie outside of its box; arguments as of `note_strays`."""
    of_row = np.repeat(np.arange(len(coords)), rows)
    return np.bincount(of_row[_outside(source, coords, rows, positions)], minlength=len(coords)).astype(np.int64)


def _outside(
    source: LevelSource, coords: NDArray[np.int64], rows: NDArray[np.int64], positions: NDArray[Any]
) -> NDArray[np.bool_]:
    """Return which vertices (N,) lie outside of their chunks' boxes."""
    spatial = source.spatial(coords)
    out = np.zeros(len(positions), bool)
    for axis, edge in enumerate(source.schema.grid.chunk_shape):
        with np.errstate(invalid="ignore", over="ignore"):  # whatever the bytes are
            cells = positions[:, axis].astype(np.float64) / edge - np.repeat(spatial[:, axis], rows)
        slack = _SLACK + 1e-15 * np.abs(spatial[:, axis]).max(initial=0)
        out |= ~((cells >= -slack) & (cells <= 1 + slack))
    return out


def _stray_error(source: LevelSource, chunk: NDArray[np.int64]) -> FormatError:
    return FormatError(
        f"the chunk has vertices outside of its box: the level was divided by another chunk_shape than the "
        f"{list(source.schema.grid.chunk_shape)} of its metadata, or edited, so boxes would be incomplete. Read it without a "
        "box and select rows, or write it again",
        store=source.where(), array=VERTICES, chunk=coords_to_keys(chunk[None])[0],
    )  # fmt: skip
