"""Tables of fragments: which object has which, in the order of its path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError
from dask_zv.format.keys import coords_to_keys
from dask_zv.geometry.assembly import take_ranges
from dask_zv.spatial.chunks import ChunkLookup

SHARED = -2
"""Owner of a fragment that several objects name."""


@dataclass(frozen=True, eq=False)
class FragmentTable:
    """Fragments in manifest order, object by object, each in path order: ids (M,), chunks (M, K) and numbers (M,), int64."""

    objects: NDArray[np.int64]
    chunks: NDArray[np.int64]
    fragments: NDArray[np.int64]

    def __reduce__(self) -> tuple[Any, ...]:
        return FragmentTable, (self.objects, self.chunks, self.fragments)  # without what is remembered beside them

    @cached_property
    def _by_chunk(self) -> tuple[ChunkLookup, NDArray[np.intp], NDArray[np.intp]]:
        """Return the distinct chunks, the entries in the order of their chunks, and where each chunk's entries begin there."""
        order = np.lexsort(self.chunks.T[::-1]) if len(self.objects) else np.zeros(0, np.intp)
        chunks = self.chunks[order]
        new = np.r_[True, (chunks[1:] != chunks[:-1]).any(axis=1)] if len(order) else np.zeros(0, bool)
        first = np.flatnonzero(new)
        return ChunkLookup(chunks[first]), order, np.r_[first, len(order)]

    def in_chunks(self, coords: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the entries in chunks (n, K), chunk by chunk, and the place in `coords` of each entry's chunk."""
        known, order, starts = self._by_chunk
        at = known.find(coords)
        counts = np.where(at >= 0, starts[at + 1] - starts[at], 0) if len(known) else np.zeros(len(coords), np.intp)
        return order[take_ranges(starts[at], counts)], np.repeat(np.arange(len(coords)), counts)

    def within(self, coords: NDArray[np.int64]) -> FragmentTable:
        """Return the entries in some chunks, in the order of the manifests."""
        entries = np.sort(self.in_chunks(coords)[0])
        return FragmentTable(self.objects[entries], self.chunks[entries], self.fragments[entries])

    @property
    def distinct_chunks(self) -> NDArray[np.int64]:
        """The chunks that have entries, ascending; shape (m, K)."""
        return self._by_chunk[0].coords

    def owners_in(self, coords: NDArray[np.int64], fragments: NDArray[np.int64], where: str) -> NDArray[np.int64]:
        """Return the object of each fragment of chunks (n, K): -1 for none, :data:`SHARED` where several name it.

        `fragments` are how many each chunk has, and `where` the level's URL.
        """
        entries, chunk = self.in_chunks(coords)
        named = self.fragments[entries]
        beyond = np.flatnonzero(named >= fragments[chunk])
        if len(beyond):
            at = beyond[0]
            raise FormatError(
                f"a manifest names fragment {named[at]}, the chunk has {fragments[chunk[at]]}",
                store=where, array="object_index", chunk=coords_to_keys(coords[chunk[at : at + 1]])[0],
            )  # fmt: skip
        place = (np.cumsum(fragments) - fragments)[chunk] + named
        out = np.full(int(fragments.sum()), -1, np.int64)
        out[place] = self.objects[entries]
        out[place[out[place] != self.objects[entries]]] = SHARED  # a path may come by one fragment twice
        return out


def chunk_numbers(level: ChunkLookup, chunks: NDArray[np.int64], where: str) -> NDArray[np.int64]:
    """Return the numbers of the chunks that manifests name; one that the level does not have is a :class:`FormatError`."""
    at = level.find(chunks)
    lost = chunks[at < 0]
    if len(lost):
        raise FormatError(
            "a manifest names a chunk that the level does not have",
            store=where, array="object_index", chunk=coords_to_keys(lost[:1])[0],
        )  # fmt: skip
    return at


def join_tables(parts: Sequence[FragmentTable], rank: int) -> FragmentTable:
    """Return the entries of all parts, ascending by object; `rank` is that of the chunk keys."""
    objects = np.concatenate([np.zeros(0, np.int64), *(p.objects for p in parts)])
    chunks = np.concatenate([np.zeros((0, rank), np.int64), *(p.chunks for p in parts)])
    fragments = np.concatenate([np.zeros(0, np.int64), *(p.fragments for p in parts)])
    if (objects[1:] < objects[:-1]).any():  # rows may have their ids in any order; readers go by ids
        order = np.argsort(objects, kind="stable")
        objects, chunks, fragments = objects[order], chunks[order], fragments[order]
    return FragmentTable(objects, chunks, fragments)
