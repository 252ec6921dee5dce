"""The store that zarr reads through where we leave an array to it: its requests are retried, and fail, as all of ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Self

from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import ByteRequest, Store
from zarr.storage import WrapperStore

Get = Callable[[str, BufferPrototype, ByteRequest | None], Awaitable[Buffer | None]]


class ZarrReads(WrapperStore[Store]):
    """A zarr store with another `get`.

    Zarr's own stores raise what their clients raise: that names no store, may quote a secret, and was not tried again.

    Parameters
    ----------
    store : zarr.abc.store.Store
        Asked for all but contents.
    get : callable
        Returns the contents of an object, or None where it is absent.
    """

    def __init__(self, store: Store, get: Get) -> None:
        super().__init__(store)
        self._read = get

    def _with_store(self, store: Store) -> Self:
        return type(self)(store, self._read)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        return await self._read(key, prototype, byte_range)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return list(await asyncio.gather(*(self._read(key, prototype, wanted) for key, wanted in key_ranges)))

    async def _get_many(
        self, requests: Iterable[tuple[str, BufferPrototype, ByteRequest | None]]
    ) -> AsyncGenerator[tuple[str, Buffer | None], None]:
        for key, prototype, wanted in requests:
            yield key, await self._read(key, prototype, wanted)
