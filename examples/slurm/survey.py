"""The input that the scripts of this folder write: a survey from the air, in tiles.

Each tile is made from its number, by the process that asks for it; in your own copy, `read_tile` opens a file instead. Tiles
are squares beside each other, so a block of the store needs few of them. For trying out what takes long, the environment
variable SURVEY_SECONDS makes every tile take so long to read; tiles from number SURVEY_FROM on (0) wait while the file
SURVEY_HOLD is there.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import dask.array as da
import numpy as np
from numpy.typing import NDArray

import dask_zv as dzv

EDGE = 500.0  # of a tile, in metres
WATER = 30.0  # the river's surface
CHUNK = (100.0, 100.0, 100.0)


def height(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the ground's height in metres: hills, and a river that winds through them."""
    hills = 60 + 22 * np.sin(x / 310) * np.cos(y / 270) + 9 * np.sin(x / 97 + y / 61) + 3 * np.cos(x / 31 - y / 43)
    river = np.abs(y - 1000 - 330 * np.sin(x / 420)) / 90  # 0 in its middle, 1 where its banks end
    valley = 36 + (np.maximum(hills, 37) - 36) * (1 - np.exp(1 - np.maximum(river, 1)))
    return np.where(river < 1, 22 + 14 * river**2, valley)


def read_tile(number: int, side: int, points: int) -> NDArray[np.float64]:
    """Return x, y, z, intensity and class (2 ground, 5 tree, 9 water) of a tile's points, shape (points, 5)."""
    time.sleep(float(os.environ.get("SURVEY_SECONDS", "0")))
    hold = os.environ.get("SURVEY_HOLD")
    while hold and number >= int(os.environ.get("SURVEY_FROM", "0")) and Path(hold).exists():
        time.sleep(0.1)
    rng = np.random.default_rng((20_26, number))
    x = EDGE * (number % side + rng.random(points))
    y = EDGE * (number // side + rng.random(points))
    z = height(x, y)
    water = z < WATER
    tree = ~water & (np.sin(x / 53) + np.sin(y / 47) + np.sin((x + y) / 29) > 0.6) & (rng.random(points) < 0.8)
    z = np.maximum(z, WATER) + np.where(tree, rng.gamma(6, 2, points), rng.normal(scale=0.05, size=points))
    kind = np.where(water, 9, np.where(tree, 5, 2))
    intensity = np.clip(rng.normal(np.where(water, 20, np.where(tree, 90, 160)), 12), 0, 255)
    return np.column_stack([x, y, z, intensity, kind])


def open_survey(side: int, points: int) -> tuple[da.Array, dict[str, da.Array]]:
    """Return positions (N, 3) and attributes of `side` x `side` tiles of `points` points each; nothing is read yet."""

    def read(block_info: dict) -> NDArray[np.float64]:
        return read_tile(block_info[None]["chunk-location"][0], side, points)

    table = da.map_blocks(read, chunks=((points,) * side**2, (5,)), dtype=np.float64, meta=np.empty((0, 5)))
    attributes = {"intensity": table[:, 3].astype(np.float32), "class": table[:, 4].astype(np.uint8)}
    return table[:, :3].astype(np.float32), attributes


def open_or_create(path: str | Path) -> dzv.Store:
    """Return the store at `path`, to write to; an empty one where there is none. A job that comes again opens what it made."""
    if (Path(path) / "zarr.json").exists():
        return dzv.open(path, mode="r+")
    axes = [{"name": name, "type": "space", "unit": "meter"} for name in "xyz"]
    return dzv.create(path, chunk_shape=CHUNK, axes=axes)
