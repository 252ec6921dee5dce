"""A write to an Icechunk session is one snapshot, on every scheduler; one that fails leaves no trace."""

import os
import pickle
import signal
from pathlib import Path

import dask
import numpy as np
import pytest
from forms import lazily
from geometries_reference import check_read, some_data, write
from repositories import CHUNK, N, arguments, check_points, create, messages, points, several_blocks

import dask_zv as dzv

icechunk = pytest.importorskip("icechunk")

KINDS = {"point_cloud": "grid", "polyline": "per_chunk", "streamline": "grid", "skeleton": "grid", "mesh": "grid"}
__all__ = ["several_blocks"]


def on(*schedulers):
    return pytest.mark.parametrize("scheduler", schedulers)


def state(session):
    """Return all that a session has changed."""
    diff = session.status()
    kinds = ("new_groups", "new_arrays", "deleted_groups", "deleted_arrays", "updated_groups", "updated_arrays")
    chunks = {path: sorted(map(tuple, found)) for path, found in diff.updated_chunks.items()}
    return {**{kind: sorted(getattr(diff, kind)) for kind in kinds}, "chunks": chunks}


def failing_second_time(block, folder):
    """Return a block when it is first asked for, by the scan, and fail when it is to be written."""
    if len(block):
        mark = Path(folder) / f"{float(block[0, 0])!r}"
        if mark.exists():
            raise ZeroDivisionError("the input can't be read any more")
        mark.touch()
    return block


def failing(folder, seed=0):
    folder.mkdir()
    return lazily(points(seed), 500).map_blocks(failing_second_time, folder=str(folder), dtype=float)


@pytest.mark.parametrize("kind", KINDS)
def test_one_snapshot_whatever_the_scheduler(scheduler, repo, kind):
    if scheduler == "processes" and kind not in ("point_cloud", "mesh"):
        pytest.skip("the same graphs as on a cluster, and much slower")
    data = some_data(np.random.default_rng(3), kind, 90, CHUNK, dense=KINDS[kind] == "per_chunk")
    session = repo.writable_session("main")
    if kind == "point_cloud":
        assert dzv.write_points(create(session, shard_chunks=8), **arguments()).blocks > 3
    else:
        write(create(session, geometry=kind, layout=KINDS[kind]), data)
    assert session.has_uncommitted_changes
    assert messages(repo) == []
    session.commit("written")
    assert messages(repo) == ["written"]
    target = repo.readonly_session("main")
    if kind == "point_cloud":
        check_points(target)
    else:
        with dask.config.set(scheduler="sync"):
            check_read(dzv.open(target).level(0), data)


@on("sync", "distributed")
def test_what_was_committed_is_replaced_in_one_snapshot(scheduler, use_scheduler, repo):
    session = repo.writable_session("main")
    dzv.write_points(create(session, shard_chunks=8), **arguments(1))
    first = session.commit("first")
    session = repo.writable_session("main")
    store = dzv.open(session, "r+")
    with use_scheduler(scheduler):
        dzv.write_points(store, **arguments(2), mode="overwrite")
        check_points(repo.readonly_session("main"), 1)  # readers of the branch see the old points until the commit
        assert store.commit("second", {"by": "a test"}) != first
        check_points(repo.readonly_session("main"), 2)
        check_points(repo.readonly_session(snapshot_id=first), 1)
    assert messages(repo) == ["second", "first"]
    metadata = next(repo.ancestry(branch="main")).metadata
    assert {key: value for key, value in metadata.items() if key != "__icechunk"} == {"by": "a test"}  # Icechunk 2 adds its own


@on("sync", "distributed")
def test_two_writes_in_one_session(scheduler, use_scheduler, repo):
    """The second one's forks have what the first one did, and its documents."""
    session = repo.writable_session("main")
    with use_scheduler(scheduler):
        for name, seed in (("a", 1), ("b", 2)):
            store = create(session, name)
            dzv.write_points(store, **arguments(seed))
        store.commit("both")
    assert messages(repo) == ["both"]
    for name, seed in (("a", 1), ("b", 2)):
        check_points(repo.readonly_session("main"), seed, name)


