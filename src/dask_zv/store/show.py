"""Displays of stores and levels: text for reprs and ``info()``, HTML for notebooks, with the same content.

HTML is plain elements with inline styles: no script, and no style sheet, which viewers of saved notebooks take away. Colours
are the text's own, some of them faint, so that light and dark themes both show them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape

from dask_zv.errors import ZVError, escaped
from dask_zv.level.contents import LevelContents, StoreContents
from dask_zv.level.source import LevelSource
from dask_zv.store.glance import Glance, attempt, glance_at, glances
from dask_zv.store.summary import (
    FactTable,
    Faint,
    Shown,
    Summary,
    arrays_table,
    first_look,
    has_bounds,
    level_summary,
    short,
    store_summary,
)

_NOTHING = '<span style="opacity:0.65">–</span>'
_FAINT = "opacity:0.65"
_LINE = "1px solid rgba(128,128,128,0.3)"
_TABLE = "margin:4px 0;border-collapse:collapse;border:none;table-layout:auto"
_CELL = "padding:2px 14px 2px 0;vertical-align:top;white-space:normal;max-width:none;border:none;background:none"


def store_repr(store: StoreContents) -> str:
    """Return a store in some lines: axes and levels; see :mod:`.summary` for what it costs."""
    return _never_raising("dask_zv.Store", store.url, lambda: "\n".join(map(escaped, _store_lines(store))))


def level_repr(level: LevelContents) -> str:
    """Return a level in some lines: what it has, and how much of it; see :mod:`.summary` for what it costs."""
    return _never_raising("dask_zv.Level", level.url, lambda: "\n".join(map(escaped, _level_lines(level))))


def store_info(store: StoreContents) -> str:
    """Return everything that is known about a store without reading chunks."""
    return "\n".join(_summary_lines(store_summary(store, full=True)))


def level_info(level: LevelContents) -> str:
    """Return everything that is known about a level without reading chunks."""
    return "\n".join(_summary_lines(level_summary(level, full=True)))


def _never_raising(kind: str, url: str, text: Callable[[], str]) -> str:
    """Return a repr that never raises: errors become part of it, because debuggers and tracebacks show reprs."""
    try:
        return text()
    except Exception as error:  # noqa: BLE001 - it says what is wrong, in the place of the rest
        return f"<{kind} {escaped(url)}: {_cell(error)}>"


def _store_lines(store: StoreContents) -> Iterator[str]:
    m = store.metadata
    kinds = ", ".join(m.geometry_types) or "no geometry yet"
    yield f"<dask_zv.Store {store.url}: {kinds}, layout {store.layout} (ZV {m.zv_version})>"
    known = has_bounds(store)
    for axis, low, high, edge in zip(m.axes, *m.bounds, m.chunk_shape, strict=True):
        unit = f" {axis.unit}" if axis.unit else ""
        extent = f"{low:g} … {high:g}{unit}, chunks of {edge:g}" if known else f"no bounds yet, chunks of {edge:g}{unit}"
        yield f"  {axis.name}: {extent}"
    found = attempt(lambda: glances(store))
    if isinstance(found, ZVError):
        yield f"  levels: {_cell(found)}"
        return
    for number, glance in found:
        yield f"  level {number}: {', '.join(dict.fromkeys(map(_cell, _said(glance))))}"
    if len(store.levels) > len(found):
        yield f"  and {len(store.levels) - len(found):,} levels more"


def _level_lines(level: LevelContents) -> Iterator[str]:
    source, glance = first_look(level), attempt(lambda: glance_at(level))
    empty = isinstance(glance, Glance) and attempt(lambda: glance.is_empty) is True
    odd = [source] if isinstance(source, ZVError) and not empty else []
    said = [level.kind or "no geometry yet", *_said(glance), *odd]
    yield f"<dask_zv.Level {level.url}: {', '.join(dict.fromkeys(map(_cell, said)))}>"
    if isinstance(source, LevelSource) and not empty:
        (_, dtype, ndim, *_), *attributes = arrays_table(level, source).rows
        yield f"  positions: {dtype} x {ndim}"
        if attributes:
            yield f"  attributes: {', '.join(_attribute(*row) for row in attributes)}"


def _said(glance: Glance | ZVError) -> list[Shown]:
    """Return numbers and remarks about a level, with errors in the place of what cannot be read."""
    if isinstance(glance, ZVError):
        return [glance]
    return [said for read in (glance.numbers, lambda: glance.remark) if (said := attempt(read))]


def _attribute(name: Shown, dtype: Shown, channels: Shown = None, categories: Shown = None) -> str:
    width = f" x {_cell(channels).partition(' ')[0]}" if channels else ""
    return f"{name} ({dtype}{width}{f', {categories} categories' if categories else ''})"


def _cell(shown: object) -> str:
    if shown is None:
        return "–"
    return short(f"{type(shown).__name__}: {shown}", 600) if isinstance(shown, Exception) else str(shown)


def _summary_lines(summary: Summary) -> Iterator[str]:
    yield f"<{summary.kind} {escaped(summary.what)}>"
    width = max(len(name) for name, _ in summary.facts)
    yield from (f"  {name:<{width}}  {_cell(shown)}" for name, shown in summary.facts)
    for table in summary.tables:
        yield ""
        yield from (f"  {line}" for line in _table_lines(table))
    for part in summary.parts:
        yield ""
        yield from _summary_lines(part)


def _table_lines(table: FactTable) -> Iterator[str]:
    if table.title:
        yield f"{table.title}:"
    rows = [[name for name, _ in table.columns], *([_cell(c) for c in row] for row in table.rows)]
    whole = [row for row in rows if len(row) == len(table.columns)]
    widths = [max(len(row[i]) for row in whole) for i in range(len(table.columns))]
    for row in rows:
        cells = [
            cell if len(row) < len(widths) and i == len(row) - 1 else f"{cell:>{w}}" if numbers else f"{cell:<{w}}"
            for i, (cell, w, (_, numbers)) in enumerate(zip(row, widths, table.columns, strict=False))
        ]
        yield "  ".join(cells).rstrip()


# ---------------------------------------------------------------------------------------------- HTML


def store_html(store: StoreContents) -> str:
    """Return a store as notebooks show it; see :mod:`.summary` for what it costs."""
    return _frame(store_summary(store))


def level_html(level: LevelContents) -> str:
    """Return a level as notebooks show it; see :mod:`.summary` for what it costs."""
    return _frame(level_summary(level))


def _markup(shown: Shown) -> str:
    """Return a cell: escaped text, or the error in the place of something that can't be had."""
    if shown is None:
        return _NOTHING
    if isinstance(shown, ZVError):
        return f'<span style="color:#d9534f"><b>{type(shown).__name__}</b>: {escape(short(shown, 600))}</span>'
    text = escape(escaped(shown))
    return f'<span style="{_FAINT}">{text}</span>' if isinstance(shown, Faint) else text


