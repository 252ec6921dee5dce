"""Nodes of a Zarr hierarchy by their documents: groups, attributes, and the catalog beside them; what a payload may be."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import Any, TypeVar

import numpy as np

from dask_zv.errors import InvalidNameError, StoreError, ZVWarning
from dask_zv.format.documents import blob_document, dump_json, group_document, parse_document, to_json
from dask_zv.format.grids import GridArray, parse_grid_document
from dask_zv.format.keys import DOCUMENT, ancestors, check_name, join
from dask_zv.storage.catalog import CATALOG_NAME, Catalog, decode_catalog, encode_catalog
from dask_zv.storage.locks import LOCK_NAME, commit_lock
from dask_zv.storage.objects import Objects, together

T = TypeVar("T")
SETTINGS = "dask_zv"
"""Attribute that holds what `create` was asked for, and a level's grid; the format has no place for either."""
LAST = "vertices"
"""The array whose list of chunks is written last: whoever sees a chunk in it finds the chunk in the others."""
CONSOLIDATED = "consolidated_metadata"
"""In the document of a group: copies of the documents of all nodes below it, which nothing keeps up to date."""


def as_bytes(data: object, array: str, chunk: str) -> bytes:
    """Return a blob's payload as bytes."""
    if isinstance(data, bytes):
        return data
    if isinstance(data, np.ndarray):
        if not data.flags.c_contiguous or data.dtype.hasobject:
            raise StoreError(
                "a numpy payload must be C-contiguous and hold no Python objects: pass numpy.ascontiguousarray(data)",
                array=array, chunk=chunk,
            )  # fmt: skip
        return data.tobytes()
    try:
        return memoryview(data).tobytes()  # type: ignore[arg-type]
    except TypeError:
        raise StoreError(
            f"a payload is bytes-like or a C-contiguous numpy array, not {type(data).__name__}", array=array, chunk=chunk
        ) from None


def read_document(objects: Objects, path: str) -> dict[str, Any] | None:
    """Return the document of a node, None where it has none."""
    data = objects.get(join(path, DOCUMENT))
    return None if data is None else parse_document(data, path, objects.url)


def read_grids(objects: Objects, prefix: str, names: Iterable[str]) -> dict[str, GridArray | None]:
    """Return what the documents of some arrays say, None for those that are absent or no chunk grids."""
    paths = {name: join(prefix, name) for name in names}
    found = objects.get_many([(join(path, DOCUMENT), None) for path in paths.values()])
    return {
        name: None if data is None else parse_grid_document(parse_document(data, path, objects.url), path, objects.url)
        for (name, path), data in zip(paths.items(), found, strict=True)
    }


def kind_of(document: Mapping[str, Any]) -> str:
    """Return what a node is, in words: "a Group", or "a 2-D Array"."""
    if document["node_type"] == "group":
        return "a Group"
    shape = document.get("shape")
    return f"a {len(shape)}-D Array" if isinstance(shape, list) else "an Array"


def holds_nodes(objects: Objects, path: str) -> bool:
    """Return True if a path without a document has nodes below it, as 0.7 writers leave groups."""
    return objects.any_below(path, f"/{DOCUMENT}")


