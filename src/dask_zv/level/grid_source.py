"""What a level of layout ``grid`` holds: by its catalog, where that agrees with the store, else by the documents and chunks."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError, ZVWarning
from dask_zv.format.cells import index_nbytes
from dask_zv.format.fragments import decode_fragments
from dask_zv.format.grids import GridArray
from dask_zv.format.keys import DOCUMENT, coords_to_keys, join, parse_key
from dask_zv.geometry.schema import FRAGMENTS, VERTICES
from dask_zv.level.source import LevelSource
from dask_zv.storage.catalog import Catalog
from dask_zv.storage.grid.fetch import cell_path, object_runs
from dask_zv.storage.grid.read import GridArrays
from dask_zv.storage.grid.shards import object_cells
from dask_zv.storage.layout import Blobs
from dask_zv.storage.objects import Address, Objects
from dask_zv.storage.specs import Place

_FRAGMENT_BATCH = 4096
_COMPARED = 512
LINKS = ("links/", "link_attributes/", "link_fragments")
"""How the names of arrays of links begin."""


def grid_attributes(
    objects: Objects, place: Place, catalog: Catalog | None, arrays: list[str], *, check_objects: bool, links: bool
) -> tuple[Catalog | None, list[Mapping[str, Any] | None], str, str | None]:
    """Return the catalog where it agrees with the store, the arrays' attributes, a digest of their state, and what is gone.

    Gone is an array that the last commit knew, and that has no document any more.

    Parameters
    ----------
    objects : Objects
    place : Place
    catalog : Catalog or None
    arrays : list of str
    check_objects : bool
        Compare every stored object with the catalog, too: one request for each.
    links : bool
        Compare the documents of links with the catalog; those of levels that are read without them are compared when they
        are asked for.
    """
    blobs = GridArrays(objects, place.prefix, catalog)
    # what the catalog names is looked at too: an array that is gone must not be taken for one that never was
    named = [a for a in (catalog.nodes if catalog else ()) if links or not a.startswith(LINKS)]
    known = blobs.catalogued(dict.fromkeys([*arrays, *named]))
    if catalog is not None and all(a in known for a in named):
        unknown = blobs.arrays([a for a in arrays if a not in known])
        looks = all(found is None for found in unknown.values())
        # tools that edit cells write the list of chunks again; in a copied store it is as new as everything else
        if looks and not ((check_objects or blobs.rewritten) and _changed(blobs, known, stamps=check_objects)):
            return catalog, [known[a].attributes if a in known else None for a in arrays], "", None
    gone = None
    if catalog is not None:
        blobs.forget()
        gone = next((a for a, d in blobs.arrays([a for a in named if a not in known]).items() if d is None), None)
    found = blobs.arrays(arrays)
    paths = [join(place.prefix, a, DOCUMENT) for a in arrays]
    if check_objects:
        paths += [p for a in arrays for p in _object_paths(blobs, a, found[a])]
    state = "".join(map(str, objects.identities(paths)))
    return None, [None if (a := found[name]) is None else a.attributes for name in arrays], state, gone


def _object_paths(blobs: GridArrays, array: str, found: GridArray | None) -> list[str]:
    """Return the keys of the objects that hold an array's listed chunks."""
    if found is None:
        return []
    return [cell_path(blobs.path(array), w) for w, _ in object_cells(found.spec, blobs.list_coords(array))]


def _changed(blobs: GridArrays, known: Mapping[str, GridArray], *, stamps: bool) -> bool:
    """Tell whether an object has another length than the catalog noted, or with `stamps` another stamp and other bytes.

    A copied store has other stamps; where only these differ, the bytes are compared. An edit can't be told from damage
    where all stamps are others.
    """
    assert blobs.catalog is not None
    suspects: list[Address] = []
    copied = True
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
                return True
            copied &= stamp[1] != before
            if stamps and before and stamp[1] and stamp[1] != before:
                suspects += [(array, key) for key in coords_to_keys(blobs.catalog.coords[run])]
    for start in range(0, len(suspects), _COMPARED):
        blobs.read_stored(suspects[start : start + _COMPARED])
        if blobs.catalog_is_stale and copied:
            warn_of_other_bytes(join(blobs.objects.url, blobs.prefix), blobs.stale_chunk)
        if blobs.catalog_is_stale:
            return True
    return False


def warn_of_other_bytes(where: str, chunk: str | None) -> None:
    """Warn that a chunk has other bytes than at the last commit."""
    warnings.warn(
        f"chunk {chunk} has other bytes than at the last commit: another tool edited it, or it is damaged, which can't be told "
        f"here; compare it with what it should be, then store.refresh() takes the level as it is [{where}]",
        ZVWarning,
        stacklevel=2,
    )


