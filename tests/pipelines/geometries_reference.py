"""Random geometries, and what must come back of them: plain numpy and Python, one row at a time.

Vertices carry their place in the input as the attribute ``number``, links theirs as well, so that what was read is compared
with what was written without a word about positions, which may be double.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from points_reference import assert_same, chunk_of, in_box

import dask_zv as dzv

PATHS = ("line", "polyline", "streamline")
LINKED = ("skeleton", "graph", "mesh")
GEOMETRIES = (*PATHS, *LINKED)
ALL = ("point_cloud", *GEOMETRIES)
VERBS = {
    "point_cloud": dzv.write_points,
    "line": dzv.write_lines,
    "polyline": dzv.write_polylines,
    "streamline": dzv.write_polylines,
    "skeleton": dzv.write_skeletons,
    "graph": dzv.write_graph,
    "mesh": dzv.write_meshes,
}


@dataclass
class Data:
    """A geometry as it is to be written.

    `ids` is the object of each vertex, None without objects; `objects` all ids, ascending, also of objects without vertices. `lengths` and
    `path_ids` are of paths, in the order of the input; `parents`, `links` (edges or faces) and `link_attributes` of the others.
    """

    geometry: str
    positions: np.ndarray
    ids: np.ndarray | None
    objects: np.ndarray
    attributes: dict[str, np.ndarray] = field(default_factory=dict)
    lengths: np.ndarray | None = None
    path_ids: np.ndarray | None = None
    parents: np.ndarray | None = None
    links: np.ndarray | None = None
    link_attributes: dict[str, np.ndarray] = field(default_factory=dict)
    directed: bool = False

    def __len__(self) -> int:
        return len(self.positions)

    def without(self, *names: str) -> Data:
        """Return the same without some attributes of vertices."""
        return replace(self, attributes={k: v for k, v in self.attributes.items() if k not in names})


def some_positions(rng: np.random.Generator, n: int, chunk: Sequence[float], dtype: Any, spread: int = 3) -> np.ndarray:
    """Return positions on boundaries of chunks and bins, one step beside them, anywhere, and some that are double."""
    cells = rng.integers(-spread, spread + 1, (n, len(chunk)))
    inside = rng.random((n, len(chunk)))
    inside = np.where(rng.random(inside.shape) < 0.3, rng.integers(0, 2, inside.shape) / rng.choice([2, 3, 10]), inside)
    points = (cells + inside) * np.asarray(chunk)
    beside = rng.random(points.shape) < 0.1
    points[beside] = np.nextafter(points[beside], rng.choice([-np.inf, np.inf], int(beside.sum())))
    if n > 1:
        again = rng.random(n) < 0.15
        points[again] = points[rng.integers(0, n, int(again.sum()))]
    return points.astype(dtype)


def some_walks(rng: np.random.Generator, lengths: Sequence[int], chunk: Sequence[float], dtype: Any) -> np.ndarray:
    """Return paths that mostly stay near, some of which leave chunks and come back, some that jump."""
    edge, parts = np.asarray(chunk), [np.zeros((0, len(chunk)))]
    for n in lengths:
        step = rng.choice([0.05, 0.4, 2.0]) * edge
        walk = rng.uniform(-2, 2, len(chunk)) * edge + np.cumsum(rng.normal(size=(n, len(chunk))) * step, axis=0)
        parts.append(np.where(rng.random(walk.shape) < 0.2, np.round(walk / edge) * edge, walk))
    return np.concatenate(parts).astype(dtype)


def some_ids(rng: np.random.Generator, count: int, *, dense: bool) -> np.ndarray:
    """Return distinct object ids in any order: 0 to n-1, or anything."""
    if dense:
        return rng.permutation(count).astype(np.int64)
    return rng.choice([0, 1000, 2**40, 2**62]) + rng.permutation(3 * count + 2)[:count].astype(np.int64)


def some_attributes(rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    """Return numbers, floats with NaN, channels, and strings of which some are missing."""
    floats = np.where(rng.random(n) < 0.1, np.nan, rng.normal(size=n)).astype(np.float32)
    words = np.array([*rng.choice(np.array(["soma", "axon", "", "ß", None], object), n), None], object)[:-1]
    return {"number": np.arange(n), "f": floats, "rgb": rng.integers(0, 256, (n, 3), dtype=np.uint8), "kind": words}


def some_parents(rng: np.random.Generator, n: int) -> np.ndarray:
    """Return the parents of some trees: chains, stars, combs and anything between, in this order of rows."""
    parents = np.full(n, -1, np.int64)
    row = 0
    while row < n:
        size, shape = int(rng.integers(1, max(2, n - row + 1))), int(rng.integers(4))
        for i in range(row + 1, row + size):
            parents[i] = (i - 1, row, max(row, i - int(rng.integers(1, 4))), int(rng.integers(row, i)))[shape]
        row += size
    return parents


def some_data(
    rng: np.random.Generator,
    geometry: str,
    n: int,
    chunk: Sequence[float],
    *,
    dtype: Any = np.float64,
    dense: bool = False,
    empty: bool = True,
    links: int | None = None,
    width: int | None = None,
) -> Data:
    """Return a random geometry of about `n` vertices."""
    if geometry in PATHS:
        sizes = [2] * (n // 2) if geometry == "line" else []
        while geometry != "line" and sum(sizes) < n:
            sizes.append(int(min(rng.choice([0, 1, 2, 5, 20][0 if empty else 1 :]), n - sum(sizes))))
        lengths = np.array(sizes, np.int64)
        path_ids = some_ids(rng, len(lengths), dense=dense)
        total = int(lengths.sum())
        points = some_walks(rng, sizes, chunk, dtype) if rng.random() < 0.7 else some_positions(rng, total, chunk, dtype)
        ids = np.repeat(path_ids, lengths)
        return Data(geometry, points, ids, np.sort(path_ids), some_attributes(rng, total), lengths, path_ids)
    points = some_positions(rng, n, chunk, dtype) if rng.random() < 0.6 else some_walks(rng, [n], chunk, dtype)
    attributes = some_attributes(rng, n)
    names = np.sort(some_ids(rng, int(rng.integers(1, 6)), dense=dense))
    ids = rng.choice(names, n) if n else np.zeros(0, np.int64)
    if geometry == "point_cloud":
        ids = np.unique(ids, return_inverse=True)[1].reshape(-1).astype(np.int64) if dense else ids
        return Data(geometry, points, ids, np.unique(ids), attributes)
    if geometry == "skeleton":
        own, parents = np.sort(ids), np.full(n, -1, np.int64)
        for name in np.unique(own):
            rows = np.flatnonzero(own == name)
            within = some_parents(rng, len(rows))
            parents[rows] = np.where(within < 0, -1, rows[0] + within)
        if rng.random() < 0.7:  # interleaved, children before their parents
            to = rng.permutation(n)
            place = np.argsort(to)
            own, parents = own[to], np.where(parents[to] < 0, rng.integers(-3, 0, n), place[parents[to]])
        return Data(geometry, points, own, np.unique(own), attributes, parents=parents)
    width = width or (2 if geometry == "graph" else int(rng.choice([3, 3, 4])))
    count = (int(rng.integers(0, 2 * n + 1)) if links is None else links) if n else 0
    table = rng.integers(0, max(n, 1), (count, width))
    if count > 3:  # the same again, and turned round
        table[1], table[2] = table[0], table[0][::-1]
    about = {
        "number": np.arange(count),
        "weight": rng.normal(size=count).astype(np.float32),
        "pair": rng.integers(-9, 9, (count, 2)).astype(np.int16),
    }
    return Data(geometry, points, ids, np.unique(ids), attributes, links=table, link_attributes=about)


def write(
    store: dzv.Store,
    data: Data,
    of: Callable[[Any], Any] = np.asarray,
    of_links: Callable[[Any], Any] | None = None,
    *,
    by_lengths: bool = True,
    **options: Any,
) -> Any:
    """Write arrays in a form: `of` those of vertices, `of_links` those of links; paths are told by lengths, or by their ids."""
    of_links = of_links or of
    positions, attributes = data.positions, data.attributes
    if data.geometry == "line":
        positions = positions.reshape(-1, 2, positions.shape[1])
        attributes = {k: v.reshape(-1, 2, *v.shape[1:]) for k, v in attributes.items()}
    about: dict[str, Any] = {"attributes": {k: of(v) for k, v in attributes.items()}}
    if data.geometry == "line":
        about |= {"object_ids": data.path_ids}
    elif data.geometry in PATHS and by_lengths:
        about |= {"lengths": data.lengths, "object_ids": data.path_ids}
    elif data.ids is not None:
        about |= {"object_ids": of(data.ids)}
    if data.geometry == "skeleton":
        about |= {"parents": of(data.parents)}
    elif data.geometry in ("graph", "mesh"):
        name = "edge" if data.geometry == "graph" else "face"
        columns = {k: of_links(v) for k, v in data.link_attributes.items()}
        about |= {f"{name}s": of_links(data.links), f"{name}_attributes": columns}
        about |= {"directed": data.directed} if name == "edge" else {}
    return VERBS[data.geometry](store, of(positions), **{**about, **options})


def links_of(geometry: Any) -> tuple[Any, Any]:
    """Return the edges or faces that were read, and their attributes."""
    if geometry.faces is None:
        return geometry.edges, geometry.edge_attributes
    return geometry.faces, geometry.face_attributes


def path_rows(data: Data, wanted: Iterable[int] | None = None) -> list[tuple[int, list[int]]]:
    """Return (id, rows of the input in the order of reading) of objects, ascending by id; but for paths, in any order."""
    rows: dict[int, list[int]] = {int(i): [] for i in data.objects}
    for row, owner in enumerate(data.ids.tolist()):
        rows[owner].append(row)
    chosen = rows if wanted is None else {int(w) for w in wanted}
    return [(i, rows[i]) for i in sorted(chosen)]


def clipped_runs(data: Data, inside: np.ndarray, wanted: Iterable[int] | None = None) -> list[tuple[int, list[int]]]:
    """Return (id, rows) of each unbroken run of a path's vertices that are inside."""
    out: list[tuple[int, list[int]]] = []
    for owner, rows in path_rows(data, wanted):
        run: list[int] = []
        for row in [*rows, None]:
            if row is not None and inside[row]:
                run.append(row)
            elif run:
                out.append((owner, run))
                run = []
    return out


