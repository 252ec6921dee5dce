"""Which layout a group has, and that nobody can take it for the other; names and bounds that no layout can hold."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from refusals import fails

import dask_zv as dzv
from dask_zv.storage import locks
from dask_zv.storage.handles import open_objects

LAYOUTS = ["grid", "per_chunk"]


def make(path, layout, **kwargs):
    return dzv.create(path, chunk_shape=(50, 50), layout=layout, **kwargs)


@pytest.mark.parametrize("bounds", [None, ((0, 0), (99, 99))])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_empty_level_opened_alone_knows_its_layout(tmp_path, layout, bounds):
    make(tmp_path / "s.zv", layout, bounds=bounds)
    assert dzv.open_group(tmp_path / "s.zv/0").layout == layout
    other = next(x for x in LAYOUTS if x != layout)
    for path in (tmp_path / "s.zv", tmp_path / "s.zv/0"):
        fails(dzv.MetadataError, f"layout '{layout}'", dzv.open_group, path, layout=other)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_level_with_arrays_knows_it_too(tmp_path, layout):
    dzv.write_points(make(tmp_path / "s.zv", layout), np.ones((3, 2)))
    assert dzv.open_group(tmp_path / "s.zv/0").layout == layout
    # also where the settings of ours are gone
    document = json.loads((tmp_path / "s.zv/0/zarr.json").read_text())
    del document["attributes"]["dask_zv"]
    (tmp_path / "s.zv/0/zarr.json").write_text(json.dumps(document))
    assert dzv.open_group(tmp_path / "s.zv/0").layout == layout


def test_an_empty_level_of_others_tells_nothing(tmp_path):
    make(tmp_path / "s.zv", "grid")
    document = json.loads((tmp_path / "s.zv/0/zarr.json").read_text())
    del document["attributes"]["dask_zv"]
    (tmp_path / "s.zv/0/zarr.json").write_text(json.dumps(document))
    fails(dzv.MetadataError, "open the store", lambda: dzv.open_group(tmp_path / "s.zv/0"))
    assert dzv.open(tmp_path / "s.zv").level(0).group.layout == "grid"


@pytest.mark.parametrize("name", ["dask_zv_lock", "dask_zv_catalog", "dask_zv_replacing-x", "vertex_attributes/dask_zv_y"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_names_of_the_library_are_no_arrays(layout, name):
    group = make({}, layout, bounds=((0, 0), (99, 99))).level(0).group
    fails(dzv.InvalidNameError, "dask_zv_", group.write_bytes, name, "0.0", b"x")
    with pytest.raises(dzv.InvalidNameError, match="dask_zv_"), group.batched_writes():
        group.write_bytes(name, "0.0", b"x")
    assert not group.list_chunks(name)


@pytest.mark.parametrize("far", [1e25, -1e30])
def test_bounds_beyond_all_chunks(far):
    low, high = sorted([(0.0, 0.0), (far, far)])
    fails(dzv.InputError, r"2\*\*53", make, {}, "grid", bounds=(low, high))
    store = make({}, "grid", bounds=((0, 0), (99, 99)))
    dzv.write_points(store, np.ones((3, 2)))
    fails(dzv.InputError, r"2\*\*53", store.expand, (low, high))
    assert store.metadata.bounds == ((0.0, 0.0), (99.0, 99.0))


def test_numpy_integers_are_integers_and_refresh_counts_vertices():
    dzv.write_points(make({}, "grid", shard_chunks=np.int64(4)), np.ones((3, 2)))
    dzv.write_points(make({}, "grid", shard_chunks=(np.int64(2), np.int32(2))), np.ones((3, 2)))
    store = make({}, "grid", bounds=((0, 0), (99, 99)))
    dzv.write_points(store, np.random.default_rng(0).uniform(0, 99, (100, 2)))
    group = store.level(0).group
    key = group.list_chunks("vertices")[0]
    rows = len(group.read_bytes("vertices", key)) // 16
    with group.batched_writes():
        for array in ("vertices", "vertex_fragments"):
            group.write_bytes(array, key, b"")
    store.refresh()
    assert store.level(0).metadata.vertex_count == 100 - rows == len(store.level(0).read().positions)


def test_what_others_say_of_an_array_survives_its_replacement(tmp_path):
    store = make(tmp_path / "s.zv", "grid")
    dzv.write_points(store, np.ones((3, 2)), attributes={"mass": np.ones(3)})
    path = tmp_path / "s.zv/0/vertex_attributes/mass/zarr.json"
    document = json.loads(path.read_text())
    document["attributes"] |= {"unit": "gram", "foreign": [1]}
    path.write_text(json.dumps(document))
    dzv.write_points(dzv.open(tmp_path / "s.zv", mode="r+"), np.ones((3, 2)), attributes={"mass": [1, 2, 3]}, mode="overwrite")
    attributes = json.loads(path.read_text())["attributes"]
    assert (attributes["unit"], attributes["foreign"], attributes["dtype"]) == ("gram", [1], "int64")


def test_locks_that_were_taken_away_and_renewals_that_fail(override, monkeypatch):
    objects = open_objects(make({}, "grid")._contents.handle)
    override(lock_lifetime=0.2)
    theirs = json.dumps({"owner": "B", "expires": time.time() + 100}).encode()
    with locks.commit_lock(objects, "0") as hold:
        hold.check()
        objects.delete("0/dask_zv_lock")
        assert objects.put_if_absent("0/dask_zv_lock", theirs)
        time.sleep(0.3)
        fails(dzv.PlanError, "lost during the commit", hold.check)
    assert objects.get("0/dask_zv_lock") == theirs
    objects = open_objects(make({}, "grid")._contents.handle)
    override(lock_lifetime=1.0)
    put, failures = objects.put, [1]

    def failing(key, data):
        if failures:
            failures.pop()
            raise dzv.StoreError("503")
        put(key, data)

    monkeypatch.setattr(objects, "put", failing)
    with locks.commit_lock(objects, "0") as hold:
        time.sleep(1.5)
        hold.check()
    assert not failures
    assert objects.get("0/dask_zv_lock") is None
