"""The part of a level that tasks carry, its blobs, and what a process keeps for a while of the levels that it reads.

One module because what is kept is kept by the state that a source tells of, and is asked whether that is still so.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError, MetadataError, NotFoundError, StoreError
from dask_zv.format.documents import parse_document
from dask_zv.format.keys import DOCUMENT, coords_to_keys, join
from dask_zv.geometry.schema import VERTICES, PointSchema
from dask_zv.spatial.chunks import ChunkLookup
from dask_zv.storage.catalog import Catalog
from dask_zv.storage.handles import open_objects
from dask_zv.storage.layout import Blobs, open_blobs, open_place
from dask_zv.storage.nodes import load_catalog
from dask_zv.storage.objects import Objects, place_url
from dask_zv.storage.specs import Place

MANIFESTS_CRC32C = "dask_zv_crc32c"
"""Attribute of the manifests' array; see :mod:`dask_zv.write.object_index`."""

V = TypeVar("V")


class SharedCache(Generic[V]):
    """A cache whose values are kept while their sizes sum up to no more than `limit`, those last used the longest."""

    def __init__(self, limit: int, size: Callable[[V], int] = lambda _: 1) -> None:
        self.limit = limit
        self._size = size
        self._values: OrderedDict[Hashable, V] = OrderedDict()
        self._pending: dict[Hashable, tuple[Future[Sequence[V]], int]] = {}
        self._total = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> V | None:
        """Return a value that is kept, None where there is none."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key]

    def put(self, key: Hashable, value: V) -> None:
        """Keep a value, in place of another of the same key."""
        with self._lock:
            self._keep(key, value)

    def get_many(self, keys: Sequence[Hashable], make: Callable[[list[int]], Sequence[V]]) -> list[V]:
        """Return the values of `keys`; `make` is called once with the positions of those that nobody has or makes."""
        out: dict[int, V] = {}
        waiting: dict[int, tuple[Future[Sequence[V]], int]] = {}
        mine: list[int] = []
        batch: Future[Sequence[V]] = Future()  # one for all: thousands of them would cost more than what they wait for
        with self._lock:
            for i, key in enumerate(keys):
                if key in self._values:
                    self._values.move_to_end(key)
                    out[i] = self._values[key]
                elif key in self._pending:
                    waiting[i] = self._pending[key]
                else:
                    self._pending[key] = batch, len(mine)
                    mine.append(i)
        if mine:
            try:
                made = make(mine)
            except BaseException as error:
                with self._lock:
                    for i in mine:
                        del self._pending[keys[i]]
                batch.set_exception(error)
                raise
            with self._lock:
                for i, value in zip(mine, made, strict=True):
                    out[i] = value
                    del self._pending[keys[i]]
                    self._keep(keys[i], value)
            batch.set_result(made)
        for i, (others, place) in waiting.items():
            out[i] = others.result()[place]
        return [out[i] for i in range(len(keys))]

    def _keep(self, key: Hashable, value: V) -> None:
        old = self._values.pop(key, None)
        self._total += self._size(value) - (0 if old is None else self._size(old))
        self._values[key] = value
        while self._total > self.limit and len(self._values) > 1:
            _, least = self._values.popitem(last=False)
            self._total -= self._size(least)


@dataclass(slots=True, eq=False)
class _Run(Generic[V]):
    """Chunks that were read together: which (ascending), and what they hold, or who reads it."""

    state: Hashable
    chunks: NDArray[np.intp]
    value: Future[V]
    nbytes: int = 0


class RunCache(Generic[V]):
    """What chunks hold, kept by the runs that they were read in: columns that are read alike find it whole.

    Runs are kept while their sizes sum up to no more than `limit`. A value is of some chunks: `take(value, places)` is that
    of those at some places (ascending or not), `join(values)` that of all.
    """

    def __init__(
        self,
        limit: int,
        size: Callable[[V], int],
        take: Callable[[V, NDArray[np.intp]], V],
        join: Callable[[Sequence[V]], V],
    ) -> None:
        self.limit = limit
        self._size, self._take, self._join = size, take, join
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._runs: OrderedDict[int, _Run[V]] = OrderedDict()
            self._tables: dict[Hashable, NDArray[np.int64]] = {}  # the run that each chunk of a level is in; 0 for none
            self._numbers: Counter[Hashable] = Counter()  # runs of each level
            self._total = self._last = 0

    def get(self, state: Hashable, n: int, chunks: NDArray[np.intp], make: Callable[[NDArray[np.intp]], V]) -> V:
        """Return what some chunks (distinct, ascending) of a level's `n` hold.

        `make` reads those that nobody has or reads; what it raises is raised for all who wait for it.
        """
        if not len(chunks):
            return make(chunks)
        run: _Run[V] | None = None
        with self._lock:
            table = self._tables.get(state)
            if table is None or len(table) != n:
                self._tables[state] = table = np.zeros(n, np.int64)
            numbers = table[chunks]
            if (numbers == 0).any():
                self._last = mine = self._last + 1
                run = self._runs[mine] = _Run(state, chunks[numbers == 0], Future())
                self._numbers[state] += 1
                numbers[numbers == 0] = table[run.chunks] = mine
            found = [(chunks[numbers == number], self._runs[number]) for number in np.unique(numbers).tolist()]
            for number in np.unique(numbers).tolist():
                self._runs.move_to_end(number)
        if run is not None:
            try:
                value = make(run.chunks)
            except BaseException as error:
                with self._lock:
                    self._forget(mine)
                run.value.set_exception(error)
                raise
            with self._lock:
                if mine in self._runs:
                    run.nbytes = self._size(value)
                    self._total += run.nbytes
                while self._total > self.limit and len(self._runs) > 1:
                    self._forget(next(iter(self._runs)))
            run.value.set_result(value)
        return self._of(chunks, found)

    def _of(self, chunks: NDArray[np.intp], found: Sequence[tuple[NDArray[np.intp], _Run[V]]]) -> V:
        """Return what chunks hold, from the runs that each of them is in."""
        values = [run.value.result() for _, run in found]
        values = [
            v if len(some) == len(run.chunks) else self._take(v, np.searchsorted(run.chunks, some))
            for v, (some, run) in zip(values, found, strict=True)
        ]
        if len(values) == 1:
            return values[0]
        order = np.argsort(np.concatenate([some for some, _ in found]), kind="stable")
        joined = self._join(values)
        return joined if (np.diff(order) == 1).all() else self._take(joined, order)

    def _forget(self, number: int) -> None:
        run = self._runs.pop(number, None)
        if run is None:
            return
        self._total -= run.nbytes
        self._numbers[run.state] -= 1
        table = self._tables[run.state]
        some = run.chunks[run.chunks < len(table)]  # a level without a catalog may have become another
        table[some[table[some] == number]] = 0
        if not self._numbers[run.state]:
            del self._tables[run.state], self._numbers[run.state]


_CATALOGS: SharedCache[Catalog] = SharedCache(8)


@dataclass(frozen=True, eq=False)
class ChunkTable(ChunkLookup):
    """The chunks of a level.

    Attributes
    ----------
    coords : ndarray of int64, shape (n, K)
        Chunk coordinates, ascending; K is the number of axes, one more where an attribute leads the key.
    rows : ndarray of int64, shape (n,)
        Vertices in each chunk.
    emptied : int
        Chunks of which an edit has left an index of fragments without rows.
    """

    rows: NDArray[np.int64]
    emptied: int = 0

    @property
    def keys(self) -> list[str]:
        """Chunk keys, such as ``"0.1.2"``."""
        return coords_to_keys(self.coords)

    def __repr__(self) -> str:
        return f"<ChunkTable: {len(self):,} chunks, {int(self.rows.sum()):,} vertices>"


@dataclass(frozen=True, slots=True)
class LevelSource:
    """All that a task needs to read a level: small, picklable, no open store."""

    place: Place
    schema: PointSchema
    chunk_attribute: tuple[str, tuple[Any, ...]] | None
    """Name and values of the attribute that leads the chunk keys, where there is one whose values they tell."""
    token: str  # state of the store when it was looked at: the digest of the catalog, or of the metadata without one
    catalogued: bool  # the level had a catalog
    index_token: str = ""  # digest of the manifests that our writer left; empty for levels of others
    links_compared: bool = False  # the documents of links were compared with the catalog as well
    leading: str | None = None
    """Name of the part that leads the chunk keys, where there is one: that attribute, or what bins or groups are of."""

    @property
    def rank(self) -> int:
        """Rank K of the chunk keys."""
        return self.schema.grid.ndim + (self.leading is not None)

    @property
    def state(self) -> tuple[str, str, str]:
        """What tells the level as it is now from all others."""
        return self.place.handle.identity, self.place.prefix, self.token

    def where(self) -> str:
        """Return the level's URL."""
        return place_url(self.place.handle.url, self.place.prefix)

    def spatial(self, coords: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the part of chunk coordinates (n, K) that is a place in space, (n, D)."""
        return coords[:, self.rank - self.schema.grid.ndim :]


def read_documents(objects: Objects, paths: list[str]) -> list[dict[str, Any] | None]:
    """Return the documents of nodes, None for those that have none."""
    found = objects.get_many([(join(p, DOCUMENT), None) for p in paths])
    return [None if d is None else parse_document(d, p, objects.url) for p, d in zip(paths, found, strict=True)]


def lost_document(where: str, array: str) -> MetadataError:
    """Return the error that a node which must be there has no document."""
    return MetadataError(
        f"the document of {array!r} is missing, so it cannot be read: restore it, or write the level again; if another tool "
        "removed the array on purpose, store.refresh() accepts the level as it is",
        store=where, array=array,
    )  # fmt: skip


def index_token(manifests: Mapping[str, Any] | None) -> str:
    """Return the digest of the manifests with this document, see :attr:`LevelSource.index_token`."""
    checksums = (manifests or {}).get("attributes", {}).get(MANIFESTS_CRC32C)
    return "" if checksums is None else hashlib.sha256(json.dumps(checksums).encode()).hexdigest()


def remember(source: LevelSource, catalog: Catalog) -> None:
    """Keep a level's catalog for the tasks of this process."""
    _CATALOGS.put(source.state, catalog)


def level_blobs(source: LevelSource) -> Blobs:
    """Return the level's blobs with its catalog, which each process reads once."""
    if not source.catalogued:
        return open_place(source.place)
    catalog = _CATALOGS.get(source.state)
    if catalog is None:
        catalog = check_unchanged(source)
        remember(source, catalog)
    return open_blobs(open_objects(source.place.handle), source.place.prefix, source.place.layout, catalog, trust=True)


def check_unchanged(source: LevelSource) -> Catalog:
    """Return the level's catalog if it is the one that `source` was found with, else raise :class:`FormatError`."""
    objects = open_objects(source.place.handle)
    catalog = load_catalog(objects, source.place.prefix)
    if catalog is None or catalog.token != source.token:
        raise FormatError(
            "the level was rewritten after it was opened: open it again", store=objects.url, array=source.place.prefix
        )
    return catalog


@contextmanager
def as_opened(source: LevelSource) -> Iterator[None]:
    """Read a level here: where that fails on one that was rewritten after it was opened, the error says so."""
    try:
        yield
    except (FormatError, MetadataError, NotFoundError, StoreError):
        if source.catalogued:
            check_unchanged(source)
        raise


def check_same_objects(source: LevelSource) -> None:
    """Raise :class:`FormatError` where the objects were written again since: one small document tells, of our writer's."""
    if not source.index_token:
        return
    document = join(source.place.prefix, "object_index/manifests")
    if index_token(read_documents(open_objects(source.place.handle), [document])[0]) != source.index_token:
        raise FormatError(
            "the level's objects were rewritten after it was opened: open it again",
            store=source.where(), array="object_index",
        )  # fmt: skip


def catalogued_chunks(source: LevelSource, catalog: Catalog | None) -> ChunkTable | None:
    """Return the level's chunks and their rows by its catalog, None where that does not tell."""
    if catalog is None or VERTICES not in catalog.arrays:
        return None
    have = catalog.chunks_of(VERTICES)
    sizes = catalog.arrays[VERTICES].nbytes[have]
    coords, rows = catalog.coords[have], catalog.rows[have]
    row_bytes = source.schema.grid.ndim * source.schema.dtype.itemsize
    wrong = np.flatnonzero((rows >= 0) & (rows * row_bytes != sizes))
    if len(wrong):
        at = int(wrong[0])
        raise FormatError(
            f"the catalog has {rows[at]} rows in {sizes[at]} bytes, the metadata says {row_bytes} bytes a row: one of them is "
            "damaged; store.refresh() rebuilds the catalog",
            store=source.where(), array=VERTICES, chunk=coords_to_keys(coords[at : at + 1])[0],
        )  # fmt: skip
    # a catalog of nothing has no rank
    return None if (rows < 0).any() else ChunkTable(coords if len(coords) else coords.reshape(0, source.rank), rows)
