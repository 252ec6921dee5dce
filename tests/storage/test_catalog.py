"""The catalog: its encoding, damage, and what it saves and catches when a group is read."""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections import Counter

import google_crc32c
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from layouts import in_both_layouts
from refusals import fails
from zarr.storage import MemoryStore, WrapperStore

import dask_zv as dzv
from dask_zv.storage.catalog import COLUMNS, Catalog, Columns, Node, decode_catalog, encode_catalog, merge_catalog


def columns(nbytes, **others):
    """Return columns of which `nbytes` and some others are given; what is not is the same for all chunks."""
    default = {"shard": -1, "offset": 0, "stored": 9, "crc": 7, "stamp": 0}
    values = {"nbytes": nbytes} | {kind: [value] * len(nbytes) for kind, value in default.items()} | others
    return Columns({kind: np.array(values[kind], dtype) for kind, (dtype, _) in COLUMNS.items()})


def catalog(coords, rows, nodes=None, **arrays):
    coords = np.array(coords, np.int64).reshape(len(rows), -1)
    named = {k.replace("__", "/"): v for k, v in arrays.items()}
    return Catalog(coords, np.array(rows, np.int64), named, nodes=nodes or {})


SAMPLE = catalog(
    [[-1, 0, 2], [0, 0, 0], [10, 5, -(2**40)]],
    [5, -1, 2**33],
    {"vertices": Node({"shape": [4, 4, 4], "attributes": {"a": [1, {"b": None}]}}, "123-4f")},
    vertices=columns([60, 0, 2**35], shard=[-1, 4, 2**60], offset=[0, 2**33, 9], stored=[68, 8, 2**34], crc=[1, 2, 2**32 - 1],
                     stamp=[0, 1, 2**64 - 1]),
    vertex_attributes__mass=columns([-1, -1, 3]),
)  # fmt: skip


def same(a, b):
    assert a.coords.tolist() == b.coords.tolist()
    assert a.rows.tolist() == b.rows.tolist()
    assert set(a.arrays) == set(b.arrays)
    for name in a.arrays:
        for kind in COLUMNS:
            assert a.arrays[name][kind].tolist() == b.arrays[name][kind].tolist(), (name, kind)
    one, other = ({n: (v.document, v.identity) for n, v in c.nodes.items()} for c in (a, b))
    assert one == other


def test_round_trip_places_and_size():
    payload = encode_catalog(SAMPLE)
    found = decode_catalog(payload)
    same(found, SAMPLE)
    assert {kind: found.arrays["vertices"][kind].dtype for kind in COLUMNS} == {k: d for k, (d, _) in COLUMNS.items()}
    assert found.token
    assert encode_catalog(found) == payload
    empty = Catalog(np.zeros((0, 3), np.int64), np.zeros(0, np.int64), {})
    same(decode_catalog(encode_catalog(empty)), empty)
    found = decode_catalog(encode_catalog(SAMPLE))
    place = found.locate("vertices", "10.5.-1099511627776")
    assert (place.nbytes, place.shard, place.offset, place.stored, place.crc) == (2**35, 2**60, 9, 2**34, 2**32 - 1)
    assert found.locate("vertex_attributes/mass", "0.0.0") is None
    assert found.locate("absent", "0.0.0") is None
    assert found.locate("vertices", "data") is None
    assert found.locate("vertices", "0.0") is None
    assert found.chunks_of("vertex_attributes/mass").tolist() == [False, False, True]
    # 10,000 chunks of two arrays: one request, and not a large one
    n = 10_000
    coords = np.stack(np.unravel_index(np.arange(n), (25, 20, 20)), axis=1)
    crc = np.random.default_rng(0).integers(0, 2**32, n)
    big = catalog(coords, [100] * n, vertices=columns([1200] * n, crc=crc), mass=columns([400] * n, crc=crc))
    assert len(encode_catalog(big)) < 200_000


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(0, 6), st.integers(1, 4))
def test_every_table_survives(data, n, rank):
    """Any values of the columns' types, the same value everywhere among them: such a column is one number in the header."""
    coords = data.draw(st.lists(st.tuples(*[st.integers(-(2**62), 2**62)] * rank), min_size=n, max_size=n, unique=True))

    def column(dtype):
        return st.one_of(npst.arrays(dtype, n), npst.from_dtype(np.dtype(dtype)).map(lambda v: np.full(n, v, dtype)))

    arrays = {
        name: Columns({kind: data.draw(column(dtype)) for kind, (dtype, _) in COLUMNS.items()})
        for name in data.draw(st.sets(st.sampled_from(["vertices", "vertex_attributes/µ", "x:y"])))
    }
    table = Catalog(np.array(sorted(coords), np.int64).reshape(n, rank), data.draw(column(np.int64)), arrays)
    found = decode_catalog(encode_catalog(table))
    same(found, table)
    assert found.find(table.coords).tolist() == list(range(n))


