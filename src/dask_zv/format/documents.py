"""JSON documents: typed access to them, and those of nodes, groups and blobs as the Zarr v3 core specification has them.

The document of a blob is the one that ZV 0.7 writers store for their one-chunk ``uint8`` arrays. Its shards are such arrays
``__shard_<id>`` that hold blobs back to back: the attribute ``shard_index`` maps a chunk key to ``[byte offset, byte length]``,
and in ours ``shard_crc32c`` a chunk key to a CRC-32C, so that a ranged read that met a shard while it was being replaced is
noticed. The id is the Morton code of its chunks divided by the shard size, which readers never need. What can't be read is a
MetadataError that names the key.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dask_zv.errors import FormatError, InvalidNameError, MetadataError, StoreError
from dask_zv.format.keys import check_chunk_key

MAX_DEPTH = 100
_LIMIT = 1 << 53
ShardEntry = tuple[int, int, int | None]
"""Offset, length and CRC-32C (None in shards of others) of one blob."""
_BLOB = (
    b'{"shape":[%d],"data_type":"uint8","chunk_grid":{"name":"regular","configuration":{"chunk_shape":[%d]}},'
    b'"chunk_key_encoding":{"name":"default","configuration":{"separator":"/"}},"fill_value":0,'
    b'"codecs":[{"name":"bytes"}],"attributes":%b,"zarr_format":3,"node_type":"array","storage_transformers":[]}'
)
PAYLOAD_CRC32C = "dask_zv_crc32c"
"""Attribute of a blob that no catalog has a checksum of: the CRC-32C of its payload."""


def require(document: Mapping[str, Any], key: str, where: str) -> Any:
    """Return the value of a key that must be there."""
    if key not in document:
        raise MetadataError(f"{where} has no {key!r}; it has {', '.join(sorted(map(str, document))) or 'no keys'}")
    return document[key]


def mapping(value: object, key: str) -> Mapping[str, Any]:
    """Return a JSON object."""
    if not isinstance(value, Mapping):
        raise wrong(value, key, "an object")
    return value


def string(value: object, key: str) -> str:
    """Return a string."""
    if not isinstance(value, str):
        raise wrong(value, key, "a string")
    return value


def known_capabilities(document: Mapping[str, Any], where: str, known: Sequence[str]) -> None:
    """Raise :class:`MetadataError` where a document requires what is not known: what it means can't be guessed."""
    required = strings(document.get("required_capabilities") or [], f"{where}.required_capabilities")
    unknown = [token for token in required if token not in known]
    if unknown:
        raise MetadataError(
            f"{where} requires {', '.join(unknown)} of its readers, which this release does not support: read it with a "
            "newer release, or with the tool that wrote it"
        )


def strings(value: object, key: str) -> tuple[str, ...]:
    """Return a list of strings."""
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise wrong(value, key, "a list of strings")
    return tuple(value)


def boolean(value: object, key: str) -> bool:
    """Return a boolean."""
    if not isinstance(value, bool):
        raise wrong(value, key, "true or false")
    return value


def integer(value: object, key: str, *, least: int) -> int:
    """Return an integer that is not less than `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise wrong(value, key, f"an integer of at least {least}")
    return value


def number(value: object, key: str) -> float:
    """Return a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong(value, key, "a number")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise wrong(value, key, "finite")
    return found


def floats(value: object, key: str, n: int, *, positive: bool = False) -> tuple[float, ...]:
    """Return a list of `n` finite numbers."""
    if not isinstance(value, list | tuple) or len(value) != n:
        raise wrong(value, key, f"a list of {n} numbers, one per axis")
    found = tuple(number(item, key) for item in value)
    if positive and min(found) <= 0:
        raise wrong(value, key, "positive")
    return found


def wrong(value: object, key: str, expected: str) -> MetadataError:
    """Return the error for a value that isn't what is expected of its key."""
    try:
        shown = repr(value)
    except ValueError:  # an integer of more digits than Python prints
        shown = f"a huge {type(value).__name__}"
    return MetadataError(f"{key} must be {expected}, not {shown[:120]}")


class WrongKindError(StoreError):
    """A node is there, but not of the kind that was asked for: looking again does not help."""


