"""What a block's task returns, what the commit makes of all of them, and what the caller gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dask_zv.format.keys import is_spatial_key, parse_key
from dask_zv.graph.html_parts import count, faint, frame, pairs, size, table, text
from dask_zv.spatial.grouping import group_by_chunk
from dask_zv.storage.checksums import crc32c
from dask_zv.storage.columns import COLUMNS, Columns

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, slots=True, eq=False)
class Receipt:
    """What one block stored: small, picklable, and enough to write the catalog.

    Attributes
    ----------
    coords : ndarray of int64, shape (n, K)
        Coordinates of the block's chunks.
    rows : ndarray of int64, shape (n,)
        Vertices in each chunk, -1 where the encoder did not say.
    arrays : mapping of str to Columns
        Bytes, shard, offset and checksum of each chunk's blob per array.
    literals : tuple of (str, str)
        Blobs that belong to no chunk, such as ``("groups", "data")``.
    ranks : tuple of int
        Ranks of the chunk keys; a catalog needs them to agree.
    nbytes, stored_objects : int
        Payload bytes, and objects put into the store.
    kept : mapping of array to set of chunk keys
        Chunks that were stored again only because their shard was (layout ``grid``).
    emptied : mapping of array to set of chunk keys
        Chunks that are absent now (layout ``grid``).
    """

    coords: NDArray[np.int64]
    rows: NDArray[np.int64]
    arrays: Mapping[str, Columns]
    literals: tuple[tuple[str, str], ...]
    ranks: tuple[int, ...]
    nbytes: int
    stored_objects: int
    kept: Mapping[str, frozenset[str]] = field(default_factory=dict)
    emptied: Mapping[str, frozenset[str]] = field(default_factory=dict)


def make_receipt(
    blobs: Mapping[tuple[str, str], bytes],
    rows: Mapping[str, int],
    shards: Mapping[tuple[str, str], tuple[int, int, int]],
    stored_objects: int,
    stamps: Mapping[tuple[str, str], int] | None = None,
) -> Receipt:
    """Return the receipt of a block.

    Parameters
    ----------
    blobs : mapping of (array, chunk key) to payload
    rows : mapping of chunk key to vertices in the chunk
    shards : mapping of (array, chunk key) to (shard, offset, CRC-32C)
        Absent for blobs that are arrays of their own.
    stored_objects : int
    stamps : mapping of (array, chunk key) to int, optional
        Of the objects that hold the blobs.
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


_MANY_CHUNKS = 1000
_SMALL_CHUNK = 64 << 10


@dataclass(frozen=True, slots=True)
class BlockTime:
    """When and where a block was stored.

    Attributes
    ----------
    kind, block : str, int
        "vertices" or "links", and its number; "" and -1 for what is neither.
    start, end : float
        Seconds since the epoch, on the clock of the machine that stored it.
    nbytes : int
        Bytes of its payloads.
    worker : str
    retries : int
        Requests to the store that were made again.
    """

    kind: str
    block: int
    start: float
    end: float
    nbytes: int
    worker: str
    retries: int


