"""Lines, polylines, skeletons, graphs and meshes that can't be stored as given are refused with an error that says why.

What is in memory, and what one look at lazy data tells, is refused before anything is stored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from points_reference import files

import dask_zv as dzv

N = 60
RNG = np.random.default_rng(0)
POINTS = RNG.uniform(0, 30, (N, 3))
LENGTHS = [20, 10, 30]
LINES = POINTS.reshape(-1, 2, 3)
EDGES = RNG.integers(0, N, (40, 2))
FACES = RNG.integers(0, N, (40, 3))
CHAIN = np.arange(N) - 1
THREE = np.repeat([0, 1, 2], 20)


@pytest.fixture(autouse=True, scope="module")
def _sync():
    with dask.config.set(scheduler="sync"):
        yield


def lazily(values, chunks=13):
    values = np.asarray(values)
    return da.from_array(values, chunks=(chunks, *(-1 for _ in values.shape[1:])))


def unknown(values, chunks=13):
    """Return a dask array of the same rows whose lengths nobody knows."""
    values = np.asarray(values)
    return lazily(values, chunks)[da.ones(len(values), dtype=bool, chunks=chunks)]


def but(values, at, value):
    """Return a copy with one value changed."""
    values = np.array(values)
    values[at] = value
    return values


def frame(**columns):
    return pd.DataFrame({**dict(zip("xyz", POINTS.T, strict=True)), **columns})


def spread(table, parts=7):
    return dd.from_pandas(table, npartitions=parts)


FUNCTIONS = {
    "line": dzv.write_lines,
    "polyline": dzv.write_polylines,
    "skeleton": dzv.write_skeletons,
    "graph": dzv.write_graph,
    "mesh": dzv.write_meshes,
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A store of each geometry that has something in it."""
    root = tmp_path_factory.mktemp("stores")
    made = {g: dzv.create(root / g, geometry=g, chunk_shape=(10, 10, 10)) for g in (*FUNCTIONS, "streamline", "point_cloud")}
    dzv.write_lines(made["line"], LINES)
    dzv.write_polylines(made["polyline"], POINTS, lengths=LENGTHS)
    dzv.write_skeletons(made["skeleton"], POINTS, parents=CHAIN)
    dzv.write_graph(made["graph"], POINTS, edges=EDGES)
    dzv.write_meshes(made["mesh"], POINTS, faces=FACES)
    return made


@dataclass
class Bad:
    """What is refused: the positions, the other arguments, and what the error says."""

    match: str
    positions: Any = field(default_factory=lambda: POINTS)
    options: dict[str, Any] = field(default_factory=dict)
    error: type[Exception] = dzv.InputError


def bad(match, positions=POINTS, error=dzv.InputError, **options):
    return Bad(match, positions, options, error)


