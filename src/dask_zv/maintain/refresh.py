"""Rebuilding the catalogs and small tables of levels that have none, or whose chunks another tool changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from dask.task_spec import List

from dask_zv.config import settings
from dask_zv.errors import FormatError, InvalidNameError
from dask_zv.format.documents import parse_document
from dask_zv.format.grids import GridArray
from dask_zv.format.keys import DOCUMENT, coords_to_keys, is_spatial_key, join, keys_to_coords, shard_id
from dask_zv.format.links import parse_delta
from dask_zv.geometry.schema import VERTICES
from dask_zv.graph.builder import GraphBuilder
from dask_zv.graph.run import check_reachable, compute_one
from dask_zv.graph.tasks import commit
from dask_zv.level.contents import LevelContents, opened_contents
from dask_zv.level.find import LINKS
from dask_zv.level.hierarchy import Located, find_nodes, stored_objects
from dask_zv.level.link_source import CROSSING
from dask_zv.level.object_tables import EDGE_COUNTS, OBJECT_LENGTHS
from dask_zv.level.source import LevelSource
from dask_zv.maintain.edit_log import finish_edits
from dask_zv.read.chunk_boxes import check_positions
from dask_zv.read.columns import LevelRows
from dask_zv.read.decode import block_positions
from dask_zv.read.edge_rows import count_parents
from dask_zv.read.links import stored_links
from dask_zv.read.object_rows import count_lengths
from dask_zv.spatial.chunks import runs_of
from dask_zv.storage.catalog import CATALOG_NAME, Node, merge_catalog
from dask_zv.storage.grid.read import GridArrays
from dask_zv.storage.grid.shards import inspect_cells
from dask_zv.storage.handles import open_objects
from dask_zv.storage.layout import layout_for, open_place
from dask_zv.storage.local import sweep
from dask_zv.storage.locks import commit_lock
from dask_zv.storage.nodes import SETTINGS, merge_attributes, put_catalog, put_documents, read_document, storing_order
from dask_zv.storage.objects import Address, Objects
from dask_zv.storage.per_chunk.read import PerChunk
from dask_zv.storage.per_chunk.write import look_at_blobs
from dask_zv.storage.receipts import Columns, Receipt, combine_receipts
from dask_zv.storage.specs import BlockResult, CommitSpec, Place, check_not_replaced
from dask_zv.write.object_index import write_edge_table, write_lengths

Work = tuple[Callable[..., Receipt], list[Any], Callable[..., None]]
"""What a task does with a level and a part of it, the parts, and what the last task does with all receipts."""


def refresh(store: object) -> None:
    """Rebuild the catalogs of a store: those that are missing, and those that are stale after another tool's edits.

    Every blob of every level is read once, as one graph a level on the active scheduler. A store that was opened read-only is
    looked at afresh, and not written.

    Parameters
    ----------
    store : Store, or a target as for :func:`open`

    Raises
    ------
    StoreError, FormatError
        A blob is missing or damaged; the message names it, and nothing is changed. Or a write that replaced chunks did not
        reach its commit.
    """
    contents = opened_contents(store, "r+")
    if not contents.read_only:
        check_reachable(contents.handle)
        sweep(open_objects(contents.handle), contents.prefix)
        contents.reload()
        finish_edits(contents)
        for number in contents.levels:
            _rebuild_catalog(contents.level(number))
        contents.reload()
        for number in contents.levels:
            _rebuild_tables(contents.level(number))
    contents.reload()


def _rebuild_catalog(level: LevelContents) -> None:
    objects, grid = open_objects(level.place.handle), layout_for(level.place.layout).shards_have_extents
    if grid:
        check_not_replaced(objects, level.place.prefix)  # half of one write and half of another is no state to note
    keys = [join(level.place.prefix, CATALOG_NAME, name) for name in storing_order(objects, DOCUMENT, "c/0")]
    old = [(k, data) for k, data in zip(keys, objects.get_many([(k, None) for k in keys]), strict=True) if data is not None]
    level.group.delete_subtree(CATALOG_NAME)  # it would be believed while the chunks are looked at
    try:
        work = _grid_work(level, objects) if grid else _per_chunk_work(level, objects)
        if work is None:
            return
        look, parts, finish = work
        builder = GraphBuilder("zv-refresh")
        receipts = [builder.add(builder.key("look", i), look, level.source, part) for i, part in enumerate(parts)]
        end = builder.key("commit")
        builder.add(end, finish, List(*receipts))
        compute_one(builder.finish(end))
    except BaseException:
        put_documents(objects, old)
        raise


def _count_vertices(source: LevelSource, found: Mapping[Address, bytes]) -> dict[str, int]:
    """Return how many vertices chunks have; they must lie in their chunks' boxes, for which the catalog vouches."""
    keys = [key for array, key in found if array == VERTICES]
    try:
        coords = keys_to_coords(keys, source.rank)
    except InvalidNameError as error:
        raise FormatError(error.message, store=source.where(), array=VERTICES) from None
    positions, rows = block_positions(source, open_place(source.place), coords, keys, found, None)
    check_positions(source, coords, rows, positions)
    return dict(zip(keys, rows.tolist(), strict=True))


