"""How notebooks show stores and levels: short tables of what documents and catalogs tell.

No blob is read; what can't be had because the store is damaged shows its error in its place. Everything is plain elements with
inline styles: no script, and no style sheet, which viewers of saved notebooks take away. Colours are the text's own, some of
them faint, so that light and dark themes both show them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape
from typing import TypeVar

from dask_zv.errors import ZVError, escaped
from dask_zv.geometry.schema import VERTICES, AttributeSchema
from dask_zv.level.contents import LevelContents, StoreContents
from dask_zv.level.source import LevelSource

_NOTHING = '<span style="opacity:0.65">–</span>'
_FAINT = "opacity:0.65"
_LINE = "1px solid rgba(128,128,128,0.3)"
_TABLE = "margin:4px 0;border-collapse:collapse;border:none;table-layout:auto"
_CELL = "padding:2px 14px 2px 0;vertical-align:top;white-space:normal;max-width:none;border:none;background:none"
T = TypeVar("T")


def store_summary_html(store: StoreContents) -> str:
    """Return what a store says of itself as HTML; of its levels no more than their documents are read."""
    m = store.metadata
    facts = [("url", _text(store.url, 300)), ("layout", f"{store.layout} (ZV {_text(m.zv_version)})")]
    if m.crs is not None:
        facts.append(("crs", _text(json.dumps(m.crs, ensure_ascii=False, default=str))))
    numbers = _attempt(lambda: store.levels)
    if isinstance(numbers, ZVError):
        facts.append(("levels", _error(numbers)))
        numbers = ()
    parts = [_pairs(facts), _axes(store, m.chunk_shape)]
    if numbers:
        columns = (("level", False), ("vertices", True), ("made", False))
        parts += [_heading("Levels"), _table(columns, [_level_row(store, n) for n in numbers])]
    return _frame("dask_zv.Store", _text(", ".join(m.geometry_types) or "no geometry yet"), parts)


def level_summary_html(level: LevelContents) -> str:
    """Return what a level says of itself as HTML.

    The first look takes what every read begins with: the catalog and the documents of the arrays, a few requests. It is not
    taken where the store was opened to compare every object with its catalog.
    """
    seen = "_found" in level.__dict__ or level.store.check is None
    source = _attempt(lambda: level.source) if seen else None
    facts = [("url", _text(level.url, 300)), ("vertices", _count(level.metadata.vertex_count))]
    if level.metadata.parent_level is not None:
        facts.append(("made", _made(level)))
    if isinstance(source, ZVError):
        facts.append(("arrays", _error(source)))
    elif source is None:
        told = f"not looked at yet: store.level({level.number}).chunks compares every object first"
        facts.append(("chunks", _faint(told)))
    else:
        facts += _contents(level, source)
    edges = _attempt(lambda: level.metadata.chunk_shape_in(level.store.metadata.chunk_shape))
    parts = [_pairs(facts), _axes(level.store, edges)]
    if isinstance(source, LevelSource):
        parts += [_heading("Arrays"), _arrays(level, source)]
    return _frame("dask_zv.Level", f"{level.number} &nbsp;{_faint(_text(level.kind or 'no geometry yet'))}", parts)


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
        [f"<b>{_text(a.name, 60)}</b>{'' if a.type == 'space' else _faint(f' {_text(a.type, 40)}')}" for a in m.axes],
        [_text(a.unit, 60) if a.unit else _NOTHING for a in m.axes],
        *([f"{v:,.8g}" for v in corner] for corner in m.bounds),
        [_NOTHING] * m.ndim if isinstance(edges, ZVError) else [f"{e:,.8g}" for e in edges],
    ]
    titles = (("axis", False), ("unit", False), ("from", True), ("to", True), ("chunk edge", True))
    problem = [(_error(edges),)] if isinstance(edges, ZVError) else []
    return _table(titles, [*zip(*columns, strict=True), *problem])


def _level_row(store: StoreContents, number: int) -> Sequence[str]:
    level = _attempt(lambda: store.level(number))
    if isinstance(level, ZVError):
        return _count(number), _error(level)
    return _count(number), _count(level.metadata.vertex_count), _made(level)


def _made(level: LevelContents) -> str:
    parent = level.metadata.parent_level
    return _NOTHING if parent is None else f"from level {_count(parent)} by {_text(level.metadata.coarsening_method)}"


def _contents(level: LevelContents, source: LevelSource) -> Iterator[tuple[str, str]]:
    """Yield what is known of a level's chunks and objects; without a catalog, chunks are known where others asked for them."""
    catalog = level._found[1]
    listed = catalog is not None and VERTICES in catalog.arrays
    if listed or "chunks" in level.__dict__:
        chunks = _attempt(lambda: level.chunks)
        if isinstance(chunks, ZVError):
            yield "chunks", _error(chunks)
        else:
            rows = chunks.rows
            spread = f" of {_count(int(rows.min()))} to {_count(int(rows.max()))} vertices" if len(rows) else ""
            yield "chunks", f"{_count(len(rows))}{_faint(spread)}"
            if listed:
                yield "stored as", "shards" if level.is_packed else "an object per chunk"
    elif not level.metadata.vertex_count:
        yield "chunks", _faint("nothing written yet")
    else:
        refresh = "dzv.open(…, mode='r+').refresh()" if level.store.read_only else "store.refresh()"
        yield "chunks", _faint(f"not catalogued: {_text(refresh)}")
    if source.schema.has_objects:
        objects = _attempt(lambda: level.index.count)
        yield "objects", _error(objects) if isinstance(objects, ZVError) else _count(objects)


