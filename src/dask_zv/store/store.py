"""What a user holds of a store: ``create`` and ``open`` it, :class:`Store` and :class:`Level` with their verbs.

One module because it is the face of the rooms below, mostly documentation: the facts are in ``level/contents.py``, the work is
in ``read``, ``maintain`` and ``storage``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from numpy.typing import DTypeLike

from dask_zv.errors import InputError, escaped
from dask_zv.format.levels import LevelMetadata
from dask_zv.format.metadata import Axis, RootMetadata
from dask_zv.geometry.points import POINT_CLOUD
from dask_zv.geometry.result import Geometry, Links
from dask_zv.graph.group import Group
from dask_zv.graph.report import Report, finish_write
from dask_zv.level.contents import LevelContents, StoreContents
from dask_zv.level.create import create_contents
from dask_zv.level.source import ChunkTable
from dask_zv.read.check import check_chunks, check_others
from dask_zv.read.levels import read_level
from dask_zv.read.links import read_links
from dask_zv.storage.icechunk.session import commit_session
from dask_zv.storage.specs import LayoutName
from dask_zv.store.html import level_summary_html, store_summary_html

if TYPE_CHECKING:
    from dask.delayed import Delayed


class _Facade:
    """What holds the contents that the rooms below work on; names of before that are theirs alone answer for one release."""

    _contents: Any
    _former: frozenset[str]

    def __getattr__(self, name: str) -> Any:
        of = type(self)
        if name not in of._former:
            raise AttributeError(f"{of.__name__!r} object has no attribute {name!r}", name=name, obj=self)
        instead = "Level.chunks" if name == "lookup" else "internal"
        warnings.warn(f"{of.__name__}.{name} is {instead} now", DeprecationWarning, stacklevel=2)
        return getattr(self._contents, "chunks" if name == "lookup" else name)


class Level(_Facade):
    """One resolution level of a store, from :meth:`Store.level`."""

    _former = frozenset(
        ["found_links", "has_implied_edges", "index", "is_chunked_skeleton", "is_packed", "lookup", "offset", "place", "source"]
    )

    def __init__(self, store: Store, contents: LevelContents) -> None:
        self._store = store
        self._contents: LevelContents = contents

    def __reduce__(self) -> tuple[Any, ...]:
        return Store.level, (self._store, self.number)  # what is remembered of it stays in this process

    @property
    def store(self) -> Store:
        """The store that it is of."""
        return self._store

    @property
    def number(self) -> int:
        """Its number; 0 is the finest level."""
        return self._contents.number

    @property
    def metadata(self) -> LevelMetadata:
        """What its document says."""
        return self._contents.metadata

    @property
    def url(self) -> str:
        """Where it is, without secrets."""
        return self._contents.url

    @property
    def group(self) -> Group:
        """Its group of arrays."""
        return self._contents.group

    @property
    def kind(self) -> str | None:
        """What its objects are: the first of the store's geometry types; None where the store names none."""
        return self._contents.kind

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the attributes of its vertices."""
        return self._contents.attributes

    @property
    def chunks(self) -> ChunkTable:
        """Its chunks and how many vertices each has."""
        return self._contents.chunks

    @overload
    def read(
        self,
        objects: Sequence[int] | int | None = None,
        bbox: Any = None,
        order: Literal["chunk", "object"] | None = None,
        *,
        chunks: Any = None,
        clip: bool = True,
        attributes: Sequence[str] | None = None,
        compute: Literal[True] = True,
    ) -> Geometry: ...
    @overload
    def read(
        self,
        objects: Sequence[int] | int | None = None,
        bbox: Any = None,
        order: Literal["chunk", "object"] | None = None,
        *,
        chunks: Any = None,
        clip: bool = True,
        attributes: Sequence[str] | None = None,
        compute: Literal[False],
    ) -> Delayed: ...
    def read(
        self,
        objects: Sequence[int] | int | None = None,
        bbox: Any = None,
        order: Literal["chunk", "object"] | None = None,
        *,
        chunks: Any = None,
        clip: bool = True,
        attributes: Sequence[str] | None = None,
        compute: bool = True,
    ) -> Geometry | Delayed:
        """Read vertices with their attributes, and the edges, parents or faces between them.

        Edges and faces are those all of whose vertices were read, ordered by the chunk that they are filed under (ascending),
        in it by the place of their other chunks (those inside the chunk first, then by the name of the segment), then as
        written; in generation 0.7 those inside of chunks come first, chunk by chunk, then those across, as written.

        Parameters
        ----------
        objects : int or sequence of int, optional
            Only the vertices of these objects.
        bbox : pair of corners, optional
            Only vertices inside the closed box ``(least corner, greatest corner)``, in the units of the axes.
        order : {"chunk", "object"}, optional
            "chunk": chunks ascending, fragments in order, rows in order. "object": each object's vertices together, in the
            order of its manifest, objects ascending by id; `ids` and `lengths` of the result tell them apart. Lines, polylines
            and streamlines are read by object where none is given, everything else by chunk.
        chunks : sequence of str or of int tuples, optional
            Only the vertices in these chunks, by key (``"0.1.2"``) or coordinates. Objects, box and chunks combine: what is
            read is in all of them.
        clip : bool
            True (default): only vertices inside the box and the chunks, so that the answer is no larger than what was asked
            about, whatever objects pass through. A path that leaves and comes back is then several entries of `ids` and
            `lengths`, and a parent outside is -1. False: every object that has a vertex inside, as a whole; which these are is
            found now, also with ``compute=False``.
        attributes : sequence of str, optional
            Names of the attributes of vertices, and of edges or faces, to read; all where None.
        compute : bool
            False returns a Delayed of the same.

        Returns
        -------
        Geometry or Delayed

        Raises
        ------
        InputError
            The store has no objects, no such attribute, or the box or a chunk key is malformed.
        NotFoundError
            The level has no such object or chunk.
        FormatError, StoreError
            A chunk is missing, damaged, or at odds with its siblings; the message names it.
        MetadataError
            The document of an array is missing or damaged.
        """
        level = self._contents
        return read_level(
            level, objects=objects, bbox=bbox, order=order, chunks=chunks, clip=clip, attributes=attributes, compute=compute
        )

    def links(self, delta: int = 0, *, chunks: Any = None) -> Links:
        """Return the records of a family of links as they are: by chunk and stored row.

        Parameters
        ----------
        delta : int
            Number of the level that the records lead to, less that of this one; 0 for those inside the level.
        chunks : sequence of str or of int tuples, optional
            Only records that are filed under these chunks: those of the first stored endpoint, which for undirected links is
            the least.

        Returns
        -------
        Links
            Each record once, ordered as by :meth:`read`.

        Raises
        ------
        NotFoundError
            The level has no such family, or no such chunk.
        InputError
            A chunk key is malformed.
        FormatError, StoreError, MetadataError
            A part of the family is missing or damaged; the message names it.
        """
        return read_links(self._contents, delta, chunks=chunks)

    def __repr__(self) -> str:
        s = self._contents.source.schema
        parts = [f"{a.name} ({a.value_dtype}{'' if a.channels is None else f' x {a.channels}'})" for a in s.attributes]
        lines = [f"<dask_zv.Level {self.url}: {self.metadata.vertex_count:,} vertices in {len(self.chunks):,} chunks>"]
        lines.append(f"  positions: {s.dtype} x {s.grid.ndim}")
        if parts:
            lines.append(f"  attributes: {', '.join(parts)}")
        return "\n".join(map(escaped, lines))

    def _repr_html_(self) -> str:
        return level_summary_html(self._contents)


class Store(_Facade):
    """A Zarr Vectors store, from :func:`create` or :func:`open`; pickles through a small handle."""

    _former = frozenset(["handle", "prefix", "reload", "settings"])

    def __init__(self, contents: StoreContents) -> None:
        self._contents: StoreContents = contents

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self._contents,)

    @property
    def metadata(self) -> RootMetadata:
        """What its document says: axes, bounds, edges of chunks, geometry."""
        return self._contents.metadata

    @property
    def url(self) -> str:
        """Where it is, without secrets."""
        return self._contents.url

    @property
    def layout(self) -> LayoutName:
        """How its arrays are stored: ``"grid"`` (ZV 0.9) or ``"per_chunk"`` (ZV 0.7)."""
        return self._contents.layout

    @property
    def group(self) -> Group:
        """The root group."""
        return self._contents.group

    @property
    def read_only(self) -> bool:
        """True where it was opened for reading."""
        return self._contents.read_only

    @property
    def check_objects(self) -> bool:
        """True where levels compare every stored object with their catalog when they are first looked at."""
        return self._contents.check is not None

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes, one for each column of the positions."""
        return self._contents.axes

    @property
    def levels(self) -> tuple[int, ...]:
        """Numbers of the resolution levels; 0 is the finest."""
        return self._contents.levels

    @property
    def headers(self) -> dict[str, dict[str, Any]]:
        """What it keeps of the heads of files that its content came from, by the files' format: ``{"trk": {...}}``."""
        return self._contents.headers

    @property
    def attribute_specs(self) -> dict[str, dict[str, Any]]:
        """What it says of attributes (dtype, unit and so on), by scope ("vertex", "object", "link") and name."""
        return self._contents.attribute_specs

    def level(self, number: int = 0) -> Level:
        """Return one resolution level.

        Raises
        ------
        NotFoundError
            The store has no such level.
        """
        return Level(self, self._contents.level(number))

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
        report: Report = finish_write(self._contents.handle, result)
        self._contents.reload()
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
        return commit_session(self._contents.handle, message, metadata, rebase=rebase)

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
        return store_summary_html(self._contents)


