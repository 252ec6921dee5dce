"""A write that is planned: its blocks, the tasks that store each, and the tasks that make the stored blocks a level.

The same tasks make one graph, several graphs one after the other, or the work of processes that share nothing but the store.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from dask.delayed import Delayed
from dask.task_spec import List, Task, TaskRef
from numpy.typing import NDArray

from dask_zv.geometry.block import GeometryBlock
from dask_zv.geometry.rows import VertexRows
from dask_zv.geometry.schema import AttributeSchema, PointSchema
from dask_zv.graph.builder import GraphBuilder
from dask_zv.graph.tasks import add_block, add_commit, add_preparation, run_block
from dask_zv.storage.specs import BlockResult, BlockSpec, CommitSpec, EncodedBlock
from dask_zv.write.exchange import BlockPlan, Touch, remove_spill, split_partitions
from dask_zv.write.inputs import Partitions
from dask_zv.write.journal import Journal
from dask_zv.write.manifests import object_blobs, write_object_index
from dask_zv.write.object_arrays import write_edge_counts
from dask_zv.write.object_plan import ObjectPlan
from dask_zv.write.scan import Conversion, Scan


class LinkStep(Protocol):
    """How a geometry's links get into the store, after its vertices."""

    @property
    def arrays(self) -> tuple[str, ...]:
        """Chunk arrays of links that are there whatever the data."""

    @property
    def families(self) -> tuple[str, ...]:
        """Groups of those whose names only the data tells."""

    @property
    def crossings(self) -> bool:
        """True where the links are those between the pieces of objects."""

    @property
    def digests(self) -> tuple[int, ...]:
        """Checksums of links that were given beside the vertices."""

    @property
    def described(self) -> tuple[tuple[AttributeSchema, Mapping[str, Any]], ...]:
        """The attributes of links, each with its units and the like."""

    def metadata(self) -> list[tuple[str, dict[str, Any]]]:
        """Return (path, attributes) of the nodes that are there whatever the data."""

    def add(self, context: LinkContext) -> list[TaskRef]:
        """Add the tasks; return the results of those that store."""


@dataclass(frozen=True, eq=False)
class LinkContext:
    """What the links' tasks are built from.

    Attributes
    ----------
    builder : GraphBuilder
    spec : BlockSpec
    plan : BlockPlan
    scan : Scan
    results : list of TaskRef
        Of the blocks of vertices.
    crossings : list of TaskRef
        Links between the pieces of objects, where they were asked for.
    nodes_first : bool
        The store wants nodes before chunks.
    replace : bool
        The level may hold links already.
    """

    builder: GraphBuilder
    spec: BlockSpec
    plan: BlockPlan
    scan: Scan
    results: list[TaskRef]
    crossings: list[TaskRef]
    nodes_first: bool
    replace: bool

    def fed(self) -> dict[int, list[int]]:
        """Return the blocks that have rows of each partition."""
        touch = Touch(self.plan, self.scan)
        return {p: touch.blocks(p) for p in self.scan.spans}


