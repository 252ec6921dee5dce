"""What all writing functions share: the checks before anything is stored, and the one graph that carries a write out."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from dask.delayed import Delayed
from dask.task_spec import List, Task, TaskRef

from dask_zv.batch.graph import GraphBuilder, build_write_graph
from dask_zv.batch.receipts import Report
from dask_zv.batch.run import check_reachable, compute_one
from dask_zv.batch.tasks import BlockSpec, CommitSpec, EncodedBlock
from dask_zv.errors import InputError, ReadOnlyError, StoreError
from dask_zv.format.dictionary import DictionaryEncoding
from dask_zv.geometry.blocks import GeometryBlock
from dask_zv.geometry.rows import VertexRows
from dask_zv.geometry.schema import AttributeSchema, PointSchema
from dask_zv.pipelines.stores.creation import position_dtype
from dask_zv.pipelines.stores.store import Level, Store
from dask_zv.pipelines.writing.exchange import BlockPlan, Touch, plan_blocks, remove_spill, spill_directory, split_partitions
from dask_zv.pipelines.writing.inputs import AttributeInput, Partitions
from dask_zv.pipelines.writing.level_metadata import grid_plan, level_attributes, old_nodes, root_attributes, shards_of
from dask_zv.pipelines.writing.manifests import ObjectPlan, object_blobs, object_metadata, write_object_index
from dask_zv.pipelines.writing.object_arrays import write_edge_counts
from dask_zv.pipelines.writing.scan import Conversion, Scan, scan_partitions
from dask_zv.spatial.grid import Box, ChunkGrid
from dask_zv.storage.handles import open_objects
from dask_zv.storage.objects import join

__all__ = ["LinkStep", "Options", "Write", "attribute_schema", "level_to_write", "scan_input"]

_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Options:
    """What every writing function can be asked for; see :func:`dask_zv.write_points`."""

    mode: str = "error"
    out_of_bounds: str = "raise"
    position_tolerance: float | None = None
    max_categories: int = 10_000
    compute: bool = True
    progress: bool | None = None


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
        return {p: touch.blocks(spans) for p, spans in self.scan.spans.items()}


def level_to_write(store: Store, geometries: Sequence[str], function: str, options: Options) -> Level:
    """Return the level that a function may write to.

    Raises
    ------
    InputError, ReadOnlyError, StoreError, PlanError
        It may not.
    """
    if options.mode not in ("error", "overwrite"):
        raise InputError(f"mode is 'error' or 'overwrite', not {options.mode!r}")
    policies = ("raise", "ignore", "expand") if function == "write_points" else ("raise", "expand")
    if options.out_of_bounds not in policies:
        said = " or ".join(map(repr, policies)) if len(policies) == 2 else "'raise', 'ignore' or 'expand'"
        raise InputError(f"out_of_bounds is {said}, not {options.out_of_bounds!r}")
    if not isinstance(store, Store):
        raise InputError(f"store is a dask_zv.Store (from dzv.create or dzv.open), not {type(store).__name__}")
    kinds = store.metadata.geometry_types
    if kinds and kinds[0] not in geometries:
        wanted = " or ".join(f"geometry={g!r}" for g in geometries)
        raise InputError(f"{store.url} is a store of {kinds[0]}: {function} wants one made with dzv.create({wanted})")
    if store.read_only:
        raise ReadOnlyError("the store was opened read-only: dzv.open(..., mode='r+')", store=store.url)
    check_reachable(store.handle)
    level = store.level(0)
    _check_empty(level, options.mode)
    return level


def scan_input(level: Level, partitions: Partitions, options: Options) -> tuple[Conversion, Scan]:
    """Look at the data once, on the active scheduler.

    Raises
    ------
    InputError, BoundsError
        It can't be stored.
    """
    conversion = _conversion(level.store, partitions, options.out_of_bounds, options.position_tolerance)
    return conversion, scan_partitions(partitions, conversion, options.max_categories)


@dataclass(frozen=True, eq=False)
class Write:
    """A write that has been checked, and can be built and run.

    Attributes
    ----------
    name : str
        Of the tasks, for dashboards.
    level : Level
    partitions : Partitions
    conversion : Conversion
    scan : Scan
    objects : ObjectPlan or None
    encode : function of (PointSchema, VertexRows) to GeometryBlock
        Runs on workers.
    options : Options
    links : LinkStep, optional
    numbered : bool
        Rows carry their place in the input.
    """

    name: str
    level: Level
    partitions: Partitions
    conversion: Conversion
    scan: Scan
    objects: ObjectPlan | None
    encode: Callable[[PointSchema, VertexRows], GeometryBlock]
    options: Options
    links: LinkStep | None = None
    numbered: bool = False

    @property
    def schema(self) -> PointSchema:
        """What the level will hold."""
        attributes = tuple(attribute_schema(a, self.scan) for a in self.partitions.attributes)
        return PointSchema(self.conversion.grid, self.conversion.dtype, attributes, self.objects is not None)

    @property
    def replace(self) -> bool:
        """True where the level's content is replaced."""
        return self.options.mode == "overwrite"

    def run(self, started: float) -> Report | Delayed:
        """Run the write on the active scheduler, or return it, as the options say."""
        spill = spill_directory(self.scan.rows * self.schema.row_bytes)
        delayed = self.build(spill)
        if not self.options.compute:
            return delayed
        try:
            report: Report = compute_one(delayed, progress=self.options.progress)
        finally:
            remove_spill(spill)
        self.level.store.reload()
        return dataclasses.replace(report, seconds=time.perf_counter() - started)

    def build(self, spill: str | None) -> Delayed:
        """Build the graph; nothing runs."""
        level, scan, schema, objects, links = self.level, self.scan, self.schema, self.objects, self.links
        store, place = level.store, level.place
        opened = open_objects(place.handle)
        builder = GraphBuilder(f"zv-{self.name}")
        grid, shards = None, None
        if store.layout == "grid":
            grid = grid_plan(level, scan, [*schema.arrays, *(links.arrays if links else ())], self.options.mode)
            if links is not None:
                grid = dataclasses.replace(grid, families=dict.fromkeys(links.families, grid.specs["vertices"]))
            if self.replace and len(place.open().list_keys("vertices")):
                grid = dataclasses.replace(grid, marker=builder.run)
        else:
            shards = shards_of(store, opened, scan.coords)
        cells = None if grid is None else grid.specs["vertices"]
        plan = plan_blocks(scan, schema.row_bytes, shards, self.partitions.count, cells)
        gathered = split_partitions(
            builder, self.partitions, self.conversion, schema.attributes, plan, scan, spill, numbered=self.numbered
        )
        block = BlockSpec(place, shard_chunks=shards, grid=grid)
        blocks: list[tuple[BlockSpec, Any]] = [
            (block, Task(None, _encode_block, self.encode, schema, rows)) for rows in gathered
        ]
        metadata: list[tuple[str, Mapping[str, Any]]] = list(schema.array_metadata(grid=grid is not None))
        arrays = [*schema.arrays]
        if links is not None:
            metadata += links.metadata()
            arrays += links.arrays
        if objects is not None:
            extra = object_blobs(objects) if grid is None else []
            if extra:
                blocks.append((BlockSpec(place), EncodedBlock({(a, k): data for a, k, data in extra})))
            described = object_metadata(objects, self.conversion.grid.ndim, store.layout)
            metadata += described
            arrays += [a for a, _ in described]
        families = links.families if links is not None else ()
        trees = store.metadata.geometry_types[:1] == ("skeleton",)
        explicit = links is not None and not links.crossings
        metadata += [
            ("", level_attributes(level, scan, schema, cells, objects=objects is not None, links=explicit)),
            ("..", root_attributes(store, scan, self.conversion, shards)),
        ]
        spec = CommitSpec(
            place,
            tuple(metadata),
            tuple(arrays),
            catalog=True,
            replace=self.replace,
            remove=old_nodes(opened, place, schema, objects, families, trees=trees) if self.replace else (),
            report=Report(scan.rows, 0, objects.count if objects else 0, 0, 0, 0, 0.0, scan.dropped),
            grid=grid,
            families=families if grid is not None else (),
        )

        def after_blocks(builder: GraphBuilder, results: list[TaskRef]) -> tuple[list[TaskRef], list[TaskRef]]:
            waiting = [builder.add(builder.key("tidy"), _tidy, spill, *results)] if spill else []
            crossings: list[TaskRef] = []
            if objects is not None:
                written, crossings = write_object_index(
                    builder, place, objects, self.conversion.grid.ndim, results, nodes_first=opened.nodes_first,
                    crossings=links is not None and links.crossings,
                )  # fmt: skip
                waiting += written
            if trees:
                mine = List(*results[: len(plan)])
                waiting.append(builder.add(builder.key("edge-counts"), write_edge_counts, place, mine, opened.nodes_first))
            if links is None:
                return waiting, []
            context = LinkContext(builder, block, plan, scan, results[: len(plan)], crossings, opened.nodes_first, self.replace)
            return waiting, links.add(context)

        then = after_blocks if objects is not None or spill or links is not None else None
        return build_write_graph(blocks, spec, builder=builder, nodes_first=opened.nodes_first, then=then)


