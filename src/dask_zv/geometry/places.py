"""Where vertices went: from the name of a vertex to its chunk, and its row there."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.geometry.encoding import Arrangement, ChunkedRows, Fragments
from dask_zv.geometry.link_records import LinkRecords, LinkRows
from dask_zv.spatial.grouping import group_by_chunk


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Places of some vertices.

    Attributes
    ----------
    numbers : ndarray of int64, shape (n,)
        Their places in the input, ascending.
    ids : ndarray of int64, shape (n,), optional
        What links call them, where that is not their numbers.
    coords : ndarray of int64, shape (c, K)
        Chunks.
    chunks : ndarray of int32, shape (n,)
        Chunk of each, as a place in `coords`.
    rows : ndarray of int64, shape (n,)
        Row of each among its chunk's vertices.
    objects : ndarray of int64, shape (n,), optional
    """

    numbers: NDArray[np.int64]
    ids: NDArray[np.int64] | None
    coords: NDArray[np.int64]
    chunks: NDArray[np.int32]
    rows: NDArray[np.int64]
    objects: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def names(self) -> NDArray[np.int64]:
        """What links call them."""
        return self.numbers if self.ids is None else self.ids

    def __sizeof__(self) -> int:
        names = 0 if self.ids is None else self.ids.nbytes
        objects = 0 if self.objects is None else self.objects.nbytes
        return self.numbers.nbytes + names + self.coords.nbytes + self.chunks.nbytes + self.rows.nbytes + objects + 200

    def between(self, first: int, last: int) -> Places:
        """Return the places of the vertices whose numbers are in [first, last)."""
        a, b = np.searchsorted(self.numbers, [first, last]).tolist()
        used, at = np.unique(self.chunks[a:b], return_inverse=True)
        return Places(
            self.numbers[a:b],
            None if self.ids is None else self.ids[a:b],
            self.coords[used],
            at.reshape(-1).astype(np.int32),
            self.rows[a:b],
            None if self.objects is None else self.objects[a:b],
        )

    @classmethod
    def join(cls, parts: Sequence[Places], ndim: int) -> Places:
        """Return the places of all parts, ascending by name."""
        if not parts:
            none = np.zeros(0, np.int64)
            return cls(none, None, np.zeros((0, ndim), np.int64), none.astype(np.int32), none)
        names = np.concatenate([p.names for p in parts])
        first = np.cumsum([0, *(len(p.coords) for p in parts)]).tolist()
        chunks = np.concatenate([p.chunks + np.int32(f) for f, p in zip(first, parts, strict=False)])
        rows = np.concatenate([p.rows for p in parts])
        objects = [p.objects for p in parts if p.objects is not None]
        order = np.argsort(names, kind="stable")
        return cls(
            np.concatenate([p.numbers for p in parts])[order],
            None if parts[0].ids is None else names[order],
            np.concatenate([p.coords for p in parts]),
            chunks[order],
            rows[order],
            np.concatenate(objects)[order] if objects else None,
        )

    def find(self, links: LinkRows) -> Found:
        """Return the endpoints of `links` that are among these, which must be ascending by name.

        Raises
        ------
        InputError
            Two vertices have the id that a link names.
        """
        wanted = links.endpoints.reshape(-1)
        n = len(self)
        if n == 0:
            return Found(np.zeros(0, np.int64), self.coords, self.chunks, self.rows, self.objects)
        names = self.names
        low, high = int(names[0]), int(names[-1])
        inside = np.flatnonzero((wanted >= low) & (wanted <= high))
        if self.ids is None and high - low + 1 == n:  # numbers without a gap: no search
            at = wanted[inside] - low
        else:
            at = np.searchsorted(names, wanted[inside])
            same = names[at] == wanted[inside]
            inside, at = inside[same], at[same]
            twice = at[(at + 1 < n) & (names[np.minimum(at + 1, n - 1)] == wanted[inside])]
            if len(twice):
                raise InputError(f"two vertices have the id {names[twice[0]]}: vertex_ids must be distinct")
        return Found(inside, self.coords, self.chunks[at], self.rows[at], None if self.objects is None else self.objects[at])


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Places of some endpoints of links.

    Attributes
    ----------
    at : ndarray of int64, shape (f,)
        Which: places in the flattened table of endpoints.
    coords, chunks, rows, objects
        As in :class:`Places`, of shape (c, K) and (f,).
    """

    at: NDArray[np.int64]
    coords: NDArray[np.int64]
    chunks: NDArray[np.int32]
    rows: NDArray[np.int64]
    objects: NDArray[np.int64] | None

    def __sizeof__(self) -> int:
        return self.at.nbytes + self.coords.nbytes + self.chunks.nbytes + self.rows.nbytes + 200


def places_of(block: ChunkedRows, arrangement: Arrangement, *, with_objects: bool) -> Places:
    """Return the places that an arrangement gives to a block's rows, which are in the order of their numbers."""
    rows = block.rows
    assert rows.numbers is not None
    place = np.empty(len(rows), np.int64)
    place[arrangement.order] = np.arange(len(rows))
    starts = np.r_[0, np.cumsum(np.bincount(block.number, minlength=len(block.coords)))][:-1]
    objects = rows.object_ids if with_objects else None
    return Places(rows.numbers, rows.keys, block.coords, block.number.astype(np.int32), place - starts[block.number], objects)


