"""How often a store is asked: opening, boxes and whole levels over S3, many chunks with few file descriptors."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from refusals import fails
from sampling import examples
from small import always

import dask_zv as dzv
from dask_zv.storage.local import LocalObjects
from s3server import serve

GOLDEN = Path(__file__).parents[1] / "data" / "golden_0.9"
N = 4000
EDGE = 160  # 16 x 16 chunks
ARRAYS = 4  # vertices, their fragments, two attributes
RANGES = 4  # of one object, where its cells are far apart

_sync = always(scheduler="sync")


@pytest.fixture(scope="module")
def server():
    with serve() as running:
        yield running


@pytest.fixture(scope="module", params=[1, 64], ids=["cells", "shards"])
def level(request, server):
    """Return (URL, options, chunks per shard) of a store with points in every chunk."""
    url = f"s3://requests/{request.param}/s.zv"
    store = dzv.create(
        url, chunk_shape=(10.0, 10.0), bounds=((0, 0), (EDGE, EDGE)), shard_chunks=request.param, compressor=None,
        storage_options=server.storage_options,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    every = np.stack(np.meshgrid(*2 * [np.arange(5.0, EDGE, 10)]), -1).reshape(-1, 2)
    points = np.concatenate([every, rng.uniform(0, EDGE, (N - len(every), 2))])
    attributes = {"mass": rng.normal(size=N), "kind": rng.integers(0, 9, N)}
    server.reset()
    report = dzv.write_points(store, points, attributes=attributes)
    assert report.chunks == 256
    # besides the objects: documents, the catalog, the lock, the root's and the level's attributes
    assert server.stats()["requests"] <= ARRAYS * 256 // request.param + 60
    return url, server.storage_options, request.param


def asked(server, do):
    """Return what `do` returns, and how many requests it made."""
    server.reset()
    out = do()
    stats = server.stats()
    return out, stats["requests"], stats["by_operation"]


def test_opening(server, level):
    url, options, _ = level
    _, requests, _ = asked(server, lambda: repr(dzv.open(url, storage_options=options)))
    assert 1 <= requests <= 6
    # of a level each array's document is looked at, without reading it; there is one listing, of the attributes' names
    _, requests, kinds = asked(server, lambda: repr(dzv.open(url, storage_options=options).level(0)))
    # and, of a repr, one that finds an unfinished write
    assert requests <= 7 + ARRAYS
    assert kinds["LIST"] <= 2
    ds, requests, _ = asked(server, lambda: xr.open_dataset(url, engine="zv", storage_options=options, chunks=None))
    assert requests <= 6 + ARRAYS
    _, requests, _ = asked(server, lambda: repr(ds))
    assert requests == 0


def test_boxes(server, level):
    url, options, shards = level
    opened = dzv.open(url, storage_options=options).level(0)
    assert len(opened.chunks) == 256
    for low, high, chunks, objects in [((41, 41), (49, 49), 1, 1), ((41, 41), (75, 75), 16, 1), ((71, 71), (89, 89), 4, 4)]:
        found, requests, kinds = asked(server, lambda low=low, high=high: opened.read(bbox=(low, high)))
        assert len(found)
        touched = chunks if shards == 1 else objects
        assert requests <= (RANGES if shards > 1 else 1) * touched * ARRAYS + 4
        assert set(kinds) == {"GET"}
    _, requests, _ = asked(server, lambda: opened.read(bbox=((500, 500), (501, 501))))
    assert requests == 0


def test_whole_level(server, level):
    """One request an object and array, and none for what is known from the catalog."""
    url, options, shards = level
    opened = dzv.open(url, storage_options=options).level(0)
    assert len(opened.chunks) == 256
    found, requests, kinds = asked(server, opened.read)
    assert len(found) == N
    assert requests == ARRAYS * 256 // shards
    assert set(kinds) == {"GET"}
    _, requests, _ = asked(server, lambda: opened.read(attributes=["mass"]))
    assert requests == (ARRAYS - 1) * 256 // shards


def test_single_chunks(server, level):
    """Through the group: what its catalog knows is looked up once."""
    url, options, _ = level
    group = dzv.open_group(f"{url}/0", "r", storage_options=options)
    assert len(group.list_chunks("vertices")) == 256
    for key in ("3.3", "15.15"):
        _, requests, _ = asked(server, lambda key=key: group.read_bytes("vertices", key))
        assert requests <= 2
    server.reset()
    data = group.read_bytes("vertices", "0.0")  # the first cell of its shard is no reason to read the shard
    assert len(data) <= server.stats()["bytes_out"] <= len(data) + 200
    fails(dzv.NotFoundError, None, group.read_bytes, "vertices", "99.99")
    keys = group.list_chunks("vertices")

    def many():
        with group.batched_reads([("vertices", keys), ("vertex_attributes/mass", keys)]):
            return [group.read_bytes(a, k) for a in ("vertices", "vertex_attributes/mass") for k in keys]

    found, requests, _ = asked(server, many)
    assert len(found) == 512
    assert requests <= 2 * 256 // level[2] + 4


def test_indexes_of_foreign_shards_are_read_once(tmp_path, monkeypatch):
    """A store of the reference implementation has no catalog: a shard's index is read with its first cell, and kept."""
    with zipfile.ZipFile(GOLDEN / "points_sharded.zarrvectors.zip") as archive:
        archive.extractall(tmp_path)
    root = next(p.parent for p in sorted(tmp_path.rglob("zarr.json")) if '"zarr_vectors":' in p.read_text().replace(" ", ""))
    log = []
    before = LocalObjects.get

    def get(self, key, byte_range=None):
        if byte_range is not None and byte_range[0] < 0:
            log.append(key)
        return before(self, key, byte_range)

    monkeypatch.setattr(LocalObjects, "get", get)
    level = dzv.open(root).level(0)
    first = level.read()
    shards = {p.relative_to(root).as_posix() for p in (root / "0").rglob("c/*/*/*") if p.is_file()}
    assert len(log) == len(set(log)) >= 2
    assert set(log) <= shards
    for _ in range(3):
        assert dzv.open(root).level(0).read().positions.tolist() == first.positions.tolist()
    low = first.positions.min(axis=0)
    assert len(level.read(bbox=(low, low + 1)))
    with xr.open_dataset(root, engine="zv", chunks=None) as ds:
        assert len(ds["x"].values) == len(first)
    assert len(log) == len(set(log))


