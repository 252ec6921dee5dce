"""Pieces of rows in files, for inputs that memory has no room for: of the worker that holds them, or of a local scheduler.

Dask would spill them by itself, but only once a worker's memory is nearly full: what the running task needs then comes on top.
A piece goes into a file as soon as it is made or received, so that a worker holds little more than what its tasks work on.

A worker's files have no name: whatever happens to the worker, nothing is left of them. Sent to another worker, a piece travels
as its rows, and goes into a file there.
"""

from __future__ import annotations

import os
import pickle
import shutil
import sys
import tempfile
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from dask_zv.errors import StoreError
from dask_zv.geometry.rows import VertexRows

if TYPE_CHECKING:
    from distributed import Worker

_SEGMENT_BYTES = 64 << 20
"""Pieces share files of about this size, for few open ones; a file goes with the last piece in it."""

_folder: str | None = None
_segment: _Segment | None = None
_lock = threading.Lock()


class _Segment:
    """An unnamed file that pieces are appended to; closed, and so removed, when no piece refers to it."""

    def __init__(self, folder: str) -> None:
        self.file: IO[bytes] = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        self.end = 0

    def reserve(self, nbytes: int) -> int:
        start = self.end
        self.end += nbytes
        return start


@dataclass(frozen=True, slots=True, eq=False)
class FiledPiece:
    """Rows in a file of this worker."""

    segment: _Segment  # open in this process
    start: int  # where the bytes of the columns begin
    lengths: tuple[int, ...]  # bytes of each column
    head: bytes  # the piece without its columns' bytes
    rows: int

    def __len__(self) -> int:
        return self.rows

    def __sizeof__(self) -> int:
        # what it takes when it is sent: Dask bounds its messages by this, and finds the worker that has most of a task's data
        return len(self.head) + sum(self.lengths) + 200

    def load(self) -> VertexRows:
        """Read the piece."""
        data = bytearray(sum(self.lengths))
        view, at = memoryview(data), 0
        while at < len(data):
            count = os.preadv(self.segment.file.fileno(), [view[at:]], self.start + at)
            if not count:
                raise StoreError("a temporary file of the worker has lost its end: is something removing files of its disk?")
            at += count
        buffers, at = [], 0
        for length in self.lengths:
            buffers.append(view[at : at + length])
            at += length
        rows: VertexRows = pickle.loads(self.head, buffers=buffers)
        return rows

    def __reduce__(self) -> tuple[Any, ...]:
        return in_file, (self.load(),)


def current_worker() -> Worker | None:
    """Return the distributed worker that this task runs on, None on any other scheduler."""
    if "distributed" not in sys.modules:
        return None
    from distributed import get_worker

    try:
        return get_worker()
    except ValueError:
        return None


def note_worker() -> bool:
    """Note where this task's worker keeps files, if it runs on one; return True if so."""
    global _folder
    worker = current_worker()
    if worker is None:
        return False
    _folder = str(worker.local_directory)
    return True


def in_file(rows: VertexRows) -> VertexRows | FiledPiece:
    """Put a piece into a file of this worker; in a process that has run no task of a write yet it stays in memory."""
    global _segment
    if _folder is None:
        return rows
    found: list[pickle.PickleBuffer] = []
    head = pickle.dumps(rows, protocol=5, buffer_callback=found.append)
    views = [buffer.raw() for buffer in found]
    lengths = tuple(v.nbytes for v in views)
    with _lock:
        segment = _segment
        if segment is None or segment.end >= _SEGMENT_BYTES:
            segment = _segment = _Segment(_folder)
        start = at = segment.reserve(sum(lengths))
    for view in views:
        while view.nbytes:
            count = os.pwrite(segment.file.fileno(), view, at)
            view, at = view[count:], at + count
    return FiledPiece(segment, start, lengths, head, len(rows))


@dataclass(frozen=True, slots=True)
class SpilledPiece:
    """A piece in a file of a local scheduler."""

    path: str
    rows: int

    def __len__(self) -> int:
        return self.rows

    @classmethod
    def put(cls, folder: str, name: str, rows: VertexRows) -> SpilledPiece:
        """Put a piece into a file whose name no other run of the task has."""
        path = Path(folder) / f"{name}.{uuid.uuid4().hex[:8]}"
        with path.open("wb") as file:
            pickle.dump(rows, file, protocol=5)
        return cls(str(path), len(rows))

    def load(self) -> VertexRows:
        """Read the piece."""
        with Path(self.path).open("rb") as file:
            rows: VertexRows = pickle.load(file)
        return rows


def remove_spill(spill: str) -> None:
    """Remove what tasks that split partitions left in files."""
    gone = f"{spill}.gone"
    try:
        # renamed first: a task that outlives a failed run then finds no directory, instead of making files in it again
        Path(spill).rename(gone)
    except FileNotFoundError:
        return
    shutil.rmtree(gone, ignore_errors=True)


def make_spill(spill: str) -> str:
    """Make the directory of spilled pieces; return it, for the tasks that wait for it. A worker of a cluster needs none."""
    if current_worker() is None:
        Path(spill).mkdir(parents=True)
    return spill
