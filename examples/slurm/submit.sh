#!/bin/bash
# Write the survey by a job array: submit.sh STORE JOB_FOLDER [TASKS [options of plan.py]]
# Three jobs, each after the one before: plan, TASKS tasks that store blocks, commit. Whatever was killed, run it again: a plan and
# receipts that are there are kept. DASK_ZV_PYTHON is the interpreter on the nodes, options of sbatch come from its own
# variables (SBATCH_PARTITION, SBATCH_ACCOUNT, SBATCH_TIMELIMIT...). Prints the numbers of the three jobs.
set -euo pipefail
store=${1:?where the store is to be} job=${2:?a folder for plan and receipts} tasks=${3:-4}
shift $(($# < 3 ? $# : 3))
SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export SCRIPTS    # sbatch copies a script: it can't find its neighbours by itself
mkdir -p logs

plan=$(sbatch --parsable "$SCRIPTS/plan.sbatch" "$store" "$job" "$@")
run=$(sbatch --parsable --dependency="afterok:$plan" --kill-on-invalid-dep=yes --array="0-$((tasks - 1))" \
    "$SCRIPTS/run.sbatch" "$job")
commit=$(sbatch --parsable --dependency="afterok:$run" --kill-on-invalid-dep=yes "$SCRIPTS/commit.sbatch" "$job")
echo "plan ${plan%%;*}, run ${run%%;*}, commit ${commit%%;*}"
