"""Points: rows of one block to blobs by chunk, and back.

Without objects a chunk has one fragment per bin, in row-major order of the bins; with objects one per object that has
points in it, ascending by id. Rows inside a fragment keep the input's order. (Zarr Vectors format 0.7, point clouds.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError
from dask_zv.format.fragments import FragmentIndex, decode_fragments, encode_single, encode_tiling
from dask_zv.format.keys import coords_to_keys
from dask_zv.geometry.schema import FRAGMENTS, VERTICES, PointSchema
from dask_zv.spatial.grid import corners

__all__ = [
    "EncodedPoints",
    "PointRows",
    "concatenate_rows",
    "decode_index",
    "decode_positions",
    "encode_points",
    "group_by_chunk",
]

_TABLE_LIMIT = 1 << 22


@dataclass(frozen=True, slots=True, eq=False)
class PointRows:
    """Rows as they are stored, not yet sorted into chunks.

    Attributes
    ----------
    positions : ndarray, shape (n, D)
    attributes : mapping of str to ndarray, shape (n,) or (n, C)
    object_ids : ndarray of int64, shape (n,), optional
    """

    positions: NDArray[np.floating]
    attributes: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    object_ids: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.positions)

    def __sizeof__(self) -> int:
        # what the scheduler's memory management counts
        arrays = [self.positions, *self.attributes.values()]
        return sum(a.nbytes for a in arrays) + (0 if self.object_ids is None else self.object_ids.nbytes) + 200

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_] | slice) -> PointRows:
        """Return a selection of rows."""
        return PointRows(
            self.positions[rows],
            {k: v[rows] for k, v in self.attributes.items()},
            None if self.object_ids is None else self.object_ids[rows],
        )


def concatenate_rows(pieces: Sequence[PointRows]) -> PointRows:
    """Return the rows of all pieces, in the order given."""
    if len(pieces) == 1:
        return pieces[0]
    first = pieces[0]
    return PointRows(
        np.concatenate([p.positions for p in pieces]),
        {k: np.concatenate([p.attributes[k] for p in pieces]) for k in first.attributes},
        None if first.object_ids is None else np.concatenate([_ids(p) for p in pieces]),
    )


def _ids(rows: PointRows) -> NDArray[np.int64]:
    assert rows.object_ids is not None
    return rows.object_ids


@dataclass(frozen=True, slots=True, eq=False)
class EncodedPoints:
    """A block's blobs.

    Attributes
    ----------
    blobs : dict of (array, chunk key) to bytes
    rows : dict of chunk key to vertices in it
    objects : ndarray of int64, shape (F,)
        Object of each fragment (empty without objects).
    chunks : ndarray of int64, shape (F, D)
        Chunk of each fragment.
    fragments : ndarray of int64, shape (F,)
        Number of each fragment in its chunk.
    """

    blobs: dict[tuple[str, str], bytes]
    rows: dict[str, int]
    objects: NDArray[np.int64]
    chunks: NDArray[np.int64]
    fragments: NDArray[np.int64]


def group_by_chunk(chunks: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct rows of `chunks`, ascending, and the number of each row's chunk among them.

    Parameters
    ----------
    chunks : ndarray of int64, shape (n, D)

    Returns
    -------
    unique : ndarray of int64, shape (m, D)
    number : ndarray of int64, shape (n,)
    """
    n, ndim = chunks.shape
    if n == 0:
        return np.zeros((0, ndim), np.int64), np.zeros(0, np.int64)
    low, high = corners(chunks)
    extent = [int(e) for e in high - low + 1]
    cells = 1
    for e in extent:
        cells *= e
    if cells > 1 << 62:
        unique, inverse = np.unique(chunks, axis=0, return_inverse=True)
        return unique, inverse.reshape(-1).astype(np.int64)
    code = np.zeros(n, np.int64)
    for axis in range(ndim):
        code *= extent[axis]
        code += chunks[:, axis] - low[axis]
    if cells <= max(_TABLE_LIMIT, 2 * n):  # a table of all cells is faster than a sort
        occupied = np.flatnonzero(np.bincount(code, minlength=cells))
        table = np.zeros(cells, np.int64)
        table[occupied] = np.arange(len(occupied))
        number = table[code]
    else:
        occupied, inverse = np.unique(code, return_inverse=True)
        number = inverse.reshape(-1).astype(np.int64)
    return np.stack(np.unravel_index(occupied, extent), axis=1).astype(np.int64) + low, number


