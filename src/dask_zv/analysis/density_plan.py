"""The plan of a density: what a task makes of a block of chunks, and how the parts are added up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask.delayed import Delayed
from dask.task_spec import DataNode, List, TaskRef
from numpy.typing import NDArray

from dask_zv.analysis.cells import CellGrid, corners_of, make_cells
from dask_zv.analysis.chunks import ChunkBlock, ChunkReader, plan_chunk_blocks
from dask_zv.errors import InputError, escaped
from dask_zv.graph.arrays import refuse_expressions
from dask_zv.graph.builder import GraphBuilder
from dask_zv.graph.run import check_reachable, compute_one
from dask_zv.level.contents import LevelContents
from dask_zv.storage.handles import StoreHandle

_FAN = 8
"""Partial results that a task adds up."""
STATISTICS = ("count", "sum", "mean")


@dataclass(frozen=True, slots=True, eq=False)
class Density:
    """A grid of cells with a value each.

    Attributes
    ----------
    values : ndarray, shape as the grid's
        int64 counts, or float64.
    edges : tuple of ndarray of float64
        Along each axis of `values`, one more than its cells.
    dims : tuple of str
        Names of the axes.
    statistic : str
    weights : str, optional
        The column that was added up.
    """

    values: NDArray[Any]
    edges: tuple[NDArray[np.float64], ...]
    dims: tuple[str, ...]
    statistic: str
    weights: str | None = None

    @property
    def centres(self) -> tuple[NDArray[np.float64], ...]:
        """Centres of the cells along each axis."""
        return tuple((e[1:] + e[:-1]) / 2 for e in self.edges)

    def __repr__(self) -> str:
        what = self.statistic if self.weights is None else f"{self.statistic} of {self.weights}"
        sizes = " x ".join(f"{n:,} {name}" for name, n in zip(self.dims, self.values.shape, strict=True))
        return escaped(f"<dask_zv.Density: {what} in {sizes} cells>")


@dataclass(frozen=True, slots=True, eq=False)
class _Partial:
    """Some vertices' part of a grid.

    Attributes
    ----------
    codes : ndarray of int64, shape (m,), optional
        The cells that have any, ascending; None where all cells are there.
    counts, sums : ndarray, shape (m,) or (cells,), optional
        Those that the statistic needs.
    outside : int
        Vertices in no cell.
    """

    codes: NDArray[np.int64] | None
    counts: NDArray[np.int64] | None
    sums: NDArray[np.float64] | None
    outside: int


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """What is done with every block."""

    cells: CellGrid
    statistic: str
    weights: int | str | None

    def block(self, reader: ChunkReader, block: ChunkBlock) -> _Partial:
        """Return a block's part."""
        geometry, _ = reader.read(block)
        codes, inside = self.cells.codes(geometry.positions)
        weights = None
        if isinstance(self.weights, int):
            weights = geometry.positions[inside, self.weights]
        elif self.weights is not None:
            weights = geometry.attributes[self.weights][inside]
        size, outside = self.cells.size, int(len(inside) - len(codes))
        dense = size <= 2 * len(codes)
        occupied: NDArray[np.int64] | None = None
        if not dense:
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
        """Return the sum of parts."""
        outside = sum(p.outside for p in parts)
        occupied = [p.codes for p in parts if p.codes is not None]
        size = self.cells.size
        if len(occupied) == len(parts) and 2 * sum(map(len, occupied)) < size:
            codes, place = np.unique(np.concatenate([np.zeros(0, np.int64), *occupied]), return_inverse=True)
            ends = np.cumsum([len(c) for c in occupied])
            places: list[Any] = np.split(place, ends[:-1]) if len(ends) else []
            return _Partial(codes, *self._sums(parts, places, len(codes)), outside)
        return _Partial(None, *self._sums(parts, [slice(None) if p.codes is None else p.codes for p in parts], size), outside)

    def _sums(
        self, parts: Sequence[_Partial], places: Sequence[Any], size: int
    ) -> tuple[NDArray[np.int64] | None, NDArray[np.float64] | None]:
        counts = None if self.statistic == "sum" else np.zeros(size, np.int64)
        sums = None if self.weights is None else np.zeros(size, np.float64)
        for part, place in zip(parts, places, strict=True):
            if counts is not None and part.counts is not None:
                counts[place] += part.counts  # codes of a part are distinct
            if sums is not None and part.sums is not None:
                sums[place] += part.sums
        return counts, sums


