"""What all writing functions share: the checks before anything is stored, and the plan of what will be.

One module because what is checked of a level decides what the plan replaces.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import InputError, PlanError, ReadOnlyError
from dask_zv.format.grids import GridSpec
from dask_zv.format.keys import DOCUMENT, join
from dask_zv.format.levels import LevelMetadata
from dask_zv.format.metadata import Axis
from dask_zv.geometry.kinds import KINDS
from dask_zv.geometry.schema import VERTICES, PointSchema
from dask_zv.graph.run import check_writable, task_memory
from dask_zv.level.contents import LevelContents, StoreContents
from dask_zv.level.create import make
from dask_zv.level.object_tables import EDGE_COUNTS
from dask_zv.level.stale import stale_marks
from dask_zv.level.unfinished import check_not_edited
from dask_zv.storage.catalog import CATALOG_NAME
from dask_zv.storage.grid.plan import grid_settings
from dask_zv.storage.handles import open_objects
from dask_zv.storage.layout import layout_for, open_place
from dask_zv.storage.nodes import SETTINGS
from dask_zv.storage.objects import Objects
from dask_zv.storage.opening import objects_are_cheap
from dask_zv.storage.specs import STAGED, WAITING, BlockSpec, CommitSpec, PerChunkPlan, Place
from dask_zv.write.blocks import plan_blocks, plan_grid, run_of_shard
from dask_zv.write.containers import EACH_AXIS
from dask_zv.write.convert import Conversion
from dask_zv.write.job import Encode, Job, LinkWriter, job_digest
from dask_zv.write.labelled import store_to_write
from dask_zv.write.object_plan import ObjectPlan, object_metadata, old_object_nodes, plan_objects
from dask_zv.write.options import WriteOptions, check_mode
from dask_zv.write.partitions import Partitions
from dask_zv.write.running import Write, check_empty, complete_waiting, may_resume
from dask_zv.write.scan import Scan

AttributeSpecs = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""What a store's root says of attributes: by scope ("vertex", "object", "link", "group") and name; of positions by axis."""


def level_to_write(
    store: Any, positions: Any, geometries: Sequence[str], function: str, options: WriteOptions
) -> LevelContents:
    """Return the level that a function may write to; of a store that is to be made, the first of the geometries."""
    check_mode(options, function)
    mode: str = options["mode"]
    contents = store_to_write(store, geometries, positions, options)
    kinds = contents.metadata.geometry_types
    if kinds and kinds[0] not in geometries:
        wanted = " or ".join(f"geometry={g!r}" for g in geometries)
        raise InputError(f"{contents.url} is a store of {kinds[0]}: {function} wants one made with dzv.create({wanted})")
    if contents.read_only:
        raise ReadOnlyError("the store was opened read-only: dzv.open(..., mode='r+')", store=contents.url)
    check_writable(contents.handle)
    if not contents.pending:
        contents.reload()  # another handle may have expanded it
    level = contents.level(0)
    if not contents.pending and complete_waiting(level):
        contents.reload()
        level = contents.level(0)
        if mode == "append" and options["resume"] is None:  # it may have been this very call that died
            options["resume"] = True
    if mode == "append" and not contents.pending:
        check_not_edited(level)
        if len(level.chunks):
            return level
    if mode == "append":  # to nothing: a write like any other
        options["mode"] = mode = "error"
    if not may_resume(level, options):  # else when it is known which write this is
        check_empty(level, mode)
    return level


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
    objects: ObjectPlan | None = None,
) -> Write:
    """Return a write of what the scan has found; nothing runs.

    `ids` (m, 2) are ranges of the objects that have vertices, `empty` of others; None where there are no objects. `objects` is
    the plan of them, where the options don't tell.
    """
    (partitions, conversion, scan), store, place = found, level.store, level.place
    rank, layout = conversion.grid.ndim, store.layout
    replace = options["mode"] == "overwrite" or _was_written(level)
    if objects is None and ids is not None:
        about = options["object_attributes"], options["groups"]
        objects = plan_objects(ids, *about, layout=layout, group_attributes=options["group_attributes"], empty=empty)
    attributes = tuple(a.schema(*scan.categories.get(a.name, ())) for a in partitions.attributes)
    schema = PointSchema(conversion.grid, conversion.dtype, attributes, objects is not None)
    opened = open_objects(place.handle)
    families = links.families if links is not None else ()
    grid, shards = None, None
    if layout_for(layout).shards_have_extents:
        arrays = [*schema.arrays, *(links.arrays if links else ())]
        grid = plan_grid(level, scan, arrays, options["mode"], schema.row_bytes)
        grid = dataclasses.replace(grid, families=dict.fromkeys(families, grid.specs["vertices"]))
    else:
        shards = run_of_shard(
            store.settings.get("shard_chunks", "auto"), scan.coords, local=objects_are_cheap(store.handle), url=store.url,
            counts=scan.counts, row_bytes=schema.row_bytes,
        )  # fmt: skip
    replaces = replace and (grid is None or len(open_place(place).list_keys("vertices")))
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
    trees = links is not None and links.trees
    explicit = links is not None and not links.crossings
    specs = attribute_specs(store.axes, partitions, schema, objects, links)
    metadata += [(f"../{n}", marks) for n, marks in stale_marks(store, level.number)] if replace else []
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
        objects=objects.count if objects else 0,
        dropped=scan.dropped,
        grid=grid,
        families=families if grid is not None else (),
        marker=uuid.uuid4().hex[:12] if replaces else "",
        root={**store.metadata.to_attributes(), SETTINGS: dict(store.settings)},
    )
    block, digest = BlockSpec(place, grid, PerChunkPlan(shards)), job_digest(commit, scan, objects, links, schema)
    if store.pending and not make(store):
        raise PlanError("another process has made a store here meanwhile: make the same call again", store=store.url)
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
        digest,
    )
    return Write(level, options, job)


