"""Rules about the chunks of vertices: blobs, rows beside each other, places, fragments, and what the catalog noted of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import ZVError
from dask_zv.format.keys import coords_to_keys
from dask_zv.geometry.schema import FRAGMENTS, VERTICES
from dask_zv.level.source import LevelSource
from dask_zv.maintain.rules_blobs import examine, level_number, read_what_can_be
from dask_zv.maintain.validation import Finding
from dask_zv.read.chunk_boxes import stray_chunks
from dask_zv.read.decode import FragmentRows, block_fragments, block_positions, block_values, check_coverage
from dask_zv.spatial.chunks import ChunkLookup
from dask_zv.storage.catalog import Catalog
from dask_zv.storage.grid.read import GridArrays
from dask_zv.storage.handles import open_objects
from dask_zv.storage.layout import Blobs, open_blobs, open_place
from dask_zv.storage.nodes import load_catalog
from dask_zv.storage.objects import Address


@dataclass(frozen=True, eq=False)
class ChunkFacts(ChunkLookup):
    """What is known of n chunks of a level once their blobs were read; those that could not be have -1 rows."""

    rows: NDArray[np.int64]  # (n,): stored vertices
    fragments: FragmentRows  # of the chunks whose rows and fragments are known
    known: NDArray[np.bool_]  # (n,): which those are
    low: NDArray[np.float64]  # (D,): least corner of all vertices; inf where there are none
    high: NDArray[np.float64]  # (D,)
    findings: tuple[Finding, ...] = ()
    strays: int = 0  # vertices outside of the boxes of their chunks

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Number in the level of each chunk's first stored row, (n,): rows are numbered as they are stored."""
        rows = np.maximum(self.rows, 0)
        out: NDArray[np.int64] = np.cumsum(rows) - rows
        return out

    @property
    def numbers(self) -> NDArray[np.int64]:
        """Fragments of each chunk, (n,); -1 where they are not known."""
        out = np.full(len(self), -1, np.int64)
        out[self.known] = self.fragments.numbers
        return out

    @property
    def first_fragments(self) -> NDArray[np.int64]:
        """Number in the level of each chunk's first fragment, (n,)."""
        numbers = np.maximum(self.numbers, 0)
        out: NDArray[np.int64] = np.cumsum(numbers) - numbers
        return out


def join_facts(parts: Sequence[ChunkFacts], rank: int, ndim: int) -> ChunkFacts:
    """Return the facts of all parts, whose chunks follow each other."""
    return ChunkFacts(
        np.concatenate([np.zeros((0, rank), np.int64), *(p.coords for p in parts)]),
        np.concatenate([np.zeros(0, np.int64), *(p.rows for p in parts)]),
        FragmentRows.join([p.fragments for p in parts]),
        np.concatenate([np.zeros(0, bool), *(p.known for p in parts)]),
        np.minimum.reduce([np.full(ndim, np.inf), *(p.low for p in parts)]),
        np.maximum.reduce([np.full(ndim, -np.inf), *(p.high for p in parts)]),
        tuple(f for p in parts for f in p.findings),
        sum(p.strays for p in parts),
    )


@dataclass(frozen=True, slots=True, eq=False)
class ChunkLists:
    """Which chunks (n, K) the arrays of a level list, and which of these each array has: bool (n,)."""

    coords: NDArray[np.int64]
    have: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.coords)

    def part(self, start: int, stop: int) -> ChunkLists:
        """Return a run of the chunks."""
        return ChunkLists(self.coords[start:stop], {a: have[start:stop] for a, have in self.have.items()})


