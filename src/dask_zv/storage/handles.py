"""What a task carries instead of an open store: a small picklable handle.

A :class:`StoreHandle` is a URL with options, a pickled zarr store, or a key into this process' registry of stores that live
in one process (:class:`~zarr.storage.MemoryStore`, ``memory://``, a dict, a writable Icechunk session). Every process keeps
one open store per handle. A registered store is never copied: its handle opens nothing in another process but raises, because
writes to a copy would be lost without a word.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import threading
import uuid
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import unquote

from zarr.abc.store import Store

from dask_zv.errors import PlanError, ZVError
from dask_zv.storage.objects import Objects
from dask_zv.storage.zarr_objects import ZarrObjects

_PROCESS = uuid.uuid4().hex
_LIVE: weakref.WeakValueDictionary[str, Store] = weakref.WeakValueDictionary()
_OPEN: OrderedDict[str, Objects] = OrderedDict()
_OPEN_LIMIT = 64
_OPEN_LIVE: weakref.WeakValueDictionary[str, Objects] = weakref.WeakValueDictionary()
"""Those of one-process stores: nobody's MemoryStore is kept alive by a cache."""
_LOCK = threading.RLock()
_INSTEAD: ContextVar[Mapping[str, Objects]] = ContextVar("dask_zv_opened_as", default={})  # noqa: B039 - never changed in place
"""What a task uses in place of a store: the fork of a session."""
_SECRET_WORDS = ("secret", "key", "token", "password", "credential", "sas", "account", "auth", "cookie", "signature")

ICECHUNK_SESSION = "a writable Icechunk session"
"""Why only one process may use it."""

Opener = Callable[[str, Mapping[str, Any], bool], Objects]


def process_token() -> str:
    """Return what tells this process from every other, forked children included."""
    return f"{_PROCESS}-{os.getpid()}"  # a forked child has the parent's module state, not its stores


@dataclass(frozen=True, slots=True)
class StoreHandle:
    """A store that any process can open, or a live one that only its own process may use."""

    kind: Literal["url", "pickled", "process"]
    url: str  # where the store is, or its repr; without secrets
    read_only: bool
    identity: str  # key of the per-process cache of open stores
    _payload: Any = field(repr=False, compare=False)
    """url: (opener, options, the URL with its secrets); pickled: bytes; process: (process token, what holds the store in one
    process, the store itself, which lives as long as its handles)."""

    def __dask_tokenize__(self) -> tuple[str, str, bool]:
        return (self.kind, self.identity, self.read_only)

    @property
    def one_process(self) -> bool:
        """True where only the process that made the store can use it."""
        return self.kind == "process"

    def __reduce__(self) -> tuple[Any, ...]:
        payload = self._payload[:2] if self.kind == "process" else self._payload
        return _restore, (self.kind, self.url, self.read_only, self.identity, payload)

    def holds(self, prefix: str, other: StoreHandle, other_prefix: str, *, below: bool = False) -> bool:
        """Return True if a path inside this store is the same place as one inside another, or (`below`) above it.

        Folders are compared as the file system knows them, through links; others by URL and server. Stores in memory and
        Icechunk sessions are known by themselves alone: another branch is another store.
        """
        mine, theirs = (p.strip("/") for p in (prefix, other_prefix))
        if self.identity == other.identity:
            return _is_at(mine, theirs, below)
        if self.kind == "process" or other.kind == "process" or "Icechunk" in self.url:
            return self.url == other.url and self.url.startswith("memory:") and _is_at(mine, theirs, below)
        places = _place(self, mine), _place(other, theirs)
        if all(p.startswith("file:/") for p in places):
            real = [os.path.realpath(p.removeprefix("file:")) for p in places]
            return _is_at(real[0], real[1], below) or _is_same_file(*real)
        ends = [_endpoint(h) for h in (self, other)]
        return _is_at(*places, below) and (ends[0] == ends[1] or None in ends)

    def check_process(self) -> None:
        """Raise :class:`PlanError` where the store lives in another process."""
        if self.kind == "process" and self._payload[0] != process_token():
            raise self.out_of_reach()

    @property
    def is_session(self) -> bool:
        """True for a writable Icechunk session."""
        return self.kind == "process" and self._payload[1] == ICECHUNK_SESSION

    def live_store(self) -> Store | None:
        """Return the store itself where it lives in one process, and this is that process."""
        found: Store | None = self._payload[2] if self.kind == "process" else None
        return found

    def out_of_reach(self) -> PlanError:
        """Return the error for a use of a one-process store in another process."""
        if self.is_session:
            return PlanError(
                "a writable Icechunk session does not pickle, so other processes can't use it (the writing functions give "
                "their tasks forks of it): commit it and open a session of the snapshot, or use a scheduler of this process "
                "here",
                store=self.url,
            )
        return PlanError(
            f"the store lives in the memory of one process ({self._payload[1]}), and writes of another process would be "
            "lost: use the threaded or synchronous scheduler, LocalCluster(processes=False), or a store that all workers "
            "can reach",
            store=self.url,
        )

    def with_read_only(self, read_only: bool = True) -> StoreHandle:
        """Return the same store for reading only, or for writing too."""
        if self.read_only == read_only:
            return self
        return StoreHandle(self.kind, self.url, read_only, self.identity, self._payload)


