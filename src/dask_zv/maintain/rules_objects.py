"""Rules about objects: ids, manifests against fragments, tables with a row for each object, groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import ZVError
from dask_zv.format.keys import coords_to_keys
from dask_zv.level.object_index import ObjectIndex
from dask_zv.level.object_tables import OBJECT_LENGTHS
from dask_zv.level.source import LevelSource
from dask_zv.maintain.rules_blobs import examine, level_number
from dask_zv.maintain.rules_chunks import ChunkFacts
from dask_zv.maintain.validation import FEWER, Finding, finding_of

INDEX = "object_index"
_ROWS = 1 << 16


@dataclass(frozen=True, slots=True, eq=False)
class ManifestFacts:
    """What is known of some objects."""

    rows: NDArray[np.int64]  # (o,): rows of the index
    lengths: NDArray[np.int64]  # (o,): vertices of each; -1 where they can't be told
    present: int = 0  # objects with a fragment
    named: NDArray[np.int64] | None = None  # (M,): numbers in the level of the fragments that they name
    findings: tuple[Finding, ...] = ()


def rows_of_tasks(count: int) -> list[tuple[int, int]]:
    """Return the rows of the index that one task each looks at."""
    return [(a, min(a + _ROWS, count)) for a in range(0, count, _ROWS)]


def look_at_manifests(source: LevelSource, start: int, stop: int, own: ChunkFacts) -> ManifestFacts:
    """Read the manifests of some objects and look for the fragments that they name."""
    level, index = level_number(source.place.prefix), ObjectIndex(source)

    def read(rows: Sequence[int]) -> Any:
        return index.by_row(np.asarray(rows, np.int64))

    decoded, findings = examine(range(start, stop), read, "manifests", level)
    named = [np.zeros(0, np.int64)]
    rows, lengths, present = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
    numbers, first, counts = own.numbers, own.first_fragments, own.fragments.counts
    for some, table in decoded:
        at = own.find(table.chunks)
        have = np.append(numbers, 0)[at]
        lost = (at < 0) | ((have >= 0) & (table.fragments >= have))
        if lost.any():
            entry = int(lost.argmax())
            key = coords_to_keys(table.chunks[entry : entry + 1])[0]
            what = "which the level does not have" if at[entry] < 0 else f"which has {have[entry]}"
            which = f"row {table.objects[entry]} of the index names fragment {table.fragments[entry]} of chunk {key}, {what}"
            count = f"{int(lost.sum()):,} entries of {len(np.unique(table.objects[lost])):,} objects"
            text = f"fragments that are not there are named by {count}; {which}"
            findings.append(Finding("manifests", "error", text, level, INDEX, key))
        sure = ~lost & (have >= 0)
        places = first[at[sure]] + table.fragments[sure]
        named.append(places)
        length = np.zeros(len(some), np.int64)
        np.add.at(length, table.objects[sure] - some[0], counts[places])
        length[np.unique(table.objects[~sure]) - some[0]] = -1
        rows.append(np.arange(some[0], some[0] + len(some)))
        lengths.append(length)
        present += len(np.unique(table.objects))
    return ManifestFacts(np.concatenate(rows), np.concatenate(lengths), present, np.concatenate(named), tuple(findings))


def look_at_tables(source: LevelSource, specs: Sequence[str]) -> ManifestFacts:
    """Look at the ids, the tables of objects and the groups of a level; `specs` are the attributes that objects should have."""
    level, index = level_number(source.place.prefix), ObjectIndex(source)
    found: list[Finding] = []
    ids = _told(found, "ids", level, lambda: index.ids)
    tables = index.tables
    members = _told(found, "object-tables", level, lambda: tables.members("object_attributes")) or []
    names = [a.partition("/")[2] for a in members]
    for name in sorted(set(specs) - set(names)):
        text = f"the store says that objects have the attribute {name!r}, and there is no such table"
        found.append(Finding("object-tables", "error", text, level, f"object_attributes/{name}"))
    for name in names:
        for start, stop in rows_of_tasks(index.count) or [(0, 0)]:

            def read(name: str = name, rows: tuple[int, int] = (start, stop)) -> object:
                return index.attributes(np.arange(*rows), name)

            if _told(found, "object-tables", level, read) is None:
                break
    groups = _told(found, "groups", level, lambda: tables.groups)
    if groups is not None and ids is not None:
        found += _members(tables, groups[0], ids, level)
    return ManifestFacts(np.zeros(0, np.int64), np.zeros(0, np.int64), findings=tuple(found))


def _told(found: list[Finding], rule: str, level: int, read: Callable[[], Any]) -> Any:
    """Return what `read` gets; None, and a finding, where that is refused."""
    try:
        return read()
    except ZVError as error:
        found.append(finding_of(error, rule, level))
        return None


def _members(tables: Any, groups: Mapping[int, NDArray[np.int64]], ids: NDArray[np.int64], level: int) -> list[Finding]:
    """Look for members of groups that are no object; a range of ids may have gaps."""
    ranges = tables.attributes("groups").get("group_ranges", {}) if tables.in_zarr else {}
    known, found = np.sort(ids), []
    for number, members in groups.items():
        if str(number) in ranges or not len(members):
            continue
        at = np.minimum(np.searchsorted(known, members), max(len(known) - 1, 0))
        absent = members[known[at] != members] if len(known) else members
        if len(absent):
            text = f"group {number} names {len(absent):,} objects that are not there, the first {absent[0]}"
            found.append(Finding("groups", "error", text, level, "groups"))
    return found


def all_objects(
    source: LevelSource, parts: Sequence[ManifestFacts], own: ChunkFacts, *, shared: bool, present: int | None
) -> list[Finding]:
    """Compare the objects with all fragments, and with what the level says of them."""
    level, found = level_number(source.place.prefix), []
    whole = not any(p.findings for p in parts) and bool(own.known.all())
    total = sum(p.present for p in parts)
    if present is not None and present != total and not any(p.findings for p in parts):
        text = f"{total:,} objects have vertices, object_index counts {present:,} (num_present)"
        severity = "error" if total < present else "warning"
        advice = FEWER if total < present else ""
        found.append(Finding("counts", severity, text, level, INDEX, advice=advice))  # type: ignore[arg-type]
    if not whole:
        return found
    named = np.concatenate([np.zeros(0, np.int64), *(p.named for p in parts if p.named is not None)])
    times = np.bincount(named, minlength=len(own.fragments.counts))
    nobody = (times == 0) & (own.fragments.counts > 0)
    if nobody.any():
        rows = int(own.fragments.counts[nobody].sum())
        text = f"no object has {rows:,} of the vertices ({int(nobody.sum()):,} of {len(times):,} fragments)"
        found.append(Finding("manifests", "warning", text, level, INDEX, advice=_NOBODY))
    if (times > 1).any() and not shared:
        several = f"{int((times > 1).sum()):,} of {len(times):,} fragments"
        text = f"objects share fragments, or have one twice, and the level does not say so ({several})"
        found.append(Finding("manifests", "warning", text, level, INDEX, advice=_SHARED))
    return found + _own_lengths(source, parts, level)


_NOBODY = "nothing, if objects were removed; reading by object leaves these vertices out"
_SHARED = "set shared_fragments of the level, so that readers expect it"


def _own_lengths(source: LevelSource, parts: Sequence[ManifestFacts], level: int) -> list[Finding]:
    """Compare our table of the objects' lengths with what the manifests say."""
    index = ObjectIndex(source)
    try:
        table = index.tables.own_table(OBJECT_LENGTHS, (index.count, 2))
        ids = index.ids
    except ZVError as error:
        return [finding_of(error, "object-tables", level, severity="warning")]
    if table is not None and (table[0] < 0).any():  # what an absent chunk reads as
        text = "a part of the table of the objects' lengths is missing"
        return [Finding("object-tables", "error", text, level, OBJECT_LENGTHS, advice=_REBUILD)]
    if table is None or not table[1]:
        if index.tables.document(OBJECT_LENGTHS) is None:
            return []
        text = "the table of the objects' lengths is damaged, or of other objects; it is not used"
        return [Finding("object-tables", "warning", text, level, OBJECT_LENGTHS, advice=_REBUILD)]
    rows = np.concatenate([p.rows for p in parts]) if parts else np.zeros(0, np.int64)
    lengths = np.concatenate([p.lengths for p in parts]) if parts else np.zeros(0, np.int64)
    order = np.argsort(ids[rows], kind="stable")
    wrong = (table[0][:, 0] != ids[rows][order]) | (table[0][:, 1] != lengths[order])
    if not wrong.any():
        return []
    at = int(wrong.argmax())
    text = f"{int(wrong.sum()):,} objects have other lengths than the table says, the first is object {ids[rows][order][at]}"
    return [Finding("object-tables", "error", text, level, OBJECT_LENGTHS, advice=_REBUILD)]


_REBUILD = "dzv.repair(store, findings) or store.refresh() makes it again"
