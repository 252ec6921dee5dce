"""Several writers of one level at the same time, in processes of their own: nothing is lost, or somebody is told."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cloudpickle
import dask
import numpy as np
import pytest
import xarray as xr
from refusals import fails
from small import always
from writer import ARRAYS, batches, payload, points

import dask_zv as dzv
from dask_zv.storage import locks
from dask_zv.storage.catalog import CATALOG_NAME
from dask_zv.storage.grid.read import GridArrays
from dask_zv.storage.handles import open_objects
from dask_zv.storage.nodes import load_catalog
from dask_zv.storage.per_chunk.read import PerChunk
from s3server import serve

SCRIPT = str(Path(__file__).with_name("writer.py"))
BOUNDS = ((0, 0), (640, 640))
CHUNK = (10.0, 10.0)

_sync = always(scheduler="sync")


@pytest.fixture(scope="module")
def server():
    """An S3 server that has conditional puts."""
    with serve() as running:
        yield running


@pytest.fixture(params=["local", "s3"])
def place(request, tmp_path):
    """Return (target, storage options) of an empty store."""
    if request.param == "local":
        return str(tmp_path / "s.zv"), None
    server = request.getfixturevalue("server")
    return f"s3://bucket/{tmp_path.name}-{abs(hash(str(tmp_path)))}/s.zv", server.storage_options


@pytest.fixture
def local(tmp_path):
    return str(tmp_path / "s.zv"), None


class Writer:
    """A process of writer.py."""

    def __init__(self, place, **job):
        job = {"target": place[0], "options": place[1], **job}
        self.process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", SCRIPT, json.dumps(job)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def wait_ready(self):
        line = self.process.stdout.readline()
        assert line == "ready\n", line + self.process.stderr.read()

    def go(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def result(self):
        """Return what it printed at the end; "" where it was killed."""
        out, err = self.process.communicate(timeout=60)
        assert self.process.returncode in (0, -9), err + out
        return out.strip()


def run(*writers):
    """Let all of them begin at once, and return what they say."""
    try:
        for writer in writers:
            writer.wait_ready()
        for writer in writers:
            writer.go()
        return [writer.result() for writer in writers]
    finally:
        for writer in writers:
            if writer.process.poll() is None:
                writer.process.kill()
            writer.process.communicate()


def make(place, shards=1):
    return dzv.create(place[0], chunk_shape=CHUNK, bounds=BOUNDS, shard_chunks=shards, storage_options=place[1])


def reopen(place, mode="r"):
    return dzv.open(place[0], mode=mode, storage_options=place[1])


def catalogued(place):
    """Return the chunks of each array by the catalog."""
    catalog = load_catalog(open_objects(reopen(place)._contents.handle), "0")
    assert catalog is not None
    return {a: sorted(".".join(map(str, c)) for c in catalog.coords[catalog.chunks_of(a)].tolist()) for a in catalog.arrays}


def assert_lists(place, keys):
    """Assert that these chunks, and no others, are listed and read back; return the group."""
    group = reopen(place).level(0).group
    for array in ARRAYS:
        assert sorted(group.list_chunks(array)) == sorted(keys)
        assert {k: group.read_bytes(array, k) for k in keys} == {k: payload(array, k, 5) for k in keys}
    return group


def assert_holds(place, keys):
    """The same by the catalog, too; and nobody holds the lock."""
    assert_lists(place, keys)
    assert catalogued(place) == {array: sorted(keys) for array in ARRAYS}
    assert confirmed(place) == set(ARRAYS)
    assert locks.LOCK_NAME not in open_objects(reopen(place)._contents.handle).list_dir("0")


def confirmed(place):
    """Return the arrays that the catalog describes and whose documents say the same."""
    objects = open_objects(reopen(place)._contents.handle)
    return set(GridArrays(objects, "0", load_catalog(objects, "0")).catalogued(ARRAYS))


@pytest.mark.parametrize("shards", [1, 4], ids=["cells", "shards"])
def test_disjoint_blocks_of_two_processes(place, shards):
    """Round by round, each with blocks (whole shards) of its own; the first round makes the arrays."""
    make(place, shards)
    rounds = 12 if place[1] is None else 6

    def blocks(who):
        return [[f"{2 * r + i}.{2 * who + j}" for i in range(2) for j in range(2)] for r in range(rounds)]

    one, two = blocks(0), blocks(1)
    assert run(*(Writer(place, do="batches", rounds=b) for b in (one, two))) == ["done", "done"]
    assert_holds(place, [k for r in (*one, *two) for k in r])


def test_one_writes_what_the_other_has_not_seen(place):
    """Both plan before either commits: the later one merges with what it did not know of."""
    make(place)
    writers = [Writer(place, do="batches", rounds=[[f"{i}.{who}" for i in range(3)]], pause=0.3) for who in range(2)]
    assert run(*writers) == ["done"] * 2
    assert_holds(place, [f"{i}.{who}" for i in range(3) for who in range(2)])


@pytest.mark.parametrize("known", ["new arrays", "with a catalog", "without a catalog"])
def test_two_writers_of_one_shard(local, known):
    """One of them replaces the other's shard: at least one is told, and what is listed is there or an error."""
    store = make(local, 4)
    group = store.level(0).group
    before = []
    if known != "new arrays":
        before = ["0.0", "5.5"]
        batches(store, [before], 5)
    if known == "without a catalog":
        before = [*before, "9.9"]
        for array in ARRAYS:
            group.write_bytes(array, "9.9", payload(array, "9.9", 5))
        assert load_catalog(open_objects(store._contents.handle), "0") is None
    said = run(*(Writer(local, do="batches", rounds=[[k]], pause_put=0.3, pause=0.3) for k in ("0.1", "1.0")))
    fine = [k for k, s in zip(("0.1", "1.0"), said, strict=True) if s == "done"]
    refused = [s for s in said if s != "done"]
    assert all(s.startswith("PlanError") and "shard" in s for s in refused), said
    assert len(fine) <= 1 or "done" not in refused
    group = reopen(local, "r+").level(0).group
    lost = []
    for array in ARRAYS:
        listed = group.list_chunks(array)
        assert set(fine) | set(before) <= set(listed) | set(lost)
        for key in listed:
            try:
                assert group.read_bytes(array, key) == payload(array, key, 5)
            except (dzv.StoreError, dzv.FormatError) as error:  # where both were put at the same moment: damaged
                assert error.chunk == key  # noqa: PT017
                lost.append(key)
    assert refused or not lost, said
    # both again, one after the other
    for key in ("0.1", "1.0"):
        batches(reopen(local, "r+"), [[key]], 5)
    group = reopen(local, "r+").level(0).group
    for key in ("0.1", "1.0", *before):
        if key in lost and key in before:
            continue
        assert group.read_bytes("vertices", key) == payload("vertices", key, 5)


