"""The journal of a write: the receipts of its blocks, in the store, until the commit.

It is the array ``dask_zv_journal`` in the level: one cell of variable-length bytes to a block, written by the task that stored
the block, after it. The document says which write it is of, by a digest of the input's content and of all that the commit will
write, and how the blocks were cut. A write that is begun again finds its blocks there; whatever scheduler or process died, the
store remembers. The commit removes it.
"""

from __future__ import annotations

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
from dask_zv.format.keys import DOCUMENT, coords_to_keys, join
from dask_zv.format.objects import elements_document
from dask_zv.format.shards import shard_name
from dask_zv.storage.codecs import unpack_zstd
from dask_zv.storage.handles import open_objects
from dask_zv.storage.marks import JOURNAL
from dask_zv.storage.objects import Objects
from dask_zv.storage.specs import BlockResult, Place
from dask_zv.write.receipt_files import decode_receipt, encode_receipt


@dataclass(frozen=True, slots=True, eq=False)
class Journalled:
    """What a journal's document says.

    Attributes
    ----------
    digest : str
        Which write it is of.
    starts : ndarray
        How the blocks were cut, see :class:`~dask_zv.write.exchange.BlockPlan`.
    """

    digest: str
    starts: NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Journal:
    """The journal of one write.

    Attributes
    ----------
    place : Place
    digest : str
    starts : ndarray, shape (B,)
    """

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


def find_journal(place: Place) -> Journalled | None:
    """Return what the journal of a level says, None where there is none.

    Raises
    ------
    FormatError
        There is one that can't be read.
    """
    objects, path = open_objects(place.handle), join(place.prefix, JOURNAL)
    data = objects.get(f"{path}/{DOCUMENT}")
    if data is None:
        return None
    attributes: Any = parse_document(data, path, objects.url).get("attributes")
    digest = attributes.get("write") if isinstance(attributes, Mapping) else None
    starts = attributes.get("block_starts") if isinstance(attributes, Mapping) else None
    if not isinstance(digest, str) or not isinstance(starts, list) or any(type(s) is not int or s < 0 for s in starts):
        raise FormatError("no journal of a write: remove it, and write again", store=objects.url, array=path)
    wide = any(s >= 1 << 64 for s in starts)
    return Journalled(digest, np.array(starts, object if wide else np.uint64))


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
    """Return those blocks whose objects are all still in the store as they were put.

    Parameters
    ----------
    place : Place
    specs : mapping of array to GridSpec, optional
        In layout ``grid``.
    results : mapping of int to BlockResult
    """
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
            cells = spec.cells_of(receipt.coords[at])
            where = cells if spec.shard_shape is None else spec.shards_of(cells)[0]
            paths = [cell_path(join(prefix, array), c) for c in where.tolist()]
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
