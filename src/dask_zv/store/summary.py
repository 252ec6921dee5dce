"""Summaries of stores and levels, as facts and tables for text and notebooks.

No blob is read. A summary never raises for what is damaged: the error stands in the place of what can't be had. It costs:

- of a store: the documents of the levels that were not looked at yet, and for each level its catalog, once, and a listing;
- of a level: the first look that every read begins with (the catalog, and the documents of the arrays), once, and a listing;
- ``full``, for ``info()``: also the documents of links, groups and attributes of objects, and a first look at every level.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from dask_zv.errors import ZVError, escaped
from dask_zv.geometry.kinds import kind_of
from dask_zv.geometry.schema import VERTICES, AttributeSchema
from dask_zv.level.contents import LevelContents, StoreContents
from dask_zv.level.source import LevelSource, level_blobs
from dask_zv.read.object_columns import object_fields
from dask_zv.storage.grid.read import GridArrays
from dask_zv.store.glance import (
    NO_DATA,
    Glance,
    attempt,
    files_of,
    glance_at,
    glances,
    last_commit,
    nbytes_of,
    size,
)

_ABOUT = {"object_attributes": "attributes of objects", "group_attributes": "attributes of groups"}


class Faint(str):
    """A remark in the place of a value."""

    __slots__ = ()


Shown: TypeAlias = "str | ZVError | None"
"""A cell: text, an error in the place of what cannot be read, or None."""


@dataclass(frozen=True, slots=True)
class FactTable:
    """Rows of cells; the last cell of a short row spans the rest."""

    title: str
    columns: tuple[tuple[str, bool], ...]  # name, and whether it has numbers, which stand to the right
    rows: Sequence[Sequence[Shown]]


@dataclass(frozen=True, slots=True)
class Summary:
    """The summary of a store or level; `parts` are the summaries of what it contains."""

    kind: str
    what: str
    facts: list[tuple[str, Shown]]
    tables: list[FactTable]
    parts: list[Summary] = field(default_factory=list)


def short(value: object, longest: int = 200) -> str:
    """Return a value as one line without control characters, truncated if it is long."""
    whole = escaped(str(value))
    return whole if len(whole) <= longest else f"{whole[: longest - 1]}…"


def store_summary(store: StoreContents, *, full: bool = False) -> Summary:
    """Return the summary of a store."""
    m = store.metadata
    facts: list[tuple[str, Shown]] = [("url", short(store.url, 300)), ("layout", f"{store.layout} (ZV {short(m.zv_version)})")]
    if m.crs is not None:
        facts.append(("crs", short(json.dumps(m.crs, ensure_ascii=False, default=str))))
    found = attempt(lambda: glances(store))
    if isinstance(found, ZVError):
        facts.append(("levels", found))
        found = []
    if full:
        told = [attempt(lambda g=g: g.nbytes) for _, g in found if isinstance(g, Glance)]  # type: ignore[misc]
        known = [n for n in told if isinstance(n, int)]
        if known:
            facts.append(("size", size(sum(known)) + ("" if len(known) == len(found) else ", of levels with a catalog")))
        if m.extra.get("attribute_specs"):
            facts.append(
                ("attribute_specs", short(", ".join(f"{k}: {', '.join(v)}" for k, v in store.attribute_specs.items())))
            )
    tables = [_axes(store, m.chunk_shape)]
    if len(found) > 1 or not full or any(isinstance(g, ZVError) for _, g in found):
        columns = (("level", False), ("vertices", True), ("chunks", True), ("size", True), ("", False))
        tables.append(FactTable("levels", columns, [_level_row(number, glance) for number, glance in found]))
    if found and len(store.levels) > len(found):
        facts.append(("levels", f"{len(store.levels):,}, of which {len(found)} are shown"))
    parts = [level_summary(g.level, full=True, axes=False) for _, g in found if isinstance(g, Glance)] if full else []
    return Summary("dask_zv.Store", short(", ".join(m.geometry_types) or "no geometry yet"), facts, tables, parts)


def level_summary(level: LevelContents, *, full: bool = False, axes: bool = True) -> Summary:
    """Return the summary of a level; without `axes` if it is part of that of a store."""
    source = attempt(lambda: level.source) if full else first_look(level)
    glance = attempt(lambda: glance_at(level))
    facts: list[tuple[str, Shown]] = [("url", short(level.url, 300))] if axes else []
    facts.append(("vertices", glance if isinstance(glance, ZVError) else attempt(lambda: glance.vertices)))
    if made := _made(level):
        facts.append(("made", made))
    empty = isinstance(glance, Glance) and attempt(lambda: glance.is_empty) is True
    if empty:
        facts.append(("chunks", Faint(NO_DATA)))
    elif isinstance(source, ZVError):
        facts.append(("arrays", source))
    elif source is None:
        facts.append(("chunks", Faint(f"not looked at yet: store.level({level.number}).chunks compares every object first")))
    else:
        facts += _contents(level, source, full=full)
    if isinstance(glance, Glance) and (unfinished := attempt(lambda: glance.unfinished)):
        facts.append(("unfinished", unfinished))
    edges = attempt(lambda: level.metadata.chunk_shape_in(level.store.metadata.chunk_shape))
    tables = [_axes(level.store, edges)] if axes else []
    if isinstance(source, LevelSource) and not empty:
        tables.append(arrays_table(level, source))
        tables += _other_attributes(level, source) if full else []
    return Summary("dask_zv.Level", f"{level.number}  {short(level.kind or 'no geometry yet')}", facts, tables)


def first_look(level: LevelContents) -> LevelSource | ZVError | None:
    """Return what every read begins with; None where it would compare every object with its catalog, and was not asked for."""
    return attempt(lambda: level.source) if "_found" in level.__dict__ or level.store.check is None else None


def has_bounds(store: StoreContents) -> bool:
    """Return False where the bounds are those of the data, and there is none yet."""
    if store.settings.get("bounds") != "data":
        return True
    level = attempt(lambda: store.level(0))
    return isinstance(level, LevelContents) and bool(level.metadata.vertex_count)


def _axes(store: StoreContents, edges: Sequence[float] | ZVError) -> FactTable:
    """Return the table of the axes, with the edges of chunks."""
    m = store.metadata
    low, high = m.bounds if has_bounds(store) else ((None,) * m.ndim,) * 2
    rows: list[Sequence[Shown]] = [
        [
            short(axis.name, 60) if axis.type == "space" else f"{short(axis.name, 60)} {short(axis.type, 40)}",
            short(axis.unit, 60) if axis.unit else None,
            *(None if v is None else f"{v:,.8g}" for v in (low[i], high[i])),
            None if isinstance(edges, ZVError) else f"{edges[i]:,.8g}",
        ]
        for i, axis in enumerate(m.axes)
    ]
    columns = (("axis", False), ("unit", False), ("from", True), ("to", True), ("chunk edge", True))
    return FactTable("", columns, [*rows, [edges]] if isinstance(edges, ZVError) else rows)


def _level_row(number: int, glance: Glance | ZVError) -> Sequence[Shown]:
    if isinstance(glance, ZVError):
        return f"{number:,}", glance
    vertices = attempt(lambda: glance.vertices)
    try:
        chunks, nbytes = glance.chunks, glance.nbytes
        said = "; ".join(filter(None, [_made(glance.level), glance.remark]))
    except ZVError as problem:
        return f"{number:,}", vertices, problem
    numbers = None if chunks is None else f"{chunks:,}", None if nbytes is None else size(nbytes)
    return f"{number:,}", vertices, *numbers, said or None


def _made(level: LevelContents) -> str | None:
    parent = level.metadata.parent_level
    return None if parent is None else f"from level {parent:,} by {short(level.metadata.coarsening_method)}"


def _contents(level: LevelContents, source: LevelSource, *, full: bool) -> Iterator[tuple[str, Shown]]:
    """Yield what is known of a level's chunks, objects and links; without a catalog, chunks where others asked for them."""
    catalog = last_commit(level)
    listed = catalog is not None and VERTICES in catalog.arrays
    if listed or "chunks" in level.__dict__:
        chunks = attempt(lambda: level.chunks)
        if isinstance(chunks, ZVError):
            yield "chunks", chunks
        else:
            rows = chunks.rows
            spread = f" of {int(rows.min()):,} to {int(rows.max()):,} vertices" if len(rows) else ""
            yield "chunks", f"{len(rows):,}{spread}"
            if listed:
                yield "stored as", "shards" if level.is_packed else "an object per chunk"
    else:
        refresh = "dzv.open(…, mode='r+').refresh()" if level.store.read_only else "store.refresh()"
        yield "chunks", Faint(f"not catalogued: {refresh}")
    if catalog is not None:
        files = f" in {files_of(catalog, level.url):,} files" if full else ""
        yield "size", f"{size(nbytes_of(catalog))}{files}"
    if full:
        yield "compression", attempt(lambda: _codecs(source))
    if source.schema.has_objects:
        objects = attempt(lambda: level.index.count)
        yield "objects", objects if isinstance(objects, ZVError) else f"{objects:,}"
        if full:
            groups = attempt(lambda: level.index.tables.attributes("groups").get("num_groups"))
            if groups:
                yield (
                    "groups",
                    groups if isinstance(groups, ZVError) else short(f"{groups:,}" if type(groups) is int else groups),
                )
    if full and kind_of(level.kind).link:
        yield f"{kind_of(level.kind).link}s", attempt(lambda: _links(level))