def test_two_write_points(local):
    """The level has one content: who comes second is refused, and says so."""
    make(local)
    said = run(*(Writer(local, do="points", seed=s, n=400, pause=0.4) for s in (1, 2)))
    assert sorted(s.split()[0] for s in said) in (["PlanError", "done"], ["StoreError", "done"]), said
    assert all("mode='overwrite'" in s for s in said if s != "done")
    assert locks.LOCK_NAME not in open_objects(reopen(local)._contents.handle).list_dir("0")
    # the blocks of the second may have replaced those of the first: an answer is one of the two, or an error
    try:
        found = reopen(local).level(0).read()
    except dzv.ZVError:
        pass
    else:
        assert set(found.attributes["mass"]) in ({1.0}, {2.0})
    dzv.write_points(reopen(local, "r+"), np.full((3, 2), 5.0), mode="overwrite")
    assert len(reopen(local).level(0).read()) == 3


@pytest.mark.parametrize("kind", ["one group", "a group each"])
@pytest.mark.parametrize("shards", [1, 16], ids=["cells", "one shard"])
def test_unbatched_writes_of_many_threads(place, kind, shards):
    """Sixteen cells of one array: the reference implementation lists three of them."""
    make(place, shards)
    shared = reopen(place, "r+").level(0).group
    barrier = threading.Barrier(16)

    def write(i):
        group = shared if kind == "one group" else reopen(place, "r+").level(0).group
        barrier.wait()
        group.write_bytes("vertices", f"{i // 4}.{i % 4}", bytes([i]) * (i + 1))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(write, range(16)))
    group = reopen(place).level(0).group
    assert group.list_chunks("vertices") == [f"{i // 4}.{i % 4}" for i in range(16)]
    assert [group.read_bytes("vertices", f"{i // 4}.{i % 4}") for i in range(16)] == [bytes([i]) * (i + 1) for i in range(16)]
    assert locks.LOCK_NAME not in open_objects(reopen(place)._contents.handle).list_dir("0")


