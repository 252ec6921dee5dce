"""The bodies of the tasks: store a block, commit. Plain functions of plain values; no Dask here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from dask_zv.graph.forks import makes_nodes
from dask_zv.graph.receipts import BlockTime, Report
from dask_zv.storage.grid.commit import make_nodes
from dask_zv.storage.handles import open_objects
from dask_zv.storage.layout import layout_for
from dask_zv.storage.layout import prepare as prepare_nodes
from dask_zv.storage.local import sweep
from dask_zv.storage.receipts import Receipt, combine_receipts
from dask_zv.storage.specs import BlockResult, BlockSpec, CommitSpec, normalise


def store_block(spec: BlockSpec, payload: Any) -> BlockResult:
    """Store one block's blobs; running it twice stores the same objects with the same bytes."""
    started = time.time()
    blobs, rows = normalise(payload, spec)
    receipt = layout_for(spec.place.layout).store(open_objects(spec.place.handle), spec, blobs, rows)
    return BlockResult.of(payload, receipt, started)


@makes_nodes
def make_arrays(spec: BlockSpec, names: Sequence[Sequence[str]]) -> None:
    """Make the nodes of arrays that only the data told of, in a store that wants them before their chunks."""
    assert spec.grid is not None
    arrays = {name for part in names for name in part}
    known = spec.grid.with_arrays(arrays).specs
    make_nodes(open_objects(spec.place.handle), spec.place.prefix, {name: known[name] for name in arrays & set(known)})


@makes_nodes
def prepare(spec: CommitSpec) -> None:
    """Make the nodes that must exist before their chunks, or mark what is to be replaced."""
    prepare_nodes(spec)


def commit(spec: CommitSpec, results: Sequence[BlockResult]) -> Report:
    """Write the metadata that makes the stored blocks the group's content, and return the report."""
    started = time.time()
    objects = open_objects(spec.place.handle)
    total = combine_receipts([r.receipt for r in results])
    layout_for(spec.place.layout).commit(objects, spec, total, spec.told_by(results))
    sweep(objects, spec.place.prefix)
    return _make_report(spec, total, results, started)


def _make_report(spec: CommitSpec, total: Receipt, results: Sequence[BlockResult], started: float) -> Report:
    """Return the report of a commit that began at `started`."""
    known = spec.report or Report(-1, 0, 0, 0, 0, 0, 0.0)
    rows = int(total.rows.sum()) if len(total.rows) and (total.rows >= 0).all() else known.rows
    if spec.rows is not None:
        rows = sum(spec.stored_rows(results).values())
    counts = {name: int((c.nbytes >= 0).sum()) for name, c in total.arrays.items()}
    for array, _ in total.literals:
        counts[array] = counts.get(array, 0) + 1
    starts = [r.started for r in results] or [started]
    return Report(
        rows, len(total.coords), known.objects, total.nbytes, total.stored_objects, len(results),
        max(time.time() - min(starts), 0.0), known.dropped, dict(sorted(counts.items())),
        tuple(BlockTime(r.kind, r.number, r.started, r.ended, r.receipt.nbytes, r.worker, r.retries) for r in results),
    )  # fmt: skip
