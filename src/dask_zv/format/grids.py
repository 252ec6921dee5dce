"""Arrays of the layout ``grid``: their document (extents, origin, shards, codecs, chunks), cells, and indexes of shards.

A cell is a chunk of one item of Zarr's codec ``vlen-bytes``, a shard that of ``sharding_indexed``. Source: FORMAT.md C.1 to
C.4; Zarr v3 core specification.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import BoundsError, FormatError, MetadataError
from dask_zv.format.documents import array_document
from dask_zv.format.keys import is_spatial_key, parse_key

EMPTY = np.iinfo(np.uint64).max
"""Offset and length of a cell that a shard does not have."""
_HEADER = struct.Struct("<II")
FRAME_NBYTES = _HEADER.size
"""What a frame adds to its payload."""
NONEMPTY = "nonempty_chunks"
ORIGIN = "chunk_grid_origin"

_LIMIT = 1 << 53
MAX_SHARD_CELLS = 1 << 26
"""Cells of a shard: the index of so many has a gigabyte, and is read as a whole."""
_INDEX_CODECS = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
_COMPRESSORS: dict[str, list[dict[str, Any]]] = {
    "none": [],
    # with a checksum: a flipped bit may well leave a frame that unpacks
    "zstd": [{"name": "zstd", "configuration": {"level": 1, "checksum": True}}],
    "blosc": [
        {
            "name": "blosc",
            "configuration": {"typesize": 4, "cname": "zstd", "clevel": 5, "shuffle": "bitshuffle", "blocksize": 0},
        }
    ],
}


def codec_list(compressor: object) -> tuple[Mapping[str, Any], ...]:
    """Return the bytes-to-bytes codecs that a compressor's name stands for, as they are written in a document."""
    if compressor is None or compressor is False:
        return ()
    if isinstance(compressor, str):
        if compressor not in _COMPRESSORS:
            raise MetadataError(f"compressor {compressor!r}: one of 'zstd', 'blosc', None, or a list of Zarr codecs")
        return tuple(_COMPRESSORS[compressor])
    if isinstance(compressor, Mapping):
        compressor = [compressor]
    if hasattr(compressor, "to_dict"):
        compressor = [compressor.to_dict()]
    if not isinstance(compressor, Sequence):
        raise MetadataError(f"compressor {compressor!r}: one of 'zstd', 'blosc', None, or a list of Zarr codecs")
    out = [c.to_dict() if hasattr(c, "to_dict") else c for c in compressor]
    if not all(isinstance(c, Mapping) and isinstance(c.get("name"), str) for c in out):
        raise MetadataError(f"compressor {compressor!r}: Zarr codecs are given as {{'name': ..., 'configuration': ...}}")
    return tuple(json.loads(json.dumps(c)) for c in out)


