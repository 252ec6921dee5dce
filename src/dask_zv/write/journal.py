"""The journal of a write: the receipts of its blocks, in the store, until the commit.

It is the array ``dask_zv_journal`` in the level: one cell of variable-length bytes to a block, written by the task that stored
the block, after it. The document says which write it is of, by a digest of the input's content and of all that the commit will
write, and how the blocks were cut. A write that is begun again finds its blocks there; whatever scheduler or process died, the
store remembers. The commit removes it.

A receipt is what a stored block reports, in a form that may be read from a store that nobody vouches for: magic ``DZVR``,
``uint32`` version, ``uint32`` length of a JSON header, the header, the arrays one after another, ``uint32`` CRC-32C of all
before; all little-endian. The header is a tree of plain values in which arrays stand by number, and
the few classes of :data:`_CLASSES` by name. Nothing of it is run, and nothing is made that is not as long as the payload says.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numcodecs.vlen import VLenBytes
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from dask_zv.errors import FormatError
from dask_zv.format.documents import parse_document
from dask_zv.format.grids import GridSpec, cell_path
from dask_zv.format.keys import DOCUMENT, check_name, coords_to_keys, join, shard_name
from dask_zv.format.objects import elements_document
from dask_zv.geometry.block import BlockExtra, Fragments, Places
from dask_zv.geometry.rows import LinkRows
from dask_zv.geometry.schema import parse_dtype
from dask_zv.storage.codecs import crc32c, unpack_zstd
from dask_zv.storage.handles import open_objects
from dask_zv.storage.objects import Objects
from dask_zv.storage.receipts import COLUMNS, Columns, Receipt
from dask_zv.storage.specs import JOURNAL, BlockResult, Place

_MAGIC = b"DZVR"
_VERSION = 1
_CLASSES: Mapping[str, Any] = {c.__name__: c for c in (BlockResult, Receipt, BlockExtra, Fragments, Places, LinkRows)}
_KINDS = "biufcmM"
_DEPTH = 40


def encode_receipt(result: BlockResult, **about: Any) -> bytes:
    """Return a block's result as bytes, with `about` beside it."""
    arrays: list[NDArray[Any]] = []
    tree = {"result": _pack(result, arrays), "about": about}
    header = {**tree, "arrays": [[a.dtype.str, list(a.shape)] for a in arrays]}
    text = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()
    data = b"".join(
        [_MAGIC, _VERSION.to_bytes(4, "little"), len(text).to_bytes(4, "little"), text, *(a.tobytes() for a in arrays)]
    )
    return data + crc32c(data).to_bytes(4, "little")


def _pack(value: Any, arrays: list[NDArray[Any]]) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        arrays.append(np.ascontiguousarray(value).astype(value.dtype.newbyteorder("<"), copy=False))
        return {"array": len(arrays) - 1}
    if isinstance(value, Columns):
        return {"columns": {kind: _pack(value[kind], arrays) for kind in COLUMNS}}
    if type(value).__name__ in _CLASSES and type(value) is _CLASSES[type(value).__name__]:
        fields = {f.name: _pack(getattr(value, f.name), arrays) for f in dataclasses.fields(value)}
        return {"is": type(value).__name__, "fields": fields}
    if isinstance(value, Mapping):
        return {"map": {str(k): _pack(v, arrays) for k, v in value.items()}}
    if isinstance(value, frozenset):
        return {"set": sorted(value)}
    if isinstance(value, tuple):
        return {"tuple": [_pack(v, arrays) for v in value]}
    if isinstance(value, list):
        return [_pack(v, arrays) for v in value]
    raise TypeError(f"a receipt can't hold {type(value).__name__}")


def decode_receipt(data: bytes, *, store: str = "", array: str = "") -> tuple[BlockResult, dict[str, Any]]:
    """Return a block's result, and what was kept beside it; `store` and `array` are where it was found."""
    try:
        return _decode(data)
    except FormatError as error:
        raise FormatError(error.message, store=store, array=array) from None
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError, AttributeError) as error:
        raise FormatError(f"no receipt of a block: {error!s:.200}", store=store, array=array) from None


