"""A local file system that refuses in the middle of a write: the error says why, readers are told, the same write then finishes."""

from __future__ import annotations

import random
from contextlib import closing

import pytest
from line_process import LineProcess
from local_trials import LocalTrials, owned_folder, small_disk
from writer_trials import PROGRAM

pytestmark = pytest.mark.usefixtures("sync_scheduler")

WRITES = [("points", "empty"), ("packed points", "old"), ("points per chunk", "empty"), ("polylines", "empty")]


def moments(name, number):
    rng = random.Random(name)
    return [(*WRITES[i % len(WRITES)], rng.random()) for i in range(number)]


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """Trials on a file system of a few megabytes."""
    try:
        with small_disk(tmp_path_factory.mktemp("disk") / "mounted") as folder:
            yield LocalTrials(folder)
    except (PermissionError, FileNotFoundError) as error:
        pytest.skip(f"{error}: see the tests of files that may not be large")


@pytest.fixture(scope="module")
def other_user():
    """Trials by a process of a user whom modes bind: where this one is root, nobody."""
    with owned_folder() as (folder, arguments), closing(LineProcess(PROGRAM, *arguments)) as process:
        try:
            process.hear()
        except RuntimeError as error:
            pytest.skip(f"no process of another user can run here: {error}")
        yield LocalTrials(folder, process)


@pytest.mark.parametrize(
    ("fault", "trials"),
    [
        ("disk_full", "disk"),
        ("no_inodes", "disk"),
        ("permission_lost", "other_user"),  # no directory may be written to any more from some file on
        ("file_too_large", "other_user"),  # the system takes a part of what is larger than some limit
    ],
)
def test_a_write_that_the_system_refuses(fault, trials, request):
    trials = request.getfixturevalue(trials)
    for kind, before, where in moments(fault, 4):
        trial = getattr(trials, fault)(kind, before, where)
        assert trial.outcome == "StoreError"
        assert trial.resumed == "finished"
        assert not trial.complaints, trial
