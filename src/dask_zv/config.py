"""Settings: block sizes, requests, timeouts, shares of memory.

They are the section ``dask_zv`` of Dask's configuration, so they come from where Dask's own come from: its YAML files
(``dask_zv: {max-graph-tasks: 20_000}``), its environment variables (``DASK_DASK_ZV__MAX_GRAPH_TASKS=20000``),
``dask.config.set({"dask_zv.max-graph-tasks": 20_000})``; ``-`` and ``_`` are the same in a name. Sizes may be texts such as
``"64 MiB"``. :func:`override` changes some for a while::

    with dask_zv.config.override(read_block_bytes="8 MiB", request_timeout=20):
        ...

Inside the library a setting is read where it is used, ``settings().read_block_bytes``, never when a module is imported.
A setting holds in the process that reads it: workers have the configuration they were started with.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any

import dask.config
from dask.utils import parse_bytes

from dask_zv.errors import InputError

_SECTIONS = ("dask_zv", "dask-zv")


def _size(default: int | None) -> Any:
    return field(default=default, metadata={"is": "a number of bytes, such as '4 GiB'"})


def _sizes(low: int, high: int) -> Any:
    return field(default=(low, high), metadata={"is": "two numbers of bytes, the least and the most"})


def _count(default: int, what: str) -> Any:
    return field(default=default, metadata={"is": f"a positive number of {what}"})


def _counts(low: int, high: int, what: str) -> Any:
    return field(default=(low, high), metadata={"is": f"two positive numbers of {what}, the least and the most"})


def _seconds(default: float) -> Any:
    return field(default=default, metadata={"is": "a number of seconds above 0"})


def _wait(default: float) -> Any:
    return field(default=default, metadata={"is": "a number of seconds"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings, with their defaults."""

    # ---- requests to a store
    max_requests: int = _count(int(os.environ.get("DASK_ZV_MAX_REQUESTS", "128")), "requests")
    """In flight per store and process (also the environment variable ``DASK_ZV_MAX_REQUESTS``)."""
    request_timeout: float = _seconds(float(os.environ.get("DASK_ZV_TIMEOUT", "300")))
    """That a store has for one object, its own retries included (also the environment variable ``DASK_ZV_TIMEOUT``)."""
    request_attempts: int = _count(4, "attempts")
    request_backoff: float = _wait(0.1)
    """Wait after the first failure; it doubles with each."""
    request_patience: float = _seconds(60.0)
    """Nothing is tried again after it: by then the store has made retries of its own."""
    reread_wait: float = _wait(0.005)
    """Before a reader looks again at an object that is being replaced; it doubles with each look."""
    lock_lifetime: float = _seconds(60.0)
    """That an owner may leave its lock as it is before it has lost it."""
    lock_patience: float = _seconds(600.0)
    """That one waits for another writer's lock."""
    unpacked_bytes: int = _size(64 << 20)
    """May come of a compressed frame however short it is; more only in proportion to its length."""

    # ---- packing
    few_chunks: int = _count(4096, "chunks")
    """``shard_chunks="auto"`` packs a local store of more than these."""
    shard_chunks: int = _count(256, "chunks")
    """In a shard, where they are packed unasked."""
    shard_bytes: int = _size(64 << 20)
    """A shard packed unasked is made smaller where it would hold more."""

    # ---- writing
    write_block_bytes: tuple[int, int] = _sizes(1 << 20, 32 << 20)
    """Of a block of chunks that one task stores; an eighth of the input in between."""
    write_block_limit: int = _size(256 << 20)
    """No block is larger, but for one of a single shard."""
    write_block_least: int = _size(4 << 20)
    """Smaller blocks help no worker: there the interpreter is what takes the memory, and more tasks take longer."""
    write_block_chunks: int = _count(1024, "chunks")
    write_block_most_chunks: int = _count(1 << 15, "chunks")
    """Of a block, where there would be too many blocks otherwise."""
    write_edges: int = _count(3_500, "edges")
    """Edges of the graph between splitting and storing tasks that are aimed at."""
    write_groups: int = _count(32, "tasks")
    """Splitting tasks that there are at least, if there are so many partitions: enough for as many threads."""
    partition_bytes: int = _size(32 << 20)
    """Of a piece of input that the client holds."""
    spill_bytes: int = _size(1 << 30)
    """Input of more goes through files, where the memory of the workers is unknown."""
    spill_share: int = _count(4, "parts")
    """Input of more than this part of the workers' memory is not kept in it between two tasks."""
    block_share: int = _count(16, "parts")
    """A block takes this part of a task's memory at the most, so that tasks are many enough to share."""
    keep_input: int | None = _size(None)
    """Lazy input that is kept between the two looks at it, 0 for none. Where it is None, half of the workers' memory; on a
    local scheduler a quarter of what the machine has free."""
    link_pairs: int = _count(3_500, "pairs")
    """Of pieces of links and of places that are joined directly."""
    objects_per_task: int = _count(1 << 18, "objects")
    """Whose manifests one task writes."""
    manifest_edges: int = _count(20_000, "edges")
    journal_bytes: int = _size(64 << 20)
    """Writes of so much keep a journal unasked: what a crash costs is more than the journal."""
    max_graph_tasks: int = _count(50_000, "tasks")
    """A write whose graph would have more runs in waves."""
    workers_timeout: float = _seconds(30)
    """That a call waits where the cluster has no worker at all."""
    end_timeout: float = _seconds(30.0)
    """That a failed call waits for its tasks to end."""
    batch_block_bytes: int = _size(64 << 20)
    """Of a block of a Group's batch."""
    batch_block_chunks: tuple[int, int] = _counts(256, 2048, "chunks")
    batch_delayed: int = _count(5_000, "blobs")
    """A batch of more Delayed blobs, a task each, gets a warning."""

    # ---- reading
    read_block_bytes: int = _size(32 << 20)
    """Of the chunks that one task reads."""
    read_block_chunks: int = _count(512, "chunks")
    read_packed_block_chunks: int = _count(4096, "chunks")
    """Of packed stores: a block is a run of chunks in their order, and a short one would take a little of many shards."""
    pass_chunks: int = _count(1024, "chunks")
    """That a task takes which looks at every chunk of a level once, such as those of convert and refresh."""
    plot_rows: int = _count(500_000, "rows")
    """That a picture reads at a time."""
    plot_least_rows: int = _count(100_000, "rows")
    """That a picture shows in full, whatever its size."""


