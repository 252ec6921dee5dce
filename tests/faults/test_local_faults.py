"""A local file system that refuses in the middle of a write: the error says why, readers are told, the same write then finishes."""

from __future__ import annotations

import random

import pytest
from local_trials import LocalTrials, owned_folder, small_disk
from writer_trials import Process

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
    with owned_folder() as (folder, arguments):
        process = Process(*arguments)
        try:
            try:
                process.wait_ready()
            except RuntimeError as error:
                pytest.skip(f"no process of another user can run here: {error}")
            yield LocalTrials(folder, process)
        finally:
            process.close()


@pytest.mark.parametrize("inodes", [False, True], ids=["bytes", "inodes"])
def test_disk_full(inodes, disk):
    for kind, before, where in moments("full", 4):
        trial = disk.disk_full(kind, before, where, inodes=inodes)
        assert trial.outcome == "StoreError"
        assert trial.resumed == "finished"
        assert not trial.complaints, trial


def test_permission_lost(other_user):
    """No directory may be written to any more from some file on."""
    for kind, before, where in moments("permission", 4):
        trial = other_user.permission_lost(kind, before, where)
        assert trial.outcome == "StoreError"
        assert trial.resumed == "finished"
        assert not trial.complaints, trial


def test_files_that_may_not_be_large(other_user):
    """The system refuses what is larger than some limit, after it has taken a part of it."""
    for kind, before, where in moments("limit", 4):
        trial = other_user.file_too_large(kind, before, where)
        assert trial.outcome == "StoreError"
        assert trial.resumed == "finished"
        assert not trial.complaints, trial
