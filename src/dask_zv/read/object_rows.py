"""Columns of a level's vertices in the order of its objects: each object's together, along its path."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.config import settings
from dask_zv.errors import FormatError, NotFoundError
from dask_zv.geometry.result import Geometry
from dask_zv.geometry.schema import AttributeSchema
from dask_zv.level.link_source import FoundLinks
from dask_zv.level.object_index import ObjectIndex
from dask_zv.level.source import check_same_objects, level_blobs
from dask_zv.read.block import BlockPlan, Wanted, read_block
from dask_zv.read.chunk_cache import SharedCache
from dask_zv.read.columns import LevelRows
from dask_zv.read.link_reading import plan_cells
from dask_zv.read.object_lengths import ObjectLengths, object_lengths
from dask_zv.read.objects import ObjectFacts
from dask_zv.read.ragged import RaggedColumns
from dask_zv.read.result import Finish

PARENT = "/parent"
"""A column's name that no attribute can have."""
_POSITIONS: SharedCache[NDArray[Any]] = SharedCache(128 << 20, lambda p: p.nbytes + 200)


class ObjectRows(RaggedColumns):
    """Vertices in the order of the objects; columns are the axes by number, the attributes by name, and :data:`PARENT`.

    Parameters
    ----------
    vertices : LevelRows
    lengths : ObjectLengths
    links : FoundLinks, optional
        Of skeletons, for their parents.
    chunked : bool
        Skeletons of one path a fragment.
    implied : bool
        Neighbours on a fragment are linked; False where all links are stored.
    """

    def __init__(
        self,
        vertices: LevelRows,
        lengths: ObjectLengths,
        links: FoundLinks | None = None,
        *,
        chunked: bool = False,
        implied: bool = True,
    ) -> None:
        super().__init__()
        self.vertices = vertices
        self.links = links
        self.chunked = chunked
        self.implied = implied
        self._lengths: ObjectLengths | None = lengths
        self._index: ObjectIndex | None = None

    def __getstate__(self) -> dict[str, Any]:
        lengths = None if self.vertices.source.catalogued else self._lengths
        kept = {name: getattr(self, name) for name in ("vertices", "links", "chunked", "implied")}
        return {**kept, "_lengths": lengths}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._index = None
        self._offsets = None

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        links = repr(self.links and self.links.source)
        return (type(self).__name__, self.vertices.__dask_tokenize__(), links, self.chunked, self.implied)

    @property
    def index(self) -> ObjectIndex:
        """The manifests."""
        if self._index is None:
            self._index = ObjectIndex(self.vertices.source)
        return self._index

    @property
    def lengths(self) -> ObjectLengths:
        """Ids and lengths of the objects."""
        if self._lengths is None:
            self._lengths = object_lengths(self.vertices.source, self.vertices.table, self.index)
        return self._lengths

    @property
    def counts(self) -> NDArray[np.int64]:
        """Vertices of each object."""
        return self.lengths.lengths

    @property
    def where(self) -> str:
        """URL of the level, for errors."""
        return self.vertices.source.where()

    @property
    def row_bytes(self) -> int:
        """Bytes of a stored row."""
        return self.vertices.row_bytes

    def _empty(self, name: str | int) -> NDArray[Any]:
        return np.zeros(0, np.int64) if name == PARENT else self.vertices._empty(name)

    def _read_cells(self, name: str | int, objects: NDArray[np.intp]) -> list[NDArray[Any]]:
        if isinstance(name, int):
            return [self._positions(objects)[:, name]]
        if name == PARENT:
            return [self._parents(objects)]
        schema = next((a for a in self.vertices.source.schema.attributes if a.name == name), None)
        found = self.read(objects, () if schema is None else (schema,))
        return [found.attributes[name]]

    def _positions(self, objects: NDArray[np.intp]) -> NDArray[Any]:
        """Return the positions of objects; x, y and z of the same ones are one read."""
        s = self.vertices.source
        key = (s.place.handle.identity, s.place.prefix, s.token, s.index_token, objects.tobytes())
        return _POSITIONS.get_many([key], lambda _: [self.read(objects, ()).positions])[0]

    def _parents(self, objects: NDArray[np.intp]) -> NDArray[np.int64]:
        """Return the numbers of parents among the rows of all objects."""
        parents = self.read(objects, (), trees=True).parents
        if parents is None:
            raise FormatError(
                "a node has several parents: links of this level are those of a graph, read its edges", store=self.where
            )
        counts = self.counts[objects]
        shift = np.repeat(self.offsets[objects] - (np.cumsum(counts) - counts), counts)
        return np.where(parents < 0, -1, parents + shift)

    def read(self, objects: NDArray[np.intp], attributes: tuple[AttributeSchema, ...], *, trees: bool = False) -> Geometry:
        """Return the vertices of some objects, without Dask: a task does this.

        Parameters
        ----------
        objects : ndarray of intp, shape (n,)
            Numbers of objects in the table of lengths, ascending.
        attributes : tuple of AttributeSchema
        trees : bool
            With the parents of skeletons.

        Raises
        ------
        FormatError
            An object does not have as many vertices as the table says, or a part of it is damaged.
        StoreError
            A part of it is missing.
        """
        source, table = self.vertices.source, self.vertices.table
        ids = self.lengths.ids[objects]
        try:
            chosen = self.index.select(ids)
        except NotFoundError:
            check_same_objects(source)
            raise
        numbers = table.find(chosen.distinct_chunks)
        if (numbers < 0).any():
            lost = chosen.distinct_chunks[numbers < 0][0]
            raise FormatError(
                "a manifest names a chunk that the level does not have",
                store=source.where(), array="object_index", chunk=".".join(map(str, lost.tolist())),
            )  # fmt: skip
        links = self.links if trees else None
        wanted = Wanted(
            attributes,
            by_object=True,
            trees=trees and self.implied,
            parents=trees and not self.implied,
            links=None if links is None else links.source,
        )
        mask = others = None
        if links is not None:
            mask, others = plan_cells(links, level_blobs(source).catalog, table, numbers, source.where(), incident=False)
        parts = []
        for start in range(0, len(numbers), settings().pass_chunks):
            stop = min(start + settings().pass_chunks, len(numbers))
            coords = table.coords[numbers[start:stop]]
            cells = None if mask is None else np.packbits(mask[:, start:stop])
            whole = np.ones(len(coords), bool)
            extra = others if not start else None
            parts.append(read_block(BlockPlan(source, coords, whole, chosen.within(coords), cells, extra), wanted))
        finish = Finish(source, wanted, table.coords[numbers], False, False, None, self.chunked, self.vertices.offset)
        found = finish(parts, ObjectFacts(chosen, ids))
        check_same_objects(source)
        self._check(objects, found)
        return found

    def _check(self, objects: NDArray[np.intp], found: Geometry) -> None:
        assert found.lengths is not None
        wrong = np.flatnonzero(found.lengths != self.counts[objects])
        if len(wrong):
            at = int(wrong[0])
            raise FormatError(
                f"object {self.lengths.ids[objects[at]]} has {found.lengths[at]} vertices, the table of objects says "
                f"{self.counts[objects[at]]}: another tool changed it; store.refresh() takes the level as it is",
                store=self.vertices.source.where(), array="object_index",
            )  # fmt: skip