def _codecs(source: LevelSource) -> str:
    """Return how chunks of positions are compressed."""
    blobs = level_blobs(source)
    found = blobs.array(VERTICES) if isinstance(blobs, GridArrays) else None
    return ", ".join(short(c.get("name"), 40) for c in found.spec.codecs) or "none" if found is not None else "none"


def _links(level: LevelContents) -> str:
    """Return how many links the level has, as far as its documents count them."""
    found = level.found_links(0)
    implied = "each row of a fragment and the one before it" if level.has_implied_edges else ""
    if found is None:
        return implied or "none"
    count = found.source.expected
    stored = "stored, not counted" if count is None or found.source.crossing is not None else f"{count:,} stored"
    return f"{implied}, and {stored}" if implied else stored.removesuffix(" stored")


def arrays_table(level: LevelContents, source: LevelSource) -> FactTable:
    """Return the table of positions and attributes: what a vertex has of each."""
    rows: list[Sequence[Shown]] = [(VERTICES, source.schema.dtype.name, f"{source.schema.grid.ndim:,}", None)]
    rows += [(short(a.name, 80), *_dtype(a), _channels(a, level), _categories(a)) for a in source.schema.attributes]
    if source.chunk_attribute is not None:
        name, values = source.chunk_attribute
        rows.append((short(name, 80), f"leads the chunk keys: {short(', '.join(map(str, values)))}"))
    return FactTable("arrays", (("array", False), ("dtype", False), ("channels", True), ("categories", True)), rows)


