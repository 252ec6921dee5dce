"""How notebooks show stores and levels: what is there, where, and how large.

By metadata and catalogs alone; nothing here reads blobs. What can't be had because the store is damaged shows its error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from dask_zv.errors import ZVError
from dask_zv.format.links import LinkFamily
from dask_zv.geometry.schema import ATTRIBUTES, VERTICES, AttributeSchema
from dask_zv.graph.html_parts import count, error, faint, frame, heading, pairs, size, table, text
from dask_zv.level.contents import LevelContents, StoreContents
from dask_zv.level.occupancy import map_axes, occupancy_html
from dask_zv.level.source import ChunkTable
from dask_zv.store.facts import ArraySize, LevelFacts, attempt, look, other_nodes, was_looked_at

if TYPE_CHECKING:
    from dask_zv.level.source import LevelSource


_MANY = 8
_LEVEL_COLUMNS = (
    ("level", False),
    ("vertices", True),
    ("chunks", True),
    ("objects", True),
    ("attributes", False),
    ("stored as", False),
    ("decoded", True),
    ("stored", True),
)
_NOTHING = faint("–")


def store_summary_html(store: StoreContents) -> str:
    """Return what a store holds as HTML.

    Of the finest level the catalog is read, as any reading of it begins; of the others no more than their metadata, unless
    they were looked at before.

    Parameters
    ----------
    store : Store

    Returns
    -------
    str
    """
    m = store.metadata
    facts = [("url", text(store.url, 300)), ("layout", f"{store.layout} (ZV {text(m.zv_version)})")]
    if m.crs is not None:
        facts.append(("crs", text(json.dumps(m.crs, ensure_ascii=False, default=str))))
    numbers = attempt(lambda: store.levels)
    if isinstance(numbers, ZVError):
        facts.append(("levels", error(numbers)))
        numbers = ()
    levels = [(n, attempt(lambda n=n: store.level(n))) for n in numbers]  # type: ignore[misc]
    rows: list[Sequence[str]] = []
    first: LevelFacts | None = None
    for number, level in levels:
        if isinstance(level, ZVError):
            rows.append((count(number), error(level)))
            continue
        known = look(level) if (first is None and _may_look(level)) or was_looked_at(level) else LevelFacts(level)
        first = first or known
        rows.append(_level_row(known))
    parts = [_beside(pairs(facts) + _axes(store, None), "" if first is None else _map(first))]
    if rows:
        parts += [heading("Levels"), table(_LEVEL_COLUMNS, rows)]
    return frame("dask_zv.Store", text(", ".join(m.geometry_types) or "no geometry yet"), parts)


def level_summary_html(level: LevelContents) -> str:
    """Return what a level holds as HTML.

    Parameters
    ----------
    level : Level

    Returns
    -------
    str
    """
    known = look(level) if was_looked_at(level) or _may_look(level) else LevelFacts(level)
    facts = [("url", text(level.url, 300)), ("vertices", _vertices(known)), *_about(known)]
    parts = [_beside(pairs(facts) + _axes(level.store, level), _map(known))]
    if known.source is not None and not isinstance(known.source, ZVError):
        parts += [heading("Arrays"), _arrays(known, known.source)]
    return frame("dask_zv.Level", f"{level.number} &nbsp;{faint(text(level.kind or 'no geometry yet'))}", parts)


def _may_look(level: LevelContents) -> bool:
    """Tell whether a first look is cheap: it asks for every object where the store was opened to check them."""
    return not level.store.check_objects


def _beside(left: str, right: str) -> str:
    if not right:
        return left
    return (
        '<div style="display:flex;flex-wrap:wrap;align-items:flex-start">'
        f'<div style="margin-right:28px">{left}</div><div style="max-width:270px">{right}</div></div>'
    )


# ------------------------------------------------------------------------------------------------ axes and the map


def _axes(store: StoreContents, level: LevelContents | None) -> str:
    """Return the table of the axes, with the chunks and bins of a level, of level 0 where it is None."""
    m = store.metadata
    number = 0 if level is None else level.number
    chunk = attempt(lambda: m.chunk_shape if level is None else level.metadata.chunk_shape_in(m.chunk_shape))
    bins = attempt(lambda: m.bin_shape_at(number))
    columns = [
        [f"<b>{text(a.name, 60)}</b>{'' if a.type == 'space' else faint(f' {text(a.type, 40)}')}" for a in m.axes],
        [text(a.unit, 60) if a.unit else _NOTHING for a in m.axes],
        *([_number(v) for v in corner] for corner in m.bounds),
        *([_NOTHING] * m.ndim if v is None or isinstance(v, ZVError) else [_number(e) for e in v] for v in (chunk, bins)),
    ]
    problems = [(error(v),) for v in (chunk, bins) if isinstance(v, ZVError)]
    titles = (("axis", False), ("unit", False), ("from", True), ("to", True), ("chunk edge", True), ("bin edge", True))
    return table(titles, [*zip(*columns, strict=True), *problems])


def _number(value: float) -> str:
    return f"{value:,.8g}"


def _map(known: LevelFacts) -> str:
    store, chunks = known.level.store, known.chunks
    if chunks is None or isinstance(chunks, ZVError) or not len(chunks):
        return ""
    m = store.metadata
    edges = attempt(lambda: known.level.metadata.chunk_shape_in(m.chunk_shape))
    if isinstance(edges, ZVError):
        return ""  # the table of axes shows it
    i, j = map_axes(m.axes)
    lead = chunks.coords.shape[1] - m.ndim  # an attribute may lead the keys
    if lead < 0:  # reading says what is wrong
        return ""
    others = [a.name for k, a in enumerate(m.axes) if k not in (i, j)]
    if lead:
        others.insert(0, known.level.metadata.leading_part(m.ndim) or "the part that leads the keys")
    shown = chunks.coords[:, [lead + i, lead + j]]
    return occupancy_html(shown, chunks.rows, (m.axes[i], m.axes[j]), (edges[i], edges[j]), others)


# ------------------------------------------------------------------------------------------------ a level in a line


def _level_row(known: LevelFacts) -> list[str]:
    """Return the cells of a level in its store's table."""
    level, source = known.level, known.source
    row = [count(level.number), _vertices(known)]
    if source is None:
        return [*row, faint(_unseen(level))]
    if isinstance(source, ZVError):
        return [*row, error(source)]
    names = [f"{text(a.name, 60)} {faint(_dtype(a))}" for a in source.schema.attributes]
    if source.chunk_attribute is not None:
        names.append(f"{text(source.chunk_attribute[0], 60)} {faint('leads the keys')}")
    shown = ", ".join(names[:_MANY]) + (faint(f" and {len(names) - _MANY:,} more") if len(names) > _MANY else "")
    row += [_chunks(known, brief=True), _objects(known), shown or _NOTHING]
    if known.sizes is None:
        return [*row, _uncatalogued(level)]
    if isinstance(known.sizes, ZVError):
        return [*row, error(known.sizes)]
    return [*row, _packing(known), *(_NOTHING if n is None else size(n) for n in known.total or (None, None))]


