"""Densities: vertices, or sums and means of a column of theirs, on a regular grid of cells.

A task counts a block of chunks and returns the cells that it has vertices in; a tree adds these up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask.delayed import Delayed
from dask.task_spec import List
from numpy.typing import NDArray

from dask_zv.analysis.cells import CellGrid, make_cells
from dask_zv.analysis.chunks import ChunkBlock, ChunkReader, plan_chunk_blocks
from dask_zv.errors import InputError
from dask_zv.graph.builder import GraphBuilder, reduce_tree, refuse_expressions
from dask_zv.graph.run import check_reachable, compute_one
from dask_zv.level.contents import LevelContents
from dask_zv.spatial.grid import as_box
from dask_zv.storage.handles import StoreHandle

_FAN_IN = 8  # parts may be whole grids
STATISTICS = ("count", "sum", "mean")


@dataclass(frozen=True, slots=True, eq=False)
class _Partial:
    """Some vertices' part of a grid: `counts` and `sums` of the cells `codes` (ascending), of all cells where that is None."""

    codes: NDArray[np.int64] | None
    counts: NDArray[np.int64] | None
    sums: NDArray[np.float64] | None
    outside: int
    """Vertices in no cell."""


@dataclass(frozen=True, slots=True, eq=False)
class _Binning:
    """What tasks do: count a block, add parts up, make the answer of their sum."""

    reader: ChunkReader
    cells: CellGrid
    statistic: str
    weights: int | str | None
    """The axis (by number) or attribute that is added up."""
    covers: bool
    """The metadata promises that all vertices are inside."""
    where: str

    def block(self, block: ChunkBlock) -> _Partial:
        geometry, _ = self.reader.read(block)
        codes, inside = self.cells.codes(geometry.positions)
        weights = None
        if isinstance(self.weights, int):
            weights = geometry.positions[inside, self.weights]
        elif self.weights is not None:
            weights = geometry.attributes[self.weights][inside]
        size, outside = self.cells.size, int(len(inside) - len(codes))
        occupied: NDArray[np.int64] | None = None
        if size > 2 * len(codes):  # few of the cells
            occupied, codes = np.unique(codes, return_inverse=True)
            size = len(occupied)
        counts: NDArray[np.int64] | None = None
        sums: NDArray[np.float64] | None = None
        if self.statistic != "sum":
            counts = np.bincount(codes, minlength=size).astype(np.int64, copy=False)
        if weights is not None:
            sums = np.bincount(codes, weights.astype(np.float64, copy=False), minlength=size).astype(np.float64, copy=False)
        return _Partial(occupied, counts, sums, outside)

    def add(self, parts: Sequence[_Partial]) -> _Partial:
        outside = sum(p.outside for p in parts)
        occupied = [p.codes for p in parts if p.codes is not None]
        size = self.cells.size
        codes: NDArray[np.int64] | None = None
        places: list[Any] = [slice(None) if p.codes is None else p.codes for p in parts]
        if len(occupied) == len(parts) and 2 * sum(map(len, occupied)) < size:
            codes, place = np.unique(np.concatenate([np.zeros(0, np.int64), *occupied]), return_inverse=True)
            size = len(codes)
            places = np.split(place, np.cumsum([len(c) for c in occupied])[:-1]) if occupied else []
        counts = None if self.statistic == "sum" else np.zeros(size, np.int64)
        sums = None if self.weights is None else np.zeros(size, np.float64)
        for part, at in zip(parts, places, strict=True):
            if counts is not None and part.counts is not None:
                counts[at] += part.counts  # codes of a part are distinct
            if sums is not None and part.sums is not None:
                sums[at] += part.sums
        return _Partial(codes, counts, sums, outside)

    def finish(self, parts: Sequence[_Partial]) -> NDArray[Any]:
        total, cells = self.add(parts), self.cells
        if self.covers and total.outside:
            raise InputError(
                f"{total.outside:,} vertices lie outside of the bounds in the metadata of the store, "
                f"{[(float(e[0]), float(e[-1])) for e in cells.edges]}: pass bounds=",
                store=self.where,
            )
        counts, sums = _whole(total.codes, total.counts, cells.size), _whole(total.codes, total.sums, cells.size)
        values = counts if self.statistic == "count" else sums
        if self.statistic == "mean":
            assert counts is not None
            assert sums is not None
            values = np.full(cells.size, np.nan)
            np.divide(sums, counts, out=values, where=counts > 0)
        assert values is not None
        return values.reshape(cells.shape)


def _whole(codes: NDArray[np.int64] | None, values: NDArray[Any] | None, size: int) -> NDArray[Any] | None:
    if codes is None or values is None:
        return values
    out = np.zeros(size, values.dtype)
    out[codes] = values
    return out


def _same(values: NDArray[Any]) -> NDArray[Any]:
    return values


