"""Lines, polylines, skeletons, graphs and meshes in every form that users have them, and how a write of them behaves."""

import os
import pickle
import signal
import time
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
from forms import lazily, spread, unknown
from geometries_reference import GEOMETRIES, LINKED, PATHS, VERBS, Data, check_linked, check_read, links_of, some_data, write
from layouts import LAYOUTS
from plain_grid import decode
from points_reference import assert_same, directories, files, stored
from small import always, sizes

import dask_zv as dzv

CHUNK = (10.0, 10.0, 10.0)
N = 120
by_number_and_by_name = pytest.mark.parametrize("named", [False, True], ids=["by number", "vertex_ids"])
of_every_geometry = pytest.mark.parametrize("geometry", GEOMETRIES)

_small = always(write_block_chunks=4, write_block_bytes=(2000, 1 << 20), partition_bytes=3000)


@pytest.fixture(autouse=True)
def _sync():
    with dask.config.set(scheduler="sync"):
        yield


def make(geometry, seed=0, n=N, **options) -> Data:
    """Return a geometry with a few objects, in some dozen chunks; meshes in eight, for all ways to lie across some of them."""
    data = some_data(np.random.default_rng(seed), geometry, n, CHUNK, **options)
    data.positions = np.clip(data.positions, -9.5, 9.5 if geometry == "mesh" else 19.5)
    return data


def create(geometry, target=None, **options):
    return dzv.create({} if target is None else target, geometry=geometry, chunk_shape=CHUNK, **options)


def cut(values, chunks):
    return da.from_array(values, chunks=(chunks, *np.shape(values)[1:]))


def cut_across(values, chunks):
    """Return a dask array that is cut along all of its axes."""
    return da.from_array(values, chunks=(chunks, *(1 for _ in np.shape(values)[1:])))


def each(of, columns, *more):
    return {k: of(v, *more) for k, v in columns.items()}


def table(data, **columns):
    """Return a DataFrame of the vertices, with all attributes that fit into columns."""
    return pd.DataFrame({**dict(zip("xyz", data.positions.T, strict=True)), **data.without("rgb").attributes, **columns})


# -------------------------------------------------------------------------------------------------- forms


def polyline_forms(data):
    """Return the arguments of ``write_polylines`` by the name of the form."""
    points, lengths, ids = data.positions, data.lengths, data.path_ids
    ends = np.cumsum(lengths)[:-1]
    whole = {"attributes": data.attributes, "object_ids": ids}
    # partitions of whole polylines, the lengths of each computed when they are wanted
    rows = tuple(int(lengths[i : i + 3].sum()) for i in range(0, len(lengths), 3))
    by_paths = each(cut, {**data.attributes, "": points}, rows)
    counts = da.from_array(lengths, chunks=3).map_blocks(lambda b: b + 0, dtype=np.int64)
    no_sizes = {
        k: v.map_blocks(lambda b: b, dtype=v.dtype, chunks=((np.nan,) * len(rows), *v.chunks[1:])) for k, v in by_paths.items()
    }
    own = {"object_ids": [int(i) for i, c in zip(ids, lengths, strict=True) if c]}
    parts = {k: [v for v in np.split(a, ends) if len(v)] for k, a in data.attributes.items()}
    frame = table(data, who=data.ids)
    return {
        "numpy": (points, {"lengths": lengths, **whole}),
        "lists of integers": (points, {**whole, "lengths": lengths.tolist(), "object_ids": ids.tolist()}),
        "an id for each vertex": (points, {"object_ids": data.ids, "attributes": data.attributes}),
        "list of arrays": (np.split(points, ends), whole),
        "list of lists": ([p.tolist() for p in np.split(points, ends) if len(p)], {**own, "attributes": parts}),
        "dask": (lazily(points), {**whole, "lengths": lengths, "attributes": each(lazily, data.attributes)}),
        "dask, attributes in memory": (lazily(points), {"lengths": lengths, **whole}),
        "dask, cut across": (cut_across(points, 13), {"lengths": lengths, **whole}),
        "unknown, ids of vertices": (unknown(points), {"object_ids": unknown(data.ids), "attributes": each(unknown, data.attributes)}),
        "lazy lengths": (by_paths.pop(""), {"lengths": counts, "object_ids": ids, "attributes": by_paths}),
        "lazy lengths, unknown positions": (
            no_sizes.pop(""), {"lengths": counts, "object_ids": da.from_array(ids, chunks=2), "attributes": no_sizes},
        ),
        "pandas": (frame, {"object_ids": "who"}),
        "dask dataframe": (spread(frame), {"object_ids": "who"}),
    }  # fmt: skip


