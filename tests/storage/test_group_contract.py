"""Every row of the Group contract, on every store, in both layouts; what is peculiar to ``grid`` is in test_grid_contract."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path

import dask
import numpy as np
import pytest
import zarr
from counting_store import RecordingStore
from layouts import LAYOUTS, per_chunk_only
from refusals import fails
from zarr.storage import ZipStore

import dask_zv as dzv

pytestmark = pytest.mark.contract

KEYS = ["-1.0.0", "0.0.0", "0.0.2", "0.0.10", "2.0.0", "10.0.0"]
"""In numeric order, which is not that of the strings."""


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return request.param


def plain_blob(root, path, data, **kwargs):
    """Write a blob as any other Zarr program does: Zarr's default pipeline is one Zstandard frame."""
    node = root.create_array(path, shape=(len(data),), chunks=(max(len(data), 1),), dtype="uint8", **kwargs)
    if data:
        node[:] = np.frombuffer(data, "uint8")
    return node


def test_attrs_convert_numpy_and_nested_values(store):
    attrs = store.open().attrs
    attrs["scalar"] = np.float32(0.5)
    attrs["flag"] = np.bool_(True)
    attrs["array"] = np.arange(4, dtype=np.int16).reshape(2, 2)
    attrs.update({"nested": {"a": [(1, np.int64(2)), {"b": np.array(3.5)}]}, "text": np.str_("µm"), "none": None})
    expected = {
        "scalar": 0.5,
        "flag": True,
        "array": [[0, 1], [2, 3]],
        "nested": {"a": [[1, 2], {"b": 3.5}]},
        "text": "µm",
        "none": None,
    }
    assert {k: v for k, v in attrs.to_dict().items() if k != "dask_zv"} == {k: attrs[k] for k in expected} == expected
    assert attrs["flag"] is True
    assert "none" in attrs
    assert "absent" not in attrs
    assert attrs.get("absent", 7) == 7
    fails(KeyError, "absent", lambda: attrs["absent"])
    assert dict(store.root().attrs) == attrs.to_dict()
    group = store.open()
    value = {1: {True: "a", None: "b"}, 2.5: [{np.int64(-3): 4}], "text": 5}
    group.attrs["nested"] = value
    group.write_array_meta("vertices", {"nested": value})
    expected = json.loads(json.dumps({**value, 2.5: [{-3: 4}]}))
    assert group.attrs["nested"] == expected
    assert group.read_array_meta("vertices")["nested"] == expected


def test_attrs_refuse_what_json_cannot_hold(store):
    group = store.open()
    group.attrs["kept"] = 1
    before = store.dump()
    odd = (object(), {1, 2}, b"bytes", float("nan"), np.array([np.inf]), np.datetime64("2026-01-01"), 1j)
    for value in (*odd, {(1, 2): 3}, {1: 2, "1": 3}):
        with pytest.raises(TypeError, match="'mass'"):
            group.attrs["mass"] = value
        fails(TypeError, "'mass", group.attrs.update, {"fine": 1, "mass": [{"deep": value}]})
        fails(TypeError, "mass", group.write_array_meta, "vertices", {"mass": value})
    fails(TypeError, "string", group.attrs.update, {3: 1})
    assert store.dump() == before


def test_names_that_cannot_be_are_absent(store):
    group = store.open()
    group.write_bytes("vertices", "0.0.0", b"abc")
    impossible = ["", "/", "a/", "/vertices", "..", "a/../vertices", "a//b", "a\\b", "a\x00", "\ud800", "zarr.json", "n" * 300,
                  "__shard_000000", "vertices/__shard_000000", None, 0, 1.5, b"vertices", (), ["vertices"]]  # fmt: skip
    for name in impossible:
        assert name not in group, name
        assert name not in group.attrs
        assert not group.array_exists(name)
        assert not group.chunk_exists(name, "0.0.0"), name
        assert not group.chunk_exists("vertices", name), name
    assert group.chunk_exists("vertices", "0.0.0")


def test_reading_a_node_of_another_kind_is_a_store_error_that_names_the_kind(store):
    group = store.open()
    group.write_bytes("vertices", "0.0.0", b"abc")
    root = store.root()
    root.create_array("plain", shape=(2, 3), chunks=(2, 3), dtype="uint8")[:] = 7
    group.require_group("sub/inner")
    cases = [("plain", "0.0", "2-D Array"), ("sub", "inner", "Group")]
    if store.layout == "per_chunk":
        root["vertices"].create_array("0.0.1", shape=(2, 3), chunks=(2, 3), dtype="uint8")[:] = 7
        root["vertices"].require_group("0.0.2")
        cases += [("vertices", "0.0.1", "2-D Array"), ("vertices", "0.0.2", "Group")]
    for array, key, kind in cases:
        with pytest.raises(dzv.StoreError, match=kind) as caught:
            group.read_bytes(array, key)
        assert "damaged" not in str(caught.value)
        assert not isinstance(caught.value, dzv.MetadataError)
    assert group.read_bytes("vertices", "0.0.0") == b"abc"