@on("sync", "processes", "distributed")
def test_waves_are_one_snapshot(scheduler, use_scheduler, repo):
    data = some_data(np.random.default_rng(5), "mesh", 90, CHUNK)
    session = repo.writable_session("main")
    store = create(session, geometry="mesh", shard_chunks=1)
    with use_scheduler(scheduler), dask.config.set({"dask_zv.max-graph-tasks": 8}):
        assert write(store, data).blocks > 3
    assert messages(repo) == []
    store.commit("in waves")
    check_read(dzv.open(repo.readonly_session("main")).level(0), data)
    assert messages(repo) == ["in waves"]


def test_a_batch_of_blobs(use_scheduler, repo):
    session = repo.writable_session("main")
    with use_scheduler("distributed"):
        dzv.write_points(create(session, layout="per_chunk"), **arguments())
        session.commit("points")
        session = repo.writable_session("main")
        group = dzv.open_group(session)["0"]
        before = group.read_bytes("vertices", "1.1.1")
        with group.batched_writes(block_chunks=1) as batch:
            for i in range(4):
                group.write_bytes("vertices", f"{i}.9.9", bytes([i]) * 24)
            batch.write_blobs(dask.delayed(dict)([(("vertices", "8.8.8"), b"8" * 12)]), keys=[("vertices", "8.8.8")])
        assert batch.report.chunks == 5
    session.commit("blobs")
    group = dzv.open_group(repo.readonly_session("main"), "r")["0"]
    assert [group.read_bytes("vertices", f"{i}.9.9") for i in range(4)] == [bytes([i]) * 24 for i in range(4)]
    assert group.read_bytes("vertices", "8.8.8") == b"8" * 12
    assert group.read_bytes("vertices", "1.1.1") == before


@on("threads", "processes", "distributed")
def test_a_delayed_write_is_finished_by_the_caller(scheduler, use_scheduler, repo):
    session = repo.writable_session("main")
    store = create(session)
    before = state(session)
    with use_scheduler(scheduler):
        lazy = dzv.write_points(store, **arguments(), compute=False)
        (result,) = dask.compute(lazy)
    assert (result.rows, result.dropped) == (N, 0)
    assert state(session) == before
    assert store.level(0).metadata.vertex_count == 0
    report = store.finish(result)
    assert type(report) is dzv.Report
    assert report == result.plain()
    assert store.level(0).metadata.vertex_count == N
    assert store.finish(report) is report
    store.commit("finished")
    check_points(repo.readonly_session("main"))


@pytest.mark.parametrize("layout", ["grid", "per_chunk"])
def test_a_store_is_copied_into_a_session(repo, layout):
    """Nodes come before their chunks there, those below a group of arrays as well."""
    source = create({}, layout=layout)
    session = repo.writable_session("main")
    with dask.config.set(scheduler="sync"):
        dzv.write_points(source, **arguments())
        dzv.convert(source, session)
    session.commit("copied")
    check_points(repo.readonly_session("main"))


def test_finishing_changes_nothing_of_other_stores(tmp_path):
    store = create(tmp_path / "s.zv")
    report = dzv.write_points(store, **arguments(), compute=False).compute()
    assert store.finish(report) is report
    check_points(tmp_path / "s.zv")


def test_two_writes_in_one_graph(use_scheduler, repo):
    session = repo.writable_session("main")
    stores = [create(session, name) for name in "ab"]
    with use_scheduler("distributed"):
        results = dask.compute(*(dzv.write_points(s, **arguments(i), compute=False) for i, s in enumerate(stores)))
    for store, result in zip(stores, results, strict=True):
        store.finish(result)
    session.commit("both")
    for i, name in enumerate("ab"):
        check_points(repo.readonly_session("main"), i, name)


