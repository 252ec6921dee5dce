"""Objects of a store by key: the few verbs that everything above needs, bounded and retried.

:class:`Objects` is the seam between the layouts and the bytes. A local directory is served by plain file calls (a temporary
file, then a rename), which are several times faster than going through an event loop; every other store goes through
its zarr ``Store``, on zarr's own loop, with a bounded number of requests in flight.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from zarr.abc.store import ByteRequest, RangeByteRequest, Store
from zarr.buffer import cpu, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import WrapperStore

from dask_zv.errors import ReadOnlyError, StoreError, ZVError

__all__ = ["MAX_REQUESTS", "BytesLike", "LocalObjects", "Objects", "Request", "ZarrObjects"]

MAX_REQUESTS = int(os.environ.get("DASK_ZV_MAX_REQUESTS", "128"))
"""Requests in flight per store and process (environment variable ``DASK_ZV_MAX_REQUESTS``)."""

_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.partial\Z")
"""Ends of the names of half-written files, ours and those of zarr's LocalStore."""

_ATTEMPTS = 4
_LOCAL_THREADS = 4
_BACKOFF = 0.1

BytesLike = bytes | bytearray | memoryview
Request = tuple[str, "tuple[int, int] | None"]
"""A key and, for a ranged read, (offset, length)."""

T = TypeVar("T")


class Objects(Protocol):
    """Objects by key. Absent objects read as None; every other failure is a :class:`StoreError`."""

    url: str
    read_only: bool
    nodes_first: bool
    """True where a node's document must exist before its chunks (Icechunk)."""

    def get(self, key: str, byte_range: tuple[int, int] | None = None) -> bytes | None: ...
    def get_many(self, requests: Sequence[Request]) -> list[bytes | None]: ...
    def put(self, key: str, data: BytesLike) -> None: ...
    def put_many(self, sequences: Sequence[Sequence[tuple[str, BytesLike]]]) -> None:
        """Store every sequence's objects in its order, the sequences in any."""

    def delete(self, key: str) -> None: ...
    def delete_prefix(self, prefix: str) -> None: ...
    def exists(self, key: str) -> bool: ...
    def list_dir(self, prefix: str) -> list[str]:
        """Return the names directly below `prefix` (no trailing slash), sorted."""

    def list_prefix(self, prefix: str) -> Iterator[str]:
        """Yield all keys below `prefix`."""

    def any_below(self, prefix: str, suffix: str) -> bool:
        """Tell whether a key below `prefix` ends with `suffix`; stops at the first."""