def _alone(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document without what it says of the nodes below."""
    return {k: v for k, v in document.items() if k != CONSOLIDATED}


def ensure_groups(objects: Objects, paths: Iterable[str]) -> None:
    """Give every path, and all above it, the document of a group where there is none.

    What these have of consolidated metadata is dropped: it is about to be of another state than the nodes below.
    """
    wanted = list(dict.fromkeys(above for path in paths for above in ancestors(path)))
    documents = objects.get_many([(join(p, DOCUMENT), None) for p in wanted])
    missing: dict[int, list[str]] = {}
    for path, document in zip(wanted, documents, strict=True):
        if document is None:  # a group without a document counts as one, so their order may be of no concern
            depth = path.count("/") + bool(path) if objects.nodes_first else 0
            missing.setdefault(depth, []).append(path)
        elif parse_document(document, path, objects.url)["node_type"] != "group":
            raise StoreError(f"'/{path}' is an Array, so a group cannot be made there", store=objects.url)
    for path, document in zip(wanted, documents, strict=True):
        _drop_copy(objects, path, document)
    _drop_copies_outside(objects)
    for depth in sorted(missing):  # parents before their children
        _make_groups(objects, missing[depth])


def _make_groups(objects: Objects, paths: Sequence[str]) -> None:
    """Give paths the document of a group, unless another writer has done so just now: it may have attributes by now."""
    if objects.nodes_first:
        objects.put_many([[(join(path, DOCUMENT), group_document({}))] for path in paths])
        return

    def make(path: str) -> None:
        if objects.put_if_absent(join(path, DOCUMENT), group_document({})) is None:
            objects.put(join(path, DOCUMENT), group_document({}))

    together(objects, *(partial(make, path) for path in paths))


def merge_attributes(objects: Objects, path: str, attributes: Mapping[str, Any], *, replace: bool = False) -> None:
    """Merge JSON values into the attributes of a node, which becomes a group where it is absent.

    With `replace` they become all of its attributes. Two writers who do so at once lose what one of them says: who does not
    hold a lock takes :func:`update_attributes`.
    """
    for key, document in merged_documents(objects, [(path, attributes)], replace=replace):
        objects.put(key, document)


def update_attributes(objects: Objects, path: str, attributes: Mapping[str, Any], above: Sequence[str] = ()) -> None:
    """Merge JSON values into the attributes of a group, in turn with all others who do, and with the commits of groups above.

    Locks are taken from the inner groups to the outer, as by commits, which hold a level's and then the root's.
    """
    with ExitStack() as held:
        for group in (path, *above):
            held.enter_context(commit_lock(objects, group))
        drop_copies(objects, [path.rpartition("/")[0]])
        merge_attributes(objects, path, attributes)


def merged_documents(
    objects: Objects,
    changes: Iterable[tuple[str, Mapping[str, Any]]],
    known: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    replace: bool = False,
) -> list[tuple[str, bytes]]:
    """Return (key, document) of nodes with JSON values merged into their attributes; an absent node is a new group.

    The groups above an absent one are made now. Of a node in `known`, the root of a store whose attributes the writer knew as
    these, it is written what the writer changes: see :func:`merge_root`.
    """
    merged: dict[str, dict[str, Any]] = {}
    for path, attributes in changes:
        document = merged.get(path) or read_document(objects, path)
        if document is None:
            ensure_groups(objects, [path.rpartition("/")[0]] if path else [])
            document = {"zarr_format": 3, "node_type": "group", "attributes": {}}
        now = {} if replace else document.get("attributes", {})
        new = merge_root(now, known[path], attributes) if known and path in known else {**now, **attributes}
        merged[path] = {**_alone(document), "attributes": new}
    return [(join(path, DOCUMENT), dump_json(document)) for path, document in merged.items()]


def put_documents(objects: Objects, documents: Sequence[tuple[str, bytes]]) -> None:
    """Store documents and objects all at once; where the store wants nodes first, one after the other."""
    if objects.nodes_first:
        objects.put_many([documents])
    else:
        objects.put_all(documents)


def storing_order(objects: Objects, document: T, contents: T) -> tuple[T, T]:
    """Return a node's document and its contents as they are stored: the document last, but where a transaction shows both."""
    return (document, contents) if objects.nodes_first else (contents, document)


def announce_array(objects: Objects, path: str, document: bytes) -> None:
    """Store an array's document before its chunks, where the store wants that; who calls stores another after them."""
    if objects.nodes_first:
        ensure_groups(objects, [path.rpartition("/")[0]])
        objects.put(join(path, DOCUMENT), document)


def load_catalog(objects: Objects, prefix: str) -> Catalog | None:
    """Return the catalog of the group at `prefix`, None where it has none."""
    path = join(prefix, CATALOG_NAME)
    payload = objects.get(f"{path}/c/0")
    return None if payload is None else decode_catalog(payload, store=objects.url, array=path)


def catalog_objects(prefix: str, catalog: Catalog) -> list[tuple[str, bytes]]:
    """Return the objects of a group's catalog, document and content: readers ask for the content alone."""
    payload, path = encode_catalog(catalog), join(prefix, CATALOG_NAME)
    return [(join(path, DOCUMENT), blob_document(len(payload))), (f"{path}/c/0", payload)]


def put_catalog(objects: Objects, prefix: str, catalog: Catalog) -> None:
    """Store a group's catalog."""
    put_documents(objects, storing_order(objects, *catalog_objects(prefix, catalog)))


def drop_copies(objects: Objects, nodes: Iterable[str]) -> set[str]:
    """Remove consolidated metadata from nodes that change and all groups above; return their paths in the store."""
    groups = sorted({above for node in nodes for above in ancestors(node)})
    for path, found in zip(groups, objects.get_many([(join(p, DOCUMENT), None) for p in groups]), strict=True):
        _drop_copy(objects, path, found)
    _drop_copies_outside(objects)
    return set(groups)


def _drop_copy(objects: Objects, path: str, found: bytes | None) -> None:
    if found is not None and CONSOLIDATED.encode() in found:
        document = parse_document(found, path, objects.url)
        if document["node_type"] == "group" and document.get(CONSOLIDATED) is not None:
            objects.put(join(path, DOCUMENT), dump_json(_alone(document)))


def _drop_copies_outside(objects: Objects) -> None:
    """Remove consolidated metadata from the groups that the store lies in, up to a folder that is none; warn if not allowed."""
    outer = objects.above()
    while outer is not None:
        try:
            found = outer.get(DOCUMENT)
        except StoreError:  # what may not be looked at is no group that this user reads stores through
            return
        if found is None:
            return
        try:
            _drop_copy(outer, "", found)
        except StoreError as error:
            warnings.warn(f"consolidated metadata of a group above is out of date now: {error}", ZVWarning, stacklevel=2)
        outer = outer.above()


def drop_catalogs(objects: Objects, nodes: Iterable[str], *, keep: str | None = None, in_turn: bool = False) -> None:
    """Remove the catalogs that speak of any of these nodes: of all groups above them, and of themselves.

    Consolidated metadata of these groups goes as well. A commit that is under way may be about to write a catalog of what it
    saw before: `in_turn` waits for it, which only callers may who hold no lock.
    The catalog of the group `keep` stays.
    """
    above = drop_copies(objects, nodes)
    groups = sorted(above - {keep})
    names = [f"{CATALOG_NAME}/{DOCUMENT}", *([LOCK_NAME] if in_turn and not objects.nodes_first else [])]
    found_of = objects.get_many([(join(group, name), None) for group in groups for name in names])
    for i, group in enumerate(groups):
        if all(found is None for found in found_of[i * len(names) : (i + 1) * len(names)]):
            continue
        with commit_lock(objects, group) if in_turn else nullcontext():
            path = join(group, CATALOG_NAME)
            objects.delete(f"{path}/c/0")  # first: this is the object that readers ask for
            objects.delete_prefix(path)


class Attributes(Mapping[str, Any]):
    """The attributes of a group, read from the store at each access.

    numpy scalars and arrays, tuples and nested mappings are stored as JSON values.
    """

    def __init__(self, objects: Objects, path: str, above: Sequence[str] = ()) -> None:
        self._objects = objects
        self._path = path
        self._above = above

    def to_dict(self) -> dict[str, Any]:
        """Return all attributes: one read of the document."""
        document = read_document(self._objects, self._path)
        return {} if document is None else dict(document.get("attributes", {}))

    def __getitem__(self, key: str) -> Any:
        return self.to_dict()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.update({key: value})

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key in self.to_dict()

    def __iter__(self) -> Iterator[str]:
        return iter(self.to_dict())

    def __len__(self) -> int:
        return len(self.to_dict())

    def update(self, other: Mapping[str, Any]) -> None:
        """Merge `other` into the attributes.

        Raises
        ------
        TypeError
            JSON can't hold a value; the message names its key, and nothing is stored.
        """
        names: list[object] = list(other)
        if not all(isinstance(name, str) for name in names):
            raise TypeError(f"the names of attributes are strings, not all of {names}")
        update_attributes(self._objects, self._path, {str(k): to_json(v, k) for k, v in other.items()}, self._above)

    def __repr__(self) -> str:
        return f"Attributes({self.to_dict()!r})"


def check_array_name(array: str) -> str:
    """Return `array` if it may be the path of an array of blobs below a group, else raise."""
    check_name(array, "array name")
    if any(part.startswith("dask_zv_") for part in array.split("/")):
        raise InvalidNameError(f"array name {array!r}: names that begin with 'dask_zv_' are reserved")
    return array


def merge_root(now: Mapping[str, Any], known: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of a store's root with what a writer changes of them: the rest stays as it is by now.

    Bounds that were declared, by this writer or by another since, are never taken back: they become those of both.

    `now`: as they are stored; `known`: as the writer has read them; `wanted`: as the writer wants them.
    """
    out = _merge_changes(now, known, wanted)
    settings, stored, asked = (_mapping(a) for a in (out.get(SETTINGS), now.get("zarr_vectors"), wanted.get("zarr_vectors")))
    if _mapping(now.get(SETTINGS)).get("bounds") == "declared":
        out[SETTINGS] = settings = {**settings, "bounds": "declared"}
    if settings.get("bounds", "declared") == "declared" and "bounds" in stored and "bounds" in asked:
        both = np.array([stored["bounds"], asked["bounds"]], np.float64)
        bounds = [both[:, 0].min(axis=0).tolist(), both[:, 1].max(axis=0).tolist()]
        out["zarr_vectors"] = {**out["zarr_vectors"], "bounds": bounds}
    return out


def _merge_changes(
    now: Mapping[str, Any], known: Mapping[str, Any], wanted: Mapping[str, Any], *, whole: bool = False
) -> dict[str, Any]:
    """Return what is stored with the changes; where `wanted` is the `whole` of a mapping, what it leaves out is one, too."""
    out = dict(now)
    for key, value in wanted.items():
        there, before = now.get(key), known.get(key)
        if isinstance(value, Mapping) and isinstance(there, Mapping):
            out[key] = _merge_changes(there, _mapping(before), value, whole=whole or key == "zarr_vectors")
        elif key not in now or key not in known or value != before:
            out[key] = value
    for key in set(known) - set(wanted) if whole else ():
        if out.get(key) == known[key]:
            del out[key]
    return out


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
