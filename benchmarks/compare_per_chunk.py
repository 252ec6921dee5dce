"""Writing and reading many chunks: dask-zv (layout ``per_chunk``) beside ``zarr-vectors`` 0.2.0, in one interleaved run.

Per round, store and number of chunks, each in a fresh process and one after the other: the peer, ours with an object per chunk,
ours with shards; first writing, then reading (open, list the chunks of one array, fetch all blobs of three). What is read is
checked. A ratio is the median of the rounds' ratios, because a busy machine slows both sides of a round. See README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import datetime
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from peer_env import PEER_02, peer_python
from s3server import Server, serve

HERE = Path(__file__).resolve().parent
STORES = {"local": None, "s3": 0.0, "s3+20ms": 20.0}
"""Latency added to each request."""
SIDES = ("peer 0.2", "plain", "shards")
BARS = {
    ("local", "plain", "write"): 3,
    ("local", "plain", "read"): 5,
    ("local", "shards", "write"): 10,
    ("local", "shards", "read"): 10,
    ("s3+20ms", "shards", "write"): 20,
    ("s3+20ms", "shards", "read"): 20,
}
SHARD_CHUNKS = 256
PEER_BATCH = 1000
"""Chunks per batch of the peer where it can't do all at once (it opens a socket per object)."""

Row = dict[str, Any]


class Runner:
    """Starts workers and keeps what they measured."""

    def __init__(self, python: Path, server: Server, folder: Path, blob_bytes: int, timeout: float) -> None:
        self.python = python
        self.server = server
        self.folder = folder
        self.blob_bytes = blob_bytes
        self.timeout = timeout
        self.rows: list[Row] = []
        self.batched: set[tuple[str, int]] = set()

    def round(self, number: int, store: str, chunks: int) -> None:
        """Measure all sides once, beginning with another one each round."""
        for i in range(len(SIDES)):
            side = SIDES[(i + number) % len(SIDES)]
            written = self.measure(number, store, chunks, side, "write")
            if written and self.measure(number, store, chunks, side, "read")["digest"] != written["digest"]:
                raise SystemExit(f"{side} read back other bytes than it wrote ({store}, {chunks} chunks)")
            self.server.clear()
            shutil.rmtree(self.folder / "store", ignore_errors=True)

    def measure(self, number: int, store: str, chunks: int, side: str, verb: str) -> Row:
        """Run one worker; a peer that fails gets smaller batches from then on, and every row says so."""
        latency = STORES[store]
        target = str(self.folder / "store") if latency is None else "s3://bucket/store"
        script = (self.python, HERE / "peers" / "peer_02.py") if side == SIDES[0] else (sys.executable, HERE / "ours.py")
        command = [*map(str, script), verb, target, "--chunks", str(chunks), "--size", str(self.blob_bytes)]
        if latency is not None:
            command += ["--endpoint", self.server.endpoint]
            self.server.set_latency(latency)
        if side == "shards":
            command += ["--shards", str(SHARD_CHUNKS)]
        batched = side == SIDES[0] and (store, chunks) in self.batched
        if batched:
            command += ["--batch", str(PEER_BATCH)]
        self.server.reset()
        environment = {k: v for k, v in os.environ.items() if side != SIDES[0] or k != "PYTHONPATH"}
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=self.timeout, check=False,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
            problem = done.stderr.strip()[-2000:] if done.returncode else ""
        except subprocess.TimeoutExpired:
            problem = f"took longer than {self.timeout:g} s"
        if problem:
            if side != SIDES[0] or batched or chunks <= PEER_BATCH:
                raise SystemExit(f"{side}, {verb}, {store}, {chunks} chunks: {problem}")
            reason = next((n.strip() for n in problem.splitlines()[::-1] if "rror" in n or "message" in n), problem)
            print(f"peer, {verb}, {store}, {chunks} chunks at once: {reason[:160]}", file=sys.stderr)
            print(f"  from here on in batches of {PEER_BATCH} chunks", file=sys.stderr)
            self.batched.add((store, chunks))
            if verb == "write":  # what the failed attempt left would be overwritten, not written
                self.server.clear()
                shutil.rmtree(self.folder / "store", ignore_errors=True)
            return self.measure(number, store, chunks, side, verb)
        row: Row = {"round": number, "store": store, "chunks": chunks, "side": side, "verb": verb, "batched": batched}
        row |= json.loads(done.stdout.splitlines()[-1])
        if latency is None:
            row["objects"] = sum(len(files) for *_, files in os.walk(self.folder / "store"))
        else:
            stats = self.server.stats()
            row |= {k: stats[k] for k in ("requests", "by_operation", "bytes_in", "bytes_out", "max_in_flight", "objects")}
        self.rows.append(row)
        print(f"  round {number + 1}  {store:8} {chunks:6} chunks  {side:8} {verb:5} {row['seconds']:8.3f} s", file=sys.stderr)
        return row


