"""What we write in layout grid, the ZV 0.9 package reads exactly: whole, by boxes and objects, and cell by cell.

The package gets an environment of its own, made once and kept in the checkout; a test that can't have it fails.
"""

from __future__ import annotations

import os
import shutil
from functools import cache

import dask
import numpy as np
import pytest
import zarr
from our_points import (
    CHUNK,
    GROUPS,
    IDS,
    MAKERS,
    OWNERS,
    TABLE,
    N,
    attributes_of,
    column,
    points_of,
    rows_in,
    same,
    write,
)
from peer_09_client import SPURIOUS, start_peer

import dask_zv as dzv

BOXES = ([[-10.0] * 4, [30.0] * 4], [[-60.0] * 4, [-20.0, 5.0, 60.0, 60.0]], [[100.0] * 4, [101.0] * 4])
LOST_BY_ITS_BOXES = {"bins_and_objects"}


@pytest.fixture(autouse=True)
def few_threads():
    with dask.config.set(scheduler="threads", num_workers=2):
        yield


@pytest.fixture(scope="module")
def peer():
    return start_peer()


def boxes_of(name, ndim):
    offset = -4000.0 if name == "elsewhere" else 0.0
    return [[[x + offset for x in corner[:ndim]] for corner in box] for box in BOXES]


class Exchange:
    """Our stores, made once, and what the package reads of them, asked once."""

    def __init__(self, root, peer):
        self.root, self.peer = root, peer
        self.read = cache(self._read)

    def path(self, name):
        path = self.root / f"{name}.zv"
        if not path.exists():
            with dask.config.set(scheduler="threads", num_workers=2):
                MAKERS["grid"][name](path, layout="grid")
        return path

    def ours(self, name):
        return dzv.open(self.path(name)).level(0).read()

    def _read(self, name):
        geometry = self.ours(name)
        return self.peer.arrays(
            "read",
            path=self.path(name),
            attributes=list(geometry.attributes),
            boxes=boxes_of(name, geometry.positions.shape[1]),
            objects=[] if geometry.object_ids is None else np.unique(geometry.object_ids)[:40].tolist(),
            object_attributes=list(geometry.object_attributes),
        )


@pytest.fixture(scope="module")
def exchange(tmp_path_factory, peer):
    return Exchange(tmp_path_factory.mktemp("peer_09"), peer)


# -------------------------------------------------------------------------------------------------- it reads ours


@pytest.mark.parametrize("name", MAKERS["grid"])
def test_it_reads_what_we_write(name, exchange):
    found, told = exchange.read(name)
    ours = exchange.ours(name)
    assert told["vertex_count"] == told["facade"]["count"] == len(ours)
    same(found["positions"], ours.positions)
    for key, values in ours.attributes.items():
        theirs = column(found, f"attr__{key}")
        if values.ndim == 2 and values.shape[1] == 1:
            theirs = theirs.reshape(values.shape)  # it drops the axis of a single channel
        same(theirs, values, key)
    table = dzv.open(exchange.path(name)).level(0).chunks
    assert told["chunks"] == table.coords.tolist()
    assert told["facade"]["kind"] == "point_cloud"
    assert told["facade"]["same_positions"]
    assert told["facade"]["attributes"] == sorted(ours.attributes)
    assert told["facade"]["object_attributes"] == sorted(ours.object_attributes)


WITH_ALL = [
    *("plain", "raw", "blosc", "packed", "packed_whole", "packed_tuple", "bins", "packed_bins", "objects", "packed_objects"),
    *("raw_objects", "bins_and_objects", "overwritten", "lazily", "declared"),
]


@pytest.mark.parametrize("name", WITH_ALL)
def test_what_it_reads_is_what_went_in(name, exchange):
    """Not only what we read: against the input, so that one mistake on both sides shows."""
    found, _ = exchange.read(name)
    rows = rows_in(found["positions"], points_of())
    assert len(rows) == N
    for key, values in attributes_of().items():
        same(column(found, f"attr__{key}").reshape(values.shape), values[rows], key)


@pytest.mark.parametrize(
    "name", ["packed", "packed_tuple", "packed_whole", "declared", "plain", "packed_two_axes", "four_axes"]
)
def test_it_sees_our_shards(name, exchange):
    _, told = exchange.read(name)
    shards = {tuple(s) for s in told["shards"].values()}
    if name == "plain":
        assert not shards
        return
    assert set(told["shards"]) == {"0/vertices", "0/vertex_fragments", *(f"0/vertex_attributes/{a}" for a in told["meta"])}
    assert len(shards) == 1
    expected = {"packed_tuple": (3, 1, 2), "packed_two_axes": (2, 3), "four_axes": (2, 1, 2, 3)}
    assert expected.get(name) in (None, *shards)
    assert np.prod(shards.pop()) > 1


