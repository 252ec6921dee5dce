"""A level that stays open while others change it, and what damage in one chunk is told of."""

from __future__ import annotations

import json
import shutil
import tracemalloc

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from blob_encoders import encode_fragments

import dask_zv as dzv
from dask_zv.format.fragments import decode_fragments
from dask_zv.format.objects import encode_groups

RNG = np.random.default_rng(0)
BOUNDS = ((0, 0, 0), (30, 30, 30))


def replace_blob(folder, data):
    """Store other bytes in an array of one blob, as another tool does: its document says their number."""
    document = json.loads((folder / "zarr.json").read_text())
    document["shape"] = document["chunk_grid"]["configuration"]["chunk_shape"] = [len(data)]
    (folder / "zarr.json").write_text(json.dumps(document))
    (folder / "c" / "0").write_bytes(data)


def test_tables_of_per_chunk_are_read_as_they_are_now(tmp_path):
    """Nothing tells that such blobs were replaced, so neither they nor the dtype beside them may be remembered."""
    store = dzv.create(tmp_path / "s.zv", geometry="streamline", chunk_shape=(10, 10, 10), bounds=BOUNDS, layout="per_chunk")
    about = {"a": np.arange(4, dtype="f4")}
    dzv.write_polylines(
        store, RNG.uniform(0, 30, (40, 3)), lengths=[10] * 4, object_attributes=about, groups={0: [0, 1], 1: [2]}
    )
    level = dzv.open(tmp_path / "s.zv").level(0)
    assert {g: m.tolist() for g, m in level.read().groups.items()} == {0: [0, 1], 1: [2]}
    here = tmp_path / "s.zv" / "0"
    data, offsets = encode_groups([[3], [2]])
    replace_blob(here / "groups" / "data", data)
    replace_blob(here / "groups" / "offsets", offsets)
    replace_blob(here / "object_attributes" / "a" / "data", np.array([10, 20, 30, 40], "<i4").tobytes())
    document = here / "object_attributes" / "a" / "zarr.json"
    said = json.loads(document.read_text())
    said["attributes"] = {k: v for k, v in said["attributes"].items() if "crc" not in k} | {"dtype": "int32"}
    document.write_text(json.dumps(said))
    found = level.read()
    assert {g: m.tolist() for g, m in found.groups.items()} == {0: [3], 1: [2]}
    assert found.object_attributes["a"].tolist() == [10, 20, 30, 40]


@pytest.mark.parametrize("layout", ["grid", "per_chunk"])
def test_objects_of_a_dataset_whose_level_was_rewritten(layout, tmp_path):
    positions = RNG.uniform(0, 30, (100, 3))
    store = dzv.create(tmp_path / "s.zv", chunk_shape=(10, 10, 10), bounds=BOUNDS, layout=layout)
    dzv.write_points(store, positions, object_ids=np.arange(100) % 4)
    ds = xr.open_dataset(tmp_path / "s.zv", engine="zv")
    assert ds.zv.sel(objects=[1]).sizes["vertex"] == 25
    dzv.write_points(store, positions, object_ids=np.arange(100) % 5, mode="overwrite")
    for number in (1, 4):  # 4 is new: it isn't "no such object"
        with pytest.raises(dzv.FormatError, match="rewritten after it was opened: open it again"):
            ds.zv.sel(objects=[number]).load()


def test_a_code_of_no_category_is_told_by_its_chunk(tmp_path):
    store = dzv.create(tmp_path / "s.zv", chunk_shape=(10, 10, 10), bounds=BOUNDS)
    dzv.write_points(store, RNG.uniform(0, 30, (200, 3)), attributes={"c": np.array(["a", "b", "c"])[np.arange(200) % 3]})
    group = store.level(0).group
    data = bytearray(group.read_bytes("vertex_attributes/c", "1.2.0"))
    data[0] = 9
    group.write_bytes("vertex_attributes/c", "1.2.0", bytes(data))
    with pytest.raises(dzv.FormatError, match=r"code 9 of row 0 .*vertex_attributes/c, chunk 1\.2\.0"):
        _ = xr.open_dataset(tmp_path / "s.zv", engine="zv")["c"].values


def test_refresh_names_a_chunk_of_another_rank(tmp_path):
    store = dzv.create(tmp_path / "s.zv", chunk_shape=(10, 10, 10), bounds=BOUNDS, layout="per_chunk", shard_chunks=1)
    dzv.write_points(store, RNG.uniform(0, 30, (600, 3)))
    folder = tmp_path / "s.zv" / "0" / "vertices"
    shutil.copytree(folder / "0.0.0", folder / "0.0.0.0")
    with pytest.raises(dzv.FormatError, match=r"'0\.0\.0\.0': keys of rank 3 are wanted .*array vertices"):
        store.refresh()


def test_counting_the_vertices_of_objects_holds_no_row(tmp_path):
    """One chunk whose fragments list their rows makes no list of all rows of the level."""
    n = 400_000
    store = dzv.create(tmp_path / "s.zv", chunk_shape=(10, 10, 10), bounds=((0, 0, 0), (100, 100, 100)), shard_chunks=1000)
    dzv.write_points(store, RNG.random((n, 3), dtype="f4") * 100, object_ids=np.arange(n) % 4)
    group = store.level(0).group
    key = group.list_chunks("vertex_fragments")[0]
    index = decode_fragments(group.read_bytes("vertex_fragments", key))
    turned = [rows[::-1] for rows in np.split(index.all_rows(), np.cumsum(index.counts)[:-1])]
    group.write_bytes("vertex_fragments", key, encode_fragments(turned))
    root = zarr.open_group(str(tmp_path / "s.zv" / "0"), mode="r+")
    if "dask_zv_lengths" in root:
        del root["dask_zv_lengths"]
    level = dzv.open(tmp_path / "s.zv").level(0)
    _ = level.chunks, level._contents.index.ids
    from dask_zv.read.object_rows import count_lengths  # its memory shows nowhere else before tens of millions of rows

    with dask.config.set(scheduler="sync"):
        tracemalloc.start()
        lengths = count_lengths(level._contents.source, level.chunks, level._contents.index).lengths
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert lengths.tolist() == [n // 4] * 4
    assert peak < 8 * n
