"""Dask's arrays as expressions (``array.query-planning``): taken, or refused by name with what to set."""

import os
import subprocess
import sys

PROGRAM = """
import dask, dask.array as da, numpy as np, xarray as xr
import dask_zv as dzv

assert not hasattr(da.Array, "to_delayed"), "no expressions"
dask.config.set(scheduler="sync")
points = np.random.default_rng(0).uniform(0, 30, (400, 3))
x, y, z = (da.from_array(points[:, i], chunks=100) for i in range(3))
edges = np.stack([np.arange(399), np.arange(1, 400)], axis=1)


def new(geometry):
    return dzv.create({}, geometry=geometry, chunk_shape=(10, 10, 10))


def rows(store):
    return np.sort(store.level(0).read().positions, axis=0)


for table in (da.stack([x, y, z], axis=1).rechunk({1: -1}), da.from_array(points, chunks=(90, 2)), da.from_array(points)[:]):
    store = new("point_cloud")
    dzv.write_points(store, table, attributes={"n": np.arange(400), "lazy": x * 2})
    assert np.array_equal(rows(store), np.sort(points, axis=0))
lazy = da.from_array(points, chunks=(100, 3))
graph = new("graph")
dzv.write_graph(graph, lazy, edges=da.from_array(edges, chunks=(150, 2)), edge_attributes={"w": np.arange(399)})
assert len(graph.level(0).read().edges) == 399
paths = new("polyline")
dzv.write_polylines(paths, lazy, object_ids=da.from_array(np.repeat(np.arange(40), 10), chunks=100))
ds = xr.open_dataset(graph, engine="zv", chunks={})
assert ds.compute().sizes["vertex"] == len(ds.zv.to_dask_dataframe().compute()) == 400
assert int(ds.zv.density(spacing=10).sum()) == 400


def length(geometry):
    return len(geometry.positions)


lengths = np.full(40, 10)
for given in (lengths, da.from_array(lengths, chunks=10)):
    assert dzv.write_polylines(new("polyline"), lazy, lengths=given).objects == 40
ends = da.from_array(points.reshape(200, 2, 3), chunks=(50, 2, 3))
assert dzv.write_lines(new("line"), ends).objects == 200

refused = {
    "density": lambda: ds.zv.density(spacing=10, compute=False),
    "map_chunks": lambda: ds.zv.map_chunks(length, meta=np.int64(0), compute=False),
    "to_store": lambda: ds.zv.to_store({}, chunk_shape=(5, 5, 5)),
}
for name, call in refused.items():
    try:
        call()
    except dzv.InputError as error:
        assert "array.query-planning" in str(error) and "DASK_ARRAY__QUERY_PLANNING=False" in str(error), error
    else:
        raise AssertionError(name)
"""


def test_expressions_are_taken_or_refused_by_name():
    environment = {**os.environ, "DASK_ARRAY__QUERY_PLANNING": "True"}
    run = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