def test_messages_have_the_words_that_programs_match(store):
    group = store.open()
    fails(dzv.StoreError, "not found", lambda: group["absent"])
    fails(dzv.StoreError, "not found", group.read_bytes, "absent", "0.0.0")
    fails(KeyError, r"'links'.*/0", lambda: group.create_group("0")["links"])
    group.write_bytes("vertices", "0.0.0", b"12")
    node = "vertices/0.0.0" if store.layout == "per_chunk" else "vertices"
    fails(dzv.StoreError, "Array", lambda: group[node])
    fails(dzv.StoreError, "Array", group.require_group, f"{node}/below")
    with group.batched_writes(), pytest.raises(dzv.StoreError, match="does not support nesting"), group.batched_writes():
        pass
    with group.batched_reads([]), pytest.raises(dzv.StoreError, match="does not support nesting"), group.batched_reads([]):
        pass


@pytest.mark.parametrize("way", ["single", "batch"])
def test_an_array_that_another_handle_removed_gets_its_document_again(store, way):
    group, other = store.open(), store.open()
    group.write_bytes("a/vertices", "0.0.0", b"old")
    group.write_bytes("a/vertices", "0.0.1", b"old")
    other.delete_subtree("a")
    assert "a/vertices" not in group
    if way == "single":
        group.write_bytes("a/vertices", "0.0.1", b"new")
    else:
        with group.batched_writes():
            group.write_bytes("a/vertices", "0.0.1", b"new")
    for reader in (group, other, store.open()):
        assert "a" in reader
        assert reader.array_exists("a/vertices")
        assert reader.list_chunks("a/vertices") == ["0.0.1"]
        assert reader.read_bytes("a/vertices", "0.0.1") == b"new"
    assert "vertices" in dict(store.root()["a"].members())


def test_groups_are_made_found_and_listed(store):
    group = store.open()
    child = group.create_group("b")
    child.attrs["x"] = 1
    assert group.create_group("b").attrs["x"] == 1
    assert group.require_group("b").attrs["x"] == 1
    assert group.require_group("a/deep").prefix == "a/deep"
    group.write_bytes("b/vertices", "0.0.0", b"12")
    assert list(group) == ["a", "b"]
    assert [n for n in ("a", "a/deep", "b/vertices", "c", 3) if n in group] == ["a", "a/deep", "b/vertices"]
    if store.layout == "per_chunk":  # there an array of blobs is a group
        assert list(group["b"]) == ["vertices"]
        assert list(group["b/vertices"]) == []
        assert "b/vertices/0.0.0" in group
    else:
        assert list(group["b"]) == []
    assert group["a"]["deep"].prefix == "a/deep"
    assert group["a/deep"].prefix == "a/deep"
    assert sorted(store.root().group_keys()) == ["a", "b"]


def test_group_without_a_node_of_its_own_exists(store):
    """ZV 0.7 writers leave out intermediate nodes (FORMAT.md A.1)."""
    group = store.open()
    group.write_bytes("0/links/0", "0.0.0", b"12")
    store.need("documents of any bytes")
    store.delete("0/links/zarr.json")
    store.delete("0/zarr.json")
    group = store.open()
    assert "0/links" in group
    assert (list(group), list(group["0"])) == (["0"], ["links"])
    assert group["0"].attrs.to_dict() == {}
    assert group["0/links"].zarr_group.path == "0/links"
    assert group["0"]["links"].read_bytes("0", "0.0.0") == b"12"
    assert group.array_exists("0/links/0")
    assert group.read_array_meta("0/links") == {}
    group["0"].attrs["made"] = 1
    assert store.open()["0"].attrs.to_dict() == {"made": 1}


def test_delete_subtree(store):
    group = store.open()
    for array, key in (("0/vertices", "0.0.0"), ("0/vertices", "1.0.0"), ("0/verticesmore", "0.0.0")):
        group.write_bytes(array, key, b"34")
    for name in ("0/vertices", "0/vertices", "absent"):
        group.delete_subtree(name)
    assert "0/verticesmore" in group
    assert "0/vertices" not in group
    assert group.list_chunks("0/vertices") == []
    assert group.read_bytes("0/verticesmore", "0.0.0") == b"34"
    group.write_bytes("0/vertices", "2.0.0", b"56")
    assert group.list_chunks("0/vertices") == ["2.0.0"]
    cell = "2.0.0" if store.layout == "per_chunk" else "c/6/4/4"
    assert [k for k in store.list_keys() if "/vertices/" in k and cell not in k] == ["0/vertices/zarr.json"]


