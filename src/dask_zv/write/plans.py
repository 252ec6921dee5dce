"""A write that is planned: a Dask collection, and blocks that any process can store and any other commit.

A plan holds what every process needs: where the store is, how the input is cut and how it is read. Nothing is shared but the
store and the receipts, which are small and can be files.
"""

from __future__ import annotations

import inspect
import operator
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
from dask.delayed import Delayed

from dask_zv.errors import FormatError, InputError, NotFoundError, PlanError, did_you_mean
from dask_zv.graph.builder import GraphBuilder
from dask_zv.graph.keeping import nothing_kept
from dask_zv.graph.report import Report
from dask_zv.graph.run import compute_one
from dask_zv.storage.local import partial_name
from dask_zv.storage.specs import BlockResult, written_stamp
from dask_zv.write.exchange import spill_directory
from dask_zv.write.job import Job, dumps_job, finished, hand_in, identity
from dask_zv.write.journal import Journal, decode_receipt, encode_receipt, whole_blocks
from dask_zv.write.options import filled

_ANY_MAGIC = b"dask-zv plan "
_MAGIC = _ANY_MAGIC + b"4\n"
_NAMED = 10


@dataclass(frozen=True, slots=True, eq=False)
class BlockReceipt:
    """What one block of a plan stored.

    Made by :meth:`WritePlan.run`. It can be pickled, and saved as a small file that is safe to read.

    Attributes
    ----------
    plan : str
        Digest of the plan that the block belongs to.
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
        """Write the receipt to a file, completely or not at all."""
        _save(Path(path), encode_receipt(self.result, plan=self.plan, block=self.block))


class WritePlan(Delayed):
    """A write that is planned, and has stored nothing yet.

    Made by ``write_points(..., compute=False)`` and the like. The input has been looked at; what is in memory is part of the
    plan, of a Dask collection the plan holds how its partitions are made.

    It is a Dask collection, a ``Delayed`` whose result is the :class:`Report`: ``plan.compute()``, ``client.compute(plan)``,
    ``dask.compute(plan, other)``. Or processes that share nothing but the store do the same work: ``plan.run(block)`` for each
    of its ``len(plan)`` blocks, then ``plan.commit(receipts)`` once. It pickles, and saves as a file: like every pickle it is
    code to whoever loads it.
    """

    def __init__(
        self,
        job: Job,
        url: str,
        done: Mapping[int, BlockResult] | None = None,
        journal: Journal | None = None,
        *,
        known: Report | None = None,
        progress: bool = False,
    ) -> None:
        """Plan a job without the blocks that are `done`; of one that the store has in full, the report is `known`."""
        self._job, self._url, self._journal, self._known = job, url, journal, known
        self._done = dict(done or {})
        self._made: Delayed | None = None
        self._making = threading.Lock()
        self._builder = GraphBuilder(f"zv-{job.name}", watched=progress, store=job.commit.place.handle)
        super().__init__(self._builder.key("commit"), None)  # type: ignore[no-untyped-call]

    def _planned(self) -> Delayed:
        """Return the whole write as one graph, made when it is first asked for: jobs that run block by block never need it."""
        with self._making:
            if self._made is None and self._known is not None:
                self._builder.add(self.key, identity, self._known)
                self._made = self._builder.finish(self.key)
            elif self._made is None:
                spill = spill_directory(self._job.nbytes)
                self._made = self._job.build(self._builder, self._done, self._journal, spill)
            return self._made

    @property
    def dask(self) -> Any:
        """The graph of the whole write."""
        return self._planned().dask

    def __dask_layers__(self) -> Sequence[str]:
        return tuple(self._planned().__dask_layers__())

    def __getattr__(self, name: str) -> Any:
        """Return a field of the report to come, such as ``plan.rows``, as a Delayed."""
        if name.startswith("_") or hasattr(Report, name):
            return super().__getattr__(name)  # type: ignore[no-untyped-call]
        raise AttributeError(f"neither a plan nor its report has {name!r}{did_you_mean(name, (*dir(self), *dir(Report)))}")

    def __len__(self) -> int:
        return len(self._job)

    def __repr__(self) -> str:
        scan = self._job.scan
        return (
            f"<dask_zv.WritePlan: {scan.rows:,} {self._job.name} rows in {len(scan.coords):,} chunks, {len(self):,} blocks, "
            f"to {self._url}>"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        self._check_shared()
        return _restored, (dumps_job(self._job, self._url), self._url, self._done, self._known)

    @property
    def digest(self) -> str:
        """Identifies the write; receipts contain it."""
        return self._job.digest

    def run(self, block: int) -> BlockReceipt:
        """Store one block; a second run stores the same bytes again.

        Reads the partitions that have rows for the block, on the active scheduler of this process. A block that an interrupted
        write has stored (``resume=True``) is not stored again.

        Parameters
        ----------
        block : int
            0 to ``len(plan) - 1``.

        Raises
        ------
        IndexError
            No such block.
        StoreError, PlanError
            It can't be stored, or the plan is committed and what it replaced must not be marked again.
        """
        self._check_shared()
        if not 0 <= operator.index(block) < len(self):
            raise IndexError(f"the plan has {len(self)} blocks, 0 to {len(self) - 1}; there is no {block}")
        if block in self._done:
            return BlockReceipt(self.digest, block, self._done[block])
        if self._job.commit.marker and self._is_committed():
            raise PlanError("the plan is committed already, and has no block left to store", store=self._url)
        builder = GraphBuilder(f"zv-{self._job.name}")
        ref = self._job.add_blocks(builder, [block])[block]
        result: BlockResult = compute_one(builder.finish(str(ref.key)))
        return BlockReceipt(self.digest, block, result)

    def commit(self, receipts: Iterable[BlockReceipt | str | PathLike[str]], *, progress: bool | None = None) -> Report:
        """Complete the write: store object index, links and metadata, on the active scheduler.

        Parameters
        ----------
        receipts : iterable of BlockReceipt, or of paths of saved ones
            One per block, in any order. If there are several of one block, the one that agrees with the store is used.
        progress : bool, optional
            As for :func:`write_points`.

        Returns
        -------
        Report
            If this plan is already committed, the report of that commit; nothing is written then.

        Raises
        ------
        PlanError
            Receipts are missing or belong to another plan, or the store does not contain what they describe; the message names
            the blocks. Nothing is committed.
        FormatError
            A file is not a receipt.
        """
        started = time.perf_counter()
        self._check_shared()
        found: dict[int, list[BlockResult]] = {block: [result] for block, result in self._done.items()}
        for given in receipts:
            receipt = given if isinstance(given, BlockReceipt) else load_receipt(given)
            if receipt.plan != self.digest or not 0 <= receipt.block < len(self):
                raise PlanError(
                    f"the receipt of block {receipt.block} is of another plan ({receipt.plan[:12]}, not {self.digest[:12]}): "
                    "its data or arguments were different; run the block with this plan",
                    store=self._url,
                )
            found.setdefault(receipt.block, []).append(receipt.result)
        if self._is_committed():  # what came of it may be in use
            return finished(self._job.known_report(), started)
        self._check_all("no receipt of", [b for b in range(len(self)) if b not in found])
        whole: dict[int, BlockResult] = {}
        for turn in range(max(map(len, found.values()), default=0)):  # a block that ran twice is as its last run left it
            candidates = {b: r[turn] for b, r in found.items() if turn < len(r) and b not in whole}
            whole |= whole_blocks(self._job.block.place, self._job.specs, candidates)
        self._check_all("the store lacks objects, or has others, of", [b for b in range(len(self)) if b not in whole])
        builder = GraphBuilder(f"zv-{self._job.name}", watched=bool(progress))
        refs = hand_in(builder, whole)
        end = self._job.stamped().swept().add_end(builder, [refs[b] for b in range(len(self))])
        report: Report = compute_one(end, progress=progress)
        return finished(report, started)

    def _is_committed(self) -> bool:
        return written_stamp(self._job.commit.place) == self.digest

    def _check_shared(self) -> None:
        if self._job.commit.place.handle.is_session:
            raise InputError(
                "blocks of a plan are run by processes that share nothing but the store, and a transaction (Icechunk) lives in "
                "one: compute the plan as a whole, such as on a cluster, and pass the result to store.finish",
                store=self._url,
            )

    def _check_all(self, what: str, blocks: Sequence[int]) -> None:
        if blocks:
            named = ", ".join(map(str, blocks[:_NAMED])) + (", …" if len(blocks) > _NAMED else "")
            raise PlanError(
                f"{what} {len(blocks):,} of {len(self):,} blocks ({named}): run them with plan.run, commit the receipts of all",
                store=self._url,
            )

    def save(self, path: str | PathLike[str]) -> None:
        """Write the plan to a file, completely or not at all, which only its owner can read.

        The file contains what is needed to open the store and the input, including credentials in `storage_options`, because
        the processes that run the blocks may have no others. If these find credentials in their environment, leave them out of
        the options.
        """
        _save(Path(path), _MAGIC + cloudpickle.dumps(self), mode=0o600)


def _restored(job: bytes, url: str, done: Mapping[int, BlockResult], known: Report | None) -> WritePlan:
    return WritePlan(cloudpickle.loads(job), url, done, known=known)


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
        raise FormatError("a receipt that does not name its plan and block", array=str(path))
    return BlockReceipt(plan, block, result)


def _load(path: str | PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise NotFoundError(f"there is no file {path}") from None


def planner(write: Callable[..., Any]) -> Callable[..., WritePlan]:
    """Return the function that plans what `write` does: `write` with ``compute=False``, for other processes."""
    signature = inspect.signature(write)

    def plan(*args: Any, **kwargs: Any) -> Any:
        with nothing_kept():
            return write(*args, **kwargs)

    name = write.__name__
    plan.__name__ = plan.__qualname__ = name.replace("write", "plan")
    plan.__module__ = write.__module__
    plan.__doc__ = f"""Return ``{name}(..., compute=False)``, for other processes: no lazy input is kept in memory here.

    Parameters
    ----------
    store, ...
        As for :func:`{name}`.

    Returns
    -------
    WritePlan
    """
    own = [p for name, p in signature.parameters.items() if name != "compute"]
    return filled(plan, signature.replace(parameters=own, return_annotation="WritePlan"), compute=False)
