"""The links of skeletons, graphs and meshes: from the names of vertices to cells of links, a join that no task sees whole.

Vertices come in partitions, and every block reports where it put those of each; links come in parts, of which the scan knows
which partitions they can name. A pair of part and partition is looked up by itself, a part's findings make its records, and
each block of chunks gathers and stores the records whose source chunk it holds. Where the pairs would be too many for one
graph, neighbouring parts and partitions are taken together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from dask.task_spec import List, Task, TaskRef
from numpy.typing import NDArray

from dask_zv.config import settings
from dask_zv.errors import InputError
from dask_zv.format.links import LinkFamily
from dask_zv.geometry.block import EncodedBlock, Found, Places
from dask_zv.geometry.links import (
    LinkRecords,
    encode_links,
    family_path,
    intra_segment,
    join_links,
    link_attribute_metadata,
    source_coords,
)
from dask_zv.geometry.rows import LinkRows
from dask_zv.geometry.schema import LINK_FRAGMENTS, AttributeSchema
from dask_zv.graph.builder import GraphBuilder
from dask_zv.graph.tasks import add_blocks_of_new_arrays
from dask_zv.level.contents import LevelContents
from dask_zv.storage.layout import layout_for
from dask_zv.storage.specs import BlockResult
from dask_zv.write.blocks import BlockPlan
from dask_zv.write.job import Job, LinkWriter
from dask_zv.write.options import WriteOptions
from dask_zv.write.planning import level_to_write
from dask_zv.write.scan import Scan


def linked_level(store: Any, positions: Any, geometry: str, function: str, options: WriteOptions) -> LevelContents:
    """Return the level to write to, in a layout that can hold links."""
    level = level_to_write(store, positions, (geometry,), function, options)
    if not layout_for(level.store.layout).has_tables:
        raise InputError(
            f"{level.store.url} has layout per_chunk (ZV 0.7), whose writers and readers lose or mix up the links of objects "
            f"that share a chunk: make the store with dzv.create(geometry={geometry!r}, layout='grid')"
        )
    return level


class GivenLinks(LinkWriter):
    """Links that users gave, beside the vertices or with them, and their attributes."""

    def __init__(
        self,
        family: LinkFamily,
        described: tuple[tuple[AttributeSchema, Mapping[str, Any]], ...] = (),
        digests: tuple[int, ...] = (),
    ) -> None:
        self.family, self.described, self.digests = family, described, digests
        self.attributes = tuple(a for a, _ in described)
        self.families = (family_path(), *(family_path(a.name) for a in self.attributes))
        # those of links inside chunks, which other tools expect even where there are none
        self.arrays = (LINK_FRAGMENTS, *(f"{path}/{intra_segment(family)}" for path in self.families))

    def metadata(self) -> list[tuple[str, dict[str, Any]]]:
        """Return (path, attributes) of the nodes that are there whatever the data."""
        inside = intra_segment(self.family)
        out: list[tuple[str, dict[str, Any]]] = [
            (LINK_FRAGMENTS, {"zv_array": LINK_FRAGMENTS, "encoding": "fragment_index_v1"}),
            (f"{family_path()}/{inside}", self.family.segment_attributes(inside)),
        ]
        for attribute in self.attributes:
            path = family_path(attribute.name)
            out.append((f"{path}/{inside}", link_attribute_metadata(self.family, attribute, inside)))
            out.append((path, {"zv_array": "link_attribute_family", "name": attribute.name, "level_delta": 0}))
        return [*out, (family_path(), self.family.to_attributes())]

    def add_join(
        self,
        job: Job,
        builder: GraphBuilder,
        results: Sequence[TaskRef],
        parts: Sequence[Any],
        named: Sequence[Sequence[int]],
        what: str,
        *,
        one_object: bool = False,
    ) -> list[TaskRef]:
        """Add the tasks of the join and those that store what comes of it; return the results of these.

        `parts` are task arguments that evaluate to :class:`LinkRows`, or to a block's result that has some, `named` the
        partitions of vertices that each can name. `what` a link is to the user is for errors; with `one_object` both of its
        ends must be of one.
        """
        family, plan, starts = self.family, job.plan, job.scan.starts()
        fed = {p: job.block_map.blocks(p) for p in job.scan.spans}
        step, parts, named = _grouped(parts, named, fed)

        def blocks_of(groups: Sequence[int]) -> list[int]:
            return _blocks_of_groups(groups, step, fed)

        places: dict[int, TaskRef] = {}
        for group in sorted({g for groups in named for g in groups}):
            first, last = int(starts[group * step]), int(starts[min((group + 1) * step, len(starts) - 1)])
            pieces = [
                builder.add(builder.key("place", f"{group}-{b}"), pick_places, results[b], first, last)
                for b in blocks_of([group])
            ]
            places[group] = builder.add(builder.key("places", group), gather_places, family.rank, List(*pieces))
        routed: list[list[TaskRef]] = [[] for _ in range(len(plan))]
        for number, (members, groups) in enumerate(zip(parts, named, strict=True)):
            links = builder.add(builder.key("links", number), gather_links, List(*members))
            found = [builder.add(builder.key("find", f"{number}-{g}"), Places.find, places[g], links) for g in groups]
            key = builder.key("join", number)
            joined = builder.add(key, join_and_route, family, plan, what, one_object, links, List(*found))
            for b in blocks_of(groups):
                routed[b].append(builder.add(builder.key("route", f"{number}-{b}"), dict.get, joined, b))
        return store_links(builder, job, family, self.attributes, routed)


def _grouped(
    parts: Sequence[Any], named: Sequence[Sequence[int]], fed: Mapping[int, Sequence[int]]
) -> tuple[int, list[list[Any]], list[list[int]]]:
    """Take parts and partitions together until the pairs are few; return (partitions in a group, parts, groups named).

    `fed` are the blocks that have rows of each partition of vertices.
    """
    step = 1
    partitions = max((p for some in named for p in some), default=0) + 1
    while True:
        taken = [list(parts[i : i + step]) for i in range(0, len(parts), step)]
        groups = [sorted({p // step for one in named[i : i + step] for p in one}) for i in range(0, len(parts), step)]
        pairs = sum(map(len, groups)) + sum(len(_blocks_of_groups(some, step, fed)) for some in groups)
        if pairs <= settings().link_pairs or (step >= partitions and step >= len(parts)):
            return step, taken, groups
        step *= 2


def _blocks_of_groups(groups: Sequence[int], step: int, fed: Mapping[int, Sequence[int]]) -> list[int]:
    return sorted({b for g in groups for p in range(g * step, (g + 1) * step) for b in fed.get(p, ())})


def object_ranges(scan: Scan) -> NDArray[np.int64]:
    """Return ranges of the objects' ids; all vertices are of object 0 where they have none."""
    return scan.ids if len(scan.ids) or not scan.rows else np.array([[0, 1]])


