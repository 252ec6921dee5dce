"""What the tests of this folder write into sessions, and what must be there then."""

import dask
import dask.array as da
import numpy as np
import zarr
from small import always

import dask_zv as dzv

CHUNK = (20.0, 20.0, 20.0)
N = 3000

several_blocks = always(scope="function", write_block_chunks=16, write_block_bytes=(2000, 9000))
"""Each has a fork of its own where the scheduler has other processes."""


def points(seed=0, n=N):
    return np.random.default_rng(seed).uniform(0, 100, (n, 3))


def arguments(seed=0, n=N, **more):
    """Return the arguments of a write of points with rows, objects, tables and groups."""
    parts = n // 6
    ids = {"attributes": {"row": da.arange(n, chunks=parts)}, "object_ids": da.arange(n, chunks=parts) % 9}
    about = {"object_attributes": {"a": np.arange(9) + seed}, "groups": {0: [2, 3]}}
    return {"positions": da.from_array(points(seed, n), chunks=(parts, 3)), **ids, **about, **more}


def group_of(session, path):
    """Return a group of a session, made where it may be."""
    return zarr.open_group(session.store, path=path, mode="r" if session.read_only else "a")


def create(session, path="", layout="grid", **options):
    return dzv.create(group_of(session, path) if path else session, chunk_shape=CHUNK, layout=layout, **options)


def check_points(target, seed=0, path="", n=N):
    """Look at all that such a write leaves: rows, tables, groups, and what the documents say."""
    with dask.config.set(scheduler="sync"):
        level = dzv.open(group_of(target, path) if path else target).level(0)
        found, box = level.read(), level.read(bbox=((0, 0, 0), (50, 50, 50)))
    assert level.metadata.vertex_count == n
    row = found.attributes["row"]
    assert sorted(row.tolist()) == list(range(n))
    np.testing.assert_array_equal(found.positions, points(seed, n)[row])
    np.testing.assert_array_equal(found.object_ids, row % 9)
    assert found.object_attributes["a"].tolist() == (np.arange(9) + seed).tolist()
    assert found.groups[0].tolist() == [2, 3]
    assert len(box) == (points(seed, n) <= 50).all(axis=1).sum()


def messages(repo, branch="main"):
    """Return the messages of a branch's snapshots, the last first."""
    return [snapshot.message for snapshot in repo.ancestry(branch=branch)][:-1]  # the first is the repository's own
