"""Opening and making the root of a store, with an error for everything that isn't one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    handle, prefix = resolve_target(target, storage_options, read_only=mode == "r")
    objects = open_objects(handle)
    if mode != "r" and objects.read_only:
        raise ReadOnlyError(f"mode {mode!r} writes, and this store can only be read: use mode='r'", store=objects.url)
    document = objects.get(join(prefix, DOCUMENT)) if peek is None else peek(objects, prefix)
    if document is None:
        _refuse_other_things(objects, prefix, "r" if must_exist else mode)
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
            raise StoreError(f"'/{prefix}' is an Array, not a group", store=objects.url)
        attributes = dict(parsed.get("attributes", {}))
        _check_version(attributes, objects.url)
    elif mode != "r" and not must_exist:
        objects.put(join(prefix, DOCUMENT), group_document({}))
    return handle, prefix, attributes


def open_empty(
    target: object, storage_options: Mapping[str, Any] | None = None, *, overwrite: bool = False
) -> tuple[StoreHandle, str]:
    """Open a target to make a store in it; nothing is written yet, but with `overwrite` what is there is removed."""
    handle, prefix = resolve_target(target, storage_options, read_only=False)
    objects = open_objects(handle)
    if objects.read_only:
        raise ReadOnlyError("this store can only be read: a new one can't be made in it", store=objects.url)
    document, names = together(objects, lambda: objects.get(join(prefix, DOCUMENT)), lambda: objects.list_dir(prefix))
    if document is None and overwrite and _is_cut(objects, prefix, names):
        objects.delete_prefix(prefix)
    elif document is None:
        _refuse_other_things(objects, prefix, "w-" if names else "w")
    else:
        attributes = parse_document(document, prefix, objects.url).get("attributes", {})
        if not overwrite and (attributes or any(n != DOCUMENT for n in names)):
            raise StoreError(
                "the target holds a store already: pass overwrite=True to replace it, or dzv.open(..., mode='r+') to add to it",
                store=join(handle.url, prefix),
            )
        if overwrite:
            _remove_all(objects, prefix)
    return handle, prefix


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
            f"a Zarr v2 hierarchy (it has {old[0]}): Zarr Vectors is Zarr v3; convert it, or give another target",
            store=where,
        )
    if not names:
        if mode == "r":
            raise NotFoundError("nothing is here: check the path, or create the store first", store=where)
        return
    if not objects.any_below(prefix, f"/{DOCUMENT}"):
        shown = ", ".join(repr(n) for n in names[:3])
        raise StoreError(
            f"no Zarr hierarchy, but something else ({shown}{', …' if len(names) > 3 else ''}): give the directory of "
            "a store, or an empty one",
            store=where,
        )
    if mode in ("w", "w-"):
        raise StoreError("nodes are here without a root group: empty the target by hand first", store=where)


def objects_are_cheap(handle: StoreHandle) -> bool:
    """Return True if a store takes many small objects as fast as few large ones: a local directory, or memory.

    An Icechunk repository does not, wherever it lies: every chunk is an object and an entry of its manifests.
    """
    return isinstance(open_objects(handle), LocalObjects) or is_in_memory(handle)
