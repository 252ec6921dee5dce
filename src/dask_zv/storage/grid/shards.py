"""Storing blobs as cells of grid arrays: one object per cell, or whole shards packed at memory speed.

A shard is written once, by the one task that owns it: its cells along the Morton curve, so that a box touches few ranges of it,
then its index. Zarr reads it as any other shard of ``sharding_indexed``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError, StoreError
from dask_zv.format.cells import EMPTY, frame, header, index_nbytes, pack_index, unframe, unpack_index
from dask_zv.format.grids import GridArray, GridSpec
from dask_zv.format.keys import format_key, join, keys_to_coords
from dask_zv.spatial.morton import morton_codes
from dask_zv.storage.codecs import CellCodec, cell_codec, crc32c
from dask_zv.storage.grid.fetch import StoredCell, cell_path, shard_indexes
from dask_zv.storage.objects import Objects
from dask_zv.storage.receipts import COLUMNS, Columns


@dataclass(frozen=True, slots=True, eq=False)
class StoredArray:
    """What was stored of one array."""

    coords: NDArray[np.int64]  # shape (n, K): chunks that have a cell now
    columns: Columns  # where they are; row-aligned with `coords`
    kept: NDArray[np.bool_]  # shape (n,): chunks that the shard held already and that were not written anew
    emptied: tuple[str, ...]  # chunks whose payload is empty: they have no cell any more
    objects: int  # objects put


Pieces = tuple[bytes, ...]
"""A stored cell, in one piece or as header and payload: large raw payloads are copied once, into their shard."""


def _checksum(cell: Pieces) -> int:
    first, *more = cell
    value = int(google_crc32c.value(first))
    for piece in more:
        value = int(google_crc32c.extend(value, piece))
    return value


@dataclass(slots=True)
class _Object:
    """An object to put, and the rows of its array's table that are in it."""

    array: str
    path: str
    data: bytes | None
    first: int
    count: int