def to_json(value: Any, key: str) -> Any:
    """Return `value` as plain JSON values.

    numpy scalars and arrays, tuples, lists and mappings are converted; `key` names the attribute in errors.
    """
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind not in "biufUO":
            raise TypeError(f"attribute {key!r}: JSON can't hold numpy values of dtype {value.dtype}")
        value = value.tolist()
    if value is None or isinstance(value, bool | int | str):
        # subclasses (numpy.str_, IntEnum) are reduced to the plain type, so that what is read back compares equal
        return value if value is None or isinstance(value, bool) else int(value) if isinstance(value, int) else str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"attribute {key!r}: JSON can't hold {value!r}; leave it out or store null")
        return float(value)
    if isinstance(value, Mapping):
        named = [(_json_key(k, key), v) for k, v in value.items()]
        if len({name for name, _ in named}) < len(named):
            raise TypeError(
                f"attribute {key!r}: two keys are equal as strings, as keys of JSON objects are: {list(value)!r:.200}"
            )
        return {name: to_json(v, f"{key}.{name}") for name, v in named}
    if isinstance(value, list | tuple):
        return [to_json(v, key) for v in value]
    raise TypeError(f"attribute {key!r}: JSON can't hold a {type(value).__name__}")


def _json_key(key: Any, within: str) -> str:
    """Return a key of a JSON object, numbers, booleans and None as ``json`` spells them."""
    if isinstance(key, str):
        return str(key)
    key = to_json(key, within) if isinstance(key, np.generic) else key
    if key is None or isinstance(key, bool | int | float):
        return json.dumps(to_json(key, within))
    raise TypeError(f"attribute {within!r}: keys of JSON objects are strings or numbers, not {type(key).__name__} ({key!r})")


def dump_json(value: Any) -> bytes:
    """Return `value`, of JSON values only, as compact UTF-8 text."""
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    except ValueError as error:
        raise MetadataError(f"the document can't be written as JSON: {error}") from error


