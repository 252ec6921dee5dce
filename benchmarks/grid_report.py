"""The table and the plot of ``compare_grid.py``, from its raw rows."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compare_per_chunk import markdown
from grid_bars import COST, FASTER, LINES, VALUE, Line

Row = dict[str, Any]
ORDER = ("-", "local", "s3", "s3+20ms")
FIELDS = {"peak MB": "peak_mb", "requests": "requests"}


@dataclass(frozen=True)
class Result:
    """A line at one setting on one store: a value per round, and the rows that they come from."""

    line: Line
    store: str
    setting: str
    values: tuple[float, ...]
    ours: tuple[Row, ...]
    other: tuple[Row, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def cpu(self) -> tuple[float, ...]:
        """The same in CPU seconds, which other work on the machine disturbs less, where each side is one process."""
        if self.line.metric != "seconds" or not all("cpu_seconds" in r and one_process(r) for r in (*self.ours, *self.other)):
            return ()
        if self.line.other is None:
            return tuple(r["cpu_seconds"] for r in self.ours)
        return tuple(ratio(self.line, r, o, "cpu_seconds") for r, o in zip(self.ours, self.other, strict=True))

    @property
    def bar(self) -> float | None:
        """The bar here, or None where this is only stated."""
        if self.line.only and any(r.get(self.line.only) for r in self.ours):
            return None
        return self.line.bars.get(self.store)

    @property
    def counts(self) -> bool:
        """Whether the setting is large enough for the bar."""
        chunks, points = self.line.bar_from
        return self.ours[0]["chunks"] >= chunks and self.ours[0].get("points", 0) >= points

    @property
    def held(self) -> bool | None:
        if self.bar is None:
            return None
        return self.median >= self.bar if self.line.unequal == ">=" else self.median <= self.bar


def evaluate(rows: Sequence[Row], lines: Sequence[Line] = LINES) -> list[Result]:
    """Return every line for every setting and store that was measured, in the order of the lines."""
    found = []
    for line in lines:
        places = {(r["store"], r["chunks"], r["setting"]) for r in rows if matches(r, line, line.ours)}
        for store, chunks, setting in sorted(places, key=lambda p: (ORDER.index(p[0]), p[1], p[2])):
            if not line.chunks[0] <= chunks <= line.chunks[1]:
                continue
            here = [r for r in rows if (r["store"], r["setting"]) == (store, setting)]
            ours = {r["round"]: r for r in here if matches(r, line, line.ours)}
            other = {r["round"]: r for r in here if line.other and matches(r, line, line.other)}
            rounds = [n for n in ours if line.metric in ours[n] and (line.other is None or n in other)]
            if rounds:
                values = tuple(value(line, ours[n], other.get(n)) for n in rounds)
                picked = tuple(ours[n] for n in rounds), tuple(other[n] for n in rounds if n in other)
                found.append(Result(line, store, setting, values, *picked))
    return found


def matches(row: Row, line: Line, who: tuple[str, str]) -> bool:
    return (row["row"], row["side"], row["verb"]) == (line.row, *who)


def value(line: Line, ours: Row, other: Row | None) -> float:
    return float(ours[line.metric]) if other is None else ratio(line, ours, other, line.metric)


def ratio(line: Line, ours: Row, other: Row, metric: str) -> float:
    mine, theirs = float(ours[metric]), float(other[metric])
    return mine / theirs if line.kind == COST else theirs / mine


def one_process(row: Row) -> bool:
    """Return True if the CPU seconds are those of the whole measurement, not of a cluster's client or of the last read."""
    return "process" not in row["scheduler"] and row["verb"] != "read one"


def number(x: float) -> str:
    """Return a number with three digits or so."""
    if x >= 1000:
        return f"{x:,.0f}"
    return f"{x:.0f}" if x >= 100 else f"{x:.1f}" if x >= 10 else f"{x:.2f}" if x >= 0.1 else f"{x:.3f}"


def spread(values: Sequence[float]) -> str:
    middle = number(statistics.median(values))
    return middle if len(values) < 2 else f"{middle} ({number(min(values))}-{number(max(values))})"