@pytest.mark.parametrize("form", list(polyline_forms(make("polyline"))))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_forms_of_polylines(form, layout):
    data = make("polyline", 3, dense=layout == "per_chunk", empty=layout == "grid")
    positions, options = polyline_forms(data)[form]
    store = create("polyline", layout=layout)
    dzv.write_polylines(store, positions, **options)
    data = data.without("rgb") if hasattr(positions, "columns") else data
    if "lengths" not in options and form != "list of arrays":
        data.objects = np.unique(data.ids)
    check_read(store.level(0), data)


def test_ids_are_numbers_where_none_are_given():
    data = make("polyline", 4)
    whole = {"lengths": da.from_array(data.lengths, chunks=-1)}
    for positions, options in (
        (data.positions, {"lengths": data.lengths}),
        (np.split(data.positions, np.cumsum(data.lengths)[:-1]), {}),
        (lazily(data.positions), {"lengths": data.lengths}),
        (da.from_array(data.positions, chunks=(-1, -1)), whole),
    ):
        store = create("streamline")
        dzv.write_polylines(store, positions, **options)
        geometry = store.level(0).read()
        assert geometry.ids.tolist() == list(range(len(data.lengths)))
        assert geometry.lengths.tolist() == data.lengths.tolist()
        assert_same(geometry.positions, data.positions)


LINE_FORMS = {
    "numpy": lambda e, p, t: (e, p),
    "nested lists": lambda e, p, t: (e.tolist(), {k: p[k].tolist() for k in ("number", "kind")}),
    "dask": lambda e, p, t: (lazily(e), each(lazily, p)),
    "dask, attributes in memory": lambda e, p, t: (lazily(e), p),
    "dask, cut across": lambda e, p, t: (cut_across(e, 7), each(cut_across, p, 7)),
    "pandas": lambda e, p, t: (t, None),
    "dask dataframe": lambda e, p, t: (spread(t), None),  # lines on both sides of a partition's end
}


