"""How often a store is asked for one object: what other chunks, segments and objects hold is left alone."""

import re

import numpy as np
import pandas as pd
import pytest
from counting_store import CountingStore
from geometries_reference import Data, links_of
from geometries_reference import write as write_data
from small import always
from zarr.storage import MemoryStore

import dask_zv as dzv

OBJECTS, VERTICES = 3000, 6
CHUNK, EDGE = 50.0, 400.0

_sync = always(scheduler="sync")


def write(geometry, *, tables=False, spread=1):
    """Return a counted store of many small objects; ids have gaps of `spread` - 1."""
    rng = np.random.default_rng(0)
    starts = rng.uniform(10, EDGE - 10, (OBJECTS, 1, 3))
    positions = np.clip(starts + np.cumsum(rng.normal(0, 3, (OBJECTS, VERTICES, 3)), axis=1), 0, EDGE - 1).reshape(-1, 3)
    ids, every = np.arange(OBJECTS) * spread, np.arange(len(positions))
    data = Data(geometry, positions, np.repeat(ids, VERTICES), ids, lengths=np.full(OBJECTS, VERTICES), path_ids=ids)
    if geometry == "skeleton":
        data.parents = np.where(every % VERTICES, every - 1, -1)
    elif geometry in ("graph", "mesh"):
        width = 2 if geometry == "graph" else 3
        first = every[every % VERTICES <= VERTICES - width]
        data.links = np.stack([first + i for i in range(width)], axis=1)
        data.link_attributes = {"w": np.arange(len(first))} if geometry == "graph" else {}
    store = CountingStore(MemoryStore())
    made = dzv.create(store, geometry=geometry, chunk_shape=(CHUNK,) * 3, bounds=((0,) * 3, (EDGE,) * 3), shard_chunks=64)
    about = pd.DataFrame({"a": ids * 0.5, "b": ids}, index=ids)
    more = {"object_attributes": about, "groups": {0: ids[:3].tolist(), 1: ids[5:6].tolist()}} if tables else {}
    write_data(made, data, **more)
    return store, positions


def asked(store, positions, level, number, spread=1):
    """Read an object and check it; return it, the keys that were asked for, and the number of requests."""
    store.forget()
    found = (level() if callable(level) else level).read(objects=[number * spread])
    mine = slice(number * VERTICES, (number + 1) * VERTICES)
    assert sorted(found.positions.tolist()) == sorted(positions[mine].tolist())
    return found, list(store.log), len(store.log) + len(store.listed)


def inside_one_shard(positions):
    """Return the numbers of objects in a single chunk, and of some in two or more chunks of one shard."""
    chunks = (positions // CHUNK).astype(int).reshape(OBJECTS, VERTICES, 3)
    shards = chunks // 4  # shards of 4 x 4 x 4
    one, alone = ((c == c[:, :1]).all(axis=(1, 2)) for c in (shards, chunks))
    return np.flatnonzero(alone).tolist(), np.flatnonzero(one & ~alone).tolist()


@pytest.mark.parametrize("spread", [1, 7])
def test_a_polyline(spread):
    store, positions = write("polyline", spread=spread)
    alone, crossing = inside_one_shard(positions)
    for number in (alone[-1], crossing[-1]):
        level = dzv.open(store).level(0)
        assert len(level.chunks) > 300
        _, keys, requests = asked(store, positions, level, number, spread)
        # the ids' document and one chunk of them, one of manifests, one look at what there is, positions and fragments
        assert requests <= 6
        assert not any("links" in k for k in keys)
        assert asked(store, positions, level, alone[0], spread)[2] <= 4
    assert asked(store, positions, lambda: dzv.open(store).level(0), number, spread)[2] <= 24


def test_a_polyline_with_tables():
    store, positions = write("polyline", tables=True)
    alone, _ = inside_one_shard(positions)
    level = dzv.open(store).level(0)
    _ = level.chunks
    geometry, _, requests = asked(store, positions, level, alone[-1])
    assert geometry.object_attributes["a"].tolist() == [alone[-1] * 0.5]
    assert geometry.groups[0].tolist() == [0, 1, 2]
    assert requests <= 14
    geometry, keys, requests = asked(store, positions, level, alone[0])
    assert geometry.object_attributes["b"].tolist() == [alone[0]]
    assert requests <= 6
    assert not any(k.endswith("zarr.json") for k in keys)


@pytest.mark.parametrize(("geometry", "first", "then"), [("skeleton", 9, 7), ("graph", 11, 12), ("mesh", 10, 9)])
def test_linked_objects(geometry, first, then):
    store, positions = write(geometry)
    alone, crossing = inside_one_shard(positions)
    level = dzv.open(store).level(0)
    _ = level.chunks
    found, keys, requests = asked(store, positions, level, alone[-1])
    assert requests <= first
    assert len(links_of(found)[0]) == VERTICES - (2 if geometry == "mesh" else 1)
    assert [k for k in keys if re.search(r"links?/.*zarr\.json", k)] == ["0/links/0/zarr.json"]
    for number in crossing[:5]:
        _, keys, requests = asked(store, positions, level, number)
        segments = {k.split("/c/")[0] for k in keys if "link" in k}
        assert len(set(keys)) == 3 + len(segments)  # manifests, positions, fragments; shards may be read in two ranges
        assert requests <= then + (6 if geometry == "mesh" else 0)


def test_a_box_asks_for_the_links_inside():
    store, positions = write("graph")
    level = dzv.open(store).level(0)
    _ = level.chunks
    low = np.full(3, 2 * CHUNK + 1)
    store.forget()
    found = level.read(bbox=(low, low + CHUNK / 2))
    assert len(found) == ((positions >= low) & (positions <= low + CHUNK / 2)).all(axis=1).sum()
    cells = [k for k in store.log if "/c/" in k and k.startswith("0/links/")]
    assert cells == ["0/links/0/0.0.0/c/0/0/0"]  # one chunk: no links to others
