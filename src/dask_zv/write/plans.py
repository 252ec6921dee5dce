"""The same writes without a Dask cluster: planned once, run block by block by whatever starts processes, committed once.

A plan holds what every process needs: where the store is, how the input is cut and how it is read. Nothing is shared but the
store and the receipts, which are small and can be files.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
from dask.task_spec import TaskRef

from dask_zv.errors import FormatError, NotFoundError, PlanError
from dask_zv.graph.builder import GraphBuilder
from dask_zv.graph.report import Report
from dask_zv.graph.run import compute_one, hold_if_large
from dask_zv.storage.local import partial_name
from dask_zv.storage.marks import written_stamp
from dask_zv.storage.specs import BlockResult
from dask_zv.write.job import Job
from dask_zv.write.journal import whole_blocks
from dask_zv.write.receipt_files import decode_receipt, encode_receipt
from dask_zv.write.running import finished

_MAGIC = b"dask-zv plan 1\n"
_NAMED = 10


@dataclass(frozen=True, slots=True, eq=False)
class BlockReceipt:
    """What one block of a plan stored.

    Made by :meth:`WritePlan.run`; pickles, and saves as a small file in a form that is safe to read.

    Attributes
    ----------
    plan : str
        Which plan it is of.
    block : int
    result : BlockResult
    """

    plan: str
    block: int
    result: BlockResult

    def __repr__(self) -> str:
        stored = self.result.receipt
        return f"<dask_zv.BlockReceipt: block {self.block}, {len(stored.coords):,} chunks, {stored.nbytes / 1e6:,.1f} MB>"

    def save(self, path: str | PathLike[str]) -> None:
        """Write the receipt to a file, which is there in full or not at all."""
        _save(Path(path), encode_receipt(self.result, plan=self.plan, block=self.block))


class WritePlan:
    """A write, cut into blocks that any process can store.

    Made by :func:`plan_points` and its siblings. ``len(plan)`` is the number of blocks. Pickles, and saves as a file: like
    every pickle it is code to whoever loads it.
    """

    def __init__(self, job: Job, url: str) -> None:
        self._job = job
        self._url = url

    def __len__(self) -> int:
        return len(self._job)

    def __repr__(self) -> str:
        scan = self._job.scan
        return (
            f"<dask_zv.WritePlan: {scan.rows:,} {self._job.name} rows in {len(scan.coords):,} chunks, {len(self):,} blocks, "
            f"to {self._url}>"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (cloudpickle.dumps(self._job), self._url)

    @property
    def digest(self) -> str:
        """Which write this is; receipts carry it."""
        return self._job.digest

    def run(self, block: int) -> BlockReceipt:
        """Store one block; run again, it stores the same objects with the same bytes.

        The partitions that have rows for the block are read, here, on the active scheduler.

        Parameters
        ----------
        block : int
            0 to ``len(plan) - 1``.

        Raises
        ------
        IndexError
            No such block.
        StoreError, PlanError
            It can't be stored.
        """
        if not 0 <= block < len(self):
            raise IndexError(f"the plan has {len(self)} blocks, 0 to {len(self) - 1}; there is no {block}")
        builder = GraphBuilder(f"zv-{self._job.name}")
        ref = self._job.add_blocks(builder, [block])[block]
        result: BlockResult = compute_one(builder.finish(str(ref.key)))
        return BlockReceipt(self.digest, block, result)

    def commit(self, receipts: Iterable[BlockReceipt | str | PathLike[str]], *, progress: bool | None = None) -> Report:
        """Make the stored blocks the level's content: object index, links and metadata, on the active scheduler.

        Parameters
        ----------
        receipts : iterable of BlockReceipt, or of paths of saved ones
            One of each block, in any order; of several of one block that counts which the store still agrees with.
        progress : bool, optional
            As for :func:`write_points`.

        Returns
        -------
        Report
            Where this plan was committed before, of that, and nothing is written.

        Raises
        ------
        PlanError
            Receipts are missing or of another plan, or what they tell of is not in the store as it was put; the message names
            the blocks. Nothing was committed.
        FormatError
            A file is no receipt.
        """
        started = time.perf_counter()
        found: dict[int, list[BlockResult]] = {}
        for given in receipts:
            receipt = given if isinstance(given, BlockReceipt) else load_receipt(given)
            if receipt.plan != self.digest or not 0 <= receipt.block < len(self):
                raise PlanError(
                    f"the receipt of block {receipt.block} is of another plan ({receipt.plan[:12]}, not {self.digest[:12]}): "
                    "its data or arguments were others; run the block with this plan",
                    store=self._url,
                )
            found.setdefault(receipt.block, []).append(receipt.result)
        if written_stamp(self._job.block.place) == self.digest:  # committed already: what came of it may be in use
            return finished(replace(self._job.commit.report, chunks=len(self._job.scan.coords)), started)
        self._check_all("no receipt of", [b for b in range(len(self)) if b not in found])
        specs = None if self._job.block.grid is None else self._job.block.grid.specs
        whole: dict[int, BlockResult] = {}
        for turn in range(max(map(len, found.values()), default=0)):  # a block that ran twice is as its last run left it
            candidates = {b: r[turn] for b, r in found.items() if turn < len(r) and b not in whole}
            whole |= whole_blocks(self._job.block.place, specs, candidates)
        self._check_all("the store lacks objects, or has others, of", [b for b in range(len(self)) if b not in whole])
        builder = GraphBuilder(f"zv-{self._job.name}", watched=bool(progress))
        refs: list[TaskRef] = []
        for number in range(len(self)):
            held = hold_if_large(whole[number], whole[number].__sizeof__())
            refs.append(builder.add(builder.key("done", number), _same, held))
        report: Report = compute_one(self._job.swept().add_end(builder, refs), progress=progress)
        return finished(report, started)

    def _check_all(self, what: str, blocks: Sequence[int]) -> None:
        if blocks:
            named = ", ".join(map(str, blocks[:_NAMED])) + (", …" if len(blocks) > _NAMED else "")
            raise PlanError(
                f"{what} {len(blocks):,} of {len(self):,} blocks ({named}): run them with plan.run, commit the receipts of all",
                store=self._url,
            )

    def save(self, path: str | PathLike[str]) -> None:
        """Write the plan to a file, which is there in full or not at all, and which its owner alone can read.

        The file holds what opens the store and the input, credentials in `storage_options` included, since the processes that
        run the blocks may have no other. Where those find credentials in their environment, leave them out of the options: then
        the file holds none.
        """
        _save(Path(path), _MAGIC + cloudpickle.dumps(self), mode=0o600)


def _same(result: BlockResult) -> BlockResult:
    return result


def _restored(job: bytes, url: str) -> WritePlan:
    return WritePlan(cloudpickle.loads(job), url)


def _save(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a file in full, then rename it: of several processes that save the same, one's file is there in the end."""
    temporary = Path(partial_name(str(path)))
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load_plan(path: str | PathLike[str]) -> WritePlan:
    """Return a plan that was saved as a file. It is a pickle: load your own alone.

    Raises
    ------
    NotFoundError
        There is no such file.
    FormatError
        The file holds no plan.
    """
    data = _load(path)
    if not data.startswith(_MAGIC):
        raise FormatError(f"{path} holds no plan of a write")
    plan = cloudpickle.loads(data[len(_MAGIC) :])
    if not isinstance(plan, WritePlan):
        raise FormatError(f"{path} holds no plan of a write")
    return plan


def load_receipt(path: str | PathLike[str]) -> BlockReceipt:
    """Return a receipt that was saved as a file.

    Raises
    ------
    NotFoundError
        There is no such file.
    FormatError
        The file holds no receipt, or a damaged one: run its block again.
    """
    result, about = decode_receipt(_load(path), array=str(path))
    plan, block = about.get("plan"), about.get("block")
    if not isinstance(plan, str) or type(block) is not int:
        raise FormatError("a receipt that does not say of which plan and block it is", array=str(path))
    return BlockReceipt(plan, block, result)


def _load(path: str | PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise NotFoundError(f"there is no file {path}") from None
