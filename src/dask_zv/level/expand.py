"""Giving a store larger bounds: in layout ``grid`` its arrays get larger grids, and their cells other places.

A grid grows at its far end by its document alone. At its near end the cells' places count from another origin: every object is
copied to its new key, the documents then name the new origin, and the old objects are removed. One axis is shifted by at least
its whole extent, so that no new key is an old one: until the documents change, the store is what it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from dask.delayed import Delayed
from dask.task_spec import List, TaskRef
from numpy.typing import NDArray

from dask_zv.errors import InputError, ReadOnlyError, StoreError
from dask_zv.format.documents import dump_json
from dask_zv.format.grids import GridSpec, cell_path, grid_document
from dask_zv.format.keys import DOCUMENT, coords_to_keys, join
from dask_zv.geometry.schema import VERTICES
from dask_zv.graph.builder import GraphBuilder
from dask_zv.graph.run import check_reachable, compute_one
from dask_zv.level.contents import LevelContents, StoreContents, opened_contents
from dask_zv.level.hierarchy import OBJECTS_PER_TASK, copy_objects, find_nodes, stored_objects
from dask_zv.level.unfinished import check_not_edited
from dask_zv.spatial.grid import as_box
from dask_zv.storage.catalog import Node
from dask_zv.storage.grid.plan import grid_of_bounds, grid_settings, parse_settings
from dask_zv.storage.grid.read import GridArrays
from dask_zv.storage.handles import open_objects
from dask_zv.storage.layout import layout_for
from dask_zv.storage.locks import commit_lock
from dask_zv.storage.nodes import (
    SETTINGS,
    drop_copies,
    load_catalog,
    merge_attributes,
    merged_documents,
    put_catalog,
    put_documents,
)
from dask_zv.storage.objects import Objects
from dask_zv.storage.receipts import Columns
from dask_zv.storage.specs import Place

Cell = tuple[str, tuple[int, ...]]
"""An array, and the place of one of its objects."""


class Move(NamedTuple):
    """An array's grid before and after, and by how many objects each axis is shifted."""

    array: str
    before: GridSpec
    after: GridSpec
    shift: tuple[int, ...]


def expand(store: object, bounds: Any, *, compute: bool = True) -> Delayed | None:
    """Give a store larger bounds, so that chunks further out can be written; nothing that it holds changes.

    In layout ``grid`` the arrays' grids grow: at their far end by their documents alone; at their near end every stored
    object is copied once, without being decoded, as one graph on the active scheduler.

    Parameters
    ----------
    store : Store, or a target as for :func:`open`
    bounds : pair of corners
        What must lie inside, beside what does already.
    compute : bool
        False returns a Delayed.

    Raises
    ------
    InputError
        No finite box.
    StoreError
        Another writer changed the level at the same time, or storage failed; the store is what it was.
    """
    contents = opened_contents(store, "r+")
    if contents.read_only:
        raise ReadOnlyError("the store was opened read-only: dzv.open(..., mode='r+')", store=contents.url)
    contents.reload()  # another handle may have expanded it
    delayed = _planned(contents, bounds)
    if not compute:
        return delayed
    compute_one(delayed)
    contents.reload()
    return None


def make_room(level: LevelContents, low: NDArray[np.float64], high: NDArray[np.float64]) -> LevelContents:
    """Give the arrays of a level cells for a box, as :func:`expand` does, on the active scheduler; return the level anew.

    Nothing that it holds changes, nor do the bounds of the store.
    """
    builder = GraphBuilder("zv-expand")
    moved = _add_level(builder, level, low, high)
    if moved is not None:
        compute_one(builder.finish(str(moved.key)))
    level.store.reload()
    return level.store.level(level.number)


def _planned(store: StoreContents, bounds: Any) -> Delayed:
    metadata = store.metadata
    low, high = as_box(bounds, metadata.ndim, "bounds")
    if not np.isfinite(np.stack([low, high])).all():
        raise InputError("bounds must be finite")
    check_reachable(store.handle)
    low, high = np.minimum(low, metadata.bounds[0]), np.maximum(high, metadata.bounds[1])
    for number in store.levels:
        check_not_edited(store.level(number))
    builder = GraphBuilder("zv-expand")
    levels: list[TaskRef] = []
    if layout_for(store.layout).shards_have_extents:
        levels = [ref for n in store.levels if (ref := _add_level(builder, store.level(n), low, high)) is not None]
    grown = dataclasses.replace(metadata, bounds=(tuple(low.tolist()), tuple(high.tolist())))
    attributes = {**grown.to_attributes(), SETTINGS: {**store.settings, "bounds": "declared"}}
    end = builder.key("root")
    known = {**metadata.to_attributes(), SETTINGS: dict(store.settings)}
    builder.add(end, _finish, Place(store.handle, store.prefix), known, attributes, List(*levels))
    return builder.finish(end)


