"""Carrying out a planned write: in one graph, in waves where that would be too large, or from where an earlier run stopped."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from dask.delayed import Delayed
from numpy.typing import NDArray

from dask_zv.config import settings
from dask_zv.graph.builder import GraphBuilder
from dask_zv.graph.forks import WaveForks, finish_write, undone_on_failure, write_in_forks
from dask_zv.graph.progress import Progress, block_keys
from dask_zv.graph.report import Report
from dask_zv.graph.run import compute_many, compute_one, hold_if_large
from dask_zv.graph.tasks import prepare
from dask_zv.storage.specs import BlockResult
from dask_zv.write.exchange import remove_spill, spill_directory
from dask_zv.write.job import Job
from dask_zv.write.journal import Journal

_RECEIPT_BYTES = 500


def waves_of(job: Job, numbers: Sequence[int]) -> list[list[int]]:
    """Divide blocks into waves whose graphs have at most as many tasks as the setting says, or one block.

    A wave looks at every partition that has rows for it: where partitions lie anywhere, all are read again for each wave.
    """
    limit = settings().max_graph_tasks
    sources = job.sources()
    size = [len(group) for group in job.plan.groups(job.scan)]
    waves: list[list[int]] = [[]]
    tasks, read = 0, set[int]()
    for number in numbers:
        # for the block and each of its pieces; for partitions that the wave does not read yet, and to split them
        more = 1 + len(sources[number]) + sum(1 + size[g] for g in sources[number] if g not in read)
        if waves[-1] and tasks + more > limit:
            waves.append([])
            tasks, read = 0, set()
            more = 1 + sum(2 + size[g] for g in sources[number])
        waves[-1].append(number)
        tasks += more
        read.update(sources[number])
    return waves


def build_job(
    job: Job, done: Mapping[int, BlockResult], journal: Journal | None, *, progress: bool, spill: str | None
) -> Delayed:
    """Return the whole write as one graph, without the blocks that are done."""
    builder = GraphBuilder(f"zv-{job.name}", watched=progress)
    left = [n for n in range(len(job)) if n not in done]
    refs: dict[int, Any] = dict(job.add_blocks(builder, left, spill=spill, journal=journal))
    refs |= _hand_in(builder, done)
    end = job.add_end(builder, [refs[n] for n in range(len(job))], spill)
    return write_in_forks(end, builder.run, job.commit.place.handle)


def run_job(job: Job, done: Mapping[int, BlockResult], journal: Journal | None, *, progress: bool | None) -> Report:
    """Carry the write out on the active scheduler."""
    handle = job.commit.place.handle
    with undone_on_failure(handle):
        report: Report = finish_write(handle, _run_job(job, done, journal, progress=progress))
    return report


def _run_job(job: Job, done: Mapping[int, BlockResult], journal: Journal | None, *, progress: bool | None) -> Report:
    left = [n for n in range(len(job)) if n not in done]
    waves = waves_of(job, left)
    nbytes = job.scan.rows * job.schema.row_bytes
    shown = Progress("writing", len(job), len(done)) if progress else None
    try:
        if len(waves) == 1:
            return _run_at_once(job, done, journal, shown, spill_directory(nbytes))
        results: dict[int, Any] = dict(done)
        forks = WaveForks(job.commit.place.handle, lambda: prepare(job.commit))
        for wave in waves:
            builder = GraphBuilder(f"zv-{job.name}", watched=shown is not None)
            spill = spill_directory(nbytes * len(wave) // len(job))
            refs = job.add_blocks(builder, wave, spill=spill, journal=journal)
            try:
                wanted = forks.wave([builder.finish(str(refs[n].key)) for n in wave], builder.run)
                begun = job.release if wave is waves[-1] else None
                stored = forks.unwrap_results(compute_many(wanted, progress=shown, hold=True, begun=begun))
            finally:
                remove_spill(spill)
            results |= dict(zip(wave, stored, strict=True))
        builder = GraphBuilder(f"zv-{job.name}", watched=shown is not None)
        refs = _hand_in(builder, results)
        end = job.add_end(builder, [refs[n] for n in range(len(job))])
        return _finish(builder, forks.end(end, builder.run), shown)
    finally:
        if shown is not None:
            shown.close()


def _run_at_once(
    job: Job, done: Mapping[int, BlockResult], journal: Journal | None, shown: Progress | None, spill: str | None
) -> Report:
    delayed = build_job(job, done, journal, progress=shown is not None, spill=spill)
    if shown is not None:
        shown.add(len(block_keys(delayed.__dask_graph__())) + len(done) - shown.blocks)
    try:
        report: Report = compute_one(delayed, progress=shown, begun=job.release)
    finally:
        remove_spill(spill)
    return report


def _finish(builder: GraphBuilder, end: Delayed, shown: Progress | None) -> Report:
    if shown is not None:
        shown.add(len(block_keys(builder.tasks)))
    report: Report = compute_one(end, progress=shown)
    return report


def _hand_in(builder: GraphBuilder, results: Mapping[int, Any]) -> dict[int, Any]:
    """Add tasks that return results which are there already, as they are or as futures of them."""
    out = {}
    for number, result in results.items():
        held = hold_if_large(result, _size(result)) if isinstance(result, BlockResult) else result
        out[number] = builder.add(builder.key("done", number), _same, held)
    return out


def _same(result: BlockResult) -> BlockResult:
    return result


def _size(result: BlockResult) -> int:
    columns: list[NDArray[Any]] = [c["nbytes"] for c in result.receipt.arrays.values()]
    return result.__sizeof__() + int(np.sum([_RECEIPT_BYTES + 6 * c.nbytes for c in columns]))


def finished(report: Report, started: float) -> Report:
    """Return the report with the wall time of the whole call, begun at `started` (``time.perf_counter``)."""
    return dataclasses.replace(report, seconds=time.perf_counter() - started)
