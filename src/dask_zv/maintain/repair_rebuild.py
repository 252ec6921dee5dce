"""Repair without a copy: lists, counts, bounds, levels and catalogs, made again from what is stored."""

from __future__ import annotations

from typing import Any

import numpy as np
from dask.task_spec import List

from dask_zv.config import settings
from dask_zv.errors import ZVError
from dask_zv.format.grids import NONEMPTY
from dask_zv.format.keys import DOCUMENT, join
from dask_zv.format.links import parse_delta
from dask_zv.graph.builder import GraphBuilder
from dask_zv.graph.run import compute_one
from dask_zv.level.contents import LevelContents, StoreContents
from dask_zv.level.link_source import CROSSING
from dask_zv.maintain.refresh import refresh
from dask_zv.maintain.rules_chunks import ChunkFacts, join_facts, look_at_chunks
from dask_zv.maintain.rules_levels import survey_level
from dask_zv.read.links import stored_links
from dask_zv.storage.grid.read import GridArrays
from dask_zv.storage.handles import open_objects
from dask_zv.storage.layout import open_place
from dask_zv.storage.nodes import merge_attributes, update_attributes


def write_lists(store: StoreContents, number: int, arrays: set[str]) -> list[str]:
    """Write the lists of chunks of some arrays again, from what is stored."""
    place, done = store.level(number).place, []
    blobs, objects = open_place(place), open_objects(place.handle)
    if not isinstance(blobs, GridArrays):
        return []
    for array, document in blobs.arrays(sorted(arrays)).items():
        if document is None:
            continue
        stored = frozenset(blobs.stored_keys(array, document))
        if stored and stored != document.nonempty:
            merge_attributes(objects, join(place.prefix, array), {NONEMPTY: sorted(stored)})
            more = len(stored - (document.nonempty or frozenset()))
            done.append(f"level {number}: listed {more:,} more chunks of {array}")
    return done


def level_facts(store: StoreContents, number: int) -> ChunkFacts | None:
    """Return the rows and corners of a level's chunks, by reading them; None where its documents can't be read."""
    survey = survey_level(store, number)
    if survey.level is None:
        return None
    source, step = survey.level.source, settings().read_block_chunks
    builder = GraphBuilder("zv-repair")
    parts = [
        builder.add(builder.key("chunks", a), look_at_chunks, source, survey.lists.part(a, a + step))
        for a in range(0, len(survey.lists), step)
    ]
    end = builder.key("level")
    builder.add(end, join_facts, List(*parts), source.rank, source.schema.grid.ndim)
    facts: ChunkFacts = compute_one(builder.finish(end))
    return facts


def correct_counts(store: StoreContents, number: int, *, vertices: bool, fewer: bool) -> list[str]:
    """Correct the numbers of objects with vertices and of links, and with `vertices` that of these.

    Where there are fewer objects or links than are counted, some were lost: these numbers go down with `fewer` alone.
    """
    level, done = store.level(number), []
    facts, objects = level_facts(store, number) if vertices else None, open_objects(store.handle)
    if facts is not None and (facts.rows >= 0).all() and int(facts.rows.sum()) != level.metadata.vertex_count:
        count = int(facts.rows.sum())
        told = level.group.attrs.to_dict()["zarr_vectors_level"]
        update_attributes(objects, level.place.prefix, {"zarr_vectors_level": {**told, "vertex_count": count}})
        done.append(f"level {number}: vertex_count is {count:,}, it was {level.metadata.vertex_count:,}")
    done += _correct_present(level, number, fewer)
    for family in ("links", CROSSING):
        for name in objects.list_dir(join(level.place.prefix, family)):
            if name != DOCUMENT:
                done += _correct_links(level, family, name, fewer)
    return done


def _correct_present(level: LevelContents, number: int, fewer: bool) -> list[str]:
    """Correct the number of objects that have vertices."""
    if not level.source.schema.has_objects:
        return []
    index, step, present, told = level.index, 1 << 14, 0, level.index.present
    for first in range(0, index.count, step):
        present += len(np.unique(index.by_row(np.arange(first, min(first + step, index.count))).objects))
    if told is None or present == told or (present < told and not fewer):
        return []
    objects = open_objects(level.place.handle)
    merge_attributes(objects, join(level.place.prefix, "object_index"), {"num_present": present})
    return [f"level {number}: num_present of the objects is {present:,}, it was {told:,}"]


