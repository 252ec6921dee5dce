"""What is written: small inputs of every kind, the same in every process, in blocks of a few kilobytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np

import dask_zv as dzv

N = 3000
CHUNK = (25.0, 25.0, 25.0)
BLOCK_BYTES = (6000, 12000)


@dataclass(frozen=True)
class Case:
    """One kind of write."""

    kind: str  # the end of the names ``write_…`` and ``plan_…``
    geometry: str
    layout: str
    shards: int | str
    before: str = ""  # what the level holds: nothing, "other" rows, or the same rows with other "objects"
    objects: bool = False  # points with objects, attributes of these, and groups

    @property
    def mode(self) -> str:
        return "overwrite" if self.before else "error"


CASES = {
    "points grid single": Case("points", "point_cloud", "grid", 1),
    "points grid packed": Case("points", "point_cloud", "grid", 8),
    "points per_chunk single": Case("points", "point_cloud", "per_chunk", 1),
    "points per_chunk packed": Case("points", "point_cloud", "per_chunk", 8),
    "objects grid": Case("points", "point_cloud", "grid", 8, objects=True),
    "objects per_chunk": Case("points", "point_cloud", "per_chunk", 1, objects=True),
    "polylines grid": Case("polylines", "streamline", "grid", 8),
    "polylines per_chunk": Case("polylines", "streamline", "per_chunk", 1),
    "skeletons grid": Case("skeletons", "skeleton", "grid", 8),
    "graph grid": Case("graph", "graph", "grid", 1),
    "overwrite grid single": Case("points", "point_cloud", "grid", 1, "other"),
    "overwrite grid packed": Case("points", "point_cloud", "grid", 8, "other"),
    "overwrite per_chunk": Case("points", "point_cloud", "per_chunk", 1, "other"),
    "overwrite per_chunk packed": Case("points", "point_cloud", "per_chunk", 8, "other"),
    "overwrite objects": Case("points", "point_cloud", "grid", 1, "objects", objects=True),
    "overwrite objects per_chunk": Case("points", "point_cloud", "per_chunk", 1, "objects", objects=True),
    "overwrite skeletons": Case("skeletons", "skeleton", "grid", 8, "other"),
    "overwrite polylines": Case("polylines", "streamline", "grid", 1, "other"),
}


def small_blocks() -> None:
    """Cut blocks of a few kilobytes in this process, as those of a large write are of megabytes."""
    dask.config.set({"dask_zv.write-block-bytes": BLOCK_BYTES})


def create(target: str | Path, case: Case) -> dzv.Store:
    """Make an empty store for a case."""
    return dzv.create(target, geometry=case.geometry, chunk_shape=CHUNK, layout=case.layout, shard_chunks=case.shards)


def write_arguments(case: Case, version: str = "new", change: str = "") -> dict[str, Any]:
    """Return the arguments of the "new" write, or of that before it; `change` is "a position", "an attribute", "the partitions"."""
    rows = N - 400 if version == "other" else N
    rng = np.random.default_rng(1 if version == "other" else 0)
    step = 700 if change == "the partitions" else 500
    if case.kind in ("polylines", "skeletons"):  # neighbours of a path lie near each other, and cross chunks now and then
        where = np.cumsum(rng.normal(0, 4, (rows, 3)), axis=0) % 100
    else:
        where = rng.uniform(0, 100, (rows, 3))
    where = where.astype(np.float32)
    numbers = np.arange(rows) + (10_000 if version == "other" else 0)
    if change == "a position":
        where[rows // 2, 1] = 50.0
    if change == "an attribute":
        numbers[7] = -1
    given: dict[str, Any] = {
        "positions": da.from_array(where, chunks=(step, 3)),
        "attributes": {"row": da.from_array(numbers, chunks=step)},
    }
    shift = 0.0 if version == "new" else 100.0
    if case.objects:
        given["object_ids"] = da.from_array(np.arange(rows) % 7, chunks=step)
        given["object_attributes"] = {"a": np.arange(7.0) + shift, "b": np.arange(7) + int(shift)}
        given["groups"] = {0: [1, 2], 1: [3]} if version == "new" else {0: [4, 5, 6], 1: [3]}
    elif case.kind == "polylines":
        given["lengths"] = np.full(rows // 100, 100)
        given["object_attributes"] = {"a": np.arange(rows // 100) + shift}
    elif case.kind == "skeletons":
        given["parents"] = np.where(np.arange(rows) % 500 == 0, -1, np.arange(rows) - 1)
        given["object_ids"] = da.from_array(np.arange(rows) // 500, chunks=step)
        given["object_attributes"] = {"a": np.arange(-(-rows // 500)) + shift}
    elif case.kind == "graph":
        given["edges"] = np.stack([np.arange(600), np.arange(600) + 7], axis=1)
        given["edge_attributes"] = {"w": np.arange(600.0)}
    return given
