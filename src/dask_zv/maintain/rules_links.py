"""Rules about links: cells, their ends, their values, the sense of faces, and trees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import ZVError
from dask_zv.format.keys import coords_to_keys
from dask_zv.geometry.assembly import input_order
from dask_zv.geometry.schema import LINK_FRAGMENTS
from dask_zv.level.chunk_table import decode_index
from dask_zv.level.link_source import FoundLinks, LinkSource
from dask_zv.level.source import LevelSource
from dask_zv.maintain.rules_blobs import examine, level_number, read_what_can_be
from dask_zv.maintain.rules_chunks import ChunkFacts
from dask_zv.maintain.validation import Finding, finding_of
from dask_zv.read.link_cells import CellPlan, LinkCells, cell_addresses, decode_cells, find_targets, read_crossing
from dask_zv.storage.layout import Blobs, open_place


@dataclass(frozen=True, slots=True)
class LinkRules:
    """What is asked of a family of links."""

    links: LinkSource
    faces: bool = False  # records are faces, which have a sense
    trees: bool = False  # records are (child, parent)
    fragments: bool = False  # link_fragments lie beside the cells within chunks
    counted: bool = True  # a document says how many there are


@dataclass(frozen=True, slots=True, eq=False)
class LinkFacts:
    """What is known of some links: how many there are, and what the rules about all of them need."""

    count: int = 0
    records: NDArray[np.int64] | None = None  # (m, 2): of trees, the numbers in the level of child and parent
    sides: NDArray[np.int64] | None = None  # (e, 2): of faces, the sides whose neighbour is not among these links
    findings: tuple[Finding, ...] = ()


def look_at_links(source: LevelSource, rules: LinkRules, cells: CellPlan, own: ChunkFacts, target: ChunkFacts) -> LinkFacts:
    """Read some cells of links with their values; `own` and `target` are the chunks of both levels that they join."""
    level, blobs, links = level_number(source.place.prefix), open_place(source.place), rules.links
    addresses = cell_addresses(links, range(len(links.attributes)), cells)
    found, findings = read_what_can_be(blobs, addresses)
    numbers = range(len(cells))
    readable = [i for i in numbers if cells.place(links, i) in found]

    def decode(some: Sequence[int]) -> LinkCells:
        return decode_cells(source, links, (), cells.part(np.asarray(some, np.intp)), found)

    decoded, bad = examine(readable, decode, "links", level)
    findings += bad
    for i, attribute in enumerate(links.attributes):

        def values(some: Sequence[int], i: int = i) -> None:
            part = decode_cells(source, links, (i,), cells.part(np.asarray(some, np.intp)), found)
            links.attributes[i].schema.values(part.attributes[links.attributes[i].schema.name])

        good = [n for some, _ in decoded for n in some]
        arrays = [attribute.arrays[int(cells.segments[n])] for n in good]
        keys = cells.keys
        there = [n for n, a in zip(good, arrays, strict=True) if (a, keys[n]) in found]
        place = dict(zip(good, zip(arrays, [keys[n] for n in good], strict=True), strict=True))
        findings += examine(there, values, "siblings", level, place.__getitem__)[1]
    count, records, sides = 0, [np.zeros((0, 2), np.int64)], [np.zeros((0, 2), np.int64)]
    for _, part in decoded:
        count += len(part)
        ends, odd = _ends(source, links, part, own, target)
        findings += odd
        whole = (ends >= 0).all(axis=1)
        if rules.trees:
            records.append(ends[whole])
        if rules.faces:
            findings += _degenerate(links, part, ends, level)
            sides.append(_sides(ends[whole]))
    if rules.fragments:
        findings += _link_fragments(source, blobs, links, [p for _, p in decoded])
    if rules.faces:
        open_sides, twice = match_sides(np.concatenate(sides))
        sides = [open_sides]
        findings += _turned(links, level, twice)
    return LinkFacts(
        count,
        np.concatenate(records) if rules.trees else None,
        np.concatenate(sides) if rules.faces else None,
        tuple(findings),
    )


def look_at_crossing(source: LevelSource, rules: LinkRules, own: ChunkFacts, target: ChunkFacts) -> LinkFacts:
    """Read the links across chunks of generation 0.7, which are one blob."""
    level, links = level_number(source.place.prefix), rules.links
    try:
        chunks, rows = read_crossing(source, links, open_place(source.place), counted=False)
    except ZVError as error:
        return LinkFacts(findings=(finding_of(error, "links", level),))
    ends, bad = np.empty_like(rows), np.zeros(rows.shape, bool)
    for slot in range(links.family.width):
        facts = target if slot else own
        ends[:, slot], bad[:, slot] = _numbers(facts, facts.find(chunks[:, slot]), rows[:, slot])
    found = []
    if bad.any():
        first = tuple(np.argwhere(bad)[0])
        key = coords_to_keys(chunks[first][None])[0]
        text = f"{int(bad.any(axis=1).sum()):,} links lead to rows that are not there, the first to row {rows[first]} of {key}"
        found.append(Finding("links", "error", text, level, links.crossing, "data"))
    whole = (ends >= 0).all(axis=1)
    return LinkFacts(
        len(rows), ends[whole] if rules.trees else None, _sides(ends[whole]) if rules.faces else None, tuple(found)
    )


def _numbers(facts: ChunkFacts, at: NDArray[np.int64], rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the numbers in the level of rows of chunks (-1 where unknown), and which of these are certainly not there."""
    stored = np.append(facts.rows, 0)[at]
    bad = (at < 0) | (rows < 0) | ((stored >= 0) & (rows >= stored))
    numbers = np.append(facts.offsets, 0)[at] + rows
    return np.where(bad | (stored < 0), -1, numbers), bad


