"""Edits in transactions: each is one snapshot, whether tasks share a fork or have one each."""

import numpy as np
import pytest

import dask_zv as dzv

N = 60
EDITS = {
    "set": lambda s: s.set_attribute("new", np.arange(N) * 0.5),
    "rename": lambda s: s.rename_attribute("row", "number"),
    "drop": lambda s: s.drop_attribute("row"),
    "object attribute": lambda s: s.set_object_attribute("size", np.arange(4) * 2.0),
    "group": lambda s: s.set_group("new", [2]),
    "objects": lambda s: s.delete_objects([1]),
    "box": lambda s: s.delete(bbox=((0, 0, 0), (20, 20, 9))),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_is_one_snapshot(repo, few_forks_or_many, edit):
    rng = np.random.default_rng(0)
    positions, links = rng.uniform(0, 20, (N, 3)), rng.integers(0, N, (40, 2))
    session = repo.writable_session("main")
    store = dzv.create(session, geometry="graph", chunk_shape=(10, 10, 10))
    dzv.write_graph(
        store, positions, edges=links, object_ids=np.arange(N) % 4, attributes={"row": np.arange(N)}, groups={0: [1, 3]},
        object_attributes={"size": np.arange(4)},
    )  # fmt: skip
    session.commit("written")
    store = dzv.open(repo.writable_session("main"), "r+")
    before = store.level(0).read()
    EDITS[edit](store)
    assert dzv.open(repo.readonly_session("main")).level(0).attributes == ("row",)
    store.commit(edit)
    assert len(list(repo.ancestry(branch="main"))) == 3
    after = dzv.open(repo.readonly_session("main")).level(0).read()
    gone = np.zeros(N, bool)
    if edit == "objects":
        gone = before.object_ids == 1
    if edit == "box":
        gone = (before.positions[:, 2] <= 9) & (before.positions >= 0).all(axis=1)
    np.testing.assert_array_equal(after.positions, before.positions[~gone])
    assert len(after.edges) == (~gone[before.edges].any(axis=1)).sum()
    names = {"set": ["new", "row"], "rename": ["number"], "drop": []}.get(edit, ["row"])
    assert sorted(after.attributes) == names
    size = np.arange(4) * 2.0 if edit == "object attribute" else np.arange(4)
    np.testing.assert_array_equal(after.object_attributes["size"], np.delete(size, 1) if edit == "objects" else size)
    assert {g: m.tolist() for g, m in after.groups.items()} == {
        "group": {0: [1, 3], 1: [2]}, "objects": {0: [3]}
    }.get(edit, {0: [1, 3]})  # fmt: skip