def name_ranges(scan: Scan, *, by_key: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the least and the greatest name of each partition's vertices."""
    if by_key:
        names = [scan.parts[p].names for p in sorted(scan.parts)]
        return np.array([n[0] for n in names]), np.array([n[1] for n in names])
    starts = scan.starts()
    return starts[:-1], starts[1:] - 1


def touches(spans: NDArray[np.int64], low: NDArray[np.int64], high: NDArray[np.int64]) -> list[int]:
    """Return which ranges `low` to `high` (both included, empty where `high` is less) meet one of `spans` (s, 2), ascending."""
    if not len(spans):
        return []
    first = np.searchsorted(spans[:, 1], low, "left")
    meets = (first < len(spans)) & (high >= low)
    meets[meets] = spans[first[meets], 0] <= high[meets]
    return np.flatnonzero(meets).tolist()


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


def join_and_route(
    family: LinkFamily, plan: BlockPlan, what: str, one_object: bool, links: LinkRows, found: Sequence[Found]
) -> dict[int, LinkRecords]:
    """Return the records of some links by the block that stores them."""
    return route_links(family, plan, join_links(links, found, what, one_object=one_object))


def route_links(family: LinkFamily, plan: BlockPlan, records: LinkRecords) -> dict[int, LinkRecords]:
    """Divide records by the block of their source chunk."""
    if not len(records):
        return {}
    # that before the first is a chunk which an append gives no rows, where a path goes on from
    block = np.maximum(plan.blocks_of(source_coords(family, records)), 0)
    order = np.argsort(block, kind="stable")
    found, first = np.unique(block[order], return_index=True)
    return {int(b): records.take(rows) for b, rows in zip(found, np.split(order, first[1:]), strict=True)}


def encode_block_links(
    family: LinkFamily,
    attributes: Sequence[AttributeSchema],
    join: Callable[[EncodedBlock], EncodedBlock] | None,
    pieces: Sequence[LinkRecords | None],
) -> EncodedBlock:
    """Encode the records that a block stores; `join` puts them behind those that are there."""
    given = [p for p in pieces if p is not None]
    encoded = encode_links(family, attributes, LinkRecords.join(given)) if given else EncodedBlock({})
    return encoded if join is None else join(encoded)


def store_links(
    builder: GraphBuilder,
    job: Job,
    family: LinkFamily,
    attributes: tuple[AttributeSchema, ...],
    pieces: Sequence[Sequence[TaskRef]],
) -> list[TaskRef]:
    """Add the tasks that store each block's records; return their results. Which segments there are, only the records tell."""
    join = None if job.held is None else job.held.join
    encode = [Task(None, encode_block_links, family, attributes, join, List(*found)) for found in pieces]
    blocks = [(b, encode[b]) for b, found in enumerate(pieces) if found]
    return add_blocks_of_new_arrays(builder, "links", job.block, blocks)
