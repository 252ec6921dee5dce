"""Very many objects: what is held while they are written, and what is asked for to read one of them."""

import json
import subprocess
import sys
from pathlib import Path

import dask
import numpy as np
import pytest
from counting_store import CountingStore
from small import sizes
from zarr.storage import MemoryStore

import dask_zv as dzv
from many_objects import lazily, paths

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "many_objects.py"
VERTICES = 4


def asked_for(store, identity):
    """Read one object of a store that was just opened; return it, and the keys that this took."""
    level = dzv.open(store).level(0)
    store.forget()
    return level.read(objects=identity), list(store.log)


@pytest.mark.parametrize("layout", ["grid", "per_chunk"])
def test_one_object_costs_the_same_among_many(layout):
    """Ten times the objects are no more requests, and no chunk is read but those of the object."""
    found = {}
    for each in (100, 1000):
        counts = [each] * 40
        store = CountingStore(MemoryStore())
        made = dzv.create(store, geometry="polyline", chunk_shape=(200,) * 3, layout=layout)
        positions, lengths = lazily(counts, VERTICES)
        with dask.config.set(scheduler="sync"):
            dzv.write_polylines(made, positions, lengths=lengths)
            row = 17 * each + each // 2
            expected = paths(17, each, VERTICES)[each // 2 * VERTICES :][:VERTICES]
            geometry, keys = asked_for(store, row)
        assert geometry.positions.tobytes() == expected.tobytes()
        assert geometry.ids.tolist() == [row]
        wanted = {".".join(map(str, c)) for c in np.floor(expected / 200).astype(int).tolist()}
        assert store.chunks("vertices") == wanted
        assert len({k for k in keys if "/manifests/c/" in k}) == 1
        # chunks that paths cross between differ from one store to the next
        found[each] = len([k for k in keys if "/links/" not in k]) - 2 * len(wanted)
    assert found[1000] <= found[100]


def test_manifests_are_made_in_parts():
    """No task has the manifests of all objects: parts of them are written one by one, and read back as one."""
    counts = [1000] * 40
    positions, lengths = lazily(counts, VERTICES)
    target, ids = {}, np.arange(40_000)[::-1] * 7
    store = dzv.create(target, geometry="polyline", chunk_shape=(200,) * 3)
    with sizes(scheduler="sync", objects_per_task=1 << 14):
        planned = dzv.write_polylines(store, positions, lengths=lengths, object_ids=ids, compute=False)
        assert sum("-manifests-" in str(k) for k in dict(planned.__dask_graph__())) == 3
        planned.compute()
        store._contents.reload()
        geometry = store.level(0).read()
    assert sorted(k.rpartition("/")[2] for k in target if "object_index/manifests/c/" in k) == ["0", "1", "2"]
    assert geometry.ids.tolist() == ids[::-1].tolist()
    whole = np.concatenate([paths(i, n, VERTICES) for i, n in enumerate(counts)]).reshape(-1, VERTICES, 3)
    assert geometry.positions.tobytes() == whole[::-1].tobytes()
    wanted = np.array([0, 16_383, 16_384, 39_999])  # on both sides of the end of a stored chunk
    some = store.level(0).read(objects=wanted * 7)
    assert some.positions.tobytes() == whole[::-1][wanted].tobytes()


def run(*arguments):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.long
def test_a_million_objects():
    told = run("--objects", 1_000_000)
    assert told["objects"] == 1_000_000
    # a few hundred bytes for each: the table of their pieces, and the vertices on their way between partitions and blocks
    assert told["peak_mb"] - told["before_mb"] < 900
