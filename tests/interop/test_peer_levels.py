"""Coarser levels of ours as the ZV package of the layout's generation reads them: vertices, attributes, objects; and its validator."""

from __future__ import annotations

import numpy as np
import pytest
from peer_client import SPURIOUS, start_peer

import dask_zv as dzv


@pytest.mark.parametrize(("layout", "generation"), [("grid", "0.9"), ("per_chunk", "0.2")])
@pytest.mark.parametrize("with_objects", [False, True])
def test_the_peer_reads_our_levels(tmp_path, layout, generation, with_objects):
    peer, path = start_peer(generation), tmp_path / "levels.zv"
    rng = np.random.default_rng(0)
    positions = rng.uniform(-40, 70, (4000, 3)).astype("f4")
    attributes = {"mass": rng.random(4000).astype("f4"), "kind": rng.choice(["a", "b"], 4000)}
    store = dzv.create(path, chunk_shape=(20, 20, 20), layout=layout)
    about = {"object_ids": np.arange(4000) % 7, "object_attributes": {"size": np.arange(7.0)}, "groups": {0: [1, 2]}}
    dzv.write_points(store, positions, attributes=attributes, **(about if with_objects else {}))
    dzv.build_pyramid(store, 2)
    said = peer.call("validate", path=path)
    assert said["errors"] == []
    spurious = [known.partition("/")[2] or known for known in SPURIOUS[generation]]  # it says the same of every level
    assert [w for w in said["warnings"] if not any(known in w for known in spurious)] == []
    for number in (1, 2):
        ours = store.level(number).read()
        objects = {"objects": [0, 3], "object_attributes": ["size"]} if with_objects else {}
        found, told = peer.arrays("read", path=path, level=number, attributes=["mass", "kind", "count"], **objects)
        assert told["levels"] == [0, 1, 2]
        np.testing.assert_array_equal(found["positions"], ours.positions)
        for name in ("mass", "kind", "count"):
            np.testing.assert_array_equal(found[f"attr__{name}"], ours.attributes[name])
        if with_objects:
            assert told["ids"] == list(range(7))
            assert told["groups"] == [[1, 2]]
            np.testing.assert_array_equal(found["oattr__size"], np.arange(7.0))
            assert len(found["by_object"]) == np.isin(ours.object_ids, [0, 3]).sum()
