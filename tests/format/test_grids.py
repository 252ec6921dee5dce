"""Documents of grid arrays: what we write we and zarr read, and a mutated one is no grid or a MetadataError."""

import json
from copy import deepcopy

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zarr.buffer import cpu
from zarr.core.sync import sync
from zarr.storage import MemoryStore

import dask_zv as dzv
from dask_zv.format.grids import GridArray, GridSpec, codec_list, grid_document, parse_grid_document

QUICK = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
COMPRESSORS = ["zstd", "blosc", None, [{"name": "gzip", "configuration": {"level": 3}}], [{"name": "crc32c"}]]


@st.composite
def specs(draw):
    rank = draw(st.integers(2, 4))
    extents = st.lists(st.integers(1, 9), min_size=rank, max_size=rank).map(tuple)
    origin = tuple(draw(st.lists(st.integers(-5, 5), min_size=rank, max_size=rank)))
    return GridSpec(draw(extents), origin, draw(st.none() | extents), codec_list(draw(st.sampled_from(COMPRESSORS))))


@st.composite
def documents(draw):
    spec = draw(specs())
    inside = st.tuples(*(st.integers(o, o + n - 1) for o, n in zip(spec.origin, spec.shape, strict=True)))
    keys = {".".join(map(str, c)) for c in draw(st.sets(inside, max_size=5))}
    attributes = draw(
        st.dictionaries(st.sampled_from(["dtype", "zv_array", "µ"]), st.none() | st.integers() | st.text(max_size=3))
    )
    return spec, attributes, keys


@QUICK
@given(documents())
def test_round_trip(made):
    spec, attributes, keys = made
    document = json.loads(json.dumps(grid_document(spec, attributes, keys)))
    assert document["attributes"]["nonempty_chunks"] == sorted(keys)
    assert parse_grid_document(document, "v") == GridArray(spec, attributes, frozenset(keys), True)


@QUICK
@given(documents())
def test_zarr_reads_our_documents(made):
    spec, attributes, keys = made
    store = MemoryStore()
    sync(store.set("v/zarr.json", cpu.Buffer.from_bytes(json.dumps(grid_document(spec, attributes, keys)).encode())))
    array = zarr.open_array(store, path="v", mode="r", zarr_format=3)
    assert array.shape == spec.shape
    assert array.chunks == (1,) * spec.rank
    assert array.shards == spec.shard_shape
    assert array[(0,) * spec.rank] == b""
    assert set(array.attrs) == {*attributes, "nonempty_chunks", *(["chunk_grid_origin"] if any(spec.origin) else [])}


def places_in(value, path=()):
    """Yield the path of every value inside of a JSON value."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places_in(child, (*path, key))


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=3), st.just([]), st.just({}),
    st.just([None]), st.just({"name": None}), st.just({"name": "sharding_indexed", "configuration": {}}), st.just([[1]]),
    st.just([2**60, 1, 1]), st.just(["0.0", "0.0.0"]), st.just(["00.0.0"]), st.just({"configuration": None}),
)  # fmt: skip


@QUICK
@given(documents(), st.data())
def test_mutated_documents(made, data):
    """Values of other kinds anywhere, and values that are gone: a grid, no grid, or an error that names the array."""
    document = json.loads(json.dumps(grid_document(*made)))
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from([p for p in places_in(document) if p]))
        parent = document
        for step in path[:-1]:
            parent = parent[step]
        if data.draw(st.booleans()):
            parent[path[-1]] = deepcopy(data.draw(ODD))
        else:
            del parent[path[-1]]
    try:
        found = parse_grid_document(document, "0/vertices", "s")
    except dzv.MetadataError as error:
        if "0/vertices" not in str(error):
            raise AssertionError("the error does not name the array") from error
        return
    if found is not None:  # and what passes can be used
        assert found.spec.rank == len(found.spec.origin) >= 2
        found.spec.contains(np.zeros((1, found.spec.rank), np.int64))
        if found.spec.shard_shape is not None:
            found.spec.shards_of(np.zeros((1, found.spec.rank), np.int64))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("chunk_grid", "configuration", "chunk_shape"), [2, 0]),
        (("chunk_grid", "configuration", "chunk_shape"), [2]),
        (("shape",), [4]),
        (("shape",), [4, -1]),
        (("shape",), [4, 2**53]),
        (("codecs", 0, "configuration", "chunk_shape"), [0, 0]),
        (("codecs", 0, "configuration", "codecs", 0), {"configuration": {}}),
        (("codecs", 0, "configuration", "codecs", 0, "name"), "bytes"),
        (("codecs", 0, "configuration", "codecs"), []),
        (("attributes", "nonempty_chunks"), ["0"]),
        (("attributes", "nonempty_chunks"), "0.0"),
        (("attributes", "chunk_grid_origin"), [0]),
        (("attributes", "chunk_grid_origin"), [0, 0.5]),
    ],
)
def test_damaged_documents(path, value):
    document = json.loads(json.dumps(grid_document(GridSpec((4, 4), (0, 1), (2, 2)), {}, ["0.1"])))
    parent = document
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = value
    with pytest.raises(dzv.MetadataError, match="0/vertices"):
        parse_grid_document(document, "0/vertices", "s")


@QUICK
@given(specs(), st.data())
def test_cells_and_shards(spec, data):
    near = st.lists(st.integers(-8, 16), min_size=spec.rank, max_size=spec.rank)
    coords = np.array(data.draw(st.lists(near, min_size=1, max_size=10)), np.int64)
    inside = [all(o <= c < o + n for c, o, n in zip(row, spec.origin, spec.shape, strict=True)) for row in coords.tolist()]
    assert spec.contains(coords).tolist() == inside
    if not all(inside):
        with pytest.raises(dzv.BoundsError, match="larger bounds"):
            spec.cells_of(coords)
        coords = coords[inside]
    cells = spec.cells_of(coords)
    assert (cells + spec.origin == coords).all()
    if spec.shard_shape is not None:
        shards, numbers = spec.shards_of(cells)
        local = np.stack(np.unravel_index(numbers, spec.shard_shape), axis=1)
        assert (shards * spec.shard_shape + local == cells).all()
    with pytest.raises(dzv.BoundsError, match="rank"):
        spec.cells_of(np.zeros((1, spec.rank + 1), np.int64))
