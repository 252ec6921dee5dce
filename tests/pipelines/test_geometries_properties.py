"""Random lines, polylines, forests, graphs and meshes, written however they may be cut, and compared with what they were."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from geometries_reference import (
    LINKED,
    PATHS,
    Data,
    check_linked,
    check_paths,
    check_read,
    clipped_runs,
    inside_box,
    inside_chunks,
    path_rows,
    some_data,
    write,
)
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from plain_grid import PlainLevel, decode, reading_key
from points_reference import assert_same, chunk_of

import dask_zv as dzv
from dask_zv.config import override

EDGES = [0.1, 0.3, 0.7, 1.0, 1 / 3, 2.5, 10.0, 1e-3, 1e5]
"""Chunk edges: several have no exact binary form, so that the chunk of a vertex on a boundary is a matter of rounding."""


@pytest.fixture(autouse=True, scope="module")
def _small_blocks():
    """Make blocks of a few chunks and partitions of a few rows, so that small data has many of both."""
    small = override(write_block_chunks=4, write_block_bytes=(300, 2000), partition_bytes=600, link_pairs=200)
    with dask.config.set(scheduler="sync"), small:
        yield


@dataclass
class Case:
    """A geometry, the store that it goes into, and how it is cut."""

    data: Data
    chunk: tuple[float, ...]
    store: dict[str, Any]
    form: str
    seed: int

    def create(self, **options: Any) -> dzv.Store:
        return dzv.create({}, geometry=self.data.geometry, chunk_shape=self.chunk, **{**self.store, **options})


FORMS = ("numpy", "dask", "unknown", "pandas", "frame")


@st.composite
def cases(draw: Any, kinds: tuple[str, ...], *, most: int = 40) -> Case:
    geometry = draw(st.sampled_from(kinds))
    ndim = draw(st.integers(2, 4))
    chunk = tuple(draw(st.sampled_from(EDGES)) for _ in range(ndim))
    layout = draw(st.sampled_from(["grid", "per_chunk"])) if geometry in PATHS else "grid"
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    seed = draw(st.integers(0, 2**32 - 1))
    n = draw(st.one_of(st.sampled_from([0, 1, 2]), st.integers(3, most)))
    form = draw(st.sampled_from(FORMS))
    # a table of vertices says nothing of objects without any, and one layout has no gaps in its ids
    dense, empty = layout == "per_chunk", layout == "grid" or form in ("numpy", "dask")
    data = some_data(np.random.default_rng(seed), geometry, n, chunk, dtype=dtype, dense=dense, empty=empty)
    data.directed = geometry == "graph" and draw(st.booleans())
    if n == 0 and layout == "per_chunk":
        data = data.without("kind")  # no strings, no categories
    options: dict[str, Any] = {"layout": layout}
    # shards of negative chunks on four axes have numbers that no catalog of that layout holds
    options["shard_chunks"] = draw(st.sampled_from([1, 2, 8, "auto"])) if layout == "grid" or ndim < 4 else 1
    if layout == "grid":
        options["compressor"] = draw(st.sampled_from([None, "zstd", "blosc"]))
    return Case(data, chunk, options, form, seed)


def cut(rng: np.random.Generator, n: int) -> tuple[int, ...]:
    """Return the lengths of some partitions, of which some are empty."""
    ends = [0, *sorted(rng.integers(0, n + 1, int(rng.integers(0, 6))).tolist()), n]
    return tuple(int(d) for d in np.diff(ends))


def as_dask(values: np.ndarray, lengths: tuple[int, ...], *, known: bool) -> Any:
    lazy = da.from_array(values, chunks=(lengths, *((n,) for n in values.shape[1:])))
    return (
        lazy if known else lazy.map_blocks(lambda b: b, dtype=lazy.dtype, chunks=((math.nan,) * len(lengths), *lazy.chunks[1:]))
    )


def as_frame(columns: dict[str, np.ndarray], lengths: tuple[int, ...] | None) -> Any:
    made = {k: pd.Series(v, dtype=object) if v.dtype == object else pd.Series(v) for k, v in columns.items()}
    table = pd.DataFrame(made)
    if lengths is None:
        return table
    ends = np.cumsum([0, *lengths]).tolist()
    parts = [dask.delayed(table.iloc[a:b]) for a, b in pairwise(ends)]
    return dd.from_delayed(parts, meta=table.iloc[:0], verify_meta=False)


def write_as(store: dzv.Store, case: Case) -> tuple[Data, Any]:
    """Write in the case's form; return what was written of the data, and the report."""
    data, rng = case.data, np.random.default_rng(case.seed + 1)
    if case.form == "numpy":
        return data, write(store, data)
    if case.form in ("dask", "unknown"):
        return data, write_arrays(store, data, rng, known=case.form == "dask")
    data = data.without("rgb")
    data.link_attributes = {k: v for k, v in data.link_attributes.items() if v.ndim == 1}
    return data, write_frames(store, data, rng, lazy=case.form == "frame")


