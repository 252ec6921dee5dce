"""Write from a Dask cluster whose processes are MPI ranks: `mpirun -n 4 python write_with_dask_mpi.py survey.zv`

Rank 0 is the scheduler, rank 1 runs this script, the others are workers: at least 3 ranks. Where MPI ends the job, for its
walltime or because a rank died, run it again: `resume=True` finishes what is there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import dask_mpi
from distributed import Client

import dask_zv as dzv

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "slurm"))
from survey import open_or_create, open_survey  # every rank runs this script, so workers find it, too


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store")
    parser.add_argument("--side", type=int, default=4, help="tiles along each side of the survey (default 4)")
    parser.add_argument("--points", type=int, default=25_000, help="points of a tile (default 25,000)")
    parser.add_argument("--interface", help="network of the nodes, such as ib0")
    args = parser.parse_args()

    # all but rank 1 stay in here until that is done
    dask_mpi.initialize(interface=args.interface, nthreads=1, dashboard=False, dashboard_address=":0")
    with Client():
        positions, attributes = open_survey(args.side, args.points)
        report = dzv.write_points(open_or_create(args.store), positions, attributes=attributes, resume=True, progress=True)
        print(report)


if __name__ == "__main__":
    main()