def _other_attributes(level: LevelContents, source: LevelSource) -> Iterator[FactTable]:
    """Yield tables of the attributes of objects, groups and links."""
    columns = (("attribute", False), ("dtype", False), ("channels", True), ("categories", True))
    rows: list[Sequence[Shown]]
    for family, title in _ABOUT.items() if source.schema.has_objects else ():
        fields = attempt(lambda f=family: object_fields(level.index, f))  # type: ignore[misc]
        if isinstance(fields, ZVError):
            yield FactTable(title, columns, [[fields]])
        elif fields:
            rows = [
                (short(n, 80), "str" if f.dtype.kind in "OUT" else f.dtype.name, f"{f.shape[0]:,}" if f.shape else None, None)
                for n, f in fields.items()
            ]
            yield FactTable(title, columns, rows)
    link = kind_of(level.kind).link
    found = attempt(lambda: level.found_links(0)) if link else None
    if found is not None and not isinstance(found, ZVError) and found.source.attributes:
        schemas = [a.schema for a in found.source.attributes]
        rows = [
            (short(a.name, 80), *_dtype(a), None if a.channels is None else f"{a.channels:,}", _categories(a)) for a in schemas
        ]
        yield FactTable(f"attributes of {link}s", columns, rows)


def _dtype(attribute: AttributeSchema) -> tuple[str]:
    return (short(attribute.dtype) if attribute.dictionary is None else f"str as {attribute.dtype}",)


def _categories(attribute: AttributeSchema) -> str | None:
    return None if attribute.dictionary is None else f"{len(attribute.dictionary.categories):,}"


def _channels(attribute: AttributeSchema, level: LevelContents) -> str | None:
    """Return how many values a vertex has; where the metadata leaves it out, the size of all tells."""
    channels, catalog = attribute.channels, last_commit(level)
    if attribute.any_width and catalog is not None and attribute.array in catalog.arrays:
        columns = catalog.arrays[attribute.array]
        nbytes = int(columns.nbytes[columns.have].sum())
        channels = nbytes // max(1, level.metadata.vertex_count * attribute.dtype.itemsize)
    elif attribute.any_width:
        return Faint("not told")
    names = ", ".join(attribute.channel_names or ())
    return None if channels in (None, 0, 1) else f"{channels}{f' ({short(names, 80)})' if names else ''}"
