"""The worker of dask-zv for what ``compare_geometries.py`` runs on a ``distributed.LocalCluster``.

The cluster's processes are there, and have imported what they need, before the clock starts. Arrays that are written are loaded
by tasks, in parts: the client holds none of them. What is read comes to the client. See ``geometry_workload.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np

import dask_zv as dzv
from geometry_ours import open_level, put, shapes_of
from geometry_workload import PATH_LENGTH, Shapes, digest, load_rows
from grid_cluster import on_cluster
from grid_workload import Clock, Job, packages, run

PART = 1_000_000
"""Vertices of a part of the input, at most; at least there are two for each process."""


def lazy_inputs(job: Job) -> Shapes:
    """Return the arrays that were saved, cut into parts; paths and trees are whole in one."""
    paths = sorted(Path(job.inputs).glob("*.npy"))
    arrays = {path.stem: np.load(path, mmap_mode="r") for path in paths}
    parts = max(2 * job.workers, len(arrays["positions"]) // PART)
    columns = {}
    for path in paths:
        values = arrays[path.stem]
        unit = PATH_LENGTH if job.geometry in ("polylines", "skeletons") and path.stem != "lengths" else 1
        cuts = [round(i * (len(values) // unit) / parts) * unit for i in range(parts)] + [len(values)]
        shape = values.shape[1:]
        columns[path.stem] = da.map_blocks(
            load_block, path, cuts, chunks=(tuple(np.diff(cuts).tolist()), *((n,) for n in shape)), dtype=values.dtype,
            meta=np.empty((0,) * values.ndim, values.dtype),
        )  # fmt: skip
    return Shapes(**columns)


def load_block(path: Path, cuts: list[int], block_id: tuple[int, ...] = (0,)) -> np.ndarray:
    return load_rows(path, cuts[block_id[0]], cuts[block_id[0] + 1])


@on_cluster
def write(job: Job, clock: Clock) -> dict[str, Any]:
    with clock:
        shapes = lazy_inputs(job)
        put(job, shapes)
    return {"count": shapes.positions.shape[0]}


@on_cluster
def read(job: Job, clock: Clock) -> dict[str, Any]:
    with clock:
        found = open_level(job).read()
    return digest(job, shapes_of(found, job.geometry))


VERBS = {"write": write, "read": read}

if __name__ == "__main__":
    run(VERBS, {"dask-zv": dzv.__version__, **packages("dask", "distributed", "zarr", "numpy", "obstore")})
