"""A batch of writes: what is queued, how it is cut into blocks, and the graph that comes of it."""

from __future__ import annotations

import dataclasses
import time
import uuid
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any

import dask.threaded
from dask.callbacks import Callback
from dask.delayed import Delayed
from dask.local import get_sync

from dask_zv.config import settings
from dask_zv.errors import InputError, PlanError, ZVWarning
from dask_zv.format.documents import to_json
from dask_zv.format.keys import check_chunk_key, join
from dask_zv.graph.builder import GraphBuilder, is_future, is_lazy
from dask_zv.graph.report import Report, finish_write
from dask_zv.graph.run import active_client, check_reachable, check_writable, compute_one, current_scheduler, hold_on_workers
from dask_zv.graph.tasks import build_write_graph, run_block_and_commit
from dask_zv.storage.icechunk.session import undone_on_failure
from dask_zv.storage.layout import layout_for
from dask_zv.storage.nodes import as_bytes, check_array_name
from dask_zv.storage.objects import Address, Objects, place_url
from dask_zv.storage.specs import BlockSpec, CommitSpec, Place, Queued


class WriteBatch:
    """Writes that become one Dask graph.

    Made by :meth:`Group.batched_writes`; write through the group, or whole blocks through :meth:`write_blobs`.

    Attributes
    ----------
    report : Report or None
        What the batch did, once it has run.
    """

    def __init__(
        self,
        place: Place,
        objects: Objects,
        *,
        shards: int | Sequence[int] | None,
        block_chunks: int | None,
        progress: bool | None,
    ) -> None:
        sequence = layout_for(place.layout).shards_have_extents and isinstance(shards, tuple | list)
        if shards is not None and not sequence and (type(shards) is not int or shards < 1):
            raise InputError(f"shards is the number of chunks per shard, a positive int, not {shards!r}")
        if block_chunks is not None and block_chunks < 1:
            raise InputError(f"block_chunks must be positive, not {block_chunks}")
        self._place = place
        self._objects = objects
        self._shards = shards
        self._block_chunks = block_chunks
        self._progress = progress
        self._eager: dict[Address, Any] = {}
        self._lazy: dict[Address, Any] = {}
        self._blocks: list[tuple[Any, tuple[Address, ...]]] = []
        self._declared: set[Address] = set()
        self._meta: dict[str, dict[str, Any]] = {}
        self._warned = False
        self._names: set[str] = set()
        """Arrays and chunk keys that were checked."""
        self._delayed: Delayed | None = None
        self.report: Report | None = None

    def __repr__(self) -> str:
        queued = len(self._eager) + len(self._lazy)
        return (
            f"<WriteBatch on {place_url(self._place.handle.url, self._place.prefix)}: {queued:,} blobs and "
            f"{len(self._blocks):,} whole blocks queued>"
        )

    # ------------------------------------------------------------------------------------------ queueing

    def write_bytes(self, array: str, chunk_key: str, data: Any) -> None:
        """Queue one blob: bytes-like, a C-contiguous array, or a Delayed or Future of these.

        Raises
        ------
        PlanError
            The key was declared by a lazy producer before, or `data` is lazy and the key is queued already.
        """
        self._check_open()
        address = array, chunk_key
        if array not in self._names or chunk_key not in self._names:  # most names come again and again
            self._check_address(array, chunk_key)
        if type(data) is not bytes and is_lazy(data):
            self._declare([address])
            self._lazy[address] = data
            if len(self._lazy) > settings().batch_delayed and not self._warned:
                self._warned = True
                warnings.warn(
                    f"more than {settings().batch_delayed:,} blobs are Delayed, each of which is a task: let one Delayed "
                    "yield a whole block and queue it with batch.write_blobs(delayed, keys=...)",
                    ZVWarning,
                    stacklevel=3,
                )
            return
        if address in self._declared:
            raise self._overlap(address)
        self._eager[address] = data if type(data) is bytes else as_bytes(data, join(self._place.prefix, array), chunk_key)

    def _check_address(self, array: str, chunk_key: str) -> None:
        check_array_name(array)
        check_chunk_key(chunk_key)
        layout_for(self._place.layout).check_key(array, chunk_key)
        self._names |= {array, chunk_key}

    def write_blobs(self, delayed: Any, keys: Iterable[tuple[str, str]]) -> None:
        """Queue a whole block: one Delayed (or Future) that yields ``{(array, chunk_key): bytes}``.

        Parameters
        ----------
        delayed : Delayed or Future
            Evaluated inside the task that stores, so that the bytes stay on the worker that makes them.
        keys : iterable of (array, chunk_key)
            Exactly the keys that it yields.

        Raises
        ------
        PlanError
            A key is queued already, or declared twice.
        """
        self._check_open()
        if not is_lazy(delayed):
            raise InputError(f"write_blobs takes a Delayed or a Future, not {type(delayed).__name__}")
        addresses = tuple((a, k) for a, k in keys)
        if not {name for address in addresses for name in address} <= self._names:
            for array, key in addresses:
                self._check_address(array, key)
        if not addresses:
            raise InputError("write_blobs needs the keys that the block yields: keys=[(array, chunk_key), ...]")
        self._declare(addresses)
        self._blocks.append((delayed, addresses))

    def write_array_meta(self, array: str, meta: Mapping[str, Any]) -> None:
        """Queue attributes, merged into the array's node by the commit."""
        self._check_open()
        check_array_name(array)
        values = to_json(meta, array)
        self._meta.setdefault(array, {}).update(values)

    def addresses(self) -> set[Address]:
        """Return the (array, chunk key) of everything queued."""
        return self._declared | set(self._eager)

    def _check_open(self) -> None:
        if self._delayed is not None:
            raise PlanError(
                "the batch is already planned and would not include this write: write everything before to_delayed()",
                store=self._place.handle.url,
            )

    def _declare(self, addresses: Iterable[Address]) -> None:
        listed = list(addresses)
        new = set(listed)
        if len(new) < len(listed) or not new.isdisjoint(self._declared) or not self._eager.keys().isdisjoint(new):
            seen: set[Address] = set()
            for address in listed:
                if address in self._declared or address in seen or address in self._eager:
                    raise self._overlap(address)
                seen.add(address)
        self._declared |= new

    def _overlap(self, address: Address) -> PlanError:
        return PlanError(
            "two tasks of one batch would write this chunk: only one block may declare a key",
            store=self._place.handle.url, array=join(self._place.prefix, address[0]), chunk=address[1],
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------ planning

    def to_delayed(self) -> Delayed:
        """Return the batch as one Delayed, whose result is the report; it joins larger ``dask.compute`` calls.

        Data queued eagerly is sent to the workers now where a distributed client is active. On an Icechunk session its result
        is passed to :meth:`finish`.
        """
        if self._delayed is None:
            builder = GraphBuilder(watched=bool(self._progress), store=self._place.handle)
            blocks, spec = self._plan(builder.run)
            held = list(zip((block for block, _ in blocks), self._payloads([p for _, p in blocks]), strict=True))
            self._delayed = build_write_graph(builder, held, spec)
        return self._delayed

    def finish(self, result: Report) -> Report:
        """Take what the Delayed computed to: in an Icechunk session, its changes are merged into the session.

        On other stores the report is returned as it is.

        Raises
        ------
        PlanError
            The session was committed after the batch was planned, or this process does not hold it. Nothing is merged.
        """
        self.report = finish_write(self._place.handle, result)
        return self.report

    def run(self) -> Report:
        """Run the batch on the active scheduler."""
        started = time.perf_counter()
        handle = self._place.handle
        if self._is_small():
            check_reachable(handle)
            planned = partial(run_block_and_commit, *self._plan(uuid.uuid4().hex))
            with ThreadPoolExecutor(1) as own:  # whose end is waited for: an interrupt cuts no commit in half
                report = own.submit(copy_context().run, planned).result()
        else:
            check_writable(handle)
            with undone_on_failure(handle):
                report = finish_write(handle, compute_one(self.to_delayed(), progress=self._progress))
        self.report = dataclasses.replace(report, seconds=time.perf_counter() - started)
        return self.report

    def _is_small(self) -> bool:
        """Return True where a graph would have one block, of data that is here, and no cluster has other plans for it."""
        least, _ = settings().batch_block_chunks
        return (
            self._delayed is None
            and not self._lazy and not self._blocks and not self._progress and not self._place.handle.is_session
            and len(self._eager) <= min(self._block_chunks or least, least)
            and sum(map(len, self._eager.values())) <= settings().batch_block_bytes
            and active_client() is None and current_scheduler() in (None, dask.threaded.get, get_sync) and not Callback.active
        )  # fmt: skip

    def _plan(self, run: str) -> tuple[list[tuple[BlockSpec, Any]], CommitSpec]:
        """Return how each block is stored, with its payload, and what the commit does."""
        queued = self._eager | self._lazy
        sizes = {address: len(self._eager.get(address, b"")) for address in queued}
        whole = [addresses for _, addresses in self._blocks]
        plan = layout_for(self._place.layout).plan(
            self._objects, self._place, Queued(sizes, whole, self._meta, self._shards, self._block_chunks, run)
        )
        pieces = [[(a, k, queued[a, k]) for a, k in block] for block in plan.single]
        return list(zip(plan.blocks, [*pieces, *(delayed for delayed, _ in self._blocks)], strict=True)), plan.commit

    def _payloads(self, pieces: list[Any]) -> list[Any]:
        """Return what stands for each block's data in its task: futures of what the client holds, or the data itself."""
        eager = [
            i for i, piece in enumerate(pieces)
            if isinstance(piece, list) and not (self._lazy and any(is_lazy(d) for *_, d in piece))
        ]  # fmt: skip
        payloads: list[Any] = list(pieces)
        for i, held in zip(eager, hold_on_workers([pieces[i] for i in eager]), strict=True):
            payloads[i] = held if is_future(held) else _Held(held)
        return payloads


class _Held(list[Any]):
    """Eager data of one block: a list that the graph builder takes as it is, without looking into it."""