def pair(result: Result, name: str, digits: int | None = None) -> str:
    """Return the median of a field of ours and of the other side."""
    parts = []
    for some in (result.ours, result.other):
        values = [r[name] for r in some if name in r]
        if values:
            middle = statistics.median(values)
            parts.append(number(middle) if digits is None else f"{middle:,.{digits}f}")
    return " / ".join(parts)


def table(results: Sequence[Result], more: Mapping[str, str] = FIELDS) -> str:
    """Return the table as Markdown; `more` are columns and the fields that stand in them, of both sides."""
    lines = [
        [
            "what",
            "store",
            "setting",
            "median (spread)",
            "bar",
            "held",
            "CPU: median (spread)",
            "seconds",
            "CPU seconds",
            *more,
            "codec",
            "scheduler",
        ]
    ]
    for r in results:
        bar, held = "", ""
        if r.bar is not None:
            bar = f"{r.line.unequal} {r.bar:g}{r.line.unit}"
            held = ("yes" if r.held else "**no**") if r.counts else f"({'yes' if r.held else 'no'}: smaller than it asks for)"
        unit = "x" if r.line.kind != VALUE else r.line.unit
        cpu = r.cpu
        lines.append(
            [
                r.line.what,
                r.store,
                r.setting,
                f"{spread(r.values)}{unit}",
                bar,
                held,
                f"{spread(cpu)}{unit}" if cpu else "",
                pair(r, r.line.metric if r.line.metric.endswith("seconds") else "seconds"),
                pair(r, "cpu_seconds") if cpu else "",
                *(pair(r, field, 0) for field in more.values()),
                r.ours[0]["codec"],
                r.ours[0]["scheduler"],
            ]
        )
    return markdown(lines)


def files_table(rows: Sequence[Row]) -> str:
    """Return what each side's stores hold: objects (files, locally) and bytes."""
    lines = [["row", "store", "setting", "side", "objects", "stored MB"]]
    for r in rows:
        if r["verb"] in ("write blobs", "ingest") and r["row"] in ("blobs", "points") and r["round"] == 0:
            size = f"{r['stored_bytes'] / 1e6:,.1f}"
            lines.append([r["row"], r["store"], r["setting"], r["side"], f"{r['objects']:,}", size])
    return markdown([lines[0], *sorted(lines[1:], key=lambda n: (n[0], ORDER.index(n[1]), n[2]))]) if len(lines) > 1 else ""


def plot(results: Sequence[Result], path: Path, title: str) -> None:
    """Draw the speed of ours over the other side's, and the bars; COST lines are turned over, so that right is better."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    some = [r for r in results if r.line.kind in (FASTER, COST) and r.line.metric.endswith("seconds")]
    if not some:
        return
    colors = {"local": "#4477aa", "s3": "#ccbb44", "s3+20ms": "#228833", "-": "#666666"}
    figure, axes = plt.subplots(figsize=(11, 1.5 + 0.3 * len(some)))
    for y, r in enumerate(some):
        turned = [1 / v for v in r.values] if r.line.kind == COST else list(r.values)
        middle = statistics.median(turned)
        axes.barh(y, middle - 1, left=1, color=colors[r.store], alpha=0.85)
        axes.plot([min(turned), max(turned)], [y, y], color="black", linewidth=1)
        if r.bar is not None and r.counts:
            at = 1 / r.bar if r.line.kind == COST else r.bar
            axes.plot([at, at], [y - 0.45, y + 0.45], color="#cc3311", linewidth=2)
    axes.set_xscale("log")
    axes.set_yticks(range(len(some)), [f"{r.line.what}, {r.store}, {r.setting}" for r in some], fontsize=7)
    axes.set_ylim(len(some) - 0.3, -0.7)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("times as fast as the other side (log scale; red: the bar, black line: the rounds)")
    axes.set_title(title, fontsize=9)
    handles = [plt.Rectangle((0, 0), 1, 1, color=colors[s]) for s in ORDER if any(r.store == s for r in some)]
    axes.legend(handles, [s for s in ORDER if any(r.store == s for r in some)], loc="lower right", fontsize=8)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)
