"""The layout ``per_chunk`` (ZV 0.7): every blob is its own tiny array, or a slice of a shard.

Below an array's group, blob ``k`` is the 1-D ``uint8`` array ``<array>/<k>``: its document ``zarr.json`` says the length, its
one object ``c/0`` is the payload. The data object is stored before the document, so a document never names bytes that
aren't there. A blob is one object, so it can't be torn; while it is replaced by one of another length, document and object
disagree, which a reader sees and reads again. A shard's document also carries a checksum per blob, because a slice cut with an
old index out of a new shard would have the right length.

Why not trust the object alone: the codec (raw or one Zstandard frame) and the length are in the document only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import google_crc32c
import numpy as np
import zarr
from numcodecs.zstd import Zstd

from dask_zv.errors import FormatError, NotFoundError, StoreError
from dask_zv.format.documents import BlobDocument, blob_document, parse_blob_document
from dask_zv.format.keys import DOCUMENT, sort_keys
from dask_zv.format.shards import ShardEntry, is_shard_name, parse_shard_index, shard_attributes, shard_name
from dask_zv.storage.catalog import Catalog
from dask_zv.storage.objects import BytesLike, Objects, Request, ZarrObjects, join, wait_before_retry

__all__ = ["ArrayListing", "PerChunk", "crc32c"]

_ATTEMPTS = 7
_SHARD_CACHE_BYTES = 64 << 20
_MAX_ZEROS = 1 << 31
_COALESCE_GAP = 64 << 10

Address = tuple[str, str]
"""(array, chunk key)."""


def crc32c(data: BytesLike) -> int:
    """Return the CRC-32C of `data`."""
    return int(google_crc32c.value(data if isinstance(data, bytes) else bytes(data)))


@dataclass(frozen=True, slots=True)
class ArrayListing:
    """What lies below one array's group.

    Attributes
    ----------
    plain : frozenset of str
        Names of children that may be blobs (not yet known to have a document).
    shards : dict of str to dict
        Shard name to its index.
    entries : dict of str to (str, ShardEntry)
        Chunk key to the shard that holds it.
    """

    plain: frozenset[str]
    shards: dict[str, dict[str, ShardEntry]]
    entries: dict[str, tuple[str, ShardEntry]]


class PerChunk:
    """Blobs of the arrays below `prefix`, read through shard indexes that are fetched once.

    Parameters
    ----------
    objects : Objects
    prefix : str
        Path of the group in the store.
    catalog : Catalog, optional
        What the group's last commit recorded; saves the documents and the listing.
    """

    def __init__(self, objects: Objects, prefix: str, catalog: Catalog | None = None) -> None:
        self.objects = objects
        self.prefix = prefix
        self.catalog = catalog
        self.catalog_is_stale = False
        self._listings: dict[str, ArrayListing] = {}
        self._whole_shards: OrderedDict[str, bytes] = OrderedDict()

    def path(self, *parts: str) -> str:
        """Return the path in the store of something below the group."""
        return join(self.prefix, *parts)

    # ------------------------------------------------------------------------------------------ writing

    def write(self, blobs: Sequence[tuple[str, str, BytesLike]]) -> None:
        """Store (array, chunk key, payload) blobs, each as its own array."""
        sequences: list[list[tuple[str, BytesLike]]] = []
        emptied: list[str] = []
        for array, key, data in blobs:
            path = self.path(array, key)
            steps: list[tuple[str, BytesLike]] = [(f"{path}/{DOCUMENT}", blob_document(len(data)))]
            if len(data):
                steps.insert(len(steps) if self.objects.nodes_first else 0, (f"{path}/c/0", data))
            else:
                emptied.append(f"{path}/c/0")
            sequences.append(steps)
        self.objects.put_many(sequences)
        for key in emptied:  # after the document says "empty": a reader in between reads b""
            if self.objects.exists(key):
                self.objects.delete(key)

    def write_node(self, name: str, data: BytesLike) -> None:
        """Store a blob that is a child of the group itself, not of an array: the catalog."""
        path = self.path(name)
        steps: list[tuple[str, BytesLike]] = [(f"{path}/{DOCUMENT}", blob_document(len(data)))]
        steps.insert(len(steps) if self.objects.nodes_first else 0, (f"{path}/c/0", data))
        self.objects.put_many([steps])

    def write_shard(self, array: str, number: int, blobs: Mapping[str, BytesLike]) -> dict[str, tuple[int, int, int]]:
        """Store `blobs` as one shard, in ascending order of their keys; return (offset, length, CRC-32C) by key."""
        keys = sort_keys(blobs)
        entries: dict[str, tuple[int, int, int]] = {}
        offset = 0
        for key in keys:
            entries[key] = (offset, len(blobs[key]), crc32c(blobs[key]))
            offset += len(blobs[key])
        path = self.path(array, shard_name(number))
        steps: list[tuple[str, BytesLike]] = [(f"{path}/{DOCUMENT}", blob_document(offset, shard_attributes(entries)))]
        if offset:
            steps.insert(
                len(steps) if self.objects.nodes_first else 0, (f"{path}/c/0", b"".join(blobs[key] for key in keys))
            )
        self.objects.put_many([steps])
        return entries

    def forget(self, array: str | None = None) -> None:
        """Drop what is remembered of an array's listing and shards (of all arrays where None)."""
        if array is None:
            self._listings.clear()
        else:
            self._listings.pop(array, None)
        self._whole_shards.clear()

    # ------------------------------------------------------------------------------------------ listing

    def list(self, array: str) -> list[str]:
        """Return the keys of all blobs of `array`, in numeric order; ``[]`` where it is absent."""
        self.forget(array)
        listing = self.listing(array)
        documents = self.objects.get_many([(self.path(array, name, DOCUMENT), None) for name in sorted(listing.plain)])
        plain = [
            name
            for name, document in zip(sorted(listing.plain), documents, strict=True)
            if document is not None and b'"array"' in document
        ]
        return sort_keys({*plain, *listing.entries})

    def sizes(self, array: str) -> dict[str, int]:
        """Return the length of every blob of `array`, from documents and shard indexes."""
        self.forget(array)
        listing = self.listing(array)
        sizes = {key: entry[1] for key, (_, entry) in listing.entries.items()}
        names = sorted(listing.plain)
        documents = self.objects.get_many([(self.path(array, name, DOCUMENT), None) for name in names])
        for name, document in zip(names, documents, strict=True):
            if document is not None and b'"array"' in document:
                blob = parse_blob_document(document, self.path(array, name), self.objects.url)
                sizes[name] = blob.nbytes if blob else len(self._decode_through_zarr(self.path(array, name)))
        return sizes

    def listing(self, array: str) -> ArrayListing:
        """Return what lies below `array`, from memory where it was asked before."""
        if array not in self._listings:
            names = [n for n in self.objects.list_dir(self.path(array)) if n != DOCUMENT]
            self._listings[array] = self._read_indexes(array, names)
        return self._listings[array]

    def _read_indexes(self, array: str, names: Sequence[str]) -> ArrayListing:
        shard_names = [n for n in names if is_shard_name(n)]
        documents = self.objects.get_many([(self.path(array, n, DOCUMENT), None) for n in shard_names])
        shards: dict[str, dict[str, ShardEntry]] = {}
        entries: dict[str, tuple[str, ShardEntry]] = {}
        for name, document in zip(shard_names, documents, strict=True):
            if document is None:  # its writer has stored the data, not yet the document
                continue
            path = self.path(array, name)
            blob = parse_blob_document(document, path, self.objects.url)
            attributes, nbytes = (blob.attributes, blob.nbytes) if blob else self._foreign_shard(path)
            shards[name] = parse_shard_index(attributes, nbytes, path)
            entries.update((key, (name, entry)) for key, entry in shards[name].items())
        return ArrayListing(frozenset(n for n in names if not is_shard_name(n)), shards, entries)

    def exists(self, array: str, key: str) -> bool:
        """Tell whether a blob is there, as its own array or in a shard."""
        if self.objects.exists(self.path(array, key, DOCUMENT)):
            return True
        if array in self._listings and not self._listings[array].shards:
            self.forget(array)
        return key in self.listing(array).entries

    # ------------------------------------------------------------------------------------------ reading

    def read(self, array: str, key: str) -> bytes:
        """Return one blob.

        Raises
        ------
        NotFoundError
            No such blob.
        FormatError, StoreError
            It is there but damaged, short or without its data object.
        """
        found = self.read_many([(array, key)])
        if (array, key) not in found:
            raise NotFoundError(
                f"no chunk {key!r} in array {array!r} at '/{self.path(array)}'",
                store=self.objects.url, array=self.path(array), chunk=key,
            )  # fmt: skip
        return found[array, key]

    def read_many(self, addresses: Sequence[Address]) -> dict[Address, bytes]:
        """Return the blobs at `addresses`, all fetched concurrently; absent ones are left out."""
        out: dict[Address, bytes] = {}
        todo = list(dict.fromkeys(addresses))
        if self.catalog is not None:
            todo = self._read_by_catalog(todo, out)
        for attempt in range(_ATTEMPTS):
            if attempt:
                wait_before_retry(attempt)
            todo, problems = self._read_by_listing(todo, out, fresh=attempt > 0)
            if not todo:
                return out
        raise problems[0]

    def _read_by_catalog(self, addresses: list[Address], out: dict[Address, bytes]) -> list[Address]:
        """Fetch what the catalog knows, fill `out`, and return what must be looked up in the store itself."""
        assert self.catalog is not None
        left: list[Address] = []
        plain: list[tuple[Address, int]] = []
        slices: dict[tuple[str, int], list[tuple[Address, ShardEntry]]] = {}
        for array, key in addresses:
            place = self.catalog.locate(array, key)
            if place is None:
                left.append((array, key))
            elif place.shard < 0:
                plain.append(((array, key), place.nbytes))
            else:
                entry = (place.offset, place.nbytes, place.crc)
                slices.setdefault((array, place.shard), []).append(((array, key), entry))
        known = [(a, n) for a, n in plain if n > 0]
        data = self.objects.get_many([(f"{self.path(*a)}/c/0", None) for a, _ in known])
        for (address, nbytes), blob in zip(known, data, strict=True):
            if blob is not None and len(blob) == nbytes:
                out[address] = blob
            else:
                left.append(address)
        left.extend(a for a, n in plain if n == 0)  # an object might have come; the document says
        wanted = [
            (self.path(array, shard_name(number)), entries) for (array, number), entries in slices.items()
        ]
        left.extend(self._read_slices(wanted, out))
        if left and self.catalog.covers(left):
            self.catalog_is_stale = True
        return left

    def _read_slices(
        self, shards: Sequence[tuple[str, list[tuple[Address, ShardEntry]]]], out: dict[Address, bytes]
    ) -> list[Address]:
        """Fetch slices of raw shards with few ranged reads; return those whose bytes aren't what the index says."""
        requests: list[Request] = []
        groups: list[list[tuple[Address, ShardEntry]]] = []
        for path, entries in shards:
            run: list[tuple[Address, ShardEntry]] = []
            for item in sorted(entries, key=lambda e: e[1][0]):
                offset = item[1][0]
                if run and offset > run[-1][1][0] + run[-1][1][1] + _COALESCE_GAP:
                    requests.append((f"{path}/c/0", _span(run)))
                    groups.append(run)
                    run = []
                run.append(item)
            if run:
                requests.append((f"{path}/c/0", _span(run)))
                groups.append(run)
        bad: list[Address] = []
        for data, run, (_, span) in zip(self.objects.get_many(requests), groups, requests, strict=True):
            assert span is not None
            view = memoryview(data or b"")
            for address, (offset, nbytes, crc) in run:
                blob = bytes(view[offset - span[0] : offset - span[0] + nbytes])
                if len(blob) == nbytes and (crc is None or crc32c(blob) == crc):
                    out[address] = blob
                else:
                    bad.append(address)
        return bad

    def _read_by_listing(
        self, addresses: list[Address], out: dict[Address, bytes], *, fresh: bool
    ) -> tuple[list[Address], list[Exception]]:
        """Read by documents and shard indexes; return what must be tried again, with the reasons."""
        again: list[Address] = []
        problems: list[Exception] = []
        wanted = [p for a in addresses for p in ((f"{self.path(*a)}/{DOCUMENT}", None), (f"{self.path(*a)}/c/0", None))]
        answers = self.objects.get_many(wanted)
        sharded: list[Address] = []
        for i, address in enumerate(addresses):
            document, data = answers[2 * i], answers[2 * i + 1]
            if document is None:
                sharded.append(address)
                continue
            try:
                out[address] = self._decode(address, document, data)
            except (FormatError, StoreError) as error:
                again.append(address)
                problems.append(error)
        for array in {a for a, _ in sharded}:
            if fresh or (array in self._listings and not self._listings[array].shards):
                self.forget(array)
        raw: dict[str, list[tuple[Address, ShardEntry]]] = {}
        for address in sharded:
            array, key = address
            found = self.listing(array).entries.get(key)
            if found is None:
                if self.catalog is not None and self.catalog.locate(array, key) is not None:
                    again.append(address)
                    problems.append(self._error("a committed chunk is gone: its objects were deleted", address))
                continue
            name, entry = found
            raw.setdefault(self.path(array, name), []).append((address, entry))
        for address in self._read_shards(raw, out):
            again.append(address)
            problems.append(self._error("the shard is short, or was replaced while it was read", address))
        return again, problems

    def _read_shards(
        self, shards: dict[str, list[tuple[Address, ShardEntry]]], out: dict[Address, bytes]
    ) -> list[Address]:
        ours = [(p, e) for p, e in shards.items() if all(crc is not None for _, (_, _, crc) in e)]
        bad = self._read_slices(ours, out)
        for path, entries in shards.items():
            if any(path == p for p, _ in ours):
                continue
            data = memoryview(self._whole_shard(path))
            for address, (offset, nbytes, _) in entries:
                if offset + nbytes > len(data):
                    self._whole_shards.pop(path, None)
                    bad.append(address)
                else:
                    out[address] = bytes(data[offset : offset + nbytes])
        return bad

    def _whole_shard(self, path: str) -> bytes:
        """Return the payload of a shard of others, decoded once and kept in a bounded cache."""
        if path in self._whole_shards:
            self._whole_shards.move_to_end(path)
            return self._whole_shards[path]
        document, data = self.objects.get_many([(f"{path}/{DOCUMENT}", None), (f"{path}/c/0", None)])
        array, _, name = path.rpartition("/")
        if document is None:
            raise StoreError(f"shard '/{path}' is gone", store=self.objects.url, array=array, chunk=name)
        payload = self._decode_at(path, document, data, array, name)
        self._whole_shards[path] = payload
        while sum(map(len, self._whole_shards.values())) > _SHARD_CACHE_BYTES and len(self._whole_shards) > 1:
            self._whole_shards.popitem(last=False)
        return payload

    def _foreign_shard(self, path: str) -> tuple[Mapping[str, object], int]:
        array = self._open_zarr_array(path)
        return dict(array.attrs), int(array.shape[0])

    # ------------------------------------------------------------------------------------------ decoding

    def _decode(self, address: Address, document: bytes, data: bytes | None) -> bytes:
        array, key = address
        return self._decode_at(self.path(array, key), document, data, self.path(array), key)

    def _decode_at(self, path: str, document: bytes, data: bytes | None, array: str, chunk: str) -> bytes:
        url = self.objects.url
        blob = parse_blob_document(document, path, url)
        if blob is None:
            return self._decode_through_zarr(path)
        if blob.nbytes == 0:
            return b""
        if data is None:
            if blob.zstd and blob.nbytes <= _MAX_ZEROS:
                return bytes(blob.nbytes)  # Zarr's default pipeline leaves out a chunk of nothing but zeros
            raise StoreError(
                f"the data object '/{path}/c/0' is missing, and its document promises {blob.nbytes} bytes",
                store=url, array=array, chunk=chunk,
            )  # fmt: skip
        if blob.raw:
            if len(data) != blob.nbytes:
                raise FormatError(
                    f"the data object has {len(data)} bytes, its document says {blob.nbytes}: it is short, or was being "
                    "replaced by a writer that died; write the chunk again",
                    store=url, array=array, chunk=chunk,
                )  # fmt: skip
            return data
        return _unpack(data, blob, url, array, chunk)

    def _decode_through_zarr(self, path: str) -> bytes:
        array = self._open_zarr_array(path)
        if array.ndim != 1 or array.dtype != np.dtype("uint8"):
            raise FormatError(
                f"'/{path}' is a {array.ndim}-D array of {array.dtype}, a blob is 1-D uint8", store=self.objects.url
            )
        return bytes(np.asarray(array[:]).tobytes())

    def _open_zarr_array(self, path: str) -> zarr.Array:
        store = self.objects.store if isinstance(self.objects, ZarrObjects) else zarr.storage.LocalStore(
            self.objects.url.removeprefix("file://"), read_only=True
        )  # fmt: skip
        array = zarr.open_array(store=store, path=path, mode="r", zarr_format=3)
        assert isinstance(array, zarr.Array)
        return array

    def _error(self, text: str, address: Address) -> StoreError:
        array, key = address
        return StoreError(text, store=self.objects.url, array=self.path(array), chunk=key)


