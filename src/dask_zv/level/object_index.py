"""Which object owns which fragment: the manifests of a level, read in slices."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError, InputError, MetadataError, NotFoundError, StoreError
from dask_zv.format.keys import join
from dask_zv.format.manifests import decode_manifests
from dask_zv.level.fragment_table import FragmentTable, join_tables, only_in
from dask_zv.level.id_table import IdTable
from dask_zv.level.object_tables import ObjectTables, decoding
from dask_zv.level.source import MANIFESTS_CRC32C, LevelSource, check_same_objects
from dask_zv.storage.codecs import crc32c
from dask_zv.storage.handles import open_objects
from dask_zv.storage.per_chunk.read import PerChunk

_SLICE = 1 << 14
_UNSEEN = 1 << 20
"""Objects that are believed without a look at their manifests: for each id takes memory."""
_KEPT_FRAGMENTS = 4_000_000
_CACHE: OrderedDict[tuple[str, str, str], FragmentTable] = OrderedDict()
_CACHE_LIMIT = 4
_LOCK = threading.Lock()
ROWS_ARE_IDS = "vlen_manifests_v1"
ROWS_HAVE_IDS = "vlen_manifests_v2"
"""Layouts of the index: an object's id is its row, or what the table of ids has there."""


class ObjectIndex:
    """The manifests of a level.

    Parameters
    ----------
    source : LevelSource
    documents : mapping of str to mapping, optional
        Documents of the level's nodes that were read already.

    Attributes
    ----------
    count : int
        Number of objects; each has a row in the manifests and in the object attributes.
    tables : ObjectTables
        The other tables about objects; what is read of them is remembered as long as this is.
    """

    def __init__(self, source: LevelSource, documents: Mapping[str, Mapping[str, Any] | None] | None = None) -> None:
        self._source = source
        self._objects = open_objects(source.place.handle)
        self.tables = ObjectTables(source, documents)
        path = join(source.place.prefix, "object_index")
        document = self.tables.document("object_index")
        attrs: Mapping[str, Any] = {} if document is None else document.get("attributes", {})
        count = attrs.get("num_objects", 0)
        if type(count) is not int or not 0 <= count < 1 << 53:
            raise MetadataError(f"object_index has num_objects {count!r:.80}", store=source.where())
        rank = attrs.get("sid_ndim", source.rank)
        if rank != source.rank:
            raise MetadataError(f"object_index has sid_ndim {rank!r}, chunk keys have {source.rank}", store=source.where())
        layout = attrs.get("layout")
        grid = source.place.layout == "grid"
        if grid and count and layout not in (ROWS_ARE_IDS, ROWS_HAVE_IDS):
            raise MetadataError(f"object_index has the layout {layout!r}, which is not read", store=source.where())
        self.count = count
        told = attrs.get("num_present")
        self._present = told if type(told) is int else None
        # an appender leaves the table of ids in place when it goes over to rows as ids: the layout alone is to be trusted
        self._has_table = layout == ROWS_HAVE_IDS
        self._legacy = layout is None and not grid
        self._grid = grid
        self._path = path
        self._ids = IdTable(source, self.tables, count, ordered=attrs.get("object_ids_sorted") is True)
        if count > _UNSEEN:
            _ = self._manifests  # a number is a claim: they are compared with it

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        """Ids of the objects, row by row; distinct, and in the grid layout in any order with any gaps."""
        if self._has_table and self.count:
            return self._ids.read()
        return np.arange(self.count, dtype=np.int64)

    @property
    def rows_are_ids(self) -> bool:
        """True where an object's id is its row, so that no table of ids need be read."""
        return not self._has_table

    def rows(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the row of each of `ids`.

        Raises
        ------
        NotFoundError
            No object has one of them.
        """
        if not self._has_table:
            if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= self.count):
                bad = int(ids.max()) if int(ids.max()) >= self.count else int(ids.min())
                raise NotFoundError(f"no object {bad}: ids are 0 to {self.count - 1}", store=self._source.where())
            return ids
        if "ids" not in self.__dict__ and (few := self._ids.find(ids)) is not None:
            return few
        order = self._order
        known = self.ids if order is None else self.ids[order]
        at = np.searchsorted(known, ids)
        found = at < self.count
        found[found] = known[at[found]] == ids[found]
        if not found.all():
            bad = int(ids[~found][0])
            which = f"the {self.count:,} ids are {known[0]} to {known[-1]}, with gaps" if self.count else "there are none"
            raise NotFoundError(f"no object {bad}: {which}", store=self._source.where())
        return np.asarray(at if order is None else order[at], np.int64)

    @cached_property
    def _order(self) -> NDArray[np.intp] | None:
        """Rows in ascending order of their ids; None where that is the order of the rows."""
        return None if (self.ids[1:] > self.ids[:-1]).all() else np.argsort(self.ids)

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
        array = self.tables.open("object_index/manifests")
        if array.shape != (self.count,):
            raise FormatError(
                f"manifests has the shape {array.shape}, object_index counts {self.count} objects",
                store=self._source.where(),
            )
        return array

    def slices(self) -> Iterator[FragmentTable]:
        """Yield the table of all objects, a bounded number of rows at a time.

        Raises
        ------
        FormatError
            A manifest is damaged, or fewer objects have one than `object_index` counts.
        """
        present = 0
        for first in range(0, self.count, _SLICE):
            rows = np.arange(first, min(first + _SLICE, self.count))
            table = self._table(rows, self.ids[rows] if self._has_table else rows)
            present += len(np.unique(table.objects))
            yield table
        if self._present is not None and present < self._present:
            raise FormatError(
                f"{present:,} objects have vertices, object_index counts {self._present:,} (num_present): manifests were lost",
                store=self._source.where(), array="object_index",
            )  # fmt: skip

    def select(self, ids: NDArray[np.int64]) -> FragmentTable:
        """Return the table of the objects `ids` (distinct, ascending), in their order.

        Raises
        ------
        NotFoundError
            No object has one of the ids.
        """
        rows = self.rows(ids)
        if not len(ids):
            return FragmentTable(ids, np.zeros((0, self._source.rank), np.int64), ids)
        return self._table(rows, ids)

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

            blobs = decoding(self._source, "object_index/manifests", read)
            if self._grid:
                self._check_rows(rows, blobs)
        try:
            entries, chunks, fragments = decode_manifests(blobs, self._source.rank)
        except FormatError as error:
            raise error.at(store=self._source.where(), array="object_index/manifests") from None
        return FragmentTable(ids[entries], chunks, fragments)

    def _check_cells(self, ids: NDArray[np.int64]) -> None:
        """Compare the stored objects that hold some manifests with the checksums that our writer left.

        zarr takes an absent one for empty manifests, and a frame of Zstandard may decode to others after a bit was lost.
        """
        checksums = dict(self._manifests.attrs).get(MANIFESTS_CRC32C)
        if checksums is None:
            return
        if not isinstance(checksums, list):
            raise FormatError(
                f"the checksums of the manifests are {checksums!r:.80}, no list", store=self._source.where(),
                array="object_index/manifests",
            )  # fmt: skip
        cells = np.unique(ids // self._manifests.chunks[0]).tolist()
        keys = [f"{self._path}/manifests/c/{c}" for c in cells]
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
        key = f"{self._path}/manifests/c/{row // self._manifests.chunks[0]}"
        raise StoreError(f"'/{key}', which holds manifests of objects, is missing", store=self._source.where())


def chosen_ids(objects: Any) -> NDArray[np.int64]:
    """Return the ids that a user asks for, distinct and ascending.

    Raises
    ------
    InputError
        Not an integer or a sequence of them.
    """
    ids = np.atleast_1d(np.asarray(objects))
    if ids.ndim != 1 or (len(ids) and ids.dtype.kind not in "iu"):
        raise InputError(f"objects are an integer id or a sequence of them, not {objects!r:.80}")
    return np.unique(ids).astype(np.int64)


def fragment_owners(source: LevelSource, chunks: Sequence[str], index: ObjectIndex | None = None) -> FragmentTable:
    """Return the fragments of the objects that have any in `chunks`.

    The whole table is kept per process where it is small; where it isn't, the manifests are read again in slices, so memory
    is bounded by the answer.
    """
    key = (source.place.handle.identity, source.place.prefix, source.token + source.index_token)
    with _LOCK:
        if key in _CACHE:
            return _CACHE[key]
    index = index or ObjectIndex(source)
    wanted = set(chunks)
    every: list[FragmentTable] | None = []
    kept: list[FragmentTable] = []
    total = 0
    for part in index.slices():
        total += len(part.objects)
        if every is not None:
            every.append(part)
            if total > _KEPT_FRAGMENTS:
                kept, every = [only_in(p, wanted) for p in every], None
        else:
            kept.append(only_in(part, wanted))
    check_same_objects(source)
    if every is None:
        return join_tables(kept, source.rank)
    table = join_tables(every, source.rank)
    with _LOCK:
        _CACHE[key] = table
        while len(_CACHE) > _CACHE_LIMIT:
            _CACHE.popitem(last=False)
    return table
