"""Tasks that run twice, receipts that are lost or doubled, and clocks that are hours apart: the store is the same."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import dask
import numpy as np
import pytest
from kills.clocks import FileServer
from kills.inputs import BLOCK_BYTES, CASES, create, write_arguments
from kills.processes import end, start
from kills.programs import extend
from kills.stores import arm, differences, outcome_of
from points_reference import files
from refusals import fails

import dask_zv as dzv
from dask_zv.graph import tasks as graph
from dask_zv.storage import local, locks, specs

JOURNAL = "0/dask_zv_journal"


class PowerCutError(Exception):
    pass


@pytest.fixture(autouse=True)
def small_blocks(override):
    override(write_block_bytes=BLOCK_BYTES)


def function(case, what="write"):
    return getattr(dzv, f"{what}_{CASES[case].kind}")


def begin(case, target):
    """Make the store as a case's write finds it."""
    found = CASES[case]
    store = create(target, found)
    if found.before:
        with dask.config.set(scheduler="sync"):
            function(case)(store, **write_arguments(found, version=found.before))
    return store


def run(case, store, scheduler="sync", **more):
    found = CASES[case]
    with dask.config.set(scheduler=scheduler):
        return function(case)(store, **write_arguments(found), **{"mode": found.mode, "resume": True, **more})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the store of a case that nothing happened to."""
    made = {}

    def get(case):
        if case not in made:
            made[case] = tmp_path_factory.mktemp("whole") / "s.zv"
            run(case, begin(case, made[case]))
        return made[case]

    return get


def rows_of(store, **more):
    """Return all that a level holds."""
    read = dzv.open(store.url.removeprefix("file://"), **more).level(0).read()
    return (
        read.positions.tolist(),
        {n: v.tolist() for n, v in read.attributes.items()},
        None if read.edges is None else len(read.edges),
    )


def same(store, target, whole):
    """Assert that a store is the one that nothing happened to: its files, and what readers make of them."""
    assert differences(target, whole) == ([], 0)
    wanted = rows_of(dzv.open(whole))
    assert rows_of(store) == wanted
    assert rows_of(store, check_objects=True) == wanted


TWICE = ["the first receipt", "the second receipt", "at once", "late"]
GRID, PER_CHUNK = "points grid packed", "points per_chunk packed"
TWICE_CASES = [GRID, PER_CHUNK, "overwrite grid packed", "overwrite per_chunk packed", "objects grid"]
TILES = {"chunk_shape": (1.0, 1.0), "bounds": ((0.0, 0.0), (40.0, 40.0)), "compressor": None}


@pytest.fixture
def twice(monkeypatch):
    """Return a function that lets every storing task run twice; it returns a list of those that are to come."""

    def begin(how):
        inner, late = graph.run_block, []

        def run_block(*args):
            if how == "at once":
                meet = threading.Barrier(2)
                with ThreadPoolExecutor(2) as pool:
                    both = [pool.submit(lambda: (meet.wait(), inner(*args))[1]) for _ in range(2)]
                return both[0].result()
            first = inner(*args)
            if how == "late":
                late.append(lambda: inner(*args))
                return first
            second = inner(*args)
            return first if how == "the first receipt" else second

        monkeypatch.setattr(graph, "run_block", run_block)
        return late

    return begin


@pytest.mark.product(keep="values")
@pytest.mark.parametrize("how", TWICE)
@pytest.mark.parametrize("case", TWICE_CASES)
def test_every_task_runs_twice(case, how, twice, whole, tmp_path):
    """As of stolen work, of a worker that was taken for dead; also after the commit, when nobody wants its result."""
    wanted = whole(case)
    store = begin(case, tmp_path / "s.zv")
    late = twice(how)
    report = run(case, store)
    assert report.rows == 3000
    if how == "late":
        assert len(late) >= 8
        for task in late:
            task()
        # a task that comes after all leaves its receipt where nobody looks for it
        run(case, store)
    same(store, tmp_path / "s.zv", wanted)
    assert run(case, store).blocks == 0


def test_a_duplicate_that_overtakes(whole, tmp_path, monkeypatch):
    """Both store new objects: the second makes one between the moment when the first made its folder and the file itself."""
    case = PER_CHUNK
    wanted = whole(case)
    store = begin(case, tmp_path / "s.zv")
    inner, make, running = graph.run_block, local.LocalObjects._make_directories, []
    overtaken = []

    def run_block(*args):
        running[:] = [lambda: inner(*args)]
        return inner(*args)

    def make_directories(self, path):
        made = make(self, path)
        if made and path.endswith("/c") and "/__shard" in path and running:
            overtaken.append(path)
            running.pop()()
        return made

    monkeypatch.setattr(graph, "run_block", run_block)
    monkeypatch.setattr(local.LocalObjects, "_make_directories", make_directories)
    run(case, store)
    assert len(overtaken) == 8
    same(store, tmp_path / "s.zv", wanted)


@pytest.mark.parametrize("case", [GRID, "overwrite per_chunk packed"])
def test_the_whole_graph_runs_twice_at_once(case, whole, tmp_path):
    """As of a client that was cut off, and another that began again."""
    wanted = whole(case)
    store = begin(case, tmp_path / "s.zv")
    lazy = run(case, store, compute=False)
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(lazy.compute, scheduler="sync") for _ in range(2)]
    for future in futures:
        error = future.exception()  # where one removes the journal, the other may fail to write into it
        assert error is None or (isinstance(error, dzv.StoreError) and "s.zv" in str(error))
    assert run(case, store).rows == 3000  # receipts that came after the other's commit go with the next call
    same(dzv.open(tmp_path / "s.zv"), tmp_path / "s.zv", wanted)


@pytest.fixture
def failing_after(monkeypatch):
    """Return a function that lets so many blocks be stored, and no more; it returns a list of how many are left, to be changed."""
    store_block = graph.store_block

    def begin(number):
        left = [number]

        def failing(spec, payload):
            if not left[0]:
                raise PowerCutError
            left[0] -= 1
            return store_block(spec, payload)

        monkeypatch.setattr(graph, "store_block", failing)
        return left

    return begin


def test_a_duplicate_beside_the_run_that_resumes(twice, failing_after, whole, tmp_path, monkeypatch):
    """Blocks of the run that died are stored again by a straggler, while the next run is at work."""
    case = GRID
    wanted = whole(case)
    store = begin(case, tmp_path / "s.zv")
    late = twice("late")
    store_block, left = graph.store_block, failing_after(5)
    with pytest.raises(PowerCutError) as caught:
        run(case, store)
    assert "s.zv" in caught.value.__notes__[0]
    assert "the same call finishes it" in caught.value.__notes__[0]
    left[0] = 1000
    stragglers = late[:3]

    def beside(spec, payload):
        result = store_block(spec, payload)
        if stragglers:
            stragglers.pop()()
        return result

    monkeypatch.setattr(graph, "store_block", beside)
    run(case, store)
    assert not stragglers
    same(store, tmp_path / "s.zv", wanted)


@pytest.fixture
def plan(tmp_path):
    case = GRID
    store = begin(case, tmp_path / "s.zv")
    with dask.config.set(scheduler="sync"):
        yield function(case, "plan")(store, **write_arguments(CASES[case]))


def test_a_receipt_that_is_lost_with_its_process(plan, whole, tmp_path):
    """The block is stored, who stored it is dead: the commit names it, and to run it again is all it takes."""
    receipts = [plan.run(b) for b in range(len(plan))]
    with pytest.raises(dzv.PlanError, match=r"no receipt of 1 of 8 blocks \(3\): run them with plan.run.*s\.zv"):
        plan.commit(receipts[:3] + receipts[4:])
    assert dzv.open(tmp_path / "s.zv").level(0).metadata.vertex_count == 0
    plan.commit(receipts[:3] + receipts[4:] + [plan.run(3)])
    same(dzv.open(tmp_path / "s.zv"), tmp_path / "s.zv", whole(GRID))


@pytest.mark.parametrize("order", [1, -1])
def test_blocks_that_two_processes_ran(order, plan, whole, tmp_path):
    """All of them, at once; which objects are whose, nobody knows."""

    def all_of_them(_):
        with dask.config.set(scheduler="sync"):
            return [plan.run(b) for b in range(len(plan))]

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(all_of_them, range(2)))
    for block in range(len(plan)):  # where either has an object of the other's, neither receipt is of what is stored
        found[0][block] = plan.run(block) if block % 2 else found[0][block]
    receipts = [r for both in zip(*found[::order], strict=True) for r in both]
    try:
        report = plan.commit(receipts)
    except dzv.PlanError:  # named are the blocks of which either has an object of the other's: they are run again
        report = plan.commit([*receipts, *(plan.run(b) for b in range(len(plan)))])
    assert report.rows == 3000
    same(dzv.open(tmp_path / "s.zv"), tmp_path / "s.zv", whole(GRID))


def test_a_receipt_of_a_run_before_the_last(plan, whole, tmp_path):
    """The block ran twice, and the later receipt is lost: what is stored is another file, and the commit says so."""
    receipts = [plan.run(b) for b in range(len(plan))]
    time.sleep(0.01)
    again = plan.run(5)
    fails(dzv.PlanError, r"has others, of 1 of 8 blocks \(5\): run them with plan\.run", plan.commit, receipts)
    plan.commit([*receipts, again])
    same(dzv.open(tmp_path / "s.zv"), tmp_path / "s.zv", whole(GRID))


@pytest.mark.parametrize("case", [GRID, PER_CHUNK])
@pytest.mark.parametrize("hours", [[-5.0], [7.0, -7.0, 0.0]])
def test_a_file_server_whose_clock_is_wrong(case, hours, failing_after, whole, tmp_path, monkeypatch):
    """Times of change are compared for being the same, never for being later."""
    wanted = whole(case)
    store = begin(case, tmp_path / "s.zv")
    left = failing_after(4)
    with monkeypatch.context() as patch:
        FileServer(hours).installed(patch)
        fails(PowerCutError, None, run, case, store)
    noted = [p.name for p in (tmp_path / "s.zv" / JOURNAL / "c").iterdir()]
    assert len(noted) == 4
    left[0] = 1000
    with monkeypatch.context() as patch:
        FileServer([h + 1 for h in hours]).installed(patch)
        run(case, store)
    assert left[0] == 1000 - 4  # blocks of the first run were kept
    same(store, tmp_path / "s.zv", wanted)


def test_what_is_overwritten_by_an_earlier_clock_is_seen(tmp_path, monkeypatch):
    """Rows of the same number and length, in files that seem to be older than those that they replace."""
    import xarray as xr

    where = np.random.default_rng(0).uniform(0, 100, (500, 3))
    store = dzv.create(tmp_path / "s.zv", chunk_shape=(50.0, 50.0, 50.0), compressor=None)
    with dask.config.set(scheduler="sync"):
        dzv.write_points(store, where, attributes={"mass": np.zeros(500)})
        lazy = xr.open_dataset(tmp_path / "s.zv", engine="zv", chunks={})
        FileServer([-9.0]).installed(monkeypatch)
        dzv.write_points(store, where, attributes={"mass": np.ones(500)}, mode="overwrite")
        fails(dzv.FormatError, "open it again", lambda: lazy["mass"].compute())
        assert dzv.open(tmp_path / "s.zv").level(0).read().attributes["mass"].tolist() == [1.0] * 500
        again = xr.open_dataset(tmp_path / "s.zv", engine="zv", chunks={})
        assert dask.base.tokenize(again["mass"].data) != dask.base.tokenize(lazy["mass"].data)
        assert again["mass"].to_numpy().tolist() == [1.0] * 500


def test_clients_whose_clocks_are_hours_apart(tmp_path):
    """Two that add chunks to one level, commit after commit: neither takes the other's lock for a dead one's."""
    target = tmp_path / "s.zv"
    dzv.create(target, **TILES)
    rounds = {name: [[f"{i}.{j}" for j in range(4)] for i in range(at, at + 6)] for name, at in (("early", 0), ("late", 20))}
    writers = [start(extend, str(tmp_path), str(target), n, rounds[n], h) for n, h in (("early", -6.0), ("late", 6.0))]
    for writer in writers:
        writer.join(60)
        end(writer)
    assert [outcome_of(tmp_path, n)["outcome"] for n in rounds] == ["done", "done"]
    group = dzv.open(target).level(0).group
    wanted = {key: f"{name} {key}".encode() for name, found in rounds.items() for keys in found for key in keys}
    assert {key: group.read_bytes("vertices", key) for key in group.list_chunks("vertices")} == wanted
    assert not [name for name in files(target) if "dask_zv_lock" in name]


@pytest.mark.parametrize("hours", [-6.0, 6.0])
def test_a_lock_of_a_dead_client_whose_clock_was_wrong(hours, tmp_path):
    """Killed in its commit: what it held is free, whatever time it thought it was, and what it stored is in nobody's list."""
    target = tmp_path / "s.zv"
    dzv.create(target, **TILES)
    arm(tmp_path, {})
    writer = start(extend, str(tmp_path), str(target), "first", [["0.0"], ["1.1"]], hours)
    writer.join(60)
    events = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    number = [e["n"] for e in events if e["what"].endswith("dask_zv_lock")][-1]  # the end of the lock, in the second commit
    for name in files(target):
        if "/c/" in name or "dask_zv_catalog" in name:
            (target / name).unlink()
    dzv.create(target, **TILES, overwrite=True)
    arm(tmp_path, {number: {"half": False}})
    writer = start(extend, str(tmp_path), str(target), "second", [["0.0"], ["1.1"]], hours)
    writer.join(60)
    assert writer.exitcode == -9
    assert (target / "0/dask_zv_lock").exists()
    held = json.loads((target / "0/dask_zv_lock").read_bytes())
    assert abs(held["expires"] - time.time()) > 3600 * 5
    arm(tmp_path, None)
    group = dzv.open(target, mode="r+").level(0).group
    with dask.config.set(scheduler="sync"), group.batched_writes():
        group.write_bytes("vertices", "2.2", b"third 2.2")
    assert not (target / "0/dask_zv_lock").exists()
    found = dzv.open(target).level(0).group
    assert sorted(found.list_chunks("vertices")) == ["0.0", "1.1", "2.2"]
    assert found.read_bytes("vertices", "1.1") == b"second 1.1"


