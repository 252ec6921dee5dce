"""One level of a store on its way into another: which arrays, in which blocks, and what else goes along."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from dask.task_spec import Task, TaskRef
from numpy.typing import NDArray

from dask_zv.errors import FormatError, InputError
from dask_zv.format.grids import GridArray, GridSpec, codec_list
from dask_zv.format.keys import DOCUMENT, format_key, is_spatial_key, join, parse_key
from dask_zv.format.levels import LevelMetadata
from dask_zv.format.objects import GROUP_NAMES
from dask_zv.geometry.block import BlockExtra, EncodedBlock, Fragments
from dask_zv.geometry.schema import VERTICES
from dask_zv.graph.builder import GraphBuilder
from dask_zv.graph.report import Report
from dask_zv.graph.tasks import build_write_graph
from dask_zv.level.contents import LevelContents, StoreContents
from dask_zv.level.hierarchy import OBJECTS_PER_TASK, Hierarchy, copy_objects, find_nodes
from dask_zv.level.object_index import ObjectIndex
from dask_zv.read.chunk_boxes import boxes_hold
from dask_zv.read.object_columns import object_fields
from dask_zv.storage.catalog import CATALOG_NAME
from dask_zv.storage.grid.plan import grid_settings, packing
from dask_zv.storage.grid.read import GridArrays
from dask_zv.storage.handles import StoreHandle, open_objects
from dask_zv.storage.layout import layout_for, open_blobs, open_place
from dask_zv.storage.nodes import SETTINGS, load_catalog, merge_attributes, storing_order
from dask_zv.storage.objects import Address
from dask_zv.storage.specs import BlockSpec, CommitSpec, GridPlan, LayoutName, PerChunkPlan, Place
from dask_zv.write.blocks import copied_blocks, grid_around, run_of_shard
from dask_zv.write.object_index import write_object_index
from dask_zv.write.object_plan import ObjectPlan, object_blobs, object_metadata, plan_objects, with_sentinel
from dask_zv.write.scan import id_ranges

_LINKS = ("links", "link_fragments", "link_attributes", "cross_chunk_links", "cross_chunk_link_attributes")


@dataclass(frozen=True, slots=True)
class LevelTarget:
    """What the copy is to be; where `shard_chunks` or `codecs` are None, as the source's."""

    handle: StoreHandle
    prefix: str
    layout: LayoutName
    shard_chunks: int | Sequence[int] | Literal["auto"] | None
    codecs: tuple[Mapping[str, Any], ...] | None
    local: bool
    """The target is a local directory, or in memory."""

    @property
    def in_cells(self) -> bool:
        """Blobs are cells of one array."""
        return layout_for(self.layout).shards_have_extents

    def place(self, number: int) -> Place:
        """Return the place of a level."""
        return Place(self.handle, join(self.prefix, str(number)), self.layout)

    def spec(self, source: GridSpec | None, coords: NDArray[np.int64]) -> GridSpec:
        """Return the grid of an array: the source's, or just large enough for its chunks."""
        spec = grid_around(coords, codec_list("zstd")) if source is None else source
        if self.codecs is not None:
            spec = dataclasses.replace(spec, codecs=self.codecs)
        asked = "auto" if self.shard_chunks is None and source is None else self.shard_chunks
        if asked is None:
            return spec
        return dataclasses.replace(spec, shard_shape=packing(asked, len(coords), spec.shape, local=self.local))

    def per_chunk_shards(self, store: StoreContents, coords: NDArray[np.int64] | None = None) -> int | None:
        """Return the chunks of a shard in layout ``per_chunk``, None for an object per chunk; by level 0 without `coords`."""
        asked = self.shard_chunks
        if asked is None:
            kept = "auto" if layout_for(store.layout).shards_have_extents else store.settings.get("shard_chunks", 1)
            asked = kept if isinstance(kept, int) else "auto"
        if not isinstance(asked, int | str):
            raise InputError(f"shard_chunks {asked!r}: layout per_chunk packs along the Morton curve, by a number of chunks")
        if coords is None:
            coords = np.zeros((0, 0), np.int64) if isinstance(asked, int) else store.level(0).chunks.coords
        return run_of_shard(asked, coords, local=self.local, url=store.url)


