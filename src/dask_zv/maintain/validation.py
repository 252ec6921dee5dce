"""What a look at a store found: findings by rule, and the result that holds them."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from dask_zv.errors import ZVError, escaped

if TYPE_CHECKING:
    from pandas import DataFrame

Severity = Literal["error", "warning", "info"]
_SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
_SHOWN = 8

RULES = {
    "documents": "the documents of the root, of levels and of arrays are there and valid, and agree with each other",
    "multiscales": "the root lists the levels that are there, finest first",
    "levels": "levels agree with each other: numbers, parents, chunk shapes, objects",
    "lists": "the list of an array's chunks names what is stored",
    "blobs": "every listed blob is there and can be decoded",
    "shards": "the indexes of shards are there and valid",
    "siblings": "arrays beside each other have the same chunks and rows",
    "inside": "vertices lie inside the boxes of their chunks",
    "bounds": "vertices lie inside the bounds of the store",
    "nan": "positions are finite",
    "fragments": "fragments name rows of their chunk, and all of them",
    "counts": "numbers of vertices, objects and links in the metadata are those stored",
    "manifests": "manifests of objects name fragments that are there; rows have an object",
    "ids": "ids of objects are there, distinct and not negative",
    "object-tables": "tables of objects have a row for each object and can be decoded",
    "groups": "groups name objects that are there, and their tables have a row for each group",
    "links": "links lead to rows that are there",
    "winding": "faces have distinct corners, and neighbours run around in the same sense",
    "trees": "nodes of skeletons have one parent, and no node is its own ancestor",
    "catalog": "the catalog of the last commit is valid and agrees with the store",
}
"""The rules, and what holds where they find nothing."""

_ADVICE = {
    "documents": "restore the document, or dzv.repair(store, findings, source=copy) copies it from a copy of the store",
    "multiscales": "dzv.repair(store, findings) writes the list of levels again",
    "levels": "rebuild the coarser levels from the finest, or correct their metadata",
    "lists": "dzv.repair(store, findings) writes the lists of chunks again from what is stored",
    "blobs": "dzv.repair(store, findings, source=copy) writes the chunk again from a copy; drop_lost=True drops it",
    "shards": "dzv.repair(store, findings, source=copy) writes the chunks again from a copy; drop_lost=True drops them",
    "siblings": "dzv.repair(store, findings, source=copy) writes the chunk again from a copy; drop_lost=True drops it",
    "inside": "dzv.repair(store, findings, source=copy) writes the chunk again from a copy; or write the level again",
    "bounds": "dzv.repair(store, findings) makes the bounds those of the vertices and the old ones together",
    "nan": "dzv.repair(store, findings, source=copy) writes the chunk again from a copy; or write the level again",
    "fragments": "dzv.repair(store, findings, source=copy) writes the chunk again from a copy; drop_lost=True drops it",
    "counts": "dzv.repair(store, findings) corrects the number",
    "manifests": "dzv.repair(store, findings, source=copy) copies the objects' tables from a copy of the store",
    "ids": "dzv.repair(store, findings, source=copy) copies the objects' tables from a copy of the store",
    "object-tables": "dzv.repair(store, findings, source=copy) copies the table from a copy; drop_lost=True drops it",
    "groups": "dzv.repair(store, findings, source=copy) copies the groups from a copy; drop_lost=True drops absent members",
    "links": "dzv.repair(store, findings, source=copy) writes the links again from a copy; drop_lost=True drops them",
    "winding": "correct the faces and write the level again; dzv.repair(store, findings, source=copy) takes those of a copy",
    "trees": "correct the parents and write the level again; dzv.repair(store, findings, source=copy) takes those of a copy",
    "catalog": "dzv.repair(store, findings) or store.refresh() makes a new catalog of what is stored",
}
FEWER = "dzv.repair(store, findings, source=copy) takes what was lost from a copy; drop_lost=True accepts the lower number"
"""Advice where there is less than was counted."""
OTHER_GRID = "and the chunk keys are of other ones"
"""What is said of a level most of whose vertices lie outside of their chunks."""
GRID_ADVICE = "restore chunk_shape in the metadata; dzv.repair(store, findings, source=copy) takes that of a copy of the store"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that :func:`dask_zv.validate` found.

    Attributes
    ----------
    rule : str
        Name of the rule, such as ``"siblings"``; :data:`Validation.rules` explains each.
    severity : {"error", "warning", "info"}
        "error": data is lost, wrong or cannot be read. "warning": it can be read, and some tool may read something else.
        "info": worth knowing.
    message : str
        What is wrong.
    level : int or None
        Number of the level; None for what is of the store.
    array : str or None
        Path of the array (or group) below the level.
    chunk : str or None
        Chunk key.
    advice : str
        What to do.
    """

    rule: str
    severity: Severity
    message: str
    level: int | None = None
    array: str | None = None
    chunk: str | None = None
    advice: str = ""

    def __post_init__(self) -> None:
        if not self.advice:
            object.__setattr__(self, "advice", _ADVICE.get(self.rule, ""))

    @property
    def place(self) -> str:
        """Where it is: level, array and chunk, as far as they are known."""
        parts = ["the store" if self.level is None else f"level {self.level}", self.array, self.chunk]
        return " ".join(escaped(p) for p in parts if p)

    def __str__(self) -> str:
        return f"{self.severity} {self.rule}: {escaped(self.message)} [{self.place}]"


