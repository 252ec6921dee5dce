"""Looking at a level's arrays: what it holds, by its catalog where that agrees with the store, else by the documents."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from dask_zv.errors import MetadataError, ZVWarning
from dask_zv.format.documents import parse_document
from dask_zv.format.grids import GridArray, cell_path, index_nbytes
from dask_zv.format.keys import DOCUMENT, coords_to_keys, join
from dask_zv.format.levels import LevelMetadata
from dask_zv.format.metadata import RootMetadata
from dask_zv.geometry.points import POINT_CLOUD
from dask_zv.geometry.schema import ATTRIBUTES, FRAGMENTS, VERTICES, AttributeSchema, PointSchema, parse_dtype, readable
from dask_zv.level.source import LevelSource, index_token, lost_document, read_documents, remember
from dask_zv.spatial.grid import ChunkGrid
from dask_zv.storage.catalog import CATALOG_NAME, Catalog
from dask_zv.storage.grid.fetch import object_runs
from dask_zv.storage.grid.read import GridArrays
from dask_zv.storage.grid.shards import object_cells
from dask_zv.storage.handles import open_objects
from dask_zv.storage.layout import layout_for
from dask_zv.storage.nodes import load_catalog
from dask_zv.storage.objects import Address, Objects, place_url, snapshot, together
from dask_zv.storage.specs import Place, check_not_replaced

MEMBERS = "*"
"""Among the documents that are kept: the names of the nodes below the level."""
CHANGED = "*changed"
"""Among them: a chunk that is not as at the last commit, of which who looks at all objects warns if it can be read."""
LINKS = ("links/", "link_attributes/", "link_fragments")
"""How the names of arrays of links begin."""
_COMPARED = 512


def find_source(
    place: Place,
    root: RootMetadata,
    level: LevelMetadata,
    token: str,
    *,
    check_objects: bool = False,
    believe: bool = True,
    keep: dict[str, Mapping[str, Any] | None],
) -> tuple[LevelSource, Catalog | None]:
    """Look at a level's arrays; `token` is a digest of the metadata of store and level.

    With `check_objects` the catalog is believed only where every stored object is the one that it noted. Layout ``per_chunk``
    notes none: there the catalog is left aside, as it is where there is no `believe`. `keep` gets documents of the object
    index, and maybe the names of the level's nodes, as :data:`MEMBERS`.
    """
    store, where = open_objects(place.handle), place_url(place.handle.url, place.prefix)
    grid = layout_for(place.layout).has_tables
    # of other geometries than points readers want the objects next
    ahead = grid and root.geometry_types[:1] != (POINT_CLOUD.name,)
    about = ["object_index", "object_index/manifests", *(["object_index/object_ids"] if ahead else [])]
    nodes = [*about, *([VERTICES] if not grid else [])]
    keys = [join(place.prefix, CATALOG_NAME, "c/0"), *(join(place.prefix, n, DOCUMENT) for n in nodes)]
    objects, names, members = together(
        store,
        lambda: snapshot(store, keys),
        lambda: [n for n in store.list_dir(join(place.prefix, ATTRIBUTES)) if n != DOCUMENT],
        lambda: store.list_dir(place.prefix) if ahead else None,
    )
    catalog = load_catalog(objects, place.prefix) if believe and (grid or not check_objects) else None
    arrays = [VERTICES, *(f"{ATTRIBUTES}/{n}" for n in names)]
    if grid:
        wanted = [*arrays, FRAGMENTS]
        links = root.links_convention != "implicit_sequential"  # paths are read from their manifests
        catalog, found, state, gone = _look_at_grid(
            objects, place, catalog, wanted, check_objects=check_objects, links=links, keep=keep
        )
        if gone is not None and gone != VERTICES and not gone.startswith(LINKS):  # of links who reads them says so
            raise lost_document(where, gone)
        if catalog is None:  # nothing tells its replaced chunks from the others
            check_not_replaced(objects, place.prefix)
        token = hashlib.sha256(f"{token} {state}".encode()).hexdigest()
        documents = [None if a is None else {"attributes": a} for a in found[: len(arrays)]]
    else:
        documents = read_documents(objects, [join(place.prefix, a) for a in arrays])
    vertices, *attributes = documents
    index, manifests, *ids = read_documents(objects, [join(place.prefix, p) for p in about])
    keep |= dict(zip(about, [index, manifests, *ids], strict=True))
    if members is not None:
        keep[MEMBERS] = dict.fromkeys(members)
    # chunks without a document: of a write that has not reached its commit in grid, where the list of chunks is in it
    stored = level.vertex_count > 0 if grid else bool(objects.list_dir(join(place.prefix, VERTICES)))
    empty = grid and vertices is None and not catalog
    if vertices is None and (stored or (catalog and len(catalog))):
        raise lost_document(where, VERTICES)  # a default dtype would make other points of the same bytes
    lost = catalog is not None and "object_index" in level.arrays_present
    if index is None and (lost or (grid and manifests is not None and not empty)):
        raise lost_document(where, "object_index")
    meta: Mapping[str, Any] = (vertices or {}).get("attributes", {})
    if meta.get("encoding", "raw") != "raw":
        raise MetadataError(
            f"the positions are encoded as {meta['encoding']!r}, which can't be read", store=where, array=VERTICES
        )
    # writers of polylines, graphs and meshes leave out the width of 2-D attributes, in both generations
    any_width = root.geometry_types != (POINT_CLOUD.name,)
    schema = PointSchema(
        ChunkGrid(level.chunk_shape_in(root.chunk_shape), root.bins_per_chunk if level.level == 0 else (1,) * root.ndim),
        parse_dtype(meta.get("dtype", "float32"), "the vertices array"),
        _attributes(where, catalog, dict(zip(names, attributes, strict=True)), any_width=any_width, empty=empty),
        index is not None,
    )
    chunk_attribute = None
    if level.exact_values() and level.chunk_attribute_name not in names:  # where it is stored as well, that is read
        chunk_attribute = (str(level.chunk_attribute_name), tuple(level.chunk_attribute_values or ()))
    try:
        leading = level.leading_part(root.ndim)
    except MetadataError as error:
        raise error.at(store=where) from None
    source = LevelSource(
        place,
        schema,
        chunk_attribute,
        catalog.token if catalog is not None else token,
        catalog is not None,
        index_token(manifests),
        links_compared=grid and root.links_convention != "implicit_sequential",
        leading=leading,
    )
    if catalog is not None:
        remember(source, catalog)
    else:
        _warn_of_hidden_geometries(objects, place, where)
    return source, catalog


def _warn_of_hidden_geometries(objects: Objects, place: Place, where: str) -> None:
    """Warn of the other geometries of a composite level: which of their rows a link names can't be told any more."""
    path = join(place.prefix, "geometry_index")
    data = objects.get(join(path, DOCUMENT))
    found = {} if data is None else parse_document(data, path, objects.url).get("attributes", {})
    hidden = [str(k) for k, v in found.items() if isinstance(v, Mapping) and v.get("array", VERTICES) != VERTICES]
    if hidden:
        warnings.warn(
            f"the level holds several geometries; not shown: {', '.join(sorted(hidden))}, whose vertices lie in arrays of "
            f"their own [{where}]",
            ZVWarning,
            stacklevel=2,
        )


