"""The decoded form of a fragment index: rows of a chunk by fragment, and fragments by row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError

MAX_ROWS = 2**28
"""Rows that one index is expanded to; a range's count is a claim that 16 bytes can make."""


@dataclass(frozen=True, slots=True, eq=False)
class FragmentIndex:
    """The fragments of one chunk.

    Parameters
    ----------
    starts : ndarray of int64, shape (F,)
        First row of each range; -1 marks an explicit fragment.
    counts : ndarray of int64, shape (F,)
        Rows of each fragment.
    explicit_offsets : ndarray of int64, shape (F + 1,)
        Fragment ``f`` lists ``explicit_rows[explicit_offsets[f]:explicit_offsets[f + 1]]``; empty for ranges.
    explicit_rows : ndarray of int64, shape (T,)
        Rows of the explicit fragments, back to back.

    Examples
    --------
    >>> index = FragmentIndex(np.array([0, 3, 3]), np.array([3, 0, 2]), np.zeros(4, int), np.empty(0, int))
    >>> len(index), index.rows(2).tolist(), index.tiles(5)
    (3, [3, 4], True)
    """

    starts: NDArray[np.int64]
    counts: NDArray[np.int64]
    explicit_offsets: NDArray[np.int64]
    explicit_rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.counts)

    def __repr__(self) -> str:
        explicit = int(np.count_nonzero(self.starts < 0))
        return f"FragmentIndex({len(self)} fragments, {explicit} of them explicit)"

    def rows(self, f: int) -> NDArray[np.int64]:
        """Return the rows of fragment ``f`` in its order, shape (counts[f],).

        Raises
        ------
        IndexError
            If there is no fragment ``f``.
        FormatError
            If the fragment claims more than `MAX_ROWS` rows.
        """
        if not 0 <= f < len(self):
            raise IndexError(f"no fragment {f} in a chunk of {len(self)}")
        start, count = int(self.starts[f]), int(self.counts[f])
        if start < 0:
            return self.explicit_rows[self.explicit_offsets[f] : self.explicit_offsets[f + 1]]
        if count > MAX_ROWS:
            raise FormatError(f"fragment {f} claims {count} rows, more than the {MAX_ROWS} that are expanded")
        return np.arange(start, start + count, dtype=np.int64)

    def all_rows(self, *, max_rows: int = MAX_ROWS) -> NDArray[np.int64]:
        """Return the rows of all fragments in fragment order, shape (counts.sum(),).

        Parameters
        ----------
        max_rows : int
            Refuse to expand to more rows than this.

        Raises
        ------
        FormatError
            If the fragments claim more than `max_rows` rows together.
        """
        claimed = float(self.counts.sum(dtype=np.float64))
        if claimed > max_rows:
            raise FormatError(f"fragments claim {claimed:.0f} rows, more than the {max_rows} that are expanded")
        total = int(claimed)
        rows = np.arange(total, dtype=np.int64)
        if self.tiles(total):
            return rows
        rows += np.repeat(self.starts - (np.cumsum(self.counts) - self.counts), self.counts)
        if len(self.explicit_rows):
            rows[np.repeat(self.starts < 0, self.counts)] = self.explicit_rows
        return rows

    def fragment_of_rows(self, n_rows: int) -> NDArray[np.int64]:
        """Return the fragment that each row of the chunk belongs to, shape (n_rows,); -1 where there is none.

        Raises
        ------
        FormatError
            If a row belongs to several fragments, or a fragment names a row beyond `n_rows`.
        """
        if self.tiles(n_rows):
            return np.repeat(np.arange(len(self), dtype=np.int64), self.counts)
        beyond = (self.starts >= 0) & (self.counts > 0) & (self.starts + self.counts > n_rows)
        if beyond.any():
            f = int(np.argmax(beyond))
            last = self.starts[f] + self.counts[f] - 1
            raise FormatError(f"fragment {f} goes to row {last} of a chunk of {n_rows} rows")
        rows = self.all_rows()
        owners = np.repeat(np.arange(len(self), dtype=np.int64), self.counts)
        if len(rows) and int(rows.max()) >= n_rows:
            at = int(np.argmax(rows >= n_rows))
            raise FormatError(f"fragment {owners[at]} names row {rows[at]} of a chunk of {n_rows} rows")
        found = np.full(n_rows, -1, dtype=np.int64)
        found[rows] = owners
        clash = found[rows] != owners
        if clash.any():
            at = int(np.argmax(clash))
            raise FormatError(f"row {rows[at]} belongs to fragments {owners[at]} and {found[rows[at]]}")
        return found

    def tiles(self, n_rows: int) -> bool:
        """Tell whether the fragments are ranges, each from where the last ended, that cover exactly `n_rows` rows."""
        if float(self.counts.sum(dtype=np.float64)) != n_rows:
            return False
        in_place = self.starts == np.cumsum(self.counts) - self.counts
        return bool(in_place.all()) or bool((in_place | ((self.counts == 0) & (self.starts >= 0))).all())