def add_level(builder: GraphBuilder, level: LevelContents, target: LevelTarget) -> TaskRef:
    """Add the tasks that copy one level; return the one whose result is its report."""
    builder = builder.sub(str(level.number))
    source, place = level.place, target.place(level.number)
    objects = open_objects(source.handle)
    nodes = find_nodes(objects, source.prefix, source.layout)
    same = layout_for(source.layout) is layout_for(target.layout)
    if not same:
        _check_convertible(level, nodes)
    coords = {a: _coords(source, a) for a in nodes.chunked}
    row_bytes = level.source.schema.grid.ndim * level.source.schema.dtype.itemsize
    grids: GridPlan | None = None
    shards: int | None = None
    held: Mapping[str, GridArray | None] = {}
    if target.in_cells:
        held = GridArrays(objects, source.prefix).arrays(nodes.chunked) if same else {}
        specs = {}
        for array, found in coords.items():
            own = held.get(array)
            if own is None and not len(found):
                continue
            specs[array] = target.spec(None if own is None else own.spec, found)
        grids = GridPlan(specs)
    else:
        shards = target.per_chunk_shards(level.store, coords.get(VERTICES, np.zeros((0, 0), np.int64)))
    # cells that the target stores in the same way are not even decompressed
    alike = frozenset(
        a for a, spec in (grids.specs if grids is not None and same else {}).items()
        if (own := held.get(a)) is not None and own.plain and own.spec.codecs == spec.codecs
    )  # fmt: skip
    block = BlockSpec(place, grids, PerChunkPlan(shards))
    blocks: list[tuple[BlockSpec, Any]] = [
        (block, Task(None, _load, source, part, row_bytes, alike)) for part in copied_blocks(coords, grids, shards)
    ]
    metadata: list[tuple[str, Mapping[str, Any]]] = list(nodes.groups.items())
    if same:
        metadata += list(nodes.chunked.items())
    else:
        metadata = [(p, a) for p, a in level.source.schema.array_metadata(grid=target.in_cells) if p in coords]
    own_attributes = _level_attributes(level, target, grids)
    without = () if boxes_hold(level.source, level.chunks) else (CATALOG_NAME,)  # which would vouch for the boxes

    if same:
        others = enumerate([*nodes.plain, *nodes.literal])
        waiting = [builder.add(builder.key("copy", i), copy_node, source, place, array) for i, array in others]
    else:
        waiting = _objects_along(builder, level, place, metadata)
    if not same and not target.in_cells and level.source.schema.has_objects:
        extra = object_blobs(object_plan_of(level, place.layout))
        if extra:
            blocks.append((BlockSpec(place), EncodedBlock({(a, k): data for a, k, data in extra})))
    spec = CommitSpec(
        place,
        tuple(metadata),
        tuple(coords),
        catalog=VERTICES in coords,
        replace=True,
        count=level.metadata.vertex_count,
        grid=grids,
    )
    graph = build_write_graph(builder, blocks, spec, lambda _, results: (waiting, []))
    # the level's own attributes make a level of the group, so they come after all that is in it
    return builder.add(builder.key("level", level.number), _finish_level, place, own_attributes, without, TaskRef(graph.key))


