"""Rebuilding the catalog of a grid level: every object is read once, in parallel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from dask.task_spec import List
from numpy.typing import NDArray

from dask_zv.config import settings
from dask_zv.errors import FormatError
from dask_zv.format.documents import parse_document
from dask_zv.format.grids import NONEMPTY, GridArray
from dask_zv.format.keys import DOCUMENT, format_key, join
from dask_zv.geometry.points import decode_positions
from dask_zv.geometry.schema import VERTICES
from dask_zv.graph.builder import GraphBuilder
from dask_zv.graph.run import compute_one
from dask_zv.level.chunk_boxes import check_positions
from dask_zv.level.contents import LevelContents
from dask_zv.level.grid_source import LINKS
from dask_zv.level.source import LevelSource
from dask_zv.maintain.hierarchy import find_nodes
from dask_zv.storage.catalog import CATALOG_NAME, Node, merge_catalog
from dask_zv.storage.grid.read import GridArrays
from dask_zv.storage.grid.shards import inspect_cells, object_cells
from dask_zv.storage.handles import open_objects
from dask_zv.storage.locks import commit_lock
from dask_zv.storage.marks import check_not_replaced
from dask_zv.storage.nodes import SETTINGS, catalog_objects, merge_attributes, put_documents, read_document
from dask_zv.storage.objects import Objects
from dask_zv.storage.receipts import Columns, Receipt, combine_receipts
from dask_zv.storage.specs import Place

Located = tuple[str, GridArray, tuple[tuple[int, ...], NDArray[np.int64]]]
"""(array, its document, (place of a stored object, coordinates of its chunks))."""


def rebuild_grid_catalog(level: LevelContents) -> None:
    """Read every object of a level's arrays once and write its catalog anew; one graph on the active scheduler.

    Raises
    ------
    StoreError, FormatError
        A listed chunk is missing or damaged; the message names it, and the old catalog is gone. Or a write that replaced
        chunks did not reach its commit.
    """
    place = level.place
    check_not_replaced(open_objects(place.handle), place.prefix)  # half of one write and half of another is no state to note
    level.group.delete_subtree(CATALOG_NAME)
    blobs = GridArrays(open_objects(place.handle), place.prefix)
    # the documents' identities before their content: what changes in between is seen as changed
    links = [a for a in find_nodes(blobs.objects, place.prefix, place.layout).chunked if a.startswith(LINKS)]
    identities, found = _documents(place, [*level.source.schema.arrays, *links], blobs)
    if any(not a.plain for a in found.values()):
        return  # cells that only zarr can find have no place to note
    builder = GraphBuilder("zv-refresh")
    objects = [(a, d, group) for a, d in found.items() for group in object_cells(d.spec, blobs.list_coords(a))]
    receipts = [builder.add(builder.key("look", i), _look, level.source, part) for i, part in enumerate(_parts(objects))]
    end = builder.key("commit")
    builder.add(end, _write, place, tuple(found), identities, List(*receipts))
    compute_one(builder.finish(end))


def _documents(place: Place, arrays: Sequence[str], blobs: GridArrays) -> tuple[dict[str, str], dict[str, GridArray]]:
    paths = [join(place.prefix, a, DOCUMENT) for a in arrays]
    identities = dict(zip(arrays, blobs.objects.identities(paths), strict=True))
    found = {a: d for a, d in blobs.arrays(arrays).items() if d is not None}
    return {a: identities[a] or "" for a in found}, found


def _parts(objects: Sequence[Located]) -> list[list[tuple[str, GridArray, list[Any]]]]:
    """Cut stored objects into runs of about as many chunks, array by array in each."""
    parts: list[list[tuple[str, GridArray, list[Any]]]] = []
    count = settings().pass_chunks
    for array, found, group in objects:
        if count >= settings().pass_chunks:
            parts.append([])
            count = 0
        if not parts[-1] or parts[-1][-1][0] != array:
            parts[-1].append((array, found, []))
        parts[-1][-1][2].append(group)
        count += len(group[1])
    return parts


def _look(source: LevelSource, part: Sequence[tuple[str, GridArray, list[Any]]]) -> Receipt:
    return combine_receipts([_look_at(source, array, found, groups) for array, found, groups in part])


def _look_at(source: LevelSource, array: str, found: GridArray, groups: Sequence[Any]) -> Receipt:
    place = source.place
    coords, columns, payloads = inspect_cells(open_objects(place.handle), place.prefix, array, found, groups)
    rows = np.full(len(coords), -1, np.int64)
    if array == VERTICES:
        for i, at in enumerate(coords.tolist()):
            try:
                positions = decode_positions(source.schema, format_key(at), payloads[tuple(at)])
            except FormatError as error:
                raise error.at(store=source.where()) from None
            rows[i] = len(positions)
            check_positions(source, coords[i : i + 1], rows[i : i + 1], positions)  # the catalog vouches for it
    return Receipt(coords, rows, {array: columns}, (), (coords.shape[1],) if len(coords) else (), 0, 0)


def _write(place: Place, arrays: Sequence[str], identities: dict[str, str], receipts: Sequence[Receipt]) -> None:
    objects = open_objects(place.handle)
    with commit_lock(objects, place.prefix):
        nodes = {}
        for array in arrays:
            path = join(place.prefix, array)
            data = objects.get(join(path, DOCUMENT))
            if data is None:
                raise FormatError("the array was removed while the catalog was rebuilt", store=objects.url, array=path)
            document = parse_document(data, path, objects.url)
            attributes = {k: v for k, v in document["attributes"].items() if k != NONEMPTY}
            nodes[array] = Node({**document, "attributes": attributes}, identities[array])
        total = combine_receipts(receipts)
        # an array without a chunk is in it too: one that is named and not described would make readers pass the catalog by
        columns = {a: Columns.empty(len(total.coords)) for a in arrays} | dict(total.arrays)
        catalog = merge_catalog(None, total.coords, total.rows, columns, nodes)
        put_documents(objects, catalog_objects(place.prefix, catalog))
        _count_vertices(objects, place.prefix, total)


def _count_vertices(objects: Objects, prefix: str, total: Receipt) -> None:
    """Correct the number of vertices of a level of ours, which edits of single chunks leave as it was."""
    document = read_document(objects, prefix) or {}
    attributes = document.get("attributes", {})
    # what another tool says in its own store is not ours to change
    level = dict(attributes.get("zarr_vectors_level", {})) if SETTINGS in attributes else {}
    count = int(total.rows[total.rows >= 0].sum())
    if level and VERTICES in total.arrays and level.get("vertex_count") != count:
        merge_attributes(objects, prefix, {"zarr_vectors_level": {**level, "vertex_count": count}})
