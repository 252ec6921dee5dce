"""Reading blocks of chunks, and from the parts of all blocks to the geometry that a reader gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError
from dask_zv.format.keys import coords_to_keys
from dask_zv.geometry.assembly import Paths, RowMap, follow_copies, parents_of, parents_of_edges
from dask_zv.geometry.result import Geometry
from dask_zv.level.fragment_table import FragmentTable, chunk_numbers
from dask_zv.level.link_source import FoundLinks, LinkSource
from dask_zv.level.object_index import fragment_owners
from dask_zv.level.source import LevelSource, level_blobs
from dask_zv.read.chunk_boxes import check_positions, note_strays
from dask_zv.read.decode import BlockRows, decode_block, empty_columns, fetch, join_columns
from dask_zv.read.link_cells import CellPlan, LinkCells, cell_addresses, decode_cells
from dask_zv.read.links import Endpoints, resolve_links
from dask_zv.read.select import BlockToRead, Wanted, rows_inside
from dask_zv.spatial.chunks import ChunkLookup
from dask_zv.spatial.grid import Box


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What one block's task returns: its N rows that passed the filters, in reading order."""

    positions: NDArray[Any]
    columns: Mapping[str, NDArray[Any]]
    owners: NDArray[np.int64] | None = None
    """Object of each row; None where the rows are put into the order of the manifests, which tell."""
    fragments: NDArray[np.int64] | None = None  # fragments of each chunk
    counts: NDArray[np.int64] | None = None  # rows of each fragment
    kept: NDArray[np.int64] | None = None  # those of them that are here
    places: NDArray[np.int64] | None = None  # place of each row in its fragment
    rows: RowMap | None = None
    linked: NDArray[np.bool_] | None = None
    first: NDArray[np.bool_] | None = None  # see :func:`~dask_zv.geometry.assembly.parents_of`
    links: LinkCells | None = None
    edited: bool = False  # another tool changed something that the catalog knows

    def __len__(self) -> int:
        return len(self.positions)

    def __sizeof__(self) -> int:
        return self.positions.nbytes + sum(v.nbytes for v in self.columns.values()) + 200


def read_block(plan: BlockToRead, wanted: Wanted) -> Part:
    """Read a block of chunks and keep the rows inside the box that belong to the chosen objects."""
    source, links = plan.source, wanted.links
    blobs = level_blobs(source)
    more, cells = [], None
    if links is not None:
        cells = _cells(plan, links, blobs.catalog)
        more = cell_addresses(links, wanted.link_attributes, cells)
    found = fetch(source, blobs, coords_to_keys(plan.coords), wanted.attributes, more=more)
    block = decode_block(source, blobs, plan.coords, wanted.attributes, found)
    if not source.catalogued or blobs.catalog_is_stale:
        look = note_strays if wanted.box is None else check_positions
        look(source, plan.coords, block.fragments.rows, block.positions)
    records = None
    if cells is not None and links is not None:
        records = decode_cells(source, links, wanted.link_attributes, cells, found)
    owners = None
    # in the order of the manifests, owners are told by these in the end
    if source.schema.has_objects and (plan.chosen is not None or not wanted.by_object):
        table = plan.chosen if plan.chosen is not None else fragment_owners(source, plan.coords)
        owners = table.owners_in(plan.coords, block.fragments.numbers, source.where())
    return _select(wanted, block, owners, _keep(plan, wanted.box, block, owners), records, edited=blobs.catalog_is_stale)


def _cells(plan: BlockToRead, links: LinkSource, catalog: Any) -> CellPlan:
    shape = len(links.segments), len(plan.coords)
    if plan.cells is None:
        mask = FoundLinks(links).present(plan.coords, catalog)
    else:
        mask = np.unpackbits(plan.cells, count=shape[0] * shape[1]).astype(bool).reshape(shape)
    own = CellPlan.of(mask, plan.coords)
    return own if plan.others is None or not len(plan.others) else own + plan.others


def _keep(plan: BlockToRead, box: Box | None, block: BlockRows, owners: NDArray[np.int64] | None) -> NDArray[np.bool_] | None:
    """Return which rows to keep, None for all."""
    keep: NDArray[np.bool_] | None = None
    if box is not None and not plan.whole.all():
        rows = block.fragments.rows
        keep = rows_inside(rows, plan.whole, box, block.positions[np.repeat(~plan.whole, rows)])
    if plan.chosen is not None:
        assert owners is not None
        mine = np.repeat(owners != -1, block.fragments.counts)
        keep = mine if keep is None else keep & mine
    return None if keep is None or keep.all() else keep


