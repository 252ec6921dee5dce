"""Stores: opening, and what they say about themselves."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from dask_zv.batch.forks import finish_write
from dask_zv.batch.group import Group
from dask_zv.errors import FormatError, InputError, MetadataError, NotFoundError, ZVWarning, escaped
from dask_zv.format.documents import parse_document
from dask_zv.format.keys import DOCUMENT
from dask_zv.format.metadata import RootMetadata
from dask_zv.pipelines.source.level_check import check_others
from dask_zv.pipelines.source.level_io import LevelSource
from dask_zv.pipelines.stores.level import Level
from dask_zv.storage.grid_defaults import SETTINGS
from dask_zv.storage.handles import StoreHandle, open_objects
from dask_zv.storage.icechunk_commits import commit_session
from dask_zv.storage.layouts import Layout, layout_of
from dask_zv.storage.nodes import read_document
from dask_zv.storage.objects import Objects, join, place_url
from dask_zv.storage.opening import open_root

if TYPE_CHECKING:
    from dask.delayed import Delayed

    from dask_zv.batch.receipts import Report

__all__ = ["SETTINGS", "Level", "Store", "level_of", "open", "read_headers"]


class Store:
    """A Zarr Vectors store.

    Made by :func:`create` and :func:`open`; pickles through a small handle.

    Attributes
    ----------
    metadata : RootMetadata
    url : str
        Where it is; without secrets.
    check_objects : bool
        Levels compare every stored object with their catalog when they are first looked at.
    """

    def __init__(self, handle: StoreHandle, prefix: str, attributes: Mapping[str, Any], *, check_objects: bool = False) -> None:
        self.check_objects = check_objects
        self._handle = handle
        self._prefix = prefix
        self._load(attributes)

    def _load(self, attributes: Mapping[str, Any]) -> None:
        if "zarr_vectors" not in attributes:
            raise MetadataError(
                f"a Zarr group, but no Zarr Vectors store: its attributes are {sorted(attributes) or 'empty'}",
                store=self.url,
            )
        try:
            self.metadata = RootMetadata.from_attributes(attributes)
        except MetadataError as error:
            raise error.at(store=self.url) from None
        settings = attributes.get(SETTINGS, {})
        self.settings: Mapping[str, Any] = settings if isinstance(settings, Mapping) else {}
        self._levels: dict[int, Level] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self._handle, self._prefix, self.check_objects)

    @property
    def url(self) -> str:
        """Where the store is, without secrets."""
        return place_url(self._handle.url, self._prefix)

    @property
    def prefix(self) -> str:
        """Path of the root group inside what :attr:`handle` opens."""
        return self._prefix

    @property
    def handle(self) -> StoreHandle:
        """What tasks carry instead of the open store."""
        return self._handle

    @property
    def layout(self) -> Layout:
        """How its arrays are stored: ``"grid"`` (ZV 0.9) or ``"per_chunk"`` (ZV 0.7)."""
        return layout_of(self.metadata.generation)

    @property
    def group(self) -> Group:
        """The root group."""
        return Group._from_handle(self._handle, self._prefix, self.layout)

    @property
    def read_only(self) -> bool:
        """True where the store was opened for reading."""
        return open_objects(self._handle).read_only

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes, one for each column of the positions."""
        return tuple(a.name for a in self.metadata.axes)

    @cached_property
    def levels(self) -> tuple[int, ...]:
        """Numbers of the resolution levels; 0 is the finest."""
        names = open_objects(self._handle).list_dir(self._prefix)
        return tuple(sorted(int(n) for n in names if n.isascii() and n.isdigit() and len(n) < 10 and str(int(n)) == n))

    @property
    def headers(self) -> dict[str, dict[str, Any]]:
        """What the store keeps of the heads of files that its content came from, by the files' format: ``{"trk": {...}}``."""
        return read_headers(self._handle, self._prefix)

    @property
    def attribute_specs(self) -> dict[str, dict[str, Any]]:
        """What the store says of attributes (dtype, unit and so on), by scope ("vertex", "object", "link") and name."""
        found = self.metadata.extra.get("attribute_specs")
        return {k: dict(v) for k, v in found.items() if isinstance(v, Mapping)} if isinstance(found, Mapping) else {}

    def level(self, number: int = 0) -> Level:
        """Return one resolution level.

        Raises
        ------
        NotFoundError
            The store has no such level.
        """
        if number not in self._levels:
            document = read_document(open_objects(self._handle), join(self._prefix, str(number)))
            if document is None and number not in self.levels:
                raise NotFoundError(f"no level {number}: the store has the levels {list(self.levels)}", store=self.url)
            self._levels[number] = Level(self, number, {} if document is None else document.get("attributes", {}))
        return self._levels[number]

    def refresh(self) -> Store:
        """Look at the store afresh, and rebuild catalogs that are missing or stale where it can be written.

        Rebuilding reads every blob once, as one graph on the active scheduler.

        Returns
        -------
        Store
            This store.
        """
        if not self.read_only:
            from dask_zv.pipelines.stores.refresh import rebuild_catalogs

            rebuild_catalogs(self)
        self.reload()
        return self

    def expand(self, bounds: Any, *, compute: bool = True) -> Delayed | None:
        """Give the store larger bounds, so that chunks further out can be written; nothing that it holds changes.

        In layout ``grid`` the arrays' grids grow: at their far end by their documents alone; at their near end every stored
        object is copied once, without being decoded, as one graph on the active scheduler.

        Parameters
        ----------
        bounds : pair of corners
            What must lie inside, beside what does already.
        compute : bool
            False returns a Delayed.

        Raises
        ------
        InputError
            No finite box.
        StoreError
            Another writer changed the level at the same time, or storage failed; the store is what it was.
        """
        from dask_zv.pipelines.stores.expand import expand_store

        delayed = expand_store(self, bounds, compute=compute)
        if compute:
            self.reload()
        return delayed

    def finish(self, result: Report) -> Report:
        """Take the result of a write with ``compute=False``: in an Icechunk session, its changes are merged into the session.

        On other stores, and for results that need nothing more, the result is returned as it is.

        Parameters
        ----------
        result : Report
            What the Delayed computed to, of a write to this store.

        Returns
        -------
        Report

        Raises
        ------
        PlanError
            The session was committed after the write was planned, or this process does not hold it. Nothing is merged.
        InputError
            The result is of a write to an Icechunk session, and this store is in none.
        """
        report: Report = finish_write(self._handle, result)
        self.reload()
        return report

    def commit(self, message: str, metadata: Mapping[str, Any] | None = None, *, rebase: bool = True) -> str:
        """Commit the Icechunk session that the store lies in, with all that was changed in it, as one snapshot.

        The same as ``session.commit(message)``, except for what happens where others have committed to the branch meanwhile.
        It ends the session: to go on writing, open a new one, and the store in it.

        Parameters
        ----------
        message : str
        metadata : mapping of str to JSON value, optional
            Kept with the snapshot.
        rebase : bool
            Where what others have committed meanwhile changed no node and no chunk that this session has changed, put this
            snapshot on top of theirs. Two writes to one level are never of that kind, as both change its lists of chunks.

        Returns
        -------
        str
            Id of the snapshot.

        Raises
        ------
        PlanError
            Others have committed to the branch, and the two are in conflict. Nothing is committed, and nothing discarded.
        InputError
            The store is in no writable session: it needs no commit.
        ReadOnlyError
            The session was committed before.
        StoreError
            There is nothing to commit, or storage failed.
        """
        return commit_session(self._handle, message, metadata, rebase=rebase)

    def reload(self) -> None:
        """Read the metadata again."""
        attributes = self.group.attrs.to_dict()
        self.__dict__.pop("levels", None)
        self._load(attributes)

    def __repr__(self) -> str:
        m = self.metadata
        kinds = ", ".join(m.geometry_types) or "no geometry yet"
        low, high = m.bounds
        lines = [f"<dask_zv.Store {self.url}: {kinds}, layout {m.generation.name.lower()} (ZV {m.zv_version})>"]
        for axis, a, b, c in zip(m.axes, low, high, m.chunk_shape, strict=True):
            unit = f" {axis.unit}" if axis.unit else ""
            lines.append(f"  {axis.name}: {a:g} … {b:g}{unit}, chunks of {c:g}")
        lines += [f"  level {n}: {self.level(n).metadata.vertex_count:,} vertices" for n in self.levels]
        return "\n".join(map(escaped, lines))

    def _repr_html_(self) -> str:
        from dask_zv.pipelines.stores.html import store_summary_html

        return store_summary_html(self)