def test_blobs_are_exactly_what_was_written_and_replaced_by_other_lengths(store):
    group = store.open()
    payloads = {
        "0.0.0": b"\x00\x01\xff" * 5,
        "2.0.0": bytes(32),
        "3.0.0": bytearray(b"abc"),
        "4.0.0": memoryview(b"xabcx")[1:4],
        "5.0.0": memoryview(b"a-b-c-")[::2],
        "6.0.0": np.arange(6, dtype="<f4").reshape(2, 3),
    }
    if store.layout == "per_chunk":
        payloads |= {"1.0.0": b"", "7.0.0": np.zeros((0, 3))}
    for key, data in payloads.items():
        group.write_bytes("vertices", key, data)
    again = store.open("r")
    for key, data in payloads.items():
        expected = data.tobytes() if isinstance(data, np.ndarray) else bytes(data)
        found = again.read_bytes("vertices", key)
        assert type(found) is bytes
        assert found == expected
        assert again.chunk_exists("vertices", key)
        if store.layout == "grid":
            x = int(key[0]) + 4
            assert store.root()["vertices"][x : x + 1, 4:5, 4:5].item() == expected
            continue
        if expected:  # we always store the data object, also of zeros
            assert store.get(f"vertices/{key}/c/0") == expected
        assert store.root()[f"vertices/{key}"][...].tobytes() == expected
    group = store.open()
    empty = [b""] if store.layout == "per_chunk" else []
    for data in (b"a" * 100, b"b" * 7, *empty, b"c" * 300, b"d" * 300, b"e"):
        group.write_bytes("vertices", "0.0.0", data)
        assert group.read_bytes("vertices", "0.0.0") == data
        assert store.open("r").read_bytes("vertices", "0.0.0") == data
        if store.layout == "per_chunk":
            assert store.get("vertices/0.0.0/c/0") == (data or None)
        else:
            assert store.get("vertices/c/4/4/4") == struct.pack("<II", 1, len(data)) + data


def test_payloads_of_other_kinds_are_refused(store):
    group = store.open()
    before = store.dump()
    for data in ("text", 3, [1, 2], None, np.arange(6).reshape(2, 3).T, np.array([object()])):
        fails(dzv.StoreError, r"payload", group.write_bytes, "vertices", "0.0.0", data)
    assert store.dump() == before


@per_chunk_only
def test_literal_keys_and_groups_below_an_array(store):
    """`vertex_attributes` holds arrays (groups in this layout), not blobs, whatever their attributes say."""
    group = store.open()
    group.write_bytes("vertex_attributes/mass", "0.0.0", b"12")
    group.write_array_meta("vertex_attributes/mass", {"kind": "array", "node_type": "array"})
    assert group.list_chunks("vertex_attributes") == []
    assert not group.chunk_exists("vertex_attributes", "mass")
    for key in ("data", "offsets", "present_mask"):
        group.write_bytes("object_attributes/w", key, key.encode())
    group.write_bytes("object_attributes/w", "3.0", b"spatial")
    assert group.list_chunks("object_attributes/w") == ["3.0", "data", "offsets", "present_mask"]
    assert group.read_bytes("object_attributes/w", "offsets") == b"offsets"


def test_listing_is_in_numeric_order(store):
    group = store.open()
    for key in sorted(KEYS, reverse=True):
        group.write_bytes("vertices", key, key.encode())
    assert group.list_chunks("vertices") == KEYS
    assert store.open("r").list_chunks("vertices") == KEYS
    assert group.list_chunks("absent") == []
    assert [group.read_bytes("vertices", key).decode() for key in KEYS] == KEYS


def test_absent_blobs_name_array_key_and_path_and_other_payloads_are_refused(store):
    group = store.level("0")
    group.write_bytes("vertices", "0.0.0", b"12")
    with pytest.raises(dzv.StoreError) as caught:
        group.read_bytes("vertices", "9.0.0")
    assert isinstance(caught.value, KeyError)
    for fact in ("vertices", "9.0.0", "/0/vertices"):
        assert fact in str(caught.value)
    fails(dzv.StoreError, "absent", group.read_bytes, "absent", "0.0.0")
    assert not group.chunk_exists("vertices", "9.0.0")
    assert not group.chunk_exists("absent", "0.0.0")


NAMES = ["", "..", "a/../b", "/abs", "a//b", "a/", ".", "a\\b", "a\nb", "a\x00", "zarr.json", 3, None]


