"""Writing more than fits: cost per point from a million points to a hundred million, on two workers of 2 GB.

Points (or polylines) are made by tasks, partition by partition; a partition has points anywhere in space, or, with ``skewed``,
nine points of ten in a thousandth of it. The density is the same at every size, so chunks grow with the points. One call
writes: ``dzv.write_points`` or ``dzv.write_polylines``. Each measurement is a fresh process and a fresh cluster::

    python benchmarks/scale.py                                   # 1M to 100M points, 10k to 1M polylines, skewed: half an hour
    python benchmarks/scale.py --cases points --sizes 1000000
    python benchmarks/scale.py --exchange                        # the exchange beside Dask's shuffles, in turns

What is in the store is compared with what was made: the rows of all chunks, and every row of a box.

``--exchange`` compares ways to bring rows together by block: our split-and-gather graph, and ``p2p`` and ``tasks``, the
shuffles of Dask's DataFrame. All sides scan, encode, store and commit with the same code and in the same blocks. A shuffle
returns rows in any order, so its side carries a row number and sorts by it. Whether all stored the same bytes is checked.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import hashlib
import json
import os
import pickle
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import dask.array as da
import dask.dataframe as dd
import distributed
import numpy as np
import pandas as pd
from dask.task_spec import Task
from distributed import Client, LocalCluster, Worker

import dask_zv as dzv
from compare_per_chunk import markdown, spread
from dask_zv.geometry.rows import VertexRows
from dask_zv.write import job
from workload import memory_from_now, peak_memory, settled_memory

AXES = ["x", "y", "z"]
CHUNK = 100.0
POINTS_A_CHUNK = 5_000
VERTICES = 100
STEP = 4.0
PART_ROWS = 250_000
CASES = {"points": (10**6, 10**7, 10**8), "skewed": (10**7, 10**8), "polylines": (10**4, 10**5, 10**6)}
SIDES = ("ours", "p2p", "tasks")
RESULTS = Path(__file__).parent / "results"


def extent_of(vertices: int) -> float:
    """Return the edge of the cube in which so many vertices have the density of all sizes."""
    return CHUNK * max(1, round((vertices / POINTS_A_CHUNK) ** (1 / 3)))


def make_points(number: int, rows: int, extent: float, skewed: bool, numbered: bool = False) -> pd.DataFrame:
    """Return a partition of points anywhere, with three attributes: 32 bytes a point."""
    source = np.random.default_rng(number)
    where = source.uniform(0, extent, (rows, 3)).astype(np.float32)
    if skewed:
        dense = source.random(rows) < 0.9
        where[dense] = where[dense] * 0.1 + np.float32(0.45 * extent)
    frame = pd.DataFrame(where, columns=AXES)
    frame["intensity"] = source.random(rows, np.float32)
    frame["label"] = source.integers(0, 1000, rows, np.int64)
    frame["time"] = np.arange(rows, dtype=np.float64) + number * rows
    if numbered:
        frame["row"] = np.arange(rows) + number * rows
    return frame


def make_paths(number: int, count: int, extent: float) -> np.ndarray:
    """Return a partition of random walks that begin anywhere, shape (count * VERTICES, 3)."""
    source = np.random.default_rng(number)
    starts = source.uniform(0, extent, (count, 1, 3))
    walks = starts + np.cumsum(source.uniform(-STEP, STEP, (count, VERTICES, 3)), axis=1)
    return walks.reshape(-1, 3).astype(np.float32)


def parts_of(rows: int) -> int:
    return max(2, -(-rows // PART_ROWS))


def frame_of(rows: int, skewed: bool, *, numbered: bool = False) -> dd.DataFrame:
    """Return the points of all partitions."""
    parts, extent = parts_of(rows), extent_of(rows)
    meta = make_points(0, 0, extent, skewed, numbered)
    return dd.from_map(
        make_points, range(parts), rows=rows // parts, extent=extent, skewed=skewed, numbered=numbered, meta=meta
    )


def paths_of(objects: int) -> da.Array:
    """Return the vertices of all polylines."""
    parts = parts_of(objects * VERTICES)
    share, extent = objects // parts, extent_of(objects * VERTICES)

    def make(block_info: dict | None = None) -> np.ndarray:
        return make_paths(block_info[None]["chunk-location"][0], share, extent)

    chunks = ((share * VERTICES,) * parts, (3,))
    return da.map_blocks(make, chunks=chunks, dtype=np.float32, meta=np.zeros((0, 3), np.float32))


# ---------------------------------------------------------------------------------------------- Dask's shuffles in our place


def add_block(frame: pd.DataFrame, grid: Any, plan: Any) -> pd.DataFrame:
    return frame.assign(block=plan.blocks_of(grid.chunks_of(frame[AXES].to_numpy())))


def to_rows(frame: pd.DataFrame) -> VertexRows:
    frame = frame.sort_values("row")
    return VertexRows(frame[AXES].to_numpy(), {name: frame[name].to_numpy() for name in ("intensity", "label", "time")})


def shuffled_by_dask(frame: dd.DataFrame, method: str) -> Callable[..., dict[int, Task]]:
    """Return what takes the place of our exchange inside ``write_points``."""

    def exchange(builder: Any, _: Any, conversion: Any, schemas: Any, plan: Any, *__: Any, **___: Any) -> dict[int, Task]:
        labelled = frame.map_partitions(add_block, conversion.grid, plan, meta=add_block(frame._meta, conversion.grid, plan))
        moved = labelled.set_index("block", divisions=list(range(len(plan) + 1)), shuffle_method=method)
        return {n: Task(None, to_rows, builder.payload(part)) for n, part in enumerate(moved.to_delayed())}

    return exchange


# ---------------------------------------------------------------------------------------------- one measurement


def spilled(dask_worker: Worker) -> dict[str, float]:
    """Return the bytes that a worker wrote to its spill directory, and its most memory, in MB."""
    metrics = getattr(dask_worker.data, "cumulative_metrics", {})
    written = sum(v for k, v in metrics.items() if "disk-write" in k and k[-1] == "bytes")
    return {"spilled_mb": written / 1e6, "peak_mb": peak_memory()}


def count_tasks(client: Client, seen: list[dict[str, float]]) -> None:
    """Note the tasks and the pickled size of every graph that this client sends."""
    send = client.compute

    def compute(collections: Any, *args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        graph: dict[Any, Any] = {}
        for one in collections if isinstance(collections, (list, tuple)) else [collections]:
            graph |= dict(one.__dask_graph__())
        try:
            size = len(pickle.dumps(graph, protocol=pickle.HIGHEST_PROTOCOL))
        except Exception:  # noqa: BLE001 - a graph of others may hold functions of this script
            size = len(cloudpickle.dumps(graph))
        seen.append({"tasks": len(graph), "graph_mb": size / 1e6, "seconds": time.perf_counter() - started})
        return send(collections, *args, **kwargs)

    client.compute = compute


def size_of(path: Path) -> int:
    return path.stat().st_size


def digest(folder: Path) -> str:
    """Return what tells one write's objects from another's, but for the name and time of the write itself."""
    stamped = {
        folder / "zarr.json",
        folder / "0" / "dask_zv_catalog" / "zarr.json",
        folder / "0" / "dask_zv_catalog" / "c" / "0",
    }
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p not in stamped):
        total.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return total.hexdigest()


def check(target: Path, case: str, size: int, rows: int) -> None:
    """Compare the number of rows, and all rows of a box, with what was made."""
    level = dzv.open(target).level(0)
    if int(level.chunks.rows.sum()) != rows:
        raise SystemExit(f"{int(level.chunks.rows.sum())} rows are stored, {rows} were made")
    extent = extent_of(rows)
    low, high = np.float32(0.45 * extent), np.float32(0.45 * extent + 0.02 * extent)
    wanted = []
    parts = parts_of(rows)
    for number in range(parts):
        if case == "polylines":
            where = make_paths(number, size // parts, extent)
        else:
            where = make_points(number, size // parts, extent, case == "skewed")[AXES].to_numpy()
        wanted.append(where[((where >= low) & (where <= high)).all(axis=1)])
    made = np.concatenate(wanted)
    found = level.read(bbox=((low,) * 3, (high,) * 3)).positions
    if not np.array_equal(found[np.lexsort(found.T)], made[np.lexsort(made.T)]):
        raise SystemExit(f"a box holds {len(found)} rows, {len(made)} were made, or others")


def measure(case: str, size: int, side: str, workers: int, memory: str, keep_digest: bool) -> dict[str, Any]:
    """Write once; return what it took."""
    with (
        tempfile.TemporaryDirectory(prefix="dask-zv-") as folder,
        dask.config.set({"temporary-directory": folder}),
        LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, memory_limit=memory, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        target = Path(folder) / "store.zv"
        graphs: list[dict[str, float]] = []
        count_tasks(client, graphs)
        if side != "ours":
            job.split_partitions = shuffled_by_dask(frame_of(size, case == "skewed", numbered=True), side)
        client.run(lambda: __import__("dask_zv.write.points"))
        client.run(memory_from_now)
        before = settled_memory()
        start = time.perf_counter()
        if case == "polylines":
            store = dzv.create(target, geometry="polyline", chunk_shape=(CHUNK,) * 3)
            made = paths_of(size)
            lengths = da.full(len(made) // VERTICES, VERTICES, dtype=np.int64, chunks=PART_ROWS // VERTICES)
            report = dzv.write_polylines(store, made, lengths=lengths)
        else:
            store = dzv.create(target, chunk_shape=(CHUNK,) * 3)
            report = dzv.write_points(store, frame_of(size, case == "skewed"))
        seconds = time.perf_counter() - start - sum(g["seconds"] for g in graphs)
        client_mb = peak_memory()
        told = client.run(spilled)
        times = report.log()
        files = [p for p in target.rglob("*") if p.is_file()]
        result = {
            "case": case, "size": size, "side": side, "seconds": seconds, "rows": report.rows, "chunks": report.chunks,
            "blocks": report.blocks, "worker_mb": max(t["peak_mb"] for t in told.values()),
            "spilled_mb": sum(t["spilled_mb"] for t in told.values()), "client_mb": client_mb, "client_before_mb": before,
            "tasks": int(sum(g["tasks"] for g in graphs)), "graph_mb": sum(g["graph_mb"] for g in graphs),
            "graphs": len(graphs), "retries": int(times.retries.sum()), "stored_mb": sum(map(size_of, files)) / 1e6,
            "objects": len(files),
        }  # fmt: skip
        result["digest"] = digest(target) if keep_digest else ""
        check(target, case, size, report.rows)
        return result


# ---------------------------------------------------------------------------------------------- the table


def run(case: str, size: int, side: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--one", case, str(size), side, "--workers", str(options.workers)]
    command += ["--memory", options.memory] + (["--exchange"] if options.exchange else [])
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        print(f"{side} {case} {size:,}: {done.stderr[-3000:]}", file=sys.stderr)
        return {"case": case, "size": size, "side": side, "failed": done.stderr[-3000:].strip().rpartition("\n")[2]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"  {side:6} {case} {size:,}: {result['seconds']:.1f} s, {result['worker_mb']:.0f} MB a worker", file=sys.stderr)
    return result


def table_of_sizes(found: list[dict[str, Any]]) -> list[list[str]]:
    """Return the lines of the table: a line for each case and size."""
    lines = [[
        "what", "vertices", "s", "µs a vertex", "to the least", "chunks", "blocks", "tasks", "graph MB", "worker MB",
        "spilled MB", "client MB (before)", "stored MB", "files",
    ]]  # fmt: skip
    for case in dict.fromkeys(f["case"] for f in found):
        rows = [f for f in found if f["case"] == case]
        costs = [1e6 * f["seconds"] / f["rows"] for f in rows if "failed" not in f]
        for f in rows:
            if "failed" in f:
                lines.append([case, f"{f['size']:,}", f["failed"]] + [""] * 11)
                continue
            cost = 1e6 * f["seconds"] / f["rows"]
            lines.append([
                case, f"{f['rows']:,}", f"{f['seconds']:.1f}", f"{cost:.2f}", f"{cost / min(costs):.2f}", f"{f['chunks']:,}",
                f"{f['blocks']:,}", f"{f['tasks']:,}", f"{f['graph_mb']:.2f}", f"{f['worker_mb']:.0f}",
                f"{f['spilled_mb']:.0f}",
                f"{f['client_mb']:.0f} ({f['client_before_mb']:.0f})", f"{f['stored_mb']:,.0f}", f"{f['objects']:,}",
            ])  # fmt: skip
    return lines


def table_of_sides(found: list[dict[str, Any]]) -> list[list[str]]:
    """Return the lines of the table: a line for each way to exchange rows, at each size."""
    lines = [["points", "exchange", "s", "side / ours", "most MB of a worker", "spilled MB", "tasks"]]
    for size in dict.fromkeys(f["size"] for f in found):
        rows = [f for f in found if f["size"] == size]
        ours = [f["seconds"] for f in rows if f["side"] == "ours"]
        for side in dict.fromkeys(f["side"] for f in rows):
            some = [f for f in rows if f["side"] == side]
            bad = [f["failed"] for f in some if "failed" in f]
            if bad:
                lines.append([f"{size:,}", side, bad[0], "", "", "", ""])
                continue
            ratios = [f["seconds"] / o for f, o in zip(some, ours, strict=True)]
            lines.append([
                f"{size:,}", side, spread([f["seconds"] for f in some], 1), spread(ratios, 2),
                f"{max(f['worker_mb'] for f in some):.0f}", f"{max(f['spilled_mb'] for f in some):.0f}",
                f"{some[0]['tasks']:,}",
            ])  # fmt: skip
    return lines


def main() -> None:
    """Measure what the command line says; print the table and write it with the raw rows to the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--sizes", nargs="+", type=int, help="points or polylines, in the place of each case's own")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory", default="2GB", help="of a worker")
    parser.add_argument("--exchange", action="store_true", help="compare exchanges")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES, help="which of them")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--one", nargs=3, metavar=("CASE", "SIZE", "SIDE"), help="measure in this process, print JSON")
    options = parser.parse_args()
    if options.one:
        case, size, side = options.one
        print(json.dumps(measure(case, int(size), side, options.workers, options.memory, options.exchange)))
        return
    found: list[dict[str, Any]] = []
    if options.exchange:
        for size in options.sizes or (10**7,):
            for number in range(options.rounds):
                turn = number % len(options.sides)
                order = [*options.sides[turn:], *options.sides[:turn]]
                found.extend(run("points", size, side, options) for side in order)
            if len({f["digest"] for f in found if f["size"] == size and "failed" not in f}) > 1:
                raise SystemExit("the sides stored different bytes")
        lines = table_of_sides(found)
    else:
        for case in options.cases:
            for size in options.sizes or CASES[case]:
                rounds = [run(case, size, "ours", options) for _ in range(options.rounds)]
                found.append(min(rounds, key=lambda f: f.get("seconds", np.inf)))
        lines = table_of_sizes(found)
    now = datetime.datetime.now(datetime.UTC)
    about = (
        f"{now:%Y-%m-%d}, `benchmarks/scale.py {' '.join(sys.argv[1:])}`: LocalCluster of {options.workers} workers with "
        f"1 thread and {options.memory} each, {os.cpu_count()} cores, dask {dask.__version__}, "
        f"distributed {distributed.__version__}, Python {platform.python_version()}; least of {options.rounds} rounds\n"
    )
    print(about)
    print(markdown(lines))
    options.results.mkdir(parents=True, exist_ok=True)
    out = options.results / f"{'exchange' if options.exchange else 'scale'}-{now:%Y%m%dT%H%M%S}"
    out.with_suffix(".json").write_text(json.dumps(found, indent=1))
    out.with_suffix(".md").write_text(f"{about}\n{markdown(lines)}\n")
    if any("failed" in f for f in found):
        raise SystemExit("not all could be measured: see the table")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
