"""Random points, paths, forests, graphs and meshes, written however they may be cut, and compared with what they were."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from forms import spread
from geometries_reference import (
    ALL,
    LINKED,
    PATHS,
    VERBS,
    Data,
    check_linked,
    check_paths,
    check_read,
    check_vertices,
    clipped_runs,
    inside_box,
    inside_chunks,
    links_of,
    path_rows,
    some_data,
    write,
)
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from layouts import LAYOUTS
from plain_grid import PlainLevel, decode, reading_key
from points_reference import assert_same, chunk_counts, chunk_of, object_order, reading_order
from small import always

import dask_zv as dzv

EDGES = [0.1, 0.3, 0.7, 1.0, 1 / 3, 2.5, 10.0, 1e-3, 1e5]
"""Chunk edges: several have no exact binary form, so that chunk and bin of a vertex on a boundary are a matter of rounding."""
FORMS = ("numpy", "dask", "unknown", "pandas", "frame")
GROUPS = {"points": ("point_cloud",), "paths": PATHS, "linked": LINKED}
of_all = pytest.mark.parametrize("kinds", list(GROUPS.values()), ids=list(GROUPS))
# shrinking writes hundreds of stores; the seed that failed is printed, and `phases` can be lifted to look closer
PHASES = [Phase.explicit, Phase.reuse, Phase.generate, Phase.target]
HEALTH = [HealthCheck.too_slow, HealthCheck.data_too_large]
QUICK = settings(max_examples=30, deadline=None, phases=PHASES, suppress_health_check=HEALTH)

_small = always(scheduler="sync", write_block_chunks=4, write_block_bytes=(300, 2000), partition_bytes=600, link_pairs=200)


@dataclass
class Case:
    """A geometry, the store that it goes into, and how it is cut."""

    data: Data
    chunk: tuple[float, ...]
    store: dict[str, Any]
    form: str
    seed: int

    def create(self, target: Any = None) -> dzv.Store:
        made = {} if target is None else target
        return dzv.create(made, geometry=self.data.geometry, chunk_shape=self.chunk, **self.store)


@st.composite
def cases(
    draw: Any, kinds: tuple[str, ...], *, layouts: tuple[str, ...] = LAYOUTS, owned: bool = False, most: int = 40
) -> Case:
    """Draw a case; `owned` are those of which all vertices are of objects."""
    geometry = draw(st.sampled_from(kinds))
    ndim = draw(st.integers(2, 4))
    chunk = tuple(draw(st.sampled_from(EDGES)) for _ in range(ndim))
    layout = "grid" if geometry in LINKED else draw(st.sampled_from(layouts))
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
    # shards of negative chunks on four axes have numbers that no catalog of that layout holds
    shards = draw(st.sampled_from([1, 2, 8, "auto"])) if layout == "grid" or ndim < 4 else 1
    options: dict[str, Any] = {"layout": layout, "shard_chunks": shards}
    if layout == "grid":
        options["compressor"] = draw(st.sampled_from([None, "zstd", "blosc"]))
    if geometry == "point_cloud":
        options["bin_shape"] = tuple(c / draw(st.sampled_from([1, 1, 2, 3, 10])) for c in chunk)
        if not owned and draw(st.booleans()):
            data.ids, data.objects = None, np.zeros(0, np.int64)
    return Case(data, chunk, options, form, seed)


def cut(rng: np.random.Generator, n: int) -> tuple[int, ...]:
    """Return the lengths of some partitions, of which some are empty."""
    return tuple(np.diff([0, *sorted(rng.integers(0, n + 1, int(rng.integers(0, 6))).tolist()), n]).tolist())


def as_dask(values: np.ndarray, lengths: tuple[int, ...], *, known: bool = True) -> Any:
    lazy = da.from_array(values, chunks=(lengths, *((n,) for n in values.shape[1:])))
    nobody_knows = ((math.nan,) * len(lengths), *lazy.chunks[1:])
    return lazy if known else lazy.map_blocks(lambda b: b, dtype=lazy.dtype, chunks=nobody_knows)


def write_as(store: dzv.Store, case: Case) -> tuple[Data, Any]:
    """Write in the case's form; return what was written of the data, and the report."""
    data, rng = case.data, np.random.default_rng(case.seed + 1)
    if case.form == "numpy":
        return data, write(store, data)
    if case.form in ("dask", "unknown"):
        known, cuts = case.form == "dask", {}

        def of(values: Any) -> Any:  # what has as many rows is cut alike; lines have two rows each, whatever is lazy about them
            lengths = cuts.setdefault(len(values), cut(rng, len(values)))
            return as_dask(values, lengths, known=known or data.geometry == "line")

        return data, write(store, data, of, by_lengths=known)
    data = data.without("rgb")
    data.link_attributes = {k: v for k, v in data.link_attributes.items() if v.ndim == 1}
    return data, write_frames(store, data, rng, lazy=case.form == "frame")


