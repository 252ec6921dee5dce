"""Two clients that write into one level at the same time: nothing that is committed is lost unsaid, and who came too late is told."""

from __future__ import annotations

import pytest
import storage_cases as cases
from refusals import fails
from storage_trials import impatient
from writer_trials import PLACES, SCENARIOS, Writers

import dask_zv as dzv

pytestmark = pytest.mark.usefixtures("sync_scheduler")


@pytest.fixture
def writers(writing_processes, fault_server, tmp_path):
    with impatient():
        yield Writers(writing_processes, fault_server, tmp_path)


@pytest.mark.product(keep="values")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_two_writers(scenario, place, writers):
    """See writer_trials.py for what may come of each."""
    seed = SCENARIOS.index(scenario)
    trial = writers.trial(scenario, place, seed, ("points", "packed points")[(seed + len(place)) % 2])
    assert not trial.complaints, trial
    if scenario == "disjoint blocks":
        assert trial.outcomes == ["done", "done"]
    elif scenario != "the same blocks":
        assert sorted(trial.outcomes) == ["PlanError", "done"]
        assert trial.healed == "2"


@pytest.mark.parametrize("kind", ["points", "packed points"])
@pytest.mark.parametrize("place", ["local", "s3"])
def test_cells_of_a_refused_writer_are_an_error_not_an_answer(place, kind, fault_server, tmp_path):
    """Chunks of two writers with as many rows: nothing but the mark of the refused one tells a mixture from one content."""
    target, options = (str(tmp_path / "s.zv"), None) if place == "local" else (cases.URL, fault_server.storage_options)
    store = cases.make(kind, target, options)
    with impatient():
        plan = cases.plan(kind, store, 1)
        cases.write(kind, dzv.open(target, mode="r+", storage_options=options), 2)
        known = {"committed": cases.rows_of(dzv.open(target, storage_options=options))}
        receipts = [plan.run(block) for block in range(len(plan))]
        fails(dzv.PlanError, "another writer has written this level", plan.commit, receipts)
        assert cases.look(target, options, known) == "FormatError"
        cases.write(kind, dzv.open(target, mode="r+", storage_options=options), 2, mode="overwrite")
        assert cases.look(target, options, known) == "committed"


def test_a_replacement_that_was_planned_before_another(tmp_path):
    """The stamp of the catalog tells that the level is no longer what was to be replaced."""
    target = str(tmp_path / "s.zv")
    store = cases.make("points", target, None)
    with impatient():
        cases.write("points", store, 1)
        late = cases.write("points", dzv.open(target, mode="r+"), 2, mode="overwrite", compute=False)
        cases.write("points", dzv.open(target, mode="r+"), 3, mode="overwrite")
        fails(dzv.PlanError, "another writer has written this level", late.compute)
        cases.write("points", dzv.open(target, mode="r+"), 2, mode="overwrite")
        found = cases.rows_of(dzv.open(target))
        again = cases.write("points", dzv.open(target, mode="r+"), 2, mode="overwrite", compute=False)
        again.compute()
        again.compute()  # the same write twice is no second writer
        assert cases.rows_of(dzv.open(target)) == found
