"""Committing the Icechunk session that a store lies in: one snapshot, or an error that says who else wrote what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dask_zv.errors import InputError, PlanError, StoreError
from dask_zv.storage.handles import StoreHandle
from dask_zv.storage.icechunk_sessions import check_not_committed, session_of

_REBASES = 100
_NAMED = 4


def commit_session(handle: StoreHandle, message: str, metadata: Mapping[str, Any] | None, *, rebase: bool) -> str:
    """Commit a session and return the id of its snapshot.

    Parameters
    ----------
    handle : StoreHandle
        Of a store in a writable session.
    message : str
        Of the snapshot.
    metadata : mapping of str to JSON value, optional
        Kept with the snapshot.
    rebase : bool
        Where others have committed to the branch since the session began, and have changed no node and no chunk that this one
        has, put this snapshot on top of theirs.

    Raises
    ------
    InputError
        The store is in no session.
    ReadOnlyError
        The session was committed before.
    PlanError
        Others have committed to the branch: what this session changed (or, without `rebase`, anything). Nothing is committed.
    StoreError
        There is nothing to commit, or storage failed.
    """
    session = session_of(handle)
    if session is None:
        raise InputError(
            f"{handle.url} is in no Icechunk session that can be written, and needs no commit: a write is in the store when "
            "its function returns"
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
            f"both changed {_conflicts(error.conflicts)}: nothing was committed. Begin a new session, which has the other's "
            "work, and write again there",
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