@settings(max_examples=60, deadline=None)
@given(
    st.sets(st.tuples(st.integers(-9, 9), st.integers(-3, 3)), max_size=40),
    st.lists(st.tuples(st.integers(-11, 11), st.integers(-5, 5)), max_size=40),
    st.sampled_from([1, 2**30, 2**61]),
)
def test_find_is_what_a_dictionary_says(held, wanted, far):
    """`far` spreads the chunks so wide that no integer holds a code of all places between them."""
    coords = np.array(sorted((x * far, y) for x, y in held if abs(x * far) < 2**62), np.int64).reshape(-1, 2)
    table = Catalog(coords, np.full(len(coords), -1), {})
    rows = {tuple(c): i for i, c in enumerate(coords.tolist())}
    asked = np.array([(x * far, y) for x, y in wanted if abs(x * far) < 2**62], np.int64).reshape(-1, 2)
    assert table.find(asked).tolist() == [rows.get(tuple(c), -1) for c in asked.tolist()]
    assert table.find(np.zeros((2, 3), np.int64)).tolist() == [-1, -1]  # keys of another rank


def test_a_million_chunks_open_in_bounded_memory():
    """Columns are unpacked when they are asked for: opening costs the coordinates, and lookups their codes."""
    n = 1_000_000
    coords = np.stack(np.unravel_index(np.arange(n), (100, 100, 100)), axis=1)
    crc = np.random.default_rng(0).integers(0, 2**32, n)
    table = columns(np.arange(n) % 5000, crc=crc, stamp=crc)
    payload = encode_catalog(Catalog(coords, np.full(n, 100), {f"a{i}": table for i in range(6)}))
    tracemalloc.start()
    found = decode_catalog(payload)
    opened = tracemalloc.get_traced_memory()[1]
    assert found.locate("a3", "99.99.99").crc == crc[-1]
    looked_up = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert opened < len(payload) + 80 * n  # coordinates as they are stored and as int64, rows
    assert looked_up < opened + 120 * n  # of 40 columns those of one array


def test_merge_replaces_keeps_and_forgets_rows_that_nobody_knows():
    new = catalog(
        [[10, 5, -(2**40)], [3, 3, 3]], [7, 8], {"added": Node({}, "new")},
        vertices=columns([1, 2], crc=[11, 12], stamp=[8, 9]), added=columns([-1, 4], crc=[0, 13]),
    )  # fmt: skip
    merged = merge_catalog(SAMPLE, new.coords, new.rows, new.arrays, new.nodes)
    assert merged.coords.tolist() == [[-1, 0, 2], [0, 0, 0], [3, 3, 3], [10, 5, -(2**40)]]
    assert merged.rows.tolist() == [5, -1, 8, 7]
    vertices = merged.arrays["vertices"]
    assert vertices.nbytes.tolist() == [60, 0, 2, 1]
    assert vertices["shard"].tolist() == [-1, 4, -1, -1]
    assert vertices["stored"].tolist() == [68, 8, 9, 9]
    assert vertices["crc"].tolist() == [1, 2, 12, 11]
    assert vertices["stamp"].tolist() == [0, 1, 9, 8]
    assert merged.arrays["vertex_attributes/mass"].nbytes.tolist() == [-1, -1, -1, 3]
    assert merged.arrays["added"].nbytes.tolist() == [-1, -1, 4, -1]
    assert {n: v.identity for n, v in merged.nodes.items()} == {"vertices": "123-4f", "added": "new"}
    same(merge_catalog(None, new.coords, new.rows, new.arrays), merge_catalog(
        None, new.coords[::-1], new.rows[::-1], {n: c.take(np.array([1, 0])) for n, c in new.arrays.items()}))  # fmt: skip
    nothing = np.zeros((0, 0), np.int64), np.zeros(0, np.int64), {}
    same(merge_catalog(SAMPLE, *nothing), SAMPLE)
    assert len(merge_catalog(None, *nothing)) == 0
    old = catalog([[0], [1], [2], [3]], [5, 5, 5, 5], vertices=columns([60, 60, 60, 60]))
    new = catalog([[0], [1], [2]], [-1, -1, 6], vertices=columns([60, 48, 72]), mass=columns([4, 4, 4]))
    merged = merge_catalog(old, new.coords, new.rows, new.arrays)
    assert merged.rows.tolist() == [5, -1, 6, 5]


