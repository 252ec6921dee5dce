"""Vertices gathered by the cells of a grid, as sums and counts: gathered again by larger cells, they give coarser levels.

What is kept of a cell (:class:`GatheredCells`) is associative: it is the same whichever parts of the rows were gathered first.
What depends on an order (the first value, the row that is drawn) goes by the order of the source's chunks or by the positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.geometry.rows import VertexRows
from dask_zv.geometry.schema import AttributeSchema, PointSchema
from dask_zv.geometry.tallies import Histogram, Total, extreme_by, first_of, least_of, sum_by, tally
from dask_zv.spatial.chunks import group_by_chunk
from dask_zv.spatial.grid import ChunkGrid

REDUCTIONS = ("mean", "mode", "first", "min", "max", "sum", "count", "sample")
"""What can become of the values of an attribute in a cell; "sample" is that of the vertex that is drawn."""
_PICKED = ("first", "sample")
_STEPS = 16


@dataclass(frozen=True, slots=True)
class Column:
    """How the values of one attribute are reduced; or the positions, where `name` is empty."""

    name: str
    how: str  # one of REDUCTIONS
    dtype: np.dtype[Any]  # of what comes of it


def reduction_of(attribute: AttributeSchema) -> str:
    """Return how an attribute is reduced where nothing is said: numbers that measure by their mean, codes by their mode."""
    kind = attribute.dtype.kind
    if attribute.dictionary is None and (kind in "fc" or (kind in "iu" and attribute.channels is not None)):
        return "mean"
    return "first" if kind in "mM" else "mode"


def check_reduction(attribute: AttributeSchema, how: str) -> str | None:
    """Return why an attribute can't be reduced so, None where it can."""
    kind = attribute.dtype.kind
    numbers = attribute.dictionary is None and kind in "iufc"
    if how in ("mean", "sum") and not (numbers or (kind == "b" and how == "sum")):
        return "it has no numbers"
    if how in ("min", "max") and not (attribute.dictionary is None and kind in "biufmM"):
        return "its values have no order"
    return None


def reduced_schema(attribute: AttributeSchema, how: str) -> AttributeSchema:
    """Return the schema of an attribute of coarser levels."""
    dtype = attribute.dtype
    if how == "count":
        return AttributeSchema(attribute.name, np.dtype("<i8"))
    if how == "sum" and dtype.kind in "biu":
        return replace(attribute, dtype=np.dtype("<u8" if dtype.kind == "u" else "<i8"))
    return replace(attribute, dtype=np.dtype("<f8")) if how == "sum" and dtype.kind == "f" else attribute


