"""Rules about the catalog of a level: its documents and lists are those of the last commit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import ZVError
from dask_zv.format.documents import parse_document
from dask_zv.format.grids import GridArray, cell_path, index_nbytes
from dask_zv.format.keys import DOCUMENT, coords_to_keys, join
from dask_zv.geometry.schema import VERTICES
from dask_zv.level.contents import LevelContents
from dask_zv.level.source import LevelSource
from dask_zv.maintain.rules_blobs import level_number, read_what_can_be
from dask_zv.maintain.rules_chunks import ChunkLists
from dask_zv.maintain.validation import Finding, finding_of
from dask_zv.storage.grid.fetch import object_runs
from dask_zv.storage.grid.read import GridArrays
from dask_zv.storage.handles import open_objects
from dask_zv.storage.layout import open_place
from dask_zv.storage.nodes import SETTINGS, load_catalog

NOT_LISTED = "the chunk, which the last commit had, is not listed any more: another tool removed it, or it was lost"


def look_at_catalog(level: LevelContents, lists: ChunkLists) -> list[Finding]:
    """Compare the catalog of the last commit with documents and lists."""
    objects, prefix, number = open_objects(level.place.handle), level.place.prefix, level.number
    try:
        catalog = load_catalog(objects, prefix)
    except ZVError as error:
        return [finding_of(error, "catalog", number)]
    if catalog is None:
        ours = SETTINGS in level._attributes and len(lists)
        text = "the level has no catalog: opening it costs requests, and a chunk that went missing may not be noticed"
        return [Finding("catalog", "warning", text, number)] if ours else []
    found: list[Finding] = []
    blobs = open_place(level.place)
    if isinstance(blobs, GridArrays):
        found += _changed_documents(level, GridArrays(objects, prefix, catalog))
    for array, have in lists.have.items():
        if array in {f.array for f in found if f.severity == "error"}:
            continue
        if array not in catalog.arrays:
            if have.any():
                text = "the array is not in the catalog: another tool made it"
                found.append(Finding("catalog", "warning", text, number, array))
            continue
        noted, keys = catalog.coords[catalog.chunks_of(array)], lists.coords[have]
        gone, new = _only_in(noted, keys), _only_in(keys, noted)
        if not isinstance(blobs, GridArrays):  # nothing lists chunks but the store itself
            found += [
                Finding("blobs", "error", "a committed chunk is gone: its objects were deleted", number, array, key)
                for key in coords_to_keys(gone)
            ]
        elif array == VERTICES:
            found += [Finding("catalog", "warning", NOT_LISTED, number, array, key) for key in coords_to_keys(gone)]
        elif len(gone):
            key, text = coords_to_keys(gone[:1])[0], f"{len(gone):,} chunks of the last commit are not listed any more"
            found.append(Finding("catalog", "warning", text, number, array, key))
        if len(new):
            key, text = coords_to_keys(new[:1])[0], f"{len(new):,} chunks are listed that the last commit did not have"
            found.append(Finding("catalog", "warning", text, number, array, key))
    return found


def _only_in(some: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows of `some` that are not among `others`, in order."""
    if not len(some) or not len(others):
        return some
    known = set(map(tuple, others.tolist()))
    return some[[tuple(c) not in known for c in some.tolist()]]


def _changed_documents(level: LevelContents, noted: GridArrays) -> list[Finding]:
    """Return the arrays whose documents are not those of the last commit."""
    assert noted.catalog is not None
    names, found, number = sorted(noted.catalog.nodes), [], level.number
    for name in names:
        try:
            if noted.catalogued([name]):
                continue
        except ZVError as error:
            found.append(finding_of(error, _rule_of(name), number))
            continue
        document = open_objects(level.place.handle).get(join(level.place.prefix, name, DOCUMENT))
        if document is None:
            text = f"the document of {name!r}, an array of the last commit, is missing"
            found.append(Finding(_rule_of(name), "error", text, number, name))
            continue
        try:
            now = parse_document(document, name, level.url).get("attributes", {})
        except ZVError as error:
            found.append(finding_of(error, _rule_of(name), number))
            continue
        then = noted.catalog.nodes[name].document.get("attributes", {})
        odd = [k for k in ("dtype", "row_shape", "link_width") if then.get(k) != now.get(k)]
        if odd:
            text = f"the document says {odd[0]} {now.get(odd[0])!r}, at the last commit it said {then.get(odd[0])!r}"
            found.append(Finding("documents", "error", text, number, name))
        else:
            text = "the document is not that of the last commit: another tool edited the array"
            found.append(Finding("catalog", "warning", text, number, name))
    return found


def _rule_of(array: str) -> str:
    return "links" if array.startswith("link") else "documents"


def look_at_objects(source: LevelSource, array: str) -> tuple[Finding, ...]:
    """Look for stored chunks that an array's list does not name, and for stored objects of other lengths than were noted."""
    blobs, level = open_place(source.place), level_number(source.place.prefix)
    if not isinstance(blobs, GridArrays):
        return ()  # there is no list, and documents tell the lengths
    try:
        document = blobs.arrays([array])[array]
        if document is None or not document.plain:
            return ()
        found = _of_other_lengths(source, array, document)
        stored = frozenset() if document.nonempty is None else blobs.stored_keys(array, document) - document.nonempty
    except ZVError as error:
        return (finding_of(error, "shards", level),)
    text = "the chunk is stored, and the array's list of chunks does not name it"
    return (*found, *(Finding("lists", "error", text, level, array, key) for key in sorted(stored)))


def _of_other_lengths(source: LevelSource, array: str, document: GridArray) -> list[Finding]:
    """Read chunks anew, by documents alone, whose stored objects are longer or shorter than at the last commit.

    Readers with the catalog read what it notes of an object, and would not see what follows.
    """
    blobs = open_place(source.place)
    try:
        catalog = load_catalog(blobs.objects, blobs.prefix)
    except ZVError:
        return []  # told once, for the level
    if catalog is None or array not in catalog.arrays or not len(catalog.coords):
        return []
    columns, spec = catalog.arrays[array], document.spec
    have = np.flatnonzero(columns.have & spec.contains(catalog.coords))
    index = 0 if spec.shard_shape is None else index_nbytes(spec.shard_cells)
    runs = object_runs(spec.cells_of(catalog.coords[have]), spec)
    lengths = [int((columns["offset"][have[run]] + columns["stored"][have[run]]).max()) + index for _, run in runs]
    stamps = blobs.objects.stamps([cell_path(blobs.path(array), where) for where, _ in runs])
    odd = [
        key
        for (_, run), length, stamp in zip(runs, lengths, stamps, strict=True)
        if stamp is not None and stamp[0] != length
        for key in coords_to_keys(catalog.coords[have[run]])
        if document.nonempty is None or key in document.nonempty
    ]
    return read_what_can_be(blobs, [(array, key) for key in odd])[1]
