"""Edges and faces as users have them: tables of vertices, as arrays or DataFrames, in parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from dask.base import is_dask_collection
from dask.task_spec import List, Task
from numpy.typing import NDArray

from dask_zv.config import settings
from dask_zv.errors import InputError
from dask_zv.format.links import MAX_WIDTH
from dask_zv.geometry.rows import LinkRows
from dask_zv.geometry.schema import AttributeSchema, check_attribute_name
from dask_zv.graph.builder import GraphBuilder, block_delayeds
from dask_zv.graph.keeping import look_once, nbytes_of
from dask_zv.graph.run import hold_on_workers
from dask_zv.storage.codecs import columns_crc32c
from dask_zv.write.containers import (
    KINDS,
    as_array,
    as_integers,
    as_table,
    attrs_of,
    column_of,
    frame_arrays,
    in_memory,
    is_frame,
    numeric_dtype,
    series_values,
    stacked,
)
from dask_zv.write.rereading import Seen, check_same, owned
from dask_zv.write.scan import compact_spans, fits

EDGE_COLUMNS = ("source", "target")


@dataclass(frozen=True, slots=True, eq=False)
class RawLinks:
    """One part of a table of links, as it came.

    Attributes
    ----------
    endpoints : ndarray, shape (m, L)
    attributes : dict of str to ndarray, shape (m,) or (m, C)
    """

    endpoints: NDArray[Any]
    attributes: dict[str, NDArray[Any]]

    def __sizeof__(self) -> int:
        return nbytes_of(self)


@dataclass(frozen=True, slots=True, eq=False)
class LinkInput:
    """A table of links, cut.

    Attributes
    ----------
    arguments : function of GraphBuilder
        Returns one task argument per part, each evaluating to :class:`RawLinks`.
    width : int
        Vertices of a link.
    attributes : tuple of AttributeSchema
    what : str
        What a link is to the user: ``"edge"`` or ``"face"``.
    attrs : mapping of str to mapping
        Units and the like of the attributes.
    """

    arguments: Callable[[GraphBuilder], list[Any]]
    width: int
    attributes: tuple[AttributeSchema, ...]
    what: str
    attrs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class LinkScan:
    """What was found in one part.

    Attributes
    ----------
    rows : int
    spans : ndarray of int64, shape (s, 2)
        Ranges (both ends included) of the vertices that it names.
    digest : int
        CRC-32C of all that it holds.
    """

    rows: int
    spans: NDArray[np.int64]
    digest: int = 0


def link_input(links: Any, attributes: Any, what: str, renumber: Callable[[NDArray[Any]], NDArray[Any]] | None) -> LinkInput:
    """Return a table of links in parts.

    Parameters
    ----------
    links : array_like or dask array (m, L), or a pandas or dask DataFrame
        A frame of edges has the columns ``source`` and ``target``, one of faces ``v0``, ``v1``, ``v2``, ….
    attributes : mapping of name to array (m,) or (m, C), a list of column names, or None
        All other columns of a frame where None.
    what : {"edge", "face"}
    renumber : function, optional
        From the ids of vertices to their numbers, for tables in memory.

    Raises
    ------
    InputError
        Shapes, lengths or columns don't fit.
    """
    links, attributes = as_table(links), as_table(attributes)
    if is_frame(links) and not (is_frame(attributes) or isinstance(attributes, Mapping)):
        return _from_frame(links, attributes, what, renumber)
    if is_frame(links):
        links = _ends_of(links, _end_columns(links, what), what)
    if is_frame(attributes):
        attributes = frame_arrays(attributes, {c: c for c in attributes.columns})
    if attributes is not None and not isinstance(attributes, Mapping):
        raise InputError(f"{what}_attributes are a mapping of name to array where {what}s are an array")
    named = {check_attribute_name(k, ()): v for k, v in (attributes or {}).items()}
    table = as_array(f"{what}s", links)
    columns = {k: as_array(f"{what} attribute {k!r}", v) for k, v in named.items()}
    attrs = {k: attrs_of(f"{what} attribute {k!r}", v) for k, v in named.items()}
    if is_dask_collection(table):
        return replace(_from_dask(table, columns, what), attrs=attrs)
    lazy = [k for k, v in columns.items() if is_dask_collection(v)]
    if lazy:
        raise InputError(f"{what} attribute {lazy[0]!r} is lazy and {what}s are not: compute it first")
    if table.size == 0 and table.ndim == 1:
        table = np.zeros((0, 2 if what == "edge" else 3), np.int64)
    return replace(_from_memory(table, columns, what, renumber), attrs=attrs)


def _from_memory(
    table: NDArray[Any], columns: dict[str, NDArray[Any]], what: str, renumber: Callable[[NDArray[Any]], NDArray[Any]] | None
) -> LinkInput:
    width = _check_table(table, what)
    schemas = tuple(_schema(name, values, what) for name, values in columns.items())
    for name, values in columns.items():
        if len(values) != len(table):
            raise InputError(f"{what} attribute {name!r} has {len(values):,} rows for {len(table):,} {what}s")
    table = as_integers(f"{what}s", table)
    if renumber is not None:
        table = renumber(table)
    row_bytes = 8 * width + sum(s.row_bytes for s in schemas) + 8
    step = max(1, settings().partition_bytes // row_bytes)
    slices = [slice(i, i + step) for i in range(0, len(table), step)] or [slice(0, 0)]
    held = hold_on_workers([RawLinks(table[s], {k: v[s] for k, v in columns.items()}) for s in slices])
    return LinkInput(lambda builder: [builder.payload(h) for h in held], width, schemas, what)


def _check_table(table: Any, what: str) -> int:
    wanted = "2" if what == "edge" else "k"
    if table.ndim != 2 or (what == "edge" and table.shape[1] != 2):
        raise InputError(f"{what}s must have the shape ({what[0].upper()}, {wanted}), not {table.shape}")
    width = int(table.shape[1])
    if what == "face" and not 3 <= width <= MAX_WIDTH:
        raise InputError(f"faces have 3 to {MAX_WIDTH} vertices each, not {width}")
    if table.dtype.kind not in "iu" and table.size:
        raise InputError(f"{what}s are integers, numbers of vertices, not {table.dtype}")
    return width


def _schema(name: str, values: Any, what: str) -> AttributeSchema:
    if values.dtype.kind not in KINDS or values.ndim not in (1, 2) or (values.ndim == 2 and not values.shape[1] >= 1):
        raise InputError(
            f"{what} attribute {name!r} ({values.dtype} {values.shape}): numbers, booleans or dates, one or C for each {what}; "
            "number strings with numpy.unique(..., return_inverse=True)"
        )
    if values.dtype.kind in "mM" and np.datetime_data(values.dtype)[0] == "generic":
        raise InputError(f"{what} attribute {name!r} has the dtype {values.dtype} without a unit")
    return AttributeSchema(name, values.dtype.newbyteorder("<"), int(values.shape[1]) if values.ndim == 2 else None)


def _from_dask(links: Any, named: dict[str, Any], what: str) -> LinkInput:
    table = links.rechunk({1: -1}) if links.ndim == 2 and len(links.chunks[1]) > 1 else links
    width = _check_table(table, what)
    columns = {name: _aligned(name, values, table.chunks[0], what) for name, values in named.items()}
    schemas = tuple(_schema(name, values, what) for name, values in columns.items())

    def arguments(builder: GraphBuilder) -> list[Any]:
        blocks = [[builder.absorb(d, inline=True) for d in block_delayeds(a)] for a in (table, *columns.values())]
        parts = enumerate(zip(*blocks, strict=True))
        return [Task(None, _load_arrays, i, what, tuple(columns), List(*part)) for i, part in parts]

    return LinkInput(arguments, width, schemas, what)


def _aligned(name: str, values: Any, lengths: Sequence[float], what: str) -> Any:
    """Return an attribute cut like the table of links."""
    import dask.array as da

    known = not any(np.isnan(c) for c in lengths)
    if not is_dask_collection(values):
        if not known:
            raise InputError(
                f"{what} attribute {name!r} is in memory and the {what}s' partitions have unknown lengths: call "
                "compute_chunk_sizes()"
            )
        values = da.from_array(values, chunks=(-1,) * values.ndim)
    _schema(name, values, what)
    if values.ndim == 2 and len(values.chunks[1]) > 1:
        values = values.rechunk({1: -1})
    mine = values.chunks[0]
    if known and not any(np.isnan(c) for c in mine):
        if sum(mine) != sum(lengths):
            raise InputError(f"{what} attribute {name!r} has {int(sum(mine)):,} rows for {int(sum(lengths)):,} {what}s")
        return values if tuple(mine) == tuple(lengths) else values.rechunk({0: tuple(lengths)})
    if len(mine) != len(lengths):
        raise InputError(
            f"{what} attribute {name!r} has {len(mine)} partitions, the {what}s have {len(lengths)}, and lengths are unknown: "
            "make them agree, or call compute_chunk_sizes()"
        )
    return values


def _load_arrays(number: int, what: str, names: Sequence[str], parts: Sequence[Any]) -> RawLinks:
    where = f"{what}s, part {number}"
    table = as_integers(where, in_memory(where, parts[0]))
    values = [in_memory(f"{where}: attribute {n!r}", p) for n, p in zip(names, parts[1:], strict=True)]
    return RawLinks(table, dict(zip(names, values, strict=True)))


def _end_columns(frame: Any, what: str) -> tuple[str, ...]:
    """Return the columns of a frame that name vertices."""
    columns = [c for c in frame.columns if isinstance(c, str)]
    ends = EDGE_COLUMNS if what == "edge" else tuple(f"v{i}" for i in range(MAX_WIDTH) if f"v{i}" in columns)
    missing = [c for c in ends if c not in columns]
    if missing or len(ends) < 2 or ends != (EDGE_COLUMNS if what == "edge" else tuple(f"v{i}" for i in range(len(ends)))):
        wanted = "source and target" if what == "edge" else "v0, v1, v2, …"
        raise InputError(f"a DataFrame of {what}s has the columns {wanted}; these are {', '.join(columns)}")
    return ends


def _ends_of(frame: Any, ends: Sequence[str], what: str) -> Any:
    """Return the table of links in a frame; columns of several integer dtypes are never brought together as floats."""
    columns = frame_arrays(frame, {c: c for c in ends})
    if not is_dask_collection(frame):
        columns = {c: as_integers(f"{what}s, column {c!r}", as_array(f"{what}s, column {c!r}", v)) for c, v in columns.items()}
    return stacked(columns)


def _from_frame(frame: Any, attributes: Any, what: str, renumber: Callable[[NDArray[Any]], NDArray[Any]] | None) -> LinkInput:
    ends = _end_columns(frame, what)
    columns = [c for c in frame.columns if isinstance(c, str)]
    if attributes is None:
        names = [c for c in columns if c not in ends]
    elif isinstance(attributes, str):
        raise InputError(f"{what}_attributes is a list of column names where {what}s are a DataFrame")
    else:
        names = list(dict.fromkeys(str(n) for n in attributes))
    unknown = [n for n in names if n not in columns]
    if unknown:
        raise InputError(f"unknown column {unknown[0]!r}: the columns are {', '.join(columns)}")
    for name in names:
        check_attribute_name(name, ())
    if not is_dask_collection(frame):
        table = _ends_of(frame, ends, what)
        return _from_memory(table, {n: as_array(f"{what} attribute {n!r}", frame[n]) for n in names}, what, renumber)
    for column in ends:
        if numeric_dtype(frame.dtypes[column]).kind not in "iu":
            raise InputError(f"{what}s are integers, numbers of vertices, not {frame.dtypes[column]} (column {column!r})")
    width = _check_table(np.zeros((0, len(ends)), np.int64), what)
    schemas = tuple(_schema(n, np.zeros(0, numeric_dtype(frame.dtypes[n])), what) for n in names)
    delayed = frame.to_delayed()

    def arguments(builder: GraphBuilder) -> list[Any]:
        return [Task(None, _load_frame, i, what, builder.absorb(d, inline=True), ends, names) for i, d in enumerate(delayed)]

    return LinkInput(arguments, width, schemas, what)


def _load_frame(number: int, what: str, frame: Any, ends: Sequence[str], names: Sequence[str]) -> RawLinks:
    where = f"{what}s, part {number}"
    try:
        table = np.stack([as_integers(c, series_values(c, column_of(frame, c, ""))) for c in ends], axis=1)
        return RawLinks(table, {n: series_values(n, column_of(frame, n, "")) for n in names})
    except InputError as error:
        raise InputError(f"{where}: {error.message}") from None


def scan_links(links: LinkInput, vertices: int | None) -> tuple[list[LinkScan], LinkInput]:
    """Look at all parts on the active scheduler; return what was found in each, and the input, of parts that were kept if any.

    Parameters
    ----------
    links : LinkInput
    vertices : int, optional
        How many there are, where links name them by number.

    Raises
    ------
    InputError
        A link names a vertex that isn't there; the message names the part and the row.
    """
    look = partial(scan_part, links.what, links.width, links.attributes, vertices)
    found, arguments, _ = look_once(links.arguments, look, _all_of)
    return found, replace(links, arguments=arguments)


def _all_of(scans: Sequence[list[LinkScan]]) -> list[LinkScan]:
    return [scan for some in scans for scan in some]


def scan_part(
    what: str, width: int, schemas: Sequence[AttributeSchema], vertices: int | None, number: int, part: RawLinks
) -> list[LinkScan]:
    """Look at one part."""
    table = part.endpoints
    where = f"{what}s, part {number}: "
    if table.ndim != 2 or table.shape[1] != width or table.dtype.kind not in "iu":
        raise InputError(f"{where}{table.dtype} {table.shape}, declared as integers (m, {width})")
    if table.size:
        low, high = int(table.min()), int(table.max())
        last = 2**63 - 1 if vertices is None else vertices - 1
        if low < 0 or high > last:
            row = int(np.flatnonzero(((table < 0) | (table > last)).any(axis=1))[0])
            known = "ids of vertices are not negative" if vertices is None else f"there are {vertices:,} vertices, 0 to {last}"
            raise InputError(f"{where}{what} {row} is {table[row].tolist()}: {known}")
    for schema in schemas:
        values = part.attributes[schema.name]
        if len(values) != len(table):
            raise InputError(f"{where}attribute {schema.name!r} has {len(values):,} rows for {len(table):,} {what}s")
        shape = (len(table),) if schema.channels is None else (len(table), schema.channels)
        if values.shape != shape or not fits(values, schema.dtype):
            raise InputError(
                f"{where}attribute {schema.name!r} is {values.dtype} {values.shape}, declared as {schema.dtype} {shape}, which "
                "does not hold it: give the lazy array the dtype that it has, with astype or meta="
            )
    return [LinkScan(len(table), compact_spans(_distinct(table)), _digest(part))]


def _digest(part: RawLinks) -> int:
    """Return a checksum of a part's content."""
    return columns_crc32c([("", part.endpoints), *sorted(part.attributes.items())])


