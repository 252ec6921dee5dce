"""Dropping what is lost: chunks, and what names them in manifests, links, groups and tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import StorePath

from dask_zv.errors import ZVError
from dask_zv.format.fragments import encode_single
from dask_zv.format.keys import DOCUMENT, join
from dask_zv.format.links import decode_flat, decode_ragged, encode_ragged
from dask_zv.format.manifests import encode_manifests
from dask_zv.format.objects import encode_groups
from dask_zv.geometry.schema import LINK_FRAGMENTS
from dask_zv.level.contents import LevelContents, StoreContents
from dask_zv.level.object_tables import zarr_array_of
from dask_zv.level.source import MANIFESTS_CRC32C, read_documents
from dask_zv.maintain.repair_copy import Chunks, vertex_arrays, write_chunks
from dask_zv.maintain.repair_rebuild import level_facts
from dask_zv.maintain.rules_chunks import ChunkFacts
from dask_zv.read.link_cells import CellPlan, LinkCells, find_targets, read_crossing, read_in_parts
from dask_zv.storage.codecs import crc32c
from dask_zv.storage.handles import open_objects
from dask_zv.storage.layout import open_place
from dask_zv.storage.nodes import merge_attributes
from dask_zv.storage.objects import Address

_MANIFESTS = "object_index/manifests"


def drop_chunks(store: StoreContents, chunks: Chunks) -> list[str]:
    """Remove chunks that can't be read; return what was dropped."""
    arrays = vertex_arrays(store, chunks.level) if chunks.keys else []
    gone = {*chunks.addresses, *((a, k) for a in arrays for k in chunks.keys)}
    lost = write_chunks(store, chunks.level, {}, gone)
    more = {k for a, k in lost if a in arrays} - chunks.keys
    if more:  # in a shard whose index is lost
        write_chunks(store, chunks.level, {}, {(a, k) for a in arrays for k in more})
    done = [
        f"level {chunks.level}: dropped chunk {k} with its vertices and their attributes" for k in sorted(chunks.keys | more)
    ]
    return done + [f"level {chunks.level}: dropped {a} {k}" for a, k in sorted(chunks.addresses)]


def drop_array(store: StoreContents, number: int, node: str) -> list[str]:
    """Remove an array that can't be read, and what the root says of an attribute."""
    store.level(number).group.delete_subtree(node)
    family, _, name = node.partition("/")
    scope = {"vertex_attributes": "vertex", "object_attributes": "object", "group_attributes": "group"}.get(family)
    specs = store.attribute_specs
    if scope is not None and name in specs.get(scope, {}):
        told = store.group.attrs.to_dict()["zarr_vectors"]
        left = {**specs, scope: {k: v for k, v in specs[scope].items() if k != name}}
        merge_attributes(open_objects(store.handle), store.prefix, {"zarr_vectors": {**told, "attribute_specs": left}})
    return [f"level {number}: dropped {node}"]


def drop_from_manifests(store: StoreContents, number: int) -> list[str]:
    """Remove the entries of manifests that name fragments which are not there."""
    level, facts = store.level(number), level_facts(store, number)
    objects = open_objects(store.handle)
    document = read_documents(objects, [join(level.place.prefix, _MANIFESTS)])[0]
    if facts is None or document is None:
        return []
    index, numbers, dropped, of = level.index, facts.numbers, 0, set[int]()
    node: Any = zarr_array_of(objects, join(level.place.prefix, _MANIFESTS), document)
    step = node.chunks[0]
    for first in range(0, index.count, step):
        rows = np.arange(first, min(first + step, index.count))
        table = index.by_row(rows)
        at = facts.find(table.chunks)
        keep = (at >= 0) & (table.fragments < np.append(numbers, 0)[at])
        if keep.all():
            continue
        dropped += int((~keep).sum())
        of |= set(table.objects[~keep].tolist())
        blobs = encode_manifests(table.objects[keep], table.chunks[keep], table.fragments[keep], first=first, count=len(rows))
        _store_elements(objects, level, document, first, blobs)
    if not dropped:
        return []
    return [f"level {number}: dropped {dropped:,} fragments of {len(of):,} objects from their manifests"]


def _store_elements(objects: Any, level: LevelContents, document: Any, first: int, blobs: list[bytes]) -> None:
    """Replace elements of the manifests' array through zarr, and note the checksums that our writer leaves."""
    path = join(level.place.prefix, _MANIFESTS)
    node: Any = zarr.Array.from_dict(StorePath(objects.zarr_store(), path), dict(document))
    values = np.empty(len(blobs), object)
    values[:] = blobs
    node[first : first + len(blobs)] = values
    told = document["attributes"].get(MANIFESTS_CRC32C)
    cell = first // node.chunks[0]
    noted = told.get("manifests") if isinstance(told, dict) else told
    if isinstance(noted, list) and cell < len(noted):
        noted[cell] = crc32c(objects.get(f"{path}/c/{cell}") or b"")
        merge_attributes(objects, path, {MANIFESTS_CRC32C: told})


