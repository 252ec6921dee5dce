"""Cable length of real neurons: a function of every skeleton as a whole, whatever chunks it goes through.

It prints::

    13,909 nodes of 3 neurons in 63 chunks
                cable  branches  tips  rows
    object
    722817260  2197.6       633   656  4332
    754534424  2292.2       696   726  4696
    754538881  2330.1       626   642  4881
    The chunk with the most cable is 7.17.12: 1453.5 µm in 3843 nodes.
    93.9% of the cable is inside of chunks.
    Total cable length 6,819.9 µm, as in the files: 6,819.9 µm.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import dask.dataframe as dd
import numpy as np
import pandas as pd
import xarray as xr

import dask_zv as dzv

DATA = Path(__file__).resolve().parent / "data" / "hemibrain"
MICROMETRES = 0.008  # a voxel is a cube of 8 nm
PER_NEURON = 100_000  # every file numbers from 1: neuron * PER_NEURON + number is a number of its own


def read_nodes(path: Path) -> pd.DataFrame:
    """Return an SWC skeleton: a row to a node, which names its parent."""
    columns = ["number", "label", "x", "y", "z", "radius", "parent"]
    nodes = pd.read_csv(path, sep=" ", comment="#", header=None, names=columns)
    neuron = int(path.stem)
    nodes["node"] = neuron * PER_NEURON + nodes.pop("number")
    nodes["parent"] = (neuron * PER_NEURON + nodes["parent"]).where(nodes["parent"] >= 0, -1)
    return nodes.assign(neuron=neuron)


def measures(neuron: dzv.Geometry) -> dict[str, float]:
    """Return what is asked of each skeleton; `edges` are (child, parent), by row number."""
    children = np.bincount(neuron.edges[:, 1], minlength=len(neuron))
    return {"cable": cable(neuron), "branches": int((children > 1).sum()), "tips": int((children == 0).sum())}


def cable(part: dzv.Geometry) -> float:
    """Return the length of all edges in µm."""
    ends = part.positions.astype(np.float64)[part.edges]
    return float(np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1).sum() * MICROMETRES)


def cable_in_file(path: Path) -> float:
    """Return the same from the file, by plain pandas."""
    nodes = read_nodes(path).set_index("node")[["x", "y", "z", "parent"]]
    child = nodes[nodes["parent"] >= 0]
    parent = nodes.loc[child["parent"]]
    return (
        float(np.linalg.norm(child[["x", "y", "z"]].to_numpy() - parent[["x", "y", "z"]].to_numpy(), axis=1).sum())
        * MICROMETRES
    )


def main() -> None:
    files = sorted(DATA.glob("*.swc"))
    if not files:
        sys.exit(f"No skeletons in {DATA}: copy examples/data there; its README.md says where the files come from.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "skeletons.zv"
        store = dzv.create(
            path,
            geometry="skeleton",
            chunk_shape=(2000, 2000, 2000),
            axes=["x", "y", "z"],
            dtype="float32",
        )
        nodes = dd.from_map(read_nodes, files)  # a file to a partition, read by the tasks
        report = dzv.write_skeletons(
            store, nodes, parents="parent", vertex_ids="node", object_ids="neuron", attributes=["radius"]
        )
        print(f"{report.rows:,} nodes of {report.objects} neurons in {report.chunks} chunks")
        ds = xr.open_dataset(path, engine="zv")

        # positions and links are read, radii are not; only three numbers to a neuron travel
        found = ds.zv.map_objects(measures, attributes=[])
        print(f"{found.to_dataframe().round(1).to_string()}")

        # a function of every chunk sees the cable inside it: what goes from chunk to chunk is left out
        inside = ds.zv.map_chunks(cable, attributes=[])
        at = int(np.argmax(inside.to_numpy()))
        key = ".".join(str(int(inside[f"chunk_{axis}"][at])) for axis in "xyz")
        print(f"The chunk with the most cable is {key}: {float(inside[at]):.1f} µm in {int(inside.rows[at])} nodes.")
        print(f"{float(inside.sum() / found.cable.sum()):.1%} of the cable is inside of chunks.")

    expected = [cable_in_file(path) for path in files]
    assert found.object.to_numpy().tolist() == [int(path.stem) for path in files]
    np.testing.assert_allclose(found.cable, expected, rtol=1e-6)  # positions are stored as float32
    print(f"Total cable length {float(found.cable.sum()):,.1f} µm, as in the files: {sum(expected):,.1f} µm.")


if __name__ == "__main__":
    main()
