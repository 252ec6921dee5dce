"""What a block's task returns, what the commit makes of all of them, and what the caller gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dask_zv.graph.html_parts import count, faint, frame, pairs, size, table, text

if TYPE_CHECKING:
    from pandas import DataFrame


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
