"""Write from a Dask cluster whose workers are SLURM jobs: `python write_on_slurm.py survey.zv`

Run it where a process may live long, or as a job of its own (driver.sbatch). Workers come and go; the write goes on. Where this
process ends before the write does, run it again: `resume=True` finishes what is there. The walltime below is short, for a try;
for real work take hours, and a lifetime well below it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import dask
from dask_jobqueue import SLURMCluster
from distributed import Client
from survey import open_or_create, open_survey

import dask_zv as dzv

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store")
    parser.add_argument("--side", type=int, default=4, help="tiles along each side of the survey (default 4)")
    parser.add_argument("--points", type=int, default=25_000, help="points of a tile (default 25,000)")
    parser.add_argument("--workers", type=int, default=2, help="jobs at a time (default 2)")
    parser.add_argument("--walltime", default="00:10:00", help="of a worker's job, HH:MM:SS (default 00:10:00)")
    parser.add_argument("--lifetime", default="8m", help="of a worker: it leaves by itself before the walltime (default 8m)")
    parser.add_argument("--stagger", default="1m", help="lifetimes differ by up to so much, more or less (default 1m)")
    parser.add_argument("--interface", help="network of the nodes, such as ib0")
    args = parser.parse_args()

    # a task whose worker died is tried again so often; the default, 3, is soon used up where nodes are taken away
    dask.config.set({"distributed.scheduler.allowed-failures": 10})
    cluster = SLURMCluster(
        cores=1,  # of a job, shared by its processes
        processes=1,
        memory="1 GB",
        walltime=args.walltime,
        interface=args.interface,
        scheduler_options={"interface": args.interface, "dashboard_address": ":0"},
        # lifetime + stagger < walltime: the worker hands its results to others, tells the scheduler, and leaves
        worker_extra_args=["--lifetime", args.lifetime, "--lifetime-stagger", args.stagger],
        job_script_prologue=[f"export PYTHONPATH={HERE}${{PYTHONPATH:+:$PYTHONPATH}}"],  # workers import survey.py
        log_directory="logs",
    )
    with cluster, Client(cluster):
        # adapt, not scale: the place of a worker that has left is taken by a new job
        cluster.adapt(minimum_jobs=1, maximum_jobs=args.workers, interval="2s")
        positions, attributes = open_survey(args.side, args.points)
        report = dzv.write_points(open_or_create(args.store), positions, attributes=attributes, resume=True, progress=True)
        print(report)


if __name__ == "__main__":
    main()
