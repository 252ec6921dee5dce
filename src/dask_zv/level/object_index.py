"""Which object owns which fragment: ids and manifests of a level, read in slices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError, InputError, MetadataError, NotFoundError, StoreError, ZVError
from dask_zv.format.keys import join
from dask_zv.format.manifests import decode_manifests
from dask_zv.level.fragment_table import FragmentTable, join_tables
from dask_zv.level.object_tables import ObjectTables, decoding, read_object_attributes
from dask_zv.level.source import MANIFESTS_CRC32C, LevelSource, SharedCache, as_opened, check_same_objects
from dask_zv.storage.codecs import crc32c
from dask_zv.storage.handles import open_objects
from dask_zv.storage.per_chunk.read import PerChunk
from dask_zv.storage.specs import check_not_replaced

_SLICE = 1 << 14
_UNSEEN = 1 << 20
"""Objects that are believed without a look at their manifests: for each id takes memory."""
_FEW = 16
"""Ids that are looked up one by one."""
_KEPT_FRAGMENTS = 4_000_000
_CACHE: SharedCache[FragmentTable] = SharedCache(4)
_IDS, _MANIFESTS = "object_index/object_ids", "object_index/manifests"
ROWS_ARE_IDS = "vlen_manifests_v1"
ROWS_HAVE_IDS = "vlen_manifests_v2"
"""Layouts of the index: an object's id is its row, or what the table of ids has there."""