def test_finishing_too_late(repo):
    session = repo.writable_session("main")
    store = create(session)
    result = dzv.write_points(store, **arguments(), compute=False).compute(scheduler="sync")
    session.commit("the store alone")
    with pytest.raises(dzv.PlanError, match="write again in a new session"):
        store.finish(result)
    assert messages(repo) == ["the store alone"]
    with pytest.raises(dzv.InputError, match="its own store"):
        create({}).finish(result)


@pytest.fixture
def read_twice():
    """Partitions are made again by the write, so that they can fail in it."""
    with dask.config.set({"dask_zv.keep-input": 0}):
        yield


@pytest.mark.usefixtures("read_twice")
@pytest.mark.parametrize("created", ["before", "in the session"])
def test_a_failed_graph_leaves_no_trace(scheduler, repo, tmp_path, created):
    if scheduler == "processes" and created == "before":
        pytest.skip("as on a cluster")
    session = repo.writable_session("main")
    store = create(session)
    if created == "before":
        session.commit("an empty store")
        session = repo.writable_session("main")
        store = dzv.open(session, "r+")
    before = state(session)
    with pytest.raises(ZeroDivisionError):
        dzv.write_points(store, **arguments(positions=failing(tmp_path / "marks")))
    assert state(session) == before
    assert session.has_uncommitted_changes == (created == "in the session")
    assert dzv.write_points(store, **arguments(7)).rows == N
    store.commit("after all")
    check_points(repo.readonly_session("main"), 7)


@pytest.mark.usefixtures("read_twice")
def test_a_failed_graph_in_memory(tmp_path):
    """Such a session can't be forked: tasks write into it, and a failure discards that."""
    repo = icechunk.Repository.create(icechunk.in_memory_storage())
    session = repo.writable_session("main")
    create(session).commit("an empty store")
    session = repo.writable_session("main")
    with pytest.raises(ZeroDivisionError):
        dzv.write_points(dzv.open(session, "r+"), **arguments(positions=failing(tmp_path / "marks")))
    assert not session.has_uncommitted_changes
    dzv.write_points(dzv.open(session, "r+"), **arguments())
    session.commit("points")
    check_points(repo.readonly_session("main"))


def test_in_memory_and_other_processes(use_scheduler):
    session = icechunk.Repository.create(icechunk.in_memory_storage()).writable_session("main")
    store = create(session)
    before = state(session)
    with use_scheduler("distributed"), pytest.raises(dzv.PlanError, match="a scheduler of this process"):
        dzv.write_points(store, **arguments())
    assert state(session) == before


def deadly(block, folder):
    """Return a block; the second process that wants this one kills itself, once: the scan went well."""
    if not len(block) or block[0, 0] != points()[1000, 0]:
        return block
    scanned, died = Path(folder) / "scanned", Path(folder) / "died"
    if scanned.exists() and not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    scanned.touch()
    return block


@pytest.mark.usefixtures("read_twice")
def test_a_killed_worker(repo, tmp_path):
    """Its forks go with it, and their tasks run again elsewhere: still one snapshot, with each row once."""
    from distributed import Client, LocalCluster

    session = repo.writable_session("main")
    store = create(session)
    where = lazily(points(), 500).map_blocks(deadly, folder=str(tmp_path), dtype=float)
    with (
        LocalCluster(processes=True, n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster),
    ):
        assert dzv.write_points(store, **arguments(positions=where)).rows == N
    assert (tmp_path / "died").exists()
    store.commit("written")
    assert messages(repo) == ["written"]
    check_points(repo.readonly_session("main"))


