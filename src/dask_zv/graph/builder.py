"""From blocks and a commit to one ``Delayed``: building only, nothing runs.

The graph is a plain dict of :class:`dask.task_spec.Task`: one task per block, one commit. A block's payload that is itself a
``Delayed`` is evaluated inside the storing task, so its bytes never leave the worker that made them.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import socket
import sys
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from dask.core import get_dependencies
from dask.delayed import Delayed
from dask.task_spec import GraphNode, List, Task, TaskRef

from dask_zv.graph.progress import tell, topic_of
from dask_zv.graph.receipts import Report
from dask_zv.graph.run import as_delayed
from dask_zv.graph.tasks import commit, prepare, store_block
from dask_zv.storage.faults import counted_retries
from dask_zv.storage.layout import must_prepare
from dask_zv.storage.specs import BlockResult, BlockSpec, CommitSpec

_LOG = logging.getLogger("dask_zv.blocks")


def is_future(value: object) -> bool:
    """Tell whether `value` is a future of a distributed client."""
    return type(value).__module__.split(".")[0] == "distributed" and hasattr(value, "key")


class GraphBuilder:
    """A task dict under construction, with keys that are unique to the run.

    Unique, because a scheduler that still holds a future of the same key would not run the task again, and would
    answer a second write without writing.

    Parameters
    ----------
    name : str
        What keys begin with.
    watched : bool
        Somebody shows the blocks' progress.

    Attributes
    ----------
    lazy : bool
        Foreign tasks were taken in: not all that is needed is there already.
    """

    def __init__(self, name: str = "zv", *, watched: bool = False) -> None:
        self.tasks: dict[Any, Any] = {}
        self.run = uuid.uuid4().hex[:12]
        self.name = name
        self.watched = watched
        self.lazy = False
        self._absorbed: dict[int, tuple[Any, dict[Any, Any]]] = {}

    def sub(self, name: str) -> GraphBuilder:
        """Return a builder of the same graph whose keys have another name: for a second batch in it."""
        other = GraphBuilder(f"{self.name}-{name}", watched=self.watched)
        other.tasks, other.run, other._absorbed = self.tasks, self.run, self._absorbed
        return other

    def key(self, kind: str, number: int | str = "") -> str:
        """Return a key such as ``zv-store-1f2e…-7``: the part before the token is what dashboards show."""
        tail = f"-{number}" if number != "" else ""
        return f"{self.name}-{kind}-{self.run}{tail}"

    def add(self, key: str, function: Any, *args: Any) -> TaskRef:
        """Add a task and return a reference to its result."""
        self.tasks[key] = Task(key, function, *args)
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
        return as_delayed(key, self.tasks, self.run)


def _as_tuple(*values: Any) -> tuple[Any, ...]:
    return values


def build_write_graph(
    blocks: Sequence[tuple[BlockSpec, Any]],
    spec: CommitSpec,
    *,
    builder: GraphBuilder | None = None,
    then: Callable[[GraphBuilder, list[TaskRef]], tuple[list[TaskRef], list[TaskRef]]] | None = None,
) -> Delayed:
    """Return the graph that stores `blocks` and commits; its result is the report.

    Parameters
    ----------
    blocks : sequence of (BlockSpec, payload)
        A payload is data, a list of (array, chunk key, data), a Delayed or Future of these, or an argument that
        `builder` made.
    spec : CommitSpec
    builder : GraphBuilder, optional
        Holds tasks that payloads refer to.
    then : function, optional
        Adds tasks between the blocks and the commit: called with the blocks' results, returns what the commit waits for, and
        the results of further blocks.
    """
    builder = builder or GraphBuilder()
    before = add_preparation(builder, spec)
    results = [add_block(builder, i, block, payload, before) for i, (block, payload) in enumerate(blocks)]
    return add_commit(builder, spec, results, then)


def add_preparation(builder: GraphBuilder, spec: CommitSpec) -> list[TaskRef]:
    """Add what must be done before any block is stored; return what blocks wait for."""
    return [builder.add(builder.key("prepare"), prepare, spec)] if must_prepare(spec) else []


def add_block(
    builder: GraphBuilder,
    number: int,
    spec: BlockSpec,
    payload: Any,
    before: Sequence[TaskRef] = (),
    note: Callable[[BlockResult], BlockResult] | None = None,
) -> TaskRef:
    """Add the task that stores a block; `note` sees its result there."""
    key = builder.key("store", number)
    topic = topic_of(builder.run) if builder.watched else ""
    spec = dataclasses.replace(spec, topic=topic) if topic else spec
    return builder.add(key, run_block, "vertices", number, key, note, spec, builder.payload(payload, inline=True), *before)


def add_commit(
    builder: GraphBuilder,
    spec: CommitSpec,
    results: Sequence[TaskRef],
    then: Callable[[GraphBuilder, list[TaskRef]], tuple[list[TaskRef], list[TaskRef]]] | None = None,
) -> Delayed:
    """Add the commit; see :func:`build_write_graph`."""
    waiting: list[TaskRef] = []
    receipts = results = list(results)
    if then is not None:
        waiting, more = then(builder, results)
        results += more
        # the commit wants receipts alone: what else a block returns may be large
        receipts = [builder.add(builder.key("receipt", i), _without_extra, r) for i, r in enumerate(results)]
    end = builder.key("commit")
    builder.add(end, _commit_after, spec, List(*receipts), List(*waiting))
    return builder.finish(end)


def _without_extra(result: BlockResult) -> BlockResult:
    return dataclasses.replace(result, extra=None)


def _commit_after(spec: CommitSpec, results: Sequence[BlockResult], _: Sequence[Any]) -> Report:
    return commit(spec, results)


def run_block(
    kind: str,
    number: int,
    key: str,
    note: Callable[[BlockResult], BlockResult] | None,
    spec: BlockSpec,
    payload: Any,
    *_: Any,
) -> BlockResult:
    """Store a block, and say so: the body of every storing task."""
    where = worker_name()
    with counted_retries() as retries:
        result = store_block(spec, payload)
        result = dataclasses.replace(result, kind=kind, number=number, worker=where, retries=retries.count)
        if note is not None:
            result = note(result)
    _LOG.info(
        "stored block %s of %s: %s chunks, %.1f MB in %.2f s",
        number, kind, len(result.receipt.coords), result.receipt.nbytes / 1e6, result.ended - result.started,
    )  # fmt: skip
    if spec.topic:
        tell(spec.topic, key, result.receipt.nbytes)
    return result


def worker_name() -> str:
    """Return the address of the distributed worker that this runs on, elsewhere host and process."""
    if "distributed" in sys.modules:
        from distributed import get_worker

        try:
            return str(get_worker().address)
        except ValueError:
            pass  # no worker: a local scheduler in a process that knows of distributed
    return f"{socket.gethostname()}:{os.getpid()}"
