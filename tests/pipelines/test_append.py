"""Tomorrow's rows: what is added to a level, what stays, what is refused, and what others see meanwhile."""

from __future__ import annotations

import contextlib

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from counting_store import CountingStore
from refusals import fails
from small import always, sizes
from small_geometries import write_any
from zarr.storage import MemoryStore

import dask_zv as dzv
from dask_zv.storage import specs
from dask_zv.storage.local import LocalObjects

CHUNK = (10.0, 10.0)
N, MORE = 600, 250
_small = always(scheduler="sync", write_block_chunks=6, write_block_bytes=(500, 3000))
STORES = {
    "cells": {"shard_chunks": 1},
    "shards": {"shard_chunks": (2, 3)},
    "bins": {"shard_chunks": 1, "bin_shape": (5.0, 2.0)},
    "packed_bins": {"shard_chunks": 4, "bin_shape": (5.0, 2.0)},
    "declared": {"bounds": ((0, 0), (200, 200)), "shard_chunks": 64},
}


def rows(n=N, seed=0, low=0.0, high=60.0):
    rng = np.random.default_rng(seed)
    kinds = np.array(["soma", "axon", "dendrite", "spine"])
    return {
        "positions": rng.uniform(low, high, (n, 2)),
        "attributes": {
            "row": np.arange(n) + 1000 * seed,
            "mass": rng.normal(size=n),
            "rgb": rng.integers(0, 255, (n, 3), np.uint8),
            "kind": kinds[rng.integers(0, 2 + seed, n)],
        },
    }


def together(*parts):
    """Return what a store must hold after all of them, by row."""
    out = {"positions": np.concatenate([p["positions"] for p in parts])}
    return out | {k: np.concatenate([p["attributes"][k] for p in parts]) for k in parts[0]["attributes"]}


def assert_holds(target, wanted, **box):
    found = (target if isinstance(target, dzv.Store) else dzv.open(target)).level(0).read(**box)
    order = np.argsort(found.attributes["row"])
    at = np.argsort(wanted["row"])
    if box:
        low, high = box["bbox"]
        inside = ((wanted["positions"] >= low) & (wanted["positions"] <= high)).all(axis=1)
        at = at[inside[at]]
    np.testing.assert_array_equal(found.positions[order], wanted["positions"][at])
    for name, values in found.attributes.items():
        np.testing.assert_array_equal(values[order], wanted[name][at], err_msg=name)
    return found


@pytest.mark.parametrize("name", STORES)
def test_rows_go_into_new_and_old_chunks(name, tmp_path):
    target, first, second = tmp_path / "s.zv", rows(), rows(MORE, 1, 40, 110)
    dzv.write_points(target, **first, chunk_shape=CHUNK, **STORES[name])
    keys = dzv.open(target).level(0).chunks.keys
    before = {key: dzv.open(target).level(0).group.read_bytes("vertices", key) for key in keys}
    report = dzv.write_points(target, **second, mode="append")
    assert report.rows == MORE
    level = dzv.open(target).level(0)
    assert level.metadata.vertex_count == N + MORE
    found = assert_holds(target, together(first, second))
    assert set(found.attributes["kind"]) == {"soma", "axon", "dendrite"}
    assert_holds(target, together(first, second), bbox=((35, 35), (75, 80)))
    if "bin" not in name:  # the old rows come first, in their order
        assert all(level.group.read_bytes("vertices", key).startswith(data) for key, data in before.items())
    names = sorted(p.name for p in (target / "0").iterdir())
    assert names == ["dask_zv_catalog", "vertex_attributes", "vertex_fragments", "vertices", "zarr.json"]
    if name != "declared":
        np.testing.assert_allclose(dzv.open(target).bounds[1], together(first, second)["positions"].max(axis=0))


