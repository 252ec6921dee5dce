"""Graphs and meshes with fewer vertices: those of a bin that links join there become one, and links between bins stay, once.

Contraction goes by whole objects, so no seam between chunks opens; faces keep their winding. What only lies in the same bin, of
another object or of another part of the object, stays apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.geometry.cells import Column, GatheredCells
from dask_zv.geometry.result import Geometry
from dask_zv.spatial.chunks import group_by_chunk


@dataclass(frozen=True, slots=True, eq=False)
class Contracted:
    """What becomes of whole objects."""

    positions: NDArray[Any]  # (n, D)
    attributes: Mapping[str, NDArray[Any]]
    counts: NDArray[np.int64]  # (n,): vertices that each stands for
    objects: NDArray[np.int64]  # (n,): place of the object of each among those that were read
    links: NDArray[np.int64]  # (m, L): numbers of these vertices
    link_attributes: Mapping[str, NDArray[Any]]


def contract(
    geometry: Geometry,
    edges: NDArray[np.float64],
    columns: Sequence[Column],
    link_columns: Sequence[Column],
    counts: NDArray[np.int64],
    *,
    directed: bool,
) -> Contracted:
    """Contract the vertices of whole objects by bins of these `edges` (D,); `counts` are those that each stands for."""
    lengths, links = geometry.lengths, geometry.faces if geometry.faces is not None else geometry.edges
    assert lengths is not None
    n = len(geometry)
    if links is None:
        links = np.zeros((0, 2), np.int64)
    owners = np.repeat(np.arange(len(lengths)), lengths)
    cells = np.floor(geometry.positions.astype(np.float64) / edges).astype(np.int64)
    number = group_by_chunk(np.concatenate([cells, owners[:, None]], axis=1))[1]
    ends = np.concatenate([links[:, [k, (k + 1) % links.shape[1]]] for k in range(links.shape[1])])
    inside = ends[number[ends[:, 0]] == number[ends[:, 1]]]
    roots = components(n, inside[:, 0], inside[:, 1])
    heads, label = np.unique(roots, return_inverse=True)
    label = label.reshape(-1)
    attributes = {"": geometry.positions, **geometry.attributes}
    gathered = GatheredCells.of_each(columns, label, counts, attributes).coarser(columns, np.ones(1, np.int64))
    values = gathered.values(columns)
    positions = values.pop("")
    kept, of = _links_once(label[links], directed=directed)
    first = np.unique(of[of >= 0], return_index=True)[1]
    rows = np.flatnonzero(of >= 0)
    told: dict[str, NDArray[Any]] = {}
    if link_columns:
        given = {**geometry.edge_attributes, **geometry.face_attributes}
        some = {c.name: np.asarray(given[c.name])[rows] for c in link_columns}
        each = GatheredCells.of_each(link_columns, of[rows], np.ones(len(rows), np.int64), some)
        told = each.coarser(link_columns, np.ones(1, np.int64)).values(link_columns)
    assert len(first) == len(kept)
    return Contracted(positions, values, gathered.counts, owners[heads], kept, told)


def components(n: int, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the least vertex of the component of each of `n` vertices, which edges from `a` to `b` join."""
    root = np.arange(n)
    while True:
        one, two = root[a], root[b]
        apart = one != two
        if not apart.any():
            return root
        a, b = a[apart], b[apart]
        np.minimum.at(root, np.maximum(one, two)[apart], np.minimum(one, two)[apart])
        while (root[root] != root).any():
            root = root[root]


def _links_once(links: NDArray[np.int64], *, directed: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct links of distinct vertices, and which of them each of all is, -1 for none.

    Edges are the same in both directions, unless they are `directed`; faces are the same from every first vertex.
    """
    width = links.shape[1]
    ordered = np.sort(links, axis=1)
    whole = np.flatnonzero((ordered[:, 1:] != ordered[:, :-1]).all(axis=1))
    form = links[whole]
    if width > 2:
        turn = (np.argmin(form, axis=1)[:, None] + np.arange(width)) % width
        form = np.take_along_axis(form, turn, 1)
    elif not directed:
        form = ordered[whole]
    of = np.full(len(links), -1, np.int64)
    found, number = group_by_chunk(form)
    of[whole] = number
    if width == 2 and len(found):  # in the direction of the first
        first = np.zeros(len(found), np.intp)
        first[number[::-1]] = whole[::-1]
        found = links[first]
    return found, of
