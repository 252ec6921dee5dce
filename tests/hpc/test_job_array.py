"""The scripts of a job array as processes of this machine, without SLURM: some are killed, and started again they finish.

What a real SLURM does with them is in `test_slurm.py`.
"""

from __future__ import annotations

import runpy
import signal
import subprocess
import sys

import pytest
from hpc_stores import SLURM, assert_same_store, environment, is_empty, wait_until, write_undisturbed
from refusals import fails

import dask_zv as dzv

SURVEY = {"side": 2, "points": 50_000}


@pytest.fixture
def start(tmp_path):
    """Start a command in the folder of the test; what it prints goes to the file `log`."""
    running = []

    def begin(*command, **variables):
        with (tmp_path / "log").open("a") as log:
            running.append(
                subprocess.Popen(command, cwd=tmp_path, env=environment(**variables), stdout=log, stderr=log, text=True)
            )
        return running[-1]

    yield begin
    for process in running:
        if process.poll() is None:
            process.kill()
            process.wait(30)


def test_array_of_processes_is_killed_and_started_again(tmp_path, monkeypatch, capsys, start):
    store, job, log = tmp_path / "survey.zv", tmp_path / "job", tmp_path / "log"
    monkeypatch.syspath_prepend(str(SLURM))  # whoever loads the plan has to find survey.py

    def script(name, *arguments):
        """Run a script in this process, as `python name arguments`; return what it prints."""
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(SLURM / name), run_name="__main__")
        return capsys.readouterr().out

    def stored():
        return {path.name: path.stat().st_mtime_ns for path in (job / "receipts").glob("[0-9]*")}

    sizes = [text for name, value in SURVEY.items() for text in (f"--{name}", value)]
    script("plan.py", store, job, *sizes)
    plan = dzv.load_plan(job / "plan")
    assert len(plan) >= 4
    assert "is there" in script("plan.py", store, job, *sizes), "submitted again, a plan is kept"

    # task 0 of 2 is killed after its first block; task 1 runs in the script of the job, which is told that the walltime is near
    calls = tmp_path / "calls"
    control = tmp_path / "bin" / "scontrol"
    control.parent.mkdir()
    control.write_text(f'#!/bin/sh\necho "$@" >>"{calls}"\n')
    control.chmod(0o755)
    path = f"{control.parent}:{environment()['PATH']}"
    array = {"SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_JOB_ID": "7", "SURVEY_SECONDS": "0.3"}
    first = start(sys.executable, str(SLURM / "run.py"), str(job), **array, SLURM_ARRAY_TASK_ID="0")
    second = start("bash", str(SLURM / "run.sbatch"), str(job), **array, SLURM_ARRAY_TASK_ID="1", PATH=path)
    wait_until(lambda: first.poll() is not None or "000000" in stored(), 120, log.read_text)
    first.kill()
    wait_until(lambda: second.poll() is not None or "000001" in stored(), 120, log.read_text)
    second.send_signal(signal.SIGUSR1)
    assert first.wait(30) == -signal.SIGKILL, log.read_text()
    assert second.wait(120) == 0, "the signal ends a wait, not the work"
    assert calls.read_text() == "requeue 7_1\n"
    kept = stored()
    assert set(kept) == {"000000", "000001", "000003"}
    assert is_empty(store), "without a commit a reader sees nothing"
    fails(dzv.PlanError, r"no receipt of 1 of 4 blocks \(2\)", script, "commit.py", job)

    assert "block 0 is stored" in script("run.py", job, "--task", 0, "--tasks", 2)
    assert {name: stored()[name] for name in kept} == kept
    assert "200,000 rows" in script("commit.py", job)
    assert_same_store(store, write_undisturbed(tmp_path / "undisturbed" / "survey.zv", **SURVEY))


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_PROCID": "0"}, (2, 4)),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "3", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, (1, 3)),
        ({"PMI_RANK": "2", "PMI_SIZE": "3"}, (2, 3)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, (1, 2)),
        ({}, (0, 1)),
    ],
    ids=["array", "Open MPI in a job", "MPICH", "srun", "alone"],
)
def test_place_among_processes(variables, expected, monkeypatch):
    monkeypatch.syspath_prepend(str(SLURM))
    import run

    for name in {n for pair in run.PLACES for n in pair} | {"SLURM_ARRAY_TASK_MIN"}:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert run.place() == expected