@pytest.mark.parametrize("name", sorted(set(MAKERS["grid"]) - LOST_BY_ITS_BOXES))
def test_it_reads_boxes(name, exchange):
    found, _ = exchange.read(name)
    ours = exchange.ours(name)
    level = dzv.open(exchange.path(name)).level(0)
    for i, box in enumerate(boxes_of(name, ours.positions.shape[1])):
        inside = level.read(bbox=box)
        mask = ((ours.positions >= box[0]) & (ours.positions <= box[1])).all(axis=1)
        same(inside.positions, ours.positions[mask])
        assert mask.any() == (i < 2) or name == "lone"
        theirs = found[f"box{i}"]
        if not len(theirs):  # of no dtype in particular
            assert not mask.any()
            continue
        rows = rows_in(theirs, ours.positions)
        assert sorted(rows.tolist()) == np.flatnonzero(mask).tolist()
        for key, values in ours.attributes.items():
            if values.dtype.kind not in "OU":
                same(found[f"box{i}__{key}"].reshape(len(rows), *values.shape[1:]), values[rows], key)


def test_its_boxes_lose_points_where_bins_and_objects_meet(exchange):
    """A defect of its reader, not of our store (FORMAT.md J.1): it does the same to its own. Ours finds them."""
    found, _ = exchange.read("bins_and_objects")
    level = dzv.open(exchange.path("bins_and_objects")).level(0)
    inside = level.read(bbox=[c[:3] for c in BOXES[0]])
    assert set(map(tuple, found["box0"].tolist())) < set(map(tuple, inside.positions.tolist()))


@pytest.mark.parametrize(
    "name",
    ["objects", "packed_objects", "raw_objects", "bins_and_objects", "masked", "two_axes", "packed_two_axes", "many_objects"],
)
def test_it_reads_objects(name, exchange):
    found, told = exchange.read(name)
    level = dzv.open(exchange.path(name)).level(0)
    geometry = level.read()
    known = np.unique(geometry.object_ids)
    assert told["ids"] == known.tolist()
    assert known.tolist() == {"many_objects": [3 * i + 5 for i in range(17_000)]}.get(
        name, list(range(7)) if "axes" in name else list(IDS)
    )
    ours = level.read(objects=known[:40], order="object")
    same(found["by_object"], ours.positions)
    same(found["by_object_ids"], ours.object_ids)
    for key, values in ours.attributes.items():
        same(column(found, f"by_object__{key}").reshape(values.shape), values, key)
    last = ours.object_ids[-1]
    same(found["one_object"], level.read(objects=[last], order="object").positions)
    assert len(told["manifests"]) == len(known)
    for oid in known[:10].tolist():
        mine = told["manifests"][str(oid)]
        assert [m[:-1] for m in mine] == sorted(m[:-1] for m in mine)
    for key, values in geometry.object_attributes.items():
        present = ~np.ma.getmaskarray(values).reshape(len(values), -1).any(axis=1)
        assert found[f"present__{key}"].tolist() == present.tolist()
        assert present.all() == (name != "masked")
        same(found[f"oattr__{key}"].reshape(values.shape)[present], np.ma.getdata(values)[present], key)
    if name.endswith("objects") and name != "many_objects":
        same(found["oattr__score"], TABLE["score"].to_numpy())
        same(found["oattr__rank"], TABLE["rank"].to_numpy())
        assert told["groups"] == [GROUPS.get(g, []) for g in range(4)]
        assert told["group_points"] == int(np.isin(OWNERS, GROUPS[0]).sum()) > 0
    if name == "masked":
        assert found["present__score"].tolist() == [False, False, True, False, True]


def test_it_reads_metadata(exchange):
    _, told = exchange.read("two_axes")
    assert [(a["name"], a["unit"]) for a in told["axes"]] == [("row", "metre"), ("col", "metre")]
    assert told["crs"] == {"type": "EPSG", "code": 32632}
    assert told["chunk_shape"] == [40.0, 20.0]
    positions = points_of(ndim=2, dtype=np.float64)
    assert told["bounds"] == [positions.min(axis=0).tolist(), positions.max(axis=0).tolist()]
    _, told = exchange.read("bins")
    assert told["bins_per_chunk"] == [2, 1, 3]
    _, told = exchange.read("declared")
    assert told["bounds"] == [[-500.0] * 3, [500.0] * 3]
    _, told = exchange.read("overwritten")
    assert not {"object_index", "object_attributes", "groups"} & set(told["children"])


@pytest.mark.parametrize("name", MAKERS["grid"])
def test_its_validator_passes(name, exchange):
    """At level 5: nothing but what it says of its own stores."""
    told = exchange.peer.call("validate", path=exchange.path(name))
    assert told["errors"] == []
    assert set(told["warnings"]) == SPURIOUS


@pytest.mark.parametrize("name", ["plain", "packed", "packed_objects", "two_axes"])
def test_its_validator_says_the_same_without_our_catalog(name, exchange, tmp_path):
    told = exchange.peer.call("validate", path=exchange.path(name))
    bare = tmp_path / "s.zv"
    shutil.copytree(exchange.path(name), bare)
    assert (bare / "0" / "dask_zv_catalog").exists()
    shutil.rmtree(bare / "0" / "dask_zv_catalog")
    assert exchange.peer.call("validate", path=bare) == told


def test_its_validator_can_fail(exchange, tmp_path):
    shutil.copytree(exchange.path("objects"), tmp_path / "s.zv")
    shutil.rmtree(tmp_path / "s.zv/0/vertices")
    assert exchange.peer.call("validate", path=tmp_path / "s.zv")["errors"]


