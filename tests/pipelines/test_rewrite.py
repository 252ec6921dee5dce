"""Stores written again: in other chunks, dtypes and bounds, and several in one; nothing of them is lost."""

from __future__ import annotations

import dask
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from small import always
from small_geometries import write_any

import dask_zv as dzv

KINDS = ("point_cloud", "polyline", "skeleton", "graph", "mesh")
N = 120

small = always(write_block_bytes=(2000, 4000), partition_bytes=3000)


def make(target, kind, seed=0, **options):
    rng = np.random.default_rng(seed)
    positions, owner = rng.uniform(-20, 20, (N, 3)), np.sort(rng.integers(0, 6, N)) * 2
    owner[-1] = 10
    first = np.searchsorted(owner, owner)
    links, values = None, None
    if kind == "graph":
        links, values = rng.integers(0, N, (70, 2)), {"w": rng.normal(size=70)}
    elif kind == "mesh":
        links, values = rng.integers(0, N, (50, 3)), {"w": np.arange(50) * 1.0}
    elif kind == "skeleton":
        links = np.array([(i, rng.integers(first[i], i)) for i in range(N) if first[i] < i])
    options = {"chunk_shape": (20, 20, 20), "axes": [{"name": a, "unit": "um"} for a in "xyz"], **options}
    store = dzv.create(target, geometry=kind, **options)
    number = np.unique(owner)
    mass = xr.DataArray(rng.normal(size=N), dims="row", attrs={"units": "kg", "long_name": "the mass"})
    write_any(
        store, kind, positions, owner, links, values, groups={0: [number[0]], 2: number[2:4].tolist()},
        attributes={"row": np.arange(N), "mass": mass, "sort": pd.Categorical(np.resize(list("cab"), N), list("cab"), ordered=True),
                    "maybe": np.where(np.arange(N) % 3, "y", None), "vec": rng.normal(size=(N, 2)).astype("f4")},
        object_attributes=pd.DataFrame({"size": [1, 2], "name": ["a", "b"]}, index=number[:2]),
        group_attributes={"group_names": ["left", "", "right"], "w": [0.5, 1.5, 2.5]},
    )  # fmt: skip
    store.group.require_group("headers").require_group("trk").attrs.update({"dim": [1, 2]})
    store.group.attrs.update({"user_metadata": {"who": "me"}})
    return store


def content(target):
    """Return all that a level says, by the numbers that its vertices have in it."""
    level = dzv.open(target).level(0)
    g = level.read()
    row = g.attributes["row"]
    out = {"vertices": {}}
    columns = [
        g.positions.tolist(),
        g.object_ids.tolist(),
        *(g.attributes[k].tolist() for k in ("mass", "sort", "maybe", "vec")),
    ]
    out["vertices"] = dict(zip(row.tolist(), map(str, zip(*columns, strict=True)), strict=True))
    links, values = (g.edges, g.edge_attributes) if g.edges is not None else (g.faces, g.face_attributes)
    if g.parents is not None:
        out["links"] = {r: int(row[p]) if p >= 0 else -1 for r, p in zip(row.tolist(), g.parents.tolist(), strict=True)}
    elif links is not None:
        out["links"] = sorted(zip(row[links].tolist(), values["w"].tolist(), strict=True))
    if level.kind == "polyline":
        out["paths"] = {
            i: row[e - n : e].tolist() for i, n, e in zip(g.ids.tolist(), g.lengths, np.cumsum(g.lengths), strict=True)
        }
    out["objects"] = g.object_index.tolist(), {k: v.tolist() for k, v in g.object_attributes.items()}
    out["groups"] = {k: v.tolist() for k, v in g.groups.items()}, {k: v.tolist() for k, v in g.group_attributes.items()}
    return out


def facts(target):
    store = dzv.open(target)
    sort = next(a for a in store.level(0)._contents.source.schema.attributes if a.name == "sort").dictionary
    root = store.group.attrs.to_dict()
    return store.headers, store.attribute_specs, [a.to_json() for a in store.metadata.axes], root["user_metadata"], sort


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_is_written_in_other_chunks(tmp_path, kind):
    source, target = str(tmp_path / "source.zv"), str(tmp_path / "target.zv")
    make(source, kind, shard_chunks=8, compressor="blosc")
    report = dzv.convert(source, target, chunk_shape=(10, 10, 10))
    assert (report.rows, dzv.open(target).metadata.chunk_shape) == (N, (10.0, 10.0, 10.0))
    assert content(target) == content(source)
    assert facts(target) == facts(source)
    codecs = [dzv.open(t).level(0)._contents.group.zarr_group["vertices"].metadata.codecs[0].codecs for t in (source, target)]
    assert codecs[0] == codecs[1]
    with pytest.raises(dzv.StoreError, match="holds"):
        dzv.convert(source, target, chunk_shape=(5, 5, 5))
    with pytest.raises(dzv.InputError, match="target is a source"):
        dzv.convert(source, source, chunk_shape=(5, 5, 5), overwrite=True)


def test_dtype_bins_and_bounds(tmp_path):
    source, target = str(tmp_path / "source.zv"), str(tmp_path / "target.zv")
    make(source, "point_cloud")
    dzv.convert(source, target, dtype="float32", bin_shape=(5, 5, 5), bounds=((-30,) * 3, (40,) * 3))
    store = dzv.open(target)
    assert store.metadata.bounds == ((-30.0,) * 3, (40.0,) * 3)
    assert store.metadata.bin_shape == (5.0,) * 3
    before, after = dzv.open(source).level(0).read(), store.level(0).read()
    at = np.argsort(before.attributes["row"])[after.attributes["row"]]
    np.testing.assert_array_equal(after.positions, before.positions[at].astype("f4"))
    with pytest.raises(dzv.BoundsError):
        dzv.convert(source, {}, bounds=((0,) * 3, (1,) * 3))