@pytest.mark.parametrize("form", LINE_FORMS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_forms_of_lines(form, layout):
    data = make("line", 5, dense=layout == "per_chunk")
    pairs = {k: v.reshape(-1, 2, *v.shape[1:]) for k, v in data.attributes.items()}
    ends, attributes = LINE_FORMS[form](data.positions.reshape(-1, 2, 3), pairs, table(data, who=data.ids))
    store = create("line", layout=layout)
    ids = "who" if attributes is None else data.path_ids.tolist() if "lists" in form else data.path_ids
    dzv.write_lines(store, ends, attributes=attributes, object_ids=ids)
    check_read(store.level(0), data.without("rgb", *(["f"] if "lists" in form else [])) if ids is not data.path_ids else data)


def test_a_frame_stores_the_columns_it_is_asked_for():
    data = make("polyline", 6).without("rgb")
    data.objects = np.unique(data.ids)
    store = create("polyline")
    dzv.write_polylines(store, table(data, who=data.ids, more=data.ids), object_ids="who", attributes=["number", "kind"])
    check_read(store.level(0), data.without("f"))


def names_for(data):
    """Return ids for the vertices: large, distinct, in no order."""
    return 10**12 + 7 * np.random.default_rng(9).permutation(len(data))


def named_parents(data, names):
    return np.where(data.parents < 0, data.parents, names[np.maximum(data.parents, 0)])


FORMS = {"numpy": np.asarray, "lists": lambda v: v.tolist(), "dask": lazily, "unknown": unknown}
TABLES = {"pandas": lambda t: t, "dask dataframe": spread}


def vertices_in(form, data, names, **columns):
    """Return positions and options of the vertices in a form, with ids of their own where there are names; and the data told."""
    columns |= {} if names is None else {"vertex_ids": names}
    if form in TABLES:
        options = {"object_ids": "object_ids", **{k: k for k in columns}}
        return TABLES[form](table(data, object_ids=data.ids, **columns)), options, data.without("rgb")
    of = FORMS[form]
    attributes = data.attributes if form == "lists" else each(of, data.attributes)
    return of(data.positions), {**each(of, {"object_ids": data.ids, **columns}), "attributes": attributes}, data


SKELETON_FORMS = [(form, named) for form in ("numpy", "dask", "unknown", *TABLES) for named in (False, True)]


@pytest.mark.parametrize(("form", "named"), [*SKELETON_FORMS, ("lists", False)])
def test_forms_of_skeletons(form, named):
    data = make("skeleton", 7)
    names = names_for(data) if named else None
    parents = data.parents if names is None else named_parents(data, names)
    positions, options, told = vertices_in(form, data, names, parents=parents)
    store = create("skeleton")
    dzv.write_skeletons(store, positions, **options)
    check_read(store.level(0), told)


@by_number_and_by_name
def test_skeletons_of_which_only_positions_are_lazy(named):
    data = make("skeleton", 7)
    names = names_for(data)
    own = {"parents": named_parents(data, names), "vertex_ids": names} if named else {"parents": data.parents}
    for ids in (data.ids, data.ids.astype("u8")):
        store = create("skeleton")
        attributes = each(lazily, data.attributes)
        dzv.write_skeletons(store, lazily(data.positions), attributes=attributes, object_ids=ids, **own)
        check_read(store.level(0), data)


def link_table(links, about):
    columns = ["source", "target"] if links.shape[1] == 2 else [f"v{i}" for i in range(links.shape[1])]
    return pd.DataFrame({**dict(zip(columns, links.T, strict=True)), **{k: v for k, v in about.items() if v.ndim == 1}})


LINK_FORMS = {
    "numpy": lambda t, a: (t, a),
    "lists": lambda t, a: (t.tolist(), {k: v.tolist() for k, v in a.items() if k == "number"}),
    "small integers": lambda t, a: (t.astype("u2") if t.max(initial=0) < 2**16 else t, a),
    "dask": lambda t, a: (lazily(t, 29), each(lazily, a, 29)),
    "dask, attributes in memory": lambda t, a: (lazily(t, 29), a),
    "dask, cut across": lambda t, a: (cut_across(t, 31), each(cut_across, a, 31)),
    "dask, attributes cut otherwise": lambda t, a: (lazily(t, 29), each(lazily, a, 37)),
    "unknown": lambda t, a: (unknown(t, 29), each(unknown, a, 29)),
    "pandas": lambda t, a: (link_table(t, a), None),
    "dask dataframe": lambda t, a: (spread(link_table(t, a), 4), None),
}
VERTEX_FORMS = ("numpy", "dask", "unknown", "pandas", "dask dataframe")


def write_links(store, data, positions, links, about, **options):
    if data.geometry == "graph":
        return dzv.write_graph(store, positions, edges=links, edge_attributes=about, directed=data.directed, **options)
    return dzv.write_meshes(store, positions, faces=links, face_attributes=about, **options)


# every form of links with vertices in memory, every form of vertices with links in memory, and some both lazy
@pytest.mark.parametrize(
    ("vertices", "links"),
    [
        *((v, "numpy") for v in VERTEX_FORMS),
        *(("numpy", f) for f in LINK_FORMS if f != "numpy"),
        *((f, f) for f in ("unknown", "dask dataframe")),
    ],
)
@by_number_and_by_name
def test_forms_of_graphs_and_meshes(vertices, links, named):
    geometry = "graph" if (len(vertices) + len(links)) % 2 else "mesh"
    data = make(geometry, len(vertices) + 5 * len(links))
    data.directed = geometry == "graph" and "dask" in links
    names = names_for(data) if named else None
    given, about = LINK_FORMS[links](data.links if names is None else names[data.links], data.link_attributes)
    positions, options, told = vertices_in(vertices, data, names)
    store = create(geometry)
    write_links(store, data, positions, given, about, **options)
    told.link_attributes = {k: v for k, v in data.link_attributes.items() if (v.ndim == 1 if about is None else k in about)}
    check_read(store.level(0), told)


def test_without_objects_all_is_object_0():
    for geometry in LINKED:
        data = make(geometry, 11)
        data.ids, data.objects = np.zeros(len(data), np.int64), np.zeros(1, np.int64)
        store = create(geometry)
        write(store, data, object_ids=None)
        check_read(store.level(0), data)
        check_linked(store.level(0).read(objects=0), data)


@pytest.mark.parametrize("width", [3, 4, 5, 8, 16])
def test_faces_of_any_width(width):
    data = make("mesh", width, n=60, width=width, links=40)
    target = {}
    store = create("mesh", target, compressor=None)
    write(store, data)
    check_read(store.level(0), data)
    plain = decode(target)
    numbers = [int(r.attributes["number"]) for r in plain.links]
    assert [plain.attributes["number"][list(r.ends)].tolist() for r in plain.links] == data.links[numbers].tolist()


def test_empty_tables_of_links():
    data = make("graph", 12, n=30, links=0)
    data.link_attributes = {}
    frame = pd.DataFrame({"source": [], "target": []}, dtype=int)
    for edges in (np.zeros((0, 2), int), [], da.zeros((0, 2), dtype=int, chunks=(1, 2)), frame):
        store = create("graph")
        write(store, data, edges=edges)
        check_read(store.level(0), data)


# -------------------------------------------------------------------------------------------------- how a write behaves


def test_writes_join_a_larger_compute():
    """compute=False stores nothing; several writes, and other work, are one graph."""
    data = {g: make(g, 13) for g in GEOMETRIES}
    stores = {g: create(g) for g in GEOMETRIES}
    parts = [write(stores[g], data[g], compute=False) for g in GEOMETRIES]
    assert {(s.level(0).metadata.vertex_count, len(s.level(0).read())) for s in stores.values()} == {(0, 0)}
    *reports, total = dask.compute(*parts, da.ones(10, chunks=3).sum())
    assert total == 10
    for geometry, report in zip(GEOMETRIES, reports, strict=True):
        assert (report.rows, report.objects) == (len(data[geometry]), len(data[geometry].objects))
        stores[geometry]._contents.reload()
        check_read(stores[geometry].level(0), data[geometry])


@of_every_geometry
def test_a_second_write_is_refused_or_replaces(geometry, tmp_path):
    """Nothing of the first is left: no chunk, attribute, segment, object or group."""
    first, second = make(geometry, 14), make(geometry, 15, n=20).without("rgb", "kind")
    second.positions = np.clip(second.positions, 0, 9)
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
    for level in (store.level(0), dzv.open(tmp_path / "s.zv").level(0)):
        check_read(level, second)
        assert level.read().groups == level.read().object_attributes == {}
    # the same names as those of a store that never had anything else
    write(create(geometry, tmp_path / "t.zv"), second)
    one, two = ({n for n in directories(tmp_path / s) if "/c/" not in n} | set(files(tmp_path / s)) for s in ("s.zv", "t.zv"))
    assert one == two
    decode(tmp_path / "s.zv")


@pytest.mark.parametrize("geometry", PATHS)
def test_replaced_in_layout_per_chunk(geometry, tmp_path):
    first, second = make(geometry, 16, dense=True), make(geometry, 17, n=20, dense=True).without("kind")
    second.positions = np.clip(second.positions, 1, 9)  # nothing crosses
    store = create(geometry, tmp_path / "s.zv", layout="per_chunk")
    write(store, first)
    write(store, second, mode="overwrite")
    check_read(dzv.open(tmp_path / "s.zv").level(0), second)
    assert files(tmp_path / "s.zv").get("0/cross_chunk_links/0/data/c/0", b"") == b""


@of_every_geometry
def test_out_of_bounds(geometry, tmp_path):
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


def test_positions_are_cast():
    data = make("skeleton", 19)
    store = create("skeleton", dtype="float32")
    write(store, data)
    data.positions = data.positions.astype(np.float32)
    check_read(store.level(0), data)


@by_number_and_by_name
@pytest.mark.parametrize("geometry", LINKED)
def test_many_partitions(geometry, named):
    """Links from everywhere to everywhere, in 30 parts, between vertices in 40 partitions."""
    data = make(geometry, 20, n=300, **({} if geometry == "skeleton" else {"links": 400}))
    rng = np.random.default_rng(21)
    rows, parts = (tuple(np.diff([0, *np.sort(rng.integers(0, n + 1, k)), n]).tolist()) for n, k in ((300, 39), (400, 29)))
    options = {}
    if named:
        names = names_for(data)
        options = {"vertex_ids": cut(names, rows)}
        if geometry == "skeleton":
            options["parents"] = cut(named_parents(data, names), rows)
        else:
            options["edges" if geometry == "graph" else "faces"] = cut(names[data.links], parts)
    store = create(geometry)
    write(store, data, lambda v: cut(v, rows), lambda v: cut(v, parts), **options)
    check_read(store.level(0), data)


def test_a_path_over_all_partitions_and_blocks():
    """One polyline, that visits every chunk many times."""
    steps = np.random.default_rng(22).uniform(-15, 24, (500, 3))
    data = Data("polyline", steps, np.full(500, 5), np.array([5]), {"number": np.arange(500)}, np.array([500]), np.array([5]))
    store = create("polyline")
    write(store, data, lambda v: lazily(v, 13))
    check_read(store.level(0), data)


def write_all(root, data):
    for geometry in GEOMETRIES:
        for shards in (1, 8) if geometry == "skeleton" else (8,):
            store = create(geometry, root / f"{geometry}-{shards}.zv", shard_chunks=shards)
            write(store, data[geometry], np.asarray if geometry == "line" else lazily, lambda v: lazily(v, 29))


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
    """Plan a write one of whose partitions kills its worker when the trigger is set."""
    level = Path(store.group.path) / "0"
    if data.geometry == "skeleton":
        deaths = lazily(data.positions).map_blocks(deadly, trigger=trigger, wait_for=level, dtype=float)
        return dzv.write_skeletons(
            store, deaths, parents=lazily(data.parents), object_ids=lazily(data.ids), attributes=each(lazily, data.attributes),
            compute=False,
        )  # fmt: skip
    faces = lazily(data.links, 29).map_blocks(deadly, trigger=trigger, wait_for=level / "vertices", dtype=int)
    return write(store, data, lazily, lambda v: lazily(v, 29), faces=faces, compute=False)


@pytest.mark.parametrize("geometry", ["skeleton", "mesh"])
@pytest.mark.filterwarnings("ignore:the level is empty")
def test_a_killed_worker(geometry, cluster, tmp_path):
    """Its tasks run again elsewhere, and what they store is the same; where they may not, nothing is visible."""
    from distributed import Client, KilledWorker

    trigger = tmp_path / "trigger"
    with Client(cluster) as client:
        for failures in (0, 3) if geometry == "mesh" else (3,):
            data = make(geometry, 30 + failures)  # other data: the scheduler remembers which tasks failed
            target = tmp_path / f"{failures}.zv"
            with dask.config.set({"dask_zv.keep-input": 0}):  # computed in the scan alone, it would not be made again
                planned = write_with_a_death(create(geometry, target), data, str(trigger))
            trigger.touch()
            client.run_on_scheduler(_allow_failures, failures)
            future = client.compute(planned)
            if failures:
                assert future.result(60).rows == len(data)
            else:
                with pytest.raises(KilledWorker):
                    future.result(60)
                assert not trigger.exists()
                level = dzv.open(target).level(0)
                assert level.metadata.vertex_count == len(level.read()) == 0
                client.wait_for_workers(2, timeout=60)
                write(dzv.open(target, "r+"), data, mode="overwrite")
            check_read(dzv.open(target).level(0), data)


def _allow_failures(number, dask_scheduler):
    dask_scheduler.allowed_failures = number


# -------------------------------------------------------------------------------------------------- stores


@pytest.mark.parametrize(("geometry", "layout"), [*((g, "grid") for g in GEOMETRIES), ("polyline", "per_chunk")])
def test_icechunk(geometry, layout):
    """Nodes before chunks, though which segments of links there are is known last; and over what was there."""
    icechunk = pytest.importorskip("icechunk")
    repository = icechunk.Repository.create(icechunk.in_memory_storage())
    for seed, n in ((25, 60), (26, 20)):
        data = make(geometry, seed, n=n, dense=layout == "per_chunk")
        session = repository.writable_session("main")
        store = create(geometry, session, layout=layout) if seed == 25 else dzv.open(session, "r+")
        about = {"object_attributes": {"a": np.arange(len(data.objects))}, "groups": {0: data.objects[:1].tolist()}}
        write(store, data, mode="overwrite", **about)
        check_read(dzv.open(session).level(0), data)
        session.commit("written")
        level = dzv.open(repository.readonly_session("main")).level(0)
        check_read(level, data)
        assert level.read().groups[0].tolist() == data.objects[:1].tolist()


@pytest.mark.parametrize("geometry", ["skeleton", "mesh"])
def test_s3(geometry, s3_options, tmp_path):
    url = f"s3://contract/{tmp_path.name}-{geometry}.zv"
    data = make(geometry, 28, n=25, **({} if geometry == "skeleton" else {"links": 20}))
    data.positions = np.clip(data.positions, 0, 19)
    write(create(geometry, url, storage_options=s3_options), data)
    check_read(dzv.open(url, storage_options=s3_options).level(0), data)


def test_opened_by_plain_zarr(tmp_path):
    """Every node is there, and every array gives its cells."""
    data = make("graph", 29)
    write(create("graph", tmp_path / "s.zv", shard_chunks=4), data)
    root = zarr.open_group(tmp_path / "s.zv", mode="r", use_consolidated=False)
    arrays = {name: node for name, node in root.members(max_depth=None) if isinstance(node, zarr.Array)}
    plain = decode(tmp_path / "s.zv")
    assert sum(name.startswith("0/links/0/") for name in arrays) == len({r.segment for r in plain.links} | {"0.0.0"})
    cells, origin = arrays["0/vertices"][...], arrays["0/vertices"].attrs["chunk_grid_origin"]
    for chunk, rows in plain.chunks.items():
        cell = cells[tuple(c - o for c, o in zip(chunk, origin, strict=True))]
        assert np.frombuffer(cell, np.float64).tobytes() == plain.positions[plain.base(chunk) :][:rows].tobytes()
    assert sum(len(c) for c in cells.ravel()) == data.positions.nbytes


@of_every_geometry
@pytest.mark.filterwarnings("error")
def test_writing_and_reading_warn_of_nothing(tmp_path, geometry):
    """Also not of what zarr thinks of dtypes that the format uses."""
    data = make(geometry)
    store = create(geometry, tmp_path / "s.zv")
    write(store, data)
    check_read(dzv.open(store.url).level(0), data)
    for view in ("spatial", "objects"):
        with xr.open_dataset(store.url, engine="zv", view=view) as ds:
            ds.load()


PARTS, ROWS = 100, 1000
SIDE = 47  # chunks along an axis: about as many as there are rows


def lattice(block_info=None):
    """Return one partition of points that are each in a chunk of their own, in no order."""
    first = block_info[None]["chunk-location"][0] * ROWS
    code = np.arange(first, first + ROWS) * 1_000_003 % SIDE**3
    return np.stack(np.unravel_index(code, (SIDE,) * 3), axis=1) * 10.0 + 5


def anywhere(block_info=None):
    return np.random.default_rng(block_info[None]["chunk-location"][0]).integers(0, PARTS * ROWS, (2 * ROWS, 2))


@pytest.mark.parametrize("geometry", ["polyline", "skeleton", "graph"])
def test_graph_size(geometry):
    """10^5 chunks and 100 partitions, each of which has rows everywhere: some thousand tasks, a few MB."""
    n = PARTS * ROWS
    points = da.map_blocks(lattice, chunks=((ROWS,) * PARTS, (3,)), dtype=float, meta=np.zeros((0, 3)))
    options = {
        "polyline": {"lengths": np.full(n // 50, 50)},
        "skeleton": {"parents": da.arange(n, chunks=ROWS) - ROWS},  # those of the partition before, or roots
        "graph": {
            "edges": da.map_blocks(anywhere, chunks=((2 * ROWS,) * PARTS, (2,)), dtype=int, meta=np.zeros((0, 2), int)),
            "object_ids": da.arange(n, chunks=ROWS) % 1000,
        },
    }[geometry]
    usual = {"write_block_chunks": 1024, "write_block_bytes": (1 << 20, 32 << 20)}
    with sizes(scheduler="threads", **usual, partition_bytes=32 << 20):
        planned = VERBS[geometry](create(geometry), points, **options, compute=False)
    graph = dict(planned.__dask_graph__())
    assert len(graph) < 12_000
    assert len(cloudpickle.dumps(graph, protocol=pickle.HIGHEST_PROTOCOL)) < 10_000_000


# -------------------------------------------------------------------------------------------------- what links and columns name


def test_used_columns_can_be_attributes_too():
    """The user's column is stored as it is, whatever was made of it; without a frame's being lazy making a difference."""
    swc = pd.DataFrame({"node": [10, 20, 30, 40], "parent": [-1, 10, 20, 20], "neuron": 1})
    swc[["x", "y", "z"]] = [[1.0, 1, 1], [9, 9, 9], [12, 9, 9], [9, 14, 9]]
    used = {"parents": "parent", "vertex_ids": "node", "object_ids": "neuron"}
    for given in (swc, dd.from_pandas(swc, npartitions=2)):
        store = create("skeleton")
        dzv.write_skeletons(store, given, **used, attributes=["parent", "node"])
        found = store.level(0).read()
        node, order = found.attributes["node"], np.argsort(found.attributes["node"])
        assert found.attributes["parent"][order].tolist() == [-1, 10, 20, 20]
        assert np.where(found.parents >= 0, node[found.parents], -1)[order].tolist() == [-1, 10, 20, 20]
        store = create("skeleton")
        dzv.write_skeletons(store, given, **used)
        assert not store.level(0).read().attributes


def test_parents_beside_a_frame():
    store = create("skeleton")
    frame = pd.DataFrame({"x": [1.0, 9, 12], "y": [1.0, 9, 9], "z": 1.0})
    dzv.write_skeletons(store, frame, parents=[-1, 0, 1], vertex_ids=None)
    assert store.level(0).read().edges.shape == (2, 2)


@pytest.mark.parametrize("dtype", ["i8", "u8"])
def test_ids_beyond_what_floats_tell_apart(dtype):
    ids = (2**62 + np.arange(5)).astype(dtype)
    edges, points = np.array([[0, 1], [1, 2], [4, 0]]), np.arange(15.0).reshape(5, 3) * 3
    store = create("graph")
    dzv.write_graph(store, points, edges=ids[edges], vertex_ids=ids, attributes={"n": np.arange(5)})
    found = store.level(0).read()
    assert sorted(found.attributes["n"][found.edges].tolist()) == sorted(edges.tolist())
    with pytest.raises(dzv.InputError, match="18446744073709551615: ids are between"):
        dzv.write_graph(store, points[:1], edges=np.array([[2**64 - 1, 7]], "u8"), vertex_ids=[7], mode="overwrite")


def test_lazy_unsigned_lengths():
    store = create("polyline")
    lengths = da.from_array(np.array([2, 3], "u8"), chunks=1)
    dzv.write_polylines(store, da.from_array(np.arange(15.0).reshape(5, 3), chunks=((2, 3), 3)), lengths=lengths)
    assert store.level(0).read().lengths.tolist() == [2, 3]


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "i1", "i8", ">u2"])
def test_links_name_vertices_by_integers_of_any_dtype(dtype):
    points, names = np.arange(12.0).reshape(4, 3) * 5, np.array([40, 10, 30, 20], dtype)
    for geometry, links, wanted in (
        ("graph", {"edges": names[[[0, 1], [2, 3]]]}, [[30, 20], [40, 10]]),
        ("mesh", {"faces": names[[[0, 1, 3]]]}, [[40, 10, 20]]),
    ):
        store = create(geometry)
        VERBS[geometry](store, points, **links, vertex_ids=names, attributes={"name": names})
        found = store.level(0).read()
        assert sorted(found.attributes["name"][links_of(found)[0]].tolist()) == wanted
    for geometry, links, match in (
        ("graph", {"edges": names[:2][None] + 1}, "no vertex 41, it is not among vertex_ids"),
        ("skeleton", {"parents": np.array([9, 10, 10, 10], dtype)}, "parents: there is no vertex 9, "),
    ):
        with pytest.raises(dzv.InputError, match=match):
            VERBS[geometry](create(geometry), points, **links, vertex_ids=names)


def test_a_level_that_is_replaced_by_one_without_links_has_none():
    """The counts of those that were there go as well."""
    points, n = np.random.default_rng(0).uniform(0, 40, (24, 3)), np.arange(24)
    chains = {k: np.stack([n[i : 24 - k + i + 1] for i in range(k)], axis=1) for k in (2, 3)}
    for geometry, full, none, count in (
        ("graph", {"edges": chains[2], "edge_attributes": {"w": n[:23]}}, {"edges": chains[2][:0]}, 23),
        ("skeleton", {"parents": np.where(n % 6, n - 1, -1)}, {"parents": np.full(24, -1)}, 20),
        ("mesh", {"faces": chains[3]}, {"faces": chains[3][:0]}, 22),
    ):
        for rows in (0, 24):
            store = create(geometry)
            for positions, links, wanted in ((points, full, count), (points[:rows], none, 0), (points, full, count)):
                links = {k: v[: len(positions)] for k, v in links.items()} if links is none else links
                VERBS[geometry](store, positions, **links, mode="overwrite")
                found = store.level(0).read()
                assert (len(found), len(links_of(found)[0])) == (len(positions), wanted)
            if geometry == "graph":
                assert store.level(0).group["link_attributes/w/0"].attrs.to_dict().get("num_links", 23) == 23
