"""Bringing rows together by block: our split-and-gather exchange beside Dask's DataFrame shuffles, on a LocalCluster.

Points in random order, so every partition has rows of every block. All sides scan, encode, store and commit with the same
code (``dzv.write_points``) and the same blocks; they differ in how a block's rows come together. A shuffle returns rows in any
order, so its side carries a row number and sorts by it, which the format's order of rows asks for. The sides take turns; each
measurement has a fresh process and a fresh cluster. Whether all stored the same is checked.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import distributed
import numpy as np
import pandas as pd
from dask.task_spec import Task
from distributed import Client, LocalCluster

import dask_zv as dzv
from compare_per_chunk import markdown, spread
from dask_zv.geometry.rows import VertexRows
from dask_zv.pipelines.writing.write import points
from workload import peak_memory

SIDES = ("ours", "p2p", "tasks")
AXES = ["x", "y", "z"]
EXTENT, CHUNK = 1000.0, 100.0


def make_part(number: int, rows: int, numbered: bool) -> pd.DataFrame:
    """Return one partition: uniform points with two attributes."""
    source = np.random.default_rng(number)
    frame = pd.DataFrame(source.uniform(0, EXTENT, (rows, 3)).astype(np.float32), columns=AXES)
    frame["intensity"] = source.random(rows, np.float32)
    frame["label"] = source.integers(0, 1000, rows, np.int32)
    if numbered:
        frame["row"] = np.arange(rows) + number * rows
    return frame


def make_frame(rows: int, partitions: int, *, numbered: bool = False) -> dd.DataFrame:
    meta = make_part(0, 0, numbered)
    return dd.from_map(make_part, range(partitions), rows=rows // partitions, numbered=numbered, meta=meta)


def add_block(frame: pd.DataFrame, grid: Any, plan: Any) -> pd.DataFrame:
    return frame.assign(block=plan.blocks_of(grid.chunks_of(frame[AXES].to_numpy())))


def to_rows(frame: pd.DataFrame) -> VertexRows:
    frame = frame.sort_values("row")
    return VertexRows(frame[AXES].to_numpy(), {name: frame[name].to_numpy() for name in ("intensity", "label")})


def shuffled_by_dask(frame: dd.DataFrame, method: str) -> Callable[..., list[Task]]:
    """Return what takes the place of our exchange inside ``write_points``."""

    def exchange(builder: Any, _: Any, conversion: Any, schemas: Any, plan: Any, *__: Any) -> list[Task]:
        labelled = frame.map_partitions(add_block, conversion.grid, plan, meta=add_block(frame._meta, conversion.grid, plan))
        moved = labelled.set_index("block", divisions=list(range(len(plan) + 1)), shuffle_method=method)
        return [Task(None, to_rows, builder.payload(part)) for part in moved.to_delayed()]

    return exchange


def digest(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        total.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return total.hexdigest()


def measure(side: str, rows: int, partitions: int) -> dict[str, Any]:
    """Write once; return the time and the most memory of a worker."""
    with (
        tempfile.TemporaryDirectory(prefix="dask-zv-") as folder,
        dask.config.set({"temporary-directory": folder}),
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        target = Path(folder) / "store.zv"
        if side != "ours":
            points.split_partitions = shuffled_by_dask(make_frame(rows, partitions, numbered=True), side)
        client.run(lambda: __import__("dask_zv.pipelines.writing.points"))
        start = time.perf_counter()
        store = dzv.create(target, chunk_shape=(CHUNK,) * 3)
        report = dzv.write_points(store, make_frame(rows, partitions))
        seconds = time.perf_counter() - start
        memory = max(client.run(peak_memory).values())
        return {"side": side, "seconds": seconds, "worker_mb": memory, "rows": report.rows, "digest": digest(target)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--partitions", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help="measure one side in this process and print it as JSON")
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(options.side, options.rows, options.partitions)))
        return
    found: list[dict[str, Any]] = []
    for number in range(options.rounds):
        for side in SIDES[number % len(SIDES) :] + SIDES[: number % len(SIDES)]:
            command = [sys.executable, __file__, "--side", side, "--rows", str(options.rows)]
            done = subprocess.run(
                [*command, "--partitions", str(options.partitions)], capture_output=True, text=True, check=False,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
            if done.returncode:
                raise SystemExit(f"{side}: {done.stderr[-3000:]}")
            found.append(json.loads(done.stdout.splitlines()[-1]))
            print(f"  round {number + 1}  {side:6} {found[-1]['seconds']:.2f} s", file=sys.stderr)
    print(
        f"date: {datetime.datetime.now(datetime.UTC):%Y-%m-%d}, dask {dask.__version__}, distributed {distributed.__version__}"
    )
    print(
        f"{options.rows:,} rows x (3 float32 + float32 + int32), {options.partitions} partitions in random order, 1,000 chunks"
    )
    print(f"LocalCluster of 2 workers with 1 thread, {os.cpu_count()} cores, {options.rounds} rounds\n")
    times = {side: [f["seconds"] for f in found if f["side"] == side] for side in SIDES}
    lines = [["side", "seconds", "side / ours", "most MB of a worker"]]
    for side in SIDES:
        ratios = [s / o for s, o in zip(times[side], times["ours"], strict=True)]
        most = max(f["worker_mb"] for f in found if f["side"] == side)
        lines.append([side, spread(times[side], 2), spread(ratios, 2), f"{most:.0f}"])
    print(markdown(lines))
    if len({f["digest"] for f in found}) != 1:
        raise SystemExit("the sides stored different bytes")
    print("\nall stored the same bytes")


if __name__ == "__main__":
    main()
