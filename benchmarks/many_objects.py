"""Very many small polylines: how much memory writing them takes, and how many requests reading one of them.

The vertices are made on the workers, partition by partition; the store is an S3-compatible server of its own process, so that
what this process holds is what the writer holds, and requests are counted. Every partition has objects everywhere. What is
read is compared with what was made::

    python benchmarks/many_objects.py --objects 1000000
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence

import dask
import dask.array as da
import numpy as np

import dask_zv as dzv
from s3server import serve
from workload import peak_memory, settled_memory

EXTENT, CHUNK = 1000.0, 100.0
STEP = 5.0
PARTITIONS = 40
SEED = 7


def paths(number: int, count: int, vertices: int) -> np.ndarray:
    """Return one partition of short random walks, shape (count * vertices, 3)."""
    rng = np.random.default_rng([SEED, number])
    starts = rng.uniform(0, EXTENT, (count, 1, 3))
    walks = starts + np.cumsum(rng.uniform(-STEP, STEP, (count, vertices, 3)), axis=1)
    return walks.reshape(-1, 3).astype(np.float32)


def lazily(counts: Sequence[int], vertices: int) -> tuple[da.Array, da.Array]:
    """Return the positions of all partitions, and the lengths of the paths in each."""

    def make(block_info: dict | None = None) -> np.ndarray:
        number = block_info[None]["chunk-location"][0]
        return paths(number, counts[number], vertices)

    rows = tuple(n * vertices for n in counts)
    positions = da.map_blocks(make, chunks=(rows, (3,)), dtype=np.float32, meta=np.zeros((0, 3), np.float32))
    return positions, da.full(sum(counts), vertices, dtype=np.int64, chunks=(tuple(counts),))


def main() -> None:
    """Write, read some objects one by one, and print what it took as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=1_000_000)
    parser.add_argument("--vertices", type=int, default=4, help="of each object")
    parser.add_argument("--reads", type=int, default=20)
    parser.add_argument("--latency-ms", type=float, default=0.0, help="of each request")
    args = parser.parse_args()
    share, rest = divmod(args.objects, PARTITIONS)
    counts = [share + (i < rest) for i in range(PARTITIONS)]
    positions, lengths = lazily(counts, args.vertices)
    # ids with gaps: those of a real table are seldom its row numbers
    ids = np.arange(args.objects, dtype=np.int64) * 3 + 10**9
    with serve(latency_ms=args.latency_ms) as server, dask.config.set(scheduler="threads", num_workers=2):
        options = {"storage_options": server.storage_options}
        url = "s3://bucket/many.zv"
        store = dzv.create(url, geometry="polyline", chunk_shape=(CHUNK,) * 3, **options)
        before = settled_memory()
        start = time.perf_counter()
        report = dzv.write_polylines(store, positions, lengths=lengths, object_ids=ids)
        seconds = time.perf_counter() - start
        peak = peak_memory()
        rows = int(report.rows)
        ends = np.cumsum(counts)
        requests, read = [], []
        for row in np.random.default_rng(SEED).integers(0, args.objects, args.reads).tolist():
            number = int(np.searchsorted(ends, row, "right"))
            place = row - (int(ends[number - 1]) if number else 0)
            expected = paths(number, counts[number], args.vertices)[place * args.vertices : (place + 1) * args.vertices]
            level = dzv.open(url, **options).level(0)
            server.reset()
            start = time.perf_counter()
            found = level.read(objects=int(ids[row]))
            read.append(time.perf_counter() - start)
            requests.append(int(server.stats()["requests"]))
            if found.positions.tobytes() != expected.tobytes():
                raise SystemExit(f"object {ids[row]} is not what was written")
    told = {
        "objects": int(report.objects),
        "rows": rows,
        "chunks": int(report.chunks),
        "input_mb": rows * 12 / 1e6,
        "write_seconds": seconds,
        "before_mb": before,
        "peak_mb": peak,
        "read_seconds": float(np.median(read)),
        "requests_of_a_read": max(requests),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
