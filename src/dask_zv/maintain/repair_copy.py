"""Repair from a copy: documents, tables and whole arrays file by file, chunks by their payloads."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from dask_zv.errors import InputError, ZVError
from dask_zv.format.keys import DOCUMENT, coords_to_keys, join, parse_key
from dask_zv.level.contents import StoreContents
from dask_zv.maintain.rules_blobs import read_what_can_be
from dask_zv.storage.catalog import CATALOG_NAME
from dask_zv.storage.grid.read import GridArrays
from dask_zv.storage.grid.shards import object_cells
from dask_zv.storage.handles import open_objects
from dask_zv.storage.layout import open_place
from dask_zv.storage.locks import commit_lock
from dask_zv.storage.objects import Address, Objects
from dask_zv.storage.specs import Place

_AT_ONCE = 64


@dataclass(slots=True)
class Copy:
    """A store that is like another was, to take from it what that has lost."""

    contents: StoreContents

    @property
    def objects(self) -> Objects:
        """Its objects."""
        return open_objects(self.contents.handle)

    def path(self, *parts: str) -> str:
        """Return the path of something below its root."""
        return join(self.contents.prefix, *parts)

    def has(self, *parts: str) -> bool:
        """Return True if there is a node."""
        return self.objects.exists(self.path(*parts, DOCUMENT))

    def place(self, number: int) -> Place:
        """Return one of its levels."""
        return self.contents.level(number).place

    def check_alike(self, store: StoreContents) -> None:
        """Raise :class:`InputError` where its chunks are not those of `store`."""
        ours, theirs = store.metadata, self.contents.metadata
        for name in ("generation", "chunk_shape", "geometry_types"):
            own, other = getattr(ours, name), getattr(theirs, name)
            if own != other:
                text = f"source is no copy of the store: its {name} is {other}, the store has {own}"
                raise InputError(text, store=self.contents.url)


def copy_document(source: Copy, objects: Objects, prefix: str, number: int | None) -> list[str]:
    """Copy the document of the root, or of a level, where the copy has it; return what was done."""
    parts = () if number is None else (str(number),)
    data = source.objects.get(source.path(*parts, DOCUMENT))
    if data is None:
        return []
    objects.put(join(prefix, *parts, DOCUMENT), data)
    return [f"copied the document of {'the root' if number is None else f'level {number}'}"]


def copy_tree(source: Copy, objects: Objects, prefix: str, number: int, node: str) -> bool:
    """Replace a node of a level and all below it by what the copy has; return False where it has none.

    Documents come last: without them nothing is seen of a copy that does not come to its end.
    """
    below, here = source.path(str(number), node), join(prefix, str(number), node)  # all of the level, if `node` is empty
    keys = sorted(source.objects.list_prefix(below), key=lambda k: k.rpartition("/")[2] == DOCUMENT)
    if not keys:
        return False
    with commit_lock(objects, join(prefix, str(number))):
        objects.delete_prefix(join(prefix, str(number), CATALOG_NAME))
        objects.delete_prefix(here)
        for start in range(0, len(keys), _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            found = source.objects.get_many([(k, None) for k in some])
            items = [(here + k.removeprefix(below), d) for k, d in zip(some, found, strict=True) if d is not None]
            objects.put_many([items])
    return True


@dataclass(slots=True)
class Chunks:
    """Chunks of a level to be written again or dropped."""

    level: int
    addresses: set[Address] = field(default_factory=set)  # of single arrays
    keys: set[str] = field(default_factory=set)  # of vertices, with their fragments and attributes


def payloads_of(source: Copy, number: int, addresses: Collection[Address]) -> dict[Address, bytes]:
    """Return the payloads that the copy has; of damaged ones there are none."""
    blobs = open_place(source.place(number))
    listed = {array: set(blobs.list_keys(array)) for array in {a for a, _ in addresses}}
    return read_what_can_be(blobs, [a for a in addresses if a[1] in listed[a[0]]])[0]


def write_chunks(store: StoreContents, number: int, new: dict[Address, bytes], gone: Collection[Address]) -> list[Address]:
    """Store payloads, and remove chunks; those in the same shard stay, but for what can't be read: it is returned."""
    level = store.level(number)
    group, lost = level.group, list[Address]()
    for array in {a for a, _ in (*new, *gone)}:
        keys = {k for a, k in (*new, *gone) if a == array}
        kept, bad = _open_shards(store, number, array, keys)
        lost += [a for a in bad if a not in new]
        new = {**kept, **new}
    grid = isinstance(open_place(level.place), GridArrays)
    empty = dict.fromkeys(a for a in (*gone, *lost) if a not in new)
    if new or (empty and grid):
        with group.batched_writes() as batch:
            for (array, key), data in {**new, **(dict.fromkeys(empty, b"") if grid else {})}.items():
                batch.write_bytes(array, key, data)
    if not grid:
        for array, key in empty:
            group.delete_subtree(f"{array}/{key}")
    return lost


