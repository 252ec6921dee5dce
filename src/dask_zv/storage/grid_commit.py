"""Making stored cells visible: the arrays' documents, and the catalog beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import PlanError
from dask_zv.format.documents import dump_json
from dask_zv.format.grids import NONEMPTY, GridArray, GridSpec, grid_document, listed_coords
from dask_zv.format.keys import DOCUMENT, coords_to_keys
from dask_zv.storage.catalog import CATALOG_NAME, Catalog, Node, catalog_document, encode_catalog, merge_catalog
from dask_zv.storage.cell_reads import cell_path
from dask_zv.storage.columns import COLUMNS, Columns
from dask_zv.storage.grid import GridArrays
from dask_zv.storage.nodes import ensure_groups, load_catalog, put_documents
from dask_zv.storage.objects import Objects, join
from dask_zv.storage.replacing import mark

_OF_CONTENT = ("zv_array", "dtype", "encoding", "name", "row_shape", "channel_names", "categories", "ordered", "_FillValue",
               "declared_categorical")  # fmt: skip
"""Attributes that describe what an array holds, and go with it; others, of other tools, stay when it is replaced."""
_REFUSED = "refused"
"""Name of the mark that a batch leaves which came too late."""
LAST = "vertices"
"""The array whose list of chunks is written last: whoever sees a chunk in it finds the chunk in the others."""


@dataclass(frozen=True, slots=True)
class GridPlan:
    """What a batch knew of a group's grid arrays when it was planned.

    Attributes
    ----------
    specs : mapping of str to GridSpec
        Of the arrays that it writes.
    existing : frozenset of str
        Those that were there.
    token : str
        Of the group's catalog; empty where there was none.
    alone : bool
        The batch is the first content of the arrays: where another writer's is there at the end, it is refused.
    listed : str
        Where there was no catalog: :func:`lists_digest` of the arrays.
    marker : str
        Name of the mark that chunks are being replaced; empty where none is.
    families : mapping of str to GridSpec
        Grids of arrays whose names only the blocks know, by the group above them.
    """

    specs: Mapping[str, GridSpec]
    existing: frozenset[str] = frozenset()
    token: str = ""
    alone: bool = False
    listed: str = ""
    marker: str = ""
    families: Mapping[str, GridSpec] = field(default_factory=dict)

    def naming(self, arrays: Iterable[str]) -> GridPlan:
        """Return the plan with the grids of `arrays`, where they are members of a family."""
        new = [a for a in arrays if a not in self.specs and a.rpartition("/")[0] in self.families]
        found = {a: self.families[a.rpartition("/")[0]] for a in new}
        return replace(self, specs={**self.specs, **found}) if found else self


@dataclass(frozen=True, slots=True, eq=False)
class CellChanges:
    """What a commit has to tell: the chunks that were stored, row-aligned.

    Attributes
    ----------
    coords : ndarray of int64, shape (n, K)
    rows : ndarray of int64, shape (n,)
    arrays : mapping of str to Columns
    kept : mapping of str to set of chunk keys
        Chunks of shards that were stored again with others, and are no news.
    emptied : mapping of str to set of chunk keys
    """

    coords: NDArray[np.int64]
    rows: NDArray[np.int64]
    arrays: Mapping[str, Columns]
    kept: Mapping[str, frozenset[str]]
    emptied: Mapping[str, frozenset[str]]

    def added(self, array: str) -> set[str]:
        """Return the keys that become chunks of `array`."""
        columns = self.arrays.get(array)
        keys = set() if columns is None else set(coords_to_keys(self.coords[columns.have]))
        return keys - self.kept.get(array, frozenset())


def merge_arrays(
    objects: Objects,
    prefix: str,
    plan: GridPlan,
    changes: CellChanges,
    metadata: Mapping[str, Mapping[str, Any]],
    *,
    whole: bool,
    before_last: Sequence[tuple[str, bytes]] = (),
) -> tuple[Catalog | None, dict[str, Node], bool]:
    """Write the documents of a group's arrays so that they list what was stored, too.

    Parameters
    ----------
    objects : Objects
    prefix : str
    plan : GridPlan
    changes : CellChanges
    metadata : mapping of array to attributes
        Merged into the arrays' own; with `whole`, all that they have.
    whole : bool
        The batch is the whole content of its arrays.
    before_last : sequence of (key, document)
        Stored before :data:`LAST`, where the batch writes that: whoever sees the chunks in its list finds these.

    Returns
    -------
    catalog, nodes, complete
        The group's catalog as it was, None where it did not agree with the documents or there was none; the new documents;
        and whether a catalog of these can be written.

    Raises
    ------
    PlanError
        Another writer changed an array's grid, or replaced a shard that this batch wrote too.
    """
    now = GridArrays(objects, prefix)
    catalog = load_catalog(objects, prefix)
    held = now.arrays(plan.specs)
    meanwhile = plan.alone or (whole and catalog is not None and catalog.token != plan.token)
    if meanwhile and any(a is not None and a.nonempty for a in held.values()) and not _is_own(plan, changes, held, catalog):
        mark(objects, prefix, _REFUSED)  # cells of this batch may lie among theirs: who reads one is told
        raise PlanError(
            "another writer has written this level since the write was planned: one writer at a time; look at what is "
            "there, and write again with mode='overwrite'",
            store=objects.url, array=prefix,
        )  # fmt: skip
    if catalog is not None and not whole:
        agreed = GridArrays(objects, prefix, catalog)
        known = agreed.catalogued(catalog.nodes)
        if len(known) < len(catalog.nodes) or any(
            # where nodes come first, new arrays have a document already that lists nothing
            a is not None and n not in known and (n in plan.existing or a.nonempty != frozenset())
            for n, a in held.items()
        ):
            catalog = None
        elif catalog.token != plan.token:
            by_now = {n: catalog.coords[catalog.chunks_of(n)] for n in changes.arrays if n in catalog.arrays}
            _check_shared_shards(objects, prefix, plan, changes, by_now)
    if catalog is None and not whole and lists_digest(held) != plan.listed:
        by_now = {n: listed_coords(a.nonempty or (), a.spec.rank) for n, a in held.items() if a is not None}
        _check_shared_shards(objects, prefix, plan, changes, by_now)
    documents: dict[str, dict[str, Any]] = {}
    for array, spec in plan.specs.items():
        documents[array] = _merged(objects, prefix, array, spec, held[array], changes, metadata.get(array, {}), whole=whole)
    parents = {join(prefix, a).rpartition("/")[0] for a in documents}
    ensure_groups(objects, sorted(parents))
    order = sorted(documents, key=lambda a: (a == LAST, a))
    nodes = {}
    waves = [order[:-1], order[-1:]] if LAST in documents and len(order) > 1 else [order]
    for wave in waves:
        if wave[-1:] == [LAST]:
            put_documents(objects, before_last)
        identities = objects.put_identified((join(prefix, a, DOCUMENT), dump_json(documents[a])) for a in wave)
        for array, identity in zip(wave, identities, strict=True):
            attributes = {k: v for k, v in documents[array]["attributes"].items() if k != NONEMPTY}
            nodes[array] = Node({**documents[array], "attributes": attributes}, identity)
    # an array whose chunks were there before is in a catalog only with all of them
    complete = catalog is not None or whole or not any(a is not None and a.nonempty != frozenset() for a in held.values())
    return catalog, nodes, complete


def _is_own(plan: GridPlan, changes: CellChanges, held: Mapping[str, GridArray | None], catalog: Catalog | None) -> bool:
    """Tell whether what is there is what this very batch has committed before: its graph runs again, or its last task does."""
    if catalog is not None and any(c.have.any() for n, c in catalog.arrays.items() if n not in plan.specs):
        return False
    rows = None if catalog is None else catalog.find(changes.coords)
    for array, found in held.items():
        if found is None or not found.nonempty:
            continue
        if found.spec != plan.specs[array] or found.nonempty != changes.added(array):
            return False
        theirs, mine = None if catalog is None else catalog.arrays.get(array), changes.arrays[array]
        if theirs is None or rows is None:
            continue  # the last task died before the catalog
        at, have = rows[mine.have], mine.have
        if (at < 0).any() or any((theirs[kind][at] != mine[kind][have]).any() for kind in ("nbytes", "stored", "crc")):
            return False
    return True


def _merged(
    objects: Objects,
    prefix: str,
    array: str,
    spec: GridSpec,
    held: GridArray | None,
    changes: CellChanges,
    metadata: Mapping[str, Any],
    *,
    whole: bool,
) -> dict[str, Any]:
    """Return the new document of one array."""
    added = changes.added(array)
    if held is None or whole:
        others = {} if held is None else {k: v for k, v in held.attributes.items() if k not in {*_OF_CONTENT, *metadata}}
        return grid_document(spec, {**metadata, **others}, added)  # in this order: a commit that runs twice writes the same
    if replace(held.spec, shape=spec.shape) != spec:
        raise PlanError(
            "another writer made or changed this array since the batch was planned: its origin, shards or codecs are others; "
            "plan the write again",
            store=objects.url, array=join(prefix, array),
        )  # fmt: skip
    grown = tuple(max(a, b) for a, b in zip(held.spec.shape, spec.shape, strict=True))
    listed = set(held.nonempty if held.nonempty is not None else GridArrays(objects, prefix).list_keys(array))
    listed = (listed | added) - changes.emptied.get(array, frozenset())
    return grid_document(replace(spec, shape=grown), {**held.attributes, **metadata}, listed)


def lists_digest(held: Mapping[str, GridArray | None]) -> str:
    """Return a digest of which chunks the arrays in shards list; empty where there are none of these."""
    lines = [
        f"{array} {' '.join(sorted(found.nonempty or ()))}"
        for array, found in sorted(held.items())
        if found is not None and found.spec.shard_shape is not None
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest() if lines else ""


def _check_shared_shards(
    objects: Objects, prefix: str, plan: GridPlan, changes: CellChanges, by_now: Mapping[str, NDArray[np.int64]]
) -> None:
    """Raise where another writer, since the batch was planned, committed chunks to a shard that this batch stored.

    `by_now` are the chunks that each array lists now.
    """
    for array, columns in changes.arrays.items():
        spec = plan.specs[array]
        others = by_now.get(array)
        if spec.shard_shape is None or others is None:
            continue
        mine = changes.coords[columns.have]
        shards = spec.shards_of(spec.cells_of(mine))[0]
        own = {tuple(s) for s in shards.tolist()}
        stamps = dict(zip(map(tuple, shards.tolist()), columns["stamp"][columns.have].tolist(), strict=True))
        of_others = spec.shards_of(spec.cells_of(others))[0]
        known = {tuple(c) for c in mine.tolist()}
        lost = [
            c for c, s in zip(others.tolist(), of_others.tolist(), strict=True) if tuple(s) in own and tuple(c) not in known
        ]
        at = sorted(own)
        found = objects.stamps([cell_path(join(prefix, array), s) for s in at])
        changed = [s for s, f in zip(at, found, strict=True) if stamps[s] and (f is None or f[1] != stamps[s])]
        if lost or changed:
            where = ".".join(map(str, lost[0])) if lost else f"of shard {list(changed[0])}"
            raise PlanError(
                "another writer committed chunks to a shard that this batch wrote at the same time, so that one of them is "
                "lost: let one writer own a shard (blocks of whole shards), and write both again",
                store=objects.url, array=join(prefix, array), chunk=where,
            )  # fmt: skip


def commit_keys(prefix: str, arrays: Iterable[str]) -> list[str]:
    """Return the keys of what a commit looks at: the group's catalog, its arrays' documents, those of the groups above them."""
    keys = [join(prefix, CATALOG_NAME, "c/0")]
    for array in arrays:
        parts = join(prefix, array).split("/")
        above = ["/".join(parts[:i]) for i in range(len(parts) + 1)]
        keys += [join(path, DOCUMENT) for path in above]
        keys += [join(path, CATALOG_NAME, DOCUMENT) for path in above]
    return keys


def catalog_objects(
    objects: Objects,
    prefix: str,
    old: Catalog | None,
    nodes: Mapping[str, Node],
    changes: CellChanges,
) -> list[tuple[str, bytes]]:
    """Return the objects of the catalog of a group: what it had, and what was stored."""
    arrays: dict[str, Columns] = {}
    for name in nodes:
        columns = changes.arrays.get(name)
        arrays[name] = Columns.empty(len(changes.coords)) if columns is None else columns
        unlisted = changes.kept.get(name, frozenset()) - _keys_of(old, name)
        if unlisted:  # cells of a writer that died before its commit were kept in their shard, but nobody lists them
            drop = np.fromiter((k in unlisted for k in coords_to_keys(changes.coords)), bool, len(changes.coords))
            arrays[name] = _without(arrays[name], drop)
    merged = merge_catalog(old, changes.coords, changes.rows, arrays, nodes)
    for name, emptied in changes.emptied.items():
        if emptied and name in merged.arrays:
            drop = np.fromiter((k in emptied for k in coords_to_keys(merged.coords)), bool, len(merged))
            merged = replace(merged, arrays={**merged.arrays, name: _without(merged.arrays[name], drop)})
    payload = encode_catalog(_tidied(merged))
    path = join(prefix, CATALOG_NAME)
    return [(join(path, DOCUMENT), catalog_document(len(payload))), (f"{path}/c/0", payload)]


def _keys_of(catalog: Catalog | None, array: str) -> set[str]:
    return set() if catalog is None else set(coords_to_keys(catalog.coords[catalog.chunks_of(array)]))


def _without(columns: Columns, drop: NDArray[np.bool_]) -> Columns:
    empty = Columns.empty(len(drop))
    return Columns({kind: np.where(drop, empty[kind], columns[kind]) for kind in COLUMNS})


def _tidied(catalog: Catalog) -> Catalog:
    """Return the catalog without chunks that no array has."""
    if not catalog.arrays or not len(catalog):
        return catalog
    have = np.zeros(len(catalog), bool)
    for columns in catalog.arrays.values():
        have |= columns.have
    if have.all():
        return catalog
    order = np.flatnonzero(have)
    arrays = {n: c.take(order) for n, c in catalog.arrays.items()}
    return replace(catalog, coords=catalog.coords[order], rows=catalog.rows[order], arrays=arrays)
