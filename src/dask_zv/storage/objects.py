"""Objects of a store by key, the few verbs that everything above needs, bounded and retried; and readers of blobs in them.

:class:`Objects` is the seam between the layouts and the bytes. A local directory is served by plain file calls
(:mod:`dask_zv.storage.local`); every other store goes through its zarr ``Store``, on zarr's own loop, with a bounded number of
requests in flight.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, cast
from urllib.parse import quote

import numpy as np
from zarr.abc.store import Store

from dask_zv.config import settings
from dask_zv.errors import FormatError, NotFoundError, StoreError, escaped
from dask_zv.format.keys import join, parse_key
from dask_zv.storage.catalog import Catalog

_LOG = logging.getLogger("dask_zv.storage")
BytesLike = bytes | bytearray | memoryview
Request = tuple[str, "tuple[int, int] | None"]
"""A key and, for a ranged read, (offset, length); a negative offset asks for that many bytes at the end."""


Address = tuple[str, str]
"""(array, chunk key)."""


class Objects(Protocol):
    """Objects by key. Absent objects read as None; every other failure is a :class:`StoreError`."""

    url: str
    read_only: bool
    nodes_first: bool
    """True where a node's document must exist before its chunks (Icechunk)."""
    is_local: bool
    """True for a directory: nobody waits for a network."""
    looks_first: bool
    """True where :meth:`put_if_absent` looks, and then writes: two that do so at the same moment may both store theirs."""

    def get(self, key: str, byte_range: tuple[int, int] | None = None) -> bytes | None: ...
    def get_many(self, requests: Sequence[Request]) -> list[bytes | None]: ...
    def put(self, key: str, data: BytesLike) -> None: ...
    def put_many(self, sequences: Iterable[Sequence[tuple[str, BytesLike]]]) -> list[list[int]]:
        """Store every sequence's objects in its order, the sequences in any; return their stamps, as :meth:`put_all` does."""

    def put_all(self, items: Iterable[tuple[str, BytesLike]]) -> list[int]:
        """Store objects in any order; return the stamp of each: of its ETag or time of change, 0 where there is neither."""

    def put_identified(self, items: Iterable[tuple[str, BytesLike]]) -> list[str]:
        """Store objects in any order; return what :meth:`identities` says of each from now on."""

    def put_if_absent(self, key: str, data: BytesLike) -> bool | None:
        """Store an object where there is none, and tell whether it was; None where the store can't do that atomically.

        `data` is the caller's alone: where it is there, it was stored by this call, whatever the store answered.
        """

    def identities(self, keys: Sequence[str]) -> list[str | None]:
        """Return what tells one version of each object from the next (length and ETag or time of change), None where absent."""

    def stamps(self, keys: Sequence[str]) -> list[tuple[int, int] | None]:
        """Return (length, stamp as of :meth:`put_all`) of each object, None where it is absent.

        A store that gives no stamps answers with stamp 0.
        """

    def delete(self, key: str) -> None: ...
    def delete_many(self, keys: Sequence[str]) -> None:
        """Remove objects; nothing happens where one is absent."""

    def delete_prefix(self, prefix: str) -> None: ...
    def exists(self, key: str) -> bool: ...
    def list_dir(self, prefix: str) -> list[str]:
        """Return the names directly below `prefix` (no trailing slash), sorted."""

    def list_prefix(self, prefix: str) -> Iterator[str]:
        """Yield all keys below `prefix`."""

    def any_below(self, prefix: str, suffix: str) -> bool:
        """Return True if a key below `prefix` ends with `suffix`; stops at the first."""

    def above(self) -> Objects | None:
        """Return the objects of the group that the store lies in, None where there is none, or it can't be seen."""

    def zarr_store(self) -> Store:
        """Return the same objects as a zarr store, for others to use."""

    def zarr_reads(self) -> Store:
        """Return the same objects as a zarr store that reads as this class does: for arrays that are left to zarr."""


def place_url(url: str, path: str) -> str:
    """Return what to call the place at a path in a store: one that can be opened where it is local, and always one line."""
    return join(url, quote(path, errors="backslashreplace") if url.startswith("file:") else escaped(path))


def wait_before_retry(attempt: int) -> None:
    """Sleep a little before a reader looks again at an object that was being replaced."""
    time.sleep(settings().reread_wait * 2**attempt)