@pytest.mark.parametrize("hours", [-6.0, 6.0])
def test_a_lock_of_another_machine_whose_clock_is_wrong(hours, tmp_path, monkeypatch):
    """Who waits goes by how long the lock stays as it is: one that is renewed is left alone, one that isn't is taken away."""
    store = dzv.create(tmp_path / "s.zv", **TILES)
    path = tmp_path / "s.zv" / "0" / "dask_zv_lock"

    def replaced(turn):
        until = time.time() + 3600 * hours
        content = {"owner": "x", "expires": until, "lifetime": 0.4, "renewed": turn, "machine": "far", "pid": 1}
        path.with_name("part").write_text(json.dumps(content))
        path.with_name("part").replace(path)

    replaced(0)
    taken = []

    def renew():
        for turn in range(1, 12):
            time.sleep(0.1)
            taken.append(not path.exists())
            replaced(turn)

    renewing = threading.Thread(target=renew)
    renewing.start()
    with dask.config.set(scheduler="sync"), store.level(0).group.batched_writes():
        store.level(0).group.write_bytes("vertices", "0.0", b"x")
    renewing.join()
    assert taken == [False] * 11
    assert not path.exists()


@pytest.mark.parametrize("case", [GRID, PER_CHUNK])
def test_clocks_of_workers_that_jump(case, whole, tmp_path, monkeypatch):
    """A block may end before it began, by its worker's clock: the report's total is of a clock that nobody sets."""

    class Jumping:
        turn = 0.0

        def __getattr__(self, name):
            return getattr(time, name)

        def time(self):
            Jumping.turn -= 3600.0
            return time.time() + Jumping.turn

    for module in (graph, specs):  # where a block begins, and where it ends
        monkeypatch.setattr(module, "time", Jumping())
    store = begin(case, tmp_path / "s.zv")
    report = run(case, store)
    assert 0 < report.seconds < 600
    assert "-" not in repr(report)
    assert len(report.log()) >= 8
    same(store, tmp_path / "s.zv", whole(case))


def test_no_lock_goes_by_the_time_of_day(monkeypatch):
    """The one clock that locks measure with is not the one that people set."""
    before = locks._now()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert 0 <= locks._now() - before < 600
