"""Coarser levels: what build_pyramid makes, what readers say of levels that were made from other data."""

import shutil
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr

import dask_zv as dzv
from dask_zv.level.stale import is_stale, mark_stale

RNG = np.random.default_rng(0)


def golden_levels(tmp_path: Path) -> Path:
    """Return a store of the peer's that has coarser levels."""
    found = next(Path(__file__).parents[1].joinpath("data", "golden_0.9").glob("points_pyramid*.zip"))
    shutil.unpack_archive(found, tmp_path / "levels.zv", "zip")
    return tmp_path / "levels.zv"


def test_readers_tell_of_a_stale_level(tmp_path: Path) -> None:
    """What is marked is told by every reader, with what to do; finer levels and other stores are read in silence."""
    path = golden_levels(tmp_path)
    store = dzv.open(path, "r+")
    mark_stale(store._contents, 0)
    assert [is_stale(store._contents.level(n)) for n in store.levels] == [n > 0 for n in store.levels]
    store = dzv.open(path)
    store.level(0).read()
    with pytest.warns(dzv.ZVWarning, match=r"level 1 .*dzv.build_pyramid\(store, update=True\)"):
        store.level(1).read()
    with pytest.warns(dzv.ZVWarning, match="level 1 was made before"):
        xr.open_dataset(path, engine="zv", level=1)
    with pytest.warns(dzv.ZVWarning, match="level 1 was made before"):
        tree = xr.open_datatree(path, engine="zv")
    assert tree.zv.level_for(max_vertices=10**6) == 0
    with pytest.warns(dzv.ZVWarning, match=f"level {max(store.levels)} was made before"):
        tree.zv.level_for(max_vertices=1)
    with pytest.raises(dzv.InputError, match="built by another tool.*overwrite=True"):
        dzv.build_pyramid(path, update=True)


