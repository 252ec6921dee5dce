"""Second step of three: store the blocks of one of many processes, each with a receipt. `python run.py job`

Which of how many processes this is comes from the environment: a task of a SLURM job array, a task of `srun`, or a rank of
`mpirun`; or from `--task I --tasks N`. Blocks that have a receipt are not stored again, so a process that was killed is
simply started again.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import dask

import dask_zv as dzv

PLACES = (
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),  # Open MPI
    ("PMI_RANK", "PMI_SIZE"),  # MPICH, Intel MPI
    ("SLURM_PROCID", "SLURM_NTASKS"),  # srun
)


def place() -> tuple[int, int]:
    """Return which of how many processes this is."""
    for rank, size in PLACES:
        if rank in os.environ and size in os.environ:
            first = int(os.environ.get("SLURM_ARRAY_TASK_MIN", "0")) if rank == "SLURM_ARRAY_TASK_ID" else 0
            return int(os.environ[rank]) - first, int(os.environ[size])
    return 0, 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", type=Path, help="folder of the plan and the receipts")
    parser.add_argument("--task", type=int, help="which process this is, from 0")
    parser.add_argument("--tasks", type=int, help="how many there are")
    args = parser.parse_args()
    task, tasks = (args.task, args.tasks) if args.tasks else place()

    plan = dzv.load_plan(args.job / "plan")
    # threads read a block's input side by side: as many as the job has CPUs, not as the node has
    threads = int(os.environ.get("SLURM_CPUS_PER_TASK", "1"))
    with dask.config.set(scheduler="threads", num_workers=threads):
        for block in range(task, len(plan), tasks):
            receipt = args.job / "receipts" / f"{block:06d}"
            if receipt.exists():
                print(f"block {block} is stored")
                continue
            done = plan.run(block)
            done.save(receipt)
            print(done, flush=True)


if __name__ == "__main__":
    main()
