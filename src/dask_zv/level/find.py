"""Looking at a level's arrays: what it holds, and its chunks."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from dask_zv.errors import FormatError, MetadataError, ZVWarning
from dask_zv.format.documents import parse_document
from dask_zv.format.keys import DOCUMENT, is_spatial_key, join, parse_key
from dask_zv.format.levels import LevelMetadata
from dask_zv.format.metadata import RootMetadata
from dask_zv.geometry.schema import FRAGMENTS, VERTICES, AttributeSchema, PointSchema, parse_dtype, readable
from dask_zv.level.grid_source import LINKS, check_siblings, grid_attributes, grid_rows
from dask_zv.level.source import ChunkTable, LevelSource, index_token, read_documents, remember
from dask_zv.spatial.grid import ChunkGrid
from dask_zv.storage.catalog import CATALOG_NAME, Catalog
from dask_zv.storage.grid.read import GridArrays
from dask_zv.storage.handles import open_objects
from dask_zv.storage.layout import open_place
from dask_zv.storage.marks import check_not_replaced
from dask_zv.storage.nodes import load_catalog
from dask_zv.storage.objects import Objects, snapshot, together
from dask_zv.storage.specs import Place

MEMBERS = "*"
"""Among the documents that are kept: the names of the nodes below the level."""


_ATTRIBUTES = "vertex_attributes/"


def find_source(
    place: Place,
    root: RootMetadata,
    level: LevelMetadata,
    token: str,
    *,
    check_objects: bool = False,
    keep: dict[str, Mapping[str, Any] | None] | None = None,
) -> tuple[LevelSource, Catalog | None]:
    """Look at a level's arrays.

    Parameters
    ----------
    place : Place
    root, level
        The metadata of the store and of the level.
    token : str
        Digest of both.
    check_objects : bool
        Believe the catalog only where every stored object is the one that it noted. Layout ``per_chunk`` notes none: there
        the catalog is left aside.
    keep : dict, optional
        Gets documents of the object index, and maybe the names of the level's nodes, as :data:`MEMBERS`.

    Raises
    ------
    MetadataError
        The level has no vertices array, or an array's metadata is damaged.
    """
    store = open_objects(place.handle)
    # of other geometries than points readers want the objects next
    ahead = keep is not None and place.layout == "grid" and root.geometry_types[:1] != ("point_cloud",)
    about = ["object_index", "object_index/manifests", *(["object_index/object_ids"] if ahead else [])]
    nodes = [*about, *([VERTICES] if place.layout == "per_chunk" else [])]
    keys = [join(place.prefix, CATALOG_NAME, "c/0"), *(join(place.prefix, n, DOCUMENT) for n in nodes)]
    objects, names, members = together(
        store,
        lambda: snapshot(store, keys),
        lambda: [n for n in store.list_dir(join(place.prefix, "vertex_attributes")) if n != DOCUMENT],
        lambda: store.list_dir(place.prefix) if ahead else None,
    )
    catalog = load_catalog(objects, place.prefix) if place.layout == "grid" or not check_objects else None
    arrays = [VERTICES, *(f"vertex_attributes/{n}" for n in names)]
    if place.layout == "grid":
        wanted = [*arrays, FRAGMENTS]
        links = root.links_convention != "implicit_sequential"  # paths are read from their manifests
        catalog, found, state, gone = grid_attributes(objects, place, catalog, wanted, check_objects=check_objects, links=links)
        if gone is not None and gone != VERTICES and not gone.startswith(LINKS):  # of links who reads them says so
            raise _lost(place, gone)
        if catalog is None:  # nothing tells its replaced chunks from the others
            check_not_replaced(objects, place.prefix)
        token = hashlib.sha256(f"{token} {state}".encode()).hexdigest()
        documents = [None if a is None else {"attributes": a} for a in found[: len(arrays)]]
    else:
        documents = read_documents(objects, [join(place.prefix, a) for a in arrays])
    vertices, *attributes = documents
    index, manifests, *ids = read_documents(objects, [join(place.prefix, p) for p in about])
    if keep is not None:
        keep |= dict(zip(about, [index, manifests, *ids], strict=True))
        if members is not None:
            keep[MEMBERS] = dict.fromkeys(members)
    grid = ChunkGrid(level.chunk_shape_in(root.chunk_shape), root.bins_per_chunk if level.level == 0 else (1,) * root.ndim)
    # chunks without a document: of a write that has not reached its commit in grid, where the list of chunks is in it
    stored = level.vertex_count > 0 if place.layout == "grid" else bool(objects.list_dir(join(place.prefix, VERTICES)))
    empty = place.layout == "grid" and vertices is None and not catalog
    if vertices is None and (stored or (catalog and len(catalog))):
        raise _lost(place, VERTICES)  # a default dtype would make other points of the same bytes
    lost = catalog is not None and "object_index" in level.arrays_present
    if index is None and (lost or (place.layout == "grid" and manifests is not None and not empty)):
        raise _lost(place, "object_index")
    meta: Mapping[str, Any] = (vertices or {}).get("attributes", {})
    if meta.get("encoding", "raw") != "raw":
        raise MetadataError(
            f"the positions are encoded as {meta['encoding']!r}, which can't be read", store=objects.url,
            array=join(place.prefix, VERTICES),
        )  # fmt: skip
    # writers of polylines, graphs and meshes leave out the width of 2-D attributes, in both generations
    any_width = root.geometry_types != ("point_cloud",)
    schema = PointSchema(
        grid,
        parse_dtype(meta.get("dtype", "float32"), "the vertices array"),
        _attributes(place, catalog, dict(zip(names, attributes, strict=True)), any_width=any_width, empty=empty),
        index is not None,
    )
    chunk_attribute = None
    if level.exact_values() and level.chunk_attribute_name not in names:  # where it is stored as well, that is read
        chunk_attribute = (str(level.chunk_attribute_name), tuple(level.chunk_attribute_values or ()))
    try:
        leading = level.leading_part(root.ndim)
    except MetadataError as error:
        raise error.at(store=place.handle.url, array=place.prefix) from None
    source = LevelSource(
        place,
        schema,
        chunk_attribute,
        catalog.token if catalog is not None else token,
        catalog is not None,
        index_token(manifests),
        links_compared=place.layout == "grid" and root.links_convention != "implicit_sequential",
        leading=leading,
    )
    if catalog is not None:
        remember(source, catalog)
    else:
        _say_what_is_hidden(objects, place)
    return source, catalog


def _say_what_is_hidden(objects: Objects, place: Place) -> None:
    """Warn of the other geometries of a composite level: which of their rows a link names can't be told any more."""
    path = join(place.prefix, "geometry_index")
    data = objects.get(join(path, DOCUMENT))
    found = {} if data is None else parse_document(data, path, objects.url).get("attributes", {})
    hidden = [str(k) for k, v in found.items() if isinstance(v, Mapping) and v.get("array", VERTICES) != VERTICES]
    if hidden:
        warnings.warn(
            f"the level holds several geometries; not shown: {', '.join(sorted(hidden))}, whose vertices lie in arrays of "
            f"their own [{join(objects.url, place.prefix)}]",
            ZVWarning,
            stacklevel=2,
        )


