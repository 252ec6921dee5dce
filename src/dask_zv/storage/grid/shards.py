"""Cells of grid arrays as they are stored: one object per cell, or whole shards packed at memory speed.

A shard is written once, by the one task that owns it: its cells along the Morton curve, so that a box touches few ranges of it,
then its index. Zarr reads it as any other shard of ``sharding_indexed``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError, PlanError, StoreError
from dask_zv.format.grids import (
    EMPTY,
    GridArray,
    GridSpec,
    cell_path,
    frame,
    header,
    index_nbytes,
    pack_index,
    unframe,
    unpack_index,
)
from dask_zv.format.keys import coords_to_keys, format_key, join, keys_to_coords
from dask_zv.spatial.chunks import group_by_chunk, morton_codes
from dask_zv.storage.codecs import CellCodec, cell_codec
from dask_zv.storage.grid.fetch import StoredCell, object_runs, shard_indexes
from dask_zv.storage.objects import Objects
from dask_zv.storage.receipts import COLUMNS, Columns, Receipt

Pieces = tuple[bytes, ...]
"""A stored cell, in one piece or as header and payload: large raw payloads are copied once, into their shard."""


_SHORT = 64
"""Payloads of no more bytes are encoded once for all cells that have them."""


def _checksum(cell: Pieces) -> int:
    value = int(google_crc32c.value(cell[0]))
    for piece in cell[1:]:
        value = int(google_crc32c.extend(value, piece))
    return value


def _lengths(cells: Sequence[Pieces]) -> NDArray[np.int64]:
    """Return the bytes of each stored cell, shape (n,)."""
    out = np.fromiter((len(c[0]) for c in cells), np.int64, len(cells))
    if any(len(c) > 1 for c in cells):
        out += np.fromiter((sum(map(len, c[1:])) for c in cells), np.int64, len(cells))
    return out


class _StoredCells:
    """The cells of one array that a block stores: rows of the catalog's columns, as its objects are made."""

    def __init__(self, objects: Objects, path: str, spec: GridSpec) -> None:
        self.emptied: list[str] = []  # keys of chunks whose payload is empty: they have no cell any more
        self.puts: list[tuple[str, bytes | None, int, int]] = []  # path, data (None: to delete), first row, rows
        self._objects, self._path, self._spec = objects, path, spec
        self._codec: CellCodec = cell_codec(spec.codecs)
        self._short: dict[bytes, Pieces] = {}  # indexes of fragments: those of chunks with as many rows are equal
        self._count = 0
        self._coords: list[NDArray[np.int64]] = []
        self._columns: dict[str, list[Any]] = {kind: [] for kind in COLUMNS if kind != "stamp"}
        self._kept: list[NDArray[np.bool_]] = []

    def add(self, keys: list[str], coords: NDArray[np.int64], payloads: Mapping[str, bytes | StoredCell], merge: bool) -> None:
        """Make the objects of some chunks; with `merge` shards may exist, and what else they hold is kept."""
        cells = self._spec.cells_of(coords, self._path)
        if self._spec.shard_shape is None:
            self._add_single(keys, coords, cells, payloads)
        elif keys:
            self._add_shards(keys, coords, cells, payloads, merge)

    def _add_single(
        self, keys: list[str], coords: NDArray[np.int64], cells: NDArray[np.int64], payloads: Mapping[str, bytes | StoredCell]
    ) -> None:
        full = [i for i, key in enumerate(keys) if payloads[key]]
        where = cells.tolist()
        if len(full) < len(keys):
            gone = [i for i, key in enumerate(keys) if not payloads[key]]
            self.emptied += [keys[i] for i in gone]
            self.puts += [(cell_path(self._path, where[i]), None, 0, 0) for i in gone]
        stored = [self._encoded(payloads[keys[i]]) for i in full]
        self._add_rows(coords[full], [len(payloads[keys[i]]) for i in full], -1, np.zeros(len(full), np.int64), stored)
        self.puts += [
            (cell_path(self._path, where[i]), b"".join(pieces), n, 1)
            for n, (i, pieces) in enumerate(zip(full, stored, strict=True))
        ]

    def _add_shards(
        self,
        keys: list[str],
        coords: NDArray[np.int64],
        cells: NDArray[np.int64],
        payloads: Mapping[str, bytes | StoredCell],
        merge: bool,
    ) -> None:
        spec = self._spec
        assert spec.shard_shape is not None
        numbers = spec.shards_of(cells)[1]
        rank = curve_rank(spec.shard_shape)
        runs = object_runs(cells, spec, rank[numbers])
        paths = [cell_path(self._path, shard) for shard, _ in runs]
        # what is there is asked for by all at once; of new arrays nothing is
        before = self._objects.get_many([(p, None) for p in paths]) if merge else [None] * len(paths)
        for (shard, run), place, old in zip(runs, paths, before, strict=True):
            members = run.tolist()
            full = [i for i in members if payloads[keys[i]]]
            self.emptied += [keys[i] for i in members if not payloads[keys[i]]] if len(full) < len(members) else []
            stored = [self._encoded(payloads[keys[i]]) for i in full]
            at, number = coords[full], numbers[full]
            nbytes = [len(payloads[keys[i]]) for i in full]
            kept = np.zeros(len(full), bool)
            held = {} if old is None else shard_cells(old, spec, place, self._objects.url)
            if keep := sorted(set(held) - set(numbers[run].tolist())):
                stored += [(held[n][1],) for n in keep]
                nbytes += [len(unframe(self._codec.decode(held[n][1]))) for n in keep]
                local = np.stack(np.unravel_index(keep, spec.shard_shape), axis=1)
                at = np.concatenate([at, np.asarray(shard) * np.asarray(spec.shard_shape) + local + np.asarray(spec.origin)])
                number = np.concatenate([number, keep])
                along = np.argsort(rank[number], kind="stable")
                at, number, kept = at[along], number[along], (np.arange(len(number)) >= len(full))[along]
                stored, nbytes = [stored[i] for i in along], [nbytes[i] for i in along]
            if not stored:
                self.puts.append((place, None, 0, 0))
                continue
            data, offsets = pack_shard(number, stored, spec.shard_cells)
            self.puts.append((place, data, self._count, len(stored)))
            self._add_rows(at, nbytes, 0, offsets, stored, kept)

    def _encoded(self, payload: bytes | StoredCell) -> Pieces:
        if type(payload) is StoredCell:
            return (payload.data,)
        assert isinstance(payload, bytes)
        if self._codec.is_identity:
            return header(len(payload)), payload
        if len(payload) > _SHORT:
            return (self._codec.encode(frame(payload)),)
        known = self._short.get(payload)
        if known is None:
            known = self._short[payload] = (self._codec.encode(frame(payload)),)
        return known

    def _add_rows(
        self,
        coords: NDArray[np.int64],
        nbytes: Sequence[int],
        shard: int,
        offsets: NDArray[np.int64],
        cells: Sequence[Pieces],
        kept: NDArray[np.bool_] | None = None,
    ) -> None:
        n = len(cells)
        self._count += n
        self._coords.append(coords)
        self._kept.append(np.zeros(n, bool) if kept is None else kept)
        rows = (nbytes, np.full(n, shard), offsets, _lengths(cells), [_checksum(c) for c in cells])
        for kind, values in zip(("nbytes", "shard", "offset", "stored", "crc"), rows, strict=True):
            self._columns[kind].append(values)

    def finish(self, stamps: Iterator[int]) -> tuple[NDArray[np.int64], Columns, NDArray[np.bool_]]:
        """Return (coordinates, columns, which were there before), given the stamps of the objects that were put."""
        stamp = np.zeros(self._count, np.uint64)
        for _, data, first, count in self.puts:
            if data is not None:
                stamp[first : first + count] = next(stamps)
        columns: dict[str, NDArray[Any]] = {"stamp": stamp}
        for kind, parts in self._columns.items():
            dtype = COLUMNS[kind][0]
            columns[kind] = np.concatenate([np.asarray(p, dtype) for p in parts]) if parts else np.zeros(0, dtype)
        coords = np.concatenate(self._coords) if self._coords else np.zeros((0, self._spec.rank), np.int64)
        return coords, Columns(columns), np.concatenate(self._kept) if self._kept else np.zeros(0, bool)


