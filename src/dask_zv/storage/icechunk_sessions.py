"""Writable Icechunk sessions: what forks are made of, and what gets their changes in the end."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
import threading
from typing import TYPE_CHECKING, Any

from zarr.core.sync import sync

from dask_zv.errors import InputError, PlanError, ReadOnlyError, StoreError
from dask_zv.format.keys import DOCUMENT
from dask_zv.storage.handles import StoreHandle, open_now
from dask_zv.storage.icechunk_forks import Fork, ForkSource
from dask_zv.storage.shard_indexes import shard_indexes

if TYPE_CHECKING:
    from icechunk.session import ForkSession, Session

__all__ = ["can_fork", "check_not_committed", "fork_session", "merge_into_session", "session_of"]

_MERGING = threading.Lock()
_NOWHERE = "dask_zv_nothing"
"""No session has changed it, so whether it is there only the repository tells."""


def session_of(handle: StoreHandle) -> Session | None:
    """Return the Icechunk session of a handle, in the process that holds it; None of other stores.

    Raises
    ------
    PlanError
        This is another process.
    """
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

    Raises
    ------
    ReadOnlyError
        The session was committed.
    PlanError
        This process does not hold the session.
    """
    session = session_of(handle) if can_fork(handle) else None
    if session is None:
        return None
    about = Fork(b"", None, handle.url, session.snapshot_id)
    if session.has_uncommitted_changes:
        fork = _copied(session)
        held, nodes, state = _changes(session)
        about = dataclasses.replace(about, state=state, held=held, carried=nodes)
    else:
        fork = session.fork()
    return ForkSource(dataclasses.replace(about, data=pickle.dumps(fork)))


def can_fork(handle: StoreHandle) -> bool:
    """Tell whether :func:`fork_session` makes forks of a handle's store; raises as that does."""
    if not handle.is_session or type(handle.live_store()).__name__ != "IcechunkStore":
        return False
    session = session_of(handle)
    assert session is not None
    check_not_committed(session, handle.url)
    try:
        sync(_copied(session).store.exists(f"{_NOWHERE}/{DOCUMENT}"))
    except Exception as error:
        if "No data in memory found" in str(error):  # that repository is known to its own session alone
            return False
        raise StoreError(f"the session's repository can't be read: {error}", store=handle.url) from error
    return True


def check_not_committed(session: Session, url: str) -> None:
    """Raise :class:`ReadOnlyError` where a session was committed, and writes nothing any more."""
    if session.read_only:
        raise ReadOnlyError(
            "the Icechunk session was committed, which ends it: open the store in a new one, repo.writable_session(branch)",
            store=url,
        )


def _copied(session: Session) -> ForkSession:
    """Return a fork with the session's changes.

    Icechunk's own `fork` refuses a session with changes, since its users would merge into one that has them already. Ours are
    merged by `merge_into_session`, which knows.
    """
    from icechunk.session import ForkSession

    inner: Any = session._session
    return ForkSession(type(inner).from_bytes(inner.as_bytes()))


def _changes(session: Session) -> tuple[dict[str, frozenset[tuple[int, ...]]], frozenset[str], str]:
    """Return what a session has changed: chunks by path, paths of nodes, and a digest of all that."""
    diff = session.status()
    chunks = {path.strip("/"): frozenset(tuple(c) for c in found) for path, found in diff.updated_chunks.items()}
    kinds = (
        diff.new_groups,
        diff.new_arrays,
        diff.updated_groups,
        diff.updated_arrays,
        diff.deleted_groups,
        diff.deleted_arrays,
    )
    text = repr([sorted(kind) for kind in kinds] + [(path, sorted(chunks[path])) for path in sorted(chunks)])
    nodes = frozenset(path.strip("/") for kind in kinds[:4] for path in kind)
    return chunks, nodes, hashlib.sha256(text.encode()).hexdigest()


def merge_into_session(handle: StoreHandle, fork: Fork) -> None:
    """Give the session what a graph wrote in forks of it. All or nothing.

    Raises
    ------
    PlanError
        This process does not hold the session, or the session is no longer what was forked.
    InputError
        The store is in no session.
    """
    session = session_of(handle)
    if session is None:
        raise InputError("this report is of a write to an Icechunk session: finish it with its own store", store=handle.url)
    if session.read_only or session.snapshot_id != fork.snapshot:
        raise PlanError(
            "the Icechunk session was committed or moved after this write was planned, so its changes can't be merged any "
            "more: write again in a new session",
            store=handle.url,
        )
    with _MERGING:
        try:
            _merge(session, fork)
        except PlanError:
            raise
        except Exception as error:
            raise StoreError(f"the changes of the write can't be merged into the session: {error}", store=handle.url) from error
    for objects in open_now(handle):  # what is kept of its shards is old
        shard_indexes(objects).clear()


def _merge(session: Session, fork: Fork) -> None:
    changed = session.has_uncommitted_changes
    if not changed or not fork.state or _changes(session)[2] != fork.state:
        # a union is right, where what the session has was not there when it was forked
        session.merge(fork.open())
        return
    # the fork has all that the session has, and a union would bring back what it removed of that
    backup = _copied(session)
    session.discard_changes()
    try:
        session.merge(fork.open())
    except BaseException:
        session.discard_changes()
        session.merge(backup)
        raise