@dataclass(frozen=True, slots=True, eq=False)
class DensityPlan:
    """The blocks of a density over the axes `dims`; nothing was read of them yet. Values are int64 counts, or float64."""

    binning: _Binning
    blocks: list[ChunkBlock]
    dims: tuple[str, ...]
    handle: StoreHandle

    @property
    def cells(self) -> CellGrid:
        return self.binning.cells

    @property
    def statistic(self) -> str:
        return self.binning.statistic

    def _graph(self) -> tuple[GraphBuilder, str]:
        builder = GraphBuilder("zv-density")
        own = builder.share("binning", self.binning)
        blocks = [builder.add(builder.key("block", i), _Binning.block, own, b) for i, b in enumerate(self.blocks)]
        parts = reduce_tree(
            blocks,
            lambda depth, i, group: builder.add(builder.key("add", f"{depth}-{i}"), _Binning.add, own, List(*group)),
            fan_in=_FAN_IN,
            until=_FAN_IN,
        )
        return builder, str(builder.add(builder.key("finish"), _Binning.finish, own, List(*parts)).key)

    def delayed(self) -> Delayed:
        """Return the values as a Delayed."""
        builder, end = self._graph()
        return builder.finish(end)

    def array(self) -> Any:
        """Return the values as a Dask array of one chunk."""
        import dask.array as da

        refuse_expressions("a lazy density")
        builder, end = self._graph()
        shape, dtype = self.cells.shape, np.dtype(np.int64 if self.statistic == "count" else np.float64)
        chunks, meta = tuple((n,) for n in shape), np.empty((0,) * len(shape), dtype)
        return da.map_blocks(_same, builder.finish(end), name=builder.key("values"), chunks=chunks, dtype=dtype, meta=meta)

    def compute(self) -> NDArray[Any]:
        """Return the values now: on the active scheduler, or at once where there is one block."""
        if len(self.blocks) <= 1:
            return self.binning.finish([self.binning.block(b) for b in self.blocks])
        check_reachable(self.handle)
        values: NDArray[Any] = compute_one(self.delayed())
        return values


def plan_density(
    level: LevelContents,
    *,
    spacing: float | Sequence[float] | None = None,
    shape: int | Sequence[int] | None = None,
    bounds: Any = None,
    dims: Sequence[str] | str | None = None,
    weights: str | None = None,
    statistic: str | None = None,
    objects: Any = None,
    bbox: Any = None,
    rows: slice | NDArray[np.int64] | None = None,
) -> DensityPlan:
    """Plan the density that ``ds.zv.density`` documents, of some objects, a box and some rows (by number in reading order)."""
    names = level.store.axes
    chosen = (dims,) if isinstance(dims, str) else names if dims is None else tuple(dims)
    unknown = [d for d in chosen if d not in names]
    if unknown or not chosen or len(set(chosen)) != len(chosen):
        raise InputError(f"dims must be different axes of {', '.join(names)}, each once, not {dims!r}")
    axes = [names.index(d) for d in chosen]
    if statistic is None:
        statistic = "count" if weights is None else "sum"
    if statistic not in STATISTICS:
        raise InputError(f"statistic is one of {', '.join(map(repr, STATISTICS))}, not {statistic!r}")
    if (statistic == "count") != (weights is None):
        wants = "takes no weights=" if weights is not None else "needs weights=, the name of an attribute or an axis"
        raise InputError(f"statistic={statistic!r} {wants}")
    column = _column(level, weights)
    if bounds is None:
        low, high = _bounds(level, axes)
    else:
        low, high = as_box(bounds, len(chosen), f"bounds of the axes {', '.join(chosen)}")
    cells = make_cells(axes, chosen, low, high, spacing, shape)
    reads = plan_chunk_blocks(
        level,
        bbox=bbox,
        objects=objects,
        rows=rows,
        attributes=[column] if isinstance(column, str) else [],
        whole=False,
        within=None if bounds is None else cells.box(len(names)),
    )
    binning = _Binning(reads.reader, cells, statistic, column, bounds is None, level.url)
    return DensityPlan(binning, reads.blocks, tuple(chosen), level.source.place.handle)


def _column(level: LevelContents, weights: str | None) -> int | str | None:
    """Return the axis (by number) or attribute that is added up."""
    if weights is None:
        return None
    axes = level.store.axes
    if weights in axes:
        return axes.index(weights)
    schema = next((a for a in level.source.schema.attributes if a.name == weights), None)
    if schema is None and weights not in level.attributes:
        known = ", ".join((*level.attributes, *axes))
        raise InputError(f"weights is an attribute or an axis: there is no {weights!r}, the level has {known}")
    dtype = np.asarray(level.source.chunk_attribute[1]).dtype if schema is None and level.source.chunk_attribute else None
    dtype = schema.value_dtype if schema is not None else dtype
    channels = None if schema is None else schema.channels
    if dtype is None or dtype.kind not in "biuf" or channels is not None:
        kind = f"{dtype}" if channels is None else f"{dtype} with {channels} channels"
        raise InputError(f"weights are one number to a vertex, attribute {weights!r} is {kind}")
    return weights


def _bounds(level: LevelContents, axes: Sequence[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the bounds of the store's metadata: of the positions as they are stored and read, which may be less exact."""
    low, high = (np.asarray(c, np.float64)[list(axes)] for c in level.store.metadata.bounds)
    dtype = level.source.schema.dtype
    low = np.minimum(low, low.astype(dtype).astype(np.float64))
    high = np.maximum(high, high.astype(dtype).astype(np.float64))
    if level.offset is not None:
        shift = np.asarray(level.offset)[list(axes)]
        low, high = low + shift, high + shift
    return low, high
