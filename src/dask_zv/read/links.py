"""Links by rows: every endpoint is looked up, and must be there; and links as they are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.config import settings
from dask_zv.errors import FormatError, InputError, NotFoundError
from dask_zv.format.keys import coords_to_keys
from dask_zv.format.links import delta_name
from dask_zv.geometry.assembly import RowMap, input_order
from dask_zv.geometry.result import Links
from dask_zv.level.contents import LevelContents
from dask_zv.level.link_source import FoundLinks, LinkSource
from dask_zv.level.source import LevelSource, level_blobs
from dask_zv.read.link_cells import (
    CellPlan,
    LinkCells,
    find_targets,
    join_cells,
    join_values,
    lost_links,
    lost_target,
    read_crossing,
    read_in_parts,
)
from dask_zv.read.select import chosen_chunks
from dask_zv.spatial.chunks import ChunkLookup, runs_of
from dask_zv.storage.grid.read import GridArrays


@dataclass(frozen=True, slots=True, eq=False)
class Endpoints:
    """Records by the row numbers of their endpoints: in input order, -1 for what was not read; shape (m, L).

    Attributes (m, ...) have categories as strings, and are masked where there are none.
    """

    rows: NDArray[np.int64]
    attributes: Mapping[str, NDArray[Any]]


def find_endpoints(
    source: LevelSource, links: LinkSource, cells: LinkCells, read: ChunkLookup, rows: RowMap, *, every: bool
) -> NDArray[np.int64]:
    """Return the row numbers of the endpoints of records (m, L), in input order: -1 for what was not read.

    `rows` are of the chunks that were `read`; with `every` chunk that a record names must be among these.
    """
    targets, at = find_targets(links, cells.cells, read, source.where() if every else None)
    out = np.empty_like(cells.rows)
    low = 0  # some at a time: there are several arrays of them while they are looked up
    for first, last in runs_of((cells.counts, settings().read_step_bytes // 16)):
        counts = cells.counts[first:last]
        chunks = np.repeat(at[first:last], counts, axis=0)
        some = slice(low, low + len(chunks))
        named = cells.rows[some]
        beyond = rows.beyond(chunks, named)
        if len(beyond):
            record = int(beyond[0])
            cell = cells.cell_of(low + record)
            raise _lost_row(source, named[record], targets[cell], rows, chunks[record], *cells.cells.place(links, cell))
        out[some] = input_order(rows.find(chunks, named), None if cells.order is None else cells.order[some])
        low = some.stop
    return out


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
    """Look up the endpoints of the records in some parts, with `attributes` by number; `rows` are those of the chunks `coords`.

    `level` are all chunks of the level (m, K), where records may lead to others than were read. `every` one of these was
    read; all records of the family were, and `counted`: there are no fewer than it counts, nor more where that is `exact`.
    """
    read = ChunkLookup(coords)
    found = np.empty((sum(map(len, parts)), links.family.width), np.int64)
    low = 0
    for part in parts:
        found[low : low + len(part)] = find_endpoints(source, links, part, read, rows, every=every)
        low += len(part)
    stored = join_values(links, attributes, parts, source.where())
    values = {s.name: s.values(stored[s.name]) for s in (links.attributes[a].schema for a in attributes)}
    if links.crossing is not None:
        more = _crossing(source, links, rows, read, level)
        found = np.concatenate([found, more])
        values = {name: _without_values(v, len(more)) for name, v in values.items()}
    if counted:
        check_count(source, links, len(found), exact=exact)
    return Endpoints(found, values)


def check_count(source: LevelSource, links: LinkSource, found: int, *, exact: bool) -> None:
    """Raise :class:`FormatError` where a family has fewer records than it counts; with `exact`, where it has more as well."""
    expected = links.expected
    if links.crossing is None and expected is not None and (found != expected if exact else found < expected):
        raise lost_links(source, links.array, found, expected)


def _without_values(values: NDArray[Any], more: int) -> NDArray[Any]:
    """Return values with some more that are masked."""
    if not more:
        return values
    out = np.ma.MaskedArray(np.zeros((len(values) + more, *values.shape[1:]), values.dtype), True)
    out[: len(values)] = values
    return out


def _crossing(
    source: LevelSource, links: LinkSource, rows: RowMap, read: ChunkLookup, level: NDArray[np.int64] | None
) -> NDArray[np.int64]:
    """Return the row numbers of the records across chunks of generation 0.7."""
    assert links.crossing is not None
    chunks, named = read_crossing(source, links, level_blobs(source))
    place = links.crossing, "data"
    if level is not None:
        lost = np.argwhere(ChunkLookup(level).find(chunks) < 0)
        if len(lost):
            raise lost_target(chunks[tuple(lost[0])], source.where(), *place)
    at = read.find(chunks)
    beyond = rows.beyond(at, named)
    if len(beyond):
        record = int(beyond[0])
        raise _lost_row(source, named[record], chunks[record], rows, at[record], *place)
    return rows.find(at, named)


def _lost_row(
    source: LevelSource,
    named: NDArray[np.int64],
    targets: NDArray[np.int64],
    rows: RowMap,
    chunks: NDArray[np.int64],
    array: str,
    chunk: str,
) -> FormatError:
    """Return the error that a record names a row which its chunk does not have."""
    stored = np.append(rows.stored, np.iinfo(np.int64).max)[chunks]
    slot = int(np.flatnonzero((named < 0) | (named >= stored))[0])
    has = "" if chunks[slot] < 0 else f", which has {stored[slot]} rows"
    return FormatError(
        f"a link names row {named[slot]} of chunk {coords_to_keys(targets[slot : slot + 1])[0]}{has}: the links do not belong "
        "to these vertices (an interrupted overwrite, or another tool's edit); write the level again",
        store=source.where(), array=array, chunk=chunk,
    )  # fmt: skip


# -------------------------------------------------------------------------------------------------- as they are stored


def read_links(level: LevelContents, delta: int, *, chunks: Any) -> Links:
    """Read a family of links, see :meth:`Level.links`."""
    if type(delta) is not int:
        raise InputError(f"delta is the difference of two level numbers, not {delta!r}")
    found = level.found_links(delta)
    if found is None:
        raise NotFoundError(
            "the level has no such links" if not delta else f"the level has no links to level {level.number + delta}",
            store=level.url, array=f"links/{delta_name(delta)}",
        )  # fmt: skip
    source, links = level.source, found.source
    blobs = level_blobs(source)
    plan, selected = CellPlan.every(found, blobs.catalog), None
    if chunks is not None:
        selected = level.chunks.coords[chosen_chunks(level, chunks)]
        plan = CellPlan.of(found.present(selected, blobs.catalog), selected)
    names = range(len(links.attributes))
    joined = join_cells(links, names, list(read_in_parts(source, links, names, plan, blobs)), source.where())
    if selected is None:
        check_count(source, links, len(joined), exact=False)
    targets = np.repeat(links.targets(joined.cells.coords, joined.cells.segments), joined.counts, axis=0)
    rows = input_order(joined.rows, joined.order)
    if joined.order is not None:
        targets = np.stack([input_order(targets[..., k], joined.order) for k in range(targets.shape[2])], axis=2)
    schemas = [a.schema for a in links.attributes]
    values = {s.name: s.values(joined.attributes[s.name]) for s in schemas}
    if links.crossing is not None:
        more, named = read_crossing(source, links, blobs)
        if selected is not None:
            mine = ChunkLookup(selected).find(more[:, 0]) >= 0
            more, named = more[mine], named[mine]
        targets, rows = np.concatenate([targets, more]), np.concatenate([rows, named])
        values = {name: _without_values(v, len(more)) for name, v in values.items()}
    return Links(targets, rows, values, links.family.directed, links.family.width)


def count_in_cells(source: LevelSource, found: FoundLinks, attributes: Sequence[int] = ()) -> int:
    """Return how many records a family has in cells, reading them (with some attributes), a bounded number at a time."""
    blobs = level_blobs(source)
    return sum(len(p) for p in read_in_parts(source, found.source, attributes, CellPlan.every(found, blobs.catalog), blobs))


def stored_links(source: LevelSource, found: FoundLinks) -> int:
    """Return how many records of a family are stored, of those that its group counts: in layout per_chunk across chunks."""
    blobs = level_blobs(source)
    if isinstance(blobs, GridArrays):
        return count_in_cells(source, found)
    return len(read_crossing(source, found.source, blobs, counted=False)[0])
