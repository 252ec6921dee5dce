"""Input that is not the same when it is read again is an error, in every writer and way to run; none is stored in part."""

import dataclasses
import uuid

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from dask import delayed
from forms import but
from geometries_reference import LINKED, VERBS
from layouts import in_both_layouts

import dask_zv as dzv
from dask_zv.errors import InputError

PARTS, ROWS = 3, 120
N = PARTS * ROWS
SAYS = r"persist\(\) it, or seed it"
CHUNK = (20, 20, 20)


@pytest.fixture(autouse=True)
def _read_again():
    with dask.config.set({"dask_zv.keep-input": 0, "scheduler": "sync"}):
        yield


class Source:
    """Columns in partitions; from the second reading on, one column of partition 1 is another: what `how` makes of its values."""

    def __init__(self, column=None, how=None):
        self.column, self.how, self.calls = column, how, {}

    def values(self, name, number):
        key = name, number
        self.calls[key] = self.calls.get(key, 0) + 1
        values = COLUMNS[name][number * ROWS : (number + 1) * ROWS]
        return self.how(values.copy()) if name == self.column and number == 1 and self.calls[key] > 1 else values

    def __call__(self, name):
        meta = COLUMNS[name][:0]
        pieces = [da.from_delayed(delayed(self.values)(name, i), (ROWS, *meta.shape[1:]), meta=meta) for i in range(PARTS)]
        return da.concatenate(pieces)


RNG, ROW = np.random.default_rng(0), np.arange(N)
COLUMNS = {
    "positions": RNG.uniform(0, 40, (N, 3)),
    "mass": RNG.normal(size=N),
    "kind": np.array(["b", "a", None], object)[ROW % 3],
    "object": ROW // 60,
    "vertex": ROW * 2,
    "parent": np.where(ROW % 60, ROW - 1, -1),
    "edges": np.stack([ROW, (ROW + 1) % N], axis=1),
    "weight": ROW / 7,
    "faces": np.stack([ROW, (ROW + 1) % N, (ROW + 2) % N], axis=1),
    "lengths": np.full(N, 1),
    "ends": RNG.uniform(0, 40, (N, 2, 3)),
}


def nudged(values):
    values[7] += 1
    return values


def with_value(value):
    return lambda values: but(values, 4, value)


def swapped(values):
    return values[::-1]


OTHERS = {
    "positions": [nudged, swapped, with_value(1e6), with_value(np.nan)],
    "kind": [swapped, with_value("new"), with_value(None)],
}
CASES = [  # (geometry, column of the positions, other columns by their argument, and those of attributes, what changes and how)
    ("point_cloud", "positions", {}, {}, [("positions", f) for f in OTHERS["positions"]]),
    ("point_cloud", "positions", {}, {"mass": "mass"}, [("mass", nudged)]),
    ("point_cloud", "positions", {}, {"kind": "kind"}, [("kind", f) for f in OTHERS["kind"]]),
    ("point_cloud", "positions", {"object_ids": "object"}, {}, [("object", nudged)]),
    ("line", "ends", {}, {}, [("ends", nudged)]),
    ("polyline", "positions", {"object_ids": "object"}, {}, [("positions", nudged), ("object", nudged)]),
    ("streamline", "positions", {"lengths": "lengths"}, {}, [("positions", nudged)]),
    ("skeleton", "positions", {"parents": "parent"}, {}, [("positions", nudged), ("parent", nudged)]),
    (
        "graph",
        "positions",
        {"edges": "edges", "edge_attributes": {"w": "weight"}},
        {},
        [("positions", nudged), ("edges", swapped), ("weight", nudged)],
    ),
    ("mesh", "positions", {"faces": "faces"}, {}, [("faces", nudged), ("positions", nudged)]),
]


@in_both_layouts
def test_another_second_reading_is_an_error(layout):
    for geometry, positions, arguments, attributes, changes in CASES:
        if layout == "per_chunk" and geometry in LINKED:
            continue
        for column, how in [*changes, (None, None)]:  # the same twice is no error
            source, bounds = Source(column, how), ((0, 0, 0), (40, 40, 40))
            store = dzv.create({}, geometry=geometry, chunk_shape=CHUNK, bounds=bounds, layout=layout)
            given = {
                k: {n: source(c) for n, c in v.items()} if isinstance(v, dict) else source(v) for k, v in arguments.items()
            }
            given |= {"attributes": {k: source(v) for k, v in attributes.items()}} if attributes else {}
            if column is None:
                report = VERBS[geometry](store, source(positions), **given)
                assert report.rows == store.level(0).metadata.vertex_count == len(store.level(0).read().positions)
                continue
            with pytest.raises(InputError, match=rf"partition 1 .*{SAYS}"):
                VERBS[geometry](store, source(positions), **given)
            assert store.level(0).metadata.vertex_count == 0, (column, how)


@pytest.mark.parametrize("geometry", ["graph", "skeleton"])
def test_names_of_vertices_that_change(geometry):
    source = Source("vertex", nudged)
    links = {"edges": [[0, 2]]} if geometry == "graph" else {"parents": source("parent") * 2}
    store = dzv.create({}, geometry=geometry, chunk_shape=CHUNK)
    with pytest.raises(InputError, match=rf"partition 1 .*{SAYS}"):
        VERBS[geometry](store, source("positions"), vertex_ids=source("vertex"), **links)