def test_bad_names_are_refused_before_anything_is_written(store):
    group = store.open()
    group.write_bytes("vertices", "0.0.0", b"12")
    before = store.dump()
    for name in NAMES:
        calls = [
            lambda n: group.write_bytes(n, "0.0.0", b"1"),
            lambda n: group.write_bytes("vertices", n, b"1"),
            lambda n: group.read_bytes(n, "0.0.0"),
            lambda n: group.read_bytes("vertices", n),
            lambda n: group.list_chunks(n),
            lambda n: group.write_array_meta(n, {"a": 1}),
            lambda n: group.read_array_meta(n),
            lambda n: group.create_group(n),
            lambda n: group.require_group(n),
            lambda n: group.delete_subtree(n),
            lambda n: group[n],
            lambda n: dzv.Group.from_backend(group.backend, n or "/"),
        ]
        for call in calls:
            fails(dzv.StoreError, r"name|key|prefix", call, name)
    with pytest.raises(RuntimeError, match="drop"), group.batched_writes() as batch:  # noqa: PT012 - it ends with the batch
        for name in NAMES:
            fails(dzv.StoreError, None, group.write_bytes, name, "0.0.0", b"1")
            fails(dzv.StoreError, None, group.write_array_meta, name, {"a": 1})
            fails(dzv.StoreError, None, batch.write_bytes, "vertices", name, b"1")
        raise RuntimeError("drop")
    assert store.dump() == before


def test_names_that_are_ours_are_refused(store):
    group = store.open()
    for key in ("__shard_000001", "__shard_x", "a/b"):
        fails(ValueError, "chunk key", group.write_bytes, "vertices", key, b"1")
    fails(dzv.StoreError, "dask_zv_catalog", group.write_bytes, "dask_zv_catalog", "data", b"1")
    with group.batched_writes() as batch, pytest.raises(dzv.StoreError, match="dask_zv_catalog"):
        batch.write_bytes("0/dask_zv_catalog", "data", b"1")
    assert [k for k in store.list_keys() if k != "zarr.json"] == []


@per_chunk_only
def test_shards_of_ours(store):
    group = store.open()
    payloads = {key: key.encode() * (i + 1) for i, key in enumerate(KEYS)} | {"3.3.3": b""}
    with group.batched_writes(shards=64):
        for key, data in payloads.items():
            group.write_bytes("vertices", key, data)
    names = {k.split("/")[1] for k in store.list_keys() if k.startswith("vertices/") and k.count("/") > 1}
    assert all(n.startswith("__shard_") for n in names)
    for reader in (group, store.open("r")):
        assert {k: reader.read_bytes("vertices", k) for k in payloads} == payloads
        assert reader.list_chunks("vertices") == ["-1.0.0", "0.0.0", "0.0.2", "0.0.10", "2.0.0", "3.3.3", "10.0.0"]
        assert reader.chunk_exists("vertices", "3.3.3")
        assert not reader.chunk_exists("vertices", "4.4.4")
    for name in names:  # the bytes codec alone, so that ranges can be read
        document = json.loads(store.get(f"vertices/{name}/zarr.json"))
        assert [codec["name"] for codec in document["codecs"]] == ["bytes"]
        assert set(document["attributes"]["shard_index"]) <= set(payloads)
        data = store.root()[f"vertices/{name}"][...].tobytes()
        for key, (offset, nbytes) in document["attributes"]["shard_index"].items():
            assert data[offset : offset + nbytes] == payloads[key]


@per_chunk_only
def test_shards_of_others(store):
    """As the ZV 0.7 package packs them: Zarr's default pipeline, one Zstandard frame around everything."""
    root = store.root()
    root.create_group("vertices")
    payloads = {"0.0.0": b"abc" * 10, "0.0.10": b"", "-1.0.0": b"defg", "7.0.0": bytes(20)}
    index, offset = {}, 0
    for key in sorted(payloads):
        index[key] = [offset, len(payloads[key])]
        offset += len(payloads[key])
    node = plain_blob(root, "vertices/__shard_000003", b"".join(payloads[k] for k in sorted(payloads)))
    node.attrs["shard_index"] = index
    zeros = plain_blob(root, "vertices/__shard_000004", bytes(8))  # nothing but zeros: no data object
    zeros.attrs["shard_index"] = {"8.0.0": [0, 8]}
    assert store.get("vertices/__shard_000004/c/0") is None
    group = store.open()
    assert group.list_chunks("vertices") == ["-1.0.0", "0.0.0", "0.0.10", "7.0.0", "8.0.0"]
    assert {k: group.read_bytes("vertices", k) for k in payloads} == payloads
    assert group.read_bytes("vertices", "8.0.0") == bytes(8)
    assert group.chunk_exists("vertices", "7.0.0")
    group.write_bytes("vertices", "7.0.0", b"plain wins")
    assert store.open("r").read_bytes("vertices", "7.0.0") == b"plain wins"
    assert store.open("r").list_chunks("vertices") == ["-1.0.0", "0.0.0", "0.0.10", "7.0.0", "8.0.0"]