def _was_written(level: LevelContents) -> bool:
    """Return True if an empty level has arrays of an earlier content, which a write replaces whatever its mode."""
    place = level.place
    if level.store.pending or not layout_for(place.layout).shards_have_extents:
        return False
    if not open_objects(place.handle).exists(join(place.prefix, VERTICES, DOCUMENT)):
        return False
    check_not_edited(level)
    if not level.metadata.vertex_count:
        check_empty(level, "overwrite")
    return True


def level_attributes(
    level: LevelContents,
    scan: Scan,
    schema: PointSchema,
    cells: GridSpec | None,
    *,
    objects: bool,
    links: bool,
) -> dict[str, Any]:
    """Return the attributes that make the level what was written; `links` are those that were given."""
    present = ["vertices"]
    if schema.attributes:
        present.append("vertex_attributes")
    if links:
        present.append("links")
    if objects:
        present.append("object_index")
    # what was said of the level's content before does not hold for ours, whatever it is (keys of other tools are in `extra`)
    metadata: LevelMetadata = dataclasses.replace(
        level.metadata,
        vertex_count=scan.rows,
        arrays_present=tuple(present),
        chunk_dims=None,
        chunk_attribute_name=None,
        chunk_attribute_values=None,
        shared_fragments=False,
        preserves_object_ids=False,
        inherited_num_objects=None,
        object_sparsity=1.0,
        coarsening_method="none",
        extra={},
        fragments_tile=cells is not None,  # true of all that is written here; 0.7 has no such word
    )
    if cells is None:
        return metadata.to_attributes()
    return {**metadata.to_attributes(), SETTINGS: {"layout": "grid", "grid": grid_settings(cells)}}


def root_attributes(
    store: StoreContents,
    scan: Scan,
    conversion: Conversion,
    shards: int | None,
    specs: AttributeSpecs | None = None,
    *,
    grow: bool = False,
) -> dict[str, Any]:
    """Return the attributes of the store: its bounds are now those of the data, where they were not declared.

    With `grow` the data are added to others.

    `specs` are units and the like of all attributes that are written, see :func:`merge_specs`.
    """
    extra = {**store.metadata.extra}
    if merged := merge_specs(extra.pop("attribute_specs", {}), specs or {}):
        extra["attribute_specs"] = merged
    metadata = dataclasses.replace(store.metadata, extra=extra, axes=tuple(_with_unit(a, specs) for a in store.metadata.axes))
    if (kind := KINDS.get(next(iter(metadata.geometry_types), ""))) is not None:  # another tool's edit may have changed it
        metadata = dataclasses.replace(metadata, links_convention=kind.convention)
    if conversion.box is None and scan.rows:
        low, high = np.asarray(scan.low, np.float64), np.asarray(scan.high, np.float64)
        if grow or store.settings.get("bounds", "declared") == "declared":  # expanded
            low, high = np.minimum(low, metadata.bounds[0]), np.maximum(high, metadata.bounds[1])
        metadata = dataclasses.replace(metadata, bounds=(tuple(low.tolist()), tuple(high.tolist())))
    attributes = {**metadata.to_attributes(), SETTINGS: dict(store.settings)}
    if not layout_for(store.layout).shards_have_extents:
        attributes["shard_layout"] = "flat" if shards is None else "octree"
        if shards is not None:
            attributes["shard_size"] = shards
    return attributes


