"""Compression of cells: what zarr unpacks, and damage is a FormatError whatever the bytes."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress

import numcodecs
import numpy as np
import pytest
import zarr
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusals import fails
from zarr.buffer import cpu, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

import dask_zv as dzv
from dask_zv.format.documents import dump_json
from dask_zv.format.grids import GridSpec, codec_list, frame, grid_document
from dask_zv.storage.codecs import cell_codec, unpack_zstd

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification")
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
CHAINS = {
    "none": None,
    "zstd": "zstd",
    "zstd with checksum": [{"name": "zstd", "configuration": {"level": 0, "checksum": True}}],
    "blosc": "blosc",
    "blosc lz4": [
        {"name": "blosc",
         "configuration": {"cname": "lz4", "clevel": 5, "shuffle": "noshuffle", "typesize": 1, "blocksize": 0}}
    ],
    "gzip": [{"name": "gzip", "configuration": {"level": 1}}],
    "crc32c": [{"name": "crc32c"}],
    "zstd, crc32c": [{"name": "zstd", "configuration": {"level": 3, "checksum": False}}, {"name": "crc32c"}],
}  # fmt: skip
payloads = st.one_of(
    st.binary(min_size=1, max_size=200), st.integers(1, 5000).map(bytes), st.binary(min_size=500, max_size=999)
)


@pytest.mark.parametrize("name", CHAINS)
@QUICK
@given(payload=payloads)
def test_round_trip_here_and_through_zarr(name, payload):
    documents = codec_list(CHAINS[name])
    codec = cell_codec(documents)
    stored = codec.encode(frame(payload))
    assert codec.decode(stored) == frame(payload)
    store = MemoryStore()
    document = grid_document(GridSpec((1, 2), (0, 0), None, documents), {}, ["0.0"])
    sync(store.set("zarr.json", cpu.Buffer.from_bytes(dump_json(document))))
    sync(store.set("c/0/0", cpu.Buffer.from_bytes(stored)))
    array = zarr.open_array(store, mode="r+", zarr_format=3)
    assert array[:1, :1].item() == payload  # theirs reads ours
    array[:1, 1:] = np.array([[payload]], object)
    theirs = sync(store.get("c/0/1", default_buffer_prototype())).to_bytes()
    assert codec.decode(theirs) == frame(payload)  # and ours theirs


@pytest.mark.parametrize("name", [n for n in CHAINS if n != "none"])
@QUICK
@given(payload=payloads, data=st.data())
def test_mutated_bytes(name, payload, data):
    codec = cell_codec(codec_list(CHAINS[name]))
    damaged = bytearray(codec.encode(frame(payload)))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(damaged[: data.draw(st.integers(0, len(damaged)))]) + data.draw(st.binary(max_size=4))
    with suppress(dzv.FormatError):
        codec.decode(damaged)


@pytest.mark.parametrize("name", [n for n in CHAINS if n != "none"])
@QUICK
@given(data=st.binary(max_size=64))
def test_any_bytes(name, data):
    with suppress(dzv.FormatError):
        cell_codec(codec_list(CHAINS[name])).decode(data)


def test_memory_is_bounded_by_the_bytes():
    """Headers that claim terabytes: nothing is allocated for them."""
    # magic, descriptor (content size of 8 bytes), window, content size, one empty last block
    zstd = b"\x28\xb5\x2f\xfd" + b"\xc0\x00" + (1 << 50).to_bytes(8, "little") + b"\x01\x00\x00"
    assert zstandard.frame_content_size(zstd) == 1 << 50
    blosc = bytearray(numcodecs.Blosc().encode(bytes(1000)))
    blosc[4:8] = (2**31 - 1).to_bytes(4, "little")
    tracemalloc.start()
    for name, data in (("zstd", zstd), ("blosc", bytes(blosc))):
        with pytest.raises(dzv.FormatError, match="cell"):
            cell_codec(codec_list(name)).decode(data)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


@QUICK
@given(st.binary(min_size=1, max_size=300), st.integers(-3, 3))
def test_frames_of_a_known_length(content, more):
    """With the length in its header or without, as streams write it."""
    whole = zstandard.ZstdCompressor().compress(content)
    stream = zstandard.ZstdCompressor().compressobj()
    for data in (whole, stream.compress(content) + stream.flush()):
        assert unpack_zstd(data) == content
        if data is whole:
            assert unpack_zstd(whole, len(content)) == content
        if more and len(content) + more >= 0:
            with pytest.raises(ValueError, match="bytes"):
                unpack_zstd(data, len(content) + more)
    fails(ValueError, "unused data", lambda: unpack_zstd(whole + b"\0"))


@pytest.mark.parametrize(
    "codec", [{"name": "no-such-codec"}, {"name": "bytes", "configuration": {"endian": "little"}},
              {"name": "blosc", "configuration": {"shuffle": "no such shuffle"}}, {"name": "gzip", "configuration": {"level": 99}}],
)  # fmt: skip
def test_codecs_that_nobody_has(codec):
    fails(dzv.MetadataError, "codec", cell_codec, [codec])


def test_threads_share_no_compressor():
    from concurrent.futures import ThreadPoolExecutor

    codec = cell_codec(codec_list("zstd"))
    rng = np.random.default_rng(0)
    data = [frame(rng.integers(0, 4, n, dtype=np.uint8).tobytes()) for n in rng.integers(1, 50_000, 200)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda d: codec.decode(codec.encode(d)), data)) == data
