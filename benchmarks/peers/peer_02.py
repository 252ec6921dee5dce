"""The worker of ``zarr-vectors`` 0.2, run by its own environment; see ``workload.py``.

Through its Group, with batched writes and batched reads, and for S3 zarr's ``ObjectStore`` over obstore: what its documents
recommend for many chunks.
"""

from __future__ import annotations

import importlib.metadata
import sys
import time
from pathlib import Path
from typing import Any

import zarr
from obstore.store import S3Store
from zarr.storage import LocalStore, ObjectStore
from zarr_vectors.core.group import Group

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from workload import ARRAYS, GROUP, Blobs, Task, run_worker


def open_root(task: Task, mode: Any) -> Group:
    if task.endpoint is None:
        return Group(zarr.open_group(LocalStore(task.target), mode=mode))
    inner: Any = S3Store.from_url(
        task.target,
        endpoint=task.endpoint,
        access_key_id="benchmark",
        secret_access_key="benchmark",
        region="us-east-1",
        client_options={"allow_http": True, "timeout": "600s"},  # by default a queued request gives up after 30 s
    )
    return Group(zarr.open_group(ObjectStore(inner, read_only=mode == "r"), mode=mode))


def write(task: Task, blobs: Blobs) -> None:
    level = open_root(task, "a").require_group(GROUP)
    addresses = list(blobs)
    step = (task.batch or task.chunks) * len(ARRAYS)
    for i in range(0, len(addresses), step):
        with level.batched_writes():
            for array, key in addresses[i : i + step]:
                level.write_bytes(array, key, blobs[array, key])


def read(task: Task) -> tuple[dict[tuple[str, str], bytes], dict[str, float]]:
    level = open_root(task, "r")[GROUP]
    start = time.perf_counter()
    keys = level.list_chunks(ARRAYS[0])
    listed = time.perf_counter() - start
    out = {}
    step = task.batch or len(keys)
    for i in range(0, len(keys), step):
        some = keys[i : i + step]
        with level.batched_reads([(array, some) for array in ARRAYS]):
            out.update({(array, key): level.read_bytes(array, key) for array in ARRAYS for key in some})
    return out, {"list_seconds": listed}


if __name__ == "__main__":
    run_worker(write, read, {"zarr-vectors": importlib.metadata.version("zarr-vectors")})
