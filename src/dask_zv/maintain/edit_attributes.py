"""Attributes of a level's vertices: set, renamed, dropped, without touching positions or other attributes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from dask.delayed import Delayed
from dask.task_spec import Task
from numpy.typing import NDArray

from dask_zv.config import settings
from dask_zv.errors import FormatError, InputError, did_you_mean
from dask_zv.format.grids import GridSpec
from dask_zv.format.keys import coords_to_keys, join, keys_to_coords
from dask_zv.geometry.block import EncodedBlock
from dask_zv.geometry.schema import ATTRIBUTES, VERTICES, AttributeSchema, check_attribute_name
from dask_zv.graph.builder import GraphBuilder
from dask_zv.graph.report import Report
from dask_zv.graph.tasks import build_write_graph
from dask_zv.level.contents import LevelContents
from dask_zv.maintain.edit import edited, level_to_edit, run_edit, with_arrays
from dask_zv.maintain.edit_values import find_values
from dask_zv.read.columns import LevelRows
from dask_zv.spatial.chunks import runs_of
from dask_zv.storage.grid.plan import cut_units
from dask_zv.storage.grid.read import GridArrays
from dask_zv.storage.handles import open_objects
from dask_zv.storage.layout import layout_for, open_blobs, open_place
from dask_zv.storage.nodes import load_catalog, read_document
from dask_zv.storage.objects import Address
from dask_zv.storage.opening import objects_are_cheap
from dask_zv.storage.per_chunk.plan import cut_shards
from dask_zv.storage.per_chunk.read import PerChunk
from dask_zv.storage.specs import BlockSpec, CommitSpec, GridPlan, PerChunkPlan, Place
from dask_zv.write.blocks import run_of_shard
from dask_zv.write.planning import attribute_spec


def set_attribute(
    store: object,
    name: str,
    values: Any,
    *,
    level: int = 0,
    max_categories: int = 10_000,
    compute: bool = True,
    progress: bool | None = None,
) -> Report | Delayed:
    """Give each vertex of a level a value of an attribute, see :meth:`dask_zv.Store.set_attribute`."""
    contents = level_to_edit(store, level)
    check_attribute_name(name, contents.store.axes)
    _check_not_leading(contents, name)
    if not len(contents.chunks):
        raise InputError("the level has no vertices: write some with their attributes", store=contents.url)
    rows = LevelRows(contents.source, contents.chunks)
    found = find_values(contents, rows, name, values, max_categories)
    schema = found.schema
    held = _held(contents, schema.array)
    blocks, specs, grid = _plan(contents, schema, held)
    builder = GraphBuilder("zv-set-attribute", watched=bool(progress), store=contents.place.handle)
    # blobs without the rows that the level is known to have are never stored: each block looks at its fragments
    pieces = found.add_pieces(builder, rows, blocks)
    shared = builder.share("rows", rows)
    payloads = [
        Task(None, _encode, schema, shared, chunks, take, argument)
        for chunks, (take, argument) in zip(blocks, pieces, strict=True)
    ]
    commit = CommitSpec(
        contents.place,
        ((schema.array, schema.to_attributes(grid=grid is not None)),),
        (schema.array,),
        catalog=True,
        count=len(rows),
        grid=grid,
        marker=_mark(schema.array) if held else "",
        turn=True,
        whole=frozenset({schema.array}),
        extends_catalog=contents.source.catalogued,
    )
    about = attribute_spec(schema.dtype, schema.channels, schema.dictionary is not None, found.attrs)
    present = with_arrays(contents.metadata.arrays_present, ATTRIBUTES, there=True)
    commit = edited(commit, contents, builder.run, {"vertex": {name: about}}, arrays_present=present)
    graph = build_write_graph(builder, list(zip(specs, payloads, strict=True)), commit)
    return run_edit(contents.store, graph, compute=compute, progress=progress, commit=commit)


def rename_attribute(
    store: object, old: str, new: str, *, level: int = 0, compute: bool = True, progress: bool | None = None
) -> Report | Delayed:
    """Give an attribute another name, see :meth:`dask_zv.Store.rename_attribute`."""
    contents = level_to_edit(store, level)
    schema = _known(contents, old)
    check_attribute_name(new, contents.store.axes)
    _check_not_leading(contents, new)
    renamed = replace(schema, name=new)
    if new in contents.attributes or _held(contents, renamed.array):
        raise InputError(f"there is an attribute {new!r} already: drop it first, or choose another name", store=contents.url)
    held = open_place(contents.place)
    document = read_document(held.objects, join(contents.place.prefix, schema.array)) or {}
    attributes = {**document.get("attributes", {}), "name": new}
    found, like = None, None
    if isinstance(held, GridArrays):
        found = held.array(schema.array)
        assert found is not None
        attributes, like = {**found.attributes, "name": new}, found.spec
    blocks, specs, grid = _plan(contents, renamed, held=False, like=like)
    builder = GraphBuilder("zv-rename-attribute", watched=bool(progress), store=contents.place.handle)
    keys = contents.chunks.keys
    row_counts = contents.chunks.rows
    payloads = [
        Task(
            None, _copy, contents.place, schema.array, renamed.array, [keys[i] for i in chunks], row_counts[chunks],
            found is not None and found.plain,
        )
        for chunks in blocks
    ]  # fmt: skip
    commit = CommitSpec(
        contents.place,
        ((renamed.array, attributes),),
        (renamed.array,),
        catalog=True,
        count=int(row_counts.sum()),
        grid=grid,
        remove=(schema.array,),
        whole=frozenset({renamed.array}),
        turn=True,
        gone=(schema.array,),
        extends_catalog=contents.source.catalogued,
    )
    about = contents.store.attribute_specs.get("vertex", {}).get(old, {})
    commit = edited(commit, contents, builder.run, {"vertex": {old: {}, new: about}})
    graph = build_write_graph(builder, list(zip(specs, payloads, strict=True)), commit)
    return run_edit(contents.store, graph, compute=compute, progress=progress, commit=commit)


def drop_attribute(store: object, name: str, *, level: int = 0, compute: bool = True) -> Report | Delayed:
    """Remove an attribute of a level, see :meth:`dask_zv.Store.drop_attribute`."""
    contents = level_to_edit(store, level)
    schema = _known(contents, name)
    others = [a for a in contents.source.schema.attributes if a.name != name]
    remove = schema.array if others else ATTRIBUTES
    commit = CommitSpec(
        contents.place, (), (), catalog=True, count=0, remove=(remove,), gone=(schema.array,),
        grid=GridPlan({}) if layout_for(contents.place.layout).shards_have_extents else None,
        extends_catalog=contents.source.catalogued,
    )  # fmt: skip
    present = with_arrays(contents.metadata.arrays_present, ATTRIBUTES, there=bool(others))
    builder = GraphBuilder("zv-drop-attribute", store=contents.place.handle)
    commit = edited(commit, contents, builder.run, {"vertex": {name: {}}}, arrays_present=present)
    return run_edit(contents.store, build_write_graph(builder, [], commit), compute=compute, commit=commit)


def _known(level: LevelContents, name: str) -> AttributeSchema:
    """Return the schema of an attribute that is there."""
    _check_not_leading(level, name)
    found = next((a for a in level.source.schema.attributes if a.name == name), None)
    if found is None:
        names = level.attributes
        raise InputError(
            f"no attribute {name!r}: the level has {', '.join(names) or 'none'}{did_you_mean(name, names)}", store=level.url
        )
    return found


def _check_not_leading(level: LevelContents, name: str) -> None:
    if level.source.chunk_attribute is not None and level.source.chunk_attribute[0] == name:
        raise InputError(
            f"attribute {name!r} is told by the chunk keys, which an edit can't change: write the level again", store=level.url
        )


def _held(level: LevelContents, array: str) -> bool:
    """Return True if the level has an array of this name."""
    objects = open_objects(level.place.handle)
    return read_document(objects, join(level.place.prefix, array)) is not None


def _mark(array: str) -> str:
    """Return the name of the mark that an attribute is being replaced: the same call again, after one that died, removes it."""
    return hashlib.sha256(array.encode()).hexdigest()[:12]


def _plan(
    level: LevelContents, schema: AttributeSchema, held: bool, like: GridSpec | None = None
) -> tuple[list[NDArray[np.int64]], list[BlockSpec], GridPlan | None]:
    """Return the chunks of each block (numbers, ascending), how each is stored, and the grids of the batch.

    The array is cut like `like`, else like the array of this name that is `held`, else like the positions.
    """
    place, table, row_bytes = level.place, level.chunks, schema.row_bytes
    addresses = [(schema.array, key) for key in table.keys]
    blobs = open_place(place)
    grid: GridPlan | None = None
    shards: int | None = None
    plain: frozenset[str] = frozenset()
    if isinstance(blobs, GridArrays):
        found = blobs.array(schema.array if held else VERTICES)
        spec = like or (None if found is None else found.spec)
        if spec is None:
            raise FormatError("the positions have no array", store=level.url, array=VERTICES)
        catalog = load_catalog(blobs.objects, place.prefix)
        grid = GridPlan({schema.array: spec}, token="" if catalog is None else catalog.token)
        units = cut_units(grid, addresses)
    else:
        assert isinstance(blobs, PerChunk)
        shards = run_of_shard(
            level.store.settings.get("shard_chunks", 1), table.coords, local=objects_are_cheap(place.handle), url=level.url
        )
        plain = frozenset(blobs.listing(schema.array).plain) if held and shards is not None else frozenset()
        units = cut_shards(addresses, shards)
    sizes = np.array([len(unit) for unit in units], np.int64)
    numbers = [table.find(keys_to_coords([k for _, k in unit], level.source.rank)) for unit in units]
    nbytes = np.array([int(table.rows[n].sum()) * row_bytes for n in numbers], np.int64)
    low, high = settings().write_block_bytes
    limit = int(np.clip(int(nbytes.sum()) // 8, low, high))
    runs = runs_of((sizes, settings().pass_chunks), (nbytes, limit))
    blocks = [np.sort(np.concatenate(numbers[a:b])) for a, b in runs]
    specs = [
        BlockSpec(place, grid, PerChunkPlan(shards, superseded=tuple(a for u in units[a:b] for a in u if a[1] in plain)))
        for a, b in runs
    ]
    return blocks, specs, grid


def _encode(
    schema: AttributeSchema,
    rows: LevelRows,
    chunks: NDArray[np.int64],
    take: Callable[..., NDArray[Any]],
    argument: Any,
) -> EncodedBlock:
    """Return an attribute's blobs of some chunks."""
    fragments = rows.fragments(chunks)  # says where they are not those of the rows
    values = take(rows, chunks, argument)
    if fragments.stored_rows is not None:
        stored = np.empty_like(values)
        stored[fragments.stored_places()] = values
        values = stored
    data = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
    ends = (np.cumsum(rows.counts[chunks]) * schema.row_bytes).tolist()
    keys = coords_to_keys(rows.table.coords[chunks])
    blobs: dict[Address, Any] = {
        (schema.array, key): bytes(data[a:b]) for key, a, b in zip(keys, [0, *ends], ends, strict=False)
    }
    return EncodedBlock(blobs, dict(zip(keys, rows.counts[chunks].tolist(), strict=True)))


def _copy(place: Place, old: str, new: str, keys: Sequence[str], rows: NDArray[np.int64], stored: bool) -> EncodedBlock:
    """Return blobs of one array for another of the same grid; as they are stored, where that is told."""
    objects = open_objects(place.handle)
    blobs = open_blobs(objects, place.prefix, place.layout, load_catalog(objects, place.prefix))
    addresses = [(old, key) for key in keys]
    found: Mapping[Address, Any]
    found = blobs.read_stored(addresses) if stored and isinstance(blobs, GridArrays) else blobs.read_many(addresses)
    lost = next((key for key in keys if (old, key) not in found), None)
    if lost is not None:
        raise FormatError("the chunk has no values", store=objects.url, array=join(place.prefix, old), chunk=lost)
    return EncodedBlock({(new, key): found[old, key] for key in keys}, dict(zip(keys, rows.tolist(), strict=True)))