def _add_level(
    builder: GraphBuilder, level: LevelContents, low: NDArray[np.float64], high: NDArray[np.float64]
) -> TaskRef | None:
    place = level.place
    objects = open_objects(place.handle)
    chunk_shape = level.metadata.chunk_shape_in(level.store.metadata.chunk_shape)
    origin, shape = grid_of_bounds(chunk_shape, low.tolist(), high.tolist())
    nodes = find_nodes(objects, place.prefix, place.layout)
    held = GridArrays(objects, place.prefix)
    found = {a: d for a, d in held.arrays(nodes.chunked).items() if d is not None}
    moves = [move for a, d in found.items() if (move := _plan(a, d.spec, origin, shape)) is not None]
    shifted = {m.array: m for m in moves if any(m.shift)}
    cells = [(a, where) for a, _, (where, _) in stored_objects(held, {a: found[a] for a in shifted})]
    tasks = [
        builder.add(builder.key("move", f"{level.number}-{i}"), _copy, place, shifted, cells[i : i + OBJECTS_PER_TASK])
        for i in range(0, len(cells), OBJECTS_PER_TASK)
    ]
    settings = _level_settings(level, origin, shape)
    if not moves and settings is None:
        return None
    key = builder.key("switch", level.number)
    return builder.add(key, _switch, place, tuple(moves), settings, List(*tasks))


