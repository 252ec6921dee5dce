"""Writable Icechunk sessions: what forks are made of, and committing one."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from zarr.core.sync import sync

from dask_zv.errors import InputError, PlanError, ReadOnlyError, StoreError
from dask_zv.format.keys import DOCUMENT
from dask_zv.storage.faults import says
from dask_zv.storage.handles import StoreHandle
from dask_zv.storage.icechunk.fork import Fork, ForkSource, SessionState

if TYPE_CHECKING:
    from icechunk.session import ForkSession, Session


MERGES: Counter[str] = Counter()
"""How many writes were merged into the sessions of a snapshot in this process."""
_NOWHERE = "dask_zv_nothing"
"""No session has changed it, so whether it is there only the repository tells."""


def session_of(handle: StoreHandle) -> Session | None:
    """Return the Icechunk session of a handle, in the process that holds it; None of other stores."""
    if not handle.is_session:
        return None
    handle.check_process()
    store: Any = handle.live_store()
    while store is not None and type(store).__name__ != "IcechunkStore":
        store = getattr(store, "_store", None)
    session: Session | None = None if store is None else store.session
    return session


def fork_session(handle: StoreHandle) -> ForkSource | None:
    """Return what a graph's forks are made from; None where the store is not one that can be forked.

    That is any store but a writable Icechunk session. A session of a repository in memory, and a store that wraps a session's,
    can't be forked: their tasks write into the session itself.
    """
    session = session_of(handle) if can_fork(handle) else None
    if session is None:
        return None
    base = SessionState.of(session) if session.has_uncommitted_changes else SessionState()
    fork, whole = copy_session(session)
    return ForkSource(Fork(pickle.dumps(fork), None, handle.url, session.snapshot_id, base, MERGES[session.snapshot_id], whole))


def can_fork(handle: StoreHandle) -> bool:
    """Return True if :func:`fork_session` makes forks of a handle's store; raises as that does."""
    if not handle.is_session or type(handle.live_store()).__name__ != "IcechunkStore":
        return False
    session = session_of(handle)
    assert session is not None
    check_not_committed(session, handle.url)
    return not _is_in_memory(session, handle.url)


def is_in_memory(handle: StoreHandle) -> bool:
    """Return True if the objects of a handle's store lie in the memory of one process."""
    session = session_of(handle)
    if session is None:
        return handle.one_process
    return not session.read_only and _is_in_memory(session, handle.url)


def _is_in_memory(session: Session, url: str) -> bool:
    try:
        sync(pickle.loads(pickle.dumps(copy_session(session)[0])).store.exists(f"{_NOWHERE}/{DOCUMENT}"))
    except Exception as error:
        if _is_absent(error):  # a copy finds nothing: the storage is in the memory of the session itself
            return True
        raise StoreError(f"the session's repository can't be read: {error}", store=url) from error
    return False


def _is_absent(error: Exception) -> bool:
    """Return True if an error of Icechunk says that its snapshot is not in the storage."""
    kind = getattr(error, "kind", None)  # of releases from 2.1.2 on
    if kind is not None:
        return str(kind) == "object-not-found"
    return says(error, "No data in memory found", "object not found") and not says(error, "NoSuchBucket")


@contextmanager
def undone_on_failure(handle: StoreHandle) -> Iterator[None]:
    """Discard what a failed graph has written into a session that can't be forked, unless it had changes of others before."""
    session = session_of(handle)
    clean = session is not None and not session.has_uncommitted_changes
    try:
        yield
    except BaseException:
        if session is not None and clean:
            session.discard_changes()
        raise


def check_not_committed(session: Session, url: str) -> None:
    """Raise :class:`ReadOnlyError` where a session was committed, and writes nothing any more."""
    if session.read_only:
        raise ReadOnlyError(
            "the Icechunk session was committed, which ends it: open the store in a new one, repo.writable_session(branch)",
            store=url,
        )


def copy_session(session: Session) -> tuple[ForkSession, bool]:
    """Return a fork that sees the session's changes, and whether it has them as its own, too."""
    try:
        return session.fork(), False
    except ValueError:
        # Icechunk 1 forks no session with changes, since its users would merge into one that has them already, and has no
        # public way to do it: :mod:`dask_zv.storage.icechunk.merge` knows what it merges
        from icechunk.session import ForkSession

        inner: Any = session._session
        return ForkSession(type(inner).from_bytes(inner.as_bytes())), True


_REBASES = 100
_NAMED = 4


def commit_session(handle: StoreHandle, message: str, metadata: Mapping[str, Any] | None, *, rebase: bool) -> str:
    """Commit a session and return the id of its snapshot.

    `handle`: of a store in a writable session; `message`: of the snapshot; `metadata`: kept with the snapshot; `rebase`: where
    others have committed to the branch since the session began, and have changed no node and no chunk that this one has, put
    this snapshot on top of theirs.
    """
    session = session_of(handle)
    if session is None:
        raise InputError(
            f"{handle.url} is not in a writable Icechunk session and needs no commit: a write is complete when its function "
            "returns"
        )
    check_not_committed(session, handle.url)
    if not session.has_uncommitted_changes:
        raise StoreError(
            "there is nothing to commit: the session has no changes. The result of a write with compute=False is in it after "
            "store.finish(result)",
            store=handle.url,
        )
    import icechunk

    solver = icechunk.ConflictDetector() if rebase else None
    given = None if metadata is None else dict(metadata)
    try:
        return str(session.commit(message, given, rebase_with=solver, rebase_tries=_REBASES))
    except icechunk.RebaseFailedError as error:
        raise PlanError(
            f"another session has committed to branch {session.branch!r} since this one began (snapshot {error.snapshot}), and "
            f"both changed {_conflicts(error.conflicts)}: nothing was committed. Open a new session, which has the other's "
            "changes, and write again there",
            store=handle.url,
        ) from error
    except icechunk.ConflictError as error:
        how = "it kept doing so" if rebase else "rebase=True puts this snapshot on top, where the two changed different things"
        raise PlanError(
            f"another session has committed to branch {session.branch!r} since this one began (snapshot "
            f"{error.actual_parent}): nothing was committed; {how}",
            store=handle.url,
        ) from error
    except icechunk.IcechunkError as error:
        raise StoreError(f"the session can't be committed: {error.message}", store=handle.url) from error


def _conflicts(found: Any) -> str:
    """Return the nodes that two sessions changed, in words."""
    paths = sorted({str(conflict.path) for conflict in found})
    more = f" and {len(paths) - _NAMED:,} more nodes" if len(paths) > _NAMED else ""
    return ", ".join(paths[:_NAMED]) + more