def _attributes(
    where: str, catalog: Catalog | None, documents: Mapping[str, Mapping[str, Any] | None], *, any_width: bool, empty: bool
) -> tuple[AttributeSchema, ...]:
    """Return the schemas of the level's attributes; one that was committed and has no document is lost.

    Blobs without a document are those of a write that has not reached its commit.
    """
    prefix = f"{ATTRIBUTES}/"
    committed = {a.removeprefix(prefix) for a in catalog.arrays if a.startswith(prefix)} if catalog else set()
    lost = [n for n in sorted({*committed, *documents}) if documents.get(n) is None and (catalog is None or n in committed)]
    if lost and not empty:
        raise lost_document(where, f"{prefix}{lost[0]}")
    found = [
        readable(partial(AttributeSchema.from_attributes, n, d.get("attributes", {}), any_width=any_width), where)
        for n, d in documents.items()
        if d is not None
    ]
    return tuple(a for a in found if a is not None)


def _look_at_grid(
    objects: Objects,
    place: Place,
    catalog: Catalog | None,
    arrays: list[str],
    *,
    check_objects: bool,
    links: bool,
    keep: dict[str, Mapping[str, Any] | None],
) -> tuple[Catalog | None, list[Mapping[str, Any] | None], str, str | None]:
    """Return the catalog where it agrees with the store, the arrays' attributes, a digest of their state, and what is gone.

    Gone is an array that the last commit knew, and that has no document any more. `links` compares the documents of links,
    too; those of levels that are read without them are compared when they are asked for.
    """
    blobs = GridArrays(objects, place.prefix, catalog)
    # what the catalog names is looked at too: an array that is gone must not be taken for one that never was
    named = [a for a in (catalog.nodes if catalog else ()) if links or not a.startswith(LINKS)]
    known = blobs.catalogued(dict.fromkeys([*arrays, *named]))
    if catalog is not None and all(a in known for a in named):
        unknown = blobs.arrays([a for a in arrays if a not in known])
        looks = all(found is None for found in unknown.values())
        # tools that edit cells write the list of chunks again; in a copied store it is as new as everything else
        changed = _changed(blobs, known, stamps=check_objects) if looks and (check_objects or blobs.rewritten) else None
        if changed and check_objects:
            keep[CHANGED] = dict(zip(("array", "chunk"), changed, strict=True))
        if looks and not changed:
            return catalog, [known[a].attributes if a in known else None for a in arrays], "", None
    gone = None
    if catalog is not None:
        blobs.forget()
        gone = next((a for a, d in blobs.arrays([a for a in named if a not in known]).items() if d is None), None)
    found = blobs.arrays(arrays)
    paths = [join(place.prefix, a, DOCUMENT) for a in arrays]
    if check_objects:
        cells = ((a, w) for a in arrays if (f := found[a]) is not None for w, _ in object_cells(f.spec, blobs.list_coords(a)))
        paths += [cell_path(blobs.path(a), w) for a, w in cells]
    state = "".join(map(str, objects.identities(paths)))
    return None, [None if (a := found[name]) is None else a.attributes for name in arrays], state, gone


