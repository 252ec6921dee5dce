"""Every geometry beside ``zarr-vectors`` 0.9.2, in one interleaved run: the bars of their speed, as code.

Polylines, skeletons, meshes and graphs are written, read whole, and where they have objects one of these is read, on local and
S3 stores; by ours on two threads and, but for single objects, on a cluster of two processes. Bars are in ``geometry_bars.py``.
What is read is checked. A ratio is the median of the rounds' ratios, because a busy machine slows both sides of a round. See
README.md.
"""

from __future__ import annotations

import argparse
import datetime
import math
import os
import shutil
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import STORES, Bench, Row, about_run, agree, raise_file_limit, report
from compare_per_chunk import save, scratch
from geometry_bars import LINES, WAYS
from geometry_workload import KINDS, PATH_LENGTH, digest_of_all, make, save_shapes, torus_of
from grid_report import evaluate, plot, table
from grid_workload import Job
from peer_env import PEER_09, peer_python
from s3server import serve

HERE = Path(__file__).resolve().parent
PEER, OURS, CLUSTER = "peers/peer_09_geometries.py", "geometry_ours.py", "geometry_cluster.py"
SIDES = {
    "peer": (PEER, "its thread pool"),
    "ours": (OURS, "threads, 2"),
    "ours, 2 workers": (CLUSTER, "LocalCluster, 2 processes"),
}
"""Who does it: script and scheduler."""
COLUMNS = {"MB": "memory_mb", "MB, all processes": "all_mb", "requests": "requests", "waits": "waits"}


@dataclass(frozen=True)
class Setting:
    """How much of each geometry, and over how many chunks per axis."""

    polylines: int
    skeletons: int
    mesh: int
    graph: int
    grid: tuple[int, int, int] = (10, 10, 10)


ONCE = Setting(10_000, 1_000, 10, 43)
TENFOLD = Setting(100_000, 10_000, 100, 93)
SIZES = {
    "quick": (Setting(12, 7, 7, 5, (2, 2, 1)),),
    "1x": (ONCE,),
    "10x": (TENFOLD,),
    "full": (ONCE, TENFOLD),
}


def describe(job: Job) -> str:
    """Return how much a job is about."""
    if job.geometry == "mesh":
        what = f"{job.count * 2 * math.prod(torus_of(job)):,} faces, {job.count:,} objects"
    elif job.geometry == "graph":
        what = f"{job.count**3:,} nodes, {2 * job.count**2 * (job.count - 1):,} edges"
    else:
        what = f"{job.count:,} x {PATH_LENGTH} vertices"
    return f"{what}, {job.chunks:,} chunks" + (", radius" if job.radius else "")


def compare(bench: Bench, sides: list[str], store: str, plain: Job, expected: Row, about: Row) -> None:
    """Take one round of one geometry on one store."""
    checked = [key for key in expected if key.endswith("digest") or key == "links"]
    for side in bench.turns(sides):
        with bench.place(store) as place:
            job = replace(plain, **place)
            finish(bench.measure(about, side, replace(job, verb="write")), store)
            row = finish(bench.measure(about, side, replace(job, verb="read")), store)
            # the peer doesn't say whose the vertices of skeletons and meshes are
            told = [key for key in checked if key != "owners_digest" or key in row or not side.startswith("peer")]
            agree(expected, row, keys=told)
            if "picked" in expected and side != "ours, 2 workers":
                compare_objects(expected, finish(bench.measure(about, side, replace(job, verb="read one")), store))


def compare_objects(expected: Row, row: Row) -> None:
    """Check what was read of objects one by one, as far as that side tells it."""
    for wanted, found in zip(expected["picked"], row["picked"], strict=False):  # slow sides read fewer
        told = [key for key in wanted if key != "count" and (row["side"] != "peer" or key in found)]
        agree({**expected, **wanted}, {**row, **found}, keys=told)


def finish(row: Row, store: str) -> Row:
    """Add to a row what its processes held, and how often it waited for the server."""
    held = [row["memory_mb"], *row.get("workers_mb", ())]
    # a measurement that finds the memory there already would make ratios of nothing
    row["memory_mb"], row["all_mb"] = max(1.0, *held), max(1.0, sum(held))
    if "requests_opened" in row:
        row["requests"], row["waits"] = row["requests_opened"], row["waits_opened"]
    elif "busy_seconds" in row and (latency := STORES[store]):
        row["waits"] = row["busy_seconds"] / (latency / 1000)
    return row


