"""From blobs to rows: fetching and decoding the chunks of a block, all at once.

Everything that is read is decoded here. Rows are in *reading order*: chunks in the order given, in each its fragments in order,
in each fragment its rows in order. Blobs have them in *stored order*, which is another where a tool has edited fragments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError
from dask_zv.format.fragments import decode_fragments, decode_tilings, encode_single, encode_singles
from dask_zv.format.keys import coords_to_keys
from dask_zv.geometry.assembly import RowMap, rows_of_cells
from dask_zv.geometry.schema import FRAGMENTS, VERTICES, AttributeSchema
from dask_zv.level.source import LevelSource, as_opened, check_unchanged
from dask_zv.storage.grid.read import GridArrays
from dask_zv.storage.layout import Blobs
from dask_zv.storage.objects import Address
from dask_zv.storage.specs import check_not_replaced


def sum_by_chunk(of_fragments: NDArray[np.int64], numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the sums over the fragments of each chunk, which has so many (`numbers`)."""
    ends = np.r_[0, np.cumsum(of_fragments)].astype(np.int64, copy=False)
    out: NDArray[np.int64] = np.diff(ends[np.r_[0, np.cumsum(numbers)]])
    return out


@dataclass(frozen=True, slots=True, eq=False)
class FragmentRows:
    """The fragments of n chunks, F in all, with N rows; a chunk without an index is one."""

    stored: NDArray[np.int64]  # rows of each chunk's blobs, shape (n,)
    numbers: NDArray[np.int64]  # fragments of each chunk, shape (n,)
    counts: NDArray[np.int64]  # rows of each fragment, shape (F,)
    stored_rows: NDArray[np.int64] | None = None
    """Row of the chunk's blobs that each row is, shape (N,); None where fragments are ranges that tile their chunks."""
    listed: NDArray[np.bool_] | None = None  # chunks in which a fragment lists its rows one by one, shape (n,); None for none

    @property
    def rows(self) -> NDArray[np.int64]:
        """Rows of each chunk that its fragments name, shape (n,)."""
        return self.stored if self.stored_rows is None else self.by_chunk(self.counts)

    @property
    def starts(self) -> NDArray[np.int64]:
        """First row of each fragment, shape (F,)."""
        return np.cumsum(self.counts) - self.counts

    @property
    def not_tiled(self) -> NDArray[np.intp]:
        """Places of the chunks whose fragments, which name each row once, list rows or have them in another order."""
        of_chunk = np.repeat(np.arange(len(self.stored)), self.stored)
        moved = of_chunk[self.stored_places() != np.arange(len(of_chunk))]
        return np.unique(moved if self.listed is None else np.concatenate([moved, np.flatnonzero(self.listed)]))

    def by_chunk(self, of_fragments: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the sums over the fragments of each chunk."""
        return sum_by_chunk(of_fragments, self.numbers)

    def stored_places(self) -> NDArray[np.int64]:
        """Return the place of each row among the stored rows of all chunks, shape (N,)."""
        if self.stored_rows is None:
            return np.arange(int(self.stored.sum()))
        return np.repeat(np.cumsum(self.stored) - self.stored, self.rows) + self.stored_rows

    def take(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return stored values in reading order."""
        return stored if self.stored_rows is None else stored[self.stored_places()]

    def row_map(self, keep: NDArray[np.bool_] | None = None) -> RowMap:
        """Return where stored rows are in reading order, among those to `keep` (all where None)."""
        if keep is None and self.stored_rows is None:
            return RowMap(self.stored, None)
        at = self.stored_places()
        at = at if keep is None else at[keep]
        places = np.full(int(self.stored.sum()), -1, np.int64)
        places[at[::-1]] = np.arange(len(at))[::-1]  # a row that several fragments name is the first of them
        return RowMap(self.stored, places)

    def of_chunks(self, places: NDArray[np.intp]) -> FragmentRows:
        """Return those of some of the chunks, by their places."""
        counts = self.counts[rows_of_cells(self.numbers, places)]
        rows = None if self.stored_rows is None else self.stored_rows[rows_of_cells(self.rows, places)]
        listed = None if self.listed is None else self.listed[places]
        return FragmentRows(self.stored[places], self.numbers[places], counts, rows, listed)

    @property
    def nbytes(self) -> int:
        """Bytes that it takes, about."""
        return 16 * len(self.stored) + self.counts.nbytes + (0 if self.stored_rows is None else self.stored_rows.nbytes)

    @classmethod
    def join(cls, parts: Sequence[FragmentRows]) -> FragmentRows:
        """Return those of all chunks."""
        zero = np.zeros(0, np.int64)
        stored, numbers, counts = (
            np.concatenate([zero, *(getattr(p, name) for p in parts)]) for name in ("stored", "numbers", "counts")
        )
        if all(p.stored_rows is None for p in parts):
            return cls(stored, numbers, counts)
        rows = [np.arange(int(p.stored.sum())) if p.stored_rows is None else p.stored_rows for p in parts]
        listed = [np.zeros(len(p.stored), bool) if p.listed is None else p.listed for p in parts]
        return cls(stored, numbers, counts, np.concatenate(rows), np.concatenate(listed))


@dataclass(frozen=True, slots=True, eq=False)
class ChunkRows:
    """Values of the rows of n chunks, (N, ...), one chunk behind the other; `rows` are how many each has, shape (n,)."""

    rows: NDArray[np.int64]
    values: NDArray[Any]

    @property
    def nbytes(self) -> int:
        """Bytes that it takes, about."""
        return self.rows.nbytes + self.values.nbytes

    def of_chunks(self, places: NDArray[np.intp]) -> ChunkRows:
        """Return those of some of the chunks, by their places."""
        return ChunkRows(self.rows[places], self.values[rows_of_cells(self.rows, places)])

    @classmethod
    def join(cls, parts: Sequence[ChunkRows]) -> ChunkRows:
        """Return those of all chunks."""
        return cls(np.concatenate([p.rows for p in parts]), np.concatenate([p.values for p in parts]))


@dataclass(frozen=True, slots=True, eq=False)
class BlockRows:
    """The rows of n chunks in reading order: positions (N, D), columns (N,) or (N, C) as stored, codes for categories."""

    positions: NDArray[Any]
    columns: Mapping[str, NDArray[Any]]
    fragments: FragmentRows


def fetch(
    source: LevelSource,
    blobs: Blobs,
    keys: Sequence[str],
    attributes: Sequence[AttributeSchema],
    *,
    positions: bool = True,
    indexes: bool = True,
    more: Sequence[Address] = (),
) -> Mapping[Address, bytes]:
    """Read the blobs of some chunks, and those at `more` addresses, all concurrently."""
    arrays = [VERTICES] if positions else []
    arrays += [FRAGMENTS] if indexes else []
    arrays += [a.array for a in attributes]
    with as_opened(source):
        found = blobs.read_many([*((array, key) for array in arrays for key in keys), *more])
    if blobs.catalog_is_stale:  # one chunk was edited in place, or all were replaced, maybe by values of other dtypes
        check_unchanged(source)
        check_not_replaced(blobs.objects, blobs.prefix, blobs.stale_chunk)
    return found


def decode_block(
    source: LevelSource,
    blobs: Blobs,
    coords: NDArray[np.int64],
    attributes: Sequence[AttributeSchema],
    found: Mapping[Address, bytes],
    expected: NDArray[np.int64] | None = None,
) -> BlockRows:
    """Return the rows of chunks (n, K) from their blobs, where each must have as many as `expected`."""
    keys = coords_to_keys(coords)
    positions, rows = block_positions(source, blobs, coords, keys, found, expected)
    fragments = block_fragments(source, keys, rows, found)
    check_coverage(source, keys, fragments)
    columns = {a.name: fragments.take(block_values(source, a, keys, rows, found)) for a in attributes}
    if source.chunk_attribute is not None:
        columns[source.chunk_attribute[0]] = np.repeat(coords[:, 0], fragments.rows)
    return BlockRows(fragments.take(positions), columns, fragments)


def block_positions(
    source: LevelSource,
    blobs: Blobs,
    coords: NDArray[np.int64],
    keys: Sequence[str],
    found: Mapping[Address, bytes],
    expected: NDArray[np.int64] | None,
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the stored positions of chunks, and the rows of each."""
    schema = source.schema
    width = schema.grid.ndim * schema.dtype.itemsize
    parts, sizes = _blobs_of(source, VERTICES, keys, found, "the chunk has no positions")
    bad = np.flatnonzero(sizes % width)
    if len(bad):
        raise FormatError(
            f"blob size {sizes[bad[0]]} is not a multiple of the row size {width}, {schema.grid.ndim} x {schema.dtype}",
            store=source.where(), array=VERTICES, chunk=keys[bad[0]],
        )  # fmt: skip
    positions = np.frombuffer(b"".join(parts), schema.dtype).reshape(-1, schema.grid.ndim)
    rows = sizes // width
    if blobs.catalog_is_stale and isinstance(blobs, GridArrays):
        _check_places(source, coords, keys, rows, positions)
    odd = np.zeros(0, np.intp) if expected is None else np.flatnonzero(rows != expected)
    if expected is not None and len(odd):
        raise FormatError(
            f"the chunk has {rows[odd[0]]} vertices, the store's catalog says {expected[odd[0]]}: it was rewritten; open the "
            "store again, or rebuild the catalog with store.refresh()",
            store=source.where(), array=VERTICES, chunk=keys[odd[0]],
        )  # fmt: skip
    return positions, rows


def block_values(
    source: LevelSource,
    attribute: AttributeSchema,
    keys: Sequence[str],
    rows: NDArray[np.int64],
    found: Mapping[Address, bytes],
) -> NDArray[Any]:
    """Return the stored values of an attribute, of chunks that have so many `rows`; codes are left as they are."""
    missing = f"the chunk has no values of attribute {attribute.name!r}"
    parts, sizes = _blobs_of(source, attribute.array, keys, found, missing)
    item = attribute.dtype.itemsize
    widths = np.full(len(keys), attribute.width)
    some = np.flatnonzero(rows)
    if attribute.any_width:  # the number of values tells it
        widths[some] = np.maximum(sizes[some] // (rows[some] * item), 1)
    bad = np.flatnonzero(sizes != rows * widths * item)
    if len(bad):
        raise FormatError(
            f"the blob has {sizes[bad[0]]} bytes, not {rows[bad[0]]} rows of {widths[bad[0]]} x {attribute.dtype}: it does not "
            "belong to the vertices beside it (an interrupted overwrite, or another tool's edit); "
            "dzv.repair(store, source=copy) writes the chunk again from a copy",
            store=source.where(), array=attribute.array, chunk=keys[bad[0]],
        )  # fmt: skip
    odd = some[widths[some] != widths[some[:1]]]
    if len(odd):
        shapes = [[] if w == 1 else [int(w)] for w in (widths[some[0]], widths[odd[0]])]
        raise _other_width(source, attribute.name, shapes, keys[odd[0]])
    values = np.frombuffer(b"".join(parts), attribute.dtype)
    width = int(widths[some[0]]) if len(some) else attribute.width
    return values if attribute.channels is None and width == 1 else values.reshape(-1, width)


def block_fragments(
    source: LevelSource, keys: Sequence[str], rows: NDArray[np.int64], found: Mapping[Address, bytes]
) -> FragmentRows:
    """Return the fragments of chunks that have so many `rows`."""
    sizes, have = rows.tolist(), [found.get((FRAGMENTS, key)) for key in keys]
    blobs = [encode_single(n) if b is None else b for b, n in zip(have, sizes, strict=True)]
    if b"".join(blobs) == encode_singles(rows):
        return FragmentRows(rows, np.ones(len(rows), np.int64), rows)
    tiled = decode_tilings(blobs, rows)
    if tiled is not None:
        return FragmentRows(rows, tiled[1], tiled[0])
    return FragmentRows.join([_one_index(source, k, b, n) for k, b, n in zip(keys, blobs, sizes, strict=True)])


def _one_index(source: LevelSource, key: str, blob: bytes, n: int) -> FragmentRows:
    """Return the fragments of a chunk of `n` rows that editing tools may have made: they list rows, in any order."""
    stored = np.array([n])
    try:
        index = decode_fragments(blob, n_rows=n)
        rows = None if index.tiles(n) else index.all_rows()
    except FormatError as error:
        raise error.at(store=source.where(), array=FRAGMENTS, chunk=key) from None
    return FragmentRows(stored, np.array([len(index)]), index.counts, rows, np.array([(index.starts < 0).any()]))


def check_coverage(source: LevelSource, keys: Sequence[str], fragments: FragmentRows) -> None:
    """Refuse ranges that leave out rows of their chunk: editing tools list rows, several times or not at all, writers don't."""
    if fragments.stored_rows is None or fragments.listed is None:
        return
    of_row = np.repeat(np.arange(len(keys)), fragments.stored)
    named = np.bincount(of_row[np.unique(fragments.stored_places())], minlength=len(keys))
    odd = np.flatnonzero((named != fragments.stored) & ~fragments.listed)
    if len(odd):
        raise FormatError(
            f"the fragments name {named[odd[0]]} of the chunk's {fragments.stored[odd[0]]} rows: they do not belong together "
            "(an interrupted overwrite, or another tool's edit); "
            "dzv.repair(store, source=copy) writes the chunk again from a copy",
            store=source.where(), array=FRAGMENTS, chunk=keys[odd[0]],
        )  # fmt: skip


def _blobs_of(
    source: LevelSource, array: str, keys: Sequence[str], found: Mapping[Address, bytes], missing: str
) -> tuple[list[bytes], NDArray[np.int64]]:
    """Return the blobs of chunks in an array, and their sizes."""
    parts: list[bytes] = []
    for key in keys:
        part = found.get((array, key))
        if part is None:
            raise FormatError(missing, store=source.where(), array=array, chunk=key)
        parts.append(part)
    return parts, np.array([len(p) for p in parts], np.int64)


def _check_places(
    source: LevelSource, coords: NDArray[np.int64], keys: Sequence[str], rows: NDArray[np.int64], positions: NDArray[Any]
) -> None:
    """Raise where an edited cell holds another chunk's positions: one that is moved to another grid is whole by itself."""
    shape = np.asarray(source.schema.grid.chunk_shape)
    low = np.repeat(source.spatial(coords) * shape, rows, axis=0)
    slack = 1e-3 * shape  # who finds chunks by bins rounds otherwise at the boundaries
    p = positions.astype(np.float64)
    inside = ((p >= low - slack) & (p <= low + shape + slack)).all(axis=1)
    here = np.bincount(np.repeat(np.arange(len(keys)), rows)[inside], minlength=len(keys))
    odd = np.flatnonzero((here == 0) & (rows > 0))
    if len(odd):
        raise FormatError(
            "the cell holds positions of another chunk: the level is being rewritten, or its writer died before the commit; "
            "write it again",
            store=source.where(), array=VERTICES, chunk=keys[odd[0]],
        )  # fmt: skip


def empty_columns(source: LevelSource, attributes: Sequence[AttributeSchema]) -> dict[str, NDArray[Any]]:
    """Return the columns of no rows."""
    out: dict[str, NDArray[Any]] = {
        a.name: np.zeros((0,) if a.channels is None else (0, a.channels), a.dtype) for a in attributes
    }
    if source.chunk_attribute is not None:
        out[source.chunk_attribute[0]] = np.zeros(0, np.int64)
    return out


def join_columns(source: LevelSource, name: str, parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return the values of an attribute in several blocks, one behind the other: the metadata need not tell their width."""
    some = [p for p in parts if len(p)] or parts
    odd = next((p for p in some if p.shape[1:] != some[0].shape[1:]), None)
    if odd is not None:
        raise _other_width(source, name, [list(some[0].shape[1:]), list(odd.shape[1:])])
    return np.concatenate(some)


def _other_width(source: LevelSource, name: str, shapes: list[list[int]], key: str | None = None) -> FormatError:
    return FormatError(
        f"attribute {name!r} has values of shape {shapes[0]} and of shape {shapes[1]}: one of its chunks is damaged",
        store=source.where(), array=f"vertex_attributes/{name}", chunk=key,
    )  # fmt: skip