FEW_DESCRIPTORS = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
import dask
import dask_zv as dzv
target, options, side = json.loads(sys.argv[1])
store = dzv.create(target, chunk_shape=(10, 10), bounds=((0, 0), (999, 999)), shard_chunks=1, storage_options=options)
group = store.level(0).group
keys = [f"{i}.{j}" for i in range(side) for j in range(side)]
with dask.config.set(scheduler="threads", num_workers=4):
    with group.batched_writes():
        for n, key in enumerate(keys):
            group.write_bytes("vertices", key, n.to_bytes(4, "little") * 4)
    group = dzv.open(target, storage_options=options).level(0).group
    assert group.list_chunks("vertices") == keys
    with group.batched_reads([("vertices", keys)]):
        for n, key in enumerate(keys):
            assert group.read_bytes("vertices", key) == n.to_bytes(4, "little") * 4
print("done")
"""


@pytest.mark.parametrize("where", ["local", "s3"])
def test_many_chunks_with_few_descriptors(where, server, tmp_path):
    """`ulimit -n 256`, and thousands of objects in one batch."""
    job = [str(tmp_path / "s.zv"), None] if where == "local" else ["s3://requests/many/s.zv", server.storage_options]
    job.append(examples(50, 100))
    done = subprocess.run(
        [sys.executable, "-c", FEW_DESCRIPTORS, json.dumps(job)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "done\n", done.stderr[-3000:]
