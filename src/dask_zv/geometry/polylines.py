"""Polylines and lines: cut where they leave a chunk, the pieces kept in the order of the path.

No vertex is inserted or doubled: the edge between two pieces is that of their manifest. In generation 0.7 pieces are cut at
the boundaries of bins, too. (Zarr Vectors format, polylines, streamlines and lines.)
"""

from __future__ import annotations

import numpy as np

from dask_zv.geometry.block import (
    Arrangement,
    BlockExtra,
    ChunkedRows,
    EncodedBlock,
    chunk_rows,
    cut_fragments,
    encode_block,
    stable_order,
)
from dask_zv.geometry.rows import VertexRows
from dask_zv.geometry.schema import Kind, PointSchema

LINE = Kind("line", "implicit_sequential", is_path=True)
POLYLINE = Kind("polyline", "implicit_sequential", is_path=True)
STREAMLINE = Kind("streamline", "implicit_sequential", is_path=True)


def encode_polylines(schema: PointSchema, rows: VertexRows, *, at_bins: bool) -> EncodedBlock:
    """Encode lines and polylines; `at_bins`: cut at the boundaries of bins as well as of chunks."""
    block = chunk_rows(schema, rows)
    arrangement = arrange_pieces(schema, block, at_bins=at_bins)
    return encode_block(schema, block, arrangement, BlockExtra(arrangement.fragments))


def arrange_pieces(schema: PointSchema, block: ChunkedRows, *, at_bins: bool) -> Arrangement:
    """Arrange rows, ascending by number: a fragment for each run of one object whose rows follow each other in the input."""
    rows = block.rows
    assert rows.numbers is not None
    order = stable_order(block.number, len(block.coords))
    number, ids, chunk = rows.numbers[order], rows.ids[order], block.number[order]
    starts = np.ones(len(order), bool)
    starts[1:] = (number[1:] != number[:-1] + 1) | (ids[1:] != ids[:-1]) | (chunk[1:] != chunk[:-1])
    if at_bins and schema.grid.n_bins > 1:
        bins = schema.grid.bins_of(rows.positions, block.chunks)[order]
        starts[1:] |= bins[1:] != bins[:-1]
    return cut_fragments(block, order, starts, rows.numbers)
