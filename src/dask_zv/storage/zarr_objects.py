"""Any zarr ``Store`` as :class:`~dask_zv.storage.objects.Objects`: on zarr's own loop, bounded and retried."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Literal, TypeVar, cast

from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import ByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.buffer import cpu, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ObjectStore, WrapperStore

from dask_zv.config import settings
from dask_zv.errors import ReadOnlyError, StoreError, ZVError
from dask_zv.format.keys import DOCUMENT, confined
from dask_zv.storage.faults import cause_of, is_transient, says, storage_error, told_of
from dask_zv.storage.objects import BytesLike, Objects, Request, count_retry
from dask_zv.storage.zarr_reads import ZarrReads

_CONDITIONAL = ("S3FileSystem", "GCSFileSystem")
"""Packages of fsspec whose puts have the server look whether there is an object."""
_PAST_THE_END = ("invalid range", "InvalidRange", "not satisfiable", "Error { 416", "out of bounds for chunk")
"""How stores refuse a range that ends or begins behind the end of an object; the last is Icechunk 2's."""
T = TypeVar("T")


class ZarrObjects:
    """Any zarr ``Store``, through its asynchronous methods on zarr's loop.

    `url`: what to call it; without secrets; `secrets`: strings that no message may show.
    """

    is_local = False

    def __init__(self, store: Store, url: str, *, secrets: Sequence[str] = ()) -> None:
        self.store = store
        self.url = url
        self.read_only = store.read_only
        innermost = store
        while isinstance(innermost, WrapperStore):
            innermost = innermost._store
        self.nodes_first = type(innermost).__name__ == "IcechunkStore"
        self._secrets = tuple(s for s in secrets if s)
        self.looks_first = isinstance(store, FsspecStore) and type(store.fs).__name__ not in _CONDITIONAL
        self._slots: asyncio.Semaphore | None = None
        self._creates: bool | None = None
        self._outer: Objects | Literal[False] | None = False
        self._gave_up: tuple[float, Exception] | None = None

    def get(self, key: str, byte_range: tuple[int, int] | None = None) -> bytes | None:
        return sync(self._get(key, byte_range))

    def get_many(self, requests: Sequence[Request]) -> list[bytes | None]:
        return sync(_gather(self._get(key, byte_range) for key, byte_range in requests))

    def put(self, key: str, data: BytesLike) -> None:
        self._check_writable()
        sync(self._put(key, data))

    def put_many(self, sequences: Iterable[Sequence[tuple[str, BytesLike]]]) -> list[list[int]]:
        self._check_writable()

        async def one(sequence: Sequence[tuple[str, BytesLike]]) -> list[int]:
            return [await self._put(key, data) for key, data in sequence]

        return sync(_all_ended(map(one, sequences)))

    def put_all(self, items: Iterable[tuple[str, BytesLike]]) -> list[int]:
        self._check_writable()
        return sync(_all_ended(self._put(key, data) for key, data in items))

    def put_identified(self, items: Iterable[tuple[str, BytesLike]]) -> list[str]:
        listed = list(items)
        stamps = self.put_all(listed)
        if not isinstance(self.store, ObjectStore) or not all(stamps):
            return [found or "" for found in self.identities([key for key, _ in listed])]
        return [f"{len(data)}-{stamp:x}" for (_, data), stamp in zip(listed, stamps, strict=True)]

    def put_if_absent(self, key: str, data: BytesLike) -> bool | None:
        self._check_writable()
        store, content = self.store, bytes(data)
        if isinstance(store, FsspecStore) and "mode" in inspect.signature(store.fs._pipe_file).parameters:
            return self._create_once(key, content)
        if not isinstance(store, ObjectStore | MemoryStore | LocalStore):
            return None
        if isinstance(store, ObjectStore):
            import obstore

            try:
                sync(self._call("writing", key, lambda: obstore.put_async(store.store, key, content, mode="create")))
            except StoreError as error:
                if says(error, "already exists", "AlreadyExists", "PreconditionFailed"):
                    return self.get(key) == content  # by this call, where the answer to its first attempt was lost
                if says(error, "not implemented", "NotImplemented", "NotSupported"):
                    return None
                raise
            return True
        value = cpu.Buffer.from_bytes(content)
        sync(self._call("writing", key, lambda: self.store.set_if_not_exists(key, value)))
        return self.get(key) == content

    def _create_once(self, key: str, content: bytes) -> bool | None:
        """Create through fsspec; whether the file system heeds the condition, a second attempt tells once."""
        if self._creates is False:
            return None
        made = self._create_through_fsspec(key, content)
        if not self.looks_first:
            return made
        if made and self._creates is None:
            self._creates = self._create_through_fsspec(key, b"") is False
            if not self._creates:
                self.delete(key)
                return None
        return made and self.get(key) == content  # of two that wrote it, the later one has it

    def _create_through_fsspec(self, key: str, content: bytes) -> bool | None:
        store: Any = self.store
        path = f"{store.path.rstrip('/')}/{key}"
        try:
            sync(self._call("writing", key, lambda: store.fs._pipe_file(path, content, mode="create")))
        except StoreError as error:
            found, status = self.get(key), _status_of(error)
            if found is not None or status in (409, 412):  # it may be gone again
                return found == content
            if status == 501 or says(error, "not implemented", "NotImplemented", "unexpected keyword"):
                return None
            raise
        return True

    def identities(self, keys: Sequence[str]) -> list[str | None]:
        if not isinstance(self.store, ObjectStore):  # what can't be asked for is read
            found = self.get_many([(key, None) for key in keys])
            return [None if data is None else hashlib.sha256(data).hexdigest()[:32] for data in found]
        return [None if m is None else f"{m[0]}-{m[1]:x}" for m in self.stamps(keys)]

    def stamps(self, keys: Sequence[str]) -> list[tuple[int, int] | None]:
        return sync(_gather(map(self._stamp, keys)))

    async def _stamp(self, key: str) -> tuple[int, int] | None:
        store = self.store
        if not isinstance(store, ObjectStore):
            try:
                return int(await self._call("looking up", key, lambda: self.store.getsize(key))), 0
            except StoreError as error:
                if isinstance(error.__cause__, FileNotFoundError):
                    return None
                raise
        import obstore

        try:
            meta = await self._call("looking up", key, lambda: obstore.head_async(store.store, key))
        except StoreError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise
        return int(meta["size"]), _stamp_of(meta.get("e_tag"), meta.get("last_modified"))

    def delete(self, key: str) -> None:
        self.delete_many([key])

    def delete_many(self, keys: Sequence[str]) -> None:
        self._check_writable()

        async def one(key: str) -> None:
            await self._call("deleting", key, lambda: self.store.delete(key))

        sync(_all_ended(map(one, keys)))

    def delete_prefix(self, prefix: str) -> None:
        self._check_writable()
        sync(self._call("deleting", prefix, lambda: self.store.delete_dir(prefix), bounded=False))

    def exists(self, key: str) -> bool:
        return bool(sync(self._call("looking up", key, lambda: self.store.exists(key))))

    def list_dir(self, prefix: str) -> list[str]:
        names = sync(self._listed(prefix, lambda: _collect(self.store.list_dir(prefix)), []))
        return sorted({n.rstrip("/") for n in names} - {""})

    def list_prefix(self, prefix: str) -> Iterator[str]:
        below = f"{prefix}/" if prefix else ""
        return iter(sync(self._listed(prefix, lambda: _collect(self.store.list_prefix(below)), [])))

    def any_below(self, prefix: str, suffix: str) -> bool:
        below = f"{prefix}/" if prefix else ""
        return sync(self._listed(prefix, lambda: _find(self.store.list_prefix(below), suffix), False))

    def above(self) -> Objects | None:
        if self._outer is False:  # looked for once: it takes a request
            store, outer = _store_above(self.store), None
            if store is not None:
                outer = ZarrObjects(store, self.url.rpartition("/")[0], secrets=self._secrets)
                with suppress(StoreError):  # the place may be closed to who may write here
                    self._outer = outer if outer.exists(DOCUMENT) else None
            self._outer = self._outer or None
        return self._outer

    def zarr_store(self) -> Store:
        return self.store

    def zarr_reads(self) -> Store:
        return ZarrReads(self.store, self._get_buffer)

    async def _get(self, key: str, byte_range: tuple[int, int] | None) -> bytes | None:
        request: ByteRequest | None = None
        if byte_range is not None:
            offset, length = byte_range
            if length == 0:  # an empty range is no valid request
                return b""
            request = RangeByteRequest(offset, offset + length) if offset >= 0 else SuffixByteRequest(-offset)
        buffer = await self._get_buffer(key, default_buffer_prototype(), request)
        return None if buffer is None else buffer.to_bytes()

    async def _get_buffer(self, key: str, prototype: BufferPrototype, request: ByteRequest | None) -> Buffer | None:
        try:
            return await self._call("reading", key, lambda: self.store.get(key, prototype, byte_range=request))
        except StoreError as error:
            if self._means_absent(error):
                return None
            # some stores refuse a range that begins behind the end, others answer with nothing: the object is short
            if request is not None and says(error, *_PAST_THE_END):
                return prototype.buffer.from_bytes(b"")
            raise

    async def _listed(self, prefix: str, action: Callable[[], Awaitable[T]], nothing: Any) -> T:
        try:
            return await self._call("listing", prefix, action, bounded=False)
        except StoreError as error:
            if self._means_absent(error):
                return cast(T, nothing)
            raise

    def _means_absent(self, error: StoreError) -> bool:
        """Return True if Icechunk raised because there is no such node, or a group, where other stores return nothing."""
        return self.nodes_first and says(error, "node not found", "bad key prefix", "there is not an array")

    async def _put(self, key: str, data: BytesLike) -> int:
        content = data if isinstance(data, bytes) else bytes(data)
        store = self.store
        if isinstance(store, ObjectStore):
            import obstore

            result = await self._call("writing", key, lambda: obstore.put_async(store.store, key, content))
            return _stamp_of(result["e_tag"], None)
        value = cpu.Buffer.from_bytes(content)
        await self._call("writing", key, lambda: self.store.set(key, value))
        return 0

    async def _call(self, doing: str, key: str, action: Callable[[], Awaitable[T]], *, bounded: bool = True) -> T:
        """Return what `action` returns, tried again where that may help.

        Requests end, whatever the server does: those for one object (`bounded`) here, others by the timeouts of the store.
        """
        confined(key)
        if self._slots is None:
            self._slots = asyncio.Semaphore(settings().max_requests)
        given, started = settings(), time.monotonic()
        for attempt in range(1, given.request_attempts + 1):
            try:
                async with self._slots:
                    if self._gave_up is not None and self._gave_up[0] > started:
                        # it queued while another found the storage stuck: thousands would each wait as long as that one
                        raise self._gave_up[1]
                    async with asyncio.timeout(given.request_timeout if bounded else None):
                        return await action()
            except ZVError:
                raise
            except Exception as raised:  # noqa: BLE001 - every store has its own; all become a StoreError
                error, seconds = raised, time.monotonic() - started
                if isinstance(raised, TimeoutError) and not str(raised):
                    error = TimeoutError(f"no answer within {given.request_timeout:g} s")
                failure = storage_error(doing, key, error, self.url, self._secrets, attempts=attempt, seconds=seconds)
                cause = cause_of(error, self._secrets)
                if not is_transient(error) or (self._gave_up is not None and error is self._gave_up[1]):
                    break
                if attempt == given.request_attempts or seconds > given.request_patience:
                    self._gave_up = time.monotonic(), error
                    break
            count_retry(f"{doing} '/{key}' of {self.url}: {told_of(error, self._secrets)}"[:300])
            # jitter, so that tasks that failed together don't come back together
            await asyncio.sleep(given.request_backoff * 2**attempt * (0.5 + random.random()))
        raise failure from cause  # not in the except block: an error that quotes a secret would be its context

    def _check_writable(self) -> None:
        if self.read_only:
            raise ReadOnlyError("the store is read-only: open it with mode='r+', or pass a writable target", store=self.url)


