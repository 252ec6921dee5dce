"""Which object owns which fragment: the manifests of a level, read in slices."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError, InputError, MetadataError, NotFoundError, StoreError
from dask_zv.format.documents import parse_document
from dask_zv.format.groups import decode_groups
from dask_zv.format.keys import DOCUMENT, coords_to_keys, parse_key
from dask_zv.format.manifests import decode_manifests
from dask_zv.geometry.schema import parse_dtype
from dask_zv.pipelines.level_io import MANIFESTS_CRC32C, LevelSource
from dask_zv.pipelines.object_tables import decoding, read_attribute_tables, read_group_tables, read_id_table
from dask_zv.storage.blobs import open_zarr_array
from dask_zv.storage.catalog import Catalog
from dask_zv.storage.checksums import crc32c
from dask_zv.storage.handles import open_objects
from dask_zv.storage.objects import join
from dask_zv.storage.per_chunk import PerChunk

__all__ = ["FragmentTable", "ObjectIndex", "chosen_ids", "fragment_owners", "read_groups", "read_object_attributes"]

_SLICE = 1 << 14
_KEPT_FRAGMENTS = 4_000_000
_CACHE: OrderedDict[tuple[str, str, str], FragmentTable] = OrderedDict()
_CACHE_LIMIT = 4
_LOCK = threading.Lock()
SHARED = -2
"""Owner of a fragment that several objects name."""
ROWS_ARE_IDS = "vlen_manifests_v1"
ROWS_HAVE_IDS = "vlen_manifests_v2"
"""Layouts of the index: an object's id is its row, or what the table of ids has there."""