class _Table:
    """The rows of one array, as its objects are made."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.count = 0
        self.emptied: list[str] = []
        self.objects = 0
        self._coords: list[NDArray[np.int64]] = []
        self._parts: dict[str, list[Any]] = {kind: [] for kind in COLUMNS if kind != "stamp"}
        self._kept: list[NDArray[np.bool_]] = []

    def add(
        self, coords: NDArray[np.int64], nbytes: Sequence[int], shard: int, offsets: NDArray[np.int64], cells: Sequence[Pieces],
        kept: NDArray[np.bool_] | None = None,
    ) -> int:  # fmt: skip
        """Add the rows of one object; return the number of the first."""
        first, n = self.count, len(cells)
        self.count += n
        self._coords.append(coords)
        values = self._parts
        values["nbytes"].append(nbytes)
        values["shard"].append(np.full(n, shard))
        values["offset"].append(offsets)
        values["stored"].append([sum(map(len, c)) for c in cells])
        values["crc"].append([_checksum(c) for c in cells])
        self._kept.append(np.zeros(n, bool) if kept is None else kept)
        return first

    def finish(self, stamps: NDArray[np.uint64]) -> StoredArray:
        """Return all rows."""
        columns: dict[str, NDArray[Any]] = {"stamp": stamps}
        for kind, (dtype, _) in COLUMNS.items():
            if kind != "stamp":
                parts = [np.asarray(p, dtype) for p in self._parts[kind]]
                columns[kind] = np.concatenate(parts) if parts else np.zeros(0, dtype)
        coords = np.concatenate(self._coords) if self._coords else np.zeros((0, self.rank), np.int64)
        kept = np.concatenate(self._kept) if self._kept else np.zeros(0, bool)
        return StoredArray(coords, Columns(columns), kept, tuple(self.emptied), self.objects)


def store_cells(
    objects: Objects,
    prefix: str,
    specs: Mapping[str, GridSpec],
    blobs: Mapping[str, Mapping[str, bytes | StoredCell]],
    merge: Collection[str],
) -> dict[str, StoredArray]:
    """Store payloads by array and chunk key, all objects at once.

    Running it twice stores the same objects with the same bytes.

    `prefix`: path of the group; `blobs`: a :class:`~dask_zv.storage.cell_reads.StoredCell` goes in as it is: it must come from
    an array of the same codecs; `merge`: arrays whose shards may exist and hold other cells, which are kept.
    """
    tables: dict[str, _Table] = {}
    puts: list[_Object] = []
    of_keys: list[str] = []
    coords = np.zeros((0, 0), np.int64)
    for array, payloads in blobs.items():
        spec = specs[array]
        path = join(prefix, array)
        keys = list(payloads)
        if keys != of_keys or spec.rank != coords.shape[1]:  # arrays of a block have the same chunks
            of_keys, coords = keys, keys_to_coords(keys, spec.rank)
        cells = spec.cells_of(coords, path)
        table = tables[array] = _Table(spec.rank)
        codec = cell_codec(spec.codecs)
        if spec.shard_shape is None:
            puts += _single_cells(table, array, path, keys, coords, cells, payloads, codec)
        else:
            puts += _shards(objects, table, array, path, spec, keys, coords, cells, payloads, codec, merge=array in merge)
    stamps = objects.put_all((p.path, p.data) for p in puts if p.data is not None)
    gone = [p.path for p in puts if p.data is None]
    if gone:
        objects.delete_many(gone)
    shard_indexes(objects).drop(p.path for p in puts)
    by_array = {array: np.zeros(t.count, np.uint64) for array, t in tables.items()}
    for put, stamp in zip((p for p in puts if p.data is not None), stamps, strict=True):
        by_array[put.array][put.first : put.first + put.count] = stamp
        tables[put.array].objects += 1
    return {array: table.finish(by_array[array]) for array, table in tables.items()}


def _single_cells(
    table: _Table,
    array: str,
    path: str,
    keys: list[str],
    coords: NDArray[np.int64],
    cells: NDArray[np.int64],
    payloads: Mapping[str, bytes | StoredCell],
    codec: CellCodec,
) -> Iterable[_Object]:
    full = [i for i, key in enumerate(keys) if payloads[key]]
    where = cells.tolist()
    if len(full) < len(keys):
        for i in sorted(set(range(len(keys))) - set(full)):
            table.emptied.append(keys[i])
            yield _Object(array, cell_path(path, where[i]), None, 0, 0)
    stored = [_encoded(codec, payloads[keys[i]]) for i in full]
    first = table.add(coords[full], [len(payloads[keys[i]]) for i in full], -1, np.zeros(len(full), np.int64), stored)
    for n, (i, pieces) in enumerate(zip(full, stored, strict=True)):
        yield _Object(array, cell_path(path, where[i]), b"".join(pieces), first + n, 1)


def _encoded(codec: CellCodec, payload: bytes | StoredCell) -> Pieces:
    if type(payload) is StoredCell:
        return (payload.data,)
    assert isinstance(payload, bytes)
    return (header(len(payload)), payload) if codec.is_identity else (codec.encode(frame(payload)),)


def _shards(
    objects: Objects,
    table: _Table,
    array: str,
    path: str,
    spec: GridSpec,
    keys: list[str],
    coords: NDArray[np.int64],
    cells: NDArray[np.int64],
    payloads: Mapping[str, bytes | StoredCell],
    codec: CellCodec,
    *,
    merge: bool,
) -> Iterable[_Object]:
    assert spec.shard_shape is not None
    if not len(keys):
        return
    shards, numbers = spec.shards_of(cells)
    rank = curve_rank(spec.shard_shape)
    order = np.lexsort((rank[numbers], *shards.T[::-1]))
    ordered = shards[order]
    first = np.flatnonzero(np.r_[True, (ordered[1:] != ordered[:-1]).any(axis=1)])
    runs = np.split(order, first[1:])
    paths = [cell_path(path, shard) for shard in ordered[first].tolist()]
    # what is there is asked for by all at once; of new arrays nothing is
    before = objects.get_many([(p, None) for p in paths]) if merge else [None] * len(paths)
    for run, place, old in zip(runs, paths, before, strict=True):
        members = run.tolist()
        full = [i for i in members if payloads[keys[i]]]
        table.emptied += [keys[i] for i in members if not payloads[keys[i]]] if len(full) < len(members) else []
        stored = [_encoded(codec, payloads[keys[i]]) for i in full]
        at, number = coords[full], numbers[full]
        nbytes = [len(payloads[keys[i]]) for i in full]
        kept = None
        if old is not None:
            shard = cells[run[0]] // np.asarray(spec.shard_shape)
            held = shard_cells(old, spec, place, objects.url)
            keep = sorted(set(held) - set(numbers[run].tolist()))
            if keep:
                local = np.stack(np.unravel_index(keep, spec.shard_shape), axis=1)
                stored += [(held[n][1],) for n in keep]
                nbytes += [len(unframe(codec.decode(held[n][1]))) for n in keep]
                at = np.concatenate([at, shard * np.asarray(spec.shard_shape) + local + np.asarray(spec.origin)])
                number = np.concatenate([number, keep])
                kept = np.r_[np.zeros(len(full), bool), np.ones(len(keep), bool)]
                along = np.argsort(rank[number], kind="stable")
                at, number, kept = at[along], number[along], kept[along]
                stored, nbytes = [stored[i] for i in along], [nbytes[i] for i in along]
        if not stored:
            yield _Object(array, place, None, table.count, 0)
            continue
        data, offsets = pack_shard(number, stored, spec.shard_cells)
        yield _Object(array, place, data, table.add(at, nbytes, 0, offsets, stored, kept), len(stored))


def pack_shard(numbers: NDArray[np.int64], cells: Sequence[Pieces], total: int) -> tuple[bytes, NDArray[np.int64]]:
    """Return a shard of stored cells in the order given, and the offset of each.

    `numbers`: number of each cell in the shard; `cells`: each cell's stored bytes, in one or more pieces; `total`: cells that
    the shard has room for.
    """
    lengths = np.fromiter((sum(map(len, c)) for c in cells), np.int64, len(cells))
    offsets = np.cumsum(lengths) - lengths
    places = np.full((total, 2), EMPTY, np.uint64)
    places[numbers, 0], places[numbers, 1] = offsets, lengths
    return b"".join([*chain.from_iterable(cells), pack_index(places)]), offsets


def shard_cells(data: bytes, spec: GridSpec, path: str, store: str) -> dict[int, tuple[int, bytes]]:
    """Return the offset and the stored bytes of each cell of a whole shard, by number."""
    n = index_nbytes(spec.shard_cells)
    if len(data) < n:
        raise FormatError(f"the shard has {len(data)} bytes, its index alone has {n}", store=store, array=path)
    try:
        places = unpack_index(data[-n:], spec.shard_cells, len(data))
    except FormatError as error:
        raise error.at(store=store, array=path) from None
    have = np.flatnonzero(places[:, 1] != EMPTY).tolist()
    out: dict[int, tuple[int, bytes]] = {}
    for i in have:
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


Inspected = tuple[NDArray[np.int64], Columns, dict[tuple[int, ...], bytes]]
"""Chunk coordinates, where they are, and their payloads."""


def object_cells(spec: GridSpec, coords: NDArray[np.int64]) -> list[tuple[tuple[int, ...], NDArray[np.int64]]]:
    """Group chunks by the stored object that holds them: (its cell or shard, coordinates of the chunks)."""
    cells = spec.cells_of(coords)
    where = cells if spec.shard_shape is None else spec.shards_of(cells)[0]
    order = np.lexsort(where.T[::-1])
    ordered = where[order]
    first = np.flatnonzero(np.r_[True, (ordered[1:] != ordered[:-1]).any(axis=1)]) if len(order) else np.zeros(0, np.intp)
    return [(tuple(where[run[0]].tolist()), coords[run]) for run in np.split(order, first[1:]) if len(run)]


def inspect_cells(
    objects: Objects, prefix: str, array: str, found: GridArray, groups: Sequence[tuple[tuple[int, ...], NDArray[np.int64]]]
) -> Inspected:
    """Read some objects of an array and tell where each listed chunk is in them."""
    spec, path = found.spec, join(prefix, array)
    codec = cell_codec(spec.codecs)
    paths = [cell_path(path, where) for where, _ in groups]
    stamps = objects.stamps(paths)  # first: what changes in between has another stamp than is noted, and is looked at again
    payloads: dict[tuple[int, ...], bytes] = {}
    values: dict[str, list[int]] = {kind: [] for kind in COLUMNS}
    coords: list[list[int]] = []
    for data, stamp, (_, chunks), place in zip(
        objects.get_many([(p, None) for p in paths]), stamps, groups, paths, strict=True
    ):
        key = format_key(chunks[0].tolist())
        if data is None or stamp is None:
            raise StoreError("a listed chunk is gone: its object is missing", store=objects.url, array=path, chunk=key)
        numbers = [-1] * len(chunks)
        cells: dict[int, tuple[int, bytes]] = {-1: (0, data)}
        if spec.shard_shape is not None:
            numbers = spec.shards_of(spec.cells_of(chunks))[1].tolist()
            cells = shard_cells(data, spec, place, objects.url)
        for at, number in zip(chunks.tolist(), numbers, strict=True):
            key = format_key(at)
            if number not in cells:
                raise StoreError("a listed chunk is gone: its shard has no such cell", store=objects.url, array=path, chunk=key)
            offset, stored = cells[number]
            try:
                payload = unframe(codec.decode(stored))
            except FormatError as error:
                raise error.at(store=objects.url, array=path, chunk=key) from None
            coords.append(at)
            payloads[tuple(at)] = payload
            row = {"nbytes": len(payload), "shard": -1 if number < 0 else 0, "offset": offset, "stored": len(stored),
                   "crc": crc32c(stored), "stamp": stamp[1]}  # fmt: skip
            for kind, value in row.items():
                values[kind].append(value)
    columns = Columns({kind: np.array(values[kind], dtype) for kind, (dtype, _) in COLUMNS.items()})
    return np.array(coords, np.int64).reshape(-1, spec.rank), columns, payloads