def _select(
    wanted: Wanted,
    block: BlockRows,
    owners: NDArray[np.int64] | None,
    keep: NDArray[np.bool_] | None,
    links: LinkCells | None,
    *,
    edited: bool,
) -> Part:
    """Return the rows to keep, with what is asked of them."""
    select: Any = slice(None) if keep is None else keep
    total = len(block.positions)
    counts, starts = block.fragments.counts, block.fragments.starts
    kept = places = linked = first = None
    if wanted.by_object:
        kept = counts if keep is None else np.diff(np.r_[0, np.cumsum(keep)][np.r_[starts, total]])
    if wanted.places:
        places = (np.arange(total) - np.repeat(starts, counts))[select]
    if wanted.trees:
        begins = np.zeros(total, bool)
        begins[starts[counts > 0]] = True
        goes_on = ~begins
        if keep is not None:
            goes_on[1:] &= keep[:-1]
        linked, first = goes_on[select], begins[select]
    return Part(
        block.positions[select],
        {k: v[select] for k, v in block.columns.items()},
        None if owners is None or wanted.by_object else np.repeat(owners, counts)[select],
        block.fragments.numbers if wanted.by_object else None,
        counts if wanted.by_object else None,
        kept,
        places,
        None if links is None else block.fragments.row_map(keep),
        linked,
        first,
        links,
        edited,
    )


# -------------------------------------------------------------------------------------------------- the whole


@dataclass(frozen=True, slots=True, eq=False)
class ObjectFacts:
    """What was found about the objects."""

    table: FragmentTable | None = None  # their fragments in path order, where rows are wanted in that order
    ids: NDArray[np.int64] | None = None  # all objects that the answer lists, where that is known beforehand
    tables: Mapping[str, Any] = field(default_factory=dict)
    """Fields of :class:`~dask_zv.geometry.result.Geometry`: attributes of objects, and groups."""