def write_frames(store: dzv.Store, data: Data, rng: np.random.Generator, *, lazy: bool) -> Any:
    def frame(columns: dict[str, np.ndarray]) -> Any:
        made = pd.DataFrame({k: pd.Series(v, dtype=object if v.dtype == object else None) for k, v in columns.items()})
        return spread(made, cut(rng, len(made))) if lazy else made

    columns = {**dict(zip("xyzw", data.positions.T, strict=False)), **data.attributes}
    table = {}
    if data.ids is not None:
        columns["who"], table["object_ids"] = data.ids, "who"
    if data.geometry in LINKED:  # vertices are named by ids of the user's
        names = rng.choice([0, 10**6, 2**50]) + rng.permutation(2 * len(data) + 1)[: len(data)]
        columns["name"], table["vertex_ids"] = names, "name"
    if data.geometry == "skeleton":
        columns["up"] = np.where(data.parents < 0, -1, names[np.maximum(data.parents, 0)]) if len(data) else data.parents
        table["parents"] = "up"
    elif data.geometry in LINKED:
        ends = ["source", "target"] if data.geometry == "graph" else [f"v{i}" for i in range(data.links.shape[1])]
        named = names[data.links] if len(data) else data.links
        links = frame({**dict(zip(ends, named.T, strict=True)), **data.link_attributes})
        table |= {"edges": links, "directed": data.directed} if data.geometry == "graph" else {"faces": links}
    return VERBS[data.geometry](store, frame(columns), **table)


def told_by_rows(case: Case, data: Data) -> Data:
    """Return what was written, without objects that no row is of where only rows told of them."""
    if data.geometry in PATHS and case.form not in ("numpy", "dask"):
        data.objects = np.unique(data.ids)
    return data


@of_all
@QUICK
@given(drawn=st.data())
def test_round_trip(kinds, drawn):
    case = drawn.draw(cases(kinds))
    store = case.create()
    data, report = write_as(store, case)
    data = told_by_rows(case, data)
    level = store.level(0)
    check_read(level, data)
    counts = chunk_counts(data.positions, case.chunk)
    assert (report.rows, report.objects, report.chunks) == (len(data), len(data.objects), len(counts))
    assert dict(zip(level.chunks.keys, level.chunks.rows.tolist(), strict=True)) == counts
    positions, first = level.read(order="chunk").positions, 0
    for coords, n in zip(level.chunks.coords.tolist(), level.chunks.rows.tolist(), strict=True):
        assert {chunk_of(p, case.chunk) for p in positions[first : first + n]} == {tuple(coords)}
        first += n
    if data.geometry == "point_cloud":
        order = reading_order(data.positions, case.chunk, case.store["bin_shape"], data.ids)
        assert level.read().attributes["number"].tolist() == order.tolist()
        again = case.create()
        write(again, data)  # the same input in memory gives the same
        assert again.level(0).read().attributes["number"].tolist() == order.tolist()


def some_part(case: Case, rng: np.random.Generator) -> dict[str, Any]:
    """Return a part of a level to be read: some objects, a box, some chunks, or several of these at once."""
    data, part = case.data, {}
    present = sorted({chunk_of(p, case.chunk) for p in data.positions})
    if len(data.objects) and rng.random() < 0.5:
        part["objects"] = rng.choice(data.objects, int(rng.integers(1, min(3, len(data.objects)) + 1)), replace=False).tolist()
    if rng.random() < 0.6:
        edge = np.asarray(case.chunk)
        corners = rng.uniform(-3, 3, (2, len(edge))) * edge
        corners = np.where(rng.random(corners.shape) < 0.4, np.round(corners / edge) * edge, corners)
        if len(data) and rng.random() < 0.5:
            corners[0] = data.positions[int(rng.integers(len(data)))]
        low, high = np.sort(corners, axis=0)
        high = np.where(high > low, high, np.nextafter(low, np.inf))  # no width is no box
        low, high = np.where(rng.random(len(edge)) < 0.1, -np.inf, low), np.where(rng.random(len(edge)) < 0.1, np.inf, high)
        part["bbox"] = (low.tolist(), high.tolist())
    if present and rng.random() < 0.4:
        some = rng.choice(len(present), int(rng.integers(1, len(present) + 1)), replace=False)
        part["chunks"] = [present[i] for i in some]
    return part


