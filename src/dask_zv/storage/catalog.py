"""The catalog: one small table that says which chunks a group's last commit left, how long each blob is, and where.

It is the payload of the array ``dask_zv_catalog`` in the group: a Zarr node, so that every store can hold it, and an array,
so that tools that walk groups pass it by. Reading works without it; with it, opening and reading cost no listing and no
document per chunk, and a chunk that went missing is known to be missing.

The payload: magic ``DZVC``, ``uint32`` version, ``uint32`` length of a JSON header, the header, the columns as Zstandard
frames in the header's order, ``uint32`` CRC-32C of all before. One object, one checksum: a reader gets the old catalog or
the new one. It holds no clock and no run id, so equal contents have equal catalogs.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import google_crc32c
import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from dask_zv.errors import FormatError
from dask_zv.format.keys import is_spatial_key, parse_key
from dask_zv.storage.frames import unpack_frame

__all__ = ["CATALOG_NAME", "Catalog", "Columns", "Place", "decode_catalog", "encode_catalog", "merge_catalog"]

CATALOG_NAME = "dask_zv_catalog"
_MAGIC = b"DZVC"
_VERSION = 1
_MAX_CHUNKS = 1 << 31
_COLUMNS = {"nbytes": np.int64, "shard": np.int64, "offset": np.int64, "crc": np.uint32}
_STORED = ("|i1", "<i2", "<i4", "<i8", "<u4")
"""The dtypes of columns as they are stored."""
_FILL = {"nbytes": -1, "shard": -1, "offset": 0, "crc": 0}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a blob is: `shard` is -1 for a blob of its own; `offset` counts from the shard's start."""

    nbytes: int
    shard: int
    offset: int
    crc: int


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """One array's columns, row-aligned with the catalog's coordinates.

    Attributes
    ----------
    nbytes : ndarray of int64, shape (n,)
        Length of each blob, -1 where the array has none.
    shard : ndarray of int64, shape (n,)
        Number of the shard that holds it, -1 where it is an array of its own.
    offset : ndarray of int64, shape (n,)
        Where it starts in the shard.
    crc : ndarray of uint32, shape (n,)
        CRC-32C of the payload.
    """

    nbytes: NDArray[np.int64]
    shard: NDArray[np.int64]
    offset: NDArray[np.int64]
    crc: NDArray[np.uint32]

    def take(self, order: NDArray[np.intp]) -> Columns:
        """Return the rows in another order."""
        return Columns(self.nbytes[order], self.shard[order], self.offset[order], self.crc[order])


@dataclass(frozen=True, eq=False)
class Catalog:
    """The chunks of a group.

    Attributes
    ----------
    coords : ndarray of int64, shape (n, K)
        Chunk coordinates, ascending.
    rows : ndarray of int64, shape (n,)
        Vertices in each chunk, -1 where the writer did not say.
    arrays : dict of str to Columns
    token : str
        Digest of the whole catalog.
    """

    coords: NDArray[np.int64]
    rows: NDArray[np.int64]
    arrays: Mapping[str, Columns]
    token: str = field(default="")

    def __len__(self) -> int:
        return len(self.coords)

    @cached_property
    def _rows_by_key(self) -> dict[tuple[int, ...], int]:
        return {tuple(c): i for i, c in enumerate(self.coords.tolist())}

    def locate(self, array: str, key: str) -> Place | None:
        """Return where a blob is, None where the catalog has no such blob."""
        columns = self.arrays.get(array)
        row = self._rows_by_key.get(parse_key(key)) if columns is not None and is_spatial_key(key) else None
        if columns is None or row is None or columns.nbytes[row] < 0:
            return None
        return Place(int(columns.nbytes[row]), int(columns.shard[row]), int(columns.offset[row]), int(columns.crc[row]))

    def covers(self, addresses: Iterable[tuple[str, str]]) -> bool:
        """Tell whether any of the (array, chunk key) addresses is in the catalog."""
        return any(self.locate(*a) is not None for a in addresses)

    def chunks_of(self, array: str) -> NDArray[np.bool_]:
        """Tell which rows of :attr:`coords` have a blob in `array`."""
        columns = self.arrays.get(array)
        return np.zeros(len(self), bool) if columns is None else columns.nbytes >= 0


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
    columns: list[tuple[str, NDArray[Any]]] = [("coords", catalog.coords), ("rows", catalog.rows)]
    for name in sorted(catalog.arrays):
        c = catalog.arrays[name]
        columns += [(f"{kind}:{name}", getattr(c, kind)) for kind in _COLUMNS]
    codec = Zstd(level=1)
    described, frames = [], []
    for name, values in columns:
        narrow = _narrow(values)
        narrow = np.ascontiguousarray(narrow, narrow.dtype.newbyteorder("<"))
        frame = bytes(codec.encode(narrow)) if narrow.size else b""
        described.append({"name": name, "dtype": narrow.dtype.str, "shape": list(narrow.shape), "nbytes": len(frame)})
        frames.append(frame)
    header = json.dumps({"columns": described}, separators=(",", ":")).encode()
    body = b"".join((_MAGIC, _VERSION.to_bytes(4, "little"), len(header).to_bytes(4, "little"), header, *frames))
    return body + int(google_crc32c.value(body)).to_bytes(4, "little")