def group_document(attributes: Mapping[str, Any]) -> bytes:
    """Return the document of a group with these attributes (JSON values)."""
    return dump_json({"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)})


def blob_document(nbytes: int, attributes: Mapping[str, Any] | None = None) -> bytes:
    """Return the document of a blob's array: 1-D ``uint8``, one chunk, codec ``bytes``."""
    return _BLOB % (nbytes, max(nbytes, 1), dump_json(dict(attributes)) if attributes else b"{}")


def array_document(
    shape: Sequence[int], data_type: Any, chunk: Sequence[int], fill: Any, codecs: Any, attributes: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the document of an array on a regular grid of chunks."""
    return {
        "shape": list(shape),
        "data_type": data_type,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "codecs": codecs,
        "attributes": dict(attributes),
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


def parse_json(data: bytes) -> Any:
    """Return a JSON value that is not nested more than :data:`MAX_DEPTH` deep, so that what walks it, and copies it, can."""
    try:
        value = json.loads(data)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH:
        within = [value]
        for _ in range(MAX_DEPTH + 1):
            within = [v for w in within for v in (w.values() if isinstance(w, dict) else w) if isinstance(v, dict | list)]
            if not within:
                break
        else:
            raise ValueError("it is nested too deeply")
    return value


def parse_document(data: bytes, path: str, store: str | None = None) -> dict[str, Any]:
    """Return a ``zarr.json`` document as a dict."""
    try:
        document = parse_json(data)
    except ValueError as error:
        raise MetadataError(
            f"the zarr.json of '/{path}' is not JSON: {error!s:.200}; it was truncated in transfer, or is damaged: try "
            "again, then restore it",
            store=store,
        ) from error
    if not isinstance(document, dict):
        raise MetadataError(f"the zarr.json of '/{path}' is not a JSON object", store=store)
    if document.get("zarr_format") != 3 or document.get("node_type") not in ("group", "array"):
        found = {k: document.get(k) for k in ("zarr_format", "node_type")}
        raise MetadataError(f"the zarr.json of '/{path}' is not that of a Zarr v3 node: found {found!r:.200}", store=store)
    if not isinstance(document.get("attributes", {}), dict):
        raise MetadataError(f"the attributes of '/{path}' are not a JSON object", store=store)
    return document


@dataclass(frozen=True, slots=True)
class BlobDocument:
    """What the document of a blob's array says."""

    nbytes: int  # Length of the payload
    raw: bool  # True where the data object is the payload itself
    zstd: bool
    """True where the data object is one Zstandard frame of the payload (Zarr's default pipeline, whose writers leave out an
    all-zero chunk)."""
    attributes: dict[str, Any]  # The array's attributes (a shard's index)


def parse_blob_document(data: bytes, path: str, store: str | None = None) -> BlobDocument | None:
    """Return what the document of a blob says, None where it is no 1-D ``uint8`` array in one chunk.

    `None` is not an error: such an array is legal Zarr, and is decoded through zarr.
    """
    document = parse_document(data, path, store)
    if document["node_type"] != "array":
        raise WrongKindError(f"'/{path}' is a Group, not an Array: a chunk's blob is a 1-D Array", store=store)
    if isinstance(document.get("shape"), list) and len(document["shape"]) != 1:
        raise WrongKindError(
            f"'/{path}' is a {len(document['shape'])}-D Array: a chunk's blob is a 1-D one; read it through zarr_group",
            store=store,
        )
    try:
        (nbytes,) = document["shape"]
        (chunk,) = document["chunk_grid"]["configuration"]["chunk_shape"]
        separator = document["chunk_key_encoding"].get("configuration", {}).get("separator", "/")
        codecs = [c["name"] if isinstance(c, dict) else c for c in document["codecs"]]
        plain = (
            document["data_type"] == "uint8"
            and document["chunk_grid"]["name"] == "regular"
            and document["chunk_key_encoding"]["name"] == "default"
            and separator == "/"
            and not document.get("storage_transformers")
            and document.get("fill_value") == 0
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MetadataError(f"the zarr.json of '/{path}' is damaged: {error!r:.200}", store=store) from error
    if type(nbytes) is not int or not 0 <= nbytes < _LIMIT or type(chunk) is not int:
        raise MetadataError(f"the zarr.json of '/{path}' has the shape {document['shape']!r:.80}", store=store)
    if not plain or chunk < nbytes or codecs not in (["bytes"], ["bytes", "zstd"]):
        return None
    if codecs == ["bytes", "zstd"] and chunk != nbytes:
        return None
    if codecs == ["bytes"] and chunk != max(nbytes, 1):
        return None
    return BlobDocument(nbytes, codecs == ["bytes"], codecs != ["bytes"], document.get("attributes", {}))


def shard_attributes(entries: Mapping[str, tuple[int, int, int]]) -> dict[str, Any]:
    """Return the attributes of a shard from chunk key to (offset, length, CRC-32C)."""
    return {
        "shard_index": {key: [offset, nbytes] for key, (offset, nbytes, _) in entries.items()},
        "shard_crc32c": {key: crc for key, (_, _, crc) in entries.items()},
    }


def parse_shard_index(attributes: Mapping[str, Any], nbytes: int, path: str) -> dict[str, ShardEntry]:
    """Return the index of a shard from its attributes, checked against the shard's length."""
    index = attributes.get("shard_index")
    if not isinstance(index, Mapping):
        raise FormatError(f"shard '/{path}' has no shard_index", array=path)
    crcs = attributes.get("shard_crc32c", {})
    if not isinstance(crcs, Mapping):
        raise FormatError(f"shard '/{path}' has a shard_crc32c that is no mapping", array=path)
    entries: dict[str, ShardEntry] = {}
    for key, entry in index.items():
        try:
            check_chunk_key(key)  # it is a path in the store, where the shard loses it
        except InvalidNameError as error:
            raise FormatError(f"shard '/{path}' has a damaged index: {error.message:.200}", array=path) from error
        if not (isinstance(entry, list | tuple) and len(entry) == 2 and all(type(v) is int for v in entry)):
            raise FormatError(f"shard '/{path}' has the index entry {entry!r:.80}", array=path, chunk=key)
        offset, length = entry
        if offset < 0 or length < 0 or offset + length > nbytes:
            raise FormatError(
                f"shard '/{path}' of {nbytes} bytes has an entry at {offset} of {length} bytes", array=path, chunk=key
            )
        crc = crcs.get(key)
        if crc is not None and type(crc) is not int:
            raise FormatError(f"shard '/{path}' has the checksum {crc!r:.80}", array=path, chunk=key)
        entries[key] = (offset, length, crc)
    return entries
