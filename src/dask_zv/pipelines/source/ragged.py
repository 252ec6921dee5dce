"""Columns of a ragged table by row number: what lazy arrays are made of.

The rows lie in *cells* (chunks, objects), one behind the other. Asking for rows reads only the cells that hold them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["RaggedColumns"]

_RUN_CELLS = 1024
_RUN_BYTES = 64 << 20


class RaggedColumns:
    """Rows in cells; a subclass says how many each cell has, and reads the columns of some cells."""

    def __init__(self) -> None:
        self._offsets: NDArray[np.int64] | None = None

    @property
    def row_bytes(self) -> int:
        """Bytes of a stored row, about."""
        raise NotImplementedError

    @property
    def counts(self) -> NDArray[np.int64]:
        """Rows of each cell, shape (n,)."""
        raise NotImplementedError

    def _read_cells(self, name: str | int, cells: NDArray[np.intp]) -> Sequence[NDArray[Any]]:
        """Return a column of some cells (ascending), in parts of any size, one behind the other."""
        raise NotImplementedError

    def _empty(self, name: str | int) -> NDArray[Any]:
        """Return a column of no rows; nothing is read for it."""
        raise NotImplementedError

    @property
    def offsets(self) -> NDArray[np.int64]:
        """First row of each cell, and the number of rows at the end; shape (n + 1,)."""
        if self._offsets is None:
            self._offsets = np.r_[0, np.cumsum(self.counts)].astype(np.int64)
        return self._offsets

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def column(self, name: str | int, rows: slice | NDArray[np.int64]) -> NDArray[Any]:
        """Return rows of one column.

        Parameters
        ----------
        name : int or str
        rows : slice with a positive step, or int64 array of row numbers
        """
        offsets = self.offsets
        wanted: NDArray[np.int64] | None = None
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if stop <= start:
                return self._empty(name)
            first, last = self.cells_between(start, stop)
            cells = np.arange(first, last)
        else:
            if not len(rows):
                return self._empty(name)
            wanted = np.asarray(rows, np.int64)
            of_row = np.searchsorted(offsets, wanted, side="right") - 1
            cells = np.unique(of_row)
        out: NDArray[Any] | None = None
        filled = 0
        base = np.concatenate([[0], np.cumsum(self.counts[cells])]).astype(np.int64, copy=False)
        for low, high in self._runs(cells):
            for values in self._read_cells(name, cells[low:high]):
                if out is None:
                    out = np.empty((int(base[-1]), *values.shape[1:]), values.dtype)
                out[filled : filled + len(values)] = values
                filled += len(values)
        assert out is not None
        if wanted is None:
            part: NDArray[Any] = out[start - int(offsets[first]) : stop - int(offsets[first]) : step]
            return part
        at = np.searchsorted(cells, of_row)
        picked: NDArray[Any] = out[base[at] + wanted - offsets[of_row]]
        return picked

    def cells_between(self, start: int, stop: int) -> tuple[int, int]:
        """Return the first cell, and the one after the last, that hold the rows from `start` to `stop`."""
        first = int(np.searchsorted(self.offsets, start, side="right")) - 1
        last = int(np.searchsorted(self.offsets, stop, side="left"))
        return first, last

    def _runs(self, cells: NDArray[np.intp]) -> Iterator[tuple[int, int]]:
        """Cut cells into runs of bounded size, so that no more than a run's blobs are in memory beside the answer."""
        size = self.counts[cells] * self.row_bytes
        low = total = 0
        for i, nbytes in enumerate(size.tolist()):
            if i > low and (total + nbytes > _RUN_BYTES or i - low >= _RUN_CELLS):
                yield low, i
                low, total = i, 0
            total += nbytes
        yield low, len(cells)