def copy_others(builder: GraphBuilder, store: StoreContents, target: LevelTarget) -> list[TaskRef]:
    """Add the tasks that copy what is in the root beside the levels (``headers``, ``parametric``)."""
    objects = open_objects(store.handle)
    levels = {str(n) for n in store.levels}
    names = [n for n in objects.list_dir(store.prefix) if n not in levels and n != DOCUMENT]
    names = [n for n in names if objects.exists(join(store.prefix, n, DOCUMENT))]
    odd = [n for n in names if n != "headers"]
    if odd and layout_for(target.layout) is not layout_for(store.layout):
        raise InputError(f"{store.url} has {odd[0]!r}, which the other layout stores differently: leave layout out")
    here, there = Place(store.handle, store.prefix), Place(target.handle, target.prefix)
    return [builder.add(builder.key("copy", f"root-{i}"), copy_node, here, there, n) for i, n in enumerate(names)]


def _check_convertible(level: LevelContents, nodes: Hierarchy) -> None:
    odd = [a for a in (*nodes.chunked, *nodes.groups, *nodes.literal) if a.split("/")[0] in _LINKS]
    odd += [a for a in nodes.chunked if a.split("/")[0] == "fragment_attributes"]
    if odd:
        raise InputError(
            f"{level.url} has {odd[0]!r}, which the other layout stores differently: only point clouds are converted between "
            "layouts; leave layout out to change packing or compression"
        )
    read = {*level.source.schema.arrays}
    if level.source.schema.has_objects:
        read |= {f"{f}/{n}" for f in ("object_attributes", "group_attributes") for n in object_fields(level.index, f)}
    every = [a for a in (*nodes.chunked, *nodes.plain, *nodes.literal) if a.split("/")[0].endswith("_attributes")]
    if left := [a for a in every if a not in read]:
        raise InputError(f"{level.url} has {left[0]!r}, of a dtype that can't be read: remove it, or leave layout out")


def _coords(place: Place, array: str) -> NDArray[np.int64]:
    blobs = open_place(place)
    if isinstance(blobs, GridArrays):
        return blobs.list_coords(array)
    coords = [parse_key(k) for k in blobs.list_keys(array) if is_spatial_key(k)]
    odd = next((c for c in coords if len(c) != len(coords[0])), None)
    if odd is not None:
        raise FormatError(
            f"chunk keys of rank {len(odd)} beside those of rank {len(coords[0])}: one of them is not this array's; remove it",
            store=blobs.objects.url, array=join(place.prefix, array), chunk=format_key(odd),
        )  # fmt: skip
    return np.array(coords, np.int64) if coords else np.zeros((0, 0), np.int64)


