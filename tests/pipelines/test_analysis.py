"""Functions of every chunk and of every object: as if each had been read alone, on every scheduler, with few tasks and requests."""

import pickle
from collections import Counter
from dataclasses import FrozenInstanceError, replace

import cloudpickle
import dask
import numpy as np
import pytest
import xarray as xr
from counting_store import CountingStore
from golden_reference import every_store
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zarr.storage import MemoryStore

import dask_zv as dzv
from dask_zv.analysis.mapping import plan_map_chunks, plan_map_objects
from dask_zv.format.keys import coords_to_keys
from dask_zv.xarray_backend import analysis

CHUNK = 10.0
EDGE = 40.0
N = 3000
OBJECTS = 25
OF_LINKS = ("edges", "parents", "faces", "edge_attributes", "face_attributes")
FIELDS = ("positions", "attributes", "object_ids", "ids", "lengths", *OF_LINKS)
OF_OBJECTS = ("object_index", "object_attributes", "groups", "group_attributes")
in_one_block_and_in_many = pytest.mark.parametrize("rows_per_task", [None, 300])


def map_chunks(level, func, *, compute=True, **options):
    plan = plan_map_chunks(level._contents, func, **options)
    return plan.compute() if compute else plan.delayed()


def inner(function):
    """Return a function of a level's contents as one of the level."""
    return lambda level, *args, **options: function(level._contents, *args, **options)


def map_objects(level, func, *, compute=True, **options):
    plan = plan_map_objects(level._contents, func, **options)
    return plan.compute() if compute else plan.delayed()


def keys_of(found):
    return coords_to_keys(found.labels)


@pytest.fixture
def sync():
    with dask.config.set(scheduler="sync"):
        yield


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    """Points of objects that are all over space, in 64 chunks."""
    rng = np.random.default_rng(1)
    path = tmp_path_factory.mktemp("analysis") / "cloud.zv"
    with dask.config.set(scheduler="sync"):
        dzv.write_points(
            dzv.create(path, chunk_shape=(CHUNK,) * 3, axes=["x", "y", "z"]),
            rng.uniform(0, EDGE, (N, 3)).astype(np.float32),
            attributes={"mass": rng.normal(size=N), "rgb": rng.integers(0, 255, (N, 3), dtype=np.uint8)},
            object_ids=np.r_[np.arange(OBJECTS), rng.integers(0, OBJECTS, N - OBJECTS)] * 3,
            object_attributes={"size": np.arange(OBJECTS) * 0.5},
        )
    return dzv.open(path).level(0)


def random_trees(target, n=60, nodes=30, **options):
    """Write random trees that go through many chunks; return the length of each."""
    rng = np.random.default_rng(2)
    steps = rng.normal(0, 3, (n, nodes, 3))
    steps[:, 0] = rng.uniform(5, EDGE - 5, (n, 3))
    parents, positions, every = np.full((n, nodes), -1), np.zeros((n, nodes, 3)), np.arange(n)
    positions[:, 0] = steps[:, 0]
    for i in range(1, nodes):
        at = rng.integers(max(0, i - 4), i, n)
        parents[:, i] = at + every * nodes
        positions[:, i] = np.clip(positions[every, at] + steps[:, i], 0, EDGE)
    flat = positions.reshape(-1, 3)
    store = dzv.create(target, geometry="skeleton", chunk_shape=(CHUNK,) * 3, bounds=((0,) * 3, (EDGE,) * 3), **options)
    about = {"object_ids": np.repeat(every * 2, nodes), "attributes": {"radius": rng.uniform(size=n * nodes)}}
    with dask.config.set(scheduler="sync"):
        dzv.write_skeletons(store, flat, parents=parents.ravel(), **about)
    return np.linalg.norm(flat[parents[:, 1:]] - positions[:, 1:], axis=2).sum(axis=1)


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    path = tmp_path_factory.mktemp("analysis") / "trees.zv"
    lengths = random_trees(path)
    return dzv.open(path).level(0), lengths


def summary(geometry, scale=1.0):
    """Return several columns of several shapes."""
    return {
        "n": len(geometry),
        "centre": geometry.positions.astype(np.float64).mean(axis=0) * scale,
        "mass": geometry.attributes["mass"].sum(),
        "light": bool((geometry.attributes["rgb"] > 200).any()),
    }


def cable(geometry):
    ends = geometry.positions[geometry.edges].astype(np.float64)
    return np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1).sum()


