"""Writes of every kind that the tests of this folder begin, stop and run in parts."""

import json

import dask.array as da
import numpy as np
import pandas as pd
from points_reference import stored

import dask_zv as dzv

N = 4000
CHUNK = (20.0, 20.0, 20.0)
ROW = np.arange(N)
VERBS = {"streamline": "polylines", "skeleton": "skeletons", "graph": "graph", "mesh": "meshes"}


def points(seed=0):
    return np.random.default_rng(seed).uniform(0, 100, (N, 3)).astype(np.float32)


def lazily(values, chunks=500):
    return da.from_array(values, chunks=(chunks, *np.shape(values)[1:]))


def given(kind, seed=0):
    """Return (geometry, name of the verb, arguments) of a write of each kind."""
    where, rows = {"positions": lazily(points(seed))}, lazily(ROW)
    if kind == "frame":
        import dask.dataframe as dd

        frame = pd.DataFrame(points(seed), columns=["x", "y", "z"]).assign(kind=np.array(["a", "b"])[ROW % 2])
        where = {"positions": dd.from_pandas(frame, npartitions=5)}
    about = {
        "points": {"attributes": {"row": rows}},
        "array": {"positions": points(seed), "attributes": {"row": ROW}},
        "frame": {},
        "objects": {"object_ids": rows % 7, "object_attributes": {"a": np.arange(7.0)}, "groups": {0: [1, 2]}},
        "strings": {"attributes": {"s": lazily(np.array(["x", "y", None], object)[ROW % 3])}},
        "streamline": {"lengths": np.full(40, 100)},
        "skeleton": {"parents": ROW - 1, "object_ids": np.zeros(N, np.int64)},
        "graph": {"edges": np.stack([ROW[:500], ROW[:500] + 7], 1), "edge_attributes": {"w": np.arange(500.0)}},
        "mesh": {"faces": ROW[:600].reshape(200, 3)},
    }[kind]
    if kind in VERBS:
        return kind, VERBS[kind], {"positions": points(seed), **about}
    return "point_cloud", "points", {**where, **about}


def create(target, geometry="point_cloud", layout="grid", **options):
    return dzv.create(target, geometry=geometry, chunk_shape=CHUNK, layout=layout, **options)


def comparable(target):
    """Return every file but those that hold times of change or the store's own name."""
    found = stored(target)
    attributes = json.loads(found.pop("zarr.json"))["attributes"]
    return found, {k: v for k, v in attributes.items() if k not in ("zarr_vectors", "name", "multiscales", "ome")}