class Frames:
    """Frames of positions; partition 1 is changed from its second reading on."""

    def __init__(self, change):
        self.change, self.calls = change, {}

    def __dask_tokenize__(self):
        return id(self), uuid.uuid4().hex

    def __call__(self, number):
        self.calls[number] = self.calls.get(number, 0) + 1
        frame = pd.DataFrame(COLUMNS["positions"][number * ROWS : (number + 1) * ROWS], columns=list("xyz"))
        return self.change(frame) if self.calls[number] > 1 and number == 1 else frame


def in_waves(store, frame):
    with dask.config.set({"dask_zv.max-graph-tasks": 1}):
        dzv.write_points(store, frame)


def planned(store, frame):
    plan = dzv.plan_points(store, frame)
    plan.commit([plan.run(block) for block in range(len(plan))])


RUNS = {
    "at once": dzv.write_points,
    "in waves": in_waves,
    "lazily": lambda store, frame: dask.compute(dzv.write_points(store, frame, compute=False), delayed(sum)([1, 2])),
    "resumed": lambda store, frame: dzv.write_points(store, frame, resume=True),
    "planned": planned,
}
CHANGED = {
    "more": lambda f: pd.concat([f, f[:2]]),
    "fewer": lambda f: f[:-1],
    "none": lambda f: f[:0],
    "other order": lambda f: f.sample(frac=1, random_state=0),
    "another sample": lambda f: f + 0.001,
}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.filterwarnings("ignore:the level is empty")
def test_rows_that_come_and_go_in_waves_plans_and_resumed_writes(run, tmp_path):
    at = list(RUNS).index(run)
    for name in (None, *(list(CHANGED)[(at + i) % 5] for i in range(2))):
        change = CHANGED.get(name, lambda f: f)
        frame = dd.from_map(Frames(change), range(PARTS), meta=pd.DataFrame(np.zeros((0, 3)), columns=list("xyz")))
        store = dzv.create(tmp_path / f"{name}", chunk_shape=CHUNK)
        if name is None:
            RUNS[run](store, frame)
        else:
            with pytest.raises(InputError, match=rf"partition 1 .*{SAYS}"):
                RUNS[run](store, frame)
        level = dzv.open(store.url).level(0)
        assert level.metadata.vertex_count == len(level.read()) == (N if name is None else 0)


@pytest.mark.parametrize("column", ["positions", "mass", "kind", "object", "parent", "edges", "weight"])
def test_an_array_that_is_changed_before_the_compute(column):
    mine = {k: v.copy() for k, v in COLUMNS.items()}
    points = "point_cloud", {"attributes": {"mass": mine["mass"], "kind": mine["kind"]}}
    graph = "graph", {"edges": mine["edges"], "edge_attributes": {"w": mine["weight"]}}
    geometry, given = {
        "object": ("polyline", {"object_ids": mine["object"]}),
        "parent": ("skeleton", {"parents": mine["parent"]}),
        **dict.fromkeys(("edges", "weight"), graph),
    }.get(column, points)
    store = dzv.create({}, geometry=geometry, chunk_shape=CHUNK)
    write = VERBS[geometry](store, mine["positions"], compute=False, **given)
    mine[column][5] = mine[column][6] + 1 if mine[column].dtype != object else "other"
    with pytest.raises(InputError, match=SAYS):
        write.compute()
    assert store.level(0).metadata.vertex_count == 0


def test_tables_of_objects_are_those_of_the_call():
    store = dzv.create({}, geometry="polyline", chunk_shape=CHUNK)
    sizes, ids, score, members, level = np.full(6, 60), np.arange(6) * 3, np.arange(6.0), np.array([0, 3]), np.array([4.0])
    about = {"object_attributes": {"score": score}, "groups": {0: members}, "group_attributes": {"level": level}}
    write = dzv.write_polylines(store, COLUMNS["positions"], lengths=sizes, object_ids=ids, compute=False, **about)
    for array in (sizes, ids, score, members, level):
        array[:] = 1
    write.compute()
    read = store.level(0).read()
    assert read.object_attributes["score"].tolist() == [0, 1, 2, 3, 4, 5]
    assert (read.ids.tolist(), read.lengths.tolist()) == ([0, 3, 6, 9, 12, 15], [60] * 6)
    assert {k: list(v) for k, v in read.groups.items()} == {0: [0, 3]}


def test_receipts_that_tell_of_other_rows_are_not_committed(tmp_path):
    store = dzv.create(tmp_path / "s", chunk_shape=CHUNK)
    plan = dzv.plan_points(store, COLUMNS["positions"])
    receipts = [plan.run(block) for block in range(len(plan))]
    first = receipts[0].result
    rows = but(first.receipt.rows, 0, first.receipt.rows[0] - 1)
    less = dataclasses.replace(first, receipt=dataclasses.replace(first.receipt, rows=rows))
    with pytest.raises(InputError, match="block 0 has stored"):
        plan.commit([dataclasses.replace(receipts[0], result=less), *receipts[1:]])
    assert dzv.open(store.url).level(0).metadata.vertex_count == 0
    assert plan.commit(receipts).rows == N
