"""Stores: opening, and what they say about themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from dask_zv.errors import FormatError, InputError, escaped
from dask_zv.graph.forks import finish_write
from dask_zv.level.contents import StoreContents
from dask_zv.level.source import LevelSource
from dask_zv.read.check import check_others
from dask_zv.storage.icechunk.session import commit_session
from dask_zv.store.html import store_summary_html
from dask_zv.store.level import Level

if TYPE_CHECKING:
    from dask.delayed import Delayed

    from dask_zv.graph.report import Report


class Store(StoreContents):
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

    @property
    def _level_type(self) -> type[Level]:
        return Level

    def level(self, number: int = 0) -> Level:
        """Return one resolution level.

        Raises
        ------
        NotFoundError
            The store has no such level.
        """
        found: Level = self._find_level(number)
        return found

    def refresh(self) -> Store:
        """Look at the store afresh, and rebuild catalogs where it can be written; see :func:`dask_zv.refresh`.

        Returns
        -------
        Store
            This store.
        """
        from dask_zv.maintain.refresh import refresh

        refresh(self)
        return self

    def expand(self, bounds: Any, *, compute: bool = True) -> Delayed | None:
        """Give the store larger bounds, so that chunks further out can be written; see :func:`dask_zv.expand`."""
        from dask_zv.maintain.expand import expand

        return expand(self, bounds, compute=compute)

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
        return store_summary_html(self)


def level_of(source: LevelSource) -> Level:
    """Return the level that was found so; its store is opened again.

    Raises
    ------
    FormatError
        It was rewritten since.
    """
    root, _, number = source.place.prefix.rpartition("/")
    level = Store.reopened(source.place.handle, root, False).level(int(number))
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
    store = Store.opened(target, mode, storage_options, check_objects=check_objects)
    for number in store.levels if check_objects else ():
        _ = store.level(number).chunks
        check_others(store.level(number))
    return store
