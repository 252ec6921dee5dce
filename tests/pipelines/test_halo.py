"""Sums over links of all chunks are those of the whole: every link is in one chunk, with both of its ends."""

import numpy as np
import pytest
import xarray as xr
from geometries_reference import GEOMETRIES, PATHS, links_of, some_data, write
from golden_reference import every_store
from hypothesis import given, settings
from hypothesis import strategies as st
from small import always

import dask_zv as dzv

_sync = always(scheduler="sync")


def sizes(points, links):
    """Return lengths of edges, areas of faces."""
    p = points[links].astype(float)
    if links.shape[1] == 2:
        return np.linalg.norm(p[:, 1] - p[:, 0], axis=1)
    a, b = p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]
    return np.sqrt(np.maximum((a**2).sum(1) * (b**2).sum(1) - (a * b).sum(1) ** 2, 0)) / 2


def total(g):
    links, about = links_of(g)
    values = next(iter(about.values()), np.zeros(0))
    own = len(g) - g.halo
    if g.parents is not None:
        child = np.flatnonzero(g.parents >= 0)
        assert sorted(zip(child, g.parents[child], strict=True)) == sorted(map(tuple, links))
        assert (child < own).all()
    out = {"size": sizes(g.positions, links).sum(), "n": len(links), "own": own, "w": float(np.sum(values))}
    if "v" in g.attributes:  # is that of the vertex, also of the far ends
        np.testing.assert_array_equal(g.attributes["v"], g.positions[:, 0] * 2)
        np.testing.assert_array_equal(g.object_ids >= 0, True)
    assert set(range(own, len(g))) <= {*np.ravel(links)}
    return out


def whole(g):
    links = links_of(g)[0]
    if links is None:
        of_path = np.repeat(np.arange(len(g.lengths)), g.lengths)
        at = np.flatnonzero(of_path[1:] == of_path[:-1])
        links = np.c_[at, at + 1]
    return sizes(g.positions, links).sum(), len(links)


def make(kind, seed, edge, layout):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 90))
    data = some_data(rng, kind, n, (edge,) * 3, dtype=np.float32, dense=True, links=2 * n, width=3 if kind == "mesh" else 2)
    data.positions = np.concatenate([rng.uniform(0, 20, (len(data), 2)), rng.uniform(0, 2, (len(data), 1))], axis=1).astype(
        "f4"
    )
    if data.links is not None:
        data.links = np.unique(np.array([rng.permutation(n)[: data.links.shape[1]] for _ in data.links]), axis=0)
        rng.shuffle(data.links)
        data.link_attributes = {"w": rng.integers(0, 100, len(data.links))}
    data.attributes = {"v": data.positions[:, 0] * 2}
    packing = {"shard_chunks": 8 if layout == "per_chunk" else layout}
    how = {"layout": layout} if layout == "per_chunk" and kind in PATHS else packing
    store = dzv.create({}, chunk_shape=(edge, edge, 2 * edge), geometry=kind, **how)
    write(store, data)
    return store


@settings(max_examples=25, derandomize=True, deadline=None)
@given(
    st.sampled_from(GEOMETRIES), st.integers(0, 10**6), st.sampled_from([2.5, 7.0, 50.0]), st.sampled_from([1, 8, "per_chunk"])
)
def test_sums_over_chunks_are_those_of_the_whole(kind, seed, edge, layout):
    store = make(kind, seed, edge, layout)
    read, ds = store.level(0).read(), xr.open_dataset(store, engine="zv")
    size, n = whole(read)
    meta = {"size": float, "n": int, "own": int, "w": float}
    for limit in (None, 7):
        found = ds.zv.map_chunks(total, halo="links", rows_per_task=limit, meta=meta)
        assert int(found.n.sum()) == n
        assert float(found["size"].sum()) == pytest.approx(size, rel=1e-5)
        np.testing.assert_array_equal(found.own, ds.zv.chunks.chunk_rows)
        np.testing.assert_array_equal(found.own, found.rows)
        given = {**read.edge_attributes, **read.face_attributes}
        assert not given or int(found.w.sum()) == given["w"].sum()
    xr.testing.assert_equal(ds.zv.map_chunks(total, halo="links", compute=False, meta=meta).compute(), found)
    box = ((2, 3, -1), (15, 14, 3))
    some = store.level(0).read(bbox=box)
    size, n = whole(some)
    for part, options in ((ds.zv.sel(bbox=box), {}), (ds, {"bbox": box})):
        found = part.zv.map_chunks(total, halo="links", meta=meta, **options)
        assert (int(found.n.sum()), int(found.own.sum())) == (n, len(some))
        assert float(found["size"].sum()) == pytest.approx(size, rel=1e-5)


@pytest.mark.filterwarnings("ignore:.*outside of its box:dask_zv.ZVWarning")
@every_store
def test_stores_of_others(path):
    for number in dzv.open(path).levels:
        read = dzv.open(path).level(number).read()
        ds = xr.open_dataset(path, engine="zv", level=number)
        if links_of(read)[0] is None and read.lengths is None:
            with pytest.raises(dzv.InputError, match="has no links"):
                ds.zv.map_chunks(len, halo="links")
        elif path.stem.startswith("low_level"):  # fragments that share rows
            with pytest.raises(dzv.FormatError, match="can't be numbered"):
                ds.zv.map_chunks(total, halo="links")
        else:
            size, n = whole(read)
            found = ds.zv.map_chunks(total, halo="links")
            assert int(found.n.sum()) == n
            assert float(found["size"].sum()) == pytest.approx(size, rel=1e-5)


def test_what_a_function_sees_with_and_without_a_halo():
    store = dzv.create({}, chunk_shape=(10, 10), geometry="graph")
    points = np.array([[1.0, 1], [2, 1], [11, 1], [12, 1], [1, 11]])
    weights = {"w": [0, 1, 2, 3]}
    dzv.write_graph(store, points, edges=[[0, 1], [1, 2], [2, 3], [4, 0]], attributes={"n": range(5)}, edge_attributes=weights)
    ds = xr.open_dataset(store, engine="zv")
    seen = []
    ds.zv.map_chunks(lambda g: seen.append(g) or 0)
    assert [(len(g), g.edges.tolist(), g.halo) for g in seen] == [(2, [[0, 1]], 0), (1, [], 0), (2, [[0, 1]], 0)]
    seen.clear()
    ds.zv.map_chunks(lambda g: seen.append(g) or 0, halo="links")
    first = seen[0]
    assert [g.halo for g in seen] == [2, 0, 0]
    assert first.attributes["n"].tolist() == [0, 1, 4, 2]
    ends = zip(first.attributes["n"][first.edges].tolist(), first.edge_attributes["w"].tolist(), strict=True)
    assert {(a, b, w) for (a, b), w in ends} == {(0, 1, 0), (1, 2, 1), (4, 0, 3)}
    assert "the last 2 vertices are of other chunks" in repr(first)
    seen.clear()
    ds.zv.map_chunks(lambda g: seen.append(g) or 0, halo="links", chunks=["0.0"], attributes=["w"])
    assert (len(seen), seen[0].halo, seen[0].attributes) == (1, 2, {})
    ds.isel(vertex=[1, 0, 0]).zv.map_chunks(lambda g: seen.append(g) or 0, halo="links")
    assert (len(seen[1]), seen[1].edges.tolist()) == (3, [[1, 0]])
    for wrong in ("vertices", True):
        with pytest.raises(dzv.InputError, match="halo is None or 'links'"):
            ds.zv.map_chunks(len, halo=wrong)
