"""Links of new rows, behind those that their cells hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from dask_zv.errors import InputError
from dask_zv.format.fragments import decode_fragments, encode_single, encode_tiling
from dask_zv.format.grids import GridSpec
from dask_zv.format.keys import coords_to_keys, keys_to_coords
from dask_zv.format.links import decode_ragged, encode_ragged
from dask_zv.geometry.block import EncodedBlock
from dask_zv.geometry.links import family_path
from dask_zv.geometry.schema import LINK_FRAGMENTS
from dask_zv.level.contents import LevelContents
from dask_zv.spatial.chunks import ChunkLookup
from dask_zv.storage.grid.read import GridArrays
from dask_zv.storage.objects import Address
from dask_zv.write.job import LinkWriter

_FAMILIES = ("links/", "link_attributes/")


def is_of_links(array: str) -> bool:
    """Return True if an array has cells of links, or of what belongs to them."""
    return array == LINK_FRAGMENTS or array.startswith(_FAMILIES)


def moved_links(blobs: Mapping[Address, Any], before: Mapping[str, int]) -> dict[Address, Any]:
    """Return cells of links whose ends are new rows of their own chunk, which has so many rows `before` them."""
    return {
        (array, key): (np.frombuffer(data, "<i8") + before.get(key, 0)).tobytes()
        for (array, key), data in blobs.items()
        if array.startswith("links/")
    }


def join_link_cells(blobs: GridArrays, spec: GridSpec, block: EncodedBlock) -> EncodedBlock:
    """Return a block with its cells of links behind those that are there, and with what else their shards hold."""
    catalog = blobs.catalog
    assert catalog is not None
    mine: dict[str, list[str]] = {}
    for array, key in block.blobs:
        if is_of_links(array):
            mine.setdefault(array, []).append(key)
    out: dict[Address, Any] = dict(block.blobs)
    wanted: list[Address] = []
    beside: list[Address] = []
    for array, keys in mine.items():
        if array not in catalog.arrays:
            continue
        coords = keys_to_coords(keys, spec.rank)
        every = catalog.coords[catalog.chunks_of(array)]
        there = ChunkLookup(every).find(coords) >= 0
        wanted += [(array, key) for key, known in zip(keys, there.tolist(), strict=True) if known]
        if spec.shard_shape is not None and len(every):
            units = {tuple(u) for u in spec.objects_of(coords).tolist()}
            shared = np.array([tuple(u) in units for u in spec.objects_of(every).tolist()], bool)
            own = set(keys)
            beside += [(array, key) for key in coords_to_keys(every[shared]) if key not in own]
    found = blobs.read_many(wanted)
    for (array, key), old in found.items():
        out[array, key] = _joined(array, old, out[array, key])
    if beside:
        out |= blobs.read_stored(beside)
    return replace(block, blobs=out)


def _joined(array: str, old: bytes, new: bytes) -> bytes:
    """Return a cell of links with new records behind the old ones."""
    if array == LINK_FRAGMENTS:
        groups = [decode_fragments(data).counts for data in (old, new)]
        counts = np.concatenate(groups)
        return encode_single(int(counts.sum())) if len(counts) == 2 else encode_tiling(counts)
    if array.startswith("links/") and any(part not in ("0",) for part in array.rpartition("/")[2].replace("_", ".").split(".")):
        rows = [decode_ragged(data, 1)[0] for data in (old, new)]
        return encode_ragged(np.concatenate(rows))
    return old + new


def links_before(level: LevelContents, links: LinkWriter) -> dict[str, int]:
    """Return how many links each family of a level counts; links that are not like those to append are refused."""
    found = level.found_links(0)
    family = getattr(links, "family", None)
    if found is None or family is None:
        return {}
    held = found.source.family
    if (held.width, held.directed, held.store) != (family.width, family.directed, family.store):
        raise InputError(
            f"the store has links of {held.width} ends, directed={held.directed}, {held.store}; those to append have "
            f"{family.width}, directed={family.directed}, {family.store}"
        )
    stored = {a.schema.name: (a.schema.dtype, a.schema.channels) for a in found.source.attributes}
    given = {a.name: (a.dtype, a.channels) for a, _ in links.described}
    if stored != given and (stored or given):
        odd = sorted(n for n in {*stored, *given} if stored.get(n) != given.get(n))[0]
        said = [f"{of[odd][0]} x {of[odd][1] or 1}" if odd in of else "none" for of in (stored, given)]
        raise InputError(
            f"attribute {odd!r} of links is {said[0]} in the store, {said[1]} in what is appended: appended links have "
            "the attributes, of the dtypes, that those of the store have"
        )
    count = held.count or 0
    return {family_path(): count, **{family_path(name): count for name in stored}}