def take_round(bench: Bench, setting: Setting, options: argparse.Namespace, deadline: float) -> None:
    """Take every chosen measurement of a setting once."""
    for geometry in options.geometry:
        job = Job("", "", setting.grid, geometry=geometry, count=getattr(setting, geometry), radius=options.radius)
        inputs = bench.folder / "inputs"
        shapes = make(job)
        save_shapes(inputs, shapes)
        expected = digest_of_all(job, shapes)
        del shapes
        for store in options.store:
            if time.monotonic() > deadline:
                left_out(f"round {bench.number + 1} of {describe(job)}, {store}")
                continue
            about: Row = {"row": geometry, "store": store, "setting": describe(job), "chunks": job.chunks, "codec": "zstd"}
            wanted = {**expected, **about, "side": "what"}
            compare(bench, options.side, store, replace(job, inputs=str(inputs)), wanted, about)
        shutil.rmtree(inputs)


def left_out(what: str) -> None:
    print(f"  no time for {what}", file=sys.stderr, flush=True)


def take_rounds(bench: Bench, options: argparse.Namespace) -> None:
    """Take a round of each setting, then more of them while there is time for another."""
    deadline = time.monotonic() + options.minutes * 60
    lasted: dict[Setting, float] = {}
    for bench.number in range(options.rounds):
        for setting in SIZES[options.size]:
            begun = time.monotonic()
            if begun + lasted.get(setting, 0.0) > deadline:
                left_out(f"round {bench.number + 1} of {setting}")
                continue
            take_round(bench, setting, options, deadline)
            lasted[setting] = time.monotonic() - begun


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=list(SIZES), default="full", help="quick shows that it runs, and measures nothing")
    parser.add_argument("--store", nargs="+", choices=list(STORES), default=["local", "s3+20ms"])
    parser.add_argument("--geometry", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--radius", action="store_true", help="with an attribute of the vertices")
    parser.add_argument("--side", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--rounds", type=int, default=3, help="as many as there is time for")
    parser.add_argument("--minutes", type=float, default=12, help="begin nothing after that")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for one measurement")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="where the raw rows, table and plot go")
    parser.add_argument("--check", action="store_true", help="exit status 1 where a bar is missed")
    options = parser.parse_args(arguments)
    quick = options.size == "quick"
    if quick:
        options.rounds = 1
    raise_file_limit()
    started = datetime.datetime.now(datetime.UTC)
    # a cluster is there for long, and starting one for each of its rows would take longer than all that they measure
    keep = [PEER, OURS, CLUSTER] if quick else [CLUSTER]
    with scratch() as folder, serve() as server:
        bench = Bench(peer_python(*PEER_09), server, folder, options.timeout, SIDES, keep)
        try:
            for script in {SIDES[side][0] for side in options.side}.intersection(keep):
                bench.worker(script)  # they import at the same time
            take_rounds(bench, options)
        finally:
            bench.close()
    ours = "; ".join(f"{way}: {SIDES[side][1]}" for side, way in WAYS.items())
    about: dict[str, Any] = about_run(bench, started, options.size, ours)
    results = evaluate(bench.rows, LINES)
    notes = (
        "Where two numbers stand, ours is the first. MB: the most that was held while it ran, beyond what was held after all "
        "imports, with the data that is written; of several processes that of the largest. waits: how often a request had to "
        "be answered before the next was sent (time in which requests were in flight / latency)."
    )
    text = report(bench, about, "Geometries", table(results, COLUMNS), notes)
    path = save(bench.rows, about, options.results, f"geometries-{started:%Y%m%dT%H%M%S}")
    path.with_suffix(".md").write_text(text)
    plot(results, path.with_suffix(".png"), f"dask-zv beside zarr-vectors 0.9.2, {about['date']}, size {options.size}")
    print(text)
    print(f"raw rows, table and plot: {os.path.relpath(path)}, .csv, .md, .png")
    missed = any(r.counts and r.held is False for r in results)
    return int(bool(bench.problems) or (options.check and missed))


if __name__ == "__main__":
    sys.exit(main())
