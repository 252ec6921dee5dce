"""The exceptions of dask-zv.

Every error that the library raises on purpose is a :class:`ZVError`; each leaf also inherits the builtin that a caller
who knows nothing of this library would catch::

    ZVError
    ├── StoreError           (OSError)            the store, a node of it, or access to it
    │   ├── NotFoundError    (KeyError, FileNotFoundError)
    │   ├── ReadOnlyError    (PermissionError)
    │   └── InvalidNameError (ValueError)         a name that no store may hold
    ├── MetadataError        (ValueError)         a metadata document is wrong or of a generation we don't read
    ├── FormatError          (ValueError)         the bytes of a blob are not what the format says
    ├── PlanError            (RuntimeError)       a plan that would race, or that the scheduler can't run
    ├── BoundsError          (ValueError)         positions outside the bounds of the store
    └── InputError           (ValueError)         data that can't be written as given, or is another when it is read again

What the library warns of is a :class:`ZVWarning`.

The message comes first and is complete; where the error is about a place in a store, ``store``, ``array``, ``chunk`` and
``offset`` (bytes into the blob) are attributes as well, and part of the text. All errors survive ``pickle``, so they reach
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
    """Return True if a text has characters that no name may have."""
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
    """Return the end of an error about an unknown name: which known one it is near to; empty where it is near to none.

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
        Where: the store (without secrets), the array's path in it, the chunk key.
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
        """Return the same error with the places filled in that it did not know where it was raised."""
        places = {"store": store, "array": array, "chunk": chunk} | self._places()
        return type(self)(self.message, **places)


class StoreError(ZVError, OSError):
    """The store can't be opened, a node or blob is absent, or storage failed."""


class NotFoundError(StoreError, KeyError, FileNotFoundError):
    """A store, node or blob that was asked for is absent."""


class ReadOnlyError(StoreError, PermissionError):
    """A write to a store that was opened, or can only be opened, for reading."""


class InvalidNameError(StoreError, ValueError):
    """An array, group or chunk name that would leave its place in the store or that no store can hold."""


class MetadataError(ZVError, ValueError):
    """A metadata document is wrong, or belongs to a generation of the format that is not read."""


class FormatError(ZVError, ValueError):
    """The bytes of a blob are not what the format says."""


class PlanError(ZVError, RuntimeError):
    """A plan in which tasks would collide, or that the active scheduler can't carry out."""


class BoundsError(ZVError, ValueError):
    """Positions lie outside the bounds of the store."""


class InputError(ZVError, ValueError):
    """Data handed to a writing function can't be stored as given, or is not the same whenever it is read."""


class ZVWarning(UserWarning):
    """A write that works, but costs more than it would have to."""

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