def count(geometry):
    return len(geometry)


def fails_at_a_corner(geometry):
    if (geometry.positions < CHUNK).all():
        raise KeyError("no such thing")
    return 1.0


# ------------------------------------------------------------------------------------------------ as if read alone


def plain(value):
    """Return arrays, mappings and None in a form that compares: dtypes, shapes, masks and values."""
    if value is None or (not isinstance(value, np.ndarray) and not len(value)):
        return None
    if not isinstance(value, np.ndarray):
        return {k: plain(v) for k, v in dict(value).items()}
    return str(value.dtype), value.shape, np.ma.getmaskarray(value).tolist(), np.ma.filled(value).tolist()


def assert_equal_geometry(found, expected, fields):
    for name in fields:
        assert plain(getattr(found, name)) == plain(getattr(expected, name)), name


def collecting():
    """Return a function that keeps what it is given, and the list; results are places in it."""
    kept = []

    def keep(geometry):
        kept.append(geometry)
        return len(kept) - 1

    return keep, kept


@pytest.mark.filterwarnings("ignore:the chunk has vertices outside of its box:dask_zv.ZVWarning")  # as some were made
@every_store
def test_every_chunk_and_object_of_golden_stores_is_as_if_read_alone(path, sync):
    store = dzv.open(path)
    for number in store.levels:
        level = store.level(number)
        keep, kept = collecting()
        found = map_chunks(level, keep, rows_per_task=50)
        assert keys_of(found) == level.chunks.keys
        for key, rows, at in zip(keys_of(found), found.rows, found.values["value"], strict=True):
            assert len(kept[at]) == rows
            assert_equal_geometry(kept[at], level.read(chunks=[key], order="chunk"), FIELDS)
        if not level._contents.source.schema.has_objects:
            continue
        keep, kept = collecting()
        found = map_objects(level, keep, rows_per_task=30)
        assert found.labels.tolist() == level.read().object_index.tolist()
        for key, rows, at in zip(found.labels.tolist(), found.rows, found.values["value"], strict=True):
            assert len(kept[at]) == rows
            assert_equal_geometry(kept[at], level.read(objects=key, order="object"), (*FIELDS, *OF_OBJECTS))


def test_parts_of_chunks_are_as_if_read_alone(cloud, trees, sync):
    box = ((3.5, 4, 5), (22.2, 31, 36))
    for level, objects in ((cloud, [0, 3, 9, 27]), (trees[0], [0, 4, 6, 44, 50])):
        keep, kept = collecting()
        some = [c for c in level.chunks.keys if c[-1] in "012"]
        found = map_chunks(level, keep, bbox=box, objects=objects, chunks=some, rows_per_task=100)
        assert len(found) > 3
        every = 0
        for key in some:
            expected = level.read(chunks=[key], bbox=box, objects=objects, order="chunk")
            every += len(expected)
            if key in keys_of(found):
                assert_equal_geometry(kept[found.values["value"][keys_of(found).index(key)]], expected, FIELDS)
        assert found.rows.sum() == every


# ------------------------------------------------------------------------------------------------ as numpy on all of it


def cell_of(positions):
    return np.floor(np.asarray(positions, np.float64) / CHUNK).astype(int)


def per_chunk(level, keep=None):
    """Return the level, and the rows of each of its chunks, as numpy finds them."""
    every = level.read(order="chunk")
    out = {}
    for number in (np.arange(len(every)) if keep is None else np.asarray(keep)).tolist():
        out.setdefault(tuple(cell_of(every.positions[number]).tolist()), []).append(number)
    return every, dict(sorted(out.items()))


def test_chunks_equal_numpy_on_every_scheduler(cloud, scheduler):
    every, cells = per_chunk(cloud)
    for rows_per_task in (None, 300):
        found = map_chunks(cloud, summary, kwargs={"scale": 2.0}, rows_per_task=rows_per_task)
        assert found.labels.tolist() == [list(c) for c in cells]
        assert found.rows.tolist() == found.values["n"].tolist() == [len(r) for r in cells.values()]
        for at, rows in enumerate(cells.values()):
            np.testing.assert_array_equal(found.values["centre"][at], every.positions[rows].astype(float).mean(axis=0) * 2)
            assert found.values["mass"][at] == every.attributes["mass"][rows].sum()
            assert found.values["light"][at] == (every.attributes["rgb"][rows] > 200).any()
        kinds = {"n": (np.int64, ()), "centre": (np.float64, (3,)), "mass": (np.float64, ()), "light": (bool, ())}
        assert {k: (v.dtype, v.shape[1:]) for k, v in found.values.items()} == kinds