def _stamp_of(e_tag: str | None, changed: Any) -> int:
    """Return 63 bits of an object's ETag, or of its time of change where it has none."""
    text = e_tag or (str(changed) if changed is not None else "")
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1 if text else 0


def _store_above(store: Store) -> Store | None:
    """Return the store of the folder that a store lies in, None where that is unknown, or the end of its bucket."""
    if isinstance(store, FsspecStore):
        parent = store.path.rstrip("/").rpartition("/")[0]
        return FsspecStore(store.fs, path=parent) if parent else None
    inner: Any = getattr(store, "store", None)
    prefix, config = (getattr(inner, name, None) for name in ("prefix", "config"))
    if not isinstance(store, ObjectStore) or not prefix or not config:
        return None
    parent = str(prefix).rstrip("/").rpartition("/")[0]
    return ObjectStore(type(inner)(prefix=parent or None, config=config, client_options=inner.client_options))


async def _gather(calls: Iterable[Awaitable[T]]) -> list[T]:
    return list(await asyncio.gather(*calls))


async def _all_ended(calls: Iterable[Awaitable[T]]) -> list[T]:
    """Return all results, or raise the first error once all have ended: a task's retry must not meet its own stragglers."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return cast("list[T]", results)


async def _collect(items: AsyncIterator[str]) -> list[str]:
    return [item async for item in items]


async def _find(items: AsyncIterator[str], suffix: str) -> bool:
    async for item in items:
        if item.endswith(suffix):
            return True
    return False


def _status_of(error: BaseException | None) -> int | None:
    """Return the status of a server's answer that botocore raised an error for, which s3fs made another of."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return status if isinstance(status, int) else None
        error = error.__cause__
    return None
