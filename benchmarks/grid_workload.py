"""What the sides of ``compare_grid.py`` store and read, and how a worker process measures; numpy alone.

A worker (``grid_ours.py``, ``grid_cluster.py``, ``grid_limits.py``, ``peers/peer_09.py``) is started afresh for one
measurement. Its one argument is a ``Job`` as JSON, its last line of output one JSON object. A verb makes what it needs, does
the measured part inside ``with clock:`` and returns what else is to be known; imports and payloads are not in the time, opening
the store is.
"""

from __future__ import annotations

import contextlib
import cProfile
import functools
import importlib
import json
import math
import os
import pkgutil
import platform
import pstats
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from types import ModuleType
from typing import Any

import numpy as np

from workload import ARRAYS, digest, memory_from_now, peak_memory, settled_memory

EXTENT = 1000.0
"""Points lie in a cube of this side."""
BOX = (313.7, 313.7 + EXTENT * 0.01 ** (1 / 3))
"""On every axis: 1 % of the volume, not along chunk boundaries."""
PARTITIONS = 10

__all__ = [
    "ARRAYS", "BOX", "EXTENT", "PARTITIONS", "PROFILE", "Clock", "Job", "blob_summary", "blobs", "box_rows", "chunk_keys",
    "cloud_digest", "import_all", "make_points", "packages", "row_hashes", "run", "worker_arguments",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Job:
    """One measurement. `grid` is the number of chunks along each axis; every chunk of it is filled."""

    verb: str
    target: str
    grid: tuple[int, int, int]
    endpoint: str | None = None
    blob_bytes: int = 8192
    points: int = 0
    shards: int | tuple[int, int, int] | str | None = None
    """``shard_chunks`` of ours; for the peer None (a cell is an object) or a shard shape."""
    workers: int = 2
    """Threads of the threaded scheduler, or processes of a job on several."""
    batch: int = 0
    """Chunks per read of the peer; 0 for all at once."""
    inputs: str = ""
    """Folder with the partitions of a job on several processes."""
    geometry: str = ""
    """A row of ``compare_geometries.py``."""
    count: int = 0
    """How much of it; see ``geometry_workload.py``."""
    radius: bool = False
    """Vertices have an attribute."""

    @property
    def chunks(self) -> int:
        return math.prod(self.grid)

    @property
    def chunk_shape(self) -> tuple[float, ...]:
        """The chunk shape of a store of points."""
        return tuple(EXTENT / n for n in self.grid)


def worker_arguments(job: Job) -> list[str]:
    return [json.dumps(asdict(job))]


PROFILE = bool(os.environ.get("GRID_PROFILE"))
"""Print where the time goes; what is measured then means nothing."""


class Clock:
    """Measures the block that it is a context of: seconds, and the memory held before it and at most in it."""

    def __enter__(self) -> None:
        self.profile = cProfile.Profile(time.process_time)  # of what other programs do, nothing shows
        self.before_mb = memory_from_now()
        if PROFILE:
            self.profile.enable()
        self.cpu = time.process_time()
        self.start = time.perf_counter()

    def __exit__(self, *exc: object) -> None:
        self.seconds = time.perf_counter() - self.start
        self.cpu_seconds = time.process_time() - self.cpu
        self.peak_mb = peak_memory()
        if PROFILE:
            self.profile.disable()
            pstats.Stats(self.profile, stream=sys.stderr).sort_stats("tottime").print_stats(25).sort_stats(
                "cumtime"
            ).print_stats(45)


def run(verbs: Mapping[str, Callable[[Job, Clock], dict[str, Any]]], versions: Mapping[str, str]) -> None:
    """Do the job of the command line and print the measurement; where that is ``-``, the jobs of the lines of the input."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what packages print is no answer
    for line in sys.stdin if sys.argv[1] == "-" else sys.argv[1:2]:
        fields = json.loads(line)
        for name in ("grid", "shards"):
            if isinstance(fields[name], list):
                fields[name] = tuple(fields[name])
        job = Job(**fields)
        base = settled_memory()  # what imports left behind is no part of what is measured
        clock = Clock()
        extra = verbs[job.verb](job, clock)
        measured = {"seconds": clock.seconds, "cpu_seconds": clock.cpu_seconds, "peak_mb": clock.peak_mb}
        measured |= {"before_mb": clock.before_mb, "memory_mb": clock.peak_mb - base}
        about = {"versions": {**versions, "python": platform.python_version()}}
        print(json.dumps({**measured, **extra, **about}), file=answers, flush=True)


def import_all(package: ModuleType) -> None:
    """Import every module of a package, so that none is imported, late, while the clock runs."""
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        with contextlib.suppress(ModuleNotFoundError):  # an optional dependency
            importlib.import_module(module.name)


def packages(*names: str) -> dict[str, str]:
    """Return the installed versions of packages."""
    return {name: metadata.version(name) for name in names}


def chunk_keys(job: Job) -> list[str]:
    """Return the keys of all chunks of the grid, the last axis fastest."""
    cells = np.stack(np.unravel_index(np.arange(job.chunks), job.grid), axis=1)
    return [".".join(map(str, cell)) for cell in cells.tolist()]


def blobs(job: Job, keys: list[str] | None = None, arrays: tuple[str, ...] = ARRAYS) -> dict[tuple[str, str], bytes]:
    """Return the blobs of some chunks: windows on random bytes, cheap to make anywhere, and no codec makes them smaller."""
    source = random_bytes()
    places = len(source) - job.blob_bytes
    out = {}
    for key in chunk_keys(job) if keys is None else keys:
        x, y, z = map(int, key.split("."))
        number = (x * job.grid[1] + y) * job.grid[2] + z
        for i, array in enumerate(arrays):
            start = (number * 7919 + i * 104_729) % places
            out[array, key] = source[start : start + job.blob_bytes]
    return out


@functools.cache
def random_bytes() -> bytes:
    return np.random.default_rng(0).bytes(1 << 20)


def blob_summary(found: Mapping[tuple[str, str], Any]) -> dict[str, Any]:
    """Return what identifies blobs, whatever their order."""
    return {"count": len(found), "digest": digest(found)}


def make_points(job: Job) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return uniform positions and two attributes."""
    source = np.random.default_rng(1)
    positions = source.uniform(0, EXTENT, (job.points, 3)).astype(np.float32)
    np.minimum(positions, np.nextafter(np.float32(EXTENT), np.float32(0)), out=positions)  # the cast may round up to the edge
    intensity = source.random(job.points, np.float32)
    return positions, {"intensity": intensity, "label": source.integers(0, 1000, job.points, np.int32)}


def box_rows(positions: np.ndarray) -> np.ndarray:
    """Return which rows lie in the box."""
    inside: np.ndarray = np.all((positions >= BOX[0]) & (positions <= BOX[1]), axis=1)
    return inside


def cloud_digest(positions: Any, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the number of rows and a checksum of them that doesn't depend on their order."""
    columns = [*np.asarray(positions, np.float32).T, np.asarray(attributes["intensity"], np.float32)]
    row = row_hashes(*columns, np.asarray(attributes["label"], np.int32))
    return {"count": len(row), "digest": int(row.sum(dtype=np.uint64))}


def row_hashes(*columns: Any) -> np.ndarray:
    """Return a 64-bit hash of each row of some columns of numbers."""
    row = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        values = np.ascontiguousarray(column)
        row = (row ^ values.view(f"u{values.itemsize}")) * np.uint64(0x9E3779B97F4A7C15)
        row ^= row >> np.uint64(29)
    return row