@dataclass(frozen=True, slots=True)
class Report:
    """What a write did.

    Attributes
    ----------
    rows : int
        Vertices written.
    chunks : int
        Chunks written.
    objects : int
        ZV objects written (0 where the data has none).
    nbytes : int
        Bytes of all payloads, before any codec.
    stored_objects : int
        Objects (files) that the payloads went into.
    blocks : int
        Tasks that encoded and stored.
    seconds : float
        Wall time of the whole call; of a graph that the caller computed, from the first storing task to the end of the
        commit, on the machines' own clocks.
    dropped : int
        Positions left out because they were out of bounds (``out_of_bounds="ignore"``).
    arrays : mapping of str to int
        Blobs per array.
    times : tuple of BlockTime
        A line for each block; :meth:`log` returns them as a DataFrame.
    """

    rows: int
    chunks: int
    objects: int
    nbytes: int
    stored_objects: int
    blocks: int
    seconds: float
    dropped: int = 0
    arrays: Mapping[str, int] = field(default_factory=dict)
    times: tuple[BlockTime, ...] = field(default=(), repr=False, compare=False)

    def log(self) -> DataFrame:
        """Return a line for each block: when it was stored, by whom, and how often the store had to be asked again.

        Returns
        -------
        DataFrame
            Columns ``kind``, ``block``, ``start``, ``end`` (UTC, on the clocks of the machines), ``seconds``, ``nbytes``,
            ``worker``, ``retries``; in order of `start`. A block that an earlier, interrupted run had stored has the times of
            that run.
        """
        import pandas as pd

        frame = pd.DataFrame(
            {name: [getattr(t, name) for t in self.times] for name in BlockTime.__slots__}, columns=list(BlockTime.__slots__)
        )
        frame.insert(4, "seconds", (frame["end"] - frame["start"]).astype(float))
        for name in ("start", "end"):
            frame[name] = pd.to_datetime(frame[name].astype(float), unit="s", utc=True)
        return frame.sort_values("start", kind="stable", ignore_index=True)

    @property
    def hint(self) -> str:
        """What would make the store faster; empty where nothing is to be said."""
        if self.chunks > _MANY_CHUNKS and self.nbytes < self.chunks * _SMALL_CHUNK:
            return f"chunks average {self.nbytes / self.chunks / 1e3:.1f} kB; larger ones are read and written faster"
        return ""

    def __repr__(self) -> str:
        parts = [f"{self.rows:,} rows"] if self.rows >= 0 else []
        parts += [f"{self.chunks:,} chunks", f"{self.nbytes / 1e6:,.1f} MB in {self.stored_objects:,} objects"]
        if self.objects:
            parts.append(f"{self.objects:,} ZV objects")
        if self.dropped:
            parts.append(f"{self.dropped:,} rows out of bounds left out")
        parts.append(f"{self.blocks:,} blocks in {self.seconds:.2f} s")
        lines = [f"<dask_zv.Report: {', '.join(parts)}>"]
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        lines += [
            f"  {name}: {blobs:,} blobs" if arrays is None else f"  {name}/* ({arrays:,} arrays): {blobs:,} blobs"
            for name, arrays, blobs in array_rows(self.arrays)
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return _report_html(self)


def array_family(array: str) -> str | None:
    """Return the family that an array belongs to, ``"links/0"`` for ``"links/0/0.0.+1"``; None for one on its own."""
    return array.rpartition("/")[0] if array.startswith(("links/", "link_attributes/")) else None


def array_rows(arrays: Mapping[str, int]) -> list[tuple[str, int | None, int]]:
    """Return (name, arrays, blobs) for each array, with None arrays, and for each family of links, which can have hundreds."""
    rows: dict[tuple[str, bool], list[int]] = {}
    for name, blobs in sorted(arrays.items()):
        family = array_family(name)
        rows.setdefault((family or name, family is not None), []).append(blobs)
    return [(name, len(blobs) if is_family else None, sum(blobs)) for (name, is_family), blobs in rows.items()]


def _report_html(report: Report) -> str:
    """Return the report of a write as HTML."""
    facts = [("rows", count(report.rows))] if report.rows >= 0 else []
    facts += [("chunks", count(report.chunks)), ("payload", f"{size(report.nbytes)} in {count(report.stored_objects)} objects")]
    if report.objects:
        facts.append(("ZV objects", count(report.objects)))
    if report.dropped:
        facts.append(("left out", f"{count(report.dropped)} rows out of bounds"))
    facts.append(("tasks", f"{count(report.blocks)} blocks in {report.seconds:.2f} s"))
    if report.hint:
        facts.append(("hint", faint(text(report.hint))))
    parts = [pairs(facts)]
    if report.arrays:
        rows = [
            (text(name) if arrays is None else f"{text(name)}/* {faint(f'({count(arrays)} arrays)')}", count(blobs))
            for name, arrays, blobs in array_rows(report.arrays)
        ]
        parts.append(table([("array", False), ("blobs", True)], rows))
    return frame("dask_zv.Report", "", parts)