def store_cells(
    objects: Objects,
    prefix: str,
    specs: Mapping[str, GridSpec],
    blobs: Mapping[str, Mapping[str, bytes | StoredCell]],
    merge: Collection[str],
    rows: Mapping[str, int] | None = None,
) -> Receipt:
    """Store payloads by array and chunk key, all objects at once; running it twice stores the same bytes.

    A :class:`StoredCell` goes in as it is: it must come from an array of the same codecs. `merge` are arrays whose shards may
    exist and hold other cells, which are kept; `rows` the vertices of chunks.
    """
    arrays: dict[str, _StoredCells] = {}
    of_keys: list[str] = []
    coords = np.zeros((0, 0), np.int64)
    for array, payloads in blobs.items():
        keys = list(payloads)
        if keys != of_keys or specs[array].rank != coords.shape[1]:  # arrays of a block have the same chunks
            of_keys, coords = keys, keys_to_coords(keys, specs[array].rank)
        arrays[array] = _StoredCells(objects, join(prefix, array), specs[array])
        arrays[array].add(keys, coords, payloads, array in merge)
    every = [put for cells in arrays.values() for put in cells.puts]
    stamps = objects.put_all([(path, data) for path, data, *_ in every if data is not None])
    if gone := [path for path, data, *_ in every if data is None]:
        objects.delete_many(gone)
    if any(specs[array].shard_shape is not None for array in arrays):
        shard_indexes(objects).drop(path for path, *_ in every)
    following = iter(stamps)
    stored = {array: cells.finish(following) for array, cells in arrays.items()}
    nbytes = sum(len(data) for payloads in blobs.values() for data in payloads.values())
    emptied = {array: frozenset(cells.emptied) for array, cells in arrays.items() if cells.emptied}
    return _receipt(stored, emptied, rows or {}, nbytes, len(stamps))