def test_lazily_and_again_and_again(tmp_path):
    target, parts = tmp_path / "s.zv", [rows(MORE, seed, 20 * seed, 20 * seed + 50) for seed in range(3)]
    for part in parts:
        lazy = {k: da.from_array(v, chunks=(40, *v.shape[1:])) for k, v in part["attributes"].items()}
        positions = da.from_array(part["positions"], chunks=(40, 2))
        dzv.write_points(target, positions, attributes=lazy, chunk_shape=CHUNK, mode="append")
    assert_holds(target, together(*parts))


def test_a_plan_of_blocks(tmp_path):
    target, first, second = tmp_path / "s.zv", rows(), rows(MORE, 1)
    dzv.write_points(target, **first, chunk_shape=CHUNK)
    plan = dzv.plan_points(target, **second, mode="append")
    receipts = [plan.run(block) for block in range(len(plan))]
    assert len(plan) > 2
    assert_holds(target, together(first))
    assert plan.commit(receipts).rows == MORE
    assert_holds(target, together(first, second))
    assert plan.commit(receipts).rows == MORE  # it is committed
    assert dzv.plan_points(target, **second, mode="append", resume=True).compute().rows == MORE  # and known by its content
    assert_holds(target, together(first, second))


def test_categories_grow_beyond_their_codes(tmp_path):
    target = tmp_path / "s.zv"
    words = np.array([f"w{i}" for i in range(400)])
    first, second = rows(), rows(400, 1)
    first["attributes"]["kind"], second["attributes"]["kind"] = words[np.arange(N) % 200], words
    dzv.write_points(target, **first, chunk_shape=CHUNK, shard_chunks=4)
    dzv.write_points(target, **second, mode="append")
    assert_holds(target, together(first, second))


def test_attributes_that_one_side_lacks(tmp_path):
    target, first, second = tmp_path / "s.zv", rows(), rows(MORE, 1, 40, 90)
    dzv.write_points(target, **first, chunk_shape=CHUNK, shard_chunks=4)
    new = {"row": second["attributes"]["row"], "when": np.full(MORE, "2026-12-01", "M8[s]"), "size": np.arange(MORE)}
    fails(
        dzv.InputError,
        "'size' is int64, which has no value for 'missing'.*fill_missing={'size'",
        dzv.write_points,
        target,
        second["positions"],
        attributes=new,
        mode="append",
        fill_missing={"mass": 1.0, "rgb": [1, 2, 3], "kind": "none"},
    )
    fails(
        dzv.InputError,
        "the store has the attribute 'kind'.*fill_missing=True",
        dzv.write_points,
        target,
        second["positions"],
        attributes=new,
        mode="append",
    )
    fills = {"mass": 1.5, "rgb": [1, 2, 3], "kind": "none", "size": -1}
    dzv.write_points(target, second["positions"], attributes=new, mode="append", fill_missing=fills)
    wanted = together(first, second)
    wanted["mass"][N:], wanted["rgb"][N:], wanted["kind"] = 1.5, [1, 2, 3], np.r_[wanted["kind"][:N], ["none"] * MORE]
    wanted["size"] = np.r_[np.full(N, -1), np.arange(MORE)]
    wanted["when"] = np.r_[np.full(N, "NaT", "M8[s]"), new["when"]]
    assert_holds(target, wanted)
    third = {k: v for k, v in rows(5, 2)["attributes"].items() if k in ("row", "rgb")} | {"size": np.arange(5)}
    dzv.write_points(target, rows(5, 2)["positions"], attributes=third, mode="append", fill_missing=True)
    found = dzv.open(target).level(0).read()
    last = found.attributes["row"] >= 2000
    assert last.sum() == 5
    assert np.isnan(found.attributes["mass"][last]).all()
    assert np.isnat(found.attributes["when"][last]).all()
    assert set(found.attributes["kind"][last]) == {None}
    assert set(found.attributes["kind"]) == {"soma", "axon", "none", None}


