"""The public objects: ``create`` and ``open``, :class:`Store` and :class:`Level`.

One module because it is the public interface, mostly documentation: the contents are in ``level/contents.py``, the work is done
in ``read``, ``maintain`` and ``storage``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TextIO, overload

from numpy.typing import DTypeLike

from dask_zv.errors import InputError
from dask_zv.format.levels import LevelMetadata
from dask_zv.format.metadata import Axis, RootMetadata
from dask_zv.geometry.points import POINT_CLOUD
from dask_zv.geometry.result import Geometry, Links
from dask_zv.graph.group import Group
from dask_zv.graph.report import Report, finish_write
from dask_zv.level.contents import LevelContents, StoreContents
from dask_zv.level.create import create_contents
from dask_zv.level.source import ChunkTable
from dask_zv.level.stale import STALE, warn_of_stale
from dask_zv.level.unfinished import warn_of_unfinished
from dask_zv.read.check import check_chunks, check_others
from dask_zv.read.levels import read_level
from dask_zv.read.links import read_links
from dask_zv.storage.icechunk.session import commit_session
from dask_zv.storage.specs import LayoutName
from dask_zv.store.glance import stored_nbytes
from dask_zv.store.show import level_html, level_info, level_repr, store_html, store_info, store_repr
from dask_zv.store.summary import has_bounds

if TYPE_CHECKING:
    from dask.delayed import Delayed

    from dask_zv.maintain.validation import Validation


class _Facade:
    """Base of Store and Level: holds the contents that the layers below use; former public names still work for one release."""

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
        """The store that contains the level."""
        return self._store

    @property
    def number(self) -> int:
        """Number of the level; 0 is the finest."""
        return self._contents.number

    @property
    def metadata(self) -> LevelMetadata:
        """The metadata in its document."""
        return self._contents.metadata

    @property
    def url(self) -> str:
        """Its URL, without secrets."""
        return self._contents.url

    @property
    def group(self) -> Group:
        """The group that contains its arrays."""
        return self._contents.group

    @property
    def kind(self) -> str | None:
        """The geometry: the first geometry type of the store, None if the store names none."""
        return self._contents.kind

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the vertex attributes."""
        return self._contents.attributes

    @property
    def chunks(self) -> ChunkTable:
        """The chunks of the level and the number of vertices in each."""
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

        Edges and faces are included if all of their vertices were read. They are ordered by the chunk that they are stored
        under, then by the relative position of their other chunks (links within the chunk first), then as written. In ZV 0.7,
        links within chunks come first, chunk by chunk, then links between chunks, as written.

        Parameters
        ----------
        objects : int or sequence of int, optional
            Only the vertices of these objects.
        bbox : pair of corners, optional
            Only vertices inside the closed box ``(lower corner, upper corner)``, in the units of the axes.
        order : {"chunk", "object"}, optional
            "chunk": chunks ascending, fragments in order, rows in order. "object": the vertices of each object together, in
            path order, objects ascending by id; `ids` and `lengths` of the result give the rows of each. The default is
            "object" for lines, polylines and streamlines, and "chunk" for all others.
        chunks : sequence of str or of int tuples, optional
            Only the vertices in these chunks, by key (``"0.1.2"``) or coordinates. Objects, box and chunks combine: the result
            lies in all of them.
        clip : bool
            True (default): only vertices inside the box and the chunks. A path that leaves and returns gives several entries of
            `ids` and `lengths`, and a parent outside is -1. False: every object that has a vertex inside, whole; these objects
            are found now, also with ``compute=False``.
        attributes : sequence of str, optional
            Names of the attributes of vertices, and of edges or faces, to read; None reads all.
        compute : bool
            False returns a Delayed of the result.

        Returns
        -------
        Geometry or Delayed

        Raises
        ------
        InputError
            The store has no objects, the attribute does not exist, or the box or a chunk key is malformed.
        NotFoundError
            The level has no such object or chunk.
        FormatError, StoreError
            A chunk is missing, damaged, or inconsistent with the other arrays; the message names it.
        MetadataError
            The document of an array is missing or damaged.
        """
        level = self._contents
        if not level.metadata.vertex_count:
            warn_of_unfinished(level, stacklevel=2)
        if STALE in level._attributes:
            warn_of_stale(level, stacklevel=2)
        return read_level(
            level, objects=objects, bbox=bbox, order=order, chunks=chunks, clip=clip, attributes=attributes, compute=compute
        )

    def links(self, delta: int = 0, *, chunks: Any = None) -> Links:
        """Return links as they are stored: by chunk and row in the chunk.

        Parameters
        ----------
        delta : int
            Number of the level that the links lead to minus the number of this level; 0 for links within the level.
        chunks : sequence of str or of int tuples, optional
            Only links that are stored under these chunks: the chunk of the first stored endpoint, which is the lowest for
            undirected links.

        Returns
        -------
        Links
            Each link once, ordered as by :meth:`read`.

        Raises
        ------
        NotFoundError
            The level has no such links, or no such chunk.
        InputError
            A chunk key is malformed.
        FormatError, StoreError, MetadataError
            A part of the links is missing or damaged; the message names it.
        """
        return read_links(self._contents, delta, chunks=chunks)

    @property
    def chunk_shape(self) -> tuple[float, ...]:
        """Size of a chunk along each axis, in the units of the axes; coarser levels may have larger chunks."""
        return self.metadata.chunk_shape_in(self.store.metadata.chunk_shape)

    @property
    def nbytes(self) -> int:
        """Stored (compressed) bytes of the chunks: positions, fragments, attributes and links.

        Taken from the catalog of the last commit (one request, once). Tables of objects and groups, metadata and indexes of
        shards are not counted. Without a catalog, the length of every stored object is requested; ``store.refresh()`` makes a
        catalog.
        """
        return stored_nbytes(self._contents)

    def validate(self, *, deep: bool = True) -> Validation:
        """Check the level and list what is wrong; see :func:`dask_zv.validate`."""
        from dask_zv.maintain.validate import validate

        return validate(self.store, self.number, deep=deep)

    def info(self, buf: TextIO | None = None) -> None:
        """Print the contents of the level: chunks, size, compression, arrays with dtypes, objects, groups, links.

        Reads the catalog and the metadata of arrays, with a few dozen requests at most, and no chunk.

        Parameters
        ----------
        buf : text stream, optional
            Where to write; by default standard output.
        """
        print(level_info(self._contents), file=buf)

    def __repr__(self) -> str:
        return level_repr(self._contents)

    def _repr_html_(self) -> str:
        return level_html(self._contents)


class Store(_Facade):
    """A Zarr Vectors store, from :func:`create` or :func:`open`. It can be pickled and sent to other processes."""

    _former = frozenset(["handle", "prefix", "reload", "settings"])

    def __init__(self, contents: StoreContents) -> None:
        self._contents: StoreContents = contents

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self._contents,)

    @property
    def metadata(self) -> RootMetadata:
        """The metadata of the store: axes, bounds, chunk shape, geometry."""
        return self._contents.metadata

    @property
    def url(self) -> str:
        """Its URL, without secrets."""
        return self._contents.url

    @property
    def layout(self) -> LayoutName:
        """The layout of its arrays: ``"grid"`` (ZV 0.9) or ``"per_chunk"`` (ZV 0.7)."""
        return self._contents.layout

    @property
    def group(self) -> Group:
        """The root group."""
        return self._contents.group

    @property
    def read_only(self) -> bool:
        """True if it was opened for reading."""
        return self._contents.read_only

    @property
    def check_objects(self) -> bool:
        """True if levels compare every stored object with their catalog when they are first used."""
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
        """Headers of the source files, by file format: ``{"trk": {...}}``."""
        return self._contents.headers

    @property
    def attribute_specs(self) -> dict[str, dict[str, Any]]:
        """Declared metadata of attributes (dtype, unit and so on), by scope ("vertex", "object", "link") and name."""
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
        """Read the metadata again, and rebuild catalogs if the store is writable; see :func:`dask_zv.refresh`.

        Returns
        -------
        Store
            This store.
        """
        from dask_zv.maintain.refresh import refresh

        refresh(self)
        return self

    def validate(self, level: int | Sequence[int] | None = None, *, deep: bool = True) -> Validation:
        """Check the store and list what is wrong; see :func:`dask_zv.validate`."""
        from dask_zv.maintain.validate import validate

        return validate(self, level, deep=deep)

    def expand(self, bounds: Any, *, compute: bool = True) -> Delayed | None:
        """Make the bounds of the store larger; see :func:`dask_zv.expand`."""
        from dask_zv.level.expand import expand

        return expand(self, bounds, compute=compute)

    def set_attribute(
        self,
        name: str,
        values: Any,
        *,
        level: int = 0,
        max_categories: int = 10_000,
        compute: bool = True,
        progress: bool | None = None,
    ) -> Report | Delayed:
        """Give every vertex of a level a value of an attribute, new or in place of the old values.

        Positions and other attributes are neither read nor written. A new attribute appears with the commit. Chunks of one
        that is replaced change before it, as with ``mode="overwrite"``: values that are computed from the attribute itself
        are set under another name, which is renamed afterwards. The same call again finishes one that was interrupted.
        Coarser levels are marked as made from other data.

        Parameters
        ----------
        name : str
        values : ndarray or dask array (N,) or (N, C), Series, DataArray, or Delayed
            A value for each vertex, in the order of the rows of a Dataset in the spatial view: a variable of such a Dataset,
            or what was computed from one. Delayeds (a sequence of them, or one) yield arrays of rows, one behind the other.
            What ``ds.zv.map_chunks`` and ``ds.zv.map_objects`` return gives every vertex the value of its chunk, or of its
            object, also with ``compute=False``, where the results stay on the workers. Dtypes, strings and pandas categories
            are stored as by :func:`~dask_zv.write_points`; the attributes of a DataArray (``units``, ``long_name``) are kept.
        level : int
        max_categories : int
            Most distinct strings, at most 65,535.
        compute : bool
            False returns a Delayed, whose result is the report (in an Icechunk session, pass it to :meth:`finish`).
        progress : bool, optional
            Show a progress bar.

        Returns
        -------
        Report or Delayed

        Raises
        ------
        InputError
            The values have another number of rows, another order, or a dtype that can't be stored. Nothing is stored.
        FormatError
            The fragments of a chunk leave rows out, so that its vertices can't be numbered.
        ReadOnlyError
            The store was opened for reading.
        """
        from dask_zv.maintain.edit_attributes import set_attribute

        return set_attribute(self, name, values, level=level, max_categories=max_categories, compute=compute, progress=progress)

    def rename_attribute(
        self, old: str, new: str, *, level: int = 0, compute: bool = True, progress: bool | None = None
    ) -> Report | Delayed:
        """Give an attribute of vertices another name; its chunks are copied as they are stored.

        Parameters
        ----------
        old, new : str
        level : int
        compute, progress
            As for :meth:`set_attribute`.

        Returns
        -------
        Report or Delayed

        Raises
        ------
        InputError
            There is no attribute `old`, or there is one called `new`.
        ReadOnlyError
            The store was opened for reading.
        """
        from dask_zv.maintain.edit_attributes import rename_attribute

        return rename_attribute(self, old, new, level=level, compute=compute, progress=progress)

    def drop_attribute(self, name: str, *, level: int = 0, compute: bool = True) -> Report | Delayed:
        """Remove an attribute of vertices; no chunk is read or written.

        Parameters
        ----------
        name : str
        level : int
        compute : bool
            False returns a Delayed, whose result is the report.

        Returns
        -------
        Report or Delayed

        Raises
        ------
        InputError
            There is no such attribute.
        ReadOnlyError
            The store was opened for reading.
        """
        from dask_zv.maintain.edit_attributes import drop_attribute

        return drop_attribute(self, name, level=level, compute=compute)

    def set_object_attribute(self, name: str, values: Any, *, level: int = 0, compute: bool = True) -> Report | Delayed:
        """Give the objects of a level a value of an attribute, new or in place of the old values.

        The table of the attribute is written as a whole, by one task; vertices are not touched.

        Parameters
        ----------
        name : str
        values : ndarray or dask array (O,) or (O, C), Series or DataArray with ids, or Delayed
            A row to each object, by ascending id; or a Series indexed by object id, or a DataArray with the coordinate
            ``object`` (what ``ds.zv.map_objects`` returns, also with ``compute=False``), where other objects have no value.
            Dtypes are those of :func:`~dask_zv.write_points`.
        level : int
        compute : bool
            False returns a Delayed, whose result is the report.

        Returns
        -------
        Report or Delayed

        Raises
        ------
        InputError
            The level has no objects, or none of an id; the dtype has no word for a missing value, and some are.
        ReadOnlyError
            The store was opened for reading.
        """
        from dask_zv.maintain.edit_objects import set_object_attribute

        return set_object_attribute(self, name, values, level=level, compute=compute)

    def rename_object_attribute(self, old: str, new: str, *, level: int = 0, compute: bool = True) -> Report | Delayed:
        """Give an attribute of objects another name.

        Parameters
        ----------
        old, new : str
        level, compute
            As for :meth:`set_object_attribute`.

        Returns
        -------
        Report or Delayed

        Raises
        ------
        InputError
            There is no object attribute `old`, or there is one called `new`.
        """
        from dask_zv.maintain.edit_objects import rename_object_attribute

        return rename_object_attribute(self, old, new, level=level, compute=compute)

    def drop_object_attribute(self, name: str, *, level: int = 0, compute: bool = True) -> Report | Delayed:
        """Remove an attribute of objects.

        Parameters
        ----------
        name : str
        level, compute
            As for :meth:`set_object_attribute`.

        Returns
        -------
        Report or Delayed

        Raises
        ------
        InputError
            There is no such object attribute.
        """
        from dask_zv.maintain.edit_objects import drop_object_attribute

        return drop_object_attribute(self, name, level=level, compute=compute)

    def set_group(self, group: int | str, ids: Any, *, level: int = 0, compute: bool = True) -> Report | Delayed:
        """Say which objects are in a group, which is made where there is none.

        Parameters
        ----------
        group : int or str
            Number of the group, or its name: a new name gets the next number. Groups up to a new number are empty. A new group
            has no value of the attributes of groups.
        ids : sequence of int
            All of its objects.
        level : int
        compute : bool
            False returns a Delayed, whose result is the report.

        Returns
        -------
        Report or Delayed

        Raises
        ------
        NotFoundError
            The level has no such object.
        InputError
            The level has no objects.
        """
        from dask_zv.maintain.edit_objects import set_group

        return set_group(self, group, ids, level=level, compute=compute)

    def drop_group(self, group: int | str, *, level: int = 0, compute: bool = True) -> Report | Delayed:
        """Remove a group. The numbers of others stay: before others it leaves an empty group without a name.

        Parameters
        ----------
        group : int or str
            Its number or name.
        level, compute
            As for :meth:`set_group`.

        Returns
        -------
        Report or Delayed

        Raises
        ------
        InputError
            There is no such group.
        """
        from dask_zv.maintain.edit_objects import drop_group

        return drop_group(self, group, level=level, compute=compute)

    def delete_objects(
        self, ids: Any, *, level: int = 0, compute: bool = True, progress: bool | None = None
    ) -> Report | Delayed:
        """Delete objects: their vertices, links and manifests, their rows in the tables of objects, and their ids in groups.

        Only chunks that lose a vertex are written. The deletion is logged beside the level before anything changes; a process
        that dies afterwards leaves a level that says so when it is read, and the next edit finishes the deletion. Coarser
        levels are marked as made from other data, and links between levels go.

        Parameters
        ----------
        ids : int or sequence of int
        level : int
        compute : bool
            False returns a Delayed, whose result is the report.
        progress : bool, optional
            Show a progress bar.

        Returns
        -------
        Report or Delayed
            Its `rows` and `chunks` are those that were written again.

        Raises
        ------
        NotFoundError
            The level has no such object.
        InputError
            The level has no objects, layout ``per_chunk``, or arrays of other tools whose rows can't be deleted.
        ReadOnlyError
            The store was opened for reading.
        """
        from dask_zv.maintain.edit_delete import delete_objects

        return delete_objects(self, ids, level=level, compute=compute, progress=progress)

    def delete(self, *, bbox: Any, level: int = 0, compute: bool = True, progress: bool | None = None) -> Report | Delayed:
        """Delete the vertices in a box, and the links that lose an end; as :meth:`delete_objects` otherwise.

        Objects stay, also those that have no vertex any more. Nodes of skeletons whose parent is deleted are roots. Lines and
        paths can't lose vertices from their middle: delete whole objects.

        Parameters
        ----------
        bbox : pair of corners
            The closed box ``(lower corner, upper corner)``, in the units of the axes; None in a corner leaves a side open.
        level, compute, progress
            As for :meth:`delete_objects`.

        Returns
        -------
        Report or Delayed

        Raises
        ------
        InputError
            The box is malformed, or the geometry is one of paths.
        """
        from dask_zv.maintain.edit_delete import delete

        return delete(self, bbox=bbox, level=level, compute=compute, progress=progress)

    def finish(self, result: Report) -> Report:
        """Finish a write with ``compute=False``: in an Icechunk session, merge its changes into the session.

        On other stores the result is returned unchanged.

        Parameters
        ----------
        result : Report
            The computed result of a write to this store.

        Returns
        -------
        Report

        Raises
        ------
        PlanError
            The session was committed after the write was planned, or belongs to another process. Nothing is merged.
        InputError
            The result is that of a write to an Icechunk session, and this store is not in one.
        """
        report: Report = finish_write(self._contents.handle, result)
        self._contents.reload()
        return report

    def commit(self, message: str, metadata: Mapping[str, Any] | None = None, *, rebase: bool = True) -> str:
        """Commit the Icechunk session of the store, with all of its changes, as one snapshot.

        The same as ``session.commit(message)``, with another behaviour if others have committed to the branch meanwhile. The
        session ends; to write more, open a new session and the store in it.

        Parameters
        ----------
        message : str
        metadata : mapping of str to JSON value, optional
            Kept with the snapshot.
        rebase : bool
            If the commits of others changed no node and no chunk that this session changed, put this snapshot on top of theirs.
            Two writes to one level always conflict, because both change its lists of chunks.

        Returns
        -------
        str
            Id of the snapshot.

        Raises
        ------
        PlanError
            Others have committed to the branch, and the changes conflict. Nothing is committed, and nothing is discarded.
        InputError
            The store is not in a writable session, so it needs no commit.
        ReadOnlyError
            The session was committed before.
        StoreError
            There is nothing to commit, or storage failed.
        """
        return commit_session(self._contents.handle, message, metadata, rebase=rebase)

    @property
    def bounds(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Lower and upper corner of the box of all positions: one number for each of :attr:`axes`, in their units.

        In the form that ``level.read(bbox=...)`` takes. The box given to :func:`create`, or that of the data; NaN if no data is
        written yet.
        """
        nothing = (float("nan"),) * self.metadata.ndim
        return self.metadata.bounds if has_bounds(self._contents) else (nothing, nothing)

    @property
    def chunk_shape(self) -> tuple[float, ...]:
        """Size of a chunk of level 0 along each of :attr:`axes`, in their units."""
        return self.metadata.chunk_shape

    @property
    def nbytes(self) -> int:
        """Stored (compressed) bytes of the chunks of all levels; :attr:`Level.nbytes` says what is counted."""
        return sum(self.level(number).nbytes for number in self.levels)

    def info(self, buf: TextIO | None = None) -> None:
        """Print the contents of the store: axes, bounds, and each level with its chunks, size, arrays, objects and links.

        Reads the catalogs and the metadata of arrays, with a few dozen requests per level at most, and no chunk.

        Parameters
        ----------
        buf : text stream, optional
            Where to write; by default standard output.

        Examples
        --------
        >>> import dask_zv as dzv
        >>> store = dzv.create({}, chunk_shape=(10, 10), bounds=((0, 0), (99, 99)))
        >>> _ = dzv.write_points(store, [[1.0, 2.0], [3.0, 14.0]], attributes={"mass": [0.5, 1.5]})
        >>> store.info()  # doctest: +ELLIPSIS
        <dask_zv.Store point_cloud>
        ...
        """
        print(store_info(self._contents), file=buf)

    def __repr__(self) -> str:
        return store_repr(self._contents)

    def _repr_html_(self) -> str:
        return store_html(self._contents)


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
    exist_ok: bool = False,
) -> Store:
    """Make an empty store, or go on with one.

    Parameters
    ----------
    target : str, Path, zarr Store or StorePath, fsspec mapper, dict, or Icechunk session
    geometry : {"point_cloud", "line", "polyline", "streamline", "skeleton", "graph", "mesh"}
        Also in the plural, ``"points"`` for a point cloud, ``"tracks"`` for polylines. Layout ``per_chunk`` supports the first
        four.
    chunk_shape : sequence of float, length D
        Size of a chunk along each axis, in the units of the axes. The grid starts at 0, whatever the bounds.
    bounds : pair of corners, optional
        Closed box that positions must lie in. By default the box of the data, once it is written.
    bin_shape : sequence of float, optional
        Size of a bin; `chunk_shape` must be a multiple of it. By default one bin per chunk.
    axes : sequence of str or of {"name", "type", "unit"}, optional
        2 to 4 axes; by default x, y, z, w. Names of dimensions and coordinates of Datasets (vertex, object, edges, crs ...) are
        refused.
    crs : mapping, or whatever :meth:`pyproj.CRS.from_user_input` takes, optional
        Coordinate reference system. A mapping is stored as it is. A code, WKT, a pyproj CRS or anything else that pyproj takes
        (the extra ``geo``) is stored as authority and code if it has them, else as WKT.
    dtype : dtype, optional
        Dtype of the stored positions. By default that of the first positions written; integers become floats that represent
        them exactly.
    layout : {"grid", "per_chunk"}, optional
        "grid" (ZV 0.9, the default): one Zarr array per logical array, with a cell per chunk; current tools read it.
        "per_chunk" (ZV 0.7): a Zarr array per chunk.
    shard_chunks : int, sequence of int, or "auto"
        Number of chunks packed into one file (or object) per array, or (layout ``grid``) the shape of such a shard in chunks. 1
        stores each chunk in its own file. "auto": 1 for at most 4,096 chunks on a local file system or in memory, else 256.
        Packing makes many chunks fast; other tools read single files faster than shards.
    compressor : {"auto", "zstd", "blosc", None}, or a list of Zarr codecs
        Compressor of the chunks. "auto" is "zstd" in layout ``grid``; layout ``per_chunk`` stores raw bytes.
    storage_options : mapping, optional
        Options of a URL.
    overwrite : bool
        Replace what is at the target.
    exist_ok : bool
        Return the store that is at the target, opened for writing, where it has this geometry and chunk shape, and whatever
        else is given; bounds that were expanded since are no difference. Writes to it, and to one that is made so, can be
        called again: what an interrupted call has stored is kept, and what is written already is left alone. A script that was
        killed finishes its work when it is run again.

    Returns
    -------
    Store

    Raises
    ------
    InputError
        An argument is malformed, or, with `exist_ok`, the store there is another than asked for: the message says in what.
    StoreError
        The target already exists, or cannot be written.

    Examples
    --------
    >>> import dask_zv as dzv
    >>> store = dzv.create({}, chunk_shape=(10, 10), axes=["x", "y"])
    >>> store.axes
    ('x', 'y')
    """
    made = create_contents(
        target,
        geometry,
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
        exist_ok=exist_ok,
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
        "r" reads; "r+" reads and writes.
    storage_options : mapping, optional
        Options of a URL, as in fsspec.
    check_objects : bool
        Compare the length and the ETag (or time of change) of every stored object with the catalog now. Otherwise an edit of a
        chunk by another tool is found when that chunk is read. This costs a request per object; counts of rows and Dask keys
        are then those of the edited store. A level without a valid catalog is read, and anything that is missing, truncated,
        outside of the box of its chunk or inconsistent is an error. If only times differ, as in a copied store, bytes are
        compared, and changed bytes are a warning, because an edit cannot be distinguished from damage.

    Returns
    -------
    Store

    Raises
    ------
    NotFoundError
        Nothing is there.
    MetadataError
        A Zarr group that is not a Zarr Vectors store, or a store of an unsupported version.
    StoreError
        Not a Zarr v3 hierarchy, or the store cannot be reached.
    """
    if mode not in ("r", "r+"):
        raise InputError(f"mode {mode!r} is not 'r' or 'r+': dzv.create makes stores")
    contents = StoreContents.opened(target, mode, storage_options, check_chunks if check_objects else None)
    for number in contents.levels if check_objects else ():
        _ = contents.level(number).chunks
        check_others(contents.level(number))
        warn_of_unfinished(contents.level(number), stacklevel=2)
    return Store(contents)
