"""From blocks and a commit to one ``Delayed``: building only, nothing runs.

The graph is a plain dict of :class:`dask.task_spec.Task`: one task per block, one commit. A block's payload that is itself a
``Delayed`` is evaluated inside the storing task, so its bytes never leave the worker that made them.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from dask.delayed import Delayed
from dask.task_spec import List, Task, TaskRef

from dask_zv.batch.tasks import BlockSpec, CommitSpec, commit, prepare, store_block

__all__ = ["GraphBuilder", "build_write_graph", "is_future"]


def is_future(value: object) -> bool:
    """Tell whether `value` is a future of a distributed client."""
    return type(value).__module__.split(".")[0] == "distributed" and hasattr(value, "key")


class GraphBuilder:
    """A task dict under construction, with keys that are unique to the run.

    Unique, because a scheduler that still holds a future of the same key would not run the task again, and would
    answer a second write without writing.
    """

    def __init__(self, name: str = "zv") -> None:
        self.tasks: dict[Any, Any] = {}
        self.run = uuid.uuid4().hex[:12]
        self.name = name

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
        graph = dict(delayed.__dask_graph__())
        node = graph.get(delayed.key)
        self.tasks.update(graph)
        if inline and isinstance(node, Task):
            return node
        return TaskRef(delayed.key)

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
        """Return the ``Delayed`` of the task at `key`, with the tasks that it needs and no others."""
        return Delayed(key, _cull(self.tasks, key))


def _as_tuple(*values: Any) -> tuple[Any, ...]:
    return values


def _cull(tasks: dict[Any, Any], key: Any) -> dict[Any, Any]:
    kept: dict[Any, Any] = {}
    stack = [key]
    while stack:
        at = stack.pop()
        if at in kept or at not in tasks:  # a future's key is not in our graph
            continue
        node = kept[at] = tasks[at]
        stack.extend(node.dependencies)
    return kept


def build_write_graph(
    blocks: Sequence[tuple[BlockSpec, Any]], spec: CommitSpec, *, builder: GraphBuilder | None = None, nodes_first: bool = False
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
    nodes_first : bool
        The store wants nodes before chunks: a task that makes them goes before all blocks.
    """
    builder = builder or GraphBuilder()
    before = (builder.add(builder.key("prepare"), prepare, spec),) if nodes_first else ()
    receipts = [
        builder.add(builder.key("store", i), _store_after, block, builder.payload(payload, inline=True), *before)
        for i, (block, payload) in enumerate(blocks)
    ]
    end = builder.key("commit")
    builder.add(end, commit, spec, List(*receipts))
    return builder.finish(end)


def _store_after(spec: BlockSpec, payload: Any, *_: None) -> Any:
    return store_block(spec, payload)
