"""Merging what a graph wrote in forks into the session that they were made of."""

from __future__ import annotations

import json
import threading
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dask_zv.errors import InputError, PlanError, StoreError
from dask_zv.format.documents import dump_json
from dask_zv.format.keys import DOCUMENT, ancestors, join
from dask_zv.storage.grid.fetch import shard_indexes
from dask_zv.storage.handles import StoreHandle, open_now
from dask_zv.storage.icechunk.fork import Changes, Fork, SessionState, content_digest, node_of
from dask_zv.storage.icechunk.session import MERGES, copy_session, session_of
from dask_zv.storage.zarr_objects import ZarrObjects

if TYPE_CHECKING:
    from icechunk.session import ForkSession, Session


_MERGING = threading.Lock()
_AT_ONCE = 64
_MISSING: Any = object()


def merge_into_session(handle: StoreHandle, fork: Fork) -> None:
    """Give the session what a graph wrote in forks of it. All or nothing."""
    session = session_of(handle)
    if session is None:
        raise InputError("this report is of a write to an Icechunk session: finish it with its own store", store=handle.url)
    if session.read_only or session.snapshot_id != fork.snapshot:
        raise PlanError(
            "the Icechunk session was committed or moved after this write was planned, so its changes cannot be merged: "
            "write again in a new session",
            store=handle.url,
        )
    with _MERGING:
        _Merge(session, fork, handle).run()
        MERGES[session.snapshot_id] += 1
    for objects in open_now(handle):  # what is kept of its shards is old
        shard_indexes(objects).drop()


class _Merge:
    """One merge of a fork into a session."""

    def __init__(self, session: Session, fork: Fork, handle: StoreHandle) -> None:
        self.session = session
        self.fork = fork
        self.url = url = handle.url
        self.forked: ForkSession = fork.open()
        self.here = ZarrObjects(session.store, url)
        self.there = ZarrObjects(self.forked.store, url)
        self.changes: Changes = fork.done()
        now = SessionState.of(session)
        self.same = now == fork.base and MERGES[session.snapshot_id] == fork.merges
        self.since = now.since(fork.base)
        state = SessionState.of(self.forked)
        self.mine = state.since(fork.base) if fork.whole else state

    def run(self) -> None:
        try:
            documents = self._documents()
            self._check_chunks()
        except PlanError:
            if self._is_merged():
                return
            raise
        kept = self._kept() if self.fork.whole and not self.same else {}
        try:
            self._merge()
        except Exception as error:
            if not type(error).__module__.startswith("icechunk"):
                raise
            self._copy(error)
        wanted = {**kept, **documents}
        found = zip(wanted.items(), self.here.get_many([(key, None) for key in wanted]), strict=True)
        self.here.put_many([[(key, data)] for (key, data), now in found if now != data])

    def _merge(self) -> None:
        if not (self.fork.whole and self.same):
            self.session.merge(self.forked)
            return
        # the fork has all that the session has, and a union would bring back what it removed of that
        backup, _ = copy_session(self.session)
        self.session.discard_changes()
        try:
            self.session.merge(self.forked)
        except BaseException:
            self.session.discard_changes()
            self.session.merge(backup)
            raise

    def _copy(self, refusal: Exception) -> None:
        """Write into the session what the fork has, where Icechunk refuses to merge: nodes that the session removed or made.

        What the two have both changed is found before.
        """
        found = SessionState.of(self.forked)
        try:
            for prefix in self.changes.removed:
                self.here.delete_prefix(prefix)
            for path in found.deleted:
                self.here.delete_prefix(path)
            keys = [join(path, DOCUMENT) for path in sorted(found.nodes, key=lambda path: (path.count("/"), path))]
            requests = [(key, None) for key in keys]
            for key, data, now in zip(keys, self.there.get_many(requests), self.here.get_many(requests), strict=True):
                if data is not None and data != now:
                    self.here.put(key, data)
            for some in _batches(_chunk_keys(found.chunks)):
                chunks = dict(zip(some, self.there.get_many([(key, None) for key in some]), strict=True))
                self.here.put_many([[(key, data)] for key, data in chunks.items() if data is not None])
                self.here.delete_many([key for key, data in chunks.items() if data is None])
        except Exception as error:
            raise StoreError(
                f"the changes of the write can't be merged into the session ({refusal}), and copying them failed: a part of "
                "them is in the session; discard its changes and write again",
                store=self.url,
            ) from error

    def _kept(self) -> dict[str, bytes]:
        """Return what merging a whole fork would set back: all that the session had before, has changed since or not."""
        keys = [join(path, DOCUMENT) for path in self.fork.base.nodes]
        keys += [key for key in _chunk_keys(self.fork.base.chunks) if key not in self.changes.chunks]
        wanted = sorted(key for key in {*keys}.difference(self.changes.documents) if not _is_in(key, self.changes.removed))
        found = zip(wanted, self.here.get_many([(key, None) for key in wanted]), strict=True)
        return {key: data for key, data in found if data is not None}

    def _documents(self) -> dict[str, bytes]:
        """Return the documents to put into the session after the merge."""
        written = {key: data for key, data in self.changes.documents.items() if data is not None}
        now = dict(zip(written, self.here.get_many([(key, None) for key in written]), strict=True))
        out: dict[str, bytes] = {}
        for key, data in written.items():
            path = node_of(key) or ""
            if self._is_made(path) or now[key] == self.changes.before.get(key):
                out[key] = data
            else:
                merged = _merged(self.changes.before.get(key), data, now[key])
                if merged is None:
                    raise self._conflict(path)
                out[key] = merged
        return out

    def _check_chunks(self) -> None:
        """Raise where the session has changed, since it was forked, chunks and nodes that the graph wrote or removed, too."""
        for key, digest in self.changes.replaced.items():
            if content_digest(self.here.get(key)) != digest and not self._is_made(key.rpartition("/c")[0]):
                raise self._conflict(key)
        both = [p for p in self.mine.new & self.since.new if p not in self._alike()]
        both += [p for p, found in self.mine.chunks.items() if found & self.since.chunks.get(p, frozenset())]
        changed = {*self.since.chunks, *self.since.nodes}
        both += [p for p in changed if _is_in(p, self.changes.removed)]
        touched = {*self.mine.chunks, *self.mine.nodes}
        both += [p for p in touched if _is_in(p, self.since.deleted)]
        if both:
            raise self._conflict(min(both))

    def _is_made(self, path: str) -> bool:
        """Return True if the graph made a node, or made it again."""
        return path in self.mine.new or _is_in(path, self.changes.removed)

    def _alike(self) -> set[str]:
        """Return the groups without attributes that both have made: one is as good as the other."""
        paths = sorted(self.mine.new & self.since.new)
        keys = [(join(path, DOCUMENT), None) for path in paths]
        found = zip(paths, self.here.get_many(keys), self.there.get_many(keys), strict=True)
        return {path for path, here, there in found if here == there and here is not None and b'"group"' in here}

    def _is_merged(self) -> bool:
        """Return True if the session has the graph's documents already: it is finished twice."""
        written = {key: data for key, data in self.changes.documents.items() if data is not None}
        others = [*self.changes.replaced, *(join(path, DOCUMENT) for path in self.mine.nodes)]
        keys = [*written, *(key for key in others if key not in written)]
        here = self.here.get_many([(key, None) for key in keys])
        there = self.there.get_many([(key, None) for key in keys])
        return all(a == written.get(key, b) for key, a, b in zip(keys, here, there, strict=True))

    def _conflict(self, key: str) -> PlanError:
        return PlanError(
            "the Icechunk session has been changed here since this write was planned, and the write changes it, too: nothing "
            "was merged; write again",
            store=self.url, array=key.removesuffix(f"/{DOCUMENT}"),
        )  # fmt: skip


