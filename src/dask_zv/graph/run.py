"""Running a graph on whatever scheduler is active, with or without progress. No client is ever made here."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from time import monotonic
from typing import TYPE_CHECKING, Any

from dask.base import get_annotations, get_scheduler
from dask.delayed import Delayed
from dask.delayed import delayed as delayed_of
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.task_spec import Task

from dask_zv.config import settings
from dask_zv.errors import PlanError
from dask_zv.graph.ending import compute_locally, end_on_workers
from dask_zv.graph.progress import Progress, block_keys, run_of, topic_of, watch_local
from dask_zv.storage.handles import StoreHandle, process_token

if TYPE_CHECKING:
    from distributed import Client


_SMALL_BYTES = 1 << 18
_INTERPRETER_BYTES = 128 << 20
"""What a worker's memory holds beside its tasks: the interpreter, libraries, connections to other workers."""
_KEEP: ContextVar[bool] = ContextVar("dask_zv_keep_on_client", default=False)


@contextmanager
def keep_on_client() -> Iterator[None]:
    """Leave the client's data where it is inside: for graphs that other processes, of no cluster, are to run."""
    token = _KEEP.set(True)
    try:
        yield
    finally:
        _KEEP.reset(token)


def stays_on_client() -> bool:
    """Return True inside :func:`keep_on_client`."""
    return _KEEP.get()


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

    Raises
    ------
    PlanError
        The client is asynchronous, and this is its event loop: waiting for a result here would wait for ever.
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
            "the active client is asynchronous, and this call would stop its event loop: await it in a thread, such as "
            "'await asyncio.to_thread(dzv.write_points, store, positions)'; with compute=False, what that returns is then "
            "computed by 'await client.compute(delayed)'"
        ) from error
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
    if client is None or not pieces or _KEEP.get() or not client.nthreads():  # workers may come once there is work
        return list(pieces)
    return list(client.scatter(list(pieces), hash=False))


def hold_if_large(value: Any, nbytes: int) -> Any:
    """Return what tasks take in place of a value of the client's: itself where it is small, else as :func:`hold_on_workers`."""
    return value if nbytes < _SMALL_BYTES else hold_on_workers([value])[0]


def as_delayed(key: str, tasks: Mapping[Any, Any], run: str) -> Delayed:
    """Return the ``Delayed`` of a task. What ``dask.annotate`` says now holds for the tasks whose keys name the `run`."""
    annotations = get_annotations()
    if not annotations:
        return Delayed(key, tasks)
    own = {k: task for k, task in tasks.items() if isinstance(k, str) and run in k}
    others = {k: task for k, task in tasks.items() if k not in own}
    name, given = f"zv-{run}", f"zv-{run}-given"
    layers = {name: MaterializedLayer(own, annotations=annotations), given: MaterializedLayer(others)}
    layers[given].annotations = None  # else those of now
    return Delayed(key, HighLevelGraph(layers, {name: {given}, given: set()}), layer=name)


def compute_one(delayed: Delayed, *, progress: Progress | bool | None = None, begun: Callable[[], None] | None = None) -> Any:
    """Compute one ``Delayed`` on the active scheduler and return its result.

    Parameters
    ----------
    delayed : Delayed
    progress : Progress or bool, optional
        Show the blocks as they are stored: on a progress of the caller's, or with True on one for this graph.
    begun : function, optional
        As for :func:`compute_many`.
    """
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

    Parameters
    ----------
    delayed : sequence of Delayed
    progress : Progress or bool, optional
        As for :func:`compute_one`.
    hold : bool
        With a distributed client return futures, once all are done: the results stay on the workers.
    begun : function, optional
        Called once a cluster's scheduler knows the graph, and keeps what its tasks need by itself.
    """
    client = active_client()
    with _shown(delayed, progress) as shown:
        if client is None:
            with watch_local(shown) if shown else nullcontext():
                return compute_locally(delayed)
        with _subscribed(client, delayed, shown):
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
    from distributed import wait

    awaited = WorkersAwaited(client)
    while True:
        try:
            wait(futures, timeout=min(awaited.limit / 4, 5))
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
                "start some (cluster.scale(n)), wait for those that are on their way (client.wait_for_workers(n)), or let this "
                "call wait longer with the setting dask_zv.workers-timeout"
            )


@contextmanager
def _shown(delayed: Sequence[Delayed], progress: Progress | bool | None) -> Iterator[Progress | None]:
    if isinstance(progress, Progress) or not progress:
        yield progress or None
        return
    made = Progress("writing", len(block_keys(delayed[0].__dask_graph__())))
    try:
        yield made
    finally:
        made.close()


@contextmanager
def _subscribed(client: Client, delayed: Sequence[Delayed], progress: Progress | None) -> Iterator[None]:
    """Note the blocks that a cluster's tasks log."""
    runs = {run for key in block_keys(delayed[0].__dask_graph__()) if (run := run_of(key))} if progress else set()
    if progress is None or not runs:
        yield
        return

    def note(event: tuple[float, Any]) -> None:
        progress.block(event[1]["block"], event[1]["nbytes"])

    topics = sorted(map(topic_of, runs))
    for topic in topics:
        client.subscribe_topic(topic, note)
    try:
        yield
    finally:
        for topic in topics:
            _drain(client, topic, progress)
            client.unsubscribe_topic(topic)


def _drain(client: Client, topic: str, progress: Progress) -> None:
    """Note the events that are still on their way."""
    if client.status != "running":
        return
    for _, event in client.get_events(topic):
        progress.block(event["block"], event["nbytes"])
