"""The graph of a write, and the bodies of its tasks: one task per block, which stores it, and one commit.

A block's payload that is itself a ``Delayed`` is evaluated inside the storing task, so its bytes never leave the worker that
made them.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from dask.delayed import Delayed
from dask.task_spec import List, Task, TaskRef

from dask_zv.geometry.block import EncodedBlock
from dask_zv.graph.builder import GraphBuilder
from dask_zv.graph.progress import tell, topic_of
from dask_zv.graph.report import BlockTime, Report
from dask_zv.storage.grid.commit import make_nodes
from dask_zv.storage.handles import open_objects
from dask_zv.storage.layout import layout_for, must_prepare
from dask_zv.storage.layout import prepare as prepare_nodes
from dask_zv.storage.local import sweep
from dask_zv.storage.objects import counted_retries
from dask_zv.storage.receipts import Receipt, combine_receipts
from dask_zv.storage.specs import BlockResult, BlockSpec, CommitSpec, normalise

_LOG = logging.getLogger("dask_zv.blocks")


def build_write_graph(
    builder: GraphBuilder,
    blocks: Sequence[tuple[BlockSpec, Any]],
    spec: CommitSpec,
    then: Callable[[GraphBuilder, list[TaskRef]], tuple[list[TaskRef], list[TaskRef]]] | None = None,
) -> Delayed:
    """Return the graph that stores `blocks` and commits; its result is the report.

    A payload is data, a list of (array, chunk key, data), a Delayed or Future of these, or an argument that `builder` made.
    `then` adds tasks between the blocks and the commit: called with the blocks' results, it returns what the commit waits for,
    and the results of further blocks.
    """
    before = add_preparation(builder, spec)
    results = [add_block(builder, i, block, payload, before) for i, (block, payload) in enumerate(blocks)]
    return add_commit(builder, spec, results, then)


def run_block_and_commit(blocks: Sequence[tuple[BlockSpec, Any]], spec: CommitSpec) -> Report:
    """Do here and now what the graph of few blocks of data would do."""
    if must_prepare(spec):
        prepare(spec)
    return commit(spec, [run_block("vertices", i, "", None, block, payload) for i, (block, payload) in enumerate(blocks)])


def add_preparation(builder: GraphBuilder, spec: CommitSpec) -> list[TaskRef]:
    """Add what must be done before any block is stored; return what blocks wait for."""
    return [builder.store(builder.key("prepare"), prepare, spec, nodes=True)] if must_prepare(spec) else []


def add_block(
    builder: GraphBuilder,
    number: int,
    spec: BlockSpec,
    payload: Any,
    before: Sequence[TaskRef] = (),
    note: Callable[[BlockResult], BlockResult] | None = None,
    kind: str = "vertices",
) -> TaskRef:
    """Add the task that stores a block; `note` sees its result there."""
    key = builder.key("store" if kind == "vertices" else f"store-{kind}", number)
    topic = topic_of(builder.run) if builder.watched else ""
    spec = dataclasses.replace(spec, topic=topic) if topic else spec
    return builder.store(key, run_block, kind, number, key, note, spec, builder.payload(payload, inline=True), *before)


def add_blocks_of_new_arrays(
    builder: GraphBuilder, kind: str, spec: BlockSpec, blocks: Sequence[tuple[int, Task]]
) -> list[TaskRef]:
    """Add the tasks that store blocks, by number what encodes each, into arrays that only the encoded blocks name.

    Where the store wants nodes before chunks, all are encoded, and the arrays made, before the first is stored.
    """
    if not spec.place.handle.is_session:
        return [add_block(builder, number, spec, encode, kind=kind) for number, encode in blocks]
    encoded = [builder.add(builder.key(f"encode-{kind}", n), encode.func, *encode.args) for n, encode in blocks]
    names = [builder.add(builder.key("segments", i), _names_of, ref) for i, ref in enumerate(encoded)]
    made = [builder.store(builder.key("arrays"), _make_arrays, spec, List(*names), nodes=True)]
    return [add_block(builder, n, spec, ref, made, kind=kind) for (n, _), ref in zip(blocks, encoded, strict=True)]


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
    return builder.commit(end, _commit_after, spec, List(*receipts), List(*waiting))


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


def store_block(spec: BlockSpec, payload: Any) -> BlockResult:
    """Store one block's blobs; running it twice stores the same objects with the same bytes."""
    started = time.time()
    blobs, rows = normalise(payload, spec)
    receipt = layout_for(spec.place.layout).store(open_objects(spec.place.handle), spec, blobs, rows)
    return BlockResult.of(payload, receipt, started)


def _names_of(encoded: EncodedBlock) -> list[str]:
    """Return the arrays that a block stores into."""
    return sorted(encoded.metadata)


def _make_arrays(spec: BlockSpec, names: Sequence[Sequence[str]]) -> None:
    """Make the nodes of arrays that only the data told of, in a store that wants them before their chunks."""
    assert spec.grid is not None
    arrays = {name for part in names for name in part}
    known = spec.grid.with_arrays(arrays).specs
    wanted = {name: known[name] for name in arrays & set(known)}
    make_nodes(open_objects(spec.place.handle), spec.place.prefix, wanted, keep=spec.grid.extends)


def prepare(spec: CommitSpec) -> None:
    """Make the nodes that must exist before their chunks, or mark what is to be replaced."""
    prepare_nodes(spec)


def commit(spec: CommitSpec, results: Sequence[BlockResult]) -> Report:
    """Write the metadata that makes the stored blocks the group's content, and return the report."""
    started = time.time()
    objects = open_objects(spec.place.handle)
    total = combine_receipts([r.receipt for r in results])
    layout = layout_for(spec.place.layout)
    waits = spec.extends is not None and spec.extends.staged
    make = layout.commit_staged if waits and layout.commit_staged is not None else layout.commit
    make(objects, spec, total, spec.collect_attributes(results))
    sweep(objects, spec.place.prefix)
    return _make_report(spec, total, results, started)


def _make_report(spec: CommitSpec, total: Receipt, results: Sequence[BlockResult], started: float) -> Report:
    """Return the report of a commit that began at `started`."""
    rows = int(total.rows.sum()) if len(total.rows) and (total.rows >= 0).all() and spec.extends is None else spec.count
    if spec.rows is not None and spec.extends is None:
        rows = sum(spec.stored_rows(results).values())
    counts = {name: int((c.nbytes >= 0).sum()) for name, c in total.arrays.items()}
    for array, _ in total.literals:
        counts[array] = counts.get(array, 0) + 1
    starts = [r.started for r in results] or [started]
    return Report(
        rows, len(total.coords), spec.objects, total.nbytes, total.stored_objects, len(results),
        max(time.time() - min(starts), 0.0), spec.dropped, dict(sorted(counts.items())),
        tuple(BlockTime(r.kind, r.number, r.started, r.ended, r.receipt.nbytes, r.worker, r.retries) for r in results),
        spec.kept,
    )  # fmt: skip