@per_chunk_only
def test_shards_of_ours_that_others_packed_again(store):
    """A copy by plain Zarr keeps the attributes, checksums included, and compresses the bytes."""
    group = store.open()
    with group.batched_writes(shards=8):
        for key in ("0.0.0", "1.0.0", "0.1.0"):
            group.write_bytes("vertices", key, key.encode() * 50)
    node = store.root()["vertices/__shard_000000"]
    data, attributes = node[...], dict(node.attrs)
    group.delete_subtree("vertices/__shard_000000")
    plain_blob(store.root(), "vertices/__shard_000000", data.tobytes()).attrs.update(attributes)
    again = store.open("r")
    for key in ("0.0.0", "1.0.0", "0.1.0"):
        assert again.read_bytes("vertices", key) == key.encode() * 50


@per_chunk_only
def test_a_shard_whose_index_points_outside_is_an_error(store):
    root = store.root()
    for i, entry in enumerate([[0, 99], [-1, 2], [0], "0-2", [0.0, 2], [True, 1], None]):
        root.create_group(f"v{i}")
        plain_blob(root, f"v{i}/__shard_000000", b"abcdef").attrs["shard_index"] = {"0.0.0": entry}
        with pytest.raises(dzv.FormatError, match="__shard_000000"):
            store.open("r").read_bytes(f"v{i}", "0.0.0")


def test_array_metadata_is_merged(store):
    group = store.open()
    assert group.read_array_meta("vertices") == {}
    assert not group.array_exists("vertices")
    group.write_array_meta("vertices", {"dtype": "float32", "n": np.int64(3)})
    assert group.array_exists("vertices")
    assert group.list_chunks("vertices") == []
    group.write_bytes("vertices", "0.0.0", b"12")
    group.write_array_meta("vertices", {"encoding": "raw", "n": 4})
    with group.batched_writes():
        group.write_array_meta("vertices", {"batched": (1, 2), "n": 6})
        group.write_array_meta("vertices", {"n": 5})
        group.write_array_meta("deep/er", {"a": 1})
        assert group.read_array_meta("vertices")["n"] == 4
    expected = {"dtype": "float32", "n": 5, "encoding": "raw", "batched": [1, 2]}
    if store.layout == "grid":
        expected |= {"chunk_grid_origin": [-4, -4, -4], "nonempty_chunks": ["0.0.0"]}
    assert store.open("r").read_array_meta("vertices") == expected
    assert dict(store.root()["vertices"].attrs) == expected
    assert store.open("r").read_array_meta("deep/er") == {"a": 1}
    assert group.read_bytes("vertices", "0.0.0") == b"12"
    store.root().create_array("manifests", shape=(4,), dtype="i4")[:] = [1, 2, 3, 4]
    group.write_array_meta("manifests", {"a": 1})  # of a Zarr array of other values, which stays
    assert list(store.root()["manifests"][:]) == [1, 2, 3, 4]
    assert group.read_array_meta("manifests") == {"a": 1}


def test_path_url_prefix_repr_and_any_zarr_group(store):
    group = store.open().create_group("0")
    assert group.prefix == "0"
    assert repr(group) == f"Group({group.url!r})"
    assert group.url.endswith("/0") or group.url.endswith(")/0")
    assert group.zarr_group.path == "0"
    assert isinstance(group.zarr_group, zarr.Group)
    assert group.backend.url
    if store.name.startswith("local"):
        assert isinstance(group.path, Path)
        assert (group.path / "zarr.json").is_file()
        assert group.url == group.path.as_uri()
        assert repr(group) == f"Group('{group.path.as_uri()}')"
    else:
        with pytest.raises(dzv.StoreError, match="url"):
            group.path  # noqa: B018
    made = store.open()
    made.write_bytes("0/vertices", "0.0.0", b"12")
    node = zarr.open_group(store.plain, path="0", mode="r+", use_consolidated=False)
    group = dzv.Group(node)
    assert group.prefix == "0"
    assert group.read_bytes("vertices", "0.0.0") == b"12"
    assert group.zarr_group == node
    group.write_bytes("vertices", "1.0.0", b"34")
    assert made.read_bytes("0/vertices", "1.0.0") == b"34"


def test_backend_gives_a_writable_group_back(store):
    store.level("0").write_bytes("vertices", "0.0.0", b"12")
    group = store.open("r")
    fails(PermissionError, None, group.write_bytes, "0/vertices", "0.0.0", b"34")
    fails(dzv.ReadOnlyError, None, group.create_group, "new")
    with pytest.raises(dzv.ReadOnlyError):
        group.attrs["a"] = 1
    fails(dzv.ReadOnlyError, None, group.delete_subtree, "0")
    with pytest.raises(dzv.ReadOnlyError), group.batched_writes():
        raise AssertionError("the batch must not open")
    assert group.require_group("0").read_bytes("vertices", "0.0.0") == b"12"
    backend = group.backend
    del group
    again = dzv.Group.from_backend(backend, prefix="0")
    again.write_bytes("vertices", "0.0.0", b"345")
    assert store.open("r").read_bytes("0/vertices", "0.0.0") == b"345"
    assert dzv.Group.from_backend(backend).prefix == ""
    backend.close()
    assert again.read_bytes("vertices", "0.0.0") == b"345"


