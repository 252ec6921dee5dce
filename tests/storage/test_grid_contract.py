"""What the Group contract says of layout ``grid`` alone, on every store: grids, empty payloads, names, shards, damage."""

from __future__ import annotations

import json
import struct

import dask
import pytest
import zarr
from contract_exceptions import need
from counting_store import RecordingStore
from dask.delayed import delayed
from refusals import fails
from zarr.storage import MemoryStore

import dask_zv as dzv
from dask_zv.storage.catalog import decode_catalog

pytestmark = pytest.mark.contract
CATALOG = "dask_zv_catalog/c/0"
META = {"shape": [4, 8, 8], "chunk_grid_origin": [-1, 0, 0]}


@pytest.fixture(params=["grid"])
def layout(request):
    return request.param


@pytest.fixture
def bare(store):
    """A group of layout grid in which nothing says which grid an array is to have."""
    return dzv.open_group(store.target, layout="grid", storage_options=store.options)


def plain(store, keys, array="v"):
    """Return what plain zarr finds in the cells of some chunks, those that hold something."""
    found = zarr.open_array(store.plain, path=array, mode="r", zarr_format=3)
    origin = found.attrs.get("chunk_grid_origin", [0] * found.ndim)
    out = {}
    for key in keys:
        cell = (int(c) - o for c, o in zip(key.split("."), origin, strict=True))
        out[key] = found[tuple(slice(i, i + 1) for i in cell)].item()
    return {key: data for key, data in out.items() if data}


def test_an_array_needs_a_grid(store, bare):
    before = store.dump()
    fails(dzv.StoreError, r"its grid.*bounds.*write_array_meta", bare.write_bytes, "v", "0.0.0", b"1")
    with pytest.raises(dzv.StoreError, match="its grid"), bare.batched_writes() as batch:
        batch.write_bytes("v", "0.0.0", b"1")
    with pytest.raises(dzv.StoreError, match="its grid"), bare.batched_writes() as batch:
        batch.write_blobs(delayed({("v", "0.0.0"): b"1"}), keys=[("v", "0.0.0")])
    assert store.dump() == before


def test_a_grid_by_metadata(store, bare):
    bare.write_array_meta("v", {**META, "dtype": "float32"})
    assert bare.array_exists("v")
    assert bare.list_chunks("v") == []
    bare.write_bytes("v", "-1.0.7", b"first")
    bare.write_bytes("v", "2.7.0", b"last")
    with bare.batched_writes():
        bare.write_array_meta("w", META)
        bare.write_bytes("w", "0.0.0", b"batched")
    assert plain(store, ["-1.0.7", "2.7.0", "0.0.0"]) == {"-1.0.7": b"first", "2.7.0": b"last"}
    assert plain(store, ["0.0.0"], "w") == {"0.0.0": b"batched"}
    assert store.open("r").read_array_meta("v") == {
        "dtype": "float32", "chunk_grid_origin": [-1, 0, 0], "nonempty_chunks": ["-1.0.7", "2.7.0"],
    }  # fmt: skip
    for key in ("3.0.0", "-2.0.0", "0.8.0"):
        before = store.dump()
        fails(dzv.BoundsError, key, bare.write_bytes, "v", key, b"1")
        with pytest.raises(dzv.BoundsError, match=key), bare.batched_writes():
            bare.write_bytes("v", key, b"1")
        assert store.dump() == before
        assert not bare.chunk_exists("v", key)
        fails(KeyError, None, bare.read_bytes, "v", key)
    for meta in ({"shape": [5, 8, 8]}, {"nonempty_chunks": []}):
        fails(dzv.PlanError, "grid|writer", bare.write_array_meta, "v", meta)
    bare.write_array_meta("v", META)  # the same again
    assert bare.read_bytes("v", "2.7.0") == b"last"


@pytest.mark.parametrize(
    "meta", [{"shape": 3}, {"shape": [0, 4]}, {"shape": [4]}, {"shape": ["a", 4]}, {"shape": [4, 4], "chunk_grid_origin": [0]},
             {"shape": [4, 4], "chunk_grid_origin": "ab"}, {"shape": [4.5, 4]}, {"shape": None}],
)  # fmt: skip
def test_grids_that_are_none(meta):
    group = dzv.open_group({}, layout="grid")
    fails(dzv.StoreError, None, group.write_array_meta, "v", meta)
    with pytest.raises(dzv.StoreError), group.batched_writes():  # noqa: PT012 - it ends with the batch
        group.write_array_meta("v", meta)
        group.write_bytes("v", "0.0", b"1")
    assert not group.array_exists("v")


