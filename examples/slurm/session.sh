#!/bin/bash
# The session that the notebook "writing from SLURM" shows; recorded by: ci/hpc bash examples/slurm/session.sh > examples/slurm/session.txt
# A job array is killed by its walltime (each tile takes 6 s to read, and a task may run for a minute) and submitted again.
set -euo pipefail
scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

try() {
    printf '$ %s\n' "$*"
    PATH=$scripts:$PATH bash -c "$*" 2>&1 | sed "s#$folder#/scratch/me#g"
    echo
}

jobs='squeue --states=all --array --format="%6i %10j %10T %6M %10l" --sort=i'
ended() { while squeue --noheader | grep -q .; do sleep 0.5; done; }

try sinfo --version
try SURVEY_SECONDS=0 "${DASK_ZV_PYTHON:-python}" "$scripts/plan.py" survey.zv job | sed "s#${DASK_ZV_PYTHON:-python} $scripts/#python #"
try SURVEY_SECONDS=6 SBATCH_TIMELIMIT=1 SBATCH_NO_REQUEUE=1 submit.sh survey.zv job 2
sleep 25
try "$jobs"
ended
try "$jobs"
try 'tail -n 2 logs/zv-run-*_0.out'
try ls job/receipts
try submit.sh survey.zv job 2
ended
try "$jobs"
try 'cat logs/zv-run-*_0.out | tail -n 4'
try 'cat logs/zv-commit-*.out'