def test_pickling_goes_through_the_handle(store):
    group = store.level("0")
    group.write_bytes("vertices", "0.0.0", b"12")
    store.need("pickling")
    copy = pickle.loads(pickle.dumps(group))
    assert copy.prefix == "0"
    assert copy.url == group.url
    copy.write_bytes("vertices", "1.0.0", b"34")
    assert group.read_bytes("vertices", "1.0.0") == b"34"
    assert store.open("r").list_chunks("0/vertices") == ["0.0.0", "1.0.0"]


def test_icechunk_sessions_and_pickling(make_store):
    group = make_store("icechunk").open()
    fails(dzv.PlanError, r"fork", pickle.dumps, group)
    store = make_store("icechunk")
    with store.open().batched_writes(shards=4) as batch:
        for i in range(8):
            batch.write_bytes("vertices", f"{i}.0.0", bytes([i]) * (i + 1))
    store.target.commit("written")
    session = store.keep[0].readonly_session("main")
    group = pickle.loads(pickle.dumps(dzv.open_group(session, "r")))
    assert [len(group.read_bytes("vertices", f"{i}.0.0")) for i in range(8)] == list(range(1, 9))
    fails(dzv.ReadOnlyError, None, dzv.open_group, session, "r+")
    fails(dzv.ReadOnlyError, None, lambda: dzv.Group.from_backend(group.backend).write_bytes("vertices", "0.0.0", b"1"))


@per_chunk_only
def test_zarrs_default_pipeline_is_read(store):
    root = store.root()
    root.create_group("vertices")
    payloads = {"0.0.0": b"abc" * 10, "1.0.0": bytes(24), "2.0.0": b"", "3.0.0": bytes(300), "4.0.0": b"x" * 70_000}
    for key, data in payloads.items():
        plain_blob(root, f"vertices/{key}", data)
    assert store.get("vertices/1.0.0/c/0") is None  # all zeros: Zarr stores no data object
    group = store.open()
    assert {k: group.read_bytes("vertices", k) for k in payloads} == payloads
    assert group.list_chunks("vertices") == list(payloads)
    for key, data in payloads.items():  # and replaced by ours
        group.write_bytes("vertices", key, data[::-1] + b"!")
        assert group.read_bytes("vertices", key) == data[::-1] + b"!"


@per_chunk_only
def test_other_pipelines_are_read_through_zarr(store, no_waiting):
    root = store.root()
    root.create_group("vertices")
    data = bytes(range(100))
    plain_blob(root, "vertices/0.0.0", data, compressors=zarr.codecs.GzipCodec())
    cut = root.create_array("vertices/1.0.0", shape=(100,), chunks=(30,), dtype="uint8", compressors=None)
    cut[:] = np.frombuffer(data, "uint8")
    sparse = root.create_array("vertices/2.0.0", shape=(100,), chunks=(50,), dtype="uint8")
    sparse[:50] = np.frombuffer(data[:50], "uint8")  # the second half has no object: zeros, in the default pipeline
    group = store.open()
    assert group.read_bytes("vertices", "0.0.0") == data
    assert group.read_bytes("vertices", "1.0.0") == data
    assert group.read_bytes("vertices", "2.0.0") == data[:50] + bytes(50)
    store.delete("vertices/1.0.0/c/2")
    store.delete("vertices/0.0.0/c/0")
    for key in ("0.0.0", "1.0.0"):
        with pytest.raises(dzv.StoreError, match="missing"):
            store.open().read_bytes("vertices", key)
    root.create_array("vertices/3.0.0", shape=(4,), dtype="f4")
    fails(dzv.FormatError, "float32", group.read_bytes, "vertices", "3.0.0")


@per_chunk_only
def test_missing_data_object_is_an_error(store, no_waiting):
    group = store.open()
    for key in ("0.0.0", "1.0.0"):
        group.write_bytes("vertices", key, bytes(16))
    with group.batched_writes(shards=8) as batch:
        batch.write_bytes("packed", "0.0.0", bytes(16))
    store.delete("vertices/0.0.0/c/0")
    store.delete("packed/__shard_000000/c/0")
    for reader in (group, store.open("r")):
        with pytest.raises(dzv.StoreError, match=r"missing.*vertices.*0\.0\.0") as caught:
            reader.read_bytes("vertices", "0.0.0")
        assert not isinstance(caught.value, KeyError)
        fails((dzv.StoreError, dzv.FormatError), r"packed.*0\.0\.0", reader.read_bytes, "packed", "0.0.0")
        assert reader.read_bytes("vertices", "1.0.0") == bytes(16)


