"""Reading a level: which chunks, in which blocks, what is wanted of them; the parts of all blocks become one Geometry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from dask.delayed import Delayed
from dask.task_spec import List
from numpy.typing import NDArray

from dask_zv.config import settings
from dask_zv.errors import FormatError, InputError, did_you_mean
from dask_zv.format.keys import coords_to_keys
from dask_zv.geometry.assembly import Paths, RowMap, follow_copies, parents_of, parents_of_edges
from dask_zv.geometry.kinds import LINKED, PATHS, kind_of
from dask_zv.geometry.result import Geometry
from dask_zv.graph.builder import GraphBuilder
from dask_zv.graph.run import check_reachable, compute_one, shares_memory
from dask_zv.level.contents import LevelContents
from dask_zv.level.fragment_table import chunk_numbers
from dask_zv.level.link_source import FoundLinks
from dask_zv.level.source import LevelSource
from dask_zv.read.decode import empty_columns, join_columns
from dask_zv.read.links import Endpoints, resolve_links
from dask_zv.read.objects import Here, ObjectFacts, ReadObjects
from dask_zv.read.room import Room
from dask_zv.read.select import Part, Selection, Wanted, choose_attributes, chosen_chunks, plan_blocks, read_block, select
from dask_zv.spatial.chunks import ChunkLookup, runs_of
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
            raise InputError(f"{level.url} has no objects, which clip=False needs: leave it out")
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
    whole = every and selection.chosen is None and selection.box is None
    into = Room.of(source, wanted.attributes, table.rows) if whole and compute and shares_memory() else None
    finish = Finish(
        source,
        wanted,
        coords,
        every,
        whole,
        table.coords if links is not None and links.source.crossing is not None else None,
        level.is_chunked_skeleton,
        level.offset,
        into,
    )
    rooms = [None if into is None else into.part(*run) for run in runs]
    about = None
    if source.schema.has_objects:
        # paths are listed even where they have no vertices
        listed = level.kind in PATHS and wanted.by_object
        about = ReadObjects(
            source, coords, wanted.by_object, selection.chosen, selection.ids, listed, tables, Here(level.index)
        )
    if compute and len(plans) <= 1:  # small reads need no graph
        blocks = zip(plans, rooms, strict=True)
        parts_read, facts = together(
            open_objects(source.place.handle), lambda: [read_block(p, wanted, r) for p, r in blocks], about or ObjectFacts
        )
        return finish(parts_read, facts)
    builder = GraphBuilder("zv-read")
    tasks = enumerate(zip(plans, rooms, strict=True))
    parts = [builder.add(builder.key("block", i), read_block, plan, wanted, room) for i, (plan, room) in tasks]
    end = builder.key("geometry")
    facts = ObjectFacts() if about is None else builder.add(builder.key("objects"), about)
    builder.add(end, finish, List(*parts), facts)
    delayed = builder.finish(end)
    if not compute:
        return delayed
    check_reachable(source.place.handle)
    result: Geometry = compute_one(delayed)
    return result


# -------------------------------------------------------------------------------------------------- the whole


@dataclass(frozen=True, slots=True, eq=False)
class Finish:
    """Make the result from the blocks' parts."""

    source: LevelSource
    wanted: Wanted
    coords: NDArray[np.int64]  # the chunks that were read, ascending, shape (n, K)
    every: bool  # they are all of the level's
    whole: bool  # and no row of them was left out
    level: NDArray[np.int64] | None = None
    """All chunks of the level, where links may lead to others than those that were read; shape (m, K)."""
    chunked: bool = False  # skeletons of one path a fragment
    offset: tuple[float, ...] | None = None  # to be added to all positions
    room: Room | None = None  # what the parts' rows were read into, where they are where they should be

    def __call__(self, parts: Sequence[Part], objects: ObjectFacts) -> Geometry:
        positions, columns = self._join(parts)
        owners = None
        if self.source.schema.has_objects and not self.wanted.by_object:
            owners = _joined(parts, lambda p: p.owners, np.int64)
        links = self._links(parts)
        edges, parents, told = self._edges(parts, links)
        ids = lengths = None
        if self.wanted.by_object:
            paths = self._by_object(parts, objects)
            n = len(positions)
            positions, columns = positions[paths.rows], {k: v[paths.rows] for k, v in columns.items()}
            owners, ids, lengths = paths.owners, paths.ids, paths.lengths
            if edges is not None:
                edges, records = follow_copies(edges, paths.rows, paths.owners, n)
                told = records if isinstance(told, slice) else told[records]
                if parents is not None:
                    parents = np.full(len(positions), -1, np.int64)
                    parents[edges[:, 0]] = edges[:, 1]
                    order = np.argsort(edges[:, 0], kind="stable")
                    edges, told = edges[order], told[order]
        if self.offset is not None:
            positions = positions.astype(np.float64) + np.asarray(self.offset)
        schemas = {a.name: a for a in self.wanted.attributes}
        values = {k: schemas[k].values(v) if k in schemas else self._chunk_values(v) for k, v in columns.items()}
        extra: dict[str, Any] = {"ids": ids, "lengths": lengths, "parents": parents}
        if edges is not None and links is not None:
            of_links = {name: _taken(column, told) for name, column in links.attributes.items()}
            faces = edges.shape[1] > 2
            extra |= {"faces": edges, "face_attributes": of_links} if faces else {"edges": edges, "edge_attributes": of_links}
        elif edges is not None:
            extra["edges"] = edges
        extra |= objects.tables
        return Geometry(positions, values, owners, **extra)

    def _join(self, parts: Sequence[Part]) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
        if len(parts) == 1:
            return parts[0].positions, dict(parts[0].columns)
        columns = empty_columns(self.source, self.wanted.attributes)
        if not parts:
            return np.zeros((0, self.source.schema.grid.ndim), self.source.schema.dtype), columns
        room = self.room if all(p.in_room for p in parts) else None
        there = {} if room is None else dict(room.columns)
        joined = {n: there[n] if n in there else join_columns(self.source, n, [p.columns[n] for p in parts]) for n in columns}
        if room is not None:
            return room.positions, joined
        return np.concatenate([p.positions for p in parts]), joined

    def _links(self, parts: Sequence[Part]) -> Endpoints | None:
        links = self.wanted.links
        if links is None:
            return None
        rows = RowMap.join([p.rows for p in parts if p.rows is not None], [len(p) for p in parts])
        cells = [c for p in parts for c in p.links]
        exact = self.source.catalogued and not any(p.edited for p in parts)
        return resolve_links(
            self.source,
            links,
            self.wanted.link_attributes,
            cells,
            rows,
            self.coords,
            self.level,
            every=self.every,
            counted=self.whole,
            exact=exact,
        )

    def _edges(
        self, parts: Sequence[Part], links: Endpoints | None
    ) -> tuple[NDArray[np.int64] | None, NDArray[np.int64] | None, NDArray[np.int64] | slice]:
        """Return links, parents, and which record each link is (-1 for none); a slice where that is all of them."""
        nothing = np.zeros(0, np.int64)
        if self.wanted.trees:
            linked = _joined(parts, lambda p: p.linked, bool)
            first = _joined(parts, lambda p: p.first, bool)
            records = np.zeros((0, 2), np.int64) if links is None else links.rows
            if records.shape[1] == 2:
                parents, told = parents_of(linked, first, records, either_way=self.chunked)
                child = np.flatnonzero(parents >= 0)
                return np.stack([child, parents[child]], axis=1), parents, told[child]
        if links is None and self.wanted.parents:
            return np.zeros((0, 2), np.int64), np.full(sum(map(len, parts)), -1, np.int64), nothing
        if links is None or links.rows.shape[1] == 1:
            return None, None, nothing
        there = (links.rows >= 0).all(axis=1)
        kept = slice(None) if there.all() else np.flatnonzero(there)
        edges = links.rows[kept]
        wanted = self.wanted.parents and edges.shape[1] == 2
        return edges, parents_of_edges(edges, sum(map(len, parts))) if wanted else None, kept

    def _by_object(self, parts: Sequence[Part], objects: ObjectFacts) -> Paths:
        """Return the rows in the order of the manifests; a fragment that several objects share appears in each."""
        table = objects.table
        assert table is not None
        fragments = _joined(parts, lambda p: p.fragments, np.int64)
        counts = _joined(parts, lambda p: p.counts, np.int64)
        kept = _joined(parts, lambda p: p.kept, np.int64)
        read_chunks = ChunkLookup(self.coords)
        if self.every:
            number = chunk_numbers(read_chunks, table.chunks, self.source.where())
        else:
            number = read_chunks.find(table.chunks)
        read = number >= 0
        beyond = np.flatnonzero(table.fragments >= np.append(fragments, np.iinfo(np.int64).max)[number])
        if len(beyond):
            at = beyond[0]
            raise FormatError(
                f"a manifest names fragment {table.fragments[at]}, the chunk has {fragments[number[at]]}",
                store=self.source.where(), array="object_index", chunk=coords_to_keys(table.chunks[at : at + 1])[0],
            )  # fmt: skip
        first = np.append(np.cumsum(fragments) - fragments, 0)
        entry = np.where(read, first[number] + table.fragments, len(counts))
        starts = np.append(np.cumsum(kept) - kept, 0)[entry]
        sizes = np.append(kept, 0)[entry]
        if self.wanted.places:
            places = _joined(parts, lambda p: p.places, np.int64)
            # how long a piece is that was not read is not known, but that it is not empty
            return Paths.runs(table.objects, starts, sizes, np.append(counts, 1)[entry], places)
        ids = np.unique(table.objects) if objects.ids is None else objects.ids
        return Paths.whole(table.objects, starts, sizes, ids)

    def _chunk_values(self, codes: NDArray[Any]) -> NDArray[Any]:
        assert self.source.chunk_attribute is not None
        name, values = self.source.chunk_attribute
        if len(codes) and (int(codes.min()) < 0 or int(codes.max()) >= len(values)):
            raise FormatError(f"a chunk key names value {int(codes.max())} of attribute {name!r}, which has {len(values)}")
        return np.asarray(values)[codes] if len(values) else np.zeros(len(codes), "<U1")


def _joined(parts: Sequence[Part], get: Callable[[Part], NDArray[Any] | None], dtype: Any) -> NDArray[Any]:
    values = [v for p in parts if (v := get(p)) is not None]
    return values[0] if len(values) == 1 else np.concatenate([np.zeros(0, dtype), *values])


def _taken(column: NDArray[Any], records: NDArray[np.int64] | slice) -> NDArray[Any]:
    """Return the values of records; masked where there is none."""
    if isinstance(records, slice):
        return column[records]
    told = records >= 0
    if told.all():
        return column[records]
    out = np.ma.MaskedArray(np.zeros((len(records), *column.shape[1:]), column.dtype), True)
    out[told] = column[records[told]]
    return out