def _open_shards(
    store: StoreContents, number: int, array: str, keys: Collection[str]
) -> tuple[dict[Address, bytes], list[Address]]:
    """Remove the damaged shards that hold some chunks; return the other chunks in them, and those that can't be read."""
    place = store.level(number).place
    blobs, objects = open_place(place), open_objects(place.handle)
    members: dict[str, list[str]] = {}
    if isinstance(blobs, GridArrays):
        document = blobs.arrays([array])[array]
        if document is None or document.spec.shard_shape is None:
            return {}, []
        listed = np.array(sorted({parse_key(k) for k in (*blobs.list_keys(array), *keys)}), np.int64)
        for where, coords in object_cells(document.spec, listed):
            members[f"{blobs.path(array)}/c/{'/'.join(map(str, where))}"] = coords_to_keys(coords)
    else:
        listing = blobs.listing(array)
        for key, (shard, _) in listing.entries.items():
            members.setdefault(blobs.path(array, shard), []).append(key)
    kept: dict[Address, bytes] = {}
    lost: list[Address] = []
    for path, of_shard in members.items():
        if not set(of_shard) & set(keys):
            continue
        others = [(array, k) for k in of_shard if k not in keys]
        found = read_what_can_be(blobs, others)[0]
        kept |= found
        lost += [a for a in others if a not in found]
        if isinstance(blobs, GridArrays):
            objects.delete_many([path])
        else:
            objects.delete_prefix(path)
    return kept, lost


def vertex_arrays(store: StoreContents, number: int) -> list[str]:
    """Return the arrays beside each other that hold the chunks of vertices."""
    return list(store.level(number).source.schema.arrays)


def copied_chunks(store: StoreContents, source: Copy, chunks: Chunks) -> tuple[list[str], list[Address]]:
    """Write chunks again from the copy; return what was done, and what the copy does not have."""
    arrays = vertex_arrays(store, chunks.level) if chunks.keys else []
    wanted = {*chunks.addresses, *((a, k) for a in arrays for k in chunks.keys)}
    try:
        found = payloads_of(source, chunks.level, wanted)
    except ZVError:
        found = {}
    whole = {k for k in chunks.keys if all((a, k) in found for a in arrays[:1])}
    new = {a: d for a, d in found.items() if a in chunks.addresses or a[1] in whole}
    if new:
        write_chunks(store, chunks.level, new, ())
    done = [f"level {chunks.level}: wrote chunk {k} of all arrays of vertices again from the copy" for k in sorted(whole)]
    done += [f"level {chunks.level}: wrote {a} {k} again from the copy" for a, k in sorted(new) if k not in whole]
    return done, sorted({a for a in wanted if a not in new})


def absent_in(lost: Sequence[Address], chunks: Chunks) -> Chunks:
    """Return the chunks of which something is lost."""
    names = {k for _, k in lost}
    return Chunks(chunks.level, {a for a in chunks.addresses if a in set(lost)}, {k for k in chunks.keys if k in names})
