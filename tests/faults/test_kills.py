"""Writes whose processes are killed with SIGKILL: readers see nothing, the old or the new content, or an error; resuming finishes.

A few moments of each kind; ``ci/faults`` takes many, with the readers of zarr-vectors 0.9.2 beside ours.
"""

from __future__ import annotations

import copy

import pytest
from kills.readers import ours
from kills.report import faults_of, summary, table
from kills.trials import KINDS, Bench, Kind
from sampling import examples


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    reader = ours(["read"])
    made = Bench(tmp_path_factory.mktemp("kills"), [reader], pause=0.001)
    yield made
    made.close()
    reader.close()


LONG = pytest.mark.long
TRIALS = [
    ("one worker", "overwrite per_chunk packed", "cluster", 4),
    ("all workers in turn", "points grid packed", "cluster", 0),
    ("the client, beside its workers", "points grid packed", "cluster", 1),
    ("the scheduler", "points grid packed", "cluster", 1),
    ("the client, which computes", "overwrite per_chunk packed", "threads", 6),
    ("a process of a job array", "points grid packed", "jobs", 1),
    ("the process that commits a plan", "points grid packed", "jobs", 0),
    pytest.param("one worker", "points grid packed", "cluster", 3, marks=LONG),
    pytest.param("all workers in turn", "objects grid", "cluster", 0, marks=LONG),
    pytest.param("the client, which computes", "points per_chunk packed", "sync", 1, marks=LONG),
    pytest.param("a process of a job array", "overwrite per_chunk packed", "jobs", 2, marks=LONG),
    pytest.param("the process that commits a plan", "objects grid", "jobs", 2, marks=LONG),
    pytest.param("the process that commits a plan", "overwrite grid packed", "jobs", 0, marks=LONG),
]


@pytest.mark.parametrize(("kind", "case", "scheduler", "seed"), TRIALS)
def test_killed(bench, kind, case, scheduler, seed):
    record = bench.trial(KINDS[kind], case, scheduler, seed)
    assert record["struck"], "the moment was not reached"
    assert faults_of(record) == []
    survives = kind in ("one worker", "all workers in turn")
    assert record["told"]["outcome"] == ("done" if survives else "error" if kind == "the scheduler" else "killed")


def _at(number: int, *, half: bool = False) -> Kind:
    return Kind("one moment", ["sync"], "write", lambda events, rng: {number: {"half": half}})


COMMITS = ["overwrite per_chunk packed", "overwrite skeletons"]


@pytest.mark.parametrize("case", [*COMMITS, *(pytest.param(c, marks=LONG) for c in ("objects grid", "overwrite grid packed"))])
def test_killed_in_the_commit(bench, case):
    """A commit is many files: whichever is the last that came into the store, the same call finishes what was begun."""
    events = bench.stores.get(case).events["write"]
    first = next(e["n"] for e in events if e["kind"] == "commit")
    moments = [e["n"] for e in events if e["n"] >= first and e["kind"] in ("rename", "remove")]
    removed = [e["n"] for e in events if e["n"] >= first and e["kind"] == "remove"]
    # all is written, and what the level held before is still there
    unlocked = [e["n"] for e in events if e["n"] in removed and e["what"].endswith("dask_zv_lock")] or removed[:1]
    kept = []
    for number in {*moments[:: max(len(moments) // examples(1, 12), 1)], *unlocked, moments[-1]}:
        record = bench.trial(_at(number), case, "sync", 0)
        assert record["told"]["outcome"] == "killed"
        assert faults_of(record) == []
        assert record["resume"]["stored"] == 0
        kept.append(record["resume"]["kept"])
    assert max(kept) == 8


def test_blocks_that_were_stored_are_kept(bench):
    """Killed amid a file of a block in the middle of the write: those before are taken as they are."""
    events = bench.stores.get("points grid packed").events["write"]
    amid = [e["n"] for e in events if e["block"] == "vertices 4" and e["kind"] == "write"][1]
    before = sum(e["kind"] == "block" and e["what"] == "ends" for e in events[: amid - 1])
    record = bench.trial(_at(amid, half=True), "points grid packed", "sync", 0)
    assert faults_of(record) == []
    assert before >= 3
    assert (record["resume"]["kept"], record["resume"]["stored"]) == (before, 8 - before)
    assert record["temporary"] == 0  # what was half written is swept
    assert record["resume"]["report"]["rows"] == 3000


def test_nobody_dies(bench):
    """A trial without a kill is one of a write that its user waited for."""
    record = bench.trial(Kind("nobody", ["sync"], "write", lambda events, rng: {}), "points grid packed", "sync", 0)
    assert (record["told"]["outcome"], record["struck"], record["committed"]) == ("done", [], True)
    assert record["after"] == {"dask-zv read": ["new", ""]}
    assert faults_of(record) == []
    assert (record["resume"]["kept"], record["resume"]["stored"], record["resume"]["report"]["rows"]) == (0, 0, 3000)


SPOILED = {
    "saw WRONG during": lambda r: r["during"]["dask-zv"]["counts"].update(WRONG=1),
    "saw WRONG after the kill": lambda r: r["after"].update({"dask-zv read": ["WRONG", "rows"]}),
    "saw nothing after the commit": lambda r: r.update(committed=True),
    "saw old after the same call again": lambda r: r["then"].update({"dask-zv read": ["old", ""]}),
    "written again": lambda r: r["resume"].update({"written again": ["3"]}),
    "differs": lambda r: r.update(differs=["0/vertices/zarr.json"]),
    "the same call again: error": lambda r: r["resume"].update(outcome="error", type="PlanError", text="no"),
    "does not say the same call": lambda r: r.update(
        told={"outcome": "error", "type": "KilledWorker", "text": "s.zv", "notes": []}
    ),
    "the program hangs": lambda r: r.update(told={"outcome": "hangs"}),
}


@pytest.fixture(scope="module")
def sound(bench):
    record = bench.trial(_at(30), "points grid packed", "sync", 0)
    assert faults_of(record) == []
    return record


@pytest.mark.parametrize("what", SPOILED)
def test_the_trials_would_notice(what, sound):
    record = copy.deepcopy(sound)
    SPOILED[what](record)
    assert any(what in fault for fault in faults_of(record))


def test_an_overwritten_level_is_never_empty(sound):
    record = {**copy.deepcopy(sound), "replaces": True}
    assert any("saw nothing" in fault for fault in faults_of(record))


def test_the_table_counts_every_trial(sound):
    spoiled = {**copy.deepcopy(sound), "differs": ["0/vertices/zarr.json"]}
    lines = table([sound, sound, spoiled])
    assert "| one moment | new | 3 (store 3) | dask-zv |" in lines[2]
    assert lines[2].endswith("| nothing: it is dead 3 | equal 2, **not as it must be** 1 |")
    assert "3 trials, 3 kills, 1 of them not as they must be" in summary([sound, sound, spoiled])[0]