_SCHEMES = {"S3Store": "s3", "s3a": "s3", "GCSStore": "gs", "gcs": "gs", "AzureStore": "az", "LocalStore": "file"}
"""Of stores of obstore, and other words of fsspec for the same."""


def _place(handle: StoreHandle, prefix: str) -> str:
    """Return the URL of a path inside a store; of a folder its path after ``file:``."""
    name, _, rest = handle.url.partition("://")
    if not rest and name.endswith(")"):  # as stores of obstore are told
        name, _, rest = name.removesuffix(")").partition("(")
    scheme = _SCHEMES.get(name, name)
    if scheme == "file":
        return f"file:/{(unquote(rest) if handle.kind == 'url' else rest).strip('/')}/{prefix}".rstrip("/")
    return f"{scheme}://{rest.rstrip('/')}/{prefix}".rstrip("/")


def _is_at(one: str, two: str, below: bool) -> bool:
    """Return True if paths are the same, or the second is `below` the first."""
    return one == two or (below and (not one or two.startswith(f"{one.rstrip('/')}/")))


def _is_same_file(one: str, two: str) -> bool:
    try:
        return Path(one).samefile(two)
    except OSError:  # one of both isn't there
        return False


def _endpoint(handle: StoreHandle) -> str | None:
    """Return the server that a handle's options name, None where they name none."""
    options: Any = handle._payload[1] if handle.kind == "url" else {}
    if handle.kind == "pickled" and handle._payload[1] is not None:
        store = handle._payload[1]
        options = getattr(getattr(store, "fs", None), "storage_options", None) or getattr(
            getattr(store, "store", None), "config", {}
        )
    flat = {**options, **(options.get("client_kwargs") or {})}
    found = next((flat[k] for k in ("endpoint_url", "endpoint", "aws_endpoint") if flat.get(k)), None)
    return None if found is None else str(found).rstrip("/")


def _restore(kind: Any, url: str, read_only: bool, identity: str, payload: Any) -> StoreHandle:
    if kind == "process":
        # no error here where the store is out of reach, see open_objects_later
        payload = (*payload, _LIVE.get(identity))
    return StoreHandle(kind, url, read_only, identity, payload)


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=repr).encode()).hexdigest()[:32]