class LocalObjects:
    """A directory of the local file system.

    Parameters
    ----------
    root : path
        The store's directory.
    read_only : bool
        Refuse to write.
    fsync : bool
        Flush every file to the device before it is renamed into place.
    """

    nodes_first = False

    def __init__(self, root: Path, *, read_only: bool = False, fsync: bool = False) -> None:
        self.root = str(root)
        self.url = root.as_uri()
        self.read_only = read_only
        self._fsync = fsync

    def _path(self, key: str) -> str:
        return f"{self.root}/{key}" if key else self.root

    @contextmanager
    def _errors(self, doing: str, key: str) -> Iterator[None]:
        try:
            yield
        except ZVError:
            raise
        except OSError as error:
            raise StoreError(f"{doing} '/{key}' failed: {error.strerror or error}", store=self.url) from error

    def get(self, key: str, byte_range: tuple[int, int] | None = None) -> bytes | None:
        try:
            fd = os.open(self._path(key), os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreError(f"reading '/{key}' failed: {error.strerror}", store=self.url) from error
        try:
            if byte_range is None:
                return self._read_all(fd)
            offset, length = byte_range
            return os.pread(fd, length, offset) if length <= 1 << 30 else self._read_long(fd, offset, length)
        except IsADirectoryError:
            return None
        except OSError as error:
            raise StoreError(f"reading '/{key}' failed: {error.strerror}", store=self.url) from error
        finally:
            os.close(fd)

    @staticmethod
    def _read_all(fd: int) -> bytes:
        data = os.read(fd, 1 << 16)
        if len(data) < 1 << 16:  # a short read of a regular file is its end
            return data
        parts = [data]
        while data := os.read(fd, 1 << 24):
            parts.append(data)
        return b"".join(parts)

    @staticmethod
    def _read_long(fd: int, offset: int, length: int) -> bytes:
        parts = []
        while length > 0 and (data := os.pread(fd, min(length, 1 << 30), offset)):
            parts.append(data)
            offset += len(data)
            length -= len(data)
        return b"".join(parts)

    def get_many(self, requests: Sequence[Request]) -> list[bytes | None]:
        if len(requests) < 64:
            return [self.get(key, byte_range) for key, byte_range in requests]
        with ThreadPoolExecutor(_LOCAL_THREADS) as pool:
            step = -(-len(requests) // (4 * _LOCAL_THREADS))
            slices = [requests[i : i + step] for i in range(0, len(requests), step)]
            return [d for part in pool.map(lambda s: [self.get(*r) for r in s], slices) for d in part]

    def put(self, key: str, data: BytesLike) -> None:
        self._check_writable()
        with self._errors("writing", key):
            self._put(self._path(key), data)

    def put_many(self, sequences: Sequence[Sequence[tuple[str, BytesLike]]]) -> None:
        self._check_writable()
        for sequence in sequences:
            for key, data in sequence:
                with self._errors("writing", key):
                    self._put(self._path(key), data)

    def _put(self, path: str, data: BytesLike) -> None:
        temporary = f"{path}.{uuid.uuid4().hex}.partial"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            fd = os.open(temporary, flags, 0o666)
        except FileNotFoundError:
            self._mkdir(os.path.dirname(path))  # noqa: PTH120 - a hot path: pathlib costs more than the call
            fd = os.open(temporary, flags, 0o666)
        try:
            try:
                view = memoryview(data).cast("B")
                while len(view):
                    view = view[os.write(fd, view) :]
                if self._fsync:
                    os.fsync(fd)
            finally:
                os.close(fd)
            os.replace(temporary, path)  # noqa: PTH105
        except BaseException:
            if os.path.exists(temporary):  # noqa: PTH110
                os.unlink(temporary)  # noqa: PTH108
            raise

    def _mkdir(self, path: str) -> None:
        try:
            os.mkdir(path)  # noqa: PTH102
        except FileExistsError:
            return
        except FileNotFoundError:
            self._mkdir(os.path.dirname(path))  # noqa: PTH120
            self._mkdir(path)

    def delete(self, key: str) -> None:
        self._check_writable()
        with self._errors("deleting", key):
            Path(self._path(key)).unlink(missing_ok=True)

    def delete_prefix(self, prefix: str) -> None:
        self._check_writable()
        path = Path(self._path(prefix))
        with self._errors("deleting", prefix):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def exists(self, key: str) -> bool:
        with self._errors("looking up", key):
            return Path(self._path(key)).is_file()

    def list_dir(self, prefix: str) -> list[str]:
        with self._errors("listing", prefix):
            try:
                return sorted(n for n in os.listdir(self._path(prefix)) if not _TEMPORARY.search(n))  # noqa: PTH208
            except (FileNotFoundError, NotADirectoryError):
                return []

    def list_prefix(self, prefix: str) -> Iterator[str]:
        def failed(error: OSError) -> None:
            # a folder that went away meanwhile is no failure; one that can't be read would make the answer shorter
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                raise error

        with self._errors("listing", prefix):
            for folder, folders, files in os.walk(self._path(prefix), onerror=failed):
                folders.sort()
                base = os.path.relpath(folder, self.root)
                base = "" if base == "." else f"{base}/"
                yield from (f"{base}{name}" for name in sorted(files) if not _TEMPORARY.search(name))

    def any_below(self, prefix: str, suffix: str) -> bool:
        return any(key.endswith(suffix) for key in self.list_prefix(prefix))

    def _check_writable(self) -> None:
        if self.read_only:
            raise ReadOnlyError("the store was opened read-only: open it with mode='r+' to write", store=self.url)


class ZarrObjects:
    """Any zarr ``Store``, through its asynchronous methods on zarr's loop.

    Parameters
    ----------
    store : zarr.abc.store.Store
    url : str
        What to call it; without secrets.
    secrets : sequence of str
        Strings that no message may show.
    """

    def __init__(self, store: Store, url: str, *, secrets: Sequence[str] = ()) -> None:
        self.store = store
        self.url = url
        self.read_only = store.read_only
        self.nodes_first = _innermost(store) == "IcechunkStore"
        self._secrets = tuple(s for s in secrets if s)
        self._slots: asyncio.Semaphore | None = None

    def get(self, key: str, byte_range: tuple[int, int] | None = None) -> bytes | None:
        return sync(self._get(key, byte_range))

    def get_many(self, requests: Sequence[Request]) -> list[bytes | None]:
        async def run() -> list[bytes | None]:
            return list(await asyncio.gather(*(self._get(k, r) for k, r in requests)))

        return sync(run())

    def put(self, key: str, data: BytesLike) -> None:
        self._check_writable()
        sync(self._put(key, data))

    def put_many(self, sequences: Sequence[Sequence[tuple[str, BytesLike]]]) -> None:
        self._check_writable()

        async def one(sequence: Sequence[tuple[str, BytesLike]]) -> None:
            for key, data in sequence:
                await self._put(key, data)

        async def run() -> None:
            results = await asyncio.gather(*map(one, sequences), return_exceptions=True)
            for result in results:  # only after all have ended: a retry of the task must not meet its own stragglers
                if isinstance(result, BaseException):
                    raise result

        sync(run())

    def delete(self, key: str) -> None:
        self._check_writable()
        sync(self._call("deleting", key, lambda: self.store.delete(key)))

    def delete_prefix(self, prefix: str) -> None:
        self._check_writable()
        sync(self._call("deleting", prefix, lambda: self.store.delete_dir(prefix)))

    def exists(self, key: str) -> bool:
        return bool(sync(self._call("looking up", key, lambda: self.store.exists(key))))

    def list_dir(self, prefix: str) -> list[str]:
        names = sync(self._call("listing", prefix, lambda: _collect(self.store.list_dir(prefix))))
        return sorted({n.rstrip("/") for n in names} - {""})

    def list_prefix(self, prefix: str) -> Iterator[str]:
        below = f"{prefix}/" if prefix else ""
        return iter(sync(self._call("listing", prefix, lambda: _collect(self.store.list_prefix(below)))))

    def any_below(self, prefix: str, suffix: str) -> bool:
        below = f"{prefix}/" if prefix else ""
        return bool(sync(self._call("listing", prefix, lambda: _find(self.store.list_prefix(below), suffix))))

    async def _get(self, key: str, byte_range: tuple[int, int] | None) -> bytes | None:
        request: ByteRequest | None = None
        if byte_range is not None:
            offset, length = byte_range
            if length == 0:  # an empty range is no valid request
                return b""
            request = RangeByteRequest(offset, offset + length)
        try:
            buffer = await self._call(
                "reading", key, lambda: self.store.get(key, default_buffer_prototype(), byte_range=request)
            )
        except StoreError as error:
            # some stores refuse a range that begins behind the end, others answer with nothing: the object is short
            if request is not None and _says(error, "invalid range", "InvalidRange", "not satisfiable", "Error { 416"):
                return b""
            raise
        return None if buffer is None else buffer.to_bytes()

    async def _put(self, key: str, data: BytesLike) -> None:
        value = cpu.Buffer.from_bytes(data if isinstance(data, bytes) else bytes(data))
        await self._call("writing", key, lambda: self.store.set(key, value))

    async def _call(self, doing: str, key: str, action: Callable[[], Awaitable[T]]) -> T:
        if self._slots is None:
            self._slots = asyncio.Semaphore(MAX_REQUESTS)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                async with self._slots:
                    return await action()
            except ZVError:
                raise
            except Exception as error:
                if attempt == _ATTEMPTS or not _is_transient(error):
                    raise self._translate(doing, key, error) from self._cause(error)
            # jitter, so that tasks that failed together don't come back together
            await asyncio.sleep(_BACKOFF * 2**attempt * (0.5 + random.random()))  # noqa: S311
        raise AssertionError("unreachable")

    def _cause(self, error: Exception) -> Exception | None:
        text = f"{error!r}"
        return None if any(s in text for s in self._secrets) else error

    def _translate(self, doing: str, key: str, error: Exception) -> StoreError:
        text = f"{type(error).__name__}: {error}"
        for secret in self._secrets:
            text = text.replace(secret, "***")
        text = " ".join(text.split())[:500]
        if _says(error, "NoSuchBucket", "bucket does not exist", "bucket is not"):
            return StoreError(f"{doing} '/{key}' failed: the bucket does not exist; create it first ({text})", store=self.url)
        if _says(error, "AccessDenied", "Forbidden", "PermissionDenied", "Unauthenticated", "InvalidAccessKeyId"):
            return StoreError(f"{doing} '/{key}' was denied: check the credentials in storage_options ({text})", store=self.url)
        return StoreError(f"{doing} '/{key}' failed: {text}", store=self.url)

    def _check_writable(self) -> None:
        if self.read_only:
            raise ReadOnlyError(
                "the store can only be read: open it with mode='r+', or give a target that can be written", store=self.url
            )


def _innermost(store: Store) -> str:
    while isinstance(store, WrapperStore):
        store = store._store
    return type(store).__name__


async def _collect(items: AsyncIterator[str]) -> list[str]:
    return [item async for item in items]


async def _find(items: AsyncIterator[str], suffix: str) -> bool:
    async for item in items:
        if item.endswith(suffix):
            return True
    return False


def _says(error: BaseException, *words: str) -> bool:
    text = f"{type(error).__name__} {error}".lower()
    return any(w.lower() in text for w in words)


def _is_transient(error: Exception) -> bool:
    """Tell whether trying again may help: network trouble and busy servers, never a refusal or a missing object."""
    if isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError | IsADirectoryError | FileExistsError):
        return False
    if _says(error, "NoSuchBucket", "AccessDenied", "Unauthenticated", "NotFound", "InvalidPath", "NotSupported"):
        return False
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    return _says(error, "SlowDown", "503", "500", "502", "429", "timed out", "connection", "reset by peer", "throttl")




def join(*parts: str) -> str:
    """Join path segments that may be empty."""
    return "/".join(p for p in parts if p)


def wait_before_retry(attempt: int) -> None:
    """Sleep a little before a reader looks again at an object that was being replaced."""
    time.sleep(0.005 * 2**attempt)
