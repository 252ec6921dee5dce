"""The catalog: one small table that says which chunks a group's last commit left, how long each blob is, and where.

It is the payload of the array ``dask_zv_catalog`` in the group: a Zarr node, so that every store can hold it, and an array,
so that tools that walk groups pass it by. Reading works without it; with it, opening and reading cost no listing and no
document per chunk, and a chunk that went missing is known to be missing.

The payload: magic ``DZVC``, ``uint32`` version, ``uint32`` length of a JSON header, the header, the columns as Zstandard
frames in the header's order, ``uint32`` CRC-32C of all before. One object, one checksum: a reader gets the old catalog or
the new one. Columns are unpacked when they are asked for, and a column of one value is that value in the header: a
catalog of a million chunks opens in a fraction of a second. It holds no run id, and of clocks only the stores' own stamps of
objects; but for those, equal contents have equal catalogs.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import google_crc32c
import numpy as np
import zstandard
from numpy.typing import NDArray

from dask_zv.errors import FormatError, InvalidNameError
from dask_zv.format.documents import dump_json, parse_document, parse_json
from dask_zv.format.grids import NONEMPTY
from dask_zv.format.keys import check_name, is_spatial_key, parse_key
from dask_zv.spatial.chunks import ChunkLookup, group_by_chunk
from dask_zv.storage.codecs import unpack_zstd
from dask_zv.storage.receipts import COLUMNS, Columns

CATALOG_NAME = "dask_zv_catalog"
_STAMP = "dask_zv_write"
_MAGIC = b"DZVC"
_VERSION = 2
_MAX_CHUNKS = 1 << 31
_FEW_CHUNKS = 1 << 20
_CHUNKS_PER_BYTE = 64
"""No catalog tells of more than `_FEW_CHUNKS` plus this times its length: each chunk has a checksum that does not compress."""
_MAX_RANK = 16
_FARTHEST = 1 << 62
"""Coordinates of chunks are no more than this, so that sums of two stay within int64; those of keys have 18 digits at most."""
_STORED = ("|i1", "<i2", "<i4", "<i8", "<u4", "<u8")
"""The dtypes of columns as they are stored."""


def stamped_document(document: bytes, stamp: str, path: str, store: str | None = None) -> bytes:
    """Return the document of a catalog with a stamp that says which write its commit was of."""
    found = parse_document(document, path, store)
    return dump_json({**found, "attributes": {**(found.get("attributes") or {}), _STAMP: stamp}})


def catalog_stamp(document: bytes, path: str, store: str | None = None) -> str | None:
    """Return the stamp in a catalog's document, None where there is none."""
    attributes = parse_document(document, path, store).get("attributes")
    stamp = attributes.get(_STAMP) if isinstance(attributes, Mapping) else None
    if stamp is not None and not isinstance(stamp, str):
        raise FormatError("the stamp of the last write is no string", store=store, array=path)
    return stamp


@dataclass(frozen=True, slots=True)
class BlobPlace:
    """Where a blob is: `shard` is -1 for a blob of its own; `offset` counts from the shard's start.

    `stored` is the length there, after compression; `crc` the checksum of the stored bytes.
    """

    nbytes: int
    shard: int
    offset: int
    stored: int
    crc: int


@dataclass(frozen=True, slots=True)
class Node:
    """What a grid array's document said when the catalog was written."""

    document: Mapping[str, Any]  # the document without its list of chunks
    identity: str  # of the document's object; see :meth:`~dask_zv.storage.objects.Objects.identities`

    @classmethod
    def of(cls, document: Mapping[str, Any], identity: str | None) -> Node:
        """Return the node of a document as it is stored."""
        attributes = {k: v for k, v in document["attributes"].items() if k != NONEMPTY}
        return cls({**document, "attributes": attributes}, identity or "")