def signed(body):
    return body + int(google_crc32c.value(body)).to_bytes(4, "little")


def use_all(found):
    """Ask for everything that a catalog knows."""
    for table in found.arrays.values():
        for kind in COLUMNS:
            assert len(table[kind]) == len(found)
    found.find(np.concatenate([found.coords, found.coords + 1]))
    for name in found.arrays:
        found.locate(name, "0.0.0")


def test_every_single_flipped_byte_and_other_versions_are_noticed():
    payload = encode_catalog(SAMPLE)
    for i in range(len(payload)):
        damaged = bytearray(payload)
        damaged[i] ^= 0x10
        with pytest.raises(dzv.FormatError, match="catalog"):
            decode_catalog(bytes(damaged), store="s", array="a")
    for length in range(len(payload)):
        with pytest.raises(dzv.FormatError):
            decode_catalog(payload[:length])
    fails(dzv.FormatError, None, lambda: decode_catalog(payload + b"\0"))
    body = bytearray(encode_catalog(SAMPLE)[:-4])
    body[4] = 9
    fails(dzv.FormatError, "version 9", lambda: decode_catalog(signed(bytes(body))))


def test_damage_with_a_true_checksum_is_a_format_error():
    """A hostile catalog may have any bytes and the right checksum."""
    body = encode_catalog(SAMPLE)[:-4]
    rng = random.Random(5)
    noticed = 0
    for _ in range(3000):
        damaged = bytearray(body)
        for _ in range(rng.choice((1, 1, 3))):
            damaged[rng.randrange(12, len(damaged))] = rng.choice(b'0123456789-"[]{},:abcdex\x00\xff')
        try:
            use_all(decode_catalog(signed(bytes(damaged))))
        except dzv.FormatError:
            noticed += 1
    assert noticed > 1000


def test_a_damaged_column_is_an_error_when_it_is_asked_for():
    """And only then: who opens a store for its positions does not pay for the rest."""
    body = encode_catalog(SAMPLE)[:-4]
    frame = zstandard.ZstdCompressor(level=1).compress(np.array([1, 2, 2**32 - 1], "<u4").tobytes())  # the checksums
    assert body.count(frame) == 1
    for damaged in (frame[:4] + b"\xff" * (len(frame) - 4), b"\0" * len(frame)):
        found = decode_catalog(signed(body.replace(frame, damaged)))
        assert found.arrays["vertices"].nbytes.tolist() == [60, 0, 2**35]
        with pytest.raises(dzv.FormatError, match="catalog is damaged"):
            found.arrays["vertices"]["crc"]
        fails(dzv.FormatError, "catalog is damaged", found.locate, "vertices", "0.0.0")


def headed(header):
    return signed(b"DZVC" + struct.pack("<II", 2, len(header)) + header)