def test_single_writes_beside_batches(place):
    """A batch's commit and single writes take turns: none drops what the other listed."""
    make(place)
    writer = Writer(place, do="batches", rounds=[[f"{r}.{i}" for i in range(3)] for r in range(5)])
    writer.wait_ready()
    writer.go()
    group = reopen(place, "r+").level(0).group
    mine = [f"{r}.{i}" for r in range(5) for i in range(10, 12)]
    for key in mine:
        for array in ARRAYS:
            group.write_bytes(array, key, payload(array, key, 5))
    assert writer.result() == "done"
    assert_lists(place, [f"{r}.{i}" for r in range(5) for i in range(3)] + mine)


def kill(place, **job):
    """Run a writer that ends with kill -9."""
    writer = Writer(place, **job)
    writer.wait_ready()
    writer.go()
    assert writer.result() == ""
    assert writer.process.returncode == -9


def read_all(place):
    """Return a level's rows by every way of reading, as comparable values; all ways agree."""
    found = reopen(place).level(0).read()
    rows = sorted(zip(found.positions.tolist(), found.attributes["mass"].tolist(), strict=True))
    with xr.open_dataset(place[0], engine="zv", chunks=None) as ds:
        columns = (ds["x"].values.tolist(), ds["y"].values.tolist(), ds["mass"].values.tolist())
    assert sorted(([x, y], m) for x, y, m in zip(*columns, strict=True)) == rows
    return rows


@pytest.mark.parametrize("shards", [1, 4], ids=["cells", "shards"])
@pytest.mark.parametrize("catalog", [True, False], ids=["catalog", "no catalog"])
def test_killed_before_the_commit_of_new_chunks(local, shards, catalog):
    """All cells are stored, the commit is not reached: nobody sees them, and the same write then goes through."""
    store = make(local, shards)
    old, new = ["0.0", "0.1", "9.9"], ["0.2", "1.1", "5.5"]  # some of them in the shard of an old one
    batches(store, [old], 5)
    if not catalog:
        store.level(0).group.delete_subtree(CATALOG_NAME)
    kill(local, do="batches", rounds=[new], die_after=-1)
    group = assert_lists(local, old)
    for array, key in itertools.product(ARRAYS, new):
        assert not group.chunk_exists(array, key)
        fails(dzv.NotFoundError, None, group.read_bytes, array, key)
    batches(reopen(local, "r+"), [["1.0"]], 5)  # of others, into the same shards: it does not bring them to light
    assert_lists(local, [*old, "1.0"])
    batches(reopen(local, "r+"), [new], 5)
    assert_lists(local, [*old, *new, "1.0"])
    if catalog:
        assert_holds(local, [*old, *new, "1.0"])


