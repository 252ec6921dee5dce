"""What a write of 10^9 to 10^13 points asks of graph, scheduler, storage and metadata: planned by the real code, with no data.

The product's own planner gets what a scan would have found (chunks, their counts, where each partition lies) and cuts blocks,
shards and waves; the largest wave's graph is built and pickled; catalog and array documents are encoded at full size. What the
scheduler needs for a task is measured: the largest graph runs on a cluster with a task that does nothing in the place of each::

    python benchmarks/simulate_scale.py                # about a quarter of an hour, 10 GB
    python benchmarks/simulate_scale.py --points 1e9   # a minute

Two kinds of input: ``tiles``, partitions that are boxes in space (a survey's tiles, a segmentation's blocks), and ``anywhere``,
partitions that have points of every chunk.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import numpy as np
from dask.delayed import Delayed
from dask.task_spec import Task, TaskRef
from distributed import Client, LocalCluster
from numpy.typing import NDArray

from compare_per_chunk import markdown
from dask_zv.format.documents import dump_json
from dask_zv.format.grids import GridSpec, codec_list, grid_document
from dask_zv.format.keys import coords_to_keys
from dask_zv.graph.builder import GraphBuilder
from dask_zv.spatial.grid import ChunkGrid
from dask_zv.storage.catalog import Catalog, encode_catalog
from dask_zv.storage.grid.plan import packing
from dask_zv.storage.receipts import Columns
from dask_zv.write.blocks import BlockPlan, _fitting, plan_blocks
from dask_zv.write.convert import Conversion
from dask_zv.write.exchange import split_partitions
from dask_zv.write.job import Job
from dask_zv.write.running import waves_of
from dask_zv.write.scan import PartFacts, Scan, compact_spans, span_codes
from workload import memory_from_now, peak_memory

ROW_BYTES = 20
"""Positions in float32, an attribute of 4 bytes, another."""
ARRAYS = ("vertices", "attributes/intensity", "attributes/label", "fragments")
TASK_MEMORY = 4_000_000_000
MOST_TASKS = 50_000
MOST_PIECES = 5_000_000
"""Of what is known to be hopeless no graph is built."""
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Plan:
    """What is to be written: points, chunks along an axis, partitions along an axis."""

    points: float
    chunks: int
    parts: int


PLANS = (Plan(1e9, 22, 10), Plan(1e11, 100, 27), Plan(1e13, 216, 100))
"""About 10^5, 10^5 and 10^6 points to a chunk; 10^6, 5 x 10^6 and 10^7 to a partition."""


class NoPartitions:
    """As many partitions as a graph needs, and nothing in them."""

    def __init__(self, count: int) -> None:
        self._count = count

    def arguments(self, builder: GraphBuilder) -> Iterator[Any]:
        yield from [None] * self._count


def nothing(*_: Any) -> int:
    return 0


def scan_of(plan: Plan, kind: str) -> Scan:
    """Return what a scan finds in such an input: chunks with counts that vary by a quarter."""
    axis = np.arange(plan.chunks)
    coords = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    counts = np.random.default_rng(0).normal(plan.points / len(coords), plan.points / len(coords) / 4, len(coords))
    counts = np.maximum(counts, 1).astype(np.int64)
    parts = plan.parts**3
    spans: dict[int, NDArray[Any]] = {}
    if kind == "anywhere":
        all_of_it = compact_spans(span_codes(coords))
        spans = dict.fromkeys(range(parts), all_of_it)
    else:
        edges = np.linspace(0, plan.chunks, plan.parts + 1)
        low, high = np.floor(edges[:-1]).astype(int), np.minimum(np.ceil(edges[1:]).astype(int), plan.chunks)
        boxes = [np.arange(a, b) for a, b in zip(low, high, strict=True)]
        number = 0
        for x in boxes:
            for y in boxes:
                for z in boxes:
                    held = np.stack(np.meshgrid(x, y, z, indexing="ij"), axis=-1).reshape(-1, 3)
                    spans[number] = compact_spans(span_codes(held))
                    number += 1
    share = int(plan.points) // parts
    facts = {p: PartFacts(share) for p in range(parts)}
    corner = np.zeros(3), np.full(3, plan.chunks, float)
    return Scan(int(counts.sum()), 0, *corner, coords, counts, np.zeros((0, 2), np.int64), {}, spans, facts)


@dataclass(frozen=True)
class Planned:
    """As much of a :class:`~dask_zv.write.job.Job` as the planner of waves looks at."""

    plan: BlockPlan
    scan: Scan

    sources = Job.sources
    block_map = Job.block_map


def wave_graph(job: Any, wave: list[int]) -> GraphBuilder:
    """Build the graph of one wave."""
    builder = GraphBuilder("zv")
    conversion = Conversion(ChunkGrid((1.0, 1.0, 1.0), (1, 1, 1)), np.dtype(np.float32), 0.0, None, False, ("x", "y", "z"))
    parts: Any = NoPartitions(len(job.scan.spans))
    gathered = split_partitions(builder, parts, conversion, (), job.plan, job.block_map, None, wanted=wave)
    for number, rows in gathered.items():
        builder.add(builder.key("store", number), nothing, number, rows)
    return builder


def catalog_of(scan: Scan, spec: GridSpec) -> Catalog:
    """Return a catalog of all chunks in all arrays, with the columns that a commit gives it."""
    rng = np.random.default_rng(1)
    n = len(scan.coords)
    shards = np.zeros(n, np.int64)
    if spec.shard_shape is not None:
        shape = tuple(-(-s // k) for s, k in zip(spec.shape, spec.shard_shape, strict=True))
        shards = np.ravel_multi_index(tuple(spec.shards_of(scan.coords)[0].T), shape).astype(np.int64)
    arrays = {}
    for name, row_bytes in zip(ARRAYS, (12, 4, 4, 0), strict=True):
        nbytes = scan.counts * row_bytes + 24
        stored = (nbytes * rng.uniform(0.5, 0.9, n)).astype(np.int64)
        columns = {
            "nbytes": nbytes, "shard": shards, "offset": np.cumsum(stored) % (1 << 26), "stored": stored,
            "crc": rng.integers(0, 1 << 32, n), "stamp": rng.integers(0, 1 << 32, n) * 0 + shards * 7919 % (1 << 32),
        }  # fmt: skip
        arrays[name] = Columns(columns)
    return Catalog(scan.coords, scan.counts, arrays)


def run_empty(builder: GraphBuilder) -> tuple[float, float, int]:
    """Run a graph with tasks that do nothing; return tasks a second, the scheduler's memory in MB for it, and the tasks."""
    stubs: dict[Any, Any] = {
        key: Task(key, nothing, *map(TaskRef, sorted(task.dependencies))) for key, task in builder.tasks.items()
    }
    stubs["end"] = Task("end", nothing, *(TaskRef(k) for k in list(stubs) if "-store-" in k))
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        before = memory_from_now()  # a LocalCluster's scheduler lives in this process
        started = time.perf_counter()
        client.compute(Delayed("end", stubs)).result()
        seconds = time.perf_counter() - started
        return len(stubs) / seconds, peak_memory() - before, len(stubs)


