"""Opening and making the root of a store, with an error for everything that isn't one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

from dask_zv.errors import InputError, MetadataError, NotFoundError, ReadOnlyError, StoreError
from dask_zv.format.documents import group_document, parse_document
from dask_zv.format.keys import DOCUMENT, join
from dask_zv.format.metadata import detect_generation
from dask_zv.storage.handles import StoreHandle, open_objects
from dask_zv.storage.icechunk.session import is_in_memory
from dask_zv.storage.local import LocalObjects
from dask_zv.storage.objects import Objects, together
from dask_zv.storage.targets import resolve_target

Mode = Literal["r", "r+", "a", "w", "w-"]
_LEVEL_NAMES = frozenset(
    {"vertices", "vertex_fragments", "vertex_attributes", "object_index", "object_attributes", "groups", "group_attributes",
     "links", "link_fragments", "link_attributes", "cross_chunk_links", "cross_chunk_link_attributes", "edges", "parametric"}
)  # fmt: skip
"""What a level holds."""
_GEOZARR = {"zarr_conventions", "proj", "spatial", "geo", "grid_mapping"}
"""How attributes of GeoZarr are called, before a colon."""
_MOST_NAMES, _MOST_LOOKED = 10_000, 20
"""Names beside a path, and nodes below it, that an error looks at."""
_ONE_SLASH = re.compile(r"(s3a?|gs|gcs|az|abfss?|https?|file|memory):/(?!/)(.*)", re.DOTALL)
_V2_DOCUMENTS = (".zgroup", ".zarray", ".zattrs", ".zmetadata")


def open_root(
    target: object,
    mode: str,
    storage_options: Mapping[str, Any] | None = None,
    *,
    must_exist: bool = False,
    peek: Callable[[Objects, str], bytes | None] | None = None,
) -> tuple[StoreHandle, str, dict[str, Any]]:
    """Open the group at a target.

    `target`: see :func:`dask_zv.storage.targets.resolve_target`; `mode`: "r" reads what is there; "r+" and "a" write, and make
    a group where the target is empty; "w" empties the target first; "w-" refuses a target that holds anything; `must_exist`:
    make nothing, whatever the mode; `peek`: reads the group's document, called with the objects and the path: for who wants
    other objects at the same time. Returns handle, prefix, attributes: the store, the group's path in it, and the group's
    attributes.
    """
    if mode not in get_args(Mode):
        raise InputError(f"mode {mode!r} is not one of {', '.join(get_args(Mode))}")
    _check_slashes(target)
    handle, prefix = resolve_target(target, storage_options, read_only=mode == "r")
    objects = open_objects(handle)
    if mode != "r" and objects.read_only:
        raise ReadOnlyError(f"mode {mode!r} writes, but this store is read-only: use mode='r'", store=objects.url)
    document = objects.get(join(prefix, DOCUMENT)) if peek is None else peek(objects, prefix)
    if document is None:
        _refuse_other_things(objects, prefix, "r" if must_exist else mode)
        if must_exist:  # nodes without a root
            raise StoreError(_what_nodes(objects, prefix), store=join(objects.url, prefix))
    attributes: dict[str, Any] = {}
    if document is not None and mode == "w-":
        raise StoreError("the target holds a Zarr hierarchy already: use mode='r+' to add to it, 'w' to replace it",
                         store=join(objects.url, prefix))  # fmt: skip
    if document is not None and mode == "w":
        _remove_all(objects, prefix)
        document = None
    if document is not None:
        parsed = parse_document(document, prefix, objects.url)
        if parsed["node_type"] != "group":
            raise StoreError(f"'/{prefix}' is an Array, not a group: zarr.open_array opens it", store=objects.url)
        attributes = dict(parsed.get("attributes", {}))
        _check_version(attributes, objects.url)
        if must_exist and "zarr_vectors" not in attributes:
            raise MetadataError(_what_group(objects, prefix, attributes), store=join(objects.url, prefix))
    elif mode != "r" and not must_exist:
        objects.put(join(prefix, DOCUMENT), group_document({}))
    return handle, prefix, attributes


def open_empty(
    target: object, storage_options: Mapping[str, Any] | None = None, *, overwrite: bool = False, keep: bool = False
) -> tuple[StoreHandle, str, dict[str, Any] | None]:
    """Open a target to make a store in it; nothing is written yet, but with `overwrite` what is there is removed.

    With `keep` a store that is there is returned, as the attributes of its root, where it is an error without.
    """
    _check_slashes(target)
    handle, prefix = resolve_target(target, storage_options, read_only=False)
    objects = open_objects(handle)
    if objects.read_only:
        raise ReadOnlyError("this store is read-only: no new store can be made in it", store=objects.url)
    document, names = together(objects, lambda: objects.get(join(prefix, DOCUMENT)), lambda: objects.list_dir(prefix))
    if document is None and overwrite and _is_cut(objects, prefix, names):
        objects.delete_prefix(prefix)
    elif document is None:
        _refuse_other_things(objects, prefix, "w-" if names else "w")
    else:
        attributes = parse_document(document, prefix, objects.url).get("attributes", {})
        if not overwrite and (attributes or any(n != DOCUMENT for n in names)):
            if keep:
                return handle, prefix, dict(attributes)
            raise StoreError(
                "the target holds a store already: pass overwrite=True to replace it, or dzv.open(..., mode='r+') to add to it",
                store=join(handle.url, prefix),
            )
        if overwrite:
            _remove_all(objects, prefix)
    return handle, prefix, None


def _check_slashes(target: object) -> None:
    """Raise :class:`InputError` for a URL that has lost a slash, as in a ``pathlib.Path``: it would be a local folder."""
    found = _ONE_SLASH.match(str(target)) if isinstance(target, str | Path) else None
    if found is not None:
        url = f"{found[1]}://{'/' if found[1] == 'file' else ''}{found[2]}"
        raise InputError(f"'{target}' is neither a path nor a URL: did you mean '{url}', as a string?")


def _remove_all(objects: Objects, prefix: str) -> None:
    """Remove a store, its root document last: where that is cut, what is left is a store still, and can be removed again."""
    if not objects.nodes_first:  # a transaction is not cut
        for name in objects.list_dir(prefix):
            if name != DOCUMENT:
                objects.delete_prefix(join(prefix, name))
    objects.delete_prefix(prefix)


def _is_cut(objects: Objects, prefix: str, names: Sequence[str]) -> bool:
    """Return True if what is here are levels of a store whose root is gone, as a deletion that was cut leaves them."""
    if not names or not all(name.isdecimal() for name in names):
        return False
    for name in names:
        found = {n for n in objects.list_dir(join(prefix, name)) if not n.startswith("dask_zv_")} - {DOCUMENT}
        document = objects.get(join(prefix, name, DOCUMENT)) or b""
        told = b'"zarr_vectors_level"' in document or found & {"vertices", "vertex_fragments", "vertex_attributes"}
        if not told or not found <= _LEVEL_NAMES:
            return False
    return True


def lacks_root(objects: Objects, prefix: str) -> bool:
    """Return True if levels of a store are at a path, and the document of its root is not."""
    return objects.get(join(prefix, DOCUMENT)) is None and _is_cut(objects, prefix, objects.list_dir(prefix))


def _check_version(attributes: Mapping[str, Any], store: str) -> None:
    """Raise :class:`MetadataError` where a root's attributes are of a version that isn't read."""
    root = attributes.get("zarr_vectors")
    if isinstance(root, Mapping):
        try:
            detect_generation(root)
        except MetadataError as error:
            raise error.at(store=store) from None


def _refuse_other_things(objects: Objects, prefix: str, mode: str) -> None:
    """Raise unless a target without a document may be opened in `mode`."""
    names = objects.list_dir(prefix)  # raises where the bucket is missing
    where = join(objects.url, prefix)
    old = [n for n in names if n in _V2_DOCUMENTS]
    if old:
        raise StoreError(
            f"a Zarr v2 hierarchy (it has {old[0]}): Zarr Vectors is Zarr v3; convert it, or open it by zarr.open",
            store=where,
        )
    if not names:
        if mode == "r":
            raise NotFoundError(_what_nothing(objects, prefix), store=where)
        return
    if "snapshots" in names and {"repo", "refs", "manifests"} & set(names):
        raise StoreError(
            "an Icechunk repository: open a session of it, repo.readonly_session('main'), and pass that as the target",
            store=where,
        )
    if not objects.any_below(prefix, f"/{DOCUMENT}"):
        shown = ", ".join(repr(n) for n in names[:3])
        raise StoreError(
            f"not a Zarr hierarchy, but something else ({shown}{', …' if len(names) > 3 else ''}): pass the directory of a "
            "store, or an empty directory",
            store=where,
        )
    if mode in ("w", "w-"):
        raise StoreError("there are nodes without a root group: empty the target by hand first", store=where)


def _what_nothing(objects: Objects, prefix: str) -> str:
    """Say that nothing is at a target, and what of a similar name is beside it."""
    if isinstance(objects, LocalObjects) and not prefix:
        path = Path(objects.root)
        if path.is_dir():
            return "the folder is empty: dzv.create makes a store in it"
        if path.exists():
            return "nothing is here that could be a store: neither a folder nor a file; check the path"
        name, beside = path.name, _names_in(path.parent)
    else:
        above, _, name = prefix.rpartition("/")
        beside = [n for n in objects.list_dir(above) if n != DOCUMENT] if prefix else []
    stems = [n for n in beside if n.partition(".")[0] == name.partition(".")[0]]
    near = list(dict.fromkeys([*stems, *get_close_matches(name, beside, n=1)]))[:2]
    meant = f"did you mean {' or '.join(map(repr, near))}? Else " if near else ""
    return f"nothing is here: {meant}check the path, or create the store first"


def _names_in(folder: Path) -> list[str]:
    """Return the names in a folder that a store may have; none where it may not be looked at."""
    try:
        return sorted(p.name for p in islice(folder.iterdir(), _MOST_NAMES) if p.is_dir() or p.suffix == ".zip")
    except OSError:
        return []


def _what_nodes(objects: Objects, prefix: str) -> str:
    """Say what nodes are that have no group above them."""
    names = objects.list_dir(prefix)
    if _is_cut(objects, prefix, names):
        return (
            "levels of a store are here, and its root document is not: a copy (dzv.convert) or a deletion is under way, or was "
            "cut; run it again with overwrite=True"
        )
    stores = _stores_in(objects, prefix, names)
    return f"a folder, not a store: {stores or 'it has no zarr.json of its own; give the path of a store'}"


def _what_group(objects: Objects, prefix: str, attributes: Mapping[str, Any]) -> str:
    """Say what a Zarr group is that is no Zarr Vectors store, and what opens it."""
    what = "a Zarr group, but no Zarr Vectors store: "
    if "zarr_vectors_level" in attributes:
        number = join(objects.url, prefix).rpartition("/")[2]
        return f"{what}it is level {number} of one; dzv.open the folder above, and take .level({number})"
    names = [n for n in objects.list_dir(prefix) if n != DOCUMENT]
    if names and _is_cut(objects, prefix, names):
        return f"{what}the root document of one without its metadata; restore it, or write the store again"
    if stores := _stores_in(objects, prefix, names):
        return f"{what}{stores}"
    documents = [_document(objects, join(prefix, n)) for n in names[:_MOST_LOOKED]]
    arrays = [n for n, d in zip(names, documents, strict=False) if d.get("node_type") == "array"]
    with_axes = any(d.get("dimension_names") for d in documents)
    if {"ome", "multiscales"} & attributes.keys():
        return f"{what}an OME-Zarr image, by its attributes {sorted(attributes)}; zarr.open_group opens it"
    if any(str(k).partition(":")[0] in _GEOZARR for k in attributes):
        return f"{what}GeoZarr, by its attributes {sorted(attributes)}; xarray.open_zarr (or open_datatree) opens it"
    if arrays and with_axes:
        return f"{what}a Dataset of the arrays {', '.join(map(repr, arrays[:3]))}; xarray.open_zarr opens it"
    inside = f"it has {', '.join(map(repr, names[:3]))}{', …' if len(names) > 3 else ''}" if names else "it is empty"
    has = f"the attributes {sorted(attributes)}" if attributes else "no attributes"
    return f"{what}{inside}, and {has}; zarr.open_group opens it"


def _document(objects: Objects, path: str) -> Mapping[str, Any]:
    data = objects.get(join(path, DOCUMENT))
    return {} if data is None else parse_document(data, path, objects.url)


def _stores_in(objects: Objects, prefix: str, names: Sequence[str]) -> str:
    """Say which of the nodes directly below a path are stores; nothing where none is."""
    looked = [n for n in names if n != DOCUMENT][:_MOST_LOOKED]
    found = [n for n in looked if "zarr_vectors" in _document(objects, join(prefix, n)).get("attributes", {})]
    several = f"stores {', '.join(map(repr, found[:3]))}{', …' if len(found) > 3 else ''}: give one of them"
    return f"it holds the {several}" if len(found) > 1 else f"it holds the store {found[0]!r}: give that" if found else ""


def objects_are_cheap(handle: StoreHandle) -> bool:
    """Return True if a store takes many small objects as fast as few large ones: a local directory, or memory.

    An Icechunk repository does not, wherever it lies: every chunk is an object and an entry of its manifests.
    """
    return isinstance(open_objects(handle), LocalObjects) or is_in_memory(handle)
