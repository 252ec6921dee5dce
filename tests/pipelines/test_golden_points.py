"""Point clouds that the 0.7 and 0.9 packages wrote read exactly: compressed, sharded, binned, with objects, by every path."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from golden_reference import Golden, golden_names
from points_reference import assert_same, in_box

import dask_zv as dzv

NAMES = golden_names(("point_cloud",))


class GoldenPoints(Golden):
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

    def groups(self):
        ends = self.truth["groups_offsets"]
        return {g: self.truth["groups_flat"][ends[g] : ends[g + 1]].tolist() for g in range(len(ends) - 1)}


@pytest.fixture(params=NAMES)
def golden(request):
    return GoldenPoints(request.param)


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


def test_vertices_and_attributes(golden):
    check_vertices(golden.store.level(0).read(order="chunk"), golden)
    check_vertices(golden.store.level(0).read(), golden)
    check_vertices(golden.store.level(0).read(compute=False).compute(scheduler="sync"), golden)


def test_chunk_table(golden):
    table = golden.store.level(0).chunks
    coords = [tuple(c) for c in table.coords.tolist()]
    expected = {}
    arguments = golden.call["arguments"]
    values = golden.truth.get(f"chunk_attr__{arguments.get('chunk_by_attribute')}")
    for row, p in enumerate(golden.truth["positions"]):
        key = tuple(int(np.floor(float(x) / s)) for x, s in zip(p, arguments["chunk_shape"], strict=True))
        if values is not None:
            key = (sorted(set(values.tolist())).index(values[row]), *key)
        expected[key] = expected.get(key, 0) + 1
    assert coords == sorted(expected)
    assert table.rows.tolist() == [expected[c] for c in coords]
    assert golden.store.level(0).metadata.vertex_count == len(golden.order)


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
    yield corner, np.nextafter(corner, np.inf)  # the smallest that holds its point
    yield high + 1, high + 2
    yield np.full_like(low, -np.inf), np.r_[high[:1] - size[:1] / 2, np.full(len(low) - 1, np.inf)]


def test_boxes(golden):
    """The peer itself loses points of boxes in `points_objects`, where bins and objects meet (FORMAT.md J.1)."""
    positions = golden.read("positions")
    for number, box in enumerate(boxes_of(positions)):
        mask = in_box(positions, box)
        assert mask.any() == (number != 4)
        check_vertices(golden.store.level(0).read(bbox=box), golden, mask)


# -------------------------------------------------------------------------------------------------- objects


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
    level = golden.store.level(0)
    if "object_ids" not in golden.truth:
        with pytest.raises(dzv.InputError, match="no objects"):
            level.read(objects=[0])
        with pytest.raises(dzv.InputError, match="no objects"):
            level.read(order="object")
        return
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
        ids = golden.truth["oattr_ids"].astype(np.int64)
        # 0.7 has a row for every object up to the last
        index = np.arange(golden.truth["object_ids"].max() + 1, dtype=np.int64) if golden.old else ids
        assert_same(geometry.object_index, index)
        values = geometry.object_attributes[name][np.searchsorted(index, ids)]
        assert_same(np.ma.getdata(values), golden.truth[f"oattr__{name}"], name)
        assert not np.ma.getmaskarray(values).any()
    if "groups_flat" in golden.truth:
        assert {g: m.tolist() for g, m in geometry.groups.items()} == golden.groups()
    else:
        assert not geometry.groups
    group_names = {k.removeprefix("gattr__") for k in golden.truth if k.startswith("gattr__")}
    assert set(geometry.group_attributes) == group_names
    for name in group_names:
        assert_same(geometry.group_attributes[name], golden.truth[f"gattr__{name}"], name)
    if names:
        some = golden.truth["oattr_ids"][1:4]
        part = golden.store.level(0).read(objects=some)
        assert part.object_index.tolist() == some.tolist()
        for name in names:
            assert_same(part.object_attributes[name], golden.truth[f"oattr__{name}"][1:4], name)


def test_sparse_ids():
    """Ids are ids, not rows: 3, 7, 19, 41 and 100, and nothing between them."""
    golden = GoldenPoints("golden_0.9/points_sparse_ids")
    level = golden.store.level(0)
    geometry = level.read()
    assert geometry.object_index.tolist() == [3, 7, 19, 41, 100]
    assert geometry.object_attributes["w"].tolist() == [1.5, 3.5, 9.5, 20.5, 50.0]
    assert sorted(set(geometry.object_ids.tolist())) == [3, 7, 19, 41, 100]
    assert {g: m.tolist() for g, m in geometry.groups.items()} == {0: [3, 100], 1: list(range(3, 20)), 2: [], 3: [41]}
    part = level.read(objects=[100, 7])
    assert part.object_index.tolist() == [7, 100]
    assert part.object_attributes["w"].tolist() == [3.5, 50.0]
    assert set(part.object_ids.tolist()) == {7, 100}
    for unknown in (0, 4, 99, 101, 2**40):
        with pytest.raises(dzv.NotFoundError, match=str(unknown)):
            level.read(objects=[7, unknown])


def test_every_manifest(golden):
    """Of every object: its chunks in their order, and all vertices of it in each of them."""
    if "manifest" not in golden.truth:
        return
    level = golden.store.level(0)
    table = level.chunks
    geometry = level.read()
    key_of = np.repeat(np.arange(len(table.rows)), table.rows)
    for oid in np.unique(golden.truth["manifest"][:, 0]).tolist():
        mine = golden.truth["manifest"][golden.truth["manifest"][:, 0] == oid]
        assert mine[:, 1].tolist() == list(range(len(mine)))
        alone = level.read(objects=[oid], order="object")
        assert alone.lengths.tolist() == [len(alone)]
        chunks = [table.coords.tolist().index(c) for c in mine[:, 2:-1].tolist()]
        rows = np.concatenate([np.flatnonzero((geometry.object_ids == oid) & (key_of == c)) for c in chunks])
        assert_same(alone.positions, geometry.positions[rows])


# -------------------------------------------------------------------------------------------------- levels, metadata, xarray


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
    assert metadata.zv_version == ("0.7.0" if golden.old else "0.9.2")
    assert metadata.generation.name == ("PER_CHUNK" if golden.old else "GRID")
    assert list(metadata.chunk_shape) == arguments["chunk_shape"]
    assert list(metadata.bin_shape) == arguments.get("bin_shape", arguments["chunk_shape"])
    positions = golden.truth["positions"].astype(np.float64)
    if "bounds" in arguments:
        assert [list(corner) for corner in metadata.bounds] == arguments["bounds"]
    elif golden.old:
        assert (positions >= np.asarray(metadata.bounds[0])).all()
        assert (positions <= np.asarray(metadata.bounds[1])).all()
    else:
        assert [list(corner) for corner in metadata.bounds] == [positions.min(axis=0).tolist(), positions.max(axis=0).tolist()]
    assert metadata.geometry_types == ("point_cloud",)
    assert ("per_chunk" if golden.old else "grid") in repr(golden.store)
    assert golden.store.read_only
    with pytest.raises(dzv.ReadOnlyError, match=r"r\+"):
        dzv.write_points(golden.store, positions)


@pytest.mark.parametrize("chunks", [None, {}])
def test_xarray(golden, chunks):
    ds = xr.open_dataset(golden.path, engine="zv", chunks=chunks)
    positions = golden.read("positions")
    for i, axis in enumerate(golden.store.axes):
        assert_same(ds[axis].to_numpy(), positions[:, i])
    expected = golden.vertex_attributes()
    along = {name for name in ds.data_vars if ds[name].dims[:1] == ("vertex",)}
    assert along - {"object_id", "object_index"} == set(expected)
    for name, values in expected.items():
        found = ds[name].to_numpy()
        if values.dtype == object:  # xarray's own missing string is NaN
            missing = [v is None for v in values]
            assert pd.isnull(found).tolist() == missing
            found = np.where(missing, None, found)
        if values.dtype.kind == "U":
            found = found.astype(values.dtype)
        assert_same(found, values, name)
    if "object_ids" in golden.truth:
        assert_same(ds.object_id.to_numpy(), golden.read("object_ids"))
    else:
        assert "object_id" not in ds
    box = np.percentile(positions.astype(np.float64), [20, 70], axis=0)
    inside = in_box(positions, box)
    selected = ds.zv.sel(bbox=box)
    for i, axis in enumerate(golden.store.axes):
        assert_same(selected[axis].to_numpy(), positions[inside, i])


def test_coarser_levels_in_xarray():
    golden = GoldenPoints("golden_0.9/points_pyramid")
    ds = xr.open_dataset(golden.path, engine="zv", level=1)
    assert_same(np.stack([ds[a].to_numpy() for a in "xyz"], axis=1), golden.truth["L1_positions"])


# -------------------------------------------------------------------------------------------------- copies, and what is missing in them


def test_directories_read_as_the_zips_do(golden, tmp_path):
    check_vertices(dzv.open(golden.unpacked(tmp_path / "s.zarrvectors")).level(0).read(), golden)


def test_a_refresh_changes_nothing(golden, tmp_path):
    path = golden.unpacked(tmp_path / "s.zarrvectors")
    documents = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    store = dzv.open(path, mode="r+").refresh()
    check_vertices(store.level(0).read(), golden)
    again = dzv.open(path)
    check_vertices(again.level(0).read(), golden)
    for number in again.levels[1:]:
        assert_same(again.level(number).read().positions, golden.truth[f"L{number}_positions"])
    assert {p: p.read_bytes() for p in documents} == documents


@pytest.mark.parametrize("name", ["points_zstd", "points_sharded", "points_bins_negative"])
def test_a_lost_cell_is_an_error_and_not_a_hole(name, tmp_path):
    """What `nonempty_chunks` names and is not there is damage: reading around it would be silence about lost points."""
    golden = GoldenPoints(f"golden_0.9/{name}")
    path = golden.unpacked(tmp_path / "s.zarrvectors")
    cells = sorted(p for p in (path / "0/vertices/c").rglob("*") if p.is_file())
    cells[len(cells) // 2].unlink()
    with pytest.raises(dzv.ZVError, match="vertices"):
        dzv.open(path).level(0).read()


@pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification")
def test_cells_that_no_list_names_are_not_read(tmp_path):
    """A writer that ended before its commit leaves such cells."""
    golden = GoldenPoints("golden_0.9/points_bins_negative")
    path = golden.unpacked(tmp_path / "s.zarrvectors")
    for node in ("vertices", "vertex_fragments", "vertex_attributes/q"):
        array = zarr.open_array(path / "0" / node, mode="r+")
        array.attrs["nonempty_chunks"] = [k for k in array.attrs["nonempty_chunks"] if k != "0.0.0"]
    positions = golden.read("positions")
    outside = ~((positions >= 0) & (positions < 40)).all(axis=1)
    assert not outside.all()
    with pytest.raises(dzv.FormatError, match="its metadata counts"):  # unless the level says that it has them
        dzv.open(path).level(0).read()
    level = zarr.open_group(path / "0", mode="r+")
    level.attrs["zarr_vectors_level"] = {**level.attrs["zarr_vectors_level"], "vertex_count": int(outside.sum())}
    geometry = dzv.open(path).level(0).read()
    assert_same(geometry.positions, positions[outside])
    assert_same(geometry.attributes["q"], golden.read("attr__q")[outside])


@pytest.mark.parametrize("value", ["nan", "smallest", "largest"])
def test_object_attributes_that_the_sentinel_calls_absent(value, tmp_path):
    """Rows of nothing but the fill value are masked; a row that has it in one component alone is not."""
    golden = GoldenPoints("golden_0.9/points_objects")
    path = golden.unpacked(tmp_path / "s.zarrvectors")
    group = zarr.open_group(path / "0" / "object_attributes", mode="r+")
    if value == "nan":
        group["vec"][3] = [np.nan, 1.0]
        group["vec"][5] = [np.nan, np.nan]
        group["score"][0] = np.nan
        masked = {"vec": [5], "score": [0], "label": []}
    elif value == "smallest":
        group["label"][7] = np.iinfo("i4").min
        group["label"][8] = np.iinfo("i4").min + 1
        masked = {"vec": [], "score": [], "label": [7]}
    else:
        group["label"][7] = np.iinfo("i4").max
        masked = {"vec": [], "score": [], "label": []}
    found = dzv.open(path).level(0).read().object_attributes
    for name, rows in masked.items():
        mask = np.ma.getmaskarray(found[name]).reshape(20, -1)
        assert np.flatnonzero(mask.all(axis=1)).tolist() == rows, name
        assert np.flatnonzero(mask.any(axis=1)).tolist() == rows, name
        rest = [i for i in range(20) if i not in rows]
        expected = group[name][...]
        assert_same(np.ma.getdata(found[name])[rest], expected[rest])