def _span(run: Sequence[tuple[Address, ShardEntry]]) -> tuple[int, int]:
    start = run[0][1][0]
    return start, max(offset + nbytes for _, (offset, nbytes, _) in run) - start


def _unpack(data: bytes, blob: BlobDocument, url: str, array: str, chunk: str) -> bytes:
    size = _frame_size(data)
    problem: object = f"its frame says {size} bytes"
    if size == blob.nbytes:
        try:
            payload = bytes(Zstd().decode(data))
        except (RuntimeError, ValueError) as error:
            problem = error
        else:
            if len(payload) == blob.nbytes:
                return payload
            problem = f"it unpacks to {len(payload)} bytes"
    raise FormatError(
        f"the data object is no Zstandard frame of {blob.nbytes} bytes: {problem}", store=url, array=array, chunk=chunk
    )


def _frame_size(data: bytes) -> int | None:
    """Return the content size in a Zstandard frame's header (RFC 8878, 3.1.1.1), None where there is none.

    Checked before decoding, so that a hostile frame can't make us allocate more than the document promised.
    """
    if len(data) < 6 or data[:4] != b"\x28\xb5\x2f\xfd":
        return None
    descriptor = data[4]
    flag, single = descriptor >> 6, (descriptor >> 5) & 1
    start = 5 + (0 if single else 1) + (0, 1, 2, 4)[descriptor & 3]
    width = (1 if single else 0, 2, 4, 8)[flag]
    if width == 0 or len(data) < start + width:
        return None
    return int.from_bytes(data[start : start + width], "little") + (256 if width == 2 else 0)