def _stable_order(values: NDArray[np.int64], limit: int) -> NDArray[np.intp]:
    """Sort stably; numpy sorts 16-bit integers in linear time."""
    if limit <= 1 << 16:
        return np.argsort(values.astype(np.uint16), kind="stable")
    return np.argsort(values, kind="stable")


def encode_points(schema: PointSchema, rows: PointRows) -> EncodedPoints:
    """Return the blobs of the chunks that hold `rows`.

    Parameters
    ----------
    schema : PointSchema
    rows : PointRows
        Positions and attributes in their stored dtypes (codes for categories), in input order.
    """
    grid = schema.grid
    chunks = grid.chunks_of(rows.positions)
    unique, number = group_by_chunk(chunks)
    m = len(unique)
    objects, owners, fragments = (np.zeros(0, np.int64) for _ in range(3))
    if schema.has_objects:
        ids = _ids(rows)
        order = np.lexsort((ids, number))
        by_chunk, by_object = number[order], ids[order]
        first = np.flatnonzero(np.r_[True, (by_chunk[1:] != by_chunk[:-1]) | (by_object[1:] != by_object[:-1])])
        sizes = np.diff(np.r_[first, len(ids)])
        objects, owners = by_object[first], by_chunk[first]
        per_chunk = np.bincount(owners, minlength=m)
        starts = np.r_[0, np.cumsum(per_chunk)]
        fragments = np.arange(len(first)) - starts[owners]
        counts = [sizes[starts[i] : starts[i + 1]] for i in range(m)]
    elif grid.n_bins > 1:
        combined = number * grid.n_bins + grid.bins_of(rows.positions, chunks)
        order = _stable_order(combined, m * grid.n_bins)
        counts = list(np.bincount(combined, minlength=m * grid.n_bins).reshape(m, grid.n_bins))
    else:
        order = _stable_order(number, m)
        counts = []  # one fragment of all rows
    ends = np.cumsum(np.bincount(number, minlength=m)).tolist()
    del chunks, number  # as large as the rows themselves
    keys = coords_to_keys(unique)
    blobs: dict[tuple[str, str], bytes] = {}
    columns = [(VERTICES, rows.positions), *((a.array, rows.attributes[a.name]) for a in schema.attributes)]
    for array, values in columns:
        data = np.ascontiguousarray(values[order]).reshape(-1).view(np.uint8).data
        width = len(data) // max(len(order), 1)
        start = 0
        for key, end in zip(keys, ends, strict=True):
            blobs[array, key] = bytes(data[start * width : end * width])
            start = end
    if schema.has_objects or grid.n_bins > 1:
        blobs.update(((FRAGMENTS, key), encode_tiling(c)) for key, c in zip(keys, counts, strict=True))
    else:
        rows_of = np.diff([0, *ends]).tolist()
        blobs.update(((FRAGMENTS, key), encode_single(n)) for key, n in zip(keys, rows_of, strict=True))
    sizes_by_key = dict(zip(keys, np.diff([0, *ends]).tolist(), strict=True))
    return EncodedPoints(
        blobs, sizes_by_key, objects, unique[owners] if len(owners) else np.zeros((0, grid.ndim), np.int64), fragments
    )


def decode_positions(schema: PointSchema, chunk: str, vertices: bytes) -> NDArray[Any]:
    """Return a chunk's stored positions, shape (n, D).

    Raises
    ------
    FormatError
        The blob is no whole number of rows.
    """
    ndim = schema.grid.ndim
    if len(vertices) % (ndim * schema.dtype.itemsize):
        raise FormatError(
            f"the blob has {len(vertices)} bytes, which is no whole number of {ndim} x {schema.dtype} rows",
            array=VERTICES, chunk=chunk,
        )  # fmt: skip
    return np.frombuffer(vertices, schema.dtype).reshape(-1, ndim)


def decode_index(chunk: str, fragments: bytes | None, n_rows: int) -> FragmentIndex | None:
    """Return the fragment index of a chunk of `n_rows` rows, None where it has none.

    Raises
    ------
    FormatError
        The blob is damaged, or a fragment names rows that aren't there.
    """
    if fragments is None:
        return None
    try:
        return decode_fragments(fragments, n_rows=n_rows)
    except FormatError as error:
        raise error.at(array=FRAGMENTS, chunk=chunk) from None