def create(
    target: object,
    *,
    geometry: str = POINT_CLOUD.name,
    chunk_shape: Sequence[float],
    bounds: tuple[Sequence[float], Sequence[float]] | None = None,
    bin_shape: Sequence[float] | None = None,
    axes: Sequence[str | Mapping[str, object] | Axis] | None = None,
    crs: Any = None,
    dtype: DTypeLike | None = None,
    layout: str | None = None,
    shard_chunks: int | Sequence[int] | Literal["auto"] = "auto",
    compressor: Any = "auto",
    storage_options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Store:
    """Make an empty store.

    Parameters
    ----------
    target : str, Path, zarr Store or StorePath, fsspec mapper, dict, or Icechunk session
    geometry : {"point_cloud", "line", "polyline", "streamline", "skeleton", "graph", "mesh"}
        Layout ``per_chunk`` holds the first four.
    chunk_shape : sequence of float, length D
        Edges of a chunk, in the units of the axes. The grid is anchored at 0, whatever the bounds.
    bounds : pair of corners, optional
        Inclusive box that positions must lie in; where None, that of the data once they are written.
    bin_shape : sequence of float, optional
        Edges of a bin; `chunk_shape` must be a multiple of it. One bin per chunk where None.
    axes : sequence of str or of {"name", "type", "unit"}, optional
        2 to 4 axes; x, y, z, w where None. None has the name of a dimension or a coordinate of Datasets (vertex, object, edges,
        crs ...).
    crs : mapping, or whatever :meth:`pyproj.CRS.from_user_input` takes, optional
        Coordinate reference system. A mapping is stored as it is; a code, WKT, a pyproj CRS or what else pyproj takes (with
        pyproj installed, the extra ``geo``) as its authority and code where it has them, else as WKT.
    dtype : dtype, optional
        Of the stored positions. Where None, that of the first positions written; integers become floats that hold them.
    layout : {"grid", "per_chunk"}, optional
        "grid" (ZV 0.9, the default): one array per logical array, a cell per chunk, read by current tools. "per_chunk"
        (ZV 0.7): an array per chunk.
    shard_chunks : int, sequence of int, or "auto"
        Chunks packed into one object per array, or (layout ``grid``) the extents of such a shard in chunks; 1 keeps an object
        per chunk. "auto": 1 for at most 4,096 chunks on a local file system or in memory, else 256. Packing is what makes many
        chunks fast; other tools read single objects faster than shards.
    compressor : {"auto", "zstd", "blosc", None}, or a list of Zarr codecs
        Of the chunks. "auto" is "zstd" in layout ``grid``; layout ``per_chunk`` stores raw bytes.
    storage_options : mapping, optional
        Options of a URL.
    overwrite : bool
        Replace what is at the target.

    Returns
    -------
    Store

    Raises
    ------
    InputError
        An argument is malformed.
    StoreError
        The target holds something already, or can't be written.

    Examples
    --------
    >>> import dask_zv as dzv
    >>> store = dzv.create({}, chunk_shape=(10, 10), axes=["x", "y"])
    >>> store.axes
    ('x', 'y')
    """
    made = create_contents(
        target,
        geometry=geometry,
        chunk_shape=chunk_shape,
        bounds=bounds,
        bin_shape=bin_shape,
        axes=axes,
        crs=crs,
        dtype=dtype,
        layout=layout,
        shard_chunks=shard_chunks,
        compressor=compressor,
        storage_options=storage_options,
        overwrite=overwrite,
    )
    return Store(made)


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
    contents = StoreContents.opened(target, mode, storage_options, check_chunks if check_objects else None)
    for number in contents.levels if check_objects else ():
        _ = contents.level(number).chunks
        check_others(contents.level(number))
    return Store(contents)
