"""Fetching cells: few ranged reads per stored object, each cell checked and decoded; indexes of shards are kept."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError, ZVError
from dask_zv.format.grids import EMPTY, FRAME_NBYTES, GridSpec, cell_path, index_nbytes, pack_index, unframe, unpack_index
from dask_zv.storage.codecs import CellCodec
from dask_zv.storage.objects import Address, Objects, Request
from dask_zv.storage.receipts import Columns


@dataclass(frozen=True, slots=True)
class CellRun:
    """Cells of one array in one stored object."""

    path: str  # key of the object
    array: str
    keys: list[str]  # chunk keys
    # Where each cell is in the object; `lengths` is None for a cell that is the whole object, of unknown length
    offsets: list[int]
    lengths: list[int] | None
    crcs: list[int] | None  # CRC-32C of each cell's stored bytes, where it is known
    nbytes: list[int] | None = None  # length of each payload, where it is known
    data: bytes | None = None  # the whole object, where it was read for its index
    in_shard: bool = True


@dataclass(frozen=True, slots=True)
class StoredCell:
    """A cell as it is stored, to be put elsewhere as it is; its length is that of its payload."""

    data: bytes
    nbytes: int

    def __len__(self) -> int:
        return self.nbytes


def object_runs(
    cells: NDArray[np.int64], spec: GridSpec, then: NDArray[np.int64] | None = None
) -> list[tuple[tuple[int, ...], NDArray[np.intp]]]:
    """Group cells by the object that holds them: (the object's place in the grid of objects, numbers of the cells).

    Cells of one shard are in the order of `then`, where it is given.
    """
    if spec.shard_shape is None:
        return [(tuple(w), np.array([i])) for i, w in enumerate(cells.tolist())]
    if not len(cells):
        return []
    where = cells // np.asarray(spec.shard_shape, np.int64)
    order = np.lexsort(where.T[::-1] if then is None else (then, *where.T[::-1]))
    ordered = where[order]
    first = np.flatnonzero(np.r_[True, (ordered[1:] != ordered[:-1]).any(axis=1)])
    return list(zip(map(tuple, ordered[first].tolist()), np.split(order, first[1:]), strict=True))


def catalogued_runs(
    path: str,
    array: str,
    spec: GridSpec,
    keys: list[str],
    coords: NDArray[np.int64],
    have: NDArray[np.bool_],
    columns: Columns,
    rows: NDArray[np.int64],
) -> list[CellRun]:
    """Return the catalogued places of those chunks that an array at `path` has, by object; `rows` are theirs in `columns`."""
    if not have.all():
        keys, coords, rows = [key for key, there in zip(keys, have.tolist(), strict=True) if there], coords[have], rows[have]
    told = [columns[kind][rows] for kind in ("offset", "stored", "crc", "nbytes")]
    cells = spec.cells_of(coords, path)
    if spec.shard_shape is None:
        listed = zip(cells.tolist(), keys, *(values.tolist() for values in told), strict=True)
        return [CellRun(cell_path(path, w), array, [k], [o], [s], [c], [n], in_shard=False) for w, k, o, s, c, n in listed]
    return [
        CellRun(cell_path(path, where), array, [keys[i] for i in run.tolist()], *(values[run].tolist() for values in told))
        for where, run in object_runs(cells, spec)
    ]


def indexed_runs(
    objects: Objects, path: str, array: str, spec: GridSpec, keys: list[str], coords: NDArray[np.int64], *, fresh: bool
) -> tuple[list[CellRun], list[str]]:
    """Return the places of some chunks by the indexes of their shards, and the chunks that these don't have."""
    cells = spec.cells_of(coords)
    grouped = object_runs(cells, spec)
    if spec.shard_shape is None:
        return [CellRun(cell_path(path, w), array, [keys[i] for i in run], [0], None, None) for w, run in grouped], []
    numbers = spec.shards_of(cells)[1]
    if fresh:
        shard_indexes(objects).drop(cell_path(path, w) for w, _ in grouped)
    kept = shard_indexes(objects)
    # most cells of a shard and its index are one request, and of one state of it; else there is one for the index, one for the
    # cells, and two looks at whether the shard was replaced in between
    mostly = [w for w, run in grouped if 2 * len(run) >= spec.shard_cells and kept.get(cell_path(path, w)) is None]
    read = objects.get_many([(cell_path(path, w), None) for w in mostly]) if mostly else []
    shards = {w: data for w, data in zip(mostly, read, strict=True) if data is not None}
    indexes = load_indexes(objects, path, spec.shard_cells, [w for w, _ in grouped if w not in set(mostly)])
    for where, data in shards.items():
        try:
            indexes[where] = unpack_index(data[-index_nbytes(spec.shard_cells) :], spec.shard_cells)
        except FormatError as error:
            raise error.at(store=objects.url, array=cell_path(path, where)) from None
    runs: list[CellRun] = []
    missing: list[str] = []
    for where, run in grouped:
        places = indexes.get(where)
        there = np.zeros(len(run), bool) if places is None else places[numbers[run], 1] != EMPTY
        missing += [keys[i] for i in run[~there].tolist()]
        if places is not None and there.any():
            at = run[there]
            offsets, lengths = places[numbers[at]].T.tolist()
            names = [keys[i] for i in at.tolist()]
            runs.append(CellRun(cell_path(path, where), array, names, offsets, lengths, None, data=shards.get(where)))
    return runs, missing


def fetch_runs(
    objects: Objects,
    prefix: str,
    runs: Sequence[CellRun],
    codecs: dict[str, CellCodec],
    out: dict[Address, Any],
    *,
    stored: bool = False,
) -> list[tuple[Address, ZVError | None]]:
    """Read runs of cells, all at once, and decode them into `out`; with `stored` they are only checked, and left encoded.

    Returns list of (address, error): cells that aren't what they should be; the error is None where the object is missing.
    """
    requests: list[Request] = []
    parts: list[tuple[int, CellRun, list[int]]] = []
    there: list[tuple[int, CellRun, list[int]]] = []
    for run in runs:
        if run.data is not None:
            there.append((0, run, list(range(len(run.keys)))))
            continue
        if run.lengths is None or not run.in_shard:
            # an object of its own is read whole: a range would not show that it has become longer
            requests.append((run.path, None))
            parts.append((0, run, [0]))
            continue
        for start, length, members in coalesce(list(zip(run.offsets, run.lengths, strict=True))):
            requests.append((run.path, (start, length)))
            parts.append((start, run, members))
    bad: list[tuple[Address, ZVError | None]] = []
    checksum = google_crc32c.value
    read = [*objects.get_many(requests), *(run.data for _, run, _ in there)]
    for data, (start, run, members) in zip(read, [*parts, *there], strict=True):
        array, codec = run.array, codecs[run.array]
        if data is None:
            bad.extend(((array, run.keys[i]), None) for i in members)
            continue
        for i in members:
            at = run.offsets[i] - start
            piece = data if run.lengths is None else data[at : at + run.lengths[i]]
            try:
                if run.lengths is not None and (
                    len(piece) != run.lengths[i] or (run.crcs is not None and checksum(piece) != run.crcs[i])
                ):
                    raise FormatError("the stored bytes are not those of the last commit")
                if not stored:
                    most = None if run.nbytes is None else run.nbytes[i] + FRAME_NBYTES
                    out[array, run.keys[i]] = unframe(codec.decode(piece, most))
                elif run.nbytes is not None and run.crcs is not None:
                    out[array, run.keys[i]] = StoredCell(piece, run.nbytes[i])
                else:
                    out[array, run.keys[i]] = StoredCell(piece, len(unframe(codec.decode(piece))))
            except FormatError as error:
                where = f"{prefix}/{array}" if prefix else array
                bad.append(((array, run.keys[i]), error.at(store=objects.url, array=where, chunk=run.keys[i])))
    return bad


MAX_RANGES = 4
"""Ranged reads of one object, at most: more gaps are read over."""
_GAP = 8 << 10
"""A shorter gap is read over: another request costs more than its bytes."""


def coalesce(slices: Sequence[tuple[int, int]]) -> list[tuple[int, int, list[int]]]:
    """Group slices of one object into ranges, split at the widest gaps between them.

    `slices`: in any order; they may touch or overlap. Returns list of (offset, length, numbers of the slices in it).
    """
    if not slices:
        return []
    start, end = min(o for o, _ in slices), max(o + n for o, n in slices)
    if end - start - sum(n for _, n in slices) <= _GAP:  # all of them, as a rule: nothing to cut
        return [(start, end - start, list(range(len(slices))))]
    order = sorted(range(len(slices)), key=lambda i: slices[i])
    gaps: list[tuple[int, int]] = []
    end = 0
    for place, i in enumerate(order):
        offset, length = slices[i]
        if place and offset - end > _GAP:
            gaps.append((offset - end, place))
        end = max(end, offset + length)
    cuts = sorted(place for _, place in sorted(gaps, reverse=True)[: MAX_RANGES - 1])
    out: list[tuple[int, int, list[int]]] = []
    for low, high in zip([0, *cuts], [*cuts, len(order)], strict=True):
        members = order[low:high]
        if members:
            start = slices[members[0]][0]
            out.append((start, max(slices[i][0] + slices[i][1] for i in members) - start, members))
    return out


_LIMIT = 64 << 20
"""Bytes of indexes that are kept for an open store."""
_kept: weakref.WeakKeyDictionary[Objects, ShardIndexes] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


class ShardIndexes:
    """The shard indexes of an open store that were read last, by the shard's key.

    An old index may well point at whole cells of a shard that was replaced, those of other chunks: who used one looks
    afterwards whether the shard is still the one that it was read from (:func:`moved_shards`).
    """

    def __init__(self) -> None:
        self._held: OrderedDict[str, tuple[NDArray[np.uint64], tuple[int, int]]] = OrderedDict()
        self._nbytes = 0
        self._lock = threading.Lock()

    def get(self, key: str) -> tuple[NDArray[np.uint64], tuple[int, int]] | None:
        """Return a shard's index, with the length and stamp of the shard just before it was read."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)

    def keep(self, key: str, index: NDArray[np.uint64], stamp: tuple[int, int]) -> None:
        """Remember an index, and forget those that were not used for longest."""
        with self._lock:
            self._forget(key)
            self._held[key] = index, stamp
            self._nbytes += index.nbytes
            while self._nbytes > _LIMIT and len(self._held) > 1:
                self._forget(next(iter(self._held)))

    def drop(self, keys: Iterable[str] | None = None) -> None:
        """Forget some indexes, all where None."""
        with self._lock:
            for key in list(self._held) if keys is None else keys:
                self._forget(key)

    def _forget(self, key: str) -> None:
        found = self._held.pop(key, None)
        self._nbytes -= 0 if found is None else found[0].nbytes


def shard_indexes(objects: Objects) -> ShardIndexes:
    """Return the indexes kept for an open store."""
    with _lock:
        return _kept.setdefault(objects, ShardIndexes())


def load_indexes(
    objects: Objects, path: str, cells: int, shards: Iterable[tuple[int, ...]]
) -> dict[tuple[int, ...], NDArray[np.uint64]]:
    """Return the indexes of some shards of the array at `path`, those that exist; read once and kept.

    `cells`: cells of a shard; `shards`: places in the grid of shards.
    """
    kept = shard_indexes(objects)
    out: dict[tuple[int, ...], NDArray[np.uint64]] = {}
    missing: list[tuple[str, tuple[int, ...]]] = []
    for shard in shards:
        key = cell_path(path, shard)
        known = kept.get(key)
        if known is not None and len(known[0]) == cells:
            out[shard] = known[0]
        else:
            missing.append((key, shard))
    if not missing:
        return out
    n = index_nbytes(cells)
    stamps = objects.stamps([k for k, _ in missing])  # before the indexes: see moved_shards
    read = objects.get_many([(k, (-n, n)) for k, _ in missing])
    for data, stamp, (key, shard) in zip(read, stamps, missing, strict=True):
        if data is None or stamp is None:
            continue
        try:
            out[shard] = unpack_index(data, cells)
        except FormatError as error:
            raise error.at(store=objects.url, array=key) from None
        kept.keep(key, out[shard], stamp)
    return out


def moved_shards(objects: Objects, keys: Sequence[str]) -> set[str]:
    """Return those shards that are not, or may not be, the ones that their indexes were read from; forget their indexes."""
    kept = shard_indexes(objects)
    held = [(key, found) for key in keys if (found := kept.get(key)) is not None]
    moved = set(keys) - {key for key, _ in held}
    unsure: list[tuple[str, NDArray[np.uint64]]] = []
    for (key, (index, before)), now in zip(held, objects.stamps([key for key, _ in held]), strict=True):
        if now != before:
            moved.add(key)
        elif not before[1]:  # a store that gives no stamps: the index itself is looked at again
            unsure.append((key, index))
    spans = [(-index_nbytes(len(index)), index_nbytes(len(index))) for _, index in unsure]
    again = objects.get_many([(key, span) for (key, _), span in zip(unsure, spans, strict=True)])
    moved |= {key for (key, index), data in zip(unsure, again, strict=True) if data is None or data != pack_index(index)}
    kept.drop(moved)
    return moved
