"""Coarser levels of what is joined: each is made of the level before, object by object, and written as level 0 is.

A task reads a block of objects and simplifies or contracts them; what comes of it goes into the writing of a level (scan,
blocks, links, objects, commit), which keeps it in memory where there is room.
"""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from dask.task_spec import DataNode, Task, TaskRef
from numpy.typing import NDArray

from dask_zv.analysis.objects import plan_object_blocks
from dask_zv.errors import InputError
from dask_zv.format.dictionary import MAX_CATEGORIES
from dask_zv.format.levels import LevelMetadata
from dask_zv.format.links import LinkFamily
from dask_zv.geometry.cells import Column, reduced_schema, reduction_of
from dask_zv.geometry.graphs import encode_linked
from dask_zv.geometry.kinds import kind_of
from dask_zv.geometry.polylines import encode_polylines
from dask_zv.geometry.schema import AttributeSchema, Kind
from dask_zv.geometry.simplify import simplifier_of
from dask_zv.geometry.skeletons import encode_skeletons
from dask_zv.graph.builder import GraphBuilder
from dask_zv.graph.keeping import look_once, released_on_failure
from dask_zv.graph.report import Report
from dask_zv.level.contents import LevelContents, StoreContents
from dask_zv.level.link_source import FoundLinks
from dask_zv.level.stale import STALE, is_stale
from dask_zv.maintain.convert_level import object_plan_of
from dask_zv.maintain.pyramid_asked import ASKED, MOST_LEVELS, PyramidArguments, measure_of
from dask_zv.maintain.pyramid_parts import ContractReducer, ObjectReducer, ReducedPart, SimplifyReducer
from dask_zv.maintain.pyramid_plan import PICTURE, bins_per_chunk, kept_objects, root_attributes
from dask_zv.spatial.grid import ChunkGrid
from dask_zv.storage.layout import layout_for
from dask_zv.write.convert import Conversion
from dask_zv.write.graphs import TableLinks
from dask_zv.write.inputs import VERTICES
from dask_zv.write.job import Encode, LinkWriter
from dask_zv.write.link_input import link_subject, scan_links
from dask_zv.write.links import object_ranges
from dask_zv.write.object_plan import ObjectPlan, rows_of_ranges, with_sentinel
from dask_zv.write.options import DEFAULTS, WriteOptions
from dask_zv.write.partitions import AttributeInput, Partitions, RawPart
from dask_zv.write.planning import plan_write
from dask_zv.write.polylines import GridPathLinks, PerChunkPathLinks
from dask_zv.write.running import Write
from dask_zv.write.scan import Scan, merge_scans, scan_part
from dask_zv.write.skeletons import ParentLinks

_TASK_BYTES = 8 << 20
"""What a task reads: simplifying takes several times as much."""


def build_levels(
    source: LevelContents, asked: PyramidArguments, levels: int | None, *, overwrite: bool, progress: bool
) -> Report:
    """Build the coarser levels of a store of paths or trees, one after the other; return one report of all.

    Where not `overwrite`, levels that were built by the same arguments and are not stale stay.
    """
    store, count = source.store, "count"
    while count in asked.attributes:
        count = f"vertex_{count}"
    most = MOST_LEVELS if levels is None else levels
    kept, present = kept_objects(source, asked, most)
    reports: list[Report] = []
    for number in range(1, most + 1):
        before = store.level(number - 1)
        if overwrite or not is_built(store, number, asked):
            last = levels is not None and number == levels
            write = _plan_level(before, source, asked, number, count, kept[number - 1], present[number - 1], last, progress)
            report = write.run(time.perf_counter(), compute=True)
            assert isinstance(report, Report)
            reports.append(report)
        level = store.level(number)
        if levels is None and (level.metadata.vertex_count <= PICTURE or len(level.chunks) == 1):
            break
    sums = {n: sum(getattr(r, n) for r in reports) for n in ("rows", "chunks", "nbytes", "files", "blocks", "kept")}
    arrays: Mapping[str, int] = {f"{i}/{name}": n for i, r in enumerate(reports, 1) for name, n in r.arrays.items()}
    objects = max((r.objects for r in reports), default=0)
    times = tuple(t for r in reports for t in r.times)
    return Report(**sums, objects=objects, seconds=0.0, arrays=arrays, times=times)


def is_built(store: StoreContents, number: int, asked: PyramidArguments) -> bool:
    """Return True if an interrupted build with these arguments has made the level."""
    if number not in store.levels:
        return False
    level = store.level(number)
    told = level._attributes.get(ASKED)
    return not is_stale(level) and isinstance(told, Mapping) and asked.equals(told)


