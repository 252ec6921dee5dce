"""Input that is not the same when it is read again is an error, in every writer and way to run; none is stored in part."""

from __future__ import annotations

import dataclasses
import uuid

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from dask import delayed

import dask_zv as dzv
from dask_zv.errors import InputError

PARTS, ROWS = 3, 120
N = PARTS * ROWS
SAYS = r"persist\(\) it, or seed it"


@pytest.fixture(autouse=True)
def _read_again():
    with dask.config.set({"dask_zv.keep-input": 0, "scheduler": "sync"}):
        yield


class Source:
    """Columns in partitions; from the second reading on, one column of partition 1 is another.

    `how` is a function of that column's values.
    """

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


RNG = np.random.default_rng(0)
COLUMNS = {
    "positions": RNG.uniform(0, 40, (N, 3)),
    "mass": RNG.normal(size=N),
    "kind": np.array(["b", "a", None], object)[np.arange(N) % 3],
    "object": np.arange(N) // 60,
    "vertex": np.arange(N) * 2,
    "parent": np.where(np.arange(N) % 60, np.arange(N) - 1, -1),
    "edges": np.stack([np.arange(N), (np.arange(N) + 1) % N], axis=1),
    "weight": np.arange(N) / 7,
    "faces": np.stack([np.arange(N), (np.arange(N) + 1) % N, (np.arange(N) + 2) % N], axis=1),
    "lengths": np.full(N, 1),
    "ends": RNG.uniform(0, 40, (N, 2, 3)),
}


def nudged(values):
    values[7] += 1
    return values


def swapped(values):
    return values[::-1]


def renamed(values):
    values[3] = "never seen"
    return values


def missing(values):
    values[1] = None
    return values


def outside(values):
    values[5] = 1e6
    return values


def not_a_number(values):
    values[5] = np.nan
    return values


CASES = [
    (
        "point_cloud",
        "points",
        {"positions": "positions"},
        {},
        [("positions", f) for f in (nudged, swapped, outside, not_a_number)],
    ),
    ("point_cloud", "points", {"positions": "positions"}, {"mass": "mass"}, [("mass", nudged)]),
    ("point_cloud", "points", {"positions": "positions"}, {"kind": "kind"}, [("kind", f) for f in (swapped, renamed, missing)]),
    ("point_cloud", "points", {"positions": "positions", "object_ids": "object"}, {}, [("object", nudged)]),
    ("line", "lines", {"endpoints": "ends"}, {}, [("ends", nudged)]),
    (
        "polyline",
        "polylines",
        {"positions": "positions", "object_ids": "object"},
        {},
        [("positions", nudged), ("object", nudged)],
    ),
    ("streamline", "polylines", {"positions": "positions", "lengths": "lengths"}, {}, [("positions", nudged)]),
    ("skeleton", "skeletons", {"positions": "positions", "parents": "parent"}, {}, [("positions", nudged), ("parent", nudged)]),
    (
        "graph",
        "graph",
        {"positions": "positions", "edges": "edges", "edge_attributes": {"w": "weight"}},
        {},
        [("positions", nudged), ("edges", swapped), ("weight", nudged)],
    ),
    ("mesh", "meshes", {"positions": "positions", "faces": "faces"}, {}, [("faces", nudged), ("positions", nudged)]),
]


def prepared(geometry, arguments, attributes, source, **options):
    store = dzv.create({}, geometry=geometry, chunk_shape=(20, 20, 20), bounds=((0, 0, 0), (40, 40, 40)), **options)
    made = {k: {n: source(c) for n, c in v.items()} if isinstance(v, dict) else source(v) for k, v in arguments.items()}
    first = made.pop("endpoints" if geometry == "line" else "positions")
    if attributes:
        made["attributes"] = {k: source(v) for k, v in attributes.items()}
    return store, first, made


@pytest.mark.parametrize("layout", ["grid", "per_chunk"])
def test_another_second_reading_is_an_error(layout):
    for geometry, verb, arguments, attributes, changes in CASES:
        if layout == "per_chunk" and geometry in ("skeleton", "graph", "mesh"):
            continue
        write = getattr(dzv, f"write_{verb}")
        for column, how in changes:
            store, first, made = prepared(geometry, arguments, attributes, Source(column, how), layout=layout)
            with pytest.raises(InputError, match=rf"partition 1 .*{SAYS}"):
                write(store, first, **made)
            assert store.level(0).metadata.vertex_count == 0, (column, how)
        store, first, made = prepared(geometry, arguments, attributes, Source(), layout=layout)
        report = write(store, first, **made)  # the same twice is no error
        assert report.rows == store.level(0).metadata.vertex_count == len(store.level(0).read().positions)


def test_names_of_vertices_that_change():
    source = Source("vertex", nudged)
    for geometry, verb, about in (("graph", "graph", {"edges": [[0, 2]]}), ("skeleton", "skeletons", {"parents": "parent"})):
        store = dzv.create({}, geometry=geometry, chunk_shape=(20, 20, 20))
        given = {k: source(v) * 2 if isinstance(v, str) else v for k, v in about.items()}
        with pytest.raises(InputError, match=rf"partition 1 .*{SAYS}"):
            getattr(dzv, f"write_{verb}")(store, source("positions"), vertex_ids=source("vertex"), **given)
        source.calls.clear()


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


