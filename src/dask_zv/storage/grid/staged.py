"""An append in layout ``grid``: all that it stores waits beside the level, and one short commit puts it in its place.

The cells of chunks that get rows are stored whole, old rows and new, below ``dask_zv_append-<digest>`` in the level, with the
tables about objects; the level stays as it is. The commit first stores a *record* there of what is to be done. From then on
whoever writes to the level next completes the append, should its own process die: every step may be done twice. Readers that
come upon a cell in that short time are told so by a mark, as while a level is overwritten.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from dask_zv.errors import FormatError, PlanError
from dask_zv.format.documents import dump_json, parse_json
from dask_zv.format.grids import GridSpec, parse_grid_document
from dask_zv.format.keys import DOCUMENT, join
from dask_zv.spatial.chunks import ChunkLookup
from dask_zv.storage.catalog import CATALOG_NAME, Catalog, Node, catalog_stamp, decode_catalog, encode_catalog, stamped_document
from dask_zv.storage.grid.commit import merged_array, new_catalog
from dask_zv.storage.grid.fetch import shard_indexes
from dask_zv.storage.grid.plan import commit_keys
from dask_zv.storage.grid.read import GridArrays
from dask_zv.storage.locks import commit_lock
from dask_zv.storage.nodes import (
    LAST,
    catalog_objects,
    drop_catalogs,
    ensure_groups,
    load_catalog,
    merged_documents,
    put_documents,
    read_document,
    read_grids,
)
from dask_zv.storage.objects import Objects, snapshot
from dask_zv.storage.receipts import COLUMNS, Columns, Receipt
from dask_zv.storage.specs import (
    APPENDING,
    JOURNAL,
    WAITING,
    CommitSpec,
    check_as_planned,
    edit_at_work,
    mark,
    normal_path,
    root_lock,
    unmark,
    written_stamp,
)

_RECORD = "record"
_FIRST, _AT_ONCE, _BYTES_AT_ONCE = 4, 64, 64 << 20
"""Objects that are put in their place at a time: of the first ones, at most, and their bytes, by the sizes of those before."""


def commit_staged(store: Objects, spec: CommitSpec, total: Receipt, attributes: Mapping[str, Mapping[str, Any]]) -> None:
    """Make the cells that wait the group's content, beside what it has; other commits are those of :mod:`.commit`."""
    assert spec.extends is not None
    prefix, staged = spec.place.prefix, spec.extends.staged
    with commit_lock(store, prefix) as locked, root_lock(store, spec):
        if written_stamp(spec.place) == spec.stamp:  # this very commit, run again
            _clear(store, prefix, staged)
            return
        if store.get(join(staged, _RECORD)) is None:
            record = _record(store, spec, total, attributes)
            locked.check()
            store.put(join(staged, _RECORD), record)
        _publish(store, prefix, staged)


def complete_appends(store: Objects, prefix: str) -> bool:
    """Complete the appends to a level whose processes died after their commits had begun; return True if there was one."""
    found = False
    waiting = [name for name in store.list_dir(prefix) if name.startswith(WAITING)] if not store.nodes_first else []
    for name in waiting:
        if not store.exists(join(prefix, name, _RECORD)):
            document = store.get(join(prefix, CATALOG_NAME, DOCUMENT))
            if document is not None and name == f"{WAITING}{catalog_stamp(document, prefix, store.url)}":
                store.delete_prefix(join(prefix, name))  # of the last commit, which died in its last step
        else:
            with commit_lock(store, prefix), commit_lock(store, normal_path(prefix, "..")):
                if store.exists(join(prefix, name, _RECORD)):  # else another process was faster
                    _publish(store, prefix, join(prefix, name))
                    found = True
    return found


