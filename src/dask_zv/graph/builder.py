"""Graphs under construction: plain dicts of :class:`dask.task_spec.Task`, with what foreign Delayeds and arrays bring along."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, TypeVar

from dask.base import get_annotations
from dask.core import flatten, get_dependencies
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.task_spec import DataNode, GraphNode, List, Task, TaskRef

from dask_zv.errors import InputError
from dask_zv.graph.report import commit_in_fork
from dask_zv.storage.handles import StoreHandle
from dask_zv.storage.icechunk.fork import ForkSource, merge_forks, run_in_fork
from dask_zv.storage.icechunk.session import fork_session

T = TypeVar("T")


def is_future(value: object) -> bool:
    """Return True for a future of a distributed client."""
    return type(value).__module__.split(".")[0] == "distributed" and hasattr(value, "key")


def is_lazy(value: object) -> bool:
    """Return True for a Delayed or a future."""
    return isinstance(value, Delayed) or is_future(value)


def block_delayeds(array: Any) -> list[Delayed]:
    """Return a ``Delayed`` for each block of a Dask array, in C order, under both of Dask's ways to hold one."""
    if hasattr(array, "to_delayed"):
        # not optimised: fusing each column by itself would compute what columns share once for every column
        return list(array.to_delayed(optimize_graph=False).ravel())
    graph = array.__dask_graph__()  # an expression (array.query-planning) has no to_delayed
    return [Delayed(key, graph) for key in flatten(array.__dask_keys__())]


def refuse_expressions(what: str) -> None:
    """Raise :class:`InputError` where Dask's arrays are expressions, of which there is no way to make `what`."""
    import dask.array as da

    if not hasattr(da.Array, "to_delayed"):
        raise InputError(
            f"{what}: Dask's array expressions can't be made of Delayeds yet. Set array.query-planning to False before "
            "dask.array is first imported, by dask.config.set({'array.query-planning': False}) or "
            "DASK_ARRAY__QUERY_PLANNING=False"
        )


def reduce_tree(parts: Sequence[T], merge: Callable[[int, int, list[T]], T], *, fan_in: int = 16, until: int = 1) -> list[T]:
    """Merge the results of tasks, `fan_in` at a time, until at most `until` are left.

    `merge` adds the task for the group `number` of a `depth` and returns what stands for its result. One alone is passed on as
    it is: the scheduler of processes would make one task of the two.
    """
    left, depth = list(parts), 0
    while len(left) > until:
        groups = [left[i : i + fan_in] for i in range(0, len(left), fan_in)]
        left = [group[0] if len(group) == 1 else merge(depth, i, group) for i, group in enumerate(groups)]
        depth += 1
    return left


def as_delayed(key: str, tasks: Mapping[Any, Any], run: str, annotations: Mapping[str, Any] | None = None) -> Delayed:
    """Return the ``Delayed`` of a task. `annotations` (those of now where None) hold for tasks whose keys name the `run`."""
    annotations = get_annotations() if annotations is None else annotations
    if not annotations:
        return Delayed(key, tasks)
    own = {k: task for k, task in tasks.items() if isinstance(k, str) and run in k}
    others = {k: task for k, task in tasks.items() if k not in own}
    name, given = f"zv-{run}", f"zv-{run}-given"
    layers = {name: MaterializedLayer(own, annotations=dict(annotations)), given: MaterializedLayer(others)}
    layers[given].annotations = None  # else those of now
    return Delayed(key, HighLevelGraph(layers, {name: {given}, given: set()}), layer=name)


@dataclass
class _Forks:
    """The forks of a session that the tasks of a graph store in."""

    handle: StoreHandle
    nodes: Any  # the fork, or what stands for it, that has the nodes which tasks write below
    written: list[Any] = field(default_factory=list)  # those that are to be merged, in the order of their tasks


