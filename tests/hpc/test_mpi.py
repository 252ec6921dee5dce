"""The scripts of examples/mpi under Open MPI on this machine: they write, a rank is killed, they run again and finish."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from hpc_stores import EXAMPLES, assert_same_store, environment, is_empty, wait_until, write_undisturbed

pytestmark = [pytest.mark.hpc, pytest.mark.timeout(300)]
OPTIONS = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1"}
DASK = ("mpirun", "-n", "4", "bash", "-c", 'exec "$DASK_ZV_PYTHON" "$@"', "rank")
SCRIPT = (str(EXAMPLES / "mpi" / "write_with_dask_mpi.py"), "survey.zv", "--interface", "lo")
BY_RANK = ("bash", str(EXAMPLES / "mpi" / "write_by_rank.sh"), "survey.zv", "job", "3")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    if shutil.which("mpirun") is None:
        pytest.fail("no mpirun: run ci/hpc, which installs Open MPI")
    return write_undisturbed(tmp_path_factory.mktemp("undisturbed") / "survey.zv")


@contextmanager
def running(folder: Path, *command: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command whose output goes to the file `log` of the folder; end it where it still runs in the end."""
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(**OPTIONS, **variables), stdout=log, stderr=log, text=True
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                for child in [*psutil.Process(process.pid).children(recursive=True), process]:
                    child.kill()
                process.wait(30)


def run(folder: Path, *command: str) -> str:
    with running(folder, *command) as process:
        status = process.wait(120)
    said = (folder / "log").read_text()
    assert status == 0, said
    return said


def kill_rank(process: subprocess.Popen[str], rank: int) -> None:
    """Kill the Python process that is this rank."""
    for child in psutil.Process(process.pid).children(recursive=True):
        variables = child.environ() if child.is_running() else {}
        if variables.get("OMPI_COMM_WORLD_RANK") == str(rank):
            os.kill(child.pid, signal.SIGKILL)
            return
    raise AssertionError(f"no process is rank {rank}")


def test_dask_on_ranks_stores_what_one_process_does(tmp_path, reference):
    assert "400,000 rows" in run(tmp_path, *DASK, *SCRIPT)
    assert_same_store(tmp_path / "survey.zv", reference)


def test_dask_on_ranks_goes_on_after_a_rank_was_killed(tmp_path, reference):
    store, log = tmp_path / "survey.zv", tmp_path / "log"

    def journalled() -> int:
        return len(list((store / "0" / "dask_zv_journal" / "c").glob("[0-9]*")))

    with running(tmp_path, *DASK, *SCRIPT, SURVEY_SECONDS="1.5") as process:
        wait_until(journalled, 120, log.read_text)
        kill_rank(process, 2)
        assert process.wait(60) != 0, "mpirun ends all when a rank dies"
    assert is_empty(store), "without a commit a reader sees nothing"
    kept = journalled()
    said = run(tmp_path, *DASK, *SCRIPT)
    assert re.search(rf"writing: {kept}/\d+ blocks", said), said
    assert_same_store(store, reference)


def test_an_error_in_the_script_fails_the_job(tmp_path, reference):
    (tmp_path / "survey.zv").mkdir()
    (tmp_path / "survey.zv" / "zarr.json").write_text("no metadata")
    with running(tmp_path, *DASK, *SCRIPT) as process:
        assert process.wait(90) != 0
    assert "Error" in (tmp_path / "log").read_text()


def test_ranks_without_dask_and_mpi4py(tmp_path, reference):
    receipts = tmp_path / "job" / "receipts"
    with running(tmp_path, *BY_RANK, SURVEY_SECONDS="0.7") as process:
        wait_until(lambda: list(receipts.glob("[0-9]*")), 120, (tmp_path / "log").read_text)
        kill_rank(process, 1)
        assert process.wait(60) != 0
    assert is_empty(tmp_path / "survey.zv"), "without a commit a reader sees nothing"
    kept = {path.name: path.stat().st_mtime_ns for path in receipts.glob("[0-9]*")}
    said = run(tmp_path, *BY_RANK)
    assert said.count("is stored") == len(kept)
    assert {name: (receipts / name).stat().st_mtime_ns for name in kept} == kept
    assert_same_store(tmp_path / "survey.zv", reference)