DEFAULTS = Settings()
_FIELDS = {f.name: f for f in fields(Settings)}


def settings() -> Settings:
    """Return the settings as they are now."""
    for section in _SECTIONS:
        given = dask.config.config.get(section)
        if given:
            items = tuple((name, tuple(v) if isinstance(v, list) else v) for name, v in given.items())
            try:
                return _settings(items)
            except TypeError:  # something that can't be hashed: refused by its name
                return _settings.__wrapped__(items)
    return DEFAULTS


@lru_cache(maxsize=64)
def _settings(given: tuple[tuple[str, Any], ...]) -> Settings:
    return Settings(**dict(_checked(*item) for item in given))


def _checked(name: str, value: Any) -> tuple[str, Any]:
    """Return a setting's field and value; bytes may be text."""
    known = _FIELDS.get(name.replace("-", "_"))
    if known is None:
        raise InputError(f"there is no setting dask_zv.{name}; there are {', '.join(n.replace('_', '-') for n in _FIELDS)}")
    default, form = known.default, known.metadata["is"]
    least: float = 5e-324 if "above 0" in form else 1 if "positive" in form else 0
    try:
        if value is None and default is None:
            return known.name, None
        parts = value if isinstance(default, tuple) else (value,)
        found = tuple(parse_bytes(v) if "bytes" in form and isinstance(v, str | float) else v for v in parts)
        kinds = int | float if "seconds" in form else int
        if len(found) == (2 if isinstance(default, tuple) else 1) and all(
            isinstance(v, kinds) and not isinstance(v, bool) and v >= least for v in found
        ):
            return known.name, found if isinstance(default, tuple) else found[0]
    except (TypeError, ValueError, OverflowError):
        pass
    raise InputError(f"the setting dask_zv.{known.name.replace('_', '-')} is {form}, not {value!r:.80}")


@contextmanager
def override(**values: Any) -> Iterator[None]:
    """Use other settings for a while, in all threads of this process.

    Parameters
    ----------
    **values
        Fields of :class:`Settings`.

    Raises
    ------
    InputError
        There is no such setting, or it can't have such a value.
    """
    checked: Mapping[str, Any] = dict(_checked(name, value) for name, value in values.items())
    with dask.config.set({f"dask_zv.{name}": value for name, value in checked.items()}):
        yield
