"""One store in two forms: packed for clusters and object stores, one object per chunk for tools that read cell by cell."""

import tempfile
from pathlib import Path

import numpy as np

import dask_zv as dzv

folder = Path(tempfile.mkdtemp())
rng = np.random.default_rng(0)
store = dzv.create(folder / "packed.zv", chunk_shape=(25, 25, 25), axes=["x", "y", "z"], shard_chunks=(4, 4, 4))
report = dzv.write_points(store, rng.uniform(0, 500, (200_000, 3)), attributes={"mass": rng.random(200_000)})
print(f"packed:   {report.chunks:,} chunks of {len(report.arrays)} arrays in {report.files:,} files")

report = dzv.convert(store, folder / "single.zv", shard_chunks=1)
print(f"single:   {report.chunks:,} chunks of {len(report.arrays)} arrays in {report.files:,} files")

report = dzv.convert(store, folder / "older.zv", layout="per_chunk", shard_chunks=64)
print(f"ZV 0.7:   {report.chunks:,} chunks of {len(report.arrays)} arrays in {report.files:,} files")

box = ((100, 100, 100), (160, 160, 160))
counts = {len(dzv.open(folder / f"{name}.zv").level(0).read(bbox=box).positions) for name in ("packed", "single", "older")}
print(f"points in the box {box}: {counts}")
