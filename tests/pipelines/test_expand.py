"""Larger bounds: store.expand and out_of_bounds="expand"."""

import dask
import numpy as np
import pytest

import dask_zv as dzv
from dask_zv.format.fragments import encode_tiling

BOUNDS = ((0, 0, 0), (49, 49, 49))


def make(target, shard_chunks=1, **kwargs):
    store = dzv.create(target, chunk_shape=(10, 10, 10), bounds=BOUNDS, shard_chunks=shard_chunks, **kwargs)
    positions = np.random.default_rng(0).uniform(0, 49, (1000, 3)).astype("f4")
    dzv.write_points(store, positions, attributes={"mass": np.arange(1000.0)})
    return store


def add_chunk(store, key, position):
    group = store.level(0).group
    with group.batched_writes():
        group.write_bytes("vertices", key, np.array([position], "f4"))
        group.write_bytes("vertex_attributes/mass", key, np.array([5.0]))
        group.write_bytes("vertex_fragments", key, encode_tiling([1]))


@pytest.fixture(params=["memory", "local"])
def target(request, tmp_path):
    return {} if request.param == "memory" else tmp_path / "s.zv"


def test_a_path_is_expanded(tmp_path):
    make(tmp_path / "s.zv")
    assert dzv.expand(str(tmp_path / "s.zv"), ((-5, 0, 0), (1, 1, 1))) is None
    assert dzv.open(tmp_path / "s.zv").metadata.bounds == ((-5, 0, 0), (49, 49, 49))
    with pytest.raises(dzv.ReadOnlyError):
        dzv.expand(dzv.open(tmp_path / "s.zv"), BOUNDS)


@pytest.mark.parametrize("shard_chunks", [1, (2, 2, 2), 16])
@pytest.mark.parametrize(
    ("bounds", "key", "position"),
    [
        (((0, 0, 0), (60, 49, 120)), "2.4.11", (29, 45, 118)),
        (((-35, 0, 0), (60, 49, 120)), "-3.0.9", (-29, 1, 95)),
        (((-1, -500, -1), (0, 0, 0)), "-1.-49.-1", (-1, -485, -1)),
    ],
)
def test_chunks_further_out_can_be_written(target, shard_chunks, bounds, key, position):
    store = make(target, shard_chunks)
    before = store.level(0).read()
    with pytest.raises(dzv.BoundsError, match=r"store\.expand") as caught:
        add_chunk(store, key, position)
    assert caught.value.chunk == key
    store.expand(bounds)
    opened = dzv.open(target)
    assert np.array_equal(opened.level(0).read().positions, before.positions)
    assert opened.level(0)._contents.source.catalogued, "the catalog moved with the cells"
    assert all(a <= b for a, b in zip(opened.metadata.bounds[0], bounds[0], strict=True))
    add_chunk(opened if not opened.read_only else store, key, position)
    again = dzv.open(target).level(0)
    assert len(again.read().positions) == 1001
    box = (np.array(position) - 1, np.array(position) + 1)
    assert again.read(bbox=box).attributes["mass"].tolist() == [5.0]
    assert len(store.level(0).group.list_chunks("vertices")) == len(before_keys(before)) + 1


def before_keys(geometry):
    return np.unique(np.floor(geometry.positions.astype("f8") / 10), axis=0)


def test_a_larger_far_end_moves_no_object(tmp_path):
    store = make(tmp_path / "s.zv")
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "s.zv/0/vertices/c").rglob("*") if p.is_file()}
    store.expand(((0, 0, 0), (500, 500, 500)))
    assert stamps
    assert stamps == {p: p.stat().st_mtime_ns for p in (tmp_path / "s.zv/0/vertices/c").rglob("*") if p.is_file()}


def test_until_the_documents_change_the_store_is_what_it_was(tmp_path):
    """Everything but the last step: what a writer leaves that dies there."""
    store = make(tmp_path / "s.zv", 16)
    before = store.level(0).read()
    delayed = store.expand(((-100, -100, -100), (0, 0, 0)), compute=False)
    graph = dict(delayed.__dask_graph__())
    (switch,) = [k for k in graph if "-switch-" in str(k)]
    dask.get(graph, list(graph[switch].dependencies))
    moved = [p for p in (tmp_path / "s.zv/0/vertices/c").rglob("*") if p.is_file()]
    assert len(moved) > len(store.level(0).group.list_chunks("vertices")) / 16 * 1.5, "the copies are there"
    assert np.array_equal(dzv.open(tmp_path / "s.zv").level(0).read().positions, before.positions)
    store.expand(((-100, -100, -100), (0, 0, 0)))
    assert np.array_equal(dzv.open(tmp_path / "s.zv").level(0).read().positions, before.positions)
    # the objects at the old places are gone
    left = [p for p in (tmp_path / "s.zv/0/vertices/c").rglob("*") if p.is_file()]
    assert len(left) == len(moved) // 2


def test_another_writer_meanwhile_is_not_overrun():
    target = {}
    store = make(target)
    delayed = store.expand(((-100, 0, 0), (0, 1, 1)), compute=False)
    dzv.open(target, mode="r+").level(0).group.write_bytes("vertices", "0.0.0", b"")
    group = dzv.open(target, mode="r+").level(0).group
    group.write_bytes("vertices", "0.0.0", np.ones((2, 3), "f4"))  # listed again: a chunk the plan knows, with other bytes
    store2 = dzv.open(target, mode="r+")
    store2.expand(((-100, 0, 0), (0, 1, 1)))
    with pytest.raises(dzv.StoreError, match="expand the store again"):
        delayed.compute(scheduler="synchronous")
    assert group.read_bytes("vertices", "0.0.0") == np.ones((2, 3), "f4").tobytes()


@pytest.mark.parametrize("layout", ["grid", "per_chunk"])
def test_writing_beyond_the_bounds(layout):
    store = dzv.create({}, chunk_shape=(10, 10), bounds=((0, 0), (9, 9)), layout=layout)
    far = np.array([[5.0, 5.0], [-300.0, 1000.0]])
    with pytest.raises(dzv.BoundsError):
        dzv.write_points(store, far)
    dzv.write_points(store, far[:1])
    assert dzv.write_points(store, far, mode="overwrite", out_of_bounds="ignore").dropped == 1
    dzv.write_points(store, far, mode="overwrite", out_of_bounds="expand")
    assert store.metadata.bounds == ((-300.0, 0.0), (9.0, 1000.0))
    assert sorted(store.level(0).read().positions.tolist()) == sorted(far.tolist())


def test_per_chunk_has_no_grid_to_grow():
    store = dzv.create({}, chunk_shape=(10, 10), bounds=((0, 0), (9, 9)), layout="per_chunk")
    dzv.write_points(store, np.ones((3, 2)))
    store.expand(((-50, 0), (0, 500)))
    assert store.metadata.bounds == ((-50.0, 0.0), (9.0, 500.0))
    assert len(store.level(0).read().positions) == 3


def test_bad_bounds():
    store = make({})
    for bounds in (((0, 0), (1, 1)), ((0, 0, 0), (np.inf, 1, 1)), ((5, 5, 5), (1, 1, 1)), "far"):
        with pytest.raises(dzv.InputError, match="bounds|bbox"):
            store.expand(bounds)
    with pytest.raises(dzv.ReadOnlyError):
        dzv.open(store._contents.handle._payload[2]).expand(BOUNDS)
