"""Cells of links: which to read for some chunks, and the records in them.

One module because what is planned, fetched and decoded are the same cells in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError, StoreError
from dask_zv.format.keys import coords_to_keys
from dask_zv.format.links import decode_flat, decode_ragged, permutations
from dask_zv.geometry.schema import AttributeSchema
from dask_zv.level.link_source import FoundLinks, LinkSource
from dask_zv.level.source import LevelSource
from dask_zv.read.decode import fetch
from dask_zv.spatial.chunks import ChunkLookup, runs_of
from dask_zv.storage.catalog import Catalog
from dask_zv.storage.layout import Blobs
from dask_zv.storage.objects import Address

_AT_ONCE = 4096
"""Cells that are fetched together."""


@dataclass(frozen=True, slots=True, eq=False)
class CellPlan:
    """Cells of links: numbers of their segments (c,), and the chunks that they are filed under (c, K)."""

    segments: NDArray[np.intp]
    coords: NDArray[np.int64]

    @classmethod
    def of(cls, mask: NDArray[np.bool_], coords: NDArray[np.int64]) -> CellPlan:
        """Return the cells of a table (S, n) of chunks (n, K), chunk by chunk."""
        chunk, segment = np.nonzero(mask.T)
        return cls(segment, coords[chunk])

    @classmethod
    def every(cls, found: FoundLinks, catalog: Catalog | None) -> CellPlan:
        """Return all cells of a family, chunk by chunk."""
        coords = [found.chunks(s, catalog) for s in range(len(found.source.segments))]
        segments = np.repeat(np.arange(len(coords)), [len(c) for c in coords])
        joined = np.concatenate([np.zeros((0, found.source.family.rank), np.int64), *coords])
        order = np.lexsort((segments, *joined.T[::-1]))
        return cls(segments[order], joined[order])

    def __len__(self) -> int:
        return len(self.segments)

    def __add__(self, other: CellPlan) -> CellPlan:
        return CellPlan(np.r_[self.segments, other.segments], np.concatenate([self.coords, other.coords]))

    def part(self, some: slice | NDArray[np.intp]) -> CellPlan:
        """Return some of the cells."""
        return CellPlan(self.segments[some], self.coords[some])

    @property
    def keys(self) -> list[str]:
        """Keys of the chunks."""
        return coords_to_keys(self.coords)

    def place(self, links: LinkSource, cell: int) -> Address:
        """Return array and chunk of a cell."""
        return links.segments[int(self.segments[cell])].array, coords_to_keys(self.coords[cell : cell + 1])[0]


@dataclass(frozen=True, slots=True, eq=False)
class LinkCells:
    """The m records of some cells, as they are stored."""

    cells: CellPlan
    counts: NDArray[np.int64]  # records of each cell
    rows: NDArray[np.int64]  # rows of the endpoints, in stored order; shape (m, L)
    order: NDArray[np.intp] | None
    """Which endpoint of the input each stored one is, shape (m, L); None where all are in the order of the input."""
    attributes: Mapping[str, NDArray[Any]] = field(default_factory=dict)  # as stored, shape (m,) or (m, C)

    def __len__(self) -> int:
        return len(self.rows)

    def cell_of(self, record: int) -> int:
        """Return the number of the cell that holds a record."""
        return int(np.searchsorted(np.cumsum(self.counts), record, side="right"))


def plan_cells(
    found: FoundLinks, catalog: Catalog | None, level: ChunkLookup, chunks: NDArray[np.int64], where: str, *, incident: bool
) -> tuple[NDArray[np.bool_], CellPlan]:
    """Return which cells to read for `chunks`, ascending rows of `level`, which are all chunks of the level.

    That is a mask (S, n) of the cells that are filed under these chunks, and the cells that are filed elsewhere: with
    `incident` every record with an endpoint in the selection is wanted, not only those with all of them in it.
    """
    links = found.source
    coords = level.coords[chunks]
    mask = found.present(coords, catalog)
    selected = np.zeros(len(level) + 1, bool)  # the last one stands for chunks that aren't there
    selected[chunks] = True
    pairs: list[NDArray[np.int64]] = [np.zeros((0, 2), np.int64)]
    for s in range(len(mask)):
        here = np.flatnonzero(mask[s])
        plan = CellPlan(np.full(len(here), s), coords[here])
        at = find_targets(links, plan, level, where)[1]
        if not incident:
            mask[s, here] = selected[at].all(axis=1)
            continue
        for offset in {*links.segments[s].offsets} - {(0,) * coords.shape[1]}:
            sources = level.find(coords - np.asarray(offset, np.int64))
            sources = np.unique(sources[~selected[sources] & (sources >= 0)])
            sources = sources[found.present(level.coords[sources], catalog, [s])[s]]
            pairs.append(np.stack([sources, np.full(len(sources), s)], axis=1))
    others = np.unique(np.concatenate(pairs), axis=0)  # some come by two offsets
    return mask, CellPlan(others[:, 1], level.coords[others[:, 0]])


def find_targets(
    links: LinkSource, cells: CellPlan, level: ChunkLookup, where: str | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the chunks that cells lead to (c, L, K), and their numbers (c, L): -1 for those that aren't there.

    With `where`, the level's URL, one that isn't there is a :class:`FormatError`.
    """
    targets = links.targets(cells.coords, cells.segments)
    at = level.find(targets)
    lost = np.argwhere(at < 0)
    if len(lost) and where is not None:
        cell, slot = lost[0].tolist()
        raise lost_target(targets[cell, slot], where, *cells.place(links, cell))
    return targets, at