@pytest.mark.parametrize("die_after", [5, -1], ids=["in the middle", "before the commit"])
def test_killed_while_a_new_level_is_written(local, die_after):
    """The level stays empty for all readers, and is written again without being told to overwrite."""
    make(local)
    kill(local, do="points", seed=1, n=300, die_after=die_after)
    level = reopen(local).level(0)
    assert level.group.list_chunks("vertices") == []
    assert not level.group.chunk_exists("vertices", "0.0")
    assert level.metadata.vertex_count == 0
    with pytest.warns(dzv.ZVWarning, match="the level is empty: a write is under way"):
        assert len(level.read()) == 0
    points(reopen(local, "r+"), 2, 300)
    assert {m for _, m in read_all(local)} == {2.0}
    assert len(read_all(local)) == 300


@pytest.mark.parametrize(
    ("shards", "die_after", "seed"),
    [
        pytest.param(1, 1, 2, id="first cell"),
        pytest.param(1, 20, 2, id="cells"),
        pytest.param(4, 7, 2, id="shards"),
        pytest.param(1, -1, 2, id="before the commit"),
        pytest.param(1, 20, 1.5, id="cells of as many rows"),
        pytest.param(4, 7, 1.5, id="shards of as many rows"),
    ],
)
def test_killed_while_a_level_is_replaced(local, shards, die_after, seed):
    """Readers get the old level, the new one, or an error: never some chunks of the one and some of the other."""
    points(make(local, shards), 1, 300)
    old = read_all(local)
    kill(local, do="points", seed=seed, n=300, mode="overwrite", die_after=die_after)
    for _ in range(2):
        try:
            found = read_all(local)
        except dzv.ZVError:
            continue
        assert found == old or {m for _, m in found} == {float(seed)}
    points(reopen(local, "r+"), 3, 300, "overwrite")
    assert {m for _, m in read_all(local)} == {3.0}
    assert len(read_all(local)) == 300


def open_bare(path, layout):
    """Return a group that is no level, with the array's grid where the layout wants one."""
    group = dzv.open_group(path, layout=layout)
    if layout == "grid":
        group.write_array_meta("vertices", {"shape": [4, 8, 1], "chunk_grid_origin": [0, 0, 0]})
    return group


def in_turns(path, who, rounds, layout, turn):
    """Write a batch into each of some groups, at the same time as the other writer, who writes other chunks."""
    for number in range(rounds):
        turn(number, who)
        group = dzv.open_group(f"{path}/{number}", layout=layout)
        with group.batched_writes():
            for i in range(4):
                group.write_bytes("vertices", f"{who}.{i}.0", bytes([who, i]))
            group.write_array_meta("vertices", {f"writer {who}": number})


def lost_of(path, rounds, seeded):
    """Return what each group lacks of the two writers' chunks and attributes, by its catalog, too."""
    wanted = sorted([f"{who}.{i}.0" for who in range(2) for i in range(4)] + ["3.7.0"] * seeded)
    lost = []
    for number in range(rounds):
        group = dzv.open_group(f"{path}/{number}", mode="r")
        catalog = load_catalog(group._objects, "")
        rows = [] if catalog is None else [".".join(map(str, c)) for c in catalog.coords.tolist()]
        told = {f"writer {who}": number for who in range(2)}.items()
        if group.list_chunks("vertices") != wanted or rows != wanted or not told <= group.read_array_meta("vertices").items():
            lost.append((number, rows))
    return lost


@pytest.mark.parametrize("seeded", [False, True], ids=["new", "catalogued"])
@pytest.mark.parametrize("layout", ["per_chunk", "grid"])
def test_batches_of_two_threads_on_one_group(tmp_path, layout, seeded):
    """Two batches at once, round by round: no error, and the catalog of each group has the rows of both."""
    rounds, together = 25, threading.Barrier(2)
    for number in range(rounds):
        group = open_bare(tmp_path / str(number), layout)
        if seeded:
            with group.batched_writes():
                group.write_bytes("vertices", "3.7.0", b"seed")
    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(in_turns, tmp_path, who, rounds, layout, lambda *_: together.wait(30)) for who in range(2)]
        for writer in writers:
            writer.result()
    assert lost_of(tmp_path, rounds, seeded) == []


