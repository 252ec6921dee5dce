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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dask_zv.errors import FormatError, NotFoundError, StoreError, ZVError
from dask_zv.format.documents import (
    PAYLOAD_CRC32C,
    BlobDocument,
    WrongKindError,
    blob_document,
    parse_blob_document,
    parse_document,
)
from dask_zv.format.keys import DOCUMENT, is_spatial_key, join, parse_key, sort_keys
from dask_zv.format.shards import ShardEntry, is_shard_name, parse_shard_index, shard_attributes, shard_name
from dask_zv.storage.catalog import Catalog, Place
from dask_zv.storage.codecs import crc32c, unpack_zstd
from dask_zv.storage.grid.fetch import DAMAGED
from dask_zv.storage.local import LocalObjects
from dask_zv.storage.objects import Address, BytesLike, Objects, Request, wait_before_retry
from dask_zv.storage.zarr_reads import ZARR_ERRORS, check_claim, open_zarr_array, unpacked

_MAX_ZEROS = 1 << 26
"""A chunk that is left out and means so many zeros costs its document alone: more are taken for a lost chunk."""


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


_ATTEMPTS = 7
_SHARD_CACHE_BYTES = 64 << 20
_COALESCE_GAP = 64 << 10


@dataclass(frozen=True, slots=True)
class ArrayListing:
    """What lies below one array's group."""

    plain: frozenset[str]  # names of children that may be blobs (not yet known to have a document)
    shards: dict[str, dict[str, ShardEntry]]  # shard name to its index
    entries: dict[str, tuple[str, ShardEntry]]  # chunk key to the shard that holds it
    raw: frozenset[str]  # shards of ours: stored as they are and with a checksum per blob, so that slices of them can be read