# ---------------------------------------------------------------------------------------------- layout per_chunk


def _per_chunk_work(level: LevelContents, objects: Objects) -> Work | None:
    root = level.store.metadata
    blobs = PerChunk(objects, level.place.prefix, room=level.metadata.room(root.chunk_shape, root.bounds))
    arrays = [a for a in level.source.schema.arrays if level.group.array_exists(a)]
    for array in arrays:
        entries = blobs.listing(array).entries.values()
        if any(crc is None or shard_id(name) is None for name, (_, _, crc) in entries):
            return None  # shards of others are read through their own index; a catalog without them would hide their chunks
    have = {a: {k for k in blobs.list_keys(a) if is_spatial_key(k)} for a in arrays}
    wanted = sorted(set().union(*have.values()))
    parts = [
        [(a, k) for k in wanted[i : i + settings().pass_chunks] for a in arrays if k in have[a]]
        for i in range(0, len(wanted), settings().pass_chunks)
    ]
    spec = CommitSpec(level.place, (), (), catalog=True)
    return _look_per_chunk, parts, partial(_commit, spec)


def _look_per_chunk(source: LevelSource, addresses: Sequence[Address]) -> Receipt:
    blobs = PerChunk(open_objects(source.place.handle), source.place.prefix)
    return look_at_blobs(blobs, addresses, partial(_count_vertices, source))


def _commit(spec: CommitSpec, receipts: Sequence[Receipt]) -> None:
    commit(spec, [BlockResult(r, 0.0, 0.0) for r in receipts])


# ---------------------------------------------------------------------------------------------- layout grid


def _grid_work(level: LevelContents, objects: Objects) -> Work | None:
    place = level.place
    links = [a for a in find_nodes(objects, place.prefix, place.layout).chunked if a.startswith(LINKS)]
    arrays = [*level.source.schema.arrays, *links]
    # the documents' identities before their content: what changes in between is seen as changed
    noted = objects.identities([join(place.prefix, a, DOCUMENT) for a in arrays])
    blobs = GridArrays(objects, place.prefix)
    found = {a: d for a, d in blobs.arrays(arrays).items() if d is not None}
    if any(not d.plain for d in found.values()):
        return None  # cells that only zarr can find have no place to note
    located = stored_objects(blobs, found)
    runs = runs_of((np.array([len(coords) for _, _, (_, coords) in located], np.int64), settings().pass_chunks))
    identities = {a: identity or "" for a, identity in zip(arrays, noted, strict=True) if a in found}
    return _look_grid, [located[a:b] for a, b in runs], partial(_write_grid, place, identities)


def _look_grid(source: LevelSource, part: Sequence[Located]) -> Receipt:
    documents = {array: document for array, document, _ in part}
    groups = {array: [group for name, _, group in part if name == array] for array in documents}
    return combine_receipts([_look_at_array(source, a, d, groups[a]) for a, d in documents.items()])