def test_what_is_refused_changes_nothing(tmp_path):
    target, second = tmp_path / "s.zv", rows(MORE, 1)
    dzv.write_points(target, **rows(), chunk_shape=CHUNK)

    def refused(match, error=dzv.InputError, **other):
        given = {**second, **other}
        given["attributes"] = {**second["attributes"], **other.get("attributes", {})}
        fails(error, match, dzv.write_points, target, mode="append", **{"positions": given.pop("positions"), **given})

    refused("'row' has numbers in the store, and strings", attributes={"row": np.full(MORE, "a")})
    refused("'rgb' has 3 channels in the store, the rows have 2", attributes={"rgb": np.zeros((MORE, 2), np.uint8)})
    refused("'rgb' is int64, the store has uint8", attributes={"rgb": np.full((MORE, 3), 256)})
    refused(
        "'kind' would have 9 categories.*max_categories",
        attributes={"kind": np.array(list("abcdefg"))[np.arange(MORE) % 7]},
        max_categories=8,
    )
    refused("the rows to append have objects, those of the store have none", object_ids=np.arange(MORE))
    refused("fill_missing names 'odd'", fill_missing={"odd": 1})
    refused("on_existing is 'error' or 'extend', not 'extends'; did you mean 'extend'", on_existing="extends")
    refused("store.delete_objects", on_existing="replace")
    fails(dzv.InputError, "on_existing= says what mode='append' does", dzv.write_points, target, **second, on_existing="extend")
    assert_holds(target, together(rows()))
    old = dzv.create(tmp_path / "old.zv", chunk_shape=CHUNK, layout="per_chunk")
    dzv.write_points(old, rows()["positions"])
    fails(dzv.StoreError, "needs layout 'grid'.*dzv.convert", dzv.write_points, old, rows()["positions"], mode="append")


def test_objects_come_and_grow(tmp_path):
    target, first, second, third = tmp_path / "s.zv", rows(), rows(MORE, 1, 40, 90), rows(90, 2)
    ids = np.arange(N) % 10 * 3
    frame = pd.DataFrame({"speed": np.arange(10.0), "name": list("abcdefghij"), "code": np.arange(10)}, index=np.arange(10) * 3)
    dzv.write_points(
        target,
        **first,
        object_ids=ids,
        object_attributes=frame,
        groups={0: [0, 3], 1: [9]},
        group_attributes={"group_names": ["left", "right"]},
        chunk_shape=CHUNK,
        shard_chunks=4,
    )
    more = 100 + np.arange(MORE) % 5
    fails(dzv.InputError, "pass object_ids=", dzv.write_points, target, **second, mode="append")
    fails(
        dzv.InputError,
        r"has 10 of the objects already \(0, 3, 6, 9, 12, …\): pass on_existing='extend'",
        dzv.write_points,
        target,
        **second,
        object_ids=np.arange(MORE) % 40,
        mode="append",
    )
    fails(
        dzv.InputError,
        "objects of the store have the attribute 'code'",
        dzv.write_points,
        target,
        **second,
        object_ids=more,
        mode="append",
    )
    new = pd.DataFrame({"name": list("pqrst"), "speed": np.arange(5) + 50.0, "age": np.arange(5)}, index=range(100, 105))
    dzv.write_points(
        target,
        **second,
        object_ids=more,
        object_attributes=new,
        groups={1: [100], 2: [104]},
        group_attributes={"group_names": ["", "right", "up"]},
        mode="append",
        fill_missing=True,
    )
    dzv.write_points(target, **third, object_ids=np.arange(90) % 2 * 3, mode="append", on_existing="extend")
    level = dzv.open(target).level(0)
    owner = dict(zip([*np.arange(N), *(np.arange(MORE) + 1000), *(np.arange(90) + 2000)],
                     [*ids, *more, *(np.arange(90) % 2 * 3)], strict=True))  # fmt: skip
    found = assert_holds(target, together(first, second, third))
    assert found.object_ids.tolist() == [owner[r] for r in found.attributes["row"].tolist()]
    for one in (0, 3, 27, 102):
        part = level.read(objects=[one])
        assert sorted(part.attributes["row"].tolist()) == sorted(r for r, o in owner.items() if o == one)
    about = found.object_attributes
    assert about["name"].tolist() == list("abcdefghijpqrst")
    assert about["speed"].tolist() == [*range(10), *range(50, 55)]
    assert about["age"].tolist() == [None] * 10 + list(range(5))
    assert about["code"].tolist() == [*range(10), *[None] * 5]
    assert {k: v.tolist() for k, v in found.groups.items()} == {0: [0, 3], 1: [9, 100], 2: [104]}
    assert found.group_attributes["group_names"].tolist() == ["left", "right", "up"]


