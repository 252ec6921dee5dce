"""Checking a store: every document, list and blob is read once, as one Dask graph, and what is wrong is listed, not raised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, overload

import numpy as np
from dask.delayed import Delayed
from dask.task_spec import List, TaskRef

from dask_zv.config import settings
from dask_zv.errors import FormatError, MetadataError, NotFoundError, StoreError
from dask_zv.graph.builder import GraphBuilder
from dask_zv.graph.run import check_reachable, compute_one
from dask_zv.level.contents import StoreContents, contents_of
from dask_zv.level.source import LevelSource
from dask_zv.maintain.rules_blobs import level_number
from dask_zv.maintain.rules_catalog import look_at_objects
from dask_zv.maintain.rules_chunks import ChunkFacts, join_facts, look_at_chunks
from dask_zv.maintain.rules_levels import LevelSurvey, survey_level
from dask_zv.maintain.rules_links import (
    LinkFacts,
    LinkRules,
    all_faces,
    all_trees,
    cells_by_task,
    look_at_crossing,
    look_at_links,
)
from dask_zv.maintain.rules_objects import ManifestFacts, all_objects, look_at_manifests, look_at_tables, rows_of_tasks
from dask_zv.maintain.rules_root import survey_levels, survey_root
from dask_zv.maintain.validation import FEWER, GRID_ADVICE, OTHER_GRID, Finding, Validation, finding_of, sorted_findings
from dask_zv.storage.handles import open_objects
from dask_zv.storage.opening import lacks_root, open_root
from dask_zv.storage.targets import resolve_target

_CELLS = 4096
"""Cells of links that one task looks at."""
_SEVERAL = 3
"""Chunks with vertices outside, at least, that speak of the grid and not of these chunks."""


@overload
def validate(
    store: object,
    level: int | Sequence[int] | None = None,
    *,
    deep: bool = True,
    compute: Literal[True] = True,
    progress: bool | None = None,
) -> Validation: ...
@overload
def validate(
    store: object,
    level: int | Sequence[int] | None = None,
    *,
    deep: bool = True,
    compute: Literal[False],
    progress: bool | None = None,
) -> Delayed: ...
def validate(
    store: object,
    level: int | Sequence[int] | None = None,
    *,
    deep: bool = True,
    compute: bool = True,
    progress: bool | None = None,
) -> Validation | Delayed:
    """Check a store of any writer and either generation, and list what is wrong: nothing is raised, and nothing is changed.

    All documents, lists of chunks and blobs are read once, as one Dask graph on the active scheduler, and compared with each
    other and with the catalog of the last commit. :attr:`Validation.rules` names the rules.

    Parameters
    ----------
    store : Store, or a target as for :func:`open`
    level : int or sequence of int, optional
        Only these levels; None checks all.
    deep : bool
        False looks at documents, lists and the catalog only, and reads no blob.
    compute : bool
        False returns a Delayed of the result; documents and lists are read now.
    progress : bool, optional
        Show a progress bar.

    Returns
    -------
    Validation or Delayed
        True where no finding is an error; `findings` are the findings, and :func:`repair` takes them.

    Raises
    ------
    NotFoundError
        Nothing is at the target, or the store has no such level.
    StoreError
        The store cannot be reached.

    Examples
    --------
    >>> import dask_zv as dzv
    >>> store = dzv.create({}, chunk_shape=(10, 10), bounds=((0, 0), (99, 99)))
    >>> _ = dzv.write_points(store, [[1.0, 2.0], [3.0, 14.0]], attributes={"mass": [0.5, 1.5]})
    >>> dzv.validate(store)
    <dask_zv.Validation ok: no findings; 2 chunks, 2 vertices>
    """
    try:
        contents = as_stored(store)
    except (MetadataError, FormatError, StoreError) as error:
        if isinstance(error, StoreError) and not has_no_root(store):
            raise
        broken = Validation(error.store or "", (finding_of(error, "documents"),), deep=deep)
        return broken if compute else _graph_of(broken)
    check_reachable(contents.handle)
    wanted = contents.levels if level is None else (level,) if isinstance(level, int) else tuple(level)
    for number in wanted:
        if number not in contents.levels:
            raise NotFoundError(f"no level {number}: the store has the levels {list(contents.levels)}", store=contents.url)
    delayed = _planned(contents, sorted(set(wanted)), deep=deep)
    if not compute:
        return delayed
    result: Validation = compute_one(delayed, progress=progress)
    return result


def has_no_root(store: object) -> bool:
    """Return True if there are levels of a store, and no document of its root."""
    given = contents_of(store)
    handle, prefix = resolve_target(store, None, read_only=True) if given is None else (given.handle, given.prefix)
    return lacks_root(open_objects(handle), prefix)


def as_stored(store: object, mode: Literal["r", "r+"] = "r") -> StoreContents:
    """Return the contents of a store whose levels are looked at as if they had no catalog."""
    given = contents_of(store)
    if given is not None:
        contents = StoreContents.reopened(given.handle, given.prefix)
    else:
        contents = StoreContents(*open_root(store, mode, must_exist=True))
    contents.believes_catalogs = False
    return contents


def _graph_of(result: Validation) -> Delayed:
    builder = GraphBuilder("zv-validate")
    end = builder.key("result")
    builder.add(end, _itself, result)
    return builder.finish(end)


def _itself(value: Validation) -> Validation:
    return value


def _planned(store: StoreContents, wanted: Sequence[int], *, deep: bool) -> Delayed:
    """Return the graph of a validation."""
    surveys: dict[int, LevelSurvey] = {}
    for number in wanted:
        surveys[number] = survey_level(store, number)
    # links lead to other levels, whose chunks must be known
    needed = {n + d for n, s in surveys.items() for d in s.links} - surveys.keys() if deep else set()
    others = {n: survey_level(store, n) for n in needed if n in store.levels}
    findings = [*survey_root(store), *survey_levels(store, surveys), *(f for s in surveys.values() for f in s.findings)]
    builder = GraphBuilder("zv-validate")
    facts = {n: _add_chunks(builder, s) for n, s in {**surveys, **others}.items() if s.level is not None} if deep else {}
    ends = [_add_level(builder, store, s, facts) for s in surveys.values() if s.number in facts]
    end = builder.key("result")
    builder.add(end, _finish, store.url, tuple(wanted), tuple(findings), List(*ends), deep)
    return builder.finish(end)


def _add_chunks(builder: GraphBuilder, survey: LevelSurvey) -> TaskRef:
    """Add the tasks that read a level's chunks; return a reference to the facts of all."""
    assert survey.level is not None
    source, lists, step = survey.level.source, survey.lists, min(settings().pass_chunks, settings().read_block_chunks)
    parts = [
        builder.add(builder.key("chunks", f"{survey.number}-{a}"), look_at_chunks, source, lists.part(a, a + step))
        for a in range(0, len(lists), step)
    ]
    joined = builder.key("level", survey.number)
    return builder.add(joined, join_facts, List(*parts), source.rank, source.schema.grid.ndim)


