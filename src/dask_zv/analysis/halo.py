"""Blocks of chunks with the far ends of their links: each link is in one chunk, so that sums over links are right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.analysis.chunks import ChunkBlock
from dask_zv.analysis.cutting import Pieces, chunk_name
from dask_zv.errors import FormatError, InputError
from dask_zv.format.keys import coords_to_keys
from dask_zv.geometry.assembly import take_ranges
from dask_zv.geometry.kinds import LINKED, PATHS, kind_of
from dask_zv.geometry.result import Geometry
from dask_zv.level.contents import LevelContents
from dask_zv.level.fragment_table import chunk_numbers
from dask_zv.level.link_source import LinkSource
from dask_zv.level.object_index import fragment_owners
from dask_zv.level.source import level_blobs
from dask_zv.read.columns import OBJECT_ID, LevelRows
from dask_zv.read.edge_rows import filed_links, read_parents
from dask_zv.read.levels import read_level
from dask_zv.read.select import choose_attributes


@dataclass(frozen=True, slots=True, eq=False)
class HaloBlock:
    """A block as its task gets it."""

    chunks: ChunkBlock
    links: NDArray[np.int64] | None = None
    """Its links by level-wide rows, shape (m, L), ascending by the first; None where the task reads them."""
    values: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Attributes of the links."""


