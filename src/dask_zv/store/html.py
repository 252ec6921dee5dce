"""How notebooks show stores and levels: short tables of what documents and catalogs tell.

No blob is read; what can't be had because the store is damaged shows its error in its place.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from dask_zv.errors import ZVError
from dask_zv.geometry.schema import VERTICES, AttributeSchema
from dask_zv.graph.html_parts import count, error, faint, frame, heading, pairs, table, text
from dask_zv.level.contents import LevelContents, StoreContents
from dask_zv.level.source import LevelSource

_NOTHING = faint("–")
T = TypeVar("T")


def store_summary_html(store: StoreContents) -> str:
    """Return what a store says of itself as HTML; of its levels no more than their documents are read."""
    m = store.metadata
    facts = [("url", text(store.url, 300)), ("layout", f"{store.layout} (ZV {text(m.zv_version)})")]
    if m.crs is not None:
        facts.append(("crs", text(json.dumps(m.crs, ensure_ascii=False, default=str))))
    numbers = _attempt(lambda: store.levels)
    if isinstance(numbers, ZVError):
        facts.append(("levels", error(numbers)))
        numbers = ()
    parts = [pairs(facts), _axes(store, m.chunk_shape)]
    if numbers:
        columns = (("level", False), ("vertices", True), ("made", False))
        parts += [heading("Levels"), table(columns, [_level_row(store, n) for n in numbers])]
    return frame("dask_zv.Store", text(", ".join(m.geometry_types) or "no geometry yet"), parts)


def level_summary_html(level: LevelContents) -> str:
    """Return what a level says of itself as HTML.

    The first look takes what every read begins with: the catalog and the documents of the arrays, a few requests. It is not
    taken where the store was opened to compare every object with its catalog.
    """
    seen = "_found" in level.__dict__ or not level.store.check_objects
    source = _attempt(lambda: level.source) if seen else None
    facts = [("url", text(level.url, 300)), ("vertices", count(level.metadata.vertex_count))]
    if level.metadata.parent_level is not None:
        facts.append(("made", _made(level)))
    if isinstance(source, ZVError):
        facts.append(("arrays", error(source)))
    elif source is None:
        told = f"not looked at yet: store.level({level.number}).chunks compares every object first"
        facts.append(("chunks", faint(told)))
    else:
        facts += _contents(level, source)
    edges = _attempt(lambda: level.metadata.chunk_shape_in(level.store.metadata.chunk_shape))
    parts = [pairs(facts), _axes(level.store, edges)]
    if isinstance(source, LevelSource):
        parts += [heading("Arrays"), _arrays(level, source)]
    return frame("dask_zv.Level", f"{level.number} &nbsp;{faint(text(level.kind or 'no geometry yet'))}", parts)


def _attempt(read: Callable[[], T]) -> T | ZVError:
    """Return what `read` returns, or the error that it raises where the store is damaged."""
    try:
        return read()
    except ZVError as problem:
        return problem


def _axes(store: StoreContents, edges: Sequence[float] | ZVError) -> str:
    """Return the table of the axes, with the edges of chunks."""
    m = store.metadata
    columns = [
        [f"<b>{text(a.name, 60)}</b>{'' if a.type == 'space' else faint(f' {text(a.type, 40)}')}" for a in m.axes],
        [text(a.unit, 60) if a.unit else _NOTHING for a in m.axes],
        *([f"{v:,.8g}" for v in corner] for corner in m.bounds),
        [_NOTHING] * m.ndim if isinstance(edges, ZVError) else [f"{e:,.8g}" for e in edges],
    ]
    titles = (("axis", False), ("unit", False), ("from", True), ("to", True), ("chunk edge", True))
    problem = [(error(edges),)] if isinstance(edges, ZVError) else []
    return table(titles, [*zip(*columns, strict=True), *problem])


def _level_row(store: StoreContents, number: int) -> Sequence[str]:
    level = _attempt(lambda: store.level(number))
    if isinstance(level, ZVError):
        return count(number), error(level)
    return count(number), count(level.metadata.vertex_count), _made(level)


def _made(level: LevelContents) -> str:
    parent = level.metadata.parent_level
    return _NOTHING if parent is None else f"from level {count(parent)} by {text(level.metadata.coarsening_method)}"


def _contents(level: LevelContents, source: LevelSource) -> Iterator[tuple[str, str]]:
    """Yield what is known of a level's chunks and objects; without a catalog, chunks are known where others asked for them."""
    catalog = level._found[1]
    listed = catalog is not None and VERTICES in catalog.arrays
    if listed or "chunks" in level.__dict__:
        chunks = _attempt(lambda: level.chunks)
        if isinstance(chunks, ZVError):
            yield "chunks", error(chunks)
        else:
            rows = chunks.rows
            spread = f" of {count(int(rows.min()))} to {count(int(rows.max()))} vertices" if len(rows) else ""
            yield "chunks", f"{count(len(rows))}{faint(spread)}"
            if listed:
                yield "stored as", "shards" if level.is_packed else "an object per chunk"
    elif not level.metadata.vertex_count:
        yield "chunks", faint("nothing written yet")
    else:
        refresh = "dzv.open(…, mode='r+').refresh()" if level.store.read_only else "store.refresh()"
        yield "chunks", faint(f"not catalogued: {text(refresh)}")
    if source.schema.has_objects:
        objects = _attempt(lambda: level.index.count)
        yield "objects", error(objects) if isinstance(objects, ZVError) else count(objects)


def _arrays(level: LevelContents, source: LevelSource) -> str:
    """Return the table of positions and attributes: what a vertex has of each."""
    rows: list[Sequence[str]] = [(VERTICES, source.schema.dtype.name, count(source.schema.grid.ndim), _NOTHING)]
    for a in source.schema.attributes:
        categories = _NOTHING if a.dictionary is None else count(len(a.dictionary.categories))
        dtype = str(a.dtype) if a.dictionary is None else f"str as {a.dtype}"
        rows.append((text(a.name, 80), text(dtype), _channels(a, level), categories))
    if source.chunk_attribute is not None:
        name, values = source.chunk_attribute
        rows.append((text(name, 80), f"leads the chunk keys: {text(', '.join(map(str, values)))}"))
    return table((("array", False), ("dtype", False), ("channels", True), ("categories", True)), rows)


def _channels(attribute: AttributeSchema, level: LevelContents) -> str:
    """Return how many values a vertex has; where the metadata leaves it out, the size of all tells."""
    channels, catalog = attribute.channels, level._found[1]
    if attribute.any_width and catalog is not None and attribute.array in catalog.arrays:
        columns = catalog.arrays[attribute.array]
        nbytes = int(columns.nbytes[columns.have].sum())
        channels = nbytes // max(1, level.metadata.vertex_count * attribute.dtype.itemsize)
    elif attribute.any_width:
        return faint("not told")
    names = ", ".join(attribute.channel_names or ())
    return _NOTHING if channels in (None, 0, 1) else f"{channels}{faint(f' ({text(names, 80)})') if names else ''}"
