"""Real neurons come back as they are in their files: from memory and from Dask DataFrames, on threads and on a cluster.

Chunks are small beside a neuron, so that every tree, and thousands of edges and faces, cross chunks, blocks and partitions.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from hemibrain import NEURONS, Table, area, cable, frame_of, frame_of_faces, meshes, skeletons, synapses

import dask_zv as dzv
from dask_zv.config import override

CHUNK = (700, 700, 700)  # voxels; the neurons are some 20,000 x 26,000 x 18,000
PACKED = (16, 16, 16)
WAYS = [
    pytest.param(("memory", "threads", PACKED), id="memory-threads-packed"),
    pytest.param(("memory", "distributed", PACKED), id="memory-distributed-packed"),
    pytest.param(("frames", "threads", 1), id="frames-threads-single"),
    pytest.param(("frames", "distributed", PACKED), id="frames-distributed-packed"),
]
BOX = ((3500, 20000, 12000), (7500, 24000, 18000))
ABOUT = pd.DataFrame({"cable": [2197.6, 2292.2, 2330.1], "side": ["R", "R", "R"]}, index=list(NEURONS))
GROUPS = {0: list(NEURONS), 1: [NEURONS[2], NEURONS[1]]}
KINDS = ("skeleton", "mesh", "point_cloud")


@dataclass(frozen=True)
class Written:
    """The three stores, and what writing them reported."""

    levels: dict[str, dzv.Level]
    reports: dict[str, dzv.Report]


@pytest.fixture(scope="module", params=WAYS)
def written(request, tmp_path_factory, cluster_client):
    """The three stores, written in one of the ways; reading below is on the threads of this process."""
    source, scheduler, shards = request.param
    folder = tmp_path_factory.mktemp("neurons")
    with override(write_block_chunks=100, partition_bytes=250_000), cluster_client(scheduler):
        # many blocks and partitions of little data; both are planned in this process, whatever the scheduler
        reports = {kind: write(kind, folder / kind, source, shards) for kind in KINDS}
    return Written({kind: dzv.open(folder / kind).level(0) for kind in KINDS}, reports)


@pytest.fixture(scope="module")
def cluster_client(request):
    """Return a context in which a scheduler is active: the module's stores are written once, not for every test."""
    import dask
    from distributed import Client

    def use(name: str) -> Any:
        if name == "distributed":
            return Client(request.getfixturevalue("process_cluster"))
        return dask.config.set(scheduler=name)

    return use


def write(kind: str, path: Any, source: str, shards: Any) -> dzv.Report:
    dtype = None if kind == "point_cloud" else "float32"
    store = dzv.create(path, geometry=kind, chunk_shape=CHUNK, axes=["x", "y", "z"], dtype=dtype, shard_chunks=shards)
    about: dict[str, Any] = {
        "object_attributes": ABOUT,
        "groups": GROUPS,
        "group_attributes": pd.DataFrame({"size": [3, 2]}, index=list(GROUPS)),
    }
    table = {"skeleton": skeletons, "mesh": meshes, "point_cloud": synapses}[kind]()
    names = list(table.columns)
    if source == "frames":
        frame, about["object_ids"] = frame_of(table), "neuron"
        if kind == "skeleton":
            return dzv.write_skeletons(store, frame, parents="parent", vertex_ids="name", attributes=names, **about)
        if kind == "mesh":
            return dzv.write_meshes(store, frame, faces=frame_of_faces(table), vertex_ids="name", attributes=[], **about)
        return dzv.write_points(store, frame, attributes=names, **about)
    about |= {"object_ids": table.neurons, "attributes": table.columns}
    if kind == "skeleton":
        return dzv.write_skeletons(store, table.positions, parents=table.links, vertex_ids=table.names, **about)
    if kind == "mesh":
        number = {"number": np.arange(len(table.links))}
        faces = {"faces": table.links, "face_attributes": number, "vertex_ids": table.names}
        return dzv.write_meshes(store, table.positions, **faces, **about)
    return dzv.write_points(store, table.positions, **about)


def rows_in_file(table: Table, read: dzv.Geometry) -> np.ndarray:
    """Return the file's row of each vertex that was read, found by its position and its neuron, which name it."""
    wanted = names_of(table.positions.astype(read.positions.dtype), table.neurons)
    order = np.argsort(wanted)
    assert len(np.unique(wanted)) == len(wanted)
    found = names_of(read.positions, read.object_ids)
    at = order[np.minimum(np.searchsorted(wanted, found, sorter=order), len(order) - 1)]
    assert (wanted[at] == found).all()
    assert len(np.unique(at)) == len(at)
    return at


