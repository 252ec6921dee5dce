"""Rules about the documents and lists of one level, which need no blob."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dask_zv.errors import ZVError, ZVWarning
from dask_zv.format.keys import DOCUMENT, coords_to_keys, is_spatial_key, join, parse_key
from dask_zv.format.links import parse_delta
from dask_zv.geometry.kinds import kind_of
from dask_zv.geometry.schema import FRAGMENTS, LINK_FRAGMENTS, VERTICES
from dask_zv.level.chunk_table import decode_index
from dask_zv.level.contents import LevelContents, StoreContents
from dask_zv.level.link_source import CROSSING, FoundLinks
from dask_zv.level.source import ChunkTable
from dask_zv.level.unfinished import unfinished_write
from dask_zv.maintain.rules_blobs import read_what_can_be
from dask_zv.maintain.rules_catalog import look_at_catalog
from dask_zv.maintain.rules_chunks import ChunkLists
from dask_zv.maintain.rules_links import LinkRules
from dask_zv.maintain.validation import Finding, finding_of
from dask_zv.spatial.chunks import group_by_chunk
from dask_zv.storage.grid.read import GridArrays
from dask_zv.storage.handles import open_objects
from dask_zv.storage.layout import Blobs, open_place

_FAMILIES = {"vertex_attributes": "documents", "object_attributes": "object-tables", "group_attributes": "groups"}
"""Groups that writers make for the arrays in them, and the rule of each."""


@dataclass(slots=True)
class LevelSurvey:
    """What the documents and lists of a level say, and what was found in them."""

    number: int
    findings: list[Finding] = field(default_factory=list)
    level: LevelContents | None = None  # None where its documents can't be read
    unfinished: bool = False  # a write that has not ended has stored chunks that are not listed yet
    lists: ChunkLists = field(default_factory=lambda: ChunkLists(np.zeros((0, 0), np.int64)))
    links: dict[int, tuple[FoundLinks, LinkRules]] = field(default_factory=dict)  # by the difference of levels
    offset: tuple[float, ...] | None = None  # what readers add to positions
    implied: bool = False  # neighbours on a fragment are linked
    objects: int = 0
    present: int | None = None  # objects with vertices, as the index counts them
    indexed: bool = False  # the index of objects can be read


@contextmanager
def warnings_as_findings(found: list[Finding], rule: str, level: int | None) -> Iterator[None]:
    """Turn the library's warnings inside into notes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ZVWarning)
        yield
    found += [Finding(rule, "info", str(w.message), level) for w in caught if issubclass(w.category, ZVWarning)]


def survey_level(store: StoreContents, number: int) -> LevelSurvey:
    """Read the documents and lists of a level."""
    survey = LevelSurvey(number)
    found = survey.findings
    try:
        with warnings_as_findings(found, "documents", number):
            level = store.level(number)
            if (unfinished := unfinished_write(level)) is not None:
                if unfinished.deletes:  # what is read of it is half of one state and half of another
                    found.append(Finding("documents", "error", str(unfinished), number, advice=unfinished.advice))
                    return survey
                found.append(Finding("documents", "warning", str(unfinished), number, advice=unfinished.advice))
                survey.unfinished = True
            _ = level.source
    except ZVError as error:
        found.append(finding_of(error, "documents", number))
        return survey
    survey.level = level
    blobs = open_place(level.place)
    survey.lists = _lists(level, blobs, found)
    coords = survey.lists.coords[survey.lists.have.get(VERTICES, np.zeros(len(survey.lists), bool))]
    level.chunks = ChunkTable(coords, np.zeros(len(coords), np.int64))  # links ask whether there are any
    found += _siblings(level, blobs, survey.lists)
    found += _named_nodes(level, bool(len(coords)))
    found += look_at_catalog(level, survey.lists)
    _survey_objects(survey, level, bool(len(coords)))
    _survey_links(survey, level, blobs, bool(len(coords)))
    return survey


def _told(found: list[Finding], rule: str, number: int, read: Any) -> Any:
    try:
        with warnings_as_findings(found, rule, number):
            return read()
    except ZVError as error:
        found.append(finding_of(error, rule, number))
        return None


def _lists(level: LevelContents, blobs: Blobs, found: list[Finding]) -> ChunkLists:
    """Return which chunks the arrays of vertices and their attributes list."""
    source, listed = level.source, {}
    for array in source.schema.arrays:
        keys = _told(found, "documents", level.number, lambda array=array: blobs.list_keys(array)) or []
        odd = [k for k in keys if is_spatial_key(k) and k.count(".") + 1 != source.rank]
        if odd:
            text = f"the array lists chunk keys of rank {odd[0].count('.') + 1}, the level's have {source.rank}"
            found.append(Finding("lists", "error", text, level.number, array, odd[0]))
        listed[array] = [parse_key(k) for k in keys if is_spatial_key(k) and k.count(".") + 1 == source.rank]
    coords = np.array([c for cs in listed.values() for c in cs], np.int64).reshape(-1, source.rank)
    coords, at = group_by_chunk(coords)
    have, first = {}, 0
    for array, cs in listed.items():
        have[array] = np.zeros(len(coords), bool)
        have[array][at[first : first + len(cs)]] = True
        first += len(cs)
    return ChunkLists(coords, have)


