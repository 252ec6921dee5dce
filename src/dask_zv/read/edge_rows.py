"""The links of a level as a table: edges or faces, chunk by chunk, their ends as level-wide numbers of vertices.

A vertex' number is its row in reading order (chunks ascending, fragments in order, rows in order). The links of a chunk are the
records that are filed under it, those inside of it first, then by the name of their segment; of skeletons they are the nodes of
the chunk that have a parent, in order. How many a chunk has is told by the sizes of its blobs, of skeletons by an array of our
writer's (:data:`~dask_zv.level.object_tables.EDGE_COUNTS`), so a table of a million chunks opens without a look at them.
What is read must be as many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError
from dask_zv.format.keys import coords_to_keys
from dask_zv.geometry.assembly import RowMap, take_ranges
from dask_zv.level.link_source import FoundLinks, LinkAttribute, LinkSegment, LinkSource
from dask_zv.level.object_tables import EDGE_COUNTS
from dask_zv.level.source import LevelSource, RunCache, level_blobs
from dask_zv.read.columns import LevelRows, RaggedColumns
from dask_zv.read.decode import ChunkRows
from dask_zv.read.link_cells import CellPlan, LinkCells, find_targets, plan_cells, read_cells
from dask_zv.read.links import find_endpoints
from dask_zv.spatial.chunks import ChunkLookup
from dask_zv.storage.catalog import Catalog

CONNECTIVITY = "/connectivity"
"""A column's name that no attribute can have."""
_AT_ONCE = 4096

# edges and parents of an object are the same records, and those of its chunks
_PARENTS: RunCache[ChunkRows] = RunCache(32 << 20, lambda p: p.nbytes + 200, ChunkRows.of_chunks, ChunkRows.join)


class _RowsBesideVertices(RaggedColumns):
    """Columns by the chunks of `vertices`."""

    def __init__(self, vertices: LevelRows, links: LinkSource) -> None:
        super().__init__()
        self.vertices = vertices
        self.links = links

    @property
    def source(self) -> LevelSource:
        """The level."""
        return self.vertices.source

    @property
    def where(self) -> str:
        """URL of the level, for errors."""
        return self.vertices.where


class EdgeRows(_RowsBesideVertices):
    """The links of a level, read when asked for; columns are :data:`CONNECTIVITY` and the attributes by name.

    `counts` are those of :func:`count_links`. With `trees` (skeletons) neighbours on a fragment are linked; attributes of links
    are not read then.
    """

    def __init__(self, vertices: LevelRows, links: LinkSource, counts: NDArray[np.int64], *, trees: bool) -> None:
        super().__init__(vertices, links)
        self.trees = trees
        self._counts: NDArray[np.int64] | None = counts

    def __getstate__(self) -> dict[str, Any]:
        # counted anew where it arrives: a table of numbers for each task would be the larger part of it
        return {**self.__dict__, "_counts": None, "_offsets": None}

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return (type(self).__name__, self.vertices.__dask_tokenize__(), repr(self.links), self.trees)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Links of each chunk."""
        if self._counts is None:
            self._counts = count_links(self.vertices, self.links, trees=self.trees)
        if self._counts is None:
            raise FormatError("the level was changed after it was opened: open it again", store=self.where)
        return self._counts

    @property
    def row_bytes(self) -> int:
        """Bytes of a record."""
        return 8 * (self.links.family.width + 1)

    def value_width(self, name: str) -> int:
        """Return how many values each link has of an attribute that does not say: the sizes of its blobs tell."""
        attribute = self._attribute(name)[1]
        catalog = level_blobs(self.vertices.source).catalog
        for segment, array in zip(self.links.segments, attribute.arrays, strict=True):
            if catalog is None or segment.array not in catalog.arrays or array not in catalog.arrays:
                continue
            records, _ = _records(self.links, segment, catalog.arrays[segment.array].nbytes)
            some = np.flatnonzero((records > 0) & catalog.arrays[array].have)[:1]
            if len(some):
                size = int(records[some[0]]) * attribute.schema.dtype.itemsize
                return max(1, int(catalog.arrays[array].nbytes[some[0]]) // size)
        first = self.column(name, slice(0, 1))
        return first.shape[1] if first.ndim > 1 else 1

    def _attribute(self, name: str | int) -> tuple[int, LinkAttribute]:
        return next((i, a) for i, a in enumerate(self.links.attributes) if a.schema.name == name)

    def empty(self, name: str | int) -> NDArray[Any]:
        """Return a column of no rows; nothing is read for it."""
        if name == CONNECTIVITY:
            return np.zeros((0, self.links.family.width), np.int64)
        schema = self._attribute(name)[1].schema
        return np.zeros((0,) if schema.channels is None else (0, schema.channels), schema.value_dtype)

    def _read_cells(self, name: str | int, chunks: NDArray[np.intp]) -> NDArray[Any]:
        if self.trees:
            parents = read_parents(self.vertices, self.links, chunks, implied=True)
            linked = parents >= 0
            self._check(chunks, _sums(linked, self.vertices.counts[chunks]))
            return np.stack([_numbers(self.vertices, chunks)[linked], parents[linked]], axis=1)
        number, attribute = (None, None) if name == CONNECTIVITY else self._attribute(name)
        cells, of_chunk = _filed_cells(self.vertices, self.links, chunks, [] if number is None else [number])
        self._check(chunks, np.bincount(of_chunk, cells.counts, len(chunks)).astype(np.int64))
        if attribute is None:
            return _record_rows(self.vertices, self.links, cells)
        return attribute.schema.values(cells.attributes[attribute.schema.name])

    def _check(self, chunks: NDArray[np.intp], have: NDArray[np.int64]) -> None:
        wrong = np.flatnonzero(have != self.counts[chunks])
        if len(wrong):
            at = int(wrong[0])
            key = coords_to_keys(self.vertices.table.coords[chunks[at : at + 1]])[0]
            raise FormatError(
                f"the chunk has {have[at]} links, {self.counts[chunks[at]]} were counted when it was written: another tool "
                "changed it; store.refresh() accepts the level as it is",
                store=self.where, array=self.links.array, chunk=key,
            )  # fmt: skip


def _sums(marks: NDArray[np.bool_], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many of the rows of each cell are marked."""
    out: NDArray[np.int64] = np.diff(np.append(0, np.cumsum(marks))[np.append(0, np.cumsum(rows))])
    return out