def _receipt(
    stored: Mapping[str, tuple[NDArray[np.int64], Columns, NDArray[np.bool_]]],
    emptied: Mapping[str, frozenset[str]],
    rows: Mapping[str, int],
    nbytes: int,
    stored_objects: int,
) -> Receipt:
    ranks = tuple(sorted({at.shape[1] for at, _, _ in stored.values() if len(at)}))
    if len(ranks) > 1:
        raise PlanError(f"a block has chunk keys of the ranks {ranks}: the arrays of a group have one")
    rank = ranks[0] if ranks else 0
    parts = [at for at, _, _ in stored.values()]
    arrays: dict[str, Columns] = {}
    if all(np.array_equal(at, parts[0]) for at in parts):  # arrays of a block have the same chunks
        coords = parts[0] if parts else np.zeros((0, 0), np.int64)
        arrays = {array: columns for array, (_, columns, _) in stored.items()}
    else:
        coords, number = group_by_chunk(np.concatenate([at.reshape(-1, rank) for at in parts]))
        start = 0
        for array, (at, columns, _) in stored.items():
            arrays[array] = Columns.spread(len(coords), number[start : start + len(at)], columns)
            start += len(at)
    known = np.array([rows.get(k, -1) for k in coords_to_keys(coords)], np.int64)
    kept = {array: frozenset(coords_to_keys(at[again])) for array, (at, _, again) in stored.items() if again.any()}
    return Receipt(coords, known, arrays, (), ranks, nbytes, stored_objects, kept, emptied)


def pack_shard(numbers: NDArray[np.int64], cells: Sequence[Pieces], total: int) -> tuple[bytes, NDArray[np.int64]]:
    """Return a shard of stored cells in the order given, and the offset of each.

    `numbers`, shape (n,), are those of the cells in the shard, which has room for `total`.
    """
    lengths = _lengths(cells)
    offsets = np.cumsum(lengths) - lengths
    places = np.full((total, 2), EMPTY, np.uint64)
    places[numbers, 0], places[numbers, 1] = offsets, lengths
    return b"".join([*chain.from_iterable(cells), pack_index(places)]), offsets


