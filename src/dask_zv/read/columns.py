"""Columns of a level by row number, which lazy arrays are made of.

Rows of vertices are numbered in reading order (chunks ascending, fragments in order, rows in order). One module because
every column of a level, of vertices and of objects, is found by the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.config import settings
from dask_zv.errors import FormatError
from dask_zv.format.keys import coords_to_keys
from dask_zv.geometry.assembly import take_ranges
from dask_zv.geometry.schema import FRAGMENTS, VERTICES, AttributeSchema
from dask_zv.level.chunk_table import chunk_table
from dask_zv.level.object_index import ObjectIndex, fragment_owners
from dask_zv.level.source import ChunkTable, LevelSource, RunCache, check_same_objects, level_blobs
from dask_zv.read.chunk_boxes import note_strays
from dask_zv.read.decode import ChunkRows, FragmentRows, block_fragments, block_positions, block_values, check_coverage, fetch
from dask_zv.read.select import rows_inside, select
from dask_zv.spatial.chunks import runs_of
from dask_zv.spatial.grid import Box
from dask_zv.storage.objects import Address

OBJECT_ID, OBJECT_INDEX = "/object_id", "/object_index"
"""Names of columns that no attribute can have."""
POSITIONS = "/positions"
"""All axes together, (n, D)."""

_RUN_BYTES = 64 << 20
_UNSEEN_ROWS = 1 << 23
"""Rows of a chunk that are believed without a look at its positions."""

# x, y and z of a chunk are one blob: who asks for one after the other, or from several threads at once, causes one read
_POSITIONS: RunCache[ChunkRows] = RunCache(128 << 20, lambda p: p.nbytes + 200, ChunkRows.of_chunks, ChunkRows.join)
_FRAGMENTS: RunCache[FragmentRows] = RunCache(32 << 20, lambda f: f.nbytes + 400, FragmentRows.of_chunks, FragmentRows.join)


class RaggedColumns:
    """Rows in *cells* (chunks, objects), one behind the other; asking for rows reads only the cells that hold them.

    A subclass says how many rows each cell has, and reads the columns of some cells: `run_cells` at once, at most.
    """

    run_cells = 1024

    def __init__(self) -> None:
        self._offsets: NDArray[np.int64] | None = None

    @property
    def row_bytes(self) -> int:
        """Bytes of a stored row, about."""
        raise NotImplementedError

    @property
    def counts(self) -> NDArray[np.int64]:
        """Rows of each cell, shape (n,)."""
        raise NotImplementedError

    @property
    def where(self) -> str:
        """URL of the level, for errors."""
        raise NotImplementedError

    def _read_cells(self, name: str | int, cells: NDArray[np.intp]) -> NDArray[Any]:
        """Return a column of some cells (ascending), one behind the other."""
        raise NotImplementedError

    def empty(self, name: str | int) -> NDArray[Any]:
        """Return a column of no rows; nothing is read for it."""
        raise NotImplementedError

    @property
    def offsets(self) -> NDArray[np.int64]:
        """First row of each cell, and the number of rows at the end; shape (n + 1,)."""
        if self._offsets is None:
            self._offsets = np.r_[0, np.cumsum(self.counts)].astype(np.int64)
        return self._offsets

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def column(self, name: str | int, rows: slice | NDArray[np.int64]) -> NDArray[Any]:
        """Return rows of one column, by number, or as a slice with a positive step.

        Cells that hold other numbers of rows than the level says are a :class:`FormatError`. Beside the rows, no more than a
        run of cells is in memory.
        """
        if isinstance(rows, slice) and rows.step in (None, 1):
            start, stop, _ = rows.indices(len(self))
            return self._run(name, start, stop)
        wanted = np.arange(len(self))[rows] if isinstance(rows, slice) else np.asarray(rows, np.int64)
        if len(wanted) < 2 or int(np.diff(wanted).min()) >= 0:
            return self.picked(name, wanted)
        order = np.argsort(wanted, kind="stable")
        ascending = self.picked(name, wanted[order])
        out = np.empty_like(ascending)
        out[order] = ascending
        return out

    def _run(self, name: str | int, start: int, stop: int) -> NDArray[Any]:
        """Return the rows from `start` to `stop`."""
        if stop <= start:
            return self.empty(name)
        out: NDArray[Any] | None = None
        for _, first, values in self._values_of(name, np.arange(*self.cells_between(start, stop))):
            if out is None:
                out = self._room(name, stop - start, values)
            self._check_shape(name, values, out)
            low, high = max(first, start), min(first + len(values), stop)
            out[low - start : high - start] = values[low - first : high - first]
        assert out is not None
        return out

    def picked(self, name: str | int, wanted: NDArray[np.int64]) -> NDArray[Any]:
        """Return rows by number, ascending."""
        if not len(wanted):
            return self.empty(name)
        of_row = np.searchsorted(self.offsets, wanted, side="right") - 1
        begins = np.flatnonzero(np.append(True, of_row[1:] != of_row[:-1]))
        cells, ends = of_row[begins], np.append(begins, len(wanted))
        before = np.cumsum(self.counts[cells]) - self.counts[cells]
        out: NDArray[Any] | None = None
        at = 0
        for run, _, values in self._values_of(name, cells):
            if out is None:
                out = self._room(name, len(wanted), values)
            self._check_shape(name, values, out)
            low, high = ends[at], ends[at + len(run)]
            shift = np.repeat(
                before[at : at + len(run)] - before[at] - self.offsets[run], np.diff(ends[at : at + len(run) + 1])
            )
            out[low:high] = values[wanted[low:high] + shift]
            at += len(run)
        assert out is not None
        return out

    def _values_of(self, name: str | int, cells: NDArray[np.intp]) -> Iterator[tuple[NDArray[np.intp], int, NDArray[Any]]]:
        """Yield runs of cells (ascending), the first row of each run, and the values of its cells."""
        counts = self.counts[cells]
        sizes = counts * self.row_bytes
        for low, high in runs_of((sizes, _RUN_BYTES), (np.ones_like(sizes), self.run_cells)):
            run, values = cells[low:high], self._read_cells(name, cells[low:high])
            if len(values) != int(counts[low:high].sum()):
                raise FormatError(
                    f"column {name!r} has {len(values):,} rows in the cells {int(run[0]):,} to {int(run[-1]):,} (chunks, or "
                    f"objects), which hold {int(counts[low:high].sum()):,}: they are damaged or were changed; open the "
                    "store again, or restore them",
                    store=self.where,
                )
            yield run, int(self.offsets[run[0]]), values

    def _check_shape(self, name: str | int, values: NDArray[Any], out: NDArray[Any]) -> None:
        if values.shape[1:] != out.shape[1:] and len(values):
            raise FormatError(
                f"column {name!r} has {values.shape[1:] or 'one'} values a row in some cells (chunks, or objects) and "
                f"{out.shape[1:] or 'one'} in others: they are damaged or were exchanged; restore them",
                store=self.where,
            )

    def _room(self, name: str | int, rows: int, like: NDArray[Any]) -> NDArray[Any]:
        try:
            return np.empty((rows, *like.shape[1:]), like.dtype)
        except MemoryError as error:
            nbytes = rows * like.dtype.itemsize * int(np.prod(like.shape[1:]))
            raise FormatError(
                f"column {name!r} has {rows:,} rows according to the level, {nbytes / 1e9:,.1f} GB, which does not fit into "
                f"memory: read a part, or use chunks={{}}; if that is more than was written, a document is damaged",
                store=self.where,
            ) from error

    def cells_between(self, start: int, stop: int) -> tuple[int, int]:
        """Return the first cell, and the one after the last, that hold the rows from `start` to `stop`."""
        first = int(np.searchsorted(self.offsets, start, side="right")) - 1
        last = int(np.searchsorted(self.offsets, stop, side="left"))
        return first, last


class LevelRows(RaggedColumns):
    """The rows of one level, read when asked for; small to pickle where the store has a catalog, which tells the chunks.

    Columns are the axes by number, and by name the attributes, :data:`OBJECT_ID`, and :data:`OBJECT_INDEX`, its
    place among the ids. `offset` is added to the stored positions; `index` is what is known already of the manifests.
    """

    def __init__(
        self,
        source: LevelSource,
        table: ChunkTable,
        offset: tuple[float, ...] | None = None,
        index: ObjectIndex | None = None,
    ) -> None:
        super().__init__()
        self.source = source
        self.offset = offset
        self._table: ChunkTable | None = table
        self._index = index

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of positions."""
        return self.source.schema.dtype if self.offset is None else np.dtype(np.float64)

    @property
    def where(self) -> str:
        """URL of the level, for errors."""
        return self.source.where()

    @property
    def row_bytes(self) -> int:
        """Bytes of a stored row."""
        return self.source.schema.row_bytes

    def __getstate__(self) -> dict[str, Any]:
        table = None if self.source.catalogued else self._table
        return {"source": self.source, "_table": table, "offset": self.offset, "_index": None, "_offsets": None}

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        s = self.source
        # the schema too: new categories can leave every blob, and so the catalog, as it was
        return (type(self).__name__, s.place.handle, s.place.prefix, s.token, s.index_token, repr(s.schema), self.offset)

    @property
    def table(self) -> ChunkTable:
        """The level's chunks."""
        if self._table is None:
            self._table = chunk_table(self.source, level_blobs(self.source).catalog)
        return self._table

    @property
    def counts(self) -> NDArray[np.int64]:
        """Vertices of each chunk."""
        return self.table.rows

    @property
    def index(self) -> ObjectIndex:
        """The manifests of the level's objects."""
        if self._index is None:
            self._index = ObjectIndex(self.source)
        return self._index

    def attribute(self, name: str | int) -> AttributeSchema | None:
        """Return the schema of an attribute, None for what is no attribute."""
        return next((a for a in self.source.schema.attributes if a.name == name), None)

    def empty(self, name: str | int) -> NDArray[Any]:
        """Return a column of no rows; nothing is read for it."""
        if isinstance(name, int):
            return np.zeros(0, self.dtype)
        if name == POSITIONS:
            return np.zeros((0, self.source.schema.grid.ndim), self.dtype)
        if name in (OBJECT_ID, OBJECT_INDEX):
            return np.zeros(0, np.int64)
        attribute = self.attribute(name)
        if attribute is None:
            return self._chunk_values[:0]
        return np.zeros((0,) if attribute.channels is None else (0, attribute.channels), attribute.value_dtype)

    @property
    def _chunk_values(self) -> NDArray[Any]:
        """Values of the attribute that leads the chunk keys."""
        assert self.source.chunk_attribute is not None
        return np.asarray(self.source.chunk_attribute[1])

    def _read_cells(self, name: str | int, chunks: NDArray[np.intp]) -> NDArray[Any]:
        if isinstance(name, int):
            return self._read_cells(POSITIONS, chunks)[:, name]
        if name == POSITIONS:
            found = self.positions(chunks)
            return found if self.offset is None else found.astype(np.float64) + np.asarray(self.offset)
        if name == OBJECT_INDEX:
            ids, owners = self.index.sorted_ids, self._read_cells(OBJECT_ID, chunks)
            check_same_objects(self.source)
            return places_in(ids, owners)
        coords, rows = self.table.coords[chunks], self.table.rows[chunks]
        if name == OBJECT_ID:
            fragments = self.fragments(chunks)
            owners = fragment_owners(self.source, coords, self.index).owners_in(coords, fragments.numbers, self.where)
            return np.repeat(owners, fragments.counts)
        attribute = self.attribute(name)
        if attribute is None:
            codes = coords[:, 0]
            if len(codes) and not 0 <= int(codes.min()) <= int(codes.max()) < len(self._chunk_values):
                raise FormatError(
                    f"a chunk key names value {int(codes.max())} of attribute {name!r}, which has {len(self._chunk_values)}",
                    store=self.where,
                )
            return np.repeat(self._chunk_values[codes], rows)
        keys, fragments, blobs = self._fetched(chunks, attribute.array)
        stored = fragments.take(block_values(self.source, attribute, keys, rows, blobs))
        try:
            return attribute.values(stored)
        except FormatError:
            for key, part in zip(keys, np.split(stored, np.cumsum(rows)[:-1]), strict=True):
                try:
                    attribute.values(part)
                except FormatError as error:
                    raise error.at(store=self.where, array=attribute.array, chunk=key) from None
            raise

    def _fetched(self, chunks: NDArray[np.intp], array: str) -> tuple[list[str], FragmentRows, Mapping[Address, bytes]]:
        """Return the keys of some chunks, their fragments, and their blobs of an array: of one read where both are wanted."""
        keys = coords_to_keys(self.table.coords[chunks])
        addresses = [(array, key) for key in keys]
        found: dict[Address, bytes] = {}
        fragments = self._checked(chunks, self.any_fragments(chunks, addresses, found))
        if not found:
            found |= fetch(self.source, level_blobs(self.source), keys, (), positions=False, indexes=False, more=addresses)
        return keys, fragments, found

    def positions(self, chunks: NDArray[np.intp]) -> NDArray[Any]:
        """Return the stored positions of some chunks in reading order, (N, D); who changes them takes a copy."""

        def make(which: NDArray[np.intp]) -> ChunkRows:
            coords, expected = self.table.coords[which], self.table.rows[which]
            keys, fragments, found = self._fetched(which, VERTICES)
            stored, rows = block_positions(self.source, level_blobs(self.source), coords, keys, found, expected)
            positions = fragments.take(stored)
            if not self.source.catalogued:
                note_strays(self.source, coords, rows, positions)
            return ChunkRows(rows, positions)

        return _POSITIONS.get(self.source.state, len(self.table), chunks, make).values

    def fragments(self, chunks: NDArray[np.intp]) -> FragmentRows:
        """Return the fragments of some chunks, which every column needs and one fetch serves.

        Chunks whose fragments don't name each of their rows once are a :class:`FormatError`.
        """
        return self._checked(chunks, self.any_fragments(chunks))

    def _checked(self, chunks: NDArray[np.intp], found: FragmentRows) -> FragmentRows:
        odd = np.flatnonzero(found.rows != found.stored)
        if len(odd):
            raise FormatError(
                f"the chunk's fragments cover {found.rows[odd[0]]} of its {found.stored[odd[0]]} rows, so rows can't be "
                "numbered: read it with Level.read, or by objects",
                store=self.where, array=FRAGMENTS, chunk=coords_to_keys(self.table.coords[chunks[odd[:1]]])[0],
            )  # fmt: skip
        check_coverage(self.source, coords_to_keys(self.table.coords[chunks]) if found.stored_rows is not None else (), found)
        return found

    def any_fragments(
        self, chunks: NDArray[np.intp], more: Sequence[Address] = (), into: dict[Address, bytes] | None = None
    ) -> FragmentRows:
        """Return the fragments of some chunks, which may overlap, or leave rows out.

        If they are to be fetched, what is at `more` addresses is fetched with them, and put `into` a dict.
        """

        def make(which: NDArray[np.intp]) -> FragmentRows:
            coords, rows = self.table.coords[which], self.table.rows[which]
            blobs, keys = level_blobs(self.source), coords_to_keys(coords)
            for i in np.flatnonzero(rows > _UNSEEN_ROWS):  # callers take memory for each, and they are a number in the catalog
                one = slice(i, i + 1)
                found = fetch(self.source, blobs, keys[one], (), indexes=False)
                block_positions(self.source, blobs, coords[one], keys[one], found, rows[one])
            found = fetch(self.source, blobs, keys, (), positions=False, more=more)
            if into is not None:
                into.update(found)
            return block_fragments(self.source, keys, rows, found)

        return _FRAGMENTS.get(self.source.state, len(self.table), chunks, make)