def _is_in(path: str, prefixes: Container[str]) -> bool:
    """Return True if a path is one of some prefixes, or lies below one."""
    return any(prefix in prefixes for prefix in ancestors(path))


class _ConflictError(Exception):
    """Two writers changed one thing, differently."""


def _merged(before: bytes | None, mine: bytes, now: bytes | None) -> bytes | None:
    """Return a document with what two writers changed, None where they changed the same."""
    if before is None or now is None:
        return None
    try:
        return dump_json(_merged_values(json.loads(before), json.loads(mine), json.loads(now)))
    except _ConflictError:
        return None


def _merged_values(old: Mapping[str, Any], own: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members of a document, or its attributes, with the changes of both."""
    out: dict[str, Any] = {}
    for name in {**other, **own}:
        before, mine, theirs = (d.get(name, _MISSING) for d in (old, own, other))
        if name == "attributes":
            value: Any = _merged_values(*({} if v is _MISSING else v for v in (before, mine, theirs)))
        elif mine == before:
            value = theirs
        elif theirs in (before, mine):
            value = mine
        else:
            raise _ConflictError
        if value is not _MISSING:
            out[name] = value
    return out


def _chunk_keys(chunks: Mapping[str, Iterable[tuple[int, ...]]]) -> Iterator[str]:
    for path, found in chunks.items():
        for coords in sorted(found):
            yield "/".join([join(path, "c"), *map(str, coords)])


def _batches(keys: Iterable[str]) -> Iterator[list[str]]:
    some: list[str] = []
    for key in keys:
        some.append(key)
        if len(some) == _AT_ONCE:
            yield some
            some = []
    if some:
        yield some