def _distinct(table: NDArray[Any]) -> NDArray[np.int64]:
    """Return the distinct numbers in a table, ascending."""
    if not table.size:
        return np.zeros(0, np.int64)
    low, high = int(table.min()), int(table.max())
    if high - low > 8 * table.size:
        return np.unique(table).astype(np.int64)
    seen = np.zeros(high - low + 1, bool)  # several times faster than a sort, where numbers are dense
    seen[(table - low).reshape(-1)] = True
    return np.flatnonzero(seen) + low


def link_parts(links: LinkInput, scans: Sequence[LinkScan], builder: GraphBuilder) -> list[Any]:
    """Return a task argument per part that evaluates to :class:`LinkRows`."""
    starts = np.cumsum([0, *(s.rows for s in scans)]).tolist()
    seen = [Seen(s.rows, s.digest) for s in scans]
    parts = zip(starts[:-1], seen, links.arguments(builder), strict=True)
    return [
        Task(None, _convert, links.attributes, f"partition {i} of the {links.what}s", start, before, argument)
        for i, (start, before, argument) in enumerate(parts)
    ]


def _convert(schemas: Sequence[AttributeSchema], where: str, start: int, before: Seen, part: RawLinks) -> LinkRows:
    """Return the links of a part, once they are found to be those that the scan saw."""
    part = RawLinks(owned({"": part.endpoints})[""], owned(part.attributes))
    check_same(where, before, Seen(len(part.endpoints), _digest(part)))
    values = {s.name: s.encode(part.attributes[s.name]) for s in schemas}
    return LinkRows(part.endpoints.astype(np.int64, copy=False), np.arange(start, start + len(part.endpoints)), values)
