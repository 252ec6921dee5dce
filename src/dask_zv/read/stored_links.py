"""The links of a level as they are stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import InputError, NotFoundError
from dask_zv.format.links import delta_name
from dask_zv.geometry.assembly import input_order
from dask_zv.geometry.result import Links
from dask_zv.level.contents import LevelContents
from dask_zv.level.link_source import FoundLinks
from dask_zv.level.source import LevelSource, level_blobs
from dask_zv.read.chosen_chunks import chosen_chunks
from dask_zv.read.link_reading import CellPlan, LinkCells, cell_addresses, decode_cells, join_cells, read_crossing
from dask_zv.read.links import check_count, without_values
from dask_zv.spatial.chunk_lookup import ChunkLookup
from dask_zv.storage.catalog import Catalog
from dask_zv.storage.layout import Blobs

_AT_ONCE = 4096
"""Cells that are fetched together."""


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
    selected = None if chunks is None else level.chunks.coords[chosen_chunks(level, chunks)]
    names = range(len(links.attributes))
    joined = join_cells(links, names, list(link_parts(source, found, blobs, names, selected)), source.where())
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
        values = {name: without_values(v, len(more)) for name, v in values.items()}
    return Links(targets, rows, values, links.family.directed, links.family.width)


def link_parts(
    source: LevelSource, found: FoundLinks, blobs: Blobs, names: Sequence[int], selected: NDArray[np.int64] | None = None
) -> Iterator[LinkCells]:
    """Yield the records of a family, some cells at a time."""
    cells = _cells(found, blobs.catalog, selected)
    for start in range(0, len(cells), _AT_ONCE):
        part = CellPlan(cells.segments[start : start + _AT_ONCE], cells.coords[start : start + _AT_ONCE])
        yield decode_cells(source, found.source, names, part, blobs.read_many(cell_addresses(found.source, names, part)))


def stored_links(source: LevelSource, found: FoundLinks) -> int:
    """Return how many records of a family are stored, of those that its group counts: in layout per_chunk across chunks."""
    blobs = level_blobs(source)
    if source.place.layout == "grid":
        return sum(len(part) for part in link_parts(source, found, blobs, ()))
    return len(read_crossing(source, found.source, blobs, counted=False)[0])


def _cells(found: FoundLinks, catalog: Catalog | None, selected: NDArray[np.int64] | None) -> CellPlan:
    """Return the cells of a family, chunk by chunk."""
    if selected is not None:
        return CellPlan.of(found.present(selected, catalog), selected)
    coords = [found.chunks(s, catalog) for s in range(len(found.source.segments))]
    segments = np.repeat(np.arange(len(coords)), [len(c) for c in coords])
    every = np.concatenate([np.zeros((0, found.source.family.rank), np.int64), *coords])
    order = np.lexsort((segments, *every.T[::-1]))
    return CellPlan(segments[order], every[order])