def test_a_grid_by_the_bounds_of_the_store(store):
    made = dzv.create(store.target, chunk_shape=(10, 10, 10), bounds=([-15, 0, 0], [25, 9, 19]), storage_options=store.options)
    group = made.level(0).group
    group.write_bytes("vertices", "-2.0.1", b"12")
    group.write_bytes("vertex_attributes/a", "2.0.0", b"34")
    for array in ("vertices", "vertex_attributes/a"):
        found = zarr.open_array(store.plain, path=f"0/{array}", mode="r", zarr_format=3)
        assert (found.shape, found.attrs["chunk_grid_origin"]) == ((5, 1, 2), [-2, 0, 0])
    fails(dzv.BoundsError, r"3\.0\.0", group.write_bytes, "vertices", "3.0.0", b"1")


def test_new_arrays_have_the_grid_of_the_vertices(store, bare):
    with bare.batched_writes(shards=8) as batch:
        batch.write_array_meta("vertices", META)
        batch.write_bytes("vertices", "0.0.0", b"1")
    bare.write_bytes("vertex_attributes/a", "2.7.7", b"2")
    documents = [json.loads(store.get(f"{a}/zarr.json")) for a in ("vertices", "vertex_attributes/a")]
    assert documents[0]["shape"] == documents[1]["shape"]
    assert documents[0]["codecs"] == documents[1]["codecs"]
    assert documents[0]["chunk_grid"] == documents[1]["chunk_grid"]


def test_keys_of_the_other_layout_and_of_another_rank(store):
    group = store.open()
    group.write_bytes("v", "0.0.0", b"1")
    before = store.dump()
    literal = [(key, dzv.InvalidNameError, "integers") for key in ("data", "offsets", "0.x")]
    for key, error, match in [*literal, *((key, dzv.ZVError, "rank") for key in ("0", "0.0", "0.0.0.0"))]:
        fails(error, match, group.write_bytes, "v", key, b"1")
        with pytest.raises(error, match=match), group.batched_writes():
            group.write_bytes("v", key, b"1")
        assert not group.chunk_exists("v", key)
        fails(KeyError, None, group.read_bytes, "v", key)
    assert store.dump() == before
    assert store.open("r").list_chunks("v") == ["0.0.0"]


def test_arrays_are_arrays(store):
    group = store.level("0")
    group.write_bytes("vertices", "0.0.0", b"1")
    group.write_bytes("vertex_attributes/mass", "0.0.0", b"1")
    assert list(group) == ["vertex_attributes"]
    assert list(group["vertex_attributes"]) == []
    assert "vertices" in group
    assert "vertex_attributes/mass" in group
    for name in ("vertices", "vertex_attributes/mass"):
        with pytest.raises(dzv.StoreError, match="Array") as caught:
            group[name]
        assert isinstance(caught.value, KeyError)
    assert group.list_chunks("vertex_attributes") == []
    fails(dzv.StoreError, "Group", group.write_bytes, "vertex_attributes", "0.0.0", b"1")


@pytest.mark.parametrize("shards", [None, 8])
def test_an_empty_payload_is_absence(make_store, shards):
    for name in ("local_path", "obstore_memory", "icechunk"):
        store = make_store(name)
        group = store.open()
        with group.batched_writes(shards=shards):
            for i in range(4):
                group.write_bytes("v", f"{i}.0.0", b"%d" % i)
            group.write_bytes("v", "5.0.0", b"")
        assert group.list_chunks("v") == ["0.0.0", "1.0.0", "2.0.0", "3.0.0"]
        group.write_bytes("v", "1.0.0", b"")
        group.write_bytes("v", "9.0.0", b"")
        with group.batched_writes():
            group.write_bytes("v", "2.0.0", b"")
        for reader in (group, store.open("r")):
            assert reader.list_chunks("v") == ["0.0.0", "3.0.0"]
            for key in ("1.0.0", "2.0.0", "5.0.0", "9.0.0"):
                assert not reader.chunk_exists("v", key)
                fails(KeyError, None, reader.read_bytes, "v", key)
            assert reader.read_bytes("v", "3.0.0") == b"3"
        assert plain(store, [f"{i}.0.0" for i in range(10)]) == {"0.0.0": b"0", "3.0.0": b"3"}
        with group.batched_writes():
            for key in ("0.0.0", "3.0.0"):
                group.write_bytes("v", key, b"")
        assert group.list_chunks("v") == []
        assert not [k for k in store.list_keys() if k.startswith("v/c/")]  # an empty cell has no object, an empty shard neither