@dataclass(frozen=True, eq=False)
class Catalog(ChunkLookup):
    """The chunks of a group.

    `coords`: shape (n, K): chunk coordinates, ascending.
    """

    rows: NDArray[np.int64]  # shape (n,): vertices in each chunk, -1 where the writer did not say
    arrays: Mapping[str, Columns]
    token: str = field(default="")  # digest of the whole catalog
    nodes: Mapping[str, Node] = field(default_factory=dict)  # documents of the arrays (layout ``grid``)
    edit: str = ""  # which edit wrote it, if one did: after each the token is another, whatever it has changed

    def locate(self, array: str, key: str) -> BlobPlace | None:
        """Return where a blob is, None where the catalog has no such blob."""
        columns = self.arrays.get(array)
        if columns is None or not is_spatial_key(key):
            return None
        row = int(self.find(np.array([parse_key(key)], np.int64))[0])
        if row < 0 or columns.nbytes[row] < 0:
            return None
        return BlobPlace(*(int(columns[kind][row]) for kind in ("nbytes", "shard", "offset", "stored", "crc")))

    def without(self, arrays: Collection[str]) -> Catalog:
        """Return the catalog of the other arrays."""
        kept = {n: c for n, c in self.arrays.items() if n not in arrays}
        return replace(self, arrays=kept, nodes={n: d for n, d in self.nodes.items() if n not in arrays})

    def chunks_of(self, array: str) -> NDArray[np.bool_]:
        """Return which rows of :attr:`coords` have a blob in `array`."""
        columns = self.arrays.get(array)
        return np.zeros(len(self), bool) if columns is None else columns.have


class _Packed(Mapping[str, "NDArray[Any]"]):
    """Columns of an encoded catalog, each unpacked when it is first asked for."""

    def __init__(self, packed: Mapping[str, tuple[Any, Any]]) -> None:
        self._packed = packed
        self._unpacked: dict[str, NDArray[Any]] = {}

    def __getitem__(self, kind: str) -> NDArray[Any]:
        if kind not in self._unpacked:
            unpack, dtype = self._packed[kind]
            self._unpacked[kind] = unpack().astype(dtype, copy=False)
        return self._unpacked[kind]

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)


def _narrow(values: NDArray[Any]) -> NDArray[Any]:
    """Return `values` in the smallest dtype that holds them: small columns read and compress faster."""
    if values.dtype.kind == "i" and values.size:
        low, high = int(values.min()), int(values.max())
        for dtype in (np.int8, np.int16, np.int32):
            if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
                return values.astype(dtype)
    return values


def encode_catalog(catalog: Catalog) -> bytes:
    """Return the payload of a catalog."""
    # one at a time: a column of few chunks is as long as any while it is looked at
    columns = chain(
        [("coords", catalog.coords), ("rows", catalog.rows)],
        ((f"{kind}:{name}", catalog.arrays[name][kind]) for name in sorted(catalog.arrays) for kind in COLUMNS),
    )
    codec = zstandard.ZstdCompressor(level=1)
    described: list[dict[str, Any]] = []
    frames: list[bytes] = []
    for name, values in columns:
        column: dict[str, Any] = {"name": name, "shape": list(values.shape)}
        if values.ndim == 1 and len(values) and (values == values[0]).all():
            described.append({**column, "value": int(values[0])})
            continue
        narrow = _narrow(values)
        narrow = np.ascontiguousarray(narrow, narrow.dtype.newbyteorder("<"))
        frame = codec.compress(narrow.tobytes()) if narrow.size else b""
        described.append({**column, "dtype": narrow.dtype.str, "nbytes": len(frame)})
        frames.append(frame)
    nodes = {name: {"document": n.document, "identity": n.identity} for name, n in sorted(catalog.nodes.items())}
    edit = {"edit": catalog.edit} if catalog.edit else {}
    header = json.dumps({"columns": described, "nodes": nodes, **edit}, separators=(",", ":")).encode()
    body = b"".join((_MAGIC, _VERSION.to_bytes(4, "little"), len(header).to_bytes(4, "little"), header, *frames))
    return body + int(google_crc32c.value(body)).to_bytes(4, "little")


