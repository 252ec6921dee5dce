"""Names inside a store: chunk keys, and what an array, group or chunk may be called."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import InvalidNameError

_SPATIAL = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.-?(0|[1-9][0-9]{0,17}))*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")
LONGEST = 255
"""Bytes of a name, where file systems end."""
DOCUMENT = "zarr.json"
SHARD_PREFIX = "__shard_"
_SHARD = re.compile(re.escape(SHARD_PREFIX) + r"[0-9]{6,}")


def check_name(name: str, what: str = "name") -> str:
    """Return `name` if it may be the path of a node below a group, else raise."""
    if not isinstance(name, str):
        raise InvalidNameError(f"{what} must be a string, not {type(name).__name__}")
    return _check_segments(name, what)


@lru_cache(maxsize=4096)  # many blobs, few arrays
def _check_segments(name: str, what: str) -> str:
    segments = name.split("/")
    if "" in segments:
        raise InvalidNameError(f"{what} {name!r} is empty, absolute, or has an empty segment")
    if any(s in (".", "..") for s in segments):
        raise InvalidNameError(f"{what} {name!r} would lead out of the store")
    if any(len(s.encode(errors="replace")) > LONGEST for s in segments):
        raise InvalidNameError(f"{what} {name!r:.60}... is longer than the {LONGEST} bytes that file systems take")
    if _CONTROL.search(name):
        raise InvalidNameError(f"{what} {name!r} has a backslash or a control character")
    if any(s == DOCUMENT for s in segments):
        raise InvalidNameError(f"{what} {name!r} collides with Zarr's own {DOCUMENT} documents")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InvalidNameError(f"{what} {name!r} can't be encoded as UTF-8") from error
    return name


def check_chunk_key(key: str) -> str:
    """Return `key` if it may address one blob of an array, else raise :class:`InvalidNameError`."""
    if isinstance(key, str) and _parse(key) is not None:  # type: ignore[redundant-expr]
        return key
    check_name(key, "chunk key")
    if "/" in key:
        raise InvalidNameError(f"chunk key {key!r} has a '/': a key is one name, such as '0.1.2'")
    if key.startswith(SHARD_PREFIX):
        raise InvalidNameError(f"chunk key {key!r}: names starting with {SHARD_PREFIX!r} are for shards")
    return key


def is_name(name: object) -> TypeGuard[str]:
    """Return True if `name` may be the path of a node below a group."""
    try:
        check_name(name)  # type: ignore[arg-type]
    except InvalidNameError:
        return False
    return True


def is_chunk_key(key: object) -> TypeGuard[str]:
    """Return True if `key` may address one blob of an array."""
    try:
        check_chunk_key(key)  # type: ignore[arg-type]
    except InvalidNameError:
        return False
    return True


def is_spatial_key(key: str) -> bool:
    """Return True if `key` is integers joined by dots."""
    return _parse(key) is not None


@lru_cache(maxsize=1 << 14)  # a key comes by several times: in every array, at the plan, in its block
def _parse(key: str) -> tuple[int, ...] | None:
    return tuple(map(int, key.split("."))) if _SPATIAL.fullmatch(key) else None


def parse_key(key: str) -> tuple[int, ...]:
    """Return the integers of a spatial chunk key, ``"-1.0.2"`` as ``(-1, 0, 2)``."""
    coords = _parse(key)
    if coords is None:
        raise InvalidNameError(f"chunk key {key!r} is not integers joined by dots")
    return coords


def keys_to_coords(keys: Sequence[str], rank: int) -> NDArray[np.int64]:
    """Return the coordinates of chunk keys of one rank, which were checked before; shape (n, rank)."""
    # text, not bytes: the fastest way from many short numbers to an array
    coords = np.fromstring(" ".join(keys).replace(".", " "), np.int64, sep=" ") if keys else np.zeros(0, np.int64)
    odd = next((k for k in keys if k.count(".") + 1 != rank), None)
    if odd is not None or len(coords) != rank * len(keys):
        raise InvalidNameError(f"chunk key {odd!r}: keys of rank {rank} are wanted")
    return coords.reshape(len(keys), rank)


def format_key(coords: Iterable[int]) -> str:
    """Return the chunk key of integer coordinates, ``(-1, 0, 2)`` as ``"-1.0.2"``."""
    return ".".join(str(int(c)) for c in coords)


def coords_to_keys(coords: NDArray[np.int64]) -> list[str]:
    """Return the chunk keys of the rows of `coords`, shape (n, K)."""
    return [".".join(map(str, row)) for row in coords.tolist()]


def sort_keys(keys: Iterable[str]) -> list[str]:
    """Sort chunk keys: spatial ones by their integers, the others after them by name."""

    def order(key: str) -> tuple[int, Sequence[int], str]:
        coords = _parse(key)
        return (1, (), key) if coords is None else (0, coords, "")

    return sorted(keys, key=order)


def confined(key: str) -> str:
    """Return `key`, if it names something below the store's root.

    Names are checked where documents are decoded; this is the last check, at the seam to the bytes, for all of them.
    """
    if ".." in key or "\0" in key or key[:1] == "/" or not key.isascii():
        _check(key)
    return key


def _check(key: str) -> None:
    if key.startswith("/") or ".." in key.replace("\\", "/").split("/"):
        raise InvalidNameError(
            f"the key {key!r:.200} leads out of the store: the name that it comes from is damaged, or hostile"
        )
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise InvalidNameError(f"the key {key!r:.200} can't be encoded as UTF-8") from error
    if "\0" in key:
        raise InvalidNameError(f"the key {key!r:.200} has a NUL character")


def join(*parts: str) -> str:
    """Join path segments that may be empty."""
    return "/".join(p for p in parts if p)


def ancestors(path: str) -> list[str]:
    """Return the paths of all nodes above one, from the root on, and its own."""
    parts = path.split("/") if path else []
    return ["/".join(parts[:i]) for i in range(len(parts) + 1)]


def shard_name(number: int) -> str:
    """Return the name of shard `number`, zero-padded to six digits at least."""
    return f"{SHARD_PREFIX}{number:06d}"


def is_shard_name(name: str) -> bool:
    """Return True if a child of an array's group is a shard."""
    return name.startswith(SHARD_PREFIX)


def shard_id(name: str) -> int | None:
    """Return the number in a shard's name, None where it isn't one that writers give."""
    return int(name[len(SHARD_PREFIX) :]) if _SHARD.fullmatch(name) else None
