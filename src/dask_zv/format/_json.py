"""Typed access to JSON documents.

Each function returns a value of one type, or raises a MetadataError that names the key.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dask_zv.errors import MetadataError


def require(document: Mapping[str, Any], key: str, where: str) -> Any:
    """Return the value of a key that must be there."""
    if key not in document:
        raise MetadataError(f"{where} has no {key!r}; it has {', '.join(sorted(map(str, document))) or 'no keys'}")
    return document[key]


def mapping(value: object, key: str) -> Mapping[str, Any]:
    """Return a JSON object."""
    if not isinstance(value, Mapping):
        raise wrong(value, key, "an object")
    return value


def string(value: object, key: str) -> str:
    """Return a string."""
    if not isinstance(value, str):
        raise wrong(value, key, "a string")
    return value


def known_capabilities(document: Mapping[str, Any], where: str, known: Sequence[str]) -> None:
    """Raise :class:`MetadataError` where a document requires what is not known: what it means can't be guessed."""
    required = strings(document.get("required_capabilities") or [], f"{where}.required_capabilities")
    unknown = [token for token in required if token not in known]
    if unknown:
        raise MetadataError(
            f"{where} requires {', '.join(unknown)} of who reads it, which this release does not know: read it with a newer "
            "one, or with the tool that wrote it"
        )


def strings(value: object, key: str) -> tuple[str, ...]:
    """Return a list of strings."""
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise wrong(value, key, "a list of strings")
    return tuple(value)


def boolean(value: object, key: str) -> bool:
    """Return a boolean."""
    if not isinstance(value, bool):
        raise wrong(value, key, "true or false")
    return value


def integer(value: object, key: str, *, least: int) -> int:
    """Return an integer that is not less than `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise wrong(value, key, f"an integer of at least {least}")
    return value


def number(value: object, key: str) -> float:
    """Return a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong(value, key, "a number")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise wrong(value, key, "finite")
    return found


def floats(value: object, key: str, n: int, *, positive: bool = False) -> tuple[float, ...]:
    """Return a list of `n` finite numbers."""
    if not isinstance(value, list | tuple) or len(value) != n:
        raise wrong(value, key, f"a list of {n} numbers, one per axis")
    found = tuple(number(item, key) for item in value)
    if positive and min(found) <= 0:
        raise wrong(value, key, "positive")
    return found


def wrong(value: object, key: str, expected: str) -> MetadataError:
    """Return the error for a value that isn't what is expected of its key."""
    try:
        shown = repr(value)
    except ValueError:  # an integer of more digits than Python prints
        shown = f"a huge {type(value).__name__}"
    return MetadataError(f"{key} must be {expected}, not {shown[:120]}")
