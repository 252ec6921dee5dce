"""Sums over links of all chunks are those of the whole: every link is in one chunk, with both of its ends."""

from __future__ import annotations

from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import dask_zv as dzv

DATA = Path(__file__).parents[1] / "data"
GOLDEN = [p for g in ("golden_0.7", "golden_0.9") for p in sorted((DATA / g).glob("*.zarrvectors*"))]


def sizes(points: NDArray, links: NDArray) -> NDArray:
    """Return lengths of edges, areas of faces."""
    p = points[links].astype(float)
    if links.shape[1] == 2:
        return np.linalg.norm(p[:, 1] - p[:, 0], axis=1)
    a, b = p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]
    return np.sqrt(np.maximum((a**2).sum(1) * (b**2).sum(1) - (a * b).sum(1) ** 2, 0)) / 2


def total(g: dzv.Geometry) -> dict[str, float]:
    links = g.edges if g.faces is None else g.faces
    values = next(iter({**g.edge_attributes, **g.face_attributes}.values()), np.zeros(0))
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


def whole(g: dzv.Geometry) -> tuple[float, int]:
    if g.faces is None and g.edges is None:
        of_path = np.repeat(np.arange(len(g.lengths)), g.lengths)
        at = np.flatnonzero(of_path[1:] == of_path[:-1])
        links = np.c_[at, at + 1]
    else:
        links = g.edges if g.faces is None else g.faces
    return sizes(g.positions, links).sum(), len(links)