# ------------------------------------------------------------------------------------------------ what others see


class PowerCutError(Exception):
    pass


@pytest.fixture
def cut(monkeypatch):
    """Return a function that lets the n-th request of those that change a local store fail from now on; with None none does."""
    state = {"left": None}

    def counting(verb):
        real = getattr(LocalObjects, verb)

        def asked(self, *args, **kwargs):
            if state["left"] is not None and "lock" not in str(args[:1]):
                if state["left"] == 0:
                    raise PowerCutError("power cut")
                state["left"] -= 1
            return real(self, *args, **kwargs)

        monkeypatch.setattr(LocalObjects, verb, asked)

    for verb in ("put", "put_all", "put_many", "put_identified", "delete_many", "delete_prefix"):
        counting(verb)
    return lambda after: state.update(left=after)


@pytest.mark.parametrize("again", ["same", "other", "edit"])
def test_an_append_that_stops_anywhere(again, tmp_path, cut):
    """Readers see the old rows, the new ones, or an error that says so; any later write completes what had begun."""
    first, second, third = rows(200), rows(80, 1, 30, 90), rows(20, 2)
    ids = {"object_ids": np.arange(200) % 4}, {"object_ids": np.arange(80) % 3 + 10}, {"object_ids": np.arange(20) + 50}
    seen = set()
    for after in range(*{"same": (0, 70, 9), "other": (4, 70, 9), "edit": (4, 70, 9)}[again]):
        target = tmp_path / f"{after}.zv"
        cut(None)
        store = dzv.create(target, chunk_shape=CHUNK, exist_ok=True)
        dzv.write_points(store, **first, **ids[0])
        cut(after)
        try:
            dzv.write_points(target, **second, **ids[1], mode="append")
        except PowerCutError:
            stopped = True
        else:
            stopped = False
        cut(None)
        found = None
        with contextlib.suppress(dzv.FormatError):
            found = dzv.open(target).level(0).read()
        if found is None:
            with pytest.raises(dzv.FormatError, match="rows are being added to the"):
                dzv.open(target).level(0).read()
        else:
            assert_holds(target, together(first) if len(found) == 200 else together(first, second))
        seen.add("error" if found is None else len(found))
        if again == "same":
            dzv.write_points(target, **second, **ids[1], mode="append", resume=True)
            assert_holds(target, together(first, second))
            assert [p.name for p in (target / "0").iterdir() if p.name.startswith(specs.WAITING)] == []
        elif again == "edit":
            for names in (("row", "number"), ("number", "row")):
                dzv.open(target, mode="r+").rename_attribute(*names)
            after_it = dzv.open(target).level(0).read()
            assert len(after_it) in ({200, 280} if found is None else {len(found)})
            assert_holds(target, together(first) if len(after_it) == 200 else together(first, second))
        else:
            dzv.write_points(target, **third, **ids[2], mode="append")
            assert len(dzv.open(target).level(0).read()) in (220, 300)
            assert len(dzv.open(target).level(0).read(objects=list(range(50, 70)))) == 20
        if not stopped:
            break
    assert not stopped
    assert seen == {200, 280, "error"}


def test_two_clients(tmp_path):
    target, first, second, third = tmp_path / "s.zv", rows(), rows(MORE, 1, 40, 90), rows(90, 2)
    dzv.write_points(target, **first, chunk_shape=CHUNK)
    reader = dzv.open(target).level(0)
    assert len(reader.chunks) == 36
    mine = dzv.plan_points(target, **second, mode="append")
    theirs = dzv.plan_points(target, **third, mode="append")
    stored = [mine.run(block) for block in range(len(mine))]
    theirs.compute()
    fails(dzv.PlanError, "another writer has changed the level since.*make the same call again", mine.commit, stored)
    assert_holds(target, together(first, third))
    dzv.write_points(target, **second, mode="append")
    assert_holds(target, together(first, third, second))
    fails(dzv.FormatError, "the level was rewritten after it was opened", reader.read)


