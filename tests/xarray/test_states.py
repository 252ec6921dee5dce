"""A store that changes under the reader: never an answer of an old state, nor one of two states mixed."""

from __future__ import annotations

import functools
import uuid

import dask
import numpy as np
import pytest
from comparing import opened
from dask.base import tokenize
from distributed import Client
from fsspec.implementations.memory import MemoryFileSystem
from refusals import fails
from small_stores import KINDS, write_small
from zarr.storage import MemoryStore

import dask_zv as dzv

VIEWS = ("spatial", "objects")
CHANGES = {
    "ids": {"ids": np.arange(12) * 3, "members": [0, 3, 6]},
    "score": {"score": 100.0},
    "groups": {"members": [7, 8]},
    "mass": {"mass": 1000.0},
    "shift": {"shift": 0.5},
    "links": {"other_links": True},
    "weight": {"weight": 50.0},
    "fewer": {"n": 7},
    "more": {"n": 14},
}


CASES = [
    *(("point_cloud", c) for c in ("ids", "score", "groups", "mass", "shift", "fewer", "more")),
    *(("polyline", c) for c in ("ids", "score", "groups", "fewer")),
    *(("skeleton", c) for c in ("ids", "links", "more")),
    *(("graph", c) for c in ("score", "links", "weight")),
    *(("mesh", c) for c in ("ids", "links", "weight")),
]


@functools.cache
def original(kind, change=None, **options):
    """Return a store in one state, to be copied: writing is what costs."""
    target = MemoryStore()
    write_small(target, kind, **CHANGES.get(change, {}), **options)
    return target


def copy_of(kind, change=None, **options):
    return MemoryStore(dict(original(kind, change, **options)._store_dict))


def url_of(kind, **options):
    """Return the URL of a copy, which has no time of change that xarray would ask for."""
    path = f"/{uuid.uuid4().hex}/s.zv"
    MemoryFileSystem().pipe({f"{path}/{k}": v.to_bytes() for k, v in original(kind, **options)._store_dict.items()})
    return f"memory:/{path}"


def values(ds):
    """Return all variables in memory, read without Dask; the names of dimensions are told by the shapes."""
    return {k: np.asarray(ds.variables[k].values) for k in ds.variables}


def differing(found, expected):
    out = set(found) ^ set(expected)
    for k in set(found) & set(expected):
        if found[k].shape != expected[k].shape or not np.array_equal(found[k], expected[k]):
            out.add(k)
    return out


@pytest.fixture(scope="module")
def truth():
    """Return what each state of each geometry holds, from a store that never was in another."""
    known = {}

    def of(kind, change, view):
        if (kind, change) not in known:
            target = original(kind, change)
            with dask.config.set(scheduler="sync"):
                known[kind, change] = {v: values(opened(target, v)) for v in VIEWS}
        return known[kind, change][view]

    return of


def test_every_change_changes_something(truth):
    for kind, change in CASES:
        assert any(differing(truth(kind, change, v), truth(kind, None, v)) for v in VIEWS), (kind, change)


@pytest.fixture(scope="module")
def client(thread_cluster):
    with Client(thread_cluster) as client:
        yield client


@pytest.mark.parametrize(("kind", "change"), CASES)
def test_persisted_results_never_answer_for_a_rewritten_store(kind, change, truth, client):
    """The target is a URL without a time of change: for xarray both opens are the same."""
    target = url_of(kind)
    old = {v: opened(target, v, chunks={}).persist() for v in VIEWS}
    lazy = {v: opened(target, v) for v in VIEWS}
    for v in VIEWS:
        assert not differing(values(old[v]), truth(kind, None, v))
    write_small(target, kind, mode="overwrite", **CHANGES[change])
    for v in VIEWS:
        assert not differing(values(opened(target, v, chunks={}).compute()), truth(kind, change, v)), v
    for v in VIEWS:  # what was opened before gives what it was, or an error that says so: never the new, never a mixture
        refused = 0
        for name in lazy[v].variables:
            try:
                found = lazy[v][name].variable.values
            except (dzv.FormatError, dzv.StoreError):
                refused += 1
                continue
            assert not differing({name: np.asarray(found)}, {name: truth(kind, None, v)[name]}), (v, name)
        expected = differing(truth(kind, change, v), truth(kind, None, v)) & set(lazy[v].data_vars)
        assert refused or not expected, (v, expected)