def join_links(links: LinkRows, found: Sequence[Found], what: str, *, one_object: bool) -> LinkRecords:
    """Return the records of `links`, whose endpoints were looked up in parts.

    Parameters
    ----------
    links : LinkRows
    found : sequence of Found
    what : str
        What a link is to the user, for errors.
    one_object : bool
        Both ends must be of one object.

    Raises
    ------
    InputError
        A link names no vertex, or an id that two have; or its ends are of two objects.
    """
    shape = links.endpoints.shape
    size = int(np.prod(shape))
    times = np.zeros(size, np.int64)
    chunks, rows, objects = (np.zeros(size, np.int64) for _ in range(3))
    first = 0
    for part in found:
        times[part.at] += 1
        chunks[part.at] = part.chunks + first
        rows[part.at] = part.rows
        if part.objects is not None:
            objects[part.at] = part.objects
        first += len(part.coords)
    if (times != 1).any():
        odd = int(np.flatnonzero(times != 1)[0])
        name = links.endpoints.reshape(-1)[odd]
        which = f"{what} {links.numbers[odd // shape[1]]}"
        if times[odd]:
            raise InputError(f"{which} names vertex {name}, and two vertices have that id: vertex_ids must be distinct")
        raise InputError(f"{which} names vertex {name}, which is not among the vertices")
    if one_object:
        ends = objects.reshape(shape)
        odd_rows = np.flatnonzero((ends != ends[:, :1]).any(axis=1))
        if len(odd_rows):
            i = int(odd_rows[0])
            raise InputError(
                f"vertex {links.endpoints[i, 0]} of object {ends[i, 0]} has the parent {links.endpoints[i, 1]} of object "
                f"{ends[i, 1]}: a tree belongs to one object; give its vertices one id, or make the child a root (-1)"
            )
    tables = [part.coords for part in found]
    if not len(links) or not tables:
        ndim = tables[0].shape[1] if tables else 0
        empty = np.zeros(shape, np.int64)
        return LinkRecords(np.zeros((0, ndim), np.int64), empty, empty, links.numbers, links.attributes)
    coords, number = group_by_chunk(np.concatenate(tables))
    return LinkRecords(coords, number[chunks].reshape(shape), rows.reshape(shape), links.numbers, links.attributes)


@dataclass(frozen=True, slots=True, eq=False)
class BlockExtra:
    """What later tasks want of a block of vertices.

    Attributes
    ----------
    fragments : Fragments, optional
        Of its objects.
    places : Places, optional
        Of its vertices.
    links : LinkRows, optional
        Links of its vertices to those of other chunks.
    edges : ndarray of int64, shape (m, D + 1), optional
        Of skeletons: coordinates of each chunk, and how many of its nodes have a parent.
    """

    fragments: Fragments | None = None
    places: Places | None = None
    links: LinkRows | None = None
    edges: NDArray[np.int64] | None = None

    def __sizeof__(self) -> int:
        # what the scheduler's memory management counts
        return sum(sys.getsizeof(part) for part in (self.fragments, self.places, self.links) if part is not None) + 200