def test_objects_equal_numpy_on_every_scheduler(trees, scheduler):
    level, lengths = trees
    for rows_per_task in (None, 200):
        found = map_objects(level, cable, rows_per_task=rows_per_task)
        assert found.labels.tolist() == list(range(0, 120, 2))
        assert found.rows.tolist() == [30] * 60
        np.testing.assert_allclose(found.values["value"], lengths, rtol=1e-6)
    lazy = map_objects(level, cable, objects=[10, 4], attributes=[], compute=False)
    np.testing.assert_allclose(lazy.compute().values["value"], lengths[[2, 5]], rtol=1e-6)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_rows_equal_numpy(cloud, sync, data):
    kind = data.draw(st.sampled_from(["slice", "ascending", "any"]))
    if kind == "slice":
        bound = st.none() | st.integers(-N - 5, N + 5)
        rows = slice(data.draw(bound), data.draw(bound), data.draw(st.sampled_from([None, 1, 7, -1, -13])))
        numbers = np.arange(N)[rows]
    else:
        numbers = np.array(data.draw(st.lists(st.integers(0, N - 1), max_size=60)), np.int64)
        rows = numbers = np.unique(numbers) if kind == "ascending" else numbers
    low = np.array(data.draw(st.tuples(*[st.floats(0, EDGE)] * 3)))
    box = data.draw(st.none() | st.just((low, low + 15)))
    objects = data.draw(st.none() | st.just([0, 3, 6, 30]))
    every, _ = per_chunk(cloud, [])
    keep = np.ones(N, bool) if box is None else ((every.positions >= box[0]) & (every.positions <= box[1])).all(axis=1)
    if objects is not None:
        keep &= np.isin(every.object_ids, objects)
    _, cells = per_chunk(cloud, numbers[keep[numbers]])
    part = {"rows": rows, "bbox": box, "objects": objects, "rows_per_task": 400, "meta": int}
    keeper, kept = collecting()
    found = map_chunks(cloud, keeper, **part)
    assert [tuple(c) for c in found.labels.tolist()] == list(cells)
    for at, mine in zip(found.values["value"], cells.values(), strict=True):
        np.testing.assert_array_equal(kept[at].positions, every.positions[mine])
        np.testing.assert_array_equal(kept[at].attributes["rgb"], every.attributes["rgb"][mine])
        np.testing.assert_array_equal(kept[at].object_ids, every.object_ids[mine])
    lazy = analysis.map_chunks(cloud._contents, count, **part, compute=False)
    assert lazy.shape == found.rows.shape
    assert lazy.compute().to_numpy().tolist() == found.rows.tolist()


def test_links_follow_rows_that_are_picked(trees, sync):
    level, _ = trees
    every = level.read(order="chunk")
    rows = np.random.default_rng(0).permutation(len(every))[:1200]
    chunk, chosen = cell_of(every.positions), set(rows.tolist())
    names = {tuple(p): i for i, p in enumerate(every.positions.tolist())}
    keep, kept = collecting()
    map_chunks(level, keep, rows=rows, rows_per_task=400)
    pairs, heads = set(), set()
    for piece in kept:
        own = [names[tuple(p)] for p in piece.positions.tolist()]
        pairs |= {(own[a], own[b]) for a, b in piece.edges.tolist()}
        heads |= {(own[i], own[p]) for i, p in enumerate(piece.parents.tolist()) if p >= 0}
    wanted = {(a, b) for a, b in every.edges.tolist() if {a, b} <= chosen and (chunk[a] == chunk[b]).all()}
    assert wanted
    assert pairs == heads == wanted


def test_objects_of_rows(cloud, trees, sync):
    for level in (cloud, trees[0]):
        every = level.read(order="chunk")
        ids, lengths = np.unique(every.object_ids, return_counts=True)
        for rows in (slice(3, 9), np.array([5, 5, 700, 2]), slice(0, 0), slice(None)):
            found = analysis.map_objects(level._contents, count, rows=rows, meta=int)
            mine = np.isin(ids, every.object_ids[rows])
            assert found.object.to_numpy().tolist() == ids[mine].tolist()
            assert found.to_numpy().tolist() == lengths[mine].tolist()
        both = analysis.map_objects(level._contents, count, rows=slice(3, 9), objects=[0, 6, 12], meta=int)
        assert set(both.object.to_numpy().tolist()) == set(every.object_ids[3:9].tolist()) & {0, 6, 12}