State = Total | Histogram | NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class GatheredCells:
    """Cells that hold vertices, of one object each where there are objects; m in all, ascending."""

    cells: NDArray[np.int64]  # (m, D), and one column more for the objects
    counts: NDArray[np.int64]  # (m,): vertices
    drawn: NDArray[np.uint64] | None  # (m,): rank of the vertex that is drawn, the least of all
    states: Mapping[str, State] = field(default_factory=dict)  # by name of the attribute, "" for the positions

    def __len__(self) -> int:
        return len(self.cells)

    def __sizeof__(self) -> int:
        return self.cells.nbytes * 4 + 500

    @classmethod
    def of_rows(
        cls,
        columns: Sequence[Column],
        cells: NDArray[np.int64],
        owners: NDArray[np.int64] | None,
        positions: NDArray[Any],
        attributes: Mapping[str, NDArray[Any]],
        base: NDArray[Any] | None,
        seed: int,
    ) -> GatheredCells:
        """Gather rows: the cell of each (n, D), its object (n,) or None, its position (n, D) and attributes.

        Integer positions are summed from `base` on.
        """
        wide = cells if owners is None else np.concatenate([cells, owners[:, None]], axis=1)
        found, number = group_by_chunk(wide)
        m = len(found)
        drawn = pick = None
        if any(c.how == "sample" for c in columns):
            ranks = rank_of(positions, seed)
            pick = least_of(ranks, number, m)
            drawn = ranks[pick]
        states: dict[str, State] = {}
        counts = np.bincount(number, minlength=m).astype(np.int64)
        for column in columns:
            values = attributes[column.name] if column.name else positions
            if column.how == "mean":
                if not column.name and base is not None:
                    values = (values - base).astype(np.int64)
                states[column.name] = Total.of(values, exact=not column.name).gather(number, m, counts)
            elif column.how == "sum":
                states[column.name] = Total.of(values, exact=True).gather(number, m, counts)
            elif column.how == "mode":
                states[column.name] = tally(number, values, None, m)
            elif column.how in ("min", "max"):
                states[column.name] = extreme_by(values, number, m, least=column.how == "min")
            elif column.how == "first":
                states[column.name] = values[first_of(number, m)]
            elif column.how == "sample":
                states[column.name] = values[pick]
        return cls(found, counts, drawn, states)

    @classmethod
    def join(cls, parts: Sequence[GatheredCells]) -> GatheredCells:
        """Return the cells of all parts, one behind the other; one that is in several is there several times."""
        if len(parts) == 1:
            return parts[0]
        counts = [p.counts for p in parts]
        states: dict[str, State] = {}
        for name, first in parts[0].states.items():
            same: list[Any] = [p.states[name] for p in parts]
            if isinstance(first, Total):
                states[name] = Total.join(same, counts)
            elif isinstance(first, Histogram):
                before = np.cumsum([0, *map(len, parts)]).tolist()
                cells = np.concatenate([h.cells + b for h, b in zip(same, before, strict=False)])
                states[name] = Histogram(
                    cells, np.concatenate([h.values for h in same]), np.concatenate([h.counts for h in same])
                )
            else:
                states[name] = np.concatenate(same)
        drawn = None if parts[0].drawn is None else np.concatenate([p.drawn for p in parts if p.drawn is not None])
        return cls(np.concatenate([p.cells for p in parts]), np.concatenate(counts), drawn, states)

    def coarser(self, columns: Sequence[Column], factor: NDArray[np.int64]) -> GatheredCells:
        """Gather by cells that are `factor` (D,) times as large; 1 joins those that are there several times."""
        ndim = len(factor)
        wide = self.cells.copy()
        wide[:, :ndim] //= factor
        found, number = group_by_chunk(wide)
        m = len(found)
        pick = None if self.drawn is None else least_of(self.drawn, number, m)
        states: dict[str, State] = {}
        for column in columns:
            state: Any = self.states.get(column.name)
            if column.how in ("mean", "sum"):
                states[column.name] = state.gather(number, m, self.counts)
            elif column.how == "mode":
                states[column.name] = state.gather(number, m)
            elif column.how in ("min", "max"):
                states[column.name] = extreme_by(state, number, m, least=column.how == "min")
            elif column.how in _PICKED:
                states[column.name] = state[first_of(number, m) if column.how == "first" or pick is None else pick]
        drawn = None if self.drawn is None or pick is None else self.drawn[pick]
        return GatheredCells(found, sum_by(self.counts, number, m), drawn, states)

    def of_objects(self, kept: NDArray[np.int64]) -> GatheredCells:
        """Return the cells of some objects, ascending ids."""
        owners = self.cells[:, -1]
        at = np.minimum(np.searchsorted(kept, owners), max(len(kept) - 1, 0))
        return self.some(np.flatnonzero(kept[at] == owners) if len(kept) else np.zeros(0, np.intp))

    def some(self, cells: NDArray[np.intp]) -> GatheredCells:
        """Return some of the cells, ascending."""
        if len(cells) == len(self):
            return self
        states = {n: s[cells] if isinstance(s, np.ndarray) else s.take(cells) for n, s in self.states.items()}
        return GatheredCells(self.cells[cells], self.counts[cells], None if self.drawn is None else self.drawn[cells], states)

    def values(self, columns: Sequence[Column], *, exact: bool = False) -> dict[str, NDArray[Any]]:
        """Return what comes of the attributes and (under "") positions of each cell; integer positions are `exact` sums."""
        out: dict[str, NDArray[Any]] = {}
        for column in columns:
            state: Any = self.states.get(column.name)
            if column.how == "mean":
                dtype = np.dtype(np.int64) if exact and not column.name else column.dtype
                out[column.name] = state.mean(self.counts, dtype)
            elif column.how == "sum":
                out[column.name] = np.asarray(state.sums, column.dtype)
            elif column.how == "mode":
                out[column.name] = state.most(len(self))
            elif column.how == "count":
                out[column.name] = self.counts
            else:
                out[column.name] = state
        return out

    @classmethod
    def of_each(
        cls, columns: Sequence[Column], cells: NDArray[np.int64], counts: NDArray[np.int64], values: Mapping[str, NDArray[Any]]
    ) -> GatheredCells:
        """Return rows as cells of their own, by the number (n,) of the one that each is to be gathered in.

        `counts` is how many vertices a row stands for. Nothing is drawn: "sample" is the first.
        """
        states: dict[str, State] = {}
        for column in columns:
            given = values[column.name]
            if column.how == "mean":
                weight = counts.reshape(-1, *[1] * (given.ndim - 1))
                total = Total.of(given, exact=False)
                there = None if total.there is None else total.there * weight
                states[column.name] = Total(total.sums * weight if (counts != 1).any() else total.sums, there)
            elif column.how == "sum":
                states[column.name] = Total.of(given, exact=True)
            elif column.how == "mode":
                states[column.name] = Histogram(np.arange(len(given)), given, counts)
            elif column.how != "count":
                states[column.name] = given
        return cls(cells[:, None], counts, None, states)

    def rows(
        self,
        columns: Sequence[Column],
        schema: PointSchema,
        per_chunk: NDArray[np.int64],
        base: NDArray[Any] | None,
        count: str,
    ) -> VertexRows:
        """Return a vertex for every cell; chunks of the schema's grid have `per_chunk` (D,) cells along each axis.

        `count` is the attribute that says how many vertices each stands for.
        """
        out = self.values(columns, exact=base is not None)
        positions = out.pop("")
        if base is not None and next(c.how for c in columns if not c.name) == "mean":
            positions = (positions + base).astype(schema.dtype)
        ndim = schema.grid.ndim
        positions = settle(schema.grid, np.asarray(positions, schema.dtype), self.cells[:, :ndim] // per_chunk)
        attributes = {a.name: np.asarray(self.counts if a.name == count else out[a.name], a.dtype) for a in schema.attributes}
        return VertexRows(positions, attributes, self.cells[:, ndim] if schema.has_objects else None)


def rank_of(positions: NDArray[Any], seed: int) -> NDArray[np.uint64]:
    """Return a number that decides which vertices are drawn: by their positions and the seed alone, whatever their order."""
    with np.errstate(over="ignore"):
        rank = np.full(len(positions), np.uint64(seed % (1 << 64)) * np.uint64(0x9E3779B97F4A7C15), np.uint64)
        for axis in range(positions.shape[1]):
            values = np.ascontiguousarray(positions[:, axis])
            bits = values.astype(np.float64) + 0.0 if values.dtype.kind == "f" else values.astype(np.int64)
            rank = mixed(rank ^ bits.view(np.uint64))
    return rank


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the integers as the finalizer of SplitMix64 mixes them: every bit depends on all."""
    with np.errstate(over="ignore"):
        values = values + np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)))


def settle(grid: ChunkGrid, positions: NDArray[Any], chunks: NDArray[np.int64]) -> NDArray[Any]:
    """Return positions that lie in their `chunks` (n, D) when these are found by division, as readers do.

    A mean may be rounded onto the upper side of its chunk, and edges such as 0.1 make larger chunks that do not quite consist
    of the smaller ones: these positions are moved by a few units in the last place.
    """
    for _ in range(_STEPS):
        odd = np.flatnonzero((grid.chunks_of(positions) != chunks).any(axis=1))
        if not len(odd):
            return positions
        positions = positions.copy()
        found = grid.chunks_of(positions[odd])
        wanted = chunks[odd]
        for axis in range(grid.ndim):
            off = np.flatnonzero(found[:, axis] != wanted[:, axis])
            rows, goal = odd[off], wanted[off, axis]
            down = found[off, axis] > goal
            if positions.dtype.kind == "f":
                to = np.where(down, -np.inf, np.inf).astype(positions.dtype)
                positions[rows, axis] = np.nextafter(positions[rows, axis], to)
            else:
                positions[rows, axis] += np.where(down, -1, 1).astype(positions.dtype)
    raise AssertionError("a position can't be moved into its chunk")