class PerChunk:
    """Blobs of the arrays below `prefix`, read through shard indexes that are fetched once.

    `prefix`: path of the group in the store; `catalog`: what the group's last commit recorded; saves the documents and the
    listing; `room`: how many chunks an array can have: more names below one are refused before any of them is looked at.
    """

    def __init__(
        self, objects: Objects, prefix: str, catalog: Catalog | None = None, room: int | None = None, *, trust: bool = False
    ) -> None:
        self.room = room
        self.objects = objects
        self.prefix = prefix
        self.catalog = catalog
        self.catalog_is_stale = False
        self.stale_chunk: str | None = None
        self._listings: dict[str, ArrayListing] = {}
        self._whole_shards: OrderedDict[str, tuple[bytes, dict[str, ShardEntry]]] = OrderedDict()

    def path(self, *parts: str) -> str:
        """Return the path in the store of something below the group."""
        return join(self.prefix, *parts)

    # ------------------------------------------------------------------------------------------ writing

    def write(self, blobs: Sequence[tuple[str, str, BytesLike]]) -> dict[Address, int]:
        """Store (array, chunk key, payload) blobs, each as its own array; return the stamps of their objects."""
        sequences: list[list[tuple[str, BytesLike]]] = []
        emptied: list[str] = []
        for array, key, data in blobs:
            path = self.path(array, key)
            # no catalog has a checksum of what is no chunk: tables about objects and groups
            about = {PAYLOAD_CRC32C: crc32c(data)} if len(data) and not is_spatial_key(key) else None
            steps: list[tuple[str, BytesLike]] = [(f"{path}/{DOCUMENT}", blob_document(len(data), about))]
            if len(data):
                steps.insert(len(steps) if self.objects.nodes_first else 0, (f"{path}/c/0", data))
            else:
                emptied.append(f"{path}/c/0")
            sequences.append(steps)
        stamps = self.objects.put_many(sequences) if sequences else []
        for key in emptied:  # after the document says "empty": a reader in between reads b""
            if self.objects.exists(key):
                self.objects.delete(key)
        data_at = 1 if self.objects.nodes_first else 0
        return {(a, k): s[data_at] for (a, k, _), s in zip(blobs, stamps, strict=True) if len(s) > 1}

    def write_shards(
        self, shards: Mapping[tuple[str, int], Mapping[str, BytesLike]]
    ) -> tuple[dict[tuple[str, int], dict[str, tuple[int, int, int]]], dict[tuple[str, int], int]]:
        """Store shards by (array, number), all at once, the blobs of each in ascending order of their keys.

        Returns (offset, length, CRC-32C) by key for each, and the stamps of their objects.
        """
        stored: dict[tuple[str, int], dict[str, tuple[int, int, int]]] = {}

        def sequences() -> Iterator[list[tuple[str, BytesLike]]]:
            for (array, number), blobs in shards.items():
                entries = stored[array, number] = {}
                offset = 0
                for key in sort_keys(blobs):
                    entries[key] = (offset, len(blobs[key]), crc32c(blobs[key]))
                    offset += len(blobs[key])
                path = self.path(array, shard_name(number))
                steps: list[tuple[str, BytesLike]] = [(f"{path}/{DOCUMENT}", blob_document(offset, shard_attributes(entries)))]
                if offset:
                    data = b"".join([blobs[key] for key in entries])
                    steps.insert(len(steps) if self.objects.nodes_first else 0, (f"{path}/c/0", data))
                yield steps

        stamps = self.objects.put_many(sequences()) if shards else []
        data_at = 1 if self.objects.nodes_first else 0
        return stored, {at: s[data_at] for at, s in zip(shards, stamps, strict=True) if len(s) > 1}

    def forget(self, array: str | None = None) -> None:
        """Drop what is remembered of an array's listing and shards (of all arrays where None)."""
        if array is None:
            self._listings.clear()
        else:
            self._listings.pop(array, None)
        self._whole_shards.clear()

    # ------------------------------------------------------------------------------------------ listing

    def list_keys(self, array: str) -> list[str]:
        """Return the keys of all blobs of `array`, in numeric order; ``[]`` where it is absent."""
        self.forget(array)
        listing = self.listing(array)
        names = sorted(listing.plain)
        documents = self.objects.get_many([(self.path(array, name, DOCUMENT), None) for name in names])
        plain = [n for n, document in zip(names, documents, strict=True) if self._is_array(document, array, n)]
        return sort_keys({*plain, *listing.entries})

    def _is_array(self, document: bytes | None, array: str, name: str) -> bool:
        """Tell whether a child's document is that of a blob: groups below a group of arrays are none."""
        if document is None:
            return False
        return bool(parse_document(document, self.path(array, name), self.objects.url)["node_type"] == "array")

    def sizes(self, array: str) -> dict[str, int]:
        """Return the length of every blob of `array`, from documents and shard indexes."""
        self.forget(array)
        listing = self.listing(array)
        sizes = {key: entry[1] for key, (_, entry) in listing.entries.items()}
        names = sorted(listing.plain)
        documents = self.objects.get_many([(self.path(array, name, DOCUMENT), None) for name in names])
        for name, document in zip(names, documents, strict=True):
            if document is not None and self._is_array(document, array, name):
                path = self.path(array, name)
                blob = parse_blob_document(document, path, self.objects.url)
                sizes[name] = blob.nbytes if blob else int(open_zarr_array(self.objects, path).shape[0])
        return sizes

    def listing(self, array: str) -> ArrayListing:
        """Return what lies below `array`, from memory where it was asked before."""
        if array not in self._listings:
            names = [n for n in self.objects.list_dir(self.path(array)) if n != DOCUMENT]
            if self.room is not None and len(names) > self.room:
                raise FormatError(
                    f"{len(names):,} names lie below it, and its level has room for {self.room:,} chunks: they are not its own",
                    store=self.objects.url, array=self.path(array),
                )  # fmt: skip
            self._listings[array] = self._read_indexes(array, names)
        return self._listings[array]

    def _read_indexes(self, array: str, names: Sequence[str]) -> ArrayListing:
        shard_names = [n for n in names if is_shard_name(n)]
        documents = self.objects.get_many([(self.path(array, n, DOCUMENT), None) for n in shard_names])
        shards: dict[str, dict[str, ShardEntry]] = {}
        entries: dict[str, tuple[str, ShardEntry]] = {}
        raw: set[str] = set()
        for name, document in zip(shard_names, documents, strict=True):
            if document is None:  # its writer has stored the data, not yet the document
                continue
            path = self.path(array, name)
            blob = parse_blob_document(document, path, self.objects.url)
            if blob is None:  # legal Zarr of another kind
                node = open_zarr_array(self.objects, path)
                shards[name] = parse_shard_index(dict(node.attrs), int(node.shape[0]), path)
            else:
                shards[name] = parse_shard_index(blob.attributes, blob.nbytes, path)
                if blob.raw and all(crc is not None for _, _, crc in shards[name].values()):
                    raw.add(name)
            entries.update((key, (name, entry)) for key, entry in shards[name].items())
        return ArrayListing(frozenset(n for n in names if not is_shard_name(n)), shards, entries, frozenset(raw))

    def shard_keys(self, array: str, number: int) -> list[str]:
        """Return the keys that a shard holds now; none where it is absent."""
        name = shard_name(number)
        return list(self._read_indexes(array, [name]).shards.get(name, ()))

    def exists(self, array: str, key: str) -> bool:
        """Tell whether a blob is there, as its own array or in a shard."""
        document = self.objects.get(self.path(array, key, DOCUMENT))
        return self._is_array(document, array, key) or key in self._listing_with(array, [key]).entries

    def _listing_with(self, array: str, keys: Iterable[str]) -> ArrayListing:
        """Return what lies below `array`, looked up again where a remembered answer lacks any of `keys`."""
        if array in self._listings and not all(key in self._listings[array].entries for key in keys):
            self.forget(array)
        return self.listing(array)

    # ------------------------------------------------------------------------------------------ reading

    def read(self, array: str, key: str) -> bytes:
        """Return one blob."""
        found = self.read_many([(array, key)])
        if (array, key) not in found:
            raise NotFoundError(
                f"chunk {key!r} of array {array!r} not found at '/{self.path(array)}'",
                store=self.objects.url, array=self.path(array), chunk=key,
            )  # fmt: skip
        return found[array, key]

    def read_many(self, addresses: Sequence[Address]) -> dict[Address, bytes]:
        """Return the blobs at `addresses`, all fetched concurrently; absent ones are left out."""
        out: dict[Address, bytes] = {}
        todo, changed = list(dict.fromkeys(addresses)), list[Address]()
        if self.catalog is not None:
            todo, changed = self._read_by_catalog(todo, out)
        for attempt in range(_ATTEMPTS):
            if attempt:
                wait_before_retry(attempt)
            todo, problems = self._read_by_listing(todo, out, fresh=attempt > 0)
            if not todo:
                self._judge(changed, out)
                return out
        raise problems[0]

    def _read_by_catalog(self, addresses: list[Address], out: dict[Address, bytes]) -> tuple[list[Address], list[Address]]:
        """Fetch what the catalog knows, fill `out`, and return what to look up in the store, and what of it it knows."""
        assert self.catalog is not None
        left: list[Address] = []
        plain: list[tuple[Address, int]] = []
        slices: dict[tuple[str, int], list[tuple[Address, ShardEntry]]] = {}
        for array, key in addresses:
            place = self.catalog.locate(array, key)
            if place is None or (place.shard < 0 and place.nbytes == 0):  # no object: the document says if one came
                left.append((array, key))
            elif place.shard < 0:
                plain.append(((array, key), place.crc))
            else:
                entry = (place.offset, place.nbytes, place.crc)
                slices.setdefault((array, place.shard), []).append(((array, key), entry))
        data = self.objects.get_many([(f"{self.path(*a)}/c/0", None) for a, _ in plain])
        changed: list[Address] = []
        for (address, crc), blob in zip(plain, data, strict=True):
            # not by length alone: another tool's frame may be as long as our payload was
            if blob is not None and crc32c(blob) == crc:
                out[address] = blob
            else:
                changed.append(address)
        wanted = [(self.path(array, shard_name(number)), entries) for (array, number), entries in slices.items()]
        changed.extend(self._read_slices(wanted, out))
        return left + changed, changed

    def _judge(self, addresses: Sequence[Address], found: Mapping[Address, bytes]) -> None:
        """Note that the catalog is stale where blobs, once unpacked, are not those of the last commit."""
        changed = [a for a in addresses if a not in found or crc32c(found[a]) != self._noted(a).crc]
        if changed:
            self._refuse_damage([a for a in changed if a in found])
            self.catalog_is_stale, self.stale_chunk = True, changed[0][1]

    def _noted(self, address: Address) -> Place:
        assert self.catalog is not None
        place = self.catalog.locate(*address)
        assert place is not None
        return place

    def _refuse_damage(self, addresses: Sequence[Address]) -> None:
        """Raise where bytes are not those of the last commit though their object is as old: no edit, but damage."""
        assert self.catalog is not None
        noted: list[tuple[Address, str, int]] = []
        for array, key in addresses:
            place = self._noted((array, key))
            row = int(self.catalog.find(np.array([parse_key(key)], np.int64))[0])
            name = key if place.shard < 0 else shard_name(place.shard)
            noted.append(((array, key), f"{self.path(array, name)}/c/0", int(self.catalog.arrays[array]["stamp"][row])))
        known = [item for item in noted if item[2]]
        for ((array, key), _, before), stamp in zip(known, self.objects.stamps([p for _, p, _ in known]), strict=True):
            if stamp is not None and stamp[1] == before:
                raise FormatError(DAMAGED, store=self.objects.url, array=self.path(array), chunk=key)

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
                path = self.path(*address)
                out[address] = decode_blob(self.objects, path, document, data, self.path(address[0]), address[1])
            except WrongKindError as error:
                raise error.at(array=self.path(address[0]), chunk=address[1]) from None
            except (FormatError, StoreError) as error:
                again.append(address)
                problems.append(error)
        keys: dict[str, list[str]] = {}
        for array, key in sharded:
            keys.setdefault(array, []).append(key)
        slices: dict[str, list[tuple[Address, ShardEntry]]] = {}
        wholes: dict[str, list[tuple[Address, ShardEntry]]] = {}
        for array in keys:
            if fresh:
                self.forget(array)
            listing = self._listing_with(array, keys[array])
            for key in keys[array]:
                address = (array, key)
                if key in listing.entries:
                    name, entry = listing.entries[key]
                    where = slices if name in listing.raw else wholes
                    where.setdefault(self.path(array, name), []).append((address, entry))
                elif self.catalog is not None and self.catalog.locate(array, key) is not None:
                    again.append(address)
                    problems.append(self._error("a committed chunk is gone: its objects were deleted", address))
        for address in self._read_slices(list(slices.items()), out):
            again.append(address)
            problems.append(
                self._error("the shard's data object is missing, short, or was replaced while it was read", address)
            )
        for path, wanted_of_shard in wholes.items():
            try:
                data, index = self._whole_shard(path)
            except (FormatError, StoreError) as error:
                again.extend(address for address, _ in wanted_of_shard)
                problems.extend(error.at(chunk=key) for (_, key), _ in wanted_of_shard)
                continue
            for address, _ in wanted_of_shard:
                blob = _cut(data, index.get(address[1]))
                if blob is not None:
                    out[address] = blob
                    continue
                self._whole_shards.pop(path, None)
                again.append(address)
                problems.append(self._error("the shard's index and its bytes disagree", address))
        return again, problems

    def read_members(self, array: str, shard: str, keys: Sequence[str]) -> dict[str, bytes]:
        """Return blobs as one shard holds them, whatever else stores their keys."""
        if not keys:
            return {}
        data, index = self._whole_shard(self.path(array, shard))
        found = {key: _cut(data, index.get(key)) for key in keys}
        return {key: blob for key, blob in found.items() if blob is not None}

    def _whole_shard(self, path: str) -> tuple[bytes, dict[str, ShardEntry]]:
        """Return the payload of a shard of others and its index, decoded once and kept in a bounded cache."""
        if path in self._whole_shards:
            self._whole_shards.move_to_end(path)
            return self._whole_shards[path]
        document, data = self.objects.get_many([(f"{path}/{DOCUMENT}", None), (f"{path}/c/0", None)])
        array = path.rpartition("/")[0]
        if document is None:
            raise StoreError(f"shard '/{path}' is gone", store=self.objects.url, array=array)
        payload = decode_blob(self.objects, path, document, data, array)
        attributes = parse_document(document, path, self.objects.url).get("attributes", {})
        held = self._whole_shards[path] = payload, parse_shard_index(attributes, len(payload), path)
        while sum(len(p) for p, _ in self._whole_shards.values()) > _SHARD_CACHE_BYTES and len(self._whole_shards) > 1:
            self._whole_shards.popitem(last=False)
        return held

    def _error(self, text: str, address: Address) -> StoreError:
        array, key = address
        return StoreError(text, store=self.objects.url, array=self.path(array), chunk=key)


def _span(run: Sequence[tuple[Address, ShardEntry]]) -> tuple[int, int]:
    start = run[0][1][0]
    return start, max(offset + nbytes for _, (offset, nbytes, _) in run) - start


def _cut(data: bytes, entry: ShardEntry | None) -> bytes | None:
    """Return a blob out of a shard's payload, None where there is none or its checksum does not match."""
    if entry is None:
        return None
    offset, nbytes, crc = entry
    blob = data[offset : offset + nbytes]
    return blob if crc is None or crc32c(blob) == crc else None