def lost_target(target: NDArray[np.int64], where: str, array: str, chunk: str) -> FormatError:
    """Return the error that links lead to a chunk which isn't there."""
    return FormatError(
        f"links lead to chunk {coords_to_keys(target[None])[0]}, which the level does not have: it was lost, or the links "
        "belong to another version of the level",
        store=where, array=array, chunk=chunk,
    )  # fmt: skip


def check_sources(found: FoundLinks, catalog: Catalog | None, level: ChunkLookup, where: str) -> None:
    """Raise :class:`FormatError` where links are filed under a chunk that the level does not have."""
    for number, segment in enumerate(found.source.segments):
        coords = found.chunks(number, catalog)
        lost = np.flatnonzero(level.find(coords) < 0)
        if len(lost):
            raise FormatError(
                "links are stored under a chunk that the level does not have: it was lost, or the links belong to another "
                "version of the level",
                store=where, array=segment.array, chunk=coords_to_keys(coords[lost[:1]])[0],
            )  # fmt: skip


def cell_addresses(links: LinkSource, attributes: Sequence[int], cells: CellPlan) -> list[Address]:
    """Return the addresses of cells and of their attributes (by number)."""
    keys, numbers = cells.keys, cells.segments.tolist()
    out = [(links.segments[s].array, k) for s, k in zip(numbers, keys, strict=True)]
    for a in attributes:
        arrays = links.attributes[a].arrays
        out += [(arrays[s], k) for s, k in zip(numbers, keys, strict=True)]
    return out


def read_cells(source: LevelSource, links: LinkSource, attributes: Sequence[int], cells: CellPlan, blobs: Blobs) -> LinkCells:
    """Read the records of cells; those of another state of the level are refused."""
    found = fetch(source, blobs, (), (), positions=False, indexes=False, more=cell_addresses(links, attributes, cells))
    return decode_cells(source, links, attributes, cells, found)


def read_in_parts(
    source: LevelSource,
    links: LinkSource,
    attributes: Sequence[int],
    cells: CellPlan,
    blobs: Blobs,
    most_bytes: int = 1 << 62,
) -> Iterator[LinkCells]:
    """Yield the records of cells, some cells at a time: of no more than `most_bytes`, as the catalog says."""
    sizes = _cell_bytes(links, cells, blobs.catalog)
    for start, stop in runs_of((sizes, most_bytes), (np.ones_like(sizes), _AT_ONCE)):
        yield read_cells(source, links, attributes, cells.part(slice(start, stop)), blobs)


