"""A costly source computed once: a write whose scan keeps the input, beside one that makes it a second time.

Two workers of one thread each (``LocalCluster``, processes) write points that tasks make, each row for so many microseconds
of CPU. The sides take turns on one warm cluster, which of them begins changes from round to round; *twice* is the same
code with the setting ``dask_zv.keep-input`` at 0. What is stored is compared, object by object::

    python benchmarks/compute_once.py                            # 3M points, 0, 1 and 5 µs a row, 5 rounds: about 5 minutes
    python benchmarks/compute_once.py --rows 300000 --micros 1 --rounds 1
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask import delayed
from distributed import Client, LocalCluster

import dask_zv as dzv
from compare_per_chunk import markdown, spread

RESULTS = Path(__file__).parent / "results"
PARTS = 20
CHUNK = 50.0


def source(number: int, rows: int, micros: float, calls: str) -> np.ndarray:
    """Return a partition of points anywhere, after so much CPU time a row; note the call."""
    began = time.thread_time()
    Path(calls, f"{number}-{time.time_ns()}").touch()
    points = np.random.default_rng(number).uniform(0, 500, (rows, 3)).astype(np.float32)
    while time.thread_time() - began < rows * micros / 1e6:
        pass
    return points


def lazy(rows: int, micros: float, calls: str) -> Any:
    """Return all points as a dask array of tasks."""
    make = delayed(source, pure=False)
    return da.concatenate(
        [da.from_delayed(make(i, rows // PARTS, micros, calls), (rows // PARTS, 3), np.float32) for i in range(PARTS)]
    )


def cpu_seconds(client: Client) -> float:
    """Return the CPU seconds of this process and of the workers, so far."""
    return time.process_time() + sum(client.run(time.process_time).values())


def digest_of(folder: Path) -> str:
    """Return a digest of all stored files that hold no times."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and "dask_zv_catalog" not in p.parts)
    return hashlib.sha256(b"".join(p.name.encode() + p.read_bytes() for p in paths if p.parent != folder)).hexdigest()


def measure(client: Client, side: str, rows: int, micros: float) -> dict[str, Any]:
    """Write once into a new store."""
    with tempfile.TemporaryDirectory() as folder, dask.config.set({} if side == "once" else {"dask_zv.keep-input": 0}):
        calls = Path(folder, "calls")
        calls.mkdir()
        store = dzv.create(Path(folder, "points.zv"), chunk_shape=(CHUNK,) * 3)
        points = lazy(rows, micros, str(calls))
        cpu, wall = cpu_seconds(client), time.perf_counter()
        report = dzv.write_points(store, points)
        wall = time.perf_counter() - wall
        found = {"side": side, "micros": micros, "rows": report.rows, "wall": wall, "cpu": cpu_seconds(client) - cpu}
        return found | {"calls": sum(1 for _ in calls.iterdir()), "digest": digest_of(Path(folder, "points.zv"))}


def main() -> int:
    """Measure, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--micros", type=float, nargs="+", default=[0.0, 1.0, 5.0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    found: list[dict[str, Any]] = []
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster) as client:
        measure(client, "once", 20_000, 0.0)  # imports
        for number in range(given.rounds):
            for micros in given.micros:
                sides = ("twice", "once") if number % 2 else ("once", "twice")
                found += [{"round": number, **measure(client, side, given.rows, micros)} for side in sides]
    lines = [["µs a row", "twice: s", "once: s", "twice / once", "twice: CPU s", "once: CPU s", "twice / once, CPU", "calls"]]
    for micros in given.micros:
        by_side = {s: [f for f in found if f["side"] == s and f["micros"] == micros] for s in ("twice", "once")}
        pairs = list(zip(by_side["twice"], by_side["once"], strict=True))
        cells = [f"{micros:g}"]
        for kind in ("wall", "cpu"):
            cells += [spread([f[kind] for f in by_side[s]], 1) for s in ("twice", "once")]
            cells.append(spread([a[kind] / b[kind] for a, b in pairs], 2))
        calls = [int(statistics.median(f["calls"] for f in by_side[s])) for s in ("twice", "once")]
        lines.append([*cells, " / ".join(map(str, calls))])
    same = len({f["digest"] for f in found}) == 1
    load = ", ".join(f"{x:.0f}" for x in os.getloadavg())
    about = (
        f"{given.rows:,} points in {PARTS} partitions, two workers of one thread, {os.cpu_count()} cores, load {load}; "
        f"{given.rounds} rounds, medians (least-most); "
        f"{'all stored the same' if same else 'WHAT WAS STORED DIFFERS'}.\n"
    )
    out = given.results / f"compute-once-{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}"
    given.results.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    out.with_suffix(".md").write_text(f"{about}\n{markdown(lines)}\n")
    print(f"{about}\n{markdown(lines)}")
    return 0 if same else 1


if __name__ == "__main__":
    raise SystemExit(main())
