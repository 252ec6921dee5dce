"""Settings: block sizes, requests, timeouts, shares of memory.

They are the section ``dask_zv`` of Dask's configuration, and are set in the same ways: YAML files
(``dask_zv: {max-graph-tasks: 20_000}``), environment variables (``DASK_DASK_ZV__MAX_GRAPH_TASKS=20000``),
``dask.config.set({"dask_zv.max-graph-tasks": 20_000})``; ``-`` and ``_`` are equivalent in names. Sizes may be strings such as
``"64 MiB"``. :func:`override` changes some for a while::

    with dask_zv.config.override(read_block_bytes="8 MiB", request_timeout=20):
        ...

The library reads a setting when it uses it, ``settings().read_block_bytes``, never when a module is imported.
A setting applies to the process that reads it: workers have the configuration that they were started with.
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
    """All settings, with their defaults. Sizes are bytes, times are seconds."""

    # ---- requests to a store
    max_requests: int = _count(int(os.environ.get("DASK_ZV_MAX_REQUESTS", "128")), "requests")
    """Most requests in flight per store and process (also the environment variable ``DASK_ZV_MAX_REQUESTS``)."""
    request_timeout: float = _seconds(float(os.environ.get("DASK_ZV_TIMEOUT", "300")))
    """Time for the transfer of one object, retries included (also the environment variable ``DASK_ZV_TIMEOUT``)."""
    request_attempts: int = _count(4, "attempts")
    request_backoff: float = _wait(0.1)
    """Pause after the first failure; it doubles with each further failure."""
    request_patience: float = _seconds(60.0)
    """No request is retried after this time: by then the storage library has made its own retries."""
    reread_wait: float = _wait(0.005)
    """Pause before a reader rereads an object that is being replaced; it doubles with each attempt."""
    lock_lifetime: float = _seconds(60.0)
    """Time after which a lock that its owner does not renew expires."""
    lock_patience: float = _seconds(600.0)
    """Longest wait for the lock of another writer."""
    unpacked_bytes: int = _size(64 << 20)
    """Bytes that any compressed frame may unpack to; larger results are limited in proportion to the length of the frame."""

    # ---- packing
    few_chunks: int = _count(4096, "chunks")
    """``shard_chunks="auto"`` packs a local level with more chunks than this into shards."""
    shard_chunks: int = _count(256, "chunks")
    """Chunks per shard with ``shard_chunks="auto"``."""
    shard_bytes: int = _size(64 << 20)
    """Largest shard that ``shard_chunks="auto"`` makes; where chunks are large, a shard holds fewer of them."""

    # ---- writing
    write_block_bytes: tuple[int, int] = _sizes(1 << 20, 32 << 20)
    """Smallest and largest target size of the block of chunks that one task stores; an eighth of the input in between."""
    write_block_limit: int = _size(256 << 20)
    """Limit of the size of a block, except for a block of a single shard."""
    write_block_least: int = _size(4 << 20)
    """Lower limit of the size of a block, however little memory workers have: smaller blocks cost time and save no memory."""
    write_block_chunks: int = _count(1024, "chunks")
    write_block_most_chunks: int = _count(1 << 15, "chunks")
    """Most chunks in a block, if there would be too many blocks otherwise."""
    write_edges: int = _count(3_500, "edges")
    """Target number of graph edges between splitting and storing tasks."""
    write_groups: int = _count(32, "tasks")
    """Fewest splitting tasks, if there are as many partitions: enough for as many threads."""
    partition_bytes: int = _size(32 << 20)
    """Size of the partitions that input in the client's memory is divided into."""
    spill_bytes: int = _size(1 << 30)
    """Larger input goes through files, if the memory of the workers is unknown."""
    spill_share: int = _count(4, "parts")
    """Input larger than the workers' memory divided by this number goes through files."""
    block_share: int = _count(16, "parts")
    """A block has at most the memory of a task divided by this number, so that there are enough tasks to share."""
    keep_input: int | None = _size(None)
    """Largest lazy input that is kept in memory after the scan, so that it is computed once; 0 keeps none. None: half of the
    workers' memory; on a local scheduler a quarter of the free memory of the machine."""
    link_pairs: int = _count(3_500, "pairs")
    """Most pairs of links and vertex partitions that are joined directly."""
    objects_per_task: int = _count(1 << 18, "objects")
    """Objects whose manifests one task writes."""
    manifest_edges: int = _count(20_000, "edges")
    journal_bytes: int = _size(64 << 20)
    """Writes of this size or more can be resumed without ``resume=True``: they keep receipts of finished blocks."""
    max_graph_tasks: int = _count(50_000, "tasks")
    """Most tasks in a graph; a larger write runs as several graphs, one after the other."""
    workers_timeout: float = _seconds(30)
    """Longest wait for the first worker of a cluster."""
    end_timeout: float = _seconds(30.0)
    """Longest wait of a failed call for its tasks to end."""
    batch_block_bytes: int = _size(64 << 20)
    """Size of the blocks of a Group's batch."""
    batch_block_chunks: tuple[int, int] = _counts(256, 2048, "chunks")
    batch_delayed: int = _count(5_000, "blobs")
    """A batch with more Delayed blobs, each of which is a task, gives a warning."""

    # ---- reading
    read_block_bytes: int = _size(32 << 20)
    """Size of the chunks that one task reads."""
    read_block_chunks: int = _count(512, "chunks")
    read_packed_block_chunks: int = _count(4096, "chunks")
    """Chunks that one task reads from a store with shards: with fewer, each task would read small parts of many shards."""
    read_step_bytes: int = _size(3 << 20)
    """Size of what a task of :meth:`Level.read` fetches and decodes at a time, where nobody waits for a network."""
    pass_chunks: int = _count(1024, "chunks")
    """Chunks per task where every chunk of a level is read once, as in convert and refresh."""
    plot_rows: int = _count(500_000, "rows")
    """Rows that a picture reads at a time."""
    plot_least_rows: int = _count(100_000, "rows")
    """Rows that a picture draws one by one, whatever its size."""


DEFAULTS = Settings()
_FIELDS = {f.name: f for f in fields(Settings)}


def settings() -> Settings:
    """Return the current settings."""
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
    """Return the field and the value of a setting; a size may be a string."""
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
        The setting does not exist, or the value is invalid.
    """
    checked: Mapping[str, Any] = dict(_checked(name, value) for name, value in values.items())
    with dask.config.set({f"dask_zv.{name}": value for name, value in checked.items()}):
        yield
