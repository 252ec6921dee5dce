"""Three real neurons: the files as plain numpy arrays, and as Dask DataFrames whose partitions cut across neurons."""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd

FOLDER = Path(__file__).parents[2] / "examples" / "data" / "hemibrain"
NEURONS = (722817260, 754534424, 754538881)
FIRST = 1_000_000
"""Each file numbers from 1; a name that is distinct over all files is FIRST times the place of the neuron, plus that."""


@dataclass(frozen=True, eq=False)
class Table:
    """Vertices of all neurons, one file after the other.

    Attributes
    ----------
    positions : ndarray of float64, shape (N, 3)
    neurons : ndarray of int64, shape (N,)
    names : ndarray of int64, shape (N,)
        Of the vertices, as `links` call them.
    links : ndarray of int64, shape (N,) or (F, 3)
        Parents by name, -1 at roots; or faces.
    columns : dict of str to ndarray, shape (N,)
    """

    positions: np.ndarray
    neurons: np.ndarray
    names: np.ndarray
    links: np.ndarray
    columns: dict[str, Any]

    @property
    def rows_of_links(self) -> np.ndarray:
        """Links by row; -1 at roots."""
        rows = np.searchsorted(self.names, self.links)  # names ascend
        return np.where(self.links < 0, -1, rows)

    def frame(self) -> pd.DataFrame:
        """Return the vertices as a DataFrame."""
        points = dict(zip("xyz", self.positions.T, strict=True))
        names = {"name": self.names} if len(self.names) else {}
        return pd.DataFrame({**points, "neuron": self.neurons, **names, **self.columns})


@cache
def skeletons() -> Table:
    """Return all SWC files; columns radius and label."""
    parts = [np.loadtxt(FOLDER / f"{neuron}.swc") for neuron in NEURONS]
    number, label, x, y, z, radius, parent = np.concatenate(parts).T
    place = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
    names = (place * FIRST + number).astype(np.int64)
    parents = np.where(parent < 0, -1, place * FIRST + parent).astype(np.int64)
    columns = {"radius": radius, "label": label.astype(np.uint8)}
    return Table(np.stack([x, y, z], axis=1), np.take(NEURONS, place), names, parents, columns)


@cache
def meshes() -> Table:
    """Return all OBJ files."""
    vertices: list[list[float]] = []
    faces: list[list[int]] = []
    place: list[int] = []
    names: list[int] = []
    for at, neuron in enumerate(NEURONS):
        with gzip.open(FOLDER / f"{neuron}.obj.gz", "rt") as lines:
            for line in lines:
                kind, *values = line.split()
                if kind == "v":
                    vertices.append([float(v) for v in values])
                    names.append(at * FIRST + (names[-1] % FIRST + 1 if place and place[-1] == at else 1))
                    place.append(at)
                elif kind == "f":
                    faces.append([at * FIRST + int(v) for v in values])
    return Table(np.array(vertices), np.take(NEURONS, place), np.array(names), np.array(faces), {})


@cache
def synapses() -> Table:
    """Return all CSV files; columns type, roi (None where there is none) and confidence."""
    rows: list[tuple[int, dict[str, str]]] = []
    for neuron in NEURONS:
        with (FOLDER / f"{neuron}.synapses.csv").open(newline="") as lines:
            rows += [(neuron, row) for row in csv.DictReader(lines)]
    points = np.array([[float(row[a]) for a in "xyz"] for _, row in rows])
    neurons = np.array([neuron for neuron, _ in rows])
    columns = {
        "type": np.array([row["type"] for _, row in rows], object),
        "roi": np.array([row["roi"] or None for _, row in rows], object),
        "confidence": np.array([float(row["confidence"]) for _, row in rows]),
    }
    empty = np.zeros(0, np.int64)
    return Table(points, neurons, empty, empty, columns)


def frame_of(table: Table) -> dd.DataFrame:
    """Return the vertices in five partitions, shuffled, with a column of parents for trees: no partition holds a neuron."""
    frame = table.frame()
    if table.links.ndim == 1 and len(table.links):
        frame["parent"] = table.links
    return dd.from_pandas(frame.sample(frac=1, random_state=1), npartitions=5, sort=False)


def frame_of_faces(table: Table) -> dd.DataFrame:
    """Return the faces in four partitions, shuffled, with the number of each."""
    frame = pd.DataFrame(table.links, columns=["v0", "v1", "v2"]).assign(number=np.arange(len(table.links)))
    return dd.from_pandas(frame.sample(frac=1, random_state=2), npartitions=4, sort=False)


def cable(positions: np.ndarray, edges: np.ndarray) -> float:
    """Return the summed length of edges, in float64."""
    places = np.asarray(positions, np.float64)
    return float(np.linalg.norm(places[edges[:, 0]] - places[edges[:, 1]], axis=1).sum())


def area(positions: np.ndarray, faces: np.ndarray) -> float:
    """Return the summed area of triangles, in float64."""
    a, b, c = np.moveaxis(np.asarray(positions, np.float64)[faces], 1, 0)
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)
