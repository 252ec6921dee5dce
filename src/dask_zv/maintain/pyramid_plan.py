"""The levels of a pyramid as they are planned: how many, their grids, objects and metadata, the graph, and the commit."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from dask.task_spec import List, TaskRef
from numpy.typing import NDArray

from dask_zv.config import settings
from dask_zv.format.grids import GridSpec, codec_list
from dask_zv.format.keys import join
from dask_zv.format.levels import LevelMetadata
from dask_zv.format.metadata import level_dataset, ome_collection
from dask_zv.geometry.block import EncodedBlock
from dask_zv.geometry.cells import Column, mixed, reduced_schema
from dask_zv.geometry.kinds import kind_of
from dask_zv.geometry.schema import AttributeSchema, PointSchema
from dask_zv.graph.builder import GraphBuilder
from dask_zv.graph.progress import topic_of
from dask_zv.graph.report import Report
from dask_zv.graph.tasks import add_preparation, commit, run_block
from dask_zv.level.contents import LevelContents, StoreContents
from dask_zv.level.source import LevelSource, check_unchanged
from dask_zv.level.stale import STALE
from dask_zv.maintain.convert_level import object_plan_of
from dask_zv.maintain.pyramid_asked import ASKED, MOST_LEVELS, PyramidArguments
from dask_zv.maintain.pyramid_cells import CellJob, CellLevel, add_tiers, block_rows, plan_tiers
from dask_zv.read.object_rows import object_lengths
from dask_zv.spatial.chunks import group_by_chunk
from dask_zv.spatial.grid import ChunkGrid
from dask_zv.storage.grid.plan import grid_settings
from dask_zv.storage.handles import open_objects
from dask_zv.storage.layout import layout_for, open_place
from dask_zv.storage.nodes import SETTINGS, load_catalog
from dask_zv.storage.opening import objects_are_cheap
from dask_zv.storage.specs import BlockResult, BlockSpec, CommitSpec, GridPlan, PerChunkPlan, Place
from dask_zv.write.journal import Journal, find_journal, whole_blocks
from dask_zv.write.object_index import write_object_index
from dask_zv.write.object_plan import ObjectPlan, object_blobs, object_metadata
from dask_zv.write.planning import old_nodes

if TYPE_CHECKING:
    from dask.delayed import Delayed

PICTURE = 1_000_000
"""Vertices that a picture shows at once: where their number is not given, levels are built until one has no more."""


def bins_per_chunk(level: LevelContents, asked: PyramidArguments) -> NDArray[np.int64]:
    """Return the bins along the edges of a chunk: those asked for, the store's, or so many that a bin has about a vertex."""
    ndim = level.source.schema.grid.ndim
    if asked.cells is not None:
        return np.array(asked.cells, np.int64)
    own = np.array(level.store.metadata.bins_per_chunk, np.int64)
    if (own > 1).any():
        return own
    rows = level.chunks.rows
    pieces = int(np.count_nonzero(rows))
    if level.source.schema.has_objects:  # each has bins of its own
        pieces = sum(len(part.objects) for part in level.index.slices())
    mean = float(rows.sum()) / max(pieces, 1)
    spread = 2 if kind_of(level.kind).link == "face" else ndim  # a surface has bins along two directions
    return np.full(ndim, max(round(mean ** (1 / spread)), 1), np.int64)


