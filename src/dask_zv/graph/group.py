"""The public Group: nodes and blobs, and batches of writes and reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from dask_zv.errors import MetadataError, StoreError
from dask_zv.format.keys import check_chunk_key, check_name, join
from dask_zv.graph.writes import WriteBatch
from dask_zv.storage.grid.read import GridArrays
from dask_zv.storage.group import NodeGroup
from dask_zv.storage.handles import StoreHandle, open_objects
from dask_zv.storage.layout import check_layout, detect_layout
from dask_zv.storage.nodes import SETTINGS, update_attributes
from dask_zv.storage.objects import Objects
from dask_zv.storage.opening import open_root
from dask_zv.storage.per_chunk.read import PerChunk
from dask_zv.storage.specs import LayoutName, Place


class Group(NodeGroup):
    """A group of a Zarr hierarchy through which all ZV arrays are read and written.

    Arrays are named by their path below the group (``"vertices"``, ``"vertex_attributes/mass"``), blobs by chunk key
    (``"0.1.2"``). Works over any zarr store; pickles through a small handle of the store.

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

    def _attach(self, handle: StoreHandle, objects: Objects, prefix: str, layout: LayoutName | None = None) -> None:
        super()._attach(handle, objects, prefix, layout)
        self._batch: WriteBatch | None = None
        self._deferred = False
        self._fetched: dict[tuple[str, str], bytes] | None = None

    # ------------------------------------------------------------------------------------------ writes

    def write_bytes(self, array: str, chunk_key: str, data: Any) -> None:
        """Store one blob, in place of an earlier one of any length; inside a batch, queue it.

        Parameters
        ----------
        array : str
            Path of the array below this group; made where it is absent.
        chunk_key : str
            ``"0.1.2"``, or a literal name such as ``"data"``.
        data : bytes-like, C-contiguous ndarray, or (in a batch) a Delayed or Future of these

        Raises
        ------
        InvalidNameError
            The name of the array or chunk would leave its place.
        StoreError
            The payload is of no such type, or storage failed.
        """
        if self._fetched is not None:
            self._fetched.pop((array, chunk_key), None)
        if self._batch is not None:
            self._batch.write_bytes(array, chunk_key, data)
        else:
            super().write_bytes(array, chunk_key, data)

    def write_array_meta(self, array: str, meta: Mapping[str, Any]) -> None:
        """Merge `meta` into the attributes of the array's node, made where it is absent; inside a batch, queue it."""
        if self._batch is not None:
            self._batch.write_array_meta(array, meta)
        else:
            super().write_array_meta(array, meta)

    @contextmanager
    def batched_writes(
        self,
        *,
        compute: bool = True,
        shards: int | Sequence[int] | None = None,
        block_chunks: int | None = None,
        progress: bool | None = None,
    ) -> Iterator[WriteBatch]:
        """Make every write inside the context part of one Dask graph, run at its end on the active scheduler.

        Reads inside see the store as it was before. An exception inside drops the batch: nothing is written.

        Parameters
        ----------
        compute : bool
            False runs nothing: ``batch.to_delayed()`` is the graph, as one Delayed.
        shards : int or sequence of int, optional
            Pack chunks into one object per array and this many chunks. In layout ``per_chunk`` a block of
            :meth:`~dask_zv.graph.writes.WriteBatch.write_blobs` is one shard whatever its size; in ``grid`` it yields whole
            shards, whose extents may be given instead, and arrays that exist keep the packing that they have.
        block_chunks : int, optional
            Chunks per task, at most, of what is queued blob by blob; 256 to 2048 by their number where None.
        progress : bool, optional
            Show a progress bar.

        Yields
        ------
        WriteBatch
            Its `report` is set at the end.

        Raises
        ------
        StoreError
            A batch is open on this group already.
        PlanError
            Two tasks would write one chunk, or the store can't be reached from where the tasks run.
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

    def _forget(self) -> None:
        self._blobs.forget()
        self._catalog_known = False

    def _reader(self) -> PerChunk | GridArrays:
        if self._deferred:  # a batch of this group may be computed at any time now: remember nothing
            self._forget()
        return super()._reader()

    def delete_subtree(self, name: str) -> None:
        """Remove a child and all below it; nothing happens where there is none."""
        super().delete_subtree(name)
        fetched = self._fetched if self._fetched is not None else {}
        for array, key in list(fetched):
            if f"{array}/{key}/".startswith(f"{name}/"):
                del fetched[array, key]

    # ------------------------------------------------------------------------------------------ reads

    def read_bytes(self, array: str, chunk_key: str) -> bytes:
        """Return exactly the bytes that were written; from memory where a batch of reads holds them.

        Raises
        ------
        NotFoundError
            No such blob.
        StoreError, FormatError
            Its data object is missing, short or damaged.
        """
        if self._fetched is not None and (array, chunk_key) in self._fetched:
            return self._fetched[array, chunk_key]
        return super().read_bytes(array, chunk_key)

    @contextmanager
    def batched_reads(self, plan: Sequence[tuple[str, Sequence[str]]]) -> Iterator[None]:
        """Fetch all blobs of `plan` concurrently and serve :meth:`read_bytes` from memory inside the context.

        The fetch runs in this process, where the bytes are wanted: a bounded number of requests in flight.

        Parameters
        ----------
        plan : sequence of (array, chunk keys)
            Keys that don't exist are left out; reads outside the plan go to the store.

        Raises
        ------
        StoreError
            A batch of reads is open already, or a blob of the plan is damaged.
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
            "an empty level of a store whose generation can't be told from here: open the store, dzv.open(...).level(n).group",
            store=join(handle.url, prefix),
        )
    if layout is not None and held not in (None, asked):
        raise MetadataError(
            f"the store has layout {held!r}, it can't be opened as {asked!r}: leave layout out", store=handle.url
        )
    if held is None and asked == "grid":
        if objects.read_only:
            raise MetadataError("nothing says that this group has layout 'grid': leave layout out", store=handle.url)
        update_attributes(objects, prefix, {SETTINGS: {**attributes.get(SETTINGS, {}), "layout": "grid"}})
    return Group._from_handle(handle, prefix, held or asked)
