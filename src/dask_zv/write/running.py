"""Carrying out a planned write: in one graph, in waves where that would be too large, or from where an earlier run stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from dask_zv.config import settings
from dask_zv.errors import FormatError, PlanError, StoreError, noted
from dask_zv.format.keys import join
from dask_zv.graph.builder import GraphBuilder
from dask_zv.graph.progress import Progress, block_keys
from dask_zv.graph.report import Report, finish_write
from dask_zv.graph.run import active_client, compute_many, compute_one
from dask_zv.level.contents import LevelContents
from dask_zv.level.unfinished import unfinished_write
from dask_zv.storage.grid.staged import complete_appends
from dask_zv.storage.handles import open_objects
from dask_zv.storage.icechunk.session import undone_on_failure
from dask_zv.storage.layout import layout_for, open_place
from dask_zv.storage.local import sweep
from dask_zv.storage.specs import JOURNAL, WAITING, BlockResult, journal_key, written_stamp
from dask_zv.write.exchange import remove_spill, spill_directory
from dask_zv.write.job import CONTENT, Job, finished, hand_in
from dask_zv.write.journal import Journal, find_journal, whole_blocks
from dask_zv.write.options import WriteOptions
from dask_zv.write.plans import WritePlan


@dataclass(frozen=True, eq=False)
class Write:
    """A write that has been checked and planned, and what the call asked for."""

    level: LevelContents
    options: WriteOptions
    job: Job

    def run(self, started: float, *, compute: bool) -> Report | WritePlan:
        """Run the write, begun at `started` (``time.perf_counter``), on the active scheduler, or return it as a plan."""
        job, place = self.job, self.level.place
        done: dict[int, BlockResult] = {}
        journal: Journal | None = None
        asked = self.options["resume"]
        resume = self.level.store.resumes if asked is None else asked
        if resume:
            sweep(open_objects(place.handle), place.prefix)
            # who replaces a level may have a reason to, even by the same
            mode = self.options["mode"]
            # of an append its content alone: what it was added to is no longer the same
            same = written_stamp(place), job.digest
            done_before = same[0] == same[1] if mode != "append" else (same[0] or "")[:CONTENT] == same[1][:CONTENT]
            if done_before and (asked or mode == "error"):
                report = self._already_written()
                return finished(report, started) if compute else WritePlan(job, self.level.store.url, known=report)
        if job.held is not None:
            job, done = self._added_before()
        elif may_resume(self.level, self.options):
            job, done = self._earlier(strict=resume)
        # a transaction forgets receipts with all else, and small writes begin again
        large = job.nbytes >= settings().journal_bytes and not place.handle.one_process
        if len(job) and not place.handle.is_session and (resume or large or done):
            job = job.stamped()
            journal = Journal(job.block.place, job.digest, job.plan.starts)
        progress = bool(self.options["progress"])
        if not compute:
            plan = WritePlan(job, self.level.store.url, done, journal, progress=progress)
            if active_client() is not None:
                _ = plan.dask  # now: an event loop can not ask its cluster later
            return plan
        try:
            with note_resumable(self.level, journal=journal is not None):
                report = run_job(job, done, journal, progress=progress)
        finally:  # not with the traceback of an error
            job.release()
        self.level.store.reload()
        return finished(report, started)

    def _earlier(self, *, strict: bool) -> tuple[Job, dict[int, BlockResult]]:
        """Return the write as an earlier run had cut it, and the blocks that this run has left in the store.

        Without `strict` an unfinished write of other data is one as any that lies in the way.
        """
        job, place = self.job, self.level.place
        try:
            found = find_journal(place)
        except FormatError:
            if strict:
                raise
            found = None
        if found is None or (found.digest != job.digest and not strict):
            check_empty(self.level, self.options["mode"])
            return job, {}
        if found.digest != job.digest:
            raise PlanError(
                "the level has an unfinished write of other data, or into other chunks: its input, its arguments or the "
                "settings of the store have changed since. Finish it with the original call, or start again with resume=False, "
                "mode='overwrite'",
                store=self.level.url,
            )
        job = job.cut_at(found.starts).swept()
        done = whole_blocks(place, job.specs, found.read())
        return job.keeping(len(done)), done

    def _added_before(self) -> tuple[Job, dict[int, BlockResult]]:
        """Return an append as an earlier run had cut it, and the blocks that wait for its commit."""
        job = self.job
        if (
            job.block.place == job.commit.place
            or (found := find_journal(job.block.place)) is None
            or found.digest != job.digest
        ):
            return job, {}
        job = job.cut_at(found.starts)
        done = whole_blocks(job.block.place, job.specs, found.read())
        return job.keeping(len(done)), done

    def _already_written(self) -> Report:
        """Return the report of a write that the level's last commit was."""
        objects = open_objects(self.level.place.handle)
        journal = join(self.level.place.prefix, JOURNAL)
        if objects.list_dir(journal):  # it died before that, or a task that ran twice noted its block after all
            objects.delete_prefix(journal)
        return self.job.known_report()


def note_resumable(level: LevelContents, *, journal: bool) -> AbstractContextManager[None]:
    """Add a note to errors inside that says how to finish the write."""
    if level.place.handle.is_session:
        return noted(f"nothing of the write to {level.url} is in the Icechunk session: the same call can be made again")
    again = ", and keeps the blocks that are stored" if journal else " with mode='overwrite'"
    return noted(f"the write to {level.url} did not come to its end: the same call finishes it{again}")