def decode_catalog(payload: bytes, *, store: str | None = None, array: str | None = None) -> Catalog:
    """Return the catalog in `payload`.

    Raises
    ------
    FormatError
        It is damaged, or of a version that this release does not know.
    """

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
    values: dict[str, NDArray[Any]] = {}
    try:
        for column in json.loads(payload[12:end])["columns"]:
            name, nbytes = column["name"], column["nbytes"]
            if not isinstance(name, str) or type(nbytes) is not int or nbytes < 0:
                raise bad(f"column {name!r} of {nbytes!r} bytes")
            values[name] = _decode_column(payload[end : end + nbytes], column["dtype"], column["shape"])
            end += nbytes
        coords, rows = values.pop("coords").astype(np.int64), values.pop("rows").astype(np.int64)
        arrays = {
            name: Columns(*(values[f"{kind}:{name}"].astype(dtype) for kind, dtype in _COLUMNS.items()))
            for name in (n.removeprefix("nbytes:") for n in values if n.startswith("nbytes:"))
        }
    except FormatError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise bad(repr(error)) from error
    for name, columns in arrays.items():
        if any(getattr(columns, kind).shape != (len(coords),) for kind in _COLUMNS):
            raise bad(f"the columns of {name!r} differ in length")
    if coords.ndim != 2 or rows.shape != (len(coords),):
        raise bad("coords and rows disagree")
    return Catalog(coords, rows, arrays, hashlib.sha256(payload).hexdigest())


def _decode_column(frame: bytes, dtype_name: object, shape: object) -> NDArray[Any]:
    if dtype_name not in _STORED or not isinstance(shape, list) or len(shape) not in (1, 2):
        raise ValueError(f"a column of {dtype_name!r:.40} {shape!r:.40}")
    dtype = np.dtype(str(dtype_name))
    if not all(type(s) is int and 0 <= s < _MAX_CHUNKS for s in shape):
        raise ValueError(f"a column of shape {shape}")
    # by the frame's own header first: what is allocated is bounded by what the frame can hold
    nbytes = math.prod(shape) * dtype.itemsize
    return np.frombuffer(unpack_frame(frame, nbytes) if nbytes else b"", dtype).reshape(shape)


def merge_catalog(
    old: Catalog | None,
    coords: NDArray[np.int64],
    rows: NDArray[np.int64],
    arrays: Mapping[str, Columns],
) -> Catalog:
    """Return `old` with new entries: blobs named in both are the new ones.

    A chunk's old number of rows stays where the new entry has none, unless a blob was replaced by one of another length:
    then nobody knows.

    Parameters
    ----------
    old : Catalog or None
    coords, rows, arrays
        The new entries, as in :class:`Catalog`; coordinates unique, in any order.
    """
    if old is not None and not len(coords):
        return old
    if old is None or not len(old):
        order = np.lexsort(coords.T[::-1]) if len(coords) else np.zeros(0, np.intp)
        return Catalog(coords[order], rows[order], {n: c.take(order) for n, c in arrays.items()})
    both, inverse = np.unique(np.concatenate([old.coords, coords]), axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    at_old, at_new = inverse[: len(old)], inverse[len(old) :]

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
        keep = new.nbytes >= 0 if new is not None else None
        merged[name] = Columns(
            *(
                place(getattr(was, kind, None), getattr(new, kind, None), _FILL[kind], dtype, keep)
                for kind, dtype in _COLUMNS.items()
            )
        )
    known = place(old.rows, rows, -1, np.int64, rows >= 0)
    for name in {*old.arrays} & {*arrays}:
        before = np.full(len(both), -1, np.int64)
        before[at_old] = old.arrays[name].nbytes
        after = arrays[name].nbytes
        changed = (rows < 0) & (after >= 0) & (before[at_new] >= 0) & (before[at_new] != after)
        known[at_new[changed]] = -1
    return Catalog(both, known, merged)