def _attributes(
    place: Place, catalog: Catalog | None, documents: Mapping[str, Mapping[str, Any] | None], *, any_width: bool, empty: bool
) -> tuple[AttributeSchema, ...]:
    """Return the schemas of the attributes that the level has.

    Blobs without a document are those of a write that has not reached its commit; an attribute that was committed and has
    no document is lost.
    """
    committed = {a.removeprefix(_ATTRIBUTES) for a in catalog.arrays if a.startswith(_ATTRIBUTES)} if catalog else set()
    lost = [n for n in sorted({*committed, *documents}) if documents.get(n) is None and (catalog is None or n in committed)]
    lost = [] if empty else lost
    if lost:
        raise _lost(place, f"{_ATTRIBUTES}{lost[0]}")
    where = join(place.handle.url, place.prefix)
    found = [
        readable(partial(AttributeSchema.from_attributes, n, d.get("attributes", {}), any_width=any_width), where)
        for n, d in documents.items()
        if d is not None
    ]
    return tuple(a for a in found if a is not None)


def _lost(place: Place, array: str) -> MetadataError:
    return MetadataError(
        f"the document of {array!r} is missing, which says how to read it: restore it, or write the level again; where another "
        "tool removed the array on purpose, store.refresh() takes the level as it is",
        store=place.handle.url, array=join(place.prefix, array),
    )  # fmt: skip