def finding_of(error: ZVError, rule: str, level: int | None = None, *, severity: Severity = "error") -> Finding:
    """Return the finding that an error of a strict decoder is, in its place."""
    array = error.array
    if array is not None and level is not None and not (error.store or "").endswith(f"/{level}"):
        array = f"/{array}".partition(f"/{level}/")[2] or array  # a path from the root, else it is one from the level
    return Finding(rule, severity, error.message, level, array, error.chunk)


@dataclass(frozen=True, slots=True)
class Validation:
    """The result of :func:`dask_zv.validate` and :func:`dask_zv.repair`: true where no error was found.

    Attributes
    ----------
    store : str
        URL of the store, without secrets.
    findings : tuple of Finding
        Errors first, then warnings and notes; in each by level, array and chunk.
    levels : tuple of int
        Levels that were looked at.
    chunks, vertices, objects, links : int
        How many were read; 0 where ``deep=False``.
    deep : bool
        True if every blob was read.
    done : tuple of str
        What :func:`dask_zv.repair` did, a line each; dropped data is named here.
    """

    store: str
    findings: tuple[Finding, ...] = ()
    levels: tuple[int, ...] = ()
    chunks: int = 0
    vertices: int = 0
    objects: int = 0
    links: int = 0
    deep: bool = True
    done: tuple[str, ...] = field(default=())

    rules = RULES

    @property
    def ok(self) -> bool:
        """True if no finding is an error."""
        return not self.errors

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that are errors."""
        return tuple(f for f in self.findings if f.severity == "error")

    def __bool__(self) -> bool:
        return self.ok

    def to_dataframe(self) -> DataFrame:
        """Return the findings as a table: rule, severity, level, array, chunk, message and advice.

        Returns
        -------
        pandas.DataFrame
            A row for each finding; `level` is of the dtype Int64, missing for findings about the whole store.
        """
        import pandas as pd

        names = ("rule", "severity", "level", "array", "chunk", "message", "advice")
        table = pd.DataFrame({name: [getattr(f, name) for f in self.findings] for name in names}, columns=list(names))
        return table.astype({"level": "Int64", **{n: "object" for n in names if n != "level"}})

    def _counted(self) -> str:
        """Return how many findings there are of each severity."""
        count = Counter(f.severity for f in self.findings)
        parts = [f"{count[s]:,} {s if s == 'info' or count[s] == 1 else s + 's'}" for s in _SEVERITIES if count[s]]
        return ", ".join(parts) or "no findings"

    def _looked_at(self) -> str:
        """Return what was read."""
        if not self.deep:
            return f"{len(self.levels)} level{'s' * (len(self.levels) != 1)}, documents and lists only"
        counts = [(self.chunks, "chunks"), (self.vertices, "vertices"), (self.objects, "objects"), (self.links, "links")]
        return ", ".join(f"{n:,} {what if n != 1 else _ONE[what]}" for n, what in counts if n) or "nothing stored"

    def __repr__(self) -> str:
        lines = [f"<dask_zv.Validation {'ok' if self.ok else 'NOT OK'}: {self._counted()}; {self._looked_at()}>"]
        lines += [f"  {f}" for f in self.findings[:_SHOWN]]
        if len(self.findings) > _SHOWN:
            lines.append(f"  ... and {len(self.findings) - _SHOWN:,} more: .findings, .to_dataframe()")
        lines += [f"  done: {escaped(line)}" for line in self.done[:_SHOWN]]
        if len(self.done) > _SHOWN:
            lines.append(f"  ... and {len(self.done) - _SHOWN:,} more: .done")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head = html.escape(repr(self).partition("\n")[0].strip("<>"))
        cells = [(f.severity, f.rule, f.place, escaped(f.message), f.advice) for f in self.findings[:_SHOWN]]
        rows = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in cells)
        names = "".join(f"<th>{n}</th>" for n in ("severity", "rule", "place", "message", "advice"))
        table = f"<table><thead><tr>{names}</tr></thead><tbody>{rows}</tbody></table>" if cells else ""
        left = len(self.findings) - len(cells)
        more = f"<div>and {left:,} more</div>" if left else ""
        done = "".join(f"<div>done: {html.escape(escaped(line))}</div>" for line in self.done[:_SHOWN])
        return f"<div>{head}</div>{table}{more}{done}"


_ONE = {"chunks": "chunk", "vertices": "vertex", "objects": "object", "links": "link"}


def sorted_findings(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return distinct findings, errors first, then by level, rule, array and chunk."""

    def order(f: Finding) -> tuple[int, int, str, str, str]:
        return _SEVERITIES.index(f.severity), -1 if f.level is None else f.level, f.rule, f.array or "", f.chunk or ""

    return tuple(sorted(dict.fromkeys(findings), key=order))
