"""Computing in threads of this process, so that a call that raises has ended: no task of it runs on behind its back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import Any

import dask
from dask import threaded
from dask.base import compute, get_scheduler
from dask.delayed import Delayed
from dask.system import CPU_COUNT

__all__ = ["compute_locally"]


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
