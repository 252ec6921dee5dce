"""What is known of stored blobs, chunk by chunk: the columns of an array, and the receipt of a block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.format.keys import is_spatial_key, parse_key
from dask_zv.spatial.chunks import group_by_chunk
from dask_zv.storage.codecs import crc32c

COLUMNS: Mapping[str, tuple[Any, int]] = {
    "nbytes": (np.int64, -1),
    "shard": (np.int64, -1),
    "offset": (np.int64, 0),
    "stored": (np.int64, -1),
    "crc": (np.uint32, 0),
    "stamp": (np.uint64, 0),
}
"""Columns of an array: dtype, and the value of a chunk that the array does not have."""


class _Few(Mapping[str, "NDArray[Any]"]):
    """Columns of an array that has few of the chunks; a column is as long as any when it is asked for."""

    def __init__(self, n: int, at: NDArray[np.int64], values: Mapping[str, NDArray[Any]]) -> None:
        self._n, self._at, self._values = n, at, values

    def __getitem__(self, kind: str) -> NDArray[Any]:
        dtype, fill = COLUMNS[kind]
        out = np.full(self._n, fill, dtype)
        out[self._at] = self._values[kind]
        return out

    def __iter__(self) -> Iterator[str]:
        return iter(COLUMNS)

    def __len__(self) -> int:
        return len(COLUMNS)

    def take(self, order: NDArray[Any]) -> _Few:
        """Return the rows in another order, or some of them."""
        place = np.full(self._n, -1, np.int64)
        place[self._at] = np.arange(len(self._at))
        kept = place[order]
        at = np.flatnonzero(kept >= 0)
        return _Few(len(kept), at, {kind: values[kept[at]] for kind, values in self._values.items()})


class Columns:
    """One array's columns, row-aligned with the catalog's coordinates; each an ndarray of shape (n,).

    ========  =======  ==========================================================================
    nbytes    int64    length of each blob's payload, -1 where the array has none
    shard     int64    what holds it: -1 for an object of its own; in ``per_chunk`` the shard's number, in ``grid`` 0
    offset    int64    where its stored bytes start in the shard
    stored    int64    length of its stored bytes
    crc       uint32   CRC-32C of its stored bytes
    stamp     uint64   of the object that holds it, as the store gave it when it was put; 0 where it gives none
    ========  =======  ==========================================================================

    `columns`: those of :data:`COLUMNS`; may unpack them on demand.
    """

    __slots__ = ("_columns",)

    def __init__(self, columns: Mapping[str, NDArray[Any]]) -> None:
        self._columns = columns

    @classmethod
    def empty(cls, n: int) -> Columns:
        """Return the columns of `n` chunks of which the array has none."""
        return cls({kind: np.full(n, fill, dtype) for kind, (dtype, fill) in COLUMNS.items()})

    @classmethod
    def spread(cls, n: int, at: NDArray[np.int64], columns: Columns) -> Columns:
        """Return the columns of `n` chunks of which the array has those at `at`, with the rows of `columns`.

        Where these are few, they alone are kept: there are many arrays of links, each of few chunks.
        """
        few = _Few(n, at, {kind: columns[kind] for kind in COLUMNS})
        return cls(few if 2 * len(at) < n else {kind: few[kind] for kind in COLUMNS})

    def __getitem__(self, kind: str) -> NDArray[Any]:
        return self._columns[kind]

    @property
    def nbytes(self) -> NDArray[np.int64]:
        """Length of each blob, -1 where the array has none."""
        return self._columns["nbytes"]

    @property
    def have(self) -> NDArray[np.bool_]:
        """Return which chunks the array has."""
        return self.nbytes >= 0

    def take(self, order: NDArray[Any]) -> Columns:
        """Return the rows in another order, or some of them."""
        if isinstance(self._columns, _Few):
            return Columns(self._columns.take(order))
        return Columns({kind: self._columns[kind][order] for kind in COLUMNS})

    def __reduce__(self) -> tuple[Any, ...]:
        if isinstance(self._columns, _Few):
            return Columns, (self._columns,)
        return Columns, ({kind: self._columns[kind] for kind in COLUMNS},)


@dataclass(frozen=True, slots=True, eq=False)
class Receipt:
    """What one block stored: small, picklable, and enough to write the catalog."""

    coords: NDArray[np.int64]  # shape (n, K): coordinates of the block's chunks
    rows: NDArray[np.int64]  # shape (n,): vertices in each chunk, -1 where the encoder did not say
    arrays: Mapping[str, Columns]  # bytes, shard, offset and checksum of each chunk's blob per array
    literals: tuple[tuple[str, str], ...]  # blobs that belong to no chunk, such as ``("groups", "data")``
    ranks: tuple[int, ...]  # ranks of the chunk keys; a catalog needs them to agree
    nbytes: int  # payload bytes, and objects put into the store
    stored_objects: int
    # Chunks that were stored again only because their shard was (layout ``grid``)
    kept: Mapping[str, frozenset[str]] = field(default_factory=dict)
    emptied: Mapping[str, frozenset[str]] = field(default_factory=dict)  # chunks that are absent now (layout ``grid``)


def make_receipt(
    blobs: Mapping[tuple[str, str], bytes],
    rows: Mapping[str, int],
    shards: Mapping[tuple[str, str], tuple[int, int, int]],
    stored_objects: int,
    stamps: Mapping[tuple[str, str], int] | None = None,
) -> Receipt:
    """Return the receipt of a block.

    `shards`: absent for blobs that are arrays of their own; `stamps`: of the objects that hold the blobs.
    """
    coordinates = {k: parse_key(k) for k in {k for _, k in blobs} if is_spatial_key(k)}
    ranks = tuple(sorted({len(c) for c in coordinates.values()}))
    rank = ranks[0] if ranks else 0
    order = sorted((c, k) for k, c in coordinates.items() if len(c) == rank)
    place = {k: i for i, (_, k) in enumerate(order)}
    n = len(order)
    raw: dict[str, Columns] = {}
    literals: list[tuple[str, str]] = []
    for (array, key), data in blobs.items():
        row = place.get(key)
        if row is None:
            if key not in coordinates:
                literals.append((array, key))
            continue
        columns = raw.get(array)
        if columns is None:
            columns = raw[array] = Columns.empty(n)
        columns["nbytes"][row] = columns["stored"][row] = len(data)
        columns["stamp"][row] = (stamps or {}).get((array, key), 0)
        place_in_shard = shards.get((array, key))
        if place_in_shard is None:
            columns["crc"][row] = crc32c(data)
        else:
            columns["shard"][row], columns["offset"][row], columns["crc"][row] = place_in_shard
    return Receipt(
        np.array([c for c, _ in order], np.int64).reshape(n, rank),
        np.array([rows.get(k, -1) for _, k in order], np.int64),
        raw,
        tuple(sorted(literals)),
        ranks,
        sum(map(len, blobs.values())),
        stored_objects,
    )


def combine_receipts(receipts: Sequence[Receipt]) -> Receipt:
    """Return one receipt for all; two may speak of one chunk where they stored different arrays of it."""
    ranks = tuple(sorted({r for receipt in receipts for r in receipt.ranks}))
    if len(receipts) == 1 and len(ranks) <= 1:
        return receipts[0]
    spatial = [r for r in receipts if len(r.coords)] if len(ranks) == 1 else []
    rank = ranks[0] if len(ranks) == 1 else 0
    coords = np.concatenate([r.coords for r in spatial]) if spatial else np.zeros((0, rank), np.int64)
    unique, inverse = group_by_chunk(coords)
    n = len(unique)
    rows = np.full(n, -1, np.int64)
    found: dict[str, list[tuple[NDArray[np.int64], Columns]]] = {}
    start = 0
    for receipt in spatial:
        at = inverse[start : start + len(receipt.coords)]
        start += len(receipt.coords)
        rows[at] = np.where(receipt.rows >= 0, receipt.rows, rows[at])
        for name, new in receipt.arrays.items():
            keep = np.flatnonzero(new.have)
            found.setdefault(name, []).append((at[keep], new.take(keep)))
    arrays = {name: _spread(n, parts) for name, parts in found.items()}
    return Receipt(
        unique,
        rows,
        arrays,
        tuple(sorted({x for r in receipts for x in r.literals})),
        ranks,
        sum(r.nbytes for r in receipts),
        sum(r.stored_objects for r in receipts),
        _joined([r.kept for r in receipts]),
        _joined([r.emptied for r in receipts]),
    )


def _spread(n: int, parts: Sequence[tuple[NDArray[np.int64], Columns]]) -> Columns:
    """Return the columns of `n` chunks from those of some, of which the last counts."""
    together = Columns({kind: np.concatenate([columns[kind] for _, columns in parts]) for kind in COLUMNS})
    return Columns.spread(n, np.concatenate([at for at, _ in parts]), together)


def _joined(parts: Sequence[Mapping[str, frozenset[str]]]) -> dict[str, frozenset[str]]:
    names = sorted({name for part in parts for name in part})
    return {name: frozenset().union(*(part[name] for part in parts if name in part)) for name in names}
