"""Planning an append: what the level has, what comes, and what it will be; nothing runs."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from dask.task_spec import Task
from numpy.typing import NDArray

from dask_zv.errors import InputError, StoreError
from dask_zv.format.grids import GridSpec
from dask_zv.format.keys import join
from dask_zv.geometry.schema import FRAGMENTS, VERTICES, PointSchema
from dask_zv.graph.run import task_memory
from dask_zv.level.contents import LevelContents
from dask_zv.level.expand import make_room
from dask_zv.level.object_tables import EDGE_COUNTS, OBJECT_LENGTHS
from dask_zv.level.source import level_blobs
from dask_zv.level.stale import stale_marks
from dask_zv.spatial.chunks import group_by_chunk
from dask_zv.storage.catalog import Catalog
from dask_zv.storage.grid.plan import grid_settings
from dask_zv.storage.grid.read import GridArrays
from dask_zv.storage.layout import layout_for
from dask_zv.storage.nodes import SETTINGS
from dask_zv.storage.specs import WAITING, BlockSpec, CommitSpec, Extension, GridPlan, Place, written_stamp
from dask_zv.write.append import Growth, neighbours, rows_before
from dask_zv.write.append_links import links_before
from dask_zv.write.append_objects import grown_objects, held_edges, held_fragments, lengths_of
from dask_zv.write.append_schema import grown_columns
from dask_zv.write.blocks import plan_blocks
from dask_zv.write.convert import Conversion
from dask_zv.write.job import CONTENT, Encode, Held, Job, LinkWriter, identity, job_digest
from dask_zv.write.object_plan import ObjectPlan, object_metadata, plan_objects
from dask_zv.write.options import WriteOptions
from dask_zv.write.partitions import Partitions
from dask_zv.write.planning import attribute_specs, root_attributes
from dask_zv.write.running import Write
from dask_zv.write.scan import Scan


def plan_append(
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
    """Return a write of more rows for a level, as :func:`.plan_write` returns one of its whole content."""
    (partitions, conversion, scan), store, place = found, level.store, level.place
    blobs, catalog = _looked_at(level)
    if len(scan.coords) and (scan.coords.min(axis=0) < blobs.catalogued([VERTICES])[VERTICES].spec.origin).any():
        # cells count from the first chunk of the grid: all of them get other places, once
        sides = np.asarray(conversion.grid.chunk_shape)
        low, high = (scan.coords.min(axis=0) + 0.5) * sides, (scan.coords.max(axis=0) + 0.5) * sides
        level = make_room(level, low, high)
        blobs, catalog = _looked_at(level)
        store, place = level.store, level.place
    if (ids is not None) != level.source.schema.has_objects:
        raise InputError(
            "the rows to append have objects, those of the store have none: leave object_ids out"
            if ids is not None
            else "the rows of the store have objects: pass object_ids= for those to append",
        )
    fill = options["fill_missing"]
    columns = grown_columns(level, partitions, scan.categories, fill, options["max_categories"])
    objects: ObjectPlan | None = None
    extended = np.zeros(0, np.int64)
    if ids is not None:
        about = options["object_attributes"], options["groups"]
        new = plan_objects(ids, *about, layout=store.layout, group_attributes=options["group_attributes"], empty=empty)
        objects = new
    content = job_digest(CommitSpec(place, (), (), catalog=True), scan, objects, links, level.source.schema)
    done = bool(options["resume"]) and (written_stamp(place) or "")[:CONTENT] == content[:CONTENT]
    if ids is not None and not done:
        objects, extended = grown_objects(level, new, ids, options["on_existing"], fill=bool(fill))
    grid = _grid(level, blobs, catalog, scan, [c.schema.array for c in columns], links)
    cells = grid.specs[VERTICES]
    growth = Growth(level.source, cells, columns, encode)
    by_name = {c.schema.name: c.schema for c in columns}
    schema = dataclasses.replace(growth.schema, attributes=tuple(by_name[a.name] for a in partitions.attributes))
    before = np.maximum(rows_before(catalog, scan.coords), 0)
    loads = dataclasses.replace(scan, counts=scan.counts + before + _beside(catalog, cells, scan.coords))
    plan = plan_blocks(loads, growth.schema.row_bytes, None, partitions.count, cells, task_memory())
    trees = links is not None and links.trees
    counted = {} if links is None else links_before(level, links)
    told = {c.schema.array: c.schema.to_attributes(grid=True) for c in columns if c.before is None or c.schema.dictionary}
    metadata: list[tuple[str, Mapping[str, Any]]] = list(told.items())
    names = [*growth.schema.arrays]
    if links is not None:
        known = blobs.catalogued(catalog.nodes)
        metadata += [(path, about) for path, about in links.metadata() if path not in known]
        names += links.arrays
    if objects is not None:
        metadata += object_metadata(objects, len(store.axes), store.layout)
    specs = _new_specs(level, partitions, growth.schema, objects)
    metadata += [(f"../{path}", marks) for path, marks in stale_marks(store, level.number)]
    metadata += [
        ("", _level_attributes(level, growth.schema, cells)),
        ("..", root_attributes(store, scan, conversion, None, specs, grow=True)),
    ]
    commit = CommitSpec(
        place, tuple(metadata), tuple(names), catalog=True, count=scan.rows, objects=0 if objects is None else new.count,
        dropped=scan.dropped, grid=grid, families=tuple(grid.families),
        root={**store.metadata.to_attributes(), SETTINGS: dict(store.settings)},
    )  # fmt: skip
    asked = hashlib.sha256(f"{catalog.token} {options['on_existing']} {fill!r}".encode()).hexdigest()
    digest = content[:CONTENT] + asked[: len(content) - CONTENT]
    staged = "" if place.handle.is_session else join(place.prefix, WAITING + digest)
    extends = Extension(staged, int(catalog.rows[catalog.chunks_of(VERTICES)].sum()) - int(before.sum()), counted)
    gone: tuple[str, ...] = (OBJECT_LENGTHS,) if objects is not None and lengths_of(level.index) is None else ()
    gone += (EDGE_COUNTS,) if trees and held_edges(level.source) is None else ()
    commit = dataclasses.replace(commit, extends=extends, stamp=digest, remove=gone)
    fragments: Callable[[], Any] | None = None if objects is None else partial(held_fragments, level.source, extended)
    edges: Callable[[], Any] | None = partial(held_edges, level.source) if trees else None
    if place.handle.is_session:  # where the tables are written over by tasks that may come first
        fragments = None if fragments is None else partial(identity, fragments())
        edges = None if edges is None else partial(identity, edges())
    refills = [Task(None, growth.refill, coords) for coords in growth.refilled(scan.coords)]
    held = Held(before, refills, fragments, edges, growth.join)
    there = Place(place.handle, staged, place.layout) if staged else place
    job = Job(
        name, plan, BlockSpec(there, grid), commit, partitions, conversion, scan, schema, objects, growth, links, digest, held
    )
    return Write(level, options, job)


def _looked_at(level: LevelContents) -> tuple[GridArrays, Catalog]:
    """Return what a level holds, where rows can be added to it."""
    if not layout_for(level.store.layout).has_tables:
        raise StoreError(
            "mode='append' needs layout 'grid' (ZV 0.9): dzv.convert(store, target, layout='grid') makes such a store",
            store=level.url,
        )
    if level.source.leading is not None:
        raise StoreError(f"the level is chunked by {level.source.leading!r}: nothing can be appended to it", store=level.url)
    if not level.source.catalogued:
        raise StoreError(
            "the level has no catalog, or another tool has edited it since: store.refresh() makes one, then append",
            store=level.url,
        )
    blobs = level_blobs(level.source)
    assert isinstance(blobs, GridArrays)
    assert blobs.catalog is not None
    if (blobs.catalog.rows[blobs.catalog.chunks_of(VERTICES)] < 0).any():
        raise StoreError(
            "the catalog does not tell the rows of every chunk: store.refresh() makes one that does", store=level.url
        )
    return blobs, blobs.catalog


def _grid(
    level: LevelContents,
    blobs: GridArrays,
    catalog: Catalog,
    scan: Scan,
    attributes: Sequence[str],
    links: LinkWriter | None,
) -> GridPlan:
    """Return the grids of the arrays that an append writes: the level's own, at their far ends as large as new rows need."""
    known = blobs.catalogued(catalog.nodes)
    held = known[VERTICES].spec
    low, high = np.array(held.origin), np.array(held.origin) + np.array(held.shape) - 1
    if len(scan.coords):
        high = np.maximum(high, scan.coords.max(axis=0))
    shape = tuple((high - low + 1).tolist())
    grown = dataclasses.replace(held, shape=shape)
    arrays = [VERTICES, FRAGMENTS, *attributes, *(links.arrays if links is not None else ())]
    families = links.families if links is not None else ()
    for array, found in known.items():
        written = array in arrays or array.rpartition("/")[0] in families
        if written and (found.spec.origin, found.spec.shard_shape) != (held.origin, held.shard_shape):
            raise StoreError(
                f"the grid of {array!r} begins at {list(found.spec.origin)} in shards of {found.spec.shard_shape}, that of the "
                f"vertices at {list(held.origin)} in shards of {held.shard_shape}: dzv.convert makes a store of one grid",
                store=level.url, array=array,
            )  # fmt: skip
    specs = {a: dataclasses.replace(known[a].spec, shape=shape) if a in known else grown for a in arrays}
    return GridPlan(specs, token=catalog.token, families=dict.fromkeys(families, grown), extends=True)