def turn_by_files(path):
    def turn(number, who):
        Path(f"{path}/{number}-{who}").touch()
        until = time.monotonic() + 30
        while not Path(f"{path}/{number}-{1 - who}").exists():
            assert time.monotonic() < until
            time.sleep(0)

    return turn


def write_in_process(path, who, rounds, layout):
    with dask.config.set(scheduler="sync"):
        in_turns(path, who, rounds, layout, turn_by_files(path))


@pytest.mark.parametrize("layout", ["per_chunk", "grid"])
def test_batches_of_two_processes_on_one_group(tmp_path, process_pool, layout):
    rounds = 20
    for number in range(rounds):
        open_bare(tmp_path / str(number), layout)
    for writer in [process_pool.submit(write_in_process, str(tmp_path), who, rounds, layout) for who in range(2)]:
        writer.result()
    assert lost_of(tmp_path, rounds, seeded=False) == []


def test_single_writes_beside_batches_are_in_the_catalog_or_there_is_none(tmp_path):
    together = threading.Barrier(2)

    def single(number):
        together.wait(30)
        dzv.open_group(tmp_path / str(number)).write_bytes("vertices", "9.9.9", b"single")

    def batch(number):
        group = dzv.open_group(tmp_path / str(number))
        together.wait(30)
        with group.batched_writes():
            for i in range(4):
                group.write_bytes("vertices", f"0.{i}.0", b"batch")

    with ThreadPoolExecutor(2) as pool:
        for number in range(50):
            dzv.open_group(tmp_path / str(number))
            for done in [pool.submit(single, number), pool.submit(batch, number)]:
                done.result()
            group = dzv.open_group(tmp_path / str(number))
            assert group.list_chunks("vertices") == [*(f"0.{i}.0" for i in range(4)), "9.9.9"]
            catalog = load_catalog(group._objects, "")
            assert catalog is None or len(catalog) == 5


@pytest.mark.parametrize("before", [True, False])
def test_batches_that_meet_in_one_shard_keep_the_chunks_of_both(tmp_path, before):
    """Both were planned when the shard was not there; the second stores after the first has stored, or before."""
    group, other = dzv.open_group(tmp_path), dzv.open_group(tmp_path)
    stored = threading.Event()

    @dask.delayed
    def meanwhile():
        for _ in range(3000):
            if before or list((tmp_path / "vertices").glob("__shard_*/zarr.json")):
                break
            time.sleep(0.01)
        theirs.compute(scheduler="sync")
        stored.set()
        return {("vertices", "40.40"): b"later"}

    @dask.delayed
    def mine():
        assert not before or stored.wait(30)
        return b"mine"

    with other.batched_writes(shards=4, compute=False) as batch:
        other.write_bytes("vertices", "0.1", b"of another")
    theirs = batch.to_delayed()
    with dask.config.set(scheduler="threads", num_workers=2), group.batched_writes(shards=4, block_chunks=1) as batch:
        group.write_bytes("vertices", "1.0", mine() if before else b"mine")
        batch.write_blobs(meanwhile(), keys=[("vertices", "40.40")])
    found = dzv.open_group(tmp_path)
    assert found.list_chunks("vertices") == ["0.1", "1.0", "40.40"]
    assert [found.read_bytes("vertices", k) for k in ("0.1", "1.0")] == [b"of another", b"mine"]
    catalog = load_catalog(group._objects, "")
    entries = PerChunk(group._objects, "").listing("vertices").entries
    for key, offset in zip(["0.1", "1.0", "40.40"], catalog.arrays["vertices"]["offset"], strict=True):
        assert entries[key][1][0] == offset, key
    assert not [p for p in tmp_path.rglob("*") if locks.LOCK_NAME in p.name]


