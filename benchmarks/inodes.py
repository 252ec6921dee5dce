"""What a store costs a file system: files, directories, bytes on disk and calls, by layout and shard size.

One million points with one attribute, over few, some and many chunks. Each row is a fresh process that writes; others open the
level, list, and read a box. Caches are warm. Counts hold for any file system, bytes on disk for one with blocks of 4 KB,
seconds for the one that was measured, whose type is named in the table; of ROUNDS, the fastest::

    python benchmarks/inodes.py --folder /scratch/me --folder /dev/shm
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import dask_zv as dzv

SEED = 5
POINTS = 1_000_000
EDGES = (10, 20, 40)
"""Chunks along each of three axes."""
SHARDS: tuple[int | str, ...] = (1, "auto", 256, 4096)
ROUNDS = 3
"""Of a row with at most MOST_FILES files; more files are measured once."""
MOST_FILES = 50_000
FSYNCED = {(20, "grid", 1), (20, "grid", 256)}
AUDITED = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.listdir", "os.scandir")


@contextmanager
def counted_calls(store: str, counts: Counter[str]) -> Iterator[None]:
    """Count the calls that name something inside the store: what a parallel file system's metadata server answers.

    Python tells of most by itself; stat and fsync are counted where they are called. (Writing and closing are left out, and so
    is what libraries that are no Python do: none here.)
    """
    on = True

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if on and event in AUDITED and str(arguments[0]).startswith(store):
            counts[event.removeprefix("os.")] += 1

    real = os.stat, os.fsync

    def stat(path: Any, *given: Any, **more: Any) -> os.stat_result:
        counts["stat"] += str(path).startswith(store)
        return real[0](path, *given, **more)

    def fsync(fd: int) -> None:
        counts["fsync"] += 1
        real[1](fd)

    sys.addaudithook(audit)
    os.stat, os.fsync = stat, fsync  # type: ignore[assignment]
    try:
        yield
    finally:
        os.stat, os.fsync = real  # type: ignore[assignment]
        on = False  # a hook stays as long as the process


def write(
    store: str, edge: int, layout: str, shards: int | str, points: int, *, fsync: bool = False, count: bool = False
) -> dict[str, Any]:
    """Write the points; return what the report and the clock say, and the calls of a second write, beside the first."""
    dzv.write_points(dzv.create({}, chunk_shape=(1, 1, 1), layout=layout), np.zeros((1, 3)))  # imports
    rng = np.random.default_rng(SEED)
    positions = rng.uniform(0, edge, (points, 3)).astype(np.float32)
    mass = rng.random(points, dtype=np.float32)
    options = {"fsync": True} if fsync else None
    begun = time.perf_counter()
    made = dzv.create(store, chunk_shape=(1, 1, 1), layout=layout, shard_chunks=shards, storage_options=options)  # type: ignore[arg-type]
    report = dzv.write_points(made, positions, attributes={"mass": mass})
    seconds = time.perf_counter() - begun
    calls: Counter[str] = Counter()
    if count:
        again = f"{store}-again"
        with counted_calls(again, calls):
            made = dzv.create(again, chunk_shape=(1, 1, 1), layout=layout, shard_chunks=shards, storage_options=options)  # type: ignore[arg-type]
            dzv.write_points(made, positions, attributes={"mass": mass})
        shutil.rmtree(again)
    said = {"write_s": seconds, "objects": report.files, "chunks": report.chunks, "payload_bytes": report.nbytes}
    return {**said, "calls": dict(calls)}


def look(store: str, edge: int) -> dict[str, float]:
    """Open the level, then read a box of a thousandth of it."""
    tiny = dzv.create({}, chunk_shape=(1, 1, 1))
    dzv.write_points(tiny, np.zeros((1, 3)))
    tiny.level(0).read(bbox=((0,) * 3, (1,) * 3))  # imports
    begun = time.perf_counter()
    level = dzv.open(store).level(0)
    assert len(level.chunks)
    opened = time.perf_counter()
    low, high = edge * 0.45, edge * 0.55
    assert len(level.read(bbox=((low,) * 3, (high,) * 3)).positions)
    return {"open_s": opened - begun, "box_s": time.perf_counter() - opened}


def census(store: Path) -> dict[str, int]:
    """Count files and directories, the bytes in files, and the bytes that both take on the disk."""
    out = {"files": 0, "directories": 0, "bytes": 0, "disk_bytes": 0, "largest_directory": 0}
    for folder, _, names in os.walk(store):
        out["directories"] += 1
        entries = len(os.listdir(folder))  # noqa: PTH208
        out["largest_directory"] = max(out["largest_directory"], entries)
        out["disk_bytes"] += Path(folder).stat().st_blocks * 512
        for name in names:
            found = (Path(folder) / name).stat()
            out["files"] += 1
            out["bytes"] += found.st_size
            out["disk_bytes"] += found.st_blocks * 512
    return out


def child(function: str, *arguments: Any, **more: Any) -> dict[str, Any]:
    """Call a function of this module in a fresh process."""
    command = [sys.executable, __file__, "--child", json.dumps([function, arguments, more])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{function}{arguments} failed:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def timed(*command: str) -> float:
    begun = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begun


def small_files(folder: Path, count: int, size: int, *, fsync: bool) -> float:
    """Return files per second of a plain loop that creates files in one directory: what our writer can be compared with."""
    data, place = os.urandom(size), folder / "plain"
    place.mkdir()
    begun = time.perf_counter()
    for i in range(count):
        with (place / str(i)).open("wb", buffering=0) as file:
            file.write(data)
            if fsync:
                os.fsync(file.fileno())
    seconds = time.perf_counter() - begun
    shutil.rmtree(place)
    return count / seconds


def measure(folder: Path, points: int, edges: tuple[int, ...], *, calls: bool) -> list[dict[str, Any]]:
    """Measure all rows in a folder."""
    shown = subprocess.run(["df", "--output=fstype", str(folder)], capture_output=True, text=True, check=True).stdout
    kind = shown.split()[-1]
    rows = []
    cases = [(*case, False) for case in itertools.product(edges, ("grid", "per_chunk"), SHARDS)]
    cases += [(*case, True) for case in FSYNCED if case[0] in edges]
    for edge, layout, shards, fsync in cases:
        store = folder / "inodes.zv"
        row: dict[str, Any] = {"file_system": kind, "layout": layout, "shard_chunks": shards, "points": points, "fsync": fsync}
        for turn in range(ROUNDS):
            found = child("write", str(store), edge, layout, shards, points, fsync=fsync, count=calls and not turn)
            found |= census(store) | child("look", str(store), edge)
            found["list_s"] = timed("ls", "-lR", str(store))
            found["remove_s"] = timed("rm", "-r", str(store))
            row |= {
                name: min(value, row.get(name, value)) if name.endswith("_s") else value
                for name, value in found.items()
                if name != "calls" or not turn
            }
            if found["files"] > MOST_FILES:
                break
        rows.append(row)
        print(" | ".join(cells(row)), flush=True)
    return rows


def cells(row: dict[str, Any]) -> list[str]:
    """Return a row of the table; counts are per million points."""
    per = 1e6 / row["points"]
    calls = sum(row["calls"].values()) * per
    return [
        row["file_system"] + (", fsync" if row["fsync"] else ""),
        f"{row['chunks']:,}",
        row["layout"],
        str(row["shard_chunks"]),
        f"{row['files'] * per:,.0f}",
        f"{row['directories'] * per:,.0f}",
        f"{row['bytes'] * per / 1e6:,.1f}",
        f"{row['disk_bytes'] * per / 1e6:,.1f}",
        f"{calls:,.0f}" if calls else "",
        f"{row['write_s']:.2f}",
        f"{row['objects'] / row['write_s']:,.0f}",
        f"{row['list_s']:.2f}",
        f"{row['open_s'] * 1e3:.0f}",
        f"{row['box_s'] * 1e3:.0f}",
        f"{row['remove_s']:.2f}",
    ]


HEAD = (
    "file system", "chunks", "layout", "shard_chunks", "files", "directories", "MB", "MB on disk", "calls", "write s",
    "objects/s", "`ls -lR` s", "open ms", "box ms", "remove s",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, action="append", help="where to write; several for several file systems")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--quick", action="store_true", help="few points: shows that it runs, measures nothing")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        function, arguments, more = json.loads(args.child)
        print(json.dumps({"write": write, "look": look}[function](*arguments, **more)))
        return

    points, edges = (20_000, (5,)) if args.quick else (POINTS, EDGES)
    rows, plain = [], []
    for number, root in enumerate(args.folder or [Path(tempfile.gettempdir())]):
        with tempfile.TemporaryDirectory(dir=root) as folder:
            found = measure(Path(folder), points, edges, calls=number == 0)
            rows += found
            for fsync in (False, True):
                rate = small_files(Path(folder), 200 if args.quick else 2000, 500, fsync=fsync)
                plain.append({"file_system": found[0]["file_system"], "fsync": fsync, "files_per_s": rate})
    args.results.mkdir(exist_ok=True)
    path = args.results / f"inodes-{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}"
    result = {"versions": {"dask-zv": dzv.__version__, "python": sys.version.split()[0]}, "rows": rows, "plain_loop": plain}
    path.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    lines = ["| " + " | ".join(HEAD) + " |", "|---" * len(HEAD) + "|", *("| " + " | ".join(cells(r)) + " |" for r in rows)]
    lines += ["", "A plain loop that creates files of 500 bytes: " + "; ".join(
        f"{p['file_system']}{', fsync' if p['fsync'] else ''} {p['files_per_s']:,.0f} files/s" for p in plain
    ) + "."]  # fmt: skip
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print(f"{path}.md")


if __name__ == "__main__":
    main()
