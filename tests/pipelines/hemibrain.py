"""Three real neurons: the files as data to be written, and as Dask DataFrames whose partitions cut across neurons."""

import csv
import gzip
from functools import cache
from pathlib import Path

import dask.dataframe as dd
import numpy as np
import pandas as pd
from geometries_reference import Data

FOLDER = Path(__file__).parents[2] / "examples" / "data" / "hemibrain"
NEURONS = (722817260, 754534424, 754538881)
FIRST = 1_000_000
"""Each file numbers from 1; a name that is distinct over all files is FIRST times the place of the neuron, plus that."""


def data_of(geometry, positions, place, columns, **links):
    columns = {"number": np.arange(len(positions)), **columns}
    return Data(geometry, positions, np.take(NEURONS, place), np.array(NEURONS), columns, **links)


@cache
def skeletons():
    """Return all SWC files, and the names of nodes; attributes radius and label."""
    parts = [np.loadtxt(FOLDER / f"{neuron}.swc") for neuron in NEURONS]
    number, label, *xyz, radius, parent = np.concatenate(parts).T
    place = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
    names = (place * FIRST + number).astype(np.int64)
    parents = np.where(parent < 0, -1, np.searchsorted(names, place * FIRST + parent))  # names ascend
    about = {"radius": radius, "label": label.astype(np.uint8)}
    return data_of("skeleton", np.stack(xyz, axis=1), place, about, parents=parents), names


@cache
def meshes():
    """Return all OBJ files, and the names of vertices."""
    vertices, faces, place, firsts = [], [], [], []
    for at, neuron in enumerate(NEURONS):
        firsts.append(len(vertices))
        with gzip.open(FOLDER / f"{neuron}.obj.gz", "rt") as lines:
            for kind, *values in map(str.split, lines):
                if kind == "v":
                    vertices.append([float(v) for v in values])
                    place.append(at)
                elif kind == "f":
                    faces.append([firsts[at] + int(v) - 1 for v in values])
    names = np.take(np.arange(len(NEURONS)) * FIRST - firsts, place) + np.arange(len(place)) + 1
    about = {"number": np.arange(len(faces))}
    return data_of("mesh", np.array(vertices), place, {}, links=np.array(faces), link_attributes=about), names


@cache
def synapses():
    """Return all CSV files; attributes type, roi (None where there is none) and confidence."""
    rows = []
    for at, neuron in enumerate(NEURONS):
        with (FOLDER / f"{neuron}.synapses.csv").open(newline="") as lines:
            rows += [(at, row) for row in csv.DictReader(lines)]
    about = {
        "type": np.array([row["type"] for _, row in rows]),
        "roi": np.array([row["roi"] or None for _, row in rows], object),
        "confidence": np.array([float(row["confidence"]) for _, row in rows]),
    }
    points = np.array([[float(row[a]) for a in "xyz"] for _, row in rows])
    return data_of("point_cloud", points, [at for at, _ in rows], about), None


def named(links, names):
    """Return links by name instead of by row; -1 at roots."""
    return np.where(links < 0, -1, names[links])


def frame_of(data, names):
    """Return the vertices as a DataFrame, with a column of parents by name for trees."""
    columns = {**dict(zip("xyz", data.positions.T, strict=True)), "neuron": data.ids, **data.attributes}
    columns |= {} if names is None else {"name": names}
    return pd.DataFrame(columns if data.parents is None else {**columns, "parent": named(data.parents, names)})


def shuffled(frame, seed, partitions):
    """Return a DataFrame in partitions of which none holds a neuron."""
    return dd.from_pandas(frame.sample(frac=1, random_state=seed), npartitions=partitions, sort=False)


def frame_of_faces(data, names):
    return pd.DataFrame(names[data.links], columns=["v0", "v1", "v2"]).assign(number=np.arange(len(data.links)))


def size(positions, links):
    """Return the summed length of edges, or area of triangles, in float64."""
    ends = np.moveaxis(np.asarray(positions, np.float64)[links], 1, 0)
    sides = ends[1:] - ends[0]
    return float(np.linalg.norm(sides[0] if len(sides) == 1 else np.cross(*sides) / 2, axis=1).sum())
