"""Compression of cells: Zarr's bytes-to-bytes codecs, the usual ones without Zarr's machinery.

A level has as many cells as chunks times arrays, most of them of a few kilobytes: a compressor that is made anew for each, or
an event loop around it, costs several times what the compression does.
"""

from __future__ import annotations

import bz2
import json
import lzma
import threading
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import google_crc32c
import numpy as np
import zstandard
from numcodecs.blosc import Blosc
from numpy.typing import NDArray
from zarr.abc.codec import BytesBytesCodec
from zarr.buffer import cpu, default_buffer_prototype
from zarr.core.array_spec import ArrayConfig, ArraySpec
from zarr.core.sync import sync
from zarr.dtype import VariableLengthBytes
from zarr.registry import get_codec_class

from dask_zv.config import settings
from dask_zv.errors import FormatError, MetadataError

_local = threading.local()
_BLOSC_NUMBERS = {"clevel": (5, range(10)), "blocksize": (0, range(1 << 31)), "typesize": (1, range(1, 256))}
"""Numbers of a Blosc codec: the default, and what is allowed."""
_BLOSC_NAMES = ("blosclz", "lz4", "lz4hc", "snappy", "zlib", "zstd")
_SHUFFLES = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}
_MOST_RATIO = 1 << 16
"""No frame unpacks to more than the setting `unpacked_bytes` plus this times its own length: what claims more is damaged."""
_MOST_STREAM = 64
"""The same of streams and frames that don't tell the length of their content."""

_HAS_CHECKSUM = 0x04
"""Bit of a Zstandard frame's descriptor, its fifth byte."""

Decode = Callable[..., bytes]
"""Takes the data, and how many bytes may come of it, where that is known."""
Step = tuple[Callable[[bytes], bytes], Decode]


_SMALL = 1 << 18
"""Bytes that every frame may unpack to by `_MOST_RATIO`: a look at the settings would cost as much as the unpacking."""


class CellCodec:
    """Encodes and decodes cells through a chain of codecs.

    `codecs`: Zarr codec documents, in the order of encoding.
    """

    def __init__(self, codecs: Sequence[Mapping[str, Any]]) -> None:
        steps = [_step(c) for c in codecs]
        self.is_identity = not steps
        """Cells are stored as they are."""
        # one codec is the rule: no loop around a call that takes microseconds
        self.encode: Callable[[bytes], bytes] = steps[0][0] if len(steps) == 1 else _chain([e for e, _ in steps])
        """Return a framed payload as it is stored."""
        self.decode: Decode = steps[0][1] if len(steps) == 1 else _chain([d for _, d in reversed(steps)])
        """Return a stored cell's framed payload, of so many bytes at most where a second argument says how many it can have;
        raises :class:`FormatError` where the codecs can't make sense of it."""


def _chain(functions: Sequence[Callable[..., bytes]]) -> Callable[..., bytes]:
    def run(data: bytes, *most: int | None) -> bytes:
        for function in functions[:-1]:
            data = function(data)
        return functions[-1](data, *most) if functions else data

    return run


def cell_codec(codecs: Sequence[Mapping[str, Any]]) -> CellCodec:
    """Return the codec of these documents; one is kept per distinct chain."""
    return _cached(json.dumps(list(codecs), sort_keys=True))


@lru_cache(maxsize=64)
def _cached(text: str) -> CellCodec:
    return CellCodec(json.loads(text))


def _step(codec: Mapping[str, Any]) -> Step:
    name, configuration = codec["name"], dict(codec.get("configuration") or {})
    if name == "zstd" and set(configuration) <= {"level", "checksum"}:
        level, checksum = configuration.get("level", 0), configuration.get("checksum", False)
        if type(level) is not int or not -(1 << 17) <= level <= 22 or type(checksum) is not bool:
            raise MetadataError(
                f"codec 'zstd' has the configuration {configuration!r:.200}: a level up to 22, and a checksum or not"
            )
        return _zstd(level, checksum)
    if name == "blosc" and isinstance(shuffle := configuration.get("shuffle"), str) and shuffle in _SHUFFLES:
        return _blosc(configuration)
    return _through_zarr(codec)