def _changed(blobs: GridArrays, known: Mapping[str, GridArray], *, stamps: bool) -> Address | None:
    """Return a chunk whose object has another length than the catalog noted, or with `stamps` another stamp and other bytes.

    A copied store has other stamps; where only these differ, the bytes are compared.
    """
    assert blobs.catalog is not None
    suspects: list[Address] = []
    for array, found in known.items():
        columns = blobs.catalog.arrays[array]
        have = np.flatnonzero(columns.have)
        cells = found.spec.cells_of(blobs.catalog.coords[have])
        paths, lengths, noted, members = [], [], [], []
        index = 0 if found.spec.shard_shape is None else index_nbytes(found.spec.shard_cells)
        for where, run in object_runs(cells, found.spec):
            rows = have[run]
            paths.append(cell_path(blobs.path(array), where))
            members.append(rows)
            lengths.append(int((columns["offset"][rows] + columns["stored"][rows]).max()) + index)
            noted.append(int(columns["stamp"][rows[0]]))
        for stamp, length, before, run in zip(blobs.objects.stamps(paths), lengths, noted, members, strict=True):
            if stamp is None or stamp[0] != length:
                return array, coords_to_keys(blobs.catalog.coords[run[:1]])[0]
            if stamps and before and stamp[1] and stamp[1] != before:
                suspects += [(array, key) for key in coords_to_keys(blobs.catalog.coords[run])]
    for start in range(0, len(suspects), _COMPARED):
        blobs.read_stored(suspects[start : start + _COMPARED])
        if blobs.catalog_is_stale:
            return suspects[start][0], str(blobs.stale_chunk)
    return None


def warn_of_other_bytes(where: str, chunk: str | None) -> None:
    """Warn that a chunk has other bytes than at the last commit."""
    warnings.warn(
        f"chunk {chunk} has other bytes than at the last commit: another tool edited it, or "
        f"it is damaged; compare it with the original, then store.refresh() accepts the level as it is [{where}]",
        ZVWarning,
        stacklevel=2,
    )