@dataclass(frozen=True, slots=True, eq=False)
class Finish:
    """Make the result from the blocks' parts."""

    source: LevelSource
    wanted: Wanted
    coords: NDArray[np.int64]  # the chunks that were read, ascending, shape (n, K)
    every: bool  # they are all of the level's
    whole: bool  # and no row of them was left out
    level: NDArray[np.int64] | None = None
    """All chunks of the level, where links may lead to others than those that were read; shape (m, K)."""
    chunked: bool = False  # skeletons of one path a fragment
    offset: tuple[float, ...] | None = None  # to be added to all positions

    def __call__(self, parts: Sequence[Part], objects: ObjectFacts) -> Geometry:
        positions, columns = self._join(parts)
        owners = None
        if self.source.schema.has_objects and not self.wanted.by_object:
            owners = _joined(parts, lambda p: p.owners, np.int64)
        links = self._links(parts)
        edges, parents, told = self._edges(parts, links)
        ids = lengths = None
        if self.wanted.by_object:
            paths = self._by_object(parts, objects)
            n = len(positions)
            positions, columns = positions[paths.rows], {k: v[paths.rows] for k, v in columns.items()}
            owners, ids, lengths = paths.owners, paths.ids, paths.lengths
            if edges is not None:
                edges, records = follow_copies(edges, paths.rows, paths.owners, n)
                told = told[records]
                if parents is not None:
                    parents = np.full(len(positions), -1, np.int64)
                    parents[edges[:, 0]] = edges[:, 1]
                    order = np.argsort(edges[:, 0], kind="stable")
                    edges, told = edges[order], told[order]
        if self.offset is not None:
            positions = positions.astype(np.float64) + np.asarray(self.offset)
        schemas = {a.name: a for a in self.wanted.attributes}
        values = {k: schemas[k].values(v) if k in schemas else self._chunk_values(v) for k, v in columns.items()}
        extra: dict[str, Any] = {"ids": ids, "lengths": lengths, "parents": parents}
        if edges is not None and links is not None:
            of_links = {name: _taken(column, told) for name, column in links.attributes.items()}
            faces = edges.shape[1] > 2
            extra |= {"faces": edges, "face_attributes": of_links} if faces else {"edges": edges, "edge_attributes": of_links}
        elif edges is not None:
            extra["edges"] = edges
        extra |= objects.tables
        return Geometry(positions, values, owners, **extra)

    def _join(self, parts: Sequence[Part]) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
        if len(parts) == 1:
            return parts[0].positions, dict(parts[0].columns)
        columns = empty_columns(self.source, self.wanted.attributes)
        if not parts:
            return np.zeros((0, self.source.schema.grid.ndim), self.source.schema.dtype), columns
        joined = {name: join_columns(self.source, name, [p.columns[name] for p in parts]) for name in columns}
        return np.concatenate([p.positions for p in parts]), joined

    def _links(self, parts: Sequence[Part]) -> Endpoints | None:
        links = self.wanted.links
        if links is None:
            return None
        rows = RowMap.join([p.rows for p in parts if p.rows is not None], [len(p) for p in parts])
        cells = [p.links for p in parts if p.links is not None]
        exact = self.source.catalogued and not any(p.edited for p in parts)
        return resolve_links(
            self.source,
            links,
            self.wanted.link_attributes,
            cells,
            rows,
            self.coords,
            self.level,
            every=self.every,
            counted=self.whole,
            exact=exact,
        )

    def _edges(
        self, parts: Sequence[Part], links: Endpoints | None
    ) -> tuple[NDArray[np.int64] | None, NDArray[np.int64] | None, NDArray[np.int64]]:
        """Return links, parents, and which record each link is (-1 for none)."""
        nothing = np.zeros(0, np.int64)
        if self.wanted.trees:
            linked = _joined(parts, lambda p: p.linked, bool)
            first = _joined(parts, lambda p: p.first, bool)
            records = np.zeros((0, 2), np.int64) if links is None else links.rows
            if records.shape[1] == 2:
                parents, told = parents_of(linked, first, records, either_way=self.chunked)
                child = np.flatnonzero(parents >= 0)
                return np.stack([child, parents[child]], axis=1), parents, told[child]
        if links is None and self.wanted.parents:
            return np.zeros((0, 2), np.int64), np.full(sum(map(len, parts)), -1, np.int64), nothing
        if links is None or links.rows.shape[1] == 1:
            return None, None, nothing
        kept = np.flatnonzero((links.rows >= 0).all(axis=1))
        edges = links.rows[kept]
        wanted = self.wanted.parents and edges.shape[1] == 2
        return edges, parents_of_edges(edges, sum(map(len, parts))) if wanted else None, kept

    def _by_object(self, parts: Sequence[Part], objects: ObjectFacts) -> Paths:
        """Return the rows in the order of the manifests; a fragment that several objects share appears in each."""
        table = objects.table
        assert table is not None
        fragments = _joined(parts, lambda p: p.fragments, np.int64)
        counts = _joined(parts, lambda p: p.counts, np.int64)
        kept = _joined(parts, lambda p: p.kept, np.int64)
        read_chunks = ChunkLookup(self.coords)
        if self.every:
            number = chunk_numbers(read_chunks, table.chunks, self.source.where())
        else:
            number = read_chunks.find(table.chunks)
        read = number >= 0
        beyond = np.flatnonzero(table.fragments >= np.append(fragments, np.iinfo(np.int64).max)[number])
        if len(beyond):
            at = beyond[0]
            raise FormatError(
                f"a manifest names fragment {table.fragments[at]}, the chunk has {fragments[number[at]]}",
                store=self.source.where(), array="object_index", chunk=coords_to_keys(table.chunks[at : at + 1])[0],
            )  # fmt: skip
        first = np.append(np.cumsum(fragments) - fragments, 0)
        entry = np.where(read, first[number] + table.fragments, len(counts))
        starts = np.append(np.cumsum(kept) - kept, 0)[entry]
        sizes = np.append(kept, 0)[entry]
        if self.wanted.places:
            places = _joined(parts, lambda p: p.places, np.int64)
            # how long a piece is that was not read is not known, but that it is not empty
            return Paths.runs(table.objects, starts, sizes, np.append(counts, 1)[entry], places)
        ids = np.unique(table.objects) if objects.ids is None else objects.ids
        return Paths.whole(table.objects, starts, sizes, ids)

    def _chunk_values(self, codes: NDArray[Any]) -> NDArray[Any]:
        assert self.source.chunk_attribute is not None
        name, values = self.source.chunk_attribute
        if len(codes) and (int(codes.min()) < 0 or int(codes.max()) >= len(values)):
            raise FormatError(f"a chunk key names value {int(codes.max())} of attribute {name!r}, which has {len(values)}")
        return np.asarray(values)[codes] if len(values) else np.zeros(len(codes), "<U1")


def _joined(parts: Sequence[Part], get: Callable[[Part], NDArray[Any] | None], dtype: Any) -> NDArray[Any]:
    values = [v for p in parts if (v := get(p)) is not None]
    return values[0] if len(values) == 1 else np.concatenate([np.zeros(0, dtype), *values])


def _taken(column: NDArray[Any], records: NDArray[np.int64]) -> NDArray[Any]:
    """Return the values of records; masked where there is none."""
    told = records >= 0
    if told.all():
        return column[records]
    out = np.ma.MaskedArray(np.zeros((len(records), *column.shape[1:]), column.dtype), True)
    out[told] = column[records[told]]
    return out
