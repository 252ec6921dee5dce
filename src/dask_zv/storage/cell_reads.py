"""Fetching cells: runs of them per stored object, few ranged reads, each cell checked and decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError, ZVError
from dask_zv.format.cells import FRAME_NBYTES, unframe
from dask_zv.format.grids import GridSpec
from dask_zv.storage.codecs import CellCodec
from dask_zv.storage.objects import Objects, Request
from dask_zv.storage.ranges import coalesce

DAMAGED = (
    "the stored bytes are not those of the last commit, though the object is as old: it is damaged; restore it, or write the "
    "chunk again"
)
Address = tuple[str, str]
"""(array, chunk key)."""


def cell_path(path: str, cell: Sequence[int]) -> str:
    """Return the key of a cell's (or a shard's) object of the array at `path`."""
    return f"{path}/c/{'/'.join(map(str, cell))}"


@dataclass(frozen=True, slots=True)
class CellRun:
    """Cells of one array in one stored object.

    Attributes
    ----------
    path : str
        Key of the object.
    array : str
    keys : list of str
        Chunk keys.
    offsets, lengths : list of int
        Where each cell is in the object; `lengths` is None for a cell that is the whole object, of unknown length.
    crcs : list of int, optional
        CRC-32C of each cell's stored bytes, where it is known.
    nbytes : list of int, optional
        Length of each payload, where it is known.
    """

    path: str
    array: str
    keys: list[str]
    offsets: list[int]
    lengths: list[int] | None
    crcs: list[int] | None
    nbytes: list[int] | None = None


@dataclass(frozen=True, slots=True)
class StoredCell:
    """A cell as it is stored, to be put elsewhere as it is; its length is that of its payload."""

    data: bytes
    nbytes: int

    def __len__(self) -> int:
        return self.nbytes


def object_runs(cells: NDArray[np.int64], spec: GridSpec) -> list[tuple[tuple[int, ...], NDArray[np.intp]]]:
    """Group cells by the object that holds them: (the object's place in the grid of objects, numbers of the cells)."""
    where = cells if spec.shard_shape is None else cells // np.asarray(spec.shard_shape, np.int64)
    if spec.shard_shape is None:
        return [(tuple(w), np.array([i])) for i, w in enumerate(where.tolist())]
    if not len(where):
        return []
    order = np.lexsort(where.T[::-1])
    ordered = where[order]
    first = np.flatnonzero(np.r_[True, (ordered[1:] != ordered[:-1]).any(axis=1)])
    return [(tuple(ordered[f].tolist()), run) for f, run in zip(first.tolist(), np.split(order, first[1:]), strict=True)]


def fetch_runs(
    objects: Objects,
    prefix: str,
    runs: Sequence[CellRun],
    codecs: dict[str, CellCodec],
    out: dict[Address, Any],
    *,
    stored: bool = False,
) -> list[tuple[Address, ZVError | None]]:
    """Read runs of cells, all at once, and decode them into `out`; with `stored` they are only checked, and left encoded.

    Returns
    -------
    list of (address, error)
        Cells that aren't what they should be; the error is None where the object is missing.
    """
    requests: list[Request] = []
    parts: list[tuple[int, CellRun, list[int]]] = []
    for run in runs:
        if run.lengths is None or (len(run.keys) == 1 and run.offsets[0] == 0):
            # an object of its own is read whole: a range would not show that it has become longer
            whole = run.lengths is None or run.crcs is not None
            requests.append((run.path, None if whole else (0, run.lengths[0] if run.lengths else 0)))
            parts.append((0, run, [0]))
            continue
        for start, length, members in coalesce(list(zip(run.offsets, run.lengths, strict=True))):
            requests.append((run.path, (start, length)))
            parts.append((start, run, members))
    bad: list[tuple[Address, ZVError | None]] = []
    checksum = google_crc32c.value
    for data, (start, run, members) in zip(objects.get_many(requests), parts, strict=True):
        array, codec = run.array, codecs[run.array]
        if data is None:
            bad.extend(((array, run.keys[i]), None) for i in members)
            continue
        for i in members:
            at = run.offsets[i] - start
            piece = data if run.lengths is None else data[at : at + run.lengths[i]]
            try:
                if run.lengths is not None and (
                    len(piece) != run.lengths[i] or (run.crcs is not None and checksum(piece) != run.crcs[i])
                ):
                    raise FormatError("the stored bytes are not those of the last commit")
                if not stored:
                    most = None if run.nbytes is None else run.nbytes[i] + FRAME_NBYTES
                    out[array, run.keys[i]] = unframe(codec.decode(piece, most))
                elif run.nbytes is not None and run.crcs is not None:
                    out[array, run.keys[i]] = StoredCell(piece, run.nbytes[i])
                else:
                    out[array, run.keys[i]] = StoredCell(piece, len(unframe(codec.decode(piece))))
            except FormatError as error:
                where = f"{prefix}/{array}" if prefix else array
                bad.append(((array, run.keys[i]), error.at(store=objects.url, array=where, chunk=run.keys[i])))
    return bad
