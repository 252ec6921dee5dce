#!/bin/bash
# Write the survey by MPI ranks without Dask's scheduler and without mpi4py: write_by_rank.sh STORE JOB_FOLDER [RANKS]
# The scripts of ../slurm do it: plan and commit are one process each, run.py takes its rank and their number from what mpirun
# puts into the environment. Ranks don't talk. Whatever was killed, run it again.
set -euo pipefail
store=${1:?where the store is to be} job=${2:?a folder for plan and receipts} ranks=${3:-2}
python=${DASK_ZV_PYTHON:-python}
scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")/../slurm" && pwd)

"$python" "$scripts/plan.py" "$store" "$job"
mpirun -n "$ranks" ${MPIRUN_OPTIONS:-} "$python" "$scripts/run.py" "$job"
"$python" "$scripts/commit.py" "$job"