def _plan(array: str, spec: GridSpec, origin: Sequence[int], shape: Sequence[int]) -> Move | None:
    """Return how an array's grid changes to cover the cells of the bounds, None where it does already."""
    lead = spec.rank - len(origin)  # an attribute that leads the keys has its own extent
    low = np.array([*spec.origin[:lead], *origin])
    high = np.array([*(o + s - 1 for o, s in zip(spec.origin[:lead], spec.shape[:lead], strict=True)),
                     *(o + s - 1 for o, s in zip(origin, shape, strict=True))])  # fmt: skip
    before, last = np.array(spec.origin), np.array(spec.origin) + np.array(spec.shape) - 1
    if (low >= before).all() and (high <= last).all():
        return None
    unit = np.array(spec.shard_shape or (1,) * spec.rank)
    shift = np.maximum(0, -(-(before - low) // unit))
    if shift.any():
        axis = int(np.argmax(shift > 0))
        shift[axis] = max(int(shift[axis]), -(-spec.shape[axis] // int(unit[axis])))
    first = before - shift * unit
    after = dataclasses.replace(spec, origin=tuple(first.tolist()), shape=tuple((np.maximum(high, last) - first + 1).tolist()))
    return Move(array, spec, after, tuple(shift.tolist()))


def _copy(place: Place, moves: Mapping[str, Move], cells: Sequence[Cell]) -> list[tuple[Cell, int]]:
    """Copy some objects to their new keys; return their places before, and the stamps of the copies."""
    objects = open_objects(place.handle)
    if place.handle.is_session:  # the keys must lie inside the arrays' extents; the origin is still the old one
        for array in dict.fromkeys(array for array, _ in cells):
            _stretch(objects, join(place.prefix, array), moves[array].after)
    places = [(join(place.prefix, a), where, np.add(where, moves[a].shift).tolist()) for a, where in cells]
    keys = [(cell_path(path, old), cell_path(path, new)) for path, old, new in places]
    gone = StoreError("an object is gone: another writer changed the level; expand the store again")
    return list(zip(cells, copy_objects(objects, objects, keys, gone), strict=True))


def _stretch(objects: Objects, path: str, after: GridSpec) -> None:
    prefix, _, name = path.rpartition("/")
    found = GridArrays(objects, prefix).arrays([name])[name]
    assert found is not None
    if found.spec.shape != after.shape:
        spec = dataclasses.replace(found.spec, shape=after.shape)
        objects.put(join(path, DOCUMENT), dump_json(grid_document(spec, found.attributes, found.nonempty or ())))


def _switch(
    place: Place, moves: Sequence[Move], settings: Mapping[str, Any] | None, copied: Sequence[Sequence[tuple[Cell, int]]]
) -> None:
    """Let the documents name the new grids, correct the catalog, and remove the objects at their old places."""
    objects = open_objects(place.handle)
    copies: dict[str, dict[tuple[int, ...], int]] = {}  # stamps by array and place before
    for (array, where), stamp in chain.from_iterable(copied):
        copies.setdefault(array, {})[where] = stamp
    with commit_lock(objects, place.prefix):
        blobs = GridArrays(objects, place.prefix)
        held = blobs.arrays([m.array for m in moves])
        for array, before, _, shift in moves:
            found = held[array]
            if found is None or (found.spec.origin, found.spec.shard_shape) != (before.origin, before.shard_shape):
                raise StoreError("another writer changed the grid of the array at the same time: expand the store again",
                                 store=objects.url, array=join(place.prefix, array))  # fmt: skip
            now = {where for _, _, (where, _) in stored_objects(blobs, {array: found})}
            if any(shift) and not now <= copies.get(array, {}).keys():
                raise StoreError("another writer added chunks at the same time: expand the store again",
                                 store=objects.url, array=join(place.prefix, array))  # fmt: skip
        drop_copies(objects, [place.prefix])
        catalog = load_catalog(objects, place.prefix)
        if catalog is not None:
            stretched = {m.array for m in moves if any(m.shift)} if place.handle.is_session else set()  # by the copies
            compared = [array for array in catalog.nodes if array not in stretched]
            if len(GridArrays(objects, place.prefix, catalog).catalogued(compared)) < len(compared):
                catalog = None  # it is stale
        nodes: dict[str, Node] = {} if catalog is None else dict(catalog.nodes)
        columns: dict[str, Columns] = {} if catalog is None else dict(catalog.arrays)
        for array, before, after, shift in sorted(moves, key=lambda m: (m.array == VERTICES, m.array)):
            found, path = held[array], join(place.prefix, array, DOCUMENT)
            assert found is not None
            document = grid_document(after, found.attributes, coords_to_keys(blobs.list_coords(array)))
            objects.put(path, dump_json(document))
            if catalog is not None and array in columns:
                nodes[array] = Node.of(document, objects.identities([path])[0])
                if any(shift):
                    columns[array] = _stamped(columns[array], before, catalog.coords, copies.get(array, {}))
        if catalog is not None:
            fresh = dataclasses.replace(catalog, arrays=columns, nodes=nodes, token="")
            put_catalog(objects, place.prefix, fresh)
        if settings is not None:
            merge_attributes(objects, place.prefix, settings)
    old = [cell_path(join(place.prefix, array), cell) for array, cells in copies.items() for cell in cells]
    if old:
        objects.delete_many(old)


def _stamped(columns: Columns, spec: GridSpec, coords: NDArray[np.int64], stamps: Mapping[tuple[int, ...], int]) -> Columns:
    """Return an array's columns with the stamps of its objects' copies."""
    have = np.flatnonzero(columns.have)
    stamp = np.array(columns["stamp"], np.uint64)
    stamp[have] = [stamps[tuple(where)] for where in spec.objects_of(coords[have]).tolist()]
    return Columns({kind: columns[kind] for kind in ("nbytes", "shard", "offset", "stored", "crc")} | {"stamp": stamp})


def _level_settings(level: LevelContents, origin: Sequence[int], shape: Sequence[int]) -> dict[str, Any] | None:
    """Return the level's grid for arrays to come, None where the level has none."""
    own = level.group.attrs.to_dict().get(SETTINGS)
    if not isinstance(own, Mapping) or "grid" not in own:
        return None
    spec = parse_settings(own["grid"], level.place.prefix, level.store.url)
    move = _plan("", spec, origin, shape)
    return None if move is None else {SETTINGS: {**own, "grid": grid_settings(move.after)}}


def _finish(place: Place, known: Mapping[str, Any], attributes: Mapping[str, Any], _: Sequence[None]) -> None:
    objects = open_objects(place.handle)
    with commit_lock(objects, place.prefix):
        drop_copies(objects, [place.prefix])
        put_documents(objects, merged_documents(objects, [(place.prefix, attributes)], {place.prefix: known}))
