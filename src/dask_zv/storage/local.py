"""Objects of a local directory, by plain file calls: several times faster than going through an event loop.

A put is a temporary file beside its final place, then a rename, so that nobody ever sees half a file. Objects that nobody can
know of yet (in a directory that the same call made, before the document that names them) are written in place.

Reading follows symbolic links, as all tools do: data may lie on several disks. Nothing is written or removed through a link
that leads out of the store: a store that somebody else packed may have any.

One module because the names of half-written files, and who removes them, are known to nobody else.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import shutil
import socket
import stat
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import ByteRequest, Store
from zarr.storage import LocalStore

from dask_zv.errors import ReadOnlyError, StoreError, ZVError
from dask_zv.format.keys import DOCUMENT, confined
from dask_zv.storage.faults import local_error
from dask_zv.storage.objects import BytesLike, Objects, Request
from dask_zv.storage.zarr_reads import ZarrReads

T = TypeVar("T")
R = TypeVar("R")
_LOCAL_THREADS = 4
_LONG = 1 << 24
_FREE = 64 << 20
_MOST_RATIO = 1 << 10
"""A file has at most `_FREE` bytes and this times what the file system stores of it."""
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
"""Nothing is there, and a name that the file system can't hold names nothing either."""
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL


class LocalObjects:
    """A directory of the local file system.

    `root`: the store's directory; `read_only`: refuse to write; `fsync`: flush every file to the device before it is renamed
    into place.
    """

    is_local = True
    nodes_first = False
    looks_first = False

    def __init__(self, root: Path, *, read_only: bool = False, fsync: bool = False) -> None:
        self.root = str(root)
        self.url = root.as_uri()
        self.read_only = read_only
        self._fsync = fsync

    def above(self) -> LocalObjects | None:
        parent = Path(self.root).parent
        return LocalObjects(parent, fsync=self._fsync) if (parent / DOCUMENT).is_file() and str(parent) != self.root else None

    def _path(self, key: str) -> str:
        return f"{self.root}/{confined(key)}" if key else self.root

    def _own_path(self, key: str, checked: set[str]) -> str:
        """Return the path of what is to be written or removed; `checked` are the folders that a call has looked at already."""
        path = self._path(key)
        self._check_folder(key.rpartition("/")[0], checked)
        return path

    def _check_folder(self, folder: str, checked: set[str]) -> None:
        if not folder or folder in checked:
            return
        self._check_folder(folder.rpartition("/")[0], checked)
        path = f"{self.root}/{folder}"
        if os.path.islink(path):  # noqa: PTH114
            leads = os.path.realpath(path)
            root = os.path.realpath(self.root)
            if os.path.commonpath([leads, root]) != root:
                raise StoreError(
                    f"'/{folder}' is a symbolic link that leads out of the store: nothing is written or removed through it; "
                    "put the folder itself there, or write to the store that it is part of",
                    store=self.url,
                )
        checked.add(folder)

    @contextmanager
    def _errors(self, doing: str, key: str) -> Iterator[None]:
        try:
            yield
        except ZVError:
            raise
        except OSError as error:
            raise local_error(doing, key, error, self.url) from error

    def get(self, key: str, byte_range: tuple[int, int] | None = None) -> bytes | None:
        path = self._path(key)
        try:
            fd = os.open(path, os.O_RDONLY)
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise local_error("reading", key, error, self.url) from error
        try:
            if byte_range is None:
                return self._read_all(fd, key)
            offset, length = byte_range
            if offset < 0:
                offset = max(0, os.fstat(fd).st_size + offset)
            if length > _LONG:  # as a damaged index may claim: memory is taken before the file is read
                self._check_holes(os.fstat(fd), key)
                length = min(length, max(0, os.fstat(fd).st_size - offset))
            return os.pread(fd, length, offset) if length <= 1 << 30 else self._read_long(fd, offset, length)
        except IsADirectoryError:
            return None
        except MemoryError as error:
            raise StoreError(
                f"there is no memory for the {os.fstat(fd).st_size:,} bytes of '/{key}'", store=self.url
            ) from error
        except OSError as error:
            raise local_error("reading", key, error, self.url) from error
        finally:
            os.close(fd)

    def _read_all(self, fd: int, key: str) -> bytes:
        data = os.read(fd, 1 << 16)
        if len(data) < 1 << 16:  # a short read of a regular file is its end
            return data
        found = os.fstat(fd)
        self._check_holes(found, key)
        parts = [data]
        left = min(max(found.st_size - len(data), 1 << 16) + 1, 1 << 24)  # room for so many bytes is taken before they are read
        while data := os.read(fd, left):
            parts.append(data)
        return b"".join(parts)

    def _check_holes(self, found: os.stat_result, key: str) -> None:
        """Raise :class:`StoreError` where a file is little but holes: nobody writes such, but file systems compress."""
        if found.st_size > _FREE + _MOST_RATIO * found.st_blocks * 512:
            raise StoreError(
                f"'/{key}' claims {found.st_size:,} bytes, of which almost nothing is stored: it is damaged, or hostile",
                store=self.url,
            )

    @staticmethod
    def _read_long(fd: int, offset: int, length: int) -> bytes:
        parts = []
        while length > 0 and (data := os.pread(fd, min(length, 1 << 30), offset)):
            parts.append(data)
            offset += len(data)
            length -= len(data)
        return b"".join(parts)

    def get_many(self, requests: Sequence[Request]) -> list[bytes | None]:
        return _in_threads(lambda request: self.get(*request), requests)

    def put(self, key: str, data: BytesLike) -> None:
        self._check_writable()
        with self._errors("writing", key):
            self._put(self._own_path(key, set()), data)

    def put_many(self, sequences: Iterable[Sequence[tuple[str, BytesLike]]]) -> list[list[int]]:
        self._check_writable()
        checked: set[str] = set()
        return [self._put_sequence(sequence, checked) for sequence in sequences]

    def _put_sequence(self, sequence: Sequence[tuple[str, BytesLike]], checked: set[str]) -> list[int]:
        stamps: list[int] = []
        key = ""
        try:
            for number, (key, data) in enumerate(sequence, 1):
                path = self._own_path(key, checked)
                # nobody can know of what lies in a folder made just now, before the last object, which names it
                if number < len(sequence) and self._make_directories(path.rpartition("/")[0]):
                    self._create_or_put(path, data)
                else:
                    self._put(path, data)
                stamps.append(os.stat(path).st_mtime_ns)  # noqa: PTH116
        except ZVError:
            raise
        except OSError as error:
            raise local_error("writing", key, error, self.url) from error
        return stamps

    def put_all(self, items: Iterable[tuple[str, BytesLike]]) -> list[int]:
        self._check_writable()
        checked: set[str] = set()
        return _in_threads(lambda item: self._put_sequence([item], checked)[0], list(items))

    def put_identified(self, items: Iterable[tuple[str, BytesLike]]) -> list[str]:
        listed = list(items)
        return [f"{len(data)}-{stamp:x}" for (_, data), stamp in zip(listed, self.put_all(listed), strict=True)]

    def put_if_absent(self, key: str, data: BytesLike) -> bool:
        self._check_writable()
        path = self._own_path(key, set())
        temporary = partial_name(path)
        with self._errors("writing", key):
            self._make_directories(path.rpartition("/")[0])
            self._create(temporary, data)
            try:
                os.link(temporary, path)  # whole or not at all, where creating the file itself would be seen half written
            except FileExistsError:
                return False
            finally:
                os.unlink(temporary)  # noqa: PTH108
        return True

    def stamps(self, keys: Sequence[str]) -> list[tuple[int, int] | None]:
        return [self._stamp(key) for key in keys]

    def _stamp(self, key: str) -> tuple[int, int] | None:
        with self._errors("looking up", key):
            try:
                found = os.stat(self._path(key))  # noqa: PTH116
            except (FileNotFoundError, NotADirectoryError):
                return None
        return found.st_size, found.st_mtime_ns

    def identities(self, keys: Sequence[str]) -> list[str | None]:
        return [None if s is None else f"{s[0]}-{s[1]:x}" for s in self.stamps(keys)]

    def _put(self, path: str, data: BytesLike) -> None:
        temporary = partial_name(path)
        try:
            self._create(temporary, data)
        except FileNotFoundError:
            self._make_directories(path.rpartition("/")[0])
            self._create(temporary, data)
        try:
            os.replace(temporary, path)  # noqa: PTH105
        except BaseException:
            os.unlink(temporary)  # noqa: PTH108
            raise

    def _create(self, path: str, data: BytesLike) -> None:
        """Write a new file; nothing is left of it where that fails."""
        fd = os.open(path, _CREATE, 0o666)
        try:
            try:
                view = memoryview(data).cast("B")
                while len(view):
                    view = view[os.write(fd, view) :]
                if self._fsync:
                    os.fsync(fd)
            finally:
                os.close(fd)
        except BaseException:
            os.unlink(path)  # noqa: PTH108
            raise

    def _create_or_put(self, path: str, data: BytesLike) -> None:
        """Write a new file; one that a duplicate of the same task has made meanwhile is replaced."""
        try:
            self._create(path, data)
        except FileExistsError:
            self._put(path, data)

    def _make_directories(self, path: str) -> bool:
        """Make a directory where it is absent, and what is above it; tell whether this call made it."""
        try:
            os.mkdir(path)  # noqa: PTH102
        except FileExistsError:
            if path != self.root or os.path.exists(path):  # noqa: PTH110
                return False
            os.makedirs(os.path.realpath(path), exist_ok=True)  # noqa: PTH103 - the store's own link leads to what is not there yet
        except FileNotFoundError:
            above = path.rpartition("/")[0]
            if not above:
                raise
            self._make_directories(above)
            try:
                os.mkdir(path)  # noqa: PTH102 - once: where nothing can be made, as in /proc, the folder above is there
            except FileExistsError:
                return False
        return True

    def delete(self, key: str) -> None:
        self.delete_many([key])

    def delete_many(self, keys: Sequence[str]) -> None:
        checked: set[str] = set()
        for key in keys:
            self._check_writable()
            with self._errors("deleting", key):
                Path(self._own_path(key, checked)).unlink(missing_ok=True)

    def delete_prefix(self, prefix: str) -> None:
        self._check_writable()
        path = Path(self._own_path(prefix, set()) if prefix else os.path.realpath(self.root))  # a link to the store stays
        with self._errors("deleting", prefix):
            while path.is_dir() and not path.is_symlink():
                with suppress(FileNotFoundError):  # another removes the same, and was faster at something in it
                    shutil.rmtree(path)
            path.unlink(missing_ok=True)

    def sweep(self, prefix: str) -> None:
        """Remove half-written files that no living writer owns."""
        path = self._own_path(prefix, set())
        with self._errors("deleting", prefix):
            remove_leftovers(path)

    def exists(self, key: str) -> bool:
        with self._errors("looking up", key):
            try:
                return stat.S_ISREG(os.stat(self._path(key)).st_mode)  # noqa: PTH116
            except OSError as error:
                if error.errno in _ABSENT:
                    return False
                raise

    def list_dir(self, prefix: str) -> list[str]:
        with self._errors("listing", prefix):
            try:
                return sorted(n for n in os.listdir(self._path(prefix)) if not is_partial(n))  # noqa: PTH208
            except OSError as error:
                if error.errno in _ABSENT:
                    return []
                raise

    def list_prefix(self, prefix: str) -> Iterator[str]:
        def failed(error: OSError) -> None:
            # a folder that went away meanwhile is no failure; one that can't be read would make the answer shorter
            if error.errno not in _ABSENT:
                raise error

        with self._errors("listing", prefix):
            for folder, folders, files in os.walk(self._path(prefix), onerror=failed):
                folders.sort()
                base = os.path.relpath(folder, self.root)
                base = "" if base == "." else f"{base}/"
                yield from (f"{base}{name}" for name in sorted(files) if not is_partial(name))

    def any_below(self, prefix: str, suffix: str) -> bool:
        return any(key.endswith(suffix) for key in self.list_prefix(prefix))

    def zarr_store(self) -> Store:
        return LocalStore(self.root, read_only=self.read_only)

    def zarr_reads(self) -> Store:
        store = LocalStore(self.root, read_only=True)

        async def read(key: str, prototype: BufferPrototype, byte_range: ByteRequest | None) -> Buffer | None:
            path = self._path(key)
            try:
                with suppress(FileNotFoundError, NotADirectoryError):
                    self._check_holes(os.stat(path), key)  # noqa: PTH116
                return await store.get(key, prototype, byte_range)
            except OSError as error:
                raise local_error("reading", key, error, self.url) from error

        return ZarrReads(store, read)

    def _check_writable(self) -> None:
        if self.read_only:
            raise ReadOnlyError("the store was opened read-only: open it with mode='r+' to write", store=self.url)