def _add_level(builder: GraphBuilder, store: StoreContents, survey: LevelSurvey, facts: dict[int, TaskRef]) -> TaskRef:
    """Add the tasks that look at a level's links and objects, and the one that compares what all have found."""
    level, number = survey.level, survey.number
    assert level is not None
    source, own = level.source, facts[number]
    families = []
    for delta, (found, rules) in survey.links.items():
        if number + delta not in facts:
            continue
        name = f"{number}-{'m' * (delta < 0)}{abs(delta)}"
        parts = [
            builder.add(builder.key("links", f"{name}-{i}"), look_at_links, source, rules, plan, own, facts[number + delta])
            for i, plan in enumerate(cells_by_task(found, _CELLS))
        ]
        if rules.links.crossing is not None:
            parts.append(
                builder.add(builder.key("links", f"{name}-across"), look_at_crossing, source, rules, own, facts[number + delta])
            )
        families.append(List(rules, List(*parts)))
    objects, tables = [], []
    if survey.indexed and (survey.objects or len(survey.lists)):
        objects = [
            builder.add(builder.key("objects", f"{number}-{a}"), look_at_manifests, source, a, b, own)
            for a, b in rows_of_tasks(survey.objects)
        ]
        specs = store.attribute_specs.get("object", {}) if not number else {}
        tables = [builder.add(builder.key("tables", number), look_at_tables, source, tuple(specs))]
    lists = [
        builder.add(builder.key("lists", f"{number}-{i}"), look_at_objects, source, array)
        for i, array in enumerate(survey.lists.have if not survey.unfinished else ())
    ]
    about = _About(
        source,
        level.metadata.vertex_count,
        store.metadata.bounds,
        survey.offset,
        shared=level.metadata.shared_fragments or "shared_fragments" in store.metadata.format_capabilities,
        present=survey.present,
        implied=survey.implied,
    )
    end = builder.key("compare", number)
    return builder.add(end, _compare, about, own, List(*families), List(*objects), List(*tables), List(*lists))


@dataclass(frozen=True, slots=True)
class _About:
    """What the metadata say of a level, to be compared with what is in it."""

    source: LevelSource
    vertex_count: int
    bounds: tuple[tuple[float, ...], tuple[float, ...]]
    offset: tuple[float, ...] | None
    shared: bool
    present: int | None
    implied: bool


