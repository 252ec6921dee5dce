"""What is asked for of a level, as chunks, rows, attributes and blocks, and a block read: for whole reads, columns and maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.config import settings
from dask_zv.errors import InputError, NotFoundError, did_you_mean
from dask_zv.format.keys import coords_to_keys, is_spatial_key, parse_key
from dask_zv.geometry.assembly import RowMap
from dask_zv.geometry.schema import AttributeSchema
from dask_zv.level.contents import LevelContents
from dask_zv.level.fragment_table import FragmentTable, chunk_numbers
from dask_zv.level.link_source import FoundLinks, LinkSource
from dask_zv.level.object_index import ObjectIndex, chosen_ids, fragment_owners
from dask_zv.level.source import ChunkTable, LevelSource, level_blobs
from dask_zv.read.chunk_boxes import check_positions, check_some_boxes, note_strays
from dask_zv.read.decode import BlockRows, decode_block, fetch
from dask_zv.read.link_cells import CellPlan, LinkCells, cell_addresses, check_sources, decode_cells, plan_cells, read_in_parts
from dask_zv.read.room import Room
from dask_zv.spatial.grid import Box, stored_box


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """Which chunks of a level to read, and which rows of them."""

    chunks: NDArray[np.int64]  # rows of the level's table of chunks, ascending, shape (n,)
    whole: NDArray[np.bool_]  # chunks whose rows are all inside the box, shape (n,)
    box: Box | None  # in stored positions
    ids: NDArray[np.int64] | None  # the objects that were asked for
    chosen: FragmentTable | None  # their fragments


def select(
    source: LevelSource,
    table: ChunkTable,
    index: Callable[[], ObjectIndex],
    *,
    box: Box | None = None,
    objects: Any = None,
    chunks: NDArray[np.int64] | None = None,
    offset: tuple[float, ...] | None = None,
) -> Selection:
    """Return what is in a closed box, of some objects (by id) and in some chunks (by number); None selects all."""
    keep = np.ones(len(table), bool)
    whole = np.ones(len(table), bool)
    if box is not None:
        if not source.catalogued:
            check_some_boxes(source, table)
        box = stored_box(box, source.schema.dtype, offset)
        spatial = source.spatial(table.coords)
        keep, whole = source.schema.grid.touches(spatial, box), source.schema.grid.inside(spatial, box)
    chosen = ids = None
    if objects is not None:
        ids = chosen_ids(objects)
        chosen = index().select(ids)
        keep &= _marks(len(table), chunk_numbers(table, chosen.distinct_chunks, source.where()))
    if chunks is not None:
        keep &= _marks(len(table), chunks)
    numbers = np.flatnonzero(keep)
    return Selection(numbers, whole[numbers], box, ids, chosen)


def _marks(n: int, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
    out = np.zeros(n, bool)
    out[numbers] = True
    return out


def rows_inside(rows: NDArray[np.int64], whole: NDArray[np.bool_], box: Box, positions: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which rows of chunks are inside a box: all of those that are `whole`, of the others by their positions."""
    keep = np.repeat(whole, rows)
    p = positions.astype(np.float64, copy=False)
    keep[~keep] = ((p >= box[0]) & (p <= box[1])).all(axis=1)
    return keep


def chosen_chunks(level: LevelContents, chunks: Any) -> NDArray[np.int64]:
    """Return the rows of a level's table of chunks that a user asks for by key or by coordinates, ascending."""
    rank = level.source.rank
    given = [chunks] if isinstance(chunks, str) else chunks
    try:
        if isinstance(given, Sequence) and any(isinstance(k, str) for k in given):
            given = [parse_key(k) if isinstance(k, str) and is_spatial_key(k) else k for k in given]
        coords = np.asarray(given)
    except (TypeError, ValueError):
        coords = np.zeros(0, object)
    if coords.ndim == 1 and len(coords) == rank and coords.dtype.kind in "iu":
        coords = coords[None]
    if coords.size == 0 and coords.dtype.kind != "O":
        coords = np.zeros((0, rank), np.int64)
    if coords.ndim != 2 or coords.shape[1] != rank or coords.dtype.kind not in "iu":
        raise InputError(f"chunks are keys such as {'.'.join(['0'] * rank)!r}, or {rank} integers each, not {chunks!r:.80}")
    coords = coords.astype(np.int64)
    at = level.chunks.find(coords)
    if (at < 0).any():
        lost = coords_to_keys(coords[at < 0][:1])[0]
        raise NotFoundError("the level has no such chunk: level.chunks lists them", store=level.url, chunk=lost)
    return np.unique(at)


def choose_attributes(
    level: LevelContents, names: Sequence[str] | None, links: FoundLinks | None
) -> tuple[tuple[AttributeSchema, ...], tuple[int, ...]]:
    """Return the attributes of vertices, and the numbers of those of links, that a user asks for."""
    own = {a.name: a for a in level.source.schema.attributes}
    of_links = [] if links is None else [a.schema.name for a in links.source.attributes]
    if names is None:
        return tuple(own.values()), tuple(range(len(of_links)))
    if isinstance(names, str):
        names = [names]
    known = [*level.attributes, *of_links]
    unknown = [n for n in names if n not in known]
    if unknown:
        if f"vertex_attributes/{unknown[0]}" in level.group:  # one that is left out: this says why
            AttributeSchema.from_attributes(unknown[0], level.group.read_array_meta(f"vertex_attributes/{unknown[0]}"))
        near = did_you_mean(unknown[0], known)
        raise InputError(f"no attribute {unknown[0]!r}: the level has {', '.join(known) or 'none'}{near}")
    return tuple(own[n] for n in names if n in own), tuple(i for i, n in enumerate(of_links) if n in names)