def _look_at_array(source: LevelSource, array: str, document: GridArray, groups: Sequence[Any]) -> Receipt:
    place = source.place
    coords, columns, payloads = inspect_cells(open_objects(place.handle), place.prefix, array, document, groups)
    rows = np.full(len(coords), -1, np.int64)
    if array == VERTICES:
        found = {(VERTICES, key): payloads[tuple(at)] for key, at in zip(coords_to_keys(coords), coords.tolist(), strict=True)}
        rows[:] = list(_count_vertices(source, found).values())
    return Receipt(coords, rows, {array: columns}, (), (coords.shape[1],) if len(coords) else (), 0, 0)


def _write_grid(place: Place, identities: Mapping[str, str], receipts: Sequence[Receipt]) -> None:
    objects = open_objects(place.handle)
    with commit_lock(objects, place.prefix):
        nodes = {}
        for array, identity in identities.items():
            path = join(place.prefix, array)
            data = objects.get(join(path, DOCUMENT))
            if data is None:
                raise FormatError("the array was removed while the catalog was rebuilt", store=objects.url, array=path)
            nodes[array] = Node.of(parse_document(data, path, objects.url), identity)
        total = combine_receipts(receipts)
        # an array without a chunk is in it too: one that is named and not described would make readers pass the catalog by
        columns = {a: Columns.empty(len(total.coords)) for a in identities} | dict(total.arrays)
        catalog = merge_catalog(None, total.coords, total.rows, columns, nodes)
        put_catalog(objects, place.prefix, catalog)
        _correct_vertex_count(objects, place.prefix, total)


def _correct_vertex_count(objects: Objects, prefix: str, total: Receipt) -> None:
    """Correct the number of vertices of a level written by dask-zv, which edits of single chunks do not update."""
    document = read_document(objects, prefix) or {}
    attributes = document.get("attributes", {})
    # what another tool says in its own store is not ours to change
    level = dict(attributes.get("zarr_vectors_level", {})) if SETTINGS in attributes else {}
    count = int(total.rows[total.rows >= 0].sum())
    if level and VERTICES in total.arrays and level.get("vertex_count") != count:
        merge_attributes(objects, prefix, {"zarr_vectors_level": {**level, "vertex_count": count}})


# ---------------------------------------------------------------------------------------------- tables


def _rebuild_tables(level: LevelContents) -> None:
    """Count the vertices of objects, and of skeletons the edges of chunks, and store the counts; the catalog must be new.

    Fragments, manifests and links are read, some thousand chunks at a time; positions and attributes are not.
    """
    place = level.place
    objects = open_objects(place.handle)
    for array in (OBJECT_LENGTHS, EDGE_COUNTS):
        objects.delete_prefix(join(place.prefix, array))
    if not level.source.catalogued:
        return  # the tables are believed beside a catalog alone
    if level.store.settings or SETTINGS in level._attributes:  # what another tool says in its own store is not ours to change
        _correct_link_counts(level, objects)
    if level.source.schema.has_objects:
        found = count_lengths(level.source, level.chunks, level.index)
        write_lengths(place, [([], found.ids, found.lengths)])
    links = level.found_links(0) if level.has_implied_edges else None
    if links is not None and not level.is_chunked_skeleton and links.source.crossing is None:
        counts = count_parents(LevelRows(level.source, level.chunks), links.source)
        write_edge_table(place, np.column_stack([level.chunks.coords, counts]))


def _correct_link_counts(level: LevelContents, objects: Objects) -> None:
    """Correct the numbers of links, which other tools' edits leave as they were."""
    grid = layout_for(level.place.layout).shards_have_extents
    family, keys = ("links", ("num_links", "num_physical_records")) if grid else (CROSSING, ("num_links",))
    for name in objects.list_dir(join(level.place.prefix, family)):
        found = level.found_links(parse_delta(name)) if name != DOCUMENT else None
        if found is None or found.source.family.store != "canonical":
            continue
        count, told = stored_links(level.source, found), found.source.family
        if any(n not in (None, count) for n in (told.count, told.physical)):
            merge_attributes(objects, join(level.place.prefix, family, name), dict.fromkeys(keys, count))
