"""A cheap look at a level: the contents according to its last commit, and whether a write is unfinished.

It costs the catalog, once, and a listing each time, for a write may have been interrupted meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from dask_zv.errors import ZVError
from dask_zv.format.grids import parse_grid_document
from dask_zv.format.keys import DOCUMENT, join
from dask_zv.geometry.schema import VERTICES
from dask_zv.level.contents import LevelContents, StoreContents
from dask_zv.level.unfinished import unfinished_write
from dask_zv.spatial.chunks import group_by_chunk
from dask_zv.storage.catalog import Catalog
from dask_zv.storage.handles import open_objects
from dask_zv.storage.nodes import load_catalog
from dask_zv.storage.objects import together

T = TypeVar("T")
MOST_LEVELS = 20
"""Of more levels than these, whoever made them, what is shown of a store counts the others only."""
NO_DATA = "no data yet"
_LEFT_OUT = ("object_index/", "object_attributes/", "groups/", "group_attributes/", "dask_zv_")
"""What of a level is not chunks: tables of objects and groups, the catalog and its like."""
_CATALOGS: WeakKeyDictionary[LevelContents, Catalog | None] = WeakKeyDictionary()
"""Of levels that were looked at so far without more."""


def attempt(read: Callable[[], T]) -> T | ZVError:
    """Return what `read` returns, or the error that it raises where the store is damaged or out of reach."""
    try:
        return read()
    except ZVError as problem:
        return problem


def last_commit(level: LevelContents) -> Catalog | None:
    """Return the catalog: as the first look at the level has found it, before that as it is stored; None without one."""
    if "_found" in level.__dict__:
        return level._found[1]
    if level not in _CATALOGS:
        _CATALOGS[level] = load_catalog(open_objects(level.place.handle), level.place.prefix)
    return _CATALOGS[level]


def size(nbytes: int) -> str:
    """Return a number of bytes as text: ``"3.2 MB"``."""
    number, units = float(nbytes), ["kB", "MB", "GB", "TB"]
    if nbytes < 1000:
        return f"{nbytes} bytes"
    while (number := number / 1000) >= 999.95 and len(units) > 1:
        units.pop(0)
    return f"{number:,.1f} {units[0]}"


def stored_nbytes(level: LevelContents) -> int:
    """Return the stored bytes of a level's chunks: by its catalog, without one by the length of every stored object."""
    catalog = last_commit(level)
    if catalog is not None:
        return nbytes_of(catalog)
    if glance_at(level).is_empty or not len(level.chunks):
        return 0
    objects, prefix = open_objects(level.place.handle), f"{level.place.prefix}/".lstrip("/")
    keys = [k for k in objects.list_prefix(level.place.prefix) if not k.endswith(DOCUMENT)]
    keys = [k for k in keys if not k.removeprefix(prefix).startswith(_LEFT_OUT)]
    return sum(stamp[0] for stamp in objects.stamps(keys) if stamp is not None)


def nbytes_of(catalog: Catalog) -> int:
    return sum(int(columns["stored"][columns.have].sum()) for columns in catalog.arrays.values())


def files_of(catalog: Catalog, where: str) -> int:
    """Return how many objects hold the chunks of all arrays."""
    known: dict[Any, int] = {}
    total = 0
    for name, columns in catalog.arrays.items():
        have, shards = columns.have, columns["shard"]
        apart = int((shards[have] < 0).sum())
        node = catalog.nodes.get(name)
        if node is None:  # shards have numbers
            total += apart + len(np.unique(shards[have & (shards >= 0)]))
            continue
        found = parse_grid_document(node.document, name, where)
        if found is None or found.spec.shard_shape is None:
            total += int(have.sum())
            continue
        key = found.spec.origin, found.spec.shard_shape, have.tobytes()
        if key not in known:  # arrays of one grid mostly have the same chunks
            known[key] = len(group_by_chunk(found.spec.shards_of(found.spec.cells_of(catalog.coords[have]))[0])[0])
        total += known[key]
    return total


@dataclass(frozen=True, slots=True)
class Glance:
    """A level as its catalog and the names in it describe it."""

    level: LevelContents
    names: Sequence[str]

    @property
    def vertices(self) -> str:
        """The number of vertices; some writers never count them."""
        count = self.level.metadata.vertex_count
        return "not counted" if not count and self.chunks != 0 and self._has_uncounted() else f"{count:,}"

    @property
    def chunks(self) -> int | None:
        """The number of chunks; None without a catalog."""
        catalog = last_commit(self.level)
        return None if catalog is None else int(catalog.chunks_of(VERTICES).sum())

    @property
    def nbytes(self) -> int | None:
        """The stored bytes of the chunks; None without a catalog."""
        catalog = last_commit(self.level)
        return None if catalog is None else nbytes_of(catalog)

    @property
    def is_empty(self) -> bool:
        """True if nothing is committed yet."""
        return not self.level.metadata.vertex_count and last_commit(self.level) is None and not self._has_uncounted()

    def _has_uncounted(self) -> bool:
        objects = open_objects(self.level.place.handle)
        return VERTICES in self.names and objects.exists(join(self.level.place.prefix, VERTICES, DOCUMENT))

    @property
    def remark(self) -> str:
        """A remark in addition to the numbers, or an empty string."""
        said = NO_DATA if self.is_empty else "no catalog" if self.chunks is None else ""
        return "; ".join(filter(None, [said, self.unfinished]))

    @property
    def unfinished(self) -> str:
        """What to know of a write that has not ended, or an empty string."""
        found = unfinished_write(self.level, self.names)
        return "" if found is None else f"{found}; {found.advice}"

    def numbers(self) -> str:
        """Return vertices, chunks and size in words."""
        if self.is_empty:
            return ""
        vertices = self.vertices
        vertices = f"{vertices} vertices" if vertices[:1].isdigit() else f"vertices {vertices}"
        nbytes = attempt(lambda: self.nbytes)
        if nbytes is None or isinstance(nbytes, ZVError):  # the remark says why
            return vertices
        return f"{vertices} in {self.chunks:,} chunks, {size(nbytes)}"


def glance_at(level: LevelContents) -> Glance:
    """Look at a level: its catalog, where it was not read before, and the names of what is in it."""
    return Glance(level, open_objects(level.place.handle).list_dir(level.place.prefix))


def glances(store: StoreContents) -> list[tuple[int, Glance | ZVError]]:
    """Return a look at each of the first levels, all at once where the store is far away."""

    def look(number: int) -> Glance:
        glance = glance_at(store.level(number))
        attempt(partial(last_commit, glance.level))
        return glance

    numbers = store.levels[:MOST_LEVELS]
    found = together(open_objects(store.handle), *(partial(attempt, partial(look, n)) for n in numbers))
    return list(zip(numbers, found, strict=True))
