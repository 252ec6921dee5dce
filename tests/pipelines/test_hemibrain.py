"""Real neurons come back as they are in their files: from memory and from Dask DataFrames, on threads and on a cluster.

Chunks are small beside a neuron, so that every tree, and thousands of edges and faces, cross chunks, blocks and partitions.
"""

from dataclasses import replace

import dask
import numpy as np
import pandas as pd
import pytest
from geometries_reference import VERBS, check_linked, inside_box, links_of
from geometries_reference import write as write_arrays
from hemibrain import NEURONS, frame_of, frame_of_faces, meshes, named, shuffled, size, skeletons, synapses
from small import sizes

import dask_zv as dzv

CHUNK = (700, 700, 700)  # voxels; the neurons are some 20,000 x 26,000 x 18,000
PACKED = (16, 16, 16)
WAYS = {
    "memory-threads-packed": ("memory", "threads", PACKED),
    "memory-distributed-packed": ("memory", "distributed", PACKED),
    "frames-threads-single": ("frames", "threads", 1),
    "frames-distributed-packed": ("frames", "distributed", PACKED),
}
BOX = ((3500, 20000, 12000), (7500, 24000, 18000))
ABOUT = pd.DataFrame({"cable": [2197.6, 2292.2, 2330.1], "side": ["R", "R", "R"]}, index=list(NEURONS))
GROUPS = {0: list(NEURONS), 1: [NEURONS[2], NEURONS[1]]}
KINDS = {"skeleton": skeletons, "mesh": meshes, "point_cloud": synapses}
of_each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module", params=list(WAYS.values()), ids=list(WAYS))
def written(request, tmp_path_factory):
    """The three stores, written in one of the ways, and the reports; reading below is on the threads of this process."""
    from distributed import Client

    source, scheduler, shards = request.param
    folder = tmp_path_factory.mktemp("neurons")
    cluster = scheduler == "distributed"
    active = Client(request.getfixturevalue("process_cluster")) if cluster else dask.config.set(scheduler=scheduler)
    # many blocks and partitions of little data; both are planned in this process, whatever the scheduler
    with active, sizes(write_block_chunks=100, partition_bytes=250_000):
        reports = {kind: write(kind, folder / kind, source, shards) for kind in KINDS}
    return {kind: dzv.open(folder / kind).level(0) for kind in KINDS}, reports


def write(kind, path, source, shards):
    data, names = KINDS[kind]()
    dtype = None if kind == "point_cloud" else "float32"
    store = dzv.create(path, geometry=kind, chunk_shape=CHUNK, axes=["x", "y", "z"], dtype=dtype, shard_chunks=shards)
    sizes_of = pd.DataFrame({"size": [3, 2]}, index=list(GROUPS))
    about = {"object_attributes": ABOUT, "groups": GROUPS, "group_attributes": sizes_of}
    if source == "memory":
        of_links = {"skeleton": ("parents", data.parents), "mesh": ("faces", data.links)}.get(kind)
        own = {} if of_links is None else {"vertex_ids": names, of_links[0]: named(of_links[1], names)}
        return write_arrays(store, data, **own, **about)
    own = {
        "skeleton": {"parents": "parent", "vertex_ids": "name"},
        "mesh": {"faces": None if kind != "mesh" else shuffled(frame_of_faces(data, names), 2, 4), "vertex_ids": "name"},
        "point_cloud": {},
    }[kind]
    frame = shuffled(frame_of(data, names), 1, 5)
    return VERBS[kind](store, frame, object_ids="neuron", attributes=list(data.attributes), **own, **about)


def stored(kind):
    """Return the data as it is stored."""
    data, _ = KINDS[kind]()
    return data if kind == "point_cloud" else replace(data, positions=data.positions.astype(np.float32))


def test_the_neurons_cross_many_chunks_and_blocks(written):
    levels, reports = written
    for kind, report in reports.items():
        assert report.chunks > 200, kind
        assert report.blocks > 1, kind
        assert report.objects == 3, kind
    assert len(levels["skeleton"].links()) > 1000  # across chunks, or not told by the order of nodes
    faces = levels["mesh"].links()
    assert len(faces) == 40_881
    assert (np.ptp(faces.chunks, axis=1).max(axis=1) > 0).sum() > 5000


