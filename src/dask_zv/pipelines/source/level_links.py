"""The links of a level as they are stored, and what they say of its geometry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import InputError, MetadataError, NotFoundError
from dask_zv.format.links import delta_name
from dask_zv.geometry.assembly import input_order
from dask_zv.geometry.result import Links
from dask_zv.pipelines.reading.links import check_count, without_values
from dask_zv.pipelines.source.chosen_chunks import chosen_chunks
from dask_zv.pipelines.source.level_io import LevelSource, level_blobs
from dask_zv.pipelines.source.link_reading import CellPlan, LinkCells, cell_addresses, decode_cells, join_cells, read_crossing
from dask_zv.pipelines.source.link_source import FoundLinks, find_links
from dask_zv.storage.catalog import Catalog
from dask_zv.storage.grid import GridArrays
from dask_zv.storage.layouts import Blobs

if TYPE_CHECKING:
    from dask_zv.pipelines.stores.level import Level

__all__ = ["edges_are_implied", "has_path_fragments", "link_parts", "links_of", "offset_of", "read_links", "stored_links"]

_AT_ONCE = 4096
"""Cells that are fetched together."""


def links_of(level: Level, delta: int) -> FoundLinks | None:
    """Return which links a level has to the level `delta` above, None where it has none."""
    own = _ratio(level)
    target = own
    if delta:
        number = level.number + delta
        target = _ratio(level.store.level(number)) if number in level.store.levels else own
    return find_links(level.source, delta, own=own, target=target, empty=not len(level.chunks))


def _ratio(level: Level) -> tuple[int, ...]:
    """Return the edges of a level's chunks in those of the root; 1 for an attribute that leads the keys."""
    base = level.store.metadata.chunk_shape
    edges = tuple(round(a / b) for a, b in zip(level.metadata.chunk_shape_in(base), base, strict=True))
    return (1,) * (level.source.rank - len(edges)) + edges


def edges_are_implied(level: Level) -> bool:
    """Return True if each row of a fragment is linked to the row before it, but where a stored link says otherwise.

    The store's ``links_convention`` says so of graphs and skeletons: edits change it. Where it is absent, or that of points or
    paths (the first writer of a store sets it), the kind decides.
    """
    convention = level.store.metadata.links_convention
    if level.kind not in ("graph", "skeleton"):
        return False
    if convention in (None, "implicit_sequential"):
        return level.kind == "skeleton"
    return convention == "implicit_sequential_with_branches"


def has_path_fragments(level: Level) -> bool:
    """Tell whether a level of skeletons has a fragment for every unbranched path.

    Such a store has directed links, and names the segment that each fragment is of. (Zarr Vectors format 0.9, chunked
    skeletons.)
    """
    links = level.found_links(0) if level.kind == "skeleton" else None
    if links is None or not links.source.family.directed:
        return False
    blobs = level_blobs(level.source)
    return isinstance(blobs, GridArrays) and blobs.array("fragment_attributes/segment_id") is not None


def offset_of(level: Level) -> tuple[float, ...] | None:
    """Return what is to be added to a level's positions, None where nothing is.

    Raises
    ------
    MetadataError
        The root's metadata has no such number for every axis.
    """
    given = level.store.metadata.extra.get("coordinate_offset") if level.is_chunked_skeleton else None
    if given is None:
        return None
    ndim = level.source.schema.grid.ndim
    numbers = isinstance(given, Sequence) and all(isinstance(v, int | float) for v in given)
    if not numbers or len(given) != ndim:
        raise MetadataError(f"coordinate_offset is {given!r:.80}: {ndim} numbers are wanted", store=level.store.url)
    return tuple(float(v) for v in given)


def read_links(level: Level, delta: int, *, chunks: Any) -> Links:
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
    selected = None if chunks is None else level.lookup.coords[chosen_chunks(level, chunks)]
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
            mine = Catalog(selected, np.zeros(len(selected), np.int64), {}).find(np.ascontiguousarray(more[:, 0])) >= 0
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