# ------------------------------------------------------------------------------------------------ cost


def tasks_of(delayed):
    return Counter(str(key).split("-")[2] for key in dict(delayed.__dask_graph__()))


def test_few_tasks_and_small_ones(cloud, trees):
    lazy = map_chunks(cloud, summary, rows_per_task=500, compute=False)
    tasks = tasks_of(lazy)
    assert tasks["reader"] == tasks["function"] == tasks["gather"] == 1
    assert 6 <= tasks["block"] <= 12
    assert len(cloud.chunks) == 64
    assert tasks_of(map_chunks(cloud, summary, compute=False))["block"] == 1
    for number in (lazy, map_objects(trees[0], cable, rows_per_task=200, compute=False)):
        for task in dict(number.__dask_graph__()).values():
            assert len(cloudpickle.dumps(task)) < 10_000
    assert tasks_of(map_objects(trees[0], cable, rows_per_task=300, compute=False))["block"] == 6


def test_rows_that_are_all_cost_nothing_and_results_travel_and_not_vertices(cloud):
    def blocks(rows=None):
        graph = dict(map_chunks(cloud, count, rows=rows, rows_per_task=500, compute=False).__dask_graph__())
        return graph, [key for key in graph if "-block-" in key]

    def sizes(rows):
        graph, keys = blocks(rows)
        return sorted(len(cloudpickle.dumps(graph[k])) for k in keys)

    assert sizes(slice(0, N)) == sizes(slice(None)) == sizes(np.arange(N)) == sizes(None)
    assert max(sizes(slice(7, N - 7))) < max(sizes(None)) + 1000  # a bit to a row of the blocks at both ends
    assert all(len(pickle.dumps(part)) < 2_000 for part in dask.get(*blocks()))


def test_one_block_needs_no_graph(cloud, trees):
    def refuse(*_, **__):
        raise AssertionError("a scheduler was asked")

    with dask.config.set(scheduler=refuse):
        assert map_chunks(cloud, count).values["value"].sum() == N
        assert map_objects(trees[0], count).values["value"].sum() == 1800
        with pytest.raises(AssertionError, match="scheduler"):
            map_chunks(cloud, count, rows_per_task=10)


@pytest.mark.parametrize("shard_chunks", [1, 8])
def test_requests(shard_chunks, sync):
    store = CountingStore(MemoryStore())
    random_trees(store, shard_chunks=shard_chunks)
    level = dzv.open(store).level(0)
    chunks = level.chunks.keys
    level.links()

    def vertices():
        return [k for k in store.log if "/vertices/c/" in k]

    store.forget()
    map_chunks(level, cable, attributes=[], rows_per_task=600)
    if shard_chunks == 1:
        assert store.chunks() == set(chunks)
        assert set(store.blobs.values()) == {1}
    else:
        assert len(vertices()) <= len(set(vertices())) * 4 < len(chunks)  # at most one look for each block that is in a shard
    assert not any("vertex_attributes" in k and "/c/" in k for k in store.log)
    store.forget()
    map_chunks(level, count, chunks=chunks[3:5])
    assert len(vertices()) <= 2
    mine = {".".join(map(str, c)) for c in cell_of(level.read(objects=[8]).positions).tolist()}
    store.forget()
    map_objects(level, cable, objects=[8], attributes=[])
    if shard_chunks == 1:
        assert store.chunks() == mine
        assert store.blobs[("vertices", next(iter(mine)))] == 1
        store.forget()
        map_objects(level, cable, attributes=[])  # chunks of several objects are read once in a block
        assert set(store.blobs.values()) == {1}