def points(ndim: int, n: int, dtype: str = "f4") -> np.ndarray:
    """Return points of which some coincide, around the origin."""
    found = RNG.normal(0, 12, (n, ndim))
    return np.round(np.concatenate([found[: n // 2], found[: n - n // 2]]) * 8).astype(dtype) / np.dtype(dtype).type(1)


def by_cell(positions: np.ndarray, edge: float, ids: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the cell of each point, as a number, in the order in which cells are first met, and the number of cells."""
    cells = np.floor(positions.astype("f8") / edge)
    wide = cells if ids is None else np.column_stack([cells, ids])
    return np.unique(wide, axis=0, return_inverse=True)[1].reshape(-1)


def in_order(values: np.ndarray) -> np.ndarray:
    """Return rows in an order of their own."""
    return values[np.lexsort(values.T[::-1])]


@pytest.mark.parametrize(
    ("layout", "ndim", "dtype"),
    [("grid", 3, "f4"), ("grid", 2, "f8"), ("per_chunk", 4, "i8"), ("per_chunk", 3, "f8"), ("grid", 3, "i4")],
)
@pytest.mark.parametrize("small", [False, True])
def test_every_vertex_is_in_its_bin(layout: str, ndim: int, dtype: str, small: bool, override) -> None:
    """A level's vertices, counts and attributes are those of its bins, however the work is divided."""
    if small:
        override(write_block_bytes=(1000, 4000))
    p = points(ndim, 3000, dtype)
    value, kind = RNG.normal(size=len(p)).astype("f4"), RNG.choice(["a", "b"], len(p), p=[0.7, 0.3])
    value[::50] = np.nan
    store = dzv.create({}, chunk_shape=(64.0,) * ndim, layout=layout, dtype=dtype)
    given = {"v": value, "kind": kind, "low": value, "n": np.ones(len(p), "u2"), "code": RNG.integers(-3, 3, len(p))}
    dzv.write_points(store, p, attributes=given)
    report = dzv.build_pyramid(store, 3, bin_shape=(16.0,) * ndim, attributes={"low": "min", "n": "sum"})
    assert store.levels == (0, 1, 2, 3)
    total = 0
    for number in (1, 2, 3):
        level = store.level(number)
        found = level.read()
        cell = by_cell(p, 16 * 2**number)
        m = int(cell.max()) + 1
        counts = np.bincount(cell)
        mean = np.stack([np.bincount(cell, p[:, a].astype("f8")) / counts for a in range(ndim)], axis=1)
        mean = np.floor(mean + 0.5) if dtype[0] == "i" else mean
        assert found.positions.dtype == np.dtype(dtype)
        back = by_cell(found.positions, 16 * 2**number)
        assert len(found.positions) == m == len(np.unique(back)) == level.metadata.vertex_count
        order = np.argsort(back)
        if dtype[0] == "i":
            np.testing.assert_array_equal(found.positions[order], mean)
        else:
            np.testing.assert_allclose(found.positions[order], mean, rtol=1e-5, atol=1e-4)
        np.testing.assert_array_equal(found.attributes["count"][order], counts)
        np.testing.assert_array_equal(found.attributes["n"][order], counts)
        there = np.bincount(cell, ~np.isnan(value))
        with np.errstate(invalid="ignore", divide="ignore"):
            means = np.bincount(cell, np.nan_to_num(value)) / there
        np.testing.assert_allclose(found.attributes["v"][order], means, rtol=1e-4, atol=1e-6)
        least = [np.nanmin(value[cell == i]) if there[i] else np.nan for i in range(m)]
        np.testing.assert_array_equal(found.attributes["low"][order], np.array(least, "f4"))
        for name in ("kind", "code"):
            most = [(u := np.unique(given[name][cell == i], return_counts=True))[0][u[1].argmax()] for i in range(m)]
            np.testing.assert_array_equal(found.attributes[name][order], most)
        assert level.chunk_shape == (64.0 * 2**number,) * ndim
        total += m
    assert report.rows == total
    assert store.metadata.datasets[2]["coordinateTransformations"][0]["scale"] == [4.0] * ndim


@pytest.mark.parametrize("layout", ["grid", "per_chunk"])
def test_samples_are_vertices_of_the_level_before(layout: str, override) -> None:
    """What is drawn depends on the data and the seed alone; values are those of the drawn vertex."""
    p = RNG.uniform(-100, 100, (5000, 3))
    levels = []
    for small, seed in ((False, 0), (True, 0), (True, 1)):
        store = dzv.create({}, chunk_shape=(25, 25, 25), layout=layout)
        dzv.write_points(store, p, attributes={"row": np.arange(5000)})
        if small:
            override(write_block_bytes=(1000, 4000))
        with dask.config.set(scheduler="sync" if small else "threads"):
            dzv.build_pyramid(store, 2, method="sample", seed=seed)
        levels.append([store.level(n).read() for n in (1, 2)])
    (one, two), (again, _), (other, _) = levels
    np.testing.assert_array_equal(p[one.attributes["row"]], one.positions)
    assert set(two.attributes["row"]) < set(one.attributes["row"])
    assert set(one.attributes["row"]) == set(again.attributes["row"]) != set(other.attributes["row"])
    assert int(one.attributes["count"].sum()) == int(two.attributes["count"].sum()) == 5000


@pytest.mark.parametrize("layout", ["grid", "per_chunk"])
def test_objects_stay(layout: str, override) -> None:
    """Ids, attributes and groups are the same at every level; bins are of one object each; ``keep`` drops objects whole."""
    override(write_block_bytes=(1000, 4000))
    p = RNG.uniform(0, 100, (4000, 3)).astype("f4")
    ids = np.sort(RNG.integers(0, 12, len(p)))
    store = dzv.create({}, chunk_shape=(20, 20, 20), layout=layout)
    weight = np.arange(12.0)[::-1].copy()
    dzv.write_points(store, p, object_ids=ids, object_attributes={"weight": weight}, groups={0: [1, 2], 1: [11]})
    dzv.build_pyramid(store, 2, bin_shape=(10, 10, 10))
    for number in (1, 2):
        found = store.level(number).read()
        wanted = by_cell(p, 10 * 2**number, ids)
        assert len(found.positions) == wanted.max() + 1
        assert len(np.unique(by_cell(found.positions, 10 * 2**number, found.object_ids))) == len(found.positions)
        counts = np.bincount(found.object_ids, found.attributes["count"])
        np.testing.assert_array_equal(counts, np.bincount(ids))
        np.testing.assert_array_equal(found.object_attributes["weight"], weight)
        np.testing.assert_array_equal(found.groups[0], [1, 2])
        one = store.level(number).read(objects=5)
        assert len(one.positions) == np.count_nonzero(found.object_ids == 5)
        assert store.level(number).metadata.preserves_object_ids
    dzv.build_pyramid(store, 2, keep=(0.5, "weight"), overwrite=True)
    assert set(store.level(1).read().object_ids) == set(range(6))
    assert set(store.level(2).read().object_ids) == set(range(3))
    assert store.level(2).metadata.object_sparsity == 0.5
    assert len(store.level(1).read(objects=11).positions) == 0
    dzv.build_pyramid(store, 1, keep=0.25, overwrite=True)
    assert store.levels == (0, 1)
    assert len(set(store.level(1).read().object_ids)) == 3


def test_update_makes_stale_levels_anew(tmp_path: Path) -> None:
    """An overwrite of level 0 marks the levels; update=True builds them with the arguments of before, and only then."""
    path = tmp_path / "p.zv"
    p = RNG.uniform(0, 100, (2000, 2))
    store = dzv.create(path, chunk_shape=(10, 10))
    dzv.write_points(store, p, attributes={"m": np.ones(2000)})
    dzv.build_pyramid(store, 2, attributes={"m": "sum"}, factor=(2, 3))
    assert dzv.build_pyramid(path, update=True).rows == 0
    with pytest.raises(dzv.StoreError, match="levels .* already: update=True"):
        dzv.build_pyramid(path)
    dzv.write_points(store, p[:500], attributes={"m": np.ones(500)}, mode="overwrite")
    with pytest.warns(dzv.ZVWarning, match="level 2 was made before"):
        dzv.open(path).level(2).read()
    report = dzv.build_pyramid(path, update=True)
    store = dzv.open(path)
    assert report.rows == sum(len(store.level(n).read().positions) for n in (1, 2))
    assert store.level(1).chunk_shape == (20, 30)
    assert [store.level(n).read().attributes["m"].sum() for n in (1, 2)] == [500, 500]
    dzv.open(path, "r+").rename_attribute("m", "mass")
    with pytest.raises(dzv.InputError, match="no 'm' any more, of which the levels have the 'sum', and a new attribute 'mass'"):
        dzv.build_pyramid(path, update=True)
    dzv.build_pyramid(path, 2, attributes={"mass": "sum"}, overwrite=True)
    assert dzv.open(path).level(1).read().attributes["mass"].sum() == 500


def test_an_interrupted_build_goes_on(tmp_path: Path, override, monkeypatch) -> None:
    """Readers see nothing of a build that has not ended; the same call keeps what is stored."""
    override(write_block_bytes=(1000, 4000), journal_bytes=1)
    path = tmp_path / "p.zv"
    store = dzv.create(path, chunk_shape=(10, 10))
    dzv.write_points(store, RNG.uniform(0, 100, (2000, 2)))

    def fails(*_: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr("dask_zv.maintain.pyramid_plan.commit", fails)
        with pytest.raises(OSError, match="full"):
            dzv.build_pyramid(path, 2)
    assert dzv.open(path).levels == (0,)
    assert list(xr.open_datatree(path, engine="zv").children) == ["0"]
    report = dzv.build_pyramid(path, 2)
    assert report.kept == report.blocks > 4
    assert int(dzv.open(path).level(2).read().attributes["count"].sum()) == 2000
    assert not list(path.rglob("dask_zv_journal*"))


def test_a_build_of_what_has_changed_meanwhile_is_refused(tmp_path: Path) -> None:
    """Levels are of level 0 as it is at the commit, or there are none."""
    path = tmp_path / "p.zv"
    store = dzv.create(path, chunk_shape=(10, 10))
    dzv.write_points(store, RNG.uniform(0, 100, (2000, 2)))
    delayed = dzv.build_pyramid(path, 1, compute=False)
    dzv.write_points(dzv.open(path, "r+"), RNG.uniform(0, 100, (500, 2)), mode="overwrite")
    with pytest.raises(dzv.FormatError, match="rewritten after it was opened"):
        dask.compute(delayed)
    assert dzv.open(path).levels == (0,)


def test_levels_are_of_one_snapshot() -> None:
    """In an Icechunk session the levels are in the session, and in the snapshot of its commit."""
    icechunk = pytest.importorskip("icechunk")
    repo = icechunk.Repository.create(icechunk.in_memory_storage())
    store = dzv.create(repo.writable_session("main").store, chunk_shape=(10, 10))
    dzv.write_points(store, RNG.uniform(0, 100, (2000, 2)), object_ids=np.arange(2000) % 5)
    store.commit("points")
    store = dzv.open(repo.writable_session("main").store, "r+")
    dzv.build_pyramid(store, 2)
    assert dzv.open(repo.readonly_session("main").store).levels == (0,)
    store.commit("levels")
    store = dzv.open(repo.readonly_session("main").store)
    assert store.levels == (0, 1, 2)
    assert int(store.level(2).read().attributes["count"].sum()) == 2000


def test_number_of_levels_and_the_tree(tmp_path: Path, monkeypatch) -> None:
    """Levels are built until a picture can show one; trees and selections use them."""
    path = tmp_path / "p.zv"
    store = dzv.create(path, chunk_shape=(10, 10), bin_shape=(1, 1))
    dzv.write_points(store, RNG.uniform(0, 160, (20_000, 2)))
    alone = xr.open_datatree(path, engine="zv")
    assert repr(alone.zv).endswith("builds coarser ones, for overviews")
    with pytest.warns(dzv.ZVWarning, match=r"one level, with about 20,000 vertices here, more than 700: dzv.build_pyramid"):
        assert alone.zv.level_for(max_vertices=700) == 0
    monkeypatch.setattr("dask_zv.maintain.pyramid_plan.PICTURE", 700)
    delayed = dzv.build_pyramid(path, compute=False)
    assert dzv.open(path).levels == (0,)
    (report,) = dask.compute(delayed)
    tree = xr.open_datatree(path, engine="zv")
    assert list(tree.children) == ["0", "1", "2", "3"]
    assert report.rows == sum(tree[f"{n}"].sizes["vertex"] for n in (1, 2, 3))
    assert tree.zv.level_for(max_vertices=700) == 3
    assert tree.zv.level_for(((0, 0), (40, 40)), max_vertices=700) == 1
    box = tree.zv.sel(((0, 0), (160, 160)), max_vertices=700)
    assert int(box["count"].sum()) == 20_000


def test_what_cannot_be_met_is_refused() -> None:
    """Arguments are checked before anything is stored."""
    store = dzv.create({}, chunk_shape=(10, 10))
    with pytest.raises(dzv.InputError, match="has no vertices"):
        dzv.build_pyramid(store)
    dzv.write_points(store, RNG.uniform(0, 100, (100, 2)), attributes={"kind": ["a", "b"] * 50, "m": np.ones(100)})
    for message, arguments in {
        "factor is an integer of at least 2": {"factor": 1},
        "levels is the number": {"levels": 0},
        "did you mean 'mean'": {"method": "meen"},
        "tolerance is for paths": {"tolerance": 1.0},
        "no attribute 'mass'": {"attributes": {"mass": "sum"}},
        "'kind' has no 'mean'": {"attributes": {"kind": "mean"}},
        "did you mean 'mode'": {"attributes": {"kind": "mod"}},
        "must divide chunk_shape": {"bin_shape": (3, 3)},
        "is of objects": {"keep": 0.5},
        "one level, so there is none to update": {"update": True},
        "links=True": {"links": True},
    }.items():
        with pytest.raises(dzv.InputError, match=message):
            dzv.build_pyramid(store, **arguments)
    assert store.levels == (0,)


def wavy(counts: np.ndarray, ndim: int) -> np.ndarray:
    """Return the vertices of smooth paths, one after the other."""
    steps = [np.cumsum(RNG.normal(0, 0.1, (n, ndim)), axis=0) + RNG.normal(0, 0.05, ndim) for n in counts]
    return np.concatenate([RNG.uniform(-30, 30, ndim) + np.cumsum(s, axis=0) for s in steps])


def distances(points: np.ndarray, path: np.ndarray) -> np.ndarray:
    """Return how far each point is from a path."""
    edge, away = np.diff(path, axis=0), points[:, None] - path[None, :-1]
    share = np.clip((away * edge).sum(axis=2) / np.maximum((edge**2).sum(axis=1), 1e-300), 0, 1)
    return np.linalg.norm(away - share[:, :, None] * edge, axis=2).min(axis=1)


@pytest.mark.parametrize(("layout", "ndim"), [("grid", 3), ("grid", 2), ("per_chunk", 3)])
def test_paths_keep_their_ends_and_their_shape(layout: str, ndim: int, override) -> None:
    """Vertices that stay are those of the path, in its order; what is left out lies within the tolerance."""
    override(write_block_bytes=(1000, 4000))
    counts = np.r_[RNG.integers(2, 200, 20), 0, 1]
    p, ids = wavy(counts, ndim), np.arange(len(counts))
    store = dzv.create({}, geometry="streamline", chunk_shape=(10,) * ndim, layout=layout)
    values = {"row": np.arange(len(p)), "kind": RNG.choice(["a", "b"], len(p))}
    about = {"object_attributes": {"weight": np.arange(22.0)}, "groups": {0: [3, 4]}}
    dzv.write_polylines(store, p, lengths=counts, object_ids=ids, attributes=values, **about)
    dzv.build_pyramid(store, 2, tolerance=0.2)
    first = np.cumsum(counts) - counts
    for number, far in ((1, 0.2), (2, 0.6)):
        found = store.level(number).read()
        rows = found.attributes["row"]
        np.testing.assert_array_equal(found.positions, p[rows])
        np.testing.assert_array_equal(found.attributes["kind"], values["kind"][rows])
        assert int(found.attributes["count"].sum()) == len(p) > 2 * len(rows)
        np.testing.assert_array_equal(found.object_attributes["weight"], np.arange(22.0))
        np.testing.assert_array_equal(found.groups[0], [3, 4])
        begin = np.cumsum(found.lengths) - found.lengths
        for i, at, n in zip(found.ids, begin, found.lengths, strict=True):
            mine, whole = rows[at : at + n], p[first[i] : first[i] + counts[i]]
            assert (np.diff(mine) > 0).all()
            assert set(mine[[0, -1]] if n else mine) == ({first[i], first[i] + counts[i] - 1} if n else set())
            if n > 1:
                assert distances(whole, p[mine]).max() <= far
                length = np.linalg.norm(np.diff(whole, axis=0), axis=1).sum()
                np.testing.assert_allclose(found.object_attributes["path_length"][i], length)
        one = store.level(number).read(objects=5)
        assert len(one.positions) == found.lengths[list(found.ids).index(5)]


def test_trees_keep_branches_tips_and_cable_length(tmp_path: Path, override) -> None:
    """Roots, branch points and tips of every tree stay, and so does which hangs on which."""
    override(write_block_bytes=(1000, 8000))
    n = 1500
    owners = np.repeat(np.arange(5), n // 5) + 7
    parents = np.arange(n) - 1
    jumps = np.flatnonzero(RNG.random(n) < 0.03)
    first = (owners - 7) * (n // 5)
    parents[jumps] = [RNG.integers(first[j], j) if j > first[j] else -1 for j in jumps]
    parents[:: n // 5] = -1
    parents[first + 150] = -1  # a second tree
    p = np.zeros((n, 3))
    heading = RNG.normal(size=(n, 3))
    for i in range(n):
        heading[i] = heading[i] if parents[i] < 0 else heading[parents[i]] + RNG.normal(0, 0.1, 3)
        p[i] = RNG.uniform(0, 50, 3) if parents[i] < 0 else p[parents[i]] + heading[i] / 2
    store = dzv.create(tmp_path / "t.zv", geometry="skeleton", chunk_shape=(20, 20, 20))
    dzv.write_skeletons(store, p, parents=parents, object_ids=owners, attributes={"row": np.arange(n)})
    dzv.build_pyramid(store, 1, tolerance=0.5)
    dzv.build_pyramid(store, 2, tolerance=0.5)  # goes on from there
    with pytest.raises(dzv.InputError, match="compute=False"):
        dzv.build_pyramid(store, overwrite=True, compute=False)
    children = np.bincount(parents[parents >= 0], minlength=n)
    fixed = set(np.flatnonzero((parents < 0) | (children != 1)))
    edges = np.linalg.norm(p - p[parents], axis=1) * (parents >= 0)
    for number in (1, 2):
        found = store.level(number).read()
        rows = found.attributes["row"]
        np.testing.assert_array_equal(found.positions, p[rows])
        np.testing.assert_array_equal(found.object_ids, owners[rows])
        assert fixed <= set(rows)
        assert len(rows) < n
        stays = set(rows.tolist())
        for row, parent in zip(rows, found.parents, strict=True):
            at = parents[row]
            while at >= 0 and int(at) not in stays:
                at = parents[at]
            assert at == (rows[parent] if parent >= 0 else -1)
        np.testing.assert_allclose(found.object_attributes["cable_length"], np.bincount(owners - 7, edges))
        assert int(found.attributes["count"].sum()) == n
    tree = xr.open_datatree(tmp_path / "t.zv", engine="zv")
    assert tree.zv.level_for(max_vertices=1) == 2


def parts_of(n: int, links: np.ndarray) -> int:
    """Return how many parts vertices are in that links join."""
    root = np.arange(n)
    for _ in range(n):
        least = np.minimum(root[links[:, 0]], root[links[:, 1]])
        before = root.copy()
        np.minimum.at(root, links[:, 0], least)
        np.minimum.at(root, links[:, 1], least)
        if (root == before).all():
            break
    return len(np.unique(root))


def test_graphs_keep_their_parts(override) -> None:
    """What edges join in a bin becomes one vertex; edges between bins stay, once; parts stay apart, and objects."""
    override(write_block_bytes=(1000, 8000))
    n = 900
    p, owners = RNG.uniform(0, 40, (n, 2)), np.repeat(np.arange(3), 300)
    near = np.argwhere(np.linalg.norm(p[:, None] - p[None], axis=2) < 2.2)
    edges = near[(near[:, 0] < near[:, 1]) & (owners[near[:, 0]] == owners[near[:, 1]])]
    store = dzv.create({}, geometry="graph", chunk_shape=(10, 10))
    values = {"m": RNG.random(n), "kind": RNG.choice(["a", "b"], n)}
    weights = {"w": np.ones(len(edges))}
    dzv.write_graph(store, p, edges=edges, object_ids=owners + 4, attributes=values, edge_attributes=weights)
    dzv.build_pyramid(store, 2, bin_shape=(2, 2), attributes={"m": "sum"})
    parts = parts_of(n, edges)
    vertices = [n]
    for number in (1, 2):
        found = store.level(number).read()
        m = len(found.positions)
        vertices.append(m)
        assert parts_of(m, found.edges) == parts
        assert int(found.attributes["count"].sum()) == n
        np.testing.assert_allclose(found.attributes["m"].sum(), values["m"].sum())
        assert (found.edges[:, 0] != found.edges[:, 1]).all()
        assert len(np.unique(np.sort(found.edges, axis=1), axis=0)) == len(found.edges)
        np.testing.assert_array_equal(found.object_ids[found.edges[:, 0]], found.object_ids[found.edges[:, 1]])
        np.testing.assert_array_equal(found.edge_attributes["w"], 1)
        mean = sum(found.positions[:, a] @ found.attributes["count"] for a in (0, 1))
        np.testing.assert_allclose(mean, p.sum())
    assert vertices == sorted(vertices, reverse=True)
    assert set(store.level(2).read().object_ids) == {4, 5, 6}


def test_edges_between_objects_are_refused() -> None:
    """Levels are made object by object: what joins objects of several blocks would be lost, so it is told."""
    store = dzv.create({}, geometry="graph", chunk_shape=(10, 10))
    p = RNG.uniform(0, 40, (40, 2))
    dzv.write_graph(store, p, edges=np.column_stack([np.arange(39), np.arange(1, 40)]), object_ids=np.arange(40))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("dask_zv.maintain.pyramid_objects._TASK_BYTES", 100)
        with pytest.raises(dzv.InputError, match="39 edges, .* of them between vertices of one block"):
            dzv.build_pyramid(store, 1)
    assert store.levels == (0,)


def sphere(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a closed surface of triangles around the origin, whose normals look outwards."""
    corners = np.array([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])
    faces = np.array([[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]])
    for _ in range(steps):
        ends = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
        edges, number = np.unique(ends, axis=0, return_inverse=True)
        middle = len(corners) + number.reshape(-1, 3)
        corners = np.concatenate([corners, corners[edges].mean(axis=1)])
        a, b, c = faces.T
        ab, bc, ca = middle.T
        faces = np.concatenate([np.stack(f, axis=1) for f in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))])
    return corners / np.linalg.norm(corners, axis=1)[:, None], faces


def test_meshes_stay_closed(tmp_path: Path, override) -> None:
    """A closed surface across many chunks is one at every level, with the same winding."""
    override(write_block_bytes=(1000, 8000))
    corners, faces = sphere(4)
    path = tmp_path / "m.zv"
    store = dzv.create(path, geometry="mesh", chunk_shape=(10, 10, 10))
    both = np.concatenate([corners * 17, corners * 9 + 30])
    dzv.write_meshes(
        store,
        both,
        faces=np.concatenate([faces, faces + len(corners)]),
        object_ids=np.repeat([2, 5], len(corners)),
        object_attributes={"size": np.array([17.0, 9.0])},
    )
    dzv.build_pyramid(store, 2)
    before = len(both)
    for number in (1, 2):
        found = store.level(number).read(objects=2)
        ends = found.faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
        forth, back = ({tuple(e) for e in some.tolist()} for some in (ends, ends[:, ::-1]))
        assert forth == back  # every edge is in two faces, in both directions
        assert len(forth) == len(ends)
        volume = np.linalg.det(found.positions[found.faces]).sum() / 6
        assert 0.9 < volume / (4 / 3 * np.pi * 17**3) < 1.02
        np.testing.assert_array_equal(found.object_attributes["size"], [17.0])
        assert store.level(number).metadata.vertex_count < before / 2
        before = store.level(number).metadata.vertex_count
    quads = dzv.create({}, geometry="mesh", chunk_shape=(10, 10, 10))
    dzv.write_meshes(quads, corners[:4] * 5, faces=[[0, 1, 2, 3]])
    with pytest.raises(dzv.InputError, match="geometry 'mesh' with faces of 4 vertices"):
        dzv.build_pyramid(quads)
