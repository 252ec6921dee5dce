"""A geometry of many chunks or objects, cut into one of each; rows picked from a geometry."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.format.keys import coords_to_keys
from dask_zv.geometry.result import Geometry

Pieces = tuple[NDArray[np.int64], NDArray[np.int64], Callable[[int], str], Iterator[Geometry]]
"""Labels and rows of some chunks or objects, the name of each by its number, and the geometry of each."""


def chunk_name(coords: NDArray[np.int64], number: int) -> str:
    """Return one of some chunks in words."""
    return f"chunk {coords_to_keys(coords[number : number + 1])[0]}"


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
    ends = np.cumsum(counts)
    starts = ends - counts
    parents = geometry.parents
    if parents is not None:
        first = np.repeat(starts, counts)
        inside = (parents >= first) & (parents < np.repeat(ends, counts))
        parents = np.where(inside, parents - first, -1)
    links = {found[0]: _cut_links(*found[1:], starts, counts) for found in _links(geometry)}
    if geometry.ids is not None and geometry.object_index is not None:
        assert len(geometry.object_index) == len(counts)
    by_row = {"object_ids": geometry.object_ids, "parents": parents}
    whole = _Whole(geometry, np.append(starts, ends[-1:]).tolist(), by_row, links)
    # the slots themselves: a frozen class sets its fields at ten times the cost; nearly everyone wants positions
    put: list[Any] = [getattr(_Part, name).__set__ for name in ("whole", "number", "positions")]
    put_whole, put_number, put_positions = put
    make, positions, first_row = _Part.__new__, geometry.positions, 0
    for number, last_row in enumerate(ends.tolist()):
        part = make(_Part)
        put_whole(part, whole)
        put_number(part, number)
        put_positions(part, positions[first_row:last_row])
        first_row = last_row
        yield part


@dataclass(frozen=True, slots=True, eq=False)
class _Whole:
    """A geometry that is cut: the first row of each part, and one more; parents and links are by rows of their parts."""

    geometry: Geometry
    starts: list[int]
    by_row: Mapping[str, NDArray[Any] | None]  # fields that have a value for each row
    links: Mapping[str, tuple[NDArray[np.int64], Mapping[str, NDArray[Any]], list[int]]]

    def field(self, name: str, number: int) -> Any:
        """Return a field of one of the parts."""
        if name in self.by_row:
            rows, values = slice(self.starts[number], self.starts[number + 1]), self.by_row[name]
            return None if values is None else values[rows]
        value = getattr(self.geometry, name)
        links = self.links.get({"edge_attributes": "edges", "face_attributes": "faces"}.get(name, name))
        if links is not None:
            rows = slice(links[2][number], links[2][number + 1])
            value = links[0] if name in self.links else links[1]
        elif name == "attributes":
            rows = slice(self.starts[number], self.starts[number + 1])
        elif name in ("ids", "lengths", "object_index", "object_attributes") and self.geometry.ids is not None:
            rows = slice(number, number + 1)
        else:  # what all parts share
            return _NO_OBJECT.get(name, value)
        return {k: v[rows] for k, v in value.items()} if isinstance(value, Mapping) else None if value is None else value[rows]


_NO_OBJECT: dict[str, Any] = {"ids": None, "lengths": None, "object_index": None, "object_attributes": {}, "halo": 0}
"""Fields of a part of what was not read by object."""


_FIELDS = frozenset(f.name for f in fields(Geometry))


class _Part(Geometry):
    """A part of a geometry whose fields are cut when they are asked for: functions of many small parts want few of them."""

    __slots__ = ("number", "whole")
    number: int
    whole: _Whole

    def __getattr__(self, name: str) -> Any:
        if name not in _FIELDS:
            raise AttributeError(f"'Geometry' object has no attribute {name!r}", name=name, obj=self)
        value = self.whole.field(name, self.number)
        object.__setattr__(self, name, value)
        return value

    def __reduce__(self) -> tuple[Any, ...]:
        return Geometry, tuple(getattr(self, f.name) for f in fields(Geometry))


def _links(geometry: Geometry) -> Iterator[tuple[str, NDArray[np.int64], Mapping[str, NDArray[Any]]]]:
    """Yield the fields of links that the geometry has: name, rows, attributes."""
    if geometry.edges is not None:
        yield "edges", geometry.edges, geometry.edge_attributes
    if geometry.faces is not None:
        yield "faces", geometry.faces, geometry.face_attributes


def _cut_links(
    links: NDArray[np.int64],
    attributes: Mapping[str, NDArray[Any]],
    starts: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> tuple[NDArray[np.int64], dict[str, NDArray[Any]], list[int]]:
    """Return the links inside parts, part by part in their order, by rows of their parts; and where each part's begin."""
    part = np.repeat(np.arange(len(counts)), counts)[links]
    inside = np.flatnonzero((part == part[:, :1]).all(axis=1))
    order = inside[np.argsort(part[inside, 0], kind="stable")]
    of_part = part[order, 0]
    bounds = np.searchsorted(of_part, np.arange(len(counts) + 1)).tolist()
    return links[order] - starts[of_part][:, None], {k: v[order] for k, v in attributes.items()}, bounds
