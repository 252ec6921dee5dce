"""Storing blobs as cells of grid arrays: one object per cell, or whole shards packed at memory speed.

A shard is written once, by the one task that owns it: its cells along the Morton curve, so that a box touches few ranges of it,
then its index. Zarr reads it as any other shard of ``sharding_indexed``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError
from dask_zv.format.cells import EMPTY, frame, index_nbytes, pack_index, unframe, unpack_index
from dask_zv.format.grids import GridSpec
from dask_zv.format.keys import parse_key
from dask_zv.spatial.morton import morton_codes
from dask_zv.storage.catalog import COLUMNS, Columns
from dask_zv.storage.checksums import crc32c
from dask_zv.storage.codecs import CellCodec, cell_codec
from dask_zv.storage.grid import cell_path
from dask_zv.storage.objects import Objects, join
from dask_zv.storage.shard_indexes import shard_indexes

__all__ = ["StoredArray", "pack_shard", "shard_cells", "store_cells"]


@dataclass(frozen=True, slots=True, eq=False)
class StoredArray:
    """What was stored of one array.

    Attributes
    ----------
    coords : ndarray of int64, shape (n, K)
        Chunks that have a cell now.
    columns : Columns
        Where they are; row-aligned with `coords`.
    kept : ndarray of bool, shape (n,)
        Chunks that the shard held already and that were not written anew.
    emptied : tuple of str
        Chunks whose payload is empty: they have no cell any more.
    objects : int
        Objects put.
    """

    coords: NDArray[np.int64]
    columns: Columns
    kept: NDArray[np.bool_]
    emptied: tuple[str, ...]
    objects: int


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
        self.coords: list[Any] = []
        self.values: dict[str, list[int]] = {kind: [] for kind in COLUMNS}
        self.kept: list[bool] = []
        self.emptied: list[str] = []
        self.objects = 0

    def add(self, coords: Any, nbytes: int, shard: int, offset: int, data: bytes, kept: bool = False) -> None:
        self.coords.append(coords)
        values = self.values
        values["nbytes"].append(nbytes)
        values["shard"].append(shard)
        values["offset"].append(offset)
        values["stored"].append(len(data))
        values["crc"].append(crc32c(data))
        self.kept.append(kept)

    def finish(self, stamps: NDArray[np.uint64]) -> StoredArray:
        n = len(self.coords)
        columns = {kind: np.array(self.values[kind], dtype) for kind, (dtype, _) in COLUMNS.items() if kind != "stamp"}
        return StoredArray(
            np.array(self.coords, np.int64).reshape(n, self.rank),
            Columns({**columns, "stamp": stamps}),
            np.array(self.kept, bool),
            tuple(self.emptied),
            self.objects,
        )


def store_cells(
    objects: Objects,
    prefix: str,
    specs: Mapping[str, GridSpec],
    blobs: Mapping[str, Mapping[str, bytes]],
    merge: Collection[str],
) -> dict[str, StoredArray]:
    """Store payloads by array and chunk key, all objects at once.

    Running it twice stores the same objects with the same bytes.

    Parameters
    ----------
    objects : Objects
    prefix : str
        Path of the group.
    specs : mapping of array to GridSpec
    blobs : mapping of array to mapping of chunk key to payload
    merge : collection of str
        Arrays whose shards may exist and hold other cells, which are kept.

    Raises
    ------
    BoundsError
        A chunk lies outside its array's grid.
    """
    tables: dict[str, _Table] = {}
    puts: list[_Object] = []
    for array, payloads in blobs.items():
        spec = specs[array]
        path = join(prefix, array)
        keys = list(payloads)
        coords = np.array([parse_key(k) for k in keys], np.int64).reshape(len(keys), -1)
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
    by_array = {array: np.zeros(len(t.coords), np.uint64) for array, t in tables.items()}
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
    payloads: Mapping[str, bytes],
    codec: CellCodec,
) -> Iterable[_Object]:
    for key, at, cell in zip(keys, coords.tolist(), cells.tolist(), strict=True):
        payload = payloads[key]
        if not payload:
            table.emptied.append(key)
            yield _Object(array, cell_path(path, cell), None, 0, 0)
            continue
        data = codec.encode(frame(payload))
        table.add(at, len(payload), -1, 0, data)
        yield _Object(array, cell_path(path, cell), data, len(table.coords) - 1, 1)


def _shards(
    objects: Objects,
    table: _Table,
    array: str,
    path: str,
    spec: GridSpec,
    keys: list[str],
    coords: NDArray[np.int64],
    cells: NDArray[np.int64],
    payloads: Mapping[str, bytes],
    codec: CellCodec,
    *,
    merge: bool,
) -> Iterable[_Object]:
    assert spec.shard_shape is not None
    if not len(keys):
        return
    shards, numbers = spec.shards_of(cells)
    order = np.lexsort((curve_rank(spec.shard_shape)[numbers], *shards.T[::-1]))
    ordered = shards[order]
    first = np.flatnonzero(np.r_[True, (ordered[1:] != ordered[:-1]).any(axis=1)])
    runs = np.split(order, first[1:])
    paths = [cell_path(path, shards[run[0]].tolist()) for run in runs]
    # what is there is asked for by all at once; of new arrays nothing is
    before = objects.get_many([(p, None) for p in paths]) if merge else [None] * len(paths)
    rank = curve_rank(spec.shard_shape)
    for run, place, old in zip(runs, paths, before, strict=True):
        shard = shards[run[0]]
        stored: dict[int, tuple[bytes, Any, int, bool]] = {}
        written = set(numbers[run].tolist())
        if old is not None:
            for number, (_, data) in shard_cells(old, spec, place, objects.url).items():
                if number not in written:
                    local = np.array(np.unravel_index(number, spec.shard_shape), np.int64)
                    at = (shard * np.asarray(spec.shard_shape) + local + np.asarray(spec.origin)).tolist()
                    stored[number] = data, at, len(unframe(codec.decode(data))), True
        for i in run.tolist():
            payload = payloads[keys[i]]
            if payload:
                stored[int(numbers[i])] = codec.encode(frame(payload)), coords[i].tolist(), len(payload), False
            else:
                table.emptied.append(keys[i])
        start = len(table.coords)
        if not stored:
            yield _Object(array, place, None, start, 0)
            continue
        ordered_numbers = list(stored) if old is None else sorted(stored, key=lambda n: int(rank[n]))
        data, offsets = pack_shard([(n, stored[n][0]) for n in ordered_numbers], spec.shard_cells)
        for number, offset in zip(ordered_numbers, offsets, strict=True):
            cell, at, nbytes, kept = stored[number]
            table.add(at, nbytes, 0, offset, cell, kept)
        yield _Object(array, place, data, start, len(ordered_numbers))


def pack_shard(cells: list[tuple[int, bytes]], total: int) -> tuple[bytes, list[int]]:
    """Return a shard of stored cells in the order given, and the offset of each.

    Parameters
    ----------
    cells : list of (number in the shard, stored bytes)
    total : int
        Cells that the shard has room for.
    """
    lengths = np.fromiter((len(data) for _, data in cells), np.int64, len(cells))
    offsets = np.cumsum(lengths) - lengths
    places = np.full((total, 2), EMPTY, np.uint64)
    numbers = np.fromiter((n for n, _ in cells), np.int64, len(cells))
    places[numbers, 0], places[numbers, 1] = offsets, lengths
    return b"".join([*(data for _, data in cells), pack_index(places)]), offsets.tolist()


def shard_cells(data: bytes, spec: GridSpec, path: str, store: str) -> dict[int, tuple[int, bytes]]:
    """Return the offset and the stored bytes of each cell of a whole shard, by number.

    Raises
    ------
    FormatError
        The shard is short, or its index damaged.
    """
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
