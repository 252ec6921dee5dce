"""Snapshots, tags and branches of an Icechunk repository open as any store, in xarray too, and are never mixed up."""

import numpy as np
import pytest
import xarray as xr
import zarr
from small import always

import dask_zv as dzv

icechunk = pytest.importorskip("icechunk")

CHUNK = (20.0, 20.0, 20.0)
N = 300

_sync = always(scheduler="sync")


def points(seed):
    return np.random.default_rng(seed).uniform(0, 100, (N + seed, 3))


@pytest.fixture
def snapshots(repo):
    """Two snapshots of ``main``, the first with the tag ``v1``, and one of the branch ``trial`` that began at the first."""
    store = dzv.create(repo.writable_session("main"), chunk_shape=CHUNK)
    dzv.write_points(store, points(1), attributes={"seed": np.full(N + 1, 1)})
    first = store.commit("first")
    repo.create_tag("v1", first)
    repo.create_branch("trial", first)
    found = {"first": first}
    for branch, name, seed in (("main", "second", 2), ("trial", "third", 3)):
        store = dzv.open(repo.writable_session(branch), "r+")
        dzv.write_points(store, points(seed), attributes={"seed": np.full(N + seed, seed)}, mode="overwrite")
        found[name] = store.commit(name)
    return found


def selections(snapshots):
    """Return ways to ask for a snapshot, and the seed of what it holds."""
    by_id = [({"snapshot_id": found}, seed) for seed, found in enumerate(snapshots.values(), 1)]
    return [*by_id, ({"tag": "v1"}, 1), ({"branch": "main"}, 2), ({"branch": "trial"}, 3)]


@pytest.mark.parametrize("target", ["session", "store", "group"])
def test_every_snapshot_opens_in_xarray(repo, snapshots, target):
    for which, seed in selections(snapshots):
        session = repo.readonly_session(**which)
        given = {"session": session, "store": session.store, "group": zarr.open_group(session.store, mode="r")}[target]
        ds = xr.open_dataset(given, engine="zv", chunks={})
        assert ds.sizes["vertex"] == N + seed
        assert set(ds["seed"].values.tolist()) == {seed}
        tree = xr.open_datatree(given, engine="zv", chunks={})
        np.testing.assert_array_equal(np.sort(tree["0/x"].values), np.sort(points(seed)[:, 0]))
        ds = xr.open_dataset(given, engine="zv", view="spatial")
        np.testing.assert_array_equal(np.sort(ds["y"].values), np.sort(points(seed)[:, 1]))


def test_keys_are_those_of_the_snapshot(repo, snapshots):
    """The same whenever and however it is opened, and never those of another."""

    def keys(**which):
        ds = xr.open_dataset(repo.readonly_session(**which), engine="zv", chunks={})
        return frozenset(str(key) for name in ds.variables for key in getattr(ds[name].data, "dask", ()))

    first = keys(snapshot_id=snapshots["first"])
    assert first
    assert first == keys(tag="v1") == keys(snapshot_id=snapshots["first"])
    assert not first & keys(branch="main")
    assert not first & keys(branch="trial")
    session = repo.writable_session("main")
    dzv.open(session, "r+").group.attrs["note"] = "the same points"
    before = keys(branch="main")
    session.commit("an attribute alone")
    assert not before & keys(branch="main")


def test_old_results_are_never_taken_for_new_ones(repo, snapshots, use_scheduler):
    with use_scheduler("distributed"):
        old = xr.open_dataset(repo.readonly_session("main"), engine="zv", chunks={}).persist()
        store = dzv.open(repo.writable_session("main"), "r+")
        dzv.write_points(store, points(2)[::-1] / 2, attributes={"seed": np.full(N + 2, 9)}, mode="overwrite")
        store.commit("halved")
        new = xr.open_dataset(repo.readonly_session("main"), engine="zv", chunks={})
        assert set(new["seed"].values.tolist()) == {9}
        np.testing.assert_allclose(np.sort(new["x"].values), np.sort(old["x"].values) / 2)
        assert set(old["seed"].values.tolist()) == {2}
        # what is read later of what was opened earlier is of the snapshot that was opened
        late = xr.open_dataset(repo.readonly_session(tag="v1"), engine="zv", chunks={})
        assert set(late["seed"].compute().values.tolist()) == {1}


def test_a_session_shows_its_own_changes(repo, snapshots):
    session = repo.writable_session("main")
    store = dzv.open(session, "r+")
    assert xr.open_dataset(session, engine="zv").sizes["vertex"] == N + 2
    dzv.write_points(store, points(5), attributes={"seed": np.full(N + 5, 5)}, mode="overwrite")
    ds = xr.open_dataset(session, engine="zv", chunks={})
    assert set(ds["seed"].values.tolist()) == {5}
    assert xr.open_dataset(repo.readonly_session("main"), engine="zv").sizes["vertex"] == N + 2
    session.discard_changes()
    assert set(xr.open_dataset(session, engine="zv", chunks={})["seed"].values.tolist()) == {2}


def test_a_snapshot_is_read_only(repo, snapshots):
    session = repo.readonly_session(tag="v1")
    with pytest.raises(dzv.ReadOnlyError):
        dzv.open(session, "r+")
    with pytest.raises(dzv.ReadOnlyError):
        dzv.create(session, chunk_shape=CHUNK, overwrite=True)
    store = dzv.open(session)
    with pytest.raises(dzv.InputError, match="needs no commit"):
        store.commit("nothing")