def _ends(
    source: LevelSource, links: LinkSource, cells: LinkCells, own: ChunkFacts, target: ChunkFacts
) -> tuple[NDArray[np.int64], list[Finding]]:
    """Return the numbers of the ends of records (m, L) in input order, and findings about ends that are not there."""
    level, width = level_number(source.place.prefix), links.family.width
    targets, at = find_targets(links, cells.cells, target, None)
    at[:, 0] = own.find(cells.cells.coords)
    chunks = np.repeat(at, cells.counts, axis=0)
    ends, bad = np.empty_like(cells.rows), np.zeros(cells.rows.shape, bool)
    for slot in range(width):
        ends[:, slot], bad[:, slot] = _numbers(own if slot == 0 else target, chunks[:, slot], cells.rows[:, slot])
    found: list[Finding] = []
    of_cell = np.repeat(np.arange(len(cells.cells)), cells.counts)
    for number in np.unique(of_cell[bad.any(axis=1)]).tolist():
        records = np.flatnonzero((of_cell == number) & bad.any(axis=1))
        slot = int(bad[records[0]].argmax())
        key = coords_to_keys(targets[number, slot][None])[0]
        lost = "which the level does not have" if at[number, slot] < 0 else "which has fewer rows"
        text = f"{len(records):,} links lead to rows that are not there, the first to row {cells.rows[records[0], slot]} of "
        found.append(Finding("links", "error", f"{text}chunk {key}, {lost}", level, *cells.cells.place(links, number)))
    return input_order(ends, cells.order), found


def _link_fragments(source: LevelSource, blobs: Blobs, links: LinkSource, parts: Sequence[LinkCells]) -> list[Finding]:
    """Compare the groups of links inside of chunks with the links."""
    level = level_number(source.place.prefix)
    inside = np.array([s.flat for s in links.segments], bool)
    count = {
        key: int(n)
        for p in parts
        for key, n, s in zip(p.cells.keys, p.counts, p.cells.segments, strict=True)
        if len(inside) and inside[s]
    }
    try:
        listed = set(blobs.list_keys(LINK_FRAGMENTS))
    except ZVError as error:
        return [finding_of(error, "links", level)]
    found, out = read_what_can_be(blobs, [(LINK_FRAGMENTS, k) for k in count if k in listed])

    def decode(some: Sequence[str]) -> None:
        for key in some:
            index = decode_index(source, key, found[LINK_FRAGMENTS, key], LINK_FRAGMENTS)
            rows = int(index.counts.sum())
            if index.tiles(rows) and rows != count[key]:
                text = f"{rows:,} links are in its groups, the chunk has {count[key]:,}"
                out.append(Finding("siblings", "error", text, level, LINK_FRAGMENTS, key))

    out += examine([k for _, k in found], decode, "fragments", level)[1]
    return out


# -------------------------------------------------------------------------------------------------- faces


def _degenerate(links: LinkSource, cells: LinkCells, ends: NDArray[np.int64], level: int) -> list[Finding]:
    """Look for faces that have a corner twice."""
    ordered = np.sort(ends, axis=1)
    twice = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(axis=1)
    of_cell = np.repeat(np.arange(len(cells.cells)), cells.counts)
    return [
        Finding(
            "winding", "warning", f"{n:,} faces have a corner twice", level, *cells.cells.place(links, int(cell))
        )
        for cell, n in zip(*np.unique(of_cell[twice], return_counts=True), strict=True)
    ]  # fmt: skip