@pytest.mark.parametrize(
    "header",
    [
        b"null", b"[]", b"3", b'"columns"', b"{}", b'{"columns": 3}', b'{"columns": [3]}', b'{"columns": [{}]}', b"[" * 5000,
        b'{"columns":[{"name":3,"dtype":"<i8","shape":[0],"nbytes":0}]}',
        b'{"columns":[{"name":"coords","dtype":"O","shape":[0],"nbytes":0}]}',
        b'{"columns":[{"name":"coords","dtype":"<i8","shape":[2147483647,2147483647],"nbytes":9}]}',
        b'{"columns":[{"name":"coords","dtype":"<i8","shape":[-1],"nbytes":0}]}',
        b'{"columns":[{"name":"coords","dtype":"<i8","shape":[0,3],"nbytes":-5}]}',
        b'{"columns":[{"name":"coords","dtype":"<i8","shape":[0,3],"nbytes":0},{"name":"rows","dtype":"<i8","shape":[1],"nbytes":0}]}',
        b'{"columns":[{"name":"coords","dtype":"<i8","shape":[0],"nbytes":0},{"name":"rows","dtype":"<i8","shape":[0],"nbytes":0}]}',
        b'{"columns":[{"name":"coords","dtype":"<i8","shape":[0,3],"nbytes":0},{"name":"rows","shape":[0],"value":1.5}],"nodes":{}}',
        b'{"columns":[{"name":"coords","dtype":"<i8","shape":[0,3],"nbytes":0},{"name":"rows","shape":[0],"value":3}],"nodes":[]}',
        b'{"columns":[{"name":"coords","dtype":"<i8","shape":[0,3],"nbytes":0},{"name":"rows","shape":[0],"value":3}],"nodes":{"a":1}}',
        b'{"columns":[{"name":"coords","dtype":"<i8","shape":[0,3],"nbytes":0},{"name":"rows","shape":[0],"value":3},'
        b'{"name":"nbytes:v","shape":[0],"value":3}],"nodes":{}}',
    ],
)  # fmt: skip
def test_headers_that_make_no_sense(header):
    fails(dzv.FormatError, "catalog", lambda: decode_catalog(headed(header)))


@pytest.mark.parametrize(
    "coords",
    [
        b'"shape":[2147483647,3],"value":0',  # of one value: no frame bounds its length
        b'"shape":[2147483647,0],"dtype":"<i8","nbytes":0',
        b'"shape":[2147483647],"value":0',
        b'"shape":[0,3],"dtype":"<i8","nbytes":0',  # the rows are as long
    ],
)
def test_memory_is_bounded_by_the_bytes(coords):
    header = b'{"columns":[{"name":"coords",%s},{"name":"rows","shape":[2147483647],"value":1}],"nodes":{}}' % coords
    tracemalloc.start()
    fails(dzv.FormatError, "catalog", lambda: decode_catalog(headed(header)))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def filled(store, n=12, **kwargs):
    group = store.open(rank=2)
    with group.batched_writes(**kwargs):
        for i in range(n):
            group.write_bytes("vertices", f"{i}.0", b"v%d" % i * 10)
    assert store.get("dask_zv_catalog/c/0") is not None
    return group


@in_both_layouts
@pytest.mark.contract
def test_a_deleted_chunk_is_known_to_be_lost(store, no_waiting):
    filled(store)
    for key in ("vertices/3.0/c/0", "vertices/3.0/zarr.json") if store.layout == "per_chunk" else ("vertices/c/7/4",):
        store.delete(key)
    again = store.open("r")
    with pytest.raises(dzv.StoreError, match=r"gone.*vertices.*3\.0") as caught:
        again.read_bytes("vertices", "3.0")
    assert not isinstance(caught.value, KeyError)  # not "never there"
    with pytest.raises(dzv.StoreError, match=r"3\.0"), again.batched_reads([("vertices", ["2.0", "3.0"])]):
        raise AssertionError("never inside")
    assert again.read_bytes("vertices", "2.0") == b"v2" * 10
    fails(KeyError, None, again.read_bytes, "vertices", "77.0")


@pytest.mark.contract
def test_a_deleted_or_cut_shard_is_an_error(store, no_waiting):
    filled(store, shards=4)
    whole = store.get("vertices/__shard_000000/c/0")
    store.put("vertices/__shard_000000/c/0", whole[:-1])
    store.delete("vertices/__shard_000004/c/0")
    group = store.open("r")
    assert group.read_bytes("vertices", "0.0") == b"v0" * 10
    for key in ("1.0", "2.0"):
        with pytest.raises((dzv.StoreError, dzv.FormatError), match=rf"vertices.*{key}") as caught:
            group.read_bytes("vertices", key)
        assert not isinstance(caught.value, KeyError)