def _frame(summary: Summary) -> str:
    """Return the whole of a repr: the name of the class, what it is, and the facts and tables below."""
    parts = [_pairs(summary.facts)]
    for table in summary.tables:
        parts += [f'<div style="margin-top:8px"><b>{escape(table.title.capitalize())}</b></div>'] if table.title else []
        parts.append(_table(table))
    title = f'<div style="padding:4px 0;border-bottom:{_LINE}"><b>{summary.kind}</b> &nbsp;{escape(summary.what)}</div>'
    return f'<div style="max-width:980px;line-height:1.5;text-align:left">{title}{"".join(parts)}</div>'


def _pairs(rows: Iterable[tuple[str, Shown]]) -> str:
    """Return names and what belongs to them, as a table of two columns."""
    body = "".join(
        f'<tr style="background:none"><td style="{_CELL};text-align:left;{_FAINT}">{escape(name)}</td>'
        f'<td style="{_CELL};text-align:left;overflow-wrap:anywhere">{_markup(shown)}</td></tr>'
        for name, shown in rows
    )
    return f'<table style="{_TABLE}"><tbody>{body}</tbody></table>'


def _table(table: FactTable) -> str:
    """Return a table; columns of numbers stand to the right."""
    sides = [f"text-align:{'right' if numbers else 'left'}" for _, numbers in table.columns]
    head = "".join(
        f'<th style="{_CELL};{side};font-weight:normal;white-space:nowrap;{_FAINT}">{escape(title)}</th>'
        for (title, _), side in zip(table.columns, sides, strict=True)
    )
    body = "".join(_row(row, sides) for row in table.rows)
    return (
        f'<table style="{_TABLE}"><thead><tr style="border-bottom:{_LINE};background:none">{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def _row(cells: Sequence[Shown], sides: Sequence[str]) -> str:
    left = len(sides) - len(cells)
    styles = [f"{_CELL};{side}" for side in sides[: len(cells)]]
    spans = [""] * len(cells)
    if left > 0:
        styles[-1], spans[-1] = f"{_CELL};text-align:left", f' colspan="{left + 1}"'
    inside = "".join(
        f'<td{span} style="{style}">{_markup(c)}</td>' for c, style, span in zip(cells, styles, spans, strict=True)
    )
    return f'<tr style="background:none">{inside}</tr>'