def simulate(plan: Plan, kind: str, *, run: bool, documents: bool) -> dict[str, Any]:
    """Plan one write; return its numbers."""
    memory_from_now()
    scan = scan_of(plan, kind)
    parts = len(scan.spans)
    extents = [plan.chunks] * 3
    shards = _fitting(packing("auto", len(scan.coords), extents, local=False), scan, np.zeros(3, np.int64), ROW_BYTES)
    spec = GridSpec(tuple(extents), (0, 0, 0), shards, codec_list("zstd"))
    started = time.perf_counter()
    blocks = plan_blocks(scan, ROW_BYTES, None, parts, spec, TASK_MEMORY)
    job: Any = Planned(blocks, scan)
    if kind == "anywhere" and (groups := len(blocks.groups(scan))) * len(blocks) > MOST_PIECES:
        fits = MOST_TASKS // (1 + groups)
        return {
            "points": plan.points, "kind": kind, "chunks": len(scan.coords), "partitions": parts, "blocks": len(blocks),
            "groups": groups, "pieces": groups * len(blocks), "waves": -(-len(blocks) // max(fits, 1)),
        }  # fmt: skip
    sources = job.sources()
    waves = waves_of(job, range(len(blocks)))
    planned = time.perf_counter() - started
    pieces = sum(map(len, sources))
    largest = max(waves, key=lambda wave: sum(len(sources[b]) for b in wave))
    size = [len(group) for group in blocks.groups(scan)]
    split = [{g for b in wave for g in sources[b]} for wave in waves]
    reads = sum(size[g] for groups in split for g in groups)
    out: dict[str, Any] = {
        "points": plan.points, "kind": kind, "chunks": len(scan.coords), "partitions": parts, "blocks": len(blocks),
        "groups": len(size), "pieces": pieces, "waves": len(waves), "seconds to plan": planned,
        "shard": list(shards or (1, 1, 1)), "objects": len(ARRAYS) * shards_in(plan, shards),
    }  # fmt: skip
    out["times a partition is read"] = 1 + reads / parts
    out["tasks"] = len(blocks) + pieces + reads + sum(map(len, split))
    if not run:
        out["client MB to plan"] = peak_memory()
    else:
        started = time.perf_counter()
        builder = wave_graph(job, largest)
        out["seconds to build a wave"] = time.perf_counter() - started
        out["tasks of a wave"] = len(builder.tasks)
        out["MB of a wave"] = len(cloudpickle.dumps(builder.tasks)) / 1e6
        out["client MB to plan"] = peak_memory()
        rate, held, count = run_empty(builder)
        out |= {"tasks a second": rate, "scheduler MB": held, "tasks that ran": count}
    if documents:
        memory_from_now()
        started = time.perf_counter()
        out["catalog MB"] = len(encode_catalog(catalog_of(scan, spec))) / 1e6
        out["seconds of the catalog"] = time.perf_counter() - started
        started = time.perf_counter()
        document = dump_json(grid_document(spec, {}, coords_to_keys(scan.coords)))
        out["MB of an array's document"] = len(document) / 1e6
        out["seconds of a document"] = time.perf_counter() - started
        started = time.perf_counter()
        json.loads(document)
        out["seconds to parse a document"] = time.perf_counter() - started
        out["MB to make them"] = peak_memory()
    return out


def shards_in(plan: Plan, shards: tuple[int, ...] | None) -> int:
    return math.prod(-(-plan.chunks // s) for s in (shards or (1, 1, 1)))


def main() -> None:
    """Simulate what the command line says; print a table and write it to the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", nargs="+", type=float, default=[p.points for p in PLANS])
    parser.add_argument("--kinds", nargs="+", choices=("tiles", "anywhere"), default=("tiles", "anywhere"))
    parser.add_argument("--no-run", action="store_true", help="don't run a graph of empty tasks")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    found = []
    for plan in PLANS:
        if plan.points not in options.points:
            continue
        for kind in options.kinds:
            found.append(simulate(plan, kind, run=not options.no_run, documents=kind == "tiles"))
            print(json.dumps(found[-1]), flush=True)
    now = datetime.datetime.now(datetime.UTC)
    names = list(dict.fromkeys(n for f in found for n in f))
    lines = [["", *(f"{f['points']:.0e} {f['kind']}" for f in found)]]
    lines += [[name, *(_shown(f.get(name)) for f in found)] for name in names[2:]]
    about = (
        f"{now:%Y-%m-%d}, `benchmarks/simulate_scale.py`: planned by the product's code without data, {ROW_BYTES} bytes "
        f"a point, {len(ARRAYS)} arrays, {TASK_MEMORY / 1e9:.0f} GB a task, waves of at most {MOST_TASKS:,} tasks; "
        f"{os.cpu_count()} cores, dask {dask.__version__}, Python {platform.python_version()}\n"
    )
    print(about)
    print(markdown(lines))
    options.results.mkdir(parents=True, exist_ok=True)
    out = options.results / f"simulated-scale-{now:%Y%m%dT%H%M%S}"
    out.with_suffix(".json").write_text(json.dumps(found, indent=1))
    out.with_suffix(".md").write_text(f"{about}\n{markdown(lines)}\n")


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return " x ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


if __name__ == "__main__":
    main()