def make(kind: str, seed: int, edge: float, layout: str | int) -> dzv.Store:
    rng = np.random.default_rng(seed)
    n, objects = int(rng.integers(3, 90)), int(rng.integers(1, 4))
    points = rng.uniform(0, 20, (n, 3)).astype("f4")
    points[:, 2] = rng.uniform(0, 2, n)
    owner = np.sort(rng.integers(0, objects, n))
    linked = kind in ("graph", "skeleton", "mesh")
    how = (
        {"layout": layout} if layout == "per_chunk" and not linked else {"shard_chunks": 8 if layout == "per_chunk" else layout}
    )
    store = dzv.create({}, chunk_shape=(edge, edge, 2 * edge), geometry=kind, **how)
    common = {"attributes": {"v": points[:, 0] * 2}}
    if kind in ("polyline", "streamline"):
        lengths = np.bincount(owner, minlength=objects)
        dzv.write_polylines(store, points, lengths=lengths[lengths > 0], **common)
    elif kind == "line":
        dzv.write_lines(store, points[: n // 2 * 2].reshape(-1, 2, 3))
    elif kind == "skeleton":
        parents = np.array([rng.integers(max(0, i - 3), i) if i else -1 for i in range(n)])
        parents[np.r_[True, owner[1:] != owner[:-1]]] = -1
        lost = (parents >= 0) & (owner[parents] != owner)
        parents[lost] = np.flatnonzero(lost) - 1
        dzv.write_skeletons(store, points, parents=parents, object_ids=owner, **common)
    else:
        width = 2 if kind == "graph" else 3
        links = np.unique(np.array([rng.permutation(n)[:width] for _ in range(2 * n)]), axis=0)
        rng.shuffle(links)
        named = {"edges": links} if kind == "graph" else {"faces": links}
        about = {"edge_attributes" if kind == "graph" else "face_attributes": {"w": rng.integers(0, 100, len(links))}}
        write = dzv.write_graph if kind == "graph" else dzv.write_meshes
        write(store, points, object_ids=owner, **named, **about, **common)
    return store


@settings(max_examples=25, derandomize=True, deadline=None)
@given(
    st.sampled_from(["graph", "skeleton", "mesh", "polyline", "streamline", "line"]),
    st.integers(0, 10**6),
    st.sampled_from([2.5, 7.0, 50.0]),
    st.sampled_from([1, 8, "per_chunk"]),
)
def test_sums_over_chunks_are_those_of_the_whole(kind: str, seed: int, edge: float, layout: str | int) -> None:
    with dask.config.set(scheduler="sync"):
        store = make(kind, seed, edge, layout)
        read = store.level(0).read()
        ds = xr.open_dataset(store, engine="zv")
        size, n = whole(read)
        given_ = {**read.edge_attributes, **read.face_attributes}
        for limit in (None, 7):
            found = ds.zv.map_chunks(total, halo="links", rows_per_task=limit)
            assert int(found.n.sum()) == n
            assert float(found["size"].sum()) == pytest.approx(size, rel=1e-5)
            np.testing.assert_array_equal(found.own, ds.zv.chunks.chunk_rows)
            np.testing.assert_array_equal(found.own, found.rows)
            assert not given_ or int(found.w.sum()) == given_["w"].sum()
        lazy = ds.zv.map_chunks(total, halo="links", compute=False, meta={"size": float, "n": int, "own": int, "w": float})
        xr.testing.assert_equal(lazy.compute(), found)
        box = ((2, 3, -1), (15, 14, 3))
        some = store.level(0).read(bbox=box)
        size, n = whole(some)
        for use in (
            lambda: ds.zv.sel(bbox=box).zv.map_chunks(total, halo="links", meta={"size": 0.0, "n": 0, "own": 0, "w": 0.0}),
            lambda: ds.zv.map_chunks(total, halo="links", bbox=box, meta={"size": 0.0, "n": 0, "own": 0, "w": 0.0}),
        ):
            found = use()
            assert (int(found.n.sum()), int(found.own.sum())) == (n, len(some))
            assert float(found["size"].sum()) == pytest.approx(size, rel=1e-5)


@pytest.mark.filterwarnings("ignore:.*outside of its box:dask_zv.ZVWarning")
@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_stores_of_others(path: Path) -> None:
    with dask.config.set(scheduler="sync"):
        for number in dzv.open(path).levels:
            level = dzv.open(path).level(number)
            ds = xr.open_dataset(path, engine="zv", level=number)
            try:
                want = whole(level.read())
            except TypeError:  # neither links nor paths
                with pytest.raises(dzv.InputError, match="has no links"):
                    ds.zv.map_chunks(len, halo="links")
                continue
            if path.stem.startswith("low_level"):  # fragments that share rows
                with pytest.raises(dzv.FormatError, match="can't be numbered"):
                    ds.zv.map_chunks(total, halo="links")
                continue
            found = ds.zv.map_chunks(total, halo="links")
            assert int(found.n.sum()) == want[1]
            assert float(found["size"].sum()) == pytest.approx(want[0], rel=1e-5)


def test_what_a_function_sees_with_and_without_a_halo() -> None:
    store = dzv.create({}, chunk_shape=(10, 10), geometry="graph")
    points = np.array([[1.0, 1], [2, 1], [11, 1], [12, 1], [1, 11]])
    weights = {"w": [0, 1, 2, 3]}
    dzv.write_graph(store, points, edges=[[0, 1], [1, 2], [2, 3], [4, 0]], attributes={"n": range(5)}, edge_attributes=weights)
    ds = xr.open_dataset(store, engine="zv")
    seen: list[dzv.Geometry] = []
    ds.zv.map_chunks(lambda g: seen.append(g) or 0)
    assert [(len(g), g.edges.tolist(), g.halo) for g in seen] == [(2, [[0, 1]], 0), (1, [], 0), (2, [[0, 1]], 0)]
    seen.clear()
    ds.zv.map_chunks(lambda g: seen.append(g) or 0, halo="links")
    first = seen[0]
    assert [g.halo for g in seen] == [2, 0, 0]
    assert first.attributes["n"].tolist() == [0, 1, 4, 2]
    assert {
        (*first.attributes["n"][e].tolist(), int(w)) for e, w in zip(first.edges, first.edge_attributes["w"], strict=True)
    } == {
        (0, 1, 0),
        (1, 2, 1),
        (4, 0, 3),
    }
    assert "the last 2 vertices are of other chunks" in repr(first)
    seen.clear()
    ds.zv.map_chunks(lambda g: seen.append(g) or 0, halo="links", chunks=["0.0"], attributes=["w"])
    assert (len(seen), seen[0].halo, seen[0].attributes) == (1, 2, {})
    ds.isel(vertex=[1, 0, 0]).zv.map_chunks(lambda g: seen.append(g) or 0, halo="links")
    assert (len(seen[1]), seen[1].edges.tolist()) == (3, [[1, 0]])
    for wrong in ("vertices", True):
        with pytest.raises(dzv.InputError, match="halo is None or 'links'"):
            ds.zv.map_chunks(len, halo=wrong)