def _vertices(known: LevelFacts) -> str:
    told = known.level.metadata.vertex_count
    chunks = known.chunks
    if chunks is None or isinstance(chunks, ZVError) or int(chunks.rows.sum()) == told:
        return count(told)
    return f"{count(told)} {faint(f'({count(int(chunks.rows.sum()))} in the chunks)')}"


def _unseen(level: LevelContents) -> str:
    number = level.number
    if level.store.check_objects:
        return f"not looked at yet: store.level({number}).chunks compares every object first"
    return f"not looked at yet: store.level({number})"


def _uncatalogued(level: LevelContents) -> str:
    if not level.metadata.vertex_count:
        return faint("nothing written yet")
    refresh = "dzv.open(…, mode='r+').refresh()" if level.store.read_only else "store.refresh()"
    return faint(f"not catalogued: {text(refresh)}")


def _chunks(known: LevelFacts, *, brief: bool = False) -> str:
    chunks = known.chunks
    if isinstance(chunks, ZVError):
        return error(chunks)
    if chunks is None:
        return _NOTHING if brief else _uncatalogued(known.level)
    return count(len(chunks)) if brief else _spread(chunks)


def _spread(chunks: ChunkTable) -> str:
    n = len(chunks)
    if not n:
        return "0"
    least, most, mean = int(chunks.rows.min()), int(chunks.rows.max()), chunks.rows.sum() / n
    return f"{count(n)} {faint(f'of {count(least)} to {count(most)} vertices, {mean:,.0f} on average')}"


def _objects(known: LevelFacts) -> str:
    if isinstance(known.objects, ZVError):
        return error(known.objects)
    return _NOTHING if known.objects is None else count(known.objects)


def _packing(known: LevelFacts) -> str:
    if isinstance(known.packed, ZVError):
        return error(known.packed)
    if known.packed is None:
        return _NOTHING
    return "shards" if known.packed else "an object per chunk"


