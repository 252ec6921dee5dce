"""A whole write as one snapshot of an Icechunk repository, from a cluster: history, a branch, and a conflict.

    python examples/icechunk_cluster.py

Workers write into forks of the session. What they wrote is merged when the write ends, and readers see it once the session is
committed.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import dask.array as da
import icechunk
import xarray as xr
from distributed import Client, LocalCluster

import dask_zv as dzv

N = 200_000


def tracks(seed: int) -> da.Array:
    """Return points in four partitions; they are made by the tasks."""
    return da.random.default_rng(seed).uniform(0, 1000, (N, 3), chunks=(N // 4, 3)).astype("f4")


def main() -> None:
    """Write, overwrite on a branch, look back, and run into a conflict."""
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster),
    ):
        repo = icechunk.Repository.create(icechunk.local_filesystem_storage(str(Path(folder) / "repository")))

        store = dzv.create(repo.writable_session("main"), chunk_shape=(100, 100, 100))
        report = dzv.write_points(store, tracks(seed=1), attributes={"run": da.full(N, 1, chunks=N // 4)})
        first = store.commit("run 1")
        print(f"{report.rows:,} points in {report.blocks} blocks, one snapshot")

        repo.create_branch("again", first)
        store = dzv.open(repo.writable_session("again"), mode="r+")
        dzv.write_points(store, tracks(seed=2), attributes={"run": da.full(N, 2, chunks=N // 4)}, mode="overwrite")
        store.commit("run 2")

        for branch in ("main", "again"):
            ds = xr.open_dataset(repo.readonly_session(branch), engine="zv", chunks={})
            print(f"{branch}: run {int(ds['run'].mean())}, mean x {float(ds['x'].mean()):.1f}")

        mine, theirs = (dzv.open(repo.writable_session("again"), mode="r+") for _ in range(2))
        for write in (mine, theirs):
            dzv.write_points(write, tracks(seed=3)[:1000], mode="overwrite")
        theirs.commit("theirs")
        try:
            mine.commit("mine")
        except dzv.PlanError as error:
            print("refused:", str(error).partition(";")[0][:100])
        print("history:", [s.message for s in repo.ancestry(branch="again")][:-1])


if __name__ == "__main__":
    main()
