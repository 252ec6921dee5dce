"""Reading a level: which chunks, in which blocks, and what is wanted of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from dask.delayed import Delayed
from dask.task_spec import List
from numpy.typing import NDArray

from dask_zv.config import settings
from dask_zv.errors import InputError, did_you_mean
from dask_zv.geometry.kinds import LINKED, PATHS, kind_of
from dask_zv.geometry.result import Geometry
from dask_zv.graph.builder import GraphBuilder
from dask_zv.graph.run import check_reachable, compute_one
from dask_zv.level.contents import LevelContents
from dask_zv.level.link_source import FoundLinks
from dask_zv.read.assemble import Finish, ObjectFacts, read_block
from dask_zv.read.objects import Here, ReadObjects
from dask_zv.read.select import Selection, Wanted, choose_attributes, chosen_chunks, plan_blocks, select
from dask_zv.spatial.chunks import runs_of
from dask_zv.spatial.grid import as_box
from dask_zv.storage.handles import open_objects
from dask_zv.storage.objects import together


def read_level(
    level: LevelContents,
    *,
    objects: Any = None,
    bbox: Any = None,
    order: str | None = None,
    chunks: Any = None,
    clip: bool = True,
    attributes: Sequence[str] | None = None,
    compute: bool = True,
) -> Geometry | Delayed:
    """Plan the reading of a level, see :meth:`Level.read`; run it where `compute`."""
    has_objects, kind = level.source.schema.has_objects, level.kind
    if order not in (None, "chunk", "object"):
        raise InputError(f"order is 'chunk' or 'object', not {order!r}{did_you_mean(order, ('chunk', 'object'))}")
    if (objects is not None or order == "object") and not has_objects:
        raise InputError(f"{level.url} has no objects: leave out objects= and order='object'")
    cuts = bbox is not None or chunks is not None
    if cuts and not clip:
        if not has_objects:
            raise InputError(f"{level.url} has no objects, which clip=False is about: leave it out")
        objects = _objects_within(level, select_in(level, objects, bbox, chunks))
        bbox, chunks, cuts = None, None, False
    by_object = order == "object" or (order is None and kind in PATHS and has_objects)
    wanted, links = what_to_read(level, attributes, by_object=by_object, places=by_object and cuts and kind in PATHS)
    # a record may say of a row inside a box that its parent is outside, and be filed there
    incident = wanted.trees and cuts
    return _run(level, select_in(level, objects, bbox, chunks), wanted, links, incident=incident, compute=compute)


def what_to_read(
    level: LevelContents,
    attributes: Sequence[str] | None,
    *,
    linked: bool = True,
    by_object: bool = False,
    places: bool = False,
) -> tuple[Wanted, FoundLinks | None]:
    """Return what to read of every block, with the links between vertices where `linked`; and these."""
    links = level.found_links(0) if linked and level.kind in LINKED else None
    vertex, of_links = choose_attributes(level, attributes, links)
    trees = linked and level.has_implied_edges
    parents = linked and kind_of(level.kind).has_parents and not trees
    of_level = None if links is None else links.source
    return Wanted(vertex, None, by_object, places, trees, parents, of_level, of_links), links


def select_in(level: LevelContents, objects: Any, bbox: Any, chunks: Any) -> Selection:
    """Return what a user asks for of a level."""
    box = None if bbox is None else as_box(bbox, level.source.schema.grid.ndim)
    chosen = None if chunks is None else chosen_chunks(level, chunks)
    offset = None if bbox is None else level.offset
    return select(level.source, level.chunks, lambda: level.index, box=box, objects=objects, chunks=chosen, offset=offset)


def _objects_within(level: LevelContents, selection: Selection) -> NDArray[np.int64]:
    """Return the objects that have a vertex in a selection."""
    found = _run(level, selection, Wanted(by_object=True), None, tables=False)
    assert isinstance(found, Geometry)
    assert found.ids is not None
    assert found.lengths is not None
    return found.ids[found.lengths > 0]


def _run(
    level: LevelContents,
    selection: Selection,
    wanted: Wanted,
    links: FoundLinks | None,
    *,
    incident: bool = False,
    compute: bool = True,
    tables: bool = True,
) -> Geometry | Delayed:
    """Read a selection: block by block, and what comes of them."""
    source, table = level.source, level.chunks
    wanted = replace(wanted, box=selection.box)
    coords, every = table.coords[selection.chunks], len(selection.chunks) == len(table)
    most = settings().read_packed_block_chunks if level.is_packed else settings().read_block_chunks
    sizes = table.rows[selection.chunks] * source.schema.row_bytes
    runs = runs_of((sizes, settings().read_block_bytes), (np.ones_like(sizes), most))
    plans = plan_blocks(source, table, selection, runs, links, incident=incident)
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
    about = None
    if source.schema.has_objects:
        # paths are listed even where they have no vertices
        listed = level.kind in PATHS and wanted.by_object
        about = ReadObjects(
            source, coords, wanted.by_object, selection.chosen, selection.ids, listed, tables, Here(level.index)
        )
    if compute and len(plans) <= 1:  # small reads need no graph
        parts_read, facts = together(
            open_objects(source.place.handle), lambda: [read_block(p, wanted) for p in plans], about or ObjectFacts
        )
        return finish(parts_read, facts)
    builder = GraphBuilder("zv-read")
    parts = [builder.add(builder.key("block", i), read_block, plan, wanted) for i, plan in enumerate(plans)]
    end = builder.key("geometry")
    facts = ObjectFacts() if about is None else builder.add(builder.key("objects"), about)
    builder.add(end, finish, List(*parts), facts)
    delayed = builder.finish(end)
    if not compute:
        return delayed
    check_reachable(source.place.handle)
    result: Geometry = compute_one(delayed)
    return result
