"""Write points that are in memory, with attributes and objects, and read a box of them back. No cluster needed."""

import numpy as np

import dask_zv as dzv

rng = np.random.default_rng(0)
n, cells = 100_000, 50
centres = rng.uniform(100, 900, (cells, 3))
cell = rng.integers(0, cells, n)
positions = (centres[cell] + rng.normal(scale=25, size=(n, 3))).astype(np.float32)

store = dzv.create(
    "cells.zv",
    chunk_shape=(250, 250, 250),
    axes=[{"name": name, "type": "space", "unit": "micrometer"} for name in "xyz"],
    overwrite=True,
)
report = dzv.write_points(
    store,
    positions,
    attributes={
        "intensity": rng.random(n, dtype=np.float32),
        "colour": rng.integers(0, 255, (n, 3), dtype=np.uint8),  # channels: (N, C)
        "stage": np.array(["G1", "S", "G2", "M"])[rng.integers(0, 4, n)],  # strings become categories
    },
    object_ids=cell,
    object_attributes={"volume": rng.uniform(200, 400, cells)},
)
print(report)
print(store)

level = dzv.open("cells.zv").level(0)
box = ((300, 300, 300), (700, 700, 700))
inside = level.read(bbox=box)
expected = ((positions >= box[0]) & (positions <= box[1])).all(axis=1)
assert len(inside.positions) == expected.sum()
print(f"{len(inside.positions):,} points in the box, of stages {sorted(set(inside.attributes['stage'].tolist()))}")

one = level.read(objects=7, order="object")
assert len(one.positions) == (cell == 7).sum()
print(f"object 7: {one.lengths[0]:,} points, volume {one.object_attributes['volume'][0]:.1f}")
