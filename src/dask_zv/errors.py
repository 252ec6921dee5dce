"""The exceptions of dask-zv.

Every error that the library raises on purpose is a :class:`ZVError`. Each class also inherits the builtin exception that fits,
so generic code can catch it::

    ZVError
    ├── StoreError           (OSError)            the store, a node of it, or access to it
    │   ├── NotFoundError    (KeyError, FileNotFoundError)
    │   ├── ReadOnlyError    (PermissionError)
    │   └── InvalidNameError (ValueError)         a name that no store may hold
    ├── MetadataError        (ValueError)         a metadata document is wrong, or its version is not supported
    ├── FormatError          (ValueError)         the bytes of a blob violate the format
    ├── PlanError            (RuntimeError)       tasks would collide, or the scheduler cannot run them
    ├── BoundsError          (ValueError)         positions outside the bounds of the store
    └── InputError           (ValueError)         data cannot be written as given, or differs when it is read again

All warnings are :class:`ZVWarning`.

The message is complete. If the error concerns a location in a store, ``store``, ``array``, ``chunk`` and
``offset`` (bytes into the blob) are attributes and part of the message. All errors can be pickled, so they reach
the caller from any worker.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

_PLACES = ("store", "array", "chunk", "offset")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What changes a terminal or the order of a line, and the halves of characters, which can't be printed."""


def has_control(text: str) -> bool:
    """Return True if a text has characters that names must not have."""
    return _CONTROL.search(text) is not None


def escaped(text: str) -> str:
    """Return a text with its control characters as Python writes them.

    Examples
    --------
    >>> print(escaped("x\\x1b[2J"))
    x\\x1b[2J
    """
    return _CONTROL.sub(lambda c: c[0].encode("unicode_escape").decode(), text)


def did_you_mean(given: object, known: Iterable[object]) -> str:
    """Return the end of a message about an unknown name: the most similar known name, or an empty string.

    Examples
    --------
    >>> did_you_mean("overwite", ["error", "overwrite"])
    "; did you mean 'overwrite'?"
    """
    import difflib

    names = {str(name).casefold(): str(name) for name in known}
    near = difflib.get_close_matches(str(given).casefold(), names, 1)
    return f"; did you mean {names[near[0]]!r}?" if near else ""


def _rebuild(cls: type[ZVError], message: str, places: dict[str, Any]) -> ZVError:
    return cls(message, **places)


class ZVError(Exception):
    """Base of all errors of dask-zv.

    Parameters
    ----------
    message : str
        What is wrong and what to do about it.
    store, array, chunk : str, optional
        Location: the store (without secrets), the path of the array in it, the chunk key.
    offset : int, optional
        Byte offset into the blob.
    """

    def __init__(
        self,
        message: str,
        *,
        store: str | None = None,
        array: str | None = None,
        chunk: str | None = None,
        offset: int | None = None,
    ) -> None:
        message = escaped(message)  # names in it may come of a store that somebody else made
        super().__init__(message)
        self.message = message
        self.store = store
        self.array = array
        self.chunk = chunk
        self.offset = offset

    def __str__(self) -> str:
        places = self._places()
        if not places:
            return self.message
        return escaped(f"{self.message} [{', '.join(f'{k} {v}' for k, v in places.items())}]")

    def _places(self) -> dict[str, Any]:
        return {k: v for k in _PLACES if (v := getattr(self, k)) is not None}

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self._places())

    def at(
        self,
        *,
        store: str | None = None,
        array: str | None = None,
        chunk: str | None = None,
    ) -> ZVError:
        """Return the same error with the missing parts of its location filled in."""
        places = {"store": store, "array": array, "chunk": chunk} | self._places()
        return type(self)(self.message, **places)


class StoreError(ZVError, OSError):
    """The store cannot be opened, a node or blob is missing, or storage failed."""


class NotFoundError(StoreError, KeyError, FileNotFoundError):
    """A requested store, node or blob does not exist."""


class ReadOnlyError(StoreError, PermissionError):
    """A write to a store that is read-only, or was opened for reading."""


class InvalidNameError(StoreError, ValueError):
    """An array, group or chunk name that would lead out of the store or that no store can hold."""


class MetadataError(ZVError, ValueError):
    """A metadata document is wrong, or its version of the format is not supported."""


class FormatError(ZVError, ValueError):
    """The bytes of a blob violate the format."""


class PlanError(ZVError, RuntimeError):
    """Tasks of a write would collide, or the active scheduler cannot run them."""


class BoundsError(ZVError, ValueError):
    """Positions lie outside the bounds of the store."""


class InputError(ZVError, ValueError):
    """Data cannot be stored as given, or differs between two readings."""


class ZVWarning(UserWarning):
    """Something works, but is slow, incomplete or surprising; the category of all warnings of dask-zv."""

    def __init__(self, message: object = "") -> None:
        super().__init__(escaped(str(message)))


@contextmanager
def noted(text: str) -> Iterator[None]:
    """Add a note to errors of others, which know neither the store nor a way on; the library's own know both."""
    try:
        yield
    except ZVError:
        raise
    except (Exception, KeyboardInterrupt) as error:
        error.add_note(text)
        raise
