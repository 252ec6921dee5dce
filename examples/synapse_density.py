"""Where three real neurons have their synapses: counted on a grid of cells, chunk by chunk, and checked against the files.

It prints::

    9,089 synapses of 3 neurons in 46 chunks
    16 x 21 x 15 cells, 87 with synapses
    x        y        z
    15347.0  36030.0  24715.0    912
             34780.0  25965.0    907
             36030.0  25965.0    850
    16597.0  36030.0  25965.0    794
    15347.0  34780.0  24715.0    641
    neuron 722817260: 3,136 synapses, at most 711 in a column of 10 x 10 µm, at x = 123 µm, y = 278 µm
    neuron 754534424: 3,010 synapses, at most 919 in a column of 10 x 10 µm, at x = 123 µm, y = 288 µm
    neuron 754538881: 2,943 synapses, at most 622 in a column of 10 x 10 µm, at x = 123 µm, y = 278 µm
    mean confidence of a cell: 0.56 to 1.00
    All 9,089 synapses counted, in the cells that the files say.
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
AXES = [{"name": name, "type": "space", "unit": "8 nanometer"} for name in "xyz"]  # a voxel is a cube of 8 nm
CELL = 1250  # voxels: 10 µm


def read_synapses(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path, usecols=["x", "y", "z", "type", "confidence"])
    return table.assign(neuron=int(path.name.partition(".")[0]))


def main() -> None:
    files = sorted(DATA.glob("*.synapses.csv"))
    if not files:
        sys.exit(f"No synapses in {DATA}: copy examples/data there; its README.md says where the files come from.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "synapses.zv"
        store = dzv.create(path, chunk_shape=(2000, 2000, 2000), axes=AXES, dtype="float32")
        synapses = dd.from_map(read_synapses, files)  # a file to a partition, read by the tasks
        report = dzv.write_points(store, synapses, attributes=["type", "confidence"], object_ids="neuron")
        print(f"{report.rows:,} synapses of {report.objects} neurons in {report.chunks} chunks")
        ds = xr.open_dataset(path, engine="zv")

        # a task for a block of chunks; only the cells that it has synapses in travel
        counts = ds.zv.density(spacing=CELL)
        print(f"{counts.sizes['x']} x {counts.sizes['y']} x {counts.sizes['z']} cells, {int((counts > 0).sum())} with synapses")
        dense = counts.stack(cell=("x", "y", "z")).to_series().sort_values(ascending=False, kind="stable")
        print(dense.head(5).to_string())

        # the same grid, seen along z, for each neuron
        views = {n: ds.zv.density(spacing=CELL, dims=["x", "y"], objects=int(n)) for n in np.unique(ds.object_id)}
        for neuron, view in views.items():
            x, y = np.unravel_index(np.argmax(view.to_numpy()), view.shape)
            print(f"neuron {neuron}: {int(view.sum()):,} synapses, at most {int(view.max())} in a column of 10 x 10 µm, "
                  f"at x = {float(view.x[x]) * 0.008:.0f} µm, y = {float(view.y[y]) * 0.008:.0f} µm")  # fmt: skip

        # how sure the detection is of its synapses, cell by cell
        sure = ds.zv.density(spacing=CELL, weights="confidence", statistic="mean")
        print(f"mean confidence of a cell: {float(sure.min()):.2f} to {float(sure.max()):.2f}")

    every = pd.concat(map(read_synapses, files))
    edges = [np.append(counts[a] - CELL / 2, counts[a].attrs["upper"]) for a in "xyz"]
    expected, _ = np.histogramdd(every[list("xyz")].to_numpy(), edges)
    assert (counts.to_numpy() == expected).all()
    assert (sum(views.values()) == counts.sum("z")).all()
    print(f"All {int(counts.sum()):,} synapses counted, in the cells that the files say.")


if __name__ == "__main__":
    main()
