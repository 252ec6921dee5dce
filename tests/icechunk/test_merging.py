"""What forks of a session wrote comes together in it, whole, or an error says what else was changed: on Icechunk 1 and 2."""

from functools import partial

import dask
import numpy as np
import pytest
import repositories
import zarr
from layouts import in_both_layouts
from repositories import CHUNK, group_of, several_blocks

import dask_zv as dzv

icechunk = pytest.importorskip("icechunk")

N = 1200
__all__ = ["several_blocks"]
points, arguments = partial(repositories.points, n=N), partial(repositories.arguments, n=N)
create, check = partial(repositories.create, shard_chunks=8), partial(repositories.check_points, n=N)


@in_both_layouts
def test_written_and_replaced(few_forks_or_many, repo, layout):
    """New nodes, then other documents, tables of other shapes and removed nodes over what is committed."""
    session = repo.writable_session("main")
    dzv.write_points(create(session, layout=layout), **arguments(1))
    check(session, 1)
    first = session.commit("1")
    session = repo.writable_session("main")
    store = dzv.open(session, "r+")
    more = arguments(2) | {"object_attributes": {"a": np.arange(9) + 2, "b": np.zeros((9, 3))}}
    dzv.write_points(store, **more, mode="overwrite")
    check(session, 2)
    store.commit("2")
    check(repo.readonly_session("main"), 2)
    check(repo.readonly_session(snapshot_id=first), 1)
    store = dzv.open(repo.writable_session("main"), "r+")
    dzv.write_points(store, points(3), mode="overwrite")
    store.commit("3")
    found = dzv.open(repo.readonly_session("main")).level(0).read()
    assert (len(found), found.object_ids, dict(found.attributes)) == (N, None, {})


@in_both_layouts
def test_replaced_without_a_commit(repo, layout):
    """Icechunk 2 merges no fork that removed or made again what the session has not committed."""
    session = repo.writable_session("main")
    dzv.write_points(create(session, layout=layout), **arguments(1))
    session.commit("1")
    session = repo.writable_session("main")
    store = dzv.open(session, "r+")
    other = dzv.create(group_of(session, "other"), chunk_shape=CHUNK, layout=layout)
    dzv.write_points(other, **arguments(7))
    with dask.config.set(scheduler="threads"):
        for seed in (2, 3):
            dzv.write_points(store, **arguments(seed), mode="overwrite")
            check(session, seed)
        dzv.write_points(store, points(4), mode="overwrite")
        assert dzv.open(session).level(0).read().object_ids is None
        dzv.write_points(store, **arguments(5), mode="overwrite")
    store.commit("all of it")
    check(repo.readonly_session("main"), 5)
    check(repo.readonly_session("main"), 7, "other")


def test_batches_of_one_session(few_forks_or_many, repo):
    """Each changes the documents of what the one before it made, and nobody has committed that; between them the grid grows."""
    session = repo.writable_session("main")
    store = dzv.create(session, chunk_shape=CHUNK, bounds=[(0, 0, 0), (100, 100, 100)], shard_chunks=1)
    keys = [(f"{3 * i}.{j}.0", bytes([i, j]) * 12) for i in range(3) for j in range(2)]
    for i in range(3):
        group = dzv.open_group(session)["0"]
        with group.batched_writes(block_chunks=1) as batch:
            for key, data in keys[2 * i : 2 * i + 2]:
                batch.write_bytes("vertices", key, data)
        store.expand([(0, 0, 0), (100 + 100 * (i + 1), 100, 100)])
    session.commit("three batches")
    group = dzv.open_group(repo.readonly_session("main"), "r")["0"]
    assert [(key, group.read_bytes("vertices", key)) for key, _ in keys] == keys
    assert sorted(group.list_chunks("vertices")) == sorted(key for key, _ in keys)


@in_both_layouts
def test_two_writes_in_one_graph(few_forks_or_many, repo, layout):
    """Stores that the session has just made: neither write takes back what the other said of its own."""
    session = repo.writable_session("main")
    stores = [create(session, name, layout) for name in "ab"]
    results = dask.compute(*(dzv.write_points(s, **arguments(i), compute=False) for i, s in enumerate(stores)))
    for store, result in zip(stores, results, strict=True):
        store.finish(result)
        assert store.finish(result) == result.plain()  # once more is once
    session.commit("both")
    for i, name in enumerate("ab"):
        check(repo.readonly_session("main"), i, name)