def test_blocks_are_of_objects_near_each_other(sync):
    """Ids say nothing of where objects are; in blocks that go by ids every chunk would be read by nearly every block."""
    rng = np.random.default_rng(0)
    n, vertices = 2000, 5
    starts = rng.uniform(2, 78, (n, 1, 2))
    positions = np.clip(starts + np.cumsum(rng.normal(0, 0.5, (n, vertices, 2)), axis=1), 0, 79).reshape(-1, 2)
    store = CountingStore(MemoryStore())
    made = dzv.create(store, geometry="polyline", chunk_shape=(CHUNK,) * 2, bounds=((0, 0), (80, 80)), shard_chunks=1)
    dzv.write_polylines(made, positions, lengths=np.full(n, vertices))
    level = dzv.open(store).level(0)
    assert len(level.chunks) == 64
    store.forget()
    found = map_objects(level, lambda g: g.positions[-1], rows_per_task=1000)
    assert sum(c for (array, _), c in store.blobs.items() if array == "vertices") < 3 * 64
    assert found.labels.tolist() == list(range(n))
    np.testing.assert_array_equal(found.values["value"], positions[vertices - 1 :: vertices])
    some = rng.permutation(n)[:1200]
    found = map_objects(level, lambda g: g.positions[0], objects=some, rows_per_task=1000)
    assert found.labels.tolist() == sorted(some.tolist())
    np.testing.assert_array_equal(found.values["value"], positions[::vertices][np.sort(some)])


# ------------------------------------------------------------------------------------------------ errors


def test_what_the_function_raises_says_where(cloud, scheduler):
    for rows_per_task in (None, 300):
        with pytest.raises(KeyError, match="no such thing") as caught:
            map_chunks(cloud, fails_at_a_corner, rows_per_task=rows_per_task)
        (note,) = caught.value.__notes__
        assert "chunk 0.0.0 of" in note
        assert cloud.url in note
    with pytest.raises(ZeroDivisionError) as caught:
        map_objects(cloud, lambda g: 1 / (int(g.ids[0]) - 6), rows_per_task=500)
    assert "object 6 of" in caught.value.__notes__[0]


@in_one_block_and_in_many
def test_results_that_differ(cloud, rows_per_task, sync):
    def differing(geometry, how):
        odd = geometry.positions[0].min() > 30  # chunk 3.3.3
        return {
            "dtype": 1 if odd else 1.0,
            "shape": np.zeros(3 if odd else 2),
            "names": {"a" if odd else "b": 1},
            "kind": {"value": 1} if odd else 1,
        }[how]

    for how in ("dtype", "shape", "names", "kind"):
        with pytest.raises(dzv.InputError, match=r"chunk 3\.3\.3 is .* unlike that for chunk .* meta="):
            map_chunks(cloud, differing, args=(how,), rows_per_task=rows_per_task)
    found = map_chunks(cloud, differing, args=("dtype",), meta=float, rows_per_task=rows_per_task)
    assert found.values["value"].dtype == np.float64
    with pytest.raises(dzv.InputError, match=r"the result for chunk \d\.\d\.\d is float64, unlike meta, .* int64: return"):
        map_chunks(cloud, differing, args=("dtype",), meta=int, rows_per_task=rows_per_task)
    with pytest.raises(dzv.InputError, match=r"object \d+ is int64\[\d+\], unlike"):
        map_objects(cloud, lambda g: np.zeros(len(g), int), rows_per_task=rows_per_task)


def test_numbers_of_every_kind(cloud, sync):
    """Results that are like the last ones are taken as they are, others are looked at: that makes no difference."""
    last = 3 * (OBJECTS - 1)
    for usual, odd in (
        (1.0, np.float64(3)),
        (np.float32(1), np.zeros((), np.float32)),
        (True, np.bool_(False)),
        (2, np.int64(7)),
        (2 + 1j, np.complex128(1)),
        (np.zeros(2), [1.0, 2.0]),
    ):
        found = map_objects(cloud, lambda g, a=usual, b=odd: {"v": b if g.ids[0] in (9, last) else a, "n": len(g)})
        expected = np.stack([np.asarray(odd if i in (9, last) else usual) for i in found.labels])
        np.testing.assert_array_equal(found.values["v"], expected)
        assert found.values["v"].dtype == expected.dtype
        assert found.values["n"].sum() == N
    for usual, odd in (
        (1, 1 << 63),
        (1, -(1 << 63) - 1),
        (1.0, 1),
        (np.float32(1), np.float64(1)),
        (np.zeros(2), np.zeros(2, np.float32)),
        (np.datetime64("2020-01-01"), np.datetime64("2020-01-01T00")),
        (np.timedelta64(1, "s"), np.timedelta64(1, "ms")),
        (True, 1),
    ):
        with pytest.raises(dzv.InputError, match=f"the result for object {last} (is|of)"):
            map_objects(cloud, lambda g, a=usual, b=odd: b if g.ids[0] == last else a)
    mixed = map_objects(cloud, lambda g: (1, 2.5, np.float64(3), np.zeros(()))[g.ids[0] % 4], meta=np.float32(0))
    assert mixed.values["value"].dtype == np.float32
    assert mixed.values["value"].tolist() == [(1, 2.5, 3, 0)[i % 4] for i in mixed.labels]


