"""Room for the rows of a whole level: taken once, by the numbers of the catalog, and filled by tasks of this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.config import settings
from dask_zv.format.keys import coords_to_keys
from dask_zv.geometry.schema import AttributeSchema
from dask_zv.level.source import LevelSource
from dask_zv.read.decode import BlockRows, FragmentRows, decode_block, fetch, join_columns
from dask_zv.spatial.chunks import runs_of
from dask_zv.storage.layout import Blobs


@dataclass(frozen=True, slots=True, eq=False)
class Room:
    """Arrays of N rows: positions (N, D), and columns of those attributes whose width is known, as stored."""

    positions: NDArray[Any]
    columns: Mapping[str, NDArray[Any]]
    rows: NDArray[np.int64]  # of each chunk

    @classmethod
    def of(cls, source: LevelSource, attributes: Sequence[AttributeSchema], rows: NDArray[np.int64]) -> Room | None:
        """Return room for chunks that have so many rows, None where there is none: then a block says what is wrong."""
        n = int(rows.sum())
        known = [a for a in attributes if not a.any_width]
        try:
            positions = np.empty((n, source.schema.grid.ndim), source.schema.dtype)
            columns = {a.name: np.empty((n,) if a.channels is None else (n, a.channels), a.dtype) for a in known}
        except MemoryError:
            return None
        return cls(positions, columns, rows)

    def part(self, start: int, stop: int) -> Room:
        """Return the room of some of the chunks."""
        low, high = int(self.rows[:start].sum()), int(self.rows[:stop].sum())
        columns = {name: values[low:high] for name, values in self.columns.items()}
        return Room(self.positions[low:high], columns, self.rows[start:stop])

    def fill(
        self, source: LevelSource, blobs: Blobs, coords: NDArray[np.int64], attributes: Sequence[AttributeSchema]
    ) -> tuple[BlockRows, bool]:
        """Read the chunks (n, K) that this is the room of, some at a time; see :meth:`put`."""
        keys, sizes = coords_to_keys(coords), self.rows * source.schema.row_bytes
        blocks: list[BlockRows] = []
        whole = True

        def step(start: int, stop: int) -> tuple[BlockRows, bool]:  # whose blobs are gone before the next ones are read
            found = fetch(source, blobs, keys[start:stop], attributes)
            return self.part(start, stop).put(decode_block(source, blobs, coords[start:stop], attributes, found))

        for run in runs_of((sizes, settings().read_step_bytes)):
            block, fits = step(*run)
            blocks.append(block)
            whole &= fits
        fragments = FragmentRows.join([b.fragments for b in blocks])
        names = [name for name in blocks[0].columns if not whole or name not in self.columns]
        joined = {name: join_columns(source, name, [b.columns[name] for b in blocks]) for name in names}
        if whole:
            return BlockRows(self.positions, {**joined, **self.columns}, fragments), True
        return BlockRows(np.concatenate([b.positions for b in blocks]), joined, fragments), False

    def put(self, block: BlockRows) -> tuple[BlockRows, bool]:
        """Return a block whose rows are these arrays, and True; as it is, where a chunk has other rows than it should.

        That is so after an edit, and where fragments overlap.
        """
        shapes = {name: values.shape for name, values in self.columns.items()}
        same = np.array_equal(block.fragments.rows, self.rows)
        if not same or any(block.columns[name].shape != shape for name, shape in shapes.items()):
            return block, False
        self.positions[:] = block.positions
        for name, values in self.columns.items():
            values[:] = block.columns[name]
        return replace(block, positions=self.positions, columns={**block.columns, **self.columns}), True
