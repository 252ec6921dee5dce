"""Decoders of metadata documents, and of what they say of the blobs beside them."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
from fuzz_base import Parts, attributes_of, decodes, from_per_chunk, node_of, spread
from fuzz_stores import documents

import dask_zv as dzv
from dask_zv.errors import FormatError, MetadataError
from dask_zv.format import grids, links
from dask_zv.format.dictionary import DictionaryEncoding
from dask_zv.format.documents import parse_blob_document, parse_document
from dask_zv.format.levels import LevelMetadata
from dask_zv.format.metadata import Generation, RootMetadata, detect_generation
from dask_zv.geometry.schema import AttributeSchema, PointSchema, parse_dtype
from dask_zv.level.source import LevelSource
from dask_zv.read.decode import block_positions, block_values
from dask_zv.spatial.grid import ChunkGrid
from dask_zv.storage.codecs import cell_codec


def _family_seeds() -> list[Parts]:
    kept = (("sid_ndim", 3), ("level_delta", 0))
    found = [d for _, d in documents() if b'"link_width"' in d and all(attributes_of(d).get(k, v) == v for k, v in kept)]
    ours = links.LinkFamily(3, 3, count=7, physical=9).to_attributes()
    return [(d,) for d in spread(found, 30)] + [(node_of(ours),)]


@decodes("link family", _family_seeds, "j")
def _run_family(parts: Parts, seed: Parts) -> None:
    attributes = attributes_of(parts[0])
    family = links.LinkFamily.from_attributes({**attributes, "sid_ndim": attributes.get("sid_ndim", 3)}, 3, 0)
    assert 1 <= family.width <= links.MAX_WIDTH
    assert type(family.directed) is bool
    assert family.store in ("canonical", "duplicate")
    assert all(c is None or (type(c) is int and c >= 0) for c in (family.count, family.physical))


@decodes("zarr.json", lambda: [(d,) for d in spread([d for _, d in documents()], 120)], "j")
def _run_document(parts: Parts, seed: Parts) -> None:
    document = parse_document(parts[0], "0/x", "file:///s")
    assert document["node_type"] in ("group", "array")
    assert isinstance(document.get("attributes", {}), dict)
    blob = parse_blob_document(parts[0], "0/x") if document["node_type"] == "array" and _is_uint8(document) else None
    if blob is not None:
        assert type(blob.nbytes) is int
        assert blob.nbytes >= 0
        assert blob.raw != blob.zstd
        assert isinstance(blob.attributes, dict)


def _is_uint8(document: Any) -> bool:
    return document.get("data_type") == "uint8"


def _grid_seeds() -> list[Parts]:
    found = [d for _, d in documents() if b"variable_length_bytes" in d]
    spec = grids.GridSpec((4, 5, 6), (-2, 0, 1), (2, 2, 2), tuple(grids.codec_list("zstd")))
    ours = json.dumps(grids.grid_document(spec, {"dtype": "float32"}, ["-2.0.1", "0.1.2"])).encode()
    return [(d,) for d in [*spread(found, 60), ours]]


@decodes("grid document", _grid_seeds, "j")
def _run_grid(parts: Parts, seed: Parts) -> None:
    found = grids.parse_grid_document(parse_document(parts[0], "0/v"), "0/v", "file:///s")
    if found is None:
        return
    spec = found.spec
    rank = spec.rank
    assert rank >= 2
    assert len(spec.origin) == rank
    assert all(type(v) is int and 0 <= v < 1 << 53 for v in spec.shape)
    assert all(type(v) is int and abs(v) < 1 << 53 for v in spec.origin)
    assert spec.shard_shape is None or (len(spec.shard_shape) == rank and all(v > 0 for v in spec.shard_shape))
    assert 0 < spec.shard_cells < 1 << 40, "an index of a shard that nothing can hold"
    coords = np.zeros((2, rank), np.int64) + np.array([[0], [1]])
    inside = coords[spec.contains(coords)]
    at = spec.cells_of(inside)
    assert (at >= 0).all()
    if spec.shard_shape is not None:
        where, number = spec.shards_of(at)
        assert where.shape == at.shape
        assert ((number >= 0) & (number < spec.shard_cells)).all()
    if found.nonempty is not None:
        listed = grids.listed_coords(found.nonempty, rank)
        assert listed.shape == (len(found.nonempty), rank)
        spec.contains(listed)
    if parts == seed:
        assert json.loads(json.dumps(found.attributes)) is not None
    try:
        cell_codec(spec.codecs)
    except MetadataError:
        return


@decodes("root metadata", lambda: [(d,) for d in spread([d for _, d in documents() if b'"zv_version"' in d], 40)], "j")
def _run_root(parts: Parts, seed: Parts) -> None:
    attributes = attributes_of(parts[0])
    root = RootMetadata.from_attributes(attributes)
    assert 2 <= root.ndim <= 4
    assert len(root.chunk_shape) == root.ndim
    numbers = np.array([*root.chunk_shape, *root.bin_shape, *root.bounds[0], *root.bounds[1]], np.float64)
    assert np.isfinite(numbers).all()
    assert min(*root.chunk_shape, *root.bin_shape) > 0
    assert root.generation in Generation
    assert all(b >= 1 for b in root.bins_per_chunk)
    grid = ChunkGrid(root.chunk_shape, root.bins_per_chunk)
    box = tuple(np.asarray(b, np.float64) for b in root.bounds)
    grid.touches(np.zeros((1, root.ndim), np.int64), box)
    again = RootMetadata.from_attributes(json.loads(json.dumps(root.to_attributes())))
    assert again.to_attributes() == root.to_attributes()
    assert detect_generation(attributes["zarr_vectors"]) is root.generation


@decodes("level metadata", lambda: [(d,) for d in spread([d for _, d in documents() if b'"zarr_vectors_level"' in d], 40)], "j")
def _run_level(parts: Parts, seed: Parts) -> None:
    level = LevelMetadata.from_attributes(attributes_of(parts[0]))
    assert level.level >= 0
    assert level.vertex_count >= 0
    assert 0 < level.object_sparsity <= 1
    again = LevelMetadata.from_attributes(json.loads(json.dumps(level.to_attributes())))
    assert again.to_attributes() == level.to_attributes() or "NaN" in json.dumps(level.to_attributes())
    shape = level.chunk_shape_in((10.0, 10.0, 10.0))
    assert len(shape) == 3
    assert min(shape) > 0


POSITIONS = PointSchema(ChunkGrid((1.0,) * 3, (1,) * 3), np.dtype("<f4"))
NOT_STALE: Any = SimpleNamespace(catalog_is_stale=False)


_PLACE = dzv.create({}, chunk_shape=(1, 1, 1))._contents.level(0).place  # once, here: what is fed to decoders creates no store


def _source(schema: PointSchema) -> LevelSource:
    return LevelSource(_PLACE, schema, None, "", False)


def _schema_seeds() -> list[Parts]:
    found = [d for p, d in documents() if "_attributes/" in p and b'"dtype"' in d]
    cats = {"dtype": "int8", "encoding": "dictionary", "categories": ["axon", "soma"], "ordered": False, "_FillValue": -1}
    blob = np.array([0, 1, -1, 1], np.int8).tobytes()
    return [(d, bytes(8 * 12)) for d in spread(found, 40)] + [(node_of(cats), blob)]


@decodes("attribute schema", _schema_seeds, "jb")
def _run_schema(parts: Parts, seed: Parts) -> None:
    attributes = attributes_of(parts[0])
    problems = 0
    for any_width in (False, True):
        schema = AttributeSchema.from_attributes("mass", attributes, any_width=any_width)
        assert schema.dtype.kind in "biufcmM"
        assert schema.dtype.itemsize > 0
        assert schema.width >= 1
        for n in (0, 1, 4, 12):
            try:
                found = {(schema.array, "0.0.0"): parts[1]}
                stored = block_values(_source(POSITIONS), schema, ["0.0.0"], np.array([n]), found)
                assert len(stored) == n
                values = schema.values(stored)
                assert len(values) == n
                assert values.dtype == schema.value_dtype or schema.dictionary is None
            except FormatError:
                problems += 1
    if problems == 8 and parts != seed:
        raise FormatError("the blob fits none")


def _dictionary_seeds() -> list[Parts]:
    found = [d for _, d in documents() if b'"dictionary"' in d]
    return [(d, bytes([0, 1, 0, 255])) for d in spread(found, 10)] + [_schema_seeds()[-1]]


@decodes("categories", _dictionary_seeds, "jb")
def _run_dictionary(parts: Parts, seed: Parts) -> None:
    encoding = DictionaryEncoding.from_attributes(attributes_of(parts[0]))
    if encoding is None:
        return
    assert encoding.dtype.kind in "iu"
    for dtype in ("u1", "i1", "<u4"):
        codes = np.frombuffer(parts[1][: len(parts[1]) // 4 * 4], dtype)
        try:
            values = encoding.decode(codes)
        except FormatError:
            continue
        assert values.shape == codes.shape
        kept = set(np.unique(codes).tolist())
        assert all(0 <= c < len(encoding.categories) or c == encoding.fill_value for c in kept)


@decodes("positions", lambda: [(b, b"<f4") for b in spread(from_per_chunk("vertices"), 20)] + [(bytes(72), b"<f8")], "bb")
def _run_positions(parts: Parts, seed: Parts) -> None:
    dtype = parse_dtype(parts[1].decode("latin-1"), "vertices")
    assert dtype.kind in "biufcmM"
    schema = PointSchema(ChunkGrid((1.0,) * 3, (1,) * 3), dtype)
    found = {("vertices", "0.0.0"): parts[0]}
    positions, rows = block_positions(_source(schema), NOT_STALE, np.zeros((1, 3), np.int64), ["0.0.0"], found, None)
    assert positions.shape == (len(parts[0]) // (3 * dtype.itemsize), 3) == (int(rows[0]), 3)