def _with_unit(axis: Axis, specs: AttributeSpecs | None) -> Axis:
    """Return an axis with the unit that its positions came with; one that the store was made with stands."""
    unit = (specs or {}).get("position", {}).get(axis.name, {}).get("unit")
    return axis if axis.unit or axis.type == "time" or not unit else dataclasses.replace(axis, unit=unit)


def merge_specs(old: AttributeSpecs, new: AttributeSpecs) -> dict[str, dict[str, Any]]:
    """Return the root's ``attribute_specs``; what is written without any loses its old ones, other attributes keep theirs."""
    out: dict[str, dict[str, Any]] = {}
    for scope in dict.fromkeys([*old, *new]):
        written = new.get(scope, {})
        named = {n: dict(spec) for n, spec in old.get(scope, {}).items() if n not in written}
        named |= {n: dict(spec) for n, spec in written.items() if spec}
        if named:
            out[scope] = named
    return out


def attribute_spec(dtype: np.dtype[Any], channels: int | None, categorical: bool, attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the root says of an attribute: in the format's words, and all of `attrs` beside them; nothing for none."""
    if not attrs:
        return {}
    out: dict[str, Any] = {"dtype": dtype.name, "attrs": dict(attrs)}
    if channels is not None:
        out["channels"] = channels
    if categorical:
        out["categorical"] = True
    for word, name in (("unit", "units"), ("description", "long_name")):
        if isinstance(attrs.get(name), str):
            out[word] = attrs[name]
    return out


def old_nodes(
    objects: Objects, place: Place, schema: PointSchema, plan: ObjectPlan | None, families: Sequence[str], *, trees: bool
) -> tuple[str, ...]:
    """Return what the level holds that the new content (of skeletons: `trees`) has no place for."""
    keep = {a.name for a in schema.attributes}
    old = ["vertex_attributes"]
    if keep:
        names = objects.list_dir(join(place.prefix, "vertex_attributes"))
        old = [f"vertex_attributes/{n}" for n in names if n not in keep and n != DOCUMENT]
    # the links of other levels' vertices to these are wrong now, and so are these ones' to theirs
    above = {f.rpartition("/")[0] for f in families}
    for family in ("links", "cross_chunk_links", "link_attributes", "cross_chunk_link_attributes"):
        if not any(f.startswith(f"{family}/") for f in families):
            old.append(family)
            continue
        for name in objects.list_dir(join(place.prefix, family)):
            path = f"{family}/{name}"
            if name != DOCUMENT and path not in families and path not in above:
                old.append(path)
    for path in above:
        old += [
            f"{path}/{n}" for n in objects.list_dir(join(place.prefix, path)) if n != DOCUMENT and f"{path}/{n}" not in families
        ]
    if not families:
        old.append("link_fragments")
    if not trees:
        old.append(EDGE_COUNTS)
    old += [n for n in objects.list_dir(place.prefix) if n.startswith(WAITING) or n == STAGED]
    old += links_to_this(objects, place.prefix)
    return (*dict.fromkeys(old), "fragment_attributes", *old_object_nodes(objects, place.prefix, plan, place.layout))


def links_to_this(objects: Objects, prefix: str) -> list[str]:
    """Return the links that other levels have to the vertices of this one, which are about to be others."""
    root, _, number = prefix.rpartition("/")
    old: list[str] = []
    for level in objects.list_dir(root):
        if not (level.isascii() and level.isdigit()) or level == number:
            continue
        delta = f"{int(number) - int(level):+d}"
        found: list[str] = []
        for family in ("links", "cross_chunk_links", "link_attributes", "cross_chunk_link_attributes"):
            names = [n for n in objects.list_dir(join(root, level, family)) if n != DOCUMENT]
            if family.endswith("_attributes"):
                found += [f"{family}/{n}/{delta}" for n in names if delta in objects.list_dir(join(root, level, family, n))]
            elif delta in names:
                found.append(family if names == [delta] else f"{family}/{delta}")  # no group of nothing is left
        if found:
            old += [f"../{level}/{path}" for path in (*found, CATALOG_NAME)]  # a catalog would still name them
    return old


def attribute_specs(
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