# -------------------------------------------------------------------------------------------------- cells, one by one


@pytest.mark.parametrize("name", ["plain", "raw", "blosc", "packed", "packed_tuple", "packed_bins", "four_axes", "elsewhere"])
def test_our_cells_are_those_of_the_peer_and_of_plain_zarr(name, exchange):
    group = dzv.open(exchange.path(name)).level(0).group
    arrays = ["vertices", "vertex_fragments", "vertex_attributes/mass"]
    found, told = exchange.peer.arrays("cells", path=exchange.path(name), arrays=arrays)
    for array in arrays:
        keys = group.list_chunks(array)
        assert sorted(told[array]) == sorted(keys)
        plain = zarr.open_array(exchange.path(name) / "0" / array, mode="r")
        values, origin = plain[...], plain.attrs.get("chunk_grid_origin", [0] * plain.ndim)
        assert sorted(plain.attrs["nonempty_chunks"]) == plain.attrs["nonempty_chunks"] == sorted(keys)
        filled = {tuple(np.add(cell, origin)) for cell in np.ndindex(values.shape) if values[cell]}
        assert filled == {tuple(map(int, k.split("."))) for k in keys}
        for key in keys:
            data = group.read_bytes(array, key)
            assert found[f"{array}|{key}"].tobytes() == data
            assert values[tuple(int(c) - o for c, o in zip(key.split("."), origin, strict=True))] == data


BLOBS = {"0.0.0": b"abc\0\0", "-2.-1.0": bytes(9), "1.0.-1": os.urandom(1000), "-1.-1.-1": b"\xff"}


@pytest.mark.parametrize("shards", [1, (3, 1, 2)])
@pytest.mark.parametrize("compressor", ["zstd", None, "blosc"])
def test_a_batch_of_blobs(shards, compressor, peer, tmp_path):
    """Of any bytes, in an array of any name: plain Zarr and the peer find what the batch stored."""
    store = write(tmp_path / "s.zv", points_of(), shard_chunks=shards, compressor=compressor)
    group = store.level(0).group
    with group.batched_writes():
        for key, data in BLOBS.items():
            group.write_bytes("vertex_attributes/blob", key, data)
        group.write_array_meta("vertex_attributes/blob", {"dtype": "uint8"})
    assert group.list_chunks("vertex_attributes/blob") == ["-2.-1.0", "-1.-1.-1", "0.0.0", "1.0.-1"]
    found, told = peer.arrays("cells", path=tmp_path / "s.zv", arrays=["vertex_attributes/blob"])
    assert sorted(told["vertex_attributes/blob"]) == sorted(BLOBS)
    plain = zarr.open_array(tmp_path / "s.zv/0/vertex_attributes/blob", mode="r")
    assert (plain.shards is not None) == (shards != 1)
    values, origin = plain[...], plain.attrs["chunk_grid_origin"]
    for key, data in BLOBS.items():
        assert group.read_bytes("vertex_attributes/blob", key) == data
        assert found[f"vertex_attributes/blob|{key}"].tobytes() == data
        assert values[tuple(int(c) - o for c, o in zip(key.split("."), origin, strict=True))] == data
    # more of them, over some of the first: then all are there
    with group.batched_writes():
        group.write_bytes("vertex_attributes/blob", "0.0.0", b"changed")
        group.write_bytes("vertex_attributes/blob", "1.-1.-1", b"more")
    found, told = peer.arrays("cells", path=tmp_path / "s.zv", arrays=["vertex_attributes/blob"])
    after = {key: found[f"vertex_attributes/blob|{key}"].tobytes() for key in told["vertex_attributes/blob"]}
    assert after == {**BLOBS, "0.0.0": b"changed", "1.-1.-1": b"more"}


@pytest.mark.parametrize("shards", [1, 3])
def test_blobs_that_the_peer_stores(shards, peer, tmp_path):
    store = write(tmp_path / "s.zv", points_of(), attributes={"mass": np.arange(N)}, shard_chunks=shards)
    level = store.level(0)
    key, other = "0.0.0", "-1.0.0"
    n = len(level.group.read_bytes("vertex_attributes/mass", key)) // 8
    new = (np.arange(n) * 7 + 1).astype("<i8").tobytes()
    peer.call("write_cells", path=tmp_path / "s.zv", array="vertex_attributes/mass", blobs={key: new.hex()})
    before = level.group.read_bytes("vertex_attributes/mass", other)
    for group in (dzv.open(tmp_path / "s.zv").level(0).group, dzv.open_group(tmp_path / "s.zv", "r")["0"]):
        assert group.read_bytes("vertex_attributes/mass", key) == new
        assert group.read_bytes("vertex_attributes/mass", other) == before
        with group.batched_reads([("vertex_attributes/mass", [key, other])]):
            assert group.read_bytes("vertex_attributes/mass", key) == new
    assert dzv.open(tmp_path / "s.zv").level(0).read(bbox=([0] * 3, CHUNK)).attributes["mass"].tolist()[:2] == [1, 8]