def test_two_replacing_writes_in_one_graph(few_forks_or_many, repo):
    session = repo.writable_session("main")
    for i, name in enumerate("ab"):
        dzv.write_points(create(session, name), **arguments(i))
    if few_forks_or_many == "pickling":  # what is not committed is replaced in one process only
        session.commit("old")
        session = repo.writable_session("main")
    stores = [dzv.open(group_of(session, name), "r+") for name in "ab"]
    lazy = [dzv.write_points(s, **arguments(5 + i), mode="overwrite", compute=False) for i, s in enumerate(stores)]
    for store, result in reversed(list(zip(stores, dask.compute(*lazy), strict=True))):
        store.finish(result)
    session.commit("new")
    for i, name in enumerate("ab"):
        check(repo.readonly_session("main"), 5 + i, name)


@in_both_layouts
@pytest.mark.parametrize("begun", ["empty", "committed", "not committed"])
def test_two_writes_of_one_level(few_forks_or_many, repo, layout, begun):
    """The first that is finished is in the session, whole; the second is refused, and changes nothing."""
    if begun == "not committed" and few_forks_or_many == "pickling":
        pytest.skip("replaced in one process only")
    session = repo.writable_session("main")
    store = create(session, layout=layout)
    mode = "error"
    if begun != "empty":
        dzv.write_points(store, **arguments(9))
        mode = "overwrite"
    if begun == "committed":
        session.commit("old")
        session = repo.writable_session("main")
        store = dzv.open(session, "r+")
    results = dask.compute(*(dzv.write_points(store, **arguments(i), mode=mode, compute=False) for i in (1, 2)))
    store.finish(results[0])
    with pytest.raises(dzv.PlanError, match="changed here since this write was planned"):
        store.finish(results[1])
    check(session, 1)
    session.commit("the first")
    check(repo.readonly_session("main"), 1)


def test_what_others_change_meanwhile_is_kept(few_forks_or_many, repo):
    """An attribute of the very document that the write changes, another store, and chunks of another array."""
    session = repo.writable_session("main")
    store = create(session)
    other = create(session, "other")
    lazy = dzv.write_points(store, **arguments(1), compute=False)
    dzv.write_points(other, **arguments(2))
    store.group.attrs["note"] = "meanwhile"
    dzv.open_group(session)["0"].attrs["note"] = "of the level"
    (result,) = dask.compute(lazy)
    store.finish(result)
    session.commit("all")
    check(repo.readonly_session("main"), 1)
    check(repo.readonly_session("main"), 2, "other")
    group = dzv.open_group(repo.readonly_session("main"), "r")
    assert (group.attrs["note"], group["0"].attrs["note"]) == ("meanwhile", "of the level")


def test_the_same_attribute_meanwhile(few_forks_or_many, repo):
    session = repo.writable_session("main")
    dzv.create(session, chunk_shape=CHUNK, bounds=[(0, 0, 0), (100, 100, 100)])
    group = dzv.open_group(session)["0"]
    with group.batched_writes() as batch:
        batch.write_bytes("vertices", "0.0.0", bytes(12))
    batches = []
    for units in ("nm", "um"):
        with group.batched_writes(compute=False) as batch:
            batch.write_array_meta("vertices", {"units": units})
        batches.append(batch)
    results = dask.compute(*(batch.to_delayed() for batch in batches))
    batches[0].finish(results[0])
    with pytest.raises(dzv.PlanError, match="vertices"):
        batches[1].finish(results[1])
    assert group.read_array_meta("vertices")["units"] == "nm"


def test_shards_by_default(repo, tmp_path):
    """Of few chunks, too: a repository is no local directory, but one in memory is memory."""

    def packed(target):
        store = dzv.create(target, chunk_shape=CHUNK)
        dzv.write_points(store, points(1))
        return zarr.open_array(store.group.zarr_group.store, path="0/vertices", mode="r").shards is not None

    memory = icechunk.Repository.create(icechunk.in_memory_storage())
    with dask.config.set(scheduler="sync"):
        assert packed(repo.writable_session("main"))
        assert not packed(memory.writable_session("main"))
        assert not packed(tmp_path / "local.zv")