def test_a_dead_clients_directory_goes_with_an_overwrite(tmp_path):
    target = tmp_path / "s.zv"
    dzv.write_points(target, **rows(), chunk_shape=CHUNK)
    plan = dzv.plan_points(target, **rows(MORE, 1), mode="append")
    plan.run(0)
    assert any(p.name.startswith(specs.WAITING) for p in (target / "0").iterdir())
    assert_holds(target, together(rows()))
    dzv.write_points(target, **rows(50, 2), mode="overwrite")
    assert not any(p.name.startswith(specs.WAITING) for p in (target / "0").iterdir())


def test_coarser_levels_are_stale(tmp_path):
    target = tmp_path / "s.zv"
    dzv.write_points(target, **rows(), chunk_shape=CHUNK)
    dzv.open(target, mode="r+").group.create_group("1").attrs.update(dzv.open(target).level(0).group.attrs.to_dict())
    dzv.write_points(target, **rows(MORE, 1), mode="append")
    assert dzv.open_group(target, "r")["1"].attrs["dask_zv_stale"] is True


@pytest.fixture
def large_blocks():
    with sizes(write_block_chunks=400, write_block_bytes=(1 << 20, 1 << 24)):
        yield


def test_requests_go_with_what_is_touched(large_blocks):
    """A thousand rows into a store of ten thousand chunks: the cells of their chunks, and what lists chunks."""
    store = CountingStore(MemoryStore())
    every = np.stack(np.meshgrid(np.arange(5.0, 1000, 10), np.arange(5.0, 1000, 10)), -1).reshape(-1, 2)
    dzv.write_points(store, every, attributes={"row": np.arange(len(every))}, chunk_shape=CHUNK, shard_chunks=1)
    positions = np.random.default_rng(0).uniform(100, 130, (1000, 2))
    store.forget()
    dzv.write_points(store, positions, attributes={"row": np.arange(1000)}, mode="append")
    cells = {key.partition("/c/")[2] for key in store.log if "/c/" in key and "catalog" not in key}
    touched = {f"{x}/{y}" for x in (10, 11, 12) for y in (10, 11, 12)}
    assert cells == touched
    assert len(store.log) <= 2 * 3 * len(touched) + 60  # each cell before the append, and as it waits for the commit
    assert len(dzv.open(store).level(0).read(bbox=((100, 100), (130, 130)))) == 1009


# ------------------------------------------------------------------------------------------------ paths and links