@per_chunk_only
def test_short_long_and_flipped_data_objects_are_errors(store, no_waiting):
    group = store.open()
    payload = bytes(range(40))
    for key in ("0.0.0", "1.0.0"):
        group.write_bytes("vertices", key, payload)
    with group.batched_writes(shards=8) as batch:
        batch.write_bytes("packed", "0.0.0", payload)
        batch.write_bytes("packed", "1.0.0", payload)
    plain_blob(store.root(), "vertices/2.0.0", b"abc" * 30)
    frame = store.get("vertices/2.0.0/c/0")
    store.put("vertices/0.0.0/c/0", payload[:39])
    store.put("vertices/1.0.0/c/0", payload + b"x")
    store.put("vertices/2.0.0/c/0", frame[:-3])
    store.put("packed/__shard_000000/c/0", payload + payload[:39] + b"x")  # a flipped byte, of one alone
    again = store.open("r")
    assert again.read_bytes("packed", "0.0.0") == payload
    fails((dzv.StoreError, dzv.FormatError), r"1\.0\.0", again.read_bytes, "packed", "1.0.0")
    store.put("packed/__shard_000000/c/0", payload[:30])
    for reader in (group, store.open("r")):
        for key in ("0.0.0", "1.0.0", "2.0.0"):
            fails(dzv.FormatError, rf"vertices.*{key}", reader.read_bytes, "vertices", key)
        for key in ("0.0.0", "1.0.0"):
            fails((dzv.StoreError, dzv.FormatError), rf"packed.*{key}", reader.read_bytes, "packed", key)


@per_chunk_only
def test_damaged_document_is_an_error(store):
    store.need("documents of any bytes")
    group = store.open()
    group.write_bytes("vertices", "0.0.0", b"12")
    for text in (b"{", b"[]", b'{"zarr_format": 2, "node_type": "array"}', b'{"zarr_format": 3, "node_type": "array"}'):
        store.put("vertices/0.0.0/zarr.json", text)
        fails(dzv.MetadataError, r"vertices/0\.0\.0", lambda: store.open("r").read_bytes("vertices", "0.0.0"))


@per_chunk_only
def test_data_without_a_document_is_absent(store):
    """The data object goes first: a writer that dies between the two leaves no chunk."""
    store.need("data before its document")
    group = store.open()
    group.write_bytes("vertices", "0.0.0", b"12")
    store.put("vertices/1.0.0/c/0", b"34")
    store.put("vertices/__shard_000001/c/0", b"34")
    again = store.open()
    assert again.list_chunks("vertices") == ["0.0.0"]
    assert not again.chunk_exists("vertices", "1.0.0")
    fails(KeyError, None, again.read_bytes, "vertices", "1.0.0")


def test_a_write_is_seen_through_every_group_of_the_process(store):
    """Replaced blobs of a shard, through the group above, beside and below: nobody may be served the old bytes."""
    level = store.level("0")
    root = store.open()
    with level.batched_writes(shards=8):
        for i in range(4):
            level.write_bytes("vertices", f"{i}.0.0", b"old%d" % i)
    other = store.open()["0"]
    assert other.read_bytes("vertices", "0.0.0") == b"old0"
    root.write_bytes("0/vertices", "0.0.0", b"new0")
    if store.layout == "per_chunk":
        root["0/vertices"].write_bytes("sub", "0.0.0", b"x")
    assert level.read_bytes("vertices", "0.0.0") == b"new0"
    assert root["0"].read_bytes("vertices", "0.0.0") == b"new0"
    assert store.open()["0"].read_bytes("vertices", "0.0.0") == b"new0"
    assert level.read_bytes("vertices", "1.0.0") == b"old1"


def test_deleting_through_the_group_above_is_no_lost_chunk(store, no_waiting):
    level = store.level("0")
    root = store.open()
    with level.batched_writes():
        level.write_bytes("vertices", "0.0.0", b"12")
        level.write_bytes("vertices", "1.0.0", b"34")
    root.delete_subtree("0/vertices")
    again = store.open()["0"]
    fails(KeyError, None, again.read_bytes, "vertices", "0.0.0")
    assert again.list_chunks("vertices") == []


