"""What the ZV 0.9 package edits of our stores, we read as edited; what a killed writer of ours left, nobody reads."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from our_points import CHUNK, GROUPS, IDS, OWNERS, TABLE, N, attributes_of, column, points_of, same, write

import dask_zv as dzv

ROOM = ([-60.0] * 3, [60.0] * 3)
EDITED = {
    "plain": {},
    "raw": {"compressor": None},
    "packed": {"shard_chunks": 3},
    "packed_blosc": {"shard_chunks": (2, 1, 2), "compressor": "blosc"},
    "bins": {"bin_shape": (20.0, 60.0, 40.0)},
}
COLUMNS = ("mass", "count", "kind", "maybe")


def columns_of():
    """Return attributes without those of several channels: its editor takes all for scalars, and destroys the others."""
    return {k: v for k, v in attributes_of().items() if k in COLUMNS}


def records(positions, attributes, owners=None):
    """Return vertices with all that belongs to them, in an order of their own."""
    columns = [positions.tolist(), *(attributes[k].tolist() for k in sorted(attributes))]
    columns += [] if owners is None else [owners.tolist()]
    return sorted(json.dumps(row) for row in zip(*columns, strict=True))


def in_xarray(path):
    ds = xr.open_dataset(path, engine="zv")
    positions = np.stack([ds[a].to_numpy() for a in "xyz"], axis=1)
    along = [k for k in ds.data_vars if ds[k].dims[:1] == ("vertex",) and k not in ("object_id", "object_index")]
    attributes = {k: ds[k].to_numpy() for k in along}
    if "maybe" in attributes:
        attributes["maybe"] = np.where(ds["maybe"].isnull(), None, attributes["maybe"])
    return positions, attributes


def eager(store, **part):
    geometry = store.level(0).read(**part)
    return geometry.positions, geometry.attributes


READINGS = {
    "read": lambda path: eager(dzv.open(path)),
    "xarray": in_xarray,
    "refreshed": lambda path: eager(dzv.open(path, mode="r+").refresh()),
    "reopened": lambda path: eager(dzv.open(path)),
    "box": lambda path: eager(dzv.open(path), bbox=(np.full(3, -100.0), np.full(3, 100.0))),
    "xarray, refreshed": in_xarray,
}


def check_readings(path, peer, positions, attributes):
    """Check that we read what is expected, in every way that we have, and in the order in which the peer reads it."""
    expected = records(positions, attributes)
    found, _ = peer.arrays("read", path=path, attributes=sorted(attributes))
    for how, reading in READINGS.items():
        ours, columns = reading(path)
        assert ours.dtype == positions.dtype, how
        assert records(ours, columns) == expected, how
        same(ours, found["positions"], how)
        for key in attributes:
            same(columns[key], column(found, f"attr__{key}"), f"{how} {key}")


@pytest.fixture(params=EDITED)
def edited(request, tmp_path):
    """A store, and its input, for the peer to change."""
    path = tmp_path / "s.zv"
    write(path, points_of(), attributes=columns_of(), **EDITED[request.param])
    assert (path / "0/dask_zv_catalog").exists()
    return path, points_of(), columns_of()


def in_chunk(positions, chunk):
    return np.flatnonzero((np.floor(positions / np.array(CHUNK)) == chunk).all(axis=1))


def test_values_that_it_sets(edited, peer):
    path, positions, attributes = edited
    rows = [*in_chunk(positions, (0, 0, 0))[:3].tolist(), *in_chunk(positions, (-2, -1, -1))[:2].tolist()]
    values = [["mass", positions[r].tolist(), float(-r)] for r in rows] + [["count", positions[rows[0]].tolist(), 77]]
    peer.call("edit", path=path, values=values)
    attributes["mass"][rows] = [-float(r) for r in rows]
    attributes["count"][rows[0]] = 77
    check_readings(path, peer, positions, attributes)


def test_vertices_that_it_moves_within_their_chunk(edited, peer):
    path, positions, attributes = edited
    rows = in_chunk(positions, (1, 0, -1))[:2]
    moved = positions.copy()
    moved[rows] = [[41.5, 3.25, -7.5], [42.5, 4.25, -8.5]]
    peer.call("edit", path=path, moves=[[positions[r].tolist(), moved[r].tolist()] for r in rows])
    check_readings(path, peer, moved, attributes)


def test_vertices_that_it_moves_to_another_chunk(edited, peer):
    """Rows leave their chunk, and come to another as fragments of their own, with their attributes; before a refresh, too, the rows
    of chunks are not those of our catalog any more."""
    path, positions, attributes = edited
    rows = [in_chunk(positions, (0, 0, 0))[0], in_chunk(positions, (-2, 0, -1))[1]]
    moved = positions.copy()
    moved[rows] = [[-1.5, -3.25, -7.5], [1.5, 3.25, 7.5]]
    peer.call("edit", path=path, moves=[[positions[r].tolist(), moved[r].tolist()] for r in rows])
    assert records(*in_xarray(path)) == records(moved, attributes)
    _, told = peer.arrays("read", path=path)
    assert told["chunks"] == dzv.open(path).level(0).chunks.coords.tolist()
    check_readings(path, peer, moved, attributes)


@pytest.mark.parametrize("shards", [1, 3])
def test_vertices_that_it_moves_to_where_there_was_no_chunk(shards, peer, tmp_path):
    path = tmp_path / "s.zv"
    positions = points_of()[(points_of()[:, 0] < 40) | (points_of()[:, 1] < 0)]
    write(path, positions, attributes={"mass": np.arange(len(positions))}, bounds=ROOM, shard_chunks=shards)
    rows = [in_chunk(positions, (0, 0, 0))[0]]
    moved = positions.copy()
    moved[rows] = [[45.5, 3.25, 7.5]]
    before = dzv.open(path).level(0).chunks.coords.tolist()
    assert [1, 0, 0] not in before
    peer.call("edit", path=path, moves=[[positions[r].tolist(), moved[r].tolist()] for r in rows])
    check_readings(path, peer, moved, {"mass": np.arange(len(positions))})
    assert dzv.open(path).level(0).chunks.coords.tolist() == sorted([*before, [1, 0, 0]])


@pytest.mark.parametrize("shards", [1, 3])
def test_what_its_editor_destroys_is_an_error_that_names_the_chunk(shards, peer, tmp_path):
    """It takes attributes of several channels for scalars; that chunk is at odds with itself, and the others read on."""
    path, positions = tmp_path / "s.zv", points_of()
    write(path, positions, attributes={"rgb": attributes_of()["rgb"]}, shard_chunks=shards)
    row = in_chunk(positions, (0, 0, 0))[0]
    peer.call("edit", path=path, moves=[[positions[row].tolist(), [-1.5, -3.25, -7.5]]])
    with pytest.raises(dzv.ZVError) as caught:
        dzv.open(path).level(0).read()
    assert caught.value.chunk in ("0.0.0", "-1.-1.-1")
    assert caught.value.chunk in str(caught.value)
    box = ([40.5, 0.5, 0.5], [79.0, 59.0, 119.0])
    inside = ((positions >= box[0]) & (positions <= box[1])).all(axis=1)
    assert inside.sum() > 3
    expected = records(positions[inside], {"rgb": attributes_of()["rgb"][inside]})
    assert records(*eager(dzv.open(path), bbox=box)) == expected


@pytest.fixture(params=[1, (2, 1, 2)])
def with_objects(request, tmp_path):
    path = tmp_path / "s.zv"
    options = {"owners": OWNERS, "table": TABLE, "groups": GROUPS, "shard_chunks": request.param}
    write(path, points_of(), attributes=columns_of(), **options)
    return path


def test_objects_that_it_edits_in_place(with_objects, peer):
    path, positions, attributes = with_objects, points_of(), columns_of()
    row = in_chunk(positions, (0, 0, 0))[1]
    moved = positions.copy()
    moved[row] = [0.5, 1.25, 2.5]
    peer.call("edit", path=path, values=[["mass", positions[row].tolist(), 123.5]])
    told = peer.call("edit", path=path, moves=[[positions[row].tolist(), moved[row].tolist()]])
    assert told["renamed"] == {}
    attributes["mass"][row] = 123.5
    check_readings(path, peer, moved, attributes)
    geometry = dzv.open(path).level(0).read()
    assert records(geometry.positions, geometry.attributes, geometry.object_ids) == records(moved, attributes, OWNERS)
    assert geometry.object_attributes["score"].tolist() == TABLE["score"].tolist()


def test_attributes_of_objects_that_it_edits(peer, tmp_path):
    """Its editor takes ids for rows, so ids without gaps are what it can edit."""
    path, owners = tmp_path / "s.zv", np.arange(N) % 5
    write(path, points_of(), owners=owners, table=TABLE.reset_index(drop=True), groups={0: [1, 2]})
    peer.call("edit", path=path, object_values=[["score", 3, -7.25], ["rank", 0, 99]])
    for refresh in (False, True):
        store = dzv.open(path, mode="r+")
        geometry = (store.refresh() if refresh else store).level(0).read()
        assert geometry.object_attributes["score"].tolist() == [0.5, 1.5, 2.5, -7.25, 4.5]
        assert geometry.object_attributes["rank"].tolist() == [99, -1, 0, 1, 2]
        assert {g: m.tolist() for g, m in geometry.groups.items()} == {0: [1, 2]}


@pytest.mark.parametrize("shards", [1, (2, 1, 2)])
def test_objects_that_it_edits_as_copies(shards, peer, tmp_path):
    """By default it gives an edited object a new id; the old one keeps its vertices, and fragments belong to both."""
    path, positions = tmp_path / "s.zv", points_of()
    write(path, positions, owners=OWNERS, shard_chunks=shards)
    row = in_chunk(positions, (0, 0, 0))[1]
    oid = int(OWNERS[row])
    told = peer.call("edit", path=path, atomic=True, moves=[[positions[row].tolist(), [0.5, 1.25, 2.5]]])
    (renamed,) = told["renamed"].values()
    assert renamed not in IDS
    others = [o for o in IDS if o != oid]
    for refresh in (False, True):
        level = dzv.open(path, mode="r+").refresh().level(0) if refresh else dzv.open(path).level(0)
        for wanted in (oid, renamed, others[0]):
            found, told = peer.arrays("read", path=path, objects=[wanted])
            assert told["ids"] == [*IDS, renamed]
            same(level.read(objects=[wanted], order="object").positions, found["by_object"])
        assert [0.5, 1.25, 2.5] in level.read(objects=[renamed]).positions.tolist()
        old = level.read(objects=[oid]).positions
        assert sorted(map(tuple, old.tolist())) == sorted(map(tuple, positions[oid == OWNERS].tolist()))
        assert len(level.read()) == N + 1
        geometry = level.read(objects=others)
        mine = np.isin(OWNERS, others)
        assert records(geometry.positions, {}, geometry.object_ids) == records(positions[mine], {}, OWNERS[mine])


@pytest.mark.parametrize(
    "options", [{}, {"shard_chunks": 3}, {"bin_shape": (20.0, 15.0, 30.0)}], ids=["plain", "packed", "bins"]
)
def test_pyramids_that_it_builds(options, peer, tmp_path):
    path = tmp_path / "s.zv"
    positions = points_of()
    write(path, positions, attributes=columns_of(), **options)
    told = peer.call("pyramid", path=path, factors=[[2.0, 1.0], [2.0, 1.0]], chunk_scale_factors=[1, 2])
    assert told["levels"] == [0, 1, 2]
    check_readings(path, peer, positions, columns_of())
    for number in (1, 2):
        found, told = peer.arrays("read", path=path, level=number)
        level = dzv.open(path).level(number)
        same(level.read().positions, found["positions"])
        assert 0 < len(found["positions"]) == level.metadata.vertex_count == told["vertex_count"] < N + 1
        ds = xr.open_dataset(path, engine="zv", level=number)
        same(np.stack([ds[a].to_numpy() for a in "xyz"], axis=1), found["positions"])
        box = (np.array([-30.0] * 3), np.array([45.0] * 3))
        inside = ((found["positions"] >= box[0]) & (found["positions"] <= box[1])).all(axis=1)
        same(level.read(bbox=box).positions, found["positions"][inside])
    assert dzv.open(path).levels == (0, 1, 2)


def test_pyramids_with_objects_of_which_some_are_dropped(with_objects, peer):
    path = with_objects
    peer.call("pyramid", path=path, factors=[[2.0, 2.0]], sparsity_seed=1)
    for refresh in (False, True):
        store = dzv.open(path, mode="r+")
        level = (store.refresh() if refresh else store).level(1)
        geometry = level.read()
        found, told = peer.arrays("read", path=path, level=1, objects=[41], object_attributes=["score", "rank"])
        same(geometry.positions, found["positions"])
        assert geometry.object_index.tolist() == list(IDS)
        present = found["present__score"]
        assert 0 < present.sum() < len(IDS)
        assert (~np.ma.getmaskarray(geometry.object_attributes["score"])).tolist() == present.tolist()
        same(np.ma.getdata(geometry.object_attributes["score"])[present], TABLE["score"].to_numpy()[present])
        for oid in IDS:
            found, told = peer.arrays("read", path=path, level=1, objects=[oid])
            ours = level.read(objects=[oid], order="object")
            assert bool(len(ours)) == bool(told["manifests"][str(oid)]) == bool(present[IDS.index(oid)])
            if len(ours):
                same(ours.positions, found["by_object"])


@pytest.mark.parametrize("shape", [[2, 1, 2], None, 3])
@pytest.mark.parametrize("name", ["plain", "packed_blosc", "bins"])
def test_shards_that_it_makes_and_undoes(name, shape, peer, tmp_path):
    path, positions, attributes = tmp_path / "s.zv", points_of(), columns_of()
    write(path, positions, attributes=attributes, **EDITED[name])
    peer.call("shard", path=path, shape=shape)
    check_readings(path, peer, positions, attributes)
    changed = {k: v[::-1].copy() for k, v in attributes.items()}
    dzv.write_points(dzv.open(path, mode="r+"), positions, attributes=changed, mode="overwrite")
    check_readings(path, peer, positions, changed)


def test_shards_that_it_makes_anew_between_readings_of_ours(peer, tmp_path):
    """In one process, of one store: what we remember of shards that were is no guide to those that are."""
    path, positions = tmp_path / "s.zv", points_of()
    write(path, positions, attributes={"mass": np.arange(N)})
    for shape in ([2, 1, 2], 3, None, [1, 2, 1], [4, 2, 2], [3, 1, 1]):
        peer.call("shard", path=path, shape=shape)
        assert records(*eager(dzv.open(path))) == records(positions, {"mass": np.arange(N)}), shape


KILLED = """
import os, signal, sys
import dask, numpy as np
sys.path[:0] = sys.argv[2:]
import dask_zv as dzv
from our_points import points_of, attributes_of
store = dzv.open(sys.argv[1], mode="r+")
positions, mass = points_of(seed=4), np.arange(200.0) + 1000
if {overwrite}:
    delayed = dzv.write_points(store, positions + np.float32(100), attributes={{"mass": mass}}, mode="overwrite", compute=False)
