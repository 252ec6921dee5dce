"""The map of chunks: how many vertices are in each column of them, from the table of chunks alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.spatial.grid import Box
from dask_zv.viz.colours import Guide, Look
from dask_zv.viz.detail import Pair
from dask_zv.viz.occupancy import ChunkCounts, chunk_counts
from dask_zv.xarray_backend.content import Shape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh


_MOST = 1024
"""Cells along an axis: beyond, neighbouring columns are put together."""
_OUTLINED = 64
_LOG_FROM = 30


@dataclass(frozen=True, slots=True, eq=False)
class ChunkDrawing:
    """Chunks and how many vertices they hold."""

    shape: Shape
    chunks: ChunkCounts
    pairs: Sequence[Pair]
    notice: str = ""

    @property
    def title(self) -> str:
        """How many chunks and vertices there are."""
        return f"{int(self.chunks.rows.sum()):,} vertices in {len(self.chunks.rows):,} chunks"

    @property
    def box(self) -> Box:
        """Where the chunks lie."""
        zero = np.zeros(len(self.shape.axes))
        return self.chunks.box if len(self.chunks.rows) else (zero, zero)

    def _columns(self, pair: Pair) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        """Return the vertices of each column (across, up), the number of the first, and how many chunks wide a column is."""
        at = self.chunks.coords[:, list(pair)]
        if not len(at):
            return np.zeros((1, 1), np.int64), np.zeros(2, np.int64), 1
        span = int((at.max(axis=0) - at.min(axis=0)).max()) + 1
        width = -(-span // _MOST)
        at = at // width
        first = at.min(axis=0)
        counts = np.zeros(tuple(at.max(axis=0) - first + 1), np.int64)
        np.add.at(counts, tuple((at - first).T), self.chunks.rows)
        return counts, first * width, width

    def draw(self, ax: Axes, pair: Pair, look: Look, **artist: Any) -> QuadMesh:
        """Add the map to axes; empty columns stay free."""
        counts, first, width = self._columns(pair)
        edges = [
            (first[i] + np.arange(n + 1) * width) * self.chunks.edges[axis] + self.chunks.offset[axis]
            for i, (axis, n) in enumerate(zip(pair, counts.shape, strict=True))
        ]
        outlined = max(counts.shape) <= _OUTLINED
        artist = {**({"edgecolors": "white", "linewidth": 0.5} if outlined else {"rasterized": True}), **artist}
        return ax.pcolormesh(
            *edges,
            np.ma.masked_equal(counts.T, 0),
            cmap=look.colormap("YlGnBu").with_extremes(bad=(0, 0, 0, 0)),
            norm=self._scale(look),
            alpha=look.alpha,
            **artist,
        )

    def _scale(self, look: Look) -> Any:
        counts = np.concatenate([self._columns(p)[0].ravel() for p in self.pairs]).astype(np.float64)
        counts = counts[counts > 0]
        return look.scale(counts, log=len(counts) > 0 and float(counts.max()) >= _LOG_FROM * float(counts.min()))

    def guide(self, look: Look) -> Guide | None:
        """Return the colour bar."""
        from matplotlib.cm import ScalarMappable

        if not look.add_colorbar:
            return None
        label = "vertices per chunk" if len(self.shape.axes) == 2 else "vertices per column of chunks"
        return Guide(label, ScalarMappable(self._scale(look), look.colormap("YlGnBu")), counts=True)


def prepare_chunks(ds: xr.Dataset, shape: Shape, pairs: Sequence[Pair]) -> ChunkDrawing:
    """Return the chunks of a Dataset's vertices; nothing is read.

    Raises
    ------
    InputError
        The Dataset no longer knows of its chunks.
    """
    found = chunk_counts(ds)
    if found is None:
        raise InputError(
            "the Dataset does not know which chunks its vertices are of: plot it as it was opened with engine='zv', or a "
            "selection of it in view='spatial'"
        )
    return ChunkDrawing(shape, found, pairs)