def read_headers(handle: StoreHandle, prefix: str) -> dict[str, dict[str, Any]]:
    """Return the headers of the store at `prefix`, see :attr:`Store.headers`."""
    objects, path = open_objects(handle), join(prefix, "headers")
    documents = {n: read_document(objects, join(path, n)) for n in objects.list_dir(path) if n != DOCUMENT}
    return {n: dict(d.get("attributes", {})) for n, d in documents.items() if d is not None}


def _reopen(handle: StoreHandle, prefix: str, check_objects: bool) -> Store:
    attributes = Group._from_handle(handle, prefix).attrs.to_dict()
    return Store(handle, prefix, attributes, check_objects=check_objects)


def level_of(source: LevelSource) -> Level:
    """Return the level that was found so; its store is opened again.

    Raises
    ------
    FormatError
        It was rewritten since.
    """
    root, _, number = source.place.prefix.rpartition("/")
    level = _reopen(source.place.handle, root, False).level(int(number))
    if level.source.token != source.token:
        raise FormatError("the level was rewritten after it was opened: open it again", store=source.where())
    return level


def open(
    target: object,
    mode: Literal["r", "r+"] = "r",
    storage_options: Mapping[str, Any] | None = None,
    *,
    check_objects: bool = False,
) -> Store:
    """Open a Zarr Vectors store.

    Parameters
    ----------
    target : str, Path, zarr Store or StorePath, fsspec mapper, dict, or Icechunk session
        A ``.zip`` of a store can be read.
    mode : {"r", "r+"}
        For reading, or for writing into it as well.
    storage_options : mapping, optional
        Options of a URL, in fsspec's dialect.
    check_objects : bool
        Compare every stored object's length and ETag (or time of change) with the catalog now. Another tool's edit of a chunk
        in place is found whenever that chunk is read; this finds it before, at the price of a request for each object, so that
        counts of rows and Dask's keys are those of the edited store. A level that has no catalog, or another than its
        objects, is read: what is missing, short, outside of its chunk's box or at odds with its siblings is an error
        here. Where only times differ, as in copied stores, bytes are compared, and others than those of the last
        commit are a warning: an edit can't be told from damage then.

    Returns
    -------
    Store

    Raises
    ------
    NotFoundError
        Nothing is there.
    MetadataError
        A Zarr group that is no Zarr Vectors store, or one of a generation that isn't read.
    StoreError
        No Zarr v3 hierarchy, or the store can't be reached.
    """
    if mode not in ("r", "r+"):
        raise InputError(f"mode {mode!r} is not 'r' or 'r+': dzv.create makes stores")
    first: list[bytes | None] = []

    def peek(objects: Objects, prefix: str) -> bytes | None:
        root, level = objects.get_many([(join(prefix, p), None) for p in (DOCUMENT, f"0/{DOCUMENT}")])
        first.append(level)
        return root

    handle, prefix, attributes = open_root(target, mode, storage_options, must_exist=True, peek=peek)
    store = Store(handle, prefix, attributes, check_objects=check_objects)
    if first[0] is not None:  # most readers go on with level 0
        document = parse_document(first[0], join(prefix, "0"), handle.url)
        store._levels[0] = Level(store, 0, document.get("attributes", {}))
    if (store.metadata.crs or {}).get("input_space") == "voxmm":
        warnings.warn(
            "the positions are in voxel millimetres (crs.input_space is 'voxmm'), not in a scanner's or an atlas' space: "
            f"transform them before they meet others [{store.url}]",
            ZVWarning,
            stacklevel=2,
        )
    for number in store.levels if check_objects else ():
        _ = store.level(number).chunks
        check_others(store.level(number))
    return store
