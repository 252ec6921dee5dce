"""Columns of a level's vertices by row number.

Rows are numbered in reading order (chunks ascending, fragments in order, rows in order). Asking for rows reads only the chunks
that hold them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.config import settings
from dask_zv.errors import FormatError
from dask_zv.format.fragment_index import FragmentIndex
from dask_zv.geometry.points import decode_index
from dask_zv.geometry.schema import FRAGMENTS, AttributeSchema
from dask_zv.level.chunk_boxes import check_some_boxes, note_strays
from dask_zv.level.find import chunk_table
from dask_zv.level.object_index import ObjectIndex, chosen_ids, fragment_owners
from dask_zv.level.source import ChunkTable, LevelSource, check_same_objects, level_blobs
from dask_zv.read.chunk_cache import SharedCache
from dask_zv.read.chunk_rows import fetch_chunks, read_chunks
from dask_zv.read.ragged import RaggedColumns
from dask_zv.spatial.grid import Box, stored_box
from dask_zv.storage.layout import Blobs

OBJECT_ID, OBJECT_INDEX = "/object_id", "/object_index"
"""Names of columns that no attribute can have."""

_UNSEEN_ROWS = 1 << 23
"""Rows of a chunk that are believed without a look at its positions."""

_POSITIONS: SharedCache[NDArray[Any]] = SharedCache(128 << 20, lambda p: p.nbytes + 200)
_INDEXES: SharedCache[FragmentIndex | None] = SharedCache(32 << 20, lambda i: 32 * len(i) + 400 if i is not None else 100)


class LevelRows(RaggedColumns):
    """The rows of one level, read when asked for; small to pickle where the store has a catalog.

    Columns are the axes by number, and by name the attributes, :data:`OBJECT_ID`, and :data:`OBJECT_INDEX`, its
    place among the ids.

    Parameters
    ----------
    source : LevelSource
    table : ChunkTable
        The level's chunks; every process finds it again where the level has a catalog.
    offset : tuple of float, optional
        Added to the stored positions.
    """

    def __init__(self, source: LevelSource, table: ChunkTable, offset: tuple[float, ...] | None = None) -> None:
        super().__init__()
        self.source = source
        self.offset = offset
        self._table: ChunkTable | None = table
        self._index: ObjectIndex | None = None

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
        return {"source": self.source, "table": table, "offset": self.offset}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.source = state["source"]
        self.offset = state["offset"]
        self._table = state["table"]
        self._index = None
        self._offsets = None

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

    def _empty(self, name: str | int) -> NDArray[Any]:
        if isinstance(name, int):
            return np.zeros(0, self.dtype)
        if name in (OBJECT_ID, OBJECT_INDEX):
            return np.zeros(0, np.int64)
        attribute = self._attribute(name)
        if attribute is None:
            return np.asarray(self.chunk_values)[:0]
        return np.zeros((0,) if attribute.channels is None else (0, attribute.channels), attribute.value_dtype)

    @property
    def chunk_values(self) -> NDArray[Any]:
        """Values of the attribute that leads the chunk keys."""
        assert self.source.chunk_attribute is not None
        return np.asarray(self.source.chunk_attribute[1])

    def _attribute(self, name: str) -> AttributeSchema | None:
        return next((a for a in self.source.schema.attributes if a.name == name), None)

    @property
    def index(self) -> ObjectIndex:
        """The manifests of the level's objects."""
        if self._index is None:
            self._index = ObjectIndex(self.source)
        return self._index

    def _keys(self, chunks: NDArray[np.intp]) -> list[str]:
        return [".".join(map(str, c)) for c in self.table.coords[chunks].tolist()]

    def _read_cells(self, name: str | int, chunks: NDArray[np.intp]) -> list[NDArray[Any]]:
        if isinstance(name, int):
            shift = None if self.offset is None else self.offset[name]
            return [p[:, name] if shift is None else p[:, name].astype(np.float64) + shift for p in self.positions(chunks)]
        keys, rows = self._keys(chunks), self.table.rows[chunks].tolist()
        if name == OBJECT_INDEX:
            ids, owners = np.sort(self.index.ids), self._read_cells(OBJECT_ID, chunks)
            check_same_objects(self.source)
            return [places_in(ids, o) for o in owners]
        if name == OBJECT_ID:
            table = fragment_owners(self.source, keys, self.index)
            counts = self.fragment_rows(chunks)
            fragments = np.array([len(c) for c in counts], np.int64)
            owners = np.split(table.owners_in(self.table.coords[chunks], fragments), np.cumsum(fragments)[:-1])
            return [np.repeat(o, c) for o, c in zip(owners, counts, strict=True)]
        attribute = self._attribute(name)
        if attribute is None:
            codes = self.table.coords[chunks, 0]
            if len(codes) and not 0 <= int(codes.min()) <= int(codes.max()) < len(self.chunk_values):
                raise FormatError(
                    f"a chunk key names value {int(codes.max())} of attribute {name!r}, which has {len(self.chunk_values)}",
                    store=self.source.where(),
                )
            return [np.repeat(self.chunk_values[c : c + 1], n) for c, n in zip(codes.tolist(), rows, strict=True)]
        found = read_chunks(
            self.source, keys, (attribute,), positions=False, rows=rows, blobs=self._blobs(), indexes=self.indexes(chunks)
        )
        return [attribute.values(c.attributes[name]) for c in found]

    def _blobs(self) -> Blobs:
        return level_blobs(self.source)

    def _cache_keys(self, chunks: NDArray[np.intp]) -> list[tuple[str, str, str, int]]:
        s = self.source
        return [(s.place.handle.identity, s.place.prefix, s.token, int(c)) for c in chunks]

    def positions(self, chunks: NDArray[np.intp]) -> list[NDArray[Any]]:
        """Return chunks' positions in reading order; each chunk is fetched once while the cache holds it."""

        def make(which: list[int]) -> list[NDArray[Any]]:
            picked = chunks[which]
            rows, indexes = self.table.rows[picked].tolist(), self.indexes(picked)
            found = read_chunks(self.source, self._keys(picked), (), rows=rows, blobs=self._blobs(), indexes=indexes)
            positions = [c.positions for c in found]
            if not self.source.catalogued:
                note_strays(self.source, self.table.coords[picked], np.array(rows, np.int64), np.concatenate(positions))
            return positions

        return _POSITIONS.get_many(self._cache_keys(chunks), make)

    def indexes(self, chunks: NDArray[np.intp]) -> list[FragmentIndex | None]:
        """Return chunks' fragment indexes, which every column needs and one fetch serves.

        Raises
        ------
        FormatError
            The fragments of a chunk don't name each of its rows once.
        """
        found = self._decoded_indexes(chunks)
        for chunk, index in zip(chunks.tolist(), found, strict=True):
            n = int(self.table.rows[chunk])
            if index is not None and int(index.counts.sum()) != n:
                raise FormatError(
                    f"the chunk's fragments cover {int(index.counts.sum())} of its {n} rows, so rows can't be numbered: "
                    "read it with Level.read, or by objects",
                    store=self.source.where(), array=FRAGMENTS, chunk=self._keys(np.array([chunk]))[0],
                )  # fmt: skip
        return found

    def _decoded_indexes(self, chunks: NDArray[np.intp]) -> list[FragmentIndex | None]:
        def make(which: list[int]) -> list[FragmentIndex | None]:
            picked = chunks[which]
            keys = self._keys(picked)
            rows = self.table.rows[picked].tolist()
            for key, n in zip(keys, rows, strict=True):
                if n > _UNSEEN_ROWS:  # callers take memory for each, and so far they are a number in the catalog
                    read_chunks(self.source, [key], (), rows=[n], blobs=self._blobs(), indexes=[None])
            found = fetch_chunks(self.source, self._blobs(), keys, (), positions=False, indexes=True)
            return [decode_index(k, found.get((FRAGMENTS, k)), n) for k, n in zip(keys, rows, strict=True)]

        return _INDEXES.get_many(self._cache_keys(chunks), make)

    def fragment_rows(self, chunks: NDArray[np.intp]) -> list[NDArray[np.int64]]:
        """Return the rows of each chunk's fragments; a chunk without an index is one fragment."""
        return self._counts_of(chunks, self.indexes(chunks))

    def rows_of_fragments(self, chunks: NDArray[np.intp]) -> list[NDArray[np.int64]]:
        """Return the same of chunks whose fragments may overlap, or leave rows out."""
        return self._counts_of(chunks, self._decoded_indexes(chunks))

    def _counts_of(self, chunks: NDArray[np.intp], found: Sequence[FragmentIndex | None]) -> list[NDArray[np.int64]]:
        rows = self.table.rows[chunks]
        return [np.array([n]) if i is None else i.counts for i, n in zip(found, rows, strict=True)]


