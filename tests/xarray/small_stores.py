"""Small stores of every geometry whose parts can be changed one by one."""

from __future__ import annotations

from typing import Any

import dask
import numpy as np
import pandas as pd
from small_geometries import write_any

import dask_zv as dzv

KINDS = ("point_cloud", "polyline", "skeleton", "graph", "mesh")
OBJECTS = 12


def write_small(
    target: Any,
    kind: str,
    *,
    mode: str | None = None,
    layout: str = "grid",
    n: int = OBJECTS,
    ids: Any = None,
    score: float = 0.0,
    mass: float = 0.0,
    weight: float = 0.0,
    shift: float = 0.0,
    members: Any = (0, 1, 2),
    other_links: bool = False,
    chunk: float = 35.0,
    options: Any = None,
) -> Any:
    """Write `n` objects of 3 to 9 vertices; everything but what is given is the same at each call; mode as of the writers."""
    rng = np.random.default_rng(3)
    sizes = rng.integers(3, 10, n)
    rows = int(sizes.sum())
    positions = (rng.uniform(0, 60, (rows, 3)) + shift).astype(np.float32)
    ids = np.arange(n) if ids is None else np.asarray(ids)
    here, owner = np.arange(rows), np.repeat(ids, sizes)
    first = np.repeat(np.cumsum(sizes) - sizes, sizes)
    last = first if other_links else here - 1 - (kind == "mesh")
    links = np.stack([here, here - 1, last] if kind == "mesh" else [here, last], 1)[here > first + (kind == "mesh")]
    common: dict[str, Any] = {
        "attributes": {"mass": here + mass},
        "object_attributes": pd.DataFrame({"score": np.arange(n) + score}, index=ids),
        "groups": {0: list(members), 1: [int(ids[-1])]},
    }
    if mode is not None:
        common["mode"] = mode
    with dask.config.set(scheduler="sync"):
        if mode is None:
            store = dzv.create(
                target, geometry=kind, chunk_shape=(chunk,) * 3, layout=layout, storage_options=options, overwrite=True
            )
        else:
            store = dzv.open(target, "r+", storage_options=options)
        weights = {"weight": np.arange(len(links)) + weight}
        write_any(store, kind, positions, owner, links, weights, **common)
    return store
