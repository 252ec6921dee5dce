"""The links of a level as a table: edges or faces, chunk by chunk, their ends as level-wide numbers of vertices.

A vertex' number is its row in reading order (chunks ascending, fragments in order, rows in order). The links of a chunk are the
records that are filed under it, those inside of it first, then by the name of their segment; of skeletons they are the nodes of
the chunk that have a parent, in order. How many a chunk has is told by the sizes of its blobs, of skeletons by an array of our
writer's (:data:`EDGE_COUNTS`), so a table of a million chunks opens without a look at them. What is read must be as many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError
from dask_zv.format.fragment_index import FragmentIndex
from dask_zv.format.keys import coords_to_keys
from dask_zv.geometry.assembly import RowMap, input_order
from dask_zv.level.link_source import FoundLinks, LinkSegment, LinkSource
from dask_zv.level.object_tables import VALUES_CRC32C, decoding, values_checksum
from dask_zv.level.source import LevelSource, level_blobs
from dask_zv.read.chunk_rows import fetch_chunks
from dask_zv.read.columns import LevelRows
from dask_zv.read.link_reading import CellPlan, LinkCells, cell_addresses, decode_cells, plan_cells
from dask_zv.read.ragged import RaggedColumns
from dask_zv.storage.catalog import Catalog
from dask_zv.storage.layout import Blobs
from dask_zv.storage.objects import Address

CONNECTIVITY = "/connectivity"
"""A column's name that no attribute can have."""
_AT_ONCE = 4096
EDGE_COUNTS = "dask_zv_edges"
"""Array (n, K + 1) of int64 in a level of skeletons: coordinates of each chunk, and how many of its nodes have a parent."""


