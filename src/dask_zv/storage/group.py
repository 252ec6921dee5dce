"""The Group without batches: nodes, attributes and single blobs, over any zarr store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import zarr
from zarr.storage import StorePath

from dask_zv.errors import NotFoundError, StoreError
from dask_zv.format.documents import WrongKindError, parse_document, to_json
from dask_zv.format.grids import parse_grid_document
from dask_zv.format.keys import DOCUMENT, SHARD_PREFIX, check_chunk_key, check_name, is_chunk_key, is_name, join
from dask_zv.storage.grid.read import GridArrays
from dask_zv.storage.handles import StoreHandle, open_objects, open_objects_later
from dask_zv.storage.layout import detect_layout, layout_for, open_blobs
from dask_zv.storage.local import LocalObjects
from dask_zv.storage.nodes import (
    Attributes,
    as_bytes,
    check_array_name,
    drop_catalogs,
    drop_copies,
    ensure_groups,
    holds_nodes,
    kind_of,
    load_catalog,
    read_document,
)
from dask_zv.storage.objects import Objects, place_url
from dask_zv.storage.per_chunk.read import PerChunk
from dask_zv.storage.specs import LayoutName
from dask_zv.storage.targets import resolve_target


class Backend:
    """A handle on a group's store: its `url`, and `close()`."""

    def __init__(self, handle: StoreHandle) -> None:
        self.handle = handle

    @property
    def url(self) -> str:
        """Where the store is, without secrets."""
        return self.handle.url

    def close(self) -> None:
        """Do nothing: open stores are shared by the process and end with it."""

    def __repr__(self) -> str:
        return f"Backend({self.url!r})"