def _siblings(level: LevelContents, blobs: Blobs, lists: ChunkLists) -> list[Finding]:
    """Compare the chunks of arrays beside each other."""
    number, vertices = level.number, lists.have.get(VERTICES, np.zeros(len(lists), bool))
    found: list[Finding] = []
    keys = np.array(coords_to_keys(lists.coords), object)
    # an edit leaves an index without rows where it emptied a chunk
    more = lists.have.get(FRAGMENTS, np.zeros(len(lists), bool)) & ~vertices
    indexes, _ = read_what_can_be(blobs, [(FRAGMENTS, k) for k in keys[more]])
    empty = {k for (_, k), data in indexes.items() if _has_no_rows(level, k, data)}
    emptied = np.array([k in empty for k in keys], bool)
    for array, have in lists.have.items():
        if array == VERTICES:
            continue
        lacking = vertices & ~have
        if array == FRAGMENTS and not have.any() and not level.source.schema.has_objects:
            lacking[:] = False  # a chunk without an index is one fragment
        found += [
            Finding("siblings", "error", f"the chunk has vertices, and nothing in {array!r}", number, array, k)
            for k in keys[lacking]
        ]
        beyond = have & ~vertices & ~emptied
        found += [
            Finding("siblings", "error", f"the chunk is listed in {array!r}, and has no vertices", number, VERTICES, k)
            for k in keys[beyond]
        ]
    return found


def _has_no_rows(level: LevelContents, key: str, data: bytes) -> bool:
    try:
        return not decode_index(level.source, key, data).counts.sum()
    except ZVError:
        return False


def _named_nodes(level: LevelContents, filled: bool) -> list[Finding]:
    """Look for what the documents of root and level name, and is not there."""
    objects, found, store = open_objects(level.place.handle), [], level.store
    for name in level.metadata.arrays_present if filled else ():
        path = join(level.place.prefix, name)
        if not objects.exists(join(path, DOCUMENT)) and not objects.list_dir(path):
            text = f"the level says that it has {name!r} (arrays_present), and there is no such node"
            rule = "manifests" if name == "object_index" else "links" if "link" in name else "documents"
            found.append(Finding(rule, "error", text, level.number, name))
    for family, rule in _FAMILIES.items():
        if filled and objects.list_dir(join(level.place.prefix, family)) == [DOCUMENT]:
            text = f"the group {family!r} is empty: what was in it was removed"
            found.append(Finding(rule, "error", text, level.number, family))
    specs = store.attribute_specs.get("vertex", {})
    if filled and not level.number:
        found += [
            Finding(
                "documents", "error", f"the store says that vertices have the attribute {name!r}, and there is no such array",
                level.number, f"vertex_attributes/{name}",
            )
            for name in sorted(set(specs) - set(level.attributes))
        ]  # fmt: skip
    for attribute in level.source.schema.attributes:
        told = specs.get(attribute.name, {}).get("dtype")
        if attribute.dictionary is None and isinstance(told, str) and _other_dtype(told, attribute.dtype):
            text = f"the array has the dtype {attribute.dtype}, the store says {told}"
            found.append(Finding("documents", "error", text, level.number, attribute.array))
    if filled and kind_of(level.kind).is_path and not level.source.schema.has_objects:
        text = (
            f"the level has vertices of a {level.kind} and no manifests: what belongs to a path, and in what order, is unknown"
        )
        found.append(Finding("manifests", "error", text, level.number, "object_index"))
    return found


def _other_dtype(told: str, dtype: np.dtype[Any]) -> bool:
    try:
        known = np.dtype(told)
    except TypeError:
        return False
    return known.kind in "biufcmM" and known.newbyteorder("=") != dtype.newbyteorder("=")


def _survey_objects(survey: LevelSurvey, level: LevelContents, filled: bool) -> None:
    if not level.source.schema.has_objects:
        return
    index = _told(survey.findings, "manifests", level.number, lambda: level.index)
    if index is None:
        return
    survey.objects, survey.present, survey.indexed = index.count, index.present, True
    if filled and not index.count and kind_of(level.kind).is_path:
        survey.findings.append(Finding("manifests", "error", "the level has vertices of paths, and no object", level.number))


def _survey_links(survey: LevelSurvey, level: LevelContents, blobs: Blobs, filled: bool) -> None:
    """Find the families of links."""
    objects, found, number = open_objects(level.place.handle), survey.findings, level.number
    kind = kind_of(level.kind)
    names = {n for f in ("links", CROSSING) for n in objects.list_dir(join(level.place.prefix, f)) if n != DOCUMENT}
    deltas = {d for n in sorted(names) if (d := _told(found, "links", number, lambda n=n: parse_delta(n))) is not None}
    survey.offset = _told(found, "links", number, lambda: level.offset)
    survey.implied = bool(_told(found, "documents", number, lambda: level.has_implied_edges))
    for delta in sorted({*deltas, *([0] if kind.link else [])}):
        links = _told(found, "links", number, lambda delta=delta: level.found_links(delta))
        if links is None:
            if filled and kind.link and not delta and not any(f.rule == "links" for f in found) and not survey.implied:
                text = f"the level has vertices of a {level.kind}, and no {kind.link}s"
                found.append(Finding("links", "warning", text, number, "links/0", advice="nothing, if there are none"))
            continue
        if delta and number + delta not in level.store.levels:
            text = f"links lead to level {number + delta}, which is not there"
            found.append(Finding("links", "error", text, number, links.source.array))
            continue
        chunked = not delta and bool(_told(found, "links", number, lambda: level.is_chunked_skeleton))
        survey.links[delta] = (
            links,
            LinkRules(
                links.source,
                faces=not delta and kind.link == "face" and links.source.family.width > 2,
                trees=not delta and kind.has_parents and links.source.family.width == 2 and not chunked,
                counted=links.source.crossing is not None or isinstance(blobs, GridArrays),
                fragments=not delta and bool(objects.list_dir(join(level.place.prefix, LINK_FRAGMENTS))),
            ),
        )
