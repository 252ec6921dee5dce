"""Open a store with xarray, select a box exactly, and compute on what is inside."""

import dask.array as da
import numpy as np
import xarray as xr

import dask_zv as dzv

rng = da.random.default_rng(1)
positions = rng.uniform(0, 1000, (1_000_000, 3), chunks=(100_000, 3)).astype("float32")
store = dzv.create("points.zv", chunk_shape=(100, 100, 100), overwrite=True)
dzv.write_points(store, positions, attributes={"mass": da.linalg.norm(positions, axis=1)})

ds = xr.open_dataset("points.zv", engine="zv", chunks={})
print(ds)

box = ((100, 100, 100), (350, 350, 350))
near = ds.zv.chunks_in(box)  # whole chunks, nothing is read
inside = ds.zv.sel(bbox=box)  # exactly the box: positions of the chunks that it cuts are read
print(f"{ds.sizes['vertex']:,} vertices, {near.sizes['vertex']:,} in chunks near the box, {inside.sizes['vertex']:,} in it")

mean = inside.mass.mean().compute()
expected = np.linalg.norm(np.stack([inside.x, inside.y, inside.z], axis=1), axis=1).mean()
assert np.isclose(mean, expected, rtol=1e-5)
print(f"mean mass in the box: {float(mean):.2f}")