@dataclass(frozen=True, eq=False)
class Job:
    """A planned write.

    Attributes
    ----------
    name : str
        Of the tasks, for dashboards.
    plan : BlockPlan
    block : BlockSpec
    commit : CommitSpec
    nodes_first : bool
        The store wants nodes before chunks.
    partitions : Partitions
    conversion : Conversion
    scan : Scan
    schema : PointSchema
    objects : ObjectPlan or None
    encode : function of (PointSchema, VertexRows) to GeometryBlock
    links : LinkStep or None
    numbered : bool
        Rows carry their place in the input.
    trees : bool
        The level is one of skeletons.
    digest : str
        Which write this is: equal for the same content, cut into the same partitions, for the same level.
    """

    name: str
    plan: BlockPlan
    block: BlockSpec
    commit: CommitSpec
    nodes_first: bool
    partitions: Partitions
    conversion: Conversion
    scan: Scan
    schema: PointSchema
    objects: ObjectPlan | None
    encode: Callable[[PointSchema, VertexRows], GeometryBlock]
    links: LinkStep | None
    numbered: bool
    trees: bool
    digest: str

    def __len__(self) -> int:
        return len(self.plan)

    @cached_property
    def touch(self) -> Touch:
        """Tells which blocks each partition has rows for."""
        return Touch(self.plan, self.scan)

    def cut_at(self, starts: NDArray[Any]) -> Job:
        """Return the same write in the blocks of an earlier run."""
        return dataclasses.replace(self, plan=dataclasses.replace(self.plan, starts=starts))

    def stamped(self) -> Job:
        """Return the same write with a commit that says which it is."""
        return dataclasses.replace(self, commit=dataclasses.replace(self.commit, stamp=self.digest))

    def swept(self) -> Job:
        """Return the same write with a commit that may have been begun before, and died."""
        return dataclasses.replace(self, commit=dataclasses.replace(self.commit, sweep=self.commit.replace))

    def release(self) -> None:
        """Let go of partitions that the scan has kept."""
        if self.partitions.kept is not None:
            self.partitions.kept.release()

    def rows(self) -> tuple[int, ...]:
        """Return the vertices that the scan counted for each block."""
        blocks = self.plan.blocks_of(self.scan.coords)
        return tuple(np.bincount(blocks, self.scan.counts, len(self.plan)).astype(np.int64).tolist())

    def sources(self) -> list[list[int]]:
        """Return the groups of partitions (:meth:`BlockPlan.groups`) that each block gathers rows from."""
        sources: list[list[int]] = [[] for _ in range(len(self.plan))]
        for number, group in enumerate(self.plan.groups(self.scan)):
            for block in sorted({b for p in group for b in self.touch.blocks(p)}):
                sources[block].append(number)
        return sources

    def add_blocks(
        self, builder: GraphBuilder, numbers: Collection[int], *, spill: str | None = None, journal: Journal | None = None
    ) -> dict[int, TaskRef]:
        """Add the tasks that store some blocks; return the result of each.

        Parameters
        ----------
        builder : GraphBuilder
        numbers : collection of int
        spill : str, optional
            Directory for pieces that memory has no room for.
        journal : Journal, optional
            Where receipts are noted.
        """
        before = add_preparation(builder, self.commit)
        if journal is not None:
            before.append(builder.add(builder.key("journal"), journal.begin))
        gathered = split_partitions(
            builder, self.partitions, self.conversion, self.schema.attributes, self.plan, self.touch, spill,
            numbered=self.numbered, wanted=numbers,
        )  # fmt: skip
        return {
            number: add_block(
                builder, number, self.block, Task(None, _encode_block, self.encode, self.schema, rows), before, journal
            )
            for number, rows in gathered.items()
        }

    def add_end(self, builder: GraphBuilder, results: Sequence[TaskRef], spill: str | None = None) -> Delayed:
        """Add what follows the blocks of vertices: object index, links, commit."""

        def after_blocks(builder: GraphBuilder, results: list[TaskRef]) -> tuple[list[TaskRef], list[TaskRef]]:
            place, objects, links = self.block.place, self.objects, self.links
            waiting = [builder.add(builder.key("tidy"), _tidy, spill, *results)] if spill else []
            crossings: list[TaskRef] = []
            more: list[TaskRef] = []
            if objects is not None:
                if self.block.grid is None and (blobs := object_blobs(objects)):
                    more.append(self._add_object_blobs(builder, blobs))
                written, crossings = write_object_index(
                    builder, place, objects, self.conversion.grid.ndim, results, nodes_first=self.nodes_first,
                    crossings=links is not None and links.crossings,
                )  # fmt: skip
                waiting += written
            if self.trees:
                key = builder.key("edge-counts")
                waiting.append(builder.add(key, write_edge_counts, place, List(*results), self.nodes_first))
            if links is not None:
                context = LinkContext(
                    builder, self.block, self.plan, self.scan, results, crossings, self.nodes_first, self.commit.replace
                )
                more += links.add(context)
            return waiting, more

        then = after_blocks if self.objects is not None or spill or self.links is not None or self.trees else None
        return add_commit(builder, dataclasses.replace(self.commit, rows=self.rows()), results, then)

    def _add_object_blobs(self, builder: GraphBuilder, blobs: Sequence[tuple[str, str, bytes]]) -> TaskRef:
        encoded = EncodedBlock({(array, key): data for array, key, data in blobs})
        spec = BlockSpec(self.block.place)
        return builder.add(builder.key("objects"), run_block, "objects", 0, "", None, spec, encoded)


def job_digest(commit: CommitSpec, scan: Scan, objects: ObjectPlan | None, links: LinkStep | None, schema: PointSchema) -> str:
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
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)


def _encode_block(
    encode: Callable[[PointSchema, VertexRows], GeometryBlock], schema: PointSchema, rows: VertexRows
) -> EncodedBlock:
    made = encode(schema, rows)
    return EncodedBlock(made.blobs, made.rows, made.extra, made.metadata, made.records)


def _tidy(spill: str, *_: BlockResult) -> None:
    remove_spill(spill)
