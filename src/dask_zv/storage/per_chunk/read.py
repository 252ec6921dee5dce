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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dask_zv.errors import FormatError, StoreError
from dask_zv.format.documents import (
    ShardEntry,
    WrongKindError,
    parse_blob_document,
    parse_document,
    parse_shard_index,
)
from dask_zv.format.keys import DOCUMENT, is_shard_name, shard_name, sort_keys
from dask_zv.storage.catalog import Catalog
from dask_zv.storage.codecs import crc32c
from dask_zv.storage.objects import Address, BlobReader, Objects, Request, keys_by_array, wait_before_retry
from dask_zv.storage.zarr_reads import decode_blob, open_zarr_array

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


class PerChunk(BlobReader):
    """Blobs of the arrays below `prefix`, read through shard indexes that are fetched once.

    An array can have no more chunks than there is `room` for: more names below one are refused before any is looked at.
    """

    def __init__(
        self, objects: Objects, prefix: str, catalog: Catalog | None = None, room: int | None = None, *, trust: bool = False
    ) -> None:
        super().__init__(objects, prefix, catalog)
        self.room = room
        self._listings: dict[str, ArrayListing] = {}
        self._whole_shards: OrderedDict[str, tuple[bytes, dict[str, ShardEntry]]] = OrderedDict()

    def forget(self, array: str | None = None) -> None:
        """Drop what is remembered of an array's listing and shards (of all arrays where None)."""
        if array is None:
            self._listings.clear()
        else:
            self._listings.pop(array, None)
        self._whole_shards.clear()

    # ------------------------------------------------------------------------------------------ listing

    def list_keys(self, array: str) -> list[str]:
        return sort_keys({*self._documents(array), *self.listing(array).entries})  # in a shard and beside it, maybe

    def sizes(self, array: str) -> dict[str, int]:
        documents = self._documents(array)
        sizes = {key: entry[1] for key, (_, entry) in self.listing(array).entries.items()}
        for name, document in documents.items():
            path = self.path(array, name)
            blob = parse_blob_document(document, path, self.objects.url)
            sizes[name] = blob.nbytes if blob else int(open_zarr_array(self.objects, path).shape[0])
        return sizes

    def _documents(self, array: str) -> dict[str, bytes]:
        """Return the documents of the blobs of `array` that are arrays of their own, as they are now."""
        self.forget(array)
        names = sorted(self.listing(array).plain)
        documents = self.objects.get_many([(self.path(array, name, DOCUMENT), None) for name in names])
        found = zip(names, documents, strict=True)
        return {n: document for n, document in found if document is not None and self._is_array(document, array, n)}

    def _is_array(self, document: bytes, array: str, name: str) -> bool:
        """Return True if a child's document is that of a blob: groups below a group of arrays are none."""
        return bool(parse_document(document, self.path(array, name), self.objects.url)["node_type"] == "array")

    def listing(self, array: str) -> ArrayListing:
        """Return what lies below `array`, from memory where it was asked before."""
        if array not in self._listings:
            names = [n for n in self.objects.list_dir(self.path(array)) if n != DOCUMENT]
            if self.room is not None and len(names) > self.room:
                raise FormatError(
                    f"{len(names):,} names lie below it, but its level has room for {self.room:,} chunks: they are not its own",
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
        document = self.objects.get(self.path(array, key, DOCUMENT))
        alone = document is not None and self._is_array(document, array, key)
        return alone or key in self._listing_with(array, [key]).entries

    def _listing_with(self, array: str, keys: Iterable[str]) -> ArrayListing:
        """Return what lies below `array`, looked up again where a remembered answer lacks any of `keys`."""
        if array in self._listings and not all(key in self._listings[array].entries for key in keys):
            self.forget(array)
        return self.listing(array)

    # ------------------------------------------------------------------------------------------ reading

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
        """Note that the catalog is stale where blobs, once unpacked, are not those of the last commit; damage is an error."""
        assert self.catalog is not None or not addresses
        changed: list[tuple[Address, str]] = []
        for array, key in addresses:
            place = self.catalog.locate(array, key) if self.catalog is not None else None
            assert place is not None
            if (array, key) not in found or crc32c(found[array, key]) != place.crc:
                changed.append(((array, key), f"{self.path(array, key if place.shard < 0 else shard_name(place.shard))}/c/0"))
        if changed:
            self.refuse_damage([(address, path) for address, path in changed if address in found])
            self.catalog_is_stale, self.stale_chunk = True, changed[0][0][1]

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
        keys = keys_by_array(sharded)
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
                    problems.append(self.failure(address, "a committed chunk is gone: its objects were deleted"))
        for address in self._read_slices(list(slices.items()), out):
            again.append(address)
            problems.append(
                self.failure(address, "the shard's data object is missing, short, or was replaced while it was read")
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
                problems.append(self.failure(address, "the shard's index and its bytes disagree"))
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
