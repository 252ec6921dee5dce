"""From the names of vertices to cells of links: a join that no task sees whole.

Vertices come in partitions, and every block reports where it put those of each; links come in parts, of which the scan knows
which partitions they can name. A pair of part and partition is looked up by itself, a part's findings make its records, and
each block of chunks gathers and stores the records whose source chunk it holds. Where the pairs would be too many for one
graph, neighbouring parts and partitions are taken together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from dask.task_spec import List, Task, TaskRef
from numpy.typing import NDArray

from dask_zv.config import settings
from dask_zv.format.links import LinkFamily
from dask_zv.geometry.block import Found, Places
from dask_zv.geometry.links import LinkRecords, encode_links, join_links, source_coords
from dask_zv.geometry.rows import LinkRows
from dask_zv.geometry.schema import AttributeSchema
from dask_zv.graph.builder import GraphBuilder
from dask_zv.graph.progress import topic_of
from dask_zv.graph.tasks import make_arrays, run_block
from dask_zv.storage.specs import BlockResult, BlockSpec, EncodedBlock
from dask_zv.write.exchange import BlockPlan


def touches(spans: NDArray[np.int64], low: NDArray[np.int64], high: NDArray[np.int64]) -> list[int]:
    """Return which ranges (both ends included) meet one of `spans`, disjoint and ascending.

    Parameters
    ----------
    spans : ndarray of int64, shape (s, 2)
    low, high : ndarray of int64, shape (p,)
        A range whose `high` is below its `low` is empty.
    """
    if not len(spans):
        return []
    first = np.searchsorted(spans[:, 1], low, "left")
    meets = (first < len(spans)) & (high >= low)
    meets[meets] = spans[first[meets], 0] <= high[meets]
    return np.flatnonzero(meets).tolist()


@dataclass(frozen=True)
class LinkJoin:
    """A join of links with the places of vertices.

    Attributes
    ----------
    family : LinkFamily
    parts : sequence of task arguments
        Each evaluates to :class:`LinkRows`, or to a block's result that has some.
    named : sequence of list of int
        For each part, the partitions of vertices that it can name.
    what : str
        What a link is to the user, for errors.
    one_object : bool
        Both ends of a link must be of one object.
    fed : mapping of int to sequence of int
        For each partition of vertices, the blocks that have rows of it.
    """

    family: LinkFamily
    parts: Sequence[Any]
    named: Sequence[Sequence[int]]
    what: str
    one_object: bool = False
    fed: Mapping[int, Sequence[int]] = field(default_factory=dict)

    def add(
        self, builder: GraphBuilder, plan: BlockPlan, starts: NDArray[np.int64], results: Sequence[TaskRef]
    ) -> list[list[TaskRef]]:
        """Add the tasks; return for each block those that have records for it.

        Parameters
        ----------
        builder : GraphBuilder
        plan : BlockPlan
        starts : ndarray of int64, shape (partitions + 1,)
            Number of the first vertex of each partition.
        results : sequence of TaskRef
            Results of the blocks of vertices, with their places.
        """
        step, parts, named = self._grouped(len(plan))
        places: dict[int, TaskRef] = {}
        for group in sorted({g for groups in named for g in groups}):
            first, last = int(starts[group * step]), int(starts[min((group + 1) * step, len(starts) - 1)])
            blocks = sorted({b for p in range(group * step, (group + 1) * step) for b in self.fed.get(p, ())})
            pieces = [builder.add(builder.key("place", f"{group}-{b}"), pick_places, results[b], first, last) for b in blocks]
            places[group] = builder.add(builder.key("places", group), gather_places, self.family.rank, List(*pieces))
        out: list[list[TaskRef]] = [[] for _ in range(len(plan))]
        for number, (members, groups) in enumerate(zip(parts, named, strict=True)):
            links = builder.add(builder.key("links", number), gather_links, List(*members))
            found = [builder.add(builder.key("find", f"{number}-{g}"), find_links, links, places[g]) for g in groups]
            routed = builder.add(
                builder.key("join", number), join_and_route, self.family, plan, self.what, self.one_object, links, List(*found)
            )
            blocks = sorted({b for g in groups for p in range(g * step, (g + 1) * step) for b in self.fed.get(p, ())})
            for b in blocks:
                out[b].append(builder.add(builder.key("route", f"{number}-{b}"), pick_records, routed, b))
        return out

    def _grouped(self, blocks: int) -> tuple[int, list[list[Any]], list[list[int]]]:
        """Take parts and partitions together until the pairs are few; return (partitions in a group, parts, groups named)."""
        step = 1
        partitions = max((p for named in self.named for p in named), default=0) + 1
        while True:
            parts = [list(self.parts[i : i + step]) for i in range(0, len(self.parts), step)]
            named = [
                sorted({p // step for one in self.named[i : i + step] for p in one}) for i in range(0, len(self.parts), step)
            ]
            pairs = sum(map(len, named)) + sum(
                len({b for g in groups for p in range(g * step, (g + 1) * step) for b in self.fed.get(p, ())})
                for groups in named
            )
            if pairs <= settings().link_pairs or (step >= partitions and step >= len(self.parts)):
                return step, parts, named
            step *= 2


def pick_places(result: BlockResult, first: int, last: int) -> Places:
    """Return a block's places of the vertices whose numbers are in [first, last)."""
    places: Places = result.extra.places
    return places.between(first, last)


