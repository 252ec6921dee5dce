"""What can be said of a level at little cost: by its metadata and its catalog; no blob is read for it.

A part that can't be had because something is damaged is the error that says so, in that part's place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from dask_zv.errors import ZVError
from dask_zv.format.documents import parse_document
from dask_zv.format.keys import DOCUMENT, join
from dask_zv.format.links import LinkFamily
from dask_zv.geometry.schema import ATTRIBUTES, FRAGMENTS, VERTICES
from dask_zv.graph.receipts import array_family
from dask_zv.level.contents import LevelContents
from dask_zv.level.source import ChunkTable, LevelSource
from dask_zv.storage.catalog import Catalog
from dask_zv.storage.handles import open_objects

_MOST_CELLS = 8_000_000
"""Chunks times arrays whose sizes are added up: the catalog's columns stay in memory, unpacked, at 16 bytes for each."""
_ORDER = (VERTICES, FRAGMENTS, f"{ATTRIBUTES}/")

T = TypeVar("T")


def attempt(read: Callable[[], T]) -> T | ZVError:
    """Return what `read` returns, or the error that it raises where the store is damaged."""
    try:
        return read()
    except ZVError as problem:
        return problem


@dataclass(frozen=True, slots=True)
class ArraySize:
    """How much of a level's data an array holds, or a family of arrays of links.

    Attributes
    ----------
    name : str
    arrays : int
    blobs, decoded, stored : int, optional
        Blobs, and their bytes before and after compression; None where there are too many to add up.
    """

    name: str
    arrays: int
    blobs: int | None = None
    decoded: int | None = None
    stored: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class LevelFacts:
    """What is known of a level.

    Attributes
    ----------
    level : Level
    source : LevelSource, ZVError or None
        None where the level was not looked at: then everything else is None as well.
    chunks : ChunkTable, ZVError or None
        None where there is no catalog, so that a document or a blob of each chunk would have to be read.
    sizes : tuple of ArraySize, ZVError or None
        None where there is no catalog.
    packed : bool, ZVError or None
        Chunks share objects; None where there is no catalog.
    objects : int, ZVError or None
        None where the level has no objects.
    """

    level: LevelContents
    source: LevelSource | ZVError | None = None
    chunks: ChunkTable | ZVError | None = None
    sizes: tuple[ArraySize, ...] | ZVError | None = None
    packed: bool | ZVError | None = None
    objects: int | ZVError | None = None

    @property
    def total(self) -> tuple[int, int] | None:
        """Bytes of all blobs before and after compression; None where they are not known."""
        if not isinstance(self.sizes, tuple):
            return None
        known = [(s.decoded, s.stored) for s in self.sizes if s.decoded is not None and s.stored is not None]
        return (sum(d for d, _ in known), sum(s for _, s in known)) if len(known) == len(self.sizes) else None


def was_looked_at(level: LevelContents) -> bool:
    """Tell whether the level's arrays were looked at before, so that looking again asks the store for nothing."""
    return "_found" in level.__dict__


def look(level: LevelContents) -> LevelFacts:
    """Return what is known of a level.

    The first look takes what every read begins with: the catalog and the documents of the arrays, a few requests.

    Parameters
    ----------
    level : Level
    """
    found = attempt(lambda: level._found)
    if isinstance(found, ZVError):
        return LevelFacts(level, found)
    source, catalog = found
    has_vertices = catalog is not None and VERTICES in catalog.arrays
    return LevelFacts(
        level,
        source,
        attempt(lambda: level.chunks) if has_vertices or "chunks" in level.__dict__ else None,
        None if catalog is None else attempt(lambda: _sizes(catalog)),
        attempt(lambda: level.is_packed) if has_vertices else None,
        attempt(lambda: level.index.count) if source.schema.has_objects else None,
    )


def _sizes(catalog: Catalog) -> tuple[ArraySize, ...]:
    families: dict[str, list[str]] = {}
    for array in sorted(catalog.arrays, key=_place):
        families.setdefault(array_family(array) or array, []).append(array)
    out: list[ArraySize] = []
    left = _MOST_CELLS
    for name, arrays in families.items():
        left -= len(arrays) * len(catalog)
        out.append(_size(catalog, name, arrays) if left >= 0 else ArraySize(name, len(arrays)))
    return tuple(out)


def _place(array: str) -> tuple[int, str]:
    return next((i for i, start in enumerate(_ORDER) if array.startswith(start)), len(_ORDER)), array


def _size(catalog: Catalog, name: str, arrays: list[str]) -> ArraySize:
    blobs = decoded = stored = 0
    known = True
    for array in arrays:
        columns = catalog.arrays[array]
        have = columns.have
        blobs += int(np.count_nonzero(have))
        decoded += int(columns.nbytes[have].sum())
        after = columns["stored"][have]
        known &= bool((after >= 0).all())
        stored += int(after.sum())
    return ArraySize(name, len(arrays), blobs, decoded, stored if known else None)


def other_nodes(level: LevelContents) -> tuple[LinkFamily | ZVError | None, int | ZVError | None]:
    """Return what a level says of its links and how many groups it has: by two documents, which are read for it.

    Returns
    -------
    links : LinkFamily, ZVError or None
        None where it has none; in layout ``per_chunk`` no document counts them.
    groups : int, ZVError or None
    """
    names = ("links/0", "groups")
    place = level.place
    objects = open_objects(place.handle)
    paths = [join(place.prefix, n) for n in names]
    found = attempt(lambda: objects.get_many([(join(p, DOCUMENT), None) for p in paths]))
    if isinstance(found, ZVError):
        return found, found
    documents = [
        None if data is None else attempt(lambda data=data, path=path: parse_document(data, path, objects.url))  # type: ignore[misc]
        for path, data in zip(paths, found, strict=True)
    ]
    links, groups = documents
    return (
        links if links is None or isinstance(links, ZVError) else attempt(lambda: _family(level, links)),
        groups if groups is None or isinstance(groups, ZVError) else _group_count(groups),
    )


def _family(level: LevelContents, document: Mapping[str, Any]) -> LinkFamily | None:
    if level.place.layout != "grid":
        return None
    try:
        return LinkFamily.from_attributes(document.get("attributes", {}), level.source.rank, 0)
    except ZVError as problem:
        raise problem.at(store=level.url, array="links/0") from None


def _group_count(document: Mapping[str, Any]) -> int | None:
    told = document.get("attributes", {}).get("num_groups")
    shape = document.get("shape")
    if told is None and isinstance(shape, list) and len(shape) == 1:
        told = shape[0]
    return told if type(told) is int else None
