"""How notebooks show the report of a write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dask_zv.batch.html_parts import count, faint, frame, pairs, size, table, text
from dask_zv.batch.receipts import array_rows

if TYPE_CHECKING:
    from dask_zv.batch.receipts import Report

__all__ = ["report_html"]


def report_html(report: Report) -> str:
    """Return the report of a write as HTML.

    Parameters
    ----------
    report : Report

    Returns
    -------
    str
    """
    facts = [("rows", count(report.rows))] if report.rows >= 0 else []
    facts += [("chunks", count(report.chunks)), ("payload", f"{size(report.nbytes)} in {count(report.stored_objects)} objects")]
    if report.objects:
        facts.append(("ZV objects", count(report.objects)))
    if report.dropped:
        facts.append(("left out", f"{count(report.dropped)} rows out of bounds"))
    facts.append(("tasks", f"{count(report.blocks)} blocks in {report.seconds:.2f} s"))
    if report.hint:
        facts.append(("hint", faint(text(report.hint))))
    parts = [pairs(facts)]
    if report.arrays:
        rows = [
            (text(name) if arrays is None else f"{text(name)}/* {faint(f'({count(arrays)} arrays)')}", count(blobs))
            for name, arrays, blobs in array_rows(report.arrays)
        ]
        parts.append(table([("array", False), ("blobs", True)], rows))
    return frame("dask_zv.Report", "", parts)