def _numbers(vertices: LevelRows, chunks: NDArray[np.intp]) -> NDArray[np.int64]:
    """Return the level-wide numbers of the vertices of some chunks."""
    rows = vertices.counts[chunks]
    return take_ranges(vertices.offsets[chunks], rows)


def _filed_cells(
    vertices: LevelRows, links: LinkSource, chunks: NDArray[np.intp], attributes: Sequence[int]
) -> tuple[LinkCells, NDArray[np.intp]]:
    """Return the records that are filed under some chunks, and which of these each cell is of."""
    blobs = level_blobs(vertices.source)
    coords = vertices.table.coords[chunks]
    mask = FoundLinks(links).present(coords, blobs.catalog)
    return read_cells(vertices.source, links, attributes, CellPlan.of(mask, coords), blobs), np.nonzero(mask.T)[0]


def filed_links(
    vertices: LevelRows, links: LinkSource, chunks: NDArray[np.intp], attributes: Sequence[int]
) -> tuple[NDArray[np.int64], dict[str, NDArray[Any]], NDArray[np.intp]]:
    """Return the m links that are filed under some chunks (ascending), chunk by chunk: each link of a level is under one.

    That is the level-wide numbers of their ends (m, L), the values of `attributes` (by number), and places in `chunks` (m,).
    `links` have no records across chunks in an array of their own.
    """
    cells, of_chunk = _filed_cells(vertices, links, chunks, attributes)
    schemas = [links.attributes[a].schema for a in attributes]
    values = {s.name: s.values(cells.attributes[s.name]) for s in schemas}
    return _record_rows(vertices, links, cells), values, np.repeat(of_chunk, cells.counts)


def _record_rows(vertices: LevelRows, links: LinkSource, cells: LinkCells) -> NDArray[np.int64]:
    """Return the level-wide numbers of the ends of records, in input order; shape (m, L)."""
    table = vertices.table
    chunks = np.unique(find_targets(links, cells.cells, table, vertices.where)[1])
    fragments = vertices.fragments(chunks)
    numbers, places = _numbers(vertices, chunks), fragments.row_map().places
    rows = RowMap(fragments.stored, numbers if places is None else np.append(numbers, -1)[places])
    return find_endpoints(vertices.source, links, cells, ChunkLookup(table.coords[chunks]), rows, every=True)


def count_links(vertices: LevelRows, links: LinkSource, *, trees: bool) -> NDArray[np.int64] | None:
    """Return the links of each chunk; None where only reading tells.

    The catalog must be that of the level. Of graphs and meshes the sizes of the blobs tell, where records have the form that
    writers give them (one group), and the sum is the number that the family counts; of skeletons our writer's table.
    """
    catalog = level_blobs(vertices.source).catalog
    if catalog is None or links.crossing is not None:
        return None
    return _counted(vertices) if trees else _counted_by_size(vertices, links, catalog)


