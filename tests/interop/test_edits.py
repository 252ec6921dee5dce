"""What our edits leave of a store, the ZV 0.9 package reads exactly, and its validator passes."""

from __future__ import annotations

import numpy as np
import pytest
from our_points import column, make_objects, same
from peer_client import SPURIOUS

import dask_zv as dzv


def check(peer, path):
    """Compare all that the package reads with what we read."""
    ours = dzv.open(path).level(0).read()
    found, told = peer.arrays(
        "read", path=path, attributes=list(ours.attributes), objects=np.unique(ours.object_ids).tolist(),
        object_attributes=list(ours.object_attributes),
    )  # fmt: skip
    same(found["positions"], ours.positions)
    for key, values in ours.attributes.items():
        same(column(found, f"attr__{key}").reshape(values.shape), values, key)
    facade = told["facade"]
    assert told["vertex_count"] == facade["count"] == len(ours.positions)
    assert facade["attributes"] == sorted(ours.attributes)
    assert facade["object_attributes"] == sorted(ours.object_attributes)
    said = peer.call("validate", path=path)
    assert [e for e in said["errors"] if not any(s in e for s in SPURIOUS["0.9"])] == []
    return ours, found, told


@pytest.mark.parametrize("shards", [1, 4])
def test_it_reads_what_edits_of_attributes_leave(peer, tmp_path, shards):
    path = str(tmp_path / "edited.zv")
    make_objects(path, "grid", shard_chunks=shards)
    store = dzv.open(path, "r+")
    n = len(store.level(0).read().positions)
    store.set_attribute("new", np.arange(n) * 0.5)
    store.set_attribute("word", np.array(["a", "bb", "µ"])[np.arange(n) % 3])
    store.set_attribute("mass", np.arange(3 * n, dtype="f4").reshape(n, 3))
    store.rename_attribute("kind", "sort")
    store.drop_attribute("maybe")
    store.set_object_attribute("age", np.arange(5, dtype="f4"))
    store.rename_object_attribute("score", "points")
    store.drop_object_attribute("rank")
    store.set_group(1, [3, 7])
    ours, *_ = check(peer, path)
    same(ours.attributes["mass"], np.arange(3 * n, dtype="f4").reshape(n, 3))
    assert {"new", "word", "sort"} < ours.attributes.keys()
    assert "maybe" not in ours.attributes
    assert sorted(ours.object_attributes) == ["age", "points"]
