"""One store of points with everything that the engine must show, and the truth about it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from counting_store import CountingStore
from numpy.typing import NDArray
from small import always
from zarr.storage import MemoryStore

import dask_zv as dzv

N = 2_000
CHUNK = (10.0, 10.0, 20.0)


@dataclass
class Written:
    """A store, and its rows in reading order as the Group layer's reader gives them."""

    target: Any
    positions: NDArray[Any]
    attributes: dict[str, NDArray[Any]]
    object_ids: NDArray[Any]

    def open(self, **options: Any) -> xr.Dataset:
        return xr.open_dataset(self.target, engine="zv", **options)

    def inside(self, box: Any) -> NDArray[np.bool_]:
        low, high = np.asarray(box, float)
        return ((self.positions >= low) & (self.positions <= high)).all(axis=1)


def points(n: int = N, seed: int = 0) -> tuple[NDArray[Any], dict[str, NDArray[Any]], NDArray[Any]]:
    rng = np.random.default_rng(seed)
    positions = rng.uniform(-12, 28, (n, 3)).astype(np.float32)
    positions[: n // 10] = positions[: n // 10].round()  # some on the faces of chunks
    names = np.array(["soma", "axon", "dendrite"])[rng.integers(0, 3, n)]
    attributes = {
        "mass": rng.normal(size=n),
        "flag": rng.random(n) > 0.5,
        "colour": rng.integers(0, 255, (n, 3), dtype=np.uint8),
        "kind": names,
        "maybe": np.where(rng.random(n) > 0.8, None, names),
        "when": np.datetime64("2026-01-01", "s") + rng.integers(0, 10**6, n),
    }
    return positions, attributes, rng.integers(0, 40, n)


def write(target: Any, shard_chunks: Any = "auto", n: int = N, seed: int = 0) -> Written:
    positions, attributes, ids = points(n, seed)
    ids[:40] = np.arange(40)
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "xyz"]
    store = dzv.create(target, chunk_shape=CHUNK, axes=axes, shard_chunks=shard_chunks, overwrite=True)
    dzv.write_points(store, positions, attributes=attributes, object_ids=ids)
    read = dzv.open(target).level(0).read()
    return Written(target, read.positions, dict(read.attributes), read.object_ids)


_sync = always(scheduler="sync")


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A store on disk; don't write to it."""
    return write(str(tmp_path_factory.mktemp("engine") / "points.zv"))


@pytest.fixture
def counted() -> Written:
    """A fresh store in memory that counts its requests: nothing of it is in any cache."""
    return counted_store()


@pytest.fixture
def counted_sharded() -> Written:
    """The same in shards of 8 chunks."""
    return counted_store(8)


def counted_store(shard_chunks: int = 1) -> Written:
    store = CountingStore(MemoryStore())
    made = write(store, shard_chunks)
    store.forget()
    return made


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[..., Written]:
    """Return a function that writes new stores on disk."""
    return lambda **options: write(str(tmp_path / f"{uuid.uuid4().hex[:8]}.zv"), **options)
