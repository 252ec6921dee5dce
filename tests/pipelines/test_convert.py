"""dzv.convert: the same store packed or not, otherwise compressed, or of the other generation."""

import json

import dask
import numpy as np
import pandas as pd
import pytest
import zarr
from golden_reference import STORES, every_store
from small_geometries import write_any

import dask_zv as dzv

N = 3000


def make(layout, target=None, *, objects=False, **kwargs):
    rng = np.random.default_rng(0)
    store = dzv.create({} if target is None else target, chunk_shape=(10, 10, 10), layout=layout, **kwargs)
    more = {}
    if objects:
        table = pd.DataFrame({"score": [0.5, 1.5]}, index=[3, 7])  # the others have no score
        more = {"object_ids": rng.integers(0, 20, N), "object_attributes": table, "groups": {0: [1, 2], 2: [5]}}
    attributes = {
        "mass": np.arange(N, dtype=float),
        "colour": rng.integers(0, 255, (N, 3), dtype=np.uint8),
        "kind": rng.choice(["a", "b"], N),
    }
    dzv.write_points(store, rng.uniform(-20, 20, (N, 3)).astype("f4"), attributes=attributes, **more)
    return store


def same(a, b):
    """Compare all that two stores hold of points and objects."""
    x, y = a.level(0).read(), b.level(0).read()
    assert np.array_equal(x.positions, y.positions)
    assert set(x.attributes) == set(y.attributes)
    for name, values in x.attributes.items():
        assert np.array_equal(values, y.attributes[name]), name
    assert (x.object_ids is None) == (y.object_ids is None)
    if x.object_ids is not None:
        for name in ("object_ids", "object_index"):
            assert np.array_equal(getattr(x, name), getattr(y, name)), name
        for name, values in x.object_attributes.items():
            assert values.tolist() == y.object_attributes[name].tolist(), name
        one, two = ({g: m.tolist() for g, m in z.groups.items() if len(m)} for z in (x, y))
        assert one == two


@pytest.mark.parametrize("counted", [True, False], ids=["counted", "uncounted as by others"])
@pytest.mark.parametrize("kind", ["polyline", "skeleton", "graph", "mesh"])
def test_links_and_what_is_said_of_their_number_are_kept(kind, counted, tmp_path):
    rng = np.random.default_rng(1)
    source = dzv.create(tmp_path / "s.zv", geometry=kind, chunk_shape=(20, 20, 20))
    links = {
        "skeleton": np.column_stack([np.arange(1, 200), np.arange(199)]),
        "graph": rng.integers(0, 200, (300, 2)),
        "mesh": rng.permuted(np.tile(np.arange(200), (300, 1)), axis=1)[:, :3],
    }
    write_any(source, kind, rng.uniform(0, 60, (200, 3)), np.full(200, 3), links.get(kind))
    if not counted:
        about = zarr.open_group(str(tmp_path / "s.zv/0/links/0"), mode="r+").attrs
        for name in {"num_links", "num_physical_records"} & {*about}:
            del about[name]
        source = dzv.open(tmp_path / "s.zv")
    before = source.level(0).read()
    packed, single = {}, {}
    dzv.convert(source, packed, shard_chunks=8)
    dzv.convert(packed, single, shard_chunks=1)
    for target in (packed, single):
        after = dzv.open(target, check_objects=True).level(0).read()
        assert np.array_equal(before.positions, after.positions)
        for name in ("edges", "faces", "parents", "lengths"):
            one, two = getattr(before, name), getattr(after, name)
            assert (one is None) == (two is None), name
            assert one is None or np.array_equal(one, two), name


@pytest.mark.product(keep="pairs")
@pytest.mark.parametrize("objects", [False, True], ids=["points", "objects"])
@pytest.mark.parametrize("layout", ["grid", "per_chunk"])
@pytest.mark.parametrize("to", ["grid", "per_chunk"])
@pytest.mark.parametrize("shard_chunks", [None, 1, 16, "auto"])
def test_every_form_holds_the_same(layout, to, shard_chunks, objects):
    source = make(layout, objects=objects)
    target: dict = {}
    report = dzv.convert(source, target, layout=to, shard_chunks=shard_chunks)
    converted = dzv.open(target)
    assert converted.layout == to
    same(source, converted)
    assert report.rows == N
    assert report.chunks == len(source.level(0).chunks) == len(converted.level(0).chunks)
    assert converted.level(0)._contents.source.catalogued, "the copy has a catalog of its own"


@pytest.mark.parametrize(
    ("compressor", "name"), [(None, None), ("blosc", "blosc"), ([{"name": "gzip", "configuration": {"level": 1}}], "gzip")]
)
@pytest.mark.parametrize("shard_chunks", [1, (2, 2, 1)])
def test_compressors(compressor, name, shard_chunks):
    source, target = make("grid"), {}
    dzv.convert(source, target, compressor=compressor, shard_chunks=shard_chunks)
    same(source, dzv.open(target))
    document = json.loads(target["0/vertices/zarr.json"].to_bytes())
    codecs = document["codecs"]
    if shard_chunks != 1:
        assert document["chunk_grid"]["configuration"]["chunk_shape"] == [2, 2, 1]
        codecs = codecs[0]["configuration"]["codecs"]
    assert [c["name"] for c in codecs] == ["vlen-bytes", *([name] if name else [])]
    # what comes next is written in the same way
    store = dzv.open(target, mode="r+")
    dzv.write_points(store, np.zeros((1, 3), "f4"), mode="overwrite")
    assert json.loads(target["0/vertices/zarr.json"].to_bytes())["codecs"] == document["codecs"]