BAD: dict[str, dict[str, Bad]] = {
    "line": {
        "points": bad(r"pairs of points, shape \(N, 2, D\), not \(60, 3\)", POINTS),
        "three endpoints": bad(r"not \(20, 3, 3\)", POINTS.reshape(20, 3, 3)),
        "another rank": bad(r"shape \(N, 3\) for the axes x, y, z", np.zeros((5, 2, 2))),
        "nothing": bad("pairs of points", None),
        "one value for each line": bad(r"'a' has the shape \(30,\).*each endpoint", LINES, attributes={"a": np.zeros(30)}),
        "short attribute": bad("'a' has 58 rows, positions have 60", LINES, attributes={"a": np.zeros((29, 2))}),
        "short lazy attribute": bad("'a' has 58 rows", lazily(LINES), attributes={"a": lazily(np.zeros((29, 2)))}),
        "attributes by name": bad("mapping of name to array", LINES, attributes=["a"]),
        "too few ids": bad(r"30 integers, one for each, not int64 \(29,\)", LINES, object_ids=np.arange(29)),
        "ids twice": bad("id 0 is given twice", LINES, object_ids=np.zeros(30, int)),
        "a column, without a frame": bad("object_ids are 30 integers", LINES, object_ids="who"),
        "a frame without ids": bad("need object_ids=", frame()),
        "rows of a line": bad("other than two endpoints.*write_polylines", frame(who=THREE), object_ids="who"),
        "one endpoint": bad("endpoints", frame(who=[*np.repeat(np.arange(29), 2), 29, 30]), object_ids="who"),
        "one endpoint, lazily": bad("endpoints", spread(frame(who=[0, *np.repeat(np.arange(1, 30), 2), 30])), object_ids="who"),
        "three endpoints, lazily": bad("endpoints", spread(frame(who=np.repeat(np.arange(20), 3)), 19), object_ids="who"),
        "unknown lengths": bad("compute_chunk_sizes", unknown(LINES)),
        "not a number": bad("NaN and infinite", but(LINES, (3, 1, 2), np.nan)),
        "a negative tolerance": bad("position_tolerance is a distance", LINES, position_tolerance=-1),
    },
    "polyline": {
        "no ends": bad("lengths=.*or object_ids="),
        "too many": bad("add up to 61 vertices, positions have 60", lengths=[20, 10, 31]),
        "too few, lazily": bad("add up to 40 vertices, positions have 60", lazily(POINTS), lengths=[20, 20]),
        "negative": bad("polyline 1 has the length -10", lengths=[70, -10]),
        "floats": bad("lengths are integers", lengths=[20.0, 40.0]),
        "a number": bad(r"shape \(O,\), not int64 \(\)", lengths=60),
        "a table": bad(r"\(1, 2\)", lengths=[[30, 30]]),
        "too few ids": bad(r"3 integers, one for each, not int64 \(2,\)", lengths=LENGTHS, object_ids=[1, 2]),
        "ids twice": bad("id 1 is given twice", lengths=LENGTHS, object_ids=[1, 2, 1]),
        "negative ids": bad("found -1 to 2", lengths=LENGTHS, object_ids=[1, 2, -1]),
        "ids that are floats": bad("3 integers", lengths=LENGTHS, object_ids=[1.0, 2, 3]),
        "ids that are names": bad("3 integers", lengths=LENGTHS, object_ids=["a", "b", "c"]),
        "ids beyond 64 bits": bad("18446744073709551615", lengths=LENGTHS, object_ids=np.array([1, 2, 2**64 - 1], "u8")),
        "rows apart": bad("3 objects come in 60 runs.*sort", object_ids=np.arange(N) % 3),
        "rows apart, lazily": bad("3 objects come in 60 runs", lazily(POINTS), object_ids=lazily(np.arange(N) % 3)),
        "rows apart in a frame": bad("must follow each other", spread(frame(who=np.r_[THREE[:50], THREE[:10]])), object_ids="who"),
        "an id for most vertices": bad("'object_ids' has 59 rows", object_ids=THREE[:59]),
        "a list of two ranks": bad(r"polyline 1 has the shape \(55, 2\)", [POINTS[:5], POINTS[5:, :2]]),
        "a list of numbers": bad(r"polyline 0 has the shape \(\)", [1.0, 2.0]),
        "a list, and lengths": bad("leave them out", [POINTS], lengths=[60]),
        "a short list of attributes": bad("'a' does not fit", [POINTS[:5], POINTS[5:]], attributes={"a": [np.zeros(5)]}),
        "a part of an attribute": bad("at polyline 0", [POINTS[:5], POINTS[5:]], attributes={"a": [np.zeros(4), np.zeros(56)]}),
        "an attribute beside a list": bad("'a' has 59 rows", [POINTS], attributes={"a": np.zeros(59)}),
        "names beside a list": bad("mapping of name to array", [POINTS], attributes=["a"]),
        "a frame without ids": bad("need object_ids=", frame()),
        "a frame and lengths": bad("lengths are for arrays", frame(), lengths=LENGTHS),
        "a frame and ids of another length": bad("has 59 rows, positions have", frame(), object_ids=THREE[:59]),
        "no such column": bad("unknown column 'who'", frame(), object_ids="who"),
        "short attribute": bad("'a' has 59 rows", lengths=LENGTHS, attributes={"a": np.zeros(59)}),
        "the name of an axis": bad("name of an axis", lengths=LENGTHS, attributes={"x": np.zeros(60)}),
        "lazy lengths alone": bad("lengths are lazy and positions are not", lengths=lazily(LENGTHS, 1)),
        "lazy lengths, cut otherwise": bad("3 partitions, positions 5", lazily(POINTS), lengths=lazily(LENGTHS, 1)),
        "lazy lengths, wrong": bad(r"partition \d: the lengths add up to [13]0.*have 20", lazily(POINTS, 20), lengths=lazily(LENGTHS, 1)),
        "lazy lengths, wrong in all": bad("'object_ids' has [13]0 rows", unknown(POINTS, 20), lengths=lazily(LENGTHS, 1)),
        "lazy lengths, floats": bad("integers", lazily(POINTS, 20), lengths=lazily([20.0] * 3, 1)),
        "lazy lengths, negative": bad("polyline 2 has the length -20", lazily(POINTS, 20), lengths=lazily([20, 20, -20], 1)),
        "unknown lengths": bad("compute_chunk_sizes", unknown(POINTS), lengths=LENGTHS),
        "infinite": bad("NaN and infinite", but(POINTS, (5, 1), np.inf), lengths=LENGTHS),
        "another rank": bad(r"shape \(N, 3\)", POINTS[:, :2], lengths=LENGTHS),
        "object attributes": bad("2 rows for 3 objects", lengths=LENGTHS, object_attributes={"a": np.zeros(2)}),
        "members of groups": bad("names object 7", lengths=LENGTHS, groups={0: [7]}),
        "attributes of groups": bad("2 rows for 1 groups", lengths=LENGTHS, groups={0: [1]}, group_attributes={"w": np.zeros(2)}),
        "append": bad("mode is 'error' or 'overwrite'", lengths=LENGTHS, mode="append"),
    },
    "skeleton": {
        "no parents": bad("needs parents=", parents=None),
        "too few": bad("'parents' has 59 rows", parents=CHAIN[:59]),
        "floats": bad("parents are integers", parents=CHAIN.astype(float)),
        "floats, with vertex_ids": bad("parents are integers", parents=CHAIN.astype(float), vertex_ids=np.arange(N)),
        "a table": bad(r"shape \(N,\)", parents=np.stack([CHAIN, CHAIN], 1)),
        "out of range": bad("vertex 7 has the parent 60: there are 60 vertices", parents=but(CHAIN, 7, 60)),
        "out of range, lazily": bad("the parent 60: there are 60", lazily(POINTS), parents=lazily(but(CHAIN, 7, 60))),
        "a cycle": bad("cycle", parents=but(CHAIN, 0, 59)),
        "a cycle of four": bad("cycle", parents=but(CHAIN, 0, 3)),
        "its own parent": bad("vertex 7 is its own ancestor", parents=but(CHAIN, 7, 7)),
        "a cycle with vertex_ids": bad("cycle", parents=but(CHAIN, 0, 59) + 100, vertex_ids=np.arange(N) + 100),
        "another object's": bad("vertex 20 of object 1 has the parent 19 of object 0", parents=CHAIN, object_ids=THREE),
        "a column, without a frame": bad("positions are no DataFrame", parents="up"),
        "no such column": bad("unknown column 'up'", frame(), parents="up"),
        "a frame and a short array": bad("59 rows", frame(), parents=CHAIN[:59]),
        "vertex_ids twice": bad("0 is given twice", parents=CHAIN, vertex_ids=np.arange(N) % 50),
        "vertex_ids twice in a frame": bad("0 is given twice", frame(up=CHAIN, n=np.arange(N) % 50), parents="up", vertex_ids="n"),
        "unknown": bad("no vertex 0, it is not among vertex_ids", parents=CHAIN, vertex_ids=np.arange(N) + 5),
        "negative vertex_ids": bad("not negative, found -5", parents=CHAIN, vertex_ids=np.arange(N) - 5),
        "vertex_ids that are floats": bad("vertex_ids are integers", parents=CHAIN, vertex_ids=np.arange(N) * 1.0),
        "no such column of ids": bad("unknown column 'n' for vertex_ids", frame(up=CHAIN), parents="up", vertex_ids="n"),
        "too few vertex_ids": bad("vertex_ids have 59 rows", parents=CHAIN, vertex_ids=np.arange(59)),
        "lazy parents alone": bad("'parents' is lazy and positions are not", parents=lazily(CHAIN)),
        "missing parents": bad("row 0 has a missing value.*roots are -1", frame(up=pd.Series([None, *CHAIN[1:]], dtype="Int64")), parents="up"),
        "NaN for a root": bad("integers, not float64", frame(up=[np.nan, *CHAIN[1:]]), parents="up"),
        "not a number": bad("NaN and infinite", but(POINTS, (5, 1), np.nan), parents=CHAIN),
    },
    "graph": {
        "ragged positions": bad("positions: rows of several lengths", [[1, 2, 3], [4, 5]], edges=EDGES),
        "ragged attributes": bad("'a': rows of several lengths", edges=EDGES, attributes={"a": [[1, 2], [3]] * 30}),
        "ragged edge attributes": bad("'a': rows of several lengths", edges=EDGES, edge_attributes={"a": [[1, 2], [3]] * 20}),
        "no edges": bad(r"edges must have the shape \(E, 2\)", edges=None),
        "a name": bad(r"edges must have the shape \(E, 2\)", edges="edges"),
        "faces": bad(r"\(E, 2\), not \(40, 3\)", edges=FACES),
        "flat": bad(r"\(E, 2\), not \(80,\)", edges=EDGES.ravel()),
        "ragged": bad("several lengths", edges=[[1, 2], [3]]),
        "floats": bad("edges are integers", edges=EDGES.astype(float)),
        "floats in a frame": bad("edges are integers", edges=spread(pd.DataFrame(EDGES * 1.0, columns=["source", "target"]))),
        "floats that claim to be integers": bad(r"part \d are integers, not float64", edges=lazily(EDGES).map_blocks(lambda b: b * 1.0, dtype=int)),
        "out of range": bad(r"edge 3 is .*60\]: there are 60 vertices, 0 to 59", edges=but(EDGES, (3, 1), 60)),
        "negative": bad(r"edge 3 is .*-1\]: there are 60", edges=but(EDGES, (3, 1), -1)),
        "out of range, lazily": bad("part 2: edge 7 is", lazily(POINTS), edges=lazily(but(EDGES, (33, 1), 60))),
        "other columns": bad("source and target; these are a, b", edges=pd.DataFrame(EDGES, columns=["a", "b"])),
        "other columns, lazily": bad("source and target", edges=spread(pd.DataFrame(EDGES, columns=["a", "b"]))),
        "short attribute": bad("'a' has 39 rows for 40 edges", edges=EDGES, edge_attributes={"a": np.zeros(39)}),
        "short lazy attribute": bad("39 rows for 40", edges=lazily(EDGES), edge_attributes={"a": lazily(np.zeros(39))}),
        "short unknown attribute": bad(
            "part 3: attribute 'a' has 9 rows for 10 edges", edges=unknown(EDGES, 10), edge_attributes={"a": unknown(np.zeros(39), 10)}
        ),
        "other partitions": bad("4 partitions.*lengths are unknown", edges=unknown(EDGES, 8), edge_attributes={"a": unknown(np.zeros(40), 10)}),
        "an attribute in memory": bad("compute_chunk_sizes", edges=unknown(EDGES), edge_attributes={"a": np.zeros(40)}),
        "a lazy attribute": bad("lazy and edges are not", edges=EDGES, edge_attributes={"a": lazily(np.zeros(40))}),
        "one number": bad("one or C for each edge", edges=EDGES, edge_attributes={"a": 5.0}),
        "one number beside lazy edges": bad("one or C for each edge", edges=lazily(EDGES), edge_attributes={"a": 5.0}),
        "three dimensions": bad("one or C for each edge", edges=EDGES, edge_attributes={"a": np.zeros((40, 2, 2))}),
        "strings": bad("return_inverse", edges=EDGES, edge_attributes={"a": np.full(40, "x")}),
        "a column of strings": bad("'kind'.*return_inverse", edges=pd.DataFrame(EDGES, columns=["source", "target"]).assign(kind="x")),
        "dates without a unit": bad("without a unit", edges=EDGES, edge_attributes={"a": np.zeros(40, "M8")}),
        "a path for a name": bad("'a/b'", edges=EDGES, edge_attributes={"a/b": np.zeros(40)}),
        "an empty name": bad("non-empty", edges=EDGES, edge_attributes={"": np.zeros(40)}),
        "names beside an array": bad("mapping of name to array", edges=EDGES, edge_attributes=["a"]),
        "no such column": bad("unknown column 'w'", edges=pd.DataFrame(EDGES, columns=["source", "target"]), edge_attributes=["w"]),
        "vertex_ids twice": bad("0 is given twice", edges=EDGES, vertex_ids=np.arange(N) % 50),
        "unknown": bad("there is no vertex [0-4], it is not among vertex_ids", edges=EDGES, vertex_ids=np.arange(N) + 5),
        "negative ends": bad("no vertex -7", edges=but(EDGES, (3, 0), -7), vertex_ids=np.arange(N)),
        "negative ends, lazily": bad("not negative", lazily(POINTS), edges=but(EDGES, (3, 0), -7), vertex_ids=np.arange(N)),
        "negative vertex_ids": bad("not negative", edges=EDGES, vertex_ids=np.arange(N) - 1),
        "negative lazy vertex_ids": bad("vertex_ids are between", lazily(POINTS), edges=EDGES, vertex_ids=lazily(np.arange(N) - 1)),
        "too few ids": bad("'object_ids' has 59 rows", edges=EDGES, object_ids=THREE[:59]),
        "negative ids": bad("object ids are between.*-1 to 1", edges=EDGES, object_ids=THREE - 1),
        "ids that are floats": bad("object_ids are integers", edges=EDGES, object_ids=THREE * 1.0),
        "not a number": bad("NaN and infinite", but(POINTS, (5, 1), np.nan), edges=EDGES),
        "short vertex attribute": bad("'a' has 59 rows", edges=EDGES, attributes={"a": np.zeros(59)}),
    },
    "mesh": {
        "no faces": bad(r"faces must have the shape \(F, k\)", faces=None),
        "edges": bad("faces have 3 to 16 vertices each, not 2", faces=EDGES),
        "one vertex": bad("3 to 16 vertices each, not 1", faces=np.zeros((5, 1), int)),
        "17 vertices": bad("3 to 16 vertices each, not 17", faces=np.zeros((5, 17), int)),
        "two kinds of faces": bad("several lengths", faces=[[0, 1, 2], [0, 1, 2, 3]]),
        "floats": bad("faces are integers", faces=FACES.astype(float)),
        "out of range": bad("face 3 is .*there are 60 vertices", faces=but(FACES, (3, 1), 60)),
        "other columns": bad("v0, v1, v2, …; these are a, b, c", faces=pd.DataFrame(FACES, columns=list("abc"))),
        "a gap in the columns": bad("v0, v1, v2", faces=pd.DataFrame(FACES, columns=["v0", "v1", "v3"])),
        "two columns": bad("3 to 16", faces=pd.DataFrame(EDGES, columns=["v0", "v1"])),
        "short attribute": bad("face attribute 'a' has 39 rows for 40 faces", faces=FACES, face_attributes={"a": np.zeros(39)}),
    },
}  # fmt: skip