class Snapshot:
    """The objects of a store, some of which are answered from memory; what is put through it is remembered, too.

    Everything else goes to the store.
    """

    def __init__(self, objects: Objects, keys: Iterable[str]) -> None:
        self._objects = objects
        wanted = list(dict.fromkeys(keys))
        self._held: dict[str, bytes | None] = dict(zip(wanted, objects.get_many([(key, None) for key in wanted]), strict=True))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objects, name)

    def get(self, key: str, byte_range: tuple[int, int] | None = None) -> bytes | None:
        if byte_range is None and key in self._held:
            return self._held[key]
        return self._objects.get(key, byte_range)

    def get_many(self, requests: Sequence[Request]) -> list[bytes | None]:
        missing = [r for r in requests if r[1] is not None or r[0] not in self._held]
        found = iter(self._objects.get_many(missing) if missing else [])
        return [self._held[key] if span is None and key in self._held else next(found) for key, span in requests]

    def put(self, key: str, data: BytesLike) -> None:
        self._objects.put(key, data)
        self._held[key] = bytes(data)

    def put_if_absent(self, key: str, data: BytesLike) -> bool | None:
        made = self._objects.put_if_absent(key, data)
        self._held.pop(key, None)  # another's, where it was not made
        return made

    def put_many(self, sequences: Iterable[Sequence[tuple[str, BytesLike]]]) -> list[list[int]]:
        listed = [list(s) for s in sequences]
        stamps = self._objects.put_many(listed)
        self._held.update((key, bytes(data)) for s in listed for key, data in s)
        return stamps

    def put_all(self, items: Iterable[tuple[str, BytesLike]]) -> list[int]:
        listed = list(items)
        stamps = self._objects.put_all(listed)
        self._held.update((key, bytes(data)) for key, data in listed)
        return stamps

    def put_identified(self, items: Iterable[tuple[str, BytesLike]]) -> list[str]:
        listed = list(items)
        identities = self._objects.put_identified(listed)
        self._held.update((key, bytes(data)) for key, data in listed)
        return identities

    def delete(self, key: str) -> None:
        self._held.pop(key, None)
        self._objects.delete(key)

    def delete_many(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._held.pop(key, None)
        self._objects.delete_many(keys)

    def delete_prefix(self, prefix: str) -> None:
        for key in [k for k in self._held if k == prefix or k.startswith(f"{prefix}/") or not prefix]:
            del self._held[key]
        self._objects.delete_prefix(prefix)


def snapshot(objects: Objects, keys: Iterable[str]) -> Objects:
    """Return `objects` with some of them fetched now, all at once."""
    return cast(Objects, Snapshot(objects, keys))


def together(objects: Objects, *calls: Callable[[], Any]) -> list[Any]:
    """Return the results of calls that each wait for the store, made at the same time where waiting is what they do."""
    inner = objects._objects if isinstance(objects, Snapshot) else objects
    if inner.is_local or len(calls) < 2:
        return [call() for call in calls]
    with ThreadPoolExecutor(len(calls)) as pool:
        return [f.result() for f in [pool.submit(call) for call in calls]]


@dataclass(slots=True)
class Retries:
    """How often the store was asked again."""

    count: int = 0


# the loop that makes the requests runs each in a copy of the caller's context: the copies share this object
_COUNTER: ContextVar[Retries | None] = ContextVar("dask_zv_retries", default=None)


@contextmanager
def counted_retries() -> Iterator[Retries]:
    """Count the retries of the requests that are made inside."""
    retries = Retries()
    token = _COUNTER.set(retries)
    try:
        yield retries
    finally:
        _COUNTER.reset(token)


def count_retry(why: str) -> None:
    """Note that a request failed and will be made again; `why` is free of secrets."""
    _LOG.warning("asking again: %s", why)
    counter = _COUNTER.get()
    if counter is not None:
        counter.count += 1


class BlobReader(ABC):
    """The blobs of the arrays below a group, `prefix` in the store; `catalog` is what its last commit recorded."""

    def __init__(self, objects: Objects, prefix: str, catalog: Catalog | None = None) -> None:
        self.objects = objects
        self.prefix = prefix
        self.catalog = catalog
        self.catalog_is_stale = False
        self.stale_chunk: str | None = None

    def path(self, *parts: str) -> str:
        """Return the path in the store of something below the group."""
        return join(self.prefix, *parts)

    @abstractmethod
    def forget(self, array: str | None = None) -> None:
        """Drop what is remembered of an array (of all where None)."""

    @abstractmethod
    def list_keys(self, array: str) -> list[str]:
        """Return the keys of the chunks of `array`, in numeric order; ``[]`` where it is absent."""

    @abstractmethod
    def sizes(self, array: str) -> dict[str, int]:
        """Return the length of every payload of `array`."""

    @abstractmethod
    def exists(self, array: str, key: str) -> bool:
        """Return True if a chunk is there."""

    @abstractmethod
    def read_many(self, addresses: Sequence[Address]) -> dict[Address, bytes]:
        """Return the blobs at `addresses`, all fetched concurrently; absent ones are left out."""

    def read(self, array: str, key: str) -> bytes:
        """Return one blob; raises :class:`NotFoundError` where there is none."""
        found = self.read_many([(array, key)])
        if (array, key) not in found:
            raise NotFoundError(
                f"chunk {key!r} of array {array!r} not found at '/{self.path(array)}'",
                store=self.objects.url, array=self.path(array), chunk=key,
            )  # fmt: skip
        return found[array, key]

    def catalogued_row(self, array: str, key: str) -> int:
        """Return the catalog's row of a chunk that it has."""
        assert self.catalog is not None
        return int(self.catalog.find(np.array([parse_key(key)], np.int64))[0])

    def refuse_damage(self, places: Iterable[tuple[Address, str]]) -> None:
        """Raise where bytes are not those of the last commit though their object (a path) is as old: no edit, but damage."""
        assert self.catalog is not None
        noted = [(a, path, int(self.catalog.arrays[a[0]]["stamp"][self.catalogued_row(*a)])) for a, path in places]
        known = [item for item in noted if item[2]]
        for (address, _, before), stamp in zip(known, self.objects.stamps([path for _, path, _ in known]), strict=True):
            if stamp is not None and stamp[1] == before:
                raise self.damage(
                    address,
                    "the stored bytes are not those of the last commit, although the object has its age: it is damaged; "
                    "restore it: dzv.repair(store, source=copy) writes the chunk again from a copy",
                )

    def damage(self, address: Address, text: str) -> FormatError:
        """Return an error about a chunk whose bytes are wrong."""
        return FormatError(text, store=self.objects.url, array=self.path(address[0]), chunk=address[1])

    def failure(self, address: Address, text: str) -> StoreError:
        """Return an error about a chunk that can't be read."""
        return StoreError(text, store=self.objects.url, array=self.path(address[0]), chunk=address[1])


def keys_by_array(addresses: Iterable[Address]) -> dict[str, list[str]]:
    """Return the chunk keys of each array."""
    keys: dict[str, list[str]] = {}
    for array, key in addresses:
        keys.setdefault(array, []).append(key)
    return keys
