"""A batch of writes: what is queued, how it is cut into blocks, and the graph that comes of it."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from dask.delayed import Delayed

from dask_zv.config import settings
from dask_zv.errors import InputError, PlanError, ZVWarning
from dask_zv.format.documents import to_json
from dask_zv.format.keys import check_chunk_key, is_spatial_key, join, parse_key
from dask_zv.format.shards import shard_id, shard_name
from dask_zv.graph.builder import GraphBuilder, build_write_graph, is_future
from dask_zv.graph.forks import check_writable, finish_write, undone_on_failure, write_in_forks
from dask_zv.graph.receipts import Report
from dask_zv.graph.run import compute_one, hold_on_workers
from dask_zv.spatial.morton import morton_codes, morton_order
from dask_zv.storage.grid.plan import check_owners, check_spatial, cut_units, plan_grids, replaces, without_grid
from dask_zv.storage.grid.read import GridArrays
from dask_zv.storage.nodes import as_bytes, check_array_name, load_catalog
from dask_zv.storage.objects import Address, Objects, place_url
from dask_zv.storage.per_chunk.read import ArrayListing, PerChunk
from dask_zv.storage.per_chunk.write import by_rank, shard_numbers
from dask_zv.storage.specs import BlockSpec, CommitSpec, Place, keys_digest

_BLOCKS = 8
_NOTHING = ArrayListing(frozenset(), {}, {}, frozenset())


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
        sequence = place.layout == "grid" and isinstance(shards, tuple | list)
        if shards is not None and not sequence and (type(shards) is not int or shards < 1):
            raise InputError(f"shards is the number of chunks per shard, a positive int, not {shards!r}")
        if block_chunks is not None and block_chunks < 1:
            raise InputError(f"block_chunks must be positive, not {block_chunks}")
        self._place = place
        self._objects = objects
        self._shards = shards if isinstance(shards, int) else None
        self._packing = shards
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
        if _is_lazy(data):
            self._declare([address])
            self._lazy[address] = data
            if len(self._lazy) > settings().batch_delayed and not self._warned:
                self._warned = True
                warnings.warn(
                    f"more than {settings().batch_delayed:,} blobs are Delayed, a task each: let one Delayed yield a whole "
                    "block and queue it with batch.write_blobs(delayed, keys=...)",
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
        if self._place.layout == "grid":
            check_spatial(array, chunk_key)
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
        if not (isinstance(delayed, Delayed) or is_future(delayed)):
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
                "the batch is planned already, and this write would be left out: write everything before to_delayed()",
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
            "two tasks of one batch would write this chunk: a key that a lazy block declares belongs to it alone",
            store=self._place.handle.url, array=join(self._place.prefix, address[0]), chunk=address[1],
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------ planning

    def to_delayed(self) -> Delayed:
        """Return the batch as one Delayed, whose result is the report; it joins larger ``dask.compute`` calls.

        Data queued eagerly is sent to the workers now where a distributed client is active. On an Icechunk session its result
        is passed to :meth:`finish`.
        """
        if self._delayed is None:
            self._delayed = self._plan()
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
        check_writable(handle)
        with undone_on_failure(handle):
            report: Report = finish_write(handle, compute_one(self.to_delayed(), progress=self._progress))
        self.report = dataclasses.replace(report, seconds=time.perf_counter() - started)
        return self.report

    def _plan(self) -> Delayed:
        return self._plan_grid() if self._place.layout == "grid" else self._plan_per_chunk()

    def _plan_grid(self) -> Delayed:
        queued = self._eager | self._lazy
        plan = plan_grids(self._objects, self._place.prefix, self.addresses(), self._meta, self._packing)
        single = self._fill(cut_units(plan, list(queued)), len({k for _, k in queued}))
        if self._blocks:  # what was cut here is whole shards
            check_owners(plan, [*single, *(a for _, a in self._blocks)], self._objects.url, self._place.prefix)
        builder = GraphBuilder(watched=bool(self._progress))
        if replaces(self._objects, self._place.prefix, plan, self.addresses()):
            plan = dataclasses.replace(plan, marker=builder.run)
        payloads = self._payloads([[(a, k, queued[a, k]) for a, k in block] for block in single])
        spec = BlockSpec(self._place, grid=plan)
        blocks: list[tuple[BlockSpec, Any]] = [(spec, payload) for payload in payloads]
        blocks += [(dataclasses.replace(spec, declared=keys_digest(a)), delayed) for delayed, a in self._blocks]
        metadata: list[tuple[str, Mapping[str, Any]]] = []
        held = GridArrays(self._objects, self._place.prefix).arrays(self._meta)
        for array, meta in self._meta.items():
            found, planned = held[array], plan.specs.get(array)
            if planned is None and found is not None:  # its attributes alone
                plan = dataclasses.replace(plan, specs={**plan.specs, array: found.spec}, existing=plan.existing | {array})
                planned = found.spec
            if planned is not None:
                meta = without_grid(meta, planned, join(self._place.prefix, array), self._objects.url)
            metadata.append((array, meta))
        commit = CommitSpec(
            self._place, tuple(metadata), tuple(plan.specs), True, False, (), Report(-1, 0, 0, 0, 0, 0, 0.0), grid=plan
        )
        graph = build_write_graph(blocks, commit, builder=builder, nodes_first=self._objects.nodes_first)
        return write_in_forks(graph, builder.run, self._place.handle)

    def _payloads(self, pieces: list[list[tuple[str, str, Any]]]) -> list[Any]:
        """Return what stands for each block's data in its task: futures of what the client holds, or the data itself."""
        eager = [i for i, piece in enumerate(pieces) if not self._lazy or not any(_is_lazy(d) for *_, d in piece)]
        payloads: list[Any] = list(pieces)
        for i, held in zip(eager, hold_on_workers([pieces[i] for i in eager]), strict=True):
            payloads[i] = held if is_future(held) else _Held(held)
        return payloads

    def _plan_per_chunk(self) -> Delayed:
        arrays = sorted({a for a, _ in self.addresses()} | set(self._meta))
        catalogued = load_catalog(self._objects, self._place.prefix) is not None
        blobs = PerChunk(self._objects, self._place.prefix)
        fresh = (
            not catalogued
            and not self._objects.any_below(self._place.prefix, "/c/0")
            and not self._finds_documents({a for a, _ in self.addresses()})  # empty blobs have no data object
        )
        listings: dict[str, ArrayListing] = {}
        if not fresh and self.addresses():
            listings = {a: blobs.listing(a) for a in arrays}
        queued = self._eager | self._lazy
        pieces = [(self._spec(addresses, listings), [(a, k, queued[a, k]) for a, k in addresses]) for addresses in self._cut()]
        builder = GraphBuilder(watched=bool(self._progress))
        payloads = self._payloads([p for _, p in pieces])
        blocks: list[tuple[BlockSpec, Any]] = [(spec, p) for (spec, _), p in zip(pieces, payloads, strict=True)]
        taken = self._shards_of_single_blobs() if self._blocks else set()
        for delayed, addresses in self._blocks:
            blocks.append((self._spec(addresses, listings, self._block_shard(addresses, taken), whole_block=True), delayed))
        spec = CommitSpec(
            self._place,
            tuple(self._meta.items()),
            tuple(arrays),
            catalogued or fresh,
            False,
            (),
            Report(-1, 0, 0, 0, 0, 0, 0.0),
            extends_catalog=catalogued,
            first=fresh and not self._objects.nodes_first,
        )
        graph = build_write_graph(blocks, spec, builder=builder, nodes_first=self._objects.nodes_first)
        return write_in_forks(graph, builder.run, self._place.handle)

    def _finds_documents(self, arrays: set[str]) -> bool:
        """Tell whether any array has children: one listing, of what is little where no blob has data."""
        paths = {join(self._place.prefix, a) for a in arrays}
        keys = self._objects.list_prefix(self._place.prefix)
        return any(k.removesuffix("/zarr.json").rpartition("/")[0] in paths for k in keys)

    def _cut(self) -> list[list[Address]]:
        """Cut the single blobs into blocks: all arrays of a chunk together, neighbours together, whole shards together."""
        by_key: dict[str, list[Address]] = {}
        queued = (*self._eager, *self._lazy)
        for address in queued:
            by_key.setdefault(address[1], []).append(address)
        units: list[list[str]] = [[k] for k in sorted(by_key) if not is_spatial_key(k)]
        if self._shards is None:
            for keys in by_rank(k for k in by_key if is_spatial_key(k)):
                units.extend([keys[i]] for i in morton_order(np.array([parse_key(k) for k in keys], np.int64)))
        else:  # keys of every rank together: a shard's number does not tell ranks apart, and one task must own it
            shards: dict[int, list[str]] = {}
            for key, number in shard_numbers(queued, self._shards, None).items():
                shards.setdefault(number, []).append(key)
            units.extend(sorted(shards[n]) for n in sorted(shards))
        return self._fill([[a for k in unit for a in by_key[k]] for unit in units], len(by_key))

    def _fill(self, units: list[list[Address]], chunks_in_all: int) -> list[list[Address]]:
        """Put units, in their order, into blocks of bounded size."""
        # a task waits for the store twice, for data and for documents: few large ones, but some for every worker
        low, high = settings().batch_block_chunks
        most = self._block_chunks or min(max(-(-chunks_in_all // _BLOCKS), low), high)
        blocks: list[list[Address]] = []
        chunks = nbytes = 0
        for addresses in units:
            size = sum(len(self._eager[a]) for a in addresses if a in self._eager)
            count = len({k for _, k in addresses})
            if not blocks or chunks + count > most or nbytes + size > settings().batch_block_bytes:
                blocks.append([])
                chunks = nbytes = 0
            blocks[-1].extend(addresses)
            chunks += count
            nbytes += size
        return blocks

    def _spec(
        self,
        addresses: Sequence[Address],
        listings: Mapping[str, ArrayListing],
        number: int | None = None,
        *,
        whole_block: bool = False,
    ) -> BlockSpec:
        """Return how a block is stored beside what the arrays hold already."""
        stay: set[Address] = set()
        merge: set[tuple[str, int]] = set()
        superseded: list[Address] = []
        shards = None if number is not None or whole_block else self._shards
        if shards is not None or number is not None:
            own = shard_numbers(addresses, shards, number)
            for array, key in addresses:
                if key not in own:
                    continue
                listing = listings.get(array, _NOTHING)
                held = listing.entries.get(key)
                if held is not None and shard_id(held[0]) != own[key]:
                    stay.add((array, key))
                    continue
                merge.add((array, own[key]))  # where there is no such shard yet, another batch may be about to make it
                if key in listing.plain:
                    superseded.append((array, key))
        members = {(a, k) for a, n in merge for k in listings.get(a, _NOTHING).shards.get(shard_name(n), ())}
        beside = {m for m in members if m in self._declared or m in self._eager} - set(addresses)
        return BlockSpec(
            self._place,
            keys_digest(addresses) if whole_block else None,  # what this batch cut itself has the right keys
            shards,
            number,
            frozenset(stay),
            tuple(sorted(merge)),
            tuple(superseded),
            frozenset(beside),
        )

    def _shards_of_single_blobs(self) -> set[int]:
        if self._shards is None:
            return set()
        return set(shard_numbers((*self._eager, *self._lazy), self._shards, None).values())

    def _block_shard(self, addresses: Sequence[Address], taken: set[int]) -> int | None:
        """Return a whole block's shard number: the least Morton code of its chunks that no other block has."""
        if self._shards is None:
            return None
        for keys in by_rank({k for _, k in addresses if is_spatial_key(k)}):
            codes: list[int] = sorted(morton_codes(np.array([parse_key(k) for k in keys], np.int64)).tolist())
            for code in codes:
                if code not in taken:
                    taken.add(code)
                    return code
        return None


def _is_lazy(data: object) -> bool:
    return type(data) is not bytes and (isinstance(data, Delayed) or is_future(data))


class _Held(list[Any]):
    """Eager data of one block: a list that the graph builder takes as it is, without looking into it."""