@released_on_failure()
def _plan_level(
    before: LevelContents,
    source: LevelContents,
    asked: PyramidArguments,
    number: int,
    count: str,
    kept: NDArray[np.int64] | None,
    present: int,
    last: bool,
    progress: bool,
) -> Write:
    store, kind, factor = source.store, kind_of(source.kind), np.array(asked.factor)
    schemas = {a.name: a for a in before.source.schema.attributes if a.name != count and asked.attributes.get(a.name)}
    links = before.found_links(0) if kind.link else None
    link_schemas = () if links is None or kind.has_parents else tuple(a.schema for a in links.source.attributes)
    row_bytes = max(before.source.schema.row_bytes, 1)
    names = [*schemas, *(a.name for a in link_schemas), *([count] if number > 1 else [])]
    blocks = plan_object_blocks(before, objects=kept, attributes=names, rows_per_task=max(_TASK_BYTES // row_bytes, 1))
    dtype, grid = before.source.schema.dtype, source.source.schema.grid
    edges = tuple((np.asarray(grid.chunk_shape) * factor**number).tolist())
    simplify = simplifier_of(kind)
    reducer: ObjectReducer
    if simplify is not None:
        assert asked.tolerance is not None
        tolerance = asked.tolerance * float(factor.max()) ** (number - 1)
        reducer = SimplifyReducer(blocks.reader, count, tuple(schemas), simplify, measure_of(source), tolerance)
        inputs = [_input_of(s) for s in schemas.values()]
    else:
        # level 0's own, of which the levels are means and the like: a sum of counts stays one
        reduced = [reduced_schema(s, str(asked.attributes[n])) for n, s in schemas.items()]
        inputs = [_input_of(s) for s in reduced]
        columns = [Column(s.name, str(asked.attributes[s.name]), s.dtype) for s in reduced]
        bins = tuple(e / n for e, n in zip(edges, bins_per_chunk(source, asked).tolist(), strict=True))
        of_links = tuple(Column(a.name, reduction_of(a), a.dtype) for a in link_schemas)
        directed = links is not None and links.source.family.directed
        mean = (Column("", "mean", dtype), *columns)
        reducer = ContractReducer(blocks.reader, count, tuple(schemas), bins, mean, of_links, directed)

    shared = f"zv-pyramid-reducer-{uuid.uuid4().hex[:12]}"  # one in all graphs: kept parts name it

    def arguments(builder: GraphBuilder) -> list[Any]:
        builder.lazy = True  # so that the scan keeps what it has made
        builder.tasks[shared] = DataNode(shared, reducer)
        return [Task(None, _reduce, TaskRef(shared), i, ids) for i, ids in enumerate(blocks.blocks)]

    inputs.append(AttributeInput(count, np.dtype(np.int64)))
    integers = ("object_ids", *(("vertex_ids",) if kind.link else ()), *(("parents",) if kind.has_parents else ()))
    partitions = Partitions(VERTICES, arguments, len(blocks.blocks), dtype, grid.ndim, tuple(inputs), integers)
    objects = dataclasses.replace(object_plan_of(before, store.layout), present=present)
    conversion = Conversion(ChunkGrid(edges, (1,) * grid.ndim), dtype, 0.0, None, False, store.axes)
    look = partial(_look, partial(scan_part, conversion, partitions.attributes, MAX_CATEGORIES))
    (scan, ids, lengths, read), again, kept_parts = look_once(partitions.arguments, look, _join_looks)
    partitions = dataclasses.replace(partitions, arguments=again, kept=kept_parts)
    if number == 1 and simplify is not None:
        objects = _with_lengths(objects, kind, ids, lengths, layout=store.layout)
    elif simplify is None and kept is None and links is not None and links.source.family.count not in (None, read):
        if kept_parts is not None:
            kept_parts.release()
        raise InputError(
            f"{before.url} has {links.source.family.count:,} {kind.link}s, {read:,} of them between vertices of one block "
            "of objects: coarser levels are built of stores whose links stay within objects"
        )
    metadata = LevelMetadata(
        level=number, vertex_count=0, arrays_present=("vertices",), parent_level=number - 1, chunk_shape=edges
    )
    level = LevelContents(store, number, metadata.to_attributes())
    options: WriteOptions = {name: DEFAULTS.get(name) for name in WriteOptions.__annotations__}  # type: ignore[assignment]
    options["mode"], options["progress"] = "overwrite" if number in store.levels else "error", progress
    encode, writer, ranges = _written(kind, partitions, scan, link_schemas, links, grid.ndim, store.layout)
    found = partitions, conversion, scan
    write = plan_write("pyramid", level, options, found, encode, ids=ranges, links=writer, objects=objects)
    return _described(write, source, asked, number, objects, last=last)


def _written(
    kind: Kind,
    partitions: Partitions,
    scan: Scan,
    link_schemas: tuple[AttributeSchema, ...],
    links: FoundLinks | None,
    rank: int,
    layout: str,
) -> tuple[Encode, LinkWriter, NDArray[np.int64]]:
    """Return how the vertices of a geometry are encoded and their links stored, and ranges of the ids of the objects."""
    if kind.is_path:
        paths = GridPathLinks(rank) if layout_for(layout).has_tables else PerChunkPathLinks(rank)
        return partial(encode_polylines, at_bins=False), paths, scan.ids
    if kind.has_parents:
        trees = ParentLinks(LinkFamily(2, rank), by_key=True)
        return partial(encode_skeletons, family=trees.family), trees, object_ranges(scan)
    width = 2 if links is None else links.source.family.width
    directed = links is not None and links.source.family.directed

    def arguments(builder: GraphBuilder) -> list[Any]:
        return [Task(None, _links_of, part) for part in partitions.arguments(builder)]

    inputs = tuple(AttributeInput(a.name, a.dtype, a.channels) for a in link_schemas)
    subject = link_subject(kind.link)
    table = Partitions(subject, arguments, partitions.count, np.dtype(np.int64), width, inputs)
    scans, table = scan_links(table, kind.link, None)
    family = LinkFamily(width, rank, directed=directed)
    return encode_linked, TableLinks(family, table, scans, kind.link, by_key=True), object_ranges(scan)


def _links_of(part: ReducedPart) -> RawPart:
    return RawPart(part.links, part.link_attributes, {})


def _reduce(reducer: ObjectReducer, number: int, ids: NDArray[np.int64]) -> ReducedPart:
    return reducer.part(number, ids)


def _input_of(schema: AttributeSchema) -> AttributeInput:
    """Return an attribute as its values are written again; categories keep their order."""
    if schema.dictionary is None:
        return AttributeInput(schema.name, schema.dtype, schema.channels)
    known = tuple(map(str, schema.dictionary.categories)) if schema.dictionary.ordered else None
    return AttributeInput(schema.name, np.dtype(object), None, known)


Looked = tuple[Scan, NDArray[np.int64], NDArray[np.float64], int]
"""What was found in parts: places, ids of objects, the lengths that these had, and how many links were read."""


def _look(scan: Callable[[int, RawPart], Scan], number: int, part: ReducedPart) -> Looked:
    return scan(number, part), part.ids, part.lengths, int(part.read[0])


def _join_looks(parts: Sequence[Looked]) -> Looked:
    scans, ids, lengths, read = zip(*parts, strict=True)
    return merge_scans(scans), np.concatenate(ids), np.concatenate(lengths), sum(read)


def _with_lengths(
    plan: ObjectPlan, kind: Kind, ids: NDArray[np.int64], lengths: NDArray[np.float64], *, layout: str
) -> ObjectPlan:
    """Return the objects with the lengths that they have at level 0; an attribute of that name stays as it is."""
    name = "cable_length" if kind.has_parents else "path_length"
    if name in plan.attributes:
        return plan
    values, there = np.zeros(plan.count), np.zeros(plan.count, bool)
    rows = rows_of_ranges(plan.ids, ids)
    values[rows], there[rows] = lengths, True
    column = with_sentinel(name, values, there, grid=layout_for(layout).has_tables)
    return dataclasses.replace(plan, attributes={**plan.attributes, name: column})


def _described(
    write: Write, source: LevelContents, asked: PyramidArguments, number: int, objects: ObjectPlan, *, last: bool
) -> Write:
    """Return a write whose commit says what the level is of, and leaves the bounds of the store as they are."""
    store, commit = source.store, write.job.commit
    told = dict(commit.metadata)
    mine = {
        "object_sparsity": 1.0 if asked.keep is None else asked.keep[0],
        "coarsening_method": asked.method,
        "preserves_object_ids": True,
        "inherited_num_objects": objects.count,
    }
    document = {**told[""]["zarr_vectors_level"], **mine}
    told[""] = {**told[""], "zarr_vectors_level": document, STALE: False, ASKED: asked.to_json(number)}
    told[".."] = root_attributes(store, asked.factor, number, objects=True)
    remove = commit.remove + (tuple(f"../{n}" for n in store.levels if n > number) if last else ())
    commit = dataclasses.replace(commit, metadata=tuple(told.items()), remove=remove, root=store.group.attrs.to_dict())
    return dataclasses.replace(write, job=dataclasses.replace(write.job, commit=commit))
