"""What storage failures mean: worth another try, a missing bucket, refused credentials; told without secrets."""

from __future__ import annotations

from collections.abc import Sequence

from dask_zv.errors import StoreError

__all__ = ["cause_of", "is_transient", "says", "storage_error"]


def storage_error(doing: str, key: str, error: Exception, url: str, secrets: Sequence[str]) -> StoreError:
    """Return the error for a request that failed for good.

    Parameters
    ----------
    doing, key : str
        What was tried, on which key.
    error : Exception
        What the store raised.
    url : str
        The store, without secrets.
    secrets : sequence of str
        What the message must not show.
    """
    text = f"{type(error).__name__}: {error}"
    for secret in secrets:
        text = text.replace(secret, "***")
    text = " ".join(text.split())[:500]
    if says(error, "NoSuchBucket", "bucket does not exist", "bucket is not"):
        return StoreError(f"{doing} '/{key}' failed: the bucket does not exist; create it first ({text})", store=url)
    if says(error, "AccessDenied", "Forbidden", "PermissionDenied", "Unauthenticated", "InvalidAccessKeyId"):
        return StoreError(f"{doing} '/{key}' was denied: check the credentials in storage_options ({text})", store=url)
    return StoreError(f"{doing} '/{key}' failed: {text}", store=url)


def cause_of(error: Exception, secrets: Sequence[str]) -> Exception | None:
    """Return `error` as the cause to show in a traceback, None where it would show a secret."""
    text = f"{error!r}"
    return None if any(s in text for s in secrets) else error


def says(error: BaseException, *words: str) -> bool:
    text = f"{type(error).__name__} {error}".lower()
    return any(w.lower() in text for w in words)


def is_transient(error: Exception) -> bool:
    """Tell whether trying again may help: network trouble and busy servers, never a refusal or a missing object."""
    if isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError | IsADirectoryError | FileExistsError):
        return False
    if says(error, "NoSuchBucket", "AccessDenied", "Unauthenticated", "NotFound", "InvalidPath", "NotSupported"):
        return False
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    return says(error, "SlowDown", "503", "500", "502", "429", "timed out", "connection", "reset by peer", "throttl")
