"""Speed of 2,000 tracks of cells: polylines with the time of each vertex as an attribute, and a map of where cells are fast.

It prints::

    141,490 places of 2,000 tracks in 164 chunks
             speed  straightness  minutes     rows
    count  2000.00       2000.00  2000.00  2000.00
    mean      4.02          0.53    34.87    70.74
    min       0.76          0.02     9.50    20.00
    max      12.01          0.97    59.00   119.00
    The speeds are those that the tracks were made with.
    Mean speed (µm/min) of what is in each fifth of the field, left to right: [2.79 2.84 3.93 5.38 5.43]
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import xarray as xr

import dask_zv as dzv

SIZE = 1000.0  # µm
INTERVAL = 30.0  # seconds between frames
TRACKS = 2_000


def make_tracks() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return persistent random walks, each at a speed of its own: positions, times, lengths and speeds in µm/min.

    Cells in the right half of the field are twice as fast.
    """
    rng = np.random.default_rng(0)
    lengths = rng.integers(20, 120, TRACKS)
    starts = rng.uniform(0, SIZE, (TRACKS, 2))
    speeds = rng.gamma(9, 0.3, TRACKS) * np.where(starts[:, 0] > SIZE / 2, 2, 1)
    positions, times = [], []
    for n, start, speed in zip(lengths, starts, speeds, strict=True):
        heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.4, n - 1))
        step = speed * INTERVAL / 60
        path = start + np.r_[np.zeros((1, 2)), np.cumsum(step * np.stack([np.cos(heading), np.sin(heading)], axis=1), axis=0)]
        positions.append(path)
        times.append((rng.integers(0, 60) + np.arange(n)) * INTERVAL)
    return np.concatenate(positions), np.concatenate(times), lengths, speeds


def motion(track: dzv.Geometry) -> dict[str, float]:
    """Return speed and straightness of one track; its vertices are in the order of the path."""
    places = track.positions.astype(np.float64)
    length = np.linalg.norm(np.diff(places, axis=0), axis=1).sum()
    minutes = np.ptp(track.attributes["time"]) / 60
    return {"speed": length / minutes, "straightness": np.linalg.norm(places[-1] - places[0]) / length, "minutes": minutes}


def main() -> None:
    positions, times, lengths, speeds = make_tracks()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tracks.zv"
        store = dzv.create(
            path,
            geometry="polyline",
            chunk_shape=(100, 100),
            axes=[{"name": name, "type": "space", "unit": "micrometer"} for name in "xy"],
        )
        speed_here = np.repeat(speeds, lengths)
        report = dzv.write_polylines(store, positions, lengths=lengths, attributes={"time": times, "speed": speed_here})
        print(f"{report.rows:,} places of {report.objects:,} tracks in {report.chunks} chunks")
        ds = xr.open_dataset(path, engine="zv")

        # tracks go through many chunks; every task puts those of its block together
        found = ds.zv.map_objects(motion, attributes=["time"], rows_per_task=50_000)
        print(f"{found.to_dataframe().describe().loc[['count', 'mean', 'min', 'max']].round(2).to_string()}")
        np.testing.assert_allclose(found.speed, speeds, rtol=1e-9)
        print("The speeds are those that the tracks were made with.")

        field = ds.zv.density(shape=5, dims="x", bounds=([0], [SIZE]), weights="speed", statistic="mean")
        print("Mean speed (µm/min) of what is in each fifth of the field, left to right:", field.to_numpy().round(2))


if __name__ == "__main__":
    main()
