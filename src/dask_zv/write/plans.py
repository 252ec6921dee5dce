"""The same writes without a Dask cluster: planned once, run block by block by whatever starts processes, committed once.

A plan holds what every process needs: where the store is, how the input is cut and how it is read. Nothing is shared but the
store and the receipts, which are small and can be files.
"""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, ParamSpec

import cloudpickle  # type: ignore[import-untyped]

from dask_zv.errors import FormatError, InputError, NotFoundError, PlanError
from dask_zv.graph.builder import GraphBuilder
from dask_zv.graph.report import Report
from dask_zv.graph.run import compute_one, keep_on_client
from dask_zv.storage.local import partial_name
from dask_zv.storage.marks import written_stamp
from dask_zv.storage.specs import BlockResult
from dask_zv.write.job import Job
from dask_zv.write.journal import decode_receipt, encode_receipt, whole_blocks
from dask_zv.write.options import filled
from dask_zv.write.running import Write, finished, hand_in

_ANY_MAGIC = b"dask-zv plan "
_MAGIC = _ANY_MAGIC + b"2\n"
_NAMED = 10
P = ParamSpec("P")
_PLAN_DOC = """Plan what :func:`{write}` does, for job arrays, workflow managers and MPI.

The input is looked at once, now, on the active scheduler. What is in memory becomes part of the plan; of a dask collection
the plan holds how its partitions are made, and every block makes those that have rows for it. Links are stored by the commit.

Parameters
----------
store : Store
    That the processes can reach, too: no store in memory.
{others}
    As for :func:`{write}`.

Returns
-------
WritePlan

Raises
------
InputError, BoundsError, StoreError, PlanError
    As for :func:`{write}`.

Examples
--------
>>> import dask_zv as dzv
>>> import numpy as np
>>> store = dzv.create({{}}, chunk_shape=(10, 10, 10))
>>> plan = dzv.plan_points(store, np.random.default_rng(0).uniform(0, 20, (1000, 3)))
>>> receipts = [plan.run(block) for block in range(len(plan))]
>>> plan.commit(receipts).rows
1000
"""


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

    Made by :func:`plan_points` and the like. ``len(plan)`` is the number of blocks. Pickles, and saves as a file: like
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
            return finished(self._job.known_report(), started)
        self._check_all("no receipt of", [b for b in range(len(self)) if b not in found])
        whole: dict[int, BlockResult] = {}
        for turn in range(max(map(len, found.values()), default=0)):  # a block that ran twice is as its last run left it
            candidates = {b: r[turn] for b, r in found.items() if turn < len(r) and b not in whole}
            whole |= whole_blocks(self._job.block.place, self._job.specs, candidates)
        self._check_all("the store lacks objects, or has others, of", [b for b in range(len(self)) if b not in whole])
        builder = GraphBuilder(f"zv-{self._job.name}", watched=bool(progress))
        refs = hand_in(builder, whole)
        report: Report = compute_one(self._job.swept().add_end(builder, [refs[b] for b in range(len(self))]), progress=progress)
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
    if data.startswith(_ANY_MAGIC) and not data.startswith(_MAGIC):
        raise FormatError(
            f"{path} holds a plan of another version of dask-zv: run it with the one that saved it, or plan again"
        )
    if not data.startswith(_MAGIC):
        raise FormatError(f"{path} holds no plan of a write")
    try:
        plan = cloudpickle.loads(data[len(_MAGIC) :])
    except (ImportError, AttributeError) as error:
        raise FormatError(f"{path} can't be loaded here, a module of its input is missing: {error}") from error
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


def planner(prepare: Callable[P, Write], write: Callable[..., Any]) -> Callable[P, WritePlan]:
    """Return the function that plans what `write` does, of the one that checks and scans the input for both."""
    signature = inspect.signature(write)
    own = [p for name, p in signature.parameters.items() if name not in ("compute", "progress", "resume")]

    def plan(*args: P.args, **kwargs: P.kwargs) -> WritePlan:
        with keep_on_client():
            made = prepare(*args, **kwargs)
        job = made.job.stamped()
        if job.commit.place.handle.is_session:
            raise InputError(
                "a plan is run by processes that share nothing but the store, and a transaction (Icechunk) lives in one: write "
                "on a cluster, without a plan",
            )
        return WritePlan(job, made.level.store.url)

    plan.__name__ = plan.__qualname__ = write.__name__.replace("write", "plan")
    plan.__module__ = write.__module__
    plan.__doc__ = _PLAN_DOC.format(write=write.__name__, others=", ".join(p.name for p in own[1:]))
    return filled(plan, signature.replace(parameters=own, return_annotation="WritePlan"), progress=None, resume=False)
