"""Bringing rows together by block: every partition is split once, every block gathers its pieces.

A block is a run of chunks along the Morton curve, so a partition whose points lie together feeds few blocks, and the graph has
an edge only where a partition has rows for a block. Small partitions are split several at a time, for fewer edges. Routing is
by exact division of chunk codes, never by a hash; pieces are gathered in the order of the partitions, so rows keep the input's
order whatever order the scheduler works in.

Pieces of inputs that memory has no room for go through files: on a local scheduler in Dask's temporary directory, on a cluster
those of the worker that holds them. Dask would spill them by itself, but only once a worker's memory is nearly full: what the
running task needs then comes on top. A piece goes into a file as soon as it is made or received, so that a worker holds little
more than what its tasks work on. A worker's files have no name: whatever happens to the worker, nothing is left of them. Sent
to another worker, a piece travels as its rows, and goes into a file there.
"""

from __future__ import annotations

import os
import pickle
import shutil
import sys
import tempfile
import threading
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import dask
import numpy as np
from dask.task_spec import List, Task, TaskRef

from dask_zv.config import settings
from dask_zv.errors import StoreError
from dask_zv.geometry.rows import VertexRows, concatenate_rows
from dask_zv.geometry.schema import AttributeSchema
from dask_zv.graph.builder import GraphBuilder
from dask_zv.graph.run import cluster_memory
from dask_zv.spatial.chunks import group_by_chunk
from dask_zv.write.blocks import BlockPlan, PartitionBlockMap
from dask_zv.write.convert import Conversion, Seen, convert_again
from dask_zv.write.partitions import Partitions, RawPart

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
                raise StoreError("a temporary file of the worker is truncated: does something delete files on its disk?")
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


# ---------------------------------------------------------------------------------------------- splitting and gathering

Piece = VertexRows | SpilledPiece | FiledPiece
Pieces = Mapping[int, Piece]


def split_part(
    conversion: Conversion,
    schemas: Sequence[AttributeSchema],
    plan: BlockPlan,
    number: int,
    start: int | None,
    before: Seen,
    wanted: Collection[int] | None,
    part: RawPart,
) -> dict[int, VertexRows]:
    """Return a partition's rows as they are stored, divided by block, in input order in each; of the `wanted` blocks alone."""
    rows = convert_again(conversion, schemas, number, start, before, part)
    if not len(rows):
        return {}
    coords, which = group_by_chunk(conversion.grid.chunks_of(rows.positions))
    block = plan.blocks_of(coords)[which]
    found = np.unique(block)
    if wanted is not None:
        found = np.intersect1d(found, np.fromiter(wanted, np.int64, len(wanted)))
    if not len(found):
        return {}
    if len(found) == 1 and (wanted is None or (block == found[0]).all()):
        return {int(found[0]): rows}
    order = np.argsort(block, kind="stable") if len(plan) > 1 << 16 else np.argsort(block.astype(np.uint16), kind="stable")
    ends = np.cumsum(np.bincount(block, minlength=int(found[-1]) + 1))
    return {b: rows.take(order[ends[b - 1] if b else 0 : ends[b]]) for b in found.tolist()}


def split_group(
    conversion: Conversion,
    schemas: Sequence[AttributeSchema],
    plan: BlockPlan,
    spill: str | None,
    numbers: Sequence[int],
    starts: Sequence[int | None],
    before: Sequence[Seen],
    wanted: Collection[int] | None,
    parts: Sequence[RawPart],
) -> dict[int, Piece]:
    """Return the rows of some partitions as :func:`split_part` does, in the partitions' order."""
    divided: dict[int, list[VertexRows]] = {}
    for number, start, seen, part in zip(numbers, starts, before, parts, strict=True):
        for block, rows in split_part(conversion, schemas, plan, number, start, seen, wanted, part).items():
            divided.setdefault(block, []).append(rows)
    on_worker = spill is not None and note_worker()
    pieces: dict[int, Piece] = {}
    for block in sorted(divided):
        some = divided.pop(block)
        piece = concatenate_rows(some, sum(map(len, some)))
        if spill is None:
            pieces[block] = piece
        elif on_worker:
            pieces[block] = in_file(piece)
        else:
            pieces[block] = SpilledPiece.put(spill, f"{numbers[0]}-{block}", piece)
    return pieces


def pick(pieces: Pieces, block: int) -> Piece | None:
    """Return one block's piece of a split partition, None where it has no rows for the block."""
    return pieces.get(block)


def gather(block: int, spill: str | None, pieces: Sequence[Piece | Pieces | None]) -> VertexRows:
    """Return a block's rows from its pieces, in the order of the partitions."""
    if spill is not None:
        note_worker()
    found = [pick(piece, block) if isinstance(piece, Mapping) else piece for piece in pieces]
    held = [p for p in found if p is not None]
    rows = (p.load() if isinstance(p, SpilledPiece | FiledPiece) else p for p in held)
    return concatenate_rows(rows, sum(map(len, held)))


def spill_directory(total_bytes: int) -> str | None:
    """Return where pieces of a large input go, None where they stay in memory.

    The directory is that of a local scheduler. On a cluster pieces go into files of the workers where the input would fill
    more than a part of what memory they have for tasks.
    """
    memory = cluster_memory()
    if total_bytes < (settings().spill_bytes if memory is None else memory // settings().spill_share):
        return None
    parent = dask.config.get("temporary-directory", None) or tempfile.gettempdir()
    return str(Path(parent) / f"dask-zv-{uuid.uuid4().hex[:12]}")


def split_partitions(
    builder: GraphBuilder,
    partitions: Partitions,
    conversion: Conversion,
    schemas: Sequence[AttributeSchema],
    plan: BlockPlan,
    block_map: PartitionBlockMap,
    spill: str | None,
    *,
    numbered: bool = False,
    wanted: Collection[int] | None = None,
) -> dict[int, Task]:
    """Add the splitting tasks; return for each block the task that gathers its rows, to be inlined where it is used.

    With `numbered` every row carries its number in the whole input. With `wanted` there are those blocks alone.
    """
    scan = block_map.scan
    starts = scan.starts().tolist()
    only = None if wanted is None or len(wanted) == len(plan) else frozenset(wanted)
    sources: dict[int, list[TaskRef]] = {b: [] for b in (range(len(plan)) if only is None else sorted(only))}
    folder = builder.add(builder.key("spill"), make_spill, spill) if spill is not None else None
    arguments = list(partitions.arguments(builder))
    for group in plan.groups(scan):
        blocks_of = {number: block_map.blocks(number) for number in group}
        touched = sorted({b for blocks in blocks_of.values() for b in blocks})
        some: tuple[int, ...] | None = None
        if only is not None and not only.issuperset(touched):
            some = tuple(b for b in touched if b in only)
            group, touched = [n for n in group if not only.isdisjoint(blocks_of[n])], list(some)
        if not touched:
            continue
        split = builder.add(
            builder.key("split", group[0]),
            split_group,
            conversion,
            tuple(schemas),
            plan,
            folder,
            tuple(group),
            tuple(starts[n] if numbered else None for n in group),
            tuple(Seen(facts.rows, facts.digest, facts.dropped) for facts in (scan.parts[n] for n in group)),
            some,
            List(*(arguments[n] for n in group)),
        )
        for block in touched:
            if len(touched) == 1:
                sources[block].append(split)
            else:
                sources[block].append(builder.add(builder.key("piece", f"{group[0]}-{block}"), pick, split, block))
    return {block: Task(None, gather, block, spill, List(*refs)) for block, refs in sources.items()}