elif {batch}:
    group = store.level(0).group
    with group.batched_writes(compute=False) as batch:
        for key in ("0.0.0", "1.0.0", "1.-1.0"):
            group.write_bytes("vertices", key, positions[:5].tobytes())
            group.write_bytes("vertex_attributes/mass", key, mass[:5].tobytes())
    delayed = batch.to_delayed()
else:
    delayed = dzv.write_points(store, positions, attributes={{"mass": mass}}, compute=False)
graph = dict(delayed.__dask_graph__())
commit = graph[delayed.key]
assert commit.dependencies
dask.get(graph, list(commit.dependencies))
os.kill(os.getpid(), signal.SIGKILL)
"""


def kill_before_the_commit(path, *, batch=False, overwrite=False):
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "benchmarks")]
    code = KILLED.format(batch=batch, overwrite=overwrite)
    command = [sys.executable, "-c", code, str(path), *folders]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.fixture(scope="module", params=[1, 3])
def killed_once(request, tmp_path_factory):
    """A new store whose first write ended before its commit."""
    path = tmp_path_factory.mktemp("killed") / "s.zv"
    dzv.create(path, chunk_shape=CHUNK, layout="grid", shard_chunks=request.param, bounds=ROOM)
    kill_before_the_commit(path)
    stored = [p for p in (path / "0").rglob("*") if p.is_file() and "c" in p.relative_to(path).parts]
    assert len(stored) > 2  # chunks are there, and nobody names them
    return path


@pytest.fixture
def killed(killed_once, tmp_path):
    return shutil.copytree(killed_once, tmp_path / "s.zv")


@pytest.mark.filterwarnings("ignore:the level is empty")
def test_a_write_that_was_killed_is_an_empty_level(killed, peer):
    """As it was before: its metadata says that no vertex is here."""
    level = dzv.open(killed).level(0)
    assert level.group.list_chunks("vertices") == []
    assert level.metadata.vertex_count == len(level.read()) == xr.open_dataset(killed, engine="zv").sizes["vertex"] == 0
    found, told = peer.arrays("read", path=killed)
    assert len(found["positions"]) == told["vertex_count"] == len(told["chunks"]) == 0


def test_a_write_that_was_killed_can_be_done_again(killed, peer):
    store = dzv.open(killed, mode="r+")
    dzv.write_points(store, points_of()[:50], attributes={"mass": np.arange(50)})
    check_readings(killed, peer, points_of()[:50], {"mass": np.arange(50)})


@pytest.mark.parametrize("shards", [1, (4, 1, 1)])
def test_a_batch_that_was_killed_adds_no_chunks(shards, peer, tmp_path):
    """To a store that has others: what was there is all that there is."""
    path = tmp_path / "s.zv"
    positions = points_of()[points_of()[:, 2] < 0]  # the batch stores chunks above
    mass = {"mass": np.arange(len(positions)) * 1.0}
    write(path, positions, attributes=mass, bounds=ROOM, shard_chunks=shards)
    before = {p for p in path.rglob("*") if p.is_file()}
    kill_before_the_commit(path, batch=True)
    assert {p for p in path.rglob("*") if p.is_file()} > before
    _, told = peer.arrays("cells", path=path, names=["vertices", "vertex_attributes/mass"])
    group = dzv.open(path).level(0).group
    for array, keys in told.items():
        assert {k.rpartition(".")[2] for k in keys} == {"-1"}
        assert sorted(group.list_chunks(array)) == sorted(keys)
    check_readings(path, peer, positions, mass)


@pytest.mark.parametrize("shards", [1, (2, 2, 2)])
def test_an_overwrite_that_was_killed_shows_no_wrong_vertices(shards, peer, tmp_path):
    """Of another region, so another grid: each vertex that is read is of the old or of the new, with what belongs to it."""
    path = tmp_path / "s.zv"
    old = {tuple(p): m for p, m in zip(points_of().tolist(), range(N), strict=True)}
    new = {tuple(p): m for p, m in zip((points_of(seed=4) + np.float32(100)).tolist(), range(1000, 1000 + N), strict=True)}
    write(path, points_of(), attributes={"mass": np.arange(N) * 1.0}, shard_chunks=shards)
    kill_before_the_commit(path, overwrite=True)
    for refresh in (False, True):
        store = dzv.open(path, mode="r+")
        try:
            geometry = (store.refresh() if refresh else store).level(0).read()
        except dzv.ZVError as error:
            assert error.chunk or error.array  # noqa: PT017 - it says what is at odds
            continue
        for p, m in zip(geometry.positions.tolist(), geometry.attributes["mass"].tolist(), strict=True):
            assert {**old, **new}[tuple(p)] == m
    found, _ = peer.arrays("read", path=path)
    assert {tuple(p) for p in found["positions"].tolist()} <= {*old, *new}
    dzv.write_points(dzv.open(path, mode="r+"), points_of(seed=6), attributes={"mass": np.arange(N)}, mode="overwrite")
    check_readings(path, peer, points_of(seed=6), {"mass": np.arange(N)})
