"""Parts of the HTML that notebooks show: tables, pairs, counts, sizes.

Everything is plain elements with inline styles: no script, and no style sheet, which viewers of saved notebooks take away.
Colours are the text's own, some of them faint, so that light and dark themes both show them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from dask_zv.errors import escaped

_LONGEST = 200
_FAINT = "opacity:0.65"
_LINE = "1px solid rgba(128,128,128,0.3)"
_TABLE = "margin:4px 0;border-collapse:collapse;border:none;table-layout:auto"
_CELL = "padding:2px 14px 2px 0;vertical-align:top;white-space:normal;max-width:none;border:none;background:none"


def text(value: object, longest: int = _LONGEST) -> str:
    """Return a value as escaped text, cut off where it is long."""
    whole = escaped(str(value))
    return escape(whole if len(whole) <= longest else f"{whole[: longest - 1]}…")


def count(number: int) -> str:
    """Return a number with its thousands apart."""
    return f"{number:,}"


def size(nbytes: int) -> str:
    """Return bytes in the decimal unit that suits them: ``"12.3 MB"``."""
    if nbytes < 1000:
        return f"{nbytes} B"
    number = float(nbytes)
    for unit in ("kB", "MB", "GB", "TB"):
        number /= 1000
        if number < 999.95:
            return f"{number:.1f} {unit}"
    return f"{number / 1000:,.1f} PB"


def faint(markup: str) -> str:
    """Return markup in a fainter colour."""
    return f'<span style="{_FAINT}">{markup}</span>'


def error(problem: Exception) -> str:
    """Return what to show in the place of something that can't be had."""
    return f'<span style="color:#d9534f"><b>{type(problem).__name__}</b>: {text(problem, 600)}</span>'


def frame(kind: str, what: str, parts: Iterable[str]) -> str:
    """Return the whole of a repr.

    Parameters
    ----------
    kind : str
        Name of the class.
    what : str
        Markup that follows it.
    parts : iterable of str
        Markup, one part below the other.
    """
    title = f'<div style="padding:4px 0;border-bottom:{_LINE}"><b>{text(kind)}</b> &nbsp;{what}</div>'
    return f'<div style="max-width:980px;line-height:1.5;text-align:left">{title}{"".join(parts)}</div>'


def heading(title: str) -> str:
    """Return the title of a part."""
    return f'<div style="margin-top:8px"><b>{text(title)}</b></div>'


def pairs(rows: Iterable[tuple[str, str]]) -> str:
    """Return names and what belongs to them, as a table of two columns; the second is markup."""
    body = "".join(
        f'<tr style="background:none"><td style="{_CELL};text-align:left;{_FAINT}">{text(name)}</td>'
        f'<td style="{_CELL};text-align:left;overflow-wrap:anywhere">{value}</td></tr>'
        for name, value in rows
    )
    return f'<table style="{_TABLE}"><tbody>{body}</tbody></table>'


def table(columns: Sequence[tuple[str, bool]], rows: Iterable[Sequence[str]]) -> str:
    """Return a table.

    Parameters
    ----------
    columns : sequence of (str, bool)
        Title of each column, and whether it holds numbers, which stand to the right.
    rows : iterable of sequence of str
        Markup of the cells; the last cell of a short row takes the columns that are left.
    """
    sides = [f"text-align:{'right' if numbers else 'left'}" for _, numbers in columns]
    head = "".join(
        f'<th style="{_CELL};{side};font-weight:normal;white-space:nowrap;{_FAINT}">{text(title)}</th>'
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