def unpack_zstd(data: bytes, nbytes: int | None = None, most: int | None = None) -> bytes:
    """Return the content of a Zstandard frame.

    The size in the frame's header is checked before anything is allocated.

    `nbytes`: what the frame must hold; `most`: what it may hold.
    """
    try:
        size = zstandard.frame_content_size(data)
        if nbytes is not None and size != nbytes:
            raise ValueError(f"its frame says {size} bytes")
        if size > _least(settings().unpacked_bytes + _MOST_RATIO * len(data), most):
            raise ValueError(f"{len(data)} bytes can't unpack to {size}")
        if size < 0:
            # into as much as a frame of its length may fill; by a decompressor of its own, which takes memory for the window
            # that the frame claims, up to 128 MB, and keeps it
            limit = _least(settings().unpacked_bytes + _MOST_STREAM * len(data), most)
            out: bytes = zstandard.ZstdDecompressor().decompress(data, max_output_size=limit, allow_extra_data=False)
        else:
            unpacker = getattr(_local, "unpacker", None) or _new_unpacker()
            out = unpacker.decompress(data, allow_extra_data=False)
    except (zstandard.ZstdError, MemoryError) as error:
        raise ValueError(str(error) or "there is no memory for it") from error
    if nbytes is not None and len(out) != nbytes:
        raise ValueError(f"it unpacks to {len(out)} bytes")
    return out


def _least(limit: int, most: int | None) -> int:
    return limit if most is None else min(limit, most)


def _zstd(level: int, checksum: bool) -> Step:
    def encode(data: bytes) -> bytes:
        packers = getattr(_local, "packers", None)
        if packers is None:
            packers = _local.packers = {}
        packer = packers.get((level, checksum))
        if packer is None:  # not to be shared by threads
            # level 0 is the library's default, which this binding calls 3
            packer = packers[level, checksum] = zstandard.ZstdCompressor(level=level or 3, write_checksum=checksum)
        out: bytes = packer.compress(data)
        return out

    def decode(data: bytes, most: int | None = None) -> bytes:
        if checksum and (len(data) < 5 or not data[4] & _HAS_CHECKSUM):
            raise FormatError("the cell is not a Zstandard frame with a checksum, as its codec requires")
        try:
            # the usual frame tells a size that nobody minds; all else is looked at closely
            size = zstandard.frame_content_size(data)
            if 0 <= size <= (_SMALL if most is None else min(most, _SMALL)) or 0 <= size <= _least(
                settings().unpacked_bytes, most
            ):
                unpacker = getattr(_local, "unpacker", None) or _new_unpacker()
                out: bytes = unpacker.decompress(data, allow_extra_data=False)
                return out
            return unpack_zstd(data, most=most)
        except (zstandard.ZstdError, ValueError) as error:
            raise FormatError(f"the cell is not a Zstandard frame: {error}") from error

    return encode, decode


def _new_unpacker() -> zstandard.ZstdDecompressor:
    unpacker = _local.unpacker = zstandard.ZstdDecompressor()
    return unpacker


def _blosc(configuration: Mapping[str, Any]) -> Step:
    name = configuration.get("cname", "zstd")
    numbers = {key: configuration.get(key, default) for key, (default, _) in _BLOSC_NUMBERS.items()}
    fits = all(type(numbers[key]) is int and numbers[key] in allowed for key, (_, allowed) in _BLOSC_NUMBERS.items())
    if name not in _BLOSC_NAMES or not fits:
        raise MetadataError(f"codec 'blosc' has the configuration {dict(configuration)!r:.200}, which is not supported")
    codec = Blosc(cname=name, shuffle=_SHUFFLES[configuration["shuffle"]], **numbers)

    def decode(data: bytes, most: int | None = None) -> bytes:
        try:
            return bytes(_unpack_blosc(codec.decode, data, most))
        except FormatError:
            raise
        except (RuntimeError, ValueError, MemoryError) as error:
            raise FormatError(f"the cell is not a Blosc buffer: {error}") from error

    return lambda data: bytes(codec.encode(data)), decode


def _unpack_stream(make: Callable[[], Any], data: bytes, most: int | None = None) -> bytes:
    """Return the content of one or more streams after each other, unpacked into no more than they may fill."""
    limit = _least(settings().unpacked_bytes + _MOST_STREAM * len(data), most)
    parts: list[bytes] = []
    while data:
        unpacker = make()
        parts.append(unpacker.decompress(data, limit + 1))
        limit -= len(parts[-1])
        if limit < 0:
            why = "far more than its length allows" if most is None else f"more than the {most:,} bytes that it can have"
            raise FormatError(f"the cell unpacks to {why}: it is damaged, or hostile")
        if not unpacker.eof:
            raise FormatError("the cell is truncated: its stream has no end")
        data = unpacker.unused_data
    return b"".join(parts)