def secrets_in(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the option values that no message may show."""
    found: list[str] = []
    for key, value in options.items():
        if isinstance(value, Mapping):
            found.extend(secrets_in(value))
        elif isinstance(value, str) and any(w in str(key).lower() for w in _SECRET_WORDS):
            found.append(value)
    # very short values (a test server's "x") would blank out letters of every message
    return tuple(v for v in found if len(v) > 3)


def public_url(url: str) -> str:
    """Return a URL without what may be secret in it: user, password and query (signatures)."""
    scheme, mark, rest = url.partition("://")
    if scheme in ("file", "memory"):
        return url
    host, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}{mark}{host.rpartition('@')[2]}{slash}{path}"


def handle_for_url(url: str, options: Mapping[str, Any], opener: Opener, *, read_only: bool) -> StoreHandle:
    """Return the handle of a store that every process opens by `opener(url, options, read_only)`."""
    identity = _digest("url", url, dict(options), opener.__qualname__)
    return StoreHandle("url", public_url(url), read_only, identity, (opener, dict(options), url))


def handle_for_store(store: Store, url: str, *, one_process: str | None, read_only: bool) -> StoreHandle:
    """Return the handle of a zarr store that the caller opened.

    `url`: what to call it; `one_process`: why no other process may use it; None where it pickles.
    """
    pickled = None
    if one_process is None:
        try:
            pickled = pickle.dumps(store)
        except (AttributeError, NotImplementedError, TypeError, ValueError, pickle.PicklingError):
            one_process = f"a {type(store).__name__} that does not pickle"  # of no concern before another process is
    with _LOCK:
        identity = next((k for k, v in _LIVE.items() if v is store), None)
        if identity is None:
            snapshot = _snapshot_of(store) if pickled is not None else None
            # Dask's keys of one snapshot are the same whenever it is opened, and never those of another
            identity = uuid.uuid4().hex if snapshot is None else _digest(snapshot, hashlib.sha256(pickled or b"").hexdigest())
            _LIVE.setdefault(identity, store)
    if one_process is not None:
        return StoreHandle("process", url, read_only, identity, (process_token(), one_process, store))
    return StoreHandle("pickled", url, read_only, identity, (pickled, store))


def _snapshot_of(store: Store) -> str | None:
    """Return the snapshot that an Icechunk store reads, None of other stores and of what can still change."""
    session = getattr(store, "session", None) if type(store).__name__ == "IcechunkStore" else None
    return str(session.snapshot_id) if session is not None and session.read_only else None


def open_objects(handle: StoreHandle) -> Objects:
    """Return the objects of `handle`'s store, one open store per handle and process."""
    if (instead := _INSTEAD.get().get(handle.identity)) is not None:
        return instead
    handle.check_process()
    cache_key = f"{process_token()}-{handle.identity}-{handle.read_only}"
    with _LOCK:
        if cache_key in _OPEN:
            _OPEN.move_to_end(cache_key)
            return _OPEN[cache_key]
        if (live := _OPEN_LIVE.get(cache_key)) is not None:
            return live
        objects = _open(handle)
        if handle.kind == "process":
            _OPEN_LIVE[cache_key] = objects
        else:
            _OPEN[cache_key] = objects
            while len(_OPEN) > _OPEN_LIMIT:
                _OPEN.popitem(last=False)
        return objects


@contextmanager
def opened_as(handle: StoreHandle, objects: Objects) -> Iterator[None]:
    """Let this thread use `objects` as those of `handle`'s store, in any process: a fork of a session that it can't open."""
    token = _INSTEAD.set({**_INSTEAD.get(), handle.identity: objects})
    try:
        yield
    finally:
        _INSTEAD.reset(token)


def open_now(handle: StoreHandle) -> list[Objects]:
    """Return the objects of a one-process store that are open: one to read, one to write, or none."""
    cache_keys = [f"{process_token()}-{handle.identity}-{read_only}" for read_only in (False, True)]
    with _LOCK:
        return [objects for key in cache_keys if (objects := _OPEN_LIVE.get(key)) is not None]


class _Refused:
    """Stands for the objects of a store that this process can't open: every use raises why."""

    def __init__(self, error: ZVError) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        raise self._error


def open_objects_later(handle: StoreHandle) -> Objects:
    """Return the objects of `handle`'s store; where it can't be opened, every use of them raises.

    For what runs while a task is unpickled: a distributed worker that fails there never says so, and its client waits
    forever.
    """
    try:
        return open_objects(handle)
    except ZVError as error:
        return cast(Objects, _Refused(error))


def _open(handle: StoreHandle) -> Objects:
    if handle.kind == "url":
        opener, options, url = handle._payload
        objects: Objects = opener(url, options, handle.read_only)
        return objects
    # the caller's own store where it is in reach: another process has its copy
    store: Store | None = handle._payload[2 if handle.kind == "process" else 1] or _LIVE.get(handle.identity)
    if store is None:
        store = _LIVE[handle.identity] = pickle.loads(handle._payload[0])
    secrets = _secrets_of(store)
    if handle.read_only != store.read_only:
        session = getattr(store, "session", None)  # Icechunk: a store can't write what its session can't
        if handle.read_only or session is None or not session.read_only:
            store = store.with_read_only(handle.read_only)
    return ZarrObjects(store, handle.url, secrets=secrets)


def _secrets_of(store: Store) -> tuple[str, ...]:
    """Return the secrets of a store that the caller opened, as far as its options are in reach."""
    found: list[str] = []
    for owner, name in (("fs", "storage_options"), ("store", "config")):
        options = getattr(getattr(store, owner, None), name, None)
        if isinstance(options, Mapping):
            found.extend(secrets_in(options))
    return tuple(found)