class EdgeRows(RaggedColumns):
    """The links of a level, read when asked for; columns are :data:`CONNECTIVITY` and the attributes by name.

    Parameters
    ----------
    vertices : LevelRows
    links : LinkSource
    counts : ndarray of int64, shape (n,)
        Links of each chunk, as :func:`count_links` tells.
    trees : bool
        Skeletons: neighbours on a fragment are linked. Attributes of links are not read then.
    """

    def __init__(self, vertices: LevelRows, links: LinkSource, counts: NDArray[np.int64], *, trees: bool) -> None:
        super().__init__()
        self.vertices = vertices
        self.links = links
        self.trees = trees
        self._counts: NDArray[np.int64] | None = counts

    def __getstate__(self) -> dict[str, Any]:
        # counted anew where it arrives: a table of numbers for each task would be the larger part of it
        return {"vertices": self.vertices, "links": self.links, "trees": self.trees}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._counts = None
        self._offsets = None

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return (type(self).__name__, self.vertices.__dask_tokenize__(), repr(self.links), self.trees)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Links of each chunk."""
        if self._counts is None:
            counts = count_links(self.vertices, self.links, trees=self.trees)
            if counts is None:
                raise FormatError(
                    "the level was changed after it was opened: open it again", store=self.vertices.source.where()
                )
            self._counts = counts
        return self._counts

    @property
    def source(self) -> LevelSource:
        """The level."""
        return self.vertices.source

    @property
    def where(self) -> str:
        """URL of the level, for errors."""
        return self.vertices.source.where()

    @property
    def row_bytes(self) -> int:
        """Bytes of a record."""
        return 8 * (self.links.family.width + 1)

    def value_width(self, name: str) -> int:
        """Return how many values each link has of an attribute that does not say: the sizes of its blobs tell."""
        attribute = self.links.attributes[self._attribute(name)]
        catalog = level_blobs(self.source).catalog
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

    def _attribute(self, name: str) -> int:
        return next(i for i, a in enumerate(self.links.attributes) if a.schema.name == name)

    def _empty(self, name: str | int) -> NDArray[Any]:
        if name == CONNECTIVITY:
            return np.zeros((0, self.links.family.width), np.int64)
        schema = self.links.attributes[self._attribute(str(name))].schema
        shape = (0,) if schema.channels is None else (0, schema.channels)
        return np.zeros(shape, schema.value_dtype)

    def _read_cells(self, name: str | int, chunks: NDArray[np.intp]) -> list[NDArray[Any]]:
        if self.trees:
            return [self._trees(chunks)]
        numbers = [] if name == CONNECTIVITY else [self._attribute(str(name))]
        cells, of_chunk = _cells(self.vertices, self.links, chunks, numbers)
        self._check(chunks, np.bincount(of_chunk, cells.counts, len(chunks)).astype(np.int64))
        if name == CONNECTIVITY:
            return [_record_rows(self.vertices, self.links, cells)]
        schema = self.links.attributes[numbers[0]].schema
        return [schema.values(cells.attributes[schema.name])]

    def _trees(self, chunks: NDArray[np.intp]) -> NDArray[np.int64]:
        """Return (child, parent) of the nodes of some chunks."""
        parents = read_parents(self.vertices, self.links, chunks, implied=True)
        rows = self.vertices.counts[chunks]
        child = np.arange(len(parents)) + np.repeat(self.vertices.offsets[chunks] - (np.cumsum(rows) - rows), rows)
        linked = parents >= 0
        self._check(chunks, np.diff(np.append(0, np.cumsum(linked))[np.append(0, np.cumsum(rows))]))
        return np.stack([child[linked], parents[linked]], axis=1)

    def _check(self, chunks: NDArray[np.intp], have: NDArray[np.int64]) -> None:
        wrong = np.flatnonzero(have != self.counts[chunks])
        if len(wrong):
            at = int(wrong[0])
            raise FormatError(
                f"the chunk has {have[at]} links, {self.counts[chunks[at]]} were told of when it was written: another tool "
                "changed it; store.refresh() takes the level as it is",
                store=self.vertices.source.where(), array=self.links.array, chunk=self._key(int(chunks[at])),
            )  # fmt: skip

    def _key(self, chunk: int) -> str:
        return coords_to_keys(self.vertices.table.coords[chunk : chunk + 1])[0]


def _cells(
    vertices: LevelRows, links: LinkSource, chunks: NDArray[np.intp], attributes: Sequence[int]
) -> tuple[LinkCells, NDArray[np.intp]]:
    """Return the records that are filed under some chunks, and which of these each cell is of."""
    source = vertices.source
    blobs = level_blobs(source)
    coords = vertices.table.coords[chunks]
    mask = FoundLinks(links).present(coords, blobs.catalog)
    plan = CellPlan.of(mask, coords)
    found = _fetch(source, blobs, cell_addresses(links, attributes, plan))
    return decode_cells(source, links, attributes, plan, found), np.nonzero(mask.T)[0]


def filed_links(
    vertices: LevelRows, links: LinkSource, chunks: NDArray[np.intp], attributes: Sequence[int]
) -> tuple[NDArray[np.int64], dict[str, NDArray[Any]], NDArray[np.intp]]:
    """Return the links that are filed under some chunks, chunk by chunk: each link of a level is filed under one.

    Parameters
    ----------
    vertices : LevelRows
    links : LinkSource
        Without records across chunks in an array of their own.
    chunks : ndarray of intp, shape (n,)
        Ascending numbers of chunks.
    attributes : sequence of int

    Returns
    -------
    ends : ndarray of int64, shape (m, L)
        Level-wide numbers of vertices.
    values : dict of str to ndarray, shape (m, ...)
    of_chunk : ndarray of intp, shape (m,)
        Places in `chunks`.

    Raises
    ------
    FormatError
        A record names a chunk or a row that isn't there.
    """
    cells, of_chunk = _cells(vertices, links, chunks, attributes)
    schemas = [links.attributes[a].schema for a in attributes]
    values = {s.name: s.values(cells.attributes[s.name]) for s in schemas}
    return _record_rows(vertices, links, cells), values, np.repeat(of_chunk, cells.counts)


def _fetch(source: LevelSource, blobs: Blobs, addresses: Sequence[Address]) -> dict[Address, bytes]:
    """Read cells of links; those of another state of the level are refused."""
    return fetch_chunks(source, blobs, (), (), positions=False, indexes=False, more=addresses)


def _record_rows(vertices: LevelRows, links: LinkSource, cells: LinkCells) -> NDArray[np.int64]:
    """Return the level-wide numbers of the ends of records, in input order; shape (m, L).

    Raises
    ------
    FormatError
        A record names a chunk or a row that isn't there.
    """
    targets = links.targets(cells.cells.coords, cells.cells.segments)
    table = vertices.table
    at = table.find(targets)
    if (at < 0).any():
        cell, slot = np.argwhere(at < 0)[0].tolist()
        raise FormatError(
            f"links lead to chunk {coords_to_keys(targets[cell, slot][None])[0]}, which the level does not have",
            store=vertices.source.where(), array=links.segments[int(cells.cells.segments[cell])].array,
            chunk=coords_to_keys(cells.cells.coords[cell : cell + 1])[0],
        )  # fmt: skip
    chunks, number = np.unique(at, return_inverse=True)
    number = np.repeat(number.reshape(at.shape), cells.counts, axis=0)
    places = [
        _reading_order(i, int(n)) + int(first)
        for i, n, first in zip(vertices.indexes(chunks), table.rows[chunks], vertices.offsets[chunks], strict=True)
    ]
    rows = RowMap(table.rows[chunks], np.concatenate([np.zeros(0, np.int64), *places]))
    beyond = rows.beyond(number, cells.rows)
    if len(beyond):
        cell = cells.cell_of(int(beyond[0]))
        raise FormatError(
            f"a link names a row {cells.rows[beyond[0]].tolist()} that its chunk does not have: the links do not belong to "
            "these vertices (an interrupted overwrite, or another tool's edit); write the level again",
            store=vertices.source.where(), array=links.segments[int(cells.cells.segments[cell])].array,
            chunk=coords_to_keys(cells.cells.coords[cell : cell + 1])[0],
        )  # fmt: skip
    return input_order(rows.find(number, cells.rows), cells.order)


def _reading_order(index: FragmentIndex | None, n: int) -> NDArray[np.int64]:
    """Return the place in reading order of each stored row of a chunk."""
    if index is None or index.tiles(n):
        return np.arange(n)
    out = np.full(n, -1, np.int64)
    rows = index.all_rows()
    out[rows[::-1]] = np.arange(len(rows))[::-1]  # a row that several fragments name is the first of them
    return out


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
    table = vertices.table
    at = catalog.find(table.coords)
    if (at < 0).any():
        return None
    counts = np.zeros(len(table), np.int64)
    for segment in links.segments:
        if segment.array not in catalog.arrays:
            return None
        size = catalog.arrays[segment.array].nbytes[at]
        here = size >= 0
        records, rest = _records(links, segment, size[here])
        if rest.any() or (records < 0).any():
            return None
        counts[here] += records
    expected = links.family.count if links.family.store == "duplicate" else (links.family.physical or links.family.count)
    return counts if int(counts.sum()) == (expected or 0) else None


def _counted(vertices: LevelRows) -> NDArray[np.int64] | None:
    """Return what the table of a level of skeletons says; None where there is none, or it is of other chunks."""
    tables = vertices.index.tables
    if tables.document(EDGE_COUNTS) is None:
        return None
    array = tables.open(EDGE_COUNTS)
    coords, rows = vertices.table.coords, vertices.table.rows
    if array.shape != (len(coords), coords.shape[1] + 1) or array.dtype != np.int64:
        return None
    found = decoding(vertices.source, EDGE_COUNTS, lambda: np.asarray(array[...]))
    counts: NDArray[np.int64] = found[:, -1]
    if array.attrs.get(VALUES_CRC32C) != values_checksum(found) or not np.array_equal(found[:, :-1], coords):
        return None
    if (counts < 0).any() or (counts > rows).any():
        return None
    return counts


def count_parents(vertices: LevelRows, links: LinkSource) -> NDArray[np.int64]:
    """Return how many nodes of each chunk have a parent, from fragments and links; a bounded number of chunks at a time."""
    counts: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    for start in range(0, len(vertices.table), _AT_ONCE):
        chunks = np.arange(start, min(start + _AT_ONCE, len(vertices.table)))
        linked = read_parents(vertices, links, chunks, implied=True) >= 0
        ends = np.cumsum(vertices.counts[chunks])
        counts.append(np.diff(np.append(0, np.cumsum(linked))[np.append(0, ends)]))
    return np.concatenate(counts)


class ParentRows(RaggedColumns):
    """The parent of every vertex of a level of skeletons, read when asked for: its level-wide number, -1 at roots.

    Parameters
    ----------
    vertices : LevelRows
    links : LinkSource
    implied : bool
        Neighbours on a fragment are linked; False where all links are stored.
    """

    def __init__(self, vertices: LevelRows, links: LinkSource, *, implied: bool = True) -> None:
        super().__init__()
        self.vertices = vertices
        self.links = links
        self.implied = implied

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return (type(self).__name__, self.vertices.__dask_tokenize__(), repr(self.links), self.implied)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Vertices of each chunk."""
        return self.vertices.counts

    @property
    def where(self) -> str:
        """URL of the level, for errors."""
        return self.vertices.source.where()

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, with what is read for it."""
        return 32

    def _empty(self, name: str | int) -> NDArray[Any]:
        return np.zeros(0, np.int64)

    def _read_cells(self, name: str | int, chunks: NDArray[np.intp]) -> list[NDArray[Any]]:
        return [read_parents(self.vertices, self.links, chunks, implied=self.implied)]


def read_parents(vertices: LevelRows, links: LinkSource, chunks: NDArray[np.intp], *, implied: bool) -> NDArray[np.int64]:
    """Return the level-wide number of the parent of every vertex of some chunks, -1 at roots.

    Parameters
    ----------
    vertices : LevelRows
    links : LinkSource
    chunks : ndarray of intp, shape (n,)
        Ascending numbers of chunks.
    implied : bool
        Neighbours on a fragment are linked, but where a record says otherwise.

    Returns
    -------
    ndarray of int64, shape (rows,)

    Raises
    ------
    FormatError
        A record leads to a chunk or a row that isn't there; or records alone tell, and a node has several parents.
    """
    source, table = vertices.source, vertices.table
    blobs = level_blobs(source)
    mask, others = plan_cells(FoundLinks(links), blobs.catalog, table, chunks, source.where(), incident=True)
    own = CellPlan.of(mask, table.coords[chunks])
    plan = CellPlan(np.r_[own.segments, others.segments], np.concatenate([own.coords, others.coords]))
    cells = decode_cells(source, links, (), plan, _fetch(source, blobs, cell_addresses(links, (), plan)))
    child, parent = _record_rows(vertices, links, cells).T
    first = vertices.offsets[chunks]
    rows = table.rows[chunks]
    start = np.cumsum(rows) - rows
    out: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    for begin, n, sizes in zip(first.tolist(), rows.tolist(), vertices.fragment_rows(chunks), strict=True):
        of_chunk = np.arange(begin - 1, begin - 1 + n) if implied else np.full(n, -1, np.int64)
        of_chunk[(np.cumsum(sizes) - sizes)[sizes > 0]] = -1
        out.append(of_chunk)
    parents = np.concatenate(out)
    at = np.searchsorted(first, child, side="right") - 1
    mine = (at >= 0) & (child < first[at] + rows[at])
    places = start[at[mine]] + child[mine] - first[at[mine]]
    parents[places] = parent[mine]
    if not implied and len(np.unique(places)) != len(places):
        raise FormatError(
            "a node has several parents: links of this level are those of a graph, read its edges",
            store=source.where(), array=links.array,
        )  # fmt: skip
    return parents
