"""What we write the ZV 0.7 package reads exactly, what it writes we read exactly, and what it edits we read as edited.

The package gets an environment of its own, made once and kept in the checkout; a test that can't have it fails.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import dask
import numpy as np
import pytest
from our_points import CHUNK, MAKERS, N, attributes_of, points_of, rows_in, same

import dask_zv as dzv
import peer_env

SCRIPT = Path(__file__).with_name("peer_02.py")
OURS = MAKERS["per_chunk"]

SPURIOUS = {"0/vertex_group_offsets/ missing", "Point cloud but links array exists"}
"""What the validator says of every point cloud, its own included: it looks for an array of an older format, and for links in
a way that always finds them."""


# -------------------------------------------------------------------------------------------------- the package


def run(*command, timeout):
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, check=False)
    if done.returncode:
        pytest.fail(f"{' '.join(map(str, command))} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}", pytrace=False)
    return done.stdout


@pytest.fixture(scope="session")
def peer_python():
    """Path of an interpreter that has the package; the benchmarks use the same."""
    return peer_env.peer_python(*peer_env.PEER_02)


DOUBLE = ("two_axes", "double")
BOXES = ([[-10.0] * 4, [30.0] * 4], [[-60.0] * 4, [-20.0, 5.0, 60.0, 60.0]], [[100.0] * 4, [101.0] * 4])
WRITTEN = ["batched", "batched_bins", "batched_objects", "unbatched", "unbatched_octree", "unbatched_snake", "zeros_shard"]


class Exchange:
    """Our stores, and what the package made of them; its stores, and what it put into them."""

    def __init__(self, root, python):
        self.root = root
        self.theirs = root / "theirs"
        self.theirs.mkdir(parents=True)
        self.out = root / "out"
        self.out.mkdir()
        self.edits = []
        jobs = {
            "version": peer_env.PEER_02[0].partition("==")[2],
            "out": str(self.out),
            "write": str(self.theirs),
            "read": {},
            "edit": self.edits,
        }
        with dask.config.set(scheduler="threads", num_workers=2):
            for name, make in OURS.items():
                make(root / f"{name}.zv", layout="per_chunk")
                jobs["read"][name] = self.job(name)
            self.add_edits()
        (root / "jobs.json").write_text(json.dumps(jobs))
        run(python, SCRIPT, root / "jobs.json", timeout=300)

    def job(self, name):
        store = dzv.open(self.root / f"{name}.zv")
        geometry = store.level(0).read()
        ndim = store.metadata.ndim
        return {
            "path": str(self.root / f"{name}.zv"),
            "attributes": list(geometry.attributes),
            "objects": [] if geometry.object_ids is None else geometry.object_index[:40].tolist(),
            "object_attributes": list(geometry.object_attributes),
            "groups": bool(geometry.groups),
            "boxes": [[b[0][:ndim], b[1][:ndim]] for b in BOXES],
        }

    def add_edits(self):
        """Copies of our stores, one chunk of which the package is to change."""
        for shards in (1, 4):
            source = self.root / f"to_edit_{shards}.zv"
            store = dzv.create(source, layout="per_chunk", chunk_shape=CHUNK, shard_chunks=shards)
            dzv.write_points(store, points_of(), attributes={"mass": np.arange(N) + 1.0, "other": np.arange(N)})
            bare = dzv.create(
                self.root / f"to_edit_mass_{shards}.zv", layout="per_chunk", chunk_shape=CHUNK, shard_chunks=shards
            )
            dzv.write_points(bare, points_of(), attributes={"mass": np.arange(N) + 1.0})
            table = store.level(0).chunks
            coords, n = table.coords[5].tolist(), int(table.rows[5])
            inside = ((np.array(coords) + 0.5) * CHUNK).tolist()
            self.chunk, self.rows = ".".join(map(str, coords)), n
            for name, base, positions, mass in [
                ("values", "to_edit", None, np.arange(n) * 7.0),
                ("zeros", "to_edit", None, np.zeros(n)),
                ("whole", "to_edit_mass", [inside] * (n + 2), np.arange(n + 2) * 3.0),
                ("moved", "to_edit", [inside] * n, None),
                ("longer", "to_edit", [inside] * (n + 2), None),
                ("shorter", "to_edit", [inside] * (n - 1), None),
                ("short values", "to_edit", None, np.arange(n - 1) * 1.0),
                ("double values", "to_edit", None, np.arange(2 * n) * 1.0),
                ("no values", "to_edit", None, np.zeros(0)),
            ]:
                target = self.root / f"edited {name} {shards}.zv"
                shutil.copytree(self.root / f"{base}_{shards}.zv", target)
                values = None if mass is None else mass.tolist()
                self.edits.append({"path": str(target), "chunk": coords, "positions": positions, "mass": values})

    def found(self, name):
        with np.load(self.out / f"{name}.npz") as found:
            return dict(found), json.loads((self.out / f"{name}.json").read_text())

    def truth(self, name):
        with np.load(self.theirs / f"{name}.npz") as found:
            return dict(found)


@pytest.fixture(scope="module")
def exchange(tmp_path_factory, peer_python):
    return Exchange(tmp_path_factory.mktemp("peer"), peer_python)


# -------------------------------------------------------------------------------------------------- it reads ours


@pytest.mark.parametrize("name", OURS)
def test_it_reads_what_we_write(name, exchange):
    found, told = exchange.found(name)
    store = dzv.open(exchange.root / f"{name}.zv")
    ours = store.level(0).read()
    assert len(ours) == store.level(0).metadata.vertex_count
    same(found["positions"], ours.positions)
    for key, values in ours.attributes.items():
        theirs = found[f"attr__{key}"]
        if f"missing__{key}" in found:
            assert values.dtype == object or values.dtype.kind == "U"
            theirs = theirs.astype(object)
            theirs[found[f"missing__{key}"]] = None
            assert theirs.tolist() == values.tolist()
        else:
            same(theirs.reshape(values.shape), values)  # it drops the axis of a single channel
    assert [tuple(c) for c in told["chunks"]] == [tuple(c) for c in store.level(0).chunks.coords.tolist()]


def test_what_it_reads_is_what_went_in(exchange):
    """Not only what we read: against the input, so that one mistake on both sides shows."""
    for name in ("plain", "packed", "overwritten", "lazily"):
        found, _ = exchange.found(name)
        rows = rows_in(found["positions"], points_of())
        assert len(rows) == N
        for key, values in attributes_of().items():
            if values.dtype.kind not in "OU":
                same(found[f"attr__{key}"].reshape(values.shape), values[rows])
        assert found["attr__kind"].tolist() == attributes_of()["kind"][rows].tolist()
        maybe = attributes_of()["maybe"][rows]
        assert found["missing__maybe"].tolist() == [v is None for v in maybe]


@pytest.mark.parametrize("name", OURS)
def test_it_reads_boxes(name, exchange):
    found, _ = exchange.found(name)
    level = dzv.open(exchange.root / f"{name}.zv").level(0)
    ndim = level.store.metadata.ndim
    for i, box in enumerate(BOXES):
        box = [corner[:ndim] for corner in box]
        ours = level.read(bbox=box)
        theirs = found[f"box{i}"]
        assert len(theirs) == len(ours)
        assert (len(ours) > 0) == (i < 2)
        assert sorted(map(tuple, theirs.tolist())) == sorted(map(tuple, ours.positions.tolist()))
        for key in ours.attributes:
            if f"box{i}__{key}" in found and ours.attributes[key].dtype.kind in "iu" and ours.attributes[key].ndim == 1:
                assert sorted(found[f"box{i}__{key}"].tolist()) == sorted(ours.attributes[key].tolist())


@pytest.mark.parametrize("name", ["objects", "packed_objects", "masked", "two_axes", "many_objects"])
def test_it_reads_objects(name, exchange):
    found, told = exchange.found(name)
    level = dzv.open(exchange.root / f"{name}.zv").level(0)
    ours = level.read(objects=range(len(np.unique(found["by_object_ids"]))), order="object")
    assert told["objects"] == len(level.read().object_index) >= len(ours.object_index) > 5
    same(found["by_object"], ours.positions)
    same(found["by_object_ids"], ours.object_ids)
    same(found["one_object"], level.read(objects=ours.object_index[-1:], order="object").positions)
    for key, values in level.read().object_attributes.items():
        same(found[f"oattr__{key}"].reshape(values.shape), np.ma.getdata(values))
        present = ~np.ma.getmaskarray(values).reshape(len(values), -1).any(axis=1)
        assert found[f"present__{key}"].astype(bool).tolist() == present.tolist()
        assert present.all() == (name != "masked")
    if ours.groups:
        assert told["groups"] == [ours.groups[g].tolist() for g in sorted(ours.groups)]
        assert told["group_points"] == int(np.isin(ours.object_ids, ours.groups[0]).sum()) > 0


def test_it_reads_metadata(exchange):
    _, told = exchange.found("two_axes")
    assert [a["name"] for a in told["axes"]] == ["row", "col"]
    assert [a["unit"] for a in told["axes"]] == ["metre", "metre"]
    assert told["crs"] == {"type": "EPSG", "code": 32632}
    assert told["chunk_shape"] == [40.0, 20.0]
    points = points_of(ndim=2, dtype=np.float64)
    assert told["bounds"] == [points.min(axis=0).tolist(), points.max(axis=0).tolist()]
    _, told = exchange.found("bins")
    assert told["bins_per_chunk"] == [2, 1, 3]
    _, told = exchange.found("overwritten")
    assert "object_index" not in told["children"]


@pytest.mark.parametrize("name", [*OURS, "batched"])
def test_its_validator_passes(name, exchange):
    """At level 5, as far as it is sound: the spurious findings are those of its own stores."""
    told = json.loads((exchange.out / f"{name}.json").read_text())
    warnings = set(told["warnings"])
    if name in DOUBLE:  # it takes every vertex for float32, and finds NaN in halves of float64 numbers
        warnings = {w for w in warnings if not w.endswith("NaN/Inf")}
    assert told["errors"] == []
    assert warnings == SPURIOUS


# -------------------------------------------------------------------------------------------------- we read its


@pytest.mark.parametrize("name", WRITTEN)
def test_we_read_what_it_writes(name, exchange):
    truth = exchange.truth(name)
    level = dzv.open(exchange.theirs / name).level(0)
    ours = level.read()
    positions = truth["positions"]
    assert len(ours) == len(positions)
    if name.startswith(("unbatched", "zeros")):  # written chunk by chunk, in reading order
        rows = np.arange(len(positions))
    else:
        row_of = {p.tobytes(): i for i, p in enumerate(positions)}
        rows = np.array([row_of[p.tobytes()] for p in ours.positions])
        assert sorted(rows.tolist()) == list(range(len(positions)))
    same(ours.positions, positions[rows])
    names = [k.removeprefix("attr__") for k in truth if k.startswith("attr__")]
    assert set(ours.attributes) == set(names)
    for key in names:
        same(ours.attributes[key], truth[f"attr__{key}"][rows])
    if "object_ids" in truth:
        same(ours.object_ids, truth["object_ids"][rows])
        assert ours.object_attributes["vec"].tolist() == np.arange(42).reshape(21, 2).tolist()
        assert {g: m.tolist() for g, m in ours.groups.items()} == {0: [1, 2], 1: [20]}
        assert ours.group_attributes["w"].tolist() == [0.5, 1.5]
        same(level.read(objects=[5, 8]).positions, ours.positions[np.isin(ours.object_ids, [5, 8])])
    box = np.array([[-12.0, -30.0, -1.0], [30.0, 10.0, 36.0]])
    inside = ((ours.positions >= box[0]) & (ours.positions <= box[1])).all(axis=1)
    same(level.read(bbox=box).positions, ours.positions[inside])


def test_chunks_of_zeros_have_no_object(exchange):
    """That the case is what it claims to be: the data object is absent, and the vertices are all at the origin."""
    assert not (exchange.theirs / "unbatched/0/vertices/0.0.0/c/0").exists()
    chunk = dzv.open(exchange.theirs / "unbatched").level(0).read(bbox=([0, 0, 0], [1e-6] * 3))
    assert chunk.positions.tolist() == [[0.0, 0.0, 0.0]] * 7
    assert chunk.attributes["mass"].tolist() == list(range(7))


def test_refresh_gives_its_stores_a_catalog(exchange, tmp_path):
    for name in ("batched_objects", "unbatched"):
        target = tmp_path / name
        shutil.copytree(exchange.theirs / name, target)
        before = dzv.open(target).level(0).read()
        with dask.config.set(scheduler="sync"):
            store = dzv.open(target, mode="r+").refresh()
        assert store.level(0).source.catalogued
        after = dzv.open(target).level(0).read()
        same(after.positions, before.positions)
        for key in before.attributes:
            same(after.attributes[key], before.attributes[key])


# -------------------------------------------------------------------------------------------------- it edits ours


def edited(exchange, name, shards):
    path = exchange.root / f"edited {name} {shards}.zv"
    job = next(e for e in exchange.edits if e["path"] == str(path))
    base = dzv.open(exchange.root / f"to_edit_{shards}.zv").level(0).read()
    chunk = np.floor(base.positions / np.asarray(CHUNK)).astype(int)
    mine = (chunk == job["chunk"]).all(axis=1)
    assert mine.sum() == exchange.rows
    return path, job, base, mine


def expect(base, mine, job):
    """Return positions and mass as they are after an edit."""
    first, last = np.flatnonzero(mine)[[0, -1]]
    positions, mass = base.positions, base.attributes["mass"]
    new_positions = positions[mine] if job["positions"] is None else np.array(job["positions"], np.float32)
    new_mass = mass[mine] if job["mass"] is None else np.array(job["mass"])
    return (
        np.concatenate([positions[:first], new_positions, positions[last + 1 :]]),
        np.concatenate([mass[:first], new_mass, mass[last + 1 :]]),
    )


@pytest.mark.parametrize("name", ["values", "zeros", "whole", "moved"])
def test_edits_are_read_as_edited(name, exchange):
    path, job, base, mine = edited(exchange, name, 1)
    positions, mass = expect(base, mine, job)
    level = dzv.open(path).level(0)
    geometry = level.read()
    same(geometry.positions, positions)
    same(geometry.attributes["mass"], mass)
    same(level.read(attributes=["mass"]).attributes["mass"], mass)


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("name", ["values", "zeros", "whole", "moved"])
def test_edits_after_a_refresh(name, shards, exchange, tmp_path):
    """In a shard an edit goes beside it; a catalog that points into the shard is stale until it is rebuilt."""
    path, job, base, mine = edited(exchange, name, shards)
    positions, mass = expect(base, mine, job)
    shutil.copytree(path, tmp_path / "s.zv")
    with dask.config.set(scheduler="sync"):
        dzv.open(tmp_path / "s.zv", mode="r+").refresh()
    level = dzv.open(tmp_path / "s.zv").level(0)
    assert level.source.catalogued
    geometry = level.read()
    same(geometry.positions, positions)
    same(geometry.attributes["mass"], mass)
    assert int(level.chunks.rows.sum()) == len(positions)


@pytest.mark.parametrize("name", ["values", "zeros", "whole", "moved"])
def test_edits_beside_a_shard_are_whole(name, exchange):
    """Before a refresh: the chunk as it was, or as it is now; never some of both."""
    path, job, base, mine = edited(exchange, name, 4)
    positions, mass = expect(base, mine, job)
    geometry = dzv.open(path).level(0).read()
    found = geometry.positions.tobytes(), geometry.attributes["mass"].tobytes()
    assert found in (
        (positions.tobytes(), mass.tobytes()),
        (base.positions.tobytes(), base.attributes["mass"].tobytes()),
    )


@pytest.mark.parametrize("name", ["longer", "shorter", "short values", "double values", "no values"])
def test_edits_at_odds_with_their_siblings_name_the_chunk(name, exchange, tmp_path):
    path, _, _, _ = edited(exchange, name, 1)
    with pytest.raises(dzv.ZVError) as caught:
        dzv.open(path).level(0).read()
    assert caught.value.chunk == exchange.chunk
    assert exchange.chunk in str(caught.value)
    # the same without our catalog, where only the siblings tell
    shutil.copytree(path, tmp_path / "s.zv")
    shutil.rmtree(tmp_path / "s.zv" / "0" / "dask_zv_catalog")
    with pytest.raises(dzv.ZVError) as caught:
        dzv.open(tmp_path / "s.zv").level(0).read()
    assert caught.value.chunk == exchange.chunk
    # elsewhere it reads on
    for coords in dzv.open(path).level(0).chunks.coords.tolist():
        if ".".join(map(str, coords)) != exchange.chunk:
            inside = ((np.array(coords) + 0.01) * CHUNK, (np.array(coords) + 0.99) * CHUNK)
            assert len(dzv.open(path).level(0).read(bbox=inside)) > 0
