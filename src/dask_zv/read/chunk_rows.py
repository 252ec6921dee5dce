"""Chunks of a level: fetched together, and decoded one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError
from dask_zv.format.fragment_index import FragmentIndex
from dask_zv.format.keys import parse_key
from dask_zv.geometry.points import decode_index, decode_positions
from dask_zv.geometry.schema import FRAGMENTS, VERTICES, AttributeSchema
from dask_zv.level.source import LevelSource, check_unchanged, level_blobs
from dask_zv.storage.grid.read import GridArrays
from dask_zv.storage.layout import Blobs
from dask_zv.storage.marks import check_not_replaced
from dask_zv.storage.objects import Address


@dataclass(frozen=True, slots=True, eq=False)
class ChunkRows:
    """One chunk, its rows in reading order (fragments in order).

    Attributes
    ----------
    positions : ndarray, shape (n, D)
    attributes : dict of str to ndarray, shape (n,) or (n, C)
        As stored: codes for categories.
    fragment_rows : ndarray of int64, shape (F,), optional
        Rows of each fragment, where the fragment index was read.
    stored_rows : ndarray of int64, shape (n,), optional
        Which row of the chunk's blobs each one is; None where they are these, in their order.
    stored : int
        Rows of the chunk's blobs.
    """

    positions: NDArray[Any]
    attributes: dict[str, NDArray[Any]]
    fragment_rows: NDArray[np.int64] | None
    stored_rows: NDArray[np.int64] | None
    stored: int


def read_chunks(
    source: LevelSource,
    keys: Sequence[str],
    attributes: Sequence[AttributeSchema],
    *,
    positions: bool = True,
    blobs: Blobs | None = None,
    rows: Sequence[int] | None = None,
    indexes: Sequence[FragmentIndex | None] | None = None,
) -> list[ChunkRows]:
    """Read some chunks of a level, all their blobs concurrently.

    Parameters
    ----------
    source : LevelSource
    keys : sequence of str
        Chunk keys.
    attributes : sequence of AttributeSchema
        Those to read.
    positions : bool
        False leaves positions empty; the number of rows then comes from `rows`.
    blobs : Blobs, optional
        The level's blobs, where the caller has them open.
    rows : sequence of int, optional
        Rows that each chunk should have.
    indexes : sequence of FragmentIndex, optional
        The chunks' fragment indexes, where the caller has them; None for a chunk without one.

    Raises
    ------
    FormatError, StoreError
        A blob is missing, damaged, or does not have its chunk's rows; the message names the chunk.
    """
    blobs = blobs or level_blobs(source)
    with_positions = positions or rows is None
    found = fetch_chunks(source, blobs, keys, attributes, positions=with_positions, indexes=indexes is None)
    return decode_chunks(source, blobs, keys, attributes, found, with_positions=with_positions, rows=rows, indexes=indexes)


def fetch_chunks(
    source: LevelSource,
    blobs: Blobs,
    keys: Sequence[str],
    attributes: Sequence[AttributeSchema],
    *,
    positions: bool,
    indexes: bool,
    more: Sequence[Address] = (),
) -> dict[Address, bytes]:
    """Read the blobs of some chunks, and those at `more` addresses, all concurrently."""
    arrays = [VERTICES] if positions else []
    arrays += [FRAGMENTS] if indexes else []
    arrays += [a.array for a in attributes]
    found = blobs.read_many([*((array, key) for array in arrays for key in keys), *more])
    if blobs.catalog_is_stale:  # one chunk was edited in place, or all were replaced, maybe by values of other dtypes
        check_unchanged(source)
        check_not_replaced(blobs.objects, blobs.prefix, blobs.stale_chunk)
    return found


def decode_chunks(
    source: LevelSource,
    blobs: Blobs,
    keys: Sequence[str],
    attributes: Sequence[AttributeSchema],
    found: dict[tuple[str, str], bytes],
    *,
    with_positions: bool,
    rows: Sequence[int] | None,
    indexes: Sequence[FragmentIndex | None] | None,
) -> list[ChunkRows]:
    """Decode chunks one by one, see :func:`read_chunks`."""
    out: list[ChunkRows] = []
    for i, key in enumerate(keys):
        try:
            vertices = found.get((VERTICES, key))
            if vertices is None and with_positions:
                raise FormatError("the chunk has no positions", array=VERTICES, chunk=key)
            if blobs.catalog_is_stale and vertices is not None and isinstance(blobs, GridArrays):
                _check_place(source, key, vertices)
            n = _count_rows(source, key, vertices, None if rows is None else rows[i])
            index = indexes[i] if indexes is not None else decode_index(key, found.get((FRAGMENTS, key)), n)
            out.append(_one_chunk(source, key, attributes, found, n, index))
        except FormatError as error:
            raise error.at(store=source.where(), chunk=key) from None
    return out


def _check_place(source: LevelSource, key: str, vertices: bytes) -> None:
    """Raise where an edited cell holds another chunk's positions: one that is moved to another grid is whole by itself."""
    positions = decode_positions(source.schema, key, vertices).astype(np.float64)
    shape = np.asarray(source.schema.grid.chunk_shape)
    low = np.asarray(parse_key(key)[-len(shape) :]) * shape
    slack = 1e-3 * shape  # who finds chunks by bins rounds otherwise at the boundaries
    inside = ((positions >= low - slack) & (positions <= low + shape + slack)).all(axis=1)
    if len(positions) and not inside.any():
        raise FormatError(
            "the cell holds positions of another chunk: the level is being rewritten, or its writer died before the commit; "
            "write it again",
            array=VERTICES, chunk=key,
        )  # fmt: skip