def _cell_bytes(links: LinkSource, cells: CellPlan, catalog: Catalog | None) -> NDArray[np.int64]:
    """Return the bytes of each cell, 0 where that is not known."""
    out = np.zeros(len(cells), np.int64)
    if catalog is None:
        return out
    rows = catalog.find(cells.coords)
    for segment in np.unique(cells.segments[rows >= 0]).tolist():
        array = links.segments[segment].array
        if array in catalog.arrays:
            mine = np.flatnonzero((cells.segments == segment) & (rows >= 0))
            out[mine] = np.maximum(catalog.arrays[array].nbytes[rows[mine]], 0)
    return out


def decode_cells(
    source: LevelSource,
    links: LinkSource,
    attributes: Sequence[int],
    cells: CellPlan,
    found: Mapping[Address, bytes],
) -> LinkCells:
    """Return the records of cells."""
    width = links.family.width
    keys = cells.keys
    numbers = cells.segments.tolist()
    parts: list[NDArray[np.int64]] = []
    permuted = np.zeros(len(cells), bool)
    for i, (s, key) in enumerate(zip(numbers, keys, strict=True)):
        segment = links.segments[s]
        blob = found.get((segment.array, key))
        if blob is None:
            raise StoreError(
                "a listed cell of links is gone: restore it, or write the level again",
                store=source.where(), array=segment.array, chunk=key,
            )  # fmt: skip
        permuted[i] = segment.permuted
        try:
            wide = width + segment.permuted
            parts.append(
                decode_flat(blob, wide, segment.dtype) if segment.flat else decode_ragged(blob, wide, segment.dtype)[0]
            )
        except FormatError as error:
            raise error.at(store=source.where(), array=segment.array, chunk=key) from None
    counts = np.array([len(p) for p in parts], np.int64)
    rows, order = _in_order(source, links, cells, parts, counts, permuted)
    values = {
        links.attributes[a].schema.name: _decode_values(
            source, links.attributes[a].schema, links.attributes[a].arrays, numbers, keys, counts, found
        )
        for a in attributes
    }
    return LinkCells(cells, counts, rows, order, values)


def _in_order(
    source: LevelSource,
    links: LinkSource,
    cells: CellPlan,
    parts: Sequence[NDArray[np.int64]],
    counts: NDArray[np.int64],
    permuted: NDArray[np.bool_],
) -> tuple[NDArray[np.int64], NDArray[np.intp] | None]:
    """Return the rows of all cells, and the order of their endpoints where any is not that of the input."""
    width = links.family.width
    rows = np.concatenate([np.zeros((0, width), np.int64), *(p[:, p.shape[1] - width :] for p in parts)])
    if not (permuted & (counts > 0)).any():
        return rows, None
    codes = np.concatenate(
        [p[:, 0] if w else np.zeros(len(p), np.int64) for p, w in zip(parts, permuted.tolist(), strict=True)]
    )
    try:
        order = permutations(codes, width)
    except FormatError as error:
        ends = np.cumsum(counts)
        for i in np.flatnonzero(permuted):
            try:
                permutations(codes[ends[i] - counts[i] : ends[i]], width)
            except FormatError as of_cell:
                array, chunk = cells.place(links, int(i))
                raise of_cell.at(store=source.where(), array=array, chunk=chunk) from None
        raise error.at(store=source.where(), array=links.array) from None
    return rows, order


