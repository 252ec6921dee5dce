"""What the tests of golden stores compare with: the expected arrays, and the format's rules in plain Python.

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
import pytest

import dask_zv as dzv

DATA = Path(__file__).parents[1] / "data"
GENERATIONS = ("golden_0.7", "golden_0.9")
PATHS = ("line", "polyline", "streamline")
STORES = [p for g in GENERATIONS for p in sorted((DATA / g).glob("*.zarrvectors*"))]
every_store = pytest.mark.parametrize("path", STORES, ids=lambda p: f"{p.parent.name[-3:]}-{p.name.partition('.')[0]}")


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

    def named(self, prefix: str) -> dict[str, np.ndarray]:
        """Return the arrays of the truth whose names begin so, without that."""
        return {k.removeprefix(prefix): v for k, v in self.truth.items() if k.startswith(prefix)}

    @cached_property
    def attributes(self) -> dict[str, np.ndarray]:
        """Attributes of vertices; None for strings that are missing."""
        found = {**self.named("attr__"), **self.named("chunk_attr__")}
        out = {k: v for k, v in found.items() if not k.endswith("__missing")}
        for name in [k for k in out if f"{k}__missing" in found]:
            out[name] = out[name].astype(object)
            out[name][found[f"{name}__missing"]] = None
        return out

    @cached_property
    def owners(self) -> np.ndarray | None:
        """Object of each vertex; None in a store without objects."""
        if "offsets" in self.truth:
            return np.repeat(np.arange(len(self.truth["offsets"]) - 1), np.diff(self.truth["offsets"]))
        return self.truth.get("object_ids")

    @cached_property
    def ids(self) -> list[int]:
        if "offsets" in self.truth:
            return list(range(len(self.truth["offsets"]) - 1))
        return [] if self.owners is None else sorted(set(self.owners.tolist()))

    @cached_property
    def groups(self) -> dict[int, list[int]]:
        ends = self.truth.get("groups_offsets", np.zeros(1, int))
        return {g: self.truth["groups_flat"][ends[g] : ends[g + 1]].tolist() for g in range(len(ends) - 1)}

    @cached_property
    def chunks(self) -> list[tuple[int, ...]]:
        """Chunk of each vertex; an attribute may lead its key."""
        arguments = self.call["arguments"]
        found = [
            tuple(math.floor(float(x) / s) for x, s in zip(p, arguments["chunk_shape"], strict=True)) for p in self.positions
        ]
        if arguments.get("chunk_by_attribute") is None:
            return found
        values = self.truth[f"chunk_attr__{arguments['chunk_by_attribute']}"].tolist()
        return [(sorted(set(values)).index(v), *c) for v, c in zip(values, found, strict=True)]

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
