"""Decoders of what holds blobs: cells, shards, codecs, and the catalog."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import google_crc32c
import numpy as np
import zstandard
from fuzz_base import FREE, PACKED, Parts, attributes_of, decodes, join_payload, node_of, split_payload, spread
from fuzz_corpus import HOSTILE_NAMES, junk
from fuzz_stores import documents

from dask_zv.errors import FormatError
from dask_zv.format import grids, keys
from dask_zv.format.documents import parse_shard_index, shard_attributes
from dask_zv.storage import catalog as catalogs
from dask_zv.storage.codecs import cell_codec, unpack_zstd
from dask_zv.storage.grid.shards import shard_cells
from dask_zv.storage.receipts import COLUMNS, Columns


@decodes("cell frame", lambda: [(grids.frame(bytes(range(n))),) for n in (0, 1, 12, 200)])
def _run_cell(parts: Parts, seed: Parts) -> None:
    payload = grids.unframe(parts[0])
    assert grids.frame(payload) == parts[0]


_SPEC = grids.GridSpec((4, 4), (0, 0), (2, 2), ())


def _shard_seeds() -> list[Parts]:
    places = np.array([[0, 12], [12, 20], [2**64 - 1] * 2, [32, 8]], np.uint64)
    body = grids.frame(b"abcd") + grids.frame(b"x" * 12) + grids.frame(b"")
    return [(body, grids.pack_index(places))]


def _refit_crc(parts: Parts, seed: Parts, rng: random.Random) -> Parts:
    body = parts[-1][:-4]
    return (*parts[:-1], body + struct.pack("<I", int(google_crc32c.value(body))))


@decodes("shard of a grid", _shard_seeds, "bb", refit=_refit_crc)
def _run_shard(parts: Parts, seed: Parts) -> None:
    data = b"".join(parts)
    found = shard_cells(data, _SPEC, "0/v", "file:///s")
    index = grids.unpack_index(data[-grids.index_nbytes(4) :], 4)
    assert grids.pack_index(index) == data[-grids.index_nbytes(4) :]
    for number, (offset, stored) in found.items():
        assert 0 <= number < 4
        assert offset + len(stored) <= len(data)
        assert len(stored) == int(index[number, 1])


def _shard_document_seeds() -> list[Parts]:
    ours = shard_attributes({"0.0.0": (0, 12, 5), "-1.0.2": (12, 30, 2**32 - 1), "data": (42, 0, 0)})
    found = [d for _, d in documents() if b'"shard_index"' in d]
    return [(node_of(ours),), *[(d,) for d in spread(found, 10)]]


@decodes("shard index 0.7", _shard_document_seeds, "j")
def _run_shard_document(parts: Parts, seed: Parts) -> None:
    found = parse_shard_index(attributes_of(parts[0]), 1 << 20, "0/v/__shard_000000")
    for key, (offset, length, crc) in found.items():
        keys.check_chunk_key(key)  # a key is a name below the array, whoever says it
        assert 0 <= offset <= offset + length <= 1 << 20
        assert crc is None or type(crc) is int


_CODECS: tuple[Any, ...] = (
    [{"name": "zstd", "configuration": {"level": 1, "checksum": True}}],
    [{"name": "zstd", "configuration": {"level": 0, "checksum": False}}],
    [
        {
            "name": "blosc",
            "configuration": {"typesize": 4, "cname": "zstd", "clevel": 5, "shuffle": "bitshuffle", "blocksize": 0},
        }
    ],
    [{"name": "blosc", "configuration": {"typesize": 1, "cname": "lz4", "clevel": 5, "shuffle": "noshuffle", "blocksize": 0}}],
    [{"name": "gzip", "configuration": {"level": 1}}],
    [{"name": "crc32c"}],
    [{"name": "zstd", "configuration": {}}, {"name": "crc32c"}],
    [],
)


_PAYLOADS = (b"", bytes(range(256)), b"\0" * 30_000)


def _codec_seeds(which: Sequence[int]) -> Callable[[], list[Parts]]:
    def make() -> list[Parts]:
        return [
            (cell_codec(_CODECS[i]).encode(grids.frame(payload)), json.dumps(_CODECS[i]).encode())
            for i in which
            for payload in _PAYLOADS
        ]

    return make


def _bomb(parts: Parts, seed: Parts, rng: random.Random) -> Parts:
    """Return a frame that unpacks to much, or claims to, now and then."""
    if rng.random() < 0.001:
        return (_zeros(rng.choice((1 << 20, 40 << 20))), *parts[1:])
    return parts


@cache
def _zeros(n: int) -> bytes:
    return zstandard.ZstdCompressor(level=1).compress(bytes(n))


@decodes("codec zstd", _codec_seeds((0, 1)), "b-", refit=_bomb, ratio=2 * PACKED, free=4 * FREE)
@decodes("codec blosc", _codec_seeds((2, 3)), "b-", ratio=2 * PACKED, free=2 * FREE)
@decodes("codecs of zarr", _codec_seeds((4, 5, 6)), "b-", ratio=2 * PACKED, free=4 * FREE)
def _run_codec(parts: Parts, seed: Parts) -> None:
    codec = cell_codec(json.loads(parts[1]))
    framed = codec.decode(parts[0])
    assert isinstance(framed, bytes)
    payload = grids.unframe(framed)
    if b'"checksum": true' in parts[1] or b"crc32c" in parts[1]:
        assert payload in _PAYLOADS, "another payload with a checksum that matches"  # a frame may be spliced in as a whole


@decodes("zstd frame", _codec_seeds((0, 1)), "b-", refit=_bomb, ratio=2 * PACKED, free=4 * FREE)
def _run_zstd(parts: Parts, seed: Parts) -> None:
    problems = 0
    for size in (None, 264, 30_008):
        try:
            out = unpack_zstd(parts[0], size)
            assert size in (None, len(out))
        except ValueError:
            problems += 1
    if problems == 3:
        raise FormatError("no frame")


@decodes("codec documents", lambda: [(json.dumps(c).encode(),) for c in _CODECS], "j")
def _run_codec_document(parts: Parts, seed: Parts) -> None:
    document = {"shape": [2, 2], "data_type": "variable_length_bytes", "fill_value": "", "node_type": "array", "zarr_format": 3}
    document |= {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, 1]}}}
    document |= {"chunk_key_encoding": {"name": "default"}}
    try:
        codecs = json.loads(parts[0])
    except (ValueError, RecursionError):
        return
    if not isinstance(codecs, list):
        codecs = [codecs]
    found = grids.parse_grid_document({**document, "codecs": [{"name": "vlen-bytes"}, *codecs]}, "0/v")
    if found is not None:
        codec = cell_codec(found.spec.codecs)
        if parts != seed:
            codec.decode(b"\0" * 16)


def _catalog_seeds() -> list[Parts]:
    rng = np.random.default_rng(0)
    coords = np.array(sorted({tuple(c) for c in rng.integers(-3, 4, (30, 3)).tolist()}), np.int64)
    n = len(coords)
    columns = {k: rng.integers(1, 1000, n).astype(dtype) for k, (dtype, _) in COLUMNS.items()}
    node = catalogs.Node({"zarr_format": 3, "node_type": "array", "attributes": {"dtype": "float32"}}, "857-17ab")
    arrays = {"vertices": Columns(columns), "vertex_attributes/mass": Columns.empty(n)}
    rows = rng.integers(1, 9, n).astype(np.int64)
    nodes = dict.fromkeys(arrays, node)
    full = catalogs.encode_catalog(catalogs.Catalog(coords, rows, arrays, "", nodes))
    two = catalogs.Catalog(coords[:1], rows[:1], {"vertices": Columns.empty(1)})
    none = catalogs.Catalog(coords[:0], rows[:0], {})
    return [split_payload(c) for c in (full, catalogs.encode_catalog(two), catalogs.encode_catalog(none))]


def _shrink_header(parts: Parts, seed: Parts, rng: random.Random) -> Parts:
    """Now and then another count of everything, so that columns still agree with each other."""
    if rng.random() < 0.9:
        return parts
    try:
        header = json.loads(seed[1])
    except ValueError:
        return parts
    n = rng.choice((0, 1, 2**20, 2**22, 2**24, 2**31 - 1, 2**31, 10))
    name = rng.choice((*HOSTILE_NAMES, "vertices"))
    for column in header["columns"]:
        column["shape"] = [n, *column["shape"][1:]]
        column["name"] = column["name"].replace("vertices", name)
        if column["name"] != "coords" or rng.random() < 0.2:
            column.pop("dtype", None)
            column.pop("nbytes", None)
            column["value"] = rng.choice((0, 1, -1, 2**62))
    header["nodes"] = {name: header.get("nodes", {}).get("vertices", junk(rng))}
    packed = _zeros(n * 3) if n < 2**24 else b""
    for column in header["columns"]:
        if "nbytes" in column:
            column.update(nbytes=len(packed), dtype="|i1")
    return seed[0], json.dumps(header).encode("utf-8", "surrogatepass"), packed


@decodes("catalog", _catalog_seeds, "bjb", refit=_shrink_header, ratio=1000)
def _run_catalog(parts: Parts, seed: Parts) -> None:
    payload = join_payload(parts)
    found = catalogs.decode_catalog(payload)
    n, rank = found.coords.shape
    assert found.rows.shape == (n,)
    assert found.coords.dtype == found.rows.dtype == np.int64
    some = [tuple(c) for c in found.coords[:5000].tolist()]
    assert sorted(set(some)) == some, "chunks out of order, or twice"
    assert rank or not n
    for name in (*found.arrays, *found.nodes):
        keys.check_name(name)  # names are paths below the level: none of them may lead out of it
    for name, columns in found.arrays.items():
        for kind, (dtype, _) in COLUMNS.items():
            try:
                assert columns[kind].shape == (n,)
                assert columns[kind].dtype == dtype
            except FormatError:
                assert parts != seed
                continue
        if n:
            try:
                place = found.locate(name, keys.format_key(found.coords[0]))
                assert place is None or place.nbytes >= 0
            except FormatError:
                assert parts != seed
    if n:
        some = found.coords[: min(n, 50)]
        assert np.array_equal(found.find(some), np.arange(len(some)))
    if parts == seed:
        assert catalogs.decode_catalog(catalogs.encode_catalog(found)).token == found.token


@cache
def _whole_catalog_seeds() -> list[Parts]:
    return [(join_payload(p),) for p in _catalog_seeds()]


@decodes("catalog, checksum", _whole_catalog_seeds, ratio=1000)
def _run_whole_catalog(parts: Parts, seed: Parts) -> None:
    catalogs.decode_catalog(parts[0])
    assert parts[0] in {p for (p,) in _whole_catalog_seeds()}, "the checksum missed it"
