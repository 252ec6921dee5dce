"""The ZV 0.9 package at the other end of a pipe, and stores of ours to show it."""

from __future__ import annotations

import atexit
import itertools
import json
import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import dask.array as da
import numpy as np
import pandas as pd
import pytest

import dask_zv as dzv
import peer_env

REQUIREMENTS = getattr(peer_env, "PEER_09", ("zarr-vectors==0.9.2", "obstore"))
SCRIPT = Path(__file__).with_name("peer_09.py")
SPURIOUS = {"Point cloud but links array exists"}
"""What its validator says of every point cloud, its own included: it looks for links in a way that always finds them."""

CHUNK = (40.0, 60.0, 120.0)
N = 200


class Peer:
    """The package in a process of an environment of its own: one for all tests of a session."""

    def __init__(self):
        python = peer_env.peer_python(*REQUIREMENTS)
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - it lives as long as the process
        self._process = subprocess.Popen(
            [python, SCRIPT, REQUIREMENTS[0].partition("==")[2]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
        )
        atexit.register(self.close)
        self._folder = tempfile.TemporaryDirectory()
        self._numbers = itertools.count()

    def close(self):
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._folder.cleanup()

    def call(self, do, **arguments):
        """Return what the package says; its exception fails the test."""
        self._process.stdin.write(json.dumps({"do": do, **arguments}, default=str) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            pytest.fail(f"the peer ended:\n{self._log.read()[-4000:]}", pytrace=False)
        answer = json.loads(line)
        if "failed" in answer:
            pytest.fail(f"the peer could not {do} {arguments}:\n{answer['failed'][-3000:]}", pytrace=False)
        return answer["told"]

    def arrays(self, do, **arguments):
        """The same, and the arrays that came of it."""
        out = Path(self._folder.name) / f"{next(self._numbers)}.npz"
        told = self.call(do, out=str(out), **arguments)
        with np.load(out) as found:
            arrays = dict(found)
        out.unlink()
        return arrays, told


@cache
def start_peer():
    """Return the one peer of this session; a test that can't have it fails."""
    return Peer()


# -------------------------------------------------------------------------------------------------- comparing


def same(actual, expected, what=""):
    """Compare to the bit; strings that are missing are None."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"{what}: {actual.shape} is not {expected.shape}"
    if expected.dtype.kind in "OU":
        assert actual.tolist() == expected.tolist(), what
        return
    assert actual.dtype == expected.dtype, f"{what}: {actual.dtype} is not {expected.dtype}"
    np.testing.assert_array_equal(actual, expected, err_msg=what)


def column(found, key):
    """Return an array that the peer gave, with None for what is missing."""
    values = found[key]
    if f"missing__{key}" in found:
        values = values.astype(object)
        values[found[f"missing__{key}"]] = None
    return values


def rows_in(positions, among):
    """Return the row in `among` of each position; every one is there, and none twice."""
    row_of = {p.tobytes(): row for row, p in enumerate(np.ascontiguousarray(among))}
    assert len(row_of) == len(among)
    assert positions.dtype == among.dtype
    rows = np.array([row_of[p.tobytes()] for p in np.ascontiguousarray(positions)], np.int64)
    assert len(np.unique(rows)) == len(rows)
    return rows


# -------------------------------------------------------------------------------------------------- stores of ours


def points_of(n=N, ndim=3, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).uniform(-60, 60, (n, ndim)).astype(dtype)


def attributes_of(n=N):
    rng = np.random.default_rng(1)
    return {
        "mass": rng.normal(size=n),
        "count": rng.integers(-(2**60), 2**60, n),
        "half": rng.normal(size=n).astype(np.float16),
        "nan": np.resize(np.array([np.nan, -np.inf, 0.0], np.float32), n),
        "flag": rng.random(n) > 0.5,
        "rgb": rng.integers(0, 255, (n, 3), dtype=np.uint8),
        "single": rng.random((n, 1)),
        "vector": rng.normal(size=(n, 2)),
        "kind": np.array(["soma", "axon", "µ ☃"])[rng.integers(0, 3, n)],
        "maybe": np.array(["b", None, "a"], object)[rng.integers(0, 3, n)],
        "when": np.datetime64("2026-03-01", "ns") + rng.integers(0, 10**15, n).astype("m8[ns]"),
        "wave": rng.normal(size=n) + 1j * rng.normal(size=n),
    }


IDS = (3, 7, 19, 41, 100)
OWNERS = np.random.default_rng(2).permutation(np.resize(IDS, N))
TABLE = pd.DataFrame({"score": [0.5, 1.5, 2.5, 3.5, 4.5], "rank": np.arange(5) - 2}, index=list(IDS))
GROUPS = {0: [3, 100], 1: [7, 19, 41], 3: [41]}


def write(target, positions, *, mode="error", attributes=None, owners=None, table=None, groups=None, **creation):
    creation = {"chunk_shape": CHUNK, "layout": "grid", **creation}
    store = dzv.create(target, **creation)
    more = {k: v for k, v in {"object_ids": owners, "object_attributes": table, "groups": groups}.items() if v is not None}
    dzv.write_points(store, positions, attributes=attributes or {}, mode=mode, **more)
    return store


def make_plain(target, **more):
    write(target, points_of(), attributes=attributes_of(), **more)


def make_bins(target, **more):
    make_plain(target, bin_shape=(20.0, 60.0, 40.0), **more)


def make_objects(target, **more):
    write(target, points_of(), attributes=attributes_of(), owners=OWNERS, table=TABLE, groups=GROUPS, **more)


def make_flat(target, **more):
    axes = [{"name": "row", "type": "space", "unit": "metre"}, {"name": "col", "type": "space", "unit": "metre"}]
    crs = {"type": "EPSG", "code": 32632}
    positions = points_of(ndim=2, dtype=np.float64)
    write(
        target,
        positions,
        attributes={"mass": np.arange(N)},
        owners=np.arange(N) % 7,
        chunk_shape=(40, 20),
        axes=axes,
        crs=crs,
        **more,
    )


def make_four(target):
    write(
        target, points_of(ndim=4), attributes={"mass": np.arange(N)}, chunk_shape=(40, 60, 120, 40), shard_chunks=(2, 1, 2, 3)
    )


def make_integers(target):
    positions = np.unique(points_of(1000).astype(np.int32), axis=0)[::5]
    write(target, positions, attributes={"mass": np.arange(len(positions))})


def make_masked(target):
    table = pd.DataFrame({"score": [0.5, 1.5], "small": np.array([1, 2], np.uint8)}, index=[19, 100])
    write(target, points_of(), owners=OWNERS, table=table)


def make_many_objects(target):
    """As many objects as take two stored chunks of manifests."""
    n = 17_000
    positions = points_of(n)
    write(target, positions, owners=np.arange(n)[::-1] * 3 + 5)


def make_overwritten(target):
    """Smaller than what was there, with other bounds, and without its objects and attributes."""
    store = write(
        target, points_of() * 2, attributes={**attributes_of(), "old": np.arange(N)}, owners=OWNERS, table=TABLE, groups=GROUPS
    )
    dzv.write_points(store, points_of(), attributes=attributes_of(), mode="overwrite")


def make_overwritten_otherwise(target):
    """An attribute of the same name and another kind."""
    store = write(target, points_of(), attributes={"mass": np.full(N, "x"), "kind": np.ones((N, 3))})
    dzv.write_points(store, points_of(), attributes={"mass": np.arange(N), "kind": np.arange(N) * 0.5}, mode="overwrite")


def make_lazily(target):
    lazy = {k: da.from_array(v, chunks=(70, *v.shape[1:])) for k, v in attributes_of().items()}
    write(target, da.from_array(points_of(), chunks=(70, 3)), attributes=lazy, shard_chunks=3)


def make_declared(target):
    """Bounds far beyond the data: the grid is theirs."""
    make_plain(target, bounds=([-500.0] * 3, [500.0] * 3), shard_chunks=64)


def make_elsewhere(target):
    """All of it at chunks far from the origin of coordinates."""
    write(target, points_of() - np.float32(4000), attributes=attributes_of(), shard_chunks=(3, 1, 2))


MAKERS = {
    "plain": make_plain,
    "raw": lambda target: make_plain(target, compressor=None),
    "blosc": lambda target: make_plain(target, compressor="blosc"),
    "packed": lambda target: make_plain(target, shard_chunks=3),
    "packed_whole": lambda target: make_plain(target, shard_chunks=1000, compressor=None),
    "packed_tuple": lambda target: make_plain(target, shard_chunks=(3, 1, 2), compressor="blosc"),
    "bins": make_bins,
    "packed_bins": lambda target: make_bins(target, shard_chunks=4),
    "objects": make_objects,
    "packed_objects": lambda target: make_objects(target, shard_chunks=(2, 2, 1)),
    "raw_objects": lambda target: make_objects(target, compressor=None),
    "bins_and_objects": lambda target: make_objects(target, bin_shape=(20.0, 60.0, 40.0)),
    "masked": make_masked,
    "many_objects": make_many_objects,
    "two_axes": make_flat,
    "packed_two_axes": lambda target: make_flat(target, shard_chunks=(2, 3)),
    "four_axes": make_four,
    "integers": make_integers,
    "double": lambda target: make_plain(target, dtype="float64"),
    "bare": lambda target: write(target, points_of()),
    "lone": lambda target: write(target, points_of(1)),
    "overwritten": make_overwritten,
    "overwritten_otherwise": make_overwritten_otherwise,
    "lazily": make_lazily,
    "declared": make_declared,
    "elsewhere": make_elsewhere,
}
"""Stores that we write; their truth is the input, which `points_of` and `attributes_of` give again."""