@of_each_kind
@pytest.mark.parametrize("neuron", [None, NEURONS[2]])  # the last is of two trees
def test_whole_and_one(written, kind, neuron):
    data, read = stored(kind), written[0][kind].read(objects=neuron)
    mine = np.ones(len(data), bool) if neuron is None else data.ids == neuron
    check_linked(read, data, np.flatnonzero(mine))
    if kind == "point_cloud":
        assert set(read.attributes["type"]) == {"pre", "post"}
        assert None in read.attributes["roi"]
        return
    original, rows = KINDS[kind]()[0].positions, read.attributes["number"]
    links = links_of(read)[0]
    assert size(read.positions, links) == pytest.approx(size(original, rows[links]), rel=1e-6)  # stored as float32


@of_each_kind
def test_objects(written, kind):
    level = written[0][kind]
    read = level.read()
    assert sorted(np.unique(read.object_ids).tolist()) == read.object_index.tolist() == list(NEURONS)
    for name in ABOUT:
        assert read.object_attributes[name].tolist() == ABOUT[name].tolist()
    assert {number: sorted(ids.tolist()) for number, ids in read.groups.items()} == {k: sorted(v) for k, v in GROUPS.items()}
    assert read.group_attributes["size"].tolist() == [3, 2]
    one = level.read(objects=NEURONS[1])
    assert (one.object_index.tolist(), one.object_attributes["cable"].tolist()) == ([NEURONS[1]], [2292.2])
    with pytest.raises(dzv.NotFoundError, match="722817261"):
        level.read(objects=722817261)


def test_order_by_object(written):
    data, read = stored("skeleton"), written[0]["skeleton"].read(objects=[NEURONS[2], NEURONS[0]], order="object")
    assert read.ids.tolist() == [NEURONS[0], NEURONS[2]]
    assert (np.repeat(read.ids, read.lengths) == read.object_ids).all()
    check_linked(read, data, np.flatnonzero(np.isin(data.ids, read.ids)))


@of_each_kind
@pytest.mark.parametrize("objects", [None, [NEURONS[0], NEURONS[1]]])
def test_boxes(written, kind, objects):
    data, level = stored(kind), written[0][kind]
    inside = inside_box(data, BOX) & np.isin(data.ids, NEURONS if objects is None else objects)
    assert 100 < inside.sum() < len(data)
    lazy = level.read(objects=objects, bbox=BOX, compute=False).compute(scheduler="threads")
    for read in (level.read(objects=objects, bbox=BOX), lazy):
        check_linked(read, data, np.flatnonzero(inside))
    whole = level.read(objects=objects, bbox=BOX, clip=False)
    check_linked(whole, data, np.flatnonzero(np.isin(data.ids, data.ids[inside])))


@pytest.mark.parametrize(
    ("node", "change", "message"),
    [
        (100, {"name": 42}, "two vertices have the id 42"),  # both in one partition
        (100, {"parent": 999_999}, "999999, which is not among the vertices"),
        (0, {"parent": 4}, "form a cycle"),
        (5000, {"parent": 1}, f"of object {NEURONS[1]} has the parent 1 of object {NEURONS[0]}"),
    ],
)
def test_what_is_no_forest_is_refused(node, change, message):
    import dask.dataframe as dd

    frame = frame_of(*skeletons())
    store = dzv.create({}, geometry="skeleton", chunk_shape=(2000, 2000, 2000))
    columns = {"parents": "parent", "vertex_ids": "name", "object_ids": "neuron", "attributes": []}
    wrong = frame.copy()
    wrong.loc[node, list(change)] = list(change.values())
    with pytest.raises(dzv.InputError, match=message):
        dzv.write_skeletons(store, dd.from_pandas(wrong, npartitions=3), **columns)
    # nothing was committed, and the level can be written
    assert store.level(0).metadata.vertex_count == 0
    assert dzv.write_skeletons(store, dd.from_pandas(frame, npartitions=3), **columns).rows == len(frame)
    assert len(store.level(0).read().edges) == len(frame) - 4
