"""Running a graph on whatever scheduler is active, with or without progress. No client is ever made here.

A call that raises has ended: no task of it runs on behind its back, in threads of this process or on workers. One module
because what runs tasks also has to end them, and both depend on which scheduler is active.
"""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import copy_context
from time import monotonic
from typing import TYPE_CHECKING, Any

import dask
from dask import threaded
from dask.base import compute, get_scheduler, named_schedulers
from dask.delayed import Delayed
from dask.delayed import delayed as delayed_of
from dask.local import get_sync
from dask.system import CPU_COUNT
from dask.task_spec import Task

from dask_zv.config import settings
from dask_zv.errors import PlanError
from dask_zv.graph.progress import Progress, shown_blocks, watch_cluster, watch_local
from dask_zv.storage.handles import StoreHandle, process_token
from dask_zv.storage.icechunk.session import can_fork

if TYPE_CHECKING:
    from distributed import Client


_LOOK_SECONDS = 0.2
_SMALL_BYTES = 1 << 18
_INTERPRETER_BYTES = 128 << 20
"""What a worker's memory holds beside its tasks: the interpreter, libraries, connections to other workers."""


def task_memory() -> int | None:
    """Return the bytes that a task may use on the least of the active cluster's workers, None where that is not known."""
    return min((memory // threads for memory, threads in _workers()), default=None)


def cluster_memory() -> int | None:
    """Return the bytes that all tasks on the active cluster's workers may use, None where that is not known."""
    return sum(memory for memory, _ in _workers()) or None


def _workers() -> list[tuple[int, int]]:
    """Return the memory that tasks have, and the threads, of each worker of the active cluster that has a limit."""
    client = active_client()
    if client is None:
        return []
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    limits = [(int(w["memory_limit"]), max(int(w["nthreads"]), 1)) for w in workers if w.get("memory_limit")]
    return [(max(limit - _INTERPRETER_BYTES, limit // 4), threads) for limit, threads in limits]


def active_client() -> Client | None:
    """Return the distributed client that ``dask.compute`` would use now, None for a local scheduler.

    An asynchronous one is refused in its event loop: waiting for a result there would wait for ever.
    """
    if "distributed" not in sys.modules:
        return None
    from distributed import Client

    try:
        owner = getattr(get_scheduler(), "__self__", None)
    except RuntimeError as error:
        if "asynchronous" not in str(error):
            raise
        raise PlanError(
            "the active client is asynchronous, and this call would block its event loop: await it in a thread, such as "
            "'await asyncio.to_thread(dzv.write_points, store, positions)'; with compute=False, what that returns is then "
            "computed by 'await client.compute(delayed)'"
        ) from error
    return owner if isinstance(owner, Client) else None


def current_scheduler() -> Any:
    """Return the function that ``dask.compute`` would use now, None for the default of each collection.

    Dask itself loads `distributed` to find out, which takes a third of the time of a first small write, and memory.
    """
    if "distributed" not in sys.modules:
        chosen = dask.config.get("scheduler", None)
        if not chosen:
            return None
        if isinstance(chosen, str) and chosen.lower() in named_schedulers:
            return named_schedulers[chosen.lower()]
    return get_scheduler()


def shares_memory() -> bool:
    """Return True if the active scheduler runs tasks in this process: they can fill arrays of the caller's."""
    pools = [p for p in (dask.config.get("scheduler", None), dask.config.get("pool", None)) if isinstance(p, Executor)]
    if not all(isinstance(p, ThreadPoolExecutor) for p in pools):
        return False
    return active_client() is None and (bool(pools) or current_scheduler() in (None, threaded.get, get_sync))


def check_reachable(handle: StoreHandle) -> None:
    """Raise :class:`PlanError` where the active scheduler runs tasks in processes that can't see a one-process store."""
    if not handle.one_process:
        return
    handle.check_process()
    client = active_client()
    if client is not None:
        elsewhere = any(t != process_token() for t in client.run(process_token).values())
    else:
        elsewhere = getattr(current_scheduler(), "__module__", "") == "dask.multiprocessing"
    if elsewhere:
        raise handle.out_of_reach()


def check_writable(handle: StoreHandle) -> None:
    """Raise :class:`PlanError` where tasks of the active scheduler can't write to a store, not even in forks."""
    if not can_fork(handle):
        check_reachable(handle)


def hold_on_workers(pieces: Sequence[Any]) -> list[Any]:
    """Return what tasks take in place of each piece of the client's data.

    With a distributed client the pieces are sent to the workers now and the graph carries futures; with a local scheduler
    they are in reach as they are.
    """
    client = active_client()
    if client is None or not pieces or not client.nthreads():  # workers may come once there is work
        return list(pieces)
    return list(client.scatter(list(pieces), hash=False))


class Piece:
    """A piece of the client's data and what tasks take in its place; pickled, as a plan is, it is the data alone."""

    __slots__ = ("held", "value")

    def __init__(self, value: Any, held: Any) -> None:
        self.value, self.held = value, held

    def __reduce__(self) -> tuple[Any, ...]:
        return Piece, (self.value, self.value)


def pieces_of(values: Sequence[Any]) -> list[Piece]:
    """Return pieces that are held as :func:`hold_on_workers` says."""
    return [Piece(value, held) for value, held in zip(values, hold_on_workers(values), strict=True)]


def hold_if_large(value: Any, nbytes: int) -> Any:
    """Return what tasks take in place of a value of the client's: itself where it is small, else as :func:`hold_on_workers`."""
    return value if nbytes < _SMALL_BYTES else hold_on_workers([value])[0]


def compute_one(delayed: Delayed, *, progress: Progress | bool | None = None, begun: Callable[[], None] | None = None) -> Any:
    """Compute one ``Delayed`` on the active scheduler and return its result; see :func:`compute_many`."""
    return compute_many([delayed], progress=progress, begun=begun)[0]


def computed(collection: Any) -> Any:
    """Return what a Dask array, Series, DataFrame or the like of the user's holds, in memory."""
    return compute_one(delayed_of(_same, pure=False)(collection))


def _same(value: Any) -> Any:
    return value


def compute_many(
    delayed: Sequence[Delayed],
    *,
    progress: Progress | bool | None = None,
    hold: bool = False,
    begun: Callable[[], None] | None = None,
) -> list[Any]:
    """Compute several ``Delayed`` of one graph on the active scheduler and return their results.

    `progress` shows the blocks as they are stored: on one of the caller's, or with True on one for this graph. With `hold`, a
    distributed client's futures are returned once all are done: the results stay on the workers. `begun` is called once a
    cluster's scheduler knows the graph, and keeps what its tasks need by itself.
    """
    client = active_client()
    with shown_blocks(delayed, progress) as shown:
        if client is None:
            with watch_local(shown):
                return compute_locally(delayed)
        with watch_cluster(client, delayed, shown):
            futures = client.compute([*delayed, *([_first_sign()] if begun is not None else [])])
            sign = futures.pop() if begun is not None else None
            if begun is not None and sign is not None:
                sign.add_done_callback(lambda _: begun())
            with seceded():
                try:
                    _wait(client, futures)
                    if hold:
                        for future in futures:
                            if future.status != "finished":
                                future.result()  # raises
                        return list(futures)
                    return [future.result() for future in futures]
                except BaseException as error:
                    end_on_workers(client, futures, delayed[0].__dask_graph__(), error)
                    raise


@contextmanager
def seceded() -> Iterator[None]:
    """Where this is a task itself, give its thread to other tasks inside: those that are waited for may have no other."""
    from distributed import rejoin, secede

    try:
        secede()
    except (ValueError, KeyError, AttributeError):  # no task, or one that has seceded already
        yield
        return
    try:
        yield
    finally:
        rejoin()


def _first_sign() -> Delayed:
    """Return a task of nothing: when it is done, the scheduler knows all tasks that came with it."""
    key = f"zv-begun-{uuid.uuid4().hex[:12]}"
    return Delayed(key, {key: Task(key, _nothing)})


def _nothing() -> None:
    return None


def _wait(client: Client, futures: Sequence[Any]) -> None:
    """Wait until all futures are done, failed or not; raises as :meth:`WorkersAwaited.check`."""
    from distributed import wait as wait_for

    awaited = WorkersAwaited(client)
    while True:
        try:
            wait_for(futures, timeout=min(awaited.limit / 4, 5))
        except TimeoutError:
            awaited.check()
        else:
            return


class WorkersAwaited:
    """Asked from time to time while something is waited for: are there workers that could do it?"""

    def __init__(self, client: Client) -> None:
        self.limit = settings().workers_timeout
        self._client = client
        self._last = monotonic()

    def check(self) -> None:
        """Raise :class:`PlanError` where the cluster has had no workers for as long as the setting says."""
        # or some were asked for, as jobs in a queue
        if self._client.nthreads() or getattr(self._client.cluster, "plan", None):
            self._last = monotonic()
        elif monotonic() - self._last >= self.limit:
            raise PlanError(
                f"the cluster {self._client.scheduler_info(n_workers=0)['address']} has had no workers for {self.limit:g} s: "
                "start some (cluster.scale(n)), wait for those that are starting (client.wait_for_workers(n)), or let this "
                "call wait longer with the setting dask_zv.workers-timeout"
            )


# ---------------------------------------------------------------------------------------------- ending


class _Joined(Executor):
    """Passes work on to an executor, and can wait for all of it."""

    def __init__(self, inner: Executor, workers: int) -> None:
        self._inner = inner
        self._max_workers = workers  # what dask asks for
        self._pending: set[Future[Any]] = set()

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if isinstance(self._inner, ThreadPoolExecutor):  # settings of the caller hold in the threads
            future = self._inner.submit(copy_context().run, function, *args, **kwargs)
        else:
            future = self._inner.submit(function, *args, **kwargs)
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        return future

    def end(self) -> None:
        """Drop what has not begun, and wait for what runs."""
        left = list(self._pending)
        for future in left:
            future.cancel()
        wait(left)


def compute_locally(delayed: Sequence[Delayed]) -> list[Any]:
    """Compute several ``Delayed`` on the active local scheduler.

    Where that uses threads (or an executor of the user's) and a task fails, or the user interrupts, those that run are waited
    for before the error is raised; Dask by itself raises at once and leaves them running.
    """
    scheduler = dask.config.get("scheduler", None)
    if isinstance(scheduler, Executor):
        return _joined(delayed, scheduler, "scheduler")
    current = current_scheduler()
    if current not in (None, threaded.get):
        return list(compute(*delayed, scheduler=current))
    pool = dask.config.get("pool", None)
    if pool is None:
        with ThreadPoolExecutor(dask.config.get("num_workers", None) or CPU_COUNT) as own:
            return _joined(delayed, own, "pool")
    return _joined(delayed, pool, "pool") if isinstance(pool, Executor) else list(compute(*delayed))


def _joined(delayed: Sequence[Delayed], inner: Executor, keyword: str) -> list[Any]:
    workers = getattr(inner, "_max_workers", None) or dask.config.get("num_workers", None) or CPU_COUNT
    joined = _Joined(inner, workers)
    options: dict[str, Any] = {"scheduler": threaded.get, keyword: joined}
    try:
        return list(compute(*delayed, **options))
    except BaseException:
        joined.end()
        raise


def end_on_workers(client: Client, futures: Sequence[Any], keys: Iterable[Any], error: BaseException) -> None:
    """Cancel what a cluster computes, and wait for those of its tasks (`keys`) that run: workers can't stop them.

    Half a minute at most: `error` gets a note where tasks may run on. No future may depend on another.
    """
    if client.status != "running":
        return  # its scheduler forgets what nobody wants
    client.cancel(futures, force=True)
    ours = frozenset(keys)
    end = monotonic() + settings().end_timeout

    async def ended() -> bool:
        quiet = 0  # what was cancelled is on its way to the workers at the first look
        while quiet < 2:
            await asyncio.sleep(_LOOK_SECONDS)
            running = await client.run(_cancelled_that_run, ours, on_error="ignore")
            quiet = 0 if any(running.values()) else quiet + 1
            if monotonic() > end:
                return False
        return True

    try:
        known = client.sync(ended, callback_timeout=settings().end_timeout)
    except (OSError, RuntimeError, asyncio.CancelledError) as unknown:  # the error that ended the call is the one to raise
        error.add_note(f"tasks of it may still run on the cluster, which does not tell ({type(unknown).__name__}: {unknown})")
    else:
        if not known:
            error.add_note(f"tasks of it still run on the cluster, {settings().end_timeout:g} s after they were cancelled")


def _cancelled_that_run(keys: frozenset[Any], dask_worker: Any) -> int:
    tasks = dask_worker.state.tasks
    return sum(key in keys for key, task in tasks.items() if task.state in ("cancelled", "resumed"))