def _count_rows(source: LevelSource, key: str, vertices: bytes | None, expected: int | None) -> int:
    if vertices is None:
        assert expected is not None
        return expected
    n = len(decode_positions(source.schema, key, vertices))
    if expected is not None and n != expected:
        raise FormatError(
            f"the chunk has {n} vertices, the store's catalog says {expected}: it was rewritten; open the store again, "
            "or rebuild the catalog with store.refresh()",
            array=VERTICES, chunk=key,
        )  # fmt: skip
    return n


def _one_chunk(
    source: LevelSource,
    key: str,
    attributes: Sequence[AttributeSchema],
    found: dict[tuple[str, str], bytes],
    n: int,
    index: FragmentIndex | None,
) -> ChunkRows:
    """Decode one chunk of `n` rows, and put its rows into the order of its fragments."""
    schema = source.schema
    columns: dict[str, NDArray[Any]] = {}
    for attribute in attributes:
        data = found.get((attribute.array, key))
        if data is None:
            raise FormatError(f"the chunk has no values of attribute {attribute.name!r}", array=attribute.array, chunk=key)
        columns[attribute.name] = attribute.decode(data, n, key)
    if source.chunk_attribute is not None:
        columns[source.chunk_attribute[0]] = np.full(n, parse_key(key)[0], np.int64)
    positions = np.zeros((0, schema.grid.ndim), schema.dtype)
    vertices = found.get((VERTICES, key))
    if vertices is not None:
        positions = decode_positions(schema, key, vertices)
    rows: NDArray[np.int64] | None = None
    if index is not None and not index.tiles(n):
        rows = index.all_rows()
        # editing tools list rows, one by one, several times or not at all; writers store ranges that tile
        if len(np.unique(rows)) != n and not (index.starts < 0).any():
            raise FormatError(
                f"the fragments name {len(np.unique(rows))} of the chunk's {n} rows: they do not belong together (an "
                "interrupted overwrite, or another tool's edit); write the chunk again",
                array=FRAGMENTS, chunk=key,
            )  # fmt: skip
        columns = {k: v[rows] for k, v in columns.items()}
        positions = positions if vertices is None else positions[rows]
    return ChunkRows(positions, columns, None if index is None else index.counts, rows, n)