def _correct_links(level: LevelContents, family: str, name: str, fewer: bool) -> list[str]:
    """Correct the number of links of a family."""
    found = level.found_links(parse_delta(name))
    grid = isinstance(open_place(level.place), GridArrays)
    if found is None or found.source.family.store != "canonical" or grid != (family == "links"):
        return []
    count, told = stored_links(level.source, found), found.source.family
    keys = ("num_links", "num_physical_records") if grid else ("num_links",)
    if all(n in (None, count) for n in (told.count, told.physical)) or (count < (told.count or 0) and not fewer):
        return []
    merge_attributes(open_objects(level.place.handle), join(level.place.prefix, family, name), dict.fromkeys(keys, count))
    return [f"level {level.number}: {family}/{name} counts {count:,} links, it counted {told.count or 0:,}"]


def correct_bounds(store: StoreContents) -> list[str]:
    """Make the bounds of the store large enough for the vertices of all levels."""
    low, high = (np.asarray(corner, np.float64) for corner in store.metadata.bounds)
    before = [low.tolist(), high.tolist()]
    for number in store.levels:
        facts = level_facts(store, number)
        if facts is not None and np.isfinite(facts.low).all():
            shift = np.asarray(store.level(number).offset or 0.0)
            low, high = np.minimum(low, facts.low + shift), np.maximum(high, facts.high + shift)
    after = [low.tolist(), high.tolist()]
    if after == before:
        return []
    told = store.group.attrs.to_dict()["zarr_vectors"]
    update_attributes(open_objects(store.handle), store.prefix, {"zarr_vectors": {**told, "bounds": after}})
    return [f"the bounds are {after}, they were {before}"]


def list_levels(store: StoreContents) -> list[str]:
    """Write the datasets of multiscales again: one for each level that is there, the finest first."""
    attributes = store.group.attrs.to_dict()
    first, *others = attributes["multiscales"]
    known = {str(entry["path"]): entry for entry in first.get("datasets", []) if _is_whole(entry, store.metadata.ndim)}
    wanted = [known.get(str(n)) or _dataset(store, n) for n in store.levels]
    changes: dict[str, Any] = {"multiscales": [{**first, "datasets": wanted}, *others]}
    ome = attributes.get("ome")
    if isinstance(ome, dict) and isinstance(ome.get("nodes"), list):
        others_of = [n for n in ome["nodes"] if n.get("type") != "zv:level"]
        changes["ome"] = {**ome, "nodes": [*({"type": "zv:level", "name": str(n)} for n in store.levels), *others_of]}
    update_attributes(open_objects(store.handle), store.prefix, changes)
    return [f"multiscales lists the levels {', '.join(map(str, store.levels))}"]


def _is_whole(entry: dict[str, Any], ndim: int) -> bool:
    transforms = entry.get("coordinateTransformations", [])
    scales = [t.get("scale") for t in transforms if t.get("type") == "scale"]
    return all(isinstance(s, list) and len(s) == ndim and all(v > 0 for v in s) for s in scales)


def _dataset(store: StoreContents, number: int) -> dict[str, Any]:
    """Return the entry of a level: its chunks in those of level 0, and the centre of a bin."""
    base = store.metadata.chunk_shape
    try:
        edges = store.level(number).metadata.chunk_shape_in(base)
    except ZVError:
        edges = base
    scale = [a / b for a, b in zip(edges, base, strict=True)]
    centre = [b * s / 2 for b, s in zip(store.metadata.bin_shape, scale, strict=True)]
    transforms = [{"type": "scale", "scale": scale}, {"type": "translation", "translation": centre}]
    return {"path": str(number), "coordinateTransformations": transforms}


def number_level(store: StoreContents, number: int) -> list[str]:
    """Correct what a level says of its own number, and leave out a parent that is not there."""
    told = store.level(number).group.attrs.to_dict()["zarr_vectors_level"]
    parent = told.get("parent_level")
    changed = {**told, "level": number, "parent_level": parent if parent in store.levels and parent < number else None}
    if changed == told:
        return []
    update_attributes(open_objects(store.handle), join(store.prefix, str(number)), {"zarr_vectors_level": changed})
    done = [] if told.get("level") == number else [f"level {number}: it says its own number, it said {told.get('level')}"]
    return done + (
        [] if parent == changed["parent_level"] else [f"level {number}: it names no parent, it named level {parent}"]
    )


def renew_catalogs(store: Any) -> list[str]:
    """Make catalogs and small tables again; nothing where a chunk is still damaged."""
    try:
        refresh(store)
    except ZVError:
        return []
    return ["made the catalogs and the small tables again"]
