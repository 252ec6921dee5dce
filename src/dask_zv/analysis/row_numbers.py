"""Rows of a level that are asked for by number, in reading order: which chunks and which rows of a block they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.level.contents import LevelContents
from dask_zv.level.object_index import chosen_ids
from dask_zv.read.columns import LevelRows, rows_in
from dask_zv.spatial.grid import as_box


@dataclass(frozen=True, slots=True, eq=False)
class RowsOfBlock:
    """Rows of a block that are wanted, numbered from its first one on.

    Attributes
    ----------
    of_chunks : ndarray of int64, shape (n,)
        Rows that each chunk must have for the numbers to mean anything.
    numbers : ndarray of int64
        Grouped by chunk; in a chunk in any order, maybe several times. Of uint8, a bit for each row, where they ascend.
    """

    of_chunks: NDArray[np.int64]
    numbers: NDArray[Any]

    @classmethod
    def of(cls, of_chunks: NDArray[np.int64], numbers: NDArray[np.int64]) -> RowsOfBlock:
        """Return the rows `numbers` of chunks that have `of_chunks` rows, in the form that is smaller to send."""
        if (numbers[1:] <= numbers[:-1]).any():
            return cls(of_chunks, numbers)
        bits = np.zeros(int(of_chunks.sum()), bool)
        bits[numbers] = True
        return cls(of_chunks, np.packbits(bits))

    def among(self, there: NDArray[np.int64]) -> NDArray[np.intp]:
        """Return the places of the wanted rows among those that are there (ascending)."""
        if self.numbers.dtype == np.uint8:
            bits = np.unpackbits(self.numbers, count=int(self.of_chunks.sum())).astype(bool)
            return np.flatnonzero(bits[there])
        at = np.searchsorted(there, self.numbers)
        out: NDArray[np.intp] = at[np.append(there, -1)[at] == self.numbers]
        return out


@dataclass(frozen=True, slots=True, eq=False)
class RowNumbers:
    """Rows of a level, by chunk.

    Attributes
    ----------
    counts : ndarray of int64, shape (n,)
        Rows that are wanted of each chunk of the level.
    offsets : ndarray of int64, shape (n + 1,)
        First row of each chunk.
    numbers : ndarray of int64, optional
        Grouped by chunk; None for a run of neighbouring rows, which may be all of a large level.
    starts : ndarray of int64, shape (n,)
        Where each chunk's begin in `numbers`; of a run, its first row in each chunk.
    """

    counts: NDArray[np.int64]
    offsets: NDArray[np.int64]
    numbers: NDArray[np.int64] | None
    starts: NDArray[np.int64]

    def of_chunk(self, chunk: int) -> NDArray[np.int64]:
        """Return the numbers of the rows that are wanted of a chunk."""
        start, count = int(self.starts[chunk]), int(self.counts[chunk])
        if self.numbers is None:
            return np.arange(start, start + count, dtype=np.int64)
        return self.numbers[start : start + count]

    def block(self, chunks: NDArray[np.intp], rows: NDArray[np.int64]) -> RowsOfBlock | None:
        """Return those of some chunks (ascending), None where that is all in their order."""
        of_chunks = rows[chunks]
        if self.numbers is None and (self.counts[chunks] == of_chunks).all():
            return None
        numbers = np.concatenate([self.of_chunk(c) for c in chunks.tolist()])
        local = np.cumsum(of_chunks) - of_chunks
        numbers = numbers + np.repeat(local - self.offsets[chunks], self.counts[chunks])
        total = int(of_chunks.sum())
        if len(numbers) == total and (numbers == np.arange(total)).all():
            return None
        return RowsOfBlock.of(of_chunks, numbers)


def number_rows(rows: slice | NDArray[np.int64], of_chunks: NDArray[np.int64]) -> RowNumbers:
    """Return rows (numbers in reading order) by the chunks that they are in.

    Parameters
    ----------
    rows : slice or ndarray of int64
    of_chunks : ndarray of int64, shape (n,)
        Rows of each chunk of the level.

    Raises
    ------
    InputError
        No integers, or out of range.
    """
    offsets = np.r_[0, np.cumsum(of_chunks)].astype(np.int64)
    total = int(offsets[-1])
    if isinstance(rows, slice):
        start, stop, step = rows.indices(total)
        if step == 1:
            first = np.clip(offsets[:-1], start, max(start, stop))
            counts = np.clip(offsets[1:], start, max(start, stop)) - first
            return RowNumbers(counts, offsets, None, first)
        numbers = np.arange(start, stop, step, dtype=np.int64)
    else:
        numbers = np.asarray(rows)
        if numbers.ndim != 1 or (len(numbers) and numbers.dtype.kind not in "iu"):
            raise InputError(f"rows are a slice or integers, one dimension of them, not {numbers.dtype} {numbers.shape}")
        numbers = numbers.astype(np.int64)
    if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < total:
        raise InputError(f"rows {numbers.min()} to {numbers.max()} are asked for, the level has 0 to {total - 1}")
    chunk = np.searchsorted(offsets, numbers, side="right") - 1
    if (chunk[1:] < chunk[:-1]).any():
        order = np.argsort(chunk, kind="stable")
        numbers, chunk = numbers[order], chunk[order]
    counts = np.bincount(chunk, minlength=len(of_chunks)).astype(np.int64)
    return RowNumbers(counts, offsets, numbers, np.cumsum(counts) - counts)


def looked_up(
    level: LevelContents, rows: slice | NDArray[np.int64] | None, bbox: Any, objects: Any
) -> slice | NDArray[np.int64] | None:
    """Return the rows that are in a box and of some objects, too; positions of the chunks that the box cuts are read."""
    if bbox is None and objects is None:
        return rows
    if objects is not None and not level.source.schema.has_objects:
        raise InputError(f"{level.url} has no objects: leave out objects=")
    columns = LevelRows(level.source, level.chunks, level.offset)
    box = None if bbox is None else as_box(bbox, level.source.schema.grid.ndim)
    found = rows_in(columns, box, None if objects is None else chosen_ids(objects).tolist())
    if rows is None:
        return found
    numbers = np.arange(len(columns), dtype=np.int64)
    given = numbers[rows] if isinstance(rows, slice) else np.asarray(rows, np.int64)
    return given[np.isin(given, numbers[found])]
