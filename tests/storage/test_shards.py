"""Cells and shards packed by us, read by plain zarr, and the other way round; what a shard held before stays in it."""

from __future__ import annotations

import itertools
import json

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusals import fails
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec
from zarr.storage import MemoryStore

import dask_zv as dzv
from dask_zv.format.documents import dump_json
from dask_zv.format.grids import GridSpec, codec_list, frame, grid_document, index_nbytes, unpack_index
from dask_zv.storage.grid.read import GridArrays
from dask_zv.storage.grid.shards import pack_shard, shard_cells, store_cells
from dask_zv.storage.zarr_objects import ZarrObjects

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification")
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
ZARRS = {"zstd": ZstdCodec(level=1), "blosc": BloscCodec(), "gzip": GzipCodec(level=1)}


@st.composite
def arrays(draw):
    """Return a grid, and two rounds of payloads for some of its chunks; in the second some become absent."""
    rank = draw(st.integers(2, 3))
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=rank, max_size=rank)))
    origin = tuple(draw(st.lists(st.integers(-3, 3), min_size=rank, max_size=rank)))
    shards = draw(st.none() | st.lists(st.integers(1, 4), min_size=rank, max_size=rank).map(tuple))
    spec = GridSpec(shape, origin, shards, codec_list(draw(st.sampled_from(["zstd", "blosc", None]))))
    cell = st.tuples(*(st.integers(0, n - 1) for n in shape))
    key = cell.map(lambda c: ".".join(str(i + o) for i, o in zip(c, origin, strict=True)))
    payload = st.one_of(st.binary(min_size=1, max_size=30), st.integers(1, 3000).map(bytes))
    first = draw(st.dictionaries(key, payload, min_size=1, max_size=8))
    second = draw(st.dictionaries(key, payload | st.just(b""), min_size=1, max_size=6))
    return spec, first, second


def present(payloads):
    return {key: data for key, data in payloads.items() if data}


def cell_of(spec, key):
    return tuple(int(c) - o for c, o in zip(key.split("."), spec.origin, strict=True))


def with_document(store, spec, keys):
    """Put the document that lists `keys`, as a commit does after the cells."""
    ZarrObjects(store, "memory").put("v/zarr.json", dump_json(grid_document(spec, {}, keys)))
    return store


def by_zarr(store, spec):
    """Return what plain zarr finds, cell by cell of the whole grid."""
    array = zarr.open_array(store, path="v", mode="r", zarr_format=3)
    values = array[...]
    cells = itertools.product(*map(range, spec.shape))
    keys = {cell: ".".join(str(i + o) for i, o in zip(cell, spec.origin, strict=True)) for cell in cells}
    return {key: values[cell] for cell, key in keys.items() if values[cell]}


def by_us(store, keys):
    found = GridArrays(ZarrObjects(store, "memory"), "").read_many([("v", key) for key in keys])
    return {key: data for (_, key), data in found.items()}


@QUICK
@given(arrays())
def test_what_we_pack_zarr_reads(made):
    spec, first, second = made
    store = MemoryStore()
    objects = ZarrObjects(store, "memory")
    stored = store_cells(objects, "", {"v": spec}, {"v": first}, ())
    with_document(store, spec, first)
    assert by_zarr(store, spec) == by_us(store, first) == first
    assert {".".join(map(str, c)) for c in stored.coords.tolist()} == set(first)
    assert stored.arrays["v"].nbytes.tolist() == [len(first[".".join(map(str, c))]) for c in stored.coords.tolist()]
    # the second round keeps what it does not name, and takes away what is empty now
    again = store_cells(objects, "", {"v": spec}, {"v": second}, {"v"})
    expected = present(first | second)
    with_document(store, spec, expected)
    assert by_zarr(store, spec) == by_us(store, expected) == expected
    assert again.emptied.get("v", frozenset()) == {k for k, d in second.items() if not d}
    kept = again.kept.get("v", frozenset())
    assert not kept & set(second)
    if spec.shard_shape is None:
        assert not kept
    once = dict(store._store_dict)  # a task that runs twice stores the same
    store_cells(objects, "", {"v": spec}, {"v": second}, {"v"})
    assert {k: v.to_bytes() for k, v in once.items()} == {k: v.to_bytes() for k, v in store._store_dict.items()}