def write_arrays(store: dzv.Store, data: Data, rng: np.random.Generator, *, known: bool) -> Any:
    n = len(data)
    if data.geometry == "line":
        # lines have two rows each, whatever is lazy about them
        lines = cut(rng, n // 2)
        pairs = {k: as_dask(v.reshape(-1, 2, *v.shape[1:]), lines, known=True) for k, v in data.attributes.items()}
        ends = as_dask(data.positions.reshape(-1, 2, data.positions.shape[1]), lines, known=True)
        return dzv.write_lines(store, ends, attributes=pairs, object_ids=data.path_ids)
    lengths = cut(rng, n)
    points = as_dask(data.positions, lengths, known=known)
    attributes = {k: as_dask(v, lengths, known=known) for k, v in data.attributes.items()}
    ids = as_dask(data.ids, lengths, known=known)
    if data.geometry in PATHS:
        if known:
            return dzv.write_polylines(store, points, lengths=data.lengths, object_ids=data.path_ids, attributes=attributes)
        return dzv.write_polylines(store, points, object_ids=ids, attributes=attributes)
    if data.geometry == "skeleton":
        parents = as_dask(data.parents, lengths, known=known)
        return dzv.write_skeletons(store, points, parents=parents, object_ids=ids, attributes=attributes)
    rows = cut(rng, len(data.links))
    links = as_dask(data.links, rows, known=known)
    about = {k: as_dask(v, rows, known=known) for k, v in data.link_attributes.items()}
    if data.geometry == "graph":
        return dzv.write_graph(
            store, points, edges=links, edge_attributes=about, directed=data.directed, object_ids=ids, attributes=attributes
        )
    return dzv.write_meshes(store, points, faces=links, face_attributes=about, object_ids=ids, attributes=attributes)


def write_frames(store: dzv.Store, data: Data, rng: np.random.Generator, *, lazy: bool) -> Any:
    axes = dict(zip("xyzw", data.positions.T, strict=False))
    columns = {**axes, **data.attributes, "who": data.ids}
    lengths = cut(rng, len(data)) if lazy else None
    if data.geometry in PATHS:
        function = dzv.write_lines if data.geometry == "line" else dzv.write_polylines
        return function(store, as_frame(columns, lengths), object_ids="who")
    # vertices are named by ids of the user's
    names = rng.choice([0, 10**6, 2**50]) + rng.permutation(2 * len(data) + 1)[: len(data)]
    columns["name"] = names
    table = {"vertex_ids": "name", "object_ids": "who"}
    if data.geometry == "skeleton":
        columns["up"] = np.where(data.parents < 0, -1, names[np.maximum(data.parents, 0)]) if len(data) else data.parents
        return dzv.write_skeletons(store, as_frame(columns, lengths), parents="up", **table)
    ends = ["source", "target"] if data.geometry == "graph" else [f"v{i}" for i in range(data.links.shape[1])]
    named = names[data.links] if len(data) else data.links
    links = as_frame({**dict(zip(ends, named.T, strict=True)), **data.link_attributes}, cut(rng, len(named)) if lazy else None)
    if data.geometry == "graph":
        return dzv.write_graph(store, as_frame(columns, lengths), edges=links, directed=data.directed, **table)
    return dzv.write_meshes(store, as_frame(columns, lengths), faces=links, **table)


# shrinking writes hundreds of stores; the seed that failed is printed, and `phases` can be lifted to look closer
PHASES = [Phase.explicit, Phase.reuse, Phase.generate, Phase.target]
QUICK = settings(
    max_examples=30, deadline=None, phases=PHASES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@QUICK
@given(cases(PATHS))
def test_paths_round_trip(case):
    store = case.create()
    data, report = write_as(store, case)
    if case.form not in ("numpy", "dask"):
        data.objects = np.unique(data.ids)
    level = store.level(0)
    check_read(level, data)
    assert (report.rows, report.objects) == (len(data), len(data.objects))
    assert report.chunks == len({chunk_of(p, case.chunk) for p in data.positions})


@QUICK
@given(cases(LINKED))
def test_linked_round_trip(case):
    store = case.create()
    data, report = write_as(store, case)
    check_read(store.level(0), data)
    assert (report.rows, report.objects) == (len(data), len(data.objects))
    assert report.chunks == len({chunk_of(p, case.chunk) for p in data.positions})


# -------------------------------------------------------------------------------------------------- parts of it


@st.composite
def asked(draw: Any, kinds: tuple[str, ...]) -> tuple[Case, list[dict[str, Any]]]:
    """Return a case, and parts of it to read."""
    case = draw(cases(kinds))
    data, rng = case.data, np.random.default_rng(case.seed + 2)
    present = sorted({chunk_of(p, case.chunk) for p in data.positions})
    parts: list[dict[str, Any]] = []
    for _ in range(4):
        part: dict[str, Any] = {}
        if len(data.objects) and rng.random() < 0.5:
            part["objects"] = rng.choice(
                data.objects, int(rng.integers(1, min(3, len(data.objects)) + 1)), replace=False
            ).tolist()
        if rng.random() < 0.6:
            corners = rng.uniform(-3, 3, (2, len(case.chunk))) * np.asarray(case.chunk)
            on = rng.random(corners.shape) < 0.4
            corners[on] = (np.round(corners / np.asarray(case.chunk)) * np.asarray(case.chunk))[on]
            if len(data) and rng.random() < 0.5:
                corners[0] = data.positions[int(rng.integers(len(data)))]
            low, high = np.sort(corners, axis=0)
            part["bbox"] = (low.tolist(), np.where(high > low, high, np.nextafter(low, np.inf)).tolist())  # no width is no box
        if present and rng.random() < 0.4:
            part["chunks"] = [
                present[i] for i in rng.choice(len(present), int(rng.integers(1, len(present) + 1)), replace=False)
            ]
        parts.append(part)
    return case, parts


def wanted(case: Case, part: dict[str, Any]) -> np.ndarray:
    """Tell which vertices are inside of what was asked for, whatever their objects."""
    data = case.data
    inside = np.ones(len(data), bool)
    if "bbox" in part:
        inside &= inside_box(data, part["bbox"])
    if "chunks" in part:
        inside &= inside_chunks(data, case.chunk, part["chunks"])
    return inside


@QUICK
@given(asked(PATHS))
def test_parts_of_paths(case_and_parts):
    case, parts = case_and_parts
    store = case.create()
    write(store, case.data)
    data, level = case.data, store.level(0)
    for part in parts:
        inside, objects = wanted(case, part), part.get("objects")
        if inside.all() and "bbox" not in part and "chunks" not in part:
            expected = path_rows(data, objects)
        else:
            expected = clipped_runs(data, inside, objects)
        check_paths(level.read(**part), expected, data)
        # whole, every object that is there inside
        whole = level.read(**part, clip=False)
        touched = {int(i) for i in data.ids[inside]} & set(map(int, data.objects if objects is None else objects))
        if "bbox" in part or "chunks" in part:
            check_paths(whole, path_rows(data, touched), data)
        else:
            check_paths(whole, path_rows(data, objects), data)


@settings(QUICK, max_examples=15)
@given(asked(LINKED))
def test_parts_of_linked(case_and_parts):
    case, parts = case_and_parts
    store = case.create()
    write(store, case.data)
    data, level = case.data, store.level(0)
    for part in parts:
        of_objects = np.isin(data.ids, part["objects"]) if "objects" in part else np.ones(len(data), bool)
        inside = wanted(case, part) & of_objects
        clipped = level.read(**part)
        check_linked(clipped, data, np.flatnonzero(inside))
        check_linked(level.read(**part, clip=False), data, np.flatnonzero(np.isin(data.ids, data.ids[inside])))
        by_object = level.read(**part, order="object")
        check_linked(by_object, data, np.flatnonzero(inside))
        assert (np.diff(by_object.object_ids) >= 0).all()
        assert_same(level.read(**part, compute=False).compute().attributes["number"], clipped.attributes["number"])


# -------------------------------------------------------------------------------------------------- as it is stored


def check_stored(plain: PlainLevel, data: Data, chunk: tuple[float, ...]) -> None:
    """Compare what was decoded by hand with the input."""
    rows = plain.attributes["number"]
    assert sorted(rows.tolist()) == list(range(len(data)))
    assert_same(plain.positions, data.positions[rows])
    assert plain.attributes.keys() == data.attributes.keys()
    for name, values in data.attributes.items():
        if values.dtype == object:
            assert plain.attributes[name].tolist() == values[rows].tolist()
        else:
            assert_same(plain.attributes[name], values[rows])
    assert sorted(plain.manifests) == data.objects.tolist()
    paths = dict(path_rows(data))
    for owner in plain.manifests:
        mine = rows[plain.rows_of(owner)].tolist() if plain.manifests[owner] else []
        if data.geometry in PATHS:
            assert mine == paths[owner]
        else:
            assert sorted(mine) == paths[owner]
            # other tools take the manifests of these for ascending
            assert [c for c, _ in plain.manifests[owner]] == sorted(c for c, _ in plain.manifests[owner])
    ends = [tuple(rows[list(r.ends)].tolist()) for r in plain.links]
    if data.geometry in PATHS:
        # from the last vertex of a piece to the first of the next, where that is in another chunk
        crossings = [
            (a, b)
            for path in paths.values()
            for a, b in pairwise(path)
            if chunk_of(data.positions[a], chunk) != chunk_of(data.positions[b], chunk)
        ]
        assert sorted(ends) == sorted(crossings)
    elif data.geometry == "skeleton":
        parents = np.array(plain.parents(), np.int64)
        assert data.parents is not None
        again = np.where(parents < 0, -1, rows[parents] if len(rows) else -1)
        assert again.tolist() == np.maximum(data.parents[rows], -1).tolist()
    else:
        assert data.links is not None
        numbers = [int(r.attributes["number"]) for r in plain.links]
        assert ends == [tuple(data.links[k].tolist()) for k in numbers]
        assert sorted(numbers) == list(range(len(data.links)))
        for record, k in zip(plain.links, numbers, strict=True):
            for name, values in data.link_attributes.items():
                assert_same(record.attributes[name], values[k], name)
        for a, b in pairwise(plain.links):
            if (a.segment, a.source) == (b.segment, b.source):
                assert a.attributes["number"] < b.attributes["number"], "a cell keeps the order of the input"
        assert plain.directed is data.directed


@QUICK
@given(cases((*PATHS, *LINKED)))
def test_stored_as_the_format_says(case):
    """Decoded by hand: nothing of the library is used to look at what it wrote."""
    case.store["layout"] = "grid"
    target: dict[str, Any] = {}
    store = dzv.create(target, geometry=case.data.geometry, chunk_shape=case.chunk, **case.store)
    data, _ = write_as(store, case)
    if data.geometry in PATHS and case.form not in ("numpy", "dask"):
        data.objects = np.unique(data.ids)
    plain = decode(target)
    assert plain.geometry == data.geometry
    check_stored(plain, data, case.chunk)
    # links are read in the order that the documentation gives them
    if data.geometry in ("graph", "mesh"):
        width = data.links.shape[1]
        order = sorted(range(len(plain.links)), key=lambda i: reading_key(plain.links[i], width))
        geometry = store.level(0).read()
        found = geometry.edges if data.geometry == "graph" else geometry.faces
        assert found.tolist() == [list(plain.links[i].ends) for i in order]
        assert geometry.attributes["number"].tolist() == plain.attributes["number"].tolist()


@QUICK
@given(cases((*PATHS, *LINKED), most=25), st.integers(0, 2**32 - 1))
def test_objects_have_attributes_and_groups(case, seed):
    data, rng = case.data, np.random.default_rng(seed)
    count = len(data.objects)
    score, box = rng.normal(size=count).astype(np.float32), rng.integers(0, 99, (count, 2)).astype(np.uint16)
    groups = {
        int(g): rng.choice(data.objects, int(rng.integers(0, count + 1))).tolist() for g in rng.choice(6, 2, replace=False)
    }
    gaps = max(groups) + 1
    store = case.create()
    write(
        store,
        data,
        object_attributes={"score": score, "box": box},
        groups=groups,
        group_attributes={"weight": np.arange(gaps) / 2},
    )
    level = store.level(0)
    geometry = level.read()
    check_read(level, data)
    if count:
        assert geometry.object_index.tolist() == data.objects.tolist()
        assert_same(np.asarray(geometry.object_attributes["score"]), score)
        assert_same(np.asarray(geometry.object_attributes["box"]), box)
    assert {g: m.tolist() for g, m in geometry.groups.items() if len(m)} == {g: m for g, m in groups.items() if m}
    assert np.asarray(geometry.group_attributes["weight"]).tolist() == (np.arange(gaps) / 2).tolist()