def names_of(positions: np.ndarray, neurons: np.ndarray) -> np.ndarray:
    """Return position and neuron of each vertex as one string of bytes."""
    columns = np.concatenate([positions.astype(">f8").view(np.uint8), neurons.astype(">i8")[:, None].view(np.uint8)], axis=1)
    return np.ascontiguousarray(columns).view(f"V{columns.shape[1]}").reshape(-1)


def same_rows(a: np.ndarray, b: np.ndarray) -> bool:
    """Tell whether two tables have the same rows, in whatever order, and each as often."""
    return np.array_equal(a[np.lexsort(a.T)], b[np.lexsort(b.T)])


def tree_edges(table: Table) -> np.ndarray:
    """Return (child, parent) by the file's rows."""
    parents = table.rows_of_links
    return np.stack([np.arange(len(parents)), parents], axis=1)[parents >= 0]


def in_box(positions: np.ndarray) -> np.ndarray:
    return ((positions >= BOX[0]) & (positions <= BOX[1])).all(axis=1)


def test_the_neurons_cross_many_chunks_and_blocks(written):
    for kind, report in written.reports.items():
        assert report.chunks > 200, kind
        assert report.blocks > 1, kind
        assert report.objects == 3, kind
    edges = written.levels["skeleton"].links()
    assert len(edges) > 1000  # across chunks, or not told by the order of nodes
    faces = written.levels["mesh"].links()
    assert len(faces) == 40_881
    assert (np.ptp(faces.chunks, axis=1).max(axis=1) > 0).sum() > 5000


@pytest.mark.parametrize("neuron", [None, NEURONS[2]])  # the last is of two trees
def test_skeletons(written, neuron):
    table = skeletons()
    read = written.levels["skeleton"].read(objects=neuron)
    rows = rows_in_file(table, read)
    mine = np.arange(len(table.names)) if neuron is None else np.flatnonzero(table.neurons == neuron)
    assert sorted(rows) == mine.tolist()

    edges = tree_edges(table)
    edges = edges[np.isin(edges[:, 0], mine)]
    assert same_rows(rows[read.edges], edges)
    assert (read.edges[:, 0] == np.flatnonzero(read.parents >= 0)).all()  # ascending by child
    assert (read.parents[read.edges[:, 0]] == read.edges[:, 1]).all()
    assert sorted(rows[read.parents < 0]) == [r for r in mine if table.links[r] < 0]
    assert cable(read.positions, read.edges) == pytest.approx(cable(table.positions, edges), rel=1e-6)  # stored as float32
    for name, values in table.columns.items():
        assert read.attributes[name].dtype == values.dtype
        assert (read.attributes[name] == values[rows]).all()


@pytest.mark.parametrize("neuron", [None, NEURONS[2]])  # the last is of two trees
def test_meshes(written, neuron):
    table = meshes()
    read = written.levels["mesh"].read(objects=neuron)
    rows = rows_in_file(table, read)
    mine = np.arange(len(table.names)) if neuron is None else np.flatnonzero(table.neurons == neuron)
    assert sorted(rows) == mine.tolist()

    faces = table.rows_of_links[np.isin(table.rows_of_links[:, 0], mine)]
    assert same_rows(rows[read.faces], faces)  # with winding and first corner; the files have some faces twice
    number = read.face_attributes["number"]
    assert len(np.unique(number)) == len(faces)
    assert (rows[read.faces] == table.rows_of_links[number]).all()
    assert area(read.positions, read.faces) == pytest.approx(area(table.positions, faces), rel=1e-6)  # stored as float32


@pytest.mark.parametrize("neuron", [None, NEURONS[2]])  # the last is of two trees
def test_synapses(written, neuron):
    table = synapses()
    read = written.levels["point_cloud"].read(objects=neuron)
    mine = np.full(len(table.neurons), True) if neuron is None else table.neurons == neuron

    def records(positions, neurons, columns):
        values = [positions[:, 0], positions[:, 1], positions[:, 2], neurons, *(columns[c] for c in table.columns)]
        return Counter(zip(*(v.tolist() for v in values), strict=True))

    columns = {name: values[mine] for name, values in table.columns.items()}
    wanted = records(table.positions[mine], table.neurons[mine], columns)
    assert records(read.positions, read.object_ids, read.attributes) == wanted
    kinds = Counter(zip(read.attributes["type"], read.attributes["roi"], strict=True))
    assert kinds == Counter(zip(columns["type"], columns["roi"], strict=True))
    assert {kind for kind, _ in kinds} == {"pre", "post"}
    assert None in {roi for _, roi in kinds}