def _arrays(level: LevelContents, source: LevelSource) -> str:
    """Return the table of positions and attributes: what a vertex has of each."""
    rows: list[Sequence[str]] = [(VERTICES, source.schema.dtype.name, _count(source.schema.grid.ndim), _NOTHING)]
    for a in source.schema.attributes:
        categories = _NOTHING if a.dictionary is None else _count(len(a.dictionary.categories))
        dtype = str(a.dtype) if a.dictionary is None else f"str as {a.dtype}"
        rows.append((_text(a.name, 80), _text(dtype), _channels(a, level), categories))
    if source.chunk_attribute is not None:
        name, values = source.chunk_attribute
        rows.append((_text(name, 80), f"leads the chunk keys: {_text(', '.join(map(str, values)))}"))
    return _table((("array", False), ("dtype", False), ("channels", True), ("categories", True)), rows)


def _channels(attribute: AttributeSchema, level: LevelContents) -> str:
    """Return how many values a vertex has; where the metadata leaves it out, the size of all tells."""
    channels, catalog = attribute.channels, level._found[1]
    if attribute.any_width and catalog is not None and attribute.array in catalog.arrays:
        columns = catalog.arrays[attribute.array]
        nbytes = int(columns.nbytes[columns.have].sum())
        channels = nbytes // max(1, level.metadata.vertex_count * attribute.dtype.itemsize)
    elif attribute.any_width:
        return _faint("not told")
    names = ", ".join(attribute.channel_names or ())
    return _NOTHING if channels in (None, 0, 1) else f"{channels}{_faint(f' ({_text(names, 80)})') if names else ''}"


# ---------------------------------------------------------------------------------------------- markup


def _text(value: object, longest: int = 200) -> str:
    """Return a value as escaped text, cut off where it is long."""
    whole = escaped(str(value))
    return escape(whole if len(whole) <= longest else f"{whole[: longest - 1]}…")


def _count(number: int) -> str:
    return f"{number:,}"


def _faint(markup: str) -> str:
    return f'<span style="{_FAINT}">{markup}</span>'


def _error(problem: Exception) -> str:
    """Return what to show in the place of something that can't be had."""
    return f'<span style="color:#d9534f"><b>{type(problem).__name__}</b>: {_text(problem, 600)}</span>'


def _frame(kind: str, what: str, parts: Iterable[str]) -> str:
    """Return the whole of a repr: the name of the class, markup that follows it, and markup below."""
    title = f'<div style="padding:4px 0;border-bottom:{_LINE}"><b>{_text(kind)}</b> &nbsp;{what}</div>'
    return f'<div style="max-width:980px;line-height:1.5;text-align:left">{title}{"".join(parts)}</div>'


def _heading(title: str) -> str:
    return f'<div style="margin-top:8px"><b>{_text(title)}</b></div>'


def _pairs(rows: Iterable[tuple[str, str]]) -> str:
    """Return names and the markup that belongs to them, as a table of two columns."""
    body = "".join(
        f'<tr style="background:none"><td style="{_CELL};text-align:left;{_FAINT}">{_text(name)}</td>'
        f'<td style="{_CELL};text-align:left;overflow-wrap:anywhere">{value}</td></tr>'
        for name, value in rows
    )
    return f'<table style="{_TABLE}"><tbody>{body}</tbody></table>'


def _table(columns: Sequence[tuple[str, bool]], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of columns (title, with numbers, which stand to the right); the last cell of a short row is wide."""
    sides = [f"text-align:{'right' if numbers else 'left'}" for _, numbers in columns]
    head = "".join(
        f'<th style="{_CELL};{side};font-weight:normal;white-space:nowrap;{_FAINT}">{_text(title)}</th>'
        for (title, _), side in zip(columns, sides, strict=True)
    )
    body = "".join(_row(row, sides) for row in rows)
    return (
        f'<table style="{_TABLE}"><thead><tr style="border-bottom:{_LINE};background:none">{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def _row(cells: Sequence[str], sides: Sequence[str]) -> str:
    left = len(sides) - len(cells)
    styles = [f"{_CELL};{side}" for side in sides[: len(cells)]]
    spans = [""] * len(cells)
    if left > 0:
        styles[-1], spans[-1] = f"{_CELL};text-align:left", f' colspan="{left + 1}"'
    inside = "".join(f'<td{span} style="{style}">{c}</td>' for c, style, span in zip(cells, styles, spans, strict=True))
    return f'<tr style="background:none">{inside}</tr>'
