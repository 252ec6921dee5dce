"""Whether vertices lie in the boxes of their chunks, which is what boxes are answered by.

Our writer puts them there, and a catalog is rebuilt only where they are. Levels of other tools may have been cut by other edges
than their metadata says, or edited: then a box would come back short.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError, ZVWarning
from dask_zv.format.keys import coords_to_keys
from dask_zv.geometry.points import decode_positions
from dask_zv.geometry.schema import VERTICES
from dask_zv.level.source import ChunkTable, LevelSource, level_blobs

_ALL = 16
"""Chunks of a level that are all looked at before a box is answered; of larger levels the outermost ones are."""
_AT_ONCE = 256
_SLACK = 1e-6
"""In chunks: who finds chunks by bins rounds otherwise at the boundaries."""
_KNOWN: OrderedDict[tuple[str, str, str], bool] = OrderedDict()
_MOST_KNOWN = 256
_LOCK = threading.Lock()


def check_positions(source: LevelSource, coords: NDArray[np.int64], rows: NDArray[np.int64], positions: NDArray[Any]) -> None:
    """Raise where one of some vertices that were read is outside of its chunk's box; parameters as of :func:`note_strays`.

    Raises
    ------
    FormatError
    """
    stray = _first_stray(source, coords, rows, positions)
    if stray is not None:
        raise _stray_error(source, coords[stray])


def note_strays(source: LevelSource, coords: NDArray[np.int64], rows: NDArray[np.int64], positions: NDArray[Any]) -> None:
    """Warn where one of some vertices that were read is outside of its chunk's box.

    Parameters
    ----------
    source : LevelSource
    coords : ndarray of int64, shape (n, K)
    rows : ndarray of int64, shape (n,)
        Vertices of each chunk.
    positions : ndarray, shape (N, D)
        As stored, chunk by chunk.
    """
    stray = _first_stray(source, coords, rows, positions)
    if stray is not None:
        warnings.warn(str(_stray_error(source, coords[stray])), ZVWarning, stacklevel=2)


def _first_stray(
    source: LevelSource, coords: NDArray[np.int64], rows: NDArray[np.int64], positions: NDArray[Any]
) -> int | None:
    """Return the number of the first chunk that has a vertex outside of its box, None where there is none."""
    grid = source.schema.grid
    spatial = coords[:, coords.shape[1] - grid.ndim :]
    for axis, edge in enumerate(grid.chunk_shape):
        with np.errstate(invalid="ignore", over="ignore"):  # whatever the bytes are
            cells = positions[:, axis].astype(np.float64) / edge - np.repeat(spatial[:, axis], rows)
        slack = _SLACK + 1e-15 * np.abs(spatial[:, axis]).max(initial=0)
        out = np.flatnonzero(~((cells >= -slack) & (cells <= 1 + slack)))
        if len(out):
            return int(np.searchsorted(np.cumsum(rows), out[0], side="right"))
    return None


def _stray_error(source: LevelSource, chunk: NDArray[np.int64]) -> FormatError:
    """Return the error that says that a chunk has vertices outside of its box."""
    return FormatError(
        f"the chunk has vertices outside of its box: the level was cut by other edges than the chunk_shape "
        f"{list(source.schema.grid.chunk_shape)} of its metadata, or edited, so boxes would come back short. Read it without a "
        "box and select rows, or write it anew",
        store=source.where(), array=VERTICES, chunk=coords_to_keys(chunk[None])[0],
    )  # fmt: skip


def check_boxes(source: LevelSource, table: ChunkTable) -> None:
    """Look at all vertices of a level, some chunks at a time.

    Raises
    ------
    FormatError
        A vertex is outside of its chunk's box.
    """
    for start in range(0, len(table), _AT_ONCE):
        stray = _look(source, table, np.arange(start, min(start + _AT_ONCE, len(table))))
        if stray is not None:
            raise _stray_error(source, stray)


def check_some_boxes(source: LevelSource, table: ChunkTable) -> None:
    """Look at the vertices of a few chunks before a box is answered, see :func:`boxes_hold`.

    Raises
    ------
    FormatError
        A vertex is outside of its chunk's box.
    """
    stray = _some_stray(source, table)
    if stray is not None:
        raise _stray_error(source, stray)


def boxes_hold(source: LevelSource, table: ChunkTable) -> bool:
    """Return True if the vertices of a few chunks, the outermost, lie in their boxes; looked at once where there is no catalog.

    A level that was cut by other edges shows it there: chunks lie the farther from their boxes the farther out they are.
    """
    return _some_stray(source, table) is None


def _some_stray(source: LevelSource, table: ChunkTable) -> NDArray[np.int64] | None:
    if source.catalogued or not len(table):
        return None
    key = (source.place.handle.identity, source.place.prefix, source.token)
    with _LOCK:
        if key in _KNOWN:
            return None
    some: Sequence[int] | NDArray[np.intp] = range(len(table))
    if len(table) > _ALL:
        spatial = table.coords[:, source.rank - source.schema.grid.ndim :]
        some = np.unique(np.r_[spatial.argmin(axis=0), spatial.argmax(axis=0)])
    stray = _look(source, table, np.asarray(some, np.intp))
    if stray is None:
        with _LOCK:
            _KNOWN[key] = True
            while len(_KNOWN) > _MOST_KNOWN:
                _KNOWN.popitem(last=False)
    return stray


def _look(source: LevelSource, table: ChunkTable, numbers: NDArray[np.intp]) -> NDArray[np.int64] | None:
    """Return the first of some chunks that has a vertex outside of its box, None where there is none."""
    blobs = level_blobs(source)
    keys = coords_to_keys(table.coords[numbers])
    found = blobs.read_many([(VERTICES, key) for key in keys])
    for number, key in zip(numbers.tolist(), keys, strict=True):
        data = found.get((VERTICES, key))
        if data is None:
            raise FormatError("the chunk has no positions", store=source.where(), array=VERTICES, chunk=key)
        try:
            positions = decode_positions(source.schema, key, data)
        except FormatError as error:
            raise error.at(store=source.where()) from None
        if _first_stray(source, table.coords[number : number + 1], np.array([len(positions)]), positions) is not None:
            chunk: NDArray[np.int64] = table.coords[number]
            return chunk
    return None
