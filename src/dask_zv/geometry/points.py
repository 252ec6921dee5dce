"""Points: how a block's rows are arranged, and what a chunk's blobs hold.

Without objects a chunk has one fragment per bin, in row-major order of the bins; with objects one per object that has
points in it, ascending by id. Rows inside a fragment keep the input's order. (Zarr Vectors format, point clouds, graphs and
meshes.)
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

POINT_CLOUD = Kind("point_cloud", "implicit_sequential")


def encode_points(schema: PointSchema, rows: VertexRows) -> EncodedBlock:
    """Encode points, with objects or without."""
    block = chunk_rows(schema, rows)
    arrangement = arrange_objects(block) if schema.has_objects else arrange_bins(schema, block)
    return encode_block(schema, block, arrangement, BlockExtra(arrangement.fragments))


def arrange_bins(schema: PointSchema, block: ChunkedRows) -> Arrangement:
    """Arrange points without objects: a fragment for every bin, or one where a chunk has one bin."""
    grid, m = schema.grid, len(block.coords)
    if grid.n_bins == 1:
        return Arrangement(stable_order(block.number, m), None)
    combined = block.number * grid.n_bins + grid.bins_of(block.rows.positions, block.chunks)
    counts = np.bincount(combined, minlength=m * grid.n_bins).reshape(m, grid.n_bins)
    return Arrangement(stable_order(combined, m * grid.n_bins), list(counts))


def arrange_objects(block: ChunkedRows) -> Arrangement:
    """Arrange vertices of objects: a fragment for each object in a chunk, ascending by id."""
    ids = block.rows.ids
    order = np.lexsort((ids, block.number))
    by_chunk, by_object = block.number[order], ids[order]
    starts = np.ones(len(order), bool)
    starts[1:] = (by_chunk[1:] != by_chunk[:-1]) | (by_object[1:] != by_object[:-1])
    return cut_fragments(block, order, starts)