def _in_threads(call: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Return the result of a call for each item, where there are many by a few threads, each of which takes a run of them."""
    if len(items) < 64:
        return [call(item) for item in items]
    with ThreadPoolExecutor(_LOCAL_THREADS) as pool:
        step = -(-len(items) // (4 * _LOCAL_THREADS))
        runs = [items[i : i + step] for i in range(0, len(items), step)]
        return [result for part in pool.map(lambda run: [call(item) for item in run], runs) for result in part]


def sweep(objects: Objects, prefix: str) -> None:
    """Remove what killed writers left half-written below a path; only local directories have such files."""
    if isinstance(objects, LocalObjects) and not objects.read_only:
        objects.sweep(prefix)


_PARTIAL = re.compile(r"\.([0-9a-f]{32})\.partial\Z")
"""Ends of the names, ours and those of zarr's LocalStore."""
_OLD_SECONDS = 600.0
"""What nobody has written to for so long is a leftover, whoever began it: a file is there for the time of one write."""

_counter = itertools.count()


def _machine() -> str:
    """Return 8 hex digits for what a process id is unique in: a machine since it started, or a container of it."""
    parts = [socket.gethostname()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            parts.append(os.readlink(path) if "/ns/" in path else Path(path).read_text())  # noqa: PTH115
        except OSError:
            parts.append("")
    return f"{zlib.crc32(' '.join(parts).encode()):08x}"


def _process_token() -> str:
    """Return 20 hex digits: machine, process, and a few that tell it from another that gets its number later."""
    return f"{_machine()}{os.getpid() & 0xFFFFFFFF:08x}{uuid.uuid4().hex[:4]}"


_process = _process_token()


def _after_fork() -> None:
    global _process
    _process = _process_token()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def partial_name(path: str) -> str:
    """Return the name of the file that is written in place of `path` and then renamed; no other put has it."""
    return f"{path}.{_process}{next(_counter):012x}.partial"


def is_partial(name: str) -> bool:
    """Return True if a file's name is that of a half-written one."""
    return name.endswith(".partial") and _PARTIAL.search(name) is not None


def remove_leftovers(folder: str) -> int:
    """Remove the half-written files at and below a folder that no living writer owns; return how many.

    A process of this machine is asked for. Files of other machines and of other tools are left for ten minutes after they
    were last written to.
    """
    removed = 0
    for above, _, names in os.walk(folder):
        for name in names:
            if is_partial(name) and _is_left(f"{above}/{name}"):
                Path(above, name).unlink(missing_ok=True)
                removed += 1
    return removed


def _is_left(path: str) -> bool:
    found = _PARTIAL.search(path)
    assert found is not None
    token = found[1]
    if token.startswith(_process):
        return False
    if token.startswith(_process[:8]) and not _lives(int(token[8:16], 16)):
        return True
    try:
        return time.time() - Path(path).lstat().st_mtime > _OLD_SECONDS
    except FileNotFoundError:
        return False


def _lives(pid: int) -> bool:
    if pid == os.getpid():  # a token of an earlier process that had this number
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True
