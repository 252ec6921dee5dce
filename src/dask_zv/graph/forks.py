"""Graphs that write to an Icechunk session: every storing task writes into a fork, and all forks are merged into one.

The graph is built as for any store, then :func:`write_in_forks` rewrites it. A task that takes a handle of the session becomes
one that runs in a fork and returns that beside its result; a tree of tasks merges the forks; the commit runs in what comes of
it. Which fork a task is given:

- the fork with the nodes of all tasks before it that *make nodes* (:func:`makes_nodes`), for arrays must exist before their
  chunks, and one array made in two forks would be two;
- nothing else of what other tasks stored: forks stay small;
- the last task, the commit, is given everything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, TypeVar

from dask.core import get_dependencies
from dask.delayed import Delayed
from dask.task_spec import GraphNode, List, Task, TaskRef

from dask_zv.graph.builder import as_delayed, reduce_tree
from dask_zv.graph.report import Report
from dask_zv.graph.run import check_reachable
from dask_zv.storage.handles import StoreHandle, opened_as
from dask_zv.storage.icechunk.fork import Fork, ForkObjects, ForkSource, merge_forks
from dask_zv.storage.icechunk.merge import merge_into_session
from dask_zv.storage.icechunk.session import can_fork, fork_session, session_of

_NODES = "dask_zv_makes_nodes"

F = TypeVar("F", bound=Callable[..., Any])


def makes_nodes(function: F) -> F:
    """Mark the function of a task that makes nodes which later tasks write below."""
    setattr(function, _NODES, True)
    return function


@dataclass(frozen=True, slots=True)
class UncommittedReport(Report):
    """The report of a write to an Icechunk session that the session does not know of yet: pass it to ``store.finish``.

    What a Delayed of a write (``compute=False``) to a session computes to, on every scheduler. All that was stored is in a fork
    of the session, which this carries; :meth:`Store.finish <dask_zv.Store.finish>` merges it, where the session is.
    """

    fork: Fork | None = dataclasses.field(default=None, repr=False, compare=False)

    def plain(self) -> Report:
        """Return the report alone."""
        return Report(**_fields(self))


def _fields(report: Report) -> dict[str, Any]:
    return {f.name: getattr(report, f.name) for f in dataclasses.fields(Report)}


@dataclass(frozen=True, slots=True)
class _InFork:
    """A task's result, and the fork that it wrote into."""

    value: Any
    fork: Fork


def write_in_forks(delayed: Delayed, run: str, handle: StoreHandle) -> Delayed:
    """Return the graph of a write as one that writes in forks of the session; as it is, where the store is no such session.

    The result of `delayed` is the report. The keys of the library's own tasks have `run` in common: others are left alone.
    """
    source = fork_session(handle)
    return delayed if source is None else _with_commit(delayed, run, handle, source, [])


def _with_commit(delayed: Delayed, run: str, handle: StoreHandle, source: ForkSource, earlier: Sequence[Any]) -> Delayed:
    end = str(delayed.key)
    rewriting = _Rewriting(delayed, run, handle, source)
    rewriting.commit_in(end, rewriting.store_in_forks([end], {end}, earlier))
    return as_delayed(end, rewriting.graph, run)


class WaveForks:
    """The forks of a write in several graphs. On a store that is no session, all is left as it is.

    `prepare` makes the nodes that all graphs write below. It is called here, once: an array made by each graph would be many.
    """

    def __init__(self, handle: StoreHandle, prepare: Callable[[], None]) -> None:
        self._handle = handle
        self._source = fork_session(handle)
        self._forks: list[Any] = []
        if self._source is not None:
            fork = self._source.copy()
            objects = ForkObjects(fork, guarded=False)
            with opened_as(handle, objects):
                prepare()
            self._source = ForkSource(fork.written(objects), shared=False)

    def wave(self, delayed: Sequence[Delayed], run: str) -> list[Delayed]:
        """Return what is to be computed in place of some tasks of one graph."""
        if self._source is None or not delayed:
            return list(delayed)
        ends = [str(d.key) for d in delayed]
        rewriting = _Rewriting(delayed[0], run, self._handle, self._source)
        merged = rewriting.store_in_forks(ends, set(), [])
        return [as_delayed(key, rewriting.graph, run) for key in (*ends, str(merged.key))]

    def unwrap_results(self, results: Sequence[Any]) -> list[Any]:
        """Return the results of those tasks, of what was computed in their place."""
        if self._source is None or not results:
            return list(results)
        self._forks.append(results[-1])
        return list(results[:-1])

    def end(self, delayed: Delayed, run: str) -> Delayed:
        """Return the graph of the commit, see :func:`write_in_forks`."""
        return delayed if self._source is None else _with_commit(delayed, run, self._handle, self._source, self._forks)


@contextmanager
def undone_on_failure(handle: StoreHandle) -> Iterator[None]:
    """Discard what a failed graph has written into a session that can't be forked, unless it had changes of others before."""
    session = session_of(handle) if handle.is_session else None
    clean = session is not None and not session.has_uncommitted_changes
    try:
        yield
    except BaseException:
        if session is not None and clean:
            session.discard_changes()
        raise


def check_writable(handle: StoreHandle) -> None:
    """Raise :class:`PlanError` where tasks of the active scheduler can't write to a store, not even in forks."""
    if not can_fork(handle):
        check_reachable(handle)