@dataclass(frozen=True, eq=False)
class FragmentTable:
    """Fragments in manifest order: object by object, each in path order.

    Attributes
    ----------
    objects : ndarray of int64, shape (M,)
    chunks : ndarray of int64, shape (M, K)
    fragments : ndarray of int64, shape (M,)
    """

    objects: NDArray[np.int64]
    chunks: NDArray[np.int64]
    fragments: NDArray[np.int64]

    def __reduce__(self) -> tuple[Any, ...]:
        return FragmentTable, (self.objects, self.chunks, self.fragments)  # without what is remembered beside them

    @cached_property
    def _by_chunk(self) -> tuple[Catalog, NDArray[np.intp], NDArray[np.intp]]:
        """Return the distinct chunks, the entries in the order of their chunks, and where each chunk's entries begin there."""
        order = np.lexsort(self.chunks.T[::-1]) if len(self.objects) else np.zeros(0, np.intp)
        chunks = self.chunks[order]
        new = np.r_[True, (chunks[1:] != chunks[:-1]).any(axis=1)] if len(order) else np.zeros(0, bool)
        first = np.flatnonzero(new)
        return Catalog(chunks[first], np.diff(np.r_[first, len(order)]), {}), order, np.r_[first, len(order)]

    def in_chunks(self, coords: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the entries in some chunks, chunk by chunk, and the place in `coords` of each entry's chunk.

        Parameters
        ----------
        coords : ndarray of int64, shape (n, K)
        """
        known, order, starts = self._by_chunk
        at = known.find(coords)
        counts = np.where(at >= 0, starts[at + 1] - starts[at], 0) if len(known) else np.zeros(len(coords), np.intp)
        total = int(counts.sum())
        inside = np.repeat(starts[at] - (np.cumsum(counts) - counts), counts) + np.arange(total)
        return order[inside], np.repeat(np.arange(len(coords)), counts)

    def within(self, coords: NDArray[np.int64]) -> FragmentTable:
        """Return the entries in some chunks, in the order of the manifests."""
        entries = np.sort(self.in_chunks(coords)[0])
        return FragmentTable(self.objects[entries], self.chunks[entries], self.fragments[entries])

    @property
    def distinct_chunks(self) -> NDArray[np.int64]:
        """The chunks that have entries, ascending; shape (m, K)."""
        return self._by_chunk[0].coords

    def owners_in(self, coords: NDArray[np.int64], fragments: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the object of each fragment of some chunks: -1 for none, -2 where several objects share it.

        Parameters
        ----------
        coords : ndarray of int64, shape (n, K)
        fragments : ndarray of int64, shape (n,)
            Fragments of each chunk.

        Returns
        -------
        ndarray of int64, shape (fragments.sum(),)

        Raises
        ------
        FormatError
            A manifest names a fragment that its chunk does not have.
        """
        entries, chunk = self.in_chunks(coords)
        named = self.fragments[entries]
        beyond = np.flatnonzero(named >= fragments[chunk])
        if len(beyond):
            at = beyond[0]
            raise FormatError(
                f"a manifest names fragment {named[at]}, the chunk has {fragments[chunk[at]]}",
                array="object_index", chunk=coords_to_keys(coords[chunk[at : at + 1]])[0],
            )  # fmt: skip
        place = (np.cumsum(fragments) - fragments)[chunk] + named
        out = np.full(int(fragments.sum()), -1, np.int64)
        out[place] = self.objects[entries]
        out[place[out[place] != self.objects[entries]]] = SHARED  # a path may come by one fragment twice
        return out


class ObjectIndex:
    """The manifests of a level.

    Attributes
    ----------
    count : int
        Number of objects; each has a row in the manifests and in the object attributes.
    """

    def __init__(self, source: LevelSource) -> None:
        self._source = source
        self._objects = open_objects(source.place.handle)
        path = join(source.place.prefix, "object_index")
        document = self._objects.get(join(path, DOCUMENT))
        attrs: dict[str, Any] = {}
        if document is not None:
            attrs = parse_document(document, path, self._objects.url).get("attributes", {})
        count = attrs.get("num_objects", 0)
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise MetadataError(f"object_index has num_objects {count!r}", store=source.where())
        rank = attrs.get("sid_ndim", source.rank)
        if rank != source.rank:
            raise MetadataError(f"object_index has sid_ndim {rank!r}, chunk keys have {source.rank}", store=source.where())
        layout = attrs.get("layout")
        grid = source.place.layout == "grid"
        if grid and count and layout not in (ROWS_ARE_IDS, ROWS_HAVE_IDS):
            raise MetadataError(f"object_index has the layout {layout!r}, which is not read", store=source.where())
        self.count = count
        # an appender leaves the table of ids in place when it goes over to rows as ids: the layout alone is to be trusted
        self._has_table = layout == ROWS_HAVE_IDS
        self._legacy = layout is None and not grid
        self._grid = grid
        self._path = path

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        """Ids of the objects, row by row; distinct, and in the grid layout in any order with any gaps."""
        if self._has_table and self.count:
            return read_id_table(self._source, self.count)
        return np.arange(self.count, dtype=np.int64)

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
        array = open_zarr_array(self._objects, join(self._path, "manifests"))
        if array.shape != (self.count,):
            raise FormatError(
                f"manifests has the shape {array.shape}, object_index counts {self.count} objects",
                store=self._source.where(),
            )
        return array

    def slices(self) -> Iterator[FragmentTable]:
        """Yield the table of all objects, a bounded number of rows at a time."""
        for first in range(0, self.count, _SLICE):
            yield self._table(np.arange(first, min(first + _SLICE, self.count)))

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
        return self._table(rows)

    def _table(self, rows: NDArray[np.int64]) -> FragmentTable:
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
        ids = self.ids[rows] if self._has_table else rows
        return FragmentTable(ids[entries], chunks, fragments)

    def _check_cells(self, ids: NDArray[np.int64]) -> None:
        """Compare the stored objects that hold some manifests with the checksums that our writer left.

        zarr takes an absent one for empty manifests, and a frame of Zstandard may decode to others after a bit was lost.
        """
        checksums = dict(self._manifests.attrs).get(MANIFESTS_CRC32C)
        if checksums is None:
            return
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


def fragment_owners(source: LevelSource, chunks: Sequence[str]) -> FragmentTable:
    """Return the fragments of the objects that have any in `chunks`.

    The whole table is kept per process where it is small; where it isn't, the manifests are read again in slices, so memory
    is bounded by the answer.
    """
    key = (source.place.handle.identity, source.place.prefix, source.token + source.index_token)
    with _LOCK:
        if key in _CACHE:
            return _CACHE[key]
    index = ObjectIndex(source)
    wanted = set(chunks)
    every: list[FragmentTable] | None = []
    kept: list[FragmentTable] = []
    total = 0
    for part in index.slices():
        total += len(part.objects)
        if every is not None:
            every.append(part)
            if total > _KEPT_FRAGMENTS:
                kept, every = [_only(p, wanted) for p in every], None
        else:
            kept.append(_only(part, wanted))
    if every is None:
        return _join(kept, source.rank)
    table = _join(every, source.rank)
    with _LOCK:
        _CACHE[key] = table
        while len(_CACHE) > _CACHE_LIMIT:
            _CACHE.popitem(last=False)
    return table


def _only(part: FragmentTable, wanted: set[str]) -> FragmentTable:
    return part.within(np.array(sorted(map(parse_key, wanted)), np.int64).reshape(len(wanted), part.chunks.shape[1]))


def _join(parts: Sequence[FragmentTable], rank: int) -> FragmentTable:
    if not parts:
        return FragmentTable(np.zeros(0, np.int64), np.zeros((0, rank), np.int64), np.zeros(0, np.int64))
    objects = np.concatenate([p.objects for p in parts])
    chunks = np.concatenate([p.chunks for p in parts])
    fragments = np.concatenate([p.fragments for p in parts])
    if (objects[1:] < objects[:-1]).any():  # rows may have their ids in any order; readers go by ids
        order = np.argsort(objects, kind="stable")
        objects, chunks, fragments = objects[order], chunks[order], fragments[order]
    return FragmentTable(objects, chunks, fragments)


def read_object_attributes(source: LevelSource, index: ObjectIndex) -> dict[str, NDArray[Any]]:
    """Return the object attributes, row = row of the index (see :meth:`ObjectIndex.rows`); masked where objects have none.

    Raises
    ------
    FormatError
        An attribute's rows fit neither the objects nor those with vertices.
    """
    if source.place.layout == "grid":
        return read_attribute_tables(source, index.count)
    return _plain_arrays(source, "object_attributes", index.count, index)


def read_groups(source: LevelSource) -> tuple[dict[int, NDArray[np.int64]], dict[str, NDArray[Any]]]:
    """Return the members of each group, and the group attributes (row = group)."""
    if source.place.layout == "grid":
        return read_group_tables(source)
    objects = open_objects(source.place.handle)
    blobs = PerChunk(objects, source.place.prefix)
    path = join(source.place.prefix, "groups")
    document = objects.get(join(path, DOCUMENT))
    if document is None and not objects.list_dir(path):
        return {}, {}
    number = parse_document(document, path, objects.url).get("attributes", {}).get("num_groups") if document else None
    if number == 0:
        return {}, {}
    members = decode_groups(blobs.read("groups", "data"), blobs.read("groups", "offsets"))
    if number is not None and number != len(members):
        raise FormatError(f"{len(members)} groups are stored, the metadata counts {number!r}", store=objects.url, array=path)
    groups = dict(enumerate(np.asarray(m, np.int64) for m in members))
    return groups, _plain_arrays(source, "group_attributes", len(groups), None)


def _plain_arrays(source: LevelSource, family: str, count: int, index: ObjectIndex | None) -> dict[str, NDArray[Any]]:
    objects = open_objects(source.place.handle)
    blobs = PerChunk(objects, source.place.prefix)
    out: dict[str, NDArray[Any]] = {}
    for name in objects.list_dir(join(source.place.prefix, family)):
        if name == DOCUMENT:
            continue
        array = f"{family}/{name}"
        path = join(source.place.prefix, array)
        document = objects.get(join(path, DOCUMENT))
        attrs = parse_document(document, path, objects.url).get("attributes", {}) if document else {}
        dtype = parse_dtype(attrs.get("dtype"), f"{family} {name!r}")
        data = blobs.read(array, "data")
        shape = tuple(attrs.get("shape", (-1,)))
        try:
            values = np.frombuffer(data, dtype).reshape(shape)
        except (ValueError, TypeError) as error:
            raise FormatError(f"{len(data)} bytes are no {shape} of {dtype}", store=objects.url, array=path) from error
        if attrs.get("has_present_mask"):
            present = np.frombuffer(blobs.read(array, "present_mask"), np.uint8).astype(bool)
            if len(present) != len(values):
                raise FormatError(f"{len(present)} presence flags for {len(values)} rows", store=objects.url, array=path)
            values = np.ma.MaskedArray(values, np.broadcast_to(~present.reshape(-1, *[1] * (values.ndim - 1)), values.shape))
        if len(values) != count:
            values = _align(values, count, index, objects.url, path)
        out[name] = values
    return out


def _align(values: NDArray[Any], count: int, index: ObjectIndex | None, store: str, path: str) -> NDArray[Any]:
    """Place rows that were written for the objects with vertices only (a known way of the 0.2 writer) by their ids."""
    present: NDArray[np.int64] = np.zeros(0, np.int64)
    if index is not None:
        present = np.unique(np.concatenate([np.unique(t.objects) for t in index.slices()] or [present]))
    if len(values) != len(present):
        raise FormatError(
            f"{len(values)} rows for {count} objects: which rows are whose can't be told", store=store, array=path
        )
    full = np.ma.MaskedArray(np.zeros((count, *values.shape[1:]), values.dtype), True)
    full[present] = values
    return full
