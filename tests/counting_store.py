"""A zarr store that records what it is asked for, so that "reads only what it must" is an assertion."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any, ClassVar, Self

from zarr.abc.store import Store
from zarr.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import WrapperStore

_ARRAY = r"(?P<node>(?:.*/)?(?P<array>vertices|vertex_fragments|vertex_attributes/[^/]+))"
_BLOB = re.compile(_ARRAY + r"/(?P<chunk>-?\d+(?:\.-?\d+)*)/")
_CELL = re.compile(_ARRAY + r"/c/(?P<cell>\d+(?:/\d+)*)")


class RecordingStore(WrapperStore[Store]):
    """Remembers the order in which objects were stored: the class's list of all of them."""

    order: ClassVar[list[str]] = []

    async def set(self, key: str, value: Any) -> None:
        self.order.append(key)
        await self._store.set(key, value)


class CountingStore(WrapperStore[Store]):
    """Wraps a store; every copy that is opened for another mode writes into the same log.

    Attributes
    ----------
    log : list of str
        Keys in the order they were asked for.
    listed : list of str
        Prefixes that were listed.
    """

    def __init__(self, store: Store, log: list[str] | None = None, listed: list[str] | None = None) -> None:
        super().__init__(store)
        self.log: list[str] = [] if log is None else log
        self.listed: list[str] = [] if listed is None else listed

    def with_read_only(self, read_only: bool = False) -> Self:
        return type(self)(self._store.with_read_only(read_only), self.log, self.listed)

    async def get(self, key: str, *args: Any, **kwargs: Any) -> Any:
        self.log.append(key)
        return await super().get(key, *args, **kwargs)

    async def list_dir(self, prefix: str) -> Any:
        self.listed.append(prefix)
        async for name in super().list_dir(prefix):
            yield name

    def forget(self) -> None:
        """Empty the log."""
        self.log.clear()
        self.listed.clear()

    @property
    def blobs(self) -> Counter[tuple[str, str]]:
        """Requests of blobs by (array, chunk key); of cells of layout ``grid``, where each is an object of its own."""
        origins: dict[str, list[int]] = {}
        out: Counter[tuple[str, str]] = Counter()
        for key in self.log:
            if m := _BLOB.match(key):
                out[m["array"], m["chunk"]] += 1
            elif m := _CELL.fullmatch(key):
                cell = [int(i) for i in m["cell"].split("/")]
                if m["node"] not in origins:
                    origins[m["node"]] = self._origin(m["node"], len(cell))
                out[m["array"], ".".join(str(i + o) for i, o in zip(cell, origins[m["node"]], strict=True))] += 1
        return out

    def _origin(self, node: str, rank: int) -> list[int]:
        found = sync(self._store.get(f"{node}/zarr.json", default_buffer_prototype()))
        assert found is not None
        origin: list[int] = json.loads(found.to_bytes())["attributes"].get("chunk_grid_origin", [0] * rank)
        return origin

    def chunks(self, array: str = "vertices") -> set[str]:
        """Return the keys of the chunks of one array that were asked for."""
        return {chunk for name, chunk in self.blobs if name == array}