def test_shards_are_zarrs_own(store):
    group = store.open()
    truth = {f"{x}.{y}.0": b"%d,%d" % (x, y) * 9 for x in range(-4, 6) for y in range(0, 7, 2)}
    with group.batched_writes(shards=[4, 4, 1]):
        for key, data in truth.items():
            group.write_bytes("v", key, data)
    array = zarr.open_array(store.plain, path="v", mode="r", zarr_format=3)
    assert array.shards == (4, 4, 1)
    for turn in range(3):  # merged into: by a batch that names no shards, and by single writes
        new = {"0.0.0": b"turn %d" % turn, "-4.1.0": b"new" * (turn + 1)}
        with group.batched_writes(block_chunks=1):
            for key, data in new.items():
                group.write_bytes("v", key, data)
        group.write_bytes("v", f"1.{turn}.0", b"single")
        truth |= new | {f"1.{turn}.0": b"single"}
        for reader in (group, store.open("r")):
            keys = reader.list_chunks("v")
            assert set(keys) == set(truth)
            with reader.batched_reads([("v", keys)]):
                assert {k: reader.read_bytes("v", k) for k in keys} == truth
    assert plain(store, [*truth, "0.1.0", "9.9.9"]) == truth
    with pytest.raises(dzv.PlanError, match="packed in shards"), group.batched_writes(shards=2):
        group.write_bytes("v", "0.0.0", b"1")


def test_blocks_yield_whole_shards(store):
    group = store.open()
    keys = [[("v", f"{x}.0.0"), ("v", f"{x + 1}.0.0")] for x in (0, 2)]
    with group.batched_writes(shards=[2, 1, 1]) as batch:
        for mine in keys:
            batch.write_blobs(delayed({a: a[1].encode() for a in mine}), keys=mine)
    assert batch.report.files == 2
    before = store.dump()
    with pytest.raises(dzv.PlanError, match=r"two tasks.*shard"), group.batched_writes() as batch:  # noqa: PT012
        for key in ("0.0.0", "1.0.0"):
            batch.write_blobs(delayed({("v", key): b"x"}), keys=[("v", key)])
    assert store.dump() == before


@pytest.mark.parametrize("catalog", [True, False], ids=["catalog", "no catalog"])
@pytest.mark.parametrize("shards", [None, 8], ids=["cells", "shards"])
def test_damaged_objects_are_errors(make_store, shards, catalog, no_waiting):
    for name in ("local_path", "memory_store", "icechunk"):
        store = make_store(name)
        group = store.open()
        with group.batched_writes(shards=shards):
            for i in range(4):
                group.write_bytes("v", f"{i}.0.0", b"%d" % i * 20)
        if not catalog:
            group.delete_subtree("dask_zv_catalog")
        path = "v/c/4/4/4" if shards is None else "v/c/2/2/2"  # of 0.0.0, and in a shard of 1.0.0
        data = store.get(path)
        for damaged in (None, b"", data[:-1], data[:10], data + b"x", bytes(len(data))):
            if damaged is None:
                store.delete(path)
            elif damaged or name != "icechunk":
                store.put(path, damaged)
            else:
                continue  # Icechunk 2 takes no chunk without a byte
            for reader in (group, store.open("r")):
                # the catalog knows where the bytes are, and their checksum: what surrounds them is not looked at
                around = damaged == data + b"x" or (shards is not None and damaged == data[:-1])
                if catalog and around:
                    assert reader.read_bytes("v", "0.0.0") == b"0" * 20
                    continue
                with pytest.raises((dzv.StoreError, dzv.FormatError), match=r"v") as caught:
                    reader.read_bytes("v", "0.0.0")
                assert not isinstance(caught.value, KeyError)
                assert reader.read_bytes("v", "2.0.0") == b"2" * 20
        store.put(path, data)
        assert store.open("r").read_bytes("v", "0.0.0") == b"0" * 20


def test_damaged_document_is_an_error(store):
    need(store.name, "documents of any bytes")
    group = store.open()
    group.write_bytes("v", "0.0.0", b"12")
    whole = json.loads(store.get("v/zarr.json"))
    for text in (b"{", b"[]", json.dumps({**whole, "shape": [4]}).encode(), json.dumps({**whole, "codecs": []}).encode()):
        store.put("v/zarr.json", text)
        fails(dzv.MetadataError, "/v", lambda: store.open("r").read_bytes("v", "0.0.0"))


def test_cells_that_nobody_lists_are_absent(store):
    """Data goes first: a writer that dies before its commit leaves no chunk, and the next one is not disturbed."""
    group = store.open()
    group.write_bytes("v", "0.0.0", b"12")
    store.put("v/c/5/4/4", struct.pack("<II", 1, 2) + b"34")
    again = store.open()
    assert again.list_chunks("v") == ["0.0.0"]
    assert not again.chunk_exists("v", "1.0.0")
    fails(KeyError, None, again.read_bytes, "v", "1.0.0")
    with again.batched_writes():
        again.write_bytes("v", "2.0.0", b"56")
    assert store.open("r").list_chunks("v") == ["0.0.0", "2.0.0"]
    before = store.open() and store.dump()
    with store.open().batched_writes():
        pass
    assert store.dump() == before


