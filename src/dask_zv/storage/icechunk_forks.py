"""Forks of a writable Icechunk session: what tasks write into, and how they come together.

A session does not pickle and a fork of it can't commit. So tasks write into forks and return them, forks are merged, and the
process that holds the session merges what comes of that. Until then the session knows of nothing.

Merging is a union, in which the fork that comes later wins: also with what it merely had from the fork that it was made of. So
that nothing new is lost to something old,

- forks are merged in the order of their tasks;
- documents that a fork was given and its task wrote again are written again after a merge that brought the old ones back;
- a task in another process that would replace or remove a chunk, or remove a node, which the *session* has changed without a
  commit is refused.

In the session's own process all tasks share one fork, and there is nothing to merge.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
import uuid
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dask_zv.errors import PlanError
from dask_zv.format.keys import DOCUMENT
from dask_zv.storage.handles import process_token
from dask_zv.storage.objects import BytesLike, ZarrObjects

if TYPE_CHECKING:
    from icechunk.session import ForkSession

__all__ = [
    "Fork",
    "ForkObjects",
    "ForkSource",
    "merge_forks",
]

_LIVE: weakref.WeakValueDictionary[str, _Live] = weakref.WeakValueDictionary()


class _Live:
    """A fork that all tasks of one process share; it pickles as a key, which only that process can open."""

    def __init__(self, session: ForkSession) -> None:
        self.session = session
        self.key = f"{process_token()}-{uuid.uuid4().hex}"
        _LIVE[self.key] = self

    def __reduce__(self) -> tuple[Any, ...]:
        return _LIVE.get, (self.key,)


@dataclass(frozen=True, slots=True)
class Fork:
    """A fork as tasks pass it on.

    Attributes
    ----------
    data : bytes
        The pickled fork; empty where it is shared.
    live : object, optional
        The fork that all tasks of the session's process share.
    url : str
        What to call its store.
    snapshot : str
        That the session is based on.
    state : str
        Digest of what the session had changed when it was forked; empty where that was nothing.
    held : mapping of path to set of chunk coordinates
        The chunks that the session had changed.
    carried : frozenset of str
        Paths of the nodes whose documents every task of the graph is given.
    rewritten : frozenset of str
        Those of them whose documents tasks wrote again.
    """

    data: bytes = dataclasses.field(repr=False)  # with the credentials of its storage
    live: _Live | None
    url: str
    snapshot: str
    state: str = ""
    held: Mapping[str, frozenset[tuple[int, ...]]] = dataclasses.field(default_factory=dict, repr=False)
    carried: frozenset[str] = dataclasses.field(default=frozenset(), repr=False)
    rewritten: frozenset[str] = frozenset()

    def __sizeof__(self) -> int:
        return len(self.data) + 500  # what the scheduler's memory management counts

    def open(self) -> ForkSession:
        """Return the fork to write into: a copy, unless it is shared."""
        if self.live is not None:
            return self.live.session
        if not self.data:
            raise PlanError("a fork of an Icechunk session that its own process shares was sent to another", store=self.url)
        session: ForkSession = pickle.loads(self.data)
        return session

    def written(self, objects: ForkObjects, *, nodes: bool) -> Fork:
        """Return the fork after a task wrote through `objects`; `nodes` that it made are carried on."""
        if self.live is not None:
            return self
        again = objects.documents & self.carried
        carried = self.carried | objects.documents if nodes else self.carried
        return dataclasses.replace(self, data=pickle.dumps(objects.fork), carried=carried, rewritten=self.rewritten | again)


class ForkObjects(ZarrObjects):
    """The objects of a fork, noting which documents are written.

    Parameters
    ----------
    fork : Fork
    guarded : bool
        Refuse what a merge with other forks would undo.
    """

    def __init__(self, fork: Fork, *, guarded: bool) -> None:
        self.fork = fork.open()
        super().__init__(self.fork.store, fork.url)
        self.documents: frozenset[str] = frozenset()
        self._about = fork
        self._guarded = guarded and fork.live is None and bool(fork.state)

    async def _put(self, key: str, data: BytesLike) -> int:
        if key == DOCUMENT or key.endswith(f"/{DOCUMENT}"):
            self.documents |= {key[: -len(DOCUMENT)].rstrip("/")}
        elif self._guarded:
            self._check_chunk(key)
        return await super()._put(key, data)

    def delete(self, key: str) -> None:
        self._check_removal([key])
        super().delete(key)

    def delete_many(self, keys: Sequence[str]) -> None:
        self._check_removal(keys)
        super().delete_many(keys)

    def delete_prefix(self, prefix: str) -> None:
        if self._guarded:
            for path in (*self._about.held, *self._about.carried):
                if path == prefix or path.startswith(f"{prefix}/") or not prefix:
                    raise self._refused(path)
        super().delete_prefix(prefix)

    def _check_removal(self, keys: Iterable[str]) -> None:
        if self._guarded:
            for key in keys:
                self._check_chunk(key)
                if key.removesuffix(DOCUMENT).rstrip("/") in self._about.carried:
                    raise self._refused(key)

    def _check_chunk(self, key: str) -> None:
        path, found, place = key.rpartition("/c")
        if not found or (place and not place.replace("/", "").isdigit()):
            return
        if tuple(int(n) for n in place.split("/") if n) in self._about.held.get(path, ()):
            raise self._refused(path)

    def _refused(self, path: str) -> PlanError:
        return PlanError(
            "this would replace or remove what the Icechunk session holds without a commit, and forks of other processes can't "
            "be merged then: commit the session first and write in a new one, or use the synchronous or the threaded scheduler",
            store=self.url, array=path,
        )  # fmt: skip


class ForkSource:
    """What a graph's first task makes the first fork from: the session as it was when the graph was built.

    Parameters
    ----------
    fork : Fork
    shared : bool
        All tasks may share one fork, where the graph is not sent anywhere: on the local schedulers of one process.
    """

    def __init__(self, fork: Fork, *, shared: bool = True) -> None:
        self._fork = fork
        self._shared = shared

    def __dask_tokenize__(self) -> str:
        return hashlib.sha256(self._fork.data).hexdigest()

    def __reduce__(self) -> tuple[Any, ...]:
        return _sent, (self._fork,)

    def copy(self) -> Fork:
        """Return a fork that nobody shares."""
        return self._fork

    def begin(self) -> Fork:
        """Return the first fork of a graph."""
        if not self._shared:
            return self._fork
        return dataclasses.replace(self._fork, data=b"", live=_Live(self._fork.open()))


def _sent(fork: Fork) -> ForkSource:
    return ForkSource(fork, shared=False)


def merge_forks(forks: Sequence[Fork]) -> Fork:
    """Return one fork with the changes of all; of two that changed one thing, the later wins."""
    first, *rest = forks
    if first.live is not None or not rest:
        return forks[-1]
    session = first.open()
    rewritten, carried = first.rewritten, first.carried
    for fork in rest:
        keys = [f"{path}/{DOCUMENT}".lstrip("/") for path in sorted(rewritten - fork.rewritten)]
        before = ZarrObjects(session.store, fork.url).get_many([(key, None) for key in keys])
        session.merge(fork.open())
        objects = ZarrObjects(session.store, fork.url)
        for key, was, now in zip(keys, before, objects.get_many([(key, None) for key in keys]), strict=True):
            if was is not None and was != now:
                objects.put(key, was)
        rewritten, carried = rewritten | fork.rewritten, carried | fork.carried
    return dataclasses.replace(first, data=pickle.dumps(session), rewritten=rewritten, carried=carried)
