"""A faulty object store: short faults are ridden out, lasting ones end in a clear error and leave a write that can be finished."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest
import storage_cases as cases
from fault_server import serve_faults
from refusals import fails
from storage_trials import CLIENTS, FAULTS, Trials

import dask_zv as dzv

pytestmark = pytest.mark.usefixtures("sync_scheduler")

SHORT = [name for name, fault in FAULTS.items() if fault.short]
LASTING = [
    name for name in FAULTS if name not in ("acknowledgement lost: no answer", "acknowledgement lost: 500", "answer reset")
]
WRITES = [("obstore", "packed points", "empty"), ("obstore", "polylines", "empty"), ("obstore", "packed points", "old"),
          ("obstore", "points per chunk", "empty"), ("s3fs", "packed points", "empty")]  # fmt: skip


@pytest.fixture(scope="module")
def trials():
    """Trials on a server of their own: they keep what is stored."""
    with serve_faults() as server:
        yield Trials(server, timeout=0.5, pause=0.2)


def of(number):
    return WRITES[number % len(WRITES)]


@pytest.mark.parametrize("name", SHORT)
def test_short_faults(name, trials):
    """A request or three go wrong: the write finishes equal to an undisturbed one, object by object, or says clearly what is wrong."""
    rng = random.Random(name)
    trial = trials.of_write(FAULTS[name], *of(SHORT.index(name)), rng.random(), lasting=False, hits=rng.choice([1, 3]))
    assert trial.fired
    assert not trial.complaints, trial


@pytest.mark.parametrize("name", LASTING)
def test_lasting_faults(name, trials):
    """Every request goes wrong from some moment on: a clear error, nothing half visible, and the same write finishes afterwards."""
    rng = random.Random(name)
    fault = FAULTS[name]
    trial = trials.of_write(fault, *of(LASTING.index(name) + 1), rng.uniform(0.1, 0.7), lasting=True)
    assert trial.fired  # once is enough where nothing is retried
    assert (trial.outcome == "finished") == fault.harmless
    assert trial.resumed == ("" if fault.harmless else "finished")
    assert not trial.complaints, trial


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("lasting", [False, True], ids=["short", "lasting"])
def test_readers(client, lasting, trials):
    """What is read is right, or an error."""
    for name in ("503 SlowDown", "answer truncated", "answer short", "slow answers", "403")[
        : None if client == "obstore" else 3
    ]:
        rng = random.Random(f"{name} {client}")
        trial = trials.of_read(FAULTS[name], client, "packed points", rng.random(), lasting=lasting)
        assert trial.fired
        assert not trial.complaints, trial


def test_answers_that_are_short_and_say_so(trials):
    """Half an object under headers that agree with it: only checksums tell."""
    trials.prepare_read("obstore", "packed points")
    for key in ("/vertices/c/", "/vertex_attributes/mass/c/", "/vertex_fragments/c/", "dask_zv_catalog/c/0"):
        trials.server.restore("obstore-packed-points-read")
        trials.server.faults({"fault": "short", "verb": "GET", "key": key, "count": None})
        fails(dzv.ZVError, cases.URL, lambda: cases.rows_of(trials.open("obstore")))
        assert trials.server.fired()
    trials.server.faults()


def test_the_trials_would_notice(trials, override):
    """Without our own retries a lock whose creation is not answered ends the write."""
    log = trials.prepare("obstore", "packed points", "empty").log
    override(request_attempts=1)
    fault = FAULTS["connection reset"]
    where = next(i for i, (verb, key, _) in enumerate(log) if verb == "PUT" and key.endswith("dask_zv_lock"))
    trial = trials.of_write(fault, "obstore", "packed points", "empty", (where + 0.5) / len(log), lasting=False, watch=False)
    assert trial.at.endswith("dask_zv_lock")
    assert "a fault that should be ridden out was not" in trial.complaints


def test_it_gives_up_in_bounded_time(fault_server, override):
    """A server that takes requests and never answers: the limit for one object holds whatever the client's own timeouts are."""
    cases.make("packed points", cases.URL, cases.unharmed(fault_server))
    override(request_timeout=0.3, request_patience=0.5)
    fault_server.faults({"fault": "stall", "verb": "PUT", "count": None})
    options = {**cases.quick(fault_server, "600s"), "retry_config": {"max_retries": 9, "retry_timeout": timedelta(seconds=600)}}
    with pytest.raises(dzv.StoreError, match=r"no answer within 0\.3 s") as caught:
        cases.write("packed points", dzv.open(cases.URL, mode="r+", storage_options=options), 1)
    assert "write again (resume=True" in str(caught.value)
    fault_server.faults()
    assert cases.look(cases.URL, cases.unharmed(fault_server), {}) == "empty"


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("AccessDenied", "check the credentials"),
        ("RequestTimeTooSkewed", "the clock of this machine"),
        ("ExpiredToken", "get new ones"),
        ("NoSuchBucket", "create it first"),
    ],
)
def test_what_is_no_fault_of_the_moment_is_said_at_once(code, advice, fault_server):
    """Nothing is tried again that can't help."""
    cases.make("packed points", cases.URL, cases.unharmed(fault_server))
    status = 404 if code == "NoSuchBucket" else 403
    fault_server.faults({"fault": "error", "status": status, "code": code, "verb": "PUT", "count": None})
    with pytest.raises(dzv.StoreError, match=advice):
        cases.write("packed points", dzv.open(cases.URL, mode="r+", storage_options=cases.quick(fault_server)), 1)
    keys = [key for verb, key, fault in fault_server.log() if verb == "PUT" and fault]
    assert len(keys) == len(set(keys))