def check_part(level: dzv.Level, case: Case, part: dict[str, Any]) -> None:
    """Read a part clipped and whole, by chunks, by objects and lazily, and compare each with the input."""
    data, objects = case.data, part.get("objects")
    inside = np.ones(len(data), bool)
    if "bbox" in part:
        inside &= inside_box(data, part["bbox"])
    if "chunks" in part:
        inside &= inside_chunks(data, case.chunk, part["chunks"])
    mine = inside if objects is None else inside & np.isin(data.ids, objects)
    clipped = level.read(**part)
    if data.geometry in PATHS:
        clips = "bbox" in part or "chunks" in part
        check_paths(clipped, clipped_runs(data, inside, objects) if clips else path_rows(data, objects), data)
        touched = np.unique(data.ids[mine]) if clips else objects
        check_paths(level.read(**part, clip=False), path_rows(data, touched), data)
    else:
        check_linked(clipped, data, np.flatnonzero(mine))
        if data.ids is not None:
            check_linked(level.read(**part, clip=False), data, np.flatnonzero(np.isin(data.ids, data.ids[mine])))
    assert_same(level.read(**part, compute=False).compute().attributes["number"], clipped.attributes["number"])
    for order in ("chunk",) if data.ids is None else ("chunk", "object"):
        found = level.read(**part, order=order)
        rows = found.attributes["number"]
        if data.geometry not in PATHS:
            check_linked(found, data, np.flatnonzero(mine))
        assert sorted(check_vertices(found, data).tolist()) == np.flatnonzero(mine).tolist()
        keys = [chunk_of(p, case.chunk) for p in found.positions] if order == "chunk" else found.object_ids.tolist()
        assert keys == sorted(keys)
        if data.geometry == "point_cloud":
            bins = case.store["bin_shape"]
            by_chunk = order == "chunk"
            every = (
                reading_order(data.positions, case.chunk, bins, data.ids)
                if by_chunk
                else object_order(data.positions, case.chunk, data.ids)
            )
            assert rows.tolist() == every[mine[every]].tolist()
            if not by_chunk:
                ids = sorted(data.objects.tolist() if objects is None else objects)
                assert {i: n for i, n in zip(found.ids.tolist(), found.lengths.tolist(), strict=True) if n} == {
                    i: n for i in ids if (n := int((mine & (data.ids == i)).sum()))
                }
        if "chunks" not in part:
            view = {"chunk": "spatial", "object": "objects"}[order]
            shown = xr.open_dataset(level.store, engine="zv", view=view).zv.sel(bbox=part.get("bbox"), objects=objects)
            assert shown["number"].values.tolist() == rows.tolist(), view
            if order == "object" and data.geometry in PATHS:
                assert shown.sizes["object"] == len(clipped.lengths)


@of_all
@settings(QUICK, max_examples=20)
@given(drawn=st.data())
def test_parts(kinds, drawn):
    """Box, objects, chunks, clip, order, laziness and view, of every layout and packing."""
    case = drawn.draw(cases(kinds))
    store, rng = case.create(), np.random.default_rng(case.seed + 2)
    write(store, case.data)
    for _ in range(3):
        check_part(store.level(0), case, some_part(case, rng))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_points_of_a_lattice_on_the_edges_of_chunks_and_bins(layout):
    points = np.stack(np.meshgrid(np.arange(-12, 13), np.arange(3)), -1).reshape(-1, 2) * 0.1
    store = dzv.create({}, chunk_shape=(0.3, 0.1), bin_shape=(0.1, 0.1), layout=layout)
    cuts = (20, 0, 11, 44)
    dzv.write_points(store, as_dask(points, cuts), attributes={"number": as_dask(np.arange(75), cuts)})
    assert dict(zip(store.level(0).chunks.keys, store.level(0).chunks.rows, strict=True)) == chunk_counts(points, (0.3, 0.1))
    order = reading_order(points, (0.3, 0.1), (0.1, 0.1))
    data = Data("point_cloud", points, None, np.zeros(0, int), {"number": np.arange(75)})
    for box in (None, ((0.3, 0.1), (0.6, 0.15)), ((-0.3, -1), (0.3, 1)), ((0.6000000000000001, 0), (0.9, 0.05))):
        keep = np.ones(75, bool) if box is None else inside_box(data, box)
        assert store.level(0).read(bbox=box).attributes["number"].tolist() == order[keep[order]].tolist()