def _check_empty(level: Level, mode: str) -> None:
    if mode == "overwrite":
        if level.store.layout == "grid" and level.metadata.chunk_attribute_name is not None:
            # objects of keys with another number of parts: in directories, theirs have the names of ours
            raise StoreError(
                f"level 0 is chunked by the attribute {level.metadata.chunk_attribute_name!r}, which can't be overwritten: "
                "make the store anew, dzv.create(..., overwrite=True)",
                store=level.url,
            )
        return
    if level.metadata.vertex_count:
        raise StoreError(
            f"level 0 has {level.metadata.vertex_count:,} vertices already: pass mode='overwrite' to replace them",
            store=level.url,
        )
    objects = open_objects(level.place.handle)
    if level.store.layout == "grid":  # chunks without a commit are in nobody's list
        if len(level.place.open().list_keys("vertices")):
            raise StoreError("level 0 has chunks already: pass mode='overwrite' to replace them", store=level.url)
        return
    if any(n != "zarr.json" for n in objects.list_dir(join(level.place.prefix, "vertices"))):
        raise StoreError(
            "level 0 holds chunks of a write that did not reach its commit: pass mode='overwrite' to replace them",
            store=level.url,
        )


def _conversion(store: Store, partitions: Partitions, out_of_bounds: str, position_tolerance: float | None) -> Conversion:
    metadata = store.metadata
    grid = ChunkGrid(metadata.chunk_shape, metadata.bins_per_chunk)
    declared = store.settings.get("dtype")
    dtype = position_dtype(np.dtype(declared) if isinstance(declared, str) else partitions.dtype)
    tolerance = _TOLERANCE * min(metadata.bin_shape) if position_tolerance is None else float(position_tolerance)
    if not tolerance >= 0:
        raise InputError(f"position_tolerance is a distance of at least 0, not {position_tolerance!r}")
    box: Box | None = None
    if out_of_bounds != "expand" and store.settings.get("bounds", "declared") == "declared":
        box = np.asarray(metadata.bounds[0], np.float64), np.asarray(metadata.bounds[1], np.float64)
    return Conversion(grid, dtype, tolerance, box, out_of_bounds == "ignore", store.axes)


def attribute_schema(attribute: AttributeInput, scan: Scan) -> AttributeSchema:
    """Return how an attribute is stored, by what the scan found of it."""
    if not attribute.is_dictionary:
        return AttributeSchema(attribute.name, attribute.dtype.newbyteorder("<"), attribute.channels)
    found, missing = scan.categories.get(attribute.name, (frozenset(), False))
    ordered = attribute.categories is not None
    categories = attribute.categories if attribute.categories is not None else tuple(sorted(found))
    dictionary = DictionaryEncoding(categories, ordered, -1 if missing else None)
    return AttributeSchema(attribute.name, dictionary.dtype, None, dictionary)


def _encode_block(
    encode: Callable[[PointSchema, VertexRows], GeometryBlock], schema: PointSchema, rows: VertexRows
) -> EncodedBlock:
    made = encode(schema, rows)
    return EncodedBlock(made.blobs, made.rows, made.extra, made.metadata, made.records)


def _tidy(spill: str, *_: Any) -> None:
    remove_spill(spill)