def _count_levels(level: LevelContents, factor: NDArray[np.int64], per_chunk: NDArray[np.int64]) -> int:
    """Return how many levels it takes until one has so few vertices that a picture shows them, at most."""
    coords = level.chunks.coords
    for number in range(1, MOST_LEVELS):
        coords = group_by_chunk(coords // factor)[0]
        if len(coords) * int(np.prod(per_chunk)) <= PICTURE or len(coords) == 1:
            return number
    return MOST_LEVELS


def kept_objects(
    level: LevelContents, asked: PyramidArguments, levels: int
) -> tuple[list[NDArray[np.int64] | None], list[int]]:
    """Return the ids that each coarser level keeps, ascending (None for all), and how many of them have vertices."""
    if not level.source.schema.has_objects:
        return [None] * levels, [0] * levels
    known = object_lengths(level.source, level.chunks, level.index)
    there = int(np.count_nonzero(known.lengths > 0))
    if asked.keep is None:
        return [None] * levels, [there] * levels
    share, by = asked.keep
    if by == "random":
        seed = np.uint64(asked.seed % (1 << 64))
        rank = mixed(mixed(known.ids.astype(np.uint64)) ^ seed)
        order = np.lexsort((known.ids, rank))
    else:
        values = known.lengths.astype(np.float64)
        if by != "length":
            column = np.ma.asarray(level.index.attributes(level.index.rows(known.ids), by)[by])
            values = np.asarray(np.ma.filled(column.astype(np.float64), -np.inf))
            values = np.where(np.isnan(values), -np.inf, values)
        order = np.lexsort((known.ids, -values))
    order = order[known.lengths[order] > 0]
    kept: list[NDArray[np.int64] | None] = []
    counts: list[int] = []
    n = len(order)
    for _ in range(levels):
        n = max(int(np.ceil(n * share)), 1)
        kept.append(np.sort(known.ids[order[:n]]))
        counts.append(n)
    return kept, counts


def _columns(
    level: LevelContents, asked: PyramidArguments, count: str
) -> tuple[tuple[Column, ...], tuple[AttributeSchema, ...]]:
    """Return how positions and attributes are reduced, and the attributes of coarser levels."""
    columns = [Column("", asked.method, level.source.schema.dtype)]
    schemas: list[AttributeSchema] = []
    for attribute in level.source.schema.attributes:
        how = asked.attributes[attribute.name]
        if how is not None:
            schemas.append(reduced_schema(attribute, how))
            columns.append(Column(attribute.name, how, schemas[-1].dtype))
    return tuple(columns), (*schemas, AttributeSchema(count, np.dtype("<i8")))


@dataclass(frozen=True, slots=True, eq=False)
class LevelPlan:
    """A level that is to be built."""

    level: CellLevel
    commit: CommitSpec
    objects: ObjectPlan | None


def plan_pyramid(source: LevelContents, asked: PyramidArguments, levels: int | None, *, watched: bool) -> Delayed:
    """Return the graph of the build."""
    store, schema, table = source.store, source.source.schema, source.chunks
    factor, per_chunk = np.array(asked.factor, np.int64), bins_per_chunk(source, asked)
    number = _count_levels(source, factor, per_chunk) if levels is None else levels
    count = "count"
    while count in asked.attributes:
        count = f"vertex_{count}"
    columns, attributes = _columns(source, asked, count)
    row_bytes = max(schema.row_bytes, 1)
    tiers = plan_tiers(table.coords, table.rows, factor, number, block_rows(int(table.rows.sum()), row_bytes))
    last_of = {n: t.last for t in tiers for n in range(t.first, t.last + 1)}
    kept, present = kept_objects(source, asked, number)
    state = [
        source.source.token,
        source.source.index_token,
        asked.to_json(number),
        [[b.tolist() for b in t.sources] for t in tiers],
    ]
    digest = hashlib.sha256(json.dumps(state, default=str).encode()).hexdigest()[:32]
    builder = GraphBuilder("zv-pyramid", watched=watched, store=store.handle)
    plans: list[LevelPlan] = []
    done: dict[int, dict[int, BlockResult]] = {}
    large = int(table.rows.sum()) * row_bytes >= settings().journal_bytes and not store.handle.one_process
    for n in range(1, number + 1):
        blocks = len(next(t for t in tiers if t.first <= n <= t.last))
        plan = _plan_level(
            source, asked, n, number, attributes, factor**n, factor ** (last_of[n] - n), kept[n - 1], present[n - 1]
        )
        if large and not store.handle.is_session:
            journal = Journal(plan.commit.place, digest, np.arange(blocks).astype(np.uint64))
            found = find_journal(plan.commit.place)
            if found is not None and found.digest == digest:
                specs = None if plan.level.block.grid is None else plan.level.block.grid.specs
                done[n] = whole_blocks(plan.commit.place, specs, journal.read())
            commit_spec = dataclasses.replace(plan.commit, stamp=digest, kept=len(done.get(n, {})), sweep=plan.commit.replace)
            plan = dataclasses.replace(plan, level=dataclasses.replace(plan.level, journal=journal), commit=commit_spec)
        if watched:
            spec = dataclasses.replace(plan.level.block, topic=topic_of(builder.run))
            plan = dataclasses.replace(plan, level=dataclasses.replace(plan.level, block=spec))
        plans.append(plan)
    base = np.floor(np.asarray(store.metadata.bounds[0])).astype(schema.dtype) if schema.dtype.kind in "iu" else None
    read = tuple(a for a in schema.attributes if asked.attributes[a.name] not in (None, "count"))
    job = CellJob(source.source, read, columns, count, factor, per_chunk, base, asked.seed, tuple(p.level for p in plans))
    before: list[TaskRef] = []
    for plan in plans:
        before += add_preparation(builder.sub(str(plan.level.number)), plan.commit)
        if plan.level.journal is not None:
            before.append(builder.add(builder.key("journal", plan.level.number), plan.level.journal.begin))
    results = add_tiers(builder, job, tiers, table, done, before)
    waiting: list[TaskRef] = []
    for plan in plans:
        waiting += _add_objects(builder.sub(f"level-{plan.level.number}"), plan, results[plan.level.number], schema.grid.ndim)
    receipts: list[List] = []
    for n, found_of in sorted(results.items()):
        alone = [builder.add(builder.key("receipt", f"{n}-{i}"), _without_extra, r) for i, r in enumerate(found_of)]
        receipts.append(List(*alone))
    end = builder.key("commit")
    return builder.commit(end, _commit_levels, source.source, tuple(p.commit for p in plans), List(*receipts), List(*waiting))


def _add_objects(builder: GraphBuilder, plan: LevelPlan, results: list[TaskRef], rank: int) -> list[TaskRef]:
    """Add the tasks that write a level's manifests and tables of objects; blobs of these are added to the results."""
    if plan.objects is None:
        return []
    place, stored = plan.commit.place, None
    if not layout_for(place.layout).has_tables and (blobs := object_blobs(plan.objects)):
        encoded = EncodedBlock({(array, key): data for array, key, data in blobs})
        stored = builder.store(builder.key("objects"), run_block, "objects", 0, "", None, BlockSpec(place), encoded)
    written = write_object_index(builder, place, plan.objects, rank, results)[0]
    results += [] if stored is None else [stored]
    return written


def _without_extra(result: BlockResult) -> BlockResult:
    return dataclasses.replace(result, extra=None)


def _plan_level(
    source: LevelContents,
    asked: PyramidArguments,
    number: int,
    levels: int,
    attributes: tuple[AttributeSchema, ...],
    grown: NDArray[np.int64],
    shard: NDArray[np.int64],
    kept: NDArray[np.int64] | None,
    present: int,
) -> LevelPlan:
    """Return the plan of one level, whose chunks are `grown` (D,) times those of level 0; a shard has at most `shard` (D,)."""
    store, layout = source.store, layout_for(source.store.layout)
    own = source.source.schema
    edges = tuple((np.asarray(own.grid.chunk_shape) * grown).tolist())
    schema = PointSchema(ChunkGrid(edges, (1,) * own.grid.ndim), own.dtype, attributes, own.has_objects)
    place = Place(store.handle, join(store.prefix, str(number)), store.layout)
    opened = open_objects(store.handle)
    replace = number in store.levels
    objects = None
    if own.has_objects:
        objects = dataclasses.replace(object_plan_of(source, store.layout), present=present)
    grid, shards = None, None
    coords = group_by_chunk(source.chunks.coords // grown)[0]
    if layout.shards_have_extents:
        catalog = load_catalog(opened, place.prefix)
        spec = _grid(source, coords, grown, shard)
        token = "" if catalog is None else catalog.token
        grid = GridPlan(dict.fromkeys(schema.arrays, spec), token=token, alone=not replace)
    replaces = replace and (grid is None or len(open_place(place).list_keys("vertices")))
    told: list[tuple[str, Mapping[str, Any]]] = list(schema.array_metadata(grid=grid is not None))
    names = [*schema.arrays]
    if objects is not None:
        described = object_metadata(objects, own.grid.ndim, store.layout)
        told += described
        names += [a for a, _ in described]
    metadata = LevelMetadata(
        level=number,
        vertex_count=0,  # the commit counts
        arrays_present=("vertices", "vertex_attributes", *(("object_index",) if objects is not None else ())),
        object_sparsity=1.0 if asked.keep is None else asked.keep[0],
        coarsening_method=f"bin_{asked.method}",
        parent_level=number - 1,
        chunk_shape=edges,
        preserves_object_ids=objects is not None,
        inherited_num_objects=None if objects is None else objects.count,
        fragments_tile=grid is not None,
    )
    ours: dict[str, Any] = {"layout": store.layout}
    if grid is not None:
        ours["grid"] = grid_settings(grid.specs["vertices"])
    told.append(("", {**metadata.to_attributes(), SETTINGS: ours, STALE: False, ASKED: asked.to_json(levels)}))
    remove = old_nodes(opened, place, schema, objects, (), trees=False) if replace else ()
    if number == levels:
        told.append(("..", root_attributes(store, asked.factor, levels, objects=objects is not None)))
        remove += tuple(f"../{n}" for n in store.levels if n > levels)
    commit_spec = CommitSpec(
        place,
        tuple(told),
        tuple(names),
        catalog=True,
        replace=replace,
        remove=remove,
        objects=0 if objects is None else objects.count,
        grid=grid,
        marker=uuid.uuid4().hex[:12] if replaces else "",
        root=store.group.attrs.to_dict() if number == levels else {},
    )
    block = BlockSpec(place, grid, PerChunkPlan(shards))
    return LevelPlan(CellLevel(number, block, schema, kept), commit_spec, objects)


def _grid(source: LevelContents, coords: NDArray[np.int64], grown: NDArray[np.int64], shard: NDArray[np.int64]) -> GridSpec:
    """Return the grid of a level's arrays, with shards of whole chunks of the level up to which a task stores."""
    store = source.store
    low, high = coords.min(axis=0) // shard * shard, coords.max(axis=0)
    asked = store.settings.get("shard_chunks", "auto")
    few = objects_are_cheap(store.handle) and len(coords) <= settings().few_chunks
    packed = asked != 1 and not (asked == "auto" and few) and int(np.prod(shard)) > 1
    shape = tuple((high - low + 1).tolist())
    codecs = codec_list(store.settings.get("codecs", "zstd"))
    return GridSpec(shape, tuple(low.tolist()), tuple(shard.tolist()) if packed else None, codecs)


def root_attributes(store: StoreContents, factor: Sequence[int], levels: int, *, objects: bool) -> dict[str, Any]:
    """Return the root's attributes with the coarser levels in ``multiscales`` (and in ``ome``); a bin of them is a chunk."""
    metadata, attributes = store.metadata, store.group.attrs.to_dict()
    entries = [dict(d) for d in metadata.datasets if d["path"] == "0"]
    for n in range(1, levels + 1):
        edges = [e * f**n for e, f in zip(metadata.chunk_shape, factor, strict=True)]
        entries.append(level_dataset(n, [e / b for e, b in zip(edges, metadata.bin_shape, strict=True)], edges))
    told = [c for c in metadata.format_capabilities if c not in ("multiscale_links", "shared_fragments")]
    if objects and "preserved_object_ids" not in told:
        told.append("preserved_object_ids")
    metadata = dataclasses.replace(
        metadata, datasets=tuple(entries), format_capabilities=tuple(told), cross_level_storage="none", cross_level_depth=0
    )
    out = {**attributes, **metadata.to_attributes()}
    if layout_for(store.layout).has_codecs:
        known = attributes.get("ome")
        name = known.get("name") if isinstance(known, Mapping) else None
        out |= ome_collection(name or store.url.rstrip("/").rpartition("/")[2], metadata.axes, range(levels + 1))
    return out


def _commit_levels(
    source: LevelSource, specs: Sequence[CommitSpec], results: Sequence[Sequence[BlockResult]], _: Sequence[Any]
) -> Report:
    """Commit the levels, the finest first, and with the last of them the root that names them; return one report of all."""
    if source.catalogued:
        check_unchanged(source)  # who has changed it meanwhile has marked levels that were not there yet
    reports: list[Report] = []
    for spec, found in zip(specs, results, strict=True):
        rows = sum(int(r.receipt.rows[r.receipt.rows > 0].sum()) for r in found)
        told = [
            (path, {**a, "zarr_vectors_level": {**a["zarr_vectors_level"], "vertex_count": rows}} if not path else a)
            for path, a in spec.metadata
        ]
        reports.append(commit(dataclasses.replace(spec, metadata=tuple(told), count=rows), found))
    arrays: Counter[str] = Counter()
    for number, report in enumerate(reports, 1):
        arrays.update({f"{number}/{name}": n for name, n in report.arrays.items()})
    counts = {n: sum(getattr(r, n) for r in reports) for n in ("rows", "chunks", "nbytes", "files", "kept")}
    times = tuple(t for r in reports for t in r.times)
    return Report(
        **counts, objects=max(r.objects for r in reports), blocks=len(times), seconds=max(r.seconds for r in reports),
        arrays=dict(arrays), times=times,
    )  # fmt: skip
