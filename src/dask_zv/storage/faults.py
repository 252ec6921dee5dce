"""What storage failures mean: worth another try, a missing bucket, refused credentials, a full disk; told without secrets."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence

from dask_zv.errors import StoreError

_STATUS = re.compile(r"status code: (\d{3})")
"""How obstore quotes a server's answer; its errors without one are those of connections and bodies."""
_BUSY = (errno.EBUSY, errno.EAGAIN, getattr(errno, "EREMOTEIO", errno.EIO))
"""How s3fs says SlowDown and InternalError: it passes on neither the code nor the status."""
_REASON = re.compile(r'kind: (\w+)|message: "([^"]{1,80})"|\b(TimedOut|Incomplete\w+)\b')
"""Where it says what was wrong with a connection: the last of these."""


def storage_error(
    doing: str, key: str, error: Exception, url: str, secrets: Sequence[str], *, attempts: int = 1, seconds: float = 0.0
) -> StoreError:
    """Return the error for a request that failed for good.

    `doing, key`: what was tried, on which key; `error`: what the store raised; `url`: the store, without secrets; `secrets`:
    what the message must not show; `attempts, seconds`: how often it was tried, and for how long.
    """
    text = told_of(error, secrets)
    again = "write again (resume=True keeps the blocks that are stored)" if doing == "writing" else "try again"
    if says(error, "NoSuchBucket", "bucket does not exist", "bucket is not"):
        return StoreError(f"{doing} '/{key}' failed: the bucket does not exist; create it first ({text})", store=url)
    if says(error, "RequestTimeTooSkewed", "RequestExpired"):
        return StoreError(
            f"{doing} '/{key}' was denied: the clock of this machine differs from the server's by minutes; set it (NTP), then "
            f"{again} ({text})",
            store=url,
        )
    if says(error, "ExpiredToken", "TokenRefreshRequired", "token has expired", "token expired"):
        return StoreError(
            f"{doing} '/{key}' was denied: the credentials have expired; get new ones, then {again} ({text})", store=url
        )
    refused = isinstance(error, PermissionError) and error.errno is None  # s3fs's, without the code; not the system's
    if refused or says(error, "AccessDenied", "Forbidden", "PermissionDenied", "Unauthenticated", "InvalidAccessKeyId"):
        return StoreError(
            f"{doing} '/{key}' was denied: check the credentials in storage_options and what they allow, then {again} ({text})",
            store=url,
        )
    if is_transient(error):
        tries = f"{attempts} times in {seconds:.0f} s" if attempts > 1 else f"after {seconds:.0f} s"
        return StoreError(
            f"{doing} '/{key}' failed {tries}: the storage is unreachable, stuck or overloaded; when it answers, {again} "
            f"({text})",
            store=url,
        )
    return StoreError(f"{doing} '/{key}' failed: {text}", store=url)


def told_of(error: Exception, secrets: Sequence[str]) -> str:
    """Return what an error says, in at most 500 characters and without secrets."""
    text = f"{type(error).__name__}: {error}"
    for secret in secrets:
        text = text.replace(secret, "***")
    text, _, debug = " ".join(text.split()).partition(" Debug source: ")  # obstore's: the same again, in Rust
    reasons = _REASON.findall(debug)
    if reasons and not _STATUS.search(text):
        text = f"{text[:420]} ({next(filter(None, reasons[-1]))})"
    return text[:500]


def cause_of(error: Exception, secrets: Sequence[str]) -> Exception | None:
    """Return `error` as the cause to show in a traceback, None where it would show a secret."""
    text = f"{error!r}"
    return None if any(s in text for s in secrets) else error


def says(error: BaseException, *words: str) -> bool:
    text = f"{type(error).__name__} {error}".lower()
    return any(w.lower() in text for w in words)


def is_transient(error: Exception) -> bool:
    """Return True if a retry may help: for network errors and busy servers, never for a refusal or a missing object."""
    if isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError | IsADirectoryError | FileExistsError):
        return False
    if says(
        error, "NoSuchBucket", "AccessDenied", "PermissionDenied", "Unauthenticated", "NotFound", "AlreadyExists",
        "Precondition", "InvalidPath", "NotSupported", "NotImplemented",
    ):  # fmt: skip
        return False
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError) and error.errno in _BUSY:
        return True
    status = _STATUS.search(str(error))
    if status is not None:
        return status[1] in ("408", "429") or (status[1][0] == "5" and status[1] != "501")  # not implemented: never will be
    return says(
        error,
        # servers that are busy, as fsspec's packages quote them
        "SlowDown", "InternalError", "503", "500", "502", "504", "429", "throttl", "too many requests", "timed out", "timeout",
        # connections
        "connection", "reset by peer", "broken pipe", "error sending request", "endpointconnectionerror",
        # answers that end early
        "body error", "incomplete", "interrupted", "unexpectedeof", "payload", "error decoding", "invalid list response",
        "deleteobjectsresponse", "responseparsererror",
    )  # fmt: skip


def local_error(doing: str, key: str, error: OSError, url: str) -> StoreError:
    """Return the error for a call on a local file system that failed, with what to do about it."""
    advice = _LOCAL.get(error.errno or 0)
    again = "write again (resume=True keeps the blocks that are stored)" if doing in ("writing", "deleting") else "try again"
    told = f"; {advice.format(user=_user())}, then {again}" if advice else ""
    return StoreError(f"{doing} '/{key}' failed: {error.strerror or error}{told}", store=url)


_LOCAL = {
    errno.ENOSPC: "free space (or inodes) on its file system",
    errno.EDQUOT: "free space (or inodes) in the quota of its file system",
    errno.EFBIG: "files may not be that large here: see 'ulimit -f' and what the file system allows",
    errno.EACCES: "{user} needs access to it and to the directories above: see their owner and mode",
    errno.EPERM: "{user} may not do this here: see the owner, mode and attributes of the directory, and how it is mounted",
    errno.EROFS: "its file system is mounted read-only: mount it to be written",
    errno.EMFILE: "this process has too many files open: raise 'ulimit -n'",
    errno.ENFILE: "the machine has too many files open: close some",
    errno.ESTALE: "the file server has replaced it or was restarted: see the mount",
    errno.EIO: "the device or file server fails: see the system's log",
    errno.ETIMEDOUT: "the file server does not answer: see the mount",
}


def _user() -> str:
    return f"user {os.geteuid()}" if hasattr(os, "geteuid") else "this user"