def finish_write(handle: StoreHandle, result: Any) -> Any:
    """Return the report of a write, its changes merged into the session where there are any."""
    if not isinstance(result, UncommittedReport):
        return result
    if result.fork is not None:
        merge_into_session(handle, result.fork)
    return result.plain()


class _Rewriting:
    """One graph while it is rewritten."""

    def __init__(self, delayed: Delayed, run: str, handle: StoreHandle, source: ForkSource) -> None:
        self.graph: dict[Any, Any] = dict(delayed.__dask_graph__())
        self.run = run
        self.handle = handle
        self.begin = f"zv-fork-{run}-begin"
        self.graph[self.begin] = Task(self.begin, ForkSource.begin, source)

    def store_in_forks(self, ends: Sequence[str], leave: Collection[str], earlier: Sequence[Any]) -> TaskRef:
        """Put the storing tasks that `ends` need into forks, but those to `leave`; return the fork with all that they store."""
        order = [key for key in self._in_order(ends) if key not in leave and self._writes(self.graph[key])]
        makers = self._makers(ends, {key for key in order if _makes_nodes(self.graph[key])})
        merged: list[Any] = [TaskRef(self.begin), *earlier]
        for key in order:
            before = makers[key] - {above for maker in makers[key] for above in makers[maker]}
            given = [TaskRef(f"{maker}-changes") for maker in order if maker in before] or [TaskRef(self.begin)]
            self._put_in_fork(key, self.graph[key], given)
            merged.append(TaskRef(f"{key}-changes"))
        found: TaskRef = reduce_tree(merged, self._merge)[0]
        return found

    def commit_in(self, end: str, fork: TaskRef) -> None:
        """Let the last task run in a fork that has everything, and return it with its report."""
        last = self.graph[end]
        self.graph[end] = Task(end, _run_last, self.handle, fork, last.func, *last.args, **last.kwargs)

    def _put_in_fork(self, key: str, task: Task, given: Sequence[TaskRef]) -> None:
        nodes = _makes_nodes(task)
        self.graph[f"{key}-fork"] = Task(
            f"{key}-fork", _run_in_fork, self.handle, List(*given), nodes, task.func, *task.args, **task.kwargs
        )
        self.graph[key] = Task(key, attrgetter("value"), TaskRef(f"{key}-fork"))
        # apart from the value, which may be large and which the merge has no use for
        self.graph[f"{key}-changes"] = Task(f"{key}-changes", attrgetter("fork"), TaskRef(f"{key}-fork"))

    def _merge(self, depth: int, number: int, forks: Sequence[Any]) -> TaskRef:
        key = f"zv-fork-{self.run}-merge-{depth}-{number}"
        self.graph[key] = Task(key, merge_forks, List(*forks))
        return TaskRef(key)

    def _in_order(self, ends: Sequence[str]) -> Iterator[str]:
        """Yield the library's own tasks that some of them need, each after those that it needs."""
        done: set[Any] = set()
        stack: list[tuple[Any, bool]] = [(end, False) for end in reversed(ends)]
        while stack:
            key, ready = stack.pop()
            if ready:
                yield key
                continue
            if key in done:
                continue
            done.add(key)
            stack.append((key, True))
            stack.extend((k, False) for k in self._needs(key) if k not in done)

    def _needs(self, key: Any) -> list[Any]:
        node = self.graph[key]
        needed = node.dependencies if isinstance(node, GraphNode) else get_dependencies(self.graph, key)
        # what a user's task needs is the user's
        return sorted(k for k in needed if k in self.graph and isinstance(k, str) and self.run in k)

    def _makers(self, ends: Sequence[str], makers: set[str]) -> dict[str, frozenset[str]]:
        """Return for every task those before it that make nodes."""
        found: dict[str, frozenset[str]] = {}
        for key in self._in_order(ends):
            needs = self._needs(key)
            found[key] = frozenset(k for k in needs if k in makers).union(*(found[k] for k in needs))
        return found

    def _writes(self, task: Any) -> bool:
        arguments = (*task.args, *task.kwargs.values()) if isinstance(task, Task) else ()
        return any(_store_of(argument) == self.handle.identity for argument in arguments)


def _store_of(argument: Any) -> str | None:
    """Return which store an argument of a task names: a place, or what says how a block is stored there."""
    place = getattr(argument, "place", argument)
    handle = getattr(place, "handle", None)
    return handle.identity if isinstance(handle, StoreHandle) else None


def _makes_nodes(task: Task) -> bool:
    return bool(getattr(task.func, _NODES, False))


def _run_in_fork(
    handle: StoreHandle, given: Sequence[Fork], nodes: bool, function: Callable[..., Any], *args: Any, **kwargs: Any
) -> _InFork:
    fork = merge_forks(given)
    objects = ForkObjects(fork, guarded=not nodes)
    with opened_as(handle, objects):
        value = function(*args, **kwargs)
    return _InFork(value, fork.written(objects))


def _run_last(handle: StoreHandle, fork: Fork, function: Callable[..., Report], *args: Any, **kwargs: Any) -> UncommittedReport:
    objects = ForkObjects(fork, guarded=False, last=True)
    with opened_as(handle, objects):
        report = function(*args, **kwargs)
    return UncommittedReport(**_fields(report), fork=fork.written(objects))
