"""Columns of a ragged table by row number: what lazy arrays are made of.

The rows lie in *cells* (chunks, objects), one behind the other. Asking for rows reads only the cells that hold them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError

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

    @property
    def where(self) -> str:
        """URL of the level, for errors."""
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

        Raises
        ------
        FormatError
            Cells hold other numbers of rows than the level says.
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
                    out = self._room(name, int(base[-1]), values)
                if values.shape[1:] != out.shape[1:]:
                    raise FormatError(
                        f"column {name!r} has {values.shape[1:] or 'one'} values a row in some cells (chunks, or objects) and "
                        f"{out.shape[1:] or 'one'} in others: they are damaged or were exchanged; restore them",
                        store=self.where,
                    )
                if filled + len(values) <= base[high]:
                    out[filled : filled + len(values)] = values
                filled += len(values)
            if filled != base[high]:
                raise FormatError(
                    f"column {name!r} has {filled - int(base[low]):,} rows in the cells {int(cells[low]):,} to "
                    f"{int(cells[high - 1]):,} (chunks, or objects), which hold {int(base[high] - base[low]):,}: something in "
                    "them is damaged or was changed; open the store again, then restore it",
                    store=self.where,
                )
        assert out is not None
        if wanted is None:
            part: NDArray[Any] = out[start - int(offsets[first]) : stop - int(offsets[first]) : step]
            return part
        at = np.searchsorted(cells, of_row)
        picked: NDArray[Any] = out[base[at] + wanted - offsets[of_row]]
        return picked

    def _room(self, name: str | int, rows: int, like: NDArray[Any]) -> NDArray[Any]:
        try:
            return np.empty((rows, *like.shape[1:]), like.dtype)
        except MemoryError as error:
            nbytes = rows * like.dtype.itemsize * int(np.prod(like.shape[1:]))
            raise FormatError(
                f"column {name!r} has {rows:,} rows by what the level says, {nbytes / 1e9:,.1f} GB, for which there is no "
                "memory: read a part, or in chunks (chunks={}); if that is more than was written, a document is damaged",
                store=self.where,
            ) from error

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