def test_levels_that_are_left_out_are_told(tmp_path):
    source = str(tmp_path / "source.zv")
    store = make(source, "point_cloud")
    store.group.require_group("1").attrs.update({"zarr_vectors_level": {"level": 1, "vertex_count": 0, "arrays_present": []}})
    with pytest.warns(dzv.ZVWarning, match="levels \\[1\\] are not written again"):
        dzv.convert(source, {}, chunk_shape=(5, 5, 5))


@pytest.mark.parametrize("kind", KINDS)
def test_stores_are_merged(tmp_path, kind):
    sources = [str(tmp_path / f"{i}.zv") for i in range(3)]
    for i, source in enumerate(sources):
        store = make(source, kind, seed=i)
        n = i * N
        store.set_attribute("row", store.level(0).read(order="chunk").attributes["row"] + n)
        if i == 1:
            store.drop_attribute("mass")
            store.drop_object_attribute("size")
            store.set_group("extra", [0])
    target = str(tmp_path / "all.zv")
    dzv.open(sources[2], "r+").group["headers"]["trk"].attrs.update({"dim": [7]})
    with pytest.warns(dzv.ZVWarning, match="header 'trk' is that of the first store .*2.zv has another"):
        report = dzv.merge(sources, target)
    assert report.rows == 3 * N
    parts = [dzv.open(s).level(0).read() for s in sources]
    found = dzv.open(target).level(0).read()
    row = found.attributes["row"]
    assert sorted(row) == list(range(3 * N))
    place = np.argsort(row)
    shift, moved = 0, []
    for part in parts:
        mine = place[part.attributes["row"]]
        np.testing.assert_array_equal(found.positions[mine], part.positions)
        np.testing.assert_array_equal(found.attributes["sort"][mine], part.attributes["sort"])
        np.testing.assert_array_equal(found.object_ids[mine], part.object_ids + shift)
        mass = part.attributes.get("mass", np.full(N, np.nan))
        np.testing.assert_array_equal(found.attributes["mass"][mine], mass)
        moved.append(shift)
        shift += int(part.object_index.max()) + 1
        if part.parents is not None:
            theirs = np.where(part.parents < 0, -1, mine[part.parents])
            np.testing.assert_array_equal(found.parents[mine], theirs)
    for links, values in ((found.edges, found.edge_attributes), (found.faces, found.face_attributes)):
        if links is not None and found.parents is None:
            expected = []
            for part in parts:
                own = part.edges if part.edges is not None else part.faces
                weight = (part.edge_attributes if part.edges is not None else part.face_attributes)["w"]
                expected += zip(part.attributes["row"][own].tolist(), weight.tolist(), strict=True)
            assert sorted(zip(row[links].tolist(), values["w"].tolist(), strict=True)) == sorted(expected)
    assert found.object_attributes["size"].mask.sum() == len(found.object_index) - 4
    assert found.group_attributes["group_names"].tolist()[:3] == ["left", "", "right"]
    assert "extra" in found.group_attributes["group_names"]
    left = moved
    assert found.groups[0].tolist() == left
    assert dzv.open(target).attribute_specs["vertex"]["mass"]["unit"] == "kg"
    assert dzv.open(target).headers == {"trk": {"dim": [1, 2]}}


def test_ids_are_kept_where_none_comes_twice(tmp_path):
    a, b = {}, {}
    dzv.write_points(a, np.ones((2, 2)), chunk_shape=(10, 10), object_ids=[3, 5])
    dzv.write_points(b, np.ones((2, 2)), chunk_shape=(10, 10), object_ids=[4, 1])
    both = {}
    dzv.merge([a, b], both, object_ids="keep")
    assert dzv.open(both).level(0).read().object_index.tolist() == [1, 3, 4, 5]
    with pytest.raises(dzv.InputError, match="object 3 of .* is in a store before it \\(2 ids come twice\\)"):
        dzv.merge([a, a], {}, object_ids="keep")
    twice = {}
    dzv.merge([a, a], twice)
    assert dzv.open(twice).level(0).read().object_index.tolist() == [3, 5, 9, 11]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"chunk_shape": (10, 10, 10)}, "axes of the stores differ"),
        ({"attributes": {"n": [1, 2]}}, "attribute 'n' is not in .* no word for a missing value"),
        ({"attributes": {"f": ["a", "b"]}}, "another kind of values"),
        ({"attributes": {"f": [[1.0, 2.0], [3.0, 4.0]]}}, "other channels"),
        ({"object_ids": [0, 1]}, "has no objects, others have"),
        ({"crs": {"type": "EPSG", "code": 4326}}, "crs of the stores differ"),
    ],
)
def test_stores_that_do_not_fit_are_refused(other, said):
    a, b, target = {}, {}, {}
    dzv.write_points(a, np.ones((2, 2)), chunk_shape=(10, 10), attributes={"f": [0.5, 1.5]})
    options = {"chunk_shape": (10, 10), **other}
    dzv.write_points(b, np.ones((2, len(options["chunk_shape"]))), **options)
    with pytest.raises(dzv.InputError, match=said):
        dzv.merge([a, b], target)
    assert not target


@pytest.mark.parametrize("scheduler", ["distributed"], indirect=True)
def test_both_run_on_a_cluster_and_as_plans(tmp_path, scheduler):
    source, target, both = (str(tmp_path / n) for n in ("source.zv", "target.zv", "both.zv"))
    make(source, "graph")
    plan = dzv.convert(source, target, chunk_shape=(10, 10, 10), compute=False)
    (report,) = dask.compute(plan)
    assert report.rows == N
    assert content(target) == content(source)
    assert dzv.merge([source, target], both).rows == 2 * N
