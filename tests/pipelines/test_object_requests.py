"""How often a store is asked for one object: what other chunks, segments and objects hold is left alone."""

from __future__ import annotations

import re

import dask
import numpy as np
import pandas as pd
import pytest
from counting_store import CountingStore
from zarr.storage import MemoryStore

import dask_zv as dzv

OBJECTS = 3000
VERTICES = 6
CHUNK = 50.0
EDGE = 400.0


@pytest.fixture(autouse=True, scope="module")
def _sync():
    with dask.config.set(scheduler="sync"):
        yield


def write(geometry, *, tables=False, spread=1):
    """Return a counted store of many small objects; ids have gaps of `spread` - 1."""
    rng = np.random.default_rng(0)
    starts = rng.uniform(10, EDGE - 10, (OBJECTS, 1, 3))
    positions = np.clip(starts + np.cumsum(rng.normal(0, 3, (OBJECTS, VERTICES, 3)), axis=1), 0, EDGE - 1).reshape(-1, 3)
    ids = np.arange(OBJECTS) * spread
    of_vertex = np.repeat(ids, VERTICES)
    first = np.arange(0, len(positions), VERTICES)
    store = CountingStore(MemoryStore())
    made = dzv.create(store, geometry=geometry, chunk_shape=(CHUNK,) * 3, bounds=((0,) * 3, (EDGE,) * 3), shard_chunks=64)
    more = {}
    if tables:
        more["object_attributes"] = pd.DataFrame({"a": ids * 0.5, "b": ids}, index=ids)
        more["groups"] = {0: ids[:3].tolist(), 1: ids[5:6].tolist()}
    if geometry == "polyline":
        dzv.write_polylines(made, positions, lengths=np.full(OBJECTS, VERTICES), object_ids=ids, **more)
    elif geometry == "skeleton":
        parents = np.arange(len(positions)) - 1
        parents[first] = -1
        dzv.write_skeletons(made, positions, parents=parents, object_ids=of_vertex, **more)
    elif geometry == "graph":
        edges = np.concatenate([np.stack([first + i, first + i + 1], axis=1) for i in range(VERTICES - 1)])
        dzv.write_graph(
            made, positions, edges=edges, edge_attributes={"w": np.arange(len(edges))}, object_ids=of_vertex, **more
        )
    else:
        faces = np.concatenate([np.stack([first + i, first + i + 1, first + i + 2], axis=1) for i in range(VERTICES - 2)])
        dzv.write_meshes(made, positions, faces=faces, object_ids=of_vertex, **more)
    return store, positions


def asked(store, read):
    """Return what `read` returns, the keys that were asked for, and the number of requests."""
    store.forget()
    found = read()
    return found, list(store.log), len(store.log) + len(store.listed)


def check(geometry, positions, number):
    mine = slice(number * VERTICES, (number + 1) * VERTICES)
    assert sorted(geometry.positions.tolist()) == sorted(positions[mine].tolist())


def inside_one_shard(positions):
    """Return the numbers of objects in a single chunk, and of some in two or more chunks of one shard."""
    chunks = (positions // CHUNK).astype(int).reshape(OBJECTS, VERTICES, 3)
    shards = chunks // 4  # shards of 4 x 4 x 4
    one = (shards == shards[:, :1]).all(axis=(1, 2))
    alone = (chunks == chunks[:, :1]).all(axis=(1, 2))
    return np.flatnonzero(alone), np.flatnonzero(one & ~alone)


@pytest.mark.parametrize("spread", [1, 7])
def test_a_polyline(spread):
    store, positions = write("polyline", spread=spread)
    alone, crossing = inside_one_shard(positions)
    for number in (int(alone[-1]), int(crossing[-1])):
        level = dzv.open(store).level(0)
        assert len(level.chunks) > 300
        geometry, keys, requests = asked(store, lambda level=level, number=number: level.read(objects=[number * spread]))
        check(geometry, positions, number)
        # the ids' document and one chunk of them, one of manifests, one look at what there is, positions and fragments
        assert requests <= 6
        assert not any("links" in k for k in keys)
        again = int(alone[0])
        geometry, _, requests = asked(store, lambda level=level, again=again: level.read(objects=[again * spread]))
        check(geometry, positions, again)
        assert requests <= 4
    _, _, requests = asked(store, lambda: dzv.open(store).level(0).read(objects=[number * spread]))
    assert requests <= 24


def test_a_polyline_with_tables():
    store, positions = write("polyline", tables=True)
    alone, _ = inside_one_shard(positions)
    level = dzv.open(store).level(0)
    _ = level.chunks
    number = int(alone[-1])
    geometry, _, requests = asked(store, lambda: level.read(objects=[number]))
    check(geometry, positions, number)
    assert geometry.object_attributes["a"].tolist() == [number * 0.5]
    assert geometry.groups[0].tolist() == [0, 1, 2]
    assert requests <= 14
    geometry, keys, requests = asked(store, lambda: level.read(objects=[int(alone[0])]))
    assert geometry.object_attributes["b"].tolist() == [int(alone[0])]
    assert requests <= 6
    assert not any(k.endswith("zarr.json") for k in keys)


@pytest.mark.parametrize(("geometry", "first", "then"), [("skeleton", 9, 7), ("graph", 11, 12), ("mesh", 10, 9)])
def test_linked_objects(geometry, first, then):
    store, positions = write(geometry)
    alone, crossing = inside_one_shard(positions)
    level = dzv.open(store).level(0)
    _ = level.chunks
    found, keys, requests = asked(store, lambda: level.read(objects=[int(alone[-1])]))
    check(found, positions, int(alone[-1]))
    assert requests <= first
    links = found.faces if geometry == "mesh" else found.edges
    assert len(links) == VERTICES - (2 if geometry == "mesh" else 1)
    documents = [k for k in keys if re.search(r"links?/.*zarr\.json", k)]
    assert documents == ["0/links/0/zarr.json"]
    for number in crossing[:5].tolist():
        found, _, requests = asked(store, lambda number=number: level.read(objects=[number]))
        check(found, positions, number)
        segments = {k.split("/c/")[0] for k in store.log if "link" in k}
        assert len(set(store.log)) == 3 + len(segments)  # manifests, positions, fragments; shards may be read in two ranges
        assert requests <= then + (6 if geometry == "mesh" else 0)


def test_a_box_asks_for_the_links_inside():
    store, positions = write("graph")
    level = dzv.open(store).level(0)
    _ = level.chunks
    low = np.full(3, 2 * CHUNK + 1)
    found, _, _ = asked(store, lambda: level.read(bbox=(low, low + CHUNK / 2)))
    inside = ((positions >= low) & (positions <= low + CHUNK / 2)).all(axis=1)
    assert len(found) == inside.sum()
    cells = [k for k in store.log if "/c/" in k and k.startswith("0/links/")]
    assert cells == ["0/links/0/0.0.0/c/0/0/0"]  # one chunk: no links to others