@dataclass(frozen=True, slots=True)
class _LevelResult:
    chunks: int
    vertices: int
    objects: int
    links: int
    findings: tuple[Finding, ...] = field(default=())


def _compare(
    about: _About,
    own: ChunkFacts,
    families: Sequence[tuple[LinkRules, Sequence[LinkFacts]]],
    objects: Sequence[ManifestFacts],
    tables: Sequence[ManifestFacts],
    lists: Sequence[Sequence[Finding]],
) -> _LevelResult:
    """Compare what all blocks of a level have found."""
    level = level_number(about.source.place.prefix)
    found = [
        *_of_the_grid(about, own, level),
        *(f for p in (*objects, *tables) for f in p.findings),
        *(f for some in lists for f in some),
    ]
    found += _counts_and_bounds(about, own, level)
    total = 0
    for rules, parts in families:
        found += [f for p in parts for f in p.findings]
        count = sum(p.count for p in parts)
        total += count if not rules.links.family.delta else 0
        if not any(p.findings for p in parts):
            found += _count_of_links(rules, parts, level, count)
        if rules.faces:
            found += all_faces(rules.links, level, parts)
        if rules.trees:
            found += all_trees(rules.links, level, parts, own, implied=about.implied)
    if objects:
        found += all_objects(about.source, objects, own, shared=about.shared, present=about.present)
    vertices = int(np.maximum(own.rows, 0).sum())
    return _LevelResult(len(own), vertices, sum(p.present for p in objects), total, tuple(found))


def _of_the_grid(about: _About, own: ChunkFacts, level: int) -> list[Finding]:
    """Return the findings about chunks; where most vertices lie outside of their chunks, one about the grid for these."""
    outside = [f for f in own.findings if f.rule == "inside"]
    have = int(np.maximum(own.rows, 0).sum())
    if len(outside) < _SEVERAL or 2 * own.strays <= have:
        return list(own.findings)
    shape = list(about.source.schema.grid.chunk_shape)
    outside_of = f"{own.strays:,} of {have:,} vertices lie outside of the boxes of their chunks"
    text = f"{outside_of}: the metadata say chunks of {shape}, {OTHER_GRID}"
    return [Finding("documents", "error", text, level, advice=GRID_ADVICE), *(f for f in own.findings if f.rule != "inside")]


def _counts_and_bounds(about: _About, own: ChunkFacts, level: int) -> list[Finding]:
    found: list[Finding] = []
    have = int(np.maximum(own.rows, 0).sum())
    if have != about.vertex_count and (own.rows >= 0).all():
        text = f"the level has {have:,} vertices, its metadata counts {about.vertex_count:,} (vertex_count)"
        found.append(Finding("counts", "error" if about.vertex_count else "warning", text, level))
    if not np.isfinite(own.low).all():
        return found
    least, most = (np.asarray(corner, np.float64) for corner in about.bounds)
    room = 1e-6 * (np.maximum(most - least, about.source.schema.grid.chunk_shape) + np.maximum(np.abs(least), np.abs(most)))
    shifts = [np.zeros(len(least)), *([] if about.offset is None else [np.asarray(about.offset)])]  # writers differ
    if all((own.low + s < least - room).any() or (own.high + s > most + room).any() for s in shifts):
        low, high = own.low + shifts[-1], own.high + shifts[-1]
        told = f"the bounds of the store are {_corner(least)} to {_corner(most)}"
        text = f"vertices reach from {_corner(low)} to {_corner(high)}, {told}"
        found.append(Finding("bounds", "warning" if level else "error", text, level))
    return found


def _corner(values: Any) -> str:
    return "(" + ", ".join(f"{v:.6g}" for v in values) + ")"


def _count_of_links(rules: LinkRules, parts: Sequence[LinkFacts], level: int, count: int) -> list[Finding]:
    """Compare the links of a family with their number in its document: in generation 0.7, those across chunks."""
    links = rules.links
    expected = links.expected if rules.counted else None
    if links.crossing is not None:
        count, expected = parts[-1].count, links.family.count
    if expected is None or count == expected:
        return []
    text = f"{count:,} links are stored, the document of the family counts {expected:,}"
    return [Finding("counts", "error", text, level, links.crossing or links.array, advice=FEWER if count < expected else "")]


def _finish(
    url: str, levels: tuple[int, ...], findings: tuple[Finding, ...], results: Sequence[_LevelResult], deep: bool
) -> Validation:
    """Return the result of all levels."""
    every = sorted_findings([*findings, *(f for r in results for f in r.findings)])
    sums = {name: sum(getattr(r, name) for r in results) for name in ("chunks", "vertices", "objects", "links")}
    return Validation(url, every, levels, **sums, deep=deep)