def test_attributes_set_by_two_threads_are_all_kept(tmp_path):
    together = threading.Barrier(2)
    dzv.open_group(tmp_path)

    def work(who):
        group = dzv.open_group(tmp_path)
        for number in range(50):
            together.wait(30)
            if number % 2:
                group.attrs[f"{who}-{number}"] = number
            else:
                group.write_array_meta("vertices", {f"{who}-{number}": number})

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(work, who) for who in range(2)]:
            done.result()
    group = dzv.open_group(tmp_path)
    for found, first in ((group.attrs.to_dict(), 1), (group.read_array_meta("vertices"), 0)):
        assert found == {f"{who}-{number}": number for who in range(2) for number in range(first, 50, 2)}


def test_attributes_of_an_array_are_kept_beside_commits_that_write_them(tmp_path):
    """``group["vertices"].attrs`` waits for the lock of the group whose batches write the same document."""
    group = dzv.open_group(tmp_path)
    group.write_bytes("vertices", "0.0", b"abc")
    group.require_group("links").require_group("0")
    travelled = cloudpickle.loads(cloudpickle.dumps(group["vertices"]))
    for child, above in (
        (group["vertices"], ["", "vertices"]), (travelled, [""]), (group["links"]["0"], ["", "links", "links/0"]),
    ):  # fmt: skip
        for prefix in above:
            done = threading.Event()
            with locks.commit_lock(group._objects, prefix):
                setting = threading.Thread(target=lambda c=child, d=done: (c.attrs.update({"mine": 1}), d.set()))
                setting.start()
                assert not done.wait(0.05), prefix
            setting.join(30)
            assert done.is_set()
            assert child.attrs["mine"] == 1


@pytest.mark.parametrize("layout", ["per_chunk", "grid"])
@pytest.mark.parametrize("declared", [True, False], ids=["declared", "of the data"])
def test_an_older_handle_does_not_take_bounds_back(tmp_path, layout, declared):
    path = tmp_path / "s.zv"
    bounds = BOUNDS if declared else None
    dzv.create(path, chunk_shape=CHUNK, bounds=bounds, layout=layout)
    older, expanding, third = (dzv.open(path, mode="r+") for _ in range(3))
    planned = dzv.write_points(older, np.array([[5.0, 5.0]]), compute=False)
    deferred = third.expand(((0, -50), (10, 10)), compute=False)
    expanding.expand(((-100, 0), (700, 640)))
    expanding.group.attrs["note"] = "of another tool"
    now = expanding.group.attrs.to_dict()["zarr_vectors"]
    expanding.group.attrs["zarr_vectors"] = {**now, "extra_of_another": 3}

    def check(low, high):
        found = dzv.open(path)
        assert found.metadata.bounds == (low, high)
        assert found.settings["bounds"] == "declared"
        attributes = found.group.attrs.to_dict()
        assert attributes["note"] == "of another tool"
        assert attributes["zarr_vectors"]["extra_of_another"] == 3

    planned.compute()
    check((-100.0, 0.0), (700.0, 640.0))
    assert len(dzv.open(path).level(0).read()) == 1
    deferred.compute()
    check((-100.0, -50.0), (700.0, 640.0))
    for handle in (older, third):  # which know the bounds as they were
        dzv.write_points(handle, np.array([[-95.0, 5.0], [695.0, 600.0]]), mode="overwrite")
        check((-100.0, -50.0), (700.0, 640.0))
        assert len(dzv.open(path).level(0).read()) == 2
    older.group.attrs["mine"] = 1
    with older.level(0).group.batched_writes() as batch:
        batch.write_array_meta("vertices", {"about": "it"})
    check((-100.0, -50.0), (700.0, 640.0))
    third.expand(((0, 0), (800, 10)))
    check((-100.0, -50.0), (800.0, 640.0))