def linked(kind, ids, seed):
    """Return 40 vertices of each object, with links inside of each, as `write_any` takes them."""
    rng, n = np.random.default_rng(seed), 40
    steps = rng.normal(size=(len(ids), n, 3)).cumsum(axis=1) * 3
    out = {
        "positions": steps.reshape(-1, 3),
        "owner": np.repeat(ids, n),
        "attributes": {"row": np.arange(n * len(ids)) + 1000 * seed},
    }
    first, later = np.repeat(np.arange(len(ids)) * n, n - 1), np.tile(np.arange(1, n), len(ids))
    if kind == "skeleton":
        out["links"] = np.stack([first + later, first + np.maximum(later - rng.integers(1, 5, len(later)), 0)], axis=1)
    elif kind == "graph":
        out |= {"links": rng.integers(0, n * len(ids), (200, 2)), "link_attributes": {"w": rng.normal(size=200)}}
    elif kind == "mesh":
        out |= {"links": np.stack([first + later - 1, first + later, first + later // 2], axis=1)}
        out["link_attributes"] = {"w": rng.normal(size=len(later))}
    return out


def contents(geometry):
    """Return vertices by their rows, and links between them with what they have."""
    row = geometry.attributes["row"]
    vertices = sorted(zip(row.tolist(), geometry.object_ids.tolist(), geometry.positions.tolist(), strict=True))
    links = next((x for x in (geometry.faces, geometry.edges) if x is not None), np.zeros((0, 2), int))
    values = {**(geometry.edge_attributes or {}), **(geometry.face_attributes or {})}.get("w", np.zeros(len(links)))
    parents = [] if geometry.parents is None else np.where(geometry.parents < 0, -1, row[geometry.parents])
    return (
        vertices,
        sorted(zip(row[links].tolist(), np.asarray(values).tolist(), strict=True)),
        sorted(zip(row.tolist(), list(parents), strict=False)),
    )


@pytest.mark.parametrize("shards", [1, 8])
@pytest.mark.parametrize("kind", ["streamline", "skeleton", "graph", "mesh"])
def test_objects_with_links(kind, shards, tmp_path):
    """Appended in three goes, of which the last extends an object, they are as if written at once."""
    parts = [linked(kind, ids, seed) for seed, ids in enumerate([[3, 5, 9], [4, 12], [5, 20]])]
    how = {"geometry": kind, "chunk_shape": (10, 10, 10), "shard_chunks": shards}
    target, at_once = tmp_path / "s.zv", tmp_path / "whole.zv"
    for part, existing in zip(parts, ["error", "error", "extend"], strict=True):
        write_any(dzv.create(target, **how, exist_ok=True), kind, **part, mode="append", on_existing=existing)
    whole = {"attributes": {"row": np.concatenate([p["attributes"]["row"] for p in parts])}}
    whole |= {k: np.concatenate([p[k] for p in parts]) for k in ("positions", "owner")}
    if "links" in parts[0]:
        starts = np.cumsum([0, *(len(p["owner"]) for p in parts)])
        whole["links"] = np.concatenate([p["links"] + n for p, n in zip(parts, starts, strict=False)])
    if "link_attributes" in parts[0]:
        whole["link_attributes"] = {"w": np.concatenate([p["link_attributes"]["w"] for p in parts])}
    if kind == "streamline":  # the paths one after the other
        order = np.argsort(whole["owner"], kind="stable")
        whole = {k: v[order] for k, v in whole.items() if k != "attributes"} | {
            "attributes": {"row": whole["attributes"]["row"][order]}
        }
    write_any(dzv.create(at_once, **how), kind, **whole)
    found, wanted = dzv.open(target).level(0), dzv.open(at_once).level(0)
    assert contents(found.read()) == contents(wanted.read())
    assert contents(found.read(bbox=((-9, -9, -9), (14, 9, 25)))) == contents(wanted.read(bbox=((-9, -9, -9), (14, 9, 25))))
    for one in (3, 5, 20):
        assert contents(found.read(objects=one)) == contents(wanted.read(objects=one))
    if kind == "streamline":
        assert found.read(objects=5).attributes["row"].tolist() == wanted.read(objects=5).attributes["row"].tolist()
    assert xr.open_dataset(target, engine="zv").sizes == xr.open_dataset(at_once, engine="zv").sizes
    told = [dzv.open_group(t, "r")["0"]["links"]["0"].attrs.to_dict()["num_links"] for t in (target, at_once)]
    assert kind == "skeleton" or told[0] == told[1]  # which parents are told by the order depends on how they came


def test_links_that_are_not_those_of_the_store(tmp_path):
    parts = [linked("graph", [1, 2], 0), linked("graph", [3], 1)]
    write_any(dzv.create(tmp_path / "s.zv", geometry="graph", chunk_shape=(10, 10, 10)), "graph", **parts[0])
    store = dzv.open(tmp_path / "s.zv", mode="r+")
    fails(dzv.InputError, "directed=False.*directed=True", write_any, store, "graph", **parts[1], mode="append", directed=True)
    fails(
        dzv.InputError,
        "attribute 'w' of links is float64 x 1 in the store, none",
        write_any,
        store,
        "graph",
        **{**parts[1], "link_attributes": None},
        mode="append",
    )