class NodeGroup:
    """One group of a Zarr hierarchy: its children, attributes and blobs, one at a time.

    Parameters
    ----------
    zarr_group : zarr.Group
        The group to wrap; nothing is read.
    """

    def __init__(self, zarr_group: zarr.Group) -> None:
        handle, prefix = resolve_target(zarr_group, read_only=zarr_group.read_only)
        self._attach(handle, open_objects(handle), prefix)

    def _attach(self, handle: StoreHandle, objects: Objects, prefix: str, layout: LayoutName | None = None) -> None:
        self._handle = handle
        self._objects = objects
        self._prefix = prefix
        self._layout = layout
        self._catalog_known = False
        self._above: tuple[str, ...] = ()  # groups that it was got through: their batches write the attributes of this one, too

    @classmethod
    def _from_handle(cls, handle: StoreHandle, prefix: str, layout: LayoutName | None = None) -> Self:
        group = cls.__new__(cls)
        group._attach(handle, open_objects(handle), prefix, layout)
        return group

    @property
    def layout(self) -> LayoutName:
        """How the group's arrays are stored, ``"grid"`` (ZV 0.9) or ``"per_chunk"`` (ZV 0.7).

        Found from the store's metadata; ``"per_chunk"`` where that says nothing.

        Raises
        ------
        MetadataError
            The store is of a version that is not read.
        """
        if self._layout is None:
            self._layout = detect_layout(self._objects, self._prefix) or "per_chunk"
        return self._layout

    @cached_property
    def _blobs(self) -> PerChunk | GridArrays:
        return open_blobs(self._objects, self._prefix, self.layout)

    @classmethod
    def from_backend(cls, handle: Backend, prefix: str = "") -> Self:
        """Return a writable group at `prefix` of a backend's store, also where that was opened read-only."""
        if prefix:
            check_name(prefix, "prefix")
        return cls._from_handle(handle.handle.with_read_only(False), prefix)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._handle.is_session:  # tasks of ours may carry its handle, where they stay in this process
            raise self._handle.out_of_reach()
        return _restore_group, (type(self), self._handle, self._prefix, self._layout, self._above)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    # ------------------------------------------------------------------------------------------ where

    @property
    def url(self) -> str:
        """URL of the group; a store's name for stores without one. Never with secrets."""
        if isinstance(self._objects, LocalObjects):
            return self.path.as_uri()
        return place_url(self._objects.url, self._prefix)

    @property
    def prefix(self) -> str:
        """Path of the group inside its store."""
        return self._prefix

    @property
    def path(self) -> Path:
        """Directory of the group, for a local store.

        Raises
        ------
        StoreError
            The store isn't a local directory; use :attr:`url`.
        """
        if not isinstance(self._objects, LocalObjects):
            raise StoreError(f"{self.url} is no local directory and has no path: use .url", store=self._objects.url)
        return Path(self._objects.root) / self._prefix

    @property
    def zarr_group(self) -> zarr.Group:
        """The wrapped :class:`zarr.Group`."""
        store = self._objects.zarr_store()
        mode: Literal["r", "r+"] = "r" if self._objects.read_only else "r+"
        try:
            # consolidated metadata may be older than what was written since
            return zarr.open_group(store, path=self._prefix, mode=mode, zarr_format=3, use_consolidated=False)
        except FileNotFoundError:  # a group that its writer left without a document (FORMAT.md A.1)
            return zarr.Group(zarr.AsyncGroup.from_dict(StorePath(store, self._prefix), {"zarr_format": 3}))

    @property
    def backend(self) -> Backend:
        """A small handle on the store."""
        return Backend(self._handle)

    @property
    def attrs(self) -> Attributes:
        """The group's attributes."""
        return Attributes(self._objects, self._prefix, self._above)

    # ------------------------------------------------------------------------------------------ children

    def _child(self, name: str) -> Self:
        child = type(self)._from_handle(self._handle, join(self._prefix, name), self._layout)
        child._above = (self._prefix, *self._above)
        return child

    def require_group(self, name: str) -> Self:
        """Return the sub-group `name`, made where it is absent."""
        check_name(name, "group name")
        ensure_groups(self._objects, [join(self._prefix, name)])
        return self._child(name)

    def create_group(self, name: str) -> Self:
        """Return the sub-group `name`; an existing one is returned unchanged, as by :meth:`require_group`."""
        return self.require_group(name)

    def __getitem__(self, key: str) -> Self:
        check_name(key, "group name")
        path = join(self._prefix, key)
        document = read_document(self._objects, path)
        if document is None and not holds_nodes(self._objects, path):
            raise NotFoundError(f"group {key!r} not found under '/{self._prefix}'", store=self._objects.url)
        if document is not None and document["node_type"] != "group":
            raise NotFoundError(f"'/{path}' is an Array, not a group: read it through zarr_group", store=self._objects.url)
        return self._child(key)

    def __contains__(self, key: object) -> bool:
        """Return True if there is such a node; no name that none can have, whatever its type, is one."""
        if not is_name(key) or any(part.startswith(SHARD_PREFIX) for part in key.split("/")):
            return False
        path = join(self._prefix, key)
        return self._objects.exists(join(path, DOCUMENT)) or holds_nodes(self._objects, path)

    def __iter__(self) -> Iterator[str]:
        names = [name for name in self._objects.list_dir(self._prefix) if name != DOCUMENT]
        paths = [join(self._prefix, name) for name in names]
        documents = self._objects.get_many([(join(path, DOCUMENT), None) for path in paths])
        for name, path, document in zip(names, paths, documents, strict=True):
            if document is None:
                found = holds_nodes(self._objects, path)
            else:
                found = parse_document(document, path, self._objects.url)["node_type"] == "group"
            if found:
                yield name

    def delete_subtree(self, name: str) -> None:
        """Remove a child and all below it; nothing happens where there is none."""
        check_name(name)
        path = join(self._prefix, name)
        self._drop_catalogs(path)
        self._objects.delete_prefix(path)
        self._blobs.forget()

    # ------------------------------------------------------------------------------------------ arrays

    def write_array_meta(self, array: str, meta: Mapping[str, Any]) -> None:
        """Merge `meta` into the attributes of the array's node, made where it is absent."""
        check_array_name(array)
        values = to_json(meta, array)
        drop_copies(self._objects, [join(self._prefix, array).rpartition("/")[0]])
        layout_for(self.layout).write_meta(self._objects, self._prefix, array, values)
        self._blobs.forget(array)

    def read_array_meta(self, array: str) -> dict[str, Any]:
        """Return the attributes of the array's node, ``{}`` where it is absent."""
        check_name(array, "array name")
        document = read_document(self._objects, join(self._prefix, array))
        return {} if document is None else dict(document.get("attributes", {}))

    def array_exists(self, array: str) -> bool:
        """Tell whether the array has a node."""
        return array in self

    # ------------------------------------------------------------------------------------------ blobs

    def write_bytes(self, array: str, chunk_key: str, data: Any) -> None:
        """Store one blob, in place of an earlier one of any length.

        Parameters
        ----------
        array : str
            Path of the array below this group; made where it is absent.
        chunk_key : str
            ``"0.1.2"``, or (layout ``per_chunk``) a literal name such as ``"data"``.
        data : bytes-like or C-contiguous ndarray
            In layout ``grid`` an empty one makes the chunk absent: its cells can't tell the two apart.

        Raises
        ------
        BoundsError
            The array's grid (layout ``grid``) has no such cell.
        StoreError
            Nothing says which grid an absent array is to have.
        """
        check_array_name(array)
        check_chunk_key(chunk_key)
        payload = as_bytes(data, join(self._prefix, array), chunk_key)
        layout_for(self.layout).write(self._objects, self._prefix, array, chunk_key, payload)
        self._blobs.catalog = None
        self._catalog_known = True
        self._blobs.forget(array)

    def read_bytes(self, array: str, chunk_key: str) -> bytes:
        """Return exactly the bytes that were written.

        Raises
        ------
        NotFoundError
            No such blob.
        StoreError, FormatError
            A node of another kind is there, or its data object is missing, short or damaged.
        """
        check_name(array, "array name")
        check_chunk_key(chunk_key)
        try:
            return self._reader().read(array, chunk_key)
        except NotFoundError:
            path = join(self._prefix, array)
            document = read_document(self._objects, path)
            if document is None or self._holds_chunks(document, path):
                raise
            text = f"'/{path}' is {kind_of(document)}, not an array of chunks: read it through zarr_group"
        raise WrongKindError(text, store=self._objects.url, array=path, chunk=chunk_key)

    def _holds_chunks(self, document: Mapping[str, Any], path: str) -> bool:
        """Return True if a node is such that chunks lie below it: an array of the grid, or a group of blobs."""
        if self.layout == "per_chunk":
            return bool(document["node_type"] == "group")
        return parse_grid_document(document, path, self._objects.url) is not None

    def chunk_exists(self, array: str, chunk_key: str) -> bool:
        """Return True if a blob is there, in a shard or by itself; False for names that no blob can have."""
        return is_name(array) and is_chunk_key(chunk_key) and self._lister().exists(array, chunk_key)

    def list_chunks(self, array: str) -> list[str]:
        """Return the keys of an array's blobs in numeric order; ``[]`` for an absent array."""
        check_name(array, "array name")
        return self._lister().list_keys(array)

    # ------------------------------------------------------------------------------------------ catalog

    def _reader(self) -> PerChunk | GridArrays:
        if not self._catalog_known:
            self._blobs.catalog = load_catalog(self._objects, self._prefix)
            self._catalog_known = True
        return self._blobs

    def _lister(self) -> PerChunk | GridArrays:
        """Return the blobs for a question of what there is now: what is remembered of documents is looked at again."""
        if self.layout == "per_chunk":
            return self._blobs
        blobs = self._reader()
        blobs.forget()
        return blobs

    def _drop_catalogs(self, path: str) -> None:
        self._blobs.catalog = None
        self._catalog_known = True
        drop_catalogs(self._objects, [path], in_turn=True)


def _restore_group(
    cls: type[NodeGroup], handle: StoreHandle, prefix: str, layout: LayoutName | None, above: tuple[str, ...]
) -> NodeGroup:
    group = cls.__new__(cls)
    group._attach(handle, open_objects_later(handle), prefix, layout)
    group._above = above
    return group