@QUICK
@given(arrays())
def test_places_are_where_the_bytes_are(made):
    """The catalog's columns: a slice of an object, and its checksum."""
    spec, first, _ = made
    store = MemoryStore()
    stored = store_cells(ZarrObjects(store, "memory"), "", {"v": spec}, {"v": first}, ())
    for row, coords in enumerate(stored.coords.tolist()):
        cell = np.array([cell_of(spec, ".".join(map(str, coords)))])
        where = cell if spec.shard_shape is None else spec.shards_of(cell)[0]
        data = store._store_dict["v/c/" + "/".join(map(str, where[0].tolist()))].to_bytes()
        offset, length = (int(stored.arrays["v"][kind][row]) for kind in ("offset", "stored"))
        piece = data[offset : offset + length]
        assert len(piece) == length
        assert spec.shard_shape is not None or piece == data

        assert google_crc32c.value(piece) == stored.arrays["v"]["crc"][row]


@QUICK
@given(arrays(), st.sampled_from([*ZARRS, None]))
def test_what_zarr_packs_we_read_and_extend(made, compressor):
    spec, first, second = made
    store = MemoryStore()
    array = zarr.create_array(
        store,
        name="v",
        shape=spec.shape,
        chunks=(1,) * spec.rank,
        shards=spec.shard_shape and tuple(-(-n // s) * s and s for n, s in zip(spec.shape, spec.shard_shape, strict=True)),
        dtype="variable_length_bytes",
        compressors=ZARRS[compressor] if compressor else None,
        attributes={"chunk_grid_origin": list(spec.origin), "nonempty_chunks": sorted(first)},
        config={"write_empty_chunks": False},
    )
    for key, data in first.items():
        one = tuple(slice(i, i + 1) for i in cell_of(spec, key))
        array[one] = np.array(data, object).reshape((1,) * spec.rank)
    assert by_us(store, first) == first
    bare = GridArrays(ZarrObjects(store, "memory"), "")
    found = bare.array("v")
    assert (found.spec.shape, found.spec.origin, found.spec.shard_shape) == (spec.shape, spec.origin, spec.shard_shape)
    # a writer that left no list: what is stored is what exists
    document = json.loads(store._store_dict["v/zarr.json"].to_bytes())
    del document["attributes"]["nonempty_chunks"]
    ZarrObjects(store, "memory").put("v/zarr.json", dump_json(document))
    assert set(GridArrays(ZarrObjects(store, "memory"), "").list_keys("v")) == set(first)
    # our merge keeps zarr's cells, byte for byte
    store_cells(ZarrObjects(store, "memory"), "", {"v": found.spec}, {"v": second}, {"v"})
    expected = present(first | second)
    with_document(store, found.spec, expected)
    assert by_us(store, expected) == by_zarr(store, spec) == expected


@QUICK
@given(st.lists(st.integers(1, 4), min_size=2, max_size=3), st.data())
def test_packing(shape, data):
    spec = GridSpec(tuple(shape), (0,) * len(shape), tuple(shape))
    total = spec.shard_cells
    numbers = data.draw(st.lists(st.integers(0, total - 1), unique=True, max_size=total))
    cells = [(n, frame(data.draw(st.binary(max_size=9)))) for n in numbers]
    shard, offsets = pack_shard(np.array(numbers, np.int64), [(c[:1], c[1:]) for _, c in cells], total)
    assert len(shard) == sum(len(c) for _, c in cells) + index_nbytes(total)
    assert shard_cells(shard, spec, "v/c/0/0", "s") == {
        n: (o, c) for (n, c), o in sorted(zip(cells, offsets, strict=True), key=lambda x: x[0][0])
    }
    assert (unpack_index(shard[-index_nbytes(total) :], total, len(shard))[:, 1] != 2**64 - 1).sum() == len(numbers)
    at = data.draw(st.integers(0, len(shard) - 1))
    for damaged in (shard[:at], shard[: len(shard) - index_nbytes(total) + 1]):
        fails(dzv.FormatError, r"v/c/0/0", shard_cells, damaged, spec, "v/c/0/0", "s")


def test_cells_outside_of_the_grid_and_damaged_shards():
    store = MemoryStore()
    spec = GridSpec((2, 2), (0, 0), (2, 2))
    with pytest.raises(dzv.BoundsError, match="larger bounds"):
        store_cells(ZarrObjects(store, "memory"), "", {"v": spec}, {"v": {"0.0": b"1", "2.0": b"2"}}, ())
    assert not store._store_dict
    # what it held would be lost for good
    objects = ZarrObjects(store, "memory")
    store_cells(objects, "", {"v": spec}, {"v": {"0.0": b"1", "1.0": b"2"}}, ())
    objects.put("v/c/0/0", objects.get("v/c/0/0")[:-1])
    before = objects.get("v/c/0/0")
    fails(dzv.FormatError, "v/c/0/0", store_cells, objects, "", {"v": spec}, {"v": {"0.1": b"3"}}, {"v"})
    assert objects.get("v/c/0/0") == before