def decode_catalog(payload: bytes, *, store: str | None = None, array: str | None = None) -> Catalog:
    """Return the catalog in `payload`."""

    def bad(what: str) -> FormatError:
        return FormatError(f"the catalog is damaged ({what}): store.refresh() rebuilds it", store=store, array=array)

    if len(payload) < 16 or payload[:4] != _MAGIC:
        raise bad("no DZVC magic")
    if int(google_crc32c.value(payload[:-4])) != int.from_bytes(payload[-4:], "little"):
        raise bad("its checksum does not match")
    version = int.from_bytes(payload[4:8], "little")
    if version != _VERSION:
        raise bad(f"version {version}, this release reads {_VERSION}")
    end = 12 + int.from_bytes(payload[8:12], "little")
    packed: dict[str, Any] = {}
    shapes: dict[str, list[int]] = {}
    try:
        header = parse_json(payload[12:end])
        for column in header["columns"]:
            name, shape = column["name"], column["shape"]
            if not isinstance(name, str) or not isinstance(shape, list) or len(shape) not in (1, 2):
                raise bad(f"column {name!r:.40} of shape {shape!r:.40}")
            if not all(type(s) is int and 0 <= s < _MAX_CHUNKS for s in shape):
                raise bad(f"column {name!r:.40} of shape {shape!r:.40}")
            shapes[name] = shape
            if "value" in column:
                packed[name] = _constant(column["value"], shape)
                continue
            nbytes = column["nbytes"]
            if type(nbytes) is not int or not 0 <= nbytes <= len(payload) - 4 - end:
                raise bad(f"column {name!r} of {nbytes!r} bytes")
            packed[name] = _column(payload[end : end + nbytes], column["dtype"], shape)
            end += nbytes
        count, *axes = shapes["coords"]  # before anything is unpacked: a column of one value has any length for nothing
        if len(axes) != 1 or (count and not axes[0]):
            raise bad(f"coordinates of shape {shapes['coords']}")
        odd = next((n for n, shape in shapes.items() if n != "coords" and shape != [count]), None)
        if odd is not None:
            raise bad(f"column {odd!r:.80} is not as long as the coordinates")
        if axes[0] > _MAX_RANK or count > _FEW_CHUNKS + _CHUNKS_PER_BYTE * len(payload):
            raise bad(f"{len(payload)} bytes for {count} chunks of rank {axes[0]}")
        for name in {*(n.partition(":")[2] for n in packed if ":" in n), *header["nodes"]}:
            check_name(name, "the name of an array in the catalog")  # it is a path in the store
        coords = _ascending(packed["coords"]()).astype(np.int64)
        rows = packed["rows"]().astype(np.int64)
        names = [n.removeprefix("nbytes:") for n in packed if n.startswith("nbytes:")]
        arrays = {
            n: Columns(_Packed({kind: (packed[f"{kind}:{n}"], dtype) for kind, (dtype, _) in COLUMNS.items()})) for n in names
        }
        nodes = {n: Node(dict(v["document"]), str(v["identity"])) for n, v in header["nodes"].items()}
    except FormatError:
        raise
    except InvalidNameError as error:
        raise bad(error.message) from error
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError, AttributeError) as error:
        raise bad(f"{error!r:.200}") from error
    return Catalog(coords, rows, arrays, hashlib.sha256(payload).hexdigest(), nodes, str(header.get("edit", "")))


def _ascending(coords: NDArray[Any]) -> NDArray[Any]:
    """Return coordinates of chunks, none of which comes twice: lookups rely on their order."""
    later = np.zeros(max(0, len(coords) - 1), bool)
    same = ~later
    for axis in range(coords.shape[1]):  # column by column: the first that differs tells
        before, after = coords[:-1, axis], coords[1:, axis]
        later |= same & (after > before)
        same &= after == before
    if not later.all():
        raise ValueError("its chunks are not in order")
    if len(coords) and (
        coords.dtype.kind == "u" or not all(-_FARTHEST <= int(c) <= _FARTHEST for c in (coords.min(), coords.max()))
    ):
        raise ValueError("its chunks lie beyond all keys")
    return coords