@in_both_layouts
@pytest.mark.contract
def test_a_cut_chunk_is_an_error(store, no_waiting):
    filled(store)
    path = "vertices/3.0/c/0" if store.layout == "per_chunk" else "vertices/c/7/4"
    store.put(path, store.get(path)[:-2])
    fails(dzv.FormatError, r"3\.0", lambda: store.open("r").read_bytes("vertices", "3.0"))


@pytest.mark.contract
def test_a_chunk_that_another_tool_rewrote_is_read_as_it_is(store):
    filled(store)
    root = store.root()
    rewritten = {"1.0": b"v1" * 10 + b"!", "2.0": b"w2" * 10, "3.0": b"", "4.0": bytes(20)}
    for key, data in rewritten.items():
        del root[f"vertices/{key}"]
        node = root.create_array(f"vertices/{key}", shape=(len(data),), chunks=(max(len(data), 1),), dtype="uint8")
        if data:
            node[:] = np.frombuffer(data, "uint8")
    for n in range(1, 40):  # a Zstandard frame that is exactly as long as the payload was
        node = root.create_array("vertices/5.0", shape=(n,), chunks=(n,), dtype="uint8", overwrite=True)
        node[:] = np.arange(100, 100 + n, dtype="uint8")
        if len(store.get("vertices/5.0/c/0")) == 20:
            break
    assert len(store.get("vertices/5.0/c/0")) == 20
    rewritten["5.0"] = bytes(range(100, 100 + n))
    group = store.open("r")
    assert {key: group.read_bytes("vertices", key) for key in rewritten} == rewritten
    with group.batched_reads([("vertices", list(rewritten))]):
        assert {key: group.read_bytes("vertices", key) for key in rewritten} == rewritten
    assert group.read_bytes("vertices", "6.0") == b"v6" * 10


@in_both_layouts
@pytest.mark.contract
def test_an_unbatched_write_drops_the_catalog(store):
    for shards in (None, 4):
        group = filled(store, shards=shards)
        group.write_bytes("vertices", "3.0", b"new")
        assert store.get("dask_zv_catalog/c/0") is None
        assert "dask_zv_catalog" not in store.open()
        assert store.open("r").read_bytes("vertices", "3.0") == b"new"
        group.delete_subtree("vertices")
        group.delete_subtree("absent")


@in_both_layouts
@pytest.mark.contract
def test_the_catalog_is_in_nobodys_way(store):
    group = filled(store)
    groups, arrays = (["vertices"], []) if store.layout == "per_chunk" else ([], ["vertices"])
    assert list(group) == groups
    assert sorted(store.root().group_keys()) == groups
    assert sorted(store.root().array_keys()) == ["dask_zv_catalog", *arrays]
    assert store.root()["dask_zv_catalog"][...].tobytes() == store.get("dask_zv_catalog/c/0")
    if store.layout == "per_chunk":
        assert group.read_array_meta("vertices") == {}


@in_both_layouts
def test_a_damaged_catalog_says_so(make_store):
    store = make_store("memory_store")
    filled(store)
    store.put("dask_zv_catalog/c/0", store.get("dask_zv_catalog/c/0")[:-1])
    fails(dzv.FormatError, "catalog", lambda: store.open("r").read_bytes("vertices", "0.0"))


@in_both_layouts
def test_equal_contents_have_equal_catalogs(make_store):
    payloads = set()
    for order in (1, -1):
        store = make_store("memory_store")
        group = store.open(rank=2)
        with group.batched_writes(block_chunks=3):
            for i in list(range(12))[::order]:
                group.write_bytes("vertices", f"{i}.0", b"x" * (i + 1))
        payloads.add(store.get("dask_zv_catalog/c/0"))
    assert len(payloads) == 1


class RequestCounter(WrapperStore):
    """Counts the requests that reach a store."""

    def __init__(self, store):
        super().__init__(store)
        self.requests = Counter()
        self.keys = []

    def _with_store(self, store):
        return type(self)(store)

    async def get(self, key, prototype, byte_range=None):
        self.keys.append(key)
        return await self._count("get", key, prototype, byte_range)

    async def set(self, key, value):
        await self._count("set", key, value)

    async def exists(self, key):
        return await self._count("exists", key)

    async def _count(self, verb, *arguments):
        self.requests[verb] += 1
        return await getattr(self._store, verb)(*arguments)

    async def list_dir(self, prefix):
        self.requests["list"] += 1
        async for name in self._store.list_dir(prefix):
            yield name

    async def list_prefix(self, prefix):
        self.requests["list"] += 1
        async for name in self._store.list_prefix(prefix):
            yield name


