"""The scripts of examples/slurm on a SLURM of one node: they write, they are killed, they are submitted again and finish.

`ci/hpc` starts that SLURM; SLURM_CONF says where it is. Every store is compared with one that was written undisturbed, in this process.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hpc_stores import SLURM, assert_same_store, environment, is_empty, wait_until, write_undisturbed

pytestmark = [pytest.mark.hpc, pytest.mark.timeout(600)]
ENDED = {"COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return write_undisturbed(tmp_path_factory.mktemp("undisturbed") / "survey.zv")


class Slurm:
    """The cluster, seen from a folder in which jobs are submitted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "survey.zv"
        self.receipts = folder / "job" / "receipts"

    def call(self, *command: str, seconds: float = 120, **variables: str) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=environment(**variables), capture_output=True, text=True, timeout=seconds, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def submit(self, **variables: str) -> tuple[str, str, str]:
        """Run submit.sh with two tasks; return the numbers of the jobs."""
        said = self.call("bash", str(SLURM / "submit.sh"), "survey.zv", "job", "2", **variables)
        plan, run, commit = re.findall(r"\d+", said)
        return plan, run, commit

    def states(self, job: str) -> set[str]:
        """States of a job, or of all tasks of an array."""
        shown = self.call("squeue", "--noheader", "--states=all", "--array", f"--jobs={job}", "--format=%T")
        return set(shown.split())

    def jobs(self) -> dict[str, str]:
        """Name and state of all jobs that SLURM remembers, by number."""
        shown = self.call("squeue", "--noheader", "--states=all", "--array", "--format=%i %j %T")
        return {number: f"{name} {state}" for number, name, state in (line.split() for line in shown.splitlines())}

    def wait(self, *jobs: str, seconds: float = 180) -> list[set[str]]:
        """Wait until jobs have ended; return their states."""
        wait_until(lambda: all(self.states(job) <= ENDED for job in jobs), seconds, self.logs)
        return [self.states(job) for job in jobs]

    def logs(self) -> str:
        """What the jobs printed, and the state of all, for the messages of tests."""
        files = sorted((self.folder / "logs").glob("*"))
        return "\n".join([self.call("scontrol", "show", "jobs"), *(f"== {p.name}\n{p.read_text()}" for p in files)])

    def log(self, pattern: str) -> str:
        return "\n".join(p.read_text() for p in sorted((self.folder / "logs").glob(pattern)))

    def stored(self) -> dict[str, int]:
        """Names of the receipts, and when each was written."""
        return {p.name: p.stat().st_mtime_ns for p in self.receipts.glob("[0-9]*")}


@pytest.fixture
def slurm(tmp_path):
    if "SLURM_CONF" not in os.environ or shutil.which("sbatch") is None:
        pytest.fail("no SLURM to test on: run ci/hpc, which starts one")
    cluster = Slurm(tmp_path)
    yield cluster
    for number, about in cluster.jobs().items():
        if about.split()[1] not in ENDED:
            subprocess.run(["scancel", number], check=False)
    wait_until(lambda: all(a.split()[1] in ENDED for a in cluster.jobs().values()), 60, cluster.logs)


def test_array_stores_what_one_graph_does(slurm, reference):
    jobs = slurm.submit()
    assert slurm.wait(*jobs) == [{"COMPLETED"}] * 3, slurm.logs()
    assert_same_store(slurm.store, reference)
    tasks = [slurm.log(f"zv-run-{jobs[1]}_{task}.out") for task in (0, 1)]
    assert all(log.count("BlockReceipt") >= 2 for log in tasks), "both tasks stored blocks"

    receipts = slurm.stored()
    again = slurm.submit()  # of a write that is done: nothing is stored, nothing breaks
    assert slurm.wait(*again) == [{"COMPLETED"}] * 3, slurm.logs()
    assert slurm.stored() == receipts
    assert_same_store(slurm.store, reference)


