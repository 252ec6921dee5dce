"""Coarser levels of paths and trees: each is made of the level before, whole object by whole object, and written as level 0 is.

A task reads a block of objects and simplifies them; what comes of it goes into the writing of a level (scan, blocks, links,
objects, commit), which keeps it in memory where there is room.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from dask.task_spec import Task
from numpy.typing import NDArray

from dask_zv.analysis.objects import ObjectReader, plan_object_blocks
from dask_zv.format.dictionary import MAX_CATEGORIES
from dask_zv.format.levels import LevelMetadata
from dask_zv.format.links import LinkFamily
from dask_zv.geometry.kinds import kind_of
from dask_zv.geometry.polylines import encode_polylines
from dask_zv.geometry.schema import AttributeSchema, Kind
from dask_zv.geometry.simplify import Simplify, counts_of, simplifier_of
from dask_zv.geometry.skeletons import encode_skeletons
from dask_zv.graph.builder import GraphBuilder
from dask_zv.graph.keeping import look_once, released_on_failure
from dask_zv.graph.report import Report
from dask_zv.level.contents import LevelContents, StoreContents
from dask_zv.level.stale import STALE, is_stale
from dask_zv.maintain.convert_level import object_plan_of
from dask_zv.maintain.pyramid_asked import ASKED, MOST_LEVELS, PyramidArguments, measure_of
from dask_zv.maintain.pyramid_plan import PICTURE, kept_objects, root_attributes
from dask_zv.read.object_rows import read_whole_objects
from dask_zv.spatial.grid import ChunkGrid
from dask_zv.storage.layout import layout_for
from dask_zv.write.convert import Conversion
from dask_zv.write.inputs import VERTICES
from dask_zv.write.links import object_ranges
from dask_zv.write.object_plan import ObjectPlan, rows_of_ranges, with_sentinel
from dask_zv.write.options import DEFAULTS, WriteOptions
from dask_zv.write.partitions import AttributeInput, Partitions, RawPart
from dask_zv.write.planning import plan_write
from dask_zv.write.polylines import GridPathLinks, PerChunkPathLinks
from dask_zv.write.running import Write
from dask_zv.write.scan import scan_partitions
from dask_zv.write.skeletons import ParentLinks

_TASK_BYTES = 8 << 20
"""What a task reads: simplifying takes several times as much."""
_BLOCK_BITS = 40


@dataclass(frozen=True, slots=True, eq=False)
class ReducedPart(RawPart):
    """Objects that were simplified, with the lengths that they had."""

    ids: NDArray[np.int64]
    lengths: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class ObjectReducer:
    """How a task makes a part of a coarser level."""

    reader: ObjectReader
    simplify: Simplify
    scale: tuple[float, ...]  # by which positions are multiplied before they are measured
    tolerance: float
    count: str
    attributes: tuple[str, ...]

    def part(self, number: int, ids: NDArray[np.int64]) -> ReducedPart:
        """Return a block of objects, simplified."""
        reader = self.reader
        read = read_whole_objects(reader.rows, ids, reader.wanted, reader.links, chunked=reader.chunked, tables=False)
        found = self.simplify(read, read.positions.astype(np.float64) * np.asarray(self.scale), self.tolerance)
        given = read.attributes.get(self.count, np.ones(len(read), np.int64))
        values = {name: read.attributes[name][found.rows] for name in self.attributes}
        values[self.count] = counts_of(found, given)
        lengths = read.lengths
        assert lengths is not None
        integers = {"object_ids": np.repeat(ids, lengths)[found.rows]}
        if found.parents is not None:
            first = number << _BLOCK_BITS
            integers["vertex_ids"] = np.arange(first, first + len(found.rows))
            integers["parents"] = np.where(found.parents < 0, -1, found.parents + first)
        return ReducedPart(read.positions[found.rows], values, integers, ids, found.lengths)


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
    row_bytes = max(before.source.schema.row_bytes, 1)
    names = [*schemas, count] if number > 1 else [*schemas]
    blocks = plan_object_blocks(before, objects=kept, attributes=names, rows_per_task=max(_TASK_BYTES // row_bytes, 1))
    simplify = simplifier_of(kind)
    assert simplify is not None
    assert asked.tolerance is not None
    tolerance = asked.tolerance * float(factor.max()) ** (number - 1)
    reducer = ObjectReducer(blocks.reader, simplify, measure_of(source), tolerance, count, tuple(schemas))

    def arguments(builder: GraphBuilder) -> list[Any]:
        builder.lazy = True  # so that the scan keeps what it has made
        shared = builder.share("reducer", reducer)
        return [Task(None, _reduce, shared, i, ids) for i, ids in enumerate(blocks.blocks)]

    inputs = (*(_input_of(s) for s in schemas.values()), AttributeInput(count, np.dtype(np.int64)))
    integers = ("object_ids", "vertex_ids", "parents") if kind.has_parents else ("object_ids",)
    dtype, ndim = before.source.schema.dtype, before.source.schema.grid.ndim
    partitions = Partitions(VERTICES, arguments, len(blocks.blocks), dtype, ndim, inputs, integers)
    objects = dataclasses.replace(object_plan_of(before, store.layout), present=present)
    if number == 1:
        found, again, kept_parts = look_once(partitions.arguments, _lengths_of, _join_lengths)
        partitions = dataclasses.replace(partitions, arguments=again, kept=kept_parts)
        objects = _with_lengths(objects, kind, *found, layout=store.layout)
    edges = tuple((np.asarray(source.source.schema.grid.chunk_shape) * factor**number).tolist())
    conversion = Conversion(ChunkGrid(edges, (1,) * ndim), dtype, 0.0, None, False, store.axes)
    held = partitions.kept
    scan, partitions = scan_partitions(partitions, conversion, MAX_CATEGORIES)
    if held is not None and partitions.kept is not None:
        held.release()
    elif held is not None:
        partitions = dataclasses.replace(partitions, kept=held)
    metadata = LevelMetadata(
        level=number, vertex_count=0, arrays_present=("vertices",), parent_level=number - 1, chunk_shape=edges
    )
    level = LevelContents(store, number, metadata.to_attributes())
    options: WriteOptions = {name: DEFAULTS.get(name) for name in WriteOptions.__annotations__}  # type: ignore[assignment]
    options["mode"], options["progress"] = "overwrite" if number in store.levels else "error", progress
    found_all = partitions, conversion, scan
    if kind.has_parents:
        trees = ParentLinks(LinkFamily(2, ndim), by_key=True)
        encode = partial(encode_skeletons, family=trees.family)
        write = plan_write("pyramid", level, options, found_all, encode, ids=object_ranges(scan), links=trees, objects=objects)
    else:
        links = GridPathLinks(ndim) if layout_for(store.layout).has_tables else PerChunkPathLinks(ndim)
        cut = partial(encode_polylines, at_bins=False)
        write = plan_write("pyramid", level, options, found_all, cut, ids=scan.ids, links=links, objects=objects)
    return _described(write, source, asked, number, objects, last=last)


def _reduce(reducer: ObjectReducer, number: int, ids: NDArray[np.int64]) -> ReducedPart:
    return reducer.part(number, ids)


def _input_of(schema: AttributeSchema) -> AttributeInput:
    """Return an attribute as its values are written again; categories keep their order."""
    if schema.dictionary is None:
        return AttributeInput(schema.name, schema.dtype, schema.channels)
    known = tuple(map(str, schema.dictionary.categories)) if schema.dictionary.ordered else None
    return AttributeInput(schema.name, np.dtype(object), None, known)


Lengths = tuple[NDArray[np.int64], NDArray[np.float64]]


def _lengths_of(_: int, part: ReducedPart) -> Lengths:
    return part.ids, part.lengths


def _join_lengths(parts: Any) -> Lengths:
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


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
