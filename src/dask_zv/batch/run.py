"""Running a graph on whatever scheduler is active, with or without a progress bar. No client is ever made here."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from dask.base import compute, get_scheduler
from dask.delayed import Delayed

from dask_zv.storage.handles import StoreHandle, process_token

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["active_client", "check_reachable", "compute_one", "hold_if_large", "hold_on_workers"]

_SMALL_BYTES = 1 << 18


def active_client() -> Client | None:
    """Return the distributed client that ``dask.compute`` would use now, None for a local scheduler."""
    if "distributed" not in sys.modules:
        return None
    from distributed import Client

    owner = getattr(get_scheduler(), "__self__", None)
    return owner if isinstance(owner, Client) else None


def check_reachable(handle: StoreHandle) -> None:
    """Raise :class:`PlanError` where the active scheduler runs tasks in processes that can't see a one-process store."""
    if not handle.one_process:
        return
    handle.check_process()
    client = active_client()
    elsewhere = False
    if client is not None:
        tokens = client.run(process_token)
        elsewhere = any(t != process_token() for t in tokens.values())
    else:
        get = get_scheduler()
        elsewhere = getattr(get, "__module__", "") == "dask.multiprocessing"
    if elsewhere:
        raise handle.out_of_reach()


def hold_on_workers(pieces: Sequence[Any]) -> list[Any]:
    """Return what tasks take in place of each piece of the client's data.

    With a distributed client the pieces are sent to the workers now and the graph carries futures; with a local scheduler
    they are in reach as they are.
    """
    client = active_client()
    if client is None or not pieces:
        return list(pieces)
    return list(client.scatter(list(pieces), hash=False))


def hold_if_large(value: Any, nbytes: int) -> Any:
    """Return what tasks take in place of a value of the client's: itself where it is small, else as :func:`hold_on_workers`."""
    return value if nbytes < _SMALL_BYTES else hold_on_workers([value])[0]


def compute_one(delayed: Delayed, *, progress: bool | None = None) -> Any:
    """Compute one ``Delayed`` on the active scheduler and return its result.

    Parameters
    ----------
    delayed : Delayed
    progress : bool, optional
        Show a progress bar: Dask's own for local schedulers, distributed's where a client is active.
    """
    client = active_client()
    if client is None:
        from dask.diagnostics.progress import ProgressBar

        with ProgressBar() if progress else nullcontext():
            (result,) = compute(delayed)
        return result
    future = client.compute(delayed)
    try:
        if progress:
            from distributed import progress as show

            show(future)
        return future.result()
    except BaseException:  # an interrupted write must not go on behind the user's back
        future.cancel()
        raise
