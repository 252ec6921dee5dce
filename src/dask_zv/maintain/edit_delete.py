"""Objects, and what lies in a box, deleted from a level: chunks that lose a vertex are written, and links that lead to them.

One module because what is cut, which links lead there, and the tables of the objects that are left are one plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

import numpy as np
from dask.delayed import Delayed, delayed
from dask.task_spec import List, Task, TaskRef
from numpy.typing import NDArray

from dask_zv.config import settings
from dask_zv.errors import InputError, MetadataError
from dask_zv.format.keys import coords_to_keys, keys_to_coords
from dask_zv.format.links import LinkFamily, has_permutation, parse_segment
from dask_zv.geometry.block import BlockExtra, EncodedBlock, Fragments
from dask_zv.geometry.kinds import kind_of
from dask_zv.geometry.schema import LINK_FRAGMENTS, VERTICES
from dask_zv.graph.builder import GraphBuilder
from dask_zv.graph.report import Report
from dask_zv.graph.tasks import add_block, add_commit
from dask_zv.level.contents import LevelContents
from dask_zv.level.fragment_table import FragmentTable
from dask_zv.level.hierarchy import Hierarchy, find_nodes
from dask_zv.level.link_source import LinkSource
from dask_zv.level.object_index import ObjectIndex, chosen_ids
from dask_zv.level.object_tables import EDGE_COUNTS, OBJECT_LENGTHS
from dask_zv.level.source import LevelSource
from dask_zv.maintain.convert_level import object_plan_of
from dask_zv.maintain.edit import edited, finished_level, level_to_edit, run_edit
from dask_zv.maintain.edit_log import Record, add_application, shadow, stage
from dask_zv.maintain.edit_rows import RowMaps, Segment, cut_chunks, cut_links
from dask_zv.read.columns import LevelRows
from dask_zv.read.levels import select_in
from dask_zv.read.object_rows import object_lengths
from dask_zv.read.select import Selection, rows_inside
from dask_zv.spatial.chunks import ChunkLookup, runs_of
from dask_zv.spatial.grid import Box
from dask_zv.storage.grid.plan import cut_units
from dask_zv.storage.grid.read import GridArrays
from dask_zv.storage.handles import open_objects
from dask_zv.storage.layout import layout_for
from dask_zv.storage.locks import commit_lock
from dask_zv.storage.nodes import load_catalog
from dask_zv.storage.specs import BlockSpec, CommitSpec, GridPlan, Place, check_as_planned
from dask_zv.write.object_index import write_edge_table, write_object_index
from dask_zv.write.object_plan import ObjectPlan, object_metadata, old_object_nodes
from dask_zv.write.planning import links_to_this
from dask_zv.write.scan import id_ranges

_OBJECTS_AT_ONCE = 1 << 17
_NOTHING = Report(0, 0, 0, 0, 0, 0, 0.0)
_LINKS = "links/0"
_OF_LINKS = ("links/", "link_attributes/")


def delete_objects(
    store: object, ids: Any, *, level: int = 0, compute: bool = True, progress: bool | None = None
) -> Report | Delayed:
    """Delete objects with all that is theirs, see :meth:`dask_zv.Store.delete_objects`."""
    contents, done = finished_level(store, level)
    _check_written(contents)
    if not contents.source.schema.has_objects:
        raise InputError("the level has no objects: delete what lies in a box, store.delete(bbox=...)", store=contents.url)
    wanted = chosen_ids(ids)
    if done is not None:  # this very call, perhaps, of a process that died
        wanted = wanted[np.isin(wanted, contents.index.ids)]
        if not len(wanted):
            return _known(done, compute=compute)
    contents.index.rows(wanted)  # says which of them there aren't
    nodes = _check_level(contents)
    if not len(wanted):
        return _known(_NOTHING, compute=compute)
    gone = contents.index.select(wanted)
    at = contents.chunks.find(gone.distinct_chunks) if len(gone.objects) else np.zeros(0, np.int64)
    plan = _without(object_plan_of(contents, contents.place.layout), wanted, len(np.unique(gone.objects)), contents.index)
    return _Deletion(contents, nodes, at, np.ones(len(at), bool), None, gone, wanted, plan).run(
        compute=compute, progress=progress
    )


def delete(store: object, *, bbox: Any, level: int = 0, compute: bool = True, progress: bool | None = None) -> Report | Delayed:
    """Delete the vertices in a box, see :meth:`dask_zv.Store.delete`."""
    contents = level_to_edit(store, level)
    _check_written(contents)
    kind = kind_of(contents.kind)
    torn = kind.is_path or (contents.has_implied_edges and not kind.has_parents) or contents.is_chunked_skeleton
    if torn:
        raise InputError(
            f"a {contents.kind} without vertices from its middle would be joined across the gap: delete whole objects, "
            "store.delete_objects(ids), such as those of level.read(bbox=...), or write the level anew",
            store=contents.url,
        )
    nodes = _check_level(contents)
    if bbox is None:
        raise InputError("bbox is two corners; store.delete_objects(ids) deletes objects", store=contents.url)
    chosen = select_in(contents, None, bbox, None)
    if not _hits(contents, chosen):
        return _known(_NOTHING, compute=compute)
    plan = object_plan_of(contents, contents.place.layout) if contents.source.schema.has_objects else None
    nobody = np.zeros(0, np.int64)
    numbers, whole = np.asarray(chosen.chunks, np.int64), chosen.whole
    if kind.has_parents:  # children elsewhere begin a fragment
        numbers, whole = _with_linked(contents, nodes, numbers, whole)
    deletion = _Deletion(contents, nodes, numbers, whole, chosen.box, None, nobody, plan)
    return deletion.run(compute=compute, progress=progress)


def _known(report: Report, *, compute: bool) -> Report | Delayed:
    """Return the report of a deletion for which nothing is left to do."""
    return report if compute else delayed(itself, pure=False)(report)


def _hits(level: LevelContents, chosen: Selection) -> bool:
    """Return True if a vertex lies in a box; positions are read until one is found."""
    numbers, counts = np.asarray(chosen.chunks, np.int64), level.chunks.rows
    if counts[numbers[chosen.whole]].any():
        return True
    rows, start, step = LevelRows(level.source, level.chunks), 0, 1
    assert chosen.box is not None
    while start < len(numbers):
        some = numbers[start : start + step]
        if rows_inside(counts[some], np.zeros(len(some), bool), chosen.box, rows.positions(some)).any():
            return True
        start, step = start + step, min(4 * step, settings().pass_chunks)
    return False


def _check_written(level: LevelContents) -> None:
    if not level.source.catalogued and not len(level.chunks):
        raise InputError("the level is empty: there is nothing to delete before something is written", store=level.url)


def _with_linked(
    level: LevelContents, nodes: Hierarchy, numbers: NDArray[np.int64], whole: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return chunks (ascending) with those that links join to them, and which of them lie in the box as a whole."""
    blobs, touched = GridArrays(open_objects(level.place.handle), level.place.prefix), ChunkLookup(level.chunks.coords[numbers])
    found = [numbers]
    for array in nodes.chunked:
        if array.startswith(f"{_LINKS}/") and len(numbers):
            filed = blobs.list_coords(array)
            for offset in parse_segment(array.rpartition("/")[2], level.source.rank):
                near = (touched.find(filed) >= 0) | (touched.find(filed + offset) >= 0) if len(filed) else np.zeros(0, bool)
                found += [level.chunks.find(filed[near]), level.chunks.find(filed[near] + offset)]
    every = np.unique(np.concatenate(found))
    every = every[every >= 0]
    inside = np.zeros(len(level.chunks), bool)
    inside[numbers] = whole
    return every, inside[every]


