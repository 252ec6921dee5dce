"""From the document and the data object of a blob's array to its payload, whoever wrote them.

Ours are raw: the object is the payload. The ZV 0.7 package also writes Zarr's default pipeline, one Zstandard frame; every
other pipeline is left to zarr. A missing object is never zeros, but for the one case in which its writer means that.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from asyncio import to_thread
from typing import Any

import numpy as np
import zarr
from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.codec import BytesBytesCodec
from zarr.abc.store import ByteRequest
from zarr.storage import StorePath

from dask_zv.errors import FormatError, StoreError, ZVError
from dask_zv.format.documents import PAYLOAD_CRC32C, BlobDocument, parse_blob_document
from dask_zv.format.keys import DOCUMENT
from dask_zv.storage.checksums import crc32c
from dask_zv.storage.codecs import cell_codec, unpack_zstd
from dask_zv.storage.confined import confined
from dask_zv.storage.local import LocalObjects
from dask_zv.storage.objects import Objects
from dask_zv.storage.zarr_reads import ZarrReads

_MAX_ZEROS = 1 << 26
"""A chunk that is left out and means so many zeros costs its document alone: more are taken for a lost chunk."""
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


def decode_blob(
    objects: Objects, path: str, document: bytes, data: bytes | None, array: str, chunk: str | None = None
) -> bytes:
    """Return the payload of the blob at `path`.

    Parameters
    ----------
    objects : Objects
    path : str
        Path of the blob's array in the store.
    document, data : bytes
        Its ``zarr.json`` and its first data object, None where that is absent.
    array, chunk : str
        For errors.

    Raises
    ------
    FormatError
        The data object isn't what the document says.
    StoreError
        The data object is missing.
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
                f"the data object has {len(data)} bytes, its document says {blob.nbytes}: it is short, or was being "
                "replaced by a writer that died; write the chunk again",
                store=url, array=array, chunk=chunk,
            )  # fmt: skip
        noted = blob.attributes.get(PAYLOAD_CRC32C)
        if noted is not None and crc32c(data) != noted and not _is_edited(objects, path):
            raise FormatError(
                "the data object has other bytes than those that its document has the checksum of: it is damaged, or was "
                "edited without its document; write it again",
                store=url, array=array, chunk=chunk,
            )  # fmt: skip
        return data
    return _unpack(data, blob, url, array, chunk)


def _is_edited(objects: Objects, path: str) -> bool:
    """Return True if the data object is younger than its document, which our writer stores last; known of local files alone."""
    document, data = objects.stamps([f"{path}/{DOCUMENT}", f"{path}/c/0"])
    return isinstance(objects, LocalObjects) and document is not None and data is not None and data[1] > document[1]


def _missing(objects: Objects, path: str, nbytes: int, array: str, chunk: str | None) -> StoreError:
    return StoreError(
        f"a data object below '/{path}/c' is missing, and the document promises {nbytes} bytes",
        store=objects.url, array=array, chunk=chunk,
    )  # fmt: skip


def open_zarr_array(objects: Objects, path: str) -> zarr.Array[Any]:
    """Return the array at `path` through zarr itself.

    Raises
    ------
    FormatError
        zarr can't open it.
    """
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

    Raises
    ------
    FormatError
        It claims more than 64 MB and 65,536 times what is stored, or 8,192 chunks more than there are objects: zarr looks
        each of them up, at a tenth of a millisecond.
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