texts = st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5))


@settings(QUICK, max_examples=60)
@given(
    st.lists(texts, max_size=30), st.lists(st.floats(width=32), min_size=30, max_size=30), st.integers(0, 2**32),
    st.sampled_from(LAYOUTS),
)  # fmt: skip
def test_any_strings_and_floats_bit_for_bit(strings, floats, seed, layout):
    n, rng = len(strings), np.random.default_rng(seed)
    points, cuts = rng.uniform(-5, 5, (n, 2)), cut(rng, n)
    values, numbers = np.array([*strings, None], object)[:-1], np.array(floats[:n], np.float32)
    store = dzv.create({}, chunk_shape=(3, 3), layout=layout)
    dzv.write_points(store, as_dask(points, cuts), attributes={"s": as_dask(values, cuts), "f": as_dask(numbers, cuts)})
    order = reading_order(points, (3, 3))
    geometry = store.level(0).read()
    assert geometry.attributes["s"].tolist() == values[order].tolist()
    assert geometry.attributes["f"].tobytes() == numbers[order].tobytes()


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
    paths = dict(path_rows(data)) if data.ids is not None else {}
    for owner, manifest in plain.manifests.items():
        mine = rows[plain.rows_of(owner)].tolist() if manifest else []
        if data.geometry in PATHS:
            assert mine == paths[owner]
        else:
            assert sorted(mine) == paths[owner]
            assert [c for c, _ in manifest] == sorted(c for c, _ in manifest)  # other tools take these for ascending
    ends = [tuple(rows[list(r.ends)].tolist()) for r in plain.links]
    if data.geometry in PATHS:
        # from the last vertex of a piece to the first of the next, where that is in another chunk
        at = [chunk_of(p, chunk) for p in data.positions]
        assert sorted(ends) == sorted((a, b) for path in paths.values() for a, b in pairwise(path) if at[a] != at[b])
    elif data.geometry == "skeleton":
        parents = np.array(plain.parents(), np.int64)
        again = np.where(parents < 0, -1, rows[parents] if len(rows) else -1)
        assert again.tolist() == np.maximum(data.parents[rows], -1).tolist()
    elif data.geometry in LINKED:
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


@of_all
@QUICK
@given(drawn=st.data())
def test_stored_as_the_format_says(kinds, drawn):
    """Decoded by hand: nothing of the library is used to look at what it wrote."""
    case = drawn.draw(cases(kinds, layouts=("grid",)))
    target: dict[str, Any] = {}
    store = case.create(target)
    data, _ = write_as(store, case)
    data = told_by_rows(case, data)
    plain = decode(target)
    assert plain.geometry == data.geometry
    check_stored(plain, data, case.chunk)
    if data.geometry in ("graph", "mesh"):  # links are read in the order that the documentation gives them
        geometry = store.level(0).read()
        assert links_of(geometry)[0].tolist() == [list(r.ends) for r in sorted(plain.links, key=reading_key)]
        assert geometry.attributes["number"].tolist() == plain.attributes["number"].tolist()


@QUICK
@given(cases(ALL, owned=True, most=25), st.integers(0, 2**32 - 1))
def test_objects_have_attributes_and_groups(case, seed):
    data, rng = case.data, np.random.default_rng(seed)
    count = len(data.objects)
    score, box = rng.normal(size=count).astype(np.float32), rng.integers(0, 99, (count, 2)).astype(np.uint16)
    groups = {
        int(g): rng.choice(data.objects, int(rng.integers(0, count + 1))).tolist() for g in rng.choice(6, 2, replace=False)
    }
    weight = np.arange(max(groups) + 1) / 2
    store = case.create()
    about = {"object_attributes": {"score": score, "box": box}, "groups": groups, "group_attributes": {"weight": weight}}
    write(store, data, **about)
    level = store.level(0)
    geometry = level.read()
    check_read(level, data)
    if count:
        assert geometry.object_index.tolist() == data.objects.tolist()
        assert_same(np.asarray(geometry.object_attributes["score"]), score)
        assert_same(np.asarray(geometry.object_attributes["box"]), box)
    assert {g: m.tolist() for g, m in geometry.groups.items() if len(m)} == {g: m for g, m in groups.items() if m}
    assert np.asarray(geometry.group_attributes["weight"]).tolist() == weight.tolist()
