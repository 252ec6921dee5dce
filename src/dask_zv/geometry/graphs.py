"""Graphs: vertices arranged by object as points are, joined by edges between any two."""

from __future__ import annotations

from dask_zv.geometry.block import BlockExtra, EncodedBlock, chunk_rows, encode_block, places_of
from dask_zv.geometry.points import arrange_objects
from dask_zv.geometry.rows import VertexRows
from dask_zv.geometry.schema import Kind, PointSchema

GRAPH = Kind("graph", "explicit", link="edge")


def encode_linked(schema: PointSchema, rows: VertexRows) -> EncodedBlock:
    """Encode the vertices of graphs and meshes, whose links come later."""
    block = chunk_rows(schema, rows.with_objects())
    arrangement = arrange_objects(block)
    places = places_of(block, arrangement, with_objects=False)
    return encode_block(schema, block, arrangement, BlockExtra(arrangement.fragments, places))