@dataclass(frozen=True, slots=True, eq=False)
class HaloReader:
    """How tasks read their blocks."""

    vertices: LevelRows
    attributes: tuple[str, ...]
    """Of vertices."""
    name: str
    """``"edges"`` or ``"faces"``."""
    links: LinkSource | None = None
    """None for paths: neighbours on one are linked."""
    link_attributes: tuple[int, ...] = ()
    trees: bool = False
    """Neighbours on a fragment are linked, but where a record says otherwise."""
    parents: bool = False
    """Edges are (child, parent)."""
    rows: slice | NDArray[np.int64] | None = None
    """Vertices that are selected, ascending; links to others are left out. All where None."""

    def pieces(self, block: HaloBlock) -> Pieces:
        """Return coordinates of the chunks that have rows, how many of them are their own, and name and geometry of each."""
        table = self.vertices.table
        chunks = table.find(block.chunks.plan.coords)
        own = take_ranges(self.vertices.offsets[chunks], table.rows[chunks])
        if block.chunks.rows is not None:
            own = own[block.chunks.rows.among(np.arange(len(own)))]
        counts = np.bincount(self._place(own, chunks), minlength=len(chunks)).astype(np.int64)
        links, values, of_chunk = self._links(block, chunks)
        kept = self._is_selected(links).all(axis=1)
        values = {k: v[kept] for k, v in values.items()}
        there = np.flatnonzero(counts)
        coords = block.chunks.plan.coords[there]
        pieces = self._pieces(own, counts, links[kept], values, of_chunk[kept])
        return coords, counts[there], partial(chunk_name, coords), pieces

    def _place(self, rows: NDArray[np.int64], chunks: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return which of some chunks (ascending) rows are in."""
        return np.searchsorted(chunks, np.searchsorted(self.vertices.offsets, rows, side="right") - 1)

    def _is_selected(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        if self.rows is None:
            return np.ones(rows.shape, bool)
        if isinstance(self.rows, slice):
            within: NDArray[np.bool_] = (rows >= self.rows.start) & (rows < self.rows.stop)
        else:
            within = np.append(self.rows, -1)[np.searchsorted(self.rows, rows)] == rows
        return within

    def _links(
        self, block: HaloBlock, chunks: NDArray[np.intp]
    ) -> tuple[NDArray[np.int64], Mapping[str, NDArray[Any]], NDArray[np.intp]]:
        """Return the links of a block chunk by chunk, their attributes, and which of its chunks each is of."""
        if block.links is None and self.links is not None and not self.trees:
            return filed_links(self.vertices, self.links, chunks, self.link_attributes)
        if block.links is not None:
            links, values = block.links, block.values
        else:
            links, values = _path_links(self.vertices, chunks) if self.links is None else self._tree_links(chunks), {}
        return links, values, self._place(links[:, 0], chunks)

    def _tree_links(self, chunks: NDArray[np.intp]) -> NDArray[np.int64]:
        assert self.links is not None
        rows = take_ranges(self.vertices.offsets[chunks], self.vertices.counts[chunks])
        parents = read_parents(self.vertices, self.links, chunks, implied=True)
        return np.stack([rows, parents], axis=1)[parents >= 0]

    def _pieces(
        self,
        own: NDArray[np.int64],
        counts: NDArray[np.int64],
        links: NDArray[np.int64],
        values: Mapping[str, NDArray[Any]],
        of_chunk: NDArray[np.intp],
    ) -> Iterator[Geometry]:
        """Yield the geometry of each chunk that has rows."""
        every = np.unique(np.concatenate([own, links.ravel()]))
        column, ndim = self.vertices.column, self.vertices.source.schema.grid.ndim
        positions = np.stack([column(i, every) for i in range(ndim)], axis=1)
        columns = {name: column(name, every) for name in self.attributes}
        owners = column(OBJECT_ID, every) if self.vertices.source.schema.has_objects else None
        ends, bounds = np.cumsum(counts), np.searchsorted(of_chunk, np.arange(len(counts) + 1))
        for i in np.flatnonzero(counts).tolist():
            mine, some = own[ends[i] - counts[i] : ends[i]], slice(bounds[i], bounds[i + 1])
            far = np.setdiff1d(links[some], mine)
            rows = np.concatenate([mine, far])
            order = np.argsort(rows, kind="stable")
            named = order[np.searchsorted(rows[order], links[some])].reshape(-1, links.shape[1])
            at = np.searchsorted(every, rows)
            parents = None
            if self.parents:
                parents = np.full(len(rows), -1, np.int64)
                parents[named[:, 0]] = named[:, 1]
            of_links = {
                self.name: named,
                f"{self.name[:-1]}_attributes": {k: v[some] for k, v in values.items()},
            }
            yield Geometry(
                positions[at],
                {name: v[at] for name, v in columns.items()},
                None if owners is None else owners[at],
                parents=parents,
                halo=len(far),
                **of_links,  # type: ignore[arg-type]
            )


def _path_links(vertices: LevelRows, chunks: NDArray[np.intp]) -> NDArray[np.int64]:
    """Return the segments of paths that begin in some chunks (ascending): rows that follow each other; shape (m, 2)."""
    level = vertices.table
    owners = fragment_owners(vertices.source, level.coords[chunks], vertices.index)
    table = vertices.index.select(np.unique(owners.within(level.coords[chunks]).objects))
    number = chunk_numbers(level, table.chunks, vertices.where)
    first, size = (np.full(len(number) + 1, -1, np.int64) for _ in range(2))

    def look_up(entries: NDArray[np.intp]) -> None:
        wanted = np.unique(number[entries])
        found = vertices.fragments(wanted)
        fragments = found.numbers
        place, named = np.searchsorted(wanted, number[entries]), table.fragments[entries]
        beyond = np.flatnonzero(named >= fragments[place])
        if len(beyond):
            raise FormatError(
                f"a manifest names fragment {named[beyond[0]]}, the chunk has {fragments[place[beyond[0]]]}",
                store=vertices.source.where(), array="object_index",
                chunk=coords_to_keys(table.chunks[entries[beyond[:1]]])[0],
            )  # fmt: skip
        at = (np.cumsum(fragments) - fragments)[place] + named
        of_chunk = np.cumsum(found.rows) - found.rows
        starts = found.starts + np.repeat(vertices.offsets[wanted] - of_chunk, fragments)
        first[entries], size[entries] = starts[at], found.counts[at]

    here = np.flatnonzero(np.isin(number, chunks))
    if not len(here):
        return np.zeros((0, 2), np.int64)
    look_up(here)
    here = here[size[here] > 0]
    inside = take_ranges(first[here], size[here] - 1)
    objects = np.append(table.objects, -1)
    following = here + 1
    while True:  # edits leave fragments without rows
        goes_on = objects[following] == objects[here]
        unknown = following[goes_on & (size[following] < 0)]
        if len(unknown):
            look_up(unknown)
        empty = goes_on & (size[following] == 0)
        if not empty.any():
            break
        following = following + empty
    last = (first[here] + size[here] - 1)[goes_on]
    found = np.stack([np.append(inside, last), np.append(inside + 1, first[following[goes_on]])], axis=1)
    return found[np.lexsort(found.T[::-1])]


def halo_reader(level: LevelContents, attributes: Sequence[str] | None, rows: slice | NDArray[np.int64] | None) -> HaloReader:
    """Return how tasks read blocks of a level with the far ends of its links."""
    vertices = LevelRows(level.source, level.chunks, level.offset)
    if rows is not None and not isinstance(rows, slice):
        rows = np.unique(rows)
    elif rows is not None and rows.step not in (None, 1):
        rows = np.arange(len(vertices))[rows]
    elif rows is not None:
        rows = slice(*rows.indices(len(vertices))[:2])
    links = level.found_links(0) if level.kind in LINKED else None
    columns, of_links = choose_attributes(level, attributes, links)
    names = tuple(a.name for a in columns)
    own = level.source.chunk_attribute
    if own is not None and (attributes is None or own[0] in attributes):
        names = (*names, own[0])
    if level.kind in PATHS and level.source.schema.has_objects:
        return HaloReader(vertices, names, "edges", rows=rows)
    if level.kind not in LINKED or (links is not None and links.source.family.width == 1):
        raise InputError(f"{level.url} has no links between vertices ({level.kind}): leave out halo='links'")
    name = "faces" if (kind_of(level.kind).link == "face" if links is None else links.source.family.width > 2) else "edges"
    source = None if links is None else links.source
    trees = level.has_implied_edges
    return HaloReader(vertices, names, name, source, of_links, trees, kind_of(level.kind).has_parents, rows)


def halo_blocks(level: LevelContents, reader: HaloReader, blocks: Sequence[ChunkBlock]) -> tuple[HaloReader, list[HaloBlock]]:
    """Return the blocks with their links, where only the whole level tells which chunk each is of.

    That is so in stores of other tools (no catalog, or records across chunks in an array of their own), and of skeletons whose
    records don't tell child and parent: all links are read now.
    """
    links = reader.links
    by_chunk = links is not None and links.crossing is None and not level.is_chunked_skeleton
    by_chunk &= level_blobs(level.source).catalog is not None
    if level.kind in PATHS or (by_chunk and (reader.trees or not reader.parents)):
        return reader, [HaloBlock(b) for b in blocks]
    wanted = [] if links is None else [links.attributes[i].schema.name for i in reader.link_attributes]
    found = read_level(level, order="chunk", attributes=wanted)
    ends = found.faces if reader.name == "faces" else found.edges
    values = found.face_attributes if reader.name == "faces" else found.edge_attributes
    if ends is None:
        ends = np.zeros((0, 3 if reader.name == "faces" else 2), np.int64)
    order = np.argsort(ends[:, 0], kind="stable")
    ends, values = ends[order], {k: v[order] for k, v in values.items()}
    of_chunk = np.searchsorted(reader.vertices.offsets, ends[:, 0], side="right") - 1
    out = []
    for block in blocks:
        mine = np.flatnonzero(np.isin(of_chunk, level.chunks.find(block.plan.coords)))
        out.append(HaloBlock(block, ends[mine], {k: v[mine] for k, v in values.items()}))
    return replace(reader, parents=found.parents is not None), out
