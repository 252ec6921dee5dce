"""Reading a level: which chunks, in which blocks, and what is wanted of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from dask.delayed import Delayed
from dask.task_spec import List
from numpy.typing import NDArray

from dask_zv.config import settings
from dask_zv.errors import FormatError, InputError
from dask_zv.format.keys import coords_to_keys
from dask_zv.geometry.result import Geometry
from dask_zv.geometry.schema import AttributeSchema
from dask_zv.graph.builder import GraphBuilder
from dask_zv.graph.run import check_reachable, compute_one
from dask_zv.level.chunk_boxes import check_some_boxes
from dask_zv.level.contents import LevelContents
from dask_zv.level.fragment_table import FragmentTable
from dask_zv.level.link_source import FoundLinks
from dask_zv.level.object_index import chosen_ids
from dask_zv.level.source import level_blobs
from dask_zv.read.block import BlockPlan, Wanted, read_block
from dask_zv.read.chosen_chunks import chosen_chunks
from dask_zv.read.link_reading import CellPlan, check_sources, plan_cells
from dask_zv.read.objects import Here, ObjectFacts, ReadObjects
from dask_zv.read.result import Finish
from dask_zv.spatial.grid import Box, as_box, stored_box
from dask_zv.storage.handles import open_objects
from dask_zv.storage.objects import together

PATHS = ("line", "polyline", "streamline")
"""Geometries whose objects are sequences of vertices."""
LINKED = ("graph", "skeleton", "mesh")
"""Geometries whose vertices are joined by links."""


@dataclass(frozen=True, slots=True, eq=False)
class _Selection:
    """Which chunks of a level to read, and which rows of them.

    Attributes
    ----------
    chunks : ndarray of int64, shape (n,)
        Rows of the level's table of chunks, ascending.
    whole : ndarray of bool, shape (n,)
        Chunks inside the box as a whole.
    box : Box, optional
    ids : ndarray of int64, optional
        The objects that were asked for.
    chosen : FragmentTable, optional
        Their fragments.
    clipped : bool
        A box or a list of chunks may cut objects.
    """

    chunks: NDArray[np.int64]
    whole: NDArray[np.bool_]
    box: Box | None
    ids: NDArray[np.int64] | None
    chosen: FragmentTable | None
    clipped: bool


def read_level(
    level: LevelContents,
    *,
    objects: Any,
    bbox: Any,
    order: str | None,
    chunks: Any,
    clip: bool,
    attributes: Sequence[str] | None,
    compute: bool,
) -> Geometry | Delayed:
    """Plan the reading of a level, see :meth:`Level.read`; run it where `compute`."""
    source = level.source
    schema = source.schema
    if order not in (None, "chunk", "object"):
        raise InputError(f"order is 'chunk' or 'object', not {order!r}")
    if (objects is not None or order == "object") and not schema.has_objects:
        raise InputError(f"{level.url} has no objects: leave out objects= and order='object'")
    cuts = bbox is not None or chunks is not None
    if cuts and not clip:
        if not schema.has_objects:
            raise InputError(f"{level.url} has no objects, which clip=False is about: leave it out")
        objects = _objects_within(level, select_chunks(level, objects, bbox, chunks))
        bbox, chunks, cuts = None, None, False
    kind = level.kind
    if order is None:
        order = "object" if kind in PATHS and schema.has_objects else "chunk"
    by_object = order == "object"
    links = level.found_links(0) if kind in LINKED else None
    vertex, of_links = choose_attributes(level, attributes, links)
    wanted = Wanted(
        vertex,
        None,
        by_object,
        by_object and cuts and kind in PATHS,
        level.has_implied_edges,
        kind == "skeleton" and not level.has_implied_edges,
        None if links is None else links.source,
        of_links,
    )
    return _run(level, select_chunks(level, objects, bbox, chunks), wanted, links, compute=compute)


def _objects_within(level: LevelContents, selection: _Selection) -> NDArray[np.int64]:
    """Return the objects that have a vertex in a selection."""
    found = _run(level, selection, Wanted(by_object=True), None, compute=True, tables=False)
    assert isinstance(found, Geometry)
    assert found.ids is not None
    assert found.lengths is not None
    return found.ids[found.lengths > 0]


def select_chunks(level: LevelContents, objects: Any, bbox: Any, chunks: Any) -> _Selection:
    """Return what to read.

    Raises
    ------
    InputError
        A box, id or chunk key is malformed.
    NotFoundError
        There is no such object or chunk.
    FormatError
        A manifest names a chunk that isn't there.
    """
    source, table = level.source, level.chunks
    grid = source.schema.grid
    keep = np.ones(len(table), bool)
    whole = np.zeros(len(table), bool)
    box = None
    if bbox is not None:
        check_some_boxes(source, table)
        box = stored_box(as_box(bbox, grid.ndim), source.schema.dtype, level.offset)
        spatial = table.coords[:, source.rank - grid.ndim :]
        keep = grid.touches(spatial, box)
        whole = grid.inside(spatial, box)
    if chunks is not None:
        mine = np.zeros(len(table), bool)
        mine[chosen_chunks(level, chunks)] = True
        keep &= mine
    chosen = ids = None
    if objects is not None:
        ids = chosen_ids(objects)
        chosen = level.index.select(ids)
        named = level.chunks.find(chosen.distinct_chunks)
        if (named < 0).any():
            lost = coords_to_keys(chosen.distinct_chunks[named < 0][:1])[0]
            raise FormatError(
                "a manifest names a chunk that the level does not have", store=level.url, array="object_index", chunk=lost
            )
        mine = np.zeros(len(table), bool)
        mine[named] = True
        keep &= mine
    numbers = np.flatnonzero(keep)
    return _Selection(numbers, whole[numbers], box, ids, chosen, bbox is not None or chunks is not None)


def _run(
    level: LevelContents, selection: _Selection, wanted: Wanted, links: FoundLinks | None, *, compute: bool, tables: bool = True
) -> Geometry | Delayed:
    """Read a selection: block by block, and what comes of them."""
    source, table = level.source, level.chunks
    wanted = replace(wanted, box=selection.box)
    coords, rows = table.coords[selection.chunks], table.rows[selection.chunks]
    every = len(selection.chunks) == len(table)
    plans = _blocks(level, selection, wanted, links, coords, rows, every=every)
    finish = Finish(
        source,
        wanted,
        coords,
        every,
        every and selection.chosen is None and selection.box is None,
        table.coords if links is not None and links.source.crossing is not None else None,
        level.is_chunked_skeleton,
        level.offset,
    )
    here = Here(level.index if source.schema.has_objects else None)
    # paths are listed even where they have no vertices
    about = ReadObjects(
        source,
        coords,
        wanted.by_object,
        selection.chosen,
        selection.ids,
        level.kind in PATHS and wanted.by_object,
        tables,
        here,
    )
    if compute and len(plans) <= 1:  # small reads need no graph
        parts_read, facts = together(open_objects(source.place.handle), lambda: [read_block(p, wanted) for p in plans], about)
        return finish(parts_read, facts)
    builder = GraphBuilder("zv-read")
    parts = [builder.add(builder.key("block", i), read_block, plan, wanted) for i, plan in enumerate(plans)]
    end = builder.key("geometry")
    facts = builder.add(builder.key("objects"), about) if source.schema.has_objects else ObjectFacts()
    builder.add(end, finish, List(*parts), facts)
    delayed = builder.finish(end)
    if not compute:
        return delayed
    check_reachable(source.place.handle)
    result: Geometry = compute_one(delayed)
    return result


def _blocks(
    level: LevelContents,
    selection: _Selection,
    wanted: Wanted,
    links: FoundLinks | None,
    coords: NDArray[np.int64],
    rows: NDArray[np.int64],
    *,
    every: bool,
) -> list[BlockPlan]:
    """Return the blocks of a selection, each with the cells of links to read with it."""
    source = level.source
    most = settings().read_packed_block_chunks if level.is_packed else settings().read_block_chunks
    runs = _cut(rows, source.schema.row_bytes, most)
    mask: NDArray[np.bool_] | None = None
    others: list[CellPlan] = []
    if links is not None:
        catalog = level_blobs(source).catalog
        if every:
            check_sources(links, catalog, level.chunks, level.url)
        if not every or links.listed:
            # a record may say of a row inside a box that its parent is outside, and be filed there
            incident = wanted.trees and selection.clipped
            mask, more = plan_cells(links, catalog, level.chunks, selection.chunks, level.url, incident=incident)
            pieces = np.array_split(np.arange(len(more)), max(len(runs), 1))
            others = [CellPlan(more.segments[p], more.coords[p]) for p in pieces]
    out: list[BlockPlan] = []
    for number, (start, stop) in enumerate(runs):
        part = coords[start:stop]
        out.append(
            BlockPlan(
                source,
                part,
                selection.whole[start:stop],
                None if selection.chosen is None else selection.chosen.within(part),
                None if mask is None else np.packbits(mask[:, start:stop]),
                others[number] if others else None,
            )
        )
    return out


def choose_attributes(
    level: LevelContents, names: Sequence[str] | None, links: FoundLinks | None
) -> tuple[tuple[AttributeSchema, ...], tuple[int, ...]]:
    """Return the attributes of vertices, and the numbers of those of links, that a user asks for."""
    own = {a.name: a for a in level.source.schema.attributes}
    of_links = [] if links is None else [a.schema.name for a in links.source.attributes]
    if names is None:
        return tuple(own.values()), tuple(range(len(of_links)))
    if isinstance(names, str):
        names = [names]
    known = [*level.attributes, *of_links]
    unknown = [n for n in names if n not in known]
    if unknown:
        if f"vertex_attributes/{unknown[0]}" in level.group:  # one that is left out: this says why
            AttributeSchema.from_attributes(unknown[0], level.group.read_array_meta(f"vertex_attributes/{unknown[0]}"))
        raise InputError(f"no attribute {unknown[0]!r}: the level has {', '.join(known) or 'none'}")
    return tuple(own[n] for n in names if n in own), tuple(i for i, n in enumerate(of_links) if n in names)


def _cut(rows: NDArray[np.int64], row_bytes: int, most: int) -> list[tuple[int, int]]:
    """Cut chunks into runs of bounded size."""
    runs: list[tuple[int, int]] = []
    start = size = 0
    for i, n in enumerate(rows.tolist()):
        if i > start and (size + n * row_bytes > settings().read_block_bytes or i - start >= most):
            runs.append((start, i))
            start, size = i, 0
        size += n * row_bytes
    return [*runs, (start, len(rows))] if len(rows) > start else runs
