"""Point clouds that the 0.7 package wrote read exactly, whatever path of its writer made them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from points_reference import assert_same, in_box

import dask_zv as dzv

GOLDEN = Path(__file__).parents[1] / "data" / "golden_0.7"
NAMES = sorted(
    f.name.removesuffix(".expected.json")
    for f in GOLDEN.glob("*.expected.json")
    if json.loads(f.read_text())["kind"] == "point_cloud"
)


class Golden:
    def __init__(self, name):
        self.name = name
        found = [GOLDEN / f"{name}.zarrvectors", GOLDEN / f"{name}.zarrvectors.zip"]
        self.store = dzv.open(next(p for p in found if p.exists()))
        self.call = json.loads((GOLDEN / f"{name}.expected.json").read_text())
        with np.load(GOLDEN / f"{name}.expected.npz") as truth:
            self.truth = dict(truth)
        self.order = self.truth["reading_order"]

    def read(self, key):
        """Return an array of the truth in reading order."""
        return self.truth[key][self.order]

    def vertex_attributes(self):
        out = {}
        for key in self.truth:
            if key.startswith(("attr__", "chunk_attr__")) and not key.endswith("__missing"):
                values = self.read(key)
                if f"{key}__missing" in self.truth:
                    values = values.astype(object)
                    values[self.read(f"{key}__missing")] = None
                out[key.removeprefix("chunk_").removeprefix("attr__")] = values
        return out

    def rows(self, key, mask=slice(None)):
        return self.truth[key][self.order][mask]


@pytest.fixture(params=NAMES)
def golden(request):
    return Golden(request.param)


def check_vertices(geometry, golden, mask=slice(None)):
    assert_same(geometry.positions, golden.read("positions")[mask], "positions")
    expected = golden.vertex_attributes()
    assert set(geometry.attributes) == set(expected)
    for name, values in expected.items():
        assert_same(geometry.attributes[name], values[mask], name)
    if "object_ids" in golden.truth:
        assert_same(geometry.object_ids, golden.read("object_ids")[mask], "object_ids")
    else:
        assert geometry.object_ids is None


def test_the_point_stores_are_there():
    assert {
        "points_2d",
        "points_attr_chunked",
        "points_bins",
        "points_bins_negative",
        "points_bins_negative_shard_snake",
        "points_categorical",
        "points_negative",
        "points_objects",
        "points_objects_shard_octree",
        "points_pyramid",
    } <= set(NAMES)


def test_vertices_and_attributes(golden):
    check_vertices(golden.store.level(0).read(order="chunk"), golden)
    check_vertices(golden.store.level(0).read(), golden)
    check_vertices(golden.store.level(0).read(compute=False).compute(scheduler="sync"), golden)


def test_chunk_table(golden):
    table = golden.store.level(0).chunks
    assert (np.diff(table.coords, axis=0)[:, ::-1] != 0).any(axis=1).all()  # distinct
    assert [tuple(c) for c in table.coords.tolist()] == sorted(map(tuple, table.coords.tolist()))
    assert int(table.rows.sum()) == len(golden.order) == golden.store.level(0).metadata.vertex_count


def test_each_attribute_alone(golden):
    for name, values in golden.vertex_attributes().items():
        geometry = golden.store.level(0).read(attributes=[name])
        assert name in geometry.attributes
        assert_same(geometry.attributes[name], values, name)
        assert_same(geometry.positions, golden.read("positions"))


def boxes_of(positions):
    low, high = positions.min(axis=0).astype(np.float64), positions.max(axis=0).astype(np.float64)
    size = high - low
    yield low, high
    yield low + size / 4, high - size / 3
    yield low, low + size / 2
    corner = positions[len(positions) // 2].astype(np.float64)
    yield corner, corner  # a box of no volume still holds its point
    yield high + 1, high + 2
    yield np.full_like(low, -np.inf), np.r_[high[:1] - size[:1] / 2, np.full(len(low) - 1, np.inf)]


def test_boxes(golden):
    positions = golden.read("positions")
    for number, box in enumerate(boxes_of(positions)):
        mask = in_box(positions, box)
        assert mask.any() == (number != 4)
        check_vertices(golden.store.level(0).read(bbox=box), golden, mask)


def object_rows(golden):
    """Return input rows in manifest order: of each object, fragment after fragment."""
    manifest, ids = golden.truth["manifest"], golden.truth["object_ids"]
    chunks = {}
    shape = golden.call["arguments"]["chunk_shape"]
    values = golden.truth.get(f"chunk_attr__{golden.call['arguments'].get('chunk_by_attribute')}")
    for row, p in enumerate(golden.truth["positions"]):
        key = tuple(int(np.floor(float(x) / s)) for x, s in zip(p, shape, strict=True))
        if values is not None:
            key = (sorted(set(values.tolist())).index(values[row]), *key)
        chunks.setdefault((int(ids[row]), key), []).append(row)
    out = {}
    for oid, _, *key, _fragment in manifest.tolist():
        out.setdefault(oid, []).extend(chunks[oid, tuple(key)])
    return out


def test_objects(golden):
    if "object_ids" not in golden.truth:
        with pytest.raises(dzv.InputError, match="no objects"):
            golden.store.level(0).read(objects=[0])
        with pytest.raises(dzv.InputError, match="no objects"):
            golden.store.level(0).read(order="object")
        return
    level = golden.store.level(0)
    ids = golden.read("object_ids")
    known = np.unique(ids)
    for wanted in ([int(known[0])], known[::2].tolist(), known.tolist()):
        check_vertices(level.read(objects=wanted), golden, np.isin(ids, wanted))
    check_vertices(level.read(objects=int(known[-1])), golden, ids == known[-1])
    assert len(level.read(objects=[])) == 0
    box = np.percentile(golden.read("positions").astype(np.float64), [10, 80], axis=0)
    both = level.read(objects=known[::3], bbox=box)
    check_vertices(both, golden, np.isin(ids, known[::3]) & in_box(golden.read("positions"), box))
    with pytest.raises(dzv.NotFoundError, match=str(int(known[-1]) + 1)):
        level.read(objects=[int(known[-1]) + 1])
    with pytest.raises(dzv.NotFoundError):
        level.read(objects=[-1])


def test_order_by_object(golden):
    if "object_ids" not in golden.truth:
        return
    level = golden.store.level(0)
    rows = object_rows(golden)
    every = np.array([r for oid in sorted(rows) for r in rows[oid]])
    geometry = level.read(order="object")
    assert_same(geometry.positions, golden.truth["positions"][every])
    assert_same(geometry.object_ids, golden.truth["object_ids"][every])
    assert geometry.ids.tolist() == sorted(rows)
    assert geometry.lengths.tolist() == [len(rows[oid]) for oid in sorted(rows)]
    for key in golden.truth:
        if key.startswith("attr__"):
            assert_same(geometry.attributes[key.removeprefix("attr__")], golden.truth[key][every])
    some = sorted(rows)[1::2]
    picked = np.array([r for oid in some for r in rows[oid]])
    geometry = level.read(objects=some[::-1], order="object")
    assert_same(geometry.positions, golden.truth["positions"][picked])
    assert geometry.ids.tolist() == some
    assert geometry.lengths.tolist() == [len(rows[oid]) for oid in some]


def test_object_attributes_and_groups(golden):
    geometry = golden.store.level(0).read()
    names = {k.removeprefix("oattr__") for k in golden.truth if k.startswith("oattr__")}
    assert set(geometry.object_attributes) == names
    for name in names:
        ids = golden.truth["oattr_ids"]
        assert geometry.object_index.tolist() == list(range(int(golden.truth["object_ids"].max()) + 1))
        assert_same(geometry.object_attributes[name][ids], golden.truth[f"oattr__{name}"], name)
    if "groups_flat" in golden.truth:
        ends = golden.truth["groups_offsets"]
        expected = {g: golden.truth["groups_flat"][ends[g] : ends[g + 1]].tolist() for g in range(len(ends) - 1)}
        assert {g: m.tolist() for g, m in geometry.groups.items()} == expected
    else:
        assert not geometry.groups
    group_names = {k.removeprefix("gattr__") for k in golden.truth if k.startswith("gattr__")}
    assert set(geometry.group_attributes) == group_names
    for name in group_names:
        assert_same(geometry.group_attributes[name], golden.truth[f"gattr__{name}"], name)
    if names:
        some = golden.truth["oattr_ids"][3:7]
        part = golden.store.level(0).read(objects=some)
        assert part.object_index.tolist() == some.tolist()
        for name in names:
            assert_same(part.object_attributes[name], golden.truth[f"oattr__{name}"][3:7], name)


def test_levels(golden):
    coarse = sorted(int(k[1:].partition("_")[0]) for k in golden.truth if k.startswith("L") and k.endswith("_positions"))
    assert golden.store.levels == (0, *coarse)
    for number in coarse:
        positions = golden.truth[f"L{number}_positions"]
        level = golden.store.level(number)
        assert_same(level.read().positions, positions)
        assert level.metadata.vertex_count == len(positions)
        assert level.metadata.parent_level == number - 1
        box = np.percentile(positions.astype(np.float64), [20, 70], axis=0)
        assert_same(level.read(bbox=box).positions, positions[in_box(positions, box)])
    with pytest.raises(dzv.NotFoundError, match="no level 9"):
        golden.store.level(9)


def test_metadata(golden):
    arguments, metadata = golden.call["arguments"], golden.store.metadata
    assert list(metadata.chunk_shape) == arguments["chunk_shape"]
    if "bin_shape" in arguments:
        assert list(metadata.bin_shape) == arguments["bin_shape"]
    positions = golden.truth["positions"].astype(np.float64)
    assert (positions >= np.asarray(metadata.bounds[0])).all()
    assert (positions <= np.asarray(metadata.bounds[1])).all()
    assert metadata.geometry_types == ("point_cloud",)
    assert golden.store.read_only
    with pytest.raises(dzv.ReadOnlyError, match=r"r\+"):
        dzv.write_points(golden.store, positions)