def _beside(catalog: Catalog, spec: GridSpec, coords: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows of other chunks in the shards of chunks (n, K), for one chunk of each shard."""
    out = np.zeros(len(coords), np.int64)
    others = neighbours(catalog, spec, coords)
    if len(others):
        units, which = group_by_chunk(np.concatenate([spec.objects_of(coords), spec.objects_of(others)]))
        rows = np.bincount(which[len(coords) :], rows_before(catalog, others), len(units)).astype(np.int64)
        _, first = np.unique(which[: len(coords)], return_index=True)
        out[first] = rows[which[first]]
    return out


def _level_attributes(level: LevelContents, schema: PointSchema, cells: GridSpec) -> dict[str, Any]:
    """Return the attributes of the level: as they are, but for the grid, and attributes where there were none."""
    present = level.metadata.arrays_present
    if schema.attributes and "vertex_attributes" not in present:
        present = (*present, "vertex_attributes")
    metadata = dataclasses.replace(level.metadata, arrays_present=present)
    return {**metadata.to_attributes(), SETTINGS: {"layout": "grid", "grid": grid_settings(cells)}}


def _new_specs(
    level: LevelContents, partitions: Partitions, schema: PointSchema, objects: ObjectPlan | None
) -> dict[str, dict[str, Any]]:
    """Return what the root is to say of attributes that are new; of others it keeps what it says."""
    given = {a.name for a in partitions.attributes}
    known = {"vertex": {a.name for a in level.source.schema.attributes}}
    if objects is not None:
        tables = level.index.tables
        for scope, family in (("object", "object_attributes"), ("group", "group_attributes")):
            known[scope] = {a.partition("/")[2] for a in tables.members(family)}
    own = dataclasses.replace(schema, attributes=tuple(a for a in schema.attributes if a.name in given))
    found = attribute_specs(level.store.axes, partitions, own, objects, None)
    return {scope: {n: s for n, s in of.items() if n not in known[scope]} for scope, of in found.items() if scope in known}
