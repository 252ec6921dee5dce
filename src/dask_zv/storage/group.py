"""The Group without batches: nodes, attributes and single blobs, over any zarr store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import zarr

from dask_zv.errors import MetadataError, NotFoundError, StoreError
from dask_zv.format.documents import dump_json, group_document, parse_document, to_json
from dask_zv.format.keys import DOCUMENT, check_chunk_key, check_name
from dask_zv.storage.catalog import CATALOG_NAME, Catalog, decode_catalog
from dask_zv.storage.handles import StoreHandle, open_objects
from dask_zv.storage.objects import BytesLike, LocalObjects, Objects, ZarrObjects, join
from dask_zv.storage.per_chunk import PerChunk
from dask_zv.storage.targets import resolve_target

__all__ = ["Attributes", "Backend", "NodeGroup", "as_bytes", "ensure_groups", "load_catalog", "merge_attributes"]


def as_bytes(data: object, array: str, chunk: str) -> BytesLike:
    """Return a blob's payload as something with a length in bytes.

    Raises
    ------
    StoreError
        Neither bytes-like nor a C-contiguous numpy array.
    """
    if isinstance(data, bytes):
        return data
    if isinstance(data, np.ndarray):
        if not data.flags.c_contiguous or data.dtype.hasobject:
            raise StoreError(
                "a numpy payload must be C-contiguous and hold no Python objects: pass numpy.ascontiguousarray(data)",
                array=array, chunk=chunk,
            )  # fmt: skip
        return data.tobytes()
    if isinstance(data, bytearray | memoryview):
        return bytes(data)
    raise StoreError(
        f"a payload is bytes-like or a C-contiguous numpy array, not {type(data).__name__}", array=array, chunk=chunk
    )


def _read_document(objects: Objects, path: str) -> dict[str, Any] | None:
    data = objects.get(join(path, DOCUMENT))
    return None if data is None else parse_document(data, path, objects.url)


def _holds_nodes(objects: Objects, path: str) -> bool:
    """Tell whether a path without a document of its own has nodes below it (0.7 writers leave groups so)."""
    return objects.any_below(path, f"/{DOCUMENT}")


def ensure_groups(objects: Objects, paths: Iterable[str]) -> None:
    """Give every path, and all above it, the document of a group where there is none."""
    wanted: dict[str, None] = {}
    for path in paths:
        parts = path.split("/") if path else []
        wanted.update(dict.fromkeys("/".join(parts[:i]) for i in range(len(parts) + 1)))
    documents = objects.get_many([(join(p, DOCUMENT), None) for p in wanted])
    for path, document in zip(wanted, documents, strict=True):  # parents come before their children
        if document is None:
            objects.put(join(path, DOCUMENT), group_document({}))
        elif parse_document(document, path, objects.url)["node_type"] != "group":
            raise StoreError(f"'/{path}' is an Array: a group can't be made there", store=objects.url)


def merge_attributes(objects: Objects, path: str, attributes: Mapping[str, Any]) -> None:
    """Merge JSON values into the attributes of a node, which becomes a group where it is absent."""
    document = _read_document(objects, path)
    if document is None:
        ensure_groups(objects, [path.rpartition("/")[0]] if path else [])
        objects.put(join(path, DOCUMENT), group_document(attributes))
        return
    document["attributes"] = {**document.get("attributes", {}), **attributes}
    objects.put(join(path, DOCUMENT), dump_json(document))


def load_catalog(objects: Objects, prefix: str) -> Catalog | None:
    """Return the catalog of the group at `prefix`, None where it has none."""
    path = join(prefix, CATALOG_NAME)
    payload = objects.get(f"{path}/c/0")
    return None if payload is None else decode_catalog(payload, store=objects.url, array=path)


class Attributes:
    """The attributes of a group, read from the store at each access.

    numpy scalars and arrays, tuples and nested mappings are stored as JSON values.
    """

    def __init__(self, objects: Objects, path: str) -> None:
        self._objects = objects
        self._path = path

    def to_dict(self) -> dict[str, Any]:
        """Return all attributes: one read of the document."""
        document = _read_document(self._objects, self._path)
        return {} if document is None else dict(document.get("attributes", {}))

    def __getitem__(self, key: str) -> Any:
        return self.to_dict()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.update({key: value})

    def __contains__(self, key: object) -> bool:
        return key in self.to_dict()

    def __iter__(self) -> Iterator[str]:
        return iter(self.to_dict())

    def __len__(self) -> int:
        return len(self.to_dict())

    def get(self, key: str, default: Any = None) -> Any:
        """Return an attribute, `default` where there is none."""
        return self.to_dict().get(key, default)

    def update(self, other: Mapping[str, Any]) -> None:
        """Merge `other` into the attributes.

        Raises
        ------
        TypeError
            JSON can't hold a value; the message names its key, and nothing is stored.
        """
        values = to_json(other, "")
        merge_attributes(self._objects, self._path, values)

    def __repr__(self) -> str:
        return f"Attributes({self.to_dict()!r})"


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

    def _attach(self, handle: StoreHandle, objects: Objects, prefix: str) -> None:
        self._handle = handle
        self._objects = objects
        self._prefix = prefix
        self._blobs = PerChunk(objects, prefix)
        self._catalog_known = False
        self._groups_made: set[str] = set()

    @classmethod
    def _from_handle(cls, handle: StoreHandle, prefix: str) -> Self:
        group = cls.__new__(cls)
        group._attach(handle, open_objects(handle), prefix)
        return group

    @classmethod
    def from_backend(cls, handle: Backend, prefix: str = "") -> Self:
        """Return a writable group at `prefix` of a backend's store, also where that was opened read-only."""
        store = handle.handle
        if store.read_only:
            store = StoreHandle(store.kind, store.url, False, store.identity, store._payload)
        return cls._from_handle(store, prefix)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore_group, (type(self), self._handle, self._prefix)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    # ------------------------------------------------------------------------------------------ where

    @property
    def url(self) -> str:
        """URL of the group; a store's name for stores without one. Never with secrets."""
        return join(self._objects.url, self._prefix)

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
        if isinstance(self._objects, ZarrObjects):
            store: Any = self._objects.store
        else:
            store = zarr.storage.LocalStore(Path(self._objects.url.removeprefix("file://")), read_only=self._objects.read_only)
        return zarr.open_group(store, path=self._prefix, mode="r" if self._objects.read_only else "r+", zarr_format=3)

    @property
    def backend(self) -> Backend:
        """A small handle on the store."""
        return Backend(self._handle)

    @property
    def attrs(self) -> Attributes:
        """The group's attributes."""
        return Attributes(self._objects, self._prefix)

    # ------------------------------------------------------------------------------------------ children

    def _child(self, name: str) -> Self:
        return type(self)._from_handle(self._handle, join(self._prefix, name))

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
        document = _read_document(self._objects, path)
        if document is None and not _holds_nodes(self._objects, path):
            raise NotFoundError(f"no group {key!r} was found under '/{self._prefix}'", store=self._objects.url)
        if document is not None and document["node_type"] != "group":
            raise NotFoundError(f"'/{path}' is an Array, not a group: read it through zarr_group", store=self._objects.url)
        return self._child(key)

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, str):
            return False
        path = join(self._prefix, check_name(key))
        return self._objects.exists(join(path, DOCUMENT)) or _holds_nodes(self._objects, path)

    def __iter__(self) -> Iterator[str]:
        for name in self._objects.list_dir(self._prefix):
            if name == DOCUMENT:
                continue
            path = join(self._prefix, name)
            document = _read_document(self._objects, path)
            if document["node_type"] == "group" if document is not None else _holds_nodes(self._objects, path):
                yield name

    def delete_subtree(self, name: str) -> None:
        """Remove a child and all below it; nothing happens where there is none."""
        check_name(name)
        if name != CATALOG_NAME:
            self._drop_catalog()
        self._objects.delete_prefix(join(self._prefix, name))
        self._blobs.forget()
        self._groups_made.clear()

    # ------------------------------------------------------------------------------------------ arrays

    def write_array_meta(self, array: str, meta: Mapping[str, Any]) -> None:
        """Merge `meta` into the attributes of the array's node, made where it is absent."""
        check_name(array, "array name")
        merge_attributes(self._objects, join(self._prefix, array), to_json(meta, array))

    def read_array_meta(self, array: str) -> dict[str, Any]:
        """Return the attributes of the array's node, ``{}`` where it is absent."""
        check_name(array, "array name")
        document = _read_document(self._objects, join(self._prefix, array))
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
            ``"0.1.2"``, or a literal name such as ``"data"``.
        data : bytes-like or C-contiguous ndarray
        """
        check_name(array, "array name")
        check_chunk_key(chunk_key)
        payload = as_bytes(data, join(self._prefix, array), chunk_key)
        self._drop_catalog()  # it would no longer say what is here
        path = join(self._prefix, array)
        if path not in self._groups_made:
            ensure_groups(self._objects, [path])
            self._groups_made.add(path)
        self._blobs.write([(array, chunk_key, payload)])

    def read_bytes(self, array: str, chunk_key: str) -> bytes:
        """Return exactly the bytes that were written.

        Raises
        ------
        NotFoundError
            No such blob.
        StoreError, FormatError
            Its data object is missing, short or damaged.
        """
        check_name(array, "array name")
        check_chunk_key(chunk_key)
        return self._reader().read(array, chunk_key)

    def chunk_exists(self, array: str, chunk_key: str) -> bool:
        """Tell whether a blob is there; blobs in shards count."""
        check_name(array, "array name")
        check_chunk_key(chunk_key)
        return self._blobs.exists(array, chunk_key)

    def list_chunks(self, array: str) -> list[str]:
        """Return the keys of an array's blobs in numeric order; ``[]`` for an absent array."""
        check_name(array, "array name")
        return self._blobs.list(array)

    # ------------------------------------------------------------------------------------------ catalog

    def _reader(self) -> PerChunk:
        if not self._catalog_known:
            self._blobs.catalog = load_catalog(self._objects, self._prefix)
            self._catalog_known = True
        return self._blobs

    def _drop_catalog(self) -> None:
        self._blobs.catalog = None
        self._catalog_known = True
        path = join(self._prefix, CATALOG_NAME)
        if self._objects.exists(f"{path}/{DOCUMENT}"):
            self._objects.delete(f"{path}/c/0")
            self._objects.delete_prefix(path)

    def _check_group(self) -> None:
        document = _read_document(self._objects, self._prefix)
        if document is not None and document["node_type"] != "group":
            raise MetadataError(f"'/{self._prefix}' is an Array, not a group", store=self._objects.url)


def _restore_group(cls: type[NodeGroup], handle: StoreHandle, prefix: str) -> NodeGroup:
    return cls._from_handle(handle, prefix)