def _records(links: LinkSource, segment: LinkSegment, size: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many records cells of these sizes have, and the bytes left over; -1 and less where there is no cell."""
    record = (links.family.width + segment.permuted) * np.dtype(segment.dtype).itemsize
    records, rest = np.divmod(size - (0 if segment.flat else 16), record)
    return records, rest


def _counted_by_size(vertices: LevelRows, links: LinkSource, catalog: Catalog) -> NDArray[np.int64] | None:
    at = catalog.find(vertices.table.coords)
    if (at < 0).any():
        return None
    counts = np.zeros(len(at), np.int64)
    for segment in links.segments:
        if segment.array not in catalog.arrays:
            return None
        size = catalog.arrays[segment.array].nbytes[at]
        here = size >= 0
        records, rest = _records(links, segment, size[here])
        if rest.any() or (records < 0).any():
            return None
        counts[here] += records
    return counts if int(counts.sum()) == (links.expected or 0) else None


def _counted(vertices: LevelRows) -> NDArray[np.int64] | None:
    """Return what the table of a level of skeletons says; None where there is none, or it is of other chunks."""
    coords, rows = vertices.table.coords, vertices.table.rows
    found = vertices.index.tables.own_table(EDGE_COUNTS, (len(coords), coords.shape[1] + 1))
    if found is None or not found[1] or not np.array_equal(found[0][:, :-1], coords):
        return None
    counts: NDArray[np.int64] = found[0][:, -1]
    return None if (counts < 0).any() or (counts > rows).any() else counts


def count_parents(vertices: LevelRows, links: LinkSource) -> NDArray[np.int64]:
    """Return how many nodes of each chunk have a parent, from fragments and links; a bounded number of chunks at a time."""
    counts: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    for start in range(0, len(vertices.table), _AT_ONCE):
        chunks = np.arange(start, min(start + _AT_ONCE, len(vertices.table)))
        counts.append(_sums(read_parents(vertices, links, chunks, implied=True) >= 0, vertices.counts[chunks]))
    return np.concatenate(counts)


class ParentRows(_RowsBesideVertices):
    """The parent of every vertex of a level of skeletons, read when asked for: its level-wide number, -1 at roots.

    Neighbours on a fragment are linked where that is `implied`, else all links are stored.
    """

    def __init__(self, vertices: LevelRows, links: LinkSource, *, implied: bool = True) -> None:
        super().__init__(vertices, links)
        self.implied = implied

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return (type(self).__name__, self.vertices.__dask_tokenize__(), repr(self.links), self.implied)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Vertices of each chunk."""
        return self.vertices.counts

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, with what is read for it."""
        return 32

    def empty(self, name: str | int) -> NDArray[Any]:
        """Return a column of no rows."""
        return np.zeros(0, np.int64)

    def _read_cells(self, name: str | int, chunks: NDArray[np.intp]) -> NDArray[Any]:
        return read_parents(self.vertices, self.links, chunks, implied=self.implied)


def read_parents(vertices: LevelRows, links: LinkSource, chunks: NDArray[np.intp], *, implied: bool) -> NDArray[np.int64]:
    """Return the level-wide number of the parent of every vertex of some chunks (ascending), -1 at roots.

    Where that is `implied`, neighbours on a fragment are linked, but where a record says otherwise.
    """
    key = (*vertices.source.state, links.array, implied)

    def make(which: NDArray[np.intp]) -> ChunkRows:
        return ChunkRows(vertices.counts[which], _parents_in(vertices, links, which, implied=implied))

    return _PARENTS.get(key, len(vertices.table), chunks, make).values


def _parents_in(vertices: LevelRows, links: LinkSource, chunks: NDArray[np.intp], *, implied: bool) -> NDArray[np.int64]:
    source, table = vertices.source, vertices.table
    blobs = level_blobs(source)
    mask, others = plan_cells(FoundLinks(links), blobs.catalog, table, chunks, vertices.where, incident=True)
    cells = read_cells(source, links, (), CellPlan.of(mask, table.coords[chunks]) + others, blobs)
    child, parent = _record_rows(vertices, links, cells).T
    first, rows = vertices.offsets[chunks], table.rows[chunks]
    parents = np.full(int(rows.sum()), -1, np.int64)
    if implied:
        parents = _numbers(vertices, chunks) - 1
        fragments = vertices.fragments(chunks)
        parents[fragments.starts[fragments.counts > 0]] = -1
    at = np.searchsorted(first, child, side="right") - 1
    mine = (at >= 0) & (child < first[at] + rows[at])
    places = (np.cumsum(rows) - rows)[at[mine]] + child[mine] - first[at[mine]]
    parents[places] = parent[mine]
    if not implied and len(np.unique(places)) != len(places):
        raise FormatError(
            "a node has several parents: links of this level are those of a graph, read its edges",
            store=vertices.where, array=links.array,
        )  # fmt: skip
    return parents
