"""The public Group: nodes and blobs of any zarr store, and batches of writes and reads; one module because it is one class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import zarr
from zarr.storage import StorePath

from dask_zv.errors import MetadataError, NotFoundError, StoreError
from dask_zv.format.documents import WrongKindError, parse_document, to_json
from dask_zv.format.keys import DOCUMENT, SHARD_PREFIX, check_chunk_key, check_name, is_chunk_key, is_name, join
from dask_zv.graph.writes import WriteBatch
from dask_zv.storage.handles import StoreHandle, open_objects, open_objects_later
from dask_zv.storage.layout import Blobs, Layout, check_layout, detect_layout, layout_for, open_blobs
from dask_zv.storage.local import LocalObjects
from dask_zv.storage.nodes import (
    SETTINGS,
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
    update_attributes,
)
from dask_zv.storage.objects import Objects, place_url
from dask_zv.storage.opening import open_root
from dask_zv.storage.specs import LayoutName, Place
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


class Group:
    """A Zarr group in which ZV arrays are read and written as blobs.

    Arrays are named by their path below the group (``"vertices"``, ``"vertex_attributes/mass"``), blobs by chunk key
    (``"0.1.2"``). Works with any zarr store, and can be pickled.

    Parameters
    ----------
    zarr_group : zarr.Group
        The group to wrap; nothing is read.

    Examples
    --------
    >>> import dask_zv as dzv
    >>> group = dzv.open_group({})
    >>> group.write_bytes("vertices", "0.0.0", b"abc")
    >>> group.read_bytes("vertices", "0.0.0")
    b'abc'
    >>> with group.batched_writes() as batch:
    ...     for i in range(3):
    ...         group.write_bytes("vertices", f"{i}.0.0", bytes(i))
    >>> group.list_chunks("vertices")
    ['0.0.0', '1.0.0', '2.0.0']
    """

    def __init__(self, zarr_group: zarr.Group) -> None:
        handle, prefix = resolve_target(zarr_group, read_only=zarr_group.read_only)
        self._attach(handle, open_objects(handle), prefix)

    def _attach(self, handle: StoreHandle, objects: Objects, prefix: str, layout: LayoutName | None = None) -> None:
        self._handle = handle
        self._objects = objects
        self._prefix = prefix
        self._known_layout = None if layout is None else layout_for(layout)
        self._catalog_known = False
        self._above: tuple[str, ...] = ()  # groups that it was got through: their batches write the attributes of this one, too
        self._batch: WriteBatch | None = None
        self._deferred = False
        self._fetched: dict[tuple[str, str], bytes] | None = None

    @classmethod
    def _from_handle(cls, handle: StoreHandle, prefix: str, layout: LayoutName | None = None) -> Self:
        group = cls.__new__(cls)
        group._attach(handle, open_objects(handle), prefix, layout)
        return group

    @property
    def layout(self) -> LayoutName:
        """How the group's arrays are stored, ``"grid"`` (ZV 0.9) or ``"per_chunk"`` (ZV 0.7).

        Taken from the metadata of the store; ``"per_chunk"`` if there is none.

        Raises
        ------
        MetadataError
            The version of the store is not supported.
        """
        return self._layout.name

    @property
    def _layout(self) -> Layout:
        if self._known_layout is None:
            self._known_layout = layout_for(detect_layout(self._objects, self._prefix) or "per_chunk")
        return self._known_layout

    @cached_property
    def _blobs(self) -> Blobs:
        return open_blobs(self._objects, self._prefix, self.layout)

    @classmethod
    def from_backend(cls, handle: Backend, prefix: str = "") -> Self:
        """Return a writable group at `prefix` in the store of a backend, even if that was opened read-only."""
        if prefix:
            check_name(prefix, "prefix")
        return cls._from_handle(handle.handle.with_read_only(False), prefix)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._handle.is_session:  # tasks of ours may carry its handle, where they stay in this process
            raise self._handle.out_of_reach()
        layout = None if self._known_layout is None else self._known_layout.name
        return _restore_group, (type(self), self._handle, self._prefix, layout, self._above)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    # ------------------------------------------------------------------------------------------ where

    @property
    def url(self) -> str:
        """URL of the group, or the name of a store without a URL. It never contains secrets."""
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
            The store is not a local directory; use :attr:`url`.
        """
        if not isinstance(self._objects, LocalObjects):
            raise StoreError(f"{self.url} is not a local directory and has no path: use .url", store=self._objects.url)
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
        child = type(self)._from_handle(self._handle, join(self._prefix, name))
        child._known_layout = self._known_layout
        child._above = (self._prefix, *self._above)
        return child

    def require_group(self, name: str) -> Self:
        """Return the subgroup `name`; create it if it does not exist."""
        check_name(name, "group name")
        ensure_groups(self._objects, [join(self._prefix, name)])
        return self._child(name)

    def create_group(self, name: str) -> Self:
        """Return the subgroup `name`, as :meth:`require_group`; an existing one is unchanged."""
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
        """Remove a child and everything below it, if it exists."""
        check_name(name)
        path = join(self._prefix, name)
        self._drop_catalogs(path)
        self._objects.delete_prefix(path)
        for array, key in list(self._fetched or ()):
            if f"{array}/{key}/".startswith(f"{name}/"):
                self._fetched.pop((array, key))  # type: ignore[union-attr]

    # ------------------------------------------------------------------------------------------ arrays

    def write_array_meta(self, array: str, meta: Mapping[str, Any]) -> None:
        """Merge `meta` into the attributes of an array, which is created if it does not exist; inside a batch, queue that."""
        if self._batch is not None:
            self._batch.write_array_meta(array, meta)
            return
        check_array_name(array)
        values = to_json(meta, array)
        drop_copies(self._objects, [join(self._prefix, array).rpartition("/")[0]])
        self._layout.write_meta(self._objects, self._prefix, array, values)
        if "_blobs" in self.__dict__:
            self._blobs.forget(array)

    def read_array_meta(self, array: str) -> dict[str, Any]:
        """Return the attributes of an array, ``{}`` if it does not exist."""
        check_name(array, "array name")
        document = read_document(self._objects, join(self._prefix, array))
        return {} if document is None else dict(document.get("attributes", {}))

    def array_exists(self, array: str) -> bool:
        """Return True if the array exists."""
        return array in self

    # ------------------------------------------------------------------------------------------ blobs

    def write_bytes(self, array: str, chunk_key: str, data: Any) -> None:
        """Store one blob, replacing an earlier one; inside a batch, queue it.

        Parameters
        ----------
        array : str
            Path of the array below this group; created if it does not exist.
        chunk_key : str
            ``"0.1.2"``, or (layout ``per_chunk``) a literal name such as ``"data"``.
        data : bytes-like, C-contiguous ndarray, or (in a batch) a Delayed or Future of these
            In layout ``grid``, empty data removes the chunk, because the layout cannot store empty blobs.

        Raises
        ------
        InvalidNameError
            The name of the array or chunk is invalid.
        BoundsError
            The chunk lies outside of the grid of the array (layout ``grid``).
        StoreError
            `data` has another type, the grid of a new array is unknown, or storage failed.
        """
        if self._fetched is not None:
            self._fetched.pop((array, chunk_key), None)
        if self._batch is not None:
            self._batch.write_bytes(array, chunk_key, data)
            return
        check_array_name(array)
        check_chunk_key(chunk_key)
        payload = as_bytes(data, join(self._prefix, array), chunk_key)
        self._layout.write(self._objects, self._prefix, array, chunk_key, payload)
        if "_blobs" in self.__dict__:
            self._blobs.catalog = None
            self._blobs.forget(array)
        self._catalog_known = True  # there is none any more

    def read_bytes(self, array: str, chunk_key: str) -> bytes:
        """Return the bytes that were written; from memory inside a batch of reads that has them.

        Raises
        ------
        NotFoundError
            The blob does not exist.
        StoreError, FormatError
            The node is of another kind, or its data is missing, truncated or damaged.
        """
        if self._fetched is not None and (array, chunk_key) in self._fetched:
            return self._fetched[array, chunk_key]
        check_name(array, "array name")
        check_chunk_key(chunk_key)
        try:
            return self._reader().read(array, chunk_key)
        except NotFoundError:
            path = join(self._prefix, array)
            document = read_document(self._objects, path)
            if document is None or self._layout.holds_chunks(document, path, self._objects.url):
                raise
            text = f"'/{path}' is {kind_of(document)}, not an array of chunks: read it through zarr_group"
        raise WrongKindError(text, store=self._objects.url, array=path, chunk=chunk_key)

    def chunk_exists(self, array: str, chunk_key: str) -> bool:
        """Return True if a blob exists; False for invalid names."""
        return is_name(array) and is_chunk_key(chunk_key) and self._lister().exists(array, chunk_key)

    def list_chunks(self, array: str) -> list[str]:
        """Return the chunk keys of an array in numeric order; ``[]`` if it does not exist."""
        check_name(array, "array name")
        return self._lister().list_keys(array)

    # ------------------------------------------------------------------------------------------ batches

    @contextmanager
    def batched_writes(
        self,
        *,
        compute: bool = True,
        shards: int | Sequence[int] | None = None,
        block_chunks: int | None = None,
        progress: bool | None = None,
    ) -> Iterator[WriteBatch]:
        """Collect all writes inside the context in one Dask graph, which runs at the end on the active scheduler.

        Reads inside see the store as it was before. After an exception inside, nothing is written.

        Parameters
        ----------
        compute : bool
            False runs nothing; ``batch.to_delayed()`` returns the graph as one Delayed.
        shards : int or sequence of int, optional
            Number of chunks that are packed into one object per array. In layout ``per_chunk``, a block of
            :meth:`~dask_zv.graph.writes.WriteBatch.write_blobs` is one shard, whatever its size. In ``grid``, a block must
            yield whole shards, the shape of a shard may be given instead, and existing arrays keep their packing.
        block_chunks : int, optional
            Most chunks per task for blobs that are queued one by one; None means 256 to 2048, by the number of chunks.
        progress : bool, optional
            Show a progress bar.

        Yields
        ------
        WriteBatch
            Its `report` is set at the end.

        Raises
        ------
        StoreError
            A batch is already open on this group.
        PlanError
            Two tasks would write one chunk, or the store cannot be used in the processes of the tasks.
        """
        if self._batch is not None:
            raise StoreError(
                "a batch of writes is open on this group: batched_writes() does not support nesting", store=self._objects.url
            )
        self._objects_writable()
        batch = WriteBatch(
            Place(self._handle, self._prefix, self.layout),
            self._objects,
            shards=shards,
            block_chunks=block_chunks,
            progress=progress,
        )
        self._batch = batch
        try:
            yield batch
        finally:
            self._batch = None
        if self._fetched is not None:
            for address in batch.addresses():
                self._fetched.pop(address, None)
        if not compute:
            self._deferred = True
            return
        try:
            batch.run()
        finally:  # what is remembered of the store may be old now, also after a failure
            self._forget()

    def _objects_writable(self) -> None:
        if self._objects.read_only:
            self._objects.put("", b"")  # raises the store's own explanation

    @contextmanager
    def batched_reads(self, plan: Sequence[tuple[str, Sequence[str]]]) -> Iterator[None]:
        """Fetch all blobs of `plan` concurrently and serve :meth:`read_bytes` from memory inside the context.

        The fetch runs in this process, with a bounded number of requests in flight.

        Parameters
        ----------
        plan : sequence of (array, chunk keys)
            Missing keys are ignored; reads outside the plan go to the store.

        Raises
        ------
        StoreError
            A batch of reads is already open, or a blob of the plan is damaged.
        """
        if self._fetched is not None:
            raise StoreError(
                "a batch of reads is open on this group: batched_reads() does not support nesting", store=self._objects.url
            )
        wanted = [(check_name(array, "array name"), check_chunk_key(key)) for array, keys in plan for key in keys]
        self._fetched = self._reader().read_many(wanted)
        try:
            yield
        finally:
            self._fetched = None

    # ------------------------------------------------------------------------------------------ catalog

    def _forget(self) -> None:
        """Drop what is remembered of the group's arrays and catalog."""
        self.__dict__.pop("_blobs", None)
        self._catalog_known = False

    def _reader(self) -> Blobs:
        if self._deferred:  # a batch of this group may be computed at any time now: remember nothing
            self._forget()
        if not self._catalog_known:
            self._blobs.catalog = load_catalog(self._objects, self._prefix)
            self._catalog_known = True
        return self._blobs

    def _lister(self) -> Blobs:
        """Return the blobs for a question of what there is now: what is remembered of documents is looked at again."""
        if not self._layout.lists_chunks:
            return self._blobs
        blobs = self._reader()
        blobs.forget()
        return blobs

    def _drop_catalogs(self, path: str) -> None:
        self._forget()
        self._catalog_known = True
        drop_catalogs(self._objects, [path], in_turn=True)