def spread(values: list[float], digits: int) -> str:
    """Return the median and, of several values, the least and the most."""
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) < 2 else f"{middle} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def ratio_table(rows: list[Row], bars: Mapping[tuple[str, str, str], int]) -> tuple[list[list[str]], bool]:
    """Return the lines of the table of times and ratios, and whether all bars are met."""
    lines = [["store", "chunks", "what", "side", "seconds", "peer / ours", "bar", ""]]
    met = True
    cells = list(dict.fromkeys((r["store"], r["chunks"], r["verb"]) for r in rows))
    for store, chunks, verb in sorted(cells, key=lambda c: (list(STORES).index(c[0]), c[1], c[2] == "read")):
        times = {s: column(rows, "seconds", store, chunks, verb, s) for s in SIDES}
        for side in SIDES:
            name = side
            if any(r["batched"] for r in rows if (r["store"], r["chunks"], r["side"]) == (store, chunks, side)):
                name += f", batches of {PEER_BATCH}"
            line = [store, f"{chunks:,}", verb, name, spread(times[side], 3), "", "", ""]
            if side != SIDES[0]:
                ratios = [p / o for p, o in zip(times[SIDES[0]], times[side], strict=True)]
                line[5] = spread(ratios, 1)
                bar = bars.get((store, side, verb))
                if bar is not None:
                    reached = statistics.median(ratios) >= bar
                    met &= reached
                    line[6:] = [f">= {bar}", "met" if reached else "MISSED"]
            lines.append(line)
    return lines, met


def cost_table(rows: list[Row]) -> list[list[str]]:
    """Return the lines of the table of memory, requests and objects."""
    lines = [["store", "chunks", "side", "peak MB write / read", "stored objects", "requests write / read", "most in flight"]]
    for store, chunks, side in dict.fromkeys((r["store"], r["chunks"], r["side"]) for r in rows):
        write, read = (
            [r for r in rows if (r["store"], r["chunks"], r["side"], r["verb"]) == (store, chunks, side, v)]
            for v in ("write", "read")
        )
        memory = " / ".join(f"{statistics.median(r['peak_mb'] for r in some):.0f}" for some in (write, read))
        line = [store, f"{chunks:,}", side, memory, f"{write[0]['objects']:,}", "", ""]
        if "requests" in write[0]:
            line[5] = " / ".join(f"{some[0]['requests']:,}" for some in (write, read))
            line[6] = " / ".join(f"{max(r['max_in_flight'] for r in some):,}" for some in (write, read))
        lines.append(line)
    order = list(STORES)
    return lines[:1] + sorted(lines[1:], key=lambda n: (order.index(n[0]), int(n[1].replace(",", "")), SIDES.index(n[2])))


def column(rows: list[Row], name: str, store: str, chunks: int, verb: str, side: str) -> list[float]:
    wanted = (store, chunks, verb, side)
    return [r[name] for r in rows if (r["store"], r["chunks"], r["verb"], r["side"]) == wanted]


def markdown(lines: list[list[str]]) -> str:
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    text = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
    return "\n".join([text[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *text[1:]])


def save(rows: list[Row], about: dict[str, Any], folder: Path, name: str) -> Path:
    """Write the raw rows as JSON (with what is known of the run) and as CSV."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
    fields = list(dict.fromkeys(k for r in rows for k in r if k not in ("versions", "by_operation", "digest")))
    with path.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fields, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Make a folder in memory where the system has one, else among temporary files."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="dask-zv-", dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000], help="chunks per array")
    parser.add_argument("--stores", nargs="+", choices=list(STORES), default=list(STORES))
    parser.add_argument("--blob-bytes", type=int, default=8192)
    parser.add_argument("--timeout", type=float, default=900, help="seconds for one measurement")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="where the raw rows go")
    parser.add_argument("--quick", action="store_true", help="one round of 20 chunks: shows that it runs, measures nothing")
    parser.add_argument("--check", action="store_true", help="exit status 1 where a bar is missed")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.sizes, options.blob_bytes = 1, [20], 512
    # the peer opens a socket per object; at the usual limit of 1,024 it would fail with 1,000 chunks
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    started = datetime.datetime.now(datetime.UTC)
    python = peer_python(*PEER_02)
    with scratch() as folder, serve() as server:
        runner = Runner(python, server, folder, options.blob_bytes, options.timeout)
        for number in range(options.rounds):
            for chunks in options.sizes:
                for store in options.stores:
                    runner.round(number, store, chunks)
        memory = folder.is_relative_to("/dev/shm")
    rows = runner.rows
    versions = {r["side"]: r.pop("versions") for r in rows}
    about = {
        "date": started.isoformat(timespec="seconds"),
        "rounds": options.rounds,
        "blobs": f"3 arrays x {options.blob_bytes} bytes, random, stored raw by both",
        "ours": "threaded scheduler, 2 threads, payloads held by the client; shards of 256 chunks",
        "local": "tmpfs" if memory else "temporary directory",
        "s3": "loopback server, through obstore on both sides",
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "versions": {"peer 0.2": versions[SIDES[0]], "dask-zv": versions["plain"]},
        "quick": options.quick,
    }
    table, met = ratio_table(rows, {} if options.quick else BARS)
    print("\n".join(f"{k}: {v}" for k, v in about.items() if k != "quick"))
    print(f"\n{markdown(table)}\n\n{markdown(cost_table(rows))}\n")
    path = save(rows, about, options.results, f"per_chunk-{started:%Y%m%dT%H%M%S}")
    print(f"raw rows: {os.path.relpath(path)} and .csv")
    return int(options.check and not met)


if __name__ == "__main__":
    sys.exit(main())