def places_in(ids: NDArray[np.int64], owners: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the places of owners among ascending ids: -1 where one is not there; below 0 they stay what they are."""
    if not len(ids):
        return np.minimum(owners, -1)
    at = np.minimum(np.searchsorted(ids, owners), len(ids) - 1)
    return np.where(owners < 0, owners, np.where(ids[at] == owners, at, -1))


class PlacesIn:
    """A table of one column: the place of each row's object among some `ids` of the level, ascending."""

    def __init__(self, ids: NDArray[np.int64], rows: LevelRows) -> None:
        self.ids = ids
        self.rows = rows

    def column(self, name: str | int, rows: slice | NDArray[np.int64]) -> NDArray[Any]:
        """Return the places of some rows' objects."""
        return places_in(self.ids, self.rows.column(OBJECT_ID, rows))

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return (type(self).__name__, self.ids, self.rows)


def rows_in(rows: LevelRows, box: Box | None, objects: Sequence[int] | None) -> slice | NDArray[np.int64]:
    """Return the numbers of the rows inside a closed box that belong to some objects, ascending.

    A slice where they are one run. Positions are read of the chunks that the box cuts, and of no others.
    """
    table = rows.table
    if objects is not None:
        check_same_objects(rows.source)  # its manifests may have been read long ago
    chosen = select(rows.source, table, lambda: rows.index, box=box, objects=objects, offset=rows.offset)
    parts: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    step = settings().pass_chunks
    for start in range(0, len(chosen.chunks), step):
        run, whole = chosen.chunks[start : start + step], chosen.whole[start : start + step]
        counts = table.rows[run]
        keep = np.ones(int(counts.sum()), bool)
        if chosen.box is not None and not whole.all():
            keep = rows_inside(counts, whole, chosen.box, rows.positions(run[~whole]))
        if chosen.chosen is not None:
            fragments = rows.fragments(run)
            owners = chosen.chosen.owners_in(table.coords[run], fragments.numbers, rows.where)
            keep &= np.repeat(owners != -1, fragments.counts)
        parts.append(take_ranges(rows.offsets[run], counts)[keep])
    found = np.concatenate(parts)
    if len(found) and int(found[-1]) - int(found[0]) + 1 == len(found):
        return slice(int(found[0]), int(found[-1]) + 1)
    return found
