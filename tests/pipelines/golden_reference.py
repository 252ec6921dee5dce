"""What the tests of golden geometries compare with: the expected arrays, and the format's rules in plain Python.

Nothing here is fast, and nothing here is shared with the library.
"""

from __future__ import annotations

import json
import math
import shutil
import zipfile
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import dask_zv as dzv

DATA = Path(__file__).parents[1] / "data"
GENERATIONS = ("golden_0.7", "golden_0.9")
PATHS = ("line", "polyline", "streamline")


def golden_names(kinds: tuple[str, ...] | None = None) -> list[str]:
    """Return the golden stores of some kinds, by default all kinds but point clouds, as ``golden_0.9/mesh``."""
    out = []
    for generation in GENERATIONS:
        for file in sorted((DATA / generation).glob("*.expected.json")):
            kind = json.loads(file.read_text()).get("kind")
            if kind in kinds if kinds is not None else kind not in (None, "point_cloud"):
                out.append(f"{generation}/{file.name.removesuffix('.expected.json')}")
    return out


class Golden:
    """A store that the package wrote, and what is in it.

    Vertices are numbered as they were given to the package, from 0; lines are polylines of two vertices.
    """

    def __init__(self, name: str) -> None:
        generation, _, self.name = name.partition("/")
        self.old = generation == "golden_0.7"
        folder = DATA / generation
        self.path = next(
            p for p in (folder / f"{self.name}.zarrvectors", folder / f"{self.name}.zarrvectors.zip") if p.exists()
        )
        self.call = json.loads((folder / f"{self.name}.expected.json").read_text())
        self.kind: str = self.call.get("kind")
        self.truth: dict[str, Any] = {}
        if (folder / f"{self.name}.expected.npz").exists():
            with np.load(folder / f"{self.name}.expected.npz") as truth:
                self.truth = dict(truth)
        if "endpoints" in self.truth:
            ends = self.truth["endpoints"]
            self.truth["positions"] = ends.reshape(-1, ends.shape[2])
            self.truth["offsets"] = np.arange(len(ends) + 1) * 2

    @cached_property
    def store(self) -> dzv.Store:
        return dzv.open(self.path)

    @property
    def is_path(self) -> bool:
        return self.kind in PATHS

    @property
    def positions(self) -> np.ndarray:
        return self.truth["positions"]

    @property
    def order(self) -> np.ndarray:
        """Input numbers in reading order."""
        return self.truth["reading_order"]

    @cached_property
    def owners(self) -> np.ndarray:
        """Object of each vertex."""
        if "offsets" in self.truth:
            return np.repeat(np.arange(len(self.truth["offsets"]) - 1), np.diff(self.truth["offsets"]))
        return self.truth["object_ids"]

    @cached_property
    def ids(self) -> list[int]:
        return list(range(len(self.truth["offsets"]) - 1)) if "offsets" in self.truth else sorted(set(self.owners.tolist()))

    @cached_property
    def chunks(self) -> list[tuple[int, ...]]:
        """Chunk of each vertex."""
        shape = self.call["arguments"]["chunk_shape"]
        return [tuple(math.floor(float(x) / s) for x, s in zip(p, shape, strict=True)) for p in self.positions]

    @property
    def shares_fragments(self) -> bool:
        """Tell whether manifests name the one fragment of each chunk, whoever's vertices are in it: 0.7's meshes."""
        return self.old and self.kind == "mesh" and len(self.ids) > 1

    def expected_rows(self, keep: np.ndarray, order: str, objects: list[int] | None = None) -> list[int]:
        """Return the input numbers that a reader gets, in their order, of the vertices of `keep`."""
        rows = [int(r) for r in self.order if keep[r] and (objects is None or self.owners[r] in objects)]
        if order == "chunk":
            return rows
        if self.is_path:
            return sorted(rows)  # a path is as it was given
        return sorted(rows, key=lambda r: int(self.owners[r]))  # manifests name chunks in ascending order; the sort is stable

    def expected_runs(self, rows: list[int]) -> list[tuple[int, int]]:
        """Return (object, rows) of every unbroken run of the paths."""
        runs: list[list[int]] = []
        for i, row in enumerate(rows):
            if i and row == rows[i - 1] + 1 and self.owners[row] == self.owners[rows[i - 1]]:
                runs[-1][1] += 1
            else:
                runs.append([int(self.owners[row]), 1])
        return [(a, b) for a, b in runs]

    def unpacked(self, target: Path) -> Path:
        """Return a copy of the store as a directory."""
        if self.path.suffix == ".zip":
            with zipfile.ZipFile(self.path) as archive:
                archive.extractall(target)
        else:
            shutil.copytree(self.path, target)
        return target


def sorted_rows(links: np.ndarray, *more: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return links in lexicographic order, and other arrays in the same."""
    order = np.lexsort(links.T[::-1]) if len(links) else np.zeros(0, np.intp)
    return (links[order], *(m[order] for m in more))


def boxes_of(positions: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return boxes: all, the middle, a corner, one point, none, one side open."""
    low, high = positions.min(axis=0).astype(np.float64), positions.max(axis=0).astype(np.float64)
    size = high - low
    one = positions[len(positions) // 2].astype(np.float64)
    return [
        (low, high),
        (low + size / 4, high - size / 3),
        (low, low + size / 2),
        (one, np.nextafter(one, np.inf)),
        (high + 1, high + 2),
        (np.full_like(low, -np.inf), np.r_[high[:1] - size[:1] / 2, np.full(len(low) - 1, np.inf)]),
    ]
