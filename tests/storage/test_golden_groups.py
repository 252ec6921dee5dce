"""The golden stores of ZV 0.7 at the Group level: every blob, against an independent decode through plain Zarr."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import zarr
from refusals import fails
from zarr.storage import LocalStore, ZipStore

import dask_zv as dzv
from dask_zv.format.keys import parse_key

GOLDEN = Path(__file__).parents[1] / "data" / "golden_0.7"
STORES = sorted([*GOLDEN.glob("*.zarrvectors"), *GOLDEN.glob("*.zarrvectors.zip")])


class Truth:
    """What plain Zarr finds in a store, node by node, without any code of ours."""

    def __init__(self, path):
        store = ZipStore(path, mode="r") if path.suffix == ".zip" else LocalStore(path, read_only=True)
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                keys = archive.namelist()
        else:
            keys = [found.relative_to(path).as_posix() for found in path.rglob("*") if found.is_file()]
        self.nodes = sorted(key.removesuffix("zarr.json").rstrip("/") for key in keys if key.endswith("zarr.json"))
        root = zarr.open_group(store, mode="r", use_consolidated=False)
        self.groups = {"": dict(root.attrs)}
        self.blobs = {}  # array path -> key -> bytes
        self.others = {}  # array path -> names of arrays that are no blobs
        for node in self.nodes:
            if not node:
                continue
            found = root[node]
            if isinstance(found, zarr.Group):
                self.groups[node] = dict(found.attrs)
                continue
            array, _, key = node.rpartition("/")
            if found.dtype != np.dtype("uint8"):
                self.others.setdefault(array, set()).add(key)
                continue
            data = found[...].tobytes()
            blobs = self.blobs.setdefault(array, {})
            if key.startswith("__shard_"):
                for name, (offset, nbytes) in found.attrs["shard_index"].items():
                    blobs.setdefault(name, data[offset : offset + nbytes])
            else:
                blobs[key] = data
        store.close()

    @property
    def levels(self):
        return sorted(name for name in self.groups if name.isdigit())

    def missing_groups(self):
        """Return the paths between nodes that have no node of their own (FORMAT.md A.1)."""
        between = {"/".join(n.split("/")[:i]) for n in self.nodes for i in range(1, n.count("/") + 1)}
        return sorted(between - set(self.nodes))


@pytest.fixture(scope="module", params=STORES, ids=lambda p: p.name.split(".")[0])
def golden(request):
    return dzv.open_group(request.param, "r"), Truth(request.param)


def test_there_are_golden_stores():
    assert len(STORES) >= 20


def test_every_blob_alone_and_in_one_batch_of_reads(golden):
    group, truth = golden
    assert truth.blobs
    for array, blobs in truth.blobs.items():
        for key, expected in blobs.items():
            assert group.read_bytes(array, key) == expected, (array, key)
            assert group.chunk_exists(array, key)
    level = group["0"]
    arrays = {array.removeprefix("0/"): blobs for array, blobs in truth.blobs.items() if array.startswith("0/")}
    with level.batched_reads([(array, list(blobs)) for array, blobs in arrays.items()]):
        for array, blobs in arrays.items():
            assert {key: level.read_bytes(array, key) for key in blobs} == blobs


def test_listing_is_what_is_on_disk(golden):
    group, truth = golden
    for array in {*truth.blobs, *truth.others} - {""}:
        expected = {*truth.blobs.get(array, ()), *truth.others.get(array, ())}
        listed = group.list_chunks(array)
        assert sorted(listed) == sorted(expected), array
        spatial = [key for key in listed if key.replace(".", "").replace("-", "").isdigit()]
        assert [parse_key(k) for k in spatial] == sorted(parse_key(k) for k in spatial)
    for array in truth.groups:
        if array and array not in truth.blobs and array not in truth.others:
            assert group.list_chunks(array) == [], array


def test_arrays_that_are_no_blobs_are_refused(golden, no_waiting):
    group, truth = golden
    for array, names in truth.others.items():
        for name in names:
            fails(dzv.FormatError, name, group.read_bytes, array, name)


def test_attributes_and_levels_are_as_stored(golden):
    group, truth = golden
    assert group.attrs.to_dict() == truth.groups[""]
    for path, attributes in truth.groups.items():
        if path:
            assert group[path].attrs.to_dict() == attributes
            assert group.read_array_meta(path) == attributes
    assert [name for name in group if name.isdigit()] == truth.levels


def test_groups_without_a_node_exist(golden):
    group, truth = golden
    for path in truth.missing_groups():
        assert path in group
        above, _, name = path.rpartition("/")
        assert name in list(group[above] if above else group)
        assert group.read_array_meta(path) == {}
        assert group.array_exists(path)
        children = {n.removeprefix(f"{path}/").split("/")[0] for n in truth.nodes if n.startswith(f"{path}/")}
        assert set(group[path]) == {c for c in children if f"{path}/{c}" in {*truth.groups, *truth.missing_groups()}}


def test_some_golden_store_has_each_peculiarity():
    truths = [Truth(path) for path in STORES]
    assert any(t.missing_groups() for t in truths)
    assert any(n.rpartition("/")[2].startswith("__shard_") for t in truths for n in t.nodes)
    assert any(key.startswith("-") for t in truths for blobs in t.blobs.values() for key in blobs)
    assert any("data" in blobs for t in truths for blobs in t.blobs.values())


def test_an_all_zero_chunk_of_the_default_pipeline(tmp_path):
    """No golden store has one: plain Zarr's own pipeline leaves the data object out."""
    root = zarr.open_group(tmp_path / "s.zv", mode="w")
    root.create_group("0/vertices")
    for key, data in (("0.0.0", bytes(24)), ("1.0.0", b"\x01" * 24)):
        node = root.create_array(f"0/vertices/{key}", shape=(24,), chunks=(24,), dtype="uint8")
        node[:] = np.frombuffer(data, "uint8")
    assert not (tmp_path / "s.zv/0/vertices/0.0.0/c").exists()
    group = dzv.open_group(tmp_path / "s.zv", "r")["0"]
    assert group.read_bytes("vertices", "0.0.0") == bytes(24)
    assert group.read_bytes("vertices", "1.0.0") == b"\x01" * 24
    assert group.chunk_exists("vertices", "0.0.0")
    with group.batched_reads([("vertices", ["0.0.0", "1.0.0"])]):
        assert group.read_bytes("vertices", "0.0.0") == bytes(24)
