"""Reading one block of chunks: which rows of it are wanted, and what the whole needs to know of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import ZVError
from dask_zv.format.keys import coords_to_keys
from dask_zv.geometry.assembly import RowMap
from dask_zv.geometry.schema import AttributeSchema
from dask_zv.level.chunk_boxes import check_positions, note_strays
from dask_zv.level.fragment_table import FragmentTable
from dask_zv.level.link_source import FoundLinks, LinkSource
from dask_zv.level.object_index import fragment_owners
from dask_zv.level.source import LevelSource, level_blobs
from dask_zv.read.block_rows import BlockRows, decode_block
from dask_zv.read.chunk_rows import fetch_chunks
from dask_zv.read.link_reading import CellPlan, LinkCells, cell_addresses, decode_cells
from dask_zv.spatial.grid import Box


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to read of every block.

    Attributes
    ----------
    attributes : tuple of AttributeSchema
        Of the vertices.
    box : Box, optional
        Only vertices inside.
    by_object : bool
        The rows are put into the order of the manifests in the end.
    places : bool
        Where paths are cut must be told.
    trees : bool
        Rows are linked to the rows before them.
    parents : bool
        Links that are all stored are (child, parent).
    links : LinkSource, optional
    link_attributes : tuple of int
        Numbers of those of `links` to read.
    """

    attributes: tuple[AttributeSchema, ...] = ()
    box: Box | None = None
    by_object: bool = False
    places: bool = False
    trees: bool = False
    parents: bool = False
    links: LinkSource | None = None
    link_attributes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class BlockPlan:
    """A block of n chunks.

    Attributes
    ----------
    source : LevelSource
    coords : ndarray of int64, shape (n, K)
    whole : ndarray of bool, shape (n,)
        Chunks inside the box as a whole.
    chosen : FragmentTable, optional
        The fragments to keep; all where None.
    cells : ndarray of uint8, optional
        Bits of a table (S, n): the cells of links to read. All that the level's catalog knows where None.
    others : CellPlan, optional
        More cells, of other chunks.
    """

    source: LevelSource
    coords: NDArray[np.int64]
    whole: NDArray[np.bool_]
    chosen: FragmentTable | None
    cells: NDArray[np.uint8] | None = None
    others: CellPlan | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What one block's task returns: its rows that passed the filters, in reading order.

    Attributes
    ----------
    positions : ndarray, shape (N, D)
    columns : mapping of str to ndarray, shape (N,) or (N, C)
    owners : ndarray of int64, shape (N,), optional
        None where the rows are put into the order of the manifests, which tell.
    fragments : ndarray of int64, shape (n,), optional
        Fragments of each chunk.
    counts, kept : ndarray of int64, shape (F,), optional
        Rows of each fragment, and those of them that are here.
    places : ndarray of int64, shape (N,), optional
        Place of each row in its fragment.
    rows : RowMap, optional
    linked, first : ndarray of bool, shape (N,), optional
        See :func:`~dask_zv.geometry.assembly.parents_of`.
    links : LinkCells, optional
    edited : bool
        Another tool changed something that the catalog knows.
    """

    positions: NDArray[Any]
    columns: Mapping[str, NDArray[Any]]
    owners: NDArray[np.int64] | None = None
    fragments: NDArray[np.int64] | None = None
    counts: NDArray[np.int64] | None = None
    kept: NDArray[np.int64] | None = None
    places: NDArray[np.int64] | None = None
    rows: RowMap | None = None
    linked: NDArray[np.bool_] | None = None
    first: NDArray[np.bool_] | None = None
    links: LinkCells | None = None
    edited: bool = field(default=False)

    def __len__(self) -> int:
        return len(self.positions)

    def __sizeof__(self) -> int:
        return self.positions.nbytes + sum(v.nbytes for v in self.columns.values()) + 200


def read_block(plan: BlockPlan, wanted: Wanted) -> Part:
    """Read a block of chunks and keep the rows inside the box that belong to the chosen objects."""
    source = plan.source
    blobs = level_blobs(source)
    keys = coords_to_keys(plan.coords)
    cells = None
    if wanted.links is not None:
        cells = _cells(plan, wanted.links, blobs.catalog)
    more = [] if cells is None or wanted.links is None else cell_addresses(wanted.links, wanted.link_attributes, cells)
    found = fetch_chunks(source, blobs, keys, wanted.attributes, positions=True, indexes=True, more=more)
    block = decode_block(source, blobs, keys, wanted.attributes, found)
    if not source.catalogued or blobs.catalog_is_stale:
        look = note_strays if wanted.box is None else check_positions
        look(source, plan.coords, block.rows, block.positions)
    links = None
    if cells is not None and wanted.links is not None:
        links = decode_cells(source, wanted.links, wanted.link_attributes, cells, found)
    owners = None
    # in the order of the manifests, owners are told by these in the end
    if source.schema.has_objects and (plan.chosen is not None or not wanted.by_object):
        table = plan.chosen if plan.chosen is not None else fragment_owners(source, keys)
        try:
            owners = table.owners_in(plan.coords, block.fragments)
        except ZVError as error:
            raise error.at(store=source.where()) from None
    keep = _keep(plan, wanted.box, block, owners)
    return _select(wanted, block, owners, keep, links, edited=blobs.catalog_is_stale)


def _cells(plan: BlockPlan, links: LinkSource, catalog: Any) -> CellPlan:
    shape = len(links.segments), len(plan.coords)
    if plan.cells is None:
        mask = FoundLinks(links).present(plan.coords, catalog)
    else:
        mask = np.unpackbits(plan.cells, count=shape[0] * shape[1]).astype(bool).reshape(shape)
    own = CellPlan.of(mask, plan.coords)
    if plan.others is None or not len(plan.others):
        return own
    return CellPlan(np.r_[own.segments, plan.others.segments], np.concatenate([own.coords, plan.others.coords]))


def _keep(plan: BlockPlan, box: Box | None, block: BlockRows, owners: NDArray[np.int64] | None) -> NDArray[np.bool_] | None:
    """Tell which rows to keep, None for all."""
    keep: NDArray[np.bool_] | None = None
    if box is not None and not plan.whole.all():
        keep = np.repeat(plan.whole, block.rows)
        ask = ~keep
        p = block.positions[ask].astype(np.float64, copy=False)
        keep[ask] = ((p >= box[0]) & (p <= box[1])).all(axis=1)
    if plan.chosen is not None:
        assert owners is not None
        mine = np.repeat(owners != -1, block.counts)
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
    starts = np.cumsum(block.counts) - block.counts
    kept = places = linked = first = rows = None
    if wanted.by_object:
        kept = block.counts
        if keep is not None:
            kept = np.diff(np.r_[0, np.cumsum(keep)][np.r_[starts, total]])
    if wanted.places:
        places = (np.arange(total) - np.repeat(starts, block.counts))[select]
    if wanted.trees:
        begins = np.zeros(total, bool)
        begins[starts[block.counts > 0]] = True
        goes_on = ~begins
        if keep is not None:
            goes_on[1:] &= keep[:-1]
        linked, first = goes_on[select], begins[select]
    if links is not None:
        rows = _row_map(block, keep)
    return Part(
        block.positions[select],
        {k: v[select] for k, v in block.columns.items()},
        None if owners is None or wanted.by_object else np.repeat(owners, block.counts)[select],
        block.fragments if wanted.by_object else None,
        block.counts if wanted.by_object else None,
        kept,
        places,
        rows,
        linked,
        first,
        links,
        edited,
    )


def _row_map(block: BlockRows, keep: NDArray[np.bool_] | None) -> RowMap:
    if keep is None and block.stored_rows is None:
        return RowMap(block.stored, None)
    of_chunk = block.rows
    within = block.stored_rows
    if within is None:
        within = np.arange(len(block.positions)) - np.repeat(np.cumsum(of_chunk) - of_chunk, of_chunk)
    at = np.repeat(np.cumsum(block.stored) - block.stored, of_chunk) + within
    if keep is not None:
        at = at[keep]
    places = np.full(int(block.stored.sum()), -1, np.int64)
    places[at[::-1]] = np.arange(len(at))[::-1]  # a row that several fragments name is the first of them
    return RowMap(block.stored, places)