def test_replacing_what_is_not_committed(use_scheduler, repo):
    """In one process all tasks share a fork; forks of several can't be merged then, which is an error, and no mixture."""
    session = repo.writable_session("main")
    store = create(session)
    dzv.write_points(store, **arguments(1))
    before = state(session)
    with use_scheduler("distributed"), pytest.raises(dzv.PlanError, match="commit the session first"):
        dzv.write_points(store, **arguments(2), mode="overwrite")
    assert state(session) == before
    check_points(session, 1)
    with use_scheduler("threads"):
        dzv.write_points(store, **arguments(2), mode="overwrite")
    check_points(session, 2)
    store.commit("the second")
    check_points(repo.readonly_session("main"), 2)
    assert messages(repo) == ["the second"]


def test_what_a_write_removes_stays_removed(repo):
    """The session has it, uncommitted; the fork that is merged into it has not."""
    session = repo.writable_session("main")
    store = create(session)
    dzv.write_points(store, **arguments(1))
    assert "object_index" in dzv.open_group(session)["0"]
    dzv.write_points(store, points(2), mode="overwrite")
    assert not {"object_index", "groups", "vertex_attributes/row"} & {a.strip("/")[2:] for a in all_nodes(session)}
    store.commit("points alone")
    found = dzv.open(repo.readonly_session("main")).level(0).read()
    assert found.object_ids is None
    assert not found.attributes
    assert len(found) == N


def all_nodes(session):
    diff = session.status()
    return diff.new_groups | diff.new_arrays


def test_nothing_to_commit(repo, tmp_path):
    with pytest.raises(dzv.InputError, match="needs no commit"):
        create(tmp_path / "s.zv").commit("a plain store")
    session = repo.writable_session("main")
    store = create(session)
    snapshot = store.commit("an empty store")
    assert session.snapshot_id == snapshot
    assert session.read_only
    with pytest.raises(dzv.ReadOnlyError, match="repo.writable_session"):
        store.commit("again")
    with pytest.raises(dzv.ReadOnlyError, match="repo.writable_session"):
        dzv.write_points(store, **arguments())
    store = dzv.open(repo.writable_session("main"), "r+")
    with pytest.raises(dzv.StoreError, match="store.finish"):
        store.commit("nothing")
    assert messages(repo) == ["an empty store"]


def test_another_process_holds_the_session(repo, use_scheduler):
    """What travels is a key: where it is used elsewhere, the error says what to do."""
    session = repo.writable_session("main")
    store = create(session)
    sent = pickle.dumps(store._contents.handle)
    with use_scheduler("distributed") as client:
        error = client.submit(use_elsewhere, sent, pure=False).result()
    assert "commit it" in error
    with pytest.raises(dzv.PlanError, match="fork"):
        pickle.dumps(store.group)


def use_elsewhere(sent):
    from dask_zv.storage.handles import open_objects

    try:
        open_objects(pickle.loads(sent))
    except dzv.PlanError as error:
        return str(error)
    return "opened"


@pytest.mark.parametrize("shards", [1, 8])
def test_an_append_is_one_snapshot(shards):
    repo = icechunk.Repository.create(icechunk.in_memory_storage())
    session = repo.writable_session("main")
    dzv.write_points(create(session, shard_chunks=shards), **arguments())
    session.commit("first")
    before, session = repo.readonly_session("main"), repo.writable_session("main")
    more = arguments(1, positions=points(1) - 30, attributes={"row": np.arange(N) + N, "new": np.ones(N)}, groups=None)
    more |= {"object_ids": np.arange(N) % 9 + 9}
    dzv.write_points(dzv.open(session, mode="r+"), **more, mode="append")
    check_points(before)
    session.commit("second")
    assert messages(repo) == ["second", "first"]
    found = dzv.open(repo.readonly_session("main")).level(0).read()
    row = found.attributes["row"]
    assert sorted(row.tolist()) == list(range(2 * N))
    np.testing.assert_array_equal(found.positions, np.concatenate([points(), points(1) - 30])[row])
    np.testing.assert_array_equal(np.isnan(found.attributes["new"]), row < N)
    assert found.object_index.tolist() == list(range(18))
    check_points(before)
