"""Counting the requests that had to be made again, for whoever runs them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

_LOG = logging.getLogger("dask_zv.storage")


@dataclass(slots=True)
class Retries:
    """How often the store was asked again."""

    count: int = 0


# the loop that makes the requests runs each in a copy of the caller's context: the copies share this object
_COUNTER: ContextVar[Retries | None] = ContextVar("dask_zv_retries", default=None)


@contextmanager
def counted_retries() -> Iterator[Retries]:
    """Count the retries of the requests that are made inside."""
    retries = Retries()
    token = _COUNTER.set(retries)
    try:
        yield retries
    finally:
        _COUNTER.reset(token)


def count_retry(why: str) -> None:
    """Note that a request failed and will be made again; `why` is free of secrets."""
    _LOG.warning("asking again: %s", why)
    counter = _COUNTER.get()
    if counter is not None:
        counter.count += 1