class ObjectIndex:
    """The manifests of a level: `count` objects, each with a row in the manifests and in the object attributes.

    `tables` are the other tables about objects; what is read of them is remembered as long as this is.
    """

    def __init__(self, source: LevelSource, documents: Mapping[str, Mapping[str, Any] | None] | None = None) -> None:
        self._source = source
        self._objects = open_objects(source.place.handle)
        self.tables = ObjectTables(source, documents)
        document = self.tables.document("object_index")
        attrs: Mapping[str, Any] = {} if document is None else document.get("attributes", {})
        count = attrs.get("num_objects", 0)
        if type(count) is not int or not 0 <= count < 1 << 53:
            raise MetadataError(f"object_index has num_objects {count!r:.80}", store=source.where())
        rank = attrs.get("sid_ndim", source.rank)
        if rank != source.rank:
            raise MetadataError(f"object_index has sid_ndim {rank!r}, chunk keys have {source.rank}", store=source.where())
        numbering = attrs.get("layout")
        self._grid = self.tables.in_zarr
        if self._grid and count and numbering not in (ROWS_ARE_IDS, ROWS_HAVE_IDS):
            raise MetadataError(f"object_index has the layout {numbering!r}, which is not read", store=source.where())
        self.count = count
        told = attrs.get("num_present")
        self._present = told if type(told) is int else None
        # an appender leaves the table of ids in place when it goes over to rows as ids: the layout alone is to be trusted
        self.rows_are_ids = numbering != ROWS_HAVE_IDS
        self._legacy = numbering is None and not self._grid
        self._ordered = attrs.get("object_ids_sorted") is True
        self._id_chunks: SharedCache[NDArray[np.int64]] = SharedCache(8)
        self._selected: SharedCache[FragmentTable] = SharedCache(8)
        if count > _UNSEEN:
            _ = self._manifests  # a number is a claim: they are compared with it

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        """Ids of the objects, row by row; distinct, and in the grid layout in any order with any gaps."""
        if self.rows_are_ids or not self.count:
            return np.arange(self.count, dtype=np.int64)
        with as_opened(self._source):
            ids = self._stored_ids(0, self.count)
        if not (ids[1:] > ids[:-1]).all():
            ordered = np.sort(ids)
            twice = np.flatnonzero(ordered[1:] == ordered[:-1])
            if len(twice):
                raise FormatError(f"object_ids has id {ordered[twice[0]]} twice", store=self._source.where(), array=_IDS)
        return ids

    @cached_property
    def order(self) -> NDArray[np.intp] | None:
        """Rows in ascending order of their ids; None where that is the order of the rows."""
        return None if (self.ids[1:] > self.ids[:-1]).all() else np.argsort(self.ids)

    @property
    def sorted_ids(self) -> NDArray[np.int64]:
        """Ids of the objects, ascending."""
        return self.ids if self.order is None else self.ids[self.order]

    def rows(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the row of each of `ids`; one that no object has is a :class:`NotFoundError`."""
        if self.rows_are_ids:
            if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= self.count):
                bad = int(ids.max()) if int(ids.max()) >= self.count else int(ids.min())
                raise NotFoundError(f"no object {bad}: ids are 0 to {self.count - 1}", store=self._source.where())
            return ids
        if "ids" not in self.__dict__ and self._ordered and self.count and 0 < len(ids) <= _FEW:
            few = [self._find_one(wanted) for wanted in ids.tolist()]
            if None not in few:
                return np.array(few, np.int64)
        known = self.sorted_ids
        at = np.searchsorted(known, ids)
        found = at < self.count
        found[found] = known[at[found]] == ids[found]
        if not found.all():
            bad = int(ids[~found][0])
            which = f"the {self.count:,} ids are {known[0]} to {known[-1]}" if self.count else "there are none"
            which += ", with gaps" if self.count and self.count <= int(known[-1]) - int(known[0]) else ""
            raise NotFoundError(f"no object {bad}: {which}", store=self._source.where())
        return np.asarray(at if self.order is None else self.order[at], np.int64)

    def _find_one(self, wanted: int) -> int | None:
        """Return the row of an id, None where it is not there or the table is in no order: then all of it is to be read."""
        step = int(self.tables.open(_IDS).chunks[0])
        # distinct ids from 0 on, ascending: none is less than its row, and most tables have no gaps
        low, high = 0, min(wanted, self.count - 1) // step
        probe = high
        while low <= high:
            start, stop = probe * step, min((probe + 1) * step, self.count)
            ids = self._id_chunks.get_many([probe], lambda _, a=start, b=stop: [self._stored_ids(a, b)])[0]  # type: ignore[misc]
            if not (ids[1:] > ids[:-1]).all():
                return None
            if wanted < ids[0]:
                high = probe - 1
            elif wanted > ids[-1]:
                low = probe + 1
            else:
                at = int(np.searchsorted(ids, wanted))
                return start + at if ids[at] == wanted else None
            probe = (low + high) // 2
        return None

    def _stored_ids(self, start: int, stop: int) -> NDArray[np.int64]:
        try:
            return self._ids_of(start, stop)
        except ZVError:
            check_not_replaced(self._objects, self._source.place.prefix)
            raise

    def _ids_of(self, start: int, stop: int) -> NDArray[np.int64]:
        table = self.tables.open(_IDS)
        if table.shape != (self.count,) or table.dtype.kind not in "iu":
            raise FormatError(
                f"object_ids is {table.dtype} {table.shape}, object_index counts {self.count} objects",
                store=self._source.where(), array=_IDS,
            )  # fmt: skip
        ids = decoding(self._source, _IDS, lambda: np.asarray(table[start:stop])).astype(np.int64)
        if (ids < 0).any():  # ours are filled with -1, so that a chunk that was lost isn't taken for ids
            bad = int(np.argmax(ids < 0))
            raise FormatError(
                f"row {start + bad} of object_ids is {ids[bad]}, ids must not be negative: a chunk of it is lost, or another "
                "writer's ids are negative, which cannot be read",
                store=self._source.where(), array=_IDS,
            )  # fmt: skip
        return ids

    def attributes(self, rows: NDArray[np.int64] | None = None, name: str | None = None) -> dict[str, NDArray[Any]]:
        """Return the object attributes of some rows (all where None), see :func:`read_object_attributes`."""
        with as_opened(self._source):
            return read_object_attributes(self.tables, self.count, rows, name, present=self._present_ids)

    def _present_ids(self) -> NDArray[np.int64]:
        """Return the objects that have vertices."""
        return np.unique(np.concatenate([np.zeros(0, np.int64), *(np.unique(t.objects) for t in self.slices())]))

    @cached_property
    def _manifests(self) -> Any:
        if self._legacy:
            blobs = PerChunk(self._objects, self._source.place.prefix)
            raw = blobs.read("object_index", "offsets")
            offsets = np.frombuffer(raw, "<i8") if len(raw) % 8 == 0 else np.zeros(0, np.int64)
            data = blobs.read("object_index", "data")
            ends = np.r_[offsets[1:], len(data)] if len(offsets) else np.zeros(0, np.int64)
            if len(offsets) != self.count or (offsets < 0).any() or (ends < offsets).any():
                raise FormatError("the offsets of object_index are damaged", store=self._source.where())
            return [data[a:b] for a, b in zip(offsets.tolist(), ends.tolist(), strict=True)]
        array = self.tables.open(_MANIFESTS)
        if array.shape != (self.count,):
            raise FormatError(
                f"manifests has the shape {array.shape}, object_index counts {self.count} objects", store=self._source.where()
            )
        return array

    def slices(self) -> Iterator[FragmentTable]:
        """Yield the table of all objects, a bounded number of rows at a time."""
        present = 0
        for first in range(0, self.count, _SLICE):
            rows = np.arange(first, min(first + _SLICE, self.count))
            table = self._table(rows, rows if self.rows_are_ids else self.ids[rows])
            present += len(np.unique(table.objects))
            yield table
        if self._present is not None and present < self._present:
            raise FormatError(
                f"{present:,} objects have vertices, object_index counts {self._present:,} (num_present): manifests were lost",
                store=self._source.where(), array="object_index",
            )  # fmt: skip

    def select(self, ids: NDArray[np.int64]) -> FragmentTable:
        """Return the table of the objects `ids` (distinct, ascending), in their order; of a few it is remembered."""
        if not 0 < len(ids) <= _FEW:
            return self._chosen(ids) if len(ids) else join_tables([], self._source.rank)
        return self._selected.get_many([ids.tobytes()], lambda _: [self._chosen(ids)])[0]

    def _chosen(self, ids: NDArray[np.int64]) -> FragmentTable:
        with as_opened(self._source):
            return self._table(self.rows(ids), ids)

    def by_row(self, rows: NDArray[np.int64]) -> FragmentTable:
        """Return the table of the objects of some rows (ascending), which stand in it for their ids: those are not read."""
        return self._table(rows, rows)

    @property
    def present(self) -> int | None:
        """Objects with vertices, as the index counts them; None where it does not."""
        return self._present

    def _table(self, rows: NDArray[np.int64], ids: NDArray[np.int64]) -> FragmentTable:
        """Return the table of the objects of these rows, in their order."""
        if isinstance(self._manifests, list):
            blobs: list[bytes] = [self._manifests[i] for i in rows.tolist()]
        else:
            if not self._grid:
                self._check_cells(rows)
            stored, back = np.unique(rows, return_inverse=True)  # zarr wants ascending rows

            def read() -> list[bytes]:
                return [bytes(b) for b in np.asarray(self._manifests.oindex[stored])[back].tolist()]

            blobs = decoding(self._source, _MANIFESTS, read)
            if self._grid:
                self._check_rows(rows, blobs)
        try:
            entries, chunks, fragments = decode_manifests(blobs, self._source.rank)
        except FormatError as error:
            raise error.at(store=self._source.where(), array=_MANIFESTS) from None
        return FragmentTable(ids[entries], chunks, fragments)

    def _key(self, cell: int) -> str:
        return join(self._source.place.prefix, _MANIFESTS, f"c/{cell}")

    def _check_cells(self, rows: NDArray[np.int64]) -> None:
        """Compare the stored objects that hold some manifests with the checksums that our writer left.

        zarr takes an absent one for empty manifests, and a frame of Zstandard may decode to others after a bit was lost.
        """
        checksums = dict(self._manifests.attrs).get(MANIFESTS_CRC32C)
        if checksums is None:
            return
        if not isinstance(checksums, list):
            raise FormatError(
                f"the checksums of the manifests are {checksums!r:.80}, no list", store=self._source.where(), array=_MANIFESTS
            )
        cells = np.unique(rows // self._manifests.chunks[0]).tolist()
        keys = [self._key(c) for c in cells]
        for cell, key, data in zip(cells, keys, self._objects.get_many([(k, None) for k in keys]), strict=True):
            if data is None:
                raise StoreError(f"'/{key}', which holds manifests of objects, is missing", store=self._source.where())
            if cell >= len(checksums) or crc32c(data) != checksums[cell]:
                raise FormatError(f"'/{key}' is damaged: its checksum does not match", store=self._source.where())

    def _check_rows(self, rows: NDArray[np.int64], blobs: Sequence[bytes]) -> None:
        """Refuse elements without a byte in manifests of ours: those are zarr's for a lost chunk.

        Ours have a count at least. Their frames carry checksums of their own, so that the package can edit them in place.
        """
        if all(blobs) or MANIFESTS_CRC32C not in self._manifests.attrs:
            return
        row = int(rows[[not b for b in blobs].index(True)])
        key = self._key(row // self._manifests.chunks[0])
        raise StoreError(f"'/{key}', which holds manifests of objects, is missing", store=self._source.where())


def chosen_ids(objects: Any) -> NDArray[np.int64]:
    """Return the ids that a user asks for, distinct and ascending."""
    ids = np.atleast_1d(np.asarray(objects))
    if ids.ndim != 1 or (len(ids) and ids.dtype.kind not in "iu"):
        raise InputError(f"objects are an integer id or a sequence of them, not {objects!r:.80}")
    return np.unique(ids).astype(np.int64)


def fragment_owners(source: LevelSource, coords: NDArray[np.int64], index: ObjectIndex | None = None) -> FragmentTable:
    """Return the fragments of the objects that have any in the chunks `coords` (n, K).

    The whole table is kept per process where it is small; where it isn't, the manifests are read again in slices, so memory
    is bounded by the answer.
    """
    key = (*source.state, source.index_token)
    known = _CACHE.get(key)
    if known is not None:
        return known
    with as_opened(source):
        table, small = _owners(source, coords, index or ObjectIndex(source))
    if small:
        _CACHE.put(key, table)
    return table


def _owners(source: LevelSource, coords: NDArray[np.int64], index: ObjectIndex) -> tuple[FragmentTable, bool]:
    """Return the fragments of objects in some chunks, and whether they are those of all chunks, which are few."""
    parts: list[FragmentTable] = []
    total = 0
    for part in index.slices():
        total += len(part.objects)
        if total - len(part.objects) <= _KEPT_FRAGMENTS < total:
            parts = [p.within(coords) for p in parts]
        parts.append(part if total <= _KEPT_FRAGMENTS else part.within(coords))
    check_same_objects(source)
    return join_tables(parts, source.rank), total <= _KEPT_FRAGMENTS