def chunk_table(source: LevelSource, catalog: Catalog | None, room: int | None = None) -> ChunkTable:
    """Return the level's chunks with their rows: from the catalog, or from the documents of the vertices' blobs.

    Parameters
    ----------
    source : LevelSource
    catalog : Catalog, optional
    room : int, optional
        How many chunks the level can have.

    Raises
    ------
    FormatError
        A blob of positions is no whole number of rows, a chunk lacks its sibling, or there are more than there is room for.
    """
    row_bytes = source.schema.grid.ndim * source.schema.dtype.itemsize
    emptied = 0
    if catalog is not None and VERTICES in catalog.arrays:
        have = catalog.chunks_of(VERTICES)
        sizes = catalog.arrays[VERTICES].nbytes[have]
        coords, rows = catalog.coords[have], catalog.rows[have]
        coords = coords if len(coords) else coords.reshape(0, source.rank)  # a catalog of nothing has no rank
        wrong = (rows >= 0) & (rows * row_bytes != sizes)
        if wrong.any():
            at = int(np.flatnonzero(wrong)[0])
            raise FormatError(
                f"the catalog has {rows[at]} rows in {sizes[at]} bytes, the metadata says {row_bytes} bytes a row: one of them "
                "is damaged; store.refresh() rebuilds the catalog",
                store=source.where(), array=VERTICES, chunk=".".join(map(str, coords[at].tolist())),
            )  # fmt: skip
        if (rows >= 0).all():
            return ChunkTable(coords, rows)
        by_key = dict(zip(map(tuple, coords.tolist()), sizes.tolist(), strict=True))
    else:
        blobs = open_place(source.place)
        if isinstance(blobs, GridArrays):
            return ChunkTable(*grid_rows(source, blobs, row_bytes))
        blobs.room = room
        sizes_by_key = {k: n for k, n in blobs.sizes(VERTICES).items() if is_spatial_key(k)}
        listing = blobs.listing(FRAGMENTS)
        listed = {k for k in (*listing.plain, *listing.entries) if is_spatial_key(k)}
        emptied = check_siblings(source, blobs, sizes_by_key.keys(), {FRAGMENTS: listed})
        by_key = {parse_key(k): n for k, n in sizes_by_key.items()}
    order = sorted(by_key)
    odd = [c for c in order if len(c) != source.rank]
    if odd:
        raise FormatError(
            f"chunk key of rank {len(odd[0])} in a level whose keys have rank {source.rank}",
            store=source.where(), array=VERTICES, chunk=".".join(map(str, odd[0])),
        )  # fmt: skip
    table = np.array(order, np.int64).reshape(len(order), source.rank)
    nbytes = np.array([by_key[c] for c in order], np.int64)
    if (nbytes % row_bytes).any():
        bad = int(np.flatnonzero(nbytes % row_bytes)[0])
        raise FormatError(
            f"the blob has {nbytes[bad]} bytes, no whole number of rows of {row_bytes}",
            store=source.where(), array=VERTICES, chunk=".".join(map(str, order[bad])),
        )  # fmt: skip
    return ChunkTable(table, nbytes // row_bytes, emptied)
