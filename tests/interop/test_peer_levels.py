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


@pytest.mark.parametrize(("layout", "generation"), [("grid", "0.9"), ("per_chunk", "0.2")])
def test_the_peer_reads_levels_of_paths(tmp_path, layout, generation):
    peer, path = start_peer(generation), tmp_path / "paths.zv"
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 80, 9)
    positions = np.concatenate([rng.uniform(-30, 30, 3) + np.cumsum(rng.normal(0, 1, (n, 3)), axis=0) for n in lengths])
    store = dzv.create(path, geometry="polyline", chunk_shape=(10, 10, 10), layout=layout)
    dzv.write_polylines(store, positions.astype("f4"), lengths=lengths, groups={0: [1, 2]})
    dzv.build_pyramid(store, 2, tolerance=1.0)
    assert peer.call("validate", path=path)["errors"] == []
    for number in (1, 2):
        ours = store.level(number).read()
        found, _ = peer.arrays("read_geometry", path=path, level=number)
        np.testing.assert_array_equal(found["positions"], ours.positions)
        np.testing.assert_array_equal(found["lengths"], ours.lengths)


def test_the_peer_reads_levels_of_trees(tmp_path):
    peer, path = start_peer("0.9"), tmp_path / "trees.zv"
    rng = np.random.default_rng(0)
    parents = np.array([-1, *(rng.integers(max(i - 3, 0), i) for i in range(1, 400))])
    positions = np.zeros((400, 3))
    for i in range(1, 400):
        positions[i] = positions[parents[i]] + rng.normal(0.5, 1, 3)
    store = dzv.create(path, geometry="skeleton", chunk_shape=(25, 25, 25))
    dzv.write_skeletons(store, positions.astype("f4"), parents=parents)
    dzv.build_pyramid(store, 2, tolerance=1.0)
    assert peer.call("validate", path=path)["errors"] == []
    for number in (1, 2):
        ours = store.level(number).read()
        found, _ = peer.arrays("read_geometry", path=path, level=number)
        np.testing.assert_array_equal(found["positions"], ours.positions)
        child = np.flatnonzero(ours.parents >= 0)
        wanted = np.column_stack([child, ours.parents[child]])
        assert sorted(map(tuple, found["links"].tolist())) == sorted(map(tuple, wanted.tolist()))


@pytest.mark.parametrize("geometry", ["graph", "mesh"])
def test_the_peer_reads_levels_of_links(tmp_path, geometry):
    peer, path = start_peer("0.9"), tmp_path / "links.zv"
    side = np.arange(24)
    x, y = (a.reshape(-1) for a in np.meshgrid(side, side, indexing="ij"))
    positions = np.column_stack([x, y, 3 * np.sin(x / 4)]).astype("f4")
    at = (x * 24 + y)[(x < 23) & (y < 23)]
    store = dzv.create(path, geometry=geometry, chunk_shape=(8, 8, 8))
    if geometry == "mesh":
        faces = np.concatenate([np.column_stack([at, at + 24, at + 1]), np.column_stack([at + 24, at + 25, at + 1])])
        dzv.write_meshes(store, positions, faces=faces)
    else:
        dzv.write_graph(store, positions, edges=np.concatenate([np.column_stack([at, at + 1]), np.column_stack([at, at + 24])]))
    dzv.build_pyramid(store, 2)
    assert peer.call("validate", path=path)["errors"] == []
    for number in (1, 2):
        ours = store.level(number).read()
        found, _ = peer.arrays("read_geometry", path=path, level=number)
        np.testing.assert_array_equal(found["positions"], ours.positions)
        links = ours.faces if geometry == "mesh" else ours.edges
        assert len(links) > 10
        assert sorted(map(tuple, found["links"].tolist())) == sorted(map(tuple, links.tolist()))