class GraphBuilder:
    """A task dict under construction, with keys that are unique to the run.

    Unique, because a scheduler that still holds a future of the same key would not run the task again, and would
    answer a second write without writing. Keys begin with `name`; `watched` where somebody shows the blocks' progress.

    `store` is what the tasks of :meth:`store` write to. Where that is an Icechunk session, each writes into a fork and returns
    it beside its result; the last task runs in all forks merged. A task is given the fork with the nodes that were made before
    it was added, for arrays must exist before their chunks, and one array made in two forks would be two; of what other tasks
    stored it is given nothing: forks stay small. `forks` are those of earlier graphs of the same write, see :meth:`written`.
    """

    def __init__(
        self, name: str = "zv", *, watched: bool = False, store: StoreHandle | None = None, forks: Sequence[Any] = ()
    ) -> None:
        self.tasks: dict[Any, Any] = {}
        self.run = uuid.uuid4().hex[:12]
        self.name = name
        self.watched = watched
        self.lazy = False
        """Foreign tasks were taken in: not all that is needed is there already."""
        self.annotations: Mapping[str, Any] = get_annotations()
        self._absorbed: dict[int, tuple[Any, dict[Any, Any]]] = {}
        self._forks: _Forks | None = None
        if store is not None and forks:
            first = self.add(self.key("fork"), _itself, forks[0])
            self._forks = _Forks(store, first, [first, *forks[1:]])
        elif store is not None and (source := fork_session(store)) is not None:
            first = self.add(self.key("fork"), ForkSource.begin, source)
            self._forks = _Forks(store, first, [first])

    def sub(self, name: str) -> GraphBuilder:
        """Return a builder of the same graph whose keys have another name: for a second batch in it."""
        other = GraphBuilder(f"{self.name}-{name}", watched=self.watched)
        other.tasks, other.run, other._absorbed, other._forks = self.tasks, self.run, self._absorbed, self._forks
        other.annotations = self.annotations
        return other

    def key(self, kind: str, number: int | str = "") -> str:
        """Return a key such as ``zv-store-1f2e…-7``: the part before the token is what dashboards show."""
        tail = f"-{number}" if number != "" else ""
        return f"{self.name}-{kind}-{self.run}{tail}"

    def add(self, key: str, function: Any, *args: Any) -> TaskRef:
        """Add a task and return a reference to its result."""
        self.tasks[key] = Task(key, function, *args)
        return TaskRef(key)

    def store(self, key: str, function: Any, *args: Any, nodes: bool = False) -> TaskRef:
        """Add a task that stores and return a reference to its result; with `nodes`, later tasks write below what it makes."""
        if (forks := self._forks) is None:
            return self.add(key, function, *args)
        both = self.add(f"{key}-fork", run_in_fork, forks.handle, forks.nodes, nodes, function, *args)
        # apart from the result, which may be large and which the merge has no use for
        forks.written.append(self.add(f"{key}-changes", attrgetter("fork"), both))
        if nodes:
            forks.nodes = forks.written[-1]
        return self.add(key, attrgetter("value"), both)

    def commit(self, key: str, function: Any, *args: Any) -> Delayed:
        """Add the last task of a write, which makes a report of all that was stored; return its ``Delayed``."""
        if self._forks is None:
            self.add(key, function, *args)
        else:
            self.add(key, commit_in_fork, self._forks.handle, self._merge(self._forks), function, *args)
        return self.finish(key)

    def written(self) -> list[TaskRef]:
        """Return what the write's next graph needs as `forks`: nothing, except of a session."""
        return [] if self._forks is None else [self._forks.nodes, self._merge(self._forks)]

    def _merge(self, forks: _Forks) -> TaskRef:
        def merge(depth: int, number: int, some: list[Any]) -> TaskRef:
            return self.add(self.key("merge-forks", f"{depth}-{number}"), merge_forks, List(*some))

        merged: TaskRef = reduce_tree(forks.written, merge)[0]
        return merged

    def share(self, kind: str, value: Any) -> TaskRef:
        """Add a value that tasks share and return a reference to it: it is once in the graph, whatever their number."""
        key = self.key(kind)
        self.tasks[key] = DataNode(key, value)
        return TaskRef(key)

    def absorb(self, delayed: Delayed, *, inline: bool = False) -> Any:
        """Take in the graph of a ``Delayed``; return what stands for its result in a task of ours.

        With `inline` its last task becomes part of ours, where it is one.
        """
        graph = delayed.__dask_graph__()
        if id(graph) not in self._absorbed:  # the partitions of one collection share their graph
            self._absorbed[id(graph)] = graph, dict(graph)
        tasks = self._absorbed[id(graph)][1]
        node = tasks.get(delayed.key)
        if inline and isinstance(node, Task):
            self.lazy = True
            for key in node.dependencies:
                self._take(tasks, key)
            return node
        self._take(tasks, delayed.key)
        return TaskRef(delayed.key)

    def _take(self, tasks: dict[Any, Any], key: Any) -> None:
        """Add a foreign task and what it needs."""
        stack = [key]
        while stack:
            at = stack.pop()
            if at in self.tasks or at not in tasks:  # a future's key is in no graph
                continue
            node = self.tasks[at] = tasks[at]
            self.lazy = self.lazy or isinstance(node, Task | tuple)
            stack.extend(node.dependencies if isinstance(node, GraphNode) else get_dependencies(tasks, at))

    def payload(self, value: Any, *, inline: bool = False) -> Any:
        """Return `value` as an argument: Delayeds and futures become dependencies, also inside lists and tuples."""
        if isinstance(value, Delayed):
            return self.absorb(value, inline=inline)
        if is_future(value):
            return value
        if type(value) is list:
            return List(*(self.payload(v) for v in value))
        if isinstance(value, tuple) and any(isinstance(v, Delayed) or is_future(v) for v in value):
            return Task(None, _as_tuple, *(self.payload(v) for v in value))
        return value

    def finish(self, key: str) -> Delayed:
        """Return the ``Delayed`` of the task at `key`."""
        return as_delayed(key, self.tasks, self.run, self.annotations)


def _as_tuple(*values: Any) -> tuple[Any, ...]:
    return values


def _itself(value: Any) -> Any:
    return value
