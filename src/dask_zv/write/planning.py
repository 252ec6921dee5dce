"""What all writing functions share: the checks before anything is stored, and the plan of what will be."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import InputError, ReadOnlyError, did_you_mean
from dask_zv.geometry.kinds import kind_of
from dask_zv.geometry.schema import PointSchema
from dask_zv.graph.report import Report
from dask_zv.graph.run import check_writable, task_memory
from dask_zv.level.contents import LevelContents, Store, StoreContents, contents_of
from dask_zv.level.create import position_dtype
from dask_zv.spatial.grid import Box, ChunkGrid
from dask_zv.storage.handles import open_objects
from dask_zv.storage.layout import layout_for, open_place
from dask_zv.storage.nodes import SETTINGS
from dask_zv.storage.specs import BlockSpec, CommitSpec
from dask_zv.write.convert import Conversion
from dask_zv.write.exchange import plan_blocks
from dask_zv.write.job import Encode, Job, LinkWriter, job_digest
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
from dask_zv.write.object_arrays import object_metadata
from dask_zv.write.object_plan import ObjectPlan, plan_objects
from dask_zv.write.options import WriteOptions
from dask_zv.write.partitions import Partitions
from dask_zv.write.running import Write, check_empty, note_nothing_written
from dask_zv.write.scan import Scan, scan_partitions

_TOLERANCE = 1e-4


def level_to_write(store: Store, geometries: Sequence[str], function: str, options: WriteOptions) -> LevelContents:
    """Return the level that a function may write to."""
    mode, out_of_bounds = options["mode"], options["out_of_bounds"]
    if mode not in ("error", "overwrite"):
        near = did_you_mean(mode, ("error", "overwrite"))
        if mode in ("append", "a"):
            near = (
                ": a level is written as a whole, and nothing is added to it later. Concatenate what belongs in it "
                "(pandas.concat, dask.dataframe.concat, dask.array.concatenate) and write that, with mode='overwrite' over "
                "what is there; or write the new rows into a store of their own"
            )
        raise InputError(f"mode is 'error' or 'overwrite', not {mode!r}{near}")
    policies = ("raise", "ignore", "expand") if function == "write_points" else ("raise", "expand")
    if out_of_bounds not in policies:
        said = " or ".join(map(repr, policies)) if len(policies) == 2 else "'raise', 'ignore' or 'expand'"
        raise InputError(f"out_of_bounds is {said}, not {out_of_bounds!r}{did_you_mean(out_of_bounds, policies)}")
    contents = contents_of(store)
    kinds = contents.metadata.geometry_types
    if kinds and kinds[0] not in geometries:
        wanted = " or ".join(f"geometry={g!r}" for g in geometries)
        raise InputError(f"{contents.url} is a store of {kinds[0]}: {function} wants one made with dzv.create({wanted})")
    if contents.read_only:
        raise ReadOnlyError("the store was opened read-only: dzv.open(..., mode='r+')", store=contents.url)
    check_writable(contents.handle)
    contents.reload()  # another handle may have expanded it
    level = contents.level(0)
    if not options["resume"]:  # else when it is known which write this is
        check_empty(level, mode)
    return level


def scan_input(level: LevelContents, partitions: Partitions, options: WriteOptions) -> tuple[Partitions, Conversion, Scan]:
    """Look at the data once, on the active scheduler; return the partitions, too, which may be kept from then on."""
    conversion = _conversion(level.store, partitions, options)
    with note_nothing_written(level):
        scan, partitions = scan_partitions(partitions, conversion, options["max_categories"])
        return partitions, conversion, scan


def _conversion(store: StoreContents, partitions: Partitions, options: WriteOptions) -> Conversion:
    out_of_bounds, position_tolerance = options["out_of_bounds"], options["position_tolerance"]
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


def plan_write(
    name: str,
    level: LevelContents,
    options: WriteOptions,
    found: tuple[Partitions, Conversion, Scan],
    encode: Encode,
    *,
    ids: NDArray[np.int64] | None,
    empty: NDArray[np.int64] | None = None,
    links: LinkWriter | None = None,
) -> Write:
    """Return a write of what the scan has found; nothing runs.

    `ids` (m, 2) are ranges of the objects that have vertices, `empty` of others; None where there are no objects.
    """
    (partitions, conversion, scan), store, place = found, level.store, level.place
    rank, layout, replace = conversion.grid.ndim, store.layout, options["mode"] == "overwrite"
    objects: ObjectPlan | None = None
    if ids is not None:
        about = options["object_attributes"], options["groups"]
        objects = plan_objects(ids, *about, layout=layout, group_attributes=options["group_attributes"], empty=empty)
    attributes = tuple(a.schema(*scan.categories.get(a.name, ())) for a in partitions.attributes)
    schema = PointSchema(conversion.grid, conversion.dtype, attributes, objects is not None)
    opened = open_objects(place.handle)
    families = links.families if links is not None else ()
    grid, shards = None, None
    if layout_for(layout).shards_have_extents:
        arrays = [*schema.arrays, *(links.arrays if links else ())]
        grid = grid_plan(level, scan, arrays, options["mode"], schema.row_bytes)
        grid = dataclasses.replace(grid, families=dict.fromkeys(families, grid.specs["vertices"]))
        if replace and len(open_place(place).list_keys("vertices")):
            grid = dataclasses.replace(grid, marker=uuid.uuid4().hex[:12])
    else:
        shards = shards_of(store, scan, schema.row_bytes)
    marker = uuid.uuid4().hex[:12] if replace and grid is None else ""
    cells = None if grid is None else grid.specs["vertices"]
    plan = plan_blocks(scan, schema.row_bytes, shards, partitions.count, cells, task_memory())
    metadata: list[tuple[str, Mapping[str, Any]]] = list(schema.array_metadata(grid=grid is not None))
    names = [*schema.arrays]
    if links is not None:
        metadata += links.metadata()
        names += links.arrays
    if objects is not None:
        described = object_metadata(objects, rank, layout)
        metadata += described
        names += [a for a, _ in described]
    trees = kind_of(next(iter(store.metadata.geometry_types), None)).has_parents
    explicit = links is not None and not links.crossings
    specs = _attribute_specs(store.axes, partitions, schema, objects, links)
    metadata += [
        ("", level_attributes(level, scan, schema, cells, objects=objects is not None, links=explicit)),
        ("..", root_attributes(store, scan, conversion, shards, specs)),
    ]
    commit = CommitSpec(
        place,
        tuple(metadata),
        tuple(names),
        catalog=True,
        replace=replace,
        remove=old_nodes(opened, place, schema, objects, families, trees=trees) if replace else (),
        report=Report(scan.rows, 0, objects.count if objects else 0, 0, 0, 0, 0.0, scan.dropped),
        grid=grid,
        families=families if grid is not None else (),
        marker=marker,
        root={**store.metadata.to_attributes(), SETTINGS: dict(store.settings)},
    )
    block, digest = BlockSpec(place, shard_chunks=shards, grid=grid), job_digest(commit, scan, objects, links, schema)
    job = Job(
        name,
        plan,
        block,
        commit,
        partitions,
        conversion,
        scan,
        schema,
        objects,
        encode,
        links,
        trees,
        digest,
    )
    return Write(level, options, job)


def _attribute_specs(
    names: Sequence[str], partitions: Partitions, schema: PointSchema, objects: ObjectPlan | None, links: LinkWriter | None
) -> AttributeSpecs:
    """Return what the root says of all attributes that are written, and of the axes, `names`."""
    given = {a.name: a.attrs for a in partitions.attributes}
    vertex = {a.name: attribute_spec(a.dtype, a.channels, a.dictionary is not None, given[a.name]) for a in schema.attributes}
    told = partitions.attrs
    each = told.get(EACH_AXIS, {})
    axes = {a: {k: v for k, v in {**told, **each.get(a, {})}.items() if k != EACH_AXIS} for a in names}
    specs = {"vertex": vertex, "position": {a: attribute_spec(partitions.dtype, None, False, axes[a]) for a in axes}}
    if objects is not None:
        tables = {
            "object": ({n: v for n, (v, _) in objects.attributes.items()}, objects.attrs),
            "group": (objects.group_attributes, objects.group_attrs),
        }
        for scope, (columns, attrs) in tables.items():
            specs[scope] = {
                n: attribute_spec(v.dtype, v.shape[1] if v.ndim > 1 else None, False, attrs.get(n, {}))
                for n, v in columns.items()
            }
    if links is not None:
        specs["link"] = {a.name: attribute_spec(a.dtype, a.channels, False, attrs) for a, attrs in links.described}
    return specs
