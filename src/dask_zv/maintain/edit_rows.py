"""Vertices taken out of chunks: the chunks' new blobs, and where their other rows and fragments are then.

One task cuts a block of chunks; what it says of them is what links and manifests of these chunks are corrected by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError
from dask_zv.format.fragments import encode_single, encode_tiling
from dask_zv.format.keys import coords_to_keys
from dask_zv.format.links import LinkFamily, decode_flat, decode_ragged, encode_ragged
from dask_zv.geometry.block import EncodedBlock
from dask_zv.geometry.schema import FRAGMENTS, LINK_FRAGMENTS, VERTICES
from dask_zv.level.fragment_table import FragmentTable
from dask_zv.level.link_source import LinkSource
from dask_zv.level.object_index import fragment_owners
from dask_zv.level.source import LevelSource, level_blobs
from dask_zv.read.columns import POSITIONS, LevelRows
from dask_zv.read.decode import block_positions, block_values, fetch
from dask_zv.read.edge_rows import read_parents
from dask_zv.read.select import rows_inside
from dask_zv.spatial.chunks import ChunkLookup
from dask_zv.spatial.grid import Box
from dask_zv.storage.objects import Address


@dataclass(frozen=True, slots=True, eq=False)
class RowMaps:
    """What became of the rows and fragments of some chunks (coordinates ascending): F fragments, N rows in all."""

    coords: NDArray[np.int64]  # (n, K)
    rows: NDArray[np.int64]  # (n,): rows of each chunk before
    keep: NDArray[np.bool_]  # (N,): rows that are left
    numbers: NDArray[np.int64]  # (n,): fragments of each chunk before
    pieces: NDArray[np.int64]  # (F,): fragments that each has become; 0 where it is gone, more where a tree was cut in it
    lost_ids: NDArray[np.int64]  # (m,): objects that lost rows, and how many each
    lost_rows: NDArray[np.int64]
    edges: NDArray[np.int64] | None = None  # (n,): of trees, the nodes of each chunk that are left and have a parent

    @classmethod
    def join(cls, parts: Sequence[RowMaps], rank: int) -> RowMaps:
        """Return those of all chunks, ascending."""
        if not parts:
            zero, none = np.zeros(0, np.int64), np.zeros(0, bool)
            return cls(np.zeros((0, rank), np.int64), zero, none, zero, zero, zero, zero)
        coords = np.concatenate([p.coords for p in parts])
        order = np.lexsort(coords.T[::-1])
        rows, numbers = (np.concatenate([getattr(p, name) for p in parts]) for name in ("rows", "numbers"))
        keep, pieces = (np.concatenate([getattr(p, name) for p in parts]) for name in ("keep", "pieces"))
        return cls(
            coords[order], rows[order], _by_chunk(keep, rows, order), numbers[order], _by_chunk(pieces, numbers, order),
            np.concatenate([p.lost_ids for p in parts]), np.concatenate([p.lost_rows for p in parts]),
        )  # fmt: skip

    @property
    def rows_left(self) -> NDArray[np.int64]:
        """Rows of each chunk now."""
        return _sums(self.keep, self.rows)

    def lookup(self) -> ChunkLookup:
        """Return where each chunk is among these."""
        return ChunkLookup(self.coords)

    def new_rows(self, chunk: NDArray[np.int64], row: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number in its chunk of each row now, -1 where it is gone; `chunk` are places among these."""
        first = (np.cumsum(self.rows) - self.rows)[chunk]
        before = np.r_[0, np.cumsum(self.keep)].astype(np.int64)
        at = first + row
        return np.where(self.keep[at], before[at] - before[first], -1)

    def new_fragments(
        self, chunk: NDArray[np.int64], fragment: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the number in its chunk of the first fragment that each has become, and how many these are."""
        first = (np.cumsum(self.numbers) - self.numbers)[chunk]
        before = np.r_[0, np.cumsum(self.pieces)].astype(np.int64)
        return before[first + fragment] - before[first], self.pieces[first + fragment]


def _sums(values: NDArray[Any], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    ends = np.r_[0, np.cumsum(values)].astype(np.int64)
    out: NDArray[np.int64] = np.diff(ends[np.r_[0, np.cumsum(sizes)]])
    return out


def _by_chunk(values: NDArray[Any], sizes: NDArray[np.int64], order: NDArray[np.intp]) -> NDArray[Any]:
    parts = np.split(values, np.cumsum(sizes)[:-1])
    if not len(order):
        return values
    return np.concatenate([parts[i] for i in order.tolist()])


# ---------------------------------------------------------------------------------------------- chunks


def cut_chunks(
    rows: LevelRows,
    chunks: NDArray[np.int64],
    whole: NDArray[np.bool_],
    box: Box | None,
    gone: FragmentTable | None,
    trees: LinkSource | None,
) -> tuple[EncodedBlock, RowMaps]:
    """Take the vertices in a box, or those of objects that are `gone`, out of some chunks (numbers, ascending).

    Chunks that lose none are not stored again; of those that lose all, blobs are empty, which means that there are none.
    `trees` are the links of trees: nodes that lose their parent are roots then, where a fragment begins.
    """
    source, attributes = rows.source, rows.source.schema.attributes
    coords, counts = rows.table.coords[chunks], rows.counts[chunks]
    fragments = rows.fragments(chunks)
    if fragments.stored_rows is not None:
        odd = int(fragments.not_tiled[0])
        raise FormatError(
            "the chunk's fragments list their rows one by one, as another tool's edits leave them: write the level anew "
            "with ds.zv.to_store before vertices are deleted",
            store=source.where(), array=FRAGMENTS, chunk=coords_to_keys(coords[odd : odd + 1])[0],
        )  # fmt: skip
    of_row = np.repeat(np.arange(len(fragments.counts)), fragments.counts)
    positions = None
    if box is not None:
        keys = coords_to_keys(coords)
        found = fetch(source, level_blobs(source), keys, (), indexes=False)
        positions, _ = block_positions(source, level_blobs(source), coords, keys, found, counts)
        keep = ~rows_inside(counts, whole, box, positions[~np.repeat(whole, counts)])
    else:
        assert gone is not None
        entries, at = gone.in_chunks(coords)
        dropped = np.zeros(len(fragments.counts), bool)
        dropped[(np.cumsum(fragments.numbers) - fragments.numbers)[at] + gone.fragments[entries]] = True
        keep = ~dropped[of_row]
    starts = np.zeros(len(keep), bool)  # rows that begin a fragment, now that their parent is gone
    edges = None
    if trees is not None:
        parents = read_parents(rows, trees, chunks, implied=True)
        orphans = _lose_their_parent(rows, chunks, keep, parents, box) if box is not None else starts
        starts = keep & orphans
        edges = _sums(keep & (parents >= 0) & ~orphans, counts)
    # fragments now: runs of rows that are left, of one fragment, cut where a row begins another
    mine = of_row[keep]
    begins = np.r_[True, mine[1:] != mine[:-1]][: len(mine)] | starts[keep]
    has_objects = source.schema.has_objects
    if has_objects:
        pieces = np.bincount(mine[begins], minlength=len(fragments.counts)).astype(np.int64)
        left = np.diff(np.r_[np.flatnonzero(begins), len(mine)])
    else:
        pieces = np.ones(len(fragments.counts), np.int64)
        left = np.bincount(mine, minlength=len(fragments.counts)).astype(np.int64)
    lost_ids = lost_rows = np.zeros(0, np.int64)
    if has_objects and box is not None:
        owners = fragment_owners(source, coords, rows.index).owners_in(coords, fragments.numbers, source.where())
        lost_ids, which = np.unique(owners, return_inverse=True)
        lost = fragments.counts - np.bincount(mine, minlength=len(fragments.counts))
        lost_rows = np.bincount(which, lost, len(lost_ids)).astype(np.int64)
        lost_ids, lost_rows = lost_ids[lost_rows > 0], lost_rows[lost_rows > 0]
    maps = RowMaps(coords, counts, keep, fragments.numbers, pieces, lost_ids, lost_rows, edges)
    now = _sums(pieces, fragments.numbers)  # fragments of each chunk
    changed = (maps.rows_left < counts) | (now != fragments.numbers)
    touched = np.flatnonzero(changed)
    left = left[np.repeat(changed, now)]
    maps = _some(maps, touched)
    if not len(touched):
        return EncodedBlock({}), maps
    keys = coords_to_keys(coords[touched])
    found = fetch(source, level_blobs(source), keys, attributes, positions=positions is None, indexes=False)
    if positions is None:
        positions, _ = block_positions(source, level_blobs(source), coords[touched], keys, found, counts[touched])
    else:
        positions = positions[np.repeat(changed, counts)]
    columns = {VERTICES: positions}
    columns |= {a.array: block_values(source, a, keys, counts[touched], found) for a in attributes}
    rows_left = maps.rows_left
    ends = np.cumsum(rows_left)[:-1]
    blobs: dict[Address, Any] = {}
    for array, values in columns.items():
        for key, part in zip(keys, np.split(values[maps.keep], ends), strict=True):
            blobs[array, key] = np.ascontiguousarray(part).tobytes()
    for key, n, each in zip(keys, rows_left.tolist(), np.split(left, np.cumsum(now[touched])[:-1]), strict=True):
        tiling = encode_single(n) if len(each) == 1 and not has_objects else encode_tiling(each)
        blobs[FRAGMENTS, key] = tiling if n else b""
    return EncodedBlock(blobs, {k: n for k, n in zip(keys, rows_left.tolist(), strict=True) if n}), maps


def _lose_their_parent(
    rows: LevelRows, chunks: NDArray[np.int64], keep: NDArray[np.bool_], parents: NDArray[np.int64], box: Box
) -> NDArray[np.bool_]:
    """Return which rows of some chunks have a parent that lies in a box; `parents` are level-wide numbers, -1 at roots."""
    first, ends = rows.offsets[chunks], rows.offsets[chunks + 1]
    at = np.maximum(np.searchsorted(first, parents, side="right") - 1, 0)
    here = (parents >= first[at]) & (parents < ends[at])
    place = (np.cumsum(ends - first) - (ends - first))[at] + parents - first[at]
    out = np.zeros(len(parents), bool)
    out[here] = ~keep[place[here]]
    away = np.unique(parents[~here & (parents >= 0)])
    if len(away):
        grid, table = rows.source.schema.grid, rows.table
        of_chunk = np.searchsorted(rows.offsets, away, side="right") - 1
        away = away[grid.touches(rows.source.spatial(table.coords[of_chunk]), box)]
        p = LevelRows(rows.source, table).picked(POSITIONS, away).astype(np.float64)
        gone = away[((p >= box[0]) & (p <= box[1])).all(axis=1)]
        out |= np.isin(parents, gone)
    return out


def _some(maps: RowMaps, chosen: NDArray[np.intp]) -> RowMaps:
    """Return the maps of some chunks; all say the same of objects."""
    which = np.isin(np.arange(len(maps.coords)), chosen)
    return RowMaps(
        maps.coords[chosen], maps.rows[chosen], maps.keep[np.repeat(which, maps.rows)], maps.numbers[chosen],
        maps.pieces[np.repeat(which, maps.numbers)], maps.lost_ids, maps.lost_rows,
        None if maps.edges is None else maps.edges[chosen],
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------- links


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """An array of links: the chunks of the endpoints but the first, from that of the first on, and what its cells are."""

    array: str
    offsets: NDArray[np.int64]  # (L - 1, K)
    flat: bool  # the endpoints share a chunk, and cells are rows alone
    permuted: bool
    dtype: str
    values: tuple[str, ...]  # the arrays of the attributes of these links


def cut_links(
    source: LevelSource,
    family: LinkFamily,
    cells: Mapping[int, NDArray[np.int64]],
    segments: Mapping[int, Segment],
    counts: Mapping[str, int],
    parts: Sequence[RowMaps],
) -> EncodedBlock:
    """Return the cells of links without those that lost an end, their other ends by the numbers that these have now.

    `cells` are the source chunks (n, K) by number of their segment, `counts` the vertices of these before, by key.
    """
    maps = RowMaps.join(parts, source.rank)
    lookup, left = maps.lookup(), dict(zip(coords_to_keys(maps.coords), maps.rows_left.tolist(), strict=True))
    wanted: list[Address] = []
    for number, coords in cells.items():
        s = segments[number]
        arrays = (s.array, *s.values, *((LINK_FRAGMENTS,) if s.flat else ()))
        wanted += [(array, key) for key in coords_to_keys(coords) for array in arrays]
    found = level_blobs(source).read_many(wanted)
    out = EncodedBlock({}, records={})
    rows: dict[str, int] = {}
    dropped: dict[str, int] = {}
    for number, coords in cells.items():
        s = segments[number]
        ends = [lookup.find(coords), *(lookup.find(coords + o) for o in s.offsets)] if len(maps.coords) else []
        for i, key in enumerate(coords_to_keys(coords)):
            at = [int(e[i]) for e in ends]
            if all(place < 0 for place in at):
                continue
            before, lead = _records(source, s, key, found[s.array, key], family), 1 if s.permuted else 0
            records = before.copy()
            keep = np.ones(len(records), bool)
            for j, place in enumerate(at):
                if place < 0:
                    continue
                column = records[:, lead + j]
                if len(column) and not 0 <= int(column.min()) <= int(column.max()) < int(maps.rows[place]):
                    raise FormatError(
                        "a link names a row that its chunk does not have", store=source.where(), array=s.array, chunk=key
                    )
                new = maps.new_rows(np.full(len(column), place), column)
                records[:, lead + j] = new
                keep &= new >= 0
            n = int(keep.sum())
            stored = records[keep].astype(s.dtype)
            if n == len(before) and np.array_equal(records, before):
                continue
            out.blobs[s.array, key] = (stored.tobytes() if s.flat else encode_ragged(stored)) if n else b""
            if s.flat and (LINK_FRAGMENTS, key) in found:
                if found[LINK_FRAGMENTS, key] != encode_single(len(records)):
                    raise FormatError(
                        "the chunk's links are in several fragments, as no writer of this format leaves them",
                        store=source.where(), array=LINK_FRAGMENTS, chunk=key,
                    )  # fmt: skip
                out.blobs[LINK_FRAGMENTS, key] = encode_single(n) if n else b""
            for array in s.values:
                out.blobs[array, key] = _kept_values(source, array, key, found[array, key], keep) if n else b""
                family_of = array.rpartition("/")[0]
                dropped[family_of] = dropped.get(family_of, 0) + len(records) - n
            base = s.array.rpartition("/")[0]
            dropped[base] = dropped.get(base, 0) + len(records) - n
            rows[key] = left.get(key, counts[key])
    out.records.update({path: -n for path, n in dropped.items()})
    return EncodedBlock(out.blobs, {k: n for k, n in rows.items() if n}, records=out.records)


def _records(source: LevelSource, segment: Segment, key: str, blob: bytes, family: LinkFamily) -> NDArray[np.int64]:
    """Return the records of a cell, (m, [permutation and] L)."""
    try:
        if segment.flat:
            return decode_flat(blob, family.width, segment.dtype)
        records, groups = decode_ragged(blob, family.width + segment.permuted, segment.dtype)
        if len(groups) > 1:
            raise FormatError("the links of the cell are in several groups, as no writer of this format leaves them")
    except FormatError as error:
        raise error.at(store=source.where(), array=segment.array, chunk=key) from None
    return records


def _kept_values(source: LevelSource, array: str, key: str, blob: bytes, keep: NDArray[np.bool_]) -> bytes:
    if len(blob) % max(len(keep), 1):
        raise FormatError(f"{len(blob)} bytes for {len(keep)} links", store=source.where(), array=array, chunk=key)
    rows = np.frombuffer(blob, np.uint8).reshape(len(keep), -1)
    return rows[keep].tobytes()