@pytest.mark.parametrize("kind", ["point_cloud", "polyline"])
@pytest.mark.parametrize("change", ["score", "groups", "mass", "fewer"])
def test_the_other_layout_keeps_its_states_apart(kind, change, client):
    target, other = url_of(kind, layout="per_chunk"), copy_of(kind, change, layout="per_chunk")
    old = {v: opened(target, v, chunks={}).persist() for v in VIEWS}
    lazy = {v: opened(target, v) for v in VIEWS}
    before = {v: values(old[v]) for v in VIEWS}
    write_small(target, kind, mode="overwrite", **CHANGES[change])
    for v in VIEWS:
        assert not differing(values(opened(target, v, chunks={}).compute()), values(opened(other, v))), v
        name = {"score": "score", "groups": "in_group"}.get(change, "mass")
        if name in lazy[v]:
            with pytest.raises((dzv.FormatError, dzv.StoreError), match="open it again|is gone"):
                lazy[v][name].load()
    assert all(not differing(values(old[v]), before[v]) for v in VIEWS)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_states_have_equal_tokens(kind):
    """Two opens of one state share their Dask keys: nothing in them is made up at random."""
    target = url_of(kind)
    for v in VIEWS:
        a, b = opened(target, v), opened(target, v)
        for name in a.variables:
            assert tokenize(a.variables[name]._data) == tokenize(b.variables[name]._data), (v, name)
        lazy_a, lazy_b = opened(target, v, chunks={}), opened(target, v, chunks={})
        for name in lazy_a.data_vars:
            if lazy_a[name].chunks is not None:
                assert lazy_a[name].data.name == lazy_b[name].data.name, (v, name)


@pytest.mark.parametrize("kind", KINDS)
def test_another_geometry_in_place_of_the_old_leaves_nothing_of_it(kind, truth):
    target = copy_of(kind)
    old = {v: opened(target, v) for v in VIEWS}
    for now in ("skeleton", "point_cloud"):
        write_small(target, now)  # create(overwrite=True)
        for v in VIEWS:
            assert not differing(values(opened(target, v)), truth(now, None, v))
    for v in VIEWS:
        for name in old[v].variables:
            try:
                found = {name: np.asarray(old[v][name].variable.values)}
            except (dzv.FormatError, dzv.StoreError):
                continue
            assert not differing(found, {name: truth(kind, None, v)[name]}), (v, name)


TABLES = ("dask_zv_objects", "dask_zv_edges")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["grid", "per_chunk"])
def test_overwriting_leaves_no_stale_table(kind, layout):
    if layout == "per_chunk" and kind not in ("point_cloud", "polyline"):
        pytest.skip("the layout can't hold it")
    target = copy_of(kind, layout=layout)
    for change in ({"n": 5, "shift": 20.0}, {"n": 1, "members": [0]}):
        write_small(target, kind, mode="overwrite", **change)
        fresh = MemoryStore()
        write_small(fresh, kind, layout=layout, **change)
        here, there = dzv.open(target).level(0).group.zarr_group, dzv.open(fresh).level(0).group.zarr_group
        for name in TABLES:
            assert (name in here) == (name in there)
            if name in here:
                np.testing.assert_array_equal(np.asarray(here[name][...]), np.asarray(there[name][...]))
        for v in VIEWS:
            expected = values(opened(fresh, v))
            assert not differing(values(opened(target, v)), expected), v
            dzv.open(target, "r+").refresh()
            assert not differing(values(opened(target, v)), expected), v


def test_overwriting_with_points_of_no_object_leaves_no_table():
    target = MemoryStore()
    write_small(target, "point_cloud")
    positions = np.random.default_rng(0).uniform(0, 50, (40, 3))
    with dask.config.set(scheduler="sync"):
        dzv.write_points(dzv.open(target, "r+"), positions, mode="overwrite")
    assert "dask_zv_objects" not in dzv.open(target).level(0).group.zarr_group
    ds = opened(target)
    assert set(ds.data_vars) == set()
    fails(dzv.InputError, "no objects", opened, target, "objects")


