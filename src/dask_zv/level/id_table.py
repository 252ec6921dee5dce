"""The table of ids in the grid generation: which object has which row, found without reading all of it where it is ordered."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError
from dask_zv.level.object_tables import ObjectTables, decoding
from dask_zv.level.source import LevelSource

_ARRAY = "object_index/object_ids"
_FEW = 16
"""Ids that are looked up one by one."""
_KEPT = 8
"""Chunks of ids that are remembered."""


class IdTable:
    """The ids of a level's objects, row by row.

    Parameters
    ----------
    source : LevelSource
    tables : ObjectTables
    count : int
        Rows.
    ordered : bool
        The metadata says that the ids ascend.
    """

    def __init__(self, source: LevelSource, tables: ObjectTables, count: int, *, ordered: bool) -> None:
        self._source = source
        self._tables = tables
        self._count = count
        self._ordered = ordered
        self._chunks: dict[int, NDArray[np.int64]] = {}

    def read(self) -> NDArray[np.int64]:
        """Return all ids.

        Raises
        ------
        FormatError
            The table does not have so many distinct ids from 0 on.
        """
        ids = self._rows(0, self._count)
        if not (ids[1:] > ids[:-1]).all():
            ordered = np.sort(ids)
            twice = np.flatnonzero(ordered[1:] == ordered[:-1])
            if len(twice):
                raise FormatError(f"object_ids has id {ordered[twice[0]]} twice", store=self._source.where(), array=_ARRAY)
        return ids

    def find(self, ids: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Return the rows of a few ids.

        None where they are many, one of them is not there, or the table is in no order: then all of it is to be read.
        """
        if not self._ordered or not self._count or not 0 < len(ids) <= _FEW:
            return None
        out: list[int] = []
        for wanted in ids.tolist():
            row = self._find_one(wanted)
            if row is None:
                return None
            out.append(row)
        return np.array(out, np.int64)

    def _find_one(self, wanted: int) -> int | None:
        step = int(self._tables.open(_ARRAY).chunks[0])
        # distinct ids from 0 on, ascending: none is less than its row, and most tables have no gaps
        low, high = 0, min(wanted, self._count - 1) // step
        probe = high
        while low <= high:
            ids = self._chunk(probe, step)
            if not (ids[1:] > ids[:-1]).all():
                return None
            if wanted < ids[0]:
                high = probe - 1
            elif wanted > ids[-1]:
                low = probe + 1
            else:
                at = int(np.searchsorted(ids, wanted))
                return probe * step + at if ids[at] == wanted else None
            probe = (low + high) // 2
        return None

    def _chunk(self, number: int, step: int) -> NDArray[np.int64]:
        if number not in self._chunks:
            while len(self._chunks) >= _KEPT:
                del self._chunks[next(iter(self._chunks))]
            self._chunks[number] = self._rows(number * step, min((number + 1) * step, self._count))
        return self._chunks[number]

    def _rows(self, start: int, stop: int) -> NDArray[np.int64]:
        table = self._tables.open(_ARRAY)
        if table.shape != (self._count,) or table.dtype.kind not in "iu":
            raise FormatError(
                f"object_ids is {table.dtype} {table.shape}, object_index counts {self._count} objects",
                store=self._source.where(), array=_ARRAY,
            )  # fmt: skip
        ids = decoding(self._source, _ARRAY, lambda: np.asarray(table[start:stop])).astype(np.int64)
        if (ids < 0).any():  # ours are filled with -1, so that a chunk that was lost isn't taken for ids
            bad = int(np.argmax(ids < 0))
            raise FormatError(
                f"row {start + bad} of object_ids is {ids[bad]}, ids count from 0: a chunk of it is lost, or another writer's "
                "ids are negative, which can't be read",
                store=self._source.where(), array=_ARRAY,
            )  # fmt: skip
        return ids