def _record(store: Objects, spec: CommitSpec, total: Receipt, attributes: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Return what is to be done, once nothing can keep it from being done."""
    assert spec.grid is not None
    assert spec.extends is not None
    prefix, plan = spec.place.prefix, spec.grid.with_arrays(total.arrays)
    objects = snapshot(store, commit_keys(prefix, plan.specs))
    catalog = load_catalog(objects, prefix)
    at_work = edit_at_work(store, prefix)
    if at_work or catalog is None or catalog.token != plan.token or _edited(objects, prefix, catalog):
        store.delete_prefix(spec.extends.staged)
        if at_work:
            check_as_planned(store, prefix, "", plan.token)  # says who
        raise PlanError(
            "another writer has changed the level since the append was planned: nothing of the append is in it; make the same "
            "call again",
            store=store.url, array=prefix,
        )  # fmt: skip
    held = read_grids(objects, prefix, plan.specs)
    documents = {
        array: merged_array(objects, prefix, array, grid, held[array], total, attributes.get(array, {}), whole=False)
        for array, grid in plan.specs.items()
    }
    merged = new_catalog(catalog, {array: Node.of(document, None) for array, document in documents.items()}, total)
    record = {
        "token": plan.token,
        "stamp": spec.stamp,
        "documents": documents,
        "catalog": base64.b64encode(encode_catalog(merged)).decode(),
        "changes": [[normal_path(prefix, p), found] for p, found in attributes.items() if p not in plan.specs],
        "root": spec.root,
        "remove": [normal_path(prefix, path) for path in spec.remove],
    }
    return dump_json(record)


def _edited(objects: Objects, prefix: str, catalog: Catalog) -> bool:
    """Return True if documents of arrays are not those that the catalog knows."""
    return len(GridArrays(objects, prefix, catalog).catalogued(catalog.nodes)) < len(catalog.nodes)


def _publish(store: Objects, prefix: str, staged: str) -> None:
    """Do what the record of an append says; the level's lock is held."""
    data = store.get(join(staged, _RECORD))
    try:
        record: Any = parse_json(data or b"")
        documents: dict[str, Any] = record["documents"]
        catalog = decode_catalog(base64.b64decode(record["catalog"]), store=store.url, array=staged)
        changes = [(str(path), dict(found)) for path, found in record["changes"]]
        token, stamp, root, remove = record["token"], record["stamp"], record["root"], record["remove"]
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(
            f"the record of an append is damaged ({error!r:.200}): remove '/{staged}', and write the level again",
            store=store.url, array=staged,
        ) from error  # fmt: skip
    now = load_catalog(store, prefix)
    if (now is None or now.token != token) and read_document(store, join(prefix, LAST)) != documents[LAST]:
        raise PlanError(
            f"another tool has changed the level since an append to it was put in its place in part ('/{staged}'): write the "
            "level again with mode='overwrite', which removes what is left of it",
            store=store.url, array=prefix,
        )  # fmt: skip
    mark(store, prefix, APPENDING)
    keys = [key.removeprefix(f"{staged}/") for key in store.list_prefix(staged)]
    keys = sorted(k for k in keys if k != _RECORD and not k.startswith(JOURNAL))
    cells = [k for k in keys if not k.endswith(f"/{DOCUMENT}")]
    tables = [k for k in keys if k.endswith(f"/{DOCUMENT}")]
    stamps = dict(zip(cells, _move(store, prefix, staged, cells), strict=True))
    drop_catalogs(store, [join(prefix, array) for array in documents], keep=prefix)
    ensure_groups(store, sorted({join(prefix, a).rpartition("/")[0] for a in documents}))
    for path in remove:
        store.delete_prefix(path)
    _move(store, prefix, staged, tables)
    if left := list(_left_over(store, prefix, tables, stamps)):
        store.delete_many(left)
    told = merged_documents(store, changes, {normal_path(prefix, ".."): root} if root else None)
    nodes = _put_arrays(store, prefix, {a: d for a, d in documents.items() if a != LAST})
    put_documents(store, told)
    nodes |= _put_arrays(store, prefix, {LAST: documents[LAST]})
    final = replace(catalog, nodes={**catalog.nodes, **nodes}, arrays=_stamped(catalog, documents, stamps), token="")
    document, payload = catalog_objects(prefix, final)
    store.put(*payload)
    store.put(document[0], stamped_document(document[1], stamp, join(prefix, CATALOG_NAME), store.url))
    _clear(store, prefix, staged)


def _clear(store: Objects, prefix: str, staged: str) -> None:
    """Remove what an append has left after its commit; the record first, for without cells there is nothing to complete."""
    unmark(store, prefix, APPENDING)
    store.delete(join(staged, _RECORD))
    store.delete_prefix(staged)


def _move(store: Objects, prefix: str, staged: str, keys: list[str]) -> list[int]:
    """Store objects that wait at their places; return the stamp of each."""
    stamps: list[int] = []
    at_once = _FIRST
    while len(stamps) < len(keys):
        some = keys[len(stamps) : len(stamps) + at_once]
        found = store.get_many([(join(staged, key), None) for key in some])
        for key, data in zip(some, found, strict=True):
            if data is None:
                raise FormatError(
                    f"'/{staged}/{key}', a part of an append that is to be completed, is missing: write the level again with "
                    "mode='overwrite'",
                    store=store.url, array=prefix,
                )  # fmt: skip
        puts = [(join(prefix, key), data) for key, data in zip(some, found, strict=True) if data is not None]
        stamps += store.put_all(puts)
        at_once = max(1, min(_AT_ONCE, at_once * _BYTES_AT_ONCE // max(sum(len(data) for _, data in puts), 1)))
    shard_indexes(store).drop(join(prefix, key) for key in keys)
    return stamps


def _left_over(store: Objects, prefix: str, tables: Iterable[str], kept: Mapping[str, int]) -> Iterator[str]:
    """Yield the keys of chunks that tables had before, and have no longer."""
    for table in tables:
        path = join(prefix, table).removesuffix(f"/{DOCUMENT}")
        for key in store.list_prefix(f"{path}/c"):
            if key.removeprefix(f"{prefix}/" if prefix else "") not in kept:
                yield key


def _put_arrays(store: Objects, prefix: str, documents: Mapping[str, dict[str, Any]]) -> dict[str, Node]:
    """Store the documents of arrays; return what the catalog says of each."""
    names = sorted(documents)
    identities = store.put_identified((join(prefix, a, DOCUMENT), dump_json(documents[a])) for a in names)
    return {a: Node.of(documents[a], identity) for a, identity in zip(names, identities, strict=True)}


def _stamped(catalog: Catalog, documents: Mapping[str, Any], stamps: Mapping[str, int]) -> dict[str, Columns]:
    """Return the columns of all arrays, with the stamps of the objects that were put in their places."""
    moved: dict[str, dict[tuple[int, ...], int]] = {}
    for key, stamp in stamps.items():
        array, _, cell = key.rpartition("/c/")
        if array in documents:
            moved.setdefault(array, {})[tuple(map(int, cell.split("/")))] = stamp
    out = dict(catalog.arrays)
    for array, cells in moved.items():
        found = parse_grid_document(documents[array], array)
        assert found is not None
        out[array] = _of_objects(catalog, found.spec, out[array], cells)
    return out


def _of_objects(catalog: Catalog, spec: GridSpec, columns: Columns, cells: Mapping[tuple[int, ...], int]) -> Columns:
    order = sorted(cells)
    have = np.flatnonzero(columns.have)
    at = ChunkLookup(np.array(order, np.int64)).find(spec.objects_of(catalog.coords[have]))
    values = np.array([cells[c] for c in order], np.uint64)
    stamp = np.array(columns["stamp"], np.uint64)
    stamp[have[at >= 0]] = values[at[at >= 0]]
    return Columns({kind: columns[kind] for kind in COLUMNS} | {"stamp": stamp})
