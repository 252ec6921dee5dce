"""Write more points than the workers of a small cluster may hold together; run as a program by test_out_of_core.

    python out_of_core_write.py TARGET LOCAL_DIRECTORY ROWS LIMIT_MB SHARDS

Every point is a function of its row number, so that whoever reads can tell each of them from any other.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from typing import Any

import numpy as np

import dask_zv as dzv

PARTITION_ROWS = 250_000
CHUNK = (0.1, 0.125, 0.1)
WORKERS = 2


def positions_of(rows: np.ndarray) -> np.ndarray:
    """Return the position of each row: a hash of its number, all over the unit cube."""
    with np.errstate(over="ignore"):
        x = rows.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    out = np.empty((len(rows), 3), np.float32)
    for axis in range(3):
        out[:, axis] = ((x >> np.uint64(21 * axis)) & np.uint64(0x1FFFFF)).astype(np.float32) / np.float32(1 << 21)
    return out


def mass_of(rows: np.ndarray) -> np.ndarray:
    """Return the attribute of each row."""
    return rows * 0.5 - 1


def partition(start: int, stop: int) -> dict[str, np.ndarray]:
    """Return the rows of one partition."""
    rows = np.arange(start, stop)
    return {"positions": positions_of(rows), "row": rows, "mass": mass_of(rows)}


def peak_memory() -> tuple[int, int]:
    """Return this process' id and the most memory it ever held, in bytes."""
    return os.getpid(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def lazy_points(n: int) -> tuple[Any, dict[str, Any]]:
    """Return the points as dask arrays.

    Made from delayed functions, whose tasks need no ``dask.array`` on the workers: it imports pandas and xarray, and a
    worker of a few hundred MB has better uses for that memory.
    """
    import dask
    import dask.array as da

    made = dask.delayed(partition)
    parts = [made(i, min(i + PARTITION_ROWS, n)) for i in range(0, n, PARTITION_ROWS)]
    sizes = [min(PARTITION_ROWS, n - i) for i in range(0, n, PARTITION_ROWS)]

    def column(name: str, dtype: type, *shape: int) -> Any:
        return da.concatenate([da.from_delayed(p[name], (k, *shape), dtype) for p, k in zip(parts, sizes, strict=True)])

    return column("positions", np.float32, 3), {"row": column("row", np.int64), "mass": column("mass", np.float64)}


def main(target: str, local: str, n: int, limit: int, shards: int) -> None:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=WORKERS,
            threads_per_worker=1,
            memory_limit=limit,
            local_directory=local,
            dashboard_address=":0",
        ) as cluster,
        Client(cluster) as client,
    ):
        before = client.run(os.getpid)
        store = dzv.create(target, chunk_shape=CHUNK, shard_chunks=shards)
        points, attributes = lazy_points(n)
        report = dzv.write_points(store, points, attributes=attributes)
        peaks = client.run(peak_memory)
        print(
            json.dumps(
                {
                    "rows": report.rows,
                    "chunks": report.chunks,
                    "nbytes": report.nbytes,
                    "blocks": report.blocks,
                    "seconds": report.seconds,
                    "same_workers": client.run(os.getpid) == before,
                    "peaks": [peak for _, peak in peaks.values()],
                }
            )
        )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]) << 20, int(sys.argv[5]))
