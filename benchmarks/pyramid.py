"""Two coarser levels of points beside ``zarr-vectors`` 0.9.2: CPU, wall time and peak memory of one process each.

The same store, with bins, is copied for each side. The peer makes its levels without links between them, ours also have the
attribute and the counts. CPU is that of the call, all threads; memory the most that the process held. Sides take turns::

    python benchmarks/pyramid.py                       # 1M points, 3 rounds
    python benchmarks/pyramid.py --points 5000000 --rounds 1 --only ours
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from peer_env import PEER_09, peer_python

HERE = Path(__file__).resolve().parent
CHUNK, BIN, SIDE = 100.0, 10.0, 1000.0


def write(path: str, points: int) -> None:
    """Write the store that both read: 1,000 chunks of 1,000 bins."""
    import dask.array as da

    import dask_zv as dzv

    rng = da.random.default_rng(0)
    positions = rng.uniform(0, SIDE, (points, 3), chunks=(500_000, 3)).astype("f4")
    mass = rng.uniform(0, 1, points, chunks=500_000).astype("f4")
    store = dzv.create(path, chunk_shape=(CHUNK,) * 3, bin_shape=(BIN,) * 3)
    dzv.write_points(store, positions, attributes={"mass": mass})


def ours(path: str) -> dict[str, Any]:
    """Build the levels here, and return what it took."""
    import dask

    import dask_zv as dzv

    build, _ = dzv.build_pyramid, dzv.open(path)  # imported before the clock starts, as the peer's is
    with dask.config.set(num_workers=2):
        began, cpu = time.perf_counter(), time.process_time()
        build(path, 2)
        told: dict[str, Any] = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}
    told["memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    told["levels"] = len(dzv.open(path).levels)
    return told


def measured(side: str, path: Path) -> dict[str, Any]:
    """Return what a side tells of its run, in a process of its own."""
    here = [sys.executable, str(Path(__file__).resolve()), "--build", str(path)]
    command = here if side == "ours" else [str(peer_python(*PEER_09)), str(HERE / "peers" / "peer_09_pyramid.py"), str(path)]
    environment = dict(os.environ) if side == "ours" else {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{side} failed:\n{done.stderr[-3000:]}")
    told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    assert told.pop("levels") == 3
    return told


def main() -> None:
    """Take the rounds and save a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("ours", "peer"))
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--build", help=argparse.SUPPRESS)
    parser.add_argument("--write", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build:
        print(json.dumps(ours(options.build)))
        return
    if options.write:
        write(options.write, options.points)
        return
    sides = [options.only] if options.only else ["peer", "ours"]
    rows: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source.zv"
        writer = [sys.executable, str(Path(__file__).resolve()), "--write", str(source), "--points", str(options.points)]
        subprocess.run(writer, check=True)
        for number in range(options.rounds):
            for side in sides if number % 2 == 0 else sides[::-1]:
                copy = Path(folder) / f"{side}-{number}.zv"
                shutil.copytree(source, copy)
                rows[side].append(measured(side, copy))
                shutil.rmtree(copy)
    lines = [
        f"# Two coarser levels of {options.points:,} points, {options.rounds} rounds",
        "",
        "| side | CPU s | wall s | MB |",
    ]
    lines.append("|---|---|---|---|")
    for side, found in rows.items():
        middle = {k: statistics.median(r[k] for r in found) for k in found[0]}
        lines.append(f"| {side} | {middle['cpu']:.2f} | {middle['seconds']:.2f} | {middle['memory_mb']:.0f} |")
    if len(sides) == 2:
        ratio = statistics.median(p["cpu"] / o["cpu"] for p, o in zip(rows["peer"], rows["ours"], strict=True))
        lines += ["", f"CPU, peer : ours = {ratio:.1f}"]
    print("\n".join(lines))
    if options.save:
        stamp = f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}"
        (HERE / "results" / f"pyramid-{stamp}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
