"""Layout ``grid`` beside ``zarr-vectors`` 0.9.2, in one interleaved run: the bars of the project's speed, as code.

Writes, reads, boxes, whole levels, ingest, opening, graphs, imports and stored bytes, on local and S3 stores. The measurements
are in ``grid_scenarios.py``, the bars in ``grid_bars.py``. Every measurement is a fresh process and what is read is checked. A
ratio is the median of the rounds' ratios, because a busy machine slows both sides of a round. See README.md.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import grid_scenarios as scenarios
from bench import STORES, Bench, about_run, raise_file_limit, report
from compare_per_chunk import save, scratch
from grid_report import evaluate, files_table, plot, table
from grid_scenarios import SIDES, Grid
from peer_env import PEER_09, peer_python
from s3server import serve

HERE = Path(__file__).resolve().parent
ROWS = ("blobs", "cluster", "points", "small", "jobs", "open", "graphs", "import")


@dataclass(frozen=True)
class Size:
    """How large each row is. Grids are numbers of chunks per axis."""

    blobs: Grid
    blob_bytes: int
    points: tuple[tuple[Grid, int], ...]
    points_s3: tuple[tuple[Grid, int], ...]
    jobs: tuple[Grid, int]
    open: Grid | None
    graphs: Grid


K1, K10, M1 = (10, 10, 10), (20, 20, 25), (100, 100, 100)
MILLION = 1_000_000
SIZES = {
    "quick": Size((2, 4, 8), 512, (((3, 3, 3), 2_000),), (((3, 3, 3), 2_000),), (K1, 5_000), (3, 4, 5), (10, 10, 10)),
    "small": Size((8, 8, 16), 8192, ((K1, 100_000),), ((K1, 100_000),), (K1, 200_000), None, (50, 50, 40)),
    "medium": Size((16, 16, 40), 8192, ((K1, MILLION), (K10, MILLION)), ((K1, MILLION),), (K1, MILLION), None, M1),
    "large": Size(
        (16, 16, 40),
        8192,
        ((K1, MILLION), (K10, MILLION), (K1, 10 * MILLION)),
        ((K1, MILLION), (K10, MILLION)),
        (K1, 10 * MILLION),
        M1,
        M1,
    ),
}


def take_round(bench: Bench, size: Size, stores: list[str], rows: list[str]) -> None:
    """Take every chosen measurement once."""
    for store in stores:
        if "blobs" in rows:
            scenarios.blobs(bench, store, size.blobs, size.blob_bytes)
        if "points" in rows:
            for grid, count in size.points if store == "local" else size.points_s3:
                scenarios.points(bench, store, grid, count)
        if "open" in rows and size.open and store != "s3+20ms":
            scenarios.open_large(bench, store, size.open)
    if "cluster" in rows:
        scenarios.cluster(bench, "local", size.blobs, size.blob_bytes)
    if "small" in rows:
        scenarios.few_points(bench, "local", (4, 4, 4), 10_000)
    if "jobs" in rows:
        scenarios.jobs(bench, "local", *size.jobs)
    if "graphs" in rows:
        scenarios.graphs(bench, "local", size.graphs)
    if "import" in rows:
        scenarios.imports(bench)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=list(SIZES), default="medium", help="quick shows that it runs, and measures nothing")
    parser.add_argument("--store", nargs="+", choices=list(STORES), default=list(STORES))
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=900, help="seconds for one measurement")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="where the raw rows, table and plot go")
    parser.add_argument("--check", action="store_true", help="exit status 1 where a bar is missed")
    options = parser.parse_args(arguments)
    raise_file_limit()
    started = datetime.datetime.now(datetime.UTC)
    with scratch() as folder, serve() as server:
        bench = Bench(peer_python(*PEER_09), server, folder, options.timeout, SIDES)
        for bench.number in range(options.rounds):
            take_round(bench, SIZES[options.size], options.store, options.rows)
    ours = "threaded scheduler, 2 threads, data held by the client, where no other scheduler is named"
    about = about_run(bench, started, options.size, ours)
    results = evaluate([r for r in bench.rows if r["row"] != "check"])
    tables = table(results), "Where two numbers stand, ours is the first.", files_table(bench.rows)
    text = report(bench, about, "grid", *tables)
    path = save(bench.rows, about, options.results, f"grid-{started:%Y%m%dT%H%M%S}")
    path.with_suffix(".md").write_text(text)
    plot(results, path.with_suffix(".png"), f"dask-zv beside zarr-vectors 0.9.2, {about['date']}, size {options.size}")
    print(text)
    print(f"raw rows, table and plot: {os.path.relpath(path)}, .csv, .md, .png")
    missed = any(r.counts and r.held is False for r in results)
    return int(bool(bench.problems) or (options.check and missed))


if __name__ == "__main__":
    sys.exit(main())