# ------------------------------------------------------------------------------------------------ a level by itself


def _about(known: LevelFacts) -> Iterator[tuple[str, str]]:
    """Yield what is known of a level beside its vertices."""
    level, source = known.level, known.source
    if level.metadata.parent_level is not None:
        yield "made", f"from level {count(level.metadata.parent_level)} by {text(level.metadata.coarsening_method)}"
    if source is None:
        yield "chunks", faint(_unseen(level))
        return
    if isinstance(source, ZVError):
        yield "arrays", error(source)
        return
    yield "chunks", _chunks(known)
    if known.packed is not None:
        yield "stored as", _packing(known)
    if isinstance(known.sizes, ZVError):
        yield "size", error(known.sizes)
    elif known.total is not None:
        decoded, stored = known.total
        yield "size", f"{size(decoded)} decoded, {size(stored)} stored"
    if known.objects is not None:
        yield "objects", _objects(known)
    links, groups = other_nodes(level)
    if groups is not None:
        yield "groups", error(groups) if isinstance(groups, ZVError) else count(groups)
    if links is not None:
        yield "links", error(links) if isinstance(links, ZVError) else _links(level, links)


def _links(level: LevelContents, family: LinkFamily) -> str:
    ends = f"of {family.width} vertices each{', directed' if family.directed else ''}"
    if family.count is None:
        return f"{ends} {faint('(not counted)')}"
    if level.has_implied_edges:  # the others are between rows that follow each other
        return f"{count(family.count)} stored {faint(f'{ends}; the others follow from the order of the rows')}"
    return f"{count(family.count)} {'faces' if level.kind == 'mesh' else 'edges'} {faint(ends)}"


def _arrays(known: LevelFacts, source: LevelSource) -> str:
    """Return the table of a level's arrays: what they hold, and how much."""
    schema = source.schema
    attributes = {a.array: a for a in schema.attributes}
    sizes = {s.name: s for s in known.sizes} if isinstance(known.sizes, tuple) else {}
    rows: list[Sequence[str]] = []
    for name in [*dict.fromkeys([VERTICES, *attributes, *sizes])]:
        found, attribute = sizes.get(name), attributes.get(name)
        what = [_NOTHING, _NOTHING, _NOTHING]
        if name == VERTICES:
            what = [schema.dtype.name, count(schema.grid.ndim), _NOTHING]
        elif attribute is not None:
            what = [text(_dtype(attribute)), _channels(attribute, found, known), _categories(attribute)]
        shown = text(name.removeprefix(f"{ATTRIBUTES}/"), 80) if attribute is not None else faint(text(name, 80))
        if found is not None and found.arrays > 1:
            shown += faint(f"/* ({count(found.arrays)} arrays)")
        amounts: list[str] = []
        if sizes:
            numbers = (None, None, None) if found is None else (found.blobs, found.decoded, found.stored)
            amounts = [_NOTHING if n is None else f(n) for n, f in zip(numbers, (count, size, size), strict=True)]
        rows.append([shown, *what, *amounts])
    if source.chunk_attribute is not None:
        name, values = source.chunk_attribute
        rows.append([text(name, 80), f"leads the chunk keys: {text(', '.join(map(str, values)))}"])
    titles = ("array", "dtype", "channels", "categories", *(("blobs", "decoded", "stored") if sizes else ()))
    return table([(t, i > 1) for i, t in enumerate(titles)], rows)


def _dtype(attribute: AttributeSchema) -> str:
    if attribute.dictionary is None:
        return str(attribute.dtype)
    return f"str as {attribute.dtype}"


def _channels(attribute: AttributeSchema, found: ArraySize | None, known: LevelFacts) -> str:
    """Return how many values a vertex has; where the metadata leaves it out, the size of all tells."""
    channels = attribute.channels
    if attribute.any_width:
        if found is None or found.decoded is None or not isinstance(known.chunks, ChunkTable):
            return faint("not told")
        channels = found.decoded // max(1, int(known.chunks.rows.sum()) * attribute.dtype.itemsize)
        channels = channels if channels > 1 else None
    names = ", ".join(attribute.channel_names or ())
    return _NOTHING if channels is None else f"{count(channels)}{faint(f' ({text(names, 80)})') if names else ''}"


def _categories(attribute: AttributeSchema) -> str:
    return _NOTHING if attribute.dictionary is None else count(len(attribute.dictionary.categories))