def test_rows_that_come_and_go_in_waves_plans_and_resumed_writes(tmp_path):
    def source(change):
        meta = pd.DataFrame(np.zeros((0, 3)), columns=list("xyz"))
        return dd.from_map(Frames(change), range(PARTS), meta=meta)

    changes = {
        "more": lambda f: pd.concat([f, f[:2]]),
        "fewer": lambda f: f[:-1],
        "none": lambda f: f[:0],
        "other order": lambda f: f.sample(frac=1, random_state=0),
        "another sample": lambda f: f + 0.001,
    }

    def at_once(store, frame):
        dzv.write_points(store, frame)

    def in_waves(store, frame):
        with dask.config.set({"dask_zv.max-graph-tasks": 1}):
            dzv.write_points(store, frame)

    def lazily(store, frame):
        dask.compute(dzv.write_points(store, frame, compute=False), delayed(sum)([1, 2]))

    def resumed(store, frame):
        dzv.write_points(store, frame, resume=True)

    def planned(store, frame):
        plan = dzv.plan_points(store, frame)
        plan.commit([plan.run(block) for block in range(len(plan))])

    runs = (at_once, in_waves, lazily, resumed, planned)
    for number, (name, change) in enumerate(changes.items()):
        for run in (runs[number], runs[number - 1]):
            store = dzv.create(tmp_path / f"{name}-{run.__name__}", chunk_shape=(20, 20, 20))
            with pytest.raises(InputError, match=rf"partition 1 .*{SAYS}"):
                run(store, source(change))
            assert dzv.open(store.url).level(0).metadata.vertex_count == 0
    for run in runs:
        store = dzv.create(tmp_path / run.__name__, chunk_shape=(20, 20, 20))
        run(store, source(lambda f: f))
        assert len(dzv.open(store.url).level(0).read().positions) == N


def test_an_array_that_is_changed_before_the_compute():
    for column, verb, geometry in (
        ("positions", "points", "point_cloud"),
        ("mass", "points", "point_cloud"),
        ("kind", "points", "point_cloud"),
        ("object", "polylines", "polyline"),
        ("parent", "skeletons", "skeleton"),
        ("edges", "graph", "graph"),
        ("weight", "graph", "graph"),
    ):
        mine = {k: v.copy() for k, v in COLUMNS.items()}
        store = dzv.create({}, geometry=geometry, chunk_shape=(20, 20, 20))
        given = {
            "points": {"attributes": {"mass": mine["mass"], "kind": mine["kind"]}},
            "polylines": {"object_ids": mine["object"]},
            "skeletons": {"parents": mine["parent"]},
            "graph": {"edges": mine["edges"], "edge_attributes": {"w": mine["weight"]}},
        }[verb]
        write = getattr(dzv, f"write_{verb}")(store, mine["positions"], compute=False, **given)
        mine[column][5] = mine[column][6] + 1 if mine[column].dtype != object else "other"
        with pytest.raises(InputError, match=SAYS):
            write.compute()
        assert store.level(0).metadata.vertex_count == 0, column


def test_tables_of_objects_are_those_of_the_call():
    store = dzv.create({}, geometry="polyline", chunk_shape=(20, 20, 20))
    sizes, ids, score = np.full(6, 60), np.arange(6) * 3, np.arange(6.0)
    members = np.array([0, 3])
    about = {"object_attributes": {"score": score}, "groups": {0: members}, "group_attributes": {"level": np.array([4.0])}}
    write = dzv.write_polylines(store, COLUMNS["positions"], lengths=sizes, object_ids=ids, compute=False, **about)
    for array in (sizes, ids, score, members, about["group_attributes"]["level"]):
        array[:] = 1
    write.compute()
    read = store.level(0).read()
    assert read.object_attributes["score"].tolist() == [0, 1, 2, 3, 4, 5]
    assert read.ids.tolist() == [0, 3, 6, 9, 12, 15]
    assert read.lengths.tolist() == [60] * 6
    assert {k: list(v) for k, v in read.groups.items()} == {0: [0, 3]}


def test_receipts_that_tell_of_other_rows_are_not_committed(tmp_path):
    store = dzv.create(tmp_path / "s", chunk_shape=(20, 20, 20))
    plan = dzv.plan_points(store, COLUMNS["positions"])
    receipts = [plan.run(block) for block in range(len(plan))]
    first = receipts[0].result
    rows = first.receipt.rows.copy()
    rows[0] -= 1
    less = dataclasses.replace(first, receipt=dataclasses.replace(first.receipt, rows=rows))
    with pytest.raises(InputError, match="block 0 has stored"):
        plan.commit([dataclasses.replace(receipts[0], result=less), *receipts[1:]])
    assert dzv.open(store.url).level(0).metadata.vertex_count == 0
    assert plan.commit(receipts).rows == N