def _check_level(level: LevelContents) -> Hierarchy:
    """Return the nodes of a level of which vertices can be deleted."""
    place, source = level.place, level.source
    if not layout_for(place.layout).has_tables:
        raise InputError(
            f"layout {place.layout} (ZV 0.7): vertices can't be deleted; write the level anew, or convert it with "
            "dzv.convert(store, target, layout='grid')",
            store=level.url,
        )
    if not source.catalogued:
        raise InputError(
            "the level has no catalog, by which an interrupted deletion is told: store.refresh() makes one", store=level.url
        )
    if level.metadata.shared_fragments:
        raise InputError("objects of the level share fragments: write it anew with ds.zv.to_store", store=level.url)
    nodes = find_nodes(open_objects(place.handle), place.prefix, place.layout)
    known = {*source.schema.arrays, LINK_FRAGMENTS}
    odd = [a for a in nodes.chunked if a not in known and not a.startswith(_OF_LINKS)]
    odd += list(nodes.literal)
    if odd:
        objects = open_objects(place.handle)
        with commit_lock(objects, place.prefix):  # else it is of an edit that is at work, or was while the level was looked at
            check_as_planned(objects, place.prefix, "", source.token)
        raise InputError(
            f"the level has {odd[0]!r}, whose rows can't be deleted with the vertices: remove it first", store=level.url
        )
    grids = GridArrays(open_objects(place.handle), place.prefix).arrays(source.schema.arrays)
    cut = {(a.spec.origin, a.spec.shard_shape) for a in grids.values() if a is not None}
    if len(cut) > 1:
        raise InputError(
            "the arrays of the level are cut into other shards than the positions: dzv.convert(..., shard_chunks=...) gives "
            "all the same", store=level.url,
        )  # fmt: skip
    return nodes


