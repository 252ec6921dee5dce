"""Two sessions of one branch, on S3: what is put on top of the other's commit, and what is refused."""

import threading
from functools import partial

import dask
import pytest
import zarr
from layouts import in_both_layouts
from repositories import create, group_of, messages
from repositories import points as some_points
from small import always

import dask_zv as dzv
from s3server import serve

icechunk = pytest.importorskip("icechunk")

SECRET = "a-secret-of-icechunk"


@pytest.fixture(scope="module")
def server():
    with serve() as running:
        yield running


@pytest.fixture
def repo(server, request):
    storage = icechunk.s3_storage(
        bucket="repositories", prefix=request.node.name, endpoint_url=server.endpoint, allow_http=True, region="us-east-1",
        access_key_id="key", secret_access_key=SECRET, force_path_style=True,
    )  # fmt: skip
    return icechunk.Repository.create(storage)


_sync = always(scheduler="sync")
points = partial(some_points, n=500)


def commit_root(repo):
    """Commit the root group, without which two sessions would both make it."""
    session = repo.writable_session("main")
    zarr.create_group(session.store)
    session.commit("the root")


def check(target, seed):
    found = dzv.open(target).level(0).read()
    assert sorted(map(tuple, found.positions.tolist())) == sorted(map(tuple, points(seed).tolist()))


def test_two_stores_of_one_repository(repo):
    """They share no node, so that the second commit goes on top of the first."""
    commit_root(repo)
    sessions = [repo.writable_session("main") for _ in "ab"]
    stores = [create(s, name) for s, name in zip(sessions, "ab", strict=True)]
    for seed, store in enumerate(stores):
        dzv.write_points(store, points(seed))
    stores[0].commit("a")
    with pytest.raises(icechunk.ConflictError):
        sessions[1].commit("as icechunk does it")
    with pytest.raises(dzv.PlanError, match="rebase=True"):
        stores[1].commit("b", rebase=False)
    assert messages(repo) == ["a", "the root"]
    assert sessions[1].has_uncommitted_changes
    stores[1].commit("b")
    assert messages(repo) == ["b", "a", "the root"]
    for seed, name in enumerate("ab"):
        check(group_of(repo.readonly_session("main"), name), seed)


@in_both_layouts
@pytest.mark.parametrize("mode", ["error", "overwrite"])
def test_one_level_is_written_once(repo, layout, mode):
    """Also where one of them would have been refused, had it seen the other."""
    session = repo.writable_session("main")
    store = create(session, layout=layout)
    if mode == "overwrite":
        dzv.write_points(store, points(9))
    store.commit("begun")
    sessions = [repo.writable_session("main") for _ in range(2)]
    stores = [dzv.open(s, "r+") for s in sessions]
    for seed, store in enumerate(stores):
        dzv.write_points(store, points(seed), mode=mode)
    winner = stores[0].commit("the first")
    with pytest.raises(dzv.PlanError, match=r"both changed /.*: nothing was committed. Open a new session") as caught:
        stores[1].commit("the second")
    assert winner in str(caught.value)
    assert isinstance(caught.value.__cause__, icechunk.RebaseFailedError)
    assert messages(repo) == ["the first", "begun"]
    check(repo.readonly_session("main"), 0)
    session = repo.writable_session("main")
    store = dzv.open(session, "r+")
    dzv.write_points(store, points(1), mode="overwrite")
    store.commit("the second")
    check(repo.readonly_session("main"), 1)


@in_both_layouts
def test_different_chunks_of_one_level(repo, layout):
    """No cell is written twice, but both change what lists them: putting one on top would lose the other's list."""
    store = create(repo.writable_session("main"), bounds=[(0, 0, 0), (100, 100, 100)], layout=layout)
    dzv.write_points(store, points())
    store.commit("begun")
    batches = []
    for i in range(2):
        session = repo.writable_session("main")
        group = dzv.open_group(session)["0"]
        with group.batched_writes() as batch:
            batch.write_bytes("vertices", f"{i}.0.0", bytes([i]) * 24)
        batches.append(dzv.open(session, "r+"))
    batches[0].commit("0")
    with pytest.raises(dzv.PlanError, match="both changed /0/"):
        batches[1].commit("1")
    group = dzv.open_group(repo.readonly_session("main"), "r")["0"]
    assert group.read_bytes("vertices", "0.0.0") == bytes(24)
    assert group.read_bytes("vertices", "1.0.0") != b"\1" * 24


def test_different_levels_of_one_store(repo):
    """Groups of their own: safe."""
    store = create(repo.writable_session("main"))
    dzv.write_points(store, points())
    store.commit("begun")
    sessions = [repo.writable_session("main") for _ in range(2)]
    for i, session in enumerate(sessions, 1):
        group = dzv.open_group(session).require_group(str(i))
        group.write_array_meta("vertices", {"shape": [4, 4, 4]})
        with group.batched_writes() as batch:
            batch.write_bytes("vertices", "0.0.0", bytes([i]) * 24)
        dzv.open(session, "r+").commit(f"level {i}")
    assert messages(repo) == ["level 2", "level 1", "begun"]
    group = dzv.open_group(repo.readonly_session("main"), "r")
    assert [group[str(i)].read_bytes("vertices", "0.0.0") for i in (1, 2)] == [bytes([i]) * 24 for i in (1, 2)]
    check(repo.readonly_session("main"), 0)


def test_commits_at_the_same_moment(repo):
    """Each is put on top of whichever came before; none is lost."""
    commit_root(repo)
    names = "abcd"
    stores = [create(repo.writable_session("main"), name) for name in names]
    for seed, store in enumerate(stores):
        dzv.write_points(store, points(seed))
    start = threading.Barrier(len(names))
    failed = []

    def commit(store, name):
        start.wait()
        try:
            store.commit(name)
        except dzv.ZVError as error:
            failed.append(error)

    threads = [threading.Thread(target=commit, args=pair) for pair in zip(stores, names, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert sorted(messages(repo)) == ["a", "b", "c", "d", "the root"]
    for seed, name in enumerate(names):
        check(group_of(repo.readonly_session("main"), name), seed)


def test_a_cluster_on_s3_and_its_secrets(repo, use_scheduler, caplog):
    """Forks carry the credentials of the storage; no key, name, text or log does."""
    session = repo.writable_session("main")
    store = create(session)
    with use_scheduler("distributed"):
        lazy = dzv.write_points(store, points(4), compute=False)
        shown = [repr(lazy), *map(repr, lazy.__dask_graph__().items())]
        (result,) = dask.compute(lazy)
    shown += [repr(result), repr(result.fork), str(result), caplog.text]
    assert not [text for text in shown if SECRET in text]
    store.finish(result)
    store.commit("on S3")
    assert messages(repo) == ["on S3"]
    check(repo.readonly_session("main"), 4)
