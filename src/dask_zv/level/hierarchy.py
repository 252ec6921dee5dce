"""What is in a store, node by node: arrays of chunks, other arrays, and groups; found without looking into arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import ZVError
from dask_zv.format.documents import parse_document
from dask_zv.format.grids import GridArray, parse_grid_document
from dask_zv.format.keys import DOCUMENT, is_shard_name, is_spatial_key, join
from dask_zv.storage.catalog import CATALOG_NAME
from dask_zv.storage.grid.read import GridArrays
from dask_zv.storage.grid.shards import object_cells
from dask_zv.storage.layout import layout_for
from dask_zv.storage.locks import LOCK_NAME
from dask_zv.storage.objects import Objects
from dask_zv.storage.specs import REPLACING, STAGED, WAITING

_LITERALS = ("data", "offsets", "present_mask")
_NO_NODES = (DOCUMENT, CATALOG_NAME, STAGED)
_NO_PREFIXES = (REPLACING, LOCK_NAME, WAITING)
OBJECTS_PER_TASK = 128
"""Stored objects that are copied as they are by one task, or at a time."""


Located = tuple[str, GridArray, tuple[tuple[int, ...], NDArray[np.int64]]]
"""(array, its document, (place of a stored object, coordinates of its chunks))."""


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """The nodes below a group, with their attributes, by their paths below it."""

    chunked: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Arrays whose blobs are the level's chunks; in layout ``grid`` without the list of them."""
    literal: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Arrays of layout ``per_chunk`` whose blobs have names such as ``data``."""
    plain: list[str] = field(default_factory=list)
    """Ordinary Zarr arrays."""
    groups: dict[str, Mapping[str, Any]] = field(default_factory=dict)


def find_nodes(objects: Objects, prefix: str, layout: str) -> Hierarchy:
    """Walk the nodes below the group at `prefix`."""
    found, blobs_are_nodes = Hierarchy(), not layout_for(layout).shards_have_extents
    open_groups = [""]
    while open_groups:
        below = open_groups.pop()
        names = [n for n in objects.list_dir(join(prefix, below)) if n not in _NO_NODES and not n.startswith(_NO_PREFIXES)]
        # a store has two axes or more: "0" is a level, or the links between a level's own vertices
        if blobs_are_nodes and any(is_shard_name(n) or ("." in n and is_spatial_key(n)) for n in names):
            found.chunked[below] = found.groups.pop(below, {})
            continue
        if blobs_are_nodes and any(n in _LITERALS for n in names):
            found.literal[below] = found.groups.pop(below, {})
            continue
        paths = [join(below, n) for n in names]
        documents = objects.get_many([(join(prefix, p, DOCUMENT), None) for p in paths])
        for path, data in zip(paths, documents, strict=True):
            where = join(prefix, path)
            document = None if data is None else parse_document(data, where, objects.url)
            if document is None or document["node_type"] == "group":
                # 0.7 writers leave groups without a document; a folder that holds no node becomes an empty group, or none
                if document is not None or objects.any_below(where, f"/{DOCUMENT}"):
                    found.groups[path] = {} if document is None else document.get("attributes", {})
                    open_groups.append(path)
                continue
            array = parse_grid_document(document, where, objects.url)
            if array is None:
                found.plain.append(path)
            else:
                found.chunked[path] = array.attributes
    return found


def stored_objects(blobs: GridArrays, arrays: Mapping[str, GridArray]) -> list[Located]:
    """Return all stored objects of some arrays, with the chunks in each."""
    return [
        (array, found, each) for array, found in arrays.items() for each in object_cells(found.spec, blobs.list_coords(array))
    ]


def copy_objects(here: Objects, there: Objects, moves: Sequence[tuple[str, str]], gone: ZVError) -> list[int]:
    """Copy stored objects as they are, from key to key; return the stamps of the copies. `gone` is raised where one is lost."""
    data = here.get_many([(key, None) for key, _ in moves])
    for (key, _), content in zip(moves, data, strict=True):
        if content is None:
            raise gone.at(store=here.url, array=key)
    return there.put_all((to, content) for (_, to), content in zip(moves, data, strict=True) if content is not None)