def drop_members(store: StoreContents, number: int) -> list[str]:
    """Remove from groups the objects that are not there."""
    level = store.level(number)
    objects, tables, ids = open_objects(store.handle), level.index.tables, level.index.ids
    groups = tables.groups[0]
    kept = [members[np.isin(members, ids)] for _, members in sorted(groups.items())]
    gone = sum(len(m) for m in groups.values()) - sum(map(len, kept))
    if not gone:
        return []
    path = join(level.place.prefix, "groups")
    if not tables.in_zarr:
        for name, data in zip(("data", "offsets"), encode_groups(kept), strict=True):
            level.group.write_bytes("groups", name, data)
    else:
        document = dict(tables.document("groups") or {})
        node: Any = zarr.Array.from_dict(StorePath(objects.zarr_store(), path), document)
        values = np.empty(len(kept), object)
        values[:] = [m.astype("<i8").tobytes() for m in kept]
        node[:] = values
        told = document["attributes"].get(MANIFESTS_CRC32C)
        if isinstance(told, list):
            cells = [crc32c(objects.get(f"{path}/c/{i}") or b"") for i in range(len(told))]
            merge_attributes(objects, path, {MANIFESTS_CRC32C: cells})
    return [f"level {number}: dropped {gone:,} absent objects from groups"]


# ---------------------------------------------------------------------------------------------- links


def drop_links(store: StoreContents, number: int, delta: int) -> list[str]:
    """Remove the links of a family that lead to rows which are not there."""
    level = store.level(number)
    own = level_facts(store, number)
    target = own if not delta else level_facts(store, number + delta)
    found = level.found_links(delta)
    if own is None or target is None or found is None:
        return []
    links, dropped = found.source, 0
    blobs = open_place(level.place)
    new: dict[Address, bytes] = {}
    gone: set[Address] = set()
    names = range(len(links.attributes))
    for cells in read_in_parts(level.source, links, names, CellPlan.every(found, None), blobs):
        keep = _ends_are_there(links, cells, own, target)
        begin = np.cumsum(cells.counts) - cells.counts
        for i, key in enumerate(cells.cells.keys):
            mine = keep[begin[i] : begin[i] + cells.counts[i]]
            if mine.all():
                continue
            dropped += int((~mine).sum())
            segment = links.segments[int(cells.cells.segments[i])]
            address = segment.array, key
            data = blobs.read(*address)
            wide = links.family.width + segment.permuted
            rows = decode_flat(data, wide, segment.dtype) if segment.flat else decode_ragged(data, wide, segment.dtype)[0]
            left = np.ascontiguousarray(rows[mine].astype(segment.dtype))
            beside = [(a.arrays[int(cells.cells.segments[i])], key) for a in links.attributes]
            if not mine.any():
                gone |= {address, *beside, *([(LINK_FRAGMENTS, key)] if segment.flat else [])}
                continue
            new[address] = left.tobytes() if segment.flat else encode_ragged(left)
            for a, other in zip(links.attributes, beside, strict=True):
                values = cells.attributes[a.schema.name][begin[i] : begin[i] + cells.counts[i]]
                new[other] = np.ascontiguousarray(values[mine]).tobytes()
            if segment.flat and key in blobs.list_keys(LINK_FRAGMENTS):
                new[LINK_FRAGMENTS, key] = encode_single(int(mine.sum()))
    gone = {a for a in gone if a[1] in blobs.list_keys(a[0])}
    if new or gone:
        write_chunks(store, number, new, gone)
    if links.crossing is not None:
        dropped += _drop_crossing(level, links, own, target)
    return [f"level {number}: dropped {dropped:,} links whose ends are lost"] if dropped else []


def _there(facts: ChunkFacts, chunks: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    stored = np.append(facts.rows, 0)[facts.find(chunks)]
    return (rows >= 0) & (rows < stored)


def _ends_are_there(links: Any, cells: LinkCells, own: ChunkFacts, target: ChunkFacts) -> NDArray[np.bool_]:
    """Return which records (m,) lead to rows that are there."""
    targets = np.repeat(find_targets(links, cells.cells, target, None)[0], cells.counts, axis=0)
    keep = np.ones(len(cells.rows), bool)
    for slot in range(cells.rows.shape[1]):
        keep &= _there(target if slot else own, targets[:, slot], cells.rows[:, slot])
    return keep


def _drop_crossing(level: LevelContents, links: Any, own: ChunkFacts, target: ChunkFacts) -> int:
    """Remove the links across chunks of generation 0.7 that lead nowhere; return how many."""
    chunks, rows = read_crossing(level.source, links, open_place(level.place), counted=False)
    keep = np.ones(len(rows), bool)
    for slot in range(rows.shape[1]):
        keep &= _there(target if slot else own, chunks[:, slot], rows[:, slot])
    if not keep.all():
        records = np.concatenate([chunks[keep], rows[keep][..., None]], axis=2).astype("<i8")
        level.group.write_bytes(links.crossing, "data", records.tobytes())
        count = {"num_links": int(keep.sum())}
        merge_attributes(open_objects(level.place.handle), join(level.place.prefix, links.crossing), count)
    return int((~keep).sum())


def is_there(level: LevelContents, node: str) -> bool:
    """Return True if a node or anything below it is stored."""
    objects = open_objects(level.place.handle)
    path = join(level.place.prefix, node)
    return objects.exists(join(path, DOCUMENT)) or bool(objects.list_dir(path))


def readable_index(level: LevelContents) -> bool:
    """Return True if the ids of objects can be read."""
    try:
        _ = level.index.ids
    except ZVError:
        return False
    return True