def complete_waiting(level: LevelContents) -> bool:
    """Complete the appends to a level whose processes died in their commits; return True if there was one."""
    objects, prefix = open_objects(level.place.handle), level.place.prefix
    return any(name.startswith(WAITING) for name in objects.list_dir(prefix)) and complete_appends(objects, prefix)


def may_resume(level: LevelContents, options: WriteOptions) -> bool:
    """Return True if a write to a level may go on with one that was begun before: it is told to, or receipts lie there."""
    asked, objects = options["resume"], open_objects(level.place.handle)
    if asked is None and not level.store.resumes:
        return not level.place.handle.is_session and objects.exists(journal_key(level.place.prefix))
    return level.store.resumes if asked is None else asked


def check_empty(level: LevelContents, mode: str) -> None:
    """Raise :class:`StoreError` where the level has something that the mode does not let go."""
    in_cells = layout_for(level.store.layout).shards_have_extents
    if mode == "overwrite":
        leading = level.metadata.leading_part(level.store.metadata.ndim)
        if in_cells and leading is not None:
            # objects of keys with another number of parts: in directories, theirs have the names of ours
            raise StoreError(
                f"level 0 is chunked by {leading!r}, which cannot be overwritten: create the store again with "
                "dzv.create(..., overwrite=True)",
                store=level.url,
            )
        return
    if level.metadata.vertex_count:
        raise StoreError(
            f"level 0 has {level.metadata.vertex_count:,} vertices already: pass mode='overwrite' to replace them",
            store=level.url,
        )
    if in_cells and len(open_place(level.place).list_keys("vertices")):
        raise StoreError("level 0 has chunks already: pass mode='overwrite' to replace them", store=level.url)
    # cells without a commit are in nobody's list: without receipts nothing is lost where they are written over
    if in_cells and not open_objects(level.place.handle).exists(journal_key(level.place.prefix)):
        return
    found = unfinished_write(level)
    if found is not None and found.blocks:
        raise StoreError(
            f"{found}. It is of other data or arguments, or resume=False was passed: the call that began it finishes it, "
            "mode='overwrite' begins anew",
            store=level.url,
        )
    if found is not None or (not in_cells and len(open_place(level.place).list_keys("vertices"))):
        raise StoreError(
            "level 0 holds chunks of a write that did not reach its commit: pass mode='overwrite' to replace them",
            store=level.url,
        )


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


def run_job(job: Job, done: Mapping[int, BlockResult], journal: Journal | None, *, progress: bool) -> Report:
    """Carry the write out on the active scheduler."""
    handle = job.commit.place.handle
    waves = waves_of(job, [n for n in range(len(job)) if n not in done])
    shown = Progress("writing", len(job), len(done)) if progress else None
    try:
        with undone_on_failure(handle):
            result = (
                _run_at_once(job, done, journal, shown) if len(waves) == 1 else _run_in_waves(job, waves, done, journal, shown)
            )
            report: Report = finish_write(handle, result)
    finally:
        if shown is not None:
            shown.close()
    return report


def _run_at_once(job: Job, done: Mapping[int, BlockResult], journal: Journal | None, shown: Progress | None) -> Report:
    spill = spill_directory(job.nbytes)
    builder = GraphBuilder(f"zv-{job.name}", watched=shown is not None, store=job.commit.place.handle)
    delayed = job.build(builder, done, journal, spill)
    if shown is not None:
        shown.add(len(block_keys(delayed.__dask_graph__())) + len(done) - shown.blocks)
    try:
        report: Report = compute_one(delayed, progress=shown, begun=job.release)
    finally:
        if spill is not None:
            remove_spill(spill)
    return report


def _run_in_waves(
    job: Job,
    waves: Sequence[Sequence[int]],
    done: Mapping[int, BlockResult],
    journal: Journal | None,
    shown: Progress | None,
) -> Report:
    results: dict[int, Any] = dict(done)
    forks: Sequence[Any] = ()  # what was stored in forks of a session so far
    store, watched = job.commit.place.handle, shown is not None
    for wave in waves:
        builder = GraphBuilder(f"zv-{job.name}", watched=watched, store=store, forks=forks)
        spill = spill_directory(job.nbytes * len(wave) // len(job))
        refs = job.add_blocks(builder, wave, spill=spill, journal=journal)
        try:
            wanted = [builder.finish(str(ref.key)) for ref in (*(refs[n] for n in wave), *builder.written())]
            begun = job.release if wave is waves[-1] else None
            stored = compute_many(wanted, progress=shown, hold=True, begun=begun)
        finally:
            if spill is not None:
                remove_spill(spill)
        results |= dict(zip(wave, stored, strict=False))
        forks = stored[len(wave) :]
    builder = GraphBuilder(f"zv-{job.name}", watched=watched, store=store, forks=forks)
    refs = hand_in(builder, results)
    end = job.add_end(builder, [refs[n] for n in range(len(job))])
    if shown is not None:
        shown.add(len(block_keys(builder.tasks)))
    report: Report = compute_one(end, progress=shown)
    return report
