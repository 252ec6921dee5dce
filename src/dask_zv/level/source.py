"""The part of a level that tasks carry, and its blobs."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError
from dask_zv.format.documents import parse_document
from dask_zv.format.keys import DOCUMENT, join
from dask_zv.geometry.schema import PointSchema
from dask_zv.spatial.chunk_lookup import ChunkLookup
from dask_zv.storage.catalog import Catalog
from dask_zv.storage.handles import open_objects
from dask_zv.storage.layout import Blobs, open_blobs, open_place
from dask_zv.storage.nodes import load_catalog
from dask_zv.storage.objects import Objects, place_url
from dask_zv.storage.specs import Place

MANIFESTS_CRC32C = "dask_zv_crc32c"
"""Attribute of the manifests' array; see :func:`dask_zv.write.manifests.write_manifests_document`."""

_CATALOGS: OrderedDict[tuple[str, str, str], Catalog] = OrderedDict()
_CATALOG_LIMIT = 8
_LOCK = threading.Lock()


@dataclass(frozen=True, eq=False)
class ChunkTable(ChunkLookup):
    """The chunks of a level.

    Attributes
    ----------
    coords : ndarray of int64, shape (n, K)
        Chunk coordinates, ascending; K is the number of axes, one more where an attribute leads the key.
    rows : ndarray of int64, shape (n,)
        Vertices in each chunk.
    emptied : int
        Chunks of which an edit has left an index of fragments without rows.
    """

    rows: NDArray[np.int64]
    emptied: int = 0

    @property
    def keys(self) -> list[str]:
        """Chunk keys, such as ``"0.1.2"``."""
        return [".".join(map(str, c)) for c in self.coords.tolist()]

    def __repr__(self) -> str:
        return f"<ChunkTable: {len(self):,} chunks, {int(self.rows.sum()):,} vertices>"


@dataclass(frozen=True, slots=True)
class LevelSource:
    """All that a task needs to read a level: small, picklable, no open store.

    Attributes
    ----------
    place : Place
        The level's group.
    schema : PointSchema
    chunk_attribute : tuple of (name, values), optional
        The attribute that leads the chunk keys, where there is one whose values they tell.
    token : str
        State of the store when it was looked at: the digest of the catalog, or of the metadata without one.
    catalogued : bool
        The level had a catalog.
    index_token : str
        Digest of the manifests that our writer left; empty for levels of others.
    links_compared : bool
        The documents of links were compared with the catalog as well.
    leading : str, optional
        Name of the part that leads the chunk keys, where there is one: that attribute, or what bins or groups are of.
    """

    place: Place
    schema: PointSchema
    chunk_attribute: tuple[str, tuple[Any, ...]] | None
    token: str
    catalogued: bool
    index_token: str = ""
    links_compared: bool = False
    leading: str | None = None

    @property
    def rank(self) -> int:
        """Rank K of the chunk keys."""
        return self.schema.grid.ndim + (self.leading is not None)

    def where(self) -> str:
        """Return the level's URL."""
        return place_url(self.place.handle.url, self.place.prefix)


def read_documents(objects: Objects, paths: list[str]) -> list[dict[str, Any] | None]:
    found = objects.get_many([(join(p, DOCUMENT), None) for p in paths])
    return [None if d is None else parse_document(d, p, objects.url) for p, d in zip(paths, found, strict=True)]


def index_token(manifests: Mapping[str, Any] | None) -> str:
    checksums = (manifests or {}).get("attributes", {}).get(MANIFESTS_CRC32C)
    return "" if checksums is None else hashlib.sha256(json.dumps(checksums).encode()).hexdigest()


def remember(source: LevelSource, catalog: Catalog) -> None:
    with _LOCK:
        _CATALOGS[source.place.handle.identity, source.place.prefix, catalog.token] = catalog
        while len(_CATALOGS) > _CATALOG_LIMIT:
            _CATALOGS.popitem(last=False)


def level_blobs(source: LevelSource) -> Blobs:
    """Return the level's blobs with its catalog, which each process reads once."""
    objects = open_objects(source.place.handle)
    if not source.catalogued:
        return open_place(source.place)
    key = (source.place.handle.identity, source.place.prefix, source.token)
    with _LOCK:
        catalog = _CATALOGS.get(key)
    if catalog is None:
        catalog = check_unchanged(source)
        remember(source, catalog)
    return open_blobs(objects, source.place.prefix, source.place.layout, catalog, trust=True)


def check_unchanged(source: LevelSource) -> Catalog:
    """Return the level's catalog if it is the one that `source` was found with.

    Raises
    ------
    FormatError
        The level was rewritten since.
    """
    objects = open_objects(source.place.handle)
    catalog = load_catalog(objects, source.place.prefix)
    if catalog is None or catalog.token != source.token:
        raise FormatError(
            "the level was rewritten after it was opened: open it again", store=objects.url, array=source.place.prefix
        )
    return catalog


def check_same_objects(source: LevelSource) -> None:
    """Raise where the level has other objects than when `source` was found: one small document tells, of our writer's.

    Raises
    ------
    FormatError
        The objects were written again since.
    """
    if not source.index_token:
        return
    document = join(source.place.prefix, "object_index/manifests")
    if index_token(read_documents(open_objects(source.place.handle), [document])[0]) != source.index_token:
        raise FormatError(
            "the objects were written again after the level was opened: open it again",
            store=source.where(),
            array="object_index",
        )