def _without(plan: ObjectPlan, ids: NDArray[np.int64], present: int, index: ObjectIndex) -> ObjectPlan:
    """Return the objects of a level without some, of which so many have vertices."""
    order = np.arange(index.count) if index.order is None else index.order
    rows = order[~np.isin(index.sorted_ids, ids)]
    attributes = {n: (v[rows], None if p is None else p[rows]) for n, (v, p) in plan.attributes.items()}
    groups = {g: m[~np.isin(m, ids)] for g, m in plan.groups.items()}
    left = index.ids[rows]
    return replace(
        plan, count=len(left), attributes=attributes, groups=groups, ids=id_ranges(left), present=plan.present - present
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Deletion:
    """What is to be deleted of which chunks (numbers, ascending), and the objects that are left."""

    level: LevelContents
    nodes: Hierarchy
    chunks: NDArray[np.int64]
    whole: NDArray[np.bool_]
    box: Box | None
    gone: FragmentTable | None
    ids: NDArray[np.int64]
    plan: ObjectPlan | None

    def run(self, *, compute: bool, progress: bool | None) -> Report | Delayed:
        """Plan the deletion, and run it."""
        level, place = self.level, self.level.place
        logged = not place.handle.is_session
        builder = GraphBuilder("zv-delete", watched=bool(progress), store=place.handle)
        rows = LevelRows(level.source, level.chunks)
        blocks = self._blocks()
        shared = builder.share("rows", rows)
        known = self._edges()
        trees = None if known is None else known[1]
        cuts: list[TaskRef] = []
        for i, mine in enumerate(blocks):
            some = None if self.gone is None else self.gone.within(level.chunks.coords[self.chunks[mine]])
            arguments = shared, self.chunks[mine], self.whole[mine], self.box, some, trees
            cuts.append(builder.add(builder.key("cut", i), cut_chunks, *arguments))
        payloads: list[Any] = [Task(None, itemgetter(0), cut) for cut in cuts]
        maps = [builder.add(builder.key("maps", i), itemgetter(1), cut) for i, cut in enumerate(cuts)]
        found = self._links(builder, blocks, maps)
        links = [builder.add(builder.key("links", i), itself, task) for i, task in enumerate(found.tasks)]
        payloads += links
        told, nodes, written = self._objects(builder, maps, logged=logged)
        if known is not None:
            there = shadow(place, builder.run) if logged else place
            task = builder.key("edges"), _write_edges, there, known[0], List(*maps)
            nodes, written = (*nodes, EDGE_COUNTS), [*written, builder.store(*task)]
        facts = builder.add(builder.key("facts"), _facts, level, told, found.counted, List(*maps))
        payloads.append(facts)
        arrays = (*level.source.schema.arrays, *found.arrays)
        commit = self._commit(arrays, builder.run, edges=known is not None)
        if logged:
            done = [builder.add(builder.key("log", i), stage, place, builder.run, i, p) for i, p in enumerate(payloads)]
            catalog = load_catalog(open_objects(place.handle), place.prefix)
            assert catalog is not None
            record = Record(
                builder.run, catalog.token, len(payloads), arrays, nodes, commit.metadata, commit.remove, commit.gone,
                commit.root, commit.count, commit.objects,
            )  # fmt: skip
            return run_edit(
                level.store, add_application(builder, place, record, [*done, *written]), compute=compute, progress=progress
            )
        held = GridArrays(open_objects(place.handle), place.prefix).arrays(arrays)
        specs = {a: d.spec for a, d in held.items() if d is not None}
        commit = replace(commit, grid=GridPlan(specs, frozenset(specs), level.source.token))
        # every cut is read from the chunks before any is stored
        ready = builder.add(builder.key("ready"), _nothing, List(*maps, *links))
        stored = [add_block(builder, i, BlockSpec(place, commit.grid), payload, [ready]) for i, payload in enumerate(payloads)]
        return run_edit(
            level.store, add_commit(builder, commit, stored, lambda _, __: (written, [])), compute=compute, progress=progress
        )

    def _blocks(self) -> list[NDArray[np.int64]]:
        """Return the chunks of each block as places in `chunks`: whole shards go together."""
        level = self.level
        spec = GridArrays(open_objects(level.place.handle), level.place.prefix).array(VERTICES)
        assert spec is not None
        if not len(self.chunks):
            return []
        coords = level.chunks.coords[self.chunks]
        units = cut_units(GridPlan({VERTICES: spec.spec}), [(VERTICES, key) for key in coords_to_keys(coords)])
        known = ChunkLookup(coords)
        places = [known.find(keys_to_coords([k for _, k in unit], level.source.rank)) for unit in units]
        nbytes = level.source.schema.row_bytes * level.chunks.rows[self.chunks]
        sizes = np.array([len(p) for p in places], np.int64), np.array([int(nbytes[p].sum()) for p in places], np.int64)
        low, high = settings().write_block_bytes
        limit = int(np.clip(int(nbytes.sum()) // 8, low, high))
        runs = runs_of((sizes[0], settings().pass_chunks), (sizes[1], limit))
        return [np.sort(np.concatenate(places[a:b])) for a, b in runs]

    def _links(self, builder: GraphBuilder, blocks: Sequence[NDArray[np.int64]], maps: Sequence[TaskRef]) -> _Links:
        """Return the tasks that correct links of the chunks."""
        level, source = self.level, self.level.source
        named = sorted(a for a in self.nodes.chunked if a.startswith(f"{_LINKS}/"))
        if not named or not len(self.chunks):
            return _Links([], (), {})
        try:
            family = LinkFamily.from_attributes(self.nodes.groups.get(_LINKS, {}), source.rank, 0)
        except MetadataError as error:
            raise error.at(store=level.url, array=_LINKS) from None
        if family.store != "canonical":
            raise InputError("the links of the level are stored twice: write it anew with ds.zv.to_store", store=level.url)
        segments = [self._segment(a, family) for a in named]
        touched = ChunkLookup(level.chunks.coords[self.chunks])
        block_of = np.zeros(len(self.chunks), np.int64)
        for i, mine in enumerate(blocks):
            block_of[mine] = i
        blobs = GridArrays(open_objects(level.place.handle), level.place.prefix)
        specs = {a: d.spec for a, d in blobs.arrays(named).items() if d is not None}
        addresses: list[tuple[str, str]] = []
        ends: dict[tuple[str, str], list[int]] = {}
        for s in segments:
            filed = blobs.list_coords(s.array)
            at = [touched.find(filed), *(touched.find(filed + o) for o in s.offsets)]
            near = np.flatnonzero(np.any([a >= 0 for a in at], axis=0)) if len(filed) else np.zeros(0, np.intp)
            for i, key in zip(near.tolist(), coords_to_keys(filed[near]), strict=True):
                addresses.append((s.array, key))
                ends[s.array, key] = sorted({int(block_of[a[i]]) for a in at if a[i] >= 0})
        units = cut_units(GridPlan(specs), addresses)
        runs = runs_of((np.array([len(u) for u in units], np.int64), settings().pass_chunks))
        tasks = []
        number_of = {s.array: i for i, s in enumerate(segments)}
        table = level.chunks
        for a, b in runs:
            some_cells = [address for unit in units[a:b] for address in unit]
            needs = sorted({n for address in some_cells for n in ends[address]})
            cells: dict[int, list[str]] = {}
            for array, key in some_cells:
                cells.setdefault(number_of[array], []).append(key)
            coords_of = {n: keys_to_coords(keys, source.rank) for n, keys in cells.items()}
            keys = sorted({key for _, key in some_cells})
            at_chunk = table.find(keys_to_coords(keys, source.rank))
            counts = {k: int(table.rows[c]) for k, c in zip(keys, at_chunk.tolist(), strict=True) if c >= 0}
            some = {n: segments[n] for n in cells}
            tasks.append(Task(None, cut_links, source, family, coords_of, some, counts, List(*(maps[n] for n in needs))))
        fragments = (LINK_FRAGMENTS,) if LINK_FRAGMENTS in self.nodes.chunked else ()
        arrays = (*named, *(v for s in segments for v in s.values), *fragments)
        told = {p: self.nodes.groups.get(p, {}).get("num_links") for p in {a.rpartition("/")[0] for a in arrays}}
        return _Links(tasks, arrays, {p: n for p, n in told.items() if isinstance(n, int)})

    def _segment(self, array: str, family: LinkFamily) -> Segment:
        """Return what the document of an array of links says."""
        told, name = self.nodes.chunked[array], array.rpartition("/")[2]
        offsets = parse_segment(name, family.rank)
        flat = not offsets.any()
        permuted = told.get("has_perm")
        if not isinstance(permuted, bool):
            permuted = has_permutation(intra=flat, delta=0, directed=family.directed, store=family.store)
        values = tuple(
            a for a in self.nodes.chunked if a.startswith("link_attributes/") and a.endswith(f"/0/{name}") and a.count("/") == 3
        )
        return Segment(array, offsets, flat, permuted and not flat, str(told.get("dtype", "int64")), values)

    def _objects(
        self, builder: GraphBuilder, maps: Sequence[TaskRef], *, logged: bool
    ) -> tuple[dict[str, Any], tuple[str, ...], list[TaskRef]]:
        """Add the tasks that write the tables of objects; return what is told of the level, the tables, what to wait for."""
        level, plan = self.level, self.plan
        told: dict[str, Any] = {"present": None}
        if plan is None:
            return told, (), []
        lengths = object_lengths(level.source, level.chunks, level.index)
        told = {"present": (lengths.ids, lengths.lengths) if self.box is not None else None}
        place = shadow(level.place, builder.run) if logged else level.place
        slices = []
        for start in range(0, level.index.count, _OBJECTS_AT_ONCE):
            stop = min(start + _OBJECTS_AT_ONCE, level.index.count)
            mine = (lengths.ids, lengths.lengths)
            task = _fragments_left, level.source, start, stop, self.ids, mine, List(*maps)
            slices.append(builder.add(builder.key("fragments", f"of-{start}"), *task))
        full = plan if self.gone is not None else replace(plan, attributes={}, groups={}, group_attributes={}, group_names=())
        written, _ = write_object_index(builder, place, full, level.source.rank, slices)
        nodes = ["object_index/manifests", "object_index/object_ids", OBJECT_LENGTHS]
        nodes += [f"object_attributes/{n}" for n in full.attributes] + (["groups"] if full.groups else [])
        return told, (*nodes, *(f"group_attributes/{n}" for n in full.group_attributes)), written

    def _edges(self) -> tuple[NDArray[np.int64], LinkSource] | None:
        """Return the table of nodes with a parent, and the links that tell; None where the level has no such table."""
        level = self.level
        if not kind_of(level.kind).has_parents or level.is_chunked_skeleton:
            return None
        links, coords = level.found_links(0), level.chunks.coords
        table = level.index.tables.own_table(EDGE_COUNTS, (len(coords), coords.shape[1] + 1))
        if links is None or table is None or not table[1] or not np.array_equal(table[0][:, :-1], coords):
            return None
        return table[0], links.source

    def _commit(self, arrays: tuple[str, ...], edit: str, *, edges: bool) -> CommitSpec:
        level, plan = self.level, self.plan
        objects = open_objects(level.place.handle)
        metadata: list[Any] = []
        remove: list[str] = [] if edges else [EDGE_COUNTS]
        if plan is not None:
            told = dict(object_metadata(plan, level.source.rank, level.place.layout))
            if self.box is not None:
                told["object_index"].pop("num_present")  # known when all are cut
            metadata += told.items()
            if self.gone is not None:
                remove += [
                    n for n in old_object_nodes(objects, level.place.prefix, plan, level.place.layout) if n != OBJECT_LENGTHS
                ]
        between = [a for a in self.nodes.chunked if a.startswith(_OF_LINKS) and a.split("/")[-2] != "0"]
        remove += [*dict.fromkeys(a.rpartition("/")[0] for a in between), *links_to_this(objects, level.place.prefix)]
        commit = CommitSpec(
            level.place, tuple(metadata), arrays, catalog=True, count=0, remove=tuple(remove), gone=tuple(between),
            objects=plan.count if plan is not None else 0, extends_catalog=True,
        )  # fmt: skip
        return edited(commit, level, edit)


@dataclass(frozen=True, slots=True, eq=False)
class _Links:
    """The tasks that correct links, the arrays that they store into, and the links that each family counts."""

    tasks: list[Task]
    arrays: tuple[str, ...]
    counted: dict[str, int]


def itself(value: Any) -> Any:
    """Return the value: a task of a result that several take."""
    return value


def _nothing(_: Any) -> None:
    return None


def _write_edges(place: Place, table: NDArray[np.int64], parts: Sequence[RowMaps]) -> None:
    """Write the table of nodes with a parent with what is left of the chunks that were cut."""
    table, known = table.copy(), ChunkLookup(table[:, :-1])
    left = np.ones(len(table), bool)
    for part in parts:
        if len(part.coords) and part.edges is not None:
            at = known.find(part.coords)
            table[at, -1], left[at] = part.edges, part.rows_left > 0
    write_edge_table(place, table[left])


def _facts(level: LevelContents, told: dict[str, Any], counted: dict[str, int], parts: Sequence[RowMaps]) -> EncodedBlock:
    """Return a block without blobs, which tells what the level counts now."""
    lost = sum(int((~p.keep).sum()) for p in parts)
    metadata = {"": replace(level.metadata, vertex_count=int(level.chunks.rows.sum()) - lost).to_attributes()}
    low, high = level.store.metadata.bounds
    if level.number == 0 and level.store.settings.get("bounds", "declared") != "declared":
        bounds = _bounds_left(level, np.array([low, high], np.float64), parts)
        if bounds != (low, high):
            metadata[".."] = replace(level.store.metadata, bounds=bounds).to_attributes()
    if told["present"] is not None:
        ids, lengths = told["present"]
        metadata["object_index"] = {"num_present": int((_lengths_left(ids, lengths, parts) > 0).sum())}
    return EncodedBlock({}, metadata=metadata, records=counted)


Corner = tuple[float, ...]


def _bounds_left(level: LevelContents, bounds: NDArray[np.float64], parts: Sequence[RowMaps]) -> tuple[Corner, Corner]:
    """Return the box of the vertices that are left: a side moves where its outermost chunks lost some, which are read then."""
    rows, table = LevelRows(level.source, level.chunks, level.offset), level.chunks
    maps = RowMaps.join(parts, level.source.rank)
    left = table.rows.copy()
    cut = table.find(maps.coords) if len(maps.coords) else np.zeros(0, np.int64)
    left[cut] = maps.rows_left
    out = bounds.copy()
    some = np.flatnonzero(left)
    for axis in range(bounds.shape[1]) if len(some) else ():
        along = level.source.spatial(table.coords)[:, axis]
        for side, outermost, best in ((0, np.min, np.min), (1, np.max, np.max)):
            if not (along[cut] == outermost(along)).any():
                continue
            slab = some[along[some] == outermost(along[some])]
            values = []
            for start in range(0, len(slab), settings().pass_chunks):
                chunks = slab[start : start + settings().pass_chunks]
                keep = [np.ones(n, bool) for n in table.rows[chunks].tolist()]
                at = maps.lookup().find(table.coords[chunks]) if len(cut) else np.full(len(chunks), -1)
                ends = np.r_[0, np.cumsum(maps.rows)]
                for i in np.flatnonzero(at >= 0).tolist():
                    keep[i] = maps.keep[ends[at[i]] : ends[at[i] + 1]]
                values.append(best(rows.positions(chunks)[np.concatenate(keep), axis]))
            out[side, axis] = float(best(values)) + (0.0 if level.offset is None else level.offset[axis])
    return tuple(out[0].tolist()), tuple(out[1].tolist())


def _lengths_left(ids: NDArray[np.int64], lengths: NDArray[np.int64], parts: Sequence[RowMaps]) -> NDArray[np.int64]:
    """Return the vertices of each object (ids ascending) that are left."""
    left = lengths.copy()
    for part in parts:
        known = part.lost_ids >= 0
        np.subtract.at(left, np.searchsorted(ids, part.lost_ids[known]), part.lost_rows[known])
    return left


def _fragments_left(
    source: LevelSource,
    start: int,
    stop: int,
    gone: NDArray[np.int64],
    known: tuple[NDArray[np.int64], NDArray[np.int64]],
    parts: Sequence[RowMaps],
) -> BlockExtra:
    """Return the fragments of the objects of some rows of the index, as they are numbered now."""
    index = ObjectIndex(source)
    rows = np.arange(start, stop)
    ids = np.sort(index.ids[rows])
    table = index.select(ids[~np.isin(ids, gone)])
    maps = RowMaps.join(parts, source.rank)
    number, pieces = table.fragments.copy(), np.ones(len(table.fragments), np.int64)
    if len(maps.coords) and len(number):
        at = maps.lookup().find(table.chunks)
        cut = np.flatnonzero(at >= 0)
        number[cut], pieces[cut] = maps.new_fragments(at[cut], number[cut])
    left = np.repeat(np.arange(len(number)), pieces)
    number = np.repeat(number, pieces) + np.arange(len(left)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    objects = table.objects[left]
    lengths = _lengths_left(*known, parts)
    count = np.zeros(len(left), np.int64)
    first = np.flatnonzero(np.r_[True, objects[1:] != objects[:-1]][: len(objects)])
    count[first] = lengths[np.searchsorted(known[0], objects[first])]  # the sum over an object's fragments is what is stored
    unknown = np.zeros(len(left), np.int64)
    return BlockExtra(Fragments(objects, table.chunks[left], number, unknown, count, np.arange(len(left))))