def _load(source: Place, addresses: Sequence[Address], row_bytes: int, alike: frozenset[str]) -> EncodedBlock:
    """Read a block's blobs from the source; those of arrays in `alike` as they are stored."""
    objects = open_objects(source.handle)
    blobs = open_blobs(objects, source.prefix, source.layout, load_catalog(objects, source.prefix))
    found: dict[tuple[str, str], Any] = dict(blobs.read_many([a for a in addresses if a[0] not in alike]))
    if alike and isinstance(blobs, GridArrays):
        found |= blobs.read_stored([a for a in addresses if a[0] in alike])
    missing = next((a for a in addresses if a not in found), None)
    if missing is not None:
        raise FormatError(
            "the chunk vanished while the store was converted", store=source.handle.url,
            array=join(source.prefix, missing[0]), chunk=missing[1],
        )  # fmt: skip
    rows = {k: len(d) // row_bytes for (a, k), d in found.items() if a == VERTICES}
    return EncodedBlock(found, rows)


def _level_attributes(level: LevelContents, target: LevelTarget, grids: GridPlan | None) -> dict[str, Any]:
    attributes = dict(level.group.attrs.to_dict())
    attributes.pop(SETTINGS, None)
    if layout_for(level.place.layout).shards_have_extents and not target.in_cells:
        metadata: LevelMetadata = dataclasses.replace(level.metadata, fragments_tile=False)
        attributes.update(metadata.to_attributes())
        attributes["zarr_vectors_level"].pop("fragments_tile", None)
    attributes[SETTINGS] = {"layout": target.layout}
    if grids is not None and VERTICES in grids.specs:
        attributes[SETTINGS]["grid"] = grid_settings(grids.specs[VERTICES])
    return attributes


def _finish_level(place: Place, attributes: Mapping[str, Any], without: Sequence[str], report: Report) -> Report:
    objects = open_objects(place.handle)
    for node in without:
        objects.delete_prefix(join(place.prefix, node))
    merge_attributes(objects, place.prefix, attributes)
    return report


def copy_node(source: Place, target: Place, array: str, new: str | None = None) -> int:
    """Copy an ordinary array, or a group of some, object by object; documents after what they describe, or before it.

    It gets another path where `new` is one, which its attribute ``name`` may have to say.
    """
    here, there = open_objects(source.handle), open_objects(target.handle)
    base, to = join(source.prefix, array), join(target.prefix, new or array)
    keys = [k.removeprefix(base + "/") for k in here.list_prefix(base)]
    keys = sorted(k for k in keys if k != DOCUMENT)
    inner = [k for k in keys if k.endswith(f"/{DOCUMENT}")]
    order = ([DOCUMENT], inner, [k for k in keys if k not in inner])
    for group in storing_order(there, order, order[::-1])[0]:
        for start in range(0, len(group), OBJECTS_PER_TASK):
            moves = [(join(base, k), join(to, k)) for k in group[start : start + OBJECTS_PER_TASK]]
            copy_objects(here, there, moves, FormatError("an object vanished while the store was converted"))
    return len(keys)


# ---------------------------------------------------------------------------------------------- objects, between layouts


def object_plan_of(level: LevelContents, layout: str) -> ObjectPlan:
    """Return the objects of a level, with their attributes and groups, as a write of them to a layout takes them."""
    source = level.source
    index = ObjectIndex(source)
    attributes: dict[str, tuple[NDArray[Any], NDArray[np.bool_] | None]] = {}
    for name, values in index.attributes().items():
        present = ~np.ma.getmaskarray(values).all(axis=tuple(range(1, values.ndim)))
        what = f"object attribute {name!r}"
        attributes[name] = with_sentinel(what, np.ma.filled(values, 0), present, grid=layout_for(layout).has_tables)
    groups, group_attributes = index.tables.groups
    ids = id_ranges(np.asarray(index.ids, np.int64))
    plan = plan_objects(ids, None, {g: m.tolist() for g, m in groups.items()} or None, layout=layout)
    names = group_attributes.pop(GROUP_NAMES, np.zeros(0, str))
    return dataclasses.replace(
        plan, attributes=attributes, group_attributes=group_attributes, group_names=tuple(map(str, names.tolist()))
    )


def _objects_along(
    builder: GraphBuilder, level: LevelContents, place: Place, metadata: list[tuple[str, Mapping[str, Any]]]
) -> list[TaskRef]:
    """Add the tasks that write the object index anew, and its groups' attributes to `metadata`."""
    if not level.source.schema.has_objects:
        return []
    plan = object_plan_of(level, place.layout)
    rank = level.source.rank
    metadata += object_metadata(plan, rank, place.layout)
    table = builder.add(builder.key("objects", level.number), _fragments, level.source)
    return write_object_index(builder, place, plan, rank, [table])[0]


def _fragments(source: Any) -> BlockExtra:
    """Return the fragments of all objects, in the order of their manifests."""
    parts = list(ObjectIndex(source).slices())
    zero = np.zeros(0, np.int64)
    objects = np.concatenate([p.objects for p in parts] or [zero])
    chunks = np.concatenate([p.chunks for p in parts] or [np.zeros((0, source.rank), np.int64)])
    fragments = np.concatenate([p.fragments for p in parts] or [zero])
    unknown = np.full(len(objects), -1, np.int64)  # rows: links between the pieces are not made here
    return BlockExtra(Fragments(objects, chunks, fragments, unknown, unknown, np.arange(len(objects))))