def damage_bytes(store, array):
    key = next(k for k in store._store_dict if f"/{array}/c/" in k)
    data = bytearray(store._store_dict[key].to_bytes())
    data[len(data) // 2] ^= 0x55
    store._store_dict[key] = type(store._store_dict[key]).from_bytes(bytes(data))


def damage_missing(store, array):
    del store._store_dict[next(k for k in store._store_dict if f"/{array}/c/" in k)]


def edited(change):
    def damage(store, array):
        table = dzv.open(store, "r+").level(0).group.zarr_group[array]
        table[...] = change(np.asarray(table[...]).copy())

    return damage


def moved(table):
    at = np.flatnonzero(table[:, -1] > 1)[:2]
    table[at[0], -1] += 1
    table[at[1], -1] -= 1
    return table


def swapped(table):
    at = np.flatnonzero(table[:, -1] != table[0, -1])[0]
    table[[0, at], -1] = table[[at, 0], -1]
    return table


def zeros(table):
    table[:, -1] = 0
    return table


def negative(table):
    table[1, -1] = -5
    return table


def huge(table):
    table[1, -1] = 2**40
    return table


def other_ids(table):
    table[:, 0] = table[::-1, 0]
    return table


def other_shape(cut):
    def damage(store, array):
        group = dzv.open(store, "r+").level(0).group.zarr_group
        table = group[array]
        values, attrs = np.asarray(table[...]), dict(table.attrs)
        values = values[:-1] if cut == "rows" else values[:, :-1] if cut == "columns" else values.astype(np.int32)
        del group[array]
        made = group.create_array(array, data=np.ascontiguousarray(values))
        made.attrs.update(attrs)

    return damage


DAMAGES = {
    "bytes": damage_bytes,
    "missing": damage_missing,
    "moved": edited(moved),
    "swapped": edited(swapped),
    "zeros": edited(zeros),
    "negative": edited(negative),
    "huge": edited(huge),
    "other ids": edited(other_ids),
    "rows": other_shape("rows"),
    "columns": other_shape("columns"),
    "dtype": other_shape("dtype"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("array", TABLES)
def test_a_damaged_table_gives_an_error_or_the_right_answer(array, damage):
    target, fresh = copy_of("skeleton"), original("skeleton")
    DAMAGES[damage](target, array)
    view = "objects" if array == TABLES[0] else "spatial"
    expected = values(opened(fresh, view))
    try:
        ds = opened(target, view)
    except (dzv.FormatError, dzv.StoreError) as error:
        assert "refresh" in str(error) or array in str(error)  # noqa: PT017 - an answer is as good
    else:
        found = values(ds)
        assert set(expected) - set(found) <= {"edge"}  # numbers of links are left out where all of them were read to be counted
        assert not differing(found, {k: v for k, v in expected.items() if k in found})
    dzv.open(target, "r+").refresh()
    for v in VIEWS:
        assert not differing(values(opened(target, v)), values(opened(fresh, v)))


def test_manifests_of_another_tool_make_the_table_of_objects_stale():
    """Two objects change places in the manifests; their array is made anew, without the checksums of our writer."""
    from numcodecs.vlen import VLenBytes  # noqa: F401 - registers what the array is coded with

    target = copy_of("polyline")
    before = values(opened(target, "objects"))
    group = dzv.open(target, "r+").level(0).group.zarr_group
    manifests = group["object_index/manifests"]
    cells = np.asarray(manifests[...])
    cells[[0, 1]] = cells[[1, 0]]
    manifests[...] = cells
    attrs = {k: v for k, v in manifests.attrs.items() if not k.startswith("dask_zv")}
    manifests.attrs.put(attrs)
    assert before["node_count"][0] != before["node_count"][1]
    ds = opened(target, "objects")
    np.testing.assert_array_equal(ds.node_count[:2], before["node_count"][[1, 0]])
    a, b = before["node_count"][:2]
    np.testing.assert_array_equal(ds.x[: a + b], np.r_[before["x"][a : a + b], before["x"][:a]])


@pytest.mark.parametrize("keep", [True, False])
def test_manifests_edited_in_place_are_noticed_when_objects_are_read(keep):
    target = copy_of("polyline")
    ds = opened(target, "objects")
    group = dzv.open(target, "r+").level(0).group.zarr_group
    cells = np.asarray(group["object_index/manifests"][...])
    cells[[0, 1]] = cells[[1, 0]]
    group["object_index/manifests"][...] = cells
    if not keep:
        ds = opened(target, "objects")
    for name in ("x", "mass"):
        with pytest.raises(dzv.FormatError, match=r"refresh|open it again"):
            ds[name].load()
    dzv.open(target, "r+").refresh()
    now = opened(target, "objects")
    assert now.node_count.sum() == now.sizes["vertex"] == len(now.x.values)
