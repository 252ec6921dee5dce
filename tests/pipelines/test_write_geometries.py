"""Lines, polylines, skeletons, graphs and meshes in every form that users have them, and how a write of them behaves."""

from __future__ import annotations

import os
import pickle
import signal
import time
from itertools import pairwise
from pathlib import Path

import cloudpickle
import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from geometries_reference import (
    GEOMETRIES,
    LINKED,
    PATHS,
    Data,
    check_linked,
    check_read,
    some_data,
    write,
)
from layouts import LAYOUTS
from plain_grid import decode
from points_reference import assert_same, directories, files, stored

import dask_zv as dzv
from dask_zv.config import override

CHUNK = (10.0, 10.0, 10.0)
N = 120


@pytest.fixture(autouse=True, scope="module")
def _small_blocks():
    """Make many blocks and partitions of little data."""
    with override(write_block_chunks=4, write_block_bytes=(2000, 1 << 20), partition_bytes=3000):
        yield


@pytest.fixture
def sync():
    with dask.config.set(scheduler="sync"):
        yield


def make(geometry, seed=0, n=N, **options) -> Data:
    """Return a geometry with a few objects, in some dozen chunks; meshes in eight, for all ways to lie across some of them."""
    data = some_data(np.random.default_rng(seed), geometry, n, CHUNK, **options)
    data.positions = np.clip(data.positions, -9.5, 9.5 if geometry == "mesh" else 19.5)
    return data


def create(geometry, target=None, **options):
    return dzv.create({} if target is None else target, geometry=geometry, chunk_shape=CHUNK, **options)


def lazily(values, chunks=17):
    values = np.asarray(values)
    return da.from_array(values, chunks=(chunks, *(-1 for _ in values.shape[1:])))


def unknown(values, chunks=17):
    """Return a dask array of the same rows whose lengths nobody knows."""
    values = np.asarray(values)
    return lazily(values, chunks)[da.ones(len(values), dtype=bool, chunks=chunks)]


def table(data, **columns):
    """Return a DataFrame of the vertices, with all attributes that fit into columns."""
    axes = dict(zip("xyz", data.positions.T, strict=True))
    return pd.DataFrame({**axes, **data.without("rgb").attributes, **columns})


def spread(frame, parts=5):
    """Return a dask DataFrame with an empty partition among the others."""
    ends = np.linspace(0, len(frame), parts + 1).astype(int)
    made = [dask.delayed(frame.iloc[a:b]) for a, b in pairwise(ends)]
    return dd.from_delayed([*made[:2], dask.delayed(frame.iloc[:0]), *made[2:]], meta=frame.iloc[:0], verify_meta=False)


# -------------------------------------------------------------------------------------------------- forms of paths


def polyline_forms(data):
    """Return the arguments of ``write_polylines`` by the name of the form, and what of the data they tell."""
    points, lengths, ids = data.positions, data.lengths, data.path_ids
    ends = np.cumsum(lengths)[:-1]
    whole = {"attributes": data.attributes, "object_ids": ids}
    lazy = {k: lazily(v) for k, v in data.attributes.items()}
    # partitions of whole polylines, the lengths of each computed when they are wanted
    step = 3
    firsts = range(0, len(lengths), step)
    rows = tuple(int(lengths[i : i + step].sum()) for i in firsts)
    by_paths = {k: da.from_array(v, chunks=(rows, *v.shape[1:])) for k, v in {**data.attributes, "": points}.items()}
    counts = da.from_array(lengths, chunks=step).map_blocks(lambda b: b + 0, dtype=np.int64)
    no_sizes = {
        k: v.map_blocks(lambda b: b, dtype=v.dtype, chunks=((np.nan,) * len(rows), *v.chunks[1:])) for k, v in by_paths.items()
    }
    return {
        "numpy": ((points,), {"lengths": lengths, **whole}),
        "lists of integers": (
            (points,),
            {"lengths": lengths.tolist(), "object_ids": ids.tolist(), "attributes": data.attributes},
        ),
        "an id for each vertex": ((points,), {"object_ids": data.ids, "attributes": data.attributes}),
        "list of arrays": ((np.split(points, ends),), whole),
        "list of lists": (
            ([p.tolist() for p in np.split(points, ends) if len(p)],),
            {
                "object_ids": [int(i) for i, c in zip(ids, lengths, strict=True) if c],
                "attributes": {k: [v for v in np.split(a, ends) if len(v)] for k, a in data.attributes.items()},
            },
        ),
        "dask": ((lazily(points),), {"lengths": lengths, "attributes": lazy, "object_ids": ids}),
        "dask, attributes in memory": ((lazily(points),), {"lengths": lengths, **whole}),
        "dask, cut across": ((da.from_array(points, chunks=(13, 2)),), {"lengths": lengths, **whole}),
        "unknown, an id for each vertex": (
            (unknown(points),),
            {"object_ids": unknown(data.ids), "attributes": {k: unknown(v) for k, v in data.attributes.items()}},
        ),
        "lazy lengths": ((by_paths[""],), {"lengths": counts, "object_ids": ids, "attributes": {k: by_paths[k] for k in lazy}}),
        "lazy lengths, unknown positions": (
            (no_sizes[""],),
            {"lengths": counts, "object_ids": da.from_array(ids, chunks=2), "attributes": {k: no_sizes[k] for k in lazy}},
        ),
        "pandas": ((table(data, who=data.ids),), {"object_ids": "who"}),
        "dask dataframe": ((spread(table(data, who=data.ids)),), {"object_ids": "who"}),
    }  # fmt: skip


