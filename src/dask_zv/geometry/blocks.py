"""From the rows of a block to what its task stores and reports, for each geometry."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from dask_zv.format.links import LinkFamily
from dask_zv.geometry.encoding import Arrangement, ChunkedRows, EncodedVertices, chunk_rows, encode_vertices
from dask_zv.geometry.link_records import encode_links
from dask_zv.geometry.places import BlockExtra, places_of
from dask_zv.geometry.points import arrange_bins, arrange_objects
from dask_zv.geometry.polylines import arrange_pieces
from dask_zv.geometry.rows import VertexRows
from dask_zv.geometry.schema import PointSchema
from dask_zv.geometry.skeletons import arrange_forest


@dataclass(frozen=True, slots=True, eq=False)
class GeometryBlock:
    """What becomes of a block of rows.

    Attributes
    ----------
    blobs : dict of (array, chunk key) to bytes
    rows : dict of chunk key to vertices in it
    extra : BlockExtra
    metadata : dict of array to attributes
    records : dict of family's path to int
        Links in the blobs.
    """

    blobs: dict[tuple[str, str], bytes]
    rows: dict[str, int]
    extra: BlockExtra
    metadata: dict[str, dict[str, object]] = dataclasses.field(default_factory=dict)
    records: dict[str, int] = dataclasses.field(default_factory=dict)


def _with_ids(rows: VertexRows) -> VertexRows:
    """Return rows that all have an object: 0 where none were given."""
    return rows if rows.object_ids is not None else dataclasses.replace(rows, object_ids=np.zeros(len(rows), np.int64))


def _encoded(schema: PointSchema, block: ChunkedRows, arrangement: Arrangement, extra: BlockExtra) -> GeometryBlock:
    made: EncodedVertices = encode_vertices(schema, block, arrangement)
    return GeometryBlock(made.blobs, made.rows, extra)


def encode_points(schema: PointSchema, rows: VertexRows) -> GeometryBlock:
    """Encode points, with objects or without."""
    block = chunk_rows(schema, rows)
    arrangement = arrange_objects(block) if schema.has_objects else arrange_bins(schema, block)
    return _encoded(schema, block, arrangement, BlockExtra(arrangement.fragments))


def encode_polylines(schema: PointSchema, rows: VertexRows, *, at_bins: bool) -> GeometryBlock:
    """Encode lines and polylines."""
    block = chunk_rows(schema, rows)
    arrangement = arrange_pieces(schema, block, at_bins=at_bins)
    return _encoded(schema, block, arrangement, BlockExtra(arrangement.fragments))


def encode_linked(schema: PointSchema, rows: VertexRows) -> GeometryBlock:
    """Encode the vertices of graphs and meshes, whose links come later."""
    block = chunk_rows(schema, _with_ids(rows))
    arrangement = arrange_objects(block)
    places = places_of(block, arrangement, with_objects=False)
    return _encoded(schema, block, arrangement, BlockExtra(arrangement.fragments, places))


def encode_skeletons(schema: PointSchema, rows: VertexRows, *, family: LinkFamily) -> GeometryBlock:
    """Encode the nodes of skeletons, with the links inside their chunks."""
    block = chunk_rows(schema, _with_ids(rows))
    forest = arrange_forest(block)
    places = places_of(block, forest.arrangement, with_objects=True)
    extra = BlockExtra(forest.arrangement.fragments, places, forest.outer, forest.edges)
    out = _encoded(schema, block, forest.arrangement, extra)
    links = encode_links(family, (), forest.inner)
    return dataclasses.replace(out, blobs={**out.blobs, **links.blobs}, metadata=links.metadata, records=links.records)
