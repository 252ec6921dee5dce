"""A moment's view of some objects, fetched at once: steps that each look at a few documents wait for the store once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

from dask_zv.storage.local import LocalObjects
from dask_zv.storage.objects import BytesLike, Objects, Request


class Snapshot:
    """The objects of a store, some of which are answered from memory; what is put through it is remembered, too.

    Everything else goes to the store.
    """

    def __init__(self, objects: Objects, keys: Iterable[str]) -> None:
        self._objects = objects
        wanted = list(dict.fromkeys(keys))
        self._held: dict[str, bytes | None] = dict(zip(wanted, objects.get_many([(key, None) for key in wanted]), strict=True))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objects, name)

    def get(self, key: str, byte_range: tuple[int, int] | None = None) -> bytes | None:
        if byte_range is None and key in self._held:
            return self._held[key]
        return self._objects.get(key, byte_range)

    def get_many(self, requests: Sequence[Request]) -> list[bytes | None]:
        missing = [r for r in requests if r[1] is not None or r[0] not in self._held]
        found = iter(self._objects.get_many(missing) if missing else [])
        return [self._held[key] if span is None and key in self._held else next(found) for key, span in requests]

    def put(self, key: str, data: BytesLike) -> None:
        self._objects.put(key, data)
        self._held[key] = bytes(data)

    def put_if_absent(self, key: str, data: BytesLike) -> bool | None:
        made = self._objects.put_if_absent(key, data)
        self._held.pop(key, None)  # another's, where it was not made
        return made

    def put_many(self, sequences: Iterable[Sequence[tuple[str, BytesLike]]]) -> list[list[int]]:
        listed = [list(s) for s in sequences]
        stamps = self._objects.put_many(listed)
        self._held.update((key, bytes(data)) for s in listed for key, data in s)
        return stamps

    def put_all(self, items: Iterable[tuple[str, BytesLike]]) -> list[int]:
        listed = list(items)
        stamps = self._objects.put_all(listed)
        self._held.update((key, bytes(data)) for key, data in listed)
        return stamps

    def put_identified(self, items: Iterable[tuple[str, BytesLike]]) -> list[str]:
        listed = list(items)
        identities = self._objects.put_identified(listed)
        self._held.update((key, bytes(data)) for key, data in listed)
        return identities

    def delete(self, key: str) -> None:
        self._held.pop(key, None)
        self._objects.delete(key)

    def delete_many(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._held.pop(key, None)
        self._objects.delete_many(keys)

    def delete_prefix(self, prefix: str) -> None:
        for key in [k for k in self._held if k == prefix or k.startswith(f"{prefix}/") or not prefix]:
            del self._held[key]
        self._objects.delete_prefix(prefix)


def snapshot(objects: Objects, keys: Iterable[str]) -> Objects:
    """Return `objects` with some of them fetched now, all at once."""
    return cast(Objects, Snapshot(objects, keys))


def together(objects: Objects, *calls: Callable[[], Any]) -> list[Any]:
    """Return the results of calls that each wait for the store, made at the same time where waiting is what they do."""
    inner = objects._objects if isinstance(objects, Snapshot) else objects
    if isinstance(inner, LocalObjects) or len(calls) < 2:
        return [call() for call in calls]
    with ThreadPoolExecutor(len(calls)) as pool:
        return [f.result() for f in [pool.submit(call) for call in calls]]