def check_paths(geometry: Any, expected: Sequence[tuple[int, list[int]]], data: Data) -> None:
    """Compare paths that were read with (id, rows) in their order."""
    assert geometry.attributes["number"].tolist() == [r for _, run in expected for r in run]
    assert geometry.ids.tolist() == [i for i, _ in expected]
    assert geometry.lengths.tolist() == [len(run) for _, run in expected]
    check_vertices(geometry, data)


def check_vertices(geometry: Any, data: Data) -> np.ndarray:
    """Compare everything about the vertices that were read with the input; return their rows in the input."""
    rows = geometry.attributes["number"]
    assert len(set(rows.tolist())) == len(rows), "a vertex was read twice"
    assert_same(geometry.positions, data.positions[rows], "positions")
    assert sorted(geometry.attributes) == sorted(data.attributes)
    for name, values in data.attributes.items():
        if values.dtype == object:
            assert geometry.attributes[name].tolist() == values[rows].tolist(), name
        else:
            assert_same(geometry.attributes[name], values[rows], name)
    if data.ids is None:
        assert geometry.object_ids is None
    else:
        assert_same(geometry.object_ids, data.ids[rows], "object ids")
    return rows


def check_linked(geometry: Any, data: Data, rows: Iterable[int] | None = None) -> None:
    """Compare what was read, but paths, with the part of the input that `rows` (all of it) are, and the links between them."""
    read = check_vertices(geometry, data)
    wanted = set(range(len(data)) if rows is None else map(int, rows))
    assert set(read.tolist()) == wanted
    place = {int(r): i for i, r in enumerate(read)}
    if data.parents is not None:
        parents = [place.get(int(data.parents[r]), -1) if data.parents[r] >= 0 else -1 for r in read]
        assert geometry.parents.tolist() == parents
        assert geometry.parents.dtype == np.int64
        assert geometry.edges.tolist() == [[i, p] for i, p in enumerate(parents) if p >= 0]
        return
    found, about = links_of(geometry)
    if data.links is None:
        assert found is None
        return
    assert (geometry.edges is None) == (data.geometry == "mesh")
    kept = [k for k, link in enumerate(data.links.tolist()) if wanted.issuperset(link)]
    assert found.dtype == np.int64
    assert found.shape == (len(kept), data.links.shape[1])
    assert sorted(about) == sorted(data.link_attributes)
    if not data.link_attributes:
        ends = Counter(tuple(link) for link in read[found].tolist())
        assert ends == Counter(tuple(data.links[k].tolist()) for k in kept)
        return
    numbers = np.asarray(about["number"])
    assert sorted(numbers.tolist()) == kept
    assert_same(read[found].reshape(found.shape), data.links[numbers].astype(np.int64), "links")
    for name, values in data.link_attributes.items():
        assert_same(np.asarray(about[name]), values[numbers], name)
        assert not np.ma.getmaskarray(about[name]).any()


def check_read(level: Any, data: Data) -> None:
    """Compare a level, read whole, with the input."""
    if data.geometry in PATHS:
        check_paths(level.read(), path_rows(data), data)
    else:
        check_linked(level.read(), data)


def inside_box(data: Data, box: Any) -> np.ndarray:
    """Tell which vertices lie in a closed box."""
    return in_box(data.positions, box) if len(data) else np.zeros(0, bool)


def inside_chunks(data: Data, chunk: Sequence[float], keys: Iterable[Sequence[int]]) -> np.ndarray:
    """Tell which vertices lie in some chunks."""
    some = {tuple(k) for k in keys}
    return np.array([chunk_of(p, chunk) in some for p in data.positions], bool)