@dataclass(frozen=True, slots=True, eq=False)
class _Finish:
    """From the sum of all parts to the answer."""

    task: _Task
    dims: tuple[str, ...]
    weights: str | None
    covers: bool
    where: str

    def __call__(self, parts: Sequence[_Partial]) -> Density:
        task, cells = self.task, self.task.cells
        total = task.add(parts)
        if self.covers and total.outside:
            raise InputError(
                f"{total.outside:,} vertices lie outside of the bounds that the store's metadata gives, "
                f"{[(float(e[0]), float(e[-1])) for e in cells.edges]}: pass bounds=",
                store=self.where,
            )
        counts, sums = _whole(total.codes, total.counts, cells.size), _whole(total.codes, total.sums, cells.size)
        values = counts if task.statistic == "count" else sums
        if task.statistic == "mean":
            assert counts is not None
            assert sums is not None
            values = np.full(cells.size, np.nan)
            np.divide(sums, counts, out=values, where=counts > 0)
        assert values is not None
        return Density(values.reshape(cells.shape), cells.edges, self.dims, task.statistic, self.weights)


def _whole(codes: NDArray[np.int64] | None, values: NDArray[Any] | None, size: int) -> NDArray[Any] | None:
    if codes is None or values is None:
        return values
    out = np.zeros(size, values.dtype)
    out[codes] = values
    return out


def _values(density: Density) -> NDArray[Any]:
    return density.values


@dataclass(frozen=True, slots=True, eq=False)
class DensityPlan:
    """The blocks of a density; nothing was read of them yet."""

    task: _Task
    reader: ChunkReader
    blocks: list[ChunkBlock]
    finish: _Finish
    handle: StoreHandle

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values."""
        return np.dtype(np.int64 if self.task.statistic == "count" else np.float64)

    def graph(self) -> tuple[GraphBuilder, TaskRef]:
        """Return a graph under construction with the result in it."""
        builder = GraphBuilder("zv-density")
        reader = builder.key("reader")
        builder.tasks[reader] = DataNode(reader, self.reader)  # once in the graph, whatever the number of blocks
        cells = builder.key("cells")
        builder.tasks[cells] = DataNode(cells, self.task)
        parts = [
            builder.add(builder.key("block", i), _Task.block, TaskRef(cells), TaskRef(reader), b)
            for i, b in enumerate(self.blocks)
        ]
        number = 0
        while len(parts) > _FAN:
            runs = [parts[i : i + _FAN] for i in range(0, len(parts), _FAN)]
            parts = [
                builder.add(builder.key("add", number + i), _Task.add, TaskRef(cells), List(*run)) for i, run in enumerate(runs)
            ]
            number += len(runs)
        return builder, builder.add(builder.key("finish"), self.finish, List(*parts))

    def delayed(self) -> Delayed:
        """Return the result as a Delayed."""
        builder, result = self.graph()
        return builder.finish(str(result.key))

    def array(self) -> Any:
        """Return the values as a Dask array of one chunk."""
        import dask.array as da

        refuse_expressions("a lazy density")
        builder, result = self.graph()
        shape = self.task.cells.shape
        whole = builder.finish(str(result.key))
        chunks = tuple((n,) for n in shape)
        meta = np.empty((0,) * len(shape), self.dtype)
        return da.map_blocks(_values, whole, name=builder.key("values"), chunks=chunks, dtype=self.dtype, meta=meta)

    def compute(self) -> Density:
        """Return the result now: on the active scheduler, or at once where there is one block."""
        if len(self.blocks) <= 1:
            return self.finish([self.task.block(self.reader, b) for b in self.blocks])
        check_reachable(self.handle)
        result: Density = compute_one(self.delayed())
        return result


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
    """Return the plan of :func:`density`."""
    names = level.store.axes
    chosen = (dims,) if isinstance(dims, str) else names if dims is None else tuple(dims)
    unknown = [d for d in chosen if d not in names]
    if unknown or not chosen or len(set(chosen)) != len(chosen):
        raise InputError(f"dims are some of the axes {', '.join(names)}, each once, not {dims!r}")
    axes = [names.index(d) for d in chosen]
    if statistic is None:
        statistic = "count" if weights is None else "sum"
    if statistic not in STATISTICS:
        raise InputError(f"statistic is one of {', '.join(map(repr, STATISTICS))}, not {statistic!r}")
    if (statistic == "count") != (weights is None):
        wants = "takes no weights=" if weights is not None else "needs weights=, the name of an attribute or an axis"
        raise InputError(f"statistic={statistic!r} {wants}")
    column = _column(level, weights)
    low, high = _bounds(level, axes) if bounds is None else corners_of(bounds, chosen)
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
    task = _Task(cells, statistic, column)
    finish = _Finish(task, tuple(chosen), weights, bounds is None, level.url)
    return DensityPlan(task, reads.reader, reads.blocks, finish, level.source.place.handle)


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
