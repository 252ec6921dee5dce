"""The Group layer: named blobs in one graph, whole blocks made and stored by the tasks that make them."""

import dask
import numpy as np

import dask_zv as dzv

ARRAY = "vertices"


@dask.delayed
def encode(keys: list[str]) -> dict[tuple[str, str], bytes]:
    """Return the blobs of one block of chunks; the bytes never leave the worker that makes them."""
    blobs = {}
    for key in keys:
        i, j = map(int, key.split("."))
        points = np.random.default_rng((i, j)).uniform((i, j), (i + 1, j + 1), (500, 2))
        blobs[ARRAY, key] = points.astype(np.float32).tobytes()
    return blobs


group = dzv.open_group("blobs.zv", "w")
with group.batched_writes(shards=64) as batch:  # 64 chunks a shard: one stored object for many blobs
    for i in range(0, 32, 8):
        for j in range(0, 32, 8):
            keys = [f"{i + di}.{j + dj}" for di in range(8) for dj in range(8)]
            batch.write_blobs(encode(keys), keys=[(ARRAY, key) for key in keys])
    group.write_array_meta(ARRAY, {"dtype": "float32"})
print(batch.report)

keys = group.list_chunks(ARRAY)
assert len(keys) == 32 * 32
with group.batched_reads([(ARRAY, keys[:100])]):  # fetched at once, served from memory inside
    points = [np.frombuffer(group.read_bytes(ARRAY, key), np.float32).reshape(-1, 2) for key in keys[:100]]
print(f"{len(keys):,} chunks; {sum(map(len, points)):,} points in the first 100; attributes {group.read_array_meta(ARRAY)}")