def shard_cells(data: bytes, spec: GridSpec, path: str, store: str) -> dict[int, tuple[int, bytes]]:
    """Return the offset and the stored bytes of each cell of a whole shard, by number; the shard may be damaged."""
    n = index_nbytes(spec.shard_cells)
    if len(data) < n:
        raise FormatError(f"the shard has {len(data)} bytes, its index alone has {n}", store=store, array=path)
    try:
        places = unpack_index(data[-n:], spec.shard_cells, len(data))
    except FormatError as error:
        raise error.at(store=store, array=path) from None
    out: dict[int, tuple[int, bytes]] = {}
    for i in np.flatnonzero(places[:, 1] != EMPTY).tolist():
        offset, length = int(places[i, 0]), int(places[i, 1])
        out[i] = offset, data[offset : offset + length]
    return out


@lru_cache(maxsize=64)
def curve_rank(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the place of each cell of a shard along the Morton curve, shape (cells,)."""
    cells = np.stack(np.unravel_index(np.arange(int(np.prod(shape))), shape), axis=1).astype(np.int64)
    rank = np.empty(len(cells), np.int64)
    rank[np.argsort(morton_codes(cells), kind="stable")] = np.arange(len(cells))
    return rank


def object_cells(spec: GridSpec, coords: NDArray[np.int64]) -> list[tuple[tuple[int, ...], NDArray[np.int64]]]:
    """Group chunks by the stored object that holds them: (its cell or shard, coordinates of the chunks)."""
    return [(where, coords[run]) for where, run in object_runs(spec.cells_of(coords), spec)]


def inspect_cells(
    objects: Objects, prefix: str, array: str, found: GridArray, groups: Sequence[tuple[tuple[int, ...], NDArray[np.int64]]]
) -> tuple[NDArray[np.int64], Columns, dict[tuple[int, ...], bytes]]:
    """Read some objects of an array, as :func:`object_cells` groups them; return the chunks, where they are, their payloads.

    What a catalog needs to know of objects that are there already. A listed cell that is missing or damaged is an error.
    """
    spec, path = found.spec, join(prefix, array)
    codec = cell_codec(spec.codecs)
    paths = [cell_path(path, where) for where, _ in groups]
    stamps = objects.stamps(paths)  # first: what changes in between has another stamp than is noted, and is looked at again
    payloads: dict[tuple[int, ...], bytes] = {}
    rows: list[tuple[int, ...]] = []
    read = objects.get_many([(p, None) for p in paths])
    for data, stamp, (_, chunks), place in zip(read, stamps, groups, paths, strict=True):
        key = format_key(chunks[0].tolist())
        if data is None or stamp is None:
            raise StoreError("a listed chunk is gone: its object is missing", store=objects.url, array=path, chunk=key)
        numbers = [-1] * len(chunks)
        cells: dict[int, tuple[int, bytes]] = {-1: (0, data)}
        if spec.shard_shape is not None:
            numbers = spec.shards_of(spec.cells_of(chunks))[1].tolist()
            cells = shard_cells(data, spec, place, objects.url)
        for at, number in zip(map(tuple, chunks.tolist()), numbers, strict=True):
            key = format_key(at)
            if number not in cells:
                raise StoreError("a listed chunk is gone: its shard has no such cell", store=objects.url, array=path, chunk=key)
            offset, stored = cells[number]
            try:
                payload = payloads[at] = unframe(codec.decode(stored))
            except FormatError as error:
                raise error.at(store=objects.url, array=path, chunk=key) from None
            shard = -1 if number < 0 else 0
            rows.append((len(payload), shard, offset, len(stored), int(google_crc32c.value(stored)), stamp[1]))
    columns = {kind: np.array([row[i] for row in rows], dtype) for i, (kind, (dtype, _)) in enumerate(COLUMNS.items())}
    coords = np.array(list(payloads), np.int64).reshape(-1, spec.rank)
    return coords, Columns(columns), payloads