def _decode(data: bytes) -> tuple[BlockResult, dict[str, Any]]:
    if len(data) < 16 or data[:4] != _MAGIC:
        raise FormatError("no receipt of a block: it does not begin with DZVR")
    version = int.from_bytes(data[4:8], "little")
    if version != _VERSION:
        raise FormatError(f"a receipt of version {version}, known is {_VERSION}: end the write with the dask-zv that began it")
    if crc32c(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise FormatError("a damaged receipt: its checksum is wrong")
    length = int.from_bytes(data[8:12], "little")
    body = data[12 + length : -4]
    if 12 + length + 4 > len(data):
        raise FormatError("a receipt whose header is longer than itself")
    header = json.loads(data[12 : 12 + length])
    arrays: list[NDArray[Any]] = []
    at = 0
    for name, shape in header["arrays"]:
        dtype = parse_dtype(name, "an array of a receipt")
        if dtype.kind not in _KINDS or any(type(n) is not int or n < 0 for n in shape):
            raise FormatError(f"a receipt with an array of {dtype} {shape}")
        count = 1
        for n in shape:
            count *= n
        if at + count * dtype.itemsize > len(body):
            raise FormatError("a receipt that ends within its arrays")
        arrays.append(np.frombuffer(body, dtype, count, at).reshape(shape))
        at += count * dtype.itemsize
    if at != len(body):
        raise FormatError("a receipt with bytes beyond its arrays")
    result = _unpack(header["result"], arrays, 0)
    about: Any = header["about"]
    if not isinstance(result, BlockResult) or not isinstance(about, dict):
        raise FormatError("a receipt without a block's result")
    _check_result(result)
    return result, about


def _unpack(node: Any, arrays: list[NDArray[Any]], depth: int) -> Any:
    if depth > _DEPTH:
        raise FormatError("a receipt that is nested too deeply")
    if isinstance(node, list):
        return [_unpack(v, arrays, depth + 1) for v in node]
    if not isinstance(node, dict):
        return node
    if "is" in node:
        fields = {name: _unpack(v, arrays, depth + 1) for name, v in node["fields"].items()}
        return _CLASSES[node["is"]](**fields)
    ((kind, inner),) = node.items()
    if kind == "array":
        if type(inner) is not int or inner < 0:
            raise FormatError(f"a receipt that names array {inner!r}")
        return arrays[inner]
    if kind == "columns":
        return Columns({name: _unpack(v, arrays, depth + 1) for name, v in inner.items()})
    if kind == "map":
        return {name: _unpack(v, arrays, depth + 1) for name, v in inner.items()}
    if kind == "set":
        return frozenset(inner)
    if kind == "tuple":
        return tuple(_unpack(v, arrays, depth + 1) for v in inner)
    raise FormatError(f"a receipt with an unknown part {kind!r}")


def _check_result(result: BlockResult) -> None:
    """Look whether the parts of a result fit each other, so that nothing later trips over them."""
    receipt: Any = result.receipt
    if not isinstance(receipt, Receipt):
        raise FormatError("a block's result without a receipt")
    n = _int_table(receipt.coords, "coords")
    _ints(receipt.rows, n, "rows")
    for name, columns in receipt.arrays.items():
        check_name(name, "the name of an array in a receipt")  # it is a path in the store
        if not isinstance(columns, Columns):
            raise FormatError(f"a receipt without the columns of {name!r}")
        for kind, (dtype, _) in COLUMNS.items():
            if columns[kind].dtype != dtype or columns[kind].shape != (n,):
                raise FormatError(f"a receipt whose column {kind!r} of {name!r} does not fit its {n:,} chunks")
    if not all(type(v) is int for v in (receipt.nbytes, receipt.stored_objects, *receipt.ranks)):
        raise FormatError("a receipt with counts that are no integers")
    if not all(isinstance(part, Mapping) for part in (receipt.kept, receipt.emptied, result.metadata, result.records)):
        raise FormatError("a receipt with lists in place of tables")
    times = (result.started, result.ended)
    if not all(isinstance(t, int | float) for t in times) or not isinstance(result.worker, str):
        raise FormatError("a receipt without times")
    extra = result.extra
    if extra is None:
        return
    if not isinstance(extra, BlockExtra):
        raise FormatError("a receipt with something else in place of what later tasks want")
    if extra.fragments is not None:
        found = extra.fragments
        m = _int_table(found.coords, "fragments")
        for name in ("objects", "fragments", "first", "count", "sequence"):
            _ints(getattr(found, name), m, name)
    if extra.places is not None:
        places = extra.places
        chunks, m = _int_table(places.coords, "places"), len(places.numbers)
        for name in ("numbers", "rows", *(k for k in ("ids", "objects") if getattr(places, k) is not None)):
            _ints(getattr(places, name), m, name)
        if places.chunks.shape != (m,) or (m and not (0 <= int(places.chunks.min()) <= int(places.chunks.max()) < chunks)):
            raise FormatError("a receipt with places in chunks that it does not name")
    if extra.links is not None:
        _int_table(extra.links.endpoints, "links")
        _ints(extra.links.numbers, len(extra.links.endpoints), "links")
        if any(len(values) != len(extra.links) for values in extra.links.attributes.values()):
            raise FormatError("a receipt with link attributes of another length")
    if extra.edges is not None:
        _int_table(extra.edges, "edges")


def _int_table(values: Any, what: str) -> int:
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype != np.int64:
        raise FormatError(f"a receipt whose {what} are no table of integers")
    return len(values)


def _ints(values: Any, n: int, what: str) -> None:
    if not isinstance(values, np.ndarray) or values.dtype != np.int64 or values.shape != (n,):
        raise FormatError(f"a receipt whose {what} are not {n:,} integers")


# ---------------------------------------------------------------------------------------------- the journal in the store


@dataclass(frozen=True, slots=True, eq=False)
class Journal:
    """The journal of one write, which `digest` tells from others, cut into blocks at `starts`, see :class:`.BlockPlan`."""

    place: Place
    digest: str
    starts: NDArray[Any]

    def begin(self) -> None:
        """Make the journal, unless it is there already; that of another write goes."""
        objects, path = open_objects(self.place.handle), join(self.place.prefix, JOURNAL)
        document = self._document()
        found = objects.get(f"{path}/{DOCUMENT}")
        if found == document:
            return
        if found is not None or objects.list_dir(f"{path}/c"):  # else another run of this very write may be making it
            objects.delete_prefix(path)
        objects.put(f"{path}/{DOCUMENT}", document)

    def _document(self) -> bytes:
        attributes = {"zv_array": JOURNAL, "write": self.digest, "block_starts": [int(s) for s in self.starts.tolist()]}
        return elements_document(len(self.starts), 1, attributes)

    def __call__(self, result: BlockResult) -> BlockResult:
        """Note a stored block."""
        objects, path = open_objects(self.place.handle), join(self.place.prefix, JOURNAL)
        cell = np.empty(1, object)
        cell[0] = encode_receipt(result, write=self.digest, block=result.number)
        data = bytes(Zstd(level=0, checksum=True).encode(VLenBytes().encode(cell)))
        objects.put(f"{path}/c/{result.number}", data)
        return result

    def read(self) -> dict[int, BlockResult]:
        """Return the blocks that the journal has receipts of; a damaged receipt is none, and its block is written again."""
        objects, path = open_objects(self.place.handle), join(self.place.prefix, JOURNAL)
        numbers = range(len(self.starts))
        names = {n for n in objects.list_dir(f"{path}/c") if n.isascii() and n.isdigit()}
        there = [n for n in numbers if str(n) in names]
        out: dict[int, BlockResult] = {}
        for number, data in zip(there, objects.get_many([(f"{path}/c/{n}", None) for n in there]), strict=True):
            if data is None:
                continue
            try:
                result, about = decode_receipt(_cell(data), store=objects.url, array=path)
            except FormatError:
                continue  # a put that a crash cut short: the block counts as not stored
            if about == {"write": self.digest, "block": number}:
                out[number] = result
        return out


def find_journal(place: Place) -> Journal | None:
    """Return the journal of a level, None where there is none."""
    objects, path = open_objects(place.handle), join(place.prefix, JOURNAL)
    data = objects.get(f"{path}/{DOCUMENT}")
    if data is None:
        return None
    attributes: Any = parse_document(data, path, objects.url).get("attributes")
    digest = attributes.get("write") if isinstance(attributes, Mapping) else None
    starts = attributes.get("block_starts") if isinstance(attributes, Mapping) else None
    if not isinstance(digest, str) or not isinstance(starts, list) or any(type(s) is not int or s < 0 for s in starts):
        raise FormatError("not the journal of a write: remove it, and write again", store=objects.url, array=path)
    wide = any(s >= 1 << 64 for s in starts)
    return Journal(place, digest, np.array(starts, object if wide else np.uint64))


def _cell(data: bytes) -> bytes:
    try:
        raw = unpack_zstd(data)
    except ValueError as error:
        raise FormatError(f"a damaged cell of the journal: {error}") from None
    if len(raw) < 8 or int.from_bytes(raw[:4], "little") != 1 or int.from_bytes(raw[4:8], "little") != len(raw) - 8:
        raise FormatError("a journal's cell that is not one receipt")
    return raw[8:]


def whole_blocks(
    place: Place, specs: Mapping[str, GridSpec] | None, results: Mapping[int, BlockResult]
) -> dict[int, BlockResult]:
    """Return those blocks whose objects are all still in the store as they were put; `specs` are of layout ``grid``."""
    objects = open_objects(place.handle)
    return {number: result for number, result in results.items() if _is_whole(objects, place.prefix, specs, result)}


def _is_whole(objects: Objects, prefix: str, specs: Mapping[str, GridSpec] | None, result: BlockResult) -> bool:
    wanted: dict[str, tuple[int, int]] = {}
    receipt = result.receipt
    for array, columns in receipt.arrays.items():
        at = np.flatnonzero(columns["stored"] > 0)
        if specs is None:
            paths = _per_chunk_paths(join(prefix, array), receipt.coords[at], columns["shard"][at].tolist())
        else:
            spec = specs.get(array)
            if spec is None or receipt.coords.shape[1] != spec.rank:
                return False
            paths = [cell_path(join(prefix, array), c) for c in spec.objects_of(receipt.coords[at]).tolist()]
        ends = (columns["offset"][at] + columns["stored"][at]).tolist()
        for path, end, stamp in zip(paths, ends, columns["stamp"][at].tolist(), strict=True):
            wanted[path] = max(end, wanted.get(path, (0, 0))[0]), stamp
    if receipt.literals:
        wanted |= {f"{join(prefix, array, key)}/{DOCUMENT}": (0, 0) for array, key in receipt.literals}
    listed = sorted(wanted)
    for path, found in zip(listed, objects.stamps(listed), strict=True):
        end, stamp = wanted[path]
        if found is None or found[0] < end or (stamp and found[1] and found[1] != stamp):
            return False
    return True


def _per_chunk_paths(path: str, coords: NDArray[np.int64], shards: Sequence[int]) -> list[str]:
    keys = coords_to_keys(coords)
    names = [key if shard < 0 else shard_name(shard) for key, shard in zip(keys, shards, strict=True)]
    return [f"{path}/{name}/c/0" for name in names]