def grid_rows(source: LevelSource, blobs: GridArrays, row_bytes: int) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Return the chunks of a grid level without a catalog, shape (n, K), their rows, shape (n,), and how many were emptied.

    The chunks are those of the list in the document, which its siblings must have too.

    Raises
    ------
    FormatError
        A sibling lacks a chunk, or positions are no whole number of rows.
    """
    coords = blobs.list_coords(VERTICES)
    keys = coords_to_keys(coords)
    if len(coords) and coords.shape[1] != source.rank:
        raise FormatError(f"chunk keys of rank {coords.shape[1]} in a level whose keys have rank {source.rank}",
                          store=source.where(), array=VERTICES, chunk=keys[0])  # fmt: skip
    emptied = check_siblings(source, blobs, set(keys), {a: set(blobs.list_keys(a)) for a in source.schema.arrays[1:]})
    rows = _rows_by_fragments(source, blobs, keys)
    if rows is None:
        sizes = blobs.sizes(VERTICES)
        nbytes = np.array([sizes[k] for k in keys], np.int64)
        if (nbytes % row_bytes).any():
            bad = int(np.flatnonzero(nbytes % row_bytes)[0])
            raise FormatError(
                f"the blob has {nbytes[bad]} bytes, no whole number of rows of {row_bytes}",
                store=source.where(), array=VERTICES, chunk=keys[bad],
            )  # fmt: skip
        rows = nbytes // row_bytes
    return coords.reshape(len(keys), source.rank), rows, emptied


def check_siblings(source: LevelSource, blobs: Blobs, keys: Set[str], listed: Mapping[str, Set[str]]) -> int:
    """Compare the chunks that have positions with those of other arrays: without a catalog nothing else tells of a loss.

    Levels of others may have no fragments or values at all. A chunk that an edit emptied has an index of fragments without
    rows, and maybe values that nothing names.

    Parameters
    ----------
    source : LevelSource
    blobs : Blobs
    keys : set of str
        Chunks that have positions.
    listed : mapping of str to set of str
        The chunks of each other array.

    Returns
    -------
    int
        How many chunks were emptied.

    Raises
    ------
    FormatError
        A chunk is in one of them alone.
    """
    more = listed.get(FRAGMENTS, set()) - keys
    found = blobs.read_many([(FRAGMENTS, k) for k in more]) if more else {}
    emptied = {k for (_, k), data in found.items() if not _fragment_rows(source, k, data)}
    for array, chunks in listed.items():
        odd = (chunks ^ keys) - emptied if chunks else set()
        if odd:
            first = min(odd, key=parse_key)
            here, there = (VERTICES, array) if first in keys else (array, VERTICES)
            raise FormatError(
                f"the chunk is in {here!r} and not in {there!r}: it was lost, or is being written",
                store=source.where(), array=there, chunk=first,
            )  # fmt: skip
    return len(emptied)


def _fragment_rows(source: LevelSource, key: str, data: bytes) -> int:
    try:
        return int(decode_fragments(data).counts.sum())
    except FormatError as error:
        raise error.at(store=source.where(), array=FRAGMENTS, chunk=key) from None


def _rows_by_fragments(source: LevelSource, blobs: GridArrays, keys: list[str]) -> NDArray[np.int64] | None:
    """Return the rows of each chunk by its fragment index, None where positions tell it cheaper or fragments can't.

    The size of an object of raw positions is known without reading it; compressed ones are larger than their fragments.
    """
    found = blobs.arrays([VERTICES, FRAGMENTS])
    vertices, fragments = found[VERTICES], found[FRAGMENTS]
    if vertices is None or fragments is None or (vertices.spec.shard_shape is None and not vertices.spec.codecs):
        return None
    out = np.zeros(len(keys), np.int64)
    for start in range(0, len(keys), _FRAGMENT_BATCH):
        part = keys[start : start + _FRAGMENT_BATCH]
        data = blobs.read_many([(FRAGMENTS, k) for k in part])
        for i, key in enumerate(part):
            if (FRAGMENTS, key) not in data:
                return None
            try:
                index = decode_fragments(data[FRAGMENTS, key])
            except FormatError as error:
                raise error.at(store=source.where(), array=FRAGMENTS, chunk=key) from None
            n = int(index.counts.sum())
            if not index.tiles(n):
                return None  # explicit fragments need not name every row
            out[start + i] = n
    return out