def refused(store, function, case):
    """Write what is bad over what the store has; it stays what it was."""
    root = store.group.path
    before = files(root)
    with pytest.raises(case.error, match=case.match) as caught:
        function(store, case.positions, **{"mode": "overwrite", **case.options})
    assert isinstance(caught.value, dzv.ZVError)
    assert files(root) == before


@pytest.mark.parametrize(("geometry", "name"), [(g, n) for g in BAD for n in BAD[g]])
def test_refused(geometry, name, stores):
    refused(stores[geometry], FUNCTIONS[geometry], BAD[geometry][name])


GOOD = {
    "line": ((LINES,), {}),
    "polyline": ((POINTS,), {"lengths": LENGTHS}),
    "skeleton": ((POINTS,), {"parents": CHAIN}),
    "graph": ((POINTS,), {"edges": EDGES}),
    "mesh": ((POINTS,), {"faces": FACES}),
}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("other", ["line", "polyline", "streamline", "skeleton", "graph", "mesh", "point_cloud"])
def test_stores_of_another_geometry(function, other, stores):
    if other == function or (function, other) == ("polyline", "streamline"):
        return
    (positions,), options = GOOD[function]
    match = rf"a store of {other}: .* wants one made with dzv.create\(.*'{function}'"
    refused(stores[other], FUNCTIONS[function], bad(match, positions, **options))


