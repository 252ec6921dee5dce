"""Small stores for the tests of faulty storage: what is written, and what a reader makes of the result."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from fault_server import FaultServer

import dask_zv as dzv

KINDS = ("points", "packed points", "polylines", "points per chunk")
BOUNDS = ((0.0, 0.0), (60.0, 60.0))
CHUNK = (10.0, 10.0)
URL = "s3://bucket/s.zv"
BLOCK_BYTES = (1000, 2000)
"""Of a block, so that these small writes have some ten."""


def quick(server: FaultServer, timeout: str = "20s", **client: Any) -> dict[str, Any]:
    """Return storage options with which obstore gives up in a second or two, after three tries."""
    return {
        **server.storage_options,
        "client_options": {"timeout": timeout, **client},
        "retry_config": {
            "max_retries": 2,
            "retry_timeout": timedelta(seconds=10),
            "backoff": {"init_backoff": timedelta(milliseconds=5), "max_backoff": timedelta(milliseconds=20), "base": 2},
        },
    }


def unharmed(server: FaultServer) -> dict[str, Any]:
    """Return storage options of a client whose requests no rule hits."""
    return quick(server, user_agent="unharmed")


def make(kind: str, target: str, options: Mapping[str, Any] | None) -> dzv.Store:
    """Make an empty store for a kind of data."""
    return dzv.create(
        target,
        geometry="polyline" if kind == "polylines" else "point_cloud",
        chunk_shape=CHUNK,
        bounds=BOUNDS,
        shard_chunks=4 if kind == "packed points" else 1,
        layout="per_chunk" if kind == "points per chunk" else "grid",
        storage_options=options,
    )


def write(kind: str, store: dzv.Store, seed: int, **more: Any) -> Any:
    """Write 36 chunks of data; every seed gives chunks as many rows as every other, so that only values tell them apart."""
    function = dzv.write_polylines if kind == "polylines" else dzv.write_points
    return function(store, **_given(kind, seed), **more)


def plan(kind: str, store: dzv.Store, seed: int, **more: Any) -> Any:
    """Plan the same write."""
    function = dzv.plan_polylines if kind == "polylines" else dzv.plan_points
    return function(store, **_given(kind, seed), **more)


def _given(kind: str, seed: int) -> dict[str, Any]:
    mass = np.random.default_rng(seed).normal(size=600)
    rng = np.random.default_rng(1)
    if kind == "polylines":
        steps = rng.normal(scale=4.0, size=(30, 20, 2)).cumsum(axis=1) + rng.uniform(0, 60, (30, 1, 2))
        positions = np.clip(steps, 0.0, 59.9).reshape(-1, 2)
        shift = np.random.default_rng(seed).uniform(0, 0.01, positions.shape)
        return {"positions": np.floor(positions) + 0.5 + shift, "lengths": np.full(30, 20), "attributes": {"mass": mass}}
    positions = np.floor(rng.uniform(0, 60, (600, 2))) + np.random.default_rng(seed).uniform(0.1, 0.9, (600, 2))
    return {"positions": positions, "attributes": {"mass": mass}, "object_ids": np.arange(600) % 7}


def rows_of(store: dzv.Store) -> list[tuple[Any, ...]]:
    """Return what a level holds, in an order of its own."""
    found = store.level(0).read()
    ids = found.object_ids if found.object_ids is not None else np.zeros(len(found), np.int64)
    mass = found.attributes.get("mass", np.zeros(len(found)))
    return sorted(zip(*found.positions.T.tolist(), mass.tolist(), ids.tolist(), strict=True))


def look(target: str, options: Mapping[str, Any] | None, known: Mapping[str, list[Any]]) -> str:
    """Return which of the known contents a reader gets; "empty"; the name of its error; or "WRONG": anything else."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "the level is empty: a write is under way")
            rows = rows_of(dzv.open(target, storage_options=options))
    except dzv.ZVError as error:
        return type(error).__name__
    if not rows:
        return "empty"
    return next((name for name, content in known.items() if rows == content), "WRONG")


def put_down(objects: Mapping[str, bytes], folder: Path) -> Path:
    """Write objects as files: a store on S3, for readers of local ones."""
    for key, data in objects.items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder
