"""Decoded positions and row orders of chunks, kept for a while per process.

The columns x, y and z of a chunk are one blob: whoever asks for them one after the other, or from several threads at once,
should cause one read.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

V = TypeVar("V")


class SharedCache(Generic[V]):
    """A cache bounded by bytes, in which a value that is being made is waited for, not made again.

    Parameters
    ----------
    limit : int
        Bytes to keep.
    size : function
        Bytes of one value.
    """

    def __init__(self, limit: int, size: Callable[[V], int]) -> None:
        self._limit = limit
        self._size = size
        self._values: OrderedDict[Hashable, V] = OrderedDict()
        self._pending: dict[Hashable, Future[V]] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def get_many(self, keys: Sequence[Hashable], make: Callable[[list[int]], list[V]]) -> list[V]:
        """Return the values of `keys`; `make` is called once with the positions of those that nobody has or makes."""
        out: dict[int, V] = {}
        waiting: dict[int, Future[V]] = {}
        mine: dict[int, Future[V]] = {}
        with self._lock:
            for i, key in enumerate(keys):
                if key in self._values:
                    self._values.move_to_end(key)
                    out[i] = self._values[key]
                elif key in self._pending:
                    waiting[i] = self._pending[key]
                else:
                    mine[i] = self._pending[key] = Future()
        if mine:
            try:
                made = make(list(mine))
            except BaseException as error:
                with self._lock:
                    for i in mine:
                        del self._pending[keys[i]]
                for future in mine.values():
                    future.set_exception(error)
                raise
            with self._lock:
                for (i, _), value in zip(mine.items(), made, strict=True):
                    out[i] = value
                    del self._pending[keys[i]]
                    self._keep(keys[i], value)
            for (_, future), value in zip(mine.items(), made, strict=True):
                future.set_result(value)
        for i, future in waiting.items():
            out[i] = future.result()
        return [out[i] for i in range(len(keys))]

    def _keep(self, key: Hashable, value: V) -> None:
        self._values[key] = value
        self._bytes += self._size(value)
        while self._bytes > self._limit and len(self._values) > 1:
            _, old = self._values.popitem(last=False)
            self._bytes -= self._size(old)
