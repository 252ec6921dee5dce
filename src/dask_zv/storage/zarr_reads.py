"""Arrays by their documents: blobs of one array each, decoded here or by zarr, and the store that zarr reads through.

Zarr takes memory for all that a document claims; what is left to it is looked at before, and unpacked in bounded memory.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import zipfile
import zlib
from asyncio import to_thread
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Self

import numpy as np
import zarr
from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.codec import BytesBytesCodec
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.storage import StorePath, WrapperStore

from dask_zv.errors import FormatError, StoreError, ZVError
from dask_zv.format.documents import PAYLOAD_CRC32C, BlobDocument, parse_blob_document
from dask_zv.format.keys import DOCUMENT, confined
from dask_zv.storage.codecs import cell_codec, crc32c, unpack_zstd
from dask_zv.storage.objects import Objects

_MAX_ZEROS = 1 << 26
"""A chunk that is left out and means so many zeros costs its document alone: more are taken for a lost chunk."""
Get = Callable[[str, BufferPrototype, ByteRequest | None], Awaitable[Buffer | None]]


class ZarrReads(WrapperStore[Store]):
    """A zarr store with another `get`.

    Zarr's own stores raise what their clients raise: that names no store, may quote a secret, and was not tried again.

    `store`: asked for all but contents; `get`: returns the contents of an object, or None where it is absent.
    """

    def __init__(self, store: Store, get: Get) -> None:
        super().__init__(store)
        self._read = get

    def _with_store(self, store: Store) -> Self:
        return type(self)(store, self._read)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        return await self._read(key, prototype, byte_range)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return list(await asyncio.gather(*(self._read(key, prototype, wanted) for key, wanted in key_ranges)))

    async def _get_many(
        self, requests: Iterable[tuple[str, BufferPrototype, ByteRequest | None]]
    ) -> AsyncGenerator[tuple[str, Buffer | None], None]:
        for key, prototype, wanted in requests:
            yield key, await self._read(key, prototype, wanted)


_FREE_MEMBER = 64 << 20
_MEMBER_RATIO = 64
"""A member has at most `_FREE_MEMBER` bytes and this times what is stored of it."""


class ZipReads:
    """Reads members, for :class:`~dask_zv.storage.zarr_reads.ZarrReads`.

    zarr's own store unpacks all that a member's stream gives, whatever length the zip file says.
    """

    def __init__(self, path: Path) -> None:
        self._zip = zipfile.ZipFile(path)

    async def __call__(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None) -> Buffer | None:
        """Return the bytes of a member, or some of them; None where there is none."""
        try:
            member = self._zip.getinfo(key)
        except KeyError:
            return None
        self._check(member)
        start, stop = 0, member.file_size
        match byte_range:
            case RangeByteRequest(start=start, end=end):
                stop = min(end, stop)
            case OffsetByteRequest(offset=start):
                pass
            case SuffixByteRequest(suffix=suffix):
                start = max(0, stop - suffix)
        with self._zip.open(member) as file:
            if start:
                file.seek(start)
            # a length asked for is a bound of what is unpacked
            return prototype.buffer.from_bytes(file.read(stop - start) if stop > start else b"")

    def _check(self, member: zipfile.ZipInfo) -> None:
        name = self._zip.filename
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise StoreError(
                f"'/{member.filename}' in '{name}' is compressed in a way that cannot be unpacked in bounded memory: make "
                "the zip file with stored or deflated members"
            )
        if member.file_size > _FREE_MEMBER + _MEMBER_RATIO * member.compress_size:
            raise StoreError(
                f"'/{member.filename}' in '{name}' claims {member.file_size:,} bytes, packed into {member.compress_size:,}: it "
                "is damaged, or hostile"
            )


ZARR_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError, MemoryError, OSError, RuntimeError),
    *(TypeError, ValueError, zlib.error),
)
"""What zarr and its codecs raise over documents and chunks that they can't make sense of: they believe what these say, sizes
included."""
_FREE = 64 << 20
_FREE_CHUNKS = 1 << 13
_MOST_RATIO = 1 << 16
"""See :func:`check_claim`; of compressed data no more comes, see :mod:`dask_zv.storage.codecs`."""


def open_zarr_array(objects: Objects, path: str) -> zarr.Array[Any]:
    """Return the array at `path` through zarr itself."""
    confined(path)
    try:
        array = zarr.open_array(store=objects.zarr_reads(), path=path, mode="r", zarr_format=3)
    except ZVError:
        raise
    except ZARR_ERRORS as error:
        raise FormatError(f"'/{path}' can't be opened by zarr: {error!s:.500}", store=objects.url, array=path) from error
    assert isinstance(array, zarr.Array)
    return array


def unpacked(objects: Objects, array: zarr.Array[Any]) -> zarr.Array[Any]:
    """Return an array whose chunks are unpacked here, each into no more than its document says, before zarr sees them.

    Zarr's codecs unpack all that a chunk holds. Shards, whose chunks are packed one by one, are left to it.
    """
    codecs = array.metadata.codecs  # type: ignore[union-attr]
    packing = [c.to_dict() for c in codecs if isinstance(c, BytesBytesCodec)]
    if not packing:
        return array
    decode = cell_codec(packing).decode
    fixed = array.dtype.kind not in "OT"  # strings and bytes of any length: the documents know no more
    most = math.prod(array.chunks) * array.dtype.itemsize if fixed else None
    reads = objects.zarr_reads()

    async def get(key: str, prototype: BufferPrototype, byte_range: ByteRequest | None) -> Buffer | None:
        data = await reads.get(key, prototype, byte_range)
        try:  # in a thread: codecs that are left to zarr wait for the loop that this runs on
            return None if data is None else prototype.buffer.from_bytes(await to_thread(decode, data.to_bytes(), most))
        except FormatError as error:
            raise error.at(store=objects.url, array=array.path) from None

    # not through the document: zarr warns of writing dtypes that have no specification
    plain = tuple(c for c in codecs if not isinstance(c, BytesBytesCodec))
    metadata = dataclasses.replace(array.metadata, codecs=plain)  # type: ignore[arg-type]
    return zarr.Array(zarr.AsyncArray(metadata, StorePath(ZarrReads(reads, get), array.path)))


def check_claim(objects: Objects, path: str, array: zarr.Array[Any]) -> None:
    """Refuse an array that claims to be far larger than what is stored of it can tell.

    Zarr takes memory for all that a document claims, and fills with nothing what is not stored. Arrays of up to 64 MB aren't
    looked at: what is stored of larger ones is added up, which is a listing.
    """
    try:
        claimed, chunks = math.prod(array.shape) * max(1, array.dtype.itemsize), array.nchunks
    except ZVError:
        raise
    except ZARR_ERRORS as error:
        raise FormatError(f"'/{path}' is damaged: {error!r:.200}", store=objects.url, array=path) from error
    # Icechunk lists no chunks, and its snapshots are not edited by hand
    if (claimed <= _FREE and chunks <= _FREE_CHUNKS) or objects.nodes_first:
        return
    sizes = [stamp[0] for stamp in objects.stamps(list(objects.list_prefix(path))) if stamp is not None]
    if claimed > _FREE + _MOST_RATIO * sum(sizes) or chunks > _FREE_CHUNKS + len(sizes):
        raise FormatError(
            f"'/{path}' claims the shape {array.shape} in {chunks} chunks; {sum(sizes)} bytes are stored of it in {len(sizes)} "
            "objects: its document is damaged",
            store=objects.url, array=path,
        )  # fmt: skip


def decode_blob(
    objects: Objects, path: str, document: bytes, data: bytes | None, array: str, chunk: str | None = None
) -> bytes:
    """Return the payload of the blob at `path`.

    `path`: path of the blob's array in the store; `document, data`: its ``zarr.json`` and its first data object, None where
    that is absent; `array, chunk`: for errors.
    """
    url = objects.url
    blob = parse_blob_document(document, path, url)
    if blob is None:
        return _decode_through_zarr(objects, path, array, chunk)
    if blob.nbytes == 0:
        return b""
    if data is None:
        if blob.zstd and blob.nbytes <= _MAX_ZEROS:
            return bytes(blob.nbytes)  # Zarr's default pipeline leaves out a chunk of nothing but zeros
        raise _missing(objects, path, blob.nbytes, array, chunk)
    if blob.raw:
        if len(data) != blob.nbytes:
            raise FormatError(
                f"the data object has {len(data)} bytes, its document says {blob.nbytes}: it is truncated, or its writer "
                "died; write the chunk again, or dzv.repair(store, source=copy) takes it from a copy",
                store=url, array=array, chunk=chunk,
            )  # fmt: skip
        noted = blob.attributes.get(PAYLOAD_CRC32C)
        if noted is not None and crc32c(data) != noted and not _is_edited(objects, path):
            raise FormatError(
                "the checksum of the data object does not match its document: it is damaged, or was edited without its "
                "document; write it again",
                store=url, array=array, chunk=chunk,
            )  # fmt: skip
        return data
    return _unpack(data, blob, url, array, chunk)


def _is_edited(objects: Objects, path: str) -> bool:
    """Return True if the data object is younger than its document, which our writer stores last; known of local files alone."""
    document, data = objects.stamps([f"{path}/{DOCUMENT}", f"{path}/c/0"])
    return objects.is_local and document is not None and data is not None and data[1] > document[1]


def _missing(objects: Objects, path: str, nbytes: int, array: str, chunk: str | None) -> StoreError:
    return StoreError(
        f"a data object below '/{path}/c' is missing, and the document promises {nbytes} bytes",
        store=objects.url, array=array, chunk=chunk,
    )  # fmt: skip


def _decode_through_zarr(objects: Objects, path: str, array: str, chunk: str | None) -> bytes:
    node = open_zarr_array(objects, path)
    if node.ndim != 1 or node.dtype != np.dtype("uint8"):
        raise FormatError(
            f"'/{path}' is a {node.ndim}-D array of {node.dtype}, a blob is 1-D uint8",
            store=objects.url, array=array, chunk=chunk,
        )  # fmt: skip
    check_claim(objects, path, node)
    names = [type(codec).__name__ for codec in node.metadata.codecs]  # type: ignore[union-attr]
    # only the default pipeline may leave out chunks (of zeros); elsewhere zarr would fill a lost one with zeros, too
    if names != ["BytesCodec", "ZstdCodec"] and node.nchunks_initialized < node.nchunks:
        raise _missing(objects, path, int(node.shape[0]), array, chunk)
    try:
        return bytes(np.asarray(unpacked(objects, node)[:]).tobytes())
    except ZVError:
        raise
    except ZARR_ERRORS as error:
        raise FormatError(
            f"'/{path}' can't be decoded by zarr: {error!s:.500}", store=objects.url, array=array, chunk=chunk
        ) from error


def _unpack(data: bytes, blob: BlobDocument, url: str, array: str, chunk: str | None) -> bytes:
    try:
        return unpack_zstd(data, blob.nbytes)
    except ValueError as error:
        raise FormatError(
            f"the data object is no Zstandard frame of {blob.nbytes} bytes: {error}", store=url, array=array, chunk=chunk
        ) from error