def places_in(ids: NDArray[np.int64], owners: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the places of owners among ascending ids: -1 where one is not there; below 0 they stay what they are."""
    if not len(ids):
        return np.minimum(owners, -1)
    at = np.minimum(np.searchsorted(ids, owners), len(ids) - 1)
    return np.where(owners < 0, owners, np.where(ids[at] == owners, at, -1))


class PlacesIn:
    """A table of one column, the place of each row's object among some objects of the level.

    Parameters
    ----------
    ids : ndarray of int64
        Ascending.
    rows : LevelRows
    """

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

    Positions are read of the chunks that the box cuts, and of no others.

    Parameters
    ----------
    rows : LevelRows
    box : Box, optional
    objects : sequence of int, optional

    Returns
    -------
    slice or ndarray of int64
        A slice where the rows are one run.
    """
    source, table = rows.source, rows.table
    if box is not None:
        box = stored_box(box, source.schema.dtype, rows.offset)
    keep = np.ones(len(table), bool)
    whole = np.ones(len(table), bool)
    if box is not None:
        check_some_boxes(source, table)
        spatial = table.coords[:, source.rank - source.schema.grid.ndim :]
        keep = source.schema.grid.touches(spatial, box)
        whole = source.schema.grid.inside(spatial, box)
    chosen = None
    if objects is not None:
        ids = chosen_ids(objects)
        chosen = ObjectIndex(source).select(ids)
        named = table.find(chosen.distinct_chunks)
        mine = np.zeros(len(table), bool)
        mine[named[named >= 0]] = True
        keep &= mine
    parts: list[NDArray[np.int64]] = []
    numbers = np.flatnonzero(keep)
    for start in range(0, len(numbers), settings().pass_chunks):
        run = numbers[start : start + settings().pass_chunks]
        masks = [np.ones(int(table.rows[c]), bool) for c in run]
        cut = [i for i, c in enumerate(run) if not whole[c]]
        if box is not None and cut:
            for i, piece in zip(cut, rows.positions(run[cut]), strict=True):
                p = piece.astype(np.float64, copy=False)
                masks[i] &= ((p >= box[0]) & (p <= box[1])).all(axis=1)
        if chosen is not None:
            of_chunks = rows.fragment_rows(run)
            fragments = np.array([len(c) for c in of_chunks], np.int64)
            owned = np.split(chosen.owners_in(table.coords[run], fragments) != -1, np.cumsum(fragments)[:-1])
            for i, counts in enumerate(of_chunks):
                masks[i] &= np.repeat(owned[i], counts)
        parts += [np.flatnonzero(m) + rows.offsets[c] for m, c in zip(masks, run, strict=True)]
    found = np.concatenate(parts) if parts else np.zeros(0, np.int64)
    if len(found) and int(found[-1]) - int(found[0]) + 1 == len(found):
        return slice(int(found[0]), int(found[-1]) + 1)
    return found
