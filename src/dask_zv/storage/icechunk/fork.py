"""Forks of a writable Icechunk session: what tasks write into, and how they come together.

A session does not pickle and a fork of it can't commit. So tasks write into forks and return them, forks are merged, and the
process that holds the session merges what comes of that. Until then the session knows of nothing.

Icechunk merges chunks of different forks. Of a document that two forks have changed it takes one (Icechunk 1), refuses both
(Icechunk 2), or drops the change where the session made the node and has not committed it (Icechunk 2). So a fork holds nodes
and chunks; a change of the attributes of a node that is there travels beside it (:class:`Changes`), and is put into the session
after the merge (:mod:`dask_zv.storage.icechunk.merge`).

In the session's own process all tasks share one fork, and there is nothing to merge.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import uuid
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import ByteRequest
from zarr.buffer import default_buffer_prototype

from dask_zv.errors import PlanError, StoreError
from dask_zv.format.keys import DOCUMENT, ancestors
from dask_zv.storage.handles import StoreHandle, opened_as, process_token
from dask_zv.storage.objects import BytesLike
from dask_zv.storage.zarr_objects import ZarrObjects

if TYPE_CHECKING:
    from icechunk.session import ForkSession


_LIVE: weakref.WeakValueDictionary[str, _Live] = weakref.WeakValueDictionary()


class _Live:
    """A fork that all tasks of one process share; it pickles as a key, which only that process can open."""

    def __init__(self, session: ForkSession) -> None:
        self.session = session
        self.changes = Changes()
        self.key = f"{process_token()}-{uuid.uuid4().hex}"
        _LIVE[self.key] = self

    def __reduce__(self) -> tuple[Any, ...]:
        return _LIVE.get, (self.key,)


@dataclass(frozen=True, slots=True)
class SessionState:
    """What a session had changed at some moment, since its snapshot."""

    chunks: Mapping[str, frozenset[tuple[int, ...]]] = field(default_factory=dict)
    # Paths of nodes that are new or have another document, that are new, and that were removed
    nodes: frozenset[str] = frozenset()
    new: frozenset[str] = frozenset()
    deleted: frozenset[str] = frozenset()

    @classmethod
    def of(cls, session: Any) -> SessionState:
        """Return the state of a session or a fork."""
        diff = session.status()
        new, updated, deleted = (
            frozenset(path.strip("/") for path in {*getattr(diff, f"{kind}_groups"), *getattr(diff, f"{kind}_arrays")})
            for kind in ("new", "updated", "deleted")
        )
        chunks = {path.strip("/"): frozenset(tuple(c) for c in found) for path, found in diff.updated_chunks.items()}
        return cls(chunks, new | updated, new, deleted)

    def since(self, before: SessionState) -> SessionState:
        """Return what has been changed, and was not `before`."""
        chunks = {path: found - before.chunks.get(path, frozenset()) for path, found in self.chunks.items()}
        return SessionState(
            {path: found for path, found in chunks.items() if found},
            self.nodes - before.nodes, self.new - before.new, self.deleted - before.deleted,
        )  # fmt: skip


@dataclass(slots=True)
class Changes:
    """What a task did in a fork that merging forks would lose."""

    # Documents that it wrote of nodes that were there; None of a node that it removed then
    documents: dict[str, bytes | None] = field(default_factory=dict)
    before: dict[str, bytes] = field(default_factory=dict)  # what those were
    replaced: dict[str, str | None] = field(default_factory=dict)  # digest of what the other objects were that a commit wrote
    removed: dict[str, None] = field(default_factory=dict)  # prefixes that it removed
    chunks: set[str] = field(default_factory=set)  # keys that it wrote over chunks that the session had changed
    given: dict[str, bytes | None] = field(default_factory=dict)  # documents of the tasks before it

    def next(self) -> Changes:
        """Return the changes of a task that is given these, and has done nothing yet."""
        return Changes(given={**self.given, **self.documents})

    def joined(self, later: Changes) -> Changes:
        """Return these changes and later ones."""
        return Changes(
            {**self.documents, **later.documents},
            {**later.before, **self.before},
            {**later.replaced, **self.replaced},
            {**self.removed, **later.removed},
            self.chunks | later.chunks,
            {**self.given, **later.given},
        )

    def find(self, key: str) -> tuple[bool, bytes | None]:
        """Return whether a document was written, and the document."""
        known = self.documents if key in self.documents else self.given
        return key in known, known.get(key)

    def __sizeof__(self) -> int:
        held = (*self.documents.values(), *self.before.values(), *self.given.values())
        return sum(len(data or b"") + 100 for data in held)


@dataclass(frozen=True, slots=True)
class Fork:
    """A fork as tasks pass it on."""

    data: bytes = field(repr=False)  # the pickled fork, with the credentials of its storage; empty where it is shared
    live: _Live | None  # the fork that all tasks of the session's process share
    url: str  # what to call its store
    snapshot: str  # that the session is based on
    base: SessionState = field(default_factory=SessionState, repr=False)  # what the session had changed when it was forked
    # How many writes had been merged into sessions of the snapshot: a state does not show that chunks were replaced again
    merges: int = 0
    whole: bool = False  # the fork has these changes as its own, too (Icechunk 1)
    changes: Changes = field(default_factory=Changes, repr=False)  # what travels beside it

    def __sizeof__(self) -> int:
        return len(self.data) + self.changes.__sizeof__() + 500  # what the scheduler's memory management counts

    def open(self) -> ForkSession:
        """Return the fork to write into: a copy, unless it is shared."""
        if self.live is not None:
            return self.live.session
        if not self.data:
            raise PlanError("a fork of an Icechunk session was sent to another process than its own", store=self.url)
        session: ForkSession = pickle.loads(self.data)
        return session

    def done(self) -> Changes:
        """Return what was done in it, beside its chunks."""
        return self.changes if self.live is None else self.live.changes

    def written(self, objects: ForkObjects) -> Fork:
        """Return the fork after a task wrote through `objects`."""
        if self.live is not None:
            return self
        return dataclasses.replace(self, data=pickle.dumps(objects.fork), changes=objects.changes)


class ForkObjects(ZarrObjects):
    """The objects of a fork.

    `guarded`: refuse what a merge with other forks would undo; `last`: for the task that comes after all others: its changes
    are those of all.
    """

    def __init__(self, fork: Fork, *, guarded: bool, last: bool = False) -> None:
        self.fork = fork.open()
        super().__init__(self.fork.store, fork.url)
        if fork.live is not None:
            self.changes = fork.live.changes
        else:
            # copies: a task that is run again begins with what it was given
            self.changes = Changes().joined(fork.changes) if last else fork.changes.next()
        self._base = fork.base
        self._above: set[str] = set()
        for key in (*self.changes.given, *self.changes.documents):
            self._above.update(ancestors(node_of(key) or ""))
        self._last = last
        self._guarded = guarded and fork.live is None
        self._whole = fork.whole

    async def _get_buffer(self, key: str, prototype: BufferPrototype, request: ByteRequest | None) -> Buffer | None:
        known, data = self.changes.find(key)
        if known and data is not None and request is None:
            return prototype.buffer.from_bytes(data)
        return await super()._get_buffer(key, prototype, request)

    async def _put(self, key: str, data: BytesLike) -> int:
        if node_of(key) is not None:
            return await self._put_document(key, bytes(data))
        if self._last and key not in self.changes.replaced:
            self.changes.replaced[key] = content_digest(await self._get(key, None))
        self._check_chunk(key)
        return await super()._put(key, data)

    async def _put_document(self, key: str, data: bytes) -> int:
        found = await super()._get_buffer(key, default_buffer_prototype(), None)
        held = None if found is None else found.to_bytes()
        changes = self.changes
        if held is not None or changes.find(key)[0]:
            if held is not None and not changes.find(key)[0]:
                changes.before.setdefault(key, held)
            changes.documents[key] = data
            self._above.update(ancestors(node_of(key) or ""))
        if held is not None and same_structure(held, data):
            return 0
        return await super()._put(key, data)

    def delete_many(self, keys: Sequence[str]) -> None:
        self._check_removal(keys)
        for key in keys:
            if (path := node_of(key)) is not None:
                self._note_removed(path)
        super().delete_many(keys)

    def delete_prefix(self, prefix: str) -> None:
        if self._guarded:
            for path in (*self._base.chunks, *self._base.nodes):
                if prefix in ancestors(path):
                    raise self._refused(path)
        self._note_removed(prefix)
        super().delete_prefix(prefix)

    def _note_removed(self, prefix: str) -> None:
        changes = self.changes
        changes.removed[prefix] = None
        if prefix in self._above:
            for key in (*changes.given, *changes.documents):
                if prefix in ancestors(node_of(key) or ""):
                    changes.documents[key] = None

    def _check_removal(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._check_chunk(key)
            if self._guarded and node_of(key) in self._base.nodes:
                raise self._refused(key)

    def _check_chunk(self, key: str) -> None:
        """Note that a chunk is replaced which the session had changed, or refuse it."""
        path, found, place = key.rpartition("/c")
        if not found or (place and not place.replace("/", "").isdigit()):
            return
        if tuple(int(n) for n in place.split("/") if n) in self._base.chunks.get(path, ()):
            if self._guarded and self._whole:  # other forks have it as it was, and of two that have it the later wins
                raise self._refused(path)
            self.changes.chunks.add(key)

    def _refused(self, path: str) -> PlanError:
        return PlanError(
            "this would replace or remove what the Icechunk session holds without a commit, and forks of other processes can't "
            "be merged then: commit the session first and write in a new one, or use the synchronous or the threaded scheduler",
            store=self.url, array=path,
        )  # fmt: skip


class ForkSource:
    """What a graph's first task makes the first fork from: the session as it was when the graph was built.

    `shared`: all tasks may share one fork, where the graph is not sent anywhere: on the local schedulers of one process.
    """

    def __init__(self, fork: Fork, shared: bool = True) -> None:
        self._fork = fork
        self._shared = shared

    def __dask_tokenize__(self) -> str:
        return hashlib.sha256(self._fork.data).hexdigest()

    def __reduce__(self) -> tuple[Any, ...]:
        return ForkSource, (self._fork, False)

    def begin(self) -> Fork:
        """Return the first fork of a graph."""
        if not self._shared:
            return self._fork
        return dataclasses.replace(self._fork, data=b"", live=_Live(self._fork.open()))


@dataclass(frozen=True, slots=True)
class InFork:
    """What a function returned, and the fork that it wrote into."""

    value: Any
    fork: Fork


def run_in_fork(
    handle: StoreHandle, fork: Fork, nodes: bool, function: Callable[..., Any], *args: Any, last: bool = False
) -> InFork:
    """Call a function that stores, with a fork in place of `handle`'s session.

    `nodes` where later ones are given what it has done; `last` where it is given what all others have.
    """
    objects = ForkObjects(fork, guarded=not nodes, last=last)
    with opened_as(handle, objects):
        value = function(*args)
    return InFork(value, fork.written(objects))


def merge_forks(forks: Sequence[Fork]) -> Fork:
    """Return one fork with the changes of all, in the order of their tasks."""
    first, *rest = forks
    if first.live is not None or not rest:
        return forks[-1]
    session, changes = first.open(), first.changes
    for fork in rest:
        try:
            session.merge(fork.open())
        except Exception as error:
            raise StoreError(
                f"Icechunk does not merge what two tasks wrote: {error}; the session is unchanged", store=fork.url
            ) from error
        changes = changes.joined(fork.changes)
    return dataclasses.replace(first, data=pickle.dumps(session), changes=changes)


def node_of(key: str) -> str | None:
    """Return the path of the node whose document a key is, None of other keys."""
    return key[: -len(DOCUMENT)].rstrip("/") if key == DOCUMENT or key.endswith(f"/{DOCUMENT}") else None


def same_structure(one: bytes, other: bytes) -> bool:
    """Return True if two documents differ in nothing but attributes."""
    a, b = json.loads(one), json.loads(other)
    return {**a, "attributes": None} == {**b, "attributes": None}


def content_digest(data: bytes | None) -> str | None:
    """Return a digest of an object, None of one that is absent."""
    return None if data is None else hashlib.sha256(data).hexdigest()
