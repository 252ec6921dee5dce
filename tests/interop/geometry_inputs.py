"""Paths, trees, graphs and surfaces to write, by this project and by the packages: numpy alone, the same on either side.

All positions of one input are distinct, so that a vertex is known by where it is; all cross chunks of `CHUNK`, and lie on both
sides of 0.
"""

from __future__ import annotations

import numpy as np

CHUNK = (40.0, 60.0, 120.0)
REACH = 75.0
"""Every coordinate is within this."""


def chunk_of(ndim):
    return CHUNK[:ndim]


def bounds_of(ndim=3, reach=80.0):
    return [-reach] * ndim, [reach] * ndim


def folded(positions):
    """Keep walks within reach, as a mirror would."""
    return REACH - np.abs((positions - REACH) % (4 * REACH) - 2 * REACH)


def vertex_attributes(n, seed=0):
    rng = np.random.default_rng(1000 + seed)
    return {
        "mass": rng.normal(size=n),
        "count": rng.integers(-(2**60), 2**60, n),
        "rgb": rng.integers(0, 255, (n, 3), dtype="u1"),
        "flag": rng.random(n) > 0.5,
    }


def link_attributes(n, seed=0):
    rng = np.random.default_rng(2000 + seed)
    return {"weight": rng.normal(size=n), "vec": rng.normal(size=(n, 2)).astype("f4"), "rank": rng.integers(-(2**60), 2**60, n)}


def object_attributes(count, seed=0):
    rng = np.random.default_rng(3000 + seed)
    return {"score": rng.normal(size=count).astype("f4"), "pair": rng.integers(0, 99, (count, 2))}


def paths(seed=0, count=24, ndim=3, dtype="f4", longest=40, shortest=2):
    """Return a list of walks; the last but one is of one vertex where `shortest` allows."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(max(shortest, 2), longest, count)
    if shortest < 2:
        lengths[-2] = 1
    out = []
    for n in lengths.tolist():
        start = rng.uniform(-60, 60, ndim)
        out.append(folded(start + np.cumsum(rng.normal(scale=11, size=(n, ndim)), axis=0)).astype(dtype))
    if shortest < 1:
        out[-3] = out[-3][:0]
    return out


def lines(seed=0, count=60, ndim=3, dtype="f4"):
    """Return endpoints (count, 2, ndim): some of one chunk, others across, one along a boundary."""
    rng = np.random.default_rng(seed)
    start = rng.uniform(-60, 60, (count, ndim))
    ends = np.stack([start, folded(start + rng.normal(scale=20, size=(count, ndim)))], axis=1)
    ends[0, 1] = -ends[0, 0]  # far across
    ends[1, :, 0] = 40.0  # on the boundary: the upper chunk's
    return ends.astype(dtype)


def forest(seed=0, trees=(60,), ndim=3, dtype="f4", shuffled=True):
    """Return positions, parents (-1 at roots) and the tree of each node, in an order that says nothing of the trees."""
    rng = np.random.default_rng(seed)
    positions, parents, tree = [], [], []
    for number, n in enumerate(trees):
        base = len(parents)
        for i in range(n):
            # mostly a path, with branches
            up = -1 if i == 0 else base + (i - 1 if rng.random() < 0.7 else int(rng.integers(0, i)))
            here = rng.uniform(-60, 60, ndim) if up < 0 else positions[up] + rng.normal(scale=9, size=ndim)
            positions.append(here)
            parents.append(up)
            tree.append(number)
    positions = folded(np.array(positions)).astype(dtype)
    parents, tree = np.array(parents, np.int64), np.array(tree, np.int64)
    if not shuffled:
        return positions, parents, tree
    order = rng.permutation(len(parents))  # new row r is old row order[r]
    back = np.argsort(order)
    up = parents[order]
    return positions[order], np.where(up < 0, -1, back[up]), tree[order]


def graph(seed=0, nodes=120, edges=260, ndim=3, dtype="f4", loops=True, reach=4, size=60):
    """Return positions and edges between neighbours along the first axis; with loops, parallel edges, both directions of some."""
    rng = np.random.default_rng(seed)
    positions = rng.uniform(-size, size, (nodes, ndim)).astype(dtype)
    if ndim > 2:
        positions[:, 2] = np.abs(positions[:, 2])  # half of the chunks: links lead to fewer others
    along = np.argsort(positions[:, 0])
    first = rng.integers(0, nodes, edges)
    pairs = np.stack([along[first], along[(first + rng.integers(-reach, reach + 1, edges)) % nodes]], axis=1)
    if loops:
        pairs[10] = 5, 5
        pairs[20:23] = 7, 8
        pairs[23:25] = 8, 7
    else:
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        pairs = pairs[np.sort(np.unique(np.sort(pairs, axis=1), axis=0, return_index=True)[1])]
    return positions, pairs


def surface(seed=0, patches=1, side=9, arity=3, ndim=3, dtype="f4", size=65):
    """Return positions, faces and the patch of each vertex: wavy patches, the vertices of all mixed."""
    rng = np.random.default_rng(seed)
    positions, faces, patch = [], [], []
    u, v = np.meshgrid(np.linspace(-size, size, side), np.linspace(-size, size, side), indexing="ij")
    i, j = (a.ravel() for a in np.meshgrid(np.arange(side - 1), np.arange(side - 1), indexing="ij"))
    corners = np.stack([i * side + j, (i + 1) * side + j, (i + 1) * side + j + 1, i * side + j + 1], axis=1)
    if arity == 3:
        corners = np.concatenate([corners[:, [0, 1, 2]], corners[:, [0, 2, 3]]])
    for number in range(patches):
        wave = 30 * np.sin(u / 20 + number) + 4 * number
        flat = np.stack([u, v, wave], axis=-1).reshape(-1, 3)[:, :ndim]
        positions.append(flat + rng.uniform(-3, 3, flat.shape))
        faces.append(corners + number * side * side)
        patch.append(np.full(side * side, number))
    positions, faces, patch = np.concatenate(positions), np.concatenate(faces), np.concatenate(patch)
    # every face starts somewhere else, and some wind the other way
    turned = np.stack([np.roll(f, int(k)) for f, k in zip(faces, rng.integers(0, arity, len(faces)), strict=True)])
    flipped = rng.random(len(turned)) < 0.3
    turned[flipped] = turned[flipped, ::-1]
    order = rng.permutation(len(positions))
    return positions[order].astype(dtype), np.argsort(order)[turned][rng.permutation(len(turned))], patch[order]
