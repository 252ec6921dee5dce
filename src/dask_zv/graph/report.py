"""What a write did: the report that its caller gets, and the one of a write that its Icechunk session does not know of yet."""

from __future__ import annotations

import dataclasses
import html
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dask_zv.storage.handles import StoreHandle
from dask_zv.storage.icechunk.fork import Fork, run_in_fork
from dask_zv.storage.icechunk.merge import merge_into_session

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
        Objects written (0 if the data has none).
    nbytes : int
        Bytes of all blobs, before compression.
    files : int
        Files (or objects of an object store) that were written.
    blocks : int
        Tasks that encoded and stored.
    seconds : float
        Wall time of the call. For a graph that the caller computed: from the first storing task to the end of the commit, on
        the clocks of the machines.
    dropped : int
        Positions left out because they were out of bounds (``out_of_bounds="ignore"``).
    arrays : mapping of str to int
        Blobs per array.
    times : tuple of BlockTime
        One entry per block; :meth:`log` returns them as a DataFrame.
    kept : int
        Blocks that an interrupted call had stored, and that were not stored again.
    """

    rows: int
    chunks: int
    objects: int
    nbytes: int
    files: int
    blocks: int
    seconds: float
    dropped: int = 0
    arrays: Mapping[str, int] = field(default_factory=dict)
    times: tuple[BlockTime, ...] = field(default=(), repr=False, compare=False)
    kept: int = 0

    def log(self) -> DataFrame:
        """Return a table of the blocks: when and by which worker each was stored, and the number of retried requests.

        Returns
        -------
        DataFrame
            Columns ``kind``, ``block``, ``start``, ``end`` (UTC, on the clocks of the machines), ``seconds``, ``nbytes``,
            ``worker``, ``retries``; in order of `start`. A block that an interrupted earlier run stored has the times of that
            run.
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
    def stored_objects(self) -> int:
        """The old name of `files`, for one release."""
        warnings.warn("Report.stored_objects is Report.files now", DeprecationWarning, stacklevel=2)
        return self.files

    @property
    def hint(self) -> str:
        """Advice that would make the store faster; empty if there is none."""
        if not self.kept and self.chunks > _MANY_CHUNKS and self.nbytes < self.chunks * _SMALL_CHUNK:
            return f"chunks average {self.nbytes / self.chunks / 1e3:.1f} kB; larger ones are read and written faster"
        return ""

    def __repr__(self) -> str:
        parts = [f"{self.rows:,} rows"] if self.rows >= 0 else []
        parts += [f"{self.chunks:,} chunks", f"{self.nbytes / 1e6:,.1f} MB in {self.files:,} files"]
        if self.objects:
            parts.append(f"{self.objects:,} ZV objects")
        if self.dropped:
            parts.append(f"{self.dropped:,} rows out of bounds left out")
        if self.kept:
            parts.append(f"{self.kept:,} of {sum(t.kind == 'vertices' for t in self.times):,} blocks kept")
        done = f"{self.blocks:,} blocks" if self.blocks or not self.rows else "written before"
        parts.append(f"{done} in {self.seconds:.2f} s")
        lines = [f"<dask_zv.Report: {', '.join(parts)}>"]
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        lines += [
            f"  {name}: {blobs:,} blobs" if arrays is None else f"  {name}/* ({arrays:,} arrays): {blobs:,} blobs"
            for name, arrays, blobs in _array_rows(self.arrays)
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"


@dataclass(frozen=True, slots=True)
class UncommittedReport(Report):
    """The report of a write to an Icechunk session that the session does not know of yet: pass it to ``store.finish``.

    What a Delayed of a write (``compute=False``) to a session computes to, on every scheduler. All that was stored is in a fork
    of the session, which this carries; :meth:`Store.finish <dask_zv.Store.finish>` merges it, where the session is.
    """

    fork: Fork | None = field(default=None, repr=False, compare=False)

    def plain(self) -> Report:
        """Return the report alone."""
        return Report(**_fields(self))


def _fields(report: Report) -> dict[str, Any]:
    return {f.name: getattr(report, f.name) for f in dataclasses.fields(Report)}


def commit_in_fork(handle: StoreHandle, fork: Fork, function: Callable[..., Report], *args: Any) -> UncommittedReport:
    """Run the last task of a write in a fork that has everything, and return that with its report."""
    done = run_in_fork(handle, fork, True, function, *args, last=True)
    return UncommittedReport(**_fields(done.value), fork=done.fork)


def finish_write(handle: StoreHandle, result: Any) -> Any:
    """Return the report of a write, its changes merged into the session where there are any."""
    if not isinstance(result, UncommittedReport):
        return result
    if result.fork is not None:
        merge_into_session(handle, result.fork)
    return result.plain()


def _array_rows(arrays: Mapping[str, int]) -> list[tuple[str, int | None, int]]:
    """Return (name, arrays, blobs) for each array, with None arrays, and for each family of links, which can have hundreds."""
    rows: dict[tuple[str, bool], list[int]] = {}
    for name, blobs in sorted(arrays.items()):
        is_link = name.startswith(("links/", "link_attributes/"))
        rows.setdefault((name.rpartition("/")[0] if is_link else name, is_link), []).append(blobs)
    return [(name, len(blobs) if is_link else None, sum(blobs)) for (name, is_link), blobs in rows.items()]