def test_a_catalog_above_or_below_never_outlives_a_write(store):
    """Whichever group a batch went through: another one's catalog may speak of the same array."""
    root = store.open()
    store.level("0")

    def batch(group, array, data):
        with group.batched_writes(shards=4):
            group.write_bytes(array, "0.0.0", data)
            group.write_bytes(array, "1.0.0", data)

    batch(root, "0/vertices", b"from the root")
    assert store.get("dask_zv_catalog/c/0") is not None
    store.open()["0"].write_bytes("vertices", "0.0.0", b"single")
    assert store.get("dask_zv_catalog/c/0") is None
    assert store.open("r").read_bytes("0/vertices", "0.0.0") == b"single"
    store.open().delete_subtree("0")
    store.level("0")
    batch(root, "0/vertices", b"from the root")
    with store.open()["0"].batched_writes() as later:
        later.write_bytes("vertices", "0.0.0", b"from the level")
    for group, array in ((store.open("r"), "0/vertices"), (store.open("r")["0"], "vertices")):
        assert group.read_bytes(array, "0.0.0") == b"from the level"
        assert group.read_bytes(array, "1.0.0") == b"from the root"
    store.open().delete_subtree("0")
    batch(store.level("0"), "vertices", b"from the level")
    assert store.get("0/dask_zv_catalog/c/0") is not None
    with store.open().batched_writes() as later:
        later.write_bytes("0/vertices", "0.0.0", b"from the root")
    assert store.get("0/dask_zv_catalog/c/0") is None
    assert store.open("r")["0"].read_bytes("vertices", "0.0.0") == b"from the root"


def test_what_another_group_added_is_found(store):
    """The index of shards is read once per group; a key that it lacks is looked up again."""
    group = store.open()
    with group.batched_writes(shards=4):
        group.write_bytes("v", "0.0.0", b"first")
    group.delete_subtree("dask_zv_catalog")
    reader = store.open("r")
    assert reader.read_bytes("v", "0.0.0") == b"first"
    assert not reader.chunk_exists("v", "8.0.0")
    with store.open().batched_writes(shards=4) as batch:
        batch.write_bytes("v", "8.0.0", b"second")
        batch.write_bytes("v", "1.0.0", b"third")
    assert reader.read_bytes("v", "8.0.0") == b"second"
    assert reader.chunk_exists("v", "1.0.0")
    with reader.batched_reads([("v", ["0.0.0", "1.0.0", "8.0.0"])]):
        assert [reader.read_bytes("v", k) for k in ("0.0.0", "1.0.0", "8.0.0")] == [b"first", b"third", b"second"]


@per_chunk_only
@pytest.mark.parametrize("nodes_first", [False, True])
def test_data_goes_before_what_names_it(make_store, nodes_first):
    store = make_store("icechunk" if nodes_first else "memory_store")
    group = dzv.open_group(RecordingStore(store.plain))

    def stored(action):
        RecordingStore.order.clear()
        action()
        return list(RecordingStore.order)

    order = stored(lambda: group.write_bytes("v", "0.0", b"12"))
    mine = ["v/0.0/c/0", "v/0.0/zarr.json"]
    assert [k for k in order if "0.0" in k] == (mine[::-1] if nodes_first else mine)

    def batch():
        with group.batched_writes(shards=4), dask.config.set(scheduler="sync"):
            group.write_bytes("w", "0.0", b"12")
            group.write_bytes("w", "data", b"34")
            group.write_array_meta("w", {"a": 1})

    group.delete_subtree("v")
    order = stored(batch)
    for node in ("w/__shard_000000", "w/data", "dask_zv_catalog"):
        mine = [f"{node}/c/0", f"{node}/zarr.json"]
        assert [k for k in order if k in mine] == (mine[::-1] if nodes_first else mine)
    catalog = min(order.index(k) for k in order if k.startswith("dask_zv_catalog"))
    assert max(order.index(k) for k in order if k.endswith("c/0") and k.startswith("w/")) < catalog
    metadata = max(i for i, k in enumerate(order) if k == "w/zarr.json")
    assert metadata > max(order.index(k) for k in order if k.endswith("c/0") and k.startswith("w/"))


def test_zip_is_read(tmp_path, make_store):
    source = make_store("local_path")
    level = source.level("0")
    level.write_bytes("vertices", "0.0.0", b"12")
    with level.batched_writes(shards=4) as batch:
        batch.write_bytes("packed", "3.0.0", b"345")
    path = tmp_path / "store.zip"
    with ZipStore(path, mode="w") as target:
        from zarr.buffer import cpu
        from zarr.core.sync import sync

        for key, data in source.dump().items():
            sync(target.set(key, cpu.Buffer.from_bytes(data)))
    for given in (str(path), path, ZipStore(path, mode="r")):
        found = dzv.open_group(given, "r")
        assert found["0"].read_bytes("vertices", "0.0.0") == b"12"
        assert found["0"].read_bytes("packed", "3.0.0") == b"345"
        assert "packed" in found["0"]
        assert found.layout == source.layout
        assert found["0"].list_chunks("packed") == ["3.0.0"]
        copy = pickle.loads(pickle.dumps(found))
        assert copy["0"].read_bytes("vertices", "0.0.0") == b"12"
        with pytest.raises(dzv.StoreError, match="url"):
            found.path  # noqa: B018
        fails(dzv.ReadOnlyError, None, found.write_bytes, "0/vertices", "0.0.0", b"1")
        fails(dzv.ReadOnlyError, None, dzv.open_group, given, "r+")