def test_parts_are_geometries(cloud, sync):
    kept = []
    map_objects(cloud, lambda g: kept.append(g) or len(g))
    for part in kept[::7]:
        copy = pickle.loads(pickle.dumps(part))
        assert type(copy) is dzv.Geometry
        for geometry in (part, copy, replace(part)):
            assert isinstance(geometry, dzv.Geometry)
            assert_equal_geometry(geometry, cloud.read(objects=part.ids, order="object"), (*FIELDS, *OF_OBJECTS))
        with pytest.raises(AttributeError, match="'Geometry' object has no attribute 'position'"):
            _ = part.position
        with pytest.raises(FrozenInstanceError):
            part.positions = None


def test_results_that_are_no_numbers(cloud):
    for result, what in (
        (None, "NoneType"),
        ("text", "str"),
        ({"a": object()}, "at 'a' is a object"),
        ({}, "names"),
        ({1: 2}, "names"),
        ([[1], [1, 2]], "list"),
        (np.ma.masked, "masked"),
        (np.ma.array([1, 2], mask=[True, False]), "masked"),
    ):
        with pytest.raises(dzv.InputError, match=r"chunk 0\.0\.0") as caught:
            map_chunks(cloud, lambda _, result=result: result)
        assert what in str(caught.value)


def test_nothing_selected(cloud, sync, tmp_path):
    meta = {"n": int, "centre": np.zeros(3, np.float32)}
    for box in (((100,) * 3, (101,) * 3), ((1e-6,) * 3, (2e-6,) * 3)):  # beyond the chunks, between the points
        with pytest.raises(dzv.InputError, match="nothing is selected.*meta="):
            map_chunks(cloud, summary, bbox=box)
        found = map_chunks(cloud, summary, bbox=box, meta=meta)
        assert found.labels.shape == (0, 3)
        kinds = {"n": (np.int64, (0,)), "centre": (np.float32, (0, 3))}
        assert {k: (v.dtype, v.shape) for k, v in found.values.items()} == kinds
        lazy = analysis.map_chunks(cloud._contents, summary, bbox=box, meta=meta, compute=False)
        assert lazy.sizes == {"chunk": 0, "centre_0": 3}
    assert len(map_objects(cloud, count, objects=[], meta=int)) == 0
    with pytest.raises(dzv.InputError, match="nothing is selected"):
        map_objects(cloud, count, objects=[])
    empty = dzv.create(tmp_path / "empty.zv", chunk_shape=(10, 10), bounds=((0, 0), (1, 1))).level(0)
    assert map_chunks(empty, count, meta=int).labels.shape == (0, 2)


def test_bad_arguments(cloud, tmp_path):
    for options, what in (
        ({"func": 3}, "func is a function"),
        ({"rows_per_task": 0}, "rows_per_task"),
        ({"rows": np.array([N])}, "rows"),
        ({"rows": np.array([0.5])}, "rows"),
        ({"rows": np.array([-1])}, "rows"),
        ({"attributes": ["weight"]}, "'weight'"),
        ({"bbox": (1, 2)}, "bbox"),
        ({"meta": "text"}, "meta"),
        ({"meta": {"a": object()}}, "meta"),
    ):
        with pytest.raises(dzv.InputError, match=what):
            map_chunks(cloud, **{"func": count, **options})
    with pytest.raises(dzv.NotFoundError, match="object 1"):
        map_objects(cloud, count, objects=[0, 1])
    with pytest.raises(dzv.NotFoundError, match="no such chunk"):
        map_chunks(cloud, count, chunks=["9.9.9"])
    store = dzv.create(tmp_path / "plain.zv", chunk_shape=(10, 10))
    dzv.write_points(store, np.ones((3, 2)))
    for function, options in (
        (map_objects, {}),
        (map_chunks, {"objects": [0]}),
        (inner(analysis.map_objects), {"rows": slice(0, 1)}),
        (inner(analysis.map_chunks), {"objects": [0], "meta": int, "compute": False}),
    ):
        with pytest.raises(dzv.InputError, match="has no objects"):
            function(store.level(0), count, **options)


