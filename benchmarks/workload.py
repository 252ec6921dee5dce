"""What every side of a comparison stores and reads, and how a worker process measures and reports; numpy alone.

A worker (``ours.py``, ``peers/peer_02.py``) is started afresh for one measurement, with the same command line on every side,
and prints one JSON object. Imports and the making of payloads are not in the time, opening the store is.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import importlib.metadata
import json
import platform
import resource
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ARRAYS = ("vertices", "vertex_attributes/intensity", "vertex_attributes/radius")
GROUP = "0"

Blobs = Mapping[tuple[str, str], bytes]


@dataclass(frozen=True, slots=True)
class Task:
    """One measurement: store or read `chunks` x 3 blobs of `size` bytes at `target`."""

    verb: str
    target: str
    chunks: int
    size: int
    endpoint: str | None
    shards: int | None
    batch: int | None


def chunk_keys(count: int) -> list[str]:
    """Return the keys of `count` chunks that fill a cube, the last axis fastest."""
    side = max(1, round(count ** (1 / 3) + 0.499))
    cells = np.stack(np.unravel_index(np.arange(count), (side, side, side)), axis=1)
    return [".".join(map(str, cell)) for cell in cells.tolist()]


def payloads(task: Task) -> dict[tuple[str, str], bytes]:
    """Return the blobs, of random bytes, which no codec makes smaller."""
    source = np.random.default_rng(0)
    return {(array, key): source.bytes(task.size) for key in chunk_keys(task.chunks) for array in ARRAYS}


def digest(blobs: Mapping[tuple[str, str], Any]) -> int:
    """Return a checksum of all blobs, in the order of their addresses."""
    total = 0
    for address in sorted(blobs):
        total = zlib.crc32(blobs[address], total)
    return total


def peak_memory() -> float:
    """Return the most memory that this process ever held, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # of this program alone: getrusage also counts what forked it
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def resident_memory() -> float:
    """Return the memory that this process holds, in MB; the most that it ever held, where the system doesn't say."""
    status = Path("/proc/self/status")
    return int(status.read_text().partition("VmRSS:")[2].split()[0]) / 1e3 if status.exists() else peak_memory()


def settled_memory() -> float:
    """Give back what nothing needs any more, let `peak_memory` tell the most from now on, and return the memory held, in MB."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # of glibc
        ctypes.CDLL(None).malloc_trim(0)
    return memory_from_now()


def memory_from_now() -> float:
    """Let `peak_memory` tell the most from now on, and return the memory held, in MB."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return resident_memory()


def run_worker(
    write: Callable[[Task, Blobs], None],
    read: Callable[[Task], tuple[dict[tuple[str, str], bytes], dict[str, float]]],
    versions: Mapping[str, str],
) -> None:
    """Do what the command line says and print the measurement."""
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["write", "read"])
    parser.add_argument("target")
    parser.add_argument("--chunks", type=int, required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--endpoint")
    parser.add_argument("--shards", type=int)
    parser.add_argument("--batch", type=int, help="chunks per batch; all in one where not given")
    task = Task(**vars(parser.parse_args()))
    extra: dict[str, float] = {}
    blobs: Blobs = payloads(task) if task.verb == "write" else {}
    before = peak_memory()
    start = time.perf_counter()
    if task.verb == "write":
        write(task, blobs)
    else:
        blobs, extra = read(task)
    seconds = time.perf_counter() - start
    result = {"seconds": seconds, **extra, "peak_mb": peak_memory(), "before_mb": before}
    shared = {name: importlib.metadata.version(name) for name in ("zarr", "numpy", "obstore")}
    versions = {**versions, "python": platform.python_version(), **shared}
    print(json.dumps({**result, "digest": digest(blobs), "versions": versions}))