# -------------------------------------------------------------------------------------------------- blocks


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to read of every block."""

    attributes: tuple[AttributeSchema, ...] = ()  # of the vertices
    box: Box | None = None  # only vertices inside
    by_object: bool = False  # the rows are put into the order of the manifests in the end
    places: bool = False  # where paths are cut must be told
    trees: bool = False  # rows are linked to the rows before them
    parents: bool = False  # links that are all stored are (child, parent)
    links: LinkSource | None = None
    link_attributes: tuple[int, ...] = ()  # numbers of those of `links` to read


@dataclass(frozen=True, slots=True, eq=False)
class BlockToRead:
    """A block of chunks (n, K)."""

    source: LevelSource
    coords: NDArray[np.int64]
    whole: NDArray[np.bool_]  # chunks inside the box as a whole, shape (n,)
    chosen: FragmentTable | None  # the fragments to keep; all where None
    cells: NDArray[np.uint8] | None = None
    """Bits of a table (S, n): the cells of links to read. All that the level's catalog knows where None."""
    others: CellPlan | None = None  # more cells, of other chunks


def plan_blocks(
    source: LevelSource,
    table: ChunkTable,
    selection: Selection,
    runs: Sequence[tuple[int, int]],
    links: FoundLinks | None,
    *,
    incident: bool,
) -> list[BlockToRead]:
    """Return the blocks of a selection, cut into `runs` of its chunks, each with the cells of links to read with it.

    With `incident` records with one end in the selection are wanted, too.
    """
    coords, every = table.coords[selection.chunks], len(selection.chunks) == len(table)
    mask: NDArray[np.bool_] | None = None
    others: list[CellPlan] = []
    if links is not None:
        catalog = level_blobs(source).catalog
        if every:
            check_sources(links, catalog, table, source.where())
        if not every or links.listed:
            mask, more = plan_cells(links, catalog, table, selection.chunks, source.where(), incident=incident)
            others = [more.part(p) for p in np.array_split(np.arange(len(more)), max(len(runs), 1))]
    return [
        BlockToRead(
            source,
            coords[start:stop],
            selection.whole[start:stop],
            None if selection.chosen is None else selection.chosen.within(coords[start:stop]),
            None if mask is None else np.packbits(mask[:, start:stop]),
            others[number] if others else None,
        )
        for number, (start, stop) in enumerate(runs)
    ]


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
    links: Sequence[LinkCells] = ()
    edited: bool = False  # another tool changed something that the catalog knows
    in_room: bool = False  # positions and columns are the block's room

    def __len__(self) -> int:
        return len(self.positions)

    def __sizeof__(self) -> int:
        return self.positions.nbytes + sum(v.nbytes for v in self.columns.values()) + 200


def read_block(plan: BlockToRead, wanted: Wanted, room: Room | None = None) -> Part:
    """Read a block of chunks and keep the rows inside the box that belong to the chosen objects; all of them into a `room`."""
    source, links = plan.source, wanted.links
    blobs = level_blobs(source)
    cells = None if links is None else _cells(plan, links, blobs.catalog)
    records: Sequence[LinkCells] = ()
    in_room = False
    if room is not None and blobs.objects.is_local:  # nobody waits for a network: small steps take less memory
        block, in_room = room.fill(source, blobs, plan.coords, wanted.attributes)
        if cells is not None and links is not None:
            records = list(read_in_parts(source, links, wanted.link_attributes, cells, blobs, settings().read_step_bytes))
    else:
        more = [] if cells is None or links is None else cell_addresses(links, wanted.link_attributes, cells)
        found = fetch(source, blobs, coords_to_keys(plan.coords), wanted.attributes, more=more)
        block = decode_block(source, blobs, plan.coords, wanted.attributes, found)
        if room is not None:
            block, in_room = room.put(block)
        if cells is not None and links is not None:
            records = [decode_cells(source, links, wanted.link_attributes, cells, found)]
    if not source.catalogued or blobs.catalog_is_stale:
        look = note_strays if wanted.box is None else check_positions
        look(source, plan.coords, block.fragments.rows, block.positions)
    owners = None
    # in the order of the manifests, owners are told by these in the end
    if source.schema.has_objects and (plan.chosen is not None or not wanted.by_object):
        table = plan.chosen if plan.chosen is not None else fragment_owners(source, plan.coords)
        owners = table.owners_in(plan.coords, block.fragments.numbers, source.where())
    keep, edited = _keep(plan, wanted.box, block, owners), blobs.catalog_is_stale
    return _select(wanted, block, owners, keep, records, edited=edited, in_room=in_room and keep is None)


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
    links: Sequence[LinkCells],
    *,
    edited: bool,
    in_room: bool,
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
        block.fragments.row_map(keep) if wanted.links is not None else None,
        linked,
        first,
        links,
        edited,
        in_room,
    )