def test_points_into_a_store_of_a_graph(stores):
    with pytest.raises(dzv.InputError, match=r"a store of graph.*point_cloud"):
        dzv.write_points(stores["graph"], POINTS, mode="overwrite")


@pytest.mark.parametrize("geometry", ["skeleton", "graph", "mesh"])
def test_no_links_in_layout_per_chunk(geometry, tmp_path):
    with pytest.raises(dzv.InputError, match="layout='grid'"):
        dzv.create(tmp_path / "s.zv", geometry=geometry, chunk_shape=(10, 10, 10), layout="per_chunk")
    assert not (tmp_path / "s.zv").exists()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_store(function):
    (positions,), options = GOOD[function]
    with pytest.raises(dzv.InputError, match=r"dask_zv.Store.*not str"):
        FUNCTIONS[function]("s.zv", positions, **options)


def test_read_only(stores):
    store = dzv.open(stores["graph"].group.path)
    with pytest.raises(dzv.ReadOnlyError, match=r"mode='r\+'"):
        dzv.write_graph(store, POINTS, edges=EDGES, mode="overwrite")


def test_gaps_in_ids_of_layout_per_chunk(tmp_path):
    for geometry, (points, options) in {"line": (LINES, {}), "polyline": (POINTS, {"lengths": [2] * 30})}.items():
        store = dzv.create(tmp_path / geometry, geometry=geometry, chunk_shape=(10, 10, 10), layout="per_chunk")
        refused(store, FUNCTIONS[geometry], bad("without gaps", points, object_ids=np.arange(30) * 2, **options))