def _unpack_lz4(codec: Callable[[bytes], bytes], data: bytes, most: int | None = None) -> bytes:
    if len(data) < 4 or int.from_bytes(data[:4], "little") > _least(settings().unpacked_bytes + 256 * len(data), most):
        raise FormatError("the cell is a damaged LZ4 buffer: its header claims more than it can hold")
    return codec(data)


def _unpack_blosc(codec: Callable[[bytes], bytes], data: bytes, most: int | None = None) -> bytes:
    # Blosc's header: versions, flags, type size, then uint32 sizes of the content, of a block, and of the whole
    if len(data) < 16 or int.from_bytes(data[12:16], "little") != len(data):
        raise FormatError("the cell is not a Blosc buffer: its header has no length")
    if int.from_bytes(data[4:8], "little") > _least(settings().unpacked_bytes + _MOST_RATIO * len(data), most):
        raise FormatError("the cell is a damaged Blosc buffer: its header claims more than it can hold")
    return codec(data)


def _bounded(name: str, codec: Callable[[bytes], bytes], configuration: Mapping[str, Any]) -> Decode:
    """Return what a codec of zarr's or numcodecs' does to decode, in bounded memory; those that don't pack as they are."""
    if name in ("gzip", "numcodecs.gzip", "numcodecs.zlib"):
        return partial(_unpack_stream, partial(zlib.decompressobj, 47))  # either header
    if name == "numcodecs.bz2":
        return partial(_unpack_stream, bz2.BZ2Decompressor)
    if name == "numcodecs.lzma" and not configuration.get("filters"):
        return partial(_unpack_stream, lzma.LZMADecompressor)
    if name == "numcodecs.lz4":
        return partial(_unpack_lz4, codec)
    if name == "numcodecs.zstd":
        return lambda data, most=None: unpack_zstd(data, most=most)
    if name in ("blosc", "numcodecs.blosc"):
        return partial(_unpack_blosc, codec)
    return lambda data, _=None: codec(data)


def _through_zarr(document: Mapping[str, Any]) -> Step:
    try:
        codec = get_codec_class(document["name"]).from_dict(dict(document))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, ImportError) as error:
        raise MetadataError(f"zarr has no codec {dict(document)!r:.200}: {error!s:.200}") from error
    if not isinstance(codec, BytesBytesCodec):
        raise MetadataError(f"codec {document['name']!r} does not turn bytes into bytes")
    spec = ArraySpec((1,), VariableLengthBytes(), b"", ArrayConfig("C", True), default_buffer_prototype())

    def run(action: Any, data: bytes) -> bytes:
        (out,) = sync(action([(cpu.Buffer.from_bytes(data), spec)]))
        assert out is not None
        result: bytes = out.to_bytes()
        return result

    unpack = _bounded(document["name"], partial(run, codec.decode), document.get("configuration") or {})

    def decode(data: bytes, most: int | None = None) -> bytes:
        try:
            return unpack(data, most)
        except FormatError:
            raise
        except (RuntimeError, ValueError, TypeError, OSError, EOFError, MemoryError, zlib.error, lzma.LZMAError) as error:
            raise FormatError(f"codec {document['name']!r} can't decode the cell: {error}") from error

    return lambda data: run(codec.encode, data), decode


_STEP = 1 << 18
"""Bytes that are copied at once: the library takes nothing but ``bytes``, and small copies stay in the processor's cache."""


def crc32c(data: bytes | bytearray | memoryview) -> int:
    """Return the CRC-32C of `data`."""
    return int(google_crc32c.value(data if isinstance(data, bytes) else bytes(data)))


def extend_crc32c(crc: int, data: bytes) -> int:
    """Return the CRC-32C of what `crc` is of, and `data` after it."""
    return int(google_crc32c.extend(crc, data))


def columns_crc32c(columns: Iterable[tuple[str, NDArray[Any]]]) -> int:
    """Return the CRC-32C of named columns of numbers: of names, dtypes, shapes and bytes."""
    crc = 0
    for name, column in columns:
        if column.dtype.kind in "mM":
            column = column.view(np.int64)
        crc = extend_crc32c(crc, f"{name} {column.dtype.str} {column.shape}".encode())
        if not column.size:
            continue
        data = memoryview(np.ascontiguousarray(column).reshape(-1).view(np.uint8))
        for start in range(0, len(data), _STEP):
            crc = extend_crc32c(crc, bytes(data[start : start + _STEP]))
    return crc
