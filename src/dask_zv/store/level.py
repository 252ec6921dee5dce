"""One resolution level of a store: what it says about itself, and reading it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from dask_zv.errors import escaped
from dask_zv.geometry.result import Geometry, Links
from dask_zv.level.contents import LevelContents
from dask_zv.level.source import ChunkTable
from dask_zv.read.check import check_chunks
from dask_zv.read.levels import read_level
from dask_zv.read.links import read_links
from dask_zv.store.html import level_summary_html

if TYPE_CHECKING:
    from dask.delayed import Delayed


class Level(LevelContents):
    """One resolution level of a store.

    Attributes
    ----------
    store : Store
    number : int
    metadata : LevelMetadata
    """

    def _find_chunks(self) -> ChunkTable:
        table = super()._find_chunks()
        if self.store.check_objects and not self.source.catalogued:
            check_chunks(self.source, table)
        return table

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
        return level_summary_html(self)
