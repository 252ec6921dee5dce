"""A call that raises has ended: no task of it runs on behind its back, in threads of this process or on workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from time import monotonic
from typing import TYPE_CHECKING, Any

import dask
from dask import threaded
from dask.base import compute, get_scheduler
from dask.delayed import Delayed
from dask.system import CPU_COUNT

from dask_zv.config import settings

if TYPE_CHECKING:
    from distributed import Client


_LOOK_SECONDS = 0.2


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
    if get_scheduler() not in (None, threaded.get):
        return list(compute(*delayed))
    pool = dask.config.get("pool", None)
    if pool is None:
        with ThreadPoolExecutor(dask.config.get("num_workers", None) or CPU_COUNT) as own:
            return _joined(delayed, own, "pool")
    return _joined(delayed, pool, "pool") if isinstance(pool, Executor) else list(compute(*delayed))


def _joined(delayed: Sequence[Delayed], inner: Executor, keyword: str) -> list[Any]:
    workers = getattr(inner, "_max_workers", None) or dask.config.get("num_workers", None) or CPU_COUNT
    joined = _Joined(inner, workers)
    options: dict[str, Any] = {keyword: joined}
    try:
        return list(compute(*delayed, **options))
    except BaseException:
        joined.end()
        raise


def end_on_workers(client: Client, futures: Sequence[Any], keys: Iterable[Any], error: BaseException) -> None:
    """Cancel what a cluster computes, and wait for those of its tasks that run: workers can't stop them. Half a minute at most.

    Parameters
    ----------
    client : Client
    futures : sequence of Future
        None of them depends on another.
    keys : iterable
        Of all tasks.
    error : BaseException
        It gets a note where tasks may run on.
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
