"""A write that is planned: its blocks, the tasks that store each, and the tasks that make the stored blocks a level.

The same tasks make one graph, several graphs one after the other, or the work of processes that share nothing but the store.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import Any, TypeVar

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
from dask.delayed import Delayed
from dask.task_spec import List, Task, TaskRef
from numpy.typing import NDArray

from dask_zv.errors import PlanError
from dask_zv.format.grids import GridSpec
from dask_zv.geometry.block import BlockExtra, EncodedBlock
from dask_zv.geometry.rows import VertexRows
from dask_zv.geometry.schema import AttributeSchema, PointSchema
from dask_zv.graph.builder import GraphBuilder, is_future
from dask_zv.graph.report import Report
from dask_zv.graph.run import hold_if_large
from dask_zv.graph.tasks import add_block, add_commit, add_preparation, run_block
from dask_zv.storage.specs import BlockResult, BlockSpec, CommitSpec
from dask_zv.write.blocks import BlockPlan, PartitionBlockMap
from dask_zv.write.convert import Conversion
from dask_zv.write.exchange import remove_spill, split_partitions
from dask_zv.write.journal import Journal
from dask_zv.write.object_index import write_edge_counts, write_object_index
from dask_zv.write.object_plan import ObjectPlan, object_blobs
from dask_zv.write.partitions import Partitions
from dask_zv.write.scan import Scan

Encode = Callable[[PointSchema, VertexRows], EncodedBlock]
T = TypeVar("T")
_RECEIPT_BYTES = 500
CONTENT = 16
"""Digits of the digest of an append that tell what is added; the others tell to what."""


class LinkWriter:
    """How a geometry's links get into the store, after its vertices."""

    arrays: tuple[str, ...] = ()  # chunk arrays of links that are there whatever the data
    families: tuple[str, ...] = ()  # groups of those whose names only the data tells
    crossings = False  # the links are those between the pieces of objects
    trees = False  # they lead from nodes to their parents
    digests: tuple[int, ...] = ()  # checksums of links that were given beside the vertices
    described: tuple[tuple[AttributeSchema, Mapping[str, Any]], ...] = ()  # attributes of links, with their units and the like

    def metadata(self) -> list[tuple[str, dict[str, Any]]]:
        """Return (path, attributes) of the nodes that are there whatever the data."""
        return []

    def add(self, job: Job, builder: GraphBuilder, results: list[TaskRef], crossings: list[TaskRef]) -> list[TaskRef]:
        """Add the tasks, given the results of the blocks of vertices; return the results of those that store."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Held:
    """What a level has already, for a write that adds to it."""

    rows: NDArray[np.int64]  # (n,): vertices of each of the scan's chunks
    refills: Sequence[Task]  # encode what else all other chunks get, block by block
    objects: Callable[[], BlockExtra] | None  # returns the fragments of its objects, as a block reports them
    edges: Callable[[], NDArray[np.int64] | None] | None  # returns the table of the links of its chunks, where it has one
    join: Callable[[EncodedBlock], EncodedBlock]  # puts a block's links behind those that their cells hold


@dataclass(frozen=True, eq=False)
class Job:
    """A planned write."""

    name: str  # of the tasks, for dashboards
    plan: BlockPlan
    block: BlockSpec
    commit: CommitSpec
    partitions: Partitions
    conversion: Conversion
    scan: Scan
    schema: PointSchema
    objects: ObjectPlan | None
    encode: Encode
    links: LinkWriter | None
    digest: str  # which write this is: equal for the same content, cut into the same partitions, for the same level
    held: Held | None = None

    def __len__(self) -> int:
        return len(self.plan)

    @cached_property
    def block_map(self) -> PartitionBlockMap:
        """The blocks that each partition has rows for."""
        return PartitionBlockMap(self.plan, self.scan)

    def cut_at(self, starts: NDArray[Any]) -> Job:
        """Return the same write in the blocks of an earlier run."""
        return dataclasses.replace(self, plan=dataclasses.replace(self.plan, starts=starts))

    def stamped(self) -> Job:
        """Return the same write with a commit that says which it is."""
        return dataclasses.replace(self, commit=dataclasses.replace(self.commit, stamp=self.digest))

    def swept(self) -> Job:
        """Return the same write with a commit that may have been begun before, and died."""
        return dataclasses.replace(self, commit=dataclasses.replace(self.commit, sweep=self.commit.replace))

    def keeping(self, blocks: int) -> Job:
        """Return the same write with a report that says how many blocks of an earlier run it has kept."""
        return dataclasses.replace(self, commit=dataclasses.replace(self.commit, kept=blocks))

    def release(self) -> None:
        """Let go of partitions that the scan has kept."""
        if self.partitions.kept is not None:
            self.partitions.kept.release()

    @property
    def nbytes(self) -> int:
        """Bytes of all rows in all arrays."""
        return self.scan.rows * self.schema.row_bytes

    @property
    def specs(self) -> Mapping[str, GridSpec] | None:
        """The grids of its arrays, in layout ``grid``."""
        return None if self.block.grid is None else self.block.grid.specs

    def known_report(self) -> Report:
        """Return what is known of the write where it is found to be committed."""
        objects = self.objects.count if self.objects is not None else 0
        return Report(self.scan.rows, len(self.scan.coords), objects, 0, 0, 0, 0.0, self.scan.dropped)

    def rows(self) -> tuple[int, ...]:
        """Return the vertices that each block stores: those that the scan counted, and those that its chunks have already."""
        blocks = self.plan.blocks_of(self.scan.coords)
        counts = self.scan.counts + (0 if self.held is None else self.held.rows)
        return tuple(np.bincount(blocks, counts, len(self.plan)).astype(np.int64).tolist())

    def sources(self) -> list[list[int]]:
        """Return the groups of partitions (:meth:`BlockPlan.groups`) that each block gathers rows from."""
        sources: list[list[int]] = [[] for _ in range(len(self.plan))]
        for number, group in enumerate(self.plan.groups(self.scan)):
            for block in sorted({b for p in group for b in self.block_map.blocks(p)}):
                sources[block].append(number)
        return sources

    def add_blocks(
        self, builder: GraphBuilder, numbers: Collection[int], *, spill: str | None = None, journal: Journal | None = None
    ) -> dict[int, TaskRef]:
        """Add the tasks that store some blocks, and note them in a journal; return the result of each.

        `spill` is the directory for pieces that memory has no room for.
        """
        before = add_preparation(builder, self.commit)
        if journal is not None:
            before.append(builder.add(builder.key("journal"), journal.begin))
        gathered = split_partitions(
            builder, self.partitions, self.conversion, self.schema.attributes, self.plan, self.block_map, spill,
            numbered=self.links is not None, wanted=numbers,
        )  # fmt: skip
        return {
            number: add_block(builder, number, self.block, Task(None, self.encode, self.schema, rows), before, journal)
            for number, rows in gathered.items()
        }

    def build(
        self, builder: GraphBuilder, done: Mapping[int, BlockResult], journal: Journal | None, spill: str | None
    ) -> Delayed:
        """Return the whole write as one graph, without the blocks that are done."""
        left = [n for n in range(len(self)) if n not in done]
        refs = self.add_blocks(builder, left, spill=spill, journal=journal) | hand_in(builder, done)
        return self.add_end(builder, [refs[n] for n in range(len(self))], spill)

    def add_end(self, builder: GraphBuilder, results: Sequence[TaskRef], spill: str | None = None) -> Delayed:
        """Add what follows the blocks of vertices: object index, links, commit."""

        def after_blocks(builder: GraphBuilder, results: list[TaskRef]) -> tuple[list[TaskRef], list[TaskRef]]:
            place, objects, links, held = self.block.place, self.objects, self.links, self.held
            waiting = [builder.add(builder.key("tidy"), _tidy, spill, *results)] if spill else []
            crossings: list[TaskRef] = []
            more: list[TaskRef] = []
            for number, refill in enumerate(held.refills if held is not None else ()):
                before = results[:1] if place.handle.is_session else []  # it follows what makes the arrays
                more.append(add_block(builder, number, self.block, refill, before, kind="columns"))
            known = []
            if held is not None and held.objects is not None:
                known.append(builder.add(builder.key("held-objects"), held.objects))
            if objects is not None:
                if self.block.grid is None and (blobs := object_blobs(objects)):
                    encoded = EncodedBlock({(array, key): data for array, key, data in blobs})
                    key = builder.key("objects")
                    more.append(builder.store(key, run_block, "objects", 0, "", None, BlockSpec(place), encoded))
                written, crossings = write_object_index(
                    builder, place, objects, self.conversion.grid.ndim, [*results, *known],
                    crossings=links is not None and links.crossings,
                )  # fmt: skip
                waiting += written
            if links is not None and links.trees:
                key = builder.key("edge-counts")
                table = None
                if held is not None and held.edges is not None:
                    table = builder.add(builder.key("held-edges"), held.edges)
                waiting.append(builder.store(key, write_edge_counts, place, List(*results), table, held is not None))
            if links is not None:
                more += links.add(self, builder, results, crossings)
            return waiting, more

        then = after_blocks if self.objects is not None or spill or self.links is not None or self.held is not None else None
        return add_commit(builder, dataclasses.replace(self.commit, rows=self.rows()), results, then)


def hand_in(builder: GraphBuilder, results: Mapping[int, Any]) -> dict[int, TaskRef]:
    """Add tasks that return results which are there already, as they are or as futures of them."""
    out = {}
    for number, result in results.items():
        held = hold_if_large(result, _size(result)) if isinstance(result, BlockResult) else result
        out[number] = builder.add(builder.key("done", number), identity, held)
    return out


def finished(report: Report, started: float) -> Report:
    """Return the report with the wall time of the whole call, begun at `started` (``time.perf_counter``)."""
    return dataclasses.replace(report, seconds=time.perf_counter() - started)


def identity(result: T) -> T:
    """Return what is given: a task of a result that is there already."""
    return result


def _size(result: BlockResult) -> int:
    columns: list[NDArray[Any]] = [c["nbytes"] for c in result.receipt.arrays.values()]
    return result.__sizeof__() + int(np.sum([_RECEIPT_BYTES + 6 * c.nbytes for c in columns]))


def job_digest(
    commit: CommitSpec, scan: Scan, objects: ObjectPlan | None, links: LinkWriter | None, schema: PointSchema
) -> str:
    """Return which write this is: a digest of the input's content, and of all that the commit will say of it."""
    told = [(path, dict(attributes)) for path, attributes in commit.metadata]
    parts = [(p, facts.rows, facts.digest) for p, facts in sorted(scan.parts.items())]
    state = [told, parts, scan.dropped, list(links.digests) if links is not None else [], [str(schema.dtype)]]
    digest = hashlib.sha256(json.dumps(state, sort_keys=True, default=_plain).encode())
    if objects is not None:
        arrays: dict[str, NDArray[Any]] = {"ids": objects.ids}
        for name, (values, present) in objects.attributes.items():
            arrays[f"attribute {name}"] = values
            if present is not None:
                arrays[f"present {name}"] = present
        arrays |= {f"group {n}": np.asarray(members, np.int64) for n, members in objects.groups.items()}
        arrays |= {f"group attribute {n}": values for n, values in objects.group_attributes.items()}
        for name, values in sorted(arrays.items()):
            digest.update(f"{name} {values.dtype.str} {values.shape}".encode())
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()[:32]


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return dict(value) if isinstance(value, Mapping) else str(value)


def _tidy(spill: str, *_: BlockResult) -> None:
    remove_spill(spill)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def __init__(self, file: BytesIO, url: str) -> None:
        super().__init__(file)
        self._url = url

    def reducer_override(self, value: Any) -> Any:
        if is_future(value):
            raise PlanError(
                "the input is held by the workers of a cluster (persist(), scatter()), out of reach of other processes: plan "
                "with the collection as it was before",
                store=self._url,
            )
        return super().reducer_override(value)


def dumps_job(job: Job, url: str) -> bytes:
    """Return a job as bytes, for another process; `url` is that of its store."""
    file = BytesIO()
    _Pickler(file, url).dump(job)
    return file.getvalue()