def _constant(value: object, shape: list[int]) -> Any:
    if type(value) is not int or not -(1 << 63) <= value < 1 << 64 or len(shape) != 1:
        raise ValueError(f"a column of shape {shape} of {value!r:.40}")
    dtype = np.int64 if value < 1 << 63 else np.uint64
    # a view of one value: what is allocated is bounded whatever the shape says
    return lambda: np.broadcast_to(np.array(value, dtype), shape)


def _column(frame: bytes, dtype_name: object, shape: list[int]) -> Any:
    if dtype_name not in _STORED:
        raise ValueError(f"a column of {dtype_name!r:.40}")
    dtype = np.dtype(str(dtype_name))
    nbytes = math.prod(shape) * dtype.itemsize

    def unpack() -> NDArray[Any]:
        try:
            return np.frombuffer(unpack_zstd(frame, nbytes) if nbytes else b"", dtype).reshape(shape)
        except ValueError as error:
            raise FormatError(f"the catalog is damaged ({error}): store.refresh() rebuilds it") from error

    return unpack


def merge_catalog(
    old: Catalog | None,
    coords: NDArray[np.int64],
    rows: NDArray[np.int64],
    arrays: Mapping[str, Columns],
    nodes: Mapping[str, Node] | None = None,
) -> Catalog:
    """Return `old` with new entries: blobs named in both are the new ones.

    A chunk's old number of rows stays where the new entry has none, unless a blob was replaced by one of another length: then
    nobody knows.

    `coords, rows, arrays, nodes`: the new entries, as in :class:`Catalog`; coordinates unique, in any order.
    """
    nodes = {**(old.nodes if old is not None else {}), **(nodes or {})}
    if old is not None and not len(coords):
        return Catalog(old.coords, old.rows, {**{n: Columns.empty(len(old)) for n in arrays}, **old.arrays}, "", nodes)
    if old is None or not len(old):
        order = np.lexsort(coords.T[::-1]) if len(coords) else np.zeros(0, np.intp)
        return Catalog(coords[order], rows[order], {n: c.take(order) for n, c in arrays.items()}, "", nodes)
    both, at_old, at_new = _union(old, coords)

    def place(before: NDArray[Any] | None, after: NDArray[Any] | None, fill: int, dtype: Any, keep: Any) -> NDArray[Any]:
        out = np.full(len(both), fill, dtype)
        if before is not None:
            out[at_old] = before
        if after is not None:
            out[at_new[keep]] = after[keep]
        return out

    merged: dict[str, Columns] = {}
    for name in {*old.arrays, *arrays}:
        was, new = old.arrays.get(name), arrays.get(name)
        keep = new.have if new is not None else None
        merged[name] = Columns(
            {
                kind: place(None if was is None else was[kind], None if new is None else new[kind], fill, dtype, keep)
                for kind, (dtype, fill) in COLUMNS.items()
            }
        )
    known = place(old.rows, rows, -1, np.int64, rows >= 0)
    for name in {*old.arrays} & {*arrays}:
        before = np.full(len(both), -1, np.int64)
        before[at_old] = old.arrays[name].nbytes
        after = arrays[name].nbytes
        changed = (rows < 0) & (after >= 0) & (before[at_new] >= 0) & (before[at_new] != after)
        known[at_new[changed]] = -1
    return Catalog(both, known, merged, "", nodes)


def _union(old: Catalog, coords: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the coordinates of both, ascending, and the rows of the old and of the new among them."""
    both, inverse = group_by_chunk(np.concatenate([old.coords, coords]))
    return both, inverse[: len(old)], inverse[len(old) :]
