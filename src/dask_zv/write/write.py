"""What all writing functions share: the checks before anything is stored, and the plan of what will be."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask.delayed import Delayed, delayed

from dask_zv.config import settings
from dask_zv.errors import InputError, PlanError, ReadOnlyError, StoreError
from dask_zv.format.dictionary import DictionaryEncoding
from dask_zv.format.keys import join
from dask_zv.geometry.block import GeometryBlock
from dask_zv.geometry.kinds import kind_of
from dask_zv.geometry.rows import VertexRows
from dask_zv.geometry.schema import AttributeSchema, PointSchema
from dask_zv.graph.forks import check_writable
from dask_zv.graph.report import Report
from dask_zv.graph.run import task_memory
from dask_zv.level.contents import LevelContents, StoreContents
from dask_zv.level.create import position_dtype
from dask_zv.spatial.grid import Box, ChunkGrid
from dask_zv.storage.handles import open_objects
from dask_zv.storage.layout import open_place
from dask_zv.storage.local import sweep
from dask_zv.storage.marks import JOURNAL, written_stamp
from dask_zv.storage.nodes import SETTINGS
from dask_zv.storage.specs import BlockResult, BlockSpec, CommitSpec
from dask_zv.write.exchange import plan_blocks, spill_directory
from dask_zv.write.explaining import not_begun, not_ended
from dask_zv.write.inputs import AttributeInput, Partitions
from dask_zv.write.job import Job, LinkStep, job_digest
from dask_zv.write.journal import Journal, find_journal, whole_blocks
from dask_zv.write.level_metadata import (
    EACH_AXIS,
    AttributeSpecs,
    attribute_spec,
    grid_plan,
    level_attributes,
    old_nodes,
    root_attributes,
    shards_of,
)
from dask_zv.write.manifests import object_metadata
from dask_zv.write.object_plan import ObjectPlan
from dask_zv.write.running import build_job, finished, run_job
from dask_zv.write.scan import Conversion, Scan, scan_partitions

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
    resume: bool = False


def level_to_write(store: StoreContents, geometries: Sequence[str], function: str, options: Options) -> LevelContents:
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
    if not isinstance(store, StoreContents):
        raise InputError(f"store is a dask_zv.Store (from dzv.create or dzv.open), not {type(store).__name__}")
    kinds = store.metadata.geometry_types
    if kinds and kinds[0] not in geometries:
        wanted = " or ".join(f"geometry={g!r}" for g in geometries)
        raise InputError(f"{store.url} is a store of {kinds[0]}: {function} wants one made with dzv.create({wanted})")
    if store.read_only:
        raise ReadOnlyError("the store was opened read-only: dzv.open(..., mode='r+')", store=store.url)
    check_writable(store.handle)
    store.reload()  # another handle may have expanded it
    level = store.level(0)
    if not options.resume:  # else when it is known which write this is
        check_empty(level, options.mode)
    return level


def scan_input(level: LevelContents, partitions: Partitions, options: Options) -> tuple[Partitions, Conversion, Scan]:
    """Look at the data once, on the active scheduler; return the partitions, too, which may be kept from then on.

    Raises
    ------
    InputError, BoundsError
        It can't be stored.
    """
    conversion = _conversion(level.store, partitions, options.out_of_bounds, options.position_tolerance)
    with not_begun(level):
        scan, partitions = scan_partitions(partitions, conversion, options.max_categories)
        return partitions, conversion, scan


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
    level: LevelContents
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
        job = self.job()
        done: dict[int, BlockResult] = {}
        journal: Journal | None = None
        if self.options.resume:
            sweep(open_objects(self.level.place.handle), self.level.place.prefix)
            if written_stamp(self.level.place) == job.digest:
                return self._already_written(job, started)
            job, done = self._earlier(job)
        if self._journals(job):
            job = job.stamped()
            journal = Journal(self.level.place, job.digest, job.plan.starts)
        progress = bool(self.options.progress)
        if not self.options.compute:
            spill = spill_directory(self.scan.rows * job.schema.row_bytes)
            return build_job(job, done, journal, progress=progress, spill=spill)
        try:
            with not_ended(self.level, journal=journal is not None):
                report = run_job(job, done, journal, progress=progress)
        finally:  # not with the traceback of an error
            job.release()
        self.level.store.reload()
        return finished(report, started)

    def job(self) -> Job:
        """Return the write as a plan; nothing runs."""
        level, scan, schema, objects, links = self.level, self.scan, self.schema, self.objects, self.links
        store, place = level.store, level.place
        opened = open_objects(place.handle)
        grid, shards = None, None
        if store.layout == "grid":
            arrays = [*schema.arrays, *(links.arrays if links else ())]
            grid = grid_plan(level, scan, arrays, self.options.mode, schema.row_bytes)
            if links is not None:
                grid = dataclasses.replace(grid, families=dict.fromkeys(links.families, grid.specs["vertices"]))
            if self.replace and len(open_place(place).list_keys("vertices")):
                grid = dataclasses.replace(grid, marker=uuid.uuid4().hex[:12])
        else:
            shards = shards_of(store, scan, schema.row_bytes)
        marker = uuid.uuid4().hex[:12] if self.replace and grid is None else ""
        cells = None if grid is None else grid.specs["vertices"]
        plan = plan_blocks(scan, schema.row_bytes, shards, self.partitions.count, cells, task_memory())
        metadata: list[tuple[str, Mapping[str, Any]]] = list(schema.array_metadata(grid=grid is not None))
        names = [*schema.arrays]
        if links is not None:
            metadata += links.metadata()
            names += links.arrays
        if objects is not None:
            described = object_metadata(objects, self.conversion.grid.ndim, store.layout)
            metadata += described
            names += [a for a, _ in described]
        families = links.families if links is not None else ()
        trees = kind_of(next(iter(store.metadata.geometry_types), None)).has_parents
        explicit = links is not None and not links.crossings
        metadata += [
            ("", level_attributes(level, scan, schema, cells, objects=objects is not None, links=explicit)),
            ("..", root_attributes(store, scan, self.conversion, shards, self._specs(schema))),
        ]
        spec = CommitSpec(
            place,
            tuple(metadata),
            tuple(names),
            catalog=True,
            replace=self.replace,
            remove=old_nodes(opened, place, schema, objects, families, trees=trees) if self.replace else (),
            report=Report(scan.rows, 0, objects.count if objects else 0, 0, 0, 0, 0.0, scan.dropped),
            grid=grid,
            families=families if grid is not None else (),
            marker=marker,
            root={**store.metadata.to_attributes(), SETTINGS: dict(store.settings)},
        )
        return Job(
            self.name,
            plan,
            BlockSpec(place, shard_chunks=shards, grid=grid),
            spec,
            opened.nodes_first,
            self.partitions,
            self.conversion,
            scan,
            schema,
            objects,
            self.encode,
            links,
            self.numbered,
            trees,
            job_digest(spec, scan, objects, links, schema),
        )

    def _specs(self, schema: PointSchema) -> AttributeSpecs:
        """Return what the root says of all attributes that are written."""
        given = {a.name: a.attrs for a in self.partitions.attributes}
        vertex = {
            a.name: attribute_spec(a.dtype, a.channels, a.dictionary is not None, given[a.name]) for a in schema.attributes
        }
        told = self.partitions.attrs
        each = told.get(EACH_AXIS, {})
        axes = {a: {k: v for k, v in {**told, **each.get(a, {})}.items() if k != EACH_AXIS} for a in self.level.store.axes}
        position = {a: attribute_spec(self.partitions.dtype, None, False, attrs) for a, attrs in axes.items()}
        specs = {"vertex": vertex, "position": position}
        if self.objects is not None:
            plan = self.objects
            tables = {
                "object": ({n: v for n, (v, _) in plan.attributes.items()}, plan.attrs),
                "group": (plan.group_attributes, plan.group_attrs),
            }
            for scope, (columns, attrs) in tables.items():
                specs[scope] = {
                    n: attribute_spec(v.dtype, v.shape[1] if v.ndim > 1 else None, False, attrs.get(n, {}))
                    for n, v in columns.items()
                }
        if self.links is not None:
            specs["link"] = {a.name: attribute_spec(a.dtype, a.channels, False, attrs) for a, attrs in self.links.described}
        return specs

    def _journals(self, job: Job) -> bool:
        """Tell whether receipts go into the store: a transaction forgets them with all else, and small writes begin again."""
        if job.nodes_first or not len(job):
            return False
        large = self.scan.rows * job.schema.row_bytes >= settings().journal_bytes and not self.level.place.handle.one_process
        return self.options.resume or large

    def _earlier(self, job: Job) -> tuple[Job, dict[int, BlockResult]]:
        """Return the write as an earlier run had cut it, and the blocks that this run has left in the store.

        Raises
        ------
        PlanError
            The journal is of another write.
        StoreError
            There is no journal, and the level is not empty.
        """
        place = self.level.place
        found = find_journal(place)
        if found is None:
            check_empty(self.level, self.options.mode)
            return job, {}
        if found.digest != job.digest:
            raise PlanError(
                "an unfinished write of other data, or into other chunks, lies in the level: its input, its arguments or the "
                "store's settings have changed since. Finish it with what it began with, or begin anew with resume=False, "
                "mode='overwrite'",
                store=self.level.url,
            )
        job = job.cut_at(found.starts).swept()
        specs = None if job.block.grid is None else job.block.grid.specs
        return job, whole_blocks(place, specs, Journal(place, found.digest, found.starts).read())

    def _already_written(self, job: Job, started: float) -> Report | Delayed:
        """Return the report of a write that the level's last commit was."""
        objects = open_objects(self.level.place.handle)
        journal = join(self.level.place.prefix, JOURNAL)
        if objects.list_dir(journal):  # it died before that, or a task that ran twice noted its block after all
            objects.delete_prefix(journal)
        report = dataclasses.replace(job.commit.report, chunks=len(self.scan.coords))
        return finished(report, started) if self.options.compute else delayed(report)


