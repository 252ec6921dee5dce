"""A geometry of many chunks or objects, cut into one of each; rows picked from a geometry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.geometry.result import Geometry


def take_rows(geometry: Geometry, rows: NDArray[np.intp]) -> Geometry:
    """Return a geometry of some rows, in the order given.

    Edges and faces are those all of whose ends are there, between the first copies where a row comes several times.
    """
    place = np.full(len(geometry) + 1, -1, np.int64)  # the last one stands for a parent that there isn't
    place[rows[::-1]] = np.arange(len(rows))[::-1]
    changed: dict[str, Any] = {
        "positions": geometry.positions[rows],
        "attributes": {name: v[rows] for name, v in geometry.attributes.items()},
    }
    if geometry.object_ids is not None:
        changed["object_ids"] = geometry.object_ids[rows]
    if geometry.parents is not None:
        changed["parents"] = place[geometry.parents[rows]]
    for links, values, attributes in _links(geometry):
        named = place[values]
        kept = np.flatnonzero((named >= 0).all(axis=1))
        changed[links] = named[kept]
        changed[f"{links[:-1]}_attributes"] = {name: v[kept] for name, v in attributes.items()}
    return replace(geometry, **changed)


def cut_by_rows(geometry: Geometry, counts: NDArray[np.int64]) -> Iterator[Geometry]:
    """Yield the parts of a geometry, of `counts` rows each, one after the other, as if each had been read alone.

    Links are those between vertices of one part; a parent in another is -1. Where the geometry has `ids` (it was read by
    object), each part is one object, with its own row of `object_attributes`.
    """
    n = len(counts)
    ends = np.cumsum(counts)
    starts = ends - counts
    parents = geometry.parents
    if parents is not None:
        first = np.repeat(starts, counts)
        inside = (parents >= first) & (parents < np.repeat(ends, counts))
        parents = np.where(inside, parents - first, -1)
    links = [_cut_links(*found, starts, counts) for found in _links(geometry)]
    by_object = geometry.ids is not None
    for i, (a, b) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        more: dict[str, Any] = {}
        for name, values, attributes, bounds in links:
            mine = slice(bounds[i], bounds[i + 1])
            more[name] = values[mine]
            more[f"{name[:-1]}_attributes"] = {k: v[mine] for k, v in attributes.items()}
        if by_object:
            more |= _one_object(geometry, i, n)
        yield Geometry(
            geometry.positions[a:b],
            {name: v[a:b] for name, v in geometry.attributes.items()},
            None if geometry.object_ids is None else geometry.object_ids[a:b],
            parents=None if parents is None else parents[a:b],
            groups=geometry.groups,
            group_attributes=geometry.group_attributes,
            **more,
        )


def _one_object(geometry: Geometry, number: int, count: int) -> dict[str, Any]:
    assert geometry.ids is not None
    assert geometry.lengths is not None
    mine = slice(number, number + 1)
    out: dict[str, Any] = {"ids": geometry.ids[mine], "lengths": geometry.lengths[mine]}
    if geometry.object_index is not None:
        assert len(geometry.object_index) == count
        out["object_index"] = geometry.object_index[mine]
        out["object_attributes"] = {k: v[mine] for k, v in geometry.object_attributes.items()}
    return out


def _links(geometry: Geometry) -> Iterator[tuple[str, NDArray[np.int64], Mapping[str, NDArray[Any]]]]:
    """Yield the fields of links that the geometry has: name, rows, attributes."""
    if geometry.edges is not None:
        yield "edges", geometry.edges, geometry.edge_attributes
    if geometry.faces is not None:
        yield "faces", geometry.faces, geometry.face_attributes


def _cut_links(
    name: str,
    links: NDArray[np.int64],
    attributes: Mapping[str, NDArray[Any]],
    starts: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> tuple[str, NDArray[np.int64], dict[str, NDArray[Any]], list[int]]:
    """Return the links inside parts, part by part in their order, by rows of their parts; and where each part's begin."""
    part = np.repeat(np.arange(len(counts)), counts)[links]
    inside = np.flatnonzero((part == part[:, :1]).all(axis=1))
    order = inside[np.argsort(part[inside, 0], kind="stable")]
    of_part = part[order, 0]
    bounds = np.searchsorted(of_part, np.arange(len(counts) + 1)).tolist()
    return name, links[order] - starts[of_part][:, None], {k: v[order] for k, v in attributes.items()}, bounds