def gather_places(rank: int, pieces: Sequence[Places]) -> Places:
    """Return the places of a group of partitions."""
    return Places.join([p for p in pieces if len(p)], rank)


def gather_links(parts: Sequence[LinkRows | BlockResult]) -> LinkRows:
    """Return the links of some parts, which may be those that blocks report."""
    return LinkRows.join([p.extra.links if isinstance(p, BlockResult) else p for p in parts])


def find_links(links: LinkRows, places: Places) -> Found:
    """Look up what `links` name among some places."""
    return places.find(links)


def join_and_route(
    family: LinkFamily, plan: BlockPlan, what: str, one_object: bool, links: LinkRows, found: Sequence[Found]
) -> dict[int, LinkRecords]:
    """Return the records of some links by the block that stores them."""
    return route_links(family, plan, join_links(links, found, what, one_object=one_object))


def route_links(family: LinkFamily, plan: BlockPlan, records: LinkRecords) -> dict[int, LinkRecords]:
    """Divide records by the block of their source chunk."""
    if not len(records):
        return {}
    block = plan.blocks_of(source_coords(family, records))
    order = np.argsort(block, kind="stable")
    found, first = np.unique(block[order], return_index=True)
    return {int(b): records.take(rows) for b, rows in zip(found, np.split(order, first[1:]), strict=True)}


def pick_records(routed: Mapping[int, LinkRecords], block: int) -> LinkRecords | None:
    """Return a block's share of routed records."""
    return routed.get(block)


def encode_block_links(
    family: LinkFamily, attributes: Sequence[AttributeSchema], pieces: Sequence[LinkRecords | None]
) -> EncodedBlock:
    """Encode the records that a block stores."""
    given = [p for p in pieces if p is not None]
    if not given:
        return EncodedBlock({})
    encoded = encode_links(family, attributes, LinkRecords.join(given))
    return EncodedBlock(encoded.blobs, metadata=encoded.metadata, records=encoded.records)


def store_links(
    builder: GraphBuilder,
    spec: BlockSpec,
    family: LinkFamily,
    attributes: tuple[AttributeSchema, ...],
    pieces: Sequence[Sequence[TaskRef]],
    *,
    nodes_first: bool,
) -> list[TaskRef]:
    """Add the tasks that store each block's records; return their results.

    Which segments there are is known when the records are. Where the store wants nodes before chunks, all blocks are encoded,
    and the arrays made, before the first is stored.
    """
    blocks = [(b, Task(None, encode_block_links, family, attributes, List(*found))) for b, found in enumerate(pieces) if found]
    if not nodes_first:
        return [add_links(builder, b, spec, encoded) for b, encoded in blocks]
    refs = []
    for b, encoded in blocks:
        key = builder.key("encode-links", b)
        builder.tasks[key] = Task(key, *encoded_call(encoded))
        refs.append(TaskRef(key))
    names = [builder.add(builder.key("segments", i), names_of, r) for i, r in enumerate(refs)]
    made = builder.add(builder.key("arrays"), make_arrays, spec, List(*names))
    return [add_links(builder, b, spec, ref, made) for (b, _), ref in zip(blocks, refs, strict=True)]


def add_links(builder: GraphBuilder, number: int, spec: BlockSpec, encoded: Any, *before: TaskRef) -> TaskRef:
    """Add the task that stores a block of links."""
    key = builder.key("store-links", number)
    spec = replace(spec, topic=topic_of(builder.run) if builder.watched else "")
    return builder.add(key, run_block, "links", number, key, None, spec, encoded, *before)


def encoded_call(task: Task) -> tuple[Any, ...]:
    """Return the function and the arguments of a nameless task, to make a named one."""
    return task.func, *task.args


def names_of(encoded: EncodedBlock) -> list[str]:
    """Return the arrays that a block stores into."""
    return sorted(encoded.metadata)