def _sides(faces: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the sides (m * L, 2) of faces (m, L), in their sense; none of degenerate ones."""
    sides = np.stack([faces, np.roll(faces, -1, axis=1)], axis=2).reshape(-1, 2)
    out: NDArray[np.int64] = sides[sides[:, 0] != sides[:, 1]]
    return out


def match_sides(sides: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """Return the sides of faces that no neighbour runs along the other way, and how many run along one way twice."""
    if not len(sides):
        return sides, 0
    ordered = np.sort(sides, axis=1)
    forward = sides[:, 0] == ordered[:, 0]
    edges, number = np.unique(ordered, axis=0, return_inverse=True)
    number = number.reshape(-1)
    one = np.bincount(number[forward], minlength=len(edges))
    other = np.bincount(number[~forward], minlength=len(edges))
    # at an edge of many faces no sense can be told
    twice = int(((one + other == 2) & (one != other)).sum())
    alone = one + other == 1
    kept = np.where(one[alone][:, None] == 1, edges[alone], edges[alone][:, ::-1])
    return kept, twice


def _turned(links: LinkSource, level: int, twice: int) -> list[Finding]:
    """Return the finding that neighbours run around in opposite senses, where any do."""
    text = f"at {twice:,} edges both faces run the same way: one of each two is turned around"
    return [Finding("winding", "warning", text, level, links.array)] if twice else []


def all_faces(links: LinkSource, level: int, parts: Sequence[LinkFacts]) -> list[Finding]:
    """Compare the faces of different cells."""
    sides = [p.sides for p in parts if p.sides is not None]
    return _turned(links, level, match_sides(np.concatenate(sides))[1]) if sides else []


# -------------------------------------------------------------------------------------------------- trees


def all_trees(links: LinkSource, level: int, parts: Sequence[LinkFacts], own: ChunkFacts, *, implied: bool) -> list[Finding]:
    """Look for nodes with several parents, and for nodes that are their own ancestors.

    Where neighbours on a fragment are linked, a way up leaves a fragment only at a node with a record, or ends at its first
    node: so it is enough to follow, from record to record, the last node with a record before the one that is come to.
    """
    records = np.concatenate([np.zeros((0, 2), np.int64), *(p.records for p in parts if p.records is not None)])
    found: list[Finding] = []
    child, times = np.unique(records[:, 0], return_counts=True)
    several = child[times > 1]
    if len(several):
        key, row = _place(own, int(several[0]))
        text = f"{len(several):,} nodes have several parents, the first is row {row} of chunk {key}"
        found.append(Finding("trees", "error", text, level, links.array, key))
    order, begins = _path_order(own) if implied else (None, None)
    parent = np.full(len(child), -1, np.int64)
    parent[np.searchsorted(child, records[:, 0])] = records[:, 1]
    up = _last_record(child, parent, order, begins)
    around = _on_cycles(up)
    if around.any():
        key, row = _place(own, int(child[around.argmax()]))
        text = f"{int(around.sum()):,} stored links lead around in circles, one from row {row} of chunk {key}"
        found.append(Finding("trees", "error", text, level, links.array, key))
    return found


def _path_order(own: ChunkFacts) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the place of each stored row in the order of fragments (-1 where no fragment has it), and fragments' starts."""
    rows = np.maximum(own.rows, 0)
    place = np.full(int(rows.sum()), -1, np.int64)
    known = np.flatnonzero(own.known)
    first = np.repeat(own.offsets[known], own.fragments.rows)
    stored = own.fragments.stored_places() - np.repeat(
        np.cumsum(own.fragments.stored) - own.fragments.stored, own.fragments.rows
    )
    place[first + stored] = np.arange(len(first))
    return place, own.fragments.starts[own.fragments.counts > 0]


def _last_record(
    child: NDArray[np.int64], parent: NDArray[np.int64], order: NDArray[np.int64] | None, begins: NDArray[np.int64] | None
) -> NDArray[np.int64]:
    """Return for each record (of distinct children, ascending) the record that the way up from its parent comes to, or -1."""
    if not len(child):
        return np.zeros(0, np.int64)
    if order is None or begins is None:
        at = np.minimum(np.searchsorted(child, parent), len(child) - 1)
        return np.where(child[at] == parent, at, -1)
    places = order[child]
    by_place = np.argsort(places, kind="stable")
    wanted = np.where(parent >= 0, order[parent], -1)
    last = np.searchsorted(places[by_place], wanted, side="right") - 1
    found = by_place[np.maximum(last, 0)]
    start = begins[np.maximum(np.searchsorted(begins, wanted, side="right") - 1, 0)] if len(begins) else np.zeros_like(wanted)
    return np.where((wanted >= 0) & (last >= 0) & (places[found] >= start), found, -1)


def _on_cycles(up: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which things never come to an end by going up: those on a circle, or that lead into one."""
    far = np.append(up, -1)  # the last stands for the end
    for _ in range(max(1, len(far)).bit_length() + 1):
        far = far[far]
    return far[:-1] >= 0


def _place(own: ChunkFacts, number: int) -> tuple[str, int]:
    """Return chunk and row of a stored row by its number in the level."""
    some = np.flatnonzero(own.rows > 0)
    at = int(some[np.searchsorted(own.offsets[some], number, side="right") - 1])
    return coords_to_keys(own.coords[at : at + 1])[0], number - int(own.offsets[at])


def cells_by_task(found: FoundLinks, at_once: int) -> list[CellPlan]:
    """Return the cells of a family in runs for one task each."""
    every = CellPlan.every(found, None)
    return [every.part(slice(a, a + at_once)) for a in range(0, len(every), at_once)]