def test_cells_that_are_stored_alike_are_moved_as_they_are():
    source, packed, single = {}, {}, {}
    make("grid", source, shard_chunks=1)
    dzv.convert(source, packed, shard_chunks=(2, 2, 2))
    dzv.convert(packed, single, shard_chunks=1)
    cells = [k for k in source if "/c/" in k and "dask_zv_catalog" not in k]
    assert len(cells) > 100
    for key in cells:
        assert single[key].to_bytes() == source[key].to_bytes(), key


def test_zarr_reads_the_packed_form():
    source, target = make("grid", objects=True), {}
    dzv.convert(source, target, shard_chunks=(2, 3, 4))
    array = zarr.open_array(zarr.storage.MemoryStore(target), path="0/vertices", mode="r")
    origin = array.attrs["chunk_grid_origin"]
    group = source.level(0).group
    cells = array[...]  # asked for one by one, numpy would cut trailing zeros off
    for key in group.list_chunks("vertices"):
        cell = tuple(int(c) - o for c, o in zip(key.split("."), origin, strict=True))
        assert cells[cell] == group.read_bytes("vertices", key)


@every_store
def test_stores_of_the_real_packages_repacked(path):
    """Any geometry: every blob of every array of every level, and all else as it was."""
    source, target = dzv.open(path), {}
    dzv.convert(source, target, shard_chunks=4)
    converted = dzv.open(target)
    assert converted.levels == source.levels
    assert converted.metadata.to_attributes() == source.metadata.to_attributes()
    compared = 0
    for number in source.levels:
        before, after = source.level(number).group, converted.level(number).group
        assert after.attrs["zarr_vectors_level"] == before.attrs["zarr_vectors_level"]
        for array in arrays_of(before):
            assert after.list_chunks(array) == before.list_chunks(array), array
            old, new = ({**group.read_array_meta(array), "nonempty_chunks": None} for group in (before, after))
            assert new == old
            for key in before.list_chunks(array):
                assert after.read_bytes(array, key) == before.read_bytes(array, key), (array, key)
                compared += 1
    assert compared
    if source.metadata.geometry_types == ("point_cloud",):
        same(source, converted)


def arrays_of(group):
    """Return the arrays that hold chunks, found by walking the stored keys."""
    names = set()
    objects, prefix = group._objects, group.prefix
    for key in objects.list_prefix(prefix):
        path = key.removeprefix(f"{prefix}/").rpartition("/zarr.json")[0]
        for candidate in (path, path.rpartition("/")[0]):
            if candidate and "dask_zv" not in candidate and group.list_chunks(candidate):
                names.add(candidate)
    return sorted(names - {"object_index"})


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_schedulers_store_the_same(tmp_path, scheduler):
    make("grid", tmp_path / "s.zv", objects=True)
    with dask.config.set(scheduler=scheduler, num_workers=2):
        delayed = dzv.convert(tmp_path / "s.zv", tmp_path / "t.zv", shard_chunks=4, compute=False)
        assert not (tmp_path / "t.zv").exists(), "nothing is written before the graph runs"
        (report,) = dask.compute(delayed)
    assert report.rows == N
    same(dzv.open(tmp_path / "s.zv"), dzv.open(tmp_path / "t.zv"))


def test_a_copy_that_fails_is_no_store():
    source, target = {}, {}
    make("grid", source)
    del source[next(k for k in source if k.startswith("0/vertices/c/"))]
    with pytest.raises(dzv.StoreError, match="gone.*vertices"):
        dzv.convert(source, target)
    with pytest.raises((dzv.MetadataError, dzv.NotFoundError)):
        dzv.open(target)


def test_what_the_other_layout_can_not_tell_is_refused():
    sparse = dzv.create({}, chunk_shape=(10, 10))
    dzv.write_points(sparse, np.zeros((2, 2)), object_ids=[5, 900])
    with pytest.raises(dzv.InputError, match="without gaps"):
        dzv.convert(sparse, {}, layout="per_chunk")
    graph = dzv.open(next(p for p in STORES if p.name.startswith("graph.") and "0.9" in str(p)))
    with pytest.raises(dzv.InputError, match="link"):
        dzv.convert(graph, {}, layout="per_chunk")


def test_bad_arguments(tmp_path):
    source = make("grid")
    held = {}
    dzv.create(held, chunk_shape=(1, 1))
    before = dict(held)
    for match, kwargs in [
        ("layout", {"layout": "flat"}),
        ("compressor", {"compressor": "lz77"}),
        ("raw", {"layout": "per_chunk", "compressor": "zstd"}),
        ("Morton", {"layout": "per_chunk", "shard_chunks": (2, 2, 2)}),
    ]:
        with pytest.raises(dzv.InputError, match=match):
            dzv.convert(source, {}, **kwargs)
    with pytest.raises(dzv.StoreError, match="overwrite=True"):
        dzv.convert(source, held)
    assert held == before
    dzv.convert(source, held, overwrite=True)
    same(source, dzv.open(held))