def look_at_chunks(source: LevelSource, lists: ChunkLists) -> ChunkFacts:
    """Read all blobs of some chunks, decode them as readers do, and return what is so."""
    level, blobs, coords = level_number(source.place.prefix), open_place(source.place), lists.coords
    keys = coords_to_keys(coords)
    wanted = [(a, key) for a, have in lists.have.items() for key, there in zip(keys, have.tolist(), strict=True) if there]
    found, findings = read_chunks(source, wanted)
    at = {key: i for i, key in enumerate(keys)}
    rows = np.full(len(keys), -1, np.int64)
    ndim = source.schema.grid.ndim
    low, high = np.full(ndim, np.inf), np.full(ndim, -np.inf)
    strays = 0

    def positions_of(some: Sequence[str]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        return block_positions(source, blobs, coords[[at[k] for k in some]], some, found, None)

    decoded, bad = examine([k for k in keys if (VERTICES, k) in found], positions_of, "blobs", level)
    findings += bad
    for some, (positions, counts) in decoded:
        numbers = [at[k] for k in some]
        rows[numbers] = counts
        told, outside = _about_positions(source, level, coords[numbers], some, positions, counts)
        findings += told
        strays += outside
        finite = positions[np.isfinite(positions).all(axis=1)] if positions.dtype.kind == "f" else positions
        if len(finite):
            low = np.minimum(low, finite.min(axis=0).astype(np.float64))
            high = np.maximum(high, finite.max(axis=0).astype(np.float64))
    here = [k for k in keys if rows[at[k]] >= 0]
    findings += _about_attributes(source, level, here, rows, at, found)
    fragments, known, bad = _fragments(source, level, here, rows, at, found, lists)
    return ChunkFacts(coords, rows, fragments, known, low, high, tuple(findings + bad), strays)


def _about_positions(
    source: LevelSource,
    level: int,
    coords: NDArray[np.int64],
    keys: Sequence[str],
    positions: NDArray[Any],
    counts: NDArray[np.int64],
) -> tuple[list[Finding], int]:
    """Look for vertices that are not finite, or outside of their chunks' boxes; return how many are outside as well."""
    found: list[Finding] = []
    whole = np.isfinite(positions).all(axis=1) if positions.dtype.kind == "f" else np.ones(len(positions), bool)
    of_row = np.repeat(np.arange(len(keys)), counts)
    if not whole.all():
        lost = np.bincount(of_row[~whole], minlength=len(keys))
        found += [
            Finding("nan", "error", f"{lost[i]:,} of {counts[i]:,} positions are NaN or infinite", level, VERTICES, keys[i])
            for i in np.flatnonzero(lost).tolist()
        ]
    left = np.bincount(of_row[whole], minlength=len(keys)).astype(np.int64)
    strays = stray_chunks(source, coords, left, positions[whole])
    found += [
        Finding(
            "inside", "error",
            f"{strays[i]:,} of {counts[i]:,} vertices lie outside of the box of the chunk: answers to boxes lack them",
            level, VERTICES, keys[i],
        )
        for i in np.flatnonzero(strays).tolist()
    ]  # fmt: skip
    return found, int(strays.sum())


def _about_attributes(
    source: LevelSource,
    level: int,
    keys: Sequence[str],
    rows: NDArray[np.int64],
    at: Mapping[str, int],
    found: Mapping[Address, bytes],
) -> list[Finding]:
    """Look for attributes that have other rows than the vertices, or values that can't be decoded."""
    out: list[Finding] = []
    for attribute in source.schema.attributes:
        widths: dict[int, list[str]] = {}

        def values(some: Sequence[str], a: Any = attribute, widths: dict[int, list[str]] = widths) -> None:
            stored = block_values(source, a, some, rows[[at[k] for k in some]], found)
            a.values(stored)
            if len(stored):
                widths.setdefault(1 if stored.ndim == 1 else stored.shape[1], []).extend(some)

        there = [k for k in keys if (attribute.array, k) in found]
        out += examine(there, values, "siblings", level, partial(_address, attribute.array))[1]
        usual = max(widths, key=lambda w: len(widths[w]), default=1)
        out += [
            Finding(
                "siblings", "error",
                f"the chunk has {width} values a vertex, most have {usual}: it is of another dtype, or not of these vertices",
                level, attribute.array, key,
            )
            for width, odd in widths.items() if width != usual for key in odd
        ]  # fmt: skip
        if attribute.any_width and len(widths) == 1 and usual != 1:
            text = f"chunks have {usual} values a vertex, which the document of the array does not say"
            out.append(Finding("siblings", "info", text, level, attribute.array))
    return out


def _address(array: str, key: str) -> Address:
    return array, key


def _fragments(
    source: LevelSource,
    level: int,
    keys: Sequence[str],
    rows: NDArray[np.int64],
    at: Mapping[str, int],
    found: Mapping[Address, bytes],
    lists: ChunkLists,
) -> tuple[FragmentRows, NDArray[np.bool_], list[Finding]]:
    """Return the fragments of the chunks whose fragments can be decoded, which those are, and findings."""
    listed = lists.have.get(FRAGMENTS, np.zeros(len(lists), bool))
    # one that is listed and could not be read is no chunk without an index
    some = [k for k in keys if (FRAGMENTS, k) in found or not listed[at[k]]]

    def index(part: Sequence[str]) -> FragmentRows:
        joined = block_fragments(source, part, rows[[at[k] for k in part]], found)
        check_coverage(source, part, joined)
        return joined

    decoded, findings = examine(some, index, "fragments", level)
    known = np.zeros(len(lists), bool)
    known[[at[k] for part, _ in decoded for k in part]] = True
    return FragmentRows.join([rows_of for _, rows_of in decoded]), known, findings


def read_chunks(source: LevelSource, wanted: Sequence[Address]) -> tuple[Mapping[Address, bytes], list[Finding]]:
    """Return the listed blobs that can be read; compare them with what the last commit noted, where there was one.

    Other bytes in an object of the same age are damage; else another tool may have edited the chunk.
    """
    objects, prefix, level = open_objects(source.place.handle), source.place.prefix, level_number(source.place.prefix)
    try:
        catalog = load_catalog(objects, prefix)
    except ZVError:
        catalog = None  # told once, for the level
    if catalog is None:
        return read_what_can_be(open_place(source.place), wanted)
    noted, known = _noted(source, catalog, wanted)
    try:
        found = noted.read_many(wanted)
        if len(found) == len(wanted) and not noted.catalog_is_stale:
            return found, []  # as nearly always: each blob was read once
    except ZVError:
        pass
    readable, findings = read_what_can_be(open_place(source.place), wanted)
    todo = [[a for a in wanted if a in readable and a[0] in known and catalog.locate(*a) is not None]]
    while todo:
        some = todo.pop()
        if not some:
            continue
        blobs = _noted(source, catalog, some)[0]
        try:
            blobs.read_many(some)
            if not blobs.catalog_is_stale:
                continue
            if len(some) == 1:
                text = "the chunk has other bytes than at the last commit: another tool edited it, or it is damaged"
                findings.append(Finding("catalog", "warning", text, level, *some[0]))
        except ZVError as error:
            if len(some) == 1:
                findings.append(Finding("blobs", "error", error.message, level, *some[0]))
        if len(some) > 1:
            todo += [some[: len(some) // 2], some[len(some) // 2 :]]
    return readable, findings


def _noted(source: LevelSource, catalog: Catalog, wanted: Sequence[Address]) -> tuple[Blobs, set[str]]:
    """Return the blobs as the catalog finds them, and the arrays whose documents are those of the last commit."""
    blobs = open_blobs(open_objects(source.place.handle), source.place.prefix, source.place.layout, catalog)
    arrays = {a for a, _ in wanted}
    if isinstance(blobs, GridArrays):
        arrays = set(blobs.catalogued(sorted(arrays)))
        blobs.catalog_is_stale = False  # of documents that changed, the level's rules tell
    return blobs, arrays