def in_one_chunk(points):
    return np.asarray(points) / 10


LATER = {
    "parents unknown": ("skeleton", r"parent of vertex \d+ names vertex [0-4], which is not among", {"parents": lazily(CHAIN), "vertex_ids": lazily(np.arange(N) + 5)}),
    "an id twice": ("skeleton", "two vertices have (the|that) id", {"parents": lazily(CHAIN % 50), "vertex_ids": lazily(np.arange(N) % 50)}),
    "another object's": ("skeleton", r"object [12] has the parent \d+ of object [01]", {"parents": lazily(CHAIN), "object_ids": lazily(THREE)}),
    "an edge to nowhere": ("graph", r"edge \d+ names vertex [0-4], which is not among", {"edges": lazily(EDGES), "vertex_ids": lazily(np.arange(N) + 5)}),
    "an edge to two vertices": ("graph", "distinct", {"edges": lazily(EDGES % 50), "vertex_ids": lazily(np.arange(N) % 50)}),
    "a face to nowhere": ("mesh", r"face \d+ names vertex", {"faces": lazily(FACES), "vertex_ids": lazily(np.arange(N) + 5)}),
}  # fmt: skip


@pytest.mark.parametrize("case", LATER)
@pytest.mark.parametrize("blocks", ["one", "many"])
def test_found_while_writing(case, blocks, tmp_path, override):
    """What only a join of all data tells is an error of the write: then nothing is visible."""
    if blocks == "many":
        override(write_block_chunks=2)
        override(write_block_bytes=(100, 1000))
    geometry, match, options = LATER[case]
    store = dzv.create(tmp_path / "s.zv", geometry=geometry, chunk_shape=(10, 10, 10))
    with pytest.raises(dzv.InputError, match=match):
        FUNCTIONS[geometry](store, lazily(POINTS), **options)
    level = dzv.open(tmp_path / "s.zv").level(0)
    assert level.metadata.vertex_count == 0
    assert len(level.read()) == 0
    # and the store can be written yet
    (positions,), good = GOOD[geometry]
    FUNCTIONS[geometry](dzv.open(tmp_path / "s.zv", "r+"), positions, mode="overwrite", **good)
    assert len(dzv.open(tmp_path / "s.zv").level(0).read()) == N


@pytest.mark.parametrize("length", [1, 2, 3, 4, 8, 20])
def test_a_lazy_cycle_in_a_chunk(length, tmp_path):
    store = dzv.create(tmp_path / "s.zv", geometry="skeleton", chunk_shape=(10, 10, 10))
    parents = lazily(but(CHAIN, 0, length - 1))
    with pytest.raises(dzv.InputError, match="cycle"):
        dzv.write_skeletons(store, lazily(in_one_chunk(POINTS)), parents=parents)
    assert dzv.open(tmp_path / "s.zv").level(0).metadata.vertex_count == 0