@pytest.mark.parametrize("kind", KINDS)
def test_objects(written, kind):
    level = written.levels[kind]
    read = level.read()
    assert sorted(np.unique(read.object_ids).tolist()) == list(NEURONS)
    assert read.object_index.tolist() == list(NEURONS)
    for name in ABOUT:
        assert read.object_attributes[name].tolist() == ABOUT[name].tolist()
    assert {number: sorted(ids.tolist()) for number, ids in read.groups.items()} == {k: sorted(v) for k, v in GROUPS.items()}
    assert read.group_attributes["size"].tolist() == [3, 2]
    one = level.read(objects=NEURONS[1])
    assert (one.object_index.tolist(), one.object_attributes["cable"].tolist()) == ([NEURONS[1]], [2292.2])
    with pytest.raises(dzv.NotFoundError, match="722817261"):
        level.read(objects=722817261)


def test_order_by_object(written):
    read = written.levels["skeleton"].read(objects=[NEURONS[2], NEURONS[0]], order="object")
    assert read.ids.tolist() == [NEURONS[0], NEURONS[2]]
    assert (np.repeat(read.ids, read.lengths) == read.object_ids).all()
    rows = rows_in_file(skeletons(), read)
    mine = np.isin(skeletons().neurons, read.ids)
    assert sorted(rows) == np.flatnonzero(mine).tolist()
    edges = tree_edges(skeletons())
    assert same_rows(rows[read.edges], edges[mine[edges[:, 0]]])


@pytest.mark.parametrize("objects", [None, [NEURONS[0], NEURONS[1]]])
def test_box_of_skeletons(written, objects):
    table, level = skeletons(), written.levels["skeleton"]
    inside = in_box(table.positions.astype(np.float32))
    if objects:
        inside &= np.isin(table.neurons, objects)
    read = level.read(objects=objects, bbox=BOX)
    rows = rows_in_file(table, read)
    assert sorted(rows) == np.flatnonzero(inside).tolist()
    edges = tree_edges(table)
    assert same_rows(rows[read.edges], edges[inside[edges].all(axis=1)])
    parents = table.rows_of_links
    left = (parents >= 0) & ~inside[parents]  # nodes whose parent is outside have none here
    assert set(rows[read.parents < 0]) == set(np.flatnonzero(inside & ((parents < 0) | left)))

    whole = level.read(objects=objects, bbox=BOX, clip=False)
    touched = np.unique(table.neurons[inside])
    assert len(whole) == np.isin(table.neurons, touched).sum()
    assert len(whole.edges) == np.isin(table.neurons[edges[:, 0]], touched).sum()


def test_box_of_meshes_lazily(written):
    table, level = meshes(), written.levels["mesh"]
    inside = in_box(table.positions.astype(np.float32))
    read = level.read(bbox=BOX, compute=False).compute(scheduler="threads")
    rows = rows_in_file(table, read)
    assert sorted(rows) == np.flatnonzero(inside).tolist()
    faces = table.rows_of_links
    assert same_rows(rows[read.faces], faces[inside[faces].all(axis=1)])
    assert 1000 < len(read.faces) < len(faces)


@pytest.mark.parametrize(
    ("node", "change", "message"),
    [
        (100, {"name": 42}, "two vertices have the id 42"),  # both in one partition
        (100, {"parent": 999_999}, "999999, which is not among the vertices"),
        (0, {"parent": 4}, "form a cycle"),
        (5000, {"parent": 1}, f"of object {NEURONS[1]} has the parent 1 of object {NEURONS[0]}"),
    ],
)
def test_what_is_no_forest_is_refused(node, change, message, tmp_path):
    frame = skeletons().frame().assign(parent=skeletons().links)
    frame.loc[node, list(change)] = list(change.values())
    store = dzv.create(tmp_path / "s.zv", geometry="skeleton", chunk_shape=(2000, 2000, 2000))
    lazy = dd.from_pandas(frame, npartitions=3)
    with pytest.raises(dzv.InputError, match=message):
        dzv.write_skeletons(store, lazy, parents="parent", vertex_ids="name", object_ids="neuron", attributes=[])
    # nothing was committed, and the level can be written
    assert dzv.open(tmp_path / "s.zv").level(0).metadata.vertex_count == 0
    again = dd.from_pandas(skeletons().frame().assign(parent=skeletons().links), npartitions=3)
    report = dzv.write_skeletons(store, again, parents="parent", vertex_ids="name", object_ids="neuron", attributes=[])
    assert report.rows == len(frame)
    assert len(dzv.open(tmp_path / "s.zv").level(0).read().edges) == len(frame) - 4
