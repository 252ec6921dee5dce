"""Point clouds that the 0.7 and 0.9 packages wrote, where test_golden_geometries asks no more: xarray, and what is missing in copies."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from golden_reference import Golden, golden_names
from points_reference import assert_same, in_box

import dask_zv as dzv


@pytest.mark.parametrize("chunks", [None, {}])
@pytest.mark.parametrize("name", golden_names(("point_cloud",)))
def test_xarray(name, chunks):
    golden = Golden(name)
    ds = xr.open_dataset(golden.path, engine="zv", chunks=chunks)
    positions = golden.positions[golden.order]
    box = np.percentile(positions.astype(np.float64), [20, 70], axis=0)
    inside = in_box(positions, box)
    selected = ds.zv.sel(bbox=box)
    for i, axis in enumerate(golden.store.axes):
        assert_same(ds[axis].to_numpy(), positions[:, i])
        assert_same(selected[axis].to_numpy(), positions[inside, i])
    along = {name for name in ds.data_vars if ds[name].dims[:1] == ("vertex",)}
    assert along - {"object_id", "object_index"} == set(golden.attributes)
    for attribute, values in golden.attributes.items():
        found, expected = ds[attribute].to_numpy(), values[golden.order]
        if values.dtype == object:  # xarray's own missing string is NaN
            missing = [v is None for v in expected]
            assert pd.isnull(found).tolist() == missing
            found = np.where(missing, None, found)
        assert_same(found.astype(values.dtype) if values.dtype.kind == "U" else found, expected, attribute)
    assert ("object_id" in ds) == (golden.owners is not None)
    if golden.owners is not None:
        assert_same(ds.object_id.to_numpy(), golden.owners[golden.order])


def test_coarser_levels_in_xarray():
    golden = Golden("golden_0.9/points_pyramid")
    ds = xr.open_dataset(golden.path, engine="zv", level=1)
    assert_same(np.stack([ds[a].to_numpy() for a in "xyz"], axis=1), golden.truth["L1_positions"])


def test_sparse_ids():
    """Ids are ids, not rows: 3, 7, 19, 41 and 100, and nothing between them."""
    level = Golden("golden_0.9/points_sparse_ids").store.level(0)
    geometry, part = level.read(), level.read(objects=[100, 7])
    for found, ids, values in (
        (geometry, [3, 7, 19, 41, 100], [1.5, 3.5, 9.5, 20.5, 50.0]),
        (part, [7, 100], [3.5, 50.0]),
    ):
        assert found.object_index.tolist() == sorted(set(found.object_ids.tolist())) == ids
        assert found.object_attributes["w"].tolist() == values
    assert {g: m.tolist() for g, m in geometry.groups.items()} == {0: [3, 100], 1: list(range(3, 20)), 2: [], 3: [41]}
    for unknown in (0, 4, 99, 101, 2**40):
        with pytest.raises(dzv.NotFoundError, match=str(unknown)):
            level.read(objects=[7, unknown])


@pytest.mark.parametrize("name", ["points_zstd", "points_sharded", "points_bins_negative"])
def test_a_lost_cell_is_an_error_and_not_a_hole(name, tmp_path):
    """What `nonempty_chunks` names and is not there is damage: reading around it would be silence about lost points."""
    path = Golden(f"golden_0.9/{name}").unpacked(tmp_path / "s.zarrvectors")
    cells = sorted(p for p in (path / "0/vertices/c").rglob("*") if p.is_file())
    cells[len(cells) // 2].unlink()
    with pytest.raises(dzv.ZVError, match="vertices"):
        dzv.open(path).level(0).read()


@pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification")
def test_cells_that_no_list_names_are_not_read(tmp_path):
    """A writer that ended before its commit leaves such cells."""
    golden = Golden("golden_0.9/points_bins_negative")
    path = golden.unpacked(tmp_path / "s.zarrvectors")
    for node in ("vertices", "vertex_fragments", "vertex_attributes/q"):
        array = zarr.open_array(path / "0" / node, mode="r+")
        array.attrs["nonempty_chunks"] = [k for k in array.attrs["nonempty_chunks"] if k != "0.0.0"]
    positions = golden.positions[golden.order]
    outside = ~((positions >= 0) & (positions < 40)).all(axis=1)
    assert not outside.all()
    with pytest.raises(dzv.FormatError, match="its metadata counts"):  # unless the level says that it has them
        dzv.open(path).level(0).read()
    level = zarr.open_group(path / "0", mode="r+")
    level.attrs["zarr_vectors_level"] = {**level.attrs["zarr_vectors_level"], "vertex_count": int(outside.sum())}
    geometry = dzv.open(path).level(0).read()
    assert_same(geometry.positions, positions[outside])
    assert_same(geometry.attributes["q"], golden.attributes["q"][golden.order][outside])


LEAST, GREATEST = np.iinfo("i4").min, np.iinfo("i4").max


@pytest.mark.parametrize(
    ("edits", "masked"),
    [
        ({("vec", 3): [np.nan, 1.0], ("vec", 5): [np.nan, np.nan], ("score", 0): np.nan}, {"vec": [5], "score": [0]}),
        ({("label", 7): LEAST, ("label", 8): LEAST + 1}, {"label": [7]}),
        ({("label", 7): GREATEST}, {}),
    ],
    ids=["nan", "smallest", "largest"],
)
def test_object_attributes_that_the_sentinel_calls_absent(edits, masked, tmp_path):
    """Rows of nothing but the fill value are masked; a row that has it in one component alone is not."""
    path = Golden("golden_0.9/points_objects").unpacked(tmp_path / "s.zarrvectors")
    group = zarr.open_group(path / "0" / "object_attributes", mode="r+")
    for (name, row), value in edits.items():
        group[name][row] = value
    found = dzv.open(path).level(0).read().object_attributes
    for name in ("vec", "score", "label"):
        rows = masked.get(name, [])
        mask = np.ma.getmaskarray(found[name]).reshape(20, -1)
        assert np.flatnonzero(mask.all(axis=1)).tolist() == np.flatnonzero(mask.any(axis=1)).tolist() == rows, name
        rest = [i for i in range(20) if i not in rows]
        assert_same(np.ma.getdata(found[name])[rest], group[name][...][rest])