def _restore_group(
    cls: type[Group], handle: StoreHandle, prefix: str, layout: LayoutName | None, above: tuple[str, ...]
) -> Group:
    group = cls.__new__(cls)
    group._attach(handle, open_objects_later(handle), prefix, layout)
    group._above = above
    return group


def open_group(
    target: object,
    mode: str = "r+",
    layout: str | None = None,
    *,
    storage_options: Mapping[str, Any] | None = None,
) -> Group:
    """Open a group of any Zarr v3 store, or make one.

    Parameters
    ----------
    target : str, Path, zarr Store or StorePath, fsspec mapper, dict, or Icechunk session
        A path or URL; a ``.zip`` of a store for reading.
    mode : {"r+", "r", "a", "w", "w-"}
        "r" reads; "r+" and "a" write, and make a group where the target is empty; "w" empties the target first;
        "w-" refuses a target that holds anything.
    layout : {"per_chunk", "grid"}, optional
        How a new group stores blobs, "per_chunk" where None; of a group that is there it is known.
    storage_options : mapping, optional
        Options of a URL, in fsspec's dialect (``key``, ``secret``, ``endpoint_url``, ``anon``); for a local path ``fsync``.

    Returns
    -------
    Group

    Raises
    ------
    NotFoundError
        Nothing is there, and the mode is "r".
    StoreError
        Something else is there, or the store can't be reached.
    ReadOnlyError
        A mode that writes, on a store that can only be read.
    MetadataError
        The group has another layout than was asked for, or is of a version that is not read.
    """
    asked = check_layout(layout, "per_chunk")
    handle, prefix, attributes = open_root(target, mode, storage_options)
    objects = open_objects(handle)
    held = detect_layout(objects, prefix, attributes)
    if held is None and "zarr_vectors_level" in attributes:
        raise MetadataError(
            "the layout of this empty level is unknown: open the store, dzv.open(...).level(n).group",
            store=join(handle.url, prefix),
        )
    if layout is not None and held not in (None, asked):
        raise MetadataError(
            f"the store has layout {held!r}, it can't be opened as {asked!r}: leave layout out", store=handle.url
        )
    if held is None and layout_for(asked).told_by_settings:
        if objects.read_only:
            raise MetadataError(f"this group is not known to have layout {asked!r}: leave layout out", store=handle.url)
        update_attributes(objects, prefix, {SETTINGS: {**attributes.get(SETTINGS, {}), "layout": asked}})
    return Group._from_handle(handle, prefix, held or asked)