KEYS_OF_100 = [f"{i // 10}.{i % 10}" for i in range(100)]


def counted(shards, layout=None):
    """Return a store of 100 chunks that counts requests."""
    counting, keys = RequestCounter(MemoryStore()), KEYS_OF_100
    group = dzv.open_group(counting, layout=layout)
    with group.batched_writes(shards=shards):
        if layout == "grid":
            group.write_array_meta("vertices", {"shape": [10, 10]})
        for key in keys:
            group.write_bytes("vertices", key, key.encode() * 5)
    counting.requests.clear()
    return counting, keys


@pytest.mark.parametrize(("shards", "objects"), [(None, 100), (16, 9)])
def test_requests_of_reading_a_grid(shards, objects):
    counting, keys = counted(shards, "grid")
    assert sum(k.startswith("vertices/c/") for k in counting._store._store_dict) == objects
    again = dzv.open_group(counting)
    with again.batched_reads([("vertices", keys)]):
        assert [again.read_bytes("vertices", k) for k in keys] == [k.encode() * 5 for k in keys]
    assert counting.requests == {"get": objects + 3}  # the root, the catalog, the array's document
    counting.requests.clear()
    assert again.list_chunks("vertices") == keys
    assert all(again.chunk_exists("vertices", k) for k in keys[:3])
    assert counting.requests["list"] == 0
    again.delete_subtree("dask_zv_catalog")
    counting.requests.clear()
    with again.batched_reads([("vertices", keys)]):
        pass
    # shards come with their indexes; of the one in the corner, of which the array has a quarter, the index is asked for first,
    # and whether the shard was replaced meanwhile
    indexes = 0 if shards is None else 4
    assert counting.requests == {"get": objects + indexes + 1}


@pytest.mark.parametrize("shards", [None, 128])
def test_requests_of_reading(shards):
    counting, keys = counted(shards)
    data_objects = 100 if shards is None else len({k.split("/")[1] for k in counting._store._store_dict if "__shard" in k})
    again = dzv.open_group(counting)
    with again.batched_reads([("vertices", keys)]):
        assert [again.read_bytes("vertices", k) for k in keys] == [k.encode() * 5 for k in keys]
    assert sum(counting.requests.values()) <= data_objects + 4
    assert counting.requests["list"] == 0
    counting.requests.clear()
    again = dzv.open_group(counting)
    for key in keys:
        again.read_bytes("vertices", key)
    assert sum(counting.requests.values()) <= 100 + 4
    if shards is not None:
        assert data_objects <= 4


def test_requests_without_a_catalog():
    counting, keys = counted(128)
    dzv.open_group(counting).delete_subtree("dask_zv_catalog")
    counting.requests.clear()
    again = dzv.open_group(counting)
    for key in keys:
        assert again.read_bytes("vertices", key) == key.encode() * 5
    assert counting.requests["list"] == 1  # the index of the shards is read once, not once per blob
    assert sum(k.endswith("__shard_000000/zarr.json") for k in counting.keys) <= 2 + 1  # the write's, before and under its lock


def test_requests_of_writing():
    counting = RequestCounter(MemoryStore())
    group = dzv.open_group(counting)
    counting.requests.clear()
    with group.batched_writes(shards=128):
        for i in range(100):
            for array in ("vertices", "a", "b"):
                group.write_bytes(array, f"{i // 10}.{i % 10}", b"x" * 8)
    shards = {tuple(k.split("/")[:2]) for k in counting._store._store_dict if "__shard" in k}
    assert counting.requests["set"] <= 2 * len(shards) + 2 + 4  # objects and documents; the catalog; the groups
    # Reads: 3 documents and 2 listings of each array, each shard before and under its lock, 2 of the root and of the catalog, the journal.
    assert sum(counting.requests.values()) - counting.requests["set"] <= 5 * 3 + 2 * len(shards) + 5
