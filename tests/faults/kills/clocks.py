"""Clocks that are wrong: of a machine that writes, and of the server that says when a file changed."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

from dask_zv.storage import local

HOUR = 3600.0


def set_time_of_day(hours: float) -> None:
    """Let this process believe that it is so many hours later."""
    true, true_ns = time.time, time.time_ns
    time.time = lambda: true() + hours * HOUR
    time.time_ns = lambda: true_ns() + int(hours * HOUR * 1e9)


class FileServer:
    """The module ``os`` of the module of local stores, with a clock of the file system's own: wrong by these hours, in turn."""

    def __init__(self, hours: Sequence[float]) -> None:
        self._hours: Iterator[float] = itertools.cycle(hours)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def replace(self, source: str, target: str) -> None:
        at = time.time_ns() + int(next(self._hours) * HOUR * 1e9)
        os.utime(source, ns=(at, at))
        os.replace(source, target)  # noqa: PTH105 - in the place of that very function

    def installed(self, monkeypatch: Any) -> None:
        """Let local stores of this process go by this clock, as long as the patch holds."""
        monkeypatch.setattr(local, "os", self)