POLYLINE_FORMS = list(polyline_forms(make("polyline")))


@pytest.mark.parametrize("form", POLYLINE_FORMS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_forms_of_polylines(form, layout, sync):
    data = make("polyline", 3, dense=layout == "per_chunk", empty=layout == "grid")
    args, options = polyline_forms(data)[form]
    store = create("polyline", layout=layout)
    dzv.write_polylines(store, *args, **options)
    if "dataframe" in form or form == "pandas":
        data = data.without("rgb")
    if "lengths" not in options and form != "list of arrays":
        data.objects = np.unique(data.ids)
    check_read(store.level(0), data)


def test_ids_are_numbers_where_none_are_given(sync):
    data = make("polyline", 4)
    for args, options in (
        ((data.positions,), {"lengths": data.lengths}),
        ((np.split(data.positions, np.cumsum(data.lengths)[:-1]),), {}),
        ((lazily(data.positions),), {"lengths": data.lengths}),
        ((da.from_array(data.positions, chunks=(-1, -1)),), {"lengths": da.from_array(data.lengths, chunks=-1)}),
    ):
        store = create("streamline")
        dzv.write_polylines(store, *args, **options)
        geometry = store.level(0).read()
        assert geometry.ids.tolist() == list(range(len(data.lengths)))
        assert geometry.lengths.tolist() == data.lengths.tolist()
        assert_same(geometry.positions, data.positions)


LINE_FORMS = ("numpy", "nested lists", "dask", "dask, attributes in memory", "dask, cut across", "pandas", "dask dataframe")


@pytest.mark.parametrize("form", LINE_FORMS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_forms_of_lines(form, layout, sync):
    data = make("line", 5, dense=layout == "per_chunk")
    ends = data.positions.reshape(-1, 2, 3)
    pairs = {k: v.reshape(-1, 2, *v.shape[1:]) for k, v in data.attributes.items()}
    options = {"attributes": pairs, "object_ids": data.path_ids}
    if "lists" in form:
        told = {k: pairs[k].tolist() for k in ("number", "kind")}
        ends, options = ends.tolist(), {"attributes": told, "object_ids": data.path_ids.tolist()}
        data = data.without("rgb", "f")
    elif form == "dask":
        ends, options["attributes"] = lazily(ends), {k: lazily(v) for k, v in pairs.items()}
    elif form == "dask, attributes in memory":
        ends = lazily(ends)
    elif form == "dask, cut across":
        ends = da.from_array(ends, chunks=(7, 1, 2))
        options["attributes"] = {k: da.from_array(v, chunks=(7, 1, *(2 for _ in v.shape[2:]))) for k, v in pairs.items()}
    elif form != "numpy":
        data = data.without("rgb")
        ends, options = table(data, who=data.ids), {"object_ids": "who"}
        ends = ends if form == "pandas" else spread(ends)  # lines on both sides of a partition's end
    store = create("line", layout=layout)
    dzv.write_lines(store, ends, **options)
    check_read(store.level(0), data)


def test_a_frame_stores_the_columns_it_is_asked_for(sync):
    data = make("polyline", 6).without("rgb")
    data.objects = np.unique(data.ids)
    store = create("polyline")
    dzv.write_polylines(store, table(data, who=data.ids, more=data.ids), object_ids="who", attributes=["number", "kind"])
    check_read(store.level(0), data.without("f"))


# -------------------------------------------------------------------------------------------------- forms of links


def names_for(data):
    """Return ids for the vertices: large, distinct, in no order."""
    return 10**12 + 7 * np.random.default_rng(9).permutation(len(data))


def named_parents(data, names):
    return np.where(data.parents < 0, data.parents, names[np.maximum(data.parents, 0)])


SKELETON_FORMS = {
    "numpy": lambda d, n: ((d.positions,), {"parents": d.parents, "object_ids": d.ids}),
    "lists": lambda d, n: ((d.positions.tolist(),), {"parents": d.parents.tolist(), "object_ids": d.ids.tolist()}),
    "unsigned ids": lambda d, n: ((d.positions,), {"parents": d.parents.astype("i4"), "object_ids": d.ids.astype("u8")}),
    "dask": lambda d, n: ((lazily(d.positions),), {"parents": lazily(d.parents), "object_ids": lazily(d.ids)}),
    "dask, in memory": lambda d, n: ((lazily(d.positions),), {"parents": d.parents, "object_ids": d.ids}),
    "unknown": lambda d, n: ((unknown(d.positions),), {"parents": unknown(d.parents), "object_ids": unknown(d.ids)}),
    "vertex_ids": lambda d, n: ((d.positions,), {"parents": named_parents(d, n), "vertex_ids": n, "object_ids": d.ids}),
    "lazy vertex_ids": lambda d, n: (
        (unknown(d.positions),),
        {"parents": unknown(named_parents(d, n)), "vertex_ids": unknown(n), "object_ids": unknown(d.ids)},
    ),
    "lazy positions, vertex_ids in memory": lambda d, n: (
        (lazily(d.positions),), {"parents": named_parents(d, n), "vertex_ids": n, "object_ids": d.ids},
    ),
    "pandas": lambda d, n: ((table(d, who=d.ids, up=d.parents),), {"parents": "up", "object_ids": "who"}),
    "pandas, vertex_ids": lambda d, n: (
        (table(d, who=d.ids, up=named_parents(d, n), name=n),), {"parents": "up", "object_ids": "who", "vertex_ids": "name"},
    ),
    "dask dataframe": lambda d, n: ((spread(table(d, who=d.ids, up=d.parents)),), {"parents": "up", "object_ids": "who"}),
    "dask dataframe, vertex_ids": lambda d, n: (
        (spread(table(d, who=d.ids, up=named_parents(d, n), name=n)),),
        {"parents": "up", "object_ids": "who", "vertex_ids": "name"},
    ),
}  # fmt: skip


def attributes_in(args, data):
    """Return what a form says of the attributes, and what of them it stores."""
    if hasattr(args[0], "columns"):
        return {}, data.without("rgb")
    if not isinstance(args[0], da.Array):
        return {"attributes": data.attributes}, data
    made = unknown if np.isnan(args[0].shape[0]) else lazily
    return {"attributes": {k: made(v) for k, v in data.attributes.items()}}, data


@pytest.mark.parametrize("form", SKELETON_FORMS)
def test_forms_of_skeletons(form, sync):
    data = make("skeleton", 7)
    args, options = SKELETON_FORMS[form](data, names_for(data))
    attributes, told = attributes_in(args, data)
    store = create("skeleton")
    dzv.write_skeletons(store, *args, **options, **attributes)
    check_read(store.level(0), told)


def link_table(links, about):
    columns = ["source", "target"] if links.shape[1] == 2 else [f"v{i}" for i in range(links.shape[1])]
    return pd.DataFrame({**dict(zip(columns, links.T, strict=True)), **{k: v for k, v in about.items() if v.ndim == 1}})


LINK_FORMS = {
    "numpy": lambda t, a: (t, a),
    "lists": lambda t, a: (t.tolist(), {k: v.tolist() for k, v in a.items() if k == "number"}),
    "small integers": lambda t, a: (t.astype("u2") if t.max(initial=0) < 2**16 else t, a),
    "dask": lambda t, a: (lazily(t, 29), {k: lazily(v, 29) for k, v in a.items()}),
    "dask, attributes in memory": lambda t, a: (lazily(t, 29), a),
    "dask, cut across": lambda t, a: (
        da.from_array(t, chunks=(31, 1)), {k: da.from_array(v, chunks=(31, *(1 for _ in v.shape[1:]))) for k, v in a.items()},
    ),
    "dask, attributes cut otherwise": lambda t, a: (lazily(t, 29), {k: lazily(v, 37) for k, v in a.items()}),
    "unknown": lambda t, a: (unknown(t, 29), {k: unknown(v, 29) for k, v in a.items()}),
    "pandas": lambda t, a: (link_table(t, a), None),
    "dask dataframe": lambda t, a: (spread(link_table(t, a), 4), None),
}  # fmt: skip
VERTEX_FORMS = ("numpy", "dask", "unknown", "pandas", "dask dataframe")


def vertices_in(form, data, names):
    """Return positions and options of the vertices in a form, with ids of their own where there are names."""
    if "pandas" in form or "frame" in form:
        own = {} if names is None else {"name": names}
        made = table(data, who=data.ids, **own)
        options = {"object_ids": "who", **({} if names is None else {"vertex_ids": "name"})}
        return (made if form == "pandas" else spread(made)), options
    wrap = {"numpy": np.asarray, "dask": lazily, "unknown": unknown}[form]
    options = {"object_ids": wrap(data.ids), "attributes": {k: wrap(v) for k, v in data.attributes.items()}}
    return wrap(data.positions), {**options, **({} if names is None else {"vertex_ids": wrap(names)})}


def write_links(store, data, positions, links, about, **options):
    if data.geometry == "graph":
        return dzv.write_graph(store, positions, edges=links, edge_attributes=about, directed=data.directed, **options)
    return dzv.write_meshes(store, positions, faces=links, face_attributes=about, **options)


def pairs():
    """Every form of links with vertices in memory, every form of vertices with links in memory, and some both lazy."""
    return [
        *((v, "numpy") for v in VERTEX_FORMS),
        *(("numpy", f) for f in LINK_FORMS if f != "numpy"),
        ("unknown", "unknown"),
        ("dask dataframe", "dask dataframe"),
    ]


@pytest.mark.parametrize(("vertices", "links"), pairs())
@pytest.mark.parametrize("named", [False, True], ids=["by number", "vertex_ids"])
def test_forms_of_graphs_and_meshes(vertices, links, named, sync):
    geometry = "graph" if (len(vertices) + len(links)) % 2 else "mesh"
    data = make(geometry, len(vertices) + 5 * len(links))
    data.directed = geometry == "graph" and "dask" in links
    names = names_for(data) if named else None
    given, about = LINK_FORMS[links](data.links if names is None else names[data.links], data.link_attributes)
    positions, options = vertices_in(vertices, data, names)
    store = create(geometry)
    write_links(store, data, positions, given, about, **options)
    told = data.without("rgb") if "pandas" in vertices or "frame" in vertices else data
    told.link_attributes = {k: v for k, v in data.link_attributes.items() if (v.ndim == 1 if about is None else k in about)}
    check_read(store.level(0), told)


def test_without_objects_all_is_object_0(sync):
    for geometry in LINKED:
        data = make(geometry, 11)
        data.ids, data.objects = np.zeros(len(data), np.int64), np.zeros(1, np.int64)
        store = create(geometry)
        if geometry == "skeleton":
            dzv.write_skeletons(store, data.positions, parents=data.parents, attributes=data.attributes)
        else:
            write_links(store, data, data.positions, data.links, data.link_attributes, attributes=data.attributes)
        check_read(store.level(0), data)
        check_linked(store.level(0).read(objects=0), data)


@pytest.mark.parametrize("width", [3, 4, 5, 8, 16])
def test_faces_of_any_width(width, sync):
    data = make("mesh", width, n=60, width=width, links=40)
    target = {}
    store = create("mesh", target, compressor=None)
    write(store, data)
    check_read(store.level(0), data)
    plain = decode(target)
    rows = plain.attributes["number"]
    numbers = [int(r.attributes["number"]) for r in plain.links]
    assert [rows[list(r.ends)].tolist() for r in plain.links] == data.links[numbers].tolist()


def test_empty_tables_of_links(sync):
    data = make("graph", 12, n=30, links=0)
    frame = pd.DataFrame({"source": [], "target": []}, dtype=int)
    for edges in (np.zeros((0, 2), int), [], da.zeros((0, 2), dtype=int, chunks=(1, 2)), frame):
        store = create("graph")
        dzv.write_graph(store, data.positions, edges=edges, attributes=data.attributes, object_ids=data.ids)
        data.link_attributes = {}
        check_read(store.level(0), data)


# -------------------------------------------------------------------------------------------------- lazily


def test_writes_join_a_larger_compute(sync):
    """compute=False stores nothing; several writes, and other work, are one graph."""
    stores, data, parts = {}, {}, []
    for geometry in GEOMETRIES:
        stores[geometry], data[geometry] = create(geometry), make(geometry, 13)
        parts.append(write(stores[geometry], data[geometry], compute=False))
        assert stores[geometry].level(0).metadata.vertex_count == 0
        assert len(stores[geometry].level(0).read()) == 0
    *reports, total = dask.compute(*parts, da.ones(10, chunks=3).sum())
    assert total == 10
    for geometry, report in zip(GEOMETRIES, reports, strict=True):
        assert (report.rows, report.objects) == (len(data[geometry]), len(data[geometry].objects))
        stores[geometry].reload()
        check_read(stores[geometry].level(0), data[geometry])


# -------------------------------------------------------------------------------------------------- modes and bounds


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_second_write_is_refused_or_replaces(geometry, sync, tmp_path):
    """Nothing of the first is left: no chunk, attribute, segment, object or group."""
    first, second = make(geometry, 14), make(geometry, 15, n=20)
    second.positions = np.clip(second.positions, 0, 9)
    second = second.without("rgb", "kind")
    second.attributes["other"] = np.arange(len(second)) * 2.0
    second.link_attributes = {k: v for k, v in second.link_attributes.items() if k == "number"}
    about = {"object_attributes": {"a": np.arange(len(first.objects))}, "groups": {1: first.objects[:2].tolist()}}
    store = create(geometry, tmp_path / "s.zv")
    write(store, first, **about, group_attributes={"w": np.arange(2.0)})
    before = files(tmp_path)
    with pytest.raises(dzv.StoreError, match=r"vertices already.*overwrite"):
        write(store, second)
    assert files(tmp_path) == before
    write(store, second, mode="overwrite")
    check_read(store.level(0), second)
    check_read(dzv.open(tmp_path / "s.zv").level(0), second)
    assert store.level(0).read().groups == {}
    assert store.level(0).read().object_attributes == {}
    # the same names as those of a store that never had anything else
    fresh = create(geometry, tmp_path / "t.zv")
    write(fresh, second)
    names = {n for n in directories(tmp_path / "s.zv") if "/c/" not in n}
    assert names == {n for n in directories(tmp_path / "t.zv") if "/c/" not in n}
    again = {k.partition("/")[2] for k in files(tmp_path) if k.startswith("s.zv/")}
    wanted = {k.partition("/")[2] for k in files(tmp_path) if k.startswith("t.zv/")}
    assert again == wanted
    decode(tmp_path / "s.zv")


@pytest.mark.parametrize("geometry", PATHS)
def test_replaced_in_layout_per_chunk(geometry, sync, tmp_path):
    first, second = make(geometry, 16, dense=True), make(geometry, 17, n=20, dense=True)
    store = create(geometry, tmp_path / "s.zv", layout="per_chunk")
    write(store, first)
    second.positions = np.clip(second.positions, 1, 9)  # nothing crosses
    second = second.without("kind")
    write(store, second, mode="overwrite")
    check_read(dzv.open(tmp_path / "s.zv").level(0), second)
    assert files(tmp_path / "s.zv").get("0/cross_chunk_links/0/data/c/0", b"") == b""


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_out_of_bounds(geometry, sync, tmp_path):
    data = make(geometry, 18)
    data.positions[len(data) // 2] = [3, 30.5, 3]
    store = create(geometry, tmp_path / "s.zv", bounds=([-20] * 3, [30] * 3))
    before = files(tmp_path)
    with pytest.raises(dzv.BoundsError, match=r"30\.5.*the store's bounds") as caught:
        write(store, data)
    assert "expand" in str(caught.value)
    with pytest.raises(dzv.InputError, match="out_of_bounds is 'raise' or 'expand'"):
        write(store, data, out_of_bounds="ignore")  # a path or a face without some of its vertices is none
    assert files(tmp_path) == before
    write(store, data, out_of_bounds="expand")
    check_read(store.level(0), data)
    assert np.asarray(store.metadata.bounds).tolist() == [[-20] * 3, [30, 30.5, 30]]
    decode(tmp_path / "s.zv")


def test_positions_are_cast(sync):
    data = make("skeleton", 19)
    store = create("skeleton", dtype="float32")
    write(store, data)
    data.positions = data.positions.astype(np.float32)
    check_read(store.level(0), data)


# -------------------------------------------------------------------------------------------------- many partitions


@pytest.mark.parametrize("named", [False, True], ids=["by number", "vertex_ids"])
@pytest.mark.parametrize("geometry", LINKED)
def test_many_partitions(geometry, named, sync):
    """Links from everywhere to everywhere, in 30 parts, between vertices in 40 partitions."""
    data = make(geometry, 20, n=300, **({} if geometry == "skeleton" else {"links": 400}))
    rng = np.random.default_rng(21)
    rows = tuple(int(n) for n in np.diff([0, *np.sort(rng.integers(0, 301, 39)), 300]))
    names = names_for(data) if named else np.arange(300)

    def cut(values, lengths):
        return da.from_array(values, chunks=(lengths, *values.shape[1:]))

    options = {"object_ids": cut(data.ids, rows), "attributes": {k: cut(v, rows) for k, v in data.attributes.items()}}
    if named:
        options["vertex_ids"] = cut(names, rows)
    store = create(geometry)
    if geometry == "skeleton":
        dzv.write_skeletons(store, cut(data.positions, rows), parents=cut(named_parents(data, names), rows), **options)
    else:
        parts = tuple(int(n) for n in np.diff([0, *np.sort(rng.integers(0, 401, 29)), 400]))
        about = {k: cut(v, parts) for k, v in data.link_attributes.items()}
        write_links(store, data, cut(data.positions, rows), cut(names[data.links], parts), about, **options)
    check_read(store.level(0), data)


def test_a_path_over_all_partitions_and_blocks(sync):
    """One polyline, that visits every chunk many times."""
    data = make("polyline", 22, n=0)
    steps = np.random.default_rng(22).uniform(-15, 24, (500, 3))
    data = Data("polyline", steps, np.full(500, 5), np.array([5]), {"number": np.arange(500)}, np.array([500]), np.array([5]))
    store = create("polyline")
    dzv.write_polylines(
        store, lazily(steps, 13), lengths=[500], object_ids=[5], attributes={"number": lazily(np.arange(500), 13)}
    )
    check_read(store.level(0), data)


# -------------------------------------------------------------------------------------------------- schedulers


def write_all(root, data):
    for geometry in GEOMETRIES:
        for shards in (1, 8) if geometry == "skeleton" else (8,):
            lazy = {k: lazily(v) for k, v in data[geometry].attributes.items()}
            store = create(geometry, root / f"{geometry}-{shards}.zv", shard_chunks=shards)
            if geometry == "line":
                write(store, data[geometry])
            elif geometry in PATHS:
                one = data[geometry]
                dzv.write_polylines(store, lazily(one.positions), lengths=one.lengths, object_ids=one.path_ids, attributes=lazy)
            else:
                one = data[geometry]
                points, ids = lazily(one.positions), lazily(one.ids)
                if geometry == "skeleton":
                    dzv.write_skeletons(store, points, parents=lazily(one.parents), object_ids=ids, attributes=lazy)
                else:
                    links, about = LINK_FORMS["dask"](one.links, one.link_attributes)
                    write_links(store, one, points, links, about, object_ids=ids, attributes=lazy)


@pytest.fixture(scope="module")
def written_synchronously(tmp_path_factory):
    """Return what is written, and every object that was stored."""
    root = tmp_path_factory.mktemp("sync")
    data = {g: make(g, 23, n=60) for g in GEOMETRIES}
    with dask.config.set(scheduler="sync"):
        write_all(root, data)
        for path in sorted(root.iterdir()):
            check_read(dzv.open(path).level(0), data[path.name.partition("-")[0]])
    return data, {p.name: stored(p) for p in root.iterdir()}


@pytest.mark.parametrize("scheduler", ["threads", "processes", "distributed", "in-process cluster"])
def test_the_same_bytes_on_all_schedulers(scheduler, written_synchronously, use_scheduler, tmp_path):
    data, wanted = written_synchronously
    with use_scheduler(scheduler):
        write_all(tmp_path, data)
    for path in sorted(tmp_path.iterdir()):
        found = stored(path)
        assert sorted(found) == sorted(wanted[path.name])
        assert [k for k in found if found[k] != wanted[path.name][k]] == []


# -------------------------------------------------------------------------------------------------- killed workers


@pytest.fixture(scope="module")
def cluster():
    """Two workers, that are replaced when they die."""
    from distributed import LocalCluster

    with LocalCluster(processes=True, n_workers=2, threads_per_worker=2, dashboard_address=":0") as made:
        yield made


def deadly(block, *, trigger, wait_for):
    """Return a block, or kill this worker: once, when the trigger is set, and another task has stored something."""
    if not len(block):  # dask looks at what an empty block becomes
        return block
    try:
        Path(trigger).rename(f"{trigger}.gone")
    except FileNotFoundError:
        return block
    end = time.monotonic() + 3
    while time.monotonic() < end and not any(Path(wait_for).rglob("c")):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
    return block


def write_with_a_death(store, data, trigger):
    """Build a write one of whose partitions kills its worker when the trigger is set."""
    root = Path(store.group.path)
    options = {
        "object_ids": lazily(data.ids),
        "attributes": {k: lazily(v) for k, v in data.attributes.items()},
        "compute": False,
    }
    if data.geometry == "skeleton":
        points = lazily(data.positions).map_blocks(deadly, trigger=trigger, wait_for=root / "0", dtype=float)
        return dzv.write_skeletons(store, points, parents=lazily(data.parents), **options)
    faces = lazily(data.links, 29).map_blocks(deadly, trigger=trigger, wait_for=root / "0" / "vertices", dtype=int)
    about = {k: lazily(v, 29) for k, v in data.link_attributes.items()}
    return dzv.write_meshes(store, lazily(data.positions), faces=faces, face_attributes=about, **options)


@pytest.mark.parametrize("geometry", ["skeleton", "mesh"])
def test_a_killed_worker(geometry, cluster, tmp_path):
    """Its tasks run again elsewhere, and what they store is the same; where they may not, nothing is visible."""
    from distributed import Client, KilledWorker

    trigger = tmp_path / "trigger"
    with Client(cluster) as client:
        for failures in (0, 3) if geometry == "mesh" else (3,):
            data = make(geometry, 30 + failures)  # other data: the scheduler remembers which tasks failed
            target = tmp_path / f"{failures}.zv"
            store = create(geometry, target)
            with dask.config.set({"dask_zv.keep-input": 0}):  # computed in the scan alone, it would not be made again
                planned = write_with_a_death(store, data, str(trigger))
            trigger.touch()
            client.run_on_scheduler(_allow_failures, failures)
            future = client.compute(planned)
            if failures:
                assert future.result(60).rows == len(data)
                check_read(dzv.open(target).level(0), data)
                continue
            with pytest.raises(KilledWorker):
                future.result(60)
            assert not trigger.exists()
            level = dzv.open(target).level(0)
            assert level.metadata.vertex_count == 0
            assert len(level.read()) == 0
            client.wait_for_workers(2, timeout=60)
            write(dzv.open(target, "r+"), data, mode="overwrite")
            check_read(dzv.open(target).level(0), data)


def _allow_failures(number, dask_scheduler):
    dask_scheduler.allowed_failures = number


# -------------------------------------------------------------------------------------------------- stores


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_icechunk(geometry, sync):
    """Nodes before chunks, though which segments of links there are is known last; and over what was there."""
    icechunk = pytest.importorskip("icechunk")
    repository = icechunk.Repository.create(icechunk.in_memory_storage())
    for seed, n in ((25, 60), (26, 20)):
        data = make(geometry, seed, n=n)
        session = repository.writable_session("main")
        store = create(geometry, session) if seed == 25 else dzv.open(session, "r+")
        about = {"object_attributes": {"a": np.arange(len(data.objects))}, "groups": {0: data.objects[:1].tolist()}}
        write(store, data, mode="overwrite", **about)
        check_read(dzv.open(session).level(0), data)
        session.commit("written")
        level = dzv.open(repository.readonly_session("main")).level(0)
        check_read(level, data)
        assert level.read().groups[0].tolist() == data.objects[:1].tolist()


def test_icechunk_in_layout_per_chunk(sync):
    icechunk = pytest.importorskip("icechunk")
    session = icechunk.Repository.create(icechunk.in_memory_storage()).writable_session("main")
    data = make("polyline", 27, n=40, dense=True)
    store = create("polyline", session, layout="per_chunk")
    write(store, data)
    check_read(dzv.open(session).level(0), data)


@pytest.mark.parametrize("geometry", ["skeleton", "mesh"])
def test_s3(geometry, s3_options, tmp_path, sync):
    url = f"s3://contract/{tmp_path.name}-{geometry}.zv"
    data = make(geometry, 28, n=25, **({} if geometry == "skeleton" else {"links": 20}))
    data.positions = np.clip(data.positions, 0, 19)
    store = create(geometry, url, storage_options=s3_options)
    write(store, data)
    check_read(dzv.open(url, storage_options=s3_options).level(0), data)


def test_opened_by_plain_zarr(sync, tmp_path):
    """Every node is there, and every array gives its cells."""
    data = make("graph", 29)
    write(create("graph", tmp_path / "s.zv", shard_chunks=4), data)
    root = zarr.open_group(tmp_path / "s.zv", mode="r", use_consolidated=False)
    arrays = {name: node for name, node in root.members(max_depth=None) if isinstance(node, zarr.Array)}
    plain = decode(tmp_path / "s.zv")
    assert sum(name.startswith("0/links/0/") for name in arrays) == len({r.segment for r in plain.links} | {"0.0.0"})
    cells = arrays["0/vertices"][...]
    origin = arrays["0/vertices"].attrs["chunk_grid_origin"]
    for chunk, rows in plain.chunks.items():
        cell = cells[tuple(c - o for c, o in zip(chunk, origin, strict=True))]
        assert np.frombuffer(cell, np.float64).tobytes() == plain.positions[plain.base(chunk) :][:rows].tobytes()
    assert sum(len(c) for c in cells.ravel()) == data.positions.nbytes


# -------------------------------------------------------------------------------------------------- size of the graph


PARTS, ROWS = 100, 1000
SIDE = 47  # chunks along an axis: about as many as there are rows


def lattice(block_info=None):
    """Return one partition of points that are each in a chunk of their own, in no order."""
    first = block_info[None]["chunk-location"][0] * ROWS
    code = np.arange(first, first + ROWS) * 1_000_003 % SIDE**3
    return np.stack(np.unravel_index(code, (SIDE,) * 3), axis=1) * 10.0 + 5


def near(block_info=None):
    """Return parents of the partition before, or roots."""
    first = block_info[None]["chunk-location"][0] * ROWS
    return np.arange(first, first + ROWS) - ROWS


def anywhere(block_info=None):
    return np.random.default_rng(block_info[None]["chunk-location"][0]).integers(0, PARTS * ROWS, (2 * ROWS, 2))


@pytest.mark.parametrize("geometry", ["polyline", "skeleton", "graph"])
def test_graph_size(geometry, override):
    """10^5 chunks and 100 partitions, each of which has rows everywhere: some thousand tasks, a few MB."""
    override(write_block_chunks=1024, write_block_bytes=(1 << 20, 32 << 20), partition_bytes=32 << 20)
    n = PARTS * ROWS
    points = da.map_blocks(lattice, chunks=((ROWS,) * PARTS, (3,)), dtype=float, meta=np.zeros((0, 3)))
    store = create(geometry)
    with dask.config.set(scheduler="threads", num_workers=2):
        if geometry == "polyline":
            planned = dzv.write_polylines(store, points, lengths=np.full(n // 50, 50), compute=False)
        elif geometry == "skeleton":
            parents = da.map_blocks(near, chunks=((ROWS,) * PARTS,), dtype=int, meta=np.zeros(0, int))
            planned = dzv.write_skeletons(store, points, parents=parents, compute=False)
        else:
            edges = da.map_blocks(anywhere, chunks=((2 * ROWS,) * PARTS, (2,)), dtype=int, meta=np.zeros((0, 2), int))
            planned = dzv.write_graph(store, points, edges=edges, object_ids=da.arange(n, chunks=ROWS) % 1000, compute=False)
    graph = dict(planned.__dask_graph__())
    assert len(graph) < 12_000
    assert len(cloudpickle.dumps(graph, protocol=pickle.HIGHEST_PROTOCOL)) < 10_000_000


# ------------------------------------------------------------------------------------------- columns that are used twice


def test_used_columns_can_be_attributes_too():
    """The user's column is stored as it is, whatever was made of it; without a frame's being lazy making a difference."""
    swc = pd.DataFrame({"node": [10, 20, 30, 40], "parent": [-1, 10, 20, 20], "neuron": 1})
    swc[["x", "y", "z"]] = [[1.0, 1, 1], [9, 9, 9], [12, 9, 9], [9, 14, 9]]
    for table in (swc, dd.from_pandas(swc, npartitions=2)):
        store = dzv.create({}, geometry="skeleton", chunk_shape=(10, 10, 10))
        dzv.write_skeletons(
            store, table, parents="parent", vertex_ids="node", object_ids="neuron", attributes=["parent", "node"]
        )
        found = store.level(0).read()
        order = np.argsort(found.attributes["node"])
        assert found.attributes["parent"][order].tolist() == [-1, 10, 20, 20]
        parents = np.where(found.parents >= 0, found.attributes["node"][found.parents], -1)
        assert parents[order].tolist() == [-1, 10, 20, 20]
        store = dzv.create({}, geometry="skeleton", chunk_shape=(10, 10, 10))
        dzv.write_skeletons(store, table, parents="parent", vertex_ids="node", object_ids="neuron")
        assert not store.level(0).read().attributes


def test_parents_beside_a_frame():
    table = pd.DataFrame({"x": [1.0, 9, 12], "y": [1.0, 9, 9], "z": 1.0})
    store = dzv.create({}, geometry="skeleton", chunk_shape=(10, 10, 10))
    dzv.write_skeletons(store, table, parents=[-1, 0, 1], vertex_ids=None)
    assert store.level(0).read().edges.shape == (2, 2)


@pytest.mark.parametrize("dtype", ["i8", "u8"])
def test_ids_beyond_what_floats_tell_apart(dtype):
    ids = (2**62 + np.arange(5)).astype(dtype)
    edges = np.array([[0, 1], [1, 2], [4, 0]])
    store = dzv.create({}, geometry="graph", chunk_shape=(10, 10))
    dzv.write_graph(store, np.arange(10.0).reshape(5, 2) * 3, edges=ids[edges], vertex_ids=ids, attributes={"n": np.arange(5)})
    found = store.level(0).read()
    assert sorted(found.attributes["n"][found.edges].tolist()) == sorted(edges.tolist())
    with pytest.raises(dzv.InputError, match="18446744073709551615: ids are between"):
        dzv.write_graph(store, np.zeros((1, 2)), edges=np.array([[2**64 - 1, 7]], "u8"), vertex_ids=[7], mode="overwrite")


def test_lazy_unsigned_lengths():
    points = np.arange(15.0).reshape(5, 3)
    store = dzv.create({}, geometry="polyline", chunk_shape=(4, 4, 4))
    dzv.write_polylines(
        store, da.from_array(points, chunks=((2, 3), 3)), lengths=da.from_array(np.array([2, 3], "u8"), chunks=1)
    )
    assert store.level(0).read().lengths.tolist() == [2, 3]


def test_links_name_vertices_by_integers_of_any_dtype(sync):
    points = np.arange(12.0).reshape(4, 3) * 5
    for dtype in ("u1", "u2", "u4", "u8", "i1", "i8", ">u2"):
        names = np.array([40, 10, 30, 20], dtype)
        store = dzv.create({}, geometry="graph", chunk_shape=CHUNK)
        dzv.write_graph(store, points, edges=names[[[0, 1], [2, 3]]], vertex_ids=names, attributes={"name": names})
        graph = store.level(0).read()
        assert sorted(graph.attributes["name"][graph.edges].tolist()) == [[30, 20], [40, 10]]
        store = dzv.create({}, geometry="mesh", chunk_shape=CHUNK)
        dzv.write_meshes(store, points, faces=names[[[0, 1, 3]]], vertex_ids=names, attributes={"name": names})
        mesh = store.level(0).read()
        assert mesh.attributes["name"][mesh.faces].tolist() == [[40, 10, 20]]
        with pytest.raises(dzv.InputError, match="no vertex 41, it is not among vertex_ids"):
            dzv.write_graph(
                dzv.create({}, geometry="graph", chunk_shape=CHUNK), points, edges=names[:2][None] + 1, vertex_ids=names
            )
        with pytest.raises(dzv.InputError, match="parents: there is no vertex 9, "):
            dzv.write_skeletons(
                dzv.create({}, geometry="skeleton", chunk_shape=CHUNK),
                points,
                parents=np.array([9, 10, 10, 10], dtype),
                vertex_ids=names,
            )


def test_a_level_that_is_replaced_by_one_without_links_has_none():
    """The counts of those that were there go as well."""
    points = np.random.default_rng(0).uniform(0, 40, (24, 3))
    edges = np.stack([np.arange(23), np.arange(1, 24)], axis=1)
    faces = np.stack([np.arange(22), np.arange(1, 23), np.arange(2, 24)], axis=1)
    parents = np.where(np.arange(24) % 6, np.arange(24) - 1, -1)
    for geometry, verb, full, none in (
        ("graph", "graph", {"edges": edges, "edge_attributes": {"w": np.arange(23)}}, {"edges": edges[:0]}),
        ("skeleton", "skeletons", {"parents": parents}, {"parents": np.full(24, -1)}),
        ("mesh", "meshes", {"faces": faces}, {"faces": faces[:0]}),
    ):
        write = getattr(dzv, f"write_{verb}")
        for rows in (0, 24):
            store = dzv.create({}, geometry=geometry, chunk_shape=(20, 20, 20))
            write(store, points, **full)
            write(store, points[:rows], mode="overwrite", **{k: v[:rows] for k, v in none.items()})
            found = store.level(0).read()
            assert (len(found.positions), sum(len(v) for v in (found.edges, found.faces) if v is not None)) == (rows, 0)
            write(store, points, mode="overwrite", **full)
            found = store.level(0).read()
            assert sum(len(v) for v in (found.edges, found.faces) if v is not None) == {"graph": 23, "mesh": 22}.get(
                geometry, 20
            )
            if geometry == "graph":
                assert store.level(0).group["link_attributes/w/0"].attrs.to_dict().get("num_links", 23) == 23


@pytest.mark.parametrize("geometry", sorted(GEOMETRIES))
@pytest.mark.filterwarnings("error")
def test_writing_and_reading_warn_of_nothing(tmp_path, sync, geometry):
    """Also not of what zarr thinks of dtypes that the format uses."""
    data = make(geometry)
    store = dzv.create(tmp_path / "s.zv", geometry=geometry, chunk_shape=CHUNK)
    write(store, data)
    check_read(dzv.open(store.url).level(0), data)
    for view in ("spatial", "objects"):
        with xr.open_dataset(store.url, engine="zv", view=view) as ds:
            ds.load()
