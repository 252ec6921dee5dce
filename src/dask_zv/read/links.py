"""From cells of links to row numbers: every endpoint is looked up, and must be there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError
from dask_zv.format.keys import coords_to_keys
from dask_zv.geometry.assembly import RowMap, input_order
from dask_zv.level.link_source import LinkSource
from dask_zv.level.source import LevelSource, level_blobs
from dask_zv.read.link_reading import LinkCells, join_cells, lost_links, read_crossing
from dask_zv.spatial.chunk_lookup import ChunkLookup


@dataclass(frozen=True, slots=True, eq=False)
class Endpoints:
    """Records by the row numbers of their endpoints.

    Attributes
    ----------
    rows : ndarray of int64, shape (m, L)
        In input order; -1 for what was not read.
    attributes : mapping of str to ndarray, shape (m,) or (m, C)
        Categories as strings; masked where there are none.
    """

    rows: NDArray[np.int64]
    attributes: Mapping[str, NDArray[Any]]


def resolve_links(
    source: LevelSource,
    links: LinkSource,
    attributes: Sequence[int],
    parts: Sequence[LinkCells],
    rows: RowMap,
    coords: NDArray[np.int64],
    level: NDArray[np.int64] | None,
    *,
    every: bool,
    counted: bool,
    exact: bool,
) -> Endpoints:
    """Look up the endpoints of records.

    Parameters
    ----------
    source : LevelSource
    links : LinkSource
    attributes : sequence of int
        Numbers of those that were read.
    parts : sequence of LinkCells
    rows : RowMap
        Of the chunks that were read.
    coords : ndarray of int64, shape (n, K)
        These chunks, ascending.
    level : ndarray of int64, shape (m, K), optional
        All chunks of the level, ascending.
    every : bool
        All chunks were read: every one that a record names must be among them.
    counted : bool
        All records of the family were read: there are no fewer than it counts.
    exact : bool
        Nor more.

    Raises
    ------
    FormatError
        A record names a chunk or a row that isn't there, or records are missing.
    """
    cells = join_cells(links, attributes, parts, source.where())
    read = ChunkLookup(coords)
    targets = links.targets(cells.cells.coords, cells.cells.segments)
    at = read.find(targets)
    if every and (at < 0).any():
        cell, slot = np.argwhere(at < 0)[0].tolist()
        raise _lost(source, links, cells, cell, targets[cell, slot])
    chunks = np.repeat(at, cells.counts, axis=0)
    beyond = rows.beyond(chunks, cells.rows)
    if len(beyond):
        record = int(beyond[0])
        cell = cells.cell_of(record)
        raise _beyond(source, *_place(links, cells, cell), cells.rows[record], targets[cell], rows, chunks[record])
    found = input_order(rows.find(chunks, cells.rows), cells.order)
    names = [links.attributes[a].schema for a in attributes]
    values = {s.name: s.values(cells.attributes[s.name]) for s in names}
    if links.crossing is not None:
        more = _crossing(source, links, rows, read, level)
        found = np.concatenate([found, more])
        values = {name: without_values(v, len(more)) for name, v in values.items()}
    if counted:
        check_count(source, links, len(found), exact=exact)
    return Endpoints(found, values)


def check_count(source: LevelSource, links: LinkSource, found: int, *, exact: bool) -> None:
    """Raise :class:`FormatError` where a family has fewer records than it counts; with `exact`, where it has more as well."""
    expected = links.family.count if links.family.store == "duplicate" else (links.family.physical or links.family.count)
    if links.crossing is None and expected is not None and (found != expected if exact else found < expected):
        raise lost_links(source, links.array, found, expected)


def without_values(values: NDArray[Any], more: int) -> NDArray[Any]:
    """Return values with some more that are masked."""
    if not more:
        return values
    out = np.ma.MaskedArray(np.zeros((len(values) + more, *values.shape[1:]), values.dtype), True)
    out[: len(values)] = values
    return out


def _place(links: LinkSource, cells: LinkCells, cell: int) -> tuple[str, str]:
    """Return array and chunk key of a cell."""
    return links.segments[int(cells.cells.segments[cell])].array, coords_to_keys(cells.cells.coords[cell : cell + 1])[0]


def _lost(source: LevelSource, links: LinkSource, cells: LinkCells, cell: int, target: NDArray[np.int64]) -> FormatError:
    array, chunk = _place(links, cells, cell)
    return FormatError(
        f"links lead to chunk {coords_to_keys(target[None])[0]}, which the level does not have: it was lost, or the links "
        "belong to another version of the level",
        store=source.where(), array=array, chunk=chunk,
    )  # fmt: skip


def _beyond(
    source: LevelSource,
    array: str,
    chunk: str,
    named: NDArray[np.int64],
    targets: NDArray[np.int64],
    rows: RowMap,
    chunks: NDArray[np.int64],
) -> FormatError:
    stored = np.append(rows.stored, np.iinfo(np.int64).max)[chunks]
    slot = int(np.flatnonzero((named < 0) | (named >= stored))[0])
    has = "" if chunks[slot] < 0 else f", which has {stored[slot]} rows"
    return FormatError(
        f"a link names row {named[slot]} of chunk {coords_to_keys(targets[slot : slot + 1])[0]}{has}: the links do not belong "
        "to these vertices (an interrupted overwrite, or another tool's edit); write the level again",
        store=source.where(), array=array, chunk=chunk,
    )  # fmt: skip


def _crossing(
    source: LevelSource, links: LinkSource, rows: RowMap, read: ChunkLookup, level: NDArray[np.int64] | None
) -> NDArray[np.int64]:
    """Return the row numbers of the records across chunks of generation 0.7."""
    assert links.crossing is not None
    chunks, named = read_crossing(source, links, level_blobs(source))
    flat = chunks.reshape(-1, links.family.rank)
    if level is not None:
        lost = np.flatnonzero(ChunkLookup(level).find(flat) < 0)
        if len(lost):
            raise FormatError(
                f"links lead to chunk {coords_to_keys(flat[lost[:1]])[0]}, which the level does not have: it was lost, or the "
                "links belong to another version of the level",
                store=source.where(), array=links.crossing, chunk="data",
            )  # fmt: skip
    at = read.find(chunks)
    beyond = rows.beyond(at, named)
    if len(beyond):
        record = int(beyond[0])
        raise _beyond(source, links.crossing, "data", named[record], chunks[record], rows, at[record])
    return rows.find(at, named)
