"""A table, of vertices or of links, and the columns beside it in partitions.

What is in memory is cut into slices; dask arrays and dataframes keep their partitions. Each partition becomes an argument for
a task that evaluates to a :class:`RawPart`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from dask.base import is_dask_collection
from dask.task_spec import List, Task
from numpy.typing import NDArray

from dask_zv.config import settings
from dask_zv.errors import InputError
from dask_zv.format.dictionary import DictionaryEncoding
from dask_zv.geometry.schema import AttributeSchema
from dask_zv.graph.builder import GraphBuilder, block_delayeds
from dask_zv.graph.keeping import Kept, nbytes_of
from dask_zv.graph.run import pieces_of
from dask_zv.write.containers import KINDS, as_array, as_integers, column_of, in_memory, numeric_dtype, series_values

INTEGERS = ("object_ids", "vertex_ids", "parents")
"""What a vertex can have besides its attributes: its object, its name, the name of its parent."""


@dataclass(frozen=True, slots=True, eq=False)
class RawPart:
    """One partition of a table as it came: (n, D) positions or (n, L) vertices of links, and columns (n,) or (n, C)."""

    table: NDArray[Any]
    attributes: dict[str, NDArray[Any]]
    integers: dict[str, NDArray[Any]]  # those of INTEGERS that were given, (n,)

    def __sizeof__(self) -> int:
        return nbytes_of(self)


@dataclass(frozen=True, slots=True)
class Subject:
    """What a table holds, in the words of errors, some of them patterns."""

    table: str
    part: str  # of a partition's number
    column: str  # of a column's name
    part_column: str  # the same, after the part
    lengths: str  # of a column's rows, and those of the table
    integral: bool  # the table itself holds integers


@dataclass(frozen=True, slots=True)
class AttributeInput:
    """What is known of an attribute before any of it is read."""

    name: str
    dtype: np.dtype[Any]  # of the values; object for strings
    channels: int | None = None
    categories: tuple[str, ...] | None = None  # declared in an order that means something (an ordered pandas category)
    attrs: Mapping[str, Any] = field(default_factory=dict, compare=False)  # units and the like, as JSON values

    @property
    def is_dictionary(self) -> bool:
        """True for strings, which are stored as codes."""
        return self.dtype.kind not in KINDS

    def schema(self, found: frozenset[str] = frozenset(), missing: bool = False) -> AttributeSchema:
        """Return how the attribute is stored; of strings by the categories found, and whether some are missing."""
        if not self.is_dictionary:
            return AttributeSchema(self.name, self.dtype.newbyteorder("<"), self.channels)
        categories = self.categories if self.categories is not None else tuple(sorted(found))
        dictionary = DictionaryEncoding(categories, self.categories is not None, -1 if missing else None)
        return AttributeSchema(self.name, dictionary.dtype, None, dictionary)


@dataclass(frozen=True, slots=True, eq=False)
class Partitions:
    """A table, cut."""

    subject: Subject
    arguments: Callable[[GraphBuilder], list[Any]]  # returns a task argument per partition, which evaluates to a RawPart
    count: int
    dtype: np.dtype[Any]  # of the table
    width: int  # of the table: axes, or vertices of a link
    attributes: tuple[AttributeInput, ...]
    integers: tuple[str, ...] = ()  # those of INTEGERS that the parts have
    whole: Mapping[str, NDArray[Any]] = field(default_factory=dict)  # these, (N,), where the input is in memory
    nbytes: int | None = None  # of all parts, where that is known before they are made
    kept: Kept | None = None  # what holds the parts, where the scan has kept them
    attrs: Mapping[str, Any] = field(default_factory=dict, compare=False)  # units and the like of the positions

    @property
    def has_ids(self) -> bool:
        """True where vertices have objects."""
        return "object_ids" in self.integers


def cut_in_memory(
    subject: Subject,
    table: NDArray[Any],
    values: Mapping[str, NDArray[Any]],
    specs: Sequence[AttributeInput],
    whole: Mapping[str, NDArray[Any]],
) -> Partitions:
    """Return a table in memory, its attributes and integers (`whole`) in slices."""
    n = len(table)
    for name, column in [*values.items(), *whole.items()]:
        if len(column) != n:
            raise _other_length(subject, subject.column.format(name), len(column), n)
    row_bytes = (table.nbytes + sum(v.nbytes for v in [*values.values(), *whole.values()])) // max(n, 1) + 8
    step = max(1, settings().partition_bytes // row_bytes)
    slices = [slice(i, i + step) for i in range(0, n, step)] or [slice(0, 0)]
    parts = [RawPart(table[s], {k: v[s] for k, v in values.items()}, {k: v[s] for k, v in whole.items()}) for s in slices]
    pieces = pieces_of(parts)

    def arguments(builder: GraphBuilder) -> list[Any]:
        return [builder.payload(piece.held) for piece in pieces]

    return Partitions(subject, arguments, len(parts), table.dtype, table.shape[1], tuple(specs), tuple(whole), whole)


def _other_length(subject: Subject, called: str, n: int, wanted: float) -> InputError:
    return InputError(f"{called} has {subject.lengths.format(n, int(wanted))}")


def cut_arrays(
    subject: Subject, table: Any, columns: Mapping[str, Any], specs: Sequence[AttributeInput], integers: tuple[str, ...] = ()
) -> Partitions:
    """Return a dask array and columns beside it, lazy or not, in the array's partitions."""
    table = _whole_rows(table)
    aligned = {name: _aligned(subject, name, values, table.chunks[0]) for name, values in columns.items()}
    names = tuple(s.name for s in specs)

    def arguments(builder: GraphBuilder) -> list[Any]:
        blocks = [
            [builder.absorb(d, inline=True) for d in block_delayeds(a)]
            for a in (table, *(aligned[n] for n in (*names, *integers)))
        ]
        parts = enumerate(zip(*blocks, strict=True))
        return [Task(None, _load_arrays, subject, i, names, integers, List(*part)) for i, part in parts]

    total = sum(float(a.size * a.dtype.itemsize) for a in (table, *aligned.values()))
    nbytes = None if np.isnan(total) else int(total)  # a column's lengths may be unknown where those of the table are not
    count = len(table.chunks[0])
    return Partitions(subject, arguments, count, table.dtype, table.shape[1], tuple(specs), integers, nbytes=nbytes)


