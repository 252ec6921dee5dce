"""Opening a store in xarray, looking at it, and reading a box: seconds and requests for few chunks and for very many.

The store lies on an S3-compatible server of its own process, which counts requests and can delay each; every reading is done
by a fresh process, so nothing is remembered. What a box gives is compared with numpy::

    python benchmarks/open_in_xarray.py --chunks 10000 1000000
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import dask
import numpy as np

import dask_zv as dzv
from s3server import Server, serve

URL = "s3://bucket/open.zv"
SEED = 11
BOX = 0.1
"""Edge of the box, in that of the whole."""

READ = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
from s3server import Server
import dask.array  # which xarray imports when it first shows a Dataset
import xarray as xr
import dask_zv.xarray_backend.entrypoint
port, pid, url, options, view, low, high = json.loads(sys.argv[2])
server, ticks, told = Server(port, pid), [], []
def tick(start):
    ticks.append(time.perf_counter() - start)
    told.append(server.stats()["requests"])
    server.reset()
    return time.perf_counter()
server.reset()
start = time.perf_counter()
ds = xr.open_dataset(url, engine="zv", storage_options=options, view=view)
start = tick(start)
repr(ds), ds._repr_html_()
start = tick(start)
found = ds.zv.sel(bbox=(low, high))[["x", "y", "z", "mass"]].load()
tick(start)
print(json.dumps([*ticks, *told, found.sizes["vertex"], float(found.mass.sum())]))
"""
NAMES = ("open_s", "repr_s", "box_s", "open_requests", "repr_requests", "box_requests")


def points_of(chunks: int, per_chunk: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Return points in a cube of about `chunks` unit chunks, an attribute, and the edge of the cube."""
    edge = round(chunks ** (1 / 3))
    rng = np.random.default_rng(SEED)
    n = edge**3 * per_chunk
    corners = np.stack(np.meshgrid(*[np.arange(edge)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    positions = (np.repeat(corners, per_chunk, axis=0) + rng.uniform(0.01, 0.99, (n, 3))).astype(np.float32)
    return positions, rng.integers(0, 100, n).astype(np.float32), edge


def measure(server: Server, view: str, box: tuple[np.ndarray, np.ndarray], expected: tuple[int, float]) -> dict[str, float]:
    """Return what a fresh process took to open, to look and to read a box."""
    argument = [server.port, server.pid, URL, server.storage_options, view, *(c.tolist() for c in box)]
    command = [sys.executable, "-W", "ignore", "-c", READ, str(Path(__file__).parent), json.dumps(argument)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"exit status {done.returncode}: {done.stderr}")
    *told, found, total = json.loads(done.stdout)
    if found != expected[0] or abs(total - expected[1]) > 1e-3 * max(expected[1], 1):
        raise RuntimeError(f"the box has {found} vertices and {total} in sum, not {expected}")
    return dict(zip(NAMES, told, strict=True))


def main() -> None:
    """Write stores, open them in fresh processes, and print what it took as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--per-chunk", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency-ms", type=float, default=0.0, help="of each request")
    parser.add_argument("--output", type=Path, help="a JSON file for the rows")
    args = parser.parse_args()
    rows = []
    for chunks in args.chunks:
        positions, mass, edge = points_of(chunks, args.per_chunk)
        objects = np.floor(positions / edge * 10).astype(np.int64) @ (100, 10, 1)
        with serve() as server:
            options = server.storage_options
            store = dzv.create(URL, chunk_shape=(1, 1, 1), bounds=([0] * 3, [edge] * 3), storage_options=options)
            with dask.config.set(scheduler="threads", num_workers=2):
                dzv.write_points(store, positions, attributes={"mass": mass}, object_ids=objects)
            low = np.full(3, edge * 0.45) + 0.5
            high = low + edge * BOX
            inside = ((positions >= low) & (positions <= high)).all(axis=1)
            server.set_latency(args.latency_ms)
            expected = int(inside.sum()), float(mass[inside].astype(float).sum())
            for view in ("spatial", "objects"):
                seen = [measure(server, view, (low, high), expected) for _ in range(args.rounds)]
                middle = {name: statistics.median(row[name] for row in seen) for name in NAMES}
                rows.append({"chunks": edge**3, "latency_ms": args.latency_ms, "view": view, "found": expected[0], **middle})
    print(json.dumps(rows, indent=1))
    if args.output:
        args.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