def test_array_killed_by_its_walltime_is_submitted_again(slurm, reference):
    python = environment()["DASK_ZV_PYTHON"]
    slurm.call(python, str(SLURM / "plan.py"), "survey.zv", "job")
    # the later half of the tiles is never there: however fast the machine is, there is work left at the walltime
    hold = slurm.folder / "hold"
    hold.touch()
    held = {"SURVEY_HOLD": str(hold), "SURVEY_FROM": "8"}
    jobs = slurm.submit(**held, SBATCH_TIMELIMIT="1", SBATCH_NO_REQUEUE="1")
    wait_until(slurm.stored, 150, slurm.logs)
    assert slurm.wait(*jobs, seconds=300) == [{"COMPLETED"}, {"TIMEOUT"}, {"CANCELLED"}], slurm.logs()
    kept = slurm.stored()
    blocks = int(re.findall(r"([\d,]+) blocks", slurm.log("zv-plan*"))[0])
    assert 0 < len(kept) < blocks, slurm.logs()
    assert is_empty(slurm.store), "without a commit a reader sees nothing"

    jobs = slurm.submit()
    assert slurm.wait(*jobs) == [{"COMPLETED"}] * 3, slurm.logs()
    assert {name: slurm.stored()[name] for name in kept} == kept
    assert slurm.log(f"zv-run-{jobs[1]}_*").count("is stored") == len(kept)
    assert_same_store(slurm.store, reference)


def test_task_goes_back_into_the_queue_before_its_walltime(slurm, reference):
    python = environment()["DASK_ZV_PYTHON"]
    slurm.call(python, str(SLURM / "plan.py"), "survey.zv", "job")
    jobs = slurm.submit(SURVEY_SECONDS="1.5")
    wait_until(lambda: len(slurm.stored()) >= 2, 60, slurm.logs)
    slurm.call("scancel", "--batch", "--signal=USR1", jobs[1])  # what --signal=B:USR1@120 does, two minutes before the walltime
    assert slurm.wait(*jobs) == [{"COMPLETED"}] * 3, slurm.logs()
    assert "Restarts=1" in slurm.call("scontrol", "show", "job", jobs[1])
    assert "back into the queue" in slurm.log("zv-run*")
    assert "is stored" in slurm.log("zv-run*")
    assert_same_store(slurm.store, reference)


def workers(slurm: Slurm, before: dict[str, str]) -> list[str]:
    """States of the jobs of Dask workers that were not there before."""
    jobs = {number: about for number, about in slurm.jobs().items() if number not in before}
    return [about.split()[1] for about in jobs.values() if about.startswith("dask-worker")]


def test_workers_that_leave_before_their_walltime_are_replaced(slurm, reference):
    before = slurm.jobs()
    options = ["--interface", "lo", "--lifetime", "26s", "--stagger", "12s"]
    hold = slurm.folder / "hold"
    hold.touch()

    def release() -> None:
        """Let the work go on once workers have left, and others have come."""
        wait_until(lambda: len(workers(slurm, before)) > 2 and "worker-lifetime-reached" in slurm.log("*.err"), 240, slurm.logs)
        hold.unlink()

    with ThreadPoolExecutor(1) as pool:
        released = pool.submit(release)
        slurm.call(
            "bash", "-c", 'exec "$DASK_ZV_PYTHON" "$SCRIPTS/write_on_slurm.py" survey.zv "$@"', "write", *options,
            seconds=400, SURVEY_SECONDS="0.5", SURVEY_HOLD=str(hold),
        )  # fmt: skip
        released.result()
    assert_same_store(slurm.store, reference)
    assert "worker-lifetime-reached" in slurm.log("*.err")
    states = workers(slurm, before)
    assert len(states) > 2, "others took the places of workers that left"
    assert set(states) <= {"COMPLETED", "CANCELLED", "COMPLETING"}, "SLURM killed none for its time"


def test_driver_killed_by_its_walltime_is_submitted_again(slurm, reference):
    def submit(limit: str, **variables: str) -> str:
        (slurm.folder / "logs").mkdir(exist_ok=True)
        command = ["sbatch", "--parsable", f"--time={limit}", str(SLURM / "driver.sbatch"), "survey.zv", "--interface", "lo"]
        return slurm.call(*command, **variables).strip()

    def journalled() -> int:
        return len(list((slurm.store / "0" / "dask_zv_journal" / "c").glob("[0-9]*")))

    first = submit("10", SURVEY_SECONDS="7")
    wait_until(journalled, 150, slurm.logs)
    slurm.call("scontrol", "update", f"JobId={first}", "TimeLimit=1")  # a minute that is over
    assert slurm.wait(first) == [{"TIMEOUT"}], slurm.logs()
    assert is_empty(slurm.store), "without a commit a reader sees nothing"
    wait_until(lambda: all(a.split()[1] in ENDED for a in slurm.jobs().values()), 120, slurm.logs)  # workers end by themselves
    kept = journalled()
    assert kept

    second = submit("10")
    assert slurm.wait(second) == [{"COMPLETED"}], slurm.logs()
    progress = slurm.log(f"zv-driver-{second}.out")
    assert re.search(rf"writing: {kept}/\d+ blocks", progress), progress  # it began with those of the first
    assert_same_store(slurm.store, reference)