def test_a_chunk_that_is_gone(tmp_path, sync):
    random_trees(tmp_path / "t.zv", shard_chunks=1)
    level = dzv.open(tmp_path / "t.zv").level(0)
    _ = level.chunks
    (tmp_path / "t.zv" / "0" / "vertices" / "c" / "1" / "2" / "1").unlink()
    for function, options in ((map_chunks, {}), (map_objects, {"rows_per_task": 100})):
        with pytest.raises(dzv.ZVError, match=r"1\.2\.1"):
            function(level, count, **options)


# ------------------------------------------------------------------------------------------------ arguments and results


def test_lazy_arguments_are_computed_once(cloud, sync):
    calls = []

    def make():
        calls.append(1)
        return 5

    shared = dask.delayed(make)()
    found = map_chunks(cloud, lambda g, a, b: a + b, args=(shared,), kwargs={"b": shared}, rows_per_task=400)
    assert set(found.values["value"].tolist()) == {10}
    assert map_objects(cloud, lambda g, a: a, args=(shared,)).values["value"].tolist() == [5] * OBJECTS
    assert len(calls) == 2


def test_a_table_that_the_client_scattered(cloud, use_scheduler):
    with use_scheduler("distributed") as client:
        table = client.scatter(np.arange(1000))
        found = map_objects(cloud, lambda g, t: int(t[g.ids[0]]), args=(table,), rows_per_task=500)
    assert found.values["value"].tolist() == found.labels.tolist()


def test_attributes_of_each_object(cloud, sync):
    def size(geometry):
        assert list(geometry.attributes) == ["mass"]
        return geometry.object_attributes["size"][0]

    found = map_objects(cloud, size, attributes=["mass"], rows_per_task=500)
    assert found.values["value"].tolist() == (np.arange(OBJECTS) * 0.5).tolist()


def test_xarray_of_chunks(cloud, sync):
    found, plainly = analysis.map_chunks(cloud._contents, summary, rows_per_task=500), map_chunks(cloud, summary)
    assert isinstance(found, xr.Dataset)
    assert found.centre.dims == ("chunk", "centre_0")
    assert found.sizes["chunk"] == 64
    at = np.flatnonzero((found.chunk_x == 1) & (found.chunk_y == 2) & (found.chunk_z == 3))
    assert found.rows[at] == plainly.rows[keys_of(plainly).index("1.2.3")]
    assert set(found.coords) == {"chunk_x", "chunk_y", "chunk_z", "rows"}
    assert found.attrs["zv_url"] == cloud.store.url
    meta = {"n": int, "centre": np.zeros(3), "mass": float, "light": bool}
    lazy = analysis.map_chunks(cloud._contents, summary, rows_per_task=500, meta=meta, compute=False)
    assert len(lazy.chunksizes["chunk"]) > 5
    for later in (lazy, analysis.map_chunks(cloud._contents, summary, rows_per_task=500, compute=False)):
        xr.testing.assert_identical(later.compute(), found)
    one = analysis.map_chunks(cloud._contents, count)
    assert (one.name, one.dims) == ("count", ("chunk",))
    assert analysis.map_chunks(cloud._contents, lambda g: 1).name == "value"
    with pytest.raises(dzv.InputError, match="'rows'"):
        analysis.map_chunks(cloud._contents, lambda g: {"rows": 1})


def test_xarray_of_objects(trees, scheduler):
    level, lengths = trees
    found = analysis.map_objects(level._contents, cable, rows_per_task=300)
    assert (found.name, found.dims) == ("cable", ("object",))
    assert found.sel(object=118) == pytest.approx(lengths[59])
    assert found.rows.to_numpy().tolist() == [30] * 60
    lazy = analysis.map_objects(level._contents, cable, rows_per_task=300, meta=float, compute=False)
    assert lazy.chunks == ((10,) * 6,)
    for later in (lazy, analysis.map_objects(level._contents, cable, rows_per_task=300, compute=False)):
        xr.testing.assert_identical(later.compute(), found)


def test_a_store_of_one_process_is_out_of_reach(use_scheduler):
    memory = {}
    random_trees(memory, n=5)
    level = dzv.open(memory).level(0)
    with use_scheduler("processes"), pytest.raises(dzv.PlanError):
        map_chunks(level, count, rows_per_task=20)
    with use_scheduler("threads"):
        assert map_chunks(level, count, rows_per_task=20).rows.sum() == 150
