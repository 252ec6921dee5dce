"""What the sides of ``compare_grid.py`` are held against besides the peer: the same bytes in few objects, and Parquet.

"packed" stores one object per 256 chunks and array, through obstore, with no metadata at all: what a writer and a reader that
pack can't beat. Parquet, compressed with zstd and sorted by chunk, is what a user would otherwise take for points.
"""

from __future__ import annotations

import asyncio
import io
import os
import sys
from collections.abc import Coroutine
from typing import Any

import numpy as np
import obstore
import pyarrow as pa
import pyarrow.parquet as pq
from obstore.store import LocalStore, S3Store

from grid_workload import ARRAYS, Clock, Job, blob_summary, blobs, chunk_keys, make_points, packages, run

PACK = 256
IN_FLIGHT = 32


def make_store(job: Job) -> LocalStore | S3Store:
    if job.endpoint is None:
        return LocalStore(job.target, mkdir=True)
    return S3Store.from_url(
        job.target,
        endpoint=job.endpoint,
        access_key_id="benchmark",
        secret_access_key="benchmark",
        region="us-east-1",
        client_options={"allow_http": True},
    )


async def gather(calls: list[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Run all of them, a bounded number at a time."""
    room = asyncio.Semaphore(IN_FLIGHT)

    async def one(call: Coroutine[Any, Any, Any]) -> Any:
        async with room:
            return await call

    return await asyncio.gather(*map(one, calls))


def packs(job: Job) -> dict[str, list[tuple[str, str]]]:
    """Return the addresses of the blobs of each object."""
    keys = chunk_keys(job)
    starts = range(0, len(keys), PACK)
    return {f"{array}/{i}": [(array, key) for key in keys[i : i + PACK]] for array in ARRAYS for i in starts}


def write_blobs(job: Job, clock: Clock) -> dict[str, Any]:
    payload = blobs(job)
    plan = packs(job)

    async def write(store: LocalStore | S3Store) -> None:
        await gather([obstore.put_async(store, path, b"".join(payload[a] for a in inside)) for path, inside in plan.items()])

    with clock:
        asyncio.run(write(make_store(job)))
    return blob_summary(payload)


def read_blobs(job: Job, clock: Clock) -> dict[str, Any]:
    plan = packs(job)

    async def fetch(store: LocalStore | S3Store, path: str) -> bytes:
        return bytes(await (await obstore.get_async(store, path)).bytes_async())

    async def read(store: LocalStore | S3Store) -> list[bytes]:
        return await gather([fetch(store, path) for path in plan])

    found = {}
    with clock:
        for inside, data in zip(plan.values(), asyncio.run(read(make_store(job))), strict=True):
            found.update({a: data[i * job.blob_bytes : (i + 1) * job.blob_bytes] for i, a in enumerate(inside)})
    return blob_summary(found)


def write_parquet(job: Job, clock: Clock) -> dict[str, Any]:
    positions, attributes = make_points(job)
    with clock:
        chunk = np.ravel_multi_index((positions / np.array(job.chunk_shape)).astype(np.intp).T, job.grid)
        order = np.argsort(chunk, kind="stable")
        columns = dict(zip("xyz", positions[order].T, strict=True)) | {k: v[order] for k, v in attributes.items()}
        sink = io.BytesIO()
        pq.write_table(pa.table(columns), sink, compression="zstd")
        obstore.put(make_store(job), "points.parquet", sink.getvalue())
    return {"stored_bytes": sink.tell(), "count": len(positions)}


if __name__ == "__main__":
    verbs = {"write blobs": write_blobs, "read blobs": read_blobs, "ingest": write_parquet}
    run(verbs, packages("obstore", "pyarrow", "numpy"))
    # its answer is printed: obstore's runtime sometimes aborts (SIGABRT) while the interpreter ends
    sys.stdout.flush()
    os._exit(0)
