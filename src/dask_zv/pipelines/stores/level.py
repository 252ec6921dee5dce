"""One resolution level of a store: what it says about itself, and reading it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, overload

from dask_zv.batch.group import Group
from dask_zv.batch.tasks import Place
from dask_zv.errors import FormatError, MetadataError, escaped
from dask_zv.format.metadata import LevelMetadata
from dask_zv.geometry.schema import VERTICES
from dask_zv.pipelines.source.level_check import check_chunks, has_emptied_fragments
from dask_zv.pipelines.source.level_io import ChunkTable, LevelSource, chunk_table, find_source
from dask_zv.pipelines.source.level_links import edges_are_implied, has_path_fragments, links_of, offset_of, read_links
from dask_zv.pipelines.source.link_source import FoundLinks
from dask_zv.pipelines.source.objects_index import ObjectIndex
from dask_zv.storage.catalog import Catalog
from dask_zv.storage.grid_defaults import SETTINGS
from dask_zv.storage.objects import join

if TYPE_CHECKING:
    from dask.delayed import Delayed

    from dask_zv.geometry.result import Geometry, Links
    from dask_zv.pipelines.stores.store import Store

__all__ = ["Level"]


class Level:
    """One resolution level of a store.

    Attributes
    ----------
    store : Store
    number : int
    metadata : LevelMetadata
    """

    def __init__(self, store: Store, number: int, attributes: Mapping[str, Any]) -> None:
        self.store = store
        self.number = number
        self._attributes = dict(attributes)
        self._links: dict[int, FoundLinks | None] = {}
        self._documents: dict[str, Mapping[str, Any] | None] = {}
        try:
            self.metadata = LevelMetadata.from_attributes(self._attributes)
        except MetadataError as error:
            raise error.at(store=self.url) from None

    def __reduce__(self) -> tuple[Any, ...]:
        return _level_of, (self.store, self.number)  # what is remembered of it stays in this process

    @property
    def url(self) -> str:
        """Where the level is, without secrets."""
        return join(self.store.url, str(self.number))

    @property
    def place(self) -> Place:
        """The level's group as tasks carry it."""
        return Place(self.store.handle, join(self.store._prefix, str(self.number)), self.store.layout)

    @property
    def group(self) -> Group:
        """The level's group."""
        return Group._from_handle(self.place.handle, self.place.prefix, self.place.layout)

    @cached_property
    def _found(self) -> tuple[LevelSource, Catalog | None]:
        state = json.dumps([self.store.metadata.to_attributes(), self._attributes], sort_keys=True, default=str)
        token = hashlib.sha256(state.encode()).hexdigest()
        check = self.store.check_objects
        return find_source(self.place, self.store.metadata, self.metadata, token, check_objects=check, keep=self._documents)

    @property
    def source(self) -> LevelSource:
        """What a task needs to read the level."""
        return self._found[0]

    @cached_property
    def chunks(self) -> ChunkTable:
        """The level's chunks and their rows: from the catalog, without one from a document per chunk.

        Raises
        ------
        FormatError
            The level is another tool's, and counts more vertices than it has.
        """
        root = self.store.metadata
        table = chunk_table(self.source, self._found[1], self.metadata.room(root.chunk_shape, root.bounds))
        have, told = int(table.rows.sum()), self.metadata.vertex_count
        # some writers never count, edits that empty chunks leave the count; what was in ours the catalog has told
        foreign = not self.source.catalogued and SETTINGS not in self._attributes
        if foreign and have < told and not table.emptied and not has_emptied_fragments(self.source, table):
            raise FormatError(
                f"the level has {have:,} vertices in {len(table):,} chunks, its metadata counts {told:,}: chunks were lost; "
                "restore them, or correct vertex_count",
                store=self.url, array=VERTICES,
            )  # fmt: skip
        if self.store.check_objects and not self.source.catalogued:
            check_chunks(self.source, table)
        return table

    @property
    def is_packed(self) -> bool:
        """True where the catalog says that chunks share objects."""
        catalog = self._found[1]
        columns = None if catalog is None else catalog.arrays.get(VERTICES)
        return columns is not None and bool((columns["shard"] >= 0).any())

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the vertex attributes."""
        own = tuple(a.name for a in self.source.schema.attributes)
        return own if self.source.chunk_attribute is None else (*own, self.source.chunk_attribute[0])

    @property
    def kind(self) -> str | None:
        """What the level's objects are: the first of the store's geometry types; None where it names none."""
        kinds = self.store.metadata.geometry_types
        return kinds[0] if kinds else None

    @cached_property
    def lookup(self) -> Catalog:
        """The chunks as a table that finds their rows by coordinates."""
        return Catalog(self.chunks.coords, self.chunks.rows, {})

    @cached_property
    def index(self) -> ObjectIndex:
        """The manifests of the level's objects, and the tables beside them."""
        return ObjectIndex(self.source, self._documents)

    def found_links(self, delta: int = 0) -> FoundLinks | None:
        """Return which links the level has to the level `delta` above, None where it has none."""
        if delta not in self._links:
            self._links[delta] = links_of(self, delta)
        return self._links[delta]

    @property
    def has_implied_edges(self) -> bool:
        """True where rows that follow each other in a fragment are linked: most skeletons, and graphs that were made so."""
        return edges_are_implied(self)

    @cached_property
    def is_chunked_skeleton(self) -> bool:
        """True for skeletons of one unbranched path a fragment, whose positions may have an offset."""
        return has_path_fragments(self)

    @cached_property
    def offset(self) -> tuple[float, ...] | None:
        """What reading adds to the stored positions."""
        return offset_of(self)

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
        from dask_zv.pipelines.reading.levels import read_level

        return read_level(
            self, objects=objects, bbox=bbox, order=order, chunks=chunks, clip=clip, attributes=attributes, compute=compute
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
        return read_links(self, delta, chunks=chunks)

    def __repr__(self) -> str:
        s = self.source.schema
        parts = [f"{a.name} ({a.value_dtype}{'' if a.channels is None else f' x {a.channels}'})" for a in s.attributes]
        lines = [f"<dask_zv.Level {self.url}: {self.metadata.vertex_count:,} vertices in {len(self.chunks):,} chunks>"]
        lines.append(f"  positions: {s.dtype} x {s.grid.ndim}")
        if parts:
            lines.append(f"  attributes: {', '.join(parts)}")
        return "\n".join(map(escaped, lines))

    def _repr_html_(self) -> str:
        from dask_zv.pipelines.stores.html import level_summary_html

        return level_summary_html(self)


def _level_of(store: Store, number: int) -> Level:
    return store.level(number)