def _whole_rows(array: Any) -> Any:
    return array.rechunk({1: -1}) if array.ndim == 2 and len(array.chunks[1]) > 1 else array


def _aligned(subject: Subject, name: str, values: Any, lengths: tuple[float, ...]) -> Any:
    """Return a column cut like the table."""
    called, table = subject.column.format(name), f"{'the ' if subject.integral else ''}{subject.table}"
    known = not any(np.isnan(c) for c in lengths)
    if not is_dask_collection(values):
        if not known:
            raise InputError(
                f"{called} is in memory and the {subject.table}' partitions have unknown lengths: make it a column of the "
                "frame, a dask array or Series of the same partitions, or, for arrays, call "
                f"{subject.table}.compute_chunk_sizes()"
            )
        import dask.array as da

        if len(values) != sum(lengths):
            raise _other_length(subject, called, len(values), sum(lengths))
        return da.from_array(values, chunks=(lengths, *values.shape[1:]))
    values = _whole_rows(values)
    mine = tuple(values.chunks[0])
    if known and not any(np.isnan(c) for c in mine):
        if sum(mine) != sum(lengths):
            raise _other_length(subject, called, int(sum(mine)), sum(lengths))
        return values if mine == lengths else values.rechunk({0: lengths})
    if len(mine) != len(lengths):
        raise InputError(
            f"{called} has {len(mine)} partitions, {table} have {len(lengths)}, and lengths are unknown: make them agree, or "
            "call compute_chunk_sizes()"
        )
    return values


def _load_arrays(subject: Subject, number: int, names: Sequence[str], integers: Sequence[str], parts: Sequence[Any]) -> RawPart:
    what = subject.part.format(number)
    where = f"{what}: "
    table = in_memory(what if subject.integral else f"{where}{subject.table}", parts[0])
    if subject.integral:
        table = as_integers(what, table)
    given = dict(zip((*names, *integers), parts[1:], strict=True))
    called = {n: f"{where}{subject.part_column.format(n)}" for n in given}
    values = {n: in_memory(called[n], given[n]) for n in names}
    values |= {n: integer_column(f"{where}{n}", n, given[n]) for n in integers}
    for name, column in values.items():
        if not column.ndim or len(column) != len(table):
            raise _other_length(subject, called[name], len(column) if column.ndim else 1, len(table))
    return RawPart(table, {n: values[n] for n in names}, {n: values[n] for n in integers})


def cut_frame(
    subject: Subject,
    frame: Any,
    dtype: np.dtype[Any],
    table: Sequence[str],
    specs: Sequence[AttributeInput],
    integers: Mapping[str, str],
) -> Partitions:
    """Return the partitions of a dask DataFrame; `table` are the columns that make the table."""
    delayed = frame.to_delayed()
    names = tuple(s.name for s in specs)

    def arguments(builder: GraphBuilder) -> list[Any]:
        frames = enumerate(builder.absorb(d, inline=True) for d in delayed)
        return [Task(None, _load_frame, subject, i, part, tuple(table), names, dict(integers)) for i, part in frames]

    return Partitions(subject, arguments, len(delayed), dtype, len(table), tuple(specs), tuple(integers))


def _load_frame(
    subject: Subject, number: int, frame: Any, table: Sequence[str], names: Sequence[str], integers: Mapping[str, str]
) -> RawPart:
    def column(name: str) -> NDArray[Any]:
        return series_values(name, column_of(frame, name, ""))

    try:
        # not cast to what was declared: the scan looks whether a cast would move them
        stack = np.stack([as_integers(c, column(c)) if subject.integral else column(c) for c in table], axis=1)
        ids = {k: integer_column(f"{k} (column {c!r})", k, column_of(frame, c, "")) for k, c in integers.items()}
        return RawPart(stack, {n: column(n) for n in names}, ids)
    except InputError as error:
        raise InputError(f"{subject.part.format(number)}: {error.message}") from None


def integer_column(what: str, name: str, values: Any) -> NDArray[np.int64]:
    """Return ids in memory; the scan looks at their range."""
    try:
        given = as_array(what, values)
        if given.ndim != 1:
            raise InputError(f"{what} must have the shape (N,), not {given.shape}")
    except InputError as error:
        raise InputError(f"{error.message}{hint(name)}") from None
    return as_integers(what, given, hint(name, given.dtype))


def hint(name: str, dtype: Any = None) -> str:
    """Return what to do about ids that are no integers."""
    if name == "parents":
        return ": roots are -1, so fill what is missing, such as with .fillna(-1).astype(int)"
    if name != "object_ids" or dtype is None or numeric_dtype(dtype).kind not in "OUST":
        return ""
    return (
        ": number them, and keep the names as an attribute of the objects: codes, names = pandas.factorize(ids), then "
        "object_ids=codes, object_attributes={'name': names}"
    )