def test_a_writer_that_left_no_list(store):
    """Then what is stored is what exists."""
    group = store.open()
    for key in ("0.0.0", "3.1.0"):
        group.write_bytes("v", key, key.encode())
    document = json.loads(store.get("v/zarr.json"))
    del document["attributes"]["nonempty_chunks"]
    store.put("v/zarr.json", json.dumps(document).encode())
    again = store.open()
    assert again.list_chunks("v") == ["0.0.0", "3.1.0"]
    assert again.chunk_exists("v", "3.1.0")
    assert again.read_bytes("v", "3.1.0") == b"3.1.0"
    fails(KeyError, None, again.read_bytes, "v", "1.0.0")
    with again.batched_writes():
        again.write_bytes("v", "1.0.0", b"new")
    assert store.open("r").list_chunks("v") == ["0.0.0", "1.0.0", "3.1.0"]


@pytest.mark.parametrize("name", ["memory_store", "icechunk"])
def test_cells_then_attributes_then_vertices_then_the_catalog(make_store, name):
    store = make_store(name)
    group = dzv.open_group(RecordingStore(store.plain), layout="grid")
    group.write_array_meta("other", META)
    RecordingStore.order.clear()
    with group.batched_writes(shards=4), dask.config.set(scheduler="sync"):
        for array in ("vertices", "vertex_attributes/a", "vertex_attributes/z"):
            group.write_array_meta(array, META)
            group.write_bytes(array, "0.0.0", b"12")
    order = list(RecordingStore.order)
    last = {key: i for i, key in enumerate(order)}
    cells = [i for i, key in enumerate(order) if "/c/" in key and not key.startswith("dask_zv")]
    documents = [last[f"{a}/zarr.json"] for a in ("vertex_attributes/a", "vertex_attributes/z", "vertices")]
    assert max(cells) < min(documents)
    assert max(documents) == documents[-1]  # who sees a chunk of the vertices finds it in the others
    assert max(documents) < last[CATALOG]


def test_the_catalog_says_what_is_stored(store):
    group = store.open()
    for shards, array in ((None, "v"), (8, "w")):
        with group.batched_writes(shards=shards):
            for i in range(5):
                group.write_bytes(array, f"{i}.0.0", b"x" * (i + 1))
    with group.batched_writes():
        group.write_bytes("v", "1.0.0", b"longer than it was")
        group.write_bytes("w", "4.0.0", b"")
    found = decode_catalog(store.get(CATALOG))
    assert found.coords.tolist() == [[i, 0, 0] for i in range(5)]
    assert found.arrays["v"].nbytes.tolist() == [1, 18, 3, 4, 5]
    assert found.arrays["w"].nbytes.tolist() == [1, 2, 3, 4, -1]
    assert found.arrays["v"]["shard"].tolist() == [-1] * 5
    assert set(found.nodes) == {"v", "w"}


def test_layouts_are_told_apart(store):
    group = store.open()
    group.write_bytes("vertices", "0.0.0", b"12")
    assert store.open("r").layout == group.layout == "grid"
    with pytest.raises(dzv.MetadataError, match=r"'grid'.*'per_chunk'"):
        dzv.open_group(store.target, layout="per_chunk", storage_options=store.options)
    fails(dzv.InputError, r"rows.*grid.*per_chunk", dzv.open_group, store.target, layout="rows", storage_options=store.options)


def test_what_is_neither_layout_says_what_it_found(tmp_path):
    """An array that is no chunk grid, in the place of one; a root that is no store of vectors."""
    root = zarr.open_group(tmp_path / "s", mode="w")
    root.create_array("vertices", shape=(3,), dtype="f4")
    fails(dzv.ZVError, "zarr_vectors|Zarr Vectors", lambda: dzv.open(tmp_path / "s"))
    group = dzv.open_group(MemoryStore(), layout="grid")
    group.zarr_group.create_array("v", shape=(3, 3), dtype="f4")
    fails(dzv.StoreError, r"/v' is a array|/v' is an array|/v' is a 2-D Array", group.write_bytes, "v", "0.0", b"1")
    fails(dzv.StoreError, "2-D Array", group.read_bytes, "v", "0.0")
    assert group.list_chunks("v") == []
    for damaged in ({"zv_version": "0.9.1"}, {"zv_version": "0.9.1", "chunk_shape": "x"}, "text", {}):
        root.attrs["zarr_vectors"] = damaged
        fails(dzv.MetadataError, r"zarr_vectors|bounds|chunk_shape", lambda: dzv.open(tmp_path / "s"))