def _decode_values(
    source: LevelSource,
    schema: AttributeSchema,
    arrays: Sequence[str],
    numbers: Sequence[int],
    keys: Sequence[str],
    counts: NDArray[np.int64],
    found: Mapping[Address, bytes],
) -> NDArray[Any]:
    """Return an attribute's values of all records, as stored."""
    width: int | None = None if schema.any_width else schema.width
    blobs: list[bytes] = []
    for s, key, n in zip(numbers, keys, counts.tolist(), strict=True):
        blob = found.get((arrays[s], key))
        if blob is None:
            raise FormatError(
                f"the {n} links of the chunk have no values of attribute {schema.name!r}",
                store=source.where(), array=arrays[s], chunk=key,
            )  # fmt: skip
        if width is None and n:
            width = max(1, len(blob) // (n * schema.dtype.itemsize))
        if len(blob) != n * (width or 1) * schema.dtype.itemsize:
            raise FormatError(
                f"the blob has {len(blob)} bytes, not {n} rows of {width or 1} x {schema.dtype}: it does not belong to the "
                "links beside it (an interrupted overwrite, or another tool's edit); dzv.repair(store, source=copy) writes the "
                "chunk again from a copy",
                store=source.where(), array=arrays[s], chunk=key,
            )  # fmt: skip
        blobs.append(blob)
    values = np.frombuffer(b"".join(blobs), schema.dtype)
    return values if schema.channels is None and width in (None, 1) else values.reshape(-1, width or 1)


def join_values(
    links: LinkSource, attributes: Sequence[int], parts: Sequence[LinkCells], where: str
) -> dict[str, NDArray[Any]]:
    """Return attributes of the records of all parts, as stored."""
    values: dict[str, NDArray[Any]] = {}
    for schema, arrays in ((links.attributes[a].schema, links.attributes[a].arrays) for a in attributes):
        name = schema.name
        some = [p.attributes[name] for p in parts if len(p)]
        if len({v.shape[1:] for v in some}) > 1:
            raise FormatError(
                f"link attribute {name!r} has values of shapes {sorted({v.shape[1:] for v in some})}: one of its chunks is "
                "damaged",
                store=where, array=arrays[0].rpartition("/")[0],
            )  # fmt: skip
        empty = np.zeros((0,) if schema.channels is None else (0, schema.channels), schema.dtype)
        values[name] = some[0] if len(some) == 1 else np.concatenate(some) if some else empty
    return values


def join_cells(links: LinkSource, attributes: Sequence[int], parts: Sequence[LinkCells], where: str) -> LinkCells:
    """Return the records of all parts, one behind the other."""
    if len(parts) == 1:
        return parts[0]
    width, rank = links.family.width, links.family.rank
    order = None
    if any(p.order is not None for p in parts):
        same = np.arange(width)
        order = np.concatenate([np.broadcast_to(same, p.rows.shape) if p.order is None else p.order for p in parts])
    return LinkCells(
        CellPlan(
            np.concatenate([np.zeros(0, np.intp), *(p.cells.segments for p in parts)]),
            np.concatenate([np.zeros((0, rank), np.int64), *(p.cells.coords for p in parts)]),
        ),
        np.concatenate([np.zeros(0, np.int64), *(p.counts for p in parts)]),
        np.concatenate([np.zeros((0, width), np.int64), *(p.rows for p in parts)]),
        order,
        join_values(links, attributes, parts, where),
    )


def lost_links(source: LevelSource, array: str, found: int, expected: int | None) -> FormatError:
    """Return the error that a family has other records than it counts."""
    return FormatError(
        f"{found} links are stored, the metadata counts {expected}: some were lost, or another tool added or removed some "
        "without counting them; restore them, or correct the counts of this group (see store.refresh())",
        store=source.where(), array=array,
    )  # fmt: skip


def read_crossing(
    source: LevelSource, links: LinkSource, blobs: Blobs, *, counted: bool = True
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the records across chunks of generation 0.7: chunks (m, L, K) and rows (m, L), in input order."""
    width, rank = links.family.width, links.family.rank
    found = {} if links.crossing is None else blobs.read_many([(links.crossing, "data")])
    if links.crossing is None or (links.crossing, "data") not in found:
        if links.crossing is not None and links.family.count:  # where there are no records, there is no count
            raise StoreError(
                f"the blob of {links.family.count} links across chunks is gone: restore it, or write the level again",
                store=source.where(), array=links.crossing, chunk="data",
            )  # fmt: skip
        return np.zeros((0, width, rank), np.int64), np.zeros((0, width), np.int64)
    data = found[links.crossing, "data"]
    if len(data) % (8 * width * (rank + 1)):
        raise FormatError(
            f"{len(data)} bytes are not a whole number of records of {width} endpoints in chunks of rank {rank}",
            store=source.where(), array=links.crossing, chunk="data",
        )  # fmt: skip
    records = np.frombuffer(data, "<i8").astype(np.int64, copy=False).reshape(-1, width, rank + 1)
    if counted and len(records) < (links.family.count or 0):
        raise lost_links(source, links.crossing, len(records), links.family.count)
    return records[..., :rank], records[..., rank]
