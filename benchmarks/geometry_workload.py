"""What the sides of ``compare_geometries.py`` store and read, and what identifies it; numpy alone.

Polylines and skeletons wander through a cube, meshes are tori that lie anywhere in it, the graph is a bent lattice that fills
it. Vertices have a radius, where a job says so. What was read is compared with what was written by checksums that depend
neither on the order of vertices nor on that of links: of positions, and of which of them are joined. The sums of radii and of
owners are apart, because the peer doesn't always give them.
"""

from __future__ import annotations

import json
import statistics
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from grid_workload import EXTENT, Clock, Job, row_hashes

KINDS = {"polylines": "polyline", "skeletons": "skeleton", "mesh": "mesh", "graph": "graph"}
"""Rows of the comparison, and what stores call their geometry."""
PATH_LENGTH = 100
"""Vertices of a polyline or a tree."""
OTHERS = 5
"""Objects that are read one by one after the first, while that takes no longer than this."""
OTHERS_SECONDS = 3.0

__all__ = [
    "KINDS", "PATH_LENGTH", "Shapes", "digest", "digest_of_all", "load_rows", "load_shapes", "make", "read_one_by_one",
    "save_shapes", "torus_of",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shapes:
    """Geometry as one side gives or gets it. Links are row numbers; a graph's edges have no direction."""

    positions: Any
    radius: Any = None
    owners: Any = None
    """Object of each vertex."""
    lengths: Any = None
    """Of paths."""
    parents: Any = None
    edges: Any = None
    """Of skeletons: child, parent."""
    faces: Any = None


def make(job: Job) -> Shapes:
    """Return what a job is about: `job.count` paths, trees, tori or nodes along an axis."""
    source = np.random.default_rng(2)
    if job.geometry == "mesh":
        shapes = tori(source, job.count, torus_of(job))
    else:
        shapes = {"polylines": polylines, "skeletons": skeletons, "graph": lattice}[job.geometry](source, job.count)
    return replace(shapes, radius=source.random(len(shapes.positions), np.float32)) if job.radius else shapes


def inside(points: np.ndarray) -> np.ndarray:
    """Return positions mirrored into the cube."""
    folded = (EXTENT - np.abs(points % (2 * EXTENT) - EXTENT)).astype(np.float32)
    return np.minimum(folded, np.nextafter(np.float32(EXTENT), np.float32(0)))  # the cast may round up to the edge


def polylines(source: np.random.Generator, count: int) -> Shapes:
    steps = source.normal(size=(count, PATH_LENGTH, 3))
    for i in range(1, PATH_LENGTH):  # directions change little from step to step
        steps[:, i] = 0.9 * steps[:, i - 1] + 0.45 * steps[:, i]
    steps *= 2.5
    steps[:, 0] = source.uniform(0, EXTENT, (count, 3))
    positions = inside(np.cumsum(steps, axis=1).reshape(-1, 3))
    return Shapes(positions, owners=np.repeat(np.arange(count), PATH_LENGTH), lengths=np.full(count, PATH_LENGTH))


def skeletons(source: np.random.Generator, count: int) -> Shapes:
    places = np.empty((count, PATH_LENGTH, 3))
    parents = np.full((count, PATH_LENGTH), -1)
    places[:, 0] = source.uniform(0, EXTENT, (count, 3))
    trees = np.arange(count)
    for i in range(1, PATH_LENGTH):
        branches = source.random(count) < 0.1
        parents[:, i] = np.where(branches, source.integers(0, i, count), i - 1)
        places[:, i] = places[trees, parents[:, i]] + source.normal(scale=5.0, size=(count, 3))
    parents[:, 1:] += trees[:, None] * PATH_LENGTH
    flat = parents.ravel()
    return Shapes(
        inside(places.reshape(-1, 3)), owners=np.repeat(trees, PATH_LENGTH), parents=flat, edges=edges_of_parents(flat)
    )


def edges_of_parents(parents: np.ndarray) -> np.ndarray:
    """Return (child, parent)."""
    children = np.flatnonzero(parents >= 0)
    return np.stack([children, parents[children]], axis=1)


def torus_of(job: Job) -> tuple[int, int]:
    """Return the quadrilaterals around and across a torus, each of two faces: 15,900, or few where there are few chunks."""
    return (106, 75) if job.chunks >= 1_000 else (20, 9)


def tori(source: np.random.Generator, count: int, quadrilaterals: tuple[int, int]) -> Shapes:
    around, across = quadrilaterals
    u, v = np.meshgrid(np.arange(around), np.arange(across), indexing="ij")
    a, b = 2 * np.pi * u / around, 2 * np.pi * v / across
    ring = 200 + 60 * np.cos(b)
    shape = np.stack([ring * np.cos(a), ring * np.sin(a), 60 * np.sin(b)], axis=-1).reshape(-1, 3)
    turns = np.linalg.qr(source.normal(size=(count, 3, 3)))[0]
    positions = shape @ turns + source.uniform(270, EXTENT - 270, (count, 1, 3))
    corners = [((u + i) % around) * across + (v + j) % across for i, j in ((0, 0), (1, 0), (1, 1), (0, 1))]
    quads = np.stack([c.ravel() for c in corners], axis=1)
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    each = len(shape)
    all_faces = (faces[None] + np.arange(count)[:, None, None] * each).reshape(-1, 3)
    return Shapes(inside(positions.reshape(-1, 3)), owners=np.repeat(np.arange(count), each), faces=all_faces)


def lattice(source: np.random.Generator, side: int) -> Shapes:
    numbers = np.arange(side**3).reshape(side, side, side)
    cells = np.stack(np.unravel_index(numbers.ravel(), numbers.shape), axis=1)
    positions = inside((cells + source.uniform(0.1, 0.9, cells.shape)) * (EXTENT / side))
    pairs = [(numbers[1:], numbers[:-1]), (numbers[:, 1:], numbers[:, :-1])]
    return Shapes(positions, edges=np.concatenate([np.stack([p.ravel(), q.ravel()], axis=1) for p, q in pairs]))


def picked(job: Job) -> list[int]:
    """Return the ids of the objects that are read one by one."""
    return [(job.count // 3 + i * (job.count // (OTHERS + 1) or 1)) % job.count for i in range(OTHERS + 1)]


def digest(job: Job, shapes: Shapes) -> dict[str, Any]:
    """Return how many vertices these are, and checksums of what they hold."""
    places = row_hashes(*np.asarray(shapes.positions, np.float32).T)
    total = places.copy()
    if shapes.lengths is not None:  # a path is joined in its order
        lengths = np.asarray(shapes.lengths)
        rank = np.arange(len(places)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        total = row_hashes(places, rank, shapes.owners)
    found = {"count": len(places), "digest": sum_of(total)}
    ends = shapes.faces if shapes.edges is None else shapes.edges
    if ends is not None:
        joined = places[np.asarray(ends)]
        if job.geometry == "graph":
            joined = np.sort(joined, axis=1)
        found |= {"links": len(joined), "links_digest": sum_of(row_hashes(*joined.T))}
    if shapes.radius is not None:
        found["radius_digest"] = sum_of(row_hashes(places, np.asarray(shapes.radius, np.float32)))
    if shapes.owners is not None:
        found["owners_digest"] = sum_of(row_hashes(places, shapes.owners))
    return found


def sum_of(hashes: np.ndarray) -> int:
    return int(hashes.sum(dtype=np.uint64))


def digest_of_all(job: Job, shapes: Shapes) -> dict[str, Any]:
    """Return the checksums of all, and of the objects that are to be read one by one."""
    found = digest(job, shapes)
    if shapes.owners is not None:
        found["picked"] = [digest(job, part_of(shapes, oid)) for oid in picked(job)]
    return found


def part_of(shapes: Shapes, oid: int) -> Shapes:
    """Return one object."""
    rows = np.flatnonzero(shapes.owners == oid)
    links = {}
    for name in ("edges", "faces"):
        ends = getattr(shapes, name)
        if ends is not None:
            links[name] = np.searchsorted(rows, ends[shapes.owners[ends[:, 0]] == oid])
    lengths = None if shapes.lengths is None else np.array([len(rows)])
    radius = None if shapes.radius is None else shapes.radius[rows]
    return Shapes(shapes.positions[rows], radius, shapes.owners[rows], lengths, **links)


def read_one_by_one(
    job: Job, clock: Clock, open_level: Callable[[Job], Any], read_object: Callable[[Any, str, int], Shapes]
) -> dict[str, Any]:
    """Open a store and read one object, then others: what a worker measures for ``read one``.

    The seconds are those of opening and of the first object, which finds nothing ready; ``again_seconds`` is the median of the
    others.
    """
    first, *others = picked(job)
    with clock:
        level = open_level(job)
    opened, opening = clock.seconds, requests_of(job)
    with clock:
        found = [read_object(level, job.geometry, first)]
    asked, again = requests_of(job), []
    for oid in others:
        start = time.perf_counter()
        found.append(read_object(level, job.geometry, oid))
        again.append(time.perf_counter() - start)
        if sum(again) > OTHERS_SECONDS:
            break
    times = {"seconds": opened + clock.seconds, "object_seconds": clock.seconds, "again_seconds": statistics.median(again)}
    asked = {f"{k}_opened": v for k, v in asked.items()} | {f"{k}_object": v - opening[k] for k, v in asked.items()}
    count = sum(len(shapes.positions) for shapes in found)
    return {"count": count, "picked": [digest(job, shapes) for shapes in found], **times, **asked}


def requests_of(job: Job) -> dict[str, float]:
    """Return what the server was asked until now; asking this is not counted."""
    if job.endpoint is None:
        return {}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{job.endpoint}/__stats", timeout=30) as reply:
        stats = json.load(reply)
    waits = stats["busy_seconds"] / (stats["latency_ms"] / 1000) if stats["latency_ms"] else 0.0
    return {"requests": stats["requests"], "waits": waits}


def save_shapes(folder: Path, shapes: Shapes) -> None:
    """Save the arrays that workers are to write."""
    folder.mkdir()
    for name in Shapes.__slots__:
        values = getattr(shapes, name)
        if values is not None:
            np.save(folder / f"{name}.npy", values)


def load_shapes(job: Job) -> Shapes:
    """Load what was saved."""
    return Shapes(**{path.stem: np.load(path) for path in Path(job.inputs).glob("*.npy")})


def load_rows(path: Path, first: int, stop: int) -> np.ndarray:
    """Load some rows of an array that was saved."""
    rows: np.ndarray = np.array(np.load(path, mmap_mode="r")[first:stop])
    return rows