@dataclass(frozen=True, slots=True)
class GridSpec:
    """Where the cells of a grid array are, and how they are encoded."""

    shape: tuple[int, ...]  # Cells along each axis
    origin: tuple[int, ...]  # Chunk coordinates of the first cell
    shard_shape: tuple[int, ...] | None = None  # Cells of a shard; None where every cell is an object of its own
    codecs: tuple[Mapping[str, Any], ...] = ()  # Bytes-to-bytes codecs of a cell, after ``vlen-bytes``

    @property
    def rank(self) -> int:
        """Rank K of the chunk keys."""
        return len(self.shape)

    @property
    def shard_cells(self) -> int:
        """Cells in a shard."""
        return math.prod(self.shard_shape or (1,))

    def contains(self, coords: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which chunks have a cell: coords (n, K) to bool (n,)."""
        cells = coords - np.asarray(self.origin, np.int64)
        return np.asarray(((cells >= 0) & (cells < np.asarray(self.shape, np.int64))).all(axis=1), bool)

    def cells_of(self, coords: NDArray[np.int64], array: str | None = None) -> NDArray[np.int64]:
        """Return the cell of each chunk, shape (n, K)."""
        if coords.shape[1] != self.rank:
            raise BoundsError(f"chunk keys of rank {coords.shape[1]} in a grid of rank {self.rank}", array=array)
        inside = self.contains(coords)
        if not inside.all():
            outside = coords[~inside][0].tolist()
            last = [o + s - 1 for o, s in zip(self.origin, self.shape, strict=True)]
            raise BoundsError(
                f"the chunk lies outside the array's grid, which goes from {list(self.origin)} to {last}: make the store with "
                "larger bounds, or give it larger ones first with store.expand(bounds)",
                array=array, chunk=".".join(map(str, outside)),
            )  # fmt: skip
        return coords - np.asarray(self.origin, np.int64)

    def shards_of(self, cells: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the shard of each cell, shape (n, K), and the cell's number in its shard, shape (n,)."""
        assert self.shard_shape is not None
        shape = np.asarray(self.shard_shape, np.int64)
        shards = cells // shape
        local = cells - shards * shape
        return shards, np.asarray(np.ravel_multi_index(tuple(local.T), self.shard_shape), np.int64)

    def objects_of(self, coords: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the place, shape (n, K), of the stored object that holds each chunk: its cell, or its shard."""
        cells = self.cells_of(coords)
        return cells if self.shard_shape is None else cells // np.asarray(self.shard_shape, np.int64)


@dataclass(frozen=True, slots=True)
class GridArray:
    """What a grid array's document says."""

    spec: GridSpec
    attributes: Mapping[str, Any]  # All but the two that the grid itself uses
    nonempty: frozenset[str] | None  # Keys of the chunks that are there; None where the writer left no list
    plain: bool = True  # Cells can be read without zarr: separator, index codecs and fill value are the usual ones


def grid_document(spec: GridSpec, attributes: Mapping[str, Any], nonempty: Iterable[str]) -> dict[str, Any]:
    """Return the document of a grid array; the list of chunks is sorted as strings, as its other writers do."""
    inner: list[Mapping[str, Any]] = [{"name": "vlen-bytes", "configuration": {}}, *spec.codecs]
    ones = [1] * spec.rank
    outer: list[Mapping[str, Any]] = inner
    if spec.shard_shape is not None:
        configuration = {"chunk_shape": ones, "codecs": inner, "index_codecs": _INDEX_CODECS, "index_location": "end"}
        outer = [{"name": "sharding_indexed", "configuration": configuration}]
    own: dict[str, Any] = {NONEMPTY: sorted(nonempty)}
    if any(spec.origin):
        own[ORIGIN] = list(spec.origin)
    chunk = spec.shard_shape or ones
    return array_document(spec.shape, "variable_length_bytes", chunk, "", outer, {**own, **attributes})


def parse_grid_document(document: Mapping[str, Any], path: str, store: str | None = None) -> GridArray | None:
    """Return what a node's document says, None where it is no grid array (a group, or an ordinary array)."""

    def wrong(what: str) -> MetadataError:
        return MetadataError(f"the zarr.json of '/{path}' is damaged: {what}", store=store, array=path)

    if document.get("node_type") != "array" or document.get("data_type") not in ("variable_length_bytes", "bytes"):
        return None
    try:
        shape = _integers(document["shape"])
        chunk = _integers(document["chunk_grid"]["configuration"]["chunk_shape"])
        encoding = document["chunk_key_encoding"]
        separator = (encoding.get("configuration") or {}).get("separator", "/")
        codecs = [_codec(c) for c in document["codecs"]]
        attributes = dict(document.get("attributes", {}))
        plain = (
            document["chunk_grid"]["name"] == "regular"
            and encoding["name"] == "default"
            and separator == "/"
            and not document.get("storage_transformers")
        )
        shard_shape = None
        if len(codecs) == 1 and codecs[0]["name"] == "sharding_indexed":
            inner = codecs[0]["configuration"]
            shard_shape = chunk
            codecs = [_codec(c) for c in inner["codecs"]]
            names = [_codec(c)["name"] for c in inner["index_codecs"]]
            plain = plain and names == ["bytes", "crc32c"] and inner.get("index_location", "end") == "end"
            chunk = _integers(inner["chunk_shape"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise wrong(f"{error!r:.200}") from error
    ranks = {len(shape), len(chunk), len(chunk if shard_shape is None else shard_shape)}
    if len(ranks) != 1 or any(c < 1 for c in (*chunk, *(shard_shape or ()))):
        raise wrong(f"shape {shape} with chunks of {chunk}")
    if shard_shape is not None and math.prod(shard_shape) > MAX_SHARD_CELLS:
        raise wrong(f"shards of {shard_shape} cells; up to {MAX_SHARD_CELLS} are read")
    if any(c != 1 for c in chunk) or len(shape) < 2:
        return None  # manifests, groups: arrays of variable-length bytes that are no chunk grid
    if not codecs or codecs[0]["name"] != "vlen-bytes":
        raise wrong(f"its codecs are {[c['name'] for c in codecs]}, the first must be vlen-bytes")
    origin = attributes.pop(ORIGIN, [0] * len(shape))
    listed = attributes.pop(NONEMPTY, None)
    if not isinstance(origin, list) or len(origin) != len(shape) or not all(_is_integer(o) for o in origin):
        raise wrong(f"{ORIGIN} is {origin!r:.80}")
    if listed is not None:
        if not isinstance(listed, list) or not all(isinstance(k, str) for k in listed):
            raise wrong(f"{NONEMPTY} is not a list of chunk keys")
        if len(listed) > math.prod(shape):
            raise wrong(f"{NONEMPTY} has {len(listed):,} keys, and the grid {math.prod(shape):,} cells")
        listed = frozenset(listed)
        odd = next((k for k in listed if k.count(".") + 1 != len(shape) or not is_spatial_key(k)), None)
        if odd is not None:
            raise wrong(f"{NONEMPTY} has the key {odd!r}, keys have rank {len(shape)}")
    spec = GridSpec(shape, tuple(origin), shard_shape, tuple(codecs[1:]))
    return GridArray(spec, attributes, listed, plain)


def _codec(value: object) -> Mapping[str, Any]:
    """Return a codec's document; Zarr allows its name alone."""
    codec = value if isinstance(value, Mapping) else {"name": value}
    if not isinstance(codec["name"], str) or not isinstance(codec.get("configuration") or {}, Mapping):
        raise TypeError(f"{value!r:.80} is no codec")
    return codec


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LIMIT


def _integers(values: object) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(_is_integer(v) and v >= 0 for v in values):
        raise ValueError(f"{values!r:.80} is no list of extents")
    return tuple(values)


def cell_path(path: str, cell: Sequence[int]) -> str:
    """Return the key of a cell's (or a shard's) object of the array at `path`."""
    return f"{path}/c/{'/'.join(map(str, cell))}"


def listed_coords(keys: Iterable[str], rank: int) -> NDArray[np.int64]:
    """Return the coordinates of chunk keys, ascending, shape (n, rank)."""
    return np.array(sorted(parse_key(k) for k in keys), np.int64).reshape(-1, rank)


# -------------------------------------------------------------------------------------------------- bytes


def header(nbytes: int) -> bytes:
    """Return what comes before a payload of `nbytes`: ``uint32`` 1 (items), ``uint32`` length."""
    if nbytes >= 1 << 32:
        raise FormatError(f"a chunk of {nbytes:,} bytes: a cell holds less than 4 GiB, choose a smaller chunk_shape")
    return _HEADER.pack(1, nbytes)


def frame(payload: bytes) -> bytes:
    """Return a cell's bytes before compression: its header, and the payload."""
    return header(len(payload)) + payload


def unframe(data: bytes) -> bytes:
    """Return the payload of a decompressed cell."""
    if len(data) < 8:
        raise FormatError(f"the cell has {len(data)} bytes, its header alone has 8")
    items, nbytes = _HEADER.unpack_from(data)
    if items != 1 or nbytes != len(data) - 8:
        raise FormatError(f"the cell's header says {items} items, the first of {nbytes} bytes; {len(data) - 8} bytes follow")
    return data[8:]


def index_nbytes(cells: int) -> int:
    """Return the length of the index of a shard of `cells` cells: offset and length of each, and a CRC-32C."""
    return 16 * cells + 4


def pack_index(places: NDArray[np.uint64]) -> bytes:
    """Return the index of a shard. Shapes: `places` (cells, 2)."""
    body = np.ascontiguousarray(places, "<u8").tobytes()
    return body + struct.pack("<I", int(google_crc32c.value(body)))


def unpack_index(data: bytes, cells: int, limit: int | None = None) -> NDArray[np.uint64]:
    """Return the offset and length of each cell, shape (cells, 2)."""
    if len(data) != index_nbytes(cells):
        raise FormatError(f"the shard's index has {len(data)} bytes, {index_nbytes(cells)} are wanted for {cells} cells")
    if int(google_crc32c.value(data[:-4])) != struct.unpack("<I", data[-4:])[0]:
        raise FormatError("the checksum of the shard's index does not match")
    places = np.frombuffer(data[:-4], "<u8").reshape(cells, 2).astype(np.uint64, copy=False)
    if limit is not None:
        have = places[:, 1] != EMPTY
        offsets, lengths = places[have, 0], places[have, 1]
        if (offsets > limit).any() or (lengths > np.uint64(limit) - offsets).any():  # a sum may not fit into 64 bits
            raise FormatError(f"the shard's index names bytes beyond its end at {limit}")
    return places