def check_empty(level: LevelContents, mode: str) -> None:
    if mode == "overwrite":
        leading = level.metadata.leading_part(level.store.metadata.ndim)
        if level.store.layout == "grid" and leading is not None:
            # objects of keys with another number of parts: in directories, theirs have the names of ours
            raise StoreError(
                f"level 0 is chunked by {leading!r}, which can't be overwritten: "
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
        if len(open_place(level.place).list_keys("vertices")):
            raise StoreError("level 0 has chunks already: pass mode='overwrite' to replace them", store=level.url)
        return
    if any(n != "zarr.json" for n in objects.list_dir(join(level.place.prefix, "vertices"))):
        raise StoreError(
            "level 0 holds chunks of a write that did not reach its commit: pass mode='overwrite' to replace them",
            store=level.url,
        )


def _conversion(
    store: StoreContents, partitions: Partitions, out_of_bounds: str, position_tolerance: float | None
) -> Conversion:
    metadata = store.metadata
    grid = ChunkGrid(metadata.chunk_shape, metadata.bins_per_chunk)
    declared = store.settings.get("dtype")
    # other tools take positions for floats; integers that a float can't hold are moved by the cast, which is refused
    given = np.result_type(partitions.dtype, np.float32) if partitions.dtype.kind in "iu" else partitions.dtype
    dtype = position_dtype(np.dtype(declared) if isinstance(declared, str) else given)
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
